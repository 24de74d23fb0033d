//! What the telemetry listener answers (R36): `/metrics`, `/livez`, `/readyz`, and nothing of users.
//!
//! Pure: a method and a path in, an answer out. Live means that the process can answer at all; ready, that it should
//! be sent requests. Whatever keeps it from being ready is named by a fixed word; details tell people how each part is,
//! whether or not it matters for that.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};

use super::Telemetry;

/// What keeps the gateway from being ready: a set of words, empty when it is.
#[derive(Debug)]
pub struct Readiness {
    reasons: Mutex<BTreeSet<&'static str>>,
    details: Mutex<Vec<Detail>>,
}

/// How one part is, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Detail {
    /// One of the words for what can keep it from being ready.
    pub part: &'static str,
    /// Which of them: of an upstream, an issuer, a certificate.
    pub name: String,
    /// In words.
    pub state: String,
    /// Whether it is as it should be.
    pub good: bool,
}

impl Readiness {
    /// Not ready, because of [`STARTING`].
    pub(super) fn starting() -> Self {
        Self { reasons: Mutex::new(BTreeSet::from([STARTING])), details: Mutex::default() }
    }

    /// Names a reason not to be ready; naming it again changes nothing.
    pub fn block(&self, reason: &'static str) {
        self.reasons().insert(reason);
    }

    /// Takes a reason away.
    pub fn clear(&self, reason: &'static str) {
        self.reasons().remove(reason);
    }

    /// Whether nothing is in the way.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Whether this is in the way.
    pub fn is_blocked_by(&self, reason: &'static str) -> bool {
        self.reasons().contains(reason)
    }

    /// How all parts are, instead of what was told before.
    pub fn tell(&self, details: Vec<Detail>) {
        *self.details.lock().unwrap_or_else(PoisonError::into_inner) = details;
    }

    fn details(&self) -> Vec<Detail> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reasons(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telemetry {
    /// The answer to a request on the telemetry listener. A `HEAD` request gets the answer to `GET`, body included:
    /// the HTTP layer leaves it out.
    pub fn answer(&self, method: &Method, path: &str) -> Response<Bytes> {
        let known = matches!(path, "/livez" | "/metrics" | "/readyz");
        if known && method != Method::GET && method != Method::HEAD {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "method not allowed\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/livez" => respond(StatusCode::OK, PLAIN, "ok\n"),
            "/metrics" => respond(StatusCode::OK, METRICS, self.registry().expose()),
            "/readyz" => {
                let reasons: Vec<&str> = self.readiness().reasons().iter().copied().collect();
                let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                let details = self.readiness().details();
                let lines = details.iter().map(|Detail { part, name, state, good }| {
                    serde_json::json!({ "part": part, "name": name, "state": state, "good": good })
                });
                // A line for each detail, so that people can read it as it is.
                let lines: Vec<String> = lines.map(|line| format!("\n{line}")).collect();
                let (ready, reasons) = (reasons.is_empty(), serde_json::json!(reasons));
                let body = format!("{{\"ready\":{ready},\"reasons\":{reasons},\"details\":[{}]}}\n", lines.join(","));
                respond(status, JSON, body)
            }
            _ => respond(StatusCode::NOT_FOUND, PLAIN, "not found\n"),
        }
    }
}

fn respond(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Not ready: the listeners do not stand yet.
pub const STARTING: &str = "starting";
/// Not ready: `server.state_dir` cannot be written.
pub const STATE: &str = "state";
/// Not ready: no upstream has a server that is in.
pub const UPSTREAMS: &str = "upstreams";
/// Not ready: keys of an issuer were not fetched yet.
pub const KEYS: &str = "keys";
/// Not ready: all certificates are expired.
pub const CERTIFICATES: &str = "certificates";
/// Not ready: the gateway is stopping.
pub const DRAINING: &str = "draining";

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        clock::Timestamp,
        telemetry::{LogSettings, LogSink},
    };

    fn telemetry() -> Arc<Telemetry> {
        let settings = LogSettings { access: LogSink::Off, audit: LogSink::Off, ..LogSettings::default() };
        Telemetry::start(&settings, Timestamp::from_unix_seconds(1)).unwrap()
    }

    fn text(response: Response<Bytes>) -> String {
        String::from_utf8(response.into_body().to_vec()).unwrap()
    }

    #[test]
    fn it_is_ready_when_nothing_is_in_the_way() {
        let telemetry = telemetry();
        let ready = || telemetry.answer(&Method::GET, "/readyz");

        assert_eq!(ready().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(ready()), "{\"ready\":false,\"reasons\":[\"starting\"],\"details\":[]}\n");
        telemetry.readiness().clear(STARTING);
        assert_eq!(ready().status(), StatusCode::OK);
        assert!(telemetry.readiness().is_ready());
        telemetry.readiness().block(DRAINING);
        let detail =
            Detail { part: UPSTREAMS, name: "a".to_owned(), state: "1 of \"2\" servers in".to_owned(), good: false };
        telemetry.readiness().tell(vec![detail.clone(), detail]);
        let told: serde_json::Value = serde_json::from_str(&text(ready())).unwrap();
        assert_eq!(told["reasons"], serde_json::json!(["draining"]));
        assert_eq!(told["details"][1]["state"], "1 of \"2\" servers in");
        assert_eq!(text(ready()).lines().count(), 3);
    }

    #[test]
    fn it_is_live_even_when_not_ready() {
        let response = telemetry().answer(&Method::GET, "/livez");

        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(text(response), "ok\n");
    }

    #[test]
    fn metrics_are_told_in_the_text_format() {
        let response = telemetry().answer(&Method::GET, "/metrics");

        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
        assert!(text(response).contains("\nportcullis_log_lines_dropped_total{log=\"access\"} 0\n"));
    }

    #[test]
    fn nothing_else_is_answered() {
        let telemetry = telemetry();

        for (method, path, status) in [
            (Method::GET, "/", 404),
            (Method::GET, "/metrics/", 404),
            (Method::GET, "/api/v1/sessions", 404),
            (Method::POST, "/metrics", 405),
            (Method::DELETE, "/nothing", 404),
            (Method::HEAD, "/metrics", 200),
        ] {
            assert_eq!(telemetry.answer(&method, path).status(), status, "{method} {path}");
        }
    }
}
