//! The text of a users file, in TOML or as htpasswd writes it, as one tree.
//!
//! In: a path. Out: `[[user]]` entries as they would stand in TOML, each with its place. What they mean is judged
//! together with the users of the configuration itself.

use std::path::Path;

use crate::{
    accounts::htpasswd,
    config::{
        place::Place,
        report::Findings,
        tree::{self, Entry, Node, Value},
    },
};

/// Reads a users file; problems are noted and answered with `None`.
pub(super) fn read(path: &Path, file: &Place, findings: &mut Findings) -> Option<Node> {
    let text = tree::text(path, file, findings)?;
    if htpasswd::is_htpasswd(&text) { from_htpasswd(&text, file, findings) } else { tree::parse(&text, file, findings) }
}

fn from_htpasswd(text: &str, file: &Place, findings: &mut Findings) -> Option<Node> {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let entries = htpasswd::parse(text).map_err(|unreadable| {
        for line in unreadable {
            let place = file.at(number(line.line), 1, "");
            findings.problem(&place, "a line (not repeated here) without a name and a colon", "name:hash");
        }
    });
    let user = |(index, entry): (usize, &htpasswd::Entry<'_>)| {
        let key = format!("user[{index}]");
        let line = number(entry.line);
        let text = |column: usize, name: &str, text: &str| {
            let place = file.at(line, number(column), format!("{key}.{name}"));
            let node = Node { place: place.clone(), value: Value::String(text.to_owned()) };
            Entry { key: name.to_owned(), place, node }
        };
        let password = text(entry.name.chars().count() + 2, "password", entry.hash);
        let fields = vec![text(1, "name", entry.name), password];
        Node { place: file.at(line, 1, key.clone()), value: Value::Table(fields) }
    };
    let users: Vec<Node> = entries.ok()?.iter().enumerate().map(user).collect();
    let place = file.at(1, 1, "user");
    let all = Entry { key: "user".to_owned(), place: place.clone(), node: Node { place, value: Value::Array(users) } };
    Some(Node { place: file.clone(), value: Value::Table(vec![all]) })
}
