//! The bytes of one connection between TLS and HTTP: every HTTP/1 head is checked here before hyper sees it (R18).
//!
//! In: a socket, plain or under TLS. Out: `hyper::rt::{Read, Write}`. Bytes are looked at in the buffer they were
//! decrypted into and copied once, to hyper; only a head that came in pieces is gathered. A head that must not be
//! believed never reaches hyper: a harmless one with `Connection: close` takes its place, the reason waits in
//! [`Progress`] for exactly that request, and nothing behind it is read. A body that breaks fails the read.
//! After the last answer, what the client still sends is read and dropped within bounds, so that no reset
//! overtakes the answer. Early hints are written here, between hyper's answers. HTTP/2 passes as it is,
//! but for frames that mean nothing.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use crate::{
    client::Connection,
    clock::Clock,
    edge::{
        Counters,
        accept::Ticket,
        conversation::Conversation,
        framing::{Framing, HeadBounds, Step},
        progress::{Progress, Upgrade, Waiting},
    },
    frames::HEAD_LENGTH,
    inbound::Malformed,
};

/// A socket that tells how much it took.
#[derive(Debug)]
pub(crate) struct Socket {
    io: SocketIo,
    progress: Arc<Progress>,
}

#[derive(Debug)]
pub(crate) enum SocketIo {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What HTTP speaks over.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(BufReader<Socket>),
    Tls(Box<TlsStream<Socket>>),
}

/// See the module.
pub(crate) struct Wire {
    stream: Stream,
    mode: Mode,
    /// Bytes that came and are not with HTTP yet, from `carry_at`. Used only for heads in pieces, and for headers of
    /// frames.
    carry: Vec<u8>,
    carry_at: usize,
    /// The carry holds a head without its end.
    incomplete: bool,
    /// So many bytes at the front of the carry, or else of the stream, have been looked at and may go on.
    approved: usize,
    /// What is left of the head that replaces a bad one.
    replacement: &'static [u8],
    /// Nothing that comes is looked at any more.
    refused: bool,
    eof: bool,
    dropped: usize,
    ending: Ending,
    progress: Arc<Progress>,
    counters: Arc<Counters>,
    clock: Clock,
    written_total: u64,
    /// Whose requests they are that may be hinted at; `None`: nobody's.
    client: Option<Arc<Connection>>,
    /// An interim answer under way, and how much of it is written.
    hint: Vec<u8>,
    hinted: usize,
    /// Frees the connection's place when the socket is closed, tunnels included.
    _ticket: Ticket,
}

enum Mode {
    /// HTTP/1: nothing passes unseen.
    Guarded(Framing),
    /// HTTP/2: its library checks the framing; we follow what is owed, ended and too much.
    Http2(Conversation),
    /// A tunnel.
    Tunnel,
}

enum Ending {
    Open,
    Farewell(Vec<u8>, usize),
    Flush,
    Linger,
    Done,
}

impl Socket {
    pub(crate) const fn new(io: SocketIo, progress: Arc<Progress>) -> Self {
        Self { io, progress }
    }

    /// Whether there may be something to read, or an end.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.io {
            SocketIo::Tcp(io) => io.poll_read_ready(cx),
            SocketIo::Unix(io) => io.poll_read_ready(cx),
        }
    }

    fn note(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &outcome {
            Poll::Ready(Ok(count)) => self.progress.sent(*count),
            Poll::Pending => self.progress.write_blocked(),
            Poll::Ready(Err(_)) => {}
        }
        outcome
    }
}

impl Stream {
    /// Plain HTTP.
    pub(crate) fn plain(socket: Socket) -> Self {
        Self::Plain(BufReader::with_capacity(PLAIN_BUFFER, socket))
    }
}

impl Wire {
    /// For HTTP/1, with `client`.
    pub(crate) fn guarded(
        stream: Stream,
        bounds: HeadBounds,
        client: Arc<Connection>,
        progress: Arc<Progress>,
        counters: Arc<Counters>,
        clock: Clock,
        ticket: Ticket,
    ) -> Self {
        let mut wire = Self::new(stream, Mode::Guarded(Framing::new(bounds)), progress, counters, clock, ticket);
        wire.client = Some(client);
        wire
    }

