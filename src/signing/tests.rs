//! Keys over time and over restarts, and what their tokens are worth where tokens are judged.

use std::{path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    rotation::{KEEP, LEAD, TERM},
    *,
};
use crate::{
    authn::{
        jwks::KeySlot,
        jwt::{self, Audience, ClaimMapping, Issuer, JwtError},
        keys::{self, Generation, KeySet},
    },
    clock::Clock,
    durable,
    policy::Grants,
};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn in_memory() -> Signing {
    run(Signing::open(None, NOW)).unwrap()
}

fn disk(folder: &Path) -> Durable {
    let settings = durable::Settings { dir: folder.to_owned(), key_file: None, timeout: durable::Settings::TIMEOUT };
    Durable::open(&settings, &Clock::manual(NOW), |_| ()).unwrap()
}

fn kids(keys: &Keys) -> Vec<String> {
    let set: Value = serde_json::from_slice(&keys.jwks()).unwrap();
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// An issuer that believes these keys.
fn believer(keys: &Keys) -> Issuer {
    let algorithms = [keys::Algorithm::ES256, keys::Algorithm::EdDSA];
    Issuer {
        name: Arc::from("us"),
        realm: Arc::from("staff"),
        issuer: "https://us.example".into(),
        audience: Audience::Any,
        keys: KeySlot::fixed(KeySet::from_jwk_set(&keys.jwks(), &algorithms).unwrap()),
        claims: ClaimMapping::default(),
        grants: Grants::All,
        leeway: Duration::ZERO,
        introspection: None,
        max_token_life: Duration::from_secs(300),
        required_claims: [].into(),
        access_tokens_only: false,
        id_tokens: false,
        trust_email: false,
        own: None,
        proof: crate::policy::ProofRule::None,
        generation: Generation::fresh(),
    }
}

fn token(keys: &Keys, algorithm: Algorithm) -> Box<str> {
    let (iat, exp) = (NOW.unix_seconds(), NOW.unix_seconds() + 60);
    keys.sign(algorithm, &json!({ "iss": "https://us.example", "sub": "alice", "iat": iat, "exp": exp })).unwrap()
}

fn judge(token: &str, keys: &Keys) -> Result<(), JwtError> {
    jwt::verify(token.as_bytes(), &[believer(keys)], &[0], NOW).map(drop)
}

#[test]
fn what_is_signed_is_verified_by_what_is_published() {
    let signing = in_memory();
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let token = token(&signing.access, algorithm);

        assert_eq!(judge(&token, &signing.access), Ok(()));
        let (input, signature) = token.rsplit_once('.').unwrap();
        let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        signature[7] ^= 1;
        let forged = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert!(matches!(judge(&forged, &signing.access), Err(JwtError::WrongSignature(_))));
        // Of other keys.
        assert!(matches!(judge(&token, &in_memory().access), Err(JwtError::KeyUnknown(0))));
    }
}

#[test]
fn no_key_signs_for_two_purposes() {
    let signing = in_memory();

    let access = kids(&signing.access);
    assert_eq!((access.len(), kids(&signing.assertion).len()), (2, 1));
    assert!(kids(&signing.assertion).iter().all(|kid| !access.contains(kid)));
    assert_eq!(signing.assertion.sign(Algorithm::EdDsa, &json!({})), Err(CannotSign));
}

#[test]
fn an_assertion_is_no_bearer_even_where_its_keys_are_believed() {
    let signing = in_memory();

    assert_eq!(judge(&token(&signing.assertion, Algorithm::Es256), &signing.assertion), Err(JwtError::Type));
    assert_eq!(judge(&token(&signing.access, Algorithm::Es256), &signing.access), Ok(()));
}

#[test]
fn the_key_set_says_what_each_key_is_for_and_nothing_secret() {
    let signing = in_memory();
    for keys in [&signing.access, &signing.assertion] {
        let set: Value = serde_json::from_slice(&keys.jwks()).unwrap();
        for key in set["keys"].as_array().unwrap() {
            assert_eq!(key["use"], "sig");
            let members: Vec<&str> = key.as_object().unwrap().keys().map(String::as_str).collect();
            let expected: &[&str] = match key["alg"].as_str() {
                Some("ES256") => &["alg", "crv", "kid", "kty", "use", "x", "y"],
                Some("EdDSA") => &["alg", "crv", "kid", "kty", "use", "x"],
                other => panic!("{other:?}"),
            };
            assert_eq!(members, expected);
        }
    }
}

