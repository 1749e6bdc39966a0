//! The functions that compilers call without defining them: `vprintf`, `__assertfail`, `malloc`, `free`,
//! `memcpy`, `memset`; and what a launch shares with the host for them. Their arguments come from kernels:
//! nothing is read or written before it was found in memory that the thread may touch.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::GRANULE;
use super::context::{BlockContext, DONE, FAULT, RawFault, ThreadHeader};
use crate::compile::FUNCTION_HEADER;
use crate::ptx::ast::Prototype;

/// Bytes that one string of a kernel may have; what follows is cut off.
const MAX_STRING: usize = 1 << 16;
/// Bytes that one call of `vprintf` may print.
const MAX_TEXT: usize = 1 << 16;
/// Width and precision that a conversion may ask for; more is lowered to it.
const MAX_WIDTH: u32 = 4096;
/// Bytes that `printf` may hold back unless said otherwise: CUDA's default.
const OUTPUT_BYTES: usize = 1 << 20;

/// What the launches of a context share with the host.
#[derive(Debug)]
pub struct Runtime {
    output: Mutex<Output>,
    output_bytes: AtomicUsize,
    stack_bytes: AtomicUsize,
    heap: OnceLock<Heap>,
    timeout: Option<Duration>,
}

/// What kernels printed and the host did not take yet.
#[derive(Debug, Default)]
struct Output {
    texts: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Default for Runtime {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Runtime {
    /// Without a heap, and with CUDA's initial size for what kernels print. Launches that take longer
    /// than `timeout` end with [`super::Fault::Timeout`]; see [`super::Options::timed`] for when.
    pub fn new(timeout: Option<Duration>) -> Self {
        Self {
            output: Mutex::default(),
            output_bytes: AtomicUsize::new(OUTPUT_BYTES),
            stack_bytes: AtomicUsize::new(0),
            heap: OnceLock::new(),
            timeout,
        }
    }

    /// How long a launch may take.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Sets how many bytes of stack a thread of a module with recursion or indirect calls has at least,
    /// beside its kernel's own.
    pub fn set_stack_bytes(&self, bytes: usize) {
        self.stack_bytes.store(bytes, Ordering::Relaxed);
    }

    /// See [`Runtime::set_stack_bytes`].
    pub(super) fn stack_bytes(&self) -> usize {
        self.stack_bytes.load(Ordering::Relaxed)
    }

    /// Sets how many bytes kernels may print before the host takes them: what comes first goes first.
    pub fn set_output_bytes(&self, bytes: usize) {
        self.output_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Takes what kernels printed since the last time.
    pub fn take_output(&self) -> Vec<u8> {
        let mut output = lock(&self.output);
        output.bytes = 0;
        output.texts.drain(..).flatten().collect()
    }

    /// Gives kernels a heap, if there is none yet.
    pub fn set_heap(&self, heap: Heap) {
        // A heap that is there may hold live chunks: it stays.
        let _ = self.heap.set(heap);
    }

    /// Whether kernels have a heap.
    pub fn has_heap(&self) -> bool {
        self.heap.get().is_some()
    }

    fn print(&self, text: Vec<u8>) {
        let limit = self.output_bytes.load(Ordering::Relaxed);
        if text.is_empty() || text.len() > limit {
            return;
        }
        let mut output = lock(&self.output);
        output.bytes += text.len();
        output.texts.push_back(text);
        while output.bytes > limit {
            let Some(oldest) = output.texts.pop_front() else {
                break;
            };
            output.bytes -= oldest.len();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Device memory that kernels allocate from. Chunks start at multiples of [`GRANULE`]; what is not in
/// one, kernels cannot touch.
#[derive(Debug)]
pub struct Heap {
    start: u64,
    bytes: u64,
    valid: *mut u8,
    state: Mutex<HeapState>,
}

#[derive(Debug)]
struct HeapState {
    /// First address and bytes of each hole.
    holes: BTreeMap<u64, u64>,
    /// The same as (bytes, first address).
    by_size: BTreeSet<(u64, u64)>,
    /// Bytes of each chunk, by its address.
    chunks: HashMap<u64, u64>,
}

// SAFETY: the table's entries are written as atomics, and only for memory that is the heap's.
unsafe impl Send for Heap {}
// SAFETY: as for Send.
unsafe impl Sync for Heap {}

impl Heap {
    /// A heap in `bytes` of device memory from `start`, multiples of [`GRANULE`]. `valid` points to the
    /// entry of `start` in the table of the [`super::MemoryView`] that launches get.
    ///
    /// # Safety
    /// The memory is mapped and the table's entries for it can be written while the heap is there;
    /// nothing else writes them, and nothing but kernels uses the memory.
    pub unsafe fn new(start: u64, bytes: u64, valid: *mut u8) -> Self {
        let heap = Self {
            start,
            bytes,
            valid,
            state: Mutex::new(HeapState {
                holes: BTreeMap::from([(start, bytes)]),
                by_size: BTreeSet::from([(bytes, start)]),
                chunks: HashMap::new(),
            }),
        };
        heap.mark(start, bytes, false);
        heap
    }

    /// Writes the table for bytes of the heap.
    fn mark(&self, start: u64, bytes: u64, valid: bool) {
        let first = (start - self.start) / GRANULE;
        for granule in 0..bytes.div_ceil(GRANULE) {
            let count = (bytes - granule * GRANULE).min(GRANULE) as u8;
            // SAFETY: an entry of the heap's, as `new` says; other threads access it as bytes too.
            let entry = unsafe { AtomicU8::from_ptr(self.valid.add((first + granule) as usize)) };
            entry.store(if valid { count } else { 0 }, Ordering::Relaxed);
        }
    }

    /// The address of a new chunk; 0 if there is no room.
    fn allocate(&self, bytes: u64) -> u64 {
        if bytes == 0 || bytes > self.bytes {
            return 0;
        }
        let taken = bytes.next_multiple_of(GRANULE);
        let mut state = lock(&self.state);
        let Some(&(size, start)) = state.by_size.range((taken, 0)..).next() else {
            return 0;
        };
        state.by_size.remove(&(size, start));
        state.holes.remove(&start);
        if size > taken {
            state.holes.insert(start + taken, size - taken);
            state.by_size.insert((size - taken, start + taken));
        }
        state.chunks.insert(start, bytes);
        self.mark(start, bytes, true);
        start
    }

    /// Whether a chunk started there; now it is free.
    fn free(&self, start: u64) -> bool {
        let mut state = lock(&self.state);
        let Some(bytes) = state.chunks.remove(&start) else {
            return false;
        };
        self.mark(start, bytes, false);
        let (mut start, mut size) = (start, bytes.next_multiple_of(GRANULE));
        let before = state.holes.range(..start).next_back();
        if let Some((&hole, &bytes)) = before
            && hole + bytes == start
        {
            state.holes.remove(&hole);
            state.by_size.remove(&(bytes, hole));
            (start, size) = (hole, size + bytes);
        }
        if let Some(bytes) = state.holes.remove(&(start + size)) {
            state.by_size.remove(&(bytes, start + size));
            size += bytes;
        }
        state.holes.insert(start, size);
        state.by_size.insert((size, start));
        true
    }
}

/// What a running launch offers to the functions below.
#[derive(Debug)]
pub(crate) struct Services<'l> {
    pub runtime: Option<&'l Runtime>,
}

/// A function of the device runtime as compiled code calls it: with the block's context, the thread's
/// frame and its own, as any device function.
type Native = unsafe extern "C" fn(*mut BlockContext, *mut u8, *mut u8) -> u32;

/// One function that needs no definition.
struct Entry {
    name: &'static str,
    code: Native,
    /// Bytes of its result, 0 for none.
    result: u32,
    /// Bytes of each parameter.
    params: &'static [u32],
}

static ENTRIES: [Entry; 6] = [
    Entry {
        name: "vprintf",
        code: vprintf,
        result: 4,
        params: &[8, 8],
    },
    Entry {
        name: "__assertfail",
        code: assert_fail,
        result: 0,
        params: &[8, 8, 4, 8, 8],
    },
    Entry {
        name: "malloc",
        code: malloc,
        result: 8,
        params: &[8],
    },
    Entry {
        name: "free",
        code: free,
        result: 0,
        params: &[8],
    },
    Entry {
        name: "memcpy",
        code: memcpy,
        result: 8,
        params: &[8, 8, 8],
    },
    Entry {
        name: "memset",
        code: memset,
        result: 8,
        params: &[8, 4, 8],
    },
];

/// Whether softcuda has this function when a module only declares it.
pub(crate) fn is_native(name: &str) -> bool {
    ENTRIES.iter().any(|entry| entry.name == name)
}

/// The entry of a function that a module declares with this prototype.
pub(crate) fn native(name: &str, prototype: &Prototype) -> Option<*const c_void> {
    let entry = ENTRIES.iter().find(|entry| entry.name == name)?;
    let natural = |slots: &[crate::ptx::ast::Slot], sizes: &[u32]| {
        slots.len() == sizes.len()
            && slots
                .iter()
                .zip(sizes)
                .all(|(slot, &bytes)| slot.bytes == bytes && slot.align == bytes)
    };
    let result = [entry.result];
    let results = if entry.result == 0 { &[][..] } else { &result };
    let fits = natural(&prototype.returns, results) && natural(&prototype.params, entry.params);
    fits.then_some(entry.code as *const c_void)
}

/// Offsets in a frame: of the result and of up to five parameters, each naturally aligned.
const fn places(result: u32, params: &[u32]) -> (usize, [usize; 5]) {
    let mut end = FUNCTION_HEADER;
    let mut at = [0; 5];
    let to = end.next_multiple_of(if result == 0 { 1 } else { result });
    end = to + result;
    let mut index = 0;
    while index < params.len() {
        end = end.next_multiple_of(params[index]);
        at[index] = end as usize;
        end += params[index];
        index += 1;
    }
    (to as usize, at)
}

/// One call.
struct Call<'c> {
    context: &'c mut BlockContext,
    thread: *mut u8,
    frame: *mut u8,
}

/// Why a function did not return: the thread touched what it may not, or there is no such chunk.
struct Bad {
    address: u64,
    bytes: u32,
}

impl Call<'_> {
    fn argument(&self, at: usize) -> u64 {
        // SAFETY: the caller reserved the frame's call area, and wrote the arguments to it.
        unsafe { self.frame.add(at).cast::<u64>().read() }
    }

    fn short_argument(&self, at: usize) -> u32 {
        // SAFETY: as above.
        unsafe { self.frame.add(at).cast::<u32>().read() }
    }

    fn services(&self) -> &Services<'static> {
        // SAFETY: the launch that made the context keeps them until its last block has ended.
        unsafe { &*self.context.services }
    }

    /// How many bytes from an address on the thread may touch, as far as one look tells: 0 for none.
    fn reach(&self, address: u64) -> usize {
        let context = &*self.context;
        let offset = address.wrapping_sub(context.memory_base);
        if offset < context.memory_len {
            let (granule, within) = (offset / GRANULE, offset % GRANULE);
            // SAFETY: the table has an entry per granule of the range; it may change meanwhile.
            let valid = unsafe {
                AtomicU8::from_ptr(context.memory_valid.cast_mut().add(granule as usize))
            };
            let valid = u64::from(valid.load(Ordering::Relaxed));
            return valid.saturating_sub(within) as usize;
        }
        let windows = [
            (context.shared as u64, context.shared_bytes),
            (self.thread as u64, context.thread_bytes),
        ];
        windows
            .iter()
            .map(|&(start, bytes)| bytes.saturating_sub(address.wrapping_sub(start)) as usize)
            .chain([super::helpers::left_in_ranges(context, address) as usize])
            .find(|&bytes| bytes > 0)
            .unwrap_or(0)
    }

    /// Whether all of the bytes can be touched.
    fn check(&self, address: u64, bytes: u64) -> Result<(), Bad> {
        let mut done = 0;
        while done < bytes {
            let at = address.wrapping_add(done);
            let step = self.reach(at) as u64;
            if step == 0 {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                return Err(Bad {
                    address: at,
                    bytes: bytes.max(1),
                });
            }
            done += step;
        }
        Ok(())
    }

    /// The bytes before the first NUL, as far as they are looked at.
    fn string(&self, address: u64) -> Result<Vec<u8>, Bad> {
        let mut text = Vec::new();
        while text.len() < MAX_STRING {
            let at = address.wrapping_add(text.len() as u64);
            let step = self.reach(at);
            if step == 0 {
                return Err(Bad {
                    address: at,
                    bytes: 1,
                });
            }
            for index in 0..step {
                // SAFETY: within reach. Other threads may write it meanwhile, hence volatile.
                let byte = unsafe { (at as *const u8).add(index).read_volatile() };
                if byte == 0 {
                    return Ok(text);
                }
                text.push(byte);
            }
        }
        Ok(text)
    }

    fn number<const N: usize>(&self, address: u64) -> Result<[u8; N], Bad> {
        self.check(address, N as u64)?;
        let mut bytes = [0; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: within reach, as just checked; volatile as above.
            *byte = unsafe { (address as *const u8).add(index).read_volatile() };
        }
        Ok(bytes)
    }
}

/// Carries out a call; what cannot be done becomes the launch's fault.
///
/// # Safety
/// The arguments are what compiled code passes to device functions.
unsafe fn carry_out(
    context: *mut BlockContext,
    thread: *mut u8,
    frame: *mut u8,
    body: impl FnOnce(&mut Call<'_>) -> Result<(), Bad>,
) -> u32 {
    // SAFETY: the scheduler does not touch the context while code runs.
    let context = unsafe { &mut *context };
    let mut call = Call {
        context,
        thread,
        frame,
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&mut call)));
    // SAFETY: the caller wrote the number of its site behind the state of this frame.
    let site = unsafe { frame.add(4).cast::<u32>().read() };
    let (address, bytes) = match outcome {
        Ok(Ok(())) => return DONE,
        Ok(Err(bad)) => (bad.address, bad.bytes),
        // A mistake of ours: the site's kind says that a call failed.
        Err(_) => (0, 0),
    };
    call.context.fault = RawFault {
        address,
        thread,
        site,
        bytes,
    };
    FAULT
}

unsafe extern "C" fn malloc(context: *mut BlockContext, thread: *mut u8, frame: *mut u8) -> u32 {
    const AT: (usize, [usize; 5]) = places(8, &[8]);
    // SAFETY: the caller's contract is the same.
    unsafe {
        carry_out(context, thread, frame, |call| {
            let bytes = call.argument(AT.1[0]);
            let heap = call
                .services()
                .runtime
                .and_then(|runtime| runtime.heap.get());
            let chunk = heap.map_or(0, |heap| heap.allocate(bytes));
            frame.add(AT.0).cast::<u64>().write(chunk);
            Ok(())
        })
    }
}

unsafe extern "C" fn free(context: *mut BlockContext, thread: *mut u8, frame: *mut u8) -> u32 {
    const AT: (usize, [usize; 5]) = places(0, &[8]);
    // SAFETY: the caller's contract is the same.
    unsafe {
        carry_out(context, thread, frame, |call| {
            let address = call.argument(AT.1[0]);
            let heap = call
                .services()
                .runtime
                .and_then(|runtime| runtime.heap.get());
            if address == 0 || heap.is_some_and(|heap| heap.free(address)) {
                Ok(())
            } else {
                Err(Bad { address, bytes: 1 })
            }
        })
    }
}

unsafe extern "C" fn memcpy(context: *mut BlockContext, thread: *mut u8, frame: *mut u8) -> u32 {
    const AT: (usize, [usize; 5]) = places(8, &[8, 8, 8]);
    // SAFETY: the caller's contract is the same.
    unsafe {
        carry_out(context, thread, frame, |call| {
            let [to, from, bytes] = [0, 1, 2].map(|index| call.argument(AT.1[index]));
            call.check(to, bytes)?;
            call.check(from, bytes)?;
            // Both were checked; they may overlap, whatever C says.
            std::ptr::copy(from as *const u8, to as *mut u8, bytes as usize);
            frame.add(AT.0).cast::<u64>().write(to);
            Ok(())
        })
    }
}

unsafe extern "C" fn memset(context: *mut BlockContext, thread: *mut u8, frame: *mut u8) -> u32 {
    const AT: (usize, [usize; 5]) = places(8, &[8, 4, 8]);
    // SAFETY: the caller's contract is the same.
    unsafe {
        carry_out(context, thread, frame, |call| {
            let (to, bytes) = (call.argument(AT.1[0]), call.argument(AT.1[2]));
            let value = call.short_argument(AT.1[1]) as u8;
            call.check(to, bytes)?;
            // Checked; the value is any byte.
            (to as *mut u8).write_bytes(value, bytes as usize);
            frame.add(AT.0).cast::<u64>().write(to);
            Ok(())
        })
    }
}

unsafe extern "C" fn assert_fail(
    context: *mut BlockContext,
    thread: *mut u8,
    frame: *mut u8,
) -> u32 {
    const AT: (usize, [usize; 5]) = places(0, &[8, 8, 4, 8, 8]);
    // SAFETY: the caller's contract is the same.
    unsafe {
        carry_out(context, thread, frame, |call| {
            let text = |at: usize| -> Result<String, Bad> {
                let text = call.string(call.argument(AT.1[at]))?;
                Ok(String::from_utf8_lossy(&text).into_owned())
            };
            let (message, file, function) = (text(0)?, text(1)?, text(3)?);
            let line = call.short_argument(AT.1[2]);
            // The frame begins with the header, which only the scheduler writes.
            let [x, y, z] = (*call.thread.cast::<ThreadHeader>()).tid;
            let [bx, by, bz] = call.context.ctaid;
            call.context.assertion = Some(format!(
                "{file}:{line}: {function}: block: [{bx},{by},{bz}], thread: [{x},{y},{z}] Assertion `{message}` failed."
            ));
            Err(Bad {
                address: 0,
                bytes: 0,
            })
        })
    }
}

unsafe extern "C" fn vprintf(context: *mut BlockContext, thread: *mut u8, frame: *mut u8) -> u32 {
    const AT: (usize, [usize; 5]) = places(4, &[8, 8]);
    // SAFETY: the caller's contract is the same.
    unsafe {
        carry_out(context, thread, frame, |call| {
            let (format, list) = (call.argument(AT.1[0]), call.argument(AT.1[1]));
            let count = if format == 0 {
                // What CUDA's printf returns without a format.
                -1
            } else {
                let format = call.string(format)?;
                let (text, count) = formatted(call, &format, list)?;
                if let Some(runtime) = call.services().runtime {
                    runtime.print(text);
                }
                count
            };
            frame.add(AT.0).cast::<i32>().write(count);
            Ok(())
        })
    }
}

/// One conversion of a format, or why it is none.
struct Conversion {
    /// As C's printf wants it, but for the length.
    flags: String,
    width: Option<u32>,
    precision: Option<u32>,
    /// The argument has 8 bytes.
    long: bool,
    /// `h` or `hh`: bits of the argument that count.
    short: Option<u32>,
    kind: u8,
}

/// What `printf` prints for a format and a list of arguments, each naturally aligned in memory; and how
/// many arguments it took.
fn formatted(call: &Call<'_>, format: &[u8], list: u64) -> Result<(Vec<u8>, i32), Bad> {
    let (mut text, mut next, mut count) = (Vec::new(), list, 0);
    let mut rest = format;
    while let Some((&byte, after)) = rest.split_first() {
        if text.len() > MAX_TEXT {
            text.truncate(MAX_TEXT);
            break;
        }
        rest = after;
        if byte != b'%' {
            text.push(byte);
            continue;
        }
        let Some((conversion, after)) = conversion(rest) else {
            // No conversion: printed as it stands, as C libraries do.
            text.push(b'%');
            continue;
        };
        rest = after;
        if conversion.kind == b'%' {
            text.push(b'%');
            continue;
        }
        count += 1;
        let wide = conversion.long || b"spaAeEfFgG".contains(&conversion.kind);
        let value = if wide {
            next = next.wrapping_add(7) & !7;
            let value = u64::from_le_bytes(call.number(next)?);
            next = next.wrapping_add(8);
            value
        } else {
            next = next.wrapping_add(3) & !3;
            let value = u32::from_le_bytes(call.number(next)?);
            next = next.wrapping_add(4);
            u64::from(value)
        };
        convert(call, &conversion, value, &mut text)?;
    }
    Ok((text, count))
}

/// The conversion behind a `%`, and what follows it.
fn conversion(text: &[u8]) -> Option<(Conversion, &[u8])> {
    let mut rest = text;
    let mut flags = String::new();
    while let Some((&byte, after)) = rest.split_first()
        && b"#0- +".contains(&byte)
    {
        if !flags.contains(char::from(byte)) {
            flags.push(char::from(byte));
        }
        rest = after;
    }
    let number = |rest: &mut &[u8]| {
        let mut value = None;
        while let Some((&byte, after)) = rest.split_first()
            && byte.is_ascii_digit()
        {
            let digit = u32::from(byte - b'0');
            let grown = value
                .unwrap_or(0_u32)
                .saturating_mul(10)
                .saturating_add(digit);
            value = Some(grown.min(MAX_WIDTH));
            *rest = after;
        }
        value
    };
    let width = number(&mut rest);
    let mut precision = None;
    if let Some((b'.', after)) = rest.split_first() {
        rest = after;
        precision = Some(number(&mut rest).unwrap_or(0));
    }
    let (mut long, mut short) = (false, None);
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            // `long` has 8 bytes on the device, as on the hosts that this runs on.
            b'l' | b'j' | b'z' | b't' => long = true,
            b'h' => short = Some(if short.is_some() { 8 } else { 16 }),
            _ => break,
        }
        rest = after;
    }
    let (&kind, after) = rest.split_first()?;
    if !b"%cdiouxXpeEfFgGaAs".contains(&kind) {
        return None;
    }
    let conversion = Conversion {
        flags,
        width,
        precision,
        long,
        short,
        kind,
    };
    Some((conversion, after))
}

