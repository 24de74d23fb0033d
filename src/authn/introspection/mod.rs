//! Opaque tokens: what their issuer says of them at its introspection endpoint (RFC 7662).
//!
//! In: a bearer token that is no JWS, and the issuer of the route that has such an endpoint. Out: the same
//! [`VerifiedToken`] that a JWT makes, with the same rules for `iss`, `aud`, `exp`, grants and revocation. What was
//! said is remembered for a short time (`memory`), so a request that brings a known token asks nobody.
//!
//! One task on the control thread asks, a bounded number of questions at once; requests wait for it as they wait for
//! keys. Invariants: a token is asked about once at a time, whichever workers want to know; who makes us ask is bounded
//! by address (`rate`); where the endpoint is away, answers nonsense or is slow, the token is neither good nor bad
//! (R3), and after a few failures in a row one question at a time finds out whether it is back. What a token has opened
//! and outlives that memory, such as a tunnel, is asked about again for as long as it lives.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ahash::RandomState;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Map, Value};
use tokio::sync::{Notify, Semaphore, watch};
use zeroize::Zeroizing;

use super::{
    Answer,
    awaited::Awaited,
    jwt::{Issuer, JwtError, VerifiedToken},
    proof::Standing,
};
use crate::{
    api_key,
    clock::{Clock, Timestamp},
    fetch::{self, FetchError, Request, Url},
    policy::AccessRule,
    refresh,
    secret::{Secret, constant_time_eq},
};

mod answer;
mod memory;
mod rate;

pub use answer::{Nonsense, Said, read, read_body};
use memory::{Known, Memory};
use rate::Rates;

/// Bytes of the longest token that is asked about.
pub const MAX_TOKEN_BYTES: usize = 4 * 1024;

/// Where an issuer says what its tokens are, and how it is asked. Endpoints of equal sources are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Where.
    pub url: Url,
    /// Whom we believe, and which way it goes.
    pub client: fetch::Client,
    /// Who we are.
    pub credentials: Credentials,
    /// For one question, from the look-up of the name to the last byte.
    pub timeout: Duration,
    /// How long an answer counts, at most.
    pub remember: Duration,
    /// Questions that one client address may cause in a minute.
    pub rate: u32,
}

/// Client authentication at the endpoint (RFC 6749 section 2.3.1).
#[derive(Clone)]
pub struct Credentials {
    id: Box<str>,
    secret: Secret<Vec<u8>>,
    method: ClientAuth,
}

/// How the client says who it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ClientAuth {
    /// In `Authorization: Basic`.
    #[default]
    Basic,
    /// In the form.
    Post,
}

/// An introspection endpoint, with what it said. Outlives a reload that leaves its source as it is.
pub struct Endpoint {
    source: Source,
    memory: Memory,
    /// Taken by requests whose token is not known, and by the task that asks; never on the way of a known token.
    state: Mutex<State>,
    wake: Arc<Notify>,
    driven: AtomicBool,
    counts: Counts,
}

/// Counts since the start, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// The token was active and good.
    pub good: AtomicU64,
    /// It was not.
    pub void: AtomicU64,
    /// There was no answer, or none from which anything follows.
    pub failed: AtomicU64,
    /// Questions that were not asked: too many by one address, or at once, or of an endpoint that is away.
    pub withheld: AtomicU64,
}

#[derive(Default)]
struct State {
    /// What is being asked. Requests wait for the sender to go.
    flights: HashMap<Arc<[u8]>, watch::Sender<u64>, RandomState>,
    queue: VecDeque<Arc<[u8]>>,
    rates: Rates,
    /// Failures to reach it, in a row.
    failed: u32,
    /// After so many, it is left alone until then.
    rests_until: Timestamp,
}

/// What a token keeps that was asked about, to be asked about again.
#[derive(Debug)]
pub(super) struct Origin {
    endpoint: Weak<Endpoint>,
    token: Zeroizing<Vec<u8>>,
    /// When it was last said to be active, in milliseconds.
    confirmed: AtomicU64,
}

/// Whether a bearer token is none that is read here: no JWS in compact form, which has two dots, and no API key or
/// refresh token of ours: nobody else is to see one.
pub fn is_opaque(token: &[u8]) -> bool {
    let is_ours = [api_key::PREFIX, refresh::PREFIX].iter().any(|prefix| token.starts_with(prefix.as_bytes()));
    memchr::memchr_iter(b'.', token).count() != 2 && !is_ours
}

