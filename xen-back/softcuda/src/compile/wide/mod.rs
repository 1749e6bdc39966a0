//! Code that runs a gang of neighbouring threads at once, on the host's vectors. A gang is one as long as
//! its threads agree on every branch; where they do not, each goes on alone in the kernel's code for
//! single threads, made with the same frames, until all are at one place again. Results are those of the
//! code for single threads, bit for bit; whatever could fault is left to that code, or done as it does it.

mod memory;
mod plan;
mod vector;

use std::collections::{BTreeMap, HashMap};
use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    Block, BlockArg, BlockCall, InstBuilder, JumpTableData, Type as Clif, Value, types,
};
use cranelift_frontend::Variable;

pub(super) use plan::{Class, Mode, Plan};

use super::analysis::{self, End};
use super::form::Form;
use super::lower::{Lower, at, clif, int_of};
use crate::exec::context::{
    BlockContext, DONE, ENDED, FAULT, GANG, MEETING, RawFault, ThreadHeader, WAITING,
};
use crate::ptx::PtxError;
use crate::ptx::ast::{Guard, Instruction, Reg, Type};

/// Threads of a gang.
pub(crate) const LANES: usize = 8;
/// Vectors that hold one 32-bit value of each.
const PARTS: usize = LANES / 4;
/// The widest frame whose kernel is run in gangs.
pub(super) const MAX_FRAME: u32 = 1 << 16;

/// Registers saved and brought back at all points of a kernel together, each once per thread of a gang:
/// more would take longer to compile than gangs can gain.
pub(super) const MAX_MOVES: usize = 8000;

/// What translating for gangs needs beside the rest.
pub(super) struct Gang {
    plan: Plan,
    /// Per register that varies, its vectors or its threads' values.
    varying: Vec<Option<Vec<Variable>>>,
    /// The first thread's frame.
    first: Value,
    /// Bytes from one frame to the next.
    stride: i32,
    /// Where each thread's faults go.
    faults: [Block; LANES],
    /// The groups' hosts of the threads not being translated.
    hosts: [HashMap<usize, Value>; LANES],
    /// What an instruction has written so far for each thread.
    pending: BTreeMap<Reg, [Option<Value>; LANES]>,
    /// Where a thread's guarded results go.
    guarded: Option<HashMap<Reg, Variable>>,
    /// Per instruction at which the gang may part, where it does.
    parts: BTreeMap<usize, Block>,
    /// What the kernel's instructions cost a gang, and its threads one by one; both roughly.
    cost: u64,
    single_cost: u64,
}

impl Gang {
    pub(super) fn new(plan: Plan, first: Value, stride: u32) -> Self {
        Self {
            varying: vec![None; plan.classes.len()],
            plan,
            first,
            stride: stride as i32,
            faults: [Block::from_u32(0); LANES],
            hosts: std::array::from_fn(|_| HashMap::new()),
            pending: BTreeMap::new(),
            guarded: None,
            parts: BTreeMap::new(),
            cost: 0,
            single_cost: 0,
        }
    }

    /// Whether gangs are worth the trouble: where nearly all is done thread by thread, moving values in
    /// and out of vectors is what they add.
    pub(super) fn pays(&self) -> bool {
        self.cost * 10 <= self.single_cost * 8
    }
}

/// A vector of one value per four threads, for a register's type.
fn vector_of(ty: Clif) -> Clif {
    match ty {
        types::F32 => types::F32X4,
        _ => types::I32X4,
    }
}

impl<'l, 'a, 'b> Lower<'l, 'a, 'b> {
    fn gang(&mut self) -> &mut Gang {
        // Only called where gangs are translated; the other case would be a mistake of this module's,
        // which `compile` turns into an error.
        match &mut self.wide {
            Some(gang) => gang,
            None => unreachable!("no gang is being translated"),
        }
    }

    fn class(&self, reg: Reg) -> Class {
        let gang = self.wide.as_ref();
        gang.and_then(|gang| gang.plan.classes.get(reg.0 as usize).copied())
            .unwrap_or(Class::Stride(0))
    }

    fn guard_varies(&self, guard: Option<Guard>) -> bool {
        guard.is_some_and(|guard| self.class(guard.reg) == Class::Varying)
    }

