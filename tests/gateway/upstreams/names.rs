//! Servers that are found by a name.

use crate::support::{Gateway, Upstream, eventually, program::free_address};

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

#[test]
fn an_upstream_that_leads_to_one_of_our_own_listeners_is_refused() {
    let (own, redirect) = (free_address(), free_address());
    let upstream = Upstream::start();
    let servers = [
        ("https", format!("https://[::ffff:127.0.0.1]:{}", own.port())),
        ("http2", format!("h2c://[::ffff:127.0.0.1]:{}", redirect.port())),
        ("redirect", format!("http://[::ffff:127.0.0.1]:{}", redirect.port())),
        ("unix", "unix:link.sock".to_owned()),
        ("another", upstream.url()),
    ];
    let mut gateway = Gateway::new()
        .server(&format!("listen = [\"https://0.0.0.0:{}\", \"unix:own.sock,mode=0600\"]", own.port()))
        .server(&format!("redirect_http = \"{redirect}\""));
    for (name, server) in &servers {
        let matching = format!("path = \"/{name}\"");
        gateway = gateway.route_to(&matching, &format!("servers = [\"{server}\"]")).auth(&["none"]);
    }
    // The configuration is refused where it names one; this is about those that are seen when it is asked.
    std::os::unix::fs::symlink("own.sock", gateway.write("link", "").with_file_name("link.sock"))
        .expect("a link can be made");
    let gateway = gateway.start();

    for (name, server) in &servers {
        let expect = if *name == "another" { 200 } else { 502 };
        assert_eq!(gateway.client().get(&format!("/{name}")).send().status, expect, "{server}");
    }
    let refused = || gateway.log_lines().iter().filter(|line| line.contains("own_listener")).count();
    eventually("the log says why", || refused() == servers.len() - 1);
}
