//! Device memory and host memory that kernels can reach: one reserved address range in which device
//! and host addresses are the same, an arena per device, one for host and managed allocations, one for
//! addresses that programs map themselves (`mapping`). Allocations start
//! at multiples of 256 bytes with at least as many unallocated bytes behind them; per device, a table
//! of valid bytes tells kernels what they may touch. An address that comes from outside must never be
//! used before [`Memory::find`] has vouched for it.

mod advice;
mod mapping;

pub use advice::{Advice, Location};
pub use mapping::{GRANULARITY, Physical};

use crate::exec::{GRANULE, Heap, HostRange, MemoryView};
use advice::Advices;
use cuda_abi::CuResult;
use mapping::Mapping;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Allocations start at multiples of this many bytes.
const ALIGN: u64 = 256;
/// The largest alignment that can be asked for.
const MAX_ALIGN: u64 = 1 << 20;
/// An arena has this many times the addresses that it can have bytes: guards and holes cost none of
/// the device's memory, as on a GPU, whose page tables leave no holes.
const SPREAD: u64 = 4;
/// Addresses become usable in steps of this many bytes.
const COMMIT_STEP: u64 = 1 << 21;
/// Blocks of at least this many bytes give their pages back to the system when freed.
const GIVE_BACK: u64 = 1 << 20;

/// Which arena an allocation lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Memory of the device with this index.
    Device(usize),
    /// Managed memory, which every device and the host reach.
    Managed,
    /// Page-locked host memory, which every device reaches.
    Host,
}

/// Who asked for memory and how; what the driver answers about it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Handle of the context.
    pub context: u64,
    /// Flags of the call that allocated it.
    pub flags: u32,
    /// What may free it.
    pub purpose: Purpose,
}

/// What an allocation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Memory that the program asked for and frees itself.
    Program,
    /// A module's variable, freed with the module.
    Variable,
    /// Physical memory at addresses that the program reserved.
    Mapping,
    /// A graph's, freed with the graph and its executable forms.
    Graph,
}

/// A live allocation, or a range of the program's own memory that it registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Its first address.
    pub start: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Where it lies.
    pub home: Home,
    /// Whose it is.
    pub owner: Owner,
    /// Unique in the process's life.
    pub id: u64,
    /// Whether this is the program's own memory, registered.
    pub registered: bool,
    /// Whether the host and kernels may write it: registered memory may be read-only.
    pub writable: bool,
    /// What the program was told of it: that copies are synchronous.
    pub sync_memops: bool,
    /// Freed in stream order: the program must not use it any more, work under way may.
    ending: bool,
}

impl Allocation {
    /// Whether the bytes lie in it.
    fn holds(&self, address: u64, bytes: u64) -> bool {
        address
            .checked_sub(self.start)
            .and_then(|offset| offset.checked_add(bytes))
            .is_some_and(|end| end <= self.bytes)
    }
}

/// All memory of the process's devices.
pub struct Memory {
    base: u64,
    len: u64,
    /// Per device, one byte per granule of the range: how many of its first bytes are valid.
    valid: Vec<u64>,
    state: Mutex<State>,
}

struct State {
    /// One per device, then the host's, then that of addresses to map at.
    arenas: Vec<Arena>,
    /// By first address, in all arenas.
    live: BTreeMap<u64, Allocation>,
    /// By first address; never overlapping.
    registered: BTreeMap<u64, Allocation>,
    /// What kernels reach of them.
    host_ranges: Arc<[HostRange]>,
    /// First addresses and bytes of what programs reserved.
    reserved: BTreeMap<u64, u64>,
    /// By first address, within what is reserved; never overlapping.
    mappings: BTreeMap<u64, Mapping>,
    /// What programs said of managed memory.
    advices: Advices,
    /// Contexts with their device that reach the memory of another context's device.
    peers: BTreeSet<Peer>,
    next_id: u64,
}

