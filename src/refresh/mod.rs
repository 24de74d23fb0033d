//! Families of refresh tokens: what a client keeps to get further access tokens with, for as long as a session lives.
//!
//! A family begins with a session and a client, and has one token that opens at any time; whoever shows it gets the
//! next one in its place. In: what a client sent, and from where. Out: the family, and the token that follows.
//! Invariants: of a token only the SHA-256 is kept; of one token there is one successor, however often, by how many at
//! once and across restarts it is asked for; a token that was spent longer ago than [`GRACE`], or that somebody else
//! shows, ends its family; a family that has ended never comes back; what is answered is on disk before.
//!
//! RFC 6749 section 6, RFC 9700 section 4.14.2 (rotation and reuse).

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{
    clock::Timestamp,
    durable::{self, Batch, Durable, LoadError, Table, Unavailable},
    secret::{self, constant_time_eq},
    session::{BuildKeyHasher, SessionKey},
};

mod record;
mod token;

use token::{Digest, Seal};
pub use token::{FamilyId, PREFIX, RefreshToken};

/// All families.
pub struct Families {
    memory: Arc<Memory>,
    durable: Option<Durable>,
}

/// One family. Immutable but for which of its tokens opens.
pub struct Family {
    id: FamilyId,
    client: Box<str>,
    session: SessionKey,
    delivery: Delivery,
    /// SHA-256, as RFC 7638 has it. Boxed: most families have none.
    key: Option<Box<[u8; 32]>>,
    began: Timestamp,
    seal: Seal,
    ended: AtomicBool,
    /// A plain lock, held for a few comparisons by requests that refresh.
    state: Mutex<State>,
}

/// How a family's tokens reach its client, and so how they have to come back.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// In the body of an answer: a program that keeps them.
    Body,
    /// In a cookie that no script can read.
    Cookie,
}

/// What a family begins with.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The session that it lives with.
    pub session: &'a SessionKey,
    /// The id of the client.
    pub client: &'a str,
    /// How its tokens travel.
    pub delivery: Delivery,
    /// The key that its tokens are bound to.
    pub key: Option<[u8; 32]>,
}

/// What has become of a token.
#[derive(Debug)]
pub enum Rotated {
    /// This one opens from now on.
    Next(RefreshToken),
    /// It was spent before, or somebody else had it: its family has ended.
    Reused,
    /// It opens nothing.
    Void,
    /// Somebody else is showing the same token at this very moment.
    Busy,
}

/// A family cannot begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BeginError {
    /// There are as many as there may be.
    Full,
    /// It could not be written to disk.
    Unavailable,
}

impl From<Unavailable> for BeginError {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

#[derive(Clone)]
struct State {
    /// Of the token that opens.
    current: Digest,
    /// When it came to do so.
    refreshed: Timestamp,
    /// Tokens that were spent a moment ago, the latest last.
    recent: SmallVec<[Step; 1]>,
    /// The step from the token that opens, which is on its way to the disk.
    pending: Option<Step>,
}

/// From one token to the next.
#[derive(Clone)]
struct Step {
    /// The token that is spent with it.
    spent: Digest,
    nonce: [u8; 32],
    at: Timestamp,
    /// Whose it was.
    network: IpAddr,
}

/// What to do with a token that was shown.
enum Plan {
    /// Take this step; the state after it is for the disk.
    Step(Step, Box<State>),
    /// It was taken already.
    Taken([u8; 32]),
    Reused,
    Busy,
}

struct Memory {
    by_id: DashMap<FamilyId, Arc<Family>, RandomState>,
    by_session: DashMap<SessionKey, SmallVec<[Arc<Family>; 1]>, BuildKeyHasher>,
    count: AtomicUsize,
}

impl Families {
    /// None yet; a restart forgets them.
    pub fn in_memory() -> Self {
        Self { memory: Arc::new(Memory::new()), durable: None }
    }

