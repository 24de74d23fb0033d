//! One stored hash, ready to compare with: argon2id or argon2i (RFC 9106) in PHC string form, or bcrypt.
//!
//! In: the text of a hash, from a users file. Out: a [`Verifier`], or what is wrong with it and how to mend it.
//! Invariants: what is weak is refused by name; what would stall the gateway is refused before it is ever tried; no
//! error repeats the text, since a password in the clear may stand there by mistake.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash::phc::PasswordHash};
use base64::{
    Engine,
    alphabet::BCRYPT,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
};
use zeroize::Zeroizing;

use crate::secret;

/// A parsed hash.
pub(super) enum Verifier {
    Argon2 { algorithm: Algorithm, argon2: Argon2<'static>, salt: Box<[u8]>, output: Box<[u8]> },
    Bcrypt { cost: u32, salt: [u8; 16], output: [u8; BCRYPT_OUTPUT_BYTES] },
}

/// Hashes of one kind take the same time to try.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Argon2 { algorithm: Algorithm, memory: u32, passes: u32, lanes: u32 },
    Bcrypt { cost: u32 },
}

impl Verifier {
    /// Reads a hash.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(weak) = weak_format(text) {
            return Err(format!("is hashed with {weak}, which is guessed too fast to be safe; {ADVICE}"));
        }
        match text.split('$').nth(1).filter(|_| text.starts_with('$')) {
            Some("2a" | "2b" | "2y") => Self::bcrypt(text),
            Some("argon2id") => Self::argon2(text, Algorithm::Argon2id),
            Some("argon2i") => Self::argon2(text, Algorithm::Argon2i),
            Some(_) | None => Err(format!("is no hash of a kind that is read (argon2id, argon2i, bcrypt); {ADVICE}")),
        }
    }

    /// How a text is hashed, in words for people; nothing of the text.
    pub(super) fn describe(text: &str) -> String {
        match Self::parse(text).map(|verifier| verifier.kind()) {
            Ok(Kind::Argon2 { algorithm, memory, passes, lanes }) => {
                format!("{} m={memory},t={passes},p={lanes}", algorithm.as_str())
            }
            Ok(Kind::Bcrypt { cost }) => format!("bcrypt {cost}"),
            Err(_) => format!("{}, refused", weak_format(text).unwrap_or("unreadable")),
        }
    }

    fn argon2(text: &str, algorithm: Algorithm) -> Result<Self, String> {
        let broken = |what: &dyn fmt::Display| format!("is an argon2 hash that cannot be read ({what}); {ADVICE}");
        let hash = PasswordHash::new(text).map_err(|error| broken(&error))?;
        if hash.version != Some(Version::V0x13.into()) {
            return Err(broken(&"version must be 19"));
        }
        let params = Params::try_from(&hash).map_err(|error| broken(&error))?;
        let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
        let work = u64::from(memory) * u64::from(passes);
        if memory > MAX_MEMORY_KIB || work > MAX_WORK_KIB || lanes > MAX_LANES {
            let most = format!("m={MAX_MEMORY_KIB}, m×t={MAX_WORK_KIB}, p={MAX_LANES}");
            return Err(format!(
                "asks for m={memory}, t={passes}, p={lanes}: more work than is sensible (at most {most}); {ADVICE}"
            ));
        }
        let salt = hash.salt.ok_or_else(|| broken(&"no salt"))?;
        let output = hash.hash.ok_or_else(|| broken(&"no hash after the salt"))?;
        if salt.len() < argon2::MIN_SALT_LEN || output.len() < MIN_OUTPUT_BYTES {
            return Err(broken(&"salt below 8 or hash below 16 bytes"));
        }
        Ok(Self::Argon2 {
            algorithm,
            argon2: Argon2::new(algorithm, Version::V0x13, params),
            salt: salt.as_ref().into(),
            output: output.as_bytes().into(),
        })
    }

    /// `$2b$12$` and 22 digits of salt, 31 of hash. 2a, 2b and 2y are the same function for what is accepted here;
    /// 2x is a broken one.
    fn bcrypt(text: &str) -> Result<Self, String> {
        let broken = || format!("is a bcrypt hash that cannot be read; {ADVICE}");
        let mut parts = text.split('$').skip(2);
        let (Some(cost), Some(digits), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(broken());
        };
        let two_digits = cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
        let cost: u32 = cost.parse().ok().filter(|_| two_digits).ok_or_else(broken)?;
        let (salt, output) = digits.split_at_checked(22).filter(|(_, output)| output.len() == 31).ok_or_else(broken)?;
        let salt = BASE64.decode(salt).ok().and_then(|salt| salt.try_into().ok()).ok_or_else(broken)?;
        let output = BASE64.decode(output).ok().and_then(|output| output.try_into().ok()).ok_or_else(broken)?;
        if !(4..=MAX_BCRYPT_COST).contains(&cost) {
            return Err(format!("asks for bcrypt cost {cost}: 4 to {MAX_BCRYPT_COST} are sensible; {ADVICE}"));
        }
        Ok(Self::Bcrypt { cost, salt, output })
    }

    /// Whether this is the password. All passwords take the same work.
    pub(super) fn matches(&self, password: &[u8], memory: &mut Vec<Block>) -> bool {
        match self {
            Self::Argon2 { argon2, salt, output, .. } => {
                let blocks = argon2.params().block_count();
                if memory.len() < blocks {
                    memory.resize(blocks, Block::new());
                }
                let mut hashed = vec![0; output.len()];
                let made = argon2.hash_password_into_with_memory(password, salt, &mut hashed, memory.as_mut_slice());
                made.is_ok() && secret::constant_time_eq(&hashed, output)
            }
            Self::Bcrypt { cost, salt, output } => {
                // bcrypt looks at 72 bytes, and repeats what is shorter from a zero byte on. What it would cut, or
                // could mistake for another password, is nobody's.
                let sound = password.len() <= BCRYPT_PASSWORD_BYTES && !password.contains(&0);
                let mut key = Zeroizing::new([0; BCRYPT_PASSWORD_BYTES]);
                let used = password.len().min(BCRYPT_PASSWORD_BYTES);
                key[..used].copy_from_slice(&password[..used]);
                let key = &key[..(used + 1).min(BCRYPT_PASSWORD_BYTES)];
                let hashed = bcrypt::bcrypt(*cost, *salt, key);
                secret::constant_time_eq(&hashed[..BCRYPT_OUTPUT_BYTES], output) && sound
            }
        }
    }

    pub(super) fn salt(&self) -> &[u8] {
        match self {
            Self::Argon2 { salt, .. } => salt,
            Self::Bcrypt { salt, .. } => salt,
        }
    }

    /// A hash of nothing, of this kind.
    pub(super) fn decoy(kind: Kind) -> Self {
        match kind {
            Kind::Argon2 { algorithm, memory, passes, lanes } => Self::Argon2 {
                algorithm,
                // Of a kind that was read before, hence good parameters.
                argon2: Argon2::new(
                    algorithm,
                    Version::V0x13,
                    Params::new(memory, passes, lanes, None).unwrap_or(Params::DEFAULT),
                ),
                salt: Box::new(secret::random::<16>()),
                output: Box::new(secret::random::<32>()),
            },
            Kind::Bcrypt { cost } => Self::Bcrypt { cost, salt: secret::random(), output: secret::random() },
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Argon2 { algorithm, argon2, .. } => {
                let params = argon2.params();
                let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
                Kind::Argon2 { algorithm: *algorithm, memory, passes, lanes }
            }
            Self::Bcrypt { cost, .. } => Kind::Bcrypt { cost: *cost },
        }
    }
}

