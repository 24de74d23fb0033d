//! The keys of one issuer over time: from a file once, or fetched again and again from the issuer itself (R24).
//!
//! Workers read the current set without a lock. One task on the control thread fetches: every five minutes, sooner if
//! the answer's `Cache-Control` says so, later and later while it fails, and at once when a token names a key that
//! nobody knows, as often as [`BURST`] and [`REFILL`] allow, so that made-up names cannot wear the issuer down. What
//! was fetched last and was good counts through outages and nonsense. Before anything was fetched the issuer's tokens
//! are neither good nor bad. A key that leaves the set ends what was verified with it at once; a key that stays keeps
//! it.
//!
//! OpenID Connect Discovery 1.0 section 4, RFC 8414 (metadata), RFC 7517 section 5 (key sets), RFC 9111 section 5.2.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH},
};
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::{
    awaited::Awaited,
    json,
    keys::{Algorithm, KeyError, KeySet},
};
use crate::{
    clock::{Clock, Timestamp},
    fetch::{self, FetchError, Request, Url},
    secret,
};

/// Holds an issuer's current keys. Outlives a reload that leaves their source as it is.
pub struct KeySlot {
    current: ArcSwap<KeySet>,
    /// `None`: the keys are those of the configuration.
    fetched: Option<Fetched>,
}

/// Where keys are fetched from, and how. Two slots of equal sources hold the same keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Where they are.
    pub place: Place,
    /// With which algorithms they may be used.
    pub algorithms: Box<[Algorithm]>,
    /// Who is believed, and which way it goes.
    pub client: fetch::Client,
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// `jwks = "discover"`: where the metadata of this issuer says. The text is the exact `iss`.
    Discovered(Box<str>, Url),
    /// `jwks = { url = "…" }`.
    At(Url),
}

/// What is told of fetched keys in metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FetchStatistics {
    /// Since the keys were last known to be the issuer's present ones; `None`: they never were.
    pub age: Option<Duration>,
    /// Fetches that brought keys, or that they are unchanged.
    pub fetches: u64,
    /// Fetches that brought nothing usable.
    pub failures: u64,
    /// Keys now.
    pub keys: usize,
}

struct Fetched {
    source: Source,
    /// Taken by the task that fetches and by requests whose key is unknown, for a few comparisons; never on the way
    /// of a known token.
    state: Mutex<State>,
    /// Wakes the task before its time.
    wake: Arc<Notify>,
    /// Counts fetches that ended.
    ended: watch::Sender<u64>,
    driven: AtomicBool,
    fetches: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// When to fetch next.
    due: Timestamp,
    /// Whether a fetch is under way, or about to begin.
    under_way: bool,
    /// Fetches on demand that may be begun now.
    allowed: u32,
    /// When `allowed` was last raised.
    refilled: Timestamp,
    /// Failures in a row.
    failed: u32,
    /// When the keys were last known to be the present ones.
    fetched_at: Option<Timestamp>,
    /// The `ETag` of the set that is held, and where it came from.
    validator: Option<(Url, HeaderValue)>,
}

/// What a fetch brought.
enum Brought {
    Keys { set: KeySet, validator: Option<(Url, HeaderValue)>, fresh_for: Duration },
    Unchanged { fresh_for: Duration },
}

/// Why a fetch brought nothing. For logs.
#[derive(Debug)]
enum Failure {
    Fetch(&'static str, FetchError),
    Status(&'static str, StatusCode),
    Metadata(&'static str),
    Keys(KeyError),
    Unasked,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch(what, why) => write!(f, "{what}: {why}"),
            Self::Status(what, status) => write!(f, "{what}: it answers {}", status.as_u16()),
            Self::Metadata(why) => write!(f, "metadata: {why}"),
            Self::Keys(why) => write!(f, "key set: {why}"),
            Self::Unasked => f.write_str("key set: it answers 304, though nothing was known to it"),
        }
    }
}

impl fmt::Debug for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySlot")
            .field("keys", &**self.current.load())
            .field("source", &self.source())
            .finish_non_exhaustive()
    }
}

