//! Memory: allocating, freeing, and what is known of an address.

use super::{Out, call};
use crate::context::current;
use crate::driver::Driver;
use crate::memory::{self, Allocation, Home, Owner, Purpose};
use crate::stream::Target;
use cuda_abi::{CuResult, Handle, IpcHandle};
use std::ffi::c_void;

/// Flags of cuMemHostAlloc: portable, device-mapped, write-combined.
const HOST_ALLOC_FLAGS: u32 = 7;
/// Flags of cuMemHostRegister: portable, device-mapped, I/O memory, read-only.
const HOST_REGISTER_FLAGS: u32 = 15;
/// `CU_MEMHOSTREGISTER_READ_ONLY`.
const HOST_REGISTER_READ_ONLY: u32 = 8;
/// Page-locked memory starts at a page, in bytes.
const PAGE: u64 = 4096;

/// Allocates for a context, where need be after what is being freed in stream order.
pub(super) fn allocate(
    driver: &'static Driver,
    target: &Target,
    home: Home,
    bytes: usize,
    flags: u32,
) -> Result<u64, CuResult> {
    let owner = Owner {
        context: target.context.handle,
        flags,
        purpose: Purpose::Program,
    };
    let align = match home {
        Home::Device(_) => 1,
        Home::Managed | Home::Host => PAGE,
    };
    let attempt = || driver.memory.allocate(home, bytes as u64, align, owner);
    let allocation = attempt().or_else(|error| {
        if error == CuResult::OUT_OF_MEMORY {
            driver.engines.wait_context(driver, target.context.id);
        }
        attempt()
    })?;
    Ok(allocation.start)
}

/// Frees an allocation of the program once the work of its context has ended.
fn free(
    driver: &'static Driver,
    start: u64,
    is_home: impl Fn(Home) -> bool,
) -> Result<(), CuResult> {
    driver.captures.check_unsafe_call()?;
    if driver.memory.reserved(start) {
        return Ok(()); // it goes with its graph
    }
    let allocation = driver.memory.end(start, is_home)?;
    let outcome = settle(driver, &allocation);
    driver.pools.released(start);
    driver.memory.release(start);
    outcome
}

/// Waits until the work of an allocation's context has ended.
fn settle(driver: &'static Driver, allocation: &Allocation) -> Result<(), CuResult> {
    match driver.contexts.get(allocation.owner.context as Handle) {
        Some(context) => {
            driver.engines.wait_context(driver, context.id);
            context.print();
            context.check()
        }
        None => Ok(()),
    }
}

pub unsafe fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (free, total) = unsafe { (Out::new(free)?, Out::new(total)?) };
        let (unused, all) = driver.memory.usage(current()?.device);
        free.set(unused as usize);
        total.set(all as usize);
        Ok(())
    })
}

pub unsafe fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(address) }?;
        let target = Target::null(current()?);
        driver.captures.check_unsafe_call()?;
        let home = Home::Device(target.context.device);
        out.set(allocate(driver, &target, home, bytes, 0)?);
        Ok(())
    })
}

pub unsafe fn cuMemFree_v2(address: u64) -> CuResult {
    call(|driver| match address {
        0 => Ok(()),
        _ => free(driver, address, |home| home != Home::Host),
    })
}

pub unsafe fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, address: u64) -> CuResult {
    call(|driver| {
        current()?;
        let found = driver.memory.find(address, 1).ok_or(CuResult::NOT_FOUND)?;
        // SAFETY: the C function's contract.
        unsafe { super::give_range(base, bytes, found.start, found.bytes) };
        Ok(())
    })
}

/// The value of a `CUpointer_attribute`, of the type that it has.
enum Value {
    Word(u32),
    Long(u64),
}

