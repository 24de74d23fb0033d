//! What families promise, in memory; on disk see the tests of a running gateway.

use std::{collections::HashSet, thread};

use super::*;
use crate::session::SessionToken;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

fn here() -> IpAddr {
    "192.0.2.1".parse().unwrap()
}

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

const fn opening<'a>(session: &'a SessionKey, client: &'a str, delivery: Delivery) -> Opening<'a> {
    Opening { session, client, delivery, key: None }
}

fn begun(families: &Families, session: &SessionKey) -> (Arc<Family>, RefreshToken) {
    now(families.begin(opening(session, "spa", Delivery::Body), 100, NOW)).unwrap()
}

fn session() -> SessionKey {
    SessionToken::generate().key()
}

fn show(families: &Families, token: &RefreshToken, from: IpAddr, at: Timestamp) -> Rotated {
    match families.of_token(token) {
        Some(family) => now(families.rotate(&family, token, from, at)).unwrap(),
        None => Rotated::Void,
    }
}

fn next(rotated: Rotated) -> RefreshToken {
    match rotated {
        Rotated::Next(token) => token,
        other => panic!("{other:?}"),
    }
}

fn seconds(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

#[test]
fn a_token_is_good_once_and_has_a_successor() {
    let families = Families::in_memory();
    let (family, first) = begun(&families, &session());
    assert!(family.is_current(&first));

    let second = next(show(&families, &first, here(), seconds(60)));

    assert!(family.is_current(&second) && !family.is_current(&first));
    assert_eq!(family.refreshed(), seconds(60));
    let third = next(show(&families, &second, here(), seconds(120)));
    assert!(family.is_current(&third));
}

#[test]
fn a_spent_token_has_the_same_successor_for_ten_seconds_and_then_ends_the_family() {
    for (after, same) in [(0, true), (1, true), (9, true), (10, false), (3600, false)] {
        let families = Families::in_memory();
        let (family, first) = begun(&families, &session());
        let second = next(show(&families, &first, here(), NOW));

        let again = show(&families, &first, here(), seconds(after));

        if same {
            assert_eq!(next(again).digest(), second.digest(), "{after} s later");
            assert!(!family.is_ended());
        } else {
            assert!(matches!(again, Rotated::Reused), "{after} s later: {again:?}");
            assert!(family.is_ended());
            assert!(matches!(show(&families, &second, here(), seconds(after)), Rotated::Void));
            assert!(families.is_empty() && families.of_session(family.session()).is_empty());
        }
    }
}

#[test]
fn a_token_that_was_spent_before_another_one_still_has_its_own_successor() {
    let families = Families::in_memory();
    let (family, first) = begun(&families, &session());
    let second = next(show(&families, &first, here(), NOW));
    let third = next(show(&families, &second, here(), seconds(1)));

    assert_eq!(next(show(&families, &first, here(), seconds(2))).digest(), second.digest());
    assert_eq!(next(show(&families, &second, here(), seconds(2))).digest(), third.digest());
    assert!(family.is_current(&third));
    assert!(matches!(show(&families, &first, here(), seconds(10)), Rotated::Reused));
}

#[test]
fn a_spent_token_from_elsewhere_ends_the_family_at_once() {
    for (there, ends) in [("192.0.2.2", true), ("192.0.2.1", false), ("2001:db8::1", true)] {
        let families = Families::in_memory();
        let (family, first) = begun(&families, &session());
        next(show(&families, &first, here(), NOW));

        let again = show(&families, &first, there.parse().unwrap(), seconds(1));

        assert_eq!(matches!(again, Rotated::Reused), ends, "{there}");
        assert_eq!(family.is_ended(), ends, "{there}");
    }
    // One /64 is one client.
    let families = Families::in_memory();
    let (family, first) = begun(&families, &session());
    next(show(&families, &first, "2001:db8::1".parse().unwrap(), NOW));
    next(show(&families, &first, "2001:db8::2:1".parse().unwrap(), NOW));
    assert!(!family.is_ended());
}

#[test]
fn a_clock_that_steps_back_does_not_make_a_spent_token_fresh() {
    let families = Families::in_memory();
    let (family, first) = begun(&families, &session());
    next(show(&families, &first, here(), NOW));

    let again = show(&families, &first, here(), NOW.minus(Duration::from_secs(3600)));

    assert!(matches!(again, Rotated::Reused) && family.is_ended());
}

#[test]
fn a_made_up_token_ends_nothing() {
    let families = Families::in_memory();
    let (family, first) = begun(&families, &session());
    let made_up = RefreshToken::first(family.id(), &secret::random());

    assert!(families.of_token(&made_up).is_none());
    assert!(matches!(now(families.rotate(&family, &made_up, here(), NOW)).unwrap(), Rotated::Void));
    assert!(family.is_current(&first));
}

#[test]
fn fifty_at_once_get_one_successor() {
    let families = Families::in_memory();
    let (family, first) = begun(&families, &session());

    let digests: HashSet<Digest> = thread::scope(|scope| {
        let ask = || next(show(&families, &first, here(), NOW)).digest();
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    assert_eq!(digests.len(), 1);
    assert_eq!(family.state().recent.len(), 1);
}

#[test]
fn families_are_bounded_for_each_session_and_in_all() {
    let families = Families::in_memory();
    let theirs = session();
    let all: Vec<_> = (0..MAX_PER_SESSION as u64 + 1)
        .map(|at| now(families.begin(opening(&theirs, "spa", Delivery::Cookie), 5, seconds(at))).unwrap().0)
        .collect();

    assert_eq!(families.len(), MAX_PER_SESSION);
    assert_eq!(all.iter().map(|family| family.is_ended()).collect::<Vec<_>>(), [true, false, false, false, false]);
    // Another client of the same session is not pushed out, nor is anybody else.
    now(families.begin(opening(&theirs, "other", Delivery::Cookie), 5, seconds(9))).unwrap();
    let full = now(families.begin(opening(&session(), "spa", Delivery::Cookie), 5, seconds(9))).unwrap_err();
    assert_eq!(full, BeginError::Full);
    now(families.begin(opening(&theirs, "spa", Delivery::Cookie), 5, seconds(9))).unwrap();
}

#[test]
fn of_families_that_begin_together_none_goes_beyond_the_bound() {
    let families = Families::in_memory();
    let theirs = session();
    thread::scope(|scope| {
        (0..16).for_each(|_| {
            scope.spawn(|| (0..20).for_each(|_| drop(begun(&families, &theirs))));
        });
    });

    assert_eq!((families.len(), families.of_session(&theirs).len()), (MAX_PER_SESSION, MAX_PER_SESSION));
}

#[test]
fn families_go_with_their_session() {
    let families = Families::in_memory();
    let (gone, stays) = (session(), session());
    let (of_gone, of_stays) = (begun(&families, &gone).0, begun(&families, &stays).0);

    families.sweep(|session| *session == stays);

    assert!(of_gone.is_ended() && !of_stays.is_ended());
    assert_eq!(families.len(), 1);
    assert!(families.find(&of_gone.id()).is_none());
}

#[test]
fn a_family_is_read_back_as_it_was_written() {
    let (family, first) = begun(&Families::in_memory(), &session());
    let Plan::Step(step, after) = family.plan(&first, here(), NOW) else { panic!("it opens") };
    let mut written = Vec::new();
    for state in [family.state().clone(), *after] {
        let text = serde_json::to_vec(&serde_json::json!({})).unwrap();
        assert!(record::read(family.id.bytes(), &text).is_err());
        written.push(record::read(family.id.bytes(), &record::to_bytes(&family, &state)).unwrap());
    }

    let [before, after] = written.try_into().map_err(|_| "two").unwrap();
    assert_eq!((before.client(), before.session(), before.delivery()), ("spa", family.session(), Delivery::Body));
    assert!(before.is_current(&first) && !after.is_current(&first));
    assert!(after.is_current(&first.successor(&step.nonce, &family.seal)));
    assert!(matches!(after.plan(&first, here(), seconds(9)), Plan::Taken(nonce) if nonce == step.nonce));
    let text = String::from_utf8(record::to_bytes(&family, &family.state())).unwrap();
    assert!(!text.contains(&first.expose().expose()[26..]), "no token is in it");
}
