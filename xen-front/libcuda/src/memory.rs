//! Device memory and page-locked host memory: what the guest knows of them.
//!
//! Page-locked memory is granted pages that the worker has mapped and registered, so that copies from
//! and to it are direct; where no more can be granted it is plain memory, and copies are staged. Must
//! never give granted pages back before the worker has let go of them.

use crate::auto::used;
use crate::context::{answer, current, current_info, give};
use crate::handles::{lock, to_c};
use crate::session::Session;
use cuda_abi::{Context, CuResult, Handle, Stream, sys};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};
use vgpu_protocol::calls::request;
use vgpu_protocol::codec::{Id, Range};
use vgpu_protocol::guest::{AddRegion, FromFrontd, FromProgram, RemoveRegion};
use vgpu_protocol::packet;
use xen::{Access, Mapping, PAGE_SIZE};

/// An allocation of device memory.
#[derive(Copy, Clone, Debug)]
struct DeviceBlock {
    bytes: u64,
    context: u32,
}

/// What page-locked memory is made of.
#[derive(Debug)]
enum Backing {
    /// Granted pages, mapped by the worker as a region.
    Region { number: u32, _mapping: Mapping },
    /// Plain memory of this process.
    Plain { start: usize, bytes: usize },
    /// The program's own memory, which it said it keeps.
    Registered,
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Backing::Plain { start, bytes } = self {
            // SAFETY: mapped by `plain` with this size, and the program gave it back.
            let _ = unsafe { munmap(*start as *mut c_void, *bytes) };
        }
    }
}

#[derive(Debug)]
struct HostBlock {
    bytes: usize,
    flags: u32,
    device: u64,
    backing: Backing,
}

/// What the process has allocated.
#[derive(Debug, Default)]
pub struct Memory {
    device: Mutex<BTreeMap<u64, DeviceBlock>>,
    host: Mutex<BTreeMap<usize, Arc<HostBlock>>>,
}

impl Memory {
    /// Notes device memory that is no allocation of its own, such as a module's variable.
    pub fn note_device(&self, address: u64, bytes: u64, context: u32) {
        lock(&self.device).insert(address, DeviceBlock { bytes, context });
    }

    /// Start and size of the device allocation that an address lies in.
    pub fn device_block(&self, address: u64) -> Option<(u64, u64)> {
        let device = lock(&self.device);
        let (start, block) = device.range(..=address).next_back()?;
        (address.wrapping_sub(*start) < block.bytes).then_some((*start, block.bytes))
    }

    /// Whether all of a run of bytes is device memory of one allocation.
    pub fn is_device(&self, address: u64, bytes: usize) -> bool {
        self.device_block(address).is_some_and(|(start, len)| {
            address
                .wrapping_sub(start)
                .checked_add(bytes as u64)
                .is_some_and(|end| end <= len)
        })
    }

    /// The region that host memory lies in, if the worker has it mapped.
    pub fn region(&self, host: *const c_void, bytes: usize) -> Option<Range> {
        let (start, block) = self.host_block(host as usize)?;
        let offset = (host as usize).checked_sub(start)?;
        if offset.checked_add(bytes)? > block.bytes {
            return None;
        }
        match &block.backing {
            Backing::Region { number, .. } => Some(Range {
                region: *number,
                offset: offset as u64,
                len: bytes as u64,
            }),
            _ => None,
        }
    }

    fn host_block(&self, address: usize) -> Option<(usize, Arc<HostBlock>)> {
        let host = lock(&self.host);
        let (start, block) = host.range(..=address).next_back()?;
        (address.wrapping_sub(*start) < block.bytes).then(|| (*start, block.clone()))
    }

    /// Forgets the device memory of a context.
    pub fn forget_context(&self, context: u32) {
        lock(&self.device).retain(|_, block| block.context != context);
    }
}

