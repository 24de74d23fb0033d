//! How often one may try passwords: slow for those who guess, open for those who know.
//!
//! In: who tries (address, provider and name as typed, and whether the browser is known to that user), and afterwards
//! whether the login succeeded. Out: go on, or when to try again. Successes cost nothing.
//!
//! Three buckets slow down strangers: one for the address, one for the name at that address, one for the name wherever
//! from. A browser that the user has logged in from before (`device`) has a bucket of its own instead, so nobody else's
//! guesses slow it down. The bucket of a name has a ceiling: whoever was told to wait for it is let through when that
//! time is over, whatever others did meanwhile, so nobody can lock a user out.
//! Invariants: bounded in memory whatever is tried; nobody waits longer than [`MAX_WAIT`]; names that nobody has are
//! treated as all others. A refused attempt costs nothing, so waiting helps.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ahash::RandomState;
use serde::{Deserialize, Serialize};

use crate::{client::network, clock::Timestamp, secret, session::BuildKeyHasher};

/// Shared by all workers.
#[derive(Debug)]
pub struct Throttle {
    /// A plain lock, held for a few look-ups by requests that bring a password.
    state: Mutex<State>,
}

/// All of it, for the process that follows this one.
#[derive(Deserialize, Serialize)]
pub(super) struct HandedThrottle {
    seeds: [u64; 4],
    /// Times in milliseconds since the epoch.
    debts: Vec<(u64, u64)>,
    promises: Vec<(u64, u64)>,
}

/// Who tries a password.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    pub(super) address: IpAddr,
    /// The provider's name.
    pub(super) provider: &'a str,
    /// As typed.
    pub(super) login: &'a str,
    /// The browser, if that user has logged in from it before.
    pub(super) device: Option<&'a [u8]>,
}

/// An attempt that was let through. Failed unless it is told otherwise.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(super) struct Attempt(Buckets);

/// The buckets that an attempt is counted in.
#[derive(Clone, Copy, Debug)]
enum Buckets {
    Stranger { address: u64, pair: u64, user: u64 },
    Known { device: u64 },
}

#[derive(Debug)]
struct State {
    keyed: Keyed,
    /// For each bucket, when its failures are paid off.
    debts: HashMap<u64, Timestamp, BuildKeyHasher>,
    /// For a name at an address that had to wait for the name's bucket, when it will be let through.
    promises: HashMap<u64, Timestamp, BuildKeyHasher>,
}

/// A hash that nobody outside can foretell, so that nobody can aim at another's slot.
struct Keyed {
    seeds: [u64; 4],
    hash: RandomState,
}

/// What failures cost: each adds `price`, and up to `credit` of debt nobody waits.
struct Tariff {
    price: Duration,
    credit: Duration,
}

impl Throttle {
    /// Nobody has failed yet.
    pub fn new() -> Self {
        Self { state: Mutex::new(State::with(secret::random::<32>())) }
    }

    /// Asks for leave to try a password, and books the attempt as a failure until [`Self::succeeded`] is told.
    ///
    /// # Errors
    /// How long to wait, at most [`MAX_WAIT`].
    pub(super) fn begin(&self, who: Who<'_>, now: Timestamp) -> Result<Attempt, Duration> {
        let login = who.login.to_lowercase();
        let mut state = self.lock();
        let hash = &state.keyed.hash;
        let buckets = match who.device {
            Some(device) => Buckets::Known { device: hash.hash_one(("device", device, who.provider, &login)) },
            None => {
                let network = network(who.address);
                Buckets::Stranger {
                    address: hash.hash_one(("address", network)),
                    pair: hash.hash_one(("pair", network, who.provider, &login)),
                    user: hash.hash_one(("user", who.provider, &login)),
                }
            }
        };
        match buckets {
            Buckets::Known { device } => state.admit(&[(device, &USER)], now)?,
            Buckets::Stranger { address, pair, user } => {
                let here = [(address, &ADDRESS), (pair, &USER)];
                state.leave(&here, now)?;
                state.keep_promise(pair, user, now)?;
                state.admit(&here, now)?;
                state.charge(user, &USER, now);
            }
        }
        Ok(Attempt(buckets))
    }

