//! Who is let through how often: buckets, places, what callers are told, and what a crowd can do.

use std::{net::IpAddr, sync::Arc, thread};

use proptest::prelude::*;

use super::*;
use crate::identity::{Factor, IdentityParts, Via};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
const ROOM: usize = 1_000_000;

fn identity(realm: &str, subject: &str) -> Identity {
    Identity::new(IdentityParts {
        realm: realm.into(),
        subject: subject.into(),
        name: None,
        email: None,
        email_verified: false,
        roles: Vec::new(),
        groups: Vec::new(),
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
        auth_time: None,
        factor: Factor::One,
        via: Via::Session,
    })
    .unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn stranger(text: &str) -> Who<'static> {
    Who { identity: None, address: address(text) }
}

fn rate(of: Counted, requests: u32, seconds: u64) -> Rate {
    Rate { of, requests, per: Duration::from_secs(seconds) }
}

fn rates(all: &[Rate]) -> Limits {
    Limits::new(all, [])
}

fn ask(limiter: &Limiter, limits: &Limits, who: Who<'_>, now: Timestamp) -> Result<Admitted, Exceeded> {
    limiter.admit(&[Scope { name: "app", limits }], who, now, ROOM)
}

fn fields(standing: Option<Standing>) -> (String, String) {
    let standing = standing.unwrap();
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    (text(&standing.policy), text(&standing.rate_limit))
}

#[test]
fn so_many_requests_come_at_once_and_then_at_the_rate_at_which_the_bucket_fills() {
    let (limiter, limits) = (Limiter::new(), rates(&[rate(Counted::Caller, 10, 20)]));
    let who = stranger("192.0.2.1");
    for left in (0..10).rev() {
        let admitted = ask(&limiter, &limits, who, NOW).unwrap();
        assert!(fields(admitted.standing).1.contains(&format!(";r={left};")));
    }

    let exceeded = ask(&limiter, &limits, who, NOW).unwrap_err();
    assert_eq!((exceeded.reason, exceeded.retry_after), ("rate_of_caller", Duration::from_secs(2)));
    assert!(ask(&limiter, &limits, who, NOW.plus(Duration::from_millis(1999))).is_err());
    assert!(ask(&limiter, &limits, who, NOW.plus(Duration::from_secs(2))).is_ok());
    assert!(ask(&limiter, &limits, who, NOW.plus(Duration::from_secs(2))).is_err());
    let later = NOW.plus(Duration::from_secs(60));
    assert_eq!((0..20).filter(|_| ask(&limiter, &limits, who, later).is_ok()).count(), 10);
}

#[test]
fn a_caller_is_who_they_proved_to_be_wherever_from_and_else_their_address() {
    let (limiter, limits) = (Limiter::new(), rates(&[rate(Counted::Caller, 1, 60)]));
    let (alice, bob) = (identity("staff", "alice"), identity("staff", "bob"));
    let here = address("192.0.2.1");

    assert!(ask(&limiter, &limits, Who { identity: Some(&alice), address: here }, NOW).is_ok());
    assert!(ask(&limiter, &limits, Who { identity: Some(&alice), address: address("2001:db8::1") }, NOW).is_err());
    assert!(ask(&limiter, &limits, Who { identity: Some(&bob), address: here }, NOW).is_ok());
    assert!(ask(&limiter, &limits, Who { identity: None, address: here }, NOW).is_ok());
    assert!(ask(&limiter, &limits, Who { identity: None, address: here }, NOW).is_err());
}

#[test]
fn the_same_subject_of_another_realm_is_somebody_else() {
    let (limiter, limits) = (Limiter::new(), rates(&[rate(Counted::Caller, 1, 60)]));
    let (staff, partners) = (identity("staff", "alice"), identity("partners", "alice"));
    let here = address("192.0.2.1");

    assert!(ask(&limiter, &limits, Who { identity: Some(&staff), address: here }, NOW).is_ok());
    assert!(ask(&limiter, &limits, Who { identity: Some(&partners), address: here }, NOW).is_ok());
    assert!(ask(&limiter, &limits, Who { identity: Some(&staff), address: here }, NOW).is_err());
}

