//! THE story of a request: **decide**, **relay**, **conclude**.
//!
//! No stage calls the next one; each returns, and this file goes on. The upstream is contacted in one place, with a
//! permit in hand. There is one exit: [`conclude`] makes the answer, and the request's `Outcome` rides in its body, so
//! that log line and metrics are written once, when the last byte is out or the client is gone. Only what an authority
//! looks for to know a host as ours is answered beside it: nobody's permit is asked for that.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCEPT_LANGUAGE, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LINK, LOCATION, ORIGIN, SET_COOKIE,
        STRICT_TRANSPORT_SECURITY,
    },
    request::Parts,
};
use http_body::Body as _;

use crate::{
    authn::{dpop::DPOP_NONCE, jwt::Issuer},
    authz::{Grounds, Permit},
    clock::Timestamp,
    cors,
    decide::{self, Findings, Question, Verdict},
    headers::{self, ClientCertificates, OutboundParts, Proofs, assertion::Assertions, forwarded, prefix::Mend},
    hints::Hints,
    id::RequestId,
    identity::Field,
    inbound::{Inbound, Incoming, Upgrade},
    policy::{Access, AccessRule},
    rate_limit::{Admitted, Exceeded, Scope, Who},
    refusal::{Asked, Audience, BadCredential, Refusal, TokenError},
    route::{Own, Target},
    session::{SessionToken, cookie},
    signing::CannotSign,
    state::{Current, Live, Snapshot, SnapshotCache},
    telemetry::{
        WorkerTelemetry,
        outcome::{Began, Outcome},
    },
    upstream::{self, Outgoing, TrailerFilter, Tunnel, UpstreamError, WebSocket},
};

mod body;
mod exchanges;
mod kept;
mod own;
mod spread;
mod tokens;

use body::{Account, Content};
use exchanges::{Exchanges, Stage, Watched};
use spread::Way;

pub use body::{Body, BodyError};
pub use spread::side;

/// What one worker thread brings to its requests.
pub struct Worker {
    live: Arc<Live>,
    snapshots: Rc<SnapshotCache>,
    upstreams: upstream::Upstreams,
    telemetry: Rc<WorkerTelemetry>,
    exchanges: Rc<Exchanges>,
    assertions: Assertions,
}

impl Worker {
    /// Called on the worker's own thread: connections and log buffers stay there.
    pub fn new(live: Arc<Live>) -> Self {
        let upstreams = upstream::Upstreams::new(Arc::clone(&live.shared.upstreams), live.shared.shutdown.clone());
        let telemetry = live.shared.telemetry.worker();
        Self {
            snapshots: Rc::default(),
            upstreams,
            telemetry,
            exchanges: Rc::default(),
            assertions: Assertions::default(),
            live,
        }
    }

    /// Cuts exchanges that outlast what they were permitted by, for as long as it is polled.
    pub fn cut_ended(&self) -> impl Future<Output = ()> + use<> {
        Rc::clone(&self.exchanges).sweep(Arc::clone(&self.live))
    }

    /// Serves one request, on the one snapshot that is current now.
    pub fn handle(
        &self,
        inbound: &mut Inbound,
        body: Incoming,
        hints: Hints<'_>,
    ) -> impl Future<Output = Response<Body>> {
        handle(self, inbound, body, hints)
    }

    /// Lets go of what only earlier generations used, at each swap: snapshots, and connections to upstreams that are
    /// gone. Ends never; for a task of its own.
    pub fn forget_as_needed(&self) -> impl Future<Output = ()> + use<> {
        let (live, snapshots, upstreams) = (Arc::clone(&self.live), Rc::clone(&self.snapshots), self.upstreams.clone());
        async move {
            let mut swaps = live.swaps();
            while swaps.changed().await.is_ok() {
                // Requests under way hold on to what they began with.
                loop {
                    let current = snapshots.current(&live);
                    let settled = upstreams.settle(&current.upstreams);
                    drop(current);
                    if settled {
                        break;
                    }
                    tokio::time::sleep(SETTLE_EVERY).await;
                }
            }
        }
    }

    /// What this worker writes its log lines and metrics to.
    pub const fn telemetry(&self) -> &Rc<WorkerTelemetry> {
        &self.telemetry
    }
}

