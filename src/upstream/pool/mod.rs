//! One worker's connections: made, lent, taken back, given up.
//!
//! [`Upstreams`] is what a worker holds; an [`Entry`] is one upstream in one generation of settings (`entry`), a
//! [`ServerPool`] one server's idle and shared connections, which outlive a reload (`server`). A [`Lease`] is the right
//! to one exchange (`lease`): finished, its connection returns; dropped, it is cut. All deadlines hang on one coarse
//! ticker for each worker that runs while there are connections: an exchange registers no timer, it sets a number.
//! Nothing here crosses threads but the counters.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::{Rc, Weak},
    sync::Arc,
};

use tokio::time::MissedTickBehavior;

use super::{
    Settings, Shared,
    connect::{Io, Target},
    link::Link,
    patience::Patience,
    ticks::{TICK, Ticks},
};
use crate::shutdown::Shutdown;

mod entry;
mod lease;
mod server;

pub(super) use self::{
    entry::{Entry, Leased, Tried, Wish},
    lease::{Failure, Lease, SharedLease, is_idempotent},
    server::{ServerPool, UnderWay},
};

/// A worker's connections to all upstreams. Cheap to clone; never leaves its thread.
#[derive(Clone)]
pub struct Upstreams(Rc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    shutdown: Shutdown,
    ticks: Ticks,
    ticking: Cell<bool>,
    entries: RefCell<Vec<Rc<Entry>>>,
    servers: RefCell<Vec<Rc<ServerPool>>>,
    links: RefCell<Vec<Weak<Link>>>,
    /// Of exchanges on shared connections.
    exchanges: RefCell<Vec<Weak<Patience>>>,
}

impl Upstreams {
    /// For the thread it is made in. Tunnels end when `shutdown` is triggered, and hold its guards until then.
    pub fn new(shared: Arc<Shared>, shutdown: Shutdown) -> Self {
        Self(Rc::new(Inner {
            shared,
            shutdown,
            ticks: Ticks::new(),
            ticking: Cell::new(false),
            entries: RefCell::default(),
            servers: RefCell::default(),
            links: RefCell::default(),
            exchanges: RefCell::default(),
        }))
    }

    /// What idle connections have read ahead or made room for, in bytes.
    #[cfg(test)]
    pub(super) fn idle_buffer_bytes(&self) -> usize {
        let servers = self.0.servers.borrow();
        servers.iter().map(|server| server.idle_buffer_bytes()).sum()
    }

    /// Closes all idle connections.
    pub fn close_idle(&self) {
        for server in &*self.0.servers.borrow() {
            server.retire();
        }
    }

    /// Takes over the settings of a new generation: unchanged servers keep their connections, idle ones to servers that
    /// nobody asks for any more are closed. `false` while requests under way use other settings: ask again later.
    pub fn settle(&self, settings: &[Arc<Settings>]) -> bool {
        let current: Vec<Rc<Entry>> = settings.iter().map(|settings| self.entry(settings)).collect();
        let mut entries = self.0.entries.borrow_mut();
        entries.retain(|entry| entry.is_wanted());
        for server in &*self.0.servers.borrow() {
            if !entries.iter().any(|entry| entry.uses(server)) {
                server.retire();
            }
        }
        entries.len() == current.len()
    }

    /// The present moment, as all workers count it.
    pub(super) fn now_millis(&self) -> u64 {
        self.0.shared.now_millis()
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }

    /// This worker's view of `settings`, made when they are first met.
    pub(super) fn entry(&self, settings: &Arc<Settings>) -> Rc<Entry> {
        if let Some(known) = self.0.entries.borrow().iter().find(|entry| entry.is_of(settings)) {
            return Rc::clone(known);
        }
        self.new_entry(settings)
    }

    #[cold]
    fn new_entry(&self, settings: &Arc<Settings>) -> Rc<Entry> {
        let state = self.0.shared.state(settings);
        let mut servers = self.0.servers.borrow_mut();
        let pools = settings.servers.iter().zip(&state.servers).map(|(member, server)| {
            if let Some(known) = servers.iter().find(|pool| pool.is_of(server, settings)) {
                return Rc::clone(known);
            }
            let target = Target::new(member.server.clone(), settings, Arc::clone(&self.0.shared));
            let pool = Rc::new(ServerPool::new(target, Arc::clone(server)));
            servers.push(Rc::clone(&pool));
            pool
        });
        let pools = pools.collect();
        drop(servers);
        let entry = Rc::new(Entry::new(settings, state, pools, self.0.shared.next_round()));
        let mut entries = self.0.entries.borrow_mut();
        entries.retain(|entry| entry.is_wanted());
        entries.push(Rc::clone(&entry));
        entry
    }

    /// A new connection, whose deadlines are watched over.
    fn link(&self, io: Io, server: &Rc<ServerPool>) -> Rc<Link> {
        let link = Link::new(io, self.0.ticks.clone(), Rc::clone(server));
        self.watch(&link);
        link
    }

    /// Watches over a new connection's deadlines.
    fn watch(&self, link: &Rc<Link>) {
        self.0.links.borrow_mut().push(Rc::downgrade(link));
        self.keep_ticking();
    }

    /// Watches over the deadline of an exchange on a shared connection.
    pub(super) fn watch_over(&self, exchange: &Rc<Patience>) {
        self.0.exchanges.borrow_mut().push(Rc::downgrade(exchange));
        self.keep_ticking();
    }

    fn keep_ticking(&self) {
        if !self.0.ticking.replace(true) {
            self.0.ticks.advance();
            tokio::task::spawn_local(tick(Rc::downgrade(&self.0)));
        }
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("connections", &self.0.links.borrow().len()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    /// A connection knows its pool and the pool its idle connections: somebody has to let go.
    fn drop(&mut self) {
        for server in self.servers.get_mut() {
            server.forget();
        }
    }
}

/// Judges all deadlines, tick by tick, until there is no connection left.
async fn tick(worker: Weak<Inner>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let Some(inner) = worker.upgrade() else { return };
        let passed = inner.ticks.advance();
        let now = inner.ticks.now();
        let mut links = inner.links.borrow_mut();
        // If this thread was held up, answers may wait in sockets: they are read first.
        let in_time = passed <= LATE_TICKS;
        links.retain(|link| {
            let link = link.upgrade();
            link.as_ref().filter(|_| in_time).inspect(|link| link.patience().judge());
            link.is_some()
        });
        let mut exchanges = inner.exchanges.borrow_mut();
        exchanges.retain(|exchange| {
            let exchange = exchange.upgrade();
            exchange.as_ref().filter(|_| in_time).inspect(|exchange| exchange.judge());
            exchange.is_some()
        });
        let mut none_shared = true;
        inner.servers.borrow_mut().retain(|server| {
            server.evict(now);
            none_shared &= !server.is_shared();
            Rc::strong_count(server) > 1
        });
        if links.is_empty() && exchanges.is_empty() && none_shared {
            inner.ticking.set(false);
            return;
        }
    }
}

/// After this many ticks at once deadlines are judged only at the next.
const LATE_TICKS: u64 = 10;
