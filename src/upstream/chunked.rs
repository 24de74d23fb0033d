//! The chunked transfer coding of answers (RFC 9112 section 7.1), read strictly.
//!
//! In: what was read of the connection. Out: data as it comes, and at the end the trailers. A size is hexadecimal
//! digits and nothing else but an extension, which is skipped; every line ends with CRLF; all is bounded. What is
//! anything else is an error: two readers that disagree about a chunk disagree about whose answer the next bytes are.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use memchr::memchr;

use super::{UpstreamError, answer};

/// Where in a chunked body one is.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// Of extensions, so far.
    extension_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum At {
    /// Before a size line.
    #[default]
    Size,
    /// Within data; so much is left of the chunk.
    Data(u64),
    /// Before the line end that follows data.
    DataEnd,
    /// After the last chunk.
    Trailers,
}

/// What is there of a chunked body.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Chunk {
    Data(Bytes),
    End(Option<HeaderMap>),
    /// More has to be read.
    Partial,
}

impl Chunks {
    /// Takes the next part out of `buffer`.
    ///
    /// # Errors
    /// If this is no chunked body.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Chunk, UpstreamError> {
        loop {
            match self.at {
                At::Size => {
                    let Some(size) = self.size(buffer)? else { return Ok(Chunk::Partial) };
                    self.at = if size == 0 { At::Trailers } else { At::Data(size) };
                }
                At::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Chunk::Partial);
                    }
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let left = left - most as u64;
                    self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                    return Ok(Chunk::Data(buffer.split_to(most).freeze()));
                }
                At::DataEnd => {
                    if buffer.len() < 2 {
                        return if b"\r\n".starts_with(buffer) { Ok(Chunk::Partial) } else { Err(BAD) };
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err(BAD);
                    }
                    buffer.advance(2);
                    self.at = At::Size;
                }
                At::Trailers => {
                    if buffer.starts_with(b"\r\n") {
                        buffer.advance(2);
                        return Ok(Chunk::End(None));
                    }
                    return Ok(answer::trailers(buffer)?.map_or(Chunk::Partial, |trailers| Chunk::End(Some(trailers))));
                }
            }
        }
    }

    fn size(&mut self, buffer: &mut BytesMut) -> Result<Option<u64>, UpstreamError> {
        let Some(end) = memchr(b'\n', buffer) else {
            return if buffer.len() > SIZE_LINE_MAX { Err(BAD) } else { Ok(None) };
        };
        let line = buffer.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(BAD)?;
        let digits = memchr(b';', line).unwrap_or(line.len());
        self.extension_bytes = self.extension_bytes.saturating_add(line.len() - digits);
        if line.len() > SIZE_LINE_MAX || self.extension_bytes > EXTENSION_BYTES_MAX || line.contains(&b'\r') {
            return Err(BAD);
        }
        let size = hexadecimal(line.get(..digits).unwrap_or_default()).ok_or(BAD)?;
        buffer.advance(end + 1);
        Ok(Some(size))
    }
}

/// 1 to 16 digits and nothing else.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some((number << 4) | u64::from(digit))
    })
}

const BAD: UpstreamError = UpstreamError::Invalid("bad_chunk");
const SIZE_LINE_MAX: usize = 4 * 1024;
/// All extensions of one body.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What came, the end if it came, and what was left.
    type Read = (Vec<u8>, Option<Option<HeaderMap>>, Vec<u8>);

    /// Feeds `bytes` in pieces of `step`.
    fn read(bytes: &[u8], step: usize) -> Result<Read, UpstreamError> {
        let mut chunks = Chunks::default();
        let mut buffer = BytesMut::new();
        let mut data = Vec::new();
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                match chunks.next(&mut buffer)? {
                    Chunk::Data(part) => data.extend_from_slice(&part),
                    Chunk::Partial => break,
                    Chunk::End(trailers) => return Ok((data, Some(trailers), buffer.to_vec())),
                }
            }
        }
        Ok((data, None, buffer.to_vec()))
    }

    #[test]
    fn sound_bodies_are_read_to_their_end_and_no_further() {
        for (body, data) in [
            (&b"0\r\n\r\n"[..], &b""[..]),
            (b"2\r\nok\r\n0\r\n\r\n", b"ok"),
            (b"2;a=b\r\nok\r\n000\r\n\r\n", b"ok"),
            (b"1\r\na\r\nA\r\n0123456789\r\n0\r\n\r\n", b"a0123456789"),
        ] {
            for step in 1..=body.len() {
                assert_eq!(read(body, step), Ok((data.to_vec(), Some(None), Vec::new())), "{body:?} by {step}");
            }
            let more = [body, b"HTTP/1.1"].concat();
            let read = read(&more, more.len()).unwrap();
            assert_eq!(read.2, b"HTTP/1.1");
        }
    }

    #[test]
    fn trailers_come_with_the_end() {
        let body = b"2\r\nok\r\n0\r\nX-Sum: 1\r\nx-two: 2\r\n\r\n";
        for step in 1..=body.len() {
            let (data, end, left) = read(body, step).unwrap();
            let trailers = end.unwrap().unwrap();
            assert_eq!((&*data, &*left, trailers.len()), (&b"ok"[..], &b""[..], 2));
            assert_eq!(trailers["x-sum"], "1");
        }
    }

    #[test]
    fn whatever_another_reader_could_read_differently_is_refused() {
        for body in [
            &b"2 \r\nok\r\n0\r\n\r\n"[..],
            b" 2\r\nok\r\n0\r\n\r\n",
            b"+2\r\nok\r\n0\r\n\r\n",
            b"0x2\r\nok\r\n0\r\n\r\n",
            b"2\nok\r\n0\r\n\r\n",
            b"2\r\nok\n0\r\n\r\n",
            b"2\r\nokk\r\n0\r\n\r\n",
            b"\r\n2\r\nok\r\n",
            b";a\r\nok\r\n",
            b"-1\r\nok\r\n",
            b"2\rx\r\nok\r\n0\r\n\r\n",
            b"10000000000000002\r\nok\r\n0\r\n\r\n",
            b"2\r\nok\r\n0\r\nX Sum: 1\r\n\r\n",
            b"2\r\nok\r\n0\r\n x: 1\r\n\r\n",
        ] {
            for step in 1..=body.len() {
                assert!(read(body, step).is_err(), "{:?} by {step}", String::from_utf8_lossy(body));
            }
        }
    }

    #[test]
    fn size_lines_and_extensions_are_bounded() {
        let long = [b"2;".as_slice(), &[b'x'; SIZE_LINE_MAX], b"\r\nok\r\n"].concat();
        assert!(read(&long, 512).is_err());
        assert!(read(&vec![b'0'; SIZE_LINE_MAX + 2], 512).is_err());
        let many = [b"1;".as_slice(), &[b'x'; 1000], b"\r\nx\r\n"].concat().repeat(17);
        assert!(read(&many, 512).is_err());
        assert_eq!(read(&many[..many.len() / 17 * 16], 512).unwrap().0.len(), 16);
    }

    proptest! {
        #[test]
        fn what_was_cut_into_chunks_is_put_together(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            step in 1..50_usize,
        ) {
            let mut body = Vec::new();
            for part in &parts {
                body.extend_from_slice(format!("{:X}\r\n", part.len()).as_bytes());
                body.extend_from_slice(part);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");

            prop_assert_eq!(read(&body, step), Ok((parts.concat(), Some(None), Vec::new())));
        }

        #[test]
        fn nothing_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), step in 1..50_usize) {
            let _ = read(&body, step);
        }
    }
}
