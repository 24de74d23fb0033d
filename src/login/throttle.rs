//! How often one may try passwords, by address and by user name: slow for those who guess, open for those who know.
//!
//! In: a client address, the name that was typed, and afterwards whether the login succeeded. Out: go on, or when to
//! try again. Successes cost nothing.
//! Invariants: bounded in memory whatever is tried; nobody waits longer than [`MAX_WAIT`], so a user cannot be locked
//! out for good; where a user has logged in before, other people's failures from elsewhere do not count at all.
//! A refused attempt costs nothing, so waiting helps.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ahash::RandomState;

use crate::{clock::Timestamp, session::BuildKeyHasher};

/// Shared by all workers.
#[derive(Debug)]
pub struct Throttle {
    /// Keyed, so that nobody can aim at another's slot.
    hash: RandomState,
    /// A plain lock, held for a few look-ups by requests that bring a password.
    state: Mutex<State>,
}

/// An attempt that was let through. Failed unless it is told otherwise.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Attempt {
    address: u64,
    user: u64,
    familiar: u64,
}

#[derive(Debug, Default)]
struct State {
    /// For each address and each user (or user at an address of theirs), when their failures are paid off.
    debts: HashMap<u64, Timestamp, BuildKeyHasher>,
    /// Users at addresses from which they logged in, with the last time.
    familiar: HashMap<u64, Timestamp, BuildKeyHasher>,
}

/// What failures cost: each adds `price`, and up to `credit` of debt nobody waits.
struct Tariff {
    price: Duration,
    credit: Duration,
}

impl Throttle {
    /// Nobody has failed yet.
    pub fn new() -> Self {
        Self { hash: RandomState::new(), state: Mutex::default() }
    }

    /// Asks for leave to try a password, and books the attempt as a failure until [`Self::succeeded`] is told.
    ///
    /// # Errors
    /// How long to wait, at most [`MAX_WAIT`].
    pub fn begin(&self, address: IpAddr, login: &str, now: Timestamp) -> Result<Attempt, Duration> {
        let login = login.to_lowercase();
        let network = network(address);
        let familiar = self.hash.hash_one(("familiar", network, &login));
        let mut state = self.lock();
        let at_home = state.familiar.contains_key(&familiar);
        let user = if at_home { familiar } else { self.hash.hash_one(("user", &login)) };
        let attempt = Attempt { address: self.hash.hash_one(("address", network)), user, familiar };
        let wait = state.wait(attempt.address, &ADDRESS, now).max(state.wait(attempt.user, &USER, now));
        if !wait.is_zero() {
            return Err(wait);
        }
        state.charge(attempt.address, &ADDRESS, now);
        state.charge(attempt.user, &USER, now);
        Ok(attempt)
    }

    /// The password was right: the failures of this user are forgotten, and this attempt never counted.
    pub fn succeeded(&self, attempt: Attempt, now: Timestamp) {
        let mut state = self.lock();
        state.refund(attempt.address, &ADDRESS);
        state.debts.remove(&attempt.user);
        if state.familiar.len() >= MAX_ENTRIES {
            forget_older_half(&mut state.familiar);
        }
        state.familiar.insert(attempt.familiar, now);
    }

