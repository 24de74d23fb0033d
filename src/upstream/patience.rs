//! How long a server may take, for one exchange: a deadline that is a number, and why it must end.
//!
//! In: what the exchange waits for now. Out: whether it is told to end, and why. Judged by the worker's ticker; the
//! server's time runs only while the server is waited for, and whoever waits is woken when it is over. The first reason
//! stays.

use std::{
    cell::{Cell, RefCell},
    task::{Context, Waker},
};

use super::{UpstreamError, ticks::Ticks, times::Times};

/// One exchange's deadline.
pub(super) struct Patience {
    ticks: Ticks,
    /// In ticks; [`NEVER`] while nobody waits for the server.
    deadline: Cell<u64>,
    /// What [`Self::wait_for_answer`] sets.
    response_ticks: Cell<u64>,
    /// What [`Self::wait_for_bytes`] sets.
    read_ticks: Cell<u64>,
    /// In ticks: when it is over, whoever is waited for.
    end: Cell<u64>,
    /// Why it must end.
    blame: Cell<Option<UpstreamError>>,
    /// From the request until its answer's head.
    awaits_head: Cell<bool>,
    /// Whoever waits for bytes.
    reader: RefCell<Option<Waker>>,
}

impl Patience {
    /// Nobody waits yet.
    pub(super) const fn new(ticks: Ticks) -> Self {
        Self {
            ticks,
            deadline: Cell::new(NEVER),
            response_ticks: Cell::new(0),
            read_ticks: Cell::new(0),
            end: Cell::new(NEVER),
            blame: Cell::new(None),
            awaits_head: Cell::new(false),
            reader: RefCell::new(None),
        }
    }

    /// The worker's clock.
    pub(super) const fn ticks(&self) -> &Ticks {
        &self.ticks
    }

    /// A request is about to be sent.
    pub(super) fn begin(&self, times: &Times) {
        self.response_ticks.set(times.response_ticks);
        self.read_ticks.set(times.read_ticks);
        self.end.set(times.end_tick(&self.ticks));
        self.awaits_head.set(true);
        self.wait_for_answer();
    }

    /// The answer's head is there.
    pub(super) fn head_came(&self) {
        self.awaits_head.set(false);
        self.deadline.set(NEVER);
    }

    pub(super) const fn awaits_head(&self) -> bool {
        self.awaits_head.get()
    }

    /// The upstream could have everything that we have: its time runs.
    pub(super) fn wait_for_answer(&self) {
        self.wait(self.response_ticks.get());
    }

    /// The answer's next bytes are waited for.
    pub(super) fn wait_for_bytes(&self) {
        self.wait(self.read_ticks.get());
    }

    /// The upstream has `ticks` from now.
    fn wait(&self, ticks: u64) {
        self.deadline.set(self.ticks.now().saturating_add(ticks));
    }

    /// Nobody waits for the upstream.
    pub(super) fn rest(&self) {
        self.deadline.set(NEVER);
    }

    /// The exchange is over, or has become a tunnel: nothing bounds it any more.
    pub(super) fn end(&self) {
        self.rest();
        self.end.set(NEVER);
    }

    /// Whoever reads next learns that this is why it ends; the first reason stays.
    pub(super) fn blame(&self, why: UpstreamError) {
        if self.blame.get().is_none() {
            self.blame.set(Some(why));
        }
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    /// Why it must end, if it must.
    pub(super) const fn blamed(&self) -> Option<UpstreamError> {
        self.blame.get()
    }

    /// Called on every tick: the upstream's time may be over.
    pub(super) fn judge(&self) {
        let now = self.ticks.now();
        if now >= self.end.get() {
            self.end();
            self.blame(UpstreamError::OutOfTime);
        }
        if now < self.deadline.get() {
            return;
        }
        self.deadline.set(NEVER);
        let what = if self.awaits_head.get() { "response_timeout" } else { "read_timeout" };
        self.blame(UpstreamError::Timeout(what));
    }

    /// Somebody waits for bytes.
    pub(super) fn remember(&self, cx: &Context<'_>) {
        let mut reader = self.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
    }
}

/// No deadline.
pub(super) const NEVER: u64 = u64::MAX;
