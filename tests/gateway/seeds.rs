//! Replays the seeds of `tests/fuzz`: what the fuzzer starts from and what it ever found, on every test run.

use std::{fs, path::PathBuf};

#[path = "../fuzz/entry.rs"]
mod entry;

/// Every seed of a target, by its name.
#[track_caller]
fn replay(target: &str, entry: fn(&[u8])) -> usize {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fuzz/seeds", target].iter().collect();
    let seeds = fs::read_dir(&folder).expect("the seeds are there");
    let mut count = 0;
    for seed in seeds {
        let path = seed.expect("a seed").path();
        let data = fs::read(&path).expect("a seed can be read");
        // As it is, cut short and with a byte more: what the fuzzer would try first.
        entry(&data);
        for cut in 0..data.len().min(256) {
            entry(&data[..cut]);
        }
        for byte in [0, b'%', b';', 0xff] {
            entry(&[&data[..], &[byte]].concat());
        }
        count += 1;
    }
    count
}

#[test]
fn seeds_keep_the_promises_of_their_readers() {
    for (target, entry, least) in [
        ("path", entry::path as fn(&[u8]), 20),
        ("host", entry::host, 15),
        ("proxy_protocol", entry::proxy_protocol, 8),
        ("dns", entry::dns, 10),
        ("cookie", entry::cookie, 10),
        ("jwt", entry::jwt, 10),
        ("claims", entry::claims, 15),
        ("credential", entry::credential, 15),
        ("jwks", entry::jwks, 12),
        ("introspection", entry::introspection, 15),
        ("dpop", entry::dpop, 15),
        ("client_certificate", entry::client_certificate, 12),
        ("config", entry::config, 8),
        ("forwarded", entry::forwarded, 10),
        ("template", entry::template, 8),
    ] {
        let count = replay(target, entry);
        assert!(count >= least, "{target} has {count} seeds");
    }
}

/// The fuzzer would run for nothing if the good seeds were refused at the door.
#[test]
fn good_seeds_are_good() {
    let read = |name: &str| {
        fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(name))
            .expect("the seed is there")
    };
    let issuers = [entry::issuer()];
    let now = portcullis::clock::Timestamp::from_unix_seconds(entry::JWT_NOW);
    for name in ["jwt/good", "jwt/good-with-everything"] {
        let token = read(name);
        assert!(portcullis::authn::jwt::verify(&token, &issuers, &[0], now).is_ok(), "{name}");
    }
    for name in ["claims/good", "claims/nested", "claims/everything", "claims/beyond-ascii"] {
        let seed = String::from_utf8(read(name)).expect("UTF-8");
        let token = entry::signed(seed.split_once('\n').expect("two lines").1);
        assert!(portcullis::authn::jwt::verify(token.as_bytes(), &issuers, &[0], now).is_ok(), "{name}");
    }
    for name in ["introspection/good", "introspection/good-with-everything"] {
        assert!(entry::introspected(&read(name)), "{name}");
    }
    for name in ["dpop/good", "dpop/good-spelled-differently"] {
        assert!(entry::is_proof(&read(name)), "{name}");
    }
    for name in ["client_certificate/good", "client_certificate/after-2049"] {
        let certificate = read(name);
        let leaf = portcullis::mtls::leaf::Leaf::read(&certificate);
        assert!(leaf.is_some_and(|leaf| leaf.subjects().is_some_and(|names| !names.hosts.is_empty())), "{name}");
    }
    assert!(portcullis::mtls::leaf::next_update(&read("client_certificate/list")).is_some());
    let key_set = read("jwks/good");
    let algorithms = ["ES256", "EdDSA", "RS256"].map(|name| name.parse().expect("an algorithm"));
    assert!(portcullis::authn::keys::KeySet::from_jwk_set(&key_set, &algorithms).is_ok_and(|keys| keys.len() == 3));
    let text = String::from_utf8(read("config/good.toml")).expect("UTF-8");
    if let Err(report) = portcullis::config::load_text("gateway.toml", &text, "/proc/portcullis-fuzz".as_ref(), []) {
        panic!("{report}");
    }
}