    /// The attempt was not carried out: it never counted.
    pub fn abandoned(&self, attempt: Attempt) {
        let mut state = self.lock();
        state.refund(attempt.address, &ADDRESS);
        state.refund(attempt.user, &USER);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn wait(&self, who: u64, tariff: &Tariff, now: Timestamp) -> Duration {
        let debt = self.debts.get(&who).map_or(Duration::ZERO, |paid_off| paid_off.since(now));
        debt.saturating_sub(tariff.credit).min(MAX_WAIT)
    }

    fn charge(&mut self, who: u64, tariff: &Tariff, now: Timestamp) {
        if self.debts.len() >= MAX_ENTRIES {
            self.debts.retain(|_, paid_off| *paid_off > now);
        }
        if self.debts.len() >= MAX_ENTRIES {
            forget_older_half(&mut self.debts);
        }
        let paid_off = self.debts.entry(who).or_insert(now);
        *paid_off = (*paid_off).max(now).plus(tariff.price).min(now.plus(tariff.credit + MAX_WAIT));
    }

    fn refund(&mut self, who: u64, tariff: &Tariff) {
        if let Some(paid_off) = self.debts.get_mut(&who) {
            *paid_off = paid_off.minus(tariff.price);
        }
    }
}

/// The longest that anybody waits.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// One address: 30 failures at once, then one in two seconds. Many people may share it.
const ADDRESS: Tariff = Tariff { price: Duration::from_secs(2), credit: Duration::from_secs(58) };

/// One user: five failures at once, then one in ten seconds.
const USER: Tariff = Tariff { price: Duration::from_secs(10), credit: Duration::from_secs(40) };

/// Entries of each table, 24 bytes each.
const MAX_ENTRIES: usize = 65_536;

/// What counts as one client: IPv6 customers are given a /64 (R15).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// Those with the nearest ends go: they lose least.
fn forget_older_half(table: &mut HashMap<u64, Timestamp, BuildKeyHasher>) {
    let mut times: Vec<Timestamp> = table.values().copied().collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    table.retain(|_, time| *time > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fail(throttle: &Throttle, from: &str, login: &str, now: Timestamp) -> Result<(), Duration> {
        throttle.begin(address(from), login, now).map(|_| ())
    }

    #[test]
    fn a_guesser_is_slowed_down_and_never_waits_long() {
        let throttle = Throttle::new();
        for i in 0..5 {
            assert!(fail(&throttle, &format!("192.0.2.{i}"), "alice", NOW).is_ok());
        }

        let wait = fail(&throttle, "192.0.2.9", "alice", NOW).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= MAX_WAIT, "{wait:?}");
        assert_eq!(fail(&throttle, "192.0.2.9", "ALICE", NOW), Err(wait), "whatever the case");
        assert!(fail(&throttle, "192.0.2.9", "bob", NOW).is_ok(), "others are not concerned");
        assert!(fail(&throttle, "192.0.2.9", "alice", NOW.plus(wait)).is_ok(), "waiting helps");
        assert!(fail(&throttle, "192.0.2.9", "alice", NOW.plus(wait)).is_err());
    }

    #[test]
    fn attempts_over_an_hour_are_few() {
        let throttle = Throttle::new();

        let tried = (0..3600).filter(|s| fail(&throttle, "192.0.2.1", "alice", NOW.plus(*s * SECOND)).is_ok()).count();

        assert!((300..=370).contains(&tried), "{tried}");
    }

    #[test]
    fn an_address_is_slowed_down_whatever_names_it_tries() {
        let throttle = Throttle::new();
        let tried = (0..100).filter(|i| fail(&throttle, "2001:db8::1", &format!("user-{i}"), NOW).is_ok()).count();

        assert_eq!(tried, 30);
        assert!(fail(&throttle, "2001:db8::2", "somebody", NOW).is_err(), "the same /64");
        assert!(fail(&throttle, "2001:db8:0:1::1", "somebody", NOW).is_ok());
    }

    #[test]
    fn success_costs_nothing() {
        let throttle = Throttle::new();
        for _ in 0..200 {
            let attempt = throttle.begin(address("192.0.2.1"), "alice", NOW).unwrap();
            throttle.succeeded(attempt, NOW);
        }
        for _ in 0..200 {
            let attempt = throttle.begin(address("192.0.2.1"), "bob", NOW).unwrap();
            throttle.abandoned(attempt);
        }
        assert!(fail(&throttle, "192.0.2.1", "alice", NOW).is_ok());
    }

    #[test]
    fn where_a_user_logged_in_before_the_failures_of_others_do_not_count() {
        let throttle = Throttle::new();
        let attempt = throttle.begin(address("192.0.2.1"), "alice", NOW).unwrap();
        throttle.succeeded(attempt, NOW);
        while fail(&throttle, "203.0.113.9", "alice", NOW).is_ok() {}

        assert!(fail(&throttle, "203.0.113.9", "alice", NOW).is_err());
        assert!(fail(&throttle, "198.51.100.1", "alice", NOW).is_err());
        assert!(fail(&throttle, "192.0.2.1", "alice", NOW).is_ok());
    }

    #[test]
    fn at_a_familiar_address_guesses_are_slowed_down_too() {
        let throttle = Throttle::new();
        let attempt = throttle.begin(address("192.0.2.1"), "alice", NOW).unwrap();
        throttle.succeeded(attempt, NOW);

        assert_eq!((0..100).filter(|_| fail(&throttle, "192.0.2.1", "alice", NOW).is_ok()).count(), 5);
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::new();
        for i in 0..200_000_u32 {
            let from = IpAddr::from(i.to_be_bytes());
            let attempt =
                throttle.begin(from, &format!("user-{i}"), NOW.plus(Duration::from_millis(i.into()))).unwrap();
            if i % 2 == 0 {
                throttle.succeeded(attempt, NOW.plus(Duration::from_millis(i.into())));
            }
        }

        let state = throttle.lock();
        assert!(state.debts.len() <= MAX_ENTRIES && state.familiar.len() <= MAX_ENTRIES);
        assert!(state.familiar.len() > MAX_ENTRIES / 4);
    }
}
