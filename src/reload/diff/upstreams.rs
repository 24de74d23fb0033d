//! What changes about how requests are treated that get through as before: how they are spread, tried again, queued and
//! waited for.
//!
//! In: one upstream, or one route, under two configurations. Out: the keys that differ. None of them opens or closes
//! anything, and no rehearsed request shows them. Where other servers are asked, or another `Host`, that is seen.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    route::{Destination, Route, Target},
    state::Snapshot,
    upstream::{
        Settings,
        health::{Eject, Rules},
    },
};

/// Upstreams of both, with the keys of each that differ, if there are some.
pub(super) fn changed(old: &Snapshot, new: &Snapshot) -> Vec<(Arc<str>, Vec<&'static str>)> {
    let mut found = Vec::new();
    for after in &new.upstreams {
        let Some(before) = old.upstreams.iter().find(|before| before.name == after.name) else { continue };
        let keys = keys(before, after);
        if !keys.is_empty() {
            found.push((format!("[upstream.{}]", after.name).into(), keys));
        }
    }
    found
}

/// Whether a route spreads its callers alike among upstreams that are the same.
pub(super) fn spreads_alike((before, old): (&Route, &Snapshot), (after, new): (&Route, &Snapshot)) -> bool {
    match (weights(before, old), weights(after, new)) {
        (Some(before), Some(after)) => before == after || !before.keys().eq(after.keys()),
        (Some(_), None) | (None, Some(_)) | (None, None) => true,
    }
}

fn weights<'a>(route: &Route, snapshot: &'a Snapshot) -> Option<BTreeMap<&'a str, u32>> {
    match &route.target {
        Target::Upstream(Destination::Split(split)) => {
            let side = |(index, weight): &(usize, u32)| Some((&*snapshot.upstreams.get(*index)?.name, *weight));
            Some(split.sides().iter().filter_map(side).collect())
        }
        Target::Upstream(Destination::One(_)) | Target::Own(_) | Target::Redirect(_) | Target::Respond { .. } => None,
    }
}

fn keys(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut compare = |key, same: bool| {
        if !same {
            keys.push(key);
        }
    };
    // Taken apart by name, so that nobody adds a setting without saying here whether it is told.
    let Settings {
        name: _,
        servers,
        http2,
        balance,
        sticky,
        rules,
        tls,
        // Asked about, with the servers.
        host: _,
        path_quirks,
        connect_timeout,
        response_timeout,
        read_timeout,
        retries,
        queue,
        idle_timeout,
        max_idle,
    } = after;
    let weights = |settings: &Settings| settings.servers.iter().map(|member| member.weight).collect::<Vec<_>>();
    let same_servers = before.servers.iter().map(|one| &one.server).eq(servers.iter().map(|one| &one.server));
    compare("weight", !same_servers || weights(before) == weights(after));
    compare("http2", *http2 == before.http2);
    compare("balance", *balance == before.balance);
    compare("sticky", *sticky == before.sticky);
    let Rules { check, eject, slow_start, panic_below } = rules;
    let Eject { failures, statuses, time, max_time } = eject;
    let was = &before.rules.eject;
    compare("health", *check == before.rules.check);
    compare("eject", (*failures, statuses, *time, *max_time) == (was.failures, &was.statuses, was.time, was.max_time));
    compare("slow_start", *slow_start == before.rules.slow_start);
    compare("panic_threshold", *panic_below == before.rules.panic_below);
    compare("tls", *tls == before.tls);
    compare("path_quirks", *path_quirks == before.path_quirks);
    compare("connect_timeout", *connect_timeout == before.connect_timeout);
    compare("response_timeout", *response_timeout == before.response_timeout);
    compare("read_timeout", *read_timeout == before.read_timeout);
    compare("retries", *retries == before.retries);
    let was = before.queue;
    compare("max_requests", queue.map(|is| is.max_requests) == was.map(|was| was.max_requests));
    compare("max_pending", queue.map(|is| is.max_pending) == was.map(|was| was.max_pending));
    compare("queue_timeout", queue.map(|is| is.timeout) == was.map(|was| was.timeout));
    compare("idle_timeout", *idle_timeout == before.idle_timeout);
    compare("max_idle", *max_idle == before.max_idle);
    keys
}
