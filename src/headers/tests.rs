//! What an upstream gets of a request: strip-then-add, cookies, tokens, hop-by-hop fields, WebSocket.

use http::{Request, Version};
use proptest::prelude::*;

use super::*;
use crate::{
    client::Scheme,
    identity::{Factor, IdentityParts, Via},
    policy::AccessRule,
    route::{Destination, Target},
};

/// Settings as shipped.
pub(super) fn settings() -> Settings {
    Settings {
        generation: 1,
        fields: Profile::XUser.fields(),
        extra: Box::new([]),
        removed: Box::new([]),
        client_certificate: ClientCertificates::None,
        assertion: None,
        max_bytes: 4096,
        trusted_proxies: Box::new([]),
        trust_unix_peers: false,
        family: ForwardedFamily::XForwarded,
        keep_odd_names: false,
        own_cookies: Box::new(["__Host-portcullis".into()]),
        subject_with_realm: false,
    }
}

pub(super) fn identity() -> Identity {
    Identity::new(IdentityParts {
        realm: "staff".into(),
        subject: "alice".into(),
        name: Some("Alice Ä".into()),
        email: Some("a@example.com".into()),
        email_verified: true,
        roles: vec!["admin".into(), "a,b".into()],
        groups: vec!["ops".into()],
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
        auth_time: None,
        factor: Factor::One,
        via: Via::Session,
    })
    .unwrap()
}

pub(super) fn public_route() -> Route {
    let access = Access::Public { pass_authorization: false };
    Route {
        paths: Box::new(["/{*rest}".parse().unwrap()]),
        ..Route::new("r", access, Target::Upstream(Destination::One(0)))
    }
}

fn guarded_route(forward_credential: bool) -> Route {
    let access = Access::Authenticated(AccessRule {
        session: true,
        issuers: Box::new([0]),
        optional: true,
        forward_credential,
        ..AccessRule::default()
    });
    Route { access, ..public_route() }
}

fn view() -> ClientView {
    ClientView {
        address: "192.0.2.1".parse().unwrap(),
        scheme: Scheme::Https,
        authority: "a.example".parse().unwrap(),
        through_trusted_proxy: false,
        chain: None,
    }
}

fn unsigned(identity: &Identity) -> Caller<'_> {
    Caller { identity, assertion: None }
}

fn head(lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri("/x").header("host", "a.example");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// The head that goes upstream.
fn rewritten(
    head: &Parts,
    route: &Route,
    caller: Option<&Identity>,
    forwarded: Option<&Forwarded>,
    settings: &Settings,
) -> Rewritten {
    let (id, verified) = (RequestId::generate(), Authorization::Verified(forwarded));
    rewrite_head(head, route, caller.map(unsigned), verified, &view(), &id, settings).unwrap()
}

/// What goes upstream beside the headers that we always set, as `name: value`, sorted.
fn upstream_gets(lines: &[(&str, &str)], route: &Route, caller: Option<&Identity>, settings: &Settings) -> Vec<String> {
    let mut sent = rewritten(&head(lines), route, caller, None, settings).lines.to_map();
    for name in ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"] {
        assert!(sent.remove(name).is_some(), "{name}");
    }
    for name in ["x-request-id", "traceparent"] {
        assert!(sent.remove(name).is_some(), "{name}");
    }
    let mut shown: Vec<String> =
        sent.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    shown.sort();
    shown
}

#[test]
fn an_anonymous_request_carries_no_identity_whatever_the_client_sends() {
    let lines = [
        ("X-User-Id", "root"),
        ("X-User-Anything", "root"),
        ("Remote-User", "root"),
        ("X-Forwarded-User", "root"),
        ("X-Auth-Request-User", "root"),
        ("X_User_Id", "root"),
        ("X.User.Id", "root"),
        ("Accept", "*/*"),
    ];

    assert_eq!(upstream_gets(&lines, &public_route(), None, &settings()), ["accept: */*"]);
}

#[test]
fn a_known_caller_is_told_by_our_headers_alone() {
    let lines = [("X-User-Id", "root"), ("x-user-scopes", "all"), ("X_USER_ROLES", "root"), ("x-user-id", "root2")];

    let shown = upstream_gets(&lines, &guarded_route(false), Some(&identity()), &settings());

    assert_eq!(
        shown,
        [
            "x-user-auth: session",
            "x-user-email: a@example.com",
            "x-user-groups: ops",
            "x-user-id: alice",
            "x-user-name: Alice %C3%84",
            "x-user-roles: admin,a%2Cb"
        ]
    );
}

