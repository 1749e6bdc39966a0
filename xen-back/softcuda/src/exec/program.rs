//! A compiled module: its kernels, its variables and its machine code; and how a launch is spread over
//! the cores.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use super::block::{self, Frames, Kernel, Progress, Stop};
use super::code::CodeMemory;
use super::context::{
    Arrivals, BlockContext, ENDED, GANG, KernelCode, RawFault, Site, SiteKind, TURNS, WAITING,
};
use super::runtime::{self, Runtime, Services};
use super::texture::{Objects, TextureTable};
use super::{
    Fault, KernelInfo, Launch, MAX_BLOCK_THREADS, MAX_RESIDENT_BLOCKS, MAX_RESIDENT_THREADS,
    MAX_SHARED_BYTES, Param, Place, VariableInfo, VariableSpace, WORKSPACE_BYTES, helpers, pool,
};
use crate::cache::{self, Key};
use crate::compile::{self, Compiled, CompiledGangs, FRAME_ALIGN, LANES};
use crate::ptx::ast::{Module, Relocation, Space, Symbol, Variable};
use crate::ptx::{PtxError, link};
use crate::settings;

/// Threads that a launch gives each worker at a time, so that small blocks are not fetched one by one.
const BATCH_THREADS: u64 = 2048;

/// Threads that a kernel has run when its code for gangs is made.
const GANGS_FROM: u64 = 1 << 15;

/// A kernel's code for gangs of threads, with its own frames.
#[derive(Debug)]
struct Gangs {
    kernel: Kernel,
    single: KernelCode,
    thread_bytes: u32,
    sites: Vec<Site>,
    _code: CodeMemory,
}

/// A kernel's code and needs.
#[derive(Debug)]
struct Entry {
    kernel: Kernel,
    /// Index of its function in the module.
    function: usize,
    /// Threads run so far.
    threads: AtomicU64,
    gangs: OnceLock<Option<Gangs>>,
    /// Bytes of a frame beside the room for calls of unknown depth; `None` where the depth is known.
    fixed_bytes: Option<u32>,
    thread_bytes: u32,
    shared: Vec<Option<u32>>,
    pause_lines: Vec<u32>,
}

/// A module's variable that lives in device memory.
#[derive(Debug)]
struct Initial {
    /// Index among all the module's variables.
    index: usize,
    image: Vec<u8>,
    relocations: Vec<Relocation>,
}

/// What becomes known when the variables have their addresses.
#[derive(Debug)]
struct Bound {
    addresses: Vec<u64>,
    /// Per kernel, per variable of the module: its address or its offset in shared memory.
    tables: Vec<Vec<u64>>,
}

/// How a module is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Whether a launch that lasts too long ends wherever it is: every loop and every function then
    /// looks at the launch's state. Without it a launch ends between blocks, at barriers and where
    /// threads wait in loops, but not in a loop that does none of it.
    pub timed: bool,
    /// Whether kernels are compiled for gangs of threads as well.
    pub vectorise: Vectorise,
}

/// Whether a kernel's threads run in gangs, on the host's vectors. It is only a matter of speed: results
/// are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Vectorise {
    /// From when on it pays, unless `SOFTCUDA_WIDE` says otherwise.
    #[default]
    WhenItPays,
    /// From the first launch on.
    AtOnce,
    /// Never.
    Never,
}

/// A compiled module; owns its machine code.
#[derive(Debug)]
pub struct Program {
    kernels: Vec<KernelInfo>,
    variables: Vec<VariableInfo>,
    entries: Vec<Entry>,
    initials: Vec<Initial>,
    /// Number of the module's variables of all spaces.
    all_variables: usize,
    functions: Vec<FunctionPointer>,
    sites: Vec<Vec<Site>>,
    uses_heap: bool,
    /// The texts, and how they are compiled, for what is compiled later.
    texts: Vec<String>,
    options: Options,
    bound: OnceLock<Bound>,
    /// Kept last: everything above may point into it.
    _code: CodeMemory,
}

/// Where a device function's code starts; null for what cannot be called.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
struct FunctionPointer(*const c_void);

// SAFETY: the pointers are to code that lives as long as the program and is never written.
unsafe impl Send for FunctionPointer {}
// SAFETY: as for Send.
unsafe impl Sync for FunctionPointer {}

impl Program {
    /// Compiles a PTX text (any text after a NUL byte is ignored).
    ///
    /// # Errors
    /// What is wrong with the text, or what in it softcuda lacks.
    pub fn compile(ptx: &str) -> Result<Self, PtxError> {
        Self::compile_all(&[ptx])
    }

