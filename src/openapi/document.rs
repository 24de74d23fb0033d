//! The parts of an OpenAPI document that say who may call what: paths, operations, servers, security.
//!
//! In: JSON or YAML; a member that occurs twice is refused in both, as two readers may take either. Out:
//! [`Operation`]s with what counts for them: their own servers and security before the path's before the document's.
//! References are followed within the document only. All else (schemas, examples) is never looked at.

use std::{collections::BTreeMap, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON or YAML value. Objects keep no order: routes are written in one of their own.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// What no part of ours looks at: numbers, booleans, null.
    Other,
    Text(String),
    List(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

/// A document that is OpenAPI 3.0 or 3.1.
pub(super) struct Document {
    root: BTreeMap<String, Value>,
}

/// One operation.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// As in `paths`.
    pub(super) path: String,
    /// In upper case.
    pub(super) method: String,
    pub(super) id: Option<String>,
    pub(super) summary: Option<String>,
    /// Absolute or relative URLs without variables.
    pub(super) servers: Vec<String>,
    pub(super) security: Option<Vec<Alternative>>,
}

/// Schemes of one security requirement, all of which must hold, each with its scopes; none: anybody.
pub(super) type Alternative = BTreeMap<String, Vec<String>>;

/// Why a document cannot be imported: where, and how to mend it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DocumentError(String);

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DocumentError {}

impl Document {
    pub(super) fn read(text: &str) -> Result<Self, DocumentError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // A document in JSON is mostly one in YAML as well, but not in all its escapes.
        let value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())
        } else {
            serde_saphyr::from_str(text).map_err(|error| error.to_string())
        };
        let value: Value = value.map_err(|error| refuse(format!("it cannot be read: {error}")))?;
        let Value::Object(root) = value else {
            return Err(refuse("it is no object"));
        };
        let version = |key: &str| match root.get(key) {
            Some(Value::Text(version)) => Some(version.clone()),
            Some(Value::Other | Value::List(_) | Value::Object(_)) => Some("?".to_owned()),
            None => None,
        };
        if version("swagger").is_some() {
            return Err(refuse(
                "it is Swagger 2.0; make OpenAPI 3 of it first, such as with `npx swagger2openapi --yaml FILE`",
            ));
        }
        match version("openapi") {
            Some(version) if version.starts_with("3.0.") || version.starts_with("3.1.") => Ok(Self { root }),
            Some(version) => Err(refuse(format!("openapi: {version:?}; known are 3.0 and 3.1, written as a text"))),
            None => Err(refuse("there is no `openapi: 3.…` in it")),
        }
    }

    /// `components.securitySchemes`, by name.
    pub(super) fn security_schemes(&self) -> Result<BTreeMap<&str, &BTreeMap<String, Value>>, DocumentError> {
        let at = "components.securitySchemes";
        let Some(components) = member(&self.root, "components", "components")? else {
            return Ok(BTreeMap::new());
        };
        let Some(schemes) = member(components, "securitySchemes", at)? else {
            return Ok(BTreeMap::new());
        };
        let resolved = schemes.iter().map(|(name, scheme)| Ok((name.as_str(), self.followed(scheme, at)?)));
        resolved.collect()
    }

    /// Every operation, by path and method.
    pub(super) fn operations(&self) -> Result<Vec<Operation>, DocumentError> {
        let servers = servers(&self.root, "servers")?;
        let security = security(&self.root, "security")?;
        let Some(paths) = member(&self.root, "paths", "paths")? else {
            return Err(refuse("it has no `paths`"));
        };
        let mut operations = Vec::new();
        for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
            let at = format!("paths.{path}");
            if !path.starts_with('/') {
                return Err(refuse(format!("{at}: a path begins with `/`")));
            }
            let item = self.followed(item, &at)?;
            let of_path = self::servers(item, &at)?.or_else(|| servers.clone());
            for (method, operation) in item.iter().filter(|(key, _)| METHODS.contains(&key.as_str())) {
                let at = format!("{at}.{method}");
                let operation = object(operation, &at)?;
                let own = self::servers(operation, &at)?.or_else(|| of_path.clone());
                operations.push(Operation {
                    path: path.clone(),
                    method: method.to_ascii_uppercase(),
                    id: text(operation, "operationId"),
                    summary: text(operation, "summary"),
                    servers: own.unwrap_or_else(|| vec!["/".to_owned()]),
                    security: self::security(operation, &at)?.or_else(|| security.clone()),
                });
            }
        }
        Ok(operations)
    }

    /// An object, behind the references that stand for it.
    fn followed<'d>(&'d self, value: &'d Value, at: &str) -> Result<&'d BTreeMap<String, Value>, DocumentError> {
        let mut found = object(value, at)?;
        for _ in 0..MOST_REFERENCES {
            let Some(reference) = text(found, "$ref") else {
                return Ok(found);
            };
            if found.keys().any(|key| METHODS.contains(&key.as_str())) {
                return Err(refuse(format!("{at}: operations beside a `$ref`, which readers take in different ways")));
            }
            let Some(pointer) = reference.strip_prefix("#/") else {
                return Err(refuse(format!(
                    "{at} refers to {reference:?}, which is another file; put all into one first, such as with `npx \
                     @redocly/cli bundle FILE`"
                )));
            };
            let mut place = &self.root;
            let mut steps = pointer.split('/').map(unescape).peekable();
            while let Some(step) = steps.next() {
                let missing = || refuse(format!("{at} refers to {reference:?}, which is not there"));
                place = object(place.get(&step).ok_or_else(missing)?, &reference)?;
                if steps.peek().is_none() {
                    break;
                }
            }
            found = place;
        }
        Err(refuse(format!("{at}: references that lead in a circle, or too far")))
    }
}

