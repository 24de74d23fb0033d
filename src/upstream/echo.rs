//! The built-in upstream: answers what the backend saw, as JSON.
//!
//! It is a real HTTP/1.1 server at the other end of a pipe in memory, so a request reaches it through exactly the
//! pool, head and body that any other upstream gets (R18). The body is read to its end and counted; only its first
//! KiB is shown.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{DuplexStream, duplex};

/// A connection to the echo, which calls itself `upstream`. It lives until the connection is dropped.
pub(super) fn connect(upstream: Arc<str>) -> DuplexStream {
    let (ours, theirs) = duplex(PIPE_BYTES);
    tokio::task::spawn_local(async move {
        let service = service_fn(move |request| answer(Arc::clone(&upstream), request));
        // Only the other end can break it, and that one knows.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(theirs), service).await;
    });
    ours
}

async fn answer(upstream: Arc<str>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let mut size = 0_u64;
    let mut shown = Vec::new();
    let mut complete = true;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            complete = false;
            break;
        };
        if let Some(data) = frame.data_ref() {
            size = size.saturating_add(data.len() as u64);
            let room = SHOWN_BYTES.saturating_sub(shown.len()).min(data.len());
            shown.extend_from_slice(data.get(..room).unwrap_or_default());
        }
    }
    let headers: Vec<Value> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let seen = json!({
        "upstream": &*upstream,
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "headers": headers,
        "body": { "size": size, "complete": complete, "text": String::from_utf8_lossy(&shown) },
    });
    let mut text = format!("{seen:#}");
    text.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// What the pipe holds in each direction.
const PIPE_BYTES: usize = 64 * 1024;
/// How much of a body is shown.
const SHOWN_BYTES: usize = 1024;
