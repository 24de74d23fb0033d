//! Which server of an upstream takes a request, and how it is reached.

use crate::support::{Gateway, Reply, Upstream};

mod balance;
mod floods;
mod health;
mod names;
mod queue;
mod readiness;
mod retries;
mod split;
mod times;
mod tls;

/// So many servers; each answers with its number.
fn numbered(count: usize) -> Vec<Upstream> {
    (0..count)
        .map(|number| {
            let upstream = Upstream::start();
            upstream.respond(move |_| Reply::ok(number.to_string()));
            upstream
        })
        .collect()
}

/// One route to these servers, with these lines for the upstream.
fn gateway_of(servers: &[Upstream], lines: &str) -> Gateway {
    let urls: Vec<String> = servers.iter().map(Upstream::url).collect();
    Gateway::new().route_to("path = \"/{*rest}\"", &format!("servers = {urls:?}\n{lines}"))
}
