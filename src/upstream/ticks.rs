//! A worker's coarse clock: how often deadlines are judged, and in what they are counted.
//!
//! In: the ticker's word that time has passed. Out: the present tick, read without asking the system. A deadline is a
//! number of ticks and no timer; it is never judged too early.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::clock;

/// The worker's coarse clock.
#[derive(Clone)]
pub(super) struct Ticks(Rc<TickState>);

struct TickState {
    now: Cell<u64>,
    began: Instant,
}

/// `duration` in ticks, never too short: the present tick may be nearly over.
pub(super) fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX).saturating_add(1)
}

/// A tick in milliseconds.
pub(super) fn millis(tick: u64) -> u64 {
    tick.saturating_mul(u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX))
}

impl Ticks {
    /// Of this moment on.
    pub(super) fn new() -> Self {
        Self(Rc::new(TickState { now: Cell::new(0), began: clock::instant() }))
    }

    /// The present tick.
    pub(super) fn now(&self) -> u64 {
        self.0.now.get()
    }

    /// Reads the clock; returns how many ticks have passed.
    pub(super) fn advance(&self) -> u64 {
        let passed = clock::instant().duration_since(self.0.began).as_millis() / TICK.as_millis();
        let now = u64::try_from(passed).unwrap_or(u64::MAX);
        now.saturating_sub(self.0.now.replace(now))
    }
}

/// How coarse deadlines are.
pub(super) const TICK: Duration = Duration::from_millis(50);
