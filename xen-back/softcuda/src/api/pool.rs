//! Stream-ordered allocation and memory pools.

use super::memory::allocate;
use super::{Out, call, device_index};
use crate::context::{Context, current};
use crate::driver::Driver;
use crate::engine::Lane;
use crate::graph::{Operation, Reservation};
use crate::memory::{Home, Owner, Purpose};
use crate::pool::Pool;
use crate::stream::Target;
use crate::work::Work;
use cuda_abi::{CuResult, Handle};
use std::ffi::c_void;
use std::sync::Arc;

/// `CU_MEM_ALLOCATION_TYPE_PINNED` and `CU_MEM_LOCATION_TYPE_DEVICE`, the only ones of pools here.
const PINNED: i32 = 1;
const ON_DEVICE: i32 = 1;

/// `CUmemLocation`, with integers for its enum.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Location {
    kind: i32,
    id: i32,
}

/// The beginning of `CUmemPoolProps`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Properties {
    allocation: i32,
    handles: i32,
    location: Location,
}

/// `CUmemAccessDesc`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Access {
    location: Location,
    flags: i32,
}

impl Location {
    /// The index of the device that it is.
    fn device(self, driver: &Driver) -> Result<usize, CuResult> {
        match self.kind {
            ON_DEVICE => device_index(driver, self.id).map_err(|_| CuResult::INVALID_VALUE),
            _ => Err(CuResult::INVALID_VALUE),
        }
    }
}

impl Properties {
    /// Those of memory of a device.
    pub(super) fn of_device(device: usize) -> Properties {
        Properties {
            allocation: PINNED,
            handles: 0,
            location: Location {
                kind: ON_DEVICE,
                id: device as i32,
            },
        }
    }

    /// The index of the device of a pool with these properties.
    pub(super) fn device(&self, driver: &Driver) -> Result<usize, CuResult> {
        match (self.allocation, self.handles) {
            (PINNED, 0) => self.location.device(driver),
            (PINNED, _) => Err(CuResult::NOT_SUPPORTED), // handles for other processes
            _ => Err(CuResult::INVALID_VALUE),
        }
    }
}

/// Allocates from a pool in a stream's order; in a captured stream, for its graph.
fn allocate_from(
    driver: &'static Driver,
    pool: Arc<Pool>,
    bytes: usize,
    target: &Target,
) -> Result<u64, CuResult> {
    if pool.device != target.context.device {
        return Err(CuResult::INVALID_VALUE);
    }
    let place = (target.context.id, target.lane);
    if driver.captures.has(place) {
        let reservation = Arc::new(reserve(driver, &target.context, bytes)?);
        let start = reservation.start();
        let node = Operation::Alloc(reservation, bytes as u64);
        driver.captures.add(driver, place, node)?;
        return Ok(start);
    }
    if target.lane == Lane::Null {
        driver.captures.check_wait(&target.context, target.lane)?;
    }
    let home = Home::Device(pool.device);
    let start = allocate(driver, target, home, bytes, 0)?;
    let context = target.context.handle;
    driver.pools.allocated(start, bytes as u64, pool, context);
    Ok(start)
}

/// Memory for a graph.
pub(super) fn reserve(
    driver: &'static Driver,
    context: &Context,
    bytes: usize,
) -> Result<Reservation, CuResult> {
    let owner = Owner {
        context: context.handle,
        flags: 0,
        purpose: Purpose::Graph,
    };
    let home = Home::Device(context.device);
    let allocation = driver.memory.allocate(home, bytes as u64, 1, owner)?;
    Ok(Reservation::new(driver, allocation))
}

pub unsafe fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(address) }?;
        let target = Target::of(driver, stream)?;
        let pool = driver.pools.current_of(target.context.device);
        let pool = pool.ok_or(CuResult::INVALID_DEVICE)?;
        out.set(allocate_from(driver, pool, bytes, &target)?);
        Ok(())
    })
}

pub unsafe fn cuMemAllocFromPoolAsync(
    address: *mut u64,
    bytes: usize,
    pool: Handle,
    stream: Handle,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(address) }?;
        let target = Target::of(driver, stream)?;
        let pool = driver.pools.find(pool)?;
        out.set(allocate_from(driver, pool, bytes, &target)?);
        Ok(())
    })
}

pub unsafe fn cuMemFreeAsync(address: u64, stream: Handle) -> CuResult {
    call(|driver| {
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        let place = (context.id, lane);
        let work = if driver.captures.has(place) {
            Work::Release(address)
        } else if driver.memory.reserved(address) {
            Work::Mark // it goes with its graph
        } else {
            driver.captures.check_wait(&context, lane)?;
            Work::Release(driver.memory.end(address, |home| home != Home::Host)?.start)
        };
        driver.engines.submit(driver, &context, lane, work, 0)?;
        Ok(())
    })
}

