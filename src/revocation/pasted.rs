//! A bearer token as an administrator pastes it to have it revoked: read, not verified.
//!
//! In: the text. Out: what names the token, and when it ends by itself. It need not be good at this moment, nor its
//! issuer's keys known: what is struck is exactly this header and payload, whoever may have signed it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::signed::sha256;
use crate::clock::Timestamp;

/// What a token says of itself, unverified.
#[derive(Debug, PartialEq)]
pub struct PastedToken {
    /// SHA-256 of header and payload as signed.
    pub signing_input: [u8; 32],
    /// Its `iss`.
    pub issuer: Box<str>,
    /// Its `exp`.
    pub expires: Timestamp,
    /// Its `realm`, which tokens of our own have. A made-up one names another token, which nobody has.
    pub realm: Option<Box<str>>,
}

/// The text is no JWT that could ever count: not three parts of base64url without padding, or without `iss` or `exp`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotAToken;

impl PastedToken {
    /// SHA-256 of a token that is no JWS, which has two dots; it says nothing of itself.
    pub fn opaque(text: &str) -> Option<[u8; 32]> {
        let opaque = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !opaque || text.matches('.').count() == 2 {
            return None;
        }
        Some(sha256(text.as_bytes()))
    }

    /// Reads a token; blanks around it do not matter.
    ///
    /// # Errors
    /// [`NotAToken`] for everything that no gateway would accept, whatever its signature.
    pub fn read(text: &str) -> Result<Self, NotAToken> {
        let text = text.trim();
        let (signed, signature) = text.rsplit_once('.').ok_or(NotAToken)?;
        let (header, payload) = signed.split_once('.').ok_or(NotAToken)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| NotAToken);
        decode(signature)?;
        let _: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&decode(header)?).map_err(|_| NotAToken)?;
        let payload: Payload = serde_json::from_slice(&decode(payload)?).map_err(|_| NotAToken)?;
        let signing_input = sha256(signed.as_bytes());
        let realm = payload.realm.as_str().map(Into::into);
        let expires = payload.exp.and_then(moment).ok_or(NotAToken)?;
        Ok(Self { signing_input, issuer: payload.iss, expires, realm })
    }
}

#[derive(Deserialize)]
struct Payload {
    iss: Box<str>,
    exp: Option<serde_json::Number>,
    #[serde(default)]
    realm: serde_json::Value,
}

/// Whole seconds, rounded up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a conversion from a float saturates, and an end that is too late is none too early"
)]
fn moment(number: serde_json::Number) -> Option<Timestamp> {
    let seconds = number.as_u64().or_else(|| number.as_f64().map(|seconds| seconds.ceil() as u64))?;
    Some(Timestamp::from_unix_seconds(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str, signature: &str) -> String {
        format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_token_is_named_by_what_is_signed() {
        let read = |signature| PastedToken::read(&token("{}", r#"{"iss":"a","exp":12.5,"jti":7}"#, signature));
        let one = read("AAAA").unwrap();

        assert_eq!((&*one.issuer, one.expires), ("a", Timestamp::from_unix_seconds(13)));
        assert_eq!(read("AAAB").unwrap(), one, "the signature has other forms");
        let other = PastedToken::read(&token("{}", r#"{"iss":"a","exp":13}"#, "AAAA")).unwrap();
        assert_ne!(other.signing_input, one.signing_input);
        let blanks = format!(" {}\n", token("{}", r#"{"iss":"a","exp":13}"#, "AAAA"));
        assert_eq!(PastedToken::read(&blanks), Ok(other));
    }

    #[test]
    fn what_no_gateway_accepts_is_no_token() {
        let good = token("{}", r#"{"iss":"a","exp":1}"#, "AAAA");
        for text in [
            String::new(),
            "a.b".into(),
            "a.b.c.d.e".into(),
            format!("{good}="),
            format!("Bearer {good}"),
            good.replace('.', ". "),
            token("[]", r#"{"iss":"a","exp":1}"#, "AAAA"),
            token("{}", r#"{"exp":1}"#, "AAAA"),
            token("{}", r#"{"iss":"a"}"#, "AAAA"),
            token("{}", r#"{"iss":"a","exp":"1"}"#, "AAAA"),
            token("{}", r#"{"iss":"a","iss":"b","exp":1}"#, "AAAA"),
            token("{}", r#"{"iss":"a","exp":-1e300}"#, "a"),
        ] {
            assert_eq!(PastedToken::read(&text), Err(NotAToken), "{text}");
        }
    }
}