impl Value {
    /// Writes it for the program.
    ///
    /// # Safety
    /// `place` can be written with the attribute's type.
    unsafe fn write(&self, place: *mut c_void) {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Value::Word(value) => place.cast::<u32>().write_unaligned(*value),
                Value::Long(value) => place.cast::<u64>().write_unaligned(*value),
            }
        }
    }

    /// What an attribute is of a pointer that nobody knows.
    fn unknown(attribute: i32) -> Option<Value> {
        match attribute {
            2 | 6 | 8 | 10 | 13 | 15 | 16 => Some(Value::Word(0)),
            9 => Some(Value::Word(-2_i32 as u32)), // CU_DEVICE_INVALID
            1 | 3 | 4 | 7 | 11 | 12 | 14 | 17..=20 => Some(Value::Long(0)),
            _ => None,
        }
    }

    /// An attribute of an address in an allocation.
    fn of(
        driver: &Driver,
        found: &Allocation,
        attribute: i32,
        address: u64,
    ) -> Result<Value, CuResult> {
        let device = match found.home {
            Home::Device(device) => device,
            Home::Managed | Home::Host => {
                let owner = driver.contexts.get(found.owner.context as Handle);
                owner.map_or(0, |context| context.device)
            }
        };
        let on_host = found.home == Home::Host;
        let for_host = on_host || found.home == Home::Managed;
        // What kernels cannot reach has no address for them.
        let for_device = !found.registered || found.writable;
        let mapped = found.owner.purpose == Purpose::Mapping;
        let none = CuResult::INVALID_VALUE;
        Ok(match attribute {
            1 if mapped => Value::Long(0),
            1 => Value::Long(found.owner.context),
            2 => Value::Word(if on_host { 1 } else { 2 }),
            3 => Value::Long(for_device.then_some(address).ok_or(none)?),
            4 => Value::Long(for_host.then_some(address).ok_or(none)?),
            6 => Value::Word(u32::from(found.sync_memops)),
            8 => Value::Word(u32::from(found.home == Home::Managed)),
            7 | 20 => Value::Long(found.id),
            9 => Value::Word(device as u32),
            10 => Value::Word(0), // no sharing between processes
            11 | 19 => Value::Long(found.start),
            12 | 18 => Value::Long(found.bytes),
            13 => Value::Word(1), // mapped
            14 => Value::Long(0), // handle types for sharing
            15 => Value::Word(0), // GPUDirect RDMA
            16 if !for_device => Value::Word(0),
            16 => Value::Word(3), // readable and writable
            17 => Value::Long(driver.pools.of(found.start)),
            _ => return Err(none),
        })
    }
}

pub unsafe fn cuPointerGetAttribute(data: *mut c_void, attribute: i32, address: u64) -> CuResult {
    call(|driver| {
        if data.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        let found = driver.memory.find(address, 1);
        let found = found.ok_or(CuResult::INVALID_VALUE)?;
        let value = Value::of(driver, &found, attribute, address)?;
        // SAFETY: the C function's contract gives `data` the attribute's type.
        unsafe { value.write(data) };
        Ok(())
    })
}

/// A pointer that nobody knows is no error here: its attributes are zeros.
pub unsafe fn cuPointerGetAttributes(
    count: u32,
    attributes: *mut i32,
    data: *mut *mut c_void,
    address: u64,
) -> CuResult {
    call(|driver| {
        if count == 0 || attributes.is_null() || data.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        let found = driver.memory.find(address, 1);
        for at in 0..count as usize {
            // SAFETY: the program says that the arrays have `count` entries.
            let (attribute, place) = unsafe { (attributes.add(at).read(), data.add(at).read()) };
            let unknown = Value::unknown(attribute).ok_or(CuResult::INVALID_VALUE)?;
            let known = found
                .as_ref()
                .and_then(|found| Value::of(driver, found, attribute, address).ok());
            if place.is_null() {
                return Err(CuResult::INVALID_VALUE);
            }
            // SAFETY: each entry has its attribute's type.
            unsafe { known.unwrap_or(unknown).write(place) };
        }
        Ok(())
    })
}

/// Only whether copies of an allocation are synchronous can be set; it changes nothing but the answer.
pub unsafe fn cuPointerSetAttribute(
    value: *const c_void,
    attribute: i32,
    address: u64,
) -> CuResult {
    call(|driver| {
        if value.is_null() || attribute != 6 {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: the attribute is an unsigned number.
        let value = unsafe { value.cast::<u32>().read_unaligned() };
        driver.memory.set_sync_memops(address, value != 0)
    })
}

pub unsafe fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, flags: u32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(address) }?;
        if flags & !HOST_ALLOC_FLAGS != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let target = Target::null(current()?);
        out.set(allocate(driver, &target, Home::Host, bytes, flags)? as *mut c_void);
        Ok(())
    })
}

