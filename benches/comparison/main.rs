//! Portcullis beside nginx, HAProxy, Envoy and Traefik: CPU time, system calls, latency and memory per request, side by
//! side.
//!
//! Run it with `benches/compare`, which installs the peers and builds everything. Each proxy in turn has one worker on
//! core 0; this program, with the load and the upstream, has core 1. All speak TLS 1.3 with X25519, the same cipher
//! and the same P-256 certificate, keep connections to the upstream, set the same headers, and log all (`--logs`) or
//! nothing. Rounds are interleaved, so that a machine whose speed drifts drifts for all. A proxy that lets a bad
//! credential through, or a good one not, has no row. Everything listens on 127.0.0.1 and is bounded in time.
#![expect(clippy::expect_used, reason = "a benchmark that cannot set itself up has nothing to measure")]

#[expect(dead_code, reason = "the count of instructions needs more of it")]
mod frames;
mod idle;
mod load;
mod measure;
mod people;
mod proxy;
mod report;
mod scale;
mod svg;
mod tail;
mod upstream;
mod verifier;
mod workload;

use std::{path::PathBuf, rc::Rc, time::Duration};

use clap::Parser;

use crate::{
    load::{Credential, Load, Target},
    people::Keys,
    proxy::{Programs, Proxy, Running, Setup},
    report::{Cell, Round},
    upstream::Upstream,
    workload::{Auth, Protocol, Workload},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Compares proxies request by request.
#[derive(Debug, Parser)]
#[command(name = "benches/compare")]
struct Options {
    /// Interleaved rounds; the table shows their median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Seconds measured in each round, after a warm-up of a quarter of it (at least half a second).
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Only these proxies: portcullis, portcullis-pgo, nginx, nginx-auth-request, haproxy, envoy, envoy-uncached, traefik.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Proxy>,
    /// Only workloads whose name contains this, such as `session`, `es256`, `proxy/http1`. May be repeated.
    #[arg(long)]
    workload: Vec<String>,
    /// Connections of the HTTP/1.1 load.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Sessions stored.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=900_000))]
    sessions: u32,
    #[command(flatten)]
    programs: Programs,
    /// Has each proxy write an access log, all to a file.
    #[arg(long)]
    logs: bool,
    /// Writes every round to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws the medians to this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Leaves out the run that counts system calls.
    #[arg(long)]
    no_syscalls: bool,
    /// Instead of requests: memory for each of so many idle connections.
    #[arg(long, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u16).range(1..=11_000))]
    idle: Option<u16>,
    /// Instead of closed loops: latency at a constant rate of half of what each can do, for so many seconds a round.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    tail: Option<u64>,
    /// Instead of the peers: what grows with sessions, routes, issuers and connections, Portcullis alone.
    #[arg(long)]
    scale: bool,
    /// Given by `cargo bench`; changes nothing.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    measure::pin_this_process(measure::LOAD_CORE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    let tasks = tokio::task::LocalSet::new();
    if let Err(error) = runtime.block_on(tasks.run_until(compare(&options))) {
        eprintln!("compare: {error}");
        std::process::exit(1);
    }
}

async fn compare(options: &Options) -> Result<()> {
    let workloads: Vec<Workload> = Workload::all()
        .into_iter()
        .filter(|workload| {
            options.workload.is_empty()
                || options.workload.iter().any(|part| workload.to_string().contains(part.as_str()))
        })
        .collect();
    if workloads.is_empty() {
        return Err("no workload has such a name; there are proxy, session, rs256, rs256-10k, es256, es256-10k, each /http1 and /http2, and proxy/handshake and proxy/resumed".into());
    }
    let proxies: Vec<Proxy> = Proxy::ALL
        .into_iter()
        .filter(|proxy| options.only.is_empty() || options.only.contains(proxy))
        .filter(|proxy| proxy.is_installed(&options.programs))
        .collect();
    if proxies.is_empty() {
        return Err("none of the chosen proxies is installed".into());
    }
    let keys = Keys::generate()?;
    let upstream = Upstream::start().await?;
    if let Some(connections) = options.idle {
        return idle::measure(options, &keys, &upstream, &proxies, connections).await;
    }
    if let Some(seconds) = options.tail {
        return tail::measure(options, &keys, &upstream, &proxies, &workloads, seconds).await;
    }
    if options.scale {
        return scale::measure(options, &keys, &upstream).await;
    }
    let all = workloads.iter().flat_map(|workload| proxies.iter().map(|proxy| Cell::new(*workload, *proxy)));
    let mut cells: Vec<Cell> = all.filter(|cell| cell.proxy.does(cell.workload.auth)).collect();
    for round in 0..options.rounds {
        for (number, cell) in cells.iter_mut().enumerate() {
            if cell.refused.is_some() {
                continue;
            }
            eprint!(
                "\rround {}/{}, {} with {} ({}) …        ",
                round + 1,
                options.rounds,
                cell.proxy,
                cell.workload,
                number + 1
            );
            if let Err(why) = run_cell(options, &keys, &upstream, cell, round == 0).await {
                cell.refused = Some(why.to_string());
            }
        }
    }
    eprintln!();
    report::print(&cells, options.rounds, options.seconds, options.connections, options.logs);
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&cells)?)?;
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, svg::draw(&cells, options.logs))?;
    }
    Ok(())
}

