//! A login by user and password for a program that wants tokens instead of a cookie (RFC 6749 section 4.3).
//!
//! In: what the program was told by its user. Out: a session that no cookie opens. The way is that of the login page:
//! same throttle, hashes, second factor, limits, audit lines.

use std::sync::Arc;

use super::{
    Context,
    form::Credentials,
    require_encryption,
    sign_in::{self, Attempted},
};
use crate::{refusal::Refusal, secret::Secret, session::Session};

/// What a program sends.
#[derive(Debug)]
pub struct Native {
    /// Name or email.
    pub username: String,
    /// The password.
    pub password: Secret<String>,
    /// Of the second factor.
    pub code: Option<Secret<String>>,
    /// Name of the provider; `None`: the first.
    pub provider: Option<String>,
}

/// Opens a session. Nobody is signed in before, whatever cookies there are.
///
/// # Errors
/// As a login by JSON: [`Refusal::LoginFailed`], [`Refusal::FactorRequired`] and the like, [`Refusal::TooMany`], and
/// what a full store or a full disk is refused with.
pub async fn sign_in_natively(native: Native, context: Context<'_>) -> Result<Arc<Session>, Refusal> {
    require_encryption(context.view)?;
    sign_in::key_to_bind(context)?;
    let context = Context { session: None, identity: None, ..context };
    let provider = context.login.provider(native.provider.as_deref()).ok_or(Refusal::BadBody("no such provider"))?;
    let credentials = Credentials {
        username: native.username,
        password: native.password,
        code: native.code,
        provider: None,
        return_to: None,
        step_up: None,
        remember: false,
        token: None,
    };
    match sign_in::log_in(&credentials, provider, context).await? {
        Attempted::LoggedIn(signed_in) => Ok(signed_in.session),
        Attempted::Failed | Attempted::OtherUser => Err(Refusal::LoginFailed),
        Attempted::Incomplete(_, missing) => Err(sign_in::incomplete(&missing)),
    }
}
