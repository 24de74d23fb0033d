//! What is fuzzed: each function feeds any bytes to one reader and checks what must hold of whatever it makes of them.
//!
//! Shared by the targets of cargo-fuzz and by `tests/gateway/seeds.rs`, which replays the seeds on every test run.
//! A broken promise is a panic.
#![allow(dead_code, reason = "each fuzz target is a program of its own that needs one of these")]

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, COOKIE},
};
use portcullis::{
    authn::{
        Answer, Judge, authenticate_bearer,
        credential::{self, Carrier, Credential, TokenPlaces, Unread},
        dpop,
        introspection::{self, Active, ClientAuth, Credentials, Endpoint, Said},
        jwks::KeySlot,
        jwt::{self, Audience, ClaimMapping, Issuer, RequiredClaim, VerifiedToken},
        keys::{Algorithm, Generation, KeySet},
        possession::Presented,
        token_cache::{CacheLimits, TokenCache},
        verify_rate::WrongSignatures,
    },
    client::{ClientView, Connection, Cutter, PeerAddr, Scheme},
    clock::Timestamp,
    config, fetch,
    headers::{self, ForwardedFamily, Profile, forwarded::client_view},
    hints::OfConnection,
    host::{Authority, Host},
    login::return_to::ReturnTo,
    mtls::leaf::{self, Leaf},
    page::{Parsed, Template},
    policy::{AccessRule, ClaimPath, Grants, ProofRule, Requirements},
    route::path::{CanonicalPath, PathPattern, Quirks},
    secret::Secret,
    session::SessionToken,
};
use serde_json::Value;

/// R15: a header of the PROXY protocol is bounded, whatever it says, and has one meaning however it comes in pieces.
pub(crate) fn proxy_protocol(data: &[u8]) {
    use portcullis::edge::proxy_protocol::{Step, parse};
    if data.len() < 12 {
        return;
    }
    match parse(data) {
        Ok(Step::Exactly(count)) => {
            assert!(count > 0 && data.len() + count <= 16 + 4096, "what is asked for is bounded")
        }
        Ok(Step::Line) => assert!(data.len() < 107, "a line is bounded"),
        Ok(Step::Done(_)) => {
            for length in 12..data.len() {
                assert!(!matches!(parse(&data[..length]), Ok(Step::Done(_)) | Err(_)), "no part of a header is one");
            }
        }
        Err(_) => {}
    }
}

/// An answer of a name server counts for the question only, in bounds; what is added behind a good one changes nothing.
pub(crate) fn dns(data: &[u8]) {
    use portcullis::dns::message::{Family, MAX_ADDRESSES, Question, Reply};
    for family in [Family::V4, Family::V6] {
        let question = Question::new("app.example", family, 0).unwrap_or_else(|| panic!("a question"));
        let read = question.read(data);
        match &read {
            Ok(Reply::Addresses(addresses, good_for)) => {
                assert!((1..=MAX_ADDRESSES).contains(&addresses.len()));
                assert!(addresses.iter().all(|address| address.is_ipv4() == (family == Family::V4)));
                assert!(good_for.as_secs() <= 0x7fff_ffff);
                assert_eq!(question.read(&[data, &[0]].concat()), read);
                let other = Question::new("app.example.org", family, 0).unwrap_or_else(|| panic!("a question"));
                assert!(other.read(data).is_err(), "one answer is for one question");
            }
            Ok(_) => assert_eq!(data.get(..2), Some(&[0, 0][..]), "the id is that of the question"),
            Err(_) => {}
        }
    }
}

/// R7: a path has one canonical form, which is its own, and nothing in it that two readers could read differently.
pub(crate) fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = text.parse::<PathPattern>().map(|pattern| {
        assert_eq!(pattern.to_string().parse::<PathPattern>().as_ref(), Ok(&pattern), "a pattern reads itself");
    });
    let lax = Quirks { semicolon: true, encoded_slash: true, double_slash: true, ..Quirks::default() };
    for quirks in [Quirks::default(), lax] {
        if let Ok(path) = CanonicalPath::parse(text, quirks) {
            check_path(&path, quirks);
            assert_eq!(path.query(), text.split_once('?').map(|(_, query)| query), "the query is untouched");
        }
        if let Ok(uri) = Uri::try_from(data)
            && let Ok(path) = CanonicalPath::of(&uri, quirks)
            && path.as_str() != "*"
        {
            check_path(&path, quirks);
        }
    }
}

