//! Route → credential → identity → verdict. Pure but for one look-up in the session store.
//!
//! The pipeline asks this of every request; `explain` and the `[[test]]` cases ask it too, so what they say is what
//! production does. In: one snapshot, the stores, one request's head. Out: a [`Decision`], which holds what was found
//! on the way even when the end is a refusal, because answers and logs need it.
//! The order of the checks is the order in which a refusal wins: framing, host, path, route, method, ambiguity of
//! credentials, cross-site (before anything that costs or redirects), credential, requirements.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, request::Parts};

use crate::{
    api_key::{self, ApiKey},
    authn::{
        self, Answer, Busy, Judge,
        awaited::Awaited,
        credential::{self, Carrier, Credential},
        dpop, introspection,
        jwt::{JwtError, VerifiedToken},
        own::{Child, Parents},
        possession::{Confirmation, Presented},
        proof::Proof,
    },
    authz::{self, Denial, Facts, Permit, Silent, Trace},
    client::{ClientView, Connection, Scheme},
    clock::Timestamp,
    cors, csrf,
    headers::{self, Forwarded, RewriteError, forwarded},
    identity::{Identity, Via},
    inbound::Malformed,
    mtls::{Certified, ClientCertificate, Void},
    policy::{Access, AccessRule},
    refusal::{BadCredential, Refusal},
    route::{Found, Miss, Own, Route, Target, host::request_authority, path::CanonicalPath},
    session::{Lookup, OldCookie, Session, SessionToken},
    state::{Shared, Snapshot},
};

/// What was decided about a request, and what was learned on the way.
#[derive(Debug)]
pub struct Decision<'s> {
    /// What answers and logs need, however it ended.
    pub findings: Findings<'s>,
    /// How it ended.
    pub verdict: Verdict<'s>,
}

/// What was learned about a request while deciding.
#[derive(Debug, Default)]
pub struct Findings<'s> {
    /// The client; `None` if the host could not be read.
    pub view: Option<ClientView>,
    /// What is matched, and forwarded unless `rewritten` is; `None` if there is no canonical reading.
    pub path: Option<CanonicalPath>,
    /// What the route makes of the path for its target, if anything.
    pub rewritten: Option<Box<CanonicalPath>>,
    /// The route, where the snapshot has it; `None` if there is none.
    pub route: Option<&'s Arc<Route>>,
    /// Who the caller proved to be, allowed or not.
    pub identity: Option<Arc<Identity>>,
    /// The session that proved it.
    pub session: Option<Arc<Session>>,
    /// Whether the session waited for an old cookie of another system, and is to be exchanged for one of ours.
    pub waited: bool,
    /// The token that proved it.
    pub token: Option<Arc<VerifiedToken>>,
    /// The API key that proved it.
    pub api_key: Option<Arc<ApiKey>>,
    /// Why the caller would have been refused, where the route only reports.
    pub reported: Option<Refusal>,
    /// The certificates of the connection that proved it, or that were asked for besides, by the authorities that vouch
    /// for it; hardly ever more than one.
    pub certificates: Vec<Certified>,
    /// For our own endpoints: the certificate whose key the client holds, whatever it is worth. For upstreams that are
    /// told of it: the one that an authority vouched for.
    pub presented: Option<Arc<ClientCertificate>>,
    /// What goes upstream of the token that proved it, where the route forwards it (R14).
    pub forwarded: Option<Forwarded>,
    /// `DPoP-Nonce` for the answer: what the next proof may hold.
    pub dpop_nonce: Option<HeaderValue>,
    /// What could still turn the refusal into something else: keys that are being fetched, or what an issuer says of a
    /// token. Wait for it and decide again.
    pub awaited: Option<Awaited>,
}

/// The end of a decision.
#[derive(Debug)]
pub enum Verdict<'s> {
    /// The request may go where its route says.
    Allow(Permit<'s>),
    /// A CORS preflight, answered by the route's own rule and never forwarded (R32).
    Preflight,
    /// The request stops here.
    Refuse(Refusal),
}