#[test]
fn an_ipv6_network_is_one_client() {
    let (limiter, limits) = (Limiter::new(), rates(&[rate(Counted::Address, 1, 60)]));

    assert!(ask(&limiter, &limits, stranger("2001:db8:0:1::1"), NOW).is_ok());
    assert!(ask(&limiter, &limits, stranger("2001:db8:0:1:ffff::2"), NOW).is_err());
    assert!(ask(&limiter, &limits, stranger("2001:db8:0:2::1"), NOW).is_ok());
    assert!(ask(&limiter, &limits, stranger("::ffff:192.0.2.1"), NOW).is_ok());
    assert!(ask(&limiter, &limits, stranger("192.0.2.1"), NOW).is_err());
}

#[test]
fn what_one_limit_refuses_counts_under_none() {
    let limiter = Limiter::new();
    let limits = rates(&[rate(Counted::Caller, 5, 60), rate(Counted::All, 1, 60)]);

    assert!(ask(&limiter, &limits, stranger("192.0.2.1"), NOW).is_ok());
    for _ in 0..10 {
        let exceeded = ask(&limiter, &limits, stranger("192.0.2.1"), NOW).unwrap_err();
        assert_eq!(exceeded.reason, "rate_of_all");
        assert!(fields(exceeded.standing).1.contains(";r=3;"), "one was used, and this one would be the second");
    }
    let caller_only = rates(&[rate(Counted::Caller, 5, 60)]);
    assert_eq!((0..9).filter(|_| ask(&limiter, &caller_only, stranger("192.0.2.1"), NOW).is_ok()).count(), 4);
}

#[test]
fn routes_have_counts_of_their_own_and_the_gateways_limits_hold_for_all_together() {
    let limiter = Limiter::new();
    let (gateway, route) = (rates(&[rate(Counted::Caller, 3, 60)]), rates(&[rate(Counted::Caller, 2, 60)]));
    let on = |name| {
        let scopes = [Scope { name: "", limits: &gateway }, Scope { name, limits: &route }];
        limiter.admit(&scopes, stranger("192.0.2.1"), NOW, ROOM).is_ok()
    };

    assert!(on("one") && on("one") && !on("one"));
    assert!(on("two") && !on("two"), "three in all");
}

#[test]
fn callers_are_told_their_limits_and_not_what_all_others_do() {
    let limiter = Limiter::new();
    let gateway = rates(&[rate(Counted::Caller, 100, 3600)]);
    let route = rates(&[rate(Counted::Caller, 2, 1), rate(Counted::Address, 50, 60), rate(Counted::All, 7, 1)]);
    let scopes = [Scope { name: "", limits: &gateway }, Scope { name: "app", limits: &route }];
    let again = || limiter.admit(&scopes, stranger("192.0.2.1"), NOW, ROOM);
    let policy = "\"gateway-caller-1h\";q=100;w=3600, \"caller-1s\";q=2;w=1, \"address-1m\";q=50;w=60";

    assert_eq!(fields(again().unwrap().standing), (policy.into(), "\"caller-1s\";r=1;t=1".into()));
    assert_eq!(fields(again().unwrap().standing), (policy.into(), "\"caller-1s\";r=0;t=1".into()));
    assert_eq!(fields(again().unwrap_err().standing), (policy.into(), "\"caller-1s\";r=0;t=1".into()));
    let only_all = rates(&[rate(Counted::All, 7, 1)]);
    assert_eq!(ask(&limiter, &only_all, stranger("192.0.2.1"), NOW).unwrap().standing, None);
}

#[test]
fn a_clock_that_is_set_back_makes_nobody_wait_for_longer_than_an_empty_bucket() {
    let (limiter, limits) = (Limiter::new(), rates(&[rate(Counted::Caller, 10, 60)]));
    let who = stranger("192.0.2.1");
    while ask(&limiter, &limits, who, NOW).is_ok() {}

    let exceeded = ask(&limiter, &limits, who, NOW.minus(Duration::from_secs(86_400))).unwrap_err();

    assert_eq!(exceeded.retry_after, Duration::from_secs(6));
}

#[test]
fn callers_beyond_the_room_share_buckets_and_take_nobody_elses() {
    let (limiter, limits) = (Limiter::new(), rates(&[rate(Counted::Caller, 5, 3600)]));
    let ask = |text: &str| limiter.admit(&[Scope { name: "app", limits: &limits }], stranger(text), NOW, 64);
    let known = "192.0.2.1";
    for _ in 0..4 {
        assert!(ask(known).is_ok());
    }
    let crowd = |number: u32| format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255);

    let admitted = (0..20_000).filter(|number| ask(&crowd(*number)).is_ok()).count();

    let (apart, shared) = limiter.buckets();
    assert!(apart <= 64 + 64, "{apart}");
    assert!(shared > 19_000, "{shared}");
    assert!((64..=64 + 64 * 5).contains(&admitted), "{admitted}: nobody gets more for coming as many");
    assert!(ask(known).is_ok(), "the fifth of a bucket that was there before");
    assert!(ask(known).is_err());
}

