//! What one connection is doing, as seen from outside its task, and the deadlines that follow from it (R19).
//!
//! The IO path writes a few relaxed atomics of [`Progress`]; one coarse sweep per worker reads them for all connections
//! and decides who is too slow. No timer is ever made for a request. All clocks here run in sweeps: a deadline is kept
//! to within one sweep. A connection that has had nothing to do is told that it may rest. Everything happens on one
//! thread; atomics only because hyper's upgrades want `Send`.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

use crate::{
    edge::{Counters, Limits},
    inbound::Malformed,
};

/// What the read side of a connection waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Waiting {
    /// Nothing: bytes are there, or nobody asks for them.
    Nothing = 0,
    /// The end of the TLS handshake.
    Handshake,
    /// The first byte of a message.
    Message,
    /// The rest of a head.
    Head,
    /// More of a body.
    Body,
    /// The client's end, after ours.
    Close,
}

/// What became of a request that asked to leave HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Upgrade {
    /// Its answer is not there yet, or none asked.
    Undecided,
    /// 101: the connection is a tunnel.
    Granted,
    /// Any other answer: HTTP goes on.
    Refused,
}

/// What is known of whether a client is still there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Presence {
    /// It speaks nothing in which it could be asked.
    Unasked = 0,
    /// It is taken to be.
    Told,
    /// It is to be asked.
    Questioned,
    /// It was asked and has not answered.
    GivenUp,
}

/// Shared by a connection's IO, its HTTP service and the sweep.
#[derive(Debug)]
pub(crate) struct Progress {
    waiting: AtomicU8,
    write_blocked: AtomicBool,
    /// Bytes that the socket took.
    sent: AtomicU64,
    /// Bytes of messages that came, plain.
    received: AtomicU64,
    /// Requests whose answer is not complete.
    in_flight: AtomicU32,
    /// Streams that are tunnels, or ask to be.
    tunnels: AtomicU32,
    /// Heads passed, refused ones included.
    heads: AtomicU64,
    /// The head whose body is not complete; 0: none.
    body_of: AtomicU64,
    /// The head that asked to leave HTTP last; 0: none.
    upgrade_of: AtomicU64,
    upgrade: AtomicU8,
    /// The head that was refused, and why. Nothing is read after it.
    bad: OnceLock<(u64, Malformed)>,
    closing: AtomicBool,
    winding_down: AtomicBool,
    head_overdue: AtomicBool,
    /// Nothing has been asked for a while.
    may_rest: AtomicBool,
    gone: AtomicBool,
    /// Whether its client is there, where that can be asked.
    presence: AtomicU8,
    waker: OnceLock<Waker>,
}

impl Progress {
    /// Of a connection that begins with `waiting`.
    pub(crate) fn new(waiting: Waiting) -> Self {
        Self {
            waiting: AtomicU8::new(waiting as u8),
            write_blocked: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            tunnels: AtomicU32::new(0),
            heads: AtomicU64::new(0),
            body_of: AtomicU64::new(0),
            upgrade_of: AtomicU64::new(0),
            upgrade: AtomicU8::new(0),
            bad: OnceLock::new(),
            closing: AtomicBool::new(false),
            winding_down: AtomicBool::new(false),
            head_overdue: AtomicBool::new(false),
            may_rest: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            presence: AtomicU8::new(Presence::Unasked as u8),
            waker: OnceLock::new(),
        }
    }

    pub(crate) fn set_waiting(&self, waiting: Waiting) {
        self.waiting.store(waiting as u8, Relaxed);
    }

