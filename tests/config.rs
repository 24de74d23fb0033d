//! The configuration as a user meets it: the shipped gateway.toml, `configs/accepted` and `configs/refused`.
//!
//! Every refused file says in its first comments what the report must contain, line and column included. The mutator
//! puts an unknown key into every table of every accepted file. All files are copied to a folder of their own first,
//! because loading makes generated secrets.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on must fail")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use portcullis::{
    config::{self, Config, TlsSource},
    listener::Listener,
    page::Text,
    policy::{Access, Csrf, Grants},
    route::{Own, Target, Timeouts},
};
use tempfile::TempDir;

/// A copy of the shipped configuration and the test configurations.
struct Workspace {
    folder: TempDir,
}

impl Workspace {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::copy(root.join("gateway.toml"), folder.path().join("gateway.toml")).expect("the shipped file");
        copy_tree(&root.join("tests/configs"), &folder.path().join("configs"));
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The `.toml` files of a folder that are configurations by themselves.
    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.path(folder))
            .expect("the folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        files.sort();
        files
    }

    fn load(&self, text: &str) -> Result<Config, String> {
        config::load_text("gateway.toml", text, self.folder.path(), environment(&[])).map_err(|r| r.to_string())
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copy");
            let mode = if target.extension().is_some_and(|extension| extension == "secret") { 0o600 } else { 0o644 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).expect("a mode");
        }
    }
}

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(path: &Path) -> Result<Config, String> {
    config::load(path, environment(&[("PORTCULLIS_TEST_TOKEN", "a-token-that-is-long-enough")]))
        .map_err(|report| report.to_string())
}

fn expect_refusal(result: Result<Config, String>) -> String {
    match result {
        Ok(_) => panic!("accepted"),
        Err(report) => report,
    }
}

