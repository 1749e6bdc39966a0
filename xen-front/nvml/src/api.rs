//! The functions that have an answer.
//!
//! Must never invent a fact: what the backend does not tell of a device is "not supported", 0 or unknown,
//! as NVML's documentation allows for the function.

use crate::errors::Failure;
use crate::link::{ask, init, initialized, shutdown};
use cuda_abi::sys::CUdevice_attribute as A;
use cuda_abi::{CUDA_VERSION, CuResult, Uuid};
use nvml_wrapper_sys::bindings::*;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::ptr;
use vgpu_client::{Channel, PciAddress};
use vgpu_protocol::calls::request;

type Answer = Result<(), Failure>;

/// A structure's version word: its size, and which of its versions it is.
const fn version_of<T>(number: u32) -> c_uint {
    size_of::<T>() as u32 | number << 24
}

/// Writes a value where the program wants it.
///
/// # Safety
/// The place is null or the program's.
unsafe fn give<T>(place: *mut T, value: T) -> Answer {
    if place.is_null() {
        return Err(Failure::INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

/// Writes text and its NUL, or nothing if that does not fit.
///
/// # Safety
/// The place is null or has `length` bytes.
unsafe fn give_text(place: *mut c_char, length: c_uint, text: &str) -> Answer {
    if place.is_null() {
        return Err(Failure::INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(Failure::INSUFFICIENT_SIZE);
    }
    // SAFETY: the text and its NUL fit, and the caller vouches for the rest.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
        place.add(text.len()).write(0);
    }
    Ok(())
}

/// The program's text.
///
/// # Safety
/// The place is null or holds a C string.
unsafe fn text<'a>(place: *const c_char) -> Result<&'a str, Failure> {
    if place.is_null() {
        return Err(Failure::INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller vouches for the rest.
    let text = unsafe { CStr::from_ptr(place) };
    text.to_str().map_err(|_| Failure::INVALID_ARGUMENT)
}

fn count(channel: &Channel) -> Result<i32, CuResult> {
    Ok(channel
        .once(&request::cuDeviceGetCount { count: () })?
        .count)
}

/// A device's handle: its ordinal and one, as a handle is not null.
fn handle(ordinal: i32) -> nvmlDevice_t {
    ptr::without_provenance_mut(usize::try_from(ordinal).map_or(0, |n| n.saturating_add(1)))
}

/// The ordinal behind a handle, whatever the program passes as one.
pub fn ordinal(device: nvmlDevice_t) -> Result<i32, Failure> {
    let count = ask(count)?;
    let ordinal = device.addr().checked_sub(1).map(i32::try_from);
    match ordinal {
        Some(Ok(ordinal)) if ordinal < count => Ok(ordinal),
        _ => Err(Failure::INVALID_ARGUMENT),
    }
}

/// The first device that a condition holds for.
fn device_where(
    condition: impl Fn(&Channel, i32) -> Result<bool, CuResult>,
) -> Result<nvmlDevice_t, Failure> {
    let found = ask(|channel| {
        for ordinal in 0..count(channel)? {
            if condition(channel, ordinal)? {
                return Ok(Some(ordinal));
            }
        }
        Ok(None)
    })?;
    found.map(handle).ok_or(Failure::NOT_FOUND)
}

fn attribute(device: nvmlDevice_t, attribute: A) -> Result<c_int, Failure> {
    let device = ordinal(device)?;
    let attribute = attribute as i32;
    ask(|channel| {
        Ok(channel
            .once(&request::DeviceAttribute { attribute, device })?
            .value)
    })
}

/// An attribute that is a count or a size; 0 stands for one that the backend does not know.
fn size(device: nvmlDevice_t, which: A) -> Result<c_uint, Failure> {
    match u32::try_from(attribute(device, which)?) {
        Ok(0) | Err(_) => Err(Failure::NOT_SUPPORTED),
        Ok(size) => Ok(size),
    }
}

pub unsafe fn nvmlInit_v2() -> Answer {
    init()
}

pub unsafe fn nvmlInit() -> Answer {
    init()
}

pub unsafe fn nvmlInitWithFlags(_flags: c_uint) -> Answer {
    init()
}

pub unsafe fn nvmlShutdown() -> Answer {
    shutdown()
}

/// The CUDA version that the guest's libcuda offers.
fn cuda_version() -> Result<c_int, Failure> {
    let backend = ask(|channel| Ok(channel.once(&request::DriverVersion {})?.version))?;
    Ok(backend.min(CUDA_VERSION))
}

/// CUDA versions and the first release of NVIDIA's driver for Linux that has each (the table of CUDA's
/// release notes). A driver has the newest that is not newer than itself.
const RELEASES: [(c_int, &str); 17] = [
    (11000, "450.51.05"),
    (11010, "455.23"),
    (11020, "460.27.03"),
    (11030, "465.19.01"),
    (11040, "470.42.01"),
    (11050, "495.29.05"),
    (11060, "510.39.01"),
    (11070, "515.43.04"),
    (11080, "520.61.05"),
    (12000, "525.60.13"),
    (12010, "530.30.02"),
    (12020, "535.54.03"),
    (12030, "545.23.06"),
    (12040, "550.54.14"),
    (12050, "555.42.02"),
    (12060, "560.28.03"),
    (12080, "570.26"),
];

/// The oldest release that a CUDA version can come with.
fn release(cuda: c_int) -> Result<&'static str, Failure> {
    let newest = RELEASES.iter().rev().find(|(version, _)| *version <= cuda);
    newest
        .map(|(_, release)| *release)
        .ok_or(Failure::NOT_SUPPORTED)
}

pub unsafe fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> Answer {
    let release = release(cuda_version()?)?;
    // SAFETY: the caller's contract.
    unsafe { give_text(version, length, release) }
}

pub unsafe fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> Answer {
    let cuda = cuda_version()?;
    let text = format!("{}.{}", cuda / 1000, release(cuda)?);
    // SAFETY: the caller's contract.
    unsafe { give_text(version, length, &text) }
}

pub unsafe fn nvmlSystemGetCudaDriverVersion(cudaDriverVersion: *mut c_int) -> Answer {
    // May be asked at any time; with no backend in reach it is what this library knows.
    let version = cuda_version().unwrap_or(CUDA_VERSION);
    // SAFETY: the caller's contract.
    unsafe { give(cudaDriverVersion, version) }
}

pub unsafe fn nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion: *mut c_int) -> Answer {
    // SAFETY: the same contract.
    unsafe { nvmlSystemGetCudaDriverVersion(cudaDriverVersion) }
}

pub unsafe fn nvmlUnitGetCount(unitCount: *mut c_uint) -> Answer {
    initialized()?;
    // SAFETY: the caller's contract.
    unsafe { give(unitCount, 0) }
}

pub unsafe fn nvmlGetExcludedDeviceCount(deviceCount: *mut c_uint) -> Answer {
    initialized()?;
    // SAFETY: the caller's contract.
    unsafe { give(deviceCount, 0) }
}

pub unsafe fn nvmlDeviceGetCount_v2(deviceCount: *mut c_uint) -> Answer {
    let count = u32::try_from(ask(count)?).map_err(|_| Failure::UNKNOWN)?;
    // SAFETY: the caller's contract.
    unsafe { give(deviceCount, count) }
}

pub unsafe fn nvmlDeviceGetCount(deviceCount: *mut c_uint) -> Answer {
    // SAFETY: the same contract.
    unsafe { nvmlDeviceGetCount_v2(deviceCount) }
}

pub unsafe fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> Answer {
    let index = i32::try_from(index).map_err(|_| Failure::INVALID_ARGUMENT)?;
    let found = handle(index);
    ordinal(found)?;
    // SAFETY: the caller's contract.
    unsafe { give(device, found) }
}

pub unsafe fn nvmlDeviceGetHandleByIndex(index: c_uint, device: *mut nvmlDevice_t) -> Answer {
    // SAFETY: the same contract.
    unsafe { nvmlDeviceGetHandleByIndex_v2(index, device) }
}

fn uuid(channel: &Channel, dev: i32) -> Result<Uuid, CuResult> {
    Ok(channel
        .once(&request::cuDeviceGetUuid { uuid: (), dev })?
        .uuid)
}

/// A UUID as NVML writes it: `GPU-` and hexadecimal digits in five groups.
fn uuid_text(uuid: &Uuid) -> String {
    format!("GPU-{}", cuda_abi::uuid_text(uuid))
}

fn device_with_uuid(text: &str) -> Result<nvmlDevice_t, Failure> {
    device_where(
        |channel, device| Ok(uuid_text(&uuid(channel, device)?).eq_ignore_ascii_case(text)),
    )
}

pub unsafe fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) -> Answer {
    // SAFETY: the caller's contract.
    let found = device_with_uuid(unsafe { text(uuid) }?)?;
    // SAFETY: the caller's contract.
    unsafe { give(device, found) }
}

pub unsafe fn nvmlDeviceGetHandleByUUIDV(
    uuid: *const nvmlUUID_t,
    device: *mut nvmlDevice_t,
) -> Answer {
    if uuid.is_null() {
        return Err(Failure::INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller's contract. Every byte pattern is a value of the structure.
    let wanted = unsafe { uuid.read_unaligned() };
    if wanted.version != version_of::<nvmlUUID_t>(1) {
        return Err(Failure::ARGUMENT_VERSION_MISMATCH);
    }
    let found = match wanted.type_ {
        nvmlUUIDType_t_NVML_UUID_TYPE_ASCII => {
            // SAFETY: the union holds bytes either way.
            let bytes = unsafe { wanted.value.str_ }.map(c_char::cast_unsigned);
            let text = CStr::from_bytes_until_nul(&bytes).map_err(|_| Failure::INVALID_ARGUMENT)?;
            device_with_uuid(text.to_str().map_err(|_| Failure::INVALID_ARGUMENT)?)?
        }
        nvmlUUIDType_t_NVML_UUID_TYPE_BINARY => {
            // SAFETY: the union holds bytes either way.
            let bytes = unsafe { wanted.value.bytes };
            device_with_uuid(&uuid_text(&bytes))?
        }
        _ => return Err(Failure::INVALID_ARGUMENT),
    };
    // SAFETY: the caller's contract.
    unsafe { give(device, found) }
}

pub unsafe fn nvmlDeviceGetHandleByPciBusId_v2(
    pciBusId: *const c_char,
    device: *mut nvmlDevice_t,
) -> Answer {
    // SAFETY: the caller's contract.
    let wanted = PciAddress::parse(unsafe { text(pciBusId) }?).ok_or(Failure::INVALID_ARGUMENT)?;
    let found = device_where(|channel, device| Ok(PciAddress::of(channel, device)? == wanted))?;
    // SAFETY: the caller's contract.
    unsafe { give(device, found) }
}

pub unsafe fn nvmlDeviceGetHandleByPciBusId(
    pciBusId: *const c_char,
    device: *mut nvmlDevice_t,
) -> Answer {
    // SAFETY: the same contract.
    unsafe { nvmlDeviceGetHandleByPciBusId_v2(pciBusId, device) }
}

pub unsafe fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> Answer {
    let device = ordinal(device)?;
    let told = ask(|channel| Ok(channel.once(&request::DeviceName { device })?.name.0))?;
    let text = String::from_utf8_lossy(&told);
    // SAFETY: the caller's contract.
    unsafe { give_text(name, length, &text) }
}

pub unsafe fn nvmlDeviceGetBrand(device: nvmlDevice_t, type_: *mut nvmlBrandType_t) -> Answer {
    ordinal(device)?;
    // SAFETY: the caller's contract.
    unsafe { give(type_, nvmlBrandType_enum_NVML_BRAND_UNKNOWN) }
}

pub unsafe fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) -> Answer {
    let ordinal = u32::try_from(ordinal(device)?).map_err(|_| Failure::UNKNOWN)?;
    // SAFETY: the caller's contract.
    unsafe { give(index, ordinal) }
}

pub unsafe fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    place: *mut c_char,
    length: c_uint,
) -> Answer {
    let device = ordinal(device)?;
    let text = uuid_text(&ask(|channel| uuid(channel, device))?);
    // SAFETY: the caller's contract.
    unsafe { give_text(place, length, &text) }
}

pub unsafe fn nvmlDeviceGetDisplayMode(
    device: nvmlDevice_t,
    display: *mut nvmlEnableState_t,
) -> Answer {
    ordinal(device)?;
    // SAFETY: the caller's contract.
    unsafe { give(display, nvmlEnableState_enum_NVML_FEATURE_DISABLED) }
}

pub unsafe fn nvmlDeviceGetDisplayActive(
    device: nvmlDevice_t,
    isActive: *mut nvmlEnableState_t,
) -> Answer {
    // SAFETY: the same contract.
    unsafe { nvmlDeviceGetDisplayMode(device, isActive) }
}

/// Text in a field of fixed length, which has room for it and for a NUL.
fn field<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    let room = N.saturating_sub(1);
    for (place, byte) in field.iter_mut().take(room).zip(text.bytes()) {
        *place = byte.cast_signed();
    }
    field
}

fn pci_info(device: nvmlDevice_t) -> Result<nvmlPciInfo_t, Failure> {
    let device = ordinal(device)?;
    let address = ask(|channel| PciAddress::of(channel, device))?;
    let PciAddress {
        domain,
        bus,
        device,
    } = address;
    Ok(nvmlPciInfo_t {
        busIdLegacy: field(&format!("{domain:04X}:{bus:02X}:{device:02X}.0")),
        domain,
        bus,
        device,
        // Which model of which vendor: CUDA does not tell.
        pciDeviceId: 0,
        pciSubSystemId: 0,
        busId: field(&format!("{domain:08X}:{bus:02X}:{device:02X}.0")),
    })
}

/// Writes the first bytes of a structure, which are one of its earlier forms.
///
/// # Safety
/// The place is null or has `bytes` bytes.
unsafe fn give_beginning<T>(place: *mut T, value: &T, bytes: usize) -> Answer {
    if place.is_null() {
        return Err(Failure::INVALID_ARGUMENT);
    }
    let bytes = bytes.min(size_of::<T>());
    // SAFETY: both have so many bytes: the value by its type, the place by the caller's word.
    unsafe { ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), place.cast(), bytes) };
    Ok(())
}

