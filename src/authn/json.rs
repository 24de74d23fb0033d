//! Strict JSON for what others send us: token parts and key sets (R21).
//!
//! In: bytes. Out: one object as a `serde_json` map. Refused: a member name that occurs twice in one object at any
//! level (RFC 8259 section 4 leaves its meaning open, so two readers may disagree), nesting beyond [`MAX_DEPTH`],
//! anything after the object, and whatever RFC 8259 itself refuses. Everything is read once; nothing is repaired.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use smallvec::SmallVec;

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

/// Reads the one object that `bytes` must be.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let fault = Cell::new(JsonError::Syntax);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { levels: MAX_DEPTH, fault: &fault }.deserialize(&mut reader).map_err(|_| fault.get())?;
    reader.end().map_err(|_| JsonError::Syntax)?;
    match value {
        Value::Object(members) => Ok(members),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(JsonError::NotAnObject)
        }
    }
}

/// A small object of texts, as headers of tokens nearly always are: names and values in place, without a map. `None`:
/// it is something else, or nothing that [`object`] reads either, which then says what it is.
pub(super) fn texts(bytes: &[u8]) -> Option<Texts<'_>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let members = reader.deserialize_map(InPlace).ok()?;
    reader.end().ok()?;
    Some(members)
}

/// Names and values of [`texts`].
pub(super) type Texts<'a> = SmallVec<[(&'a str, &'a str); MAX_TEXTS]>;

/// Texts without escapes, no name twice.
struct InPlace;

impl<'de> Visitor<'de> for InPlace {
    type Value = Texts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a small object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Texts<'de>, A::Error> {
        let mut texts = Texts::new();
        while let Some((name, value)) = members.next_entry::<&str, &str>()? {
            if texts.len() == MAX_TEXTS || texts.iter().any(|(other, _)| *other == name) {
                return Err(A::Error::custom("something else"));
            }
            texts.push((name, value));
        }
        Ok(texts)
    }
}

/// Reads one value with `levels` of nesting left. serde_json's errors are texts; `fault` says what ours mean.
#[derive(Clone, Copy)]
struct Strict<'a> {
    levels: usize,
    fault: &'a Cell<JsonError>,
}

impl Strict<'_> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Self { levels, fault: self.fault }),
            None => Err(self.refuse(JsonError::TooDeep)),
        }
    }

    fn refuse<E: Error>(self, fault: JsonError) -> E {
        self.fault.set(fault);
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| self.refuse(JsonError::Syntax))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.insert(name, members.next_value_seed(inner)?).is_some() {
                return Err(self.refuse(JsonError::Duplicate));
            }
        }
        Ok(Value::Object(object))
    }
}

/// Headers of access tokens have two or three.
const MAX_TEXTS: usize = 6;

/// Levels of objects and arrays, the outermost included.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn only_small_objects_of_plain_texts_are_read_in_place() {
        let read = |text: &'static str| texts(text.as_bytes()).map(|texts| texts.to_vec());
        assert_eq!(read(r#" {"alg":"ES256", "typ":"JWT"} "#), Some(vec![("alg", "ES256"), ("typ", "JWT")]));
        assert_eq!(read("{}"), Some(vec![]));
        for other in [
            r#"{"a":"1","a":"1"}"#,
            r#"{"a":"\u0061"}"#,
            r#"{"\u0061":"a"}"#,
            r#"{"a":1}"#,
            r#"{"a":{}}"#,
            r#"{"a":"1"}x"#,
            r#"{"a":"1",}"#,
            r#"{"a":"1","b":"2","c":"3","d":"4","e":"5","f":"6","g":"7"}"#,
            "[]",
            "\"a\"",
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
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
        fn what_is_read_in_place_is_what_a_map_holds(text in r#"\{(" ?[a-c]{0,2}" ?: ?("[a-c\\\\u0061]{0,3}"|1|null),? ?){0,8}\}"#) {
            if let Some(texts) = texts(text.as_bytes()) {
                let members: Map<String, Value> =
                    texts.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
                prop_assert_eq!(members.len(), texts.len());
                prop_assert_eq!(object(text.as_bytes()), Ok(members));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = object(&bytes);
        }
    }
}
