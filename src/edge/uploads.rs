//! Whether an HTTP/2 connection owes us request bodies: what `body_min_rate` is judged by there (R19).
//!
//! In: the frame headers of both directions. Nothing is decided here but "do we wait for a body". A client whose
//! flow-control window we have not reopened owes nothing. RFC 9113 sections 5.2 and 6.

use crate::frames::{DATA, END_STREAM, FrameHead, HEADERS, RST_STREAM, WINDOW_UPDATE};

/// The request bodies under way on one connection.
#[derive(Debug)]
pub(super) struct Uploads {
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
    pub(super) const fn new(stream_window: u32) -> Self {
        Self { open: Vec::new(), window: CONNECTION_WINDOW, stream_window: stream_window as i64 }
    }

    /// Whether the client may send and has not, on more streams than are `tunnels`: which those are is not told by
    /// frame headers. A tunnel that is not read from hides another stream for as long, and no more than the tunnel
    /// itself holds for it.
    pub(super) fn are_awaited(&self, tunnels: u32) -> bool {
        let tunnels = usize::try_from(tunnels).unwrap_or(usize::MAX);
        self.window > 0 && self.open.iter().filter(|upload| upload.window > 0).nth(tunnels).is_some()
    }

    /// Whether the body of `stream` has not ended.
    pub(super) fn is_open(&self, stream: u32) -> bool {
        self.open.iter().any(|upload| upload.stream == stream)
    }

    /// Follows what the client sent.
    pub(super) fn received(&mut self, frame: &FrameHead) {
        let ends = frame.flags & END_STREAM != 0;
        match frame.kind {
            DATA => {
                self.window -= i64::from(frame.length);
                if let Some(upload) = self.open.iter_mut().find(|upload| upload.stream == frame.stream) {
                    upload.window -= i64::from(frame.length);
                }
                if ends {
                    self.end(frame.stream);
                }
            }
            HEADERS if ends => self.end(frame.stream),
            HEADERS if self.open.len() < OPEN_MAX && self.open.iter().all(|upload| upload.stream != frame.stream) => {
                self.open.push(Upload { stream: frame.stream, window: self.stream_window });
            }
            RST_STREAM => self.end(frame.stream),
            _ => {}
        }
    }

    /// Follows what the client was sent.
    pub(super) fn sent(&mut self, frame: &FrameHead) {
        match frame.kind {
            // Once the answer is complete, nobody waits for the rest of the request.
            DATA | HEADERS if frame.flags & END_STREAM != 0 => self.end(frame.stream),
            RST_STREAM => self.end(frame.stream),
            WINDOW_UPDATE if frame.stream == 0 => self.window += i64::from(frame.word),
            WINDOW_UPDATE => {
                if let Some(upload) = self.open.iter_mut().find(|upload| upload.stream == frame.stream) {
                    upload.window += i64::from(frame.word);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, stream: u32) {
        self.open.retain(|upload| upload.stream != stream);
    }
}

/// RFC 9113 section 6.9.2: not changed by settings.
const CONNECTION_WINDOW: i64 = 65_535;
/// Far above the streams that are allowed; refused ones pass through here for a moment.
const OPEN_MAX: usize = 4096;
