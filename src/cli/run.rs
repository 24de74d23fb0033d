//! `portcullis run`: starts the gateway and keeps it running until it is told to stop.

use std::{convert::Infallible, path::Path, time::Duration};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Interval, MissedTickBehavior},
};

use super::{Failure, environment, load, successor, welcome};
use crate::{
    change::Cause,
    clock::Clock,
    config::{self, Config},
    edge::Inherited,
    gateway::{self, Inheritance, Running},
    reload,
    service::Manager,
    telemetry,
};

#[derive(Debug, Default, clap::Args)]
pub(super) struct Arguments {
    /// Follow the process that runs with the same `server.upgrade_socket`: take over its sockets, sessions and TLS
    /// tickets, and let it finish what it has begun. Starts as usual if there is none.
    #[arg(long)]
    upgrade: bool,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let again = path.to_owned();
    let source = Box::new(move || config::load(&again, environment()));
    serve_after(load(path)?, path.parent().unwrap_or_else(|| Path::new("")), source, arguments.upgrade)
}

/// Serves a configuration until SIGTERM or SIGINT, then drains. A second signal ends the process at once. SIGHUP reads
/// the configuration again from `source`.
pub(super) fn serve(config: Config, folder: &Path, source: reload::Source) -> Result<(), Failure> {
    serve_after(config, folder, source, false)
}

/// As [`serve`]; `follows`: takes over from the process that runs.
fn serve_after(config: Config, folder: &Path, source: reload::Source, follows: bool) -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    let manager =
        Manager::find(variable).map_err(|error| Failure::new(format!("NOTIFY_SOCKET is of no use: {error}")))?;
    let inherited = Inherited::take(variable)
        .map_err(|error| Failure::new(format!("the sockets of LISTEN_FDS cannot be taken over: {error}")))?;
    telemetry::log::install_diagnostics(&config.startup.log).map_err(|error| Failure::new(error.to_string()))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let welcome = welcome::Welcome::of(&config);
    let signals = Signals::receive()?;
    let running = gateway::start_with(config, Clock::system(), source, Inheritance { inherited, follows })
        .map_err(|error| Failure::new(error.to_string()))?;
    match welcome {
        Some(welcome) => print!("{}", welcome.text(&running, folder)),
        None => {
            for (address, what) in [
                (running.addresses().telemetry, "telemetry listens"),
                (running.addresses().admin, "the admin API listens"),
            ] {
                if let Some(address) = address {
                    tracing::info!(%address, "{what}");
                }
            }
            for address in &running.addresses().gateway {
                tracing::info!(%address, "listening");
            }
        }
    }
    manager.ready(SERVING);
    match signals.wait(&running, &manager) {
        None => manager.stopping(),
        Some(process) => manager.followed_by(process),
    }
    end(running)
}

fn end(running: Running) -> Result<(), Failure> {
    tracing::info!("draining");
    if running.stop() {
        Ok(())
    } else {
        Err(Failure::new("stopped; not everything ended within server.drain_timeout and was cut".into()))
    }
}

/// The signals, received from when this is made: one that comes during the start is not lost, and SIGHUP ends nobody.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn receive() -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("the system gives no timer: {error}")))?;
        let entered = runtime.enter();
        let receive = |kind| signal(kind).map_err(|error| Failure::new(format!("signals cannot be received: {error}")));
        let terminate = receive(SignalKind::terminate())?;
        let interrupt = receive(SignalKind::interrupt())?;
        let hangup = receive(SignalKind::hangup())?;
        let upgrade = receive(SignalKind::user_defined2())?;
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hangup, upgrade })
    }

    /// Opens log files anew and reloads at each SIGHUP and starts a process to follow at each SIGUSR2, until the
    /// gateway shall stop; answers the process that has taken over, if that is why.
    fn wait(self, running: &Running, manager: &Manager) -> Option<u32> {
        let Self { runtime, mut terminate, mut interrupt, mut hangup, mut upgrade } = self;
        let mut taken = running.taken();
        let reloads = &running.live().shared.reloads;
        let follower = runtime.block_on(async {
            let mut pulse = Pulse::new(manager);
            loop {
                tokio::select! {
                    _ = terminate.recv() => return None,
                    _ = interrupt.recv() => return None,
                    _ = hangup.recv() => {}
                    _ = upgrade.recv() => {
                        successor::start(taken.is_some());
                        continue;
                    }
                    process = followed(&mut taken) => return Some(process),
                    never = pulse.go_on(running) => match never {},
                }
                manager.reloading();
                // Also when the configuration is refused: whoever rotates logs has renamed the files already.
                running.live().shared.telemetry.reopen_logs();
                tokio::select! {
                    _ = terminate.recv() => return None,
                    _ = interrupt.recv() => return None,
                    // What comes of it is in the log.
                    _ = reloads.reload(Cause::Signal) => {}
                }
                manager.ready(SERVING);
            }
        });
        let handed_over = follower.map(|_| running.live().shared.shutdown.clone());
        // Whoever asks twice does not want to wait for the drain.
        std::thread::spawn(move || {
            let mut asked = || {
                runtime.block_on(async {
                    tokio::select! {
                        signal = terminate.recv() => signal,
                        signal = interrupt.recv() => signal,
                    }
                })
            };
            if let Some(shutdown) = handed_over
                && asked().is_some()
            {
                shutdown.trigger();
            }
            if asked().is_some() {
                std::process::exit(1);
            }
        });
        follower
    }
}

/// The process that has taken over, once one has.
async fn followed(taken: &mut Option<watch::Receiver<Option<u32>>>) -> u32 {
    if let Some(taken) = taken
        && let Ok(taken) = taken.wait_for(Option::is_some).await
        && let Some(process) = *taken
    {
        return process;
    }
    std::future::pending().await
}

/// Tells the service manager's watchdog that we live, for as long as no worker hangs.
struct Pulse<'a> {
    manager: &'a Manager,
    /// `None`: nobody wants to hear.
    ticks: Option<Interval>,
    beats: Vec<u64>,
}

impl<'a> Pulse<'a> {
    fn new(manager: &'a Manager) -> Self {
        let ticks = manager.watchdog().map(|patience| {
            let mut ticks = tokio::time::interval((patience / TICKS).max(SHORTEST_TICK));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { manager, ticks, beats: Vec::new() }
    }

    async fn go_on(&mut self, running: &Running) -> Infallible {
        let Some(ticks) = &mut self.ticks else {
            return std::future::pending().await;
        };
        loop {
            ticks.tick().await;
            let beats = running.beats();
            let hangs = self.beats.iter().zip(&beats).any(|(before, now)| before == now);
            self.beats = beats;
            if !hangs {
                self.manager.alive();
            }
        }
    }
}

const SERVING: &str = "serving";
/// Within the time after which the service manager loses its patience.
const TICKS: u32 = 4;
/// Workers beat four times a second.
const SHORTEST_TICK: Duration = Duration::from_millis(600);
