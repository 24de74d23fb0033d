//! Keys change, and nobody notices: backends that keep the key set, restarts, clocks that are set back.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    clock::{Clock, Timestamp},
    signing::rotation::{KEEP, LEAD, TERM},
};

use super::{HEADER, KEY_SET, Keys, asserting, assertion_of, token};
use crate::support::{Client, Gateway, Issuer, Reply, Upstream, eventually, gateway::Running};

const MINUTE: Duration = Duration::from_secs(60);

/// A backend that verifies whatever comes with the key set that it has, and fetches it again when that is too old.
struct Verifier {
    client: Mutex<Option<Client>>,
    clock: Clock,
    kept_for: Duration,
    cached: Mutex<Option<(Timestamp, Arc<Keys>)>>,
    refused: Mutex<Vec<String>>,
    believed: AtomicUsize,
}

impl Verifier {
    fn new(clock: &Clock, kept_for: Duration) -> Arc<Self> {
        Arc::new(Self {
            client: Mutex::default(),
            clock: clock.clone(),
            kept_for,
            cached: Mutex::default(),
            refused: Mutex::default(),
            believed: AtomicUsize::new(0),
        })
    }

    fn serve(self: &Arc<Self>, upstream: &Upstream) {
        let verifier = Arc::clone(self);
        upstream.respond(move |seen| {
            // Before the keys: an assertion was signed before it is looked at.
            let now = verifier.clock.now();
            match verifier.keys(now).verify(&assertion_of(seen), "backend", now) {
                Ok(_) => drop(verifier.believed.fetch_add(1, Ordering::Relaxed)),
                // The clock is moved by hours at once while a request is under way.
                Err(why) if why.starts_with("from ") => {}
                Err(why) => verifier.refused.lock().expect("no test panics here").push(why),
            }
            Reply::ok("seen")
        });
    }

    fn keys(&self, now: Timestamp) -> Arc<Keys> {
        let mut cached = self.cached.lock().expect("no test panics here");
        match &*cached {
            Some((at, keys)) if now.since(*at) < self.kept_for => Arc::clone(keys),
            _ => {
                let client = self.client.lock().expect("no test panics here").clone().expect("a client");
                let keys = Arc::new(Keys::fetch(&client));
                *cached = Some((now, Arc::clone(&keys)));
                keys
            }
        }
    }
}

fn signing_kid(gateway: &Running, issuer: &Issuer, upstream: &Upstream) -> String {
    gateway.client().get("/probe/x").bearer(&token(issuer, gateway)).send().expect(200);
    let assertion = assertion_of(&upstream.next_request());
    jsonwebtoken::decode_header(&assertion).expect("a header").kid.expect("a kid")
}

fn published(gateway: &Running) -> usize {
    Keys::fetch(&gateway.client()).kids().len()
}

/// R22. Three backends under load, of which one keeps the key set for as long as it says, one for nearly a day, and one
/// fetches it for each request.
#[test]
fn a_backend_that_keeps_the_key_set_never_meets_an_unknown_key() {
    let (probe, issuer) = (Upstream::start(), Issuer::es256());
    let backends = [Upstream::start(), Upstream::start(), Upstream::start()];
    let mut gateway = asserting("").issuer(&issuer).route("/probe/{*rest}", &probe);
    for (number, backend) in backends.iter().enumerate() {
        gateway = gateway.route(&format!("/{number}/{{*rest}}"), backend);
        gateway = gateway.upstream_key("assertion_audience = \"backend\"");
    }
    let gateway = gateway.start();
    let kept_for = [Duration::from_secs(300), LEAD - MINUTE, Duration::ZERO];
    let verifiers = kept_for.map(|kept_for| Verifier::new(gateway.clock(), kept_for));
    for (verifier, backend) in verifiers.iter().zip(&backends) {
        *verifier.client.lock().unwrap() = Some(gateway.client());
        verifier.serve(backend);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..backends.len() {
            let (gateway, issuer, stop) = (&gateway, &issuer, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let target = format!("/{number}/x");
                    let bearer = token(issuer, gateway);
                    let answer = gateway.client().get(&target).bearer(&bearer).send();
                    // The token may have expired while the clock was moved.
                    assert!(matches!(answer.status, 200 | 401), "{answer:?}");
                }
            });
        }
        let pass = |times: u32| {
            for _ in 0..times {
                gateway.advance(MINUTE);
                let before: Vec<usize> = verifiers.iter().map(|v| v.believed.load(Ordering::Relaxed)).collect();
                eventually("every backend has been asked", || {
                    let now = verifiers.iter().map(|v| v.believed.load(Ordering::Relaxed));
                    now.zip(&before).all(|(now, before)| now > *before)
                });
            }
        };
        let mut kid = signing_kid(&gateway, &issuer, &probe);
        for _ in 0..2 {
            pass(2);
            gateway.advance(TERM - LEAD - 8 * MINUTE);
            pass(8);
            eventually("the next key is published", || published(&gateway) == 2);
            assert_eq!(signing_kid(&gateway, &issuer, &probe), kid);
            pass(3);
            gateway.advance(LEAD - 8 * MINUTE);
            pass(6);
            eventually("the next key signs", || signing_kid(&gateway, &issuer, &probe) != kid);
            kid = signing_kid(&gateway, &issuer, &probe);
            assert_eq!(published(&gateway), 2);
            pass(12);
            eventually("the old key is gone", || published(&gateway) == 1);
            pass(2);
        }
        stop.store(true, Ordering::Relaxed);
    });

    for verifier in &verifiers {
        assert_eq!(*verifier.refused.lock().unwrap(), Vec::<String>::new());
        assert!(verifier.believed.load(Ordering::Relaxed) > 60);
    }
    assert_eq!(gateway.metric("portcullis_signing_key_rotations_total", &[("purpose", "assertion")]), 3.0);
}

