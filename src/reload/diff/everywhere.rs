//! What changes for all routes alike: what the gateway lets through as a whole, and which sessions count for how long.
//!
//! In: two configurations. Out: the keys of `[limits]`, `[session]` and `[server]` that differ, with the way they go.
//! No rehearsed request shows them, as it comes alone and with a session that was opened just now.

use super::Kind;
use crate::{
    session::{Bind, Settings},
    state::Snapshot,
};

/// Tables, each with its keys that differ and go the same way.
pub(super) fn changed(old: &Snapshot, new: &Snapshot) -> Vec<(&'static str, Kind, Vec<&'static str>)> {
    let mut found = Vec::new();
    for (table, keys) in
        [("[limits]", limits(old, new)), ("[server]", server(old, new)), ("[session]", session(old, new))]
    {
        for kind in [Kind::MoreOpen, Kind::MoreClosed, Kind::Different] {
            let of_kind: Vec<_> = keys.iter().filter(|(is, _)| *is == kind).map(|(_, key)| *key).collect();
            if !of_kind.is_empty() {
                found.push((table, kind, of_kind));
            }
        }
    }
    found
}

type Keys = Vec<(Kind, &'static str)>;

fn limits(old: &Snapshot, new: &Snapshot) -> Keys {
    let mut keys = Keys::new();
    let (before, after) = (&old.rate_limits, &new.rate_limits);
    if after.is_laxer_than(before) {
        keys.extend([(Kind::MoreOpen, "rate_limit"), (Kind::MoreOpen, "max_concurrent")]);
    } else if before.is_laxer_than(after) {
        keys.extend([(Kind::MoreClosed, "rate_limit"), (Kind::MoreClosed, "max_concurrent")]);
    }
    note(&mut keys, "max_body", old.max_body == new.max_body);
    note(&mut keys, "verify_rate", old.verify_rate == new.verify_rate);
    note(&mut keys, "max_rate_buckets", old.max_rate_buckets == new.max_rate_buckets);
    note(&mut keys, "max_api_keys", old.max_api_keys == new.max_api_keys);
    note(&mut keys, "max_revocations", old.max_revocations == new.max_revocations);
    keys
}

fn server(old: &Snapshot, new: &Snapshot) -> Keys {
    let mut keys = Keys::new();
    note(&mut keys, "hsts", old.hsts == new.hsts);
    note(&mut keys, "resolvers", old.resolver == new.resolver);
    keys
}

fn session(old: &Snapshot, new: &Snapshot) -> Keys {
    let was = &old.session;
    // Taken apart by name, so that nobody adds a setting without saying here how it is told.
    let Settings { cookie, same_site, bind, idle_timeout, max_lifetime, max_sessions, max_per_user, max_session_bytes } =
        &new.session;
    let mut keys = Keys::new();
    match (was.bind, bind) {
        (Bind::None, Bind::Mtls) => keys.push((Kind::MoreClosed, "bind")),
        (Bind::Mtls, Bind::None) => keys.push((Kind::MoreOpen, "bind")),
        (Bind::None, Bind::None) | (Bind::Mtls, Bind::Mtls) => {}
    }
    for (key, before, after) in
        [("idle_timeout", was.idle_timeout, *idle_timeout), ("max_lifetime", was.max_lifetime, *max_lifetime)]
    {
        if after > before {
            keys.push((Kind::MoreOpen, key));
        } else if after < before {
            keys.push((Kind::MoreClosed, key));
        }
    }
    note(&mut keys, "cookie", *cookie == was.cookie);
    note(&mut keys, "same_site", *same_site == was.same_site);
    note(&mut keys, "max_sessions", *max_sessions == was.max_sessions);
    note(&mut keys, "max_per_user", *max_per_user == was.max_per_user);
    note(&mut keys, "max_session_bytes", *max_session_bytes == was.max_session_bytes);
    keys
}

fn note(keys: &mut Keys, key: &'static str, same: bool) {
    if !same {
        keys.push((Kind::Different, key));
    }
}
