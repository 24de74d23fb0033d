//! The composition root: a [`Config`] becomes listeners, threads and a [`Running`] handle.
//!
//! Read [`start`] as a list: logs, state, TLS, sockets, edges, control thread. Everything that can fail does so before
//! the first connection is accepted, and says what and where. The control thread does what no request should wait for.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc::Receiver, watch};

use crate::{
    accounts::Hasher,
    acme, api_key,
    authn::{dpop::Proofs, jwks::KeySlot, keys::KeyError, token_cache::TokenCache, verify_rate::WrongSignatures},
    certificate::CertificateResolver,
    change::{Ask, Reloads},
    clock::{self, Clock, Timestamp},
    config::{Config, Startup, Tls},
    durable::{Durable, Unavailable, handover::InMemory},
    edge::{self, Bound, Counters, Inherited, Ordered, Peers, Redirect, Spoken, TlsSlot},
    factor::Factors,
    handover::{Offer, Taking},
    listener::OwnListener,
    login, rate_limit,
    refresh::Families,
    reload::{self, Certificates, Followed, Reloader},
    revocation::Revocations,
    session::{self, MemoryStore, Store},
    shutdown::Shutdown,
    signing::Signing,
    state::{Live, Shared, Snapshot},
    telemetry::{Telemetry, endpoint},
    token,
    upstream::{self, health::Watch},
};

mod handler;
mod keys;
mod metrics;
mod readiness;
mod reminder;
mod servers;
mod sockets;
mod upgrade;

use handler::Behind;
use reminder::Reminder;
use sockets::{Sockets, Sources};

/// A gateway at work.
pub struct Running {
    addresses: Addresses,
    live: Arc<Live>,
    offer: Option<Arc<Offer>>,
    edges: Vec<edge::Running>,
    control: Option<JoinHandle<()>>,
    reloader: Option<JoinHandle<()>>,
    authority: Option<PathBuf>,
}

/// Where a gateway can be reached; ports that were 0 in the configuration are the real ones here.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// `server.listen`, in its order; unix sockets left out.
    pub gateway: Vec<SocketAddr>,
    /// `server.redirect_http`.
    pub redirect: Option<SocketAddr>,
    /// `telemetry.listen`.
    pub telemetry: Option<SocketAddr>,
    /// `admin.listen`, if it is no unix socket.
    pub admin: Option<SocketAddr>,
}

/// Why a gateway cannot start: what, where, and what the system said.
#[derive(Debug)]
pub struct StartError {
    what: String,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cause)
    }
}

impl std::error::Error for StartError {}

/// Starts a gateway. It serves when this returns. `source` is where a reload reads the configuration again.
///
/// # Errors
/// [`StartError`] names the listener, certificate or log that could not be had; nothing is left running.
pub fn start(config: Config, clock: Clock, source: reload::Source) -> Result<Running, StartError> {
    start_with(config, clock, source, Inheritance::default())
}

/// What was there before this process.
#[derive(Default)]
pub struct Inheritance {
    /// Sockets that were opened for it.
    pub inherited: Inherited,
    /// Whether to follow the process that listens at `server.upgrade_socket`, if one does.
    pub follows: bool,
}

