//! What stands behind the edges: the pipeline, the redirect to https, telemetry, administration.
//!
//! In: a request whose framing is sound. Out: its answer. One type for all four, with one type of body: the edge is
//! compiled for each type that it serves, HTTP and TLS included, and four of the same would only take memory and push
//! each other out of the processor's caches. The pipeline's answers pass as they are; the others are boxed.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Response, StatusCode};
use http_body_util::Full;
use pin_project_lite::pin_project;

use super::servers;
use crate::{
    admin,
    authn::jwt::Issuer,
    edge::{Handler, Redirect},
    hints::Hints,
    inbound::{Inbound, Incoming},
    pipeline::{self, Body},
    state::Live,
    telemetry::Telemetry,
};

/// Answers the requests of one edge, on one of its workers.
pub(super) enum Behind {
    /// People and programs.
    Pipeline(pipeline::Worker),
    /// Clients that should have come encrypted.
    Redirect(Redirect),
    /// Metrics and probes; nothing of users.
    Telemetry(Arc<Telemetry>),
    /// Administrators.
    Administration(Arc<Live>),
}

impl Behind {
    /// The pipeline, with what it does beside answering.
    pub(super) fn pipeline(live: &Arc<Live>) -> Self {
        let worker = pipeline::Worker::new(Arc::clone(live));
        let telemetry = Rc::clone(worker.telemetry());
        tokio::task::spawn_local(async move { telemetry.flush_as_needed().await });
        tokio::task::spawn_local(worker.forget_as_needed());
        tokio::task::spawn_local(worker.cut_ended());
        Self::Pipeline(worker)
    }
}

impl Handler for Behind {
    type Body = Body;

    fn takes_tunnels(&self) -> bool {
        match self {
            Self::Pipeline(_) => true,
            Self::Redirect(_) | Self::Telemetry(_) | Self::Administration(_) => false,
        }
    }

    fn handle(&self, inbound: &mut Inbound, body: Incoming, hints: Hints<'_>) -> impl Future<Output = Response<Body>> {
        match self {
            Self::Pipeline(worker) => Handling::Pipeline { handling: worker.handle(inbound, body, hints) },
            Self::Redirect(_) | Self::Telemetry(_) | Self::Administration(_) => {
                // Boxed: the requests of the pipeline would carry what these few need.
                Handling::Other { handling: Box::pin(self.handle_other(inbound, body, hints)) }
            }
        }
    }
}

impl Behind {
    async fn handle_other(&self, inbound: &mut Inbound, body: Incoming, hints: Hints<'_>) -> Response<Body> {
        match self {
            Self::Pipeline(worker) => worker.handle(inbound, body, hints).await,
            Self::Redirect(redirect) => redirect.handle(inbound, body, hints).await.map(Body::other),
            Self::Telemetry(telemetry) => {
                let answer = telemetry.answer(&inbound.head.method, inbound.head.uri.path());
                answer.map(|text| Body::other(Full::new(text)))
            }
            Self::Administration(live) => administer(live, inbound, body).await.map(Body::other),
        }
    }
}

pin_project! {
    /// A request with whoever answers it, without a layer between the edge and the pipeline.
    #[project = HandlingProjected]
    enum Handling<P, O> {
        Pipeline { #[pin] handling: P },
        Other { handling: Pin<Box<O>> },
    }
}

impl<P, O> Future for Handling<P, O>
where
    P: Future<Output = Response<Body>>,
    O: Future<Output = Response<Body>>,
{
    type Output = Response<Body>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response<Body>> {
        match self.project() {
            HandlingProjected::Pipeline { handling } => handling.poll(context),
            HandlingProjected::Other { handling } => handling.as_mut().poll(context),
        }
    }
}

async fn administer(live: &Live, inbound: &mut Inbound, body: Incoming) -> Response<admin::Body<Incoming>> {
    let (snapshot, shared) = (live.snapshot(), &live.shared);
    let Some(settings) = &snapshot.admin else {
        // The listener was bound under a configuration that had `[admin]`.
        let mut gone = Response::new(admin::Body::empty());
        *gone.status_mut() = StatusCode::NOT_FOUND;
        return gone;
    };
    let hosts: Vec<_> = snapshot.routes.known_hosts().cloned().collect();
    let issuers: Vec<_> = snapshot.issuers.iter().map(admin_issuer).collect();
    let certified: Vec<_> = snapshot.mtls.authorities.iter().map(|ca| Arc::clone(ca.realm())).collect();
    let upstreams: Vec<_> = snapshot.upstreams.iter().map(|upstream| Arc::clone(&upstream.name)).collect();
    let context = admin::Context {
        settings,
        session: &snapshot.session,
        hosts: &hosts,
        routes: snapshot.routes.routes(),
        issuers: &issuers,
        upstreams: &upstreams,
        servers: &servers::describe(&snapshot.upstreams, &shared.upstreams),
        store: &shared.sessions,
        families: &shared.families,
        api_keys: snapshot.keys(shared),
        max_api_keys: snapshot.max_api_keys,
        revocations: &shared.revocations,
        certified_realms: &certified,
        max_revocations: snapshot.max_revocations,
        generation: snapshot.generation,
        reloads: &shared.reloads,
        clock: &shared.clock,
        audit: shared.telemetry.audit(),
        peer: inbound.connection.peer,
        request_id: inbound.request_id.as_str(),
    };
    admin::answer(&context, &inbound.head, inbound.malformed, body).await
}

fn admin_issuer(issuer: &Issuer) -> admin::Issuer {
    admin::Issuer {
        name: Arc::clone(&issuer.name),
        issuer: Arc::clone(&issuer.issuer),
        realm: Arc::clone(&issuer.realm),
        opaque: issuer.introspection.is_some(),
        is_self: issuer.own.is_some(),
        keep: issuer.max_token_life.max(SHORTEST_KEEP) + 2 * issuer.leeway,
    }
}

/// A revocation outlives tokens of this length even where tokens are shorter: a reload may make them longer.
const SHORTEST_KEEP: Duration = Duration::from_secs(24 * 3600);
