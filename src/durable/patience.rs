//! How long anybody waits for the disk.
//!
//! In: a [`Ticket`] for each batch that is handed to the thread that writes. Out: its one answer: from that thread, or,
//! when the disk takes longer than `server.state_timeout`, "no" from the thread here, which waits for no disk.
//! Invariants: whoever takes the answer out of the ticket decides, and nobody after; a batch that was refused here and
//! comes to lie on the disk all the same is taken back by the thread that writes (`writer`); while the disk does not
//! answer nobody else begins to wait.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::Shared;
use crate::clock;

/// What hears whether a batch is on disk.
pub(super) type Done = Box<dyn FnOnce(bool) + Send>;

/// One batch that somebody waits for.
pub(super) struct Ticket {
    since: Instant,
    /// `None`: it was answered.
    done: Mutex<Option<Done>>,
}

/// Everybody who waits, longest first.
pub(super) struct Waiters {
    patience: Duration,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    tickets: VecDeque<Arc<Ticket>>,
    closed: bool,
}

impl Ticket {
    /// Answers, if nobody has; `false`: it was refused long ago.
    pub(super) fn answer(&self, written: bool) -> bool {
        let done = self.done().take();
        let first = done.is_some();
        if let Some(done) = done {
            done(written);
        }
        first
    }

    /// Whether it waits for its answer.
    pub(super) fn is_open(&self) -> bool {
        self.done().is_some()
    }

    fn done(&self) -> MutexGuard<'_, Option<Done>> {
        // Held to look or to take, never while it is called.
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, queue: Mutex::default(), changed: Condvar::new() }
    }

    /// Takes note of somebody who begins to wait; `None`, and `done` has heard it: nobody writes any more.
    pub(super) fn begin(&self, done: Done) -> Option<Arc<Ticket>> {
        let mut queue = self.queue();
        if queue.closed {
            drop(queue);
            done(false);
            return None;
        }
        let ticket = Arc::new(Ticket { since: clock::instant(), done: Mutex::new(Some(done)) });
        // Answered in the order of their coming, so those at the front are all there is to clear away.
        queue.forget_answered();
        if queue.tickets.is_empty() {
            self.changed.notify_one();
        }
        queue.tickets.push_back(Arc::clone(&ticket));
        Some(ticket)
    }

    /// Nobody writes any more: whoever waits is refused, and so is whoever comes.
    pub(super) fn close(&self) {
        let tickets = {
            let mut queue = self.queue();
            queue.closed = true;
            std::mem::take(&mut queue.tickets)
        };
        self.changed.notify_one();
        for ticket in tickets {
            ticket.answer(false);
        }
    }

    /// Starts the thread that refuses whoever has waited too long. It ends after [`Self::close`].
    pub(super) fn watch(self: &Arc<Self>, shared: Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
        let waiters = Arc::clone(self);
        std::thread::Builder::new().name("patience".to_owned()).spawn(move || {
            while let Some(now) = waiters.sleep() {
                waiters.refuse_overdue(&shared, now);
            }
        })
    }

    /// Refuses whoever began to wait longer ago than they should, as seen at `now`.
    pub(super) fn refuse_overdue(&self, shared: &Shared, now: Instant) {
        let overdue: Vec<_> = {
            let mut queue = self.queue();
            let count = queue.tickets.partition_point(|ticket| self.left(ticket, now).is_zero());
            queue.tickets.drain(..count).collect()
        };
        let open: Vec<_> = overdue.into_iter().filter(|ticket| ticket.is_open()).collect();
        if open.is_empty() {
            return;
        }
        // Said before anybody hears of it: who is refused finds it in `/readyz`. Should the disk answer in this moment,
        // the thread that writes takes it back the next time it looks for work.
        shared.stalled(self.patience);
        let refused = open.into_iter().filter(|ticket| ticket.answer(false)).count();
        let refused = u64::try_from(refused).unwrap_or(u64::MAX);
        shared.counts.failures.fetch_add(refused, Ordering::Relaxed);
        shared.counts.timeouts.fetch_add(refused, Ordering::Relaxed);
    }

    /// Waits until somebody may have waited too long; `None`: nobody writes any more.
    fn sleep(&self) -> Option<Instant> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            queue.forget_answered();
            let now = clock::instant();
            let Some(left) = queue.tickets.front().map(|ticket| self.left(ticket, now)) else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if left.is_zero() {
                return Some(now);
            }
            queue = self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn left(&self, ticket: &Ticket, now: Instant) -> Duration {
        self.patience.saturating_sub(now.saturating_duration_since(ticket.since))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn forget_answered(&mut self) {
        while self.tickets.front().is_some_and(|ticket| !ticket.is_open()) {
            self.tickets.pop_front();
        }
    }
}