/// The way of every request.
async fn handle(worker: &Worker, inbound: &mut Inbound, body: Incoming, hints: Hints<'_>) -> Response<Body> {
    let current = worker.snapshots.current(&worker.live);
    let snapshot: &Snapshot = &current;
    let (started, now, malformed) = (inbound.started, inbound.now, inbound.malformed);
    let proof = if inbound.connection.tls.is_none() { worker.live.shared.challenges.file(inbound) } else { None };
    let (head, connection) = (&mut inbound.head, &inbound.connection);
    if head.method == Method::CONNECT {
        headers::read_connect(head);
    }
    if let Some(believed) = forwarded::request_id(connection, &head.headers, &snapshot.headers) {
        inbound.request_id = believed;
    }
    let began = Began {
        method: &head.method,
        uri: &head.uri,
        version: head.version,
        request_id: inbound.request_id.header(),
        started,
        now,
        generation: snapshot.generation,
        query: snapshot.query_log,
    };
    let mut outcome = Account::open(Outcome::begin(&worker.telemetry, began));
    if let Some(text) = proof {
        return conclude_proof(text, outcome);
    }

    let question = Question { head, connection, malformed, now, waited: false };
    let mut decision = decide::decide(snapshot, &worker.live.shared, question);
    if let Some(keys) = decision.findings.awaited.take() {
        // Boxed: hardly any request waits, and all would carry it.
        Box::pin(keys.wait()).await;
        decision = decide::decide(snapshot, &worker.live.shared, Question { waited: true, ..question });
    }
    let findings = &mut decision.findings;
    note(&mut outcome, findings);
    if let Some(balancer) = connection.said_by {
        outcome.said_by(balancer);
    }
    if let Some(certificate) = connection.tls.as_ref().and_then(|tls| tls.certificate.as_ref()) {
        outcome.certificate(certificate.short_thumbprint());
    }
    let opened = if findings.waited { Box::pin(exchange(worker, snapshot, findings, now)).await } else { None };
    let admitted = within_limits(worker, snapshot, &mut decision.verdict, findings, now);

    let relayed = match decision.verdict {
        Verdict::Allow(permit) => {
            match &findings.reported {
                Some(refusal) => outcome.reported(refusal.reason()),
                None => outcome.allowed(),
            }
            // Where rules are only reported, nothing is cut for them either.
            let upstream = matches!(permit.route().target, Target::Upstream(_)) && permit.grounds() == Grounds::Met;
            let way = spread::way(&permit.route().target, snapshot, findings);
            if snapshot.headers.client_certificate != ClientCertificates::None && upstream {
                findings.presented = findings.certificates.first().map(|vouched| Arc::clone(&vouched.certificate));
            }
            let proof = upstream.then(|| findings.take_proof(now)).flatten();
            let mut watched = worker.exchanges.watch(proof, Stage::of(&head.method), connection);
            watched.hold(admitted.slots);
            let permitted = Permitted { worker, snapshot, findings, request_id: &inbound.request_id, now, hints };
            let brought = Brought { body, upgrade: inbound.upgrade.take() };
            relay(&permitted, permit, way, head, brought, watched, &mut outcome).await
        }
        Verdict::Preflight => Ok(preflight(findings, head)),
        Verdict::Refuse(refusal) => {
            let shared = &worker.live.shared;
            Err(match kept::late(&refusal, snapshot, shared, findings, head, &body, now) {
                Some(late) => Box::pin(kept::keep(late, refusal, shared, head, body, now)).await,
                None => {
                    body::discard(body);
                    if let Refusal::TooMany { .. } = refusal {
                        // Whoever sends one forged token after the other is not to be answered as fast as it can send.
                        Box::pin(tokio::time::sleep(FORGERS_WAIT)).await;
                    }
                    refusal
                }
            })
        }
    };
    let request_id = std::mem::take(&mut inbound.request_id);
    let mut response = conclude(&current, relayed, findings, &inbound.head, request_id, outcome);
    if let Some(standing) = admitted.standing {
        standing.add_to(response.headers_mut());
    }
    if let Some(token) = opened {
        response.headers_mut().append(SET_COOKIE, cookie::set(&snapshot.session, &token, None));
    }
    response
}

