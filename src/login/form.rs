//! What a login or logout was sent: a form from our own page, or JSON from a program.
//!
//! In: content type and body, read up to [`MAX_BODY_BYTES`] within [`BODY_TIMEOUT`]. Out: the fields.
//! Invariants: exactly the two content types (R33); a field counts only if it is there once; buffers of ours that held
//! a password are wiped.

use std::{borrow::Cow, pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    return_to::{decode, parameter},
    step_up::StepUp,
};
use crate::{refusal::Refusal, secret::Secret};

/// The two kinds of bodies that are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Form,
    Json,
}

/// A login, from either kind.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: Secret<String>,
    /// Of the second factor: programs send it along, people are asked for it on a page of its own.
    pub(super) code: Option<Secret<String>>,
    pub(super) provider: Option<String>,
    pub(super) return_to: Option<String>,
    /// Whether it has to be whoever is signed in; a program ends one session and opens another.
    pub(super) step_up: Option<StepUp>,
    /// Whether whoever logs in wants to stay so on this device; for the provider to allow.
    pub(super) remember: bool,
    /// The form's hidden token; JSON has none.
    pub(super) token: Option<String>,
}

/// The code that a login waits for.
#[derive(Debug)]
pub(super) struct Continuation {
    /// Which login.
    pub(super) pending: String,
    pub(super) code: Secret<String>,
    pub(super) return_to: Option<String>,
    pub(super) token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCredentials {
    username: String,
    password: String,
    code: Option<String>,
    provider: Option<String>,
    return_to: Option<String>,
    #[serde(default)]
    remember: bool,
}

/// The kind that the content type names; anything else, or none, is refused: a browser can send `text/plain` across
/// sites without asking.
pub(super) fn kind(headers: &HeaderMap) -> Result<Kind, Refusal> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Refusal::UnsupportedMediaType);
    };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
        Ok(Kind::Form)
    } else if essence.eq_ignore_ascii_case(b"application/json") {
        Ok(Kind::Json)
    } else {
        Err(Refusal::UnsupportedMediaType)
    }
}

/// Whether the body is JSON by its content type, exactly one; forms are the other kind.
///
/// # Errors
/// [`Refusal::UnsupportedMediaType`].
pub fn is_json(headers: &HeaderMap) -> Result<bool, Refusal> {
    kind(headers).map(|kind| kind == Kind::Json)
}

/// Reads a whole small body.
///
/// # Errors
/// [`Refusal::BodyTooLarge`] above 16 KiB, [`Refusal::BodyIncomplete`] after ten seconds, and [`Refusal::BadBody`].
pub async fn read<B: Body<Data = Bytes>>(body: B) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    read_up_to(body, MAX_BODY_BYTES).await
}

/// Reads a whole body of so many bytes at most.
pub(super) async fn read_up_to<B: Body<Data = Bytes>>(
    body: B,
    max_bytes: usize,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(Refusal::BodyTooLarge);
    }
    tokio::time::timeout(BODY_TIMEOUT, collect(body, max_bytes)).await.unwrap_or(Err(Refusal::BodyIncomplete))
}

/// The fields of a login.
pub(super) fn credentials(kind: Kind, body: &[u8]) -> Result<Credentials, Refusal> {
    match kind {
        Kind::Form => {
            let text = text(body)?;
            let password = field(text, "password")?.ok_or(Refusal::BadBody("no password"))?;
            Ok(Credentials {
                username: field(text, "username")?.ok_or(Refusal::BadBody("no username"))?.into_owned(),
                password: Secret::new(password.into_owned()),
                code: None,
                provider: field(text, "provider")?.map(Cow::into_owned),
                return_to: field(text, "return_to")?.map(Cow::into_owned),
                step_up: field(text, "prompt")?.as_deref().and_then(StepUp::parse),
                remember: field(text, "remember")?.as_deref() == Some(REMEMBER),
                token: field(text, "token")?.map(Cow::into_owned),
            })
        }
        Kind::Json => {
            let json: JsonCredentials = serde_json::from_slice(body).map_err(|_| {
                Refusal::BadBody("not a JSON object with username, password, code, provider, return_to, remember")
            })?;
            Ok(Credentials {
                username: json.username,
                password: Secret::new(json.password),
                code: json.code.map(Secret::new),
                provider: json.provider,
                return_to: json.return_to,
                step_up: None,
                remember: json.remember,
                token: None,
            })
        }
    }
}

/// The fields of a page that asks for a code; `None`: the form is another one.
pub(super) fn continuation(body: &[u8]) -> Result<Option<Continuation>, Refusal> {
    let text = text(body)?;
    let Some(pending) = field(text, "pending")? else { return Ok(None) };
    let code = match field(text, "recovery")? {
        Some(recovery) if !recovery.trim().is_empty() => recovery,
        Some(_) | None => field(text, "code")?.unwrap_or_default(),
    };
    Ok(Some(Continuation {
        pending: pending.into_owned(),
        code: Secret::new(code.into_owned()),
        return_to: field(text, "return_to")?.map(Cow::into_owned),
        token: field(text, "token")?.map(Cow::into_owned),
    }))
}

/// `return_to` of a logout's form.
pub(super) fn return_to(body: &[u8]) -> Result<Option<String>, Refusal> {
    Ok(field(text(body)?, "return_to")?.map(Cow::into_owned))
}

