//! One request and the head of its answer on a shared connection.
//!
//! In: a seat, a head and the client's body. Out: the answer's head with the stream that its body comes on, or why
//! there is none, with the body as far as it can be sent again. Nothing is taken from the client before the server's
//! window has room for what was taken before (RFC 9113 section 5.2); a body that breaks off resets its stream and
//! never ends it.

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderValue, Method, Request, Response, StatusCode, header::LINK};

use super::{
    session::{EXCUSED_BY_DATA, EXCUSED_BY_REQUEST, Seat, Session},
    wants_http1,
};
use crate::{
    hints::Hints,
    stream::poll_room,
    upstream::{
        UpstreamError,
        client_body::{Part, RequestBody},
        outbox::Sent,
        patience::Patience,
        pool::{Failure, is_idempotent},
    },
};

/// A head, and what is still under way.
pub(super) struct Answered {
    pub(super) head: Response<()>,
    pub(super) stream: RecvStream,
    /// What is left of the request.
    pub(super) sending: Option<Sending>,
}

/// A request's body on its way.
pub(super) struct Sending {
    stream: SendStream<Bytes>,
    session: Rc<Session>,
    /// Taken from the client, and not sent.
    data: Bytes,
    body: Option<Box<RequestBody>>,
    /// What is still to be taken of it, if it says how long it is.
    left: Option<u64>,
    /// Whether any of it was sent.
    begun: bool,
    ended: bool,
}

/// Sends `head` and `body`, and waits for the head of the answer.
///
/// # Errors
/// Why there is none, and the body if it can be sent again.
pub(super) async fn exchange(
    seat: &Seat,
    head: Request<()>,
    body: Option<Box<RequestBody>>,
    patience: &Patience,
    hints: Option<Hints<'_>>,
) -> Result<Answered, (Failure, Option<Box<RequestBody>>)> {
    let method = head.method().clone();
    let has_body = body.is_some();
    // What follows a `CONNECT` is no body, and goes on for as long as the tunnel does.
    let tunnels = method == Method::CONNECT;
    let (mut response, stream) = match seat.sender().send_request(head, !has_body && !tunnels) {
        Ok(sent) => sent,
        Err(why) if wants_http1(&why) => return Err((Failure::WantsHttp1 { begun: false }, body)),
        Err(_) => return Err((Failure::NotSent, body)),
    };
    let session = Rc::clone(seat.session());
    session.excuse(EXCUSED_BY_REQUEST);
    let left = body.as_deref().and_then(RequestBody::exact_length);
    let mut sending = Sending { stream, session, data: Bytes::new(), body, left, begun: false, ended: !has_body };
    let mut interim = 0;
    let answered = poll_fn(|cx| poll_answer(&mut response, &mut sending, &mut interim, patience, hints, cx)).await;
    match answered {
        Ok(response) => {
            patience.head_came();
            seat.session().heard();
            let (head, stream) = response.into_parts();
            let sending = (!sending.ended || tunnels).then_some(sending);
            Ok(Answered { head: Response::from_parts(head, ()), stream, sending })
        }
        Err(Ended::Because(why)) => {
            sending.stream.send_reset(Reason::CANCEL);
            Err((Failure::Failed(why), None))
        }
        Err(Ended::Stream(why)) if seat.session().has_flooded(&why) => Err((Failure::Failed(FLOOD), None)),
        Err(Ended::Stream(why)) => {
            let harmless = !has_body && (tunnels || is_idempotent(&method));
            Err((judge(&why, seat.is_used() && harmless, sending.begun), sending.body))
        }
    }
}

/// Why an exchange came to no head.
enum Ended {
    Because(UpstreamError),
    Stream(h2::Error),
}

fn poll_answer(
    response: &mut ResponseFuture,
    sending: &mut Sending,
    interim: &mut usize,
    patience: &Patience,
    hints: Option<Hints<'_>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<RecvStream>, Ended>> {
    loop {
        if let Some(why) = patience.blamed() {
            return Poll::Ready(Err(Ended::Because(why)));
        }
        if let Poll::Ready(Err(why)) = sending.poll_send(cx, patience) {
            return Poll::Ready(Err(Ended::Because(why)));
        }
        match response.poll_informational(cx) {
            Poll::Ready(Some(Ok(head))) => {
                *interim += 1;
                if *interim > INTERIM_MAX {
                    return Poll::Ready(Err(Ended::Because(UpstreamError::Invalid("too_much_before_head"))));
                }
                if head.status() == StatusCode::CONTINUE {
                    sending.continue_now();
                }
                if let Some(hints) = hints.filter(|_| head.status() == StatusCode::EARLY_HINTS) {
                    hints.say(head.headers().get_all(LINK).iter().map(HeaderValue::as_bytes));
                }
                if head.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Err(Ended::Because(UpstreamError::Invalid("unasked_101"))));
                }
            }
            Poll::Ready(Some(Err(why))) => return Poll::Ready(Err(Ended::Stream(why))),
            Poll::Ready(None) | Poll::Pending => break,
        }
    }
    let Poll::Ready(answered) = Pin::new(response).poll(cx) else {
        patience.remember(cx);
        return Poll::Pending;
    };
    Poll::Ready(answered.map_err(Ended::Stream))
}

