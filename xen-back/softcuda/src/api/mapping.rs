//! Virtual memory management: addresses, physical memory, and the one at the other.

use super::{Out, call, device_index};
use crate::api::array::given;
use crate::driver::Driver;
use crate::memory::{GRANULARITY, Physical};
use cuda_abi::{CuResult, Kind, MemLocation};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// `CUmemGenericAllocationHandle`, as a kind of handle.
#[derive(Debug)]
pub enum PhysicalKind {}
impl Kind for PhysicalKind {
    const TAG: u8 = 0x27;
    const NAME: &'static str = "CUmemGenericAllocationHandle";
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Properties {
    kind: i32,
    handle_types: i32,
    location: MemLocation,
    win32: *mut c_void,
    /// Compression, RDMA, usage, padding.
    flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Access {
    location: MemLocation,
    flags: i32,
}

/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
const PINNED: i32 = 1;
/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const ON_DEVICE: i32 = 1;
/// `CU_MEM_LOCATION_TYPE_HOST` and those of its nodes.
const ON_HOST: std::ops::RangeInclusive<i32> = 2..=4;
/// `CU_MEM_ACCESS_FLAGS_PROT_READ`.
const READ: i32 = 1;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`.
const READ_WRITE: i32 = 3;

/// What a handle stands for.
#[derive(Debug)]
pub struct PhysicalHandle {
    physical: Arc<Physical>,
    /// How often it must be released.
    users: AtomicU32,
}

impl Properties {
    /// The device; `None` for the host.
    fn device(&self, driver: &Driver) -> Result<Option<usize>, CuResult> {
        if self.kind != PINNED {
            return Err(CuResult::INVALID_VALUE);
        }
        if self.handle_types != 0 {
            return Err(CuResult::NOT_SUPPORTED);
        }
        match self.location.kind {
            ON_DEVICE => device_index(driver, self.location.id).map(Some),
            kind if ON_HOST.contains(&kind) => Ok(None),
            _ => Err(CuResult::INVALID_VALUE),
        }
    }
}

fn find(driver: &Driver, handle: u64) -> Result<Arc<PhysicalHandle>, CuResult> {
    let found = driver.physical.get(handle as _);
    found.ok_or(CuResult::INVALID_VALUE)
}

pub unsafe fn cuMemGetAllocationGranularity(
    bytes: *mut usize,
    properties: *const c_void,
    option: i32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, properties) = unsafe { (Out::new(bytes)?, given::<Properties>(properties)?) };
        properties.device(driver)?;
        if !(0..=1).contains(&option) {
            return Err(CuResult::INVALID_VALUE);
        }
        out.set(GRANULARITY as usize);
        Ok(())
    })
}

/// An address that the program would like is a hint, which is not followed.
pub unsafe fn cuMemAddressReserve(
    address: *mut u64,
    bytes: usize,
    alignment: usize,
    _wish: u64,
    flags: u64,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(address) }?;
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let start = driver
            .memory
            .reserve_addresses(bytes as u64, alignment as u64)?;
        out.set(start);
        Ok(())
    })
}

pub unsafe fn cuMemAddressFree(address: u64, bytes: usize) -> CuResult {
    call(|driver| driver.memory.free_addresses(address, bytes as u64))
}

pub unsafe fn cuMemCreate(
    handle: *mut u64,
    bytes: usize,
    properties: *const c_void,
    flags: u64,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, properties) = unsafe { (Out::new(handle)?, given::<Properties>(properties)?) };
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let device = properties.device(driver)?;
        let physical = driver.memory.physical(device, bytes as u64)?;
        out.set(give(driver, physical));
        Ok(())
    })
}

/// Makes a handle.
fn give(driver: &Driver, physical: Arc<Physical>) -> u64 {
    let number = driver.physical.number();
    let handle = PhysicalHandle {
        physical,
        users: AtomicU32::new(1),
    };
    driver.physical.insert(number, Arc::new(handle));
    number
}

/// The memory goes with its last handle and mapping.
pub unsafe fn cuMemRelease(handle: u64) -> CuResult {
    call(|driver| {
        let found = find(driver, handle)?;
        if found.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            driver.physical.remove(handle as _);
        }
        Ok(())
    })
}

pub unsafe fn cuMemRetainAllocationHandle(handle: *mut u64, address: *mut c_void) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(handle) }?;
        let physical = driver.memory.physical_at(address as u64)?;
        let known = driver
            .physical
            .find(|known| Arc::ptr_eq(&known.physical, &physical));
        out.set(match known {
            Some((number, known)) => {
                known.users.fetch_add(1, Ordering::AcqRel);
                number
            }
            None => give(driver, physical),
        });
        Ok(())
    })
}

pub unsafe fn cuMemMap(
    address: u64,
    bytes: usize,
    offset: usize,
    handle: u64,
    flags: u64,
) -> CuResult {
    call(|driver| {
        let found = find(driver, handle)?;
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        driver
            .memory
            .map(address, bytes as u64, &found.physical, offset as u64)
    })
}

pub unsafe fn cuMemUnmap(address: u64, bytes: usize) -> CuResult {
    call(|driver| driver.memory.unmap(address, bytes as u64))
}

pub unsafe fn cuMemSetAccess(
    address: u64,
    bytes: usize,
    accesses: *const c_void,
    count: usize,
) -> CuResult {
    call(|driver| {
        if accesses.is_null() || count == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        for at in 0..count {
            // SAFETY: the program says that there are `count` entries.
            let access = unsafe { given::<Access>(accesses.cast::<Access>().add(at).cast()) }?;
            let allowed = match access.flags {
                0 => false,
                READ_WRITE => true,
                // Pages here are readable and writable, or not there.
                READ => return Err(CuResult::NOT_SUPPORTED),
                _ => return Err(CuResult::INVALID_VALUE),
            };
            match access.location.kind {
                ON_DEVICE => {
                    let device = device_index(driver, access.location.id)?;
                    driver
                        .memory
                        .set_access(address, bytes as u64, device, allowed)?;
                }
                kind if ON_HOST.contains(&kind) => {} // the host reaches all
                _ => return Err(CuResult::INVALID_VALUE),
            }
        }
        Ok(())
    })
}

pub unsafe fn cuMemGetAccess(flags: *mut u64, location: *const c_void, address: u64) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, location) = unsafe { (Out::new(flags)?, given::<MemLocation>(location)?) };
        let allowed = match location.kind {
            ON_DEVICE => {
                let device = device_index(driver, location.id)?;
                driver.memory.access(address, device)?
            }
            kind if ON_HOST.contains(&kind) => driver.memory.physical_at(address).is_ok(),
            _ => return Err(CuResult::INVALID_VALUE),
        };
        out.set(if allowed { READ_WRITE as u64 } else { 0 });
        Ok(())
    })
}

pub unsafe fn cuMemGetAllocationPropertiesFromHandle(
    properties: *mut c_void,
    handle: u64,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(properties.cast::<Properties>()) }?;
        let found = find(driver, handle)?;
        let location = match found.physical.device {
            Some(device) => MemLocation {
                kind: ON_DEVICE,
                id: device as i32,
            },
            None => MemLocation { kind: 2, id: 0 },
        };
        out.set(Properties {
            kind: PINNED,
            handle_types: 0,
            location,
            win32: std::ptr::null_mut(),
            flags: [0; 8],
        });
        Ok(())
    })
}

/// Memory cannot be shared between processes, as the device's attributes say.
pub unsafe fn cuMemExportToShareableHandle(
    _shareable: *mut c_void,
    handle: u64,
    _kind: i32,
    _flags: u64,
) -> CuResult {
    call(|driver| {
        find(driver, handle)?;
        Err(CuResult::NOT_SUPPORTED)
    })
}

pub unsafe fn cuMemImportFromShareableHandle(
    _handle: *mut u64,
    _shareable: *mut c_void,
    _kind: i32,
) -> CuResult {
    call(|_| Err(CuResult::NOT_SUPPORTED))
}
