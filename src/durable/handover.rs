//! The database changes hands: from a process to the one that follows it (`handover`).
//!
//! In: the wish to let go. Out: the database, flushed and closed, in its directory or as a file in memory with the key
//! that its records are sealed with. Until then and if nothing comes of it, changes wait; afterwards what is to be
//! changed here is asked of the process that has it now, and holds here when it holds there. What is changed there is
//! told and holds here before whoever changed it hears of it.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64, mpsc},
    time::Duration,
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    Batch, Change, Commit, Durable, OpenError, Settings, Table, Watch, names::Names, patience::Ticket, seal::Keyring,
    storage::Disk, writer::Message,
};
use crate::{clock::Clock, secret};

/// One change on its way between two processes that call records by the same names.
#[derive(Clone, Deserialize, Serialize)]
pub struct Passed {
    table: Table,
    /// As on disk.
    stored: Box<[u8]>,
    /// As memory calls it, where that is another one.
    shown: Option<Box<[u8]>>,
    #[serde(with = "wiped")]
    value: Option<Zeroizing<Vec<u8>>>,
    replaces: bool,
}

/// Asks the process that has the database now to change it.
pub type Ask = Box<dyn Fn(Vec<Passed>, Answer) + Send>;

/// Hears what is about to hold here, and answers whether it holds in the other process; where not, it holds nowhere.
pub type Listener = Box<dyn Fn(Vec<Passed>) -> bool + Send>;

/// The answer that somebody here waits for; dropped, it is "no".
pub struct Answer(Arc<Ticket>);

impl Answer {
    pub(super) const fn to(ticket: Arc<Ticket>) -> Self {
        Self(ticket)
    }

    /// It has been changed: makes it hold here. `false`: whoever waited was refused long ago, and it does not hold
    /// here.
    pub fn changed(self) -> bool {
        self.0.answer(true)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.answer(false);
    }
}

/// A database in memory, for another process.
pub struct InMemory {
    /// The file.
    pub file: OwnedFd,
    /// What its records are sealed with.
    pub key: SealKey,
}

/// What a database without a directory is kept in.
pub(super) struct Held {
    file: File,
    key: SealKey,
}

impl Durable {
    /// A database in memory, sealed all the same: it ends with the last process that has it. `handed`: the one of the
    /// process before.
    ///
    /// # Errors
    /// [`OpenError`] when the system has no memory to give, or `handed` is no database.
    pub fn in_memory(
        handed: Option<InMemory>,
        clock: &Clock,
        watch: impl Fn(bool) + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let failed = |error: std::io::Error| OpenError(format!("no state can be kept in memory: {error}"));
        let handed = match handed {
            Some(handed) => handed,
            None => InMemory {
                file: memfd_create("portcullis-state", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?,
                key: SealKey(secret::random()),
            },
        };
        let file = File::from(handed.file);
        let held = Held { file: file.try_clone().map_err(failed)?, key: handed.key };
        let keys = Arc::new(Keyring::of(&[held.key.0]));
        let syncs = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&syncs);
        let opener = move || Ok(Disk::of(file.try_clone()?, Arc::clone(&counted)));
        let settings = Settings { dir: PathBuf::from("memory"), key_file: None, timeout: Settings::TIMEOUT };
        let watch: Watch = Box::new(watch);
        Self::start(opener, &settings, keys, syncs, None, Some(held), clock, watch)
    }

    /// Whether what is in it survives the process.
    pub fn survives(&self) -> bool {
        self.0.held.is_none()
    }

    /// Flushes and closes the database, and lets go of its directory. Changes wait from now on. Not for workers.
    /// `None`: it could not be closed in time, and is in use as before.
    pub fn release(&self, limit: Duration) -> Option<()> {
        let (done, answer) = mpsc::channel();
        self.0.sender.send(Message::Release(done)).ok()?;
        match answer.recv_timeout(limit) {
            Ok(released) => released.then_some(()),
            Err(_) => {
                // Should it succeed yet, nobody wants it any more.
                self.resume();
                None
            }
        }
    }

    /// What is to be handed over of a database in memory that was released; `None`: it is in a directory.
    pub fn held(&self) -> Option<(BorrowedFd<'_>, SealKey)> {
        self.0.held.as_ref().map(|held| (held.file.as_fd(), held.key.clone()))
    }

    /// Nobody took it: opens it again, and goes on with the changes that waited.
    pub fn resume(&self) {
        let _ = self.0.sender.send(Message::Resume);
    }

    /// Somebody took it: what waits and whatever comes is asked of them.
    pub fn follow(&self, ask: Ask) {
        let _ = self.0.sender.send(Message::Follow(ask));
    }

    /// From now on this hears of every change before it holds, but of those that [`Self::take_in`] was asked for.
    pub fn tell(&self, listener: Option<Listener>) {
        let _ = self.0.sender.send(Message::Tell(listener));
    }

    /// As [`Self::commit_then`], for changes of another process.
    pub fn take_in<T: Send + 'static>(
        &self,
        passed: &[Passed],
        then: impl FnOnce() -> T + Send + 'static,
    ) -> Commit<T> {
        self.submit(Batch(passed.iter().map(Passed::change).collect()), then)
    }
}

impl Passed {
    /// Of which table.
    pub const fn table(&self) -> Table {
        self.table
    }

    /// Whether it is nothing where there is no such record.
    pub const fn replaces(&self) -> bool {
        self.replaces
    }

    /// Key and value of the record, as those know it that load it; without a value it goes.
    pub fn record(&self) -> (&[u8], Option<&[u8]>) {
        let key = self.shown.as_deref().unwrap_or(&self.stored);
        let value = self.value.as_ref().map(|value| match Names::show(self.table, &self.stored, value) {
            Ok((_, value)) => value,
            Err(_) => value.as_slice(),
        });
        (key, value)
    }

    pub(super) fn of(change: &Change) -> Self {
        let Change { table, key, shown, value, replaces, foreign: _ } = change;
        Self { table: *table, stored: key.clone(), shown: shown.clone(), value: value.clone(), replaces: *replaces }
    }

    fn change(&self) -> Change {
        let Self { table, stored, shown, value, replaces } = self;
        let (key, shown, value) = (stored.clone(), shown.clone(), value.clone());
        Change { table: *table, key, shown, value, replaces: *replaces, foreign: true }
    }
}

/// What the records of a database in memory are sealed with.
#[derive(Clone, Deserialize, Serialize, Zeroize, ZeroizeOnDrop)]
pub struct SealKey([u8; 32]);

/// Values that are wiped when they are dropped.
mod wiped {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zeroize::Zeroizing;

    type Value = Option<Zeroizing<Vec<u8>>>;

    pub(super) fn serialize<S: Serializer>(value: &Value, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(|value| value.as_slice()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        Option::<Vec<u8>>::deserialize(deserializer).map(|value| value.map(Zeroizing::new))
    }
}