/// A context that was given access to a peer's device, and that peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Handle and device of the context whose kernels reach more.
    pub from: (u64, usize),
    /// Handle and device of the context whose device's memory they reach.
    pub to: (u64, usize),
}

/// Memory of a device that lies in no arena; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    bytes: u64,
    counter: Arc<AtomicU64>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Free addresses of one part of the range.
struct Arena {
    start: u64,
    /// Bytes that allocations may take together.
    limit: u64,
    used: u64,
    /// Bytes of the limit that lie elsewhere.
    elsewhere: Arc<AtomicU64>,
    /// Up to here the addresses are usable.
    committed: u64,
    /// First address and bytes of each hole; no two touch.
    holes: BTreeMap<u64, u64>,
    /// The same holes as (bytes, first address).
    by_size: BTreeSet<(u64, u64)>,
}

impl Memory {
    /// Reserves addresses for `devices` devices of `device_bytes` each and `host_bytes` of host memory.
    /// It costs no memory before something is allocated.
    ///
    /// # Errors
    /// CUDA_ERROR_OUT_OF_MEMORY if the process may not have that many addresses.
    pub fn reserve(devices: usize, device_bytes: u64, host_bytes: u64) -> Result<Memory, CuResult> {
        // Addresses to map at cost nothing: as many as the devices' and the host's memory.
        let all = device_bytes.checked_mul(devices as u64);
        let all = all.and_then(|bytes| bytes.checked_add(host_bytes));
        let all = all.ok_or(CuResult::OUT_OF_MEMORY)?;
        let limits = std::iter::repeat_n(device_bytes, devices).chain([host_bytes, all]);
        let sizes: Vec<(u64, u64)> = limits
            .map(|limit| {
                let addresses = limit
                    .checked_mul(SPREAD)?
                    .checked_next_multiple_of(COMMIT_STEP)?;
                Some((limit, addresses))
            })
            .collect::<Option<_>>()
            .ok_or(CuResult::OUT_OF_MEMORY)?;
        let len: u64 = sizes.iter().map(|(_, addresses)| addresses).sum();
        let mapped = map(len + COMMIT_STEP, libc::PROT_NONE)?;
        let base = mapped.next_multiple_of(COMMIT_STEP);
        // A child of fork has no device, so it need not have its memory; host memory it may still read.
        let device_addresses: u64 = sizes[..devices].iter().map(|(_, bytes)| bytes).sum();
        // SAFETY: the range was mapped above; neither advice changes what it holds in this process.
        unsafe {
            libc::madvise(base as _, len as usize, libc::MADV_HUGEPAGE);
            libc::madvise(base as _, device_addresses as usize, libc::MADV_DONTFORK);
        }
        let valid = (0..devices)
            .map(|_| map(len / GRANULE, libc::PROT_READ | libc::PROT_WRITE))
            .collect::<Result<_, _>>()?;
        let mut start = base;
        let arenas = sizes
            .into_iter()
            .enumerate()
            .map(|(index, (limit, addresses))| {
                let arena = Arena {
                    start,
                    limit: if index > devices { addresses } else { limit },
                    used: 0,
                    elsewhere: Arc::default(),
                    committed: start,
                    holes: BTreeMap::from([(start, addresses)]),
                    by_size: BTreeSet::from([(addresses, start)]),
                };
                start += addresses;
                arena
            })
            .collect();
        Ok(Memory {
            base,
            len,
            valid,
            state: Mutex::new(State {
                arenas,
                live: BTreeMap::new(),
                registered: BTreeMap::new(),
                host_ranges: Arc::new([]),
                reserved: BTreeMap::new(),
                mappings: BTreeMap::new(),
                advices: Advices::default(),
                peers: BTreeSet::new(),
                next_id: 1,
            }),
        })
    }

