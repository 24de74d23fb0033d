//! One server's connections: idle ones, shared ones, and how a new one is made.
//!
//! In: a request that needs a connection. Out: the idle one that was used last, a place on a shared one, or a new one.
//! A [`ServerPool`] outlives a reload that does not change how its server is spoken to. Where several requests want a
//! connection that they could share, one of them makes it. What leads to an address that the server's name no longer
//! has serves no further request.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::Upstreams;
use crate::{
    clock,
    upstream::{
        Counters, Settings, UpstreamError,
        connect::{Io, Offer, Speaks, Target},
        http2,
        link::Link,
        servers::ServerState,
        tally::Tally,
    },
};

/// One server's idle and shared connections.
pub(in crate::upstream) struct ServerPool {
    target: Target,
    state: Arc<ServerState>,
    tally: Arc<Tally>,
    idle: RefCell<Vec<Idle>>,
    speaks: Cell<Speaks>,
    for_http1: ForHttp1,
    /// Whether its shared connections may open tunnels: until one does not.
    tunnels: Cell<bool>,
    shared: http2::Sessions,
}

struct Idle {
    link: Rc<Link>,
    /// In ticks.
    expires: u64,
}

/// Whether a server is asked over HTTP/1.1 alone, because it wanted that.
#[derive(Default)]
struct ForHttp1 {
    until: Cell<Option<Instant>>,
}

/// A connection to a server, not yet lent.
pub(super) enum Reached {
    Own(Io),
    Shared(http2::Seat),
}

/// Counts a request at its server.
pub(in crate::upstream) struct UnderWay {
    pub(super) server: Rc<ServerPool>,
    /// Whether all workers see it.
    shared: bool,
}

impl ServerPool {
    /// Without a connection.
    pub(super) fn new(target: Target, state: Arc<ServerState>) -> Self {
        Self {
            speaks: Cell::new(target.speaks()),
            for_http1: ForHttp1::default(),
            target,
            tally: state.counters.tallies.open(),
            state,
            idle: RefCell::default(),
            tunnels: Cell::new(true),
            shared: http2::Sessions::default(),
        }
    }

    /// A connection to one server within `limit`: a place on a shared one, or a new one. Where several requests want
    /// one that they could share, one of them makes it and the others wait.
    pub(super) async fn reach(
        self: &Rc<Self>,
        all: &Upstreams,
        offer: Offer,
        idle_ticks: u64,
        limit: Duration,
    ) -> Result<Reached, UpstreamError> {
        let began = clock::instant();
        let left = || limit.saturating_sub(clock::instant().duration_since(began));
        while self.shares(offer) {
            match self.share(all, offer, idle_ticks, &left).await? {
                Some(Reached::Shared(seat)) if offer == Offer::Tunnel => {
                    match tokio::time::timeout(left(), seat.opens_tunnels()).await {
                        Err(_) => return Err(UpstreamError::Timeout("connect_timeout")),
                        Ok(None) if self.for_http1.lasts(clock::instant) => {}
                        Ok(None) => return Err(UpstreamError::Unreachable("closed")),
                        Ok(Some(true)) => return Ok(Reached::Shared(seat)),
                        Ok(Some(false)) if self.target.can_choose() => self.tunnels.set(false),
                        Ok(Some(false)) => return Err(UpstreamError::Unreachable("http2_only")),
                    }
                }
                Some(reached) => return Ok(reached),
                None => {}
            }
        }
        if self.speaks.get() == Speaks::Http2 && !self.target.can_choose() {
            return Err(UpstreamError::Unreachable("http2_only"));
        }
        // What is not shared speaks HTTP/1.1 and nothing else.
        let reached = self.connect(Offer::Http1, left()).await;
        match reached {
            // What it asked for, it does not speak: next time it may choose.
            Err(UpstreamError::Unreachable("tls")) if self.for_http1.lasts(clock::instant) => self.for_http1.end(),
            // It may have changed its mind about what it speaks.
            Err(UpstreamError::Unreachable("tls")) if self.speaks.get() == Speaks::Http1 => {
                self.speaks.set(self.target.speaks());
            }
            // Or about tunnels.
            Err(UpstreamError::Unreachable("tls")) if offer == Offer::Tunnel => {
                self.tunnels.set(true);
                return Err(UpstreamError::Unreachable("http2_only"));
            }
            Ok(_) | Err(_) => {}
        }
        reached.map(Reached::Own)
    }

