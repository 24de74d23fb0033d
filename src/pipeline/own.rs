//! Our own endpoints: hands the request to `login`, and counts what came of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use http::{
    HeaderValue, Response,
    header::{ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_TYPE},
    request::Parts,
};

use super::{Worker, body::Content, tokens};
use crate::{
    authz::Permit,
    decide::Findings,
    id::RequestId,
    inbound::Incoming,
    login::{self, Counts, Event},
    page,
    refusal::Refusal,
    route::Own,
    signing::rotation::MAX_AGE,
    state::Snapshot,
    telemetry::audit::{Client, Origin},
};

/// A request to one of our own endpoints.
pub(super) struct Asked<'a> {
    pub(super) permit: &'a Permit<'a>,
    pub(super) findings: &'a Findings<'a>,
    pub(super) head: &'a Parts,
    pub(super) request_id: &'a RequestId,
}

/// An answer of ours, and why nothing was done, if that is no matter of whoever asked.
pub(super) struct Served {
    pub(super) response: Response<Content>,
    pub(super) reason: Option<&'static str>,
}

/// Answers a request to one of our own endpoints.
pub(super) async fn serve(
    own: Own,
    worker: &Worker,
    snapshot: &Snapshot,
    asked: Asked<'_>,
    body: Incoming,
) -> Result<Served, Refusal> {
    let Asked { permit, findings, head, request_id } = &asked;
    let shared = &worker.live.shared;
    let (Some(view), Some(path)) = (&findings.view, &findings.path) else {
        return Err(Refusal::BadHost("absent"));
    };
    let now = shared.clock.now();
    let context = login::Context {
        view,
        path: path.as_str(),
        headers: &head.headers,
        identity: permit.identity(),
        session: findings.session.as_ref(),
        certificate: findings.presented.as_ref(),
        login: &snapshot.login,
        face: snapshot.look.face(head.headers.get(ACCEPT_LANGUAGE)),
        sessions: &snapshot.session,
        store: &shared.sessions,
        hasher: &shared.hasher,
        throttle: &shared.throttle,
        devices: &shared.devices,
        stash: &shared.stash,
        second: &shared.second,
        now,
        audit: shared.telemetry.audit(),
        origin: Origin { now, client: Client::Address(view.address), request_id: request_id.as_str() },
    };
    let answered = match own {
        Own::AssertionKeys => {
            return Ok(Served { response: key_set(shared.signing.assertion.jwks()), reason: None });
        }
        Own::Livez => return Ok(Served { response: alive(), reason: None }),
        Own::Login => login::sign_in(head, body, context).await,
        Own::Logout => login::sign_out(head, body, context).await,
        Own::Resend => login::resend(head, body, context).await,
        Own::Nothing => return Err(Refusal::NoRoute),
        Own::Session => login::who_am_i(head, context),
        Own::Sessions => login::own_sessions(head, body, context).await,
        // Boxed: hardly any request is one of these, and all would carry their size.
        Own::Token | Own::TokenKeys | Own::TokenRefresh | Own::TokenRevoke => {
            let response = Box::pin(tokens::serve(own, worker, snapshot, asked, body, context)).await?;
            return Ok(Served { response, reason: None });
        }
    };
    match answered {
        Ok(answer) => {
            counted(&shared.login_counts, &answer.event);
            Ok(Served { reason: answer.event.reason(), response: answer.response.map(Content::own) })
        }
        Err(refusal) => {
            refused(&shared.login_counts, own, &refusal);
            Err(refusal)
        }
    }
}

fn alive() -> Response<Content> {
    let mut response = page::empty(http::StatusCode::OK).map(|_| Content::own("ok\n".into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// Public keys, for whoever asks (RFC 7517 section 8.5.1); to be kept no longer than the time in which no unknown key
/// begins to sign.
pub(super) fn key_set(jwks: Bytes) -> Response<Content> {
    let mut response = page::empty(http::StatusCode::OK).map(|_| Content::own(jwks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    if let Ok(kept) = HeaderValue::try_from(format!("public, max-age={}", MAX_AGE.as_secs())) {
        headers.insert(CACHE_CONTROL, kept);
    }
    response
}

pub(super) fn counted(counts: &Counts, event: &Event) {
    match event {
        Event::Told | Event::FormRefused | Event::Unavailable(_) => {}
        Event::LoggedIn => count(&counts.succeeded),
        Event::LoginFailed => count(&counts.failed),
        Event::Throttled => count(&counts.throttled),
        Event::LoggedOut => count(&counts.logouts),
    }
}

/// Attempts to log in that came to nothing, wherever they were made.
pub(super) fn refused(counts: &Counts, own: Own, refusal: &Refusal) {
    if !matches!(own, Own::Login | Own::Token) {
        return;
    }
    if matches!(refusal, Refusal::LoginFailed | Refusal::WrongCode) {
        count(&counts.failed);
    }
    if matches!(refusal, Refusal::TooMany { .. }) {
        count(&counts.throttled);
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
