//! The list against its rules: what is struck by which name, for how long, and what a clock or a restart can undo.

use std::sync::{Arc, LazyLock};

use super::*;

const LEEWAY: Duration = Duration::from_secs(30);
const LIFE: Keep = Keep::For(Duration::from_secs(3600));
const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn strike(list: &Revocations, target: Target, now: u64) -> Struck {
    list.strike(target, at(now), LIFE, 1000).unwrap().0
}

fn subject(subject: &str) -> Target {
    Target::Subject { realm: "staff".into(), subject: subject.into() }
}

fn issuer(issuer: &str) -> Target {
    Target::Issuer { issuer: issuer.into() }
}

static SIGNED: LazyLock<SigningInput> = LazyLock::new(|| [7; 32].into());

fn claims(issued_at: Option<u64>) -> Claims<'static> {
    Claims {
        issuer: "https://id.example",
        jti: Some("7"),
        signing_input: &SIGNED,
        subject: Some(("staff", "alice")),
        issued_at: issued_at.map(at),
        leeway: LEEWAY,
    }
}

fn is_struck(list: &Revocations, claims: Claims<'_>) -> bool {
    list.is_struck(&Checked::default(), || claims)
}

#[test]
fn a_token_is_struck_by_each_of_its_names_and_by_no_other() {
    let jti = |issuer: &str, jti: &str| Target::Jti { issuer: issuer.into(), jti: jti.into() };
    let token = |byte| Target::Token { signing_input: [byte; 32] };
    let in_realm = |realm: &str| Target::Subject { realm: realm.into(), subject: "alice".into() };
    for (target, expected) in [
        (token(7), true),
        (token(8), false),
        (jti("https://id.example", "7"), true),
        (jti("https://id.example", "70"), false),
        (jti("https://id.example7", ""), false),
        (jti("https://other.example", "7"), false),
        (in_realm("staff"), true),
        (in_realm("customers"), false),
        (subject("bob"), false),
        (issuer("https://id.example"), true),
        (issuer("https://other.example"), false),
        (Target::ApiKey { id: "7".into() }, false),
    ] {
        let list = Revocations::new();
        assert!(!is_struck(&list, claims(Some(NOW))));
        strike(&list, target.clone(), NOW);
        assert_eq!(is_struck(&list, claims(Some(NOW))), expected, "{target:?}");
    }
}

#[test]
fn a_moment_strikes_what_was_issued_up_to_then_and_what_does_not_say_when() {
    for target in [subject("alice"), issuer("https://id.example")] {
        let list = Revocations::new();
        strike(&list, target, NOW);
        for (issued_at, expected) in
            [(Some(NOW - 3600), true), (Some(NOW), true), (Some(NOW + 30), true), (Some(NOW + 31), false), (None, true)]
        {
            assert_eq!(is_struck(&list, claims(issued_at)), expected, "{issued_at:?}");
        }
    }
}

#[test]
fn a_moment_never_goes_back() {
    let list = Revocations::new();
    let first = strike(&list, subject("alice"), NOW);

    // The clock steps back by an hour.
    let second = strike(&list, subject("alice"), NOW - 3600);
    assert_eq!((second.at, second.until), (first.at, first.until));
    let other = strike(&list, subject("bob"), NOW - 3600);
    assert_eq!(other.at, first.at, "somebody who logged in before the step is struck as well");
    assert!(is_struck(&list, claims(Some(NOW))));
    let later = strike(&list, subject("alice"), NOW + 60);
    assert_eq!(u64::from(later.at), NOW + 60);
}

#[test]
fn a_clock_that_was_years_ahead_is_not_believed_for_ever() {
    let list = Revocations::new();
    list.sweep(at(NOW + 400_000_000));

    assert!(u64::from(strike(&list, subject("alice"), NOW).at) <= NOW + 2 * 3600);
}

