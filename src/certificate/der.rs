//! DER, as far as certificates and revocation lists need it (X.690 section 8.1): elements one after the other, and
//! times.
//!
//! In: bytes of anybody. Out: slices of them, or `None` where they are no DER. Nothing is judged here: what a
//! certificate is worth is for `rustls` and `webpki` to say.

use crate::clock::Timestamp;

/// DER elements, one after the other (X.690 section 8.1): tag, length, content.
#[derive(Clone, Copy)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

impl<'a> Der<'a> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    pub(crate) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    pub(crate) fn take_if(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.take(tag) } else { None }
    }

    /// A time of RFC 5280 section 4.1.2.5: `YYMMDDHHMMSSZ` up to 2049, `YYYYMMDDHHMMSSZ` after.
    pub(crate) fn time(&mut self) -> Option<Timestamp> {
        let (tag, digits) = self.next()?;
        let digits = std::str::from_utf8(digits).ok()?.strip_suffix('Z')?;
        let full = match tag {
            UTC_TIME if digits.len() == 12 => format!("{}{digits}", if digits < "5" { "20" } else { "19" }),
            GENERALIZED_TIME if digits.len() == 14 => digits.to_owned(),
            _ => return None,
        };
        let part = |range: std::ops::Range<usize>| full.get(range);
        let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
        let (hour, minute, second) = (part(8..10)?, part(10..12)?, part(12..14)?);
        let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
        let time = humantime::parse_rfc3339(&text).ok()?;
        // Before 1970 is as good as 1970.
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Some(Timestamp::from_unix_seconds(since.as_secs()))
    }
}

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const VERSION: u8 = 0xa0;
pub(crate) const ISSUER_UNIQUE_ID: u8 = 0x81;
pub(crate) const SUBJECT_UNIQUE_ID: u8 = 0x82;
pub(crate) const EXTENSIONS: u8 = 0xa3;
pub(crate) const DNS_NAME: u8 = 0x82;
pub(crate) const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17
pub(crate) const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];
