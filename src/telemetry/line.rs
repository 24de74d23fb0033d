//! One line of a log: fields in either format, escaped, with the time.
//!
//! In: keys and values of a line. Out: bytes that are one line whatever the values are.
//! Invariants: texts are escaped to printable ASCII and cut (R34); nothing here allocates but the line's own buffer.

use std::{fmt, io::Write, time::Duration};

use super::LogFormat;
use crate::clock::Timestamp;

/// Writes the fields of one line in either format.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
    first: bool,
}

impl<'a> Line<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>, format: LogFormat) -> Self {
        if format == LogFormat::Json {
            out.push(b'{');
        }
        Self { out, format, first: true }
    }

    /// A text from anywhere: escaped, and cut after 2 KiB.
    pub(super) fn text(&mut self, key: &str, text: &[u8]) {
        self.text_up_to(MAX_TEXT, key, text);
    }

    /// A text from anywhere: escaped, and cut after so many bytes.
    pub(super) fn text_up_to(&mut self, most: usize, key: &str, text: &[u8]) {
        self.key(key);
        let quoted = match self.format {
            LogFormat::Json => true,
            LogFormat::Text => text.is_empty() || text.iter().any(|b| !is_bare(*b)),
        };
        if quoted {
            self.out.push(b'"');
        }
        escape(self.out, &text[..text.len().min(most)]);
        if text.len() > most {
            self.out.extend_from_slice(b"...");
        }
        if quoted {
            self.out.push(b'"');
        }
    }

    /// A text of ours that needs no escaping: visible ASCII without blanks, quotes, `=` and backslashes.
    pub(super) fn plain(&mut self, key: &str, text: &str) {
        debug_assert!(text.bytes().all(is_bare) && !text.is_empty(), "{text:?} wants escaping");
        self.key(key);
        match self.format {
            LogFormat::Json => {
                self.out.push(b'"');
                self.out.extend_from_slice(text.as_bytes());
                self.out.push(b'"');
            }
            LogFormat::Text => self.out.extend_from_slice(text.as_bytes()),
        }
    }

    /// Something that prints as visible ASCII without blanks, quotes, `=` and backslashes: an address, a host.
    pub(super) fn display(&mut self, key: &str, value: &dyn fmt::Display) {
        self.key(key);
        let quote: &[u8] = match self.format {
            LogFormat::Json => b"\"",
            LogFormat::Text => b"",
        };
        self.out.extend_from_slice(quote);
        // Writing to memory cannot fail.
        let _ = write!(self.out, "{value}");
        self.out.extend_from_slice(quote);
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        decimal(self.out, number);
    }

    /// A duration in milliseconds, with three decimals.
    pub(super) fn millis(&mut self, key: &str, duration: Duration) {
        self.key(key);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        decimal(self.out, micros / 1000);
        let rest = u32::try_from(micros % 1000).unwrap_or(0);
        let digit = |place: u32| b'0' + u8::try_from(rest / place % 10).unwrap_or(0);
        self.out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &str, flag: bool) {
        self.key(key);
        self.out.extend_from_slice(if flag { b"true" } else { b"false" });
    }

    fn key(&mut self, key: &str) {
        match self.format {
            LogFormat::Json => {
                self.out.extend_from_slice(if self.first { b"\"" } else { b",\"" });
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            LogFormat::Text => {
                if !self.first {
                    self.out.push(b' ');
                }
                self.out.extend_from_slice(key.as_bytes());
                self.out.push(b'=');
            }
        }
        self.first = false;
    }

    pub(super) fn end(self) {
        self.out.extend_from_slice(match self.format {
            LogFormat::Json => b"}\n",
            LogFormat::Text => b"\n",
        });
    }
}

/// `2026-01-31T12:34:56.789Z`; only what changed since the last line is written anew.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp {
    second: u64,
    text: [u8; 24],
}

impl Stamp {
    pub(super) fn at(&mut self, now: Timestamp) -> &str {
        let second = now.unix_seconds();
        if self.second != second || self.text[0] == 0 {
            let text = humantime::format_rfc3339_millis(now.to_system_time()).to_string();
            // A year above 9999 does not print; its second is then told as the epoch.
            self.text.copy_from_slice(text.as_bytes().get(..24).unwrap_or(b"1970-01-01T00:00:00.000Z"));
            self.second = second;
        }
        let millis = u32::try_from(now.unix_millis() % 1000).unwrap_or(0);
        for (place, divisor) in [(20, 100), (21, 10), (22, 1)] {
            self.text[place] = b'0' + u8::try_from(millis / divisor % 10).unwrap_or(0);
        }
        std::str::from_utf8(&self.text).unwrap_or("-")
    }
}

