//! The keys that were made while the gateway ran: by an administrator, for somebody, revoked in the same way.
//!
//! In: what a key is to stand for, and who makes it. Out: its text, once, when it is on disk; later the key by its id.
//! Reading takes no lock. Invariants: a key counts when its record is on disk and not before; one that is revoked stops
//! counting before anything is written, and its record goes in the order in which things were asked for; a key of which
//! the maker is gone, or may not grant it any more, does not count while that is so (R5, R29). Without `state_dir` a
//! restart forgets all of them.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{ApiKey, ApiKeys, Description, KeyId, KeyText, Made, record};
use crate::{
    clock::Timestamp,
    durable::{Batch, Commit, Durable, LoadError, Table, Unavailable},
    identity::IdentityError,
    policy::Grants,
    secret::Secret,
};

/// All keys that were made.
pub struct Store {
    /// By the first character of their ids: a change copies a part only.
    groups: Box<[ArcSwap<ApiKeys>]>,
    count: AtomicUsize,
    order: Mutex<Order>,
    /// Groups with a last use that is not on disk: a bit for each.
    used: AtomicU32,
    /// Last uses that were on disk at start.
    earlier_uses: Vec<(KeyId, u64)>,
    /// `None`: a restart forgets everything.
    durable: Option<Durable>,
}

/// What changes one at a time, so that disk and memory see one order.
#[derive(Default)]
struct Order {
    /// Keys on their way to the disk.
    pending: Vec<Arc<ApiKey>>,
    makers: Vec<Maker>,
}

/// Who may make keys, for whom, and what they may hold.
#[derive(Clone, Debug)]
pub struct Maker {
    /// The name of an admin token.
    pub name: Arc<str>,
    /// What the subjects of its keys mean something in.
    pub realm: Arc<str>,
    /// What its keys may hold.
    pub grants: Grants,
}

/// A key to be made.
#[derive(Debug)]
pub struct Making {
    /// What it is called.
    pub name: Box<str>,
    /// What the subject means something in.
    pub realm: Arc<str>,
    /// Who acts with it.
    pub subject: String,
    /// Roles.
    pub roles: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// When it ends; `None`: when it is revoked.
    pub expires: Option<Timestamp>,
    /// Whence it counts; empty: from everywhere.
    pub sources: Vec<ipnet::IpNet>,
    /// Who makes it, when, and why.
    pub made: Made,
}

/// Why no key was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MakeError {
    /// There are as many as there may be.
    Full,
    /// Everything of its subject was revoked while it was made.
    Revoked,
    /// The disk does not take it.
    Unavailable,
    /// The subject is unfit.
    Unfit(IdentityError),
}

impl Store {
    /// The keys that are on disk, or none. Reads from disk: not for workers.
    ///
    /// # Errors
    /// [`LoadError`] when a record cannot be read.
    pub fn open(durable: Option<Durable>) -> Result<Self, LoadError> {
        let mut store = Self { durable: durable.clone(), ..Self::in_memory() };
        let Some(durable) = durable else {
            return Ok(store);
        };
        let mut keys = Vec::new();
        durable.load(Table::Keys, |key, text| {
            match record::read(key, text)? {
                record::Stored::Key(key) => keys.push(Arc::from(key)),
                record::Stored::Uses(uses) => store.earlier_uses.extend(uses),
            }
            Ok(())
        })?;
        for key in keys {
            store.insert(key);
        }
        store.earlier_uses.iter().for_each(|(id, millis)| {
            if let Some(key) = store.find(id) {
                key.was_used(*millis);
            }
        });
        Ok(store)
    }

    /// No key yet; a restart forgets those that come.
    pub fn in_memory() -> Self {
        Self {
            groups: (0..KeyId::GROUPS).map(|_| ArcSwap::default()).collect(),
            count: AtomicUsize::new(0),
            order: Mutex::default(),
            used: AtomicU32::new(0),
            earlier_uses: Vec::new(),
            durable: None,
        }
    }

