//! What became of one request: told step by step on its way, written once when it is dropped.
//!
//! An [`Outcome`] is made with the request and moved into the body of its answer ([`Metered`]) or into a tunnel's
//! task. hyper drops all of them when a client leaves, so the log line and the metrics are written in `Drop`: also
//! for requests that end nowhere. Without an access log nothing is kept but what the counters need.

use std::{
    cell::Cell,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, StatusCode, Uri, Version, uri::PathAndQuery};
use http_body::{Body, Frame, SizeHint};

use super::{
    QueryLog, WorkerTelemetry,
    line::Line,
    metrics::{RouteCounters, Series},
};
use crate::{
    clock::{self, Timestamp},
    host::Authority,
};

/// What was decided about a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// It was let through.
    Allow,
    /// It was refused, and the fault is the client's.
    Deny,
    /// Nothing was decided: we failed, or the client left before.
    Error,
    /// It would have been refused, and was let through by a route that only reports yet.
    Reported,
}

impl Decision {
    /// The word in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
            Self::Reported => "reported",
        }
    }
}

/// What is known of a request when its head is read.
#[derive(Clone, Copy, Debug)]
pub struct Began<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target as sent.
    pub uri: &'a Uri,
    /// The protocol it came with.
    pub version: Version,
    /// Its id.
    pub request_id: &'a HeaderValue,
    /// Monotonic: when the head was complete.
    pub started: Instant,
    /// The same moment's wall time.
    pub now: Timestamp,
    /// The snapshot that decides.
    pub generation: u64,
    /// What of its query is logged.
    pub query: QueryLog,
}

/// The drop guard of one request.
#[derive(Debug)]
pub struct Outcome {
    worker: Rc<WorkerTelemetry>,
    started: Instant,
    route: Option<Rc<Series<RouteCounters>>>,
    reason: Option<&'static str>,
    /// Why it would have been refused.
    reported: Option<&'static str>,
    decision: Decision,
    status: Option<StatusCode>,
    /// Whether an answer to this request has a body at all (RFC 9110 section 9.3.2).
    head_only: bool,
    finished: bool,
    /// Whether it became a tunnel.
    tunnels: bool,
    bytes_in: u64,
    bytes_out: u64,
    /// Counts request bytes while the body is elsewhere.
    meter: Option<Rc<Cell<u64>>>,
    /// For the access log; `None` where this request is not logged.
    facts: Option<Box<Facts>>,
}

/// What only the access log needs.
#[derive(Debug)]
struct Facts {
    now: Timestamp,
    request_id: HeaderValue,
    method: Method,
    target: Option<PathAndQuery>,
    protocol: &'static str,
    generation: u64,
    query: QueryLog,
    client: Option<IpAddr>,
    said_by: Option<IpAddr>,
    scheme: Option<&'static str>,
    authority: Option<Authority>,
    via: Option<&'static str>,
    realm: Option<Arc<str>>,
    certificate: Option<[u8; 8]>,
    subject: Option<HeaderValue>,
    upstream: Option<(Arc<str>, Duration)>,
    detail: Option<&'static str>,
    /// More than one.
    attempts: Option<u32>,
}

impl Outcome {
    /// Begins to count and to note one request.
    pub fn begin(worker: &Rc<WorkerTelemetry>, began: Began<'_>) -> Self {
        worker.metrics.request_began();
        let facts = worker.log.is_on().then(|| {
            Box::new(Facts {
                now: began.now,
                request_id: began.request_id.clone(),
                method: began.method.clone(),
                target: began.uri.path_and_query().cloned(),
                protocol: protocol(began.version),
                generation: began.generation,
                query: began.query,
                client: None,
                said_by: None,
                scheme: None,
                authority: None,
                via: None,
                realm: None,
                certificate: None,
                subject: None,
                upstream: None,
                detail: None,
                attempts: None,
            })
        });
        Self {
            worker: Rc::clone(worker),
            started: began.started,
            route: None,
            reason: None,
            reported: None,
            decision: Decision::Error,
            status: None,
            head_only: *began.method == Method::HEAD,
            finished: false,
            tunnels: false,
            bytes_in: 0,
            bytes_out: 0,
            meter: None,
            facts,
        }
    }

