//! Who has the most sessions: whom a full store takes one from.
//!
//! In: every change of how many sessions somebody has. Out: somebody with the most, at once and exactly. Only those are
//! kept here who have more than one; who has one session pays nothing.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Subjects with more than one session, by how many they have.
#[derive(Default)]
pub(super) struct Crowd(Mutex<BTreeSet<(usize, u64)>>);

impl Crowd {
    /// A subject has another number of sessions now. To be told under the lock of that subject, so that no change
    /// overtakes another.
    pub(super) fn changed(&self, subject: u64, before: usize, after: usize) {
        if before == after || before.max(after) < LEAST {
            return;
        }
        let mut all = self.lock();
        all.remove(&(before, subject));
        if after >= LEAST {
            all.insert((after, subject));
        }
    }

    /// How many sessions somebody has who has the most, and who that is: of several, whoever the random hash puts last.
    /// `None`: nobody has more than one.
    pub(super) fn most(&self) -> Option<(usize, u64)> {
        self.lock().last().copied()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(usize, u64)>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody with fewer loses one.
const LEAST: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_with_the_most_is_known_and_nobody_with_one() {
        let crowd = Crowd::default();
        for (subject, before, after, most) in [
            (1, 0, 1, None),
            (1, 1, 2, Some((2, 1))),
            (2, 0, 3, Some((3, 2))),
            (1, 2, 4, Some((4, 1))),
            (1, 4, 1, Some((3, 2))),
            (2, 3, 2, Some((2, 2))),
            (2, 2, 2, Some((2, 2))),
            (2, 2, 0, None),
            (1, 1, 0, None),
        ] {
            crowd.changed(subject, before, after);
            assert_eq!(crowd.most(), most, "{subject}: {before} to {after}");
        }
        assert!(crowd.lock().is_empty(), "nobody is left behind");
    }
}
