//! The syntax tree to machine code, with Cranelift. The code needs no relocation: it reaches everything
//! through the block context, so that functions are compiled side by side and could be kept on disk.

mod analysis;
mod arithmetic;
mod asynchronous;
mod bits;
mod compare;
mod convert;
mod float;
mod form;
mod grammar;
mod layout;
mod lower;
mod matrix;
mod memory;
mod packed;
mod texture;
mod video;
mod warp;
mod wide;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{Function as ClifFunction, UserFuncName};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{CodegenError, Context};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use serde::{Deserialize, Serialize};

pub(crate) use form::Rounding;
use layout::Layout;
pub(crate) use layout::{FRAME_ALIGN, FUNCTION_HEADER};
use lower::Lower;
pub(crate) use wide::LANES;

use crate::exec::Options;
use crate::exec::context::Site;
use crate::ptx::PtxError;
use crate::ptx::ast::{Function, Module};

/// Bytes that entry points are aligned to: constants beside the code want no more.
const CODE_ALIGN: usize = 64;
/// Instructions of a module from which on compiling on several cores pays.
const PARALLEL_FROM: usize = 400;

/// A kernel as compiled.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CompiledKernel {
    /// Index of the function in the module.
    pub function: usize,
    /// Per variable of the module, its offset in shared memory.
    pub shared: Vec<Option<u32>>,
    pub shared_bytes: u32,
    pub thread_bytes: u32,
    /// Bytes of a frame beside the room for calls of unknown depth; `None` where the depth is known.
    pub fixed_bytes: Option<u32>,
    pub local_bytes: u32,
    pub param_bytes: u32,
    pub params: Vec<u32>,
    pub waits: bool,
    /// They wait only at barrier 0, all of them.
    pub simple: bool,
    /// Threads may make way for others that they may be waiting for.
    pub yields: bool,
    /// Per point where a thread goes on, the line.
    pub pause_lines: Vec<u32>,
}

/// A module as compiled.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Compiled {
    pub code: Vec<u8>,
    /// Per function of the module, where its code starts; `None` for those only declared.
    pub entries: Vec<Option<usize>>,
    /// Per function, what can fault in it.
    pub sites: Vec<Vec<Site>>,
    pub kernels: Vec<CompiledKernel>,
}

/// A kernel compiled once more, for gangs of [`LANES`] threads.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CompiledGangs {
    pub code: Vec<u8>,
    /// Where the code for single threads starts, and where that for gangs.
    pub single: usize,
    pub gangs: usize,
    pub sites: Vec<Site>,
    pub thread_bytes: u32,
}

impl Compiled {
    /// Whether it can be of this module: code that was kept is looked at before it is used.
    pub(crate) fn fits(&self, module: &Module<'_>) -> bool {
        let functions = &module.functions;
        let entry = |(entry, function): (&Option<usize>, &Function<'_>)| {
            entry.is_some() == function.body.is_some()
                && entry.is_none_or(|entry| entry < self.code.len())
        };
        let kernel = |kernel: &CompiledKernel| {
            functions.get(kernel.function).is_some_and(|function| {
                function.is_kernel
                    && function.body.is_some()
                    && function.prototype.params.len() == kernel.params.len()
                    && kernel.shared.len() == module.variables.len()
            })
        };
        self.entries.len() == functions.len()
            && self.sites.len() == functions.len()
            && self.entries.iter().zip(functions).all(entry)
            && self.kernels.iter().all(kernel)
    }
}

impl CompiledGangs {
    /// The same of a kernel.
    pub(crate) fn fits(&self) -> bool {
        self.single.max(self.gangs) < self.code.len()
    }
}

/// Everything but the text that decides what the code is.
pub(crate) fn identity(options: Options) -> String {
    let isa = target().map(|target| {
        let flags: Vec<String> = target
            .isa
            .isa_flags()
            .iter()
            .map(ToString::to_string)
            .collect();
        format!("{} {} {flags:?}", target.isa.triple(), target.isa.flags())
    });
    format!(
        "{} {} {} {} {options:?} {isa:?}",
        env!("CARGO_PKG_VERSION"),
        env!("SOFTCUDA_SOURCES"),
        cranelift_codegen::VERSION,
        crate::exec::workers(),
    )
}

/// The "address" of a device function.
pub(crate) fn function_address(index: usize) -> u64 {
    layout::FUNCTION_ADDRESS as u64 + 16 * index as u64
}

/// Of a fault's site number, the function and the place in its list.
pub(crate) fn site_place(number: u32) -> (usize, usize) {
    (
        (number / layout::SITES_PER_FUNCTION) as usize,
        (number % layout::SITES_PER_FUNCTION) as usize,
    )
}