pub unsafe fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> Answer {
    let info = pci_info(device)?;
    // SAFETY: the caller's contract.
    unsafe { give(pci, info) }
}

pub unsafe fn nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> Answer {
    let end = std::mem::offset_of!(nvmlPciInfo_t, busId);
    // SAFETY: the caller's contract, for the structure's second form.
    unsafe { give_beginning(pci, &pci_info(device)?, end) }
}

pub unsafe fn nvmlDeviceGetPciInfo(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> Answer {
    let end = std::mem::offset_of!(nvmlPciInfo_t, pciSubSystemId);
    // SAFETY: the caller's contract, for the structure's first form.
    unsafe { give_beginning(pci, &pci_info(device)?, end) }
}

/// The version word in front of a structure, which must be as expected.
///
/// # Safety
/// The place is null or begins with a version word.
unsafe fn check_version<T>(place: *mut T, number: u32) -> Answer {
    if place.is_null() {
        return Err(Failure::INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller vouches for the rest.
    if unsafe { place.cast::<c_uint>().read_unaligned() } != version_of::<T>(number) {
        return Err(Failure::ARGUMENT_VERSION_MISMATCH);
    }
    Ok(())
}

/// PCI's numbers for a display controller that is a 3D controller.
const PCI_DISPLAY: c_uint = 3;
const PCI_3D: c_uint = 2;

pub unsafe fn nvmlDeviceGetPciInfoExt(device: nvmlDevice_t, pci: *mut nvmlPciInfoExt_t) -> Answer {
    // SAFETY: the caller's contract.
    unsafe { check_version(pci, 1) }?;
    let info = pci_info(device)?;
    let extended = nvmlPciInfoExt_t {
        version: version_of::<nvmlPciInfoExt_t>(1),
        domain: info.domain,
        bus: info.bus,
        device: info.device,
        pciDeviceId: info.pciDeviceId,
        pciSubSystemId: info.pciSubSystemId,
        baseClass: PCI_DISPLAY,
        subClass: PCI_3D,
        busId: info.busId,
    };
    // SAFETY: the caller's contract.
    unsafe { give(pci, extended) }
}

pub unsafe fn nvmlDeviceGetMaxClockInfo(
    device: nvmlDevice_t,
    type_: nvmlClockType_t,
    clock: *mut c_uint,
) -> Answer {
    let which = match type_ {
        nvmlClockType_enum_NVML_CLOCK_GRAPHICS | nvmlClockType_enum_NVML_CLOCK_SM => {
            A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE
        }
        nvmlClockType_enum_NVML_CLOCK_MEM => A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE,
        nvmlClockType_enum_NVML_CLOCK_VIDEO => {
            return ordinal(device).and(Err(Failure::NOT_SUPPORTED));
        }
        _ => return Err(Failure::INVALID_ARGUMENT),
    };
    let khz = size(device, which)?;
    // SAFETY: the caller's contract.
    unsafe { give(clock, khz / 1000) }
}

/// The domain's memory on a device, in bytes.
fn memory_of(device: nvmlDevice_t) -> Result<nvmlMemory_t, Failure> {
    let device = ordinal(device)?;
    let told = ask(|channel| channel.ask(&request::DeviceMemory { device }))?;
    Ok(nvmlMemory_t {
        total: told.total,
        free: told.free,
        used: told.used,
    })
}

pub unsafe fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) -> Answer {
    let info = memory_of(device)?;
    // SAFETY: the caller's contract.
    unsafe { give(memory, info) }
}

pub unsafe fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> Answer {
    // SAFETY: the caller's contract.
    unsafe { check_version(memory, 2) }?;
    let info = memory_of(device)?;
    let info = nvmlMemory_v2_t {
        version: version_of::<nvmlMemory_v2_t>(2),
        total: info.total,
        reserved: 0,
        free: info.free,
        used: info.used,
    };
    // SAFETY: the caller's contract.
    unsafe { give(memory, info) }
}

/// Thousandths as the percent that they round to.
fn percent(thousandths: u32) -> c_uint {
    thousandths.saturating_add(5) / 10
}

pub unsafe fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    utilization: *mut nvmlUtilization_t,
) -> Answer {
    let device = ordinal(device)?;
    let share = ask(|channel| channel.ask(&request::DeviceShare { device }))?;
    let rates = nvmlUtilization_t {
        gpu: percent(share.kernels),
        memory: percent(share.copies),
    };
    // SAFETY: the caller's contract.
    unsafe { give(utilization, rates) }
}

pub unsafe fn nvmlDeviceGetComputeMode(
    device: nvmlDevice_t,
    mode: *mut nvmlComputeMode_t,
) -> Answer {
    // CUDA's numbers are NVML's.
    let told = attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)?;
    let told = u32::try_from(told).map_err(|_| Failure::UNKNOWN)?;
    // SAFETY: the caller's contract.
    unsafe { give(mode, told) }
}