/// As [`start`], with what was there before.
///
/// # Errors
/// As [`start`]; the process that was to be followed goes on then.
pub fn start_with(
    config: Config,
    clock: Clock,
    source: reload::Source,
    inheritance: Inheritance,
) -> Result<Running, StartError> {
    let followed = Followed::of(&config);
    let Config { startup, tls, snapshot, .. } = config;
    // Two descriptors for each proxied connection; a limit that cannot be raised is met when it is reached.
    let _ = edge::raise_descriptor_limit();

    let telemetry = Telemetry::start(&startup.log, clock.now()).map_err(failed("the log cannot be opened"))?;
    let mut sources = Sources { inherited: inheritance.inherited, predecessor: None };
    if inheritance.follows {
        sources.predecessor = upgrade::predecessor(&startup)?;
    }
    // Beside a process that goes on, everything that can fail comes before it has to let go of anything.
    let early = if sources.predecessor.is_none() { Some(durable(&startup, &telemetry, &clock, None)?) } else { None };
    let clock = early.as_ref().and_then(Option::as_ref).map_or(clock, |durable| durable.clock().clone());
    let mut handles = Vec::new();
    let behind_proxies = !snapshot.headers.trusted_proxies.is_empty();
    let sockets = Sockets::open(&startup, behind_proxies, &mut sources, &mut handles)?;
    let (addresses, own_listeners) = (sockets.addresses(), sockets.own());

    let Certificates { all, authority, warnings } = certificates(tls.as_ref(), &clock)?;
    warnings.iter().chain(&snapshot.mtls.warnings(clock.now())).for_each(|warning| tracing::warn!("{warning}"));
    let ordered = Ordered { challenges: Arc::default(), resolver: Arc::new(CertificateResolver::new(all)) };
    let tls = tls.map(|settings| slot(&settings, &ordered)).transpose()?;

    let mut taking = sources.predecessor.map(upgrade::release).transpose()?;
    let durable = match early {
        Some(durable) => durable,
        None => durable(&startup, &telemetry, &clock, taking.as_mut().and_then(Taking::memory))?,
    };
    let clock = durable.as_ref().map_or(clock, |durable| durable.clock().clone());
    let (reloads, asks) = Reloads::new(clock.now());
    let orders = orders(&ordered, durable.as_ref(), &snapshot, &clock)?;
    let resolver = Arc::clone(&ordered.resolver);
    let live = live(snapshot, &startup, &telemetry, durable, &clock, own_listeners, reloads, ordered.challenges)?;
    // From here on there is no way back to the process before.
    let link = taking.map(|taking| upgrade::take(taking, tls.as_deref(), &live)).transpose()?;
    // Before anything changes here.
    let before = link.map(|link| upgrade::keep_in_step(link, &live)).transpose();
    let before = before.map_err(failed("the process before cannot be kept informed"))?;
    follow_sources(&live)?;
    let (offer, asking) = upgrade::offer(&startup, &live, tls.as_ref(), handles, before)?;
    let counters = Arc::<Counters>::default();
    metrics::register(&live, &counters, &resolver, &orders.1);

    let base = Base { startup: &startup, tls: tls.as_ref(), live: &live, clock: &clock };
    let mut edges = vec![base.gateway(sockets.gateway, counters)?];
    edges.extend(sockets.redirect.map(|bound| base.redirect(bound, &addresses)).transpose()?);
    if startup.telemetry.is_some() {
        edges.push(base.probes(sockets.telemetry)?);
    }
    if startup.admin.is_some() {
        edges.push(base.administration(sockets.admin)?);
    }
    let judge = readiness::Judge::new(Arc::clone(&live), Arc::clone(&resolver));
    judge.judge(None);
    let followers = offer.clone().zip(asking);
    let control = control(Arc::clone(&live), orders.0, judge, followers)
        .map_err(failed("the control thread cannot be started"))?;
    let reloader = Reloader { live: Arc::clone(&live), startup, resolver, tls, source };
    let reloader = reload(reloader, followed, asks).map_err(failed("the reload thread cannot be started"))?;
    telemetry.readiness().clear(endpoint::STARTING);
    Ok(Running { addresses, live, offer, edges, control: Some(control), reloader: Some(reloader), authority })
}

impl Running {
    /// Where it can be reached.
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The state that its threads share.
    pub const fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Tells which other process has taken over, once one has; `None`: none can.
    pub fn taken(&self) -> Option<watch::Receiver<Option<u32>>> {
        self.offer.as_ref().map(|offer| offer.taken())
    }

    /// A number for each worker that grows, several times a second, for as long as the worker does not hang.
    pub fn beats(&self) -> Vec<u64> {
        self.edges.iter().flat_map(edge::Running::beats).collect()
    }

    /// The certificate that clients have to trust, where one was made for this machine.
    pub fn authority(&self) -> Option<&PathBuf> {
        self.authority.as_ref()
    }

