//! What must be known of a function before code is made for it: its basic blocks, what each instruction
//! reads and writes, which registers outlive the points where a thread waits, and which of them need no
//! saving because they are computed anew. Pure functions of the syntax tree.

use std::ops::Range;

use crate::ptx::ast::{Base, Body, Instruction, Operand, Reg, Space, Symbol, Type};

/// How an instruction ends its basic block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It does not.
    No,
    /// It goes elsewhere: `bra`, `brx`.
    Branch,
    /// The thread or function ends: `ret`, `exit`, `trap`.
    Leave,
    /// The thread may wait here.
    Wait,
}

/// Whether the instruction is a barrier or warp instruction at which a thread waits for others.
pub(super) fn waits(instruction: &Instruction<'_>) -> bool {
    match instruction.opcode {
        "bar" | "barrier" => !instruction.modifiers.contains(&"arrive"),
        "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" => true,
        _ => is_matrix(instruction),
    }
}

/// Whether the instruction computes with the words of a whole warp.
pub(super) fn is_matrix(instruction: &Instruction<'_>) -> bool {
    match instruction.opcode {
        "mma" | "ldmatrix" | "stmatrix" | "movmatrix" => true,
        "wmma" => instruction.modifiers.contains(&"mma"),
        _ => false,
    }
}

pub(super) fn end(instruction: &Instruction<'_>, call_waits: bool) -> End {
    match instruction.opcode {
        "bra" | "brx" => End::Branch,
        "ret" | "exit" | "trap" => End::Leave,
        "call" if call_waits => End::Wait,
        _ if waits(instruction) => End::Wait,
        _ => End::No,
    }
}

/// Whether the first operand is a destination.
pub(super) fn writes_first(instruction: &Instruction<'_>) -> bool {
    has_destination(instruction)
}

fn has_destination(instruction: &Instruction<'_>) -> bool {
    match instruction.opcode {
        "st" | "red" | "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "membar" | "fence"
        | "prefetch" | "prefetchu" | "discard" | "applypriority" | "nanosleep" | "pmevent"
        | "sust" | "sured" | "cp" | "stmatrix" | "setmaxnreg" | "griddepcontrol"
        | "stackrestore" => false,
        "wmma" => !instruction.modifiers.contains(&"store"),
        "bar" | "barrier" => instruction.modifiers.contains(&"red"),
        "call" => matches!(
            (instruction.operands.first(), instruction.operands.get(1)),
            (Some(Operand::List(_)), Some(_))
        ),
        _ => true,
    }
}

/// Calls `visit(register, is it written)` for every register of the instruction, reads first.
pub(super) fn registers(instruction: &Instruction<'_>, mut visit: impl FnMut(Reg, bool)) {
    fn walk(operand: &Operand, written: bool, visit: &mut dyn FnMut(Reg, bool)) {
        match operand {
            Operand::Reg(reg) | Operand::Part { reg, .. } => visit(*reg, written),
            Operand::Not(reg) | Operand::Address(Base::Reg(reg), _) => visit(*reg, false),
            Operand::Pair(first, second) => {
                for reg in [first, second].into_iter().flatten() {
                    visit(*reg, written);
                }
            }
            Operand::Vector(parts) | Operand::List(parts) => {
                for part in parts {
                    walk(part, written, visit);
                }
            }
            Operand::Indexed(parts) => {
                for part in parts {
                    walk(part, false, visit);
                }
            }
            _ => {}
        }
    }
    let destinations = usize::from(has_destination(instruction));
    if let Some(guard) = instruction.guard {
        visit(guard.reg, false);
    }
    for operand in instruction.operands.iter().skip(destinations) {
        walk(operand, false, &mut visit);
    }
    for operand in instruction.operands.iter().take(destinations) {
        // A guarded write may leave the old value: it reads it.
        if instruction.guard.is_some() {
            walk(operand, false, &mut visit);
        }
        walk(operand, true, &mut visit);
    }
}

