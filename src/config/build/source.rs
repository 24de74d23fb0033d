//! Where identities come from: sessions, users, issuers, admin tokens. Each has a realm and says what it may grant
//! (R5).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use argon2::{Algorithm as Argon2Kind, Argon2, Params, PasswordHasher, Version};
use aws_lc_rs::digest::{SHA256, digest};

use super::{Build, grants, secret::Loaded, token, users};
use crate::{
    accounts::{self, Accounts, User},
    admin::{self, AdminToken, Scope},
    api_key::{ApiKey, ApiKeys, Description},
    authn::{
        credential::TokenPlaces,
        dpop,
        introspection::{self, Credentials, Endpoint},
        jwks::{self, KeySlot},
        jwt::{Audience, ClaimMapping, Issuer},
        keys::{Algorithm, Generation, KeyError, KeySet},
    },
    config::{
        DemoIssuer, DemoUser,
        decode::{At, Text, decode_leniently},
        file::{self, File, KeyFiles, KeySource, Password, TokenType, exactly_one},
        place::Place,
        scalar::{Claim, FilePath, Name, NonEmpty, OutboundProxy, PasswordHash, Positive},
    },
    fetch,
    listener::Listener,
    login,
    policy::{ClaimPath, Grants},
    secret::Secret,
    session,
    token::Grant,
};

/// What routes and tests need to know of the sources, by name.
pub(super) struct Sources {
    /// Issuers, in the order of the snapshot.
    pub(super) issuers: Vec<Source>,
    /// API keys: one for each realm of those that are written down, and those admin tokens that make some.
    pub(super) keys: Vec<Source>,
    /// Authorities for client certificates, in the order of the snapshot.
    pub(super) authorities: Vec<Source>,
    /// Login providers and those admin tokens that open sessions.
    pub(super) session: Vec<Source>,
    /// Whether tokens of our own come from API keys, too.
    by_key: bool,
}

/// One source of identities.
pub(super) struct Source {
    pub(super) name: Arc<str>,
    pub(super) realm: Arc<str>,
    pub(super) grants: Grants,
    /// Whether an email of it can count as verified (R6).
    pub(super) can_vouch: bool,
    /// Whether it can prove two factors: issuers and admin tokens may say so of their users.
    pub(super) second_factor: bool,
    /// Whether it is asked what opaque tokens are.
    pub(super) introspects: bool,
    /// Whether it is ourselves: then its tokens come from sessions and keys, and whoever vouches for those does here.
    own: bool,
    /// Whether it said what it may grant, and where it was written.
    grants_written: bool,
    /// Whether it is among `session` already.
    repeated: bool,
    place: Place,
}

impl Sources {
    /// Every source in the file.
    pub(super) fn new(file: &File) -> Self {
        let source =
            |name: &Name, realm: Option<&Name>, written: Option<&file::Grants>, can_vouch, place: &Place| Source {
                name: name.0.as_str().into(),
                realm: realm_of(name, realm),
                grants: grants(written),
                can_vouch,
                second_factor: true,
                own: false,
                grants_written: written.is_some(),
                introspects: false,
                repeated: false,
                place: place.clone(),
            };
        let issuers = file.jwt.0.iter().flat_map(|jwt| &jwt.issuer.0);
        let issuers = issuers.map(|At { value, place }| {
            let written = source(&value.name.value, value.realm.as_ref(), value.grants.as_ref(), true, place);
            Source { introspects: value.introspection.is_some(), ..written }
        });
        let providers = file.login.0.iter().flat_map(|login| &login.provider.0).map(|At { value, place }| {
            let can_vouch = value.trust_email.unwrap_or(false);
            let grants = value.grants.as_ref().map(|grants| &grants.0);
            let written = source(&value.name.value, value.realm.as_ref(), grants, can_vouch, place);
            Source { second_factor: false, ..written }
        });
        let implied = implied_provider(file).map(|place| {
            let written = source(&Name(LOCAL.into()), None, None, false, &place);
            Source { second_factor: false, ..written }
        });
        let tokens = || file.admin.0.iter().flatten().flat_map(|admin| &admin.value.token.0);
        let creators = tokens().filter(|token| may(&token.value, Scope::SessionsCreate)).map(|At { value, place }| {
            source(&value.name.value, value.realm.as_ref(), value.grants.as_ref(), true, place)
        });
        let mut keys: Vec<Source> = Vec::new();
        for At { value, place } in file.api_key.0.iter().flat_map(|keys| &keys.0) {
            let realm = key_realm(value);
            if !keys.iter().any(|source| source.realm == realm) {
                let written = source(&Name(API_KEY.into()), None, None, false, place);
                keys.push(Source { realm, grants_written: true, second_factor: false, ..written });
            }
        }
        for At { value, place } in tokens().filter(|token| may(&token.value, Scope::KeysCreate)) {
            let written = source(&value.name.value, value.realm.as_ref(), value.grants.as_ref(), false, place);
            keys.push(Source { second_factor: false, repeated: may(value, Scope::SessionsCreate), ..written });
        }
        let authorities = file.mtls.0.iter().flat_map(|mtls| &mtls.ca.0).map(|At { value, place }| {
            let can_vouch = value.trust_email.unwrap_or(false);
            let written = source(&value.name.value, value.realm.as_ref(), None, can_vouch, place);
            // What its holders get is written beside it, and nothing else of theirs counts.
            Source { grants_written: true, second_factor: false, ..written }
        });
        let authorities = authorities.collect();
        let own = token::written(file).map(|At { value, place }| {
            let written = source(&Name(token::name(value).to_owned()), None, None, false, place);
            Source { realm: own_realm(file), own: true, grants_written: true, ..written }
        });
        let by_key = token::written(file).is_some_and(|token| token::has_grant(&token.value, Grant::ApiKey));
        let session = providers.chain(implied).chain(creators).collect();
        Self { keys, by_key, authorities, issuers: issuers.chain(own).collect(), session }
    }