/// What an authority finds that looks whether a host is ours (RFC 8555 section 8.3): not ours to permit or to refuse.
fn conclude_proof(text: Bytes, mut outcome: Account) -> Response<Body> {
    let mut response = Response::new(Content::own(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    outcome.allowed();
    outcome.status(response.status());
    response.map(|body| body.with(outcome))
}

/// Gives a browser that brought an old cookie a session of ours. Where that cannot be had now the old cookie goes on
/// counting, and the next request asks again.
async fn exchange(
    worker: &Worker,
    snapshot: &Snapshot,
    findings: &mut Findings<'_>,
    now: Timestamp,
) -> Option<SessionToken> {
    let waiting = findings.session.as_ref()?;
    let exchanged = worker.live.shared.sessions.exchange_legacy(waiting, &snapshot.session, now).await;
    let (token, session) = exchanged.ok().flatten()?;
    findings.session = Some(session);
    token
}

/// Refuses what is permitted but comes too often, or while too much is under way. Costs nothing where nothing is
/// limited.
fn within_limits(
    worker: &Worker,
    snapshot: &Snapshot,
    verdict: &mut Verdict<'_>,
    findings: &Findings<'_>,
    now: Timestamp,
) -> Admitted {
    let (Verdict::Allow(permit), Some(view)) = (&*verdict, &findings.view) else {
        return Admitted::default();
    };
    let route = permit.route();
    let unlimited = snapshot.rate_limits.is_empty() && route.rate_limits.is_empty();
    if unlimited || matches!(route.target, Target::Own(Own::Livez)) {
        return Admitted::default();
    }
    let of_gateway = Scope { name: "", limits: &snapshot.rate_limits };
    let scopes = [of_gateway, Scope { name: &route.name, limits: &route.rate_limits }];
    let who = Who { identity: findings.identity.as_deref(), address: view.address };
    match worker.live.shared.rate_limiter.admit(&scopes, who, now, snapshot.max_rate_buckets) {
        Ok(admitted) => admitted,
        Err(Exceeded { reason, retry_after, standing }) => {
            *verdict = Verdict::Refuse(Refusal::RateLimited { retry_after, reason });
            Admitted { slots: None, standing }
        }
    }
}

/// What a permitted request's way depends on.
#[derive(Clone, Copy)]
struct Permitted<'a> {
    worker: &'a Worker,
    snapshot: &'a Snapshot,
    findings: &'a Findings<'a>,
    request_id: &'a RequestId,
    now: Timestamp,
    hints: Hints<'a>,
}

/// What a client brings behind a request's head.
struct Brought {
    body: Incoming,
    upgrade: Option<Upgrade>,
}

/// Carries out what was permitted. The match on the target is the only way to anything that the permit opens.
async fn relay(
    permitted: &Permitted<'_>,
    permit: Permit<'_>,
    way: Way,
    head: &mut Parts,
    Brought { body, upgrade }: Brought,
    mut watched: Watched,
    outcome: &mut Outcome,
) -> Result<Response<Content>, Refusal> {
    let Permitted { worker, snapshot, findings, request_id, now, hints } = *permitted;
    let (Some(view), Some(path), Some(sent)) = (&findings.view, &findings.path, findings.sent_path()) else {
        return Err(Refusal::BadHost("absent"));
    };
    let route = permit.route();
    match &route.target {
        Target::Upstream(_) => {
            let Way { upstream: index, caller } = way;
            let Some(settings) = snapshot.upstreams.get(index) else {
                return Err(Refusal::NoRoute);
            };
            let http2 = head.version == http::Version::HTTP_2;
            let assertion = match (&snapshot.headers.assertion, permit.identity()) {
                (Some(settings), Some(caller)) => {
                    let (generation, keys) = (snapshot.headers.generation, &worker.live.shared.signing.assertion);
                    Some(worker.assertions.of(caller, index, settings, generation, keys, now)?)
                }
                (Some(_) | None, _) => None,
            };
            let (forwarded, certificate) = (findings.forwarded.as_ref(), findings.presented.as_deref());
            let proofs = Proofs { forwarded, assertion: assertion.as_deref(), certificate };
            let outbound = headers::rewrite(head, permit, proofs, view, sent, request_id, &snapshot.headers)?;
            let OutboundParts { method, target, host, lines, expects_continue, takes_trailers, permit, websocket } =
                outbound.into_parts();
            let websocket =
                websocket.zip(upgrade).map(|(handshake, client)| WebSocket::new(handshake, client, watched.held()));
            let body = (!body.is_end_stream()).then_some(body);
            let received = body.as_ref().map(|_| outcome.bytes_in_meter());
            let passes = route.limits.request_trailers && body.is_some();
            let trailers = passes.then(|| TrailerFilter::new(headers::trailers::filter(&snapshot.headers)));
            let mut request = Outgoing {
                method,
                target,
                host,
                lines,
                caller,
                attempts: 0,
                expects_continue,
                body,
                received,
                takes_trailers,
                trailers,
                websocket,
            };
            let limits = upstream::Limits {
                max_body: route.limits.max_body.unwrap_or(snapshot.max_body),
                timeouts: route.limits.timeouts.as_deref(),
                retries: !route.limits.no_retry,
                // What the operator makes of `Link` fields, no hint may say otherwise.
                hints: Some(hints).filter(|_| !route.edits_answers(&LINK)),
                ..upstream::Limits::default()
            };
            let forwarding = upstream::forward(&worker.upstreams, settings, &mut request, &limits);
            let forwarded = watched.until_ended(forwarding).await;
            outcome.attempts(request.attempts);
            let mut response = match forwarded {
                Ok(answered) => answered.inspect_err(|error| outcome.detail(error.label()))?,
                Err(_) if watched.goes_on(&worker.live) => return Err(Refusal::Unavailable),
                Err(ended) => return Err(ended.into()),
            };
            watched.answered();
            // Counted from the request's head: deciding takes a microsecond, reading the clock once more a good part of
            // it.
            outcome.upstream(index, &settings.name, outcome.elapsed());
            let accepted = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if accepted {
                outcome.tunnel("websocket");
            }
            // RFC 8441 section 5: a stream is opened by a 2xx.
            let opens_stream = accepted && http2;
            if opens_stream {
                *response.status_mut() = StatusCode::OK;
            }
            if let Some(tunnel) = response.extensions().get::<Tunnel>() {
                watched.follow(tunnel.clone());
            } else if route.limits.keep_downloads && response.headers().contains_key(CONTENT_LENGTH) {
                watched.unbind();
            }
            let context = headers::response::Context {
                route,
                authenticated: permit.identity().is_some(),
                own_prefix: &snapshot.login.prefix,
                websocket_accepted: accepted && !opens_stream,
                mend: Mend::of(route, &head.headers, view, path, sent, &snapshot.headers),
            };
            headers::response::rewrite(response.headers_mut(), &context, &snapshot.headers);
            if route.cors.is_some() {
                cors::strip_fields(response.headers_mut());
            }
            Ok(response.map(|body| Content::upstream(body, watched)))
        }
        Target::Own(own) => {
            let asked = own::Asked { permit: &permit, findings, head, request_id };
            // Boxed: the many requests that go to an upstream would carry what these few need.
            let served = Box::pin(own::serve(*own, worker, snapshot, asked, body)).await?;
            let own::Served { response, reason } = served;
            if let Some(reason) = reason {
                outcome.refused(reason, response.status());
            }
            Ok(response)
        }
        Target::Redirect(redirect) => {
            let mut response = Response::new(Content::empty());
            *response.status_mut() = redirect.status;
            response.headers_mut().insert(LOCATION, redirect.location(path, findings.rewritten.as_deref()));
            Ok(response)
        }
        Target::Respond { status, content_type, body } => {
            let mut response = Response::new(Content::own(body.clone()));
            *response.status_mut() = *status;
            response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
            Ok(response)
        }
    }
}

/// The one exit: whatever happened becomes one answer, one log line, one set of counts.
fn conclude(
    current: &Current,
    relayed: Result<Response<Content>, Refusal>,
    findings: &Findings<'_>,
    head: &Parts,
    request_id: RequestId,
    mut outcome: Account,
) -> Response<Body> {
    let mut response = relayed.unwrap_or_else(|refusal| {
        outcome.refused(refusal.reason(), refusal.status());
        refuse(current, &refusal, findings, head, &request_id)
    });
    let route = findings.route;
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, request_id.into_header());
    if let Some(nonce) = &findings.dpop_nonce {
        headers.insert(DPOP_NONCE, nonce.clone());
    }
    if let Some(cors) = route.and_then(|route| route.cors.as_ref()) {
        cors::add_fields(cors, head.headers.get(ORIGIN), headers);
    }
    if let Some(hsts) = current.hsts.as_ref().filter(|_| findings.is_https()) {
        headers.entry(STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
    }
    outcome.status(response.status());
    response.map(|body| body.with(outcome))
}

fn refuse(
    snapshot: &Snapshot,
    refusal: &Refusal,
    findings: &Findings<'_>,
    head: &Parts,
    request_id: &RequestId,
) -> Response<Content> {
    let rule = findings.route.and_then(|route| match &route.access {
        Access::Authenticated(rule) => Some(rule),
        Access::Public { .. } => None,
    });
    let own = findings.route.is_some_and(|route| matches!(route.target, Target::Own(_)));
    let people = (own || rule.is_some_and(|rule| rule.session)) && snapshot.login.is_open();
    let answer = refusal.answer(&Asked {
        audience: Audience::of(head),
        request_id,
        login_prefix: people.then_some(&*snapshot.login.prefix),
        return_to: head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
        require: rule.map(|rule| &rule.require),
        certificate: rule.is_some_and(|rule| !rule.mtls.is_empty() || !rule.certificates.is_empty()),
        bearer: rule
            .is_some_and(|rule| (!rule.issuers.is_empty() && rule.proof.takes_bearer()) || rule.api_key.is_some()),
        dpop: rule.is_some_and(|rule| announces_dpop(rule, &snapshot.issuers)),
        dpop_algorithms: &snapshot.dpop.algorithm_names,
        signed_in_as: findings.session.as_ref().map(|session| {
            let identity = session.identity();
            identity.name().unwrap_or_else(|| identity.subject())
        }),
        face: snapshot.look.face(head.headers.get(ACCEPT_LANGUAGE)),
        token_endpoint: findings.route.is_some_and(|route| {
            matches!(route.target, Target::Own(Own::Token | Own::TokenRefresh | Own::TokenRevoke))
        }),
    });
    let mut response = answer.map(Content::own);
    if matches!(refusal, Refusal::WrongConnection) && head.version == http::Version::HTTP_11 {
        // It serves other hosts only, or was opened before certificates were asked for.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if matches!(refusal, Refusal::BadCredential(BadCredential::Session) | Refusal::FormKept { .. }) {
        response.headers_mut().append(SET_COOKIE, cookie::clear(&snapshot.session));
    }
    if let (Refusal::Token(TokenError::InvalidGrant(_)), Some(token)) = (refusal, &snapshot.token) {
        token.take_cookie_away(&head.headers, &snapshot.login.prefix, response.headers_mut());
    }
    if let Refusal::FormKept { cookie } = refusal {
        response.headers_mut().append(SET_COOKIE, cookie.clone());
    }
    response
}

/// Whether clients are told of DPoP before they use it: where the route asks for it, or an issuer whose tokens count.
fn announces_dpop(rule: &AccessRule, issuers: &[Issuer]) -> bool {
    let asks = |index: &usize| issuers.get(*index).is_some_and(|issuer| issuer.proof.asks_for_dpop());
    !rule.issuers.is_empty() && rule.proof.asks_for_dpop() || rule.issuers.iter().any(asks)
}

/// Tells the outcome what was learned while deciding.
fn note(outcome: &mut Outcome, findings: &Findings<'_>) {
    if let Some(view) = &findings.view {
        outcome.client(view.address, view.scheme.as_str(), &view.authority);
    }
    if let Some(route) = &findings.route {
        outcome.route(route.index, &route.name);
    }
    if let Some(identity) = &findings.identity {
        outcome.identity(identity.via().label(), identity.realm(), || identity.header(Field::Id).cloned());
    }
    if findings.is_probe() {
        outcome.unlogged();
    }
}

fn preflight(findings: &Findings<'_>, head: &Parts) -> Response<Content> {
    let cors = findings.route.as_ref().and_then(|route| route.cors.as_ref());
    cors.map_or_else(|| Response::new(Bytes::new()), |cors| cors::preflight(cors, head)).map(Content::own)
}

impl From<UpstreamError> for Refusal {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Busy(_) => Self::UpstreamBusy,
            UpstreamError::ClientBody => Self::BodyIncomplete,
            UpstreamError::Invalid(_) => Self::UpstreamInvalid,
            UpstreamError::OutOfTime | UpstreamError::Timeout(_) => Self::UpstreamTimeout,
            UpstreamError::TooLarge => Self::BodyTooLarge,
            UpstreamError::Unavailable(_) => Self::UpstreamUnavailable,
            UpstreamError::Unreachable(_) => Self::UpstreamUnreachable,
        }
    }
}

impl From<CannotSign> for Refusal {
    fn from(CannotSign: CannotSign) -> Self {
        Self::Unavailable
    }
}

/// How long the answer waits for whom `limits.verify_rate` refuses: a connection, or a stream of one, has ten in a
/// second.
const FORGERS_WAIT: Duration = Duration::from_millis(100);

/// How often a worker looks whether requests of an earlier generation have ended.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
