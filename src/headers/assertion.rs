//! The assertion: who is calling, signed, for upstreams that want more than headers (R22).
//!
//! In: the verified identity, the upstream, the time. Out: a short-lived JWT for that upstream alone. Each worker keeps
//! what it has signed, by identity and upstream, until [`REUSED_FOR`] of its life is over, so that a signature is made
//! now and then and not for each request, and that half of the life is left when it arrives.
//! Invariants: what is sent was signed for this very identity under these very settings; nothing that is kept can be
//! longer than it counts, whichever way the clock moves; memory is bounded.
//!
//! RFC 7519 section 4.1, RFC 8725 section 3.11 (explicit types), RFC 8176 (`amr`), RFC 9068 section 2.2 (claims).

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use ahash::RandomState;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderName;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    clock::Timestamp,
    identity::{Factor, Identity},
    policy::ClaimPath,
    secret,
    signing::{self, Algorithm, CannotSign, Keys, Purpose},
};

/// `identity.assertion`, ready to use.
#[derive(Debug)]
pub struct Settings {
    /// The header that carries it.
    pub header: HeaderName,
    /// From `iat` to `exp`, in whole seconds; from 10 seconds to [`signing::rotation::LONGEST_LIFE`].
    pub ttl: Duration,
    /// `iss`.
    pub issuer: Box<str>,
    /// `aud` for each upstream, in their order.
    pub audiences: Box<[Box<str>]>,
    /// Further members, none of [`RESERVED`], and where in the identity's claims they are found.
    pub claims: Box<[(Box<str>, ClaimPath)]>,
}

/// Members that have a meaning already.
pub const RESERVED: [&str; 23] = [
    "acr",
    "amr",
    "aud",
    "auth_time",
    "azp",
    "client_id",
    "cnf",
    "email",
    "email_verified",
    "events",
    "exp",
    "groups",
    "iat",
    "iss",
    "jti",
    "name",
    "nbf",
    "nonce",
    "realm",
    "roles",
    "scope",
    "sub",
    "via",
];

/// What one worker has signed and may send again.
#[derive(Default)]
pub struct Assertions(RefCell<Cache>);

#[derive(Default)]
struct Cache {
    /// Of the settings that all entries were made under.
    generation: u64,
    /// When `young` began to fill.
    since: Timestamp,
    young: Half,
    old: Half,
}

#[derive(Default)]
struct Half {
    entries: HashMap<(usize, usize), Entry, RandomState>,
    bytes: usize,
}

struct Entry {
    /// Keeps the address, which is half of the key, from becoming another identity's.
    _identity: Arc<Identity>,
    signed_at: Timestamp,
    text: Rc<str>,
}

/// The claims of an assertion.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    realm: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email_verified: Option<bool>,
    roles: Vec<&'a str>,
    groups: Vec<&'a str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amr: Option<[&'static str; 1]>,
    via: &'static str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    #[serde(flatten)]
    further: Map<String, Value>,
}

impl Assertions {
    /// The assertion about `identity` for an upstream, given by its index: one that was signed a short while ago under
    /// these settings, whose `generation` tells them from others, or a new one.
    ///
    /// # Errors
    /// [`CannotSign`]: the request cannot be sent.
    pub fn of(
        &self,
        identity: &Arc<Identity>,
        upstream: usize,
        settings: &Settings,
        generation: u64,
        keys: &Keys,
        now: Timestamp,
    ) -> Result<Rc<str>, CannotSign> {
        let mut cache = self.0.borrow_mut();
        let reused_for = settings.ttl.mul_f32(REUSED_FOR);
        cache.prepare(generation, reused_for, now);
        let key = (Arc::as_ptr(identity).addr(), upstream);
        if let Some(entry) = cache.find(key, reused_for, now) {
            return Ok(Rc::clone(&entry.text));
        }
        let jti = URL_SAFE_NO_PAD.encode(secret::random::<16>());
        let claims = claims(identity, upstream, settings, &jti, now).ok_or(CannotSign)?;
        let text = Rc::from(keys.sign(Algorithm::Es256, &claims)?);
        let entry = Entry { _identity: Arc::clone(identity), signed_at: now, text: Rc::clone(&text) };
        cache.insert(key, entry, now);
        Ok(text)
    }
}

