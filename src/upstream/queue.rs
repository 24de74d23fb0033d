//! How many requests one upstream has under way at once, and who waits for a turn.
//!
//! In: a request that may go to the upstream, before anything of its body is taken. Out: its [`Turn`], at once or when
//! another ends; or [`UpstreamError::Busy`]. One queue for the process: the workers count together, and whoever came
//! first is served first, wherever. Invariants: nobody waits while there is a free place and nobody before them;
//! whoever leaves while waiting is gone from the queue; a turn that is dropped, by whatever way, is the next one's.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::UpstreamError;

/// `max_requests` of an upstream, and what goes with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueLimits {
    /// Requests under way at once, at all servers together; a tunnel is one.
    pub max_requests: u32,
    /// Requests that wait for a turn.
    pub max_pending: u32,
    /// How long each of them waits at most.
    pub timeout: Duration,
}

/// The requests of one upstream, those of all workers together.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    /// Requests that found it full.
    pub full: AtomicU64,
    /// Requests that waited too long.
    pub timed_out: AtomicU64,
}

#[derive(Default)]
struct State {
    taken: u32,
    /// As the latest request has it: it may change at a reload.
    limit: u32,
    /// Numbered in the order in which they came.
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
    next_number: u64,
}

/// The right to be under way. Dropped, it is the next one's.
pub(super) struct Turn(Option<Arc<Queue>>);

/// What became of somebody who came.
enum Entered {
    Served(Turn),
    /// By this number, for what comes here.
    Waits(u64, oneshot::Receiver<Turn>),
}

/// A place in the queue. Dropped, it is given up.
struct Waiting<'a> {
    queue: &'a Queue,
    number: u64,
}

impl Queue {
    /// How many wait now.
    pub fn pending(&self) -> usize {
        self.lock().waiting.len()
    }

    /// A turn, when there is one; `left` is how long it is of any use.
    pub(super) async fn turn(
        self: &Arc<Self>,
        limits: &QueueLimits,
        left: Option<Duration>,
    ) -> Result<Turn, UpstreamError> {
        let (number, turn) = match self.enter(limits)? {
            Entered::Served(turn) => return Ok(turn),
            Entered::Waits(number, turn) => (number, turn),
        };
        let _waiting = Waiting { queue: self, number };
        let patience = left.map_or(limits.timeout, |left| left.min(limits.timeout));
        match timeout(patience, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => {
                self.timed_out.fetch_add(1, Relaxed);
                Err(UpstreamError::Busy("queue_timeout"))
            }
        }
    }

    fn enter(self: &Arc<Self>, limits: &QueueLimits) -> Result<Entered, UpstreamError> {
        let mut state = self.lock();
        state.limit = limits.max_requests;
        if !state.waiting.is_empty() && state.taken < state.limit {
            // More have room than before: who waits goes first.
            drop(state);
            self.hand_out();
            state = self.lock();
        }
        if state.waiting.is_empty() && state.taken < state.limit {
            state.taken += 1;
            return Ok(Entered::Served(Turn(Some(Arc::clone(self)))));
        }
        if state.waiting.len() >= usize::try_from(limits.max_pending).unwrap_or(usize::MAX) {
            self.full.fetch_add(1, Relaxed);
            return Err(UpstreamError::Busy("queue_full"));
        }
        let (sender, turn) = oneshot::channel();
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.push_back((number, sender));
        Ok(Entered::Waits(number, turn))
    }