/// One request as the decision sees it.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Its head.
    pub head: &'a Parts,
    /// Its connection.
    pub connection: &'a Connection,
    /// What the wire found wrong with it.
    pub malformed: Option<Malformed>,
    /// The one reading of the clock.
    pub now: Timestamp,
    /// Whether the request has waited for [`Findings::awaited`] and is asked about again. It waits once only.
    pub waited: bool,
}

/// Decides about one request.
pub fn decide<'s>(snapshot: &'s Snapshot, shared: &Shared, question: Question<'_>) -> Decision<'s> {
    // Filled in where it is returned: it is large.
    let mut decision = Decision { findings: Findings::default(), verdict: Verdict::Refuse(Refusal::NoRoute) };
    let findings = &mut decision.findings;
    let prove = |findings: &mut Findings<'s>, rule: &AccessRule| prove(findings, snapshot, shared, question, rule);
    let certified = |findings: &Findings<'s>, ca: Option<&str>| findings.is_certified(ca);
    decision.verdict = judge(findings, snapshot, question, prove, certified, &mut Silent)
        .unwrap_or_else(|refusal| report(findings, refusal, question.now));
    if let (Some(Target::Own(own)), Some(view)) = (findings.route.as_ref().map(|route| &route.target), &findings.view) {
        findings.presented = presented_certificate(question, view).map(Arc::clone);
        if matches!(own, Own::Token | Own::TokenRefresh) && question.head.headers.contains_key(&dpop::DPOP) {
            findings.dpop_nonce = shared.proofs.nonce(snapshot.dpop.nonce, question.now);
        }
        if matches!(own, Own::Login | Own::Logout | Own::Resend | Own::TokenRefresh) {
            findings.session = presented_session(findings, snapshot, shared, question);
        }
    }
    decision
}

/// Who is supposed to ask, where nobody does.
#[derive(Clone, Debug, Default)]
pub struct Supposed {
    /// Who; `None`: nobody known.
    pub identity: Option<Arc<Identity>>,
    /// Whether a valid client certificate came along, besides.
    pub certified: bool,
    /// What the token is bound to that proved it, if one did; that it is proven is supposed, too.
    pub bound: Confirmation,
}

/// Decides as if the caller had proved to be who is `supposed`; credentials in the head are not looked at. For
/// `explain`, `[[test]]` and `diff`.
pub fn decide_as<'s>(
    snapshot: &'s Snapshot,
    question: Question<'_>,
    supposed: Supposed,
    trace: &mut impl Trace,
) -> Decision<'s> {
    let mut findings = Findings::default();
    let Supposed { identity, certified, bound } = supposed;
    let certified = certified || identity.as_ref().is_some_and(|identity| *identity.via() == Via::Mtls);
    let prove = |_: &mut Findings<'s>, rule: &AccessRule| match &identity {
        Some(identity) => bound_as_asked(identity, bound, rule, snapshot).map(|()| Some(Arc::clone(identity))),
        None => Ok(None),
    };
    let verdict =
        judge(&mut findings, snapshot, question, prove, |_, _| certified, trace).unwrap_or_else(Verdict::Refuse);
    Decision { findings, verdict }
}

/// Whether the token that a caller is supposed to have is bound as its issuer and the route ask for.
fn bound_as_asked(
    identity: &Identity,
    bound: Confirmation,
    rule: &AccessRule,
    snapshot: &Snapshot,
) -> Result<(), Refusal> {
    let Via::Jwt(name) = identity.via() else { return Ok(()) };
    let issuer = snapshot.issuers.iter().find(|issuer| issuer.name == *name);
    let presented = |dpop: bool| Presented::default().refuse(JwtError::Unbound, dpop || bound.key.is_some());
    if issuer.is_some_and(|issuer| !bound.meets(issuer.proof)) {
        return Err(Refusal::BadCredential(presented(false)));
    }
    if !bound.meets(rule.proof) {
        return Err(Refusal::BadCredential(presented(rule.proof.asks_for_dpop())));
    }
    Ok(())
}

/// What would be refused is let through where the route only reports yet, if it is about who the caller is, and not
/// about the request itself. Who is not known yet, but may be in a moment, is waited for as ever.
fn report<'s>(findings: &mut Findings<'s>, refusal: Refusal, now: Timestamp) -> Verdict<'s> {
    let permit = match findings.route {
        Some(route) if refusal.is_about_the_caller() && findings.awaited.is_none() => {
            authz::report(route, findings.identity.clone(), now)
        }
        Some(_) | None => None,
    };
    match permit {
        Some(permit) => {
            findings.reported = Some(refusal);
            Verdict::Allow(permit)
        }
        None => Verdict::Refuse(refusal),
    }
}

