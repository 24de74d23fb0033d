//! What a new user reads after the first start: where it listens, how to log in, and `curl` lines that work as they
//! stand. Printed only while generated secrets are in use (R35); in production nothing secret is ever printed.

use std::{fmt::Write, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use serde_json::json;

use super::token;
use crate::{
    clock::Clock,
    config::Config,
    gateway::Running,
    policy::Access,
    route::{
        Route, Target,
        path::{PathPattern, Segment},
    },
};

/// What can be shown, gathered before the configuration is used up.
pub(super) struct Welcome {
    prefix: String,
    user: Option<(String, String)>,
    token: Option<String>,
    session_path: Option<String>,
    token_path: Option<String>,
}

impl Welcome {
    /// `None` unless the configuration has generated secrets.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let demo = config.demo.as_ref()?;
        let claims = json!({"sub": "alice", "name": "Alice", "roles": ["user"]}).as_object().cloned();
        let now = Clock::system().now();
        let sign = |issuer| token::sign(issuer, claims.unwrap_or_default(), Duration::from_secs(3600), now).ok();
        let routes = config.snapshot.routes.routes();
        Some(Self {
            prefix: config.snapshot.login.prefix.to_string(),
            user: demo.users.first().map(|user| (user.name.to_string(), user.password.expose().clone())),
            token: demo.issuers.first().and_then(sign),
            session_path: routes.iter().find_map(|route| open_path(route, true)),
            token_path: routes.iter().find_map(|route| open_path(route, false)),
        })
    }

    /// The text. `folder` is where relative paths of the configuration begin.
    pub(super) fn text(&self, running: &Running, folder: &Path) -> String {
        let port = running.addresses().gateway.first().map_or(8443, std::net::SocketAddr::port);
        let base = format!("https://localhost:{port}");
        let authority = running.authority().cloned().unwrap_or_else(|| folder.join("certs/local-ca.pem"));
        let curl = format!("curl --cacert {}", quoted(&authority));
        let mut text = String::new();
        // Writing to memory cannot fail.
        let _ = writeln!(text, "\nPortcullis is listening on {base}\n");
        if let Some((name, password)) = &self.user {
            let _ = writeln!(
                text,
                "  log in at  {base}{}/login\n  as         {name}\n  password   {password}\n",
                self.prefix
            );
        }
        if let Some(path) = self.token_path.as_ref().or(self.session_path.as_ref()) {
            let _ = writeln!(text, "Refused, for want of a credential (401):\n  {curl} {base}{path}\n");
        }
        if let (Some(token), Some(path)) = (&self.token, &self.token_path) {
            let _ = writeln!(
                text,
                "With a JWT (an hour old at most):\n  {curl} -H 'Authorization: Bearer {token}' {base}{path}\n"
            );
        }
        if let (Some((name, password)), Some(path)) = (&self.user, &self.session_path) {
            let jar = authority.with_file_name("cookies.txt");
            make_private(&jar);
            let jar = quoted(&jar);
            let body = json!({"username": name, "password": password});
            let _ = writeln!(
                text,
                "With a session cookie:\n  {curl} -sS -o /dev/null -c {jar} --json '{body}' {base}{}/login\n  {curl} -b {jar} {base}{path}\n",
                self.prefix
            );
        }
        let _ = writeln!(
            text,
            "The built-in upstream answers what it saw, X-User-* headers included. Routes and rules: gateway.toml.\n\
             These secrets were made for this machine; requests from elsewhere are refused until you replace them."
        );
        text
    }
}

/// A path of this route that everybody who is known may read, if there is one.
fn open_path(route: &Route, session: bool) -> Option<String> {
    let Access::Authenticated(rule) = &route.access else {
        return None;
    };
    let wanted = if session { rule.session } else { !rule.issuers.is_empty() };
    let reads = route.methods.as_ref().is_none_or(|methods| methods.contains(&http::Method::GET));
    if !wanted || !reads || rule.optional || !rule.require.is_empty() || !matches!(route.target, Target::Upstream(_)) {
        return None;
    }
    route.paths.first().map(example)
}

fn example(pattern: &PathPattern) -> String {
    let segment = |segment: &Segment| match segment {
        Segment::Literal(text) => text.to_string(),
        Segment::Parameter(_) => "1".to_owned(),
        Segment::Rest(_) => "hello".to_owned(),
    };
    format!("/{}", pattern.segments().iter().map(segment).collect::<Vec<_>>().join("/"))
}

/// `curl` keeps the mode of a jar that is there, and would make one that everybody can read. Where it cannot be made,
/// neither can `curl`, and says so.
fn make_private(jar: &Path) {
    let _ = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(jar);
}

/// For a shell, in single quotes where it has to be.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
