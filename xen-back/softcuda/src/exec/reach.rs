//! What addresses a thread may use, for helpers that reach memory themselves: the same answers that
//! compiled code finds in line. A wrong yes here would let a kernel into the process's own memory.

use super::GRANULE;
use super::context::BlockContext;
use super::helpers::in_ranges;

/// Whether all the bytes are in allocations of the launch's device memory or in one of its host ranges.
pub(super) fn global(context: &BlockContext, address: u64, bytes: u64) -> bool {
    if bytes == 0 {
        return true;
    }
    let offset = address.wrapping_sub(context.memory_base);
    if offset >= context.memory_len || bytes > context.memory_len - offset {
        return in_ranges(context, address, bytes);
    }
    let end = offset + bytes;
    (offset / GRANULE..end.div_ceil(GRANULE)).all(|granule| {
        let needed = (end - granule * GRANULE).min(GRANULE);
        // SAFETY: the granule is within the view, whose table has an entry for each.
        let valid = unsafe { *context.memory_valid.add(granule as usize) };
        u64::from(valid) >= needed
    })
}

/// Whether all the bytes are in memory that the thread may use by generic addresses.
pub(super) fn generic(context: &BlockContext, thread: *const u8, address: u64, bytes: u64) -> bool {
    let within = |start: u64, size: u64| {
        let offset = address.wrapping_sub(start);
        size >= bytes && offset <= size - bytes
    };
    within(context.shared as u64, context.shared_bytes)
        || within(thread as u64, context.thread_bytes)
        || global(context, address, bytes)
}
