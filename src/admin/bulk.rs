//! Many sessions in one request: newline-delimited JSON in, one line of JSON out for each line, in order.
//!
//! The request is never held as a whole: entries are opened as they come. Answers are held back until the request has
//! ended, because most clients do not read while they write; beyond 8 MiB of answers (some 40,000 entries) they flow,
//! and a client has to read while it goes on writing. A body that breaks off opens nothing of its last, unfinished
//! line.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use serde_json::{Map, Value};

use super::{MAX_ENTRY_BYTES, problem::Problem, sessions::Creator};

/// The body of an answer of the admin API. `B` is the request's body.
pub struct Body<B>(Kind<B>);

enum Kind<B> {
    Bulk(Box<Bulk<B>>),
    Whole(Option<Bytes>),
}

impl<B> Body<B> {
    /// Nothing.
    pub const fn empty() -> Self {
        Self(Kind::Whole(None))
    }

    pub(super) fn bulk(bulk: Bulk<B>) -> Self {
        Self(Kind::Bulk(Box::new(bulk)))
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Body<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Kind::Bulk(bulk) => bulk.poll(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Bulk(_) => false,
            Kind::Whole(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Bulk(_) => SizeHint::default(),
            Kind::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
            }
        }
    }
}

/// Entries on their way in, answers on their way out.
pub(super) struct Bulk<B> {
    input: B,
    creator: Arc<Creator>,
    /// Lines whose sessions are on their way to the disk, in order.
    underway: VecDeque<Underway>,
    /// What came of the line that has not ended.
    partial: BytesMut,
    /// How much of `partial` is known to hold no line end.
    searched: usize,
    answers: BytesMut,
    /// Bytes of answers at which they are let go.
    hold: usize,
    line: u64,
    created: u64,
    failed: u64,
    state: State,
}

/// What came of one line, or will come.
struct Underway {
    line: u64,
    created: Created,
}

enum Created {
    Done(Outcome),
    Pending(Pin<Box<dyn Future<Output = Outcome>>>),
}

type Outcome = Result<Map<String, Value>, Problem>;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Reading,
    /// The last line was answered.
    Complete,
    /// The body broke off or could not be read on.
    Broken,
}

impl<B> Bulk<B> {
    pub(super) fn new(input: B, creator: Creator) -> Self {
        Self {
            input,
            creator: Arc::new(creator),
            underway: VecDeque::new(),
            partial: BytesMut::new(),
            searched: 0,
            answers: BytesMut::new(),
            hold: HOLD_BYTES,
            line: 0,
            created: 0,
            failed: 0,
            state: State::Reading,
        }
    }

    /// Answers up to [`LINES_AT_ONCE`] lines that are there; `true` if more may be.
    fn answer_lines(&mut self, context: &mut Context<'_>) -> bool {
        for _ in 0..LINES_AT_ONCE {
            if self.answers.len() >= self.hold || self.underway.len() >= MAX_UNDERWAY || self.state != State::Reading {
                return false;
            }
            let Some(end) = memchr::memchr(b'\n', &self.partial[self.searched..]) else {
                self.searched = self.partial.len();
                if self.partial.len() > MAX_ENTRY_BYTES {
                    self.break_off(Problem::EntryTooLarge);
                }
                return false;
            };
            let line = self.partial.split_to(self.searched + end);
            self.partial.advance(1);
            self.searched = 0;
            self.answer(&line, context);
        }
        true
    }

    fn answer(&mut self, text: &[u8], context: &mut Context<'_>) {
        self.line += 1;
        if text.trim_ascii().is_empty() {
            return;
        }
        if text.len() > MAX_ENTRY_BYTES {
            return self.follow(Created::Done(Err(Problem::EntryTooLarge)));
        }
        let (creator, text) = (Arc::clone(&self.creator), text.to_vec());
        let mut creating: Pin<Box<dyn Future<Output = _>>> = Box::pin(async move { creator.create(&text).await });
        // The first poll sends it on its way to the disk, so that many lines can share one transaction.
        let created = match creating.as_mut().poll(context) {
            Poll::Ready(outcome) => Created::Done(outcome),
            Poll::Pending => Created::Pending(creating),
        };
        self.follow(created);
    }

    fn break_off(&mut self, problem: Problem) {
        self.line += 1;
        self.follow(Created::Done(Err(problem)));
        self.state = State::Broken;
    }

    /// Puts what came of the current line behind what came of those before.
    fn follow(&mut self, created: Created) {
        match created {
            Created::Done(outcome) if self.underway.is_empty() => self.settle(self.line, outcome),
            created => self.underway.push_back(Underway { line: self.line, created }),
        }
    }

    /// Settles the lines that are done, up to the first that is not.
    fn settle_underway(&mut self, context: &mut Context<'_>) {
        while let Some(Underway { line, created }) = self.underway.pop_front() {
            let outcome = match created {
                Created::Done(outcome) => outcome,
                Created::Pending(mut creating) => match creating.as_mut().poll(context) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => {
                        self.underway.push_front(Underway { line, created: Created::Pending(creating) });
                        return;
                    }
                },
            };
            self.settle(line, outcome);
        }
    }

    fn settle(&mut self, line: u64, outcome: Outcome) {
        let mut members = match outcome {
            Ok(members) => {
                self.created += 1;
                members
            }
            Err(problem) => {
                self.failed += 1;
                let mut members = Map::new();
                members.insert("error".to_owned(), problem.label().into());
                members.insert("message".to_owned(), problem.message().into());
                members
            }
        };
        members.insert("line".to_owned(), line.into());
        self.answers.extend_from_slice(Value::Object(members).to_string().as_bytes());
        self.answers.extend_from_slice(b"\n");
    }

    /// Answers that may go, if there are enough of them or no more will come.
    fn due(&mut self) -> Option<Bytes> {
        let is_last = self.state != State::Reading && self.underway.is_empty();
        let due = self.answers.len() >= self.hold || is_last;
        if !due || self.answers.is_empty() {
            return None;
        }
        self.hold = FLOW_BYTES;
        Some(self.answers.split().freeze())
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> Bulk<B> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            self.settle_underway(context);
            let more = self.answer_lines(context);
            if let Some(answers) = self.due() {
                return Poll::Ready(Some(answers));
            }
            if more {
                // Others on this thread have their turn between two runs of lines.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.state != State::Reading && self.underway.is_empty() {
                return Poll::Ready(None);
            }
            if self.state != State::Reading || self.underway.len() >= MAX_UNDERWAY {
                return Poll::Pending;
            }
            match Pin::new(&mut self.input).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.partial.extend_from_slice(&data);
                    }
                }
                Poll::Ready(Some(Err(_))) => self.break_off(Problem::BrokenBody),
                Poll::Ready(None) => {
                    let line = self.partial.split();
                    self.answer(&line, context);
                    self.state = State::Complete;
                }
            }
        }
    }
}

impl<B> Drop for Bulk<B> {
    fn drop(&mut self) {
        self.creator.tell_bulk(self.created, self.failed, self.state == State::Complete);
    }
}

/// Answers held while a client writes.
const HOLD_BYTES: usize = 8 << 20;
/// Answers sent at once after that.
const FLOW_BYTES: usize = 64 << 10;
/// Lines on their way to the disk at once.
const MAX_UNDERWAY: usize = 256;
/// Sessions opened before others have their turn.
const LINES_AT_ONCE: usize = 64;
