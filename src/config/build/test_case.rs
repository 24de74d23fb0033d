//! `[[test]]`: what `portcullis check` asks of the routes, with who asks.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::Map;

use super::{
    Build,
    source::{Source, Sources},
};
use crate::{
    authn::possession::Confirmation,
    config::{
        AsIdentity, Expectation, TestCase,
        decode::{At, Text},
        file::{self, Bound, File},
        report::{did_you_mean, one_of},
        scalar::{AuthName, NonEmpty},
    },
    identity::{Factor, Via},
};

impl Build<'_> {
    /// Every test, in the order of the file.
    pub(super) fn test_cases(&mut self, file: &File, sources: &Sources) -> Option<Vec<TestCase>> {
        let written = &file.test.0.as_ref()?.0;
        let routes: Vec<&str> =
            file.route.0.iter().flat_map(|list| &list.0).map(|at| at.value.name.value.0.as_str()).collect();
        let built: Vec<Option<TestCase>> = written.iter().map(|at| self.test_case(at, sources, &routes)).collect();
        built.into_iter().collect()
    }

    fn test_case(&mut self, at: &At<file::Test>, sources: &Sources, routes: &[&str]) -> Option<TestCase> {
        let At { value: test, place } = at;
        let expect = self.expectation(&test.expect, routes);
        let identity = match &test.r#as {
            None => None,
            Some(written) => Some(self.identity(written, sources)?),
        };
        let request = test.request.value.clone();
        Some(TestCase {
            place: place.clone(),
            method: request.method,
            scheme: request.scheme,
            authority: request.authority,
            uri: request.uri,
            identity,
            expect: expect?,
        })
    }

    fn expectation(&mut self, at: &At<file::Expect>, routes: &[&str]) -> Option<Expectation> {
        let At { value: expect, place } = at;
        if expect.route.is_none() && expect.status.is_none() && expect.headers.0.is_empty() {
            self.findings.problem(place, "nothing", "`route`, `status` or `headers`");
        }
        if let Some(At { value, place }) = &expect.route
            && !routes.contains(&value.0.as_str())
        {
            let problem = self.findings.problem(place, format!("the route {:?}", value.0), "the name of a [[route]]");
            problem.depends(&["route"]);
            if let Some(meant) = did_you_mean(&value.0, routes.iter().copied()) {
                problem.help(format!("did you mean {meant:?}?"));
            }
        }
        let mut headers = Vec::new();
        for (name, value) in &expect.headers.0 {
            match (<HeaderName as Text>::parse(&name.value), HeaderValue::from_str(&value.value)) {
                (Ok(name), Ok(_)) if value.value.is_empty() => headers.push((name, None)),
                (Ok(name), Ok(value)) => headers.push((name, Some(value))),
                (Err(_), _) | (_, Err(_)) => {
                    self.findings.problem(&name.place, "an unfit header", "a header name and a value");
                }
            }
        }
        Some(Expectation {
            route: expect.route.as_ref().map(|route| route.value.0.as_str().into()),
            status: expect.status,
            headers,
        })
    }

    fn identity(&mut self, at: &At<file::As>, sources: &Sources) -> Option<AsIdentity> {
        let At { value: written, place } = at;
        let (via, candidates) = self.via(at, sources)?;
        let realm: Arc<str> = match &written.realm {
            Some(realm) => realm.value.0.as_str().into(),
            None => Arc::clone(&candidates.first()?.realm),
        };
        let Some(source) = candidates.iter().find(|source| source.realm == realm) else {
            let realm_place = written.realm.as_ref().map_or(place, |realm| &realm.place);
            let expected = one_of(candidates.iter().map(|source| &*source.realm));
            self.findings
                .problem(realm_place, format!("the realm {realm:?}"), expected)
                .depends(&["jwt", "login", "admin"]);
            return None;
        };
        let texts = |list: &[NonEmpty]| list.iter().map(|text| text.0.clone()).collect::<Vec<_>>();
        let (mut roles, mut groups) = (texts(&written.roles), texts(&written.groups));
        if source.grants.filter(&mut roles, &mut groups) != 0 {
            let found = format!("roles or groups that `{}` may not grant", source.name);
            self.findings
                .problem(place, found, "what its `grants` allow")
                .help("in service they are dropped, and such a caller never comes (R5)");
        }
        let bound = match &written.proof {
            Some(proof) if !matches!(via, Via::Jwt(_)) => {
                self.findings
                    .problem(&proof.place, "`proof`, but no token", "`via = \"jwt\"` beside it")
                    .help("tokens are bound to a key or a certificate; sessions are by `session.bind`");
                return None;
            }
            Some(At { value: Bound::Key, .. }) => Confirmation::DPOP,
            Some(At { value: Bound::Certificate, .. }) => Confirmation::MTLS,
            Some(At { value: Bound::Nothing, .. }) | None => Confirmation::NOTHING,
        };
        let text = |text: &Option<NonEmpty>| text.as_ref().map(|text| text.0.clone());
        let claims: Map<_, _> =
            written.claims.0.iter().map(|(name, value)| (name.value.clone(), value.value.0.clone())).collect();
        Some(AsIdentity {
            realm,
            subject: written.sub.0.clone(),
            name: text(&written.name),
            email: text(&written.email),
            email_verified: written.email_verified.unwrap_or(true),
            roles,
            groups,
            scopes: texts(&written.scopes),
            claims,
            via,
            certificate: written.certificate.unwrap_or(false),
            bound,
            auth_age: written.auth_age,
            factor: written.factor.and_then(|count| Factor::from_count(count.0)).unwrap_or_default(),
        })
    }

    /// How the caller came, and the sources that stand behind it. If it is not written: by session where there are
    /// any, else with a token of the only issuer.
    fn via<'s>(&mut self, at: &At<file::As>, sources: &'s Sources) -> Option<(Via, Vec<&'s Source>)> {
        let implied = match sources.session.is_empty() {
            true => AuthName::Jwt(None),
            false => AuthName::Session,
        };
        let via = at.value.via.clone().unwrap_or_else(|| At { value: implied, place: at.place.clone() });
        match via.value {
            AuthName::None => {
                self.findings
                    .problem(&via.place, "`none`", "`session`, `jwt` or `jwt:<issuer>`")
                    .help("leave `as` away for a caller without a credential");
                None
            }
            AuthName::ApiKey if sources.keys.is_empty() => {
                self.findings
                    .problem(&via.place, "`api_key`, but no key", "an [[api_key]]")
                    .depends(&["api_key", "admin"]);
                None
            }
            AuthName::ApiKey => Some((Via::ApiKey, sources.keys.iter().collect())),
            AuthName::Mtls(wanted) => {
                let index = self.authority_index(wanted.as_deref(), &via.place, sources)?;
                Some((Via::Mtls, vec![sources.authorities.get(index)?]))
            }
            AuthName::Session if sources.session.is_empty() => {
                self.findings
                    .problem(&via.place, "`session`, but no way to open one", "`jwt` or `jwt:<issuer>`")
                    .depends(&["login", "user", "admin"]);
                None
            }
            AuthName::Session => Some((Via::Session, sources.session.iter().collect())),
            AuthName::Jwt(_) => {
                let issuer = sources.issuers.get(self.issuer_index(&via, sources)?)?;
                Some((Via::Jwt(Arc::clone(&issuer.name)), sources.behind(issuer)))
            }
        }
    }
}