#[test]
fn the_shipped_configuration_is_accepted_and_serves_this_machine_only() {
    let workspace = Workspace::new();

    let config = load(&workspace.path("gateway.toml")).unwrap_or_else(|report| panic!("{report}"));

    assert!(config.warnings.is_empty(), "{:?}", config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(config.startup.edge.listeners, [Listener::Https("127.0.0.1:8443".parse().expect("an address"))]);
    assert!(matches!(&config.startup.telemetry, Some(Listener::Http(address)) if address.port() == 9091));
    let tls = config.tls.expect("[tls]");
    assert!(matches!(&tls.source, TlsSource::SelfSigned { names, folder }
        if names.len() == 2 && *folder == workspace.path("certs")));
    assert!(config.snapshot.demo_secrets);
    assert!(config.snapshot.hsts.is_none());
    let demo = config.demo.expect("generated secrets");
    assert_eq!(demo.users.len(), 1);
    assert_eq!(&*demo.users[0].name, "demo");
    let kept = fs::read_to_string(workspace.path("certs/demo-password")).expect("the password");
    assert_eq!(kept.trim_end(), demo.users[0].password.expose());
    assert_eq!(demo.issuers[0].audience.as_deref(), Some("demo-api"));
    assert_eq!(demo.issuers[0].secret.expose().len(), 43);
    assert_eq!(config.unfit_for_production.len(), 3);
    assert_eq!(config.tests.len(), 5);
}

#[test]
fn generated_secrets_stay_the_same_at_the_next_start() {
    let workspace = Workspace::new();
    let hash = |config: &Config| {
        let user = config.snapshot.login.providers[0].accounts.find("demo").expect("the user");
        user.password.to_string()
    };

    let first = load(&workspace.path("gateway.toml")).unwrap_or_else(|report| panic!("{report}"));
    let second = load(&workspace.path("gateway.toml")).unwrap_or_else(|report| panic!("{report}"));

    assert_eq!(hash(&first), hash(&second));
    assert!(hash(&first).starts_with("$argon2id$"));
}

#[test]
fn our_own_endpoints_are_routes_and_nothing_else_answers_under_the_prefix() {
    let workspace = Workspace::new();
    let config = load(&workspace.path("gateway.toml")).unwrap_or_else(|report| panic!("{report}"));
    let routes = config.snapshot.routes.routes();

    let own = |wanted: Own| {
        routes.iter().find(|route| matches!(route.target, Target::Own(own) if own == wanted)).expect("the endpoint")
    };
    assert!(matches!(own(Own::Login).access, Access::Public { .. }));
    assert!(matches!(own(Own::Livez).access, Access::Public { .. }));
    // Whoever holds a dead cookie is logged out as well.
    assert!(matches!(own(Own::Logout).access, Access::Public { .. }));
    let Access::Authenticated(rule) = &own(Own::Session).access else { panic!("session asks who") };
    assert!(rule.session && rule.optional && !rule.touch && *rule.issuers == [0]);
    assert_eq!(own(Own::Nothing).paths.iter().map(ToString::to_string).collect::<Vec<_>>(), ["/_auth/{*rest}"]);
}

#[test]
fn every_key_is_documented_in_the_shipped_file() {
    let text = shipped();
    let missing: Vec<String> = config::keys().into_iter().filter(|key| !is_documented(&text, key)).collect();

    assert!(missing.is_empty(), "gateway.toml does not mention {missing:#?}");
}

#[test]
fn every_key_is_in_the_manual() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the manual");
    let keys = config::keys();
    // What stands in two places is explained once; what lies within a row's value is explained in that row.
    let explained = |key: &str| {
        let key = key.replacen("route_defaults.", "route.", 1).replacen("login.provider.user.", "user.", 1);
        let rows = key.match_indices('.').map(|(at, _)| &key[..at]).chain([key.as_str()]);
        rows.into_iter().any(|row| manual.contains(&format!("| `{row}` |")))
            || matches!(&*key, "admin.token.env" | "admin.token.generate")
    };
    let is_section =
        |key: &str| keys.iter().any(|other| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
    let missing: Vec<&String> = keys.iter().filter(|key| !explained(key) && !is_section(key)).collect();

    assert!(missing.is_empty(), "README.md has no row for {missing:#?}");
}

#[test]
fn every_text_of_our_pages_is_in_the_manual() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the manual");
    let row = |text: &&Text| format!("| `{}` | {} |", text.key(), text.english());
    let missing: Vec<String> =
        Text::ALL.iter().filter(|text| !manual.contains(&row(text))).map(|text| row(&text)).collect();

    assert!(missing.is_empty(), "README.md has no row under \"Texts\" that says\n{}", missing.join("\n"));
}

#[test]
fn what_is_hard_to_read_is_warned_about() {
    let workspace = Workspace::new();
    let with = |colors: &str| {
        let text = shipped().replacen("[login]\n", &format!("[login]\n{colors}\n"), 1);
        workspace.load(&text).unwrap_or_else(|report| panic!("{report}")).warnings
    };

    let warnings = with("colors = { accent = \"#ffcc00\" }");
    assert!(
        warnings.iter().any(|warning| warning.to_string().contains("the accent on the card has a contrast of 1.5"))
    );
    let calm = with("colors = { accent = \"#0b6e4f\" }\ndark_colors = { accent = \"#5fd3a8\" }");
    assert!(!calm.iter().any(|warning| warning.to_string().contains("hard to read")));
}

