//! Loads, stores, atomics and address conversions. Every access is checked before it happens: against
//! the table of allocations in device memory, against their sizes in shared and local memory. Shared
//! and local memory belong to the host thread that runs the block, so atomics on them are plain.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AtomicRmwOp, Block, BlockArg, InstBuilder, MemFlagsData, Type as Clif, Value, types,
};

use super::form::Form;
use super::layout::{FRAME_ALIGN, STACK_BYTES};
use super::lower::{Hoisted, Lower, clif, int_of};
use crate::exec::atomics;
use crate::exec::context::{BlockContext, SiteKind};
use crate::exec::helpers::Helper;
use crate::exec::{GRANULE, HostRange};
use crate::ptx::PtxError;
use crate::ptx::ast::{Base, Operand, Slot, Space, Symbol, Type};

/// An address known to be good: a host address and what to add to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    base: Value,
    offset: i32,
    flags: MemFlagsData,
}

/// How the modifiers of a memory instruction order it.
pub(super) struct Order {
    /// volatile, relaxed, acquire, release: neither merged nor moved.
    strong: bool,
    pub(super) vector: u32,
    pub(super) read_only: bool,
}

pub(super) const SPACES: [(&str, Space); 9] = [
    ("global", Space::Global),
    ("const", Space::Const),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    // A cluster is one block.
    ("shared::cluster", Space::Shared),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("param::func", Space::Param),
];

/// Takes cache hints, which change nothing here.
pub(super) fn take_hints(form: &Form<'_, '_>) {
    for hint in ["ca", "cg", "cs", "lu", "cv", "wb", "wt"] {
        form.take(hint);
    }
    for &word in &form.instruction.modifiers {
        if word.starts_with("L1::") || word.starts_with("L2::") {
            form.take(word);
        }
    }
}

/// Takes what orders an operation among other threads': a block's run on one host thread, and what
/// reaches other blocks is sequentially consistent.
pub(super) fn take_scopes(form: &Form<'_, '_>) {
    for word in [
        "relaxed", "acquire", "release", "acq_rel", "cta", "cluster", "gpu", "sys",
    ] {
        form.take(word);
    }
}

/// Whether the last operand is a cache policy, which changes nothing here.
pub(super) fn is_policy(form: &Form<'_, '_>) -> bool {
    form.instruction.modifiers.contains(&"L2::cache_hint")
}

/// An instruction's operands without a cache policy.
fn without_policy<'o>(form: &Form<'o, '_>) -> &'o [Operand] {
    match form.instruction.operands.as_slice() {
        [operands @ .., _policy] if is_policy(form) => operands,
        operands => operands,
    }
}

pub(super) fn take_order(form: &Form<'_, '_>) -> Order {
    let mut strong = false;
    for word in ["volatile", "relaxed", "acquire", "release", "mmio"] {
        strong |= form.take(word);
    }
    form.take("weak");
    for scope in ["cta", "cluster", "gpu", "sys"] {
        form.take(scope);
    }
    take_hints(form);
    form.take("unified");
    let vector = form.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    Order {
        strong,
        vector,
        read_only: form.take("nc"),
    }
}