fn judge<'s>(
    findings: &mut Findings<'s>,
    snapshot: &'s Snapshot,
    question: Question<'_>,
    prove: impl FnOnce(&mut Findings<'s>, &AccessRule) -> Result<Option<Arc<Identity>>, Refusal>,
    certified: impl Fn(&Findings<'s>, Option<&str>) -> bool,
    trace: &mut impl Trace,
) -> Result<Verdict<'s>, Refusal> {
    let Question { head, connection, malformed, now, .. } = question;
    if let Some(malformed) = malformed {
        return Err(Refusal::Malformed(malformed));
    }
    let authority = request_authority(head, &snapshot.routes).map_err(|error| Refusal::BadHost(error.label()))?;
    if let Some(tls) = &connection.tls
        && (tls.asked.is_some() || !snapshot.mtls.asked.is_empty())
        && snapshot.routes.is_known(&authority.host)
        && tls.asked.as_ref() != snapshot.mtls.asked.of_host(&authority.host)
    {
        return Err(Refusal::WrongConnection);
    }
    let view = forwarded::client_view(connection, &head.headers, authority, &snapshot.headers);
    let view = findings.view.insert(view);
    if snapshot.demo_secrets && !is_local(view, &head.headers) {
        return Err(Refusal::DemoOnly);
    }
    let path =
        CanonicalPath::of(&head.uri, snapshot.routes.tolerated()).map_err(|error| Refusal::BadPath(error.label()))?;
    // A reference count: `found` borrows the path while the proof notes what it learns in `findings`.
    findings.path = Some(path.clone());
    let path = &path;
    // A preflight is one only where the route that it asks about has a rule; else it is an OPTIONS request like any
    // other, whatever it asks about (R32).
    let asked_about = cors::preflight_method(head)
        .and_then(|method| find(snapshot, view, path, &method).ok())
        .filter(|found| found.route.cors.is_some());
    if let Some(found) = asked_about {
        findings.route = Some(found.route);
        return Ok(Verdict::Preflight);
    }
    let found = find(snapshot, view, path, &head.method)?;
    if headers::asks_for_stream(head) && !found.route.opens_tunnels() {
        // What is no tunnel is no answer to it: it is a CONNECT like any other, and none is served (R11).
        return Err(find(snapshot, view, path, &Method::CONNECT).err().unwrap_or(Refusal::NoRoute));
    }
    findings.route = Some(found.route);
    let route = found.route;
    if let Some(maintenance) = &snapshot.maintenance
        && !matches!(route.target, Target::Own(_))
        && maintenance.closes(&view.authority.host, view.address)
    {
        return Err(Refusal::Maintenance { retry_after: maintenance.retry_after });
    }
    let rewritten = found.rewritten(path).map_err(|error| Refusal::BadPath(error.label()))?;
    findings.rewritten = rewritten.map(Box::new);
    let address = view.address;
    let identity = match &route.access {
        Access::Public { .. } => {
            // Our own forms act for whoever fills them in: a login that another site submits is refused as well.
            if matches!(route.target, Target::Own(_)) {
                csrf::check(&route.csrf, head, false, view).map_err(|csrf::CrossSite| Refusal::CrossSite)?;
            }
            None
        }
        Access::Authenticated(rule) => prove(findings, rule)?,
    };
    findings.identity.clone_from(&identity);
    let parameter = |name: &str| found.params.value(name).map(std::borrow::Cow::into_owned);
    let certified = |ca: Option<&str>| certified(findings, ca);
    let facts = Facts { address, now, parameter: &parameter, certified: &certified };
    match authz::evaluate(route, identity, &facts, trace) {
        authz::Verdict::Allow(permit) => Ok(Verdict::Allow(permit)),
        authz::Verdict::Deny(denial) => Err(refusal(denial, route)),
    }
}

