//! How the cost of a request grows with what is stored, configured and connected. Portcullis alone; rounds are
//! interleaved, and what counts is the ratio to the smallest of its kind.

use std::{fmt, time::Duration};

use serde_json::json;

use crate::{
    Options, Result,
    load::Load,
    measure,
    people::{Algorithm, Keys},
    proxy::{Proxy, Setup},
    ready,
    report::{median, spread},
    svg::{Bar, bars},
    upstream::Upstream,
    workload::{Auth, Protocol, Workload},
};

/// What there is more and more of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Axis {
    Sessions,
    Routes,
    Issuers,
    Connections,
    /// Many sessions and many routes.
    Both,
}

struct Point {
    axis: Axis,
    name: String,
    auth: Auth,
    sessions: usize,
    routes: usize,
    issuers: usize,
    connections: usize,
    /// CPU microseconds per request.
    rounds: Vec<f64>,
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sessions => "sessions stored",
            Self::Routes => "routes",
            Self::Issuers => "issuers (ES256, known token)",
            Self::Connections => "connections (session)",
            Self::Both => "routes and sessions",
        })
    }
}

impl Point {
    fn new(axis: Axis, name: &str) -> Self {
        let auth = match axis {
            Axis::Routes => Auth::None,
            Axis::Issuers => Auth::Jwt { algorithm: Algorithm::Es256, tokens: 1 },
            Axis::Sessions | Axis::Connections | Axis::Both => Auth::Session,
        };
        let name = name.to_owned();
        Self { axis, name, auth, sessions: 1000, routes: 10, issuers: 1, connections: 32, rounds: Vec::new() }
    }
}

fn points() -> Vec<Point> {
    let sessions = [("1 k", 1_000), ("10 k", 10_000), ("100 k", 100_000), ("1 M", 1_000_000)];
    let sessions = sessions.map(|(name, sessions)| Point { sessions, ..Point::new(Axis::Sessions, name) });
    let routes = [("10", 10), ("100", 100), ("1,000", 1_000)];
    let routes = routes.map(|(name, routes)| Point { routes, ..Point::new(Axis::Routes, name) });
    let issuers = [("1", 1), ("10", 10), ("100", 100)];
    let issuers = issuers.map(|(name, issuers)| Point { issuers, ..Point::new(Axis::Issuers, name) });
    let connections = [("10", 10), ("100", 100), ("1,000", 1_000), ("10,000", 10_000)];
    let connections =
        connections.map(|(name, connections)| Point { connections, ..Point::new(Axis::Connections, name) });
    let both = [("10, 1 k", 10, 1_000), ("1,000, 1 M", 1_000, 1_000_000)];
    let both = both.map(|(name, routes, sessions)| Point { routes, sessions, ..Point::new(Axis::Both, name) });
    sessions.into_iter().chain(routes).chain(issuers).chain(connections).chain(both).collect()
}

/// Prints the table, and writes JSON and a picture where that is asked for.
pub(crate) async fn measure(options: &Options, keys: &Keys, upstream: &Upstream) -> Result<()> {
    portcullis::edge::raise_descriptor_limit()?;
    let mut points = points();
    for round in 0..options.rounds {
        for point in &mut points {
            eprint!("\rround {}/{}, {} {} …        ", round + 1, options.rounds, point.name, point.axis);
            point.rounds.push(cpu_per_request(options, keys, upstream, point).await?);
        }
    }
    eprintln!();
    println!("{} interleaved rounds of {} s over HTTP/1.1.\n", options.rounds, options.seconds);
    println!("| | | CPU µs | lowest to highest | × the smallest |\n|---|--:|--:|--:|--:|");
    for point in &points {
        let (low, high) = spread(point.rounds.iter().copied());
        let smallest = points.iter().find(|other| other.axis == point.axis).map_or(f64::NAN, Point::cpu);
        let (cpu, Point { axis, name, .. }) = (point.cpu(), point);
        println!("| {axis} | {name} | {cpu:.2} | {low:.2} to {high:.2} | {:.2} |", cpu / smallest);
    }
    if let Some(path) = &options.json {
        let rows: Vec<_> = points
            .iter()
            .map(|point| json!({ "axis": point.axis.to_string(), "size": point.name, "cpu_us": point.rounds }))
            .collect();
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    }
    if let Some(path) = &options.svg {
        let rows: Vec<Bar> = points
            .iter()
            .map(|point| Bar {
                group: point.axis.to_string(),
                name: point.name.clone(),
                is_ours: true,
                length: point.cpu(),
            })
            .collect();
        std::fs::write(path, bars("CPU time of Portcullis per request, microseconds", &rows))?;
    }
    Ok(())
}

impl Point {
    fn cpu(&self) -> f64 {
        median(self.rounds.iter().copied())
    }
}

async fn cpu_per_request(options: &Options, keys: &Keys, upstream: &Upstream, point: &Point) -> Result<f64> {
    let workload = Workload { auth: point.auth, protocol: Protocol::Http1 };
    let setup = Setup {
        sessions: point.sessions,
        more_routes: point.routes - 1,
        more_issuers: point.issuers - 1,
        ..options.setup(workload, upstream)?
    };
    let (running, target, credentials) = ready(options, keys, upstream, Proxy::Portcullis, workload, setup).await?;
    let load = Load::start(&target, Protocol::Http1, point.connections, credentials)?;
    // All of them have come, and all tokens and sessions were met often enough to be remembered.
    load.warm_up(Duration::from_secs(1), point.connections * 2).await?;
    let before = measure::Cpu::read(&running.processes())?;
    load.begin();
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let sample = load.end()?;
    let used = measure::Cpu::read(&running.processes())?.since(before);
    load.stop().await?;
    Ok(used.total / sample.requests.max(1) as f64)
}
