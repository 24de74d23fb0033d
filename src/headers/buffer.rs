//! Buffers in which request heads are written, used again by later requests of the same worker.
//!
//! Asking an allocator for this much memory and giving it back costs more than writing most of what goes in.
//! Invariants: a buffer is empty when it is taken; as many are kept as are used at one time, within [`KEPT`], and none
//! that has grown beyond [`KEPT_BYTES`].

use std::{
    cell::RefCell,
    mem,
    ops::{Deref, DerefMut},
};

/// One buffer; goes back to its worker when it is dropped.
#[derive(Clone, Eq, PartialEq)]
pub struct HeadBuffer(Vec<u8>);

impl HeadBuffer {
    /// An empty one with room for most heads.
    pub fn take() -> Self {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        Self(spare.unwrap_or_else(|| Vec::with_capacity(USUAL_BYTES)))
    }
}

impl Drop for HeadBuffer {
    fn drop(&mut self) {
        let mut buffer = mem::take(&mut self.0);
        if !(USUAL_BYTES..=KEPT_BYTES).contains(&buffer.capacity()) {
            return;
        }
        buffer.clear();
        // While the thread ends there is nobody to keep it for.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(buffer);
            }
        });
    }
}

impl Deref for HeadBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for HeadBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A browser's fields and ours.
const USUAL_BYTES: usize = 1536;
/// For each worker.
const KEPT: usize = 64;
/// Of one buffer.
const KEPT_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_comes_back_is_empty_and_used_again() {
        let mut first = HeadBuffer::take();
        first.extend_from_slice(b"cookie: secret");
        let place = first.as_ptr();
        drop(first);

        let (again, other) = (HeadBuffer::take(), HeadBuffer::take());
        assert!(again.is_empty() && other.is_empty());
        assert_eq!(again.as_ptr(), place);
        assert_ne!(other.as_ptr(), place);
    }

    #[test]
    fn neither_large_buffers_nor_too_many_are_kept() {
        let mut large = HeadBuffer::take();
        large.resize(KEPT_BYTES + 1, 0);
        drop(large);
        assert!(HeadBuffer::take().capacity() <= KEPT_BYTES);

        let many: Vec<HeadBuffer> = (0..2 * KEPT).map(|_| HeadBuffer::take()).collect();
        drop(many);
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
    }
}
