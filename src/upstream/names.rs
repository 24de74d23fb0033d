//! The addresses of a server's name, known to all workers and asked for again in the background.
//!
//! The system is asked (`getaddrinfo`): hosts file, search domains and whatever else this machine resolves names by
//! count as for every other program on it. It tells no TTL; that is kept by whatever it asks, and it is asked again
//! every ten seconds, so a change counts that much after its TTL at most. An answer stays through failures. Only the
//! first connection to a name ever waits. Every address is judged when it is connected to (R36), so new answers are,
//! too.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::net::lookup_host;

use super::eyeballs::Addresses;

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
    /// Milliseconds, as its user counts them.
    asked_at: AtomicU64,
    is_being_asked: AtomicBool,
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
            asked_at: AtomicU64::new(0),
            is_being_asked: AtomicBool::new(false),
            fails: AtomicBool::new(false),
        }
    }

    pub(super) fn is(&self, host: &str, port: u16) -> bool {
        *self.host == *host && self.port == port
    }

    /// Its addresses, those of the preferred family in turn; asks for them if they are not known.
    ///
    /// # Errors
    /// If they are not known and cannot be had.
    pub(super) async fn addresses(&self) -> io::Result<Addresses> {
        if self.answer.load().is_none() {
            let found = lookup_host((&*self.host, self.port)).await?;
            self.learn(found.collect());
        }
        let mut addresses = self.answer.load_full().map_or_else(Addresses::new, |known| Addresses::clone(&known));
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
        let after = u64::try_from(AGAIN_AFTER.as_millis()).unwrap_or(u64::MAX);
        self.answer.load().is_some()
            && now >= self.asked_at.load(Relaxed).saturating_add(after)
            && !self.is_being_asked.swap(true, Relaxed)
    }

    /// Asks again, after [`Self::is_due`].
    pub(super) async fn ask_again(self: Arc<Self>, now: u64) {
        self.asked_at.store(now, Relaxed);
        let found = lookup_host((&*self.host, self.port)).await;
        self.note(found.map(Iterator::collect));
        self.is_being_asked.store(false, Relaxed);
    }

    fn note(&self, found: io::Result<Addresses>) {
        let name = &*self.host;
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                if self.fails.swap(false, Relaxed) {
                    tracing::info!(name, "the name of a server is resolved again");
                }
                self.learn(addresses);
            }
            Ok(_) | Err(_) => {
                if !self.fails.swap(true, Relaxed) {
                    tracing::warn!(name, "the name of a server is not resolved; its last addresses stay in use");
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

/// How often names are asked for.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Addresses {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn known(name: &Name) -> Addresses {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut addresses = runtime.block_on(name.addresses()).unwrap();
        addresses.sort_unstable();
        addresses
    }

    #[test]
    fn the_last_good_answer_stays_through_failures() {
        let name = Name::new("a.invalid", 80);
        name.note(Ok(addresses(&["10.0.0.1:80"])));

        name.note(Err(io::ErrorKind::TimedOut.into()));
        name.note(Ok(Addresses::new()));

        assert_eq!(known(&name), addresses(&["10.0.0.1:80"]));
        assert_eq!(name.generation(), 1);
        name.note(Ok(addresses(&["10.0.0.2:80"])));
        assert_eq!(known(&name), addresses(&["10.0.0.2:80"]));
        assert_eq!(name.generation(), 2);
        assert!(name.has("10.0.0.2:80".parse().unwrap()) && !name.has("10.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn the_order_of_an_answer_is_no_change() {
        let name = Name::new("a.invalid", 80);
        name.note(Ok(addresses(&["10.0.0.1:80", "10.0.0.2:80"])));
        name.note(Ok(addresses(&["10.0.0.2:80", "10.0.0.1:80"])));

        assert_eq!(name.generation(), 1);
    }

    #[test]
    fn addresses_of_the_preferred_family_take_turns() {
        let name = Name::new("a.invalid", 80);
        name.note(Ok(addresses(&["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"])));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let order = || runtime.block_on(name.addresses()).unwrap();

        assert_eq!(order(), addresses(&["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"]));
        assert_eq!(order(), addresses(&["10.0.0.2:80", "10.0.0.1:80", "[::1]:80"]));
    }

    #[test]
    fn a_name_is_due_only_once_it_is_known_and_by_one_at_a_time() {
        let name = Name::new("a.invalid", 80);
        assert!(!name.is_due(1_000_000));
        name.note(Ok(addresses(&["10.0.0.1:80"])));

        assert!(!name.is_due(9_999));
        assert!(name.is_due(10_000));
        assert!(!name.is_due(20_000), "somebody asks already");
    }
}
