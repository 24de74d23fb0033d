//! Header rewriting, between the verdict and the upstream (R11 to R17), and on the way back (`response`).
//!
//! In: a request head and, by value, the [`Permit`] for it. Out: an [`OutboundRequest`], which only this module makes
//! and which is all that the upstream ever sees: canonical path, untouched query, cleaned headers, ours on top.
//! Invariants: whatever a client sends, no header that folds to a managed name survives but ours; what `Connection`
//! lists goes before ours are set; our own cookies and verified tokens stay here. The header map is changed in place,
//! in one pass over its names.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};
use ipnet::IpNet;
use smallvec::SmallVec;

use self::names::Kind;
use crate::{
    authz::Permit,
    client::ClientView,
    id::{RequestId, is_traceparent, new_traceparent},
    identity::{Field, Identity, Via},
    policy::{Access, ClaimPath},
    route::{Route, path::CanonicalPath},
};

mod cookie;
pub mod forwarded;
mod hop;
pub mod identity;
mod names;
pub mod response;

/// `[identity]` and the forwarding part of `[server]`, ready to use.
#[derive(Debug)]
pub struct Settings {
    /// Raised with every change; prepared extra headers carry it (R13).
    pub generation: u64,
    /// The header that carries each field, from the chosen profile.
    pub fields: Box<[(HeaderName, Field)]>,
    /// `extra`: further headers from claims.
    pub extra: Box<[(HeaderName, ClaimPath)]>,
    /// All identity headers together, names and values (R13). Default 4 KiB.
    pub max_bytes: usize,
    /// Peers whose forwarding headers are believed (R15).
    pub trusted_proxies: Box<[IpNet]>,
    /// Whether peers on unix sockets are believed too.
    pub trust_unix_peers: bool,
    /// Which header family the trusted proxies send; the other is deleted.
    pub family: ForwardedFamily,
    /// Whether header names outside `[A-Za-z0-9-]` pass (R12). Default: they are dropped.
    pub keep_odd_names: bool,
    /// Names of cookies of ours, cut out of `Cookie` (R14).
    pub own_cookies: Box<[Box<str>]>,
    /// `identity.subject = "realm:sub"`: the header of [`Field::Id`] carries both, the realm's colons encoded (R5).
    pub subject_with_realm: bool,
}

/// The two ways a proxy tells of its client.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ForwardedFamily {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`.
    #[default]
    XForwarded,
}

/// `identity.headers`: which names carry which field.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Profile {
    /// `Remote-User`, `-Name`, `-Email`, `-Groups`.
    RemoteUser,
    /// `X-Auth-Request-User`, `-Email`, `-Groups`, `-Preferred-Username`.
    XAuthRequest,
    /// `X-Forwarded-User`, `-Email`, `-Groups`, `-Preferred-Username`.
    XForwardedUser,
    /// `X-User-Id`, `-Name`, `-Email`, `-Roles`, `-Groups`, `-Scopes`, `-Auth`.
    #[default]
    XUser,
}

/// A permitted request as the upstream gets it. Only [`rewrite`] makes one.
#[derive(Debug)]
pub struct OutboundRequest {
    parts: OutboundParts,
}

/// What an [`OutboundRequest`] is made of.
#[derive(Debug)]
pub struct OutboundParts {
    /// As the client sent it.
    pub method: Method,
    /// Origin form: canonical path, untouched query.
    pub uri: Uri,
    /// `Host` is the client's authority in canonical form; `upstream` sets another where its `host` says so.
    pub headers: HeaderMap,
    /// Why it may go.
    pub permit: Permit,
    /// `Sec-WebSocket-Key`, if this asks to become a WebSocket and may (R17).
    pub websocket: Option<HeaderValue>,
}

/// Why a permitted request cannot be told to an upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RewriteError {
    /// The identity headers are larger than `identity.max_bytes` (403; R13).
    IdentityTooLarge,
}

/// Makes of a request what its upstream gets.
///
/// # Errors
/// [`RewriteError`]; the request is then refused.
pub fn rewrite(
    mut head: Parts,
    permit: Permit,
    view: &ClientView,
    path: &CanonicalPath,
    request_id: &RequestId,
    settings: &Settings,
) -> Result<OutboundRequest, RewriteError> {
    let caller = permit.identity().map(|identity| &**identity);
    let websocket = rewrite_head(&mut head, permit.route(), caller, view, request_id, settings)?;
    Ok(OutboundRequest {
        parts: OutboundParts {
            method: head.method,
            uri: Uri::from(path.target().clone()),
            headers: head.headers,
            permit,
            websocket,
        },
    })
}

/// Whether a request is the opening handshake of a WebSocket (RFC 6455 section 4.1), whatever its route says to that.
pub fn asks_for_websocket(head: &Parts) -> bool {
    websocket_key(head).is_some()
}

impl OutboundRequest {
    /// The method.
    pub const fn method(&self) -> &Method {
        &self.parts.method
    }

    /// Path and query.
    pub const fn uri(&self) -> &Uri {
        &self.parts.uri
    }

    /// The headers.
    pub const fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Why it may go.
    pub const fn permit(&self) -> &Permit {
        &self.parts.permit
    }

    /// `Sec-WebSocket-Key`, if this asks to become a WebSocket and may.
    pub const fn websocket(&self) -> Option<&HeaderValue> {
        self.parts.websocket.as_ref()
    }

    /// Takes it apart for sending.
    pub fn into_parts(self) -> OutboundParts {
        self.parts
    }
}

