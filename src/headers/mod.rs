//! Header rewriting, between the verdict and the upstream (R11 to R17), and on the way back (`response`).
//!
//! In: a request head and, by value, the [`Permit`] for it. Out: an [`OutboundRequest`], which only this module makes
//! and which is all that the upstream ever sees: canonical path, untouched query, cleaned headers, ours on top.
//! Invariants: whatever a client sends, no header that folds to a managed name survives but ours; what `Connection`
//! lists goes before ours are set; our own cookies and verified tokens stay here. The client's headers are read, never
//! changed: what may pass is copied, in one pass over them, to the [`Lines`] that are sent.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{AUTHORIZATION, COOKIE},
    request::Parts,
    uri::PathAndQuery,
};
use ipnet::IpNet;

use self::names::Kind;
pub use self::{
    buffer::HeadBuffer,
    lines::Lines,
    websocket::{Handshake, asks_for_stream, asks_for_websocket, read_connect},
};
use crate::{
    api_key,
    authz::{Grounds, Permit},
    client::ClientView,
    id::{RequestId, is_traceparent, new_traceparent},
    identity::{Field, Identity},
    mtls::ClientCertificate,
    policy::{Access, ClaimPath},
    route::{Route, path::CanonicalPath},
};

pub mod assertion;
mod buffer;
mod certificate;
mod cookie;
pub mod edit;
pub mod forwarded;
mod hop;
pub mod identity;
mod lines;
mod names;
pub mod prefix;
pub mod response;
pub mod trailers;
mod websocket;

/// `[identity]` and the forwarding part of `[server]`, ready to use.
#[derive(Debug)]
pub struct Settings {
    /// Raised with every change; prepared extra headers carry it (R13).
    pub generation: u64,
    /// The header that carries each field, from the chosen profile.
    pub fields: Box<[(HeaderName, Field)]>,
    /// `extra`: further headers from claims.
    pub extra: Box<[(HeaderName, ClaimPath)]>,
    /// Further headers that are removed on every route: those that API keys and tokens come in besides `Authorization`
    /// (R14), and the assertion's (R12).
    pub removed: Box<[HeaderName]>,
    /// `client_certificate`: what upstreams are told of a client certificate that counted.
    pub client_certificate: ClientCertificates,
    /// `assertion`; `None`: upstreams are sent none.
    pub assertion: Option<assertion::Settings>,
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

/// `identity.client_certificate`: what upstreams are told of a client certificate that an authority vouched for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ClientCertificates {
    /// Nothing.
    #[default]
    None,
    /// `Client-Cert` (RFC 9440 section 2.2).
    Own,
    /// And `Client-Cert-Chain`: what came along with it (section 2.3).
    Chain,
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
pub struct OutboundRequest<'s> {
    parts: OutboundParts<'s>,
}

/// What an [`OutboundRequest`] is made of.
#[derive(Debug)]
pub struct OutboundParts<'s> {
    /// As the client sent it.
    pub method: Method,
    /// Origin form: canonical path, untouched query.
    pub target: PathAndQuery,
    /// The client's authority in canonical form; `upstream` sets another `Host` where its `host` says so.
    pub host: HeaderValue,
    /// All other fields but those that frame the message.
    pub lines: Lines,
    /// Whether the client waits for a `100 Continue` before it sends its body (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
    /// Whether the client takes trailers (`TE: trailers`, RFC 9110 section 10.1.4).
    pub takes_trailers: bool,
    /// Why it may go.
    pub permit: Permit<'s>,
    /// The handshake, if this asks to become a WebSocket and may (R17).
    pub websocket: Option<Handshake>,
}

/// Why a permitted request cannot be told to an upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RewriteError {
    /// The identity headers are larger than `identity.max_bytes` (403; R13).
    IdentityTooLarge,
}

/// A verified token that goes upstream (R14).
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// `Authorization`.
    pub authorization: HeaderValue,
    /// `DPoP`: the proof that came with it, and was good.
    pub proof: Option<HeaderValue>,
}

/// What goes upstream with a request besides what the client sent and the identity's headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proofs<'a> {
    /// The verified token, where the route says so; on routes that authenticate nothing else goes under
    /// `Authorization` (R14).
    pub forwarded: Option<&'a Forwarded>,
    /// What was signed about the caller, if that is sent (R22).
    pub assertion: Option<&'a str>,
    /// The client's certificate, which an authority has vouched for.
    pub certificate: Option<&'a ClientCertificate>,
}