fn capability(device: nvmlDevice_t) -> Result<(c_int, c_int), Failure> {
    Ok((
        attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ))
}

pub unsafe fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> Answer {
    let told = capability(device)?;
    if minor.is_null() {
        return Err(Failure::INVALID_ARGUMENT);
    }
    // SAFETY: the caller's contract.
    unsafe { give(major, told.0).and_then(|()| give(minor, told.1)) }
}

/// The architecture with a compute capability.
fn architecture(capability: (c_int, c_int)) -> nvmlDeviceArchitecture_t {
    match capability {
        (3, _) => NVML_DEVICE_ARCH_KEPLER,
        (5, _) => NVML_DEVICE_ARCH_MAXWELL,
        (6, _) => NVML_DEVICE_ARCH_PASCAL,
        (7, 0..5) => NVML_DEVICE_ARCH_VOLTA,
        (7, 5..) => NVML_DEVICE_ARCH_TURING,
        (8, 0..9) => NVML_DEVICE_ARCH_AMPERE,
        (8, 9..) => NVML_DEVICE_ARCH_ADA,
        (9, _) => NVML_DEVICE_ARCH_HOPPER,
        (10..=12, _) => NVML_DEVICE_ARCH_BLACKWELL,
        _ => NVML_DEVICE_ARCH_UNKNOWN,
    }
}

