//! Which servers are in: what is known of each from checks, from requests and from connecting.
//!
//! In: what happened with a server, and when. Out: its [`Place`]. Four things keep a server from its full share:
//! - it *rests* for 1 s, then 2, up to 10, after each connection that it refused: a last resort;
//! - it is *unhealthy*: [`check`]s fail;
//! - it is *ejected*: too many requests in a row got no answer, or one that says so; longer each time;
//! - it is *warming*: it came back, and its share grows for a while.
//!
//! The state is the process's, shared by all workers and kept over reloads. A sound server costs a request one look at
//! a number; the lock behind it is taken only where there is something to tell. Who is out is not asked, unless so few
//! are in that the rest would fall, too ([`Rules::panic_below`], see `balance`).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;

mod check;
mod watch;

pub use check::Check;
pub use watch::Watch;

/// When a server is out, and how it comes back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rules {
    /// What it is asked from time to time; `None`: nothing.
    pub check: Option<Arc<Check>>,
    /// When requests that fail eject it.
    pub eject: Eject,
    /// For how long its share grows after it came back; zero: it gets all of it at once.
    pub slow_start: Duration,
    /// When fewer than so many of a hundred servers are in, all are asked; 0: never.
    pub panic_below: u32,
}

/// `eject`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Eject {
    /// Failures in a row; 0: never.
    pub failures: u32,
    /// Answers that count as failures, beside no answer at all.
    pub statuses: Box<[StatusCode]>,
    /// For how long, the first time; twice as long the second time, and so on.
    pub time: Duration,
    /// At most for so long.
    pub max_time: Duration,
}

impl Default for Rules {
    /// Five failures in a row eject for 10 s at first and 5 min at most; back within 10 s; panic below a quarter.
    fn default() -> Self {
        Self {
            check: None,
            eject: Eject {
                failures: 5,
                statuses: Box::default(),
                time: Duration::from_secs(10),
                max_time: Duration::from_secs(300),
            },
            slow_start: Duration::from_secs(10),
            panic_below: 25,
        }
    }
}

/// What a server gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// So many hundredths of its weight, 1 to 100.
    In(u32),
    /// Nothing.
    Out(Why),
    /// What no other can take.
    Rests,
}

/// Why a server is out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// Requests failed.
    Ejected,
    /// Checks failed.
    Unhealthy,
}

impl Place {
    /// The word for logs and the admin API.
    pub const fn label(self) -> &'static str {
        match self {
            Self::In(100) => "in",
            Self::In(_) => "warming",
            Self::Out(Why::Ejected) => "ejected",
            Self::Out(Why::Unhealthy) => "unhealthy",
            Self::Rests => "resting",
        }
    }
}

/// What is known of one server.
#[derive(Debug)]
pub struct Standing {
    upstream: Arc<str>,
    label: Box<str>,
    /// Whether there is anything to look at behind the lock.
    is_marked: AtomicBool,
    /// Requests in a row that failed.
    failures: AtomicU32,
    facts: Mutex<Facts>,
    /// Checks that it passed, and that it did not.
    checks: [AtomicU64; 2],
    ejections: AtomicU64,
}

/// All times in milliseconds.
#[derive(Debug, Default)]
struct Facts {
    /// Connections in a row that it refused.
    refusals: u32,
    rests_until: u64,
    unhealthy: bool,
    /// Checks in a row that came out as the last one.
    alike: u32,
    /// What the last check found; `None`: there was none.
    last_check: Option<Result<(), &'static str>>,
    ejected_until: Option<u64>,
    /// Ejections, each not long after the last.
    ejected_before: u32,
    returned_at: u64,
    warms_from: Option<u64>,
}

impl Standing {
    pub(super) fn new(upstream: Arc<str>, label: Box<str>) -> Self {
        Self {
            upstream,
            label,
            is_marked: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            facts: Mutex::default(),
            checks: Default::default(),
            ejections: AtomicU64::new(0),
        }
    }

    /// What it gets now; `now` (milliseconds) is asked only if there is something to tell.
    #[inline]
    pub(super) fn place(&self, rules: &Rules, now: impl FnOnce() -> u64) -> Place {
        if self.is_marked.load(Relaxed) { self.look(rules, now()) } else { Place::In(FULL) }
    }

    /// Checks passed and failed, and ejections.
    pub fn counts(&self) -> (u64, u64, u64) {
        let [passed, failed] = &self.checks;
        (passed.load(Relaxed), failed.load(Relaxed), self.ejections.load(Relaxed))
    }

