//! Answers over HTTP/2 that their client does not take: each stream ends by `write_timeout` (R19; CVE-2019-9517).
//!
//! A client that opens no flow-control window leaves nothing to write, so the socket tells nothing, while the answer
//! and its upstream are held. hyper asks a body for more only when there is room: one that has more to give and is not
//! asked waits for its client. Bodies note that in a table of their connection; the task that sends the stream looks
//! there when it is left waiting, and ends the stream with `CANCEL`; others of the connection go on. So each piece that
//! was handed out, of 64 KiB at most, has to be taken within the timeout. A timer is made only for a stream that waits,
//! a table entry is used again. RFC 9113 section 5.2.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    task::spawn_local,
    time::{Instant, Sleep, sleep},
};

use crate::{clock, edge::Counters};

/// What the answers of one connection wait for.
#[derive(Debug)]
pub(crate) struct Answers {
    waiting: RefCell<Table>,
    /// The entry that was made last and has not been taken by its stream's task.
    newest: Cell<Option<usize>>,
    timeout: Duration,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Waiting>,
    free: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    /// It has more to give and was not asked for it.
    for_client: bool,
    /// How often it was asked, modulo 2^32.
    asked: u32,
}

/// One answer's entry.
#[derive(Debug)]
pub(crate) struct Answer {
    answers: Rc<Answers>,
    index: usize,
}

/// Runs the streams of one HTTP/2 connection beside it, on the same thread.
#[derive(Clone, Debug)]
pub(crate) struct Streams(pub(crate) Rc<Answers>);

impl Answers {
    /// Of which each piece has to be taken within `timeout`.
    pub(crate) fn new(timeout: Duration, counters: Arc<Counters>) -> Self {
        Self { waiting: RefCell::default(), newest: Cell::default(), timeout, counters }
    }

    /// For an answer that has a body to give. To be made within its stream's task.
    pub(crate) fn enter(self: &Rc<Self>) -> Answer {
        let mut table = self.waiting.borrow_mut();
        let index = table.free.pop().unwrap_or_else(|| {
            table.entries.push(Waiting::default());
            table.entries.len() - 1
        });
        drop(table);
        self.newest.set(Some(index));
        self.set(index, |entry| entry.for_client = true);
        Answer { answers: Rc::clone(self), index }
    }

    fn set(&self, index: usize, change: impl FnOnce(&mut Waiting)) {
        if let Some(entry) = self.waiting.borrow_mut().entries.get_mut(index) {
            change(entry);
        }
    }

    fn waiting(&self, index: usize) -> Waiting {
        self.waiting.borrow().entries.get(index).copied().unwrap_or_default()
    }

    fn leave(&self, index: usize) {
        self.waiting.borrow_mut().free.push(index);
    }
}

impl Answer {
    /// It was asked for more, and has still more to give or has not.
    pub(crate) fn asked(&self, has_more: bool) {
        self.answers.set(self.index, |entry| {
            entry.asked = entry.asked.wrapping_add(1);
            entry.for_client = has_more;
        });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.asked(false);
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        let place = Place { answers: Rc::clone(&self.0), index: None };
        drop(spawn_local(Stream { future, place, patience: Patience::default() }));
    }
}

pin_project! {
    /// The task of one stream. No `async` function: that would have room for `future` twice.
    struct Stream<F> {
        // Before the place, so that the body is gone when its entry is given back.
        #[pin]
        future: F,
        place: Place,
        patience: Patience,
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.future.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Place { answers, index } = this.place;
        *index = index.or_else(|| answers.newest.take());
        let waiting = index.map(|index| answers.waiting(index)).unwrap_or_default();
        let ended = this.patience.poll(waiting, answers.timeout, cx);
        if ended.is_ready() {
            answers.counters.timeout_write.fetch_add(1, Relaxed);
        }
        ended
    }
}

/// An entry as long as the task of its stream lives.
struct Place {
    answers: Rc<Answers>,
    index: Option<usize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // An answer that was complete at once was never looked for.
        if let Some(index) = self.index.or_else(|| self.answers.newest.take()) {
            self.answers.leave(index);
        }
    }
}

/// How long a stream has been waiting for its client.
#[derive(Default)]
struct Patience {
    asked: u32,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Ready when it is used up.
    fn poll(&mut self, waiting: Waiting, timeout: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if !waiting.for_client {
            self.since = None;
            return Poll::Pending;
        }
        if self.since.is_none() || self.asked != waiting.asked {
            self.asked = waiting.asked;
            self.since = Some(clock::instant().into());
        }
        let deadline = self.since.map(|since| since + timeout);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
        while timer.as_mut().poll(cx).is_ready() {
            match deadline {
                // What was given meanwhile counts.
                Some(deadline) if deadline > Instant::from(clock::instant()) => timer.as_mut().reset(deadline),
                Some(_) | None => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}