    /// The password was right: the failures of this user are forgotten, and this attempt never counted.
    pub(super) fn succeeded(&self, Attempt(buckets): Attempt) {
        let mut state = self.lock();
        match buckets {
            Buckets::Known { device } => {
                state.debts.remove(&device);
            }
            Buckets::Stranger { address, pair, user } => {
                state.refund(address, &ADDRESS);
                state.debts.remove(&pair);
                state.debts.remove(&user);
            }
        }
    }

    /// The attempt was not carried out: it never counted.
    pub(super) fn abandoned(&self, Attempt(buckets): Attempt) {
        let mut state = self.lock();
        match buckets {
            Buckets::Known { device } => state.refund(device, &USER),
            Buckets::Stranger { address, pair, user } => {
                state.refund(address, &ADDRESS);
                state.refund(pair, &USER);
                state.refund(user, &USER);
            }
        }
    }

    /// What another process needs to go on counting.
    pub(super) fn hand_over(&self) -> HandedThrottle {
        let state = self.lock();
        let entries =
            |table: &HashMap<u64, Timestamp, _>| table.iter().map(|(who, at)| (*who, at.unix_millis())).collect();
        HandedThrottle { seeds: state.keyed.seeds, debts: entries(&state.debts), promises: entries(&state.promises) }
    }

    /// Goes on counting where another process stopped.
    pub(super) fn take_over(&self, HandedThrottle { seeds, debts, promises }: HandedThrottle) {
        let entries = |list: Vec<(u64, u64)>| {
            list.into_iter().take(MAX_ENTRIES).map(|(who, at)| (who, Timestamp::from_unix_millis(at))).collect()
        };
        *self.lock() = State { keyed: Keyed::new(seeds), debts: entries(debts), promises: entries(promises) };
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

impl Keyed {
    fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self { seeds, hash: RandomState::with_seeds(a, b, c, d) }
    }
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed")
    }
}

impl State {
    fn with(seeds: [u8; 32]) -> Self {
        let (eights, _) = seeds.as_chunks::<8>();
        let mut words = [0; 4];
        words.iter_mut().zip(eights).for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
        Self { keyed: Keyed::new(words), debts: HashMap::default(), promises: HashMap::default() }
    }

