//! `portcullis import openapi`: what the routes let through is never more than what the document lets through.
//!
//! The property makes documents, asks the imported routes about every operation and every kind of caller through the
//! code that decides in production, and compares with a plain reading of the document.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use http::{Method, Uri};
use portcullis::{
    client::Scheme,
    clock::Clock,
    config::{self, Config},
    decide::Supposed,
    identity::{Factor, Identity, IdentityParts, Via},
    openapi::{Import, Options, import},
    policy::Access,
    rehearsal::Rehearsal,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::support::Shell;

/// What may authenticate here, and what the generated documents call it.
const SCHEMES: [(&str, Option<Kind>); 8] = [
    ("bearer", Some(Kind::Jwt)),
    ("oauth", Some(Kind::Jwt)),
    ("key", Some(Kind::ApiKey)),
    ("cookie", Some(Kind::Session)),
    ("cert", Some(Kind::Mtls)),
    ("basic", None),
    ("query", None),
    ("unknown", None),
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    ApiKey,
    Jwt,
    Mtls,
    Session,
}

#[derive(Clone, Debug)]
struct Caller {
    kind: Option<Kind>,
    certified: bool,
    scopes: Vec<String>,
    roles: Vec<String>,
}

fn document(security: Option<Value>, operations: &[(String, String, Option<Value>)]) -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (path, method, security) in operations {
        let mut operation = json!({ "responses": { "200": { "description": "ok" } } });
        if let Some(security) = security {
            operation["security"] = security.clone();
        }
        paths.entry(path.clone()).or_default().insert(method.clone(), operation);
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": { "title": "t", "version": "1" },
        "servers": [{ "url": "https://app.test/v1" }],
        "paths": paths,
        "components": { "securitySchemes": {
            "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            "oauth": { "type": "oauth2", "flows": {} },
            "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            "cookie": { "type": "apiKey", "in": "cookie", "name": "SID" },
            "cert": { "type": "mutualTLS" },
            "basic": { "type": "http", "scheme": "basic" },
            "query": { "type": "apiKey", "in": "query", "name": "key" },
        } },
    });
    if let Some(security) = security {
        document["security"] = security;
    }
    document
}

/// A configuration with every kind of credential, and these routes.
fn load(fragment: &str) -> Result<Config, String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/configs/accepted");
    let text = format!("{BASE}{fragment}");
    config::load_text("gateway.toml", &text, Path::new(folder), BTreeMap::new()).map_err(|report| report.to_string())
}

const BASE: &str = r#"version = 1
[server]
listen = ["https://127.0.0.1:0"]
hosts = ["app.test"]
[tls]
self_signed = ["app.test"]
[identity]
subject = "realm:sub"
[[jwt.issuer]]
name = "id"
realm = "staff"
issuer = "https://id.example"
jwks = { file = "jwks.json" }
algorithms = ["EdDSA"]
audience = ["api"]
grants = "all"
[[login.provider]]
name = "local"
realm = "staff"
grants = "all"
[[login.provider.user]]
name = "alice"
password = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$K7N0YYcJDGS2Q9RjQ4nJwVQEyxr6SVcDSyZLHW9VzJk"
[[api_key]]
name = "robot"
id = "abcdefghijklmnop"
sha256 = "0f007385b6f9d4b7eeb2748605afe1a984a0a3bfa3f014d09e2a784ce9e5cd1a"
subject = "robot"
realm = "staff"
[[mtls.ca]]
name = "devices"
realm = "staff"
file = "devices-ca.pem"
subject = "cn"
hosts = ["app.test"]
[upstream.api]
servers = ["http://10.0.0.5:8080"]
"#;

/// With a rule that nobody meets where the document's could not be said. Left out, such a path would fall to a wider
/// one.
fn sayable(fragment: &str) -> String {
    let closed = "\nauth = [\"jwt\"]\nrequire = { all = [\"role:that-nobody-has\"] } #";
    fragment.replace("\nauth = []", closed)
}

fn options() -> Options {
    Options { upstream: Some("api".into()), ..Options::default() }
}

fn imported(document: &Value) -> Import {
    import(&document.to_string(), &options()).expect("a document")
}

