//! Devices and their primary contexts.

use super::{Out, call, device_index};
use crate::context::Context;
use cuda_abi::{CuResult, Handle, Uuid};
use std::ffi::{CStr, c_char, c_void};

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
        out.set(driver.primaries[device].retain(driver)? as Handle);
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

/// `CUdevprop`.
#[repr(C)]
struct Properties {
    max_threads: i32,
    max_block: [i32; 3],
    max_grid: [i32; 3],
    shared_bytes: i32,
    constant_bytes: i32,
    warp: i32,
    max_pitch: i32,
    registers: i32,
    clock_khz: i32,
    texture_alignment: i32,
}

pub unsafe fn cuDeviceGetProperties(properties: *mut c_void, device: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(properties.cast::<Properties>()) }?;
        let device = &driver.devices[device_index(driver, device)?];
        let value = |attribute: i32| device.attribute(attribute).ok_or(CuResult::UNKNOWN);
        out.set(Properties {
            max_threads: value(1)?,
            max_block: [value(2)?, value(3)?, value(4)?],
            max_grid: [value(5)?, value(6)?, value(7)?],
            shared_bytes: value(8)?,
            constant_bytes: value(9)?,
            warp: value(10)?,
            max_pitch: value(11)?,
            registers: value(12)?,
            clock_khz: value(13)?,
            texture_alignment: value(14)?,
        });
        Ok(())
    })
}

/// Numbers of Windows' display drivers do not exist here.
pub unsafe fn cuDeviceGetLuid(luid: *mut c_char, mask: *mut u32, device: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        unsafe { (Out::new(luid)?, Out::new(mask)?) };
        device_index(driver, device)?;
        Err(CuResult::NOT_SUPPORTED)
    })
}

pub unsafe fn cuDeviceCanAccessPeer(can: *mut i32, device: i32, peer: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(can) }?;
        let (device, peer) = (device_index(driver, device)?, device_index(driver, peer)?);
        out.set(i32::from(device != peer));
        Ok(())
    })
}

pub unsafe fn cuDeviceGetP2PAttribute(
    value: *mut i32,
    attribute: i32,
    device: i32,
    peer: i32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(value) }?;
        if device_index(driver, device)? == device_index(driver, peer)? {
            return Err(CuResult::INVALID_DEVICE);
        }
        out.set(match attribute {
            1 => 0, // no pair is faster than another
            // Access, native atomics, arrays, and (since CUDA 12.8) partial native atomics.
            2..=4 => 1,
            5 => 0,
            _ => return Err(CuResult::INVALID_VALUE),
        });
        Ok(())
    })
}

pub unsafe fn cuDeviceGetTexture1DLinearMaxWidth(
    texels: *mut usize,
    format: i32,
    channels: u32,
    device: i32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(texels) }?;
        device_index(driver, device)?;
        let format = u32::try_from(format).map_err(|_| CuResult::INVALID_VALUE)?;
        let bytes = crate::array::texel_bytes(crate::array::channel_format(format)?, channels)?;
        let memory = driver.devices[device_index(driver, device)?].memory;
        let most = u64::from(crate::exec::texture::MAX_EXTENT);
        out.set((memory / bytes).min(most) as usize);
        Ok(())
    })
}

/// The device's cores cannot be shared out.
pub unsafe fn cuDeviceGetExecAffinitySupport(
    supported: *mut i32,
    kind: i32,
    device: i32,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(supported) }?;
        device_index(driver, device)?;
        if kind != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        out.set(0);
        Ok(())
    })
}
