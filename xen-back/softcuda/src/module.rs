//! Modules: compiled PTX with its variables in device memory, and its kernels as functions with their
//! attributes. An image comes from the program: nothing of it may be taken for granted but that its
//! pointer is good, as CUDA's contract has it.

use crate::context::Context;
use crate::device;
use crate::driver::Driver;
use crate::exec::{
    KernelInfo, MAX_BLOCK_THREADS, MAX_SHARED_BYTES, Program, VariableSpace, WARP_SIZE,
};
use crate::memory::{Home, Owner, Purpose};
use cuda_abi::{CuResult, Handle};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    /// Where it belongs.
    pub context: Arc<Context>,
    handle: u64,
    program: Arc<Program>,
    /// First address and bytes of each variable, in the program's order.
    variables: Vec<(u64, u64)>,
    /// Handles of the functions that were asked for, by kernel.
    functions: Mutex<HashMap<usize, u64>>,
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub struct Function {
    /// Where it belongs.
    pub context: Arc<Context>,
    /// Handle of its module.
    pub module: u64,
    /// Its module's code.
    pub program: Arc<Program>,
    /// Which of the module's kernels it is.
    pub index: usize,
    /// Dynamic shared memory that a launch may ask for, in bytes.
    pub max_dynamic_shared: AtomicI32,
    /// Preferred share of shared memory in percent, -1 for none; it changes nothing on this device.
    pub carveout: AtomicI32,
}

/// Why an image is no module.
#[derive(Debug, PartialEq, Eq)]
pub struct LoadFailure {
    /// The driver's code.
    pub code: CuResult,
    /// What is wrong with the image, for the program's log.
    pub log: String,
}

impl LoadFailure {
    fn new(code: CuResult, log: impl Into<String>) -> LoadFailure {
        LoadFailure {
            code,
            log: log.into(),
        }
    }
}

/// How an image in memory begins, which says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Machine code of a GPU.
    Cubin,
    /// A wrapper around a fat binary, or a bare one.
    FatBinary,
    /// Text that ends with a NUL byte.
    Text,
}

impl Format {
    const MAGICS: [([u8; 4], Format); 3] = [
        (*b"\x7fELF", Format::Cubin),
        (0x4662_43b1_u32.to_le_bytes(), Format::FatBinary),
        (0xba55_ed50_u32.to_le_bytes(), Format::FatBinary),
    ];

    /// The format of an image. `byte` reads its bytes, and none behind one that differs from a magic
    /// number: a text may be shorter than four.
    pub fn of(mut byte: impl FnMut(usize) -> Option<u8>) -> Format {
        Format::MAGICS
            .iter()
            .find(|(magic, _)| magic.iter().enumerate().all(|(at, b)| byte(at) == Some(*b)))
            .map_or(Format::Text, |(_, format)| *format)
    }
}

impl Module {
    /// Loads a PTX text into a context; the module's handle.
    ///
    /// # Errors
    /// The driver's code and the text's first mistake.
    pub fn load(driver: &Driver, context: Arc<Context>, text: &[u8]) -> Result<u64, LoadFailure> {
        let text = std::str::from_utf8(text).map_err(|error| {
            let line = 1 + text[..error.valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count();
            LoadFailure::new(
                CuResult::INVALID_PTX,
                format!("PTX line {line}: a byte that is no UTF-8 text"),
            )
        })?;
        let program = Program::compile(text)
            .map_err(|error| LoadFailure::new(CuResult::INVALID_PTX, error.to_string()))?;
        let handle = driver.modules.number();
        let variables = place_variables(driver, &context, &program)?;
        let module = Module {
            context,
            handle,
            program: Arc::new(program),
            variables,
            functions: Mutex::default(),
        };
        driver.modules.insert(handle, Arc::new(module));
        Ok(handle)
    }

    /// Why an image of this format is not loaded.
    pub fn refuse(format: Format) -> LoadFailure {
        let what = match format {
            Format::Cubin => "an ELF cubin",
            Format::FatBinary => "a fat binary",
            Format::Text => "a text",
        };
        LoadFailure::new(
            CuResult::NO_BINARY_FOR_GPU,
            format!("the image is {what}; softcuda loads PTX text"),
        )
    }

    /// Ends a module, whose kernels have ended.
    pub fn unload(driver: &Driver, module: &Module) {
        driver.modules.remove(module.handle as Handle);
        driver
            .functions
            .remove_if(|function| function.module == module.handle);
        for (start, _) in &module.variables {
            driver.memory.release(*start);
        }
    }

    /// The handle of a kernel by its name: always the same one.
    pub fn function(&self, driver: &Driver, name: &str) -> Option<u64> {
        let kernels = self.program.kernels();
        let index = kernels.iter().position(|kernel| kernel.name == name)?;
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let handle = *functions.entry(index).or_insert_with(|| {
            let handle = driver.functions.number();
            let unasked = device::SHARED_BYTES.saturating_sub(kernels[index].shared_bytes);
            let function = Function {
                context: Arc::clone(&self.context),
                module: self.handle,
                program: Arc::clone(&self.program),
                index,
                max_dynamic_shared: AtomicI32::new(unasked as i32),
                carveout: AtomicI32::new(-1),
            };
            driver.functions.insert(handle, Arc::new(function));
            handle
        });
        Some(handle)
    }

    /// First address and bytes of a variable by its name.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        let variables = self.program.variables();
        let index = variables
            .iter()
            .position(|variable| variable.name == name)?;
        self.variables.get(index).copied()
    }
}