/// Appends a value as a conversion prints it.
fn convert(
    call: &Call<'_>,
    conversion: &Conversion,
    value: u64,
    text: &mut Vec<u8>,
) -> Result<(), Bad> {
    let mut format = format!("%{}", conversion.flags);
    if let Some(width) = conversion.width {
        format.push_str(&width.to_string());
    }
    if let Some(precision) = conversion.precision.filter(|_| conversion.kind != b'c') {
        format.push_str(&format!(".{precision}"));
    }
    // More than any conversion prints: the longest f64 has 309 digits before its point.
    let mut room = [0_u8; 2 * MAX_WIDTH as usize + 512];
    let kind = char::from(conversion.kind);
    let (to, size) = (room.as_mut_ptr().cast(), room.len());
    // SAFETY (of each call): the format has one conversion, whose argument is of the type that it
    // wants; the buffer is as long as said.
    let written = match conversion.kind {
        b's' => {
            let mut string = if value == 0 {
                b"(null)".to_vec()
            } else {
                call.string(value)?
            };
            if let Some(precision) = conversion.precision {
                string.truncate(precision as usize);
            }
            let pad = (conversion.width.unwrap_or(0) as usize).saturating_sub(string.len());
            if conversion.flags.contains('-') {
                text.extend(string);
                text.resize(text.len() + pad, b' ');
            } else {
                text.resize(text.len() + pad, b' ');
                text.extend(string);
            }
            return Ok(());
        }
        b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => {
            format.push(kind);
            format.push('\0');
            let value = f64::from_bits(value);
            // SAFETY: as above.
            unsafe { libc::snprintf(to, size, format.as_ptr().cast(), value) }
        }
        b'p' => {
            format.push_str("p\0");
            // SAFETY: as above; the pointer is only printed.
            unsafe { libc::snprintf(to, size, format.as_ptr().cast(), value as *const c_void) }
        }
        b'c' => {
            format.push_str("c\0");
            let value = i32::from(value as u8);
            // SAFETY: as above.
            unsafe { libc::snprintf(to, size, format.as_ptr().cast(), value) }
        }
        _ => {
            // All integers are printed from 64 bits, extended as their conversion has them.
            let bits = conversion
                .short
                .unwrap_or(if conversion.long { 64 } else { 32 });
            let shift = 64 - bits;
            let value = match conversion.kind {
                b'd' | b'i' => (value << shift).cast_signed() >> shift,
                _ => (value << shift >> shift).cast_signed(),
            };
            format.push_str("ll");
            format.push(kind);
            format.push('\0');
            // SAFETY: as above.
            unsafe { libc::snprintf(to, size, format.as_ptr().cast(), value) }
        }
    };
    let written = usize::try_from(written).unwrap_or(0).min(room.len() - 1);
    text.extend_from_slice(&room[..written]);
    Ok(())
}
