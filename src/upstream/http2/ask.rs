//! One request without a body on a connection of its own: how a health check speaks HTTP/2.
//!
//! In: a byte stream and a head. Out: the status of the answer. The connection ends with it; how long all may take is
//! the caller's to say.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    task::Poll,
};

use bytes::Bytes;
use h2::client;
use http::{Request, StatusCode};

use super::session::HEADER_LIST_BYTES;
use crate::upstream::connect::Io;

/// The status of the answer to `head`.
///
/// # Errors
/// If the connection or the request broke before there was an answer.
pub(in crate::upstream) async fn ask(io: Io, head: Request<()>) -> Result<StatusCode, h2::Error> {
    let (sender, connection) = client::Builder::new()
        .enable_push(false)
        .max_header_list_size(HEADER_LIST_BYTES)
        .handshake::<_, Bytes>(io)
        .await?;
    let mut answer = pin!(async move {
        let (answer, _) = sender.ready().await?.send_request(head, true)?;
        Ok(answer.await?.status())
    });
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        // It moves the frames; whether it has ended is told by the answer.
        let ended = connection.as_mut().poll(cx);
        match (answer.as_mut().poll(cx), ended) {
            (Poll::Ready(answered), _) => Poll::Ready(answered),
            (Poll::Pending, Poll::Ready(Err(why))) => Poll::Ready(Err(why)),
            (Poll::Pending, Poll::Ready(Ok(()))) => Poll::Ready(Err(h2::Reason::NO_ERROR.into())),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}
