//! Paths and identity headers at real backends: nginx, lighttpd with a CGI script, Tomcat with a JSP.
//!
//! Each backend has the same three areas as the gateway and says which of them it believes a request to be in, which
//! path it has decoded, and who it believes is calling. The gateway sends each area's requests under a `Host` of its
//! own, so the answer shows decision and belief side by side. They must agree, or the request must have been refused.
//! Nothing here knows how a backend parses: a new one, or a new version, is asked the same questions.

mod lighttpd;
mod nginx;
mod tomcat;

use std::net::SocketAddr;

use portcullis::identity::decode;
use serde_json::json;

use crate::support::{Client, Gateway, Issuer, Response, gateway::Running};

/// What a forger sends; no backend may ever see it.
const FORGED: &str = "root-forged";

/// A path as a client sends it, and what every reader must take it for; `None`: refused by the gateway.
const PATHS: &[(&[u8], Option<&str>)] = &[
    (b"/admin", Some("/admin")),
    (b"/admin/", Some("/admin/")),
    (b"/admin/x", Some("/admin/x")),
    (b"/public/x", Some("/public/x")),
    (b"/", Some("/")),
    (b"/x", Some("/x")),
    (b"/administrator", Some("/administrator")),
    (b"/%61dmin/x", Some("/admin/x")),
    (b"/%61%64%6d%69%6E/x", Some("/admin/x")),
    (b"/adm%69n", Some("/admin")),
    (b"/%2561dmin/x", Some("/%61dmin/x")),
    (b"/Admin/x", Some("/Admin/x")),
    (b"/ADMIN/x", Some("/ADMIN/x")),
    (b"/admin./x", Some("/admin./x")),
    (b"/admin../x", Some("/admin../x")),
    (b"/admin/...", Some("/admin/...")),
    (b"/.admin/x", Some("/.admin/x")),
    (b"/admin%20/x", Some("/admin /x")),
    (b"/%20admin/x", Some("/ admin/x")),
    (b"/admin/x%20", Some("/admin/x ")),
    (b"/admin+x", Some("/admin+x")),
    (b"/admin/a%2Bb", Some("/admin/a+b")),
    (b"/admin%3Fx", Some("/admin?x")),
    (b"/public/%3F/../x", None),
    (b"/admin%23x", Some("/admin#x")),
    (b"/admin/x?y=/../public", Some("/admin/x")),
    (b"/admin?/public/x", Some("/admin")),
    (b"/public/x?/../admin", Some("/public/x")),
    (b"/public/%C3%A9", Some("/public/\u{e9}")),
    (b"/public/%c3%a9", Some("/public/\u{e9}")),
    (b"/public/\xc3\xa9", Some("/public/\u{e9}")),
    (b"/public/%EF%BC%8E%EF%BC%8E/admin", Some("/public/\u{ff0e}\u{ff0e}/admin")),
    (b"/public/%E2%88%95admin", Some("/public/\u{2215}admin")),
    (b"/%EF%BD%81dmin", Some("/\u{ff41}dmin")),
    (b"/public/%E2%80%AEnimda", Some("/public/\u{202e}nimda")),
    (b"/public/$&'()*+,=:@!~", Some("/public/$&'()*+,=:@!~")),
    (b"/public/{a}|b^c", Some("/public/{a}|b^c")),
    (b"/public/%7Ba%7D", Some("/public/{a}")),
    (b"/public/%22%3C%3E", Some("/public/\"<>")),
    (b"/public/100%25", Some("/public/100%")),
    (b"/public/%25%32%65", None),
    (b"/public/../admin/x", None),
    (b"/public/./x", None),
    (b"/public/..", None),
    (b"/public/.", None),
    (b"/public/%2e%2e/admin/x", None),
    (b"/public/%2E./admin/x", None),
    (b"/public/.%2e/admin/x", None),
    (b"/public/%252e%252e/admin/x", None),
    (b"/public/%25252e%25252e/admin/x", None),
    (b"/public/..%2fadmin/x", None),
    (b"/public%2f..%2fadmin%2fx", None),
    (b"/public/..%252fadmin/x", None),
    (b"/public/..;/admin/x", None),
    (b"/public/..;a=b/admin/x", None),
    (b"/admin;/x", None),
    (b"/admin;a=b", None),
    (b"/;/admin/x", None),
    (b"/public/;/../admin", None),
    (b"/admin%3B/x", Some("/admin;/x")),
    (b"//admin/x", None),
    (b"/public//x", None),
    (b"///admin", None),
    (b"/public//../admin", None),
    (b"/admin//", None),
    (b"/%2fadmin", None),
    (b"/%2Fadmin/x", None),
    (b"/\\admin/x", None),
    (b"/public\\..\\admin", None),
    (b"/public/..\\admin", None),
    (b"/public%5c..%5cadmin", None),
    (b"/admin%00", None),
    (b"/admin%00.png", None),
    (b"/public/x%00/../admin", None),
    (b"/admin%0a", None),
    (b"/admin%0d%0aX-User-Id:%20root", None),
    (b"/admin%09", None),
    (b"/admin%7f", None),
    (b"/admin%", None),
    (b"/admin%2", None),
    (b"/%zzadmin", None),
    (b"/%u0061dmin", None),
    (b"/%c0%aeadmin", None),
    (b"/public/%c0%ae%c0%ae/admin", None),
    (b"/public/..%c0%afadmin", None),
    (b"/public/%e0%80%af", None),
    (b"/public/%ed%a0%80", None),
    (b"/public/%ff", None),
    (b"/public/\xff", None),
    (b"/public/\xc0\xaf", None),
    (b"/public/x#/../admin", None),
    (b"/public/x\tHTTP/1.1", None),
    (b"/public/\x01", None),
    (b"public/x", None),
    (b"\\admin", None),
    (b"*", None),
    (b"", None),
    (b"app.test:443", None),
    (b"http://user@app.test/admin/x", None),
    (b"ftp://app.test/admin/x", None),
    (b"https://app.test/admin/x", Some("/admin/x")),
    (b"https://app.test/public/../admin/x", None),
];