    /// What kernels of a device may touch.
    pub fn view(&self, device: usize) -> MemoryView {
        // SAFETY: base and len are multiples of COMMIT_STEP and so of GRANULE, and were mapped, so
        // their sum does not overflow; the table has an entry per granule and lives as long as the
        // process; allocations are 256-byte aligned and a guard apart; bytes are made usable before
        // they are counted as valid and stay so ever after; no reference to them is ever made.
        unsafe { MemoryView::new(self.base, self.len, self.valid[device] as *const u8) }
    }

    /// An allocation on a device as a heap for kernels.
    pub fn heap(&self, device: usize, allocation: Allocation) -> Heap {
        let bytes = allocation.bytes / GRANULE * GRANULE;
        let entry = self.valid[device] + (allocation.start - self.base) / GRANULE;
        // SAFETY: the allocation is the caller's to give, mapped and with entries in the table as all
        // are; both stay so for the process's life. Its context, which keeps the heap, keeps it too.
        unsafe { Heap::new(allocation.start, bytes, entry as *mut u8) }
    }

    /// Registered host memory that kernels may touch beside that.
    pub fn host_ranges(&self) -> Arc<[HostRange]> {
        Arc::clone(&self.state().host_ranges)
    }

    /// Counts memory of a device that lies elsewhere.
    ///
    /// # Errors
    /// CUDA_ERROR_OUT_OF_MEMORY if the device has not that much.
    pub fn charge(&self, device: usize, bytes: u64) -> Result<Charge, CuResult> {
        let mut state = self.state();
        let arena = state.arena(Home::Device(device));
        if bytes > arena.free() {
            return Err(CuResult::OUT_OF_MEMORY);
        }
        arena.elsewhere.fetch_add(bytes, Ordering::Relaxed);
        Ok(Charge {
            bytes,
            counter: Arc::clone(&arena.elsewhere),
        })
    }

    /// Lets a context's kernels reach the memory of a peer's device.
    ///
    /// # Errors
    /// CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED.
    pub fn enable_peer(&self, peer: Peer) -> Result<(), CuResult> {
        let mut state = self.state();
        let first = !state.reaches(peer.from.1, peer.to.1);
        if !state.peers.insert(peer) {
            return Err(CuResult::PEER_ACCESS_ALREADY_ENABLED);
        }
        if first {
            self.mark_peer(&state, peer, true);
        }
        Ok(())
    }

    /// Undoes that.
    ///
    /// # Errors
    /// CUDA_ERROR_PEER_ACCESS_NOT_ENABLED.
    pub fn disable_peer(&self, peer: Peer) -> Result<(), CuResult> {
        let mut state = self.state();
        if !state.peers.remove(&peer) {
            return Err(CuResult::PEER_ACCESS_NOT_ENABLED);
        }
        if !state.reaches(peer.from.1, peer.to.1) {
            self.mark_peer(&state, peer, false);
        }
        Ok(())
    }

    /// Writes a device's table of valid bytes for the memory of another one.
    fn mark_peer(&self, state: &State, peer: Peer, valid: bool) {
        let Peer {
            from: (_, from),
            to: (_, to),
        } = peer;
        if from == to {
            return;
        }
        for allocation in state.live.values() {
            if allocation.home == Home::Device(to) {
                self.mark_table(from, allocation.start, allocation.bytes, valid);
            }
        }
    }

    /// Allocates at least 256-byte aligned memory.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for no bytes, CUDA_ERROR_OUT_OF_MEMORY if they do not fit.
    pub fn allocate(
        &self,
        home: Home,
        bytes: u64,
        align: u64,
        owner: Owner,
    ) -> Result<Allocation, CuResult> {
        if bytes == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let align = align.max(ALIGN);
        let taken = bytes
            .checked_next_multiple_of(ALIGN)
            .ok_or(CuResult::OUT_OF_MEMORY)?;
        if !align.is_power_of_two() || align > MAX_ALIGN || taken > self.len {
            return Err(CuResult::OUT_OF_MEMORY);
        }
        let mut state = self.state();
        let start = state.arena(home).take(taken, align)?;
        self.mark(&state, home, start, bytes, true);
        let allocation = Allocation {
            start,
            bytes,
            home,
            owner,
            id: state.next_id,
            registered: false,
            writable: true,
            sync_memops: false,
            ending: false,
        };
        state.next_id += 1;
        state.live.insert(start, allocation);
        Ok(allocation)
    }

