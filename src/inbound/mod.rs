//! One request as it came in, before anything was decided.

mod body;
mod upgrade;

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};

pub use self::{
    body::{Broken, Incoming},
    upgrade::{Grant, Upgrade, Upgraded},
};
use crate::{client::Connection, clock::Timestamp, id::RequestId};

/// A request, its body apart, with what the edge knows of it.
pub struct Inbound {
    /// Method, target, version and headers as they were read.
    pub head: Parts,
    /// The connection it came on.
    pub connection: Arc<Connection>,
    /// Its name in logs.
    pub request_id: RequestId,
    /// Monotonic: when the head was complete.
    pub started: Instant,
    /// Wall time of the decision: every expiry of this request is judged against this one reading.
    pub now: Timestamp,
    /// The tunnel that it asks for, whether or not it may have it.
    pub upgrade: Option<Upgrade>,
    /// What the wire found wrong with this head although hyper accepted it (R18); the request is then refused.
    pub malformed: Option<Malformed>,
}

/// A field that may be there once is there more often.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Doubled;

/// The value of a field that may be there once.
///
/// # Errors
/// [`Doubled`].
pub fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Doubled> {
    // Hardly any head has two fields of one name, whichever.
    if headers.len() == headers.keys_len() {
        return Ok(headers.get(name));
    }
    let mut fields = headers.get_all(name).iter();
    let first = fields.next();
    if fields.next().is_some() { Err(Doubled) } else { Ok(first) }
}

/// Framing that is refused, not repaired (R18).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// A request line that is not `method SP target SP HTTP/1.x`, or a target in a form that is not served.
    RequestLine,
    /// A line end without CR, or a CR without LF.
    BareLineEnd,
    /// A header name with a byte that is no `tchar`, or a blank before the colon.
    HeaderName,
    /// A control byte in a header value.
    HeaderValue,
    /// A header line continued on the next.
    ObsFold,
    /// `Content-Length` beside `Transfer-Encoding`.
    LengthWithCoding,
    /// More than one `Content-Length`, or one that is not plain digits.
    ContentLength,
    /// A transfer coding other than `chunked` alone, or one in HTTP/1.0.
    TransferCoding,
    /// A chunk line that is not hexadecimal digits and an optional extension.
    Chunk,
    /// More bytes of head than `limits.max_header_bytes`.
    HeadTooLarge,
    /// More fields than `limits.max_headers`.
    TooManyHeaders,
}