#[test]
fn an_assertion_that_a_restart_voids_or_that_nobody_is_sent_is_warned_about() {
    let workspace = Workspace::new();
    let warnings = |server: &str, identity: &str, upstream: &str| {
        let text = shipped()
            .replacen("[server]\n", &format!("[server]\n{server}\n"), 1)
            .replacen("[identity]\n", &format!("[identity]\n{identity}\n"), 1)
            .replacen("[upstream.echo]\n", &format!("[upstream.echo]\n{upstream}\n"), 1);
        let config = workspace.load(&text).unwrap_or_else(|report| panic!("{report}"));
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let (durable, signed, audience) = ("state_dir = \"state\"", "assertion = {}", "assertion_audience = \"other\"");

    assert!(warnings("", signed, "").contains("without `server.state_dir` each start makes a new key"));
    assert!(!warnings(durable, signed, audience).contains("assertion"));
    assert!(warnings(durable, "", audience).contains("no assertion is sent, so none is for this audience"));
}

#[test]
fn what_browsers_will_block_in_a_page_of_ones_own_is_warned_about() {
    let workspace = Workspace::new();

    let config = load(&workspace.path("configs/accepted/pages.toml")).unwrap_or_else(|report| panic!("{report}"));

    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    for expected in [
        "pages/sorry.html:3:24: browsers will block what `href` loads",
        "pages/sorry.html:5:4: browsers will block the handler `onclick`",
        "pages/sorry.html:6:2: browsers will block `<script>`",
    ] {
        assert!(warnings.iter().any(|warning| warning.contains(expected)), "{expected}: {warnings:#?}");
    }
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    let page = workspace.path("configs/accepted/pages/404.html");
    assert!(config.inputs.stamps().contains_key(&page), "a change of the page is seen: {:?}", config.inputs);
}

#[test]
fn a_page_of_ones_own_is_bounded_in_size() {
    let workspace = Workspace::new();
    let with = |bytes: usize| {
        fs::write(workspace.path("big.html"), "x".repeat(bytes)).expect("a page");
        workspace.load(&format!("{}\n[pages]\n404 = \"big.html\"\n", shipped()))
    };

    assert!(with(256 << 10).is_ok());
    assert!(
        expect_refusal(with((256 << 10) + 1)).contains("found 262145 bytes, expected an HTML page of at most 256 KiB")
    );
}

#[test]
fn every_commented_default_of_the_shipped_file_can_be_used() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("routes.d")).expect("a folder");
    let text = shipped();
    for (number, line) in text.lines().enumerate() {
        let is_default = line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        if is_default {
            let changed: Vec<&str> =
                text.lines().enumerate().map(|(i, line)| if i == number { &line[1..] } else { line }).collect();
            if let Err(report) = workspace.load(&changed.join("\n")) {
                panic!("line {} without its `#`: {report}", number + 1);
            }
        }
    }
}

#[test]
fn commented_defaults_are_the_defaults() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("routes.d")).expect("a folder");
    let text = shipped();
    let commented = ["[limits]", "[session]", "[upstream.echo]"];
    let mut section = "";
    let all: Vec<&str> = text
        .lines()
        .map(|line| {
            if line.starts_with('[') {
                section = line;
            }
            let is_default = line.strip_prefix('#').is_some_and(|rest| rest.starts_with(char::is_alphabetic));
            if is_default && commented.contains(&section) { &line[1..] } else { line }
        })
        .collect();

    let without = workspace.load(&text).unwrap_or_else(|report| panic!("{report}"));
    let with = workspace.load(&all.join("\n")).unwrap_or_else(|report| panic!("{report}"));

    assert_eq!(format!("{:?}", without.startup), format!("{:?}", with.startup));
    assert_eq!(format!("{:?}", without.snapshot.session), format!("{:?}", with.snapshot.session));
    assert_eq!(format!("{:?}", without.snapshot.upstreams), format!("{:?}", with.snapshot.upstreams));
}

#[test]
fn accepted_configurations_are_accepted() {
    let workspace = Workspace::new();
    let files = workspace.files("configs/accepted");

    assert!(files.len() >= 5, "{files:?}");
    for path in files {
        if let Err(report) = load(&path) {
            panic!("{}: {report}", path.display());
        }
    }
}

#[test]
fn refused_configurations_are_refused_with_the_expected_words() {
    let workspace = Workspace::new();
    let files = workspace.files("configs/refused");

    assert!(files.len() >= 30, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path).expect("the file");
        let expected: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# expect: ")).collect();
        assert!(!expected.is_empty(), "{} says nothing in its first comment", path.display());

        let Err(report) = load(&path) else { panic!("{} was accepted", path.display()) };

        for line in &expected {
            assert!(report.contains(line), "{}: no {line:?} in\n{report}", path.display());
        }
        let problems = report.lines().filter(|line| line.contains("found ")).count();
        assert_eq!(problems, expected.len(), "{}: as many problems as expectations\n{report}", path.display());
    }
}

