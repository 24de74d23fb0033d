//! Every listening socket of a gateway: opened here, or before us by a service manager.
//!
//! In: what the configuration names, and what was inherited. Out: [`Bound`] sockets, all of them or a [`StartError`]
//! that says which one and how to mend it. Where an inherited socket leads is known only now: the rules on who may be
//! spoken to without encryption (R20, R36) are held against it here, as `config` holds them against written addresses.

use std::{io, net::SocketAddr};

use super::{Addresses, StartError};
use crate::{
    config::Startup,
    edge::{self, Bound, Inherited},
    handover::{Handle, Predecessor},
    listener::{Listener, OwnListener},
};

/// All of them, in the order of the configuration.
pub(super) struct Sockets {
    pub(super) gateway: Vec<Bound>,
    pub(super) redirect: Option<Bound>,
    pub(super) telemetry: Vec<Bound>,
    pub(super) admin: Vec<Bound>,
}

impl Sockets {
    /// Opens what is to be opened, and takes over the rest. What was inherited and is not asked for is closed.
    /// `handles` gets a share of each, under its name, if another process may follow.
    pub(super) fn open(
        startup: &Startup,
        behind_proxies: bool,
        sources: &mut Sources,
        handles: &mut Vec<Handle>,
    ) -> Result<Self, StartError> {
        let mut open = |purpose: &str, listener: &Listener, rule: Rule| {
            let name = format!("{purpose} {listener}");
            let found = open(&name, listener, rule, sources)?;
            if startup.upgrade_socket.is_some() {
                for bound in &found {
                    let (socket, given) = bound.share().map_err(|error| StartError {
                        what: format!("{listener} cannot be shared with a process that follows"),
                        cause: error.into(),
                    })?;
                    handles.push(Handle { name: name.clone(), socket, given });
                }
            }
            Ok::<_, StartError>(found)
        };
        let rule = if behind_proxies { Rule::Any } else { Rule::NobodyListensIn };
        let gateway = startup.edge.listeners.iter().map(|listener| open("server.listen", listener, rule));
        let gateway = gateway.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let redirect = startup.edge.redirect_http.map(Listener::Http);
        let redirect =
            redirect.as_ref().map(|listener| open("server.redirect_http", listener, Rule::Any)).transpose()?;
        let telemetry = startup.telemetry.as_ref();
        let telemetry = telemetry.map(|listener| open("telemetry.listen", listener, Rule::Any)).transpose()?;
        let admin = startup.admin.as_ref();
        let admin = admin.map(|listener| open("admin.listen", listener, Rule::NobodyListensIn)).transpose()?;
        for socket in sources.inherited.rest() {
            tracing::warn!(socket, "a socket that was opened for us is named nowhere in the configuration, and closed");
        }
        let redirect = redirect.and_then(|mut found| found.pop());
        let (telemetry, admin) = (telemetry.unwrap_or_default(), admin.unwrap_or_default());
        Ok(Self { gateway, redirect, telemetry, admin })
    }

    /// Where they can be reached.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            gateway: self.gateway.iter().filter_map(Bound::local_addr).collect(),
            redirect: self.redirect.as_ref().and_then(Bound::local_addr),
            telemetry: self.telemetry.first().and_then(Bound::local_addr),
            admin: self.admin.first().and_then(Bound::local_addr),
        }
    }

    /// What no upstream may be.
    pub(super) fn own(&self) -> Vec<OwnListener> {
        let all = [&self.gateway, &self.admin, &self.telemetry].into_iter().flatten().chain(&self.redirect);
        all.filter_map(Bound::own).collect()
    }
}

/// Who may be spoken to without encryption.
#[derive(Clone, Copy)]
enum Rule {
    /// Only who is on this machine.
    NobodyListensIn,
    /// Everybody: who counts is judged for each peer, or nothing secret is said.
    Any,
}

/// Where sockets come from that are not made here.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) inherited: Inherited,
    pub(super) predecessor: Option<Predecessor>,
}

fn open(name: &str, listener: &Listener, rule: Rule, sources: &mut Sources) -> Result<Vec<Bound>, StartError> {
    let refused = |error: io::Error| StartError { what: format!("cannot listen on {listener}"), cause: error.into() };
    let mut given = || sources.predecessor.as_mut().and_then(|predecessor| predecessor.socket(name));
    match listener {
        Listener::Http(_) | Listener::Https(_) | Listener::Unix { .. } => match given() {
            Some(socket) => Ok(vec![Bound::take_over(socket, listener).map_err(refused)?]),
            None => bind(listener).map(|bound| vec![bound]),
        },
        Listener::Inherited { which, encrypted } => {
            let given: Vec<_> = std::iter::from_fn(given).collect();
            let found = if given.is_empty() {
                sources.inherited.open(which, *encrypted).map_err(refused)?
            } else {
                let taken = given.into_iter().map(|socket| Bound::take_over(socket, listener));
                taken.collect::<io::Result<_>>().map_err(refused)?
            };
            match rule {
                Rule::Any => Ok(found),
                Rule::NobodyListensIn => match found.iter().find_map(exposed) {
                    None => Ok(found),
                    Some(address) => Err(refused(io::Error::other(format!(
                        "it is {address}, where plain http can be listened in to: leave `,plain` out, or open a loopback \
                         address or a unix socket"
                    )))),
                },
            }
        }
    }
}

/// Where it is, if others than this machine may send there without encryption.
fn exposed(bound: &Bound) -> Option<SocketAddr> {
    bound.local_addr().filter(|address| !bound.is_https() && !address.ip().to_canonical().is_loopback())
}

fn bind(listener: &Listener) -> Result<Bound, StartError> {
    edge::bind(listener).map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::AddrInUse => "; another program listens there, perhaps another portcullis",
            io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 and system folders ask for rights: setcap cap_net_bind_service or another place"
            }
            _ => "",
        };
        StartError { what: format!("cannot listen on {listener}{mend}"), cause: error.into() }
    })
}
