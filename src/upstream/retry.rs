//! When a request is sent again that a server may have had already (RFC 9110 section 9.2.2).
//!
//! In: what an upstream allows, and what became of the last attempt. Out: the answer of the last. Only what may be
//! repeated is: idempotent methods without a body, and nothing that the client has had a byte of an answer to. Another
//! server is preferred. A [`Budget`] bounds the repetitions to one upstream, those of all workers together, to a share
//! of its requests: while it fails it does not get a multiple of them. What was not sent, or not processed, is no
//! repetition and goes on as ever.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Response, StatusCode};

use super::{
    Body, Journey, UpstreamError, attempt,
    pool::{Tried, is_idempotent},
};
use crate::secret;

/// `retries` of an upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Retries {
    /// How often one request is sent again at most.
    pub attempts: u32,
    /// Whether it is a reason that no server can be connected to.
    pub connect: bool,
    /// Whether it is one that the connection ended, or the stream was reset, before the head of an answer.
    pub reset: bool,
    /// Whether it is one that no answer came in time.
    pub timeout: bool,
    /// Which answers are.
    pub statuses: Box<[StatusCode]>,
    /// Of a hundred requests, so many may be sent again.
    pub budget: u32,
    /// In a second, so many may be in any case.
    pub min_per_second: u32,
    /// What is waited before the first at most; then twice as long each time.
    pub backoff: Duration,
}

impl Retries {
    /// Whether `outcome` is a reason to send the request again.
    fn want(&self, outcome: &Result<Response<Body>, UpstreamError>) -> bool {
        match outcome {
            Ok(response) => self.statuses.contains(&response.status()),
            Err(UpstreamError::Timeout("connect_timeout") | UpstreamError::Unreachable(_)) => self.connect,
            Err(UpstreamError::Timeout(_)) => self.timeout,
            Err(UpstreamError::Invalid("broken_head" | "flood" | "no_answer" | "reset")) => self.reset,
            Err(
                UpstreamError::Busy(_)
                | UpstreamError::ClientBody
                | UpstreamError::Invalid(_)
                | UpstreamError::OutOfTime
                | UpstreamError::TooLarge
                | UpstreamError::Unavailable(_),
            ) => false,
        }
    }

    /// What is waited before the next attempt, after so many: by chance, or all that failed at once would come again at
    /// once.
    fn pause(&self, after: u32) -> Duration {
        let most = self.backoff.saturating_mul(1 << after.min(LONGEST_PAUSE_AFTER));
        let chance = u32::from(u16::from_le_bytes(secret::random::<2>()));
        most.saturating_mul(chance) / (1 << 16)
    }
}

/// Where one request has been.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Servers that it had a connection to.
    asked: Tried,
    /// How many of them had their chance.
    done: usize,
}

impl Course {
    /// A connection to this server was had.
    pub(super) fn note(&mut self, server: Option<usize>) {
        self.asked.extend(server);
    }

    /// Whom not to ask again while there are others.
    pub(super) fn done(&self) -> &[usize] {
        self.asked.get(..self.done).unwrap_or_default()
    }

    /// Whoever was asked had their chance; the last of them.
    pub(super) fn begin_again(&mut self) -> Option<usize> {
        self.done = self.asked.len();
        self.asked.last().copied()
    }
}

/// Whether the request of `journey` may be sent to several servers, one after the other.
pub(super) fn may_repeat(journey: &Journey<'_>, has_body: bool) -> bool {
    let request = &journey.request;
    journey.limits.retries && !has_body && request.websocket.is_none() && is_idempotent(&request.method)
}

/// Sends the request of `journey`, which has no body, as often as `retries` allows.
pub(super) async fn forward(journey: &mut Journey<'_>, retries: &Retries) -> Result<Response<Body>, UpstreamError> {
    journey.course = Some(Box::default());
    let mut repeated = 0;
    loop {
        let outcome = attempt(journey, None).await;
        if repeated == retries.attempts || !retries.want(&outcome) {
            return outcome;
        }
        let pause = retries.pause(repeated);
        if journey.times().left().is_some_and(|left| left <= pause) {
            return outcome;
        }
        let budget = journey.entry.budget();
        if !budget.take(retries, journey.upstreams.now_millis()) {
            return outcome;
        }
        // Its connection is of use again if all of the answer is there.
        drop(outcome);
        repeated += 1;
        journey.begin_again();
        tokio::time::sleep(pause).await;
    }
}

/// What all workers together have sent to one upstream, and sent again, in the last seconds.
#[derive(Debug, Default)]
pub struct Budget {
    window: Mutex<Window>,
    /// Repetitions that it had nothing left for.
    pub exhausted: AtomicU64,
}

/// The last seconds in which there was something; the present one is the last.
#[derive(Debug, Default)]
struct Window(VecDeque<Second>);

#[derive(Debug)]
struct Second {
    number: u64,
    requests: u64,
    repeated: u64,
}

