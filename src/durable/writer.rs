//! The thread that writes.
//!
//! In: messages, in order. It takes what waits, writes it in one transaction, and tells everybody. After a failure
//! the database is opened anew, and whatever may be half there is put back as it was before anything else is written.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use redb::{Database, ReadableDatabase, ReadableTable};
use zeroize::Zeroizing;

use super::{Batch, Change, Shared, Table, caught, seal::Keyring};
use crate::clock::{self, Clock, Timestamp};

/// What the thread is asked to do.
pub(super) enum Message {
    /// Write it now; `done` hears whether it is on disk.
    Commit { batch: Batch, done: Box<dyn FnOnce(bool) + Send> },
    /// Write it within [`LATER`].
    Later(Batch),
    /// Write what is left and end.
    Close(mpsc::Sender<bool>),
}

/// The thread's own state.
pub(super) struct Writer {
    receiver: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    keys: Arc<Keyring>,
    reopen: Box<dyn Fn() -> Result<Database, String> + Send>,
    clock: Clock,
    watch: Box<dyn Fn(bool) + Send>,
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
    done: Box<dyn FnOnce(bool) + Send>,
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
        keys: Arc<Keyring>,
        reopen: Box<dyn Fn() -> Result<Database, String> + Send>,
        clock: Clock,
        watch: Box<dyn Fn(bool) + Send>,
    ) -> Self {
        let now = clock::instant();
        let reseal = keys.has_older().then(Default::default);
        Self {
            receiver,
            shared,
            keys,
            reopen,
            clock,
            watch,
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

    /// Reads and writes once, so that what cannot work is known at start. Answers with the clock to go by.
    pub(super) fn begin(&mut self) -> Result<Clock, String> {
        if let Some(latest) = self.latest()? {
            self.clock = self.clock.not_before(latest);
        }
        self.write(&[]).map_err(Failure::why)?;
        Ok(self.clock.clone())
    }

    /// Works until nobody can send any more.
    pub(super) fn run(mut self) {
        loop {
            let wait = self.next_later.saturating_duration_since(clock::instant());
            match self.receiver.recv_timeout(wait) {
                Ok(Message::Commit { batch, done }) => {
                    let (group, other) = self.gather(Waiting { batch, done });
                    self.commit(group);
                    match other {
                        Some(Message::Close(done)) => return self.close(Some(&done)),
                        Some(Message::Later(batch)) => self.keep(batch),
                        Some(Message::Commit { .. }) | None => {}
                    }
                }
                Ok(Message::Later(batch)) => self.keep(batch),
                Ok(Message::Close(done)) => return self.close(Some(&done)),
                Err(RecvTimeoutError::Disconnected) => return self.close(None),
                Err(RecvTimeoutError::Timeout) => {}
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
                Ok(Message::Commit { batch, done }) => group.push(Waiting { batch, done }),
                Ok(other) => return (group, Some(other)),
                Err(_) => break,
            }
        }
        (group, None)
    }

    fn commit(&mut self, group: Vec<Waiting>) {
        // Those who were many a moment ago may be few now: halving lets a lonely login wait a few times, no more.
        self.last_group = group.len().max(self.last_group / 2);
        let (changes, done): (Vec<_>, Vec<_>) =
            group.into_iter().map(|waiting| (waiting.batch.0, waiting.done)).unzip();
        let changes: Vec<Change> = changes.into_iter().flatten().collect();
        let written = self.recovered() && self.attempt(&changes);
        if written {
            // What was left for later was older.
            for change in changes {
                self.later.remove(&(change.table, change.key));
            }
        }
        let number = u64::try_from(done.len()).unwrap_or(u64::MAX);
        let counts = &self.shared.counts;
        let counter = if written { &counts.batches } else { &counts.failures };
        counter.fetch_add(number, Ordering::Relaxed);
        self.shared.waiting.fetch_sub(number, Ordering::AcqRel);
        for done in done {
            done(written);
        }
    }

    fn keep(&mut self, batch: Batch) {
        for change in batch.0 {
            self.later.insert((change.table, change.key), change.value);
        }
        if self.later.len() > MAX_LATER {
            self.write_later();
        }
    }

    fn write_later(&mut self) {
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
            part.push(Change { table, key, value, replaces: false });
        }
        if part.is_empty() {
            return self.reseal_some();
        }
        if !self.attempt(&part) {
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
                let written = changes.is_empty() || self.attempt(&changes);
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
                    changes.push(Change { table, key: key.value().into(), value: Some(text), replaces: true });
                }
            }
            Ok(Older { changes, last })
        })
    }

    fn close(&mut self, done: Option<&mpsc::Sender<bool>>) {
        loop {
            self.write_later();
            if self.later.is_empty() || !self.shared.healthy.load(Ordering::Acquire) {
                break;
            }
        }
        // The time goes along.
        let _ = self.recovered() && self.attempt(&[]);
        let written = self.shared.healthy.load(Ordering::Acquire);
        *self.shared.database() = None;
        if let Some(done) = done {
            // Whoever asked may have lost patience.
            let _ = done.send(written);
        }
    }

    /// Writes; a failure is noted, and told to log and watcher.
    fn attempt(&mut self, changes: &[Change]) -> bool {
        let (why, undo) = match self.write(changes) {
            Ok(()) => return true,
            Err(Failure::Before(why)) => (why, Vec::new()),
            Err(Failure::During(why, undo)) => (why, undo),
        };
        self.undo = undo;
        self.broken(&why);
        false
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
        if self.shared.healthy.swap(false, Ordering::AcqRel) {
            tracing::error!("state cannot be written: {why}; logins and logouts are refused until it can");
            (self.watch)(false);
        }
    }

    /// Whether the database works, after another attempt if it is time for one.
    fn recovered(&mut self) -> bool {
        if self.shared.healthy.load(Ordering::Acquire) {
            return true;
        }
        if clock::instant() < self.next_attempt {
            return false;
        }
        match self.recover() {
            Ok(()) => {
                self.patience = FIRST_PATIENCE;
                self.shared.healthy.store(true, Ordering::Release);
                tracing::info!("state can be written again");
                (self.watch)(true);
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
        self.write(&[]).map_err(Failure::why)
    }

    fn database(&self) -> Result<Arc<Database>, String> {
        self.shared.database().clone().ok_or_else(|| "it is closed".to_owned())
    }

    /// The time that was noted last.
    fn latest(&self) -> Result<Option<Timestamp>, String> {
        let database = self.database()?;
        caught(|| {
            let transaction = database.begin_read().map_err(|error| error.to_string())?;
            let table = match transaction.open_table(Table::Meta.definition()) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.to_string()),
            };
            let Some(sealed) = table.get(CLOCK).map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            let mut text = Vec::new();
            self.keys.open(Table::Meta, CLOCK, sealed.value(), &mut text)?;
            let noted = text.as_slice().try_into().map_err(|_| "a record is damaged")?;
            Ok(Some(Timestamp::from_unix_millis(u64::from_be_bytes(noted))))
        })
    }

    /// One transaction, on disk when this returns; with it goes the time.
    fn write(&mut self, changes: &[Change]) -> Result<(), Failure> {
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
        committed.map_err(|why| Failure::During(why, undo))?;
        self.shared.counts.commits.fetch_add(1, Ordering::Relaxed);
        self.next_mark = clock::instant() + MARK;
        Ok(())
    }
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

/// How long what may be lost in a crash waits here.
const LATER: Duration = Duration::from_millis(1500);

/// How often the time is noted at least.
const MARK: Duration = Duration::from_secs(60);

/// How long a transaction waits for company in all: less than the hash of a password takes.
const GATHER: Duration = Duration::from_millis(16);

/// How long it waits for the next one to come.
const GATHER_GAP: Duration = Duration::from_millis(2);

/// Batches in one transaction.
const MAX_GROUP: usize = 4096;

/// Records that wait for later before they are written at once.
const MAX_LATER: usize = 100_000;

/// From a failure to the first attempt to go on, and to the later ones.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
const LAST_PATIENCE: Duration = Duration::from_secs(8);