#[test]
fn keys_outlive_a_restart_wherever_they_are_on_their_way() {
    let folder = tempfile::tempdir().unwrap();
    let made = NOW.plus(TERM - LEAD);
    let open = |now| run(Signing::open(Some(disk(folder.path())), now)).unwrap();

    let signing = open(NOW);
    let (first, access) = (kids(&signing.assertion), kids(&signing.access));
    drop(signing);
    let signing = open(NOW);
    assert_eq!((kids(&signing.assertion), signing.assertion.rotations()), (first.clone(), 0));
    let mut again = kids(&signing.access);
    again.sort();
    let mut access = access;
    access.sort();
    assert_eq!(again, access);

    run(signing.rotate(made));
    let two = kids(&signing.assertion);
    assert_eq!((two.len(), signing.assertion.kid(Algorithm::Es256).as_deref()), (2, Some(first[0].as_str())));
    drop(signing);
    let signing = open(made.plus(LEAD));
    let second = signing.assertion.kid(Algorithm::Es256).unwrap().into_string();
    assert!(two.contains(&second) && second != first[0]);
    assert_eq!(kids(&signing.assertion).len(), 2, "what the first has signed still counts");
    drop(signing);
    let signing = open(made.plus(LEAD).plus(KEEP));
    assert_eq!(kids(&signing.assertion), [second]);
}

#[test]
fn a_key_that_cannot_be_written_down_is_seen_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let durable = disk(folder.path());
    let signing = run(Signing::open(Some(durable.clone()), NOW)).unwrap();
    let (before, version) = (signing.assertion.jwks(), signing.assertion.version());
    assert!(durable.close(Duration::from_secs(5)));

    run(signing.rotate(NOW.plus(TERM)));

    assert_eq!((signing.assertion.jwks(), signing.assertion.version()), (before, version));
    assert!(judge(&token(&signing.access, Algorithm::EdDsa), &signing.access).is_ok(), "and signing goes on");
}

#[test]
fn without_keys_on_a_disk_that_works_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let durable = disk(folder.path());
    assert!(durable.close(Duration::from_secs(5)));

    assert!(run(Signing::open(Some(durable), NOW)).is_err());
    assert!(run(Signing::open(Some(disk(folder.path())), NOW)).is_ok());
}

#[test]
fn a_key_that_was_put_where_another_belongs_lets_nothing_start() {
    for (place, starts) in [(b"assertion\0".as_slice(), false), (b"elsewhere\0", true)] {
        let folder = tempfile::tempdir().unwrap();
        let durable = disk(folder.path());
        let mut record = Vec::new();
        run(Signing::open(Some(durable.clone()), NOW)).unwrap();
        durable
            .load(Table::Signing, |key, value| {
                if key.starts_with(b"access\0") {
                    record = value.to_vec();
                }
                Ok(())
            })
            .unwrap();

        run(durable.commit(Batch::new().put(Table::Signing, &[place, b"a-name"].concat(), record))).unwrap();

        assert_eq!(run(Signing::open(Some(durable), NOW)).is_ok(), starts);
    }
}

#[test]
fn private_keys_are_neither_on_the_disk_nor_in_debug_output() {
    let folder = tempfile::tempdir().unwrap();
    let signing = run(Signing::open(Some(disk(folder.path())), NOW)).unwrap();
    let set = signing.assertion.current.load();
    let pkcs8 = set.held[0].key.to_pkcs8().unwrap();
    // P-256: SEQUENCE, version, algorithm, then the private key behind its own head (RFC 5915).
    let (head, private) = pkcs8.as_ref()[..68].split_at(36);
    assert_eq!(head[34..], [4, 32]);

    let bytes = std::fs::read(folder.path().join("state.redb")).unwrap();
    for text in [&private[..16], URL_SAFE_NO_PAD.encode(private).as_bytes(), b"pkcs8"] {
        assert!(!bytes.windows(text.len()).any(|window| window == text));
    }
    assert!(!format!("{signing:?}").contains("pair"));
}
