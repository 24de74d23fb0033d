//! The small language of `require` (R6): `role:admin`, `ip:10.0.0.0/8`, `path:id == sub`; and that of an issuer's
//! `required_claims`: `jti`, `azp=web`. Values are taken as they are: no trimming, no case folding, because comparisons
//! are on exact bytes.

use ipnet::IpNet;

use super::{
    decode::{Decode, OneOrMany, Text, Unreadable, table},
    report::{Findings, did_you_mean},
    scalar::{Claim, NonEmpty, dotted},
    tree::{Node, Value},
};
use crate::{
    authn::jwt,
    policy::{IdentityValue, Requirement},
};

/// One entry of `any`, `all` or `none`.
#[derive(Clone, Debug)]
pub(super) struct Rule(pub(super) Requirement);

table! {
    /// `{ claim = ["https://example.com/tier"], equals = "gold" }`: for claims whose names hold dots.
    struct ClaimRule {
        /// Where in the claims.
        claim: Claim,
        /// The exact text.
        equals: String,
    }

    /// `{ claim = "azp", equals = ["web", "app"] }`.
    struct ClaimValues {
        /// Where in the claims.
        claim: Claim,
        /// The exact text, or several that count.
        equals: OneOrMany<NonEmpty>,
    }
}

impl Decode for Rule {
    fn expected() -> String {
        String::from(
            "`role:`, `group:`, `scope:`, `user:`, `email:`, `claim:PATH=`, `ip:` with a value, `path:PARAMETER == sub`, or `mtls`",
        )
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if let Value::Table(_) = &node.value {
            let ClaimRule { claim, equals } = ClaimRule::decode(node, findings)?;
            return Some(Self(Requirement::Claim { path: claim.0, equals: equals.into() }));
        }
        let parsed = match node.text() {
            Some(text) => parse(text),
            None => Err(Unreadable::default()),
        };
        match parsed {
            Ok(requirement) => Some(Self(requirement)),
            Err(unreadable) => {
                let problem = findings.problem(&node.place, node.describe(), Self::expected());
                if let Some(help) = unreadable.help {
                    problem.help(help);
                }
                None
            }
        }
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <ClaimRule as Decode>::keys(path, keys);
    }
}

/// One entry of `required_claims`.
#[derive(Clone, Debug)]
pub(super) struct RequiredClaim(pub(super) jwt::RequiredClaim);

impl Decode for RequiredClaim {
    fn expected() -> String {
        String::from("a claim such as \"jti\", \"azp=web\", or { claim = \"azp\", equals = [\"web\", \"app\"] }")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.entries().is_some() {
            let ClaimValues { claim, equals } = ClaimValues::decode(node, findings)?;
            if equals.0.is_empty() {
                findings.problem(&node.place, "no value in `equals`", "one at least, or the claim alone");
                return None;
            }
            let equals = equals.0.iter().map(|at| at.value.0.as_str().into()).collect();
            return Some(Self(jwt::RequiredClaim { path: claim.0, equals }));
        }
        let (path, equals) = match node.text().and_then(|text| text.split_once('=')) {
            None => (Claim::decode(node, findings)?.0, [].into()),
            Some((path, value)) => match dotted(path).filter(|_| !value.is_empty()) {
                Some(path) => (path, [Box::from(value)].into()),
                None => {
                    findings.problem(&node.place, node.describe(), Self::expected());
                    return None;
                }
            },
        };
        Some(Self(jwt::RequiredClaim { path, equals }))
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <ClaimValues as Decode>::keys(path, keys);
    }
}

