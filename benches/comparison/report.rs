//! The table that people read, and the JSON that programs do: medians over the rounds, their spread, ratios.

use serde_json::json;

use crate::{
    Result,
    load::Sample,
    measure::{Cpu, SystemCalls},
    proxy::Proxy,
    workload::{Auth, Workload},
};

/// One proxy under one workload.
pub(crate) struct Cell {
    pub(crate) workload: Workload,
    pub(crate) proxy: Proxy,
    pub(crate) rounds: Vec<Round>,
    pub(crate) system_calls: Option<SystemCalls>,
    /// Why it has no row.
    pub(crate) refused: Option<String>,
}

/// What one round gave; CPU times in microseconds per request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    cpu: f64,
    user: f64,
    requests_per_second: f64,
    p50: f64,
    p99: f64,
    memory_mib: f64,
    /// How much of its core the proxy used, 0 to 1: below 0.9 the load was the bottleneck.
    busy: f64,
}

impl Cell {
    pub(crate) fn new(workload: Workload, proxy: Proxy) -> Self {
        Self { workload, proxy, rounds: Vec::new(), system_calls: None, refused: None }
    }

    /// Of all rounds; none without a row.
    pub(crate) fn median_cpu(&self) -> Option<f64> {
        self.has_row().then(|| self.median(|round| round.cpu))
    }

    fn median(&self, value: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(value))
    }

    fn spread(&self, value: impl Fn(&Round) -> f64) -> (f64, f64) {
        spread(self.rounds.iter().map(value))
    }

    fn has_row(&self) -> bool {
        self.refused.is_none() && !self.rounds.is_empty()
    }
}

/// Not a number if there is none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The lowest and the highest.
pub(crate) fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(low, high), one| (low.min(one), high.max(one)))
}

impl Round {
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
    pub(crate) fn new(used: &Cpu, sample: &Sample, memory_kib: u64) -> Self {
        let cpu = used.total / sample.requests.max(1) as f64;
        Self {
            cpu,
            user: cpu * used.user_share(),
            requests_per_second: sample.requests as f64 / sample.seconds,
            p50: f64::from(sample.percentile(0.50)),
            p99: f64::from(sample.percentile(0.99)),
            memory_mib: memory_kib as f64 / 1024.0,
            busy: used.total / (sample.seconds * 1e6),
        }
    }
}

/// Prints everything to standard output.
pub(crate) fn print(cells: &[Cell], rounds: u32, seconds: u64, connections: u16, logs: bool) {
    let logging = if logs { "on" } else { "off" };
    println!(
        "{rounds} interleaved rounds of {seconds} s; HTTP/1.1 over {connections} connections, HTTP/2 over 10 with 32 streams each; access logs {logging} for all.\n\
         CPU is the proxy's alone, all its processes and threads, in microseconds per request: median (lowest to highest).\n\
         \"× peer\": CPU against the best peer that does the same work; \"× bare\": against the best peer that only forwards.\n"
    );
    println!(
        "| workload | proxy | CPU µs | user | kernel | × peer | × bare | calls | requests/s | p50 µs | p99 µs | RSS MiB | core |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for cell in cells.iter().filter(|cell| cell.has_row()) {
        let cpu = cell.median(|round| round.cpu);
        let user = cell.median(|round| round.user);
        let (low, high) = cell.spread(|round| round.cpu);
        let ratio = |best: Option<f64>| best.map_or_else(|| "–".into(), |best| format!("{:.2}", cpu / best));
        let calls = cell
            .system_calls
            .as_ref()
            .map_or_else(|| "–".into(), |calls| format!("{:.2}", calls.per_request.values().sum::<f64>()));
        println!(
            "| {} | {} | {cpu:.1} ({low:.1} to {high:.1}) | {user:.1} | {:.1} | {} | {} | {calls} | {:.0} | {:.0} | {:.0} | {:.1} | {:.0} % |",
            cell.workload,
            cell.proxy,
            cpu - user,
            ratio(best_peer(cells, |workload| workload == cell.workload)),
            ratio(
                best_peer(cells, |workload| workload.auth == Auth::None && workload.protocol == cell.workload.protocol)
            ),
            cell.median(|round| round.requests_per_second),
            cell.median(|round| round.p50),
            cell.median(|round| round.p99),
            cell.median(|round| round.memory_mib),
            cell.median(|round| round.busy) * 100.0,
        );
    }
    print_calls(cells);
    for cell in cells {
        if let Some(why) = &cell.refused {
            println!("no row: {} with {}: {why}", cell.proxy, cell.workload);
        }
    }
}

/// Every round, unrounded.
pub(crate) fn json(cells: &[Cell]) -> Result<String> {
    let rows: Vec<serde_json::Value> = cells
        .iter()
        .map(|cell| {
            let rounds: Vec<serde_json::Value> = cell
                .rounds
                .iter()
                .map(|round| {
                    json!({
                        "cpu_us": round.cpu, "user_us": round.user, "kernel_us": round.cpu - round.user,
                        "requests_per_second": round.requests_per_second, "p50_us": round.p50, "p99_us": round.p99,
                        "rss_mib": round.memory_mib, "core_share": round.busy,
                    })
                })
                .collect();
            json!({
                "workload": cell.workload.to_string(), "proxy": cell.proxy.to_string(), "rounds": rounds,
                "median_cpu_us": cell.median_cpu(),
                "system_calls_by": cell.system_calls.as_ref().map(|calls| calls.tool),
                "system_calls": cell.system_calls.as_ref().map(|calls| &calls.per_request),
                "no_row": cell.refused,
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&rows)?)
}

fn print_calls(cells: &[Cell]) {
    println!("\nSystem calls per request by name, those above 0.005:");
    for cell in cells.iter().filter(|cell| cell.has_row()) {
        let Some(calls) = &cell.system_calls else { continue };
        let mut named: Vec<(&String, &f64)> = calls.per_request.iter().filter(|(_, count)| **count > 0.005).collect();
        named.sort_unstable_by(|a, b| b.1.total_cmp(a.1));
        let list: Vec<String> = named.iter().map(|(name, count)| format!("{name} {count:.2}")).collect();
        println!("- {} with {} (by {}): {}", cell.proxy, cell.workload, calls.tool, list.join(", "));
    }
    println!();
}

/// The lowest median CPU of all peers over the workloads that qualify.
fn best_peer(cells: &[Cell], qualifies: impl Fn(Workload) -> bool) -> Option<f64> {
    cells
        .iter()
        .filter(|cell| cell.has_row() && !cell.proxy.is_ours() && qualifies(cell.workload))
        .map(|cell| cell.median(|round| round.cpu))
        .min_by(f64::total_cmp)
}
