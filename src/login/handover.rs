//! Logins that are under way when another process follows this one.
//!
//! In: failed attempts and logins between password and code, as they are at the moment when the other process takes
//! over. Out: the same there: nobody gets fresh guesses by an upgrade, and nobody begins anew. They travel over the
//! socket of `handover` only.

use serde::{Deserialize, Serialize};

use super::{Second, Settings, Throttle, second::pending::HandedWaiting, throttle::HandedThrottle};

/// All of them.
#[derive(Deserialize, Serialize)]
pub struct HandedLogins {
    throttle: HandedThrottle,
    waiting: Vec<HandedWaiting>,
}

impl HandedLogins {
    /// What is under way here.
    pub fn of(throttle: &Throttle, second: &Second) -> Self {
        Self { throttle: throttle.hand_over(), waiting: second.pending.hand_over() }
    }

    /// Goes on with it here. Logins of users who are others by now, or gone, are not gone on with.
    pub fn take_over(self, throttle: &Throttle, second: &Second, settings: &Settings) {
        throttle.take_over(self.throttle);
        second.pending.take_over(&self.waiting, settings);
    }
}