    /// Whether the read side waits for anything.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting() != Waiting::Nothing
    }

    fn waiting(&self) -> Waiting {
        const ALL: [Waiting; 6] =
            [Waiting::Nothing, Waiting::Handshake, Waiting::Message, Waiting::Head, Waiting::Body, Waiting::Close];
        ALL.get(usize::from(self.waiting.load(Relaxed))).copied().unwrap_or(Waiting::Nothing)
    }

    /// The socket took `count` bytes.
    pub(crate) fn sent(&self, count: usize) {
        bump(&self.sent, count);
        self.write_blocked.store(false, Relaxed);
    }

    /// The socket takes nothing at present.
    pub(crate) fn write_blocked(&self) {
        self.write_blocked.store(true, Relaxed);
    }

    /// `count` bytes of messages came.
    pub(crate) fn received(&self, count: usize) {
        bump(&self.received, count);
    }

    pub(crate) fn bytes_received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Where the framing stands after a step.
    pub(crate) fn framed(&self, heads: u64, in_body: bool, asks_upgrade: bool) {
        self.body_of.store(if in_body { heads } else { 0 }, Relaxed);
        if self.heads.load(Relaxed) != heads {
            self.heads.store(heads, Relaxed);
            if asks_upgrade {
                self.upgrade_of.store(heads, Relaxed);
                self.upgrade.store(0, Relaxed);
            }
        }
    }

    /// Whether part of the body of request number `index` has not come yet.
    pub(crate) fn body_is_open(&self, index: u64) -> bool {
        self.body_of.load(Relaxed) == index
    }

    /// Head number `index` is bad, and nothing behind it counts.
    pub(crate) fn refuse(&self, index: u64, reason: Malformed) {
        // Only one head per connection can be refused, since nothing is read after it.
        let _ = self.bad.set((index, reason));
    }

    /// What was wrong with head number `index`.
    pub(crate) fn malformed(&self, index: u64) -> Option<Malformed> {
        self.bad.get().filter(|(bad, _)| *bad == index).map(|(_, reason)| *reason)
    }

    /// What became of the last request that asked to leave HTTP.
    pub(crate) fn upgrade(&self) -> Upgrade {
        match self.upgrade.load(Relaxed) {
            1 => Upgrade::Granted,
            2 => Upgrade::Refused,
            _ => Upgrade::Undecided,
        }
    }

    /// Request number `index` was answered, with 101 or not.
    pub(crate) fn answered(&self, index: u64, granted: bool) {
        if self.upgrade_of.load(Relaxed) == index {
            self.upgrade.store(if granted { 1 } else { 2 }, Relaxed);
            self.wake();
        }
    }

    pub(crate) fn begin_request(&self) {
        self.in_flight.store(self.in_flight.load(Relaxed) + 1, Relaxed);
    }

    pub(crate) fn end_request(&self) {
        self.in_flight.store(self.in_flight.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// A stream asks to be a tunnel: from here on its pauses are its owner's matter.
    pub(crate) fn begin_tunnel(&self) {
        self.tunnels.store(self.tunnels.load(Relaxed) + 1, Relaxed);
        self.wake();
    }

    pub(crate) fn end_tunnel(&self) {
        self.tunnels.store(self.tunnels.load(Relaxed).saturating_sub(1), Relaxed);
        self.wake();
    }

    pub(crate) fn tunnels(&self) -> u32 {
        self.tunnels.load(Relaxed)
    }

    /// Asks the connection to end when its requests are answered.
    pub(crate) fn close(&self) {
        if !self.closing.swap(true, Relaxed) {
            self.wake();
        }
    }

    /// Asks the connection to end with its next answer; until then it is not idle.
    pub(crate) fn wind_down(&self) {
        self.winding_down.store(true, Relaxed);
        self.wake();
    }

    pub(crate) fn is_winding_down(&self) -> bool {
        self.winding_down.load(Relaxed)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Whether the head that was begun took too long and is answered with 408.
    pub(crate) fn head_is_overdue(&self) -> bool {
        self.head_overdue.load(Relaxed)
    }

    /// Whether the connection has had nothing to do for a while, and has nothing now. Asked once for each such while.
    pub(crate) fn rests(&self) -> bool {
        self.may_rest.load(Relaxed) && {
            self.may_rest.store(false, Relaxed);
            self.waiting() == Waiting::Message && self.is_idle() && !self.is_closing()
        }
    }

    /// Neither is an answer owed, nor is one stuck on its way.
    fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0 && !self.write_blocked.load(Relaxed)
    }

    /// Whoever serves the connection can ask its client whether it is there.
    pub(crate) fn can_be_asked(&self) {
        self.presence.store(Presence::Told as u8, Relaxed);
    }

    /// Whether to ask the client now. Once for each question.
    pub(crate) fn takes_question(&self) -> bool {
        self.presence.load(Relaxed) == Presence::Questioned as u8 && {
            self.presence.store(Presence::Told as u8, Relaxed);
            true
        }
    }

    /// Whether the client did not answer.
    pub(crate) fn is_given_up(&self) -> bool {
        self.presence.load(Relaxed) == Presence::GivenUp as u8
    }

    fn can_ask(&self) -> bool {
        self.presence.load(Relaxed) != Presence::Unasked as u8
    }

    fn note_presence(&self, presence: Presence) {
        self.presence.store(presence as u8, Relaxed);
        self.wake();
    }

    /// The socket is closed.
    pub(crate) fn gone(&self) {
        self.gone.store(true, Relaxed);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// Whose task to wake. A task's waker stays the same for its life, so the first one is kept.
    pub(crate) fn remember(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            let _ = self.waker.set(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// One connection as the sweep keeps it.
#[derive(Debug)]
pub(crate) struct Watched {
    progress: Arc<Progress>,
    task: AbortHandle,
    /// The read side's state when it last changed, and when that was.
    quiet: (Waiting, u64),
    quiet_since: Instant,
    /// It was told that it may rest.
    rests: bool,
    sent: u64,
    sent_since: Instant,
    /// How long a body was waited for in this window, and what had come when it began.
    body_waited: Duration,
    body_received: u64,
    closing_since: Option<Instant>,
    /// What had come when anything came last, and how long that is ago, in swept time.
    heard: u64,
    silent: Duration,
    swept: Instant,
}

impl Watched {
    /// From `now` on.
    pub(crate) fn new(progress: Arc<Progress>, task: AbortHandle, now: Instant) -> Self {
        Self {
            progress,
            task,
            quiet: (Waiting::Nothing, 0),
            quiet_since: now,
            rests: false,
            sent: 0,
            sent_since: now,
            body_waited: Duration::ZERO,
            body_received: 0,
            closing_since: None,
            heard: 0,
            silent: Duration::ZERO,
            swept: now,
        }
    }

    /// Asks for its end.
    pub(crate) fn close(&self) {
        self.progress.close();
    }

    /// Asks for its end with its next answer.
    pub(crate) fn wind_down(&self) {
        self.progress.wind_down();
    }

    /// Judges one connection; `false` when it is no more.
    pub(crate) fn sweep(&mut self, now: Instant, limits: &Limits, counters: &Counters) -> bool {
        let progress = Arc::clone(&self.progress);
        if progress.is_gone() {
            return false;
        }
        let elapsed = now.saturating_duration_since(self.swept);
        self.swept = now;
        if progress.upgrade() == Upgrade::Granted {
            // A tunnel's pauses are its owner's matter.
            return true;
        }
        self.judge_reading(now, elapsed, limits, counters);
        self.judge_writing(now, limits, counters);
        self.judge_silence(elapsed);
        if progress.is_closing() && progress.is_idle() {
            let since = *self.closing_since.get_or_insert(now);
            if now.saturating_duration_since(since) > CLOSE_PATIENCE {
                self.task.abort();
            }
        } else {
            self.closing_since = None;
        }
        true
    }

    fn judge_reading(&mut self, now: Instant, elapsed: Duration, limits: &Limits, counters: &Counters) {
        let waiting = self.progress.waiting();
        // While an answer is under way, what comes next is not late.
        let busy = self.progress.in_flight.load(Relaxed) > 0;
        let quiet = (waiting, self.progress.heads.load(Relaxed));
        if self.quiet != quiet || (busy && waiting != Waiting::Close) {
            self.quiet = quiet;
            self.quiet_since = now;
            self.rests = false;
        }
        let pause = now.saturating_duration_since(self.quiet_since);
        match waiting {
            Waiting::Nothing => {}
            Waiting::Handshake if pause > limits.handshake_timeout => {
                counters.timeout_handshake.fetch_add(1, Relaxed);
                self.task.abort();
            }
            Waiting::Head if pause > limits.header_timeout && !self.progress.head_overdue.swap(true, Relaxed) => {
                counters.timeout_head.fetch_add(1, Relaxed);
                self.progress.close();
                self.progress.wake();
            }
            Waiting::Message if pause > limits.idle_timeout && !self.progress.is_closing() => {
                counters.timeout_idle.fetch_add(1, Relaxed);
                self.progress.close();
            }
            Waiting::Message if pause > limits.rest_after && !std::mem::replace(&mut self.rests, true) => {
                self.progress.may_rest.store(true, Relaxed);
                self.progress.wake();
            }
            Waiting::Close if pause > CLOSE_PATIENCE => self.task.abort(),
            Waiting::Body => self.judge_body(elapsed, limits, counters),
            Waiting::Handshake | Waiting::Head | Waiting::Message | Waiting::Close => {}
        }
        if waiting != Waiting::Body && !self.progress.body_is_expected() {
            self.body_waited = Duration::ZERO;
            self.body_received = self.progress.bytes_received();
        }
    }

    fn judge_body(&mut self, elapsed: Duration, limits: &Limits, counters: &Counters) {
        self.body_waited += elapsed;
        if self.body_waited < limits.body_window {
            return;
        }
        let received = self.progress.bytes_received();
        let gained = received.saturating_sub(self.body_received);
        if gained < limits.body_min_rate.saturating_mul(limits.body_window.as_millis() as u64) / 1000 {
            counters.timeout_body.fetch_add(1, Relaxed);
            self.task.abort();
        }
        self.body_waited = Duration::ZERO;
        self.body_received = received;
    }

    /// Asks a client of whom nothing has come for long, and gives up one who does not answer. A worker that was held up
    /// has not listened meanwhile: of such a pause no more counts than of any other.
    fn judge_silence(&mut self, elapsed: Duration) {
        let received = self.progress.bytes_received();
        if self.heard != received || !self.progress.can_ask() {
            self.heard = received;
            self.silent = Duration::ZERO;
            return;
        }
        let before = self.silent;
        self.silent += elapsed.min(SWEPT_MOST);
        let reached = |limit: Duration| before < limit && self.silent >= limit;
        if reached(ASK_AFTER) {
            self.progress.note_presence(Presence::Questioned);
        }
        if reached(ASK_AFTER + ANSWER_TIME) {
            self.progress.note_presence(Presence::GivenUp);
        }
    }

    fn judge_writing(&mut self, now: Instant, limits: &Limits, counters: &Counters) {
        let sent = self.progress.bytes_sent();
        if sent != self.sent || !self.progress.write_blocked.load(Relaxed) {
            self.sent = sent;
            self.sent_since = now;
        } else if now.saturating_duration_since(self.sent_since) > limits.write_timeout {
            counters.timeout_write.fetch_add(1, Relaxed);
            self.task.abort();
        }
    }
}

impl Progress {
    fn body_is_expected(&self) -> bool {
        self.body_of.load(Relaxed) != 0
    }
}

/// All of it happens on one thread, so a locked addition would be waste.
fn bump(counter: &AtomicU64, by: usize) {
    counter.store(counter.load(Relaxed).wrapping_add(by as u64), Relaxed);
}

/// The silence after which a client is asked whether it is there.
const ASK_AFTER: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });
/// How long it has to say so.
const ANSWER_TIME: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 20 });
/// What counts of the time between two sweeps: they are a quarter of a second apart at most.
const SWEPT_MOST: Duration = Duration::from_secs(1);
/// How long a connection that has nothing more to say waits for the client to go.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