/// The basic blocks of a body. The block after the last stands for the body's end.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Instructions of each block.
    pub blocks: Vec<Range<usize>>,
    /// Per instruction, and for the end, the block it stands in.
    pub block_of: Vec<usize>,
    /// Blocks that may follow each block.
    pub successors: Vec<Vec<usize>>,
}

impl Flow {
    /// `yields` are instructions that begin a block whatever stands before them.
    pub(super) fn new(
        body: &Body<'_>,
        call_waits: impl Fn(&Instruction<'_>) -> bool,
        yields: &[usize],
    ) -> Self {
        let length = body.code.len();
        let mut leads = vec![false; length + 1];
        for &at in yields {
            leads[at] = true;
        }
        for &target in &body.targets {
            if let Some(lead) = leads.get_mut(target as usize) {
                *lead = true;
            }
        }
        let ends: Vec<End> = body
            .code
            .iter()
            .map(|instruction| end(instruction, call_waits(instruction)))
            .collect();
        for (index, end) in ends.iter().enumerate() {
            if *end != End::No {
                leads[index + 1] = true;
            }
        }
        let mut flow = Self::default();
        let mut start = 0;
        for index in 0..length {
            flow.block_of.push(flow.blocks.len());
            if leads[index + 1] || index + 1 == length {
                flow.blocks.push(start..index + 1);
                start = index + 1;
            }
        }
        flow.block_of.push(flow.blocks.len());
        for block in &flow.blocks {
            let last = block.end - 1;
            let (instruction, next) = (&body.code[last], flow.block_of[block.end]);
            let mut successors = Vec::new();
            match ends[last] {
                End::No | End::Wait => successors.push(next),
                End::Leave if instruction.guard.is_none() => {}
                End::Leave => successors.push(next),
                End::Branch => {
                    let targets = branch_targets(body, instruction);
                    successors.extend(targets.into_iter().map(|target| flow.block_of[target]));
                    if instruction.guard.is_some() {
                        successors.push(next);
                    }
                }
            }
            flow.successors.push(successors);
        }
        flow
    }
}

/// Whether the instruction may see what other threads or the host did meanwhile: a loop of such
/// instructions may be waiting for them.
pub(super) fn observes(instruction: &Instruction<'_>, is_read: impl Fn(Reg) -> bool) -> bool {
    match instruction.opcode {
        "ld" => instruction
            .modifiers
            .iter()
            .any(|word| matches!(*word, "volatile" | "relaxed" | "acquire" | "mmio")),
        "atom" => matches!(instruction.operands.first(), Some(Operand::Reg(to)) if is_read(*to)),
        "mbarrier" => instruction
            .modifiers
            .iter()
            .any(|word| matches!(*word, "test_wait" | "try_wait")),
        // A plain load after a fence sees new values as well.
        "membar" | "fence" | "nanosleep" => true,
        _ => false,
    }
}

/// Registers that some instruction reads.
pub(super) fn read_registers(body: &Body<'_>) -> Registers {
    let mut read = Registers::new(body.registers.len());
    for instruction in &body.code {
        registers(instruction, |reg, written| {
            if !written {
                read.insert(reg);
            }
        });
    }
    read
}

impl Flow {
    /// Per block, whether the code can come back to it: Tarjan's strongly connected components,
    /// without recursion, since texts are hostile.
    pub(super) fn in_loops(&self) -> Vec<bool> {
        const UNSEEN: usize = usize::MAX;
        let count = self.blocks.len();
        let mut order = vec![UNSEEN; count];
        let mut lowest = vec![UNSEEN; count];
        let mut open = vec![false; count];
        let mut result = vec![false; count];
        let (mut component, mut path, mut seen) = (Vec::new(), Vec::new(), 0);
        for root in 0..count {
            if order[root] != UNSEEN {
                continue;
            }
            path.push((root, 0));
            while let Some(&mut (block, ref mut next)) = path.last_mut() {
                if *next == 0 {
                    (order[block], lowest[block], open[block]) = (seen, seen, true);
                    seen += 1;
                    component.push(block);
                }
                let successor = self.successors[block].get(*next).copied();
                *next += 1;
                match successor {
                    Some(to) if to >= count => {}
                    Some(to) if order[to] == UNSEEN => path.push((to, 0)),
                    Some(to) => {
                        if open[to] {
                            lowest[block] = lowest[block].min(order[to]);
                        }
                        result[block] |= to == block;
                    }
                    None => {
                        path.pop();
                        if let Some(&(parent, _)) = path.last() {
                            lowest[parent] = lowest[parent].min(lowest[block]);
                        }
                        if lowest[block] == order[block] {
                            let mut alone = true;
                            while let Some(member) = component.pop() {
                                open[member] = false;
                                if member == block {
                                    result[block] |= !alone;
                                    break;
                                }
                                (result[member], alone) = (true, false);
                            }
                        }
                    }
                }
            }
        }
        result
    }
}

/// The instructions that a branch may lead to.
pub(super) fn branch_targets(body: &Body<'_>, instruction: &Instruction<'_>) -> Vec<usize> {
    let target = |operand: &Operand| match operand {
        Operand::Label(mention) => body
            .targets
            .get(*mention as usize)
            .map(|&target| target as usize),
        _ => None,
    };
    let mut targets: Vec<usize> = instruction.operands.iter().filter_map(target).collect();
    for operand in &instruction.operands {
        if let Operand::Symbol(Symbol::Table(table), _) = operand {
            targets.extend(
                body.tables
                    .get(*table as usize)
                    .into_iter()
                    .flatten()
                    .filter_map(target),
            );
        }
    }
    targets
}

/// A set of registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registers(Vec<u64>);

impl Registers {
    pub(super) fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    pub(super) fn contains(&self, reg: Reg) -> bool {
        self.0
            .get(reg.0 as usize / 64)
            .is_some_and(|word| word >> (reg.0 % 64) & 1 == 1)
    }

