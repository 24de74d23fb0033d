//! What is asked of a proxy, and the proof that it does it: good credentials pass with the right identity, bad ones
//! never reach the upstream.

use std::{fmt, rc::Rc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    Result,
    load::{Credential, Target},
    people::{Algorithm, Flaw, Keys, Person, opaque_token},
    upstream::Upstream,
};

/// One line of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Workload {
    pub(crate) auth: Auth,
    pub(crate) protocol: Protocol,
}

/// How requests authenticate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Auth {
    /// Not at all: the cost of forwarding.
    None,
    /// A session cookie, all stored ones in turn.
    Session,
    /// A bearer token, so many distinct ones in turn.
    Jwt { algorithm: Algorithm, tokens: usize },
}

/// How clients speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    /// HTTP/1.1, and for each request a connection of its own with a full handshake.
    Handshake,
    /// The same, resumed with what the connection before left (RFC 8446 section 2.2).
    Resumed,
}

impl Workload {
    pub(crate) fn all() -> Vec<Self> {
        let jwt = |algorithm, tokens| Auth::Jwt { algorithm, tokens };
        let auths = [
            Auth::None,
            Auth::Session,
            jwt(Algorithm::Rs256, 1),
            jwt(Algorithm::Rs256, 10_000),
            jwt(Algorithm::Es256, 1),
            jwt(Algorithm::Es256, 10_000),
        ];
        let kept = [Protocol::Http1, Protocol::Http2].into_iter();
        let kept = kept.flat_map(|protocol| auths.map(|auth| Self { auth, protocol }));
        kept.chain([Protocol::Handshake, Protocol::Resumed].map(|protocol| Self { auth: Auth::None, protocol }))
            .collect()
    }

    /// What the requests carry, in turn.
    pub(crate) fn credentials(self, keys: &Keys, session_tokens: &[String]) -> Rc<[Credential]> {
        match self.auth {
            Auth::None => Rc::from([Credential::None]),
            Auth::Session => session_tokens.iter().map(|token| Credential::session(token)).collect(),
            Auth::Jwt { algorithm, tokens } => (0..tokens)
                .map(|number| Credential::Bearer(keys.token(algorithm, &Person::number(number), Flaw::None)))
                .collect(),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.auth {
            Auth::None => f.write_str("proxy")?,
            Auth::Session => f.write_str("session")?,
            Auth::Jwt { algorithm, tokens } => {
                f.write_str(&algorithm.name().to_lowercase())?;
                if tokens > 1 {
                    write!(f, "-{}k", tokens / 1000)?;
                }
            }
        }
        f.write_str(match self.protocol {
            Protocol::Http1 => "/http1",
            Protocol::Http2 => "/http2",
            Protocol::Handshake => "/handshake",
            Protocol::Resumed => "/resumed",
        })
    }
}

/// Proves that the proxy does the work. `Err` says in words what it got wrong.
pub(crate) async fn check(
    workload: Workload,
    target: &Target,
    credentials: &[Credential],
    keys: &Keys,
    upstream: &Upstream,
) -> Result<()> {
    upstream.keep_heads(true);
    let outcome = check_all(workload, target, credentials, keys, upstream).await;
    upstream.keep_heads(false);
    outcome
}

async fn check_all(
    workload: Workload,
    target: &Target,
    credentials: &[Credential],
    keys: &Keys,
    upstream: &Upstream,
) -> Result<()> {
    for number in [0, credentials.len() / 2, credentials.len() - 1] {
        let status = target.ask(&credentials[number]).await?;
        if status != 200 {
            return Err(format!("answers {status} to a good credential").into());
        }
        check_head(workload.auth, &Person::number(number), &upstream.last_head())?;
    }
    let bad = match workload.auth {
        Auth::None => Vec::new(),
        Auth::Session => vec![("a missing", Credential::None), ("a forged", Credential::session(&opaque_token()))],
        Auth::Jwt { algorithm, .. } => {
            let flawed = |flaw| Credential::Bearer(keys.token(algorithm, &Person::number(0), flaw));
            vec![
                ("a missing", Credential::None),
                ("a forged", flawed(Flaw::OtherKey)),
                ("an unsigned", flawed(Flaw::Unsigned)),
                ("an expired", flawed(Flaw::Expired)),
                ("a foreign issuer's", flawed(Flaw::Issuer)),
                ("another audience's", flawed(Flaw::Audience)),
            ]
        }
    };
    for (what, credential) in bad {
        let before = upstream.requests();
        let status = target.ask(&credential).await?;
        if !matches!(status, 401 | 403) || upstream.requests() != before {
            return Err(
                format!("answers {status} to {what} credential and forwards {}", upstream.requests() - before).into()
            );
        }
    }
    Ok(())
}

/// The upstream must have been told the truth, and only that: the client's own `X-User-Id` and `X-Forwarded-For` lie.
fn check_head(auth: Auth, person: &Person, head: &str) -> Result<()> {
    let values = |wanted: &str| -> Vec<String> {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    };
    let mut expected = vec![
        ("X-Forwarded-For", "127.0.0.1".to_owned()),
        ("X-Forwarded-Proto", "https".to_owned()),
        ("X-Forwarded-Host", "bench.test".to_owned()),
    ];
    if auth != Auth::None {
        expected.push(("X-User-Id", person.id.clone()));
        expected.push(("X-User-Email", person.email.clone()));
        // As base64url of a JSON array where a proxy tells arrays so.
        let encoded = URL_SAFE_NO_PAD.encode(serde_json::to_string(&person.roles)?);
        if values("X-User-Roles") != [encoded.as_str()] {
            expected.push(("X-User-Roles", person.roles.join(",")));
        }
        for credential in ["Authorization", "Cookie"] {
            if !values(credential).is_empty() {
                return Err(format!("sends the client's {credential} on").into());
            }
        }
        // A name may come percent-encoded.
        if values("X-User-Name").iter().map(|name| name.replace("%20", " ")).collect::<Vec<_>>()
            != [person.name.as_str()]
        {
            return Err(format!("tells the upstream X-User-Name {:?}", values("X-User-Name")).into());
        }
    }
    for (name, value) in expected {
        if values(name) != [value.as_str()] {
            return Err(format!("tells the upstream {name} {:?}, not {value}", values(name)).into());
        }
    }
    Ok(())
}