/// The host's instruction set.
struct Target {
    isa: Arc<dyn TargetIsa>,
    has_fma: bool,
    has_rounding: bool,
    /// Vectors of four 32-bit values, with all that is needed of them.
    has_vectors: bool,
}

fn target() -> Result<&'static Target, PtxError> {
    static TARGET: OnceLock<Result<Target, String>> = OnceLock::new();
    let make = || -> Result<Target, String> {
        let mut flags = settings::builder();
        let mut set =
            |name: &str, value: &str| flags.set(name, value).map_err(|error| error.to_string());
        // PTX comes from optimising compilers. What they cannot know, that threads share values and that
        // checks have common parts, is computed once by `lower`; Cranelift's own pass would move all
        // arithmetic behind the loads it depends on, and spill them (matrixMul is half as fast with it).
        set("opt_level", "none")?;
        set(
            "enable_verifier",
            if cfg!(debug_assertions) {
                "true"
            } else {
                "false"
            },
        )?;
        set("unwind_info", "false")?;
        // Large frames are touched page by page in line: a call would need a relocation.
        set("enable_probestack", "true")?;
        set("probestack_strategy", "inline")?;
        set("enable_heap_access_spectre_mitigation", "false")?;
        set("enable_table_access_spectre_mitigation", "false")?;
        let flags = settings::Flags::new(flags);
        let isa = cranelift_native::builder()?
            .finish(flags)
            .map_err(|error| error.to_string())?;
        let has = |name: &str| {
            isa.isa_flags()
                .iter()
                .any(|flag| flag.name == name && flag.as_bool() == Some(true))
        };
        let x86 = cfg!(target_arch = "x86_64");
        let (has_fma, has_rounding) = (!x86 || has("has_fma"), !x86 || has("has_sse41"));
        let has_vectors = x86 && has("has_avx");
        Ok(Target {
            isa,
            has_fma,
            has_rounding,
            has_vectors,
        })
    };
    TARGET.get_or_init(make).as_ref().map_err(|error| {
        PtxError::unsupported(
            1,
            format!("code for this processor cannot be made: {error}"),
        )
    })
}

/// Compiles a module. A panic in the code generator is the text's error, not the process's end.
pub(crate) fn compile(module: &Module<'_>, options: Options) -> Result<Compiled, PtxError> {
    catch_unwind(AssertUnwindSafe(|| compile_module(module, options)))
        .unwrap_or_else(|_| Err(internal(1, "the text made the code generator fail")))
}

/// All that is wrong with a module's instructions, not only the first: what cannot be translated is taken
/// out, and the rest looked at again.
pub(crate) fn problems(module: &mut Module<'_>, options: Options) -> Vec<PtxError> {
    /// So many are enough.
    const MOST: usize = 500;
    let mut found: Vec<PtxError> = Vec::new();
    let mut removed = HashSet::new();
    while found.len() < MOST {
        let error = match catch_unwind(AssertUnwindSafe(|| first_problem(module, options))) {
            Ok(Ok(())) => break,
            Ok(Err(error)) => error,
            Err(_) => internal(1, "the text made the code generator fail"),
        };
        let line = error.line;
        let known = found.last().is_some_and(|last| *last == error);
        if !known {
            found.push(error);
        }
        let instructions = module
            .functions
            .iter_mut()
            .enumerate()
            .filter_map(|(index, function)| Some((index, function.body.as_mut()?)))
            .flat_map(|(index, body)| {
                let code = body.code.iter_mut().enumerate();
                code.map(move |(at, instruction)| ((index, at), instruction))
            });
        let next = instructions
            .filter(|(_, instruction)| instruction.line == line)
            .find(|(place, _)| !removed.contains(place));
        let Some((place, instruction)) = next else {
            break;
        };
        removed.insert(place);
        // An instruction that does nothing.
        instruction.opcode = "pmevent";
        instruction.modifiers.clear();
        instruction.operands.clear();
        instruction.guard = None;
    }
    found.sort_by_key(|error| error.line);
    found
}

/// Translates all functions, but makes no machine code.
fn first_problem(module: &Module<'_>, options: Options) -> Result<(), PtxError> {
    let target = target()?;
    let layout = Layout::new(module, options, target.has_fma, target.has_rounding)?;
    let (mut context, mut builder) = (Context::new(), FunctionBuilderContext::new());
    for (index, function) in module.functions.iter().enumerate() {
        if function.body.is_some() {
            let scratch = (&mut context, &mut builder);
            translate(target, &layout, index, None, Vec::new(), scratch)?;
        }
    }
    Ok(())
}

