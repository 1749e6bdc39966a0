//! The regions of granted memory that a guest may name in a call.
//!
//! Region 0 is the channel's arena; others come and go over the worker's connection to backd, while
//! calls run. Must never give out an address outside a region, nor let a region be unmapped while a
//! call uses it or the driver has it registered: a page that is unmapped while it is pinned corrupts
//! the backend kernel's page tables.

use cuda_abi::{CuResult, Driver};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::backend::REGION_LIMIT;
use vgpu_protocol::codec::Range;
use vgpu_ring::Arena;
use xen::Mapping;

/// Granted memory beside the arena.
#[derive(Debug)]
pub struct Region {
    mapping: Mapping,
    /// Whether the driver has it registered; it must not be unmapped while it is.
    pinned: Mutex<bool>,
}

/// A checked run of bytes, and what keeps it mapped.
#[derive(Clone, Debug)]
pub struct Place {
    start: NonNull<u8>,
    len: usize,
    /// `None` for the arena, which lives as long as the worker.
    _region: Option<Arc<Region>>,
}

// SAFETY: a place is an address that only the driver reads and writes through; the memory stays mapped
// as long as the place lives, whichever thread holds it.
unsafe impl Send for Place {}

impl Place {
    /// Where it starts.
    pub fn address(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }
    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What a guest's [`Range`]s are checked against.
#[derive(Debug)]
pub struct Regions {
    arena: Arena,
    added: Mutex<HashMap<u32, Arc<Region>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks can leave the data half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Regions {
    /// Only the arena, at first.
    pub fn new(arena: Arena) -> Self {
        Regions {
            arena,
            added: Mutex::default(),
        }
    }

    /// Adds a region under a number that is free.
    pub fn add(&self, number: u32, mapping: Mapping) -> Result<(), String> {
        let mut added = lock(&self.added);
        if number == 0 || added.contains_key(&number) {
            return Err(format!("region {number} is in use"));
        }
        if added.len() >= REGION_LIMIT {
            return Err(format!(
                "the process has {REGION_LIMIT} regions already; it must free some"
            ));
        }
        added.insert(
            number,
            Arc::new(Region {
                mapping,
                pinned: Mutex::new(false),
            }),
        );
        Ok(())
    }

    /// Forgets a region; it is unmapped when the last call that uses it has ended.
    pub fn remove(&self, number: u32) -> Result<(), String> {
        let mut added = lock(&self.added);
        let region = added
            .get(&number)
            .ok_or_else(|| format!("there is no region {number}"))?;
        if *lock(&region.pinned) {
            return Err(format!(
                "region {number} is registered with the driver; unpin it first"
            ));
        }
        if Arc::strong_count(region) > 1 {
            return Err(format!("region {number} is in use by a call"));
        }
        added.remove(&number);
        Ok(())
    }

    /// The memory that a range names, if all of it is there.
    pub fn place(&self, range: Range) -> Result<Place, CuResult> {
        let len = usize::try_from(range.len).map_err(|_| CuResult::INVALID_VALUE)?;
        let offset = usize::try_from(range.offset).map_err(|_| CuResult::INVALID_VALUE)?;
        if range.region == 0 {
            let start = self
                .arena
                .check(range.offset, range.len)
                .ok_or(CuResult::INVALID_VALUE)?;
            return Ok(Place {
                start,
                len,
                _region: None,
            });
        }
        let region = self.region(range.region)?;
        let end = offset.checked_add(len).ok_or(CuResult::INVALID_VALUE)?;
        if end > region.mapping.len() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: `offset` is at most the mapping's length.
        let start = unsafe { region.mapping.as_ptr().add(offset) };
        Ok(Place {
            start,
            len,
            _region: Some(region),
        })
    }

    /// Registers a region with the driver. Returns its device address, 0 where the driver has none. A
    /// driver that refuses granted memory is no error: copies from and to it are staged by the driver.
    pub fn pin(&self, number: u32, driver: &Driver) -> Result<u64, CuResult> {
        let region = self.region(number)?;
        let mut pinned = lock(&region.pinned);
        let start: *mut c_void = region.mapping.as_ptr().as_ptr().cast();
        if !*pinned {
            // SAFETY: the mapping stays until `unpin`: `remove` refuses while `pinned` is set.
            let status =
                unsafe { driver.cuMemHostRegister_v2(start, region.mapping.len(), REGISTER_FLAGS) };
            if !status.is_ok() {
                static SAID: std::sync::Once = std::sync::Once::new();
                SAID.call_once(|| {
                    tracing::warn!(%status, "the driver does not register granted memory; copies of page-locked memory are staged");
                });
                return Ok(0);
            }
            *pinned = true;
        }
        let mut device = 0;
        // SAFETY: `device` outlives the call and `start` is registered.
        let status = unsafe { driver.cuMemHostGetDevicePointer_v2(&mut device, start, 0) };
        Ok(if status.is_ok() { device } else { 0 })
    }

    /// Undoes [`Regions::pin`]; waits for the device to be done with the memory.
    pub fn unpin(&self, number: u32, driver: &Driver) -> Result<(), CuResult> {
        self.region(number)?.unpin(driver)
    }

    /// Unregisters everything, before the worker ends.
    pub fn unpin_all(&self, driver: &Driver) {
        for (number, region) in lock(&self.added).iter() {
            if let Err(status) = region.unpin(driver) {
                tracing::warn!(region = number, %status, "the driver keeps granted memory registered");
            }
        }
    }

    fn region(&self, number: u32) -> Result<Arc<Region>, CuResult> {
        lock(&self.added)
            .get(&number)
            .cloned()
            .ok_or(CuResult::INVALID_VALUE)
    }
}

/// CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP.
const REGISTER_FLAGS: u32 = 3;

impl Region {
    fn unpin(&self, driver: &Driver) -> Result<(), CuResult> {
        let mut pinned = lock(&self.pinned);
        if *pinned {
            // SAFETY: it was registered by `pin` and is still mapped.
            unsafe { driver.cuMemHostUnregister(self.mapping.as_ptr().as_ptr().cast()) }.ok()?;
            *pinned = false;
        }
        Ok(())
    }
}
