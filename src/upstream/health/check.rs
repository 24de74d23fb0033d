//! One check of one server: a `GET` on a connection of its own, over what its requests speak, judged by its status.
//!
//! In: where the server is, and what it is asked. Out: whether it passed, or a word from a closed set that says why
//! not. Everything is bounded by the check's own timeout; what follows the head of the answer is not read. A server
//! that leads back to the gateway fails (R36).

use std::{io, time::Duration};

use bytes::BytesMut;
use http::{HeaderValue, Method, StatusCode, header::USER_AGENT, uri::PathAndQuery};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::upstream::{
    UpstreamError,
    answer::{self, Head, Search},
    connect::{Io, Offer, Target},
    http2,
};

/// `health`: what servers are asked from time to time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// Path and query.
    pub path: PathAndQuery,
    /// The `Host` it is sent; `None`: the server's own.
    pub host: Option<HeaderValue>,
    /// Between the beginnings of two checks.
    pub interval: Duration,
    /// For all of one check.
    pub timeout: Duration,
    /// Checks in a row after which a server that was out is in.
    pub healthy_after: u32,
    /// Checks in a row after which a server that was in is out.
    pub unhealthy_after: u32,
    /// Statuses that are good; empty: 200 to 399.
    pub statuses: Box<[StatusCode]>,
}

impl Default for Check {
    /// `/` every 5 s, 2 s at most; in after 2, out after 3.
    fn default() -> Self {
        Self {
            path: PathAndQuery::from_static("/"),
            host: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_after: 2,
            unhealthy_after: 3,
            statuses: Box::default(),
        }
    }
}

impl Check {
    /// Asks the server behind `target` once.
    ///
    /// # Errors
    /// A word that says why it did not pass.
    pub(in crate::upstream) async fn ask(&self, target: &Target) -> Result<(), &'static str> {
        timeout(self.timeout, self.exchange(target)).await.unwrap_or(Err("timeout"))
    }

    async fn exchange(&self, target: &Target) -> Result<(), &'static str> {
        let io = target.dial(Offer::All, self.timeout).await.map_err(UpstreamError::label)?;
        let host = self.host.as_ref().unwrap_or(&target.host);
        if !target.is_http2(&io) {
            return self.over_http1(io, host).await;
        }
        let mut head =
            http2::bare(Method::GET, self.path.clone(), host, target.is_encrypted()).map_err(UpstreamError::label)?;
        head.headers_mut().insert(USER_AGENT, HeaderValue::from_static(NAME));
        match http2::ask(io, head).await {
            Ok(status) => self.judge(status),
            Err(why) if http2::wants_http1(&why) && target.can_choose() => {
                let io = target.dial(Offer::Http1, self.timeout).await.map_err(UpstreamError::label)?;
                self.over_http1(io, host).await
            }
            Err(_) => Err("no_answer"),
        }
    }

    async fn over_http1(&self, mut stream: Io, host: &HeaderValue) -> Result<(), &'static str> {
        let request = [
            b"GET ",
            self.path.as_str().as_bytes(),
            b" HTTP/1.1\r\nHost: ",
            host.as_bytes(),
            b"\r\nUser-Agent: ",
            NAME.as_bytes(),
            b"\r\nConnection: close\r\n\r\n",
        ];
        let lost = |_: io::Error| "no_answer";
        stream.write_all(&request.concat()).await.map_err(lost)?;
        stream.flush().await.map_err(lost)?;
        let (mut read, mut search) = (BytesMut::new(), Search::default());
        let mut interim = 0;
        loop {
            match answer::take(&mut read, &mut search, false).map_err(UpstreamError::label)? {
                Some(Head::Final(head)) => return self.judge(head.response.status()),
                Some(Head::Continue | Head::Hints(_) | Head::Interim) if interim < INTERIM_MAX => interim += 1,
                Some(Head::Continue | Head::Hints(_) | Head::Interim) => return Err("too_much_before_head"),
                None => {
                    if stream.read_buf(&mut read).await.map_err(lost)? == 0 {
                        return Err("no_answer");
                    }
                }
            }
        }
    }

    fn judge(&self, status: StatusCode) -> Result<(), &'static str> {
        let is_good = if self.statuses.is_empty() {
            status.is_success() || status.is_redirection()
        } else {
            self.statuses.contains(&status)
        };
        if is_good { Ok(()) } else { Err("status") }
    }
}

/// What checks call themselves.
const NAME: &str = "portcullis-health";
/// Interim answers that are read.
const INTERIM_MAX: usize = 16;
