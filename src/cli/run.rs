//! `portcullis run`: starts the gateway and keeps it running until it is told to stop.

use std::path::Path;

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{Failure, environment, load, welcome};
use crate::{
    change::Cause,
    clock::Clock,
    config::{self, Config},
    gateway::{self, Running},
    reload, telemetry,
};

pub(super) fn run(path: &Path) -> Result<(), Failure> {
    let again = path.to_owned();
    let source = Box::new(move || config::load(&again, environment()));
    serve(load(path)?, path.parent().unwrap_or_else(|| Path::new("")), source)
}

/// Serves a configuration until SIGTERM or SIGINT, then drains. A second signal ends the process at once. SIGHUP reads
/// the configuration again from `source`.
pub(super) fn serve(config: Config, folder: &Path, source: reload::Source) -> Result<(), Failure> {
    telemetry::log::install_diagnostics(&config.startup.log).map_err(|error| Failure::new(error.to_string()))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let welcome = welcome::Welcome::of(&config);
    let signals = Signals::receive()?;
    let running = gateway::start(config, Clock::system(), source).map_err(|error| Failure::new(error.to_string()))?;
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
    signals.wait(&running);
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
    fn wait(self, running: &Running) {
        let Self { runtime, mut terminate, mut interrupt, mut hangup } = self;
        let reloads = &running.live().shared.reloads;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return,
                    _ = interrupt.recv() => return,
                    _ = hangup.recv() => {}
                }
                // Also when the configuration is refused: whoever rotates logs has renamed the files already.
                running.live().shared.telemetry.reopen_logs();
                tokio::select! {
                    _ = terminate.recv() => return,
                    _ = interrupt.recv() => return,
                    // What comes of it is in the log.
                    _ = reloads.reload(Cause::Signal) => {}
                }
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