    pub(super) fn insert(&mut self, reg: Reg) {
        if let Some(word) = self.0.get_mut(reg.0 as usize / 64) {
            *word |= 1 << (reg.0 % 64);
        }
    }

    fn remove(&mut self, reg: Reg) {
        if let Some(word) = self.0.get_mut(reg.0 as usize / 64) {
            *word &= !(1 << (reg.0 % 64));
        }
    }

    /// Adds the others; whether that changed anything.
    fn merge(&mut self, others: &Self) -> bool {
        let mut changed = false;
        for (word, other) in self.0.iter_mut().zip(&others.0) {
            changed |= *word | other != *word;
            *word |= other;
        }
        changed
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Reg> {
        self.0.iter().enumerate().flat_map(|(index, &word)| {
            (0..64_u32)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| Reg(index as u32 * 64 + bit))
        })
    }
}

/// How a register's value gets past a point where its thread waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// It does not: nothing needs it there.
    None,
    /// All threads of the block share it: it is computed once, before any of them runs.
    Shared,
    /// It is the thread's place in the block: this instruction reads it again.
    ReadAgain(usize),
    /// It is written once in the text, and saved there.
    SavedWhereWritten,
    /// It is saved where the thread waits.
    SavedWhereWaiting,
}

/// One point where a thread may wait.
#[derive(Debug)]
pub(super) struct Pause {
    /// The instruction.
    pub at: usize,
    /// What is saved before it.
    pub save: Vec<Reg>,
    /// What is brought back after it.
    pub restore: Vec<Reg>,
}

/// One point where a thread may make way for others: rarely, so that nothing is saved beforehand.
#[derive(Debug)]
pub(super) struct Yield {
    /// The instruction before which it does; it begins a block.
    pub at: usize,
    /// What is saved there and brought back.
    pub live: Vec<Reg>,
}

/// One point where a gang of threads may leave its common code, or come back to it: see `wide`.
#[derive(Debug)]
pub(super) struct Point {
    /// The instruction before which it lies; one beyond the last for the body's end.
    pub at: usize,
    /// Threads that left meet here.
    pub meets: bool,
    /// What is saved.
    pub save: Vec<Reg>,
    /// What is brought back.
    pub restore: Vec<Reg>,
}

