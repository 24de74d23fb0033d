//! `portcullis run`: starts the gateway and keeps it running until it is told to stop.

use std::path::Path;

use super::{Failure, load, welcome};
use crate::{
    clock::Clock,
    config::Config,
    gateway::{self, Running},
    telemetry,
};

pub(super) fn run(path: &Path) -> Result<(), Failure> {
    serve(load(path)?, path.parent().unwrap_or_else(|| Path::new("")))
}

/// Serves a configuration until SIGTERM or SIGINT, then drains. A second signal ends the process at once.
pub(super) fn serve(config: Config, folder: &Path) -> Result<(), Failure> {
    telemetry::log::install_diagnostics(&config.startup.log).map_err(|error| Failure::new(error.to_string()))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let welcome = welcome::Welcome::of(&config);
    let running = gateway::start(config, Clock::system()).map_err(|error| Failure::new(error.to_string()))?;
    match welcome {
        Some(welcome) => print!("{}", welcome.text(&running, folder)),
        None => {
            for address in &running.addresses().gateway {
                tracing::info!(%address, "listening");
            }
        }
    }
    wait_for_signal()?;
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

fn wait_for_signal() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the system gives no timer: {error}")))?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let unlistenable = |error| Failure::new(format!("signals cannot be received: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(unlistenable)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(unlistenable)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
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
