//! From gateway.toml to settings that are ready to use.
//!
//! Two steps (R37): `file` mirrors what can be written, decoded with the place of every value; `build` turns it into
//! the settings types that each module owns, with every default filled in, every reference resolved and every rule
//! judged. Past this module there is no text left that could still be wrong. All problems are reported at once.
//!
//! What needs a restart is [`Startup`]; what a reload swaps is the [`Snapshot`]. Precedence: environment (R38) over
//! file. Order of reading: main file, environment, `include`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::{
    authn::{keys::Algorithm, possession::Confirmation, token_cache::CacheLimits},
    client::Scheme,
    durable, edge,
    host::{Authority, Host},
    identity::Via,
    listener::Listener,
    mtls,
    secret::Secret,
    state::Snapshot,
    telemetry,
};

mod build;
mod decode;
mod environment;
mod file;
mod inputs;
mod place;
mod report;
mod requirement;
mod scalar;
mod startup;
mod tree;

pub use inputs::{Inputs, Stamps};
pub use place::Place;
pub use report::{Problem, Report, Warning};

/// A configuration without a problem.
pub struct Config {
    /// What needs a restart.
    pub startup: Startup,
    /// `[tls]`; `None`: no listener needs certificates.
    pub tls: Option<Tls>,
    /// `server.watch`: whether a change of one of `inputs` is a reload.
    pub watch: bool,
    /// What a reload swaps; generation 1.
    pub snapshot: Snapshot,
    /// `[[test]]`.
    pub tests: Vec<TestCase>,
    /// What is allowed and worth a second look, in the order of the file.
    pub warnings: Vec<Warning>,
    /// What `check --production` refuses (R35).
    pub unfit_for_production: Vec<Warning>,
    /// The generated secrets, if there are any: then only this machine is served (R35).
    pub demo: Option<DemoInfo>,
    /// The files that it was made from.
    pub inputs: Inputs,
}

/// What cannot change without a restart.
#[derive(Clone, Debug)]
pub struct Startup {
    /// Sockets, threads, bounds of connections.
    pub edge: edge::Settings,
    /// `server.state_dir`; `None`: nothing survives a restart.
    pub state: Option<durable::Settings>,
    /// `limits.max_cached_tokens` and `limits.max_cached_token_bytes`.
    pub tokens: CacheLimits,
    /// `server.upgrade_socket`; `None`: no process can follow this one.
    pub upgrade_socket: Option<PathBuf>,
    /// `[log]`.
    pub log: telemetry::LogSettings,
    /// `telemetry.listen`; `None`: off.
    pub telemetry: Option<Listener>,
    /// `admin.listen`; `None`: off.
    pub admin: Option<Listener>,
}

/// `[tls]`.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Where certificates come from.
    pub source: TlsSource,
    /// The oldest version spoken.
    pub min_version: edge::MinVersion,
    /// Key exchange groups, the preferred first; at least one.
    pub groups: Box<[edge::Group]>,
    /// Who is asked for a certificate.
    pub asked: Arc<mtls::Asked>,
}

/// Where certificates come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TlsSource {
    /// Files, one pair for each certificate; none if all are ordered. They were readable when the configuration was
    /// read.
    Files(Box<[CertificateFiles]>),
    /// A local authority makes one at first start.
    SelfSigned {
        /// What it is good for; at least one.
        names: Box<[Host]>,
        /// Where certificates are kept: `certs` beside the configuration.
        folder: PathBuf,
    },
}

/// One certificate with its key, both in PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// One `[[test]]`: a request, who makes it, and what must come of it.
#[derive(Clone, Debug)]
pub struct TestCase {
    /// Where it was written.
    pub place: Place,
    /// The method; any.
    pub method: Method,
    /// The scheme of the URL.
    pub scheme: Scheme,
    /// Host and port of the URL.
    pub authority: Authority,
    /// The whole URL.
    pub uri: Uri,
    /// Who asks; `None`: nobody known.
    pub identity: Option<AsIdentity>,
    /// What must come of it; at least one part is there.
    pub expect: Expectation,
}

/// `as` of a test: a caller that one of the sources could have vouched for, roles and groups within its grants.
#[derive(Clone, Debug)]
pub struct AsIdentity {
    /// The realm.
    pub realm: Arc<str>,
    /// The subject.
    pub subject: String,
    /// The display name.
    pub name: Option<String>,
    /// The email address.
    pub email: Option<String>,
    /// Whether the email counts as verified; true unless the test says otherwise.
    pub email_verified: bool,
    /// Roles.
    pub roles: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// OAuth scopes.
    pub scopes: Vec<String>,
    /// Further claims.
    pub claims: serde_json::Map<String, serde_json::Value>,
    /// How the caller came.
    pub via: Via,
    /// Whether a valid client certificate came along, besides.
    pub certificate: bool,
    /// What the token is bound to, if the caller came with one.
    pub bound: Confirmation,
    /// How long ago the person logged in; `None`: not known.
    pub auth_age: Option<Duration>,
    /// How many factors that took.
    pub factor: crate::identity::Factor,
}

