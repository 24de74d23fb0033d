//! The one concrete body type of our answers: our own bytes, or what streams from an upstream; with the request's
//! `Outcome` on board, so that its end is the request's end.

use std::{
    convert::Infallible,
    fmt,
    ops::{Deref, DerefMut},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full};

use super::exchanges::Watched;
use crate::{
    inbound::Incoming,
    telemetry::outcome::{Metered, Outcome},
    upstream::{self, UpstreamError},
};

/// The body of an answer that goes to the client.
pub struct Body(Kind);

enum Kind {
    /// Of the pipeline. Boxed: it is large, and moved many times before it is asked for data.
    Metered(Box<Metered<Content>>),
    /// Of others that stand behind an edge.
    Other(Other),
}

/// What never breaks off.
type Other = Box<dyn HttpBody<Data = Bytes, Error = Infallible> + Unpin>;

/// The outcome of a request, in the place where the body of its answer will be: both move as one pointer.
#[derive(Debug)]
pub(super) struct Account(Box<Metered<Content>>);

/// The body of an answer before its outcome is known.
#[derive(Debug)]
pub(super) enum Content {
    Own(Full<Bytes>),
    Upstream(upstream::Body, Watched),
}

/// Why an answer breaks off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyError {
    /// What the request was permitted by has ended (R28). Carries the word for logs.
    Ended(&'static str),
    /// The upstream's answer did.
    Upstream(UpstreamError),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(reason) => f.write_str(reason),
            Self::Upstream(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BodyError {}

/// Reads and forgets the body of a request that is refused, within bounds: a client that is still sending would
/// otherwise see a reset instead of the answer (RFC 9112 section 9.3, RFC 9113 section 8.1). What comes beyond the
/// bounds costs the client its connection or stream.
pub(super) fn discard(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(async move {
        let mut left = DISCARDED_BYTES;
        let reading = async {
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(1, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        // Whether it ended or not, nobody needs the rest.
        let _ = tokio::time::timeout(DISCARDING, reading).await;
    });
}

const DISCARDED_BYTES: usize = 64 * 1024;
const DISCARDING: Duration = Duration::from_secs(2);

impl Content {
    pub(super) fn empty() -> Self {
        Self::own(Bytes::new())
    }

    pub(super) fn own(bytes: Bytes) -> Self {
        Self::Own(Full::new(bytes))
    }

    pub(super) const fn upstream(body: upstream::Body, watched: Watched) -> Self {
        Self::Upstream(body, watched)
    }

    /// Completes it: when the body ends or is dropped, the request is over.
    pub(super) fn with(self, Account(mut metered): Account) -> Body {
        metered.begin(self);
        Body(Kind::Metered(metered))
    }
}

impl Body {
    /// One that nobody counts.
    pub fn other(body: impl HttpBody<Data = Bytes, Error = Infallible> + Unpin + 'static) -> Self {
        Self(Kind::Other(Box::new(body)))
    }
}

impl Account {
    pub(super) fn open(outcome: Outcome) -> Self {
        Self(Box::new(Metered::awaited(Content::empty(), outcome)))
    }
}

impl Deref for Account {
    type Target = Outcome;

    fn deref(&self) -> &Outcome {
        self.0.outcome()
    }
}

impl DerefMut for Account {
    fn deref_mut(&mut self) -> &mut Outcome {
        self.0.outcome_mut()
    }
}

impl HttpBody for Content {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Own(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Upstream(body, watched) => {
                let polled = Pin::new(&mut *body).poll_frame(context).map_err(BodyError::Upstream);
                // What is complete by now has nothing left to cut.
                if !matches!(polled, Poll::Ready(None | Some(Err(_))))
                    && !HttpBody::is_end_stream(body)
                    && let Poll::Ready(ended) = watched.poll_ended(context.waker())
                {
                    *body = upstream::Body::empty();
                    return Poll::Ready(Some(Err(BodyError::Ended(ended.reason()))));
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Upstream(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Upstream(body, _) => body.size_hint(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let metered = match &mut self.0 {
            Kind::Metered(metered) => metered,
            Kind::Other(other) => return Pin::new(other).poll_frame(context).map_err(|never| match never {}),
        };
        let polled = Pin::new(&mut **metered).poll_frame(context);
        match polled {
            Poll::Ready(Some(Err(BodyError::Ended(reason)))) => metered.outcome_mut().cut(reason),
            Poll::Ready(Some(Err(BodyError::Upstream(error)))) => metered.outcome_mut().detail(error.label()),
            Poll::Ready(Some(Ok(_)) | None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Metered(metered) => metered.is_end_stream(),
            Kind::Other(other) => other.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Metered(metered) => metered.size_hint(),
            Kind::Other(other) => other.size_hint(),
        }
    }
}