    /// Takes an allocation from the program, which named it by its first address; work under way may
    /// use it until [`Memory::release`].
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if no allocation that the program may free starts there.
    pub fn end(&self, start: u64, is_home: impl Fn(Home) -> bool) -> Result<Allocation, CuResult> {
        let mut state = self.state();
        match state.live.get_mut(&start) {
            Some(found)
                if !found.ending
                    && found.owner.purpose == Purpose::Program
                    && is_home(found.home) =>
            {
                found.ending = true;
                Ok(*found)
            }
            _ => Err(CuResult::INVALID_VALUE),
        }
    }

    /// Makes an allocation's addresses free for others. Nothing may use it any more.
    pub fn release(&self, start: u64) {
        let mut state = self.state();
        if let Some(allocation) = state.live.remove(&start) {
            self.give_back(&mut state, &allocation);
        }
    }

    /// Releases an allocation, if it is still there.
    pub fn release_same(&self, allocation: &Allocation) {
        let mut state = self.state();
        let found = state.live.get(&allocation.start);
        if found.is_some_and(|found| found.id == allocation.id) {
            state.live.remove(&allocation.start);
            self.give_back(&mut state, allocation);
        }
    }

    /// Whether a graph's allocation starts at an address.
    pub fn reserved(&self, start: u64) -> bool {
        let found = self.state().live.get(&start).copied();
        found.is_some_and(|found| found.owner.purpose == Purpose::Graph)
    }

    /// Releases all that a context holds and forgets what it registered.
    pub fn release_context(&self, context: u64) {
        let mut state = self.state();
        let doomed: Vec<Allocation> = state
            .live
            .extract_if(.., |_, a| a.owner.context == context)
            .map(|(_, allocation)| allocation)
            .collect();
        for allocation in &doomed {
            self.give_back(&mut state, allocation);
        }
        state.registered.retain(|_, r| r.owner.context != context);
        state.note_host_ranges();
        let gone: Vec<Peer> = state
            .peers
            .extract_if(.., |peer| peer.from.0 == context || peer.to.0 == context)
            .collect();
        for peer in gone {
            if !state.reaches(peer.from.1, peer.to.1) {
                self.mark_peer(&state, peer, false);
            }
        }
    }

    /// The allocation or registration that wholly holds `bytes` at `address`.
    pub fn find(&self, address: u64, bytes: u64) -> Option<Allocation> {
        let state = self.state();
        let near = |map: &BTreeMap<u64, Allocation>| {
            map.range(..=address)
                .next_back()
                .map(|(_, allocation)| *allocation)
                .filter(|a| !a.ending && a.holds(address, bytes.max(1)))
        };
        near(&state.live)
            .or_else(|| near(&state.registered))
            .or_else(|| state.mapped(address, bytes.max(1)))
    }

    /// Whether any of the bytes lies in this memory's range: then only allocated ones may be used.
    pub fn touches(&self, address: u64, bytes: u64) -> bool {
        address < self.base + self.len && address.saturating_add(bytes) > self.base
    }

    /// Notes what the program says of the copies of an allocation.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if no allocation holds the address.
    pub fn set_sync_memops(&self, address: u64, synchronous: bool) -> Result<(), CuResult> {
        let found = self.find(address, 1).ok_or(CuResult::INVALID_VALUE)?;
        let mut state = self.state();
        let allocation = state.live.get_mut(&found.start);
        let allocation = allocation.ok_or(CuResult::INVALID_VALUE)?;
        allocation.sync_memops = synchronous;
        Ok(())
    }

