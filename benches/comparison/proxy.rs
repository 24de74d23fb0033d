//! The proxies under comparison: their configuration from `benches/peers`, start, readiness, sessions, end.
//!
//! Each runs in the foreground, pinned to one core, in a directory of its own that goes when it ends.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    Result, measure,
    people::{AUDIENCE, Algorithm, ISSUER, Keys, Person, opaque_token},
    verifier::Verifier,
    workload::Auth,
};

/// Who is compared.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub(crate) enum Proxy {
    Portcullis,
    /// Built with what it was seen to do (`.build/pgo`).
    PortcullisPgo,
    Nginx,
    /// nginx that asks a service about sessions.
    NginxAuthRequest,
    Haproxy,
    /// With room for all tokens in the cache of `jwt_authn`.
    Envoy,
    /// As it is installed: each token is verified each time.
    EnvoyUncached,
    Traefik,
}

impl Proxy {
    pub(crate) const ALL: [Self; 8] = [
        Self::Portcullis,
        Self::PortcullisPgo,
        Self::Nginx,
        Self::NginxAuthRequest,
        Self::Haproxy,
        Self::Envoy,
        Self::EnvoyUncached,
        Self::Traefik,
    ];

    /// Whether its program is there; says so on stderr if not.
    pub(crate) fn is_installed(self, programs: &Programs) -> bool {
        let there = match self {
            Self::Portcullis => programs.portcullis.exists(),
            Self::PortcullisPgo => programs.portcullis_pgo.exists(),
            Self::Nginx | Self::NginxAuthRequest => {
                Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok()
            }
            Self::Haproxy => Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_ok(),
            Self::Envoy | Self::EnvoyUncached => programs.envoy.exists(),
            Self::Traefik => programs.traefik.exists(),
        };
        if !there {
            eprintln!("compare: {self} is not installed and has no rows");
        }
        there
    }

    /// Whether it has a way to do this that differs from its other entries. Traefik's free edition verifies no JWT.
    pub(crate) const fn does(self, auth: Auth) -> bool {
        match (self, auth) {
            (Self::Portcullis | Self::PortcullisPgo | Self::Nginx | Self::Haproxy | Self::Envoy, _) => true,
            (Self::NginxAuthRequest, Auth::Session) => true,
            (Self::NginxAuthRequest, Auth::None | Auth::Jwt { .. }) => false,
            (Self::EnvoyUncached, Auth::Jwt { .. }) => true,
            (Self::EnvoyUncached, Auth::None | Auth::Session) => false,
            (Self::Traefik, Auth::None | Auth::Session) => true,
            (Self::Traefik, Auth::Jwt { .. }) => false,
        }
    }

    /// Whether it is Portcullis, however it was built.
    pub(crate) const fn is_ours(self) -> bool {
        match self {
            Self::Portcullis | Self::PortcullisPgo => true,
            Self::Nginx | Self::NginxAuthRequest | Self::Haproxy => false,
            Self::Envoy | Self::EnvoyUncached | Self::Traefik => false,
        }
    }

    /// Whether it asks a service about sessions.
    const fn asks(self) -> bool {
        match self {
            Self::Portcullis | Self::PortcullisPgo | Self::Nginx | Self::Haproxy => false,
            Self::NginxAuthRequest | Self::Envoy | Self::EnvoyUncached | Self::Traefik => true,
        }
    }
}

/// Programs that no package manager of the system puts on the `PATH`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Programs {
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/portcullis")]
    portcullis: PathBuf,
    /// The gateway's binary as `.build/pgo` builds it.
    #[arg(long, default_value = "target/pgo/portcullis")]
    portcullis_pgo: PathBuf,
    /// Envoy's binary.
    #[arg(long, default_value = "target/peers/envoy/envoy/_bin/envoy")]
    envoy: PathBuf,
    /// Traefik's binary.
    #[arg(long, default_value = "target/peers/traefik/bin/traefik")]
    traefik: PathBuf,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Envoy => "Envoy",
            Self::EnvoyUncached => "Envoy, no cache",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::NginxAuthRequest => "nginx auth_request",
            Self::Portcullis => "Portcullis",
            Self::PortcullisPgo => "Portcullis, PGO",
            Self::Traefik => "Traefik",
        })
    }
}

