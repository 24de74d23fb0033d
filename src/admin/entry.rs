//! One entry of `POST /api/v1/sessions`: an identity that somebody else has proved.
//!
//! In: a JSON object. Out: an [`Entry`] with everything checked, or which field is wrong and what it should be.
//! Unknown and repeated members are errors: a misspelt `roles` must not open a session without roles silently.
//! Error texts name members, never values.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, error::Category};

use super::problem::Problem;
use crate::{clock::Timestamp, identity::Factor};

/// An entry, checked.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subject: String,
    pub(super) name: Option<String>,
    pub(super) email: Option<String>,
    pub(super) email_verified: bool,
    pub(super) roles: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) claims: Map<String, Value>,
    pub(super) auth_time: Option<Timestamp>,
    pub(super) factor: Factor,
    pub(super) legacy: Option<LegacyCookie>,
}

/// `legacy`: the cookie of another system by which this session is first recognized.
#[derive(Debug)]
pub(super) struct LegacyCookie {
    pub(super) cookie: Box<str>,
    pub(super) sha256: [u8; 32],
    pub(super) expires: Option<Timestamp>,
}

impl Entry {
    /// Reads one entry.
    pub(super) fn parse(text: &[u8], now: Timestamp) -> Result<Self, Problem> {
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(bad("an entry is a JSON object"));
        }
        let raw: RawEntry = serde_json::from_slice(text).map_err(|error| describe(&error))?;
        let subject = optional_text("subject", raw.subject)?.unwrap_or_default();
        if subject.is_empty() {
            return Err(bad("`subject` is missing; it is a string of 1 to 255 bytes that stays the same for a user"));
        }
        let auth_time = optional_time("auth_time", raw.auth_time)?;
        if auth_time.is_some_and(|time| time > now.plus(CLOCK_DIFFERENCE)) {
            return Err(bad("`auth_time` lies in the future; it is when the user proved who they are, in seconds"));
        }
        Ok(Self {
            subject,
            name: optional_text("name", raw.name)?,
            email: optional_text("email", raw.email)?,
            email_verified: match raw.email_verified {
                None => false,
                Some(Value::Bool(flag)) => flag,
                Some(_) => return Err(bad("`email_verified` is true or false")),
            },
            roles: texts("roles", raw.roles)?,
            groups: texts("groups", raw.groups)?,
            claims: match raw.claims {
                None => Map::new(),
                Some(Value::Object(claims)) => claims,
                Some(_) => return Err(bad("`claims` is an object")),
            },
            auth_time,
            factor: match raw.factor {
                None => Factor::One,
                Some(count) => count.as_u64().and_then(Factor::from_count).ok_or_else(|| bad(FACTOR))?,
            },
            legacy: raw.legacy.map(LegacyCookie::parse).transpose()?,
        })
    }
}

impl LegacyCookie {
    fn parse(raw: Value) -> Result<Self, Problem> {
        if !raw.is_object() {
            return Err(bad("`legacy` is an object with `cookie` and `sha256`"));
        }
        let raw: RawLegacy = serde_json::from_value(raw).map_err(|error| describe(&error))?;
        let cookie = optional_text("legacy.cookie", raw.cookie)?.unwrap_or_default();
        if cookie.is_empty() || cookie.len() > 128 || !cookie.bytes().all(is_cookie_name) {
            return Err(bad("`legacy.cookie` is the old cookie's name: 1 to 128 letters, digits and !#$%&'*+-.^_`|~"));
        }
        let digest = optional_text("legacy.sha256", raw.sha256)?.unwrap_or_default();
        let sha256 = sha256(&digest)
            .ok_or_else(|| bad("`legacy.sha256` is the SHA-256 of the old cookie's value: 64 hexadecimal digits"))?;
        let expires = optional_time("legacy.expires_at", raw.expires_at)?;
        Ok(Self { cookie: cookie.into(), sha256, expires })
    }
}

/// The members as sent; `null` is an absent member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    subject: Option<Value>,
    name: Option<Value>,
    email: Option<Value>,
    email_verified: Option<Value>,
    roles: Option<Value>,
    groups: Option<Value>,
    claims: Option<Value>,
    auth_time: Option<Value>,
    factor: Option<Value>,
    legacy: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLegacy {
    cookie: Option<Value>,
    sha256: Option<Value>,
    expires_at: Option<Value>,
}

fn bad(why: &str) -> Problem {
    Problem::BadEntry(why.to_owned())
}

/// The library's texts are safe here: every member is read as any value, so they speak of syntax and names only.
fn describe(error: &serde_json::Error) -> Problem {
    Problem::BadEntry(match error.classify() {
        Category::Data => error.to_string(),
        Category::Eof | Category::Io | Category::Syntax => format!("this is no JSON: {error}"),
    })
}

fn optional_text(member: &str, value: Option<Value>) -> Result<Option<String>, Problem> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Problem::BadEntry(format!("`{member}` is a string"))),
    }
}

