//! The route table as administrators read it: what matches, who gets through, where it goes. No secrets are in it.

use serde_json::{Value, json};

use super::Context;
use crate::{
    policy::{Access, Requirement},
    route::{Destination, Redirect, Route, Target},
};

/// All routes, our own endpoints among them.
pub(super) fn list(context: &Context<'_>) -> Value {
    let routes: Vec<Value> = context.routes.iter().map(|route| describe(context, route)).collect();
    json!({ "routes": routes })
}

fn describe(context: &Context<'_>, route: &Route) -> Value {
    let methods = route.methods.as_deref();
    json!({
        "name": &*route.name,
        "hosts": route.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "paths": route.paths.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "methods": methods.map(|methods| methods.iter().map(|method| method.as_str()).collect::<Vec<_>>()),
        "access": access(context, &route.access),
        "target": target(context, &route.target),
        "rewrite": route.rewrite.as_ref().map(ToString::to_string),
        "websocket": route.websocket,
    })
}

fn access(context: &Context<'_>, access: &Access) -> Value {
    let rule = match access {
        Access::Public { .. } => return json!({ "auth": ["none"] }),
        Access::Authenticated(rule) => rule,
    };
    let issuers = rule.issuers.iter().map(|index| match context.issuers.get(*index) {
        Some(issuer) => format!("jwt:{}", issuer.name),
        None => "jwt".to_owned(),
    });
    let auth: Vec<String> = rule.session.then(|| "session".to_owned()).into_iter().chain(issuers).collect();
    let texts = |rules: &[Requirement]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
    let require = &rule.require;
    json!({
        "auth": auth,
        "optional": rule.optional,
        "require": {
            "any": texts(&require.any),
            "all": texts(&require.all),
            "none": texts(&require.none),
            "max_auth_age_seconds": require.max_auth_age.map(|age| age.as_secs()),
            "factor": require.factor.count(),
        },
    })
}

fn target(context: &Context<'_>, target: &Target) -> Value {
    match target {
        Target::Own(own) => json!({ "own": own.label() }),
        Target::Redirect(Redirect { status, to, .. }) => {
            json!({ "redirect": to.to_str().unwrap_or_default(), "status": status.as_u16() })
        }
        Target::Respond { status, .. } => json!({ "respond": status.as_u16() }),
        Target::Upstream(destination) => {
            let name = |index: usize| context.upstreams.get(index).map(|name| &**name);
            match destination {
                Destination::One(index) => json!({ "upstream": name(*index) }),
                Destination::Split(split) => {
                    let side = |(index, weight): &(usize, u32)| Some((name(*index)?.to_owned(), json!(weight)));
                    json!({ "split": split.sides().iter().filter_map(side).collect::<serde_json::Map<_, _>>() })
                }
            }
        }
    }
}
