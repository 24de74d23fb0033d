//! The addresses of a server's name, known to all workers and asked for again in the background.
//!
//! In: what `dns` finds, with how long it is good. Out: addresses, at once wherever they were found before. Asked again
//! when their time is over, within bounds: a short one cannot make us ask without end, a long one cannot keep an old
//! address for days. An answer stays through failures, also that of one family alone. That there is none is remembered
//! for a moment, too. Only the first connections to a name ever wait, all for one question. Every address is judged when
//! it is connected to (R36), so new answers are, too.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::{Shared, eyeballs::Addresses};
use crate::dns::{Found as Answer, NotFound, message::Family};

/// One name with a port.
#[derive(Debug)]
pub(super) struct Name {
    host: Box<str>,
    port: u16,
    answer: ArcSwapOption<Addresses>,
    /// Counts answers that were others than before, from 1 with the first.
    generation: AtomicU64,
    /// Whose turn it is to be asked first.
    turn: AtomicUsize,
    /// From when on it is asked for again; milliseconds, as its users count them.
    due_at: AtomicU64,
    is_being_asked: AtomicBool,
    /// Wakes those who wait for the first answer.
    asked: Notify,
    fails: AtomicBool,
}

/// A connection's memory of the answer for its server's name that it was last found in; at first of none.
#[derive(Debug, Default)]
pub(super) struct Found(Cell<u64>);

impl Found {
    /// Whether a connection to `peer` leads to one of the present addresses of `name`. Looks again only after they have
    /// changed.
    pub(super) fn is_at(&self, name: &Name, peer: impl FnOnce() -> Option<SocketAddr>) -> bool {
        let generation = name.generation();
        if self.0.get() != generation {
            if peer().is_some_and(|peer| !name.has(peer)) {
                return false;
            }
            self.0.set(generation);
        }
        true
    }
}