    /// From here on the scalar translation is of this thread of the gang.
    fn set_lane(&mut self, lane: usize) {
        let old = self.lane;
        let gang = self.gang();
        let (first, offset) = (gang.first, i64::from(gang.stride) * lane as i64);
        let fault = gang.faults[lane];
        if lane != old {
            let hosts = std::mem::take(&mut gang.hosts[lane]);
            let kept = std::mem::replace(&mut self.group_hosts, hosts);
            self.gang().hosts[old] = kept;
        }
        self.lane = lane;
        self.fault = fault;
        self.thread = if lane == 0 {
            first
        } else {
            let offset = self.imm(types::I64, offset);
            self.b.ins().iadd(first, offset)
        };
        self.frame = self.thread;
    }

    fn frame_offset(&mut self, lane: usize, offset: u32) -> i32 {
        self.gang().stride * lane as i32 + offset as i32
    }

    /// The variables of a register that varies.
    fn varying(&mut self, reg: Reg) -> Vec<Variable> {
        if let Some(known) = &self.gang().varying[reg.0 as usize] {
            return known.clone();
        }
        let ty = self.register_type(reg);
        let (count, of) = match ty.bits() {
            1 => (PARTS, types::I32X4),
            32 => (PARTS, vector_of(clif(ty))),
            _ => (LANES, clif(ty)),
        };
        let made: Vec<Variable> = (0..count).map(|_| self.b.declare_var(of)).collect();
        self.gang().varying[reg.0 as usize] = Some(made.clone());
        made
    }

    /// One thread's value of a register.
    pub(super) fn lane_register(&mut self, reg: Reg) -> Value {
        let lane = self.lane;
        match self.class(reg) {
            Class::Varying => {
                let variables = self.varying(reg);
                let ty = self.register_type(reg);
                match ty.bits() {
                    1 => {
                        let vector = self.b.use_var(variables[lane / 4]);
                        let mask = self.b.ins().extractlane(vector, (lane % 4) as u8);
                        let mask = self.b.ins().ireduce(types::I8, mask);
                        let one = self.imm(types::I8, 1);
                        self.b.ins().band(mask, one)
                    }
                    32 => {
                        let vector = self.b.use_var(variables[lane / 4]);
                        self.b.ins().extractlane(vector, (lane % 4) as u8)
                    }
                    _ => self.b.use_var(variables[lane]),
                }
            }
            Class::Stride(stride) if stride != 0 => {
                let variable = self.variable(reg);
                let value = self.b.use_var(variable);
                self.step(value, stride, lane)
            }
            _ => {
                let variable = self.variable(reg);
                self.b.use_var(variable)
            }
        }
    }

    /// A value plus a number of strides.
    fn step(&mut self, value: Value, stride: i64, lane: usize) -> Value {
        if lane == 0 || stride == 0 {
            return value;
        }
        let ty = self.b.func.dfg.value_type(value);
        let by = self.imm(ty, stride.wrapping_mul(lane as i64));
        self.b.ins().iadd(value, by)
    }

    /// Gives a register the current thread's value.
    pub(super) fn lane_define(&mut self, reg: Reg, value: Value) {
        if self.class(reg) == Class::Varying {
            let lane = self.lane;
            let guarded = self.gang().guarded.as_ref();
            match guarded.and_then(|guarded| guarded.get(&reg).copied()) {
                Some(variable) => self.b.def_var(variable, value),
                None => {
                    let pending = self.gang().pending.entry(reg);
                    pending.or_insert([None; LANES])[lane] = Some(value);
                }
            }
            return;
        }
        let variable = self.variable(reg);
        self.b.def_var(variable, value);
        self.keep_written(reg);
    }

    /// Gives a register that varies its vectors or values.
    fn define_varying(&mut self, reg: Reg, values: &[Value]) {
        for (variable, &value) in self.varying(reg).into_iter().zip(values) {
            self.b.def_var(variable, value);
        }
        self.keep_written(reg);
    }

    /// Zero in a register of every thread.
    pub(super) fn zero_register(&mut self, reg: Reg) {
        let ty = self.register_type(reg);
        let zero = self.zero(clif(ty));
        if self.class(reg) == Class::Varying {
            let values = self.gather(ty, &[zero; LANES]);
            self.define_varying(reg, &values);
        } else {
            self.lane_define(reg, zero);
        }
    }

    fn keep_written(&mut self, reg: Reg) {
        if self.is_saved_where_written(reg) {
            self.save_lanes(reg);
        }
    }

    /// Threads' values as the register keeps them.
    fn gather(&mut self, ty: Type, values: &[Value; LANES]) -> Vec<Value> {
        match ty.bits() {
            1 => {
                let masks = values.map(|value| {
                    let wide = self.b.ins().uextend(types::I32, value);
                    self.b.ins().ineg(wide)
                });
                self.vectors(types::I32X4, &masks)
            }
            32 => self.vectors(vector_of(clif(ty)), values),
            _ => values.to_vec(),
        }
    }