impl Budget {
    /// A request goes to the upstream for the first time, at `now` (milliseconds).
    pub(super) fn count(&self, now: u64) {
        self.at(now, |_, present| present.requests += 1);
    }

    /// Takes one repetition from it, if it has that left.
    fn take(&self, retries: &Retries, now: u64) -> bool {
        let is_left = self.at(now, |before, present| {
            let requests = before.requests + present.requests;
            let repeated = before.repeated + present.repeated;
            let share = requests.saturating_mul(retries.budget.into()) / 100;
            let is_left = repeated < share.max(u64::from(retries.min_per_second) * SECONDS);
            present.repeated += u64::from(is_left);
            is_left
        });
        self.exhausted.fetch_add(u64::from(!is_left), Relaxed);
        is_left
    }

    /// Hands over the present second, and the sum of those before it.
    fn at<T>(&self, now: u64, act: impl FnOnce(&Second, &mut Second) -> T) -> T {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = window.advance(now / 1000);
        let mut before = Second::new(present.number);
        for second in &window.0 {
            before.requests += second.requests;
            before.repeated += second.repeated;
        }
        let done = act(&before, &mut present);
        window.0.push_back(present);
        done
    }
}

impl Window {
    /// Forgets what is too long ago and takes out the present. Workers may bring their moments in any order: what is
    /// late counts in the present.
    fn advance(&mut self, second: u64) -> Second {
        let is_counted = self.0.back().is_some_and(|last| last.number >= second);
        let known = if is_counted { self.0.pop_back() } else { None };
        let present = known.unwrap_or_else(|| Second::new(second));
        while self.0.front().is_some_and(|first| first.number + SECONDS <= present.number) {
            self.0.pop_front();
        }
        present
    }
}

impl Second {
    const fn new(number: u64) -> Self {
        Self { number, requests: 0, repeated: 0 }
    }
}

/// What a budget looks back on.
const SECONDS: u64 = 10;
/// Pauses grow until there were so many.
const LONGEST_PAUSE_AFTER: u32 = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn retries(budget: u32, min_per_second: u32) -> Retries {
        Retries {
            attempts: 2,
            connect: true,
            reset: true,
            timeout: false,
            statuses: [StatusCode::SERVICE_UNAVAILABLE].into(),
            budget,
            min_per_second,
            backoff: Duration::from_millis(10),
        }
    }

    #[test]
    fn a_share_of_the_requests_may_be_repeated_and_no_more() {
        let budget = Budget::default();
        (0..100).for_each(|_| budget.count(5_000));

        let taken = (0..100).filter(|_| budget.take(&retries(20, 0), 5_000)).count();

        assert_eq!(taken, 20);
        assert_eq!(budget.exhausted.load(Relaxed), 80);
    }

    #[test]
    fn few_may_be_repeated_where_there_are_few_requests() {
        let budget = Budget::default();
        budget.count(0);

        assert_eq!((0..100).filter(|_| budget.take(&retries(20, 1), 0)).count(), 10);
        assert!(!Budget::default().take(&retries(20, 0), 0));
    }

    #[test]
    fn what_was_long_ago_counts_no_more() {
        let budget = Budget::default();
        (0..100).for_each(|_| budget.count(999));

        assert!(budget.take(&retries(1, 0), 9_999), "ten seconds are looked back on");
        assert!(!budget.take(&retries(1, 0), 9_999));
        assert!(!budget.take(&retries(1, 0), 10_000), "the requests are forgotten");
        (0..100).for_each(|_| budget.count(10_000));
        assert!(!budget.take(&retries(1, 0), 18_999), "the repetition is remembered");
        assert!(budget.take(&retries(1, 0), 19_000));
    }

    #[test]
    fn pauses_are_by_chance_and_bounded() {
        let retries = retries(20, 0);
        let pauses: Vec<Duration> = (0..100).map(|_| retries.pause(0)).collect();

        assert!(pauses.iter().all(|pause| *pause < retries.backoff));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        assert!((0..100).all(|after| retries.pause(after) < retries.backoff * 32));
    }

    proptest! {
        #[test]
        fn no_ten_seconds_see_more_repetitions_than_their_share_or_the_least(
            events in prop::collection::vec((0..400_u64, any::<bool>()), 1..400),
            percent in 0..=100_u32,
        ) {
            let (budget, retries) = (Budget::default(), retries(percent, 1));
            let (mut now, mut requests, mut repeated) = (0, Vec::new(), Vec::new());
            for (pause, again) in events {
                now += pause;
                let second = now / 1000;
                let of = |seconds: &[u64]| seconds.iter().filter(|one| **one + SECONDS > second).count() as u64;
                if !again {
                    budget.count(now);
                    requests.push(second);
                    continue;
                }
                let allowed = (of(&requests) * u64::from(percent) / 100).max(SECONDS);
                prop_assert_eq!(budget.take(&retries, now), of(&repeated) < allowed);
                if of(&repeated) < allowed {
                    repeated.push(second);
                }
            }
        }
    }
}
