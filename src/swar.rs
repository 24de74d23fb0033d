//! Eight bytes in one number: what is asked of each of them is answered for all at once, without a branch for each.
//!
//! In: words, the first byte lowest. Out: words with the high bit set in each byte of which something is true. Worth it
//! where texts are too short for vectors: names, segments of paths, cookies. Pure.

/// A one in each byte: `ONES * byte` is that byte eight times.
pub(crate) const ONES: u64 = 0x0101_0101_0101_0101;

/// The high bit of each byte.
pub(crate) const HIGHS: u64 = ONES << 7;

/// Bytes in a word.
pub(crate) const WORD: usize = 8;

/// The last `count` bytes of a text, fewer than a word; `padding` stands for those that are missing. Read with the
/// bytes before them where there are enough, and not one by one.
pub(crate) fn last(text: &[u8], count: usize, padding: u8) -> u64 {
    let word = match text.last_chunk::<WORD>() {
        // In two steps: a shift by all of its bits is none.
        Some(last) => (u64::from_le_bytes(*last) >> 8) >> (56 - count * 8),
        None => text.iter().rev().take(count).fold(0, |word, byte| (word << 8) | u64::from(*byte)),
    };
    word | ((ONES * u64::from(padding)) << (count * 8))
}

/// The bytes that are this one. The first is right, and that there is none; above the first others may be told too.
pub(crate) const fn equal(word: u64, byte: u8) -> u64 {
    let differs = word ^ (ONES * byte as u64);
    differs.wrapping_sub(ONES) & !differs & HIGHS
}

/// Where this byte stands first. For texts that are too short for a search in vectors to pay.
pub(crate) fn position(text: &[u8], byte: u8) -> Option<usize> {
    let (words, tail) = text.as_chunks::<WORD>();
    for (index, word) in words.iter().enumerate() {
        let found = equal(u64::from_le_bytes(*word), byte);
        if found != 0 {
            return Some(index * WORD + first(found));
        }
    }
    let found = equal(last(text, tail.len(), !byte), byte);
    (found != 0).then(|| words.len() * WORD + first(found))
}

/// The bytes that are at least `least`, which is not 0, if all bytes of `word` are below 0x80.
pub(crate) const fn at_least(word: u64, least: u8) -> u64 {
    word.wrapping_add(ONES * (0x80 - least) as u64) & HIGHS
}

/// The bytes from `first` to `last`, if all bytes of `word` are below 0x80 and so is `last`.
pub(crate) const fn within(word: u64, first: u8, last: u8) -> u64 {
    at_least(word, first) & !at_least(word, last + 1)
}

/// Where the first byte stands that is marked.
pub(crate) const fn first(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marked(marks: u64) -> Vec<usize> {
        (0..WORD).filter(|at| marks >> (at * 8) & 0x80 != 0).collect()
    }

    proptest! {
        #[test]
        fn the_last_bytes_are_padded(text in prop::collection::vec(any::<u8>(), 0..30), count in 0..WORD, padding: u8) {
            let count = count.min(text.len());
            let mut bytes = text[text.len() - count..].to_vec();
            bytes.resize(WORD, padding);
            prop_assert_eq!(last(&text, count, padding).to_le_bytes().to_vec(), bytes);
        }

        #[test]
        fn the_first_that_is_equal_is_right(bytes: [u8; 8], byte in prop_oneof![any::<u8>(), Just(b'/'), Just(0)]) {
            let marks = equal(u64::from_le_bytes(bytes), byte);
            prop_assert_eq!((marks != 0).then(|| first(marks)), bytes.iter().position(|one| *one == byte));
        }

        #[test]
        fn a_byte_is_found_where_it_stands_first(
            text in prop::collection::vec(prop_oneof![any::<u8>(), Just(b':'), Just(b';')], 0..40), byte in 0x39..0x3d_u8,
        ) {
            prop_assert_eq!(position(&text, byte), text.iter().position(|one| *one == byte));
        }

        #[test]
        fn of_plain_bytes_all_are_right(bytes in prop::array::uniform8(0..0x80_u8), one in 1..0x7f_u8, other in 1..0x7f_u8) {
            let (word, first, last) = (u64::from_le_bytes(bytes), one.min(other), one.max(other));
            let at = |fits: &dyn Fn(u8) -> bool| (0..WORD).filter(|at| fits(bytes[*at])).collect::<Vec<_>>();

            prop_assert_eq!(marked(at_least(word, first)), at(&|byte| byte >= first));
            prop_assert_eq!(marked(within(word, first, last)), at(&|byte| (first..=last).contains(&byte)));
        }
    }
}