impl Kind {
    /// What hashes are made as.
    pub(super) fn usual() -> Self {
        let params = Params::DEFAULT;
        let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
        Self::Argon2 { algorithm: Algorithm::Argon2id, memory, passes, lanes }
    }

    /// Whether a login should replace it: guessing costs less than OWASP recommends, or less memory than with argon2id.
    pub(super) fn is_outdated(self) -> bool {
        match self {
            Self::Argon2 { algorithm, memory, passes, .. } => {
                algorithm != Algorithm::Argon2id || u64::from(memory) * u64::from(passes) < RECOMMENDED_WORK_KIB
            }
            Self::Bcrypt { .. } => true,
        }
    }
}

/// Whether a text is a hash of some format, good or bad: nothing that anybody would choose as a password.
pub fn looks_like_a_hash(text: &str) -> bool {
    Verifier::parse(text).is_ok() || weak_format(text).is_some() || KNOWN.iter().any(|start| text.starts_with(start))
}

/// The name of a format that is known and too weak.
fn weak_format(text: &str) -> Option<&'static str> {
    let named = WEAK.iter().find(|(start, _)| text.starts_with(start));
    named.map(|(_, name)| *name)
}

const KNOWN: &[&str] = &["$argon2id$", "$argon2i$", "$argon2d$", "$2a$", "$2b$", "$2y$"];

/// How the weak formats of htpasswd and crypt(3) begin.
const WEAK: &[(&str, &str)] = &[
    ("$apr1$", "MD5 (apr1)"),
    ("$1$", "MD5 (crypt)"),
    ("$5$", "SHA-256 (crypt)"),
    ("$6$", "SHA-512 (crypt)"),
    ("$2x$", "a broken bcrypt (2x)"),
    ("{SHA}", "SHA-1 without a salt"),
    ("{SSHA}", "SHA-1"),
];

const ADVICE: &str = "make one with `portcullis hash-password`";

/// What a hash may cost to try: 256 MiB, and about a second. More is a slip, or an attack on those who log in.
const MAX_MEMORY_KIB: u32 = 256 << 10;
const MAX_WORK_KIB: u64 = 1 << 20;
const MAX_LANES: u32 = 16;
const MAX_BCRYPT_COST: u32 = 14;

/// Below this, two passwords might share a hash.
const MIN_OUTPUT_BYTES: usize = 16;

/// The cheapest of the argon2id parameter sets that OWASP calls equal: m = 7 MiB, t = 5.
const RECOMMENDED_WORK_KIB: u64 = 7 * 1024 * 5;

/// All that bcrypt looks at.
const BCRYPT_PASSWORD_BYTES: usize = 72;
/// bcrypt makes 24 bytes; what is stored lacks the last.
const BCRYPT_OUTPUT_BYTES: usize = 23;

/// Base64 as bcrypt writes it. The unused bits of the last digit are ignored, as everybody does.
const BASE64: GeneralPurpose = GeneralPurpose::new(&BCRYPT, NO_PAD.with_decode_allow_trailing_bits(true));