    /// Whether a restart remembers keys.
    pub fn is_durable(&self) -> bool {
        self.durable.as_ref().is_some_and(Durable::survives)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key of this id, whether or not it counts.
    pub fn find(&self, id: &KeyId) -> Option<Arc<ApiKey>> {
        self.groups.get(id.group())?.load().get(id).cloned()
    }

    /// Every key.
    pub fn all(&self) -> Vec<Arc<ApiKey>> {
        self.groups.iter().flat_map(|group| group.load().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Makes a key; it is on disk when this is ready. `fixed` are the keys whose ids are taken.
    ///
    /// # Errors
    /// [`MakeError`]; nothing counts then.
    pub async fn make(
        self: &Arc<Self>,
        making: Making,
        fixed: &ApiKeys,
        limit: usize,
        now: Timestamp,
    ) -> Result<(Secret<String>, Arc<ApiKey>), MakeError> {
        let Begun { text, pending, commit } = self.begin(making, fixed, limit, now)?;
        if let Some(commit) = commit {
            commit.await.map_err(|Unavailable| MakeError::Unavailable)?;
        }
        let key = Arc::clone(&pending.key);
        if key.is_struck() { Err(MakeError::Revoked) } else { Ok((text, key)) }
    }

    /// Ends a key: it does not count from here on, whatever the disk says. The commit is ready when a restart cannot
    /// bring it back either; doing it again tries again.
    pub fn revoke(self: &Arc<Self>, key: &Arc<ApiKey>) -> Option<Commit<()>> {
        let mut order = self.order();
        self.revoke_in(&mut order, key)
    }

    /// Ends every key of a subject, those included that are being made. How many, and what is on its way to the disk.
    pub fn revoke_subject(self: &Arc<Self>, realm: &str, subject: &str) -> (usize, Vec<Commit<()>>) {
        let mut order = self.order();
        let mut theirs = self.all();
        theirs.extend(order.pending.iter().cloned());
        theirs.retain(|key| key.is_of(realm, subject));
        let commits = theirs.iter().filter_map(|key| self.revoke_in(&mut order, key)).collect();
        (theirs.len(), commits)
    }

    /// Takes over who may make what from now on, and judges every key by it.
    pub fn follow(&self, makers: Vec<Maker>) {
        let mut order = self.order();
        order.makers = makers;
        self.all().iter().chain(&order.pending).for_each(|key| order.judge(key));
    }

    /// Gives keys of gateway.toml the last uses that were on disk at start.
    pub fn restore_uses(&self, fixed: &ApiKeys) {
        for (id, millis) in &self.earlier_uses {
            if let Some(key) = fixed.get(id) {
                key.was_used(*millis);
            }
        }
    }

    /// Makes memory hold what another process has changed, which has written it: a key made, or ended.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn follow_record(&self, key: &[u8], text: Option<&[u8]>) -> Result<(), &'static str> {
        let order = self.order();
        match text {
            Some(text) => {
                if let record::Stored::Key(key) = record::read(key, text)? {
                    let key = Arc::from(key);
                    order.judge(&key);
                    self.insert(key);
                }
            }
            None => {
                if let Some(id) = record::id(key) {
                    if let Some(known) = self.find(&id) {
                        known.struck.store(true, Ordering::Release);
                    }
                    self.forget(id);
                }
            }
        }
        Ok(())
    }

    /// Notes that a key was used: that is on disk some seconds later.
    pub(super) fn note_use(&self, id: &KeyId) {
        let bit = 1 << id.group();
        if self.used.load(Ordering::Relaxed) & bit == 0 {
            self.used.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Hands last uses to the disk. For a timer of some seconds.
    pub fn keep_up(&self, fixed: &ApiKeys) {
        let used = self.used.swap(0, Ordering::Relaxed);
        let Some(durable) = self.durable.as_ref().filter(|_| used != 0) else {
            return;
        };
        let mut batch = Batch::new();
        for (number, group) in (0..).zip(&self.groups) {
            if used & 1 << number != 0 {
                let group = group.load();
                let fixed = fixed.values().filter(|key| key.id().group() == usize::from(number));
                batch = record::put_uses(batch, number, group.values().chain(fixed));
            }
        }
        durable.later(batch);
    }

    /// Forgets keys that ended long ago.
    pub fn sweep(self: &Arc<Self>, now: Timestamp) {
        let _in_order = self.order();
        self.forget_ended(now.minus(ENDED_KEYS_STAY));
    }

    fn begin(
        self: &Arc<Self>,
        making: Making,
        fixed: &ApiKeys,
        limit: usize,
        now: Timestamp,
    ) -> Result<Begun, MakeError> {
        let mut order = self.order();
        if self.len() + order.pending.len() >= limit {
            self.forget_ended(now);
        }
        if self.len() + order.pending.len() >= limit {
            return Err(MakeError::Full);
        }
        let (text, id, sha256) = loop {
            let text = KeyText::generate();
            let Some(key) = KeyText::parse(text.expose().as_bytes()) else { continue };
            let (id, digest) = (key.id(), key.digest());
            if !fixed.contains_key(&id) && self.find(&id).is_none() {
                break (text, id, digest);
            }
        };
        let Making { name, realm, subject, roles, groups, scopes, expires, sources, made } = making;
        let made_too = made.clone();
        let made = Some(made);
        let described = Description { id, sha256, name, realm, subject, roles, groups, scopes, expires, sources, made };
        let key = Arc::new(ApiKey::new(described).map_err(MakeError::Unfit)?);
        let commit = self.durable.as_ref().map(|durable| {
            let (store, key) = (Arc::clone(self), Arc::clone(&key));
            durable.commit_then(record::put(Batch::new(), &key, &made_too), move || store.settle(&key))
        });
        order.pending.push(Arc::clone(&key));
        let pending = Pending { store: Arc::clone(self), key };
        if commit.is_none() {
            self.settle_in(&mut order, &pending.key);
        }
        Ok(Begun { text, pending, commit })
    }

    /// The record is on disk.
    fn settle(&self, key: &Arc<ApiKey>) {
        self.settle_in(&mut self.order(), key);
    }

    fn settle_in(&self, order: &mut Order, key: &Arc<ApiKey>) {
        order.pending.retain(|pending| pending.id() != key.id());
        if !key.is_struck() {
            order.judge(key);
            self.insert(Arc::clone(key));
        }
    }

    fn insert(&self, key: Arc<ApiKey>) {
        self.change(key.id(), |group| group.insert(key.id(), Arc::clone(&key)).is_none(), 1);
    }

    fn revoke_in(self: &Arc<Self>, order: &mut Order, key: &Arc<ApiKey>) -> Option<Commit<()>> {
        key.struck.store(true, Ordering::Release);
        order.pending.retain(|pending| pending.id() != key.id());
        self.drop_record(key.id())
    }

    fn drop_record(self: &Arc<Self>, id: KeyId) -> Option<Commit<()>> {
        let Some(durable) = &self.durable else {
            self.forget(id);
            return None;
        };
        let store = Arc::clone(self);
        // Until then it stays, struck: who asks again, since the disk did not take it, finds it again.
        Some(durable.commit_then(record::remove(Batch::new(), id), move || store.forget(id)))
    }

    fn forget(&self, id: KeyId) {
        self.change(id, |group| group.remove(&id).is_some(), usize::MAX);
    }

    /// Changes one group; where that made a difference, the count moves by `step`, wrapping.
    fn change(&self, id: KeyId, change: impl Fn(&mut ApiKeys) -> bool, step: usize) {
        let Some(group) = self.groups.get(id.group()) else { return };
        let mut changed = false;
        group.rcu(|group| {
            let mut group = ApiKeys::clone(group);
            changed = change(&mut group);
            group
        });
        if changed {
            self.count.fetch_add(step, Ordering::Relaxed);
        }
    }

    fn forget_ended(self: &Arc<Self>, before: Timestamp) {
        for key in self.all().iter().filter(|key| key.is_expired(before)) {
            // Out of memory at once: it cannot count again. A record that stays behind goes the next time.
            drop(self.drop_record(key.id()));
            self.forget(key.id());
        }
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        // Nothing panics while it is held.
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    fn judge(&self, key: &ApiKey) {
        key.orphan.store(!self.answers_for(key), Ordering::Relaxed);
    }

    /// Whether the maker of a key may still make it.
    fn answers_for(&self, key: &ApiKey) -> bool {
        let Some(made) = key.made() else { return false };
        let identity = key.identity();
        let maker = self.makers.iter().find(|maker| maker.name == made.by && maker.realm == *identity.realm());
        maker.is_some_and(|maker| {
            let texts = |list: &mut dyn Iterator<Item = &str>| list.map(str::to_owned).collect::<Vec<_>>();
            let (mut roles, mut groups) = (texts(&mut identity.roles()), texts(&mut identity.groups()));
            let mut scopes = texts(&mut identity.scopes());
            maker.grants.filter(&mut roles, &mut groups) == 0 && maker.grants.filter_key_scopes(&mut scopes) == 0
        })
    }
}

/// A key that is being made.
struct Begun {
    text: Secret<String>,
    pending: Pending,
    /// `None`: there is no disk to wait for.
    commit: Option<Commit<()>>,
}

/// A key on its way to the disk. Whoever stops waiting leaves nothing behind.
struct Pending {
    store: Arc<Store>,
    key: Arc<ApiKey>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.store.order().pending.retain(|pending| pending.id() != self.key.id());
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// How long keys that have expired are listed.
const ENDED_KEYS_STAY: Duration = Duration::from_secs(30 * 24 * 60 * 60);
