//! The real binary, in a folder of its own: what a user types, and what they read.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use tempfile::TempDir;

use super::patience;

/// A folder with a configuration, in which `portcullis` is called.
pub(crate) struct Shell {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A gateway that was started by a command; dropping it kills it.
pub(crate) struct Served {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Everything it said until it was ready.
    pub(crate) greeting: String,
}

impl Shell {
    /// With this gateway.toml.
    pub(crate) fn with(text: &str) -> Self {
        let shell = Self::empty();
        shell.write("gateway.toml", text);
        shell
    }

    /// Without any file.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a directory can be made"), environment: Vec::new() }
    }

    /// With the shipped configuration, on ports of its own.
    pub(crate) fn shipped(listen: SocketAddr) -> Self {
        let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/gateway.toml")).expect("gateway.toml");
        let text = text.replace("https://127.0.0.1:8443", &format!("https://{listen}"));
        Self::with(&text.replace("http://127.0.0.1:9091", "http://127.0.0.1:0"))
    }

    /// With this variable, in every command.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file can be written");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, "")
    }

    /// Runs a command with something on its standard input.
    #[track_caller]
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("portcullis can be started");
        // A command that reads nothing may be gone by now.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Starts a gateway and waits for the line that ends what a new user reads.
    #[track_caller]
    pub(crate) fn serve(&self, arguments: &[&str], last_words: &str) -> Served {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("portcullis can be started");
        let out = child.stdout.take().expect("a pipe");
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).all(|line| tell.send(line).is_ok()));
        let mut served = Served { child, lines, greeting: String::new() };
        while !served.greeting.contains(last_words) {
            let Ok(line) = served.lines.recv_timeout(patience()) else {
                panic!("it never said {last_words:?}, but\n{}", served.greeting)
            };
            served.greeting.push_str(&line);
            served.greeting.push('\n');
        }
        served
    }

    /// A shell line as a user pastes it, run by `sh` in this folder: what it printed.
    #[track_caller]
    pub(crate) fn paste(&self, line: &str) -> Said {
        let output = Command::new("sh").arg("-c").arg(line).current_dir(self.folder()).output().expect("sh");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments).current_dir(self.folder()).stdout(Stdio::piped());
        command.env_remove("PORTCULLIS_CONFIG").env("XDG_DATA_HOME", self.folder().join("data"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Said {
    /// Fails unless the exit code is this one; says what was said.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "it said\n{}{}", self.out, self.err);
        self
    }
}

impl Served {
    /// Asks it to stop as an init system does; its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        self.child.wait().expect("it ends").code()
    }

    /// Everything that it wrote after its greeting until now.
    pub(crate) fn further_lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
