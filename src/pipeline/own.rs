//! Our own endpoints: hands the request to `login`, and tells audit log and metrics what came of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{HeaderValue, Response, request::Parts};
use hyper::body::Incoming;

use super::{Worker, body::Content};
use crate::{
    authz::Permit,
    client::ClientView,
    decide::Findings,
    login::{self, Event},
    page,
    refusal::Refusal,
    route::Own,
    session::Session,
    state::{Shared, Snapshot},
    telemetry::log::Value,
};

/// Answers a request to one of our own endpoints.
pub(super) async fn serve(
    own: Own,
    worker: &Worker,
    snapshot: &Snapshot,
    permit: &Permit,
    findings: &Findings,
    head: &Parts,
    body: Incoming,
) -> Result<Response<Content>, Refusal> {
    let shared = &worker.live.shared;
    let Some(view) = &findings.view else {
        return Err(Refusal::BadHost("absent"));
    };
    let context = login::Context {
        view,
        identity: permit.identity(),
        session: findings.session.as_ref(),
        login: &snapshot.login,
        sessions: &snapshot.session,
        store: &shared.sessions,
        hasher: &shared.hasher,
        throttle: &shared.throttle,
        now: shared.clock.now(),
    };
    let answered = match own {
        Own::Livez => return Ok(alive()),
        Own::Login => login::sign_in(head, body, context).await,
        Own::Logout => login::sign_out(head, body, context).await,
        Own::Nothing => return Err(Refusal::NoRoute),
        Own::Session => login::who_am_i(head, context),
    };
    match answered {
        Ok(answer) => {
            told(shared, view, &answer.event);
            Ok(answer.response.map(Content::own))
        }
        Err(refusal) => {
            refused(shared, view, own, &refusal);
            Err(refusal)
        }
    }
}

fn alive() -> Response<Content> {
    let mut response = page::empty(http::StatusCode::OK).map(|_| Content::own("ok\n".into()));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn told(shared: &Shared, view: &ClientView, event: &Event) {
    match event {
        Event::Told | Event::FormRefused => {}
        Event::LoggedIn { session, provider, dropped_grants } => {
            count(&shared.login_counts.succeeded);
            let dropped = Value::Number(u64::try_from(*dropped_grants).unwrap_or(u64::MAX));
            audit(
                shared,
                view,
                "login",
                Some(session),
                &[("provider", Value::Text(provider)), ("dropped_grants", dropped)],
            );
        }
        Event::LoginFailed { provider } => {
            count(&shared.login_counts.failed);
            audit(shared, view, "login_failed", None, &[("provider", Value::Text(provider))]);
        }
        Event::LoggedOut(Some(session)) => {
            count(&shared.login_counts.logouts);
            audit(shared, view, "logout", Some(session), &[]);
        }
        Event::LoggedOut(None) => {}
    }
}

fn refused(shared: &Shared, view: &ClientView, own: Own, refusal: &Refusal) {
    if own != Own::Login {
        return;
    }
    if *refusal == Refusal::LoginFailed {
        count(&shared.login_counts.failed);
        audit(shared, view, "login_failed", None, &[]);
    }
    if matches!(refusal, Refusal::TooMany { .. }) {
        count(&shared.login_counts.throttled);
        audit(shared, view, "login_throttled", None, &[]);
    }
}

fn audit(
    shared: &Shared,
    view: &ClientView,
    event: &'static str,
    session: Option<&Session>,
    more: &[(&'static str, Value<'_>)],
) {
    let address = view.address.to_string();
    let mut fields = vec![("client", Value::Text(&address))];
    let key = session.map(|session| session.key().to_string());
    if let (Some(session), Some(key)) = (session, &key) {
        fields.push(("realm", Value::Text(session.identity().realm())));
        fields.push(("subject", Value::Text(session.identity().subject())));
        fields.push(("session", Value::Text(key)));
    }
    fields.extend_from_slice(more);
    shared.telemetry.audit().record(shared.clock.now(), event, &fields);
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
