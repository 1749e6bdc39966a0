//! Where everything of a module lies: each function's frame, each kernel's shared memory, and what the
//! call graph says about waiting and depth. Decided before any code is made, so that functions can be
//! compiled side by side.

use super::analysis::{self, Flow, Passage, Pauses};
use crate::exec::context::{Exchange, ThreadHeader};
use crate::exec::matrix::LANE_WORDS;
use crate::exec::{MAX_SHARED_BYTES, Options};
use crate::ptx::PtxError;
use crate::ptx::ast::{
    Body, Function, Instruction, Module, Operand, Prototype, Reg, Space, Symbol,
};

/// "Addresses" of device functions start here, 16 apart; outside every space that loads and stores see.
pub(super) const FUNCTION_ADDRESS: i64 = 0x7_f000_0000_0000;
/// In a function's frame: where an indirect call's entry is kept while its thread waits.
pub(super) const CALLEE_AT: i32 = 8;
/// A function's frame before its call area: the state and the kept entry.
pub(crate) const FUNCTION_HEADER: u32 = 16;
/// In a runtime function's frame: the number of the site that calls it.
pub(super) const SITE_AT: i32 = 4;
/// Frames are multiples of this, and aligned to it.
pub(crate) const FRAME_ALIGN: u32 = 64;
/// Bytes of frames that a thread of a module with recursion may use beyond its kernel's.
const DEEP_STACK: u32 = 128 * 1024;
/// Bytes of each thread's stack in a module that uses `alloca`.
pub(super) const STACK_BYTES: u32 = 16 * 1024;
/// Branches times registers of a function that are still analysed: 128 MiB of sets.
const MAX_LIVENESS_BITS: usize = 1 << 30;
/// Sites of one function; numbers of neighbouring functions do not meet.
pub(super) const SITES_PER_FUNCTION: u32 = 1 << 17;

pub(super) const fn align_up(value: u32, align: u32) -> u32 {
    value.next_multiple_of(if align == 0 { 1 } else { align })
}

/// Offsets of results and parameters in a function's frame, and the end of both.
pub(super) fn call_area(prototype: &Prototype) -> (Vec<u32>, Vec<u32>, u32) {
    let mut end = FUNCTION_HEADER;
    let mut place = |slots: &[crate::ptx::ast::Slot]| -> Vec<u32> {
        let mut places = Vec::new();
        for slot in slots {
            let at = align_up(end, slot.align.min(FRAME_ALIGN));
            places.push(at);
            end = at.saturating_add(slot.bytes);
        }
        places
    };
    let (returns, params) = (place(&prototype.returns), place(&prototype.params));
    (returns, params, end)
}

/// One function's frame.
#[derive(Debug, Default)]
pub(super) struct FrameLayout {
    /// Per result, its offset (functions).
    pub returns: Vec<u32>,
    /// Per parameter, its offset: in the frame, or in a kernel's parameter buffer.
    pub params: Vec<u32>,
    /// Bytes of a kernel's parameter buffer.
    pub param_bytes: u32,
    /// Per register, where it is saved while the thread waits.
    pub saved: Vec<Option<u32>>,
    /// Per `.local` or `.param` variable, its offset.
    pub locals: Vec<u32>,
    /// Bytes of `.local` variables.
    pub local_bytes: u32,
    /// Where lanes hand over the words of matrix instructions.
    pub fragments: Option<u32>,
    /// Where a function that uses `alloca` keeps what its caller had allocated.
    pub stack: Option<u32>,
    /// Bytes of the frame.
    pub bytes: u32,
}

/// What is known of one function before its code.
#[derive(Debug, Default)]
pub(super) struct FunctionLayout {
    pub flow: Flow,
    pub pauses: Pauses,
    pub frame: FrameLayout,
    pub waits: bool,
    callees: Vec<usize>,
    calls_indirectly: bool,
    variables: Vec<usize>,
    takes_address_of: Vec<usize>,
    /// Needs the header's exchange area.
    exchanges: bool,
    /// May see what other threads did meanwhile, itself or in a function that it calls.
    observes: bool,
    /// Instructions before which its threads make way for others now and then.
    yields_at: Vec<usize>,
}