/// A proxy that runs; dropping it ends it.
pub(crate) struct Running {
    child: Child,
    address: SocketAddr,
    session_tokens: Vec<String>,
    /// Portcullis' admin API, and the token for it.
    admin: Option<(SocketAddr, String)>,
    directory: TempDir,
    _verifier: Option<Verifier>,
}

impl Running {
    /// Where it takes TLS.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sessions that it knows, the n-th of the n-th person; none unless it was started for sessions.
    pub(crate) fn session_tokens(&self) -> &[String] {
        &self.session_tokens
    }

    pub(crate) fn disturbance(&self) -> Disturbance {
        Disturbance { process: self.child.id(), admin: self.admin.clone() }
    }

    /// All its processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        measure::family(self.child.id())
    }
}

/// What happens to a gateway beside its requests.
pub(crate) struct Disturbance {
    process: u32,
    admin: Option<(SocketAddr, String)>,
}

impl Disturbance {
    /// Has it read its configuration again.
    pub(crate) fn reload(&self) -> Result<()> {
        let told = Command::new("kill").args(["-HUP", &self.process.to_string()]).status()?;
        if told.success() { Ok(()) } else { Err("there is no gateway to reload".into()) }
    }

    /// Opens sessions where there are some.
    pub(crate) async fn open_sessions(&self, count: usize) -> Result<()> {
        if let Some((admin, token)) = &self.admin {
            open_sessions(*admin, token, count).await?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let family = self.processes();
        // A terminated master takes its workers along; killing it at once would leave them behind.
        let _ = Command::new("kill").args(family.iter().map(u32::to_string)).stderr(Stdio::null()).status();
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a proxy is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) auth: Auth,
    /// The backend's port.
    pub(crate) upstream: u16,
    /// How many are stored, where sessions are asked for.
    pub(crate) sessions: usize,
    /// Whether it writes an access log.
    pub(crate) logs: bool,
    /// Routes that nobody asks for, beside the one; Portcullis alone.
    pub(crate) more_routes: usize,
    /// Issuers whose tokens nobody sends, beside the one; Portcullis alone.
    pub(crate) more_issuers: usize,
}

/// Starts a proxy and waits until it accepts connections.
pub(crate) async fn start(proxy: Proxy, setup: Setup, keys: &Keys, programs: &Programs) -> Result<Running> {
    let Setup { auth, upstream, sessions, logs, .. } = setup;
    let directory = tempfile::Builder::new().prefix("compare-").tempdir()?;
    let dir = directory.path();
    // Peers read their files as another user.
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let port = free_port().await?;
    let admin = free_port().await?;
    let admin_token = opaque_token();
    write_secrets(dir, keys, &admin_token)?;
    let mut session_tokens = Vec::new();
    if auth == Auth::Session && !proxy.is_ours() {
        session_tokens = (0..sessions).map(|_| opaque_token()).collect();
        write_sessions(dir, &session_tokens)?;
    }
    let verifier =
        if auth == Auth::Session && proxy.asks() { Some(Verifier::start(&session_tokens).await?) } else { None };
    let verifier_port = verifier.as_ref().map_or(0, Verifier::port);
    let algorithm = match auth {
        Auth::Jwt { algorithm, .. } => algorithm.name(),
        Auth::None | Auth::Session => "",
    };
    let fill = |text: &str| {
        text.replace("{{dir}}", &dir.to_string_lossy())
            .replace("{{port}}", &port.to_string())
            .replace("{{admin}}", &admin.to_string())
            .replace("{{upstream}}", &upstream.to_string())
            .replace("{{verifier}}", &verifier_port.to_string())
            .replace("{{algorithm}}", algorithm)
            .replace("{{issuer}}", ISSUER)
            .replace("{{audience}}", AUDIENCE)
    };
    let command = match proxy {
        Proxy::Envoy => envoy(dir, auth, logs, true, &fill, &programs.envoy)?,
        Proxy::EnvoyUncached => envoy(dir, auth, logs, false, &fill, &programs.envoy)?,
        Proxy::Haproxy => haproxy(dir, auth, logs, &fill)?,
        Proxy::Nginx => nginx(dir, auth, logs, false, &fill)?,
        Proxy::NginxAuthRequest => nginx(dir, auth, logs, true, &fill)?,
        Proxy::Portcullis => gateway(dir, setup, &fill, &programs.portcullis)?,
        Proxy::PortcullisPgo => gateway(dir, setup, &fill, &programs.portcullis_pgo)?,
        Proxy::Traefik => traefik(dir, auth, logs, port, &fill, &programs.traefik)?,
    };
    let log = fs::File::create(dir.join("output.log"))?;
    let child = Command::new("taskset")
        .args(["-c", measure::PROXY_CORE])
        .args(command)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut running = Running { child, address, session_tokens, admin: None, directory, _verifier: verifier };
    wait_until_ready(&mut running, address).await?;
    if auth == Auth::Session && proxy.is_ours() {
        let admin = SocketAddr::from(([127, 0, 0, 1], admin));
        wait_until_ready(&mut running, admin).await?;
        running.session_tokens = open_sessions(admin, &admin_token, sessions).await?;
        running.admin = Some((admin, admin_token));
    }
    Ok(running)
}

type Fill<'a> = &'a dyn Fn(&str) -> String;

fn nginx(dir: &Path, auth: Auth, logs: bool, asks: bool, fill: Fill<'_>) -> Result<Vec<String>> {
    let lua = "load_module /usr/lib/nginx/modules/ndk_http_module.so;\n\
        load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;";
    let user = || peer("nginx/user.conf");
    let none = String::new;
    let (modules, http, server, location) = match auth {
        Auth::None => ("", none(), none(), none()),
        Auth::Session if asks => {
            let (http, server) = (peer("nginx/auth_request.http.conf")?, peer("nginx/auth_request.server.conf")?);
            ("", http, server, peer("nginx/auth_request.conf")?)
        }
        Auth::Session => {
            fs::write(dir.join("access.lua"), peer("nginx/session.lua")?)?;
            (lua, peer("nginx/session.http.conf")?, none(), user()?)
        }
        Auth::Jwt { .. } => {
            fs::write(dir.join("access.lua"), peer("nginx/jwt_access.lua")?)?;
            fs::write(dir.join("jwt.lua"), peer("nginx/jwt.lua")?)?;
            (lua, peer("nginx/jwt.http.conf")?, none(), user()?)
        }
    };
    let text = peer("nginx/nginx.conf")?
        .replace("{{modules}}", modules)
        .replace("{{http}}", &http)
        .replace("{{server}}", &server)
        .replace("{{location}}", &location)
        .replace("{{log}}", if logs { "{{dir}}/access.log combined buffer=64k flush=1s" } else { "off" });
    let file = dir.join("nginx.conf");
    fs::write(&file, fill(&text))?;
    let error_log = dir.join("error.log");
    Ok(["nginx", "-e", &error_log.to_string_lossy(), "-p", &dir.to_string_lossy(), "-c", &file.to_string_lossy()]
        .map(str::to_owned)
        .to_vec())
}

fn haproxy(dir: &Path, auth: Auth, logs: bool, fill: Fill<'_>) -> Result<Vec<String>> {
    let check = match auth {
        Auth::None => String::new(),
        Auth::Session => peer("haproxy/session.cfg")?,
        Auth::Jwt { .. } => peer("haproxy/jwt.cfg")?,
    };
    let (ring, lines) =
        if logs { ("    log stdout format raw local0 info", "    log global\n    option httplog") } else { ("", "") };
    let text = peer("haproxy/haproxy.cfg")?
        .replace("{{auth}}", &check)
        .replace("{{log_global}}", ring)
        .replace("{{log}}", lines);
    let file = dir.join("haproxy.cfg");
    fs::write(&file, fill(&text))?;
    Ok(["haproxy", "-db", "-f", &file.to_string_lossy()].map(str::to_owned).to_vec())
}

fn envoy(dir: &Path, auth: Auth, logs: bool, caches: bool, fill: Fill<'_>, program: &Path) -> Result<Vec<String>> {
    let (check, removed, clusters) = match auth {
        Auth::None => (String::new(), "", String::new()),
        Auth::Session => (peer("envoy/session.yaml")?, "cookie, authorization", peer("envoy/verifier.yaml")?),
        Auth::Jwt { .. } => {
            let cache = if caches { peer("envoy/cache.yaml")? } else { String::new() };
            (peer("envoy/jwt.yaml")?.replace("{{cache}}", &cache), "cookie, authorization", String::new())
        }
    };
    let text = peer("envoy/envoy.yaml")?
        .replace("{{auth}}", &check)
        .replace("{{removed}}", removed)
        .replace("{{clusters}}", &clusters)
        .replace("{{log}}", &if logs { peer("envoy/log.yaml")? } else { String::new() });
    let file = dir.join("envoy.yaml");
    fs::write(&file, fill(&text))?;
    let program = program.canonicalize()?;
    let words = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"];
    let words = words.into_iter().map(str::to_owned);
    let (first, last) = (program.to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    Ok(std::iter::once(first).chain(words).chain([last]).collect())
}

fn traefik(dir: &Path, auth: Auth, logs: bool, port: u16, fill: Fill<'_>, program: &Path) -> Result<Vec<String>> {
    let (middlewares, check) = match auth {
        Auth::None => ("", String::new()),
        Auth::Session => (", middlewares: [verify, strip]", peer("traefik/session.yaml")?),
        Auth::Jwt { .. } => return Err("verifies no JWT".into()),
    };
    let text = peer("traefik/dynamic.yaml")?.replace("{{middlewares}}", middlewares).replace("{{auth}}", &check);
    let file = dir.join("dynamic.yaml");
    fs::write(&file, fill(&text))?;
    let program = program.canonicalize()?;
    let mut words = vec![
        program.to_string_lossy().into_owned(),
        format!("--entrypoints.in.address=127.0.0.1:{port}"),
        format!("--providers.file.filename={}", file.display()),
        "--providers.file.watch=false".into(),
        "--log.level=ERROR".into(),
        "--global.checknewversion=false".into(),
        "--global.sendanonymoususage=false".into(),
    ];
    if logs {
        words.push(format!("--accesslog.filepath={}", dir.join("access.log").display()));
        words.push("--accesslog.bufferingsize=1000".into());
    }
    Ok(words)
}

fn gateway(dir: &Path, setup: Setup, fill: Fill<'_>, program: &Path) -> Result<Vec<String>> {
    let (mut tables, authenticator) = match setup.auth {
        Auth::None => (String::new(), "\"none\""),
        Auth::Session => (peer("portcullis/session.toml")?, "\"session\""),
        Auth::Jwt { .. } => (peer("portcullis/jwt.toml")?, "\"jwt:bench\""),
    };
    for number in 0..setup.more_issuers {
        let other = peer("portcullis/jwt.toml")?.replace("\"bench\"", &format!("\"other-{number}\""));
        tables.push_str(&other.replace("{{issuer}}", &format!("https://id-{number}.bench.test")));
    }
    let mut text = peer("portcullis/gateway.toml")?;
    for number in 0..setup.more_routes {
        let (name, path) = (format!("other-{number}"), format!("/api/service-{number}/{{id}}/{{*rest}}"));
        text.push_str(&format!(
            "\n[[route]]\nname = \"{name}\"\nmatch = {{ path = \"{path}\" }}\nauth = [{{{{authenticator}}}}]\n\
             upstream = \"app\"\n"
        ));
    }
    let text = text
        .replace("{{auth}}", &tables)
        .replace("{{authenticator}}", authenticator)
        .replace("{{log}}", if setup.logs { "{{dir}}/access.log" } else { "off" });
    let file = dir.join("gateway.toml");
    fs::write(&file, fill(&text))?;
    let program = program.canonicalize()?;
    Ok([&*program.to_string_lossy(), "run", "--config", &*file.to_string_lossy()].map(str::to_owned).to_vec())
}

/// A file of `benches/peers`.
fn peer(name: &str) -> Result<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name);
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn write_secrets(dir: &Path, keys: &Keys, admin_token: &str) -> Result<()> {
    let certificate = keys.certificate().pem();
    let key = keys.certificate_key_pem();
    fs::write(dir.join("site.pem"), &certificate)?;
    write_private(&dir.join("site.key"), &key)?;
    write_private(&dir.join("site.both.pem"), &format!("{certificate}{key}"))?;
    write_private(&dir.join("admin.token"), admin_token)?;
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        fs::write(dir.join(format!("{}.pub.pem", algorithm.name())), keys.public_pem(algorithm))?;
        fs::write(dir.join(format!("{}.jwks.json", algorithm.name())), keys.jwk_set(algorithm))?;
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?)
}

