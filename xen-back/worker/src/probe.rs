//! `vgpu-worker --probe`: which devices the driver has and what a context takes, for vgpu-backd. It runs in a process of its own, as the
//! workers do, because a driver may take its process along. Must never serve anybody.

use cuda_abi::{CuResult, Driver, Handle, LoadError, Uuid, uuid_text};
use std::path::{Path, PathBuf};
use std::ptr;
use vgpu_protocol::backend::Probed;

/// Why the driver does not tell.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No driver.
    #[error(transparent)]
    Driver(#[from] LoadError),
    /// A call failed.
    #[error(
        "the driver {path} does not tell its devices: {call} says {status}; try a CUDA program in this domain itself"
    )]
    Call {
        /// Which driver.
        path: PathBuf,
        /// Which call.
        call: &'static str,
        /// What it said.
        status: CuResult,
    },
}

/// The devices of a driver, in its order.
///
/// # Errors
/// [`ProbeError`]
pub fn devices(path: &Path) -> Result<Vec<Probed>, ProbeError> {
    // SAFETY: backd's configuration names the driver, as a program's linker would.
    let driver = unsafe { Driver::load(path) }?;
    let check = |call: &'static str, status: CuResult| match status.is_ok() {
        true => Ok(()),
        false => Err(ProbeError::Call {
            path: path.to_owned(),
            call,
            status,
        }),
    };
    // SAFETY: 0 is the only flag there is.
    check("cuInit", unsafe { driver.cuInit(0) })?;
    let mut count = 0;
    // SAFETY: the place outlives the call.
    check("cuDeviceGetCount", unsafe {
        driver.cuDeviceGetCount(&mut count)
    })?;
    let mut devices = Vec::new();
    for ordinal in 0..count {
        let mut device = 0;
        // SAFETY: the place outlives the call.
        check("cuDeviceGet", unsafe {
            driver.cuDeviceGet(&mut device, ordinal)
        })?;
        let mut name = [0u8; 256];
        // SAFETY: the buffer has the length that the driver is told.
        check("cuDeviceGetName", unsafe {
            driver.cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device)
        })?;
        let mut memory = 0;
        // SAFETY: the place outlives the call.
        check("cuDeviceTotalMem", unsafe {
            driver.cuDeviceTotalMem_v2(&mut memory, device)
        })?;
        let (mut whole, mut part) = (Uuid::default(), Uuid::default());
        // SAFETY: the place outlives the call.
        check("cuDeviceGetUuid", unsafe {
            driver.cuDeviceGetUuid(&mut whole, device)
        })?;
        // SAFETY: the place outlives the call.
        if !unsafe { driver.cuDeviceGetUuid_v2(&mut part, device) }.is_ok() {
            part = whole;
        }
        // A part of a GPU is named by a UUID of its own.
        let prefix = if part == whole { "GPU" } else { "MIG" };
        let attribute = |attribute: i32| -> Result<u32, ProbeError> {
            let mut value = 0;
            // SAFETY: the place outlives the call.
            check("cuDeviceGetAttribute", unsafe {
                driver.cuDeviceGetAttribute(&mut value, attribute, device)
            })?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let name = name.iter().copied().take_while(|byte| *byte != 0);
        devices.push(Probed {
            uuid: format!("{prefix}-{}", uuid_text(&part)),
            name: String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned(),
            memory: memory as u64,
            capability: (attribute(MAJOR)?, attribute(MINOR)?),
            context: context_bytes(&driver, device),
        });
    }
    Ok(devices)
}

/// What a context takes of a device's memory, in bytes: what is free less with one more context than before. Others
/// may take and give back at the same time, so it is asked three times, and the middle answer counts. 0 where there
/// is no answer.
fn context_bytes(driver: &Driver, device: i32) -> u64 {
    // What is free is told to contexts only.
    let in_context = |work: &dyn Fn() -> Option<u64>| {
        let mut context: Handle = ptr::null_mut();
        // SAFETY: the place outlives the call.
        if !unsafe { driver.cuCtxCreate_v2(&mut context, 0, device) }.is_ok() {
            return None;
        }
        let told = work();
        // SAFETY: it is this function's own, and the last that was made current: the one before is current again.
        let _ = unsafe { driver.cuCtxDestroy_v2(context) };
        told
    };
    let free = || {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both places outlive the call.
        let told = unsafe { driver.cuMemGetInfo_v2(&mut free, &mut total) }.is_ok();
        told.then_some(free as u64)
    };
    let less = || Some(free()?.saturating_sub(in_context(&free)?));
    let middle = || {
        let mut answers = [less()?, less()?, less()?];
        answers.sort_unstable();
        Some(answers[1])
    };
    in_context(&middle).unwrap_or(0)
}

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`.
const MAJOR: i32 =
    cuda_abi::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as i32;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR`.
const MINOR: i32 =
    cuda_abi::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as i32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_not_there_is_an_error_that_names_it() {
        let error = devices(Path::new("/nonexistent/libcuda.so.1")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/libcuda.so.1"));
    }
}
