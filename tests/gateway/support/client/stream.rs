//! WebSockets over HTTP/2 (RFC 8441), for tests that speak bytes: a stream that stands is a [`Connection`] like any
//! other.
//!
//! A thread of its own opens the stream with `h2` and carries bytes between it and a local socket, part by part: what
//! the test does not read, the gateway is not given a window for.

use std::{
    io,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    task::LocalSet,
};

use super::{Connection, Request, Response, Stream, latin1, patience};

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Request {
    /// Asks for a stream with this `:protocol`, or none, as `CONNECT` with the fields and the target of this request.
    /// The head that answers it, with the stream if it was accepted.
    #[track_caller]
    pub(crate) fn connect_http2(&self, protocol: Option<&'static str>) -> (Response, Option<Connection>) {
        let (told, answer) = mpsc::channel();
        let (mine, theirs) = pair().expect("a local socket");
        let request = self.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let tasks = LocalSet::new();
            // Whoever waits for the answer learns of a failure by getting none.
            let _ = runtime.block_on(tasks.run_until(request.carry(protocol, theirs, &told)));
        });
        let answer = answer.recv_timeout(patience()).expect("an answer over HTTP/2");
        let stands = answer.status == 200;
        (answer, stands.then(|| Connection { stream: Stream::Plain(mine), buffer: Vec::new() }))
    }

    async fn carry(
        self,
        protocol: Option<&'static str>,
        local: TcpStream,
        told: &mpsc::Sender<Response>,
    ) -> Result<(), Failure> {
        let stream = self.client.speak_http2().await?;
        let (sender, mut connection) = h2::client::handshake(stream).await?;
        let mut ping = connection.ping_pong().ok_or("a ping")?;
        tokio::task::spawn_local(connection);
        ping.ping(h2::Ping::opaque()).await?;
        assert!(sender.is_extended_connect_protocol_enabled(), "the gateway says that it takes streams");
        let (head, mut receive, mut send) = self.ask(sender, protocol).await?;
        let mut answer = Response {
            status: head.status.as_u16(),
            headers: head.headers.iter().map(|(name, value)| (name.to_string(), latin1(value.as_bytes()))).collect(),
            trailers: Vec::new(),
            body: Vec::new(),
            interim: Vec::new(),
        };
        if answer.status != 200 {
            while let Some(data) = receive.data().await {
                answer.body.extend(data?);
            }
            return Ok(told.send(answer)?);
        }
        told.send(answer)?;
        local.set_nonblocking(true)?;
        let (mut read, mut write) = tokio::net::TcpStream::from_std(local)?.into_split();
        let (back, forth) = tokio::join!(to_test(&mut receive, &mut write), to_gateway(&mut read, &mut send));
        back.and(forth)
    }

    async fn ask(
        &self,
        sender: SendRequest<Bytes>,
        protocol: Option<&'static str>,
    ) -> Result<(http::response::Parts, RecvStream, SendStream<Bytes>), Failure> {
        let host = self.first("host").unwrap_or(&self.client.host);
        let target = if protocol.is_some() { format!("https://{host}{}", self.target) } else { host.to_owned() };
        let mut request = http::Request::builder().method("CONNECT").uri(target).version(http::Version::HTTP_2);
        for (name, value) in self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            request = request.header(name, value);
        }
        if let Some(protocol) = protocol {
            request = request.extension(Protocol::from_static(protocol));
        }
        let (answer, send) = sender.ready().await?.send_request(request.body(())?, false)?;
        let (head, receive) = answer.await?.into_parts();
        Ok((head, receive, send))
    }
}

async fn to_test(receive: &mut RecvStream, write: &mut OwnedWriteHalf) -> Result<(), Failure> {
    while let Some(data) = receive.data().await {
        let data = data?;
        write.write_all(&data).await?;
        receive.flow_control().release_capacity(data.len())?;
    }
    Ok(write.shutdown().await?)
}

async fn to_gateway(read: &mut OwnedReadHalf, send: &mut SendStream<Bytes>) -> Result<(), Failure> {
    let mut block = vec![0; 16 * 1024];
    loop {
        let count = read.read(&mut block).await?;
        let mut rest = &block[..count];
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.ok_or("the stream is over")??;
            let (now, later) = rest.split_at(room.min(rest.len()));
            send.send_data(Bytes::copy_from_slice(now), false)?;
            rest = later;
        }
        if count == 0 {
            return Ok(send.send_data(Bytes::new(), true)?);
        }
    }
}

/// Two ends of one local connection; the first is the test's.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mine = TcpStream::connect(listener.local_addr()?)?;
    mine.set_nodelay(true)?;
    mine.set_read_timeout(Some(patience()))?;
    mine.set_write_timeout(Some(patience()))?;
    Ok((mine, listener.accept()?.0))
}
