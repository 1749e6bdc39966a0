//! Atomic operations that the code generator has no instruction for: packed halves and 128-bit words.
//! They work on memory that compiled code has checked, and on nothing else.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use half::{bf16, f16};
use portable_atomic::AtomicU128;

/// What is done to a half: bits 0 and 1 of the code.
pub(crate) const HALF_ADD: u32 = 0;
pub(crate) const HALF_MIN: u32 = 1;
pub(crate) const HALF_MAX: u32 = 2;
/// The format is `.bf16`.
pub(crate) const HALF_BF16: u32 = 4;
/// Two halves in a word.
pub(crate) const HALF_PACKED: u32 = 8;

/// The NaN that PTX's half operations give, in both formats.
const NAN: u16 = 0x7fff;

fn combine(code: u32, a: u16, b: u16) -> u16 {
    let is_bf16 = code & HALF_BF16 != 0;
    let wide = |bits: u16| {
        if is_bf16 {
            bf16::from_bits(bits).to_f32()
        } else {
            f16::from_bits(bits).to_f32()
        }
    };
    let (x, y) = (wide(a), wide(b));
    // Zeros are ordered by sign; one NaN gives way to the number.
    let below = |x: f32, y: f32| x < y || x == y && x.is_sign_negative();
    match code & 3 {
        HALF_ADD => {
            // The sum in single precision, rounded again, is the correctly rounded sum: it has more
            // than twice the digits.
            let sum = x + y;
            if sum.is_nan() {
                NAN
            } else if is_bf16 {
                bf16::from_f32(sum).to_bits()
            } else {
                f16::from_f32(sum).to_bits()
            }
        }
        _ if x.is_nan() && y.is_nan() => NAN,
        _ if x.is_nan() => b,
        _ if y.is_nan() => a,
        HALF_MIN if below(x, y) => a,
        HALF_MIN => b,
        _ if below(x, y) => b,
        _ => a,
    }
}

/// Combines a half, or both halves of a word, with what is in memory; the old value.
pub(super) extern "C" fn atomic_half(address: *mut u8, value: u32, code: u32) -> u32 {
    if code & HALF_PACKED != 0 {
        // SAFETY: compiled code has checked the address for an aligned write of four bytes; other
        // blocks reach the word only atomically or race as on a GPU.
        let word = unsafe { AtomicU32::from_ptr(address.cast()) };
        let change = |old: u32| {
            let low = combine(code, old as u16, value as u16);
            let high = combine(code, (old >> 16) as u16, (value >> 16) as u16);
            Some(u32::from(high) << 16 | u32::from(low))
        };
        return word
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, change)
            .unwrap_or_default();
    }
    // SAFETY: as above, for two bytes.
    let word = unsafe { AtomicU16::from_ptr(address.cast()) };
    let change = |old| Some(combine(code, old, value as u16));
    let old = word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, change);
    u32::from(old.unwrap_or_default())
}

/// Exchanges 16 bytes: `operands` has the comparand and the new value; the old value replaces the
/// comparand. `compare` is 0 for an unconditional exchange.
pub(super) extern "C" fn atomic_128(address: *mut u8, operands: *mut u128, compare: u32) -> u32 {
    // SAFETY: compiled code has checked the address for an aligned write of 16 bytes.
    let word = unsafe { AtomicU128::from_ptr(address.cast()) };
    // SAFETY: two words in the calling code's own frame.
    let (comparand, new) = unsafe { (*operands, *operands.add(1)) };
    let old = if compare == 0 {
        word.swap(new, Ordering::SeqCst)
    } else {
        let result = word.compare_exchange(comparand, new, Ordering::SeqCst, Ordering::SeqCst);
        result.unwrap_or_else(|old| old)
    };
    // SAFETY: as above.
    unsafe { *operands = old };
    1
}

/// Loads 16 bytes at once.
pub(super) extern "C" fn load_128(address: *mut u8, result: *mut u128) -> u32 {
    // SAFETY: compiled code has checked the address for an aligned access of 16 bytes, in memory that
    // is writable as all device memory is; the result is a word in its own frame.
    unsafe { *result = AtomicU128::from_ptr(address.cast()).load(Ordering::SeqCst) };
    1
}

/// Stores 16 bytes at once.
pub(super) extern "C" fn store_128(address: *mut u8, value: *const u128) -> u32 {
    // SAFETY: as in `load_128`, for a write.
    unsafe { AtomicU128::from_ptr(address.cast()).store(*value, Ordering::SeqCst) };
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_combined_by_number() {
        let (one, two, nan) = (0x3c00, 0x4000, 0x7e01);
        assert_eq!(combine(HALF_ADD, one, one), two);
        assert_eq!(combine(HALF_ADD, one, nan), NAN);
        assert_eq!(combine(HALF_MIN, nan, two), two);
        assert_eq!(combine(HALF_MIN, 0, 0x8000), 0x8000);
        assert_eq!(combine(HALF_MAX, 0x8000, 0), 0);
        assert_eq!(combine(HALF_MAX | HALF_BF16, 0x3f80, 0xbf80), 0x3f80);
        // 1 + 2^-9 is half way between two bf16 numbers: to the even one.
        assert_eq!(combine(HALF_ADD | HALF_BF16, 0x3f80, 0x3b80), 0x3f80);
        assert_eq!(combine(HALF_ADD | HALF_BF16, 0x3f81, 0x3b80), 0x3f82);
    }
}
