//! What a bearer token costs: first seen, known, and known to be bad; beside it the signature alone, so that the
//! difference is our own work. Budget: a first-seen token costs its signature and at most 3 µs.
//!
//! `cargo bench --bench jwt`. Keys are made at start; every token has a reference identity of about 600 bytes.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a benchmark that cannot set itself up has nothing to measure")]

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
use jsonwebtoken::DecodingKey;
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

/// One algorithm with a token, and the ways to check it.
struct Case {
    issuer: Issuer,
    token: String,
    library: DecodingKey,
    prepared: Option<ParsedPublicKey>,
}

const CASES: [Algorithm; 4] = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

impl Case {
    fn new(algorithm: Algorithm) -> Self {
        let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"qY3xNvlV5hAaWFJk1nXS0kbvUpaO"}}"#);
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(PAYLOAD));
        let random = SystemRandom::new();
        let pem = |spki: &[u8]| {
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(spki));
            KeySet::from_pem(pem.as_bytes(), &[algorithm]).unwrap()
        };
        let (signature, keys, library, prepared) = match algorithm {
            Algorithm::RS256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let mut signature = vec![0; 256];
                pair.sign(&RSA_PKCS1_SHA256, &random, input.as_bytes(), &mut signature).unwrap();
                let public = pair.public_key().as_ref();
                let prepared = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).unwrap();
                let keys = pem(pair.public_key().as_der().unwrap().as_ref());
                (signature, keys, DecodingKey::from_rsa_der(public), Some(prepared))
            }
            Algorithm::ES256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
                let signature = pair.sign(&random, input.as_bytes()).unwrap().as_ref().to_vec();
                let public = pair.public_key().as_ref();
                let prepared = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public).unwrap();
                let keys = pem(pair.public_key().as_der().unwrap().as_ref());
                (signature, keys, DecodingKey::from_ec_der(public), Some(prepared))
            }
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::generate().unwrap();
                let signature = pair.sign(input.as_bytes()).as_ref().to_vec();
                let public = pair.public_key().as_ref();
                let prepared = ParsedPublicKey::new(&ED25519, public).unwrap();
                let keys = pem(pair.public_key().as_der().unwrap().as_ref());
                (signature, keys, DecodingKey::from_ed_der(public), Some(prepared))
            }
            _ => {
                let secret = [7; 32];
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), input.as_bytes());
                let keys = KeySet::from_secret(&secret, &[algorithm]).unwrap();
                (tag.as_ref().to_vec(), keys, DecodingKey::from_secret(&secret), None)
            }
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
        Self { issuer, token: format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)), library, prepared }
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

/// `jwt::verify` of a token that was never seen.
#[divan::bench(args = CASES)]
fn first_seen(bencher: Bencher<'_, '_>, algorithm: &Algorithm) {
    let case = Case::new(*algorithm);
    let issuers = [case.issuer];
    bencher.bench(|| verify(black_box(case.token.as_bytes()), &issuers, &[0], NOW).unwrap());
}

/// The same through the cache, insertion included.
#[divan::bench(args = CASES)]
fn first_seen_and_remembered(bencher: Bencher<'_, '_>, algorithm: &Algorithm) {
    let case = Case::new(*algorithm);
    let (issuers, rule) = ([case.issuer], rule());
    let cache = || TokenCache::new(CacheLimits { wrong_signatures: 1, ..CacheLimits::default() });
    bencher.with_inputs(cache).bench_refs(|cache| {
        let answer = judged(black_box(case.token.as_bytes()), &issuers, &rule, cache);
        assert!(matches!(answer, Answer::Valid(_)));
    });
}

/// The signature alone, as jsonwebtoken checks it; its base64url is part of it.
#[divan::bench(args = CASES)]
fn signature_alone(bencher: Bencher<'_, '_>, algorithm: &Algorithm) {
    let case = Case::new(*algorithm);
    let (input, signature) = case.token.rsplit_once('.').unwrap();
    let name = algorithm.name().parse().unwrap();
    bencher.bench(|| {
        assert!(jsonwebtoken::crypto::verify(black_box(signature), input.as_bytes(), &case.library, name).unwrap())
    });
}

/// The signature alone with a key that aws-lc has parsed beforehand.
#[divan::bench(args = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA])]
fn signature_alone_prepared(bencher: Bencher<'_, '_>, algorithm: &Algorithm) {
    let case = Case::new(*algorithm);
    let (input, signature) = case.token.rsplit_once('.').unwrap();
    let (signature, key) = (URL_SAFE_NO_PAD.decode(signature).unwrap(), case.prepared.unwrap());
    bencher.bench(|| key.verify_sig(black_box(input.as_bytes()), &signature).unwrap());
}

/// A token among this many known ones.
#[divan::bench(args = [1, 1_000, 20_000])]
fn known(bencher: Bencher<'_, '_>, others: usize) {
    let case = Case::new(Algorithm::HS256);
    let (issuers, rule) = ([case.issuer], rule());
    let cache = TokenCache::new(CacheLimits::default());
    let Answer::Valid(verified) = judged(case.token.as_bytes(), &issuers, &rule, &cache) else {
        panic!("refused");
    };
    for i in 1..others {
        let other = format!("{}{i}", case.token);
        cache.insert(&cache.key(other.as_bytes()), Arc::clone(&verified), NOW);
    }
    bencher.bench(|| {
        let answer = judged(black_box(case.token.as_bytes()), &issuers, &rule, &cache);
        assert!(matches!(answer, Answer::Valid(_)));
    });
}

/// A token whose signature was found wrong before.
#[divan::bench]
fn known_to_be_bad(bencher: Bencher<'_, '_>) {
    let (case, stranger) = (Case::new(Algorithm::ES256), Case::new(Algorithm::ES256));
    let (issuers, rule, cache) = ([case.issuer], rule(), TokenCache::new(CacheLimits::default()));
    bencher.bench(|| {
        let answer = judged(black_box(stranger.token.as_bytes()), &issuers, &rule, &cache);
        assert!(matches!(answer, Answer::Invalid(_)));
    });
}