pub unsafe fn nvmlDeviceGetArchitecture(
    device: nvmlDevice_t,
    arch: *mut nvmlDeviceArchitecture_t,
) -> Answer {
    let architecture = architecture(capability(device)?);
    // SAFETY: the caller's contract.
    unsafe { give(arch, architecture) }
}

pub unsafe fn nvmlDeviceGetEccMode(
    device: nvmlDevice_t,
    current: *mut nvmlEnableState_t,
    pending: *mut nvmlEnableState_t,
) -> Answer {
    let enabled = attribute(device, A::CU_DEVICE_ATTRIBUTE_ECC_ENABLED)? != 0;
    if pending.is_null() {
        return Err(Failure::INVALID_ARGUMENT);
    }
    // SAFETY: the caller's contract.
    unsafe { give(current, enabled.into()).and_then(|()| give(pending, enabled.into())) }
}

pub unsafe fn nvmlDeviceGetMultiGpuBoard(
    device: nvmlDevice_t,
    multiGpuBool: *mut c_uint,
) -> Answer {
    let several = attribute(device, A::CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD)? != 0;
    // SAFETY: the caller's contract.
    unsafe { give(multiGpuBool, several.into()) }
}

pub unsafe fn nvmlDeviceGetMemoryBusWidth(device: nvmlDevice_t, busWidth: *mut c_uint) -> Answer {
    let bits = size(device, A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
    // SAFETY: the caller's contract.
    unsafe { give(busWidth, bits) }
}

pub unsafe fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    valuesCount: c_int,
    values: *mut nvmlFieldValue_t,
) -> Answer {
    ordinal(device)?;
    let count = usize::try_from(valuesCount).map_err(|_| Failure::INVALID_ARGUMENT)?;
    if values.is_null() || count == 0 {
        return Err(Failure::INVALID_ARGUMENT);
    }
    for n in 0..count {
        // SAFETY: the program has `count` structures there; only this field of them is touched.
        unsafe {
            let value = values.add(n);
            ptr::addr_of_mut!((*value).nvmlReturn).write_unaligned(Failure::NOT_SUPPORTED.0);
        }
    }
    Ok(())
}

