//! A form that meets a session that ran out a short while ago is kept for its person instead of being lost.
//!
//! In: a refusal, and the request that it is for. Out: the same refusal, or one that says that the form is kept.
//! Everything that has to be right before was judged before: route, cross-site check (R31), and that nothing but the
//! end of the session keeps the request out.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use http::{header::CONTENT_LENGTH, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt;
use zeroize::Zeroizing;

use super::body::discard;
use crate::{
    authn::credential,
    clock::Timestamp,
    decide::Findings,
    inbound::Incoming,
    login::{Form, STASH_COOKIE, is_form},
    refusal::{Audience, BadCredential, Refusal},
    route::Target,
    session::{Owner, SameSite, SessionKey, SessionToken, cookie},
    state::{Shared, Snapshot},
};

/// A form that may be kept if it can be read: whose session it met too late.
pub(super) struct Late {
    session: SessionKey,
    owner: Owner,
}

/// Reads the form and keeps it, or forgets it. To be boxed: it is rare, and every request would carry its size.
pub(super) async fn keep(
    Late { session, owner }: Late,
    refusal: Refusal,
    shared: &Shared,
    head: &Parts,
    mut body: Incoming,
    now: Timestamp,
) -> Refusal {
    let read = tokio::time::timeout(READING, collect(&mut body)).await.ok().flatten();
    let Some(form) = read.and_then(|bytes| Form::new(head, bytes)) else {
        discard(body);
        return refusal;
    };
    match shared.stash.keep(form, session, owner, &head.headers, now) {
        Some(secret) => {
            Refusal::FormKept { cookie: cookie::value(STASH_COOKIE, secret.expose(), LIFETIME, SameSite::Lax) }
        }
        None => refusal,
    }
}

/// Whose session it was that a person's form met too late.
pub(super) fn late(
    refusal: &Refusal,
    snapshot: &Snapshot,
    shared: &Shared,
    findings: &Findings<'_>,
    head: &Parts,
    body: &Incoming,
    now: Timestamp,
) -> Option<Late> {
    if *refusal != Refusal::BadCredential(BadCredential::Session) {
        return None;
    }
    let route = findings.route?;
    let told = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let fits =
        told.is_none_or(|length| length <= Form::MAX_BYTES) && body.size_hint().lower() <= Form::MAX_BYTES as u64;
    let is_kept = fits
        && findings.is_https()
        && snapshot.login.is_open()
        && matches!(route.target, Target::Upstream(_))
        && Audience::of(head) == Audience::Person { reading: false }
        && is_form(head);
    if !is_kept {
        return None;
    }
    let value = credential::cookie(&head.headers, &snapshot.session.cookie).ok().flatten()?;
    let session = SessionToken::parse(value)?.key();
    Some(Late { session, owner: shared.sessions.recently_expired(&session, now)? })
}

async fn collect(body: &mut Incoming) -> Option<Zeroizing<Vec<u8>>> {
    let mut body = pin!(body);
    let mut read = Zeroizing::new(Vec::with_capacity(4096));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if data.len() > Form::MAX_BYTES - read.len() {
            return None;
        }
        grow(&mut read, &data);
    }
    Some(read)
}

/// Appends without leaving a copy behind that nobody wipes.
fn grow(read: &mut Zeroizing<Vec<u8>>, data: &Bytes) {
    if read.capacity() - read.len() < data.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity((read.len() + data.len()).next_power_of_two()));
        larger.extend_from_slice(read);
        *read = larger;
    }
    read.extend_from_slice(data);
}

/// For the whole body.
const READING: Duration = Duration::from_secs(10);

/// As long as the form is kept.
const LIFETIME: &str = "; Max-Age=900";