    fn vectors(&mut self, ty: Clif, values: &[Value; LANES]) -> Vec<Value> {
        let mut vectors = Vec::new();
        for part in values.chunks_exact(4) {
            let mut vector = self.b.ins().scalar_to_vector(ty, part[0]);
            for (lane, &value) in part.iter().enumerate().skip(1) {
                vector = self.b.ins().insertlane(vector, value, lane as u8);
            }
            vectors.push(vector);
        }
        vectors
    }

    /// Writes to the registers what has been found for each thread.
    fn commit(&mut self) {
        for (reg, values) in std::mem::take(&mut self.gang().pending) {
            let mut all = [None; LANES];
            for (lane, value) in values.into_iter().enumerate() {
                // A thread that wrote nothing keeps what it has.
                all[lane] = Some(match value {
                    Some(value) => value,
                    None => {
                        self.lane = lane;
                        self.lane_register(reg)
                    }
                });
            }
            self.lane = 0;
            let Some(first) = all[0] else { continue };
            let values = all.map(|value| value.unwrap_or(first));
            let ty = self.register_type(reg);
            let values = self.gather(ty, &values);
            self.define_varying(reg, &values);
        }
    }

    /// Translates for each thread in turn.
    fn each_lane(
        &mut self,
        guard: Option<Guard>,
        written: &[Reg],
        mut body: impl FnMut(&mut Self) -> Result<(), PtxError>,
    ) -> Result<(), PtxError> {
        for lane in 0..LANES {
            self.set_lane(lane);
            let Some(guard) = guard else {
                body(self)?;
                continue;
            };
            let mut results = HashMap::new();
            for &reg in written {
                if self.class(reg) == Class::Varying {
                    let ty = clif(self.register_type(reg));
                    let variable = self.b.declare_var(ty);
                    let old = self.lane_register(reg);
                    self.b.def_var(variable, old);
                    results.insert(reg, variable);
                }
            }
            self.gang().guarded = Some(results);
            self.guarded(Some(guard), &mut body)?;
            let results = self.gang().guarded.take().unwrap_or_default();
            for (reg, variable) in results {
                let value = self.b.use_var(variable);
                self.lane_define(reg, value);
            }
        }
        self.set_lane(0);
        self.commit();
        Ok(())
    }

    /// One instruction that does not end its block.
    pub(super) fn gang_plain(&mut self, instruction: &'l Instruction<'a>) -> Result<(), PtxError> {
        let here = self.at;
        let mode = self.gang().plan.modes[here];
        if mode == Mode::Part {
            self.part();
            return Ok(());
        }
        let varies = self.guard_varies(instruction.guard);
        let outer = if varies { None } else { instruction.guard };
        // The groups of accesses inside one guard do not reach out of it: they have none.
        self.guarded(outer, |lower| match mode {
            Mode::Once => {
                lower.count_cost(1);
                lower.unguarded(instruction)
            }
            Mode::Widened { signed } => {
                lower.count_cost(4);
                lower.check_widened(instruction, signed);
                lower.unguarded(instruction)
            }
            Mode::Range(stride) => {
                lower.count_cost(4);
                lower.range_access(instruction, stride)
            }
            _ => {
                if lower.vector(instruction)? {
                    lower.count_cost(PARTS as u64);
                    return Ok(());
                }
                lower.count_cost(LANES as u64 + 2);
                let mut written = Vec::new();
                analysis::registers(instruction, |reg, is| {
                    if is {
                        written.push(reg);
                    }
                });
                let guard = if varies { instruction.guard } else { None };
                lower.each_lane(guard, &written, |lower| lower.unguarded(instruction))
            }
        })
    }

    /// Notes what the current instruction costs a gang.
    fn count_cost(&mut self, cost: u64) {
        const IN_LOOP: u64 = 16;
        let block = self.flow.block_of[self.at];
        let gang = self.gang();
        let often = match gang.plan.in_loops.get(block) {
            Some(true) => IN_LOOP,
            _ => 1,
        };
        gang.cost += cost * often;
        gang.single_cost += LANES as u64 * often;
    }

