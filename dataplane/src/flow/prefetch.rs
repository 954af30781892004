//! Asks the cache for a line before it is needed. A hint: no memory is read, nothing can fault.

#![allow(unsafe_code, reason = "the prefetch instruction has no safe name")]

/// Starts loading the first two cache lines of a value (one, if it has only one).
#[inline(always)]
pub(super) fn prefetch<T>(value: &T) {
    let at = std::ptr::from_ref(value).cast::<i8>();
    line(at);
    if size_of::<T>() > 64 {
        line(at.wrapping_add(64));
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn line(at: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE is part of x86_64; the instruction reads nothing and cannot fault, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
#[inline(always)]
fn line(at: *const i8) {
    // SAFETY: a hint; it changes no register and no memory, and cannot fault, whatever the address.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, readonly, preserves_flags))
    };
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
#[inline(always)]
const fn line(_: *const i8) {}

#[cfg(test)]
mod tests {
    #[test]
    fn a_prefetch_changes_nothing() {
        let values = [7_u64; 32];
        super::prefetch(&values);
        super::prefetch(&values[31]);
        assert_eq!(values, [7; 32]);
    }
}