/// The issuer of a route that is asked about opaque tokens; `None`: they are none of the route's.
pub fn of_route<'a>(issuers: &'a [Issuer], rule: &AccessRule) -> Option<(&'a Issuer, &'a Arc<Endpoint>)> {
    let accepted = rule.issuers.iter().filter_map(|&index| issuers.get(index));
    accepted.into_iter().find_map(|issuer| Some((issuer, issuer.introspection.as_ref()?)))
}

/// Judges an opaque token that came from this address. A known one costs one look-up; its times are judged again.
///
/// Never [`Answer::Absent`]. Binding, revocation and requirements are for the caller to check. A caller that has
/// `waited` is not told to wait again.
pub fn authenticate(
    token: &[u8],
    (issuer, endpoint): (&Issuer, &Arc<Endpoint>),
    address: IpAddr,
    now: Timestamp,
    waited: bool,
) -> Answer<Arc<VerifiedToken>> {
    if token.len() > MAX_TOKEN_BYTES {
        return Answer::Invalid(JwtError::TooLong.into());
    }
    if !is_b64token(token) {
        return Answer::Invalid(JwtError::Encoding.into());
    }
    let fits = |known: &Known| {
        let same = |verified: &Arc<VerifiedToken>| verified.generation() == issuer.generation;
        now < known.until && known.verdict.as_ref().map_or(true, same)
    };
    let Some(known) = endpoint.memory.find(token).filter(fits) else {
        let awaited = if waited { None } else { endpoint.ask(token, Some(address), now, fits) };
        return Answer::Unavailable(awaited);
    };
    match known.verdict.and_then(|verified| verified.check_time(now).map(|()| verified)) {
        Ok(verified) => Answer::Valid(verified),
        Err(error) => Answer::Invalid(error.into()),
    }
}

/// What has become of a token that opened something. Asks again in the background when what was said is too old.
pub(super) fn standing(token: &VerifiedToken, now: Timestamp) -> Standing {
    let Some(origin) = token.origin() else { return Standing::Holds };
    // Its issuer is gone, or says it elsewhere.
    let Some(endpoint) = origin.endpoint.upgrade() else { return Standing::Revoked };
    let mut confirmed = Timestamp::from_unix_millis(origin.confirmed.load(Relaxed));
    if let Some(known) = endpoint.memory.find(&origin.token).filter(|known| known.said >= confirmed) {
        match known.verdict {
            // With other roles it would not have been let in as it was.
            Ok(now_is) if now_is.identity().stands_for_the_same(token.identity()) => {
                confirmed = known.said;
                origin.confirmed.store(confirmed.unix_millis(), Relaxed);
            }
            Ok(_) | Err(_) => return Standing::Revoked,
        }
    }
    let remember = endpoint.source.remember;
    if now < confirmed.plus(remember) {
        return Standing::Holds;
    }
    // Whether or not it is asked: what comes of it is seen the next time.
    drop(endpoint.ask(&origin.token, None, now, |_| false));
    if now < confirmed.plus(remember).plus(GRACE) { Standing::Holds } else { Standing::Expired }
}

/// Asks the endpoint whenever somebody wants to know, until nobody holds it any more; `None` if somebody does so
/// already. `judge` makes of an active token's members what follows from them; `None`: its issuer is gone. For the
/// control thread.
pub fn drive<J>(endpoint: &Arc<Endpoint>, clock: Clock, judge: J) -> Option<impl Future<Output = ()> + 'static>
where
    J: Fn(Active<'_>) -> Option<Result<VerifiedToken, JwtError>> + Clone + 'static,
{
    if endpoint.driven.swap(true, Relaxed) {
        return None;
    }
    let (weak, wake) = (Arc::downgrade(endpoint), Arc::clone(&endpoint.wake));
    let at_once = Arc::new(Semaphore::new(QUESTIONS_AT_ONCE));
    Some(async move {
        while let Some(endpoint) = weak.upgrade() {
            let Some(token) = endpoint.state().queue.pop_front() else {
                drop(endpoint);
                // It may have gone without a word.
                let _ = tokio::time::timeout(LOOK_EVERY, wake.notified()).await;
                continue;
            };
            let flight = Flight { endpoint, token };
            let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return };
            let (clock, judge) = (clock.clone(), judge.clone());
            tokio::task::spawn_local(async move {
                flight.fly(&clock, &judge).await;
                drop((flight, permit));
            });
        }
    })
}