/// Lines that a forger adds to a head.
const LINES: &[&str] = &[
    "X-User-Id: root-forged",
    "x-user-id:root-forged",
    "X-USER-ID: root-forged",
    "X_User_Id: root-forged",
    "x_user_id: root-forged",
    "X-User_Id: root-forged",
    "X_User-Id: root-forged",
    "X.User.Id: root-forged",
    "X~User~Id: root-forged",
    "X!User!Id: root-forged",
    "X'User'Id: root-forged",
    "X-User-Id: root-forged\r\nX-User-Id: root-forged",
    "X-User-Id: root-forged\r\nX_User_Id: root-forged",
    "X-User-Id:\r\nX_User_Id: root-forged",
    "X-User-Id : root-forged",
    "X-User-Id\t: root-forged",
    " X-User-Id: root-forged",
    "X-Mine: a\r\n X-User-Id: root-forged",
    "X-Mine: a\r\n\tX-User-Id: root-forged",
    "X-Mine: a\nX-User-Id: root-forged",
    "X-Mine: a\rX-User-Id: root-forged",
    "X-User-Id\0: root-forged",
    "X-User-Id\u{b}: root-forged",
    "X-User-Id\u{a0}: root-forged",
    "X-User-I\u{212a}: root-forged",
    "X-User-Roles: root-forged",
    "X_USER_ROLES: root-forged",
    "X-User-Email: root-forged",
    "Remote-User: root-forged",
    "Remote_User: root-forged",
    "REMOTE_USER: root-forged",
    "X-Forwarded-User: root-forged",
    "X_Forwarded_User: root-forged",
    "X-Auth-Request-User: root-forged",
    "X-Auth_Request-User: root-forged",
    "Proxy: root-forged",
    "X-Original-URL: /root-forged",
    "X_Original_URL: /root-forged",
    "X-Forwarded-For: root-forged",
    "X-Forwarded_For: root-forged",
    "Connection: X-User-Id, X-User-Roles\r\nX-User-Id: root-forged",
    "Connection: close, X-User-Id",
    "Trailer: X-User-Id\r\nX-User-Id: root-forged",
];

/// What a backend said of a request.
#[derive(Debug)]
struct Belief {
    /// What the gateway decided: the area whose `Host` it sent.
    decided: String,
    /// The area that the backend believes it is in.
    area: String,
    /// The path as the backend has decoded it.
    path: String,
    /// Who the backend believes is calling.
    id: String,
    /// With which roles.
    roles: String,
}

impl Belief {
    /// `name TAB value` in each line.
    fn read(answer: &Response) -> Self {
        let text = answer.text();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
            line.unwrap_or_else(|| panic!("no {name} in {text:?}")).to_owned()
        };
        let decided = value("host").trim_end_matches(".decided").to_owned();
        Self { decided, area: value("area"), path: value("path"), id: value("id"), roles: value("roles") }
    }
}

/// A gateway before a backend, and who goes through it.
struct Site {
    gateway: Running,
    issuer: Issuer,
}

impl Site {
    fn new(backend: SocketAddr, odd_names: &str) -> Self {
        let issuer = Issuer::es256();
        let mut gateway = Gateway::new().server(&format!("odd_header_names = {odd_names:?}")).issuer(&issuer);
        for (area, path, auth) in
            [("admin", "/admin/{*rest}", "jwt"), ("public", "/public/{*rest}", "none"), ("rest", "/{*rest}", "jwt")]
        {
            let server = format!("servers = [\"http://{backend}\"]\nhost = \"{area}.decided\"");
            gateway = gateway.route_to(&format!("path = {path:?}"), &server).auth(&[auth]);
        }
        Self { gateway: gateway.start(), issuer }
    }