    /// Parts where a 32-bit operand with a stride wraps within the gang, so that its wider value has
    /// none.
    fn check_widened(&mut self, instruction: &Instruction<'_>, signed: bool) {
        let mut operands = Vec::new();
        analysis::registers(instruction, |reg, written| {
            if !written {
                operands.push(reg);
            }
        });
        for reg in operands {
            let Class::Stride(stride) = self.class(reg) else {
                continue;
            };
            if stride == 0 || self.register_type(reg).bits() != 32 {
                continue;
            }
            let value = self.register(reg);
            let last = self.step(value, stride, LANES - 1);
            let extend = |lower: &mut Self, value| {
                if signed {
                    lower.b.ins().sextend(types::I64, value)
                } else {
                    lower.b.ins().uextend(types::I64, value)
                }
            };
            let (wide, last) = (extend(self, value), extend(self, last));
            let expected = self.step(wide, stride, LANES - 1);
            let wraps = self.b.ins().icmp(IntCC::NotEqual, last, expected);
            let fine = self.b.create_block();
            let part = self.part_block();
            let args = self.no_fault();
            self.b.ins().brif(wraps, part, &args, fine, &[]);
            self.b.switch_to_block(fine);
        }
    }

    /// Where the gang parts before the current instruction. It takes a fault's arguments, and ignores
    /// them.
    fn part_block(&mut self) -> Block {
        let here = self.at;
        if let Some(&block) = self.gang().parts.get(&here) {
            return block;
        }
        let block = self.b.create_block();
        self.b.set_cold_block(block);
        self.b.append_block_param(block, types::I64);
        self.b.append_block_param(block, types::I32);
        self.gang().parts.insert(here, block);
        block
    }

    fn no_fault(&mut self) -> [BlockArg; 2] {
        let (address, site) = (self.imm(types::I64, 0), self.imm(types::I32, 0));
        [BlockArg::Value(address), BlockArg::Value(site)]
    }

    /// The gang parts here whatever its state.
    fn part(&mut self) {
        let (part, args) = (self.part_block(), self.no_fault());
        self.b.ins().jump(part, &args);
        let dead = self.b.create_block();
        self.b.switch_to_block(dead);
    }

    /// Goes one way where the guard holds for all threads, the other where it holds for none; else parts.
    fn agree(&mut self, guard: Guard, taken: Block, otherwise: Block) {
        let variables = self.varying(guard.reg);
        let masks: Vec<Value> = variables
            .into_iter()
            .map(|variable| self.b.use_var(variable))
            .collect();
        let (mut all, mut any) = (masks[0], masks[0]);
        for &mask in &masks[1..] {
            all = self.b.ins().band(all, mask);
            any = self.b.ins().bor(any, mask);
        }
        let (yes, no) = if guard.negated {
            (otherwise, taken)
        } else {
            (taken, otherwise)
        };
        let mixed = self.b.create_block();
        let any = self.b.ins().vany_true(any);
        self.b.ins().brif(any, mixed, &[], no, &[]);
        self.b.switch_to_block(mixed);
        let all = self.b.ins().vall_true(all);
        let (part, args) = (self.part_block(), self.no_fault());
        self.b.ins().brif(all, yes, &[], part, &args);
    }

    /// One instruction, whichever it is; `next` is the block after its own.
    pub(super) fn gang_instruction(
        &mut self,
        instruction: &'l Instruction<'a>,
        end: End,
        next: usize,
    ) -> Result<(), PtxError> {
        let here = self.at;
        let parts = self.gang().plan.modes[here] == Mode::Part;
        match (end, instruction.guard) {
            (End::No, _) => self.gang_plain(instruction),
            (End::Wait, _) if parts && instruction.opcode != "call" => {
                self.part();
                // Nothing comes here, but threads that waited one by one may go on together behind it.
                let kind = self.wait_operands(&Form::new(instruction))?;
                let next = self.block_of(next);
                self.b.ins().jump(next, &[]);
                self.gang_resume(instruction, kind, next)
            }
            _ if parts => {
                self.part();
                // The block's end in the text; nothing comes here.
                let next = self.block_of(next);
                self.b.ins().jump(next, &[]);
                Ok(())
            }
            (End::Branch | End::Leave, Some(guard)) if self.guard_varies(Some(guard)) => {
                let next = self.block_of(next);
                let taken = match end {
                    End::Branch => {
                        let form = Form::new(instruction);
                        form.take("uni");
                        form.finish()?;
                        let targets = analysis::branch_targets(self.body, instruction);
                        let &[target] = targets.as_slice() else {
                            return Err(form.invalid("a label is needed"));
                        };
                        if target <= here {
                            self.check_ending(instruction.line);
                        }
                        self.block_of(self.flow.block_of[target])
                    }
                    _ => self.leave_block(),
                };
                self.agree(guard, taken, next);
                Ok(())
            }
            (End::Branch, _) => self.branch(instruction, next),
            (End::Leave, _) => self.leave(instruction, next),
            (End::Wait, _) => self.gang_pause(instruction, next),
        }
    }

