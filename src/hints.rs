//! Early hints on their way to a client (RFC 8297): what may be said before the answer, and when.
//!
//! In: `Link` values of an upstream's `103`. Out: over HTTP/1.1 whole interim answers, for whoever writes to the client
//! to take; over HTTP/2 interim heads on the request's own stream. Nothing else of a `103` passes: no field that a hint
//! does not need, no byte that could end a line. What is said is said of one request, while it is handled: over
//! HTTP/1.1 between [`OfConnection::begin`] and [`OfConnection::said`], over HTTP/2 while [`OfStream`] has the stream's
//! answer in its hands. Bounded in bytes and number.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderValue, Response, StatusCode, header::LINK};
use smallvec::SmallVec;

/// Where the hints of one request go.
#[derive(Clone, Copy, Debug)]
pub enum Hints<'a> {
    /// HTTP/1.1.
    Connection(&'a OfConnection),
    /// HTTP/2.
    Stream(&'a OfStream),
}

/// The hints of one connection's present request. Everything happens on one thread; atomics only because hyper's
/// upgrades want `Send`.
#[derive(Debug, Default)]
pub struct OfConnection {
    /// What may still be said; 0 while there is no request that may be hinted at.
    room: AtomicU32,
    waits: AtomicBool,
    text: Mutex<Vec<u8>>,
}

/// The answer to one stream's request, as long as it has not begun.
#[derive(Debug)]
pub struct OfStream {
    answer: RefCell<SendResponse<Bytes>>,
    /// What may still be said.
    room: Cell<u32>,
}

impl Hints<'_> {
    /// The request's upstream says that these `Link` fields are to be expected. Without one that may pass, nothing is
    /// said.
    pub fn say<'l>(self, links: impl Iterator<Item = &'l [u8]>) {
        match self {
            Self::Connection(hints) => hints.say(links),
            Self::Stream(hints) => hints.say(links),
        }
    }
}

impl OfConnection {
    /// A request begins whose client takes interim answers.
    pub fn begin(&self) {
        self.room.store(ROOM, Relaxed);
    }

    fn say<'l>(&self, links: impl Iterator<Item = &'l [u8]>) {
        let Some((links, left)) = fit(links, self.room.load(Relaxed)) else { return };
        let mut text = BEGIN.to_vec();
        for link in links {
            text.extend_from_slice(FIELD);
            text.extend_from_slice(link);
            text.extend_from_slice(b"\r\n");
        }
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

impl OfStream {
    /// Of a request that is to be answered by `answer`. One that asks for a tunnel is not `hinted` at.
    pub fn new(answer: SendResponse<Bytes>, hinted: bool) -> Self {
        Self { answer: RefCell::new(answer), room: Cell::new(if hinted { ROOM } else { 0 }) }
    }

    fn say<'l>(&self, links: impl Iterator<Item = &'l [u8]>) {
        let Some((links, left)) = fit(links, self.room.get()) else { return };
        let mut answer = self.answer.borrow_mut();
        // To a stream that was reset nothing must be said. Whoever handles the request asks this again before it rests.
        if answer.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.room.set(0);
            return;
        }
        let mut hint = Response::new(());
        *hint.status_mut() = StatusCode::EARLY_HINTS;
        for link in links {
            // Such bytes any value may have.
            hint.headers_mut().extend(HeaderValue::from_bytes(link).map(|link| (LINK, link)));
        }
        self.room.set(if answer.send_informational(hint).is_ok() { left } else { 0 });
    }

    /// Ready when the client, or the end of its connection, has reset the stream.
    pub fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.answer.borrow_mut().poll_reset(cx).map(drop)
    }

    /// The final answer is there: nothing more is said.
    pub fn into_answer(self) -> SendResponse<Bytes> {
        self.answer.into_inner()
    }
}

