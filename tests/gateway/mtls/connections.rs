//! Which connections are asked, and which hosts are served on them (R10).

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use rustls::{
    HandshakeKind, NamedGroup,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls12Resumption, Tls13ClientSessionValue},
    pki_types::ServerName,
    version::{TLS12, TLS13},
};

use super::*;
use crate::support::http2::{END_HEADERS, END_STREAM, End, HEADERS, Http2, block, frame};

/// `app.test` and `more.test` take certificates of devices, `staff.test` those of staff, `open.test` lets everybody in.
fn hosts(upstream: &Upstream, devices: &ClientCa, staff: &ClientCa) -> Running {
    let route = |gateway: Gateway, host: &str, auth: &str| {
        let matching = format!("host = {host:?}, path = \"/{{*rest}}\"");
        gateway.route_to(&matching, &format!("servers = [{:?}]", upstream.url())).auth(&[auth])
    };
    let gateway = Gateway::new()
        .host("more.test")
        .host("staff.test")
        .host("open.test")
        .file("devices.pem", &devices.pem())
        .file("staff.pem", &staff.pem())
        .table("[[mtls.ca]]\nname = \"devices\"\nfile = \"devices.pem\"\nsubject = \"dns\"\n")
        .table("[[mtls.ca]]\nname = \"staff\"\nfile = \"staff.pem\"\nsubject = \"dns\"\n");
    let gateway = route(gateway, "app.test", "mtls:devices");
    let gateway = route(gateway, "more.test", "mtls:devices");
    let gateway = route(gateway, "staff.test", "mtls:staff");
    route(gateway, "open.test", "none").start()
}

/// The host decides, and a connection serves the hosts of its settings only.
#[test]
fn a_host_with_other_settings_than_the_server_name_is_misdirected() {
    let upstream = Upstream::start();
    let (devices, staff) = (ClientCa::new("Devices"), ClientCa::new("Staff"));
    let gateway = hosts(&upstream, &devices, &staff);
    let client = gateway.client().certificate(&devices.issue("a.example"));
    let status = |name: &str, host: &str| client.host(host).server_name(name).get("/x").send().status;

    for (name, host) in [
        ("open.test", "app.test"),
        ("open.test", "staff.test"),
        ("app.test", "staff.test"),
        ("app.test", "open.test"),
        ("staff.test", "app.test"),
    ] {
        assert_eq!(status(name, host), 421, "{name} {host}");
    }
    upstream.expect_only(0);

    for (name, host) in [("app.test", "app.test"), ("app.test", "more.test"), ("open.test", "open.test")] {
        assert_eq!(status(name, host), 200, "{name} {host}");
    }
    upstream.expect_only(3);
}

/// RFC 9113 section 9.1.1: browsers use one connection for all hosts of a certificate.
#[test]
fn coalesced_requests_are_misdirected_and_the_connection_goes_on() {
    let upstream = Upstream::start();
    let (devices, staff) = (ClientCa::new("Devices"), ClientCa::new("Staff"));
    let gateway = hosts(&upstream, &devices, &staff);
    let open = gateway.client().host("open.test");
    let secured = gateway.client().certificate(&devices.issue("a.example"));
    let ask = |http2: &mut Http2, stream: u32, host: &str| {
        let fields: [(&[u8], &[u8]); 4] =
            [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", host.as_bytes()), (b":path", b"/x")];
        http2.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields))).unwrap();
        http2.end_of(stream)
    };

    let mut from_open = Http2::connect(&open);
    assert_eq!(ask(&mut from_open, 1, "open.test"), End::Status(200));
    assert_eq!(ask(&mut from_open, 3, "app.test"), End::Status(421));
    assert_eq!(ask(&mut from_open, 5, "open.test"), End::Status(200));
    let mut from_secured = Http2::connect(&secured);
    assert_eq!(ask(&mut from_secured, 1, "app.test"), End::Status(200));
    assert_eq!(ask(&mut from_secured, 3, "open.test"), End::Status(421));
    assert_eq!(ask(&mut from_secured, 5, "more.test"), End::Status(200));
    upstream.expect_only(4);
}

/// Keeps sessions whatever host they are of, as no honest client does.
#[derive(Debug, Default)]
struct AnyHost {
    tickets: Mutex<Vec<Tls13ClientSessionValue>>,
    session: Mutex<Option<Tls12ClientSessionValue>>,
}

