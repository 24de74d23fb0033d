//! A new configuration for a running gateway (R37).
//!
//! ```text
//! signal, admin API, watch → read and build everything → compare what needs a restart → swap once → sessions follow
//! ```
//! One thread does all of it, off the workers. In: wishes ([`Ask`]) and the files. Out: an [`Outcome`], in the log,
//! in metrics and to whoever asked. Invariants: everything that can fail comes before the first thing that changes, so
//! that a reload is applied whole or not at all; requests under way finish on the snapshot that they began with;
//! sockets, counters, sessions and connections to unchanged upstreams stay.

use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::mpsc::Receiver, time::MissedTickBehavior};

use crate::{
    authn::jwks::KeySlot,
    certificate::{Certificate, CertificateResolver, Expiry},
    change::{Applied, Ask, Cause, Outcome},
    clock::Timestamp,
    config::{Config, Report, Startup, Tls},
    edge::{self, Spoken, TlsSlot},
    state::{Live, Snapshot},
    telemetry::audit::{Event, Origin, What},
    upstream,
};

mod certificates;
pub mod diff;
mod sessions;
mod watch;

pub use certificates::{Certificates, load as load_certificates};
pub use sessions::{Revised, Told, follows_its_source, key_makers, revise};
use watch::Watch;

/// Reads the configuration anew: the same files, the environment as it is.
pub type Source = Box<dyn Fn() -> Result<Config, Report> + Send>;

/// What reloads a gateway.
pub struct Reloader {
    /// What there is to change.
    pub live: Arc<Live>,
    /// What cannot change, as it was at the start.
    pub startup: Startup,
    /// Where certificates are served from.
    pub resolver: Arc<CertificateResolver>,
    /// How TLS is spoken; `None`: no listener speaks it.
    pub tls: Option<Arc<TlsSlot>>,
    /// Where the configuration comes from.
    pub source: Source,
}

/// Everything that a reload needs, built; nothing of it is in use yet.
struct Built {
    snapshot: Snapshot,
    certificates: Option<Vec<Certificate>>,
    tls: Option<Spoken>,
    trust: Option<Arc<rustls::ClientConfig>>,
    warnings: Vec<String>,
}

