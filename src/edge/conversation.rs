//! HTTP/2 as it passes by: frame headers of both directions, read beside the library that speaks it (R18, R19).
//!
//! In: the bytes of a connection, cut anywhere. Out: who is waited for (`uploads`, and heads without their end), what
//! was reset or ended by us and why (RFC 9113 section 7), and whether the client floods: resets stream after stream
//! (CVE-2023-44487), or sends frames that bring nothing on (CVE-2019-9512, 9513, 9515, 9518). Payloads are not read but
//! for four bytes of some; what a frame means is the library's matter. RFC 9113 sections 4.1 and 6.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Counters, uploads::Uploads};
use crate::{
    clock::Timestamp,
    frames::{CONTINUATION, DATA, END_HEADERS, Frames, GOAWAY, HEADERS, IdleFrames, RST_STREAM},
};

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
    idle: IdleFrames,
}

/// What no client needs to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flood {
    /// Most of its streams, and many, are reset.
    Resets,
    /// Frames that bring nothing on: `PING`, `SETTINGS`, `PRIORITY`, empty `DATA` and their like.
    Control,
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
            idle: IdleFrames::new(now.unix_millis()),
        }
    }

    /// Whether the client may send of a body and has not. `tunnels` of its streams owe none.
    pub(crate) fn awaits_body(&self, tunnels: u32) -> bool {
        self.uploads.are_awaited(tunnels)
    }

    /// Whether a request's head has begun and not ended.
    pub(crate) const fn awaits_head(&self) -> bool {
        self.head_is_open || (self.in_head && self.from_client.are_within_one())
    }

    /// Follows what the client sent. The time is asked for seldom.
    ///
    /// # Errors
    /// When it floods.
    pub(crate) fn received(&mut self, bytes: &[u8], now: impl Fn() -> Timestamp) -> Result<(), Flood> {
        let Self { from_client, uploads, head_is_open, in_head, newest, opened, reset, idle, .. } = self;
        let mut flood = None;
        from_client.follow(bytes, |frame| {
            *in_head = matches!(frame.kind, HEADERS | CONTINUATION);
            match frame.kind {
                HEADERS => {
                    // Trailers open nothing.
                    *opened += u64::from(frame.stream > *newest);
                    *newest = frame.stream.max(*newest);
                    *head_is_open = frame.flags & END_HEADERS == 0;
                    idle.excuse(EXCUSED);
                }
                CONTINUATION => *head_is_open = frame.flags & END_HEADERS == 0,
                DATA if frame.brings_data() => idle.excuse(EXCUSED),
                RST_STREAM => *reset += 1,
                _ if idle.are_too_many(|| now().unix_millis()) => flood = Some(Flood::Control),
                _ => {}
            }
            if *reset >= RESETS_MAX && *reset * 2 > *opened {
                flood = Some(Flood::Resets);
            }
            uploads.received(&frame);
        });
        flood.map_or(Ok(()), Err)
    }

    /// Follows what the client was sent.
    pub(crate) fn sent(&mut self, bytes: &[u8], counters: &Counters) {
        let (uploads, idle) = (&mut self.uploads, &mut self.idle);
        self.to_client.follow(bytes, |frame| {
            match frame.kind {
                // The client will have to open windows for it.
                DATA if frame.length > 0 => idle.excuse(EXCUSED),
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

const PREFACE_LENGTH: usize = 24;
/// So many resets, and more than half of the streams: browsers that change their mind stay far below.
const RESETS_MAX: u64 = 500;
/// Frames that a request or a piece of a body may bring along: windows opened, a priority, a ping to measure by.
const EXCUSED: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{END_STREAM, WINDOW_UPDATE};

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
