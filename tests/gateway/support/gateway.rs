//! Writes a real gateway.toml into a directory of its own and starts the gateway with it, in this process.
//!
//! ```ignore
//! let upstream = Upstream::start();
//! let gateway = Gateway::new().issuer(&issuer).route("/app/{*rest}", &upstream).require("role:admin").start();
//! gateway.client().get("/app/x").bearer(&token).send().expect(200);
//! ```
//! All ports are free ones, the clock stands still until it is moved, and the host is `app.test`.

use std::{fs, os::unix::fs::DirBuilderExt, path::PathBuf, time::Duration};

use portcullis::{
    accounts,
    clock::{Clock, Timestamp},
    secret,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Client, Issuer, Person, Pki, Response, Upstream,
    client::Request,
    entry,
    process::{Launch, Process},
};

/// A configuration that is being put together.
pub(crate) struct Gateway {
    directory: TempDir,
    pki: Pki,
    hosts: Vec<String>,
    include: Option<PathBuf>,
    tls: Option<String>,
    server: Vec<String>,
    tables: Vec<String>,
    routes: Vec<Route>,
    issuers: Vec<String>,
    users: Vec<String>,
    passwords: Vec<(String, String)>,
    admin_token: Option<String>,
    admin_grants: String,
    environment: Vec<(String, String)>,
    clock: Clock,
}

struct Route {
    matching: String,
    upstream: String,
    auth: String,
    keys: Vec<String>,
}

/// A gateway at work. Dropping it stops it.
pub(crate) struct Running {
    inner: Option<entry::InProcess>,
    addresses: entry::Addresses,
    directory: TempDir,
    pki: Pki,
    hosts: Vec<String>,
    passwords: Vec<(String, String)>,
    admin_token: Option<String>,
    clock: Clock,
}

