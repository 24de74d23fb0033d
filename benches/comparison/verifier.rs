//! The session service that proxies without sessions of their own ask about each request (`auth_request`, `ext_authz`,
//! forward-auth): one look-up in a table, and the headers that tell who it is.
//!
//! It runs beside the load and its CPU time is nobody's: what a proxy is charged with is asking.

use std::{collections::HashMap, rc::Rc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{Result, people::Person};

/// A running service; dropping it ends it.
pub(crate) struct Verifier {
    port: u16,
    task: JoinHandle<()>,
}

impl Verifier {
    /// Knows the n-th token as the n-th person's.
    pub(crate) async fn start(tokens: &[String]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let known: HashMap<String, usize> =
            tokens.iter().enumerate().map(|(number, token)| (token.clone(), number)).collect();
        let known = Rc::new(known);
        let task = tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream, Rc::clone(&known)));
            }
        });
        Ok(Self { port, task })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, known: Rc<HashMap<String, usize>>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
        filled += read;
        if !buffer[..filled].ends_with(b"\r\n\r\n") {
            if filled == buffer.len() {
                return;
            }
            continue;
        }
        let head = String::from_utf8_lossy(&buffer[..filled]);
        let token = head.split_once("__Host-portcullis=").map(|(_, rest)| rest);
        let token = token.and_then(|rest| rest.split([';', '\r']).next());
        let answer = token.and_then(|token| known.get(token)).map_or_else(refusal, |number| welcome(*number));
        filled = 0;
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn welcome(number: usize) -> String {
    let Person { id, name, email, roles } = Person::number(number);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-User-Id: {id}\r\nX-User-Name: {name}\r\nX-User-Email: {email}\r\n\
         X-User-Roles: {}\r\nX-User-Auth: session\r\n\r\n",
        roles.join(",")
    )
}

fn refusal() -> String {
    "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".into()
}