impl KeySlot {
    /// Keys that stay.
    pub fn fixed(keys: KeySet) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::from_pointee(keys), fetched: None })
    }

    /// Keys that are to be fetched; there are none yet. Somebody has to [`drive`] it.
    ///
    /// # Errors
    /// When the algorithms are none that fetched keys can serve.
    pub fn fetched(source: Source) -> Result<Arc<Self>, KeyError> {
        let state = State {
            due: Timestamp::default(),
            under_way: true,
            allowed: BURST,
            refilled: Timestamp::default(),
            failed: 0,
            fetched_at: None,
            validator: None,
        };
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(KeySet::pending(&source.algorithms)?),
            fetched: Some(Fetched {
                source,
                state: Mutex::new(state),
                wake: Arc::default(),
                ended: watch::Sender::new(0),
                driven: AtomicBool::new(false),
                fetches: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            }),
        }))
    }

    /// Keys of our own, which somebody will [`Self::publish`] here; there are none yet.
    ///
    /// # Errors
    /// Never: what we sign with can be verified.
    pub fn own() -> Result<Arc<Self>, KeyError> {
        KeySet::pending(&OWN_ALGORITHMS).map(Self::fixed)
    }

    /// Takes over a JWK set of our own. A key that stays keeps what was verified with it.
    ///
    /// # Errors
    /// When it is no good set: the one before stays.
    pub fn publish(&self, jwks: &[u8], issuer: &str) -> Result<(), KeyError> {
        self.replace(KeySet::from_jwk_set(jwks, &OWN_ALGORITHMS)?, issuer);
        Ok(())
    }

    /// Lets go of all keys, so that none of them counts as the same when it comes again.
    pub fn forget(&self) {
        if let Ok(none) = KeySet::pending(&OWN_ALGORITHMS) {
            self.current.swap(Arc::new(none)).retire_for(None);
        }
    }

    /// What serves in its place where an `earlier` slot is there: that one, if it fetches from an equal source or holds
    /// the same keys; a slot with such keys from there as are the same; `None`: nothing better.
    pub(super) fn with_keys_of(&self, earlier: &Arc<Self>) -> Option<Arc<Self>> {
        match (self.source(), earlier.source()) {
            (Some(source), Some(others)) => (source == others).then(|| Arc::clone(earlier)),
            (None, None) => Some(match self.current.load().adopting(&earlier.current.load()) {
                Some(mixed) => Self::fixed(mixed),
                None => Arc::clone(earlier),
            }),
            (Some(_), None) | (None, Some(_)) => None,
        }
    }

    /// Whether its keys come from the same source as those of another slot, or are the same.
    pub fn holds_the_same(&self, other: &Arc<Self>) -> bool {
        self.with_keys_of(other).is_some_and(|kept| Arc::ptr_eq(&kept, other))
    }

    /// Where its keys are fetched from; `None`: nowhere.
    pub fn source(&self) -> Option<&Source> {
        self.fetched.as_ref().map(|fetched| &fetched.source)
    }

    /// The keys that count now.
    pub(super) fn current(&self) -> Guard<Arc<KeySet>> {
        self.current.load()
    }

    /// For a token whose key nobody knows: whether it is worth waiting for a fetch, which is begun if none is under
    /// way and the bounds allow it.
    pub(super) fn ask_for_more(&self, now: Timestamp) -> Option<Awaited> {
        let fetched = self.fetched.as_ref()?;
        // Before the look at `under_way`: a fetch that ends in between is not missed.
        let awaited = Awaited::new(fetched.ended.subscribe());
        let mut state = fetched.state();
        if !state.under_way {
            if !state.take(now) {
                return None;
            }
            state.under_way = true;
            fetched.wake.notify_one();
        }
        Some(awaited)
    }

    /// For a token of an issuer without keys: whether the first fetch is still under way. Once it has failed nobody
    /// waits; the task tries again by itself.
    pub(super) fn first_fetch(&self) -> Option<Awaited> {
        let fetched = self.fetched.as_ref()?;
        let awaited = Awaited::new(fetched.ended.subscribe());
        let first = fetched.state().failed == 0;
        first.then_some(awaited)
    }

    /// What metrics tell; `None` if nothing is fetched.
    pub fn statistics(&self, now: Timestamp) -> Option<FetchStatistics> {
        let fetched = self.fetched.as_ref()?;
        Some(FetchStatistics {
            age: fetched.state().fetched_at.map(|at| now.since(at)),
            fetches: fetched.fetches.load(Relaxed),
            failures: fetched.failures.load(Relaxed),
            keys: self.current.load().len(),
        })
    }

    fn replace(&self, set: KeySet, issuer: &str) {
        let earlier = self.current.load_full();
        let Some(set) = set.adopting(&earlier) else { return };
        let set = Arc::new(set);
        self.current.store(Arc::clone(&set));
        // After the swap: whoever verifies with the old set meanwhile makes a token that is ended by this.
        let gone = earlier.retire_for(Some(&set));
        if !earlier.is_empty() {
            tracing::info!(issuer, keys = set.len(), gone, "the keys of an issuer have changed");
        }
    }

    async fn fetch(&self, fetched: &Fetched, issuer: &str, clock: &Clock) {
        let validator = fetched.state().validator.clone().filter(|_| !self.current.load().is_empty());
        let brought = fetched.source.fetch(validator).await;
        let now = clock.now();
        let fresh_for = match brought {
            Ok(Brought::Keys { set, validator, fresh_for }) => {
                self.replace(set, issuer);
                fetched.state().validator = validator;
                Ok(fresh_for)
            }
            Ok(Brought::Unchanged { fresh_for }) => Ok(fresh_for),
            Err(failure) => Err(failure),
        };
        let mut state = fetched.state();
        state.under_way = false;
        match fresh_for {
            Ok(fresh_for) => {
                fetched.fetches.fetch_add(1, Relaxed);
                state.failed = 0;
                state.fetched_at = Some(now);
                state.due = now.plus(earlier_by_chance(fresh_for));
            }
            Err(failure) => {
                fetched.failures.fetch_add(1, Relaxed);
                let wait = RETRY_FIRST.saturating_mul(1 << state.failed.min(16)).min(RETRY_LAST);
                state.failed = state.failed.saturating_add(1);
                state.due = now.plus(earlier_by_chance(wait));
                let known = self.current.load().len();
                tracing::warn!(issuer, known, why = %failure, "the keys of an issuer cannot be fetched");
            }
        }
        drop(state);
        fetched.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
    }
}

