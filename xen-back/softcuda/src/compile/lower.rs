//! One function's syntax tree to Cranelift's intermediate code: control flow, operands, and the points
//! where a thread waits and goes on. Instructions themselves are translated in the modules beside.
//!
//! A kernel's code loops over the frames of a block's threads. A thread that must wait saves what it
//! still needs in its frame and makes way for the next one; called again, the code jumps to where each
//! thread stopped. A device function does the same for the one thread that it runs for.

use std::collections::HashMap;
use std::mem::offset_of;

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, AliasRegion, AliasRegionData, Block, BlockArg, BlockCall, InstBuilder, JumpTableData,
    MemFlagsData, SigRef, Signature, StackSlot, StackSlotData, StackSlotKind, Type as Clif, Value,
    types,
};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, Variable};

use super::analysis::{self, End, Flow, Group, Passage, Pauses};
use super::form::Form;
use super::grammar;
use super::layout::{FrameLayout, Layout};
use super::wide::{Gang, Plan};
use crate::exec::context::{
    BlockContext, DONE, ENDED, EXIT, Exchange, FAULT, RawFault, Site, SiteKind, TURNS,
    ThreadHeader, WAITING, YIELD, wait,
};
use crate::exec::helpers::Helper;
use crate::exec::{Vectorise, runtime};
use crate::ptx::PtxError;
use crate::ptx::ast::{Base, Body, Function, Guard, Instruction, Operand, Reg, Symbol, Type};

/// Cranelift's type for values of a PTX type.
pub(super) const fn clif(ty: Type) -> Clif {
    match ty {
        Type::F32 => types::F32,
        Type::F64 => types::F64,
        _ => match ty.bytes() {
            1 => types::I8,
            2 => types::I16,
            4 => types::I32,
            8 => types::I64,
            _ => types::I128,
        },
    }
}

/// The integer type as wide as a type.
pub(super) const fn int_of(ty: Clif) -> Clif {
    match ty {
        types::F32 => types::I32,
        types::F64 => types::I64,
        other => other,
    }
}

/// Bytes of a function's scratch memory on the host's stack.
const SCRATCH_BYTES: u32 = 128;

/// Something computed once for all threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Hoisted {
    /// A field of the context, by its offset.
    Field(usize),
    /// A variable's address, by its index.
    Variable(u32),
    /// A helper's entry, by its number.
    Helper(u32),
    Single(u32),
    Double(u64),
    /// Where accesses of so many bytes, so aligned, to a window of so many bytes begin to be wrong.
    Limit(Value, i64, u32),
    /// A number of bytes in units of the alignment.
    Units(Value, u32),
}

/// Translates one function.
pub(super) struct Lower<'l, 'a, 'b> {
    pub(super) b: FunctionBuilder<'b>,
    pub(super) layout: &'l Layout<'a>,
    pub(super) index: usize,
    pub(super) function: &'l Function<'a>,
    pub(super) body: &'l Body<'a>,
    pub(super) frame_layout: &'l FrameLayout,
    pub(super) flow: &'l Flow,
    pub(super) pauses: &'l Pauses,
    pub(super) groups: Vec<Option<Group>>,
    /// Index in the code of the instruction being translated.
    pub(super) at: usize,
    pub(super) sites: Vec<Site>,
    pub(super) has_fma: bool,
    pub(super) has_rounding: bool,

    variables: Vec<Option<Variable>>,
    /// Values of registers that all threads share.
    shared: Vec<Option<Value>>,
    /// The function's first block, which runs once for all threads.
    entry: Block,
    /// Whether the first block still lacks its end.
    entry_open: bool,
    /// What is computed in the first block.
    hoisted: HashMap<Hoisted, Value>,
    blocks: Vec<Block>,
    /// The block context.
    pub(super) context: Value,
    /// The thread's first byte of local memory and frame.
    pub(super) thread: Value,
    /// The function's frame: the thread's own for a kernel.
    pub(super) frame: Value,
    /// Where faults go, with the address and the site.
    pub(super) fault: Block,
    /// Where a thread goes that has ended or left the function.
    leave: Block,
    /// Where a thread goes that ends altogether.
    exit: Block,
    /// Where a thread goes that waits.
    stop: Block,
    resume_blocks: Vec<Block>,
    carry: Option<Variable>,
    scratch: Option<StackSlot>,
    /// Per group of accesses, by its leader, the host address of their base.
    pub(super) group_hosts: HashMap<usize, Value>,
    /// Per point of gangs, the code from it on; empty where gangs themselves are translated.
    point_blocks: Vec<Block>,
    /// Set where gangs are translated; then what stands above is of one of their threads.
    pub(super) wide: Option<Box<Gang>>,
    /// Which.
    pub(super) lane: usize,
    constant: MemFlagsData,
    private: MemFlagsData,
    device: MemFlagsData,
    signatures: HashMap<Vec<Clif>, SigRef>,
}

/// Registers that read 0 here: what no driver has set, counters that count nothing, and shared memory
/// that is kept from programs.
fn is_zero_register(name: &str) -> bool {
    let numbered = |prefix: &str, suffix: &str, count: u8| {
        let number = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(suffix));
        number.is_some_and(|number| number.parse::<u8>().is_ok_and(|number| number < count))
    };
    numbered("%envreg", "", 32)
        || numbered("%pm", "", 8)
        || numbered("%pm", "_64", 8)
        || numbered("%reserved_smem_offset_", "", 2)
        || matches!(
            name,
            "%reserved_smem_offset_begin"
                | "%reserved_smem_offset_end"
                | "%reserved_smem_offset_cap"
        )
}

/// The signature of a kernel's code, or of a device function's: context, two addresses, a verdict.
pub(super) fn signature(call_conv: CallConv) -> Signature {
    let mut signature = Signature::new(call_conv);
    signature.params.extend([AbiParam::new(types::I64); 3]);
    signature.returns.push(AbiParam::new(types::I32));
    signature
}

pub(super) const fn at<T>(offset: usize) -> i32 {
    // Offsets of small structs.
    let _ = size_of::<T>();
    offset as i32
}