    /// Who asks, and for which host: the one view of the client (R15).
    pub fn client(&mut self, address: IpAddr, scheme: &'static str, authority: &Authority) {
        if let Some(facts) = &mut self.facts {
            facts.client = Some(address);
            facts.scheme = Some(scheme);
            facts.authority = Some(authority.clone());
        }
    }

    /// The route that was found, by its index in the snapshot and its name.
    pub fn route(&mut self, index: usize, name: &Arc<str>) {
        self.route = Some(self.worker.metrics.route(index, name));
    }

    /// Who the caller is: how it was proved (`jwt`, `session`), where the subject means something, and the prepared
    /// header value of the subject, which is asked for only where it is logged.
    pub fn identity(&mut self, via: &'static str, realm: &Arc<str>, subject: impl FnOnce() -> Option<HeaderValue>) {
        if let Some(facts) = &mut self.facts {
            facts.via = Some(via);
            facts.realm = Some(Arc::clone(realm));
            facts.subject = subject();
        }
    }

    /// The load balancer that has said who the client's peer is (PROXY protocol).
    pub const fn said_by(&mut self, address: IpAddr) {
        if let Some(facts) = &mut self.facts {
            facts.said_by = Some(address);
        }
    }

    /// The beginning of the SHA-256 of the client's certificate, whatever that is worth.
    pub const fn certificate(&mut self, fingerprint: [u8; 8]) {
        if let Some(facts) = &mut self.facts {
            facts.certificate = Some(fingerprint);
        }
    }

    /// The verdict was *allow*.
    pub const fn allowed(&mut self) {
        self.decision = Decision::Allow;
    }

    /// The verdict was not *allow*, and its route only reports yet.
    pub const fn reported(&mut self, reason: &'static str) {
        self.decision = Decision::Reported;
        self.reported = Some(reason);
    }

    /// An answer of our own that is no success. A refusal after the verdict *allow* (an upstream that fails) leaves
    /// the decision as it is; before it, the fault is the client's below status 500.
    pub const fn refused(&mut self, reason: &'static str, status: StatusCode) {
        self.reason = Some(reason);
        self.status = Some(status);
        self.decision = match self.decision {
            Decision::Allow => Decision::Allow,
            Decision::Reported => Decision::Reported,
            Decision::Deny | Decision::Error if status.as_u16() < 500 => Decision::Deny,
            Decision::Deny | Decision::Error => Decision::Error,
        };
    }

    /// More precisely than the reason, which metrics count: for the log alone.
    pub fn detail(&mut self, detail: &'static str) {
        if let Some(facts) = &mut self.facts {
            facts.detail = Some(detail);
        }
    }

    /// How often it was sent to an upstream: told where it is more than once.
    pub const fn attempts(&mut self, attempts: u32) {
        if attempts > 1
            && let Some(facts) = &mut self.facts
        {
            facts.attempts = Some(attempts);
        }
    }

    /// The answer that was begun is broken off by us.
    pub const fn cut(&mut self, reason: &'static str) {
        self.reason = Some(reason);
    }

    /// The answer's status.
    pub const fn status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// An upstream answered: its index in the snapshot, its name, and the time to the head of its answer.
    pub fn upstream(&mut self, index: usize, name: &Arc<str>, elapsed: Duration) {
        self.worker.metrics.upstream_answered(index, name, elapsed);
        if let Some(facts) = &mut self.facts {
            facts.upstream = Some((Arc::clone(name), elapsed));
        }
    }

    /// The time since the request's head was complete.
    pub fn elapsed(&self) -> Duration {
        clock::instant().saturating_duration_since(self.started)
    }

    /// What the connection or stream turned into, instead of the HTTP version: `websocket`.
    pub fn tunnel(&mut self, protocol: &'static str) {
        self.tunnels = true;
        if let Some(facts) = &mut self.facts {
            facts.protocol = protocol;
        }
    }

    /// Adds to the bytes of body read from the client.
    pub const fn add_bytes_in(&mut self, bytes: u64) {
        self.bytes_in = self.bytes_in.saturating_add(bytes);
    }