/// Whether the routes let a caller through. A credential that the route does not list is not looked at (R2).
fn is_let_through(config: &Config, method: &str, path: &str, caller: &Caller) -> bool {
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
    let uri: Uri = format!("https://app.test{path}").parse().unwrap();
    let authority = "app.test".parse().unwrap();
    let now = Clock::system().now();
    let ask = || Rehearsal::new(method.clone(), Scheme::Https, &authority, &uri, now);
    let supposed = |identity| Supposed { identity, certified: caller.certified, ..Supposed::default() };
    let anonymous = ask().run(&config.snapshot, supposed(None));
    let listed = match anonymous.findings.route.as_ref().map(|route| &route.access) {
        Some(Access::Authenticated(rule)) => match caller.kind {
            None => false,
            Some(Kind::ApiKey) => rule.api_key.is_some(),
            Some(Kind::Jwt) => !rule.issuers.is_empty(),
            Some(Kind::Mtls) => !rule.mtls.is_empty(),
            Some(Kind::Session) => rule.session,
        },
        Some(Access::Public { .. }) | None => false,
    };
    if !listed {
        return anonymous.refusal.is_none();
    }
    let identity = Identity::new(IdentityParts {
        realm: "staff".into(),
        subject: "somebody".into(),
        name: None,
        email: None,
        email_verified: false,
        roles: caller.roles.clone(),
        groups: Vec::new(),
        scopes: caller.scopes.clone(),
        claims: Map::new(),
        auth_time: None,
        factor: Factor::One,
        via: match caller.kind {
            Some(Kind::ApiKey) => Via::ApiKey,
            Some(Kind::Jwt) => Via::Jwt("id".into()),
            Some(Kind::Mtls) => Via::Mtls,
            Some(Kind::Session) | None => Via::Session,
        },
    });
    ask().run(&config.snapshot, supposed(Some(Arc::new(identity.unwrap())))).refusal.is_none()
}

/// The document, read plainly: one alternative of which every scheme is met, or none asked for.
fn may_call(global: Option<&Value>, own: Option<&Value>, caller: &Caller) -> bool {
    let Some(Value::Array(alternatives)) = own.or(global) else {
        return false;
    };
    let is_met = |(name, wanted): (&String, &Value)| {
        let kind = SCHEMES.iter().find(|(known, _)| known == name).and_then(|(_, kind)| *kind);
        let holds = match kind {
            None => false,
            Some(Kind::Mtls) => caller.certified || caller.kind == Some(Kind::Mtls),
            Some(kind) => caller.kind == Some(kind),
        };
        let has = if name == "oauth" { &caller.scopes } else { &caller.roles };
        holds && wanted.as_array().unwrap().iter().all(|wanted| has.iter().any(|has| wanted == has))
    };
    alternatives.is_empty() || alternatives.iter().any(|schemes| schemes.as_object().unwrap().iter().all(is_met))
}

fn security() -> impl Strategy<Value = Option<Value>> {
    let words = prop::sample::subsequence(vec!["r", "w", "a"], 0..=2);
    let names = prop::sample::subsequence(SCHEMES.map(|(name, _)| name).to_vec(), 0..=2);
    // Mostly what can be said: those that cannot would hide the rest.
    let usual = prop::sample::subsequence(SCHEMES.map(|(name, _)| name)[..5].to_vec(), 1..=2);
    let alternative =
        (prop_oneof![4 => usual, 1 => names], prop::collection::vec(words, 2)).prop_map(|(names, words)| {
            Value::Object(names.iter().zip(words).map(|(name, words)| ((*name).to_owned(), json!(words))).collect())
        });
    prop::option::weighted(0.8, prop::collection::vec(alternative, 0..=3).prop_map(Value::Array))
}

