//! Managed memory: one address for the host and all devices, and what a program says of its use.

use super::memory::allocate;
use super::{Out, call, device_index};
use crate::context::current;
use crate::driver::Driver;
use crate::memory::{Advice, Home, Location};
use crate::stream::Target;
use crate::work::Work;
use cuda_abi::{CuResult, Handle, MemLocation};
use std::ffi::c_void;

/// `CU_MEM_ATTACH_GLOBAL`.
const ATTACH_GLOBAL: u32 = 1;
/// `CU_MEM_ATTACH_HOST`.
const ATTACH_HOST: u32 = 2;
/// `CU_MEM_ATTACH_SINGLE`.
const ATTACH_SINGLE: u32 = 4;
/// `CU_DEVICE_CPU`.
const CPU: i32 = -1;
/// `CU_DEVICE_INVALID`.
const INVALID_DEVICE: i32 = -2;

pub unsafe fn cuMemAllocManaged(address: *mut u64, bytes: usize, flags: u32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(address) }?;
        if !matches!(flags, ATTACH_GLOBAL | ATTACH_HOST) {
            return Err(CuResult::INVALID_VALUE);
        }
        let target = Target::null(current()?);
        out.set(allocate(driver, &target, Home::Managed, bytes, flags)?);
        Ok(())
    })
}

/// All memory is equally near, so that attaching changes nothing but is checked.
pub unsafe fn cuStreamAttachMemAsync(
    stream: Handle,
    address: u64,
    bytes: usize,
    flags: u32,
) -> CuResult {
    call(|driver| {
        let target = Target::of(driver, stream)?;
        if !matches!(flags, ATTACH_GLOBAL | ATTACH_HOST | ATTACH_SINGLE) {
            return Err(CuResult::INVALID_VALUE);
        }
        let found = driver.memory.find(address, bytes as u64);
        let found = found.filter(|found| found.home == Home::Managed);
        found.ok_or(CuResult::INVALID_VALUE)?;
        let lane = target.lane;
        driver
            .engines
            .submit(driver, &target.context, lane, Work::Mark, 0)?;
        Ok(())
    })
}

/// The place of a device number, where [`CPU`] is the host.
fn by_number(driver: &Driver, device: i32) -> Result<Location, CuResult> {
    match device {
        CPU => Ok(Location::Host),
        device => device_index(driver, device).map(Location::Device),
    }
}

/// The place of a `CUmemLocation`.
fn place(driver: &Driver, location: MemLocation) -> Result<Location, CuResult> {
    match location.kind {
        1 => device_index(driver, location.id).map(Location::Device),
        2 => Ok(Location::Host),
        3 if location.id >= 0 => Ok(Location::HostNode(location.id)),
        4 => Ok(Location::HostNode(0)),
        _ => Err(CuResult::INVALID_VALUE),
    }
}

/// Notes in the stream's order that memory was prefetched.
fn prefetch(
    driver: &'static Driver,
    address: u64,
    bytes: usize,
    to: Result<Location, CuResult>,
    stream: Handle,
) -> Result<(), CuResult> {
    let target = Target::of(driver, stream)?;
    let to = to?;
    driver
        .memory
        .advise(address, bytes as u64, |advice| advice.prefetched = Some(to))?;
    let lane = target.lane;
    driver
        .engines
        .submit(driver, &target.context, lane, Work::Mark, 0)?;
    Ok(())
}

pub unsafe fn cuMemPrefetchAsync(
    address: u64,
    bytes: usize,
    device: i32,
    stream: Handle,
) -> CuResult {
    call(|driver| {
        let to = by_number(driver, device);
        prefetch(driver, address, bytes, to, stream)
    })
}

pub unsafe fn cuMemPrefetchAsync_v2(
    address: u64,
    bytes: usize,
    location: MemLocation,
    flags: u32,
    stream: Handle,
) -> CuResult {
    call(|driver| {
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let to = place(driver, location);
        prefetch(driver, address, bytes, to, stream)
    })
}

/// Notes a `CUmem_advise`.
fn advise(
    driver: &Driver,
    address: u64,
    bytes: usize,
    what: i32,
    location: Result<Location, CuResult>,
) -> Result<(), CuResult> {
    current()?;
    // Only these concern a place.
    let location = match what {
        3 | 5 | 6 => Some(location?),
        _ => None,
    };
    let change = |advice: &mut Advice| match (what, location) {
        (1, _) => advice.read_mostly = true,
        (2, _) => advice.read_mostly = false,
        (3, _) => advice.preferred = location,
        (4, _) => advice.preferred = None,
        (_, Some(location)) => {
            advice.accessed_by.retain(|by| *by != location);
            if what == 5 {
                advice.accessed_by.push(location);
            }
        }
        _ => {}
    };
    if !(1..=6).contains(&what) {
        return Err(CuResult::INVALID_VALUE);
    }
    driver.memory.advise(address, bytes as u64, change)
}

