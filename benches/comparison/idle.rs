//! What an idle connection takes: resident memory of each proxy before and after so many clients came, asked once, and
//! stayed.

use std::{collections::BTreeMap, time::Duration};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::{
    Options, Result,
    load::{Credential, Target},
    measure,
    people::Keys,
    proxy::{Proxy, Running},
    ready,
    report::{median, spread},
    upstream::Upstream,
    workload::{Auth, Protocol, Workload},
};

/// Prints KiB for each connection, the median of the rounds.
pub(crate) async fn measure(
    options: &Options,
    keys: &Keys,
    upstream: &Upstream,
    proxies: &[Proxy],
    connections: u16,
) -> Result<()> {
    portcullis::edge::raise_descriptor_limit()?;
    let workload = Workload { auth: Auth::None, protocol: Protocol::Http1 };
    let mut rows: Vec<(Proxy, Vec<f64>)> =
        proxies.iter().filter(|proxy| proxy.does(Auth::None)).map(|proxy| (*proxy, Vec::new())).collect();
    let mut refused = BTreeMap::new();
    for _ in 0..options.rounds {
        for (proxy, kib) in rows.iter_mut() {
            if refused.contains_key(proxy) {
                continue;
            }
            let setup = options.setup(workload, upstream)?;
            let measured = async {
                let (running, target, _) = ready(options, keys, upstream, *proxy, workload, setup).await?;
                each(&target, &running, connections).await
            };
            match measured.await {
                Ok(measured) => kib.push(measured),
                Err(why) => drop(refused.insert(*proxy, why.to_string())),
            }
        }
    }
    println!("{connections} TLS connections over HTTP/1.1, each after one request; {} rounds.\n", options.rounds);
    println!("| proxy | KiB for each | lowest to highest |\n|---|--:|--:|");
    for (proxy, kib) in rows.iter().filter(|(proxy, _)| !refused.contains_key(proxy)) {
        let (low, high) = spread(kib.iter().copied());
        println!("| {proxy} | {:.1} | {low:.1} to {high:.1} |", median(kib.iter().copied()));
    }
    for (proxy, why) in refused {
        println!("no row: {proxy}: {why}");
    }
    Ok(())
}

/// KiB for each of so many connections.
async fn each(target: &Target, running: &Running, connections: u16) -> Result<f64> {
    let before = settled(&running.processes()).await?;
    let mut held: Vec<TlsStream<TcpStream>> = Vec::with_capacity(usize::from(connections));
    for number in 0..connections {
        let connected = target.used_connection(&Credential::None).await;
        held.push(connected.map_err(|why| format!("after {number} connections: {why}"))?);
    }
    let after = settled(&running.processes()).await?;
    Ok((after as f64 - before as f64) / f64::from(connections))
}

/// Resident KiB once all has been idle for four seconds and they stay the same for half a second, or after ten more.
async fn settled(processes: &[u32]) -> Result<u64> {
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (mut last, mut same) = (0, 0);
    for _ in 0..100 {
        let now = measure::resident_kib(processes)?;
        same = if now == last { same + 1 } else { 0 };
        if same == 5 {
            break;
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(last)
}