fn check_path(path: &CanonicalPath, quirks: Quirks) {
    let text = path.as_str();
    assert!(text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    let again = CanonicalPath::parse(text, quirks).map(|path| path.as_str().to_owned());
    assert_eq!(again.as_deref(), Ok(text), "canonical twice is canonical");
    for refused in ["\\", "%5C", "%00", "%0", "%1", "%7F", "%252F", "%252f", "%255c", "%2500", "%252e", "#"] {
        assert!(!text.contains(refused), "{text:?} holds {refused}");
    }
    assert!(text.split('/').all(|segment| !matches!(segment, "." | "..")), "{text:?}");
    if quirks.is_empty() {
        assert!(!text.contains("//") && !text.contains(';') && !text.contains("%2F"), "{text:?}");
    }
}

/// R10: a host has one form, which is its own.
pub(crate) fn host(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(host) = text.parse::<Host>() {
        let form = host.as_str();
        assert_eq!(form.parse::<Host>().as_ref(), Ok(&host));
        assert!(form.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.:[]".contains(&b)), "{form}");
        assert!(!form.ends_with('.'), "{form}");
    }
    if let Ok(authority) = text.parse::<Authority>() {
        assert_eq!(authority.to_string().parse::<Authority>().as_ref(), Ok(&authority));
        assert_ne!(authority.port, Some(0));
    }
}

/// R2, R26, R33: a cookie is found in the bytes or not at all; a token that is read reads the same again; a way back
/// stays on this host. Each line of the input is a `Cookie` field.
pub(crate) fn cookie(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value);
        }
    }
    if let Ok(Some(value)) = credential::cookie(&headers, "__Host-portcullis") {
        let pair = [b"__Host-portcullis=", value].concat();
        assert!(data.windows(pair.len()).any(|window| window == pair), "the value stands in the input");
        assert!(!value.contains(&b';'), "one cookie is one cookie");
        if let Some(token) = SessionToken::parse(value) {
            assert_eq!(token.expose().as_bytes(), value);
        }
    }
    if let Some(back) = std::str::from_utf8(data).ok().and_then(ReturnTo::parse) {
        let text = back.as_str();
        assert!(text.starts_with('/') && !text.starts_with("//") && !text.contains(['\\', '\r', '\n']), "{text:?}");
    }
}

/// R21: no bytes but a token of the issuer are one. The seeds hold good ones; the key is known, the fuzzer's luck is
/// not enough to sign with it.
pub(crate) fn jwt(data: &[u8]) {
    static ISSUERS: OnceLock<[Issuer; 1]> = OnceLock::new();
    let now = Timestamp::from_unix_seconds(JWT_NOW);
    if let Ok(verified) = jwt::verify(data, ISSUERS.get_or_init(|| [issuer()]), &[0], now) {
        assert_eq!(data.iter().filter(|byte| **byte == b'.').count(), 2);
        assert!(!verified.identity().subject().is_empty());
        assert!(verified.check_time(now).is_ok());
        let (input, tag) = last_dot(data);
        let tag = URL_SAFE_NO_PAD.decode(tag).unwrap_or_default();
        assert!(hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, JWT_SECRET), input, &tag).is_ok(), "it is signed");
    }
}

/// What is signed, and the signature.
fn last_dot(token: &[u8]) -> (&[u8], &[u8]) {
    let dot = token.iter().rposition(|byte| *byte == b'.').unwrap_or_else(|| panic!("three parts"));
    (&token[..dot], &token[dot + 1..])
}

