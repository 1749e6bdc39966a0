//! Devices and their primary contexts.

use super::{Out, call, device_index};
use crate::context::Context;
use cuda_abi::{CuResult, Handle, Uuid};
use std::ffi::{CStr, c_char};

pub unsafe fn cuDeviceGetCount(count: *mut i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        unsafe { Out::new(count) }?.set(driver.devices.len() as i32);
        Ok(())
    })
}

pub unsafe fn cuDeviceGet(device: *mut i32, ordinal: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(device) }?;
        device_index(driver, ordinal)?;
        out.set(ordinal);
        Ok(())
    })
}

pub unsafe fn cuDeviceGetName(name: *mut c_char, len: i32, device: i32) -> CuResult {
    call(|driver| {
        let device = &driver.devices[device_index(driver, device)?];
        // SAFETY: the C function's contract.
        unsafe { give_text(&device.name(), name, len) }
    })
}

/// Writes as much of a text as fits, ended by a NUL byte.
///
/// # Safety
/// `place` is null, or `len` bytes can be written there.
unsafe fn give_text(text: &str, place: *mut c_char, len: i32) -> Result<(), CuResult> {
    let room = usize::try_from(len).ok().and_then(|len| len.checked_sub(1));
    let (Some(room), false) = (room, place.is_null()) else {
        return Err(CuResult::INVALID_VALUE);
    };
    let written = text.len().min(room);
    // SAFETY: `len` bytes fit, which is one more than `room`.
    unsafe {
        place.copy_from_nonoverlapping(text.as_ptr().cast(), written);
        place.add(written).write(0);
    }
    Ok(())
}

pub unsafe fn cuDeviceGetPCIBusId(text: *mut c_char, len: i32, device: i32) -> CuResult {
    call(|driver| {
        let device = &driver.devices[device_index(driver, device)?];
        // SAFETY: the C function's contract.
        unsafe { give_text(&device.pci_bus_id(), text, len) }
    })
}

pub unsafe fn cuDeviceGetByPCIBusId(device: *mut i32, text: *const c_char) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(device) }?;
        if text.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: not null, so a C string.
        let text = unsafe { CStr::from_ptr(text) };
        let text = text.to_str().map_err(|_| CuResult::INVALID_VALUE)?;
        let found = driver.devices.iter().position(|device| device.is_at(text));
        out.set(found.ok_or(CuResult::INVALID_DEVICE)? as i32);
        Ok(())
    })
}

pub unsafe fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(value) }?;
        let device = &driver.devices[device_index(driver, device)?];
        out.set(device.attribute(attribute).ok_or(CuResult::INVALID_VALUE)?);
        Ok(())
    })
}

pub unsafe fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(bytes) }?;
        out.set(driver.devices[device_index(driver, device)?].memory as usize);
        Ok(())
    })
}

pub unsafe fn cuDeviceGetUuid(uuid: *mut Uuid, device: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(uuid) }?;
        out.set(driver.devices[device_index(driver, device)?].uuid);
        Ok(())
    })
}

pub unsafe fn cuDeviceGetUuid_v2(uuid: *mut Uuid, device: i32) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuDeviceGetUuid(uuid, device) }
}

pub unsafe fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, device: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (major, minor) = unsafe { (Out::new(major)?, Out::new(minor)?) };
        device_index(driver, device)?;
        major.set(crate::device::COMPUTE_CAPABILITY.0);
        minor.set(crate::device::COMPUTE_CAPABILITY.1);
        Ok(())
    })
}

pub unsafe fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(context) }?;
        let device = device_index(driver, device)?;
        out.set(driver.primaries[device].retain(driver) as Handle);
        Ok(())
    })
}

pub unsafe fn cuDevicePrimaryCtxRelease_v2(device: i32) -> CuResult {
    call(|driver| driver.primaries[device_index(driver, device)?].release(driver))
}

pub unsafe fn cuDevicePrimaryCtxReset_v2(device: i32) -> CuResult {
    call(|driver| {
        driver.primaries[device_index(driver, device)?].reset(driver);
        Ok(())
    })
}

pub unsafe fn cuDevicePrimaryCtxGetState(
    device: i32,
    flags: *mut u32,
    active: *mut i32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (flags, active) = unsafe { (Out::new(flags)?, Out::new(active)?) };
        let (set, there) = driver.primaries[device_index(driver, device)?].status();
        flags.set(set);
        active.set(i32::from(there));
        Ok(())
    })
}

pub unsafe fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) -> CuResult {
    call(|driver| {
        let device = device_index(driver, device)?;
        if !Context::flags_valid(flags) {
            return Err(CuResult::INVALID_VALUE);
        }
        driver.primaries[device].set_flags(flags);
        Ok(())
    })
}
