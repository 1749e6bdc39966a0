//! nvml-probe: a monitor and a CUDA program in one, by the names that any program loads NVML and CUDA by.
//!
//! It reads commands, one a line, and answers each with a line of JSON, so that a test can look at the
//! backend in between. It uses the C functions as any program would, right and wrong.

use cuda_abi::sys::CUdevice_attribute as A;
use cuda_abi::{CuResult, Driver};
use nvml_wrapper_sys::bindings::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::io::BufRead;
use std::mem::{size_of, zeroed};
use std::process::ExitCode;
use std::ptr::null_mut;

struct Probe {
    nvml: NvmlLib,
    cuda: Driver,
}

/// Calls a C function of NVML's or CUDA's. Every call in this program passes pointers to its own
/// variables, or values that are wrong on purpose where the function says that it checks them.
macro_rules! c {
    ($library:expr, $name:ident ( $($argument:expr),* )) => {
        // SAFETY: see the macro's description.
        unsafe { $library.$name($($argument),*) }
    };
}

fn main() -> ExitCode {
    // SAFETY: whoever starts this program names the libraries' folder.
    let libraries = unsafe {
        (
            NvmlLib::new("libnvidia-ml.so.1"),
            Driver::load("libcuda.so.1".as_ref()),
        )
    };
    let probe = match libraries {
        (Ok(nvml), Ok(cuda)) => Probe { nvml, cuda },
        (nvml, cuda) => {
            eprintln!("nvml-probe: {:?} {:?}", nvml.err(), cuda.err());
            return ExitCode::FAILURE;
        }
    };
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let answer = match words.next() {
            Some("init") => json!(c!(probe.nvml, nvmlInit_v2())),
            Some("shutdown") => json!(c!(probe.nvml, nvmlShutdown())),
            Some("nvml") => probe.nvml(),
            Some("cuda") => probe.cuda(),
            Some("memory") => probe.memory(),
            Some("rates") => probe.rates(),
            Some("alloc") => probe.alloc(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
            Some("free") => probe.free(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
            Some("wrong") => probe.wrong(),
            Some("threads") => probe.threads(),
            Some("fork") => probe.fork(),
            _ => {
                eprintln!("nvml-probe: no such command: {line}");
                return ExitCode::FAILURE;
            }
        };
        println!("{answer}");
    }
    ExitCode::SUCCESS
}

fn text(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> = buffer.iter().map(|c| c.cast_unsigned()).collect();
    let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    text.to_string_lossy().into_owned()
}

/// The bytes that a UUID's text stands for.
fn bytes_of(uuid: &str) -> [u8; 16] {
    let digits: String = uuid.chars().skip(4).filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16)
        .unwrap_or_default()
        .to_be_bytes()
}

impl Probe {
    fn device(&self, index: u32) -> nvmlDevice_t {
        let mut device = null_mut();
        c!(self.nvml, nvmlDeviceGetHandleByIndex_v2(index, &mut device));
        device
    }

    /// What NVML says of everything, with the codes; a device is found again by its names.
    fn nvml(&self) -> Value {
        let nvml = &self.nvml;
        let (mut count, mut cuda) = (0, 0);
        let mut driver = [0; 80];
        let codes = [
            c!(nvml, nvmlDeviceGetCount_v2(&mut count)),
            c!(nvml, nvmlSystemGetCudaDriverVersion_v2(&mut cuda)),
            c!(nvml, nvmlSystemGetDriverVersion(driver.as_mut_ptr(), 80)),
        ];
        let devices: Vec<Value> = (0..count).map(|index| self.nvml_device(index)).collect();
        json!({ "codes": codes, "cuda": cuda, "driver": text(&driver), "devices": devices })
    }