/// R21, R22, R25: what is made of claims is what a naive reader finds in them. The first line is the path of a claim
/// that must be there and holds the roles, the rest the claims, which are signed here.
pub(crate) fn claims(data: &[u8]) {
    let Some((path, claims)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once('\n')) else { return };
    let steps = ClaimPath::dotted(path);
    let naive: Option<Value> = serde_json::from_str(claims).ok();
    let walked = naive.as_ref().and_then(|claims| path.split('.').try_fold(claims, |value, step| value.get(step)));
    if let Some(Value::Object(claims)) = &naive {
        assert_eq!(steps.find(claims), walked, "a path is its steps");
        let mut changed = claims.clone();
        steps.set(&mut changed, Value::Bool(true));
        assert_eq!(steps.find(&changed), Some(&Value::Bool(true)), "what was set is found");
        let nowhere = ClaimPath::steps([""; 0]);
        nowhere.set(&mut changed, Value::Null);
        assert_eq!(
            (nowhere.find(&changed), steps.find(&changed)),
            (None, Some(&Value::Bool(true))),
            "it leads nowhere"
        );
        let exact = ClaimPath::steps([path]);
        assert_eq!(exact.find(claims), claims.get(path), "one exact step is a name");
    }
    let only = |value: &str| RequiredClaim { path: steps.clone(), equals: [value.into()].into() };
    let strict = Issuer { required_claims: [only("r")].into(), access_tokens_only: true, ..issuer() };
    let now = Timestamp::from_unix_seconds(JWT_NOW);
    if jwt::verify(signed_as(ACCESS_HEADER, claims).as_bytes(), &[strict], &[0], now).is_ok() {
        let told = |name: &str| naive.as_ref().map(|claims| claims[name].clone()).unwrap_or_default();
        assert!(["client_id", "jti", "sub"].iter().all(|name| told(name).is_string()) && told("iat").is_number());
        assert_eq!(walked, Some(&Value::from("r")));
    }
    let required = RequiredClaim { path: steps.clone(), equals: Box::default() };
    let mapping = ClaimMapping { roles: steps, ..ClaimMapping::default() };
    let issuer = Issuer { required_claims: [required].into(), claims: mapping, ..issuer() };
    let Ok(verified) = jwt::verify(signed(claims).as_bytes(), &[issuer], &[0], now) else { return };

    let naive = naive.as_ref().unwrap_or(&Value::Null);
    let is_text = |value: &Value, text: &str| value.as_str() == Some(text);
    assert!(is_text(&naive["iss"], "https://issuer.example"));
    assert!(
        is_text(&naive["aud"], "api")
            || naive["aud"].as_array().is_some_and(|all| all.iter().any(|one| is_text(one, "api")))
    );
    assert!(naive["exp"].as_f64().is_some_and(|exp| exp + 30.0 > JWT_NOW as f64));
    assert!(naive.get("nonce").is_none() && naive.get("events").is_none());
    let identity = verified.identity();
    assert!(is_text(&naive["sub"], identity.subject()) && !identity.subject().is_empty());
    assert_eq!(identity.email_verified(), naive["email_verified"] == true);
    let roles: Vec<&str> = match walked {
        None | Some(Value::Null) => panic!("a claim that must be there is not"),
        Some(Value::String(role)) => vec![role],
        Some(Value::Array(roles)) => roles.iter().filter_map(Value::as_str).collect(),
        Some(other) => panic!("no roles: {other}"),
    };
    // A list of a header has no place for an empty item (R13).
    assert!(identity.roles().eq(roles.into_iter().filter(|role| !role.is_empty())));
}

/// R2: a credential that is found stands in the input, and nothing ambient counts beside something explicit. Each line
/// is a field.
pub(crate) fn credential(data: &[u8]) {
    let mut fields = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    let key_header = HeaderName::from_static("x-api-key");
    let token_header = HeaderName::from_static("x-access-token");
    let rule =
        AccessRule { session: true, api_key: Some(key_header.clone()), issuers: [0].into(), ..AccessRule::default() };
    let places = TokenPlaces { cookie: Some("token".into()), header: Some(token_header.clone()) };
    let explicit = fields.contains_key(&key_header) || fields.contains_key(&token_header);
    let holds = |value: &[u8]| value.is_empty() || data.windows(value.len()).any(|window| window == value);
    match credential::find(&fields, &rule, "__Host-portcullis", &places, true) {
        Ok(Credential::Bearer { token, carrier }) => {
            assert!(!(explicit && carrier.is_ambient()));
            match token.read() {
                Ok(read) => {
                    let is_token68 = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
                    assert!(!read.is_empty() && read.iter().all(is_token68) && holds(read));
                    assert!(credential::as_authorization(&fields, token, carrier).is_some());
                }
                Err(ambiguous) => assert!(ambiguous.label().starts_with("unreadable_")),
            }
        }
        Ok(Credential::ApiKey(text)) => assert!(holds(text)),
        Ok(Credential::Session(value)) => assert!(holds(value) && !explicit),
        Ok(Credential::None) => assert!(!explicit),
        Err(ambiguous) => assert!(!ambiguous.label().is_empty()),
    }
    let in_the_clear = credential::find(&fields, &rule, "__Host-portcullis", &places, false);
    let ambient =
        matches!(in_the_clear, Ok(Credential::Session(_) | Credential::Bearer { carrier: Carrier::Cookie, .. }));
    assert!(!ambient, "over plain http no cookie is read");
}

