//! Keys against their rules: which texts count, until when, from where.

use std::time::Duration;

use super::*;
use crate::revocation::{Keep, Target};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

fn description(text: &Secret<String>) -> Description {
    let parsed = KeyText::parse(text.expose().as_bytes()).unwrap();
    Description {
        id: parsed.id(),
        sha256: parsed.digest(),
        name: "ci".into(),
        realm: "staff".into(),
        subject: "robot".into(),
        roles: vec!["deployer".into()],
        groups: vec![],
        scopes: vec![],
        expires: None,
        sources: vec![],
    }
}

/// A store, a list and a clock to judge texts with.
struct Bench {
    keys: ApiKeys,
    revocations: Revocations,
}

impl Bench {
    fn new() -> Self {
        Self { keys: ApiKeys::new(), revocations: Revocations::new() }
    }

    fn add(&mut self, change: impl FnOnce(&mut Description)) -> Secret<String> {
        let text = KeyText::generate();
        let mut described = description(&text);
        change(&mut described);
        self.keys.insert(described.id, Arc::new(ApiKey::new(described).unwrap()));
        text
    }

    fn ask(&self, text: &str, address: &str, now: Timestamp) -> Result<String, Void> {
        let address = address.parse().unwrap();
        let key = verify(text.as_bytes(), &self.keys, &self.revocations, address, now)?;
        Ok(key.identity().subject().to_owned())
    }
}

#[test]
fn a_key_counts_with_its_whole_text_only() {
    let mut bench = Bench::new();
    let (one, other) = (bench.add(|_| ()), bench.add(|_| ()));
    let (one, other) = (one.expose().as_str(), other.expose().as_str());
    let ask = |text: &str| bench.ask(text, "192.0.2.1", NOW);

    assert_eq!(ask(one), Ok("robot".into()));
    // The id of one with the secret of the other: right in form, but for its check part.
    let mixed = format!("{}{}", &one[..20], &other[20..]);
    assert_eq!(ask(&mixed), Err(Void::Malformed));
    let mistyped = format!("{}{}", &one[..79], if one.ends_with('a') { "b" } else { "a" });
    assert_eq!(ask(&mistyped), Err(Void::Malformed), "the check part is part of the secret");
    assert_eq!(ask(KeyText::generate().expose()), Err(Void::Unknown));
    assert_eq!(ask(""), Err(Void::Malformed));
}

#[test]
fn a_key_ends_and_counts_from_its_networks_only() {
    let mut bench = Bench::new();
    let text = bench.add(|key| {
        key.expires = Some(NOW.plus(Duration::from_secs(60)));
        key.sources = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    });
    let later = |seconds| NOW.plus(Duration::from_secs(seconds));
    for (address, now, expected) in [
        ("10.1.2.3", NOW, Ok("robot".to_owned())),
        ("2001:db8::7", later(59), Ok("robot".to_owned())),
        ("192.0.2.1", NOW, Err(Void::Address)),
        ("10.1.2.3", later(60), Err(Void::Expired)),
    ] {
        assert_eq!(bench.ask(text.expose(), address, now), expected, "{address}");
    }
}

#[test]
fn a_use_is_noted_to_the_second() {
    let mut bench = Bench::new();
    let text = bench.add(|_| ());
    let key = Arc::clone(bench.keys.values().next().unwrap());
    assert_eq!(key.last_used(), None);

    bench.ask(text.expose(), "10.0.0.1", NOW).unwrap();
    bench.ask(text.expose(), "10.0.0.1", NOW.plus(Duration::from_millis(900))).unwrap();

    assert_eq!(key.last_used(), Some(NOW));
}

#[test]
fn a_key_is_struck_by_its_id() {
    let mut bench = Bench::new();
    let text = bench.add(|_| ());
    let id = *bench.keys.keys().next().unwrap();
    assert_eq!(bench.ask(text.expose(), "10.0.0.1", NOW), Ok("robot".into()));
    assert_eq!(ids_of(&bench.keys, "staff", "robot").collect::<Vec<_>>(), [id]);
    assert_eq!(ids_of(&bench.keys, "other", "robot").count(), 0);

    bench.revocations.strike(Target::ApiKey { id: id.as_str().into() }, NOW, Keep::Forever, 10).unwrap();

    assert_eq!(bench.ask(text.expose(), "10.0.0.1", NOW), Err(Void::Revoked));
}
