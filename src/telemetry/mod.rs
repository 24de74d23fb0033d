//! What the gateway tells of itself: logs, metrics and probes.
//!
//! A leaf: it takes labels, numbers and plain texts, never domain types, and no secret is ever handed to it (R34).
//! A worker writes its counters and its log buffer alone; one writer thread takes the buffers in batches, and a
//! scrape adds the workers' counters up. Nothing here waits for a slow disk, terminal or scraper.

use std::{path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use crate::clock::Timestamp;

pub mod audit;
pub mod endpoint;
mod line;
pub mod log;
pub mod metrics;
pub mod outcome;

use audit::Audit;
use endpoint::Readiness;
use log::{Log, LogError, WorkerLog};
use metrics::{Registry, WorkerMetrics};

/// `[log]`, ready to use.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// How lines are written.
    pub format: LogFormat,
    /// One line for each request.
    pub access: LogSink,
    /// Logins, logouts, revocations, administration; always in JSON.
    pub audit: LogSink,
    /// What of a request's query is logged (R34).
    pub query: QueryLog,
    /// Filter of diagnostics in `tracing` syntax; default `info`.
    pub level: String,
    /// Bytes of lines that may wait for a slow sink; what comes beyond is dropped and counted (R19). Default 8 MiB.
    pub queue_bytes: usize,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            access: LogSink::default(),
            audit: LogSink::default(),
            query: QueryLog::default(),
            level: "info".to_owned(),
            queue_bytes: 8 << 20,
        }
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// `key=value`, for people.
    Text,
}

/// Where lines go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum LogSink {
    /// A file, appended to.
    File(PathBuf),
    /// Nowhere.
    Off,
    /// Standard error.
    Stderr,
    /// Standard output.
    #[default]
    Stdout,
}

/// `log.query`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum QueryLog {
    /// As sent.
    Keep,
    /// Parameter names only. A parameter without `=` may be nothing but a value, and is left out.
    Names,
    /// Nothing.
    #[default]
    Omit,
}

/// The process's telemetry: one, shared by all threads.
#[derive(Debug)]
pub struct Telemetry {
    log: Log,
    registry: Registry,
    readiness: Readiness,
}

impl Telemetry {
    /// Opens the logs and starts their writer thread. `started` is the process's start, for the metrics.
    ///
    /// # Errors
    /// [`LogError`] when a log file cannot be opened or the thread cannot be started.
    pub fn start(settings: &LogSettings, started: Timestamp) -> Result<Arc<Self>, LogError> {
        let log = Log::start(settings)?;
        let registry = Registry::new(started);
        let counts = log.counts();
        registry.register(Box::new(move |exposition| counts.expose(exposition)));
        Ok(Arc::new(Self { log, registry, readiness: Readiness::starting() }))
    }

    /// The part that one worker thread writes to; to be called on that thread, once.
    pub fn worker(&self) -> Rc<WorkerTelemetry> {
        Rc::new(WorkerTelemetry { metrics: self.registry.worker(), log: self.log.worker() })
    }

    /// The audit log: [`Audit::record`]; clones are cheap and may go anywhere.
    pub const fn audit(&self) -> &Audit {
        self.log.audit()
    }

    /// Where others add their metrics.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What keeps `/readyz` from saying yes.
    pub const fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Opens log files anew, because those that are open may have been renamed: what is handed over from now on is in
    /// the files that are at their paths now. A file that cannot be opened is told of, and the open one goes on.
    pub fn reopen_logs(&self) {
        self.log.reopen();
    }

    /// Waits until every line handed over so far is written, at most `limit`, and ends the writer thread; `true` if
    /// all went out. Workers must have dropped their part before, or have called [`WorkerTelemetry::flush`].
    pub fn finish(&self, limit: Duration) -> bool {
        self.log.finish(limit)
    }
}

/// What one worker writes to. Not shared, hence without locks on the request's path.
#[derive(Debug)]
pub struct WorkerTelemetry {
    metrics: WorkerMetrics,
    log: WorkerLog,
}

impl WorkerTelemetry {
    /// Hands the buffered log lines to the writer thread; cheap when there are none. For a worker's coarse tick
    /// (every 100 ms or less) and its end. Dropping `self` does it too.
    pub fn flush(&self) {
        self.log.flush();
    }

    /// Flushes 50 ms after the first line of each batch, for as long as it is polled, and sleeps while there is
    /// nothing to flush: for workers without a tick.
    pub async fn flush_as_needed(&self) {
        self.log.flush_as_needed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let settings = LogSettings::default();

        assert_eq!(settings.format, LogFormat::Json);
        assert_eq!(settings.access, LogSink::Stdout);
        assert_eq!(settings.query, QueryLog::Omit);
        assert_eq!(settings.level, "info");
    }
}