    fn token(&self, roles: &[&str]) -> String {
        self.issuer.sign(&Issuer::claims("alice", roles, self.gateway.now()))
    }

    fn send(&self, path: &[u8], lines: &str) -> Response {
        let head = [b"GET ", path, b" HTTP/1.1\r\nHost: app.test\r\n", lines.as_bytes(), b"\r\n\r\n"].concat();
        self.gateway.client().raw_response(head)
    }
}

/// What the backend believes without a gateway before it: a test of the questions, not of the answers.
fn directly(backend: SocketAddr, path: &str, line: &str) -> Response {
    Client::plain(backend)
        .raw_response(format!("GET {path} HTTP/1.1\r\nHost: public.decided\r\n{line}\r\n\r\n"))
        .expect(200)
}

/// R7, R8: every path means to this backend what it meant to the gateway, or got nowhere.
#[track_caller]
fn believes_the_paths_that_were_decided(backend: SocketAddr) {
    let alone = Belief::read(&directly(backend, "/public/../admin/x", "X-User-Id: root-forged"));
    assert_eq!(
        (alone.area.as_str(), alone.id.as_str()),
        ("admin", FORGED),
        "left alone, it is easily misled: {alone:?}"
    );
    let site = Site::new(backend, "drop");
    let credential = format!("Authorization: Bearer {}", site.token(&["admin"]));
    let mut believed = 0;
    for (path, expect) in PATHS {
        let name = String::from_utf8_lossy(path);
        let answer = site.send(path, &credential);
        let Some(expect) = expect else {
            assert!(matches!(answer.status, 400 | 404 | 421), "{name}: {answer:?}");
            assert!(!answer.text().contains("\npath\t"), "{name} reached the backend: {:?}", answer.text());
            continue;
        };
        if matches!(answer.status, 400 | 404) {
            assert_ne!(answer.json_error().as_deref(), Some("bad_path"), "{name} was to be let through");
            continue;
        }
        let belief = Belief::read(&answer.expect(200));
        assert_eq!(belief.path, *expect, "{name}: {belief:?}");
        assert_eq!(belief.area, belief.decided, "{name}: {belief:?}");
        believed += 1;
    }
    assert!(believed > 30, "the backend refused nearly everything: {believed}");
}

/// R12: however a forger spells it, this backend believes what the gateway proved.
#[track_caller]
fn believes_the_identity_that_was_proved(backend: SocketAddr) {
    for odd_names in ["drop", "keep"] {
        let site = Site::new(backend, odd_names);
        let credential = format!("Authorization: Bearer {}", site.token(&["user"]));
        for line in LINES {
            for (path, known) in [(&b"/public/x"[..], false), (b"/rest", true)] {
                let lines = if known { format!("{credential}\r\n{line}") } else { (*line).to_owned() };
                let answer = site.send(path, &lines);
                assert!(!answer.text().contains(FORGED), "{odd_names} {line:?}: {:?}", answer.text());
                if answer.status == 400 {
                    continue;
                }
                let belief = Belief::read(&answer.expect(200));
                let expect = if known { ("alice", "user") } else { ("", "") };
                assert_eq!((belief.id.as_str(), belief.roles.as_str()), expect, "{odd_names} {line:?}");
            }
        }
    }
}

/// R13: what this backend reads back is what the issuer said.
#[track_caller]
fn reads_back_every_value(backend: SocketAddr) {
    let site = Site::new(backend, "drop");
    for value in
        ["a,b", "a;b c", "%2C", "100%", "é", "名前", "\u{1f600}", " x ", "a\r\nX-User-Id: root", "\"q\"\\", "="]
    {
        let mut claims = Issuer::claims("alice", &[value, "second", value], site.gateway.now());
        claims["sub"] = json!(value.replace(char::is_control, "."));
        let answer = site.send(b"/rest", &format!("Authorization: Bearer {}", site.issuer.sign(&claims)));

        let belief = Belief::read(&answer.expect(200));

        let roles: Vec<String> = belief.roles.split(',').map(decode).collect();
        assert_eq!(roles, [value, "second", value]);
        assert_eq!(decode(&belief.id), value.replace(char::is_control, "."));
    }
}

/// The error word of an answer of the gateway's own.
trait JsonError {
    fn json_error(&self) -> Option<String>;
}

impl JsonError for Response {
    fn json_error(&self) -> Option<String> {
        let answer: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(answer["error"].as_str()?.to_owned())
    }
}