/// Everything about waiting in one function.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    pub passage: Vec<Passage>,
    /// Instructions that compute the shared registers, in an order in which they can be carried out.
    pub shared: Vec<usize>,
    pub pauses: Vec<Pause>,
    /// Where a thread that may be waiting for others makes way for them now and then. They are numbered
    /// behind the pauses.
    pub yields: Vec<Yield>,
    /// Points of gangs, by their instruction; empty in the code for single threads.
    pub points: Vec<Point>,
    /// Per pause, then per point, the registers in the frame that are still needed some time later.
    pub live: Vec<Vec<Reg>>,
    /// Registers in the frame for the points' sake alone.
    pub only_points: Vec<bool>,
    /// Registers read before they are written on some path from the function's start.
    pub undefined: Vec<Reg>,
}

/// Solves `state[block] = transfer(block, merge of the neighbours)` for sets that only grow.
fn solve(
    flow: &Flow,
    registers: usize,
    backward: bool,
    transfer: impl Fn(usize, &mut Registers),
) -> Vec<Registers> {
    let count = flow.blocks.len();
    let mut result = vec![Registers::new(registers); count];
    let mut inputs: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (block, successors) in flow.successors.iter().enumerate() {
        for &successor in successors.iter().filter(|&&successor| successor < count) {
            if backward {
                inputs[block].push(successor)
            } else {
                inputs[successor].push(block)
            }
        }
    }
    loop {
        let mut changed = false;
        for step in 0..count {
            let block = if backward { count - 1 - step } else { step };
            let mut set = Registers::new(registers);
            for &input in &inputs[block] {
                set.merge(&result[input]);
            }
            transfer(block, &mut set);
            changed |= result[block].merge(&set);
        }
        if !changed {
            return result;
        }
    }
}