fn write_sessions(dir: &Path, tokens: &[String]) -> Result<()> {
    let mut map = String::new();
    let mut table = String::new();
    for (number, token) in tokens.iter().enumerate() {
        let Person { id, name, email, roles } = Person::number(number);
        let roles = roles.join(",");
        map.push_str(&format!("{token} {id}|{name}|{email}|{roles}\n"));
        table.push_str(&format!("{token}\t{id}\t{name}\t{email}\t{roles}\n"));
    }
    fs::write(dir.join("sessions.map"), map)?;
    fs::write(dir.join("sessions.tsv"), table)?;
    Ok(())
}

/// Opens sessions through the admin API, 10,000 at a time; answers their tokens in order.
async fn open_sessions(admin: SocketAddr, admin_token: &str, count: usize) -> Result<Vec<String>> {
    let mut tokens = Vec::with_capacity(count);
    for first in (0..count).step_by(10_000) {
        let stream = TcpStream::connect(admin).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        let lines: String = (first..count.min(first + 10_000))
            .map(|number| {
                let Person { id, name, email, roles } = Person::number(number);
                format!("{}\n", json!({ "subject": id, "name": name, "email": email, "roles": roles }))
            })
            .collect();
        let request = http::Request::post("/api/v1/sessions")
            .header(http::header::HOST, admin.to_string())
            .header(http::header::AUTHORIZATION, format!("Bearer {admin_token}"))
            .header(http::header::CONTENT_TYPE, "application/x-ndjson")
            .body(Full::new(Bytes::from(lines)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            return Err(format!("the admin API answers {status}: {}", String::from_utf8_lossy(&body)).into());
        }
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let answer: serde_json::Value = serde_json::from_slice(line)?;
            let token = answer["token"].as_str().ok_or_else(|| format!("no token in {answer}"))?;
            tokens.push(token.to_owned());
        }
    }
    if tokens.len() != count {
        return Err(format!("{} of {count} sessions were opened", tokens.len()).into());
    }
    Ok(tokens)
}

async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

/// Waits until something accepts connections at `address`, at most 20 seconds; a proxy that ended says why.
async fn wait_until_ready(running: &mut Running, address: SocketAddr) -> Result<()> {
    for _ in 0..400 {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        if let Some(status) = running.child.try_wait()? {
            let log = fs::read_to_string(running.directory.path().join("output.log")).unwrap_or_default();
            return Err(format!("does not start ({status}): {}", log.trim()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("does not accept connections within 20 seconds".into())
}
