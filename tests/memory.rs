//! What a session, and a revocation, costs in resident memory, everything included: identity, record, table, index,
//! allocator.
//!
//! Its own program, because it measures the whole process and sets the allocator that the gateway uses.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on must fail")]

use std::{cell::Cell, hint::black_box, pin::Pin, sync::Arc, task::Poll, time::Duration};

use portcullis::{
    clock::{Clock, Timestamp, instant},
    durable::{self, Durable},
    identity::{Factor, Identity, IdentityParts, Via},
    revocation::{Checked, Claims, Keep, Revocations, SigningInput, Target},
    session::{Bind, MemoryStore, SameSite, Settings, Store},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sixteenth of a million: the tables double in step, so their slack for each session is that of a million.
const SESSIONS: usize = 62_500;

const MILLION: usize = 1_000_000;
const TOGETHER: usize = 4000;
const MAX_RESIDENT: usize = 1100 << 20;
const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// Where the first half of a test tells the second half what to open.
const STATE: &str = "PORTCULLIS_TEST_STATE";

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

/// With a database behind them, and again after a restart: 1.1 GiB, and eight seconds on two cores.
#[test]
#[ignore = "takes a gibibyte"]
fn a_million_sessions_on_disk_take_little_more_and_are_back_in_seconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let before = resident_bytes();
    let durable = database(folder.path());
    let store = Store::restored(durable.clone(), &settings(), NOW).expect("an empty store");
    let realm: Arc<str> = "staff".into();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for first in (0..MILLION).step_by(TOGETHER) {
        runtime.block_on(async {
            let settings = settings();
            let opening: Vec<_> = (first..first + TOGETHER)
                .map(|i| Box::pin(store.open(reference_identity(&realm, i, NOW), None, &settings, NOW)))
                .collect();
            for opened in together(opening).await {
                opened.expect("there is room");
            }
        });
    }
    let resident = resident_bytes() - before;
    println!("{} MiB with a million sessions on disk and in memory", resident >> 20);
    assert_eq!(store.len(), MILLION);
    assert!(resident <= MAX_RESIDENT, "{resident} bytes");
    // As after a crash: nothing is closed.
    drop((store, durable));

    let restarted = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture", "they_are_back_after_a_restart"])
        .env(STATE, folder.path())
        .status();
    assert!(restarted.is_ok_and(|status| status.success()), "the restarted program is content");
}

/// The other half of the test above, in a process of its own.
#[test]
#[ignore = "is run by another test"]
fn they_are_back_after_a_restart() {
    let Some(folder) = std::env::var_os(STATE) else { return };
    let before = resident_bytes();
    let began = instant();
    let durable = database(std::path::Path::new(&folder));
    let opened = began.elapsed();
    let store = Store::restored(durable, &settings(), NOW).expect("they can be read");
    let took = began.elapsed();
    let resident = resident_bytes() - before;
    println!("back after {took:.1?}, of which {opened:.1?} to check the file; {} MiB", resident >> 20);
    assert_eq!(store.len(), MILLION);
    assert!(resident <= MAX_RESIDENT, "{resident} bytes");
    // Without optimization it takes longer by a factor that says nothing.
    let limit = if cfg!(debug_assertions) { 40 } else { 8 };
    assert!(took <= Duration::from_secs(limit), "{took:?}");

    // What the gateway does once a second while nobody comes, for a minute: less than a hundredth of a processor.
    let began = instant();
    for _ in 0..60 {
        store.sweep(&settings(), NOW, MILLION / 60);
        store.keep_up(MemoryStore::SEGMENTS / 2);
    }
    let idle = began.elapsed() / 60;
    println!("{idle:.1?} a second to look after a million idle sessions");
    assert!(idle <= Duration::from_millis(10), "{idle:?}");
}

/// R28. With `limits.max_revocations` as it is shipped, and what each costs whoever asks.
#[test]
#[ignore = "weighs the whole process"]
fn a_million_revocations_take_at_most_a_hundred_megabytes() {
    let list = Revocations::new();
    let before = resident_bytes();
    for number in 0..MILLION {
        let jti = format!("0d5f2b0e-3b1c-4c57-9d3e-{number:012}").into();
        let target = Target::Jti { issuer: "https://id.example.com/realms/main".into(), jti };
        list.strike(target, NOW, Keep::For(Duration::from_secs(86_400)), MILLION).expect("there is room");
    }
    let resident = resident_bytes() - before;
    println!("{:.1} MB with a million revocations", resident as f64 / 1e6);
    assert_eq!(list.len(), MILLION);
    assert!(resident <= 100_000_000, "{resident} bytes");
    // A positive twin: the measurement sees them at all.
    assert!(resident >= 20_000_000, "{resident} bytes");

    let (known, asked) = (Checked::default(), Cell::new(0_u32));
    let signed = SigningInput::from([7; 32]);
    let is_struck = |checked: &Checked, jti: &str| {
        list.is_struck(checked, || {
            asked.set(asked.get() + 1);
            let (issuer, subject) = ("https://id.example.com/realms/main", Some(("staff", "alice")));
            let (signing_input, leeway) = (&signed, Duration::from_secs(30));
            Claims { issuer, jti: Some(jti), signing_input, subject, issued_at: Some(NOW), leeway }
        })
    };
    assert!(is_struck(&Checked::default(), "0d5f2b0e-3b1c-4c57-9d3e-000000000007"));
    let began = instant();
    for _ in 0..MILLION {
        assert!(!is_struck(black_box(&known), "not struck"));
    }
    println!(
        "{:.1} ns for a token that was found unstruck before",
        began.elapsed().as_secs_f64() * 1e9 / MILLION as f64
    );
    assert_eq!(asked.get(), 2, "the list is looked into once, and again when it has changed");
}

fn database(folder: &std::path::Path) -> Durable {
    let settings = durable::Settings { dir: folder.join("state"), key_file: None, timeout: Duration::from_secs(600) };
    let until = instant() + Duration::from_secs(30);
    loop {
        match Durable::open(&settings, &Clock::system(), |_| ()) {
            Ok(durable) => return durable,
            // The thread of the one before is ending.
            Err(error) if instant() < until && error.to_string().contains("in use") => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Polls all of them, so that they share transactions.
async fn together<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut done = Vec::with_capacity(futures.len());
    std::future::poll_fn(|context| {
        for at in (0..futures.len()).rev() {
            if let Some(Poll::Ready(output)) = futures.get_mut(at).map(|future| Pin::new(future).poll(context)) {
                done.push(output);
                futures.swap_remove(at);
            }
        }
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done
}

fn settings() -> Settings {
    Settings {
        cookie: "__Host-portcullis".into(),
        same_site: SameSite::Lax,
        bind: Bind::None,
        idle_timeout: Duration::from_secs(1800),
        max_lifetime: Duration::from_secs(43_200),
        max_sessions: 2_000_000,
        max_per_user: 10,
        max_session_bytes: 4096,
    }
}

fn resident_bytes_each(sessions: usize) -> f64 {
    let (settings, now) = (settings(), NOW);
    let realm: Arc<str> = "staff".into();
    let store = Store::in_memory();
    // Warms what is allocated once.
    for i in 0..100 {
        drop(reference_identity(&realm, sessions + i, now));
    }
    let before = resident_bytes();
    for i in 0..sessions {
        ready(store.open(reference_identity(&realm, i, now), None, &settings, now)).expect("there is room");
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

/// What a change of a store in memory comes to: it is ready at once.
fn ready<T>(change: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(change).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("nothing is waited for without a disk"),
    }
}
