//! Whether an HTTP/2 connection owes us request bodies: what `body_min_rate` is judged by there (R19).
//!
//! In: the bytes of both directions, cut anywhere. Only frame headers are read; the frames themselves are the h2
//! library's matter, and nothing is decided here but "do we wait for a body". A client whose flow-control window we
//! have not reopened owes nothing. RFC 9113 sections 4.1, 5.2 and 6.

/// The request bodies under way on one connection.
#[derive(Debug)]
pub(crate) struct Uploads {
    from_client: Frames,
    to_client: Frames,
    /// Streams whose body has not ended. Short: bounded by the concurrent streams that we allow.
    open: Vec<Upload>,
    /// What the client may still send on all streams together. It can fall below 0 only if the client cheats.
    window: i64,
    stream_window: i64,
}

#[derive(Debug)]
struct Upload {
    stream: u32,
    window: i64,
}

impl Uploads {
    /// Of a connection whose streams begin with a window of `stream_window` bytes.
    pub(crate) const fn new(stream_window: u32) -> Self {
        Self {
            from_client: Frames::new(PREFACE_LENGTH),
            to_client: Frames::new(0),
            open: Vec::new(),
            window: CONNECTION_WINDOW,
            stream_window: stream_window as i64,
        }
    }

    /// Whether the client may send and has not.
    pub(crate) fn are_awaited(&self) -> bool {
        self.window > 0 && self.open.iter().any(|upload| upload.window > 0)
    }

    /// Follows what the client sent.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        let (open, window, stream_window) = (&mut self.open, &mut self.window, self.stream_window);
        self.from_client.follow(bytes, |frame| {
            let ends = frame.flags & END_STREAM != 0;
            match frame.kind {
                DATA => {
                    *window -= i64::from(frame.length);
                    if let Some(upload) = open.iter_mut().find(|upload| upload.stream == frame.stream) {
                        upload.window -= i64::from(frame.length);
                    }
                    if ends {
                        open.retain(|upload| upload.stream != frame.stream);
                    }
                }
                HEADERS if ends => open.retain(|upload| upload.stream != frame.stream),
                HEADERS if open.len() < OPEN_MAX && open.iter().all(|upload| upload.stream != frame.stream) => {
                    open.push(Upload { stream: frame.stream, window: stream_window });
                }
                RST_STREAM => open.retain(|upload| upload.stream != frame.stream),
                _ => {}
            }
        });
    }

    /// Follows what the client was sent.
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        let (open, window) = (&mut self.open, &mut self.window);
        self.to_client.follow(bytes, |frame| match frame.kind {
            // Once the answer is complete, nobody waits for the rest of the request.
            DATA | HEADERS if frame.flags & END_STREAM != 0 => open.retain(|upload| upload.stream != frame.stream),
            RST_STREAM => open.retain(|upload| upload.stream != frame.stream),
            WINDOW_UPDATE if frame.stream == 0 => *window += i64::from(frame.increment),
            WINDOW_UPDATE => {
                if let Some(upload) = open.iter_mut().find(|upload| upload.stream == frame.stream) {
                    upload.window += i64::from(frame.increment);
                }
            }
            _ => {}
        });
    }
}

/// One direction, frame by frame.
#[derive(Debug)]
struct Frames {
    /// The header of the current frame as far as it came; of `WINDOW_UPDATE` also the payload.
    head: [u8; WINDOW_UPDATE_LENGTH],
    have: usize,
    /// Bytes to pass over before the next header.
    skip: usize,
}

struct FrameHead {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    increment: u32,
}

impl Frames {
    const fn new(skip: usize) -> Self {
        Self { head: [0; WINDOW_UPDATE_LENGTH], have: 0, skip }
    }

    fn follow(&mut self, mut bytes: &[u8], mut each: impl FnMut(FrameHead)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            let needed = if self.have >= HEAD_LENGTH { WINDOW_UPDATE_LENGTH } else { HEAD_LENGTH };
            let taken = (needed - self.have).min(bytes.len());
            for (to, from) in self.head.iter_mut().skip(self.have).zip(bytes.iter().take(taken)) {
                *to = *from;
            }
            self.have += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            let [l0, l1, l2, kind, flags, s0, s1, s2, s3, i0, i1, i2, i3] = self.head;
            let length = u32::from_be_bytes([0, l0, l1, l2]);
            let payload_is_read = kind == WINDOW_UPDATE && length == 4;
            if self.have < HEAD_LENGTH || (payload_is_read && self.have < WINDOW_UPDATE_LENGTH) {
                continue;
            }
            each(FrameHead {
                length,
                kind,
                flags,
                stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
                increment: if payload_is_read { u32::from_be_bytes([i0 & 0x7f, i1, i2, i3]) } else { 0 },
            });
            self.have = 0;
            self.skip = if payload_is_read { 0 } else { length as usize };
        }
    }
}

const PREFACE_LENGTH: usize = 24;
const HEAD_LENGTH: usize = 9;
const WINDOW_UPDATE_LENGTH: usize = HEAD_LENGTH + 4;
/// RFC 9113 section 6.9.2: not changed by settings.
const CONNECTION_WINDOW: i64 = 65_535;
/// Far above the streams that are allowed; refused ones pass through here for a moment.
const OPEN_MAX: usize = 4096;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;

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

    fn fresh() -> Uploads {
        let mut uploads = Uploads::new(100);
        uploads.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        uploads
    }

    #[test]
    fn a_body_is_awaited_until_its_end_however_the_bytes_are_cut() {
        for piece in [1, 2, 7, 1000] {
            let mut uploads = fresh();
            let mut feed = |bytes: Vec<u8>, expect: bool| {
                bytes.chunks(piece).for_each(|piece| uploads.received(piece));
                assert_eq!(uploads.are_awaited(), expect, "{piece}");
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
        let mut uploads = fresh();
        uploads.received(&frame(HEADERS, 0, 1, b"abc"));
        uploads.received(&frame(DATA, 0, 1, &[0; 100]));
        assert!(!uploads.are_awaited());

        frame(WINDOW_UPDATE, 0, 1, &50_u32.to_be_bytes()).chunks(3).for_each(|piece| uploads.sent(piece));

        assert!(uploads.are_awaited());
    }

    #[test]
    fn an_answered_request_owes_nothing() {
        for answer in [frame(HEADERS, END_STREAM, 1, b"abc"), frame(RST_STREAM, 0, 1, &[0; 4])] {
            let mut uploads = fresh();
            uploads.received(&frame(HEADERS, 0, 1, b"abc"));
            uploads.sent(&frame(HEADERS, 0, 1, b"early"));
            assert!(uploads.are_awaited());

            uploads.sent(&answer);

            assert!(!uploads.are_awaited());
        }
    }
}
