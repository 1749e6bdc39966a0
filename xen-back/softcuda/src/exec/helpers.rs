//! What compiled code calls: operations too long or too rare to be made inline. They are plain C
//! functions; none may panic or unwind, whatever they are given.

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::HostRange;
use super::block;
use super::context::{BlockContext, ThreadHeader};
use super::{asynchronous, atomics, matrix, sample, soft, video};

/// A helper: its number is its place in the table that the context points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Helper {
    Soft,
    FmaF32,
    FmaF64,
    RoundF32,
    RoundF64,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
    AddF32,
    AddF64,
    Inc,
    Dec,
    BitField,
    BitMask,
    Permute,
    DotProduct,
    SignExtend,
    FindNthSet,
    Video,
    VideoMad,
    VideoLanes,
    CheckGeneric,
    AtomicHalf,
    Atomic128,
    Load128,
    Store128,
    Mbarrier,
    CopyAsync,
    CopyBulk,
    MoveFragment,
    Texture,
    Query,
    IsObject,
    Surface,
    Arrive,
    Clock,
    Sleep,
    Time,
}

/// What PTX allows `nanosleep` to be asked for, in nanoseconds.
const LONGEST_SLEEP: u32 = 1_000_000;

/// Helpers in all; `Time` stays the last.
const HELPERS: usize = Helper::Time as usize + 1;

/// Entry points, in `Helper`'s order.
struct Table([*const c_void; HELPERS]);

// SAFETY: the pointers are to functions, which live for ever and may be called from any thread.
unsafe impl Sync for Table {}
// SAFETY: as for Sync.
unsafe impl Send for Table {}

static TABLE: Table = Table([
    soft_operation as *const c_void,
    fma_f32 as *const c_void,
    fma_f64 as *const c_void,
    round_f32 as *const c_void,
    round_f64 as *const c_void,
    ex2 as *const c_void,
    lg2 as *const c_void,
    sin as *const c_void,
    cos as *const c_void,
    tanh as *const c_void,
    add_f32 as *const c_void,
    add_f64 as *const c_void,
    inc as *const c_void,
    dec as *const c_void,
    bit_field as *const c_void,
    bit_mask as *const c_void,
    permute as *const c_void,
    dot_product as *const c_void,
    sign_extend as *const c_void,
    find_nth_set as *const c_void,
    video_scalar as *const c_void,
    video_mad as *const c_void,
    video_lanes as *const c_void,
    check_generic as *const c_void,
    atomics::atomic_half as *const c_void,
    atomics::atomic_128 as *const c_void,
    atomics::load_128 as *const c_void,
    atomics::store_128 as *const c_void,
    asynchronous::mbarrier as *const c_void,
    asynchronous::copy_async as *const c_void,
    asynchronous::copy_bulk as *const c_void,
    matrix::move_fragment as *const c_void,
    sample::texture as *const c_void,
    sample::query as *const c_void,
    sample::is_object as *const c_void,
    sample::surface as *const c_void,
    arrive as *const c_void,
    clock as *const c_void,
    sleep as *const c_void,
    time as *const c_void,
]);

/// The table that compiled code finds helpers in.
pub(crate) fn table() -> *const *const c_void {
    TABLE.0.as_ptr()
}

extern "C" fn soft_operation(code: u32, a: u64, b: u64, c: u64) -> u64 {
    soft::compute(code, a, b, c)
}

