//! Addresses that programs reserve, and physical memory that they map there, at several addresses at once
//! if they like. Devices reach a mapping only after they were given access; addresses that are reserved
//! and not mapped must never be valid for anything.

use super::{Allocation, Charge, Home, Memory, Owner, Purpose, State};
use cuda_abi::CuResult;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

/// Reserved addresses, physical memory and mappings are multiples of this many bytes.
pub const GRANULARITY: u64 = super::COMMIT_STEP;

/// Memory of a device, or of the host, without an address.
#[derive(Debug)]
pub struct Physical {
    /// Whose memory it is; `None`: the host's.
    pub device: Option<usize>,
    /// Bytes.
    pub bytes: u64,
    file: OwnedFd,
    _charge: Option<Charge>,
}

/// Physical memory at an address.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) bytes: u64,
    physical: Arc<Physical>,
    /// Devices that may use it, a bit each.
    access: u32,
    id: u64,
}

impl State {
    /// The mapping that holds an address, if it and those that follow it hold all the bytes and someone
    /// may use them.
    pub(super) fn mapped(&self, address: u64, bytes: u64) -> Option<Allocation> {
        let (&start, first) = self.mappings.range(..=address).next_back()?;
        let end = address.checked_add(bytes)?;
        let mut covered = start;
        for (&at, mapping) in self.mappings.range(start..end) {
            if at != covered || mapping.access == 0 {
                return None;
            }
            covered = at + mapping.bytes;
        }
        (covered >= end).then_some(Allocation {
            start,
            bytes: first.bytes,
            home: first.physical.device.map_or(Home::Host, Home::Device),
            owner: Owner {
                context: 0,
                flags: 0,
                purpose: Purpose::Mapping,
            },
            id: first.id,
            registered: false,
            writable: true,
            sync_memops: false,
            ending: false,
        })
    }

    /// First addresses of the mappings that make up a range exactly.
    fn made_of(&self, start: u64, bytes: u64) -> Result<Vec<u64>, CuResult> {
        let end = start.checked_add(bytes).ok_or(CuResult::INVALID_VALUE)?;
        let mut covered = start;
        let mut found = Vec::new();
        for (&at, mapping) in self.mappings.range(start..end) {
            if at != covered {
                return Err(CuResult::INVALID_VALUE);
            }
            covered = at + mapping.bytes;
            found.push(at);
        }
        if covered == end && !found.is_empty() {
            Ok(found)
        } else {
            Err(CuResult::INVALID_VALUE)
        }
    }
}

/// Whether a number is a positive multiple of the granularity.
fn whole(bytes: u64) -> Result<(), CuResult> {
    if bytes > 0 && bytes.is_multiple_of(GRANULARITY) {
        Ok(())
    } else {
        Err(CuResult::INVALID_VALUE)
    }
}

impl Memory {
    /// Takes physical memory.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for bytes that are no multiple of [`GRANULARITY`],
    /// CUDA_ERROR_OUT_OF_MEMORY if there are not that many.
    pub fn physical(&self, device: Option<usize>, bytes: u64) -> Result<Arc<Physical>, CuResult> {
        whole(bytes)?;
        let charge = device
            .map(|device| self.charge(device, bytes))
            .transpose()?;
        let file = rustix::fs::memfd_create("device memory", rustix::fs::MemfdFlags::CLOEXEC);
        let file = file.map_err(|_| CuResult::OUT_OF_MEMORY)?;
        rustix::fs::ftruncate(&file, bytes).map_err(|_| CuResult::OUT_OF_MEMORY)?;
        Ok(Arc::new(Physical {
            device,
            bytes,
            file,
            _charge: charge,
        }))
    }

    /// Reserves addresses.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for bytes or an alignment that make no sense, CUDA_ERROR_OUT_OF_MEMORY
    /// if there are not that many addresses.
    pub fn reserve_addresses(&self, bytes: u64, align: u64) -> Result<u64, CuResult> {
        whole(bytes)?;
        if align != 0 && !align.is_power_of_two() {
            return Err(CuResult::INVALID_VALUE);
        }
        let mut state = self.state();
        let arena = state.arenas.last_mut().ok_or(CuResult::OUT_OF_MEMORY)?;
        let start = arena.take(bytes, align.max(GRANULARITY))?;
        state.reserved.insert(start, bytes);
        Ok(start)
    }

