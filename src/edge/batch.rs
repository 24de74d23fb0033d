//! What one turn of an HTTP/2 connection writes, in as few TLS records and system calls as it can go.
//!
//! h2 writes a frame of more than 256 bytes by itself and flushes it, so that each answer of an ordinary size would cost
//! a record and a system call of its own, and each full frame, nine bytes larger than a record, two records. In: hyper's
//! writes. Out: the same bytes in the same order, a record's worth at a time; what is less waits until the turn is over
//! and whoever polls the connection says so ([`Batched::poll_send`]). Less than one record is kept: a socket that takes
//! nothing holds hyper back as it would without this.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use smallvec::SmallVec;

/// A connection whose writes wait for the end of a turn. Clones are the same connection.
pub(super) struct Batched<W>(Rc<RefCell<Batch<W>>>);

struct Batch<W> {
    wire: W,
    /// Written, and not sent yet.
    kept: Vec<u8>,
}

impl<W> Clone for Batched<W> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<W: Write + Unpin> Batched<W> {
    pub(super) fn new(wire: W) -> Self {
        Self(Rc::new(RefCell::new(Batch { wire, kept: Vec::new() })))
    }

    /// Sends what is kept.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }
}

impl<W: Write + Unpin> Batch<W> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.kept.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.kept.is_empty() {
            let sent = ready!(Pin::new(&mut self.wire).poll_write(cx, &self.kept))?;
            self.forget(sent)?;
        }
        // A connection that rests has no room for it.
        self.kept = Vec::new();
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let coming: usize = slices.iter().map(|slice| slice.len()).sum();
            if self.kept.len() + coming < RECORD {
                for slice in slices {
                    self.kept.extend_from_slice(slice);
                }
                return Poll::Ready(Ok(coming));
            }
            let sent = ready!(Pin::new(&mut self.wire).poll_write_vectored(cx, &record(&self.kept, slices)))?;
            if sent > self.kept.len() {
                let taken = sent - self.kept.len();
                self.kept.clear();
                return Poll::Ready(Ok(taken));
            }
            self.forget(sent)?;
        }
    }

    /// So many of the first bytes have left.
    fn forget(&mut self, sent: usize) -> io::Result<()> {
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        drop(self.kept.drain(..sent.min(self.kept.len())));
        Ok(())
    }
}

impl<W: Read + Unpin> Read for Batched<W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().wire).poll_read(cx, cursor)
    }
}

impl<W: Write + Unpin> Write for Batched<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, &[IoSlice::new(bytes)])
    }

    /// It is not over yet: see the module.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let batch = &mut *self.0.borrow_mut();
        ready!(batch.poll_send(cx))?;
        Pin::new(&mut batch.wire).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_take(cx, slices)
    }
}

/// The first bytes of all, as many as a record has room for.
fn record<'a>(kept: &'a [u8], slices: &'a [IoSlice<'_>]) -> SmallVec<[IoSlice<'a>; 4]> {
    let mut room = RECORD;
    let all = std::iter::once(kept).chain(slices.iter().map(|slice| &**slice));
    let parts = all.map(|slice| {
        let part = slice.get(..room).unwrap_or(slice);
        room -= part.len();
        part
    });
    parts.filter(|part| !part.is_empty()).map(IoSlice::new).collect()
}