impl Gateway {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With further tables as they stand in gateway.toml, such as `[limits]` or `[session]`; not `[server]`, `[tls]`,
    /// `[log]`, `[telemetry]`, `[admin]` and `[[route]]`, which the harness writes.
    pub(crate) fn with(tables: &str) -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory can be made"),
            pki: Pki::new(),
            hosts: vec!["app.test".into()],
            include: None,
            tls: None,
            server: Vec::new(),
            tables: vec![tables.to_owned()],
            routes: Vec::new(),
            issuers: Vec::new(),
            users: Vec::new(),
            passwords: Vec::new(),
            admin_token: None,
            admin_grants: "\"all\"".to_owned(),
            environment: Vec::new(),
            clock: Clock::manual(Clock::system().now()),
        }
    }

    /// One more host.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.hosts.push(host.to_owned());
        self
    }

    /// With the files of this pattern.
    pub(crate) fn include(mut self, pattern: &std::path::Path) -> Self {
        self.include = Some(pattern.to_owned());
        self
    }

    /// What `[tls]` says instead of naming a certificate for all hosts.
    pub(crate) fn tls(mut self, lines: &str) -> Self {
        self.tls = Some(lines.to_owned());
        self
    }

    /// A certificate of its authority for these names, as an entry of `tls.certificates`.
    pub(crate) fn certificate(&self, names: &[&str]) -> String {
        let files = self.pki.issue(self.directory.path(), names);
        format!("{{ cert = {:?}, key = {:?} }}", files.cert, files.key)
    }

    /// A line of `[server]`.
    pub(crate) fn server(mut self, line: &str) -> Self {
        self.server.push(line.to_owned());
        self
    }

    /// One more table, or several.
    pub(crate) fn table(mut self, text: &str) -> Self {
        self.tables.push(text.to_owned());
        self
    }

    /// A route for a path pattern. Without [`Self::auth`] it wants a session or a bearer token, whichever of the two
    /// is configured.
    pub(crate) fn route(self, path: &str, upstream: &Upstream) -> Self {
        self.route_to(&format!("path = {path:?}"), &format!("servers = [{:?}]", upstream.url()))
    }

    /// A route with a whole `match` and the lines of an upstream of its own.
    pub(crate) fn route_to(mut self, matching: &str, upstream: &str) -> Self {
        self.routes.push(Route {
            matching: matching.to_owned(),
            upstream: upstream.to_owned(),
            auth: String::new(),
            keys: Vec::new(),
        });
        self
    }

    /// How one authenticates at the last route.
    pub(crate) fn auth(mut self, authenticators: &[&str]) -> Self {
        self.last_route().auth = format!("{authenticators:?}");
        self
    }

    /// A single requirement of the last route.
    pub(crate) fn require(self, requirement: &str) -> Self {
        self.key(&format!("require = {{ all = [{requirement:?}] }}"))
    }

    /// The role that the last route wants.
    pub(crate) fn require_role(self, role: &str) -> Self {
        self.require(&format!("role:{role}"))
    }

    /// A line of the last route.
    pub(crate) fn key(mut self, line: &str) -> Self {
        self.last_route().keys.push(line.to_owned());
        self
    }

    /// A line of the last route's upstream.
    pub(crate) fn upstream_key(mut self, line: &str) -> Self {
        let route = self.last_route();
        route.upstream = format!("{}\n{line}", route.upstream);
        self
    }

    /// Whose tokens are good.
    pub(crate) fn issuer(self, issuer: &Issuer) -> Self {
        self.issuer_with(issuer, "")
    }

    /// Whose tokens are good, with further lines for `[[jwt.issuer]]`.
    pub(crate) fn issuer_with(mut self, issuer: &Issuer, lines: &str) -> Self {
        let name = if self.issuers.is_empty() { "test".to_owned() } else { format!("test{}", self.issuers.len() + 1) };
        let mut text = format!("[[jwt.issuer]]\nname = {name:?}\n");
        for (key, value) in [
            ("jwks", issuer.write_key(self.directory.path())),
            ("issuer", format!("{:?}", Issuer::ISSUER)),
            ("audience", format!("[{:?}]", Issuer::AUDIENCE)),
            ("algorithms", format!("[{:?}]", issuer.algorithm_name())),
            ("realm", "\"staff\"".to_owned()),
            ("grants", "\"all\"".to_owned()),
        ] {
            if !lines.lines().any(|line| line.trim_start().starts_with(&format!("{key} "))) {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        self.issuers.push(text + lines);
        self
    }

    /// Somebody who can log in.
    pub(crate) fn user(mut self, name: &str, password: &str, roles: &[&str]) -> Self {
        let hash = accounts::hash_password(password).expect("the password can be hashed");
        self.users.push(format!(
            "[[login.provider.user]]\nname = {name:?}\nid = {:?}\nemail = {:?}\npassword = {hash:?}\nroles = {roles:?}\n",
            format!("id-of-{name}"),
            format!("{name}@example.com"),
        ));
        self.passwords.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Those who log in are offered to stay signed in for 30 days.
    pub(crate) fn offers_to_remember(mut self) -> Self {
        // Before the users, it is a key of their provider.
        self.users.insert(0, "remember_me = \"30d\"\n".to_owned());
        self
    }

    /// The last user has to have a second factor.
    pub(crate) fn second_factor(mut self) -> Self {
        self.users.last_mut().expect("a user").push_str("factor = \"totp\"\n");
        let state = "state_dir = \"state\"";
        if self.server.iter().any(|line| line == state) { self } else { self.server(state) }
    }

    /// With an admin listener and a token that may do everything.
    pub(crate) fn admin(mut self) -> Self {
        self.admin_token = Some(format!("test-{}", hex(&secret::random::<16>())));
        self
    }

    /// As [`Self::admin`], with a token whose sessions hold no more than this.
    pub(crate) fn admin_that_grants(self, grants: &str) -> Self {
        Self { admin_grants: grants.to_owned(), ..self.admin() }
    }

    /// Writes a file beside gateway.toml, and says where it is.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.directory.path().join(name);
        fs::write(&file, text).expect("a file can be written");
        file
    }

    /// A file beside gateway.toml.
    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        fs::write(self.directory.path().join(name), content).expect("a file can be written");
        self
    }

    /// A variable of its environment.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts at this time instead of now.
    pub(crate) fn at(mut self, time: Timestamp) -> Self {
        self.clock = Clock::manual(time);
        self
    }

    /// With the machine's clock, for what cannot stand still.
    pub(crate) fn on_system_time(mut self) -> Self {
        self.clock = Clock::system();
        self
    }

    /// Its clock, before it is started.
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// That a new process can follow, by a socket in a folder of this user alone.
    pub(crate) fn can_be_followed(self) -> Self {
        let folder = self.directory.path().join("followed");
        fs::DirBuilder::new().mode(0o700).create(&folder).expect("a folder can be made");
        self.server(&format!("upgrade_socket = {:?}", folder.join("upgrade.sock")))
    }

    /// Starts it; a configuration that is refused fails the test with its report.
    #[track_caller]
    pub(crate) fn start(self) -> Running {
        match self.try_start() {
            Ok(running) => running,
            Err(report) => panic!("the gateway does not start:\n{report}"),
        }
    }

    /// Starts it, or answers what a user would read.
    pub(crate) fn try_start(self) -> Result<Running, String> {
        let path = self.directory.path().join("gateway.toml");
        fs::write(&path, self.text()).expect("gateway.toml can be written");
        let inner = entry::InProcess::start(&path, &self.environment, self.clock.clone())?;
        Ok(Running {
            addresses: inner.addresses(),
            inner: Some(inner),
            directory: self.directory,
            pki: self.pki,
            hosts: self.hosts,
            passwords: self.passwords,
            admin_token: self.admin_token,
            clock: self.clock,
        })
    }

    /// Starts the real program with it instead, on the machine's clock.
    #[track_caller]
    pub(crate) fn start_process(self) -> Process {
        self.launch(Launch::default())
    }

    /// As [`Self::start_process`], with what a service manager gives it.
    #[track_caller]
    pub(crate) fn launch(self, launch: Launch) -> Process {
        let path = self.directory.path().join("gateway.toml");
        fs::write(&path, self.text()).expect("gateway.toml can be written");
        let host = self.hosts.first().expect("there is a host");
        let roots = self.pki.roots();
        Process::start(&path, &self.environment, host, roots, self.admin_token.clone(), self.directory, launch)
    }

    /// The configuration as it will be written.
    pub(crate) fn text(&self) -> String {
        let folder = self.directory.path();
        let hosts: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        let mut text = String::from("version = 1\n");
        if let Some(pattern) = &self.include {
            text.push_str(&format!("include = [{pattern:?}]\n"));
        }
        text.push_str("\n[server]\n");
        for (key, value) in [
            ("listen", "[\"https://127.0.0.1:0\"]".to_owned()),
            ("hosts", format!("{hosts:?}")),
            ("workers", "2".to_owned()),
            ("drain_timeout", "\"5s\"".to_owned()),
            // Tests reload when they say so.
            ("watch", "false".to_owned()),
        ] {
            if !self.server.iter().any(|line| line.trim_start().starts_with(key)) {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        for line in &self.server {
            text.push_str(&format!("{line}\n"));
        }
        match &self.tls {
            Some(lines) => text.push_str(&format!("\n[tls]\n{lines}\n")),
            None => text.push_str(&format!("\n[tls]\ncertificates = [{}]\n", self.certificate(&hosts))),
        }
        text.push_str(&format!(
            "\n[log]\nformat = \"json\"\naccess = {:?}\naudit = {:?}\n",
            folder.join("access.log"),
            folder.join("audit.log")
        ));
        text.push_str("\n[telemetry]\nlisten = \"http://127.0.0.1:0\"\n");
        if let Some(token) = &self.admin_token {
            let file = folder.join("admin.token");
            fs::write(&file, token).expect("a token can be written");
            text.push_str(&format!(
                "\n[admin]\nlisten = \"http://127.0.0.1:0\"\n[[admin.token]]\nname = \"test\"\nfile = {file:?}\n\
                 allow = [\"all\"]\nrealm = \"staff\"\ngrants = {}\n",
                self.admin_grants
            ));
        }
        for issuer in &self.issuers {
            text.push_str(&format!("\n{issuer}\n"));
        }
        if !self.users.is_empty() {
            text.push_str(
                "\n[[login.provider]]\nname = \"local\"\nrealm = \"staff\"\ngrants = \"all\"\ntrust_email = true\n",
            );
            text.push_str(&self.users.concat());
        }
        for table in &self.tables {
            text.push_str(&format!("\n{table}\n"));
        }
        for (number, route) in self.routes.iter().enumerate() {
            let auth = if route.auth.is_empty() { self.default_auth() } else { &route.auth };
            text.push_str(&format!(
                "\n[upstream.u{number}]\n{}\n\n[[route]]\nname = \"r{number}\"\nmatch = {{ {} }}\nauth = {auth}\nupstream = \"u{number}\"\n",
                route.upstream, route.matching
            ));
            for key in &route.keys {
                text.push_str(&format!("{key}\n"));
            }
        }
        text
    }

    fn default_auth(&self) -> &'static str {
        let has_sessions = !self.users.is_empty() || self.admin_token.is_some();
        match (self.issuers.is_empty(), has_sessions) {
            (false, false) => "[\"jwt\"]",
            (false, true) => "[\"jwt\", \"session\"]",
            (true, _) => "[\"session\"]",
        }
    }

    fn last_route(&mut self) -> &mut Route {
        self.routes.last_mut().expect("a route was begun")
    }
}

impl Running {
    /// A client that trusts this gateway and asks for its first host.
    pub(crate) fn client(&self) -> Client {
        let address = *self.addresses.gateway.first().expect("the gateway listens");
        Client::tls(address, self.hosts.first().expect("there is a host"), self.pki.roots())
    }

    /// A client of another of its listeners that speaks plain HTTP, by its place in `server.listen`.
    #[track_caller]
    pub(crate) fn plain_client(&self, listener: usize) -> Client {
        let address = *self.addresses.gateway.get(listener).expect("there is such a listener");
        Client::plain(address).host(self.hosts.first().expect("there is a host"))
    }

    /// Somebody with a browser that has never been here.
    pub(crate) fn person(&self) -> Person {
        Person::new(self.client())
    }

    /// A client with the session of somebody who has just logged in.
    #[track_caller]
    pub(crate) fn log_in(&self, name: &str) -> Client {
        self.log_in_with(self.client(), name)
    }

    /// The same, with what this client always shows.
    #[track_caller]
    pub(crate) fn log_in_with(&self, client: Client, name: &str) -> Client {
        let answer = self.login(&client, name).send().expect(200);
        client.always("Cookie", &session_cookie(&answer))
    }

    /// A login with the right password, as a script of ours sends it.
    #[track_caller]
    pub(crate) fn login(&self, client: &Client, name: &str) -> Request {
        let (_, password) = self.passwords.iter().find(|(one, _)| one == name).expect("the user exists");
        client
            .request("POST", "/_auth/login")
            .header("Sec-Fetch-Site", "same-origin")
            .header("Accept", "application/json")
            .json(&json!({ "username": name, "password": password }))
    }

    /// A client with the session that the admin API opens for this entry: `{ "subject": …, "roles": […] }`.
    #[track_caller]
    pub(crate) fn open_session(&self, entry: &Value) -> Client {
        let answer = self.admin().post("/api/v1/sessions", "").json(entry).send().expect(201);
        let token = answer.json()["token"].as_str().expect("a token").to_owned();
        self.client().always("Cookie", &format!("{SESSION_COOKIE}={token}"))
    }

    /// A client of the admin API, with its token.
    pub(crate) fn admin(&self) -> Client {
        let token = self.admin_token.as_ref().expect("`.admin()` was called");
        Client::plain(self.addresses.admin.expect("the admin API listens"))
            .always("Authorization", &format!("Bearer {token}"))
    }

    /// A client of the telemetry listener.
    pub(crate) fn telemetry(&self) -> Client {
        Client::plain(self.addresses.telemetry.expect("telemetry listens"))
    }

    /// The value of a metric with exactly these labels, in any order; 0 if it is not there.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.telemetry().get("/metrics").send().expect(200).text();
        let mut wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        wanted.sort();
        text.lines().filter_map(|line| line.rsplit_once(' ')).fold(0.0, |found, (series, value)| {
            let (one, rest) = series.split_once('{').unwrap_or((series, ""));
            let mut has: Vec<&str> = rest.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
            has.sort_unstable();
            if one == name && has == wanted { value.parse().expect("a number") } else { found }
        })
    }

    /// Lines of the access log so far.
    pub(crate) fn log_lines(&self) -> Vec<String> {
        self.lines("access.log")
    }

    /// Why the request for this path was refused, by the access log.
    #[track_caller]
    pub(crate) fn reason_of(&self, path: &str) -> String {
        self.access_line(path)["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// What the access log says of the first request for this path; waits for it.
    #[track_caller]
    pub(crate) fn access_line(&self, path: &str) -> Value {
        let find = || {
            let lines = self.log_lines();
            let mut parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            parsed.find(|line| line["path"] == path)
        };
        super::eventually("the request is logged", || find().is_some());
        find().unwrap_or_default()
    }

    /// Lines of the audit log so far.
    pub(crate) fn audit_lines(&self) -> Vec<String> {
        self.lines("audit.log")
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// An access token as it makes them, with these claims.
    pub(crate) fn sign_access(&self, claims: &Value) -> String {
        self.inner.as_ref().expect("it runs").sign_access(claims)
    }

    /// How many hold on to what all workers share.
    pub(crate) fn holders(&self) -> entry::Holders {
        self.inner.as_ref().expect("it runs").holders()
    }

    /// Its clock, to move.
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Its present moment.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Moves its clock forward.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub(crate) const fn addresses(&self) -> &entry::Addresses {
        &self.addresses
    }

    /// Where gateway.toml and everything else of it lies.
    pub(crate) fn folder(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }

    pub(crate) const fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Writes something else in place of a part of its gateway.toml.
    #[track_caller]
    pub(crate) fn edit(&self, part: &str, other: &str) {
        let path = self.directory.path().join("gateway.toml");
        let text = fs::read_to_string(&path).expect("gateway.toml is there");
        assert!(text.contains(part), "gateway.toml has no {part:?}:\n{text}");
        fs::write(&path, text.replace(part, other)).expect("it can be written");
    }

    /// Reads the configuration again, by the admin API; its answer.
    pub(crate) fn reload(&self) -> Response {
        self.admin().post("/api/v1/reload", "").send()
    }

    /// Stops it and starts it again with the same files and the same clock.
    #[track_caller]
    pub(crate) fn restart(mut self) -> Self {
        self.inner.take().expect("it runs").stop();
        let inner = entry::InProcess::start(&self.directory.path().join("gateway.toml"), &[], self.clock.clone());
        let inner = inner.unwrap_or_else(|report| panic!("the gateway does not start again:\n{report}"));
        self.addresses = inner.addresses();
        self.inner = Some(inner);
        self
    }

    /// Stops it; all lines of its audit log.
    pub(crate) fn stop_and_read_audit(mut self) -> Vec<String> {
        if let Some(inner) = self.inner.take() {
            inner.stop();
        }
        self.audit_lines()
    }

    /// Stops it; `true` if everything ended by itself in time.
    pub(crate) fn stop(mut self) -> bool {
        self.inner.take().is_some_and(entry::InProcess::stop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.stop();
        }
    }
}

/// `name=value` of the session that an answer opens.
#[track_caller]
pub(crate) fn session_cookie(answer: &Response) -> String {
    answer.cookie(SESSION_COOKIE).unwrap_or_else(|| panic!("no session is opened by {answer:?}"))
}

/// The default name.
pub(crate) const SESSION_COOKIE: &str = "__Host-portcullis";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