    /// Those that are on disk and whose session lives. Reads from disk: not for workers.
    ///
    /// # Errors
    /// [`LoadError`] when they cannot be read.
    pub fn restored(durable: Durable, lives: impl Fn(&SessionKey) -> bool) -> Result<Self, LoadError> {
        let memory = Memory::new();
        let mut gone = Vec::new();
        durable.load(Table::Refresh, |key, text| {
            let family = record::read(key, text)?;
            if lives(&family.session) {
                memory.insert(&Arc::new(family));
            } else {
                gone.push(family.id);
            }
            Ok(())
        })?;
        durable.later(record::ended(&gone));
        Ok(Self { memory: Arc::new(memory), durable: Some(durable) })
    }

    /// Makes memory hold what another process has changed, which has written it. `replaces`: it is nothing where there
    /// is no such family.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn follow(&self, key: &[u8], record: Option<&[u8]>, replaces: bool) -> Result<(), &'static str> {
        let id = FamilyId::from_bytes(key).ok_or("a key is no name of a family")?;
        let known = self.find(&id);
        let Some(text) = record else {
            known.iter().for_each(|known| self.memory.end(known));
            return Ok(());
        };
        let new = Arc::new(record::read(key, text)?);
        match known {
            Some(known) => *known.state() = new.state().clone(),
            None if replaces => {}
            None => self.memory.insert(&new),
        }
        Ok(())
    }

    /// A new family of a session. Where the session has [`MAX_PER_SESSION`] of this client already, its oldest ends.
    ///
    /// # Errors
    /// [`BeginError`]; nothing has begun, and nothing has ended.
    pub async fn begin(
        &self,
        opening: Opening<'_>,
        limit: usize,
        now: Timestamp,
    ) -> Result<(Arc<Family>, RefreshToken), BeginError> {
        let Opening { session, client, .. } = opening;
        let (id, seal) = (FamilyId::generate(), secret::random());
        let token = RefreshToken::first(id, &seal);
        let state = State { current: token.digest(), refreshed: now, recent: SmallVec::new(), pending: None };
        let family = Arc::new(Family::with(id, opening, now, seal, state.clone()));
        let mut theirs = self.of_session(session);
        theirs.retain(|other| *other.client == *client);
        theirs.sort_by_key(|other| other.began);
        let surplus = (theirs.len() + 1).saturating_sub(MAX_PER_SESSION);
        let ending: Vec<_> = theirs.into_iter().take(surplus).collect();
        if ending.is_empty() && self.len() >= limit {
            return Err(BeginError::Full);
        }
        let began = |batch: Batch| ending.iter().fold(batch, |batch, old| batch.remove(Table::Refresh, old.id.bytes()));
        let batch = self.batch(|| began(record::began(&family, &state)));
        let new = Arc::clone(&family);
        let inserted = self.change(batch, move |memory| {
            ending.iter().for_each(|old| memory.end(old));
            memory.insert(&new);
            memory.end_surplus(&new)
        });
        // Others were as fast.
        let surplus = inserted.await?;
        if !surplus.is_empty() {
            self.change(self.batch(|| record::ended(&surplus)), |_| ()).await?;
        }
        Ok((family, token))
    }

    /// The family that a token is of, whether or not it opens: it was made for it at some time. `None`: of none.
    pub fn of_token(&self, token: &RefreshToken) -> Option<Arc<Family>> {
        self.find(&token.family()).filter(|family| token.is_of(&family.seal))
    }

    /// A family that has not ended.
    pub fn find(&self, id: &FamilyId) -> Option<Arc<Family>> {
        self.memory.by_id.get(id).map(|family| Arc::clone(&family))
    }

    /// The families of a session.
    pub fn of_session(&self, session: &SessionKey) -> Vec<Arc<Family>> {
        self.memory.by_session.get(session).map(|families| families.to_vec()).unwrap_or_default()
    }

