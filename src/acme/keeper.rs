//! Keeps every host of the settings in certificates: looks what is due, orders it, keeps what comes, waits after
//! failures.
//!
//! In: the settings that hold now, what is on disk, and time. Out: certificates in the resolver and on disk, log lines,
//! counts. One order at a time. Invariants: an attempt is on disk before the first request of it leaves; a certificate
//! is served from when it is issued, also if it cannot be written down; a failure takes nothing away.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use super::{
    ChallengeKind, Challenges, Counts, Failure, Outcome, Settings, Why,
    order::{self, Issued, Wish},
    record::{self, AccountRecord, AttemptRecord, CertificateRecord, Key},
    schedule::{self, LONGEST_ASKED},
};
use crate::{
    certificate::{Certificate, CertificateResolver},
    clock::{Clock, Timestamp},
    durable::{Batch, Durable, LoadError, Table},
    host::Host,
    secret,
};

/// Who sees to it that there are certificates. For the control thread.
pub struct Keeper {
    durable: Option<Durable>,
    resolver: Arc<CertificateResolver>,
    challenges: Arc<Challenges>,
    counts: Arc<Counts>,
    clock: Clock,
    followed: Followed,
    accounts: BTreeMap<String, Arc<AccountRecord>>,
    held: BTreeMap<Host, Held>,
    /// Of hosts, and of directories.
    attempts: BTreeMap<Host, AttemptRecord>,
    pauses: BTreeMap<String, AttemptRecord>,
}

/// The settings that hold, and for whom they want certificates that no file has.
#[derive(Default)]
struct Followed {
    generation: u64,
    settings: Option<Arc<Settings>>,
    hosts: Vec<Host>,
}

struct Held {
    certificate: Certificate,
    directory: String,
    /// 0 to 255; spreads renewals.
    chance: u8,
}

/// An order that has come to its end.
struct Done {
    wish: Wish,
    failures: u32,
    issued: Result<Issued, Failure>,
    account: Option<AccountRecord>,
}

type UnderWay = Pin<Box<dyn Future<Output = Done>>>;

impl Keeper {
    /// With what is on disk; nothing is served yet. Reads from disk: for the start.
    ///
    /// # Errors
    /// When the disk cannot be read. What is no record of ours is told and left alone.
    pub fn open(
        durable: Option<Durable>,
        resolver: Arc<CertificateResolver>,
        challenges: Arc<Challenges>,
        counts: Arc<Counts>,
        clock: Clock,
    ) -> Result<Self, LoadError> {
        let mut keeper = Self {
            durable: durable.clone(),
            resolver,
            challenges,
            counts,
            clock,
            followed: Followed::default(),
            accounts: BTreeMap::new(),
            held: BTreeMap::new(),
            attempts: BTreeMap::new(),
            pauses: BTreeMap::new(),
        };
        if let Some(durable) = durable {
            durable.load(Table::Acme, |key, text| {
                if keeper.restore(key, text).is_none() {
                    tracing::warn!("a record of ACME in server.state_dir cannot be read and is left out");
                }
                Ok(())
            })?;
        }
        keeper.forget_old();
        Ok(keeper)
    }

    /// What ended long ago is of no use to anybody.
    fn forget_old(&mut self) {
        let now = self.clock.now();
        let is_old = |held: &Held| now.since(held.certificate.not_after()) > KEPT_AFTER_END;
        let old: Vec<Host> = self.held.iter().filter(|(_, held)| is_old(held)).map(|(host, _)| host.clone()).collect();
        let mut batch = Batch::new();
        for host in old {
            self.held.remove(&host);
            batch = batch.remove(Table::Acme, &Key::Certificate(host).to_bytes());
        }
        if let Some(durable) = &self.durable {
            durable.later(batch);
        }
    }