    /// Who stands behind the tokens of an issuer.
    pub(super) fn behind<'a>(&'a self, issuer: &'a Source) -> Vec<&'a Source> {
        match issuer.own {
            true => self.session.iter().chain(self.keys.iter().filter(|_| self.by_key)).collect(),
            false => vec![issuer],
        }
    }

    /// Those who vouch for somebody by themselves.
    fn all(&self) -> impl Iterator<Item = &Source> {
        let keys = self.keys.iter().filter(|source| !source.repeated);
        self.issuers.iter().filter(|issuer| !issuer.own).chain(&self.session).chain(keys).chain(&self.authorities)
    }
}

impl Sources {
    /// The index of the authority of this name; without a name, of the only one.
    pub(super) fn authority(&self, name: Option<&str>) -> Option<usize> {
        match name {
            Some(name) => self.authorities.iter().position(|authority| *authority.name == *name),
            None => (self.authorities.len() == 1).then_some(0),
        }
    }

    /// Notes which providers have users with a second factor, users files included.
    pub(super) fn note_second_factors(&mut self, login: &login::Settings) {
        for provider in &login.providers {
            let with_factor = provider.accounts.iter().any(|user| user.second_factor);
            let sources = self.session.iter_mut().filter(|source| source.name == provider.name);
            sources.for_each(|source| source.second_factor |= with_factor);
        }
    }
}