/// One mistake in `[token]` is one problem, though several parts of the configuration read that table.
#[test]
fn a_mistake_in_token_is_reported_once() {
    let workspace = Workspace::new();
    let folder = workspace.path("configs/accepted");
    let good = fs::read_to_string(folder.join("token.toml")).expect("the file");
    let load =
        |text: &str| config::load_text("gateway.toml", text, &folder, environment(&[])).map_err(|r| r.to_string());
    assert!(load(&good).is_ok());
    for (from, to, expected) in [
        ("issuer = \"https://app.example.com\"\n", "", "issuer"),
        ("issuer = \"https://app.example.com\"", "issuer = \"\"", "issuer"),
        ("audience = [\"https://app.example.com\", \"orders\"]", "audience = []", "an empty `audience`"),
        ("audience = \"batch\"", "audience = []", "an empty `audience`"),
        ("algorithm = \"EdDSA\"", "algorithm = \"HS256\"", "expected `ES256` or `EdDSA`"),
        ("lifetime = \"1m\"", "lifetime = \"6m\"", "from \"10s\" to \"5m\""),
        ("lifetime = \"1m\"", "lifetime = \"9s\"", "from \"10s\" to \"5m\""),
        ("max_families = 10", "max_families = 0", "max_families"),
        ("name = \"ours\"", "name = \"no name\"", "name"),
        ("\"spa\",", "\"spa\", \"spa\",", "a second client `spa`"),
        ("\"spa\",", "{ id = \"spa\", grants = [] },", "no grant"),
        ("\"password\", ", "\"passwords\", ", "found \"passwords\""),
        ("lifetime = \"1m\"", "lifetme = \"1m\"", "lifetme"),
        ("name = \"ours\"", "name = \"others\"", "jwt:ours"),
    ] {
        assert!(good.contains(from), "{from}");

        let report = expect_refusal(load(&good.replacen(from, to, 1)));

        assert!(report.contains(expected), "{to}: {report}");
        // The routes and the tests name ourselves, so a name of another is two mistakes of theirs.
        let places = if to.contains("others") { 2 } else { 1 };
        let end = if places == 1 { "1 problem: the" } else { "2 problems: the" };
        assert!(report.lines().last().is_some_and(|line| line.starts_with(end)), "{to}: {report}");
    }
}

#[test]
fn an_unknown_key_in_any_table_is_refused_and_named() {
    let workspace = Workspace::new();
    let mut files = workspace.files("configs/accepted");
    files.push(workspace.path("gateway.toml"));
    let mut tables = 0;
    for path in files {
        let text = fs::read_to_string(&path).expect("the file");
        for (name, changed) in mutants(&text) {
            let mutant = path.with_extension("mutant");
            fs::write(&mutant, &changed).expect("a file");
            let Err(report) = load(&mutant) else { panic!("{name} of {} takes any key", path.display()) };
            assert!(report.contains("the unknown key `zzz_unknown`"), "{name} of {}: {report}", path.display());
            tables += 1;
        }
    }
    assert!(tables > 60, "{tables}");
}

/// The text with an unknown key put into one table, for every header and every inline table. Tables whose keys are the
/// user's own (claims, headers) are left out.
fn mutants(text: &str) -> Vec<(String, String)> {
    let mut mutants = vec![("top".to_owned(), format!("zzz_unknown = 1\n{text}"))];
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let end = offset + line.len();
        if line.starts_with('[') {
            mutants.push((line.trim().to_owned(), format!("{}zzz_unknown = 1\n{}", &text[..end], &text[end..])));
        }
        let code = if line.starts_with('#') { "" } else { line };
        for (at, _) in code.match_indices('{').filter(|(at, _)| is_inline_table(code, *at)) {
            let comma = if code[at + 1..].trim_start().starts_with('}') { "" } else { "," };
            let (before, after) = text.split_at(offset + at + 1);
            mutants.push((line.trim().to_owned(), format!("{before} zzz_unknown = 1{comma}{after}")));
        }
        offset = end;
    }
    mutants
}