#[test]
fn what_connection_lists_goes_but_never_ours_nor_the_framing() {
    let lines = [
        ("Connection", "close, X-User-Id, x-forwarded-for, host, content-length, x-private, x-request-id"),
        ("Content-Length", "3"),
        ("X-Private", "1"),
        ("X-Kept", "1"),
    ];

    let shown = upstream_gets(&lines, &guarded_route(false), Some(&identity()), &settings());

    assert!(shown.contains(&"x-user-id: alice".into()));
    assert!(shown.contains(&"x-kept: 1".into()));
    assert!(!shown.iter().any(|line| line.starts_with("x-private") || line.starts_with("connection")));
}

#[test]
fn hop_by_hop_and_forwarding_headers_end_here() {
    let lines = [
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic x"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ("Expect", "100-continue"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Prefix", "/x"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Client-IP", "6.6.6.6"),
        ("True-Client-IP", "6.6.6.6"),
        ("CF-Connecting-IP", "6.6.6.6"),
        ("X-Original-URL", "/admin"),
        ("X-Original-Host", "evil"),
        ("X-Rewrite-URL", "/admin"),
        ("Proxy", "http://evil"),
        ("Via", "1.1 someone"),
        ("User-Agent", "x"),
    ];

    assert_eq!(upstream_gets(&lines, &public_route(), None, &settings()), ["user-agent: x", "via: 1.1 someone"]);
}

#[test]
fn a_method_override_goes_where_the_route_names_methods() {
    let lines = [("X-HTTP-Method", "DELETE"), ("X-HTTP-Method-Override", "DELETE"), ("X-Method-Override", "DELETE")];
    let with_methods = Route { methods: Some(Box::new([Method::GET])), ..public_route() };

    assert!(upstream_gets(&lines, &with_methods, None, &settings()).is_empty());
    assert_eq!(upstream_gets(&lines, &public_route(), None, &settings()).len(), 3);
}

#[test]
fn a_token_goes_upstream_only_where_the_route_says_so() {
    let lines = [("Authorization", "Bearer x")];
    let authorization = HeaderValue::from_static("Bearer verified");
    let verified = Forwarded { authorization, proof: None };
    let passing = || Route { access: Access::Public { pass_authorization: true }, ..public_route() };
    for (name, route, verified, expect) in [
        ("public", public_route(), None, None),
        ("public, pass_authorization", passing(), None, Some("Bearer x")),
        ("public, and something verified", passing(), Some(&verified), Some("Bearer x")),
        ("nothing verified to forward", guarded_route(true), None, None),
        ("verified", guarded_route(true), Some(&verified), Some("Bearer verified")),
    ] {
        let sent = rewritten(&head(&lines), &route, None, verified, &settings()).lines.to_map();
        let values: Vec<_> = sent.get_all("authorization").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values, expect.as_slice(), "{name}");
    }
}

#[test]
fn a_proof_goes_upstream_with_its_token_and_never_by_itself() {
    let lines = [("Authorization", "DPoP x"), ("DPoP", "sent")];
    let with = |proof: Option<&'static str>| Forwarded {
        authorization: HeaderValue::from_static("DPoP x"),
        proof: proof.map(HeaderValue::from_static),
    };
    let passing = Route { access: Access::Public { pass_authorization: true }, ..public_route() };
    for (name, route, forwarded, expect) in [
        ("public", public_route(), None, None),
        ("public, pass_authorization", passing, None, Some("sent")),
        ("nothing verified to forward", guarded_route(true), None, None),
        ("a bearer token verified", guarded_route(true), Some(with(None)), None),
        ("verified", guarded_route(true), Some(with(Some("verified"))), Some("verified")),
    ] {
        let sent = rewritten(&head(&lines), &route, None, forwarded.as_ref(), &settings()).lines.to_map();
        let values: Vec<_> = sent.get_all("dpop").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values, expect.as_slice(), "{name}");
    }
}

#[test]
fn our_cookie_stays_here_on_every_route() {
    let lines = [("Cookie", "a=1; __Host-portcullis=s3cret; b=2")];
    for route in [public_route(), guarded_route(true)] {
        assert_eq!(upstream_gets(&lines, &route, None, &settings()), ["cookie: a=1; b=2"]);
    }
}

#[test]
fn a_trace_goes_on_if_it_is_one() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (lines, kept) in [
        (&[("traceparent", good), ("tracestate", "a=1")][..], true),
        (&[("traceparent", "junk"), ("tracestate", "a=1")], false),
        (&[("traceparent", good), ("traceparent", good), ("tracestate", "a=1")], false),
        (&[("tracestate", "a=1")], false),
    ] {
        let sent = rewritten(&head(lines), &public_route(), None, None, &settings()).lines.to_map();
        assert_eq!(sent["traceparent"] == good, kept, "{lines:?}");
        assert!(is_traceparent(sent["traceparent"].as_bytes()));
        assert_eq!(sent.contains_key("tracestate"), kept, "{lines:?}");
        assert_eq!(sent.get_all("traceparent").iter().count(), 1);
    }
}

