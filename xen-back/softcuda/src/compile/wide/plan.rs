//! What is decided of a kernel before its code for gangs is made: how each register differs between the
//! threads of a gang, how each instruction is carried out, and where a gang may have to part. Pure
//! functions of the syntax tree; an instruction that is not known here keeps its kernel out.

use std::collections::BTreeMap;

use super::LANES;
use crate::compile::analysis::{self, End, Flow, Pauses};
use crate::ptx::ast::{Base, Body, Guard, Instruction, Operand, Reg, Space, Symbol, Type};

/// Instructions of a kernel for which code for gangs is still made.
const MAX_CODE: usize = 6000;
/// Points where gangs part or meet.
const MAX_POINTS: usize = 400;
/// The widest range in shared memory that one access of a gang may cover.
const SHARED_SPAN: i64 = 1 << 15;
/// The same in device memory, where every [`GUARD`](crate::exec::MemoryView::GUARD) bytes are checked.
const DEVICE_SPAN: i64 = 1024;

/// How a register's value differs between neighbouring threads of a gang that runs as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::compile) enum Class {
    /// Nothing is known to be written to it.
    Unknown,
    /// Each thread's value is its predecessor's plus this; 0 where all have the same.
    Stride(i64),
    /// In any way.
    Varying,
}

impl Class {
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, class) | (class, Self::Unknown) => class,
            (Self::Stride(a), Self::Stride(b)) if a == b => self,
            _ => Self::Varying,
        }
    }
}

/// How an instruction is carried out for a gang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::compile) enum Mode {
    /// For the first thread alone: the others' results follow from its.
    Once,
    /// The same, unless a 32-bit value that is made wider, signed or not, wraps within the gang.
    Widened { signed: bool },
    /// A load or store of addresses so far apart.
    Range(i64),
    /// On vectors where that is known, else for each thread in turn.
    Each,
    /// Not at all: the gang parts.
    Part,
}

/// Everything decided.
#[derive(Debug)]
pub(in crate::compile) struct Plan {
    pub classes: Vec<Class>,
    pub modes: Vec<Mode>,
    /// Where gangs part or meet, in order, and whether they meet there.
    pub points: Vec<(usize, bool)>,
    /// For an instruction at which a gang parts, the one before which its threads meet again.
    pub meeting: BTreeMap<usize, usize>,
    /// Per block, whether it is in a loop.
    pub in_loops: Vec<bool>,
}

/// Instructions whose results follow from their operands alone.
fn is_pure(instruction: &Instruction<'_>) -> bool {
    matches!(
        instruction.opcode,
        "mov"
            | "cvt"
            | "add"
            | "sub"
            | "mul"
            | "mad"
            | "fma"
            | "div"
            | "rem"
            | "min"
            | "max"
            | "abs"
            | "neg"
            | "mul24"
            | "mad24"
            | "rcp"
            | "sqrt"
            | "rsqrt"
            | "sin"
            | "cos"
            | "lg2"
            | "ex2"
            | "tanh"
            | "and"
            | "or"
            | "xor"
            | "not"
            | "cnot"
            | "lop3"
            | "shl"
            | "shr"
            | "shf"
            | "setp"
            | "set"
            | "selp"
            | "slct"
            | "popc"
            | "clz"
            | "bfind"
            | "brev"
            | "bfe"
            | "bfi"
            | "bmsk"
            | "prmt"
            | "szext"
            | "sad"
            | "dp4a"
            | "dp2a"
            | "copysign"
            | "testp"
    )
}

/// Whether gangs can run the instruction at all, by any mode.
fn is_known(instruction: &Instruction<'_>) -> bool {
    let has = |word: &str| instruction.modifiers.contains(&word);
    // Flags between instructions, and loops that wait for another thread's store, stay with the code
    // for single threads.
    if has("cc") || matches!(instruction.opcode, "addc" | "subc" | "madc") {
        return false;
    }
    match instruction.opcode {
        "ld" => !["volatile", "relaxed", "acquire", "mmio"]
            .into_iter()
            .any(has),
        "atom" | "red" => !["cas", "exch"].into_iter().any(has),
        "ldu" | "st" | "cvta" | "isspacep" | "prefetch" | "prefetchu" | "discard"
        | "applypriority" | "membar" | "fence" | "nanosleep" | "pmevent" | "bar" | "barrier"
        | "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" | "bra" | "brx" | "ret"
        | "exit" | "trap" | "brkpt" | "call" => true,
        _ => is_pure(instruction),
    }
}

