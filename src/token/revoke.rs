//! `{prefix}/token/revoke`: whoever has a token may end it, and with it all that came from the same grant (RFC 7009).
//!
//! An unknown token is no error: it is void as it should be. An access token takes its family along, a refresh token
//! the access tokens of its family. What came from an API key is struck by itself.

use bytes::Bytes;
use http::{StatusCode, request::Parts};
use http_body::Body;

use super::{
    Answer, Client, Context, Event, admit,
    refresh::{end, grant_of, presented},
    request,
};
use crate::{
    authn::{
        self,
        jwt::VerifiedToken,
        own::{Parent, Parents},
    },
    durable::Unavailable,
    login, page,
    refresh::{Family, RefreshToken},
    refusal::{Refusal, TokenError},
    revocation::{Full, Keep, Target},
    telemetry::audit::What,
};

/// `{prefix}/token/revoke`.
///
/// # Errors
/// [`Refusal::Token`] for clients that are not listed or have another's token, and [`Refusal::NotWritten`] where the
/// disk fails.
pub async fn revoke<B: Body<Data = Bytes>>(head: &Parts, body: B, context: Context<'_>) -> Result<Answer, Refusal> {
    admit(head, &context)?;
    let is_json = login::is_json(&head.headers)?;
    let asked = request::revoke(is_json, &login::read(body).await?)?;
    let client = context.settings.client(&asked.client)?;
    let is_access_token = |text: &str| RefreshToken::parse(text.as_bytes()).is_none();
    match asked.token {
        Some(text) if is_access_token(text.expose()) => access_token(text.expose(), client, &context).await?,
        refresh_token => {
            let text = presented(&head.headers, refresh_token, &context)?.ok_or(Refusal::BadBody("no token"))?.0;
            let family = RefreshToken::parse(text.expose().as_bytes()).and_then(|t| context.families.of_token(&t));
            if let Some(family) = family {
                end_family(&family, client, &context).await?;
            }
        }
    }
    let mut response = page::empty(StatusCode::OK);
    context.settings.take_cookie_away(&head.headers, &context.login.login.prefix, response.headers_mut());
    Ok(Answer { response, event: Event::Revoked })
}

async fn access_token(text: &str, client: &Client, context: &Context<'_>) -> Result<(), Refusal> {
    let ourselves = context.judge.issuers.iter().position(|issuer| issuer.own.is_some());
    let Some(ourselves) = ourselves else { return Ok(()) };
    let verified = authn::token_to_end(text.as_bytes(), ourselves, &context.judge)?;
    let Some(verified) = verified else { return Ok(()) };
    let parents = Parents {
        families: context.families,
        sessions: context.login.store,
        settings: context.login.sessions,
        keys: context.api_keys,
        revocations: context.revocations,
    };
    let (issuer, address) = (verified.issuer(), context.login.view.address);
    let parent = verified
        .child()
        .and_then(|child| child.parent(verified.identity(), issuer, parents, address, context.login.now).ok());
    match parent {
        None => Ok(()),
        Some(Parent::Session { family, .. }) => end_family(family, client, context).await,
        Some(Parent::Key { key, .. }) => {
            if verified.client() != Some(&*client.id) {
                return Err(Refusal::Token(TokenError::UnauthorizedClient));
            }
            strike(&verified, context).await?;
            context.tell_key(What::TokenRevoked, &client.id, key);
            Ok(())
        }
    }
}

async fn end_family(family: &Family, client: &Client, context: &Context<'_>) -> Result<(), Refusal> {
    if *family.client() != *client.id {
        return Err(Refusal::Token(TokenError::UnauthorizedClient));
    }
    let session = context.login.store.find(family.session());
    end(family, context).await?;
    context.tell(What::TokenRevoked, None, family.client(), session.as_deref(), grant_of(family).label());
    Ok(())
}

/// Half of the list stays for administrators: whoever has a key can have as many tokens as they like.
async fn strike(verified: &VerifiedToken, context: &Context<'_>) -> Result<(), Refusal> {
    let target = Target::Token { signing_input: *verified.signing_input_hash() };
    let keep = Keep::Until(verified.accepted_until());
    let struck = context.revocations.strike(target, context.login.now, keep, context.max_revocations / 2);
    let (_, commit) = struck.map_err(|Full| Refusal::Unavailable)?;
    match commit {
        Some(commit) => commit.await.map_err(|Unavailable| Refusal::NotWritten),
        None => Ok(()),
    }
}