/// Fetches the keys of a slot whenever it is time, until nobody holds the slot any more; `None` if there is nothing to
/// fetch or somebody does so already. For the control thread.
pub fn drive(slot: &Arc<KeySlot>, issuer: Arc<str>, clock: Clock) -> Option<impl Future<Output = ()> + 'static> {
    let fetched = slot.fetched.as_ref()?;
    if fetched.driven.swap(true, Relaxed) {
        return None;
    }
    let (slot, wake) = (Arc::downgrade(slot), Arc::clone(&fetched.wake));
    Some(async move {
        while let Some(slot) = slot.upgrade() {
            let Some(fetched) = &slot.fetched else { return };
            let due = {
                let mut state = fetched.state();
                let now = clock.now();
                // Due long from now: the clock was set back.
                state.under_way |= state.due <= now || state.due > now.plus(INTERVAL);
                state.under_way
            };
            if due {
                slot.fetch(fetched, &issuer, &clock).await;
                continue;
            }
            drop(slot);
            // Wall time may jump, and tests move it: it is looked at often instead of slept through.
            let _ = tokio::time::timeout(LOOK_EVERY, wake.notified()).await;
        }
    })
}

impl Fetched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes one of the fetches on demand, if one is left.
    fn take(&mut self, now: Timestamp) -> bool {
        let earned = now.since(self.refilled).as_secs() / REFILL.as_secs();
        if earned > 0 {
            self.allowed = self.allowed.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(BURST);
            self.refilled = now;
        }
        let left = self.allowed.checked_sub(1);
        self.allowed = left.unwrap_or(0);
        left.is_some()
    }
}

