//! Strict JSON for what others send us: token parts and key sets (R21).
//!
//! In: a text. Out: one object, as [`Members`] whose texts stay where they are, or as a `serde_json` map. Refused: a
//! member name that occurs twice in one object at any level (RFC 8259 section 4 leaves its meaning open, so two readers
//! may disagree), nesting beyond [`MAX_DEPTH`], anything after the object, and whatever RFC 8259 itself refuses.
//! Everything is read once; nothing is repaired.

use std::{borrow::Cow, cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::policy::ClaimPath;

/// Why bytes are not an object in strict JSON.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum JsonError {
    /// A member name occurs twice in one object.
    Duplicate,
    /// JSON, but not an object.
    NotAnObject,
    /// Not JSON: syntax, encoding, or a number that no double can hold.
    Syntax,
    /// More than [`MAX_DEPTH`] levels.
    TooDeep,
}

/// One value.
#[derive(Debug, PartialEq)]
pub(super) enum Json<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Whatever a double or 64 bits can hold.
    Number(Number),
    /// In place, unless something in it is escaped.
    Text(Cow<'a, str>),
    /// Its items.
    Array(Vec<Self>),
    /// Its members.
    Object(Members<'a>),
}

/// The members of one object, no name twice: a list that is looked through while it is short, sorted by name otherwise.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

/// Reads the one object that `bytes` must be.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError::Syntax)?;
    Ok(members(text)?.into_map())
}

/// As [`object`], without a copy of the texts.
pub(super) fn members(text: &str) -> Result<Members<'_>, JsonError> {
    let fault = Cell::new(JsonError::Syntax);
    let mut reader = serde_json::Deserializer::from_str(text);
    // Claims take some thirty bytes each.
    let room = (text.len() / 32).min(FEW);
    let strict = Strict { levels: MAX_DEPTH, room, fault: &fault };
    let value = strict.deserialize(&mut reader).map_err(|_| fault.get())?;
    reader.end().map_err(|_| JsonError::Syntax)?;
    match value {
        Json::Object(members) => Ok(members),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) | Json::Array(_) => Err(JsonError::NotAnObject),
    }
}

impl<'a> Members<'a> {
    /// Those of a map.
    pub(super) fn of(map: &'a Map<String, Value>) -> Self {
        let mut members: Vec<_> = map.iter().map(|(name, value)| (name.into(), Json::of(value))).collect();
        // A map that keeps the order of its text gives them in that order.
        if members.len() > FEW {
            members.sort_unstable_by(by_name);
        }
        Self(members)
    }

    /// The value of the member of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Json<'a>> {
        let (_, value) = if self.0.len() <= FEW {
            self.0.iter().find(|(one, _)| is_same(one, name))?
        } else {
            self.0.get(self.0.binary_search_by(|(one, _)| (**one).cmp(name)).ok()?)?
        };
        Some(value)
    }

    /// Whether there is a member of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value at this path, if every step is there.
    pub(super) fn find(&self, path: &ClaimPath) -> Option<&Json<'a>> {
        let (first, rest) = path.as_steps().split_first()?;
        rest.iter().try_fold(self.get(first)?, |value, step| match value {
            Json::Object(members) => members.get(step),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) | Json::Array(_) => None,
        })
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// Whether there is none.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same as a map.
    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0.into_iter().map(|(name, value)| (name.into_owned(), value.into_value())).collect()
    }

    /// What [`Members::into_map`] takes in memory, as closely as can be told without asking the allocator.
    pub(super) fn map_bytes(&self) -> usize {
        // Nodes of the tree hold five to eleven members.
        let nodes = if self.is_empty() { 0 } else { (self.0.len() / 6 + 1) * TREE_NODE_BYTES };
        nodes + self.iter().map(|(name, value)| allocation(name.len()) + value.bytes()).sum::<usize>()
    }
}

