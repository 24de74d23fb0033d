//! The library's requests, through the gateway's own HTTPS client.
//!
//! In: a request for the directory. Out: its answer, or the [`FetchError`] that says why there is none; and beside it,
//! what the last answer asked us to wait (RFC 9110 section 10.2.3), which the library does not tell.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response, header::RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::{
    clock::{Clock, Timestamp},
    fetch::{self, FetchError, Url},
};

/// One directory's client. Clones tell of the same last answer.
#[derive(Clone)]
pub(super) struct Http {
    client: fetch::Client,
    clock: Clock,
    wait: Arc<Mutex<Option<Duration>>>,
}

impl Http {
    pub(super) fn new(client: fetch::Client, clock: Clock) -> Self {
        Self { client, clock, wait: Arc::default() }
    }

    /// What the last answer asked us to wait, taken away.
    pub(super) fn asked_to_wait(&self) -> Option<Duration> {
        self.wait.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let url: Url = head.uri.to_string().parse().map_err(other)?;
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let request = fetch::Request {
                method: head.method,
                headers: head.headers,
                body,
                max_body: MAX_ANSWER,
                deadline: DEADLINE,
            };
            let answer = this.client.send(&url, request).await.map_err(|error: FetchError| other(error))?;
            let wait = retry_after(&answer.headers, this.clock.now());
            *this.wait.lock().unwrap_or_else(PoisonError::into_inner) = wait;
            let mut response = Response::new(Full::new(answer.body));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok(response.into())
        })
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let when = httpdate::parse_http_date(text).ok()?;
    Some(when.duration_since(now.to_system_time()).unwrap_or_default())
}

/// A chain of certificates is a few kilobytes.
const MAX_ANSWER: usize = 256 << 10;
const DEADLINE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let now = Timestamp::from_unix_seconds(1_445_412_470);
        let asked = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now)
        };

        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:27:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