    // The frames of the gang's threads.

    fn save_lanes(&mut self, reg: Reg) {
        let Some(offset) = self.saved_at(reg) else {
            return;
        };
        let flags = self.private_flags();
        let kept = self.lane;
        for lane in 0..LANES {
            self.lane = lane;
            let value = self.lane_register(reg);
            let at = self.frame_offset(lane, offset);
            let first = self.gang().first;
            self.b.ins().store(flags, value, first, at);
        }
        self.lane = kept;
    }

    fn load_lane(&mut self, ty: Clif, lane: usize, offset: u32) -> Value {
        let (flags, at) = (self.private_flags(), self.frame_offset(lane, offset));
        let first = self.gang().first;
        self.b.ins().load(ty, flags, first, at)
    }

    pub(super) fn restore_lanes(&mut self, reg: Reg) {
        let Some(offset) = self.saved_at(reg) else {
            return;
        };
        let ty = self.register_type(reg);
        if self.class(reg) != Class::Varying {
            let value = self.load_lane(clif(ty), 0, offset);
            let variable = self.variable(reg);
            self.b.def_var(variable, value);
            return;
        }
        let values = std::array::from_fn(|lane| self.load_lane(clif(ty), lane, offset));
        let values = self.gather(ty, &values);
        for (variable, value) in self.varying(reg).into_iter().zip(values) {
            self.b.def_var(variable, value);
        }
    }

    /// A word that is zero where all threads' headers have this first word.
    fn differing(&mut self, word: Value) -> Value {
        let mut all = self.imm(types::I32, 0);
        for lane in 0..LANES {
            let other = self.load_lane(types::I32, lane, 0);
            let differs = self.b.ins().bxor(other, word);
            all = self.b.ins().bor(all, differs);
        }
        all
    }

    /// Goes to `fine` if the saved registers of all threads are as their classes say, else to `wrong`.
    fn check_classes(&mut self, live: &[Reg], fine: Block, wrong: Block) {
        let mut all = self.imm(types::I64, 0);
        for &reg in live {
            let (Class::Stride(stride), Some(offset)) = (self.class(reg), self.saved_at(reg))
            else {
                continue;
            };
            let ty = int_of(clif(self.register_type(reg)));
            if ty.bits() > 64 {
                self.b.ins().jump(wrong, &[]);
                return;
            }
            let first = self.load_lane(ty, 0, offset);
            for lane in 1..LANES {
                let own = self.load_lane(ty, lane, offset);
                let expected = self.step(first, stride, lane);
                let mut differs = self.b.ins().bxor(own, expected);
                if ty != types::I64 {
                    differs = self.b.ins().uextend(types::I64, differs);
                }
                all = self.b.ins().bor(all, differs);
            }
        }
        self.b.ins().brif(all, wrong, &[], fine, &[]);
    }

    // Waiting, parting and meeting.

    fn gang_pause(
        &mut self,
        instruction: &'l Instruction<'a>,
        next: usize,
    ) -> Result<(), PtxError> {
        let number = self.pause_number()?;
        let next = self.block_of(next);
        if let Some(guard) = instruction.guard {
            let inside = self.b.create_block();
            self.branch_on(guard, inside, next)?;
            self.b.switch_to_block(inside);
        }
        let mut kind = 0;
        for lane in 0..LANES {
            self.set_lane(lane);
            kind = self.wait_operands(&Form::new(instruction))?;
        }
        self.set_lane(0);
        for reg in self.pauses.pauses[number].save.clone() {
            self.save_lanes(reg);
        }
        let mut resume = (number as u32 + 1) | GANG;
        if !self.layout.simple_waits[self.index] {
            resume |= WAITING;
        }
        self.set_states(resume, kind);
        let stop = self.stop_block();
        self.b.ins().jump(stop, &[]);
        self.gang_resume(instruction, kind, next)
    }

    /// Where the gang goes on behind an instruction at which it waited.
    fn gang_resume(
        &mut self,
        instruction: &'l Instruction<'a>,
        kind: u32,
        next: Block,
    ) -> Result<(), PtxError> {
        let number = self.pause_number()?;
        let again = self.resume_block(number);
        self.b.switch_to_block(again);
        for reg in self.pauses.pauses[number].restore.clone() {
            self.restore_register(reg)?;
        }
        for lane in 0..LANES {
            self.set_lane(lane);
            self.wait_results(&Form::new(instruction), kind)?;
        }
        self.set_lane(0);
        self.commit();
        self.b.ins().jump(next, &[]);
        Ok(())
    }

