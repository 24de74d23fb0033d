//! The threads that check passwords, and the bounded queue before them.
//!
//! In: whom somebody claims to be, and what they typed. Out: a user, or nothing, after the same work in both cases.
//! Invariants: memory is bounded by the threads, each holding that of one hash; who waits is bounded by the queue.

use std::{
    collections::VecDeque,
    fmt, hint, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use argon2::Block;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::oneshot;

use super::{
    Candidate, User, Work,
    password::MAX_PASSWORD_BYTES,
    renewal::{Renewal, Renewer},
};
use crate::{clock::Clock, secret::Secret, telemetry::audit::Audit};

/// The threads that check passwords. Cheap to clone; they end when the last clone is dropped.
#[derive(Clone)]
pub struct Hasher(Arc<Handle>);

/// All hashing threads are busy and the queue is full: the attempt was not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Busy {
    /// When to try again.
    pub retry_after: Duration,
}

impl Hasher {
    /// Starts `threads` hashing threads behind a queue of `waiting` attempts. Each takes the memory of one hash
    /// (19 MiB as recommended) while it works, and gives it back when there is nothing to do.
    ///
    /// # Errors
    /// When the operating system starts no thread.
    pub fn start(threads: usize, waiting: usize) -> io::Result<Self> {
        Self::start_telling(threads, waiting, Audit::off(), Clock::system())
    }

    /// As [`Self::start`]; passwords that are hashed anew are told in the audit log.
    ///
    /// # Errors
    /// When the operating system starts no thread.
    pub fn start_telling(threads: usize, waiting: usize, audit: Audit, clock: Clock) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::new(Waiting { jobs: VecDeque::with_capacity(waiting), max: waiting, closed: false }),
            wake: Condvar::new(),
            renewer: Renewer::new(audit, clock),
        });
        // Made first: if a thread does not start, dropping it ends those that did.
        let handle = Arc::new(Handle(Arc::clone(&queue)));
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("portcullis-hash-{number}")).spawn(move || work(&queue))?;
        }
        Ok(Self(handle))
    }

    /// Whether the password is the candidate's: `Some` user if so. Wrong passwords and unknown users take the same
    /// work and give the same answer. A password that is empty or above [`MAX_PASSWORD_BYTES`] is nobody's.
    ///
    /// # Errors
    /// [`Busy`] when too many attempts wait already.
    pub async fn check(&self, candidate: Candidate, password: Secret<String>) -> Result<Option<Arc<User>>, Busy> {
        if !(1..=MAX_PASSWORD_BYTES).contains(&password.expose().len()) {
            return Ok(None);
        }
        let (reply, answer) = oneshot::channel();
        self.0.0.push(Job { work: candidate.work, renewal: candidate.renewal, password, reply })?;
        // A reply that is dropped unsent means that no thread lives to give it: the same as busy.
        let is_right = answer.await.map_err(|_| BUSY)?;
        Ok(candidate.user.filter(|_| is_right))
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

/// Closes the queue when the last [`Hasher`] goes.
struct Handle(Arc<Queue>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

struct Queue {
    /// A plain lock, held for a push or a pop: an attempt costs ten thousand times that.
    waiting: Mutex<Waiting>,
    wake: Condvar,
    renewer: Renewer,
}

struct Waiting {
    jobs: VecDeque<Job>,
    max: usize,
    closed: bool,
}

struct Job {
    work: Work,
    renewal: Option<Arc<Renewal>>,
    password: Secret<String>,
    reply: oneshot::Sender<bool>,
}

impl Queue {
    fn push(&self, job: Job) -> Result<(), Busy> {
        let mut waiting = self.lock();
        if waiting.jobs.len() >= waiting.max {
            // Those whose client has gone must not keep others out.
            waiting.jobs.retain(|job| !job.reply.is_closed());
        }
        if waiting.jobs.len() >= waiting.max {
            return Err(BUSY);
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// Tries one hash of each kind; only the candidate's own counts.
    pub(super) fn is_right(&self, password: &[u8], memory: &mut Vec<Block>) -> bool {
        let mut right = false;
        for (kind, decoy) in self.decoys.iter().enumerate() {
            match &self.own {
                Some((own, verifier)) if *own == kind => right = verifier.matches(password, memory),
                Some(_) | None => {
                    hint::black_box(decoy.matches(password, memory));
                }
            }
        }
        right
    }
}

/// A hashing thread's life.
fn work(queue: &Queue) {
    yield_to_workers();
    let mut memory = Vec::new();
    let mut waiting = queue.lock();
    loop {
        if let Some(job) = waiting.jobs.pop_front() {
            drop(waiting);
            if !job.reply.is_closed() {
                let is_right = job.work.is_right(job.password.expose().as_bytes(), &mut memory);
                // The client may have gone meanwhile.
                let _ = job.reply.send(is_right);
                if let Some(renewal) = job.renewal.as_deref().filter(|_| is_right) {
                    queue.renewer.renew(renewal, job.password.expose());
                }
            }
            waiting = queue.lock();
        } else if waiting.closed {
            return;
        } else if memory.is_empty() {
            waiting = queue.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        } else {
            let (guard, wait) = queue.wake.wait_timeout(waiting, KEEP_MEMORY).unwrap_or_else(PoisonError::into_inner);
            waiting = guard;
            if wait.timed_out() {
                memory = Vec::new();
            }
        }
    }
}

/// Lets every other thread go first: a request must not wait because somebody guesses passwords. Linux then counts a
/// processor that only hashes as idle, and takes it away at once where a worker has something to do.
fn yield_to_workers() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    if let Err(error) = set {
        tracing::debug!(?error, "hashing threads have the priority of all others");
    }
}

const BUSY: Busy = Busy { retry_after: Duration::from_secs(1) };

/// How long a hashing thread without work keeps its memory.
const KEEP_MEMORY: Duration = Duration::from_secs(10);