fn space_of(instruction: &Instruction<'_>) -> Space {
    let named = instruction.modifiers.iter().find_map(|word| match *word {
        "global" => Some(Space::Global),
        "const" => Some(Space::Const),
        "shared" | "shared::cta" | "shared::cluster" => Some(Space::Shared),
        "local" => Some(Space::Local),
        "param" | "param::entry" | "param::func" => Some(Space::Param),
        _ => None,
    });
    named.unwrap_or(Space::Generic)
}

fn types(instruction: &Instruction<'_>) -> impl Iterator<Item = Type> {
    instruction
        .modifiers
        .iter()
        .filter_map(|word| Type::named(word))
}

/// A stride as a value of so many bits sees it.
fn wrapped(stride: i64, bits: u32) -> i64 {
    match bits {
        32 => i64::from(stride as i32),
        _ => stride,
    }
}

struct Analysis<'b, 'a> {
    body: &'b Body<'a>,
    classes: Vec<Class>,
}

impl Analysis<'_, '_> {
    fn class(&self, reg: Reg) -> Class {
        self.classes
            .get(reg.0 as usize)
            .copied()
            .unwrap_or(Class::Varying)
    }

    fn operand(&self, operand: &Operand) -> Class {
        match operand {
            Operand::Reg(reg) | Operand::Not(reg) => self.class(*reg),
            Operand::Pair(first, second) => [first, second]
                .into_iter()
                .flatten()
                .fold(Class::Stride(0), |class, reg| class.join(self.class(*reg))),
            Operand::Int(_) | Operand::Single(_) | Operand::Double(_) | Operand::Sink => {
                Class::Stride(0)
            }
            Operand::Special(name) => special(name),
            Operand::Symbol(_, _) | Operand::Label(_) => Class::Stride(0),
            Operand::Address(Base::Reg(reg), _) => self.class(*reg),
            Operand::Address(Base::Symbol(Symbol::Local(_)), _) => Class::Varying,
            Operand::Address(_, _) => Class::Stride(0),
            Operand::Vector(parts) | Operand::List(parts) => {
                parts.iter().fold(Class::Stride(0), |class, part| {
                    class.join(self.operand(part))
                })
            }
            Operand::Indexed(_) | Operand::Part { .. } => Class::Varying,
        }
    }

    fn guard(&self, guard: Option<Guard>) -> Class {
        guard.map_or(Class::Stride(0), |guard| self.class(guard.reg))
    }

    /// The class of what an instruction writes.
    fn result(&self, instruction: &Instruction<'_>) -> Class {
        match self.guard(instruction.guard) {
            Class::Stride(0) => {}
            Class::Unknown => return Class::Unknown,
            _ => return Class::Varying,
        }
        let operands = instruction.operands.as_slice();
        let sources = operands.get(1..).unwrap_or_default();
        let all = sources.iter().fold(Class::Stride(0), |class, operand| {
            match (class, self.operand(operand)) {
                (Class::Unknown, _) | (_, Class::Unknown) => Class::Unknown,
                (Class::Stride(0), Class::Stride(0)) => Class::Stride(0),
                _ => Class::Varying,
            }
        });
        if all == Class::Unknown {
            return Class::Unknown;
        }
        if matches!(instruction.opcode, "ld" | "ldu") {
            let uniform = matches!(
                space_of(instruction),
                Space::Global | Space::Const | Space::Shared | Space::Param
            );
            return if uniform { all } else { Class::Varying };
        }
        if instruction.opcode == "cvta" {
            return if space_of(instruction) == Space::Local {
                Class::Varying
            } else {
                sources
                    .first()
                    .map_or(Class::Varying, |from| self.operand(from))
            };
        }
        if !is_pure(instruction) {
            return Class::Varying;
        }
        if all == Class::Stride(0) {
            return all;
        }
        self.affine(instruction, sources).unwrap_or(Class::Varying)
    }