    /// Both words of all threads' headers.
    fn set_states(&mut self, resume: u32, wait: u32) {
        let both = u64::from(wait) << 32 | u64::from(resume);
        let both = self.imm(types::I64, both.cast_signed());
        let flags = self.private_flags();
        for lane in 0..LANES {
            let (first, at) = (self.gang().first, self.frame_offset(lane, 0));
            self.b.ins().store(flags, both, first, at);
        }
    }

    /// Runs the code for single threads from one frame to another; returns where a thread faults.
    fn run_single(&mut self, from: Value, to: Value) {
        let entry = self.context_field(types::I64, offset_of!(BlockContext, single));
        let sig = self.b.func.signature.clone();
        let sig = self.b.import_signature(sig);
        let call = self
            .b
            .ins()
            .call_indirect(sig, entry, &[self.context, from, to]);
        let verdict = self.b.inst_results(call)[0];
        let (faulted, fine) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(faulted);
        let is_fault = self
            .b
            .ins()
            .icmp_imm_u(IntCC::Equal, verdict, i64::from(FAULT));
        self.b.ins().brif(is_fault, faulted, &[], fine, &[]);
        self.b.switch_to_block(faulted);
        self.b.ins().return_(&[verdict]);
        self.b.switch_to_block(fine);
    }

    fn gang_end(&mut self) -> Value {
        let gang = self.gang();
        let (first, bytes) = (gang.first, i64::from(gang.stride) * LANES as i64);
        let bytes = self.imm(types::I64, bytes);
        self.b.ins().iadd(first, bytes)
    }

    /// The loop over gangs, and where each goes on.
    pub(super) fn gang_prologue(&mut self, first: Value, end: Value) -> Result<Block, PtxError> {
        let (dispatch, start) = (self.b.create_block(), self.b.create_block());
        let gang = self.b.append_block_param(dispatch, types::I64);
        self.b.ins().jump(dispatch, &[BlockArg::Value(first)]);
        self.close_entry();
        let stride = self.layout.thread_bytes(self.index) as i32;
        let faults = std::array::from_fn(|_| {
            let block = self.b.create_block();
            self.b.set_cold_block(block);
            self.b.append_block_param(block, types::I64);
            self.b.append_block_param(block, types::I32);
            block
        });
        let state = self.gang();
        state.first = gang;
        state.stride = stride;
        state.faults = faults;
        self.b.switch_to_block(dispatch);
        self.set_lane(0);
        if self.pauses.pauses.is_empty() {
            self.b.ins().jump(start, &[]);
        } else {
            self.gang_dispatch(start);
        }
        self.gang_epilogues(dispatch, end);
        Ok(start)
    }

    fn table(&mut self, index: Value, default: Block, blocks: &[Block]) {
        let mut call = |block| BlockCall::new(block, [], &mut self.b.func.dfg.value_lists);
        let default = call(default);
        let table: Vec<BlockCall> = blocks.iter().map(|&block| call(block)).collect();
        let table = self
            .b
            .create_jump_table(JumpTableData::new(default, &table));
        self.b.ins().br_table(index, table);
    }

    fn gang_dispatch(&mut self, start: Block) {
        let [odd, apart, alike, single] = std::array::from_fn(|_| self.b.create_block());
        let waits = self.pauses.pauses.len();
        let state = self.load_lane(types::I32, 0, 0);
        if !self.layout.simple_waits[self.index] {
            // Some of the threads may have been let go, and others not.
            let differ = self.differing(state);
            let same = self.b.create_block();
            self.b.ins().brif(differ, single, &[], same, &[]);
            self.b.switch_to_block(same);
        }
        let bit = self.imm(types::I32, i64::from(GANG));
        let number = self.b.ins().bxor(state, bit);
        let resumes: Vec<Block> = (0..waits)
            .map(|number| {
                let instruction = &self.body.code[self.pauses.pauses[number].at];
                if instruction.opcode == "call" {
                    single
                } else {
                    self.resume_block(number)
                }
            })
            .collect();
        let mut table = vec![odd];
        table.extend(&resumes);
        self.table(number, odd, &table);

        self.b.switch_to_block(odd);
        self.b.ins().brif(state, apart, &[], start, &[]);
        self.b.switch_to_block(apart);
        let differ = self.differing(state);
        self.b.ins().brif(differ, single, &[], alike, &[]);

        // The threads have come here one by one, all to the same place.
        self.b.switch_to_block(alike);
        let waiting = self.b.create_block();
        let checks: Vec<Block> = (0..waits).map(|_| self.b.create_block()).collect();
        let mut table = vec![single];
        table.extend(&checks);
        self.table(state, waiting, &table);
        self.b.switch_to_block(waiting);
        let zero = self.imm(types::I32, 0);
        let still = self.b.ins().icmp(IntCC::SignedLessThan, state, zero);
        let stop = self.stop_block();
        self.b.ins().brif(still, stop, &[], single, &[]);
        for (number, check) in checks.into_iter().enumerate() {
            self.b.switch_to_block(check);
            let live = self.pauses.live[number].clone();
            self.check_classes(&live, resumes[number], single);
        }

        self.b.switch_to_block(single);
        for lane in 0..LANES {
            let state = self.load_lane(types::I32, lane, 0);
            let ended = self
                .b
                .ins()
                .icmp_imm_u(IntCC::Equal, state, i64::from(ENDED));
            let mask = self.imm(types::I32, i64::from(!GANG));
            let alone = self.b.ins().band(state, mask);
            let state = self.b.ins().select(ended, state, alone);
            let (flags, at) = (self.private_flags(), self.frame_offset(lane, 0));
            let first = self.gang().first;
            self.b.ins().store(flags, state, first, at);
        }
        let (first, end) = (self.gang().first, self.gang_end());
        self.run_single(first, end);
        self.b.ins().jump(stop, &[]);
    }