extern "C" fn fma_f32(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

extern "C" fn fma_f64(a: f64, b: f64, c: f64) -> f64 {
    a.mul_add(b, c)
}

/// Rounding to an integral value; modes in the order of `Rounding`.
extern "C" fn round_f32(value: f32, mode: u32) -> f32 {
    match mode {
        0 => value.round_ties_even(),
        1 => value.trunc(),
        2 => value.floor(),
        _ => value.ceil(),
    }
}

extern "C" fn round_f64(value: f64, mode: u32) -> f64 {
    match mode {
        0 => value.round_ties_even(),
        1 => value.trunc(),
        2 => value.floor(),
        _ => value.ceil(),
    }
}

// The mathematics library's single-precision functions are within one unit in the last place, which is
// inside what the ISA allows the approximations. NaN is always the canonical one.

fn canonical(value: f32) -> f32 {
    if value.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else {
        value
    }
}

extern "C" fn ex2(value: f32) -> f32 {
    canonical(value.exp2())
}

extern "C" fn lg2(value: f32) -> f32 {
    canonical(value.log2())
}

extern "C" fn sin(value: f32) -> f32 {
    canonical(value.sin())
}

extern "C" fn cos(value: f32) -> f32 {
    canonical(value.cos())
}

extern "C" fn tanh(value: f32) -> f32 {
    canonical(value.tanh())
}

/// Atomically replaces a 32-bit word by a function of it; the old one.
///
/// # Safety
/// The address is that of a word that compiled code may write, aligned.
unsafe fn update_32(address: *mut u32, change: impl Fn(u32) -> u32) -> u32 {
    // SAFETY: the caller's promise; other blocks reach the word only atomically or race as on a GPU.
    let word = unsafe { AtomicU32::from_ptr(address) };
    word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |old| Some(change(old)))
        .unwrap_or_default()
}

/// Adds a single; with `flush`, subnormal operands and results are zero.
extern "C" fn add_f32(address: *mut u32, value: f32, flush: u32) -> f32 {
    let kept = |value: f32| {
        if flush != 0 && value.is_subnormal() {
            0_f32.copysign(value)
        } else {
            value
        }
    };
    let sum = |old: u32| kept(kept(f32::from_bits(old)) + kept(value)).to_bits();
    // SAFETY: compiled code has checked the address for an aligned write of four bytes.
    f32::from_bits(unsafe { update_32(address, sum) })
}

extern "C" fn add_f64(address: *mut u64, value: f64) -> f64 {
    // SAFETY: compiled code has checked the address for an aligned write of eight bytes.
    let word = unsafe { AtomicU64::from_ptr(address) };
    let change = |old| Some((f64::from_bits(old) + value).to_bits());
    f64::from_bits(
        word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, change)
            .unwrap_or_default(),
    )
}

extern "C" fn inc(address: *mut u32, limit: u32) -> u32 {
    // SAFETY: compiled code has checked the address for an aligned write of four bytes.
    unsafe { update_32(address, |old| if old >= limit { 0 } else { old + 1 }) }
}

extern "C" fn dec(address: *mut u32, limit: u32) -> u32 {
    // SAFETY: compiled code has checked the address for an aligned write of four bytes.
    unsafe {
        update_32(address, |old| {
            if old == 0 || old > limit {
                limit
            } else {
                old - 1
            }
        })
    }
}

/// `bfe` and `bfi`. Code: bit 0 the width is 64, bit 1 the type is signed, bit 2 insert.
extern "C" fn bit_field(code: u32, a: u64, b: u64, place: u32, length: u32) -> u64 {
    let width = if code & 1 == 1 { 64 } else { 32 };
    let (place, length) = (place & 0xff, length & 0xff);
    let low = |bits: u32| {
        if bits >= 64 {
            u64::MAX
        } else {
            (1 << bits) - 1
        }
    };
    let shifted = |value: u64, by: u32| value.checked_shr(by).unwrap_or(0);
    if code & 4 != 0 {
        let mask = low(length).checked_shl(place).unwrap_or(0) & low(width);
        return (b & !mask) | (a.checked_shl(place).unwrap_or(0) & mask);
    }
    if length == 0 {
        return 0;
    }
    let kept = length.min(width - place.min(width));
    let value = shifted(a & low(width), place) & low(kept);
    let top = (place + length - 1).min(width - 1);
    let negative = code & 2 != 0 && a >> top & 1 == 1;
    if negative {
        (value | !low(kept)) & low(width)
    } else {
        value
    }
}

