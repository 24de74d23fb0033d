//! The real program, for what only a process has: signals, an exit code, a size in memory.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
};

use rustls::RootCertStore;
use serde_json::Value;
use tempfile::TempDir;

use super::{Client, eventually, patience};

/// `portcullis run`. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    addresses: Addresses,
    /// Lines of its diagnostics.
    lines: mpsc::Receiver<String>,
    host: String,
    roots: Arc<RootCertStore>,
    token: Option<String>,
    config: PathBuf,
    environment: Vec<(String, String)>,
    directory: TempDir,
}

/// A process that another one has followed. Dropping it kills it.
pub(crate) struct Old(Child);

impl Old {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it has ended, once it has; without a number where something ended it.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Option<i32> {
        eventually("the old process leaves", || self.0.try_wait().expect("a child can be asked").is_some());
        self.0.wait().expect("it has ended").code()
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a program is started beside its configuration.
#[derive(Default)]
pub(crate) struct Launch {
    /// Opened for it, as descriptors 3 and 4 of these names.
    pub(crate) sockets: Vec<(OwnedFd, &'static str)>,
    /// Words before `run`'s own.
    pub(crate) arguments: Vec<String>,
    /// Variables besides those of the configuration.
    pub(crate) environment: Vec<(String, String)>,
}

struct Addresses {
    gateway: SocketAddr,
    admin: Option<SocketAddr>,
    telemetry: Option<SocketAddr>,
}

impl Process {
    /// Starts it and waits until it says where it listens. `token` is one of its admin API.
    #[track_caller]
    pub(crate) fn start(
        config: &Path,
        environment: &[(String, String)],
        host: &str,
        roots: Arc<RootCertStore>,
        token: Option<String>,
        directory: TempDir,
        launch: Launch,
    ) -> Self {
        let (config, environment) = (config.to_owned(), environment.to_vec());
        let (child, addresses, lines) = spawn(&config, &environment, launch);
        Self { child, addresses, lines, host: host.to_owned(), roots, token, config, environment, directory }
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Starts it again with the same configuration.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        (self.child, self.addresses, self.lines) = spawn(&self.config, &self.environment, Launch::default());
    }

    /// Starts the program once more, to follow the process that runs; answers that one. What is asked next is of the
    /// new one.
    #[track_caller]
    pub(crate) fn upgrade(&mut self) -> Old {
        let launch = Launch { arguments: vec!["--upgrade".to_owned()], ..Launch::default() };
        let (child, addresses, lines) = spawn(&self.config, &self.environment, launch);
        (self.addresses, self.lines) = (addresses, lines);
        Old(std::mem::replace(&mut self.child, child))
    }

    /// A client of its telemetry listener.
    pub(crate) fn telemetry(&self) -> Client {
        Client::plain(self.addresses.telemetry.expect("telemetry listens"))
    }

    /// Waits until its diagnostics say this, and answers the line.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(patience()).unwrap_or_else(|_| panic!("it does not say: {text}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A client of its admin API, with its token.
    pub(crate) fn admin(&self) -> Client {
        let token = self.token.as_ref().expect("`.admin()` was called");
        Client::plain(self.addresses.admin.expect("the admin API listens"))
            .always("Authorization", &format!("Bearer {token}"))
    }

    /// A client that trusts it and asks for its first host.
    pub(crate) fn client(&self) -> Client {
        Client::tls(self.addresses.gateway, &self.host, Arc::clone(&self.roots))
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
    }

    /// Its gateway.toml.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("gateway.toml")
    }

    /// Sends SIGHUP and waits for what it says of the reload.
    #[track_caller]
    pub(crate) fn reload(&self) -> String {
        let sent = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
        loop {
            let line = self.lines.recv_timeout(patience()).expect("it says what came of it");
            if line.contains("the configuration was reloaded") || line.contains("the reload was refused") {
                return line;
            }
        }
    }

    /// How it ended, once it has.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("the program ends", || {
            ended = self.child.try_wait().expect("a child can be asked");
            ended.is_some()
        });
        ended.expect("it has ended")
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it ever had, in bytes.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> usize {
        let file = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(file).expect("a living process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("it has a resident size");
        let kibibytes: usize = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kibibytes * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    config: &Path,
    environment: &[(String, String)],
    launch: Launch,
) -> (Child, Addresses, mpsc::Receiver<String>) {
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "sh", env!("CARGO_BIN_EXE_portcullis"), "--config"])
        .arg(config)
        .arg("run")
        .args(&launch.arguments)
        .envs(environment.iter().chain(&launch.environment).map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let names: Vec<&str> = launch.sockets.iter().map(|(_, name)| *name).collect();
    if !names.is_empty() {
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    }
    let mut sockets = launch.sockets.into_iter().map(|(socket, _)| socket);
    if let Some(first) = sockets.next() {
        command.stdin(first);
    }
    if let Some(second) = sockets.next() {
        command.stdout(second);
    }
    let mut child = command.spawn().expect("the program can be started");
    let lines = BufReader::new(child.stderr.take().expect("its standard error")).lines();
    let (said, hears) = mpsc::channel();
    // Goes on reading, so that the program never waits for us.
    thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(said.send(line))));
    let mut heard = Vec::new();
    let (mut admin, mut telemetry) = (None, None);
    loop {
        let Ok(line) = hears.recv_timeout(patience()) else {
            let _ = child.kill();
            panic!("the program does not say where it listens:\n{}", heard.join("\n"));
        };
        let told: Option<Value> = serde_json::from_str(&line).ok();
        let told = told.and_then(|told| {
            let address = told["address"].as_str()?.parse().ok()?;
            Some((told["message"].as_str()?.to_owned(), address))
        });
        match told {
            Some((message, gateway)) if message == "listening" => {
                return (child, Addresses { gateway, admin, telemetry }, hears);
            }
            Some((message, address)) if message == "the admin API listens" => admin = Some(address),
            Some((message, address)) if message == "telemetry listens" => telemetry = Some(address),
            _ => heard.push(line),
        }
    }
}

/// A write beyond a limit is then an error, as on a full disk, and no signal. Sockets come as the standard streams.
const SCRIPT: &str = "trap '' XFSZ
if [ -n \"$LISTEN_FDS\" ]; then exec 3<&0 4>&1 </dev/null >/dev/null; export LISTEN_PID=$$; fi
exec \"$@\"";
