//! The access log, the audit log and the diagnostics.
//!
//! A worker writes access lines into a buffer of its own and hands it over when it holds 16 KiB, on its tick and at
//! its end; audit lines are handed over one by one. One thread writes everything. What waits for it is bounded in
//! bytes: when a sink is too slow, access lines are dropped and counted, and audit lines only when as many bytes
//! again wait (R19). Audit lines that were lost, for whatever reason, are told in the audit log as soon as it takes
//! lines again. Whatever a client sent is escaped to printable ASCII, in both formats (R34).

use std::{
    cell::{Cell, RefCell},
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    mem,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::Notify;
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, ParseError, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::{
    LogFormat, LogSettings, LogSink,
    audit::{self, Audit},
    line::{Line, Stamp},
    metrics::Exposition,
};
use crate::clock::{self, Timestamp};

/// Why logging cannot begin. `Display` says how to mend it.
#[derive(Debug)]
pub enum LogError {
    /// A diagnostics subscriber is already installed.
    AlreadyInstalled,
    /// `log.level` is no filter.
    BadLevel {
        /// What was written.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A log file cannot be opened for appending.
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The writer thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyInstalled => f.write_str("diagnostics are already set up in this process"),
            Self::BadLevel { level, reason } => write!(
                f,
                "log.level {level:?} is no filter ({reason}); write error, warn, info, debug, trace, or pairs as in \
                 \"info,portcullis::login=debug\""
            ),
            Self::Open { path, source } => write!(
                f,
                "cannot append to the log file {}: {source}; make its folder and let this user write there",
                path.display()
            ),
            Self::Thread(source) => write!(f, "cannot start the log's writer thread: {source}"),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::AlreadyInstalled | Self::BadLevel { .. } => None,
            Self::Open { source, .. } | Self::Thread(source) => Some(source),
        }
    }
}

/// Sends diagnostics (`tracing` events) to standard error, in the format and from the level of the settings.
///
/// # Errors
/// [`LogError`] when the level is no filter, or when it was called before.
pub fn install_diagnostics(settings: &LogSettings) -> Result<(), LogError> {
    let bad = |error: ParseError| LogError::BadLevel { level: settings.level.clone(), reason: error.to_string() };
    let filter: Targets = settings.level.parse().map_err(bad)?;
    let builder = tracing_subscriber::fmt().with_max_level(highest_level(&filter));
    let builder = builder.with_writer(io::stderr).with_ansi(false);
    let installed = match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).finish().with(filter).try_init(),
        LogFormat::Text => builder.finish().with(filter).try_init(),
    };
    installed.map_err(|_| LogError::AlreadyInstalled)
}

/// What passes is the filter's to say alone; above what it passes at most nobody even asks it. Libraries have a hundred
/// places to trace one request from, and each would ask.
fn highest_level(filter: &Targets) -> LevelFilter {
    Layer::<Registry>::max_level_hint(filter).unwrap_or(LevelFilter::TRACE)
}

/// Both logs and their writer thread.
#[derive(Debug)]
pub(super) struct Log {
    queue: Arc<Queue>,
    audit: Audit,
    access: bool,
    format: LogFormat,
}

