//! What a new configuration opens and closes: both are asked about the same requests, by the code that decides in
//! production.
//!
//! In: two snapshots. Out: [`Difference`]s, one for each route and kind, each with an example. Asked are, on every host
//! and pattern of either, the methods of either, for nobody and for callers that just meet or just miss what the routes
//! ask for. What no such request can show (limits, CORS, caching, how upstreams are asked) is compared as it is written.

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::Method;

use self::{
    caller::{Caller, callers},
    probe::{Answer, Probe, probes},
};
use crate::{clock::Timestamp, policy::Access, route::Route, state::Snapshot};

mod caller;
mod everywhere;
mod issuers;
mod probe;
mod upstreams;

/// Which way a difference goes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Somebody gets in who did not.
    MoreOpen,
    /// Somebody got in who does not any more.
    MoreClosed,
    /// As many get in, and something else comes of it.
    Different,
}

/// What changes for the requests of one route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// Which way.
    pub kind: Kind,
    /// The route, by its name in the new configuration, or in the old if it is gone; or the
    /// table that differs, such as `[upstream.NAME]`.
    pub route: Arc<str>,
    /// A request that shows it, or the keys that differ.
    pub example: String,
    /// Further requests of the kind, among those that were asked about.
    pub further: usize,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Those that open come first.
    pub differences: Vec<Difference>,
    /// Whether there were more requests to ask about than allowed.
    pub is_partial: bool,
}

impl Kind {
    /// As it is told.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Different => "different",
            Self::MoreClosed => "more closed",
            Self::MoreOpen => "more open",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.kind.label(), self.route, self.example)?;
        match self.further {
            0 => Ok(()),
            further => write!(f, " (and {further} more)"),
        }
    }
}

/// Compares two configurations; asks each about at most `limit` requests.
pub fn compare(old: &Snapshot, new: &Snapshot, now: Timestamp, limit: usize) -> Comparison {
    let mut found: BTreeMap<(Kind, Arc<str>), Difference> = BTreeMap::new();
    let mut note = |kind: Kind, route: &Arc<str>, example: &dyn Fn() -> String| {
        let first = || Difference { kind, route: Arc::clone(route), example: example(), further: usize::MAX };
        let difference = found.entry((kind, Arc::clone(route))).or_insert_with(first);
        difference.further = difference.further.wrapping_add(1);
    };
    let mut asked = 0;
    let mut is_partial = false;
    'all: for probe in probes(old, new) {
        let routes = [probe.route(old), probe.route(new)];
        for caller in callers(&routes, [old, new]) {
            if asked >= limit {
                is_partial = true;
                break 'all;
            }
            asked += 1;
            let (before, after) = (probe.ask(old, &caller, now), probe.ask(new, &caller, now));
            let Some(kind) = kind(&before, &after) else { continue };
            let Some(route) = after.route().or_else(|| before.route()) else { continue };
            note(kind, route, &|| example(&probe, &caller, &before, &after));
        }
    }
    for (before, after) in same_names(old, new) {
        let others = Others {
            token_places: old.token_places == new.token_places,
            shares: upstreams::spreads_alike((before, old), (after, new)),
        };
        for (kind, keys) in written(before, after, others) {
            note(kind, &after.name, &|| keys.join(", "));
        }
        for (kind, keys) in issuers::changed((before, old), (after, new)) {
            note(kind, &after.name, &|| keys.clone());
        }
    }
    for (upstream, keys) in upstreams::changed(old, new) {
        note(Kind::Different, &upstream, &|| keys.join(", "));
    }
    for (table, kind, keys) in everywhere::changed(old, new) {
        note(kind, &table.into(), &|| keys.join(", "));
    }
    Comparison { differences: found.into_values().collect(), is_partial }
}

fn kind(before: &Answer<'_>, after: &Answer<'_>) -> Option<Kind> {
    match (before.is_open(), after.is_open()) {
        (false, true) => Some(Kind::MoreOpen),
        (true, false) => Some(Kind::MoreClosed),
        (true, true) if !before.does_the_same(after) => Some(Kind::Different),
        (true, true) | (false, false) => None,
    }
}

fn example(probe: &Probe, caller: &Caller, before: &Answer<'_>, after: &Answer<'_>) -> String {
    format!("{probe} by {caller} is {after}, was {before}")
}

fn same_names<'a>(old: &'a Snapshot, new: &'a Snapshot) -> impl Iterator<Item = (&'a Arc<Route>, &'a Arc<Route>)> {
    let before: BTreeMap<&str, &Arc<Route>> = old.routes.routes().iter().map(|route| (&*route.name, route)).collect();
    let pair = move |after: &'a Arc<Route>| Some((*before.get(&*after.name)?, after));
    new.routes.routes().iter().filter_map(pair)
}

/// Whether what a route says is the same that stands elsewhere.
struct Others {
    /// `[jwt]`.
    token_places: bool,
    /// Of a split.
    shares: bool,
}

/// The keys of a route that differ and that no answer shows.
fn written(before: &Route, after: &Route, same: Others) -> Vec<(Kind, Vec<&'static str>)> {
    let mut found = Vec::new();
    match (before.websocket, after.websocket) {
        (false, true) => found.push((Kind::MoreOpen, vec!["upgrade"])),
        (true, false) => found.push((Kind::MoreClosed, vec!["upgrade"])),
        (true, true) | (false, false) => {}
    }
    match (before.report_until.unwrap_or_default(), after.report_until.unwrap_or_default()) {
        (before, after) if before < after => found.push((Kind::MoreOpen, vec!["mode"])),
        (before, after) if before > after => found.push((Kind::MoreClosed, vec!["mode"])),
        _ => {}
    }
    let (old, new) = (&before.rate_limits, &after.rate_limits);
    match (new.is_laxer_than(old), old.is_laxer_than(new)) {
        (true, _) => found.push((Kind::MoreOpen, vec!["rate_limit", "max_concurrent"])),
        (false, true) => found.push((Kind::MoreClosed, vec!["rate_limit", "max_concurrent"])),
        (false, false) => {}
    }
    let mut keys = Vec::new();
    let mut compare = |key, same: bool| {
        if !same {
            keys.push(key);
        }
    };
    compare("cors", before.cors == after.cors);
    compare("cache", before.cache_public == after.cache_public);
    compare("request_headers", before.request_headers == after.request_headers);
    compare("response_headers", before.response_headers == after.response_headers);
    compare("max_body", before.limits.max_body == after.limits.max_body);
    let times = |route: &Route| route.limits.timeouts.as_deref().cloned().unwrap_or_default();
    let (old, new) = (times(before), times(after));
    compare("connect_timeout", old.connect == new.connect);
    compare("response_timeout", old.response == new.response);
    compare("read_timeout", old.read == new.read);
    compare("retry", before.limits.no_retry == after.limits.no_retry);
    compare("total_timeout", old.total == new.total);
    compare("split", same.shares);
    if let (Access::Authenticated(before), Access::Authenticated(after)) = (&before.access, &after.access) {
        compare("touch", before.touch == after.touch);
        compare("forward_credential", before.forward_credential == after.forward_credential);
        compare("the places of tokens in [jwt]", same.token_places || after.issuers.is_empty());
    }
    if let (Access::Public { pass_authorization: before }, Access::Public { pass_authorization: after }) =
        (&before.access, &after.access)
    {
        compare("pass_authorization", before == after);
    }
    if !keys.is_empty() {
        found.push((Kind::Different, keys));
    }
    found
}

/// Methods that stand for all where a route names none.
const USUAL: [Method; 3] = [Method::GET, Method::POST, Method::DELETE];
