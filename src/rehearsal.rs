//! A request that never was, judged by the code that judges real ones: what `explain`, `[[test]]` and `diff` stand on.

use std::{fmt, net::IpAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header::HOST, request::Parts, uri::PathAndQuery,
};

use crate::{
    authz::{Permit, Trace},
    client::{Connection, Cutter, PeerAddr, Scheme, Tls},
    clock::Timestamp,
    csrf,
    decide::{self, Decision, Findings, Question, Supposed, Verdict},
    headers::{self, Proofs, assertion},
    hints,
    host::Authority,
    id::RequestId,
    identity::Via,
    refusal::Refusal,
    route::{Redirect, Target},
    state::Snapshot,
};

/// The request.
pub struct Rehearsal {
    head: Parts,
    connection: Connection,
    now: Timestamp,
}

/// What would come of it.
pub struct Outcome<'s> {
    /// What was found on the way.
    pub findings: Findings<'s>,
    /// The refusal, if there is one.
    pub refusal: Option<Refusal>,
    /// Each condition that was looked at, and whether it held.
    pub steps: Vec<(String, bool)>,
    /// What the upstream would be sent, where the request would go to one.
    pub sent: Option<Sent>,
    /// The status of our own answer; 200 stands for whatever an upstream would say.
    pub status: StatusCode,
    /// Whether it would be refused as it came from another site's page, with a session's cookie (R31).
    pub is_cross_site: bool,
}

/// What an upstream gets of a request, but for its method and host.
pub struct Sent {
    /// Path and query.
    pub target: PathAndQuery,
    /// The headers.
    pub headers: HeaderMap,
}

/// Remembers every step.
#[derive(Default)]
struct Steps(Vec<(String, bool)>);

impl Trace for Steps {
    fn step(&mut self, condition: &dyn fmt::Display, holds: bool) {
        self.0.push((condition.to_string(), holds));
    }
}

impl Rehearsal {
    /// A request from this machine, without any credential.
    pub fn new(method: Method, scheme: Scheme, authority: &Authority, uri: &Uri, now: Timestamp) -> Self {
        let mut head = http::Request::new(()).into_parts().0;
        head.method = method;
        head.uri = uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
        if let Ok(host) = authority.to_string().try_into() {
            head.headers.insert(HOST, host);
        }
        let tls = (scheme == Scheme::Https).then(|| Tls {
            server_name: Some(authority.host.as_str().into()),
            version: "1.3",
            asked: None,
            certificate: None,
        });
        let peer = PeerAddr::Ip(([127, 0, 0, 1], 0).into());
        let local_port = authority.port.unwrap_or_else(|| scheme.default_port());
        Self {
            head,
            connection: Connection {
                id: 0,
                peer,
                said_by: None,
                local_port,
                tls,
                cutter: Cutter::default(),
                hints: hints::OfConnection::default(),
            },
            now,
        }
    }

    /// The same, from another address.
    pub fn from(mut self, address: IpAddr) -> Self {
        self.connection.peer = PeerAddr::Ip((address, 0).into());
        self
    }

    /// The same, with one more header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.head.headers.append(name, value);
        self
    }

    /// Judges it as sent by whoever is supposed to ask.
    pub fn run(mut self, snapshot: &Snapshot, supposed: Supposed) -> Outcome<'_> {
        if let Some(tls) = &mut self.connection.tls {
            // A connection that was opened for this host.
            let host = tls.server_name.as_ref().and_then(|name| name.parse().ok());
            tls.asked = host.and_then(|host| snapshot.mtls.asked.of_host(&host).cloned());
        }
        let mut steps = Steps::default();
        let question =
            Question { head: &self.head, connection: &self.connection, malformed: None, now: self.now, waited: true };
        let Decision { findings, verdict } = decide::decide_as(snapshot, question, supposed, &mut steps);
        let is_cross_site = self.is_cross_site(&findings);
        let judged = match verdict {
            Verdict::Allow(permit) => self.relay(snapshot, permit, &findings),
            Verdict::Preflight => Ok((StatusCode::NO_CONTENT, None)),
            Verdict::Refuse(refusal) => Err(refusal),
        };
        let (status, sent, refusal) = match judged {
            Ok((status, sent)) => (status, sent, None),
            Err(refusal) => (refusal.status(), None, Some(refusal)),
        };
        Outcome { findings, refusal, steps: steps.0, sent, status, is_cross_site }
    }

    fn is_cross_site(&self, findings: &Findings<'_>) -> bool {
        let (Some(route), Some(view), Some(identity)) = (&findings.route, &findings.view, &findings.identity) else {
            return false;
        };
        matches!(identity.via(), Via::Mtls | Via::Session) && csrf::check(&route.csrf, &self.head, false, view).is_err()
    }

    fn relay(
        self,
        snapshot: &Snapshot,
        permit: Permit<'_>,
        findings: &Findings<'_>,
    ) -> Result<(StatusCode, Option<Sent>), Refusal> {
        let route = permit.route();
        match (&route.target, &findings.view, findings.sent_path()) {
            (Target::Upstream(destination), Some(view), Some(path)) => {
                // Of several the first: what is sent differs in whom the assertion is for, and nothing else.
                let index = destination.upstreams().next().unwrap_or_default();
                let id = RequestId::generate();
                let settings = &snapshot.headers;
                let assertion = settings.assertion.as_ref().zip(permit.identity());
                let said =
                    assertion.and_then(|(settings, caller)| assertion::rehearsed(caller, index, settings, self.now));
                let proofs = Proofs { assertion: said.as_deref(), ..Proofs::default() };
                let outbound = headers::rewrite(&self.head, permit, proofs, view, path, &id, settings)?;
                let sent = Sent { target: outbound.target().clone(), headers: outbound.lines().to_map() };
                Ok((StatusCode::OK, Some(sent)))
            }
            (Target::Redirect(Redirect { status, .. }) | Target::Respond { status, .. }, _, _) => Ok((*status, None)),
            (Target::Own(_) | Target::Upstream(_), _, _) => Ok((StatusCode::OK, None)),
        }
    }
}