impl Log {
    /// Opens the sinks and starts the writer.
    pub(super) fn start(settings: &LogSettings) -> Result<Self, LogError> {
        let sinks = Sinks::open(settings)?;
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            limit: settings.queue_bytes,
            counts: Arc::default(),
        });
        let audit = if settings.audit == LogSink::Off { Audit::off() } else { Audit::to(Arc::clone(&queue)) };
        let access = settings.access != LogSink::Off;
        if access || audit.is_on() {
            let queue = Arc::clone(&queue);
            let write = move || queue.write_all(sinks);
            thread::Builder::new().name("log".to_owned()).spawn(write).map_err(LogError::Thread)?;
        }
        Ok(Self { queue, audit, access, format: settings.format })
    }

    /// The part of one worker.
    pub(super) fn worker(&self) -> WorkerLog {
        WorkerLog {
            queue: Arc::clone(&self.queue),
            on: self.access,
            format: self.format,
            buffer: RefCell::default(),
            lines: Cell::new(0),
            stamp: Cell::new(Stamp::default()),
            filled: Notify::new(),
        }
    }

    pub(super) const fn audit(&self) -> &Audit {
        &self.audit
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.queue.counts)
    }

    /// Has the writer open its files anew before it writes another line.
    pub(super) fn reopen(&self) {
        self.queue.lock().reopen = true;
        self.queue.filled.notify_one();
    }

    /// Ends the writer once all is written, or after `limit`; `true` in the first case.
    pub(super) fn finish(&self, limit: Duration) -> bool {
        let deadline = clock::instant() + limit;
        let mut state = self.queue.lock();
        state.stopped = true;
        self.queue.filled.notify_one();
        while !state.pending.is_empty() || state.writing {
            let left = deadline.saturating_duration_since(clock::instant());
            if left.is_zero() {
                return false;
            }
            state = self.queue.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.lock().stopped = true;
        self.queue.filled.notify_one();
    }
}

/// The access log of one worker.
#[derive(Debug)]
pub(super) struct WorkerLog {
    queue: Arc<Queue>,
    on: bool,
    format: LogFormat,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    stamp: Cell<Stamp>,
    /// Told when the buffer gets its first line.
    filled: Notify,
}

impl WorkerLog {
    /// Whether access lines are wanted at all.
    pub(super) const fn is_on(&self) -> bool {
        self.on
    }

    /// Adds one line; `fill` writes the fields after the time.
    pub(super) fn write(&self, now: Timestamp, fill: impl FnOnce(&mut Line<'_>)) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.is_empty() {
            self.filled.notify_one();
        }
        let mut line = Line::begin(&mut buffer, self.format);
        let mut stamp = self.stamp.get();
        line.plain("time", stamp.at(now));
        self.stamp.set(stamp);
        fill(&mut line);
        line.end();
        let full = buffer.len() >= FLUSH_AT;
        drop(buffer);
        self.lines.set(self.lines.get() + 1);
        if full {
            self.flush();
        }
    }