    /// The class of an integer operation on values with a stride.
    fn affine(&self, instruction: &Instruction<'_>, sources: &[Operand]) -> Option<Class> {
        let ty = types(instruction).next()?;
        let Some(Operand::Reg(to)) = instruction.operands.first() else {
            return None;
        };
        let own = *self.body.registers.get(to.0 as usize)?;
        let integer =
            |ty: Type| (ty.is_integer() || ty.is_untyped()) && matches!(ty.bits(), 32 | 64);
        if !integer(ty) || !integer(own) || instruction.modifiers.contains(&"sat") {
            return None;
        }
        let stride = |operand: &Operand| {
            // Registers of another width are read in part, or not at all.
            if let Operand::Reg(reg) = operand
                && !integer(*self.body.registers.get(reg.0 as usize)?)
            {
                return None;
            }
            match self.operand(operand) {
                Class::Stride(stride) => Some(stride),
                _ => None,
            }
        };
        let width = |operand: &Operand| match operand {
            Operand::Reg(reg) => self.body.registers.get(reg.0 as usize).map(|ty| ty.bits()),
            _ => None,
        };
        let factor = |operand: &Operand| match operand {
            Operand::Int(factor) => Some(*factor),
            _ => None,
        };
        let has = |word: &str| instruction.modifiers.contains(&word);
        let product = |a: &Operand, b: &Operand| -> Option<i64> {
            match (stride(a)?, stride(b)?) {
                (0, 0) => Some(0),
                (by, 0) => Some(by.wrapping_mul(factor(b)?)),
                (0, by) => Some(by.wrapping_mul(factor(a)?)),
                _ => None,
            }
        };
        let (result, bits) = match (instruction.opcode, sources) {
            ("mov", [from]) => (stride(from)?, ty.bits()),
            ("add", [a, b]) => (stride(a)?.wrapping_add(stride(b)?), ty.bits()),
            ("sub", [a, b]) => (stride(a)?.wrapping_sub(stride(b)?), ty.bits()),
            ("neg", [from]) => (stride(from)?.wrapping_neg(), ty.bits()),
            ("shl", [from, by]) => {
                let by = u32::try_from(factor(by)?)
                    .ok()
                    .filter(|&by| by < ty.bits())?;
                (stride(from)?.wrapping_shl(by), ty.bits())
            }
            ("mul" | "mad", [a, b, rest @ ..]) if has("lo") || has("wide") => {
                let wide = has("wide");
                if wide && ty.bits() != 32 {
                    return None;
                }
                let bits = if wide { 64 } else { ty.bits() };
                // A factor that is no value of its type is cut to one.
                let fits = |operand: &Operand| match factor(operand) {
                    Some(factor) if ty.is_signed() => i32::try_from(factor).is_ok(),
                    Some(factor) => u32::try_from(factor).is_ok(),
                    None => true,
                };
                if wide && !(fits(a) && fits(b)) {
                    return None;
                }
                // The sum's stride must not hide that the product was made wider.
                let add = rest.first().map_or(Some(0), stride)?;
                if wide && add != 0 {
                    return None;
                }
                (product(a, b)?.wrapping_add(add), bits)
            }
            ("cvt", [from]) => {
                let mut both = types(instruction);
                let (to, of) = (both.next()?, both.next()?);
                if !integer(of) || !of.is_integer() || width(from)? != of.bits() {
                    return None;
                }
                (stride(from)?, to.bits())
            }
            _ => return None,
        };
        (own.bits() == bits).then_some(Class::Stride(wrapped(result, bits)))
    }
}

/// How a special register differs within a gang: its threads are neighbours in x.
fn special(name: &str) -> Class {
    match name {
        "%tid.x" | "%laneid" => Class::Stride(1),
        "%tid.y" | "%tid.z" | "%warpid" | "%nwarpid" | "%smid" | "%nsmid" | "%gridid"
        | "%dynamic_smem_size" | "%total_smem_size" => Class::Stride(0),
        _ if ["%ntid.", "%ctaid.", "%nctaid.", "%envreg"]
            .iter()
            .any(|root| name.starts_with(root)) =>
        {
            Class::Stride(0)
        }
        _ => Class::Varying,
    }
}