impl Pauses {
    /// `points_at`: gangs' points in order, and whether threads meet there.
    pub(super) fn new(
        body: &Body<'_>,
        flow: &Flow,
        is_kernel: bool,
        pauses_at: &[usize],
        yields_at: &[usize],
        points_at: &[(usize, bool)],
    ) -> Self {
        let count = body.registers.len();
        let back_over = |range: Range<usize>, set: &mut Registers| {
            for instruction in body.code[range].iter().rev() {
                registers(instruction, |reg, written| {
                    if written {
                        set.remove(reg);
                    }
                });
                registers(instruction, |reg, written| {
                    if !written {
                        set.insert(reg);
                    }
                });
            }
        };
        let live_in = solve(flow, count, true, |block, set| {
            back_over(flow.blocks[block].clone(), set)
        });
        let undefined = live_in
            .first()
            .map(|set| set.iter().collect())
            .unwrap_or_default();
        if pauses_at.is_empty() && points_at.is_empty() {
            let none = Registers::new(count);
            let (passage, shared) = passages(body, is_kernel, &none, &none);
            let yields = yields(flow, &live_in, yields_at, &passage);
            return Self {
                passage,
                shared,
                yields,
                undefined,
                ..Self::default()
            };
        }

        // A pause ends its block: what is live after it is what its successors need.
        let after = |at: usize| {
            let mut set = Registers::new(count);
            for &successor in &flow.successors[flow.block_of[at]] {
                if let Some(live) = live_in.get(successor) {
                    set.merge(live);
                }
            }
            set
        };
        let mut crossing = Registers::new(count);
        for &at in pauses_at {
            let mut set = after(at);
            // What the pause itself writes comes from its result, not from before it.
            registers(&body.code[at], |reg, written| {
                if written {
                    set.remove(reg);
                }
            });
            crossing.merge(&set);
        }
        // What is live before an instruction of a block, by what is live before all of its block.
        let at_start = |at: usize| flow.blocks.get(flow.block_of[at]).map(|block| block.start);
        let live_before = |at: usize| {
            let mut set = Registers::new(count);
            if let Some(block) = flow.blocks.get(flow.block_of[at]) {
                for &successor in &flow.successors[flow.block_of[at]] {
                    if let Some(live) = live_in.get(successor) {
                        set.merge(live);
                    }
                }
                back_over(at..block.end, &mut set);
            }
            set
        };
        let live_at_points: Vec<Registers> = points_at
            .iter()
            .map(|&(at, _)| match at_start(at) {
                Some(start) if start == at => live_in[flow.block_of[at]].clone(),
                _ => live_before(at),
            })
            .collect();
        let mut crossing_points = Registers::new(count);
        for live in &live_at_points {
            crossing_points.merge(live);
        }
        let (passage, shared) = passages(body, is_kernel, &crossing, &crossing_points);

        let yields = yields(flow, &live_in, yields_at, &passage);
        // Per block, what a yield point at its start saves.
        let mut kept: Vec<&[Reg]> = vec![&[]; flow.blocks.len()];
        for point in &yields {
            kept[flow.block_of[point.at]] = &point.live;
        }

        // Which of the registers saved where waiting may differ from their saved copy.
        let late = |reg: Reg| passage[reg.0 as usize] == Passage::SavedWhereWaiting;
        let is_pause = |index: usize| pauses_at.binary_search(&index).is_ok();
        let forward = |range: Range<usize>, set: &mut Registers, stop: Option<usize>| {
            for index in range {
                if stop == Some(index) {
                    return;
                }
                if is_pause(index) {
                    *set = Registers::new(count);
                }
                registers(&body.code[index], |reg, written| {
                    if written && late(reg) {
                        set.insert(reg);
                    }
                });
            }
        };
        let start = |block: usize, set: &mut Registers| {
            if block == 0 {
                // What the text leaves undefined, and a function's parameters in registers.
                for reg in &undefined {
                    set.insert(*reg);
                }
            }
        };
        let dirty_out = solve(flow, count, false, |block, set| {
            start(block, set);
            forward(flow.blocks[block].clone(), set, None);
        });
        let save_at = |at: usize, live: &Registers| -> Vec<Reg> {
            let block = flow.block_of[at];
            let mut dirty = Registers::new(count);
            for (input, successors) in flow.successors.iter().enumerate() {
                if successors.contains(&block) {
                    dirty.merge(&dirty_out[input]);
                }
            }
            start(block, &mut dirty);
            if let Some(range) = flow.blocks.get(block) {
                forward(range.clone(), &mut dirty, Some(at));
            }
            dirty
                .iter()
                .filter(|&reg| late(reg) && live.contains(reg))
                .collect()
        };
        let saves: Vec<Vec<Reg>> = pauses_at
            .iter()
            .map(|&at| save_at(at, &after(at)))
            .collect();

        // What is needed after a pause before the next: there, only what it reads and saves counts.
        let needed_from = |from: usize, set: &mut Registers| {
            let Some(range) = flow.blocks.get(flow.block_of[from]) else {
                return;
            };
            let range = from..range.end;
            let last = range.end - 1;
            if let Ok(pause) = pauses_at.binary_search(&last) {
                // A guarded pause may be stepped over: then what follows is needed as well.
                if body.code[last].guard.is_none() {
                    *set = Registers::new(count);
                }
                registers(&body.code[last], |reg, written| {
                    if written {
                        set.remove(reg);
                    }
                });
                for &reg in &saves[pause] {
                    set.insert(reg);
                }
                registers(&body.code[last], |reg, written| {
                    if !written {
                        set.insert(reg);
                    }
                });
                back_over(range.start..last, set);
            } else {
                back_over(range, set);
            }
            for &reg in kept[flow.block_of[from]] {
                if passage[reg.0 as usize] != Passage::SavedWhereWritten {
                    set.insert(reg);
                }
            }
        };
        let needed_in = solve(flow, count, true, |block, set| {
            needed_from(flow.blocks[block].start, set)
        });
        let in_frame = |set: &Registers| -> Vec<Reg> {
            let kept = |reg: &Reg| {
                matches!(
                    passage[reg.0 as usize],
                    Passage::SavedWhereWritten | Passage::SavedWhereWaiting
                )
            };
            set.iter().filter(kept).collect()
        };
        let live_after = pauses_at.iter().map(|&at| {
            let mut live = after(at);
            registers(&body.code[at], |reg, written| {
                if written && body.code[at].guard.is_none() {
                    live.remove(reg);
                }
            });
            in_frame(&live)
        });
        let live = live_after
            .chain(live_at_points.iter().map(in_frame))
            .collect();
        let points = points_at
            .iter()
            .zip(&live_at_points)
            .map(|(&(at, meets), live)| {
                let mut needed = Registers::new(count);
                for &successor in flow.successors.get(flow.block_of[at]).into_iter().flatten() {
                    if let Some(set) = needed_in.get(successor) {
                        needed.merge(set);
                    }
                }
                needed_from(at, &mut needed);
                Point {
                    at,
                    meets,
                    save: save_at(at, live),
                    restore: needed.iter().collect(),
                }
            })
            .collect();
        let only_points = (0..count as u32)
            .map(|reg| !crossing.contains(Reg(reg)))
            .collect();
        let pauses = pauses_at
            .iter()
            .zip(saves)
            .map(|(&at, save)| {
                let mut needed = Registers::new(count);
                for &successor in &flow.successors[flow.block_of[at]] {
                    if let Some(set) = needed_in.get(successor) {
                        needed.merge(set);
                    }
                }
                registers(&body.code[at], |reg, written| {
                    if written {
                        needed.remove(reg);
                    }
                });
                Pause {
                    at,
                    save,
                    restore: needed.iter().collect(),
                }
            })
            .collect();
        Self {
            passage,
            shared,
            pauses,
            yields,
            points,
            live,
            only_points,
            undefined,
        }
    }

