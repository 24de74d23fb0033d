//! One connection that speaks HTTP/2: its bounds, its streams and its end (R18, R19; RFC 9113).
//!
//! In: a [`Wire`] that counts what passes. Out: requests with what answers them, each a task of its own
//! ([`answering`]). h2 reads and writes frames; what it makes in one turn is written at once
//! ([`Batched`]). A connection that is asked to end says so and finishes its streams; whether its client is still there
//! the worker's sweep finds out, and says here when to ask.

use std::{
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason,
    server::{self, Connection},
};
use hyper_util::rt::TokioIo;

use super::{
    Handler, answering,
    batch::Batched,
    http::{Exchange, note_end},
    wire::Wire,
};

/// Serves until the connection ends.
pub(super) async fn serve<H: Handler>(context: Rc<Exchange<H>>, wire: Wire) {
    let wire = Batched::new(wire);
    // Boxed: what greets is of no use for the rest of a connection's life.
    if let Some(connection) = Box::pin(greet(&context, wire.clone())).await {
        converse(&context, connection, wire).await;
    }
}

/// Boxed: it is large, and moved about.
type Served = Box<Connection<TokioIo<Batched<Wire>>, Bytes>>;

/// Waits for the client's first words; `None`: there is nobody to serve.
async fn greet<H: Handler>(context: &Exchange<H>, wire: Batched<Wire>) -> Option<Served> {
    let limits = context.worker.limits;
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES_BYTES);
    if context.worker.handler.takes_tunnels() {
        builder.enable_connect_protocol();
    }
    let (progress, client) = (&context.progress, &context.connection);
    let mut greeting = pin!(builder.handshake(TokioIo::new(wire.clone())));
    poll_fn(|cx| {
        progress.remember(cx.waker());
        if client.cutter.is_cut(cx.waker()) {
            return Poll::Ready(None);
        }
        let polled = greeting.as_mut().poll(cx);
        match (wire.poll_send(cx), polled) {
            // Nobody can be told any more.
            (Poll::Ready(Err(_)), _) => Poll::Ready(None),
            (_, Poll::Ready(greeted)) => Poll::Ready(greeted.ok().map(Box::new)),
            (_, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}

/// Requests and answers until the connection ends.
async fn converse<H: Handler>(context: &Rc<Exchange<H>>, mut connection: Served, wire: Batched<Wire>) {
    let (progress, client) = (&context.progress, &context.connection);
    progress.can_be_asked();
    let (mut told, mut asking) = (false, Asking::default());
    let ended = poll_fn(|cx| {
        progress.remember(cx.waker());
        if client.cutter.is_cut(cx.waker()) {
            return Poll::Ready(Ok(()));
        }
        if (progress.is_closing() || progress.is_winding_down()) && !std::mem::replace(&mut told, true) {
            connection.graceful_shutdown();
        }
        if progress.is_given_up() && !std::mem::replace(&mut asking.given_up, true) {
            connection.abrupt_shutdown(Reason::NO_ERROR);
        }
        if progress.takes_question() {
            asking.ask(&mut connection);
        }
        let polled = loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, answer)))) => answering::begin(context, request, answer),
                Poll::Ready(Some(Err(why))) => break Poll::Ready(Err(why)),
                Poll::Ready(None) => break Poll::Ready(Ok(())),
                Poll::Pending => break Poll::Pending,
            }
        };
        match wire.poll_send(cx) {
            // Nobody can be told any more.
            Poll::Ready(Err(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) | Poll::Pending => polled,
        }
    });
    note_end(ended.await);
}

/// Whether the client is there (RFC 9113 section 6.7). That it is shows in whatever comes; what counts is not the answer.
#[derive(Default)]
struct Asking {
    pings: Option<PingPong>,
    given_up: bool,
}

impl Asking {
    fn ask(&mut self, connection: &mut Served) {
        if self.pings.is_none() {
            self.pings = connection.ping_pong();
        }
        if let Some(pings) = &mut self.pings {
            // What was answered before is forgotten here; h2 has one question at a time.
            let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
            // If that was not, one more would bring no more.
            let _ = pings.send_ping(Ping::opaque());
        }
    }
}

/// Streams that were reset before a handler saw them (CVE-2023-44487).
const RESETS: usize = 20;
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// For each stream, what an answer may run ahead of the client.
const SEND_BUFFER: usize = 64 * 1024;
/// What small pieces of bodies may take beside what the window counts, while they wait to be read: h2 reckons with 256
/// bytes for each, so there may be 8,192 of one byte. As with the window, a client that sends messages of a few bytes
/// to a slow backend must be held back long before it is ended for it.
const SMALL_FRAMES_BYTES: usize = 2 * CONNECTION_WINDOW as usize;
