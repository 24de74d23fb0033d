//! How often a client address may make us ask: a token bucket for each, bounded in number.
//!
//! A bucket is the moment at which it is full again, so one that is full takes no room. Where there are more addresses
//! than room, newcomers share one bucket: the limit gets stricter for them, never laxer. IPv6 clients count by their
//! /64.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use ahash::RandomState;

use crate::clock::Timestamp;

/// The buckets of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Rates {
    full_at: HashMap<IpAddr, u64, RandomState>,
}

impl Rates {
    /// Takes one from an address's bucket of `burst`, which fills up within `window`; whether there was one.
    pub(super) fn take(&mut self, address: IpAddr, burst: u32, window: Duration, now: Timestamp) -> bool {
        let now = now.unix_millis();
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1);
        let cost = (window / u64::from(burst.max(1))).max(1);
        let mut bucket = network(address);
        if self.full_at.len() >= MAX_BUCKETS && !self.full_at.contains_key(&bucket) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MAX_BUCKETS {
                bucket = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let full_at = self.full_at.entry(bucket).or_insert(now);
        // A clock that was set back makes nobody wait for longer than an empty bucket takes.
        let owed = full_at.saturating_sub(now).min(window);
        if owed + cost > window {
            return false;
        }
        *full_at = now + owed + cost;
        true
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// Some 40 bytes each.
const MAX_BUCKETS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_900_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn each_address_has_its_share_and_gets_it_back() {
        let mut rates = Rates::default();
        let mut take = |address: &str, after: u64| {
            rates.take(address.parse().unwrap(), 3, MINUTE, NOW.plus(Duration::from_secs(after)))
        };
        assert_eq!([take("192.0.2.1", 0), take("192.0.2.1", 0), take("192.0.2.1", 0)], [true; 3]);
        assert!(!take("192.0.2.1", 0) && !take("::ffff:192.0.2.1", 0) && !take("192.0.2.1", 19));
        assert!(take("192.0.2.2", 0));
        assert!(take("192.0.2.1", 20) && !take("192.0.2.1", 20));
        assert!(take("2001:db8::1", 0) && take("2001:db8::2", 0) && take("2001:db8::3", 0));
        assert!(!take("2001:db8::4", 0) && take("2001:db8:0:1::1", 0));
    }

    #[test]
    fn a_crowd_takes_no_more_room_than_there_is() {
        let mut rates = Rates::default();
        for number in 0..MAX_BUCKETS as u32 + 100 {
            rates.take(IpAddr::V4(number.into()), 3, MINUTE, NOW);
        }
        assert!(rates.full_at.len() <= MAX_BUCKETS + 1);
        let newcomer = || "203.0.113.7".parse().unwrap();
        assert!(!rates.take(newcomer(), 3, MINUTE, NOW), "newcomers share what is left");
        assert!(rates.take(newcomer(), 3, MINUTE, NOW.plus(MINUTE)));
    }
}
