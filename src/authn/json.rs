//! Strict JSON for what others send us: token parts and key sets (R21).
//!
//! In: bytes. Out: one object as a `serde_json` map. Refused: a member name that occurs twice in one object at any
//! level (RFC 8259 section 4 leaves its meaning open, so two readers may disagree), nesting beyond [`MAX_DEPTH`],
//! anything after the object, and whatever RFC 8259 itself refuses. Everything is read once; nothing is repaired.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

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

    proptest! {
        #[test]
        fn what_is_accepted_reads_as_serde_json_reads_it(text in r#"[{}\[\]":,a-c0-9 .e\\-]{0,40}"#) {
            if let Ok(members) = object(text.as_bytes()) {
                let plain: Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(Value::Object(members), plain);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = object(&bytes);
        }
    }
}
