//! The servers of every upstream as administrators read them: which are in, why others are not, and what they do.

use serde_json::{Value, json};

use super::Context;

/// What administrators need to know of one server of an upstream.
#[derive(Clone, Debug)]
pub struct Server {
    /// As it is written in the configuration.
    pub url: Box<str>,
    /// Its weight.
    pub weight: u32,
    /// `in`, `warming`, `resting`, `ejected` or `unhealthy`.
    pub state: &'static str,
    /// What the last check found: `passed`, or why it did not; `None`: it is not checked.
    pub last_check: Option<&'static str>,
    /// Checks that it passed.
    pub checks_passed: u64,
    /// Checks that it did not pass.
    pub checks_failed: u64,
    /// How often requests that failed took it out.
    pub ejections: u64,
    /// Requests under way now.
    pub requests_under_way: u64,
    /// Connections open now.
    pub connections: u64,
}

/// All upstreams, in the order of the configuration.
pub(super) fn list(context: &Context<'_>) -> Value {
    let upstreams: Vec<Value> = context
        .servers
        .iter()
        .map(|(name, servers)| json!({ "name": &**name, "servers": servers.iter().map(describe).collect::<Vec<_>>() }))
        .collect();
    json!({ "upstreams": upstreams })
}

fn describe(server: &Server) -> Value {
    json!({
        "url": &*server.url,
        "weight": server.weight,
        "state": server.state,
        "last_check": server.last_check,
        "checks_passed": server.checks_passed,
        "checks_failed": server.checks_failed,
        "ejections": server.ejections,
        "requests_under_way": server.requests_under_way,
        "connections": server.connections,
    })
}
