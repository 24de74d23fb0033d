//! The harness: a real gateway, a real TLS client and a real upstream, each on a free port of 127.0.0.1.
//!
//! Everything is blocking and on threads of its own, so a test is a plain `#[test]` function without a runtime.
//! Nothing sleeps for a fixed time: waiting ends with an event, or fails after [`patience`]. Dropping a piece ends it.

pub(crate) mod browser;
pub(crate) mod cli;
pub(crate) mod client;
pub(crate) mod client_ca;
pub(crate) mod dpop;
mod entry;
mod fields;
pub(crate) mod gateway;
pub(crate) mod http2;
pub(crate) mod pebble;
pub(crate) mod person;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod provider;
pub(crate) mod service;
pub(crate) mod tokens;
pub(crate) mod upstream;
pub(crate) mod upstream_http2;
pub(crate) mod websocket;

use std::time::Duration;

use portcullis::clock::instant;

pub(crate) use self::{
    browser::Browser,
    cli::Shell,
    client::{Client, Connection, Response},
    client_ca::{ClientCa, ClientId, Leaf},
    dpop::Holder,
    entry::Holders,
    gateway::Gateway,
    pebble::Pebble,
    person::{Form, Person},
    pki::Pki,
    provider::Provider,
    tokens::Issuer,
    upstream::{Reply, Seen, Upstream},
};

/// How long to wait for something that must happen: 30 seconds, or `PORTCULLIS_TEST_PATIENCE` in seconds.
pub(crate) fn patience() -> Duration {
    let seconds = std::env::var("PORTCULLIS_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// The sum of all series of a metric; fails if there is no such metric.
#[track_caller]
pub(crate) fn metric_sum(telemetry: &Client, name: &str) -> f64 {
    let text = telemetry.get("/metrics").send().expect(200).text();
    assert!(text.contains(&format!("# TYPE {name} ")), "no metric {name}");
    let series = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Waits until the condition holds. For what offers no event to wait for; anything else is better awaited.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = instant();
    while !condition() {
        assert!(begun.elapsed() < patience(), "did not happen in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