/// Whether this brace opens a table with fixed keys, and is not within a string.
fn is_inline_table(line: &str, at: usize) -> bool {
    let before = &line[..at];
    let in_string = before.matches('"').count() % 2 == 1;
    let inside = |key: &str| before.rfind(key).is_some_and(|start| !before[start..].contains('}'));
    let mapping = before.starts_with("claims =");
    !in_string && (mapping || !["claims =", "headers =", "extra ="].into_iter().any(inside))
}

/// Whether a key has its line or stands in an inline table of the right section.
fn is_documented(text: &str, key: &str) -> bool {
    let segments: Vec<&str> = key.split('.').collect();
    let (name, sections) = segments.split_last().expect("a key");
    let name_fits = |line: &str| {
        line.match_indices(name).any(|(at, _)| {
            let before = line[..at].trim_end_matches('"').chars().next_back();
            let boundary = before.is_none_or(|c| matches!(c, '#' | ' ' | '{' | '[' | '.'));
            let after = line[at + name.len()..].trim_start_matches('"').trim_start();
            boundary && (after.starts_with('=') || after.starts_with(']') || after.starts_with('.'))
        })
    };
    let mut section = String::new();
    text.lines().any(|line| {
        let bare = line.trim_start_matches('#').trim_start();
        let header = bare.trim_start_matches('[').trim_end_matches(']');
        if header.len() < bare.len() && header.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_')) {
            section = header.to_owned();
        }
        // `route.match.path` is documented in [[route]], in a line that also has `match`; options of routes in any.
        let home = sections.first().copied().unwrap_or_default();
        let at_home = section.split('.').next() == Some(home)
            || sections.is_empty()
            || (home == "route_defaults" && section == "route")
            || key.starts_with("login.provider.user") && section == "user";
        at_home && (name_fits(line) || name == &"*")
    })
}

fn shipped() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.toml")).expect("the shipped file")
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
    let workspace = Workspace::new();

    let report = expect_refusal(workspace.load(
        r#"[server]
listen = ["https://127.0.0.1:0"]
drain_timeout = "15 parsecs"
hots = ["a.example"]
[limits]
max_headers = "100"
[[route]]
name = "a"
match = { path = "/a", host = "https://a.example" }
auth = ["sesion"]
upstream = "nowhere"
[[route]]
name = "b"
match = { path = "/b", host = "b.example" }
"#,
    ));

    let lines: Vec<&str> = report.lines().filter(|line| line.starts_with("gateway.toml")).collect();
    let starts = [
        "gateway.toml:3:17: server.drain_timeout: found \"15 parsecs\"",
        "gateway.toml:4:1: server.hots: found the unknown key `hots`",
        "gateway.toml:6:15: limits.max_headers: found \"100\"",
        "gateway.toml:9:31: route[0].match.host: found \"https://a.example\"",
        "gateway.toml:10:9: route[0].auth[0]: found \"sesion\"",
        "gateway.toml:12:1: route[1].auth: found no `auth`",
        "gateway.toml:12:1: route[1]: found no target",
    ];
    assert_eq!(lines.len(), starts.len(), "{report}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line:?} does not begin with {start:?}");
    }
    for hint in ["did you mean `hosts`?", "without quotes", "did you mean \"a.example\"?", "did you mean `session`?"] {
        assert!(report.contains(hint), "no {hint:?} in\n{report}");
    }
    assert!(report.ends_with("7 problems: the configuration is refused"));
}

#[test]
fn consequences_of_a_problem_are_not_reported() {
    let workspace = Workspace::new();

    let report = expect_refusal(workspace.load(
        r#"[server]
listen = ["http://127.0.0.1:0"]
hosts = ["a.example"]
[upstream.app]
servers = ["ftp://10.0.0.1"]
[[jwt.issuer]]
name = "id"
issuer = "https://id.example"
jwks = { file = "jwks.json" }
algorithms = ["RS256", "none"]
[[route]]
name = "a"
match = { path = "/a" }
auth = ["jwt"]
upstream = "app"
"#,
    ));

    assert!(report.contains("upstream.app.servers[0]: found \"ftp://10.0.0.1\""), "{report}");
    assert!(report.contains("jwt.issuer[0].algorithms[1]: found \"none\""), "{report}");
    assert!(report.ends_with("2 problems: the configuration is refused"), "{report}");
}