    fn restore(&mut self, key: &[u8], text: &[u8]) -> Option<()> {
        match Key::read(key)? {
            Key::Account(directory) => drop(self.accounts.insert(directory, Arc::new(record::read(text)?))),
            Key::Certificate(host) => {
                let record: CertificateRecord = record::read(text)?;
                let certificate = Certificate::from_pem(&record.chain, &record.key).ok()?;
                let held = Held { certificate, directory: record.directory.clone(), chance: chance() };
                drop(self.held.insert(host, held));
            }
            Key::Attempt(host) => drop(self.attempts.insert(host, record::read(text)?)),
            Key::Pause(directory) => drop(self.pauses.insert(directory, record::read(text)?)),
        }
        Some(())
    }

    /// Takes other settings into account: what is held for their hosts is served, and nothing else that was ordered.
    pub fn follow(&mut self, generation: u64, settings: Option<Arc<Settings>>) {
        if self.followed.generation == generation {
            return;
        }
        let wanted = settings.as_ref().map_or(&[][..], |settings| &settings.hosts);
        let hosts = self.resolver.without_file(wanted);
        self.resolver.want(&hosts);
        for host in &hosts {
            if let Some(held) = self.held.get(host) {
                self.resolver.put(host, held.certificate.clone());
            }
        }
        self.followed = Followed { generation, settings, hosts };
    }