impl ClientSessionStore for AnyHost {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        *self.session.lock().unwrap() = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.session.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.session.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.lock().unwrap().push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.lock().unwrap().pop()
    }
}

/// What the handshake with `second` is, with what the one with `first` left behind, and how a request is answered.
fn resumed(gateway: &Running, client: &Client, first: &str, second: &str, tls13: bool) -> (HandshakeKind, u16) {
    let store = Arc::new(AnyHost::default());
    let speaking = |with: &Client| {
        let mut config = with.tls_settings();
        let versions: &[&rustls::SupportedProtocolVersion] = if tls13 { &[&TLS13] } else { &[&TLS12] };
        let resolver = Arc::clone(&config.client_auth_cert_resolver);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = gateway.pki().roots();
        let mut made = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(resolver);
        made.alpn_protocols = std::mem::take(&mut config.alpn_protocols);
        made.resumption =
            Resumption::store(Arc::clone(&store) as _).tls12_resumption(Tls12Resumption::SessionIdOrTickets);
        made
    };
    let config = speaking(client);
    let mut connection = client.host(first).speaking(config.clone()).connect();
    connection.send(&client.host(first).get("/x")).expect(200);
    drop(connection);
    // rustls resumes only what was made with the same verifier and certificate: the clone shares both.
    let mut connection = client.host(second).speaking(config).connect();
    let answer = connection.send(&client.host(second).get("/x"));
    (connection.tls().unwrap().handshake_kind().unwrap(), answer.status)
}

/// R10. A session that was made under one host's settings is not resumed under another's.
#[test]
fn a_ticket_resumes_where_it_was_made_only() {
    let upstream = Upstream::start();
    let (devices, staff) = (ClientCa::new("Devices"), ClientCa::new("Staff"));
    let gateway = hosts(&upstream, &devices, &staff);
    let client = gateway.client().certificate(&devices.issue("a.example"));
    for tls13 in [true, false] {
        let kind = |first: &str, second: &str| resumed(&gateway, &client, first, second, tls13);

        assert_eq!(kind("open.test", "app.test"), (HandshakeKind::Full, 200), "TLS 1.3: {tls13}");
        assert_eq!(kind("app.test", "open.test"), (HandshakeKind::Full, 200), "TLS 1.3: {tls13}");
        assert_eq!(kind("app.test", "staff.test"), (HandshakeKind::Full, 401), "TLS 1.3: {tls13}");
        assert_eq!(kind("app.test", "more.test"), (HandshakeKind::Full, 200), "TLS 1.3: {tls13}");

        assert_eq!(kind("app.test", "app.test"), (HandshakeKind::Resumed, 200), "TLS 1.3: {tls13}");
        assert_eq!(kind("open.test", "open.test"), (HandshakeKind::Resumed, 200), "TLS 1.3: {tls13}");
    }
}

/// A resumed connection has the certificate that the first one has shown, and it is judged as it is worth now.
#[test]
fn a_resumed_connection_is_judged_like_any_other() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway(&upstream, &ca);
    let now = gateway.now();
    let id = ca.sign(Leaf::new().dns("a.example").valid(now.minus(DAY), now.plus(DAY)));
    let client = gateway.client().certificate(&id);
    let client = client.speaking(client.tls_settings());
    let connect = || {
        let mut connection = client.connect();
        let status = connection.send(&client.get("/x")).status;
        (connection.tls().unwrap().handshake_kind().unwrap(), status)
    };

    assert_eq!(connect(), (HandshakeKind::Full, 200));
    assert_eq!(connect(), (HandshakeKind::Resumed, 200));
    gateway.advance(2 * DAY);

    assert_eq!(connect(), (HandshakeKind::Resumed, 401));
}

/// Expiry counts with the next request.
#[test]
fn a_certificate_that_expires_ends_with_the_next_request_of_its_connection() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway(&upstream, &ca);
    let now = gateway.now();
    let ending = ca.sign(Leaf::new().dns("a.example").valid(now.minus(DAY), now.plus(DAY)));
    let lasting = ca.sign(Leaf::new().dns("b.example").valid(now.minus(DAY), now.plus(3 * DAY)));
    let clients = [&ending, &lasting].map(|id| gateway.client().certificate(id));
    let [mut of_ending, mut of_lasting] = clients.each_ref().map(Client::connect);

    of_ending.send(&clients[0].get("/x")).expect(200);
    of_lasting.send(&clients[1].get("/x")).expect(200);
    gateway.advance(2 * DAY);

    of_ending.send(&clients[0].get("/x")).expect(401);
    of_lasting.send(&clients[1].get("/x")).expect(200);
}

