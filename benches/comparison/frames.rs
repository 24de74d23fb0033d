//! As much of HTTP/2 (RFC 9113) as a load needs: frames written and read by hand, because a full client would cost more
//! than the proxies it measures.
//!
//! HPACK fields are sent as literals without indexing, so that no proxy profits from a table that other clients would
//! fill differently.

/// One frame, as it came.
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `bytes` if all of it is there, and how long it is with its header.
    pub(crate) fn first(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes.first_chunk::<HEAD_LENGTH>()?;
        let end = HEAD_LENGTH + (usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2));
        let payload = bytes.get(HEAD_LENGTH..end)?;
        Some((Self { kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]), payload }, end))
    }

    /// Whether it is the last of its stream.
    pub(crate) const fn ends_stream(&self) -> bool {
        matches!(self.kind, HEADERS | DATA) && self.flags & END_STREAM != 0
    }

    /// Whether its header block begins with `:status 200`, which all encode as entry 8 of the static table.
    pub(crate) fn is_status_200(&self) -> bool {
        let padding =
            usize::from(self.flags & PADDED != 0) + if self.flags & PRIORITY != 0 { PRIORITY_LENGTH } else { 0 };
        // A change of the table's size may come first (RFC 7541 section 6.3).
        self.payload.iter().skip(padding).find(|byte| **byte & 0xe0 != 0x20) == Some(&0x88)
    }
}

/// What a client says first: its preface, no push, streams of 1 MiB, and a connection window of almost 2 GiB.
pub(crate) fn write_preface(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // ENABLE_PUSH = 0, INITIAL_WINDOW_SIZE = 1 MiB.
    write(out, SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0, 0, 4, 0, 0x10, 0, 0]);
    write(out, WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()[..]);
}

/// A whole request without a body; each field is the entry of the static table that has its name, and its value.
pub(crate) fn write_get(out: &mut Vec<u8>, stream: u32, path: &str, host: &str, fields: &[(usize, &str)]) {
    let start = out.len();
    write(out, HEADERS, END_STREAM | END_HEADERS, stream, &[]);
    // Static table (RFC 7541 appendix A): 2 = GET, 7 = https.
    out.extend_from_slice(&[0x82, 0x87]);
    literal(out, PATH, path.as_bytes());
    literal(out, AUTHORITY, host.as_bytes());
    for (name, value) in fields {
        literal(out, *name, value.as_bytes());
    }
    let length = u32::try_from(out.len() - start - HEAD_LENGTH).unwrap_or_default().to_be_bytes();
    out[start..start + 3].copy_from_slice(&length[1..]);
}

pub(crate) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A literal field without indexing, its name from the static table (RFC 7541 section 6.2.2).
fn literal(out: &mut Vec<u8>, name: usize, value: &[u8]) {
    integer(out, name, 15, 0);
    integer(out, value.len(), 127, 0);
    out.extend_from_slice(value);
}

/// RFC 7541 section 5.1.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn integer(out: &mut Vec<u8>, mut value: usize, prefix: usize, flags: u8) {
    if value < prefix {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | prefix as u8);
    value -= prefix;
    while value >= 128 {
        out.push((value % 128) as u8 | 128);
        value /= 128;
    }
    out.push(value as u8);
}

const HEAD_LENGTH: usize = 9;
/// Before the header block of a frame that carries one.
const PRIORITY_LENGTH: usize = 5;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

// Entries of the static table (RFC 7541 appendix A).
const AUTHORITY: usize = 1;
const PATH: usize = 4;
pub(crate) const ACCEPT_ENCODING: usize = 16;
pub(crate) const ACCEPT_LANGUAGE: usize = 17;
pub(crate) const ACCEPT: usize = 19;
pub(crate) const AUTHORIZATION: usize = 23;
pub(crate) const COOKIE: usize = 32;
pub(crate) const USER_AGENT: usize = 58;