fn compile_module(module: &Module<'_>, options: Options) -> Result<Compiled, PtxError> {
    let target = target()?;
    let layout = Layout::new(module, options, target.has_fma, target.has_rounding)?;
    let functions: Vec<usize> = (0..module.functions.len())
        .filter(|&index| module.functions[index].body.is_some())
        .collect();
    let results: Vec<Mutex<Option<FunctionResult>>> =
        functions.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut scratch = (Context::new(), FunctionBuilderContext::new());
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(&index), Some(slot)) = (functions.get(at), results.get(at)) else {
                break;
            };
            let result = compile_function(target, &layout, index, None, Vec::new(), &mut scratch);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    };
    let size: usize = module
        .functions
        .iter()
        .filter_map(|function| function.body.as_ref())
        .map(|body| body.code.len())
        .sum();
    let threads = if size < PARALLEL_FROM {
        1
    } else {
        functions.len().min(crate::exec::workers() as usize)
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Where no thread can be had, this one does it all.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });

    let mut compiled = Compiled {
        code: Vec::new(),
        entries: vec![None; module.functions.len()],
        sites: vec![Vec::new(); module.functions.len()],
        kernels: Vec::new(),
    };
    let mut first_error: Option<PtxError> = None;
    for (&index, result) in functions.iter().zip(results) {
        match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok((code, sites))) => {
                compiled
                    .code
                    .resize(compiled.code.len().next_multiple_of(CODE_ALIGN), 0);
                compiled.entries[index] = Some(compiled.code.len());
                compiled.code.extend_from_slice(&code);
                compiled.sites[index] = sites;
            }
            Some(Err(error)) => {
                if first_error
                    .as_ref()
                    .is_none_or(|first| error.line < first.line)
                {
                    first_error = Some(error);
                }
            }
            None => {
                return Err(internal(
                    module.functions[index].line,
                    "a function was not compiled",
                ));
            }
        }
    }
    if let Some(error) = first_error {
        return Err(error);
    }
    for (index, kernel) in layout.kernels.iter().enumerate() {
        let (Some(kernel), Some(body)) = (kernel, &module.functions[index].body) else {
            continue;
        };
        let known = &layout.functions[index];
        compiled.kernels.push(CompiledKernel {
            function: index,
            shared: kernel.shared.clone(),
            shared_bytes: kernel.shared_bytes,
            thread_bytes: kernel.thread_bytes,
            fixed_bytes: layout.deep.then_some(known.frame.bytes),
            local_bytes: kernel.local_bytes,
            param_bytes: known.frame.param_bytes,
            params: known.frame.params.clone(),
            waits: known.waits,
            simple: layout.simple_waits[index],
            yields: kernel.yields,
            pause_lines: known.pauses.points().map(|at| body.code[at].line).collect(),
        });
    }
    Ok(compiled)
}

type FunctionResult = Result<(Vec<u8>, Vec<Site>), PtxError>;

fn internal(line: u32, what: &str) -> PtxError {
    PtxError::unsupported(line, format!("{what} (an error of softcuda's)"))
}

/// Compiles a kernel for gangs; `None` where that does not pay, or cannot be done.
pub(crate) fn compile_gangs(
    module: &Module<'_>,
    options: Options,
    index: usize,
) -> Option<CompiledGangs> {
    let compiled = catch_unwind(AssertUnwindSafe(|| gangs_of(module, options, index)));
    let name = module
        .functions
        .get(index)
        .map_or("", |function| function.name);
    match compiled {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(error)) => {
            tracing::warn!(%error, name, "a kernel was not vectorised");
            None
        }
        Err(_) => {
            tracing::warn!(
                name,
                "a kernel was not vectorised: the code generator failed"
            );
            None
        }
    }
}

fn gangs_of(
    module: &Module<'_>,
    options: Options,
    index: usize,
) -> Result<Option<CompiledGangs>, PtxError> {
    let target = target()?;
    let mut layout = Layout::new(module, options, target.has_fma, target.has_rounding)?;
    let Some(function) = module.functions.get(index) else {
        return Ok(None);
    };
    let (Some(body), true) = (&function.body, function.is_kernel && target.has_vectors) else {
        return Ok(None);
    };
    if layout.yields(index) || layout.allocates {
        return Ok(None);
    }
    let known = &layout.functions[index];
    let plan = wide::Plan::new(body, &known.flow, &known.pauses, |instruction| {
        layout.call_waits(instruction, body)
    });
    let Some(plan) = plan else {
        return Ok(None);
    };
    layout.set_points(index, &plan.points)?;
    let thread_bytes = layout.thread_bytes(index);
    let moves: usize = layout.functions[index]
        .pauses
        .points
        .iter()
        .map(|point| point.save.len() + point.restore.len())
        .sum();
    if thread_bytes > wide::MAX_FRAME || moves > wide::MAX_MOVES {
        return Ok(None);
    }
    let mut scratch = (Context::new(), FunctionBuilderContext::new());
    let (mut code, sites) =
        compile_function(target, &layout, index, Some(plan), Vec::new(), &mut scratch)?;
    if code.is_empty() {
        return Ok(None);
    }
    code.resize(code.len().next_multiple_of(CODE_ALIGN), 0);
    let start = code.len();
    let (single, sites) = compile_function(target, &layout, index, None, sites, &mut scratch)?;
    code.extend_from_slice(&single);
    Ok(Some(CompiledGangs {
        code,
        single: start,
        gangs: 0,
        sites,
        thread_bytes,
    }))
}

