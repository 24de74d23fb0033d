//! The architecture as a test: which module may import which, and a few things nobody keeps up by willpower.
//!
//! In: the text of every `.rs` file. Out: one message per offence, with file and line. Imports go down the table
//! [`LAYERS`] only; within a layer only along an arrow of [`ARROWS`], and in the foundation only to the left.
//! Inline test modules and files named `tests.rs` may import what they like. The last tests plant offences in made-up
//! sources and prove that they are found. Works on tokens, without dependencies, in well under a second.
#![expect(clippy::expect_used, reason = "a test that cannot read the sources must fail")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The layers, lowest first. A module may import any module of a lower layer.
const LAYERS: &[&[&str]] = &[
    FOUNDATION,
    &[
        "route",
        "session",
        "revocation",
        "api_key",
        "refresh",
        "refusal",
        "accounts",
        "factor",
        "signing",
        "fetch",
        "dns",
    ],
    &["authz", "headers", "upstream", "authn", "login", "token", "csrf", "cors", "admin", "openapi", "acme"],
    &["state"],
    &["decide"],
    &["pipeline", "forward_auth", "rehearsal"],
    &["edge"],
    &["config"],
    &["reload", "handover"],
    &["main", "cli", "gateway"],
];

/// Layer 0: each may import those to its left.
const FOUNDATION: &[&str] = &[
    "swar",
    "frames",
    "stream",
    "secret",
    "clock",
    "durable",
    "shutdown",
    "service",
    "host",
    "listener",
    "telemetry",
    "certificate",
    "id",
    "identity",
    "mtls",
    "hints",
    "client",
    "inbound",
    "policy",
    "rate_limit",
    "page",
    "change",
];

/// Imports within a layer: (who, whom).
const ARROWS: &[(&str, &str)] = &[
    ("headers", "authz"),
    ("upstream", "headers"),
    ("api_key", "revocation"),
    ("refresh", "session"),
    ("token", "authn"),
    ("token", "login"),
    ("handover", "reload"),
    ("main", "cli"),
    ("main", "gateway"),
    ("cli", "gateway"),
];

/// File names that say nothing and so collect everything.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

#[test]
fn imports_go_down_the_layers_only() {
    let offences: Vec<String> =
        sources("src").iter().flat_map(|source| import_offences(&source.path, &source.text)).collect();

    assert_none(&offences);
}

#[test]
fn every_module_has_a_layer() {
    let known: BTreeSet<&str> = LAYERS.iter().copied().flatten().copied().collect();
    let offences: Vec<String> = sources("src")
        .iter()
        .filter_map(|source| module_path(&source.path).into_iter().next())
        .filter(|module| !known.contains(module.as_str()))
        .map(|module| format!("module `{module}` is in no layer of tests/tidy.rs"))
        .collect();

    assert_none(&offences);
}

#[test]
fn arrows_stay_within_a_layer_and_make_no_circle() {
    for (from, to) in ARROWS {
        assert_eq!(layer_of(from), layer_of(to), "{from} -> {to} is no arrow within a layer");
    }
    let arrows: BTreeMap<&str, Vec<&str>> = ARROWS.iter().fold(BTreeMap::new(), |mut map, (from, to)| {
        map.entry(*from).or_insert_with(Vec::new).push(*to);
        map
    });
    for (start, _) in ARROWS {
        let mut ahead = arrows[start].clone();
        let mut seen = BTreeSet::new();
        while let Some(next) = ahead.pop() {
            assert_ne!(next, *start, "arrows lead from {start} back to itself");
            if seen.insert(next) {
                ahead.extend(arrows.get(next).into_iter().flatten());
            }
        }
    }
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let offences: Vec<String> =
        all_sources().iter().filter(|source| has_empty_name(&source.path)).map(|source| source.path.clone()).collect();

    assert_none(&offences);
}

#[test]
fn every_file_begins_with_a_header() {
    let offences: Vec<String> = all_sources()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{}:1: no `//!` header", source.path))
        .collect();

    assert_none(&offences);
}