    /// Exchanges a token for the one that follows it. To be asked only of a family that [`Self::of_token`] gave.
    ///
    /// # Errors
    /// [`Unavailable`]: nothing has changed, and the token opens as it did; or its family has ended, and that is not
    /// on disk yet.
    pub async fn rotate(
        &self,
        family: &Arc<Family>,
        token: &RefreshToken,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<Rotated, Unavailable> {
        if family.is_ended() || !token.is_of(&family.seal) {
            return Ok(Rotated::Void);
        }
        let nonce = match family.plan(token, network(address), now) {
            Plan::Busy => return Ok(Rotated::Busy),
            Plan::Reused => {
                self.end(family).await?;
                return Ok(Rotated::Reused);
            }
            Plan::Taken(nonce) => nonce,
            Plan::Step(step, after) => {
                let nonce = step.nonce;
                let batch = self.batch(|| record::went_on(family, &after));
                let (moved, current) = (Arc::clone(family), after.current);
                self.change(batch, move |_| moved.take(step, current, now)).await?;
                nonce
            }
        };
        // Somebody may have ended it while the disk was busy.
        if family.is_ended() {
            return Ok(Rotated::Void);
        }
        Ok(Rotated::Next(token.successor(&nonce, &family.seal)))
    }

    /// Ends a family, for good: in this process at once.
    ///
    /// # Errors
    /// [`Unavailable`]: it has ended, and a restart may bring it back; the disk will hear of it later.
    pub async fn end(&self, family: &Family) -> Result<(), Unavailable> {
        self.memory.end(family);
        let Some(durable) = &self.durable else {
            return Ok(());
        };
        durable.commit(record::ended([&family.id])).await.inspect_err(|_| durable.later(record::ended([&family.id])))
    }

    /// Ends the families whose session has ended. Looks at all of them: not for workers.
    pub fn sweep(&self, lives: impl Fn(&SessionKey) -> bool) {
        let sessions: Vec<SessionKey> =
            self.memory.by_session.iter().map(|entry| *entry.key()).filter(|session| !lives(session)).collect();
        let mut gone = Vec::new();
        for session in sessions {
            for family in self.of_session(&session) {
                self.memory.end(&family);
                gone.push(family.id);
            }
        }
        if let Some(durable) = &self.durable {
            durable.later(record::ended(&gone));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.memory.count.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Onto the disk first, then into memory, in the same order.
    async fn change<T: Send + 'static>(
        &self,
        batch: Batch,
        then: impl FnOnce(&Memory) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        durable::change(self.durable.as_ref(), batch, &self.memory, then).await
    }

    /// Without a disk no batch need be made.
    fn batch(&self, make: impl FnOnce() -> Batch) -> Batch {
        if self.durable.is_some() { make() } else { Batch::new() }
    }
}

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Families").field("families", &self.len()).finish_non_exhaustive()
    }
}

impl Family {
    fn with(id: FamilyId, opening: Opening<'_>, began: Timestamp, seal: Seal, state: State) -> Self {
        let Opening { session, client, delivery, key } = opening;
        let (client, session, key) = (client.into(), *session, key.map(Box::new));
        let (ended, state) = (AtomicBool::new(false), Mutex::new(state));
        Self { id, client, session, delivery, key, began, seal, ended, state }
    }

    /// The key that its tokens are bound to: whoever shows one proves to hold it (RFC 9449 section 5).
    pub fn key(&self) -> Option<[u8; 32]> {
        self.key.as_deref().copied()
    }

    /// What names it.
    pub const fn id(&self) -> FamilyId {
        self.id
    }

    /// The id of the client that it is for.
    pub const fn client(&self) -> &str {
        &self.client
    }

    /// The session that it lives with.
    pub const fn session(&self) -> &SessionKey {
        &self.session
    }

    /// How its tokens travel.
    pub const fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// When it began.
    pub const fn began(&self) -> Timestamp {
        self.began
    }

    /// When its present token came to open.
    pub fn refreshed(&self) -> Timestamp {
        self.state().refreshed
    }

    /// Whether it was ended. What holds on to it asks this again and again.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether this is the token that opens at present.
    pub fn is_current(&self, token: &RefreshToken) -> bool {
        !self.is_ended() && constant_time_eq(&self.state().current, &token.digest())
    }

