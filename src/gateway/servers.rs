//! What administrators are told of the servers of upstreams.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::{admin, upstream};

/// Every server of these upstreams, as it stands now.
pub(super) fn describe(
    upstreams: &[Arc<upstream::Settings>],
    shared: &upstream::Shared,
) -> Vec<(Arc<str>, Vec<admin::Server>)> {
    let of_upstream = |settings: &Arc<upstream::Settings>| {
        let state = shared.state(settings);
        let servers = state.servers.iter().zip(&settings.servers).map(|(server, member)| {
            let (checks_passed, checks_failed, ejections) = server.standing.counts();
            admin::Server {
                url: server.label.clone(),
                weight: member.weight.get(),
                state: shared.place(server, settings).label(),
                last_check: server.standing.last_check().map(|found| found.err().unwrap_or("passed")),
                checks_passed,
                checks_failed,
                ejections,
                requests_under_way: server.counters.tallies.under_way(),
                connections: server.counters.open.load(Relaxed),
            }
        });
        (Arc::clone(&settings.name), servers.collect())
    };
    upstreams.iter().map(of_upstream).collect()
}