    /// The instructions at which a thread stops, in the order of their numbers.
    pub(super) fn points(&self) -> impl Iterator<Item = usize> {
        let pauses = self.pauses.iter().map(|pause| pause.at);
        pauses.chain(self.yields.iter().map(|point| point.at))
    }

    /// Registers that yield points need a place for.
    pub(super) fn yield_registers(&self, count: usize) -> Registers {
        let mut all = Registers::new(count);
        for point in &self.yields {
            for &reg in &point.live {
                all.insert(reg);
            }
        }
        all
    }
}

/// The yield points with what is live at each and neither shared nor cheaper to compute again.
fn yields(
    flow: &Flow,
    live_in: &[Registers],
    yields_at: &[usize],
    passage: &[Passage],
) -> Vec<Yield> {
    let live = |at: usize| -> Vec<Reg> {
        let live = live_in.get(flow.block_of[at]);
        live.into_iter()
            .flat_map(Registers::iter)
            .filter(|reg| passage[reg.0 as usize] != Passage::Shared)
            .collect()
    };
    yields_at
        .iter()
        .map(|&at| Yield { at, live: live(at) })
        .collect()
}

/// How often the code is looked through for shared registers.
const SHARED_TURNS: usize = 4;

/// Decides for each register that crosses a pause, or a gang's point, how it does; and the instructions
/// that compute the shared ones, in order.
fn passages(
    body: &Body<'_>,
    is_kernel: bool,
    crossing: &Registers,
    crossing_points: &Registers,
) -> (Vec<Passage>, Vec<usize>) {
    let count = body.registers.len();
    let mut writes = vec![0_u32; count];
    let mut written_at = vec![0_usize; count];
    for (index, instruction) in body.code.iter().enumerate() {
        registers(instruction, |reg, written| {
            if written && let Some(count) = writes.get_mut(reg.0 as usize) {
                // A guarded write counts twice: the register has two values.
                *count = count.saturating_add(1 + u32::from(instruction.guard.is_some()));
                written_at[reg.0 as usize] = index;
            }
        });
    }
    // Registers whose one value follows from what all threads of the block share. Compilers write
    // before they read, so that one turn finds nearly all; a few more are all that is worth taking.
    let mut shared = vec![false; count];
    let mut order = Vec::new();
    for _ in 0..SHARED_TURNS {
        let before = order.len();
        for (index, instruction) in body.code.iter().enumerate() {
            if let Some(Operand::Reg(reg)) = instruction.operands.first()
                && !shared[reg.0 as usize]
                && writes[reg.0 as usize] == 1
                && written_at[reg.0 as usize] == index
                && is_uniform(instruction, is_kernel, &shared)
            {
                shared[reg.0 as usize] = true;
                order.push(index);
            }
        }
        if order.len() == before {
            break;
        }
    }
    let passage = (0..count).map(|index| {
        let once = writes[index] == 1;
        let at = written_at[index];
        if shared[index] {
            Passage::Shared
        } else if once && is_thread_place(&body.code[at]) {
            Passage::ReadAgain(at)
        } else if !crossing.contains(Reg(index as u32)) {
            if crossing_points.contains(Reg(index as u32)) {
                Passage::SavedWhereWaiting
            } else {
                Passage::None
            }
        } else if once {
            Passage::SavedWhereWritten
        } else {
            Passage::SavedWhereWaiting
        }
    });
    (passage.collect(), order)
}

