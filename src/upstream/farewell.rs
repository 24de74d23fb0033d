//! The last frame of a WebSocket that we end: a close frame that says why (RFC 6455 sections 5.5.1 and 7.4.1).
//!
//! In: every byte that went to the client, as it went. Out: whether the client is at the beginning of a frame, and the
//! close frame for it. Payloads are skipped, not looked at.
//! Invariants: nothing of ours is ever written inside a frame of the server's, nor after its own close frame, nor once
//! it has sent what is no frame: then the connection just ends, as it does for whoever is in the middle of a frame.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Why a tunnel ends that neither side has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Why {
    /// The gateway stops, or nothing has moved for long.
    GoingAway,
    /// What permitted it has ended.
    NotPermitted,
}

impl Why {
    /// The whole frame: final, unmasked, as servers send it.
    const fn frame(self) -> &'static [u8] {
        match self {
            // 1001.
            Self::GoingAway => b"\x88\x02\x03\xe9",
            // 1008.
            Self::NotPermitted => b"\x88\x18\x03\xf0your session has ended",
        }
    }
}

/// Where a stream of frames has come to.
#[derive(Clone, Debug, Eq, PartialEq)]
enum At {
    /// In a header, of which so many bytes are known; none: between two frames.
    Header([u8; MAX_HEADER], usize),
    /// So many bytes before the end of a payload.
    Payload(u64),
    /// Behind a close frame, or behind what is no frame.
    Over,
}

/// The client's side of a tunnel.
pub(super) struct Client<S> {
    io: S,
    at: At,
}

impl<S> Client<S> {
    pub(super) const fn new(io: S) -> Self {
        Self { io, at: At::BETWEEN }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Says goodbye, if that can be said now, and waits a moment for the client to hear it: closing while bytes of its
    /// own are on their way would reset the connection before it has read ours.
    pub(super) async fn say_goodbye(mut self, why: Why) {
        if self.at != At::BETWEEN {
            return;
        }
        let goodbye = async {
            self.io.write_all(why.frame()).await?;
            self.io.flush().await?;
            self.io.shutdown().await?;
            let mut rest = [0; 1024];
            while self.io.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // Whatever came of it, there is nobody else to tell.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Client<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Client<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = polled {
            this.at.pass(buf.get(..count).unwrap_or_default());
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.at = At::Over;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl At {
    const BETWEEN: Self = Self::Header([0; MAX_HEADER], 0);

    /// Goes on by these bytes.
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match self {
                Self::Over => return,
                Self::Payload(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = bytes.get(count..).unwrap_or_default();
                    *left -= u64::try_from(count).unwrap_or(*left);
                    if *left == 0 {
                        *self = Self::BETWEEN;
                    }
                }
                Self::Header(header, known) => {
                    bytes = rest;
                    if let Some(place) = header.get_mut(*known) {
                        *place = *first;
                    }
                    *known += 1;
                    if *known >= header_len(header[1]).max(2) {
                        *self = after(header);
                    }
                }
            }
        }
    }
}

/// Bytes of a header, by its second byte.
const fn header_len(second: u8) -> usize {
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    mask + match second & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

/// What follows a whole header.
fn after(header: &[u8; MAX_HEADER]) -> At {
    let [first, second, a, b, c, d, e, f, g, h, ..] = *header;
    let (opcode, is_final) = (first & 0x0f, first & 0x80 != 0);
    let len = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes([a, b])),
        127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        short => u64::from(short),
    };
    match opcode {
        // Continuation, text, binary.
        0..=2 if len < 1 << 63 => {}
        // Ping, pong.
        9 | 10 if is_final && second & 0x7f <= MAX_CONTROL => {}
        // A close frame is the last; of anything else nobody knows where it ends.
        _ => return At::Over,
    }
    if len == 0 { At::BETWEEN } else { At::Payload(len) }
}

/// Two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;

/// Bytes of a control frame's payload.
const MAX_CONTROL: u8 = 125;

/// How long a goodbye may take in all.
const GOODBYE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, len: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = match len {
            0..=125 => vec![first, mask | u8::try_from(len).unwrap()],
            126..=0xffff => [&[first, mask | 126][..], &u16::try_from(len).unwrap().to_be_bytes()].concat(),
            _ => [&[first, mask | 127][..], &(len as u64).to_be_bytes()].concat(),
        };
        bytes.resize(bytes.len() + if masked { 4 } else { 0 } + len, 0x88);
        bytes
    }

    /// Whether a goodbye may follow these bytes.
    fn is_between(bytes: &[u8]) -> bool {
        let mut at = At::BETWEEN;
        at.pass(bytes);
        at == At::BETWEEN
    }

    #[test]
    fn goodbyes_are_sound_close_frames() {
        for (why, code) in [(Why::GoingAway, 1001), (Why::NotPermitted, 1008)] {
            let frame = why.frame();
            assert_eq!((frame[0], usize::from(frame[1])), (0x88, frame.len() - 2));
            assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), code);
            assert!(std::str::from_utf8(&frame[4..]).is_ok());
        }
    }

    #[test]
    fn nothing_is_said_behind_a_close_frame_or_what_is_no_frame() {
        assert!(is_between(b"\x81\x05hello") && is_between(b"\x01\x00") && is_between(b"\x89\x01x"));
        assert!(is_between(b"\xc1\x05hello"), "bits of extensions are none of our business");
        for bytes in [&b"\x88\x00"[..], b"\x88\x02\x03\xe8", b"\x83\x00", b"\x8b\x00", b"\x09\x00", b"\x89\x7e\x00\x00"]
        {
            assert!(!is_between(bytes) && !is_between(&[bytes, b"\x81\x00"].concat()), "{bytes:?}");
        }
        assert!(!is_between(b"\x82\x7f\x80\0\0\0\0\0\0\0"), "a length that nothing has");
    }

    proptest! {
        #[test]
        fn a_goodbye_may_follow_whole_frames_only(
            frames in proptest::collection::vec((0..3_u8, 0..70_000_usize, any::<bool>(), any::<bool>()), 1..4),
            pieces in proptest::collection::vec(1..100_000_usize, 1..20),
            cut in any::<proptest::sample::Index>(),
        ) {
            let frames: Vec<_> = frames
                .into_iter()
                .map(|(opcode, len, masked, last)| frame(opcode | if last { 0x80 } else { 0 }, len, masked))
                .collect();
            let all = frames.concat();
            let borders: Vec<usize> = frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }).collect();
            let cut = cut.index(all.len() + 1);

            let (mut at, mut rest) = (At::BETWEEN, &all[..cut]);
            for piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                at.pass(now);
                rest = later;
            }

            prop_assert_eq!(at == At::BETWEEN, cut == 0 || borders.contains(&cut));
        }
    }
}