    /// Stops accepting, lets requests under way end within `server.drain_timeout`, cuts the rest, and writes the last
    /// log lines. `true` if nothing had to be cut.
    pub fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        let shared = &self.live.shared;
        shared.telemetry.readiness().block(endpoint::DRAINING);
        if let Some(offer) = &self.offer {
            offer.withdraw();
        }
        if !shared.shutdown.is_handed_over() {
            shared.shutdown.trigger();
        }
        let mut drained = true;
        for edge in self.edges.drain(..) {
            drained &= edge.join();
        }
        for thread in [self.control.take(), self.reloader.take()].into_iter().flatten() {
            // It only panics if the system cannot run timers; there is nothing left to do for it then.
            let _ = thread.join();
        }
        if let Some(durable) = &shared.durable {
            shared.sessions.keep_up(MemoryStore::SEGMENTS);
            shared.made_keys.keep_up(&self.live.snapshot().api_keys);
            drained &= durable.close(LAST_LINES);
        }
        shared.telemetry.finish(LAST_LINES) && drained
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.edges.is_empty() {
            self.end();
        }
    }
}

/// What the edges have in common.
struct Base<'a> {
    startup: &'a Startup,
    tls: Option<&'a Arc<TlsSlot>>,
    live: &'a Arc<Live>,
    clock: &'a Clock,
}

impl Base<'_> {
    fn setup(&self, name: &'static str, listeners: Vec<Bound>) -> edge::Setup {
        edge::Setup {
            name,
            listeners,
            tls: self.tls.map(Arc::clone),
            workers: 1,
            limits: self.startup.edge.limits,
            drain_timeout: self.startup.edge.drain_timeout,
            peers: Peers::everybody(),
            shutdown: self.live.shared.shutdown.clone(),
            clock: self.clock.clone(),
            counters: Arc::default(),
        }
    }

    fn gateway(&self, listeners: Vec<Bound>, counters: Arc<Counters>) -> Result<edge::Running, StartError> {
        let (trusting, counting) = (Arc::clone(self.live), Arc::clone(self.live));
        let proxied = self.proxied();
        let setup = edge::Setup {
            workers: self.startup.edge.workers,
            counters,
            peers: Peers {
                // Without trusted proxies plain listeners are on loopback: `config` allows no other.
                plain_allowed: Arc::new(move |ip| {
                    let trusted = &trusting.snapshot().headers.trusted_proxies;
                    trusted.is_empty() || trusted.iter().any(|network| network.contains(&ip))
                }),
                uncounted: Arc::new(move |ip| {
                    counting.snapshot().headers.trusted_proxies.iter().any(|network| network.contains(&ip))
                }),
                proxied,
            },
            ..self.setup("worker", listeners)
        };
        let live = Arc::clone(self.live);
        start_edge(setup, move |_| Behind::pipeline(&live)).map_err(failed("the workers cannot be started"))
    }

    /// Who must say by the PROXY protocol whose connection it is.
    fn proxied(&self) -> edge::PeerRule {
        let live = Arc::clone(self.live);
        Arc::new(move |ip| live.snapshot().proxy_protocol_from.iter().any(|network| network.contains(&ip)))
    }

    fn redirect(&self, bound: Bound, addresses: &Addresses) -> Result<edge::Running, StartError> {
        let live = Arc::clone(self.live);
        let known = Arc::new(move |host: &crate::host::Host| live.snapshot().routes.is_known(host));
        let port = addresses.gateway.first().map_or(443, SocketAddr::port);
        let peers = Peers { proxied: self.proxied(), ..Peers::everybody() };
        let challenges = Arc::clone(&self.live.shared.challenges);
        start_edge(edge::Setup { peers, ..self.setup("redirect", vec![bound]) }, move |_| {
            Behind::Redirect(Redirect::new(Arc::clone(&known) as _, port).proving(Arc::clone(&challenges)))
        })
        .map_err(failed("the redirect listener cannot be started"))
    }

    fn probes(&self, sockets: Vec<Bound>) -> Result<edge::Running, StartError> {
        let telemetry = Arc::clone(&self.live.shared.telemetry);
        start_edge(self.setup("telemetry", sockets), move |_| Behind::Telemetry(Arc::clone(&telemetry)))
            .map_err(failed("the telemetry listener cannot be started"))
    }

    fn administration(&self, sockets: Vec<Bound>) -> Result<edge::Running, StartError> {
        let live = Arc::clone(self.live);
        start_edge(self.setup("admin", sockets), move |_| Behind::Administration(Arc::clone(&live)))
            .map_err(failed("the admin listener cannot be started"))
    }
}

