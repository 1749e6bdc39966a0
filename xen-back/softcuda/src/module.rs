//! Modules: compiled PTX with its variables in device memory, and its kernels as functions with their
//! attributes. An image comes from the program: nothing of it may be taken for granted but that its
//! pointer is good, as CUDA's contract has it.

use crate::context::Context;
use crate::device;
use crate::driver::{self, Driver};
use crate::exec::{
    KernelInfo, MAX_BLOCK_THREADS, MAX_SHARED_BYTES, Options, Program, VariableSpace, WARP_SIZE,
};
use crate::image::Text;
use crate::memory::{Home, Owner, Purpose};
use crate::ptx;
use crate::ptx::ast::Opaque;
use crate::texture::Reference;
use cuda_abi::{CuResult, Handle};
use std::collections::HashMap;
use std::ffi::CString;
use std::fmt::Write as _;
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
    /// Handles of the texture and surface references that were asked for, by variable.
    references: Mutex<HashMap<usize, u64>>,
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub struct Function {
    /// What programs call it.
    pub handle: u64,
    /// Where it belongs.
    pub context: Arc<Context>,
    /// Handle of its module.
    pub module: u64,
    /// Its module's code.
    pub program: Arc<Program>,
    /// Which of the module's kernels it is.
    pub index: usize,
    /// Its name, for programs that ask for it.
    pub name: CString,
    /// What programs set of it; a library's kernel has the same in all contexts of a device.
    pub settings: Arc<Settings>,
}

/// What programs set of a kernel.
#[derive(Debug)]
pub struct Settings {
    /// Dynamic shared memory that a launch may ask for, in bytes.
    pub max_dynamic_shared: AtomicI32,
    /// Preferred share of shared memory in percent, -1 for none; it changes nothing on this device.
    carveout: AtomicI32,
}

impl Settings {
    /// A kernel's settings before any are made.
    pub fn new(info: &KernelInfo) -> Arc<Settings> {
        let unasked = device::SHARED_BYTES.saturating_sub(info.shared_bytes);
        Arc::new(Settings {
            max_dynamic_shared: AtomicI32::new(unasked as i32),
            carveout: AtomicI32::new(-1),
        })
    }
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
    /// A failure with its log.
    pub fn new(code: CuResult, log: impl Into<String>) -> LoadFailure {
        LoadFailure {
            code,
            log: log.into(),
        }
    }
}

/// A text as such, if it is one.
fn utf8<'t>(text: &'t Text, all: &[Text]) -> Result<&'t str, LoadFailure> {
    std::str::from_utf8(&text.bytes).map_err(|error| {
        let before = &text.bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let prefix = prefix(text, all);
        let log = format!("{prefix}PTX line {line}: a byte that is no UTF-8 text");
        LoadFailure::new(CuResult::INVALID_PTX, log)
    })
}

/// Checks that a text is PTX, whatever it refers to.
///
/// # Errors
/// CUDA_ERROR_INVALID_PTX and the first mistake.
pub fn check(text: &Text) -> Result<(), LoadFailure> {
    let all = std::slice::from_ref(text);
    ptx::parse(utf8(text, all)?).map(drop).map_err(|error| {
        let log = format!("{}{error}", prefix(text, all));
        LoadFailure::new(CuResult::INVALID_PTX, log)
    })
}

/// Compiles the texts of an image as one program.
///
/// # Errors
/// CUDA_ERROR_INVALID_PTX and the first mistake, with the name and line of its text.
pub fn compile(texts: &[Text]) -> Result<Program, LoadFailure> {
    // Where launches have a limit, kernels must look at it.
    let options = Options {
        timed: driver::get().is_ok_and(|driver| driver.timeout.is_some()),
        ..Options::default()
    };
    let read: Vec<&str> = texts
        .iter()
        .map(|text| utf8(text, texts))
        .collect::<Result<_, _>>()?;
    Program::compile_with(&read, options).map_err(|mut error| {
        let mut log = String::new();
        let mut first = 0;
        for (text, own) in texts.iter().zip(&read) {
            let lines = ptx::lines(own);
            if error.line <= first + lines || std::ptr::eq(text, &texts[texts.len() - 1]) {
                error.line = error.line.saturating_sub(first);
                log.push_str(&prefix(text, texts));
                break;
            }
            first += lines;
        }
        // Writing to a String cannot fail.
        let _ = write!(log, "{error}");
        LoadFailure::new(CuResult::INVALID_PTX, log)
    })
}

