//! Base64url as tokens use it (RFC 7515 section 2): no padding, no blanks, one spelling for each sequence of bytes.
//!
//! In: the text of a part. Out: its bytes, or nothing where a character is none of the alphabet, the length is no
//! text's, or the bits that stand for nothing are not zero. Every new token goes through here twice and more, so eight
//! characters are looked up at a time, each in the table of its place, and judged all together at the end.

/// The bytes of a text; the allocation is exactly as long as they are.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let (blocks, rest) = text.as_chunks::<CHARACTERS>();
    // Of a character that is alone in its four not even one byte could be made.
    let rest_bytes = if rest.len() % 4 == 1 { return None } else { rest.len() * 3 / 4 };
    let mut bytes = Vec::with_capacity(blocks.len() * BYTES + rest_bytes);
    bytes.resize(blocks.len() * BYTES, 0);
    let (places, _) = bytes.as_chunks_mut::<BYTES>();
    let mut all = 0;
    for (block, place) in blocks.iter().zip(places) {
        let (six, seen) = read(block);
        *place = six;
        all |= seen;
    }
    let mut block = [b'A'; CHARACTERS];
    for (place, character) in block.iter_mut().zip(rest) {
        *place = *character;
    }
    let (six, seen) = read(&block);
    let (whole, loose) = six.split_at(rest_bytes);
    bytes.extend_from_slice(whole);
    // What is left over begins with the bits that stand for nothing; after them comes our own filling.
    let is_exact = loose.iter().all(|byte| *byte == 0);
    ((all | seen) & FOREIGN == 0 && is_exact).then_some(bytes)
}

/// What eight characters stand for; and what was seen, with [`FOREIGN`] in it if one of them is none of the alphabet.
#[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
#[inline]
fn read(&[a, b, c, d, e, f, g, h]: &[u8; CHARACTERS]) -> ([u8; BYTES], u32) {
    let [one, two, three, four] = &TABLES;
    let four_of = |a: u8, b: u8, c: u8, d: u8| {
        one[usize::from(a)] | two[usize::from(b)] | three[usize::from(c)] | four[usize::from(d)]
    };
    let (left, right) = (four_of(a, b, c, d), four_of(e, f, g, h));
    let [_, _, six @ ..] = ((u64::from(left) << 24) | u64::from(right & !FOREIGN)).to_be_bytes();
    (six, left | right)
}

/// What each byte stands for as the first to the fourth of four characters, or [`FOREIGN`].
static TABLES: [[u32; 256]; 4] = [table(18), table(12), table(6), table(0)];

const fn table(shift: u32) -> [u32; 256] {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut table = [FOREIGN; 256];
    let mut sextet = 0;
    while sextet < 64 {
        table[alphabet[sextet as usize] as usize] = sextet << shift;
        sextet += 1;
    }
    table
}

/// Above the 24 bits of four characters.
const FOREIGN: u32 = 1 << 31;
/// Read at a time.
const CHARACTERS: usize = 8;
/// What so many characters stand for.
const BYTES: usize = CHARACTERS / 4 * 3;

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_character_is_what_it_is_in_every_place_of_a_text() {
        for place in 0..40 {
            for character in 0..=u8::MAX {
                let mut text = [b'A'; 40];
                text[place] = character;
                assert_eq!(decode(&text), URL_SAFE_NO_PAD.decode(text).ok(), "{character} at {place}");
            }
        }
    }

    #[test]
    fn a_text_of_every_length_and_end_is_read_or_refused_for_its_last_bits() {
        for len in 0..70 {
            for last in 0..=u8::MAX {
                let mut text = vec![b'x'; len];
                if let Some(place) = text.last_mut() {
                    *place = last;
                }
                assert_eq!(decode(&text), URL_SAFE_NO_PAD.decode(&text).ok(), "{last} ends {len} characters");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back_and_takes_no_more_than_it_needs(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let decoded = decode(URL_SAFE_NO_PAD.encode(&bytes).as_bytes()).unwrap();

            prop_assert_eq!(decoded.capacity(), bytes.len());
            prop_assert_eq!(decoded, bytes);
        }
    }
}
