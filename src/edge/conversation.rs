//! HTTP/2 as it passes by: frame headers of both directions, read beside the library that speaks it (R18, R19).
//!
//! In: the bytes of a connection, cut anywhere. Out: who is waited for (`uploads`, and heads without their end), what
//! was reset or ended by us and why (RFC 9113 section 7), and whether the client floods: resets stream after stream
//! (CVE-2023-44487), or sends frames that bring nothing on (CVE-2019-9512, 9513, 9515, 9518). Payloads are not read but
//! for four bytes of some; what a frame means is the library's matter. RFC 9113 sections 4.1 and 6.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{Counters, uploads::Uploads};
use crate::clock::Timestamp;

/// One HTTP/2 connection as its frame headers tell it.
#[derive(Debug)]
pub(crate) struct Conversation {
    from_client: Frames,
    to_client: Frames,
    uploads: Uploads,
    /// `HEADERS` came without its end.
    head_is_open: bool,
    /// The frame under way is part of a head.
    in_head: bool,
    /// The newest stream, how many the client opened, and how many resets it sent.
    newest: u32,
    opened: u64,
    reset: u64,
    /// Frames that brought nothing on since `idle_since`, less what data excuses.
    idle_frames: u32,
    idle_since: Timestamp,
}

/// What no client needs to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flood {
    /// Most of its streams, and many, are reset.
    Resets,
    /// Frames that bring nothing on: `PING`, `SETTINGS`, `PRIORITY`, empty `DATA` and their like.
    Control,
}

/// A frame's header, and of some frames four bytes of the payload.
pub(super) struct FrameHead {
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// `WINDOW_UPDATE`: the increment. `RST_STREAM` and `GOAWAY`: the error code. Else 0.
    pub(super) word: u32,
}

impl Conversation {
    /// Of a connection whose streams begin with a window of `stream_window` bytes.
    pub(crate) const fn new(stream_window: u32, now: Timestamp) -> Self {
        Self {
            from_client: Frames::new(PREFACE_LENGTH),
            to_client: Frames::new(0),
            uploads: Uploads::new(stream_window),
            head_is_open: false,
            in_head: false,
            newest: 0,
            opened: 0,
            reset: 0,
            idle_frames: 0,
            idle_since: now,
        }
    }

    /// Whether the client may send of a body and has not. `tunnels` of its streams owe none.
    pub(crate) fn awaits_body(&self, tunnels: u32) -> bool {
        self.uploads.are_awaited(tunnels)
    }

    /// Whether a request's head has begun and not ended.
    pub(crate) const fn awaits_head(&self) -> bool {
        self.head_is_open || (self.in_head && self.from_client.skip > 0)
    }

    /// Follows what the client sent. The time is asked for seldom.
    ///
    /// # Errors
    /// When it floods.
    pub(crate) fn received(&mut self, bytes: &[u8], now: impl Fn() -> Timestamp) -> Result<(), Flood> {
        let Self {
            from_client, uploads, head_is_open, in_head, newest, opened, reset, idle_frames, idle_since, ..
        } = self;
        let mut flood = None;
        from_client.follow(bytes, |frame| {
            *in_head = matches!(frame.kind, HEADERS | CONTINUATION);
            match frame.kind {
                HEADERS => {
                    // Trailers open nothing.
                    *opened += u64::from(frame.stream > *newest);
                    *newest = frame.stream.max(*newest);
                    *head_is_open = frame.flags & END_HEADERS == 0;
                    *idle_frames = idle_frames.saturating_sub(EXCUSED);
                }
                CONTINUATION => *head_is_open = frame.flags & END_HEADERS == 0,
                DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => {
                    *idle_frames = idle_frames.saturating_sub(EXCUSED);
                }
                RST_STREAM => *reset += 1,
                _ => *idle_frames += 1,
            }
            if *reset >= RESETS_MAX && *reset * 2 > *opened {
                flood = Some(Flood::Resets);
            }
            if *idle_frames >= IDLE_FRAMES_MAX {
                let now = now();
                if now.since(*idle_since) < IDLE_FRAMES_WINDOW {
                    flood = Some(Flood::Control);
                }
                (*idle_frames, *idle_since) = (0, now);
            }
            uploads.received(&frame);
        });
        flood.map_or(Ok(()), Err)
    }

    /// Follows what the client was sent.
    pub(crate) fn sent(&mut self, bytes: &[u8], counters: &Counters) {
        let (uploads, idle_frames) = (&mut self.uploads, &mut self.idle_frames);
        self.to_client.follow(bytes, |frame| {
            match frame.kind {
                // The client will have to open windows for it.
                DATA if frame.length > 0 => *idle_frames = idle_frames.saturating_sub(EXCUSED),
                RST_STREAM => count(&counters.http2_resets, frame.word),
                GOAWAY => count(&counters.http2_goaways, frame.word),
                _ => {}
            }
            uploads.sent(&frame);
        });
    }
}

