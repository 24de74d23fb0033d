//! `server.redirect_http`: plain HTTP is told to come back encrypted, for hosts we know, and nothing else.
//!
//! 308 keeps method and body. The answer reflects the canonical host and the request target, which the wire and
//! `http::Uri` have checked, and never anything of an unknown host (R10: 421). While an authority looks for the proof
//! that a host is ours, it finds it here (RFC 8555 section 8.3).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::{
    acme::Challenges,
    edge::Handler,
    hints::Hints,
    host::{Authority, Host},
    inbound::{Inbound, Incoming},
};

/// The redirecting handler.
#[derive(Clone)]
pub struct Redirect {
    known: Arc<dyn Fn(&Host) -> bool + Send + Sync>,
    https_port: u16,
    challenges: Arc<Challenges>,
}

impl Redirect {
    /// Redirects to `https_port` of the host asked for, if `known` says it is ours.
    pub fn new(known: Arc<dyn Fn(&Host) -> bool + Send + Sync>, https_port: u16) -> Self {
        Self { known, https_port, challenges: Arc::default() }
    }

    /// Shows these proofs.
    #[must_use]
    pub fn proving(self, challenges: Arc<Challenges>) -> Self {
        Self { challenges, ..self }
    }

    fn location(&self, inbound: &Inbound) -> Result<HeaderValue, StatusCode> {
        if inbound.malformed.is_some() {
            return Err(StatusCode::BAD_REQUEST);
        }
        let host = self.known_host(inbound)?;
        let target = inbound.head.uri.path_and_query().map_or("/", |target| target.as_str());
        // `OPTIONS *` has no place to come back to.
        if !target.starts_with('/') {
            return Err(StatusCode::BAD_REQUEST);
        }
        let location = match self.https_port {
            443 => format!("https://{host}{target}"),
            port => format!("https://{host}:{port}{target}"),
        };
        HeaderValue::try_from(location).map_err(|_| StatusCode::BAD_REQUEST)
    }

    fn known_host(&self, inbound: &Inbound) -> Result<Host, StatusCode> {
        let mut written = inbound.head.headers.get_all(header::HOST).iter();
        let (Some(host), None) = (written.next(), written.next()) else {
            return Err(StatusCode::BAD_REQUEST);
        };
        let parse = |text: &str| text.parse::<Authority>().map_err(|_| StatusCode::BAD_REQUEST);
        let authority = parse(host.to_str().map_err(|_| StatusCode::BAD_REQUEST)?)?;
        if let Some(other) = inbound.head.uri.authority()
            && parse(other.as_str())? != authority
        {
            return Err(StatusCode::BAD_REQUEST);
        }
        if (self.known)(&authority.host) { Ok(authority.host) } else { Err(StatusCode::MISDIRECTED_REQUEST) }
    }
}

impl Handler for Redirect {
    type Body = Full<Bytes>;

    async fn handle(&self, inbound: &mut Inbound, _: Incoming, _: Hints<'_>) -> Response<Self::Body> {
        if let Some(text) = self.challenges.file(inbound) {
            return proof(text);
        }
        let mut response = Response::new(Full::default());
        match self.location(inbound) {
            Ok(location) => {
                *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
                response.headers_mut().insert(header::LOCATION, location);
            }
            Err(status) => *response.status_mut() = status,
        }
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// The answer to an authority that looks for a proof (RFC 8555 section 8.3).
fn proof(text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
