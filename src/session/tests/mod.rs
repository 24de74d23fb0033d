//! What every store promises, on the store in memory.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::identity::{Factor, IdentityParts, Via};

/// A store that is full.
mod full;

pub(super) fn settings() -> Settings {
    Settings {
        cookie: "__Host-portcullis".into(),
        same_site: SameSite::Lax,
        bind: Bind::None,
        idle_timeout: Duration::from_secs(30 * 60),
        max_lifetime: Duration::from_secs(12 * 3600),
        max_sessions: 1000,
        max_per_user: 3,
        max_session_bytes: 4096,
    }
}

fn identity_in(realm: &str, subject: &str) -> Arc<Identity> {
    let parts = IdentityParts {
        realm: realm.into(),
        subject: subject.into(),
        name: None,
        email: None,
        email_verified: false,
        roles: vec!["user".into()],
        groups: vec![],
        scopes: vec![],
        claims: Map::new(),
        auth_time: Some(START),
        factor: Factor::One,
        via: Via::Session,
    };
    Arc::new(Identity::new(parts).unwrap())
}

fn identity(subject: &str) -> Arc<Identity> {
    identity_in("staff", subject)
}

fn found(lookup: Lookup) -> Option<Arc<Session>> {
    match lookup {
        Lookup::Found(session) => Some(session),
        Lookup::Absent => None,
        Lookup::Unavailable => panic!("memory is always available"),
    }
}

/// A store whose changes are waited for.
struct Settled(Store);

#[derive(Debug)]
enum Exchanged {
    Opened(SessionToken, Arc<Session>),
    Recently(Arc<Session>),
}

impl Settled {
    fn in_memory() -> Self {
        Self(Store::in_memory())
    }

    fn open(
        &self,
        identity: Arc<Identity>,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<(SessionToken, Arc<Session>), OpenError> {
        settled(self.0.open(identity, None, settings, now))
    }

    fn renew(&self, session: &Arc<Session>, identity: Arc<Identity>) -> bool {
        settled(self.0.renew(session, identity)).unwrap()
    }

    fn end(&self, key: &SessionKey) -> bool {
        settled(self.0.end(key)).unwrap()
    }

    fn end_subject(&self, realm: &str, subject: &str) -> usize {
        settled(self.0.end_subject(realm, subject)).unwrap()
    }

    fn import_legacy(&self, legacy: Legacy, settings: &Settings, now: Timestamp) -> Result<Arc<Session>, OpenError> {
        settled(self.0.import_legacy(legacy, settings, now))
    }

    fn exchange_legacy(&self, cookie: &str, value: &[u8], settings: &Settings, now: Timestamp) -> Option<Exchanged> {
        match self.0.lookup_legacy(cookie, value, settings, now)? {
            OldCookie::Exchanged(session) => Some(Exchanged::Recently(session)),
            OldCookie::Waiting(waiting) => {
                let exchanged = settled(self.0.exchange_legacy(&waiting, settings, now)).unwrap();
                exchanged.map(|(token, session)| match token {
                    Some(token) => Exchanged::Opened(token, session),
                    None => Exchanged::Recently(session),
                })
            }
        }
    }
}

impl std::ops::Deref for Settled {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.0
    }
}

fn settled<T>(change: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(change)
}

const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_open_session_is_found_by_its_token_only() {
    let (store, settings) = (Settled::in_memory(), settings());

    let (token, session) = store.open(identity("alice"), &settings, START).unwrap();

    let again = found(store.lookup(&token, &settings, START)).unwrap();
    assert!(Arc::ptr_eq(&again, &session));
    assert_eq!(again.identity().subject(), "alice");
    assert!(found(store.lookup(&SessionToken::generate(), &settings, START)).is_none());
    let key_as_token = SessionToken::parse(&session.key().to_string().as_bytes()[..43]);
    assert!(key_as_token.is_none_or(|token| found(store.lookup(&token, &settings, START)).is_none()));
}