/// An unknown code counts as `INTERNAL_ERROR` (RFC 9113 section 7).
fn count(by_code: &[AtomicU64; 14], code: u32) {
    let index = usize::try_from(code).unwrap_or(usize::MAX);
    if let Some(counter) = by_code.get(index).or_else(|| by_code.get(2)) {
        counter.fetch_add(1, Relaxed);
    }
}

/// One direction, frame by frame.
#[derive(Debug)]
struct Frames {
    /// The header of the current frame as far as it came, and the part of its payload that is read.
    head: [u8; HEAD_MAX],
    have: usize,
    /// Bytes to pass over before the next header.
    skip: usize,
}

impl Frames {
    const fn new(skip: usize) -> Self {
        Self { head: [0; HEAD_MAX], have: 0, skip }
    }

    fn follow(&mut self, mut bytes: &[u8], mut each: impl FnMut(FrameHead)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            let needed = if self.have < HEAD_LENGTH { HEAD_LENGTH } else { HEAD_LENGTH + self.read_of_payload() };
            let taken = (needed - self.have).min(bytes.len());
            for (to, from) in self.head.iter_mut().skip(self.have).zip(bytes.iter().take(taken)) {
                *to = *from;
            }
            self.have += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.have < HEAD_LENGTH || self.have < HEAD_LENGTH + self.read_of_payload() {
                continue;
            }
            let [l0, l1, l2, kind, flags, s0, s1, s2, s3, ..] = self.head;
            let length = u32::from_be_bytes([0, l0, l1, l2]);
            let read = self.read_of_payload();
            let word = self.head.get(HEAD_LENGTH..HEAD_LENGTH + read).and_then(|payload| payload.last_chunk());
            let word = word.map_or(0, |word| u32::from_be_bytes(*word));
            each(FrameHead {
                length,
                kind,
                flags,
                stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
                word: if kind == WINDOW_UPDATE { word & 0x7fff_ffff } else { word },
            });
            self.have = 0;
            self.skip = (length as usize).saturating_sub(read);
        }
    }

    /// How much of the payload of the frame in `head` is read: up to the word that counts.
    fn read_of_payload(&self) -> usize {
        let [l0, l1, l2, kind, ..] = self.head;
        match (kind, u32::from_be_bytes([0, l0, l1, l2])) {
            (RST_STREAM | WINDOW_UPDATE, 4) => 4,
            (GOAWAY, 8..) => 8,
            (_, _) => 0,
        }
    }
}