/// An active token, to be judged.
#[derive(Debug)]
pub struct Active<'a> {
    /// Who says so.
    pub endpoint: &'a Arc<Endpoint>,
    /// The token.
    pub token: &'a [u8],
    /// What it says.
    pub members: Map<String, Value>,
    /// When.
    pub now: Timestamp,
}

impl Endpoint {
    /// One that has not been asked yet. Somebody has to [`drive`] it.
    pub fn new(source: Source) -> Arc<Self> {
        Arc::new(Self {
            source,
            memory: Memory::new(),
            state: Mutex::default(),
            wake: Arc::default(),
            driven: AtomicBool::new(false),
            counts: Counts::default(),
        })
    }

    /// Where it is and how it is asked.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// What came of asking.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Tokens that it is remembered of.
    pub fn remembered(&self) -> usize {
        self.memory.len()
    }

    /// What a token of it keeps.
    pub(super) fn origin(self: &Arc<Self>, token: &[u8], now: Timestamp) -> Origin {
        let (endpoint, token) = (Arc::downgrade(self), Zeroizing::new(token.to_vec()));
        Origin { endpoint, token, confirmed: AtomicU64::new(now.unix_millis()) }
    }

    /// Sees to it that a token is asked about, unless it is already, or what is known of it `fits`. `None`: it is not
    /// to be asked now.
    fn ask(
        &self,
        token: &[u8],
        address: Option<IpAddr>,
        now: Timestamp,
        fits: impl Fn(&Known) -> bool,
    ) -> Option<Awaited> {
        let mut state = self.state();
        if let Some(flight) = state.flights.get(token) {
            return Some(Awaited::new(flight.subscribe()));
        }
        let (sender, receiver) = watch::channel(0);
        // What was said between the look-up and here: there is nothing to wait for.
        if self.memory.find(token).is_some_and(|known| fits(&known)) {
            return Some(Awaited::new(receiver));
        }
        let withheld = state.rests(now)
            || state.flights.len() >= QUESTIONS_WAITING
            || address.is_some_and(|address| !state.rates.take(address, self.source.rate, MINUTE, now));
        if withheld {
            self.counts.withheld.fetch_add(1, Relaxed);
            return None;
        }
        let token: Arc<[u8]> = token.into();
        state.flights.insert(Arc::clone(&token), sender);
        state.queue.push_back(token);
        self.wake.notify_one();
        Some(Awaited::new(receiver))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the endpoint is left alone: it could not be reached several times in a row, and either that is not long
    /// ago or somebody is finding out whether it is back.
    fn rests(&self, now: Timestamp) -> bool {
        let soon = now < self.rests_until && self.rests_until <= now.plus(REST_LAST);
        self.failed >= FAILURES && (soon || !self.flights.is_empty())
    }

    fn note_failure(&mut self, now: Timestamp) {
        self.failed = self.failed.saturating_add(1);
        if let Some(more) = self.failed.checked_sub(FAILURES) {
            self.rests_until = now.plus(REST_FIRST.saturating_mul(1 << more.min(8)).min(REST_LAST));
        }
    }
}

/// A question that is under way. When it ends, however that is, nobody waits for it any more.
struct Flight {
    endpoint: Arc<Endpoint>,
    token: Arc<[u8]>,
}

impl Flight {
    async fn fly<J>(&self, clock: &Clock, judge: &J)
    where
        J: Fn(Active<'_>) -> Option<Result<VerifiedToken, JwtError>>,
    {
        let Endpoint { source, memory, counts, .. } = &*self.endpoint;
        let failed = |why: &dyn fmt::Display| {
            counts.failed.fetch_add(1, Relaxed);
            tracing::warn!(endpoint = %source.url, %why, "what a token is cannot be asked");
        };
        let answer = source.client.send(&source.url, source.request(&self.token)).await;
        let now = clock.now();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // What one token can bring about must not stand against the others.
                if is_away(&error) {
                    self.endpoint.state().note_failure(now);
                }
                return failed(&error);
            }
        };
        self.endpoint.state().failed = 0;
        let verdict = match read(answer.status, &answer.headers, &answer.body) {
            Err(nonsense) => return failed(&nonsense),
            Ok(Said::Inactive) => Err(JwtError::Inactive),
            Ok(Said::Active(members)) => {
                let active = Active { endpoint: &self.endpoint, token: &self.token, members, now };
                match judge(active) {
                    Some(judged) => judged.map(Arc::new),
                    None => return,
                }
            }
        };
        let (count, remember) = match verdict {
            Ok(_) => (&counts.good, source.remember),
            Err(_) => (&counts.void, source.remember.min(REMEMBER_VOID)),
        };
        count.fetch_add(1, Relaxed);
        memory.insert(&self.token, Known { verdict, said: now, until: now.plus(remember) });
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // After what was said is in memory: whoever waited finds it there.
        self.endpoint.state().flights.remove(&self.token);
    }
}

