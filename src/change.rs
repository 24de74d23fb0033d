//! How a reload is asked for, and what came of it (R37): plain values between those who ask (signals, the admin API,
//! the watch) and the one thread that reloads.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{mpsc, oneshot};

use crate::clock::Timestamp;

/// Who asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// `POST /api/v1/reload`.
    Admin,
    /// SIGHUP.
    Signal,
    /// One of the files has changed.
    Watch,
}

impl Cause {
    /// The word in logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Signal => "signal",
            Self::Watch => "watch",
        }
    }
}

/// What came of a reload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The new configuration is in use.
    Applied(Applied),
    /// Nothing was applied: these are the problems, each with its place and how to mend it.
    Refused(Vec<String>),
    /// Nothing was applied: these keys cannot change without a restart.
    RestartNeeded(Vec<&'static str>),
    /// The files hold what is in use already. Only [`Cause::Watch`] finds so; who asks gets a reload.
    Unchanged,
}

/// What a reload that was applied brought.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Applied {
    /// The generation in use from now on.
    pub generation: u64,
    /// Who gets in where differently, a line for each.
    pub changes: Vec<String>,
    /// What is allowed and worth a second look.
    pub warnings: Vec<String>,
    /// Sessions that ended because their source says so (R29).
    pub sessions_ended: usize,
    /// Sessions whose identity is another one now (R29).
    pub sessions_updated: usize,
}

impl Outcome {
    /// The word for programs, logs and metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Applied(_) => "applied",
            Self::Refused(_) => "refused",
            Self::RestartNeeded(_) => "restart_needed",
            Self::Unchanged => "unchanged",
        }
    }

    /// Whether what the files say is what is in use.
    pub const fn is_success(&self) -> bool {
        match self {
            Self::Applied(_) | Self::Unchanged => true,
            Self::Refused(_) | Self::RestartNeeded(_) => false,
        }
    }
}

/// One wish for a reload. Dropped unanswered, whoever waits learns that the gateway stops.
#[derive(Debug)]
pub struct Ask {
    /// Who asks.
    pub cause: Cause,
    /// Where the outcome is awaited, if it is.
    pub reply: oneshot::Sender<Outcome>,
}

/// The side of those who ask, and what came of earlier reloads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asks: mpsc::Sender<Ask>,
    last: Mutex<Option<(Timestamp, Outcome)>>,
    last_success: AtomicU64,
    counts: Counts,
}

/// How often each came about.
#[derive(Debug, Default)]
pub struct Counts {
    /// A new configuration was taken into use.
    pub applied: AtomicU64,
    /// There were problems.
    pub refused: AtomicU64,
    /// It asked for a restart.
    pub restart_needed: AtomicU64,
    /// The files said what was in use already.
    pub unchanged: AtomicU64,
    /// Sessions that ended because their source changed (R29).
    pub sessions_ended: AtomicU64,
    /// Sessions whose identity was made anew (R29).
    pub sessions_updated: AtomicU64,
}

/// Nobody reloads any more: the gateway stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stopping;

impl Reloads {
    /// Both sides. `now`: the start counts as the first success.
    pub fn new(now: Timestamp) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(WAITING);
        let inner = Inner {
            asks,
            last: Mutex::default(),
            last_success: AtomicU64::new(now.unix_millis()),
            counts: Counts::default(),
        };
        (Self(Arc::new(inner)), receiver)
    }

    /// Reloads, and waits for what comes of it.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn reload(&self, cause: Cause) -> Result<Outcome, Stopping> {
        let (reply, outcome) = oneshot::channel();
        self.0.asks.send(Ask { cause, reply }).await.map_err(|_| Stopping)?;
        outcome.await.map_err(|_| Stopping)
    }

    /// When the last reload was and what came of it; `None`: there was none.
    pub fn last(&self) -> Option<(Timestamp, Outcome)> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When what is in use was last found to be what the files say.
    pub fn last_success(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.0.last_success.load(Relaxed))
    }

    /// How often each came about.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Notes an outcome, for those who ask later.
    pub fn note(&self, now: Timestamp, outcome: &Outcome) {
        let counts = &self.0.counts;
        let counter = match outcome {
            Outcome::Applied(_) => &counts.applied,
            Outcome::Refused(_) => &counts.refused,
            Outcome::RestartNeeded(_) => &counts.restart_needed,
            Outcome::Unchanged => &counts.unchanged,
        };
        if outcome.is_success() {
            self.0.last_success.store(now.unix_millis(), Relaxed);
        }
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, outcome.clone()));
        counter.fetch_add(1, Relaxed);
    }
}

/// Wishes that may wait; further ones wait for a place. All that wait are answered by one reload.
const WAITING: usize = 64;