    /// One step towards a shared connection; `None`: look again. What it leads to may turn out to be one of its own.
    async fn share(
        self: &Rc<Self>,
        all: &Upstreams,
        offer: Offer,
        idle_ticks: u64,
        left: &impl Fn() -> Duration,
    ) -> Result<Option<Reached>, UpstreamError> {
        if let Some(seat) = self.shared.seat(idle_ticks) {
            if seat.is_used() {
                self.tally.reuse();
            }
            return Ok(Some(Reached::Shared(seat)));
        }
        let departure = match self.shared.depart() {
            Ok(departure) => departure,
            Err(flight) => {
                return match tokio::time::timeout(left(), flight.landed()).await {
                    Err(_) => Err(UpstreamError::Timeout("connect_timeout")),
                    Ok(Some(Err(why))) => Err(why),
                    Ok(Some(Ok(())) | None) => Ok(None),
                };
            }
        };
        let reached = match self.connect(offer, left()).await {
            Ok(reached) => reached,
            Err(why) => {
                departure.fail(why);
                return Err(why);
            }
        };
        if !self.target.is_http2(&reached) {
            self.speaks.set(Speaks::Http1);
            departure.end();
            return Ok(Some(Reached::Own(reached)));
        }
        self.speaks.set(Speaks::Http2);
        let started = http2::Session::start(reached, all.0.ticks.clone(), Rc::clone(self), idle_ticks);
        let started = tokio::time::timeout(left(), started).await;
        match started.unwrap_or(Err(UpstreamError::Timeout("connect_timeout"))) {
            Ok(session) => {
                all.keep_ticking();
                Ok(Some(Reached::Shared(departure.arrive(session, idle_ticks))))
            }
            Err(why) => {
                departure.fail(why);
                Err(why)
            }
        }
    }

    /// A new stream to this server; counted, and told to the balancer if it succeeds.
    async fn connect(&self, offer: Offer, limit: Duration) -> Result<Io, UpstreamError> {
        let io = self.target.dial(offer, limit).await?;
        self.state.succeeded();
        Ok(io)
    }

    /// Whether it is for this server, spoken to as these settings say: connections that were made with other
    /// certificates, or to speak otherwise, are none of theirs.
    pub(super) fn is_of(&self, server: &Arc<ServerState>, settings: &Settings) -> bool {
        Arc::ptr_eq(&self.state, server)
            && self.target.offers_http2 == settings.http2
            && self.target.tls == settings.tls
    }

    /// What all workers know of the server.
    pub(super) const fn state(&self) -> &Arc<ServerState> {
        &self.state
    }

    /// Where it is.
    pub(super) const fn target(&self) -> &Target {
        &self.target
    }

    pub(in crate::upstream) fn counters(&self) -> &Counters {
        &self.state.counters
    }

    /// The connection used last, if a request with this `offer` may have it and it is still fit for one.
    pub(super) fn idle_connection(&self, offer: Offer, now: u64) -> Option<Rc<Link>> {
        if self.shares(offer) {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if candidate.expires > now && candidate.link.is_fit() {
                self.tally.reuse();
                return Some(candidate.link);
            }
        }
        None
    }

