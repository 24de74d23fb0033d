//! The only place that reads a clock. Wall time decides expiry; [`instant`] measures durations.
//!
//! Everything that expires asks a [`Clock`] that was handed in, so a test moves time instead of sleeping.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The largest instant: "never" for a deadline.
    pub const MAX: Self = Self(u64::MAX);

    /// From whole seconds since the epoch, as JWTs count them (RFC 7519 section 2, NumericDate).
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// From milliseconds since the epoch.
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn unix_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Milliseconds since the epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// This instant moved forward; saturates at [`Self::MAX`].
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This instant moved back; saturates at the epoch.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Time passed since `earlier`, zero if `earlier` lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The same instant for formatting.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }
}

/// A source of wall time, cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// The system's time, or `start` and what has passed since, whichever is later.
    NotBefore {
        start: Timestamp,
        since: Instant,
    },
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at `start` until it is moved. Clones move together.
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(start.0))))
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => system_now(),
            Source::NotBefore { start, since } => system_now().max(start.plus(since.elapsed())),
            Source::Manual(millis) => Timestamp(millis.load(Ordering::Acquire)),
        }
    }

    /// A clock that goes on from `earliest` where this one is behind it, until this one has caught up: a machine's
    /// clock may be set back, and what has expired must not come back (R27). A manual clock is moved.
    #[must_use]
    pub fn not_before(&self, earliest: Timestamp) -> Self {
        match &self.0 {
            Source::Manual(millis) => {
                millis.fetch_max(earliest.0, Ordering::AcqRel);
                self.clone()
            }
            Source::System | Source::NotBefore { .. } if self.now() >= earliest => self.clone(),
            Source::System | Source::NotBefore { .. } => Self(Source::NotBefore { start: earliest, since: instant() }),
        }
    }

    /// Sets a manual clock, also back, as a correction of a machine's clock does; a system clock ignores it.
    pub fn set(&self, now: Timestamp) {
        if let Source::Manual(millis) = &self.0 {
            millis.store(now.0, Ordering::Release);
        }
    }

    /// Moves a manual clock forward; a system clock ignores it.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(millis) = &self.0 {
            millis.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::AcqRel);
        }
    }
}

fn system_now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    let now = SystemTime::now();
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// A reading of the monotonic clock, for measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub fn instant() -> Instant {
    Instant::now()
}