/// What stands before a mistake in one of several texts.
fn prefix(text: &Text, all: &[Text]) -> String {
    if all.len() > 1 || !text.name.is_empty() {
        format!("{}, ", text.name)
    } else {
        String::new()
    }
}

impl Module {
    /// Gives a program's variables their memory in a context and makes it a module there.
    ///
    /// # Errors
    /// CUDA_ERROR_OUT_OF_MEMORY for variables that do not fit.
    pub fn load(
        driver: &Driver,
        context: Arc<Context>,
        program: Arc<Program>,
    ) -> Result<Arc<Module>, LoadFailure> {
        let handle = driver.modules.number();
        let variables = place_variables(driver, &context, &program)?;
        let module = Arc::new(Module {
            context,
            handle,
            program,
            variables,
            functions: Mutex::default(),
            references: Mutex::default(),
        });
        driver.modules.insert(handle, Arc::clone(&module));
        Ok(module)
    }

    /// Ends a module, whose kernels have ended.
    pub fn unload(driver: &Driver, module: &Module) {
        driver.modules.remove(module.handle as Handle);
        driver
            .functions
            .remove_if(|function| function.module == module.handle);
        driver
            .references
            .remove_if(|reference| reference.module == module.handle);
        for (start, _) in &module.variables {
            driver.memory.release(*start);
        }
    }

    /// The handle of a kernel by its name: always the same one.
    pub fn function(&self, driver: &Driver, name: &str) -> Option<u64> {
        let kernels = self.program.kernels();
        let index = kernels.iter().position(|kernel| kernel.name == name)?;
        Some(self.function_at(driver, index, || Settings::new(&kernels[index])))
    }

    /// The handle of a kernel by its number, which must be one of the program's; `settings` are a new
    /// handle's.
    pub fn function_at(
        &self,
        driver: &Driver,
        index: usize,
        settings: impl FnOnce() -> Arc<Settings>,
    ) -> u64 {
        let mut functions = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *functions.entry(index).or_insert_with(|| {
            let handle = driver.functions.number();
            let function = Function {
                handle,
                context: Arc::clone(&self.context),
                module: self.handle,
                program: Arc::clone(&self.program),
                index,
                // A name of PTX has no NUL byte.
                name: CString::new(self.program.kernels()[index].name.as_str()).unwrap_or_default(),
                settings: settings(),
            };
            driver.functions.insert(handle, Arc::new(function));
            handle
        })
    }

    /// The module's code.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// What programs call it.
    pub fn handle(&self) -> Handle {
        self.handle as Handle
    }

    /// The handle of a texture or surface reference by its name: always the same one.
    pub fn reference(&self, driver: &Driver, name: &str, surface: bool) -> Option<u64> {
        let wanted = if surface {
            Opaque::Surface
        } else {
            Opaque::Texture
        };
        let variables = self.program.variables();
        let index = variables
            .iter()
            .position(|variable| variable.name == name && variable.opaque == Some(wanted))?;
        let (address, _) = *self.variables.get(index)?;
        let mut references = self
            .references
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Some(*references.entry(index).or_insert_with(|| {
            let handle = driver.references.number();
            let context = Arc::clone(&self.context);
            let reference = Reference::new(context, self.handle, surface, address);
            driver.references.insert(handle, Arc::new(reference));
            handle
        }))
    }

