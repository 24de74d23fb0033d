//! The client's body on its way to an upstream, part by part: nothing is taken before the upstream has room for it.
//!
//! In: what the edge reads of the client. Out: [`Part`]s. It counts against the bound, holds back until the upstream says
//! 100 if the client asked for that (RFC 9110 section 10.1.1), drops trailers unless the route wants them (R18), and
//! makes sure that a body which broke off is never taken for one that ended. A small one is kept until its answer
//! begins, so that a server which did not process it can be asked again.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    future::Future as _,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Sleep, sleep};

use super::{UpstreamError, patience::Patience};
use crate::inbound::Incoming;

/// Makes trailers of a request fit for an upstream: what must not pass is removed (R12, R18).
#[derive(Clone)]
pub struct TrailerFilter(Rc<dyn Fn(&mut HeaderMap)>);

impl TrailerFilter {
    /// Which removes what `filter` removes.
    pub fn new(filter: impl Fn(&mut HeaderMap) + 'static) -> Self {
        Self(Rc::new(filter))
    }

    fn apply(&self, trailers: &mut HeaderMap) {
        (self.0)(trailers);
    }
}

impl fmt::Debug for TrailerFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrailerFilter")
    }
}

/// The client's body, as it is sent to an upstream.
pub(super) struct RequestBody {
    incoming: Incoming,
    received: Option<Rc<Cell<u64>>>,
    /// Bytes that may still come.
    allowance: u64,
    gate: Option<Gate>,
    /// How long it is in all, if it says so.
    length: Option<u64>,
    /// Makes trailers fit for the upstream; without it they are dropped.
    trailers: Option<TrailerFilter>,
    /// What comes again before anything else is taken from the client.
    again: VecDeque<Part>,
    kept: Kept,
}

/// A part of a body.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// Bytes, never none.
    Data(Bytes),
    /// What comes behind the last of them, made fit for the upstream.
    Trailers(HeaderMap),
}

/// What of a body could be sent again.
enum Kept {
    /// Nothing was taken of it yet.
    Untouched,
    /// All that was taken is here, and so many bytes more may be.
    All(Vec<Part>, usize),
    /// It is gone.
    Nothing,
}

/// Holds a body back until the upstream answers `100 Continue`. An upstream that says nothing gets it after a second,
/// for it may not know the mechanism; one that answers finally does not get it at all.
type Gate = Pin<Box<Sleep>>;

impl RequestBody {
    /// Of `incoming`, at most `max` bytes; `received` counts them. `None`: there is
    /// no body. Boxed: it is large, and most requests have none.
    pub(super) fn new(incoming: Incoming, received: Option<Rc<Cell<u64>>>, max: u64) -> Option<Box<Self>> {
        if http_body::Body::is_end_stream(&incoming) {
            return None;
        }
        Some(Box::new(Self {
            received,
            allowance: max,
            gate: None,
            length: http_body::Body::size_hint(&incoming).exact(),
            incoming,
            trailers: None,
            again: VecDeque::new(),
            kept: Kept::Untouched,
        }))
    }

    /// Lets trailers pass through `filter`.
    pub(super) fn let_trailers_pass(&mut self, filter: TrailerFilter) {
        self.trailers = Some(filter);
    }

    /// Keeps what is taken, within bounds, until the answer's head is there: it may have to be sent again.
    pub(super) fn keep(&mut self) {
        if matches!(self.kept, Kept::Untouched) && self.again.is_empty() {
            self.kept = Kept::All(Vec::new(), KEPT_BYTES);
        }
    }

    /// Begins again; `false`: what was taken is not here any more.
    pub(super) fn rewind(&mut self) -> bool {
        match &self.kept {
            Kept::Untouched => true,
            Kept::All(parts, _) => {
                self.again = parts.iter().cloned().collect();
                true
            }
            Kept::Nothing => false,
        }
    }

    /// Gives back what was taken last, and sent to nobody.
    pub(super) fn give_back(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.again.push_front(Part::Data(data));
        }
    }

    /// How long it says it is.
    pub(super) const fn exact_length(&self) -> Option<u64> {
        self.length
    }

    /// Nothing is taken from the client before the upstream wants it.
    pub(super) fn close_gate(&mut self) {
        self.gate = Some(Box::pin(sleep(CONTINUE_PATIENCE)));
    }

    /// The upstream wants it.
    pub(super) fn open_gate(&mut self) {
        self.gate = None;
    }

    /// The next part; `None` is the end, and nothing follows trailers.
    ///
    /// # Errors
    /// [`UpstreamError::TooLarge`], or [`UpstreamError::ClientBody`] if it broke off.
    pub(super) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
        patience: &Patience,
    ) -> Poll<Result<Option<Part>, UpstreamError>> {
        if let Some(part) = self.again.pop_front() {
            return Poll::Ready(Ok(Some(part)));
        }
        let awaits_head = patience.awaits_head();
        if let Some(gate) = &mut self.gate {
            if !awaits_head {
                return Poll::Pending;
            }
            ready!(gate.as_mut().poll(cx));
            self.gate = None;
        }
        loop {
            match http_body::Body::poll_frame(Pin::new(&mut self.incoming), cx) {
                Poll::Pending => {
                    if awaits_head {
                        patience.rest();
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let data = match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => {
                            let Some(part) = self.wanted_trailers(frame) else { continue };
                            if awaits_head {
                                patience.wait_for_answer();
                            }
                            return Poll::Ready(Ok(Some(part)));
                        }
                    };
                    if data.is_empty() {
                        continue;
                    }
                    if let Some(received) = &self.received {
                        received.set(received.get().saturating_add(data.len() as u64));
                    }
                    let Some(allowance) = self.allowance.checked_sub(data.len() as u64) else {
                        return Poll::Ready(Err(UpstreamError::TooLarge));
                    };
                    self.allowance = allowance;
                    if awaits_head {
                        patience.wait_for_answer();
                    }
                    let part = Part::Data(data);
                    self.kept.keep(&part, awaits_head);
                    return Poll::Ready(Ok(Some(part)));
                }
                Poll::Ready(None) => {
                    if awaits_head {
                        patience.wait_for_answer();
                    }
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(UpstreamError::ClientBody)),
            }
        }
    }

    /// Trailers, where they are wanted and something is left of them.
    fn wanted_trailers(&mut self, frame: Frame<Bytes>) -> Option<Part> {
        let (filter, mut trailers) = (self.trailers.as_ref()?, frame.into_trailers().ok()?);
        filter.apply(&mut trailers);
        if trailers.is_empty() {
            return None;
        }
        let part = Part::Trailers(trailers);
        self.kept.keep(&part, true);
        Some(part)
    }
}

impl Kept {
    fn keep(&mut self, part: &Part, awaits_head: bool) {
        let Self::All(parts, room) = self else {
            *self = Self::Nothing;
            return;
        };
        let bytes = match part {
            Part::Data(data) => data.len(),
            Part::Trailers(trailers) => trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
        };
        match room.checked_sub(bytes).filter(|_| awaits_head) {
            Some(left) => {
                *room = left;
                parts.push(part.clone());
            }
            None => *self = Self::Nothing,
        }
    }
}

/// What is kept of a body in case it has to be sent again: small ones, of calls.
const KEPT_BYTES: usize = 64 * 1024;
/// RFC 9110 section 10.1.1: a client "SHOULD NOT wait for an indefinite period".
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);