    fn nvml_device(&self, index: u32) -> Value {
        let nvml = &self.nvml;
        let device = self.device(index);
        let (mut name, mut uuid) = ([0; 96], [0; 96]);
        let (mut major, mut minor, mut ordinal) = (0, 0, 99);
        // SAFETY: structures of numbers alone.
        let (mut pci, mut memory): (nvmlPciInfo_t, nvmlMemory_v2_t) =
            unsafe { (zeroed(), zeroed()) };
        memory.version = size_of::<nvmlMemory_v2_t>() as u32 | 2 << 24;
        let codes = [
            c!(nvml, nvmlDeviceGetName(device, name.as_mut_ptr(), 96)),
            c!(nvml, nvmlDeviceGetUUID(device, uuid.as_mut_ptr(), 96)),
            c!(nvml, nvmlDeviceGetIndex(device, &mut ordinal)),
            c!(nvml, nvmlDeviceGetPciInfo_v3(device, &mut pci)),
            c!(nvml, nvmlDeviceGetMemoryInfo_v2(device, &mut memory)),
            c!(
                nvml,
                nvmlDeviceGetCudaComputeCapability(device, &mut major, &mut minor)
            ),
        ];
        let (mut by_uuid, mut by_bytes, mut by_pci, mut by_legacy) =
            (null_mut(), null_mut(), null_mut(), null_mut());
        // SAFETY: a structure of numbers alone.
        let mut binary: nvmlUUID_t = unsafe { zeroed() };
        binary.version = size_of::<nvmlUUID_t>() as u32 | 1 << 24;
        binary.type_ = nvmlUUIDType_t_NVML_UUID_TYPE_BINARY;
        binary.value.bytes = bytes_of(&text(&uuid));
        let found = [
            c!(nvml, nvmlDeviceGetHandleByUUID(uuid.as_ptr(), &mut by_uuid)),
            c!(nvml, nvmlDeviceGetHandleByUUIDV(&binary, &mut by_bytes)),
            c!(
                nvml,
                nvmlDeviceGetHandleByPciBusId_v2(pci.busId.as_ptr(), &mut by_pci)
            ),
            c!(
                nvml,
                nvmlDeviceGetHandleByPciBusId_v2(pci.busIdLegacy.as_ptr(), &mut by_legacy)
            ),
        ];
        let same = [by_uuid, by_bytes, by_pci, by_legacy].map(|found| found == device);
        json!({
            "codes": codes,
            "found": found,
            "same": same,
            "name": text(&name),
            "uuid": text(&uuid),
            "index": ordinal,
            "pci": text(&pci.busId),
            "place": [pci.domain, pci.bus, pci.device],
            "capability": [major, minor],
            "total": memory.total,
            "free": memory.free,
            "used": memory.used,
        })
    }

    /// What CUDA says of the same.
    fn cuda(&self) -> Value {
        let cuda = &self.cuda;
        let (mut count, mut version) = (0, 0);
        let codes = [
            c!(cuda, cuInit(0)),
            c!(cuda, cuDriverGetVersion(&mut version)),
            c!(cuda, cuDeviceGetCount(&mut count)),
        ];
        let devices: Vec<Value> = (0..count).map(|device| self.cuda_device(device)).collect();
        let codes = codes.map(|code| code.0);
        json!({ "codes": codes, "cuda": version, "devices": devices })
    }

    fn cuda_device(&self, device: i32) -> Value {
        let cuda = &self.cuda;
        let (mut name, mut pci, mut uuid, mut total) = ([0; 96], [0; 32], [0u8; 16], 0usize);
        let codes = [
            c!(cuda, cuDeviceGetName(name.as_mut_ptr(), 96, device)),
            c!(cuda, cuDeviceGetPCIBusId(pci.as_mut_ptr(), 32, device)),
            c!(cuda, cuDeviceGetUuid(&mut uuid, device)),
            c!(cuda, cuDeviceTotalMem_v2(&mut total, device)),
        ];
        let attribute = |attribute: A| {
            let mut value = -1;
            let _ = c!(
                cuda,
                cuDeviceGetAttribute(&mut value, attribute as i32, device)
            );
            value
        };
        let codes = codes.map(|code| code.0);
        json!({
            "codes": codes,
            "name": text(&name),
            "uuid": uuid,
            "pci": text(&pci),
            "place": [
                attribute(A::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID),
                attribute(A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID),
                attribute(A::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID),
            ],
            "capability": [
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
            ],
            "total": total,
        })
    }

    /// Device 0's memory: total, free and used by NVML, free and total by CUDA in the current context.
    fn memory(&self) -> Value {
        // SAFETY: a structure of numbers alone.
        let mut memory: nvmlMemory_t = unsafe { zeroed() };
        let code = c!(
            self.nvml,
            nvmlDeviceGetMemoryInfo(self.device(0), &mut memory)
        );
        let (mut free, mut total) = (0usize, 0usize);
        let told = c!(self.cuda, cuMemGetInfo_v2(&mut free, &mut total));
        json!({
            "nvml": { "code": code, "total": memory.total, "free": memory.free, "used": memory.used },
            "cuda": { "code": told.0, "total": total, "free": free },
        })
    }

    /// Device 0's utilisation: the code, kernels, copies.
    fn rates(&self) -> Value {
        let mut rates = nvmlUtilization_t { gpu: 0, memory: 0 };
        let code = c!(
            self.nvml,
            nvmlDeviceGetUtilizationRates(self.device(0), &mut rates)
        );
        json!([code, rates.gpu, rates.memory])
    }

    /// Allocates device memory in the primary context: the result and the address.
    fn alloc(&self, bytes: usize) -> Value {
        let cuda = &self.cuda;
        let (mut context, mut current, mut address) = (null_mut(), null_mut(), 0);
        let _ = c!(cuda, cuCtxGetCurrent(&mut current));
        if current.is_null() {
            let _ = c!(cuda, cuDevicePrimaryCtxRetain(&mut context, 0));
            let _ = c!(cuda, cuCtxSetCurrent(context));
        }
        let result = c!(cuda, cuMemAlloc_v2(&mut address, bytes));
        json!([result.0, address])
    }

