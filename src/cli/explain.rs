//! `portcullis explain`: which route a request takes, and why each rule passes or fails, told by the code that decides
//! in production.

use std::{path::Path, sync::Arc};

use http::{Method, Uri};

use super::{Failure, load};
use crate::{
    authn::{jwt, possession::Confirmation},
    client::Scheme,
    clock::{Clock, Timestamp},
    config::Config,
    decide::{Findings, Supposed},
    host::Authority,
    identity::{Factor, Identity, IdentityParts, Via},
    pipeline,
    policy::{Access, AccessRule},
    refusal::Refusal,
    rehearsal::{Outcome, Rehearsal},
    route::{Destination, Route, Target},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The method.
    method: Method,

    /// The whole URL, such as https://intranet.example.com/admin/users/7.
    url: Uri,

    /// Who asks, such as sub=alice,roles=admin,user,groups=ops; nobody if left out.
    #[arg(long = "as", value_name = "WHO", conflicts_with = "token")]
    who: Option<String>,

    /// A real bearer token; it is verified. `-` reads it from standard input, which keeps it out of process lists.
    #[arg(long)]
    token: Option<String>,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let config = load(path)?;
    let now = Clock::system().now();
    let (scheme, authority) = target(&arguments.url)?;
    let rehearsal = || Rehearsal::new(arguments.method.clone(), scheme, &authority, &arguments.url, now);

    let anonymous = rehearsal().run(&config.snapshot, Supposed::default());
    let rule = anonymous.findings.route.and_then(|route| rule_of(route));
    let supposed = match (&arguments.who, &arguments.token) {
        (Some(who), _) => Some(described(who, &config, rule, now)?),
        (None, Some(token)) => Some(proved(token, &config, rule, now)?),
        (None, None) => None,
    };
    let bound = supposed.as_ref().map(|supposed| supposed.bound).unwrap_or_default();
    let outcome = match supposed {
        Some(supposed) => rehearsal().run(&config.snapshot, supposed),
        None => anonymous,
    };
    print(&arguments.method, &arguments.url, &config, &outcome, bound, now);
    Ok(())
}

fn target(url: &Uri) -> Result<(Scheme, Authority), Failure> {
    let scheme = match url.scheme_str() {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        _ => return Err(Failure::new(format!("{url} is no whole URL; write https://host/path"))),
    };
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    let authority = authority.parse().map_err(|_| Failure::new(format!("{authority:?} is no host")))?;
    Ok((scheme, authority))
}

fn rule_of(route: &Route) -> Option<&AccessRule> {
    match &route.access {
        Access::Authenticated(rule) => Some(rule),
        Access::Public { .. } => None,
    }
}

/// `sub=alice,roles=admin,user`: words without `=` continue the list before them.
fn described(who: &str, config: &Config, rule: Option<&AccessRule>, now: Timestamp) -> Result<Supposed, Failure> {
    let issuer = rule.and_then(|rule| config.snapshot.issuers.get(*rule.issuers.first()?));
    let provider = config.snapshot.login.providers.first();
    let only_certificates = rule.filter(|rule| !rule.session && rule.issuers.is_empty() && rule.api_key.is_none());
    let authority = only_certificates.and_then(|rule| config.snapshot.mtls.authorities.get(*rule.mtls.first()?));
    let (mut certified, mut bound) = (false, Confirmation::NOTHING);
    let mut parts = IdentityParts {
        realm: authority
            .map(|a| a.realm())
            .or_else(|| provider.map(|p| &p.realm))
            .or_else(|| issuer.map(|i| &i.realm))
            .map_or_else(|| "any".into(), Arc::clone),
        subject: String::new(),
        name: None,
        email: None,
        email_verified: true,
        roles: Vec::new(),
        groups: Vec::new(),
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
        auth_time: Some(now),
        factor: Factor::One,
        via: match issuer {
            Some(issuer) if rule.is_some_and(|rule| !rule.session) => Via::Jwt(Arc::clone(&issuer.name)),
            _ if authority.is_some() => Via::Mtls,
            _ => Via::Session,
        },
    };
    let mut key = "sub";
    for word in who.split(',') {
        let value = match word.split_once('=') {
            Some((name, value)) => {
                key = name;
                value
            }
            None => word,
        };
        match key {
            "sub" | "user" => parts.subject = value.to_owned(),
            "name" => parts.name = Some(value.to_owned()),
            "email" => parts.email = Some(value.to_owned()),
            "realm" => parts.realm = value.into(),
            "roles" | "role" => parts.roles.push(value.to_owned()),
            "groups" | "group" => parts.groups.push(value.to_owned()),
            "factor" => {
                parts.factor = value
                    .parse()
                    .ok()
                    .and_then(Factor::from_count)
                    .ok_or_else(|| Failure::new(format!("--as factor={value}: a login has 1 or 2 factors")))?;
            }
            "certificate" => {
                certified = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(Failure::new(format!("--as certificate={value}: yes or no"))),
                };
            }
            "proof" => {
                bound = match value {
                    "dpop" => Confirmation::DPOP,
                    "mtls" => Confirmation::MTLS,
                    "none" => Confirmation::NOTHING,
                    _ => return Err(Failure::new(format!("--as proof={value}: dpop, mtls or none"))),
                };
                // Only tokens are bound like this.
                if let (Some(issuer), true) = (issuer, bound != Confirmation::NOTHING) {
                    parts.via = Via::Jwt(Arc::clone(&issuer.name));
                }
            }
            "scopes" | "scope" => parts.scopes.push(value.to_owned()),
            other => match other.strip_prefix("claim:") {
                Some(claim) => {
                    parts.claims.insert(claim.to_owned(), value.into());
                }
                None => {
                    return Err(Failure::new(format!(
                        "--as does not know {other:?}; it knows sub, name, email, realm, roles, groups, scopes, \
                         factor, certificate, proof and claim:NAME"
                    )));
                }
            },
        }
    }
    Identity::new(parts)
        .map(|identity| Supposed { identity: Some(Arc::new(identity)), certified, bound })
        .map_err(|error| Failure::new(format!("--as {who:?} is nobody: {error}; write sub=alice,roles=admin,user")))
}

