//! From a tree to typed values, noting every problem instead of stopping at the first.
//!
//! `table!` makes a struct whose fields are the keys of a table: adding a key is one line there. Unknown keys are
//! refused with a guess at what was meant. A value that cannot be read is noted and answered with `None`; its table is
//! then `None` too, and what depends on it is not judged (`report`).

use std::{cell::OnceCell, ops::Deref};

use super::{
    place::{Place, join},
    report::{Findings, did_you_mean, one_of},
    tree::{Entry, Node, Value},
};

/// What a value is read as.
pub(super) trait Decode: Sized {
    /// What a report says is expected.
    fn expected() -> String;

    /// Reads it; `None` after noting why not.
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self>;

    /// What stands for a key that is not written; `None`: the key is required.
    fn absent() -> Option<Self> {
        None
    }

    /// The keys of tables inside, as paths below `path`.
    fn keys(_path: &str, _keys: &mut Vec<String>) {}
}

/// A value written as a string.
pub(super) trait Text: Sized {
    /// What a report says is expected.
    fn expected() -> String;

    /// Reads it, or says why not.
    fn parse(text: &str) -> Result<Self, Unreadable>;
}

/// Why a text cannot be read.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// A hint beyond what is expected.
    pub(super) help: Option<String>,
    /// Whether the text may hold a secret and must not be repeated.
    pub(super) secret: bool,
}

/// A table with fixed keys.
pub(super) trait Table: Sized {
    /// Takes its keys out of `fields`.
    fn from_fields(fields: &mut Fields<'_>, findings: &mut Findings) -> Option<Self>;

    /// Its keys and those of tables inside, as paths below `path`.
    fn keys(path: &str, keys: &mut Vec<String>);
}

/// What stands for one key, or several, of a table.
pub(super) trait Field: Sized {
    /// Takes it out of `fields`.
    fn take(fields: &mut Fields<'_>, key: &'static str, findings: &mut Findings) -> Option<Self>;

    /// The keys that it takes.
    fn field_keys(path: &str, key: &str, keys: &mut Vec<String>);
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A table that need not be written: then it is read as empty.
#[derive(Clone, Debug)]
pub(super) struct Section<T> {
    pub(super) table: T,
    pub(super) place: Place,
}

/// Keys of another table that belong to this one too.
#[derive(Clone, Debug)]
pub(super) struct Flat<T>(pub(super) T);

/// A table whose keys are names that the user chooses.
#[derive(Clone, Debug)]
pub(super) struct Named<T>(pub(super) Vec<(At<String>, At<T>)>);

/// A table whose problems do not keep the tables beside it from being judged; `None` after a problem.
#[derive(Clone, Debug)]
pub(super) struct Tried<T>(pub(super) Option<T>);

/// An array of tables, each of which is judged by itself: those that cannot be read are noted and left out.
#[derive(Clone, Debug)]
pub(super) struct List<T>(pub(super) Vec<At<T>>);

/// One value, or an array of them.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T>(pub(super) Vec<At<T>>);

/// An array; in the environment, texts between commas.
#[derive(Clone, Debug)]
pub(super) struct CommaList<T>(pub(super) Vec<At<T>>);

/// The keys of one table while it is read.
pub(super) struct Fields<'a> {
    place: &'a Place,
    entries: Vec<Option<&'a Entry>>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    fn new(place: &'a Place, entries: &'a [Entry]) -> Self {
        Self { place, entries: entries.iter().map(Some).collect(), known: Vec::new() }
    }

