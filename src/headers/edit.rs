//! `request_headers` and `response_headers` of a route: fields that are set or removed on the way, beside all that the
//! gateway itself does with headers.
//!
//! In: the names that an operator writes. Out: which of them may be edited, and the answer's fields as edited. Whatever
//! protects is not to be edited: identity (R12), forwarding (R15), framing and hops (R18), credentials (R14), what says
//! where a request comes from (R31). An answer is edited before it is made fit for the client, so R16 holds of the
//! result.

use http::{HeaderMap, HeaderName};

use super::{
    Settings,
    names::{self, Kind},
};
use crate::policy::HeaderEdits;

/// What is done with a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Edit {
    /// No such field goes on.
    Remove,
    /// Exactly one field, with a value that is the same for all.
    Set,
}

/// Why a route may not do this to a field of its requests; `None`: it may.
pub fn refused_of_request(name: &HeaderName, settings: &Settings) -> Option<&'static str> {
    let text = name.as_str();
    if text == "origin" || text.starts_with("sec-") {
        return Some("it tells the upstream where a request comes from, which no route can say for all");
    }
    if settings.fields.iter().any(|(field, _)| field == name) {
        return Some("it carries the caller's identity (R12)");
    }
    match names::kind(name, settings) {
        Some(Kind::Ordinary) if text == "content-encoding" => Some("it says how the body is to be read"),
        Some(Kind::Ordinary) => None,
        None => Some("names outside [A-Za-z0-9-] are read as others by some backends (R12)"),
        Some(Kind::Authorization | Kind::Cookie | Kind::Proof) => {
            Some("it carries credentials: `forward_credential` and `pass_authorization` say what of them goes on (R14)")
        }
        Some(
            Kind::Connection | Kind::Expect | Kind::Framing | Kind::Hop | Kind::Te | Kind::Upgrade | Kind::WebSocketKey,
        ) => Some("it frames the message or concerns one connection (R18)"),
        Some(Kind::Forwarding) => {
            Some("it tells of the client and its way, which the gateway writes afresh and lets nobody else say (R15)")
        }
        Some(Kind::Host) => Some("the upstream's `host` says what goes there"),
        Some(Kind::Identity) => Some("it is managed: it carries who is calling, or could be taken for that (R12)"),
        Some(Kind::MethodOverride) => Some("it is removed on every route with `methods` (R11)"),
        Some(Kind::RequestId | Kind::Traceparent | Kind::Tracestate) => {
            Some("it follows one request through the logs, and is the gateway's")
        }
    }
}

/// Why a route may not do this to a field of its upstream's answers; `None`: it may.
pub fn refused_of_answer(name: &HeaderName, edit: Edit) -> Option<&'static str> {
    match (name.as_str(), edit) {
        (
            "connection"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade",
            _,
        ) => Some("it frames the message or concerns one connection (R18)"),
        (name, _) if name.starts_with("sec-websocket-") => Some("it belongs to a WebSocket's handshake (R17)"),
        ("date" | "dpop-nonce" | "x-request-id", _) => Some("the gateway says it in every answer"),
        ("strict-transport-security", _) => Some("`server.hsts` says it for all"),
        ("set-cookie", Edit::Set) => {
            Some("a cookie that is the same for all tells nobody apart; it can be removed only")
        }
        ("cache-control", Edit::Remove) => {
            Some("without it caches decide for themselves; set another value, within R16")
        }
        ("clear-site-data" | "service-worker-allowed", Edit::Set) => {
            Some("it has power over our cookies and pages (R16); it can be removed only")
        }
        (name, Edit::Set) if name.starts_with("access-control-") => {
            Some("`cors` of the route says who may read its answers (R32)")
        }
        (name, Edit::Set) if name.starts_with("ratelimit") => Some("`rate_limit` of the route says it"),
        (_, Edit::Remove | Edit::Set) => None,
    }
}

/// Whether browsers are less protected where an upstream's answer loses this field.
pub fn protects_browsers(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-security-policy"
            | "cross-origin-opener-policy"
            | "cross-origin-resource-policy"
            | "permissions-policy"
            | "referrer-policy"
            | "x-content-type-options"
            | "x-frame-options"
    )
}

/// Edits an upstream's answer.
pub(super) fn apply(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for name in &edits.replaced {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.insert(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::settings;

    fn name(text: &str) -> HeaderName {
        text.parse().unwrap()
    }

    #[test]
    fn a_request_keeps_what_protects_the_upstream() {
        let mut settings = settings();
        settings.extra = Box::new([(name("x-department"), crate::policy::ClaimPath::dotted("department"))]);
        settings.removed = Box::new([name("x-api-key")]);
        for refused in [
            "x-user-id",
            "x-user-anything",
            "remote-user",
            "x-auth-request-user",
            "x-department",
            "x-api-key",
            "x-forwarded-for",
            "x-forwarded-prefix",
            "forwarded",
            "x-real-ip",
            "x-original-url",
            "authorization",
            "cookie",
            "dpop",
            "host",
            "connection",
            "content-length",
            "transfer-encoding",
            "te",
            "upgrade",
            "expect",
            "http2-settings",
            "x-http-method-override",
            "x-request-id",
            "traceparent",
            "origin",
            "sec-fetch-site",
            "sec-websocket-key",
            "x_env",
            "proxy",
        ] {
            assert!(refused_of_request(&name(refused), &settings).is_some(), "{refused}");
        }
        for allowed in ["x-env", "accept-encoding", "user-agent", "referer", "range", "x-department-name"] {
            assert_eq!(refused_of_request(&name(allowed), &settings), None, "{allowed}");
        }
    }

    #[test]
    fn an_answer_keeps_what_is_the_gateways() {
        for (text, remove, set) in [
            ("transfer-encoding", false, false),
            ("content-length", false, false),
            ("connection", false, false),
            ("sec-websocket-accept", false, false),
            ("strict-transport-security", false, false),
            ("x-request-id", false, false),
            ("set-cookie", true, false),
            ("cache-control", false, true),
            ("clear-site-data", true, false),
            ("access-control-allow-origin", true, false),
            ("server", true, true),
            ("x-frame-options", true, true),
        ] {
            assert_eq!(refused_of_answer(&name(text), Edit::Remove).is_none(), remove, "{text}");
            assert_eq!(refused_of_answer(&name(text), Edit::Set).is_none(), set, "{text}");
        }
    }
}