pub unsafe fn cuMemAlloc_v2(dptr: *mut u64, bytesize: usize) -> CuResult {
    answer(|session| {
        if dptr.is_null() || bytesize == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let address = session
            .call(&request::MemAlloc {
                bytes: bytesize as u64,
            })?
            .address;
        session
            .memory
            .note_device(address, bytesize as u64, current());
        give(dptr, address)
    })
}

/// Takes an allocation out of the books before the call that frees it is submitted: its address may be
/// given out again from then on.
fn forget(session: &Session, address: u64) -> Result<(), CuResult> {
    lock(&session.memory.device)
        .remove(&address)
        .map(|_| ())
        .ok_or(CuResult::INVALID_VALUE)
}

pub unsafe fn cuMemFree_v2(dptr: u64) -> CuResult {
    answer(|session| {
        if dptr == 0 {
            return Ok(());
        }
        forget(session, dptr)?;
        session
            .post(&request::MemFree { address: dptr })
            .map(|_| ())
    })
}

pub unsafe fn cuMemAllocAsync(dptr: *mut u64, bytesize: usize, hStream: Handle) -> CuResult {
    answer(|session| {
        if dptr.is_null() || bytesize == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let stream = used::<Stream>(hStream, session)?;
        let address = session
            .call(&request::MemAllocAsync {
                bytes: bytesize as u64,
                stream,
            })?
            .address;
        session
            .memory
            .note_device(address, bytesize as u64, current());
        give(dptr, address)
    })
}

pub unsafe fn cuMemFreeAsync(dptr: u64, hStream: Handle) -> CuResult {
    answer(|session| {
        if dptr == 0 {
            return Ok(());
        }
        let stream = used::<Stream>(hStream, session)?;
        forget(session, dptr)?;
        session
            .post(&request::MemFreeAsync {
                address: dptr,
                stream,
            })
            .map(|_| ())
    })
}

pub unsafe fn cuMemGetAddressRange_v2(pbase: *mut u64, psize: *mut usize, dptr: u64) -> CuResult {
    answer(|session| {
        let (start, bytes) = session
            .memory
            .device_block(dptr)
            .ok_or(CuResult::NOT_FOUND)?;
        if !pbase.is_null() {
            give(pbase, start)?;
        }
        if !psize.is_null() {
            give(psize, bytes as usize)?;
        }
        Ok(())
    })
}

use sys::CUpointer_attribute as P;
const CONTEXT: i32 = P::CU_POINTER_ATTRIBUTE_CONTEXT as i32;
const MEMORY_TYPE: i32 = P::CU_POINTER_ATTRIBUTE_MEMORY_TYPE as i32;
const DEVICE_POINTER: i32 = P::CU_POINTER_ATTRIBUTE_DEVICE_POINTER as i32;
const HOST_POINTER: i32 = P::CU_POINTER_ATTRIBUTE_HOST_POINTER as i32;
const IS_MANAGED: i32 = P::CU_POINTER_ATTRIBUTE_IS_MANAGED as i32;
const DEVICE_ORDINAL: i32 = P::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL as i32;
const RANGE_START: i32 = P::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR as i32;
const RANGE_SIZE: i32 = P::CU_POINTER_ATTRIBUTE_RANGE_SIZE as i32;
const MAPPED: i32 = P::CU_POINTER_ATTRIBUTE_MAPPED as i32;
const TYPE_HOST: u32 = sys::CUmemorytype::CU_MEMORYTYPE_HOST as u32;
const TYPE_DEVICE: u32 = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32;

