//! Where the gateway can be reached: one form for `server.listen`, `telemetry.listen` and `admin.listen`.

use std::{fmt, net::SocketAddr, path::PathBuf};

/// One address to listen on, as written in the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listener {
    /// `http://addr`: loopback, or behind trusted proxies with all other peers refused.
    Http(SocketAddr),
    /// `https://addr`, with the gateway's certificates.
    Https(SocketAddr),
    /// `unix:/path,mode=0660`: plain HTTP; the file's mode says who may connect.
    Unix {
        /// Where the socket is made.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// `fd:web` or `fd:3`: sockets that were opened for us before we were started (sd_listen_fds(3)).
    Inherited {
        /// Which of them.
        which: Which,
        /// Whether TLS is spoken there; `,plain` says that it is not.
        encrypted: bool,
    },
}

/// Where one of our own sockets listens, as whoever connects to it sees the other end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OwnListener {
    /// TCP, with the port that was chosen if 0 was asked for.
    Ip(SocketAddr),
    /// A unix socket, with the path that it was bound to.
    Unix(PathBuf),
}

/// Which of the sockets that were opened for us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Which {
    /// The descriptor of this number: 3 is the first.
    Number(u16),
    /// All that bear this name: `FileDescriptorName=` of a systemd socket unit.
    Name(Box<str>),
}

impl Listener {
    /// Whether TLS is spoken there.
    pub const fn is_encrypted(&self) -> bool {
        match self {
            Self::Https(_) | Self::Inherited { encrypted: true, .. } => true,
            Self::Http(_) | Self::Unix { .. } | Self::Inherited { encrypted: false, .. } => false,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => write!(f, "http://{address}"),
            Self::Https(address) => write!(f, "https://{address}"),
            Self::Unix { path, mode } => write!(f, "unix:{},mode={mode:04o}", path.display()),
            Self::Inherited { which, encrypted } => {
                match which {
                    Which::Number(number) => write!(f, "fd:{number}")?,
                    Which::Name(name) => write!(f, "fd:{name}")?,
                }
                f.write_str(if *encrypted { "" } else { ",plain" })
            }
        }
    }
}