    /// Gives reserved addresses back.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE unless exactly these are reserved and nothing is mapped there.
    pub fn free_addresses(&self, start: u64, bytes: u64) -> Result<(), CuResult> {
        let mut state = self.state();
        let mapped = state
            .mappings
            .range(start..start.saturating_add(bytes))
            .next();
        if state.reserved.get(&start) != Some(&bytes) || mapped.is_some() {
            return Err(CuResult::INVALID_VALUE);
        }
        state.reserved.remove(&start);
        if let Some(arena) = state.arenas.last_mut() {
            arena.give(start, bytes);
        }
        Ok(())
    }

    /// Maps physical memory at reserved addresses. Nobody has access to it yet.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for addresses that are not reserved or where something is mapped, and
    /// for more than the physical memory has.
    pub fn map(
        &self,
        start: u64,
        bytes: u64,
        physical: &Arc<Physical>,
        offset: u64,
    ) -> Result<(), CuResult> {
        whole(bytes)?;
        let end = start.checked_add(bytes).ok_or(CuResult::INVALID_VALUE)?;
        let fits = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= physical.bytes);
        if !start.is_multiple_of(GRANULARITY) || !offset.is_multiple_of(GRANULARITY) || !fits {
            return Err(CuResult::INVALID_VALUE);
        }
        let mut state = self.state();
        let reserved = state.reserved.range(..=start).next_back();
        let before = state.mappings.range(..end).next_back();
        if reserved.is_none_or(|(first, bytes)| end > first + bytes)
            || before.is_some_and(|(at, mapping)| at + mapping.bytes > start)
        {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: the addresses are reserved and nothing of the program's is mapped there.
        let failed = unsafe {
            libc::mmap(
                start as _,
                bytes as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                physical.file.as_raw_fd(),
                offset as libc::off_t,
            )
        } == libc::MAP_FAILED;
        if failed {
            return Err(CuResult::OUT_OF_MEMORY);
        }
        let mapping = Mapping {
            bytes,
            physical: Arc::clone(physical),
            access: 0,
            id: state.next_id,
        };
        state.next_id += 1;
        state.mappings.insert(start, mapping);
        Ok(())
    }

    /// Undoes mappings, all of each.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if the range is not made of mappings.
    pub fn unmap(&self, start: u64, bytes: u64) -> Result<(), CuResult> {
        let mut state = self.state();
        let gone = state.made_of(start, bytes)?;
        for device in 0..self.valid.len() {
            self.mark_table(device, start, bytes, false);
        }
        for at in gone {
            state.mappings.remove(&at);
        }
        // Work that still uses the addresses, against CUDA's rules, finds zeros there.
        // SAFETY: the addresses are reserved, and what was mapped there is not any more.
        let failed = unsafe {
            libc::mmap(
                start as _,
                bytes as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            )
        } == libc::MAP_FAILED;
        if failed {
            return Err(CuResult::OPERATING_SYSTEM);
        }
        Ok(())
    }

    /// Lets a device use mappings, or not any more.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if the range is not made of mappings.
    pub fn set_access(
        &self,
        start: u64,
        bytes: u64,
        device: usize,
        allowed: bool,
    ) -> Result<(), CuResult> {
        let mut state = self.state();
        for at in state.made_of(start, bytes)? {
            if let Some(mapping) = state.mappings.get_mut(&at) {
                mapping.access = mapping.access & !(1 << device) | u32::from(allowed) << device;
            }
        }
        self.mark_table(device, start, bytes, allowed);
        Ok(())
    }

    /// Whether a device may use the mapping that holds an address.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if nothing is mapped there.
    pub fn access(&self, address: u64, device: usize) -> Result<bool, CuResult> {
        let state = self.state();
        let found = state.mappings.range(..=address).next_back();
        let found = found.filter(|(at, mapping)| address < *at + mapping.bytes);
        let (_, mapping) = found.ok_or(CuResult::INVALID_VALUE)?;
        Ok(mapping.access >> device & 1 == 1)
    }