/// What an assertion would say, as long as one and signed by nobody; the same for the same identity at the same time.
/// For rehearsals, which have no keys.
pub fn rehearsed(identity: &Identity, upstream: usize, settings: &Settings, now: Timestamp) -> Option<Box<str>> {
    let claims = claims(identity, upstream, settings, "0000000000000000000000", now)?;
    signing::unsigned(Purpose::Assertion, Algorithm::Es256, &claims).ok()
}

fn claims<'a>(
    identity: &'a Identity,
    upstream: usize,
    settings: &'a Settings,
    jti: &'a str,
    now: Timestamp,
) -> Option<Claims<'a>> {
    let iat = now.unix_seconds();
    let find = |path: &ClaimPath| identity.claims().and_then(|claims| path.find(claims));
    let further = settings.claims.iter().filter_map(|(name, path)| Some((name.to_string(), find(path)?.clone())));
    Some(Claims {
        iss: &settings.issuer,
        aud: settings.audiences.get(upstream)?,
        sub: identity.subject(),
        realm: identity.realm(),
        name: identity.name(),
        email: identity.email(),
        email_verified: identity.email().map(|_| identity.email_verified()),
        roles: identity.roles().collect(),
        groups: identity.groups().collect(),
        scope: identity.scopes().filter(|scope| is_scope(scope)).collect::<Vec<_>>().join(" "),
        auth_time: identity.auth_time().map(Timestamp::unix_seconds),
        amr: (identity.factor() == Factor::Two).then_some([Factor::TWO_NAME]),
        via: identity.via().label(),
        iat,
        exp: iat + settings.ttl.as_secs(),
        jti,
        further: further.collect(),
    })
}

/// RFC 6749 section 3.3. What a source calls a scope and is none would be read as several.
fn is_scope(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

impl Cache {
    /// Lets go of what was made under other settings, and of what is too old by now.
    fn prepare(&mut self, generation: u64, reused_for: Duration, now: Timestamp) {
        if self.generation != generation {
            *self = Self { generation, since: now, ..Self::default() };
        } else if now < self.since || now.since(self.since) >= reused_for {
            self.turn(now);
        }
    }

    /// `None`: there is none, or it is not to be sent any more.
    fn find(&mut self, key: (usize, usize), reused_for: Duration, now: Timestamp) -> Option<&Entry> {
        // What seems to come from the future was signed before the clock was set back: it would count for too long.
        let fits = |entry: &Entry| entry.signed_at <= now && now.since(entry.signed_at) < reused_for;
        if let Some(entry) = self.old.take(key).filter(fits) {
            self.insert(key, entry, now);
        }
        self.young.entries.get(&key).filter(|entry| fits(entry))
    }

    fn insert(&mut self, key: (usize, usize), entry: Entry, now: Timestamp) {
        if self.young.bytes + entry.bytes() > MAX_BYTES / 2 {
            self.turn(now);
        }
        drop(self.young.take(key));
        self.young.bytes += entry.bytes();
        self.young.entries.insert(key, entry);
    }

    fn turn(&mut self, now: Timestamp) {
        self.old = std::mem::take(&mut self.young);
        self.since = now;
    }
}

impl Half {
    fn take(&mut self, key: (usize, usize)) -> Option<Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let entry = self.entries.remove(&key)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }
}

impl Entry {
    /// Its place in the table, the text, and the identity, which has the same texts.
    fn bytes(&self) -> usize {
        ENTRY_BYTES + 2 * self.text.len()
    }
}

/// The part of its life for which an assertion is sent again.
const REUSED_FOR: f32 = 0.45;

/// What one worker keeps; some ten thousand assertions.
const MAX_BYTES: usize = 16 << 20;

