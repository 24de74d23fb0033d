//! A store that is full: who gives a session up, and who is refused.

use super::*;

fn full(max: usize, max_per_user: usize) -> (Settled, Settings) {
    (Settled::in_memory(), Settings { max_sessions: max, max_per_user, ..settings() })
}

fn keys_of(store: &Store, subject: &str) -> Vec<SessionKey> {
    store.of_subject("staff", subject).iter().map(|session| *session.key()).collect()
}

#[test]
fn a_full_store_refuses_where_nobody_has_more_than_one() {
    let (store, mut settings) = (Settled::in_memory(), settings());
    settings.max_sessions = 2;
    let (alice, _) = store.open(identity("alice"), &settings, START).unwrap();
    let (bob, _) = store.open(identity("bob"), &settings, START).unwrap();

    let refused = store.open(identity("carol"), &settings, START);

    assert_eq!(refused.err(), Some(OpenError::Full));
    assert!([&alice, &bob].iter().all(|token| found(store.lookup(token, &settings, START)).is_some()));
    assert_eq!(store.len(), 2);
    assert!(store.of_subject("staff", "carol").is_empty());
}

#[test]
fn a_full_store_has_room_once_sessions_expire() {
    let (store, mut settings) = (Settled::in_memory(), settings());
    settings.max_sessions = 2;
    store.open(identity("alice"), &settings, START).unwrap();
    store.open(identity("bob"), &settings, START).unwrap();

    assert!(store.open(identity("carol"), &settings, START.plus(HOUR)).is_ok());
    assert_eq!(store.len(), 1);
}

#[test]
fn whoever_gives_up_a_session_gets_one_even_in_a_full_store() {
    let (store, mut settings) = (Settled::in_memory(), settings());
    (settings.max_sessions, settings.max_per_user) = (2, 2);
    let (oldest, _) = store.open(identity("alice"), &settings, START).unwrap();
    store.open(identity("alice"), &settings, START.plus(MINUTE)).unwrap();

    let (newest, _) = store.open(identity("alice"), &settings, START.plus(2 * MINUTE)).unwrap();

    assert!(found(store.lookup(&oldest, &settings, START.plus(2 * MINUTE))).is_none());
    assert!(found(store.lookup(&newest, &settings, START.plus(2 * MINUTE))).is_some());
    assert_eq!(store.len(), 2);
}

#[test]
fn whoever_has_the_most_gives_up_the_oldest() {
    let (store, settings) = full(6, 10);
    let open = |subject: &str, minute: u32| store.open(identity(subject), &settings, START.plus(minute * MINUTE));
    for (minute, subject) in (0..).zip(["bob", "bob", "alice", "alice", "alice", "carol"]) {
        open(subject, minute).unwrap();
    }
    let (alice, bob) = (keys_of(&store, "alice"), keys_of(&store, "bob"));

    open("dave", 7).unwrap();

    assert_eq!(keys_of(&store, "alice"), alice[1..], "not Bob, whose first is older");
    assert_eq!(keys_of(&store, "bob"), bob);
    assert_eq!((store.len(), store.evictions()), (6, 1));
}

/// Or whoever has a password could take the second device of everybody else.
#[test]
fn whoever_has_the_most_takes_from_nobody_else() {
    let (store, settings) = full(4, 10);
    for (minute, subject) in (0..).zip(["bob", "bob", "alice", "alice"]) {
        store.open(identity(subject), &settings, START.plus(minute * MINUTE)).unwrap();
    }
    let bob = keys_of(&store, "bob");

    for minute in 5..20 {
        store.open(identity("alice"), &settings, START.plus(minute * MINUTE)).unwrap();
    }

    assert_eq!((keys_of(&store, "bob"), keys_of(&store, "alice").len()), (bob, 2));
}

#[test]
fn whoever_brings_a_session_needs_nobody_elses_place() {
    let (store, settings) = full(3, 10);
    for subject in ["bob", "bob", "alice"] {
        store.open(identity(subject), &settings, START).unwrap();
    }
    let alice = keys_of(&store, "alice")[0];

    settled(store.0.open(identity("alice"), Some(&alice), &settings, START)).unwrap();

    assert_eq!((keys_of(&store, "bob").len(), store.len(), store.evictions()), (2, 3, 0));
    assert!(!keys_of(&store, "alice").contains(&alice));
}

