//! Latency at a constant rate: an open loop at half of what each proxy can do.
//!
//! Requests are due at fixed moments, whatever became of those before. Latency counts from the moment a request was
//! due, so that one which had to wait for a stalled proxy tells so (no coordinated omission). Portcullis is measured
//! twice: alone, and with reloads and new sessions beside it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use portcullis::clock::instant;
use tokio::{io::AsyncWriteExt, sync::Notify, task::JoinSet};

use crate::{
    Options, Result,
    load::{BUFFER, Credential, Load, Sample, Target, read_http1, write_http1},
    measure,
    people::Keys,
    proxy::{Disturbance, Proxy},
    ready,
    report::{median, spread},
    upstream::Upstream,
    workload::{Protocol, Workload},
};

struct Row {
    workload: Workload,
    proxy: Proxy,
    is_disturbed: bool,
    rounds: Vec<Round>,
}

struct Round {
    rate: f64,
    /// How much of its core the proxy used, 0 to 1.
    busy: f64,
    sample: Sample,
}

/// Prints the table: medians over the rounds.
pub(crate) async fn measure(
    options: &Options,
    keys: &Keys,
    upstream: &Upstream,
    proxies: &[Proxy],
    workloads: &[Workload],
    seconds: u64,
) -> Result<()> {
    let mut rows = Vec::new();
    for workload in workloads.iter().filter(|workload| workload.protocol == Protocol::Http1) {
        for proxy in proxies.iter().filter(|proxy| proxy.does(workload.auth)) {
            for is_disturbed in [false, true] {
                if !is_disturbed || proxy.is_ours() {
                    rows.push(Row { workload: *workload, proxy: *proxy, is_disturbed, rounds: Vec::new() });
                }
            }
        }
    }
    for round in 0..options.rounds {
        for row in &mut rows {
            eprint!("\rround {}/{}, {} with {} …        ", round + 1, options.rounds, row.proxy, row.workload);
            let measured = once(options, keys, upstream, row, Duration::from_secs(seconds)).await;
            row.rounds.push(measured.map_err(|why| format!("{} with {}: {why}", row.proxy, row.workload))?);
        }
    }
    eprintln!();
    println!(
        "{} interleaved rounds of {seconds} s at a constant rate of half of what each can do (less where the load's core would be late, see \"core\"), over {} connections; \
         latency in microseconds from the moment a request was due: median of the rounds (lowest to highest).\n",
        options.rounds, options.connections
    );
    println!("| workload | proxy | requests/s | core | p50 | p99 | p99.9 |\n|---|---|--:|--:|--:|--:|--:|");
    for row in &rows {
        let cell = |share: f64| {
            let values = || row.rounds.iter().map(|round| f64::from(round.sample.percentile(share)));
            let (low, high) = spread(values());
            format!("{:.0} ({low:.0} to {high:.0})", median(values()))
        };
        println!(
            "| {} | {}{} | {:.0} | {:.0} % | {} | {} | {} |",
            row.workload,
            row.proxy,
            if row.is_disturbed { ", disturbed" } else { "" },
            median(row.rounds.iter().map(|round| round.rate)),
            median(row.rounds.iter().map(|round| round.busy)) * 100.0,
            cell(0.5),
            cell(0.99),
            cell(0.999),
        );
    }
    Ok(())
}

async fn once(options: &Options, keys: &Keys, upstream: &Upstream, row: &Row, time: Duration) -> Result<Round> {
    let setup = options.setup(row.workload, upstream)?;
    let (running, target, credentials) = ready(options, keys, upstream, row.proxy, row.workload, setup).await?;
    let connections = usize::from(options.connections);

    let load = Load::start(&target, Protocol::Http1, connections, Rc::clone(&credentials))?;
    load.warm_up(Duration::from_secs(1), credentials.len().min(10_000)).await?;
    let before = measure::Cpu::read(&running.processes())?;
    load.begin();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sample = load.end()?;
    let used = measure::Cpu::read(&running.processes())?.since(before);
    load.stop().await?;
    // Half of what it could do with its whole core; less where the load's own core would be the one that is late.
    let requests = sample.requests as f64;
    let rate = (requests / (used.total / 1e6) / 2.0).min(requests / sample.seconds * LOAD_SHARE);

    let disturbance = row.is_disturbed.then(|| tokio::task::spawn_local(disturb(running.disturbance())));
    let before = measure::Cpu::read(&running.processes())?;
    let begun = instant();
    let sample = paced(&target, &credentials, connections, rate, time).await?;
    let used = measure::Cpu::read(&running.processes())?.since(before);
    let busy = used.total / (instant().duration_since(begun).as_secs_f64() * 1e6);
    if let Some(disturbance) = disturbance {
        if disturbance.is_finished() {
            disturbance.await??;
        } else {
            disturbance.abort();
        }
    }
    Ok(Round { rate, busy, sample })
}