fn caller() -> impl Strategy<Value = Caller> {
    let kinds = vec![None, Some(Kind::ApiKey), Some(Kind::Jwt), Some(Kind::Mtls), Some(Kind::Session)];
    let words = || prop::sample::subsequence(vec!["r".to_owned(), "w".into(), "a".into()], 0..=3);
    (prop::sample::select(kinds), any::<bool>(), words(), words()).prop_map(|(kind, certified, scopes, roles)| Caller {
        kind,
        certified: certified || kind == Some(Kind::Mtls),
        scopes,
        roles,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Never laxer; and where there is one way to authenticate, exactly the same.
    #[test]
    fn imported_routes_let_nobody_through_whom_the_document_does_not(
        global in security(),
        securities in prop::collection::vec(security(), 8),
        callers in prop::collection::vec(caller(), 24),
    ) {
        let places = [
            ("/users", "get"), ("/users", "post"), ("/users/{id}", "get"), ("/users/{id}", "delete"),
            ("/users/me", "get"), ("/users/{user-id}/posts/{id}", "put"), ("/files/{name}", "head"), ("/a%20b", "patch"),
        ];
        let operations: Vec<(String, String, Option<Value>)> = places
            .iter()
            .zip(&securities)
            .map(|((path, method), security)| ((*path).to_owned(), (*method).to_owned(), security.clone()))
            .collect();
        let import = imported(&document(global.clone(), &operations));
        prop_assert_eq!(load(&import.fragment).is_err(), import.unsaid > 0, "auth = [] keeps it from being loaded");
        let config = load(&sayable(&import.fragment)).map_err(TestCaseError::fail)?;
        for (path, method, own) in &operations {
            let asked = format!("/v1{}", path.replace("{id}", "7").replace("{user-id}", "8").replace("{name}", "n"));
            for caller in &callers {
                let route = is_let_through(&config, method, &asked, caller);
                let plain = may_call(global.as_ref(), own.as_ref(), caller);
                prop_assert!(!route || plain, "{method} {path} is open to {caller:?}\n{}", import.fragment);
            }
        }
    }

    /// Whatever stands in a document, what is written is TOML, and nothing in it comes of words.
    #[test]
    fn words_of_a_document_never_become_configuration(
        summary in "\\PC{0,20}[\n\r\"'\\\\\u{85}]?(\\[\\[route\\]\\])?",
        id in "[\\PC\n\"]{0,12}",
        path in "/[a-z{}\"'\n]{0,8}",
        scope in "[a-z\"\n\\\\]{0,6}",
    ) {
        let mut document = document(None, &[(path.clone(), "get".into(), Some(json!([{ "oauth": [scope] }])))]);
        let operation = document["paths"][&path]["get"].as_object_mut().unwrap();
        operation.insert("summary".into(), json!(summary));
        operation.insert("operationId".into(), json!(id));
        let import = imported(&document);
        let table: toml::Table = import.fragment.parse().map_err(|error| TestCaseError::fail(format!("{error}")))?;
        prop_assert_eq!(table.keys().collect::<Vec<_>>(), ["route"]);
        let routes = table["route"].as_array().unwrap();
        prop_assert_eq!(routes.len(), 1);
        let keys: Vec<&String> = routes[0].as_table().unwrap().keys().collect();
        prop_assert!(keys.iter().all(|key| ["name", "match", "auth", "optional", "require", "upstream"].contains(&key.as_str())));
        prop_assert!(routes[0]["auth"].as_array().unwrap().iter().all(|auth| auth.as_str() == Some("jwt")));
    }
}

fn routes(security: Option<Value>) -> String {
    imported(&document(None, &[("/x".into(), "get".into(), security)])).fragment
}

#[test]
fn each_kind_of_security_becomes_the_rule_that_says_it() {
    for (security, expect) in [
        (json!([]), "auth = [\"none\"]\nupstream"),
        (json!([{}]), "auth = [\"none\"]\nupstream"),
        (json!([{ "bearer": [] }]), "auth = [\"jwt\"]\noptional = false\nupstream"),
        (json!([{ "bearer": [] }, {}]), "auth = [\"jwt\"]\noptional = true\nupstream"),
        (json!([{ "oauth": ["r", "w"] }]), "require = { all = [\"scope:r\", \"scope:w\"] }"),
        (json!([{ "oauth": ["r"] }, { "oauth": ["w"] }]), "require = { any = [\"scope:r\", \"scope:w\"] }"),
        (
            json!([{ "oauth": ["r", "a"] }, { "oauth": ["w", "a"] }]),
            "require = { all = [\"scope:a\"], any = [\"scope:r\", \"scope:w\"] }",
        ),
        (json!([{ "oauth": [] }, { "oauth": ["w"] }]), "auth = [\"jwt\"]\noptional = false\nupstream"),
        (json!([{ "bearer": ["admin"] }]), "require = { all = [\"role:admin\"] }"),
        (json!([{ "cookie": [] }, { "bearer": [] }]), "auth = [\"jwt\", \"session\"]\noptional = false\nupstream"),
        (json!([{ "key": [] }]), "auth = [\"api_key\"]"),
        (json!([{ "cert": [] }]), "auth = [\"mtls\"]"),
        (json!([{ "bearer": [], "cert": [] }]), "auth = [\"jwt\"]\noptional = false\nrequire = { all = [\"mtls\"] }"),
        (json!([{ "oauth": ["r"], "bearer": [] }]), "require = { all = [\"scope:r\"] }"),
    ] {
        let fragment = routes(Some(security.clone()));
        assert!(fragment.contains(expect), "{security}: {expect}\n{fragment}");
        load(&fragment).unwrap_or_else(|report| panic!("{security}: {report}"));
    }
}

#[test]
fn what_cannot_be_said_is_loaded_by_nobody() {
    for (security, why) in [
        (None, "says nothing of security"),
        (Some(json!([{ "basic": [] }])), "passwords"),
        (Some(json!([{ "query": [] }])), "logs"),
        (Some(json!([{ "basic": [] }, {}])), "passwords"),
        (Some(json!([{ "key": [], "bearer": [] }])), "at once"),
        (Some(json!([{ "unknown": [] }])), "no scheme"),
        (Some(json!([{ "oauth": ["a b"] }])), "cannot be written"),
        (Some(json!([{ "oauth": [""] }])), "cannot be written"),
    ] {
        let fragment = routes(security.clone());
        assert!(fragment.contains("auth = []") && fragment.contains(why), "{security:?}: {why}\n{fragment}");
        let report = load(&fragment).err().expect("a refusal");
        assert!(report.contains("auth: found an empty list"), "{report}");
        // Not by what routes start from, either.
        let opened = format!("[route_defaults]\nauth = [\"none\"]\noptional = true\n{fragment}");
        assert!(load(&opened).is_err());
    }
}

#[test]
fn an_alternative_that_cannot_be_said_is_left_out_and_told() {
    let fragment = routes(Some(json!([{ "basic": [] }, { "oauth": ["r"] }])));

    assert!(fragment.contains("# Stricter than the document: \"basic\": passwords"), "{fragment}");
    assert!(fragment.contains("auth = [\"jwt\"]\noptional = false\nrequire = { all = [\"scope:r\"] }"), "{fragment}");
}

#[test]
fn yaml_reads_as_json_does() {
    let yaml = r#"
openapi: 3.0.3
info: { title: Pets, version: "1" }
servers:
  - url: https://{region}.pets.example:8443/{base}
    variables:
      region: { default: eu, enum: [eu, us] }
      base: { default: v2 }
security: &any [ { oauth: [read] } ]
paths:
  /pets/{petId}.json:
    get: { responses: { 200: { description: ok } } }
  /pets/{pet-id}:
    $ref: '#/components/pathItems/pet~1one'
  /open:
    servers: [ { url: /public } ]
    get: { operationId: "open it!", summary: "a\nb", security: [], responses: { 200: { description: ok } } }
    trace: { responses: {} }
components:
  pathItems:
    pet/one:
      put: { security: *any, responses: { 204: { description: ok } } }
  securitySchemes:
    oauth: { $ref: '#/components/securitySchemes/real' }
    real: { type: openIdConnect, openIdConnectUrl: https://id.example }
"#;
    let import = import(yaml, &options()).unwrap();
    let expect = r#"
# GET /open: a b
[[route]]
name = "open-it"
match = { path = "/public/open", methods = ["GET"] }
auth = ["none"]
upstream = "api"

# TRACE /open: never served (R11).

# PUT /pets/{pet-id}
[[route]]
name = "put-pets-pet-id"
match = { host = ["eu.pets.example", "us.pets.example"], path = "/v2/pets/{pet_id}", methods = ["PUT"] }
auth = ["jwt"]
optional = false
require = { all = ["scope:read"] }
upstream = "api"

# GET /pets/{petId}.json
# Not said: the segment "{petId}.json" mixes text and parameter, and a parameter here is a whole segment
[[route]]
name = "get-pets-petId-.json"
match = { host = ["eu.pets.example", "us.pets.example"], path = "/v2/pets/{petId}.json", methods = ["GET"] }
auth = []"#;
    assert!(import.fragment.contains(expect), "{}", import.fragment);
    assert_eq!((import.routes, import.unsaid), (3, 1));
}

#[test]
fn a_document_that_is_not_understood_is_refused() {
    let base = |more: &str| format!("{{\"openapi\": \"3.0.0\", {more}}}");
    for (text, why) in [
        ("{\"swagger\": \"2.0\", \"paths\": {}}".to_owned(), "Swagger 2.0"),
        ("{\"openapi\": \"3.2.0\", \"paths\": {}}".to_owned(), "3.2.0"),
        ("openapi: 3.1\npaths: {}".to_owned(), "written as a text"),
        ("[]".to_owned(), "no object"),
        (base("\"info\": 1"), "no `paths`"),
        (base("\"paths\": {\"/a\": {}, \"/a\": {}}"), "occurs twice"),
        ("openapi: 3.0.0\npaths: {}\npaths: {}".to_owned(), ""),
        (base("\"paths\": {\"/a\": {\"$ref\": \"other.yaml\"}}"), "another file"),
        (base("\"paths\": {\"/a\": {\"$ref\": \"#/paths/~1a\"}}"), "circle"),
        (base("\"paths\": {\"/a\": {\"$ref\": \"#/nowhere\"}}"), "not there"),
        (base("\"paths\": {\"/a\": {\"$ref\": \"#/x\", \"get\": {}}}, \"x\": {}"), "beside"),
        (base("\"paths\": {\"/a\": {\"get\": {\"security\": {}}}}"), "no list"),
        (base("\"paths\": {\"/a\": {\"get\": {\"security\": [[]]}}}"), "no object"),
        (base("\"paths\": {\"/a\": {\"get\": {\"security\": [{\"a\": \"r\"}]}}}"), "no list"),
        (base("\"paths\": {\"/a\": {\"get\": {\"security\": null}}}"), "no list"),
        (base("\"paths\": {\"a\": {\"get\": {}}}"), "begins with"),
        (base("\"paths\": {}, \"servers\": [{\"url\": \"https://{x}\"}]"), "without a value"),
    ] {
        let error = import(&text, &options()).expect_err(&text).to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn names_are_unique_and_the_order_stays() {
    let operations: Vec<(String, String, Option<Value>)> =
        [("/b/{x}/c/{x}", "get"), ("/b/x/c/x", "get"), ("/a", "put")]
            .map(|(path, method)| (path.to_owned(), method.to_owned(), Some(json!([]))))
            .to_vec();
    let first = imported(&document(None, &operations)).fragment;
    let again = imported(&document(None, &operations.iter().rev().cloned().collect::<Vec<_>>())).fragment;

    assert_eq!(first, again);
    let names: Vec<&str> = first.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    assert_eq!(names, ["\"put-a\"", "\"get-b-x-c-x\"", "\"get-b-x-c-x-2\""]);
    load(&first).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn the_command_writes_a_fragment_that_include_takes() {
    let document = document(None, &[("/x".into(), "get".into(), Some(json!([{ "oauth": ["r"] }])))]);
    let shell = Shell::empty();
    shell.write("api.json", &document.to_string());

    let said = shell
        .run(&["import", "openapi", "api.json", "--upstream", "api", "--host", "app.test", "--scheme", "oauth=jwt:id"])
        .expect(0);

    assert!(
        said.out.contains("host = [\"app.test\"], path = \"/v1/x\"") && said.out.contains("[\"jwt:id\"]"),
        "{}",
        said.out
    );
    assert_eq!(said.err.trim(), "1 routes");
    load(&said.out).unwrap_or_else(|report| panic!("{report}"));
    shell.run(&["import", "openapi", "nowhere.json"]).expect(1);
    shell.run(&["import", "openapi", "api.json", "--scheme", "oauth=none"]).expect(2);
}
