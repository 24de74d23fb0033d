//! The backend of all proxies: HTTP/1.1 keep-alive, answers every request with the same 95 bytes, as cheaply as it can.
//!
//! It counts requests, so that a check can tell whether a refused request reached it, and keeps the last head on
//! demand.

use std::{cell::RefCell, rc::Rc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::Result;

/// A running backend; it ends with the program.
pub(crate) struct Upstream {
    port: u16,
    seen: Rc<RefCell<Seen>>,
}

#[derive(Default)]
struct Seen {
    requests: u64,
    keep: bool,
    head: Vec<u8>,
}

impl Upstream {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let seen: Rc<RefCell<Seen>> = Rc::default();
        let shared = Rc::clone(&seen);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream, Rc::clone(&shared)));
            }
        });
        Ok(Self { port, seen })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Requests answered since the start.
    pub(crate) fn requests(&self) -> u64 {
        self.seen.borrow().requests
    }

    /// Keeps request heads from now on, or no longer.
    pub(crate) fn keep_heads(&self, keep: bool) {
        self.seen.borrow_mut().keep = keep;
    }

    /// The last request head that was kept, as it came.
    pub(crate) fn last_head(&self) -> String {
        String::from_utf8_lossy(&self.seen.borrow().head).into_owned()
    }
}

async fn serve(mut stream: TcpStream, seen: Rc<RefCell<Seen>>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    while let Ok(read) = stream.read(&mut buffer[filled..]).await {
        if read == 0 {
            return;
        }
        filled += read;
        // No proxy pipelines and all requests are without body: a head ends what was read.
        if !buffer[..filled].ends_with(b"\r\n\r\n") {
            if filled == buffer.len() {
                return;
            }
            continue;
        }
        {
            let mut seen = seen.borrow_mut();
            seen.requests += 1;
            if seen.keep {
                seen.head = buffer[..filled].to_vec();
            }
        }
        filled = 0;
        if stream.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 95\r\n\r\n\
    {\"order\":42,\"state\":\"shipped\",\"items\":[{\"id\":7,\"name\":\"lamp\",\"price\":1990}],\"note\":\"thank you\"}";

// The body is what the header says it is.
const _: () = assert!(ANSWER.len() == 71 + 95);
