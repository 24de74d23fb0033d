//! What survives a restart: an embedded, crash-safe database in `server.state_dir` (R27).
//!
//! In: [`Batch`]es of records. Out: a future that is ready when they are on disk, and at start every record again.
//! Memory is what requests ask; this is where memory is rebuilt from. One thread writes: whatever waits while it
//! waits for the disk goes into the next transaction together, so many logins share one `fsync`.
//! Invariants: a batch is there whole or not at all; batches take effect in the order in which they were handed in,
//! on disk and, through [`Durable::commit_then`], in memory; what was answered with [`Unavailable`] is not on disk, or
//! is taken back before anything else is written; nobody waits longer than `server.state_timeout` (`patience`).
//! Values are sealed (`seal`), and keys that name somebody are hidden (`names`): a thief of the disk learns nothing.
//!
//! The database is redb: one file, no threads of its own, and a storage that tests can tear. Beside a million records,
//! 64 logins and 64 ends in one transaction take it 6 ms; fjall 2.11, a log-structured store, took 0.6 ms and half the
//! disk in the same measurement, and as long to read all of it. Either is little beside 64 password hashes.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    num::NonZero,
    ops::Bound,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::Duration,
};

use redb::{Database, ReadableDatabase, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::clock::Clock;

pub mod handover;
mod names;
mod patience;
mod seal;
mod storage;
mod writer;

use handover::Held;
use names::Names;
use patience::Waiters;
use seal::Keyring;
use storage::Disk;
use writer::{Message, Writer};

/// `server.state_dir` and `server.state_key_file`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The directory; made if it is missing, with mode 0700.
    pub dir: PathBuf,
    /// The keys that records are sealed with; `None`: one is made inside `dir`, where it protects nothing.
    pub key_file: Option<PathBuf>,
    /// How long a change may wait for the disk before it is refused; above zero.
    pub timeout: Duration,
}

impl Settings {
    /// [`Self::timeout`] where none is written: longer than a disk that works takes, shorter than people wait.
    pub const TIMEOUT: Duration = Duration::from_secs(10);
}

/// The open, locked, sealed database of `server.state_dir`. Clones are cheap and name the same one.
#[derive(Clone)]
pub struct Durable(Arc<Inner>);

struct Inner {
    sender: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    keys: Arc<Keyring>,
    names: Names,
    waiters: Arc<Waiters>,
    clock: Clock,
    writer: Option<JoinHandle<()>>,
    watcher: Option<JoinHandle<()>>,
    lock: Lock,
    /// `None`: it is in a directory.
    held: Option<Held>,
}

/// Held for as long as the database is open: two gateways on one directory would each undo what the other wrote.
type Lock = Arc<Mutex<Option<File>>>;

/// What the writer's thread and everybody else know together.
struct Shared {
    /// `None` between a failure and the next successful opening. Locked for as long as it takes to clone the `Arc`.
    database: Mutex<Option<Arc<Database>>>,
    health: Mutex<Health>,
    /// As `health` says, for those who look often.
    healthy: AtomicBool,
    stalled: AtomicBool,
    /// Told under the lock of `health`, so that nothing is told out of order.
    watch: Watch,
    resealing: AtomicBool,
    waiting: AtomicU64,
    counts: Counts,
}

type Watch = Box<dyn Fn(bool) + Send + Sync>;

/// How the disk does.
#[derive(Clone, Copy, Debug)]
struct Health {
    /// The last write succeeded.
    works: bool,
    /// Somebody waited in vain, and the thread that writes has not come back since.
    stalled: bool,
}

/// What the database did, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Times the disk was asked to keep what was written (`fsync`).
    pub syncs: Arc<AtomicU64>,
    /// Transactions that are on disk.
    pub commits: AtomicU64,
    /// Batches that are on disk and were waited for; above `commits` where several shared one.
    pub batches: AtomicU64,
    /// Batches that were answered with [`Unavailable`].
    pub failures: AtomicU64,
    /// Of these, batches that waited too long for the disk.
    pub timeouts: AtomicU64,
}

/// A named table. Each subject of the gateway has one of its own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Table {
    /// Certificates that were ordered, and the account they were ordered with.
    Acme,
    /// What browsers are known again by.
    Devices,
    /// Second factors.
    Factors,
    /// API keys.
    Keys,
    /// What the database knows of itself.
    Meta,
    /// Families of refresh tokens, by their names.
    Refresh,
    /// Revocations.
    Revocations,
    /// When sessions were last seen, many in a record.
    Seen,
    /// Sessions, by session key.
    Sessions,
    /// Keys that the gateway signs with.
    Signing,
    /// Users.
    Users,
}