pub unsafe fn cuMemAllocHost_v2(address: *mut *mut c_void, bytes: usize) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuMemHostAlloc(address, bytes, 0) }
}

pub unsafe fn cuMemFreeHost(address: *mut c_void) -> CuResult {
    call(|driver| free(driver, address as u64, |home| home == Home::Host))
}

/// The host allocation or registration that holds an address.
fn host(driver: &Driver, address: *mut c_void) -> Result<Allocation, CuResult> {
    current()?;
    let found = driver.memory.find(address as u64, 1);
    found
        .filter(|found| found.home == Home::Host)
        .ok_or(CuResult::INVALID_VALUE)
}

/// Kernels reach host memory at its own address, unless it was registered for reading only.
pub unsafe fn cuMemHostGetDevicePointer_v2(
    device: *mut u64,
    address: *mut c_void,
    flags: u32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(device) }?;
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        if !host(driver, address)?.writable {
            return Err(CuResult::NOT_SUPPORTED);
        }
        out.set(address as u64);
        Ok(())
    })
}

pub unsafe fn cuMemHostGetFlags(flags: *mut u32, address: *mut c_void) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(flags) }?;
        out.set(host(driver, address)?.owner.flags);
        Ok(())
    })
}

pub unsafe fn cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: u32) -> CuResult {
    call(|driver| {
        if flags & !HOST_REGISTER_FLAGS != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let owner = Owner {
            context: current()?.handle,
            flags,
            purpose: Purpose::Program,
        };
        let (start, bytes) = (address as u64, bytes as u64);
        let writable = flags & HOST_REGISTER_READ_ONLY == 0;
        if !memory::is_mapped(start, bytes, writable) {
            return Err(CuResult::INVALID_VALUE);
        }
        driver.memory.register(start, bytes, owner, writable)
    })
}

pub unsafe fn cuMemHostUnregister(address: *mut c_void) -> CuResult {
    call(|driver| {
        current()?;
        let found = driver.memory.find(address as u64, 1);
        let found = found.filter(|found| found.registered && found.start == address as u64);
        let found = found.ok_or(CuResult::HOST_MEMORY_NOT_REGISTERED)?;
        let outcome = settle(driver, &found);
        driver.memory.unregister(found.start).and(outcome)
    })
}

/// Rows of device memory start at multiples of this many bytes: what textures need.
const PITCH: usize = 512;

pub unsafe fn cuMemAllocPitch_v2(
    address: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, pitch) = unsafe { (Out::new(address)?, Out::new(pitch)?) };
        if width == 0 || height == 0 || !matches!(element, 4 | 8 | 16) {
            return Err(CuResult::INVALID_VALUE);
        }
        let row = width
            .checked_next_multiple_of(PITCH)
            .ok_or(CuResult::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(CuResult::OUT_OF_MEMORY)?;
        let target = Target::null(current()?);
        let home = Home::Device(target.context.device);
        out.set(allocate(driver, &target, home, bytes, 0)?);
        pitch.set(row);
        Ok(())
    })
}

/// Handles that another process could open do not exist: each process has its own devices' memory.
pub unsafe fn cuIpcGetMemHandle(_handle: *mut IpcHandle, _address: u64) -> CuResult {
    call(|_| Err(CuResult::NOT_SUPPORTED))
}

pub unsafe fn cuIpcOpenMemHandle_v2(
    _address: *mut u64,
    _handle: IpcHandle,
    _flags: u32,
) -> CuResult {
    call(|_| Err(CuResult::NOT_SUPPORTED))
}

pub unsafe fn cuIpcCloseMemHandle(_address: u64) -> CuResult {
    call(|_| Err(CuResult::NOT_SUPPORTED))
}

pub unsafe fn cuIpcGetEventHandle(_handle: *mut IpcHandle, _event: Handle) -> CuResult {
    call(|_| Err(CuResult::NOT_SUPPORTED))
}

pub unsafe fn cuIpcOpenEventHandle(_event: *mut Handle, _handle: IpcHandle) -> CuResult {
    call(|_| Err(CuResult::NOT_SUPPORTED))
}