    /// Gives what is free to those who wait.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            if state.taken >= state.limit {
                return;
            }
            let Some((_, waiting)) = state.waiting.pop_front() else { return };
            state.taken += 1;
            drop(state);
            if let Err(mut turn) = waiting.send(Turn(Some(Arc::clone(self)))) {
                // They have left this very moment. It never was theirs.
                turn.0 = None;
                self.lock().taken -= 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.lock().taken -= 1;
            queue.hand_out();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.queue.lock().waiting;
        if let Ok(place) = waiting.binary_search_by_key(&self.number, |(number, _)| *number) {
            waiting.remove(place);
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("taken", &self.taken)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn limits(max_requests: u32, max_pending: u32) -> QueueLimits {
        QueueLimits { max_requests, max_pending, timeout: LONG }
    }

    type Asking<'a> = Pin<Box<dyn Future<Output = Result<Turn, UpstreamError>> + 'a>>;

    fn ask<'a>(queue: &'a Arc<Queue>, limits: &'a QueueLimits) -> Asking<'a> {
        Box::pin(queue.turn(limits, None))
    }

    fn got(asking: &mut Asking<'_>) -> Option<Turn> {
        match asking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn.unwrap()),
            Poll::Pending => None,
        }
    }

    async fn queue_turn(queue: &Arc<Queue>, limits: &QueueLimits) -> Turn {
        queue.turn(limits, None).await.unwrap()
    }

    fn taken(queue: &Queue) -> (u32, usize) {
        let taken = queue.lock().taken;
        (taken, queue.pending())
    }

    #[tokio::test]
    async fn who_came_first_is_served_first_and_one_too_many_is_refused() {
        let (queue, limits) = (Arc::default(), limits(1, 2));
        let first = queue_turn(&queue, &limits).await;
        let (mut second, mut third) = (ask(&queue, &limits), ask(&queue, &limits));
        assert!(got(&mut second).is_none() && got(&mut third).is_none());

        assert_eq!(queue.turn(&limits, None).await.unwrap_err(), UpstreamError::Busy("queue_full"));
        assert_eq!(taken(&queue), (1, 2));
        drop(first);
        assert!(got(&mut third).is_none());
        let second = got(&mut second).unwrap();
        assert_eq!(taken(&queue), (1, 1));
        drop(second);
        drop(got(&mut third).unwrap());
        assert_eq!(taken(&queue), (0, 0));
        assert_eq!(queue.full.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_turn_of_somebody_who_left_is_the_next_ones() {
        let (queue, limits) = (Arc::default(), limits(1, 3));
        let first = queue_turn(&queue, &limits).await;
        let mut others: Vec<Asking<'_>> = (0..3).map(|_| ask(&queue, &limits)).collect();
        for other in &mut others {
            assert!(got(other).is_none());
        }
        let mut last = others.pop().unwrap();

        // One leaves while waiting, one when the turn is theirs and they do not know it yet.
        drop(others.remove(0));
        assert_eq!(taken(&queue), (1, 2));
        drop(first);
        assert_eq!(taken(&queue), (1, 1));
        drop(others);

        drop(got(&mut last).unwrap());
        assert_eq!(taken(&queue), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_too_long_is_refused_and_gone() {
        let (queue, limits) = (Arc::default(), limits(1, 2));
        let impatient = QueueLimits { timeout: Duration::from_millis(20), ..limits };
        let first = queue_turn(&queue, &limits).await;

        for (limits, left) in [(impatient, None), (limits, Some(impatient.timeout))] {
            assert_eq!(queue.turn(&limits, left).await.unwrap_err(), UpstreamError::Busy("queue_timeout"));
        }

        assert_eq!((taken(&queue), queue.timed_out.load(Relaxed)), ((1, 0), 2));
        drop(first);
        assert_eq!(taken(&queue), (0, 0));
    }

    #[tokio::test]
    async fn a_reload_counts_at_once_in_both_directions() {
        let (queue, (one, three)) = (Arc::default(), (limits(1, 5), limits(3, 5)));
        let mut turns = vec![queue_turn(&queue, &one).await];
        let mut waiting = ask(&queue, &one);
        assert!(got(&mut waiting).is_none());

        turns.push(queue_turn(&queue, &three).await);
        turns.push(got(&mut waiting).expect("who waited goes first"));
        assert_eq!(taken(&queue), (3, 0));
        let mut fourth = ask(&queue, &one);
        assert!(got(&mut fourth).is_none());
        for left in [2, 1] {
            turns.pop();
            assert!(got(&mut fourth).is_none(), "as many are under way as may be");
            assert_eq!(taken(&queue), (left, 1));
        }
        turns.pop();
        assert!(got(&mut fourth).is_some());
    }

    #[test]
    fn threads_together_have_no_more_than_one_alone() {
        let (queue, under_way) = (Arc::<Queue>::default(), AtomicU64::new(0));
        let limits = limits(3, 1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    runtime.block_on(async {
                        for round in 0..200 {
                            let mut asking: Vec<Asking<'_>> = (0..5).map(|_| ask(&queue, &limits)).collect();
                            for asking in &mut asking[..round % 5] {
                                drop(got(asking));
                            }
                            // Whoever is not asked any more leaves, with a turn or without.
                            let last = asking.pop().unwrap();
                            drop(asking);
                            let turn = last.await.unwrap();
                            assert!(under_way.fetch_add(1, Relaxed) < 3);
                            tokio::task::yield_now().await;
                            under_way.fetch_sub(1, Relaxed);
                            drop(turn);
                        }
                    });
                });
            }
        });
        assert_eq!(taken(&queue), (0, 0));
    }
}
