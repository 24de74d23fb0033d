//! The right to one exchange: on a connection of its own, or on one that others use too.
//!
//! In: a request as an [`Outbox`]. Out: the head of its answer, or the [`Failure`] that says what may be done about it.
//! A [`Lease`] that is finished gives its connection back if both messages were complete (RFC 9112 section 9.3.1);
//! dropped, it cuts it. A [`SharedLease`] ends with its exchange, whatever came of it.

use std::{
    fmt,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Method};

use super::{entry::Entry, server::UnderWay};
use crate::{
    hints::Hints,
    upstream::{
        Counters, Outgoing, UpstreamError, answer, http2,
        link::{Broken, Link},
        outbox::Outbox,
        queue::Turn,
        times::Times,
    },
};

/// The right to one exchange on one connection. Dropped, it cuts the connection.
pub(in crate::upstream) struct Lease {
    link: Rc<Link>,
    entry: Rc<Entry>,
    server: UnderWay,
    turn: Option<Rc<Turn>>,
    once: bool,
}

/// The right to one exchange on a connection that others use too. Dropped, it ends that exchange alone.
pub(in crate::upstream) struct SharedLease {
    seat: http2::Seat,
    entry: Rc<Entry>,
    server: UnderWay,
    turn: Option<Rc<Turn>>,
}

/// Why no answer's head came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::upstream) enum Failure {
    /// This is why.
    Failed(UpstreamError),
    /// The connection ended before a byte of an answer. It had served before, and what was sent may be sent again.
    Died,
    /// The connection ended before a byte of the request was written.
    NotSent,
    /// The server says that it did not process the request.
    Refused,
    /// The server says that it wants HTTP/1.1 for it (RFC 9113 section 7, `HTTP_1_1_REQUIRED`).
    WantsHttp1 {
        /// Whether it may have had part of the body.
        begun: bool,
    },
}

impl Lease {
    /// On `link`, by the settings of `entry`.
    pub(super) const fn new(link: Rc<Link>, entry: Rc<Entry>, server: UnderWay) -> Self {
        Self { link, entry, server, turn: None, once: false }
    }

    /// Cuts the connection; the request stays under way at the server.
    pub(in crate::upstream) fn cut(self) -> UnderWay {
        self.server
    }

    /// The server, and that a request is under way there.
    pub(in crate::upstream) const fn server(&self) -> &UnderWay {
        &self.server
    }

    /// The connection's state.
    pub(in crate::upstream) const fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The server's counts.
    pub(in crate::upstream) fn counters(&self) -> &Counters {
        self.server.server.counters()
    }

    /// The `Host` that it is sent.
    pub(in crate::upstream) fn host<'a>(&'a self, request: &'a Outgoing) -> &'a HeaderValue {
        self.entry.host_of(&self.server.server, request)
    }

    /// Keeps its turn until it ends.
    pub(in crate::upstream) fn hold(&mut self, turn: Option<Rc<Turn>>) {
        self.turn = turn;
    }

    /// This is the connection's last exchange.
    pub(in crate::upstream) const fn use_once(&mut self) {
        self.once = true;
    }

    /// Sends what is in `outbox` and waits for the head of its answer, within `times`. If the answer comes early, the
    /// rest of the request is still in `outbox`.
    pub(in crate::upstream) async fn exchange(
        &self,
        outbox: &mut Outbox,
        times: &Times,
        method: &Method,
        hints: Option<Hints<'_>>,
    ) -> Result<answer::Final, Failure> {
        let link = &self.link;
        let used = link.begin(times);
        let mut search = answer::Search::default();
        let ended = poll_fn(|cx| poll_exchange(link, outbox, &mut search, *method == Method::HEAD, hints, cx)).await;
        ended.map_err(|ended| match ended {
            Ended::Because(why) => Failure::Failed(why),
            Ended::Closed if link.was_answered() => Failure::Failed(UpstreamError::Invalid("broken_head")),
            Ended::Closed if !outbox.begun() => Failure::NotSent,
            Ended::Closed if used && !outbox.has_body() && is_idempotent(method) => Failure::Died,
            Ended::Closed => Failure::Failed(UpstreamError::Invalid("no_answer")),
        })
    }