#[test]
fn an_unused_session_ends_at_the_idle_limit_and_a_used_one_does_not() {
    let (store, settings) = (Settled::in_memory(), settings());
    let (unused, _) = store.open(identity("alice"), &settings, START).unwrap();
    let (used, session) = store.open(identity("bob"), &settings, START).unwrap();

    session.touch(START.plus(20 * MINUTE));

    assert!(found(store.lookup(&unused, &settings, START.plus(29 * MINUTE))).is_some());
    assert!(found(store.lookup(&unused, &settings, START.plus(30 * MINUTE))).is_none());
    assert!(found(store.lookup(&used, &settings, START.plus(49 * MINUTE))).is_some());
    assert!(found(store.lookup(&used, &settings, START.plus(50 * MINUTE))).is_none());
    assert_eq!(store.len(), 0, "what is found expired is removed");
}

#[test]
fn a_busy_session_ends_at_the_absolute_limit() {
    let (store, settings) = (Settled::in_memory(), settings());
    let (token, session) = store.open(identity("alice"), &settings, START).unwrap();
    for minutes in (0..720).step_by(10) {
        session.touch(START.plus(minutes * MINUTE));
    }

    assert!(found(store.lookup(&token, &settings, START.plus(12 * HOUR).minus(MINUTE))).is_some());
    assert!(found(store.lookup(&token, &settings, START.plus(12 * HOUR))).is_none());
}

#[test]
fn a_shorter_lifetime_counts_for_sessions_that_are_open() {
    let (store, mut settings) = (Settled::in_memory(), settings());
    let (token, session) = store.open(identity("alice"), &settings, START).unwrap();
    session.touch(START.plus(50 * MINUTE));

    settings.max_lifetime = HOUR;

    assert!(found(store.lookup(&token, &settings, START.plus(59 * MINUTE))).is_some());
    assert!(found(store.lookup(&token, &settings, START.plus(HOUR))).is_none());
}

#[test]
fn activity_is_noted_once_a_second_and_never_backwards() {
    let (store, settings) = (Settled::in_memory(), settings());
    let (_, session) = store.open(identity("alice"), &settings, START).unwrap();

    session.touch(START.plus(Duration::from_millis(999)));
    assert_eq!(session.last_seen(), START);
    session.touch(START.plus(Duration::from_millis(1000)));
    assert_eq!(session.last_seen(), START.plus(Duration::from_secs(1)));
    session.touch(START.minus(HOUR));
    assert_eq!(session.last_seen(), START.plus(Duration::from_secs(1)));
}

#[test]
fn an_ended_session_is_not_found_and_not_revived() {
    let (store, settings) = (Settled::in_memory(), settings());
    let (token, session) = store.open(identity("alice"), &settings, START).unwrap();
    let (other, _) = store.open(identity("alice"), &settings, START).unwrap();

    assert!(store.end(session.key()));
    session.touch(START.plus(MINUTE));

    assert!(session.is_ended());
    assert!(found(store.lookup(&token, &settings, START)).is_none());
    assert!(!store.end(session.key()), "only once");
    assert!(found(store.lookup(&other, &settings, START)).is_some());
}

#[test]
fn ending_a_subject_ends_its_sessions_and_nobody_elses() {
    let (store, settings) = (Settled::in_memory(), settings());
    let (first, _) = store.open(identity("alice"), &settings, START).unwrap();
    let (second, _) = store.open(identity("alice"), &settings, START).unwrap();
    let (namesake, _) = store.open(identity_in("partners", "alice"), &settings, START).unwrap();
    let (bob, _) = store.open(identity("bob"), &settings, START).unwrap();

    assert_eq!(store.end_subject("staff", "alice"), 2);

    assert!([&first, &second].iter().all(|token| found(store.lookup(token, &settings, START)).is_none()));
    assert!([&namesake, &bob].iter().all(|token| found(store.lookup(token, &settings, START)).is_some()));
    assert_eq!(store.end_subject("staff", "alice"), 0);
    assert_eq!(store.of_subject("partners", "alice").len(), 1);
    assert_eq!(store.len(), 2);
}