/// Changes that come into effect together or not at all.
#[derive(Default)]
pub struct Batch(Vec<Change>);

struct Change {
    table: Table,
    key: Box<[u8]>,
    /// What memory calls it, where `key` is hidden.
    shown: Option<Box<[u8]>>,
    /// `None`: the record goes. Wiped when dropped, since some records are secrets.
    value: Option<Zeroizing<Vec<u8>>>,
    /// Nothing is written where no record is.
    replaces: bool,
    /// Another process wants it, and knows of it.
    foreign: bool,
}

/// A batch on its way to the disk.
#[derive(Debug)]
#[must_use = "what is not awaited may be answered before it is on disk"]
pub struct Commit<T>(oneshot::Receiver<Result<T, Unavailable>>);

impl<T> Commit<T> {
    /// Waits on this thread. For the start: not for workers.
    ///
    /// # Errors
    /// [`Unavailable`], as the future.
    pub fn wait(self) -> Result<T, Unavailable> {
        self.0.blocking_recv().unwrap_or(Err(Unavailable))
    }
}

impl<T> Future for Commit<T> {
    type Output = Result<T, Unavailable>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(Unavailable)))
    }
}

/// The change does not hold: the disk is full, broken or too slow. Answer 503 and change nothing. It is not on disk; if
/// it came there after all while nobody waited any more it is taken back, and only a crash before that leaves it there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unavailable;

/// Why the database cannot be opened: what, where, and how to mend it.
#[derive(Debug)]
pub struct OpenError(String);

/// Why a table cannot be read.
#[derive(Debug)]
pub struct LoadError(String);

/// A change of what is asked in memory: onto the disk first, if there is one, then into memory, in the same order.
///
/// # Errors
/// [`Unavailable`]: nothing has changed, and nothing will.
pub async fn change<M: Send + Sync + 'static, T: Send + 'static>(
    durable: Option<&Durable>,
    batch: Batch,
    memory: &Arc<M>,
    then: impl FnOnce(&M) -> T + Send + 'static,
) -> Result<T, Unavailable> {
    match durable {
        None => Ok(then(memory)),
        Some(durable) => {
            let memory = Arc::clone(memory);
            durable.commit_then(batch, move || then(&memory)).await
        }
    }
}