const PREFACE_LENGTH: usize = 24;
const HEAD_LENGTH: usize = 9;
const HEAD_MAX: usize = HEAD_LENGTH + 8;
/// So many resets, and more than half of the streams: browsers that change their mind stay far below.
const RESETS_MAX: u64 = 500;
/// So many frames that bring nothing on, within the window: a hundred in each second.
const IDLE_FRAMES_MAX: u32 = 10_000;
const IDLE_FRAMES_WINDOW: Duration = Duration::from_secs(100);
/// Frames that a request or a piece of a body may bring along: windows opened, a priority, a ping to measure by.
const EXCUSED: u32 = 4;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const END_STREAM: u8 = 1;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// A conversation of which the preface has passed.
    fn fresh() -> Conversation {
        let mut talk = Conversation::new(100, Timestamp::from_unix_seconds(0));
        hear(&mut talk, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        talk
    }

    fn hear(talk: &mut Conversation, bytes: &[u8]) -> Result<(), Flood> {
        talk.received(bytes, || Timestamp::from_unix_seconds(99))
    }

    fn say(talk: &mut Conversation, bytes: &[u8]) -> Counters {
        let counters = Counters::default();
        bytes.chunks(3).for_each(|piece| talk.sent(piece, &counters));
        counters
    }

    #[test]
    fn a_body_is_awaited_until_its_end_however_the_bytes_are_cut() {
        for piece in [1, 2, 7, 1000] {
            let mut talk = fresh();
            let mut feed = |bytes: Vec<u8>, expect: bool| {
                bytes.chunks(piece).for_each(|piece| hear(&mut talk, piece).unwrap());
                assert_eq!(talk.awaits_body(0), expect, "{piece}");
            };
            feed(frame(HEADERS, END_STREAM, 1, b"abc"), false);
            feed(frame(HEADERS, 0, 3, b"abc"), true);
            feed(frame(DATA, 0, 3, b"0123456789"), true);
            feed(frame(DATA, END_STREAM, 3, b""), false);
            feed(frame(HEADERS, 0, 5, b"abc"), true);
            feed(frame(RST_STREAM, 0, 5, b"abcd"), false);
            feed(frame(HEADERS, 0, 7, b"abc"), true);
            feed(frame(HEADERS, END_STREAM, 7, b"trailer"), false);
        }
    }

    #[test]
    fn a_client_without_a_window_owes_nothing() {
        let mut talk = fresh();
        hear(&mut talk, &frame(HEADERS, 0, 1, b"abc")).unwrap();
        hear(&mut talk, &frame(DATA, 0, 1, &[0; 100])).unwrap();
        assert!(!talk.awaits_body(0));

        say(&mut talk, &frame(WINDOW_UPDATE, 0, 1, &50_u32.to_be_bytes()));

        assert!(talk.awaits_body(0));
    }

    #[test]
    fn an_answered_request_owes_nothing() {
        for answer in [frame(HEADERS, END_STREAM, 1, b"abc"), frame(RST_STREAM, 0, 1, &[0; 4])] {
            let mut talk = fresh();
            hear(&mut talk, &frame(HEADERS, 0, 1, b"abc")).unwrap();
            say(&mut talk, &frame(HEADERS, 0, 1, b"early"));
            assert!(talk.awaits_body(0));

            say(&mut talk, &answer);

            assert!(!talk.awaits_body(0));
        }
    }

    #[test]
    fn a_head_is_awaited_until_its_last_frame() {
        let mut talk = fresh();
        let mut feed = |bytes: Vec<u8>, expect: bool| {
            hear(&mut talk, &bytes).unwrap();
            assert_eq!(talk.awaits_head(), expect);
        };
        feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"abc"), false);
        feed(frame(HEADERS, END_STREAM, 3, b"abc"), true);
        feed(frame(CONTINUATION, 0, 3, b"abc"), true);
        feed(frame(CONTINUATION, END_HEADERS, 3, b"abc"), false);
        let whole = frame(HEADERS, END_HEADERS | END_STREAM, 5, b"abc");
        feed(whole[..10].to_vec(), true);
        feed(whole[10..11].to_vec(), true);
        feed(whole[11..].to_vec(), false);
        feed(frame(DATA, 0, 5, b"abc")[..10].to_vec(), false);
    }

    #[test]
    fn what_we_end_is_counted_by_its_code() {
        let mut talk = fresh();
        let goaway = |code: u32| frame(GOAWAY, 0, 0, &[&[0, 0, 0, 9], &code.to_be_bytes()[..], b"why"].concat());
        let bytes = [goaway(11), frame(RST_STREAM, 0, 1, &[0, 0, 0, 1]), frame(RST_STREAM, 0, 3, &[0, 0, 0, 99])];

        let counters = say(&mut talk, &[&bytes.concat()[..], &goaway(0)].concat());

        let counts = |all: &[AtomicU64; 14]| all.iter().map(|one| one.load(Relaxed)).collect::<Vec<_>>();
        assert_eq!(counts(&counters.http2_goaways), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(counts(&counters.http2_resets), [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn many_resets_are_a_flood_if_they_are_most_of_the_streams() {
        let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        let both = |stream| [frame(HEADERS, END_HEADERS | END_STREAM, stream, b"abc"), reset(stream)].concat();
        let mut talk = fresh();
        for number in 0..499 {
            assert_eq!(hear(&mut talk, &both(2 * number + 1)), Ok(()));
        }
        assert_eq!(hear(&mut talk, &both(999)), Err(Flood::Resets));

        // Trailers are no streams of their own; every third stream is read to its end.
        let mut talk = fresh();
        let mut resets = 0;
        let flood = (0..2000).find(|number| {
            let (stream, reads) = (2 * number + 1, number % 3 == 0);
            resets += u32::from(!reads);
            let open = frame(HEADERS, END_HEADERS, stream, b"abc");
            let trailers = frame(HEADERS, END_HEADERS | END_STREAM, stream, b"t");
            let end = if reads { Vec::new() } else { reset(stream) };
            hear(&mut talk, &[open, trailers, end].concat()).is_err()
        });
        assert!(flood.is_some() && resets == 500, "{resets}");

        let mut talk = fresh();
        for number in 0..5000 {
            let head = frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, b"abc");
            let end = if number % 2 == 1 { reset(2 * number + 1) } else { Vec::new() };
            assert_eq!(hear(&mut talk, &[head, end].concat()), Ok(()), "half of them");
        }
    }

    #[test]
    fn frames_that_bring_nothing_on_are_a_flood() {
        const PING: u8 = 6;
        for (kind, payload) in [(DATA, 0), (2, 5), (4, 0), (PING, 8), (WINDOW_UPDATE, 4), (0xbe, 100)] {
            let mut talk = fresh();
            let one = frame(kind, 0, 1, &vec![0; payload]);
            assert_eq!(hear(&mut talk, &one.repeat(9_999)), Ok(()), "{kind}");
            assert_eq!(hear(&mut talk, &one), Err(Flood::Control), "{kind}");
        }
        // Over a longer time, or beside data, they are none.
        let ping = frame(PING, 0, 0, &[0; 8]);
        let mut talk = fresh();
        for second in 1..500 {
            let now = || Timestamp::from_unix_seconds(second);
            assert_eq!(talk.received(&ping.repeat(99), now), Ok(()));
        }
        let mut talk = fresh();
        for _ in 0..20_000 {
            assert_eq!(hear(&mut talk, &[ping.repeat(2), frame(DATA, 0, 1, b"a")].concat()), Ok(()));
        }
        let mut talk = fresh();
        for _ in 0..20_000 {
            say(&mut talk, &frame(DATA, 0, 1, b"a"));
            assert_eq!(hear(&mut talk, &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(3)), Ok(()));
        }
    }
}