    /// First address and bytes of a variable by its name, and whether it is managed memory.
    pub fn variable(&self, name: &str) -> Option<(u64, u64, bool)> {
        let variables = self.program.variables();
        let index = variables
            .iter()
            .position(|variable| variable.name == name)?;
        let (start, bytes) = self.variables.get(index).copied()?;
        Some((start, bytes, variables.get(index)?.managed))
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
                if variable.managed {
                    Home::Managed
                } else {
                    Home::Device(context.device)
                },
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
        max_threads(self.info())
    }

    /// The value of a `CUfunction_attribute`.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for one that CUDA 12.8 does not know.
    pub fn attribute(&self, attribute: i32) -> Result<i32, CuResult> {
        kernel_attribute(&self.program, self.index, &self.settings, attribute)
    }

    /// Sets a `CUfunction_attribute`.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for one that cannot be set, or to this value.
    pub fn set_attribute(&self, attribute: i32, value: i32) -> Result<(), CuResult> {
        self.settings.set(self.info(), attribute, value)
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

    /// Bytes of dynamic shared memory that each of so many resident blocks can have.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if so many blocks do not reside on a multiprocessor whatever they ask for.
    pub fn available_shared(&self, blocks: u32, threads: u32) -> Result<u64, CuResult> {
        if blocks == 0 || self.resident_blocks(threads, 0) < blocks {
            return Err(CuResult::INVALID_VALUE);
        }
        let share = device::RESIDENT_SHARED_BYTES / blocks;
        let taken = device::RESERVED_SHARED_BYTES + self.info().shared_bytes;
        let free = share.min(MAX_SHARED_BYTES + device::RESERVED_SHARED_BYTES);
        Ok(u64::from(free.saturating_sub(taken)))
    }
}

/// The value of a kernel's `CUfunction_attribute`.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE for one that CUDA 12.8 does not know, or a kernel that is not there.
pub fn kernel_attribute(
    program: &Program,
    index: usize,
    settings: &Settings,
    attribute: i32,
) -> Result<i32, CuResult> {
    let info = program
        .kernels()
        .get(index)
        .ok_or(CuResult::INVALID_VALUE)?;
    let constants = || {
        let variables = program.variables().iter();
        let constant = variables.filter(|v| v.space == VariableSpace::Const);
        constant.map(|v| v.bytes).sum::<u64>() as i32
    };
    Ok(match attribute {
        0 => max_threads(info) as i32,
        1 => info.shared_bytes as i32,
        2 => constants(),
        3 => info.local_bytes as i32,
        4 => info.registers as i32,
        5 => info.target as i32,
        6 => device::TARGET,
        7 => 0, // compiled with global loads cached in L1: there is no such choice
        8 => settings.max_dynamic_shared.load(Ordering::Relaxed),
        9 => settings.carveout.load(Ordering::Relaxed),
        10..=15 => 0, // clusters, which the device does not have
        _ => return Err(CuResult::INVALID_VALUE),
    })
}

impl Settings {
    /// Sets a `CUfunction_attribute` of a kernel.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for one that cannot be set, or to this value.
    pub fn set(&self, info: &KernelInfo, attribute: i32, value: i32) -> Result<(), CuResult> {
        let free = MAX_SHARED_BYTES.saturating_sub(info.shared_bytes) as i32;
        match attribute {
            8 if (0..=free).contains(&value) => {
                self.max_dynamic_shared.store(value, Ordering::Relaxed);
            }
            9 if (-1..=100).contains(&value) => self.carveout.store(value, Ordering::Relaxed),
            _ => return Err(CuResult::INVALID_VALUE),
        }
        Ok(())
    }
}

/// Threads that a block of a kernel may have.
pub fn max_threads(info: &KernelInfo) -> u32 {
    let product = |dimensions: [u32; 3]| dimensions.iter().map(|d| u64::from(*d)).product::<u64>();
    let declared = info
        .required_threads
        .or(info.max_threads)
        .map_or(u64::MAX, product);
    declared.clamp(1, u64::from(MAX_BLOCK_THREADS)) as u32
}