async fn collect<B: Body<Data = Bytes>>(body: B, max_bytes: usize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut body = pin!(body);
    // All at once: growing would leave copies behind that nobody wipes.
    let mut read = Zeroizing::new(Vec::with_capacity(max_bytes));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::BadBody("broken off"))?;
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > max_bytes - read.len() {
            return Err(Refusal::BodyTooLarge);
        }
        read.extend_from_slice(&data);
    }
    Ok(read)
}

pub(super) fn text(body: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(body).map_err(|_| Refusal::BadBody("not UTF-8"))
}

/// A field that may be there once.
pub(super) fn field<'a>(pairs: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    let present = |pair: &str| decode(pair.split('=').next().unwrap_or_default()).is_some_and(|key| key == name);
    if !pairs.split('&').any(present) {
        return Ok(None);
    }
    parameter(pairs, name).map(Some).ok_or(Refusal::BadBody("a field that is repeated or no UTF-8"))
}

/// What a ticked box sends.
pub(super) const REMEMBER: &str = "yes";

/// A user name, a password and a path fit many times.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// For the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::Full;

    use super::*;

    #[test]
    fn a_content_type_is_a_form_or_json_or_refused() {
        for (given, expect) in [
            (&["application/x-www-form-urlencoded"][..], Some(Kind::Form)),
            (&["Application/X-WWW-Form-Urlencoded; charset=UTF-8"][..], Some(Kind::Form)),
            (&["application/json"][..], Some(Kind::Json)),
            (&["application/json ;charset=utf-8"][..], Some(Kind::Json)),
            (&["text/plain"][..], None),
            (&["text/plain; application/json"][..], None),
            (&["application/jsonp"][..], None),
            (&["multipart/form-data; boundary=x"][..], None),
            (&["application/json", "text/plain"][..], None),
            (&[""][..], None),
            (&[][..], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_static(value));
            }
            assert_eq!(kind(&headers).ok(), expect, "{given:?}");
        }
    }

    #[tokio::test]
    async fn a_body_is_bounded() {
        assert!(read(Full::new(Bytes::from(vec![b'x'; MAX_BODY_BYTES]))).await.is_ok());
        let refused = read(Full::new(Bytes::from(vec![b'x'; MAX_BODY_BYTES + 1]))).await;
        assert!(matches!(refused, Err(Refusal::BodyTooLarge)));
        // A body whose length nobody told.
        let refused = collect(Full::new(Bytes::from(vec![b'x'; MAX_BODY_BYTES + 1])), MAX_BODY_BYTES).await;
        assert!(matches!(refused, Err(Refusal::BodyTooLarge)));
    }

    #[test]
    fn a_form_is_read_field_by_field() {
        let form = b"username=al%C3%ADce+b&password=a%26b%3Dc%2B+&token=t&return_to=%2Fa&other=x";

        let read = credentials(Kind::Form, form).unwrap();

        assert_eq!(read.username, "alíce b");
        assert_eq!(read.password.expose(), "a&b=c+ ");
        assert_eq!((read.token.as_deref(), read.return_to.as_deref()), (Some("t"), Some("/a")));
        assert_eq!(read.provider, None);
    }

    #[test]
    fn a_login_is_remembered_only_where_it_says_so() {
        for (kind, given, expect) in [
            (Kind::Form, &b"username=a&password=b&remember=yes"[..], true),
            (Kind::Form, b"username=a&password=b", false),
            (Kind::Form, b"username=a&password=b&remember=", false),
            (Kind::Form, b"username=a&password=b&remember=no", false),
            (Kind::Json, br#"{"username":"a","password":"b","remember":true}"#, true),
            (Kind::Json, br#"{"username":"a","password":"b","remember":false}"#, false),
            (Kind::Json, br#"{"username":"a","password":"b"}"#, false),
        ] {
            assert_eq!(credentials(kind, given).unwrap().remember, expect, "{}", String::from_utf8_lossy(given));
        }
    }

    #[test]
    fn unreadable_logins_are_refused() {
        for (kind, given) in [
            (Kind::Form, &b"username=alice"[..]),
            (Kind::Form, b"password=x"),
            (Kind::Form, b"username=a&username=b&password=x"),
            (Kind::Form, b"username=a&password=%ff"),
            (Kind::Form, b"username=a&password=\xff"),
            (Kind::Form, b""),
            (Kind::Json, b"username=alice&password=x"),
            (Kind::Json, br#"{"username":"a"}"#),
            (Kind::Json, br#"{"username":"a","password":1}"#),
            (Kind::Form, b"username=a&password=b&remember=yes&remember=yes"),
            (Kind::Json, br#"{"username":"a","password":"b","remember":"yes"}"#),
            (Kind::Json, br#"{"username":"a","password":"b","remember":null}"#),
            (Kind::Json, br#"{"username":"a","password":"b","password":"c"}"#),
            (Kind::Json, br#"{"username":"a","password":"b","admin":true}"#),
            (Kind::Json, br#"{"username":"a","password":"b"} x"#),
            (Kind::Json, br#"["a","b"]x"#),
        ] {
            let refused = credentials(kind, given);
            assert!(matches!(refused, Err(Refusal::BadBody(_))), "{}", String::from_utf8_lossy(given));
        }
        assert!(credentials(Kind::Json, br#"{"username":"a","password":"b","return_to":"/x"}"#).is_ok());
    }
}