impl Source {
    async fn fetch(&self, validator: Option<(Url, HeaderValue)>) -> Result<Brought, Failure> {
        let url = match &self.place {
            Place::At(url) => url.clone(),
            Place::Discovered(issuer, url) => self.discover(issuer, url).await?,
        };
        let mut request = json_request();
        let validator = validator.filter(|(at, _)| *at == url);
        if let Some((_, tag)) = &validator {
            request.headers.insert(IF_NONE_MATCH, tag.clone());
        }
        let answer = self.client.send(&url, request).await.map_err(|why| Failure::Fetch("key set", why))?;
        let fresh_for = fresh_for(&answer.headers);
        match answer.status {
            StatusCode::OK => {
                let set = KeySet::from_jwk_set(&answer.body, &self.algorithms).map_err(Failure::Keys)?;
                let validator = answer.headers.get(ETAG).map(|tag| (url, tag.clone()));
                Ok(Brought::Keys { set, validator, fresh_for })
            }
            StatusCode::NOT_MODIFIED if validator.is_some() => Ok(Brought::Unchanged { fresh_for }),
            StatusCode::NOT_MODIFIED => Err(Failure::Unasked),
            status => Err(Failure::Status("key set", status)),
        }
    }

    /// `jwks_uri` of the issuer's metadata. OpenID's place first; RFC 8414's if there is nothing.
    async fn discover(&self, issuer: &str, base: &Url) -> Result<Url, Failure> {
        let path = base.path().trim_end_matches('/');
        let places = [
            format!("{path}/.well-known/openid-configuration"),
            format!("/.well-known/oauth-authorization-server{path}"),
        ];
        let mut failure = Failure::Metadata("no place for it");
        for place in places {
            let url = base.with_path(&place).map_err(|_| Failure::Metadata("no place for it"))?;
            let answer = self.client.send(&url, json_request()).await.map_err(|why| Failure::Fetch("metadata", why))?;
            if answer.status == StatusCode::OK {
                return jwks_uri(&answer.body, issuer, base);
            }
            failure = Failure::Status("metadata", answer.status);
            if answer.status != StatusCode::NOT_FOUND {
                break;
            }
        }
        Err(failure)
    }
}

/// Reads metadata: it must be this issuer's, and its keys no less well guarded than itself.
fn jwks_uri(metadata: &[u8], issuer: &str, base: &Url) -> Result<Url, Failure> {
    let metadata = json::object(metadata).map_err(|_| Failure::Metadata("not an object in strict JSON"))?;
    if metadata.get("issuer").and_then(Value::as_str) != Some(issuer) {
        return Err(Failure::Metadata("its `issuer` is not the configured one, byte for byte"));
    }
    let uri = metadata.get("jwks_uri").and_then(Value::as_str).ok_or(Failure::Metadata("no `jwks_uri`"))?;
    let uri: Url = uri.parse().map_err(|_| Failure::Metadata("its `jwks_uri` is no https URL"))?;
    if base.is_secure() && !uri.is_secure() {
        return Err(Failure::Metadata("its `jwks_uri` is no https URL"));
    }
    Ok(uri)
}