impl<'a> Json<'a> {
    fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => Self::Text(text.into()),
            Value::Array(items) => Self::Array(items.iter().map(Self::of).collect()),
            Value::Object(members) => Self::Object(Members::of(members)),
        }
    }

    /// The text that it is.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Number(number) => Value::Number(number),
            Self::Text(text) => Value::String(text.into_owned()),
            Self::Array(items) => Value::Array(items.into_iter().map(Self::into_value).collect()),
            Self::Object(members) => Value::Object(members.into_map()),
        }
    }

    /// What it owns as a `serde_json` value.
    fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 0,
            Self::Text(text) => allocation(text.len()),
            Self::Array(items) => {
                // A vector that grew has room for twice as many at most, and for four at least.
                let room = if items.is_empty() { 0 } else { items.len().next_power_of_two().max(4) };
                allocation(room * size_of::<Value>()) + items.iter().map(Self::bytes).sum::<usize>()
            }
            Self::Object(members) => members.map_bytes(),
        }
    }
}

/// Reads one value with `levels` of nesting left and room for so many members. serde_json's errors are texts; `fault`
/// says what ours mean.
#[derive(Clone, Copy)]
struct Strict<'f> {
    levels: usize,
    room: usize,
    fault: &'f Cell<JsonError>,
}

impl Strict<'_> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Self { levels, room: 0, ..self }),
            None => Err(self.refuse(JsonError::TooDeep)),
        }
    }

    #[cold]
    fn refuse<E: Error>(self, fault: JsonError) -> E {
        self.fault.set(fault);
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| self.refuse(JsonError::Syntax))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut list: Vec<(Cow<'de, str>, Json<'de>)> = Vec::with_capacity(self.room);
        while let Some(name) = members.next_key_seed(Name)? {
            if list.len() < FEW && list.iter().any(|(other, _)| is_same(other, &name)) {
                return Err(self.refuse(JsonError::Duplicate));
            }
            list.push((name, members.next_value_seed(inner)?));
        }
        // Comparing each with all others would let a small object cost a lot.
        if list.len() > FEW {
            list.sort_unstable_by(by_name);
            if list.windows(2).any(|pair| matches!(pair, [(one, _), (next, _)] if one == next)) {
                return Err(self.refuse(JsonError::Duplicate));
            }
        }
        Ok(Json::Object(Members(list)))
    }
}

/// Reads the name of a member.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// Whether two names are one. Many claims have three letters; the last one tells most of them apart without a call.
#[inline]
fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.as_bytes().last() == other.as_bytes().last() && one == other
}

fn by_name(one: &(Cow<'_, str>, Json<'_>), other: &(Cow<'_, str>, Json<'_>)) -> std::cmp::Ordering {
    one.0.cmp(&other.0)
}

const fn allocation(len: usize) -> usize {
    len.next_multiple_of(16)
}

/// Members that are looked through one by one.
const FEW: usize = 32;

/// A node of `BTreeMap<String, Value>`: eleven names and values and what holds them together.
const TREE_NODE_BYTES: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 16;

