//! How many requests are let through: so many in a time, and so many at once (R19).
//!
//! In: what a route and the whole gateway set, who asks, and when. Out: [`Admitted`], or [`Exceeded`] with when to try
//! again. Who asks is the proven identity, whatever its credential and wherever from; without one the client's address
//! (IPv6: its /64). Nothing is counted for what is refused here. Counts are the process's own and outlive reloads.
//!
//! `RateLimit` and `RateLimit-Policy`: draft-ietf-httpapi-ratelimit-headers-10. Status 429: RFC 6585 section 4.

use std::{
    fmt::Write as _,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ahash::RandomState;
use http::{HeaderMap, HeaderName, HeaderValue};

pub use self::in_flight::Slots;
use self::{
    bucket::{Buckets, Empty, Left, Whose},
    in_flight::InFlight,
};
use crate::{client, clock::Timestamp, identity::Identity};

mod bucket;
mod in_flight;

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Counted {
    /// Those of one address (IPv6: one /64).
    Address,
    /// Everybody's.
    All,
    /// Those of one (realm, subject); of one address where nobody proved to be somebody.
    Caller,
}

impl Counted {
    /// As written in gateway.toml.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::All => "all",
            Self::Caller => "caller",
        }
    }
}

/// So many requests in so much time: a bucket of `requests` tokens that is filled in `per`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Whose.
    pub of: Counted,
    /// At least 1: how many may come at once.
    pub requests: u32,
    /// Above zero: in how much time as many may come again.
    pub per: Duration,
}

/// So many requests under way at once, tunnels among them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Concurrency {
    /// Whose.
    pub of: Counted,
    /// At least 1.
    pub requests: u32,
}

/// What one route, or the gateway as a whole, lets through.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    rates: Box<[Rate]>,
    concurrency: Box<[Concurrency]>,
}

impl Limits {
    /// From all that is written.
    pub fn new(rates: impl Into<Box<[Rate]>>, concurrency: impl Into<Box<[Concurrency]>>) -> Self {
        Self { rates: rates.into(), concurrency: concurrency.into() }
    }

    /// Whether everything is let through.
    pub const fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.concurrency.is_empty()
    }

    /// Whether some request that these let through, the others would not, as far as each pair of limits tells.
    pub fn is_laxer_than(&self, other: &Self) -> bool {
        let slower = |this: &Rate, that: &Rate| {
            this.of == that.of
                && this.requests <= that.requests
                && u128::from(this.requests) * that.per.as_nanos() <= u128::from(that.requests) * this.per.as_nanos()
        };
        let fewer = |this: &Concurrency, that: &Concurrency| this.of == that.of && this.requests <= that.requests;
        let rates = other.rates.iter().all(|that| self.rates.iter().any(|this| slower(this, that)));
        !(rates && other.concurrency.iter().all(|that| self.concurrency.iter().any(|this| fewer(this, that))))
    }
}

/// Limits under the name that their counts are kept by: a route's, or `""` for those of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Unique; no route is called `""`.
    pub name: &'a str,
    /// Its limits.
    pub limits: &'a Limits,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Who they proved to be.
    pub identity: Option<&'a Identity>,
    /// Where they ask from.
    pub address: IpAddr,
}

/// A request that was let through.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Its places among those under way, until this is dropped; `None`: nobody counts those.
    pub slots: Option<Slots>,
    /// What its caller is told about what is left to them.
    pub standing: Option<Standing>,
}

/// Why a request is not let through.
#[derive(Debug)]
pub struct Exceeded {
    /// The word for the log: what was exceeded, and whose.
    pub reason: &'static str,
    /// When to try again, at least a second.
    pub retry_after: Duration,
    /// What its caller is told about their limits.
    pub standing: Option<Standing>,
}

/// What is left to a caller, as header fields. What all callers together have left is nobody's business.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    policy: HeaderValue,
    rate_limit: HeaderValue,
}

impl Standing {
    /// Adds `RateLimit-Policy` and `RateLimit`; an upstream's own stay beside them (they are lists).
    pub fn add_to(self, headers: &mut HeaderMap) {
        headers.append(RATE_LIMIT_POLICY, self.policy);
        headers.append(RATE_LIMIT, self.rate_limit);
    }
}

/// All counts of the process.
#[derive(Debug)]
pub struct Limiter {
    /// Keyed, so that nobody can aim at another's bucket.
    hash: RandomState,
    buckets: Buckets,
    in_flight: Arc<InFlight>,
    exceeded: [AtomicU64; REASONS.len()],
}