/// `bmsk`: `length` ones from `place`.
extern "C" fn bit_mask(wrap: u32, place: u32, length: u32) -> u32 {
    let (place, length) = if wrap == 1 {
        (place & 31, length & 31)
    } else {
        (place.min(32), length.min(32))
    };
    let ones = if length >= 32 {
        u32::MAX
    } else {
        (1 << length) - 1
    };
    ones.checked_shl(place).unwrap_or(0)
}

/// `prmt`: bytes of `b:a` in an order; modes in the order that the compiler numbers them.
extern "C" fn permute(mode: u32, a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let s = (selector & 3) as usize;
    let pick: [usize; 4] = match mode {
        0 => {
            let mut value = 0;
            for index in 0..4 {
                let choice = selector >> (4 * index) & 15;
                let byte = bytes[(choice & 7) as usize];
                let byte = match choice & 8 {
                    0 => byte,
                    _ => (byte.cast_signed() >> 7).cast_unsigned(),
                };
                value |= u32::from(byte) << (8 * index);
            }
            return value;
        }
        1 => [s, s + 1, s + 2, s + 3],
        2 => [s, (s + 7) & 7, (s + 6) & 7, (s + 5) & 7],
        3 => [s; 4],
        4 => [s, 1.max(s), 2.max(s), 3],
        5 => [0, 1.min(s), 2.min(s), s],
        _ => [2 * (s & 1), 2 * (s & 1) + 1, 2 * (s & 1), 2 * (s & 1) + 1],
    };
    u32::from_le_bytes(pick.map(|index| bytes[index & 7]))
}

/// `dp4a` and `dp2a`. Code: bits 0 and 1 the operands are signed, bit 2 `dp2a`, bit 3 its high bytes.
extern "C" fn dot_product(code: u32, a: u32, b: u32, c: u32) -> u32 {
    let part = |value: u32, bits: u32, index: u32, signed: bool| {
        let shifted = value << (32 - bits - bits * index);
        let down = 32 - bits;
        if signed {
            i64::from(shifted.cast_signed() >> down)
        } else {
            i64::from(shifted >> down)
        }
    };
    let (a_signed, b_signed) = (code & 1 != 0, code & 2 != 0);
    let mut sum = 0_i64;
    if code & 4 == 0 {
        for index in 0..4 {
            sum += part(a, 8, index, a_signed) * part(b, 8, index, b_signed);
        }
    } else {
        let first = if code & 8 != 0 { 2 } else { 0 };
        for index in 0..2 {
            sum += part(a, 16, index, a_signed) * part(b, 8, first + index, b_signed);
        }
    }
    c.wrapping_add(sum as u32)
}

/// Whether bytes lie in one of the launch's host ranges.
pub(super) fn in_ranges(context: &BlockContext, address: u64, bytes: u64) -> bool {
    let count = (context.ranges_end as usize - context.ranges as usize) / size_of::<HostRange>();
    (0..count).any(|index| {
        // SAFETY: one of the ranges of the launch's memory view, whose maker keeps the list while it runs.
        let range = unsafe { *context.ranges.add(index) };
        let offset = address.wrapping_sub(range.base);
        range.len >= bytes && offset <= range.len - bytes
    })
}

/// Bytes from an address to the end of the host range that it lies in; 0 if it lies in none.
pub(super) fn left_in_ranges(context: &BlockContext, address: u64) -> u64 {
    let count = (context.ranges_end as usize - context.ranges as usize) / size_of::<HostRange>();
    let left = (0..count).map(|index| {
        // SAFETY: as in `in_ranges`.
        let range = unsafe { *context.ranges.add(index) };
        range.len.saturating_sub(address.wrapping_sub(range.base))
    });
    left.max().unwrap_or(0)
}

/// `szext`: the low `length` bits, extended. Mode: bit 0 the length wraps, bit 1 the sign counts.
extern "C" fn sign_extend(mode: u32, value: u32, length: u32) -> u32 {
    if mode & 1 == 0 && length >= 32 {
        return value;
    }
    let length = length & 31;
    if length == 0 {
        return 0;
    }
    let up = value << (32 - length);
    if mode & 2 != 0 {
        (up.cast_signed() >> (32 - length)).cast_unsigned()
    } else {
        up >> (32 - length)
    }
}

