//! What an introspection endpoint says of a token: read strictly, judged like a JWT's claims (RFC 7662 section 2.2).
//!
//! In: the status, the fields and the body of its answer. Out: the members of an active token, that it is not active,
//! or [`Nonsense`]: something from which nothing follows, for the token or against it. `active` decides only where it
//! is exactly `true` or `false`; members that occur twice, other content types and other statuses decide nothing.

use std::fmt;

use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use serde_json::{Map, Value};

use crate::authn::json::{self, JsonError};

/// What the endpoint says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The token is active, and this is what it stands for.
    Active(Map<String, Value>),
    /// It is not: expired, revoked, unknown, or none of our business.
    Inactive,
}

/// Why nothing follows from an answer. For logs; it repeats nothing of the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Nonsense {
    /// It does not believe who we are (RFC 6749 section 5.2).
    Unauthorized,
    /// Any other status than 200.
    Status(StatusCode),
    /// Not `application/json`.
    ContentType,
    /// Not an object in strict JSON, or a member occurs twice.
    Json,
    /// `active` is missing, or neither `true` nor `false`.
    Active,
}

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized => f.write_str("it answers 401: it does not accept client_id and client_secret"),
            Self::Status(status) => write!(f, "it answers {}", status.as_u16()),
            Self::ContentType => f.write_str("its answer is not application/json"),
            Self::Json => f.write_str("its answer is not one object in strict JSON"),
            Self::Active => f.write_str("`active` in its answer is neither true nor false"),
        }
    }
}

/// Reads an answer.
///
/// # Errors
/// [`Nonsense`].
pub fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Said, Nonsense> {
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Err(Nonsense::Unauthorized),
        status => return Err(Nonsense::Status(status)),
    }
    if !is_json(headers) {
        return Err(Nonsense::ContentType);
    }
    read_body(body)
}

/// Reads the body of an answer whose head is as it must be.
///
/// # Errors
/// [`Nonsense::Json`] and [`Nonsense::Active`].
pub fn read_body(body: &[u8]) -> Result<Said, Nonsense> {
    let members = json::object(body).map_err(|error| match error {
        JsonError::Duplicate | JsonError::NotAnObject | JsonError::Syntax | JsonError::TooDeep => Nonsense::Json,
    })?;
    match members.get("active") {
        Some(Value::Bool(true)) => Ok(Said::Active(members)),
        Some(Value::Bool(false)) => Ok(Said::Inactive),
        Some(Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) | None => {
            Err(Nonsense::Active)
        }
    }
}

/// Exactly one `Content-Type`, and it is JSON; parameters mean nothing there (RFC 8259 section 11).
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).into_iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let essence = only.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn ask(status: u16, types: &[&'static str], body: &str) -> Result<bool, Nonsense> {
        let mut headers = HeaderMap::new();
        for text in types {
            headers.append(CONTENT_TYPE, HeaderValue::from_static(text));
        }
        let said = read(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())?;
        Ok(matches!(said, Said::Active(_)))
    }

    #[test]
    fn only_the_boolean_true_makes_a_token_active() {
        let active = |text: &str| ask(200, &["application/json"], &format!("{{{text}}}"));
        assert_eq!(active(r#""active":true"#), Ok(true));
        assert_eq!(active(r#""active":false"#), Ok(false));
        for text in [
            r#""active":"true""#,
            r#""active":1"#,
            r#""active":null"#,
            r#""active":[true]"#,
            r#""active":{"active":true}"#,
            r#""Active":true"#,
            r#""sub":"alice""#,
            "",
        ] {
            assert_eq!(active(text), Err(Nonsense::Active), "{text}");
        }
        for text in [r#""active":true,"active":true"#, r#""active":true,"a":{"b":1,"b":2}"#, r#""active":TRUE"#] {
            assert_eq!(active(text), Err(Nonsense::Json), "{text}");
        }
        for body in ["", "true", "[{\"active\":true}]", "{\"active\":true}}", "<html>", "\u{feff}{\"active\":true}"] {
            assert_eq!(ask(200, &["application/json"], body), Err(Nonsense::Json), "{body}");
        }
    }

    #[test]
    fn only_a_200_in_json_says_anything() {
        const GOOD: &str = r#"{"active":true}"#;
        for good in ["application/json", "Application/JSON", "application/json;charset=utf-8", "application/json ; x=y"]
        {
            assert_eq!(ask(200, &[good], GOOD), Ok(true), "{good}");
        }
        for bad in ["text/html", "application/jsonp", "application/token-introspection+jwt", "text/json", ""] {
            assert_eq!(ask(200, &[bad], GOOD), Err(Nonsense::ContentType), "{bad}");
        }
        assert_eq!(ask(200, &[], GOOD), Err(Nonsense::ContentType));
        assert_eq!(ask(200, &["application/json", "application/json"], GOOD), Err(Nonsense::ContentType));
        assert_eq!(ask(401, &["application/json"], GOOD), Err(Nonsense::Unauthorized));
        for status in [201, 204, 304, 400, 403, 404, 429, 500, 503] {
            let expected = Err(Nonsense::Status(StatusCode::from_u16(status).unwrap()));
            assert_eq!(ask(status, &["application/json"], GOOD), expected);
        }
    }
}
