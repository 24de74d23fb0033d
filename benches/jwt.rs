//! What a bearer token costs: first seen, known, and known to be bad; beside it the signature alone, so that the
//! difference is our own work. Budget: a first-seen token costs its signature and at most 3 µs; among 10,000 known ones
//! in turn, each costs at most 1.08 times what one alone does, the whole request counted.
//!
//! What is compared reads the same tokens in the same order: thousands of them, each with another `jti`. `signature`
//! checks their signatures with aws-lc-rs, with a key that is parsed and a signature that is decoded; `first_seen` asks
//! as a request does, and the cache is full: each new token is inserted and another one pushed out and freed.
//!
//! `cargo bench --bench jwt`. Keys are made at start; every token has a reference identity of about 600 bytes.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot set itself up has nothing to measure")]

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use divan::{Bencher, black_box};
use portcullis::{
    authn::{
        Answer, Judge, authenticate_bearer,
        credential::{Carrier, Unread},
        jwks::KeySlot,
        jwt::{Audience, ClaimMapping, Issuer, VerifiedToken, verify},
        keys::{Algorithm, Generation, KeySet},
        possession::Presented,
        token_cache::{CacheLimits, TokenCache},
        verify_rate::WrongSignatures,
    },
    clock::Timestamp,
    policy::{AccessRule, ClaimPath, Grants, ProofRule},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

const PAYLOAD: &str = r#"{"iss":"https://id.example.com/realms/main","aud":["orders-api","account"],"sub":"f81d4fae-7dec-11d0-a765-00a0c91e6bf6","typ":"Bearer","azp":"shop","sid":"0d5f2b0e-3b1c-4c57-9d3e-2f8c1f6f8a11","iat":1799999990,"exp":1800000600,"auth_time":1799990000,"jti":"7d9f0f5e-1c1f-4b0e-8f43-6a4a7f0f9f10","realm_access":{"roles":["employee-of-sales","warehouse-manager","reporting-reader"]},"scope":"openid profile email orders.read","email_verified":true,"preferred_username":"alice.liddell","email":"alice.liddell@example.com"}"#;

fn main() {
    divan::main();
}

/// One issuer with tokens, and what checks their signatures and nothing else.
struct Case {
    issuers: [Issuer; 1],
    tokens: Vec<String>,
    key: CheckingKey,
}

enum CheckingKey {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

const CASES: [Algorithm; 4] = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

impl Case {
    fn new(algorithm: Algorithm, tokens: usize) -> Self {
        let random = SystemRandom::new();
        let pem = |spki: &[u8]| {
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(spki));
            KeySet::from_pem(pem.as_bytes(), &[algorithm]).unwrap()
        };
        let public = |kind, key: &[u8]| CheckingKey::Public(ParsedPublicKey::new(kind, key).unwrap());
        type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;
        let (sign, keys, key): (Sign, _, _) = match algorithm {
            Algorithm::RS256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let keys = pem(pair.public_key().as_der().unwrap().as_ref());
                let key = public(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
                let sign = move |input: &[u8]| {
                    let mut signature = vec![0; 256];
                    pair.sign(&RSA_PKCS1_SHA256, &random, input, &mut signature).unwrap();
                    signature
                };
                (Box::new(sign), keys, key)
            }
            Algorithm::ES256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
                let keys = pem(pair.public_key().as_der().unwrap().as_ref());
                let key = public(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
                (Box::new(move |input: &[u8]| pair.sign(&random, input).unwrap().as_ref().to_vec()), keys, key)
            }
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::generate().unwrap();
                let keys = pem(pair.public_key().as_der().unwrap().as_ref());
                let key = public(&ED25519, pair.public_key().as_ref());
                (Box::new(move |input: &[u8]| pair.sign(input).as_ref().to_vec()), keys, key)
            }
            _ => {
                let secret = [7; 32];
                let (key, other) =
                    (hmac::Key::new(hmac::HMAC_SHA256, &secret), hmac::Key::new(hmac::HMAC_SHA256, &secret));
                let keys = KeySet::from_secret(&secret, &[algorithm]).unwrap();
                let sign = move |input: &[u8]| hmac::sign(&key, input).as_ref().to_vec();
                (Box::new(sign), keys, CheckingKey::Secret(Box::new(other)))
            }
        };
        let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"qY3xNvlV5hAaWFJk1nXS0kbvUpaO"}}"#);
        let header = URL_SAFE_NO_PAD.encode(header);
        let token = |number: usize| {
            let payload = PAYLOAD.replace(JTI, &format!("{number:012x}"));
            let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
            let signature = URL_SAFE_NO_PAD.encode(sign(input.as_bytes()));
            format!("{input}.{signature}")
        };
        let issuer = Issuer {
            name: Arc::from("keycloak"),
            realm: Arc::from("staff"),
            issuer: "https://id.example.com/realms/main".into(),
            audience: Audience::OneOf(["orders-api".into()].into()),
            keys: KeySlot::fixed(keys),
            claims: ClaimMapping {
                name: ClaimPath::dotted("preferred_username"),
                roles: ClaimPath::dotted("realm_access.roles"),
                ..ClaimMapping::default()
            },
            grants: Grants::All,
            leeway: Duration::from_secs(30),
            introspection: None,
            max_token_life: Duration::from_secs(86_400),
            required_claims: [].into(),
            access_tokens_only: false,
            id_tokens: false,
            trust_email: false,
            own: None,
            proof: ProofRule::None,
            generation: Generation::fresh(),
        };
        Self { issuers: [issuer], tokens: (0..tokens).map(token).collect(), key }
    }

    /// Parts of what `signature` and `first_seen` read: what is signed, and the signature as bytes.
    fn signed(&self) -> Vec<(&str, Vec<u8>)> {
        let signed = self.tokens.iter().map(|token| token.rsplit_once('.').unwrap());
        signed.map(|(input, signature)| (input, URL_SAFE_NO_PAD.decode(signature).unwrap())).collect()
    }
}