impl Name {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            answer: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            due_at: AtomicU64::new(0),
            is_being_asked: AtomicBool::new(false),
            asked: Notify::new(),
            fails: AtomicBool::new(false),
        }
    }

    pub(super) fn is(&self, host: &str, port: u16) -> bool {
        *self.host == *host && self.port == port
    }

    /// Its addresses, those of the preferred family in turn; asks for them if they are not known. Must run where local
    /// tasks can be spawned.
    ///
    /// # Errors
    /// If they are not known and cannot be had.
    pub(super) async fn addresses(self: &Arc<Self>, shared: &Arc<Shared>) -> io::Result<Addresses> {
        let mut known = self.answer.load_full();
        if known.is_none() {
            let mut asked = pin!(self.asked.notified());
            // From here on no answer is missed.
            asked.as_mut().enable();
            if shared.now_millis() >= self.due_at.load(Relaxed) && !self.is_being_asked.swap(true, Relaxed) {
                // Whoever waits may leave; what was asked for is then known to the next one.
                drop(tokio::task::spawn_local(Arc::clone(self).ask(Arc::clone(shared))));
            }
            if self.is_being_asked.load(Relaxed) {
                asked.await;
            }
            known = self.answer.load_full();
        }
        let mut addresses = known.map(|known| Addresses::clone(&known)).ok_or(io::ErrorKind::NotFound)?;
        let preferred = addresses.first().is_some_and(SocketAddr::is_ipv6);
        let alike = addresses.iter().take_while(|address| address.is_ipv6() == preferred).count();
        if let Some(alike) = addresses.get_mut(..alike).filter(|alike| !alike.is_empty()) {
            let turn = self.turn.fetch_add(1, Relaxed) % alike.len();
            alike.rotate_left(turn);
        }
        Ok(addresses)
    }

    /// Changes whenever the addresses do.
    fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Whether this is one of its addresses; also where none are known.
    fn has(&self, address: SocketAddr) -> bool {
        self.answer.load().as_ref().is_none_or(|known| known.contains(&address))
    }

    /// Whether it is time to ask again; whoever is told so does. `now` in milliseconds.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.answer.load().is_some() && now >= self.due_at.load(Relaxed) && !self.is_being_asked.swap(true, Relaxed)
    }

    /// It is asked for again as soon as can be: somebody else is asked now.
    pub(super) fn is_due_now(&self) {
        self.due_at.store(0, Relaxed);
    }

    /// Asks, after [`Self::is_due`].
    pub(super) async fn ask(self: Arc<Self>, shared: Arc<Shared>) {
        let asking = Asking(&self);
        let resolver = shared.resolver();
        let found = resolver.find(&self.host).await;
        let good_for = u64::try_from(self.note(found).as_millis()).unwrap_or(u64::MAX);
        self.due_at.store(shared.now_millis().saturating_add(good_for), Relaxed);
        if !Arc::ptr_eq(&resolver, &shared.resolver()) {
            self.is_due_now();
        }
        drop(asking);
    }

    /// Returns after how long it is to be asked for again.
    fn note(&self, found: Result<Answer, NotFound>) -> Duration {
        let name = &*self.host;
        match found {
            Ok(answer) => {
                let mut addresses: Addresses =
                    answer.addresses.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect();
                let mut good_for = answer.good_for.clamp(SHORTEST, LONGEST);
                if let Some(family) = answer.without {
                    // What nobody could tell of stays as it was.
                    let known = self.answer.load_full();
                    let missing = |known: &&SocketAddr| known.is_ipv6() == (family == Family::V6);
                    addresses.extend(known.iter().flat_map(|known| known.iter()).filter(missing).copied());
                    good_for = good_for.min(AFTER_FAILURE);
                }
                if self.fails.swap(false, Relaxed) {
                    tracing::info!(name, "the name of a server is resolved again");
                }
                self.learn(addresses);
                good_for
            }
            Err(why) => {
                if !self.fails.swap(true, Relaxed) {
                    match self.answer.load().is_some() {
                        true => {
                            tracing::warn!(name, "the name of a server is not resolved; its last addresses stay in use")
                        }
                        false => tracing::warn!(name, "the name of a server is not resolved"),
                    }
                }
                match why {
                    NotFound::NoAddress(until) => until.unwrap_or(AFTER_FAILURE).clamp(SHORTEST, AFTER_FAILURE),
                    NotFound::NoAnswer => AFTER_FAILURE,
                }
            }
        }
    }

    /// From now on these are its addresses, if there are any.
    pub(super) fn learn(&self, addresses: Addresses) {
        if addresses.is_empty() {
            return;
        }
        let known = self.answer.load_full();
        let same = known.as_ref().is_some_and(|known| {
            known.len() == addresses.len() && addresses.iter().all(|address| known.contains(address))
        });
        if same {
            return;
        }
        if known.is_some() {
            tracing::info!(name = &*self.host, ?addresses, "a server has other addresses");
        }
        // First what is asked for, then that it has changed: who sees the change sees the addresses.
        self.answer.store(Some(Arc::new(addresses)));
        self.generation.fetch_add(1, Relaxed);
    }
}

/// Somebody asks; whatever becomes of it, those who wait go on.
struct Asking<'a>(&'a Name);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.is_being_asked.store(false, Relaxed);
        self.0.asked.notify_waiters();
    }
}

/// An answer counts at least so long, whatever it says: 0 means that nobody else may keep it.
const SHORTEST: Duration = Duration::from_secs(1);