    /// Whether none of these buckets asks for a wait.
    fn leave(&self, buckets: &[(u64, &Tariff)], now: Timestamp) -> Result<(), Duration> {
        let wait = buckets.iter().map(|(who, tariff)| self.wait(*who, tariff, now)).max().unwrap_or_default();
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Books a failure in each of these buckets, unless one asks for a wait.
    fn admit(&mut self, buckets: &[(u64, &Tariff)], now: Timestamp) -> Result<(), Duration> {
        self.leave(buckets, now)?;
        for (who, tariff) in buckets {
            self.charge(*who, tariff, now);
        }
        Ok(())
    }

    /// Lets `pair` pass the bucket of a name: when that is not overdrawn, or when the wait that was told before is
    /// over.
    fn keep_promise(&mut self, pair: u64, user: u64, now: Timestamp) -> Result<(), Duration> {
        let wait = self.wait(user, &USER, now);
        let promised = self.promises.get(&pair).copied().filter(|at| now.since(*at) < PROMISE_KEPT);
        match promised {
            _ if wait.is_zero() => {}
            Some(at) if at <= now => {}
            Some(at) => return Err(at.since(now).min(wait)),
            None => {
                make_room(&mut self.promises, |at| now.since(*at) < PROMISE_KEPT);
                self.promises.insert(pair, now.plus(wait));
                return Err(wait);
            }
        }
        self.promises.remove(&pair);
        Ok(())
    }

    fn wait(&self, who: u64, tariff: &Tariff, now: Timestamp) -> Duration {
        let paid_off = self.debts.get(&who).map_or(now, |paid_off| tariff.believable(*paid_off, now));
        paid_off.since(now).saturating_sub(tariff.credit).min(MAX_WAIT)
    }

    fn charge(&mut self, who: u64, tariff: &Tariff, now: Timestamp) {
        make_room(&mut self.debts, |paid_off| *paid_off > now);
        let paid_off = self.debts.entry(who).or_insert(now);
        *paid_off =
            tariff.believable(*paid_off, now).max(now).plus(tariff.price).min(now.plus(tariff.credit + MAX_WAIT));
    }

    fn refund(&mut self, who: u64, tariff: &Tariff) {
        if let Some(paid_off) = self.debts.get_mut(&who) {
            *paid_off = paid_off.minus(tariff.price);
        }
    }
}

impl Tariff {
    /// When a debt is paid off. Nobody owes more than can be owed: where it seems so the clock has stepped back, and
    /// they owe as much as costs no wait.
    fn believable(&self, paid_off: Timestamp, now: Timestamp) -> Timestamp {
        if paid_off > now.plus(self.credit + MAX_WAIT) { now.plus(self.credit) } else { paid_off }
    }
}

/// The longest that anybody waits.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// One address: 30 failures at once, then one in two seconds. Many people may share it.
const ADDRESS: Tariff = Tariff { price: Duration::from_secs(2), credit: Duration::from_secs(58) };

/// One user, one user at one address, or one user's own browser: five failures at once, then one in ten seconds.
const USER: Tariff = Tariff { price: Duration::from_secs(10), credit: Duration::from_secs(40) };

/// How long after its wait somebody may come back.
const PROMISE_KEPT: Duration = Duration::from_secs(5 * 60);

/// Entries of each table, 24 bytes each.
const MAX_ENTRIES: usize = 65_536;

/// Makes room for one more: what is over goes, then the half with the nearest ends, who lose least.
fn make_room(table: &mut HashMap<u64, Timestamp, BuildKeyHasher>, counts: impl Fn(&Timestamp) -> bool) {
    if table.len() < MAX_ENTRIES {
        return;
    }
    table.retain(|_, time| counts(time));
    if table.len() < MAX_ENTRIES {
        return;
    }
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

    fn who<'a>(address: &str, login: &'a str) -> Who<'a> {
        Who { address: address.parse().unwrap(), provider: "local", login, device: None }
    }

    fn fail(throttle: &Throttle, from: &str, login: &str, now: Timestamp) -> Result<(), Duration> {
        throttle.begin(who(from, login), now).map(|_| ())
    }

    #[test]
    fn what_was_counted_in_one_process_counts_in_the_next() {
        let (old, new) = (Throttle::new(), Throttle::new());
        while fail(&old, "192.0.2.1", "alice", NOW).is_ok() {}

        let handed = serde_json::to_vec(&old.hand_over()).unwrap();
        new.take_over(serde_json::from_slice(&handed).unwrap());

        assert!(fail(&new, "192.0.2.1", "alice", NOW).is_err());
        assert!(fail(&new, "192.0.2.2", "bob", NOW).is_ok());
    }

    /// Debts of an hour that has not come yet, as it seems, make nobody wait, and who goes on failing waits all the
    /// same.
    #[test]
    fn a_clock_that_steps_back_makes_nobody_wait() {
        let throttle = Throttle::new();
        let back = NOW.minus(Duration::from_secs(3600));
        for _ in 0..4 {
            fail(&throttle, "192.0.2.1", "alice", NOW).unwrap();
        }
        fail(&throttle, "192.0.2.1", "alice", back).unwrap();
        fail(&throttle, "192.0.2.1", "alice", back).unwrap_err();
        fail(&throttle, "192.0.2.2", "bob", back).unwrap();
    }

    fn fail_at_home(throttle: &Throttle, device: &[u8], login: &str, now: Timestamp) -> Result<(), Duration> {
        throttle.begin(Who { device: Some(device), ..who("192.0.2.1", login) }, now).map(|_| ())
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
        let partners = Who { provider: "partners", ..who("192.0.2.9", "alice") };
        assert!(throttle.begin(partners, NOW).is_ok(), "nor is alice of another provider");
        assert!(fail(&throttle, "192.0.2.9", "alice", NOW.plus(wait)).is_ok(), "waiting helps");
        assert!(fail(&throttle, "192.0.2.9", "alice", NOW.plus(wait)).is_err());
    }

    #[test]
    fn attempts_over_an_hour_are_few() {
        let throttle = Throttle::new();

        let tried = (0..3600).filter(|s| fail(&throttle, "192.0.2.1", "alice", NOW.plus(*s * SECOND)).is_ok()).count();

        assert!((300..=370).contains(&tried), "{tried}");
    }

    /// However many addresses somebody has, each of them waits.
    #[test]
    fn guesses_from_many_addresses_at_one_name_are_few() {
        let throttle = Throttle::new();
        let mut tried = 0;
        for second in 0..300_u32 {
            for i in 0..20 {
                let from = format!("203.0.113.{i}");
                tried += usize::from(fail(&throttle, &from, "alice", NOW.plus(second * SECOND)).is_ok());
            }
        }

        assert!(tried <= 5 + 20 * (300 / 25), "{tried}");
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
            throttle.succeeded(throttle.begin(who("192.0.2.1", "alice"), NOW).unwrap());
            throttle.abandoned(throttle.begin(who("192.0.2.1", "bob"), NOW).unwrap());
        }
        assert!(fail(&throttle, "192.0.2.1", "alice", NOW).is_ok());
    }

    /// Nobody else's guesses, not even those from one's own address, slow down a browser that the user knows.
    #[test]
    fn a_known_browser_waits_for_nobody_but_itself() {
        let throttle = Throttle::new();
        for i in 0..200 {
            let _ = fail(&throttle, &format!("192.0.2.{i}"), "alice", NOW);
            let _ = fail(&throttle, "192.0.2.1", &format!("user-{i}"), NOW);
        }
        assert!(fail(&throttle, "192.0.2.1", "alice", NOW).is_err());

        assert!(fail_at_home(&throttle, b"a", "alice", NOW).is_ok());
        assert_eq!((0..100).filter(|_| fail_at_home(&throttle, b"a", "alice", NOW).is_ok()).count(), 4, "five in all");
        assert!(fail_at_home(&throttle, b"b", "alice", NOW).is_ok(), "her other browser is not concerned");
    }

    /// A name that is being guessed at all the time, by somebody who takes every chance at once: whoever waits as told
    /// gets in, though the bucket is as empty as ever.
    #[test]
    fn who_waits_as_told_is_let_through_whatever_others_do() {
        let throttle = Throttle::new();
        let attack = |now| {
            for i in 0..250 {
                let _ = fail(&throttle, &format!("203.0.113.{i}"), "alice", now);
            }
        };
        attack(NOW);
        let wait = fail(&throttle, "192.0.2.1", "alice", NOW).unwrap_err();
        for second in 1..=u32::try_from(wait.as_secs()).unwrap() {
            attack(NOW.plus(second * SECOND));
            if second == 3 {
                let left = fail(&throttle, "192.0.2.1", "alice", NOW.plus(3 * SECOND)).unwrap_err();
                assert!(left <= wait - 3 * SECOND, "to ask again makes it no longer");
            }
        }

        assert!(fail(&throttle, "192.0.2.1", "alice", NOW.plus(wait)).is_ok());
        assert!(fail(&throttle, "192.0.2.1", "alice", NOW.plus(wait)).is_err(), "once");
        assert!(fail(&throttle, "192.0.2.2", "alice", NOW.plus(wait)).is_err(), "and nobody else");
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::new();
        for i in 0..100_000_u32 {
            let now = NOW.plus(Duration::from_millis(i.into()));
            let from = IpAddr::from(i.to_be_bytes()).to_string();
            let _ = fail(&throttle, &from, &format!("user-{i}"), now);
            let _ = fail(&throttle, &from, "alice", now);
        }

        let state = throttle.lock();
        assert!(state.debts.len() <= MAX_ENTRIES && state.promises.len() <= MAX_ENTRIES);
        assert!(state.promises.len() > MAX_ENTRIES / 4);
    }
}
