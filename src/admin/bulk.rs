//! Many sessions in one request: newline-delimited JSON in, one line of JSON out for each line, in order.
//!
//! The request is never held as a whole: entries are opened as they come. Answers are held back until the request has
//! ended, because most clients do not read while they write; beyond 8 MiB of answers (some 40,000 entries) they flow,
//! and a client has to read while it goes on writing. A body that breaks off opens nothing of its last, unfinished line.

use std::{
    convert::Infallible,
    pin::Pin,
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
    creator: Creator,
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
            creator,
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
    fn answer_lines(&mut self) -> bool {
        for _ in 0..LINES_AT_ONCE {
            if self.answers.len() >= self.hold || self.state != State::Reading {
                return false;
            }
            let Some(end) = memchr::memchr(b'\n', &self.partial[self.searched..]) else {
                self.searched = self.partial.len();
                if self.partial.len() > MAX_ENTRY_BYTES {
                    self.break_off(&Problem::EntryTooLarge);
                }
                return false;
            };
            let line = self.partial.split_to(self.searched + end);
            self.partial.advance(1);
            self.searched = 0;
            self.answer(&line);
        }
        true
    }

    fn answer(&mut self, line: &[u8]) {
        self.line += 1;
        if line.trim_ascii().is_empty() {
            return;
        }
        let created =
            if line.len() > MAX_ENTRY_BYTES { Err(Problem::EntryTooLarge) } else { self.creator.create(line) };
        match created {
            Ok(members) => {
                self.created += 1;
                self.push(members);
            }
            Err(problem) => self.push_problem(&problem),
        }
    }

    fn break_off(&mut self, problem: &Problem) {
        self.line += 1;
        self.push_problem(problem);
        self.state = State::Broken;
    }

    fn push_problem(&mut self, problem: &Problem) {
        self.failed += 1;
        let mut members = Map::new();
        members.insert("error".to_owned(), problem.label().into());
        members.insert("message".to_owned(), problem.message().into());
        self.push(members);
    }

    fn push(&mut self, mut members: Map<String, Value>) {
        members.insert("line".to_owned(), self.line.into());
        self.answers.extend_from_slice(Value::Object(members).to_string().as_bytes());
        self.answers.extend_from_slice(b"\n");
    }

    /// Answers that may go, if there are enough of them or no more will come.
    fn due(&mut self) -> Option<Bytes> {
        let due = self.answers.len() >= self.hold || self.state != State::Reading;
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
            let more = self.answer_lines();
            if let Some(answers) = self.due() {
                return Poll::Ready(Some(answers));
            }
            if more {
                // Others on this thread have their turn between two runs of lines.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.state != State::Reading {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.input).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.partial.extend_from_slice(&data);
                    }
                }
                Poll::Ready(Some(Err(_))) => self.break_off(&Problem::BrokenBody),
                Poll::Ready(None) => {
                    let line = self.partial.split();
                    self.answer(&line);
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
/// Sessions opened before others have their turn.
const LINES_AT_ONCE: usize = 64;