    /// Adds to the bytes of body given to the client.
    pub const fn add_bytes_out(&mut self, bytes: u64) {
        self.bytes_out = self.bytes_out.saturating_add(bytes);
    }

    /// A cell that counts bytes of request body while the body is on its way without this outcome; it is read when
    /// the outcome is dropped.
    pub fn bytes_in_meter(&mut self) -> Rc<Cell<u64>> {
        Rc::clone(self.meter.get_or_insert_default())
    }

    /// The answer, or the tunnel, came to its proper end. Without this the line says `aborted`.
    pub const fn finished(&mut self) {
        self.finished = true;
    }

    /// Keeps this request out of the access log: a load balancer's probe. It is still counted.
    pub fn unlogged(&mut self) {
        self.facts = None;
    }

    /// Whether an answer with this status has no body to wait for (RFC 9112 section 6.3).
    fn is_bodiless(&self) -> bool {
        self.head_only || matches!(self.status, Some(StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED))
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let elapsed = self.elapsed();
        if let Some(meter) = &self.meter {
            self.bytes_in = self.bytes_in.saturating_add(meter.get());
        }
        let metrics = &self.worker.metrics;
        metrics.request_ended();
        let route = self.route.take().unwrap_or_else(|| metrics.unrouted());
        // A tunnel lives for hours; its duration would say nothing about requests.
        let observed = (!self.tunnels).then_some(elapsed);
        route.record(self.status, self.decision, observed);
        if self.bytes_in != 0 || self.bytes_out != 0 {
            route.record_bytes(self.bytes_in, self.bytes_out);
        }
        if let Some(reason) = self.reason {
            metrics.refused(reason);
        }
        if let Some(reason) = self.reported {
            metrics.reported(reason);
        }
        if let Some(facts) = self.facts.take() {
            let name = self.route_name(&route);
            self.worker.log.write(facts.now, |line| self.fill(line, &facts, name, elapsed));
        }
    }
}

impl Outcome {
    fn route_name<'a>(&self, route: &'a Series<RouteCounters>) -> Option<&'a str> {
        let unrouted = self.worker.metrics.unrouted();
        (!Arc::ptr_eq(&route.name, &unrouted.name)).then_some(&*route.name)
    }

    fn fill(&self, line: &mut Line<'_>, facts: &Facts, route: Option<&str>, elapsed: Duration) {
        line.text("request_id", facts.request_id.as_bytes());
        if let Some(client) = &facts.client {
            line.display("client", client);
        }
        if let Some(balancer) = &facts.said_by {
            line.display("said_by", balancer);
        }
        if let Some(scheme) = facts.scheme {
            line.plain("scheme", scheme);
        }
        if let Some(authority) = &facts.authority {
            line.display("host", authority);
        }
        line.text("method", facts.method.as_str().as_bytes());
        if let Some(target) = &facts.target {
            line.text("path", target.path().as_bytes());
            if let Some(query) = target.query() {
                log_query(line, query, facts.query);
            }
        }
        if let Some(route) = route {
            line.text("route", route.as_bytes());
        }
        line.plain("decision", self.decision.label());
        // Where both are there, what went wrong after all counts for less than what the report is for.
        if let Some(reason) = self.reported.or(self.reason) {
            line.text("reason", reason.as_bytes());
        }
        if let Some(detail) = facts.detail {
            line.plain("detail", detail);
        }
        if let Some(via) = facts.via {
            line.plain("via", via);
        }
        if let Some(fingerprint) = facts.certificate {
            line.display("certificate", &format_args!("{:016x}", u64::from_be_bytes(fingerprint)));
        }
        if let Some(realm) = &facts.realm {
            line.text("realm", realm.as_bytes());
        }
        if let Some(subject) = &facts.subject {
            line.text("subject", subject.as_bytes());
        }
        line.number("status", self.status.map_or(CLIENT_GONE, |status| u64::from(status.as_u16())));
        if let Some((upstream, elapsed)) = &facts.upstream {
            line.text("upstream", upstream.as_bytes());
            line.millis("upstream_ms", *elapsed);
        }
        if let Some(attempts) = facts.attempts {
            line.number("attempts", attempts.into());
        }
        line.millis("duration_ms", elapsed);
        line.number("bytes_in", self.bytes_in);
        line.number("bytes_out", self.bytes_out);
        line.plain("protocol", facts.protocol);
        line.flag("aborted", !self.finished);
        line.number("generation", facts.generation);
    }
}