#[test]
fn no_glob_import_of_the_parent_outside_tests() {
    let offences: Vec<String> =
        sources("src").iter().flat_map(|source| glob_offences(&source.path, &source.text)).collect();

    assert_none(&offences);
}

#[test]
fn nothing_is_re_exported_across_modules() {
    let offences: Vec<String> =
        sources("src").iter().flat_map(|source| re_export_offences(&source.path, &source.text)).collect();

    assert_none(&offences);
}

#[test]
fn what_the_threat_table_names_exists() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs can be read");
    let tests: BTreeSet<String> = all_sources().iter().flat_map(|source| test_names(&source.text)).collect();
    let offences = threat_offences(&lib, &tests, &|path| root().join(path).exists());

    assert_none(&offences);
}

// ---- the same rules on planted offences ----

/// A test that nobody runs proves nothing. `tests/run` runs the ignored ones of this file, and of no other.
#[test]
fn no_test_is_ignored_that_nobody_runs() {
    let sources: Vec<Source> = ["src", "tests", "benches"].into_iter().flat_map(sources).collect();
    let offences: Vec<String> = sources
        .iter()
        .filter(|source| source.path != "tests/tidy.rs")
        .flat_map(|source| ignore_offences(&source.path, &source.text))
        .collect();

    assert_none(&offences);
    let run = fs::read_to_string(root().join("tests/run")).expect("tests/run can be read");
    assert!(run.contains("--test memory -- --ignored"), "tests/run runs what tests/memory.rs ignores");
}

#[test]
fn a_planted_ignored_test_is_found() {
    for (path, text, offences) in [
        ("tests/gateway/x.rs", "#[ignore = \"slow\"]\nfn x() {}", 1),
        ("src/x.rs", "    #[ignore]\n", 1),
        ("tests/memory.rs", "#[ignore]\n", 1),
        ("tests/memory.rs", "#[ignore = \"takes a gibibyte\"]\n", 0),
        ("src/x.rs", "//! ```ignore\n", 0),
    ] {
        assert_eq!(ignore_offences(path, text).len(), offences, "{path}: {text}");
    }
}

#[test]
fn a_planted_upward_import_is_found() {
    for (path, text) in [
        ("src/authz.rs", "use crate::pipeline;"),
        ("src/authz.rs", "use crate::{route::Route, pipeline::{handle, Other}};"),
        ("src/authz.rs", "use crate::{\n    identity::Identity,\n    state::Snapshot as Everything,\n};"),
        ("src/authz.rs", "fn f() -> crate::config::Config { g::<crate::clock::Clock>() }"),
        ("src/authz.rs", "use super::decide::Decision;"),
        ("src/authn/jwt.rs", "use super::super::edge;"),
        ("src/authn/jwt.rs", "mod inner { use super::super::super::edge::Conn; }"),
        ("src/authn/jwt.rs", "use super::{keys, super::{admin::Scope, clock}};"),
        ("src/telemetry/mod.rs", "use crate::identity::Identity;"),
        ("src/host.rs", "use crate::client::Connection;"),
        ("src/route/mod.rs", "use crate::session::Settings;"),
        ("src/authz.rs", "use crate::headers::OutboundRequest;"),
        ("src/headers/mod.rs", "use crate::upstream::Upstream;"),
        ("src/clock.rs", "use crate::surprise::Thing;"),
        ("src/clock.rs", "use crate::*;"),
        ("src/edge/mod.rs", "#[cfg(not(test))] use crate::gateway::Running;"),
        ("src/state.rs", "#[cfg(test)] mod tests { fn f() {} } use crate::reload;"),
    ] {
        assert_eq!(import_offences(path, text).len(), 1, "{path}: {text}");
    }
}

