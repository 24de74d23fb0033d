//! A service manager that a program tells how it is (`sd_notify(3)`).

use std::os::{
    linux::net::SocketAddrExt,
    unix::net::{SocketAddr, UnixDatagram},
};

use super::patience;

/// Listens at an abstract address, with a watchdog.
pub(crate) struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    /// `of`: to tell several in one test program apart.
    pub(crate) fn new(of: &str) -> Self {
        let name = format!("portcullis-{of}-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_read_timeout(Some(patience())).unwrap();
        Self { socket, name }
    }

    /// What a program needs to know.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let variables = [("NOTIFY_SOCKET", format!("@{}", self.name)), ("WATCHDOG_USEC", "2400000".to_owned())];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// The next message that begins with this.
    #[track_caller]
    pub(crate) fn hears(&self, wanted: &str) -> String {
        let mut buffer = [0; 512];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.starts_with(wanted) {
                return text;
            }
        }
    }
}