#[test]
fn the_oldest_session_of_a_user_makes_room_for_a_new_one() {
    let (store, settings) = (Settled::in_memory(), settings());
    let open = |minute: u32| store.open(identity("alice"), &settings, START.plus(minute * MINUTE)).unwrap().0;
    let (bob, _) = store.open(identity("bob"), &settings, START).unwrap();
    let tokens: Vec<_> = (0..4).map(open).collect();

    let alive: Vec<_> =
        tokens.iter().map(|token| found(store.lookup(token, &settings, START.plus(5 * MINUTE))).is_some()).collect();

    assert_eq!(alive, [false, true, true, true]);
    assert_eq!(store.of_subject("staff", "alice").len(), 3);
    assert!(found(store.lookup(&bob, &settings, START)).is_some());
}

#[test]
fn one_session_a_user_is_a_limit_too() {
    let (store, mut settings) = (Settled::in_memory(), settings());
    settings.max_per_user = 1;
    let (first, _) = store.open(identity("alice"), &settings, START).unwrap();
    let (second, _) = store.open(identity("alice"), &settings, START).unwrap();

    assert!(found(store.lookup(&first, &settings, START)).is_none());
    assert!(found(store.lookup(&second, &settings, START)).is_some());
    assert_eq!(store.len(), 1);
}

#[test]
fn an_identity_beyond_the_limit_opens_no_session() {
    let (store, mut settings) = (Settled::in_memory(), settings());
    settings.max_session_bytes = 200;
    let with_claim = |text: &str| {
        let mut parts = identity("alice").to_parts();
        parts.claims.insert("groups".into(), Value::from(vec![text]));
        Arc::new(Identity::new(parts).unwrap())
    };

    assert!(store.open(with_claim("x"), &settings, START).is_ok());
    let refused = store.open(with_claim(&"x".repeat(100)), &settings, START);

    assert!(matches!(refused, Err(OpenError::TooLarge { bytes }) if bytes > 200));
    assert_eq!(store.len(), 1);
}

#[test]
fn pages_hold_every_session_once_and_in_order() {
    let (store, settings) = (Settled::in_memory(), settings());
    for i in 0..500 {
        store.open(identity(&format!("user-{i}")), &settings, START).unwrap();
    }

    let mut listed: Vec<SessionKey> = Vec::new();
    loop {
        let page = store.list(listed.last().copied(), 7);
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        listed.extend(page.iter().map(|session| *session.key()));
    }

    assert_eq!(listed.len(), 500);
    assert!(listed.is_sorted());
    assert_eq!(listed.iter().collect::<HashSet<_>>().len(), 500);
}

#[test]
fn the_sweeper_goes_round_in_steps_and_ends_what_is_expired() {
    let (store, mut settings) = (Settled::in_memory(), settings());
    settings.max_per_user = 1000;
    for i in 0..300 {
        store.open(identity(&format!("user-{}", i % 20)), &settings, START).unwrap();
    }
    let (alive, _) = store.open(identity("alice"), &settings, START.plus(20 * MINUTE)).unwrap();
    let later = START.plus(40 * MINUTE);

    let mut steps = 0;
    while store.len() > 1 {
        let ended = store.sweep(&settings, later, 10);
        assert!(ended < 100, "a step is small");
        steps += 1;
        assert!(steps < 1000);
    }

    assert!(steps > 10);
    assert!(found(store.lookup(&alive, &settings, later)).is_some());
    assert!((0..20).all(|i| store.of_subject("staff", &format!("user-{i}")).is_empty()));
}

mod legacy {
    use super::*;