/// What a kernel needs of a block.
#[derive(Debug, Default, Clone)]
pub(super) struct KernelLayout {
    /// Per variable of the module, its offset in this kernel's shared memory.
    pub shared: Vec<Option<u32>>,
    /// Bytes of static shared memory.
    pub shared_bytes: u32,
    /// Bytes from one thread's frame to the next.
    pub thread_bytes: u32,
    /// Bytes of `.local` variables on the deepest path.
    pub local_bytes: u32,
    /// Threads may make way for others, here or in a function that is called.
    pub yields: bool,
}

/// Where everything of a module lies.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    pub module: &'a Module<'a>,
    pub functions: Vec<FunctionLayout>,
    pub kernels: Vec<Option<KernelLayout>>,
    /// Some call chain has no bound known here: stacks are checked.
    pub deep: bool,
    /// Some function uses `alloca`: threads have a stack at the end of their frames, whose last word says
    /// how far it is used.
    pub allocates: bool,
    /// Per function, whether the only waiting is at `bar.sync 0` of all threads.
    pub simple_waits: Vec<bool>,
    /// How the module is compiled.
    pub options: Options,
    pub has_fma: bool,
    pub has_rounding: bool,
    /// The functions, callees before callers; `None` if some call themselves.
    order: Option<Vec<usize>>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(
        module: &'a Module<'a>,
        options: Options,
        has_fma: bool,
        has_rounding: bool,
    ) -> Result<Self, PtxError> {
        let mut layout = Self {
            module,
            functions: module.functions.iter().map(mentions).collect(),
            kernels: Vec::new(),
            deep: false,
            allocates: module
                .functions
                .iter()
                .filter_map(|function| function.body.as_ref())
                .any(allocates),
            simple_waits: Vec::new(),
            options,
            has_fma,
            has_rounding,
            order: None,
        };
        layout.find_yields();
        layout.find_waits();
        layout.find_simple_waits();
        for (function, known) in module.functions.iter().zip(&layout.functions) {
            if function.body.is_none() {
                continue;
            }
            if function.is_kernel
                && known
                    .callees
                    .iter()
                    .any(|&callee| module.functions[callee].is_kernel)
            {
                return Err(PtxError::invalid(
                    function.line,
                    "a kernel cannot be called",
                ));
            }
        }
        for index in 0..module.functions.len() {
            let Some(body) = &module.functions[index].body else {
                // Functions of the runtime have a call area as all others.
                let (_, _, end) = call_area(&module.functions[index].prototype);
                layout.functions[index].frame.bytes = align_up(end, FRAME_ALIGN);
                continue;
            };
            let yields_at = layout.functions[index].yields_at.as_slice();
            let flow = Flow::new(
                body,
                |instruction| layout.call_waits(instruction, body),
                yields_at,
            );
            let pauses_at = layout.pauses_at(body);
            if flow.blocks.len().saturating_mul(body.registers.len()) > MAX_LIVENESS_BITS {
                let name = module.functions[index].name;
                return Err(PtxError::limit(
                    module.functions[index].line,
                    format!("{name} has too many branches and registers to be compiled"),
                ));
            }
            let is_kernel = module.functions[index].is_kernel;
            let pauses = Pauses::new(body, &flow, is_kernel, &pauses_at, yields_at, &[]);
            let frame = layout.frame(index, &module.functions[index], body, &pauses)?;
            let known = &mut layout.functions[index];
            known.flow = flow;
            known.pauses = pauses;
            known.frame = frame;
        }
        layout.order = layout.depth_order();
        layout.deep = layout.order.is_none()
            || layout
                .functions
                .iter()
                .any(|function| function.calls_indirectly);
        for index in 0..module.functions.len() {
            let kernel = match &module.functions[index] {
                Function {
                    is_kernel: true,
                    body: Some(_),
                    ..
                } => Some(layout.kernel(index)?),
                _ => None,
            };
            layout.kernels.push(kernel);
        }
        Ok(layout)
    }

    /// Where threads make way for others: in loops, before whatever may see what others did.
    fn find_yields(&mut self) {
        loop {
            let indirect = self
                .indirect_targets()
                .any(|target| self.functions[target].observes);
            let mut changed = false;
            for index in 0..self.functions.len() {
                let function = &self.functions[index];
                let observes = function.observes
                    || function.calls_indirectly && indirect
                    || function
                        .callees
                        .iter()
                        .any(|&callee| self.functions[callee].observes);
                changed |= observes != function.observes;
                self.functions[index].observes = observes;
            }
            if !changed {
                break;
            }
        }
        let indirect = self
            .indirect_targets()
            .any(|target| self.functions[target].observes);
        for index in 0..self.functions.len() {
            let Some(body) = &self.module.functions[index].body else {
                continue;
            };
            if !self.functions[index].observes {
                continue;
            }
            let flow = Flow::new(body, |_| false, &[]);
            let in_loops = flow.in_loops();
            let read = analysis::read_registers(body);
            let yields_at = (0..body.code.len()).filter(|&at| {
                let instruction = &body.code[at];
                let calls = instruction.opcode == "call"
                    && match direct_callee(instruction) {
                        Some(callee) => self.functions.get(callee).is_some_and(|f| f.observes),
                        None => indirect,
                    };
                in_loops[flow.block_of[at]]
                    && (calls || analysis::observes(instruction, |reg| read.contains(reg)))
            });
            let yields_at: Vec<usize> = yields_at.collect();
            let function = &mut self.functions[index];
            function.waits |= !yields_at.is_empty();
            function.exchanges |= !yields_at.is_empty();
            function.yields_at = yields_at;
        }
    }

    /// A kernel that runs no other function that waits decides for itself; all others agree.
    fn find_simple_waits(&mut self) {
        let all = !self.functions.iter().any(|function| function.exchanges);
        let indirect = self
            .indirect_targets()
            .any(|target| self.functions[target].waits);
        let simple = self.functions.iter().enumerate().map(|(index, function)| {
            let alone = self.module.functions[index].is_kernel
                && !(function.calls_indirectly && indirect)
                && !function
                    .callees
                    .iter()
                    .any(|&callee| self.functions[callee].waits);
            if alone { !function.exchanges } else { all }
        });
        self.simple_waits = simple.collect();
    }

    /// The instructions at which threads may wait.
    fn pauses_at(&self, body: &Body<'_>) -> Vec<usize> {
        let waits = |&at: &usize| {
            let instruction = &body.code[at];
            let end = analysis::end(instruction, self.call_waits(instruction, body));
            end == analysis::End::Wait
        };
        (0..body.code.len()).filter(waits).collect()
    }

    /// Gives a kernel's frame room for what gangs of its threads keep at the given points.
    pub(super) fn set_points(
        &mut self,
        kernel: usize,
        points: &[(usize, bool)],
    ) -> Result<(), PtxError> {
        let function = &self.module.functions[kernel];
        let Some(body) = &function.body else {
            return Ok(());
        };
        let pauses_at = self.pauses_at(body);
        let flow = &self.functions[kernel].flow;
        let pauses = Pauses::new(body, flow, true, &pauses_at, &[], points);
        let frame = self.frame(kernel, function, body, &pauses)?;
        let known = &mut self.functions[kernel];
        known.pauses = pauses;
        known.frame = frame;
        self.kernels[kernel] = Some(self.kernel(kernel)?);
        Ok(())
    }

    /// Functions that may wait: those with a barrier or warp instruction, and whoever calls them.
    fn find_waits(&mut self) {
        loop {
            let indirect = self
                .indirect_targets()
                .any(|target| self.functions[target].waits);
            let mut changed = false;
            for index in 0..self.functions.len() {
                let function = &self.functions[index];
                let waits = function.waits
                    || function.calls_indirectly && indirect
                    || function
                        .callees
                        .iter()
                        .any(|&callee| self.functions[callee].waits);
                changed |= waits != function.waits;
                self.functions[index].waits = waits;
            }
            if !changed {
                return;
            }
        }
    }

    /// Functions whose address something takes.
    fn indirect_targets(&self) -> impl Iterator<Item = usize> {
        let in_code = self
            .functions
            .iter()
            .flat_map(|function| function.takes_address_of.iter().copied());
        let in_data = self
            .module
            .variables
            .iter()
            .flat_map(|variable| &variable.relocations)
            .filter_map(|relocation| match relocation.target {
                Symbol::Function(function) => Some(function as usize),
                _ => None,
            });
        in_code.chain(in_data)
    }

    /// Whether a call may end with the thread waiting.
    pub(super) fn call_waits(&self, instruction: &Instruction<'_>, _body: &Body<'_>) -> bool {
        if instruction.opcode != "call" {
            return false;
        }
        match direct_callee(instruction) {
            Some(callee) => self
                .functions
                .get(callee)
                .is_some_and(|function| function.waits),
            None => self
                .indirect_targets()
                .any(|target| self.functions[target].waits),
        }
    }

    fn frame(
        &self,
        index: usize,
        function: &Function<'_>,
        body: &Body<'_>,
        pauses: &Pauses,
    ) -> Result<FrameLayout, PtxError> {
        let mut frame = FrameLayout::default();
        let mut end = if function.is_kernel {
            let mut at = 0;
            for param in &function.prototype.params {
                at = align_up(at, param.align);
                frame.params.push(at);
                at += param.bytes;
            }
            frame.param_bytes = at;
            // PTX 8.1 raised the limit, for sm_70 and later.
            let limit = if self.module.version >= 81 && self.module.target >= 70 {
                32764
            } else {
                4352
            };
            if at > limit {
                return Err(PtxError::limit(
                    function.line,
                    format!(
                        "kernel {} has {at} bytes of parameters where this version and target have {limit}",
                        function.name
                    ),
                ));
            }
            if self.simple_waits[index] {
                std::mem::offset_of!(ThreadHeader, exchange) as u32
            } else {
                (std::mem::offset_of!(ThreadHeader, exchange) + size_of::<Exchange>()) as u32
            }
        } else {
            let (returns, params, end) = call_area(&function.prototype);
            frame.returns = returns;
            frame.params = params;
            end
        };
        let at_yields = pauses.yield_registers(body.registers.len());
        frame.saved = vec![None; pauses.passage.len()];
        let keep = |frame: &mut FrameLayout, end: &mut u32, rare: bool| {
            for (index, passage) in pauses.passage.iter().enumerate() {
                let kept = match passage {
                    Passage::SavedWhereWritten | Passage::SavedWhereWaiting => true,
                    Passage::None => at_yields.contains(Reg(index as u32)),
                    _ => false,
                };
                if kept && pauses.only_points.get(index).copied().unwrap_or(false) == rare {
                    let bytes = body.registers[index].bytes();
                    let at = align_up(*end, bytes);
                    *end = at + bytes;
                    frame.saved[index] = Some(at);
                }
            }
        };
        keep(&mut frame, &mut end, false);
        if !function.is_kernel && allocates(body) {
            let at = align_up(end, 8);
            frame.stack = Some(at);
            end = at + 8;
        }
        if body.code.iter().any(analysis::is_matrix) {
            let at = align_up(end, 8);
            frame.fragments = Some(at);
            end = at + 4 * LANE_WORDS as u32;
        }
        for local in &body.locals {
            if local.align > FRAME_ALIGN {
                return Err(PtxError::unsupported(
                    local.line,
                    format!(
                        "{} asks for an alignment above {FRAME_ALIGN} in local memory",
                        local.name
                    ),
                ));
            }
            let at = align_up(end, local.align);
            frame.locals.push(at);
            end = at.saturating_add(local.bytes);
            if local.space == Some(Space::Local) {
                frame.local_bytes = frame.local_bytes.saturating_add(local.bytes);
            }
        }
        // Last, so that the rest of the frame lies close together.
        keep(&mut frame, &mut end, true);
        frame.bytes = align_up(end, FRAME_ALIGN);
        Ok(frame)
    }

    /// The functions, callees before callers; `None` if some call themselves.
    fn depth_order(&self) -> Option<Vec<usize>> {
        let count = self.functions.len();
        let (mut order, mut state) = (Vec::new(), vec![0_u8; count]);
        for root in 0..count {
            let mut stack = vec![(root, 0)];
            while let Some((function, next)) = stack.pop() {
                if next == 0 {
                    match state[function] {
                        0 => state[function] = 1,
                        // Reached again from another caller.
                        _ => continue,
                    }
                }
                match self.functions[function].callees.get(next) {
                    None => {
                        state[function] = 2;
                        order.push(function);
                    }
                    Some(&callee) => {
                        stack.push((function, next + 1));
                        match state[callee] {
                            0 => stack.push((callee, 0)),
                            1 => return None,
                            _ => {}
                        }
                    }
                }
            }
        }
        Some(order)
    }

    fn kernel(&self, index: usize) -> Result<KernelLayout, PtxError> {
        let function = &self.module.functions[index];
        // Everything the kernel can reach.
        let mut reached = vec![false; self.functions.len()];
        let mut pending = vec![index];
        while let Some(at) = pending.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            pending.extend(&self.functions[at].callees);
            if self.functions[at].calls_indirectly {
                pending.extend(self.indirect_targets());
            }
        }
        let yields = |(at, &is): (usize, &bool)| is && !self.functions[at].yields_at.is_empty();
        let mut layout = KernelLayout {
            shared: vec![None; self.module.variables.len()],
            yields: reached.iter().enumerate().any(yields),
            ..Default::default()
        };
        let mut end = 0_u64;
        let used = |variable: usize| {
            reached
                .iter()
                .enumerate()
                .any(|(at, &is)| is && self.functions[at].variables.contains(&variable))
        };
        let shared = || {
            let variables = self.module.variables.iter().enumerate();
            variables.filter(|&(at, variable)| variable.space == Space::Shared && used(at))
        };
        for (at, variable) in shared().filter(|(_, variable)| variable.bytes > 0) {
            end = end.next_multiple_of(variable.align);
            layout.shared[at] = u32::try_from(end).ok();
            end += variable.bytes;
            if end > u64::from(MAX_SHARED_BYTES) {
                return Err(PtxError::limit(
                    variable.line,
                    format!(
                        "kernel {} uses more than {MAX_SHARED_BYTES} bytes of shared memory",
                        function.name
                    ),
                ));
            }
        }
        // `.extern .shared x[]`: all such arrays start where static shared memory ends.
        let align = shared()
            .filter(|(_, variable)| variable.bytes == 0)
            .map(|(_, v)| v.align)
            .max();
        if let Some(align) = align {
            end = end.next_multiple_of(align.max(16));
            for (at, _) in shared().filter(|(_, variable)| variable.bytes == 0) {
                layout.shared[at] = u32::try_from(end).ok();
            }
        }
        layout.shared_bytes = u32::try_from(end).unwrap_or(u32::MAX);

        let own = self.functions[index].frame.bytes;
        let mut below = vec![(0_u32, 0_u32); self.functions.len()];
        for &at in self.order.as_deref().unwrap_or_default() {
            let known = &self.functions[at];
            let deepest = known.callees.iter().map(|&callee| below[callee]);
            let (bytes, local) = deepest.fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
            below[at] = (
                known.frame.bytes.saturating_add(bytes),
                known.frame.local_bytes.saturating_add(local),
            );
        }
        let (bytes, local) = if self.deep {
            (
                own.saturating_add(DEEP_STACK),
                self.functions[index].frame.local_bytes,
            )
        } else {
            below[index]
        };
        layout.local_bytes = local;
        let bytes = if self.allocates {
            align_up(bytes, FRAME_ALIGN).saturating_add(STACK_BYTES)
        } else {
            bytes
        };
        // An odd number of cache lines: frames of neighbours do not fall on the same lines of a cache.
        let lines = bytes.div_ceil(FRAME_ALIGN);
        layout.thread_bytes = if lines > 4 {
            (lines | 1) * FRAME_ALIGN
        } else {
            lines * FRAME_ALIGN
        };
        if layout.thread_bytes > 1 << 20 {
            return Err(PtxError::limit(
                function.line,
                format!(
                    "kernel {} needs more than 1 MiB of local memory per thread",
                    function.name
                ),
            ));
        }
        Ok(layout)
    }

    /// A shared variable's offset where it is the same in every kernel that can run this function.
    pub(super) fn shared_offset(&self, function: usize, variable: usize) -> Option<u32> {
        self.kernels
            .get(function)?
            .as_ref()?
            .shared
            .get(variable)
            .copied()
            .flatten()
    }

    pub(super) fn prototype(&self, function: usize) -> Option<&'a Prototype> {
        self.module
            .functions
            .get(function)
            .map(|function| &function.prototype)
    }

    pub(super) fn is_defined(&self, function: usize) -> bool {
        self.module
            .functions
            .get(function)
            .is_some_and(|function| function.body.is_some())
    }

    pub(super) fn is_kernel(&self, function: usize) -> bool {
        self.module
            .functions
            .get(function)
            .is_none_or(|function| function.is_kernel)
    }

    pub(super) fn name(&self, function: usize) -> &'a str {
        self.module
            .functions
            .get(function)
            .map_or("?", |function| function.name)
    }

    pub(super) fn functions(&self) -> usize {
        self.module.functions.len()
    }

    /// Whether a kernel's threads may make way for others.
    pub(super) fn yields(&self, kernel: usize) -> bool {
        let kernel = self.kernels.get(kernel).and_then(Option::as_ref);
        kernel.is_none_or(|kernel| kernel.yields)
    }

    /// Bytes from one frame of a kernel's threads to the next.
    pub(super) fn thread_bytes(&self, kernel: usize) -> u32 {
        let kernel = self.kernels.get(kernel).and_then(Option::as_ref);
        kernel.map_or(0, |kernel| kernel.thread_bytes)
    }

    /// The first site number of a function.
    pub(super) fn site_base(&self, function: usize) -> u32 {
        (function as u32).wrapping_mul(SITES_PER_FUNCTION)
    }
}