    /// Compiles several PTX texts as one program, in which they may use each other's symbols. Lines are
    /// counted through all of them, as if each began on the line after the last one of the text before.
    ///
    /// # Errors
    /// What is wrong with a text, what in it softcuda lacks, or what does not fit together.
    pub fn compile_all(texts: &[&str]) -> Result<Self, PtxError> {
        Self::compile_with(texts, Options::default())
    }

    /// Compiles several PTX texts as one program, with options.
    ///
    /// # Errors
    /// As [`Program::compile_all`].
    pub fn compile_with(texts: &[&str], mut options: Options) -> Result<Self, PtxError> {
        if options.vectorise == Vectorise::WhenItPays {
            options.vectorise = settings::vectorise();
        }
        let module = link(texts)?;
        for variable in &module.variables {
            check_variable(&module, variable)?;
        }
        let key = key(texts, options, "");
        let known = cache::find(&key).filter(|known: &Compiled| known.fits(&module));
        let compiled = match known {
            Some(known) => known,
            None => {
                let compiled = compile::compile(&module, options)?;
                cache::keep(&key, &compiled);
                compiled
            }
        };
        Self::new(texts, options, &module, compiled)
    }

    /// All that keeps softcuda from compiling a PTX text, in the order of its lines: not only the first
    /// mistake, but every instruction that it lacks. Empty for a text that compiles.
    pub fn problems(ptx: &str) -> Vec<PtxError> {
        let mut module = match link(&[ptx]) {
            Ok(module) => module,
            Err(error) => return vec![error],
        };
        let variables = module.variables.iter();
        let mut found: Vec<PtxError> = variables
            .filter_map(|variable| check_variable(&module, variable).err())
            .collect();
        found.extend(compile::problems(&mut module, Options::default()));
        if found.is_empty() {
            found.extend(Self::compile(ptx).err());
        }
        found
    }

    fn new(
        texts: &[&str],
        options: Options,
        module: &Module<'_>,
        compiled: Compiled,
    ) -> Result<Self, PtxError> {
        let code = CodeMemory::new(&compiled.code).map_err(|error| {
            PtxError::limit(1, format!("no memory for the module's code: {error}"))
        })?;
        let (mut kernels, mut entries) = (Vec::new(), Vec::new());
        for kernel in compiled.kernels {
            let function = &module.functions[kernel.function];
            let (Some(entry), Some(body)) = (compiled.entries[kernel.function], &function.body)
            else {
                continue;
            };
            // SAFETY: the code at this entry was compiled as a kernel, with this signature.
            let entry = unsafe { std::mem::transmute::<*const c_void, KernelCode>(code.at(entry)) };
            let slots = function.prototype.params.iter().zip(&kernel.params);
            kernels.push(KernelInfo {
                name: function.name.to_owned(),
                params: slots
                    .map(|(slot, &offset)| Param {
                        offset,
                        size: slot.bytes,
                        align: slot.align,
                    })
                    .collect(),
                param_bytes: kernel.param_bytes,
                shared_bytes: kernel.shared_bytes,
                local_bytes: kernel.local_bytes,
                max_threads: function.max_threads,
                required_threads: function.required_threads,
                // Compilers write each value to a register of its own; a GPU reuses most.
                registers: (body.registers.len() as u32 / 4).clamp(16, 255),
                ptx_version: module.version,
                target: module.target,
            });
            entries.push(Entry {
                kernel: Kernel {
                    code: entry,
                    waits: kernel.waits,
                    simple: kernel.simple,
                    yields: kernel.yields,
                },
                function: kernel.function,
                threads: AtomicU64::new(0),
                gangs: OnceLock::new(),
                fixed_bytes: kernel.fixed_bytes,
                thread_bytes: kernel.thread_bytes,
                shared: kernel.shared,
                pause_lines: kernel.pause_lines,
            });
        }
        let functions = compiled
            .entries
            .iter()
            .zip(&module.functions)
            .map(|(entry, function)| {
                FunctionPointer(match entry {
                    Some(entry) if !function.is_kernel => code.at(*entry),
                    Some(_) => std::ptr::null(),
                    None => runtime::native(function.name, &function.prototype)
                        .unwrap_or(std::ptr::null()),
                })
            });
        let (mut variables, mut initials) = (Vec::new(), Vec::new());
        for (index, variable) in module.variables.iter().enumerate() {
            let space = match variable.space {
                Space::Global => VariableSpace::Global,
                Space::Const => VariableSpace::Const,
                _ => continue,
            };
            variables.push(VariableInfo {
                name: variable.name.clone(),
                space,
                bytes: variable.bytes.max(1),
                align: variable.align,
                managed: variable.managed,
                opaque: variable.opaque,
            });
            let (image, relocations) = (variable.image.clone(), variable.relocations.clone());
            initials.push(Initial {
                index,
                image,
                relocations,
            });
        }
        Ok(Self {
            kernels,
            variables,
            entries,
            initials,
            all_variables: module.variables.len(),
            functions: functions.collect(),
            sites: compiled.sites,
            uses_heap: module
                .functions
                .iter()
                .any(|function| function.body.is_none() && function.name == "malloc"),
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
            options,
            bound: OnceLock::new(),
            _code: code,
        })
    }