fn optional_time(member: &str, value: Option<Value>) -> Result<Option<Timestamp>, Problem> {
    let seconds = value.map(|value| {
        value.as_u64().ok_or_else(|| Problem::BadEntry(format!("`{member}` is a whole number of seconds since 1970")))
    });
    Ok(seconds.transpose()?.map(Timestamp::from_unix_seconds))
}

fn texts(member: &str, value: Option<Value>) -> Result<Vec<String>, Problem> {
    let wrong = || Problem::BadEntry(format!("`{member}` is an array of strings that are not empty"));
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(wrong()),
    };
    let text = |item| match item {
        Value::String(text) if !text.is_empty() => Ok(text),
        _ => Err(wrong()),
    };
    items.into_iter().map(text).collect()
}

/// `token` of RFC 9110 section 5.6.2, of which cookie names are made (RFC 6265 section 4.1.1).
const fn is_cookie_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Some(bytes)
}

const FACTOR: &str = "`factor` is 1 or 2: how many factors the login took";

/// How far the login application's clock may be ahead of ours.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_900_000_000);

    #[test]
    fn an_entry_with_everything_is_read() {
        let digest = "AB".repeat(32);
        let text = format!(
            r#" {{"subject":"u-1","name":"Alice","email":"a@example.com","email_verified":true,"roles":["admin"],
            "groups":["ops"],"claims":{{"department":"it"}},"auth_time":1899999999,
            "legacy":{{"cookie":"JSESSIONID","sha256":"{digest}","expires_at":1900000100}}}}"#
        );

        let entry = Entry::parse(text.as_bytes(), NOW).unwrap();

        assert_eq!(entry.subject, "u-1");
        assert_eq!((entry.name.as_deref(), entry.email.as_deref()), (Some("Alice"), Some("a@example.com")));
        assert!(entry.email_verified);
        assert_eq!((entry.roles, entry.groups), (vec!["admin".to_owned()], vec!["ops".to_owned()]));
        assert_eq!(entry.claims["department"], "it");
        assert_eq!(entry.auth_time, Some(Timestamp::from_unix_seconds(1_899_999_999)));
        let legacy = entry.legacy.unwrap();
        assert_eq!((&*legacy.cookie, legacy.sha256), ("JSESSIONID", [0xab; 32]));
        assert_eq!(legacy.expires, Some(Timestamp::from_unix_seconds(1_900_000_100)));
    }

    #[test]
    fn the_subject_alone_is_enough_and_nothing_is_assumed() {
        let entry = Entry::parse(br#"{"subject":"u-1","name":null}"#, NOW).unwrap();

        assert!(entry.name.is_none() && entry.roles.is_empty() && entry.auth_time.is_none());
        assert!(!entry.email_verified);
    }

    #[test]
    fn what_is_wrong_is_said_without_repeating_values() {
        for (given, expect) in [
            (r#"["s3cret"]"#, "an entry is a JSON object"),
            (r#""s3cret""#, "an entry is a JSON object"),
            (r#"{"subject":"u","s3":"s3cret"}"#, "unknown field `s3`"),
            (r#"{"subject":"u","subject":"s3cret"}"#, "duplicate field `subject`"),
            (r#"{"subject":"u","role":["s3cret"]}"#, "unknown field `role`, expected one of `subject`"),
            (r#"{"name":"s3cret"}"#, "`subject` is missing"),
            (r#"{"subject":""}"#, "`subject` is missing"),
            (r#"{"subject":7}"#, "`subject` is a string"),
            (r#"{"subject":"u","roles":"s3cret"}"#, "`roles` is an array of strings"),
            (r#"{"subject":"u","groups":["s3cret",1]}"#, "`groups` is an array of strings"),
            (r#"{"subject":"u","groups":[""]}"#, "`groups` is an array of strings"),
            (r#"{"subject":"u","claims":["s3cret"]}"#, "`claims` is an object"),
            (r#"{"subject":"u","email_verified":"s3cret"}"#, "`email_verified` is true or false"),
            (r#"{"subject":"u","auth_time":"s3cret"}"#, "`auth_time` is a whole number"),
            (r#"{"subject":"u","auth_time":1900000100}"#, "`auth_time` lies in the future"),
            (r#"{"subject":"u","factor":3}"#, "`factor` is 1 or 2"),
            (r#"{"subject":"u","factor":"2"}"#, "`factor` is 1 or 2"),
            (r#"{"subject":"u","legacy":"s3cret"}"#, "`legacy` is an object"),
            (r#"{"subject":"u","legacy":{"cookie":"a=s3cret"}}"#, "`legacy.cookie` is the old cookie's name"),
            (r#"{"subject":"u","legacy":{"cookie":"a","sha256":"s3cret"}}"#, "`legacy.sha256` is the SHA-256"),
            (r#"{"subject":"u","legacy":{"cookie":"a","value":"s3cret"}}"#, "unknown field `value`"),
            (r#"{"subject":"s3cret"#, "this is no JSON"),
            (r#"{"subject":"u"} s3cret"#, "this is no JSON"),
        ] {
            let message = Entry::parse(given.as_bytes(), NOW).unwrap_err().message();
            assert!(message.contains(expect), "{given}: {message}");
            assert!(!message.contains("s3cret"), "{given}: {message}");
        }
    }
}