/// Who a token proves its bearer to be, on this route, if it comes with the proof of what it is bound to.
fn proved(token: &str, config: &Config, rule: Option<&AccessRule>, now: Timestamp) -> Result<Supposed, Failure> {
    let from_input = if token == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_line(&mut text)
            .map_err(|error| Failure::new(format!("standard input cannot be read: {error}")))?;
        Some(text)
    } else {
        None
    };
    let token = from_input.as_deref().unwrap_or(token).trim();
    let issuers = rule.map_or(&[][..], |rule| &rule.issuers);
    if issuers.is_empty() {
        return Err(Failure::new("this route takes no bearer tokens; its `auth` lists no jwt".into()));
    }
    jwt::verify(token.as_bytes(), &config.snapshot.issuers, issuers, now)
        .map(|verified| Supposed {
            identity: Some(Arc::clone(verified.identity())),
            certified: false,
            bound: *verified.confirmation(),
        })
        .map_err(|error| {
            Failure::new(format!("the token would be refused with 401 invalid_token; the reason is {}", error.label()))
        })
}

fn print(method: &Method, url: &Uri, config: &Config, outcome: &Outcome<'_>, bound: Confirmation, now: Timestamp) {
    println!("{method} {url}");
    if let Some(view) = &outcome.findings.view {
        println!("  host      {}", view.authority);
    }
    if let Some(path) = &outcome.findings.path {
        println!("  path      {path}");
    }
    match &outcome.findings.route {
        Some(route) => {
            println!("  route     {} → {}", route.name, destination(route, &outcome.findings, config));
        }
        None => println!("  route     none"),
    }
    if let Some(identity) = &outcome.findings.identity {
        println!("  caller    {} in realm {}, by {}", identity.subject(), identity.realm(), identity.via().label());
    }
    if bound.key.is_some() {
        println!("  bound     to a key: each request needs a DPoP proof by it, which is taken as given here");
    }
    if bound.certificate.is_some() {
        println!("  bound     to a certificate: connections need it, which is taken as given here");
    }
    for (condition, met) in &outcome.steps {
        println!("  {}  {condition}", if *met { "✓ met    " } else { "✗ not met" });
    }
    match &outcome.refusal {
        Some(refusal) => {
            println!("refused: {} {}", outcome.status.as_u16(), refusal.label());
            if refusal.reason() != refusal.label() {
                println!("  reason    {}", refusal.reason());
            }
            println!("  told      {}", refusal.description());
        }
        None => println!("allowed"),
    }
    let report_until = outcome.findings.route.as_ref().and_then(|route| route.report_until);
    if let Some(until) = report_until.filter(|until| now < *until) {
        let until = humantime::format_rfc3339_seconds(until.to_system_time());
        println!("  mode      until {until} whoever may not pass does so all the same, and is reported");
    }
    if matches!(outcome.refusal, Some(Refusal::UnknownHost | Refusal::DemoOnly)) {
        let hosts: Vec<String> = config.snapshot.routes.known_hosts().map(ToString::to_string).collect();
        println!("  hosts     {}", hosts.join(", "));
    }
    let findings = &outcome.findings;
    if let Some(sent) = outcome.sent.as_ref().filter(|_| findings.rewritten.is_some()) {
        println!("  asks for  {}", sent.target);
    }
    for (name, value) in outcome.sent.iter().flat_map(|sent| &sent.headers) {
        println!("  sends     {name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
}

fn destination(route: &Route, findings: &Findings<'_>, config: &Config) -> String {
    match &route.target {
        Target::Own(own) => format!("our own {} endpoint", own.label()),
        Target::Redirect(redirect) => match &findings.path {
            Some(asked) => {
                let location = redirect.location(asked, findings.rewritten.as_deref());
                format!("{} {}", redirect.status, String::from_utf8_lossy(location.as_bytes()))
            }
            None => redirect.status.to_string(),
        },
        Target::Respond { status, .. } => format!("a fixed {status}"),
        Target::Upstream(destination) => {
            let name = |index: usize| config.snapshot.upstreams.get(index).map_or("", |upstream| &upstream.name);
            match destination {
                Destination::One(index) => format!("upstream {}", name(*index)),
                Destination::Split(split) => {
                    let side = |(index, weight): &(usize, u32)| format!("{} ({weight})", name(*index));
                    let sides: Vec<String> = split.sides().iter().map(side).collect();
                    let own = match pipeline::side(destination, findings) {
                        Some(index) => format!("this caller gets {}", name(index)),
                        None => "whoever is not known gets one by chance, each time".to_owned(),
                    };
                    format!("one upstream, by weight: {}; {own}", sides.join(", "))
                }
            }
        }
    }
}
