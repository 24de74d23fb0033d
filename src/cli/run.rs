//! `portcullis run`: starts the gateway and keeps it running until it is told to stop.

use std::{convert::Infallible, path::Path, time::Duration};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior},
};

use super::{Failure, environment, load, welcome};
use crate::{
    change::Cause,
    clock::Clock,
    config::{self, Config},
    edge::Inherited,
    gateway::{self, Running},
    reload,
    service::Manager,
    telemetry,
};

pub(super) fn run(path: &Path) -> Result<(), Failure> {
    let again = path.to_owned();
    let source = Box::new(move || config::load(&again, environment()));
    serve(load(path)?, path.parent().unwrap_or_else(|| Path::new("")), source)
}

/// Serves a configuration until SIGTERM or SIGINT, then drains. A second signal ends the process at once. SIGHUP reads
/// the configuration again from `source`.
pub(super) fn serve(config: Config, folder: &Path, source: reload::Source) -> Result<(), Failure> {
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
    let running = gateway::start_with(config, Clock::system(), source, inherited)
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
    signals.wait(&running, &manager);
    manager.stopping();
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
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hangup })
    }

    /// Opens log files anew and reloads at each SIGHUP, until the gateway shall stop.
    fn wait(self, running: &Running, manager: &Manager) {
        let Self { runtime, mut terminate, mut interrupt, mut hangup } = self;
        let reloads = &running.live().shared.reloads;
        runtime.block_on(async {
            let mut pulse = Pulse::new(manager);
            loop {
                tokio::select! {
                    _ = terminate.recv() => return,
                    _ = interrupt.recv() => return,
                    _ = hangup.recv() => {}
                    never = pulse.go_on(running) => match never {},
                }
                manager.reloading();
                // Also when the configuration is refused: whoever rotates logs has renamed the files already.
                running.live().shared.telemetry.reopen_logs();
                tokio::select! {
                    _ = terminate.recv() => return,
                    _ = interrupt.recv() => return,
                    // What comes of it is in the log.
                    _ = reloads.reload(Cause::Signal) => {}
                }
                manager.ready(SERVING);
            }
        });
        // Whoever asks twice does not want to wait for the drain.
        std::thread::spawn(move || {
            let again = runtime.block_on(async {
                tokio::select! {
                    signal = terminate.recv() => signal,
                    signal = interrupt.recv() => signal,
                }
            });
            if again.is_some() {
                std::process::exit(1);
            }
        });
    }
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