/// Allocates a program's variables, tells it where they are, and writes their initial values.
fn place_variables(
    driver: &Driver,
    context: &Context,
    program: &Program,
) -> Result<Vec<(u64, u64)>, LoadFailure> {
    let owner = Owner {
        context: context.handle,
        flags: 0,
        purpose: Purpose::Variable,
    };
    let mut placed: Vec<(u64, u64)> = Vec::new();
    let outcome = program.variables().iter().try_for_each(|variable| {
        let found = driver
            .memory
            .allocate(
                Home::Device(context.device),
                variable.bytes.max(1),
                variable.align,
                owner,
            )
            .map_err(|code| {
                let log = format!(
                    "no memory for variable {}, {} bytes",
                    variable.name, variable.bytes
                );
                LoadFailure::new(code, log)
            })?;
        placed.push((found.start, variable.bytes));
        Ok(())
    });
    let addresses: Vec<u64> = placed.iter().map(|(start, _)| *start).collect();
    let outcome = outcome.and_then(|()| {
        program
            .bind_variables(&addresses)
            .map_err(|fault| LoadFailure::new(CuResult::UNKNOWN, fault.to_string()))
    });
    if let Err(failure) = outcome {
        for start in addresses {
            driver.memory.release(start);
        }
        return Err(failure);
    }
    for (index, (start, bytes)) in placed.iter().enumerate() {
        let image = program.image(index);
        let initial = image.len().min(*bytes as usize);
        // SAFETY: the variable's memory was just allocated, `bytes` long, and nobody else knows it.
        unsafe {
            let to = *start as *mut u8;
            to.copy_from_nonoverlapping(image.as_ptr(), initial);
            to.add(initial).write_bytes(0, *bytes as usize - initial);
        }
    }
    Ok(placed)
}

impl Function {
    /// What its module says about it.
    pub fn info(&self) -> &KernelInfo {
        &self.program.kernels()[self.index]
    }

    /// Threads that a block of it may have.
    pub fn max_threads(&self) -> u32 {
        let product =
            |dimensions: [u32; 3]| dimensions.iter().map(|d| u64::from(*d)).product::<u64>();
        let info = self.info();
        let declared = info
            .required_threads
            .or(info.max_threads)
            .map_or(u64::MAX, product);
        declared.clamp(1, u64::from(MAX_BLOCK_THREADS)) as u32
    }

    /// The value of a `CUfunction_attribute`.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for one that CUDA 12.8 does not know.
    pub fn attribute(&self, attribute: i32) -> Result<i32, CuResult> {
        let info = self.info();
        let constants = || {
            let variables = self.program.variables().iter();
            let constant = variables.filter(|v| v.space == VariableSpace::Const);
            constant.map(|v| v.bytes).sum::<u64>() as i32
        };
        Ok(match attribute {
            0 => self.max_threads() as i32,
            1 => info.shared_bytes as i32,
            2 => constants(),
            3 => info.local_bytes as i32,
            4 => info.registers as i32,
            5 => info.target as i32,
            6 => device::TARGET,
            7 => 0, // compiled with global loads cached in L1: there is no such choice
            8 => self.max_dynamic_shared.load(Ordering::Relaxed),
            9 => self.carveout.load(Ordering::Relaxed),
            10..=15 => 0, // clusters, which the device does not have
            _ => return Err(CuResult::INVALID_VALUE),
        })
    }

    /// Sets a `CUfunction_attribute`.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for one that cannot be set, or to this value.
    pub fn set_attribute(&self, attribute: i32, value: i32) -> Result<(), CuResult> {
        let free = MAX_SHARED_BYTES.saturating_sub(self.info().shared_bytes) as i32;
        match attribute {
            8 if (0..=free).contains(&value) => {
                self.max_dynamic_shared.store(value, Ordering::Relaxed)
            }
            9 if (-1..=100).contains(&value) => self.carveout.store(value, Ordering::Relaxed),
            _ => return Err(CuResult::INVALID_VALUE),
        }
        Ok(())
    }

    /// Blocks of so many threads and so much dynamic shared memory that reside on a multiprocessor.
    pub fn resident_blocks(&self, threads: u32, dynamic_shared: u64) -> u32 {
        let shared = u64::from(self.info().shared_bytes) + dynamic_shared;
        if threads > self.max_threads() || shared > u64::from(MAX_SHARED_BYTES) {
            return 0;
        }
        let threads = threads.max(1).next_multiple_of(WARP_SIZE);
        let registers = threads * self.info().registers.clamp(1, 255).next_multiple_of(8);
        let shared = shared as u32 + device::RESERVED_SHARED_BYTES;
        device::MAX_RESIDENT_BLOCKS
            .min(device::MAX_RESIDENT_THREADS / threads)
            .min(device::REGISTERS / registers)
            .min(device::RESIDENT_SHARED_BYTES / shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let of = |image: &[u8]| Format::of(|at| image.get(at).copied());
        assert_eq!(of(b"\x7fELF\x02"), Format::Cubin);
        assert_eq!(of(&[0xb1, 0x43, 0x62, 0x46]), Format::FatBinary);
        assert_eq!(of(&[0x50, 0xed, 0x55, 0xba]), Format::FatBinary);
        for text in [&b"\0"[..], b"\x7f\0", b"\x7fEL\0", b".version 6.0\0"] {
            assert_eq!(of(text), Format::Text);
        }
    }

    #[test]
    fn formats_read_no_byte_behind_a_difference() {
        let image = b"\x7fE\0";
        let mut furthest = 0;
        Format::of(|at| {
            furthest = furthest.max(at);
            image.get(at).copied()
        });
        assert_eq!(furthest, 2);
    }
}