/// Reloads each second, and ten new sessions in it where there are sessions. Ends with the first that fails.
async fn disturb(disturbance: Disturbance) -> Result<()> {
    loop {
        disturbance.reload()?;
        disturbance.open_sessions(10).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Of the requests that the load can make as fast as it can.
const LOAD_SHARE: f64 = 0.6;

/// What is due and not asked yet.
#[derive(Default)]
struct Due {
    moments: RefCell<VecDeque<Instant>>,
    more: Notify,
    is_over: Cell<bool>,
}

/// Asks `rate` times a second, over so many connections; the first tenth does not count.
async fn paced(
    target: &Target,
    credentials: &Rc<[Credential]>,
    connections: usize,
    rate: f64,
    time: Duration,
) -> Result<Sample> {
    let due = Rc::<Due>::default();
    let mut asking = JoinSet::new();
    for first in 0..connections {
        let (target, due, credentials) = (target.clone(), Rc::clone(&due), Rc::clone(credentials));
        asking.spawn_local(async move { ask(&target, &due, &credentials, first).await.map_err(|why| why.to_string()) });
    }
    let begin = instant() + Duration::from_millis(500);
    let counts_from = begin + time / 10;
    let mut number = 0_u32;
    loop {
        let (now, next) = (instant(), begin + Duration::from_secs_f64(f64::from(number) / rate));
        if next > begin + time {
            break;
        }
        if next <= now {
            due.moments.borrow_mut().push_back(next);
            due.more.notify_one();
            number += 1;
        } else if let Some(ended) = asking.try_join_next() {
            ended??;
        } else {
            // The load's core is its own: nothing else needs it.
            tokio::task::yield_now().await;
        }
    }
    due.is_over.set(true);
    due.more.notify_waiters();
    let mut latencies = Vec::with_capacity(number as usize);
    while let Some(ended) = asking.join_next().await {
        let counted = ended??.into_iter().filter(|(moment, _)| *moment >= counts_from);
        latencies.extend(counted.map(|(_, micros)| micros));
    }
    Ok(Sample::new(latencies, (time - time / 10).as_secs_f64()))
}

/// One connection's requests: when each was due, and microseconds until its answer.
async fn ask(target: &Target, due: &Due, credentials: &[Credential], first: usize) -> Result<Vec<(Instant, u32)>> {
    let mut stream = target.used_connection(&credentials[first % credentials.len()]).await?;
    let (mut request, mut buffer) = (Vec::with_capacity(2048), vec![0; BUFFER]);
    let mut seen = Vec::new();
    let mut at = first;
    loop {
        let moment = due.moments.borrow_mut().pop_front();
        let Some(moment) = moment else {
            if due.is_over.get() {
                return Ok(seen);
            }
            due.more.notified().await;
            continue;
        };
        request.clear();
        at += 17;
        write_http1(&mut request, &credentials[at % credentials.len()], "");
        stream.write_all(&request).await?;
        stream.flush().await?;
        let answer = read_http1(&mut stream, &mut buffer).await?;
        if answer.status != 200 {
            return Err(format!("answers {} at a constant rate", answer.status).into());
        }
        let micros = instant().saturating_duration_since(moment).as_micros();
        seen.push((moment, u32::try_from(micros).unwrap_or(u32::MAX)));
        if answer.closes {
            stream = target.used_connection(&credentials[at % credentials.len()]).await?;
        }
    }
}
