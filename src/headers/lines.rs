//! Header fields as HTTP/1.1 writes them: what an upstream is sent, spelled once.
//!
//! In: names and values, whose types rule out line ends, so that no value can become a field of its own. Out: bytes
//! that are copied behind a request line. Neither the host nor anything that frames a message is ever among them:
//! those are written where the message is sent (R18). A header map costs some 400 instructions for each field that is
//! put into it and taken out again; this costs the copying.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use super::HeadBuffer;

/// Fields in the order in which they were put.
#[derive(Clone, Eq, PartialEq)]
pub struct Lines(HeadBuffer);

impl Lines {
    /// Room for most requests without growing.
    pub(super) fn new() -> Self {
        Self(HeadBuffer::take())
    }

    /// As they are sent: each field with its line end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields as a map.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for line in self.0.split(|byte| *byte == b'\n') {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let (name, value) = line.split_at(colon);
            let value = value.get(2..value.len().saturating_sub(1)).unwrap_or_default();
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        }
        map
    }

    /// How many bytes they are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What was put behind the first `begin` bytes.
    pub(super) fn since(&self, begin: usize) -> &[u8] {
        self.0.get(begin..).unwrap_or_default()
    }

    /// Lines that were put before, to others of this type.
    pub(super) fn put_lines(&mut self, lines: &[u8]) {
        self.0.extend_from_slice(lines);
    }

    #[inline]
    pub(super) fn put(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.put_bytes(name.as_str(), value.as_bytes());
    }

    /// `value` is part of a header value, or was made of visible ASCII by us.
    #[inline]
    pub(super) fn put_bytes(&mut self, name: &str, value: &[u8]) {
        let lines = &mut self.0;
        lines.reserve(name.len() + value.len() + 4);
        lines.extend_from_slice(name.as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value);
        lines.extend_from_slice(b"\r\n");
    }

    /// A field whose value `write` appends; without a value there is no field.
    pub(super) fn put_with(&mut self, name: &HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.0.len();
        self.0.extend_from_slice(name.as_str().as_bytes());
        self.0.extend_from_slice(b": ");
        let begin = self.0.len();
        write(&mut self.0);
        if self.0.len() == begin {
            self.0.truncate(before);
        } else {
            self.0.extend_from_slice(b"\r\n");
        }
    }

    /// Forgets all fields.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl<'a> FromIterator<(&'a HeaderName, &'a HeaderValue)> for Lines {
    /// Leaves out the host and what concerns one connection or frames a message.
    fn from_iter<T: IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>>(fields: T) -> Self {
        let mut lines = Self::new();
        for (name, value) in fields {
            if ![CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name) {
                lines.put(name, value);
            }
        }
        lines
    }
}

impl std::fmt::Debug for Lines {
    /// Values are no business of a log: names only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.to_map().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn framing_and_host_are_never_among_the_lines() {
        let mut map = HeaderMap::new();
        for name in ["host", "content-length", "transfer-encoding", "trailer", "te", "expect", "connection", "upgrade"]
        {
            map.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        map.append("x-one", HeaderValue::from_static("1"));

        assert_eq!(map.iter().collect::<Lines>().as_bytes(), b"x-one: 1\r\n");
    }

    #[test]
    fn a_field_without_a_value_to_write_is_none() {
        let mut lines = Lines::new();
        lines.put_with(&http::header::COOKIE, |_| {});
        assert!(lines.is_empty());
        lines.put_with(&http::header::COOKIE, |value| value.extend_from_slice(b"a=1"));
        assert_eq!(lines.as_bytes(), b"cookie: a=1\r\n");
    }

    proptest! {
        #[test]
        fn what_was_put_is_read_back(fields in prop::collection::vec(("x-[a-z0-9-]{0,8}", "[!-~]([ -~]{0,20}[!-~])?|"), 0..8)) {
            let mut map = HeaderMap::new();
            for (name, value) in &fields {
                map.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
            }
            let lines: Lines = map.iter().collect();

            prop_assert_eq!(lines.to_map(), map);
        }
    }
}