impl Durable {
    /// Opens or makes the database, and starts the threads that write and that refuse who waits too long. `watch` is
    /// told, on one of these, when the database stops and starts working again.
    ///
    /// # Errors
    /// [`OpenError`] when the directory cannot be used, another process uses it, or what is in it is damaged, of
    /// another program, or sealed with other keys.
    pub fn open(
        settings: &Settings,
        clock: &Clock,
        watch: impl Fn(bool) + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let dir = &settings.dir;
        make_dir(dir)?;
        let lock = lock(dir)?;
        let keys = Arc::new(Keyring::load(settings)?);
        let path = dir.join(DATABASE);
        let syncs = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&syncs);
        let lock = Arc::new(Mutex::new(Some(lock)));
        let (again, home) = (Arc::clone(&lock), dir.clone());
        let opener = move || {
            let mut lock = again.lock().unwrap_or_else(PoisonError::into_inner);
            if lock.is_none() {
                // It was given away, and nothing came of it.
                *lock = Some(self::lock(&home).map_err(|OpenError(why)| io::Error::other(why))?);
            }
            Disk::open(&path, Arc::clone(&counted))
        };
        Self::start(opener, settings, keys, syncs, Some(lock), None, clock, Box::new(watch))
    }

    #[expect(clippy::too_many_arguments, reason = "each of them is one thing that a database in a test has otherwise")]
    fn start<S: redb::StorageBackend>(
        opener: impl Fn() -> io::Result<S> + Send + 'static,
        settings: &Settings,
        keys: Arc<Keyring>,
        syncs: Arc<AtomicU64>,
        lock: Option<Lock>,
        held: Option<Held>,
        clock: &Clock,
        watch: Watch,
    ) -> Result<Self, OpenError> {
        let dir = &settings.dir;
        let database = open_database(&opener, true).map_err(|why| cannot_open(dir, &why))?;
        let (sender, receiver) = mpsc::channel();
        let shared = Arc::new(Shared {
            database: Mutex::new(Some(Arc::new(database))),
            health: Mutex::new(Health { works: true, stalled: false }),
            healthy: AtomicBool::new(true),
            stalled: AtomicBool::new(false),
            watch,
            resealing: AtomicBool::new(keys.has_older()),
            waiting: AtomicU64::new(0),
            counts: Counts { syncs, ..Counts::default() },
        });
        let reopen = Box::new(move || open_database(&opener, false));
        let waiters = Arc::new(Waiters::new(settings.timeout));
        let (known, queue) = (Arc::clone(&shared), Arc::clone(&waiters));
        let lock = lock.unwrap_or_default();
        let mut writer =
            Writer::new(receiver, known, queue, Arc::clone(&keys), reopen, Arc::clone(&lock), clock.clone());
        let (clock, names) = writer.begin().map_err(|why| cannot_open(dir, &why))?;
        let no_thread = |error: io::Error| {
            OpenError(format!("the threads that write to {} cannot be started: {error}", dir.display()))
        };
        // Should the second one fail, the first one ends with the writer that it would have run.
        let watcher = waiters.watch(Arc::clone(&shared)).map_err(no_thread)?;
        let writer = std::thread::Builder::new().name("durable".to_owned()).spawn(move || writer.run());
        let (writer, watcher) = (Some(writer.map_err(no_thread)?), Some(watcher));
        Ok(Self(Arc::new(Inner { sender, shared, keys, names, waiters, clock, writer, watcher, lock, held })))
    }

    /// Writes a batch; the future is ready when it is on disk, or after [`Settings::timeout`]. It is written whether or
    /// not the future is polled or dropped.
    ///
    /// # Errors
    /// [`Unavailable`]: nothing of it holds.
    pub fn commit(&self, batch: Batch) -> Commit<()> {
        self.commit_then(batch, || ())
    }

    /// As [`Self::commit`]; `then` runs once the batch is on disk, before anybody hears of it, on the thread that
    /// writes: so memory changes in the order of the disk, and also when nobody waits any more. It must be short.
    ///
    /// # Errors
    /// [`Unavailable`]: nothing of it holds, and `then` has not run and will not.
    pub fn commit_then<T: Send + 'static>(&self, batch: Batch, then: impl FnOnce() -> T + Send + 'static) -> Commit<T> {
        self.submit(self.0.names.hide(batch), then)
    }

    /// The batch as it goes to disk.
    fn submit<T: Send + 'static>(&self, batch: Batch, then: impl FnOnce() -> T + Send + 'static) -> Commit<T> {
        let (done, answer) = oneshot::channel();
        let shared = &self.0.shared;
        let has_room = || shared.waiting.fetch_add(1, Ordering::AcqRel) < MAX_WAITING;
        if shared.stalled.load(Ordering::Acquire) {
            shared.counts.failures.fetch_add(1, Ordering::Relaxed);
        } else if has_room() {
            let done = Box::new(move |written: bool| {
                // Nobody may be waiting any more; `then` runs all the same.
                let _ = done.send(if written { Ok(then()) } else { Err(Unavailable) });
            });
            if let Some(ticket) = self.0.waiters.begin(done) {
                // Without a receiver everybody who waits was refused.
                let _ = self.0.sender.send(Message::Commit { batch, ticket });
            }
        } else {
            shared.waiting.fetch_sub(1, Ordering::AcqRel);
            shared.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
        // Without a sender the future reads `Unavailable`.
        Commit(answer)
    }

    /// Writes a batch within five seconds. It may be lost in a crash, and is kept for later where the disk fails.
    pub fn later(&self, batch: Batch) {
        if !batch.is_empty() {
            // Without a receiver the gateway is stopping.
            let _ = self.0.sender.send(Message::Later(self.0.names.hide(batch)));
        }
    }

    /// Whether the disk answers. While it does not, what can be told later is better kept where it is: nobody takes it.
    pub fn answers(&self) -> bool {
        !self.0.shared.stalled.load(Ordering::Acquire)
    }

    /// Every record of a table, in no order. For the start: it reads from disk on the calling thread.
    ///
    /// # Errors
    /// [`LoadError`] when the disk fails, a record is damaged or sealed with a key that is not there any more, or
    /// `each` says what is wrong with one.
    pub fn load(
        &self,
        table: Table,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), &'static str>,
    ) -> Result<(), LoadError> {
        self.load_range(table, (Bound::Unbounded, Bound::Unbounded), &mut each)
    }

    /// As [`Self::load`], on all processors: each thread makes itself a reader and reads parts of the table with it.
    /// What keys are on disk should begin with evenly spread bytes. Records come in no order.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_shared<R>(&self, table: Table, reader: impl Fn() -> R + Sync) -> Result<(), LoadError>
    where
        R: FnMut(&[u8], &[u8]) -> Result<(), &'static str>,
    {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut each = reader();
            while let Ok(first) = u8::try_from(next.fetch_add(1, Ordering::Relaxed)) {
                let (from, to) = ([first], [first.saturating_add(1)]);
                let to = if first == u8::MAX { Bound::Unbounded } else { Bound::Excluded(to.as_slice()) };
                // The first part also has the empty key.
                let from = if first == 0 { Bound::Unbounded } else { Bound::Included(from.as_slice()) };
                self.load_range(table, (from, to), &mut each).inspect_err(|_| {
                    // The others need not go on.
                    next.store(usize::from(u8::MAX) + 1, Ordering::Relaxed);
                })?;
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_READERS);
        std::thread::scope(|scope| {
            // Where the system gives no more threads, fewer do the work.
            let others: Vec<_> = (1..threads)
                .filter_map(|_| std::thread::Builder::new().name("restore".to_owned()).spawn_scoped(scope, work).ok())
                .collect();
            let damaged = |_| Err(LoadError::of_record(table, "it cannot be read"));
            let own = work();
            others.into_iter().map(|other| other.join().unwrap_or_else(damaged)).fold(own, Result::and)
        })
    }

    fn load_range(
        &self,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        each: &mut impl FnMut(&[u8], &[u8]) -> Result<(), &'static str>,
    ) -> Result<(), LoadError> {
        let database = self.0.shared.database().clone().ok_or_else(|| LoadError("it cannot be read".to_owned()))?;
        let keys = &self.0.keys;
        let read = || -> Result<(), String> {
            let transaction = database.begin_read().map_err(|error| error.to_string())?;
            let opened = match transaction.open_table(table.definition()) {
                Ok(opened) => opened,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            };
            let mut text = Zeroizing::new(Vec::new());
            for record in opened.range::<&[u8]>(range).map_err(|error| error.to_string())? {
                let (key, value) = record.map_err(|error| error.to_string())?;
                keys.open(table, key.value(), value.value(), &mut text)?;
                let (key, value) = Names::show(table, key.value(), &text)?;
                each(key, value)?;
            }
            Ok(())
        };
        caught(read).map_err(|why| LoadError(format!("table `{}`: {why}", table.name())))
    }

    /// Whether changes can be made: the last write succeeded, and the disk answers.
    pub fn healthy(&self) -> bool {
        self.0.shared.healthy.load(Ordering::Acquire)
    }

    /// Whether older keys are still needed: records may be sealed with them.
    pub fn needs_older_keys(&self) -> bool {
        self.0.shared.resealing.load(Ordering::Acquire)
    }

    /// What it did so far.
    pub fn counts(&self) -> &Counts {
        &self.0.shared.counts
    }

    /// The clock to go by: the one that was handed in, except that time has not been earlier than what is on disk.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Writes what was left for later, and stops writing; waits for at most `limit`. `true` if all of it is on disk.
    pub fn close(&self, limit: Duration) -> bool {
        let (done, answer) = mpsc::channel();
        if self.0.sender.send(Message::Close(done)).is_err() {
            return false;
        }
        answer.recv_timeout(limit).unwrap_or_else(|_| {
            // Or the thread is gone, and there is nothing to wait for either.
            self.0.shared.note(|health| health.stalled = true);
            false
        })
    }
}