fn find<'s: 'p, 'p>(
    snapshot: &'s Snapshot,
    view: &ClientView,
    path: &'p CanonicalPath,
    method: &Method,
) -> Result<Found<'s, 'p>, Refusal> {
    let found = snapshot.routes.find(&view.authority.host, path, method).map_err(|miss| match miss {
        Miss::UnknownHost => Refusal::UnknownHost,
        Miss::NoRoute => Refusal::NoRoute,
        Miss::MethodNotAllowed { allow } => Refusal::MethodNotAllowed { allow },
        Miss::BadPath(error) => Refusal::BadPath(error.label()),
    })?;
    Ok(found)
}

/// Authenticates by what the request carries, and by the certificate that may be asked for besides (R2, R3, R4).
fn prove(
    findings: &mut Findings<'_>,
    snapshot: &Snapshot,
    shared: &Shared,
    question: Question<'_>,
    rule: &AccessRule,
) -> Result<Option<Arc<Identity>>, Refusal> {
    let identity = identify(findings, snapshot, shared, question, rule)?;
    if identity.is_some() && !rule.certificates.is_empty() {
        certify(findings, snapshot, shared, question, &rule.certificates)?;
    }
    Ok(identity)
}

fn identify(
    findings: &mut Findings<'_>,
    snapshot: &Snapshot,
    shared: &Shared,
    question: Question<'_>,
    rule: &AccessRule,
) -> Result<Option<Arc<Identity>>, Refusal> {
    let Question { head, now, waited, .. } = question;
    let (Some(view), Some(route), Some(path)) = (&findings.view, findings.route, &findings.path) else {
        return Err(Refusal::NoRoute);
    };
    let secure = view.scheme == Scheme::Https;
    let found = credential::find(&head.headers, rule, &snapshot.session.cookie, &snapshot.token_places, secure)
        .map_err(|ambiguous| Refusal::BadCredential(ambiguous.into()))?;
    match found {
        Credential::Bearer { token, carrier } => {
            if carrier.is_ambient() {
                same_site(route, head, view)?;
            }
            let certificate = presented_certificate(question, view).map(|certificate| certificate.thumbprint());
            let dpop = match carrier {
                Carrier::Authorization | Carrier::Cookie | Carrier::Header => None,
                Carrier::Dpop => {
                    findings.dpop_nonce = shared.proofs.nonce(snapshot.dpop.nonce, now);
                    let (settings, proofs) = (&snapshot.dpop, &shared.proofs);
                    let tolerated = snapshot.routes.tolerated();
                    Some(dpop::Offer { head, view, path, tolerated, settings, proofs })
                }
            };
            let presented = Presented { certificate, dpop };
            let judge = Judge {
                issuers: &snapshot.issuers,
                cache: &shared.tokens,
                wrong: &shared.wrong_signatures,
                verify_rate: snapshot.verify_rate,
                address: view.address,
                now,
                waited,
            };
            let issuers = &snapshot.issuers;
            let answer = match introspection::of_route(issuers, rule) {
                None => authn::authenticate_bearer(token, &presented, rule, &judge),
                Some(endpoint) => match token.read() {
                    Ok(opaque) if introspection::is_opaque(opaque) => {
                        authn::authenticate_opaque(opaque, endpoint, &presented, rule, &judge)
                    }
                    Ok(_) => authn::authenticate_bearer(token, &presented, rule, &judge),
                    Err(ambiguous) => Answer::Invalid(ambiguous.into()),
                },
            };
            match answer {
                Answer::Valid(verified) if verified.is_revoked(&shared.revocations) => {
                    Err(Refusal::BadCredential(presented.refuse(JwtError::Revoked, false)))
                }
                Answer::Valid(verified) => {
                    let identity = match verified.child() {
                        None => Arc::clone(verified.identity()),
                        Some(child) => of_parent(child, &verified, snapshot, shared, question, view, rule)?,
                    };
                    if verified.confirmation().certificate.is_some() {
                        certify_bound(findings, snapshot, shared, question)?;
                    }
                    findings.token = Some(verified);
                    if rule.forward_credential {
                        let proved = carrier == Carrier::Dpop;
                        let proof = head.headers.get(dpop::DPOP).filter(|_| proved).cloned();
                        let authorization = credential::as_authorization(&head.headers, token, carrier);
                        findings.forwarded = authorization.map(|authorization| Forwarded { authorization, proof });
                    }
                    Ok(Some(identity))
                }
                Answer::Absent => Ok(None),
                Answer::Invalid(why) => Err(Refusal::BadCredential(why)),
                Answer::Busy(busy) => Err(busy.into()),
                Answer::Unavailable(awaited) => {
                    findings.awaited = awaited;
                    Err(Refusal::Unavailable)
                }
            }
        }
        Credential::ApiKey(text) => {
            match api_key::verify(text, snapshot.keys(shared), &shared.revocations, view.address, now) {
                Ok(key) => {
                    let identity = Arc::clone(key.identity());
                    findings.api_key = Some(key);
                    Ok(Some(identity))
                }
                Err(void) => Err(Refusal::BadCredential(BadCredential::Bearer(void.label()))),
            }
        }
        Credential::Session(value) => {
            same_site(route, head, view)?;
            let Some(token) = SessionToken::parse(value) else {
                dead_session(rule, head)?;
                return by_certificate(findings, snapshot, shared, question, rule);
            };
            match shared.sessions.lookup(&token, &snapshot.session, now) {
                // A cookie in other hands is never the same as none, not even where that would do.
                Lookup::Found(session) if !counts_here(&session, snapshot, question, view) => {
                    Err(Refusal::BadCredential(BadCredential::Session))
                }
                Lookup::Found(session) => {
                    if session.bound_to().is_some() {
                        certify_bound(findings, snapshot, shared, question)?;
                    }
                    if rule.touch {
                        shared.sessions.touch(&session, now);
                    }
                    let identity = Arc::clone(session.identity());
                    findings.session = Some(session);
                    Ok(Some(identity))
                }
                Lookup::Absent => {
                    dead_session(rule, head)?;
                    by_certificate(findings, snapshot, shared, question, rule)
                }
                Lookup::Unavailable => Err(Refusal::Unavailable),
            }
        }
        Credential::None if rule.session && secure => match old_cookie(findings, snapshot, shared, head, now)? {
            Some(identity) => Ok(Some(identity)),
            None => by_certificate(findings, snapshot, shared, question, rule),
        },
        Credential::None => by_certificate(findings, snapshot, shared, question, rule),
    }
}

