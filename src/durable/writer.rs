//! The thread that writes.
//!
//! In: messages, in order. It takes what waits, writes it in one transaction, and tells everybody. After a failure
//! the database is opened anew, and whatever may be half there is put back as it was before anything else is written.
//! Whoever was refused meanwhile because the disk took too long (`patience`) is out of it in the same way: not begun
//! with, or taken back, as if it had never been handed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::{
        Arc, PoisonError,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use redb::{Database, ReadableDatabase, ReadableTable};
use zeroize::Zeroizing;

use super::{
    Batch, Change, Lock, Shared, Table, caught,
    handover::{Answer, Ask, Listener, Passed},
    names::Names,
    patience::{Ticket, Waiters},
    seal::Keyring,
};
use crate::{
    clock::{self, Clock, Timestamp},
    secret,
};

/// What the thread is asked to do.
pub(super) enum Message {
    /// Write it now; the ticket hears whether it is on disk.
    Commit { batch: Batch, ticket: Arc<Ticket> },
    /// Write it within [`LATER`].
    Later(Batch),
    /// Write what is left and end.
    Close(mpsc::Sender<bool>),
    /// Flush and let go of the database; hears whether it is.
    Release(mpsc::Sender<bool>),
    /// Nobody took it.
    Resume,
    /// Somebody took it; they are asked.
    Follow(Ask),
    /// Who hears of changes from now on.
    Tell(Option<Listener>),
}

/// The thread's own state.
pub(super) struct Writer {
    receiver: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    waiters: Arc<Waiters>,
    keys: Arc<Keyring>,
    reopen: Box<dyn Fn() -> Result<Database, String> + Send>,
    lock: Lock,
    listener: Option<Listener>,
    clock: Clock,
    /// The last write succeeded.
    works: bool,
    /// What may be written later, by place: the last word on each counts.
    later: BTreeMap<(Table, Box<[u8]>), Value>,
    /// What was there before a transaction of which nobody knows whether it is on disk.
    undo: Vec<Sealed>,
    next_later: Instant,
    /// When the time is noted although nothing else is written.
    next_mark: Instant,
    next_attempt: Instant,
    patience: Duration,
    last_group: usize,
    /// Where sealing anew has come to, in [`Table::ALL`]; `None`: there is nothing to do.
    reseal: Option<(usize, Box<[u8]>)>,
}

/// What a change leaves behind; `None`: nothing.
type Value = Option<Zeroizing<Vec<u8>>>;

/// A place in a table, and the sealed value that belongs there.
struct Sealed {
    table: Table,
    key: Box<[u8]>,
    value: Option<Vec<u8>>,
}

struct Waiting {
    batch: Batch,
    ticket: Arc<Ticket>,
}

/// Some records that are sealed with an older key, and where to go on.
#[derive(Default)]
struct Older {
    changes: Vec<Change>,
    last: Option<Box<[u8]>>,
}

/// How a transaction failed.
enum Failure {
    /// Before anything could have reached the disk.
    Before(String),
    /// In the commit: it may be there or not.
    During(String, Vec<Sealed>),
}

/// A change as it is written.
struct Step<'a> {
    table: Table,
    key: &'a [u8],
    value: Option<&'a [u8]>,
    replaces: bool,
}

impl<'a> Step<'a> {
    fn of(change: &'a Change) -> Self {
        let value = change.value.as_ref().map(|value| value.as_slice());
        Self { table: change.table, key: &change.key, value, replaces: change.replaces }
    }
}

impl Failure {
    fn why(self) -> String {
        match self {
            Self::Before(why) | Self::During(why, _) => why,
        }
    }
}

impl Writer {
    pub(super) fn new(
        receiver: mpsc::Receiver<Message>,
        shared: Arc<Shared>,
        waiters: Arc<Waiters>,
        keys: Arc<Keyring>,
        reopen: Box<dyn Fn() -> Result<Database, String> + Send>,
        lock: Lock,
        clock: Clock,
    ) -> Self {
        let now = clock::instant();
        let reseal = keys.has_older().then(Default::default);
        Self {
            receiver,
            shared,
            waiters,
            keys,
            reopen,
            lock,
            listener: None,
            clock,
            works: true,
            later: BTreeMap::new(),
            undo: Vec::new(),
            next_later: if reseal.is_some() { now } else { now + LATER },
            next_mark: now + MARK,
            next_attempt: now,
            patience: FIRST_PATIENCE,
            last_group: 0,
            reseal,
        }
    }

