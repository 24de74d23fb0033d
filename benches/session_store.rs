//! Session look-up by token: 1 thousand, 100 thousand and 1 million sessions; 1, 2 and 4 threads.
//!
//! A look-up is what a request pays: the SHA-256 of the token, one probe of the table, both limits, and a reference
//! count. Tokens are asked for in random order, so that nothing but the size of the store differs. Aim: a look-up
//! among a million costs at most twice that among a thousand.
#![expect(clippy::expect_used, reason = "a benchmark that cannot set itself up has nothing to measure")]

use std::{
    cell::Cell,
    sync::{Arc, LazyLock},
    time::Duration,
};

use divan::{Bencher, black_box};
use portcullis::{
    clock::Timestamp,
    identity::{Factor, Identity, IdentityParts, Via},
    session::{Bind, Lookup, SameSite, SessionToken, Settings, Store},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];
const THREADS: [usize; 3] = [1, 2, 4];

#[divan::bench(args = SIZES, threads = THREADS, sample_size = 1000, sample_count = 500)]
fn look_up(bencher: Bencher<'_, '_>, sessions: usize) {
    let filled = filled(sessions);
    bencher.bench(|| filled.store.lookup(filled.next_token(), &filled.settings, black_box(NOW)));
}

#[divan::bench(args = SIZES, threads = THREADS, sample_size = 1000, sample_count = 500)]
fn look_up_and_touch(bencher: Bencher<'_, '_>, sessions: usize) {
    let filled = filled(sessions);
    bencher.bench(|| match filled.store.lookup(filled.next_token(), &filled.settings, black_box(NOW)) {
        Lookup::Found(session) => filled.store.touch(&session, NOW),
        Lookup::Absent | Lookup::Unavailable => unreachable!("the token was opened"),
    });
}

/// A token that names nothing: what a flood of made-up cookies costs.
#[divan::bench(args = SIZES, sample_size = 1000, sample_count = 500)]
fn miss(bencher: Bencher<'_, '_>, sessions: usize) {
    let filled = filled(sessions);
    let unknown = SessionToken::generate();
    bencher.bench(|| filled.store.lookup(black_box(&unknown), &filled.settings, NOW));
}

/// Parsing and hashing alone: the part of a look-up that no store can save.
#[divan::bench(sample_size = 1000, sample_count = 500)]
fn parse_and_hash(bencher: Bencher<'_, '_>) {
    let token = SessionToken::generate();
    let text = token.expose().as_bytes();
    bencher.bench(|| SessionToken::parse(black_box(text)).map(|token| token.key()));
}

#[divan::bench(args = SIZES, sample_size = 100, sample_count = 100)]
fn open_and_end(bencher: Bencher<'_, '_>, sessions: usize) {
    let filled = filled(sessions);
    let identity = identity(usize::MAX);
    bencher.bench(|| {
        let opened = ready(filled.store.open(Arc::clone(&identity), None, &filled.settings, NOW));
        opened.map(|(_, session)| ready(filled.store.end(session.key())))
    });
}

struct Filled {
    store: Store,
    settings: Settings,
    tokens: Vec<SessionToken>,
}

impl Filled {
    fn next_token(&self) -> &SessionToken {
        thread_local! {
            static NEXT: Cell<Option<usize>> = const { Cell::new(None) };
        }
        // Threads begin at different places.
        let start = || usize::from(SessionToken::generate().expose().as_bytes()[0]) * 3907;
        let next = NEXT.get().unwrap_or_else(start) + 1;
        NEXT.set(Some(next));
        &self.tokens[next % self.tokens.len()]
    }
}

fn filled(sessions: usize) -> &'static Filled {
    static SMALL: LazyLock<Filled> = LazyLock::new(|| fill(SIZES[0]));
    static MIDDLE: LazyLock<Filled> = LazyLock::new(|| fill(SIZES[1]));
    static LARGE: LazyLock<Filled> = LazyLock::new(|| fill(SIZES[2]));
    match sessions {
        1_000 => &SMALL,
        100_000 => &MIDDLE,
        _ => &LARGE,
    }
}

fn fill(sessions: usize) -> Filled {
    let settings = Settings {
        cookie: "__Host-portcullis".into(),
        same_site: SameSite::Lax,
        bind: Bind::None,
        idle_timeout: Duration::from_secs(1800),
        max_lifetime: Duration::from_secs(43_200),
        max_sessions: 2_000_000,
        max_per_user: 10,
        max_session_bytes: 4096,
    };
    let store = Store::in_memory();
    let open = |i| ready(store.open(identity(i), None, &settings, NOW)).expect("there is room").0;
    let mut tokens: Vec<SessionToken> = (0..sessions).map(open).collect();
    // Tokens are random, so their order is unrelated to the order in which memory was given out.
    tokens.sort_by(|a, b| a.expose().cmp(b.expose()));
    Filled { store, settings, tokens }
}

fn identity(i: usize) -> Arc<Identity> {
    let names = |kind: &str| (0..5).map(|n| format!("{kind}-{n:0>10}")).collect::<Vec<_>>();
    let parts = IdentityParts {
        realm: "staff".into(),
        subject: format!("0f8fad5b-d9cb-469f-a165-{i:012}"),
        name: Some(format!("Reference User {i:09}")),
        email: Some(format!("user-{i:012}@example.com")),
        email_verified: true,
        roles: names("role-"),
        groups: names("group"),
        scopes: vec![],
        claims: serde_json::Map::new(),
        auth_time: Some(NOW),
        factor: Factor::One,
        via: Via::Session,
    };
    Arc::new(Identity::new(parts).expect("a fit subject"))
}

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// What a change of a store in memory comes to: it is ready at once.
fn ready<T>(change: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(change).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => unreachable!("nothing is waited for without a disk"),
    }
}