/// Makes of a request what its upstream gets. `path` is what is forwarded: where the route rewrites it, not what was
/// decided on.
///
/// # Errors
/// [`RewriteError`]; the request is then refused.
pub fn rewrite<'s>(
    head: &Parts,
    permit: Permit<'s>,
    proofs: Proofs<'_>,
    view: &ClientView,
    path: &CanonicalPath,
    request_id: &RequestId,
    settings: &Settings,
) -> Result<OutboundRequest<'s>, RewriteError> {
    let caller = permit.identity().map(|identity| Caller { identity, assertion: proofs.assertion });
    let authorization = match permit.grounds() {
        Grounds::Met => Authorization::Verified(proofs.forwarded),
        Grounds::Reported => Authorization::AsSent,
    };
    let rewritten = rewrite_head(head, permit.route(), caller, authorization, view, request_id, settings)?;
    let Rewritten { host, mut lines, expects_continue, takes_trailers, websocket } = rewritten;
    if let Some(certificate) = proofs.certificate {
        certificate::put(&mut lines, certificate, settings.client_certificate);
    }
    Ok(OutboundRequest {
        parts: OutboundParts {
            method: head.method.clone(),
            target: path.target().clone(),
            host,
            lines,
            expects_continue,
            takes_trailers,
            permit,
            websocket,
        },
    })
}

/// Whether a header tells of the caller, the connection or the way of a request, so that it can carry no credential.
pub fn has_meaning(name: &HeaderName) -> bool {
    names::has_meaning(name)
}

impl<'s> OutboundRequest<'s> {
    /// The method.
    pub const fn method(&self) -> &Method {
        &self.parts.method
    }

    /// Path and query.
    pub const fn target(&self) -> &PathAndQuery {
        &self.parts.target
    }

    /// `Host`.
    pub const fn host(&self) -> &HeaderValue {
        &self.parts.host
    }

    /// The other headers.
    pub const fn lines(&self) -> &Lines {
        &self.parts.lines
    }

    /// Why it may go.
    pub const fn permit(&self) -> &Permit<'s> {
        &self.parts.permit
    }

    /// The handshake, if this asks to become a WebSocket and may.
    pub const fn websocket(&self) -> Option<&Handshake> {
        self.parts.websocket.as_ref()
    }

    /// Takes it apart for sending.
    pub fn into_parts(self) -> OutboundParts<'s> {
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

/// Who is calling, and what was signed about that.
#[derive(Clone, Copy, Debug)]
struct Caller<'a> {
    identity: &'a Identity,
    assertion: Option<&'a str>,
}

/// The head as the upstream gets it.
#[derive(Debug)]
struct Rewritten {
    host: HeaderValue,
    lines: Lines,
    expects_continue: bool,
    takes_trailers: bool,
    websocket: Option<Handshake>,
}

fn rewrite_head(
    head: &Parts,
    route: &Route,
    caller: Option<Caller<'_>>,
    authorization: Authorization<'_>,

    view: &ClientView,
    request_id: &RequestId,
    settings: &Settings,
) -> Result<Rewritten, RewriteError> {
    let headers = &head.headers;
    let mut lines = Lines::new();
    let edits = route.request_headers.as_deref();
    let replaced = edits.map_or(&[][..], |edits| &edits.replaced);
    let survey = copy_fit(headers, route, authorization, settings, replaced, &mut lines);
    let survey = if survey.connection {
        let mut listed = hop::listed_fields(headers);
        if listed.is_empty() {
            survey
        } else {
            listed.extend(replaced.iter().cloned());
            lines.clear();
            // `TE` has to be listed (RFC 9110 section 10.1.4).
            let Survey { takes_trailers, .. } = survey;
            Survey { takes_trailers, ..copy_fit(headers, route, authorization, settings, &listed, &mut lines) }
        }
    } else {
        survey
    };
    let websocket = if route.websocket { websocket::handshake(head) } else { None };
    match survey.cookie {
        Cookies::None => {}
        Cookies::One(value) => cookie::put_others([value], &settings.own_cookies, &mut lines),
        Cookies::Several => cookie::put_others(headers.get_all(COOKIE), &settings.own_cookies, &mut lines),
    }
    let host = forwarded::put(&mut lines, view);
    if view.through_trusted_proxy || route.rewrite.is_some() {
        prefix::put(&mut lines, headers, route, view, settings);
    }
    put_names(headers, &survey, request_id, &mut lines);
    for (name, value) in edits.iter().flat_map(|edits| &edits.set) {
        lines.put(name, value);
    }
    if let (Authorization::Verified(Some(verified)), Access::Authenticated(_)) = (authorization, &route.access) {
        lines.put(&AUTHORIZATION, &verified.authorization);
        if let Some(proof) = &verified.proof {
            lines.put(&DPOP, proof);
        }
    }
    if let Some(caller) = caller {
        identity::put(&mut lines, caller.identity, caller.assertion, settings)?;
    }
    let Survey { expects_continue, takes_trailers, .. } = survey;
    Ok(Rewritten { host, lines, expects_continue, takes_trailers, websocket })
}

/// What one look at all fields has found besides those that were copied.
#[derive(Clone, Copy, Debug, Default)]
struct Survey<'h> {
    connection: bool,
    cookie: Cookies<'h>,
    expects_continue: bool,
    takes_trailers: bool,
    traceparent: bool,
    tracestate: bool,
}