pub unsafe fn cuPointerGetAttribute(data: *mut c_void, attribute: i32, ptr: u64) -> CuResult {
    answer(|session| {
        let device = lock(&session.memory.device)
            .range(..=ptr)
            .next_back()
            .filter(|(start, block)| ptr.wrapping_sub(**start) < block.bytes)
            .map(|(start, block)| (*start, *block));
        let host = session.memory.host_block(ptr as usize);
        let (_, info) = current_info(session)?;
        match (attribute, device, host) {
            (IS_MANAGED, _, _) => give(data.cast(), 0u32),
            (MAPPED, device, host) => {
                give(data.cast(), u32::from(device.is_some() || host.is_some()))
            }
            (MEMORY_TYPE, Some(_), _) => give(data.cast(), TYPE_DEVICE),
            (MEMORY_TYPE, None, Some(_)) => give(data.cast(), TYPE_HOST),
            (CONTEXT, Some((_, block)), _) => {
                give(data.cast(), to_c(Id::<Context>::new(block.context)))
            }
            (DEVICE_POINTER, Some(_), _) => give(data.cast(), ptr),
            (DEVICE_POINTER, None, Some((start, block))) if block.device != 0 => give(
                data.cast(),
                block.device.wrapping_add(ptr.wrapping_sub(start as u64)),
            ),
            (HOST_POINTER, None, Some(_)) => give(data.cast(), ptr),
            (DEVICE_ORDINAL, Some(_), _) | (DEVICE_ORDINAL, None, Some(_)) => {
                give(data.cast(), info.device)
            }
            (RANGE_START, Some((start, _)), _) => give(data.cast(), start),
            (RANGE_START, None, Some((start, _))) => give(data.cast(), start as u64),
            (RANGE_SIZE, Some((_, block)), _) => give(data.cast(), block.bytes as usize),
            (RANGE_SIZE, None, Some((_, block))) => give(data.cast(), block.bytes),
            _ => Err(CuResult::INVALID_VALUE),
        }
    })
}

/// `CU_MEMHOSTALLOC_PORTABLE | DEVICEMAP | WRITECOMBINED`.
const HOST_FLAGS: u32 = 7;

pub unsafe fn cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, Flags: u32) -> CuResult {
    answer(|session| {
        if pp.is_null() || bytesize == 0 || Flags & !HOST_FLAGS != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        current_info(session)?;
        let (start, device, backing) = granted(session, bytesize).or_else(|_| plain(bytesize))?;
        let block = HostBlock {
            bytes: bytesize,
            flags: Flags,
            device,
            backing,
        };
        lock(&session.memory.host).insert(start, Arc::new(block));
        give(pp, start as *mut c_void)
    })
}

fn granted(session: &Session, bytes: usize) -> Result<(usize, u64, Backing), CuResult> {
    let ask = FromProgram::AddRegion(AddRegion {
        bytes: bytes as u64,
    });
    let (FromFrontd::RegionAdded(added), fds) = session.channel.ask_frontd(&ask)? else {
        return Err(CuResult::SYSTEM_DRIVER_MISMATCH);
    };
    let number = added.region;
    let mapped = packet::take_extents(&added.memory, &fds)
        .and_then(|extents| Ok(Mapping::from_extents(&extents, Access::ReadWrite)?));
    let mapping = match mapped {
        Ok(mapping) if mapping.len() >= bytes => mapping,
        other => {
            if let Err(error) = other {
                tracing::error!(%error, "granted memory cannot be mapped");
            }
            let _ = session
                .channel
                .ask_frontd(&FromProgram::RemoveRegion(RemoveRegion { region: number }));
            return Err(CuResult::OUT_OF_MEMORY);
        }
    };
    match session.call(&request::RegionPin { region: number }) {
        Ok(pinned) => {
            let start = mapping.as_ptr().as_ptr() as usize;
            Ok((
                start,
                pinned.device,
                Backing::Region {
                    number,
                    _mapping: mapping,
                },
            ))
        }
        Err(error) => {
            let _ = session
                .channel
                .ask_frontd(&FromProgram::RemoveRegion(RemoveRegion { region: number }));
            Err(error)
        }
    }
}