/// Whether a byte needs no quotes in the text format.
const fn is_bare(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'\\' | b'=')
}

/// As the inside of a JSON string (RFC 8259 section 7) in printable ASCII: everything else, and what is not UTF-8,
/// becomes `\u` escapes, so that no line can be broken, forged or made to steer a terminal.
fn escape(out: &mut Vec<u8>, mut bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let unit = |out: &mut Vec<u8>, unit: u16| {
        let digit = |shift: u16| DIGITS[usize::from(unit >> shift & 15)];
        out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
    };
    while !bytes.is_empty() {
        let clean = bytes.iter().take_while(|b| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\')).count();
        out.extend_from_slice(&bytes[..clean]);
        bytes = &bytes[clean..];
        let Some(&byte) = bytes.first() else { return };
        match byte {
            b'"' | b'\\' => {
                out.extend_from_slice(&[b'\\', byte]);
                bytes = &bytes[1..];
            }
            0..=0x7f => {
                unit(out, u16::from(byte));
                bytes = &bytes[1..];
            }
            0x80.. => {
                // One chunk holds all up to the first bad sequence, hence at least one character or one bad sequence.
                let run = bytes.iter().take_while(|b| !b.is_ascii()).count();
                for chunk in bytes[..run].utf8_chunks() {
                    for code in chunk.valid().encode_utf16() {
                        unit(out, code);
                    }
                    if !chunk.invalid().is_empty() {
                        unit(out, 0xfffd);
                    }
                }
                bytes = &bytes[run..];
            }
        }
    }
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Bytes of one text; a path may be as long as a whole request head.
const MAX_TEXT: usize = 2 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: Timestamp = Timestamp::from_unix_millis(1_893_499_200_123);

    fn escaped(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_are_escaped_to_printable_ascii() {
        for (given, expect) in [
            (&b"plain /path?a=b"[..], r"plain /path?a=b"),
            (b"a\"b\\c", r#"a\"b\\c"#),
            (b"line\r\nbreak\0\x1b[31m\x7f", r"line\u000d\u000abreak\u0000\u001b[31m\u007f"),
            ("größe".as_bytes(), r"gr\u00f6\u00dfe"),
            ("😀".as_bytes(), r"\ud83d\ude00"),
            ("\u{202e}".as_bytes(), r"\u202e"),
            (b"\xff\xfeok\xc3", r"\ufffd\ufffdok\ufffd"),
        ] {
            assert_eq!(escaped(given), expect, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn a_json_reader_gets_back_what_was_written(text in any::<String>()) {
            let json = format!("\"{}\"", escaped(text.as_bytes()));

            prop_assert!(json.bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn bytes_that_are_no_text_still_give_json(bytes in any::<Vec<u8>>()) {
            let json = format!("\"{}\"", escaped(&bytes));

            let read = serde_json::from_str::<String>(&json).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn decimals_are_those_of_the_standard_library(number in any::<u64>()) {
            let mut out = Vec::new();
            decimal(&mut out, number);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn the_time_has_milliseconds_and_follows_the_clock() {
        let mut stamp = Stamp::default();

        assert_eq!(stamp.at(NOON), "2030-01-01T12:00:00.123Z");
        assert_eq!(stamp.at(Timestamp::from_unix_millis(1_893_499_200_007)), "2030-01-01T12:00:00.007Z");
        assert_eq!(stamp.at(NOON.plus(Duration::from_secs(86_400))), "2030-01-02T12:00:00.123Z");
        assert_eq!(stamp.at(Timestamp::from_unix_millis(0)), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_text_line_quotes_what_could_be_mistaken() {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, LogFormat::Text);

        line.text("a", b"bare/path?x");
        line.text("b", b"has blank");
        line.text("c", b"x=y");
        line.text("d", b"");
        line.text("e", b"new\nline \"quoted\"");
        line.millis("f", Duration::from_micros(1_234_007));
        line.end();

        let expect = "a=bare/path?x b=\"has blank\" c=\"x=y\" d=\"\" e=\"new\\u000aline \\\"quoted\\\"\" f=1234.007\n";
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn a_long_text_is_cut() {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, LogFormat::Json);

        line.text("path", &vec![b'a'; 100_000]);
        line.end();

        assert!(out.len() < 2 * MAX_TEXT);
        assert!(out.ends_with(b"a...\"}\n"));
    }
}