impl Plan {
    /// `None` where the kernel is better left to the code for single threads.
    pub(in crate::compile) fn new(
        body: &Body<'_>,
        flow: &Flow,
        pauses: &Pauses,
        call_waits: impl Fn(&Instruction<'_>) -> bool,
    ) -> Option<Self> {
        if body.code.len() > MAX_CODE || !body.code.iter().all(is_known) {
            return None;
        }
        let mut analysis = Analysis {
            body,
            classes: vec![Class::Unknown; body.registers.len()],
        };
        for reg in &pauses.undefined {
            analysis.classes[reg.0 as usize] = Class::Stride(0);
        }
        loop {
            let mut changed = false;
            for instruction in &body.code {
                let result = analysis.result(instruction);
                analysis::registers(instruction, |reg, written| {
                    if written {
                        let class = &mut analysis.classes[reg.0 as usize];
                        let joined = class.join(result);
                        changed |= joined != *class;
                        *class = joined;
                    }
                });
            }
            if !changed {
                break;
            }
        }
        for (class, &ty) in analysis.classes.iter_mut().zip(&body.registers) {
            if *class == Class::Unknown {
                *class = Class::Stride(0);
            }
            // What has a stride is an integer.
            if *class != Class::Stride(0) && !matches!(ty.bits(), 32 | 64) {
                *class = Class::Varying;
            }
        }
        let meets = meetings(flow);
        let mut plan = Self {
            modes: Vec::with_capacity(body.code.len()),
            classes: Vec::new(),
            points: Vec::new(),
            meeting: BTreeMap::new(),
            in_loops: flow.in_loops(),
        };
        let mut points = BTreeMap::new();
        for (at, instruction) in body.code.iter().enumerate() {
            let end = analysis::end(instruction, call_waits(instruction));
            let mode = analysis.mode(instruction, end);
            plan.modes.push(mode);
            let guard = analysis.guard(instruction.guard);
            let parts = match mode {
                Mode::Part | Mode::Widened { .. } | Mode::Range(_) => true,
                // A guard on which threads disagree.
                _ => end != End::No && guard != Class::Stride(0),
            };
            if parts {
                points.entry(at).or_insert(false);
            }
            if matches!(end, End::Branch | End::Leave)
                && parts
                && let Some(&Some(block)) = meets.get(flow.block_of[at])
            {
                let to = flow.blocks[block].start;
                points.insert(to, true);
                plan.meeting.insert(at, to);
            }
        }
        if points.len() > MAX_POINTS {
            return None;
        }
        plan.points = points.into_iter().collect();
        plan.classes = analysis.classes;
        Some(plan)
    }
}

impl Analysis<'_, '_> {
    fn mode(&self, instruction: &Instruction<'_>, end: End) -> Mode {
        let guard = self.guard(instruction.guard);
        let uniform = |class: Class| class == Class::Stride(0);
        match end {
            End::Branch if instruction.opcode == "brx" => {
                let index = instruction
                    .operands
                    .first()
                    .map(|index| self.operand(index));
                return if uniform(guard) && index.is_some_and(uniform) {
                    Mode::Once
                } else {
                    Mode::Part
                };
            }
            End::Branch => return Mode::Once,
            End::Leave if instruction.opcode == "trap" => return Mode::Part,
            End::Leave => return Mode::Once,
            End::Wait if instruction.opcode == "call" || !uniform(guard) => return Mode::Part,
            End::Wait => return Mode::Each,
            End::No => {}
        }
        match instruction.opcode {
            "call" | "brkpt" => return Mode::Part,
            "membar" | "fence" | "prefetch" | "prefetchu" | "discard" | "applypriority"
            | "nanosleep" | "pmevent" => {
                return if uniform(guard) {
                    Mode::Once
                } else {
                    Mode::Each
                };
            }
            "ld" | "ldu" | "st" => {
                if let Some(stride) = self.range(instruction) {
                    return Mode::Range(stride);
                }
            }
            _ => {}
        }
        if instruction.opcode == "st" || !analysis::writes_first(instruction) {
            return Mode::Each;
        }
        let mut same = true;
        let mut any = false;
        analysis::registers(instruction, |reg, written| {
            if written {
                any = true;
                same &= self.class(reg) != Class::Varying;
            }
        });
        let pure = is_pure(instruction) || matches!(instruction.opcode, "ld" | "ldu" | "cvta");
        if !(any && same && pure) {
            return Mode::Each;
        }
        let to = match instruction.operands.first() {
            Some(Operand::Reg(to)) => self.class(*to),
            _ => Class::Stride(0),
        };
        let mut both = types(instruction);
        let (first, second) = (both.next(), both.next());
        let bits = |ty: Option<Type>| ty.map_or(0, Type::bits);
        let wide = instruction.modifiers.contains(&"wide");
        match (instruction.opcode, first, second) {
            _ if to == Class::Stride(0) => Mode::Once,
            ("cvt", _, Some(from)) if bits(first) > bits(second) => Mode::Widened {
                signed: from.is_signed(),
            },
            ("mul" | "mad", Some(ty), _) if wide => Mode::Widened {
                signed: ty.is_signed(),
            },
            _ => Mode::Once,
        }
    }