pub unsafe fn nvmlDeviceIsMigDeviceHandle(
    device: nvmlDevice_t,
    isMigDevice: *mut c_uint,
) -> Answer {
    ordinal(device)?;
    // SAFETY: the caller's contract.
    unsafe { give(isMigDevice, 0) }
}

pub unsafe fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) -> Answer {
    ordinal(device)?;
    // SAFETY: the caller's contract.
    unsafe { give(count, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn structures_lie_in_memory_as_nvml_has_them() {
        // Sizes and offsets as ctypes computes them for nvidia-ml-py 13.
        assert_eq!(size_of::<nvmlMemory_t>(), 24);
        assert_eq!(size_of::<nvmlMemory_v2_t>(), 40);
        assert_eq!(offset_of!(nvmlMemory_v2_t, total), 8);
        assert_eq!(offset_of!(nvmlMemory_v2_t, used), 32);
        assert_eq!(size_of::<nvmlUtilization_t>(), 8);
        assert_eq!(size_of::<nvmlPciInfo_t>(), 68);
        assert_eq!(offset_of!(nvmlPciInfo_t, pciDeviceId), 28);
        assert_eq!(offset_of!(nvmlPciInfo_t, pciSubSystemId), 32);
        assert_eq!(offset_of!(nvmlPciInfo_t, busId), 36);
        assert_eq!(size_of::<nvmlFieldValue_t>(), 40);
        assert_eq!(offset_of!(nvmlFieldValue_t, nvmlReturn), 28);
        assert_eq!(size_of::<nvmlDevice_t>(), size_of::<usize>());
        assert_eq!(version_of::<nvmlMemory_v2_t>(2), 0x200_0028);
        assert_eq!(version_of::<nvmlPciInfoExt_t>(1), 0x100_0040);
        assert_eq!(version_of::<nvmlUUID_t>(1), 0x100_0034);
    }

    #[test]
    fn a_uuid_is_written_as_nvml_does() {
        let uuid: Uuid = std::array::from_fn(|n| n as u8 * 17);
        assert_eq!(uuid_text(&uuid), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn a_share_is_rounded_to_percent() {
        assert_eq!([0, 4, 5, 995, 1000].map(percent), [0, 0, 1, 100, 100]);
    }

    #[test]
    fn a_driver_has_the_newest_cuda_that_is_not_newer() {
        assert_eq!(release(12080), Ok("570.26"));
        assert_eq!(release(12070), Ok("560.28.03"));
        assert_eq!(release(12000), Ok("525.60.13"));
        assert_eq!(release(10020), Err(Failure::NOT_SUPPORTED));
        assert!(RELEASES.is_sorted());
        assert_eq!(RELEASES.last().map(|(cuda, _)| *cuda), Some(CUDA_VERSION));
    }

    #[test]
    fn an_architecture_follows_from_the_compute_capability() {
        for (capability, expected) in [
            ((7, 0), NVML_DEVICE_ARCH_VOLTA),
            ((7, 5), NVML_DEVICE_ARCH_TURING),
            ((8, 6), NVML_DEVICE_ARCH_AMPERE),
            ((8, 9), NVML_DEVICE_ARCH_ADA),
            ((9, 0), NVML_DEVICE_ARCH_HOPPER),
            ((12, 0), NVML_DEVICE_ARCH_BLACKWELL),
            ((99, 0), NVML_DEVICE_ARCH_UNKNOWN),
            ((-1, -1), NVML_DEVICE_ARCH_UNKNOWN),
        ] {
            assert_eq!(architecture(capability), expected, "{capability:?}");
        }
    }

    #[test]
    fn text_is_written_whole_or_not_at_all() {
        let mut room = [1 as c_char; 8];
        let place = room.as_mut_ptr();
        // SAFETY: the length told is never more than there is.
        unsafe {
            assert_eq!(
                give_text(ptr::null_mut(), 8, "four"),
                Err(Failure::INVALID_ARGUMENT)
            );
            for short in [0, 1, 4] {
                assert_eq!(
                    give_text(place, short, "four"),
                    Err(Failure::INSUFFICIENT_SIZE)
                );
            }
            assert_eq!(room, [1; 8]);
            assert_eq!(give_text(place, 5, "four"), Ok(()));
            assert_eq!(CStr::from_ptr(place), c"four");
        }
        assert_eq!(&room[5..], [1; 3]);
        assert_eq!(field::<5>("12345678"), [49, 50, 51, 52, 0]);
        assert_eq!(field::<4>("1"), [49, 0, 0, 0]);
    }

    #[test]
    fn an_earlier_form_of_a_structure_is_not_overrun() {
        let info = nvmlPciInfo_t {
            busIdLegacy: field("0000:01:02.0"),
            domain: 0,
            bus: 1,
            device: 2,
            pciDeviceId: 3,
            pciSubSystemId: 4,
            busId: field("00000000:01:02.0"),
        };
        let mut room = [0xee_u8; 68];
        // SAFETY: more room than is asked for.
        let given = unsafe { give_beginning(room.as_mut_ptr().cast(), &info, 36) };
        assert_eq!(given, Ok(()));
        assert_eq!(&room[32..40], [4, 0, 0, 0, 0xee, 0xee, 0xee, 0xee]);
        // SAFETY: null is allowed.
        let refused = unsafe { give_beginning(ptr::null_mut(), &info, 36) };
        assert_eq!(refused, Err(Failure::INVALID_ARGUMENT));
    }

    #[test]
    fn nothing_is_told_before_init_and_an_init_that_fails_does_not_count() {
        // SAFETY: who else reads the environment here does so through std, which locks it.
        unsafe { std::env::set_var("XEN_VGPU_SOCKET", "/nonexistent/frontd.sock") };
        let mut count = 77;
        // SAFETY: pointers to this function's variables, or null.
        unsafe {
            assert_eq!(
                nvmlDeviceGetCount_v2(&mut count),
                Err(Failure::UNINITIALIZED)
            );
            assert_eq!(nvmlShutdown(), Err(Failure::UNINITIALIZED));
            assert_eq!(nvmlInit_v2(), Err(Failure::DRIVER_NOT_LOADED));
            assert_eq!(
                nvmlInitWithFlags(NVML_INIT_FLAG_NO_GPUS),
                Err(Failure::DRIVER_NOT_LOADED)
            );
            assert_eq!(nvmlShutdown(), Err(Failure::UNINITIALIZED));
            for wild in [0, 1, 2, usize::MAX] {
                let device = ptr::without_provenance_mut(wild);
                assert_eq!(
                    nvmlDeviceGetMemoryInfo(device, ptr::null_mut()),
                    Err(Failure::UNINITIALIZED)
                );
            }
            let mut cuda = 0;
            assert_eq!(nvmlSystemGetCudaDriverVersion(&mut cuda), Ok(()));
            assert_eq!(cuda, CUDA_VERSION);
            assert_eq!(
                nvmlSystemGetCudaDriverVersion_v2(ptr::null_mut()),
                Err(Failure::INVALID_ARGUMENT)
            );
        }
        assert_eq!(count, 77);
    }
}
