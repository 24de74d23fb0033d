//! A stream of a shared connection as a tunnel (RFC 8441 section 5): bytes both ways, each way with its own end.
//!
//! In: the two halves of a stream whose `CONNECT` was accepted. Out: a byte stream. The server's window is reopened by
//! what was taken, and what is written waits for the window of the server: each side makes the other wait, and nothing
//! is kept between them but what a window holds. A stream that is reset has failed; dropped before both ends, it is
//! cancelled.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    exchange::{excused_by, poll_room},
    session::Session,
};

/// See the module.
pub(super) struct Stream {
    receive: RecvStream,
    send: SendStream<Bytes>,
    /// What came and was not taken yet.
    came: Bytes,
    has_ended: bool,
    session: Rc<Session>,
}

impl Stream {
    /// Of `session`'s connection.
    pub(super) const fn new(receive: RecvStream, send: SendStream<Bytes>, session: Rc<Session>) -> Self {
        Self { receive, send, came: Bytes::new(), has_ended: false, session }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.came.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.came = data.map_err(io::Error::other)?,
            }
            this.session.heard();
        }
        let count = this.came.len().min(buf.remaining());
        buf.put_slice(this.came.get(..count).unwrap_or_default());
        this.came.advance(count);
        // A stream that is gone needs no window.
        let _ = this.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(room) = ready!(poll_room(&mut this.send, bytes.len(), cx)) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let now = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        this.session.excuse(excused_by(now.len()));
        this.send.send_data(Bytes::copy_from_slice(now), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(now.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes what there is.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.has_ended, true) {
            this.send.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }
}
