//! TLS to servers: whom we believe, who we are, which name they must have.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    thread,
};

use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::support::{ClientCa, Gateway, Pki, gateway::Running};

/// A server with a certificate for `name`, which asks for one of `clients` if there are some. It answers with the name
/// that it was asked for.
fn server(pki: &Pki, name: &str, clients: Option<&ClientCa>) -> SocketAddr {
    let folder = tempfile::tempdir().unwrap();
    let files = pki.issue(folder.path(), &[name]);
    let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let config = Arc::clone(&config);
            thread::spawn(move || {
                let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream.unwrap());
                let mut head = Vec::new();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        let name = stream.conn.server_name().unwrap_or("none").to_owned();
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                        head.clear();
                    }
                }
            });
        }
    });
    address
}

fn gateway(server: SocketAddr, tls: &str, files: &[(&str, &str)]) -> Running {
    let lines = format!("servers = [\"https://{server}\"]\n{tls}");
    let gateway = Gateway::new().admin().route_to("path = \"/{*rest}\"", &lines).auth(&["none"]);
    files.iter().fold(gateway, |gateway, (name, text)| gateway.file(name, text)).start()
}

fn status(gateway: &Running) -> u16 {
    gateway.client().get("/x").send().status
}

#[test]
fn a_server_is_believed_under_its_own_authority_and_the_name_that_is_written() {
    let pki = Pki::new();
    let server = server(&pki, "backend.internal", None);
    let ca = [("ca.pem", &*pki.authority_pem())];

    let answer =
        gateway(server, "tls = { ca = \"ca.pem\", server_name = \"backend.internal\" }", &ca).client().get("/x").send();
    assert_eq!(answer.expect(200).text(), "backend.internal");

    // Another name, no name, and the system's authorities.
    assert_eq!(status(&gateway(server, "tls = { ca = \"ca.pem\", server_name = \"other.internal\" }", &ca)), 502);
    assert_eq!(status(&gateway(server, "tls = { ca = \"ca.pem\" }", &ca)), 502);
    assert_eq!(status(&gateway(server, "tls = { server_name = \"backend.internal\" }", &[])), 502);
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_ours() {
    let (pki, clients) = (Pki::new(), ClientCa::new("Clients of the backend"));
    let server = server(&pki, "127.0.0.1", Some(&clients));
    let id = clients.issue("gateway.internal");
    let strangers = ClientCa::new("Somebody else").issue("gateway.internal");
    let with = |certificate: &str, key: &str| {
        let files = [("ca.pem", &*pki.authority_pem()), ("us.pem", certificate), ("us.key", key)]
            .map(|(name, text)| (name, text.to_owned()));
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        status(&gateway(server, "tls = { ca = \"ca.pem\", certificate = \"us.pem\", key = \"us.key\" }", &files))
    };

    assert_eq!(with(&id.chain_pem(), &id.key_pem()), 200);
    assert_eq!(with(&strangers.chain_pem(), &strangers.key_pem()), 502);
    assert_eq!(status(&gateway(server, "tls = { ca = \"ca.pem\" }", &[("ca.pem", &pki.authority_pem())])), 502);
}

#[test]
fn other_authorities_count_with_the_reload_and_end_the_connections_of_before() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = server(&pki, "127.0.0.1", None);
    let gateway = gateway(server, "tls = { ca = \"ca.pem\" }", &[("ca.pem", &pki.authority_pem())]);
    assert_eq!(status(&gateway), 200);
    let write = |pem: &str| fs::write(gateway.folder().join("ca.pem"), pem).unwrap();

    write(&other.authority_pem());
    gateway.reload().expect(200);
    assert_eq!(status(&gateway), 502);
    write(&pki.authority_pem());
    gateway.reload().expect(200);
    assert_eq!(status(&gateway), 200);
    write("nonsense");
    gateway.reload().expect(422);
    assert_eq!(status(&gateway), 200);
}