/// `expect` of a test.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The route that decides.
    pub route: Option<Arc<str>>,
    /// The status of our answer; 200 where the request is let through to an upstream.
    pub status: Option<StatusCode>,
    /// Headers that the upstream is sent; `None`: the header is absent.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
}

/// What was generated, for telling the user how to try things out.
#[derive(Debug, Default)]
pub struct DemoInfo {
    /// Users with generated passwords.
    pub users: Vec<DemoUser>,
    /// Issuers with generated secrets.
    pub issuers: Vec<DemoIssuer>,
}

/// A user with a generated password.
#[derive(Debug)]
pub struct DemoUser {
    /// What is typed to log in.
    pub name: Arc<str>,
    /// The password.
    pub password: Secret<String>,
    /// Where it is kept.
    pub file: PathBuf,
}

/// An issuer with a generated secret, and all it takes to sign a token in its name.
#[derive(Debug)]
pub struct DemoIssuer {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its `iss`.
    pub issuer: Box<str>,
    /// An `aud` that it accepts; `None`: any.
    pub audience: Option<Box<str>>,
    /// The first of its algorithms.
    pub algorithm: Algorithm,
    /// The shared secret.
    pub secret: Secret<Vec<u8>>,
    /// Where it is kept.
    pub file: PathBuf,
}

/// Reads a configuration file, what it includes and the secrets it names. `environment` is this process's: variables
/// `PORTCULLIS__…` override scalars (R38), the others serve `{ env = "…" }`. Secrets with `{ generate = "…" }` are
/// made if they are not there.
///
/// # Errors
/// [`Report`]: every problem that was found.
pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, Report> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let mut findings = report::Findings::default();
    let place = Place::file(0, path, folder);
    let root = tree::read(path, &place, &mut findings);
    finish(root, folder, environment.into_iter().collect(), findings)
}

/// Reads a configuration from a text that lies in no file. `name` stands for the file in reports; relative paths mean
/// those in `folder`.
///
/// # Errors
/// As [`load`].
pub fn load_text(
    name: &str,
    text: &str,
    folder: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, Report> {
    let mut findings = report::Findings::default();
    let place = Place::file(0, Path::new(name), folder);
    let root = tree::parse(text, &place, &mut findings);
    finish(root, folder, environment.into_iter().collect(), findings)
}

/// Where the admin API listens by this configuration, and the first of `server.hosts`; `None` without `[admin]`. Reads
/// and judges nothing else, and no secrets, so that it serves users who may not read those.
///
/// # Errors
/// [`Report`], if the file is no TOML or `admin.listen` is not readable.
pub fn admin_listener(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Option<(Listener, Option<Host>)>, Report> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let mut findings = report::Findings::default();
    let Some(mut root) = tree::read(path, &Place::file(0, path, folder), &mut findings) else {
        return Err(findings.into_report());
    };
    environment::apply(&mut root, &environment.into_iter().collect(), folder, &mut findings);
    let Some(node) = root.find(&["admin", "listen"]) else {
        return Ok(None);
    };
    let listener = match node.text().map(<Listener as decode::Text>::parse) {
        Some(Ok(Listener::Unix { path, mode })) => Listener::Unix { path: node.place.resolve(&path), mode },
        Some(Ok(listener)) => listener,
        Some(Err(_)) | None => {
            findings.problem(&node.place, node.describe(), <Listener as decode::Text>::expected());
            return Err(findings.into_report());
        }
    };
    let hosts = root.find(&["server", "hosts"]);
    let host = hosts.and_then(|hosts| match &hosts.value {
        tree::Value::Array(hosts) => hosts.first()?.text()?.parse().ok(),
        _ => None,
    });
    Ok(Some((listener, host)))
}

/// The users files that this configuration names, with their providers. Reads and judges nothing else, and no secrets;
/// the files need not be there.
///
/// # Errors
/// [`Report`], if the file is no TOML.
pub fn users_files(path: &Path) -> Result<Vec<(String, PathBuf)>, Report> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let mut findings = report::Findings::default();
    let Some(root) = tree::read(path, &Place::file(0, path, folder), &mut findings) else {
        return Err(findings.into_report());
    };
    let providers = match root.find(&["login", "provider"]).map(|node| &node.value) {
        Some(tree::Value::Array(providers)) => &providers[..],
        _ => &[],
    };
    let file = |provider: &tree::Node| {
        let file = provider.find(&["users_file"])?;
        let name = provider.find(&["name"]).and_then(tree::Node::text).unwrap_or_default();
        Some((name.to_owned(), file.place.resolve(Path::new(file.text()?))))
    };
    Ok(providers.iter().filter_map(file).collect())
}

/// Every key that can be written, as a dotted path; `*` stands for names that the user chooses.
pub fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    <file::File as decode::Table>::keys("", &mut keys);
    keys
}

fn finish(
    root: Option<tree::Node>,
    folder: &Path,
    environment: BTreeMap<String, String>,
    mut findings: report::Findings,
) -> Result<Config, Report> {
    let Some(mut root) = root else {
        return Err(findings.into_report());
    };
    environment::apply(&mut root, &environment, folder, &mut findings);
    build::build(&root, &environment, findings)
}
