//! `portcullis users list`: one line each, never a hash.

use std::{
    io::{self, Write},
    path::Path,
};

use super::open;
use crate::{accounts::users_file::Entry, cli::Failure};

pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let mut text = String::new();
    for (entry, hash) in open(file)?.list() {
        text.push_str(&line(&entry, &hash));
        text.push('\n');
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(error.to_string())),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What was typed into the file must not steer a terminal: texts are shown as Rust would write them.
fn line(entry: &Entry, hash: &str) -> String {
    let mut parts = vec![format!("{:?}", entry.name)];
    let mut tell = |key: &str, text: &Option<String>| parts.extend(text.iter().map(|text| format!("{key}={text:?}")));
    tell("id", &entry.id);
    tell("email", &entry.email);
    for (key, list) in [("roles", &entry.roles), ("groups", &entry.groups)] {
        if !list.is_empty() {
            parts.push(format!("{key}={list:?}"));
        }
    }
    if entry.second_factor {
        parts.push("factor=totp".to_owned());
    }
    parts.push(format!("({hash})"));
    parts.join("  ")
}
