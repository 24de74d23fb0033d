//! `{prefix}/token`: an access token, for a session, for a password, or for an API key.

use std::sync::Arc;

use bytes::Bytes;
use http::{header::SET_COOKIE, request::Parts};
use http_body::Body;

use super::{
    Answer, Client, Context, Event, Grant, admit, answer, claims, is_browser,
    request::{self, Asked},
};
use crate::{
    authn::possession::{Confirmation, Thumbprint},
    login::{self, Native},
    refresh::{Delivery, Family, Opening, RefreshToken},
    refusal::{Refusal, TokenError},
    session::{
        Session,
        cookie::{self, Presented},
    },
    telemetry::audit::What,
};

/// `{prefix}/token`.
///
/// # Errors
/// [`Refusal::Token`] and, for logins, whatever a login is refused with.
pub async fn issue<B: Body<Data = Bytes>>(head: &Parts, body: B, context: Context<'_>) -> Result<Answer, Refusal> {
    admit(head, &context)?;
    if !login::is_json(&head.headers)? {
        return Err(Refusal::UnsupportedMediaType);
    }
    let asked = request::token(&login::read(body).await?)?;
    match asked {
        Asked::ApiKey { client } => by_api_key(asking(&client, Grant::ApiKey, &context)?, &context),
        Asked::Password { client, login } => {
            let client = asking(&client, Grant::Password, &context)?;
            // A page has a login of its own, and no business with passwords elsewhere.
            if is_browser(&head.headers) {
                refused(&context, client, Grant::Password, "from_a_page", None);
                return Err(Refusal::CrossSite);
            }
            by_password(client, login, &context).await
        }
        Asked::Session { client } => by_session(asking(&client, Grant::Session, &context)?, head, &context).await,
        Asked::Unknown => Err(Refusal::Token(TokenError::UnsupportedGrantType)),
    }
}

fn asking<'a>(id: &str, grant: Grant, context: &Context<'a>) -> Result<&'a Client, Refusal> {
    let client = context.settings.client(id)?;
    client.asks_by(grant)?;
    Ok(client)
}

/// That the request comes from our own pages was judged with its cookie (R31).
async fn by_session(client: &Client, head: &Parts, context: &Context<'_>) -> Result<Answer, Refusal> {
    let session = context.login.session.ok_or(Refusal::NoCredential)?;
    context.note_activity(client, Delivery::Cookie, session);
    // A page that is loaded anew has a cookie already, and goes on with its family.
    let key = context.proven_key()?;
    let (family, token) = match family_of_cookie(head, client, session, context).filter(|family| family.key() == key) {
        Some(family) => (family, None),
        None => {
            let (family, token) = begin(client, session, Delivery::Cookie, key, context).await?;
            (family, Some(token))
        }
    };
    let mut response = answer(&context.access_token(client, &family, session, key)?, None);
    if let Some(token) = token {
        response.headers_mut().append(SET_COOKIE, context.refresh_cookie(&token, session));
    }
    context.tell(What::TokenIssued, None, &client.id, Some(session), Grant::Session.label());
    Ok(Answer { response, event: Event::Issued(Grant::Session) })
}

async fn by_password(client: &Client, login: Native, context: &Context<'_>) -> Result<Answer, Refusal> {
    let key = context.proven_key()?;
    let session = login::sign_in_natively(login, context.login).await?;
    let issued = async {
        let (family, token) = begin(client, &session, Delivery::Body, key, context).await?;
        Ok((token, context.access_token(client, &family, &session, key)?))
    };
    let (token, access) = match issued.await {
        Ok(issued) => issued,
        Err(refusal) => {
            // Nobody could ever use it. What cannot be written down now ends by itself, unused.
            let _ = context.login.store.end(session.key()).await;
            return Err(refusal);
        }
    };
    let response = answer(&access, Some(token.expose().expose()));
    context.tell(What::TokenIssued, None, &client.id, Some(&session), Grant::Password.label());
    Ok(Answer { response, event: Event::Issued(Grant::Password) })
}

/// No refresh token: the key is one (RFC 6749 section 4.4.3).
fn by_api_key(client: &Client, context: &Context<'_>) -> Result<Answer, Refusal> {
    let key = context.api_key.ok_or(Refusal::Token(TokenError::InvalidGrant("no_api_key")))?;
    let proven = context.proven_key()?;
    let confirmation = Confirmation { key: proven, certificate: None };
    let claims = claims::of_key(context.settings, client, key, confirmation, context.login.now);
    let response = answer(&context.signed(&claims, key.identity(), proven)?, None);
    context.tell_key(What::TokenIssued, &client.id, key);
    Ok(Answer { response, event: Event::Issued(Grant::ApiKey) })
}

async fn begin(
    client: &Client,
    session: &Session,
    delivery: Delivery,
    key: Option<Thumbprint>,
    context: &Context<'_>,
) -> Result<(Arc<Family>, RefreshToken), Refusal> {
    let limit = context.settings.max_families;
    let opening = Opening { session: session.key(), client: &client.id, delivery, key };
    let begun = context.families.begin(opening, limit, context.login.now).await;
    begun.map_err(Context::begin_error)
}

/// The family whose present token the browser has, if it is of this session and client.
fn family_of_cookie(head: &Parts, client: &Client, session: &Session, context: &Context<'_>) -> Option<Arc<Family>> {
    let Presented::One(value) = cookie::find(&head.headers, &context.settings.cookie) else { return None };
    let token = RefreshToken::parse(value)?;
    let family = context.families.of_token(&token)?;
    let is_theirs = *family.session() == *session.key() && *family.client() == *client.id;
    (is_theirs && family.delivery() == Delivery::Cookie && family.is_current(&token)).then_some(family)
}

fn refused(context: &Context<'_>, client: &Client, grant: Grant, why: &'static str, session: Option<&Session>) {
    context.tell(What::TokenRefused, Some(why), &client.id, session, grant.label());
}
