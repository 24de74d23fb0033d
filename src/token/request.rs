//! What is asked of a token endpoint: JSON (R33), or at `revoke` a form as well, as RFC 7009 has it.
//!
//! In: bytes of a body. Out: the fields, each of which may be there once; an unknown one in JSON is refused, since it
//! may be a misspelt one.

use serde::Deserialize;

use crate::{login::return_to::parameter, refusal::Refusal, secret::Secret};

/// `{prefix}/token`.
pub(super) enum Asked {
    ApiKey {
        client: String,
    },
    Password {
        client: String,
        login: crate::login::Native,
    },
    Session {
        client: String,
    },
    /// A grant type that nobody knows.
    Unknown,
}

/// `{prefix}/token/refresh`.
pub(super) struct Refresh {
    pub(super) client: String,
    /// `None`: it is in the cookie.
    pub(super) token: Option<Secret<String>>,
}

/// `{prefix}/token/revoke`.
pub(super) struct Revoke {
    pub(super) client: String,
    /// `None`: it is in the cookie.
    pub(super) token: Option<Secret<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    grant_type: String,
    client_id: String,
    username: Option<String>,
    password: Option<String>,
    code: Option<String>,
    provider: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshBody {
    grant_type: Option<String>,
    client_id: String,
    refresh_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    client_id: String,
    token: Option<String>,
    #[expect(dead_code, reason = "a hint that we do not need (RFC 7009 section 2.1): tokens tell what they are")]
    token_type_hint: Option<String>,
}

pub(super) fn token(body: &[u8]) -> Result<Asked, Refusal> {
    let read: TokenBody = serde_json::from_slice(body).map_err(|_| {
        Refusal::BadBody("not a JSON object with grant_type, client_id, and username, password, code, provider")
    })?;
    let TokenBody { grant_type, client_id: client, username, password, code, provider } = read;
    let password = password.map(Secret::new);
    let code = code.map(Secret::new);
    let is_plain = username.is_none() && password.is_none() && code.is_none() && provider.is_none();
    match (&*grant_type, username, password) {
        ("password", Some(username), Some(password)) => {
            Ok(Asked::Password { client, login: crate::login::Native { username, password, code, provider } })
        }
        ("password", ..) => Err(Refusal::BadBody("no username or no password")),
        ("session", ..) if is_plain => Ok(Asked::Session { client }),
        ("client_credentials", ..) if is_plain => Ok(Asked::ApiKey { client }),
        ("session" | "client_credentials", ..) => Err(Refusal::BadBody("only a password grant has a username")),
        _ => Ok(Asked::Unknown),
    }
}

pub(super) fn refresh(body: &[u8]) -> Result<Refresh, Refusal> {
    let read: RefreshBody = serde_json::from_slice(body)
        .map_err(|_| Refusal::BadBody("not a JSON object with client_id and refresh_token"))?;
    let token = read.refresh_token.map(Secret::new);
    if read.grant_type.is_some_and(|grant_type| grant_type != "refresh_token") {
        return Err(Refusal::BadBody("only grant_type refresh_token is possible here"));
    }
    Ok(Refresh { client: read.client_id, token })
}

pub(super) fn revoke(is_json: bool, body: &[u8]) -> Result<Revoke, Refusal> {
    if is_json {
        let read: RevokeBody =
            serde_json::from_slice(body).map_err(|_| Refusal::BadBody("not a JSON object with client_id and token"))?;
        return Ok(Revoke { client: read.client_id, token: read.token.map(Secret::new) });
    }
    let text = std::str::from_utf8(body).map_err(|_| Refusal::BadBody("not UTF-8"))?;
    let field = |name: &str| {
        let is_there = text.split('&').any(|pair| pair.split('=').next() == Some(name));
        let value = parameter(text, name).map(std::borrow::Cow::into_owned);
        if is_there && value.is_none() {
            return Err(Refusal::BadBody("a field that is repeated or no UTF-8"));
        }
        Ok(value)
    };
    let client = field("client_id")?.ok_or(Refusal::BadBody("no client_id"))?;
    Ok(Revoke { client, token: field("token")?.map(Secret::new) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_whole_or_refused() {
        let kind = |text: &str| match token(text.as_bytes()) {
            Ok(Asked::ApiKey { .. }) => "api_key",
            Ok(Asked::Password { .. }) => "password",
            Ok(Asked::Session { .. }) => "session",
            Ok(Asked::Unknown) => "unknown",
            Err(Refusal::BadBody(_)) => "refused",
            Err(_) => "refused otherwise",
        };
        for (text, expect) in [
            (r#"{"grant_type":"session","client_id":"spa"}"#, "session"),
            (r#"{"grant_type":"client_credentials","client_id":"batch"}"#, "api_key"),
            (r#"{"grant_type":"password","client_id":"phone","username":"a","password":"b"}"#, "password"),
            (r#"{"grant_type":"password","client_id":"phone","username":"a","password":"b","code":"1"}"#, "password"),
            (r#"{"grant_type":"password","client_id":"phone","username":"a"}"#, "refused"),
            (r#"{"grant_type":"session","client_id":"spa","username":"a"}"#, "refused"),
            (r#"{"grant_type":"session","client_id":"spa","password":"a"}"#, "refused"),
            (r#"{"grant_type":"client_credentials","client_id":"spa","code":"a"}"#, "refused"),
            (r#"{"grant_type":"session"}"#, "refused"),
            (r#"{"grant_type":"session","client_id":"spa","client_id":"spa"}"#, "refused"),
            (r#"{"grant_type":"session","client_id":"spa","scope":"all"}"#, "refused"),
            (r#"{"grant_type":"session","client_id":7}"#, "refused"),
            (r#"{"grant_type":"authorization_code","client_id":"spa"}"#, "unknown"),
            (r#"{"grant_type":"Session","client_id":"spa"}"#, "unknown"),
            ("grant_type=session&client_id=spa", "refused"),
            ("", "refused"),
        ] {
            assert_eq!(kind(text), expect, "{text}");
        }
    }

    #[test]
    fn a_token_to_revoke_comes_in_a_form_or_in_json() {
        let read = |is_json, text: &str| {
            revoke(is_json, text.as_bytes()).ok().map(|read| (read.client, read.token.map(|t| t.expose().clone())))
        };
        let both = Some(("spa".to_owned(), Some("a.b/c".to_owned())));
        for (is_json, text, expect) in [
            (false, "token=a.b%2Fc&client_id=spa&token_type_hint=access_token", both.clone()),
            (true, r#"{"token":"a.b/c","client_id":"spa","token_type_hint":"access_token"}"#, both),
            (false, "client_id=spa", Some(("spa".to_owned(), None))),
            (true, r#"{"client_id":"spa"}"#, Some(("spa".to_owned(), None))),
            (false, "token=a", None),
            (false, "token=a&token=b&client_id=spa", None),
            (false, "token=%ff&client_id=spa", None),
            (true, "token=a&client_id=spa", None),
        ] {
            assert_eq!(read(is_json, text), expect, "{text}");
        }
    }
}
