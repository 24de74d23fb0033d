//! The only lines of the harness that touch the gateway's entry points: read a configuration, start, ask where, stop.

use std::{net::SocketAddr, path::Path};

use portcullis::{clock::Clock, config, gateway, signing::Algorithm};
use serde_json::Value;

/// A gateway in this process.
pub(crate) struct InProcess(gateway::Running);

/// Where it listens.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// `server.listen`, in its order.
    pub(crate) gateway: Vec<SocketAddr>,
    pub(crate) redirect: Option<SocketAddr>,
    pub(crate) telemetry: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
}

impl InProcess {
    /// Reads the file and starts. `Err` is what a user would read.
    pub(crate) fn start(path: &Path, environment: &[(String, String)], clock: Clock) -> Result<Self, String> {
        let config = config::load(path, environment.iter().cloned()).map_err(|report| report.to_string())?;
        let (path, environment) = (path.to_owned(), environment.to_vec());
        let again = Box::new(move || config::load(&path, environment.iter().cloned()));
        gateway::start(config, clock, again).map(Self).map_err(|error| error.to_string())
    }

    pub(crate) fn addresses(&self) -> Addresses {
        let addresses = self.0.addresses();
        Addresses {
            gateway: addresses.gateway.clone(),
            redirect: addresses.redirect,
            telemetry: addresses.telemetry,
            admin: addresses.admin,
        }
    }

    /// An access token of its own, with these claims.
    pub(crate) fn sign_access(&self, claims: &Value) -> String {
        let keys = &self.0.live().shared.signing.access;
        keys.sign(Algorithm::Es256, claims).expect("there is a key").into()
    }

    /// `true` if everything ended by itself within `server.drain_timeout`.
    pub(crate) fn stop(self) -> bool {
        self.0.stop()
    }
}