impl Reloader {
    /// Reloads whenever it is asked to, and when files change if `server.watch` says so, until the gateway stops.
    /// `first` is the configuration that it was started with. For a thread of its own: it reads files.
    pub async fn run(mut self, first: Followed, mut asks: Receiver<Ask>) {
        let mut followed = first;
        let mut looks = tokio::time::interval(watch::EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Loading has just said so.
        let mut reminded = self.live.shared.clock.now();
        loop {
            let live = Arc::clone(&self.live);
            let cause = tokio::select! {
                () = live.shared.shutdown.triggered() => return,
                ask = asks.recv() => match ask {
                    Some(first) => {
                        // Whoever asked before the reading begins gets what it brings.
                        let mut waiting = vec![first];
                        while let Ok(ask) = asks.try_recv() {
                            waiting.push(ask);
                        }
                        let cause = waiting[0].cause;
                        let outcome = self.reload(cause, &mut followed).await;
                        for ask in waiting {
                            let _ = ask.reply.send(outcome.clone());
                        }
                        continue;
                    }
                    None => return,
                },
                _ = looks.tick() => Cause::Watch,
            };
            if followed.watched && followed.watch.look() {
                self.reload(cause, &mut followed).await;
            }
            followed.revise_again(&self.live).await;
            self.remind(&mut reminded);
        }
    }

    /// Reminds once a day of certificates that end soon.
    fn remind(&self, last: &mut Timestamp) {
        let now = self.live.shared.clock.now();
        if now.since(*last) < REMIND_EVERY {
            return;
        }
        *last = now;
        for Expiry { name, ordered, until } in self.resolver.ending_soon(now) {
            let until = humantime::format_rfc3339_seconds(until.to_system_time());
            let mend = if ordered { "its renewal has failed so far, as was told" } else { "renew it" };
            tracing::warn!(certificate = name, "the certificate expires at {until}; {mend}");
        }
        self.live.snapshot().mtls.warnings(now).iter().for_each(|warning| tracing::warn!("{warning}"));
    }

    /// One reload, told to everybody who should know.
    async fn reload(&mut self, cause: Cause, followed: &mut Followed) -> Outcome {
        let outcome = self.attempt(cause, followed).await;
        let (now, shared) = (self.live.shared.clock.now(), &self.live.shared);
        match &outcome {
            Outcome::Applied(applied) => {
                tracing::info!(
                    cause = cause.label(),
                    generation = applied.generation,
                    sessions_ended = applied.sessions_ended,
                    sessions_updated = applied.sessions_updated,
                    "the configuration was reloaded"
                );
                applied.changes.iter().for_each(|change| tracing::info!(generation = applied.generation, "{change}"));
                applied.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Outcome::Refused(problems) => {
                for problem in problems {
                    tracing::error!(cause = cause.label(), "the reload was refused, nothing has changed: {problem}");
                }
            }
            Outcome::RestartNeeded(keys) => tracing::error!(
                cause = cause.label(),
                keys = keys.join(", "),
                "the reload was refused, nothing has changed: these keys need a restart"
            ),
            Outcome::Unchanged => tracing::debug!(cause = cause.label(), "the files say what is in use already"),
        }
        if outcome != Outcome::Unchanged {
            let generation = self.live.snapshot().generation;
            let more = [
                ("cause", cause.label().into()),
                ("result", outcome.label().into()),
                ("generation", generation.into()),
            ];
            shared.telemetry.audit().record(&Event { more: &more, ..Event::new(What::Reload, Origin::gateway(now)) });
        }
        shared.reloads.note(now, &outcome);
        outcome
    }

    async fn attempt(&mut self, cause: Cause, followed: &mut Followed) -> Outcome {
        let config = match (self.source)() {
            Ok(config) => config,
            Err(report) => {
                let problems = report.problems().iter().map(ToString::to_string).collect();
                followed.read(report.inputs());
                return Outcome::Refused(problems);
            }
        };
        followed.read(&config.inputs);
        let digest = config.inputs.digest();
        if cause == Cause::Watch && digest == followed.applied {
            return Outcome::Unchanged;
        }
        let keys = self.startup.differences(&config.startup);
        if !keys.is_empty() {
            return Outcome::RestartNeeded(keys);
        }
        let watched = config.watch;
        let built = match self.build(config) {
            Ok(built) => built,
            Err(problem) => return Outcome::Refused(vec![problem]),
        };
        followed.applied = digest;
        followed.watched = watched;
        let before = self.live.snapshot();
        let mut applied = self.apply(built);
        let now = self.live.shared.clock.now();
        let compared = diff::compare(&before, &self.live.snapshot(), now, COMPARED);
        applied.changes = compared.differences.iter().map(ToString::to_string).collect();
        if compared.is_partial {
            applied.changes.push("further requests were not compared; `portcullis diff` compares all".to_owned());
        }
        let Revised { ended, updated, .. } = followed.revise(&self.live, before).await;
        (applied.sessions_ended, applied.sessions_updated) = (ended, updated);
        Outcome::Applied(applied)
    }

    /// The last things that can fail.
    fn build(&self, config: Config) -> Result<Built, String> {
        let Config { tls, mut snapshot, warnings, .. } = config;
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let shared = &self.live.shared;
        let certificates = match &tls {
            None => None,
            Some(tls) => {
                let loaded = certificates::load(&tls.source, shared.clock.now())?;
                warnings.extend(loaded.warnings);
                Some(loaded.all)
            }
        };
        let tls = match (tls, &self.tls) {
            (Some(new), Some(slot)) => {
                let (resolver, earlier): (edge::Certificates, _) = (Arc::clone(&self.resolver) as _, slot.current());
                let Tls { min_version, groups, asked, .. } = new;
                let spoken = Spoken::new(&resolver, min_version, &groups, asked, Some(&earlier))
                    .map_err(|error| format!("the TLS settings cannot be used: {error}"))?;
                Some(spoken)
            }
            (Some(_) | None, _) => None,
        };
        let trust = trust(&snapshot, &shared.upstreams)?;
        let before = self.live.snapshot();
        snapshot.generation = before.generation + 1;
        // What was prepared under other settings is prepared anew (R13).
        snapshot.headers.generation = snapshot.generation;
        give_keys(&mut snapshot, &shared.own_keys);
        for issuer in &mut snapshot.issuers {
            if let Some(earlier) = before.issuers.iter().find(|earlier| earlier.name == issuer.name) {
                issuer.carry_over(earlier);
            }
        }
        for (id, key) in &snapshot.api_keys {
            let earlier = before.api_keys.get(id).and_then(|earlier| earlier.last_used());
            if let Some(used) = earlier {
                key.was_used(used.unix_millis());
            }
        }
        snapshot.mtls.carry_over(&before.mtls);
        warnings.extend(snapshot.mtls.warnings(shared.clock.now()));
        Ok(Built { snapshot, certificates, tls, trust, warnings })
    }

    /// Takes everything into use. Nothing here can fail.
    fn apply(&self, built: Built) -> Applied {
        let Built { snapshot, certificates, tls, trust, warnings } = built;
        let shared = &self.live.shared;
        let generation = snapshot.generation;
        if let Some(trust) = trust {
            shared.upstreams.verify_by(trust);
        }
        shared.upstreams.resolve_by(&snapshot.resolver);
        if let Some(certificates) = certificates {
            self.resolver.replace(certificates);
        }
        if let (Some(slot), Some(spoken)) = (&self.tls, tls) {
            slot.replace(spoken);
        }
        let before = self.live.snapshot();
        self.live.swap(snapshot);
        let after = self.live.snapshot();
        shared.made_keys.follow(key_makers(&after));
        for earlier in before.issuers.iter().filter(|issuer| issuer.own.is_none()) {
            earlier.end_for(after.issuers.iter().find(|issuer| issuer.name == earlier.name));
        }
        let has_own = |snapshot: &Snapshot| snapshot.issuers.iter().any(|issuer| issuer.own.is_some());
        if has_own(&before) && !has_own(&after) {
            // What was verified with our keys has ended. When they are used again they begin anew.
            shared.own_keys.forget();
            let _ = shared.own_keys.publish(&shared.signing.access.jwks(), "self");
        }
        Applied { generation, changes: Vec::new(), warnings, sessions_ended: 0, sessions_updated: 0 }
    }
}

/// Which files are followed, and what of them is in use.
pub struct Followed {
    watch: Watch,
    watched: bool,
    /// The contents in use.
    applied: [u8; 32],
    /// What sessions can come from, as it is in use.
    sources: [u8; 32],
    /// Snapshots with other sources than today's, under which somebody may still log in.
    earlier: Vec<Weak<Snapshot>>,
    /// Whether some sessions should have followed and could not.
    unfinished: bool,
}

impl Followed {
    /// The files of a configuration that is in use.
    pub fn of(config: &Config) -> Self {
        let inputs = config.inputs.clone();
        Self {
            applied: inputs.digest(),
            watched: config.watch,
            watch: Watch::of(inputs),
            sources: sessions::digest(&config.snapshot),
            earlier: Vec::new(),
            unfinished: false,
        }
    }

    fn read(&mut self, inputs: &crate::config::Inputs) {
        self.watch = Watch::of(inputs.clone());
    }

    /// Has sessions follow their sources, if those are others than under the snapshot `before`.
    async fn revise(&mut self, live: &Live, before: Arc<Snapshot>) -> Revised {
        let snapshot = live.snapshot();
        let sources = sessions::digest(&snapshot);
        if sources == self.sources {
            return Revised::default();
        }
        self.sources = sources;
        self.earlier.push(Arc::downgrade(&before));
        drop(before);
        self.revise_now(live, &snapshot).await
    }

    /// A login that began under an earlier snapshot may have opened a session after all were looked at: until the last
    /// such login has ended, and once after it, they are looked at again.
    async fn revise_again(&mut self, live: &Live) {
        if self.earlier.is_empty() && !self.unfinished {
            return;
        }
        self.earlier.retain(|snapshot| snapshot.strong_count() > 0);
        self.revise_now(live, &live.snapshot()).await;
    }

    async fn revise_now(&mut self, live: &Live, snapshot: &Snapshot) -> Revised {
        let told = Told { audit: live.shared.telemetry.audit(), now: live.shared.clock.now() };
        let revised = revise(snapshot, &live.shared.sessions, told).await;
        let counts = live.shared.reloads.counts();
        counts.sessions_ended.fetch_add(u64::try_from(revised.ended).unwrap_or(u64::MAX), Relaxed);
        counts.sessions_updated.fetch_add(u64::try_from(revised.updated).unwrap_or(u64::MAX), Relaxed);
        // What could not be written down does not hold: it is tried again with the next look.
        self.unfinished = revised.failed > 0;
        revised
    }
}

/// Ourselves as an issuer: its keys are made and kept elsewhere, across all reloads.
pub fn give_keys(snapshot: &mut Snapshot, own_keys: &Arc<KeySlot>) {
    for issuer in snapshot.issuers.iter_mut().filter(|issuer| issuer.own.is_some()) {
        issuer.keys = Arc::clone(own_keys);
    }
}

/// What `https` upstreams are verified by, if there are some and it was not needed before. Reads a file.
///
/// # Errors
/// Why they cannot be verified.
pub fn trust(snapshot: &Snapshot, upstreams: &upstream::Shared) -> Result<Option<Arc<rustls::ClientConfig>>, String> {
    let is_https = |server: &upstream::Member| matches!(server.server, upstream::Server::Https(_));
    let needed = |upstream: &upstream::Settings| upstream.tls.is_none() && upstream.servers.iter().any(is_https);
    if upstreams.can_verify() || !snapshot.upstreams.iter().any(|upstream| needed(upstream)) {
        return Ok(None);
    }
    upstream::system_trust().map(Some).map_err(|error| format!("https:// upstreams cannot be verified: {error}"))
}

/// Requests that a reload asks both configurations about, to tell what it opens and closes.
const COMPARED: usize = 20_000;

/// Between reminders.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
