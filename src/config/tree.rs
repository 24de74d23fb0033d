//! The text of one TOML file as a tree whose every node knows its place. The only user of the `toml` crate: syntax
//! errors, all of them, are reported here; a file with one is not looked at further.

use std::{path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    place::{Place, join},
    report::{Findings, quote},
};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What TOML knows, and a text from the environment whose type its reader decides.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Array(Vec<Node>),
    Boolean(bool),
    Datetime(String),
    Environment(String),
    Float(f64),
    Integer(i128),
    String(String),
    Table(Vec<Entry>),
}

/// One key of a table with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key stands; the value has a place of its own.
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Node {
    /// As a report shows it.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Array(_) => String::from("an array"),
            Value::Boolean(value) => value.to_string(),
            Value::Datetime(text) => format!("the date {text}"),
            Value::Environment(text) | Value::String(text) => quote(text),
            Value::Float(number) => number.to_string(),
            Value::Integer(number) => number.to_string(),
            Value::Table(_) => String::from("a table"),
        }
    }

    /// The entries of a table.
    pub(super) fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            Value::Array(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Environment(_)
            | Value::Float(_)
            | Value::Integer(_)
            | Value::String(_) => None,
        }
    }

    /// What lies at a path of keys.
    pub(super) fn find(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.entries()?.iter().find(|entry| entry.key == *key).map(|e| &e.node))
    }

    /// A text, from a file or the environment.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Environment(text) | Value::String(text) => Some(text),
            Value::Array(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Float(_)
            | Value::Integer(_)
            | Value::Table(_) => None,
        }
    }
}

/// Reads and parses a file. `file` is its place; problems are noted and answered with `None`.
pub(super) fn read(path: &Path, file: &Place, findings: &mut Findings) -> Option<Node> {
    parse(&text(path, file, findings)?, file, findings)
}

/// Reads the text of a file; problems are noted and answered with `None`.
pub(super) fn text(path: &Path, file: &Place, findings: &mut Findings) -> Option<String> {
    let bytes = match findings.inputs.read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.problem(file, format!("no readable file ({error})"), "a configuration file in TOML");
            return None;
        }
    };
    let text = String::from_utf8(bytes).ok();
    if text.is_none() {
        findings.problem(file, "bytes that are not UTF-8", "a text file in UTF-8");
    }
    text
}

/// Parses the text of a file.
pub(super) fn parse(text: &str, file: &Place, findings: &mut Findings) -> Option<Node> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let lines = Lines::new(text);
    for error in &errors {
        let place = match error.span() {
            Some(span) => lines.place(file, span.start, ""),
            None => file.clone(),
        };
        findings.problem(&place, format!("broken TOML: {}", error.message()), "well-formed TOML (https://toml.io)");
    }
    errors.is_empty().then(|| Node { place: file.clone(), value: table(root.into_inner(), file, &lines) })
}

fn table(table: DeTable<'_>, parent: &Place, lines: &Lines<'_>) -> Value {
    let mut entries: Vec<(usize, Entry)> = table
        .into_iter()
        .map(|(key, value)| {
            let start = key.span().start;
            let key = key.into_inner().into_owned();
            let path: Arc<str> = join(parent.key(), &quoted_if_odd(&key)).into();
            let place = lines.place(parent, start, Arc::clone(&path));
            (start, Entry { node: node(value, &path, parent, lines), key, place })
        })
        .collect();
    // The parser hands out keys by name; reports follow the file.
    entries.sort_by_key(|(start, _)| *start);
    Value::Table(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn node(value: Spanned<DeValue<'_>>, path: &str, file: &Place, lines: &Lines<'_>) -> Node {
    let place = lines.place(file, value.span().start, path);
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        // A number of more than 127 bits is out of every bound alike.
        DeValue::Integer(number) => {
            Value::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
        DeValue::Array(array) => {
            let element = |(i, value)| node(value, &format!("{path}[{i}]"), file, lines);
            Value::Array(array.into_iter().enumerate().map(element).collect())
        }
        DeValue::Table(inner) => table(inner, &place, lines),
    };
    Node { place, value }
}

/// A key as it is written in a dotted path.
fn quoted_if_odd(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { key.to_owned() } else { format!("{key:?}") }
}

/// Where lines begin.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Self { text, starts }
    }

    /// The place of a byte offset; columns count characters.
    fn place(&self, file: &Place, offset: usize, key: impl Into<Arc<str>>) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        file.at(u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX), key)
    }
}
