//! R9 and R11, end to end: the path decides before the method, and no header changes the method.

use crate::support::{Gateway, Issuer, Upstream};

fn servers(upstream: &Upstream) -> String {
    format!("servers = [{:?}]", upstream.url())
}

/// R9. Never a less specific path: that is how a method slips past a stricter rule.
#[test]
fn a_method_that_the_most_specific_path_lacks_is_405_with_allow() {
    let upstream = Upstream::start();
    let gateway =
        Gateway::new().route_to("path = \"/users/{id}\", methods = [\"GET\", \"PATCH\"]", &servers(&upstream));
    let gateway = gateway.auth(&["none"]).route("/{*rest}", &upstream).auth(&["none"]).start();
    let client = gateway.client();

    for method in ["POST", "DELETE", "PUT", "PROPFIND", "get", "Get", "PATCH2", "OPTIONS"] {
        let answer = client.request(method, "/users/7").send();
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
        let mut allow: Vec<&str> = answer.header("allow").unwrap().split(", ").collect();
        allow.sort_unstable();
        assert_eq!(allow, ["GET", "HEAD", "PATCH"], "{method}");
    }
    assert_eq!(upstream.connection_count(), 0);
    for (method, path) in [("GET", "/users/7"), ("PATCH", "/users/7"), ("DELETE", "/users/7/x"), ("POST", "/other")] {
        client.request(method, path).send().expect(200);
        assert_eq!(upstream.next_request().method, method);
    }
}

/// R9.
#[test]
fn get_covers_head_and_head_goes_upstream_as_head() {
    let upstream = Upstream::start();
    let gateway =
        Gateway::new().route_to("path = \"/x\", methods = [\"GET\"]", &servers(&upstream)).auth(&["none"]).start();

    let answer = gateway.client().request("HEAD", "/x").send().expect(200);

    assert!(answer.body.is_empty());
    assert_eq!(upstream.next_request().method, "HEAD");
}

/// R9. A route for one method and a route for the others, each with its own rule.
#[test]
fn a_route_that_names_the_method_comes_before_one_that_names_none() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let gateway = Gateway::new().issuer(&issuer).route_to("path = \"/x\", methods = [\"GET\"]", &servers(&upstream));
    let gateway = gateway.auth(&["none"]).route("/x", &upstream).auth(&["jwt"]).start();

    gateway.client().get("/x").send().expect(200);
    gateway.client().request("HEAD", "/x").send().expect(200);
    for method in ["POST", "DELETE", "get", "OPTIONS"] {
        assert_eq!(gateway.client().request(method, "/x").send().status, 401, "{method}");
    }
    assert_eq!(upstream.request_count(), 2);
}

/// R9. A credential does not change which methods there are, and a stricter path is not reached by another method.
#[test]
fn an_admin_path_is_no_other_path_for_another_method() {
    let upstream = Upstream::start();
    let issuer = Issuer::es256();
    let admin = "path = \"/admin/{*rest}\", methods = [\"GET\"]";
    let gateway = Gateway::new().issuer(&issuer).route_to(admin, &servers(&upstream)).require_role("admin");
    let gateway = gateway.route("/{*rest}", &upstream).auth(&["none"]).start();
    let client = gateway.client();

    for (method, path, status) in [
        ("GET", "/admin/x", 401),
        ("HEAD", "/admin/x", 401),
        ("POST", "/admin/x", 405),
        ("POST", "/admin", 405),
        ("POST", "/admin/", 405),
        ("POST", "/%61dmin/x", 405),
        ("POST", "/admin%2fx", 400),
        ("POST", "/adminx", 200),
    ] {
        let answer = client.request(method, path).send();
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
    assert_eq!(upstream.request_count(), 1);
}

/// R11.
#[test]
fn trace_track_and_connect_are_never_served() {
    let upstream = Upstream::start();
    let gateway = Gateway::new().route("/{*rest}", &upstream).auth(&["none"]).start();

    for method in ["TRACE", "TRACK", "CONNECT", "trace", "Track"] {
        let answer = gateway.client().request(method, "/x").header("Cookie", "secret=1").send();
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
        assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{method}");
        assert!(!answer.text().contains("secret"), "{method}");
    }
    for line in ["CONNECT app.test:443", "CONNECT evil.test:22", "TRACE *"] {
        let answer = gateway.client().raw_response(format!("{line} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert!(matches!(answer.status, 400 | 405 | 421), "{line}: {answer:?}");
    }
    gateway.client().request("TRACE", "/x").send_http2().expect(405);
    assert_eq!(upstream.connection_count(), 0);
    gateway.client().request("OPTIONS", "/x").send().expect(200);
}

/// R11. What was refused as DELETE must not come in as a POST that says so.
#[test]
fn method_overrides_are_removed_where_methods_are_named() {
    let upstream = Upstream::start();
    let gateway =
        Gateway::new().route_to("path = \"/some\", methods = [\"POST\"]", &servers(&upstream)).auth(&["none"]);
    let gateway = gateway.route("/all", &upstream).auth(&["none"]).start();
    let overrides = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x_http_method_override"];
    let post = |path: &str| {
        let mut request = gateway.client().post(path, "x");
        for name in overrides {
            request = request.header(name, "DELETE");
        }
        request.header("X-Original-URL", "/admin").header("X-Rewrite-URL", "/admin").send().expect(200);
        upstream.next_request()
    };

    let some = post("/some");
    assert_eq!(some.method, "POST");
    assert!(overrides.iter().all(|name| some.header(name).is_none()), "{some:?}");
    let all = post("/all");
    assert_eq!(all.header("x-http-method-override"), Some("DELETE"));
    for seen in [some, all] {
        assert_eq!((seen.header("x-original-url"), seen.header("x-rewrite-url")), (None, None));
    }
}

/// R9. Two routes for the same requests: the order in the file must not matter, so there is none.
#[test]
fn two_routes_that_tie_are_no_configuration() {
    let upstream = Upstream::start();
    let start = |one: &str, two: &str| {
        let gateway = Gateway::new().route_to(one, &servers(&upstream)).auth(&["none"]);
        gateway.route_to(two, &servers(&upstream)).auth(&["none"]).try_start().map(drop)
    };

    assert!(start("path = \"/a/{x}\"", "path = \"/a/{y}\"").is_err());
    assert!(start("path = \"/a\"", "path = \"/%61\"").is_err());
    assert!(start("path = \"/a\", methods = [\"GET\", \"POST\"]", "path = \"/a\", methods = [\"POST\"]").is_err());
    start("path = \"/a\", methods = [\"GET\"]", "path = \"/a\", methods = [\"POST\"]").expect("it starts");
    start("path = \"/a/{x}\"", "path = \"/a/b\"").expect("it starts");
}
