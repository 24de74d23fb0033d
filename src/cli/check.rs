//! `portcullis check`: is this configuration good, and does it decide as its `[[test]]` cases say?

use std::{path::Path, sync::Arc};

use http::{HeaderValue, StatusCode};

use super::{Failure, load};
use crate::{
    acme,
    clock::Clock,
    config::{AsIdentity, Config, TestCase},
    decide::Supposed,
    host::Host,
    identity::{Identity, IdentityError, IdentityParts},
    rehearsal::Rehearsal,
    route::Target,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Refuse what only fits a demonstration: generated secrets, the echo upstream, tokens for any audience.
    #[arg(long)]
    production: bool,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let mut config = load(path)?;
    for warning in &config.warnings {
        println!("warning: {warning}");
    }
    for warning in config.snapshot.routes.sibling_warnings() {
        println!("warning: {warning}");
    }
    if let Some(acme) = &config.snapshot.acme {
        println!("{}", ordered(acme));
    }
    // Tests are about the rules, which are the same when the maintenance is over.
    config.snapshot.maintenance = None;
    let failed = failures(&config);
    for failure in &failed {
        println!("failed: {failure}");
    }
    let unfit = if arguments.production { &config.unfit_for_production[..] } else { &[] };
    for reason in unfit {
        println!("unfit for production: {reason}");
    }
    let file = path.display();
    let tests = config.tests.len();
    match (failed.len(), unfit.len()) {
        (0, 0) => {
            let routes = config.snapshot.routes.routes().iter().filter(|route| !matches!(route.target, Target::Own(_)));
            println!("{file} is good: {}, {} passed", counted(routes.count(), "route"), counted(tests, "test"));
            Ok(())
        }
        (0, unfit) => Err(Failure::new(format!("{file} is not fit for production: {}", counted(unfit, "reason")))),
        (failed, 0) => Err(Failure::new(format!("{file}: {failed} of {} failed", counted(tests, "test")))),
        (failed, unfit) => Err(Failure::new(format!(
            "{file}: {failed} of {} failed, and it is not fit for production: {}",
            counted(tests, "test"),
            counted(unfit, "reason")
        ))),
    }
}

/// What an authority will be asked for.
fn ordered(acme: &acme::Settings) -> String {
    let hosts: Vec<&str> = acme.hosts.iter().map(Host::as_str).collect();
    let challenges: Vec<&str> = acme.challenges.iter().map(|challenge| challenge.name()).collect();
    format!(
        "certificates are ordered from {} by {}, but for hosts that a certificate of a file is good for: {}",
        acme.directory,
        challenges.join(" or "),
        hosts.join(", ")
    )
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn failures(config: &Config) -> Vec<String> {
    config.tests.iter().filter_map(|test| failure(config, test)).collect()
}

/// What a test says and what is, if they differ.
fn failure(config: &Config, test: &TestCase) -> Option<String> {
    let now = Clock::system().now();
    let identity = match test.identity.as_ref().map(|who| identity(who, now)).transpose() {
        Ok(identity) => identity,
        Err(error) => return Some(format!("{}: `as` is nobody: {error}", test.place)),
    };
    let request = Rehearsal::new(test.method.clone(), test.scheme, &test.authority, &test.uri, now);
    let (certified, bound) = test.identity.as_ref().map(|who| (who.certificate, who.bound)).unwrap_or_default();
    let outcome = request.run(&config.snapshot, Supposed { identity, certified, bound });

    let mut differences = Vec::new();
    let route = outcome.findings.route.as_ref().map(|route| Arc::clone(&route.name));
    if test.expect.route.is_some() && test.expect.route != route {
        let shown = |name: &Option<Arc<str>>| name.as_deref().map_or_else(|| "none".to_owned(), ToOwned::to_owned);
        differences.push(format!("route is {}, expected {}", shown(&route), shown(&test.expect.route)));
    }
    if let Some(status) = test.expect.status.filter(|status| *status != outcome.status) {
        let reason = outcome.refusal.as_ref().map_or_else(String::new, |refusal| format!(" ({})", refusal.reason()));
        let shown = |status: StatusCode| status.as_u16();
        differences.push(format!("status is {}{reason}, expected {}", shown(outcome.status), shown(status)));
    }
    for (name, expected) in &test.expect.headers {
        let sent = outcome.sent.as_ref().and_then(|sent| sent.headers.get(name));
        if sent != expected.as_ref() {
            let shown =
                |value: Option<&HeaderValue>| value.map_or_else(|| "absent".to_owned(), |value| format!("{value:?}"));
            differences.push(format!("{name} is {}, expected {}", shown(sent), shown(expected.as_ref())));
        }
    }
    (!differences.is_empty())
        .then(|| format!("{}: {} {}\n    {}", test.place, test.method, test.uri, differences.join("\n    ")))
}

/// The caller of a test, made as an authenticator would make it.
fn identity(who: &AsIdentity, now: crate::clock::Timestamp) -> Result<Arc<Identity>, IdentityError> {
    let parts = IdentityParts {
        realm: Arc::clone(&who.realm),
        subject: who.subject.clone(),
        name: who.name.clone(),
        email: who.email.clone(),
        email_verified: who.email_verified,
        roles: who.roles.clone(),
        groups: who.groups.clone(),
        scopes: who.scopes.clone(),
        claims: who.claims.clone(),
        auth_time: who.auth_age.map(|age| now.minus(age)),
        factor: who.factor,
        via: who.via.clone(),
    };
    Identity::new(parts).map(Arc::new)
}
