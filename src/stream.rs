//! One stream of HTTP/2 as bytes both ways (RFC 9113 section 5.2; RFC 8441 section 5), of a client or of a server.
//!
//! In: the two halves of a stream whose `CONNECT` was accepted. Out: a byte stream. The peer's window is reopened by
//! what was taken, and what is written waits for the window of the peer: each side makes the other wait, and nothing
//! is kept between them but what a window holds. A stream that is reset, for whatever reason, has failed; dropped
//! before both ends, it is cancelled.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module.
#[derive(Debug)]
pub(crate) struct Duplex {
    receive: RecvStream,
    send: SendStream<Bytes>,
    /// What came and was not taken yet.
    came: Bytes,
    has_ended: bool,
}

impl Duplex {
    pub(crate) const fn new(receive: RecvStream, send: SendStream<Bytes>) -> Self {
        Self { receive, send, came: Bytes::new(), has_ended: false }
    }

    /// Says that nothing more will come, unless that was said.
    ///
    /// # Errors
    /// If the stream is gone.
    pub(crate) fn end(&mut self) -> Result<(), h2::Error> {
        if std::mem::replace(&mut self.has_ended, true) { Ok(()) } else { self.send.send_data(Bytes::new(), true) }
    }
}

/// How much of `wanted` bytes the peer's window takes now; `None`: the stream is over.
pub(crate) fn poll_room(stream: &mut SendStream<Bytes>, wanted: usize, cx: &mut Context<'_>) -> Poll<Option<usize>> {
    stream.reserve_capacity(wanted);
    loop {
        let room = stream.capacity();
        if room > 0 {
            return Poll::Ready(Some(room));
        }
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(None),
        }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.came.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.came = data.map_err(io::Error::other)?,
            }
        }
        let count = this.came.len().min(buf.remaining());
        buf.put_slice(this.came.get(..count).unwrap_or_default());
        this.came.advance(count);
        // A stream that is gone needs no window.
        let _ = this.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Some(room) = ready!(poll_room(&mut this.send, bytes.len(), cx)) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let now = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        this.send.send_data(Bytes::copy_from_slice(now), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(now.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes what there is.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().end().map_err(io::Error::other))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{future::poll_fn, task::Waker};

    use h2::{
        Reason,
        client::{ResponseFuture, SendRequest},
        server::SendResponse,
    };
    use http::{Request, Response};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc,
        task::{LocalSet, spawn_local},
    };

    use super::*;

    /// What a server gets of a request.
    pub(crate) type Served = (Request<RecvStream>, SendResponse<Bytes>);

    /// Runs a test with a client and a server of HTTP/2 that are connected.
    pub(crate) fn connected<F: Future<Output = ()>>(
        test: impl FnOnce(SendRequest<Bytes>, mpsc::UnboundedReceiver<Served>) -> F,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (near, far) = tokio::io::duplex(1 << 20);
            let (told, served) = mpsc::unbounded_channel();
            spawn_local(async move {
                let mut connection = h2::server::handshake(far).await.unwrap();
                while let Some(Ok(one)) = connection.accept().await {
                    told.send(one).unwrap();
                }
            });
            let (sender, connection) = h2::client::handshake(near).await.unwrap();
            spawn_local(connection);
            test(sender, served).await;
        });
    }

    /// Both ends of a stream: the client's, and the one that is tested.
    async fn opened(
        sender: SendRequest<Bytes>,
        served: &mut mpsc::UnboundedReceiver<Served>,
    ) -> (SendStream<Bytes>, RecvStream, Duplex) {
        let request = Request::post("https://a.example/").body(()).unwrap();
        let (answer, send): (ResponseFuture, _) = sender.ready().await.unwrap().send_request(request, false).unwrap();
        let (request, mut answering) = served.recv().await.unwrap();
        let stream = answering.send_response(Response::new(()), false).unwrap();
        let receive = answer.await.unwrap().into_body();
        (send, receive, Duplex::new(request.into_body(), stream))
    }

    #[test]
    fn bytes_pass_both_ways_and_each_way_has_its_own_end() {
        connected(|sender, mut served| async move {
            let (mut send, mut receive, mut duplex) = opened(sender, &mut served).await;
            let mut read = [0; 5];

            send.send_data("hello".into(), false).unwrap();
            duplex.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"hello");
            duplex.write_all(b"back").await.unwrap();
            assert_eq!(receive.data().await.unwrap().unwrap(), "back");

            send.send_data("last".into(), true).unwrap();
            let mut rest = String::new();
            duplex.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "last");
            duplex.write_all(b"more").await.unwrap();
            duplex.shutdown().await.unwrap();
            assert_eq!(receive.data().await.unwrap().unwrap(), "more");
            assert!(receive.data().await.is_none_or(|end| end.unwrap().is_empty()));
            assert!(receive.is_end_stream());
        });
    }

    #[test]
    fn no_more_is_taken_than_the_peer_has_room_for() {
        connected(|sender, mut served| async move {
            let (_send, mut receive, mut duplex) = opened(sender, &mut served).await;
            let written = async {
                let mut written = 0;
                loop {
                    let mut cx = Context::from_waker(Waker::noop());
                    match Pin::new(&mut duplex).poll_write(&mut cx, &[0; 8192]) {
                        Poll::Ready(count) => written += count.unwrap(),
                        Poll::Pending => break written,
                    }
                }
            };
            assert_eq!(written.await, WINDOW);

            let data = receive.data().await.unwrap().unwrap();
            receive.flow_control().release_capacity(data.len()).unwrap();
            let read = async {
                let mut read = data.len();
                while read < 2 * WINDOW {
                    let data = receive.data().await.unwrap().unwrap();
                    receive.flow_control().release_capacity(data.len()).unwrap();
                    read += data.len();
                }
            };
            let write = async { duplex.write_all(&[0; WINDOW]).await.unwrap() };
            tokio::join!(read, write);
        });
    }

    #[test]
    fn the_peer_is_given_room_for_what_was_taken_and_not_before() {
        connected(|sender, mut served| async move {
            let (mut send, _receive, mut duplex) = opened(sender, &mut served).await;
            send.send_data(vec![0; 2 * WINDOW].into(), false).unwrap();
            send.reserve_capacity(3 * WINDOW);

            let mut taken = vec![0; 2 * WINDOW];
            duplex.read_exact(&mut taken).await.unwrap();

            let room = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            assert!(room > 0, "{room}");
        });
    }

    #[test]
    fn a_reset_whatever_its_code_fails_both_ways() {
        for code in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
            connected(|sender, mut served| async move {
                let (mut send, _receive, mut duplex) = opened(sender, &mut served).await;
                send.send_reset(code);

                assert!(duplex.read(&mut [0; 1]).await.is_err(), "{code:?}");
                assert!(duplex.write_all(&[0; 2 * WINDOW]).await.is_err(), "{code:?}");
            });
        }
    }

    #[test]
    fn an_end_that_is_dropped_early_is_cancelled() {
        connected(|sender, mut served| async move {
            let (_send, mut receive, duplex) = opened(sender, &mut served).await;
            drop(duplex);

            assert_eq!(receive.data().await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
        });
    }

    /// RFC 9113 section 6.9.2.
    const WINDOW: usize = 65_535;
}