    fn sha256(value: &[u8]) -> [u8; 32] {
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value).as_ref().try_into().unwrap()
    }

    fn entry(subject: &str, value: &[u8]) -> Legacy {
        Legacy { cookie: "PHPSESSID".into(), sha256: sha256(value), identity: identity(subject), expires: None }
    }

    #[test]
    fn an_old_cookie_is_exchanged_once_and_counts_for_parallel_requests() {
        let (store, settings) = (Settled::in_memory(), settings());
        assert!(store.legacy_cookies().is_none());
        store.import_legacy(entry("alice", b"old"), &settings, START).unwrap();
        assert_eq!(store.legacy_cookies().unwrap().len(), 1);

        let exchange =
            |value: &[u8], seconds| store.exchange_legacy("PHPSESSID", value, &settings, START.plus(seconds));
        assert!(exchange(b"other", MINUTE).is_none());
        assert!(store.exchange_legacy("JSESSIONID", b"old", &settings, START).is_none());
        let Some(Exchanged::Opened(token, session)) = exchange(b"old", MINUTE) else { panic!("not opened") };
        let Some(Exchanged::Recently(again)) = exchange(b"old", MINUTE) else { panic!("not recent") };

        assert!(Arc::ptr_eq(&session, &again));
        assert!(Arc::ptr_eq(&session, &found(store.lookup(&token, &settings, START.plus(MINUTE))).unwrap()));
        assert_eq!(session.identity().subject(), "alice");
        assert_eq!(store.len(), 1);
        assert!(exchange(b"old", 2 * MINUTE).is_none());
        assert!(store.legacy_cookies().is_none(), "nothing is left to look for");
    }

    #[test]
    fn an_imported_session_ends_with_its_subject() {
        let (store, settings) = (Settled::in_memory(), settings());
        store.import_legacy(entry("alice", b"old"), &settings, START).unwrap();
        store.import_legacy(entry("bob", b"older"), &settings, START).unwrap();

        assert_eq!(store.end_subject("staff", "alice"), 1);

        assert!(store.exchange_legacy("PHPSESSID", b"old", &settings, START).is_none());
        assert!(store.exchange_legacy("PHPSESSID", b"older", &settings, START).is_some());
    }

    #[test]
    fn an_exchanged_session_that_was_ended_is_not_revived_by_the_old_cookie() {
        let (store, settings) = (Settled::in_memory(), settings());
        store.import_legacy(entry("alice", b"old"), &settings, START).unwrap();
        assert!(store.exchange_legacy("PHPSESSID", b"old", &settings, START).is_some());

        store.end_subject("staff", "alice");

        assert!(store.exchange_legacy("PHPSESSID", b"old", &settings, START).is_none());
    }

    #[test]
    fn an_imported_session_keeps_its_absolute_limit() {
        let (store, settings) = (Settled::in_memory(), settings());
        let expires = Some(START.plus(2 * HOUR));
        for value in [&b"one"[..], b"two"] {
            store.import_legacy(Legacy { expires, ..entry("alice", value) }, &settings, START).unwrap();
        }

        let exchanged = store.exchange_legacy("PHPSESSID", b"one", &settings, START.plus(HOUR));
        let Some(Exchanged::Opened(token, session)) = exchanged else { panic!("not opened") };
        session.touch(START.plus(2 * HOUR).minus(MINUTE));

        assert!(found(store.lookup(&token, &settings, START.plus(2 * HOUR).minus(MINUTE))).is_some());
        assert!(found(store.lookup(&token, &settings, START.plus(2 * HOUR))).is_none());
        assert!(store.exchange_legacy("PHPSESSID", b"two", &settings, START.plus(2 * HOUR)).is_none());
    }

    #[test]
    fn the_names_of_old_cookies_are_bounded() {
        let (store, mut settings) = (Settled::in_memory(), settings());
        settings.max_per_user = 100;
        let import = |i: usize| {
            let cookie = format!("cookie-{i}").into();
            store.import_legacy(Legacy { cookie, ..entry("alice", b"old") }, &settings, START)
        };

        assert!((0..MemoryStore::MAX_LEGACY_COOKIES).all(|i| import(i).is_ok()));
        assert_eq!(import(100).err(), Some(OpenError::TooManyCookies));
        assert!(import(0).is_ok());
    }
}

mod concurrency {
    use std::{
        sync::atomic::{AtomicBool, AtomicUsize},
        thread,
    };

    use super::*;

    fn roomy() -> Settings {
        Settings { max_sessions: 1_000_000, max_per_user: 1000, ..settings() }
    }

