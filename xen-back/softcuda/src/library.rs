//! Libraries: code that belongs to no context, and is loaded into each that uses it. A library's kernel
//! stands for a function in whichever context is current. Must never keep a context's module alive
//! longer than the context.

use crate::context::{Context, current};
use crate::driver::Driver;
use crate::exec::Program;
use crate::image::Text;
use crate::module::{self, Function, LoadFailure, Module, Settings};
use cuda_abi::{CuResult, Handle, Kind};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// `CUlibrary`, as a kind of handle.
#[derive(Debug)]
pub enum LibraryKind {}
impl Kind for LibraryKind {
    const TAG: u8 = 0x21;
    const NAME: &'static str = "CUlibrary";
}

/// `CUkernel`, as a kind of handle.
#[derive(Debug)]
pub enum KernelKind {}
impl Kind for KernelKind {
    const TAG: u8 = 0x22;
    const NAME: &'static str = "CUkernel";
}

/// A library.
#[derive(Debug)]
pub struct Library {
    /// What programs call it.
    pub handle: u64,
    texts: Vec<Text>,
    /// The code, which the first context takes for itself.
    program: Arc<Program>,
    taken: OnceLock<u64>,
    /// Handles of its modules, by the id of their context.
    modules: Mutex<HashMap<u64, u64>>,
    /// Its kernels' handles, in the program's order.
    kernels: Vec<u64>,
}

/// A kernel of a library.
#[derive(Debug)]
pub struct Kernel {
    /// Its library.
    pub owner: Arc<Library>,
    /// Which of the program's kernels it is.
    pub index: usize,
    /// Its name, for programs that ask for it.
    pub name: CString,
    /// What programs set of it, per device.
    settings: Vec<Arc<Settings>>,
}

impl Library {
    /// Loads the texts of an image.
    ///
    /// # Errors
    /// As for a module.
    pub fn load(driver: &Driver, texts: Vec<Text>) -> Result<Arc<Library>, LoadFailure> {
        let program = Arc::new(module::compile(&texts)?);
        let handle = driver.libraries.number();
        let library = Arc::new(Library {
            handle,
            texts,
            kernels: program
                .kernels()
                .iter()
                .map(|_| driver.kernels.number())
                .collect(),
            program,
            taken: OnceLock::new(),
            modules: Mutex::default(),
        });
        let infos = library.program.kernels().iter().enumerate();
        for ((index, info), kernel) in infos.zip(&library.kernels) {
            let entry = Kernel {
                owner: Arc::clone(&library),
                index,
                // A name of PTX has no NUL byte.
                name: CString::new(info.name.as_str()).unwrap_or_default(),
                settings: driver.devices.iter().map(|_| Settings::new(info)).collect(),
            };
            driver.kernels.insert(*kernel, Arc::new(entry));
        }
        driver.libraries.insert(handle, Arc::clone(&library));
        Ok(library)
    }

    /// Ends the library and its modules, whose kernels have ended.
    pub fn unload(&self, driver: &'static Driver) {
        let modules = std::mem::take(&mut *self.modules());
        for module in modules.into_values() {
            if let Some(module) = driver.modules.remove(module as Handle) {
                driver.engines.wait_context(driver, module.context.id);
                Module::unload(driver, &module);
            }
        }
        for kernel in &self.kernels {
            driver.kernels.remove(*kernel as Handle);
        }
    }

    /// Handles of its kernels, in order.
    pub fn kernels(&self) -> &[u64] {
        &self.kernels
    }

    /// The code.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The handle of a kernel by its name.
    pub fn kernel(&self, name: &str) -> Option<u64> {
        let kernels = self.program.kernels();
        let index = kernels.iter().position(|kernel| kernel.name == name)?;
        self.kernels.get(index).copied()
    }

    /// The library's module in a context, loaded there if it was not.
    ///
    /// # Errors
    /// As for a module.
    pub fn module(
        &self,
        driver: &Driver,
        context: &Arc<Context>,
    ) -> Result<Arc<Module>, LoadFailure> {
        let mut modules = self.modules();
        let known = modules.get(&context.id);
        if let Some(module) = known.and_then(|known| driver.modules.get(*known as Handle)) {
            return Ok(module);
        }
        // A program's variables have their addresses once and for all.
        let program = if self.taken.set(context.id).is_ok() {
            Arc::clone(&self.program)
        } else {
            Arc::new(module::compile(&self.texts)?)
        };
        let module = Module::load(driver, Arc::clone(context), program)?;
        modules.insert(context.id, module.handle() as u64);
        Ok(module)
    }

    fn modules(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel {
    /// What programs set of it on a device.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_DEVICE.
    pub fn settings(&self, device: i32) -> Result<&Arc<Settings>, CuResult> {
        usize::try_from(device)
            .ok()
            .and_then(|device| self.settings.get(device))
            .ok_or(CuResult::INVALID_DEVICE)
    }

    /// The handle of its function in a context.
    ///
    /// # Errors
    /// CUDA_ERROR_OUT_OF_MEMORY where the library's variables do not fit.
    pub fn function(&self, driver: &Driver, context: &Arc<Context>) -> Result<u64, CuResult> {
        let module = self.owner.module(driver, context).map_err(|failure| {
            tracing::error!(code = %failure.code, "library not loaded: {}", failure.log);
            failure.code
        })?;
        let settings = &self.settings[context.device];
        Ok(module.function_at(driver, self.index, || Arc::clone(settings)))
    }
}

/// The function of a handle: a `CUfunction`, or a `CUkernel` in the calling thread's context, for calls
/// take either.
///
/// # Errors
/// CUDA_ERROR_INVALID_HANDLE, or what keeps the library from being loaded.
pub fn function(driver: &Driver, handle: Handle) -> Result<Arc<Function>, CuResult> {
    if let Some(found) = driver.functions.get(handle) {
        return Ok(found);
    }
    let kernel = driver.kernels.get(handle).ok_or(CuResult::INVALID_HANDLE)?;
    let function = kernel.function(driver, &current()?)?;
    driver
        .functions
        .get(function as Handle)
        .ok_or(CuResult::INVALID_HANDLE)
}