    /// Reads and writes once, so that what cannot work is known at start. Answers with the clock to go by, and with
    /// what records are called.
    pub(super) fn begin(&mut self) -> Result<(Clock, Names), String> {
        if let Some(noted) = self.noted(CLOCK)? {
            let noted = noted.as_slice().try_into().map_err(|_| "a record is damaged")?;
            self.clock = self.clock.not_before(Timestamp::from_unix_millis(u64::from_be_bytes(noted)));
        }
        let (secret, new) = match self.noted(NAMES)? {
            Some(noted) => (noted, None),
            None => {
                let made = Zeroizing::new(secret::random::<{ Names::SECRET_LEN }>());
                let value = Some(Zeroizing::new(made.to_vec()));
                let change = Change {
                    table: Table::Meta,
                    key: NAMES.into(),
                    value,
                    replaces: false,
                    shown: None,
                    foreign: false,
                };
                (Zeroizing::new(made.to_vec()), Some(change))
            }
        };
        let names = Names::new(secret.as_slice().try_into().map_err(|_| "a record is damaged")?);
        self.write(new.as_slice()).map_err(Failure::why)?;
        Ok((self.clock.clone(), names))
    }

    /// Works until nobody can send any more.
    pub(super) fn run(mut self) {
        loop {
            let wait = self.next_later.saturating_duration_since(clock::instant());
            let mut message = match self.receiver.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Disconnected) => return self.close(None),
                Err(RecvTimeoutError::Timeout) => None,
            };
            while let Some(next) = message.take() {
                match next {
                    Message::Commit { batch, ticket } => {
                        let (group, other) = self.gather(Waiting { batch, ticket });
                        self.commit(group);
                        message = other;
                    }
                    Message::Later(batch) => self.keep(batch),
                    Message::Tell(listener) => self.listener = listener,
                    Message::Release(done) => {
                        let released = self.release();
                        // Whoever asked may have lost patience, and then says so.
                        let _ = done.send(released);
                        if released && self.wait_for_successor().is_break() {
                            return;
                        }
                    }
                    // It was not let go of.
                    Message::Resume | Message::Follow(_) => {}
                    Message::Close(done) => return self.close(Some(&done)),
                }
            }
            if clock::instant() >= self.next_later {
                self.write_later();
            }
        }
    }

    /// Takes what waits besides, which came while the disk was busy. A disk that is faster than the arrivals would find
    /// a few each time: where there is company, or was a moment ago, more are on their way, and they are waited for as
    /// long as they come one after the other. Whoever is alone does not wait. Stops at the first message of another
    /// kind, since order counts.
    fn gather(&mut self, first: Waiting) -> (Vec<Waiting>, Option<Message>) {
        let mut group = vec![first];
        let until = clock::instant() + GATHER;
        while group.len() < MAX_GROUP {
            let wait = if group.len().max(self.last_group) > 1 {
                until.saturating_duration_since(clock::instant()).min(GATHER_GAP)
            } else {
                Duration::ZERO
            };
            match self.receiver.recv_timeout(wait) {
                Ok(Message::Commit { batch, ticket }) => group.push(Waiting { batch, ticket }),
                Ok(other) => return (group, Some(other)),
                Err(_) => break,
            }
        }
        (group, None)
    }

    fn commit(&mut self, mut group: Vec<Waiting>) {
        // Those who were many a moment ago may be few now: halving lets a lonely login wait a few times, no more.
        self.last_group = group.len().max(self.last_group / 2);
        self.shared.waiting.fetch_sub(u64::try_from(group.len()).unwrap_or(u64::MAX), Ordering::AcqRel);
        // Whoever was refused while waiting here has left nothing behind.
        group.retain(|waiting| waiting.ticket.is_open());
        let tickets: Vec<_> = group.iter().map(|one| (Arc::clone(&one.ticket), one.batch.0.len())).collect();
        let changes: Vec<Change> = group.into_iter().flat_map(|waiting| waiting.batch.0).collect();
        let undo = if self.recovered() { self.attempt(&changes) } else { None };
        // Nobody hears that something has ended while it goes on in the other process.
        let holds = undo.is_some() && self.tell(&changes);

        let (mut rest, mut kept, mut refused) = (changes.as_slice(), Vec::new(), Vec::new());
        let mut answered = 0;
        for (ticket, len) in tickets {
            let (own, after) = rest.split_at_checked(len).unwrap_or_default();
            rest = after;
            let in_time = ticket.answer(holds);
            answered += u64::from(in_time);
            if in_time && holds { &mut kept } else { &mut refused }.extend(own);
        }
        let counts = &self.shared.counts;
        let counter = if holds { &counts.batches } else { &counts.failures };
        counter.fetch_add(answered, Ordering::Relaxed);
        if let Some(undo) = undo {
            if !self.later.is_empty() {
                // What was left for later was older.
                for change in &kept {
                    self.later.remove(&(change.table, change.key.clone()));
                }
            }
            if !refused.is_empty() {
                self.take_back(undo, &kept, &refused);
            }
        }
        self.came_back();
    }

    /// Whether the process before this one knows of these changes, or is gone.
    fn tell(&self, changes: &[Change]) -> bool {
        let Some(listener) = &self.listener else { return true };
        let own: Vec<_> = changes.iter().filter(|change| !change.foreign).map(Passed::of).collect();
        own.is_empty() || listener(own)
    }

    /// Leaves on disk what would be there if what was `refused` had never been written, and `kept` had.
    fn take_back(&mut self, undo: Vec<Sealed>, kept: &[&Change], refused: &[&Change]) {
        let touched: BTreeSet<_> = refused.iter().map(|change| (change.table, &*change.key)).collect();
        let mut places: BTreeMap<_, Option<Vec<u8>>> = BTreeMap::new();
        for Sealed { table, key, value } in undo {
            if touched.contains(&(table, &*key)) {
                // What was there before the first change counts.
                places.entry((table, key)).or_insert(value);
            }
        }
        for change in kept {
            if let Some(place) = places.get_mut(&(change.table, change.key.clone()))
                && (place.is_some() || !change.replaces)
            {
                let sealed = change.value.as_ref().map(|value| self.keys.seal(change.table, &change.key, value));
                // It could be sealed before.
                *place = sealed.and_then(Result::ok);
            }
        }
        let places: Vec<_> = places.into_iter().map(|((table, key), value)| Sealed { table, key, value }).collect();
        let number = places.len();
        let restored = self.database().and_then(|database| caught(|| restore(&database, &places)));
        match restored {
            Ok(()) => {
                tracing::warn!("{number} records were taken back: who waited for them had to be refused")
            }
            Err(why) => {
                // Before anything else is written.
                self.undo = places;
                self.broken(&why);
            }
        }
    }

    /// Whatever it was, the disk has answered.
    fn came_back(&self) {
        if self.shared.note(|health| health.stalled = false) == Some(true) {
            tracing::info!("the disk answers again");
        }
    }

    fn keep(&mut self, batch: Batch) {
        self.later.extend(later(batch));
        if self.later.len() > MAX_LATER {
            self.write_later();
        }
    }

    fn write_later(&mut self) {
        self.write_part();
        self.came_back();
    }

    fn write_part(&mut self) {
        self.next_later = clock::instant() + LATER;
        if !self.recovered() {
            return;
        }
        if self.later.is_empty() && clock::instant() >= self.next_mark {
            self.attempt(&[]);
        }
        let mut part = Vec::with_capacity(self.later.len().min(MAX_GROUP));
        while part.len() < MAX_GROUP
            && let Some(((table, key), value)) = self.later.pop_first()
        {
            part.push(Change { table, key, shown: None, value, replaces: false, foreign: false });
        }
        if part.is_empty() {
            return self.reseal_some();
        }
        if self.attempt(&part).is_none() {
            self.later.extend(part.into_iter().map(|change| ((change.table, change.key), change.value)));
        } else if !self.later.is_empty() {
            // Those who wait have their turn between two parts.
            self.next_later = clock::instant();
        }
    }

    /// Seals some records with the newest key that are sealed with an older one.
    fn reseal_some(&mut self) {
        let Some((table, key)) = self.reseal.take() else {
            return;
        };
        let Some(name) = Table::ALL.get(table) else {
            self.shared.resealing.store(false, Ordering::Release);
            tracing::info!("all state is sealed with the first key of server.state_key_file; the others may go");
            return;
        };
        match self.older(*name, &key) {
            Ok(Older { changes, last }) => {
                let written = changes.is_empty() || self.attempt(&changes).is_some();
                self.reseal = Some(match last {
                    _ if !written => (table, key),
                    Some(last) => (table, last),
                    None => (table + 1, Box::default()),
                });
                // Those who wait have their turn between two steps.
                if written {
                    self.next_later = clock::instant();
                }
            }
            Err(why) => tracing::warn!("state cannot be sealed anew: {why}"),
        }
    }

    /// Of the next records of a table, those that are sealed with an older key; and where to go on.
    fn older(&self, table: Table, from: &[u8]) -> Result<Older, String> {
        let database = self.database()?;
        caught(|| {
            let transaction = database.begin_read().map_err(|error| error.to_string())?;
            let opened = match transaction.open_table(table.definition()) {
                Ok(opened) => opened,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Older::default()),
                Err(error) => return Err(error.to_string()),
            };
            let (mut changes, mut last, mut looked_at) = (Vec::new(), None, 0);
            for record in opened.range(from..).map_err(|error| error.to_string())? {
                let (key, value) = record.map_err(|error| error.to_string())?;
                if looked_at == MAX_GROUP {
                    last = Some(key.value().into());
                    break;
                }
                looked_at += 1;
                if self.keys.is_older(value.value()) {
                    let mut text = Zeroizing::new(Vec::new());
                    self.keys.open(table, key.value(), value.value(), &mut text)?;
                    changes.push(Change {
                        table,
                        key: key.value().into(),
                        shown: None,
                        value: Some(text),
                        replaces: true,
                        foreign: false,
                    });
                }
            }
            Ok(Older { changes, last })
        })
    }

    /// Whether the database is flushed and closed, and its directory free.
    fn release(&mut self) -> bool {
        while self.recovered() && !self.later.is_empty() {
            self.write_later();
        }
        // The time goes along.
        if !self.works || self.attempt(&[]).is_none() {
            return false;
        }
        let Some(mut database) = self.shared.database().take() else { return false };
        // Whoever reads it at this moment has to finish.
        let patience = clock::instant() + READERS_FINISH;
        loop {
            match Arc::try_unwrap(database) {
                Ok(alone) => {
                    drop(alone);
                    self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return true;
                }
                Err(shared) if clock::instant() < patience => {
                    database = shared;
                    std::thread::sleep(GATHER_GAP);
                }
                Err(shared) => {
                    *self.shared.database() = Some(shared);
                    return false;
                }
            }
        }
    }

    /// Lets those who want something wait until it is known who has the database; `Break`: the end has come.
    fn wait_for_successor(&mut self) -> ControlFlow<()> {
        let mut held = Vec::new();
        loop {
            match self.receiver.recv() {
                Ok(Message::Commit { batch, ticket }) => held.push(Waiting { batch, ticket }),
                Ok(Message::Later(batch)) => self.later.extend(later(batch)),
                Ok(Message::Resume) => {
                    // Opened as after a failure: as soon as nobody else has it.
                    (self.works, self.next_attempt) = (false, clock::instant());
                    self.commit(held);
                    return ControlFlow::Continue(());
                }
                Ok(Message::Follow(ask)) => {
                    self.pass_on(held, &ask);
                    self.follow(&ask);
                    return ControlFlow::Break(());
                }
                Ok(Message::Release(done)) => drop(done.send(false)),
                Ok(Message::Tell(listener)) => self.listener = listener,
                Ok(Message::Close(done)) => {
                    // They are refused with the thread's end.
                    let _ = done.send(true);
                    return ControlFlow::Break(());
                }
                Err(mpsc::RecvError) => return ControlFlow::Break(()),
            }
        }
    }

    /// Asks whoever has the database now, to the end. What could wait until later is theirs to find out.
    fn follow(&mut self, ask: &Ask) {
        while let Ok(message) = self.receiver.recv() {
            let mut message = Some(message);
            while let Some(next) = message.take() {
                match next {
                    Message::Commit { batch, ticket } => {
                        let (group, other) = self.gather(Waiting { batch, ticket });
                        self.pass_on(group, ask);
                        message = other;
                    }
                    Message::Later(_) | Message::Tell(_) | Message::Resume | Message::Follow(_) => {}
                    Message::Release(done) => drop(done.send(false)),
                    Message::Close(done) => {
                        let _ = done.send(true);
                        return;
                    }
                }
            }
        }
    }

    fn pass_on(&mut self, group: Vec<Waiting>, ask: &Ask) {
        self.shared.waiting.fetch_sub(u64::try_from(group.len()).unwrap_or(u64::MAX), Ordering::AcqRel);
        for Waiting { batch, ticket } in group {
            // Each for itself: what cannot be passed on is nobody else's matter.
            if ticket.is_open() {
                ask(batch.0.iter().map(Passed::of).collect(), Answer::to(ticket));
            }
        }
        self.came_back();
    }

    fn close(&mut self, done: Option<&mpsc::Sender<bool>>) {
        loop {
            self.write_later();
            if self.later.is_empty() || !self.works {
                break;
            }
        }
        // The time goes along.
        let written = self.recovered() && self.attempt(&[]).is_some();
        *self.shared.database() = None;
        if let Some(done) = done {
            // Whoever asked may have lost patience.
            let _ = done.send(written);
        }
    }

    /// Writes, and answers what was there before; a failure is noted, and told to log and watcher.
    fn attempt(&mut self, changes: &[Change]) -> Option<Vec<Sealed>> {
        let (why, undo) = match self.write(changes) {
            Ok(before) => return Some(before),
            Err(Failure::Before(why)) => (why, Vec::new()),
            Err(Failure::During(why, undo)) => (why, undo),
        };
        self.undo = undo;
        self.broken(&why);
        None
    }

    fn broken(&mut self, why: &str) {
        // Dropping a database that has failed may write again; what it says then is of no more use.
        let database = self.shared.database().take();
        let _ = caught(|| {
            drop(database);
            Ok(())
        });
        self.next_attempt = clock::instant() + self.patience;
        self.patience = (self.patience * 2).min(LAST_PATIENCE);
        if std::mem::replace(&mut self.works, false) {
            tracing::error!("state cannot be written: {why}; logins and logouts are refused until it can");
            self.shared.note(|health| health.works = false);
        }
    }

    /// Whether the database works, after another attempt if it is time for one.
    fn recovered(&mut self) -> bool {
        if self.works {
            return true;
        }
        if clock::instant() < self.next_attempt {
            return false;
        }
        match self.recover() {
            Ok(()) => {
                self.patience = FIRST_PATIENCE;
                self.works = true;
                self.shared.note(|health| health.works = true);
                tracing::info!("state can be written again");
                true
            }
            Err(why) => {
                tracing::debug!("state still cannot be written: {why}");
                self.broken(&why);
                false
            }
        }
    }

    fn recover(&mut self) -> Result<(), String> {
        *self.shared.database() = Some(Arc::new((self.reopen)()?));
        let database = self.database()?;
        let undo = std::mem::take(&mut self.undo);
        let restored = caught(|| restore(&database, &undo));
        if restored.is_err() {
            self.undo = undo;
        }
        restored?;
        self.write(&[]).map(drop).map_err(Failure::why)
    }

    fn database(&self) -> Result<Arc<Database>, String> {
        self.shared.database().clone().ok_or_else(|| "it is closed".to_owned())
    }

    /// What the database has noted of itself.
    fn noted(&self, what: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        let database = self.database()?;
        caught(|| {
            let transaction = database.begin_read().map_err(|error| error.to_string())?;
            let table = match transaction.open_table(Table::Meta.definition()) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.to_string()),
            };
            let Some(sealed) = table.get(what).map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            let mut text = Zeroizing::new(Vec::new());
            self.keys.open(Table::Meta, what, sealed.value(), &mut text)?;
            Ok(Some(text))
        })
    }

    /// One transaction, on disk when this returns; with it goes the time. Answers what was there before.
    fn write(&mut self, changes: &[Change]) -> Result<Vec<Sealed>, Failure> {
        let database = self.database().map_err(Failure::Before)?;
        let mut undo = Vec::new();
        let prepared = caught(|| {
            let mut steps: Vec<Step<'_>> = changes.iter().map(Step::of).collect();
            let now = self.clock.now().unix_millis().to_be_bytes();
            steps.push(Step { table: Table::Meta, key: CLOCK, value: Some(&now), replaces: false });
            // Stable: of two changes to one record the later one wins.
            steps.sort_by_key(|step| step.table);
            let transaction = database.begin_write().map_err(|error| error.to_string())?;
            for run in steps.chunk_by(|a, b| a.table == b.table) {
                let Some(Step { table: name, .. }) = run.first() else { continue };
                let mut table = transaction.open_table(name.definition()).map_err(|error| error.to_string())?;
                for Step { key, value, replaces, .. } in run {
                    if *replaces && table.get(*key).map_err(|error| error.to_string())?.is_none() {
                        continue;
                    }
                    let before = match value {
                        Some(value) => {
                            let sealed = self.keys.seal(*name, key, value)?;
                            table.insert(*key, sealed.as_slice())
                        }
                        None => table.remove(*key),
                    };
                    let before = before.map_err(|error| error.to_string())?.map(|value| value.value().to_vec());
                    undo.push(Sealed { table: *name, key: (*key).into(), value: before });
                }
            }
            Ok(transaction)
        });
        let transaction = prepared.map_err(Failure::Before)?;
        let committed = caught(|| transaction.commit().map_err(|error| error.to_string()));
        match committed {
            Ok(()) => {
                self.shared.counts.commits.fetch_add(1, Ordering::Relaxed);
                self.next_mark = clock::instant() + MARK;
                Ok(undo)
            }
            Err(why) => Err(Failure::During(why, undo)),
        }
    }
}

