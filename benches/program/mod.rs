//! The real program under a benchmark's configuration, in a folder of its own, and what its process takes.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use portcullis::clock::instant;
use tempfile::TempDir;

/// A gateway at work; dropping it kills it.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Program {
    /// Starts it, plain on a free port of loopback, and waits until it listens. `files` are written beside the
    /// configuration, which begins with what every benchmark needs: `server` are further lines of `[server]`.
    pub(crate) fn start(server: &str, tables: &str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a file can be written");
        }
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let config = format!(
            "version = 1\n[server]\nlisten = [\"http://{address}\"]\nhosts = [\"localhost\"]\n{server}\n\
             [log]\naccess = \"off\"\naudit = \"off\"\n{tables}"
        );
        let file = folder.path().join("gateway.toml");
        fs::write(&file, config).expect("the configuration can be written");
        let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        program.arg("--config").arg(&file).arg("run").stdout(Stdio::null()).stderr(Stdio::null());
        let child = program.spawn().expect("it can be started");
        let until = instant() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(instant() < until, "the gateway does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Self { child, address, _folder: folder }
    }

    /// Its resident memory, in KiB.
    #[allow(dead_code, reason = "each benchmark is a program of its own, and not all weigh it")]
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has a size");
        line.trim().trim_end_matches("kB").trim().parse().expect("a number")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The middle one.
pub(crate) fn median<T: PartialOrd + Copy>(mut all: Vec<T>) -> T {
    all.sort_by(|a, b| a.partial_cmp(b).expect("figures"));
    *all.get(all.len() / 2).expect("there are rounds")
}