impl Build<'_> {
    /// With more than one source, each says what it may grant (R5).
    pub(super) fn judge_sources(&mut self, file: &File) {
        let sources = Sources::new(file);
        if sources.all().count() < 2 {
            return;
        }
        for source in sources.all().filter(|source| !source.grants_written) {
            self.findings
                .problem(&source.place, format!("no `grants` of `{}`", source.name), "what it may grant")
                .help("with more than one source of identities each says so: grants = \"all\", or { roles = […], groups = […] } (R5)")
                .depends(&["jwt", "login", "admin", "api_key"]);
        }
    }

    /// `[session]`.
    pub(super) fn session(&mut self, file: &File) -> Option<session::Settings> {
        let session = &file.session.0.as_ref()?.table;
        let idle_timeout = session.idle_timeout.as_ref().map_or(Duration::from_secs(30 * 60), |at| at.value.0);
        let max_lifetime = max_lifetime(session);
        if let Some(written) = session.idle_timeout.as_ref().filter(|_| idle_timeout > max_lifetime) {
            let found = format!("longer than max_lifetime ({})", humantime::format_duration(max_lifetime));
            self.findings.problem(&written.place, found, "at most max_lifetime");
        }
        let cookie = match &session.cookie {
            None => SESSION_COOKIE,
            Some(At { value, place }) => {
                if !value.0.starts_with("__Host-") {
                    self.findings.warn(place, "without `__Host-`, a neighbouring host can set this cookie (R26)");
                }
                value.0.as_str()
            }
        };
        let count = |written: Option<u64>, default: usize| {
            written.map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX))
        };
        Some(session::Settings {
            cookie: cookie.into(),
            same_site: session.same_site.unwrap_or_default(),
            bind: session.bind.as_ref().map(|at| at.value).unwrap_or_default(),
            idle_timeout,
            max_lifetime,
            max_sessions: count(session.max_sessions.map(|number| number.0), 1_000_000),
            max_per_user: count(session.max_per_user.map(|number| number.0), 10),
            max_session_bytes: count(session.max_session_bytes.map(|size| size.0), 4096),
        })
    }

    /// `[dpop]`.
    pub(super) fn dpop(&mut self, file: &File) -> Option<dpop::Settings> {
        let written = &file.dpop.0.as_ref()?.table;
        let algorithms = match &written.algorithms {
            None => &DPOP_ALGORITHMS[..],
            Some(At { value, place }) => {
                if value.is_empty() || value.iter().any(|algorithm| is_hmac(*algorithm)) {
                    let found = if value.is_empty() { "no algorithm" } else { "an algorithm with a shared secret" };
                    self.findings
                        .problem(place, found, "algorithms with public keys, such as [\"ES256\"]")
                        .help("a proof brings its public key along (RFC 9449 section 4.2)");
                    return None;
                }
                value
            }
        };
        let max_proofs = file.limits.0.as_ref()?.table.max_proofs.map(|number| number.0);
        let max_proofs = max_proofs.map_or(1_000_000, |number| usize::try_from(number).unwrap_or(usize::MAX));
        Some(dpop::Settings::new(written.nonce.unwrap_or_default(), algorithms, max_proofs))
    }

    /// `[[jwt.issuer]]`.
    pub(super) fn issuers(&mut self, file: &File) -> Option<Vec<Issuer>> {
        let issuers = &file.jwt.0.as_ref()?.issuer.0;
        let own = token::written(file);
        let names = issuers.iter().map(|at| (&*at.value.name.value.0, &at.value.name.place));
        self.unique("issuer", names.chain(own.map(|at| (token::name(&at.value), &at.place))));
        let issued = issuers.iter().map(|at| (&*at.value.issuer.value.0, &at.value.issuer.place));
        self.unique("`iss`", issued.chain(own.map(|at| (&*at.value.issuer.value.0, &at.value.issuer.place))));
        let proxy = self.outbound_proxy(file);
        let built: Vec<Option<Issuer>> = issuers.iter().map(|at| self.issuer(at, proxy.as_ref())).collect();
        built.into_iter().collect()
    }

    /// Where bearer tokens are looked for besides `Authorization`. The names are settled with those of `headers`.
    pub(super) fn token_places(&mut self, file: &File) -> Option<TokenPlaces> {
        let jwt = file.jwt.0.as_ref()?;
        if let Some(At { value, place }) = &jwt.cookie {
            let session = file.session.0.as_ref().and_then(|session| session.table.cookie.as_ref());
            let session = session.map_or(SESSION_COOKIE, |at| &*at.value.0);
            if value.0 == session || login::OWN_COOKIES.contains(&&*value.0) {
                self.findings.problem(place, "a cookie that has a meaning already", "a name of its own");
            }
            if !value.0.starts_with("__Host-") {
                self.findings.warn(place, "without `__Host-`, a neighbouring host can set this cookie");
            }
        }
        let written = [jwt.cookie.as_ref().map(|at| &at.place), jwt.header.as_ref().map(|at| &at.place)];
        if let Some(place) = written.into_iter().flatten().next().filter(|_| jwt.issuer.0.is_empty()) {
            self.findings.problem(place, "a place for tokens, but nobody who signs them", "a [[jwt.issuer]]");
        }
        Some(TokenPlaces {
            cookie: jwt.cookie.as_ref().map(|at| at.value.0.as_str().into()),
            header: jwt.header.as_ref().map(|at| at.value.clone()),
        })
    }

    fn issuer(&mut self, at: &At<file::Issuer>, proxy: Option<&Arc<fetch::Proxy>>) -> Option<Issuer> {
        let issuer = &at.value;
        let audience = self.audience(issuer, &at.place);
        let access_tokens_only = match issuer.token_type {
            None => false,
            Some(TokenType::AccessToken) => true,
        };
        if let Some(written) = issuer.id_tokens.as_ref().filter(|at| at.value && access_tokens_only) {
            self.findings.problem(&written.place, "ID tokens beside `token_type = \"at+jwt\"`", "one of the two");
        }
        let keys = self.keys(issuer, &at.place, audience.as_ref(), proxy);
        let introspection = self.introspection(issuer, proxy);
        let claim = |written: &Option<Claim>, default| {
            written.as_ref().map_or_else(|| ClaimPath::dotted(default), |claim| claim.0.clone())
        };
        let claims = &issuer.claims.table;
        Some(Issuer {
            name: issuer.name.value.0.as_str().into(),
            realm: realm_of(&issuer.name.value, issuer.realm.as_ref()),
            issuer: issuer.issuer.value.0.as_str().into(),
            audience: audience?,
            keys: keys?,
            claims: ClaimMapping {
                subject: claim(&claims.subject, "sub"),
                name: claim(&claims.name, "name"),
                email: claim(&claims.email, "email"),
                roles: claim(&claims.roles, "roles"),
                groups: claim(&claims.groups, "groups"),
                scopes: claims.scopes.as_ref().map(|claim| claim.0.clone()),
            },
            grants: grants(issuer.grants.as_ref()),
            leeway: self.leeway(issuer),
            introspection: introspection?,
            max_token_life: issuer.max_token_life.map_or(Duration::from_secs(24 * 60 * 60), |positive| positive.0),
            required_claims: issuer.required_claims.iter().map(|required| required.0.clone()).collect(),
            access_tokens_only,
            id_tokens: issuer.id_tokens.as_ref().is_some_and(|at| at.value),
            trust_email: issuer.trust_email.unwrap_or(false),
            own: None,
            proof: issuer.proof.unwrap_or_default(),
            generation: Generation::fresh(),
        })
    }

    fn leeway(&mut self, issuer: &file::Issuer) -> Duration {
        const LONGEST: Duration = Duration::from_secs(5 * 60);
        match &issuer.leeway {
            None => Duration::from_secs(30),
            Some(At { value, place }) => {
                if *value > LONGEST {
                    self.findings.problem(place, "a leeway above 5 minutes", "at most \"5m\"");
                }
                *value
            }
        }
    }

    fn audience(&mut self, issuer: &file::Issuer, place: &Place) -> Option<Audience> {
        let named = issuer.audience.as_ref().map(|list| &list.0[..]);
        match (named, &issuer.insecure_any_audience) {
            (Some([_, ..]), Some(reason)) => {
                self.findings.problem(&reason.place, "`audience` and `insecure_any_audience`", "one of the two");
                None
            }
            (Some(list @ [_, ..]), None) => {
                Some(Audience::OneOf(list.iter().map(|audience| audience.value.0.as_str().into()).collect()))
            }
            (None | Some([]), Some(reason)) => {
                self.findings.warn(&reason.place, "tokens that were made for others are accepted");
                self.findings
                    .unfit_for_production(&reason.place, "tokens that were made for others are accepted (R35)");
                Some(Audience::Any)
            }
            (None | Some([]), None) => {
                self.findings
                    .problem(&place.inside("audience"), "no audience", "whom its tokens are meant for")
                    .help("audience = [\"…\"] as the issuer writes it in `aud`; tokens for others are refused (R21)");
                None
            }
        }
    }

    fn keys(
        &mut self,
        issuer: &file::Issuer,
        at: &Place,
        audience: Option<&Audience>,
        proxy: Option<&Arc<fetch::Proxy>>,
    ) -> Option<Arc<KeySlot>> {
        let (At { value: algorithms, place: algorithms_place }, At { value: source, place }) = match (
            &issuer.algorithms,
            &issuer.jwks,
        ) {
            (Some(algorithms), Some(jwks)) => (algorithms, jwks),
            (None, None) if issuer.introspection.is_some() => return Some(KeySlot::fixed(KeySet::none())),
            (_, None) => {
                self.findings
                        .problem(&at.inside("jwks"), "no `jwks`", "where its keys are")
                        .help("jwks = \"discover\", { url }, { file }, { pem } or { secret }; or `introspection`, where its tokens are no JWTs");
                return None;
            }
            (None, Some(_)) => {
                let expected = "what its keys sign with, such as [\"RS256\"]";
                self.findings.problem(&at.inside("algorithms"), "no `algorithms`", expected);
                return None;
            }
        };
        let hmac = algorithms.iter().filter(|algorithm| is_hmac(**algorithm)).count();
        if algorithms.is_empty() {
            self.findings.problem(algorithms_place, "no algorithm", "at least one, such as [\"RS256\"]");
            return None;
        }
        if hmac != 0 && hmac != algorithms.len() {
            self.findings
                .problem(algorithms_place, "HMAC beside other algorithms", "one kind")
                .help("a public key could be taken for a shared secret: write two issuers (R21)");
            return None;
        }
        let nothing = KeyFiles { url: None, file: None, pem: None, secret: None };
        let (discover, written) = match source {
            KeySource::Discover => (true, &nothing),
            KeySource::Written(written) => (false, &**written),
        };
        let KeyFiles { url, file, pem, secret } = written;
        let choices =
            [("url", url.is_some()), ("file", file.is_some()), ("pem", pem.is_some()), ("secret", secret.is_some())];
        if !discover {
            exactly_one(place, &choices, self.findings)?;
        }
        if (hmac != 0) != secret.is_some() {
            let (found, expected) = if hmac == 0 {
                ("a secret for algorithms that need public keys", "\"discover\", { url }, { file } or { pem }")
            } else {
                ("public keys for algorithms that need a secret", "{ secret = { file = \"…\" } }")
            };
            self.findings.problem(place, found, expected);
            return None;
        }
        let keys_place = if discover {
            Some(jwks::Place::Discovered(issuer.issuer.value.0.as_str().into(), self.issuer_url(issuer)?))
        } else {
            url.as_ref().map(|at| jwks::Place::At(at.value.clone()))
        };
        if let Some(keys_place) = keys_place {
            return self.fetched_keys(issuer, place, keys_place, proxy);
        }
        if let Some(ca) = issuer.ca.as_ref().filter(|_| issuer.introspection.is_none()) {
            self.findings.problem(&ca.place, "`ca` where nothing is fetched", "jwks = \"discover\" or { url = \"…\" }");
        }
        let (loaded, place) = if let Some(At { value, place }) = file {
            let bytes = self.file(&place.resolve(&value.0), place, "a JWK set")?;
            (KeySet::from_jwk_set(&bytes, algorithms), place)
        } else if let Some(At { value, place }) = pem {
            let inline = value.0.starts_with("-----BEGIN");
            let bytes = if inline {
                value.0.clone().into_bytes()
            } else {
                self.file(&place.resolve(value.0.as_ref()), place, "a public key in PEM")?
            };
            (KeySet::from_pem(&bytes, algorithms), place)
        } else {
            let At { value, place } = secret.as_ref()?;
            let loaded = self.secret(&value.0, place)?;
            let keys = KeySet::from_secret(loaded.value.expose(), algorithms);
            self.note_demo_issuer(issuer, audience, loaded);
            (keys, place)
        };
        loaded
            .map_err(|KeyError(message)| {
                self.findings.problem(place, format!("no usable key: {message}"), "keys for these algorithms");
            })
            .ok()
            .map(KeySlot::fixed)
    }

    /// A slot for keys that are fetched once the gateway runs.
    fn fetched_keys(
        &mut self,
        issuer: &file::Issuer,
        jwks: &Place,
        keys_place: jwks::Place,
        proxy: Option<&Arc<fetch::Proxy>>,
    ) -> Option<Arc<KeySlot>> {
        let client = self.client_of(issuer.ca.as_ref(), jwks, proxy)?;
        let algorithms = issuer.algorithms.as_ref()?;
        let source = jwks::Source { place: keys_place, algorithms: algorithms.value.as_slice().into(), client };
        KeySlot::fetched(source)
            .map_err(|KeyError(message)| {
                self.findings.problem(&algorithms.place, message, "algorithms with public keys");
            })
            .ok()
    }

    /// Whom we believe when an issuer or an authority is asked, and which way that goes; `place` says why it is.
    pub(super) fn client_of(
        &mut self,
        ca: Option<&At<FilePath>>,
        place: &Place,
        proxy: Option<&Arc<fetch::Proxy>>,
    ) -> Option<fetch::Client> {
        let (trust, place) = match ca {
            None => (fetch::Trust::system(), place),
            Some(At { value, place }) => {
                let pem = self.file(&place.resolve(&value.0), place, "certificate authorities in PEM")?;
                (fetch::Trust::from_pem(&pem), place)
            }
        };
        let trust = trust.map_err(|error| {
            let problem = self.findings.problem(place, error.to_string(), "certificate authorities to believe");
            if ca.is_none() {
                problem.help("install the package ca-certificates, or write ca = \"…\" beside it");
            }
        });
        Some(fetch::Client::new(trust.ok()?, proxy.cloned()))
    }

    /// `introspection` of an issuer.
    fn introspection(
        &mut self,
        issuer: &file::Issuer,
        proxy: Option<&Arc<fetch::Proxy>>,
    ) -> Option<Option<Arc<Endpoint>>> {
        const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
        const LONGEST_REMEMBERED: Duration = Duration::from_secs(60);
        let Some(At { value: written, place }) = &issuer.introspection else {
            return Some(None);
        };
        let mut within = |written: &Option<At<Positive>>, default: u64, longest: Duration| match written {
            None => Duration::from_secs(default),
            Some(At { value, place }) => {
                if value.0 > longest {
                    let longest = longest.as_secs();
                    self.findings.problem(place, "too long a time", format!("at most \"{longest}s\""));
                }
                value.0
            }
        };
        let timeout = within(&written.timeout, 3, LONGEST_TIMEOUT);
        let remember = within(&written.remember, 30, LONGEST_REMEMBERED);
        let client = self.client_of(issuer.ca.as_ref(), place, proxy);
        let secret = &written.client_secret;
        let secret = self.secret(&secret.value.0, &secret.place)?.value;
        let auth = written.client_auth.unwrap_or_default();
        Some(Some(Endpoint::new(introspection::Source {
            url: written.url.value.clone(),
            client: client?,
            credentials: Credentials::new(written.client_id.0.as_str().into(), secret, auth),
            timeout,
            remember,
            rate: written.rate.map_or(600, |rate| u32::try_from(rate.0).unwrap_or(u32::MAX)),
        })))
    }

    /// `issuer` as the place where discovery begins.
    fn issuer_url(&mut self, issuer: &file::Issuer) -> Option<fetch::Url> {
        let At { value, place } = &issuer.issuer;
        match value.0.parse::<fetch::Url>() {
            Ok(url) if !url.has_query() => Some(url),
            Ok(_) | Err(_) => {
                self.findings
                    .problem(
                        place,
                        format!("no https URL ({:?}), which discovery begins with", value.0),
                        "an https URL",
                    )
                    .help("or say where its keys are: jwks = { url = \"https://…\" }");
                None
            }
        }
    }

    /// `server.outbound_proxy`.
    pub(super) fn outbound_proxy(&mut self, file: &File) -> Option<Arc<fetch::Proxy>> {
        match file.server.0.as_ref()?.table.outbound_proxy.as_ref()? {
            At { value: OutboundProxy::Through(proxy), .. } => Some(Arc::new(proxy.clone())),
            At { value: OutboundProxy::Environment, place } => {
                let variable = |name: &str| {
                    let either = [name.to_ascii_lowercase(), name.to_owned()];
                    either.iter().find_map(|name| self.environment.get(name)).filter(|value| !value.is_empty())
                };
                let (proxy, no_proxy) = (variable("HTTPS_PROXY")?, variable("NO_PROXY"));
                match proxy.parse::<fetch::Proxy>() {
                    Ok(proxy) => Some(Arc::new(proxy.except(no_proxy.map_or("", String::as_str)))),
                    Err(_) => {
                        self.findings.problem(
                            place,
                            "an unfit HTTPS_PROXY (not repeated here)",
                            "\"http://host:port\" in it",
                        );
                        None
                    }
                }
            }
        }
    }

    fn note_demo_issuer(&mut self, issuer: &file::Issuer, audience: Option<&Audience>, loaded: Loaded) {
        if let Some(file) = loaded.generated {
            self.demo.issuers.push(DemoIssuer {
                name: issuer.name.value.0.as_str().into(),
                issuer: issuer.issuer.value.0.as_str().into(),
                audience: match audience {
                    Some(Audience::OneOf(list)) => list.first().cloned(),
                    Some(Audience::Any) | None => None,
                },
                algorithm: issuer
                    .algorithms
                    .as_ref()
                    .and_then(|written| written.value.first().copied())
                    .unwrap_or(Algorithm::HS256),
                secret: loaded.value,
                file,
            });
        }
    }

    /// `[login]`, with the users of every provider.
    pub(super) fn login(&mut self, file: &File) -> Option<login::Settings> {
        let login = &file.login.0.as_ref()?.table;
        let providers = &login.provider.0;
        self.unique("provider", providers.iter().map(|at| (&*at.value.name.value.0, &at.value.name.place)));
        let users: &[At<file::User>] = file.user.0.as_ref().map_or(&[], |list| &list.0);
        let home = self.home_of_users(providers, users);
        let mut built = Vec::new();
        for (i, At { value: provider, place }) in providers.iter().enumerate() {
            let mut members = provider.user.0.clone();
            if home == Some(i) {
                members.extend_from_slice(users);
            }
            let mut files = vec![None; members.len()];
            if let Some(written) = &provider.users_file {
                let path = written.place.resolve(&written.value.0);
                members.extend(self.users_file(&path, &written.place));
                files.resize(members.len(), Some(path.into()));
            }
            if members.is_empty() && provider.users_file.is_none() {
                self.findings
                    .problem(
                        place,
                        "no user",
                        "`users_file`, [[login.provider.user]] or, for the only provider, [[user]]",
                    )
                    .depends(&["user"]);
            }
            built.push(login::Provider {
                name: provider.name.value.0.as_str().into(),
                label: provider.label.as_ref().map(|label| label.0.as_str().into()),
                realm: realm_of(&provider.name.value, provider.realm.as_ref()),
                grants: grants(provider.grants.as_ref().map(|grants| &grants.0)),
                trust_email: provider.trust_email.unwrap_or(false),
                remember_me: self.remember_me(provider, file),
                accounts: self.accounts(file, &members)?.kept_in(&files),
            });
        }
        if implied_provider(file).is_some() {
            built.push(login::Provider {
                name: LOCAL.into(),
                label: None,
                realm: LOCAL.into(),
                grants: Grants::All,
                trust_email: false,
                remember_me: None,
                accounts: self.accounts(file, users)?,
            });
        }
        Some(login::Settings { prefix: prefix(file).into(), providers: built.into() })
    }

    /// How long a remembered session lives: longer than others, and no longer than browsers keep a cookie.
    fn remember_me(&mut self, provider: &file::Provider, file: &File) -> Option<Duration> {
        let At { value: Positive(lifetime), place } = provider.remember_me.as_ref()?;
        let least = file.session.0.as_ref().map_or(MAX_LIFETIME, |session| max_lifetime(&session.table));
        if *lifetime < least {
            let found = format!("shorter than session.max_lifetime ({})", humantime::format_duration(least));
            self.findings.problem(place, found, "how long a session lives whose owner asks to be remembered");
        } else if *lifetime > LONGEST_COOKIE {
            self.findings.problem(place, "more than 400 days", "at most 400d: browsers keep no cookie for longer");
        }
        Some(*lifetime)
    }

    /// Which provider top-level `[[user]]` entries belong to: the only one, or the one named `local`.
    fn home_of_users(&mut self, providers: &[At<file::Provider>], users: &[At<file::User>]) -> Option<usize> {
        let first = users.first()?;
        let local = || providers.iter().position(|provider| provider.value.name.value.0 == LOCAL);
        match providers {
            [] => None,
            [_] => Some(0),
            [_, _, ..] => {
                let home = local();
                if home.is_none() {
                    self.findings
                        .problem(
                            &first.place,
                            "[[user]] with several providers",
                            "[[login.provider.user]] within its provider",
                        )
                        .help("or name one of the providers `local`: it then takes them");
                }
                home
            }
        }
    }

    fn users_file(&mut self, path: &std::path::Path, place: &Place) -> Vec<At<file::User>> {
        let folder = path.parent().unwrap_or_else(|| std::path::Path::new(""));
        let file_place = Place::file(self.files, path, folder);
        self.files += 1;
        self.findings.inputs.note(path);
        if !path.is_file() {
            self.findings.problem(
                place,
                format!("no file {}", path.display()),
                "a file of [[user]] entries, or one made by htpasswd -B",
            );
            return Vec::new();
        }
        self.warn_if_readable_by_others(path, place);
        let Some(root) = users::read(path, &file_place, self.findings) else {
            return Vec::new();
        };
        decode_leniently::<file::UsersFile>(&root, self.findings).map(|file| file.user.0).unwrap_or_default()
    }

    fn accounts(&mut self, file: &File, users: &[At<file::User>]) -> Option<Accounts> {
        self.judge_second_factors(file, users);
        let built: Vec<Option<User>> = users.iter().map(|at| self.user(&at.value)).collect();
        let built: Vec<User> = built.into_iter().collect::<Option<_>>()?;
        Accounts::new(built)
            .map_err(|errors| {
                for error in errors {
                    if let Some(user) = users.get(error.user) {
                        self.findings.problem(&user.place, error.message, "a user that can log in");
                    }
                }
            })
            .ok()
    }

    /// A second factor that a restart forgets would let everybody in, or nobody (R27).
    fn judge_second_factors(&mut self, file: &File, users: &[At<file::User>]) {
        let durable = file.server.0.as_ref().is_none_or(|server| server.table.state_dir.is_some());
        let asked = users.iter().filter_map(|user| user.value.factor.as_ref());
        for written in asked.filter(|_| !durable) {
            self.findings
                .problem(&written.place, "a second factor without `server.state_dir`", "a directory where it is kept")
                .help("state_dir = \"/var/lib/portcullis\" in [server]; its secrets are sealed with server.state_key_file")
                .depends(&["server"]);
        }
    }

    fn user(&mut self, user: &file::User) -> Option<User> {
        let texts = |list: &[NonEmpty]| list.iter().map(|text| text.0.as_str().into()).collect();
        let text = |text: &NonEmpty| text.0.as_str().into();
        Some(User {
            name: text(&user.name.value),
            id: text(user.id.as_ref().unwrap_or(&user.name.value)),
            display_name: user.display_name.as_ref().map(text),
            email: user.email.as_ref().map(text),
            password: self.password(user)?,
            second_factor: user.factor.is_some(),
            roles: texts(&user.roles),
            groups: texts(&user.groups),
        })
    }

    fn password(&mut self, user: &file::User) -> Option<Box<str>> {
        let At { value, place } = &user.password;
        let source = match value {
            Password::Hash(hash) => return Some(hash.0.as_str().into()),
            Password::Stored(secret) => &secret.0,
        };
        let Loaded { value, generated } = self.secret(source, place)?;
        let Some(file) = generated else {
            let hash = std::str::from_utf8(value.expose()).ok().filter(|text| accounts::looks_like_a_hash(text));
            if hash.is_none() {
                self.findings
                    .problem(place, "a secret that is no hash (not repeated here)", <PasswordHash as Text>::expected())
                    .help("`portcullis hash-password` makes one");
            }
            return hash.map(Into::into);
        };
        let Some(hash) = hash_generated(value.expose()) else {
            self.findings.problem(place, "a password that cannot be hashed", "a file as it was generated");
            return None;
        };
        let password = String::from_utf8_lossy(value.expose()).into_owned();
        self.demo.users.push(DemoUser {
            name: user.name.value.0.as_str().into(),
            password: Secret::new(password),
            file,
        });
        Some(hash)
    }

    /// `[[api_key]]`.
    pub(super) fn api_keys(&mut self, file: &File) -> Option<ApiKeys> {
        let written = &file.api_key.0.as_ref()?.0;
        let texts = |texts: &[NonEmpty]| texts.iter().map(|text| text.0.clone()).collect();
        self.unique("API key", written.iter().map(|at| (&*at.value.name.value.0, &at.value.name.place)));
        self.unique("`id`", written.iter().map(|at| (at.value.id.value.0.as_str(), &at.value.id.place)));
        let mut keys = ApiKeys::new();
        for At { value: key, .. } in written {
            let built = ApiKey::new(Description {
                id: key.id.value.0,
                sha256: key.sha256.value.0,
                name: key.name.value.0.as_str().into(),
                realm: key_realm(key),
                subject: key.subject.value.0.clone(),
                roles: texts(&key.roles),
                groups: texts(&key.groups),
                scopes: texts(&key.scopes),
                expires: key.expires.map(|moment| moment.0),
                sources: key.from.clone(),
                made: None,
            });
            match built {
                Ok(built) => drop(keys.insert(built.id(), Arc::new(built))),
                Err(error) => {
                    self.findings.problem(
                        &key.subject.place,
                        error.to_string(),
                        "1 to 255 bytes without control characters",
                    );
                }
            }
        }
        Some(keys)
    }

    /// `[admin]`, with its tokens (R36).
    pub(super) fn admin(&mut self, file: &File) -> Option<Option<admin::Settings>> {
        let Some(At { value: written, place }) = file.admin.0.as_ref()? else {
            return Some(None);
        };
        let listen = self.admin_listen(&written.listen, file);
        let tokens = &written.token.0;
        if tokens.is_empty() {
            self.findings
                .problem(place, "no [[admin.token]]", "at least one: without a token nothing can be asked")
                .depends(&["admin"]);
        }
        self.unique("admin token", tokens.iter().map(|at| (&*at.value.name.value.0, &at.value.name.place)));
        let tokens: Vec<Option<AdminToken>> = tokens.iter().map(|at| self.admin_token(at)).collect();
        let tokens: Option<Vec<AdminToken>> = tokens.into_iter().collect();
        Some(Some(admin::Settings { listen: listen?, tokens: tokens?.into() }))
    }

    fn admin_listen(&mut self, at: &At<Listener>, file: &File) -> Option<Listener> {
        let At { value, place } = at;
        match value {
            Listener::Http(address) if address.ip().is_loopback() => Some(Listener::Http(*address)),
            Listener::Http(address) => {
                let found = format!("plain http on {address}");
                self.findings.problem(place, found, "a unix socket, http on a loopback address, or https (R36)");
                None
            }
            Listener::Https(_) | Listener::Inherited { encrypted: true, .. } => {
                if matches!(file.tls.0, Some(None)) {
                    self.findings.problem(place, "https without [tls]", "certificates for it");
                }
                Some(value.clone())
            }
            // Where it leads is known, and judged, when it is taken over.
            Listener::Inherited { encrypted: false, .. } => Some(value.clone()),
            Listener::Unix { path, mode } => Some(Listener::Unix { path: place.resolve(path), mode: *mode }),
        }
    }

    fn admin_token(&mut self, at: &At<file::AdminToken>) -> Option<AdminToken> {
        const SHORTEST: usize = 16;
        let At { value: token, place } = at;
        let At { value: allow, place: allow_place } = &token.allow;
        if allow.is_empty() {
            self.findings.problem(allow_place, "nothing allowed", "at least one scope, such as [\"sessions.read\"]");
        }
        let secret = self.secret(&token.source, place)?;
        if secret.value.expose().len() < SHORTEST {
            self.findings
                .problem(place, format!("a token of fewer than {SHORTEST} bytes"), "a long random token")
                .help("for example: openssl rand -base64 32");
            return None;
        }
        let digest = digest(&SHA256, secret.value.expose());
        Some(AdminToken {
            name: token.name.value.0.as_str().into(),
            digest: Secret::new(digest.as_ref().try_into().ok()?),
            allow: allow.as_slice().into(),
            realm: realm_of(&token.name.value, token.realm.as_ref()),
            grants: grants(token.grants.as_ref()),
        })
    }
}