/// Plain bytes of a full TLS record (RFC 8446 section 5.1).
const RECORD: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Notes each write, and takes so many bytes at once; nothing when `blocked`.
    #[derive(Default)]
    struct Sink {
        writes: Vec<usize>,
        bytes: Vec<u8>,
        most: usize,
        blocked: bool,
        shut: bool,
    }

    impl Write for Sink {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.get_mut().shut = true;
            Poll::Ready(Ok(()))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            if this.blocked {
                return Poll::Pending;
            }
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(this.most).collect();
            this.writes.push(bytes.len());
            this.bytes.extend(&bytes);
            Poll::Ready(Ok(bytes.len()))
        }
    }

    fn batched(most: usize) -> Batched<Sink> {
        Batched::new(Sink { most, ..Sink::default() })
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// Writes all of it as hyper does: again with what was not taken. `false`: it was held back.
    fn write(to: &Batched<Sink>, mut head: &[u8], mut body: &[u8]) -> bool {
        while !(head.is_empty() && body.is_empty()) {
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            let Poll::Ready(taken) = Pin::new(&mut to.clone()).poll_write_vectored(&mut context(), &slices) else {
                return false;
            };
            let taken = taken.unwrap();
            let of_head = taken.min(head.len());
            (head, body) = (&head[of_head..], &body[taken - of_head..]);
            assert!(Pin::new(&mut to.clone()).poll_flush(&mut context()).is_ready());
        }
        true
    }

    fn send(from: &Batched<Sink>) -> bool {
        from.poll_send(&mut context()).map(Result::unwrap).is_ready()
    }

    #[test]
    fn what_a_turn_writes_goes_out_at_its_end_and_at_once() {
        let to = batched(usize::MAX);
        for _ in 0..10 {
            assert!(write(&to, &[1; 9], &[2; 1000]));
        }
        assert!(to.0.borrow().wire.writes.is_empty());

        assert!(send(&to) && send(&to));

        assert_eq!(to.0.borrow().wire.writes, [10_090]);
        assert_eq!(to.0.borrow().kept.capacity(), 0);
    }

    #[test]
    fn a_large_body_leaves_in_whole_records() {
        let to = batched(usize::MAX);
        for _ in 0..4 {
            assert!(write(&to, &[1; 9], &[2; RECORD]));
        }
        assert!(send(&to));

        assert_eq!(to.0.borrow().wire.writes, [RECORD, RECORD, RECORD, RECORD, 36]);
    }

    #[test]
    fn a_connection_that_takes_nothing_holds_back() {
        let to = batched(usize::MAX);
        to.0.borrow_mut().wire.blocked = true;

        assert!(write(&to, &[1; 9], &[2; 1000]) && !send(&to));
        assert!(!write(&to, &[1; 9], &[2; RECORD]));
        assert!(to.0.borrow().kept.len() < RECORD);

        to.0.borrow_mut().wire.blocked = false;
        assert!(send(&to));
        assert_eq!(to.0.borrow().wire.writes, [1009]);
    }

    #[test]
    fn the_end_comes_after_what_was_kept() {
        let to = batched(usize::MAX);
        assert!(write(&to, b"last", b" words"));
        to.0.borrow_mut().wire.blocked = true;
        assert!(Pin::new(&mut to.clone()).poll_shutdown(&mut context()).is_pending());
        assert!(!to.0.borrow().wire.shut);

        to.0.borrow_mut().wire.blocked = false;
        assert!(Pin::new(&mut to.clone()).poll_shutdown(&mut context()).is_ready());

        assert!(to.0.borrow().wire.shut && to.0.borrow().wire.bytes == b"last words");
    }

    proptest::proptest! {
        #[test]
        fn no_byte_is_lost_or_overtaken(
            pieces in proptest::collection::vec((0_usize..40, 0_usize..40_000, proptest::bool::ANY), 0..12),
            most in 1_usize..50_000,
        ) {
            let to = batched(most);
            let (mut expected, mut next) = (Vec::new(), 0_u8);
            for (head, body, ends_turn) in pieces {
                let mut fresh = |length: usize| -> Vec<u8> {
                    (0..length).map(|_| { next = next.wrapping_mul(5).wrapping_add(1); next }).collect()
                };
                let (head, body) = (fresh(head), fresh(body));
                proptest::prop_assert!(write(&to, &head, &body));
                expected.extend(head);
                expected.extend(body);
                proptest::prop_assert!(!ends_turn || send(&to));
            }
            proptest::prop_assert!(send(&to));
            proptest::prop_assert!(to.0.borrow().wire.writes.iter().all(|write| *write <= RECORD));
            proptest::prop_assert!(to.0.borrow().wire.bytes == expected);
        }
    }
}
