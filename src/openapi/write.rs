//! Operations as text: one `[[route]]` for each operation and base path, in the order of path and method.
//!
//! Invariants: whatever a document says in words stands in a comment on one line or in a TOML string, never as TOML;
//! names are unique and names of routes; `optional` is always said, so that nothing laxer is inherited.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    Import, Options,
    document::Operation,
    rule::{Rule, Schemes},
};
use crate::{host::Authority, route::path::PathPattern};

/// One route, but for its rule.
struct Place {
    hosts: Vec<String>,
    path: String,
    /// Why no pattern matches the same.
    unfit: Option<String>,
}

pub(super) fn fragment(operations: &[Operation], schemes: &Schemes, options: &Options) -> Import {
    let mut text = String::from(HEADER);
    let mut names = BTreeSet::new();
    let (mut routes, mut unsaid) = (0, 0);
    for operation in operations {
        if operation.method == "TRACE" {
            let _ = write!(text, "\n# TRACE {}: never served (R11).\n", comment(&operation.path));
            continue;
        }
        let rule = schemes.rule(operation.security.as_deref());
        for place in places(operation, options) {
            let name = unique(&name(operation, &options.prefix), &mut names);
            let said = route(&mut text, operation, &place, &rule, &name, options);
            routes += 1;
            unsaid += usize::from(!said);
        }
    }
    Import { fragment: text, routes, unsaid }
}

/// Whether its rule could be said.
fn route(text: &mut String, operation: &Operation, place: &Place, rule: &Rule, name: &str, options: &Options) -> bool {
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(String::new());
    let summary = operation.summary.as_deref().map(|summary| format!(": {}", comment(summary))).unwrap_or_default();
    line(format!("# {} {}{summary}", operation.method, comment(&operation.path)));
    let Place { hosts, path, unfit } = place;
    if let Some(note) = unfit {
        line(format!("# Not said: {}", comment(note)));
    }
    let known = match rule {
        Rule::Public => Some((vec!["none"], None)),
        Rule::Known { auth, optional, all, any, notes } => {
            for note in notes {
                line(format!("# Stricter than the document: {}", comment(note)));
            }
            Some((auth.iter().map(String::as_str).collect(), Some((optional, all, any))))
        }
        Rule::Unsaid(reasons) => {
            for reason in reasons {
                line(format!("# Not said: {}", comment(reason)));
            }
            None
        }
    };
    let known = known.filter(|_| unfit.is_none());
    line("[[route]]".into());
    line(format!("name = {}", quoted(name)));
    let hosts = match hosts.as_slice() {
        [] => String::new(),
        hosts => format!("host = {}, ", array(hosts.iter().map(String::as_str))),
    };
    line(format!("match = {{ {hosts}path = {}, methods = [{}] }}", quoted(path), quoted(&operation.method)));
    let Some((auth, more)) = known else {
        line("auth = []                                      # nothing is loaded before somebody has said it".into());
        upstream(&mut line, options);
        return false;
    };
    line(format!("auth = {}", array(auth.into_iter())));
    if let Some((optional, all, any)) = more {
        line(format!("optional = {optional}"));
        let lists = [("all", all), ("any", any)];
        let lists = lists.iter().filter(|(_, list)| !list.is_empty());
        let lists: Vec<String> =
            lists.map(|(key, list)| format!("{key} = {}", array(list.iter().map(String::as_str)))).collect();
        if !lists.is_empty() {
            line(format!("require = {{ {} }}", lists.join(", ")));
        }
    }
    upstream(&mut line, options);
    true
}

fn upstream(line: &mut impl FnMut(String), options: &Options) {
    if let Some(upstream) = &options.upstream {
        line(format!("upstream = {}", quoted(upstream)));
    }
}

