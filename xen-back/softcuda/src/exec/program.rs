//! A compiled module: its kernels, its variables and its machine code; and how a launch is spread over
//! the cores.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::block::{self, Frames, Kernel, Stop};
use super::code::CodeMemory;
use super::context::{BARRIERS, BlockContext, KernelCode, RawFault, Site, SiteKind, ThreadHeader};
use super::texture::{Objects, TextureTable};
use super::{
    Fault, KernelInfo, Launch, MAX_BLOCK_THREADS, MAX_SHARED_BYTES, Param, Place, VariableInfo,
    VariableSpace, helpers, pool,
};
use crate::compile::{self, Compiled, FRAME_ALIGN};
use crate::ptx::ast::{Module, Relocation, Space, Symbol, Variable};
use crate::ptx::{PtxError, link};

/// Threads that a launch gives each worker at a time, so that small blocks are not fetched one by one.
const BATCH_THREADS: u64 = 2048;

/// A kernel's code and needs.
#[derive(Debug)]
struct Entry {
    kernel: Kernel,
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
        let module = link(texts)?;
        for variable in &module.variables {
            check_variable(&module, variable)?;
        }
        let compiled = compile::compile(&module)?;
        Self::new(&module, compiled)
    }

    fn new(module: &Module<'_>, compiled: Compiled) -> Result<Self, PtxError> {
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
                    simple: compiled.simple_waits,
                },
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
                    _ => std::ptr::null(),
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
            bound: OnceLock::new(),
            _code: code,
        })
    }

    /// The module's kernels, in the text's order.
    pub fn kernels(&self) -> &[KernelInfo] {
        &self.kernels
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

    /// Runs a kernel over a grid to its end, on the calling thread and the pool.
    ///
    /// # Errors
    /// The first fault of any thread; the memory then holds whatever was written until it.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<(), Fault> {
        let run = Run::new(self, launch)?;
        let next = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let outcome: Mutex<Result<(), Fault>> = Mutex::new(Ok(()));
        let batch = (BATCH_THREADS / u64::from(run.threads))
            .clamp(1, 64)
            .min(run.blocks.div_ceil(u64::from(pool::workers()) * 4).max(1));
        let threads = u32::try_from(run.blocks.div_ceil(batch)).unwrap_or(u32::MAX);
        pool::run(threads, &|worker| {
            let result = with_scratch(
                run.frame_bytes,
                run.shared_bytes as usize,
                |frames, shared| run.work(worker, frames, shared, &next, batch, &failed),
            );
            if let Err(fault) = result {
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                if outcome.is_ok() {
                    *outcome = Err(fault);
                }
            }
        });
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
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

/// One launch, checked.
struct Run<'l> {
    program: &'l Program,
    launch: &'l Launch<'l>,
    entry: &'l Entry,
    table: &'l [u64],
    /// The parameter buffer, as aligned as any parameter may be.
    params: Vec<u128>,
    blocks: u64,
    threads: u32,
    shared_bytes: u32,
    frame_bytes: usize,
    grid_id: u64,
    textures: Arc<Objects>,
}

impl<'l> Run<'l> {
    fn new(program: &'l Program, launch: &'l Launch<'l>) -> Result<Self, Fault> {
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
        let mut params = vec![0_u128; (info.param_bytes as usize).div_ceil(16).max(1)];
        for (word, bytes) in params
            .iter_mut()
            .zip(launch.params[..info.param_bytes as usize].chunks(16))
        {
            let mut full = [0; 16];
            full[..bytes.len()].copy_from_slice(bytes);
            *word = u128::from_ne_bytes(full);
        }
        Ok(Self {
            program,
            launch,
            entry,
            table: &bound.tables[launch.kernel],
            params,
            blocks,
            threads,
            shared_bytes,
            frame_bytes: entry.thread_bytes as usize * threads as usize,
            grid_id: GRIDS.fetch_add(1, Ordering::Relaxed),
            textures: launch
                .textures
                .map_or_else(Arc::default, TextureTable::objects),
        })
    }