#[test]
fn downward_imports_and_tests_are_left_alone() {
    for (path, text) in [
        ("src/pipeline.rs", "use crate::{authz::{self, Permit}, decide, headers, state::Snapshot, upstream};"),
        ("src/headers/mod.rs", "use crate::authz::Permit;"),
        ("src/upstream/mod.rs", "use crate::headers::OutboundRequest;"),
        ("src/inbound.rs", "use crate::{client::Connection, clock::Timestamp, id::RequestId};"),
        ("src/authn/jwt.rs", "use super::keys::KeySet; use crate::authn::token_cache; use self::inner::X;"),
        ("src/authz.rs", "// use crate::pipeline;\n/* crate::edge::x */ const S: &str = \"crate::edge::x\";"),
        ("src/authz.rs", "const S: &str = r#\"use crate::edge::\"x\"#; const C: char = '\"'; fn f<'a>(x: &'a str) {}"),
        ("src/authz.rs", "#[cfg(test)]\nmod tests { use super::*; use crate::gateway::Running; fn f() { { } } }"),
        ("src/authz.rs", "#[cfg(test)] #[path = \"x.rs\"] mod tests; pub(crate) fn f() {}"),
        ("src/authz/tests.rs", "use crate::gateway::Running;"),
        ("src/main.rs", "use portcullis::{cli, gateway};"),
        ("src/lib.rs", "pub mod gateway; pub mod authz;"),
    ] {
        assert_none(&import_offences(path, text));
    }
}

#[test]
fn planted_globs_re_exports_and_names_are_found() {
    assert_eq!(glob_offences("src/authz.rs", "use super::*;").len(), 1);
    assert_eq!(glob_offences("src/authz.rs", "use super::{*};").len(), 1);
    assert_none(&glob_offences("src/authz.rs", "#[cfg(test)] mod tests { use super::*; }"));

    assert_eq!(re_export_offences("src/lib.rs", "pub use authz::Permit;").len(), 1);
    assert_eq!(re_export_offences("src/lib.rs", "pub(crate) use crate::authz::Permit;").len(), 1);
    assert_eq!(re_export_offences("src/headers/mod.rs", "pub use crate::authz::Permit;").len(), 1);
    assert_eq!(re_export_offences("src/headers/mod.rs", "pub use super::authz::Permit;").len(), 1);
    assert_none(&re_export_offences("src/headers/mod.rs", "pub mod hop; pub use hop::Hop; pub use self::hop::A;"));
    assert_none(&re_export_offences("src/headers/hop.rs", "pub(super) use super::Fields; use crate::authz::Permit;"));

    assert!(has_empty_name("src/route/helpers.rs") && has_empty_name("src/common/mod.rs"));
    assert!(!has_empty_name("src/route/path.rs"));
}

#[test]
fn a_threat_without_its_test_is_found() {
    let table = |test: &str| {
        format!(
            "//! | threat | answer | file | test |\n//! |---|---|---|---|\n\
             //! | Spoofed identity headers | stripped | `src/headers/identity.rs` | {test} |\n//!\n//! More `words`.\n"
        )
    };
    let tests = test_names(
        "#[test]\nfn client_sent_x_user_header_never_reaches_upstream() {}\n#[tokio::test]\nasync fn other() {}\nfn helper() {}",
    );
    let offences = |text: &str| threat_offences(text, &tests, &|path| path == "src/headers/identity.rs");

    assert_eq!(tests.len(), 2);
    assert_none(&offences(&table(
        "`attacks::header_spoofing::client_sent_x_user_header_never_reaches_upstream`, `other`",
    )));
    assert_eq!(offences(&table("`client_sent_x_user_header_never_reaches`")).len(), 1);
    assert_eq!(offences(&table("`helper`")).len(), 1, "a function that is no test proves nothing");
    assert_eq!(offences(&table("later")).len(), 1, "a threat without any test");
    assert_eq!(offences("//! No table at all.\n").len(), 1);
    assert_eq!(threat_offences(&table("`other`"), &tests, &|_| false).len(), 1, "the file is gone");
}

// ---- rules ----

fn import_offences(path: &str, text: &str) -> Vec<String> {
    let own = module_path(path);
    // lib.rs declares the modules; it imports none (`re_export_offences`).
    let Some(from) = own.first() else { return Vec::new() };
    if is_test_file(path) {
        return Vec::new();
    }
    imports(path, text)
        .into_iter()
        .filter(|import| import.target != *from)
        .filter_map(|import| {
            let why = refuse(from, &import.target)?;
            Some(format!("{path}:{}: `{from}` imports `{}`: {why}", import.line, import.target))
        })
        .collect()
}