    /// Free and total bytes of a device.
    pub fn usage(&self, device: usize) -> (u64, u64) {
        let mut state = self.state();
        let arena = state.arena(Home::Device(device));
        (arena.free(), arena.limit)
    }

    /// Notes memory of the program's own as page-locked. Kernels reach it if it is writable.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a range that cannot be the program's,
    /// CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED if any of it is registered.
    pub fn register(
        &self,
        start: u64,
        bytes: u64,
        owner: Owner,
        writable: bool,
    ) -> Result<(), CuResult> {
        let end = start.checked_add(bytes).ok_or(CuResult::INVALID_VALUE)?;
        if start == 0 || bytes == 0 || self.touches(start, bytes) {
            return Err(CuResult::INVALID_VALUE);
        }
        let mut state = self.state();
        let before = state.registered.range(..end).next_back();
        if before.is_some_and(|(_, r)| r.start + r.bytes > start) {
            return Err(CuResult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        let id = state.next_id;
        state.next_id += 1;
        let registration = Allocation {
            start,
            bytes,
            home: Home::Host,
            owner,
            id,
            registered: true,
            writable,
            sync_memops: false,
            ending: false,
        };
        state.registered.insert(start, registration);
        state.note_host_ranges();
        Ok(())
    }

    /// Undoes [`Memory::register`].
    ///
    /// # Errors
    /// CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED if nothing registered starts there.
    pub fn unregister(&self, start: u64) -> Result<(), CuResult> {
        let mut state = self.state();
        let found = state.registered.remove(&start);
        found.ok_or(CuResult::HOST_MEMORY_NOT_REGISTERED)?;
        state.note_host_ranges();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, state: &mut State, allocation: &Allocation) {
        self.mark(
            state,
            allocation.home,
            allocation.start,
            allocation.bytes,
            false,
        );
        let taken = allocation.bytes.next_multiple_of(ALIGN);
        state.advices.forget(allocation.start, taken);
        state.arena(allocation.home).give(allocation.start, taken);
    }

    /// Writes the tables of valid bytes for an allocation: all of it or none.
    fn mark(&self, state: &State, home: Home, start: u64, bytes: u64, valid: bool) {
        for device in 0..self.valid.len() {
            let concerned = match home {
                Home::Device(own) => own == device || state.reaches(device, own),
                Home::Managed | Home::Host => true,
            };
            if concerned {
                self.mark_table(device, start, bytes, valid);
            }
        }
    }

    /// Writes one device's table of valid bytes.
    fn mark_table(&self, device: usize, start: u64, bytes: u64, valid: bool) {
        let first = (start - self.base) / GRANULE;
        let (full, rest) = (bytes / GRANULE, bytes % GRANULE);
        // SAFETY: the table has an entry per granule of the range, and the allocation lies in the
        // range. Kernels may read entries meanwhile, as bytes: they see the old or the new one.
        unsafe {
            let entry = (self.valid[device] + first) as *mut u8;
            entry.write_bytes(if valid { GRANULE as u8 } else { 0 }, full as usize);
            if rest > 0 {
                entry
                    .add(full as usize)
                    .write(if valid { rest as u8 } else { 0 });
            }
        }
    }
}

impl State {
    fn arena(&mut self, home: Home) -> &mut Arena {
        let host = self.arenas.len() - 2;
        match home {
            Home::Device(device) => &mut self.arenas[device],
            Home::Managed | Home::Host => &mut self.arenas[host],
        }
    }

    /// Whether kernels of one device reach the memory of another.
    fn reaches(&self, from: usize, to: usize) -> bool {
        self.peers
            .iter()
            .any(|peer| peer.from.1 == from && peer.to.1 == to)
    }

    /// Lists what kernels reach of registered memory: in order, ranges that touch as one.
    fn note_host_ranges(&mut self) {
        let mut ranges: Vec<HostRange> = Vec::new();
        for registered in self.registered.values().filter(|r| r.writable) {
            match ranges.last_mut() {
                Some(last) if last.base + last.len == registered.start => {
                    last.len += registered.bytes;
                }
                _ => ranges.push(HostRange {
                    base: registered.start,
                    len: registered.bytes,
                }),
            }
        }
        self.host_ranges = ranges.into();
    }
}

impl Arena {
    /// Bytes of the limit that are left.
    fn free(&self) -> u64 {
        let taken = self.used + self.elsewhere.load(Ordering::Relaxed);
        self.limit.saturating_sub(taken)
    }

    /// Takes `bytes` and a guard behind them from the smallest hole that holds them.
    fn take(&mut self, bytes: u64, align: u64) -> Result<u64, CuResult> {
        if bytes > self.free() {
            return Err(CuResult::OUT_OF_MEMORY);
        }
        let span = bytes + MemoryView::GUARD;
        let (size, hole, start) = self
            .by_size
            .range((span, 0)..)
            .map(|&(size, hole)| (size, hole, hole.next_multiple_of(align)))
            .find(|(size, hole, start)| start - hole + span <= *size)
            .ok_or(CuResult::OUT_OF_MEMORY)?;
        let end = start + span;
        if end > self.committed {
            let until = end.next_multiple_of(COMMIT_STEP);
            // SAFETY: the addresses are this arena's, reserved and never handed out before.
            let failed = unsafe {
                libc::mprotect(
                    self.committed as _,
                    (until - self.committed) as usize,
                    libc::PROT_READ | libc::PROT_WRITE,
                )
            };
            if failed != 0 {
                return Err(CuResult::OUT_OF_MEMORY);
            }
            self.committed = until;
        }
        self.remove_hole(hole, size);
        self.add_hole(hole, start - hole);
        self.add_hole(end, hole + size - end);
        self.used += bytes;
        Ok(start)
    }

    /// Gives back what `take` took.
    fn give(&mut self, start: u64, bytes: u64) {
        self.used -= bytes;
        if bytes >= GIVE_BACK {
            const PAGE: u64 = 4096;
            let (from, to) = (start.next_multiple_of(PAGE), (start + bytes) & !(PAGE - 1));
            // SAFETY: the pages lie wholly in the allocation that ends here; they read as zero then.
            unsafe { libc::madvise(from as _, (to - from) as usize, libc::MADV_DONTNEED) };
        }
        let (mut from, mut to) = (start, start + bytes + MemoryView::GUARD);
        if let Some((&hole, &size)) = self.holes.range(..from).next_back()
            && hole + size == from
        {
            self.remove_hole(hole, size);
            from = hole;
        }
        if let Some(&size) = self.holes.get(&to) {
            self.remove_hole(to, size);
            to += size;
        }
        self.add_hole(from, to - from);
    }

    fn add_hole(&mut self, start: u64, bytes: u64) {
        debug_assert!(start >= self.start);
        if bytes > 0 {
            self.holes.insert(start, bytes);
            self.by_size.insert((bytes, start));
        }
    }

    fn remove_hole(&mut self, start: u64, bytes: u64) {
        self.holes.remove(&start);
        self.by_size.remove(&(bytes, start));
    }
}

/// Whether the program has memory at each of these addresses, and may write it where that is asked.
pub fn is_mapped(start: u64, bytes: u64, writable: bool) -> bool {
    let Some(end) = start.checked_add(bytes) else {
        return false;
    };
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return false;
    };
    let mut covered = start;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let range = words.next().and_then(|range| range.split_once('-'));
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (Some((from, to)), Some(rights)) = (range, words.next()) else {
            continue;
        };
        let (Some(from), Some(to)) = (number(from), number(to)) else {
            continue;
        };
        let good = rights.starts_with('r') && (!writable || rights[1..].starts_with('w'));
        if from <= covered && covered < to && good {
            covered = to;
        }
        if covered >= end {
            return true;
        }
    }
    false
}