    /// What the last check found, if there was one.
    pub fn last_check(&self) -> Option<Result<(), &'static str>> {
        self.facts().last_check
    }

    #[cold]
    fn look(&self, rules: &Rules, now: u64) -> Place {
        let mut facts = self.facts();
        if facts.ejected_until.is_some_and(|until| now >= until) {
            facts.ejected_until = None;
            facts.returned_at = now;
            self.is_back(&mut facts, now);
        }
        let slow_start = millis(rules.slow_start);
        facts.warms_from = facts.warms_from.filter(|from| now.saturating_sub(*from) < slow_start);
        self.is_marked.store(facts.tell_something(), Relaxed);
        if facts.unhealthy {
            Place::Out(Why::Unhealthy)
        } else if facts.ejected_until.is_some() {
            Place::Out(Why::Ejected)
        } else if facts.refusals > 0 && facts.rests_until > now {
            Place::Rests
        } else {
            let warm = |from: u64| now.saturating_sub(from).saturating_mul(u64::from(FULL)) / slow_start.max(1);
            let share = facts.warms_from.map_or_else(|| u64::from(FULL), warm);
            Place::In(u32::try_from(share).unwrap_or(FULL).clamp(FIRST_SHARE, FULL))
        }
    }

    /// A connection stands.
    pub(super) fn connected(&self) {
        if self.is_marked.load(Relaxed) {
            let mut facts = self.facts();
            facts.refusals = 0;
            self.is_marked.store(facts.tell_something(), Relaxed);
        }
    }

    /// No connection could be made.
    pub(super) fn refused(&self, rules: &Rules, now: u64) {
        {
            let mut facts = self.facts();
            let rest = millis(REST_FIRST) << facts.refusals.min(8);
            facts.refusals = facts.refusals.saturating_add(1);
            facts.rests_until = now.saturating_add(rest.min(millis(REST_MAX)));
            self.is_marked.store(true, Relaxed);
        }
        self.failed(rules, now);
    }

    /// A request was answered.
    #[inline]
    pub(super) fn answered(&self, rules: &Rules, status: StatusCode, now: impl FnOnce() -> u64) {
        if rules.eject.statuses.contains(&status) {
            self.failed(rules, now());
        } else if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// A request got no answer, or one that says that it failed.
    #[cold]
    pub(super) fn failed(&self, rules: &Rules, now: u64) {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let Eject { failures: most, time, max_time, .. } = rules.eject;
        if most == 0 || failures < most {
            return;
        }
        self.failures.store(0, Relaxed);
        let mut facts = self.facts();
        if facts.ejected_until.is_some() {
            // Requests that were under way before.
            return;
        }
        if now.saturating_sub(facts.returned_at) > millis(max_time) {
            facts.ejected_before = 0;
        }
        facts.ejected_before = facts.ejected_before.saturating_add(1);
        let time = millis(time).saturating_mul(u64::from(facts.ejected_before)).min(millis(max_time));
        facts.ejected_until = Some(now.saturating_add(time));
        facts.warms_from = None;
        self.is_marked.store(true, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
        let (upstream, server) = (&*self.upstream, &*self.label);
        tracing::warn!(upstream, server, failures, milliseconds = time, "a server is out: its requests fail");
    }

    /// A check came to its end.
    fn checked(&self, check: &Check, found: Result<(), &'static str>, now: u64) {
        let [passed, failed] = &self.checks;
        if found.is_ok() { passed } else { failed }.fetch_add(1, Relaxed);
        let mut facts = self.facts();
        let is_first = facts.last_check.is_none();
        let as_before = facts.last_check.is_some_and(|last| last.is_ok() == found.is_ok());
        facts.alike = if as_before { facts.alike.saturating_add(1) } else { 1 };
        facts.last_check = Some(found);
        let (upstream, server) = (&*self.upstream, &*self.label);
        match found {
            Ok(()) if facts.unhealthy && facts.alike >= check.healthy_after => {
                facts.unhealthy = false;
                self.is_back(&mut facts, now);
            }
            // The first check decides alone: nothing else is known yet.
            Err(why) if !facts.unhealthy && (is_first || facts.alike >= check.unhealthy_after) => {
                facts.unhealthy = true;
                facts.warms_from = None;
                tracing::warn!(upstream, server, why, "a server is out: its checks fail");
            }
            Ok(()) | Err(_) => {}
        }
        self.is_marked.store(facts.tell_something(), Relaxed);
    }

    /// Nobody checks it any more.
    fn unchecked(&self) {
        let mut facts = self.facts();
        facts.unhealthy = false;
        facts.alike = 0;
        facts.last_check = None;
        self.is_marked.store(facts.tell_something(), Relaxed);
    }

    fn is_back(&self, facts: &mut Facts, now: u64) {
        facts.warms_from = Some(now);
        facts.refusals = 0;
        if !facts.unhealthy && facts.ejected_until.is_none() {
            tracing::info!(upstream = &*self.upstream, server = &*self.label, "a server is in again");
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    const fn tell_something(&self) -> bool {
        self.refusals > 0 || self.unhealthy || self.ejected_until.is_some() || self.warms_from.is_some()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const REST_FIRST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(10);
const FULL: u32 = 100;
/// Of a server that has just come back.
const FIRST_SHARE: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Standing {
        Standing::new("u".into(), "http://a".into())
    }

    fn at(standing: &Standing, now: u64) -> Place {
        standing.place(&Rules::default(), || now)
    }

    fn fail(standing: &Standing, times: u32, now: u64) {
        (0..times).for_each(|_| standing.failed(&Rules::default(), now));
    }

    #[test]
    fn a_server_that_refuses_rests_longer_each_time_until_it_takes_a_connection() {
        let server = standing();
        let rules = Rules { eject: Eject { failures: 0, ..Rules::default().eject }, ..Rules::default() };

        server.refused(&rules, 0);
        assert_eq!([at(&server, 999), at(&server, 1000)], [Place::Rests, Place::In(100)]);
        (0..40).for_each(|_| server.refused(&rules, 0));
        assert_eq!([at(&server, 9_999), at(&server, 10_000)], [Place::Rests, Place::In(100)]);
        server.connected();
        assert_eq!(at(&server, 0), Place::In(100));
    }

    #[test]
    fn failures_in_a_row_eject_and_an_answer_between_them_does_not_let_them_add_up() {
        let server = standing();

        fail(&server, 4, 0);
        server.answered(&Rules::default(), StatusCode::INTERNAL_SERVER_ERROR, || 0);
        fail(&server, 4, 0);
        assert_eq!(at(&server, 0), Place::In(100));
        fail(&server, 1, 0);
        assert_eq!(at(&server, 0), Place::Out(Why::Ejected));
        assert_eq!(server.counts().2, 1);
    }

    #[test]
    fn an_ejected_server_comes_back_slowly_and_stays_out_longer_the_next_time() {
        let server = standing();
        fail(&server, 5, 0);

        assert_eq!(at(&server, 9_999), Place::Out(Why::Ejected));
        assert_eq!([10_000, 12_000, 19_999, 20_000].map(|now| at(&server, now)), [10, 20, 99, 100].map(Place::In));
        fail(&server, 5, 21_000);
        assert_eq!(at(&server, 40_999), Place::Out(Why::Ejected));
        assert_eq!(at(&server, 41_000), Place::In(10));
        // Long after, it is the first time again.
        fail(&server, 5, 400_000);
        assert_eq!([at(&server, 409_999), at(&server, 410_000)], [Place::Out(Why::Ejected), Place::In(10)]);
    }

    #[test]
    fn an_ejection_has_an_end() {
        let server = standing();
        let mut now = 0;
        for _ in 0..100 {
            fail(&server, 5, now);
            now += 300_000;
            assert_eq!(at(&server, now), Place::In(10));
        }
    }

    #[test]
    fn statuses_count_as_failures_only_where_the_rules_say_so() {
        let server = standing();
        let rules = Rules {
            eject: Eject { statuses: [StatusCode::BAD_GATEWAY].into(), ..Rules::default().eject },
            ..Rules::default()
        };
        (0..9).for_each(|_| server.answered(&Rules::default(), StatusCode::BAD_GATEWAY, || 0));
        assert_eq!(at(&server, 0), Place::In(100));
        (0..9).for_each(|_| server.answered(&rules, StatusCode::NOT_FOUND, || 0));
        assert_eq!(at(&server, 0), Place::In(100));
        (0..5).for_each(|_| server.answered(&rules, StatusCode::BAD_GATEWAY, || 0));
        assert_eq!(at(&server, 0), Place::Out(Why::Ejected));
    }

    #[test]
    fn checks_take_a_server_out_and_in_after_so_many_alike() {
        let server = standing();
        let check = Check { healthy_after: 2, unhealthy_after: 3, ..Check::default() };
        let miss = |times: u32| (0..times).for_each(|_| server.checked(&check, Err("status"), 0));
        let pass = |times: u32| (0..times).for_each(|_| server.checked(&check, Ok(()), 0));

        pass(1);
        miss(2);
        pass(1);
        miss(2);
        assert_eq!(at(&server, 0), Place::In(100));
        miss(1);
        assert_eq!(at(&server, 0), Place::Out(Why::Unhealthy));
        pass(1);
        miss(1);
        pass(1);
        assert_eq!(at(&server, 0), Place::Out(Why::Unhealthy));
        pass(1);
        assert_eq!(at(&server, 0), Place::In(10));
        assert_eq!(server.counts(), (5, 6, 0));
        assert_eq!(server.last_check(), Some(Ok(())));
    }

    #[test]
    fn the_first_check_decides_alone_and_nobody_is_out_for_want_of_checks() {
        let server = standing();

        server.checked(&Check::default(), Err("refused"), 0);
        assert_eq!(at(&server, 0), Place::Out(Why::Unhealthy));
        server.unchecked();
        assert_eq!(at(&server, 0), Place::In(100));
    }
}