/// Why `from` may not import `to`; `None` if it may.
fn refuse(from: &str, to: &str) -> Option<String> {
    if to == "*" {
        return Some("a glob import of the whole crate hides every edge".into());
    }
    let (Some(from_layer), Some(to_layer)) = (layer_of(from), layer_of(to)) else {
        return Some("one of them is in no layer of tests/tidy.rs".into());
    };
    if to_layer < from_layer || ARROWS.contains(&(from, to)) {
        return None;
    }
    if to_layer > from_layer {
        return Some(format!("upwards, from layer {from_layer} to layer {to_layer}"));
    }
    let place = |name| FOUNDATION.iter().position(|module| *module == name);
    match (place(from), place(to)) {
        (Some(from), Some(to)) if to < from => None,
        _ => Some(format!("both are in layer {from_layer} and no arrow says so")),
    }
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn glob_offences(path: &str, text: &str) -> Vec<String> {
    if is_test_file(path) {
        return Vec::new();
    }
    let tokens = production_tokens(text);
    tokens
        .iter()
        .enumerate()
        .filter(|(at, token)| {
            let after: Vec<&str> = tokens[at + 1..].iter().take(4).map(|token| token.text.as_str()).collect();
            token.text == "super" && (after.starts_with(&[":", ":", "*"]) || after == [":", ":", "{", "*"])
        })
        .map(|(_, token)| format!("{path}:{}: `use super::*` outside tests", token.line))
        .collect()
}

fn re_export_offences(path: &str, text: &str) -> Vec<String> {
    if is_test_file(path) {
        return Vec::new();
    }
    let own = module_path(path);
    let tokens = production_tokens(text);
    let mut offences = Vec::new();
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "use") {
        let is_public = at > 0 && (tokens[at - 1].text == "pub" || closes_pub(&tokens, at - 1));
        if !is_public {
            continue;
        }
        let crosses = own.is_empty()
            || paths_from(&tokens, at + 1, &own).iter().any(|import| own.first() != Some(&import.target));
        if crosses {
            offences.push(format!("{path}:{}: a re-export of another module hides who imports whom", token.line));
        }
    }
    offences
}

/// Whether the token at `at` is the `)` of `pub(…)`.
fn closes_pub(tokens: &[Token], at: usize) -> bool {
    tokens[at].text == ")"
        && tokens[..at]
            .iter()
            .rposition(|token| token.text == "(")
            .is_some_and(|open| open > 0 && tokens[open - 1].text == "pub")
}

fn has_empty_name(path: &str) -> bool {
    path.split('/').any(|part| EMPTY_NAMES.contains(&part.trim_end_matches(".rs")))
}

/// Checks the rows of the table whose first column is `threat`: files in back-quotes exist, and so do the tests.
fn ignore_offences(path: &str, text: &str) -> Vec<String> {
    let attributes = text.lines().map(str::trim).filter(|line| line.starts_with("#[ignore"));
    let fits = |line: &&str| path == "tests/memory.rs" && line.starts_with("#[ignore = \"");
    attributes
        .filter(|line| !fits(line))
        .map(|line| format!("{path}: {line}: nobody runs it, or it says not why"))
        .collect()
}

fn threat_offences(lib: &str, tests: &BTreeSet<String>, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut rows = 0;
    let mut offences = Vec::new();
    let lines =
        lib.lines().enumerate().skip_while(|(_, line)| cells(line).first().is_none_or(|cell| *cell != "threat"));
    for (number, line) in lines.skip(2).take_while(|(_, line)| !cells(line).is_empty()) {
        rows += 1;
        let row = cells(line);
        let quoted: Vec<&str> = row.iter().flat_map(|cell| back_quoted(cell)).collect();
        for file in quoted.iter().filter(|name| name.contains('/') && !exists(name)) {
            offences.push(format!("src/lib.rs:{}: `{file}` does not exist", number + 1));
        }
        let named = row.last().map(|cell| back_quoted(cell)).unwrap_or_default();
        if named.is_empty() {
            offences.push(format!("src/lib.rs:{}: this threat names no test", number + 1));
        }
        for name in named {
            if !tests.contains(name.rsplit("::").next().unwrap_or(name)) {
                offences.push(format!("src/lib.rs:{}: there is no test `{name}`", number + 1));
            }
        }
    }
    if rows == 0 {
        offences.push("src/lib.rs: no table that begins `//! | threat | …` with at least one row".into());
    }
    offences
}

