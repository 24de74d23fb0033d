//! `portcullis token`: signs a JWT with the generated secret of a demo issuer, to try a route without an identity
//! provider. Other issuers' keys are theirs alone.

use std::{path::Path, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::{Failure, load};
use crate::{
    clock::{Clock, Timestamp},
    config::{Config, DemoIssuer},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The issuer's name; may be left out when only one has a generated secret.
    #[arg(long)]
    issuer: Option<String>,

    /// The subject.
    #[arg(long, default_value = "alice")]
    sub: String,

    /// Roles, separated by commas.
    #[arg(long, value_delimiter = ',')]
    roles: Vec<String>,

    /// Groups, separated by commas.
    #[arg(long, value_delimiter = ',')]
    groups: Vec<String>,

    /// Scopes, separated by commas.
    #[arg(long, value_delimiter = ',')]
    scopes: Vec<String>,

    /// Lifetime, such as 15m; at most the issuer's max_token_life.
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let config = load(path)?;
    let issuer = issuer(&config, arguments.issuer.as_deref())?;
    let longest =
        config.snapshot.issuers.iter().find(|known| known.name == issuer.name).map(|known| known.max_token_life);
    if let Some(longest) = longest.filter(|longest| arguments.ttl > *longest) {
        return Err(Failure::new(format!(
            "--ttl {} is longer than max_token_life of {}, {}: the token would be refused",
            humantime::format_duration(arguments.ttl),
            issuer.name,
            humantime::format_duration(longest)
        )));
    }
    let mut claims = Map::new();
    claims.insert("sub".into(), json!(arguments.sub));
    for (name, values) in [("roles", &arguments.roles), ("groups", &arguments.groups)] {
        if !values.is_empty() {
            claims.insert(name.into(), json!(values));
        }
    }
    if !arguments.scopes.is_empty() {
        claims.insert("scope".into(), Value::String(arguments.scopes.join(" ")));
    }
    println!("{}", sign(issuer, claims, arguments.ttl, Clock::system().now())?);
    Ok(())
}

fn issuer<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c DemoIssuer, Failure> {
    let issuers = config.demo.as_ref().map_or(&[][..], |demo| &demo.issuers);
    let names = || issuers.iter().map(|issuer| &*issuer.name).collect::<Vec<_>>().join(", ");
    match (name, issuers) {
        (_, []) => Err(Failure::new(
            "no issuer has a generated secret; tokens of real issuers come from them, or from `explain --as`".into(),
        )),
        (None, [only]) => Ok(only),
        (None, _) => Err(Failure::new(format!("which issuer? --issuer is one of {}", names()))),
        (Some(name), _) => issuers
            .iter()
            .find(|issuer| &*issuer.name == name)
            .ok_or_else(|| Failure::new(format!("no issuer {name:?} has a generated secret; these have: {}", names()))),
    }
}

/// Signs `claims`, completed by `iss`, `aud`, `iat` and `exp`.
pub(super) fn sign(
    issuer: &DemoIssuer,
    mut claims: Map<String, Value>,
    ttl: Duration,
    now: Timestamp,
) -> Result<String, Failure> {
    claims.insert("iss".into(), json!(issuer.issuer));
    if let Some(audience) = &issuer.audience {
        claims.insert("aud".into(), json!(audience));
    }
    claims.insert("iat".into(), json!(now.unix_seconds()));
    claims.insert("exp".into(), json!(now.plus(ttl).unix_seconds()));
    let algorithm = issuer.algorithm;
    let unsignable = |why| Failure::new(format!("a token of {} cannot be signed: {why}", issuer.name));
    let hmac = algorithm.hmac().ok_or_else(|| unsignable(format!("{algorithm} needs a private key")))?;
    let claims = serde_json::to_vec(&claims).map_err(|error| unsignable(error.to_string()))?;
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#));
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac, issuer.secret.expose()), input.as_bytes());
    Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag)))
}