fn durable(folder: &std::path::Path, issuer: &Issuer, upstream: &Upstream, clock: &Clock) -> Running {
    let gateway = asserting("").at(clock.now()).server(&format!("state_dir = {:?}", folder.join("state")));
    gateway.issuer(issuer).route("/probe/{*rest}", upstream).start()
}

/// R27.
#[test]
fn what_was_signed_before_a_restart_is_verified_after_it() {
    let (upstream, issuer, folder) = (Upstream::start(), Issuer::es256(), tempfile::tempdir().unwrap());
    let clock = Clock::manual(Clock::system().now());
    let gateway = durable(folder.path(), &issuer, &upstream, &clock);
    let kid = signing_kid(&gateway, &issuer, &upstream);
    gateway.client().get("/probe/x").bearer(&token(&issuer, &gateway)).send().expect(200);
    let assertion = assertion_of(&upstream.next_request());
    assert!(gateway.stop());

    let gateway = durable(folder.path(), &issuer, &upstream, &clock);

    assert!(Keys::fetch(&gateway.client()).verify(&assertion, "u0", clock.now()).is_ok());
    assert_eq!(signing_kid(&gateway, &issuer, &upstream), kid);
    assert!(gateway.stop());

    // A long pause: what was due is begun, and not rushed.
    clock.advance(3 * TERM);
    let gateway = durable(folder.path(), &issuer, &upstream, &clock);
    assert_eq!((signing_kid(&gateway, &issuer, &upstream), published(&gateway)), (kid.clone(), 2));
    gateway.advance(LEAD);
    eventually("the next key signs", || signing_kid(&gateway, &issuer, &upstream) != kid);
    let second = signing_kid(&gateway, &issuer, &upstream);
    assert!(gateway.stop());

    // And a clock that is behind when the next process starts.
    let gateway = durable(folder.path(), &issuer, &upstream, &clock);
    assert_eq!(signing_kid(&gateway, &issuer, &upstream), second);
    gateway.advance(KEEP);
    eventually("the first key is gone", || Keys::fetch(&gateway.client()).kids() == [second.as_str()]);
}

/// Without `state_dir` nobody can know the key of the next process.
#[test]
fn without_a_directory_for_state_each_start_makes_a_key() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let kid = || {
        let gateway = asserting("").issuer(&issuer).route("/probe/{*rest}", &upstream).start();
        signing_kid(&gateway, &issuer, &upstream)
    };

    assert_ne!(kid(), kid());
}

#[test]
fn a_clock_that_is_set_back_gives_no_assertion_a_longer_life() {
    let (upstream, issuer) = (Upstream::start(), Issuer::es256());
    let gateway = asserting("").issuer(&issuer).route("/{*rest}", &upstream).start();
    let hour = Duration::from_secs(3600);
    let mut claims = Issuer::claims("alice", &[], gateway.now().minus(2 * hour));
    claims["exp"] = (gateway.now().unix_seconds() + 3600).into();
    let bearer = issuer.sign(&claims);
    let told = || {
        gateway.client().get("/x").bearer(&bearer).send().expect(200);
        let seen = upstream.next_request();
        Keys::fetch(&gateway.client()).verify(seen.header(HEADER).unwrap(), "u0", gateway.now())
    };
    assert!(told().is_ok());

    gateway.clock().set(gateway.now().minus(hour));

    for _ in 0..4 {
        assert_eq!(told().expect("it counts now")["exp"], gateway.now().unix_seconds() + 60);
    }
    assert_eq!(gateway.client().get(KEY_SET).send().expect(200).status, 200);
}
