//! Whoever publishes keys: a server that says whatever the test tells it to, byte for byte.
//!
//! Each connection is one request: its head is read and noted, the answer written as it is, the connection closed.
//! So it can break off, lie about lengths, or never end, which no HTTP library would do for it.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};

use super::{Issuer, Pki};

/// What it does with a request: the whole answer is written into the stream.
type Manner = dyn Fn(&Asked, &mut dyn Write) -> io::Result<()> + Send + Sync;

/// One request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The head as it was sent.
    pub(crate) head: String,
    /// As many bytes as its length says.
    pub(crate) body: String,
}

/// A server of keys. Dropping it stops it.
pub(crate) struct Provider {
    address: SocketAddr,
    scheme: &'static str,
    host: String,
    manner: Arc<Mutex<Arc<Manner>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    stopped: Arc<AtomicBool>,
}

impl Asked {
    /// The path and query that were asked for.
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of a field, whatever the case of its name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl Provider {
    /// One on plain HTTP that publishes these keys.
    pub(crate) fn of(keys: &[&Issuer]) -> Self {
        let provider = Self::start(None, "127.0.0.1");
        provider.publish(keys);
        provider
    }

    /// One on HTTPS under this name, with a certificate of this authority.
    pub(crate) fn secure(keys: &[&Issuer], pki: &Pki, host: &str) -> Self {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let files = pki.issue(folder.path(), &[host]);
        let certificate = CertificateDer::from_pem_file(&files.cert).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key))
            .expect("the certificate can be served");
        let provider = Self::start(Some(Arc::new(config)), host);
        provider.publish(keys);
        provider
    }

    fn start(tls: Option<Arc<ServerConfig>>, host: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let provider = Self {
            address: listener.local_addr().expect("it is bound"),
            scheme: if tls.is_some() { "https" } else { "http" },
            host: host.to_owned(),
            manner: Arc::new(Mutex::new(Arc::new(|_: &Asked, _: &mut dyn Write| Ok(())))),
            asked: Arc::default(),
            stopped: Arc::default(),
        };
        let (manner, asked, stopped) =
            (Arc::clone(&provider.manner), Arc::clone(&provider.asked), Arc::clone(&provider.stopped));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (manner, asked, tls) = (Arc::clone(&manner), Arc::clone(&asked), tls.clone());
                thread::spawn(move || {
                    let serve = |stream: &mut dyn ReadWrite| {
                        let mut request = Asked { head: read_head(stream)?, body: String::new() };
                        let length = request.header("content-length").and_then(|length| length.parse().ok());
                        let mut body = vec![0; length.unwrap_or_default()];
                        stream.read_exact(&mut body)?;
                        request.body = String::from_utf8_lossy(&body).into_owned();
                        let manner = Arc::clone(&manner.lock().expect("no test panics here"));
                        asked.lock().expect("no test panics here").push(request.clone());
                        manner(&request, &mut WriteOnly(stream))
                    };
                    // A client that leaves in the middle is what many of these tests are about.
                    let _ = match tls {
                        None => serve(&mut &stream),
                        Some(config) => ServerConnection::new(config).map_err(io::Error::other).and_then(|session| {
                            let mut tls = StreamOwned::new(session, &stream);
                            let served = serve(&mut tls);
                            tls.conn.send_close_notify();
                            served.and_then(|()| tls.flush())
                        }),
                    };
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        provider
    }

    /// From now on it publishes these keys.
    pub(crate) fn publish(&self, keys: &[&Issuer]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.answer(200, "Content-Type: application/json\r\n", &json!({ "keys": keys }).to_string());
    }

    /// From now on it answers like this, whatever is asked.
    pub(crate) fn answer(&self, status: u16, fields: &str, body: &str) {
        self.say(format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes());
    }

    /// From now on it says exactly this, and closes.
    pub(crate) fn say(&self, bytes: Vec<u8>) {
        self.behave(move |_, stream| stream.write_all(&bytes));
    }

    /// From now on it answers metadata with these members, and anything else with these keys.
    pub(crate) fn publish_with_metadata(&self, path: &'static str, metadata: &Value, keys: &[&Issuer]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        let (metadata, keys) = (metadata.to_string(), json!({ "keys": keys }).to_string());
        self.behave(move |asked, stream| {
            let (status, body) = match asked.path() {
                asked if asked == path => (200, &*metadata),
                "/keys" => (200, &*keys),
                _ => (404, ""),
            };
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        });
    }

    /// From now on it does this.
    pub(crate) fn behave(&self, manner: impl Fn(&Asked, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static) {
        *self.manner.lock().expect("no test panics here") = Arc::new(manner);
    }

    /// Its URL with this path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}:{}{path}", self.scheme, self.host, self.address.port())
    }

    /// The line of `[[jwt.issuer]]` that fetches its keys.
    pub(crate) fn jwks(&self) -> String {
        format!("jwks = {{ url = {:?} }}", self.url("/keys"))
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test panics here").clone()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

/// A proxy that opens tunnels to one place, whatever is asked for, and tells what that was. Lives as long as the test.
pub(crate) fn tunnelling_proxy(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (address, asked) = (listener.local_addr().expect("it is bound"), Arc::<Mutex<Vec<String>>>::default());
    let noted = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let Ok(head) = read_head(&mut &stream) else { continue };
            noted.lock().expect("no test panics here").push(head.lines().next().unwrap_or_default().to_owned());
            let Ok(target) = TcpStream::connect(to) else { continue };
            let _ = (&stream).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
            let copy = |from: &TcpStream, to: &TcpStream| {
                let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                thread::spawn(move || {
                    let _ = io::copy(&mut &from, &mut &to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            };
            copy(&stream, &target);
            copy(&target, &stream);
        }
    });
    (address, asked)
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

struct WriteOnly<'a>(&'a mut dyn ReadWrite);

impl Write for WriteOnly<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn read_head(stream: &mut dyn ReadWrite) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
