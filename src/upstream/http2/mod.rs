//! HTTP/2 to upstreams (RFC 9113): one connection carries many requests of this worker.
//!
//! In: a request and a seat on a connection. Out: the answer's head with a streaming body, as over HTTP/1.1. The frames
//! are the `h2` library's, which hyper brings along: hyper's own client would hide what is decided here (whether a
//! stream was processed, windows, interim answers) and needs a task for each request. Invariants: a request is sent
//! again only if the server says that it did not process it, or nothing of it can have had an effect; over HTTP/1.1 if
//! the server asks for that. A stream that is not complete is reset, and never looks complete to the other side; what
//! waits in memory is bounded by the windows.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed};

use h2::Reason;
use http::{Response, header::CONTENT_LENGTH};

use super::{
    Body, Journey, UpstreamError,
    answer::Length,
    body::Upload,
    client_body::RequestBody,
    over_http1,
    patience::Patience,
    pool::{Failure, Leased, SharedLease},
    upgrade,
};

mod answer;
mod ask;
mod exchange;
mod head;
mod session;
mod sessions;
mod tunnel;

pub(super) use self::{
    answer::Answer,
    ask::ask,
    head::bare,
    session::{Seat, Session},
    sessions::Sessions,
};

/// The right to one exchange on a shared connection.
type Lease = SharedLease;

/// Sends the request of `journey` on the connection of `lease`, or on another one if the server did not take it.
pub(super) async fn forward(
    journey: &mut Journey<'_>,
    mut lease: Lease,
    mut body: Option<Box<RequestBody>>,
) -> Result<Response<Body>, UpstreamError> {
    if let Some(body) = &mut body {
        body.keep();
    }
    loop {
        if let Some(body) = body.as_mut().filter(|_| journey.request.expects_continue) {
            body.close_gate();
        }
        let head = head::request(journey.request, lease.host(journey.request), lease.is_encrypted(), body.as_deref())?;
        let patience = Rc::new(Patience::new(lease.seat().ticks().clone()));
        patience.begin(journey.times());
        journey.upstreams.watch_over(&patience);
        let (failure, left) = match exchange::exchange(lease.seat(), head, body, &patience, journey.hints()).await {
            Ok(answered) => return conclude(journey, lease, answered, patience),
            Err(failed) => failed,
        };
        body = left;
        let is_for_http1 = matches!(failure, Failure::WantsHttp1 { .. });
        if let Err(why) = may_go_on(journey, &lease, failure, body.as_deref_mut()) {
            journey.entry.note_failure(journey.upstreams, lease.server(), why);
            return Err(why);
        }
        let leased = if is_for_http1 {
            journey.lease_again(lease.leave()).await?
        } else {
            lease.counters().retries.fetch_add(1, Relaxed);
            drop(lease);
            journey.lease().await?
        };
        lease = match leased {
            Leased::Shared(lease) => lease,
            Leased::Own(lease) => return Box::pin(over_http1(journey, lease, body)).await,
        };
    }
}

/// Whether the request may be sent again after this; then its body is as it was.
fn may_go_on(
    journey: &mut Journey<'_>,
    lease: &Lease,
    failure: Failure,
    body: Option<&mut RequestBody>,
) -> Result<(), UpstreamError> {
    let again = &mut journey.again;
    let why = match failure {
        Failure::Failed(why) => return Err(why),
        Failure::Died if again.retried || !journey.limits.retries => return Err(UpstreamError::Invalid("no_answer")),
        Failure::Died => {
            again.retried = true;
            NOT_PROCESSED
        }
        Failure::NotSent | Failure::Refused => {
            again.unsent += 1;
            NOT_PROCESSED
        }
        Failure::WantsHttp1 { begun } => {
            again.unsent += 1;
            // Also where this request is lost: the next is not.
            if !lease.server().speak_http1() || begun {
                return Err(HTTP1_REQUIRED);
            }
            HTTP1_REQUIRED
        }
    };
    if again.unsent > UNSENT_MAX || body.is_some_and(|body| !body.rewind()) { Err(why) } else { Ok(()) }
}

fn conclude(
    journey: &mut Journey<'_>,
    mut lease: Lease,
    answered: exchange::Answered,
    patience: Rc<Patience>,
) -> Result<Response<Body>, UpstreamError> {
    let exchange::Answered { head, stream, sending } = answered;
    lease.hold(journey.turn.clone());
    let ended = stream.is_end_stream();
    let accepted = head.status().is_success().then(|| journey.request.websocket.take()).flatten();
    let judged = match head::answer(head, &journey.request.method, ended) {
        // A tunnel that ends as it begins is none.
        Ok(_) if accepted.is_some() && ended => Err(UpstreamError::Invalid("bad_handshake")),
        judged => judged,
    };
    let (mut response, length) = judged.inspect_err(|&why| {
        journey.entry.note_failure(journey.upstreams, lease.server(), why);
    })?;
    journey.entry.note_answer(journey.upstreams, lease.server(), response.status());
    if let Some(websocket) = accepted {
        // Of a `CONNECT` it is always there.
        let sending = sending.ok_or(UpstreamError::Invalid("bad_handshake"))?;
        // RFC 9110 section 9.3.6: it says nothing.
        response.headers_mut().remove(CONTENT_LENGTH);
        let server = tunnel::Stream::new(stream, sending.into_stream(), Rc::clone(lease.seat().session()));
        let idle = journey.limits.tunnel_idle;
        return Ok(upgrade::open(journey.upstreams, server, Leased::Shared(lease), websocket, response, idle));
    }
    let length = match length {
        Length::None => return Ok(response.map(|()| Body::empty())),
        Length::Exact(length) => Some(length),
        Length::Chunked | Length::UntilClose => None,
    };
    let upload = sending.map(|sending| Upload::start(exchange::send_on(sending, Rc::clone(&patience))));
    let answer = Answer::new(stream, length, patience, lease, upload);
    Ok(response.map(|()| Body::shared(answer)))
}

/// Whether the server says that it wants HTTP/1.1 instead (RFC 9113 section 7).
pub(super) fn wants_http1(why: &h2::Error) -> bool {
    why.is_remote() && why.reason() == Some(Reason::HTTP_1_1_REQUIRED)
}

/// Times that a request is sent again because it was not processed.
const UNSENT_MAX: usize = 3;
const NOT_PROCESSED: UpstreamError = UpstreamError::Unreachable("not_processed");
const HTTP1_REQUIRED: UpstreamError = UpstreamError::Invalid("http1_required");