    /// Orders whatever is due, one after the other, until it is dropped. `look` tells the settings that hold, with the
    /// generation that they are of.
    pub async fn run(mut self, look: impl Fn() -> (u64, Option<Arc<Settings>>)) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut under_way: Option<UnderWay> = None;
        loop {
            let done = tokio::select! {
                done = ended(&mut under_way) => Some(done),
                _ = ticks.tick() => None,
            };
            if let Some(done) = done {
                under_way = None;
                self.conclude(done).await;
            }
            let (generation, settings) = look();
            self.follow(generation, settings);
            if under_way.is_none() {
                under_way = self.begin().await;
            }
        }
    }

    /// The next order, if one is due.
    async fn begin(&mut self) -> Option<UnderWay> {
        let settings = Arc::clone(self.followed.settings.as_ref()?);
        let (now, fingerprint) = (self.clock.now(), settings.fingerprint());
        let directory = settings.directory.to_string();
        let holds =
            |attempt: Option<&AttemptRecord>| attempt.filter(|attempt| attempt.settings == fingerprint).cloned();
        if holds(self.pauses.get(&directory)).is_some_and(|pause| is_ahead(&pause, now)) {
            return None;
        }
        let due = self.followed.hosts.iter().filter(|host| {
            !holds(self.attempts.get(*host)).is_some_and(|attempt| is_ahead(&attempt, now))
                && self.held.get(*host).is_none_or(|held| held.is_due(&settings, &directory, now))
        });
        // Who has none comes before who has one for a while yet.
        let host = due.min_by_key(|host| self.held.get(*host).map(|held| held.certificate.not_after()))?.clone();

        let earlier = holds(self.attempts.get(&host)).map_or(0, |attempt| attempt.failures);
        let failures = earlier + 1;
        let turn = usize::try_from(earlier).unwrap_or_default() % settings.challenges.len().max(1);
        let kind = settings.challenges.get(turn).copied().unwrap_or(ChallengeKind::TlsAlpn01);
        // As if it had failed already: who crashes or is killed midway comes back no sooner.
        let unknown = Failure::new(Why::Refused, "it was not seen to its end");
        let wait = schedule::wait(&unknown, failures, &settings, chance());
        let attempt = AttemptRecord { settings: fingerprint, failures, until_millis: until(now, wait) };
        if self
            .keep(Batch::new().put(Table::Acme, &Key::Attempt(host.clone()).to_bytes(), record::write(&attempt)))
            .await
            .is_err()
        {
            let failure = Failure::new(Why::State, "an order cannot be written down");
            let wait = self.pause(&directory, &attempt.settings, &failure, &settings);
            self.tell(&host, &failure, wait);
            self.counts.count(Outcome::Failed(failure.why));
            return None;
        }
        self.attempts.insert(host.clone(), attempt);

        let (durable, clock) = (self.durable.clone(), self.clock.clone());
        let known = self.accounts.get(&directory).cloned();
        let challenges = Arc::clone(&self.challenges);
        tracing::debug!(host = host.as_str(), challenge = kind.name(), "a certificate is ordered");
        Some(Box::pin(async move {
            let wish = Wish { settings, host, kind, challenges, clock };
            let mut account = None;
            let issued = async {
                let (opened, made) = order::open(&wish.settings, known.as_deref(), &wish.clock).await?;
                if let Some(made) = made {
                    // At once: an account that nobody remembers is made a second time.
                    let batch =
                        Batch::new().put(Table::Acme, &Key::Account(directory).to_bytes(), record::write(&made));
                    account = Some(made);
                    write(durable.as_ref(), batch).await?;
                }
                order::order(&wish, &opened).await
            };
            let issued = issued.await;
            Done { wish, failures, issued, account }
        }))
    }

    /// Takes what came of an order.
    async fn conclude(&mut self, done: Done) {
        let Done { wish, failures, issued, account } = done;
        let (settings, host) = (&wish.settings, &wish.host);
        let directory = settings.directory.to_string();
        if let Some(account) = account {
            self.accounts.insert(directory.clone(), Arc::new(account));
        }
        match issued {
            Ok(issued) => {
                self.pauses.remove(&directory);
                self.install(host, directory, settings.fingerprint(), issued).await;
                self.counts.count(Outcome::Issued);
            }
            Err(failure) => {
                if order::is_gone(&failure) {
                    self.accounts.remove(&directory);
                    // A record that stays is replaced by the next account's.
                    let _ =
                        self.keep(Batch::new().remove(Table::Acme, &Key::Account(directory.clone()).to_bytes())).await;
                }
                let wait = if failure.why.is_for_all() {
                    // What is true of all is held against no host.
                    let earlier =
                        AttemptRecord { settings: settings.fingerprint(), failures: failures - 1, until_millis: 0 };
                    self.attempts.insert(host.clone(), earlier);
                    let fingerprint = settings.fingerprint();
                    let wait = self.pause(&directory, &fingerprint, &failure, settings);
                    let batch = self.pauses.get(&directory).map_or_else(Batch::new, |pause| {
                        Batch::new()
                            .put(Table::Acme, &Key::Pause(directory.clone()).to_bytes(), record::write(pause))
                            .remove(Table::Acme, &Key::Attempt(host.clone()).to_bytes())
                    });
                    let _ = self.keep(batch).await;
                    wait
                } else {
                    let wait = schedule::wait(&failure, failures, settings, chance());
                    let until_millis = until(self.clock.now(), wait);
                    if let Some(attempt) = self.attempts.get_mut(host) {
                        attempt.until_millis = until_millis;
                        let batch = Batch::new();
                        let batch =
                            batch.put(Table::Acme, &Key::Attempt(host.clone()).to_bytes(), record::write(attempt));
                        // What was written before the order holds in its place.
                        let _ = self.keep(batch).await;
                    }
                    wait
                };
                self.tell(host, &failure, wait);
                // Last: whoever reads it knows that the wait has begun.
                self.counts.count(Outcome::Failed(failure.why));
            }
        }
    }

    async fn install(&mut self, host: &Host, directory: String, fingerprint: String, issued: Issued) {
        let Issued { certificate, chain, key } = issued;
        let end = humantime::format_rfc3339_seconds(certificate.not_after().to_system_time()).to_string();
        tracing::info!(host = host.as_str(), until = end, "a certificate was issued");
        self.resolver.put(host, certificate.clone());
        let record = CertificateRecord { directory, chain, key: key.to_string() };
        // One that is to be renewed as soon as it is issued, by a clock that is wrong or an authority that is odd, must
        // not be ordered without end.
        let life = certificate.not_after().since(certificate.not_before());
        let until_millis = until(self.clock.now(), (life / 6).min(ONCE_A_DAY));
        let attempt = AttemptRecord { settings: fingerprint, failures: 0, until_millis };
        let batch = Batch::new()
            .put(Table::Acme, &Key::Certificate(host.clone()).to_bytes(), record::write(&record))
            .put(Table::Acme, &Key::Attempt(host.clone()).to_bytes(), record::write(&attempt))
            .remove(Table::Acme, &Key::Pause(record.directory.clone()).to_bytes());
        self.attempts.insert(host.clone(), attempt);
        if let Err(failure) = self.keep(batch).await {
            tracing::error!(
                host = host.as_str(),
                "a certificate is served that cannot be written down: {}; {}",
                failure.cause,
                failure.why.mend()
            );
        }
        let held = Held { certificate, directory: record.directory.clone(), chance: chance() };
        self.held.insert(host.clone(), held);
    }

    /// Nothing is asked of a directory for a while; how long.
    fn pause(&mut self, directory: &str, fingerprint: &str, failure: &Failure, settings: &Settings) -> Duration {
        let pause = self.pauses.entry(directory.to_owned()).or_default();
        if pause.settings != fingerprint {
            *pause = AttemptRecord { settings: fingerprint.to_owned(), ..AttemptRecord::default() };
        }
        pause.failures += 1;
        let wait = schedule::wait(failure, pause.failures, settings, chance());
        pause.until_millis = until(self.clock.now(), wait);
        wait
    }

    fn tell(&self, host: &Host, failure: &Failure, wait: Duration) {
        let served = match self.held.get(host) {
            Some(held) => {
                let until = held.certificate.not_after().to_system_time();
                format!("the certificate until {} is served on", humantime::format_rfc3339_seconds(until))
            }
            None => "it has none yet, and TLS fails for it".to_owned(),
        };
        tracing::warn!(
            host = host.as_str(),
            reason = failure.why.label(),
            retry_in = humantime::format_duration(Duration::from_secs(wait.as_secs().max(1))).to_string(),
            "no certificate was issued: {}; {served}; {}",
            failure.cause,
            failure.why.mend()
        );
    }

    async fn keep(&self, batch: Batch) -> Result<(), Failure> {
        write(self.durable.as_ref(), batch).await
    }
}