    /// The answer was read to its end: the connection goes back if the request was sent to its end, too.
    pub(in crate::upstream) fn finish(self) {
        let Self { link, entry, server, once, turn: _turn } = self;
        link.idle();
        if !once && !link.is_sending() {
            let expires = link.patience().ticks().now().saturating_add(entry.idle_ticks());
            server.server.take_back(link, expires, entry.max_idle());
        }
    }
}

impl SharedLease {
    /// On `seat`'s connection, by the settings of `entry`.
    pub(super) const fn new(seat: http2::Seat, entry: Rc<Entry>, server: UnderWay) -> Self {
        Self { seat, entry, server, turn: None }
    }

    /// Leaves its place; the request stays under way at the server.
    pub(in crate::upstream) fn leave(self) -> UnderWay {
        self.server
    }

    /// The server, and that a request is under way there.
    pub(in crate::upstream) const fn server(&self) -> &UnderWay {
        &self.server
    }

    /// Keeps its turn until it ends.
    pub(in crate::upstream) fn hold(&mut self, turn: Option<Rc<Turn>>) {
        self.turn = turn;
    }

    /// The place on the connection.
    pub(in crate::upstream) const fn seat(&self) -> &http2::Seat {
        &self.seat
    }

    /// The server's counts.
    pub(in crate::upstream) fn counters(&self) -> &Counters {
        self.server.server.counters()
    }

    /// The authority that it is sent.
    pub(in crate::upstream) fn host<'a>(&'a self, request: &'a Outgoing) -> &'a HeaderValue {
        self.entry.host_of(&self.server.server, request)
    }

    /// Whether what is said to the server is encrypted.
    pub(in crate::upstream) fn is_encrypted(&self) -> bool {
        self.server.server.target().is_encrypted()
    }
}

/// Why an exchange came to no head.
enum Ended {
    Because(UpstreamError),
    /// The stream ended.
    Closed,
}

/// Sends and reads, whichever goes, until the final answer's head is there.
fn poll_exchange(
    link: &Rc<Link>,
    outbox: &mut Outbox,
    search: &mut answer::Search,
    to_head: bool,
    hints: Option<Hints<'_>>,
    cx: &mut Context<'_>,
) -> Poll<Result<answer::Final, Ended>> {
    // Nothing is sent twice: an outbox that is empty, or not wanted, says so again.
    if let Poll::Ready(Err(why)) = outbox.poll_send(cx, link) {
        return Poll::Ready(Err(Ended::Because(why)));
    }
    loop {
        let taken = answer::take(&mut link.buffer().borrow_mut(), search, to_head);
        match taken.map_err(Ended::Because)? {
            Some(answer::Head::Final(head)) => {
                link.patience().head_came();
                return Poll::Ready(Ok(head));
            }
            Some(answer::Head::Continue) => {
                outbox.continue_now();
                if let Poll::Ready(Err(why)) = outbox.poll_send(cx, link) {
                    return Poll::Ready(Err(Ended::Because(why)));
                }
            }
            Some(answer::Head::Hints(links)) => {
                if let Some(hints) = hints {
                    hints.say(links.iter().map(|link| &**link));
                }
            }
            Some(answer::Head::Interim) => {}
            None if link.received() >= BEFORE_HEAD_BYTES_MAX => {
                return Poll::Ready(Err(Ended::Because(UpstreamError::Invalid("too_much_before_head"))));
            }
            None => match ready!(link.poll_fill(cx)) {
                Ok(0) | Err(Broken::Stream) => return Poll::Ready(Err(Ended::Closed)),
                Ok(_) => {}
                Err(Broken::Blamed(why)) => return Poll::Ready(Err(Ended::Because(why))),
            },
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("server", &self.server.server.state().label).finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLease").field("server", &self.server.server.state().label).finish_non_exhaustive()
    }
}

/// RFC 9110 section 9.2.2, but for `TRACE`, which does not get here.
pub(in crate::upstream) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// Bytes read before an answer's head was complete, interim answers included (R16). A head itself is bounded at 64 KiB;
/// what is more here is body that was read in the same go.
const BEFORE_HEAD_BYTES_MAX: usize = 256 * 1024;