    fn gang_epilogues(&mut self, dispatch: Block, end: Value) {
        let finished = self.b.create_block();
        let (leave, exit, stop) = (self.leave_block(), self.exit_block(), self.stop_block());
        self.b.switch_to_block(leave);
        self.b.ins().jump(exit, &[]);
        self.b.switch_to_block(exit);
        if !self.pauses.pauses.is_empty() {
            self.set_states(ENDED, 0);
            self.count(offset_of!(BlockContext, live), -(LANES as i64));
        }
        self.b.ins().jump(stop, &[]);
        self.b.switch_to_block(stop);
        let next = self.gang_end();
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, end);
        self.b
            .ins()
            .brif(more, dispatch, &[BlockArg::Value(next)], finished, &[]);
        self.b.switch_to_block(finished);
        let done = self.imm(types::I32, i64::from(DONE));
        self.b.ins().return_(&[done]);
        for lane in 0..LANES {
            let block = self.gang().faults[lane];
            self.b.switch_to_block(block);
            self.set_lane(lane);
            let (address, site) = (self.b.block_params(block)[0], self.b.block_params(block)[1]);
            let thread = self.thread;
            let base = offset_of!(BlockContext, fault);
            for (value, field) in [
                (address, offset_of!(RawFault, address)),
                (site, offset_of!(RawFault, site)),
                (thread, offset_of!(RawFault, thread)),
            ] {
                let flags = self.private_flags();
                let context = self.context;
                self.b
                    .ins()
                    .store(flags, value, context, at::<BlockContext>(base + field));
            }
            let fault = self.imm(types::I32, i64::from(FAULT));
            self.b.ins().return_(&[fault]);
        }
        self.set_lane(0);
    }

    /// The code behind the places where gangs part and meet, after all other code.
    pub(super) fn gang_points(&mut self) -> Result<(), PtxError> {
        let waits = self.pauses.pauses.len();
        let index_of = |lower: &Self, at: usize| {
            let points = &lower.pauses.points;
            points.binary_search_by_key(&at, |point| point.at).ok()
        };
        let number = |index: usize| (waits + index) as u32 + 1;
        let (alone, stuck) = (self.b.create_block(), self.b.create_block());
        let stuck_at = self.b.append_block_param(stuck, types::I32);
        let mut meetings: BTreeMap<usize, Block> = BTreeMap::new();
        for (at, block) in self.gang().parts.clone() {
            let Some(index) = index_of(self, at) else {
                self.at = at;
                return Err(
                    self.invalid("a gang parts where it was not planned (an internal error)")
                );
            };
            self.b.switch_to_block(block);
            for reg in self.pauses.points[index].save.clone() {
                self.save_lanes(reg);
            }
            let meeting = self.gang().plan.meeting.get(&at).copied();
            match meeting.and_then(|meeting| index_of(self, meeting)) {
                Some(meeting) => {
                    self.set_states(number(index), MEETING | number(meeting));
                    let run = match meetings.get(&meeting) {
                        Some(&run) => run,
                        None => {
                            let run = self.b.create_block();
                            self.b.set_cold_block(run);
                            meetings.insert(meeting, run);
                            run
                        }
                    };
                    self.b.ins().jump(run, &[]);
                }
                None => {
                    self.set_states(number(index), 0);
                    self.b.ins().jump(alone, &[]);
                }
            }
        }
        let stop = self.stop_block();
        self.b.set_cold_block(alone);
        self.b.switch_to_block(alone);
        let (first, end) = (self.gang().first, self.gang_end());
        self.run_single(first, end);
        self.b.ins().jump(stop, &[]);
        for (meeting, run) in meetings {
            self.b.switch_to_block(run);
            let (first, end) = (self.gang().first, self.gang_end());
            self.run_single(first, end);
            let state = self.imm(types::I32, i64::from(number(meeting)));
            let differ = self.differing(state);
            let [alike, again, wrong] = std::array::from_fn(|_| self.b.create_block());
            let here = [BlockArg::Value(state)];
            self.b.ins().brif(differ, stuck, &here, alike, &[]);
            self.b.switch_to_block(alike);
            let live = self.pauses.live[waits + meeting].clone();
            self.check_classes(&live, again, wrong);
            self.b.switch_to_block(wrong);
            self.b.ins().jump(stuck, &here);
            self.b.switch_to_block(again);
            for reg in self.pauses.points[meeting].restore.clone() {
                self.restore_register(reg)?;
            }
            let to = self.flow.block_of[self.pauses.points[meeting].at];
            let to = self.block_of(to);
            self.b.ins().jump(to, &[]);
        }

        // Threads that wait for others that will not come go on alone.
        self.b.set_cold_block(stuck);
        self.b.switch_to_block(stuck);
        let [each, go, skip] = std::array::from_fn(|_| self.b.create_block());
        for block in [each, go, skip] {
            self.b.set_cold_block(block);
        }
        let thread = self.b.append_block_param(each, types::I64);
        let (first, end) = (self.gang().first, self.gang_end());
        self.b.ins().jump(each, &[BlockArg::Value(first)]);
        self.b.switch_to_block(each);
        let flags = self.private_flags();
        let state = self.b.ins().load(types::I32, flags, thread, 0);
        let waits = self.b.ins().icmp(IntCC::Equal, state, stuck_at);
        let bytes = i64::from(self.gang().stride);
        let bytes = self.imm(types::I64, bytes);
        let next = self.b.ins().iadd(thread, bytes);
        self.b.ins().brif(waits, go, &[], skip, &[]);
        self.b.switch_to_block(go);
        let zero = self.imm(types::I32, 0);
        let wait = at::<ThreadHeader>(offset_of!(ThreadHeader, wait));
        self.b.ins().store(flags, zero, thread, wait);
        self.run_single(thread, next);
        self.b.ins().jump(skip, &[]);
        self.b.switch_to_block(skip);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, end);
        self.b
            .ins()
            .brif(more, each, &[BlockArg::Value(next)], stop, &[]);
        Ok(())
    }

    /// In the code for single threads: a point of gangs, where the thread may have to stop.
    pub(super) fn single_point(&mut self, index: usize) {
        let point = &self.pauses.points[index];
        let here = self.point_block(index);
        if point.meets {
            let number = (self.pauses.pauses.len() + index) as u32 + 1;
            let (flags, wait) = (
                self.private_flags(),
                at::<ThreadHeader>(offset_of!(ThreadHeader, wait)),
            );
            let asked = self.b.ins().load(types::I32, flags, self.frame, wait);
            let meets = self
                .b
                .ins()
                .icmp_imm_u(IntCC::Equal, asked, i64::from(MEETING | number));
            let stops = self.b.create_block();
            self.b.set_cold_block(stops);
            self.b.ins().brif(meets, stops, &[], here, &[]);
            self.b.switch_to_block(stops);
            for &reg in &point.save {
                let value = self.register(reg);
                self.save_register(reg, value);
            }
            let state = self.imm(types::I64, i64::from(number));
            self.b.ins().store(flags, state, self.frame, 0);
            let stop = self.stop_block();
            self.b.ins().jump(stop, &[]);
        } else {
            self.b.ins().jump(here, &[]);
        }
        self.b.switch_to_block(here);
    }

    /// In the code for single threads: where a thread goes on at each point.
    pub(super) fn single_resumes(&mut self) -> Result<(), PtxError> {
        for index in 0..self.pauses.points.len() {
            let resume = self.resume_block(self.pauses.pauses.len() + index);
            self.b.switch_to_block(resume);
            for &reg in &self.pauses.points[index].restore {
                self.restore_register(reg)?;
            }
            let here = self.point_block(index);
            self.b.ins().jump(here, &[]);
        }
        Ok(())
    }
}