/// `mov %r, %tid.x`: as cheap to read again as to restore.
fn is_thread_place(instruction: &Instruction<'_>) -> bool {
    matches!(
        (instruction.opcode, instruction.guard, instruction.operands.as_slice()),
        ("mov", None, [Operand::Reg(_), Operand::Special(name)]) if name.starts_with("%tid.")
    )
}

/// An instruction without effects whose operands all threads of the block share.
fn is_uniform(instruction: &Instruction<'_>, is_kernel: bool, shared: &[bool]) -> bool {
    if instruction.guard.is_some() {
        return false;
    }
    let parameter = instruction.opcode == "ld"
        && is_kernel
        && instruction.modifiers.first() == Some(&"param")
        && !instruction.modifiers.contains(&"volatile");
    let pure = matches!(
        instruction.opcode,
        "mov"
            | "cvta"
            | "cvt"
            | "add"
            | "sub"
            | "mul"
            | "mad"
            | "fma"
            | "div"
            | "rem"
            | "rcp"
            | "sqrt"
            | "abs"
            | "bfe"
            | "popc"
            | "clz"
            | "shl"
            | "shr"
            | "and"
            | "or"
            | "xor"
            | "not"
            | "neg"
            | "setp"
            | "selp"
            | "min"
            | "max"
    ) && !instruction.modifiers.contains(&"cc")
        && !instruction.modifiers.contains(&"f16");
    if !parameter && !pure {
        return false;
    }
    instruction
        .operands
        .iter()
        .skip(1)
        .all(|operand| match operand {
            Operand::Reg(reg) | Operand::Not(reg) => shared.get(reg.0 as usize) == Some(&true),
            Operand::Int(_) | Operand::Single(_) | Operand::Double(_) => true,
            Operand::Symbol(Symbol::Variable(_), _) => true,
            Operand::Address(Base::Symbol(Symbol::Param(_)), _) => parameter,
            Operand::Special(name) => {
                name.starts_with("%ctaid.")
                    || name.starts_with("%ntid.")
                    || name.starts_with("%nctaid.")
            }
            _ => false,
        })
}

/// One check for several accesses of a block: they have the same base register with the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    /// The access that is checked for all.
    pub leader: usize,
    /// Lowest offset.
    pub low: i64,
    /// Offset after the last byte.
    pub high: i64,
}

/// The widest range that one check may cover in device memory; see `MemoryView::GUARD`.
const GLOBAL_SPAN: i64 = 256;
/// The widest range that one check may cover elsewhere.
const LOCAL_SPAN: i64 = 1 << 16;

