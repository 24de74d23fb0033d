//! Heads in HTTP/2: a request's, written afresh, and what an answer's says of its body (RFC 9113 section 8).
//!
//! In: an [`Outgoing`] request, or a head that `h2` has read. Out: the fields as they are sent, or an answer's head
//! that is as strictly judged as one over HTTP/1.1 (R16): what frames a message says so once, or it is none.

use h2::ext::Protocol;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, EXPECT, TE},
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::upstream::{
    Outgoing, UpstreamError,
    answer::{self, Length},
    client_body::RequestBody,
};

/// The head of `request` for a server that is called `host`.
///
/// # Errors
/// If there is no such server: a host that is no authority.
pub(super) fn request(
    request: &Outgoing,
    host: &HeaderValue,
    encrypted: bool,
    body: Option<&RequestBody>,
) -> Result<Request<()>, UpstreamError> {
    let mut head = bare(request.method.clone(), request.target.clone(), host, encrypted)?;
    let mut headers = request.lines.to_map();
    if request.websocket.is_some() {
        // RFC 8441 section 4.
        *head.method_mut() = Method::CONNECT;
        head.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    match body.map(RequestBody::exact_length) {
        Some(Some(length)) => drop(headers.insert(CONTENT_LENGTH, length.into())),
        Some(None) => {}
        None if answer::takes_content(&request.method) => drop(headers.insert(CONTENT_LENGTH, 0.into())),
        None => {}
    }
    if request.expects_continue && body.is_some() {
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
    if request.takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // What is one caller's does not belong into a table that all callers' requests share (RFC 7541 section 7.1.3).
    for (name, value) in &mut headers {
        value.set_sensitive(name == AUTHORIZATION || name == COOKIE || value.len() > SHARED_BYTES_MAX);
    }
    *head.headers_mut() = headers;
    Ok(head)
}

/// A head without fields, for a server that is called `host`.
///
/// # Errors
/// If there is no such server: a host that is no authority.
pub(in crate::upstream) fn bare(
    method: Method,
    target: PathAndQuery,
    host: &HeaderValue,
    encrypted: bool,
) -> Result<Request<()>, UpstreamError> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if encrypted { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| UpstreamError::Unreachable("bad_name"))?);
    parts.path_and_query = Some(target);
    let mut head = Request::new(());
    *head.method_mut() = method;
    *head.version_mut() = Version::HTTP_2;
    *head.uri_mut() = Uri::from_parts(parts).map_err(|_| UpstreamError::Unreachable("bad_name"))?;
    Ok(head)
}

/// Judges the head of a final answer; `ended`: nothing follows it.
///
/// # Errors
/// [`UpstreamError::Invalid`].
pub(super) fn answer(
    head: Response<()>,
    method: &Method,
    ended: bool,
) -> Result<(Response<()>, Length), UpstreamError> {
    let (mut parts, ()) = head.into_parts();
    let status = parts.status;
    if status.is_informational() {
        return Err(UpstreamError::Invalid("unasked_101"));
    }
    let length = answer::length_of(&parts.headers, status, *method == Method::HEAD)?;
    if status == StatusCode::NO_CONTENT {
        parts.headers.remove(CONTENT_LENGTH);
    }
    // To whom it goes is another question than how it came.
    parts.version = Version::HTTP_11;
    Ok((Response::from_parts(parts, ()), if ended { Length::None } else { length }))
}

/// Longer values are tokens and the like: of one caller, and larger than the table has room for.
const SHARED_BYTES_MAX: usize = 128;