#[test]
fn the_environment_overrides_scalars_and_the_listeners() {
    let workspace = Workspace::new();
    let variables = environment(&[
        ("PORTCULLIS__SERVER__LISTEN", "http://127.0.0.1:0, unix:/tmp/p.sock,mode=0600"),
        ("PORTCULLIS__SERVER__DRAIN_TIMEOUT", "5s"),
        ("PORTCULLIS__LIMITS__MAX_HEADERS", "50"),
        ("PORTCULLIS__UPSTREAM__ECHO__MAX_IDLE", "3"),
        ("PORTCULLIS__LOG__FORMAT", "json"),
        ("PORTCULLIS_UNRELATED", "x"),
    ]);

    let config = config::load(&workspace.path("gateway.toml"), variables).unwrap_or_else(|report| panic!("{report}"));

    let unix = Listener::Unix { path: "/tmp/p.sock".into(), mode: 0o600 };
    assert_eq!(config.startup.edge.listeners, [Listener::Http("127.0.0.1:0".parse().expect("an address")), unix]);
    assert_eq!(config.startup.edge.drain_timeout, Duration::from_secs(5));
    assert_eq!(config.startup.edge.limits.max_headers, 50);
    assert_eq!(config.snapshot.upstreams[0].max_idle, 3);
}

#[test]
fn the_environment_never_decides_who_gets_in() {
    let workspace = Workspace::new();
    for (name, value) in [
        ("PORTCULLIS__ROUTE_DEFAULTS__AUTH", "none"),
        ("PORTCULLIS__ROUTE__0__AUTH", "none"),
        ("PORTCULLIS__ROUTE_DEFAULTS__REQUIRE__ANY", "role:x"),
        ("PORTCULLIS__JWT__ISSUER__GRANTS", "all"),
        ("PORTCULLIS__LOGIN__PROVIDER__TRUST_EMAIL", "true"),
        ("PORTCULLIS__SERVER__TRUSTED_PROXIES", "0.0.0.0/0"),
        ("PORTCULLIS__SERVER__LISSEN", "http://127.0.0.1:0"),
        ("PORTCULLIS__SERVER", "x"),
        ("PORTCULLIS__LIMITS__MAX_HEADERS", "many"),
        ("PORTCULLIS__USER__NAME", "root"),
    ] {
        let result = config::load(&workspace.path("gateway.toml"), environment(&[(name, value)]));
        let report = expect_refusal(result.map_err(|report| report.to_string()));
        assert!(report.contains(&format!("{name}: ")), "{report}");
    }
}

#[test]
fn included_files_add_upstreams_routes_and_tests_and_nothing_else() {
    let workspace = Workspace::new();
    let main = workspace.path("configs/accepted/include.toml");

    let config = load(&main).unwrap_or_else(|report| panic!("{report}"));
    let names: Vec<&str> = config.snapshot.routes.routes().iter().map(|route| &*route.name).collect();
    assert_eq!(names[..3], ["main", "one", "two"]);

    fs::write(workspace.path("configs/accepted/routes.d/30.toml"), "[server]\nlisten = []\n").expect("a file");
    let report = expect_refusal(load(&main));
    assert!(report.contains("routes.d/30.toml:1:2: server: found the unknown key `server`"), "{report}");
}

