//! A backend that speaks HTTP/2 without TLS, from the first byte: each of its streams is answered as the test says.

use std::{future::Future, net::SocketAddr, rc::Rc, thread};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;
use tokio::{net::TcpListener, sync::oneshot, task::LocalSet, task::spawn_local};

/// A running backend. Dropping it ends it.
pub(crate) struct Http2Upstream {
    address: SocketAddr,
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
        let listener = std::net::TcpListener::bind(super::program::free_address()).expect("a port is free");
        listener.set_nonblocking(true).expect("a socket can be asked without waiting");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (running, ended) = oneshot::channel::<()>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let tasks = LocalSet::new();
            let serving = tasks.run_until(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let answer = Rc::new(answer);
                while let Ok((stream, _)) = listener.accept().await {
                    let (answer, builder) = (Rc::clone(&answer), builder.clone());
                    spawn_local(async move {
                        let Ok(mut connection) = builder.handshake(stream).await else { return };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            spawn_local(answer(request, respond));
                        }
                    });
                }
            });
            runtime.block_on(async {
                tokio::select! { () = serving => {}, _ = ended => {} }
            });
        });
        Self { address, _running: running }
    }

    /// As `servers` wants it.
    pub(crate) fn url(&self) -> String {
        format!("h2c://{}", self.address)
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
