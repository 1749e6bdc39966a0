//! Linking: modules collected one by one, and the image that they make together.

use super::module::file;
use super::options::Options;
use super::{Out, call};
use crate::driver::Driver;
use crate::image::{self, Text};
use crate::module::{self, LoadFailure};
use cuda_abi::{CuResult, Handle, Kind};
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// `CU_JIT_INPUT_CUBIN`, which is also what a linked image is given as.
const INPUT_CUBIN: i32 = 0;
/// `CU_JIT_INPUT_PTX`.
const INPUT_PTX: i32 = 1;
/// `CU_JIT_INPUT_FATBINARY`.
const INPUT_FAT_BINARY: i32 = 2;
/// `CU_JIT_INPUT_OBJECT`, `_LIBRARY`, `_NVVM`: machine code, and another language.
const INPUT_OTHERS: std::ops::RangeInclusive<i32> = 3..=5;

/// `CUlinkState`, as a kind of handle.
#[derive(Debug)]
pub enum LinkKind {}
impl Kind for LinkKind {
    const TAG: u8 = 0x23;
    const NAME: &'static str = "CUlinkState";
}

/// What is being linked.
pub struct Link {
    texts: Mutex<Vec<Text>>,
    /// As given at creation: the program keeps the arrays until the link is destroyed.
    options: Mutex<Options>,
    image: OnceLock<Vec<u8>>,
}

// SAFETY: the options' pointers are the program's, which CUDA's contract has keep them good until the
// link is destroyed; they are used under the lock only.
unsafe impl Send for Link {}
// SAFETY: as for Send.
unsafe impl Sync for Link {}

impl Link {
    fn options(&self) -> MutexGuard<'_, Options> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn texts(&self) -> MutexGuard<'_, Vec<Text>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what an image holds.
    fn add(&self, texts: Result<Vec<Text>, LoadFailure>, name: &str) -> Result<(), CuResult> {
        if self.image.get().is_some() {
            return Err(CuResult::INVALID_VALUE);
        }
        // What is wrong with one text alone is said at once.
        let checked = texts.and_then(|mut texts| {
            for text in &mut texts {
                if text.name.is_empty() {
                    text.name = name.to_owned();
                }
                module::check(text)?;
            }
            Ok(texts)
        });
        match checked {
            Ok(texts) => {
                self.texts().extend(texts);
                Ok(())
            }
            Err(failure) => self.options().tell(Err(&failure)),
        }
    }
}

fn find(driver: &Driver, link: Handle) -> Result<Arc<Link>, CuResult> {
    driver.links.get(link).ok_or(CuResult::INVALID_HANDLE)
}

pub unsafe fn cuLinkCreate_v2(
    count: u32,
    names: *mut i32,
    values: *mut *mut c_void,
    link: *mut Handle,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, options) = unsafe { (Out::new(link)?, Options::new(count, names, values)?) };
        crate::context::current()?;
        let handle = driver.links.number();
        let link = Link {
            texts: Mutex::default(),
            options: Mutex::new(options),
            image: OnceLock::new(),
        };
        driver.links.insert(handle, Arc::new(link));
        out.set(handle as Handle);
        Ok(())
    })
}

/// The texts of data of a `CUjitInputType`.
fn texts(kind: i32, data: &[u8]) -> Result<Vec<Text>, LoadFailure> {
    match kind {
        INPUT_PTX => image::text(data).map(|text| vec![text]),
        INPUT_CUBIN | INPUT_FAT_BINARY => image::texts_in(data),
        _ => Err(LoadFailure::new(
            CuResult::NO_BINARY_FOR_GPU,
            "objects, libraries and NVVM code cannot be linked; softcuda links PTX",
        )),
    }
}

/// Checks a `CUjitInputType`.
fn check_kind(kind: i32) -> Result<(), CuResult> {
    match kind {
        INPUT_CUBIN | INPUT_PTX | INPUT_FAT_BINARY => Ok(()),
        kind if INPUT_OTHERS.contains(&kind) => Ok(()),
        _ => Err(CuResult::INVALID_VALUE),
    }
}

#[allow(clippy::too_many_arguments, reason = "the C function's")]
pub unsafe fn cuLinkAddData_v2(
    link: Handle,
    kind: i32,
    data: *mut c_void,
    bytes: usize,
    name: *const c_char,
    count: u32,
    names: *mut i32,
    values: *mut *mut c_void,
) -> CuResult {
    call(|driver| {
        let link = find(driver, link)?;
        check_kind(kind)?;
        // SAFETY: the C function's contract; these options could only tune a compiler.
        unsafe { Options::new(count, names, values) }?;
        if data.is_null() || bytes == 0 || bytes > isize::MAX as usize {
            return Err(CuResult::INVALID_VALUE);
        }
        let name = if name.is_null() {
            format!("input {}", link.texts().len() + 1)
        } else {
            // SAFETY: not null, so a C string.
            unsafe { CStr::from_ptr(name) }
                .to_string_lossy()
                .into_owned()
        };
        // SAFETY: the program says that so many bytes are there.
        let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), bytes) };
        let texts = link.options().time(|| texts(kind, data));
        link.add(texts, &name)
    })
}

pub unsafe fn cuLinkAddFile_v2(
    link: Handle,
    kind: i32,
    path: *const c_char,
    count: u32,
    names: *mut i32,
    values: *mut *mut c_void,
) -> CuResult {
    call(|driver| {
        let link = find(driver, link)?;
        check_kind(kind)?;
        // SAFETY: the C function's contract; these options could only tune a compiler.
        unsafe { Options::new(count, names, values) }?;
        // SAFETY: the C function's contract.
        let data = unsafe { file(path) }?;
        // SAFETY: as above, and not null, or there would be no data.
        let name = unsafe { CStr::from_ptr(path) }.to_string_lossy();
        let texts = link.options().time(|| texts(kind, &data));
        link.add(texts, &name)
    })
}

pub unsafe fn cuLinkComplete(link: Handle, image: *mut *mut c_void, bytes: *mut usize) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract; the size is optional.
        let (out, bytes) = unsafe { (Out::new(image)?, Out::new(bytes)) };
        let link = find(driver, link)?;
        let options = link.options();
        let program = options.time(|| {
            let texts = link.texts();
            if texts.is_empty() {
                let log = "nothing was added to the link";
                return Err(LoadFailure::new(CuResult::INVALID_IMAGE, log));
            }
            module::compile(&texts)
        });
        options.tell(program.as_ref())?;
        let image = link.image.get_or_init(|| image::linked(&link.texts()));
        out.set(image.as_ptr().cast_mut().cast());
        if let Ok(bytes) = bytes {
            bytes.set(image.len());
        }
        Ok(())
    })
}

pub unsafe fn cuLinkDestroy(link: Handle) -> CuResult {
    call(|driver| {
        let gone = driver.links.remove(link);
        gone.map(drop).ok_or(CuResult::INVALID_HANDLE)
    })
}