pub unsafe fn cuMemAdvise(address: u64, bytes: usize, what: i32, device: i32) -> CuResult {
    call(|driver| {
        let location = by_number(driver, device);
        advise(driver, address, bytes, what, location)
    })
}

pub unsafe fn cuMemAdvise_v2(
    address: u64,
    bytes: usize,
    what: i32,
    location: MemLocation,
) -> CuResult {
    call(|driver| {
        let location = place(driver, location);
        advise(driver, address, bytes, what, location)
    })
}

/// What all parts have in common, if they do.
fn common<T: PartialEq>(parts: &[Advice], of: impl Fn(&Advice) -> T) -> Option<T> {
    let mut values = parts.iter().map(of);
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// A place's device number.
fn number(location: Option<Location>) -> i32 {
    match location {
        Some(Location::Device(device)) => device as i32,
        Some(Location::Host | Location::HostNode(_)) => CPU,
        None => INVALID_DEVICE,
    }
}

/// A place as `CUmemLocation` has it: its type and number.
fn typed(location: Option<Location>) -> [i32; 2] {
    match location {
        Some(Location::Device(device)) => [1, device as i32],
        Some(Location::Host) => [2, 0],
        Some(Location::HostNode(node)) => [3, node],
        None => [0, 0],
    }
}

/// Answers a `CUmem_range_attribute` as 32-bit numbers.
///
/// # Safety
/// `data` is null, or `bytes` can be written there.
unsafe fn range_attribute(
    driver: &Driver,
    data: *mut c_void,
    bytes: usize,
    attribute: i32,
    address: u64,
    count: usize,
) -> Result<(), CuResult> {
    let room = bytes / 4;
    if data.is_null() || room == 0 || !bytes.is_multiple_of(4) || attribute != 3 && bytes != 4 {
        return Err(CuResult::INVALID_VALUE);
    }
    let parts = driver.memory.advice(address, count as u64)?;
    let preferred = || common(&parts, |advice| advice.preferred).flatten();
    let prefetched = || common(&parts, |advice| advice.prefetched).flatten();
    let values = match attribute {
        1 => vec![i32::from(
            common(&parts, |advice| advice.read_mostly).unwrap_or(false),
        )],
        2 => vec![number(preferred())],
        3 => {
            let mut by: Vec<Location> = parts
                .first()
                .map(|first| first.accessed_by.clone())
                .unwrap_or_default();
            by.retain(|location| parts.iter().all(|part| part.accessed_by.contains(location)));
            by.sort();
            let mut numbers: Vec<i32> = by.into_iter().map(|by| number(Some(by))).collect();
            numbers.resize(room, INVALID_DEVICE);
            numbers
        }
        4 => vec![number(prefetched())],
        5 => vec![typed(preferred())[0]],
        6 => vec![typed(preferred())[1]],
        7 => vec![typed(prefetched())[0]],
        8 => vec![typed(prefetched())[1]],
        _ => return Err(CuResult::INVALID_VALUE),
    };
    for (at, value) in values.into_iter().take(room).enumerate() {
        // SAFETY: within the caller's bytes.
        unsafe { data.cast::<i32>().add(at).write_unaligned(value) };
    }
    Ok(())
}

pub unsafe fn cuMemRangeGetAttribute(
    data: *mut c_void,
    bytes: usize,
    attribute: i32,
    address: u64,
    count: usize,
) -> CuResult {
    call(|driver| {
        current()?;
        // SAFETY: the C function's contract.
        unsafe { range_attribute(driver, data, bytes, attribute, address, count) }
    })
}

pub unsafe fn cuMemRangeGetAttributes(
    data: *mut *mut c_void,
    sizes: *mut usize,
    attributes: *mut i32,
    number: usize,
    address: u64,
    count: usize,
) -> CuResult {
    call(|driver| {
        current()?;
        if data.is_null() || sizes.is_null() || attributes.is_null() || number == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        for at in 0..number {
            // SAFETY: the program says that the arrays have `number` entries; each place is as large as
            // its size says.
            unsafe {
                let (data, bytes) = (data.add(at).read(), sizes.add(at).read());
                range_attribute(
                    driver,
                    data,
                    bytes,
                    attributes.add(at).read(),
                    address,
                    count,
                )?;
            }
        }
        Ok(())
    })
}
