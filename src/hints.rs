//! Early hints on their way to a client over HTTP/1.1 (RFC 8297): what may be said before the answer, and when.
//!
//! In: `Link` values of an upstream's `103`. Out: whole interim answers, for whoever writes to the client to take.
//! Nothing else of a `103` passes: no field that a hint does not need, no byte that could end a line. What is said is
//! said of the one request under way: [`Hints::begin`] to [`Hints::said`] lie within its handling, so nothing waits
//! here once its final answer can be written. Bounded in bytes and number.

use std::{
    future::poll_fn,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::Poll,
};

/// The hints of one connection's present request. Everything happens on one thread; atomics only because hyper's
/// upgrades want `Send`.
#[derive(Debug, Default)]
pub struct Hints {
    /// What may still be said; 0 while there is no request that may be hinted at.
    room: AtomicU32,
    waits: AtomicBool,
    text: Mutex<Vec<u8>>,
}

impl Hints {
    /// A request begins whose client takes interim answers.
    pub fn begin(&self) {
        self.room.store(ROOM, Relaxed);
    }

    /// Its upstream says that these `Link` fields are to be expected. Without one that may pass, nothing is said.
    pub fn say<'a>(&self, links: impl Iterator<Item = &'a [u8]>) {
        let room = self.room.load(Relaxed);
        let mut text = BEGIN.to_vec();
        for link in links.filter(|link| is_plain(link)) {
            if text.len() + link.len() > LONGEST {
                // A hint that is cut could hint at something else.
                return;
            }
            text.extend_from_slice(b"link: ");
            text.extend_from_slice(link);
            text.extend_from_slice(b"\r\n");
        }
        let cost = u32::try_from(text.len()).unwrap_or(u32::MAX).max(LEAST);
        let Some(left) = room.checked_sub(cost).filter(|_| text.len() > BEGIN.len()) else { return };
        text.extend_from_slice(b"\r\n");
        self.room.store(left, Relaxed);
        self.text.lock().unwrap_or_else(PoisonError::into_inner).append(&mut text);
        self.waits.store(true, Relaxed);
    }

    /// Whether something waits to be taken.
    pub fn wait(&self) -> bool {
        self.waits.load(Relaxed)
    }

    /// What waits, to be written before anything else. Whoever takes it wakes the request's task.
    pub fn take(&self) -> Vec<u8> {
        self.waits.store(false, Relaxed);
        std::mem::take(&mut *self.text.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The final answer is there: it is held back until what was said before is taken. Nothing more is said.
    pub async fn said(&self) {
        self.room.store(0, Relaxed);
        if self.wait() {
            poll_fn(|_| if self.wait() { Poll::Pending } else { Poll::Ready(()) }).await;
        }
    }
}

/// Whether a value is made of what no reader could take for the end of a line or of a field (RFC 9110 section 5.5).
fn is_plain(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}

const BEGIN: &[u8] = b"HTTP/1.1 103 Early Hints\r\n";
/// One hint, in bytes.
const LONGEST: usize = 8 * 1024;
/// All of one request: 16 KiB, or 16 of them.
const ROOM: u32 = 16 * LEAST;
/// What each takes of the room at least.
const LEAST: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn said(links: &[&[u8]]) -> String {
        let hints = Hints::default();
        hints.begin();
        hints.say(links.iter().copied());
        assert_eq!(hints.wait(), !hints.text.lock().unwrap().is_empty());
        String::from_utf8(hints.take()).unwrap()
    }

    #[test]
    fn a_hint_is_a_whole_interim_answer_of_links_alone() {
        assert_eq!(
            said(&[b"</a.css>; rel=preload; as=style", b"</b.js>;\trel=preload"]),
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload; as=style\r\nlink: </b.js>;\trel=preload\r\n\r\n"
        );
        assert_eq!(said(&[]), "");
    }

    #[test]
    fn no_value_ends_its_line() {
        for bad in [&b"</a>\r\nSet-Cookie: a=b"[..], b"</a>\n", b"</a>\r", b"</a>\0", b"</\xff>", b"\x7f", b""] {
            assert_eq!(said(&[bad]), "", "{bad:?}");
            assert_eq!(said(&[b"</a>", bad]), "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "{bad:?}");
        }
    }

    #[test]
    fn what_is_said_is_bounded_in_bytes_and_number() {
        let hints = Hints::default();
        let say = |value: &[u8]| {
            hints.say(std::iter::once(value));
            hints.take().len()
        };
        hints.begin();
        assert_eq!(say(&[b'x'; LONGEST]), 0, "one that is too long is not cut");
        assert_eq!((0..100).filter(|_| say(b"</a>") > 0).count(), 16);
        hints.begin();
        assert_eq!((0..100).filter(|_| say(&[b'x'; 5000]) > 0).count(), 3);
    }

    #[test]
    fn nothing_is_said_where_no_request_is_under_way() {
        let hints = Hints::default();
        hints.say(std::iter::once(&b"</a>"[..]));
        assert!(!hints.wait());
        hints.begin();
        let mut ended = std::pin::pin!(hints.said());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(ended.as_mut().poll(&mut cx).is_ready());
        hints.say(std::iter::once(&b"</a>"[..]));
        assert!(!hints.wait());
    }

    #[test]
    fn a_final_answer_waits_until_what_was_said_is_taken() {
        let hints = Hints::default();
        hints.begin();
        hints.say(std::iter::once(&b"</a>"[..]));
        let mut ended = std::pin::pin!(hints.said());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(ended.as_mut().poll(&mut cx).is_pending());
        assert!(!hints.take().is_empty());
        assert!(ended.as_mut().poll(&mut cx).is_ready());
    }
}