    /// Readers that saw a session ended must never see it again, whatever goes on beside.
    #[test]
    fn revocation_is_final() {
        let (store, settings) = (Settled::in_memory(), roomy());
        let opened: Vec<_> =
            (0..2000).map(|i| store.open(identity(&format!("user-{}", i % 50)), &settings, START).unwrap()).collect();
        let ended: Vec<AtomicBool> = opened.iter().map(|_| AtomicBool::new(false)).collect();
        let done = AtomicBool::new(false);

        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut i = 0;
                    while !done.load(Ordering::Acquire) {
                        i = (i + 7) % opened.len();
                        let was_ended = ended[i].load(Ordering::Acquire);
                        let session = found(store.lookup(&opened[i].0, &settings, START));
                        assert!(!(was_ended && session.is_some()), "a session came back");
                        opened[i].1.touch(START.plus(MINUTE));
                    }
                });
            }
            scope.spawn(|| {
                for user in 0..25 {
                    store.end_subject("staff", &format!("user-{user}"));
                    for i in (user..opened.len()).step_by(50) {
                        ended[i].store(true, Ordering::Release);
                    }
                }
                for (i, (_, session)) in opened.iter().enumerate().filter(|(i, _)| i % 50 >= 25) {
                    store.end(session.key());
                    ended[i].store(true, Ordering::Release);
                }
                done.store(true, Ordering::Release);
            });
        });

        assert_eq!(store.len(), 0);
        assert!((0..50).all(|user| store.of_subject("staff", &format!("user-{user}")).is_empty()));
    }

    /// Sessions of one subject open, end, expire and are exchanged on several threads; whatever order they took, a
    /// last `end_subject` leaves nothing, and count, table and index agree.
    #[test]
    fn an_old_cookie_that_is_imported_by_many_at_once_is_one_session() {
        let (store, settings) = (Settled::in_memory(), roomy());

        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (store, settings) = (&store, &settings);
                scope.spawn(move || {
                    for i in 0..2000 {
                        if (i + thread) % 5 == 0 {
                            store.end_subject("staff", "user");
                        }
                        let (cookie, identity) = ("old".into(), identity("user"));
                        let entry = Legacy { cookie, sha256: [7; 32], identity, expires: None };
                        store.import_legacy(entry, settings, START).unwrap();
                    }
                });
            }
        });

        assert!(store.list(None, usize::MAX).len() <= 1);
        assert_eq!(store.of_subject("staff", "user").len(), store.len());
        assert_eq!(store.list(None, usize::MAX).len(), store.len());
        store.end_subject("staff", "user");
        assert!(store.is_empty() && store.legacy_cookies().is_none());
    }

    #[test]
    fn count_table_and_index_agree_after_a_storm() {
        let (store, settings) = (Settled::in_memory(), Settings { max_per_user: 20, ..roomy() });
        let revoked = AtomicUsize::new(0);

        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (store, settings, revoked) = (&store, &settings, &revoked);
                scope.spawn(move || {
                    let mut tokens = Vec::new();
                    for i in 0..2000_u64 {
                        let subject = format!("user-{}", (i * 31 + thread) % 5);
                        let now = START.plus(Duration::from_secs(i));
                        match (i + thread) % 7 {
                            0 => {
                                revoked.fetch_add(store.end_subject("staff", &subject), Ordering::Relaxed);
                            }
                            1 => {
                                if let Some((_, session)) = tokens.pop() {
                                    let session: Arc<Session> = session;
                                    store.end(session.key());
                                }
                            }
                            2 => {
                                store.sweep(settings, now, 100);
                            }
                            3 => {
                                let digest = [(i % 250) as u8; 32];
                                let identity = identity(&subject);
                                let cookie = "old".into();
                                let entry = Legacy { cookie, sha256: digest, identity, expires: None };
                                store.import_legacy(entry, settings, now).unwrap();
                            }
                            _ => tokens.push(store.open(identity(&subject), settings, now).unwrap()),
                        }
                    }
                });
            }
        });

        let listed = store.list(None, usize::MAX);
        let indexed: usize = (0..5).map(|user| store.of_subject("staff", &format!("user-{user}")).len()).sum();
        assert_eq!(listed.len(), store.len());
        assert_eq!(indexed, store.len());
        assert!(listed.iter().all(|session| !session.is_ended()));
        assert!(revoked.load(Ordering::Relaxed) > 0);
        let last: usize = (0..5).map(|user| store.end_subject("staff", &format!("user-{user}"))).sum();
        assert_eq!(last, listed.len());
        assert!(store.is_empty());
        assert!(store.legacy_cookies().is_none());
    }

    /// An exchange of an old cookie beside a revocation of its subject: when both are over, nothing is left.
    #[test]
    fn an_exchange_does_not_slip_past_a_revocation() {
        let settings = roomy();
        for _ in 0..300 {
            let store = Settled::in_memory();
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"old");
            let sha256 = digest.as_ref().try_into().unwrap();
            let entry = Legacy { cookie: "old".into(), sha256, identity: identity("alice"), expires: None };
            store.import_legacy(entry, &settings, START).unwrap();

            thread::scope(|scope| {
                scope.spawn(|| store.exchange_legacy("old", b"old", &settings, START));
                scope.spawn(|| assert_eq!(store.end_subject("staff", "alice"), 1));
            });

            assert_eq!(store.len(), 0);
            assert!(store.exchange_legacy("old", b"old", &settings, START).is_none());
        }
    }
}