/// Maps private memory that counts only once it is touched.
fn map(bytes: u64, protection: i32) -> Result<u64, CuResult> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes as usize,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        let error = std::io::Error::last_os_error();
        tracing::error!(
            bytes,
            %error,
            "cannot reserve addresses for device memory; lower SOFTCUDA_MEMORY or raise ulimit -v"
        );
        return Err(CuResult::OUT_OF_MEMORY);
    }
    Ok(address as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEVICE: Home = Home::Device(0);
    const OWNER: Owner = Owner {
        context: 1,
        flags: 0,
        purpose: Purpose::Program,
    };

    fn memory() -> Memory {
        Memory::reserve(2, 8 << 20, 8 << 20).unwrap()
    }

    fn valid(memory: &Memory, device: usize, address: u64) -> u8 {
        let entry = memory.valid[device] + (address - memory.base) / GRANULE;
        // SAFETY: the tests ask for addresses in the range only.
        unsafe { (entry as *const u8).read() }
    }

    #[test]
    fn allocations_are_found_by_every_byte_and_no_other() {
        let memory = memory();
        let a = memory.allocate(DEVICE, 300, 1, OWNER).unwrap();
        assert_eq!(a.start % 256, 0);
        assert_eq!(memory.find(a.start, 300), Some(a));
        assert_eq!(memory.find(a.start + 299, 1), Some(a));
        assert_eq!(memory.find(a.start + 299, 2), None);
        assert_eq!(memory.find(a.start + 300, 0), None);
        assert_eq!(memory.find(a.start - 1, 1), None);
        assert_eq!(memory.find(a.start, u64::MAX), None);
        assert_eq!(memory.find(0, 1), None);
    }

    #[test]
    fn the_table_counts_valid_bytes_for_the_owner_device_and_host_memory_for_all() {
        let memory = memory();
        let a = memory.allocate(Home::Device(1), 300, 1, OWNER).unwrap();
        let counts = |device| [0, 128, 256, 384].map(|o| valid(&memory, device, a.start + o));
        assert_eq!(counts(1), [128, 128, 44, 0]);
        assert_eq!(counts(0), [0; 4]);
        let h = memory.allocate(Home::Host, 128, 1, OWNER).unwrap();
        assert_eq!(
            [valid(&memory, 0, h.start), valid(&memory, 1, h.start)],
            [128; 2]
        );
        memory.release(a.start);
        assert_eq!(counts(1), [0; 4]);
    }

    #[test]
    fn a_devices_bytes_run_out_and_come_back() {
        let memory = memory();
        let all = memory.allocate(DEVICE, 8 << 20, 1, OWNER).unwrap();
        assert_eq!(memory.usage(0), (0, 8 << 20));
        assert_eq!(memory.usage(1), (8 << 20, 8 << 20));
        assert_eq!(
            memory.allocate(DEVICE, 1, 1, OWNER),
            Err(CuResult::OUT_OF_MEMORY)
        );
        memory.release(all.start);
        assert_eq!(memory.usage(0), (8 << 20, 8 << 20));
        for bytes in [(8 << 20) + 1, u64::MAX, u64::MAX - 255] {
            assert_eq!(
                memory.allocate(DEVICE, bytes, 1, OWNER),
                Err(CuResult::OUT_OF_MEMORY)
            );
        }
        assert_eq!(
            memory.allocate(DEVICE, 0, 1, OWNER),
            Err(CuResult::INVALID_VALUE)
        );
    }

    #[test]
    fn an_ended_allocation_is_hidden_and_cannot_end_twice() {
        let memory = memory();
        let a = memory.allocate(DEVICE, 64, 1, OWNER).unwrap();
        assert_eq!(
            memory.end(a.start, |h| h == Home::Host),
            Err(CuResult::INVALID_VALUE)
        );
        assert_eq!(
            memory.end(a.start + 1, |_| true),
            Err(CuResult::INVALID_VALUE)
        );
        assert!(memory.end(a.start, |_| true).is_ok());
        assert_eq!(memory.end(a.start, |_| true), Err(CuResult::INVALID_VALUE));
        assert_eq!(memory.find(a.start, 1), None);
        assert_eq!(valid(&memory, 0, a.start), 64);
        let variable = Owner {
            purpose: Purpose::Variable,
            ..OWNER
        };
        let v = memory.allocate(DEVICE, 64, 1, variable).unwrap();
        assert_eq!(memory.end(v.start, |_| true), Err(CuResult::INVALID_VALUE));
    }

    #[test]
    fn registrations_do_not_overlap() {
        let memory = memory();
        let own = vec![0u8; 4096];
        let at = own.as_ptr() as u64;
        assert_eq!(memory.register(at, 1024, OWNER, true), Ok(()));
        for (start, bytes) in [(at, 1), (at + 1023, 1), (at - 1, 2), (at - 1, 4096)] {
            assert_eq!(
                memory.register(start, bytes, OWNER, true),
                Err(CuResult::HOST_MEMORY_ALREADY_REGISTERED)
            );
        }
        assert_eq!(memory.register(at + 1024, 8, OWNER, true), Ok(()));
        assert!(memory.find(at + 5, 10).is_some_and(|a| a.registered));
        assert_eq!(
            memory.unregister(at + 5),
            Err(CuResult::HOST_MEMORY_NOT_REGISTERED)
        );
        assert_eq!(memory.unregister(at), Ok(()));
        assert_eq!(memory.find(at, 1), None);
        let inside = memory.allocate(DEVICE, 64, 1, OWNER).unwrap().start;
        for (start, bytes) in [(0, 8), (at, 0), (at, u64::MAX), (inside, 8)] {
            assert_eq!(
                memory.register(start, bytes, OWNER, true),
                Err(CuResult::INVALID_VALUE)
            );
        }
    }

    #[test]
    fn a_context_leaves_nothing() {
        let memory = memory();
        let other = Owner {
            context: 2,
            ..OWNER
        };
        for _ in 0..10 {
            memory.allocate(DEVICE, 5000, 1, OWNER).unwrap();
            memory.allocate(Home::Host, 5000, 1, OWNER).unwrap();
        }
        let kept = memory.allocate(DEVICE, 256, 1, other).unwrap();
        memory.release_context(1);
        assert_eq!(memory.usage(0), ((8 << 20) - 256, 8 << 20));
        assert!(memory.find(kept.start, 256).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn allocations_never_overlap_and_all_addresses_come_back(
            steps in prop::collection::vec((any::<bool>(), 1u64..100_000, 0u32..16, any::<prop::sample::Index>()), 1..80)
        ) {
            let memory = memory();
            let mut live: Vec<Allocation> = Vec::new();
            for (free, bytes, align, pick) in steps {
                if free && !live.is_empty() {
                    let gone = live.swap_remove(pick.index(live.len()));
                    memory.release(gone.start);
                } else if let Ok(new) = memory.allocate(DEVICE, bytes, 1 << align, OWNER) {
                    prop_assert_eq!(new.start % (1u64 << align).max(256), 0);
                    // SAFETY: freshly allocated, so mapped and nobody else's.
                    unsafe { (new.start as *mut u8).write_bytes(0xa5, bytes as usize) };
                    for old in &live {
                        let (first, second) = if old.start < new.start { (old, &new) } else { (&new, old) };
                        prop_assert!(first.start + first.bytes + MemoryView::GUARD <= second.start);
                    }
                    live.push(new);
                }
            }
            let used: u64 = live.iter().map(|a| a.bytes.next_multiple_of(256)).sum();
            prop_assert_eq!(memory.usage(0).0, (8 << 20) - used);
            for gone in live {
                memory.release(gone.start);
            }
            let state = memory.state();
            prop_assert_eq!(state.arenas[0].holes.len(), 1);
            prop_assert_eq!(state.arenas[0].by_size.len(), 1);
        }
    }
}