fn cells(line: &str) -> Vec<&str> {
    let Some(row) = line.strip_prefix("//!").map(str::trim).and_then(|row| row.strip_prefix('|')) else {
        return Vec::new();
    };
    row.trim_end_matches('|').split('|').map(str::trim).collect()
}

fn back_quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Functions with an attribute that ends in `test`, those of `proptest!` blocks among them.
fn test_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            let name = line.trim_start_matches("#[").split(['(', ']']).next().unwrap_or_default();
            is_test |= name == "test" || name.ends_with("::test");
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|(before, _)| ["", "async "].contains(before)) {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            if std::mem::take(&mut is_test) {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

// ---- reading sources ----

struct Source {
    /// Relative to the crate's root, with `/`.
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn all_sources() -> Vec<Source> {
    ["src", "tests", "benches"].into_iter().flat_map(sources).collect()
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut ahead: Vec<PathBuf> = vec![root().join(folder)];
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder can be read");
            ahead.extend(entries.map(|entry| entry.expect("a folder can be read").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
            found.push(Source { path: relative, text: fs::read_to_string(&path).expect("a source can be read") });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// `src/authn/jwt.rs` → `[authn, jwt]`; `src/lib.rs` → `[]`.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

struct Import {
    /// The top-level module, or `*`.
    target: String,
    line: usize,
}

/// Every path of a source that names a top-level module: through `crate`, through enough `super`, or, in the binary,
/// through the library's name.
fn imports(path: &str, text: &str) -> Vec<Import> {
    let mut own = module_path(path);
    let is_binary = own == ["main"];
    let tokens = production_tokens(text);
    let mut found = Vec::new();
    // Inline modules, as (brace depth they opened at): each adds a level that `super` takes away again.
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at].text.as_str();
        let text_at = |offset: usize| tokens.get(at + offset).map(|token| token.text.as_str());
        match token {
            "{" => {
                depth += 1;
                if at >= 2 && tokens[at - 2].text == "mod" {
                    inline.push(depth);
                    own.push(tokens[at - 1].text.clone());
                }
            }
            "}" => {
                if inline.last() == Some(&depth) {
                    inline.pop();
                    own.pop();
                }
                depth -= 1;
            }
            _ => {
                let starts_path = token == "crate" || token == "super" || (is_binary && token == "portcullis");
                let is_inner = at >= 1 && tokens[at - 1].text == ":" && token != "crate";
                if starts_path && !is_inner && text_at(1) == Some(":") && text_at(2) == Some(":") {
                    found.extend(paths_from(&tokens, at, &own));
                    // A tree in braces has been read whole; its inner `super` is not a path of its own.
                    while at + 1 < tokens.len()
                        && ["super", "crate", "portcullis", ":"].contains(&tokens[at + 1].text.as_str())
                    {
                        at += 1;
                    }
                    if tokens.get(at + 1).is_some_and(|next| next.text == "{") {
                        at = closing(&tokens, at + 1);
                    }
                }
            }
        }
        at += 1;
    }
    found
}

/// The top-level modules that the path or tree beginning at `at` names, seen from module `own`.
fn paths_from(tokens: &[Token], at: usize, own: &[String]) -> Vec<Import> {
    let mut found = Vec::new();
    read_tree(tokens, at, own.to_vec(), true, &mut found);
    found
}

fn read_tree(tokens: &[Token], mut at: usize, mut here: Vec<String>, mut is_start: bool, found: &mut Vec<Import>) {
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            ":" => at += 1,
            "crate" | "portcullis" if is_start => {
                here.clear();
                is_start = false;
                at += 1;
            }
            "super" => {
                here.pop();
                is_start = false;
                at += 1;
            }
            "self" => {
                is_start = false;
                at += 1;
            }
            "{" => {
                let end = closing(tokens, at);
                let mut element = at + 1;
                while element < end {
                    read_tree(tokens, element, here.clone(), is_start, found);
                    while element < end && tokens[element].text != "," {
                        element = if tokens[element].text == "{" { closing(tokens, element) + 1 } else { element + 1 };
                    }
                    element += 1;
                }
                return;
            }
            name => {
                // A first name without `crate`, `self` or `super` is a child or another crate: no edge of ours.
                let is_name = name == "*" || name.chars().all(|c| c.is_alphanumeric() || c == '_');
                if here.is_empty() && !is_start && is_name {
                    found.push(Import { target: name.to_owned(), line: token.line });
                }
                return;
            }
        }
    }
}

fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len().saturating_sub(1)
}

struct Token {
    text: String,
    line: usize,
}

/// Tokens without comments, literals and items under `#[cfg(test)]`.
fn production_tokens(text: &str) -> Vec<Token> {
    let all = tokenize(text);
    let mut kept = Vec::with_capacity(all.len());
    let mut tokens = all.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if token.text != "#" || tokens.peek().is_none_or(|next| next.text != "[") {
            kept.push(token);
            continue;
        }
        let attribute = take_group(&mut tokens, "[", "]");
        let words: Vec<&str> = attribute.iter().map(|token| token.text.as_str()).collect();
        if words.contains(&"cfg") && words.contains(&"test") && !words.contains(&"not") {
            skip_item(&mut tokens);
        }
    }
    kept
}

