//! Several requests over one connection of HTTP/2, each with all that is said on its stream, in order.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::pki_types::ServerName;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::client::TlsStream;

use super::{Client, latin1, patience, tls_config};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What came on one stream.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Streamed {
    /// The fields of each interim answer, with its status.
    pub(crate) interim: Vec<(u16, Vec<(String, String)>)>,
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// Asks for all of these at once; what came for each, in their order.
    #[track_caller]
    pub(crate) fn get_together(&self, targets: &[&str]) -> Vec<Streamed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let asked = LocalSet::new().block_on(&runtime, async {
            tokio::time::timeout(patience(), self.ask_together(targets)).await.expect("answers in time")
        });
        asked.expect("each is answered")
    }

    /// A connection on which HTTP/2 was chosen.
    pub(super) async fn speak_http2(&self) -> Result<TlsStream<tokio::net::TcpStream>, Failure> {
        let socket = tokio::net::TcpStream::connect(self.address).await?;
        let roots = self.roots.as_ref().ok_or("HTTP/2 is spoken over TLS only")?;
        let config = Arc::new(tls_config(roots, self.id.as_deref(), &["h2"]));
        let name = ServerName::try_from(self.sni())?;
        Ok(tokio_rustls::TlsConnector::from(config).connect(name, socket).await?)
    }

    async fn ask_together(&self, targets: &[&str]) -> Result<Vec<Streamed>, Failure> {
        let (mut sender, connection) = h2::client::handshake(self.speak_http2().await?).await?;
        tokio::task::spawn_local(connection);
        let mut asked = JoinSet::new();
        for (number, target) in targets.iter().enumerate() {
            sender = sender.ready().await?;
            let request = http::Request::get(format!("https://{}{target}", self.host)).body(())?;
            let came = all_of(&mut sender, request)?;
            asked.spawn_local(async move { (number, came.await) });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(number, _)| *number);
        answers.into_iter().map(|(_, came)| came).collect()
    }
}

fn all_of(
    sender: &mut SendRequest<Bytes>,
    request: http::Request<()>,
) -> Result<impl Future<Output = Result<Streamed, Failure>> + use<>, Failure> {
    let (mut answer, _) = sender.send_request(request, true)?;
    Ok(async move {
        let mut interim = Vec::new();
        while let Some(head) = poll_fn(|cx| answer.poll_informational(cx)).await {
            let head = head?;
            let fields = head.headers().iter();
            let fields = fields.map(|(name, value)| (name.to_string(), latin1(value.as_bytes())));
            interim.push((head.status().as_u16(), fields.collect()));
        }
        let (head, mut receive) = answer.await?.into_parts();
        let mut body = Vec::new();
        while let Some(data) = receive.data().await {
            let data = data?;
            receive.flow_control().release_capacity(data.len())?;
            body.extend(data);
        }
        Ok(Streamed { interim, status: head.status.as_u16(), body })
    })
}
