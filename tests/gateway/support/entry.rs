//! The only lines of the harness that touch the gateway's entry points: read a configuration, start, ask where, stop.

use std::{net::SocketAddr, path::Path, sync::Arc};

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

/// Reference counts, each in memory that all workers read: whoever writes one takes it away from the others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Holders {
    pub(crate) routes: usize,
    pub(crate) sessions: usize,
    pub(crate) identities: usize,
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

    /// How many hold on to what all workers share.
    pub(crate) fn holders(&self) -> Holders {
        let live = self.0.live();
        let snapshot = live.snapshot();
        let sessions = live.shared.sessions.list(None, usize::MAX);
        Holders {
            routes: snapshot.routes.routes().iter().map(Arc::strong_count).sum(),
            // Less what is counted here.
            sessions: sessions.iter().map(|session| Arc::strong_count(session) - 1).sum(),
            identities: sessions.iter().map(|session| Arc::strong_count(session.identity())).sum(),
        }
    }

    /// `true` if everything ended by itself within `server.drain_timeout`.
    pub(crate) fn stop(self) -> bool {
        self.0.stop()
    }
}
