//! DPoP without a gateway: the examples of the RFCs, and what holds whatever is sent.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Request;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::{keys::SenderKey, signer::Signer},
    *,
};
use crate::{
    client::Scheme,
    identity::{Factor, IdentityParts, Via},
    secret,
};

/// RFC 9449 section 7.1.
const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
const PROOF: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjN\
    oUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsI\
    mNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcG\
    xlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlp\
    S0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
const ISSUED: u64 = 1_562_262_618;
/// RFC 9449 section 6.1.
const JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

fn thumbprint(text: &str) -> Thumbprint {
    URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
}

fn settings(nonce: NonceRule) -> Settings {
    Settings::new(nonce, &[Algorithm::ES256, Algorithm::RS256], 1000)
}

fn alice() -> Identity {
    let parts = IdentityParts {
        realm: Arc::from("staff"),
        subject: "alice".into(),
        name: None,
        email: None,
        email_verified: false,
        roles: vec![],
        groups: vec![],
        scopes: vec![],
        claims: serde_json::Map::new(),
        auth_time: None,
        factor: Factor::One,
        via: Via::Jwt(Arc::from("id")),
    };
    Identity::new(parts).unwrap()
}

/// What becomes of one proof at `now`, for the request of the example.
fn check(proof: &str, jkt: &str, nonce: NonceRule, started: Timestamp, now: Timestamp) -> Result<(), Unproven> {
    check_by(&Proofs::new(started, 1000), proof, jkt, nonce, now)
}