#[test]
fn full_buckets_take_no_room() {
    let (limiter, limits) = (Limiter::new(), rates(&[rate(Counted::Caller, 5, 5)]));
    let crowd = |number: u32| format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255);
    let mut now = NOW;
    for number in 0..200_000 {
        now = now.plus(Duration::from_millis(1));
        assert!(ask(&limiter, &limits, stranger(&crowd(number)), now).is_ok());
    }

    let (apart, shared) = limiter.buckets();
    assert!(apart < 20_000, "{apart} of 200,000, each full again after a second");
    assert_eq!(shared, 0);
}

#[test]
fn requests_under_way_are_counted_until_they_end() {
    let limiter = Limiter::new();
    let limits = Limits::new(
        [],
        [Concurrency { of: Counted::Caller, requests: 2 }, Concurrency { of: Counted::All, requests: 3 }],
    );
    let from = |text| ask(&limiter, &limits, stranger(text), NOW);

    let first = from("192.0.2.1").unwrap();
    let second = from("192.0.2.1").unwrap();
    assert_eq!(from("192.0.2.1").unwrap_err().reason, "concurrency_of_caller");
    let third = from("192.0.2.2").unwrap();
    assert_eq!(from("192.0.2.3").unwrap_err().reason, "concurrency_of_all");
    drop(first);
    let fourth = from("192.0.2.1").unwrap();
    drop((second, third, fourth));
    assert_eq!(limiter.in_flight(), 0);
    assert!(from("192.0.2.1").is_ok());
}

#[test]
fn threads_together_get_no_more_than_one_alone() {
    let limiter = Arc::new(Limiter::new());
    let limits = Arc::new(rates(&[rate(Counted::Caller, 1000, 3600)]));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (limiter, limits) = (Arc::clone(&limiter), Arc::clone(&limits));
            thread::spawn(move || {
                (0..1000).filter(|_| ask(&limiter, &limits, stranger("192.0.2.1"), NOW).is_ok()).count()
            })
        })
        .collect();

    assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 1000);
}

#[test]
fn a_limit_is_laxer_if_it_lets_a_request_through_that_the_other_does_not() {
    let ten = rate(Counted::Caller, 10, 60);
    for (name, this, other, laxer) in [
        ("none beside some", rates(&[]), rates(&[ten]), true),
        ("some beside none", rates(&[ten]), rates(&[]), false),
        ("the same", rates(&[ten]), rates(&[ten]), false),
        ("more", rates(&[rate(Counted::Caller, 11, 60)]), rates(&[ten]), true),
        ("fewer", rates(&[rate(Counted::Caller, 9, 60)]), rates(&[ten]), false),
        ("more at once at a lower rate", rates(&[rate(Counted::Caller, 100, 3600)]), rates(&[ten]), true),
        ("of others", rates(&[rate(Counted::Address, 1, 60)]), rates(&[ten]), true),
    ] {
        assert_eq!(this.is_laxer_than(&other), laxer, "{name}");
    }
}

proptest! {
    /// In any stretch of time of length t a caller gets at most `requests + requests * t / per`.
    #[test]
    fn nobody_gets_more_than_the_rate_however_they_time_it(
        requests in 1u32..50,
        seconds in 1u64..100,
        pauses in prop::collection::vec(0u64..3000, 1..400),
    ) {
        let (limiter, limits) = (Limiter::new(), rates(&[rate(Counted::Caller, requests, seconds)]));
        let mut now = NOW;
        let mut admitted = Vec::new();
        for pause in pauses {
            now = now.plus(Duration::from_millis(pause));
            if ask(&limiter, &limits, stranger("192.0.2.1"), now).is_ok() {
                admitted.push(now.unix_millis());
            }
        }
        for (first, from) in admitted.iter().enumerate() {
            for (last, to) in admitted.iter().enumerate().skip(first) {
                let count = (last - first + 1) as f64;
                let allowed = f64::from(requests) * (1.0 + (to - from) as f64 / (seconds as f64 * 1000.0));
                prop_assert!(count <= allowed + 0.001, "{count} in {} ms", to - from);
            }
        }
    }
}