    fn remove(&mut self, key: &'static str) -> Option<&'a Entry> {
        self.known.push(key);
        self.entries.iter_mut().find(|entry| entry.is_some_and(|entry| entry.key == key))?.take()
    }

    /// Refuses every key that was not taken.
    fn finish(self, findings: &mut Findings) -> bool {
        let mut clean = true;
        for entry in self.entries.into_iter().flatten() {
            let expected = one_of(self.known.iter().copied());
            let problem = findings.problem(&entry.place, format!("the unknown key `{}`", entry.key), expected);
            if let Some(meant) = did_you_mean(&entry.key, self.known.iter().copied()) {
                problem.help(format!("did you mean `{meant}`?"));
            } else if let Some(home) = home_of(&entry.key) {
                problem.help(format!("`{home}` is such a key"));
            }
            clean = false;
        }
        clean
    }
}

/// Reads a table with fixed keys.
pub(super) fn decode_table<T: Table>(node: &Node, findings: &mut Findings) -> Option<T> {
    let Some(entries) = node.entries() else {
        findings.problem(&node.place, node.describe(), "a table");
        return None;
    };
    let mut fields = Fields::new(&node.place, entries);
    let table = T::from_fields(&mut fields, findings);
    if fields.finish(findings) { table } else { None }
}

/// Reads a table, going on after problems as far as its fields allow.
pub(super) fn decode_leniently<T: Table>(node: &Node, findings: &mut Findings) -> Option<T> {
    let mut fields = Fields::new(&node.place, node.entries()?);
    let table = T::from_fields(&mut fields, findings);
    fields.finish(findings);
    table
}

/// Reads each element of an array; `None` if one of them cannot be read.
fn decode_elements<T: Decode>(nodes: &[Node], findings: &mut Findings) -> Option<Vec<T>> {
    // Not short-circuiting: every element is looked at.
    let decoded: Vec<Option<T>> = nodes.iter().map(|node| T::decode(node, findings)).collect();
    decoded.into_iter().collect()
}

/// Where else a key of this name is known, to help with a key in the wrong table.
fn home_of(key: &str) -> Option<String> {
    thread_local! {
        static KEYS: OnceCell<Vec<String>> = const { OnceCell::new() };
    }
    KEYS.with(|keys| {
        let keys = keys.get_or_init(super::keys);
        keys.iter().find(|path| path.rsplit('.').next() == Some(key)).cloned()
    })
}

impl<T: Text> Decode for T {
    fn expected() -> String {
        <Self as Text>::expected()
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let Some(text) = node.text() else {
            findings.problem(&node.place, node.describe(), <Self as Text>::expected());
            return None;
        };
        match Self::parse(text) {
            Ok(value) => Some(value),
            Err(Unreadable { help, secret }) => {
                let found = if secret { String::from("an unfit text (not repeated here)") } else { node.describe() };
                let problem = findings.problem(&node.place, found, <Self as Text>::expected());
                if let Some(help) = help {
                    problem.help(help);
                }
                None
            }
        }
    }
}

impl Decode for bool {
    fn expected() -> String {
        String::from("`true` or `false`")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match &node.value {
            Value::Boolean(value) => return Some(*value),
            Value::Environment(text) if text == "true" => return Some(true),
            Value::Environment(text) if text == "false" => return Some(false),
            Value::Array(_)
            | Value::Datetime(_)
            | Value::Environment(_)
            | Value::Float(_)
            | Value::Integer(_)
            | Value::String(_)
            | Value::Table(_) => {}
        }
        findings.problem(&node.place, node.describe(), Self::expected());
        None
    }
}

impl<T: Decode> Decode for At<T> {
    fn expected() -> String {
        T::expected()
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        Some(Self { value: T::decode(node, findings)?, place: node.place.clone() })
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        T::keys(path, keys);
    }
}

impl<T: Decode> Decode for Option<T> {
    fn expected() -> String {
        T::expected()
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        T::decode(node, findings).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        T::keys(path, keys);
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn expected() -> String {
        format!("an array of {}", T::expected())
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if let Value::Array(elements) = &node.value {
            return decode_elements(elements, findings);
        }
        findings.problem(&node.place, node.describe(), Self::expected());
        None
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        T::keys(path, keys);
    }
}

impl<T: Decode> Decode for OneOrMany<T> {
    fn expected() -> String {
        format!("{}, or an array of such", T::expected())
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match &node.value {
            Value::Array(elements) => decode_elements(elements, findings).map(Self),
            Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Environment(_)
            | Value::Float(_)
            | Value::Integer(_)
            | Value::String(_)
            | Value::Table(_) => At::decode(node, findings).map(|one| Self(vec![one])),
        }
    }
}

impl<T: Decode> Decode for CommaList<T> {
    fn expected() -> String {
        Vec::<T>::expected()
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let Value::Environment(text) = &node.value else {
            return Vec::decode(node, findings).map(Self);
        };
        let mut items: Vec<String> = Vec::new();
        for item in text.split(',').map(str::trim) {
            match items.last_mut() {
                // `unix:/path,mode=0660` is one element.
                Some(last) if item.starts_with("mode=") => *last = format!("{last},{item}"),
                Some(_) | None => items.push(item.to_owned()),
            }
        }
        let element = |text| Node { place: node.place.clone(), value: Value::String(text) };
        decode_elements(&items.into_iter().map(element).collect::<Vec<_>>(), findings).map(Self)
    }
}

impl<T: Decode> Decode for List<T> {
    fn expected() -> String {
        String::from("an array of tables")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let Value::Array(elements) = &node.value else {
            findings.problem(&node.place, node.describe(), Self::expected());
            return None;
        };
        Some(Self(elements.iter().filter_map(|element| At::decode(element, findings)).collect()))
    }

