//! `mbarrier` objects and asynchronous copies. A copy is done where it is asked for, so that whoever
//! waits for it waits for nothing; an mbarrier object is one word in shared memory, which belongs to
//! the host thread that runs the block, so that its operations are plain.

use super::context::BlockContext;
use super::reach;

/// Operations on an mbarrier object: their numbers in compiled code.
pub(crate) const INIT: u32 = 0;
pub(crate) const ARRIVE: u32 = 1;
pub(crate) const ARRIVE_DROP: u32 = 2;
pub(crate) const EXPECT: u32 = 3;
pub(crate) const COMPLETE: u32 = 4;

/// An object's word: pending arrivals in bits 0 to 19, expected arrivals in bits 20 to 39, the
/// transaction count in bits 40 to 60 (signed), the phase in bit 63.
const COUNT: u64 = (1 << 20) - 1;
const TRANSACTIONS: u64 = (1 << 21) - 1;

/// The object after an operation.
fn after(word: u64, operation: u32, operand: u64) -> u64 {
    let (mut pending, mut expected) = (word & COUNT, word >> 20 & COUNT);
    // Signed, 21 bits wide.
    let mut transactions = (word << 3).cast_signed() >> 43;
    let mut phase = word >> 63;
    let operand = operand & 0xffff_ffff;
    match operation {
        INIT => {
            (pending, expected) = (operand & COUNT, operand & COUNT);
            (transactions, phase) = (0, 0);
        }
        ARRIVE | ARRIVE_DROP => {
            pending = pending.saturating_sub(operand);
            if operation == ARRIVE_DROP {
                expected = expected.saturating_sub(operand);
            }
        }
        EXPECT => transactions = transactions.wrapping_add(operand.cast_signed()),
        _ => transactions = transactions.wrapping_sub(operand.cast_signed()),
    }
    // What expects no arrival completes with the others.
    if operation != INIT && operation != EXPECT && pending == 0 && transactions == 0 {
        phase ^= 1;
        pending = expected;
    }
    pending | expected << 20 | (transactions.cast_unsigned() & TRANSACTIONS) << 40 | phase << 63
}

/// Changes an mbarrier object; its word before, which is what PTX calls the state.
pub(super) extern "C" fn mbarrier(address: *mut u64, operation: u32, operand: u64) -> u64 {
    // SAFETY: compiled code has checked the address for an aligned write of eight bytes.
    let old = unsafe { address.read() };
    // SAFETY: as above.
    unsafe { address.write(after(old, operation, operand)) };
    old
}

/// `cp.async` of a number of bytes known when it runs: `sizes` has the bytes to fill in its low half, and
/// in the high half how many of them come from the source; the rest is zero. Whether the source may be
/// read.
pub(super) extern "C" fn copy_async(
    context: *const BlockContext,
    thread: *const u8,
    to: *mut u8,
    from: u64,
    sizes: u64,
) -> u32 {
    // SAFETY: compiled code passes the context it was given.
    let context = unsafe { &*context };
    let (fill, read) = (sizes & 0xffff_ffff, (sizes >> 32).min(sizes & 0xffff_ffff));
    if read > 0
        && !(from.is_multiple_of(fill.max(1)) && reach::generic(context, thread, from, read))
    {
        return 0;
    }
    // SAFETY: compiled code has checked the destination for all the bytes, and this the source for those
    // that are read; both may overlap.
    unsafe {
        std::ptr::copy(from as *const u8, to, read as usize);
        std::ptr::write_bytes(to.add(read as usize), 0, (fill - read) as usize);
    }
    1
}

/// `cp.async.bulk`, with generic addresses; whether the thread may use both ends.
pub(super) extern "C" fn copy_bulk(
    context: *const BlockContext,
    thread: *const u8,
    to: u64,
    from: u64,
    bytes: u64,
) -> u32 {
    // SAFETY: compiled code passes the context it was given.
    let context = unsafe { &*context };
    let good = [to, from, bytes]
        .iter()
        .all(|value| value.is_multiple_of(16))
        && reach::generic(context, thread, to, bytes)
        && reach::generic(context, thread, from, bytes);
    if good {
        // SAFETY: just checked; both may overlap.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes as usize) };
    }
    u32::from(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_ends_when_all_have_arrived_and_all_bytes_are_there() {
        let phase = |word: u64| word >> 63;
        let mut word = after(u64::MAX, INIT, 3);
        word = after(word, ARRIVE, 2);
        word = after(word, EXPECT, 64);
        word = after(word, ARRIVE, 1);
        assert_eq!((phase(word), word & COUNT), (0, 0));
        word = after(word, COMPLETE, 48);
        assert_eq!(phase(word), 0);
        word = after(word, COMPLETE, 16);
        assert_eq!((phase(word), word & COUNT), (1, 3));
        // Bytes may come before they are expected.
        word = after(word, COMPLETE, 8);
        word = after(word, ARRIVE_DROP, 1);
        word = after(word, ARRIVE, 2);
        assert_eq!(phase(word), 1);
        word = after(word, EXPECT, 8);
        word = after(word, COMPLETE, 0);
        assert_eq!((phase(word), word & COUNT), (0, 2));
    }
}
