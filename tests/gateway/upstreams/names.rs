//! Servers that are found by a name.

use crate::support::{Gateway, Upstream, eventually};

#[test]
fn a_server_is_found_by_its_name_in_the_hosts_file() {
    let upstream = Upstream::start();
    let port = upstream.address().port();
    let gateway = Gateway::new()
        .route_to("path = \"/{*rest}\"", &format!("servers = [\"http://localhost:{port}\"]\nhost = \"upstream\""))
        .auth(&["none"])
        .start();

    // Of `localhost` the upstream has the IPv4 address only: the other is tried, too.
    gateway.client().get("/x").send().expect(200);

    assert_eq!(upstream.next_request().header("host"), Some(&*format!("localhost:{port}")));
}

#[test]
fn a_name_that_nobody_knows_is_a_bad_gateway() {
    let gateway =
        Gateway::new().route_to("path = \"/{*rest}\"", "servers = [\"http://nobody.invalid\"]").auth(&["none"]).start();

    let refused = gateway.client().get("/x").send().expect(502);

    assert_eq!(refused.json()["error"], "upstream_unreachable");
    eventually("the log says why", || gateway.log_lines().iter().any(|line| line.contains("name_not_resolved")));
}
