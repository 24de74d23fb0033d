//! A flood of logins takes bounded memory, of the real program. What it costs those who have a session is measured by
//! `benches/flood`.

use std::thread;

use serde_json::json;

use crate::support::{Client, Gateway};

const PASSWORD: &str = "Correct-Horse-Battery-7341";

/// Far more at once than there are threads that hash, and few enough that the last one is answered in time where others
/// use the processors up.
const FLOODERS: u8 = 16;
const GUESSES: u8 = 3;

/// Guesses from ever new addresses, with hashes as in production: 19 MiB each.
#[test]
fn a_flood_of_logins_takes_bounded_memory() {
    let answers = "[[route]]\nname = \"app\"\nmatch = { path = \"/app/{*rest}\" }\nauth = [\"session\"]\n\
                   respond = { status = 200 }\n";
    let gateway = Gateway::new()
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .user("alice", PASSWORD, &["user"])
        .table(answers)
        .start_process();
    let before = gateway.peak_bytes();

    let tried = thread::scope(|scope| {
        let flooders: Vec<_> = (0..FLOODERS)
            .map(|flooder| {
                let client = gateway.client();
                scope.spawn(move || guess(&client, flooder))
            })
            .collect();
        flooders.into_iter().map(|flooder| flooder.join().expect("it ends")).sum::<usize>()
    });

    let threads = thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    let grown = gateway.peak_bytes() - before;
    println!("{tried} passwords were tried, {} at once; memory grew by {} MiB", FLOODERS, grown >> 20);
    assert!(tried >= usize::from(FLOODERS), "it was a flood: {tried}");
    assert!(grown <= threads * HASH_BYTES + (64 << 20), "{grown} bytes");
    assert!(grown >= HASH_BYTES / 2, "it is the hashing that is weighed: {grown} bytes");
}

/// How many passwords were tried; the others were told to come back.
fn guess(client: &Client, flooder: u8) -> usize {
    let mut connection = client.connect();
    let mut tried = 0;
    for guess in 0..GUESSES {
        let request = client
            .post("/_auth/login", "")
            .header("X-Forwarded-For", &format!("10.0.{flooder}.{guess}"))
            .header("X-Forwarded-Proto", "https")
            .json(&json!({ "username": format!("user-{flooder}-{guess}"), "password": "guess" }));
        match connection.send(&request).status {
            401 => tried += 1,
            429 | 503 => {}
            other => panic!("{other}"),
        }
    }
    tried
}

const HASH_BYTES: usize = 19 << 20;
