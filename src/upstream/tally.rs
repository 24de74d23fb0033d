//! What each worker counts of a server for itself, added up when somebody asks.
//!
//! In: what became of one request. Out: what all workers have and had. Each worker writes its own [`Tally`], alone, on a
//! cache line of its own, with plain loads and stores: a request writes nothing here that another worker reads or
//! writes. What a worker counted stays counted when its connections are given up.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Of one server: the tallies of all workers.
#[derive(Debug, Default)]
pub struct Tallies {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    open: Vec<Arc<Tally>>,
    /// Of those that were closed.
    reused: u64,
}

/// What one worker counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Tally {
    reused: AtomicU64,
    under_way: AtomicU64,
}

impl Tallies {
    /// Requests sent on a connection that had served before.
    pub fn reused(&self) -> u64 {
        let kept = self.kept();
        kept.open.iter().map(|tally| tally.reused.load(Relaxed)).sum::<u64>() + kept.reused
    }

    /// Requests under way now, tunnels included.
    pub fn under_way(&self) -> u64 {
        self.kept().open.iter().map(|tally| tally.under_way.load(Relaxed)).sum()
    }

    /// One for a worker.
    pub(super) fn open(&self) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        self.kept().open.push(Arc::clone(&tally));
        tally
    }

    /// Nothing more is counted in this one.
    pub(super) fn close(&self, tally: &Arc<Tally>) {
        let mut kept = self.kept();
        kept.reused += tally.reused.load(Relaxed);
        kept.open.retain(|open| !Arc::ptr_eq(open, tally));
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    pub(super) fn reuse(&self) {
        add(&self.reused, 1);
    }

    pub(super) fn begin(&self) {
        add(&self.under_way, 1);
    }

    pub(super) fn end(&self) {
        add(&self.under_way, u64::MAX);
    }
}

/// Only its worker writes it.
fn add(number: &AtomicU64, amount: u64) {
    number.store(number.load(Relaxed).wrapping_add(amount), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_workers_counted_is_added_up_and_stays_when_one_gives_up() {
        let all = Tallies::default();
        let (one, other) = (all.open(), all.open());

        one.begin();
        one.begin();
        other.begin();
        one.reuse();
        other.reuse();
        assert_eq!((all.under_way(), all.reused()), (3, 2));

        one.end();
        one.end();
        all.close(&one);
        assert_eq!((all.under_way(), all.reused()), (1, 2));
    }

    #[test]
    fn each_worker_counts_on_lines_of_its_own() {
        let all = Tallies::default();
        let tallies = [all.open(), all.open()];

        assert_eq!(size_of::<Tally>(), 128);
        assert!(tallies.iter().all(|tally| std::ptr::from_ref(&**tally).addr().is_multiple_of(128)));
    }
}
