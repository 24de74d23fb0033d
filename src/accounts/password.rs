//! What a password may be, and the hash that is made of one.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

use crate::secret;

/// Bytes of the longest password.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// Why no hash was made of a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PasswordError {
    /// There is none.
    Empty,
    /// It has more than [`MAX_PASSWORD_BYTES`].
    TooLong,
}

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the password is empty"),
            Self::TooLong => write!(f, "the password is longer than {MAX_PASSWORD_BYTES} bytes"),
        }
    }
}

impl std::error::Error for PasswordError {}

/// An argon2id hash in PHC string form for `password = "…"`, with a random salt and the parameters that OWASP
/// recommends (m = 19 MiB, t = 2, p = 1). Takes some ten milliseconds: not for a worker.
///
/// # Errors
/// [`PasswordError`] when the password is empty or too long.
pub fn hash_password(password: &str) -> Result<String, PasswordError> {
    hash_with(&Params::DEFAULT, password)
}

/// As [`hash_password`], with other parameters.
pub(super) fn hash_with(params: &Params, password: &str) -> Result<String, PasswordError> {
    check_length(password)?;
    hash_with_salt(params, password, secret::random())
}

/// As [`hash_password`], with a salt that says which hash it replaces: [`super::User::proof`] of that, 128 bits that
/// are as random and as unique as its own salt.
pub(super) fn renew(proof: [u8; SALT_BYTES], password: &str) -> Result<String, PasswordError> {
    check_length(password)?;
    hash_with_salt(&Params::DEFAULT, password, proof)
}

fn check_length(password: &str) -> Result<(), PasswordError> {
    match password.len() {
        0 => Err(PasswordError::Empty),
        1..=MAX_PASSWORD_BYTES => Ok(()),
        _ => Err(PasswordError::TooLong),
    }
}

fn hash_with_salt(params: &Params, password: &str, salt: [u8; SALT_BYTES]) -> Result<String, PasswordError> {
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    // Fails only for lengths out of range, and all lengths here are constants in range or checked above.
    argon2.hash_password_into(password.as_bytes(), &salt, &mut output).map_err(|_| PasswordError::TooLong)?;
    let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
    let (salt, output) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(output));
    Ok(format!("$argon2id$v=19$m={m},t={t},p={p}${salt}${output}"))
}

/// RFC 9106 section 3.1 recommends 128 bits.
const SALT_BYTES: usize = 16;
