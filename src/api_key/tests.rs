//! Keys against their rules: which texts count, until when, from where.

use std::time::Duration;

use super::*;
use crate::{
    clock::Clock,
    durable::Durable,
    policy::Grants,
    revocation::{Keep, Target},
};

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
        made: None,
    }
}

/// A store, a list and a clock to judge texts with.
struct Bench {
    keys: ApiKeys,
    made: Arc<Store>,
    revocations: Revocations,
}

impl Bench {
    fn new() -> Self {
        Self { keys: ApiKeys::new(), made: Arc::new(Store::in_memory()), revocations: Revocations::new() }
    }

    fn known(&self) -> Known<'_> {
        Known { fixed: &self.keys, made: &self.made }
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
        let key = verify(text.as_bytes(), self.known(), &self.revocations, address, now)?;
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
    assert_eq!(bench.known().fixed_of("staff", "robot").collect::<Vec<_>>(), [id]);
    assert_eq!(bench.known().fixed_of("other", "robot").count(), 0);

    bench.revocations.strike(Target::ApiKey { id: id.as_str().into() }, NOW, Keep::Forever, 10).unwrap();

    assert_eq!(bench.ask(text.expose(), "10.0.0.1", NOW), Err(Void::Revoked));
}

fn making(subject: &str) -> Making {
    Making {
        name: "ci".into(),
        realm: "staff".into(),
        subject: subject.into(),
        roles: vec![],
        groups: vec![],
        scopes: vec![],
        expires: None,
        sources: vec![],
        made: Made { by: "root".into(), at: NOW, note: "".into() },
    }
}

fn makers() -> Vec<Maker> {
    vec![Maker { name: "root".into(), realm: "staff".into(), grants: Grants::All }]
}

/// Whoever logs somebody out everywhere must not miss a key that is on its way to the disk at that moment.
#[tokio::test]
async fn a_key_that_is_being_made_is_struck_with_its_subject() {
    let folder = tempfile::tempdir().unwrap();
    let settings = crate::durable::Settings {
        dir: folder.path().join("state"),
        key_file: None,
        timeout: crate::durable::Settings::TIMEOUT,
    };
    let open = || Durable::open(&settings, &Clock::manual(NOW), |_| ()).unwrap();
    {
        let store = Arc::new(Store::open(Some(open())).unwrap());
        store.follow(makers());
        let (fixed, limit) = (ApiKeys::new(), 10);

        let mut struck = std::pin::pin!(store.make(making("robot"), &fixed, limit, NOW));
        let mut other = std::pin::pin!(store.make(making("other"), &fixed, limit, NOW));
        // Each is handed to the disk, and neither is waited for.
        let begun = std::future::poll_fn(|cx| {
            let begun = [struck.as_mut().poll(cx).is_pending(), other.as_mut().poll(cx).is_pending()];
            std::task::Poll::Ready(begun)
        });
        assert_eq!(begun.await, [true; 2], "the disk takes longer");
        let (count, commits) = store.revoke_subject("staff", "robot");
        assert_eq!((count, commits.len()), (1, 1));

        assert_eq!(struck.await.unwrap_err(), MakeError::Revoked);
        let (text, _) = other.await.unwrap();
        for commit in commits {
            commit.await.unwrap();
        }
        assert_eq!(store.all().iter().map(|key| key.identity().subject().to_owned()).collect::<Vec<_>>(), ["other"]);
        let known = Known { fixed: &fixed, made: &store };
        let address = "192.0.2.1".parse().unwrap();
        assert!(verify(text.expose().as_bytes(), known, &Revocations::new(), address, NOW).is_ok());
    }
    let again = Store::open(Some(open())).unwrap();
    assert_eq!(again.len(), 1);
}

#[tokio::test]
async fn a_key_without_a_maker_does_not_count() {
    let store = Arc::new(Store::in_memory());
    let fixed = ApiKeys::new();
    let known = Known { fixed: &fixed, made: &store };
    let (text, _) = store.make(making("robot"), &fixed, 1, NOW).await.unwrap();
    let ask = || {
        let address = "192.0.2.1".parse().unwrap();
        verify(text.expose().as_bytes(), known, &Revocations::new(), address, NOW).map(drop)
    };
    assert_eq!(ask(), Err(Void::Orphan));
    store.follow(makers());
    assert_eq!(ask(), Ok(()));
    store.follow(vec![Maker { realm: "other".into(), ..makers().remove(0) }]);
    assert_eq!(ask(), Err(Void::Orphan));
    assert_eq!(store.make(making("robot"), &fixed, 1, NOW).await.unwrap_err(), MakeError::Full);
}
