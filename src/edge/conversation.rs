//! HTTP/2 as it passes by: frame headers of both directions, read beside the library that speaks it (R18, R19).
//!
//! In: the bytes of a connection, cut anywhere. Out: who is waited for (`uploads`, and heads without their end), what
//! was reset or ended by us and why (RFC 9113 section 7), and whether the client floods: resets stream after stream
//! (CVE-2023-44487), or sends frames that bring nothing on (CVE-2019-9512, 9513, 9515, 9518). Payloads are not read but
//! for four bytes of some; what a frame means is the library's matter. But `DATA` of nothing the library is spared: it
//! means nothing, and h2 ends a connection after a hundred of them, however long it has lived. RFC 9113 sections 4.1, 6.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use smallvec::SmallVec;

use super::{Counters, uploads::Uploads};
use crate::{
    clock::Timestamp,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEAD_LENGTH, HEADERS, IdleFrames, PADDED,
        RST_STREAM,
    },
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

/// What of some bytes that came the library has to see: all but these.
#[derive(Debug, Default)]
pub(crate) struct Spared {
    /// Whole frames.
    pub(crate) frames: SmallVec<[Range<usize>; 2]>,
    /// The last frame has begun with bytes that came before these, and is to be spared whole.
    pub(crate) begun: bool,
    /// So many bytes at the end may begin one more: they are to wait for the rest of its header.
    pub(crate) undecided: usize,
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

    /// Follows what the client sent, and says what of it is to be spared the library. The time is asked for seldom.
    ///
    /// # Errors
    /// When it floods.
    pub(crate) fn received(&mut self, bytes: &[u8], now: impl Fn() -> Timestamp) -> Result<Spared, Flood> {
        let Self { from_client, uploads, head_is_open, in_head, newest, opened, reset, idle, .. } = self;
        let (mut flood, mut spared) = (None, Spared::default());
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
            // Where it would be an error, the library has to say so.
            if frame.is_empty_data() && !*head_is_open && uploads.is_open(frame.stream) {
                match frame.ends_at.checked_sub(HEAD_LENGTH) {
                    Some(begin) => spared.frames.push(begin..frame.ends_at),
                    None => spared.begun = true,
                }
            }
            if *reset >= RESETS_MAX && *reset * 2 > *opened {
                flood = Some(Flood::Resets);
            }
            uploads.received(&frame);
        });
        let begun = from_client.begun();
        if begun.len() <= bytes.len() && may_be_empty_data(begun) {
            spared.undecided = begun.len();
        }
        flood.map_or(Ok(spared), Err)
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

/// Whether a header that begins so may be one of `DATA` of nothing.
fn may_be_empty_data(begun: &[u8]) -> bool {
    begun.iter().take(4).all(|byte| *byte == 0) && begun.get(4).is_none_or(|flags| flags & (END_STREAM | PADDED) == 0)
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
    use crate::frames::WINDOW_UPDATE;

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
        talk.received(bytes, || Timestamp::from_unix_seconds(99)).map(drop)
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
            assert!(talk.received(&ping.repeat(99), now).is_ok());
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

    /// What of these bytes the library gets to see.
    fn seen(talk: &mut Conversation, bytes: &[u8]) -> Vec<u8> {
        let spared = talk.received(bytes, || Timestamp::from_unix_seconds(0)).unwrap();
        let ends = spared.frames.iter().map(|frame| frame.end);
        let begins = spared.frames.iter().map(|frame| frame.start).chain([bytes.len() - spared.undecided]);
        std::iter::once(0).chain(ends).zip(begins).flat_map(|(from, to)| bytes[from..to].to_vec()).collect()
    }

    #[test]
    fn data_of_nothing_is_spared_the_library_where_it_is_no_error() {
        let head = frame(HEADERS, END_HEADERS, 1, b"abc");
        let (empty, some) = (frame(DATA, 0, 1, b""), frame(DATA, 0, 1, b"some"));
        let (end, padded) = (frame(DATA, END_STREAM, 1, b""), frame(DATA, PADDED, 1, b"\0"));
        let all = [&head[..], &empty, &some, &empty, &empty, &some, &padded, &empty, &end].concat();
        let expect = [&head[..], &some, &some, &padded, &end].concat();
        assert_eq!(seen(&mut fresh(), &all), expect);

        // A stream that was never opened or has ended, and a head that is open.
        let no_stream = frame(DATA, 0, 7, b"");
        let open = frame(HEADERS, 0, 3, b"abc");
        for wrong in
            [[&head[..], &no_stream], [&[&head[..], &end].concat(), &empty], [&[&head[..], &open].concat(), &empty]]
        {
            let wrong = wrong.concat();
            assert_eq!(seen(&mut fresh(), &wrong), wrong);
        }
    }

    #[test]
    fn a_header_in_pieces_is_undecided_until_it_is_whole() {
        let (empty, end) = (frame(DATA, 0, 1, b""), frame(DATA, END_STREAM, 1, b""));
        let hear =
            |talk: &mut Conversation, bytes: &[u8]| talk.received(bytes, || Timestamp::from_unix_seconds(0)).unwrap();
        for cut in 1..HEAD_LENGTH {
            let mut talk = fresh();
            hear(&mut talk, &frame(HEADERS, END_HEADERS, 1, b"abc"));
            let (first, rest) = empty.split_at(cut);
            let spared = hear(&mut talk, first);
            assert_eq!((spared.undecided, spared.begun), (cut, false), "{cut}");
            let spared = hear(&mut talk, rest);
            assert_eq!((spared.undecided, spared.begun), (0, true), "{cut}");
            // The end of a body is no such frame, and what may not be one is passed on at once.
            let (first, rest) = end.split_at(cut);
            assert_eq!(hear(&mut talk, first).undecided, if cut < 5 { cut } else { 0 }, "{cut}");
            assert!(!hear(&mut talk, rest).begun, "{cut}");
        }
    }
}
