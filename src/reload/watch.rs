//! When the files that a configuration was made from are others than they were, and have come to rest.
//!
//! The files are looked at twice a second instead of asking the kernel to tell: a look is a few microseconds a file,
//! and sees what notifications miss or tell too early, such as a symbolic link two folders up that is swapped (as
//! Kubernetes does), a file that is replaced, vanishes or comes back, and file systems that notify nobody.

use std::time::Duration;

use crate::config::{Inputs, Stamps};

/// How often to look.
pub(super) const EVERY: Duration = Duration::from_millis(500);

/// Watches the files of the configuration that was read last, whatever came of it.
pub(super) struct Watch {
    inputs: Inputs,
    /// Another state than that which was read, and for how many looks there has been some such state.
    seen: Option<(Stamps, u32)>,
}

impl Watch {
    pub(super) const fn of(inputs: Inputs) -> Self {
        Self { inputs, seen: None }
    }

    /// One look. True if the files are others than when they were read and have not changed since the last look, so
    /// that nobody is in the midst of writing them; after five seconds of unrest they count as they are.
    pub(super) fn look(&mut self) -> bool {
        let now = self.inputs.stamps_now();
        if now == *self.inputs.stamps() {
            self.seen = None;
            return false;
        }
        let (settled, looks) = match self.seen.take() {
            Some((before, looks)) => (before == now, looks + 1),
            None => (false, 1),
        };
        self.seen = Some((now, looks));
        settled || looks >= PATIENCE
    }
}

/// In looks.
const PATIENCE: u32 = 10;