#[test]
fn an_import_takes_a_place_in_a_full_store_like_a_login() {
    let (store, settings) = full(2, 10);
    let legacy = |value: u8, subject: &str| Legacy {
        cookie: "OLD".into(),
        sha256: [value; 32],
        identity: identity(subject),
        expires: None,
    };
    store.import_legacy(legacy(1, "bob"), &settings, START).unwrap();
    store.import_legacy(legacy(2, "bob"), &settings, START.plus(MINUTE)).unwrap();

    store.import_legacy(legacy(3, "alice"), &settings, START.plus(MINUTE)).unwrap();
    store.import_legacy(legacy(3, "alice"), &settings, START.plus(MINUTE)).expect("it replaces itself");

    assert_eq!((keys_of(&store, "bob").len(), store.len(), store.evictions()), (1, 2, 1));
    assert_eq!(store.import_legacy(legacy(4, "carol"), &settings, START).err(), Some(OpenError::Full));
    assert!(store.legacy_cookies().is_some());
}

#[test]
fn of_logins_that_come_together_none_goes_beyond_the_limit() {
    let (store, settings) = full(20, 5);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, settings) = (&store, &settings);
            scope.spawn(move || {
                for i in 0..300 {
                    let _ = store.open(identity(&format!("user-{}", (i * 7 + thread) % 11)), settings, START);
                    assert!(store.len() <= 20);
                }
            });
        }
    });

    assert_eq!(store.len(), 20);
    assert_eq!(store.list(None, 100).len(), 20);
    let indexed: usize = (0..11).map(|i| keys_of(&store, &format!("user-{i}")).len()).sum();
    assert_eq!(indexed, 20);
}

#[derive(Clone, Debug)]
enum Step {
    Open(u8),
    EndOne(u8),
    EndAll(u8),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..8_u8).prop_map(Step::Open),
        1 => (0..8_u8).prop_map(Step::EndOne),
        1 => (0..8_u8).prop_map(Step::EndAll),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn a_full_store_takes_from_whoever_has_the_most_and_never_the_only_session(
        steps in prop::collection::vec(step(), 1..200), max in 1..12_usize, max_per_user in 1..6_usize,
    ) {
        let (store, settings) = full(max, max_per_user);
        let name = |subject: u8| format!("user-{subject}");
        let all = || (0..8).map(|subject| keys_of(&store, &name(subject))).collect::<Vec<_>>();
        let mut now = START;
        for step in steps {
            now = now.plus(Duration::from_secs(1));
            let before = all();
            match step {
                Step::EndOne(subject) => {
                    before[usize::from(subject)].first().map(|key| store.end(key));
                }
                Step::EndAll(subject) => {
                    store.end_subject("staff", &name(subject));
                }
                Step::Wait => now = now.plus(10 * MINUTE),
                Step::Open(subject) => {
                    // What has expired makes room first.
                    store.sweep(&settings, now, usize::MAX);
                    let (before, own) = (all(), usize::from(subject));
                    let most = before.iter().map(Vec::len).max().unwrap_or_default();
                    let was_full = store.len() == max;
                    let opened = store.open(identity(&name(subject)), &settings, now);
                    let after = all();
                    let gone = |of: usize| before[of].iter().filter(|key| !after[of].contains(key)).count();
                    let others: Vec<usize> = (0..8).filter(|other| *other != own && gone(*other) > 0).collect();
                    if before[own].len() >= max_per_user {
                        prop_assert!(opened.is_ok() && others.is_empty() && gone(own) == 1);
                    } else if !was_full {
                        prop_assert!(opened.is_ok() && others.is_empty() && gone(own) == 0);
                    } else if most < 2 {
                        prop_assert_eq!(opened.err(), Some(OpenError::Full));
                        prop_assert_eq!(&before, &after);
                    } else {
                        prop_assert!(opened.is_ok());
                        let victim = others.first().copied().unwrap_or(own);
                        prop_assert_eq!((others.len() <= 1, gone(victim), before[victim].len()), (true, 1, most));
                        prop_assert!(!after[victim].contains(&before[victim][0]), "the oldest");
                    }
                }
            }
            prop_assert!(store.len() <= max);
            prop_assert_eq!(store.len(), all().iter().map(Vec::len).sum::<usize>());
        }
    }
}