/// The body of an answer together with the outcome of its request: counts the bytes, knows a proper end from a cut,
/// and drops the outcome with the body.
///
/// Whole cache lines: allocators have blocks of 256 bytes at hand, and look for one of 224 each time.
#[derive(Debug)]
#[repr(align(64))]
pub struct Metered<B> {
    body: B,
    outcome: Outcome,
    /// Bytes still to come where the length is known. hyper does not ask a body for its end after the last of them.
    left: Option<u64>,
}

impl<B: Body> Metered<B> {
    /// Of a request whose answer is not there yet; `placeholder` stands where its body will.
    pub const fn awaited(placeholder: B, outcome: Outcome) -> Self {
        Self { body: placeholder, outcome, left: None }
    }

    /// The answer is there, and its body is this one. The outcome must know its status by now.
    pub fn begin(&mut self, body: B) {
        self.body = body;
        self.left = self.body.size_hint().exact();
        if self.left == Some(0) || self.body.is_end_stream() || self.outcome.is_bodiless() {
            self.outcome.finished();
        }
    }

    /// What is known of its request.
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// What is known of its request.
    pub const fn outcome_mut(&mut self) -> &mut Outcome {
        &mut self.outcome
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Metered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let bytes = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
                    this.outcome.add_bytes_out(bytes);
                    this.left = this.left.map(|left| left.saturating_sub(bytes));
                }
                if this.left == Some(0) || this.body.is_end_stream() {
                    this.outcome.finished();
                }
            }
            Some(Err(_)) => this.outcome.finished = false,
            None => this.outcome.finished(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Logs what the settings let through of a query (R34).
fn log_query(line: &mut Line<'_>, query: &str, keep: QueryLog) {
    match keep {
        QueryLog::Keep => line.text("query", query.as_bytes()),
        QueryLog::Names => {
            let mut names = String::new();
            for (name, _) in query.split('&').filter_map(|pair| pair.split_once('=')) {
                if !names.is_empty() {
                    names.push('&');
                }
                names.push_str(name);
            }
            if !names.is_empty() {
                line.text("query", names.as_bytes());
            }
        }
        QueryLog::Omit => {}
    }
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        // hyper serves no other.
        _ => "other",
    }
}

