//! Frames of HTTP/2 as they pass by (RFC 9113 section 4.1): where each begins, and how many bring nothing on (R19).
//!
//! In: the bytes of one direction of a connection, cut anywhere. Out: the header of each frame, and whether there are
//! more of the idle kind than anybody needs. Payloads are not read but for four bytes of some; what a frame means is
//! the matter of the library that speaks HTTP/2. Pure: no IO, no clock. Used towards clients and towards upstreams.

/// A frame's header, and of some frames four bytes of the payload.
pub(crate) struct FrameHead {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    /// `WINDOW_UPDATE`: the increment. `RST_STREAM` and `GOAWAY`: the error code. Else 0.
    pub(crate) word: u32,
    /// Where in the bytes that were followed its header ends, and what is read of its payload.
    pub(crate) ends_at: usize,
}

/// One direction, frame by frame.
#[derive(Debug)]
pub(crate) struct Frames {
    /// The header of the current frame as far as it came, and the part of its payload that is read.
    head: [u8; HEAD_MAX],
    have: usize,
    /// Bytes to pass over before the next header.
    skip: usize,
}

/// How many frames came that bring nothing on, less what was excused by some that did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdleFrames {
    count: u32,
    /// In milliseconds.
    since: u64,
}

impl FrameHead {
    /// Whether it is a part of a body, or the end of one: what `DATA` is for.
    pub(crate) const fn brings_data(&self) -> bool {
        self.length > 0 || self.flags & END_STREAM != 0
    }

    /// Whether it is `DATA` of nothing at all.
    pub(crate) const fn is_empty_data(&self) -> bool {
        self.kind == DATA && self.length == 0 && self.flags & (END_STREAM | PADDED) == 0
    }
}

impl IdleFrames {
    /// None yet, at `now` (milliseconds).
    pub(crate) const fn new(now: u64) -> Self {
        Self { count: 0, since: now }
    }

    /// One more came; whether that is one too many. The time (milliseconds) is asked for seldom.
    pub(crate) fn are_too_many(&mut self, now: impl FnOnce() -> u64) -> bool {
        self.count += 1;
        if self.count < IDLE_FRAMES_MAX {
            return false;
        }
        let now = now();
        let too_many = now.saturating_sub(self.since) < IDLE_FRAMES_MILLIS;
        *self = Self::new(now);
        too_many
    }

    /// Something was brought on that may take `frames` of them along.
    pub(crate) const fn excuse(&mut self, frames: u32) {
        self.count = self.count.saturating_sub(frames);
    }
}

impl Frames {
    /// Of bytes of which the first `skip` are no frame.
    pub(crate) const fn new(skip: usize) -> Self {
        Self { head: [0; HEAD_MAX], have: 0, skip }
    }

    /// Whether a payload has begun and not ended.
    pub(crate) const fn are_within_one(&self) -> bool {
        self.skip > 0
    }

    /// What has come of a header that has not come whole.
    pub(crate) fn begun(&self) -> &[u8] {
        self.head.get(..self.have).filter(|head| head.len() < HEAD_LENGTH).unwrap_or_default()
    }

    /// Goes on by these bytes; tells of each frame once its header is there, and the word.
    pub(crate) fn follow(&mut self, bytes: &[u8], mut each: impl FnMut(FrameHead)) {
        let (all, mut bytes) = (bytes.len(), bytes);
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
                ends_at: all - bytes.len(),
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

/// Of a frame's header.
pub(crate) const HEAD_LENGTH: usize = 9;
const HEAD_MAX: usize = HEAD_LENGTH + 8;
/// So many frames that bring nothing on, within the time: a hundred in each second.
const IDLE_FRAMES_MAX: u32 = 10_000;
const IDLE_FRAMES_MILLIS: u64 = 100_000;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_idle_frames_a_second_are_none_too_many() {
        let mut idle = IdleFrames::new(0);
        for second in 1..500 {
            assert!((0..100).all(|_| !idle.are_too_many(|| second * 1000)), "{second}");
        }
        let mut idle = IdleFrames::new(0);
        assert!((1..IDLE_FRAMES_MAX).all(|_| !idle.are_too_many(|| 99_999)));
        assert!(idle.are_too_many(|| 99_999));
    }

    #[test]
    fn what_brings_something_on_excuses_some() {
        let mut idle = IdleFrames::new(0);
        for _ in 0..IDLE_FRAMES_MAX {
            assert!((0..5).all(|_| !idle.are_too_many(|| 0)));
            idle.excuse(5);
        }
        // Nothing is excused beforehand.
        idle.excuse(u32::MAX);
        assert!((1..IDLE_FRAMES_MAX).all(|_| !idle.are_too_many(|| 0)) && idle.are_too_many(|| 0));
    }
}
