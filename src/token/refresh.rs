//! `{prefix}/token/refresh`: the next access token, for a refresh token that is exchanged for the next one.
//!
//! In: a refresh token, in the body from a program, in its cookie and beside the session's from a page. Out: the next
//! pair. Invariant: whatever is wrong with a token is found before it is spent, so that an honest mistake costs
//! nothing.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header::SET_COOKIE, request::Parts};
use http_body::Body;

use super::{Answer, Client, Context, Event, Grant, admit, answer, is_browser, request};
use crate::{
    durable::Unavailable,
    login,
    refresh::{Delivery, Family, RefreshToken, Rotated},
    refusal::{Refusal, TokenError},
    revocation::{Checked, Claims as Judged},
    secret::Secret,
    session::{
        Session,
        cookie::{self, Presented},
    },
    telemetry::audit::What,
};

/// `{prefix}/token/refresh`.
///
/// # Errors
/// [`Refusal::Token`], [`Refusal::CrossSite`] for cookies of other sites and tokens from pages, and
/// [`Refusal::NotWritten`] where the disk fails: then the token that was sent stays good.
pub async fn refresh<B: Body<Data = Bytes>>(head: &Parts, body: B, context: Context<'_>) -> Result<Answer, Refusal> {
    admit(head, &context)?;
    if !login::is_json(&head.headers)? {
        return Err(Refusal::UnsupportedMediaType);
    }
    let asked = request::refresh(&login::read(body).await?)?;
    let client = context.settings.client(&asked.client)?;
    let (text, delivery) = presented(&head.headers, asked.token, &context)?.ok_or(VOID)?;
    let token = RefreshToken::parse(text.expose().as_bytes()).ok_or(VOID)?;
    let family = context.families.of_token(&token).ok_or(VOID)?;
    let Some(session) = living_session(&family, &context) else {
        // Nothing of it counts any more; what the disk does not hear now it hears at the next sweep.
        let _ = context.families.end(&family).await;
        return Err(invalid("session_ended"));
    };
    // Whoever holds the session's key still has the token.
    if !session.counts_for(|| context.login.certificate.and_then(|it| it.key()), context.login.sessions) {
        context.tell(What::TokenRefused, Some("other_key"), &client.id, Some(&session), grant_of(&family).label());
        return Err(invalid("other_key"));
    }
    judge(&family, client, delivery, &session, &context).await?;
    // A proof is used up by looking at it; nothing else of the token is yet.
    let key = context.proven_key()?;
    if family.key().is_some() && family.key() != key {
        context.tell(What::TokenRefused, Some("other_key"), &client.id, Some(&session), grant_of(&family).label());
        return Err(invalid("other_key"));
    }
    let rotated = context.families.rotate(&family, &token, context.login.view.address, context.login.now).await;
    let next = match rotated.map_err(|Unavailable| Refusal::NotWritten)? {
        Rotated::Next(next) => next,
        Rotated::Reused => {
            reused(&family, &session, &context).await?;
            return Err(invalid(REUSED));
        }
        Rotated::Busy => return Err(Refusal::Unavailable),
        Rotated::Void => return Err(VOID),
    };
    context.note_activity(client, delivery, &session);
    let access = context.access_token(client, &family, &session, key)?;
    let text = next.expose();
    let in_body = (delivery == Delivery::Body).then(|| text.expose().as_str());
    let mut response = answer(&access, in_body);
    if delivery == Delivery::Cookie {
        response.headers_mut().append(SET_COOKIE, context.refresh_cookie(&next, &session));
    }
    context.tell(What::TokenRefreshed, None, family.client(), Some(&session), grant_of(&family).label());
    Ok(Answer { response, event: Event::Refreshed })
}

