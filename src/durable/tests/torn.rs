//! Sessions on storage whose power goes at a random step: whatever was acknowledged is there afterwards, and nothing
//! that ended comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use serde_json::Map;

use super::{
    on,
    platter::{Platter, Random},
};
use crate::{
    clock::Timestamp,
    identity::{Factor, Identity, IdentityParts, Via},
    session::{Bind, Lookup, OpenError, SameSite, SessionKey, SessionToken, Settings, Store},
};

/// What was acknowledged so far.
#[derive(Default)]
struct Told {
    alive: BTreeMap<SessionKey, (SessionToken, usize)>,
    ended: BTreeSet<SessionKey>,
    /// Asked for and not acknowledged: either is right.
    in_doubt: BTreeSet<SessionKey>,
}

type Underway<'a> = Pin<Box<dyn Future<Output = Result<Option<SessionKey>, ()>> + 'a>>;

#[test]
fn what_was_acknowledged_holds_after_storage_lost_what_was_not_synced() {
    let seeds = if std::env::var("PORTCULLIS_DURABILITY").is_ok_and(|text| text == "long") { 1000 } else { 25 };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut logins, mut ends, mut crashes) = (0, 0, 0);
    for seed in 0..seeds {
        let mut random = Random(seed);
        let mut platter = Platter::default();
        let mut told = Told::default();
        // Twice, so that a crash also meets what an earlier crash has left behind, and its repair.
        for _ in 0..2 {
            runtime.block_on(life(&platter, &mut random, &mut told, seed));
            crashes += usize::from(platter.is_dead());
            platter = platter.after_the_crash(&mut random);
            check(&platter, &mut told, seed);
        }
        logins += told.alive.len();
        ends += told.ended.len();
    }
    println!("{seeds} seeds, {crashes} crashes: {logins} acknowledged logins found, {ends} acknowledged ends hold");
    assert!(logins > seeds as usize && ends > seeds as usize, "the test tests something");
}

/// Logs people in and out until the power goes, or long enough.
async fn life(platter: &Platter, random: &mut Random, told: &mut Told, seed: u64) {
    let (durable, _) = on(platter);
    platter.die_after(random.below(400));
    let Ok(store) = Store::restored(durable, &settings(), NOW) else {
        assert!(platter.is_dead(), "seed {seed}: what is on disk can be read");
        return;
    };
    for _ in 0..40 {
        let goes_on = match random.below(6) {
            0 => end(&store, random, told).await,
            1 => end_subject(&store, random, told).await,
            _ => open(&store, random, told).await,
        };
        store.keep_up(256);
        if !goes_on {
            return;
        }
    }
}

/// Some logins at once.
async fn open(store: &Store, random: &mut Random, told: &mut Told) -> bool {
    let users: Vec<usize> = (0..=random.below(8)).map(|_| random.below(USERS)).collect();
    let settings = settings();
    let opening = users.iter().map(|user| store.open(identity(*user), None, &settings, NOW));
    let mut all_there = true;
    for (opened, user) in all(opening.collect()).await.into_iter().zip(users) {
        match opened {
            Ok((token, session)) => {
                told.alive.insert(*session.key(), (token, user));
            }
            Err(error) => {
                assert_eq!(error, OpenError::Unavailable);
                all_there = false;
            }
        }
    }
    all_there
}

async fn end(store: &Store, random: &mut Random, told: &mut Told) -> bool {
    let Some(key) = told.alive.keys().nth(random.below(told.alive.len().max(1))).copied() else {
        return true;
    };
    let ended = store.end(&key).await;
    told.alive.remove(&key);
    if ended.is_ok() { &mut told.ended } else { &mut told.in_doubt }.insert(key);
    ended.is_ok()
}

/// Ends a user's sessions while the same user logs in.
async fn end_subject(store: &Store, random: &mut Random, told: &mut Told) -> bool {
    let user = random.below(USERS);
    let (subject, settings) = (subject(user), settings());
    let theirs: Vec<_> = told.alive.iter().filter(|(_, (_, of))| *of == user).map(|(key, _)| *key).collect();
    let logging_in = store.open(identity(user), None, &settings, NOW);
    let ending = store.end_subject("staff", &subject);
    let both: Vec<Underway<'_>> = vec![
        Box::pin(async { logging_in.await.map(|(_, session)| Some(*session.key())).map_err(|_| ()) }),
        Box::pin(async { ending.await.map(|_| None).map_err(|_| ()) }),
    ];
    let outcomes = all(both).await;
    let is_ended = outcomes[1].is_ok();
    for key in theirs {
        told.alive.remove(&key);
        if is_ended { &mut told.ended } else { &mut told.in_doubt }.insert(key);
    }
    // Asked for first, so ended by the second if there was anything to end.
    if let Ok(Some(key)) = outcomes[0] {
        let lives = store.find(&key).is_some();
        if is_ended && !lives { &mut told.ended } else { &mut told.in_doubt }.insert(key);
    }
    is_ended
}

fn check(platter: &Platter, told: &mut Told, seed: u64) {
    let (durable, _) = on(platter);
    let store =
        Store::restored(durable.clone(), &settings(), NOW).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    for (token, user) in told.alive.values() {
        let Lookup::Found(session) = store.lookup(token, &settings(), NOW) else {
            panic!("seed {seed}: an acknowledged login of user {user} is gone");
        };
        assert_eq!(session.identity().to_parts().roles, identity(*user).to_parts().roles, "seed {seed}");
        assert_eq!(session.identity().subject(), subject(*user), "seed {seed}");
    }
    for key in &told.ended {
        assert!(store.find(key).is_none(), "seed {seed}: an acknowledged end did not hold");
    }
    assert!(durable.close(Duration::from_secs(60)), "seed {seed}: it can be written again");
}

/// Polls all of them, so that they are under way together.
async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outcomes: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (future, outcome) in futures.iter_mut().zip(&mut outcomes) {
            if outcome.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *outcome = Some(ready);
            }
        }
        if outcomes.iter().all(Option::is_some) {
            Poll::Ready(outcomes.iter_mut().filter_map(Option::take).collect())
        } else {
            Poll::Pending
        }
    })
    .await
}

fn subject(user: usize) -> String {
    format!("user-{user}")
}

fn identity(user: usize) -> Arc<Identity> {
    let parts = IdentityParts {
        realm: "staff".into(),
        subject: subject(user),
        name: Some(format!("Üser {user}")),
        email: None,
        email_verified: false,
        roles: vec![format!("role {user}"), "a,b".into()],
        groups: vec![],
        scopes: vec![],
        claims: Map::new(),
        auth_time: Some(NOW),
        factor: Factor::One,
        via: Via::Session,
    };
    Arc::new(Identity::new(parts).unwrap())
}

fn settings() -> Settings {
    Settings {
        cookie: "__Host-portcullis".into(),
        bind: Bind::None,
        same_site: SameSite::Lax,
        idle_timeout: Duration::from_secs(30 * 60),
        max_lifetime: Duration::from_secs(12 * 3600),
        max_sessions: 100_000,
        max_per_user: 1000,
        max_session_bytes: 4096,
    }
}

const USERS: usize = 5;
const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