fn check_by(proofs: &Proofs, proof: &str, jkt: &str, nonce: NonceRule, now: Timestamp) -> Result<(), Unproven> {
    let request = Request::builder().uri("https://resource.example.org/protectedresource").header("dpop", proof);
    let (head, ()) = request.body(()).unwrap().into_parts();
    let view = ClientView {
        address: [192, 0, 2, 1].into(),
        scheme: Scheme::Https,
        authority: "resource.example.org".parse().unwrap(),
        through_trusted_proxy: false,
        chain: None,
    };
    let path = CanonicalPath::of(&head.uri, Quirks::default()).unwrap();
    let settings = settings(nonce);
    let offer =
        Offer { head: &head, view: &view, path: &path, tolerated: Quirks::default(), settings: &settings, proofs };
    offer.check(Token { text: TOKEN.as_bytes(), key: &thumbprint(jkt), identity: &alice() }, now, || None)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

#[test]
fn the_proof_of_rfc_9449_is_good() {
    let long_ago = at(0);

    assert_eq!(check(PROOF, JKT, NonceRule::Optional, long_ago, at(ISSUED)), Ok(()));
    let other = JKT.replace('0', "1");
    assert_eq!(
        check(PROOF, &other, NonceRule::Optional, long_ago, at(ISSUED)),
        Err(Unproven::Proof(ProofError::OtherKey))
    );
    let (signed, signature) = PROOF.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", signature.replace("2oW9", "2oW8"));
    assert_eq!(
        check(&forged, JKT, NonceRule::Optional, long_ago, at(ISSUED)),
        Err(Unproven::Proof(ProofError::Signature))
    );
}

#[test]
fn a_proof_is_good_for_a_minute_before_and_behind() {
    let check = |now: Timestamp| check(PROOF, JKT, NonceRule::Optional, at(0), now);
    let edge = Duration::from_secs(60);
    let moment = Duration::from_millis(1);

    assert_eq!(check(at(ISSUED).plus(edge)), Ok(()));
    assert_eq!(check(at(ISSUED).plus(edge + moment)), Err(Unproven::Proof(ProofError::TooOld)));
    assert_eq!(check(at(ISSUED).minus(edge)), Ok(()));
    assert_eq!(check(at(ISSUED).minus(edge + moment)), Err(Unproven::Proof(ProofError::IssuedAhead)));
}

#[test]
fn what_may_have_been_used_before_the_start_does_not_count() {
    let check = |nonce, started| check(PROOF, JKT, nonce, started, at(ISSUED));
    let before_start = Err(Unproven::Proof(ProofError::BeforeStart));

    assert_eq!(check(NonceRule::Optional, at(ISSUED - 60)), Ok(()));
    assert_eq!(check(NonceRule::Optional, at(ISSUED - 59)), Err(Unproven::Nonce));
    assert_eq!(check(NonceRule::Off, at(ISSUED)), Ok(()));
    assert_eq!(check(NonceRule::Off, at(ISSUED + 1)), before_start);
    assert_eq!(check(NonceRule::Required, at(0)), Err(Unproven::Nonce));
}

/// A proof that one process has judged counts in no other.
#[test]
fn what_another_process_may_have_judged_does_not_count() {
    let proofs = Proofs::new(at(0), 1000);
    let check = |nonce| check_by(&proofs, PROOF, JKT, nonce, at(ISSUED));

    proofs.close();
    assert_eq!(check(NonceRule::Optional), Err(Unproven::Full));
    proofs.open();
    for rule in [NonceRule::Optional, NonceRule::Off] {
        proofs.begin_again(at(ISSUED + 1));
        assert!(check(rule).is_err_and(|refused| refused != Unproven::Full));
    }
    proofs.begin_again(at(ISSUED));
    assert_eq!(check(NonceRule::Off), Ok(()));
}

/// RFC 7638 section 3.1, and RFC 8037 appendix A.3 for Ed25519.
#[test]
fn a_key_has_the_thumbprint_of_the_rfcs() {
    let rsa = json!({
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3\
              oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA\
              ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-\
              kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    });
    let ed25519 = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    for (jwk, algorithm, expect) in [
        (rsa, Algorithm::RS256, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
        (ed25519, Algorithm::EdDSA, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
    ] {
        let key = SenderKey::read(&jwk, algorithm).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(*key.thumbprint(), thumbprint(expect), "{algorithm}");
    }
}

/// RFC 9449 section 4.3, step 9.
#[test]
fn a_place_is_the_same_however_it_is_spelled() {
    let signer = Signer::new(Algorithm::ES256);
    let jkt = SenderKey::read(&signer.jwk(), Algorithm::ES256).unwrap_or_else(|error| panic!("{error}"));
    let jkt = URL_SAFE_NO_PAD.encode(jkt.thumbprint());
    let payload = PROOF.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let check = |htu: &str| {
        let mut claims = claims.clone();
        claims["htu"] = json!(htu);
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": signer.jwk() });
        let proof = signer.token(&header.to_string(), &claims.to_string());
        check(&proof, &jkt, NonceRule::Optional, at(0), at(ISSUED))
    };

    for same in [
        "https://resource.example.org/protectedresource",
        "https://resource.example.org:443/protectedresource",
        "HTTPS://Resource.EXAMPLE.org/protectedresource",
        "https://resource.example.org./protectedresource",
        "https://resource.example.org/%70rotected%72esource",
        "https://resource.example.org/protectedresource?a=b",
        "https://resource.example.org/protectedresource#c",
    ] {
        assert_eq!(check(same), Ok(()), "{same}");
    }
    for other in [
        "",
        "/protectedresource",
        "resource.example.org/protectedresource",
        "https:resource.example.org/protectedresource",
        "https:///protectedresource",
        "http://resource.example.org/protectedresource",
        "http://resource.example.org:443/protectedresource",
        "wss://resource.example.org/protectedresource",
        "https://resource.example.org:8443/protectedresource",
        "https://resource.example.org:/protectedresource",
        "https://example.org/protectedresource",
        "https://resource.example.org.evil.example/protectedresource",
        "https://resource.example.org@evil.example/protectedresource",
        "https://user@resource.example.org/protectedresource",
        "https://resource.example.org",
        "https://resource.example.org/",
        "https://resource.example.org/protectedresource/",
        "https://resource.example.org/Protectedresource",
        "https://resource.example.org//protectedresource",
        "https://resource.example.org/x/../protectedresource",
        "https://resource.example.org\\protectedresource",
        " https://resource.example.org/protectedresource",
        "https://resource.example.org/protectedresource ",
        "https://resource.example.org/protectedresource%00",
        "https://resource.example.org/protectedresource%2f",
    ] {
        assert_eq!(check(other), Err(Unproven::Proof(ProofError::Target)), "{other}");
    }
}

#[test]
fn keys_that_must_not_come_along_are_refused() {
    let signer = Signer::new(Algorithm::RS256);
    let with = |name: &str, value: Value| {
        let mut jwk = signer.jwk();
        jwk[name] = value;
        jwk
    };
    let read = |jwk: &Value, algorithm| SenderKey::read(jwk, algorithm).is_ok();

    assert!(read(&signer.jwk(), Algorithm::RS256) && read(&signer.jwk(), Algorithm::PS256));
    assert!(read(&with("alg", json!("RS256")), Algorithm::RS256));
    let shared = Signer::new(Algorithm::HS256).jwk();
    let long = |bytes: usize| {
        json!(URL_SAFE_NO_PAD.encode([vec![0xff], secret::random::<1024>()[..bytes - 1].to_vec()].concat()))
    };
    for (name, jwk) in [
        ("private", with("d", json!("AQAB"))),
        ("private, a prime", with("p", json!("AQAB"))),
        ("private, another prime", with("oth", json!([]))),
        ("a secret beside", with("k", json!("AQAB"))),
        ("a secret", shared),
        ("1024 bits", with("n", long(128))),
        ("7 bits", with("n", json!("fw"))),
        ("8192 bits", with("n", long(1024))),
        ("a long exponent", with("e", json!("AQAAAAE"))),
        ("an even exponent", with("e", json!("AQAA"))),
        ("for encryption", with("use", json!("enc"))),
        ("not for verifying", with("key_ops", json!(["encrypt"]))),
        ("for another algorithm", with("alg", json!("RS384"))),
        ("of another kind", Signer::new(Algorithm::ES256).jwk()),
        ("no key", json!({})),
        ("an array", json!([signer.jwk()])),
        ("a string", json!("key")),
        ("null", json!(null)),
    ] {
        assert!(!read(&jwk, Algorithm::RS256), "{name}");
    }
    assert!(read(&with("n", long(512)), Algorithm::RS256), "4096 bits");
}

proptest! {
    #[test]
    fn no_byte_of_a_proof_can_be_changed(place in any::<prop::sample::Index>(), byte in 0x21_u8..0x7f) {
        let mut changed = PROOF.as_bytes().to_vec();
        changed[place.index(PROOF.len())] = byte;
        let changed = String::from_utf8(changed).unwrap();
        let verdict = check(&changed, JKT, NonceRule::Optional, at(0), at(ISSUED));
        prop_assert_eq!(verdict.is_ok(), changed == PROOF);
    }

    #[test]
    fn arbitrary_texts_are_refused_without_panic(proof in "[!-~]{0,200}") {
        prop_assert!(check(&proof, JKT, NonceRule::Optional, at(0), at(ISSUED)).is_err());
    }
}