impl Profile {
    /// Every header of this profile with the field it carries.
    pub fn fields(self) -> Box<[(HeaderName, Field)]> {
        let fields: &[(&'static str, Field)] = match self {
            Self::RemoteUser => &[
                ("remote-user", Field::Id),
                ("remote-name", Field::Name),
                ("remote-email", Field::Email),
                ("remote-groups", Field::Groups),
            ],
            Self::XAuthRequest => &[
                ("x-auth-request-user", Field::Id),
                ("x-auth-request-email", Field::Email),
                ("x-auth-request-groups", Field::Groups),
                ("x-auth-request-preferred-username", Field::Name),
            ],
            Self::XForwardedUser => &[
                ("x-forwarded-user", Field::Id),
                ("x-forwarded-email", Field::Email),
                ("x-forwarded-groups", Field::Groups),
                ("x-forwarded-preferred-username", Field::Name),
            ],
            Self::XUser => &[
                ("x-user-id", Field::Id),
                ("x-user-name", Field::Name),
                ("x-user-email", Field::Email),
                ("x-user-roles", Field::Roles),
                ("x-user-groups", Field::Groups),
                ("x-user-scopes", Field::Scopes),
                ("x-user-auth", Field::Auth),
            ],
        };
        fields.iter().map(|(name, field)| (HeaderName::from_static(name), *field)).collect()
    }
}

/// Changes the headers in place; the key of a permitted WebSocket comes back.
fn rewrite_head(
    head: &mut Parts,
    route: &Route,
    caller: Option<&Identity>,
    view: &ClientView,
    request_id: &RequestId,
    settings: &Settings,
) -> Result<Option<HeaderValue>, RewriteError> {
    let survey = Survey::of(&head.headers, route, caller, settings);
    let websocket = if survey.upgrade && route.websocket { websocket_key(head) } else { None };
    let headers = &mut head.headers;
    for name in survey.doomed {
        headers.remove(name);
    }
    if survey.cookie {
        cookie::cut(headers, &settings.own_cookies);
    }
    // One growth instead of several.
    headers.reserve(OUR_HEADERS + settings.fields.len() + settings.extra.len());
    forwarded::set(headers, view);
    headers.insert(X_REQUEST_ID, request_id.header().clone());
    set_traceparent(headers, survey.traceparent, survey.tracestate);
    if let Some(caller) = caller {
        identity::set(headers, caller, settings)?;
    }
    if websocket.is_some() {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(websocket)
}

/// What one look at all names has found.
#[derive(Debug, Default)]
struct Survey {
    /// To be removed, before anything is set.
    doomed: SmallVec<[HeaderName; 8]>,
    cookie: bool,
    traceparent: bool,
    tracestate: bool,
    upgrade: bool,
}

impl Survey {
    fn of(headers: &HeaderMap, route: &Route, caller: Option<&Identity>, settings: &Settings) -> Self {
        let mut survey = Self::default();
        let mut connection = false;
        for name in headers.keys() {
            let stays = match names::kind(name, settings) {
                None | Some(Kind::Forwarding | Kind::Hop | Kind::Identity) => false,
                Some(Kind::Authorization) => authorization_passes(&route.access, caller),
                Some(Kind::Connection) => {
                    connection = true;
                    false
                }
                Some(Kind::Cookie) => {
                    survey.cookie = true;
                    true
                }
                Some(Kind::MethodOverride) => route.methods.is_none(),
                Some(Kind::Traceparent) => {
                    survey.traceparent = true;
                    true
                }
                Some(Kind::Tracestate) => {
                    survey.tracestate = true;
                    true
                }
                Some(Kind::Upgrade) => {
                    survey.upgrade = true;
                    false
                }
                Some(Kind::Framing | Kind::Host | Kind::Ordinary | Kind::RequestId) => true,
            };
            if !stays {
                survey.doomed.push(name.clone());
            }
        }
        if connection {
            hop::listed_fields(headers, &mut survey.doomed);
        }
        survey
    }
}

/// R14: a token goes upstream only where the route says so, and on routes that ask for one only if it was verified.
fn authorization_passes(access: &Access, caller: Option<&Identity>) -> bool {
    match access {
        Access::Public { pass_authorization } => *pass_authorization,
        Access::Authenticated(rule) => {
            rule.forward_credential && caller.is_some_and(|caller| matches!(caller.via(), Via::Jwt(_)))
        }
    }
}

/// A client's trace goes on if it is one (W3C Trace Context section 3.2); else ours begins.
fn set_traceparent(headers: &mut HeaderMap, sent: bool, state_sent: bool) {
    if sent {
        let mut values = headers.get_all(TRACEPARENT).iter();
        if values.next().is_some_and(|value| is_traceparent(value.as_bytes())) && values.next().is_none() {
            return;
        }
    }
    if state_sent {
        headers.remove(TRACESTATE);
    }
    headers.insert(TRACEPARENT, new_traceparent());
}

/// The key of an opening handshake (RFC 6455 section 4.1), and nothing else that asks for an upgrade.
fn websocket_key(head: &Parts) -> Option<HeaderValue> {
    let single = |name: &HeaderName| {
        let mut values = head.headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    let has_no_body = !head.headers.contains_key(TRANSFER_ENCODING)
        && head.headers.get(CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0");
    let asks = head.method == Method::GET
        && head.version == Version::HTTP_11
        && has_no_body
        && single(&UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket")
        && hop::connection_lists(&head.headers, "upgrade")
        && single(&SEC_WEBSOCKET_VERSION)?.as_bytes() == b"13";
    let key = single(&SEC_WEBSOCKET_KEY)?;
    let is_key = || {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        key.len() == 24 && STANDARD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16)
    };
    (asks && is_key()).then(|| key.clone())
}

const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Four `X-Forwarded-`, `X-Request-Id`, `traceparent`; others replace one that was there, or are rare.
const OUR_HEADERS: usize = 6;

#[cfg(test)]
mod tests;