impl Lower<'_, '_, '_> {
    fn shift_right(&mut self, value: Value, by: i64) -> Value {
        let by = self.imm(types::I64, by);
        self.b.ins().ushr(value, by)
    }

    /// For a naturally aligned access the aligned part of an offset; a misaligned one gives a number
    /// beyond every limit.
    fn aligned(&mut self, offset: Value, align: u32) -> Value {
        if align <= 1 {
            return offset;
        }
        let by = self.imm(types::I64, i64::from(align.trailing_zeros()));
        self.b.ins().rotr(offset, by)
    }

    /// Faults unless `bytes` from `offset` lie within a window of `limit` bytes.
    pub(super) fn check_window(
        &mut self,
        offset: Value,
        bytes: i64,
        align: u32,
        limit: Value,
        fault: (Value, Value),
    ) {
        // Offsets below this, in units of the alignment, are good.
        let end = self.hoist(Hoisted::Limit(limit, bytes, align), |cursor| {
            let span = cursor.ins().iconst(types::I64, bytes);
            let fits = cursor
                .ins()
                .icmp(IntCC::UnsignedGreaterThanOrEqual, limit, span);
            let last = cursor.ins().isub(limit, span);
            let unit = cursor.ins().iconst(types::I64, i64::from(align));
            let end = cursor.ins().iadd(last, unit);
            let shift = cursor
                .ins()
                .iconst(types::I64, i64::from(align.trailing_zeros()));
            let end = cursor.ins().ushr(end, shift);
            let zero = cursor.ins().iconst(types::I64, 0);
            cursor.ins().select(fits, end, zero)
        });
        let unit = self.aligned(offset, align);
        let wrong = self
            .b
            .ins()
            .icmp(IntCC::UnsignedGreaterThanOrEqual, unit, end);
        self.fault_if(wrong, fault.0, fault.1);
    }

    /// Goes to `bad` unless `bytes` (at most a granule) from the address are in an allocation and
    /// aligned; goes on in a new block otherwise.
    pub(super) fn check_device(
        &mut self,
        address: Value,
        bytes: u32,
        align: u32,
        bad: Block,
        bad_args: &[BlockArg],
    ) {
        let base = self.context_field(types::I64, offset_of!(BlockContext, memory_base));
        let len = self.context_field(types::I64, offset_of!(BlockContext, memory_len));
        let valid = self.context_field(types::I64, offset_of!(BlockContext, memory_valid));
        let offset = self.b.ins().isub(address, base);
        let unit = self.aligned(offset, align);
        let units = self.hoist(Hoisted::Units(len, align), |cursor| {
            let shift = cursor
                .ins()
                .iconst(types::I64, i64::from(align.trailing_zeros()));
            cursor.ins().ushr(len, shift)
        });
        let beyond = self
            .b
            .ins()
            .icmp(IntCC::UnsignedGreaterThanOrEqual, unit, units);
        let inside = self.b.create_block();
        self.b.ins().brif(beyond, bad, bad_args, inside, &[]);
        self.b.switch_to_block(inside);
        let granule = self.shift_right(offset, i64::from(GRANULE.trailing_zeros()));
        let entry = self.b.ins().iadd(valid, granule);
        // Kernels themselves change it where they allocate from their heap.
        let count = self
            .b
            .ins()
            .uload8(types::I64, MemFlagsData::trusted(), entry, 0);
        let mask = self.imm(types::I64, GRANULE as i64 - 1);
        let within = self.b.ins().band(offset, mask);
        let bytes = self.imm(types::I64, i64::from(bytes));
        let end = self.b.ins().iadd(within, bytes);
        let outside = self.b.ins().icmp(IntCC::UnsignedGreaterThan, end, count);
        let fine = self.b.create_block();
        self.b.ins().brif(outside, bad, bad_args, fine, &[]);
        self.b.switch_to_block(fine);
    }

    /// Goes to `fine` if all the bytes are in one of the launch's host ranges and aligned; faults
    /// otherwise. In line, though rare: a call would cost its surroundings their registers.
    fn check_ranges(
        &mut self,
        address: Value,
        bytes: i64,
        align: u32,
        fault: (Value, Value),
        fine: Block,
    ) {
        let first = self.context_field(types::I64, offset_of!(BlockContext, ranges));
        let end = self.context_field(types::I64, offset_of!(BlockContext, ranges_end));
        let flags = MemFlagsData::trusted().with_readonly();
        let fault_args = [BlockArg::Value(fault.0), BlockArg::Value(fault.1)];
        let (next, look) = (self.b.create_block(), self.b.create_block());
        for block in [next, look] {
            self.b.set_cold_block(block);
        }
        let range = self.b.append_block_param(next, types::I64);
        let start = [BlockArg::Value(first)];
        if align > 1 {
            let mask = self.imm(types::I64, i64::from(align) - 1);
            let over = self.b.ins().band(address, mask);
            let to = self.fault;
            self.b.ins().brif(over, to, &fault_args, next, &start);
        } else {
            self.b.ins().jump(next, &start);
        }
        self.b.switch_to_block(next);
        let done = self.b.ins().icmp(IntCC::Equal, range, end);
        let to = self.fault;
        self.b.ins().brif(done, to, &fault_args, look, &[]);
        self.b.switch_to_block(look);
        let base = offset_of!(HostRange, base) as i32;
        let base = self.b.ins().load(types::I64, flags, range, base);
        let len = offset_of!(HostRange, len) as i32;
        let len = self.b.ins().load(types::I64, flags, range, len);
        let offset = self.b.ins().isub(address, base);
        let left = self.b.ins().isub(len, offset);
        let bytes = self.imm(types::I64, bytes);
        let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, offset, len);
        let enough = self
            .b
            .ins()
            .icmp(IntCC::UnsignedGreaterThanOrEqual, left, bytes);
        let good = self.b.ins().band(inside, enough);
        let size = self.imm(types::I64, size_of::<HostRange>() as i64);
        let following = self.b.ins().iadd(range, size);
        let following = [BlockArg::Value(following)];
        self.b.ins().brif(good, fine, &[], next, &following);
    }

    /// A base and a constant as one address.
    pub(super) fn plus(&mut self, base: Value, offset: i64) -> Value {
        if offset == 0 {
            return base;
        }
        let offset = self.imm(types::I64, offset);
        self.b.ins().iadd(base, offset)
    }

    fn place(&mut self, base: Value, offset: i64, flags: MemFlagsData) -> Place {
        match i32::try_from(offset) {
            Ok(offset) if offset < i32::MAX - 256 => Place {
                base,
                offset,
                flags,
            },
            _ => Place {
                base: self.plus(base, offset),
                offset: 0,
                flags,
            },
        }
    }

    /// Checks an access of `bytes` bytes, naturally aligned, and says where it happens.
    pub(super) fn access(
        &mut self,
        form: &Form<'_, '_>,
        operand: &Operand,
        space: Space,
        bytes: u32,
    ) -> Result<Place, PtxError> {
        let Operand::Address(base, offset) = *operand else {
            return Err(form.invalid("an address in brackets is needed"));
        };
        if offset.unsigned_abs() > 1 << 40 {
            return Err(form.invalid("the offset is too large"));
        }
        if space == Space::Param {
            return self.param_place(form, base, offset, bytes);
        }
        let space = self.space_of(base, space);
        let line = form.instruction.line;
        let group = self
            .groups
            .get(self.at)
            .copied()
            .flatten()
            .filter(|_| base != Base::None);
        let checks = self.check_needed(base, offset, space, bytes)
            && group.is_none_or(|group| group.leader == self.at);
        let (low, high) = group.map_or((offset, offset + i64::from(bytes)), |group| {
            (group.low, group.high)
        });
        let base = self.base(base)?;
        let device = self.device_flags();
        match space {
            Space::Shared | Space::Local => {
                let (start, limit) = if space == Space::Shared {
                    (
                        self.context_field(types::I64, offset_of!(BlockContext, shared)),
                        self.context_field(types::I64, offset_of!(BlockContext, shared_bytes)),
                    )
                } else {
                    (
                        self.thread,
                        self.context_field(types::I64, offset_of!(BlockContext, thread_bytes)),
                    )
                };
                if checks {
                    let first = self.plus(base, low);
                    let kind = SiteKind::Access {
                        space: space.name(),
                        bytes: (high - low) as u32,
                        align: bytes,
                    };
                    let site = self.site(line, kind);
                    self.check_window(first, high - low, bytes, limit, (first, site));
                }
                let known = group.and_then(|group| self.group_hosts.get(&group.leader).copied());
                let host = match known {
                    Some(host) => host,
                    None => self.b.ins().iadd(start, base),
                };
                if let Some(group) = group {
                    self.group_hosts.insert(group.leader, host);
                }
                Ok(self.place(host, offset, device))
            }
            Space::Generic => {
                let address = self.plus(base, offset);
                let (other, fine) = (self.b.create_block(), self.b.create_block());
                self.b.set_cold_block(other);
                self.check_device(address, bytes, bytes, other, &[]);
                self.b.ins().jump(fine, &[]);
                self.b.switch_to_block(other);
                let size = self.imm(types::I64, i64::from(bytes));
                let good = self.helper(
                    Helper::CheckGeneric,
                    &[self.context, self.thread, address, size],
                    types::I32,
                );
                let bad = self.b.ins().icmp_imm_u(IntCC::Equal, good, 0);
                let kind = SiteKind::Access {
                    space: space.name(),
                    bytes,
                    align: bytes,
                };
                let site = self.site(line, kind);
                let args = [BlockArg::Value(address), BlockArg::Value(site)];
                let fault = self.fault;
                self.b.ins().brif(bad, fault, &args, fine, &[]);
                self.b.switch_to_block(fine);
                Ok(self.place(base, offset, device))
            }
            _ => {
                if checks {
                    let last = high - i64::from(bytes);
                    let kind = SiteKind::Access {
                        space: space.name(),
                        bytes,
                        align: bytes,
                    };
                    let site = self.site(line, kind);
                    let (other, fine) = (self.b.create_block(), self.b.create_block());
                    self.b.set_cold_block(other);
                    let failed = self.b.append_block_param(other, types::I64);
                    for at in if last == low {
                        vec![low]
                    } else {
                        vec![low, last]
                    } {
                        let address = self.plus(base, at);
                        let args = [BlockArg::Value(address)];
                        self.check_device(address, bytes, bytes, other, &args);
                    }
                    self.b.ins().jump(fine, &[]);
                    self.b.switch_to_block(other);
                    let first = self.plus(base, low);
                    self.check_ranges(first, high - low, bytes, (failed, site), fine);
                    self.b.switch_to_block(fine);
                }
                Ok(self.place(base, offset, device))
            }
        }
    }

    /// A generic access's space where a variable's name tells it.
    pub(super) fn space_of(&self, base: Base, space: Space) -> Space {
        match (space, base) {
            (Space::Generic, Base::Symbol(Symbol::Variable(variable))) => self
                .layout
                .module
                .variables
                .get(variable as usize)
                .map_or(space, |variable| variable.space),
            (Space::Generic, Base::Symbol(Symbol::Local(_))) => Space::Local,
            _ => space,
        }
    }

    /// A place as one host address.
    pub(super) fn host_address(&mut self, place: Place) -> Value {
        self.plus(place.base, i64::from(place.offset))
    }

    /// Whether an access must be checked when the program runs: not where it is within a named variable.
    fn check_needed(&self, base: Base, offset: i64, space: Space, bytes: u32) -> bool {
        let Base::Symbol(symbol) = base else {
            return true;
        };
        let (own, size, align) = match symbol {
            Symbol::Variable(variable) => match self.layout.module.variables.get(variable as usize)
            {
                Some(variable) => (variable.space, variable.bytes, variable.align),
                None => return true,
            },
            Symbol::Local(local) => match self.body.locals.get(local as usize) {
                Some(slot) => (Space::Local, u64::from(slot.bytes), u64::from(slot.align)),
                None => return true,
            },
            _ => return true,
        };
        let within = u64::try_from(offset).is_ok_and(|offset| offset + u64::from(bytes) <= size);
        !(own == space && within && offset % i64::from(bytes) == 0 && align % u64::from(bytes) == 0)
    }

    /// A place in parameter space. Its bounds are known, so a wrong one is the text's mistake.
    fn param_place(
        &mut self,
        form: &Form<'_, '_>,
        base: Base,
        offset: i64,
        bytes: u32,
    ) -> Result<Place, PtxError> {
        let frame = self.frame_layout;
        let prototype = &self.function.prototype;
        let constant = self.constant_flags();
        let kernel = self.function.is_kernel;
        let (slot, at): (Option<&Slot>, Option<u32>) = match base {
            Base::Symbol(Symbol::Param(index)) => (
                prototype.params.get(index as usize),
                frame.params.get(index as usize).copied(),
            ),
            Base::Symbol(Symbol::Return(index)) => (
                prototype.returns.get(index as usize),
                frame.returns.get(index as usize).copied(),
            ),
            Base::Symbol(Symbol::Local(index)) => (
                self.body.locals.get(index as usize),
                frame.locals.get(index as usize).copied(),
            ),
            Base::Reg(_) if kernel && form.instruction.opcode != "st" => {
                // An address in parameter space that the kernel computed.
                let params = self.context_field(types::I64, offset_of!(BlockContext, params));
                let limit = self.context_field(types::I64, offset_of!(BlockContext, param_bytes));
                let base = self.base(base)?;
                let address = self.plus(base, offset);
                let kind = SiteKind::Access {
                    space: "param",
                    bytes,
                    align: bytes,
                };
                let site = self.site(form.instruction.line, kind);
                self.check_window(address, i64::from(bytes), bytes, limit, (address, site));
                let host = self.b.ins().iadd(params, address);
                let flags = MemFlagsData::new().with_notrap().with_readonly();
                return Ok(Place {
                    base: host,
                    offset: 0,
                    flags,
                });
            }
            Base::Reg(_) if !kernel => {
                // A function's parameters are in its thread's frames, where `mov` gave their address.
                let limit = self.context_field(types::I64, offset_of!(BlockContext, thread_bytes));
                let base = self.base(base)?;
                let address = self.plus(base, offset);
                let kind = SiteKind::Access {
                    space: "param",
                    bytes,
                    align: bytes,
                };
                let site = self.site(form.instruction.line, kind);
                self.check_window(address, i64::from(bytes), bytes, limit, (address, site));
                let host = self.b.ins().iadd(self.thread, address);
                return Ok(Place {
                    base: host,
                    offset: 0,
                    flags: MemFlagsData::new().with_notrap(),
                });
            }
            _ => return Err(form.unsupported("computed addresses in parameter space here")),
        };
        let (Some(slot), Some(at)) = (slot, at) else {
            return Err(form.invalid("an unknown parameter"));
        };
        let fits = u64::try_from(offset)
            .is_ok_and(|offset| offset + u64::from(bytes) <= u64::from(slot.bytes));
        if !fits {
            return Err(form.invalid(&format!(
                "the access is outside {}, of {} bytes",
                slot.name, slot.bytes
            )));
        }
        let at = at as i32 + offset as i32;
        if kernel && matches!(base, Base::Symbol(Symbol::Param(_))) {
            if form.instruction.opcode == "st" {
                return Err(form.invalid("a kernel's parameters are constant"));
            }
            let params = self.context_field(types::I64, offset_of!(BlockContext, params));
            return Ok(Place {
                base: params,
                offset: at,
                flags: constant,
            });
        }
        // The text may place a wide access where the declaration promises less alignment.
        let flags = MemFlagsData::new()
            .with_notrap()
            .with_alias_region(self.private_flags().alias_region());
        Ok(Place {
            base: self.frame,
            offset: at,
            flags,
        })
    }

    /// A load of one element.
    fn load_from(&mut self, place: Place, ty: Clif, strong: bool) -> Value {
        if strong && ty == types::I128 {
            let address = self.host_address(place);
            let result = self.scratch();
            self.helper(Helper::Load128, &[address, result], types::I32);
            let flags = self.private_flags();
            return self.b.ins().load(ty, flags, result, 0);
        }
        if strong {
            let address = self.host_address(place);
            let value = self.b.ins().atomic_load(int_of(ty), place.flags, address);
            return self.cast(value, ty);
        }
        self.b.ins().load(ty, place.flags, place.base, place.offset)
    }

    pub(super) fn load(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let space = form.one_of(&SPACES).unwrap_or(Space::Generic);
        let order = take_order(form);
        let ty = form.ty()?;
        form.finish()?;
        let [to, address] = without_policy(form) else {
            return Err(form.invalid("a destination and an address are needed"));
        };
        check_type(form, ty, order.vector)?;
        let mut place = self.access(form, address, space, ty.bytes() * order.vector)?;
        if order.read_only || space == Space::Const {
            place.flags.set_readonly();
        }
        let strong = order.strong && !matches!(space, Space::Shared | Space::Local | Space::Param);
        let parts = parts(form, to, order.vector)?;
        let mut values = Vec::new();
        for index in 0..order.vector {
            let element = Place {
                offset: place.offset + (index * ty.bytes()) as i32,
                ..place
            };
            values.push(self.load_from(element, clif(ty), strong));
        }
        for (part, value) in parts.iter().zip(values) {
            self.write_wide(part, ty, value)?;
        }
        Ok(())
    }

    pub(super) fn store(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let space = form.one_of(&SPACES).unwrap_or(Space::Generic);
        let order = take_order(form);
        let ty = form.ty()?;
        form.finish()?;
        let [address, from] = without_policy(form) else {
            return Err(form.invalid("an address and a value are needed"));
        };
        check_type(form, ty, order.vector)?;
        if space == Space::Const {
            return Err(form.invalid("constant memory cannot be written"));
        }
        let mut values = Vec::new();
        for part in parts(form, from, order.vector)? {
            values.push(self.read_narrow(part, ty)?);
        }
        let place = self.access(form, address, space, ty.bytes() * order.vector)?;
        let strong = order.strong && !matches!(space, Space::Shared | Space::Local | Space::Param);
        for (index, value) in values.into_iter().enumerate() {
            let offset = place.offset + index as i32 * ty.bytes() as i32;
            if strong && ty == Type::B128 {
                let address = self.plus(place.base, i64::from(offset));
                let (operand, flags) = (self.scratch(), self.private_flags());
                self.b.ins().store(flags, value, operand, 0);
                self.helper(Helper::Store128, &[address, operand], types::I32);
            } else if strong {
                let address = self.plus(place.base, i64::from(offset));
                let value = self.cast(value, int_of(clif(ty)));
                self.b.ins().atomic_store(place.flags, value, address);
            } else {
                self.b.ins().store(place.flags, value, place.base, offset);
            }
        }
        Ok(())
    }

    pub(super) fn atomic(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        take_scopes(form);
        take_hints(form);
        form.take("noftz");
        let space = form.one_of(&SPACES).unwrap_or(Space::Generic);
        const OPERATIONS: [&str; 10] = [
            "add", "and", "or", "xor", "min", "max", "exch", "cas", "inc", "dec",
        ];
        let vector = form.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        let operation = OPERATIONS.into_iter().find(|word| form.take(word));
        let operation = operation.ok_or_else(|| form.unsupported("this operation"))?;
        let ty = form.ty()?;
        form.finish()?;
        let no_result = Operand::Sink;
        let operands = without_policy(form);
        let (to, operands) = match operands {
            [to, rest @ ..] if form.instruction.opcode == "atom" => (Some(to), rest),
            _ => (None, operands),
        };
        let [address, value, rest @ ..] = operands else {
            return Err(form.invalid("an address and a value are needed"));
        };
        let half = matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2);
        let supported = match operation {
            "cas" => matches!(ty.bytes(), 4 | 8 | 16) || ty == Type::B16,
            "exch" => matches!(ty.bytes(), 4 | 8 | 16),
            "and" | "or" | "xor" => matches!(ty, Type::B32 | Type::B64),
            "min" | "max" => ty.is_integer() && ty.bytes() >= 4 || half,
            "inc" | "dec" => ty == Type::U32,
            _ => ty.is_integer() && ty.bytes() >= 4 || half || matches!(ty, Type::F32 | Type::F64),
        };
        let vectors = vector == 1
            || (half || ty == Type::F32)
                && vector * ty.bytes() <= 16
                && matches!(space, Space::Global | Space::Generic)
                && matches!(operation, "add" | "min" | "max");
        if !supported || !vectors || matches!(space, Space::Const | Space::Param | Space::Local) {
            return Err(form.unsupported("this combination of operation, type and space"));
        }
        let mut values = Vec::new();
        for part in parts(form, value, vector)? {
            values.push(self.read(part, ty)?);
        }
        let swap = match (operation, rest) {
            ("cas", [swap]) => Some(self.read(swap, ty)?),
            ("cas", _) => return Err(form.invalid("a comparand and a value are needed")),
            (_, []) => None,
            _ => return Err(form.invalid("there are too many operands")),
        };
        let space = match *address {
            Operand::Address(base, _) => self.space_of(base, space),
            _ => space,
        };
        let place = self.access(form, address, space, ty.bytes() * vector)?;
        let mut olds = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let place = Place {
                offset: place.offset + index as i32 * ty.bytes() as i32,
                ..place
            };
            olds.push(if half {
                self.half_atomic(place, operation, ty, value)
            } else if ty == Type::B128 {
                self.wide_atomic(place, value, swap)
            } else if space == Space::Shared {
                self.private_atomic(place, operation, ty, value, swap)
            } else {
                let flush = self.flushes(place, space, operation, ty);
                let address = self.host_address(place);
                self.device_atomic(address, place.flags, operation, ty, value, swap, flush)
            });
        }
        if let Some(to) = to.filter(|to| **to != no_result) {
            for (part, old) in parts(form, to, vector)?.iter().zip(olds) {
                self.write(part, ty, old)?;
            }
        }
        Ok(())
    }

    /// Whether single-precision subnormals are zero to an addition: as the ISA says, in global memory
    /// and not in shared. `None` for other operations.
    fn flushes(&mut self, place: Place, space: Space, operation: &str, ty: Type) -> Option<Value> {
        if operation != "add" || ty != Type::F32 {
            return None;
        }
        if space != Space::Generic {
            return Some(self.imm(types::I32, 1));
        }
        let start = self.context_field(types::I64, offset_of!(BlockContext, shared));
        let bytes = self.context_field(types::I64, offset_of!(BlockContext, shared_bytes));
        let address = self.host_address(place);
        let offset = self.b.ins().isub(address, start);
        let elsewhere = self
            .b
            .ins()
            .icmp(IntCC::UnsignedGreaterThanOrEqual, offset, bytes);
        Some(self.b.ins().uextend(types::I32, elsewhere))
    }

    /// Halves, alone or in pairs.
    fn half_atomic(&mut self, place: Place, operation: &str, ty: Type, value: Value) -> Value {
        let mut code = match operation {
            "add" => atomics::HALF_ADD,
            "min" => atomics::HALF_MIN,
            _ => atomics::HALF_MAX,
        };
        if matches!(ty, Type::Bf16 | Type::Bf16x2) {
            code |= atomics::HALF_BF16;
        }
        let packed = ty.bytes() == 4;
        if packed {
            code |= atomics::HALF_PACKED;
        }
        let code = self.imm(types::I32, i64::from(code));
        let value = if packed {
            value
        } else {
            self.b.ins().uextend(types::I32, value)
        };
        let address = self.host_address(place);
        let old = self.helper(Helper::AtomicHalf, &[address, value, code], types::I32);
        if packed {
            old
        } else {
            self.b.ins().ireduce(types::I16, old)
        }
    }

    /// `.b128`: a comparison and exchange, or an exchange.
    fn wide_atomic(&mut self, place: Place, value: Value, swap: Option<Value>) -> Value {
        let address = self.host_address(place);
        let (operands, flags) = (self.scratch(), self.private_flags());
        self.b.ins().store(flags, value, operands, 0);
        let new = swap.unwrap_or(value);
        self.b.ins().store(flags, new, operands, 16);
        let compare = self.imm(types::I32, i64::from(swap.is_some()));
        self.helper(Helper::Atomic128, &[address, operands, compare], types::I32);
        self.b.ins().load(types::I128, flags, operands, 0)
    }

    /// On memory that only this host thread reaches.
    fn private_atomic(
        &mut self,
        place: Place,
        operation: &str,
        ty: Type,
        value: Value,
        swap: Option<Value>,
    ) -> Value {
        let old = self
            .b
            .ins()
            .load(clif(ty), place.flags, place.base, place.offset);
        let new = match operation {
            "add" if matches!(ty, Type::F32 | Type::F64) => self.b.ins().fadd(old, value),
            "add" => self.b.ins().iadd(old, value),
            "and" => self.b.ins().band(old, value),
            "or" => self.b.ins().bor(old, value),
            "xor" => self.b.ins().bxor(old, value),
            "min" if ty.is_signed() => self.b.ins().smin(old, value),
            "min" => self.b.ins().umin(old, value),
            "max" if ty.is_signed() => self.b.ins().smax(old, value),
            "max" => self.b.ins().umax(old, value),
            "cas" => {
                // Comparison is of bits, also for floats (`.b32` may be read into any register).
                let (a, b) = (
                    self.cast(old, int_of(clif(ty))),
                    self.cast(value, int_of(clif(ty))),
                );
                let same = self.b.ins().icmp(IntCC::Equal, a, b);
                self.b.ins().select(same, swap.unwrap_or(old), old)
            }
            "inc" => {
                let one = self.imm(types::I32, 1);
                let more = self.b.ins().iadd(old, one);
                let wraps = self
                    .b
                    .ins()
                    .icmp(IntCC::UnsignedGreaterThanOrEqual, old, value);
                let zero = self.imm(types::I32, 0);
                self.b.ins().select(wraps, zero, more)
            }
            "dec" => {
                let one = self.imm(types::I32, 1);
                let less = self.b.ins().isub(old, one);
                let above = self.b.ins().icmp(IntCC::UnsignedGreaterThan, old, value);
                let zero = self.b.ins().icmp_imm_u(IntCC::Equal, old, 0);
                let wraps = self.b.ins().bor(above, zero);
                self.b.ins().select(wraps, value, less)
            }
            _ => value,
        };
        self.b
            .ins()
            .store(place.flags, new, place.base, place.offset);
        old
    }

    /// On memory that other blocks reach at the same time. `flush` is there for a single's addition.
    #[expect(
        clippy::too_many_arguments,
        reason = "an operation with all its operands"
    )]
    fn device_atomic(
        &mut self,
        address: Value,
        flags: MemFlagsData,
        operation: &str,
        ty: Type,
        value: Value,
        swap: Option<Value>,
        flush: Option<Value>,
    ) -> Value {
        let int = int_of(clif(ty));
        let operation = match (operation, flush) {
            ("add", Some(flush)) => {
                return self.helper(Helper::AddF32, &[address, value, flush], types::F32);
            }
            ("add", _) if ty == Type::F64 => {
                return self.helper(Helper::AddF64, &[address, value], types::F64);
            }
            ("inc", _) => return self.helper(Helper::Inc, &[address, value], types::I32),
            ("dec", _) => return self.helper(Helper::Dec, &[address, value], types::I32),
            ("cas", _) => {
                let (value, swap) = (self.cast(value, int), self.cast(swap.unwrap_or(value), int));
                return self.b.ins().atomic_cas(flags, address, value, swap);
            }
            ("add", _) => AtomicRmwOp::Add,
            ("and", _) => AtomicRmwOp::And,
            ("or", _) => AtomicRmwOp::Or,
            ("xor", _) => AtomicRmwOp::Xor,
            ("min", _) if ty.is_signed() => AtomicRmwOp::Smin,
            ("min", _) => AtomicRmwOp::Umin,
            ("max", _) if ty.is_signed() => AtomicRmwOp::Smax,
            ("max", _) => AtomicRmwOp::Umax,
            _ => AtomicRmwOp::Xchg,
        };
        let value = self.cast(value, int);
        self.b
            .ins()
            .atomic_rmw(int, flags, operation, address, value)
    }

    pub(super) fn memory_other(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        match form.instruction.opcode {
            "cvta" => self.convert_address(form),
            "isspacep" => self.is_in_space(form),
            "membar" | "fence" => self.fence(form),
            "createpolicy" => self.create_policy(form),
            "mapa" | "getctarank" => self.cluster_address(form),
            _ => {
                // Hints: nothing is kept anywhere that they could move or drop.
                form.one_of(&SPACES);
                for word in ["L1", "L2", "tensormap"] {
                    form.take(word);
                }
                take_hints(form);
                form.finish()
            }
        }
    }

    fn fence(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        // Threads of a block share a host thread: only wider scopes need the hardware's fence.
        let block = form.take("cta");
        for word in &form.instruction.modifiers {
            let known = matches!(
                *word,
                "sc" | "acq_rel"
                    | "acquire"
                    | "release"
                    | "relaxed"
                    | "cluster"
                    | "gpu"
                    | "gl"
                    | "sys"
                    | "proxy"
                    | "alias"
                    | "async"
                    | "generic"
                    | "global"
                    | "mbarrier_init"
                    | "shared::cta"
                    | "shared::cluster"
                    | "async.global"
                    | "async::generic"
                    | "tensormap::generic"
            ) || word.starts_with("sync_restrict::");
            if known {
                form.take(word);
            }
        }
        form.finish()?;
        if !block {
            self.b.ins().fence();
        }
        Ok(())
    }

    /// A cache policy: its number says nothing, and nobody asks.
    fn create_policy(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        for word in ["fractional", "range", "cvt", "L2", "global", "b64"] {
            form.take(word);
        }
        take_hints(form);
        form.finish()?;
        let Some(to) = form.instruction.operands.first() else {
            return Err(form.invalid("a destination is needed"));
        };
        let policy = self.imm(types::I64, 1);
        self.write(to, Type::B64, policy)
    }

    /// `mapa` and `getctarank`: a cluster is one block, the one with rank 0.
    fn cluster_address(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        form.take("shared::cluster");
        let ty = form.ty()?;
        form.finish()?;
        match (
            form.instruction.opcode,
            form.instruction.operands.as_slice(),
        ) {
            ("mapa", [to, address, rank]) if ty.is_unsigned() => {
                self.read(rank, Type::U32)?;
                let address = self.read(address, ty)?;
                self.write(to, ty, address)
            }
            ("getctarank", [to, address]) if ty.is_unsigned() => {
                self.read(address, ty)?;
                let rank = self.imm(types::I32, 0);
                self.write(to, Type::U32, rank)
            }
            _ => Err(form.invalid("the operands do not fit")),
        }
    }

    /// The word that says how far the thread's stack is used, as an offset from its first byte.
    fn stack_word(&mut self) -> (Value, Value) {
        let bytes = self.context_field(types::I64, offset_of!(BlockContext, thread_bytes));
        let word = self.imm(types::I64, 8);
        let limit = self.b.ins().isub(bytes, word);
        (self.b.ins().iadd(self.thread, limit), limit)
    }

    /// Where a thread or function begins: a kernel's stack is empty, a function's is its caller's.
    pub(super) fn begin_stack(&mut self) {
        let flags = self.private_flags();
        if self.function.is_kernel && self.layout.allocates {
            let (word, limit) = self.stack_word();
            let bytes = self.imm(types::I64, i64::from(STACK_BYTES) - 8);
            let start = self.b.ins().isub(limit, bytes);
            self.b.ins().store(flags, start, word, 0);
        } else if let Some(kept) = self.frame_layout.stack {
            let (word, _) = self.stack_word();
            let used = self.b.ins().load(types::I64, flags, word, 0);
            let frame = self.frame;
            self.b.ins().store(flags, used, frame, kept as i32);
        }
    }

    /// Gives back what a function allocated.
    pub(super) fn restore_stack(&mut self) {
        if let Some(kept) = self.frame_layout.stack {
            let (flags, frame) = (self.private_flags(), self.frame);
            let (word, _) = self.stack_word();
            let used = self.b.ins().load(types::I64, flags, frame, kept as i32);
            self.b.ins().store(flags, used, word, 0);
        }
    }

    /// `alloca`
    pub(super) fn allocate(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let ty = form.ty()?;
        form.finish()?;
        let (to, size, align) = match form.instruction.operands.as_slice() {
            [to, size] => (to, size, 8),
            [to, size, Operand::Int(align)] => (to, size, *align),
            _ => return Err(form.invalid("a destination and a size are needed")),
        };
        let aligned =
            u32::try_from(align).is_ok_and(|align| align.is_power_of_two() && align <= FRAME_ALIGN);
        if !aligned || !matches!(ty, Type::U32 | Type::U64) {
            return Err(form.unsupported("this alignment or type"));
        }
        let size = self.read(size, ty)?;
        let size = if ty == Type::U32 {
            self.b.ins().uextend(types::I64, size)
        } else {
            size
        };
        let (flags, (word, limit)) = (self.private_flags(), self.stack_word());
        let used = self.b.ins().load(types::I64, flags, word, 0);
        let up = self.imm(types::I64, align - 1);
        let start = self.b.ins().iadd(used, up);
        let mask = self.imm(types::I64, -align);
        let start = self.b.ins().band(start, mask);
        let left = self.b.ins().isub(limit, start);
        let beyond = self.b.ins().icmp(IntCC::UnsignedGreaterThan, start, limit);
        let over = self.b.ins().icmp(IntCC::UnsignedGreaterThan, size, left);
        let over = self.b.ins().bor(beyond, over);
        let site = self.site(form.instruction.line, SiteKind::Stack);
        self.fault_if(over, start, site);
        let end = self.b.ins().iadd(start, size);
        self.b.ins().store(flags, end, word, 0);
        let start = self.narrowed(start, ty);
        self.write(to, ty, start)
    }

    fn narrowed(&mut self, value: Value, ty: Type) -> Value {
        match ty.bytes() {
            4 => self.b.ins().ireduce(types::I32, value),
            _ => value,
        }
    }

    /// `stacksave` and `stackrestore`.
    pub(super) fn move_stack(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let ty = form.ty()?;
        form.finish()?;
        let [operand] = form.instruction.operands.as_slice() else {
            return Err(form.invalid("one register is needed"));
        };
        if !matches!(ty, Type::U32 | Type::U64) {
            return Err(form.unsupported("this type"));
        }
        let (flags, (word, _)) = (self.private_flags(), self.stack_word());
        if form.instruction.opcode == "stacksave" {
            let used = self.b.ins().load(types::I64, flags, word, 0);
            let used = self.narrowed(used, ty);
            return self.write(operand, ty, used);
        }
        let used = self.read(operand, ty)?;
        let used = match ty {
            Type::U32 => self.b.ins().uextend(types::I64, used),
            _ => used,
        };
        self.b.ins().store(flags, used, word, 0);
        Ok(())
    }

    /// Where a space begins among generic addresses, and its bytes; device memory is where it is.
    fn window(&mut self, space: Space) -> Option<(Value, Value)> {
        let (start, bytes) = match space {
            Space::Shared => (
                offset_of!(BlockContext, shared),
                offset_of!(BlockContext, shared_bytes),
            ),
            Space::Param => (
                offset_of!(BlockContext, params),
                offset_of!(BlockContext, param_bytes),
            ),
            Space::Local => {
                let bytes = self.context_field(types::I64, offset_of!(BlockContext, thread_bytes));
                return Some((self.thread, bytes));
            }
            _ => return None,
        };
        Some((
            self.context_field(types::I64, start),
            self.context_field(types::I64, bytes),
        ))
    }

    fn convert_address(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let to_space = form.take("to");
        let space = form
            .one_of(&SPACES)
            .ok_or_else(|| form.invalid("a space is missing"))?;
        let ty = form.ty()?;
        form.finish()?;
        let [to, from] = form.instruction.operands.as_slice() else {
            return Err(form.invalid("a destination and an address are needed"));
        };
        if ty != Type::U64 {
            return Err(form.unsupported("addresses of another size than 64 bits"));
        }
        let address = self.read(from, ty)?;
        let result = match self.window(space) {
            None => address,
            Some((start, _)) if to_space => self.b.ins().isub(address, start),
            Some((start, _)) => self.b.ins().iadd(address, start),
        };
        self.write(to, ty, result)
    }

    fn is_in_space(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let space = form
            .one_of(&SPACES)
            .ok_or_else(|| form.unsupported("this space"))?;
        form.finish()?;
        let [to, address] = form.instruction.operands.as_slice() else {
            return Err(form.invalid("a destination and an address are needed"));
        };
        let address = self.read(address, Type::U64)?;
        let inside = match space {
            Space::Const => self.is_constant(address)?,
            // What is in no other window; parameters are a part of it.
            Space::Global => {
                let mut elsewhere = self.is_constant(address)?;
                for space in [Space::Shared, Space::Local] {
                    let inside = self.is_in_window(address, space);
                    elsewhere = self.b.ins().bor(elsewhere, inside);
                }
                self.not(elsewhere)
            }
            space => self.is_in_window(address, space),
        };
        self.write(to, Type::Pred, inside)
    }

    fn is_in_window(&mut self, address: Value, space: Space) -> Value {
        match self.window(space) {
            Some((start, bytes)) => {
                let offset = self.b.ins().isub(address, start);
                self.b.ins().icmp(IntCC::UnsignedLessThan, offset, bytes)
            }
            None => self.imm(types::I8, 0),
        }
    }

    /// Whether an address is one of a `.const` variable's.
    fn is_constant(&mut self, address: Value) -> Result<Value, PtxError> {
        let mut inside = self.imm(types::I8, 0);
        let variables = self.layout.module.variables.iter().enumerate();
        for (index, variable) in variables.filter(|(_, variable)| variable.space == Space::Const) {
            let start = self.symbol_address(Symbol::Variable(index as u32))?;
            let offset = self.b.ins().isub(address, start);
            let bytes = self.imm(types::I64, variable.bytes.max(1).cast_signed());
            let this = self.b.ins().icmp(IntCC::UnsignedLessThan, offset, bytes);
            inside = self.b.ins().bor(inside, this);
        }
        Ok(inside)
    }
}

pub(super) fn check_type(form: &Form<'_, '_>, ty: Type, vector: u32) -> Result<(), PtxError> {
    if ty == Type::Pred || ty.bytes() * vector > 32 {
        return Err(form.unsupported("this type or vector"));
    }
    Ok(())
}

/// The elements of a vector operand, or the one scalar.
pub(super) fn parts<'o>(
    form: &Form<'_, '_>,
    operand: &'o Operand,
    vector: u32,
) -> Result<&'o [Operand], PtxError> {
    let parts = match operand {
        Operand::Vector(parts) => parts.as_slice(),
        scalar => std::slice::from_ref(scalar),
    };
    if parts.len() != vector as usize {
        return Err(form.invalid("the vector has another number of elements"));
    }
    Ok(parts)
}