impl Limiter {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self {
            hash: RandomState::new(),
            buckets: Buckets::default(),
            in_flight: Arc::default(),
            exceeded: Default::default(),
        }
    }

    /// Lets a request through, and counts it, if no limit of any scope is exceeded; else it counts nowhere. Of rates
    /// at most `max_buckets` are kept apart; callers beyond share some.
    ///
    /// # Errors
    /// [`Exceeded`] by the first limit that is.
    pub fn admit(
        &self,
        scopes: &[Scope<'_>],
        who: Who<'_>,
        now: Timestamp,
        max_buckets: usize,
    ) -> Result<Admitted, Exceeded> {
        let slots = self.take_slots(scopes, who)?;
        let rates = || scopes.iter().flat_map(|scope| scope.limits.rates.iter().map(|rate| (scope.name, *rate)));
        let mut table = Table::default();
        for (taken, (scope, rate)) in rates().enumerate() {
            let apart = if rate.of == Counted::All { usize::MAX } else { max_buckets };
            let left = self.buckets.take(self.whose(scope, rate.of, rate.per, who), rate, now, apart);
            table.note(scope, rate, left.unwrap_or_else(Empty::as_left));
            if let Err(empty) = left {
                for (scope, rate) in rates().take(taken) {
                    self.buckets.give_back(self.whose(scope, rate.of, rate.per, who), rate);
                }
                // Those that were not asked are part of the policy, too.
                rates().skip(taken + 1).for_each(|(scope, rate)| table.name(scope, rate));
                let exceeded = self.exceeded(rate.of.over_rate(), empty.wait);
                return Err(Exceeded { standing: table.standing(), ..exceeded });
            }
        }
        Ok(Admitted { slots, standing: table.standing() })
    }

    /// Requests that were not let through, by reason.
    pub fn exceeded_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(self.exceeded.iter().map(|count| count.load(Relaxed)))
    }

    /// Callers whose rates are kept apart, and requests that were counted in a shared bucket for want of room.
    pub fn buckets(&self) -> (usize, u64) {
        (self.buckets.len(), self.buckets.shared())
    }

    /// Of whom requests are under way that are counted.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn take_slots(&self, scopes: &[Scope<'_>], who: Who<'_>) -> Result<Option<Slots>, Exceeded> {
        if scopes.iter().all(|scope| scope.limits.concurrency.is_empty()) {
            return Ok(None);
        }
        let mut slots = Slots::none(Arc::clone(&self.in_flight));
        for scope in scopes {
            for limit in &scope.limits.concurrency {
                if !slots.take(self.whose(scope.name, limit.of, Duration::ZERO, who).key, limit.requests) {
                    return Err(self.exceeded(limit.of.over_concurrency(), A_MOMENT));
                }
            }
        }
        Ok(Some(slots))
    }

    fn exceeded(&self, reason: usize, wait: Duration) -> Exceeded {
        let label = REASONS.get(reason).copied().unwrap_or_default();
        if let Some(count) = self.exceeded.get(reason) {
            count.fetch_add(1, Relaxed);
        }
        let retry_after = Duration::from_secs(whole_seconds(wait).max(1));
        Exceeded { reason: label, retry_after, standing: None }
    }

    /// Whose count it is: under one limit, one caller's.
    fn whose(&self, scope: &str, of: Counted, window: Duration, who: Who<'_>) -> Whose {
        let limit = self.hash.hash_one((scope, of, window));
        let key = match (of, who.identity) {
            (Counted::All, _) => limit,
            (Counted::Caller, Some(identity)) => {
                self.hash.hash_one((limit, "identity", identity.realm(), identity.subject()))
            }
            (Counted::Address, _) | (Counted::Caller, None) => {
                self.hash.hash_one((limit, "network", client::network(who.address)))
            }
        };
        Whose { key, shared: limit ^ (1 + key % SHARED) }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Counted {
    /// In [`REASONS`].
    const fn over_rate(self) -> usize {
        match self {
            Self::Address => 0,
            Self::All => 1,
            Self::Caller => 2,
        }
    }

    /// In [`REASONS`].
    const fn over_concurrency(self) -> usize {
        self.over_rate() + 3
    }
}

/// What of a caller's rates goes into their header fields.
#[derive(Debug, Default)]
struct Table {
    policy: String,
    /// The one with the least left.
    tightest: Option<(Left, String)>,
}

impl Table {
    fn note(&mut self, scope: &str, rate: Rate, left: Left) {
        self.name(scope, rate);
        let least = self.tightest.as_ref().is_none_or(|(least, _)| left.requests < least.requests);
        if rate.of != Counted::All && least {
            self.tightest = Some((left, name(scope, rate)));
        }
    }

    fn name(&mut self, scope: &str, rate: Rate) {
        if rate.of == Counted::All {
            return;
        }
        let separator = if self.policy.is_empty() { "" } else { ", " };
        let window = whole_seconds(rate.per).max(1);
        // Writing to a string cannot fail.
        let _ = write!(self.policy, "{separator}\"{}\";q={};w={window}", name(scope, rate), rate.requests);
    }

    fn standing(self) -> Option<Standing> {
        let (left, name) = self.tightest?;
        let rate_limit = format!("\"{name}\";r={};t={}", left.requests, whole_seconds(left.full_in));
        Some(Standing {
            policy: HeaderValue::try_from(self.policy).ok()?,
            rate_limit: HeaderValue::try_from(rate_limit).ok()?,
        })
    }
}

/// What a rate is called in header fields: `caller-1m`, or `gateway-caller-1m` if it holds for all routes together.
fn name(scope: &str, rate: Rate) -> String {
    let gateway = if scope.is_empty() { "gateway-" } else { "" };
    let per = humantime::format_duration(rate.per).to_string().replace(' ', "");
    format!("{gateway}{}-{per}", rate.of.name())
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// By [`Counted::over_rate`] and [`Counted::over_concurrency`].
const REASONS: [&str; 6] = [
    "rate_of_address",
    "rate_of_all",
    "rate_of_caller",
    "concurrency_of_address",
    "concurrency_of_all",
    "concurrency_of_caller",
];
/// Buckets of one limit that callers share where there is no room for their own.
const SHARED: u64 = 64;
/// When to try again where others have to finish first.
const A_MOMENT: Duration = Duration::from_secs(1);

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

#[cfg(test)]
mod tests;