/// What browsers add by themselves counts for requests from our own pages only, where they change something or open a
/// tunnel (R31).
fn same_site(route: &Route, head: &Parts, view: &ClientView) -> Result<(), Refusal> {
    let tunnel = route.websocket && headers::asks_for_websocket(head);
    csrf::check(&route.csrf, head, tunnel, view).map_err(|csrf::CrossSite| Refusal::CrossSite)
}

/// The last authenticator: the certificate of the connection, which browsers add by themselves (R2, R31).
fn by_certificate(
    findings: &mut Findings<'_>,
    snapshot: &Snapshot,
    shared: &Shared,
    question: Question<'_>,
    rule: &AccessRule,
) -> Result<Option<Arc<Identity>>, Refusal> {
    if rule.mtls.is_empty() {
        return Ok(None);
    }
    let (Some(view), Some(route)) = (&findings.view, findings.route) else {
        return Err(Refusal::NoRoute);
    };
    if presented_certificate(question, view).is_none() {
        return Ok(None);
    }
    same_site(route, question.head, view)?;
    certify(findings, snapshot, shared, question, &rule.mtls)
}

/// Judges the certificate of the connection under these authorities, and notes those that vouch for it. `None`: there
/// is no certificate. One that none of them vouches for is refused.
fn certify(
    findings: &mut Findings<'_>,
    snapshot: &Snapshot,
    shared: &Shared,
    question: Question<'_>,
    authorities: &[usize],
) -> Result<Option<Arc<Identity>>, Refusal> {
    let certificate = findings.view.as_ref().and_then(|view| presented_certificate(question, view));
    let authorities = authorities.iter().filter_map(|index| snapshot.mtls.authorities.get(*index));
    match authn::authenticate_certificate(certificate, authorities, &shared.revocations, question.now) {
        Answer::Valid(vouched) => {
            for certified in vouched.by {
                if !findings.certificates.iter().any(|known| known.ca == certified.ca) {
                    findings.certificates.push(certified);
                }
            }
            Ok(Some(vouched.identity))
        }
        Answer::Absent => Ok(None),
        Answer::Busy(busy) => Err(busy.into()),
        Answer::Invalid(why) => Err(Refusal::BadCredential(why)),
        Answer::Unavailable(_) => Err(Refusal::Unavailable),
    }
}