/// Those of `links` that may pass, if there are any and all of them fit into one hint and into `room`; and what is left
/// of that.
fn fit<'l>(links: impl Iterator<Item = &'l [u8]>, room: u32) -> Option<(SmallVec<[&'l [u8]; 8]>, u32)> {
    let mut length = BEGIN.len();
    let mut passing = SmallVec::new();
    for link in links.filter(|link| is_plain(link)) {
        if length + link.len() > LONGEST {
            // A hint that is cut could hint at something else.
            return None;
        }
        length += FIELD.len() + link.len() + 2;
        passing.push(link);
    }
    let cost = u32::try_from(length).unwrap_or(u32::MAX).max(LEAST);
    let left = room.checked_sub(cost).filter(|_| !passing.is_empty())?;
    Some((passing, left))
}

/// Whether a value is made of what no reader could take for the end of a line or of a field (RFC 9110 section 5.5).
fn is_plain(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}

const BEGIN: &[u8] = b"HTTP/1.1 103 Early Hints\r\n";
const FIELD: &[u8] = b"link: ";
/// One hint, in bytes.
const LONGEST: usize = 8 * 1024;
/// All of one request: 16 KiB, or 16 of them.
const ROOM: u32 = 16 * LEAST;
/// What each takes of the room at least.
const LEAST: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::tests::connected;

    fn said(links: &[&[u8]]) -> String {
        let hints = OfConnection::default();
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
        let hints = OfConnection::default();
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
        let hints = OfConnection::default();
        hints.say(std::iter::once(&b"</a>"[..]));
        assert!(!hints.wait());
        hints.begin();
        let mut ended = std::pin::pin!(hints.said());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(ended.as_mut().poll(&mut cx).is_ready());
        hints.say(std::iter::once(&b"</a>"[..]));
        assert!(!hints.wait());
    }

    #[test]
    fn a_final_answer_waits_until_what_was_said_is_taken() {
        let hints = OfConnection::default();
        hints.begin();
        hints.say(std::iter::once(&b"</a>"[..]));
        let mut ended = std::pin::pin!(hints.said());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(ended.as_mut().poll(&mut cx).is_pending());
        assert!(!hints.take().is_empty());
        assert!(ended.as_mut().poll(&mut cx).is_ready());
    }

    /// What a client got on its stream: the links of each hint, and the status of the answer.
    async fn got(mut answer: h2::client::ResponseFuture) -> (Vec<Vec<String>>, Option<u16>) {
        let mut hints = Vec::new();
        while let Some(Ok(hint)) = poll_fn(|cx| answer.poll_informational(cx)).await {
            assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
            assert!(hint.headers().keys().all(|name| name == LINK));
            let links = hint.headers().get_all(LINK).iter();
            hints.push(links.map(|link| link.to_str().unwrap().to_owned()).collect());
        }
        (hints, answer.await.ok().map(|head| head.status().as_u16()))
    }

    #[test]
    fn a_hint_over_http2_is_said_on_its_own_stream_and_bounded_alike() {
        connected(|sender, mut served| async move {
            let request = || http::Request::get("https://a.example/").body(()).unwrap();
            let mut sender = sender.ready().await.unwrap();
            let (first, _) = sender.send_request(request(), true).unwrap();
            let (second, _) = sender.ready().await.unwrap().send_request(request(), true).unwrap();
            let first_answer = OfStream::new(served.recv().await.unwrap().1, true);
            let second_answer = OfStream::new(served.recv().await.unwrap().1, false);

            Hints::Stream(&first_answer).say([&b"</a>; rel=preload"[..], b"</b>\r\n", b"</c>"].into_iter());
            Hints::Stream(&first_answer).say([&b"</\xff>"[..]].into_iter());
            for _ in 0..40 {
                Hints::Stream(&first_answer).say([&b"</d>"[..]].into_iter());
                Hints::Stream(&second_answer).say([&b"</never>"[..]].into_iter());
            }

            for answer in [first_answer, second_answer] {
                answer.into_answer().send_response(Response::new(()), true).unwrap();
            }
            let (hints, status) = got(first).await;
            assert_eq!((&hints[0][..], status), (&["</a>; rel=preload".to_owned(), "</c>".to_owned()][..], Some(200)));
            assert_eq!((hints.len(), &hints[15][..]), (16, &["</d>".to_owned()][..]));
            assert_eq!(got(second).await, (vec![], Some(200)));
        });
    }

    #[test]
    fn nothing_is_said_to_a_stream_that_was_reset() {
        connected(|sender, mut served| async move {
            let request = http::Request::get("https://a.example/").body(()).unwrap();
            let (_answer, mut stream) = sender.ready().await.unwrap().send_request(request, false).unwrap();
            let answer = OfStream::new(served.recv().await.unwrap().1, true);
            stream.send_reset(h2::Reason::CANCEL);
            poll_fn(|cx| answer.poll_reset(cx)).await;

            Hints::Stream(&answer).say([&b"</a>"[..]].into_iter());

            assert_eq!(answer.room.get(), 0);
        });
    }
}