    /// Hands over what is buffered.
    pub(super) fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            let (bytes, lines) = (mem::take(&mut *buffer), self.lines.take());
            let batch = Batch { channel: Channel::Access, bytes, lines, at: Timestamp::default() };
            *buffer = self.queue.push(batch);
        }
    }

    pub(super) async fn flush_as_needed(&self) {
        loop {
            self.filled.notified().await;
            tokio::time::sleep(FLUSH_AFTER).await;
            self.flush();
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// How the logs themselves fare.
#[derive(Debug, Default)]
pub(super) struct Counts {
    written: [AtomicU64; 2],
    dropped: [AtomicU64; 2],
    failed: [AtomicU64; 2],
}

impl Counts {
    pub(super) fn expose(&self, exposition: &mut Exposition) {
        for (name, help, counts) in [
            ("portcullis_log_lines_total", "Log lines written.", &self.written),
            ("portcullis_log_lines_dropped_total", "Log lines dropped because the queue was full.", &self.dropped),
            ("portcullis_log_lines_failed_total", "Log lines that the sink did not take.", &self.failed),
        ] {
            let mut samples = exposition.counter(name, help);
            for (label, count) in ["access", "audit"].into_iter().zip(counts) {
                samples.value(&[("log", label)], count.load(Ordering::Relaxed));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Channel {
    Access,
    Audit,
}

#[derive(Debug)]
struct Batch {
    channel: Channel,
    bytes: Vec<u8>,
    lines: u64,
    /// When the last of the lines was written; only known of audit lines.
    at: Timestamp,
}

/// What waits for the writer. The lock is a std mutex because it is held for a few pushes only, never across a write.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
    limit: usize,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<Batch>,
    /// Bytes pending or being written.
    bytes: usize,
    /// Emptied buffers for the workers, at most [`MAX_SPARE`].
    spare: Vec<Vec<u8>>,
    writing: bool,
    stopped: bool,
    /// Whether files are to be opened anew, because those that are open may have been renamed.
    reopen: bool,
    /// Audit lines lost and not yet told of, with the time of the last.
    lost: (u64, Timestamp),
}

impl State {
    fn lose(&mut self, batch: &Batch) {
        if batch.channel == Channel::Audit {
            self.lost = (self.lost.0.saturating_add(batch.lines), batch.at);
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one audit line.
    pub(super) fn push_audit(&self, at: Timestamp, bytes: Vec<u8>) {
        self.push(Batch { channel: Channel::Audit, bytes, lines: 1, at });
    }

    /// Takes a batch, or drops it if too much waits; gives back an empty buffer for the next one.
    fn push(&self, mut batch: Batch) -> Vec<u8> {
        let limit = match batch.channel {
            Channel::Access => self.limit,
            Channel::Audit => self.limit.saturating_mul(2),
        };
        let mut state = self.lock();
        if state.stopped || state.bytes.saturating_add(batch.bytes.len()) > limit {
            state.lose(&batch);
            drop(state);
            self.counts.dropped[batch.channel as usize].fetch_add(batch.lines, Ordering::Relaxed);
            batch.bytes.clear();
            return batch.bytes;
        }
        state.bytes += batch.bytes.len();
        let idle = state.pending.is_empty() && !state.writing;
        state.pending.push(batch);
        let spare = state.spare.pop().unwrap_or_default();
        drop(state);
        if idle {
            self.filled.notify_one();
        }
        spare
    }

    /// The writer thread: until stopped and empty.
    fn write_all(&self, mut sinks: Sinks) {
        let mut taken = Vec::new();
        loop {
            let mut state = self.lock();
            while state.pending.is_empty() && !state.reopen {
                state.writing = false;
                self.emptied.notify_all();
                if state.stopped {
                    return;
                }
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.writing = true;
            mem::swap(&mut state.pending, &mut taken);
            let (lost, last) = mem::take(&mut state.lost);
            let reopen = mem::take(&mut state.reopen);
            drop(state);
            if reopen {
                sinks.reopen();
            }
            if lost > 0 {
                // Only now is there room: whoever reads the log must know that something is missing from it.
                let notice = Batch { channel: Channel::Audit, bytes: audit::lost(lost, last), lines: lost, at: last };
                if sinks.write(Channel::Audit, &notice.bytes).is_err() {
                    self.lock().lose(&notice);
                }
            }
            for batch in taken.drain(..) {
                let counts = match sinks.write(batch.channel, &batch.bytes) {
                    Ok(()) => &self.counts.written,
                    Err(()) => {
                        self.lock().lose(&batch);
                        &self.counts.failed
                    }
                };
                counts[batch.channel as usize].fetch_add(batch.lines, Ordering::Relaxed);
                self.recycle(batch);
            }
        }
    }

    fn recycle(&self, mut batch: Batch) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(batch.bytes.len());
        if batch.channel == Channel::Access && state.spare.len() < MAX_SPARE && batch.bytes.capacity() <= 4 * FLUSH_AT {
            batch.bytes.clear();
            state.spare.push(batch.bytes);
        }
    }
}

struct Sinks {
    access: Sink,
    audit: Sink,
}

struct Sink {
    target: Target,
    /// Whether the last write failed: the failure is told once, not for each batch.
    failing: bool,
}

enum Target {
    File { file: File, path: PathBuf },
    Off,
    Stderr,
    Stdout,
}

impl Sinks {
    fn open(settings: &LogSettings) -> Result<Self, LogError> {
        Ok(Self { access: Sink::open(&settings.access)?, audit: Sink::open(&settings.audit)? })
    }

    /// Opens the files at their paths again. One that cannot be opened is told of, and the one that is open goes on.
    fn reopen(&mut self) {
        for sink in [&mut self.access, &mut self.audit] {
            let Target::File { file, path } = &mut sink.target else { continue };
            match open(path) {
                Ok(opened) => *file = opened,
                Err(error) => tracing::error!(
                    path = %path.display(), %error,
                    "the log file cannot be opened anew; lines still go to the one that was open"
                ),
            }
        }
    }

    fn write(&mut self, channel: Channel, bytes: &[u8]) -> Result<(), ()> {
        let sink = match channel {
            Channel::Access => &mut self.access,
            Channel::Audit => &mut self.audit,
        };
        let written = match &mut sink.target {
            Target::File { file, .. } => file.write_all(bytes),
            Target::Off => Ok(()),
            Target::Stderr => io::stderr().lock().write_all(bytes),
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
        };
        match written {
            Ok(()) => {
                sink.failing = false;
                Ok(())
            }
            Err(error) => {
                if !mem::replace(&mut sink.failing, true) {
                    tracing::error!(log = ?channel, %error, "log lines are being lost");
                }
                Err(())
            }
        }
    }
}

impl Sink {
    fn open(sink: &LogSink) -> Result<Self, LogError> {
        let target = match sink {
            LogSink::File(path) => {
                let file = open(path).map_err(|source| LogError::Open { path: path.clone(), source })?;
                Target::File { file, path: path.clone() }
            }
            LogSink::Off => Target::Off,
            LogSink::Stderr => Target::Stderr,
            LogSink::Stdout => Target::Stdout,
        };
        Ok(Self { target, failing: false })
    }
}

/// For appending. Lines tell who did what: not for every user of the machine.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Bytes of a worker's buffer at which it is handed over.
const FLUSH_AT: usize = 16 << 10;
/// How long a line may wait in a worker's buffer where [`WorkerLog::flush_as_needed`] runs.
const FLUSH_AFTER: Duration = Duration::from_millis(50);
/// Buffers kept for reuse: two for each of 16 workers.
const MAX_SPARE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::from_unix_millis(1_893_499_200_123);

    fn to_file(path: &Path, format: LogFormat, queue_bytes: usize) -> Log {
        let sink = LogSink::File(path.to_owned());
        let settings = LogSettings { format, access: sink.clone(), audit: sink, queue_bytes, ..LogSettings::default() };
        Log::start(&settings).unwrap()
    }

    #[test]
    fn a_worker_hands_over_a_full_buffer_and_the_rest_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = to_file(&path, LogFormat::Json, 1 << 20);
        let worker = log.worker();

        for number in 0..1000 {
            worker.write(NOON, |line| line.number("number", number));
        }
        drop(worker);
        assert!(log.finish(Duration::from_secs(10)));

        let text = std::fs::read_to_string(&path).unwrap();
        let numbers: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        assert_eq!(log.counts().written[0].load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn lines_are_dropped_and_counted_when_the_queue_is_full_but_audit_lines_later() {
        let queue = Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            limit: 100,
            counts: Arc::default(),
        };
        let batch = |channel| Batch { channel, bytes: vec![b'x'; 60], lines: 2, at: NOON };

        // Nobody writes: what is taken stays.
        queue.push(batch(Channel::Access));
        queue.push(batch(Channel::Access));
        queue.push(batch(Channel::Audit));

        assert_eq!(queue.lock().pending.len(), 2);
        assert_eq!(queue.counts.dropped[0].load(Ordering::Relaxed), 2);
        assert_eq!(queue.counts.dropped[1].load(Ordering::Relaxed), 0);
        queue.push(batch(Channel::Audit));
        queue.push(batch(Channel::Audit));
        assert_eq!(queue.counts.dropped[1].load(Ordering::Relaxed), 2);
    }

    #[test]
    fn lost_audit_lines_are_told_as_soon_as_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let queue = Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            limit: 4,
            counts: Arc::default(),
        };
        let later = NOON.plus(Duration::from_secs(7));
        queue.push_audit(NOON, b"{\"n\":1}\n".to_vec());
        queue.push_audit(NOON, b"{\"n\":2}\n".to_vec());
        queue.push_audit(later, b"{\"n\":3}\n".to_vec());
        queue.lock().stopped = true;

        let sink = LogSink::File(path.clone());
        queue.write_all(Sinks::open(&LogSettings { audit: sink, ..LogSettings::default() }).unwrap());

        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["event"], &lines[0]["count"]), (&"audit.lost".into(), &2.into()));
        assert_eq!(lines[0]["time"], "2030-01-01T12:00:07.123Z");
        assert_eq!(lines[1]["n"], 1);
        assert_eq!(lines.len(), 2);
        assert_eq!(queue.lock().lost.0, 0);
    }

    #[test]
    fn files_that_were_renamed_are_opened_anew_and_no_line_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (path, renamed) = (folder.path().join("log"), folder.path().join("log.1"));
        let log = to_file(&path, LogFormat::Json, 1 << 20);
        let worker = log.worker();
        let numbers = |path: &Path| -> Vec<u64> {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64().unwrap())
                .collect()
        };
        let write = |numbers: std::ops::Range<u64>| {
            numbers.for_each(|number| worker.write(NOON, |line| line.number("number", number)));
            worker.flush();
        };

        write(0..100);
        std::fs::rename(&path, &renamed).unwrap();
        log.reopen();
        write(100..200);
        assert!(log.finish(Duration::from_secs(10)));

        let (before, after) = (numbers(&renamed), numbers(&path));
        assert!(after.ends_with(&(100..200).collect::<Vec<_>>()), "{after:?}");
        assert_eq!([before, after].concat(), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_is_written_on() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, moved) = (folder.path().join("logs"), folder.path().join("moved"));
        std::fs::create_dir(&inside).unwrap();
        let log = to_file(&inside.join("log"), LogFormat::Json, 1 << 20);
        let worker = log.worker();

        std::fs::rename(&inside, &moved).unwrap();
        log.reopen();
        worker.write(NOON, |line| line.flag("kept", true));
        drop(worker);
        assert!(log.finish(Duration::from_secs(10)));

        assert_eq!(std::fs::read_to_string(moved.join("log")).unwrap().lines().count(), 1);
    }

    #[test]
    fn finishing_does_not_wait_forever_for_a_stuck_sink() {
        let settings = LogSettings { access: LogSink::Off, audit: LogSink::Off, ..LogSettings::default() };
        let log = Log::start(&settings).unwrap();
        // Off starts no writer, which is the slowest sink there is.
        log.queue.push(Batch { channel: Channel::Access, bytes: vec![b'x'], lines: 1, at: NOON });

        assert!(!log.finish(Duration::from_millis(1)));
    }

    #[test]
    fn a_log_that_is_off_takes_nothing() {
        let settings = LogSettings { access: LogSink::Off, audit: LogSink::Off, ..LogSettings::default() };
        let log = Log::start(&settings).unwrap();

        assert!(!log.audit().is_on());
        assert!(!log.worker().is_on());
        assert!(log.queue.lock().pending.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_told_by_name() {
        let settings =
            LogSettings { access: LogSink::File("/nonexistent/access.log".into()), ..LogSettings::default() };

        let error = Log::start(&settings).unwrap_err().to_string();

        assert!(error.contains("/nonexistent/access.log"), "{error}");
    }

    #[test]
    fn a_bad_level_is_told() {
        let settings = LogSettings { level: "portcullis=loud".to_owned(), ..LogSettings::default() };

        let error = install_diagnostics(&settings).unwrap_err().to_string();

        assert!(error.contains("portcullis=loud"), "{error}");
    }

    #[test]
    fn nobody_is_asked_above_what_the_filter_passes() {
        for (level, highest) in [
            ("info", LevelFilter::INFO),
            ("warn,portcullis::login=debug", LevelFilter::DEBUG),
            ("h2=trace", LevelFilter::TRACE),
            ("error,portcullis::acme=info", LevelFilter::INFO),
            ("off", LevelFilter::OFF),
        ] {
            assert_eq!(highest_level(&level.parse().unwrap()), highest, "{level}");
        }
    }

    #[tokio::test]
    async fn buffered_lines_leave_by_themselves() {
        let settings = LogSettings { audit: LogSink::Off, access: LogSink::Off, ..LogSettings::default() };
        let log = Log::start(&settings).unwrap();
        let worker = log.worker();
        worker.write(NOON, |line| line.flag("ok", true));

        let handed_over = async {
            while log.queue.lock().pending.is_empty() {
                tokio::task::yield_now().await;
            }
        };

        tokio::select! {
            () = worker.flush_as_needed() => unreachable!("it goes on for as long as it is polled"),
            () = handed_over => {}
        }
    }
}
