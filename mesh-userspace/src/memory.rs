//! What the processes hold of the machine's memory, and how they give it back. The one place that knows the allocator;
//! who calls this decides when.

use mesh_proxy::memory::Memory;

/// Connections allocate and free on every thread; the system allocator keeps what they freed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The size of a page, or a multiple of it: no architecture that we run on has larger ones.
const PAGE: usize = 65_536;

/// Agents and workers are small and many on a machine: where the system gives huge pages unasked, two megabytes at a time
/// for a few hundred bytes each, they would hold several times what they need. Holds for the worker too, which inherits it.
pub(crate) fn begin() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages cannot be declined");
    }
}

/// What a worker may call.
pub(crate) fn for_the_worker() -> Memory {
    Memory {
        give_back,
        unmap_code,
    }
}

/// Gives back what the calling thread's heap holds and does not use.
pub(crate) fn give_back() {
    // SAFETY: may be called at any time, on any thread.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Unmaps the pages of the program's code and constants. What of it is needed again is in the page cache, and mapped again
/// when it is run.
pub(crate) fn unmap_code() {
    unsafe extern "C" {
        /// The beginning of the program in memory, and the end of its code; both are the linker's.
        static __executable_start: u8;
        static etext: u8;
    }
    let begin = (&raw const __executable_start)
        .addr()
        .next_multiple_of(PAGE);
    let end = (&raw const etext).addr() / PAGE * PAGE;
    if begin >= end {
        return;
    }
    // SAFETY: these pages are mapped from the program's file, read-only and never written (relocations are outside of
    // this range), so that what is dropped is read from the file again when it is touched.
    let result = unsafe {
        libc::madvise(
            std::ptr::with_exposed_provenance_mut(begin),
            end - begin,
            libc::MADV_DONTNEED,
        )
    };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "the code that only the start needed stays mapped");
    }
}
