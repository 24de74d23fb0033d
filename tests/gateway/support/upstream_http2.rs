//! A backend that speaks HTTP/2, without TLS from the first byte, or where it is chosen: each of its streams is
//! answered as the test says.

use std::{future::Future, net::SocketAddr, rc::Rc, sync::Arc, thread};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{LocalSet, spawn_local},
};
use tokio_rustls::TlsAcceptor;

use super::Pki;

/// A running backend. Dropping it ends it.
pub(crate) struct Http2Upstream {
    address: SocketAddr,
    scheme: &'static str,
    _running: oneshot::Sender<()>,
}

impl Http2Upstream {
    /// Listens on a free port and has `answer` answer each request.
    pub(crate) fn start<A: Future<Output = ()> + 'static>(
        answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + Send + 'static,
    ) -> Self {
        Self::with(h2::server::Builder::new(), answer)
    }

    /// As [`Self::start`], with these settings.
    pub(crate) fn with<A: Future<Output = ()> + 'static>(
        builder: h2::server::Builder,
        answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + Send + 'static,
    ) -> Self {
        Self::listen(builder, None, answer)
    }

    /// As [`Self::with`], behind TLS, as `name`: who chooses HTTP/1.1 is passed on to `http1`.
    pub(crate) fn over_tls<A: Future<Output = ()> + 'static>(
        (pki, name): (&Pki, &str),
        builder: h2::server::Builder,
        http1: SocketAddr,
        answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + Send + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let files = pki.issue(folder.path(), &[name]);
        let chain = vec![CertificateDer::from_pem_file(&files.cert).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config =
            config.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("they fit together");
        config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).into();
        Self::listen(builder, Some((TlsAcceptor::from(Arc::new(config)), http1)), answer)
    }

    fn listen<A: Future<Output = ()> + 'static>(
        builder: h2::server::Builder,
        tls: Option<(TlsAcceptor, SocketAddr)>,
        answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> A + Send + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind(super::program::free_address()).expect("a port is free");
        listener.set_nonblocking(true).expect("a socket can be asked without waiting");
        let address = listener.local_addr().expect("a bound socket has an address");
        let scheme = if tls.is_some() { "https" } else { "h2c" };
        let (running, ended) = oneshot::channel::<()>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let tasks = LocalSet::new();
            let serving = tasks.run_until(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let answer = Rc::new(answer);
                while let Ok((stream, _)) = listener.accept().await {
                    let (answer, builder, tls) = (Rc::clone(&answer), builder.clone(), tls.clone());
                    spawn_local(async move {
                        let Some((acceptor, http1)) = tls else { return serve(&builder, stream, &*answer).await };
                        let Ok(mut stream) = acceptor.accept(stream).await else { return };
                        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                            serve(&builder, stream, &*answer).await;
                        } else if let Ok(mut server) = TcpStream::connect(http1).await {
                            let _ = copy_bidirectional(&mut stream, &mut server).await;
                        }
                    });
                }
            });
            runtime.block_on(async {
                tokio::select! { () = serving => {}, _ = ended => {} }
            });
        });
        Self { address, scheme, _running: running }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// As `servers` wants it.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }
}

async fn serve<A: Future<Output = ()> + 'static>(
    builder: &h2::server::Builder,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> A,
) {
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        spawn_local(answer(request, respond));
    }
}

/// The bytes of a request's body.
pub(crate) async fn read_all(mut body: RecvStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        // A stream that is gone needs no room.
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    bytes
}
