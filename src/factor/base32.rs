//! Base32 (RFC 4648 section 6) without padding: what people copy from a page by hand.

/// Letters and digits that are hard to take for each other.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for chunk in bytes.chunks(5) {
        let mut block = [0_u8; 8];
        block[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(block);
        let letters = (chunk.len() * 8).div_ceil(5);
        text.extend((0..letters).map(|i| char::from(ALPHABET[(bits >> (35 - 5 * i)) as usize & 31])));
    }
    text
}

/// What was encoded; blanks and hyphens do not count, nor does case. `None`: other characters, or bits left over.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut have) = (0_u32, 0);
    for letter in text.bytes().filter(|byte| !matches!(byte, b' ' | b'-')) {
        let value = ALPHABET.iter().position(|known| *known == letter.to_ascii_uppercase())?;
        bits = (bits << 5) | u32::try_from(value).ok()?;
        have += 5;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    (bits == 0 && have < 5).then_some(bytes)
}

/// In groups of four.
pub(super) fn grouped(text: &str) -> String {
    let mut grouped = String::with_capacity(text.len() + text.len() / 4);
    for (i, letter) in text.chars().enumerate() {
        if i > 0 && i % 4 == 0 {
            grouped.push(' ');
        }
        grouped.push(letter);
    }
    grouped
}

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 4648 section 10, without its padding.
    #[test]
    fn letters_are_those_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        for text in ["A", "MZ1", "MZ=", "M\u{e9}", "MB"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = grouped(&encode(&bytes)).to_lowercase();
            prop_assert_eq!(decode(&text), Some(bytes));
        }

        #[test]
        fn nothing_that_is_typed_breaks_it(text in ".{0,64}") {
            let _ = decode(&text);
        }
    }
}
