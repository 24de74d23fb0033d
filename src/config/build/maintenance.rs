//! `[maintenance]`: hosts that serve nobody for a while. A host that is not served is refused: nothing would be closed.

use std::time::Duration;

use super::Build;
use crate::{
    config::{
        decode::At,
        file::{File, MaintainedHosts},
        report::did_you_mean,
    },
    host::Host,
    policy::Maintenance,
};

impl Build<'_> {
    /// `None` after a problem; `Some(None)`: every host is served.
    pub(super) fn maintenance(&mut self, file: &File, known_hosts: &[Host]) -> Option<Option<Maintenance>> {
        let Some(At { value: written, place }) = file.maintenance.0.as_ref()? else { return Some(None) };
        let hosts = match &written.hosts {
            MaintainedHosts::All => None,
            MaintainedHosts::Some(hosts) => {
                for At { value: host, place } in hosts.iter().filter(|at| !known_hosts.contains(&at.value)) {
                    let found = format!("the host `{}`, which is not served", host.as_str());
                    let problem = self.findings.problem(place, found, "a host that is");
                    problem.depends(&["server", "route"]);
                    if let Some(meant) = did_you_mean(host.as_str(), known_hosts.iter().map(Host::as_str)) {
                        problem.help(format!("did you mean `{meant}`?"));
                    }
                }
                Some(hosts.iter().map(|at| at.value.clone()).collect())
            }
        };
        let closed = match &written.hosts {
            MaintainedHosts::All => "every host".to_owned(),
            MaintainedHosts::Some(hosts) => hosts.iter().map(|at| at.value.as_str()).collect::<Vec<_>>().join(", "),
        };
        if !closed.is_empty() {
            self.findings.warn(place, format!("in maintenance: {closed}; what is not in `except` gets 503"));
        }
        Some(Some(Maintenance {
            hosts,
            except: written.except.iter().map(|at| at.value).collect(),
            retry_after: written.retry_after.map_or(DEFAULT_RETRY_AFTER, |positive| positive.0),
        }))
    }
}

const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(10 * 60);