#[test]
fn what_was_found_unstruck_is_asked_again_after_each_change() {
    let (list, checked) = (Revocations::new(), Checked::default());
    let asked = AtomicU64::new(0);
    let ask = || {
        list.is_struck(&checked, || {
            asked.fetch_add(1, Ordering::Relaxed);
            claims(Some(NOW))
        })
    };

    assert!(!ask() && !ask());
    assert_eq!(asked.load(Ordering::Relaxed), 0, "an empty list asks nothing");
    strike(&list, subject("bob"), NOW);
    assert!(!ask() && !ask() && !ask());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    strike(&list, subject("alice"), NOW);
    assert!(ask() && ask(), "what is struck is never noted as unstruck");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[test]
fn entries_end_by_themselves_and_those_for_good_do_not() {
    let list = Revocations::new();
    strike(&list, subject("alice"), NOW);
    let token = Target::Token { signing_input: [7; 32] };
    list.strike(token, at(NOW), Keep::Until(at(NOW + 60)), 1000).unwrap();
    list.strike(Target::ApiKey { id: "k".into() }, at(NOW), Keep::Forever, 1000).unwrap();
    let sweep_round = |now| (0..SHARDS).for_each(|_| list.sweep(at(now)));

    sweep_round(NOW + 59);
    assert_eq!(list.len(), 3);
    sweep_round(NOW + 60);
    assert_eq!(list.len(), 2);
    sweep_round(NOW + 3600);
    assert_eq!(list.len(), 1);
    sweep_round(NOW + 1_000_000_000);
    assert!(list.is_key_struck(&Checked::default(), "k") && !list.is_key_struck(&Checked::default(), "l"));
}

#[test]
fn a_full_list_says_so_and_makes_room_of_what_has_ended() {
    let list = Revocations::new();
    let try_strike = |name: &str, now| list.strike(subject(name), at(now), LIFE, 2).map(|_| ());
    try_strike("a", NOW).unwrap();
    try_strike("b", NOW).unwrap();

    assert_eq!(try_strike("c", NOW), Err(Full));
    assert_eq!(list.len(), 2);
    try_strike("a", NOW + 1).expect("what is there can be struck again");
    try_strike("c", NOW + 3600).expect("one has ended");
    assert_eq!(list.len(), 2);
}

#[test]
fn what_was_kept_is_in_force_again() {
    let (before, after) = (Revocations::new(), Revocations::new());
    let mut kept = Vec::new();
    let targets = [
        subject("alice"),
        issuer("i"),
        Target::Jti { issuer: "i".into(), jti: "j".into() },
        Target::Token { signing_input: [9; 32] },
        Target::ApiKey { id: "k".into() },
    ];
    for target in targets {
        let (struck, _) = before.strike(target, at(NOW), LIFE, 1000).unwrap();
        kept.push(serde_json::to_vec(&struck).unwrap());
    }

    for record in &kept {
        after.restore(&serde_json::from_slice(record).unwrap(), at(NOW + 10));
    }
    assert_eq!(after.len(), 5);
    assert!(is_struck(&after, claims(Some(NOW))));
    // After a restart with a clock that is behind, moments go on from where they were.
    assert_eq!(u64::from(strike(&after, subject("bob"), NOW - 3600).at), NOW);

    let late = Revocations::new();
    kept.iter().for_each(|record| late.restore(&serde_json::from_slice(record).unwrap(), at(NOW + 3600)));
    assert!(late.is_empty(), "what ended meanwhile stays away");
}

/// A list on a disk of its own, as it is when a process starts.
fn on_disk(folder: &std::path::Path, now: u64) -> Revocations {
    let settings =
        crate::durable::Settings { dir: folder.to_owned(), key_file: None, timeout: Duration::from_secs(600) };
    let clock = crate::clock::Clock::manual(at(now));
    Revocations::open(Some(Durable::open(&settings, &clock, |_| ()).unwrap()), at(now)).unwrap()
}

fn written(list: &Revocations, target: Target, now: u64, keep: Keep) -> Struck {
    let (struck, commit) = list.strike(target, at(now), keep, 1000).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(commit.unwrap()).unwrap();
    struck
}

#[test]
fn a_restart_forgets_nothing_and_no_moment_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let list = on_disk(folder.path(), NOW);
    assert!(list.is_durable());
    let first = written(&list, subject("alice"), NOW, LIFE);
    written(&list, Target::Token { signing_input: [9; 32] }, NOW, Keep::Until(at(NOW + 60)));
    drop(list);

    // The clock is an hour behind when the next process starts.
    let list = on_disk(folder.path(), NOW - 3600);
    assert!(is_struck(&list, claims(Some(NOW))));
    assert!(is_struck(
        &list,
        Claims { signing_input: &[9; 32].into(), subject: Some(("staff", "bob")), ..claims(Some(NOW)) }
    ));
    let again = written(&list, subject("alice"), NOW - 3600, LIFE);
    assert_eq!((again.at, again.until), (first.at, first.until));
    drop(list);

    let list = on_disk(folder.path(), NOW + 60);
    assert_eq!(list.len(), 1, "the token's entry has ended");
    list.sweep_disk(at(NOW + 60)).unwrap();
    written(&list, subject("bob"), NOW + 60, LIFE);
    let mut records = 0;
    list.durable
        .as_ref()
        .unwrap()
        .load(Table::Revocations, |_, _| {
            records += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(records, 2);
}

#[test]
fn a_record_that_cannot_be_read_lets_nothing_start() {
    let folder = tempfile::tempdir().unwrap();
    let list = on_disk(folder.path(), NOW);
    let batch = Batch::new().put(Table::Revocations, b"later", br#"{"kind":"moon_phase","at":1,"until":2}"#.to_vec());
    let commit = list.durable.as_ref().unwrap().commit(batch);
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(commit).unwrap();

    let again = Revocations::open(list.durable, at(NOW)).unwrap_err();
    assert!(again.to_string().contains("1 records cannot be read"), "{again}");
}

#[test]
fn whoever_asks_after_a_strike_was_answered_finds_it() {
    let list = Arc::new(Revocations::new());
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let list = &list;
            scope.spawn(move || {
                for turn in 0..500 {
                    let name = format!("{thread}-{turn}");
                    let checked = Checked::default();
                    let ask =
                        || list.is_struck(&checked, || Claims { subject: Some(("staff", &name)), ..claims(Some(NOW)) });
                    assert!(!ask());
                    strike_one(list, &name);
                    assert!(ask(), "{name}");
                }
            });
        }
    });
    assert_eq!(list.len(), 2000);
}

