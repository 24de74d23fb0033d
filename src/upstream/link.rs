//! One connection to a server: the byte stream, what was read of it beyond the last answer, and its deadline.
//!
//! Shared by the exchange that uses it, by a request body that is still being sent while the answer streams, and,
//! weakly, by the worker's ticker, which judges the deadline. All of them live on one thread; no call here waits while
//! it holds a borrow. When the last of them lets go, the connection closes.

use std::{
    cell::{Cell, RefCell},
    future::Future as _,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{
    UpstreamError,
    connect::Io,
    names::{Found, Name},
    patience::Patience,
    pool::ServerPool,
    ticks::Ticks,
    times::Times,
};

/// One connection's state.
pub(super) struct Link {
    io: RefCell<Io>,
    buffer: RefCell<BytesMut>,
    /// What the next read may bring at most; grows while a body fills it.
    read_bytes: Cell<usize>,
    server: Rc<ServerPool>,
    patience: Patience,
    /// Bytes read since the request began.
    received: Cell<usize>,
    /// Whether some of the request is still to be sent.
    sending: Cell<bool>,
    /// Whether it has served before.
    used: Cell<bool>,
    found: Found,
}

impl Link {
    pub(super) fn new(io: Io, ticks: Ticks, server: Rc<ServerPool>) -> Rc<Self> {
        server.counters().open.fetch_add(1, Relaxed);
        Rc::new(Self {
            io: RefCell::new(io),
            buffer: RefCell::default(),
            read_bytes: Cell::new(READ_BYTES),
            server,
            patience: Patience::new(ticks),
            received: Cell::new(0),
            sending: Cell::new(false),
            used: Cell::new(false),
            found: Found::default(),
        })
    }

    /// How long the server may take.
    pub(super) const fn patience(&self) -> &Patience {
        &self.patience
    }

    /// A request is about to be sent; returns whether there was one before.
    pub(super) fn begin(&self, times: &Times) -> bool {
        self.patience.begin(times);
        self.received.set(0);
        self.sending.set(true);
        self.used.replace(true)
    }

    /// Nobody uses the connection: what a large answer made its buffer grow to is given back.
    pub(super) fn idle(&self) {
        self.patience.end();
        if self.read_bytes.replace(READ_BYTES) > READ_BYTES {
            let mut buffer = self.buffer.borrow_mut();
            // Unasked bytes stay: they are why it will not be used again.
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
        }
    }

    /// The request was sent to its end.
    pub(super) fn sent(&self) {
        self.sending.set(false);
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending.get()
    }

    /// Bytes of the answer were read.
    pub(super) fn was_answered(&self) -> bool {
        self.received.get() > 0
    }

    /// Bytes read since the request began.
    pub(super) fn received(&self) -> usize {
        self.received.get()
    }

    /// What was read and is not taken yet.
    pub(super) const fn buffer(&self) -> &RefCell<BytesMut> {
        &self.buffer
    }

    /// Reads more into the buffer; 0 is the stream's end.
    pub(super) fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        if let Some(why) = self.patience.blamed() {
            return Poll::Ready(Err(Broken::Blamed(why)));
        }
        let mut buffer = self.buffer.borrow_mut();
        let most = self.read_bytes.get();
        if buffer.capacity() - buffer.len() < most / 2 {
            buffer.reserve(most);
        }
        let polled = {
            let mut io = self.io.borrow_mut();
            let read = pin!(io.read_buf(&mut *buffer));
            read.poll(cx)
        };
        let Poll::Ready(result) = polled else {
            self.patience.remember(cx);
            return Poll::Pending;
        };
        let count = result.map_err(|_| Broken::Stream)?;
        self.received.set(self.received.get().saturating_add(count));
        if count >= most / 2 && most < READ_BYTES_MAX {
            self.read_bytes.set(most * 4);
        }
        Poll::Ready(Ok(count))
    }

    /// Writes some of `bufs`.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut io = self.io.borrow_mut();
        match bufs {
            // A head alone, the usual case, is one buffer: the plain call is the cheaper one.
            [buf] => Pin::new(&mut *io).poll_write(cx, buf),
            bufs => Pin::new(&mut *io).poll_write_vectored(cx, bufs),
        }
    }

    /// Makes sure that all written bytes are on their way.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_flush(cx)
    }

    /// Whether it leads to one of the present addresses of a name.
    pub(super) fn is_at(&self, name: &Name) -> bool {
        self.found.is_at(name, || self.io.borrow().peer())
    }

    /// Whether it can take another request: it is not closed, and nothing came that nobody asked for (an answer that
    /// arrives before its question would be somebody else's).
    pub(super) fn is_fit(&self) -> bool {
        if !self.buffer.borrow().is_empty() || self.patience.blamed().is_some() {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut io = self.io.borrow_mut();
        if io.poll_read_ready(&mut cx).is_pending() {
            return true;
        }
        let mut byte = [0];
        Pin::new(&mut *io).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // For TLS the end has to be said (RFC 8446 section 6.1); nobody waits for it to arrive.
        if let Io::Tls(stream) = self.io.get_mut() {
            let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
        self.server.counters().open.fetch_sub(1, Relaxed);
    }
}

/// Why nothing more can be read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Broken {
    /// This is why, and it is known better than the stream knows it.
    Blamed(UpstreamError),
    /// The stream failed.
    Stream,
}

/// A connection that is no longer HTTP: what was read of it beyond the head comes first.
pub(super) struct Raw(pub(super) Rc<Link>);

impl AsyncRead for Raw {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut early = self.0.buffer.borrow_mut();
        if !early.is_empty() {
            let count = early.len().min(buf.remaining());
            buf.put_slice(early.get(..count).unwrap_or_default());
            early.advance(count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *self.0.io.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Raw {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.io.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.io.borrow_mut()).poll_shutdown(cx)
    }
}

/// A first read: most answers fit.
const READ_BYTES: usize = 8 * 1024;
/// What one read may bring while a body streams; it is also what waits for a client that is slower than the server.
const READ_BYTES_MAX: usize = 128 * 1024;
