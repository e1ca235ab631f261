//! Which allocator this process uses: the fast one for the server, the C library's for a shim.
//!
//! A fast allocator keeps thread-local heaps, bitmaps and arenas; touching them at start-up costs a process that allocates
//! a few kilobytes in its whole life more than all the rest of it. The role is known before the first allocation (the C
//! library keeps `argv[0]` for its messages), so one process only ever uses one of the two, and a block is always freed
//! by whoever made it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_char;
use std::sync::atomic::{AtomicU8, Ordering};

const UNDECIDED: u8 = 0;
const FAST: u8 = 1;
const LEAN: u8 = 2;

/// Not in the allocator itself, whose type is the binary's: there is one process, and it has one role.
static CHOICE: AtomicU8 = AtomicU8::new(UNDECIDED);

/// What every role of [`crate::entry`] starts its `argv[0]` with.
pub(crate) const LEAN_ROLES: &[u8] = b"skiff-shim";

unsafe extern "C" {
    /// `argv[0]`, set by the C library before it runs any constructor.
    static program_invocation_name: *const c_char;
}

#[cold]
fn choose() -> u8 {
    // SAFETY: the C library set it before any code of ours ran, to a string that lives as long as the process, or to null.
    // Nobody writes to it.
    let lean = unsafe {
        let name = program_invocation_name;
        !name.is_null()
            && LEAN_ROLES
                .iter()
                .enumerate()
                // A string that ends early differs at its terminator, and is not read beyond it.
                .all(|(i, byte)| (*name.add(i)).cast_unsigned() == *byte)
    };
    let choice = if lean { LEAN } else { FAST };
    // Threads that come here at the same moment write the same.
    CHOICE.store(choice, Ordering::Relaxed);
    choice
}

#[inline]
fn is_lean() -> bool {
    match CHOICE.load(Ordering::Relaxed) {
        FAST => false,
        LEAN => true,
        _ => choose() == LEAN,
    }
}

/// `Fast` for the server and the command line, the C library's allocator for shims and containers' first processes.
pub struct ByRole<Fast>(pub Fast);

// SAFETY: both allocators keep the contract, and `is_lean` answers the same for the whole life of a process.
unsafe impl<Fast: GlobalAlloc> GlobalAlloc for ByRole<Fast> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe {
            if is_lean() {
                System.alloc(layout)
            } else {
                self.0.alloc(layout)
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the block came from the same allocator.
        unsafe {
            if is_lean() {
                System.dealloc(block, layout);
            } else {
                self.0.dealloc(block, layout);
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe {
            if is_lean() {
                System.alloc_zeroed(layout)
            } else {
                self.0.alloc_zeroed(layout)
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; the block came from the same allocator.
        unsafe {
            if is_lean() {
                System.realloc(block, layout, size)
            } else {
                self.0.realloc(block, layout, size)
            }
        }
    }
}

/// Has mimalloc give memory back a tenth of a second after it was freed, instead of ten seconds.
///
/// It looks for what to give back only while it is used, so that with the default a server that falls quiet after a burst (or
/// after its start, which reads the whole store) would keep the burst's memory for good. `MIMALLOC_PURGE_DELAY` overrides it.
pub fn give_back_soon() {
    /// `mi_option_purge_delay`, in milliseconds; arenas wait ten times as long.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    /// Its default: that it is found there proves that the number still means this option.
    const DEFAULT: std::ffi::c_long = 1000;
    // SAFETY: options are atomics that may be read and set at any time; a number out of range is ignored.
    unsafe {
        if !is_lean() && libmimalloc_sys::mi_option_get(PURGE_DELAY) == DEFAULT {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, 10);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_of_a_shim_is_lean_and_a_test_is_not() {
        for role in [crate::shim::LAUNCHER, crate::shim::SHIM] {
            assert!(role.as_bytes().starts_with(LEAN_ROLES));
        }
        assert!(!is_lean());
    }
}
