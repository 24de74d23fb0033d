//! Whether the gateway should be sent requests, and what people are told of its parts.
//!
//! What one gateway behind a load balancer cannot do while another could makes it unready; what none could do, or what
//! concerns a few requests, does not: then it would only take the rest away, too. So:
//! - *store*: `server.state_dir` cannot be written (told by `durable`);
//! - *upstreams*: no upstream has a server that is in;
//! - *keys*: an issuer's keys were never fetched, during the first minute only: a gateway that starts waits for them, but
//!   an issuer that is down must not keep all sessions waiting;
//! - *certificates*: all are expired.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    certificate::{CertificateResolver, Expiry},
    clock::{self, Timestamp},
    state::Live,
    telemetry::endpoint::{self, Detail},
    upstream::health::Watch,
};

/// What is judged again and again.
pub(super) struct Judge {
    live: Arc<Live>,
    certificates: Arc<CertificateResolver>,
    began: Instant,
}

impl Judge {
    /// From now on, a minute is given to keys.
    pub(super) fn new(live: Arc<Live>, certificates: Arc<CertificateResolver>) -> Self {
        Self { live, certificates, began: clock::instant() }
    }

    /// Judges all parts but the upstreams, whose servers are not known before they are followed.
    pub(super) fn judge(&self, upstreams: Option<&Watch>) {
        let (shared, now) = (&self.live.shared, self.live.shared.clock.now());
        let readiness = shared.telemetry.readiness();
        let mut details = Vec::new();
        if shared.durable.is_some() {
            let works = !readiness.is_blocked_by(endpoint::STATE);
            let state = if works { "it is written" } else { "it cannot be written" };
            details.push(Detail {
                part: endpoint::STATE,
                name: "server.state_dir".into(),
                state: state.into(),
                good: works,
            });
        }
        let upstreams = self.upstreams(upstreams, &mut details);
        let keys = self.keys(now, &mut details) && clock::instant().duration_since(self.began) < KEYS_WITHIN;
        let certificates = self.certificates(now, &mut details);
        for (is_wrong, word) in
            [(upstreams, endpoint::UPSTREAMS), (keys, endpoint::KEYS), (certificates, endpoint::CERTIFICATES)]
        {
            if is_wrong { readiness.block(word) } else { readiness.clear(word) }
        }
        readiness.tell(details);
    }

    /// Whether there are upstreams, and none has a server that is in.
    fn upstreams(&self, upstreams: Option<&Watch>, details: &mut Vec<Detail>) -> bool {
        let (mut all, mut without) = (0, 0);
        for (name, servers_in, servers) in upstreams.into_iter().flat_map(Watch::census) {
            all += 1;
            without += usize::from(servers_in == 0);
            details.push(Detail {
                part: endpoint::UPSTREAMS,
                name: name.to_string(),
                state: format!("{servers_in} of {servers} servers in"),
                good: servers_in == servers,
            });
        }
        all > 0 && without == all
    }

    /// Whether keys of an issuer were never fetched.
    fn keys(&self, now: Timestamp, details: &mut Vec<Detail>) -> bool {
        let mut is_missing = false;
        for issuer in &self.live.snapshot().issuers {
            let Some(statistics) = issuer.keys.statistics(now) else { continue };
            is_missing |= statistics.age.is_none();
            let state = match statistics.age {
                Some(age) => format!("{} keys, known to be present {} s ago", statistics.keys, age.as_secs()),
                None => "never fetched".to_owned(),
            };
            let good = statistics.age.is_some();
            details.push(Detail { part: endpoint::KEYS, name: issuer.name.to_string(), state, good });
        }
        is_missing
    }

    /// Whether there are certificates, and all are expired; but not where one is ordered: the authority must get
    /// through to renew it.
    fn certificates(&self, now: Timestamp, details: &mut Vec<Detail>) -> bool {
        let expiries = self.certificates.expiries();
        for Expiry { name, until, .. } in &expiries {
            let (date, good) = (humantime::format_rfc3339_seconds(until.to_system_time()), now < *until);
            let state = format!("{} {date}", if good { "until" } else { "expired at" });
            details.push(Detail { part: endpoint::CERTIFICATES, name: name.clone(), state, good });
        }
        !expiries.is_empty() && expiries.iter().all(|expiry| !expiry.ordered && now >= expiry.until)
    }
}

/// For how long a gateway that has started waits for keys before it takes requests without them.
const KEYS_WITHIN: Duration = Duration::from_secs(60);