/// What became of a request whose stream ended before an answer. `harmless`: it may be sent again, and the connection
/// had served before; `begun`: part of its body was sent.
fn judge(why: &h2::Error, harmless: bool, begun: bool) -> Failure {
    if wants_http1(why) {
        // A connection that goes away says what was not processed. A stream that ends says no more than its code
        // (RFC 9113 section 8.7): a server that has had part of a body may have done something about it.
        return Failure::WantsHttp1 { begun: begun && !why.is_go_away() };
    }
    let not_processed = why.is_go_away() || why.reason() == Some(Reason::REFUSED_STREAM);
    if why.is_remote() && not_processed {
        return Failure::Refused;
    }
    if why.is_io() {
        return if harmless { Failure::Died } else { Failure::Failed(UpstreamError::Invalid("no_answer")) };
    }
    Failure::Failed(UpstreamError::Invalid(if why.is_remote() { "reset" } else { "bad_head" }))
}

impl Sending {
    /// Sends as much as goes. Ready when there is nothing left to do.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, patience: &Patience) -> Poll<Result<Sent, UpstreamError>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(Sent::Whole));
            }
            if !self.data.is_empty() {
                let Some(room) = ready!(poll_room(&mut self.stream, self.data.len(), cx)) else {
                    // The answer says why.
                    self.ended = true;
                    return Poll::Ready(Ok(Sent::Unwanted));
                };
                let part = self.data.split_to(room.min(self.data.len()));
                // Told with the last byte where that is known to be the last.
                let last = self.data.is_empty() && self.left == Some(0);
                self.begun = true;
                self.session.excuse(excused_by(part.len()));
                self.ended = self.stream.send_data(part, last).is_err() || last;
                continue;
            }
            let Some(body) = &mut self.body else {
                self.ended = true;
                continue;
            };
            let part = match ready!(body.poll_part(cx, patience)) {
                Ok(None) if self.left.is_some_and(|left| left > 0) => Err(UpstreamError::ClientBody),
                part => part,
            };
            match part {
                Ok(Some(Part::Data(data))) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    self.data = data;
                }
                Ok(Some(Part::Trailers(trailers))) => {
                    // A stream that is gone already needs no end.
                    let _ = self.stream.send_trailers(trailers);
                    self.ended = true;
                }
                Ok(None) => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    self.ended = true;
                }
                Err(why) => {
                    self.stream.send_reset(Reason::CANCEL);
                    self.ended = true;
                    return Poll::Ready(Err(why));
                }
            }
        }
    }

    /// The server wants the body.
    fn continue_now(&mut self) {
        if let Some(body) = &mut self.body {
            body.open_gate();
        }
    }

    /// The stream, for what follows an accepted `CONNECT`.
    pub(super) fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }
}

/// Frames that so many bytes may bring along: for some of them at a time, the stream's window is opened and the
/// connection's.
pub(super) fn excused_by(bytes: usize) -> u32 {
    EXCUSED_BY_DATA.saturating_add(u32::try_from(2 * (bytes / WINDOW_BYTES_MIN)).unwrap_or(u32::MAX))
}

/// Sends on what is left of a request whose answer has begun, whether or not the client reads meanwhile.
pub(super) async fn send_on(mut sending: Sending, patience: Rc<Patience>) {
    if let Err(why) = poll_fn(|cx| sending.poll_send(cx, &patience)).await {
        patience.blame(why);
    }
}

/// Interim answers before the final one (R16).
const INTERIM_MAX: usize = 32;
/// Some servers open windows for as little as this at a time.
const WINDOW_BYTES_MIN: usize = 128;
/// The server sends more than anybody needs.
pub(super) const FLOOD: UpstreamError = UpstreamError::Invalid("flood");