#[test]
fn a_secret_is_never_repeated_in_a_report() {
    let workspace = Workspace::new();
    fs::write(workspace.path("plain.secret"), "hunter2-in-a-file").expect("a file");
    for (line, replaced) in [
        ("password = { generate = \"certs/demo-password\" }", "password = \"hunter2\""),
        ("password = { generate = \"certs/demo-password\" }", "password = { file = \"plain.secret\" }"),
        ("password = { generate = \"certs/demo-password\" }", "password = { generate = 1, hunter = \"hunter2\" }"),
        ("jwks = { secret = { generate = \"certs/demo-jwt.secret\" } }", "jwks = { secret = \"hunter2\" }"),
        ("jwks = { secret = { generate = \"certs/demo-jwt.secret\" } }", "jwks = \"hunter2\""),
        (
            "jwks = { secret = { generate = \"certs/demo-jwt.secret\" } }",
            "jwks = { secret = { file = \"plain.secret\" } }",
        ),
        ("servers = [\"echo:\"]", "servers = [\"http://user:hunter2@10.0.0.1\"]"),
        ("servers = [\"echo:\"]", "servers = [\"ftp://user:hunter2@10.0.0.1\"]"),
    ] {
        let text = shipped();
        assert!(text.contains(line));
        let report = expect_refusal(workspace.load(&text.replace(line, replaced)));
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn secrets_that_others_can_read_are_warned_about() {
    let workspace = Workspace::new();
    let path = workspace.path("jwt.secret");
    fs::write(&path, "0123456789abcdef0123456789abcdef\n").expect("a file");
    let text = shipped().replace("{ generate = \"certs/demo-jwt.secret\" }", "{ file = \"jwt.secret\" }");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
    let open = workspace.load(&text).unwrap_or_else(|report| panic!("{report}"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    let closed = workspace.load(&text).unwrap_or_else(|report| panic!("{report}"));

    assert!(open.warnings.iter().any(|warning| warning.to_string().contains("chmod o-r")));
    assert!(closed.warnings.is_empty());
}

#[test]
fn route_defaults_are_where_every_route_starts() {
    let workspace = Workspace::new();

    let config = load(&workspace.path("configs/accepted/defaults.toml")).unwrap_or_else(|report| panic!("{report}"));

    let route = |name: &str| {
        config.snapshot.routes.routes().iter().find(|route| &*route.name == name).expect("the route").clone()
    };
    let Access::Authenticated(rule) = &route("inherits").access else { panic!("inherits auth") };
    assert!(rule.session && !rule.touch);
    assert_eq!(rule.require.any[0].to_string(), "role:staff");
    assert_eq!(route("inherits").csrf, Csrf::Strict);
    let Access::Authenticated(rule) = &route("own").access else { panic!("has its own auth") };
    assert!(!rule.session && *rule.issuers == [0]);
    assert_eq!(rule.require.any[0].to_string(), "scope:read");
    assert_eq!(route("own").limits.max_body, Some(1024));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let times = Timeouts { connect: None, response: seconds(10), read: seconds(20), total: seconds(300) };
    assert_eq!(route("inherits").limits.timeouts.as_deref(), Some(&times));
    let times = Timeouts { connect: seconds(1), response: seconds(5), read: seconds(20), total: None };
    assert_eq!(route("own").limits.timeouts.as_deref(), Some(&times));
    assert!(matches!(route("open").access, Access::Public { .. }));
    assert!(matches!(route("open").target, Target::Respond { .. }));
}

#[test]
fn sources_may_grant_what_is_written() {
    let workspace = Workspace::new();

    let config = load(&workspace.path("configs/accepted/full.toml")).unwrap_or_else(|report| panic!("{report}"));

    let only =
        |grants: &Grants| matches!(grants, Grants::Only { roles, .. } if roles.len() == 1 && &*roles[0] == "employee");
    assert!(only(&config.snapshot.admin.expect("[admin]").tokens[0].grants));
    assert!(matches!(config.snapshot.login.providers[0].grants, Grants::All));
    assert_eq!(&*config.snapshot.issuers[0].realm, "staff");
}

/// A route that nobody can pass is no route; whoever signs tokens may vouch for two factors.
#[test]
fn a_second_factor_that_nobody_can_give_is_warned_about() {
    let workspace = Workspace::new();
    let admin = "max_auth_age = \"1h\" }";
    let asking = shipped().replace(admin, "max_auth_age = \"1h\", factor = 2 }");
    let warnings = |text: &str| {
        let config = workspace.load(text).unwrap_or_else(|report| panic!("{report}"));
        config.warnings.iter().map(ToString::to_string).filter(|text| text.contains("two factors")).count()
    };

    assert!(shipped().contains(admin));
    assert_eq!(warnings(&shipped()), 0);
    assert_eq!(warnings(&asking), 1);
    let by_token = asking.replace("auth = [\"session\"]", "auth = [\"session\", \"jwt\"]");
    assert_eq!(warnings(&by_token), 0);
}