/// The status logged where the client left before there was one, as nginx does.
const CLIENT_GONE: u64 = 499;

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, path::Path};

    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::telemetry::{LogFormat, LogSettings, LogSink, Telemetry};

    const NOW: Timestamp = Timestamp::from_unix_millis(1_893_499_200_123);

    struct Bench {
        folder: tempfile::TempDir,
        telemetry: Arc<Telemetry>,
        worker: Rc<WorkerTelemetry>,
    }

    impl Bench {
        fn new(format: LogFormat) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let access = LogSink::File(folder.path().join("access"));
            let settings = LogSettings { format, access, audit: LogSink::Off, ..LogSettings::default() };
            let telemetry = Telemetry::start(&settings, NOW).unwrap();
            let worker = telemetry.worker();
            Self { folder, telemetry, worker }
        }

        fn begin(&self, method: Method, uri: &str, query: QueryLog) -> Outcome {
            let began = Began {
                method: &method,
                uri: &uri.parse().unwrap(),
                version: Version::HTTP_11,
                request_id: &HeaderValue::from_static("0123abcd"),
                started: clock::instant(),
                now: NOW,
                generation: 7,
                query,
            };
            Outcome::begin(&self.worker, began)
        }

        /// The text of the log after everything ended.
        fn log(self) -> String {
            drop(self.worker);
            assert!(self.telemetry.finish(Duration::from_secs(10)));
            read(self.folder.path())
        }

        /// The only line.
        fn line(self) -> serde_json::Value {
            serde_json::from_str(&self.log()).unwrap()
        }
    }

    fn read(folder: &Path) -> String {
        std::fs::read_to_string(folder.join("access")).unwrap()
    }

    #[test]
    fn an_allowed_request_is_told_in_full() {
        let bench = Bench::new(LogFormat::Json);
        let mut outcome = bench.begin(Method::GET, "/admin/users?token=s3cret", QueryLog::Omit);

        outcome.client("192.0.2.7".parse().unwrap(), "https", &"intranet.example.com:8443".parse().unwrap());
        outcome.route(3, &Arc::from("admin-panel"));
        outcome.identity("session", &Arc::from("staff"), || Some(HeaderValue::from_static("al%20ice")));
        outcome.allowed();
        outcome.upstream(0, &Arc::from("legacy"), Duration::from_micros(1_500));
        outcome.status(StatusCode::OK);
        outcome.add_bytes_in(12);
        outcome.bytes_in_meter().set(30);
        outcome.add_bytes_out(95);
        outcome.finished();
        drop(outcome);

        let metrics = bench.telemetry.registry().expose();
        let line = bench.line();
        let duration = line["duration_ms"].as_f64().unwrap();
        let mut expect = serde_json::json!({
            "time": "2030-01-01T12:00:00.123Z", "request_id": "0123abcd", "client": "192.0.2.7", "scheme": "https",
            "host": "intranet.example.com:8443", "method": "GET", "path": "/admin/users", "route": "admin-panel",
            "decision": "allow", "via": "session", "realm": "staff", "subject": "al%20ice", "status": 200,
            "upstream": "legacy", "upstream_ms": 1.5, "bytes_in": 42, "bytes_out": 95, "protocol": "HTTP/1.1",
            "aborted": false, "generation": 7,
        });
        expect["duration_ms"] = duration.into();
        assert_eq!(line, expect);
        let counted = "portcullis_requests_total{route=\"admin-panel\",code=\"200\",decision=\"allow\"} 1\n";
        assert!(metrics.contains(counted), "{metrics}");
    }

    #[test]
    fn a_refused_request_says_why() {
        let bench = Bench::new(LogFormat::Text);
        let mut outcome = bench.begin(Method::POST, "/admin/%22x", QueryLog::Omit);

        outcome.refused("cross_site", StatusCode::FORBIDDEN);
        outcome.finished();
        drop(outcome);

        let metrics = bench.telemetry.registry().expose();
        assert!(metrics.contains("portcullis_refusals_total{reason=\"cross_site\"} 1\n"), "{metrics}");
        assert!(metrics.contains("{route=\"-\",code=\"403\",decision=\"deny\"} 1\n"), "{metrics}");
        assert!(metrics.contains("portcullis_requests_in_flight 0\n"), "{metrics}");
        let line = bench.log();
        assert!(line.starts_with("time=2030-01-01T12:00:00.123Z request_id=0123abcd method=POST path=/admin/%22x "));
        assert!(line.contains(" decision=deny reason=cross_site status=403 "), "{line}");
    }

    #[test]
    fn who_is_at_fault_follows_from_the_verdict_and_the_status() {
        let bench = Bench::new(LogFormat::Json);
        for (allowed, status, expect) in [
            (false, StatusCode::UNAUTHORIZED, Decision::Deny),
            (false, StatusCode::SERVICE_UNAVAILABLE, Decision::Error),
            (true, StatusCode::BAD_GATEWAY, Decision::Allow),
            (true, StatusCode::PAYLOAD_TOO_LARGE, Decision::Allow),
        ] {
            let mut outcome = bench.begin(Method::GET, "/", QueryLog::Omit);
            if allowed {
                outcome.allowed();
            }
            outcome.refused("reason", status);
            assert_eq!(outcome.decision, expect, "{allowed} {status}");
        }
    }

    #[test]
    fn a_client_that_left_before_the_answer_is_told_as_499() {
        let bench = Bench::new(LogFormat::Json);

        drop(bench.begin(Method::GET, "/", QueryLog::Omit));

        let line = bench.line();
        assert_eq!(line["status"], 499);
        assert_eq!(line["aborted"], true);
        assert_eq!(line["decision"], "error");
    }

    #[test]
    fn only_what_the_settings_say_is_kept_of_a_query() {
        let target = "/reset?user=bob&token=s3cret&TOPSECRET";
        for (keep, expect) in [
            (QueryLog::Omit, serde_json::Value::Null),
            (QueryLog::Names, "user&token".into()),
            (QueryLog::Keep, "user=bob&token=s3cret&TOPSECRET".into()),
        ] {
            let bench = Bench::new(LogFormat::Json);
            drop(bench.begin(Method::GET, target, keep));
            assert_eq!(bench.line()["query"], expect, "{keep:?}");
        }
    }

    #[test]
    fn a_probe_is_counted_but_not_logged() {
        let bench = Bench::new(LogFormat::Json);
        let mut outcome = bench.begin(Method::GET, "/_auth/livez", QueryLog::Omit);

        outcome.status(StatusCode::OK);
        outcome.unlogged();
        drop(outcome);

        let metrics = bench.telemetry.registry().expose();
        assert!(metrics.contains("portcullis_requests_total{route=\"-\",code=\"200\""), "{metrics}");
        assert_eq!(bench.log(), "");
    }

    #[test]
    fn without_an_access_log_nothing_is_kept_for_it() {
        let settings = LogSettings { access: LogSink::Off, audit: LogSink::Off, ..LogSettings::default() };
        let telemetry = Telemetry::start(&settings, NOW).unwrap();
        let worker = telemetry.worker();
        let folder = tempfile::tempdir().unwrap();
        let bench = Bench { folder, telemetry, worker };
        let mut outcome = bench.begin(Method::GET, "/", QueryLog::Keep);

        outcome.identity("jwt", &Arc::from("staff"), || unreachable!("nobody asked for the subject"));

        assert!(outcome.facts.is_none());
    }

    #[tokio::test]
    async fn the_body_carries_the_outcome_to_its_end() {
        let bench = Bench::new(LogFormat::Json);
        let mut outcome = bench.begin(Method::GET, "/", QueryLog::Omit);
        outcome.status(StatusCode::OK);

        let mut body = metered(Full::default(), Full::new(Bytes::from_static(b"hello")), outcome);
        assert_eq!(body.size_hint().exact(), Some(5));
        // hyper knows the length and does not ask again after the last byte.
        body.frame().await.unwrap().unwrap();
        drop(body);

        let line = bench.line();
        assert_eq!(line["bytes_out"], 5);
        assert_eq!(line["aborted"], false);
    }

    #[tokio::test]
    async fn a_body_that_is_cut_is_told_as_aborted() {
        let bench = Bench::new(LogFormat::Json);
        let mut outcome = bench.begin(Method::GET, "/", QueryLog::Omit);
        outcome.status(StatusCode::OK);

        let mut body = metered(Endless, Endless, outcome);
        body.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap();
        drop(body);

        let line = bench.line();
        assert_eq!(line["bytes_out"], 8);
        assert_eq!(line["aborted"], true);
        assert_eq!(line["status"], 200);
    }

    #[test]
    fn an_answer_without_a_body_is_not_aborted() {
        for (method, status) in [
            (Method::HEAD, StatusCode::OK),
            (Method::GET, StatusCode::NO_CONTENT),
            (Method::GET, StatusCode::NOT_MODIFIED),
        ] {
            let bench = Bench::new(LogFormat::Json);
            let mut outcome = bench.begin(method, "/", QueryLog::Omit);
            outcome.status(status);

            drop(metered(Full::default(), Full::new(Bytes::from_static(b"never polled")), outcome));

            assert_eq!(bench.line()["aborted"], false, "{status}");
        }
    }

    fn metered<B: Body>(placeholder: B, body: B, outcome: Outcome) -> Metered<B> {
        let mut metered = Metered::awaited(placeholder, outcome);
        metered.begin(body);
        metered
    }

    /// A body without an end, and so without a known length.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"more")))))
        }
    }
}
