//! Every crate in the tree may be shipped in a program under Apache-2.0: its licence is on the list below.
//!
//! In: `cargo metadata`, offline. SPDX expressions are read with AND, OR, WITH and brackets; the old `/` means OR.
//! Crates without a licence expression, and registries other than the usual one, are refused.
#![expect(clippy::expect_used, reason = "a test that cannot read the tree must fail")]

use std::process::Command;

use serde_json::Value;

/// Licences that ask for a notice at most.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[test]
fn every_crate_has_a_licence_that_we_may_ship() {
    let offences: Vec<String> = packages()
        .iter()
        .filter(|package| package["source"].is_string())
        .filter(|package| !is_allowed(package["license"].as_str().unwrap_or_default()))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();

    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn every_crate_comes_from_the_registry() {
    let offences: Vec<String> = packages()
        .iter()
        .filter(|package| package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")))
        .map(|package| format!("{}: {}", package["name"], package["source"]))
        .collect();

    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    for good in [
        "MIT",
        "MIT OR Apache-2.0",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        "(MIT OR GPL-3.0-only) AND Unicode-3.0",
        "ISC AND (Apache-2.0 OR ISC) AND OpenSSL",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR ISC) AND AGPL-3.0-only",
        "MIT WITH odd-exception",
        "MIT OR",
    ] {
        assert!(!is_allowed(bad), "{bad}");
    }
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be called");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo answers in JSON");
    let packages = metadata["packages"].as_array().expect("cargo lists packages").clone();
    assert!(packages.len() > 50, "the whole tree and not only ourselves");
    packages
}

fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let allowed = any(&mut rest);
    allowed == Some(true) && rest.is_empty()
}

/// `a OR b`; `None` if it cannot be read.
fn any(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = all(words)?;
    while let Some(rest) = after(words, "OR") {
        *words = rest;
        allowed |= all(words)?;
    }
    Some(allowed)
}

/// `a AND b`, which binds more tightly.
fn all(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(words)?;
    while let Some(rest) = after(words, "AND") {
        *words = rest;
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    if *first == "(" {
        let allowed = any(words)?;
        *words = after(words, ")")?;
        return Some(allowed);
    }
    if ["OR", "AND", "WITH", ")"].contains(first) {
        return None;
    }
    let Some(exception) = after(words, "WITH") else { return Some(ALLOWED.contains(first)) };
    let (exception, rest) = exception.split_first()?;
    *words = rest;
    Some(ALLOWED.contains(&format!("{first} WITH {exception}").as_str()))
}

fn after<'a, 'b>(words: &'a [&'b str], word: &str) -> Option<&'a [&'b str]> {
    words.split_first().filter(|(first, _)| **first == word).map(|(_, rest)| rest)
}
