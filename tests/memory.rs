//! What a session costs in resident memory, everything included: identity, record, table, index, allocator.
//!
//! Its own program, because it measures the whole process and sets the allocator that the gateway uses.
#![expect(clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::{hint::black_box, sync::Arc, time::Duration};

use portcullis::{
    clock::Timestamp,
    identity::{Factor, Identity, IdentityParts, Via},
    session::{SameSite, Settings, Store},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sixteenth of a million: the tables double in step, so their slack for each session is that of a million.
const SESSIONS: usize = 62_500;

#[test]
fn a_session_of_a_reference_identity_takes_at_most_a_kibibyte() {
    let each = resident_bytes_each(SESSIONS);

    assert!(each <= 1024.0, "{each} bytes a session");
    // A positive twin: the measurement sees the sessions at all.
    assert!(each >= 500.0, "{each} bytes a session");
}

#[test]
#[ignore = "takes a gibibyte"]
fn a_million_sessions_take_at_most_a_kibibyte_each() {
    let each = resident_bytes_each(1_000_000);

    assert!(each <= 1024.0, "{each} bytes a session");
}

fn resident_bytes_each(sessions: usize) -> f64 {
    let settings = Settings {
        cookie: "__Host-portcullis".into(),
        same_site: SameSite::Lax,
        idle_timeout: Duration::from_secs(1800),
        max_lifetime: Duration::from_secs(43_200),
        max_sessions: 2_000_000,
        max_per_user: 10,
        max_session_bytes: 4096,
    };
    let now = Timestamp::from_unix_seconds(1_800_000_000);
    let realm: Arc<str> = "staff".into();
    let store = Store::in_memory();
    // Warms what is allocated once.
    for i in 0..100 {
        drop(reference_identity(&realm, sessions + i, now));
    }
    let before = resident_bytes();
    for i in 0..sessions {
        store.open(reference_identity(&realm, i, now), &settings, now).expect("there is room");
    }
    let after = resident_bytes();
    assert_eq!(black_box(&store).len(), sessions);
    let each = (after - before) as f64 / sessions as f64;
    println!("{each:.0} bytes a session");
    each
}

/// 36 bytes of subject, 24 of name, 32 of email, five roles and five groups of 16.
fn reference_identity(realm: &Arc<str>, i: usize, now: Timestamp) -> Arc<Identity> {
    let names = |kind: &str| (0..5).map(|n| format!("{kind}-{n:0>10}")).collect::<Vec<_>>();
    let parts = IdentityParts {
        realm: Arc::clone(realm),
        subject: format!("0f8fad5b-d9cb-469f-a165-{i:012}"),
        name: Some(format!("Reference User {i:09}")),
        email: Some(format!("user-{i:012}-of@example.com").chars().take(32).collect()),
        email_verified: true,
        roles: names("role-"),
        groups: names("group"),
        scopes: vec![],
        claims: serde_json::Map::new(),
        auth_time: Some(now),
        factor: Factor::One,
        via: Via::Session,
    };
    assert_eq!((parts.subject.len(), parts.name.as_ref().map(String::len)), (36, Some(24)));
    assert!(parts.roles.iter().chain(&parts.groups).all(|name| name.len() == 16));
    Arc::new(Identity::new(parts).expect("a fit subject"))
}

/// `VmRSS` of this process.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib = line.split_whitespace().nth(1).and_then(|digits| digits.parse::<usize>().ok()).expect("a number");
    kib * 1024
}