    fn free(&self, address: u64) -> Value {
        let freed = c!(self.cuda, cuMemFree_v2(address));
        json!([freed.0, c!(self.cuda, cuCtxSynchronize()).0])
    }

    /// Codes for what a program does wrong, and for what has no answer.
    fn wrong(&self) -> Value {
        let nvml = &self.nvml;
        let device = self.device(0);
        let (mut name, mut number, mut other) = ([7; 8], 0, null_mut());
        // SAFETY: structures of numbers alone.
        let (mut memory, mut field): (nvmlMemory_v2_t, nvmlFieldValue_t) =
            unsafe { (zeroed(), zeroed()) };
        let wild = usize::MAX as nvmlDevice_t;
        let absent = c"GPU-00000000-0000-0000-0000-000000000000".as_ptr();
        json!({
            "name into null": c!(nvml, nvmlDeviceGetName(device, null_mut(), 96)),
            "name into 1 byte": c!(nvml, nvmlDeviceGetName(device, name.as_mut_ptr(), 1)),
            "untouched": name == [7; 8],
            "memory into null": c!(nvml, nvmlDeviceGetMemoryInfo(device, null_mut())),
            "memory without a version": c!(nvml, nvmlDeviceGetMemoryInfo_v2(device, &mut memory)),
            "no device": c!(nvml, nvmlDeviceGetMemoryInfo(null_mut(), null_mut())),
            "a wild device": c!(nvml, nvmlDeviceGetIndex(wild, &mut number)),
            "index 99": c!(nvml, nvmlDeviceGetHandleByIndex_v2(99, &mut other)),
            "another UUID": c!(nvml, nvmlDeviceGetHandleByUUID(absent, &mut other)),
            "no PCI address": c!(nvml, nvmlDeviceGetHandleByPciBusId_v2(c"here".as_ptr(), &mut other)),
            "temperature": c!(nvml, nvmlDeviceGetTemperature(device, 0, &mut number)),
            "temperature of a wild device": c!(nvml, nvmlDeviceGetTemperature(wild, 0, &mut number)),
            "power": c!(nvml, nvmlDeviceGetPowerUsage(device, &mut number)),
            "MIG": c!(nvml, nvmlDeviceGetMigMode(device, &mut number, null_mut())),
            "a field": [c!(nvml, nvmlDeviceGetFieldValues(device, 1, &mut field)), field.nvmlReturn],
            "a negative number of fields": c!(nvml, nvmlDeviceGetFieldValues(device, -1, &mut field)),
            "clearing the ECC counts": c!(nvml, nvmlDeviceClearEccErrorCounts(device, 0)),
        })
    }

    /// Threads that each initialise, ask and shut down, again and again: how often each code came.
    fn threads(&self) -> Value {
        let round = || {
            // SAFETY: a structure of numbers alone.
            let mut memory: nvmlMemory_t = unsafe { zeroed() };
            let mut count = 0;
            [
                c!(self.nvml, nvmlInit_v2()),
                c!(self.nvml, nvmlDeviceGetCount_v2(&mut count)),
                c!(
                    self.nvml,
                    nvmlDeviceGetMemoryInfo(self.device(0), &mut memory)
                ),
                c!(self.nvml, nvmlShutdown()),
            ]
        };
        let mut codes = BTreeMap::new();
        std::thread::scope(|scope| {
            let work = || (0..10).flat_map(|_| round()).collect::<Vec<_>>();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                // A thread that panicked has no codes, and the count shows it.
                for code in thread.join().unwrap_or_default() {
                    *codes.entry(code.to_string()).or_insert(0) += 1;
                }
            }
        });
        json!(codes)
    }

    /// What a forked child can do: [NVML's count, its code, cuInit, cuDeviceGetCount], by its exit status.
    fn fork(&self) -> Value {
        // SAFETY: this program has no other thread; the child ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let (mut nvml, mut cuda) = (0, 0);
            let code = c!(self.nvml, nvmlDeviceGetCount_v2(&mut nvml));
            let init = c!(self.cuda, cuInit(0));
            let counted = c!(self.cuda, cuDeviceGetCount(&mut cuda));
            let fine =
                code == 0 && [init, counted] == [CuResult::SUCCESS; 2] && cuda as u32 == nvml;
            if !fine {
                eprintln!(
                    "nvml-probe: in a forked child: NVML {code}, {init}, {counted}, {nvml}, {cuda}"
                );
            }
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if fine { nvml as i32 } else { 100 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &mut status, 0) };
        json!(libc::WEXITSTATUS(status))
    }
}