/// `login.prefix`.
pub(super) fn prefix(file: &File) -> &str {
    let written = file.login.0.as_ref().and_then(|login| login.prefix.as_ref());
    written.map_or("/_auth", |prefix| prefix.value.0.as_str())
}

/// Realms of sources, each once.
pub(super) fn realms<'a>(sources: impl IntoIterator<Item = &'a Source>) -> BTreeSet<&'a str> {
    sources.into_iter().map(|source| &*source.realm).collect()
}

/// Users without a provider make one, named `local`.
fn implied_provider(file: &File) -> Option<Place> {
    let without_providers = file.login.0.as_ref().is_some_and(|login| login.provider.0.is_empty());
    let first = file.user.0.as_ref()?.0.first()?;
    without_providers.then(|| first.place.clone())
}

/// Whether somebody has a password.
pub(super) fn has_login(file: &File) -> bool {
    file.login.0.as_ref().is_some_and(|login| !login.provider.0.is_empty()) || implied_provider(file).is_some()
}

/// Where tokens of our own come from, as far as one realm can say it: the first source of sessions.
pub(super) fn own_realm(file: &File) -> Arc<str> {
    let provider = file.login.0.as_ref().and_then(|login| login.provider.0.first());
    let key = || file.api_key.0.as_ref().and_then(|keys| keys.0.first()).map(|at| key_realm(&at.value));
    match provider {
        Some(at) => realm_of(&at.value.name.value, at.value.realm.as_ref()),
        None if implied_provider(file).is_some() => LOCAL.into(),
        None => {
            let tokens = file.admin.0.iter().flatten().flat_map(|admin| &admin.value.token.0);
            let creator = tokens.map(|at| &at.value).find(|token| may(token, Scope::SessionsCreate));
            let creator = creator.map(|token| realm_of(&token.name.value, token.realm.as_ref()));
            creator.or_else(key).unwrap_or_else(|| LOCAL.into())
        }
    }
}