/// A token that says this, signed with the secret that the fuzz targets share.
pub(crate) fn signed(claims: &str) -> String {
    signed_as(r#"{"alg":"HS256"}"#, claims)
}

const ACCESS_HEADER: &str = r#"{"alg":"HS256","typ":"at+jwt"}"#;

fn signed_as(header: &str, claims: &str) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, JWT_SECRET), input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// RFC 9449: no bytes but a proof by the key that the token names, for this request, are one; and it counts once. The
/// seeds hold good ones; nobody has the key any more.
pub(crate) fn dpop(data: &[u8]) {
    is_proof(data);
}

/// Whether it is one.
pub(crate) fn is_proof(data: &[u8]) -> bool {
    static ISSUERS: OnceLock<[Issuer; 1]> = OnceLock::new();
    static TOKENS: OnceLock<TokenCache> = OnceLock::new();
    let Ok(field) = HeaderValue::from_bytes(data) else { return false };
    let request = Request::get("https://api.example/orders").header("dpop", field);
    let (head, ()) = request.body(()).unwrap_or_else(|_| panic!("a request")).into_parts();
    let path = CanonicalPath::of(&head.uri, Quirks::default()).unwrap_or_else(|_| panic!("a path"));
    let view = ClientView {
        address: [192, 0, 2, 1].into(),
        scheme: Scheme::Https,
        authority: "api.example".parse().unwrap_or_else(|_| panic!("an authority")),
        through_trusted_proxy: false,
        chain: None,
    };
    let algorithms: Vec<Algorithm> = Algorithm::ALL.into_iter().filter(|one| !one.name().starts_with("HS")).collect();
    let settings = dpop::Settings::new(dpop::NonceRule::Off, &algorithms, 100);
    let proofs = dpop::Proofs::new(Timestamp::default(), 100);
    let tolerated = Quirks::default();
    let offer = dpop::Offer { head: &head, view: &view, path: &path, tolerated, settings: &settings, proofs: &proofs };
    let presented = Presented { dpop: Some(offer), ..Presented::default() };
    let judge = Judge {
        issuers: ISSUERS.get_or_init(|| [issuer()]),
        cache: TOKENS.get_or_init(|| TokenCache::new(CacheLimits::default())),
        wrong: &WrongSignatures::default(),
        verify_rate: 1,
        address: view.address,
        now: Timestamp::from_unix_seconds(JWT_NOW),
        waited: false,
    };
    let ask = || authenticate_bearer(Unread::new(DPOP_TOKEN.as_bytes(), Carrier::Dpop), &presented, &rule(), &judge);
    let Answer::Valid(verified) = ask() else { return false };
    assert_eq!(data.iter().filter(|byte| **byte == b'.').count(), 2);
    let signed = [&include_bytes!("seeds/dpop/good")[..], include_bytes!("seeds/dpop/good-spelled-differently")];
    assert!(signed.iter().any(|good| last_dot(good).0 == last_dot(data).0), "nobody can have signed another one");
    assert_eq!(verified.identity().subject(), "alice");
    assert!(matches!(ask(), Answer::Invalid(_)), "a proof counts once");
    true
}

fn rule() -> AccessRule {
    AccessRule { issuers: [0].into(), proof: ProofRule::Dpop, ..AccessRule::default() }
}

/// R24: whatever an issuer publishes, what is taken of it are some keys, not too many.
pub(crate) fn jwks(data: &[u8]) {
    let public: Vec<Algorithm> = Algorithm::ALL.into_iter().filter(|one| !one.name().starts_with("HS")).collect();
    let secrets = KeySet::from_jwk_set(data, &[Algorithm::HS256, Algorithm::HS384]);
    if let Ok(keys) = KeySet::from_jwk_set(data, &public) {
        assert!((1..=256).contains(&keys.len()));
        // A set that is taken with all algorithms names no shared secret, whatever else it holds.
        assert!(secrets.is_err());
    }
    if let Some(url) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<fetch::Url>().ok()) {
        assert_eq!(url.to_string().parse::<fetch::Url>(), Ok(url));
    }
}

