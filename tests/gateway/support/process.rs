//! The real program, for what only a process has: signals, an exit code, a size in memory.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
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
    lines: mpsc::Receiver<String>,
    address: SocketAddr,
    host: String,
    roots: Arc<RootCertStore>,
    directory: TempDir,
}

impl Process {
    /// Starts it and waits until it says where it listens.
    #[track_caller]
    pub(crate) fn start(
        config: &Path,
        environment: &[(String, String)],
        host: &str,
        roots: Arc<RootCertStore>,
        directory: TempDir,
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("--config")
            .arg(config)
            .arg("run")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let lines = BufReader::new(child.stderr.take().expect("its standard error")).lines();
        let (said, hears) = mpsc::channel();
        // Goes on reading, so that the program never waits for us.
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(said.send(line))));
        let mut heard = Vec::new();
        let address = loop {
            let Ok(line) = hears.recv_timeout(patience()) else {
                let _ = child.kill();
                panic!("the program does not say where it listens:\n{}", heard.join("\n"));
            };
            let told: Option<Value> = serde_json::from_str(&line).ok();
            let address = told.filter(|told| told["message"] == "listening").map(|told| told["address"].clone());
            if let Some(address) = address.and_then(|address| address.as_str()?.parse().ok()) {
                break address;
            }
            heard.push(line);
        };
        Self { child, lines: hears, address, host: host.to_owned(), roots, directory }
    }

    /// A client that trusts it and asks for its first host.
    pub(crate) fn client(&self) -> Client {
        Client::tls(self.address, &self.host, Arc::clone(&self.roots))
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
    }

    /// Its gateway.toml.
    pub(crate) fn config(&self) -> std::path::PathBuf {
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
        let file = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(file).expect("a living process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has a resident size");
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