impl Drop for Inner {
    /// Whoever opens the directory next must find a file that nobody writes any more: the thread ends first, then the
    /// database closes, and the lock goes last.
    fn drop(&mut self) {
        let (nobody, _) = mpsc::channel();
        self.sender = nobody;
        if self.shared.stalled.load(Ordering::Acquire) {
            // The thread may hang for good, and must not keep the process from ending. Until then it owns the file.
            if let Some(lock) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take() {
                std::mem::forget(lock);
            }
            return self.waiters.close();
        }
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
        {
            // It catches its own panics; whatever it met, it is gone.
            let _ = writer.join();
        }
        if let Some(watcher) = self.watcher.take()
            && watcher.thread().id() != std::thread::current().id()
        {
            // It ends with the writer.
            let _ = watcher.join();
        }
    }
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").field("healthy", &self.healthy()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Takes note of how the disk does, and tells the watcher; `Some` if it is another matter now whether changes can
    /// be made.
    fn note(&self, change: impl FnOnce(&mut Health)) -> Option<bool> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let before = health.is_good();
        change(&mut health);
        let good = health.is_good();
        self.stalled.store(health.stalled, Ordering::Release);
        self.healthy.store(good, Ordering::Release);
        (before != good).then(|| {
            (self.watch)(good);
            good
        })
    }

    /// Somebody has waited so long in vain.
    fn stalled(&self, patience: Duration) {
        if self.note(|health| health.stalled = true) == Some(false) {
            tracing::error!(
                "state cannot be written: the disk has not answered for {}; logins and logouts are refused until it does",
                humantime::format_duration(patience)
            );
        }
    }

    fn database(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        // Nothing panics while it is held.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    const fn is_good(self) -> bool {
        self.works && !self.stalled
    }
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a record, in the place of any of that key.
    #[must_use]
    pub fn put(mut self, table: Table, key: &[u8], value: Vec<u8>) -> Self {
        self.0.push(Change {
            table,
            key: key.into(),
            value: Some(Zeroizing::new(value)),
            replaces: false,
            shown: None,
            foreign: false,
        });
        self
    }

    /// Writes a record in the place of one of that key; where none is any more, nothing. For [`Durable::commit`].
    #[must_use]
    pub fn replace(mut self, table: Table, key: &[u8], value: Vec<u8>) -> Self {
        self.0.push(Change {
            table,
            key: key.into(),
            value: Some(Zeroizing::new(value)),
            replaces: true,
            shown: None,
            foreign: false,
        });
        self
    }

    /// Removes a record, if there is one.
    #[must_use]
    pub fn remove(mut self, table: Table, key: &[u8]) -> Self {
        self.0.push(Change { table, key: key.into(), value: None, replaces: false, shown: None, foreign: false });
        self
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("changes", &self.0.len()).finish_non_exhaustive()
    }
}

