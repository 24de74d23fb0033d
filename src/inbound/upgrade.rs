//! The client's end of a tunnel, whichever protocol it speaks: a connection that left HTTP/1.1 (RFC 9110 section 7.8),
//! or a stream of HTTP/2 that a `CONNECT` opened (RFC 8441).
//!
//! In: a request that asks for one. Out: bytes both ways once the answer that grants it was given to the client; until
//! then none are taken (R17). Whoever holds the end holds what stands for it at the edge. Dropped, it closes: what TCP
//! has `FIN` for, a stream has `END_STREAM` for (RFC 8441 section 5).

use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use crate::stream::Duplex;

/// A tunnel that a client asks for.
#[derive(Debug)]
pub struct Upgrade(Asked);

/// A tunnel's end, at the client.
pub struct Upgraded(End);

/// Opens the stream that was asked for.
#[derive(Debug)]
pub struct Grant(oneshot::Sender<Upgraded>);

#[derive(Debug)]
enum Asked {
    Http1(OnUpgrade),
    Http2(oneshot::Receiver<Upgraded>),
}

enum End {
    Http1(TokioIo<hyper::upgrade::Upgraded>),
    /// With what lasts as long as it does.
    Http2(Duplex, #[expect(dead_code, reason = "held until the end")] Box<dyn Any>),
}

impl Upgrade {
    /// A stream of HTTP/2, and who grants it.
    pub fn of_stream() -> (Self, Grant) {
        let (grant, asked) = oneshot::channel();
        (Self(Asked::Http2(asked)), Grant(grant))
    }

    /// Waits until it is granted and the client was told so.
    ///
    /// # Errors
    /// When it will not be.
    pub async fn granted(self) -> io::Result<Upgraded> {
        match self.0 {
            Asked::Http1(asked) => match asked.await {
                Ok(connection) => Ok(Upgraded(End::Http1(TokioIo::new(connection)))),
                Err(why) => Err(io::Error::other(why)),
            },
            Asked::Http2(asked) => asked.await.map_err(|_| io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl From<OnUpgrade> for Upgrade {
    fn from(asked: OnUpgrade) -> Self {
        Self(Asked::Http1(asked))
    }
}

impl Grant {
    /// The client was told that it stands; `lasting` goes when it does. Where nobody waits for it any more, it ends.
    pub(crate) fn give(self, stream: Duplex, lasting: impl Any) {
        // Dropped, it is closed.
        let _ = self.0.send(Upgraded(End::Http2(stream, Box::new(lasting))));
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        if let End::Http2(stream, _) = &mut self.0 {
            // One that is gone needs no end.
            let _ = stream.end();
        }
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            End::Http1(_) => "Upgraded(connection)",
            End::Http2(..) => "Upgraded(stream)",
        })
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            End::Http1(io) => Pin::new(io).poll_read(cx, buf),
            End::Http2(io, _) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            End::Http1(io) => Pin::new(io).poll_write(cx, bytes),
            End::Http2(io, _) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            End::Http1(io) => Pin::new(io).poll_flush(cx),
            End::Http2(io, _) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            End::Http1(io) => Pin::new(io).poll_shutdown(cx),
            End::Http2(io, _) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use http::{Request, Response};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::stream::tests::connected;

    #[test]
    fn a_stream_that_is_granted_is_held_with_what_lasts_as_long() {
        connected(|sender, mut served| async move {
            let request = Request::post("https://a.example/").body(()).unwrap();
            let (answer, mut send) = sender.ready().await.unwrap().send_request(request, false).unwrap();
            let (request, mut answering) = served.recv().await.unwrap();
            let (upgrade, grant) = Upgrade::of_stream();
            let lasting = Rc::new(());

            let stream = answering.send_response(Response::new(()), false).unwrap();
            grant.give(Duplex::new(request.into_body(), stream), Rc::clone(&lasting));

            let mut end = upgrade.granted().await.unwrap();
            send.send_data("ping".into(), false).unwrap();
            let mut read = [0; 4];
            end.read_exact(&mut read).await.unwrap();
            end.write_all(b"pong").await.unwrap();
            end.shutdown().await.unwrap();
            let mut back = answer.await.unwrap().into_body();
            assert_eq!((&read, &back.data().await.unwrap().unwrap()[..]), (b"ping", &b"pong"[..]));
            assert_eq!(Rc::strong_count(&lasting), 2);
            drop(end);
            assert_eq!(Rc::strong_count(&lasting), 1);
        });
    }

    #[test]
    fn a_stream_that_is_not_granted_or_that_nobody_takes_is_no_tunnel() {
        connected(|sender, mut served| async move {
            let (upgrade, grant) = Upgrade::of_stream();
            drop(grant);
            assert!(upgrade.granted().await.is_err());

            let request = Request::post("https://a.example/").body(()).unwrap();
            let (answer, _send) = sender.ready().await.unwrap().send_request(request, false).unwrap();
            let (request, mut answering) = served.recv().await.unwrap();
            let (upgrade, grant) = Upgrade::of_stream();
            drop(upgrade);
            let stream = answering.send_response(Response::new(()), false).unwrap();
            let lasting = Rc::new(());
            grant.give(Duplex::new(request.into_body(), stream), Rc::clone(&lasting));
            drop(answering);
            assert_eq!(Rc::strong_count(&lasting), 1);
            assert!(answer.await.unwrap().into_body().data().await.is_none_or(|end| end.unwrap().is_empty()));
        });
    }
}