fn strike_one(list: &Revocations, name: &str) {
    list.strike(subject(name), at(NOW), LIFE, usize::MAX).unwrap();
}

#[test]
fn a_token_is_hashed_when_one_was_struck_by_what_is_signed_in_it_and_not_before() {
    let (list, checked) = (Revocations::new(), Checked::default());
    let signed = SigningInput::of_jws((*b"head.payload.signature").into());
    let ask = || {
        list.is_struck(&checked, || Claims { signing_input: &signed, jti: None, subject: None, ..claims(Some(NOW)) })
    };
    strike(&list, subject("bob"), NOW);
    assert!(!ask());
    assert!(format!("{signed:?}").contains("None"), "{signed:?}");

    strike(&list, Target::Token { signing_input: *SigningInput::of_opaque(b"head.other").hash() }, NOW);
    assert!(!ask());
    strike(&list, Target::Token { signing_input: *SigningInput::of_opaque(b"head.payload").hash() }, NOW);
    assert!(ask());
}

#[test]
fn a_million_entries_take_less_than_a_hundred_megabytes() {
    let list = Revocations::new();
    for number in 0..1_000_000_u32 {
        let mut signing_input = [0; 32];
        signing_input[..4].copy_from_slice(&number.to_le_bytes());
        list.strike(Target::Token { signing_input }, at(NOW), LIFE, 1_000_000).unwrap();
    }

    assert_eq!(list.len(), 1_000_000);
    assert_eq!(list.strike(subject("x"), at(NOW), LIFE, 1_000_000).map(drop), Err(Full));
    let bytes: usize = list.shards.iter().map(|shard| shard.read().unwrap().allocation_size()).sum();
    assert!(bytes < 100_000_000, "{bytes}");
    let mut last = [0; 32];
    last[..4].copy_from_slice(&999_999_u32.to_le_bytes());
    assert!(is_struck(&list, Claims { signing_input: &last.into(), ..claims(Some(NOW)) }));
    assert!(!is_struck(&list, claims(Some(NOW))));
}