impl Table {
    /// All of them.
    const ALL: [Self; 11] = [
        Self::Acme,
        Self::Devices,
        Self::Factors,
        Self::Keys,
        Self::Meta,
        Self::Refresh,
        Self::Revocations,
        Self::Seen,
        Self::Sessions,
        Self::Signing,
        Self::Users,
    ];

    /// Its name on disk, which is part of what a record is sealed with.
    const fn name(self) -> &'static str {
        match self {
            Self::Acme => "acme",
            Self::Devices => "devices",
            Self::Factors => "factors",
            Self::Keys => "keys",
            Self::Meta => "meta",
            Self::Refresh => "refresh",
            Self::Revocations => "revocations",
            Self::Seen => "seen",
            Self::Sessions => "sessions",
            Self::Signing => "signing",
            Self::Users => "users",
        }
    }

    /// Whether its keys could tell who somebody is, and are hidden on disk.
    const fn hides_keys(self) -> bool {
        match self {
            Self::Acme | Self::Factors | Self::Keys | Self::Revocations | Self::Signing | Self::Users => true,
            // Fixed words; and hashes of random tokens, or the beginnings of such.
            Self::Devices | Self::Meta | Self::Refresh | Self::Seen | Self::Sessions => false,
        }
    }

    const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.name())
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the change could not be written to disk")
    }
}

impl std::error::Error for Unavailable {}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

impl LoadError {
    /// For whoever cannot make sense of a record of theirs.
    pub fn of_record(table: Table, why: &str) -> Self {
        Self(format!("table `{}`: {why}", table.name()))
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoadError {}

/// Opens the database on a storage. `thorough`: verifies the checksum of every page, so that a damaged file is
/// refused and not trusted.
fn open_database<S: redb::StorageBackend>(
    opener: &impl Fn() -> io::Result<S>,
    thorough: bool,
) -> Result<Database, String> {
    let storage = opener().map_err(|error| error.to_string())?;
    caught(|| {
        Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(thorough)
            .create_with_backend(storage)
            .map_err(|error| error.to_string())
    })
}

/// The database promises errors for whatever it finds on disk; should a damaged file make it panic all the same, that
/// is an error too.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("it is damaged".to_owned()))
}

fn cannot_open(dir: &Path, why: &str) -> OpenError {
    let path = dir.join(DATABASE);
    OpenError(format!("{0} cannot be opened: {why}; to begin without what is in it, move it away", path.display()))
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| OpenError(format!("the directory {} cannot be made: {error}", dir.display())))
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let failed = |error: &dyn fmt::Display| OpenError(format!("{} cannot be used: {error}", path.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(OpenError(format!("{} is in use by another gateway; each needs a directory of its own", dir.display())))
        }
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

/// The database's file in `state_dir`.
const DATABASE: &str = "state.redb";

/// Locked by the gateway that uses the directory.
const LOCK: &str = "lock";

/// What the database may keep in memory; the rest is the system's page cache's.
const CACHE_BYTES: usize = 16 << 20;

/// Threads that read a table together at most.
const MAX_READERS: usize = 16;

/// Batches that may wait for the disk; the next one is refused.
const MAX_WAITING: u64 = 16_384;

#[cfg(test)]
mod tests;
