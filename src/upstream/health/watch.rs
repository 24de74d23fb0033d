//! Who is checked, and which names are asked for again: once for the process.
//!
//! In: the upstreams of the snapshot in use. Each server that has checks has a task. A server that stays and is asked
//! the same keeps its task; the task of one that is gone, or is asked something else, is ended. For the control thread.

use std::sync::Arc;

use tokio::{task::JoinHandle, time::MissedTickBehavior};

use super::{Check, Place};
use crate::upstream::{
    Settings, Shared,
    connect::Target,
    servers::{ServerState, UpstreamState},
    tls::ServerTls,
};

/// Checks the servers of the upstreams in use.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    /// Held, so that counts are there before the first request and after the last.
    followed: Vec<(Arc<Settings>, Arc<UpstreamState>)>,
    tasks: Vec<Task>,
}

#[derive(Debug)]
struct Task {
    server: Arc<ServerState>,
    check: Arc<Check>,
    tls: Option<Arc<ServerTls>>,
    running: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Watch {
    /// Of nothing yet.
    pub const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, followed: Vec::new(), tasks: Vec::new() }
    }

    /// Follows the upstreams of a snapshot; cheap if they are those of the last time. Must run where local tasks can be
    /// spawned.
    pub fn follow(&mut self, upstreams: &[Arc<Settings>]) {
        let known = self.followed.iter().map(|(settings, _)| Arc::as_ptr(settings));
        if !known.eq(upstreams.iter().map(Arc::as_ptr)) {
            self.change(upstreams);
        }
        for name in self.shared.names_due(self.shared.now_millis()) {
            // Ends by itself, or with the thread.
            drop(tokio::task::spawn_local(name.ask(Arc::clone(&self.shared))));
        }
        for (settings, state) in &self.followed {
            for server in &state.servers {
                // Whoever comes back by the time is told of, even where nobody asks for it.
                server.standing.place(&settings.rules, || self.shared.now_millis());
            }
        }
    }

    /// Each upstream with how many of its servers are in, and how many there are.
    pub fn census(&self) -> impl Iterator<Item = (&Arc<str>, usize, usize)> {
        self.followed.iter().map(|(settings, state)| {
            let is_out = |server: &&Arc<ServerState>| {
                matches!(server.standing.place(&settings.rules, || self.shared.now_millis()), Place::Out(_))
            };
            let out = state.servers.iter().filter(is_out).count();
            (&state.name, state.servers.len() - out, state.servers.len())
        })
    }

    fn change(&mut self, upstreams: &[Arc<Settings>]) {
        let mut before = std::mem::take(&mut self.tasks);
        self.followed = upstreams.iter().map(|settings| (Arc::clone(settings), self.shared.state(settings))).collect();
        for (settings, state) in &self.followed {
            for (member, server) in settings.servers.iter().zip(&state.servers) {
                let Some(check) = &settings.rules.check else {
                    server.standing.unchecked();
                    continue;
                };
                let same =
                    |task: &Task| Arc::ptr_eq(&task.server, server) && task.check == *check && task.tls == settings.tls;
                let task = match before.iter().position(same) {
                    Some(index) => before.swap_remove(index),
                    None => {
                        let target = Target::new(member.server.clone(), settings, Arc::clone(&self.shared));
                        let run = run(Arc::clone(server), Arc::clone(check), target, Arc::clone(&self.shared));
                        let running = tokio::task::spawn_local(run);
                        Task {
                            server: Arc::clone(server),
                            check: Arc::clone(check),
                            tls: settings.tls.clone(),
                            running,
                        }
                    }
                };
                self.tasks.push(task);
            }
        }
    }
}

/// Asks one server again and again.
async fn run(server: Arc<ServerState>, check: Arc<Check>, target: Target, shared: Arc<Shared>) {
    let mut every = tokio::time::interval(check.interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let found = check.ask(&target).await;
        server.standing.checked(&check, found, shared.now_millis());
    }
}
