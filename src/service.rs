//! What the service manager is told: ready, reloading, stopping, alive (sd_notify(3)).
//!
//! In: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, once. Out: datagrams. Without `NOTIFY_SOCKET` nothing
//! happens; a manager that does not listen holds nobody up and stops nothing.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// The way to the service manager, if there is one. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Manager {
    socket: Option<Arc<UnixDatagram>>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// As the environment says; `variable` reads it.
    ///
    /// # Errors
    /// When `NOTIFY_SOCKET` names what is no unix socket or cannot be connected to.
    pub fn find(variable: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let Some(place) = variable("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match place.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(OsStr::from_bytes(place.as_bytes()))?,
            [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract socket")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        let ours = variable("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(std::process::id()));
        let microseconds = variable("WATCHDOG_USEC").and_then(|text| text.parse().ok()).filter(|number| *number > 0);
        let watchdog = microseconds.filter(|_| ours).map(Duration::from_micros);
        Ok(Self { socket: Some(Arc::new(socket)), watchdog })
    }

    /// How often at least it wants to hear [`Self::alive`].
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Everything is up: at the start, and after a reload.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is read again; [`Self::ready`] follows, whatever comes of it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reading the configuration again"));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=letting what is under way finish");
    }

    /// Another process is this service from now on. It tells the rest itself.
    pub fn followed_by(&self, process: u32) {
        self.tell(&format!("MAINPID={process}\nREADY=1\nSTATUS=serving"));
    }

    /// Nothing hangs.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(place: &str, watchdog: Option<&str>, pid: Option<String>) -> io::Result<Manager> {
        Manager::find(|name| match name {
            "NOTIFY_SOCKET" => Some(place.to_owned()),
            "WATCHDOG_USEC" => watchdog.map(str::to_owned),
            "WATCHDOG_PID" => pid.clone(),
            _ => None,
        })
    }

    fn hear(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn abstract_sockets_and_paths_are_told_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("portcullis-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();

        for (place, socket) in [(path.to_str().unwrap().to_owned(), by_path), (format!("@{name}"), by_name)] {
            let manager = manager(&place, None, None).unwrap();
            manager.ready("listening");
            assert_eq!(hear(&socket), "READY=1\nSTATUS=listening");
            manager.reloading();
            assert!(hear(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        }
    }

    #[test]
    fn a_place_that_is_none_is_refused_and_no_place_is_no_manager() {
        assert!(manager("notify", None, None).is_err());
        assert!(manager("@", None, None).is_err());
        assert!(Manager::find(|_| None).unwrap().socket.is_none());
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let watchdog = |usec, pid| manager(path.to_str().unwrap(), usec, pid).unwrap().watchdog();

        assert_eq!(watchdog(Some("2000000"), None), Some(Duration::from_secs(2)));
        assert_eq!(watchdog(Some("2000000"), Some(std::process::id().to_string())), Some(Duration::from_secs(2)));
        assert_eq!(watchdog(Some("2000000"), Some("1".to_owned())), None);
        assert_eq!(watchdog(Some("0"), None), None);
    }
}