/// One kind of handler, made by one kind of factory: the edge is compiled once.
fn start_edge(
    setup: edge::Setup,
    factory: impl Fn(usize) -> Behind + Send + Sync + 'static,
) -> io::Result<edge::Running> {
    let factory: Arc<dyn Fn(usize) -> Behind + Send + Sync> = Arc::new(factory);
    edge::start(setup, move |index| factory(index))
}

#[expect(clippy::too_many_arguments, reason = "what was made before the state, each part used once")]
fn live(
    mut snapshot: Snapshot,
    startup: &Startup,
    telemetry: &Arc<Telemetry>,
    durable: Option<Durable>,
    clock: &Clock,
    own_listeners: Vec<OwnListener>,
    reloads: Reloads,
    challenges: Arc<acme::Challenges>,
) -> Result<Arc<Live>, StartError> {
    let upstreams = upstream::Shared::new(None, own_listeners.into());
    let trust = reload::trust(&snapshot, &upstreams).map_err(failed("the upstreams cannot be served"))?;
    trust.into_iter().for_each(|trust| upstreams.verify_by(trust));
    upstreams.resolve_by(&snapshot.resolver);
    let shutdown = Shutdown::new();
    let hashing = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    let on_disk = durable.clone().filter(Durable::survives);
    let factors = Factors::open(on_disk, startup.state.as_ref().map(|state| state.dir.clone()))
        .map_err(failed("the second factors in server.state_dir cannot be read"))?;
    let revocations = Revocations::open(durable.clone(), clock.now()).map_err(failed("revocations cannot be read"))?;
    let signing = wait(Signing::open(durable.clone(), clock.now()))?
        .map_err(failed("the keys that tokens are signed with cannot be had"))?;
    let devices = login::Devices::open(durable.as_ref());
    let devices = devices.map_err(failed("the key of device cookies in server.state_dir cannot be used"))?;
    let made_keys = api_key::Store::open(durable.clone()).map_err(failed("API keys cannot be read"))?;
    made_keys.restore_uses(&snapshot.api_keys);
    made_keys.follow(reload::key_makers(&snapshot));
    let own_keys = KeySlot::own().map_err(|KeyError(why)| StartError { what: OWN_KEYS.into(), cause: why.into() })?;
    keys::publish(&own_keys, &signing)
        .map_err(|KeyError(why)| StartError { what: OWN_KEYS.into(), cause: why.into() })?;
    reload::give_keys(&mut snapshot, &own_keys);
    let sessions = sessions(durable.as_ref(), &snapshot.session, clock)?.telling(telemetry.audit().clone());
    let sessions = Arc::new(sessions);
    let shared = Shared {
        clock: clock.clone(),
        signing,
        own_keys,
        families: families(durable.as_ref(), &sessions)?,
        token_counts: token::Counts::default(),
        made_keys: Arc::new(made_keys),
        challenges,
        sessions,
        revocations: Arc::new(revocations),
        durable,
        tokens: TokenCache::new(startup.tokens),
        proofs: Proofs::new(clock.now(), snapshot.dpop.max_proofs),
        wrong_signatures: WrongSignatures::default(),
        hasher: Hasher::start_telling(hashing, HASHES_WAITING, telemetry.audit().clone(), clock.clone())
            .map_err(failed("the hashing threads cannot be started"))?,
        throttle: login::Throttle::new(),
        devices,
        stash: login::Stash::new(),
        second: login::Second::new(factors),
        login_counts: login::Counts::default(),
        upstreams,
        rate_limiter: rate_limit::Limiter::new(),
        exchanges_cut: AtomicU64::new(0),
        telemetry: Arc::clone(telemetry),
        shutdown,
        reloads,
    };
    Ok(Arc::new(Live::new(snapshot, shared)))
}

/// Who orders certificates, and what becomes of it. What was ordered before is served from now on.
fn orders(
    ordered: &Ordered,
    durable: Option<&Durable>,
    snapshot: &Snapshot,
    clock: &Clock,
) -> Result<(acme::Keeper, Arc<acme::Counts>), StartError> {
    let counts = Arc::<acme::Counts>::default();
    let Ordered { challenges, resolver } = ordered.clone();
    let keeper = acme::Keeper::open(durable.cloned(), resolver, challenges, Arc::clone(&counts), clock.clone());
    let mut keeper = keeper.map_err(failed("the certificates in server.state_dir cannot be read"))?;
    keeper.follow(snapshot.generation, snapshot.acme.clone());
    Ok((keeper, counts))
}