    /// The module's kernels, in the text's order.
    pub fn kernels(&self) -> &[KernelInfo] {
        &self.kernels
    }

    /// Whether its kernels may allocate memory: their launches want a [`super::Runtime`] with a heap.
    pub fn uses_heap(&self) -> bool {
        self.uses_heap
    }

    /// The module's `.global` and `.const` variables.
    pub fn variables(&self) -> &[VariableInfo] {
        &self.variables
    }

    /// Tells the program where its variables are: one device address each, in the order of
    /// [`Program::variables`], each valid and aligned. Must come before `image` and `launch`.
    ///
    /// # Errors
    /// [`Fault::InvalidLaunch`] if there are too few or too many addresses, or they were given before.
    pub fn bind_variables(&self, addresses: &[u64]) -> Result<(), Fault> {
        if addresses.len() != self.variables.len() {
            let (got, want) = (addresses.len(), self.variables.len());
            return Err(Fault::InvalidLaunch(format!(
                "{got} addresses for the module's {want} variables"
            )));
        }
        let tables = self.entries.iter().map(|entry| {
            let mut table = vec![0; self.all_variables];
            for (initial, &address) in self.initials.iter().zip(addresses) {
                table[initial.index] = address;
            }
            for (slot, offset) in table.iter_mut().zip(&entry.shared) {
                if let Some(offset) = offset {
                    *slot = u64::from(*offset);
                }
            }
            table
        });
        let bound = Bound {
            addresses: addresses.to_vec(),
            tables: tables.collect(),
        };
        let again =
            |_| Fault::InvalidLaunch("the module's variables already have their addresses".into());
        self.bound.set(bound).map_err(again)
    }

    /// The initial bytes of a variable, with the addresses of other variables filled in; what follows
    /// them in the variable is zero. Empty for a variable without initialiser or unknown.
    pub fn image(&self, variable: usize) -> Vec<u8> {
        let Some(initial) = self.initials.get(variable) else {
            return Vec::new();
        };
        let mut image = initial.image.clone();
        for relocation in &initial.relocations {
            let address = match relocation.target {
                Symbol::Function(function) => compile::function_address(function as usize),
                Symbol::Variable(target) => {
                    let place = self
                        .initials
                        .iter()
                        .position(|other| other.index == target as usize);
                    let addresses = self.bound.get().map_or(&[][..], |bound| &bound.addresses);
                    place
                        .and_then(|place| addresses.get(place))
                        .copied()
                        .unwrap_or(0)
                }
                _ => 0,
            };
            let value = address.wrapping_add_signed(relocation.addend).to_le_bytes();
            let at = relocation.offset as usize;
            if let Some(word) = image.get_mut(at..at + relocation.bytes as usize) {
                word.copy_from_slice(&value[..word.len()]);
            }
        }
        image
    }