/// Whether nobody is there, whatever was asked.
const fn is_away(error: &FetchError) -> bool {
    match error {
        FetchError::NotResolved
        | FetchError::Unreachable
        | FetchError::Tls(_)
        | FetchError::Proxy(_)
        | FetchError::TimedOut => true,
        FetchError::TooLarge(_) | FetchError::Broken | FetchError::Redirected(_) | FetchError::Encoded => false,
    }
}

impl Source {
    fn request(&self, token: &[u8]) -> Request {
        let mut form = Zeroizing::new(Vec::with_capacity(token.len() * 2 + 256));
        form.extend_from_slice(b"token=");
        encode(token, &mut form);
        form.extend_from_slice(b"&token_type_hint=access_token");
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.credentials.add_to(&mut headers, &mut form);
        Request {
            method: Method::POST,
            headers,
            body: Bytes::copy_from_slice(&form),
            max_body: MAX_ANSWER_BYTES,
            deadline: self.timeout,
        }
    }
}

impl Credentials {
    /// Who we are to the endpoint.
    pub const fn new(id: Box<str>, secret: Secret<Vec<u8>>, method: ClientAuth) -> Self {
        Self { id, secret, method }
    }

    fn add_to(&self, headers: &mut HeaderMap, form: &mut Vec<u8>) {
        match self.method {
            ClientAuth::Basic => {
                // Each is form-encoded first, so that a colon in the one is none between the two.
                let mut pair = Zeroizing::new(Vec::new());
                encode(self.id.as_bytes(), &mut pair);
                pair.push(b':');
                encode(self.secret.expose(), &mut pair);
                let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)));
                // Base64 is visible ASCII.
                if let Ok(mut value) = HeaderValue::from_str(&text) {
                    value.set_sensitive(true);
                    headers.insert(AUTHORIZATION, value);
                }
            }
            ClientAuth::Post => {
                form.extend_from_slice(b"&client_id=");
                encode(self.id.as_bytes(), form);
                form.extend_from_slice(b"&client_secret=");
                encode(self.secret.expose(), form);
            }
        }
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        let same = constant_time_eq(self.secret.expose(), other.secret.expose());
        same && self.id == other.id && self.method == other.method
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("id", &self.id).field("method", &self.method).finish_non_exhaustive()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Appends bytes as a form's value (WHATWG URL, application/x-www-form-urlencoded, with `%20` for a blank).
fn encode(bytes: &[u8], form: &mut Vec<u8>) {
    for part in percent_encode(bytes, FORM) {
        form.extend_from_slice(part.as_bytes());
    }
}

/// `b64token` of RFC 6750 section 2.1.
fn is_b64token(token: &[u8]) -> bool {
    let end = token.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let body = token.get(..end).unwrap_or_default();
    !body.is_empty() && body.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte))
}

const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const MINUTE: Duration = Duration::from_secs(60);

/// Bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// How long it counts that a token is void.
const REMEMBER_VOID: Duration = Duration::from_secs(10);

/// How long a tunnel goes on whose token cannot be asked about.
const GRACE: Duration = Duration::from_secs(60);

const QUESTIONS_AT_ONCE: usize = 32;

/// Those that are asked included.
const QUESTIONS_WAITING: usize = 1024;

/// Failures in a row after which an endpoint is left alone for a while, which gets longer.
const FAILURES: u32 = 3;
const REST_FIRST: Duration = Duration::from_secs(1);
const REST_LAST: Duration = Duration::from_secs(30);

const LOOK_EVERY: Duration = Duration::from_secs(1);
