//! How many wrong signatures one client may have us check, so that forged tokens cost it more than us (R19).
//!
//! In: whose request it is, and after a check that the signature was wrong. Out: whether another check may be made now.
//! Only failures count: a client that sends good tokens, however many, never waits, and a token that is known is never
//! asked about. Five seconds' worth of failures come at once, then `limits.verify_rate` in a second. Bounded in memory
//! whatever is sent; who is forgotten for want of room are those who owe least.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ahash::RandomState;

use super::possession::Thumbprint;
use crate::{client::network, clock::Timestamp};

/// Who has sent wrong signatures lately. Shared by all workers.
#[derive(Debug, Default)]
pub struct WrongSignatures {
    /// Keyed, so that nobody can aim at another's entry.
    hash: RandomState,
    /// When the failures of each are paid off. Asked for tokens and proofs that are new, and only then.
    debts: Mutex<HashMap<u64, Timestamp, RandomState>>,
    refused: AtomicU64,
}

/// Whom a wrong signature is booked to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account(u64);

impl WrongSignatures {
    /// Of the tokens of one address; IPv6 customers are given a /64 (R15).
    pub(super) fn of_address(&self, address: IpAddr) -> Account {
        Account(self.hash.hash_one(network(address)))
    }

    /// Of the proofs under one key from one address. Who can name a key holds a good token that is bound to it, so an
    /// address that others share with a forger costs them nothing here, and a thief of a token not its owner elsewhere.
    pub(super) fn of_key(&self, key: &Thumbprint, address: IpAddr) -> Account {
        Account(self.hash.hash_one((key, network(address))))
    }

    /// How long to wait before another signature is checked; `None`: not at all. `rate` is in failures for each second.
    pub(super) fn wait(&self, account: Account, rate: u32, now: Timestamp) -> Option<Duration> {
        let mut debts = self.lock();
        let paid_off = debts.get_mut(&account.0)?;
        // A clock that stepped back makes nobody wait for it.
        *paid_off = (*paid_off).min(now.plus(CREDIT + price(rate)));
        let wait = paid_off.since(now).saturating_sub(CREDIT);
        if wait.is_zero() {
            return None;
        }
        self.refused.fetch_add(1, Relaxed);
        Some(wait)
    }

    /// Books a wrong signature.
    pub(super) fn charge(&self, account: Account, rate: u32, now: Timestamp) {
        let mut debts = self.lock();
        make_room(&mut debts, now);
        let paid_off = debts.entry(account.0).or_insert(now);
        *paid_off = (*paid_off).max(now).plus(price(rate)).min(now.plus(CREDIT + price(rate)));
    }

    /// Tokens and proofs that were refused unchecked.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Timestamp, RandomState>> {
        // Nothing panics while it is held.
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one failure costs.
fn price(rate: u32) -> Duration {
    Duration::from_secs(1) / rate.max(1)
}

/// Makes room for one more: those who owe nothing go, then the half that owes least.
fn make_room(debts: &mut HashMap<u64, Timestamp, RandomState>, now: Timestamp) {
    if debts.len() < MAX_ENTRIES {
        return;
    }
    debts.retain(|_, paid_off| *paid_off > now);
    if debts.len() < MAX_ENTRIES {
        return;
    }
    let mut times: Vec<Timestamp> = debts.values().copied().collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    debts.retain(|_, paid_off| *paid_off > median);
}

/// Debt for which nobody waits.
const CREDIT: Duration = Duration::from_secs(5);

/// About 24 bytes each.
const MAX_ENTRIES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const RATE: u32 = 10;

    fn later(millis: u64) -> Timestamp {
        NOW.plus(Duration::from_millis(millis))
    }

    /// How many of `tries` wrong signatures are looked at.
    fn checked(wrong: &WrongSignatures, account: Account, tries: usize, now: Timestamp) -> usize {
        let check = |_: &usize| {
            let may = wrong.wait(account, RATE, now).is_none();
            if may {
                wrong.charge(account, RATE, now);
            }
            may
        };
        (0..tries).filter(check).count()
    }

    #[test]
    fn a_forger_has_a_few_looked_at_and_then_so_many_in_a_second() {
        let wrong = WrongSignatures::default();
        let forger = wrong.of_address("192.0.2.1".parse().unwrap());

        assert_eq!(checked(&wrong, forger, 1000, NOW), 51, "five seconds' worth, and the one that overdraws");
        assert_eq!(wrong.wait(forger, RATE, NOW), Some(Duration::from_millis(100)));
        assert_eq!((1..=50).map(|tenth| checked(&wrong, forger, 100, later(100 * tenth))).sum::<usize>(), 50);
        assert_eq!(checked(&wrong, forger, 1000, later(60_000)), 51, "a minute later all is forgotten");
        assert!(wrong.refused() > 0);
    }

    #[test]
    fn others_do_not_wait_for_a_forger() {
        let wrong = WrongSignatures::default();
        let address = |text: &str| text.parse().unwrap();
        let forger = wrong.of_address(address("2001:db8::1"));
        checked(&wrong, forger, 1000, NOW);

        assert!(wrong.wait(wrong.of_address(address("2001:db8::2")), RATE, NOW).is_some(), "the same /64");
        assert!(wrong.wait(wrong.of_address(address("2001:db8:0:1::1")), RATE, NOW).is_none());
        assert!(wrong.wait(wrong.of_key(&[1; 32], address("2001:db8::1")), RATE, NOW).is_none());
        let thief = wrong.of_key(&[1; 32], address("2001:db8::1"));
        checked(&wrong, thief, 1000, NOW);
        assert!(wrong.wait(thief, RATE, NOW).is_some());
        assert!(wrong.wait(wrong.of_key(&[1; 32], address("192.0.2.1")), RATE, NOW).is_none(), "the key's owner");
        assert!(wrong.wait(wrong.of_key(&[2; 32], address("2001:db8::1")), RATE, NOW).is_none(), "a neighbour");
    }

    #[test]
    fn a_clock_that_steps_back_makes_nobody_wait_for_it() {
        let wrong = WrongSignatures::default();
        let forger = wrong.of_address("192.0.2.1".parse().unwrap());
        checked(&wrong, forger, 1000, NOW);
        let back = NOW.minus(Duration::from_secs(3600));

        assert!(wrong.wait(forger, RATE, back).is_some());
        assert!(wrong.wait(forger, RATE, back.plus(Duration::from_secs(1))).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let wrong = WrongSignatures::default();
        for i in 0..200_000_u32 {
            wrong.charge(wrong.of_address(IpAddr::from(i.to_be_bytes())), RATE, later(u64::from(i / 1000)));
        }

        assert!(wrong.lock().len() <= MAX_ENTRIES);
    }
}