/// The database of `server.state_dir`; while it cannot be written, `/readyz` says no.
/// Without a directory, what a process that follows would want is kept in memory.
fn durable(
    startup: &Startup,
    telemetry: &Arc<Telemetry>,
    clock: &Clock,
    handed: Option<InMemory>,
) -> Result<Option<Durable>, StartError> {
    let watcher = Arc::clone(telemetry);
    let watch = move |works: bool| {
        let readiness = watcher.readiness();
        if works { readiness.clear(endpoint::STATE) } else { readiness.block(endpoint::STATE) }
    };
    match &startup.state {
        Some(settings) => {
            Durable::open(settings, clock, watch).map(Some).map_err(failed("server.state_dir cannot be used"))
        }
        None if startup.upgrade_socket.is_none() => Ok(None),
        None => Durable::in_memory(handed, clock, watch).map(Some).map_err(failed("there is no memory for state")),
    }
}

/// Users may have gone while the gateway was down: what was restored follows its sources as they are now (R29).
fn follow_sources(live: &Live) -> Result<(), StartError> {
    if live.shared.durable.is_none() {
        return Ok(());
    }
    let told = reload::Told { audit: live.shared.telemetry.audit(), now: live.shared.clock.now() };
    let revised = wait(reload::revise(&live.snapshot(), &live.shared.sessions, told))?;
    if revised.failed > 0 {
        return Err(StartError {
            what: "sessions whose sources have changed cannot be ended or updated".to_owned(),
            cause: Unavailable.into(),
        });
    }
    Ok(())
}

/// For work at the start that waits for the disk.
fn wait<T>(work: impl Future<Output = T>) -> Result<T, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    Ok(runtime.map_err(failed("nothing can be waited for"))?.block_on(work))
}

/// The families of refresh tokens, with those that are on disk and whose session lives.
fn families(durable: Option<&Durable>, sessions: &Store) -> Result<Families, StartError> {
    let Some(durable) = durable else {
        return Ok(Families::in_memory());
    };
    Families::restored(durable.clone(), |session| sessions.find(session).is_some())
        .map_err(failed("the refresh tokens in server.state_dir cannot be read"))
}

/// The sessions, with those that are on disk.
fn sessions(durable: Option<&Durable>, settings: &session::Settings, clock: &Clock) -> Result<Store, StartError> {
    let Some(durable) = durable else {
        return Ok(Store::in_memory());
    };
    let began = clock::instant();
    let store = Store::restored(durable.clone(), settings, clock.now())
        .map_err(failed("the sessions in server.state_dir cannot be read"))?;
    tracing::info!(sessions = store.len(), milliseconds = began.elapsed().as_millis(), "sessions were restored");
    Ok(store)
}

fn slot(settings: &Tls, ordered: &Ordered) -> Result<Arc<TlsSlot>, StartError> {
    let certificates: edge::Certificates = Arc::clone(&ordered.resolver) as _;
    Spoken::new(&certificates, settings.min_version, &settings.groups, Arc::clone(&settings.asked), None)
        .map(|spoken| Arc::new(TlsSlot::new(spoken).ordering(ordered.clone())))
        .map_err(failed("the TLS settings cannot be used"))
}

fn certificates(tls: Option<&Tls>, clock: &Clock) -> Result<Certificates, StartError> {
    match tls {
        None => Ok(Certificates { all: Vec::new(), authority: None, warnings: Vec::new() }),
        Some(tls) => {
            reload::load_certificates(&tls.source, clock.now()).map_err(failed("clients cannot be served over TLS"))
        }
    }
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: impl Into<String>) -> impl FnOnce(E) -> StartError {
    let what = what.into();
    move |cause| StartError { what, cause: cause.into() }
}

