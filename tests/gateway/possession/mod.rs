//! Tokens that are bound to a key (RFC 9449), end to end: what proves them, what does not, and what it costs us.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::support::{Gateway, eventually, gateway::Running};

/// A real client library makes the proofs.
mod client;

/// Nonces, and what a restart means.
mod nonces;

/// What a proof says: each part by itself.
mod proofs;

/// Forged tokens and proofs: what they cost, and whom.
mod rate;

/// A proof counts once.
mod replay;

/// Which routes ask for a proof, and what goes upstream.
mod routes;

/// Starts a gateway and lets the minute pass in which proofs may be older than it.
fn started(gateway: Gateway) -> Running {
    let gateway = gateway.start();
    gateway.advance(Duration::from_secs(62));
    gateway
}

/// The reason of every refusal so far, by path.
fn reasons(gateway: &Running, lines: usize) -> BTreeMap<String, String> {
    eventually("all requests are logged", || gateway.log_lines().len() >= lines);
    let parsed = gateway.log_lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    parsed.filter_map(|line| Some((line["path"].as_str()?.to_owned(), line["reason"].as_str()?.to_owned()))).collect()
}

fn with(value: &Value, changes: &Value) -> Value {
    let mut value = value.clone();
    for (name, change) in changes.as_object().unwrap() {
        value[name] = change.clone();
    }
    value
}

fn without(value: &Value, name: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(name);
    value
}
