//! The byte stream below hyper's client, and the [`Link`] through which it and the exchange above know of each other.
//!
//! hyper owns the stream, so what hyper does not do is done here: deadlines and cuts from outside; a bound on all
//! bytes before an answer's head, interim answers included (R16); reading an answer that was sent before the server
//! stopped reading; and the one retry: a request without body on a used connection is kept as the bytes that were
//! written, and if that connection ends before a byte of answer they go out once more on a new one (RFC 9110
//! section 9.2.2). Keeping bytes costs a copy of a head; keeping the request would cost a clone of its header map.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    task::AbortHandle,
};

use super::{
    UpstreamError,
    connect::Io,
    pool::{ServerPool, Ticks},
};

/// What is left of a connection that became a tunnel: the stream, and bytes that were read beyond the head.
pub(super) type Remains = (Transport, Bytes);

/// One connection's state, shared by its stream, its exchange and the worker's ticker.
pub(super) struct Link {
    ticks: Ticks,
    server: Rc<ServerPool>,
    connect_timeout: Duration,
    /// In ticks; [`NEVER`] while nobody waits for the server.
    deadline: Cell<u64>,
    /// What [`Self::wait_for_answer`] sets.
    response_ticks: Cell<u64>,
    /// Why it ended, if that is known better than hyper knows it.
    blame: Cell<Option<UpstreamError>>,
    /// From the request until its answer's head.
    awaits_head: Cell<bool>,
    /// Bytes read since the request began.
    received: Cell<usize>,
    /// Whether some of the request's body is still to be sent.
    sending: Cell<bool>,
    /// Whether the request that is under way may be sent again.
    may_resend: Cell<bool>,
    /// Counts requests, so that the stream knows where a new one begins.
    exchange: Cell<u64>,
    upgrade: RefCell<Option<oneshot::Sender<Remains>>>,
    driver: OnceCell<AbortHandle>,
}

impl Link {
    pub(super) fn new(ticks: Ticks, server: Rc<ServerPool>, connect_timeout: Duration) -> Rc<Self> {
        server.counters().open.fetch_add(1, Relaxed);
        Rc::new(Self {
            ticks,
            server,
            connect_timeout,
            deadline: Cell::new(NEVER),
            response_ticks: Cell::new(0),
            blame: Cell::new(None),
            awaits_head: Cell::new(false),
            received: Cell::new(0),
            sending: Cell::new(false),
            may_resend: Cell::new(false),
            exchange: Cell::new(0),
            upgrade: RefCell::default(),
            driver: OnceCell::new(),
        })
    }

    /// The worker's clock.
    pub(super) const fn ticks(&self) -> &Ticks {
        &self.ticks
    }

    /// The task that drives the connection; told once.
    pub(super) fn driven_by(&self, driver: AbortHandle) {
        let _ = self.driver.set(driver);
    }

    /// A request is about to be sent.
    pub(super) fn begin(&self, response_ticks: u64, has_body: bool, may_resend: bool) {
        self.exchange.set(self.exchange.get().wrapping_add(1));
        self.response_ticks.set(response_ticks);
        self.blame.set(None);
        self.awaits_head.set(true);
        self.received.set(0);
        self.sending.set(has_body);
        self.may_resend.set(may_resend);
        self.wait_for_answer();
    }

    /// The answer's head is there.
    pub(super) fn head_came(&self) {
        self.awaits_head.set(false);
        self.may_resend.set(false);
        self.deadline.set(NEVER);
    }

    pub(super) fn awaits_head(&self) -> bool {
        self.awaits_head.get()
    }

    /// The upstream could have everything that we have: its time runs.
    pub(super) fn wait_for_answer(&self) {
        self.wait(self.response_ticks.get());
    }

    /// The upstream has `ticks` from now.
    pub(super) fn wait(&self, ticks: u64) {
        self.deadline.set(self.ticks.now().saturating_add(ticks));
    }

    /// Nobody waits for the upstream.
    pub(super) fn rest(&self) {
        self.deadline.set(NEVER);
    }

    /// The request's body has ended as it should.
    pub(super) fn sent(&self) {
        self.sending.set(false);
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending.get()
    }

    /// Notes why the connection is about to end; the first reason stays.
    pub(super) fn blame(&self, why: UpstreamError) {
        if self.blame.get().is_none() {
            self.blame.set(Some(why));
        }
    }

    pub(super) fn blamed(&self) -> Option<UpstreamError> {
        self.blame.get()
    }

    /// Bytes of the answer were read.
    pub(super) fn was_answered(&self) -> bool {
        self.received.get() > 0
    }

    /// Ends the connection at once.
    pub(super) fn cut(&self) {
        if let Some(driver) = self.driver.get() {
            driver.abort();
        }
    }

    /// Called on every tick: cuts the connection if the upstream's time is over.
    pub(super) fn judge(&self) {
        if self.ticks.now() < self.deadline.get() {
            return;
        }
        self.deadline.set(NEVER);
        self.blame(UpstreamError::Timeout(if self.awaits_head.get() { "response_timeout" } else { "read_timeout" }));
        self.cut();
    }

    /// The next answer may turn the connection into a tunnel; resolves then.
    pub(super) fn expect_upgrade(&self) -> oneshot::Receiver<Remains> {
        let (sender, receiver) = oneshot::channel();
        *self.upgrade.borrow_mut() = Some(sender);
        receiver
    }

    /// It was an ordinary answer.
    pub(super) fn forget_upgrade(&self) {
        self.upgrade.borrow_mut().take();
    }

    /// Whoever waits for the tunnel.
    pub(super) fn upgrade(&self) -> Option<oneshot::Sender<Remains>> {
        self.upgrade.borrow_mut().take()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.server.counters().open.fetch_sub(1, Relaxed);
    }
}