/// The certificate that a token or a session is bound to. Whoever signed it, the token names it (RFC 8705 section 2.2);
/// but where an authority here has something against it, a list or a date, it counts no more with what is bound to it
/// than without.
fn certify_bound(
    findings: &mut Findings<'_>,
    snapshot: &Snapshot,
    shared: &Shared,
    question: Question<'_>,
) -> Result<(), Refusal> {
    let every: Box<[usize]> = (0..snapshot.mtls.authorities.len()).collect();
    match certify(findings, snapshot, shared, question, &every) {
        Ok(_) => Ok(()),
        Err(Refusal::BadCredential(why)) if why == Void::Authority.into() => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

/// The certificate of the client itself. That of a trusted proxy says who the proxy is, not who asks.
fn presented_certificate<'a>(question: Question<'a>, view: &ClientView) -> Option<&'a Arc<ClientCertificate>> {
    question.connection.tls.as_ref()?.certificate.as_ref().filter(|_| !view.through_trusted_proxy)
}

/// Who has a token of ours: whoever has what it comes from, which is active with it (R26).
fn of_parent(
    child: &Child,
    verified: &VerifiedToken,
    snapshot: &Snapshot,
    shared: &Shared,
    question: Question<'_>,
    view: &ClientView,
    rule: &AccessRule,
) -> Result<Arc<Identity>, Refusal> {
    let now = question.now;
    let parents = Parents {
        families: &shared.families,
        sessions: &shared.sessions,
        settings: &snapshot.session,
        keys: snapshot.keys(shared),
        revocations: &shared.revocations,
    };
    let parent = child.parent(verified.identity(), verified.issuer(), parents, view.address, now);
    let parent = parent.map_err(|why| Refusal::BadCredential(why.into()))?;
    if let Some(session) = parent.session()
        && !counts_here(session, snapshot, question, view)
    {
        return Err(Refusal::BadCredential(JwtError::Bound.into()));
    }
    if rule.touch
        && let Some(session) = parent.session()
    {
        shared.sessions.touch(session, now);
    }
    Ok(Arc::clone(parent.identity()))
}

/// The living session that a request to log in or out brings along: the one to end. These endpoints ask for no
/// credential, so that whoever holds a dead or doubled cookie can still use them.
fn presented_session(
    findings: &Findings<'_>,
    snapshot: &Snapshot,
    shared: &Shared,
    question: Question<'_>,
) -> Option<Arc<Session>> {
    let view = findings.view.as_ref()?;
    if view.scheme != Scheme::Https {
        return None;
    }
    let value = credential::cookie(&question.head.headers, &snapshot.session.cookie).ok().flatten()?;
    match shared.sessions.lookup(&SessionToken::parse(value)?, &snapshot.session, question.now) {
        Lookup::Found(session) => counts_here(&session, snapshot, question, view).then_some(session),
        Lookup::Absent | Lookup::Unavailable => None,
    }
}

/// Whether a session counts for who holds the key of this connection's certificate, if there is one (R26).
fn counts_here(session: &Session, snapshot: &Snapshot, question: Question<'_>, view: &ClientView) -> bool {
    let key = || presented_certificate(question, view).and_then(|certificate| certificate.key());
    session.counts_for(key, &snapshot.session)
}

/// A cookie that names no living session. On an optional route it counts as absent where nothing is at stake (R4).
fn dead_session(rule: &AccessRule, head: &Parts) -> Result<(), Refusal> {
    if rule.optional && csrf::is_safe(&head.method) {
        Ok(())
    } else {
        Err(Refusal::BadCredential(BadCredential::Session))
    }
}