/// The refresh token of a request, and how it came. In a cookie it counts for our own pages only; in a body it never
/// comes from a page.
pub(super) fn presented(
    headers: &HeaderMap,
    in_body: Option<Secret<String>>,
    context: &Context<'_>,
) -> Result<Option<(Secret<String>, Delivery)>, Refusal> {
    let in_cookie = match cookie::find(headers, &context.settings.cookie) {
        Presented::Absent => None,
        Presented::One(value) => Some(std::str::from_utf8(value).map_err(|_| VOID)?),
        Presented::Several => return Err(Refusal::BadBody("two refresh cookies")),
    };
    match (in_body, in_cookie) {
        (Some(_), Some(_)) => Err(Refusal::BadBody("a refresh token in the body and one in a cookie")),
        (Some(_), None) if is_browser(headers) => Err(Refusal::CrossSite),
        (Some(text), None) => Ok(Some((text, Delivery::Body))),
        // Where from it says is right by the route's own check; that it says nothing is enough for programs only.
        (None, Some(_)) if !is_browser(headers) => Err(Refusal::CrossSite),
        (None, Some(text)) => Ok(Some((Secret::new(text.to_owned()), Delivery::Cookie))),
        (None, None) => Ok(None),
    }
}

/// Ends a family whose token somebody has besides its owner, and with it what nobody but its owner could use.
pub(super) async fn end(family: &Family, context: &Context<'_>) -> Result<(), Refusal> {
    context.families.end(family).await.map_err(|Unavailable| Refusal::NotWritten)?;
    if family.delivery() == Delivery::Body {
        context.login.store.end(family.session()).await.map_err(|Unavailable| Refusal::NotWritten)?;
    }
    Ok(())
}

pub(super) const fn grant_of(family: &Family) -> Grant {
    match family.delivery() {
        Delivery::Body => Grant::Password,
        Delivery::Cookie => Grant::Session,
    }
}

fn living_session(family: &Family, context: &Context<'_>) -> Option<Arc<Session>> {
    let session = context.login.store.find(family.session())?;
    (!session.is_expired(context.login.sessions, context.login.now)).then_some(session)
}

/// Whether the family may go on for this client, this way.
async fn judge(
    family: &Arc<Family>,
    client: &Client,
    delivery: Delivery,
    session: &Session,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    if *family.client() != *client.id {
        context.tell(What::TokenRefused, Some("other_client"), &client.id, Some(session), grant_of(family).label());
        return Err(invalid("other_client"));
    }
    client.asks_by(grant_of(family))?;
    // A neighbouring host can plant a cookie with this name, but none with `__Host-`: nobody is led into another's
    // account by a page that refreshes.
    let beside = context.login.session.map(|session| session.key());
    if delivery == Delivery::Cookie && beside != Some(family.session()) {
        context.tell(What::TokenRefused, Some("other_session"), &client.id, Some(session), grant_of(family).label());
        return Err(invalid("other_session"));
    }
    // What left the cookie that no script reads has been stolen.
    if family.delivery() != delivery {
        reused(family, session, context).await?;
        return Err(invalid(REUSED));
    }
    // "Everything that we have signed so far" is void with what it was signed for.
    let nothing_signed = [0; 32].into();
    let judged = || Judged {
        issuer: &context.settings.issuer,
        jti: None,
        signing_input: &nothing_signed,
        subject: None,
        issued_at: Some(family.began()),
        leeway: std::time::Duration::ZERO,
    };
    if context.revocations.is_struck(&Checked::default(), judged) {
        end(family, context).await?;
        return Err(invalid("revoked"));
    }
    Ok(())
}

async fn reused(family: &Family, session: &Session, context: &Context<'_>) -> Result<(), Refusal> {
    context.tell(What::TokenReused, None, family.client(), Some(session), grant_of(family).label());
    end(family, context).await
}

const fn invalid(why: &'static str) -> Refusal {
    Refusal::Token(TokenError::InvalidGrant(why))
}

const VOID: Refusal = invalid("refresh_token");

/// The reason by which metrics know it again.
pub const REUSED: &str = "refresh_token_reused";