/// R3, R21: only the boolean `true` makes a token active, and what is said of it is judged like a JWT's claims.
pub(crate) fn introspection(data: &[u8]) {
    introspected(data);
    let said = introspection::read_body(data);
    let mut fields = HeaderMap::new();
    for (status, kind, counts) in [
        (200, "application/json", true),
        (200, "Application/JSON ;charset=utf-8", true),
        (200, "text/html", false),
        (201, "application/json", false),
        (401, "application/json", false),
    ] {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let status = StatusCode::from_u16(status).unwrap_or_default();
        match introspection::read(status, &fields, data) {
            read if counts => assert_eq!(read, said),
            read => assert!(read.is_err(), "nothing follows from {status} and {kind}"),
        }
    }
    fields.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    assert!(introspection::read(StatusCode::OK, &fields, data).is_err(), "two kinds are none");
    assert!(introspection::read(StatusCode::OK, &HeaderMap::new(), data).is_err(), "nor is no kind");
}

/// Whether an answer makes a token good.
pub(crate) fn introspected(data: &[u8]) -> bool {
    static ENDPOINT: OnceLock<Arc<Endpoint>> = OnceLock::new();
    let Ok(Said::Active(members)) = introspection::read_body(data) else { return false };
    assert_eq!(members.get("active"), Some(&Value::Bool(true)));
    let endpoint = ENDPOINT.get_or_init(endpoint);
    let (issuer, now) = (issuer(), Timestamp::from_unix_seconds(JWT_NOW));
    let Ok(verified) = VerifiedToken::introspected(&issuer, Active { endpoint, token: b"abc", members, now }) else {
        return false;
    };
    assert!(!verified.identity().subject().is_empty());
    assert_eq!(&**verified.identity().realm(), "fuzz");
    assert!(verified.expires_at().plus(issuer.leeway) > now);
    assert!(verified.check_time(now).is_ok());
    true
}

fn endpoint() -> Arc<Endpoint> {
    let trust = fetch::Trust::from_pem(AUTHORITY.as_bytes()).unwrap_or_else(|_| panic!("an authority"));
    Endpoint::new(introspection::Source {
        url: "https://issuer.example/introspect".parse().unwrap_or_else(|_| panic!("a URL")),
        client: fetch::Client::new(trust, None),
        credentials: Credentials::new("fuzz".into(), Secret::new(b"fuzz".to_vec()), ClientAuth::Basic),
        timeout: Duration::from_secs(1),
        remember: Duration::from_secs(1),
        rate: 1,
    })
}

pub(crate) fn issuer() -> Issuer {
    let keys =
        KeySet::from_secret(JWT_SECRET, &[Algorithm::HS256]).unwrap_or_else(|_| panic!("the secret is long enough"));
    Issuer {
        name: "fuzz".into(),
        realm: "fuzz".into(),
        issuer: "https://issuer.example".into(),
        audience: Audience::OneOf(["api".into()].into()),
        keys: KeySlot::fixed(keys),
        claims: ClaimMapping { roles: ClaimPath::dotted("realm_access.roles"), ..ClaimMapping::default() },
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
    }
}

/// R13: the names in a client's certificate are parts of it, each of a form that has one reading only; and the end of a
/// revocation list is a moment or none.
pub(crate) fn client_certificate(data: &[u8]) {
    let _ = leaf::next_update(data);
    let Some(certificate) = Leaf::read(data) else { return };
    let holds = |part: &[u8]| part.is_empty() || data.windows(part.len()).any(|window| window == part);
    assert!(holds(certificate.key) && !certificate.key.is_empty());
    assert!(certificate.serial_text().bytes().all(|digit| digit.is_ascii_hexdigit()));
    let Some(names) = certificate.subjects() else { return };
    for text in names.common_names.iter().chain(&names.organizations).chain(&names.units) {
        assert!(holds(text.as_bytes()), "{text:?}");
    }
    for host in &names.hosts {
        assert_eq!(host.parse::<Host>().map(|host| host.as_str().to_owned()).as_ref(), Ok(host));
        assert!(!host.contains('*'), "{host:?}");
    }
    for email in &names.emails {
        assert!(holds(email.as_bytes()) && email.matches('@').count() == 1, "{email:?}");
    }
    for uri in &names.uris {
        assert!(holds(uri.as_bytes()) && uri.contains(':'), "{uri:?}");
    }
    for visible in names.emails.iter().chain(&names.uris) {
        assert!(visible.bytes().all(|byte| byte.is_ascii_graphic()), "{visible:?}");
    }
}