    /// The kernel's code for gangs, where a launch is for it and enough has been run to make it.
    fn gangs<'p>(
        &'p self,
        entry: &'p Entry,
        launch: &Launch<'_>,
        threads: u64,
    ) -> Option<&'p Gangs> {
        if !launch.block[0].is_multiple_of(LANES as u32) || entry.fixed_bytes.is_some() {
            return None;
        }
        match self.options.vectorise {
            Vectorise::WhenItPays => {
                let before = entry.threads.fetch_add(threads, Ordering::Relaxed);
                if before.saturating_add(threads) < GANGS_FROM {
                    return None;
                }
            }
            Vectorise::AtOnce => {}
            Vectorise::Never => return None,
        }
        entry.gangs.get_or_init(|| self.make_gangs(entry)).as_ref()
    }

    /// Whether the kernel runs in gangs of threads, by the launches until now.
    pub fn runs_in_gangs(&self, kernel: usize) -> bool {
        let entry = self.entries.get(kernel);
        entry.is_some_and(|entry| entry.gangs.get().is_some_and(Option::is_some))
    }

    fn make_gangs(&self, entry: &Entry) -> Option<Gangs> {
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        let key = key(&texts, self.options, &format!("gangs {}", entry.function));
        let known: Option<Option<CompiledGangs>> = cache::find(&key);
        let fits = |known: &Option<CompiledGangs>| known.as_ref().is_none_or(CompiledGangs::fits);
        let compiled = match known.filter(fits) {
            Some(known) => known,
            None => {
                let module = link(&texts).ok()?;
                let compiled = compile::compile_gangs(&module, self.options, entry.function);
                cache::keep(&key, &compiled);
                compiled
            }
        }?;
        let code = CodeMemory::new(&compiled.code).ok()?;
        // SAFETY: the code at both places was compiled as a kernel, with this signature.
        let [gangs, single] = [compiled.gangs, compiled.single].map(|start| unsafe {
            std::mem::transmute::<*const c_void, KernelCode>(code.at(start))
        });
        Some(Gangs {
            kernel: Kernel {
                code: gangs,
                ..entry.kernel
            },
            single,
            thread_bytes: compiled.thread_bytes,
            sites: compiled.sites,
            _code: code,
        })
    }

    /// Runs a kernel over a grid to its end, on the calling thread and the pool.
    ///
    /// # Errors
    /// The first fault of any thread; the memory then holds whatever was written until it.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<(), Fault> {
        self.launch_timed(launch).map(drop)
    }

    /// The same, and when it was.
    ///
    /// # Errors
    /// As of [`Program::launch`].
    pub fn launch_timed(&self, launch: &Launch<'_>) -> Result<Lasted, Fault> {
        let services = Services {
            runtime: launch.runtime,
        };
        let run = Run::new(self, launch, &services)?;
        let limit = launch.runtime.and_then(Runtime::timeout);
        let ended = (Mutex::new(false), Condvar::new());
        match limit {
            None => run.everywhere(),
            Some(limit) => thread::scope(|scope| {
                let watch = || {
                    let held = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
                    let waited = ended.1.wait_timeout_while(held, limit, |ended| !*ended);
                    if !*waited.unwrap_or_else(PoisonError::into_inner).0 {
                        run.end(LATE);
                    }
                };
                // Without the thread the launch could only be trusted to end.
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, watch) {
                    let why = format!("no thread to watch its time: {error}");
                    return Err(Fault::InvalidLaunch(why));
                }
                let outcome = run.everywhere();
                *ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
                ended.1.notify_all();
                outcome
            }),
        }
    }
}

/// What the code of texts is kept under.
fn key(texts: &[&str], options: Options, what: &str) -> Key {
    let identity = compile::identity(options);
    let about = [identity.as_bytes(), what.as_bytes()];
    Key::new(
        about
            .into_iter()
            .chain(texts.iter().map(|text| text.as_bytes())),
    )
}

/// Refuses what a single module cannot have.
fn check_variable(module: &Module<'_>, variable: &Variable) -> Result<(), PtxError> {
    for relocation in &variable.relocations {
        let good = match relocation.target {
            Symbol::Variable(target) => module
                .variables
                .get(target as usize)
                .is_some_and(|target| target.space != Space::Shared),
            Symbol::Function(_) => true,
            _ => false,
        };
        if !good {
            let message = format!(
                "{} refers to something without a constant address",
                variable.name
            );
            return Err(PtxError::invalid(variable.line, message));
        }
    }
    Ok(())
}

/// Bytes of stack that a thread may have, at most: what a GPU's threads have of local memory.
const MAX_STACK_BYTES: u32 = 512 << 10;

/// In [`Run::ending`]: some block has failed.
const FAILED: u32 = 1;
/// The launch lasts too long.
const LATE: u32 = 2;

/// Rounds in which a block's threads do nothing but make way for each other before another block has
/// its turn. In a cooperative launch blocks wait for each other as a matter of course; elsewhere the
/// block that is waited for most likely runs on another core.
const PATIENCE: u32 = 64;
const COOPERATIVE_PATIENCE: u32 = 1;

/// When a launch was on the device: what prepares it and follows it is a driver's work, not the device's.
#[derive(Debug, Clone, Copy)]
pub struct Lasted {
    /// When the first block began.
    pub began: Instant,
    /// When the last block had ended.
    pub ended: Instant,
}

/// One launch, checked.
struct Run<'l> {
    program: &'l Program,
    launch: &'l Launch<'l>,
    entry: &'l Entry,
    gangs: Option<&'l Gangs>,
    kernel: Kernel,
    thread_bytes: u32,
    table: &'l [u64],
    /// The parameter buffer, as aligned as any parameter may be.
    params: Vec<u128>,
    blocks: u64,
    threads: u32,
    shared_bytes: u32,
    frame_bytes: usize,
    grid_id: u64,
    textures: Arc<Objects>,
    services: &'l Services<'l>,
    /// Blocks per batch.
    batch: u64,
    /// The next block to run.
    next: AtomicU64,
    /// When the first block began.
    began: OnceLock<Instant>,
    /// Blocks that have ended.
    ended: AtomicU64,
    /// When the last one had.
    over: OnceLock<Instant>,
    /// Not 0 when the launch must end.
    ending: AtomicU32,
    outcome: Mutex<Result<(), Fault>>,
}