/// One use of a token that is bound to nothing.
fn judged(token: &[u8], issuers: &[Issuer], rule: &AccessRule, cache: &TokenCache) -> Answer<Arc<VerifiedToken>> {
    static WRONG: LazyLock<WrongSignatures> = LazyLock::new(WrongSignatures::default);
    let address = IpAddr::from([192, 0, 2, 1]);
    let judge = Judge { issuers, cache, wrong: &WRONG, verify_rate: 20, address, now: NOW, waited: false };
    let token = Unread::new(token, Carrier::Authorization);
    authenticate_bearer(token, &Presented::default(), rule, &judge)
}

fn rule() -> AccessRule {
    AccessRule { session: true, issuers: [0].into(), ..AccessRule::default() }
}

/// `jwt::verify` of a token, without the cache.
#[divan::bench(args = CASES, sample_size = 64)]
fn verified(bencher: Bencher<'_, '_>, algorithm: &Algorithm) {
    let case = Case::new(*algorithm, STREAM);
    let mut tokens = case.tokens.iter().cycle();
    bencher.bench_local(|| verify(tokens.next().unwrap().as_bytes(), &case.issuers, &[0], NOW).unwrap());
}

/// A token that nobody has seen, insertion into a full cache included.
#[divan::bench(args = CASES, sample_size = 64)]
fn first_seen(bencher: Bencher<'_, '_>, algorithm: &Algorithm) {
    // Few enough that none is still known, nor remembered as pushed out, when its turn comes again.
    let limits = CacheLimits { entries: STREAM / 4, ..CacheLimits::default() };
    first_seen_with(bencher, &Case::new(*algorithm, STREAM), limits);
}

/// The same with a cache of the default size: what it touches lies in none of the processor's nearer caches.
#[divan::bench(sample_size = 64)]
fn first_seen_in_the_default_cache(bencher: Bencher<'_, '_>) {
    first_seen_with(bencher, &Case::new(Algorithm::HS256, LONG_STREAM), CacheLimits::default());
}

fn first_seen_with(bencher: Bencher<'_, '_>, case: &Case, limits: CacheLimits) {
    let (rule, cache) = (rule(), TokenCache::new(limits));
    let mut tokens = case.tokens.iter().cycle();
    let mut ask = || {
        let answer = judged(tokens.next().unwrap().as_bytes(), &case.issuers, &rule, &cache);
        assert!(matches!(answer, Answer::Valid(_)));
    };
    for _ in 0..case.tokens.len() {
        ask();
    }
    assert!(cache.statistics().evictions > 0, "it is not full");
    bencher.bench_local(ask);
    assert_eq!(cache.statistics().hits, 0, "one of them was known");
}

/// The signature alone.
#[divan::bench(args = CASES, sample_size = 64)]
fn signature(bencher: Bencher<'_, '_>, algorithm: &Algorithm) {
    signature_of(bencher, &Case::new(*algorithm, STREAM));
}

/// Beside [`first_seen_in_the_default_cache`].
#[divan::bench(sample_size = 64)]
fn signature_in_a_long_stream(bencher: Bencher<'_, '_>) {
    signature_of(bencher, &Case::new(Algorithm::HS256, LONG_STREAM));
}

fn signature_of(bencher: Bencher<'_, '_>, case: &Case) {
    let signed = case.signed();
    let mut signed = signed.iter().cycle();
    bencher.bench_local(|| {
        let (input, signature) = signed.next().unwrap();
        match black_box(&case.key) {
            CheckingKey::Public(key) => key.verify_sig(input.as_bytes(), signature).unwrap(),
            CheckingKey::Secret(key) => hmac::verify(key, input.as_bytes(), signature).unwrap(),
        }
    });
}

/// So many known tokens in turn.
#[divan::bench(args = [1, 100, 1_000, 10_000], sample_size = 1_000)]
fn known(bencher: Bencher<'_, '_>, tokens: usize) {
    let (case, rule) = (Case::new(Algorithm::HS256, tokens), rule());
    // With room for all of them in every shard, whichever they fall to.
    let cache = TokenCache::new(CacheLimits { bytes: 256 << 20, ..CacheLimits::default() });
    let mut tokens = case.tokens.iter().cycle();
    let mut ask = || {
        let answer = judged(black_box(tokens.next().unwrap().as_bytes()), &case.issuers, &rule, &cache);
        assert!(matches!(answer, Answer::Valid(_)));
    };
    for _ in 0..2 * case.tokens.len() {
        ask();
    }
    bencher.bench_local(ask);
    assert_eq!(cache.statistics().misses, case.tokens.len() as u64, "one of them was forgotten");
}

/// A token whose signature was found wrong before.
#[divan::bench]
fn known_to_be_bad(bencher: Bencher<'_, '_>) {
    let (case, stranger) = (Case::new(Algorithm::ES256, 1), Case::new(Algorithm::ES256, 1));
    let (rule, cache) = (rule(), TokenCache::new(CacheLimits::default()));
    bencher.bench(|| {
        let answer = judged(black_box(stranger.tokens[0].as_bytes()), &case.issuers, &rule, &cache);
        assert!(matches!(answer, Answer::Invalid(_)));
    });
}

/// Tokens in a stream of strangers, and in one that fills the default cache and all that it remembers of others.
const STREAM: usize = 2_048;
const LONG_STREAM: usize = 80_000;
/// Part of `jti` in [`PAYLOAD`] that is another in each token.
const JTI: &str = "6a4a7f0f9f10";