    /// Runs blocks until there are no more.
    fn work(
        &self,
        worker: u32,
        frames: *mut u8,
        shared: *mut u8,
        next: &AtomicU64,
        batch: u64,
        failed: &AtomicBool,
    ) -> Result<(), Fault> {
        let mut frames = Frames {
            first: frames,
            stride: self.entry.thread_bytes as usize,
            threads: self.threads,
        };
        frames.place_threads(self.launch.block);
        let mut context = self.context(worker, &frames, shared);
        loop {
            let first = next.fetch_add(batch, Ordering::Relaxed);
            if first >= self.blocks {
                return Ok(());
            }
            for number in first..(first + batch).min(self.blocks) {
                if failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                context.ctaid = self.block_place(number);
                // SAFETY: the context was made for this kernel and these frames; the program, and with
                // it the code, outlives the launch.
                if let Err(stop) = unsafe { block::run(self.entry.kernel, &mut context, frames) } {
                    failed.store(true, Ordering::Relaxed);
                    return Err(self.fault(stop, &context, &frames));
                }
            }
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
            shared,
            shared_bytes: u64::from(self.shared_bytes),
            thread_bytes: u64::from(self.entry.thread_bytes),
            frames: frames.first,
            ntid: self.launch.block,
            nctaid: self.launch.grid,
            ctaid: [0; 3],
            dynamic_shared: self.launch.dynamic_shared,
            worker,
            live: 0,
            grid_id: self.grid_id,
            arrivals: [0; BARRIERS],
            fault: RawFault {
                address: 0,
                thread: std::ptr::null(),
                site: 0,
                reserved: 0,
            },
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

    fn fault(&self, stop: Stop, context: &BlockContext, frames: &Frames) -> Fault {
        let raw = match stop {
            Stop::Deadlock { waiting, thread } => {
                let header = frames
                    .first
                    .wrapping_add(thread as usize * frames.stride)
                    .cast::<ThreadHeader>();
                // SAFETY: a header of this block, which no longer runs.
                let resume = unsafe { (*header).resume };
                let pause = (resume & 0x7fff_ffff).wrapping_sub(1) as usize;
                let line = self.entry.pause_lines.get(pause).copied().unwrap_or(0);
                return Fault::BarrierDeadlock {
                    waiting,
                    place: self.place(line, context, thread),
                };
            }
            Stop::Fault => context.fault,
        };
        let thread =
            (raw.thread as usize).wrapping_sub(frames.first as usize) / frames.stride.max(1);
        let (function, index) = compile::site_place(raw.site);
        let site = self
            .program
            .sites
            .get(function)
            .and_then(|sites| sites.get(index))
            .copied();
        let site = site.unwrap_or(Site {
            line: 0,
            kind: SiteKind::Trap,
        });
        let place = self.place(site.line, context, u32::try_from(thread).unwrap_or(0));
        match site.kind {
            SiteKind::Trap => Fault::Trap(place),
            SiteKind::Stack => Fault::StackOverflow(place),
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
        }
    }
}

/// A worker's memory for frames and shared memory, kept from launch to launch.
#[derive(Default)]
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
    /// Memory of at least so many bytes.
    fn at_least(&mut self, bytes: usize) -> *mut u8 {
        if let Some((start, layout)) = self.memory
            && layout.size() >= bytes
        {
            return start.as_ptr();
        }
        let size = bytes.max(4096).next_power_of_two();
        // Frames' alignment, and the most that a shared variable may ask for.
        let Ok(layout) = Layout::from_size_align(size, 4096.max(FRAME_ALIGN as usize)) else {
            std::process::abort();
        };
        self.release();
        // SAFETY: the size is not zero.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            std::alloc::handle_alloc_error(layout);
        };
        self.memory = Some((start, layout));
        start.as_ptr()
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

/// Bytes of scratch memory that a thread keeps between launches.
const KEPT_BYTES: usize = 16 << 20;

/// Calls `body` with the thread's memory for frames and shared memory.
fn with_scratch<R>(frames: usize, shared: usize, body: impl FnOnce(*mut u8, *mut u8) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let result = body(
            scratch.frames.at_least(frames),
            scratch.shared.at_least(shared),
        );
        if scratch
            .frames
            .memory
            .is_some_and(|(_, layout)| layout.size() > KEPT_BYTES)
        {
            scratch.frames.release();
        }
        result
    })
}