fn parse(text: &str) -> Result<Requirement, Unreadable> {
    if text == "mtls" {
        return Ok(Requirement::Mtls { ca: None });
    }
    let Some((kind, value)) = text.split_once(':') else {
        return Err(match did_you_mean(text, KINDS) {
            Some(kind) => Unreadable::because(format!("with a value: `{kind}:…`")),
            None => Unreadable::because(format!("a role is written `role:{text}`")),
        });
    };
    if !KINDS.contains(&kind) {
        let meant = did_you_mean(kind, KINDS).map(|meant| format!("did you mean `{meant}:{value}`?"));
        return Err(Unreadable { help: meant, secret: false });
    }
    if value.is_empty() || value.trim() != value {
        return Err(Unreadable::because(format!("a value without blanks at its ends: `{kind}:VALUE`")));
    }
    match kind {
        "claim" => claim(value),
        "email" => Ok(Requirement::Email(value.into())),
        "group" => Ok(Requirement::Group(value.into())),
        "ip" => Ok(Requirement::Ip(<IpNet as Text>::parse(value)?)),
        "mtls" => Ok(Requirement::Mtls { ca: Some(value.into()) }),
        "path" => path(value),
        "role" => Ok(Requirement::Role(value.into())),
        "scope" if value.contains(' ') => Err(Unreadable::because("a scope has no blanks: write one rule for each")),
        "scope" => Ok(Requirement::Scope(value.into())),
        "user" => Ok(Requirement::User(value.into())),
        _ => Err(Unreadable::default()),
    }
}

fn claim(value: &str) -> Result<Requirement, Unreadable> {
    let (path, equals) = value.split_once('=').ok_or_else(|| Unreadable::because("`claim:PATH=VALUE`"))?;
    if equals.is_empty() {
        return Err(Unreadable::because("`claim:PATH=VALUE`"));
    }
    let path = dotted(path).ok_or_else(|| {
        Unreadable::because(
            "a name with dots of its own: { claim = [\"https://example.com/tier\"], equals = \"gold\" }",
        )
    })?;
    Ok(Requirement::Claim { path, equals: equals.into() })
}

fn path(value: &str) -> Result<Requirement, Unreadable> {
    let form = || Unreadable::because("`path:PARAMETER == sub`, `email`, `name` or `claim:PATH`");
    let (parameter, property) = value.split_once("==").ok_or_else(form)?;
    let (parameter, property) = (parameter.trim(), property.trim());
    let value = match property {
        "email" => IdentityValue::Email,
        "name" => IdentityValue::Name,
        "sub" => IdentityValue::Subject,
        other => IdentityValue::Claim(other.strip_prefix("claim:").and_then(dotted).ok_or_else(form)?),
    };
    if parameter.is_empty() || parameter.contains(char::is_whitespace) {
        return Err(form());
    }
    Ok(Requirement::PathEquals { parameter: parameter.into(), value })
}

const KINDS: [&str; 9] = ["claim", "email", "group", "ip", "mtls", "path", "role", "scope", "user"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_rule_is_read_back_as_it_was_written() {
        for text in [
            "role:admin",
            "group:Ops Team",
            "scope:orders.read",
            "user:alice",
            "email:alice@example.com",
            "claim:a.b=c=d",
            "ip:10.0.0.0/8",
            "ip:2001:db8::/32",
            "mtls",
            "mtls:devices",
            "path:id == sub",
            "path:id == email",
            "path:id == name",
            "path:id == claim:org.id",
        ] {
            assert_eq!(parse(text).ok().map(|rule| rule.to_string()).as_deref(), Some(text));
        }
        assert_eq!(parse("ip:10.1.2.3").ok().map(|rule| rule.to_string()).as_deref(), Some("ip:10.1.2.3/32"));
        assert_eq!(parse("path:id==sub").ok().map(|rule| rule.to_string()).as_deref(), Some("path:id == sub"));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "admin",
            "role:",
            "role: admin",
            "roles:admin",
            "Role:admin",
            "ip:10.0.0.1/8",
            "ip:all",
            "claim:a",
            "claim:a=",
            "claim:a..b=c",
            "claim:https://x.example/r=c",
            "path:id",
            "path:id == ",
            "path: == sub",
            "path:id == role",
            "scope:a b",
            "",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
