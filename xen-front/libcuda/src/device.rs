//! `cuInit` and what is asked of devices before there is a context.
//!
//! Must never claim an ability that this driver does not carry to the backend.

use crate::context::{answer, give};
use crate::session::{Session, connect, session};
use cuda_abi::{CUDA_VERSION, CuResult, sys};
use std::ffi::{CStr, c_char};
use vgpu_client::PciAddress;
use vgpu_protocol::calls::request;

pub unsafe fn cuInit(Flags: u32) -> CuResult {
    if Flags != 0 {
        return CuResult::INVALID_VALUE;
    }
    connect().map(|_| ()).into()
}

pub unsafe fn cuDriverGetVersion(driverVersion: *mut i32) -> CuResult {
    // May be called before cuInit; with no backend in reach it still says what this library is.
    let backend = session()
        .or_else(|_| connect())
        .and_then(|session| session.once(&request::DriverVersion {}))
        .map_or(CUDA_VERSION, |reply| reply.version);
    give(driverVersion, backend.min(CUDA_VERSION)).into()
}

use sys::CUdevice_attribute as A;

/// What the backend's device can do and this driver does not carry: answered with 0.
const NOT_CARRIED: &[i32] = &[
    A::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY as i32,
    A::CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS as i32,
    A::CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST as i32,
    A::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS as i32,
    A::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES as i32,
    A::CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM as i32,
    A::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED as i32,
    A::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED as i32,
    A::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED as i32,
    A::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED as i32,
    A::CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED as i32,
    A::CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1 as i32,
    A::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1 as i32,
    A::CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1 as i32,
    A::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS as i32,
    A::CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR as i32,
    A::CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED as i32,
];

/// An attribute, as this driver offers it.
pub fn attribute(session: &Session, attribute: i32, device: i32) -> Result<i32, CuResult> {
    let reply = session.once(&request::DeviceAttribute { attribute, device })?;
    Ok(if NOT_CARRIED.contains(&attribute) {
        0
    } else {
        reply.value
    })
}

pub unsafe fn cuDeviceGetAttribute(pi: *mut i32, attrib: i32, dev: i32) -> CuResult {
    answer(|session| give(pi, attribute(session, attrib, dev)?))
}

fn count(session: &Session) -> Result<i32, CuResult> {
    Ok(session
        .once(&request::cuDeviceGetCount { count: () })?
        .count)
}

pub unsafe fn cuDeviceGet(device: *mut i32, ordinal: i32) -> CuResult {
    answer(|session| {
        if !(0..count(session)?).contains(&ordinal) {
            return Err(CuResult::INVALID_DEVICE);
        }
        give(device, ordinal)
    })
}

/// Writes text with its NUL where the program has `len` bytes, cut to what fits.
fn give_text(mut text: Vec<u8>, place: *mut c_char, len: i32) -> Result<(), CuResult> {
    let room = usize::try_from(len).map_err(|_| CuResult::INVALID_VALUE)?;
    if place.is_null() || room == 0 {
        return Err(CuResult::INVALID_VALUE);
    }
    text.truncate(room.saturating_sub(1));
    text.push(0);
    // SAFETY: the program has `room` bytes there, and the text with its NUL is no longer.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len()) };
    Ok(())
}

pub unsafe fn cuDeviceGetName(name: *mut c_char, len: i32, dev: i32) -> CuResult {
    answer(|session| {
        let text = session.once(&request::DeviceName { device: dev })?.name.0;
        give_text(text, name, len)
    })
}

pub unsafe fn cuDeviceGetPCIBusId(pciBusId: *mut c_char, len: i32, dev: i32) -> CuResult {
    answer(|session| {
        let address = PciAddress::of(&session.channel, dev)?;
        give_text(address.to_string().into_bytes(), pciBusId, len)
    })
}

pub unsafe fn cuDeviceGetByPCIBusId(dev: *mut i32, pciBusId: *const c_char) -> CuResult {
    answer(|session| {
        if dev.is_null() || pciBusId.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: not null, and the program vouches for its string.
        let text = unsafe { CStr::from_ptr(pciBusId) };
        let text = text.to_str().map_err(|_| CuResult::INVALID_VALUE)?;
        let wanted = PciAddress::parse(text).ok_or(CuResult::INVALID_DEVICE)?;
        for device in 0..count(session)? {
            if PciAddress::of(&session.channel, device)? == wanted {
                return give(dev, device);
            }
        }
        Err(CuResult::INVALID_DEVICE)
    })
}