impl Drop for Writer {
    /// However it ends: nobody waits for it any more.
    fn drop(&mut self) {
        self.waiters.close();
    }
}

/// By place.
fn later(batch: Batch) -> impl Iterator<Item = ((Table, Box<[u8]>), Value)> {
    batch.0.into_iter().map(|change| ((change.table, change.key), change.value))
}

/// Puts back what was there, the last change first.
fn restore(database: &Database, undo: &[Sealed]) -> Result<(), String> {
    if undo.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write().map_err(|error| error.to_string())?;
    for place in undo.iter().rev() {
        let mut table = transaction.open_table(place.table.definition()).map_err(|error| error.to_string())?;
        let put = match &place.value {
            Some(value) => table.insert(&*place.key, value.as_slice()),
            None => table.remove(&*place.key),
        };
        put.map_err(|error| error.to_string())?;
    }
    transaction.commit().map_err(|error| error.to_string())
}

/// The record in [`Table::Meta`] with the latest time, as milliseconds in eight bytes, big end first.
pub(super) const CLOCK: &[u8] = b"clock";

/// The record in [`Table::Meta`] with the secret that records are called by.
const NAMES: &[u8] = b"names";

/// How long what may be lost in a crash waits here.
const LATER: Duration = Duration::from_millis(1500);

/// How often the time is noted at least.
const MARK: Duration = Duration::from_secs(60);

/// How long a transaction waits for company in all: less than the hash of a password takes.
const GATHER: Duration = Duration::from_millis(16);

/// How long it waits for the next one to come.
const GATHER_GAP: Duration = Duration::from_millis(2);

/// How long a reader of the database is waited for when it is let go of: a table of a million records takes less.
const READERS_FINISH: Duration = Duration::from_secs(5);

/// Batches in one transaction.
const MAX_GROUP: usize = 4096;

/// Records that wait for later before they are written at once.
const MAX_LATER: usize = 100_000;

/// From a failure to the first attempt to go on, and to the later ones.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
const LAST_PATIENCE: Duration = Duration::from_secs(8);