/// Whether a function uses the stack that `alloca` allocates from.
fn allocates(body: &Body<'_>) -> bool {
    body.code
        .iter()
        .any(|instruction| matches!(instruction.opcode, "alloca" | "stacksave" | "stackrestore"))
}

/// The function that a call names.
fn direct_callee(instruction: &Instruction<'_>) -> Option<usize> {
    instruction
        .operands
        .iter()
        .find_map(|operand| match operand {
            Operand::Symbol(Symbol::Function(function), 0) => Some(*function as usize),
            _ => None,
        })
}

/// What a function mentions and does by itself.
fn mentions(function: &Function<'_>) -> FunctionLayout {
    let mut known = FunctionLayout::default();
    let Some(body) = &function.body else {
        return known;
    };
    let read = analysis::read_registers(body);
    for instruction in &body.code {
        known.observes |= analysis::observes(instruction, |reg| read.contains(reg));
        if instruction.opcode == "call" {
            match direct_callee(instruction) {
                Some(callee) => known.callees.push(callee),
                None => known.calls_indirectly = true,
            }
        }
        if analysis::waits(instruction) {
            known.waits = true;
            let plain = instruction.opcode == "bar"
                && instruction
                    .modifiers
                    .iter()
                    .all(|word| matches!(*word, "sync" | "cta"))
                && instruction.operands == [Operand::Int(0)];
            known.exchanges |= !plain;
        }
        // `bar.arrive` reaches the scheduler through the exchange area too.
        known.exchanges |=
            matches!(instruction.opcode, "bar" | "barrier") && !analysis::waits(instruction);
        for operand in &instruction.operands {
            let symbol = match operand {
                Operand::Symbol(symbol, _) => *symbol,
                Operand::Address(crate::ptx::ast::Base::Symbol(symbol), _) => *symbol,
                _ => continue,
            };
            match symbol {
                Symbol::Variable(variable) => known.variables.push(variable as usize),
                Symbol::Function(target) if instruction.opcode != "call" => {
                    known.takes_address_of.push(target as usize);
                }
                _ => {}
            }
        }
    }
    known.callees.sort_unstable();
    known.callees.dedup();
    known.variables.sort_unstable();
    known.variables.dedup();
    known
}