    /// The distance of a gang's addresses, where one check and whole vectors may do for a load or store.
    fn range(&self, instruction: &Instruction<'_>) -> Option<i64> {
        if self.guard(instruction.guard) != Class::Stride(0) {
            return None;
        }
        let address = instruction
            .operands
            .iter()
            .find(|operand| matches!(operand, Operand::Address(_, _)))?;
        let Operand::Address(Base::Reg(reg), _) = address else {
            return None;
        };
        let Class::Stride(stride) = self.class(*reg) else {
            return None;
        };
        if stride == 0
            || instruction
                .modifiers
                .iter()
                .any(|word| matches!(*word, "volatile" | "relaxed" | "release" | "mmio"))
        {
            return None;
        }
        let limit = match space_of(instruction) {
            Space::Shared => SHARED_SPAN,
            Space::Global | Space::Const => DEVICE_SPAN,
            _ => return None,
        };
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
        let bytes = i64::from(ty.bytes()) * vector.unwrap_or(1);
        let span = stride.unsigned_abs().checked_mul(LANES as u64)?;
        (stride % bytes == 0 && span <= limit as u64).then_some(stride)
    }
}

/// Per block, the one that every way from it to the end goes through first.
fn meetings(flow: &Flow) -> Vec<Option<usize>> {
    let count = flow.blocks.len();
    // Blocks by their distance from the end, the end first; what cannot reach it stays out.
    let mut before = vec![Vec::new(); count + 1];
    for (block, successors) in flow.successors.iter().enumerate() {
        if successors.is_empty() {
            before[count].push(block);
        }
        for &successor in successors {
            before[successor].push(block);
        }
    }
    // A way that may leave in the middle of its block (a guarded `ret`) leads to the end as well.
    let (mut order, mut seen, mut stack) = (Vec::new(), vec![false; count + 1], vec![(count, 0)]);
    seen[count] = true;
    while let Some((block, next)) = stack.pop() {
        match before[block].get(next) {
            Some(&input) => {
                stack.push((block, next + 1));
                if !std::mem::replace(&mut seen[input], true) {
                    stack.push((input, 0));
                }
            }
            None => order.push(block),
        }
    }
    let mut rank = vec![0; count + 1];
    for (place, &block) in order.iter().enumerate() {
        rank[block] = place;
    }
    let mut meeting: Vec<Option<usize>> = vec![None; count + 1];
    meeting[count] = Some(count);
    loop {
        let mut changed = false;
        for &block in order.iter().rev().filter(|&&block| block != count) {
            let successors = flow.successors[block].iter().copied();
            let ends = flow.successors[block].is_empty().then_some(count);
            let mut found: Option<usize> = None;
            for successor in successors.chain(ends) {
                if meeting[successor].is_none() {
                    continue;
                }
                found = Some(match found {
                    None => successor,
                    Some(other) => common(&meeting, &rank, successor, other),
                });
            }
            if found.is_some() && found != meeting[block] {
                meeting[block] = found;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    meeting.truncate(count);
    meeting
        .into_iter()
        .map(|meeting| meeting.filter(|&block| block < count))
        .collect()
}

/// The first block that both ways go through.
fn common(meeting: &[Option<usize>], rank: &[usize], a: usize, b: usize) -> usize {
    let (mut a, mut b) = (a, b);
    let mut steps = 0;
    while a != b && steps < 2 * rank.len() {
        steps += 1;
        if rank[a] < rank[b] {
            a = meeting[a].unwrap_or(a);
        } else {
            b = meeting[b].unwrap_or(b);
        }
    }
    a
}