/// `fns`: where the n-th one lies, counted from `base` up or down; all ones where there is none.
extern "C" fn find_nth_set(mask: u32, base: u32, offset: u32) -> u32 {
    let offset = offset.cast_signed();
    let ones = |place: &u32| mask >> place & 1 == 1;
    // A place beyond the word is undefined; here there is nothing.
    let base = if base > 31 { return u32::MAX } else { base };
    let nth = offset.unsigned_abs().saturating_sub(1) as usize;
    let found = match offset {
        0 => Some(base).filter(ones),
        1.. => (base..32).filter(ones).nth(nth),
        _ => (0..=base).rev().filter(ones).nth(nth),
    };
    found.unwrap_or(u32::MAX)
}

extern "C" fn video_scalar(code: u32, a: u32, b: u32, c: u32) -> u32 {
    video::scalar(code, a, b, c)
}

extern "C" fn video_mad(code: u32, a: u32, b: u32, c: u32) -> u32 {
    video::mad(code, a, b, c)
}

extern "C" fn video_lanes(code: u32, selectors: u32, a: u32, b: u32, c: u32) -> u32 {
    video::lanes(code, selectors, a, b, c)
}

/// Whether a generic address that is not in device memory is good for an access: 0 or 1.
extern "C" fn check_generic(
    context: *const BlockContext,
    thread: *const u8,
    address: u64,
    bytes: u64,
) -> u32 {
    // SAFETY: compiled code passes the context it was given, which outlives its run.
    let context = unsafe { &*context };
    let within = |start: u64, size: u64| {
        let offset = address.wrapping_sub(start);
        size >= bytes && offset <= size - bytes
    };
    let good = address.is_multiple_of(bytes.max(1))
        && (in_ranges(context, address, bytes)
            || within(context.shared as u64, context.shared_bytes)
            || within(thread as u64, context.thread_bytes)
            || within(context.params as u64, context.param_bytes));
    u32::from(good)
}

extern "C" fn arrive(context: *mut BlockContext, thread: *const ThreadHeader, barrier: u32) -> u32 {
    // SAFETY: as in `check_generic`; the scheduler touches neither the context nor the thread's header
    // while code runs.
    let (context, index) = unsafe { (&mut *context, (*thread).index) };
    block::arrive(context, u32::from(index), barrier);
    0
}

/// Ticks of a 1 GHz clock: what `%clock64` counts here.
extern "C" fn clock(_: *const BlockContext) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// `nanosleep`: leaves the core to others where the block has one thread. Where it has more, one of them may
/// have something to do, and PTX lets a thread wake up at once.
extern "C" fn sleep(context: *const BlockContext, nanoseconds: u32) -> u32 {
    // SAFETY: as in `check_generic`.
    let threads = unsafe { (*context).ntid };
    if threads == [1, 1, 1] {
        std::thread::sleep(Duration::from_nanos(nanoseconds.min(LONGEST_SLEEP).into()));
    }
    0
}

/// Nanoseconds since 1970, by a clock that nobody sets back.
extern "C" fn time(_: *const BlockContext) -> u64 {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let (start, since_1970) = START.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |duration| duration.as_nanos() as u64);
        (Instant::now(), now)
    });
    since_1970 + start.elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permute_has_its_modes() {
        let (a, b) = (0x3322_1100, 0x7766_5544);
        assert_eq!(permute(0, a, b, 0x7531), 0x7755_3311);
        assert_eq!(permute(1, a, b, 1), 0x4433_2211);
        assert_eq!(permute(2, a, b, 1), 0x6677_0011);
        assert_eq!(permute(3, a, b, 2), 0x2222_2222);
        assert_eq!(permute(4, a, b, 2), 0x3322_2222);
        assert_eq!(permute(5, a, b, 1), 0x1111_1100);
        assert_eq!(permute(6, a, b, 1), 0x3322_3322);
        assert_eq!(permute(0, 0x80, 0, 0x8888), 0xffff_ffff);
    }
}