pub(super) fn realm_of(name: &Name, realm: Option<&Name>) -> Arc<str> {
    realm.unwrap_or(name).0.as_str().into()
}

fn may(token: &file::AdminToken, scope: Scope) -> bool {
    token.allow.value.iter().any(|allowed| *allowed == Scope::All || *allowed == scope)
}

const fn is_hmac(algorithm: Algorithm) -> bool {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => true,
        Algorithm::EdDSA
        | Algorithm::ES256
        | Algorithm::ES384
        | Algorithm::ES512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512
        | Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512 => false,
    }
}

/// Hashes a generated password. Its salt is made from the password itself, so that each start yields the same hash and
/// a reload does not end sessions (R29); of 256 random bits that gives nothing away. Nobody finds these by trying,
/// however cheap a try is: so it costs little, and the start of the demonstration does not take 19 MiB.
fn hash_generated(password: &[u8]) -> Option<Box<str>> {
    let salt = digest(&SHA256, &[b"portcullis generated password\0", password].concat());
    let cheap = Argon2::new(Argon2Kind::Argon2id, Version::V0x13, Params::new(Params::MIN_M_COST, 1, 1, None).ok()?);
    let hash = cheap.hash_password_with_salt(password, salt.as_ref().get(..16)?).ok()?;
    Some(hash.to_string().into())
}

fn key_realm(key: &file::ApiKey) -> Arc<str> {
    key.realm.as_ref().map_or(API_KEY, |realm| &realm.0).into()
}

fn max_lifetime(session: &file::Session) -> Duration {
    session.max_lifetime.map_or(MAX_LIFETIME, |positive| positive.0)
}

/// Of a session, where `[session]` says nothing.
const MAX_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// RFC 6265bis section 5.5: browsers cut what is longer.
const LONGEST_COOKIE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// What clients sign proofs with unless `dpop.algorithms` says otherwise; 384 and 512 bits cost more and gain nothing
/// in the minute that a proof lives.
const DPOP_ALGORITHMS: [Algorithm; 5] =
    [Algorithm::ES256, Algorithm::EdDSA, Algorithm::PS256, Algorithm::RS256, Algorithm::ES384];

/// The realm of API keys that name none.
const API_KEY: &str = "api_key";

const SESSION_COOKIE: &str = "__Host-portcullis";

const LOCAL: &str = "local";