/// Compiles one function, for gangs if there is a plan for that: then there is no code where they do not
/// pay. Its sites follow those given.
fn compile_function(
    target: &Target,
    layout: &Layout<'_>,
    index: usize,
    gangs: Option<wide::Plan>,
    sites: Vec<Site>,
    (context, builder): &mut (Context, FunctionBuilderContext),
) -> FunctionResult {
    let function = &layout.module.functions[index];
    let (sites, pays) = translate(target, layout, index, gangs, sites, (context, builder))?;
    if !pays {
        return Ok((Vec::new(), sites));
    }
    let code = context
        .compile(&*target.isa, &mut ControlPlane::default())
        .map_err(|error| match error.inner {
            CodegenError::ImplLimitExceeded | CodegenError::CodeTooLarge => PtxError::limit(
                function.line,
                format!("{} is too large to compile", function.name),
            ),
            error => internal(
                function.line,
                &format!("{} cannot be compiled: {error}", function.name),
            ),
        })?;
    if !code.buffer.relocs().is_empty() {
        return Err(internal(
            function.line,
            "the code refers to something outside",
        ));
    }
    Ok((code.code_buffer().to_vec(), sites))
}

/// Translates one function to the intermediate code, in the context; what can fault in it, and whether
/// its code is worth making.
fn translate(
    target: &Target,
    layout: &Layout<'_>,
    index: usize,
    gangs: Option<wide::Plan>,
    sites: Vec<Site>,
    (context, builder): (&mut Context, &mut FunctionBuilderContext),
) -> Result<(Vec<Site>, bool), PtxError> {
    let function = &layout.module.functions[index];
    let (Some(body), known) = (&function.body, &layout.functions[index]) else {
        return Err(internal(function.line, "a function has no body"));
    };
    context.clear();
    let signature = lower::signature(target.isa.default_call_conv());
    context.func =
        ClifFunction::with_name_signature(UserFuncName::user(0, index as u32), signature);
    let frontend = FunctionBuilder::new(&mut context.func, builder);
    let lowered = Lower::new(
        frontend,
        layout,
        index,
        function,
        body,
        &known.frame,
        &known.flow,
        &known.pauses,
        gangs,
        sites,
    )
    .and_then(Lower::run);
    match lowered {
        Ok((frontend, sites, pays)) => {
            frontend.finalize(target.isa.frontend_config());
            Ok((sites, pays))
        }
        Err(error) => {
            // A builder left half way cannot be used again.
            *builder = FunctionBuilderContext::new();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_code_is_what_was_kept() {
        let text = ".version 8.0
.target sm_90
.address_size 64
.global .u32 cell;
.visible .entry k(.param .u64 to)
{
    .reg .b32 %r<3>; .reg .b64 %rd<3>; .shared .align 4 .b8 tile[256]; .local .align 4 .b8 own[8];
    ld.param.u64 %rd1, [to];
    mov.u32 %r1, %tid.x;
    cvt.u64.u32 %rd2, %r1;
    st.shared.u32 [%rd2], %r1;
    st.local.u32 [%rd2], %r1;
    st.global.u32 [%rd1], %r1;
    st.u32 [%rd1], %r1;
    ld.const.u32 %r2, [%rd1];
    bar.sync 0;
    trap;
}";
        let module = crate::ptx::parse(text).unwrap();
        let compiled = compile(&module, Options::default()).unwrap();
        assert!(compiled.fits(&module));
        assert!(compiled.sites[0].len() >= 5, "{:?}", compiled.sites);
        let bytes = postcard::to_stdvec(&compiled).unwrap();
        let again: Compiled = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(format!("{compiled:?}"), format!("{again:?}"));
        // Another module's code does not fit.
        let text = text.replace(".entry k", ".func k");
        let other = crate::ptx::parse(&text).unwrap();
        assert!(!again.fits(&other));
    }

    #[test]
    fn code_is_kept_for_what_decides_it() {
        let plain = Options::default();
        let timed = Options {
            timed: true,
            ..plain
        };
        assert_eq!(identity(plain), identity(plain));
        assert_ne!(identity(plain), identity(timed));
    }
}
