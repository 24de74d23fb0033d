//! Exchanges that outlast what they were permitted by are cut (R28): tunnels, event streams, long polls, downloads.
//!
//! Each worker keeps a table of what it has under way and looks through it a few times a second. An exchange enters
//! the table when it first has to wait for its upstream, and a body when it is not complete at once: an answer of our
//! own, a refusal and a public route never do. What it costs then is a slot that is used again and again; no timer,
//! no allocation, nothing that another worker sees.
//!
//! An exchange whose proof has ended is woken and finds that out. Before the head of an answer it becomes a 401; later
//! it breaks off, visibly for the client (R16); a client that takes nothing loses its connection. A request that
//! changes something and was permitted in time may still get its answer when its session merely runs out.

use std::{
    cell::RefCell,
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Poll, Waker},
    time::Duration,
};

use tokio::time::MissedTickBehavior;

use crate::{
    authn::proof::{Present, Proof, Standing},
    client::Connection,
    csrf,
    rate_limit::Slots,
    refusal::{BadCredential, Refusal},
    state::Live,
    upstream::Tunnel,
};

/// What one worker has under way.
#[derive(Default)]
pub(super) struct Exchanges(RefCell<Table>);

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

enum Slot {
    Free,
    /// Woken when its proof has ended.
    Exchange {
        proof: Proof,
        stage: Stage,
        waker: Waker,
        /// The client's.
        connection: Arc<Connection>,
        ended: Option<Ended>,
    },
    /// Ended from outside.
    Tunnel {
        proof: Proof,
        tunnel: Tunnel,
    },
}

/// How far an exchange is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// A request that may change something waits for its answer: it gets it, unless somebody ended its session.
    Acting,
    /// Any other request waits for its answer.
    Asking,
    /// The answer has begun.
    Answered,
}

/// The proof of one exchange had ended before the exchange had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// The session.
    Session,
    /// The token.
    Token,
    /// The API key.
    ApiKey,
    /// The client certificate.
    Certificate,
}

/// One exchange: as long as this lives, it is watched over.
pub(super) struct Watched {
    exchanges: Rc<Exchanges>,
    state: State,
    /// Its places among those under way, if they are counted.
    slots: Option<Rc<Slots>>,
}

enum State {
    /// It did not have to wait yet.
    Fresh(Proof, Stage, Arc<Connection>),
    /// It is in the table.
    Listed(usize),
    /// Nothing to watch: nobody had to prove anything, or it may go on in any case.
    Unbound,
}

impl Exchanges {
    /// Watches over one exchange; without a proof there is nothing to do.
    pub(super) fn watch(self: &Rc<Self>, proof: Option<Proof>, stage: Stage, connection: &Arc<Connection>) -> Watched {
        let state = proof.map_or(State::Unbound, |proof| State::Fresh(proof, stage, Arc::clone(connection)));
        Watched { exchanges: Rc::clone(self), state, slots: None }
    }

    /// Looks through the table for as long as it is polled.
    pub(super) async fn sweep(self: Rc<Self>, live: Arc<Live>) {
        let mut interval = tokio::time::interval(SWEEP_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if self.0.borrow().is_idle() {
                continue;
            }
            let (snapshot, shared) = (live.snapshot(), &live.shared);
            let present = Present {
                sessions: &snapshot.session,
                api_keys: snapshot.keys(shared),
                authorities: &snapshot.mtls.authorities,
                revocations: &shared.revocations,
                now: shared.clock.now(),
            };
            let cut = self.0.borrow_mut().judge(&present);
            live.shared.exchanges_cut.fetch_add(cut, Relaxed);
        }
    }
}

impl Table {
    fn is_idle(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    fn insert(&mut self, slot: Slot) -> usize {
        if let Some(index) = self.free.pop()
            && let Some(place) = self.slots.get_mut(index)
        {
            *place = slot;
            return index;
        }
        self.slots.push(slot);
        self.slots.len() - 1
    }

    fn take(&mut self, index: usize) -> Slot {
        let Some(place) = self.slots.get_mut(index) else { return Slot::Free };
        self.free.push(index);
        std::mem::replace(place, Slot::Free)
    }

    /// Ends what has lost its proof, and forgets tunnels that are gone. Returns how many it ended.
    fn judge(&mut self, present: &Present<'_>) -> u64 {
        let mut cut = 0;
        for index in 0..self.slots.len() {
            let gone = match self.slots.get_mut(index) {
                // Woken before, and still there: its client takes nothing, so nobody asks it for more.
                Some(Slot::Exchange { stage: Stage::Answered, connection, ended: Some(_), .. }) => {
                    connection.cutter.cut();
                    false
                }
                Some(Slot::Exchange { proof, stage, waker, ended, .. }) if ended.is_none() => {
                    let (standing, proof) = proof.standing(present);
                    if stage.is_over(standing) {
                        *ended = Some(Ended::of(proof));
                        cut += 1;
                        waker.wake_by_ref();
                    }
                    false
                }
                Some(Slot::Tunnel { proof, tunnel }) => {
                    let over = Stage::Answered.is_over(proof.standing(present).0);
                    if over && tunnel.is_open() {
                        cut += 1;
                        tunnel.end();
                    }
                    over || !tunnel.is_open()
                }
                Some(Slot::Free | Slot::Exchange { .. }) | None => false,
            };
            if gone {
                self.take(index);
            }
        }
        cut
    }
}

impl Stage {
    /// Of a request with this method that waits for its answer.
    pub(super) fn of(method: &http::Method) -> Self {
        if csrf::is_safe(method) { Self::Asking } else { Self::Acting }
    }

