//! A flood of logins: what it costs those who have a session, and how much memory it can take.
//!
//! Its own program, because it measures the whole process. The limits are judged by ratios of interleaved rounds, on
//! whatever machine this is; run it alone: `cargo test --release --test gateway flood -- --ignored --nocapture`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use portcullis::clock;
use serde_json::json;

use crate::support::{Client, Gateway, gateway::Running};

const ROUND: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 20;
const FLOODERS: usize = 48;
const PASSWORD: &str = "Correct-Horse-Battery-7341";

/// Guesses from ever new addresses, as fast as they are answered, with hashes as in production.
#[test]
#[ignore = "takes a minute, and a machine with nothing else to do"]
fn a_flood_of_logins_slows_known_sessions_by_a_fifth_at_most_and_takes_bounded_memory() {
    let answers = "[[route]]\nname = \"app\"\nmatch = { path = \"/app/{*rest}\" }\nauth = [\"session\"]\n\
                   respond = { status = 200 }\n";
    let gateway = Gateway::new()
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .on_system_time()
        .user("alice", PASSWORD, &["user"])
        .table(answers)
        .start();
    let flood = Flood::new(&gateway);
    let before = resident();
    let alice = gateway.log_in("alice");
    measure(&alice, Duration::from_secs(1));

    let (mut calm_p99s, mut flooded_p99s, mut most, mut logins) = (Vec::new(), Vec::new(), 0, 0);
    for round in 0..ROUNDS {
        let calm = measure(&alice, ROUND);
        let count = flood.logins.load(Relaxed);
        flood.on.store(true, Relaxed);
        let flooded = measure(&alice, ROUND);
        most = most.max(resident());
        flood.on.store(false, Relaxed);
        logins += flood.logins.load(Relaxed) - count;
        let [calm, flooded] = [calm, flooded].map(|mut times| {
            times.sort();
            (times.len(), times[times.len() / 2], times[times.len() * 99 / 100])
        });
        println!("round {round}: calm (n, p50, p99) {calm:?}, flooded {flooded:?}");
        calm_p99s.push(calm.2);
        flooded_p99s.push(flooded.2);
        thread::sleep(Duration::from_millis(500));
    }

    // Whatever else the machine does hits both kinds of rounds; the medians are those without it.
    let [calm, flooded] = [calm_p99s, flooded_p99s].map(|mut all| {
        all.sort();
        all[all.len() / 2]
    });
    let ratio = flooded.as_secs_f64() / calm.as_secs_f64();
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    let bound = threads * (19 << 20) + (64 << 20);
    let grown = most.saturating_sub(before);
    println!("p99 flooded/calm {flooded:?}/{calm:?} = {ratio:.2}; {logins} logins tried; memory +{} MiB", grown >> 20);
    assert!(logins > 100, "it was a flood: {logins}");
    assert!(ratio <= 1.2, "p99 under the flood is {ratio:.2} of that without");
    assert!(grown <= bound, "{grown} bytes, of {bound}");
}

struct Flood {
    on: Arc<AtomicBool>,
    logins: Arc<AtomicU64>,
}

impl Flood {
    fn new(gateway: &Running) -> Self {
        let (on, logins) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        for flooder in 0..FLOODERS {
            let (on, logins, client) = (Arc::clone(&on), Arc::clone(&logins), gateway.client());
            thread::spawn(move || {
                let mut connection = client.connect();
                for guess in 0_u32.. {
                    while !on.load(Relaxed) {
                        thread::sleep(Duration::from_millis(20));
                    }
                    let name = format!("user-{flooder}-{guess}");
                    let [_, a, b, c] = guess.wrapping_mul(2_654_435_761).wrapping_add(flooder as u32).to_be_bytes();
                    let request = client
                        .post("/_auth/login", "")
                        .header("X-Forwarded-For", &format!("10.{a}.{b}.{c}"))
                        .header("X-Forwarded-Proto", "https")
                        .json(&json!({ "username": name, "password": "guess" }));
                    let status = connection.send(&request).status;
                    assert!(matches!(status, 401 | 429 | 503), "{status}");
                    if status == 401 {
                        logins.fetch_add(1, Relaxed);
                    } else {
                        thread::sleep(Duration::from_millis(50));
                    }
                }
            });
        }
        Self { on, logins }
    }
}

/// How long each request of somebody with a session takes, one every millisecond.
fn measure(alice: &Client, during: Duration) -> Vec<Duration> {
    let mut connection = alice.connect();
    let request = alice.get("/app/x").header("X-Forwarded-Proto", "https");
    let end = clock::instant() + during;
    let mut times = Vec::new();
    while clock::instant() < end {
        let started = clock::instant();
        assert_eq!(connection.send(&request).status, 200);
        times.push(started.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    times
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
