//! A stream of a shared connection as a tunnel (RFC 8441 section 5): bytes both ways, each way with its own end.
//!
//! In: the two halves of a stream whose `CONNECT` was accepted. Out: a byte stream ([`Duplex`]), of which the connection
//! is told what came and what went: the one is a sign of life, the other excuses frames that the server answers with.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{exchange::excused_by, session::Session};
use crate::stream::Duplex;

/// See the module.
pub(super) struct Stream {
    io: Duplex,
    session: Rc<Session>,
}

impl Stream {
    /// Of `session`'s connection.
    pub(super) const fn new(receive: RecvStream, send: SendStream<Bytes>, session: Rc<Session>) -> Self {
        Self { io: Duplex::new(receive, send), session }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.session.heard();
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.session.excuse(excused_by(count));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
