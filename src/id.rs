//! Identifiers that travel: the request id of logs and `X-Request-Id`, and the W3C trace context.

use std::{cell::Cell, fmt};

use http::HeaderValue;

use crate::secret;

/// Names one request in logs, answers and towards the upstream: 32 lower-case hexadecimal digits of our own,
/// or what a trusted proxy sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestId {
    text: HeaderValue,
    /// Whether we made it.
    own: bool,
}

impl Default for RequestId {
    /// `-`: none.
    fn default() -> Self {
        Self { text: HeaderValue::from_static("-"), own: false }
    }
}

impl RequestId {
    /// A fresh one. Unique, not secret: a per-thread generator seeded by the system.
    pub fn generate() -> Self {
        let text = hex(next_pair());
        HeaderValue::from_bytes(&text).map_or_else(|_| Self::default(), |text| Self::new(text, true))
    }

    /// Takes a trusted proxy's id: 1 to 128 of `[A-Za-z0-9._~+/=:-]`, else `None`.
    pub fn from_trusted(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._~+/=:-".contains(b);
        (!bytes.is_empty() && bytes.len() <= 128 && bytes.iter().all(plain)).then(|| Self::new(value.clone(), false))
    }

    fn new(mut text: HeaderValue, own: bool) -> Self {
        // No two are alike: HPACK's table would be full of them, and searched from end to end for each (RFC 7541
        // section 6.2.3).
        text.set_sensitive(true);
        Self { text, own }
    }

    /// As a header value; cloning it is a reference count.
    pub const fn header(&self) -> &HeaderValue {
        &self.text
    }

    /// The header value itself.
    pub fn into_header(self) -> HeaderValue {
        self.text
    }

    /// Its digits, if it is of our own making.
    pub fn own(&self) -> Option<&[u8; 32]> {
        self.text.as_bytes().first_chunk().filter(|_| self.own)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.text.to_str().unwrap_or("-")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fresh `traceparent` (W3C Trace Context, section 3.2): version 00, random ids, not sampled. The trace is called as
/// the request is that it begins with, if that has a name of ours.
pub fn new_traceparent(request: &RequestId) -> [u8; 55] {
    let trace = request.own().copied().unwrap_or_else(|| hex(next_pair()));
    let (span, _) = next_pair();
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[3..35].copy_from_slice(&trace);
    text[36..52].copy_from_slice(&hex_word(span));
    text
}

/// Whether a client's `traceparent` is well-formed (version 00, no zero ids) and may be passed on.
pub fn is_traceparent(value: &[u8]) -> bool {
    let digits = |range: &[u8]| range.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    value.len() == 55
        && value.starts_with(b"00-")
        && value[35] == b'-'
        && value[52] == b'-'
        && digits(&value[3..35])
        && digits(&value[36..52])
        && digits(&value[53..55])
        && value[3..35].iter().any(|b| *b != b'0')
        && value[36..52].iter().any(|b| *b != b'0')
}

fn next_pair() -> (u64, u64) {
    thread_local! {
        static STATE: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
    }
    STATE.with(|state| {
        let (mut a, b) = state.get().unwrap_or_else(|| {
            let seed: [u8; 16] = secret::random();
            let (low, high) = seed.split_at(8);
            let word = |half: &[u8]| half.iter().fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
            (word(low), word(high) | 1)
        });
        // SplitMix64 twice over a Weyl sequence with a per-thread odd step.
        a = a.wrapping_add(b);
        state.set(Some((a, b)));
        (mix(a), mix(a ^ b.rotate_left(32)))
    })
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hex((a, b): (u64, u64)) -> [u8; 32] {
    let mut text = [0; 32];
    text[..16].copy_from_slice(&hex_word(a));
    text[16..].copy_from_slice(&hex_word(b));
    text
}

fn hex_word(word: u64) -> [u8; 16] {
    let mut text = [0; 16];
    text[..8].copy_from_slice(&digits(word >> 32));
    text[8..].copy_from_slice(&digits(word & 0xffff_ffff));
    text
}

/// The eight digits of a number below 2^32, all at once: each of its four-bit parts gets a byte of its own.
const fn digits(number: u64) -> [u8; 8] {
    let spread = (number | (number << 16)) & 0x0000_ffff_0000_ffff;
    let spread = (spread | (spread << 8)) & 0x00ff_00ff_00ff_00ff;
    let spread = (spread | (spread << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 in each byte that is ten or more.
    let letters = ((spread + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (spread + 0x3030_3030_3030_3030 + letters * 39).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_hexadecimal_and_differ() {
        let ids: std::collections::HashSet<String> = (0..10_000).map(|_| RequestId::generate().to_string()).collect();

        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }

    #[test]
    fn request_ids_never_enter_a_table_of_fields() {
        let trusted = RequestId::from_trusted(&HeaderValue::from_static("abc")).unwrap();

        assert!(RequestId::generate().header().is_sensitive());
        assert!(trusted.into_header().is_sensitive());
    }

    #[test]
    fn a_word_is_spelled_as_the_standard_library_does() {
        for shift in 0..64 {
            for word in [u64::MAX >> shift, 1 << shift, 0x0123_4567_89ab_cdef_u64.rotate_left(shift), mix(shift.into())]
            {
                assert_eq!(std::str::from_utf8(&hex_word(word)).unwrap(), format!("{word:016x}"));
            }
        }
    }

    #[test]
    fn our_traceparent_is_well_formed() {
        let (ours, theirs) = (RequestId::generate(), RequestId::from_trusted(&HeaderValue::from_static("4bf9-2f")));
        let traceparent = new_traceparent(&ours);
        assert!(is_traceparent(&traceparent));
        assert_eq!(&traceparent[3..35], ours.as_str().as_bytes());
        assert!(is_traceparent(&new_traceparent(&theirs.unwrap())));
        assert!(!is_traceparent(b"00-00000000000000000000000000000000-0000000000000000-00"));
        assert!(!is_traceparent(b"junk"));
    }
}