    /// Keeps a connection for the next request until `expires` (in ticks), unless there are `max_idle` of them.
    pub(super) fn take_back(&self, link: Rc<Link>, expires: u64, max_idle: usize) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < max_idle {
            idle.push(Idle { link, expires });
        }
    }

    /// What idle connections have read ahead or made room for.
    #[cfg(test)]
    pub(super) fn idle_buffer_bytes(&self) -> usize {
        self.idle.borrow().iter().map(|idle| idle.link.buffer().borrow().capacity()).sum()
    }

    /// Whether there are shared connections, or one is being made.
    pub(super) fn is_shared(&self) -> bool {
        !self.shared.are_gone()
    }

    /// Whether a request takes a place on a shared connection, or would if there were one.
    fn shares(&self, offer: Offer) -> bool {
        let may = match offer {
            Offer::All => true,
            Offer::Tunnel => self.tunnels.get(),
            Offer::Http1 => false,
        };
        may && self.speaks.get() != Speaks::Http1 && !self.for_http1.lasts(clock::instant)
    }

    /// It sent more than anybody needs, and the connection is cut.
    #[cold]
    pub(in crate::upstream) fn note_flood(&self) {
        self.counters().floods.fetch_add(1, Relaxed);
        let (upstream, server) = (self.target.upstream(), &*self.state.label);
        tracing::warn!(
            upstream,
            server,
            "a server floods a connection over HTTP/2: it is cut, with what was under way"
        );
    }

    /// It wants HTTP/1.1 (RFC 9113 section 7): for a while it gets that; `false`: it cannot be had.
    pub(in crate::upstream) fn speak_http1(&self) -> bool {
        if !self.target.can_choose() {
            return false;
        }
        self.for_http1.begin(clock::instant());
        // Requests under way go on; there is nobody to come.
        self.shared.retire();
        true
    }

    /// Closes idle connections, and those that are shared as soon as they are idle.
    pub(super) fn retire(&self) {
        self.idle.borrow_mut().clear();
        self.shared.retire();
    }

    /// Lets go of all connections; nobody will look after them any more.
    pub(super) fn forget(&self) {
        self.idle.borrow_mut().clear();
        self.shared.forget();
    }

    /// Called on every tick: connections that may serve no further request are let go.
    pub(super) fn evict(&self, now: u64) {
        if let Some(name) = &self.target.name {
            self.idle.borrow_mut().retain(|idle| idle.link.is_at(name));
            self.shared.retire_unless_at(name);
        }
        self.shared.judge();
        self.idle.borrow_mut().retain(|idle| idle.expires > now && idle.link.is_fit());
    }
}

impl ForHttp1 {
    /// For [`HTTP1_TIME`] from `now` on.
    fn begin(&self, now: Instant) {
        self.until.set(now.checked_add(HTTP1_TIME));
    }

    fn lasts(&self, now: impl FnOnce() -> Instant) -> bool {
        self.until.get().is_some_and(|until| now() < until)
    }

    fn end(&self) {
        self.until.set(None);
    }
}

impl UnderWay {
    /// `shared`: whether all workers are to see it.
    #[inline]
    pub(super) fn at(server: &Rc<ServerPool>, shared: bool) -> Self {
        server.tally.begin();
        if shared {
            server.counters().busy.fetch_add(1, Relaxed);
        }
        Self { server: Rc::clone(server), shared }
    }

    /// See [`ServerPool::speak_http1`].
    pub(in crate::upstream) fn speak_http1(&self) -> bool {
        self.server.speak_http1()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.server.tally.end();
        if self.shared {
            self.server.counters().busy.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for ServerPool {
    fn drop(&mut self) {
        self.state.counters.tallies.close(&self.tally);
    }
}

/// How long a server that wants HTTP/1.1 is asked over nothing else.
const HTTP1_TIME: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_wanted_http1_may_choose_again_after_a_while() {
        let (wish, now) = (ForHttp1::default(), clock::instant());
        assert!(!wish.lasts(|| now));

        wish.begin(now);

        assert!(wish.lasts(|| now) && wish.lasts(|| now + HTTP1_TIME / 2));
        assert!(!wish.lasts(|| now + HTTP1_TIME));
        wish.end();
        assert!(!wish.lasts(|| now));
    }
}