    /// The physical memory behind an address.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if nothing is mapped there.
    pub fn physical_at(&self, address: u64) -> Result<Arc<Physical>, CuResult> {
        let state = self.state();
        let found = state.mappings.range(..=address).next_back();
        let found = found.filter(|(at, mapping)| address < *at + mapping.bytes);
        let (_, mapping) = found.ok_or(CuResult::INVALID_VALUE)?;
        Ok(Arc::clone(&mapping.physical))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn physical_memory_appears_where_it_is_mapped() {
        let memory = Memory::reserve(2, 16 << 20, 8 << 20).unwrap();
        let physical = memory.physical(Some(0), 2 * GRANULARITY).unwrap();
        assert_eq!(memory.usage(0).0, (16 << 20) - 2 * GRANULARITY);
        let start = memory.reserve_addresses(8 * GRANULARITY, 0).unwrap();
        assert_eq!(memory.find(start, 1), None);
        memory.map(start, 2 * GRANULARITY, &physical, 0).unwrap();
        let again = start + 4 * GRANULARITY;
        memory
            .map(again, GRANULARITY, &physical, GRANULARITY)
            .unwrap();
        // Without access there is nothing.
        assert_eq!(memory.find(start, 1), None);
        memory.set_access(start, 2 * GRANULARITY, 1, true).unwrap();
        memory.set_access(again, GRANULARITY, 0, true).unwrap();
        assert_eq!(memory.access(start, 1), Ok(true));
        assert_eq!(memory.access(start, 0), Ok(false));
        assert!(memory.find(start, 2 * GRANULARITY).is_some());
        assert!(memory.find(start, 2 * GRANULARITY + 1).is_none());
        // SAFETY: mapped above.
        unsafe {
            ((start + GRANULARITY) as *mut u32).write(77);
            assert_eq!((again as *const u32).read(), 77);
        }
        for (at, bytes) in [(start, GRANULARITY), (again - GRANULARITY, GRANULARITY)] {
            let refused = memory.unmap(at, bytes);
            assert_eq!(refused, Err(CuResult::INVALID_VALUE));
        }
        assert!(memory.free_addresses(start, 8 * GRANULARITY).is_err());
        memory.unmap(start, 2 * GRANULARITY).unwrap();
        assert_eq!(memory.find(start, 1), None);
        memory.unmap(again, GRANULARITY).unwrap();
        // SAFETY: reserved addresses read as zero.
        assert_eq!(unsafe { (again as *const u32).read() }, 0);
        drop(physical);
        assert_eq!(memory.usage(0).0, 16 << 20);
        memory.free_addresses(start, 8 * GRANULARITY).unwrap();
    }

    #[test]
    fn mappings_that_touch_count_as_one_range() {
        let memory = Memory::reserve(1, 16 << 20, 8 << 20).unwrap();
        let start = memory.reserve_addresses(4 * GRANULARITY, 0).unwrap();
        for at in 0..2 {
            let physical = memory.physical(Some(0), GRANULARITY).unwrap();
            let place = start + at * GRANULARITY;
            memory.map(place, GRANULARITY, &physical, 0).unwrap();
        }
        memory.set_access(start, 2 * GRANULARITY, 0, true).unwrap();
        assert!(memory.find(start + 5, 2 * GRANULARITY - 5).is_some());
        assert!(memory.find(start + 5, 2 * GRANULARITY - 4).is_none());
        assert_eq!(memory.usage(0).0, (16 << 20) - 2 * GRANULARITY);
        memory.unmap(start, 2 * GRANULARITY).unwrap();
        assert_eq!(memory.usage(0).0, 16 << 20);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let memory = Memory::reserve(1, 16 << 20, 8 << 20).unwrap();
        for bytes in [0, 1, GRANULARITY - 1, GRANULARITY + 1] {
            assert_eq!(
                memory.physical(Some(0), bytes).err(),
                Some(CuResult::INVALID_VALUE)
            );
            assert!(memory.reserve_addresses(bytes, 0).is_err());
        }
        assert_eq!(
            memory.physical(Some(0), 32 << 20).err(),
            Some(CuResult::OUT_OF_MEMORY)
        );
        assert!(memory.reserve_addresses(1 << 60, 0).is_err());
        assert!(memory.reserve_addresses(GRANULARITY, 3).is_err());
        let physical = memory.physical(None, GRANULARITY).unwrap();
        let start = memory.reserve_addresses(GRANULARITY, 0).unwrap();
        let map = |at, bytes, offset| memory.map(at, bytes, &physical, offset);
        for (at, bytes, offset) in [
            (start + 1, GRANULARITY, 0),
            (start + GRANULARITY, GRANULARITY, 0),
            (0, GRANULARITY, 0),
            (!(GRANULARITY - 1), GRANULARITY, 0),
            (start, GRANULARITY, GRANULARITY),
            (start, 2 * GRANULARITY, 0),
            (start, GRANULARITY, !(GRANULARITY - 1)),
        ] {
            assert_eq!(map(at, bytes, offset), Err(CuResult::INVALID_VALUE));
        }
        map(start, GRANULARITY, 0).unwrap();
        assert!(map(start, GRANULARITY, 0).is_err());
        assert!(memory.free_addresses(start + 1, 1).is_err());
    }
}
