//! Programs from outside: nginx, lighttpd, Tomcat, HAProxy, curl, a browser.
//!
//! A test that needs one asks with [`found`]. `tests/run` installs them all and sets `PORTCULLIS_EXTERNAL=1`: then a
//! program that is missing fails the test. Without the variable the test is left out, and says so.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::eventually;

/// Where a program or file is, or `None` after saying that the test is left out.
///
/// # Panics
/// When it is missing and `PORTCULLIS_EXTERNAL=1`.
#[track_caller]
pub(crate) fn found(name: &str) -> Option<PathBuf> {
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let place = folders.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    if place.is_none() {
        let is_required = std::env::var("PORTCULLIS_EXTERNAL").is_ok_and(|value| value == "1");
        assert!(!is_required, "{name} is missing; tests/run installs it");
        // Past the capture of output: whoever runs the tests must see what was not tested.
        let _ = writeln!(std::io::stderr(), "LEFT OUT: {name} is not installed (tests/run installs it)");
    }
    place
}

/// A program that runs in the foreground; dropping it ends it, politely first.
pub(crate) struct Program {
    child: Child,
}

impl Program {
    /// Starts it and waits until something accepts connections at `address`.
    #[track_caller]
    pub(crate) fn start(command: &mut Command, address: SocketAddr) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program can be started");
        let mut program = Self { child };
        eventually(&format!("{command:?} listens at {address}"), || {
            if let Ok(Some(status)) = program.child.try_wait() {
                panic!("{command:?} ended: {status}");
            }
            TcpStream::connect(address).is_ok()
        });
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        for _ in 0..500 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody else gets: for programs that cannot choose one themselves and say which, and for a gateway
/// that comes back where it was.
///
/// Its port lies below those that the system hands out by itself (ip(7), `ip_local_port_range`: 32768 and up), so no
/// connection and no listener on port 0 can take it in the meantime; and no two calls answer the same one.
pub(crate) fn free_address() -> SocketAddr {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static CALLS: AtomicU32 = AtomicU32::new(0);
    // Two runs at a time begin at different places.
    let begin = std::process::id().wrapping_mul(997);
    let mut ports = (0..PORTS.end - PORTS.start).map(|_| {
        let step = begin.wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed));
        u16::try_from(PORTS.start + step % (PORTS.end - PORTS.start)).expect("a port")
    });
    let listener = ports.find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).expect("a port is free");
    listener.local_addr().expect("a bound socket has an address")
}
