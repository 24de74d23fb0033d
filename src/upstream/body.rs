//! The two bodies of an exchange, streamed chunk by chunk: nothing is read before somebody takes it.
//!
//! [`RequestBody`] goes up: it counts against the bound, holds back until the upstream says 100 if the client asked
//! for that (RFC 9110 section 10.1.1), drops trailers (R18), and makes sure that a body which broke off is never
//! taken for one that ended. [`Body`] comes down: it holds the connection's lease and gives it back at the last byte;
//! dropped before that, or broken, it cuts the connection. The upstream's clock runs only while it is waited for.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::{NOT_IN_TRAILERS, UpstreamError, pool::Lease, transport::Link};

/// The body of an upstream's answer. Its length hint is the upstream's, so `Content-Length` can be kept.
#[derive(Debug)]
pub struct Body {
    incoming: Option<Incoming>,
    lease: Option<Lease>,
}

impl Body {
    /// No content.
    pub const fn empty() -> Self {
        Self { incoming: None, lease: None }
    }

    pub(super) fn new(incoming: Incoming, lease: Lease) -> Self {
        if http_body::Body::is_end_stream(&incoming) {
            lease.finish();
            return Self::empty();
        }
        Self { incoming: Some(incoming), lease: Some(lease) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        let Some(lease) = &this.lease else {
            // Complete: what hyper still holds is the end.
            return Poll::Ready(None);
        };
        match polled {
            Poll::Pending => {
                lease.wait_for_bytes();
                Poll::Pending
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                lease.link().rest();
                let mut last = incoming.is_end_stream();
                if let Some(trailers) = frame.trailers_mut() {
                    remove_unfit(trailers);
                    // Nobody asks for more after these.
                    last = true;
                }
                if last && let Some(lease) = this.lease.take() {
                    lease.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                let why = lease.link().blamed().unwrap_or(UpstreamError::Invalid("broke_off"));
                this.incoming = None;
                this.lease = None;
                Poll::Ready(Some(Err(why)))
            }
            Poll::Ready(None) => {
                this.incoming = None;
                if let Some(lease) = this.lease.take() {
                    lease.finish();
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

/// The body that is sent to an upstream.
pub(super) struct RequestBody {
    /// `None`: there is none.
    incoming: Option<Incoming>,
    received: Option<Rc<Cell<u64>>>,
    /// Bytes that may still come.
    allowance: u64,
    http2: bool,
    link: Option<Rc<Link>>,
    gate: Option<Gate>,
}

impl RequestBody {
    /// Of `incoming`, which came over HTTP/2 if `http2`, at most `max` bytes; `received` counts them.
    pub(super) fn new(incoming: Incoming, received: Option<Rc<Cell<u64>>>, max: u64, http2: bool) -> Self {
        let incoming = (!http_body::Body::is_end_stream(&incoming)).then_some(incoming);
        Self { incoming, received, allowance: max, http2, link: None, gate: None }
    }

    /// The connection that it is about to be sent on.
    pub(super) fn attach(&mut self, link: Rc<Link>) {
        self.link = Some(link);
    }

    /// Nothing is polled before `gate` opens.
    pub(super) fn wait_for(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }

    fn fail(&mut self, why: UpstreamError) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        if let Some(link) = &self.link {
            link.blame(why);
        }
        self.incoming = None;
        Poll::Ready(Some(Err(why)))
    }

    /// Some of the body, or its end, was handed over: from here on the upstream is waited for, unless it has answered.
    fn handed_over(&self, complete: bool) {
        let Some(link) = &self.link else { return };
        if complete {
            link.sent();
        }
        if link.awaits_head() {
            link.wait_for_answer();
        }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        let awaits_head = this.link.as_ref().is_none_or(|link| link.awaits_head());
        if let Some(gate) = &mut this.gate {
            ready!(gate.poll_open(cx, awaits_head));
            this.gate = None;
        }
        loop {
            let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
            match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Pending => {
                    if let Some(link) = this.link.as_ref().filter(|_| awaits_head) {
                        link.rest();
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Some(received) = &this.received {
                        received.set(received.get().saturating_add(data.len() as u64));
                    }
                    let Some(allowance) = this.allowance.checked_sub(data.len() as u64) else {
                        return this.fail(UpstreamError::TooLarge);
                    };
                    // hyper asks no further once the declared length is there.
                    let complete = incoming.is_end_stream() || incoming.size_hint().exact() == Some(0);
                    this.allowance = allowance;
                    this.handed_over(complete);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // A stream that the client reset with NO_ERROR ends like a complete one, but without its last flag.
                Poll::Ready(None) if this.http2 && !incoming.is_end_stream() => {
                    return this.fail(UpstreamError::ClientBody);
                }
                Poll::Ready(None) => {
                    this.incoming = None;
                    this.handed_over(true);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(_))) => return this.fail(UpstreamError::ClientBody),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

/// Holds a body back until the upstream answers `100 Continue`. An upstream that says nothing gets it after a second,
/// for it may not know the mechanism; one that answers finally does not get it at all.
pub(super) struct Gate {
    open: Arc<AtomicBool>,
    patience: Pin<Box<Sleep>>,
}

impl Gate {
    /// A gate that the interim answer to `request` opens.
    pub(super) fn arm<B>(request: &mut Request<B>) -> Self {
        let open = Arc::new(AtomicBool::new(false));
        let opener = Arc::clone(&open);
        hyper::ext::on_informational(request, move |interim| {
            if interim.status() == StatusCode::CONTINUE {
                opener.store(true, Ordering::Relaxed);
            }
        });
        Self { open, patience: Box::pin(tokio::time::sleep(CONTINUE_PATIENCE)) }
    }

    /// hyper reads before it writes, in one task: the flag needs no waker of its own.
    fn poll_open(&mut self, cx: &mut Context<'_>, awaits_head: bool) -> Poll<()> {
        if self.open.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        if !awaits_head {
            return Poll::Pending;
        }
        self.patience.as_mut().poll(cx)
    }
}

fn remove_unfit(trailers: &mut HeaderMap) {
    for name in &NOT_IN_TRAILERS {
        trailers.remove(name);
    }
}

/// RFC 9110 section 10.1.1: a client "SHOULD NOT wait for an indefinite period".
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);