    /// For HTTP/2, whose streams begin with a window of `stream_window` bytes.
    pub(crate) fn http2(
        stream: Stream,
        stream_window: u32,
        progress: Arc<Progress>,
        counters: Arc<Counters>,
        clock: Clock,
        ticket: Ticket,
    ) -> Self {
        let conversation = Conversation::new(stream_window, clock.now());
        Self::new(stream, Mode::Http2(conversation), progress, counters, clock, ticket)
    }

    fn new(
        stream: Stream,
        mode: Mode,
        progress: Arc<Progress>,
        counters: Arc<Counters>,
        clock: Clock,
        ticket: Ticket,
    ) -> Self {
        Self {
            stream,
            mode,
            carry: Vec::new(),
            carry_at: 0,
            incomplete: false,
            approved: 0,
            replacement: &[],
            refused: false,
            eof: false,
            dropped: 0,
            ending: Ending::Open,
            progress,
            counters,
            clock,
            written_total: 0,
            client: None,
            hint: Vec::new(),
            hinted: 0,
            _ticket: ticket,
        }
    }

    /// Ready when reading would bring something: bytes, an end or an error.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_fill(cx).map(drop)
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.replacement.is_empty() {
                let count = self.replacement.len().min(cursor.remaining());
                let (now, later) = self.replacement.split_at(count);
                cursor.put_slice(now);
                self.replacement = later;
                return Poll::Ready(Ok(()));
            }
            if self.refused {
                // The end of the client's bytes is no news any more: an answer is owed.
                ready!(self.poll_drop(cx))?;
                return Poll::Pending;
            }
            let framing = match &mut self.mode {
                Mode::Guarded(framing) => framing,
                Mode::Http2(_) => return self.poll_http2(cx, cursor),
                Mode::Tunnel => return self.poll_raw(cx, cursor),
            };
            if self.progress.head_is_overdue() && self.incomplete {
                // hyper reads an end; `poll_shutdown` says why.
                self.eof = true;
                return Poll::Ready(Ok(()));
            }
            if self.approved > 0 {
                if self.carry.is_empty() {
                    let chunk = ready!(self.stream.poll_fill(cx))?;
                    let count = self.approved.min(chunk.len()).min(cursor.remaining());
                    cursor.put_slice(chunk.get(..count).unwrap_or_default());
                    self.stream.consume(count);
                    self.approved -= count;
                } else {
                    self.pass_carry(cursor);
                }
                return Poll::Ready(Ok(()));
            }
            if framing.asks_upgrade() && !framing.in_body() {
                match self.progress.upgrade() {
                    Upgrade::Granted => {
                        self.mode = Mode::Tunnel;
                        continue;
                    }
                    Upgrade::Refused => {}
                    Upgrade::Undecided => {
                        // What the client sends before the answer is neither HTTP nor tunnel yet (R17): it waits.
                        // Whoever decides wakes this task.
                        let gone = self.carry.is_empty() && ready!(self.stream.poll_fill(cx))?.is_empty();
                        self.eof |= gone;
                        return if gone { Poll::Ready(Ok(())) } else { Poll::Pending };
                    }
                }
            }
            let step = if self.carry.is_empty() {
                let chunk = ready!(self.stream.poll_fill(cx))?;
                if chunk.is_empty() {
                    self.eof = true;
                    return Poll::Ready(Ok(()));
                }
                let step = framing.feed(chunk);
                match step {
                    Step::Pass(count) => {
                        let passed = count.min(cursor.remaining());
                        cursor.put_slice(chunk.get(..passed).unwrap_or_default());
                        self.stream.consume(passed);
                        self.approved = count - passed;
                        self.progress.received(count);
                        self.progress.framed(framing.heads(), framing.in_body(), framing.asks_upgrade());
                        return Poll::Ready(Ok(()));
                    }
                    Step::More => {
                        let count = chunk.len();
                        self.carry.extend_from_slice(chunk);
                        self.stream.consume(count);
                    }
                    Step::BadHead(_) | Step::BadBody(_) => {}
                }
                step
            } else {
                if self.incomplete {
                    let chunk = ready!(self.stream.poll_fill(cx))?;
                    if chunk.is_empty() {
                        self.eof = true;
                        return Poll::Ready(Ok(()));
                    }
                    let count = chunk.len();
                    self.carry.extend_from_slice(chunk);
                    self.stream.consume(count);
                }
                framing.feed(self.carry.get(self.carry_at..).unwrap_or_default())
            };
            self.incomplete = step == Step::More;
            match step {
                Step::Pass(count) => {
                    self.approved = count;
                    self.progress.received(count);
                    self.progress.framed(framing.heads(), framing.in_body(), framing.asks_upgrade());
                }
                Step::More => {}
                Step::BadHead(reason) => self.replace_head(reason),
                Step::BadBody(reason) => {
                    self.counters.count_malformed(reason);
                    self.refused = true;
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "broken request body")));
                }
            }
        }
    }

    fn poll_raw(&mut self, cx: &mut Context<'_>, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.carry.is_empty() {
            self.approved = self.carry.len() - self.carry_at;
            self.pass_carry(cursor);
            return Poll::Ready(Ok(()));
        }
        let chunk = ready!(self.stream.poll_fill(cx))?;
        let count = chunk.len().min(cursor.remaining());
        cursor.put_slice(chunk.get(..count).unwrap_or_default());
        self.stream.consume(count);
        self.eof |= count == 0;
        self.progress.received(count);
        Poll::Ready(Ok(()))
    }

    fn poll_http2(&mut self, cx: &mut Context<'_>, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Mode::Http2(conversation) = &mut self.mode else { return Poll::Pending };
        let room = cursor.remaining();
        loop {
            if self.approved > 0 {
                self.pass_carry(cursor);
                return Poll::Ready(Ok(()));
            }
            let chunk = ready!(self.stream.poll_fill(cx))?;
            // The header of a frame that was begun is completed before anything else.
            let most = if self.carry.is_empty() { room } else { HEAD_LENGTH.saturating_sub(self.carry.len()) };
            let came = chunk.get(..most).unwrap_or(chunk);
            let spared = match conversation.received(came, || self.clock.now()) {
                Ok(spared) => spared,
                Err(flood) => {
                    self.counters.count_flood(flood);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a flood of frames")));
                }
            };
            if self.carry.is_empty() {
                let (now, undecided) = came.split_at(came.len() - spared.undecided.min(came.len()));
                let mut at = 0;
                for frame in spared.frames {
                    cursor.put_slice(now.get(at..frame.start).unwrap_or_default());
                    at = frame.end;
                }
                cursor.put_slice(now.get(at..).unwrap_or_default());
                self.carry.extend_from_slice(undecided);
            } else {
                self.carry.extend_from_slice(came);
                if spared.begun {
                    self.carry.clear();
                } else if self.carry.len() >= HEAD_LENGTH {
                    self.approved = self.carry.len();
                }
            }
            let count = came.len();
            self.stream.consume(count);
            self.eof |= count == 0;
            self.progress.received(count);
            // Nothing at all would be the end.
            if self.eof || cursor.remaining() < room {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Hands approved bytes of the carry to hyper.
    fn pass_carry(&mut self, cursor: &mut ReadBufCursor<'_>) {
        let waiting = self.carry.get(self.carry_at..).unwrap_or_default();
        let count = self.approved.min(waiting.len()).min(cursor.remaining());
        cursor.put_slice(waiting.get(..count).unwrap_or_default());
        self.carry_at += count;
        self.approved -= count;
        if self.carry_at == self.carry.len() {
            self.carry = Vec::new();
            self.carry_at = 0;
            self.approved = 0;
        }
    }

    fn replace_head(&mut self, reason: Malformed) {
        let Mode::Guarded(framing) = &self.mode else { return };
        let index = framing.heads() + 1;
        self.counters.count_malformed(reason);
        self.progress.refuse(index, reason);
        self.progress.framed(index, false, false);
        self.replacement = REPLACEMENT;
        self.refused = true;
        self.carry = Vec::new();
        self.carry_at = 0;
    }

    /// Reads and drops what comes. Ready at its end; pending for good once the bound is reached.
    fn poll_drop(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.eof && self.dropped <= DROPPED_MAX {
            let count = ready!(self.stream.poll_fill(cx))?.len();
            self.stream.consume(count);
            self.dropped += count;
            self.eof = count == 0;
        }
        Poll::Ready(Ok(()))
    }

    /// The first `count` bytes of `slices` are on their way.
    fn note_written<'a>(&mut self, count: usize, slices: impl Iterator<Item = &'a [u8]>) {
        self.written_total += count as u64;
        let Mode::Http2(conversation) = &mut self.mode else { return };
        let mut left = count;
        for slice in slices {
            let written = slice.get(..left).unwrap_or(slice);
            conversation.sent(written, &self.counters);
            left -= written.len();
        }
        // What is owed may have changed while the read side waits.
        if self.progress.is_waiting() {
            self.progress.set_waiting(self.waiting());
        }
    }

    /// What the read side waits for when no bytes are there.
    fn waiting(&self) -> Waiting {
        match &self.mode {
            _ if self.refused => Waiting::Nothing,
            // First the body: a head left open beside it must not spare it its rate.
            Mode::Http2(conversation) if conversation.awaits_body(self.progress.tunnels()) => Waiting::Body,
            Mode::Http2(conversation) if conversation.awaits_head() => Waiting::Head,
            Mode::Http2(_) | Mode::Tunnel => Waiting::Message,
            Mode::Guarded(framing) if framing.in_body() => Waiting::Body,
            Mode::Guarded(_) if self.incomplete && !self.has_empty_line() => Waiting::Head,
            Mode::Guarded(_) => Waiting::Message,
        }
    }

    /// Whether all that came of a head is the empty line that some clients send behind a body (RFC 9112 section 2.2):
    /// that begins no request.
    fn has_empty_line(&self) -> bool {
        matches!(self.carry.get(self.carry_at..), Some(b"\r" | b"\r\n"))
    }

    /// Whether the client may still be sending something that nobody will read.
    fn leaves_bytes_behind(&self) -> bool {
        let unread = match &self.mode {
            Mode::Guarded(framing) => framing.in_body() || framing.is_broken() || self.incomplete,
            Mode::Http2(_) => true,
            Mode::Tunnel => false,
        };
        // An end that we told hyper ourselves is not the client's.
        let ended = self.eof && !self.progress.head_is_overdue();
        !ended && (unread || self.refused)
    }

    /// Takes what is to be said before the present request's answer. Called where hyper has nothing left to write: what
    /// came before is out, and of the answer nothing is made yet, for it is held back until this was taken.
    fn take_hints(&mut self, cx: &Context<'_>) {
        let Some(hints) = self.client.as_ref().map(|client| &client.hints).filter(|hints| hints.wait()) else { return };
        // Behind what a slow client has not taken yet of those before.
        self.hint.append(&mut hints.take());
        cx.waker().wake_by_ref();
    }

    /// Writes what is left of an interim answer. Nothing else may be written before it is whole.
    fn poll_hint(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.hint.get(self.hinted..).filter(|rest| !rest.is_empty()) {
            let count = ready!(self.stream.poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.hinted += count;
            self.written_total += count as u64;
        }
        (self.hint, self.hinted) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn farewell(&self) -> Vec<u8> {
        if !(self.progress.head_is_overdue() && self.incomplete) {
            return Vec::new();
        }
        let date = httpdate::fmt_http_date(self.clock.now().to_system_time());
        format!(
            "HTTP/1.1 408 Request Timeout\r\nDate: {date}\r\nCache-Control: no-store\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.ending = match &mut self.ending {
                Ending::Open => {
                    ready!(self.poll_hint(cx))?;
                    Ending::Farewell(self.farewell(), 0)
                }
                Ending::Farewell(text, written) if *written < text.len() => {
                    let rest = text.get(*written..).unwrap_or_default();
                    *written += ready!(self.stream.poll_write(cx, rest))?;
                    continue;
                }
                Ending::Farewell(..) => Ending::Flush,
                Ending::Flush => {
                    ready!(self.stream.poll_flush(cx))?;
                    ready!(self.stream.poll_shutdown(cx))?;
                    if self.leaves_bytes_behind() {
                        self.eof = false;
                        self.progress.set_waiting(Waiting::Close);
                        Ending::Linger
                    } else {
                        Ending::Done
                    }
                }
                Ending::Linger => {
                    // The sweep ends this if the client does not.
                    let _ = ready!(self.poll_drop(cx));
                    Ending::Done
                }
                Ending::Done => return Poll::Ready(Ok(())),
            };
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.counters.bytes_in.fetch_add(self.progress.bytes_received(), Relaxed);
        self.counters.bytes_out.fetch_add(self.written_total, Relaxed);
        self.progress.gone();
    }
}

impl Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<Result<(), io::Error>> {
        let this = self.get_mut();
        if cursor.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let outcome = this.poll_bytes(cx, &mut cursor);
        this.progress.set_waiting(if outcome.is_pending() { this.waiting() } else { Waiting::Nothing });
        outcome
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, io::Error>> {
        let this = self.get_mut();
        if !this.hint.is_empty() {
            ready!(this.poll_hint(cx))?;
        }
        let count = ready!(this.stream.poll_write(cx, bytes))?;
        this.note_written(count, std::iter::once(bytes));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        let this = self.get_mut();
        this.take_hints(cx);
        if !this.hint.is_empty() {
            ready!(this.poll_hint(cx))?;
        }
        this.stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        self.get_mut().poll_end(cx)
    }

    /// Plain sockets have `writev`; rustls makes one record of all slices.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<Result<usize, io::Error>> {
        let this = self.get_mut();
        if !this.hint.is_empty() {
            ready!(this.poll_hint(cx))?;
        }
        let outcome = match &mut this.stream {
            Stream::Plain(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Stream::Tls(io) => Pin::new(&mut **io).poll_write_vectored(cx, slices),
        };
        let count = ready!(outcome)?;
        this.note_written(count, slices.iter().map(|slice| &**slice));
        Poll::Ready(Ok(count))
    }
}

impl Stream {
    /// What came and was not consumed; empty at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self {
            Self::Plain(io) => Pin::new(io).poll_fill_buf(cx),
            Self::Tls(io) => {
                let (socket, session) = io.get_ref();
                // While an answer is under way this is asked as well, and there is nothing: TLS need not find that out.
                if session.wants_read() {
                    ready!(socket.poll_read_ready(cx))?;
                }
                Pin::new(&mut **io).poll_fill_buf(cx)
            }
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Plain(io) => Pin::new(io).consume(count),
            Self::Tls(io) => Pin::new(&mut **io).consume(count),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Tls(io) => Pin::new(&mut **io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(&mut **io).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(&mut **io).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            SocketIo::Tcp(io) => Pin::new(io).poll_read(cx, into),
            SocketIo::Unix(io) => Pin::new(io).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = match &mut this.io {
            SocketIo::Tcp(io) => Pin::new(io).poll_write(cx, bytes),
            SocketIo::Unix(io) => Pin::new(io).poll_write(cx, bytes),
        };
        this.note(outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets keep nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            SocketIo::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            SocketIo::Unix(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One TLS record, the usual case, is one slice: the plain call is the cheaper one.
        if let [slice] = slices {
            return self.poll_write(cx, slice);
        }
        let this = self.get_mut();
        let outcome = match &mut this.io {
            SocketIo::Tcp(io) => Pin::new(io).poll_write_vectored(cx, slices),
            SocketIo::Unix(io) => Pin::new(io).poll_write_vectored(cx, slices),
        };
        this.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// What hyper reads in place of a head that must not be believed.
const REPLACEMENT: &[u8] = b"GET / HTTP/1.1\r\nHost: malformed.invalid\r\nConnection: close\r\n\r\n";
/// Of a plain connection's read buffer: one system call for one TLS-sized piece.
const PLAIN_BUFFER: usize = 16 * 1024;
/// What is read after a refusal so that the client can read the answer: R19 bounds bodies nobody wants.
const DROPPED_MAX: usize = 64 * 1024;