    fn absent() -> Option<Self> {
        Some(Self(Vec::new()))
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        T::keys(path, keys);
    }
}

impl<T: Decode> Decode for Named<T> {
    fn expected() -> String {
        String::from("a table of named tables")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let Some(entries) = node.entries() else {
            findings.problem(&node.place, node.describe(), Self::expected());
            return None;
        };
        let mut named = Vec::new();
        for entry in entries {
            let name = At { value: entry.key.clone(), place: entry.place.clone() };
            if let Some(value) = At::decode(&entry.node, findings) {
                named.push((name, value));
            }
        }
        Some(Self(named))
    }

    fn absent() -> Option<Self> {
        Some(Self(Vec::new()))
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        T::keys(&join(path, "*"), keys);
    }
}

impl<T: Decode> Field for T {
    fn take(fields: &mut Fields<'_>, key: &'static str, findings: &mut Findings) -> Option<Self> {
        if let Some(entry) = fields.remove(key) {
            return Self::decode(&entry.node, findings);
        }
        let absent = Self::absent();
        if absent.is_none() {
            let missing = fields.place.inside(key);
            findings.problem(&missing, format!("no `{key}`"), Self::expected());
        }
        absent
    }

    fn field_keys(path: &str, key: &str, keys: &mut Vec<String>) {
        let path = join(path, key);
        Self::keys(&path, keys);
        keys.push(path);
    }
}

impl<T: Field> Field for Tried<T> {
    fn take(fields: &mut Fields<'_>, key: &'static str, findings: &mut Findings) -> Option<Self> {
        Some(Self(T::take(fields, key, findings)))
    }

    fn field_keys(path: &str, key: &str, keys: &mut Vec<String>) {
        T::field_keys(path, key, keys);
    }
}

impl<T: Table> Field for Section<T> {
    fn take(fields: &mut Fields<'_>, key: &'static str, findings: &mut Findings) -> Option<Self> {
        if let Some(entry) = fields.remove(key) {
            return Some(Self { table: decode_table(&entry.node, findings)?, place: entry.node.place.clone() });
        }
        let place = fields.place.inside(key);
        let table = T::from_fields(&mut Fields::new(&place, &[]), findings)?;
        Some(Self { table, place })
    }

    fn field_keys(path: &str, key: &str, keys: &mut Vec<String>) {
        T::keys(&join(path, key), keys);
        keys.push(join(path, key));
    }
}

impl<T: Table> Field for Flat<T> {
    fn take(fields: &mut Fields<'_>, _key: &'static str, findings: &mut Findings) -> Option<Self> {
        T::from_fields(fields, findings).map(Self)
    }

    fn field_keys(path: &str, _key: &str, keys: &mut Vec<String>) {
        T::keys(path, keys);
    }
}

impl<T> Deref for Section<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.table
    }
}

impl<T> Deref for Flat<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Unreadable {
    /// With a hint.
    pub(super) fn because(help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), secret: false }
    }

    /// With a hint, for a text that must not be repeated.
    pub(super) fn secret(help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), secret: true }
    }
}

/// The key of a field: raw identifiers (`r#match`) without their mark.
pub(super) const fn key_of(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// A struct that mirrors a table: each field is a key.
macro_rules! table {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub(super) struct $name { $($(#[$field_meta])* pub(super) $field: $type,)* }

        impl $crate::config::decode::Table for $name {
            fn from_fields(
                fields: &mut $crate::config::decode::Fields<'_>,
                findings: &mut $crate::config::report::Findings,
            ) -> Option<Self> {
                use $crate::config::decode::{Field, key_of};
                // All are taken before one is missed, so that every problem is noted.
                $(let $field = <$type as Field>::take(fields, key_of(stringify!($field)), findings);)*
                Some(Self { $($field: $field?,)* })
            }

            fn keys(path: &str, keys: &mut Vec<String>) {
                use $crate::config::decode::{Field, key_of};
                $(<$type as Field>::field_keys(path, key_of(stringify!($field)), keys);)*
            }
        }

        impl $crate::config::decode::Decode for $name {
            fn expected() -> String {
                String::from("a table")
            }

            fn decode(
                node: &$crate::config::tree::Node,
                findings: &mut $crate::config::report::Findings,
            ) -> Option<Self> {
                $crate::config::decode::decode_table(node, findings)
            }

            fn keys(path: &str, keys: &mut Vec<String>) {
                <Self as $crate::config::decode::Table>::keys(path, keys);
            }
        }
    )*};
}
pub(super) use table;