/// Levels of objects and arrays, the outermost included.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_one_strict_object_is_read() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        let rows: &[(&str, Option<JsonError>)] = &[
            ("{}", None),
            (r#" {"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]} "#, None),
            (&nested(MAX_DEPTH), None),
            (&nested(MAX_DEPTH + 1), Some(JsonError::TooDeep)),
            (r#"{"a":1,"a":1}"#, Some(JsonError::Duplicate)),
            (r#"{"a":1,"\u0061":2}"#, Some(JsonError::Duplicate)),
            (r#"{"x":{"y":[{"a":1,"b":2,"a":3}]}}"#, Some(JsonError::Duplicate)),
            ("[]", Some(JsonError::NotAnObject)),
            ("\"x\"", Some(JsonError::NotAnObject)),
            ("null", Some(JsonError::NotAnObject)),
            ("", Some(JsonError::Syntax)),
            ("{} {}", Some(JsonError::Syntax)),
            ("{}x", Some(JsonError::Syntax)),
            ("\u{feff}{}", Some(JsonError::Syntax)),
            (r#"{"a":1,}"#, Some(JsonError::Syntax)),
            (r#"{'a':1}"#, Some(JsonError::Syntax)),
            (r#"{"a":NaN}"#, Some(JsonError::Syntax)),
            (r#"{"a":1e999}"#, Some(JsonError::Syntax)),
            (r#"{"a":01}"#, Some(JsonError::Syntax)),
            (r#"{"a":"\ud800"}"#, Some(JsonError::Syntax)),
            ("{\"a\":\"\n\"}", Some(JsonError::Syntax)),
        ];
        for (text, expect) in rows {
            assert_eq!(object(text.as_bytes()).err(), *expect, "{text}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(JsonError::Syntax));
    }

    #[test]
    fn texts_stay_where_they_are_unless_something_is_escaped() {
        let read = members(r#"{"plain":"text","esc\u0061ped":"te\u0078t"}"#).unwrap();

        assert!(matches!(read.get("plain"), Some(Json::Text(Cow::Borrowed("text")))));
        assert!(matches!(read.get("escaped"), Some(Json::Text(Cow::Owned(text))) if text == "text"));
        assert!(read.get("esc").is_none());
    }

    #[test]
    fn each_of_few_and_of_many_members_is_found_and_none_occurs_twice() {
        for count in [1, FEW - 1, FEW, FEW + 1, 500] {
            // In an order that is not that of their names.
            let name = |i: usize| format!("m{}", i * 7_919 % 1_000);
            let list: Vec<String> = (0..count).map(|i| format!("\"{}\":{i}", name(i))).collect();
            let text = format!("{{{}}}", list.join(","));
            let read = members(&text).unwrap();
            for i in 0..count {
                assert_eq!(read.get(&name(i)), Some(&Json::Number(i.into())), "{i} of {count}");
            }
            assert!(!read.has("m") && !read.has("m1000") && read.iter().count() == count);
            for i in [0, count / 2, count - 1] {
                let twice = format!("{{{},\"{}\":null}}", list.join(","), name(i));
                assert_eq!(members(&twice), Err(JsonError::Duplicate), "{i} of {count}");
            }
        }
    }

    #[test]
    fn claims_are_weighed_by_what_they_take_in_memory() {
        let weigh = |claims: Value| Members::of(claims.as_object().unwrap()).map_bytes();
        let empty_objects = json!({ "a": (0..1_000).map(|_| json!({ "": 1 })).collect::<Vec<_>>() });

        assert_eq!(weigh(json!({})), 0);
        assert!(weigh(json!({ "a": "x".repeat(4_096) })) > 4_096);
        assert!(weigh(empty_objects) > 600_000);
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_as_serde_json_reads_it(text in r#"[{}\[\]":,a-c0-9 .e\\-]{0,40}"#) {
            if let Ok(members) = object(text.as_bytes()) {
                let plain: Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(Value::Object(members), plain);
            }
        }

        #[test]
        fn what_serde_json_reads_as_an_object_is_accepted_unless_a_name_occurs_twice(
            text in r#"\{(" ?[a-c]{0,2}" ?: ?("[a-c\\\\u0061]{0,3}"|1|-2.5e3|null|\[true,"a"\]|\{"a":\{\}\}),? ?){0,8}\}"#,
        ) {
            let plain = serde_json::from_str::<Map<String, Value>>(&text).ok();
            match object(text.as_bytes()) {
                Err(JsonError::Duplicate) => prop_assert!(text.matches(':').count() > 1),
                read => prop_assert_eq!(read.ok(), plain),
            }
        }

        #[test]
        fn members_of_a_map_are_those_of_its_text(text in r#"\{("[a-c]{1,2}":("a"|1|null|\[\]|\{"a":1\}),){0,4}"d":0\}"#) {
            if let Ok(map) = object(text.as_bytes()) {
                prop_assert_eq!(&Members::of(&map).into_map(), &map);
                prop_assert_eq!(members(&text).unwrap().into_map(), map);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = object(&bytes);
        }
    }
}
