//! The access log, the audit log and the diagnostics.
//!
//! A worker writes access lines into a buffer of its own and hands it over when it holds 16 KiB, on its tick and at
//! its end; audit lines are handed over one by one. One thread writes everything. What waits for it is bounded in
//! bytes: when a sink is too slow, access lines are dropped and counted, and audit lines only when as many bytes
//! again wait (R19). Whatever a client sent is escaped to printable ASCII, in both formats (R34).

use std::{
    cell::{Cell, RefCell},
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    mem,
    os::unix::fs::OpenOptionsExt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::Notify;
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

use super::{LogFormat, LogSettings, LogSink, metrics::Exposition};
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
        path: std::path::PathBuf,
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
    let filter = EnvFilter::builder()
        .parse(&settings.level)
        .map_err(|error| LogError::BadLevel { level: settings.level.clone(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    let installed = match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
        LogFormat::Text => builder.finish().try_init(),
    };
    installed.map_err(|_| LogError::AlreadyInstalled)
}

/// A value of an audit line.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Yes or no.
    Flag(bool),
    /// A count.
    Number(u64),
    /// Any text; it is escaped.
    Text(&'a str),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Value<'_> {
    fn from(number: usize) -> Self {
        Self::Number(u64::try_from(number).unwrap_or(u64::MAX))
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// The audit log: logins, logouts, revocations, administration. Cheap to clone, usable from every thread.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: Arc<Queue>,
    format: LogFormat,
    on: bool,
}

impl Audit {
    /// Writes one line: the time, `event`, and `fields` in their order. Never a secret (R34).
    pub fn record(&self, now: Timestamp, event: &'static str, fields: &[(&'static str, Value<'_>)]) {
        if !self.on {
            return;
        }
        let mut bytes = Vec::with_capacity(256);
        let mut line = Line::begin(&mut bytes, self.format);
        line.plain("time", &humantime::format_rfc3339_millis(now.to_system_time()).to_string());
        line.plain("log", "audit");
        line.plain("event", event);
        for (key, value) in fields {
            match value {
                Value::Flag(flag) => line.flag(key, *flag),
                Value::Number(number) => line.number(key, *number),
                Value::Text(text) => line.text(key, text.as_bytes()),
            }
        }
        line.end();
        self.queue.push(Batch { channel: Channel::Audit, bytes, lines: 1 });
    }
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
        let audit = Audit { queue: Arc::clone(&queue), format: settings.format, on: settings.audit != LogSink::Off };
        let access = settings.access != LogSink::Off;
        if access || audit.on {
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
            let batch = Batch { channel: Channel::Access, bytes: mem::take(&mut *buffer), lines: self.lines.take() };
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

/// Writes the fields of one line in either format.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
    first: bool,
}

impl<'a> Line<'a> {
    fn begin(out: &'a mut Vec<u8>, format: LogFormat) -> Self {
        if format == LogFormat::Json {
            out.push(b'{');
        }
        Self { out, format, first: true }
    }

    /// A text from anywhere: escaped, and cut after 2 KiB.
    pub(super) fn text(&mut self, key: &str, text: &[u8]) {
        self.key(key);
        let quoted = match self.format {
            LogFormat::Json => true,
            LogFormat::Text => text.is_empty() || text.iter().any(|b| !is_bare(*b)),
        };
        if quoted {
            self.out.push(b'"');
        }
        escape(self.out, &text[..text.len().min(MAX_TEXT)]);
        if text.len() > MAX_TEXT {
            self.out.extend_from_slice(b"...");
        }
        if quoted {
            self.out.push(b'"');
        }
    }

    /// A text of ours that needs no escaping: visible ASCII without blanks, quotes, `=` and backslashes.
    pub(super) fn plain(&mut self, key: &str, text: &str) {
        debug_assert!(text.bytes().all(is_bare) && !text.is_empty(), "{text:?} wants escaping");
        self.key(key);
        match self.format {
            LogFormat::Json => {
                self.out.push(b'"');
                self.out.extend_from_slice(text.as_bytes());
                self.out.push(b'"');
            }
            LogFormat::Text => self.out.extend_from_slice(text.as_bytes()),
        }
    }

    /// Something that prints as visible ASCII without blanks, quotes, `=` and backslashes: an address, a host.
    pub(super) fn display(&mut self, key: &str, value: &dyn fmt::Display) {
        self.key(key);
        let quote: &[u8] = match self.format {
            LogFormat::Json => b"\"",
            LogFormat::Text => b"",
        };
        self.out.extend_from_slice(quote);
        // Writing to memory cannot fail.
        let _ = write!(self.out, "{value}");
        self.out.extend_from_slice(quote);
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        decimal(self.out, number);
    }

    /// A duration in milliseconds, with three decimals.
    pub(super) fn millis(&mut self, key: &str, duration: Duration) {
        self.key(key);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        decimal(self.out, micros / 1000);
        let rest = u32::try_from(micros % 1000).unwrap_or(0);
        let digit = |place: u32| b'0' + u8::try_from(rest / place % 10).unwrap_or(0);
        self.out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &str, flag: bool) {
        self.key(key);
        self.out.extend_from_slice(if flag { b"true" } else { b"false" });
    }

    fn key(&mut self, key: &str) {
        match self.format {
            LogFormat::Json => {
                self.out.extend_from_slice(if self.first { b"\"" } else { b",\"" });
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            LogFormat::Text => {
                if !self.first {
                    self.out.push(b' ');
                }
                self.out.extend_from_slice(key.as_bytes());
                self.out.push(b'=');
            }
        }
        self.first = false;
    }

    fn end(self) {
        self.out.extend_from_slice(match self.format {
            LogFormat::Json => b"}\n",
            LogFormat::Text => b"\n",
        });
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
}

/// What waits for the writer. The lock is a std mutex because it is held for a few pushes only, never across a write.
#[derive(Debug)]
struct Queue {
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
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch, or drops it if too much waits; gives back an empty buffer for the next one.
    fn push(&self, mut batch: Batch) -> Vec<u8> {
        let limit = match batch.channel {
            Channel::Access => self.limit,
            Channel::Audit => self.limit.saturating_mul(2),
        };
        let mut state = self.lock();
        if state.stopped || state.bytes.saturating_add(batch.bytes.len()) > limit {
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
            while state.pending.is_empty() {
                state.writing = false;
                self.emptied.notify_all();
                if state.stopped {
                    return;
                }
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.writing = true;
            mem::swap(&mut state.pending, &mut taken);
            drop(state);
            for batch in taken.drain(..) {
                let counts = match sinks.write(batch.channel, &batch.bytes) {
                    Ok(()) => &self.counts.written,
                    Err(()) => &self.counts.failed,
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
    File(File),
    Off,
    Stderr,
    Stdout,
}

impl Sinks {
    fn open(settings: &LogSettings) -> Result<Self, LogError> {
        Ok(Self { access: Sink::open(&settings.access)?, audit: Sink::open(&settings.audit)? })
    }

    fn write(&mut self, channel: Channel, bytes: &[u8]) -> Result<(), ()> {
        let sink = match channel {
            Channel::Access => &mut self.access,
            Channel::Audit => &mut self.audit,
        };
        let written = match &mut sink.target {
            Target::File(file) => file.write_all(bytes),
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
                // Lines tell who did what: not for every user of the machine.
                let opened = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
                Target::File(opened.map_err(|source| LogError::Open { path: path.clone(), source })?)
            }
            LogSink::Off => Target::Off,
            LogSink::Stderr => Target::Stderr,
            LogSink::Stdout => Target::Stdout,
        };
        Ok(Self { target, failing: false })
    }
}

/// `2026-01-31T12:34:56.789Z`; only what changed since the last line is written anew.
#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    second: u64,
    text: [u8; 24],
}

impl Stamp {
    fn at(&mut self, now: Timestamp) -> &str {
        let second = now.unix_seconds();
        if self.second != second || self.text[0] == 0 {
            let text = humantime::format_rfc3339_millis(now.to_system_time()).to_string();
            // A year above 9999 does not print; its second is then told as the epoch.
            self.text.copy_from_slice(text.as_bytes().get(..24).unwrap_or(b"1970-01-01T00:00:00.000Z"));
            self.second = second;
        }
        let millis = u32::try_from(now.unix_millis() % 1000).unwrap_or(0);
        for (place, divisor) in [(20, 100), (21, 10), (22, 1)] {
            self.text[place] = b'0' + u8::try_from(millis / divisor % 10).unwrap_or(0);
        }
        std::str::from_utf8(&self.text).unwrap_or("-")
    }
}

/// Whether a byte needs no quotes in the text format.
const fn is_bare(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'\\' | b'=')
}

/// As the inside of a JSON string (RFC 8259 section 7) in printable ASCII: everything else, and what is not UTF-8,
/// becomes `\u` escapes, so that no line can be broken, forged or made to steer a terminal.
fn escape(out: &mut Vec<u8>, mut bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let unit = |out: &mut Vec<u8>, unit: u16| {
        let digit = |shift: u16| DIGITS[usize::from(unit >> shift & 15)];
        out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
    };
    while !bytes.is_empty() {
        let clean = bytes.iter().take_while(|b| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\')).count();
        out.extend_from_slice(&bytes[..clean]);
        bytes = &bytes[clean..];
        let Some(&byte) = bytes.first() else { return };
        match byte {
            b'"' | b'\\' => {
                out.extend_from_slice(&[b'\\', byte]);
                bytes = &bytes[1..];
            }
            0..=0x7f => {
                unit(out, u16::from(byte));
                bytes = &bytes[1..];
            }
            0x80.. => {
                // One chunk holds all up to the first bad sequence, hence at least one character or one bad sequence.
                let run = bytes.iter().take_while(|b| !b.is_ascii()).count();
                for chunk in bytes[..run].utf8_chunks() {
                    for code in chunk.valid().encode_utf16() {
                        unit(out, code);
                    }
                    if !chunk.invalid().is_empty() {
                        unit(out, 0xfffd);
                    }
                }
                bytes = &bytes[run..];
            }
        }
    }
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Bytes of a worker's buffer at which it is handed over.
const FLUSH_AT: usize = 16 << 10;
/// How long a line may wait in a worker's buffer where [`WorkerLog::flush_as_needed`] runs.
const FLUSH_AFTER: Duration = Duration::from_millis(50);
/// Bytes of one text; a path may be as long as a whole request head.
const MAX_TEXT: usize = 2 << 10;
/// Buffers kept for reuse: two for each of 16 workers.
const MAX_SPARE: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: Timestamp = Timestamp::from_unix_millis(1_893_499_200_123);

    fn escaped(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    fn to_file(path: &std::path::Path, format: LogFormat, queue_bytes: usize) -> Log {
        let sink = LogSink::File(path.to_owned());
        let settings = LogSettings { format, access: sink.clone(), audit: sink, queue_bytes, ..LogSettings::default() };
        Log::start(&settings).unwrap()
    }

    #[test]
    fn texts_are_escaped_to_printable_ascii() {
        for (given, expect) in [
            (&b"plain /path?a=b"[..], r"plain /path?a=b"),
            (b"a\"b\\c", r#"a\"b\\c"#),
            (b"line\r\nbreak\0\x1b[31m\x7f", r"line\u000d\u000abreak\u0000\u001b[31m\u007f"),
            ("größe".as_bytes(), r"gr\u00f6\u00dfe"),
            ("😀".as_bytes(), r"\ud83d\ude00"),
            ("\u{202e}".as_bytes(), r"\u202e"),
            (b"\xff\xfeok\xc3", r"\ufffd\ufffdok\ufffd"),
        ] {
            assert_eq!(escaped(given), expect, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn a_json_reader_gets_back_what_was_written(text in any::<String>()) {
            let json = format!("\"{}\"", escaped(text.as_bytes()));

            prop_assert!(json.bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn bytes_that_are_no_text_still_give_json(bytes in any::<Vec<u8>>()) {
            let json = format!("\"{}\"", escaped(&bytes));

            let read = serde_json::from_str::<String>(&json).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn decimals_are_those_of_the_standard_library(number in any::<u64>()) {
            let mut out = Vec::new();
            decimal(&mut out, number);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn the_time_has_milliseconds_and_follows_the_clock() {
        let mut stamp = Stamp::default();

        assert_eq!(stamp.at(NOON), "2030-01-01T12:00:00.123Z");
        assert_eq!(stamp.at(Timestamp::from_unix_millis(1_893_499_200_007)), "2030-01-01T12:00:00.007Z");
        assert_eq!(stamp.at(NOON.plus(Duration::from_secs(86_400))), "2030-01-02T12:00:00.123Z");
        assert_eq!(stamp.at(Timestamp::from_unix_millis(0)), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn an_audit_line_is_one_json_object() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = to_file(&path, LogFormat::Json, 1 << 20);

        let fields = [("subject", Value::from("eve\n\"}")), ("ended", Value::from(3usize)), ("ok", Value::from(true))];
        log.audit().record(NOON, "logout", &fields);
        assert!(log.finish(Duration::from_secs(10)));

        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
        assert_eq!(line["time"], "2030-01-01T12:00:00.123Z");
        assert_eq!(line["event"], "logout");
        assert_eq!(line["subject"], "eve\n\"}");
        assert_eq!(line["ended"], 3);
        assert_eq!(line["ok"], true);
    }

    #[test]
    fn a_text_line_quotes_what_could_be_mistaken() {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, LogFormat::Text);

        line.text("a", b"bare/path?x");
        line.text("b", b"has blank");
        line.text("c", b"x=y");
        line.text("d", b"");
        line.text("e", b"new\nline \"quoted\"");
        line.millis("f", Duration::from_micros(1_234_007));
        line.end();

        let expect = "a=bare/path?x b=\"has blank\" c=\"x=y\" d=\"\" e=\"new\\u000aline \\\"quoted\\\"\" f=1234.007\n";
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn a_long_text_is_cut() {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, LogFormat::Json);

        line.text("path", &vec![b'a'; 100_000]);
        line.end();

        assert!(out.len() < 2 * MAX_TEXT);
        assert!(out.ends_with(b"a...\"}\n"));
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
        let batch = |channel| Batch { channel, bytes: vec![b'x'; 60], lines: 2 };

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
    fn finishing_does_not_wait_forever_for_a_stuck_sink() {
        let settings = LogSettings { access: LogSink::Off, audit: LogSink::Off, ..LogSettings::default() };
        let log = Log::start(&settings).unwrap();
        // Off starts no writer, which is the slowest sink there is.
        log.queue.push(Batch { channel: Channel::Access, bytes: vec![b'x'], lines: 1 });

        assert!(!log.finish(Duration::from_millis(1)));
    }

    #[test]
    fn a_log_that_is_off_takes_nothing() {
        let settings = LogSettings { access: LogSink::Off, audit: LogSink::Off, ..LogSettings::default() };
        let log = Log::start(&settings).unwrap();

        log.audit().record(NOON, "login", &[]);

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