impl<'l> Run<'l> {
    fn new(
        program: &'l Program,
        launch: &'l Launch<'l>,
        services: &'l Services<'l>,
    ) -> Result<Self, Fault> {
        static GRIDS: AtomicU64 = AtomicU64::new(1);
        let refuse = |why: String| Err(Fault::InvalidLaunch(why));
        let (Some(entry), Some(info)) = (
            program.entries.get(launch.kernel),
            program.kernels.get(launch.kernel),
        ) else {
            return refuse(format!("the module has no kernel number {}", launch.kernel));
        };
        let bound = match program.bound.get() {
            Some(bound) => bound,
            None => {
                if !program.variables.is_empty() {
                    return refuse("the module's variables have no addresses yet".into());
                }
                program.bind_variables(&[]).ok();
                match program.bound.get() {
                    Some(bound) => bound,
                    None => return refuse("the module's variables have no addresses yet".into()),
                }
            }
        };
        let product = |sizes: [u32; 3]| {
            sizes
                .iter()
                .try_fold(1_u64, |all, &size| all.checked_mul(u64::from(size)))
        };
        let Some(blocks) = product(launch.grid).filter(|&blocks| blocks > 0) else {
            return refuse("the grid is empty or too large".into());
        };
        let threads = product(launch.block)
            .filter(|threads| (1..=u64::from(MAX_BLOCK_THREADS)).contains(threads));
        let Some(threads) = threads.and_then(|threads| u32::try_from(threads).ok()) else {
            return refuse(format!("a block has 1 to {MAX_BLOCK_THREADS} threads"));
        };
        if launch.params.len() < info.param_bytes as usize {
            let (got, want) = (launch.params.len(), info.param_bytes);
            return refuse(format!(
                "{got} bytes of parameters where the kernel has {want}"
            ));
        }
        let shared_bytes = info.shared_bytes.saturating_add(launch.dynamic_shared);
        if shared_bytes > MAX_SHARED_BYTES {
            return refuse(format!(
                "{shared_bytes} bytes of shared memory where a block has {MAX_SHARED_BYTES}"
            ));
        }
        if let Some(workspace) = launch.cooperative {
            let room = u64::from(resident_blocks(threads)) * u64::from(pool::workers());
            if blocks > room {
                return refuse(format!(
                    "{blocks} blocks that wait for each other where {room} run at once"
                ));
            }
            if !launch.memory.holds(workspace, WORKSPACE_BYTES) {
                return refuse("the workspace is not in device memory".into());
            }
            // As CUDA's cooperative groups find it: its size, then the barrier's state.
            // SAFETY: `MemoryView::new`'s caller vouches for bytes that the view holds.
            unsafe {
                (workspace as *mut u8).write_bytes(0, WORKSPACE_BYTES as usize);
                (workspace as *mut u32).write(WORKSPACE_BYTES as u32);
            }
        }
        let stack = launch.runtime.map_or(0, Runtime::stack_bytes);
        let stack = u32::try_from(stack)
            .unwrap_or(u32::MAX)
            .min(MAX_STACK_BYTES);
        let thread_bytes = entry.fixed_bytes.map_or(0, |fixed| {
            fixed.saturating_add(stack).next_multiple_of(FRAME_ALIGN)
        });
        let thread_bytes = thread_bytes.max(entry.thread_bytes);
        let batch = if entry.kernel.yields {
            1
        } else {
            (BATCH_THREADS / u64::from(threads))
                .clamp(1, 64)
                .min(blocks.div_ceil(u64::from(pool::workers()) * 4).max(1))
        };
        let mut params = vec![0_u128; (info.param_bytes as usize).div_ceil(16).max(1)];
        for (word, bytes) in params
            .iter_mut()
            .zip(launch.params[..info.param_bytes as usize].chunks(16))
        {
            let mut full = [0; 16];
            full[..bytes.len()].copy_from_slice(bytes);
            *word = u128::from_ne_bytes(full);
        }
        let gangs = program.gangs(entry, launch, blocks.saturating_mul(u64::from(threads)));
        let (kernel, thread_bytes) = match gangs {
            Some(gangs) => (gangs.kernel, gangs.thread_bytes),
            None => (entry.kernel, thread_bytes),
        };
        Ok(Self {
            program,
            launch,
            entry,
            gangs,
            kernel,
            thread_bytes,
            table: &bound.tables[launch.kernel],
            params,
            blocks,
            threads,
            shared_bytes,
            frame_bytes: thread_bytes as usize * threads as usize,
            grid_id: GRIDS.fetch_add(1, Ordering::Relaxed),
            textures: launch
                .textures
                .map_or_else(Arc::default, TextureTable::objects),
            services,
            batch,
            next: AtomicU64::new(0),
            began: OnceLock::new(),
            ended: AtomicU64::new(0),
            over: OnceLock::new(),
            ending: AtomicU32::new(0),
            outcome: Mutex::new(Ok(())),
        })
    }