/// The `Cookie` fields of a request: nearly always one, which need not be looked for again.
#[derive(Clone, Copy, Debug, Default)]
enum Cookies<'h> {
    #[default]
    None,
    One(&'h HeaderValue),
    Several,
}

/// Copies every field that passes as it is, but for those that are `listed`: by `Connection`, or as what the route
/// replaces.
fn copy_fit<'h>(
    headers: &'h HeaderMap,
    route: &Route,
    authorization: Authorization<'_>,
    settings: &Settings,
    listed: &[HeaderName],
    lines: &mut Lines,
) -> Survey<'h> {
    let mut survey = Survey::default();
    for (name, value) in headers {
        if !listed.is_empty() && listed.iter().any(|listed| names::is_read_as(name, listed)) {
            continue;
        }
        let passes = match names::kind(name, settings) {
            None | Some(Kind::Forwarding | Kind::Framing | Kind::Hop | Kind::Host | Kind::Identity | Kind::Upgrade) => {
                false
            }
            Some(Kind::Authorization) => authorization.passes_as_sent(&route.access) && !holds_our_key(value),
            Some(Kind::Proof) => authorization.passes_as_sent(&route.access),
            Some(Kind::Connection) => {
                survey.connection = true;
                false
            }
            Some(Kind::Cookie) => {
                survey.cookie = match survey.cookie {
                    Cookies::None => Cookies::One(value),
                    Cookies::One(_) | Cookies::Several => Cookies::Several,
                };
                false
            }
            Some(Kind::Expect) => {
                survey.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
                false
            }
            Some(Kind::MethodOverride) => route.methods.is_none(),
            // Ours goes instead: the client's own where it is believed.
            Some(Kind::RequestId | Kind::WebSocketKey) => false,
            Some(Kind::Te) => {
                survey.takes_trailers |= hop::takes_trailers(value);
                false
            }
            Some(Kind::Traceparent) => {
                survey.traceparent = true;
                false
            }
            Some(Kind::Tracestate) => {
                survey.tracestate = true;
                false
            }
            Some(Kind::Ordinary) => true,
        };
        if passes {
            lines.put(name, value);
        }
    }
    survey
}

/// Which `Authorization` goes upstream from a route that authenticates (R14).
#[derive(Clone, Copy, Debug)]
enum Authorization<'a> {
    /// What the client sent, whatever it is.
    AsSent,
    /// What was verified, where the route says so, and nothing else: what a client sends there may be something else.
    Verified(Option<&'a Forwarded>),
}

impl Authorization<'_> {
    /// Whether what a client sends passes. Where nobody is asked the route says so.
    const fn passes_as_sent(self, access: &Access) -> bool {
        match (access, self) {
            (Access::Public { pass_authorization }, _) => *pass_authorization,
            (Access::Authenticated(_), Authorization::AsSent) => true,
            (Access::Authenticated(_), Authorization::Verified(_)) => false,
        }
    }
}

/// A key of ours is for nobody else, also where `Authorization` passes as it was sent.
fn holds_our_key(value: &HeaderValue) -> bool {
    let mut words = value.as_bytes().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    words.any(|word| word.starts_with(api_key::PREFIX.as_bytes()))
}

/// What the request is called, and its trace. A client's trace goes on if it is one (W3C Trace Context section 3.2),
/// with its state; else ours begins.
fn put_names(headers: &HeaderMap, survey: &Survey<'_>, request_id: &RequestId, lines: &mut Lines) {
    let sent = if survey.traceparent { sent_trace(headers) } else { None };
    if let (None, Some(name)) = (sent, request_id.own()) {
        // Nearly always, so both are written at once.
        let mut both = *BOTH_NAMES;
        both[14..46].copy_from_slice(name);
        both[61..116].copy_from_slice(&new_traceparent(request_id));
        lines.put_lines(&both);
        return;
    }
    lines.put(&X_REQUEST_ID, request_id.header());
    match sent {
        Some(trace) => {
            lines.put(&TRACEPARENT, trace);
            if survey.tracestate {
                headers.get_all(TRACESTATE).iter().for_each(|state| lines.put(&TRACESTATE, state));
            }
        }
        None => lines.put_bytes(TRACEPARENT.as_str(), &new_traceparent(request_id)),
    }
}

/// The client's trace, if it is one, and the only one.
fn sent_trace(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    values.next().filter(|value| is_traceparent(value.as_bytes()) && values.next().is_none())
}

/// Both lines, with room for what they say.
const BOTH_NAMES: &[u8; 118] = b"x-request-id: ................................\r\n\
    traceparent: .......................................................\r\n";
const DPOP: HeaderName = HeaderName::from_static("dpop");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[cfg(test)]
mod tests;
