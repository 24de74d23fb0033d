//! Whoever looks for a proof finds it while it is up, and a stranger finds nothing; the directory is a made-up one.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::directory::Directory;
use crate::support::{
    Client, ClientCa, eventually,
    pebble::{leaf, served},
};

#[test]
fn while_a_proof_is_up_it_is_shown_for_its_host_only_and_nothing_else_is_served_with_it() {
    let directory = Directory::asking_for("tls-alpn-01");
    let gateway = directory.gateway("").start();
    let client = gateway.client();
    let looks = |name: &str| looking(&client.host(name)).try_connect(&[]);

    eventually("the proof is up", || looks("app.test").is_ok());

    let mut connection = looks("app.test").unwrap();
    assert!(memchr::memmem::find(&leaf(&connection), &ACME_IDENTIFIER).is_some());
    assert_eq!(connection.protocol().as_deref(), Some("acme-tls/1"));
    let _ = connection.write(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(connection.read_to_end(), b"", "nothing is served on it");
    assert!(looks("file.test").is_err() && looks("unknown.test").is_err());
    for protocols in [&["acme-tls/1", "http/1.1"][..], &["h2", "acme-tls/1"], &["http/1.1"], &[]] {
        assert!(client.host("app.test").try_connect(protocols).is_err(), "{protocols:?}: it has no certificate");
    }
    let other = client.host("file.test");
    other.get("/x").send().expect(200);
    assert!(memchr::memmem::find(&served(&other), &ACME_IDENTIFIER).is_none());
}

#[test]
fn where_no_proof_is_up_acme_tls_is_an_unknown_protocol() {
    let directory = Directory::asking_for("tls-alpn-01");
    let gateway = directory.gateway("hosts = [\"app.test\"]").start();
    let client = gateway.client();

    let error = looking(&client.host("file.test")).try_connect(&[]).err().unwrap();

    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    client.host("file.test").get("/x").send().expect(200);
}

#[test]
fn a_host_without_a_certificate_says_so_by_its_name() {
    let directory = Directory::asking_for("tls-alpn-01");
    let gateway = directory.gateway("").start();

    let error = gateway.client().try_connect(&["http/1.1"]).err().unwrap();

    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
}

#[test]
fn a_file_is_shown_to_who_asks_its_host_for_its_token_and_everything_else_goes_on() {
    let directory = Directory::asking_for("http-01");
    let gateway = directory.gateway("challenge = \"http-01\"").start();
    let plain = Client::plain(gateway.addresses().redirect.unwrap());
    let path = format!("/.well-known/acme-challenge/{}", Directory::TOKEN);
    let asks = |host: &str, target: &str| plain.host(host).get(target).send();

    eventually("the proof is up", || asks("app.test", &path).status == 200);

    let shown = asks("app.test", &path).text();
    assert!(shown.starts_with(&format!("{}.", Directory::TOKEN)), "{shown}");
    for (host, target, status) in [
        ("file.test", path.as_str(), 308),
        ("unknown.test", &path, 421),
        ("app.test", &format!("{path}x"), 308),
        ("app.test", &format!("{path}?x"), 308),
        ("app.test", &path.replace("acme", "ACME"), 308),
        ("app.test", "/.well-known/acme-challenge/", 308),
        ("app.test", "/", 308),
    ] {
        asks(host, target).expect(status);
    }
    plain.host("app.test").post(&path, "x").send().expect(308);
    gateway.client().host("file.test").get(&path).send().expect(200);
}

#[test]
fn a_listener_without_tls_shows_it_too_and_asks_for_no_credential_for_it() {
    let directory = Directory::asking_for("http-01");
    let gateway = directory.gateway("challenge = \"http-01\"");
    let gateway = gateway.server("listen = [\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]").start();
    let plain = Client::plain(gateway.addresses().gateway[1]).host("app.test");
    let path = format!("/.well-known/acme-challenge/{}", Directory::TOKEN);

    eventually("the proof is up", || plain.get(&path).send().text().starts_with(Directory::TOKEN));

    let before = directory.upstream.request_count();
    plain.get(&path).send().expect(200);
    plain.get("/guarded/x").send().expect(401);
    assert_eq!(directory.upstream.request_count(), before, "it is asked nothing");
    plain.get(&format!("{path}x")).send().expect(200);
    assert_eq!(directory.upstream.request_count(), before + 1, "what is no proof goes its way");
}

#[test]
fn a_proof_is_shown_past_the_question_for_a_client_certificate() {
    let directory = Directory::asking_for("tls-alpn-01");
    let ca = ClientCa::new("devices");
    let gateway = directory.gateway("");
    let file = gateway.write("clients.pem", &ca.pem());
    let gateway = gateway
        .table(&format!("[[mtls.ca]]\nname = \"devices\"\nfile = {file:?}\nhosts = [\"app.test\"]\nsubject = \"dns\""))
        .start();

    eventually("the proof is up", || looking(&gateway.client()).try_connect(&[]).is_ok());
}

/// A client that offers what an authority does, and takes any certificate: the proof is signed by itself.
pub(super) fn looking(client: &Client) -> Client {
    let mut config = client.tls_settings();
    config.dangerous().set_certificate_verifier(Arc::new(TakesAny));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    client.speaking(config)
}

#[derive(Debug)]
struct TakesAny;

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384]
    }
}

/// Its object identifier, 1.3.6.1.5.5.7.1.31, in DER (RFC 8737 section 6.1).
const ACME_IDENTIFIER: [u8; 10] = [6, 8, 43, 6, 1, 5, 5, 7, 1, 31];
