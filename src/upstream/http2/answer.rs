//! The body of an answer on a shared connection, with its trailers.
//!
//! In: the stream's DATA as it comes. Out: the same, part by part; the server's window is reopened by what was taken,
//! and by nothing else (RFC 9113 section 6.9). A stream that is reset, by whatever code, has broken off. Dropped before
//! its end, the stream is cancelled, and with it what is left of the request.

use std::{
    fmt,
    rc::Rc,
    task::{Context, Poll, ready},
};

use h2::RecvStream;

use super::{Lease, exchange::FLOOD};
use crate::upstream::{
    UpstreamError,
    body::{Next, Upload},
    patience::Patience,
};

/// A body that is still coming.
pub(in crate::upstream) struct Answer {
    stream: RecvStream,
    /// As far as its head said.
    left: Option<u64>,
    patience: Rc<Patience>,
    waits: bool,
    data_ended: bool,
    lease: Lease,
    /// The request's body, if it is still being sent; gone with this.
    _upload: Option<Upload>,
}

impl Answer {
    /// What comes on `stream`, `length` bytes of it if that is known.
    pub(super) const fn new(
        stream: RecvStream,
        length: Option<u64>,
        patience: Rc<Patience>,
        lease: Lease,
        upload: Option<Upload>,
    ) -> Self {
        Self { stream, left: length, patience, waits: false, data_ended: false, lease, _upload: upload }
    }

    /// How much is still to come, if that is known.
    pub(in crate::upstream) const fn left(&self) -> Option<u64> {
        self.left
    }

    /// The next part.
    pub(in crate::upstream) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, UpstreamError>> {
        if let Some(why) = self.patience.blamed() {
            return Poll::Ready(Err(why));
        }
        let polled = self.poll_stream(cx);
        if polled.is_pending() {
            if !std::mem::replace(&mut self.waits, true) {
                self.patience.wait_for_bytes();
            }
            self.patience.remember(cx);
        } else {
            self.waits = false;
            self.patience.rest();
            self.lease.seat().session().heard();
        }
        polled
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, UpstreamError>> {
        while !self.data_ended {
            let Some(data) = ready!(self.stream.poll_data(cx)) else {
                self.data_ended = true;
                break;
            };
            let data = match data {
                Ok(data) => data,
                // The connection ended while the request's body was still on its way, and all that the head announced
                // is here, as over HTTP/1.1. A stream that is reset says that it is not.
                Err(why) if self.left == Some(0) && why.is_io() => return Poll::Ready(Ok(Next::End(None))),
                Err(why) => return Poll::Ready(Err(self.broke_off(&why))),
            };
            let released = self.stream.flow_control().release_capacity(data.len());
            released.map_err(|why| self.broke_off(&why))?;
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
            let last = self.stream.is_end_stream();
            if !data.is_empty() {
                return Poll::Ready(Ok(Next::Data { data, last }));
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(|why| self.broke_off(&why))?;
        Poll::Ready(Ok(Next::End(trailers)))
    }

    /// Whatever the code says: the answer is not whole.
    fn broke_off(&self, why: &h2::Error) -> UpstreamError {
        if self.lease.seat().session().has_flooded(why) { FLOOD } else { UpstreamError::Invalid("broke_off") }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("left", &self.left).field("lease", &self.lease).finish_non_exhaustive()
    }
}
