//! `[token]`: tokens of our own, and ourselves as one of the issuers whose tokens routes accept.
//!
//! In: what is written, and who can open sessions. Out: settings, and an issuer at the end of all others; neither where
//! no client is listed. Whom a token is for has to be somebody: without an audience of its own a client's tokens are
//! for this gateway.

use std::time::Duration;

use super::{
    Build,
    source::{self, Sources},
};
use crate::{
    authn::{
        jwks::KeySlot,
        jwt::{Audience, ClaimMapping, Issuer},
        keys::{Generation, KeyError},
    },
    config::{
        decode::{At, OneOrMany},
        file::{self, File, TokenClient},
        scalar::NonEmpty,
    },
    policy::{Grants, ProofRule},
    session,
    token::{Client, Grant, LONGEST_LIFE, Settings},
};

/// `[token]`, where it lists clients.
pub(super) fn written(file: &File) -> Option<&At<file::Token>> {
    file.token.0.as_ref()?.as_ref().filter(|token| !token.value.clients.is_empty())
}

/// The name of ourselves in `jwt:<name>`.
pub(super) fn name(token: &file::Token) -> &str {
    token.name.as_ref().map_or(SELF, |name| &name.value.0)
}

/// Whether a client may ask in this way.
pub(super) fn has_grant(token: &file::Token, grant: Grant) -> bool {
    token.clients.iter().any(|client| grants(&client.value).contains(&grant))
}

impl Build<'_> {
    /// `[token]`; `Some(None)`: off.
    pub(super) fn token(&mut self, file: &File, session: Option<&session::Settings>) -> Option<Option<Settings>> {
        file.token.0.as_ref()?;
        let Some(At { value: token, place }) = written(file) else {
            return Some(None);
        };
        self.unique("client", token.clients.iter().map(|at| (&*at.value.id.value.0, &at.value.id.place)));
        let sources = Sources::new(file);
        for client in &token.clients {
            let asks = grants(&client.value);
            if asks.is_empty() {
                self.findings.problem(&client.place, "no grant", "\"session\", \"password\" or \"api_key\"");
            }
            if asks.contains(&Grant::ApiKey) && sources.keys.is_empty() {
                self.findings
                    .problem(&client.place, "the grant `api_key`, but no key", "an [[api_key]]")
                    .depends(&["api_key"]);
            }
            if asks.contains(&Grant::Session) && sources.session.is_empty() {
                self.findings
                    .problem(&client.place, "the grant `session`, but no way to open one", "a source of sessions")
                    .depends(&["login", "user", "admin"]);
            }
            if asks.contains(&Grant::Password) && !source::has_login(file) {
                self.findings
                    .problem(
                        &client.place,
                        "the grant `password`, but nobody has one",
                        "[[user]] or a [[login.provider]]",
                    )
                    .depends(&["login", "user"]);
            }
        }
        let lifetime = match &token.lifetime {
            None => LONGEST_LIFE,
            Some(At { value, .. }) if value.0 <= LONGEST_LIFE && value.0 >= SHORTEST_LIFE => value.0,
            Some(At { place, .. }) => {
                self.findings
                    .problem(place, "a lifetime out of bounds", "from \"10s\" to \"5m\"")
                    .help("whoever verifies such a token elsewhere does not hear of a logout before it ends");
                return None;
            }
        };
        let is_empty = |audience: &Option<OneOrMany<NonEmpty>>| audience.as_ref().is_some_and(|list| list.0.is_empty());
        let clients =
            token.clients.iter().filter(|client| is_empty(&client.value.audience)).map(|client| &client.place);
        for place in clients.chain(Some(place).filter(|_| is_empty(&token.audience))) {
            self.findings.problem(place, "an empty `audience`", "whom tokens are meant for");
        }
        let client = |At { value: client, .. }: &At<TokenClient>| Client {
            id: client.id.value.0.as_str().into(),
            grants: grants(client).into(),
            audience: client.audience.as_ref().map_or_else(|| audience(token), texts),
            touch: client.touch,
        };
        Some(Some(Settings {
            issuer: token.issuer.value.0.as_str().into(),
            algorithm: token.algorithm.unwrap_or(file::TokenAlgorithm::Es256).into(),
            lifetime,
            max_families: token
                .max_families
                .map_or(1_000_000, |number| usize::try_from(number.0).unwrap_or(usize::MAX)),
            cookie: Settings::cookie_for(&session?.cookie),
            clients: token.clients.iter().map(client).collect(),
        }))
    }

    /// Ourselves as an issuer.
    pub(super) fn own_issuer(&mut self, file: &File) -> Option<Option<Issuer>> {
        let Some(At { value: token, place }) = written(file) else {
            return Some(None);
        };
        let keys = KeySlot::own().map_err(|KeyError(why)| {
            self.findings.problem(place, why, "keys to sign with");
        });
        Some(Some(Issuer {
            name: name(token).into(),
            realm: source::own_realm(file),
            issuer: token.issuer.value.0.as_str().into(),
            audience: Audience::OneOf(audience(token)),
            keys: keys.ok()?,
            claims: ClaimMapping::default(),
            grants: Grants::All,
            // One clock on both sides; it may be corrected in between.
            leeway: Duration::from_secs(1),
            max_token_life: LONGEST_LIFE,
            required_claims: [].into(),
            introspection: None,
            access_tokens_only: true,
            id_tokens: false,
            trust_email: false,
            proof: ProofRule::None,
            own: Some(token.clients.iter().map(|client| client.value.id.value.0.as_str().into()).collect()),
            generation: Generation::fresh(),
        }))
    }
}

fn grants(client: &TokenClient) -> Vec<Grant> {
    client.grants.as_ref().map_or_else(|| vec![Grant::Session], |grants| grants.iter().map(|grant| grant.0).collect())
}

fn audience(token: &file::Token) -> Box<[Box<str>]> {
    token.audience.as_ref().map_or_else(|| Box::from([token.issuer.value.0.as_str().into()]), texts)
}

fn texts(list: &OneOrMany<NonEmpty>) -> Box<[Box<str>]> {
    list.0.iter().map(|text| text.value.0.as_str().into()).collect()
}

/// Of ourselves, where `[token]` says nothing.
const SELF: &str = "self";

const SHORTEST_LIFE: Duration = Duration::from_secs(10);

impl From<file::TokenAlgorithm> for crate::signing::Algorithm {
    fn from(written: file::TokenAlgorithm) -> Self {
        match written {
            file::TokenAlgorithm::EdDsa => Self::EdDsa,
            file::TokenAlgorithm::Es256 => Self::Es256,
        }
    }
}