/// The pool of a device, as `which` has it.
unsafe fn pool_of(
    pool: *mut Handle,
    device: i32,
    which: impl FnOnce(&Driver, usize) -> Option<Arc<Pool>>,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C functions' contract.
        let out = unsafe { Out::new(pool) }?;
        let device = device_index(driver, device)?;
        let found = which(driver, device).ok_or(CuResult::INVALID_DEVICE)?;
        out.set(found.number as Handle);
        Ok(())
    })
}

pub unsafe fn cuDeviceGetDefaultMemPool(pool: *mut Handle, device: i32) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        pool_of(pool, device, |driver, device| {
            driver.pools.default_of(device)
        })
    }
}

pub unsafe fn cuDeviceGetMemPool(pool: *mut Handle, device: i32) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        pool_of(pool, device, |driver, device| {
            driver.pools.current_of(device)
        })
    }
}

pub unsafe fn cuDeviceSetMemPool(device: i32, pool: Handle) -> CuResult {
    call(|driver| {
        let device = device_index(driver, device)?;
        driver.pools.set_current(device, driver.pools.find(pool)?)
    })
}

pub unsafe fn cuMemPoolCreate(pool: *mut Handle, properties: *const c_void) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(pool) }?;
        // SAFETY: null, or the structure that this function takes.
        let properties = unsafe { properties.cast::<Properties>().as_ref() };
        let device = properties.ok_or(CuResult::INVALID_VALUE)?.device(driver)?;
        out.set(driver.pools.create(device) as Handle);
        Ok(())
    })
}

pub unsafe fn cuMemPoolDestroy(pool: Handle) -> CuResult {
    call(|driver| driver.pools.destroy(pool))
}

/// What is freed goes back at once, so there is nothing to trim.
pub unsafe fn cuMemPoolTrimTo(pool: Handle, _bytes_to_keep: usize) -> CuResult {
    call(|driver| driver.pools.find(pool).map(drop))
}

pub unsafe fn cuMemPoolGetAttribute(pool: Handle, attribute: i32, value: *mut c_void) -> CuResult {
    call(|driver| {
        let (found, long) = driver.pools.find(pool)?.attribute(attribute)?;
        // SAFETY: the C function's contract gives the place the attribute's type.
        unsafe {
            match long {
                true => Out::new(value.cast::<u64>())?.set(found),
                false => Out::new(value.cast::<i32>())?.set(found as i32),
            }
        }
        Ok(())
    })
}

pub unsafe fn cuMemPoolSetAttribute(pool: Handle, attribute: i32, value: *mut c_void) -> CuResult {
    call(|driver| {
        let pool = driver.pools.find(pool)?;
        let (_, long) = pool.attribute(attribute)?;
        if value.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: not null, so a value of the attribute's type.
        let value = unsafe {
            match long {
                true => value.cast::<u64>().read_unaligned(),
                false => u64::from(value.cast::<u32>().read_unaligned()),
            }
        };
        pool.set_attribute(attribute, value)
    })
}

pub unsafe fn cuMemPoolSetAccess(pool: Handle, list: *const c_void, count: usize) -> CuResult {
    call(|driver| {
        let pool = driver.pools.find(pool)?;
        if list.is_null() || count > driver.devices.len() {
            return Err(CuResult::INVALID_VALUE);
        }
        for at in 0..count {
            // SAFETY: the list has `count` entries.
            let access = unsafe { list.cast::<Access>().add(at).read_unaligned() };
            let flags = u64::try_from(access.flags).map_err(|_| CuResult::INVALID_VALUE)?;
            pool.set_access(access.location.device(driver)?, flags)?;
        }
        Ok(())
    })
}

pub unsafe fn cuMemPoolGetAccess(
    flags: *mut i32,
    pool: Handle,
    location: *const c_void,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(flags) }?;
        // SAFETY: null, or the structure that this function takes.
        let location = unsafe { location.cast::<Location>().as_ref() };
        let device = location.ok_or(CuResult::INVALID_VALUE)?.device(driver)?;
        let pool = driver.pools.find(pool)?;
        out.set(pool.access(device) as i32);
        Ok(())
    })
}

pub unsafe fn cuDeviceGraphMemTrim(device: i32) -> CuResult {
    call(|driver| {
        device_index(driver, device)?;
        current().map(drop)
    })
}
