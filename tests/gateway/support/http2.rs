//! HTTP/2 by hand, for what no library would send: frames are made of whatever bytes the test wants.
//!
//! Header blocks are written as literals without Huffman coding or tables (RFC 7541 section 6.2.2). Of answers only
//! the status is read. RFC 9113 section 4.

use std::{io, ops::ControlFlow};

use super::{Client, Connection};

/// A connection on which preface and settings are exchanged.
pub(crate) struct Http2 {
    connection: Connection,
    silent: bool,
}

/// What became of a stream, or of all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// Answered with this status.
    Status(u16),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// `GOAWAY` with this code (not `NO_ERROR`).
    GoAway(u32),
    /// The connection was closed.
    Closed,
}

/// One frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const ACK: u8 = 1;

impl Http2 {
    #[track_caller]
    pub(crate) fn connect(client: &Client) -> Self {
        let mut connection = client.try_connect(&["h2"]).expect("the connection can be opened");
        assert_eq!(connection.protocol().as_deref(), Some("h2"));
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat();
        connection.write(&preface).expect("the preface can be written");
        Self { connection, silent: false }
    }

    /// Writes frames, or anything.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.write(bytes)
    }

    /// Says nothing from here on by itself: a begun field block may not be interrupted (RFC 9113 section 4.3).
    pub(crate) fn fall_silent(&mut self) {
        self.silent = true;
    }

    /// The next frame. Settings and pings are acknowledged on the way.
    pub(crate) fn read(&mut self) -> io::Result<Frame> {
        let head = self.connection.read_exactly(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let payload = self.connection.read_exactly(length)?;
        if head[3] == SETTINGS && head[4] & ACK == 0 && !self.silent {
            // Whether it still hears us does not matter here.
            let _ = self.write(&frame(SETTINGS, ACK, 0, &[]));
        }
        if head[3] == PING && head[4] & ACK == 0 && !self.silent {
            // Whoever does not answer is taken to be gone (RFC 9113 section 6.7).
            let _ = self.write(&frame(PING, ACK, 0, &payload));
        }
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until this stream is answered or broken, or the connection is.
    pub(crate) fn end_of(&mut self, stream: u32) -> End {
        loop {
            let Ok(frame) = self.read() else { return End::Closed };
            let ended = match frame.kind {
                HEADERS if frame.stream == stream => {
                    let status = status(&frame.payload);
                    if (100..200).contains(&status) {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(End::Status(status))
                    }
                }
                RST_STREAM if frame.stream == stream => ControlFlow::Break(End::Reset(number(&frame.payload[..4]))),
                GOAWAY if number(&frame.payload[4..8]) != 0 => {
                    ControlFlow::Break(End::GoAway(number(&frame.payload[4..8])))
                }
                _ => ControlFlow::Continue(()),
            };
            if let ControlFlow::Break(end) = ended {
                return end;
            }
        }
    }

    /// Whether the connection goes on: it answers a ping.
    pub(crate) fn is_alive(&mut self) -> bool {
        let token = *b"alive??!";
        if self.write(&frame(PING, 0, 0, &token)).is_err() {
            return false;
        }
        loop {
            match self.read() {
                Ok(frame) if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == token => return true,
                Ok(frame) if frame.kind == GOAWAY => return false,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Sends one request without a body on stream 1 and says what became of it.
    pub(crate) fn ask(&mut self, fields: &[(&[u8], &[u8])]) -> End {
        // It may have said already that it will not listen.
        let _ = self.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields)));
        self.end_of(1)
    }
}

/// A frame of any kind.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("a short payload").to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block with exactly these fields.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            push_length(&mut bytes, text.len());
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// The fields of a good GET.
pub(crate) fn get<'a>(authority: &'a str, path: &'a str) -> Vec<(&'a [u8], &'a [u8])> {
    vec![
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", authority.as_bytes()),
        (b":path", path.as_bytes()),
    ]
}

/// RFC 7541 section 5.1, with a prefix of 7 bits.
fn push_length(bytes: &mut Vec<u8>, length: usize) {
    if length < 127 {
        bytes.push(length as u8);
        return;
    }
    bytes.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
}

/// The `:status` of a header block, which is its first field.
pub(crate) fn status(block: &[u8]) -> u16 {
    let mut block = block;
    // Changes of the table's size come first.
    while block[0] & 0xe0 == 0x20 {
        block = &block[1..];
    }
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        _ => {
            let (encoded, length) = (block[1] & 0x80 != 0, usize::from(block[1] & 0x7f));
            let text = &block[2..2 + length];
            let digits = if encoded { decode_digits(text) } else { String::from_utf8_lossy(text).into_owned() };
            digits.parse().unwrap_or_else(|_| panic!("no status in {block:?}"))
        }
    }
}

/// Three digits in the Huffman code of RFC 7541 appendix B.
fn decode_digits(text: &[u8]) -> String {
    let bits: Vec<u8> = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let value = |bits: &[u8]| bits.iter().fold(0_u8, |value, bit| value << 1 | bit);
    let (mut digits, mut at) = (String::new(), 0);
    while digits.len() < 3 {
        let short = value(&bits[at..at + 5]);
        if short < 3 {
            digits.push(char::from(b'0' + short));
            at += 5;
        } else {
            digits.push(char::from(b'3' + value(&bits[at..at + 6]) - 0b01_1001));
            at += 6;
        }
    }
    digits
}

/// Big-endian, of at most four bytes.
pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