/// And at most so long: some zones say weeks, and are changed nevertheless.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// After how long it is asked again for what could not be had, at most.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    fn addresses(list: &[&str]) -> Addresses {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn found(list: &[&str], seconds: u64) -> Result<Answer, NotFound> {
        let addresses = list.iter().map(|text| text.parse().unwrap()).collect();
        Ok(Answer { addresses, good_for: Duration::from_secs(seconds), without: None })
    }

    fn order(name: &Arc<Name>) -> io::Result<Addresses> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shared = Shared::new(None, Box::default());
        runtime.block_on(LocalSet::new().run_until(async { name.addresses(&shared).await }))
    }

    fn known(name: &Arc<Name>) -> Addresses {
        let mut addresses = order(name).unwrap();
        addresses.sort_unstable();
        addresses
    }

    fn name() -> Arc<Name> {
        Arc::new(Name::new("a.invalid", 80))
    }

    #[test]
    fn the_last_good_answer_stays_through_failures() {
        let name = name();
        name.note(found(&["10.0.0.1"], 60));

        name.note(Err(NotFound::NoAnswer));
        name.note(Err(NotFound::NoAddress(None)));

        assert_eq!(known(&name), addresses(&["10.0.0.1:80"]));
        assert_eq!(name.generation(), 1);
        name.note(found(&["10.0.0.2"], 60));
        assert_eq!(known(&name), addresses(&["10.0.0.2:80"]));
        assert_eq!(name.generation(), 2);
        assert!(name.has("10.0.0.2:80".parse().unwrap()) && !name.has("10.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn a_family_that_nobody_could_tell_of_keeps_its_addresses() {
        let name = name();
        name.note(found(&["10.0.0.1", "::1"], 60));
        let half = |without, list: &[&str]| found(list, 60).map(|found| Answer { without, ..found });

        assert_eq!(name.note(half(Some(Family::V6), &["10.0.0.2"])), AFTER_FAILURE);
        assert_eq!(known(&name), addresses(&["10.0.0.2:80", "[::1]:80"]));
        name.note(half(None, &["10.0.0.2"]));
        assert_eq!(known(&name), addresses(&["10.0.0.2:80"]));
    }

    #[test]
    fn the_order_of_an_answer_is_no_change() {
        let name = name();
        name.note(found(&["10.0.0.1", "10.0.0.2"], 60));
        name.note(found(&["10.0.0.2", "10.0.0.1"], 60));

        assert_eq!(name.generation(), 1);
    }

    #[test]
    fn addresses_of_the_preferred_family_take_turns() {
        let name = name();
        name.note(found(&["10.0.0.1", "10.0.0.2", "::1"], 60));

        assert_eq!(order(&name).unwrap(), addresses(&["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"]));
        assert_eq!(order(&name).unwrap(), addresses(&["10.0.0.2:80", "10.0.0.1:80", "[::1]:80"]));
    }

    #[test]
    fn an_answer_counts_as_long_as_it_says_within_bounds() {
        let name = name();
        for (says, counts) in [(0, 1), (1, 1), (30, 30), (3600, 3600), (3601, 3600), (u64::from(u32::MAX), 3600)] {
            assert_eq!(name.note(found(&["10.0.0.1"], says)), Duration::from_secs(counts), "{says}");
        }
        let nothing = |seconds: Option<u64>| Err(NotFound::NoAddress(seconds.map(Duration::from_secs)));
        for (says, counts) in [(None, 2), (Some(0), 1), (Some(1), 1), (Some(3600), 2)] {
            assert_eq!(name.note(nothing(says)), Duration::from_secs(counts), "{says:?}");
        }
        assert_eq!(name.note(Err(NotFound::NoAnswer)), AFTER_FAILURE);
    }

    #[test]
    fn a_name_is_due_only_once_it_is_known_and_by_one_at_a_time() {
        let name = name();
        assert!(!name.is_due(1_000_000));
        name.note(found(&["10.0.0.1"], 60));
        name.due_at.store(10_000, Relaxed);

        assert!(!name.is_due(9_999));
        assert!(name.is_due(10_000));
        assert!(!name.is_due(20_000), "somebody asks already");
    }

    #[test]
    fn that_there_is_no_address_is_remembered_for_a_moment() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (name, shared) = (name(), Shared::new(None, Box::default()));
        runtime.block_on(LocalSet::new().run_until(async {
            assert!(name.addresses(&shared).await.is_err());
            let due_at = name.due_at.load(Relaxed);
            assert!(due_at > 0 && due_at <= shared.now_millis() + 2_000);
            assert!(!name.is_being_asked.load(Relaxed), "whoever comes after the moment asks again");
            name.due_at.store(u64::MAX, Relaxed);
            assert!(name.addresses(&shared).await.is_err(), "nobody is asked, and nobody waits");
        }));
    }
}
