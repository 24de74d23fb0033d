//! One connection to a server that speaks HTTP/2: made, kept alive, given up.
//!
//! In: a byte stream. Out: a [`Session`] that requests take a [`Seat`] on, and a task that moves its frames. What a
//! hostile or broken server can do is bounded here: header lists, windows, streams, frames that bring nothing, and how
//! much is read before others on this thread have their turn. A server that has been silent while it owes something is
//! asked whether it is there (RFC 9113 section 6.7); one that does not say so is given up, and its requests with it.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{Future as _, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason,
    client::{self, Connection, SendRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use super::wants_http1;
use crate::{
    frames::{DATA, FrameHead, Frames, IdleFrames},
    upstream::{
        UpstreamError,
        connect::Io,
        names::{Found, Name},
        pool::ServerPool,
        ticks::{Ticks, millis, ticks},
    },
};

/// A connection that serves many requests at once. It closes when nobody holds it and its last stream has ended.
pub(in crate::upstream) struct Session {
    sender: SendRequest<Bytes>,
    pulse: Rc<Pulse>,
    /// Requests under way.
    seats: Cell<usize>,
    /// Whether it has served before.
    used: Cell<bool>,
    /// In ticks: when it is closed if nobody uses it until then.
    expires: Cell<u64>,
    /// Whether its requests under way are its last.
    retired: Cell<bool>,
    peer: Option<SocketAddr>,
    found: Found,
}

/// One request's place on a connection.
pub(in crate::upstream) struct Seat {
    session: Rc<Session>,
    idle_ticks: u64,
    used: bool,
}

/// What a connection's task, its users and the ticker know of each other.
struct Pulse {
    ticks: Ticks,
    /// When something that somebody waited for came last.
    heard: Cell<u64>,
    /// How long it may be silent before it is asked.
    patience: Cell<u64>,
    /// Since when it has been asked.
    asked: Cell<Option<u64>>,
    wants_ping: Cell<bool>,
    /// It does not answer, or floods us.
    given_up: Cell<bool>,
    /// Whether anything came that came behind the server's settings.
    greeted: Cell<bool>,
    /// Told when it has, or never will.
    greeting: Notify,
    ended: Cell<bool>,
    /// What may still be read before others have their turn.
    allowance: Cell<usize>,
    /// Frames that brought nothing on.
    idle: Cell<IdleFrames>,
    /// There were too many of them.
    flooded: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl Session {
    /// Speaks HTTP/2 on `io`; `idle_ticks` is how long it may wait for its first request.
    pub(in crate::upstream) async fn start(
        io: Io,
        clock: Ticks,
        server: Rc<ServerPool>,
        idle_ticks: u64,
    ) -> Result<Rc<Self>, UpstreamError> {
        let (now, peer) = (clock.now(), io.peer());
        let pulse = Rc::new(Pulse {
            ticks: clock,
            heard: Cell::new(now),
            patience: Cell::new(ticks(SILENCE_FIRST)),
            asked: Cell::new(None),
            wants_ping: Cell::new(false),
            given_up: Cell::new(false),
            greeted: Cell::new(false),
            greeting: Notify::new(),
            ended: Cell::new(false),
            allowance: Cell::new(TURN_BYTES),
            idle: Cell::new(IdleFrames::new(millis(now))),
            flooded: Cell::new(false),
            task: RefCell::default(),
        });
        let io = Paced { io, frames: Frames::new(0), pulse: Rc::clone(&pulse) };
        let handshake = client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * SEATS_MAX)
            .max_header_list_size(HEADER_LIST_BYTES)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESETS_REMEMBERED)
            .handshake(io);
        let (sender, mut connection) = handshake.await.map_err(|_| UpstreamError::Unreachable("http2"))?;
        let ping = connection.ping_pong();
        let open = Open::new(server);
        let mine = Rc::clone(&pulse);
        tokio::task::spawn_local(async move {
            let ended = drive(connection, ping, &mine).await;
            if mine.flooded.get() || ended.as_ref().is_err_and(finds_too_much) {
                mine.flooded.set(true);
                open.0.note_flood();
            }
            if ended.is_err_and(|why| wants_http1(&why)) {
                open.0.speak_http1();
            }
            mine.ended.set(true);
            mine.greeting.notify_waiters();
            drop(open);
        });
        let expires = Cell::new(pulse.ticks.now().saturating_add(idle_ticks));
        Ok(Rc::new(Self {
            sender,
            pulse,
            seats: Cell::new(0),
            used: Cell::new(false),
            expires,
            retired: Cell::new(false),
            peer,
            found: Found::default(),
        }))
    }

    /// How many more requests it takes now; 0 once it takes no more at all.
    pub(super) fn room(&self) -> usize {
        if self.retired.get() || self.is_over() {
            return 0;
        }
        self.sender.current_max_send_streams().min(SEATS_MAX as usize).saturating_sub(self.seats.get())
    }

    /// Requests under way.
    pub(super) const fn seats(&self) -> usize {
        self.seats.get()
    }

    /// Whether it takes no more requests: it ended, was given up, or the server goes away.
    pub(super) fn is_over(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.pulse.ended.get()
            || self.pulse.given_up.get()
            || matches!(self.sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// A place for one request.
    pub(super) fn take_seat(self: &Rc<Self>, idle_ticks: u64) -> Seat {
        self.seats.set(self.seats.get() + 1);
        Seat { session: Rc::clone(self), idle_ticks, used: self.used.replace(true) }
    }

    /// Whether the server sends more than anybody needs, seen in `why` something broke; then it is cut for all.
    pub(super) fn has_flooded(&self, why: &h2::Error) -> bool {
        let has = self.pulse.flooded.get() || finds_too_much(why);
        if has {
            self.pulse.given_up.set(true);
            self.pulse.wake();
        }
        has
    }

    /// A request was sent, or part of one: so many frames in answer bring something on.
    pub(super) fn excuse(&self, frames: u32) {
        self.pulse.excuse(frames);
    }

    /// Something came that was waited for.
    pub(super) fn heard(&self) {
        self.pulse.greeted.set(true);
        self.pulse.heard.set(self.pulse.ticks.now());
        self.pulse.patience.set(ticks(SILENCE_FIRST));
        self.pulse.asked.set(None);
    }

    /// Takes no more requests; those under way finish.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    /// Whether it leads to one of the present addresses of a name.
    pub(super) fn is_at(&self, name: &Name) -> bool {
        self.found.is_at(name, || self.peer)
    }

    /// Called on every tick. `false`: nobody has used it for long, or nobody can.
    pub(super) fn judge(&self) -> bool {
        let (pulse, now) = (&self.pulse, self.pulse.ticks.now());
        if self.seats.get() == 0 {
            return now < self.expires.get() && !self.retired.get() && !self.is_over();
        }
        if let Some(since) = pulse.asked.get() {
            if now.saturating_sub(since) > ticks(ANSWER_TIME) {
                pulse.given_up.set(true);
                pulse.wake();
            }
        } else if now.saturating_sub(pulse.heard.get()) > pulse.patience.get() {
            pulse.asked.set(Some(now));
            pulse.wants_ping.set(true);
            pulse.wake();
        }
        !self.is_over()
    }
}

impl Seat {
    /// Where requests are sent.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.session.sender.clone()
    }

    /// The worker's clock.
    pub(super) fn ticks(&self) -> &Ticks {
        &self.session.pulse.ticks
    }

    /// Whether the connection had served before.
    pub(in crate::upstream) const fn is_used(&self) -> bool {
        self.used
    }

    /// The connection.
    pub(super) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Whether the server opens tunnels on its streams (RFC 8441 section 3); `None`: the connection has ended. Its
    /// settings are the first that it says, so whoever has heard anything knows: one that has said nothing yet is asked
    /// for a sign of life.
    pub(in crate::upstream) async fn opens_tunnels(&self) -> Option<bool> {
        let (session, pulse) = (&self.session, &self.session.pulse);
        while !pulse.greeted.get() {
            if session.is_over() {
                return None;
            }
            pulse.wants_ping.set(true);
            pulse.wake();
            pulse.greeting.notified().await;
        }
        Some(session.sender.is_extended_connect_protocol_enabled())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let session = &self.session;
        session.seats.set(session.seats.get().saturating_sub(1));
        session.expires.set(session.pulse.ticks.now().saturating_add(self.idle_ticks));
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Pulse {
    fn wake(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }

    fn excuse(&self, frames: u32) {
        let mut idle = self.idle.get();
        idle.excuse(frames);
        self.idle.set(idle);
    }

    /// Whether this was one frame too many.
    fn hear(&self, frame: &FrameHead) -> bool {
        let mut idle = self.idle.get();
        let too_many = if frame.kind == DATA && frame.brings_data() {
            idle.excuse(EXCUSED_BY_DATA);
            false
        } else {
            idle.are_too_many(|| millis(self.ticks.now()))
        };
        self.idle.set(idle);
        too_many
    }

    /// It is there. The longer it says no more than that, the less often it is asked: servers count such questions
    /// against those who ask (gRPC ends a connection after the third within five minutes).
    fn answered(&self) {
        if self.asked.take().is_some() {
            self.heard.set(self.ticks.now());
            self.patience.set(self.patience.get().saturating_mul(4).min(ticks(SILENCE_LAST)));
        }
    }
}

/// Moves the frames of one connection until it ends.
async fn drive(
    connection: Connection<Paced, Bytes>,
    mut ping: Option<PingPong>,
    pulse: &Pulse,
) -> Result<(), h2::Error> {
    let mut connection = pin!(connection);
    let mut awaits_pong = false;
    poll_fn(|cx| {
        *pulse.task.borrow_mut() = Some(cx.waker().clone());
        if pulse.given_up.get() {
            return Poll::Ready(Ok(()));
        }
        if let Some(ping) = &mut ping {
            if pulse.wants_ping.take() && !awaits_pong {
                awaits_pong = ping.send_ping(Ping::opaque()).is_ok();
            }
            if awaits_pong && ping.poll_pong(cx).is_ready() {
                awaits_pong = false;
                pulse.greeted.set(true);
                pulse.greeting.notify_waiters();
                pulse.answered();
            }
        }
        pulse.allowance.set(TURN_BYTES);
        connection.as_mut().poll(cx)
    })
    .await
}

/// Counts a connection.
struct Open(Rc<ServerPool>);

impl Open {
    fn new(server: Rc<ServerPool>) -> Self {
        server.counters().open.fetch_add(1, Relaxed);
        Self(server)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters().open.fetch_sub(1, Relaxed);
    }
}

/// A byte stream that gives only so much in one go: whoever sends frames without end must not keep everybody else on
/// this thread from running, nor fill the queues of those whom the frames are for before they can empty them. It fails
/// once too many of them bring nothing on (CVE-2019-9512, 9514, 9515, 9518, from the other side).
struct Paced {
    io: Io,
    frames: Frames,
    pulse: Rc<Pulse>,
}

impl AsyncRead for Paced {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let allowance = this.pulse.allowance.get();
        if allowance == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let (pulse, read) = (&this.pulse, buf.filled().get(before..).unwrap_or_default());
        let (mut frames, mut too_many) = (0, false);
        this.frames.follow(read, |frame| {
            frames += 1;
            too_many |= pulse.hear(&frame);
        });
        if too_many {
            pulse.flooded.set(true);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a flood of frames")));
        }
        pulse.allowance.set(allowance.saturating_sub(read.len() + frames * FRAME_BYTES));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Whether the library ended the connection because too much came that nobody needs: of `CONTINUATION`, of header
/// lists, of streams that it had to reset, of empty or tiny pieces.
fn finds_too_much(why: &h2::Error) -> bool {
    why.is_go_away() && why.is_library() && why.reason() == Some(Reason::ENHANCE_YOUR_CALM)
}

/// Requests under way on one connection at most, if the server allows so many.
const SEATS_MAX: u32 = 128;
/// What one answer may run ahead of its client. The connection's window is that of all its streams together: a client
/// that does not read holds up nobody else.
const STREAM_WINDOW: u32 = 128 * 1024;
/// What one request's body may run ahead of the connection.
const SEND_BUFFER: usize = 64 * 1024;
/// An answer's head, as over HTTP/1.1 (R16).
pub(super) const HEADER_LIST_BYTES: u32 = 64 * 1024;
/// Streams that we reset, whose late frames are still known to be harmless.
const RESETS_REMEMBERED: usize = 64;
/// Read in one go; a frame counts as so many more, for each may be an event that waits in a queue.
const TURN_BYTES: usize = 256 * 1024;
const FRAME_BYTES: usize = 256;
/// Frames that a request may bring along: interim answers, a head, trailers, a reset, windows, a ping to measure by.
pub(super) const EXCUSED_BY_REQUEST: u32 = 64;
/// Frames that a piece of a body may bring along, in either direction.
pub(super) const EXCUSED_BY_DATA: u32 = 4;
/// Silence after which a server that owes something is asked whether it is there.
const SILENCE_FIRST: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });
/// The same, after it has done nothing but answer that for long.
const SILENCE_LAST: Duration = Duration::from_secs(300);
/// How long it has to say so.
const ANSWER_TIME: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