fn json_request() -> Request {
    let mut request = Request::get();
    request.headers.insert(ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json;q=0.9"));
    request
}

/// How long an answer may be used: what `max-age` says, within our bounds.
fn fresh_for(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let age = directives.flat_map(|value| value.split(',')).find_map(|directive| {
        let (name, value) = directive.trim().split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok()).flatten()
    });
    age.map_or(INTERVAL, Duration::from_secs).clamp(SHORTEST, INTERVAL)
}

/// Up to a tenth sooner, so that many gateways do not ask in the same moment.
fn earlier_by_chance(wait: Duration) -> Duration {
    let [chance] = secret::random::<1>();
    wait - wait / 10 * u32::from(chance) / 255
}

/// Between fetches, if nothing asks for one sooner.
const INTERVAL: Duration = Duration::from_secs(5 * 60);

/// A `max-age` below this is taken for it.
const SHORTEST: Duration = Duration::from_secs(30);

/// After a failure, doubled with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);

/// With which our own tokens are signed.
const OWN_ALGORITHMS: [Algorithm; 2] = [Algorithm::EdDSA, Algorithm::ES256];

/// Fetches on demand: this many at once, and one more each time that [`REFILL`] has passed.
const BURST: u32 = 3;
const REFILL: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_fresh_for_as_long_as_it_says_within_bounds() {
        for (value, seconds) in [
            ("", 300),
            ("no-store", 300),
            ("max-age=60", 60),
            ("public, Max-Age=\"120\", must-revalidate", 120),
            ("max-age=0", 30),
            ("max-age=86400", 300),
            ("max-age=-1", 300),
            ("max-age=99999999999999999999999", 300),
            ("s-maxage=60", 300),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
            assert_eq!(fresh_for(&headers), Duration::from_secs(seconds), "{value:?}");
        }
    }

    #[test]
    fn fetches_on_demand_are_few_and_come_back_with_time() {
        let start = Timestamp::from_unix_seconds(1_800_000_000);
        let mut state = State {
            due: start,
            under_way: false,
            allowed: BURST,
            refilled: start,
            failed: 0,
            fetched_at: None,
            validator: None,
        };
        let mut taken =
            |seconds, asked| (0..asked).filter(|_| state.take(start.plus(Duration::from_secs(seconds)))).count();

        assert_eq!(taken(0, 1000), 3);
        assert_eq!(taken(9, 1000), 0);
        assert_eq!(taken(10, 1000), 1);
        assert_eq!(taken(19, 1000), 0);
        assert_eq!(taken(20, 1000), 1);
        assert_eq!(taken(86_400, 1000), 3);
    }

    #[test]
    fn metadata_counts_only_if_it_is_the_issuers_own() {
        let base: Url = "https://id.example/realms/main".parse().unwrap();
        let issuer = "https://id.example/realms/main";
        let read = |json: &str| jwks_uri(json.as_bytes(), issuer, &base).map_err(|failure| failure.to_string());

        let good = format!(r#"{{"issuer":"{issuer}","jwks_uri":"https://keys.example/k"}}"#);
        assert_eq!(read(&good).unwrap().to_string(), "https://keys.example/k");
        for bad in [
            r#"{"issuer":"https://id.example/realms/main/","jwks_uri":"https://keys.example/k"}"#,
            r#"{"issuer":"https://other.example","jwks_uri":"https://keys.example/k"}"#,
            r#"{"jwks_uri":"https://keys.example/k"}"#,
            r#"{"issuer":"https://id.example/realms/main"}"#,
            r#"{"issuer":"https://id.example/realms/main","jwks_uri":"http://keys.example/k"}"#,
            r#"{"issuer":"https://id.example/realms/main","jwks_uri":"http://127.0.0.1/k"}"#,
            r#"{"issuer":"https://id.example/realms/main","jwks_uri":"file:///etc/passwd"}"#,
            r#"{"issuer":"https://id.example/realms/main","jwks_uri":"https://a/","jwks_uri":"https://b/"}"#,
            "<html></html>",
            "[]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