/// Per instruction, the group of accesses that it is in. No group reaches over one of the `points`,
/// where the code may be entered.
pub(super) fn groups(body: &Body<'_>, flow: &Flow, points: &[Point]) -> Vec<Option<Group>> {
    let mut result: Vec<Option<Group>> = vec![None; body.code.len()];
    let mut version = vec![0_u32; body.registers.len()];
    for block in &flow.blocks {
        let mut open: Vec<(AccessKey, Group)> = Vec::new();
        let mut members: Vec<(usize, AccessKey)> = Vec::new();
        for index in block.clone() {
            let instruction = &body.code[index];
            if points
                .binary_search_by_key(&index, |point| point.at)
                .is_ok()
            {
                settle(&mut result, &mut open, &mut members);
            }
            if let Some((key, offset)) = access(instruction, &version) {
                let bytes = i64::from(key.bytes);
                let span = if key.space == Space::Global {
                    GLOBAL_SPAN
                } else {
                    LOCAL_SPAN
                };
                let found = open.iter_mut().find(|(other, group)| {
                    *other == key
                        && (offset - group.low) % i64::from(key.bytes) == 0
                        && group.high.max(offset + bytes) - group.low.min(offset) <= span
                });
                match found {
                    Some((_, group)) => {
                        group.low = group.low.min(offset);
                        group.high = group.high.max(offset + bytes);
                        let leader = group.leader;
                        members.push((index, AccessKey { leader, ..key }));
                    }
                    None => {
                        // A full group of the same key no longer takes members.
                        open.push((
                            key,
                            Group {
                                leader: index,
                                low: offset,
                                high: offset + bytes,
                            },
                        ));
                        members.push((
                            index,
                            AccessKey {
                                leader: index,
                                ..key
                            },
                        ));
                    }
                }
            }
            // After these the rest of the block may not run.
            if matches!(instruction.opcode, "call" | "brkpt") {
                settle(&mut result, &mut open, &mut members);
            }
            registers(instruction, |reg, written| {
                if written && let Some(version) = version.get_mut(reg.0 as usize) {
                    *version += 1;
                }
            });
        }
        settle(&mut result, &mut open, &mut members);
    }
    result
}

fn settle(
    result: &mut [Option<Group>],
    open: &mut Vec<(AccessKey, Group)>,
    members: &mut Vec<(usize, AccessKey)>,
) {
    for (index, key) in members.drain(..) {
        result[index] = open
            .iter()
            .map(|(_, group)| *group)
            .find(|group| group.leader == key.leader);
    }
    open.clear();
}

/// What accesses of one group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AccessKey {
    space: Space,
    base: Reg,
    version: u32,
    bytes: u32,
    /// Set once the group is known.
    leader: usize,
}

/// The key and offset of a plain access through a register.
fn access(instruction: &Instruction<'_>, version: &[u32]) -> Option<(AccessKey, i64)> {
    if instruction.guard.is_some() || !matches!(instruction.opcode, "ld" | "st" | "atom" | "red") {
        return None;
    }
    let space = instruction.modifiers.iter().find_map(|word| match *word {
        "global" | "const" => Some(Space::Global),
        "shared" | "shared::cta" | "shared::cluster" => Some(Space::Shared),
        "local" => Some(Space::Local),
        _ => None,
    })?;
    let vector = instruction.modifiers.iter().find_map(|word| match *word {
        "v2" => Some(2),
        "v4" => Some(4),
        "v8" => Some(8),
        _ => None,
    });
    let ty = instruction
        .modifiers
        .last()
        .and_then(|word| Type::named(word))?;
    let (base, offset) = instruction
        .operands
        .iter()
        .find_map(|operand| match operand {
            Operand::Address(Base::Reg(base), offset) => Some((*base, *offset)),
            _ => None,
        })?;
    // Beyond this a group's arithmetic could overflow.
    if offset.unsigned_abs() > 1 << 30 {
        return None;
    }
    let version = *version.get(base.0 as usize)?;
    let bytes = ty.bytes() * vector.unwrap_or(1);
    Some((
        AccessKey {
            space,
            base,
            version,
            bytes,
            leader: usize::MAX,
        },
        offset,
    ))
}
