//! How the gateway stops: one signal that everybody can await, and a count of what still runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

/// The stop signal. Cheap to clone; every clone sees the same signal.
#[derive(Clone, Debug)]
pub struct Shutdown {
    signal: watch::Sender<Phase>,
    running: Arc<Running>,
}

/// How far it is. Never back.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    Running,
    /// Another process serves who comes now.
    HandedOver,
    Stopping,
}

#[derive(Debug, Default)]
struct Running {
    count: AtomicUsize,
    idle: Notify,
}

/// Held by whatever must end before the process may; dropping it tells.
#[derive(Debug)]
pub struct Guard(Arc<Running>);

impl Shutdown {
    /// Nothing has been asked to stop.
    pub fn new() -> Self {
        Self { signal: watch::Sender::new(Phase::Running), running: Arc::default() }
    }

    /// Asks everybody to finish: no new connections, no new requests on old ones.
    pub fn trigger(&self) {
        self.advance(Phase::Stopping);
    }

    /// As [`Self::trigger`], but another process goes on: whoever is connected is not sent away before they have asked
    /// once more, and tunnels last until [`Self::trigger`].
    pub fn hand_over(&self) {
        self.advance(Phase::HandedOver);
    }

    /// Whether another process goes on, and there is time.
    pub fn is_handed_over(&self) -> bool {
        *self.signal.borrow() == Phase::HandedOver
    }

    /// Ends when tunnels must, too.
    pub async fn stopping(&self) {
        let _ = self.signal.subscribe().wait_for(|phase| *phase == Phase::Stopping).await;
    }

    fn advance(&self, to: Phase) {
        self.signal.send_if_modified(|phase| {
            let later = *phase < to;
            *phase = to.max(*phase);
            later
        });
    }

    /// Whether the end was asked for.
    pub fn is_triggered(&self) -> bool {
        *self.signal.borrow() > Phase::Running
    }

    /// Ends when the end was asked for.
    pub async fn triggered(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.signal.subscribe().wait_for(|phase| *phase > Phase::Running).await;
    }

    /// Counts something that must end first: a connection, a tunnel.
    pub fn guard(&self) -> Guard {
        self.running.count.fetch_add(1, Ordering::AcqRel);
        Guard(Arc::clone(&self.running))
    }

    /// How many guards are held.
    pub fn running(&self) -> usize {
        self.running.count.load(Ordering::Acquire)
    }

    /// Waits until no guard is held, at most `limit`; `true` if all ended in time.
    pub async fn drained(&self, limit: Duration) -> bool {
        let all_ended = async {
            loop {
                let idle = self.running.idle.notified();
                tokio::pin!(idle);
                idle.as_mut().enable();
                if self.running() == 0 {
                    return;
                }
                idle.await;
            }
        };
        tokio::time::timeout(limit, all_ended).await.is_ok()
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