/// What one can do to a store, for the model test.
#[derive(Clone, Debug)]
enum Step {
    Open { user: usize },
    Touch { nth: usize },
    LookUp { nth: usize },
    End { nth: usize },
    EndSubject { user: usize },
    Wait { minutes: u64 },
    Sweep,
}

/// The plainest store there can be.
#[derive(Default)]
struct Model {
    living: HashMap<SessionKey, Record>,
}

struct Record {
    user: usize,
    created: Timestamp,
    seen: Timestamp,
    opened: usize,
}

impl Model {
    fn expire(&mut self, settings: &Settings, now: Timestamp) {
        self.living.retain(|_, record| {
            now < record.seen.plus(settings.idle_timeout) && now < record.created.plus(settings.max_lifetime)
        });
    }

    fn open(&mut self, key: SessionKey, user: usize, settings: &Settings, now: Timestamp, opened: usize) {
        let mut theirs: Vec<_> = self.living.iter().filter(|(_, record)| record.user == user).collect();
        theirs.sort_by_key(|(_, record)| record.opened);
        let surplus = (theirs.len() + 1).saturating_sub(settings.max_per_user);
        let oldest: Vec<SessionKey> = theirs.iter().take(surplus).map(|(key, _)| **key).collect();
        self.living.retain(|key, _| !oldest.contains(key));
        self.living.insert(key, Record { user, created: now, seen: now, opened });
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_usize).prop_map(|user| Step::Open { user }),
        2 => (0..40_usize).prop_map(|nth| Step::Touch { nth }),
        3 => (0..40_usize).prop_map(|nth| Step::LookUp { nth }),
        1 => (0..40_usize).prop_map(|nth| Step::End { nth }),
        1 => (0..4_usize).prop_map(|user| Step::EndSubject { user }),
        2 => (1..20_u64).prop_map(|minutes| Step::Wait { minutes }),
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    #[test]
    fn the_store_agrees_with_a_plain_map(steps in prop::collection::vec(step(), 1..120)) {
        let settings = Settings { max_lifetime: 2 * HOUR, ..settings() };
        let (store, mut model, mut now) = (Settled::in_memory(), Model::default(), START);
        let mut opened: Vec<(SessionToken, Arc<Session>)> = Vec::new();
        for step in steps {
            match step {
                Step::Open { user } => {
                    // A model of exact limits needs a store without the leftovers of expiry.
                    store.sweep(&settings, now, usize::MAX);
                    model.expire(&settings, now);
                    let (token, session) = store.open(identity(&format!("user-{user}")), &settings, now).unwrap();
                    model.open(*session.key(), user, &settings, now, opened.len());
                    opened.push((token, session));
                }
                Step::Touch { nth } => {
                    let Some((token, session)) = opened.get(nth) else { continue };
                    model.expire(&settings, now);
                    if found(store.lookup(token, &settings, now)).is_some() {
                        session.touch(now);
                    }
                    if let Some(record) = model.living.get_mut(session.key()) {
                        record.seen = now;
                    }
                }
                Step::LookUp { nth } => {
                    let Some((token, session)) = opened.get(nth) else { continue };
                    model.expire(&settings, now);
                    let found = found(store.lookup(token, &settings, now));
                    prop_assert_eq!(found.is_some(), model.living.contains_key(session.key()));
                }
                Step::End { nth } => {
                    let Some((_, session)) = opened.get(nth) else { continue };
                    store.end(session.key());
                    model.living.remove(session.key());
                }
                Step::EndSubject { user } => {
                    store.end_subject("staff", &format!("user-{user}"));
                    model.living.retain(|_, record| record.user != user);
                }
                Step::Wait { minutes } => now = now.plus(Duration::from_secs(60 * minutes)),
                Step::Sweep => {
                    store.sweep(&settings, now, usize::MAX);
                    model.expire(&settings, now);
                    prop_assert_eq!(store.len(), model.living.len());
                }
            }
        }
        store.sweep(&settings, now, usize::MAX);
        model.expire(&settings, now);
        let listed: HashSet<SessionKey> = store.list(None, usize::MAX).iter().map(|session| *session.key()).collect();
        prop_assert_eq!(listed, model.living.keys().copied().collect::<HashSet<_>>());
    }
}

