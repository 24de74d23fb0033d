//! How long each step of one exchange may take: what its upstream says, and what its route says instead.
//!
//! In: an upstream's settings and a route's [`Timeouts`]. Out: the time that is left for each step, now. Steps are
//! counted in the worker's ticks while a server is waited for; the end of all of them is a moment. Once that has
//! passed, every step is over, and the reason is the route's: it says nothing about a server.

use std::time::{Duration, Instant};

use super::{
    Settings, UpstreamError,
    patience::NEVER,
    ticks::{Ticks, ticks},
};
use crate::{clock, route::Timeouts};

/// The bounds of one exchange.
#[derive(Debug)]
pub(super) struct Times {
    connect: Duration,
    /// To the answer's head.
    pub(super) response_ticks: u64,
    /// Between two bytes of the answer.
    pub(super) read_ticks: u64,
    /// When all must be over.
    end: Option<Instant>,
}

impl Times {
    /// What the upstream itself says.
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            connect: settings.connect_timeout,
            response_ticks: ticks(settings.response_timeout),
            read_ticks: ticks(settings.read_timeout),
            end: None,
        }
    }

    /// The same for an exchange that begins now, on a route that says otherwise.
    pub(super) fn on_route(&self, timeouts: &Timeouts) -> Self {
        Self {
            connect: timeouts.connect.unwrap_or(self.connect),
            response_ticks: timeouts.response.map_or(self.response_ticks, ticks),
            read_ticks: timeouts.read.map_or(self.read_ticks, ticks),
            end: timeouts.total.and_then(|total| clock::instant().checked_add(total)),
        }
    }

    /// How long connecting may take from now.
    pub(super) fn to_connect(&self) -> Duration {
        self.left().map_or(self.connect, |left| left.min(self.connect))
    }

    /// The tick at which all must be over.
    pub(super) fn end_tick(&self, now: &Ticks) -> u64 {
        self.left().map_or(NEVER, |left| now.now().saturating_add(ticks(left)))
    }

    /// Why a step ended, if `why` is what it says of itself: not its own bound, if all are over.
    pub(super) fn judge(&self, why: UpstreamError) -> UpstreamError {
        match why {
            UpstreamError::Busy(_) | UpstreamError::Timeout(_) if self.left().is_some_and(|left| left.is_zero()) => {
                UpstreamError::OutOfTime
            }
            why => why,
        }
    }

    /// How long all may still take; `None`: as long as it takes.
    pub(super) fn left(&self) -> Option<Duration> {
        Some(self.end?.saturating_duration_since(clock::instant()))
    }
}