#[test]
fn only_a_valid_websocket_handshake_on_a_route_that_allows_it_is_an_upgrade() {
    let open = Route { websocket: true, ..public_route() };
    let good = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];
    let key = |lines: &[(&str, &str)], route: &Route, version| {
        let mut head = head(lines);
        head.version = version;
        let sent = rewritten(&head, route, None, None, &settings());
        let fields = sent.lines.to_map();
        assert!(!fields.contains_key("upgrade") && !fields.contains_key("connection"));
        sent.websocket.is_some()
    };
    let changed = |name: &str, value: &'static str| good.map(|(n, v)| if n == name { (n, value) } else { (n, v) });

    assert!(key(&good, &open, Version::HTTP_11));
    assert!(!key(&good, &public_route(), Version::HTTP_11));
    assert!(!key(&good, &open, Version::HTTP_10));
    for (name, value) in [
        ("connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket, h2c"),
        ("sec-websocket-key", "short"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ="),
        ("sec-websocket-key", "!!!!IHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "8"),
    ] {
        assert!(!key(&changed(name, value), &open, Version::HTTP_11), "{name}: {value}");
    }
    for (name, value) in [("upgrade", "websocket"), ("content-length", "5"), ("transfer-encoding", "chunked")] {
        let more = [&good[..], &[(name, value)]].concat();
        assert!(!key(&more, &open, Version::HTTP_11), "and {name}: {value}");
    }
}

#[test]
fn our_request_id_and_canonical_host_replace_the_clients() {
    let mut head = head(&[("x-request-id", "a"), ("x-request-id", "b")]);
    head.headers.insert("host", "A.EXAMPLE:443".parse().unwrap());
    let id = RequestId::generate();

    let sent =
        rewrite_head(&head, &public_route(), None, Authorization::Verified(None), &view(), &id, &settings()).unwrap();

    assert_eq!(sent.lines.to_map().get_all("x-request-id").iter().collect::<Vec<_>>(), [id.header()]);
    assert_eq!(sent.host, "a.example");
}

/// Names that fold to one that matters, in many spellings, among harmless ones.
fn name() -> impl Strategy<Value = String> {
    let base = prop::sample::select(vec![
        "x-user-id",
        "x-user-roles",
        "x-user-new",
        "remote-user",
        "x-forwarded-user",
        "x-auth-request-email",
        "x-dept",
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "connection",
        "transfer-encoding",
        "accept",
        "x-userid",
        "my-app",
    ]);
    let marks = prop::collection::vec(prop::sample::select(vec!['-', '_', '.', '~', '!']), 4);
    (base, marks, any::<bool>()).prop_map(|(base, marks, upper)| {
        let mut marks = marks.into_iter();
        let text: String = base.chars().map(|c| if c == '-' { marks.next().unwrap_or('-') } else { c }).collect();
        if upper { text.to_uppercase() } else { text }
    })
}

proptest! {
    #[test]
    fn nothing_that_folds_to_a_managed_name_survives_but_ours(
        names in prop::collection::vec(name(), 0..12),
        keep_odd_names: bool,
        known: bool,
        profile in prop::sample::select(
            vec![Profile::RemoteUser, Profile::XAuthRequest, Profile::XForwardedUser, Profile::XUser]
        ),
    ) {
        let settings = Settings {
            keep_odd_names,
            fields: profile.fields(),
            extra: Box::new([(HeaderName::from_static("x-dept"), ClaimPath::dotted("dept"))]),
            ..settings()
        };
        let listed = names.join(",");
        let mut lines: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "forged")).collect();
        lines.push(("connection", &listed));
        let caller = identity();
        let caller = known.then_some(&caller);

        let sent = rewritten(&head(&lines), &guarded_route(false), caller, None, &settings).lines.to_map();

        for (name, value) in &sent {
            let folded: String =
                name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            let managed = ["x-user-", "x-forwarded-", "x-auth-request-", "remote-", "x-dept", "x-real-ip", "forwarded",
                "connection", "transfer-encoding"].iter().any(|start| folded.starts_with(start));
            prop_assert!(!managed || value != "forged", "{}", name);
            prop_assert!(keep_odd_names || folded == name.as_str());
        }
        for (name, field) in &settings.fields {
            let values: Vec<_> = sent.get_all(name).iter().collect();
            prop_assert_eq!(values, caller.and_then(|c| c.header(*field)).into_iter().collect::<Vec<_>>());
        }
    }
}
