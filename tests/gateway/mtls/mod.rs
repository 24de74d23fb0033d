//! Client certificates: which count and for whom (R2 to R6), on which connections (R10), and for how long (R28).

use std::time::Duration;

use crate::support::{Client, ClientCa, ClientId, Connection, Gateway, Leaf, Reply, Upstream, gateway::Running};

mod beside;
mod bound;
mod connections;
mod lists;
mod programs;
mod who;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Takes certificates of `ca` for the host in them, with further lines of `[[mtls.ca]]`.
fn gateway_with(upstream: &Upstream, ca: &ClientCa, lines: &str) -> Gateway {
    let subject = if lines.contains("subject = ") { "" } else { "subject = \"dns\"\n" };
    Gateway::new()
        .file("devices.pem", &ca.pem())
        .table(&format!("[[mtls.ca]]\nname = \"devices\"\nfile = \"devices.pem\"\n{subject}{lines}"))
        .route("/{*rest}", upstream)
        .auth(&["mtls"])
}

fn gateway(upstream: &Upstream, ca: &ClientCa) -> Running {
    gateway_with(upstream, ca, "").start()
}

/// The status for who shows this, and the reason in the log.
fn asked(gateway: &Running, id: &ClientId) -> (u16, Option<String>) {
    told(gateway, gateway.client().certificate(id))
}

fn told(gateway: &Running, client: Client) -> (u16, Option<String>) {
    let answer = client.get("/x").send();
    let id = answer.header("x-request-id").expect("a number").to_owned();
    let mut reason = None;
    crate::support::eventually("the line is written", || {
        let line = gateway.log_lines().into_iter().find(|line| line.contains(&id));
        line.inspect(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line");
            reason = line["reason"].as_str().map(str::to_owned);
        })
        .is_some()
    });
    (answer.status, reason)
}
