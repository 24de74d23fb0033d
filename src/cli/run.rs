//! `portcullis run`: starts the gateway and keeps it running until it is told to stop.

use std::path::Path;

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
    wait_for_signal(&running)?;
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

fn wait_for_signal(running: &Running) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the system gives no timer: {error}")))?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let unlistenable = |error| Failure::new(format!("signals cannot be received: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(unlistenable)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(unlistenable)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(unlistenable)?;
        let reloads = &running.live().shared.reloads;
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                // What comes of it is in the log.
                _ = hangup.recv() => drop(reloads.reload(Cause::Signal).await),
            }
        }
    })?;
    // Whoever asks twice does not want to wait for the drain.
    std::thread::spawn(move || {
        let again = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate()).ok()?;
            let mut interrupt = signal(SignalKind::interrupt()).ok()?;
            tokio::select! {
                signal = terminate.recv() => signal,
                signal = interrupt.recv() => signal,
            }
        });
        if again.is_some() {
            std::process::exit(1);
        }
    });
    Ok(())
}