/// A step of a JSON pointer in a URI fragment (RFC 6901 section 6).
fn unescape(step: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(step).decode_utf8_lossy();
    decoded.replace("~1", "/").replace("~0", "~")
}

fn refuse(why: impl Into<String>) -> DocumentError {
    DocumentError(why.into())
}

fn object<'v>(value: &'v Value, at: &str) -> Result<&'v BTreeMap<String, Value>, DocumentError> {
    match value {
        Value::Object(members) => Ok(members),
        Value::Other | Value::Text(_) | Value::List(_) => Err(refuse(format!("{at} is no object"))),
    }
}

fn list<'v>(value: &'v Value, at: &str) -> Result<&'v [Value], DocumentError> {
    match value {
        Value::List(items) => Ok(items),
        Value::Other | Value::Text(_) | Value::Object(_) => Err(refuse(format!("{at} is no list"))),
    }
}

fn member<'v>(
    of: &'v BTreeMap<String, Value>,
    key: &str,
    at: &str,
) -> Result<Option<&'v BTreeMap<String, Value>>, DocumentError> {
    of.get(key).map(|value| object(value, at)).transpose()
}

pub(super) fn text(of: &BTreeMap<String, Value>, key: &str) -> Option<String> {
    match of.get(key)? {
        Value::Text(text) => Some(text.clone()),
        Value::Other | Value::List(_) | Value::Object(_) => None,
    }
}

fn texts(value: &Value, at: &str) -> Result<Vec<String>, DocumentError> {
    let item = |value: &Value| match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Other | Value::List(_) | Value::Object(_) => Err(refuse(format!("{at} holds what is no text"))),
    };
    list(value, at)?.iter().map(item).collect()
}

/// `security` of the document or an operation; `None` where it says nothing.
fn security(of: &BTreeMap<String, Value>, at: &str) -> Result<Option<Vec<Alternative>>, DocumentError> {
    let Some(value) = of.get("security") else {
        return Ok(None);
    };
    let alternative = |value: &Value| {
        let schemes = object(value, &format!("{at}: an entry of `security`"))?;
        schemes.iter().map(|(name, scopes)| Ok((name.clone(), texts(scopes, &format!("{at}: {name}"))?))).collect()
    };
    list(value, &format!("{at}: `security`"))?.iter().map(alternative).collect::<Result<_, _>>().map(Some)
}

/// `servers`, each with every value of its variables; `None` where there are none.
fn servers(of: &BTreeMap<String, Value>, at: &str) -> Result<Option<Vec<String>>, DocumentError> {
    let Some(value) = of.get("servers") else {
        return Ok(None);
    };
    let mut urls = Vec::new();
    for server in list(value, &format!("{at}: `servers`"))? {
        let server = object(server, &format!("{at}: a server"))?;
        let url = text(server, "url").ok_or_else(|| refuse(format!("{at}: a server without `url`")))?;
        let mut all = vec![url];
        let variables = member(server, "variables", &format!("{at}: `variables`"))?;
        for (name, variable) in variables.into_iter().flatten() {
            let variable = object(variable, &format!("{at}: the variable {name}"))?;
            let values = match variable.get("enum") {
                Some(values) => texts(values, &format!("{at}: the variable {name}"))?,
                None => text(variable, "default").into_iter().collect(),
            };
            let blank = format!("{{{name}}}");
            all = all.iter().flat_map(|url| values.iter().map(|value| url.replace(&blank, value))).collect();
            if all.len() > MOST_SERVERS {
                return Err(refuse(format!("{at}: more than {MOST_SERVERS} servers")));
            }
        }
        if let Some(open) = all.iter().find(|url| url.contains('{')) {
            return Err(refuse(format!("{at}: the server {open:?} has a variable without a value")));
        }
        urls.extend(all);
    }
    Ok((!urls.is_empty()).then_some(urls))
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

/// Refuses a member that occurs twice.
struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(name) = members.next_key::<String>()? {
            let repeated = format!("the member {name:?} occurs twice");
            if all.insert(name, members.next_value()?).is_some() {
                return Err(A::Error::custom(repeated));
            }
        }
        Ok(Value::Object(all))
    }
}

const METHODS: [&str; 8] = ["delete", "get", "head", "options", "patch", "post", "put", "trace"];
const MOST_REFERENCES: usize = 16;
const MOST_SERVERS: usize = 64;