/// The stream that hyper reads and writes.
pub(super) struct Transport {
    io: Io,
    link: Rc<Link>,
    /// The request that may have to be sent again, as it was written.
    kept: Vec<u8>,
    /// Which of the link's requests `kept` belongs to.
    kept_exchange: u64,
    /// How much of `kept` was written to the new connection; `None`: this is no second attempt.
    resent: Option<usize>,
    redial: Option<Redial>,
    /// The server reads no more; what it said before may still be there.
    write_broken: bool,
    in_tunnel: bool,
}

type Redial = Pin<Box<dyn Future<Output = Result<Io, UpstreamError>>>>;

impl Transport {
    pub(super) fn new(io: Io, link: Rc<Link>) -> Self {
        let kept_exchange = link.exchange.get();
        Self {
            io,
            link,
            kept: Vec::new(),
            kept_exchange,
            resent: None,
            redial: None,
            write_broken: false,
            in_tunnel: false,
        }
    }

    /// HTTP is over on this stream: from here on a failed write is one.
    pub(super) const fn become_tunnel(&mut self) {
        self.in_tunnel = true;
    }

    /// Keeps what was written of the request under way, if it may have to be written again.
    fn keep<'a>(&mut self, bufs: impl Iterator<Item = &'a [u8]>, written: usize) {
        if !self.link.may_resend.get() {
            return;
        }
        if self.kept_exchange != self.link.exchange.get() {
            self.kept_exchange = self.link.exchange.get();
            self.kept.clear();
        }
        let mut left = written;
        for buf in bufs {
            let part = left.min(buf.len());
            self.kept.extend_from_slice(buf.get(..part).unwrap_or_default());
            left -= part;
        }
    }

    /// Whether the connection's end is the case for the one retry; if so a new one is on its way.
    fn try_again(&mut self) -> bool {
        if !self.link.awaits_head.get() || self.link.was_answered() || !self.link.may_resend.replace(false) {
            return false;
        }
        if self.kept_exchange != self.link.exchange.get() {
            self.kept.clear();
        }
        self.link.server.counters().retries.fetch_add(1, Relaxed);
        let server = Rc::clone(&self.link.server);
        let limit = self.link.connect_timeout;
        // The connection has a deadline of its own; the answer's begins when it stands.
        self.link.rest();
        self.redial = Some(Box::pin(async move { server.connect(limit).await }));
        true
    }

    /// Ready when the stream is the one to use: at once, but for a second attempt.
    #[inline]
    fn poll_standing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.redial.is_none() && self.resent.is_none() { Poll::Ready(Ok(())) } else { self.poll_again(cx) }
    }

    #[cold]
    fn poll_again(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(redial) = &mut self.redial {
            let dialled = ready!(redial.as_mut().poll(cx));
            self.redial = None;
            match dialled {
                Ok(io) => {
                    self.io = io;
                    self.write_broken = false;
                    self.resent = Some(0);
                    self.link.wait_for_answer();
                }
                Err(why) => {
                    self.link.blame(why);
                    return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
                }
            }
        }
        while let Some(done) = self.resent {
            match self.kept.get(done..) {
                Some(rest) if !rest.is_empty() => {
                    let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    self.resent = Some(done + written);
                }
                Some(_) | None => {
                    ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                    self.resent = None;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A failed write is not the end while an answer may wait to be read: reading will tell (RFC 9112 section 9.5).
    fn after_write<T>(&mut self, result: io::Result<T>) -> Poll<io::Result<T>> {
        match result {
            Err(why) if !self.in_tunnel && is_gone(&why) => {
                self.write_broken = true;
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_standing(cx))?;
            if this.link.awaits_head.get() && this.link.received.get() >= BEFORE_HEAD_BYTES_MAX {
                this.link.blame(UpstreamError::Invalid("too_much_before_head"));
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            let before = buf.filled().len();
            let result = ready!(Pin::new(&mut this.io).poll_read(cx, buf));
            let read = buf.filled().len() - before;
            if result.is_ok() && (read > 0 || buf.remaining() == 0) {
                this.link.received.set(this.link.received.get().saturating_add(read));
                return Poll::Ready(Ok(()));
            }
            if !this.try_again() {
                return Poll::Ready(result);
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_standing(cx))?;
        if this.write_broken {
            return Poll::Pending;
        }
        let result = ready!(Pin::new(&mut this.io).poll_write(cx, buf));
        if let Ok(written) = result {
            this.keep(std::iter::once(buf), written);
        }
        this.after_write(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head alone, the usual case, is one buffer: the plain call is the cheaper one.
        if let [buf] = bufs {
            return self.poll_write(cx, buf);
        }
        let this = self.get_mut();
        ready!(this.poll_standing(cx))?;
        if this.write_broken {
            return Poll::Pending;
        }
        let result = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs));
        if let Ok(written) = result {
            this.keep(bufs.iter().map(|buf| &**buf), written);
        }
        this.after_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_standing(cx))?;
        if this.write_broken {
            return Poll::Ready(Ok(()));
        }
        match ready!(Pin::new(&mut this.io).poll_flush(cx)) {
            Err(why) if !this.in_tunnel && is_gone(&why) => {
                this.write_broken = true;
                Poll::Ready(Ok(()))
            }
            other => Poll::Ready(other),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

fn is_gone(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted)
}

/// No deadline.
const NEVER: u64 = u64::MAX;

/// Bytes read before an answer's head was complete, interim answers included. A head itself is bounded by hyper at
/// 64 KiB; what is more here is body that was read in the same go.
const BEFORE_HEAD_BYTES_MAX: usize = 256 * 1024;
