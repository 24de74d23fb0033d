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
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => write!(f, "http://{address}"),
            Self::Https(address) => write!(f, "https://{address}"),
            Self::Unix { path, mode } => write!(f, "unix:{},mode={mode:04o}", path.display()),
        }
    }
}
