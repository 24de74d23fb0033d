//! The threads that check passwords, and the bounded queue before them.
//!
//! In: whom somebody claims to be, and what they typed. Out: a user, or nothing, after the same work in both cases.
//! Invariants: memory is bounded by the threads, each holding that of one hash; who waits is bounded by the queue.
//! The threads take only what others leave of the processors, so that guessed passwords hold up no request. Where
//! nothing is left, one more thread sees to it that logins go on: slowly, but they do.

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
        let queue = Arc::new(Queue::new(waiting, Renewer::new(audit, clock)));
        // Made first: if a thread does not start, dropping it ends those that did.
        let handle = Arc::new(Handle(Arc::clone(&queue)));
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("portcullis-hash-{number}")).spawn(move || work(&queue))?;
        }
        thread::Builder::new().name("portcullis-hash-late".to_owned()).spawn(move || see_to_it(&queue, STALLED))?;
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
        let reply = Mutex::new(Some(reply));
        self.0.0.push(Job { work: candidate.work, renewal: candidate.renewal, password, reply })?;
        // A reply that is dropped unsent means that no thread lives to give it: the same as busy.
        let is_right = answer.await.map_err(|_| BUSY)?;
        Ok(candidate.user.filter(|_| is_right))
    }
}

#[cfg(test)]
impl Hasher {
    /// Whether nothing is waited for and nothing is under way, renewals among it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.0.0.lock().is_at_rest()
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
        self.0.begins.notify_all();
    }
}

struct Queue {
    /// A plain lock, held for a push or a pop: an attempt costs ten thousand times that.
    waiting: Mutex<Waiting>,
    /// There is something to do.
    wake: Condvar,
    /// There is something to do, and was nothing before.
    begins: Condvar,
    renewer: Renewer,
}

struct Waiting {
    jobs: VecDeque<Arc<Job>>,
    /// What threads are at work on, the oldest first; once for each thread.
    under_way: Vec<Arc<Job>>,
    /// How many were done.
    done: u64,
    max: usize,
    closed: bool,
}

struct Job {
    work: Work,
    renewal: Option<Arc<Renewal>>,
    password: Secret<String>,
    /// Taken by whoever answers.
    reply: Mutex<Option<oneshot::Sender<bool>>>,
}

impl Queue {
    fn new(max: usize, renewer: Renewer) -> Self {
        let jobs = VecDeque::with_capacity(max);
        let waiting = Waiting { jobs, under_way: Vec::new(), done: 0, max, closed: false };
        Self { waiting: Mutex::new(waiting), wake: Condvar::new(), begins: Condvar::new(), renewer }
    }

    fn push(&self, job: Job) -> Result<(), Busy> {
        let mut waiting = self.lock();
        if waiting.jobs.len() >= waiting.max {
            // Those whose client has gone must not keep others out.
            waiting.jobs.retain(|job| job.is_awaited());
        }
        if waiting.jobs.len() >= waiting.max {
            return Err(BUSY);
        }
        let begins = waiting.is_at_rest();
        waiting.jobs.push_back(Arc::new(job));
        drop(waiting);
        self.wake.notify_one();
        if begins {
            self.begins.notify_one();
        }
        Ok(())
    }

    /// Checks a password and answers, unless nobody waits for it any more.
    fn answer(&self, job: &Job, memory: &mut Vec<Block>) {
        if !job.is_awaited() {
            return;
        }
        let is_right = job.work.is_right(job.password.expose().as_bytes(), memory);
        let Some(reply) = job.reply().take() else { return };
        // The client may have gone meanwhile.
        let _ = reply.send(is_right);
        if let Some(renewal) = job.renewal.as_deref().filter(|_| is_right) {
            self.renewer.renew(renewal, job.password.expose());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_at_rest(&self) -> bool {
        self.jobs.is_empty() && self.under_way.is_empty()
    }

    /// The next to be worked on.
    fn begin(&mut self) -> Option<Arc<Job>> {
        let job = self.jobs.pop_front()?;
        self.under_way.push(Arc::clone(&job));
        Some(job)
    }

    fn end(&mut self, job: &Arc<Job>) {
        if let Some(at) = self.under_way.iter().position(|other| Arc::ptr_eq(other, job)) {
            self.under_way.remove(at);
        }
        self.done += 1;
    }
}

impl Job {
    fn is_awaited(&self) -> bool {
        self.reply().as_ref().is_some_and(|reply| !reply.is_closed())
    }

    fn reply(&self) -> MutexGuard<'_, Option<oneshot::Sender<bool>>> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner)
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
        if let Some(job) = waiting.begin() {
            drop(waiting);
            queue.answer(&job, &mut memory);
            waiting = queue.lock();
            waiting.end(&job);
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

/// The life of the thread that helps where those that give way get no processor at all: whenever none of them has ended
/// anything for as long as `stalled`, it checks the oldest password itself, with the priority of all others. That is a
/// hundredth or two of one processor.
fn see_to_it(queue: &Queue, stalled: Duration) {
    let mut waiting = queue.lock();
    while !waiting.closed {
        if waiting.is_at_rest() {
            waiting = queue.begins.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let done = waiting.done;
        let waited = queue.begins.wait_timeout_while(waiting, stalled, |waiting| !waiting.closed);
        waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        if waiting.closed || waiting.done != done {
            continue;
        }
        let begun = waiting.under_way.iter().find(|job| job.is_awaited()).cloned();
        waiting.under_way.extend(begun.clone());
        if let Some(job) = begun.or_else(|| waiting.begin()) {
            drop(waiting);
            queue.answer(&job, &mut Vec::new());
            waiting = queue.lock();
            waiting.end(&job);
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

/// For so long no password may be left unchecked because others need all processors.
const STALLED: Duration = Duration::from_secs(1);

/// How long a hashing thread without work keeps its memory.
const KEEP_MEMORY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Accounts;

    /// A queue that no other thread works on.
    fn stalled() -> Arc<Queue> {
        Arc::new(Queue::new(8, Renewer::new(Audit::off(), Clock::system())))
    }

    fn job(queue: &Queue) -> oneshot::Receiver<bool> {
        let candidate = Accounts::new(Vec::new()).unwrap().candidate("nobody");
        let (reply, answer) = oneshot::channel();
        let password = Secret::new("password".to_owned());
        let job = Job { work: candidate.work, renewal: None, password, reply: Mutex::new(Some(reply)) };
        assert!(queue.push(job).is_ok());
        answer
    }

    #[test]
    fn a_password_is_checked_though_others_take_all_processors() {
        let queue = stalled();
        let helper = thread::spawn({
            let queue = Arc::clone(&queue);
            move || see_to_it(&queue, Duration::from_millis(1))
        });

        // One that nobody has begun, and one that somebody has begun and gets no further with.
        assert_eq!(job(&queue).blocking_recv(), Ok(false));
        let begun = job(&queue);
        let taken = queue.lock().begin();
        assert_eq!(begun.blocking_recv(), Ok(false));

        if let Some(taken) = taken {
            queue.answer(&taken, &mut Vec::new());
            queue.lock().end(&taken);
        }
        queue.lock().closed = true;
        queue.begins.notify_all();
        helper.join().unwrap();
        assert!(queue.lock().is_at_rest());
    }
}