/// The session that the cookie of a system that was moved from stands for.
fn old_cookie(
    findings: &mut Findings<'_>,
    snapshot: &Snapshot,
    shared: &Shared,
    head: &Parts,
    now: Timestamp,
) -> Result<Option<Arc<Identity>>, Refusal> {
    let Some(names) = shared.sessions.legacy_cookies() else {
        return Ok(None);
    };
    let (Some(view), Some(route)) = (&findings.view, findings.route) else {
        return Ok(None);
    };
    for name in names.iter() {
        let value =
            credential::cookie(&head.headers, name).map_err(|ambiguous| Refusal::BadCredential(ambiguous.into()))?;
        let Some(value) = value else { continue };
        same_site(route, head, view)?;
        let session = match shared.sessions.lookup_legacy(name, value, &snapshot.session, now) {
            Some(OldCookie::Waiting(session)) => {
                findings.waited = true;
                session
            }
            Some(OldCookie::Exchanged(session)) => session,
            None => continue,
        };
        if !session.counts_for(|| None, &snapshot.session) {
            return Err(Refusal::BadCredential(BadCredential::Session));
        }
        let identity = Arc::clone(session.identity());
        findings.session = Some(session);
        return Ok(Some(identity));
    }
    Ok(None)
}

/// Whether a request comes from this machine and to a loopback name: the demo's random but shared secrets serve
/// nobody else (R35).
fn is_local(view: &ClientView, headers: &HeaderMap) -> bool {
    view.address.is_loopback()
        && view.authority.host.is_loopback()
        && !FORWARDING.iter().any(|name| headers.contains_key(name))
}

impl Findings<'_> {
    /// What an upstream is asked for; `None` if there is no canonical reading.
    pub fn sent_path(&self) -> Option<&CanonicalPath> {
        self.rewritten.as_deref().or(self.path.as_ref())
    }

    /// Takes out what proved the caller's identity, if anything did: for an exchange that may outlast it.
    pub fn take_proof(&mut self, now: Timestamp) -> Option<Proof> {
        let session = self.session.take().map(Proof::Session);
        let key = || self.api_key.take().map(Proof::ApiKey);
        let explicit = session.or_else(|| self.token.take().map(|token| Proof::of_token(token, now))).or_else(key);
        if self.certificates.is_empty() {
            return explicit;
        }
        Proof::each(explicit.into_iter().chain(self.certificates.drain(..).map(Proof::Certificate)))
    }

    /// Whether this authority vouches for the client's certificate; `None`: whether one does.
    fn is_certified(&self, ca: Option<&str>) -> bool {
        self.certificates.iter().any(|certified| ca.is_none_or(|ca| *certified.ca == *ca))
    }

    /// Whether the client came by https, as it sees it.
    pub fn is_https(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.scheme == Scheme::Https)
    }

    /// Whether this is a load balancer's probe, which is not logged.
    pub fn is_probe(&self) -> bool {
        self.route.as_ref().is_some_and(|route| matches!(route.target, Target::Own(Own::Livez)))
    }
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::ProofsFull => Self::ProofsFull,
            Busy::TooMany { retry_after } => Self::TooMany { retry_after },
        }
    }
}

impl From<RewriteError> for Refusal {
    fn from(error: RewriteError) -> Self {
        match error {
            RewriteError::IdentityTooLarge => Self::IdentityTooLarge,
        }
    }
}

fn refusal(denial: Denial, route: &Route) -> Refusal {
    match denial {
        Denial::Anonymous if takes_nothing_but_certificates(route) => Refusal::CertificateNeeded { known: false },
        Denial::Anonymous => Refusal::NoCredential,
        Denial::Requirement { rule: authz::MTLS, .. } => Refusal::CertificateNeeded { known: true },
        Denial::Requirement { rule, scope } => Refusal::NotAllowed { rule, scope },
        Denial::StaleLogin { max_age } => Refusal::StaleLogin { max_age },
        Denial::WeakLogin { max_age } => Refusal::WeakLogin { max_age },
    }
}

fn takes_nothing_but_certificates(route: &Route) -> bool {
    match &route.access {
        Access::Public { .. } => false,
        Access::Authenticated(rule) => {
            !rule.mtls.is_empty() && !rule.session && rule.issuers.is_empty() && rule.api_key.is_none()
        }
    }
}

const FORWARDING: [HeaderName; 6] = [
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("via"),
];