    /// Runs all blocks, on the calling thread and the pool.
    fn everywhere(&self) -> Result<Lasted, Fault> {
        let threads = u32::try_from(self.blocks.div_ceil(self.batch)).unwrap_or(u32::MAX);
        pool::run(threads, &|worker| {
            let result = if self.entry.kernel.yields {
                self.interleave(worker)
            } else {
                self.work(worker)
            };
            if let Err(fault) = result {
                let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
                if outcome.is_ok() {
                    *outcome = Err(fault);
                }
                drop(outcome);
                self.end(FAILED);
            }
        });
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        // Workers that saw that it is late between blocks left without a word.
        if outcome.is_ok() && self.is_late() && !self.is_done() {
            return Err(self.timeout());
        }
        outcome.clone()?;
        let over = *self.over.get_or_init(Instant::now);
        Ok(Lasted {
            began: self.began.get().copied().unwrap_or(over),
            ended: over,
        })
    }

    /// Makes the launch end, for the first reason that is given.
    fn end(&self, why: u32) {
        let _ = self
            .ending
            .compare_exchange(0, why, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn must_end(&self) -> bool {
        self.ending.load(Ordering::Relaxed) != 0
    }

    /// A block to run and its memory.
    fn resident(&self, worker: u32) -> Result<Resident, Fault> {
        let mut scratch = Scratch::take();
        let memory = scratch
            .frames
            .at_least(self.frame_bytes)
            .zip(scratch.shared.at_least(self.shared_bytes as usize));
        let Some((first, shared)) = memory else {
            let why = format!("no memory for {} bytes of local memory", self.frame_bytes);
            return Err(Fault::InvalidLaunch(why));
        };
        let mut frames = Frames {
            first,
            stride: self.thread_bytes as usize,
            threads: self.threads,
        };
        frames.place_threads(self.launch.block);
        let context = self.context(worker, &frames, shared);
        Ok(Resident {
            context,
            frames,
            _scratch: scratch,
        })
    }

    fn start(&self, resident: &mut Resident, number: u64) {
        resident.context.ctaid = self.block_place(number);
        self.began.get_or_init(Instant::now);
        block::start(self.kernel, &mut resident.context, &mut resident.frames);
    }

    fn advance(&self, resident: &mut Resident, patience: u32) -> Result<Option<Progress>, Fault> {
        let Resident {
            context, frames, ..
        } = resident;
        // SAFETY: the context was made for this kernel and these frames; the program, and with it the
        // code, outlives the launch.
        match unsafe { block::advance(self.kernel, context, frames, patience) } {
            Ok(progress) => Ok(Some(progress)),
            Err(stop) => self.fault(stop, context, frames).map_or(Ok(None), Err),
        }
    }

    /// Runs blocks one after the other until there are no more.
    fn work(&self, worker: u32) -> Result<(), Fault> {
        let mut resident = self.resident(worker)?;
        loop {
            let first = self.next.fetch_add(self.batch, Ordering::Relaxed);
            if first >= self.blocks {
                return Ok(());
            }
            for number in first..(first + self.batch).min(self.blocks) {
                if self.must_end() {
                    return Ok(());
                }
                self.start(&mut resident, number);
                // Such blocks run to their end, or until the launch must end.
                if self.advance(&mut resident, u32::MAX)?.is_some() {
                    self.block_ended();
                }
            }
        }
    }

    /// Runs blocks that may wait for others: where all of a block's threads seem to, the worker's other
    /// blocks have their turn, and blocks that have not started yet.
    fn interleave(&self, worker: u32) -> Result<(), Fault> {
        let cooperative = self.launch.cooperative.is_some();
        let (patience, room) = if cooperative {
            (COOPERATIVE_PATIENCE, usize::MAX)
        } else {
            (PATIENCE, resident_blocks(self.threads) as usize)
        };
        let mut residents: VecDeque<Resident> = VecDeque::new();
        let mut spare: Option<Resident> = None;
        // Turns since the last that brought a block further.
        let mut idle = 0;
        let mut more = true;
        loop {
            if self.must_end() {
                return Ok(());
            }
            let all_wait = cooperative || idle >= residents.len();
            if more && residents.len() < room && all_wait {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                more = number < self.blocks;
                if more {
                    let mut resident = match spare.take() {
                        Some(resident) => resident,
                        None => self.resident(worker)?,
                    };
                    self.start(&mut resident, number);
                    residents.push_front(resident);
                    idle = 0;
                }
            }
            let Some(mut resident) = residents.pop_front() else {
                return Ok(());
            };
            match self.advance(&mut resident, patience)? {
                Some(Progress::Ended) => {
                    self.block_ended();
                    spare = Some(resident);
                    idle = 0;
                }
                Some(Progress::Spins { moved }) => {
                    residents.push_back(resident);
                    idle = if moved { 0 } else { idle + 1 };
                }
                None => return Ok(()),
            }
            if idle > 0 && idle >= residents.len() {
                // Only blocks of other workers can help: let their threads run.
                thread::yield_now();
            }
        }
    }

    fn block_ended(&self) {
        if self.ended.fetch_add(1, Ordering::Relaxed) + 1 == self.blocks {
            self.over.get_or_init(Instant::now);
        }
    }

    /// Whether the launch must end because it lasts too long.
    fn is_late(&self) -> bool {
        self.ending.load(Ordering::Relaxed) == LATE
    }

    /// Whether all blocks have ended.
    fn is_done(&self) -> bool {
        self.ended.load(Ordering::Relaxed) == self.blocks
    }

    fn timeout(&self) -> Fault {
        Fault::Timeout {
            kernel: self.program.kernels[self.launch.kernel].name.clone(),
            limit: self
                .launch
                .runtime
                .and_then(Runtime::timeout)
                .unwrap_or_default(),
        }
    }

    fn block_place(&self, number: u64) -> [u32; 3] {
        let [x, y, _] = self.launch.grid.map(u64::from);
        [number % x, number / x % y, number / x / y].map(|place| place as u32)
    }

    fn context(&self, worker: u32, frames: &Frames, shared: *mut u8) -> BlockContext {
        let memory = &self.launch.memory;
        BlockContext {
            params: self.params.as_ptr().cast(),
            param_bytes: u64::from(self.program.kernels[self.launch.kernel].param_bytes),
            variables: self.table.as_ptr(),
            functions: self.program.functions.as_ptr().cast(),
            helpers: helpers::table(),
            memory_base: memory.base,
            memory_len: memory.len,
            memory_valid: memory.valid,
            ranges: memory.ranges,
            ranges_end: memory.ranges.wrapping_add(memory.range_count),
            textures: &raw const *self.textures,
            single: self.gangs.map(|gangs| gangs.single),
            shared,
            shared_bytes: u64::from(self.shared_bytes),
            thread_bytes: u64::from(self.thread_bytes),
            frames: frames.first,
            ntid: self.launch.block,
            nctaid: self.launch.grid,
            ctaid: [0; 3],
            dynamic_shared: self.launch.dynamic_shared,
            worker,
            live: 0,
            grid_id: self.grid_id,
            arrivals: Arrivals::default(),
            ending: &raw const self.ending,
            services: std::ptr::from_ref(self.services).cast(),
            workspace: self.launch.cooperative.unwrap_or(0),
            turns: TURNS,
            fault: RawFault {
                address: 0,
                thread: std::ptr::null(),
                site: 0,
                bytes: 0,
            },
            assertion: None,
        }
    }

    fn place(&self, line: u32, context: &BlockContext, thread: u32) -> Place {
        let [x, y, _] = self.launch.block;
        Place {
            kernel: self.program.kernels[self.launch.kernel].name.clone(),
            line,
            block: context.ctaid,
            thread: [thread % x, thread / x % y, thread / x / y],
        }
    }

    /// Which threads wait on which lines.
    fn waiting(&self, frames: &Frames) -> String {
        let mut lines: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for thread in 0..self.threads {
            let resume = frames.resume(thread);
            if resume != ENDED {
                lines
                    .entry(self.pause_line(resume))
                    .or_default()
                    .push(thread);
            }
        }
        let mut text = String::new();
        for (line, threads) in lines {
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str("threads ");
            let ranges = threads.chunk_by(|a, b| a + 1 == *b);
            for (index, range) in ranges.enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                if index == 8 {
                    text.push_str("and others");
                    break;
                }
                match range {
                    [first, .., last] => text.push_str(&format!("{first}-{last}")),
                    [one] => text.push_str(&one.to_string()),
                    [] => {}
                }
            }
            text.push_str(&format!(" on line {line}"));
        }
        text
    }

    /// The line where a thread with this state goes on.
    fn pause_line(&self, resume: u32) -> u32 {
        let pause = (resume & !(WAITING | GANG)).wrapping_sub(1) as usize;
        self.entry.pause_lines.get(pause).copied().unwrap_or(0)
    }

    /// What stopped a block; `None` if that was another block's fault.
    fn fault(&self, stop: Stop, context: &mut BlockContext, frames: &Frames) -> Option<Fault> {
        let raw = match stop {
            Stop::Deadlock { waiting, thread } => {
                let line = self.pause_line(frames.resume(thread));
                return Some(Fault::BarrierDeadlock {
                    waiting,
                    threads: self.waiting(frames),
                    place: self.place(line, context, thread),
                });
            }
            Stop::Ending => return self.is_late().then(|| self.timeout()),
            Stop::Fault => context.fault,
        };
        let thread =
            (raw.thread as usize).wrapping_sub(frames.first as usize) / frames.stride.max(1);
        let (function, index) = compile::site_place(raw.site);
        let sites = match self.gangs {
            Some(gangs) if function == self.entry.function => Some(&gangs.sites),
            _ => self.program.sites.get(function),
        };
        let site = sites.and_then(|sites| sites.get(index)).copied();
        let site = site.unwrap_or(Site {
            line: 0,
            kind: SiteKind::Trap,
        });
        let place = self.place(site.line, context, u32::try_from(thread).unwrap_or(0));
        if let Some(message) = context.assertion.take() {
            return Some(Fault::Assert { message, place });
        }
        if raw.bytes > 0 {
            return Some(Fault::IllegalAddress {
                space: "generic",
                address: raw.address,
                bytes: raw.bytes,
                place,
            });
        }
        Some(match site.kind {
            SiteKind::Trap => Fault::Trap(place),
            SiteKind::Stack => Fault::StackOverflow(place),
            SiteKind::Ending => return self.is_late().then(|| self.timeout()),
            SiteKind::Access {
                space,
                bytes,
                align,
            } => {
                if raw.address.is_multiple_of(u64::from(align.max(1))) {
                    Fault::IllegalAddress {
                        space,
                        address: raw.address,
                        bytes,
                        place,
                    }
                } else {
                    Fault::MisalignedAddress {
                        space,
                        address: raw.address,
                        bytes,
                        place,
                    }
                }
            }
        })
    }
}

/// Blocks of so many threads that reside on a multiprocessor, at most.
fn resident_blocks(threads: u32) -> u32 {
    (MAX_RESIDENT_THREADS / threads.max(1)).clamp(1, MAX_RESIDENT_BLOCKS)
}

/// A block that runs, or could.
struct Resident {
    context: BlockContext,
    frames: Frames,
    /// What the others point into.
    _scratch: Scratch,
}

/// A worker's memory for frames and shared memory, kept from launch to launch.
struct Scratch {
    frames: Buffer,
    shared: Buffer,
}

/// Aligned memory that grows. Starts zeroed; what blocks leave in it stays.
#[derive(Default)]
struct Buffer {
    memory: Option<(NonNull<u8>, Layout)>,
}

impl Buffer {
    /// Memory of at least so many bytes, if there is any.
    fn at_least(&mut self, bytes: usize) -> Option<*mut u8> {
        if let Some((start, layout)) = self.memory
            && layout.size() >= bytes
        {
            return Some(start.as_ptr());
        }
        let size = bytes.max(4096).checked_next_power_of_two()?;
        // Frames' alignment, and the most that a shared variable may ask for.
        let layout = Layout::from_size_align(size, 4096.max(FRAME_ALIGN as usize)).ok()?;
        self.release();
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        self.memory = Some((start, layout));
        Some(start.as_ptr())
    }

    fn bytes(&self) -> usize {
        self.memory.map_or(0, |(_, layout)| layout.size())
    }

    fn release(&mut self) {
        if let Some((start, layout)) = self.memory.take() {
            // SAFETY: allocated with this layout, and no block runs that knows it.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

/// Bytes of one block's scratch memory that a thread keeps between launches.
const KEPT_BYTES: usize = 16 << 20;
/// Blocks whose scratch memory it keeps.
const KEPT_BLOCKS: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<(Buffer, Buffer)>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    /// A block's memory, perhaps one that the thread used before.
    fn take() -> Self {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
        let (frames, shared) = spare.ok().flatten().unwrap_or_default();
        Self { frames, shared }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.frames.bytes() > KEPT_BYTES {
            return;
        }
        let both = (
            std::mem::take(&mut self.frames),
            std::mem::take(&mut self.shared),
        );
        // Where the thread is ending, the memory just goes.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT_BLOCKS {
                spare.push(both);
            }
        });
    }
}
