//! Large buffers, borrowed from the thread only while there are bytes to move.
//!
//! A connection that is silent holds none. The thread keeps a few of those that came back, because in ordinary use a
//! turn of a tunnel needs one or two and gives them back at its end; the rest goes back to the allocator.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::record;

/// Records that fit in a buffer: what one system call moves. Beyond 256 KiB neither reads nor writes got cheaper per
/// byte.
pub(crate) const RECORDS: usize = 16;

/// Bytes of a buffer.
pub(crate) const CAPACITY: usize = RECORDS * record::MAX_SIZE;

/// Buffers that a thread keeps.
const KEPT: usize = 4;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`CAPACITY`] bytes. What is in it at first is left over from elsewhere on this thread.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    /// Borrows a buffer.
    pub(crate) fn take() -> Self {
        let kept = FREE.with_borrow_mut(Vec::pop);
        // Zeroed pages come from the kernel when they are first touched: a short message costs one page.
        Self(kept.unwrap_or_else(|| vec![0; CAPACITY].into_boxed_slice()))
    }
}

/// Gives the buffers that this thread keeps back to the allocator.
pub(crate) fn give_back() {
    FREE.take();
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(bytes);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
