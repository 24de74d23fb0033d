//! What stands behind the edges: the pipeline, the redirect to https, telemetry, administration.
//!
//! In: a request whose framing is sound. Out: its answer. One type for all four, with one type of body: the edge is
//! compiled for each type that it serves, HTTP and TLS included, and four of the same would only take memory and push
//! each other out of the processor's caches. The pipeline's answers pass as they are; the others are boxed.

use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::servers;
use crate::{
    admin,
    authn::jwt::Issuer,
    edge::{Handler, Redirect},
    inbound::Inbound,
    pipeline,
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

    async fn handle(&self, inbound: &mut Inbound, body: Incoming) -> Response<Body> {
        match self {
            Self::Pipeline(worker) => worker.handle(inbound, body).await.map(Body::Pipeline),
            Self::Redirect(redirect) => redirect.handle(inbound, body).await.map(Body::other),
            Self::Telemetry(telemetry) => {
                let answer = telemetry.answer(&inbound.head.method, inbound.head.uri.path());
                answer.map(|text| Body::other(Full::new(text)))
            }
            // Boxed: the requests of the pipeline would carry what these few need.
            Self::Administration(live) => Box::pin(administer(live, inbound, body)).await.map(Body::other),
        }
    }
}

/// The body of an answer.
pub(super) enum Body {
    Pipeline(pipeline::Body),
    Other(Other),
}

/// What never breaks off.
type Other = Box<dyn http_body::Body<Data = Bytes, Error = Infallible> + Unpin>;

impl Body {
    fn other(body: impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin + 'static) -> Self {
        Self::Other(Box::new(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = pipeline::BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, pipeline::BodyError>>> {
        match self.get_mut() {
            Self::Pipeline(body) => Pin::new(body).poll_frame(context),
            Self::Other(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Pipeline(body) => body.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pipeline(body) => body.size_hint(),
            Self::Other(body) => body.size_hint(),
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