    const fn is_over(self, standing: Standing) -> bool {
        match (self, standing) {
            (_, Standing::Holds) | (Self::Acting, Standing::Expired) => false,
            (_, Standing::Revoked) | (Self::Asking | Self::Answered, Standing::Expired) => true,
        }
    }
}

impl Watched {
    /// Waits for `future`, but not longer than the proof holds.
    pub(super) async fn until_ended<F: Future>(&mut self, future: F) -> Result<F::Output, Ended> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_ended(cx.waker()).map(Err),
        })
        .await
    }

    /// The answer's head is there: what follows is read, whatever was asked. To have a head it had to wait, so it is in
    /// the table.
    pub(super) fn answered(&mut self) {
        if let State::Listed(index) = self.state
            && let Some(Slot::Exchange { stage, .. }) = self.exchanges.0.borrow_mut().slots.get_mut(index)
        {
            *stage = Stage::Answered;
        }
    }

    /// Whether the session behind it has ended only to go on with other roles. The same request is judged by these when
    /// it comes again, and nobody has to log in.
    pub(super) fn goes_on(&self, live: &Live) -> bool {
        let State::Listed(index) = self.state else { return false };
        let table = self.exchanges.0.borrow();
        let Some(Slot::Exchange { proof, ended: Some(Ended::Session), .. }) = table.slots.get(index) else {
            return false;
        };
        let Some(session) = proof.session() else { return false };
        let (snapshot, now) = (live.snapshot(), live.shared.clock.now());
        live.shared.sessions.find(session.key()).is_some_and(|session| !session.is_expired(&snapshot.session, now))
    }

    /// Goes on with a tunnel that this exchange has opened.
    pub(super) fn follow(&mut self, tunnel: Tunnel) {
        if let Some(proof) = self.take_proof() {
            self.exchanges.0.borrow_mut().insert(Slot::Tunnel { proof, tunnel });
        }
    }

    /// Keeps its places until it ends.
    pub(super) fn hold(&mut self, slots: Option<Slots>) {
        self.slots = slots.map(Rc::new);
    }

    /// The places that it keeps, for a tunnel that outlasts the answer.
    pub(super) fn held(&self) -> Option<Rc<Slots>> {
        self.slots.clone()
    }

    /// From here on it ends by itself only.
    pub(super) fn unbind(&mut self) {
        self.take_proof();
    }

    /// Ready when the proof has ended; else `waker` is woken when it does.
    pub(super) fn poll_ended(&mut self, waker: &Waker) -> Poll<Ended> {
        match std::mem::replace(&mut self.state, State::Unbound) {
            State::Unbound => return Poll::Pending,
            State::Fresh(proof, stage, connection) => {
                let slot = Slot::Exchange { proof, stage, waker: waker.clone(), connection, ended: None };
                self.state = State::Listed(self.exchanges.0.borrow_mut().insert(slot));
                return Poll::Pending;
            }
            State::Listed(index) => self.state = State::Listed(index),
        }
        let State::Listed(index) = self.state else { return Poll::Pending };
        match self.exchanges.0.borrow_mut().slots.get_mut(index) {
            Some(Slot::Exchange { ended: Some(ended), .. }) => Poll::Ready(*ended),
            Some(Slot::Exchange { waker: known, .. }) => {
                known.clone_from(waker);
                Poll::Pending
            }
            Some(Slot::Free | Slot::Tunnel { .. }) | None => Poll::Pending,
        }
    }

    fn take_proof(&mut self) -> Option<Proof> {
        match std::mem::replace(&mut self.state, State::Unbound) {
            State::Fresh(proof, _, _) => Some(proof),
            State::Listed(index) => match self.exchanges.0.borrow_mut().take(index) {
                Slot::Exchange { proof, .. } => Some(proof),
                Slot::Free | Slot::Tunnel { .. } => None,
            },
            State::Unbound => None,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let State::Listed(_) = self.state {
            self.take_proof();
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("bound", &!matches!(self.state, State::Unbound)).finish_non_exhaustive()
    }
}

impl Ended {
    const fn of(proof: &Proof) -> Self {
        match proof {
            Proof::ApiKey(_) => Self::ApiKey,
            // Of several, the one that has ended is told by itself; there are never none.
            Proof::Certificate(_) | Proof::Each(_) => Self::Certificate,
            Proof::Session(_) => Self::Session,
            Proof::Token { .. } => Self::Token,
        }
    }

    /// The word for logs and metrics.
    pub(super) fn reason(self) -> &'static str {
        Refusal::BadCredential(self.credential()).reason()
    }

    const fn credential(self) -> BadCredential {
        match self {
            Self::Session => BadCredential::Session,
            Self::Token => BadCredential::Bearer("token_ended"),
            Self::ApiKey => BadCredential::Bearer("api_key_ended"),
            Self::Certificate => BadCredential::Certificate("certificate_ended"),
        }
    }
}

impl From<Ended> for Refusal {
    fn from(ended: Ended) -> Self {
        Self::BadCredential(ended.credential())
    }
}

/// A revocation is felt within this time and what it takes to wake a task.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