    fn plan(&self, token: &RefreshToken, network: IpAddr, now: Timestamp) -> Plan {
        let digest = token.digest();
        let mut state = self.state();
        if constant_time_eq(&state.current, &digest) {
            let fresh = || Step { spent: digest, nonce: secret::random(), at: now, network };
            let step = state.pending.get_or_insert_with(fresh);
            if step.network != network {
                // It has not been taken: where the disk fails, somebody may come again from elsewhere.
                if is_within_grace(step.at, now) {
                    return Plan::Busy;
                }
                (step.at, step.network) = (now, network);
            }
            let step = step.clone();
            let mut after = state.clone();
            after.advance(step.clone(), token.successor(&step.nonce, &self.seal).digest(), now);
            return Plan::Step(step, Box::new(after));
        }
        match state.recent.iter().find(|step| constant_time_eq(&step.spent, &digest)) {
            Some(step) if is_within_grace(step.at, now) && step.network == network => Plan::Taken(step.nonce),
            Some(_) | None => Plan::Reused,
        }
    }

    /// Takes a step, unless it was taken already.
    fn take(&self, step: Step, current: Digest, now: Timestamp) {
        let mut state = self.state();
        if state.current == step.spent {
            state.advance(step, current, now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("id", &self.id).field("client", &self.client).finish_non_exhaustive()
    }
}

impl State {
    fn advance(&mut self, step: Step, current: Digest, now: Timestamp) {
        self.recent.retain(|step| is_within_grace(step.at, now));
        if self.recent.len() >= MAX_RECENT {
            self.recent.remove(0);
        }
        self.recent.push(step);
        (self.current, self.refreshed, self.pending) = (current, now, None);
    }
}

impl Memory {
    fn new() -> Self {
        Self {
            by_id: DashMap::with_hasher_and_shard_amount(RandomState::new(), SHARDS),
            by_session: DashMap::with_hasher_and_shard_amount(BuildKeyHasher::default(), SHARDS),
            count: AtomicUsize::new(0),
        }
    }

    fn insert(&self, family: &Arc<Family>) {
        self.by_id.insert(family.id, Arc::clone(family));
        self.by_session.entry(family.session).or_default().push(Arc::clone(family));
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends the oldest families of the same session and client that are too many, and answers which.
    fn end_surplus(&self, new: &Family) -> Vec<FamilyId> {
        let Some(mut theirs) = self.by_session.get(&new.session).map(|families| families.to_vec()) else {
            return Vec::new();
        };
        theirs.retain(|other| other.client == new.client);
        let surplus = theirs.len().saturating_sub(MAX_PER_SESSION);
        let ended = theirs.iter().take(surplus).inspect(|old| self.end(old));
        ended.map(|old| old.id).collect()
    }

    /// Whoever takes it out of the table has ended it.
    fn end(&self, family: &Family) {
        family.ended.store(true, Ordering::Release);
        if self.by_id.remove(&family.id).is_none() {
            return;
        }
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.by_session.remove_if_mut(&family.session, |_, families| {
            families.retain(|other| other.id != family.id);
            families.is_empty()
        });
    }
}

/// Whether a token was spent a moment ago. A clock that was set back cannot tell: then it was not.
fn is_within_grace(at: Timestamp, now: Timestamp) -> bool {
    at <= now.plus(CLOCK_STEP) && now < at.plus(GRACE)
}

/// IPv6 clients have a whole /64 (R15).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// How long a spent token still has its successor told, to the same client: for answers that were lost, and for
/// several tabs that refresh at once.
pub const GRACE: Duration = Duration::from_secs(10);

/// Families of one session and client; a browser keeps the last one only.
pub const MAX_PER_SESSION: usize = 4;

/// By how much a clock may be corrected without that meaning anything.
const CLOCK_STEP: Duration = Duration::from_secs(1);

/// Spent tokens that are remembered: who refreshes more often than that within [`GRACE`] is not served the oldest.
const MAX_RECENT: usize = 16;

/// A power of two.
const SHARDS: usize = 256;

#[cfg(test)]
mod tests;