/// Where an operation is: for each base path of its servers the hosts that have it.
fn places(operation: &Operation, options: &Options) -> Vec<Place> {
    let mut hosts_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut everywhere = BTreeSet::new();
    for server in &operation.servers {
        let (host, base) = split(server);
        let base = base.trim_end_matches('/').to_owned();
        let hosts = hosts_of.entry(base.clone()).or_default();
        match host {
            Some(host) => drop(hosts.insert(host)),
            None => drop(everywhere.insert(base)),
        }
    }
    let place = |(base, hosts): (String, BTreeSet<String>)| {
        let hosts = match options.hosts.as_slice() {
            // A server without a host is wherever the document is.
            [] if everywhere.contains(&base) => Vec::new(),
            [] => hosts.into_iter().collect(),
            chosen => chosen.to_vec(),
        };
        let whole = format!("{base}{}", operation.path);
        let (path, unfit) = match pattern(&whole) {
            Ok(path) => (path, None),
            Err(why) => (whole, Some(why)),
        };
        Place { hosts, path, unfit }
    };
    hosts_of.into_iter().map(place).collect()
}

/// Host and base path of a server's URL.
fn split(server: &str) -> (Option<String>, String) {
    let rest = match server.split_once("://") {
        Some((_, rest)) => rest,
        None => match server.strip_prefix("//") {
            Some(rest) => rest,
            None => return (None, path_only(server)),
        },
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // What is no host is left as it is, and refused where it is loaded.
    let host = authority.parse::<Authority>().map_or_else(|_| authority.to_owned(), |known| known.host.to_string());
    (Some(host), path_only(path))
}

fn path_only(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.strip_prefix("./").unwrap_or(path);
    if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// A path template as a pattern of ours, or why there is none that matches the same.
fn pattern(path: &str) -> Result<String, String> {
    let mut seen = BTreeSet::new();
    let segments: Result<Vec<String>, String> =
        path.split('/').skip(1).map(|segment| parameter(segment, &mut seen)).collect();
    let pattern = segments?.iter().map(|segment| format!("/{segment}")).collect::<String>();
    match pattern.parse::<PathPattern>() {
        Ok(_) => Ok(pattern),
        Err(error) => Err(error.to_string()),
    }
}

fn parameter(segment: &str, seen: &mut BTreeSet<String>) -> Result<String, String> {
    let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        if segment.contains(['{', '}']) {
            return Err(format!(
                "the segment {segment:?} mixes text and parameter, and a parameter here is a whole segment"
            ));
        }
        return Ok(segment.to_owned());
    };
    if name.is_empty() || name.contains(['{', '}']) {
        return Err(format!(
            "the segment {segment:?} mixes text and parameter, and a parameter here is a whole segment"
        ));
    }
    let mut plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if plain.starts_with(|c: char| c.is_ascii_digit()) {
        plain.insert(0, '_');
    }
    let plain = unique_among(plain, '_', seen);
    Ok(format!("{{{plain}}}"))
}

/// The operation's own name, as far as it is one, or its method and path.
fn name(operation: &Operation, prefix: &str) -> String {
    let fallback = || format!("{}{}", operation.method.to_ascii_lowercase(), operation.path);
    let own = operation.id.clone().filter(|id| id.contains(|c: char| c.is_ascii_alphanumeric()));
    let words = own.unwrap_or_else(fallback);
    let plain: String = words
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .collect();
    let words: Vec<&str> = plain.split('-').filter(|word| !word.is_empty()).collect();
    format!("{prefix}{}", words.join("-")).chars().take(LONGEST_NAME).collect()
}

fn unique(name: &str, names: &mut BTreeSet<String>) -> String {
    unique_among(name.to_owned(), '-', names)
}

fn unique_among(name: String, separator: char, names: &mut BTreeSet<String>) -> String {
    let mut candidate = name.clone();
    let mut number = 2_usize;
    while !names.insert(candidate.clone()) {
        candidate = format!("{name}{separator}{number}");
        number += 1;
    }
    candidate
}

fn array<'t>(items: impl Iterator<Item = &'t str>) -> String {
    format!("[{}]", items.map(quoted).collect::<Vec<_>>().join(", "))
}

/// As a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => drop(write!(out, "\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// On one line, without anything that a terminal obeys.
fn comment(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c });
    let mut line: String = plain.take(LONGEST_COMMENT).collect();
    line.truncate(line.trim_end().len());
    line
}

const HEADER: &str = "\
# Made of an OpenAPI document by `portcullis import openapi`: who may not call an operation by the document may not here.
# `auth = []` marks what the document says and a route cannot: say it yourself. Without the route its path could fall to a
# wider one, such as /users/me to /users/{id}.
";
const LONGEST_COMMENT: usize = 100;
/// Leaves room for a number.
const LONGEST_NAME: usize = 56;
