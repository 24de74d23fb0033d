//! The token endpoints: hands the request to `token`, counts what came of it, and publishes the keys.

use http::Response;

use super::{
    Worker,
    body::Content,
    own::{Asked, count, counted, key_set, refused},
};
use crate::{
    authn::{Judge, dpop},
    inbound::Incoming,
    login,
    refusal::{Refusal, TokenError},
    route::Own,
    state::Snapshot,
    token::{self, Event, Grant},
};

/// Answers a request to a token endpoint.
pub(super) async fn serve(
    own: Own,
    worker: &Worker,
    snapshot: &Snapshot,
    asked: Asked<'_>,
    body: Incoming,
    login: login::Context<'_>,
) -> Result<Response<Content>, Refusal> {
    let Asked { findings, head, .. } = asked;
    let shared = &worker.live.shared;
    let (Some(settings), Some(view), Some(path)) = (&snapshot.token, &findings.view, &findings.path) else {
        return Err(Refusal::NoRoute);
    };
    let context = token::Context {
        login,
        settings,
        families: &shared.families,
        keys: &shared.signing.access,
        api_key: findings.api_key.as_ref(),
        api_keys: snapshot.keys(shared),
        judge: Judge {
            issuers: &snapshot.issuers,
            cache: &shared.tokens,
            wrong: &shared.wrong_signatures,
            verify_rate: snapshot.verify_rate,
            address: view.address,
            now: login.now,
            waited: true,
        },
        offer: dpop::Offer {
            head,
            view,
            path,
            tolerated: snapshot.routes.tolerated(),
            settings: &snapshot.dpop,
            proofs: &shared.proofs,
        },
        revocations: &shared.revocations,
        max_revocations: snapshot.max_revocations,
    };
    let answered = match own {
        Own::Token => token::issue(head, body, context).await,
        Own::TokenKeys => return Ok(key_set(shared.signing.access.jwks())),
        Own::TokenRefresh => token::refresh(head, body, context).await,
        Own::TokenRevoke => token::revoke(head, body, context).await,
        Own::AssertionKeys
        | Own::Livez
        | Own::Login
        | Own::Logout
        | Own::Nothing
        | Own::Resend
        | Own::Session
        | Own::Sessions => return Err(Refusal::NoRoute),
    };
    let counts = &shared.token_counts;
    match answered {
        Ok(answer) => {
            match answer.event {
                Event::Issued(Grant::ApiKey) => count(&counts.by_api_key),
                Event::Issued(Grant::Password) => {
                    count(&counts.by_password);
                    counted(&shared.login_counts, &login::Event::LoggedIn);
                }
                Event::Issued(Grant::Session) => count(&counts.by_session),
                Event::Refreshed => count(&counts.refreshed),
                Event::Revoked => count(&counts.revoked),
            }
            Ok(answer.response.map(Content::own))
        }
        Err(refusal) => {
            count(&counts.refused);
            if refusal == Refusal::Token(TokenError::InvalidGrant(token::REUSED)) {
                count(&counts.reused);
            }
            refused(&shared.login_counts, own, &refusal);
            Err(refusal)
        }
    }
}