fn take_group(tokens: &mut std::iter::Peekable<std::vec::IntoIter<Token>>, open: &str, close: &str) -> Vec<Token> {
    let mut depth = 0;
    let mut taken = Vec::new();
    for token in tokens.by_ref() {
        depth += usize::from(token.text == open);
        let is_end = token.text == close && depth == 1;
        depth -= usize::from(token.text == close);
        taken.push(token);
        if is_end {
            break;
        }
    }
    taken
}

/// Skips to the end of the item that follows: its `;`, or the brace that closes its body.
fn skip_item(tokens: &mut std::iter::Peekable<std::vec::IntoIter<Token>>) {
    while let Some(next) = tokens.peek() {
        match next.text.as_str() {
            "{" => {
                take_group(tokens, "{", "}");
                return;
            }
            "[" => {
                take_group(tokens, "[", "]");
            }
            "(" => {
                take_group(tokens, "(", ")");
            }
            ";" => {
                tokens.next();
                return;
            }
            _ => {
                tokens.next();
            }
        }
    }
}

fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let c = chars[i];
        let start = i;
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                if at(i) == '/' && at(i + 1) == '*' {
                    depth += 1;
                    i += 2;
                } else if at(i) == '*' && at(i + 1) == '/' {
                    depth -= 1;
                    i += 2;
                } else {
                    i += 1;
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            i = after_string(&chars, i);
        } else if c == '\'' {
            // A character ends with a quote; a lifetime does not.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            } else {
                i += if at(i + 2) == '\'' { 3 } else { 1 };
            }
        } else if c.is_alphanumeric() || c == '_' {
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            let word: String = chars[start..i].iter().collect();
            let is_prefix = ["r", "b", "br", "c", "cr"].contains(&word.as_str());
            let hashes = (i..chars.len()).take_while(|index| chars[*index] == '#').count();
            if is_prefix && word.contains('r') && at(i + hashes) == '"' {
                i = after_raw_string(&chars, i + hashes + 1, hashes);
            } else if is_prefix && at(i) == '"' {
                i = after_string(&chars, i);
            } else {
                tokens.push(Token { text: word, line });
            }
        } else {
            if !c.is_whitespace() {
                tokens.push(Token { text: c.to_string(), line });
            }
            i += 1;
        }
        line += chars[start..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn after_string(chars: &[char], quote: usize) -> usize {
    let mut i = quote + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn after_raw_string(chars: &[char], content: usize, hashes: usize) -> usize {
    let mut i = content;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

fn assert_none(offences: &[String]) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}
