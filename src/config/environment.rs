//! The environment as a source of settings (R38): `PORTCULLIS__SERVER__LISTEN` stands for `listen` in `[server]`.
//! Only scalars of sections, and `server.listen` as a comma-separated list; nothing that decides who gets in.

use std::{collections::BTreeMap, path::Path};

use super::{
    place::{Place, join},
    report::{Findings, quote},
    tree::{Entry, Node, Value},
};

/// The environment of this process, handed in.
pub(super) type Environment = BTreeMap<String, String>;

/// Writes every `PORTCULLIS__…` variable over what the file says.
pub(super) fn apply(root: &mut Node, environment: &Environment, folder: &Path, findings: &mut Findings) {
    for (name, value) in environment {
        if let Some(path) = name.strip_prefix(PREFIX) {
            set(root, name, path, value, folder, findings);
        }
    }
}

fn set(root: &mut Node, name: &str, path: &str, value: &str, folder: &Path, findings: &mut Findings) {
    let segments: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
    let place = Place::environment(name, &segments.join("."), folder);
    let known = segments.first().is_some_and(|first| SECTIONS.contains(&first.as_str()));
    if !known || segments.iter().any(|segment| NEVER.contains(&segment.as_str())) {
        let found = format!("an environment variable for `{}`", segments.join("."));
        let expected = format!("a scalar in one of the sections {}", SECTIONS.join(", "));
        findings.problem(&place, found, expected).help("who gets in where is decided in the file alone (R38)");
        return;
    }
    let mut node = root;
    for (depth, segment) in segments.iter().enumerate() {
        let described = node.describe();
        let key_path = node.place.key().to_owned();
        let Value::Table(entries) = &mut node.value else {
            findings.problem(&place, format!("a variable for a key inside {described}"), "one for a scalar");
            return;
        };
        let index = entries.iter().position(|entry| same(&entry.key, segment)).unwrap_or_else(|| {
            let place = Place::environment(name, &join(&key_path, segment), folder);
            let node = Node { place: place.clone(), value: Value::Table(Vec::new()) };
            entries.push(Entry { key: segment.clone(), place, node });
            entries.len() - 1
        });
        let entry = &mut entries[index];
        if depth + 1 == segments.len() {
            let replaceable = match &entry.node.value {
                Value::Table(entries) => entries.is_empty(),
                Value::Array(_) => segments == ["server", "listen"],
                Value::Boolean(_)
                | Value::Datetime(_)
                | Value::Environment(_)
                | Value::Float(_)
                | Value::Integer(_)
                | Value::String(_) => true,
            };
            if !replaceable {
                let found = format!("{} over {}", quote(value), entry.node.describe());
                findings.problem(&place, found, "a variable for a scalar").help("tables and lists are set in the file");
                return;
            }
            let place = Place::environment(name, entry.place.key(), folder);
            entry.node = Node { place, value: Value::Environment(value.to_owned()) };
            return;
        }
        node = &mut entry.node;
    }
}

/// Whether a key of the file is the one that a variable's segment means; upstream names may hold `-` and capitals.
fn same(key: &str, segment: &str) -> bool {
    key.to_ascii_lowercase().replace('-', "_") == *segment
}

const PREFIX: &str = "PORTCULLIS__";

/// Where scalars may be set.
const SECTIONS: [&str; 10] =
    ["admin", "identity", "limits", "log", "login", "server", "session", "telemetry", "tls", "upstream"];

/// Words that no path may hold.
const NEVER: [&str; 7] = ["auth", "csrf", "grants", "optional", "proof", "require", "trust_email"];