/// Work that no request waits for: ordering certificates, fetching keys, making our own, judging whether we are ready,
/// hearing processes that want to follow, and sweeping ended sessions and revocations in small steps.
fn control(
    live: Arc<Live>,
    orders: acme::Keeper,
    judge: readiness::Judge,
    followers: Option<(Arc<Offer>, UnixListener)>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".into()).spawn(move || {
        let tasks = tokio::task::LocalSet::new();
        if let Some((offer, asking)) = followers {
            drop(tasks.spawn_local(upgrade::wait_for_followers(offer, asking)));
        }
        let (rotating, ordering) = (Arc::clone(&live), Arc::clone(&live));
        drop(tasks.spawn_local(orders.run(move || {
            let snapshot = ordering.snapshot();
            (snapshot.generation, snapshot.acme.clone())
        })));
        // On its own: a slow disk holds up nothing else. It ends with the thread.
        drop(tasks.spawn_local(async move {
            let mut published = rotating.shared.signing.access.version();
            loop {
                rotating.shared.signing.rotate(rotating.shared.clock.now()).await;
                published = keys::publish_as_needed(&rotating.shared, published);
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        }));
        tasks.block_on(&runtime, async {
            let mut sweep = tokio::time::interval(SWEEP_EVERY);
            let (mut sweeps, mut reminder) = (0_u64, Reminder::default());
            let mut servers = Watch::new(Arc::clone(&live.shared.upstreams));
            sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = live.shared.shutdown.triggered() => return,
                    _ = sweep.tick() => {}
                }
                keys::drive_all(&live);
                servers.follow(&live.snapshot().upstreams);
                judge.judge(Some(&servers));
                // The whole store once a minute.
                let budget = live.shared.sessions.len().div_ceil(SWEEPS_A_ROUND).max(1000);
                let now = live.shared.clock.now();
                live.shared.stash.sweep(now);
                live.shared.sessions.sweep(&live.snapshot().session, now, budget);
                live.shared.sessions.keep_up(SEGMENTS_TOLD_AT_ONCE);
                live.shared.revocations.sweep(now);
                reminder.remind(&live.snapshot(), now);
                sweeps += 1;
                if sweeps.is_multiple_of(SWEEPS_OF_USES) {
                    live.shared.made_keys.keep_up(&live.snapshot().api_keys);
                }
                if sweeps.is_multiple_of(SWEEPS_A_ROUND as u64) {
                    live.shared.families.sweep(|session| live.shared.sessions.find(session).is_some());
                }
                if sweeps.is_multiple_of(SWEEPS_OF_THE_DISK) {
                    live.shared.made_keys.sweep(now);
                    sweep_disk(&live, now);
                }
            }
        });
    })
}

/// On a thread of its own: it reads a whole table. What it does not get to is left for the next time.
fn sweep_disk(live: &Arc<Live>, now: Timestamp) {
    let revocations = Arc::clone(&live.shared.revocations);
    if live.shared.durable.is_none() {
        return;
    }
    let spawned = std::thread::Builder::new().name("sweep".into()).spawn(move || {
        if let Err(error) = revocations.sweep_disk(now) {
            tracing::warn!(%error, "ended revocations stay on disk for now");
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "ended revocations stay on disk for now");
    }
}

/// Reading a configuration takes files and time; nothing else waits for this thread.
fn reload(reloader: Reloader, followed: Followed, asks: Receiver<Ask>) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("reload".into()).spawn(move || runtime.block_on(reloader.run(followed, asks)))
}

/// Long enough for a slow disk, short enough for whoever waits for the process to end.
const LAST_LINES: Duration = Duration::from_secs(5);

const OWN_KEYS: &str = "the keys that tokens are signed with cannot be published";

/// Password checks that may wait for a thread; the next one is told to come back.
const HASHES_WAITING: usize = 64;

const SWEEP_EVERY: Duration = Duration::from_secs(1);
const SWEEPS_A_ROUND: usize = 60;
/// Last uses of API keys are on disk ten seconds later at most.
const SWEEPS_OF_USES: u64 = 5;
/// Once an hour.
const SWEEPS_OF_THE_DISK: u64 = 3600;

/// The disk hears of every session within two seconds, and has written it less than two seconds later.
const SEGMENTS_TOLD_AT_ONCE: usize = MemoryStore::SEGMENTS / 2;