/// R37, R10. A connection from before certificates were asked for has none to show, whatever its client has.
#[test]
fn a_reload_that_asks_for_certificates_sends_old_connections_away() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway_with(&upstream, &ca, "").auth(&["none"]).admin().start();
    let client = gateway.client().certificate(&ca.issue("a.example"));
    let mut connection = client.connect();
    connection.send(&client.get("/x")).expect(200);

    gateway.edit("auth = [\"none\"]", "auth = [\"mtls\"]");
    gateway.reload().expect(200);

    let answer = connection.send(&client.get("/x")).expect(421);
    assert_eq!(answer.header("connection"), Some("close"));
    client.get("/x").send().expect(200);
    gateway.client().get("/x").send().expect(401);
    upstream.expect_only(2);
}

/// A reload that leaves the settings as they are leaves tickets, too.
#[test]
fn a_reload_of_something_else_keeps_tickets() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway_with(&upstream, &ca, "").admin().start();
    let client = gateway.client().certificate(&ca.issue("a.example"));
    let client = client.speaking(client.tls_settings());
    let kind = || {
        let mut connection = client.connect();
        connection.send(&client.get("/x")).expect(200);
        connection.tls().unwrap().handshake_kind().unwrap()
    };
    assert_eq!(kind(), HandshakeKind::Full);

    gateway.edit("name = \"r0\"", "name = \"other\"");
    gateway.reload().expect(200);

    assert_eq!(kind(), HandshakeKind::Resumed);
}

/// R20.
#[test]
fn both_versions_of_tls_carry_certificates() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let gateway = gateway(&upstream, &ca);
    let (good, bad) = (ca.issue("a.example"), ClientCa::new("Others").issue("a.example"));
    for tls13 in [true, false] {
        let status = |id: &ClientId| {
            let client = gateway.client().certificate(id);
            let versions: &[&rustls::SupportedProtocolVersion] = if tls13 { &[&TLS13] } else { &[&TLS12] };
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(gateway.pki().roots())
                .with_client_auth_cert(id.chain.clone(), id.key.clone_key())
                .unwrap();
            client.speaking(config).get("/x").send().status
        };

        assert_eq!((status(&good), status(&bad)), (200, 401), "TLS 1.3: {tls13}");
    }
    let by_http2 = |id: &ClientId| gateway.client().certificate(id).get("/x").send_http2().status;
    assert_eq!((by_http2(&good), by_http2(&bad)), (200, 401));
}

/// A client that notes how many names of authorities it is told, and has no certificate.
#[derive(Debug)]
struct Notes(Arc<AtomicUsize>);

const NOT_ASKED: usize = usize::MAX;

impl rustls::client::ResolvesClientCert for Notes {
    fn resolve(&self, hints: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.store(hints.len(), Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whoever is not asked has nothing to show: the certificate stays with the client.
#[test]
fn a_host_without_certificates_asks_for_none() {
    let upstream = Upstream::start();
    let (devices, staff) = (ClientCa::new("Devices"), ClientCa::new("Staff"));
    let gateway = hosts(&upstream, &devices, &staff);
    let asked = |host: &str| {
        let hints = Arc::new(AtomicUsize::new(NOT_ASKED));
        let mut config = gateway.client().tls_settings();
        config.client_auth_cert_resolver = Arc::new(Notes(Arc::clone(&hints)));
        let client = gateway.client().host(host).speaking(config);
        client.get("/x").send();
        hints.load(Relaxed)
    };

    assert_eq!(asked("open.test"), NOT_ASKED);
    assert_eq!(asked("app.test"), 1, "with the name of its authority as a hint");
    assert_eq!(asked("staff.test"), 1);
}

/// R15. The certificate of a trusted proxy is the proxy's own.
#[test]
fn the_certificate_of_a_trusted_proxy_says_nothing_of_its_clients() {
    let upstream = Upstream::start();
    let ca = ClientCa::new("Devices");
    let behind = gateway_with(&upstream, &ca, "").server("trusted_proxies = [\"127.0.0.1/32\"]").start();
    let direct = gateway(&upstream, &ca);
    let id = ca.issue("proxy.example");

    assert_eq!(asked(&behind, &id).0, 401);
    upstream.expect_only(0);
    assert_eq!(asked(&direct, &id).0, 200);
}
