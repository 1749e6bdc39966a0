//! Modules: finding an image's end, shipping it, and what is known of its kernels.
//!
//! The image goes to the backend whole: its driver picks what it can run. Must never read beyond what
//! an image's own headers say it has.

use crate::context::{answer, current, give};
use crate::copy::INLINE;
use crate::handles::{Named, lock, to_c};
use crate::session::{Session, lost};
use cuda_abi::{CuResult, Function, Handle, Module, sys};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use vgpu_protocol::calls::request;
use vgpu_protocol::codec::{Bytes, Codec, Id, Payload, Range, Reader};

/// A kernel, as launches need it.
#[derive(Debug)]
pub struct Kernel {
    module: u32,
    context: u32,
    /// Offset and size of each parameter, in bytes.
    pub params: Vec<(u32, u32)>,
    /// Bytes of the parameter buffer.
    pub bytes: usize,
}

/// The process's modules and kernels.
#[derive(Debug, Default)]
pub struct Modules {
    images: AtomicU32,
    kernels: RwLock<HashMap<u32, Arc<Kernel>>>,
    /// Kernels found before, by module and name: asking again gives the same handle.
    names: Mutex<HashMap<Name, Id<Function>>>,
}

/// A module's index and the name of a kernel in it.
type Name = (u32, Vec<u8>);

/// A result of the driver's, with its compiler's log.
type Refusal = (CuResult, Vec<u8>);

impl Modules {
    /// The kernel behind a function.
    pub fn kernel(&self, function: Id<Function>) -> Result<Arc<Kernel>, CuResult> {
        let kernels = self
            .kernels
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        kernels
            .get(&function.0)
            .cloned()
            .ok_or(CuResult::INVALID_HANDLE)
    }

    /// Forgets the kernels of the contexts that a condition holds for.
    pub fn forget(&self, gone: impl Fn(u32) -> bool) {
        self.forget_kernels(|kernel| gone(kernel.context));
    }

    fn forget_kernels(&self, gone: impl Fn(&Kernel) -> bool) -> Vec<u32> {
        let mut kernels = self
            .kernels
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let dead: Vec<u32> = kernels
            .iter()
            .filter(|(_, k)| gone(k))
            .map(|(index, _)| *index)
            .collect();
        kernels.retain(|index, _| !dead.contains(index));
        lock(&self.names).retain(|_, function| !dead.contains(&function.0));
        dead
    }
}

const FATBIN_WRAPPER: u32 = 0x4662_43b1;
const FATBIN: u32 = 0xba55_ed50;
const ELF: u32 = u32::from_le_bytes(*b"\x7fELF");

