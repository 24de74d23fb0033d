//! Sockets that were opened for us before we were started: systemd's socket activation (sd_listen_fds(3)).
//!
//! In: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`, once, before any thread runs. Out: [`Bound`] listeners, by number
//! or name. What is meant for another process is left alone; what nobody asks for is closed, so that no client waits in
//! a queue that is never looked at. Taking a descriptor over by its number is the work of the `listenfd` library.

use std::{io, os::fd::OwnedFd};

use listenfd::ListenFd;

use crate::{edge::Bound, listener::Which};

/// What was opened for us and is not in use yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Opened>);

#[derive(Debug)]
struct Opened {
    number: u16,
    name: Option<String>,
    socket: OwnedFd,
}

impl Inherited {
    /// Takes over what the environment tells of. `variable` reads it; the library removes what it has read from it.
    ///
    /// # Errors
    /// When a descriptor is no stream socket.
    pub fn take(variable: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let meant = variable("LISTEN_PID").and_then(|pid| pid.parse().ok()) == Some(std::process::id());
        let count = variable("LISTEN_FDS").and_then(|count| count.parse::<u16>().ok()).unwrap_or(0);
        if !meant || count == 0 {
            return Ok(Self::default());
        }
        if count > MOST || variable("LISTEN_FDS_FIRST_FD").is_some() {
            return Err(io::Error::other(format!(
                "LISTEN_FDS={count} is more than {MOST}, or begins elsewhere than at 3"
            )));
        }
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').filter(|name| !name.is_empty()).map(str::to_owned);
        let mut passed = ListenFd::from_env();
        let mut all = Vec::new();
        for (index, number) in (FIRST..FIRST + count).enumerate() {
            let socket = match passed.take_unix_listener(index) {
                Ok(Some(listener)) => OwnedFd::from(listener),
                Ok(None) => break,
                Err(_) => match passed.take_tcp_listener(index)? {
                    Some(listener) => OwnedFd::from(listener),
                    None => break,
                },
            };
            all.push(Opened { number, name: names.next(), socket });
        }
        Ok(Self(all))
    }

    /// The sockets that are meant, to listen on; they are not here any more then.
    ///
    /// # Errors
    /// When there is none, or one does not listen.
    pub fn open(&mut self, which: &Which, encrypted: bool) -> io::Result<Vec<Bound>> {
        let meant = |opened: &mut Opened| match which {
            Which::Number(number) => opened.number == *number,
            Which::Name(name) => opened.name.as_deref() == Some(&**name),
        };
        let found: Vec<_> = self.0.extract_if(.., meant).collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, self.missing()));
        }
        found.into_iter().map(|opened| Bound::adopt(opened.socket, encrypted)).collect()
    }

    /// What nobody has asked for, as messages name it.
    pub fn rest(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|opened| match &opened.name {
            Some(name) => format!("fd:{} ({name})", opened.number),
            None => format!("fd:{}", opened.number),
        })
    }

    fn missing(&self) -> String {
        let rest: Vec<_> = self.rest().collect();
        if rest.is_empty() {
            "no socket was opened for us: that is what a systemd socket unit, or systemd-socket-activate, does".into()
        } else {
            format!("none of that number or name was opened for us; there is: {}", rest.join(", "))
        }
    }
}

/// Of the descriptors that are passed (`SD_LISTEN_FDS_START`).
const FIRST: u16 = 3;
/// More is a mistake.
const MOST: u16 = 256;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn opened(number: u16, name: &str) -> Opened {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap().into();
        Opened { number, name: Some(name.to_owned()), socket }
    }

    #[test]
    fn what_is_meant_for_another_process_is_left_alone() {
        let environment = |name: &str| match name {
            "LISTEN_PID" => Some("1".to_owned()),
            "LISTEN_FDS" => Some("1".to_owned()),
            _ => None,
        };

        assert!(Inherited::take(environment).unwrap().0.is_empty());
    }

    #[test]
    fn sockets_are_found_by_number_and_all_of_a_name_together_each_once() {
        let mut inherited = Inherited(vec![opened(3, "web"), opened(4, "admin"), opened(5, "web")]);
        let web = Which::Name("web".into());

        assert_eq!(inherited.open(&web, true).unwrap().len(), 2);
        assert!(inherited.open(&web, true).unwrap_err().to_string().contains("fd:4 (admin)"));
        assert_eq!(inherited.rest().collect::<Vec<_>>(), ["fd:4 (admin)"]);
        assert_eq!(inherited.open(&Which::Number(4), false).unwrap().len(), 1);
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let connected = std::os::unix::net::UnixStream::pair().unwrap().0;
        let mut inherited = Inherited(vec![Opened { number: 3, name: None, socket: connected.into() }]);

        assert!(inherited.open(&Which::Number(3), false).unwrap_err().to_string().contains("listens"));
    }

    #[test]
    fn no_tls_is_spoken_on_a_unix_socket() {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
        let mut inherited = Inherited(vec![Opened { number: 3, name: None, socket: listener.into() }]);

        assert!(inherited.open(&Which::Number(3), true).unwrap_err().to_string().contains(",plain"));
        assert!(folder.path().join("s").exists(), "its file is not ours");
    }
}
