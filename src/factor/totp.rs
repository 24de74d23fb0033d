//! Time-based one-time passwords (RFC 6238) as every authenticator app makes them: HMAC-SHA-1, six digits, steps of 30
//! seconds. SHA-1's collisions do not matter here, and some apps ignore any other choice silently.
//!
//! In: a secret of 160 bits and a moment. Out: which time step a code belongs to, if any.
//! Invariant: all candidate steps are compared, each in constant time, whether or not an earlier one fits.

use aws_lc_rs::hmac;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::base32;
use crate::{
    clock::Timestamp,
    secret::{self, Secret},
};

/// What the gateway and somebody's app share.
#[derive(Clone, Debug)]
pub struct Key(Secret<[u8; KEY_LEN]>);

/// How many 30-second steps have passed since 1970 (RFC 6238 section 4.2).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Step(pub(super) u64);

/// Whether a code is right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Match {
    /// The code of this step, which was not used yet.
    Fresh(Step),
    /// The code of a step that was used, or lies before one that was.
    Used,
    /// No code of these steps.
    Wrong,
}

impl Key {
    /// A new one.
    pub fn generate() -> Self {
        Self(Secret::new(secret::random()))
    }

    /// One that was written down.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Secret::new(bytes)))
    }

    /// To write it down, sealed.
    pub fn bytes(&self) -> &[u8] {
        self.0.expose()
    }

    /// As people type it into an app: base32 in groups of four.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(base32::grouped(&base32::encode(self.bytes())))
    }

    /// The `otpauth://` address that apps read from a QR code. `issuer` is the gateway's host, `account` the user's name.
    pub fn address(&self, issuer: &str, account: &str) -> Zeroizing<String> {
        let issuer = utf8_percent_encode(issuer, NON_ALPHANUMERIC);
        let account = utf8_percent_encode(account, NON_ALPHANUMERIC);
        let secret = Zeroizing::new(base32::encode(self.bytes()));
        Zeroizing::new(format!(
            "otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={PERIOD}",
            *secret
        ))
    }

    /// Which of the steps around `now` has this code: the present one, the one before and the one after, since clocks
    /// differ (RFC 6238 section 5.2). `last`: the last step that was used.
    pub fn check(&self, code: &str, last: Option<Step>, now: Timestamp) -> Match {
        let Step(present) = Step::at(now);
        let mut found = Match::Wrong;
        // From the latest, so that the earliest fresh one remains and the most codes stay good.
        for step in [present.saturating_add(1), present, present.saturating_sub(1)].map(Step) {
            let right = secret::constant_time_eq(self.code(step).as_bytes(), code.as_bytes());
            let fresh = last.is_none_or(|last| step > last);
            found = match (right, fresh) {
                (true, true) => Match::Fresh(step),
                (true, false) if found == Match::Wrong => Match::Used,
                (true, false) | (false, _) => found,
            };
        }
        found
    }

    /// The code of a step.
    fn code(&self, step: Step) -> Zeroizing<String> {
        Zeroizing::new(format!("{:0width$}", self.truncated(step) % 10_u32.pow(DIGITS), width = DIGITS as usize))
    }

    /// RFC 4226 section 5.3.
    fn truncated(&self, Step(step): Step) -> u32 {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.bytes());
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let bytes = tag.as_ref();
        let offset = usize::from(bytes.last().copied().unwrap_or_default() & 0xf);
        let window = bytes.get(offset..offset + 4).and_then(|window| window.try_into().ok()).unwrap_or_default();
        u32::from_be_bytes(window) & 0x7fff_ffff
    }
}

impl Step {
    /// The step of a moment.
    pub const fn at(now: Timestamp) -> Self {
        Self(now.unix_seconds() / PERIOD)
    }
}

/// The code that an app shows for the key of [`Key::text`] at a moment; for tests of the whole gateway.
#[doc(hidden)]
pub fn code_of(text: &str, at: Timestamp) -> Option<String> {
    Key::from_bytes(&base32::decode(text)?).map(|key| key.code(Step::at(at)).to_string())
}

const KEY_LEN: usize = 20;
const DIGITS: u32 = 6;
const PERIOD: u64 = 30;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STEP: Duration = Duration::from_secs(PERIOD);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    /// RFC 6238 appendix B, SHA-1: the table has eight digits, of which an app with six shows the last six.
    #[test]
    fn codes_are_those_of_the_standard() {
        let key = Key::from_bytes(b"12345678901234567890").unwrap();
        for (seconds, code) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            let step = Step::at(at(seconds));
            assert_eq!(format!("{:08}", key.truncated(step) % 100_000_000), code);
            assert_eq!(*key.code(step), code[2..], "the last six of {code}");
            assert_eq!(key.check(&code[2..], None, at(seconds)), Match::Fresh(step));
            assert_eq!(key.check(code, None, at(seconds)), Match::Wrong, "six digits, not eight");
        }
    }

    #[test]
    fn one_step_before_and_after_counts_and_no_more() {
        let key = Key::generate();
        let now = at(1_800_000_000);
        for (steps, expect) in [(-2_i64, false), (-1, true), (0, true), (1, true), (2, false)] {
            let step = Step(Step::at(now).0.checked_add_signed(steps).unwrap());
            let found = key.check(&key.code(step), None, now);
            assert_eq!(found == Match::Fresh(step), expect, "{steps}: {found:?}");
        }
    }

    #[test]
    fn a_step_counts_once_and_those_before_it_no_more() {
        let key = Key::generate();
        let now = at(1_800_000_000);
        let present = Step::at(now);
        let code = |step: Step| key.code(step);
        let (before, after) = (Step(present.0 - 1), Step(present.0 + 1));

        assert_eq!(key.check(&code(present), Some(present), now), Match::Used);
        assert_eq!(key.check(&code(before), Some(present), now), Match::Used, "a code seen over the shoulder");
        assert_eq!(key.check(&code(after), Some(present), now), Match::Fresh(after));
        assert_eq!(key.check(&code(after), Some(after), now.plus(STEP)), Match::Used);
        assert_eq!(key.check(&code(present), Some(Step(u64::MAX)), now), Match::Used, "a clock that was set back");
    }

    #[test]
    fn a_key_is_told_as_apps_read_it() {
        let key = Key::from_bytes(b"12345678901234567890").unwrap();

        assert_eq!(*key.text(), "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ");
        assert_eq!(
            *key.address("app.example.com", "alice & bob"),
            "otpauth://totp/app%2Eexample%2Ecom:alice%20%26%20bob?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=app%2Eexample%2Ecom&algorithm=SHA1&digits=6&period=30"
        );
        assert_eq!(code_of(&key.text(), at(59)).as_deref(), Some("287082"));
        assert_eq!(format!("{key:?}"), "Key([secret])");
    }
}