fn plain(bytes: usize) -> Result<(usize, u64, Backing), CuResult> {
    let bytes = bytes
        .checked_next_multiple_of(PAGE_SIZE)
        .ok_or(CuResult::OUT_OF_MEMORY)?;
    // SAFETY: a new private mapping anywhere.
    let start = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .map_err(|_| CuResult::OUT_OF_MEMORY)? as usize;
    Ok((start, 0, Backing::Plain { start, bytes }))
}

pub unsafe fn cuMemAllocHost_v2(pp: *mut *mut c_void, bytesize: usize) -> CuResult {
    // SAFETY: the program vouches for its pointer.
    unsafe { cuMemHostAlloc(pp, bytesize, 0) }
}

pub unsafe fn cuMemFreeHost(p: *mut c_void) -> CuResult {
    answer(|session| {
        if p.is_null() {
            return Ok(());
        }
        let block = {
            let mut host = lock(&session.memory.host);
            match host.get(&(p as usize)) {
                Some(block) if !matches!(block.backing, Backing::Registered) => {}
                _ => return Err(CuResult::INVALID_VALUE),
            }
            host.remove(&(p as usize)).ok_or(CuResult::INVALID_VALUE)?
        };
        if let Backing::Region { number, .. } = &block.backing {
            session.call(&request::RegionUnpin { region: *number })?;
            session
                .channel
                .ask_frontd(&FromProgram::RemoveRegion(RemoveRegion { region: *number }))?;
        }
        Ok(())
    })
}

pub unsafe fn cuMemHostGetDevicePointer_v2(
    pdptr: *mut u64,
    p: *mut c_void,
    Flags: u32,
) -> CuResult {
    answer(|session| {
        if Flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let (start, block) = session
            .memory
            .host_block(p as usize)
            .ok_or(CuResult::INVALID_VALUE)?;
        if block.device == 0 {
            // The driver does not give the device access to granted memory.
            return Err(CuResult::NOT_SUPPORTED);
        }
        give(
            pdptr,
            block
                .device
                .wrapping_add((p as usize).wrapping_sub(start) as u64),
        )
    })
}

pub unsafe fn cuMemHostGetFlags(pFlags: *mut u32, p: *mut c_void) -> CuResult {
    answer(|session| {
        let (_, block) = session
            .memory
            .host_block(p as usize)
            .ok_or(CuResult::INVALID_VALUE)?;
        give(pFlags, block.flags)
    })
}

/// `CU_MEMHOSTREGISTER_DEVICEMAP`: the device would have to reach memory that cannot be granted.
const DEVICE_MAP: u32 = 2;

pub unsafe fn cuMemHostRegister_v2(p: *mut c_void, bytesize: usize, Flags: u32) -> CuResult {
    answer(|session| {
        if p.is_null() || bytesize == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        if Flags & DEVICE_MAP != 0 {
            return Err(CuResult::NOT_SUPPORTED);
        }
        current_info(session)?;
        let mut host = lock(&session.memory.host);
        let start = p as usize;
        let end = start.checked_add(bytesize).ok_or(CuResult::INVALID_VALUE)?;
        let overlaps = host
            .range(..end)
            .next_back()
            .is_some_and(|(s, b)| s.saturating_add(b.bytes) > start);
        if overlaps {
            return Err(CuResult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        // Existing memory cannot be granted: it stays where it is, and copies of it are staged.
        let block = HostBlock {
            bytes: bytesize,
            flags: Flags,
            device: 0,
            backing: Backing::Registered,
        };
        host.insert(start, Arc::new(block));
        Ok(())
    })
}

pub unsafe fn cuMemHostUnregister(p: *mut c_void) -> CuResult {
    answer(|session| {
        let mut host = lock(&session.memory.host);
        match host.get(&(p as usize)) {
            Some(block) if matches!(block.backing, Backing::Registered) => {
                host.remove(&(p as usize));
                Ok(())
            }
            _ => Err(CuResult::HOST_MEMORY_NOT_REGISTERED),
        }
    })
}