impl Held {
    fn is_due(&self, settings: &Settings, directory: &str, now: Timestamp) -> bool {
        let (from, until) = (self.certificate.not_before(), self.certificate.not_after());
        self.directory != directory || schedule::renewal(from, until, settings.renew_before, self.chance) <= now
    }
}

async fn ended(under_way: &mut Option<UnderWay>) -> Done {
    match under_way {
        Some(order) => order.await,
        None => std::future::pending().await,
    }
}

async fn write(durable: Option<&Durable>, batch: Batch) -> Result<(), Failure> {
    let failed = |cause: String| Failure::new(Why::State, cause);
    match durable {
        Some(durable) => durable.commit(batch).await.map_err(|error| failed(error.to_string())),
        None => Err(failed("there is no server.state_dir".to_owned())),
    }
}

/// Whether an attempt still keeps us waiting. A clock that was wrong may have written down any moment.
fn is_ahead(attempt: &AttemptRecord, now: Timestamp) -> bool {
    let until = Timestamp::from_unix_millis(attempt.until_millis);
    now < until && until.since(now) <= LONGEST_ASKED * 2
}

fn until(now: Timestamp, wait: Duration) -> u64 {
    now.plus(wait).unix_millis()
}

fn chance() -> u8 {
    let [chance] = secret::random();
    chance
}

const ONCE_A_DAY: Duration = Duration::from_secs(86_400);
const KEPT_AFTER_END: Duration = Duration::from_secs(30 * 86_400);
const LOOK_EVERY: Duration = Duration::from_secs(1);