impl<'l, 'a, 'b> Lower<'l, 'a, 'b> {
    #[expect(
        clippy::too_many_arguments,
        reason = "made once, from everything known of the function"
    )]
    pub(super) fn new(
        mut b: FunctionBuilder<'b>,
        layout: &'l Layout<'a>,
        index: usize,
        function: &'l Function<'a>,
        body: &'l Body<'a>,
        frame_layout: &'l FrameLayout,
        flow: &'l Flow,
        pauses: &'l Pauses,
        gangs: Option<Plan>,
        sites: Vec<Site>,
    ) -> Result<Self, PtxError> {
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let params = b.block_params(entry);
        let (context, first, second) = (params[0], params[1], params[2]);
        let region =
            |b: &mut FunctionBuilder<'_>, user_id, description: &'static str| -> AliasRegion {
                b.func.dfg.alias_regions.insert(AliasRegionData {
                    user_id,
                    description: description.into(),
                })
            };
        let frames = region(&mut b, 1, "frames");
        let memory = region(&mut b, 2, "memory");
        let trusted = MemFlagsData::trusted();
        let blocks = (0..=flow.blocks.len()).map(|_| b.create_block()).collect();
        let own_points: &[_] = if gangs.is_some() { &[] } else { &pauses.points };
        let resume_points = pauses.pauses.len() + pauses.yields.len() + own_points.len();
        let resume_blocks: Vec<Block> = (0..resume_points).map(|_| b.create_block()).collect();
        let point_blocks = own_points.iter().map(|_| b.create_block()).collect();
        let (fault, leave, exit, stop) = (
            b.create_block(),
            b.create_block(),
            b.create_block(),
            b.create_block(),
        );
        b.set_cold_block(fault);
        b.append_block_param(fault, types::I64);
        b.append_block_param(fault, types::I32);
        let mut lower = Self {
            b,
            layout,
            index,
            function,
            body,
            frame_layout,
            flow,
            pauses,
            groups: analysis::groups(body, flow, own_points),
            at: 0,
            sites,
            has_fma: layout.has_fma,
            has_rounding: layout.has_rounding,
            variables: vec![None; body.registers.len()],
            shared: vec![None; body.registers.len()],
            entry,
            entry_open: true,
            hoisted: HashMap::new(),
            blocks,
            context,
            thread: first,
            frame: second,
            fault,
            leave,
            exit,
            stop,
            resume_blocks,
            carry: None,
            scratch: None,
            group_hosts: HashMap::new(),
            point_blocks,
            wide: gangs.map(|plan| Box::new(Gang::new(plan, first, 0))),
            lane: 0,
            constant: trusted.with_readonly().with_can_move(),
            private: trusted.with_alias_region(Some(frames)),
            device: trusted.with_alias_region(Some(memory)),
            signatures: HashMap::new(),
        };
        lower.prologue(first, second)?;
        Ok(lower)
    }

    /// The loop over threads of a kernel; the dispatch to where the thread stopped.
    fn prologue(&mut self, first: Value, end: Value) -> Result<(), PtxError> {
        self.b.ensure_inserted_block();
        for &at in &self.pauses.shared {
            self.at = at;
            self.unguarded(&self.body.code[at])?;
        }
        if self.wide.is_some() {
            let start = self.gang_prologue(first, end)?;
            return self.begin(start);
        }
        let start = self.b.create_block();
        let kernel = self.function.is_kernel;
        let again = if kernel {
            let dispatch = self.b.create_block();
            self.thread = self.b.append_block_param(dispatch, types::I64);
            self.frame = self.thread;
            self.b.ins().jump(dispatch, &[BlockArg::Value(first)]);
            self.entry_open = false;
            self.b.switch_to_block(dispatch);
            Some(dispatch)
        } else {
            None
        };
        if self.resume_blocks.is_empty() {
            self.b.ins().jump(start, &[]);
        } else {
            let resume = self.b.ins().load(types::I32, self.private, self.frame, 0);
            // A function is only called where its thread is runnable: any other state starts it anew.
            let otherwise = if kernel { self.stop } else { start };
            let mut call = |block| BlockCall::new(block, [], &mut self.b.func.dfg.value_lists);
            let default = call(otherwise);
            let mut table = vec![call(start)];
            table.extend(self.resume_blocks.iter().map(|&block| call(block)));
            let table = self
                .b
                .create_jump_table(JumpTableData::new(default, &table));
            self.b.ins().br_table(resume, table);
        }
        self.entry_open = false;
        self.epilogues(again, end);
        self.begin(start)
    }

    /// What every thread does first.
    fn begin(&mut self, start: Block) -> Result<(), PtxError> {
        self.b.switch_to_block(start);
        if !self.function.is_kernel {
            self.check_ending(self.function.line);
        }
        if !self.function.is_kernel && self.layout.deep {
            let need = i64::from(self.frame_layout.bytes);
            self.check_stack(need, self.function.line);
        }
        self.begin_stack();
        let shared = |reg: Reg| self.pauses.passage[reg.0 as usize] == Passage::Shared;
        let undefined = self
            .pauses
            .undefined
            .iter()
            .copied()
            .filter(|&reg| !shared(reg));
        for reg in undefined.collect::<Vec<_>>() {
            if self.wide.is_some() {
                self.zero_register(reg);
                continue;
            }
            let zero = self.zero(clif(self.register_type(reg)));
            self.define(reg, zero);
        }
        for (param, &offset) in self
            .function
            .prototype
            .params
            .iter()
            .zip(&self.frame_layout.params)
        {
            if let Some(reg) = param.reg {
                let value =
                    self.b
                        .ins()
                        .load(clif(param.ty), self.private, self.frame, offset as i32);
                self.define(reg, value);
            }
        }
        let first_block = self.blocks[0];
        self.b.ins().jump(first_block, &[]);
        Ok(())
    }

    /// The blocks in which a thread's run ends: they know only its frame.
    fn epilogues(&mut self, again: Option<Block>, end: Value) {
        let verdict = |lower: &mut Self, verdict: u32| {
            let value = lower.imm(types::I32, i64::from(verdict));
            lower.b.ins().return_(&[value]);
        };
        match again {
            Some(dispatch) => {
                let finished = self.b.create_block();
                self.b.switch_to_block(self.leave);
                self.b.ins().jump(self.exit, &[]);
                self.b.switch_to_block(self.exit);
                if !self.resume_blocks.is_empty() {
                    let ended = self.imm(types::I32, i64::from(ENDED));
                    self.b.ins().store(self.private, ended, self.frame, 0);
                    self.count(offset_of!(BlockContext, live), -1);
                }
                self.b.ins().jump(self.stop, &[]);
                self.b.switch_to_block(self.stop);
                let stride = self.context_field(types::I64, offset_of!(BlockContext, thread_bytes));
                let next = self.b.ins().iadd(self.frame, stride);
                let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, end);
                self.b
                    .ins()
                    .brif(more, dispatch, &[BlockArg::Value(next)], finished, &[]);
                self.b.switch_to_block(finished);
                verdict(self, DONE);
            }
            None => {
                self.b.switch_to_block(self.leave);
                self.restore_stack();
                verdict(self, DONE);
                self.b.switch_to_block(self.exit);
                verdict(self, EXIT);
                self.b.switch_to_block(self.stop);
                verdict(self, YIELD);
            }
        }
        self.b.switch_to_block(self.fault);
        let (address, site) = (
            self.b.block_params(self.fault)[0],
            self.b.block_params(self.fault)[1],
        );
        let base = offset_of!(BlockContext, fault);
        let field = |offset: usize| at::<BlockContext>(base + offset);
        self.b.ins().store(
            self.private,
            address,
            self.context,
            field(offset_of!(RawFault, address)),
        );
        self.b.ins().store(
            self.private,
            site,
            self.context,
            field(offset_of!(RawFault, site)),
        );
        self.b.ins().store(
            self.private,
            self.thread,
            self.context,
            field(offset_of!(RawFault, thread)),
        );
        verdict(self, FAULT);
    }

    /// Adds to one of the context's counters; its new value.
    pub(super) fn count(&mut self, offset: usize, by: i64) -> Value {
        let offset = at::<BlockContext>(offset);
        let count = self
            .b
            .ins()
            .load(types::I32, self.private, self.context, offset);
        let by = self.imm(types::I32, by);
        let count = self.b.ins().iadd(count, by);
        self.b
            .ins()
            .store(self.private, count, self.context, offset);
        count
    }

    /// Translates the whole body; with the code come its sites, and whether it is worth to be made.
    pub(super) fn run(mut self) -> Result<(FunctionBuilder<'b>, Vec<Site>, bool), PtxError> {
        for block in 0..self.flow.blocks.len() {
            self.b.switch_to_block(self.blocks[block]);
            let range = self.flow.blocks[block].clone();
            self.at = range.start;
            self.make_way()?;
            for at in range.clone() {
                self.at = at;
                let instruction = &self.body.code[at];
                if self.wide.is_none()
                    && let Ok(point) = self
                        .pauses
                        .points
                        .binary_search_by_key(&at, |point| point.at)
                {
                    self.single_point(point);
                }
                if let Some(Operand::Reg(reg)) = instruction.operands.first()
                    && self.shared[reg.0 as usize].is_some()
                    && analysis::writes_first(instruction)
                {
                    continue;
                }
                let end =
                    analysis::end(instruction, self.layout.call_waits(instruction, self.body));
                if self.wide.is_some() {
                    self.gang_instruction(instruction, end, block + 1)?;
                    continue;
                }
                match end {
                    End::No => self.plain(instruction)?,
                    End::Branch => self.branch(instruction, block + 1)?,
                    End::Leave => self.leave(instruction, block + 1)?,
                    End::Wait => self.pause(instruction, block + 1)?,
                }
            }
            let last = &self.body.code[range.end - 1];
            if analysis::end(last, self.layout.call_waits(last, self.body)) == End::No {
                let next = self.blocks[block + 1];
                self.b.ins().jump(next, &[]);
            }
        }
        // Running off the end of the text is a `ret`.
        self.b.switch_to_block(self.blocks[self.flow.blocks.len()]);
        self.store_returns();
        self.b.ins().jump(self.leave, &[]);
        if self.wide.is_some() {
            self.gang_points()?;
        } else {
            self.single_resumes()?;
        }
        self.b.seal_all_blocks();
        let asked = self.layout.options.vectorise == Vectorise::AtOnce;
        let pays = self.wide.is_none_or(|gang| asked || gang.pays());
        Ok((self.b, self.sites, pays))
    }

    /// Code that runs only where the guard holds. `body` must not end the block.
    pub(super) fn guarded(
        &mut self,
        guard: Option<Guard>,
        body: impl FnOnce(&mut Self) -> Result<(), PtxError>,
    ) -> Result<(), PtxError> {
        let Some(guard) = guard else {
            return body(self);
        };
        let (inside, after) = (self.b.create_block(), self.b.create_block());
        self.branch_on(guard, inside, after)?;
        self.b.switch_to_block(inside);
        body(self)?;
        self.b.ins().jump(after, &[]);
        self.b.switch_to_block(after);
        Ok(())
    }

    pub(super) fn branch_on(
        &mut self,
        guard: Guard,
        taken: Block,
        otherwise: Block,
    ) -> Result<(), PtxError> {
        if self.register_type(guard.reg) != Type::Pred {
            return Err(self.invalid("a guard is a predicate"));
        }
        let predicate = self.register(guard.reg);
        let (yes, no) = if guard.negated {
            (otherwise, taken)
        } else {
            (taken, otherwise)
        };
        self.b.ins().brif(predicate, yes, &[], no, &[]);
        Ok(())
    }

    fn plain(&mut self, instruction: &'l Instruction<'a>) -> Result<(), PtxError> {
        self.guarded(instruction.guard, |lower| lower.unguarded(instruction))
    }

    pub(super) fn unguarded(&mut self, instruction: &'l Instruction<'a>) -> Result<(), PtxError> {
        let form = Form::new(instruction);
        grammar::check(&form)?;
        match instruction.opcode {
            "call" => self.call(instruction, None)?,
            "ld" | "ldu" => self.load(&form)?,
            "st" => self.store(&form)?,
            "atom" | "red" => self.atomic(&form)?,
            "cvta" | "isspacep" | "prefetch" | "prefetchu" | "discard" | "applypriority"
            | "membar" | "fence" | "createpolicy" | "mapa" | "getctarank" => {
                self.memory_other(&form)?;
            }
            "cp" => self.copy_asynchronously(&form)?,
            "mbarrier" => self.mbarrier(&form)?,
            "wmma" => self.move_fragment(&form)?,
            "tex" | "tld4" => self.texture(&form)?,
            "txq" | "suq" => self.query(&form)?,
            "istypep" => self.is_type(&form)?,
            "suld" | "sust" | "sured" => self.surface(&form)?,
            "alloca" => self.allocate(&form)?,
            "stacksave" | "stackrestore" => self.move_stack(&form)?,
            "griddepcontrol" | "setmaxnreg" => self.hint(&form)?,
            "mov" => self.mov(&form)?,
            "cvt" => self.convert(&form)?,
            "nanosleep" => {
                form.take("u32");
                form.finish()?;
                let [nanoseconds] = instruction.operands.as_slice() else {
                    return Err(form.invalid("a time is needed"));
                };
                let nanoseconds = self.read(nanoseconds, Type::U32)?;
                self.helper(Helper::Sleep, &[self.context, nanoseconds], types::I32);
            }
            "pmevent" => {
                form.take("mask");
                form.finish()?;
            }
            "bar" | "barrier" => self.arrive(&form)?,
            "brkpt" => {
                form.finish()?;
                self.trap(instruction);
                let dead = self.b.create_block();
                self.b.switch_to_block(dead);
            }
            _ => self.arithmetic(&form)?,
        }
        Ok(())
    }

    pub(super) fn branch(
        &mut self,
        instruction: &'l Instruction<'a>,
        next: usize,
    ) -> Result<(), PtxError> {
        let form = Form::new(instruction);
        form.take("uni");
        let targets = analysis::branch_targets(self.body, instruction);
        if targets.iter().any(|&target| target <= self.at) {
            self.check_ending(instruction.line);
        }
        let targets: Vec<Block> = targets
            .into_iter()
            .map(|target| self.blocks[self.flow.block_of[target]])
            .collect();
        if instruction.opcode == "bra" {
            form.finish()?;
            let &[target] = targets.as_slice() else {
                return Err(form.invalid("a label is needed"));
            };
            match instruction.guard {
                None => {
                    self.b.ins().jump(target, &[]);
                }
                Some(guard) => self.branch_on(guard, target, self.blocks[next])?,
            }
            return Ok(());
        }
        if !form.take("idx") {
            return Err(form.unsupported("this form"));
        }
        form.finish()?;
        let (Some(&last), [index, _]) = (targets.last(), instruction.operands.as_slice()) else {
            return Err(form.invalid("an index and a list of labels are needed"));
        };
        if let Some(guard) = instruction.guard {
            let inside = self.b.create_block();
            self.branch_on(guard, inside, self.blocks[next])?;
            self.b.switch_to_block(inside);
        }
        let index = self.read(index, Type::U32)?;
        // An index beyond the list is undefined; here it takes the last label.
        let mut call = |block| BlockCall::new(block, [], &mut self.b.func.dfg.value_lists);
        let default = call(last);
        let table: Vec<BlockCall> = targets.iter().map(|&block| call(block)).collect();
        let table = self
            .b
            .create_jump_table(JumpTableData::new(default, &table));
        self.b.ins().br_table(index, table);
        Ok(())
    }

    pub(super) fn leave(
        &mut self,
        instruction: &'l Instruction<'a>,
        next: usize,
    ) -> Result<(), PtxError> {
        let form = Form::new(instruction);
        form.take("uni");
        form.finish()?;
        if let Some(guard) = instruction.guard {
            let inside = self.b.create_block();
            self.branch_on(guard, inside, self.blocks[next])?;
            self.b.switch_to_block(inside);
        }
        match instruction.opcode {
            "ret" => {
                self.store_returns();
                self.b.ins().jump(self.leave, &[]);
            }
            "exit" => {
                self.b.ins().jump(self.exit, &[]);
            }
            _ => self.trap(instruction),
        }
        Ok(())
    }

    fn trap(&mut self, instruction: &Instruction<'_>) {
        let site = self.site(instruction.line, SiteKind::Trap);
        let address = self.imm(types::I64, 0);
        self.b.ins().jump(
            self.fault,
            &[BlockArg::Value(address), BlockArg::Value(site)],
        );
    }

    /// Results that are registers go to their places in the frame.
    fn store_returns(&mut self) {
        if self.function.is_kernel {
            return;
        }
        for (slot, &offset) in self
            .function
            .prototype
            .returns
            .iter()
            .zip(&self.frame_layout.returns)
        {
            if let Some(reg) = slot.reg {
                let value = self.register(reg);
                self.b
                    .ins()
                    .store(self.private, value, self.frame, offset as i32);
            }
        }
    }

    /// A fault's site as an operand for the fault block.
    pub(super) fn site(&mut self, line: u32, kind: SiteKind) -> Value {
        let site = Site { line, kind };
        // Neighbours are often alike.
        let found = self
            .sites
            .iter()
            .rev()
            .take(4)
            .position(|other| *other == site);
        let index = match found {
            Some(back) => self.sites.len() - 1 - back,
            None => {
                self.sites.push(site);
                self.sites.len() - 1
            }
        };
        // The function's index distinguishes the sites of functions compiled side by side.
        let number = self.layout.site_base(self.index) + index as u32;
        self.imm(types::I32, i64::from(number))
    }

    /// Goes to the fault block when the condition holds.
    pub(super) fn fault_if(&mut self, condition: Value, address: Value, site: Value) {
        let fine = self.b.create_block();
        let args = [BlockArg::Value(address), BlockArg::Value(site)];
        self.b.ins().brif(condition, self.fault, &args, fine, &[]);
        self.b.switch_to_block(fine);
    }

    /// In a module that is compiled so: a launch that must end does so here.
    pub(super) fn check_ending(&mut self, line: u32) {
        if !self.layout.options.timed {
            return;
        }
        let place = self.context_field(types::I64, offset_of!(BlockContext, ending));
        let ending = self.b.ins().load(types::I32, self.device, place, 0);
        let address = self.imm(types::I64, 0);
        let site = self.site(line, SiteKind::Ending);
        self.fault_if(ending, address, site);
    }

    fn check_stack(&mut self, bytes: i64, line: u32) {
        let limit = self.context_field(types::I64, offset_of!(BlockContext, thread_bytes));
        let limit = self.b.ins().iadd(self.thread, limit);
        let need = self.imm(types::I64, bytes);
        let end = self.b.ins().iadd(self.frame, need);
        let end_of_frames = if self.layout.allocates {
            let stack = self.imm(types::I64, i64::from(super::layout::STACK_BYTES));
            self.b.ins().isub(limit, stack)
        } else {
            limit
        };
        let over = self
            .b
            .ins()
            .icmp(IntCC::UnsignedGreaterThan, end, end_of_frames);
        let site = self.site(line, SiteKind::Stack);
        self.fault_if(over, end, site);
    }

    // Waiting.

    pub(super) fn pause_number(&self) -> Result<usize, PtxError> {
        let pauses = &self.pauses.pauses;
        let found = pauses.binary_search_by_key(&self.at, |pause| pause.at);
        found.map_err(|_| self.invalid("a waiting point was overlooked (an internal error)"))
    }

    pub(super) fn block_of(&self, block: usize) -> Block {
        self.blocks[block]
    }

    pub(super) fn resume_block(&self, number: usize) -> Block {
        self.resume_blocks[number]
    }

    pub(super) fn point_block(&self, index: usize) -> Block {
        self.point_blocks[index]
    }

    pub(super) const fn leave_block(&self) -> Block {
        self.leave
    }

    pub(super) const fn exit_block(&self) -> Block {
        self.exit
    }

    pub(super) const fn stop_block(&self) -> Block {
        self.stop
    }

    /// The first block has its end.
    pub(super) const fn close_entry(&mut self) {
        self.entry_open = false;
    }

    /// Where a register is saved in the frame.
    pub(super) fn saved_at(&self, reg: Reg) -> Option<u32> {
        let saved = self.frame_layout.saved.get(reg.0 as usize);
        saved.copied().flatten()
    }

    pub(super) fn is_saved_where_written(&self, reg: Reg) -> bool {
        self.pauses.passage[reg.0 as usize] == Passage::SavedWhereWritten
    }

    /// An instruction at which the thread may wait: barriers, warp instructions, calls of functions
    /// that have them.
    fn pause(&mut self, instruction: &'l Instruction<'a>, next: usize) -> Result<(), PtxError> {
        let number = self.pause_number()?;
        let next = self.blocks[next];
        if let Some(guard) = instruction.guard {
            let inside = self.b.create_block();
            self.branch_on(guard, inside, next)?;
            self.b.switch_to_block(inside);
        }
        if instruction.opcode == "call" {
            self.call(instruction, Some(number))?;
        } else {
            let form = Form::new(instruction);
            let wait = self.wait_operands(&form)?;
            self.save(number);
            self.stop_here(number, Some(wait));
            self.b.switch_to_block(self.resume_blocks[number]);
            self.restore(number)?;
            self.wait_results(&form, wait)?;
        }
        self.b.ins().jump(next, &[]);
        Ok(())
    }

    /// A yield point, if there is one before the current instruction: when the block's turns are used
    /// up, the thread stops and goes on here when the others have had theirs.
    fn make_way(&mut self) -> Result<(), PtxError> {
        let yields = &self.pauses.yields;
        let Ok(number) = yields.binary_search_by_key(&self.at, |point| point.at) else {
            return Ok(());
        };
        let (stop, go_on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(stop);
        let turns = self.count(offset_of!(BlockContext, turns), -1);
        self.b.ins().brif(turns, go_on, &[], stop, &[]);
        self.b.switch_to_block(stop);
        let turns = self.imm(types::I32, i64::from(TURNS));
        let place = at::<BlockContext>(offset_of!(BlockContext, turns));
        self.b.ins().store(self.private, turns, self.context, place);
        let live = &yields[number].live;
        for &reg in live {
            if self.pauses.passage[reg.0 as usize] != Passage::SavedWhereWritten {
                let value = self.register(reg);
                self.save_register(reg, value);
            }
        }
        let number = self.pauses.pauses.len() + number;
        self.stop_here(number, Some(wait::YIELD));
        self.b.switch_to_block(self.resume_blocks[number]);
        for &reg in live {
            self.restore_register(reg)?;
        }
        self.b.ins().jump(go_on, &[]);
        self.b.switch_to_block(go_on);
        Ok(())
    }

    fn save(&mut self, number: usize) {
        for &reg in &self.pauses.pauses[number].save {
            let value = self.register(reg);
            self.save_register(reg, value);
        }
    }

    pub(super) fn save_register(&mut self, reg: Reg, value: Value) {
        if let Some(offset) = self.saved_at(reg) {
            self.b
                .ins()
                .store(self.private, value, self.frame, offset as i32);
        }
    }

    fn restore(&mut self, number: usize) -> Result<(), PtxError> {
        let pause = &self.pauses.pauses[number];
        let waits_in_call = self.body.code[pause.at].opcode == "call";
        let saved_again = pause.save.iter().filter(|_| waits_in_call);
        for &reg in pause.restore.iter().chain(saved_again) {
            self.restore_register(reg)?;
        }
        Ok(())
    }

    pub(super) fn restore_register(&mut self, reg: Reg) -> Result<(), PtxError> {
        let index = reg.0 as usize;
        match self.pauses.passage[index] {
            Passage::Shared => {}
            Passage::ReadAgain(at) => {
                let here = std::mem::replace(&mut self.at, at);
                if self.wide.is_some() {
                    self.gang_plain(&self.body.code[at])?;
                } else {
                    self.unguarded(&self.body.code[at])?;
                }
                self.at = here;
            }
            Passage::SavedWhereWritten | Passage::SavedWhereWaiting if self.wide.is_some() => {
                self.restore_lanes(reg);
            }
            Passage::None | Passage::SavedWhereWritten | Passage::SavedWhereWaiting => {
                if let Some(offset) = self.frame_layout.saved[index] {
                    let ty = clif(self.register_type(reg));
                    let value = self
                        .b
                        .ins()
                        .load(ty, self.private, self.frame, offset as i32);
                    let variable = self.variable(reg);
                    self.b.def_var(variable, value);
                }
            }
        }
        Ok(())
    }

    /// The thread stops; it goes on at the given resume block. `wait` is `None` where a called function
    /// has already said what it waits for.
    fn stop_here(&mut self, number: usize, wait: Option<u32>) {
        let state = number as u32 + 1;
        let kernel = self.function.is_kernel;
        let resume = if kernel && !self.layout.simple_waits[self.index] {
            state | WAITING
        } else {
            state
        };
        match wait {
            Some(wait) if kernel => {
                // Both words in one store.
                let both = u64::from(wait) << 32 | u64::from(resume);
                let both = self.imm(types::I64, both.cast_signed());
                self.b.ins().store(self.private, both, self.frame, 0);
            }
            _ => {
                let resume = self.imm(types::I32, i64::from(resume));
                self.b.ins().store(self.private, resume, self.frame, 0);
                if let Some(wait) = wait {
                    let wait = self.imm(types::I32, i64::from(wait));
                    self.b.ins().store(
                        self.private,
                        wait,
                        self.thread,
                        at::<ThreadHeader>(offset_of!(ThreadHeader, wait)),
                    );
                }
            }
        }
        self.b.ins().jump(self.stop, &[]);
    }

    pub(super) fn store_exchange(&mut self, value: Value, field: usize) {
        let offset = offset_of!(ThreadHeader, exchange) + field;
        self.b
            .ins()
            .store(self.private, value, self.thread, at::<ThreadHeader>(offset));
    }

    pub(super) fn load_exchange(&mut self, ty: Clif, field: usize) -> Value {
        let offset = offset_of!(ThreadHeader, exchange) + field;
        self.b
            .ins()
            .load(ty, self.private, self.thread, at::<ThreadHeader>(offset))
    }

    /// The result of a warp instruction, as wide as asked for.
    pub(super) fn exchange_result(&mut self, ty: Clif) -> Value {
        self.load_exchange(ty, offset_of!(Exchange, result))
    }

    // Calls.

    /// A call. `pause` is its waiting point if the callee may wait.
    fn call(
        &mut self,
        instruction: &'l Instruction<'a>,
        pause: Option<usize>,
    ) -> Result<(), PtxError> {
        let form = Form::new(instruction);
        form.take("uni");
        form.finish()?;
        let operands = instruction.operands.as_slice();
        let (returns, rest) = match operands {
            [Operand::List(list), rest @ ..] if !rest.is_empty() => (list.as_slice(), rest),
            _ => (&[][..], operands),
        };
        let (target, rest) = rest
            .split_first()
            .ok_or_else(|| form.invalid("a function is missing"))?;
        let (args, rest) = match rest {
            [Operand::List(list), rest @ ..] => (list.as_slice(), rest),
            _ => (&[][..], rest),
        };
        let callee = match target {
            Operand::Symbol(Symbol::Function(function), 0) => Some(*function as usize),
            _ => None,
        };
        let prototype = match (callee, rest) {
            (Some(callee), _) => self.layout.prototype(callee),
            (None, [Operand::Symbol(Symbol::Prototype(prototype), _)]) => {
                self.body.prototypes.get(*prototype as usize)
            }
            (None, [Operand::Symbol(Symbol::Table(table), _)]) => {
                let first = self
                    .body
                    .tables
                    .get(*table as usize)
                    .and_then(|table| table.first());
                match first {
                    Some(Operand::Symbol(Symbol::Function(function), _)) => {
                        self.layout.prototype(*function as usize)
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let prototype =
            prototype.ok_or_else(|| form.invalid("the function's prototype is missing"))?;
        if prototype.params.len() != args.len() || prototype.returns.len() != returns.len() {
            return Err(form.invalid("the arguments do not match the function's parameters"));
        }
        if let Some(callee) = callee
            && !self.layout.is_defined(callee)
        {
            let name = self.layout.name(callee);
            if !runtime::is_native(name) {
                return Err(form.unsupported(&format!(
                    "the function {name}, which this module does not define"
                )));
            }
            if runtime::native(name, prototype).is_none() {
                return Err(form.invalid(&format!(
                    "{name} is declared with other parameters than the device runtime's"
                )));
            }
        }
        let (return_at, param_at, arguments_end) = super::layout::call_area(prototype);
        let callee_frame = {
            let bytes = self.imm(types::I64, i64::from(self.frame_layout.bytes));
            self.b.ins().iadd(self.frame, bytes)
        };
        if self.layout.deep {
            self.check_stack(
                i64::from(self.frame_layout.bytes + arguments_end),
                instruction.line,
            );
        }
        for ((arg, slot), &offset) in args.iter().zip(&prototype.params).zip(&param_at) {
            if let Operand::Symbol(Symbol::Local(local), 0) = arg {
                let (from, bytes) = self.local_place(*local as usize, &form)?;
                if bytes < slot.bytes {
                    return Err(form.invalid("an argument is smaller than its parameter"));
                }
                self.copy(callee_frame, offset, self.frame, from, slot.bytes);
            } else {
                let value = self.read(arg, slot.ty)?;
                self.b
                    .ins()
                    .store(self.private, value, callee_frame, offset as i32);
            }
        }
        let zero = self.imm(types::I32, 0);
        self.b.ins().store(self.private, zero, callee_frame, 0);
        if callee.is_none_or(|callee| !self.layout.is_defined(callee)) {
            let site = self.site(instruction.line, SiteKind::Trap);
            self.b
                .ins()
                .store(self.private, site, callee_frame, super::layout::SITE_AT);
        }
        let mut address = match callee {
            Some(callee) => self.imm(types::I64, callee as i64),
            None => self.read(target, Type::U64)?,
        };
        if let Some(number) = pause {
            // Called again after waiting: the callee goes on where it stopped. What the frame says is
            // the thread's to change, so it is an address that is checked again.
            let call = self.b.create_block();
            let again = self.b.append_block_param(call, types::I64);
            self.b.ins().jump(call, &[BlockArg::Value(address)]);
            self.b.switch_to_block(self.resume_blocks[number]);
            self.restore(number)?;
            let kept = match callee {
                Some(callee) => self.imm(types::I64, callee as i64),
                None => self.b.ins().load(
                    types::I64,
                    self.private,
                    self.frame,
                    super::layout::CALLEE_AT,
                ),
            };
            self.b.ins().jump(call, &[BlockArg::Value(kept)]);
            self.b.switch_to_block(call);
            address = again;
        }
        let entry = match callee {
            Some(callee) => {
                let table = self.context_field(types::I64, offset_of!(BlockContext, functions));
                self.b
                    .ins()
                    .load(types::I64, self.constant, table, callee as i32 * 8)
            }
            None => self.indirect_target(address, instruction.line)?,
        };
        let callee_frame = {
            let bytes = self.imm(types::I64, i64::from(self.frame_layout.bytes));
            self.b.ins().iadd(self.frame, bytes)
        };
        let sig = self.b.func.signature.clone();
        let sig = self.b.import_signature(sig);
        let call =
            self.b
                .ins()
                .call_indirect(sig, entry, &[self.context, self.thread, callee_frame]);
        let verdict = self.b.inst_results(call)[0];
        let (other, fine) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(other);
        self.b.ins().brif(verdict, other, &[], fine, &[]);
        self.b.switch_to_block(other);
        if let Some(number) = pause {
            let (waits, ends) = (self.b.create_block(), self.b.create_block());
            let yielded = self
                .b
                .ins()
                .icmp_imm_u(IntCC::Equal, verdict, i64::from(YIELD));
            self.b.ins().brif(yielded, waits, &[], ends, &[]);
            self.b.switch_to_block(waits);
            if callee.is_none() {
                self.b
                    .ins()
                    .store(self.private, address, self.frame, super::layout::CALLEE_AT);
            }
            self.save(number);
            self.stop_here(number, None);
            self.b.switch_to_block(ends);
        }
        if self.function.is_kernel {
            let faulted = self.b.create_block();
            let exits = self
                .b
                .ins()
                .icmp_imm_u(IntCC::Equal, verdict, i64::from(EXIT));
            self.b.ins().brif(exits, self.exit, &[], faulted, &[]);
            self.b.switch_to_block(faulted);
        }
        self.b.ins().return_(&[verdict]);
        self.b.switch_to_block(fine);
        for ((result, slot), &offset) in returns.iter().zip(&prototype.returns).zip(&return_at) {
            if let Operand::Symbol(Symbol::Local(local), 0) = result {
                let (to, bytes) = self.local_place(*local as usize, &form)?;
                self.copy(self.frame, to, callee_frame, offset, slot.bytes.min(bytes));
            } else {
                let value =
                    self.b
                        .ins()
                        .load(clif(slot.ty), self.private, callee_frame, offset as i32);
                self.write(result, slot.ty, value)?;
            }
        }
        Ok(())
    }

    /// The entry of the function whose address a register holds; a fault if it is none.
    fn indirect_target(&mut self, address: Value, line: u32) -> Result<Value, PtxError> {
        let base = self.imm(types::I64, super::layout::FUNCTION_ADDRESS);
        let offset = self.b.ins().isub(address, base);
        let index = self.imm(types::I64, 4);
        let index = self.b.ins().rotr(offset, index);
        let count = self.imm(types::I64, self.layout.functions() as i64);
        let wrong = self
            .b
            .ins()
            .icmp(IntCC::UnsignedGreaterThanOrEqual, index, count);
        let site = self.site(
            line,
            SiteKind::Access {
                space: "code",
                bytes: 16,
                align: 1,
            },
        );
        self.fault_if(wrong, address, site);
        let table = self.context_field(types::I64, offset_of!(BlockContext, functions));
        let eight = self.imm(types::I64, 3);
        let offset = self.b.ins().ishl(index, eight);
        let slot = self.b.ins().iadd(table, offset);
        let entry = self.b.ins().load(types::I64, self.private, slot, 0);
        let nothing = self.b.ins().icmp_imm_u(IntCC::Equal, entry, 0);
        self.fault_if(nothing, address, site);
        Ok(entry)
    }

    /// Offset in the frame and bytes of a `.param` or `.local` variable.
    fn local_place(&self, local: usize, form: &Form<'_, '_>) -> Result<(u32, u32), PtxError> {
        match (
            self.body.locals.get(local),
            self.frame_layout.locals.get(local),
        ) {
            (Some(slot), Some(&offset)) => Ok((offset, slot.bytes)),
            _ => Err(form.invalid("an unknown variable")),
        }
    }

    /// Copies bytes between frames.
    fn copy(&mut self, to: Value, to_at: u32, from: Value, from_at: u32, bytes: u32) {
        let flags = MemFlagsData::new()
            .with_notrap()
            .with_alias_region(self.private.alias_region());
        let mut done = 0;
        while done < bytes {
            let (ty, step) = match bytes - done {
                8.. => (types::I64, 8),
                4.. => (types::I32, 4),
                2.. => (types::I16, 2),
                _ => (types::I8, 1),
            };
            let value = self.b.ins().load(ty, flags, from, (from_at + done) as i32);
            self.b.ins().store(flags, value, to, (to_at + done) as i32);
            done += step;
        }
    }

    /// Calls a helper of the runtime.
    pub(super) fn helper(&mut self, helper: Helper, args: &[Value], result: Clif) -> Value {
        let mut key: Vec<Clif> = args
            .iter()
            .map(|&arg| self.b.func.dfg.value_type(arg))
            .collect();
        key.push(result);
        let sig = match self.signatures.get(&key) {
            Some(&sig) => sig,
            None => {
                let mut signature = Signature::new(self.b.func.signature.call_conv);
                signature
                    .params
                    .extend(key.iter().take(args.len()).map(|&ty| AbiParam::new(ty)));
                signature.returns.push(AbiParam::new(result));
                let sig = self.b.import_signature(signature);
                self.signatures.insert(key, sig);
                sig
            }
        };
        let (table, flags) = (
            self.context_field(types::I64, offset_of!(BlockContext, helpers)),
            self.constant,
        );
        let entry = self.hoist(Hoisted::Helper(helper as u32), |cursor| {
            cursor
                .ins()
                .load(types::I64, flags, table, helper as i32 * 8)
        });
        let call = self.b.ins().call_indirect(sig, entry, args);
        self.b.inst_results(call)[0]
    }

    // Values.

    pub(super) fn imm(&mut self, ty: Clif, value: i64) -> Value {
        let bits = ty.bits();
        if bits == 128 {
            let low = self.b.ins().iconst(types::I64, value);
            return self.b.ins().sextend(types::I128, low);
        }
        let mask = if bits >= 64 { -1 } else { (1_i64 << bits) - 1 };
        self.b.ins().iconst(ty, value & mask)
    }

    pub(super) fn zero(&mut self, ty: Clif) -> Value {
        match ty {
            types::F32 => self.f32(0.0),
            types::F64 => self.f64(0.0),
            _ => self.imm(ty, 0),
        }
    }

    pub(super) const fn device_flags(&self) -> MemFlagsData {
        self.device
    }

    pub(super) const fn private_flags(&self) -> MemFlagsData {
        self.private
    }

    pub(super) const fn constant_flags(&self) -> MemFlagsData {
        self.constant
    }

    /// Computes something in the function's first block, once.
    pub(super) fn hoist(
        &mut self,
        what: Hoisted,
        make: impl FnOnce(&mut FuncCursor<'_>) -> Value,
    ) -> Value {
        if let Some(&value) = self.hoisted.get(&what) {
            return value;
        }
        let (entry, open) = (self.entry, self.entry_open);
        let mut cursor = FuncCursor::new(self.b.func);
        cursor = if open {
            cursor.at_bottom(entry)
        } else {
            cursor.at_last_inst(entry)
        };
        let value = make(&mut cursor);
        self.hoisted.insert(what, value);
        value
    }

    /// A field of the context that does not change while the code runs.
    pub(super) fn context_field(&mut self, ty: Clif, offset: usize) -> Value {
        let (flags, context) = (self.constant, self.context);
        self.hoist(Hoisted::Field(offset), |cursor| {
            cursor
                .ins()
                .load(ty, flags, context, at::<BlockContext>(offset))
        })
    }

    /// A floating-point constant.
    pub(super) fn f32(&mut self, value: f32) -> Value {
        self.hoist(Hoisted::Single(value.to_bits()), |cursor| {
            cursor.ins().f32const(value)
        })
    }

    /// A floating-point constant.
    pub(super) fn f64(&mut self, value: f64) -> Value {
        self.hoist(Hoisted::Double(value.to_bits()), |cursor| {
            cursor.ins().f64const(value)
        })
    }

    pub(super) fn invalid(&self, why: &str) -> PtxError {
        match self.body.code.get(self.at) {
            Some(instruction) => {
                PtxError::invalid(instruction.line, format!("{}: {why}", instruction.name()))
            }
            None => PtxError::invalid(self.function.line, why),
        }
    }

    pub(super) fn register_type(&self, reg: Reg) -> Type {
        self.body
            .registers
            .get(reg.0 as usize)
            .copied()
            .unwrap_or(Type::B32)
    }

    pub(super) fn variable(&mut self, reg: Reg) -> Variable {
        let ty = clif(self.register_type(reg));
        let slot = &mut self.variables[reg.0 as usize];
        match slot {
            Some(variable) => *variable,
            None => {
                let variable = self.b.declare_var(ty);
                *slot = Some(variable);
                variable
            }
        }
    }

    /// A register's value.
    pub(super) fn register(&mut self, reg: Reg) -> Value {
        if let Some(value) = self.shared[reg.0 as usize] {
            return value;
        }
        if self.wide.is_some() {
            return self.lane_register(reg);
        }
        let variable = self.variable(reg);
        self.b.use_var(variable)
    }

    /// Gives a register a value of its own type.
    fn define(&mut self, reg: Reg, value: Value) {
        if self.pauses.passage[reg.0 as usize] == Passage::Shared {
            self.shared[reg.0 as usize] = Some(value);
            return;
        }
        if self.wide.is_some() {
            self.lane_define(reg, value);
            return;
        }
        let variable = self.variable(reg);
        self.b.def_var(variable, value);
        if self.pauses.passage[reg.0 as usize] == Passage::SavedWhereWritten {
            self.save_register(reg, value);
        }
    }

    /// The same bits as another type of the same width.
    pub(super) fn cast(&mut self, value: Value, to: Clif) -> Value {
        if self.b.func.dfg.value_type(value) == to {
            return value;
        }
        self.b.ins().bitcast(to, MemFlagsData::new(), value)
    }

    /// An operand's value as a type; registers must have the type's width.
    pub(super) fn read(&mut self, operand: &Operand, ty: Type) -> Result<Value, PtxError> {
        match operand {
            Operand::Reg(reg) => {
                let own = self.register_type(*reg);
                if own.bits() != ty.bits() {
                    return Err(
                        self.invalid("a register has another width than the instruction's type")
                    );
                }
                let value = self.register(*reg);
                Ok(self.cast(value, clif(ty)))
            }
            Operand::Not(reg) if ty == Type::Pred && self.register_type(*reg) == Type::Pred => {
                let value = self.register(*reg);
                Ok(self.not(value))
            }
            Operand::Int(value) => Ok(match ty {
                Type::F32 => self.f32(*value as f32),
                Type::F64 => self.f64(*value as f64),
                Type::Pred => self.imm(types::I8, i64::from(*value != 0)),
                _ => self.imm(clif(ty), *value),
            }),
            Operand::Single(value) => match ty {
                Type::F32 => Ok(self.f32(*value)),
                Type::F64 => Ok(self.f64(f64::from(*value))),
                _ if ty.bits() == 32 => Ok(self.imm(types::I32, i64::from(value.to_bits()))),
                _ => Err(self.invalid("a floating-point constant does not fit here")),
            },
            Operand::Double(value) => match ty {
                Type::F32 => Ok(self.f32(*value as f32)),
                Type::F64 => Ok(self.f64(*value)),
                Type::B64 | Type::U64 | Type::S64 => {
                    Ok(self.imm(types::I64, value.to_bits().cast_signed()))
                }
                Type::B32 => Ok(self.imm(types::I32, i64::from((*value as f32).to_bits()))),
                _ => Err(self.invalid("a floating-point constant does not fit here")),
            },
            Operand::Special(name) => {
                let value = self.special(name)?;
                self.resize(value, ty)
            }
            Operand::Symbol(symbol, offset) => {
                let value = self.symbol_address(*symbol)?;
                let offset = self.imm(types::I64, *offset);
                let value = self.b.ins().iadd(value, offset);
                self.resize(value, ty)
            }
            _ => Err(self.invalid("this kind of operand does not fit here")),
        }
    }

    /// An unsigned integer as wide as an integer type.
    fn resize(&mut self, value: Value, ty: Type) -> Result<Value, PtxError> {
        let (from, to) = (self.b.func.dfg.value_type(value), clif(ty));
        if from == types::I8 && ty == Type::Pred {
            return Ok(value);
        }
        if !to.is_int() || ty == Type::Pred {
            return Err(self.invalid("an address or special register is an integer"));
        }
        Ok(match from.bits().cmp(&to.bits()) {
            std::cmp::Ordering::Equal => value,
            std::cmp::Ordering::Less => self.b.ins().uextend(to, value),
            std::cmp::Ordering::Greater => self.b.ins().ireduce(to, value),
        })
    }

    /// An operand's low bits as a type: registers may be wider, as `st` and `cvt` allow.
    pub(super) fn read_narrow(&mut self, operand: &Operand, ty: Type) -> Result<Value, PtxError> {
        if let Operand::Reg(reg) = operand {
            let own = self.register_type(*reg);
            if own != Type::Pred && own.bits() > ty.bits() {
                let value = self.register(*reg);
                let value = self.cast(value, int_of(clif(own)));
                let value = self.b.ins().ireduce(int_of(clif(ty)), value);
                return Ok(self.cast(value, clif(ty)));
            }
        }
        self.read(operand, ty)
    }

    /// Gives a destination a value of a type; its register must have the type's width.
    pub(super) fn write(
        &mut self,
        operand: &Operand,
        ty: Type,
        value: Value,
    ) -> Result<(), PtxError> {
        match operand {
            Operand::Sink => Ok(()),
            Operand::Reg(reg) => {
                let own = self.register_type(*reg);
                if own.bits() != ty.bits() {
                    return Err(self
                        .invalid("the destination has another width than the instruction's type"));
                }
                let value = self.cast(value, clif(own));
                self.define(*reg, value);
                Ok(())
            }
            _ => Err(self.invalid("the destination must be a register")),
        }
    }

    /// As `write`, but the register may be wider: the value is extended as its type says.
    pub(super) fn write_wide(
        &mut self,
        operand: &Operand,
        ty: Type,
        value: Value,
    ) -> Result<(), PtxError> {
        if let Operand::Reg(reg) = operand {
            let own = self.register_type(*reg);
            if own.bits() > ty.bits() && ty != Type::Pred {
                let value = self.cast(value, int_of(clif(ty)));
                let to = int_of(clif(own));
                let value = if ty.is_signed() {
                    self.b.ins().sextend(to, value)
                } else {
                    self.b.ins().uextend(to, value)
                };
                let value = self.cast(value, clif(own));
                self.define(*reg, value);
                return Ok(());
            }
        }
        self.write(operand, ty, value)
    }

    pub(super) fn write_predicate(
        &mut self,
        reg: Option<Reg>,
        value: Value,
    ) -> Result<(), PtxError> {
        match reg {
            None => Ok(()),
            Some(reg) => self.write(&Operand::Reg(reg), Type::Pred, value),
        }
    }

    /// The other truth value.
    pub(super) fn not(&mut self, predicate: Value) -> Value {
        let one = self.imm(types::I8, 1);
        self.b.ins().bxor(predicate, one)
    }

    /// [`SCRATCH_BYTES`] of the host's stack, for what helpers take and give in memory.
    pub(super) fn scratch(&mut self) -> Value {
        let slot = match self.scratch {
            Some(slot) => slot,
            None => {
                let kind = StackSlotKind::ExplicitSlot;
                let slot = StackSlotData::new(kind, SCRATCH_BYTES, 4);
                *self.scratch.insert(self.b.create_sized_stack_slot(slot))
            }
        };
        self.b.ins().stack_addr(types::I64, slot, 0)
    }

    /// The carry flag of `.cc` instructions.
    pub(super) fn carry(&mut self) -> Variable {
        match self.carry {
            Some(variable) => variable,
            None => {
                let variable = self.b.declare_var(types::I8);
                self.carry = Some(variable);
                variable
            }
        }
    }

    /// A variable's address in its own space, or a function's.
    pub(super) fn symbol_address(&mut self, symbol: Symbol) -> Result<Value, PtxError> {
        match symbol {
            // What stands for such a variable everywhere is the handle in it.
            Symbol::Variable(index) if self.layout.module.is_opaque(index) => {
                let flags = self.constant;
                let table = self.context_field(types::I64, offset_of!(BlockContext, variables));
                let at = index as i32 * 8;
                let address = self.b.ins().load(types::I64, flags, table, at);
                Ok(self.b.ins().load(types::I64, flags, address, 0))
            }
            Symbol::Variable(index) => Ok(
                match self.layout.shared_offset(self.index, index as usize) {
                    Some(offset) => self.imm(types::I64, i64::from(offset)),
                    None => {
                        let flags = self.constant;
                        let table =
                            self.context_field(types::I64, offset_of!(BlockContext, variables));
                        self.hoist(Hoisted::Variable(index), |cursor| {
                            cursor
                                .ins()
                                .load(types::I64, flags, table, index as i32 * 8)
                        })
                    }
                },
            ),
            Symbol::Local(local) => {
                let offset = self.frame_layout.locals.get(local as usize).copied();
                let offset = offset.ok_or_else(|| self.invalid("an unknown variable"))?;
                let offset = self.imm(types::I64, i64::from(offset));
                if self.function.is_kernel {
                    return Ok(offset);
                }
                let base = self.b.ins().isub(self.frame, self.thread);
                Ok(self.b.ins().iadd(base, offset))
            }
            Symbol::Param(param) if !self.function.is_kernel => {
                let offset = self.frame_layout.params.get(param as usize).copied();
                let offset = offset.ok_or_else(|| self.invalid("an unknown parameter"))?;
                let base = self.b.ins().isub(self.frame, self.thread);
                let offset = self.imm(types::I64, i64::from(offset));
                Ok(self.b.ins().iadd(base, offset))
            }
            Symbol::Param(param) => {
                let offset = self
                    .frame_layout
                    .params
                    .get(param as usize)
                    .copied()
                    .unwrap_or(0);
                Ok(self.imm(types::I64, i64::from(offset)))
            }
            Symbol::Function(function) => {
                if self.layout.is_kernel(function as usize) {
                    return Err(self.invalid("a kernel's address cannot be taken here"));
                }
                Ok(self.imm(
                    types::I64,
                    super::layout::FUNCTION_ADDRESS + 16 * i64::from(function),
                ))
            }
            _ => Err(self.invalid("this name has no address")),
        }
    }

    /// A special register, in its own width.
    fn special(&mut self, name: &str) -> Result<Value, PtxError> {
        let axis = |suffix: &str| match suffix {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        let (root, component) = name.split_once('.').unwrap_or((name, ""));
        let vectors = [
            ("%ntid", offset_of!(BlockContext, ntid)),
            ("%ctaid", offset_of!(BlockContext, ctaid)),
            ("%nctaid", offset_of!(BlockContext, nctaid)),
        ];
        if let Some(axis) = axis(component) {
            if root == "%tid" {
                let offset = offset_of!(ThreadHeader, tid) + 2 * axis;
                let value = self.b.ins().load(
                    types::I16,
                    self.constant,
                    self.thread,
                    at::<ThreadHeader>(offset),
                );
                return Ok(self.b.ins().uextend(types::I32, value));
            }
            if let Some((_, offset)) = vectors.iter().find(|(name, _)| *name == root) {
                return Ok(self.context_field(types::I32, offset + 4 * axis));
            }
        }
        if let Some(value) = self.cluster_register(root, component) {
            return Ok(value);
        }
        let index = |lower: &mut Self| {
            let offset = offset_of!(ThreadHeader, index);
            let value = lower.b.ins().load(
                types::I16,
                lower.constant,
                lower.thread,
                at::<ThreadHeader>(offset),
            );
            lower.b.ins().uextend(types::I32, value)
        };
        let lane = |lower: &mut Self| {
            let index = index(lower);
            let mask = lower.imm(types::I32, 31);
            lower.b.ins().band(index, mask)
        };
        let lane_bit = |lower: &mut Self| {
            let lane = lane(lower);
            let one = lower.imm(types::I32, 1);
            lower.b.ins().ishl(one, lane)
        };
        Ok(match name {
            "%laneid" => lane(self),
            "%warpid" => {
                let index = index(self);
                let five = self.imm(types::I32, 5);
                self.b.ins().ushr(index, five)
            }
            "%nwarpid" => self.imm(types::I32, 32),
            "%lanemask_eq" => lane_bit(self),
            "%lanemask_lt" | "%lanemask_ge" => {
                let bit = lane_bit(self);
                let one = self.imm(types::I32, 1);
                let below = self.b.ins().isub(bit, one);
                if name == "%lanemask_lt" {
                    below
                } else {
                    self.b.ins().bnot(below)
                }
            }
            "%lanemask_le" | "%lanemask_gt" => {
                let bit = lane_bit(self);
                let one = self.imm(types::I32, 1);
                let below = self.b.ins().isub(bit, one);
                let to = self.b.ins().bor(bit, below);
                if name == "%lanemask_le" {
                    to
                } else {
                    self.b.ins().bnot(to)
                }
            }
            "%smid" => self.context_field(types::I32, offset_of!(BlockContext, worker)),
            "%nsmid" => self.imm(types::I32, i64::from(crate::exec::workers())),
            "%gridid" => self.context_field(types::I64, offset_of!(BlockContext, grid_id)),
            "%dynamic_smem_size" => {
                self.context_field(types::I32, offset_of!(BlockContext, dynamic_shared))
            }
            "%total_smem_size" | "%aggr_smem_size" => {
                let bytes = self.context_field(types::I64, offset_of!(BlockContext, shared_bytes));
                self.b.ins().ireduce(types::I32, bytes)
            }
            "%clock" | "%clock_hi" | "%clock64" => {
                let clock = self.helper(Helper::Clock, &[self.context], types::I64);
                match name {
                    "%clock64" => clock,
                    "%clock" => self.b.ins().ireduce(types::I32, clock),
                    _ => {
                        let high = self.imm(types::I64, 32);
                        let clock = self.b.ins().ushr(clock, high);
                        self.b.ins().ireduce(types::I32, clock)
                    }
                }
            }
            "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi" => {
                let time = self.helper(Helper::Time, &[self.context], types::I64);
                match name {
                    "%globaltimer" => time,
                    "%globaltimer_lo" => self.b.ins().ireduce(types::I32, time),
                    _ => {
                        let high = self.imm(types::I64, 32);
                        let time = self.b.ins().ushr(time, high);
                        self.b.ins().ireduce(types::I32, time)
                    }
                }
            }
            // Where cooperative groups find the grid's workspace: high and low half of its address.
            "%envreg1" | "%envreg2" => {
                let field = offset_of!(BlockContext, workspace);
                let address = self.context_field(types::I64, field);
                let shift = self.imm(types::I64, if name == "%envreg1" { 32 } else { 0 });
                let half = self.b.ins().ushr(address, shift);
                self.b.ins().ireduce(types::I32, half)
            }
            "%current_graph_exec" => self.imm(types::I64, 0),
            _ if is_zero_register(name) => self.imm(types::I32, 0),
            _ => {
                let line = self
                    .body
                    .code
                    .get(self.at)
                    .map_or(self.function.line, |instruction| instruction.line);
                return Err(PtxError::unsupported(
                    line,
                    format!("{name} is no register that softcuda knows"),
                ));
            }
        })
    }

    /// Registers of clusters: every block is one of its own; and the fourth components, which are 0.
    fn cluster_register(&mut self, root: &str, component: &str) -> Option<Value> {
        let vectors = [
            "%clusterid",
            "%nclusterid",
            "%cluster_ctaid",
            "%cluster_nctaid",
        ];
        let grid = |name| match name {
            "%clusterid" => Some(offset_of!(BlockContext, ctaid)),
            "%nclusterid" => Some(offset_of!(BlockContext, nctaid)),
            _ => None,
        };
        let axis = ["x", "y", "z", "w"]
            .iter()
            .position(|axis| *axis == component);
        let value = match (root, axis) {
            ("%cluster_ctarank", None) if component.is_empty() => self.imm(types::I32, 0),
            ("%cluster_nctarank", None) if component.is_empty() => self.imm(types::I32, 1),
            ("%is_explicit_cluster", None) if component.is_empty() => self.imm(types::I8, 0),
            ("%tid" | "%ntid" | "%ctaid" | "%nctaid", Some(3)) => self.imm(types::I32, 0),
            (name, Some(axis)) if vectors.contains(&name) => match grid(name) {
                _ if axis == 3 => self.imm(types::I32, 0),
                Some(offset) => self.context_field(types::I32, offset + 4 * axis),
                None => self.imm(types::I32, i64::from(name == "%cluster_nctaid")),
            },
            _ => return None,
        };
        Some(value)
    }

    /// The base of an address operand in its space, and the constant offset from it.
    pub(super) fn base(&mut self, base: Base) -> Result<Value, PtxError> {
        match base {
            Base::None => Ok(self.imm(types::I64, 0)),
            Base::Reg(reg) => {
                let ty = self.register_type(reg);
                let value = self.register(reg);
                match clif(ty) {
                    types::I64 => Ok(value),
                    types::I32 => Ok(self.b.ins().uextend(types::I64, value)),
                    _ => Err(self.invalid("an address is 32 or 64 bits wide")),
                }
            }
            Base::Symbol(symbol) => self.symbol_address(symbol),
        }
    }
}