const ENTRY_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use serde_json::json;

    use super::*;
    use crate::{headers::tests::identity, identity::IdentityParts, signing::Signing};

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const TTL: Duration = Duration::from_secs(60);

    static SIGNING: LazyLock<Signing> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Signing::open(None, NOW)).unwrap()
    });

    fn settings() -> Settings {
        Settings {
            header: HeaderName::from_static("x-user-assertion"),
            ttl: TTL,
            issuer: "portcullis".into(),
            audiences: ["orders".into(), "billing".into()].into(),
            claims: [("department".into(), ClaimPath::dotted("org.department"))].into(),
        }
    }

    fn asked(cache: &Assertions, identity: &Arc<Identity>, upstream: usize, now: Timestamp) -> Rc<str> {
        cache.of(identity, upstream, &settings(), 1, &SIGNING.assertion, now).unwrap()
    }

    fn payload(token: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
    }

    fn with(parts: impl FnOnce(&mut IdentityParts)) -> Arc<Identity> {
        let mut changed = identity().to_parts();
        parts(&mut changed);
        Arc::new(Identity::new(changed).unwrap())
    }

    #[test]
    fn an_assertion_says_who_is_calling_and_for_whom_it_is() {
        let alice = with(|parts| {
            parts.scopes = vec!["read".into(), "not a scope".into(), "write".into()];
            parts.auth_time = Some(NOW.minus(Duration::from_secs(500)));
            parts.factor = Factor::Two;
            parts.claims = json!({ "org": { "department": ["a", 7] }, "other": 1 }).as_object().unwrap().clone();
        });

        let mut said = payload(&asked(&Assertions::default(), &alice, 1, NOW.plus(Duration::from_millis(999))));

        assert_eq!(said["jti"].take().as_str().unwrap().len(), 22);
        assert_eq!(
            said,
            json!({
                "iss": "portcullis", "aud": "billing", "sub": "alice", "realm": "staff", "name": "Alice Ä",
                "email": "a@example.com", "email_verified": true, "roles": ["admin", "a,b"], "groups": ["ops"],
                "scope": "read write", "auth_time": 1_799_999_500, "amr": ["mfa"], "via": "session",
                "iat": 1_800_000_000, "exp": 1_800_000_060, "jti": null, "department": ["a", 7],
            })
        );
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let nobody = with(|parts| {
            parts.name = None;
            parts.email = None;
            parts.roles = Vec::new();
            parts.groups = Vec::new();
        });

        let said = payload(&asked(&Assertions::default(), &nobody, 0, NOW));

        let members: Vec<&str> = said.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["aud", "exp", "groups", "iat", "iss", "jti", "realm", "roles", "sub", "via"]);
        assert_eq!((&said["roles"], &said["groups"]), (&json!([]), &json!([])));
    }

    #[test]
    fn whatever_it_can_say_by_itself_cannot_be_said_by_a_claim() {
        let alice = with(|parts| {
            parts.scopes = vec!["read".into()];
            parts.auth_time = Some(NOW);
            parts.factor = Factor::Two;
        });

        let said = payload(&asked(&Assertions::default(), &alice, 0, NOW));

        for member in said.as_object().unwrap().keys() {
            assert!(RESERVED.contains(&member.as_str()), "{member}");
        }
    }

    #[test]
    fn an_assertion_is_sent_again_for_less_than_half_of_its_life() {
        let (cache, alice) = (Assertions::default(), Arc::new(identity()));
        let first = asked(&cache, &alice, 0, NOW);
        let later = |seconds| asked(&cache, &alice, 0, NOW.plus(Duration::from_secs(seconds)));

        assert_eq!(later(26), first);
        let second = later(27);
        assert_ne!(second, first);
        assert_eq!(later(53), second);
        assert_ne!(later(54), second);
    }

    #[test]
    fn each_identity_and_each_upstream_has_assertions_of_its_own() {
        let (cache, alice, twin) = (Assertions::default(), Arc::new(identity()), Arc::new(identity()));
        let first = asked(&cache, &alice, 0, NOW);

        assert_ne!(asked(&cache, &alice, 1, NOW), first);
        assert_ne!(asked(&cache, &twin, 0, NOW), first);
        assert_eq!(asked(&cache, &alice, 0, NOW), first);
        assert_eq!(cache.of(&alice, 2, &settings(), 1, &SIGNING.assertion, NOW), Err(CannotSign));
    }

    #[test]
    fn an_identity_at_the_address_of_one_that_is_gone_gets_no_assertion_of_it() {
        let cache = Assertions::default();
        for number in 0..200 {
            let subject = format!("user-{number}");
            let identity = with(|parts| parts.subject.clone_from(&subject));
            assert_eq!(payload(&asked(&cache, &identity, 0, NOW))["sub"], *subject);
        }
    }

    #[test]
    fn other_settings_make_other_assertions() {
        let (cache, alice) = (Assertions::default(), Arc::new(identity()));
        let first = asked(&cache, &alice, 0, NOW);
        let renamed = Settings { issuer: "other".into(), ..settings() };

        let second = cache.of(&alice, 0, &renamed, 2, &SIGNING.assertion, NOW).unwrap();

        assert_eq!(
            (payload(&first)["iss"].clone(), payload(&second)["iss"].clone()),
            (json!("portcullis"), json!("other"))
        );
        assert_ne!(asked(&cache, &alice, 0, NOW), first);
    }

    #[test]
    fn a_clock_that_is_set_back_lets_no_assertion_be_sent_for_longer() {
        let (cache, alice) = (Assertions::default(), Arc::new(identity()));
        let first = asked(&cache, &alice, 0, NOW);

        let back = asked(&cache, &alice, 0, NOW.minus(Duration::from_secs(3600)));

        assert_ne!(back, first);
        assert_eq!(payload(&back)["exp"], 1_800_000_060 - 3600);
    }

    #[test]
    fn memory_is_bounded_and_who_calls_often_is_kept() {
        let (cache, alice) = (Assertions::default(), Arc::new(identity()));
        let first = asked(&cache, &alice, 0, NOW);
        let padding = "x".repeat(3000);
        for number in 0..6000 {
            let other = with(|parts| parts.subject = format!("user-{number}"));
            let other =
                Arc::new(Identity::new(IdentityParts { name: Some(padding.clone()), ..other.to_parts() }).unwrap());
            asked(&cache, &other, 0, NOW);
            if number % 100 == 0 {
                assert_eq!(asked(&cache, &alice, 0, NOW), first);
            }
        }

        let cache = cache.0.borrow();
        assert!(cache.young.bytes + cache.old.bytes <= MAX_BYTES);
        assert!(cache.young.entries.len() > 100);
        for half in [&cache.young, &cache.old] {
            assert_eq!(half.bytes, half.entries.values().map(Entry::bytes).sum::<usize>());
        }
    }

    #[test]
    fn who_calls_no_more_is_forgotten() {
        let (cache, alice, bob) = (Assertions::default(), Arc::new(identity()), Arc::new(identity()));
        asked(&cache, &alice, 0, NOW);
        assert_eq!(Arc::strong_count(&alice), 2);
        asked(&cache, &bob, 0, NOW.plus(TTL));
        asked(&cache, &bob, 0, NOW.plus(2 * TTL));

        assert_eq!(Arc::strong_count(&alice), 1);
    }

    #[test]
    fn a_rehearsal_says_the_same_at_the_same_length() {
        let alice = Arc::new(identity());
        let real = asked(&Assertions::default(), &alice, 0, NOW);

        let made_up = rehearsed(&alice, 0, &settings(), NOW).unwrap();

        assert_eq!(made_up.len(), real.len());
        assert_eq!(rehearsed(&alice, 0, &settings(), NOW), Some(made_up.clone()));
        let (mut said, mut rehearsed) = (payload(&real), payload(&made_up));
        (said["jti"], rehearsed["jti"]) = (Value::Null, Value::Null);
        assert_eq!(rehearsed, said);
    }
}