/// Every text is a configuration or a list of what is wrong with it. Relative files lie where nothing can be made.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Neither reads the machine's files nor makes secrets.
    if ["generate", "include", "\"/", "'/"].iter().any(|word| text.contains(word)) {
        return;
    }
    if let Err(report) = config::load_text("gateway.toml", text, Path::new("/proc/portcullis-fuzz"), []) {
        assert!(!report.to_string().is_empty(), "a refusal says why");
    }
}

/// R33: no value in a page becomes markup. The first line is the value, the rest the page.
pub(crate) fn template(data: &[u8]) {
    let Some((value, page)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once('\n')) else { return };
    match Template::parse(page) {
        Ok(Parsed { template, .. }) => {
            let (harmless, filled) = (template.fill(|_| "x".into()), template.fill(|_| value.into()));
            for mark in ['<', '>', '"', '\''] {
                assert_eq!(filled.matches(mark).count(), harmless.matches(mark).count(), "{filled}");
            }
        }
        Err(errors) => assert!(!errors.is_empty(), "a refusal says why"),
    }
}

/// R15: nobody but a trusted peer changes who the client is, and nobody changes the host. The first byte chooses
/// family and trust; each line after it is a field.
pub(crate) fn forwarded(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let mut fields = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    let peer: IpAddr = if first & 1 == 0 { [10, 0, 0, 1].into() } else { [192, 0, 2, 1].into() };
    let connection = Connection {
        id: 1,
        said_by: None,
        peer: PeerAddr::Ip((peer, 4321).into()),
        local_port: 443,
        tls: None,
        cutter: Cutter::default(),
        hints: OfConnection::default(),
    };
    let authority: Authority = "app.example:8443".parse().unwrap_or_else(|_| panic!("an authority"));
    let family = if first & 2 == 0 { ForwardedFamily::XForwarded } else { ForwardedFamily::Forwarded };

    let view = client_view(&connection, &fields, authority.clone(), &settings(family));

    assert_eq!(view.authority, authority);
    assert_eq!(view.through_trusted_proxy, first & 1 == 0);
    if !view.through_trusted_proxy {
        assert_eq!((view.address, view.scheme.as_str()), (peer, "http"));
    }
}

fn settings(family: ForwardedFamily) -> headers::Settings {
    headers::Settings {
        generation: 1,
        fields: Profile::default().fields(),
        extra: Box::default(),
        removed: Box::default(),
        client_certificate: headers::ClientCertificates::None,
        assertion: None,
        max_bytes: 4096,
        trusted_proxies: ["10.0.0.0/8"].iter().filter_map(|network| network.parse().ok()).collect(),
        trust_unix_peers: false,
        family,
        keep_odd_names: false,
        own_cookies: Box::default(),
        subject_with_realm: false,
    }
}

/// Whom the endpoint that nobody asks would be believed by.
const AUTHORITY: &str = include_str!("../configs/accepted/authority.pem");

/// What good seeds of `jwt` are signed with.
pub(crate) const JWT_SECRET: &[u8] = b"the fuzz targets' shared secret, known to all";
/// A token that is bound to the key of the good seeds of `dpop`, signed with the secret above.
pub(crate) const DPOP_TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoiYXBpIiwic3ViIjoiYWxpY2UiLCJ\
    pYXQiOjE3NjcyMjU1OTAsImV4cCI6MTc2NzIyNjIwMCwiY25mIjp7ImprdCI6Ilh1TkVqSk9XMktpdDJpbzNERjZVcVM0bnlCS3A\
    0WE8wQW1RVGVKMlhtbGMifX0.L_fX_hqIw_XXTgOuwt3mjz_mk0d2cEgzF-CtTEAmi28";
/// When they are good: 2026-01-01.
pub(crate) const JWT_NOW: u64 = 1_767_225_600;
