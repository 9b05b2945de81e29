//! One field of a context, with one instruction of exactly its width and its offset as a constant.
//!
//! That is what the verifier wants, and what LLVM does not give by itself, not even for volatile accesses: it joins
//! neighbouring words ("invalid bpf_context access off=24 size=8"), and where two branches read different fields it
//! adds the offset to the pointer first ("dereference of modified ctx ptr"). Hence the instruction is spelled out.

use core::ffi::c_void;

/// Reads a 4-byte field.
macro_rules! word {
    ($context:expr, $kind:ty, $field:ident $(+ $more:literal)?) => {
        $crate::context::field::read_word::<{ ::core::mem::offset_of!($kind, $field) $(+ $more)? }>($context.cast())
    };
}

/// Reads a field that holds a pointer.
macro_rules! pointer {
    ($context:expr, $kind:ty, $field:ident) => {
        $crate::context::field::read_pointer::<{ ::core::mem::offset_of!($kind, $field) }>(
            $context.cast(),
        )
    };
}

/// Writes a 4-byte field.
macro_rules! set_word {
    ($context:expr, $kind:ty, $field:ident $(+ $more:literal)?, $value:expr) => {
        $crate::context::field::write_word::<{ ::core::mem::offset_of!($kind, $field) $(+ $more)? }>($context.cast(), $value)
    };
}

pub(crate) use {pointer, set_word, word};

/// # Safety
/// `context` is live, and its kind has a readable word at `OFFSET`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn read_word<const OFFSET: usize>(context: *mut c_void) -> u32 {
    let value: u64;
    // SAFETY: by the caller, and checked by the verifier.
    unsafe {
        core::arch::asm!(
            "{value} = *(u32 *)({context} + {offset})",
            value = lateout(reg) value, context = in(reg) context, offset = const OFFSET,
        );
    }
    value as u32
}

/// # Safety
/// `context` is live, and its kind has a readable pointer at `OFFSET`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn read_pointer<const OFFSET: usize>(context: *mut c_void) -> *mut c_void {
    let value: *mut c_void;
    // SAFETY: by the caller, and checked by the verifier.
    unsafe {
        core::arch::asm!(
            "{value} = *(u64 *)({context} + {offset})",
            value = lateout(reg) value, context = in(reg) context, offset = const OFFSET,
        );
    }
    value
}

/// # Safety
/// `context` is live, and its kind has a writable word at `OFFSET`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn write_word<const OFFSET: usize>(context: *mut c_void, value: u32) {
    // SAFETY: by the caller, and checked by the verifier.
    unsafe {
        core::arch::asm!(
            "*(u32 *)({context} + {offset}) = {value}",
            value = in(reg) u64::from(value), context = in(reg) context, offset = const OFFSET,
        );
    }
}

/// For the build machine's compiler, which only looks at this code; so are the two below.
///
/// # Safety
/// As above.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn read_word<const OFFSET: usize>(context: *mut c_void) -> u32 {
    // SAFETY: by the caller.
    unsafe { context.byte_add(OFFSET).cast::<u32>().read_volatile() }
}

/// # Safety
/// As above.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn read_pointer<const OFFSET: usize>(context: *mut c_void) -> *mut c_void {
    // SAFETY: by the caller.
    unsafe {
        context
            .byte_add(OFFSET)
            .cast::<*mut c_void>()
            .read_volatile()
    }
}

/// # Safety
/// As above.
#[cfg(not(target_arch = "bpf"))]
pub unsafe fn write_word<const OFFSET: usize>(context: *mut c_void, value: u32) {
    // SAFETY: by the caller.
    unsafe { context.byte_add(OFFSET).cast::<u32>().write_volatile(value) }
}
