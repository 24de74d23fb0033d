//! Which part of a request's way its instructions go to, told by the names of the functions that execute them.
//!
//! In: what callgrind counted of one worker with few and with many requests. Out: a table of stages. A function that
//! the compiler has put into another one counts for that one's stage; memory and copying have lines of their own,
//! whoever asks for them.

use std::collections::BTreeMap;

/// Prints what each stage costs one request, dearest first, with its dearest functions.
pub(crate) fn print(few: &str, many: &str, requests: usize) {
    let before = by_function(few);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let each = |(name, cost): (&String, &u64)| {
        cost.saturating_sub(before.get(name).copied().unwrap_or_default()) as f64 / requests as f64
    };
    let many = by_function(many);
    let mut stages: BTreeMap<&str, Stage<'_>> = BTreeMap::new();
    for (name, cost) in &many {
        let cost = each((name, cost));
        let (sum, functions) = stages.entry(stage(name)).or_default();
        *sum += cost;
        functions.push((cost, name));
    }
    let all: f64 = stages.values().map(|(sum, _)| sum).sum();
    let mut stages: Vec<_> = stages.into_iter().collect();
    stages.sort_unstable_by(|(_, (one, _)), (_, (other, _))| other.total_cmp(one));
    println!("{:<14} {:>8} {:>6}   dearest functions", "stage", "instr.", "share");
    for (stage, (sum, mut functions)) in stages {
        functions.sort_unstable_by(|(one, _), (other, _)| other.total_cmp(one));
        let shown = functions.iter().take(SHOWN).filter(|(cost, _)| *cost >= 1.0);
        let shown: Vec<String> = shown.map(|(cost, name)| format!("{} {cost:.0}", short(name))).collect();
        println!("{stage:<14} {sum:>8.0} {:>4.0} %   {}", sum / all * 100.0, shown.join(", "));
    }
    println!("{:<14} {all:>8.0}", "all");
}

/// What its functions executed, in all and each.
type Stage<'n> = (f64, Vec<(f64, &'n str)>);

/// What each function executed itself. The format: `fn=` with a number that stands for the name after its first use,
/// and lines of costs; a line behind `calls=` is the cost of what was called.
fn by_function(text: &str) -> BTreeMap<String, u64> {
    let (mut names, mut costs) = (BTreeMap::new(), BTreeMap::<String, u64>::new());
    let (mut within, mut calls) = (String::new(), false);
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (number, name) = function.split_once(") ").unwrap_or_else(|| (function.trim_end_matches(')'), ""));
            if !name.is_empty() {
                names.insert(number.to_owned(), name.to_owned());
            }
            if line.starts_with("fn=") {
                within = names.get(number).cloned().unwrap_or_default();
            }
        } else if line.starts_with("calls=") {
            calls = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            if !calls {
                let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
                *costs.entry(within.clone()).or_default() += cost.unwrap_or_default();
            }
            calls = false;
        }
    }
    costs
}

fn stage(function: &str) -> &'static str {
    let found = STAGES.iter().find(|(_, parts)| parts.iter().any(|part| function.contains(part)));
    found.map_or("other", |(stage, _)| stage)
}

/// Without the hash that a linker needs, and cut.
fn short(function: &str) -> String {
    let name = function.split("::h").next().filter(|name| !name.is_empty()).unwrap_or(function);
    name.chars().rev().take(LONGEST_NAME).collect::<Vec<_>>().into_iter().rev().collect()
}

/// The first that fits counts.
const STAGES: &[(&str, &[&str])] = &[
    ("copying", &["memcpy", "memmove", "memcmp", "memset"]),
    ("memory", &["mi_", "alloc::", "reserve_inner", "bytes_mut", "__rust_alloc"]),
    ("SHA-256", &["sha256", "SHA256"]),
    ("route", &["portcullis::route"]),
    (
        "authenticate",
        &[
            "portcullis::authn",
            "portcullis::session",
            "portcullis::api_key",
            "portcullis::revocation",
            "portcullis::mtls",
        ],
    ),
    ("authorize", &["portcullis::authz", "portcullis::decide", "portcullis::csrf", "portcullis::rate_limit"]),
    ("headers", &["portcullis::headers", "portcullis::id", "portcullis::identity"]),
    ("log, metrics", &["portcullis::telemetry"]),
    ("upstream", &["portcullis::upstream"]),
    ("pipeline", &["portcullis::pipeline", "portcullis::state"]),
    ("TLS", &["aws_lc", "aes_", "aesni", "gcm", "ghash", "rustls", "ecp_", "sha512", "CRYPTO_"]),
    ("edge", &["portcullis::edge"]),
    ("HTTP parsing", &["httparse", "hyper", "http::"]),
    ("clock", &["Timespec", "clock_gettime", "portcullis::clock"]),
    ("runtime", &["tokio", "mio", "epoll", "recv", "send", "backtrace"]),
];
const SHOWN: usize = 3;
const LONGEST_NAME: usize = 60;