#[test]
fn a_session_with_another_identity_is_the_same_session() {
    let (store, settings) = (Settled::in_memory(), settings());
    let (token, session) = store.open(identity("alice"), &settings, START).unwrap();
    session.touch(START.plus(MINUTE));
    let admin = IdentityParts { roles: vec!["admin".into()], ..session.identity().to_parts() };
    let admin = Arc::new(Identity::new(admin).unwrap());

    assert!(!store.renew(&session, identity("bob")), "nobody becomes somebody else");
    assert!(store.renew(&session, Arc::clone(&admin)));

    let now = found(store.lookup(&token, &settings, START.plus(MINUTE))).unwrap();
    assert!(now.identity().roles().eq(["admin"]));
    assert_eq!((now.key(), now.created(), now.last_seen()), (session.key(), START, START.plus(MINUTE)));
    assert!(session.is_ended() && !now.is_ended());
    assert_eq!((store.len(), store.of_subject("staff", "alice").len()), (1, 1));
    assert!(!store.renew(&session, admin), "what has ended stays so");
    assert!(store.end(now.key()));
    assert!(store.is_empty() && store.of_subject("staff", "alice").is_empty());
}

#[test]
fn nobody_finds_a_session_gone_while_it_gets_another_identity() {
    let (store, settings) = (Settled::in_memory(), settings());
    let (token, mut session) = store.open(identity("alice"), &settings, START).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);

    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(found(store.lookup(&token, &settings, START)).is_some(), "after {looks} looks");
                looks += 1;
            }
        });
        for _ in 0..20_000 {
            assert!(store.renew(&session, identity("alice")));
            session = store.find(session.key()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        looks.join().unwrap();
    });
    assert_eq!(store.len(), 1);
}

#[test]
fn the_disk_is_told_of_the_groups_in_which_somebody_was_seen_or_went_and_of_no_others() {
    let (memory, settings) = (MemoryStore::with_disk(), settings());
    let sessions: Vec<_> = (0..3)
        .map(|i| {
            let opening = identity(&format!("user-{i}")).into();
            let session = MemoryStore::prepare(SessionToken::generate().key(), opening, &settings, START).unwrap();
            let ending = memory.room_for(&session, None, &settings, START).unwrap();
            memory.insert(&session, &ending, &settings, START).unwrap();
            session
        })
        .collect();
    let store = Store { memory: Arc::new(memory), durable: None };
    let round = || (0..MemoryStore::SEGMENTS).filter(|_| !store.memory.take_seen().is_empty()).count();
    assert_eq!(round(), 0, "that they were opened is in their own records");

    store.touch(&sessions[0], START.plus(MINUTE));
    store.touch(&sessions[1], START.plus(Duration::from_millis(999)));
    assert_eq!(round(), 1);
    assert_eq!(round(), 0);
    store.touch(&sessions[0], START.plus(MINUTE).plus(Duration::from_millis(999)));
    assert_eq!(round(), 0);
    assert!(store.memory.end(sessions[0].key()));
    assert_eq!(round(), 1);
}