/// One proxy under one workload, once: start, check, load, measure, stop.
async fn run_cell(options: &Options, keys: &Keys, upstream: &Upstream, cell: &mut Cell, is_first: bool) -> Result<()> {
    let setup = options.setup(cell.workload, upstream)?;
    let (running, target, credentials) = ready(options, keys, upstream, cell.proxy, cell.workload, setup).await?;

    let streams = match cell.workload.protocol {
        Protocol::Http1 | Protocol::Handshake | Protocol::Resumed => usize::from(options.connections),
        Protocol::Http2 => 10,
    };
    // Whoever remembers tokens has met each of them before the measurement begins.
    let distinct = if cell.workload.auth == Auth::Session { 0 } else { credentials.len() };
    let load = Load::start(&target, cell.workload.protocol, streams, credentials)?;
    let seconds = Duration::from_secs(options.seconds);
    load.warm_up((seconds / 4).max(Duration::from_millis(500)), distinct).await?;
    let before = measure::Cpu::read(&running.processes())?;
    load.begin();
    tokio::time::sleep(seconds).await;
    let sample = load.end()?;
    let used = measure::Cpu::read(&running.processes())?.since(before);
    let memory = measure::resident_kib(&running.processes())?;
    if is_first && !options.no_syscalls {
        match measure::system_calls(&running.processes(), load.counter()).await {
            Ok(calls) => cell.system_calls = Some(calls),
            Err(why) => eprintln!("\ncompare: system calls of {} are not counted: {why}", cell.proxy),
        }
    }
    load.stop().await?;
    cell.rounds.push(Round::new(&used, &sample, memory));
    Ok(())
}

impl Options {
    fn setup(&self, workload: Workload, upstream: &Upstream) -> Result<Setup> {
        Ok(Setup {
            auth: workload.auth,
            upstream: upstream.port(),
            sessions: usize::try_from(self.sessions)?,
            logs: self.logs,
            more_routes: 0,
            more_issuers: 0,
        })
    }
}

/// Starts a proxy and has it prove that it does the work.
async fn ready(
    options: &Options,
    keys: &Keys,
    upstream: &Upstream,
    proxy: Proxy,
    workload: Workload,
    setup: Setup,
) -> Result<(Running, Target, Rc<[Credential]>)> {
    let running = proxy::start(proxy, setup, keys, &options.programs).await?;
    let credentials = workload.credentials(keys, running.session_tokens());
    let target = Target::new(running.address(), keys.certificate())?;
    // Some listen before they have read what to do with whom.
    for _ in 0..ANSWERS_WITHIN_TENTHS {
        if target.ask(&credentials[0]).await.is_ok_and(|status| status == 200) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    workload::check(workload, &target, &credentials, keys, upstream).await?;
    Ok((running, target, credentials))
}

/// How long a proxy may take from its first connection to its first good answer.
const ANSWERS_WITHIN_TENTHS: u32 = 50;