/// The bytes of an image, by its own headers.
///
/// # Safety
/// `image` is one of the forms that `cuModuleLoadData` takes, complete.
unsafe fn image_bytes<'a>(image: *const c_void) -> Result<&'a [u8], CuResult> {
    let start = image.cast::<u8>();
    // Each field that is read lies in the header that the magic says is there.
    // SAFETY: the program vouches for a complete image.
    let field32 = |at: usize| unsafe { start.add(at).cast::<u32>().read_unaligned() };
    // SAFETY: as above.
    let field64 = |at: usize| unsafe { start.add(at).cast::<u64>().read_unaligned() };
    // SAFETY: as above.
    let field16 = |at: usize| unsafe { start.add(at).cast::<u16>().read_unaligned() };
    // PTX may be shorter than a magic number: look at it byte by byte.
    // SAFETY: an image has at least one byte, and text ends with a NUL.
    let head: Vec<u8> = (0..4)
        .map_while(|i| match unsafe { start.add(i).read() } {
            0 => None,
            byte => Some(byte),
        })
        .collect();
    let magic = head.try_into().map_or(0, u32::from_le_bytes);
    let len = match magic {
        FATBIN_WRAPPER => {
            let inner = field64(8) as usize as *const c_void;
            if inner.is_null() {
                return Err(CuResult::INVALID_IMAGE);
            }
            // SAFETY: the wrapper points to the fat binary.
            return unsafe { image_bytes(inner) };
        }
        FATBIN => u64::from(field16(6)).checked_add(field64(8)),
        ELF => {
            let (sections, size, count) =
                (field64(40), u64::from(field16(58)), u64::from(field16(60)));
            let mut end = size
                .checked_mul(count)
                .and_then(|n| n.checked_add(sections));
            for n in 0..count {
                let section = sections.wrapping_add(size.wrapping_mul(n)) as usize;
                // SHT_NOBITS (8) takes no room in the file.
                if field32(section.wrapping_add(4)) != 8 {
                    let last = field64(section.wrapping_add(24))
                        .checked_add(field64(section.wrapping_add(32)));
                    end = end.zip(last).map(|(a, b)| a.max(b));
                }
            }
            end
        }
        // SAFETY: anything else is text that ends with a NUL.
        _ => return Ok(unsafe { CStr::from_ptr(image.cast()) }.to_bytes()),
    };
    let len = len
        .and_then(|n| usize::try_from(n).ok())
        .ok_or(CuResult::INVALID_IMAGE)?;
    // SAFETY: the headers say that the image has so many bytes.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// Ships an image and loads it. The log is the compiler's.
fn load(session: &Session, image: &[u8]) -> Result<(Id<Module>, Vec<u8>), Refusal> {
    let plain = |status| (status, Vec::new());
    let number = session.modules.images.fetch_add(1, Ordering::Relaxed);
    let chunk = session.channel.front.layout().max_stage();
    for part in image.chunks(chunk.max(INLINE)) {
        if part.len() <= INLINE {
            let data = Payload::Inline(Bytes(part.to_vec()));
            session
                .post(&request::ImageData {
                    image: number,
                    data,
                })
                .map_err(plain)?;
            continue;
        }
        let staged = session
            .channel
            .front
            .stage(part.len())
            .map_err(lost)
            .map_err(plain)?;
        staged.write(part).map_err(lost).map_err(plain)?;
        let range = Range {
            region: 0,
            offset: staged.offset(),
            len: part.len() as u64,
        };
        let data = Payload::Region(range);
        staged.release_at(
            session
                .post(&request::ImageData {
                    image: number,
                    data,
                })
                .map_err(plain)?,
        );
    }
    let module = Module::reserve(&session.handles, current());
    let loaded = session.call(&request::ModuleLoad {
        image: number,
        module,
    });
    match loaded {
        Ok(answer) if answer.result == 0 => Ok((module, answer.log.0)),
        failed => {
            Module::release(&session.handles, module);
            Err(failed.map_or_else(plain, |answer| (CuResult(answer.result), answer.log.0)))
        }
    }
}

fn load_into(place: *mut Handle, image: &[u8], session: &Session) -> Result<Vec<u8>, Refusal> {
    if place.is_null() {
        return Err((CuResult::INVALID_VALUE, Vec::new()));
    }
    let (module, log) = load(session, image)?;
    // SAFETY: not null, and the program vouches for it.
    unsafe { place.write_unaligned(to_c(module)) };
    Ok(log)
}

fn complain(status: CuResult, log: &[u8]) -> CuResult {
    if !log.is_empty() {
        tracing::warn!(%status, "a module cannot be loaded: {}", String::from_utf8_lossy(log).trim_end());
    }
    status
}

pub unsafe fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> CuResult {
    answer(|session| {
        if image.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: the program vouches for its image.
        let bytes = unsafe { image_bytes(image) }?;
        load_into(module, bytes, session)
            .map(|_| ())
            .map_err(|(status, log)| complain(status, &log))
    })
}

pub unsafe fn cuModuleLoadFatBinary(module: *mut Handle, fatCubin: *const c_void) -> CuResult {
    // SAFETY: the program vouches for its image.
    unsafe { cuModuleLoadData(module, fatCubin) }
}

pub unsafe fn cuModuleLoad(module: *mut Handle, fname: *const c_char) -> CuResult {
    answer(|session| {
        if fname.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: not null, and the program vouches for its string.
        let name = std::ffi::OsStr::from_bytes(unsafe { CStr::from_ptr(fname) }.to_bytes());
        let image = std::fs::read(name).map_err(|error| {
            tracing::warn!(file = ?name, %error, "a module's file cannot be read");
            CuResult::FILE_NOT_FOUND
        })?;
        load_into(module, &image, session)
            .map(|_| ())
            .map_err(|(status, log)| complain(status, &log))
    })
}

use sys::CUjit_option as J;
const ERROR_LOG: i32 = J::CU_JIT_ERROR_LOG_BUFFER as i32;
const ERROR_LOG_SIZE: i32 = J::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as i32;
const INFO_LOG_SIZE: i32 = J::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES as i32;

pub unsafe fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    numOptions: u32,
    options: *mut i32,
    optionValues: *mut *mut c_void,
) -> CuResult {
    answer(|session| {
        if image.is_null() || (numOptions != 0 && (options.is_null() || optionValues.is_null())) {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: the program vouches for its image.
        let bytes = unsafe { image_bytes(image) }?;
        let loaded = load_into(module, bytes, session);
        let (buffer, mut room) =
            (0..numOptions as usize).fold((None, None), |(buffer, room), n| {
                // SAFETY: both arrays have `numOptions` entries.
                match unsafe { options.add(n).read() } {
                    // SAFETY: as above.
                    ERROR_LOG => (Some(unsafe { optionValues.add(n).read() }), room),
                    // SAFETY: as above.
                    ERROR_LOG_SIZE => (buffer, Some(unsafe { optionValues.add(n) })),
                    INFO_LOG_SIZE => {
                        // SAFETY: as above. Nothing is written to that log.
                        unsafe { optionValues.add(n).write(std::ptr::null_mut()) };
                        (buffer, room)
                    }
                    _ => (buffer, room),
                }
            });
        let log: &[u8] = match &loaded {
            Ok(_) => &[],
            Err((_, log)) => log,
        };
        if let (Some(buffer), Some(room)) = (buffer, room.as_mut()) {
            // SAFETY: the option's value is the size, passed as a pointer.
            let size = unsafe { room.read() } as usize;
            if !buffer.is_null() && size != 0 {
                let len = log.len().min(size.saturating_sub(1));
                // SAFETY: the program has `size` bytes there; the text and its NUL are no longer.
                unsafe {
                    std::ptr::copy_nonoverlapping(log.as_ptr(), buffer.cast::<u8>(), len);
                    buffer.cast::<u8>().add(len).write(0);
                    room.write(len as *mut c_void);
                }
            }
        }
        loaded
            .map(|_| ())
            .map_err(|(status, log)| complain(status, &log))
    })
}

pub unsafe fn cuModuleUnload(hmod: Handle) -> CuResult {
    answer(|session| {
        let module = Module::open(&session.handles, hmod)?;
        session.call(&request::ModuleUnload { module })?;
        for index in session
            .modules
            .forget_kernels(|kernel| kernel.module == module.0)
        {
            Function::release(&session.handles, Id::new(index));
        }
        Module::release(&session.handles, module);
        Ok(())
    })
}

pub unsafe fn cuModuleGetFunction(
    hfunc: *mut Handle,
    hmod: Handle,
    name: *const c_char,
) -> CuResult {
    answer(|session| {
        if hfunc.is_null() || name.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        let module = Module::open(&session.handles, hmod)?;
        // SAFETY: not null, and the program vouches for its string.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes().to_vec();
        let key = (module.0, name.clone());
        if let Some(known) = lock(&session.modules.names).get(&key) {
            return give(hfunc, to_c(*known));
        }
        let function = Function::reserve(&session.handles, current());
        let found = session
            .call(&request::ModuleGetFunction {
                module,
                function,
                name: Bytes(name),
            })
            .and_then(|reply| kernel(&reply.params.0, module.0));
        let kernel = match found {
            Ok(kernel) => kernel,
            Err(error) => {
                Function::release(&session.handles, function);
                return Err(error);
            }
        };
        let mut kernels = session
            .modules
            .kernels
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        kernels.insert(function.0, Arc::new(kernel));
        drop(kernels);
        lock(&session.modules.names).insert(key, function);
        give(hfunc, to_c(function))
    })
}

/// CUDA's limit for a kernel's parameters, in bytes.
const PARAM_LIMIT: usize = 32_764;

/// A kernel of the layout that the backend sent, if that is one.
fn kernel(listed: &[u8], module: u32) -> Result<Kernel, CuResult> {
    let mut from = Reader::new(listed);
    let (mut params, mut bytes) = (Vec::new(), 0usize);
    while from.end().is_err() {
        let taken = u32::take(&mut from).and_then(|offset| Ok((offset, u32::take(&mut from)?)));
        let (offset, size) = taken.map_err(|_| CuResult::SYSTEM_DRIVER_MISMATCH)?;
        let end = (offset as usize).saturating_add(size as usize);
        if end > PARAM_LIMIT {
            return Err(CuResult::SYSTEM_DRIVER_MISMATCH);
        }
        bytes = bytes.max(end);
        params.push((offset, size));
    }
    Ok(Kernel {
        module,
        context: current(),
        params,
        bytes,
    })
}

pub unsafe fn cuModuleGetGlobal_v2(
    dptr: *mut u64,
    bytes: *mut usize,
    hmod: Handle,
    name: *const c_char,
) -> CuResult {
    answer(|session| {
        if name.is_null() || (dptr.is_null() && bytes.is_null()) {
            return Err(CuResult::INVALID_VALUE);
        }
        let module = Module::open(&session.handles, hmod)?;
        // SAFETY: not null, and the program vouches for its string.
        let name = Bytes(unsafe { CStr::from_ptr(name) }.to_bytes().to_vec());
        let found = session.call(&request::ModuleGetGlobal { module, name })?;
        session
            .memory
            .note_device(found.address, found.bytes, current());
        if !dptr.is_null() {
            give(dptr, found.address)?;
        }
        if !bytes.is_null() {
            give(bytes, found.bytes as usize)?;
        }
        Ok(())
    })
}

pub unsafe fn cuFuncGetParamInfo(
    func: Handle,
    paramIndex: usize,
    paramOffset: *mut usize,
    paramSize: *mut usize,
) -> CuResult {
    answer(|session| {
        let function = Function::open(&session.handles, func)?;
        let kernel = session.modules.kernel(function)?;
        let (offset, size) = kernel
            .params
            .get(paramIndex)
            .ok_or(CuResult::INVALID_VALUE)?;
        give(paramOffset, *offset as usize)?;
        if !paramSize.is_null() {
            give(paramSize, *size as usize)?;
        }
        Ok(())
    })
}

pub unsafe fn cuFuncGetModule(hmod: *mut Handle, hfunc: Handle) -> CuResult {
    answer(|session| {
        let function = Function::open(&session.handles, hfunc)?;
        give(
            hmod,
            to_c(Id::<Module>::new(session.modules.kernel(function)?.module)),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(image: &[u8]) -> Result<Vec<u8>, CuResult> {
        // SAFETY: each test passes a complete image.
        unsafe { image_bytes(image.as_ptr().cast()) }.map(<[u8]>::to_vec)
    }

    #[test]
    fn text_ends_at_its_nul() {
        assert_eq!(
            bytes_of(b".version 7.0\n\0rest").unwrap(),
            b".version 7.0\n"
        );
        assert_eq!(bytes_of(b"\0").unwrap(), b"");
        assert_eq!(bytes_of(b"//\0").unwrap(), b"//");
    }

    #[test]
    fn a_fat_binary_is_shipped_whole_and_without_its_wrapper() {
        let mut fat = Vec::new();
        fat.extend(FATBIN.to_le_bytes());
        fat.extend(1u16.to_le_bytes());
        fat.extend(16u16.to_le_bytes());
        fat.extend(8u64.to_le_bytes());
        fat.extend(*b"contents");
        fat.extend(*b"beyond");
        assert_eq!(bytes_of(&fat).unwrap().len(), 24);
        let mut wrapper = Vec::new();
        wrapper.extend(FATBIN_WRAPPER.to_le_bytes());
        wrapper.extend(1u32.to_le_bytes());
        wrapper.extend((fat.as_ptr() as u64).to_le_bytes());
        wrapper.extend(0u64.to_le_bytes());
        assert_eq!(bytes_of(&wrapper).unwrap(), bytes_of(&fat).unwrap());
    }

    #[test]
    fn a_layout_beyond_the_limit_is_refused() {
        assert_eq!(kernel(&[], 1).unwrap().bytes, 0);
        let mut good = Vec::new();
        for (offset, size) in [(0u32, 8u32), (8, 4)] {
            offset.put(&mut good);
            size.put(&mut good);
        }
        assert_eq!(kernel(&good, 1).unwrap().bytes, 12);
        assert!(kernel(&good[..5], 1).is_err());
        let mut bad = Vec::new();
        u32::MAX.put(&mut bad);
        8u32.put(&mut bad);
        assert!(kernel(&bad, 1).is_err());
    }
}
