//! Loads and stores of a gang whose addresses are evenly spaced: one check of the whole range, and a
//! vector where the values lie side by side. Where the check fails the gang parts before the access, and
//! the code for single threads finds out whose fault it is.

use std::mem::offset_of;

use cranelift_codegen::ir::{BlockArg, InstBuilder, MemFlagsData, Value, types};

use super::{Class, LANES, Lower, PARTS, vector_of};
use crate::compile::form::Form;
use crate::compile::lower::clif;
use crate::compile::memory::{SPACES, check_type, parts, take_order};
use crate::exec::MemoryView;
use crate::exec::context::BlockContext;
use crate::ptx::PtxError;
use crate::ptx::ast::{Base, Instruction, Operand, Space, Type};

impl<'l, 'a> Lower<'l, 'a, '_> {
    pub(super) fn range_access(
        &mut self,
        instruction: &'l Instruction<'a>,
        stride: i64,
    ) -> Result<(), PtxError> {
        let form = Form::new(instruction);
        let store = instruction.opcode == "st";
        let space = form.one_of(&SPACES).unwrap_or(Space::Generic);
        let order = take_order(&form);
        let ty = form.ty()?;
        form.finish()?;
        let (value, address) = match (store, instruction.operands.as_slice()) {
            (false, [to, address, ..]) => (to, address),
            (true, [address, from, ..]) => (from, address),
            _ => return Err(form.invalid("an address and a value are needed")),
        };
        check_type(&form, ty, order.vector)?;
        if store && space == Space::Const {
            return Err(form.invalid("constant memory cannot be written"));
        }
        let elements = parts(&form, value, order.vector)?;
        let bytes = ty.bytes() * order.vector;
        let (host, offset) = self.range_place(&form, address, space, bytes, stride)?;
        let mut flags = MemFlagsData::new()
            .with_notrap()
            .with_alias_region(self.device_flags().alias_region());
        if !store && (order.read_only || space == Space::Const) {
            flags.set_readonly();
        }
        if let [Operand::Reg(reg)] = elements
            && stride == 4
            && bytes == 4
            && self.register_type(*reg).bits() == 32
        {
            let own = vector_of(clif(self.register_type(*reg)));
            if store {
                let values = self.vector_operand(&elements[0], Type::B32)?;
                if let Some(values) = values {
                    for (part, value) in values.into_iter().enumerate() {
                        self.b
                            .ins()
                            .store(flags, value, host, offset + 16 * part as i32);
                    }
                    return Ok(());
                }
            } else if self.class(*reg) == Class::Varying {
                let values: [Value; PARTS] = std::array::from_fn(|part| {
                    let at = offset + 16 * part as i32;
                    self.b.ins().load(own, flags, host, at)
                });
                self.define_varying(*reg, &values);
                return Ok(());
            }
        }
        for lane in 0..LANES {
            self.set_lane(lane);
            let at = offset + stride as i32 * lane as i32;
            for (index, element) in elements.iter().enumerate() {
                let at = at + index as i32 * ty.bytes() as i32;
                if store {
                    let value = self.read_narrow(element, ty)?;
                    self.b.ins().store(flags, value, host, at);
                } else {
                    let value = self.b.ins().load(clif(ty), flags, host, at);
                    self.write_wide(element, ty, value)?;
                }
            }
        }
        self.set_lane(0);
        self.commit();
        Ok(())
    }

    /// Checks a gang's access, and says where the first thread's happens.
    fn range_place(
        &mut self,
        form: &Form<'_, '_>,
        operand: &Operand,
        space: Space,
        bytes: u32,
        stride: i64,
    ) -> Result<(Value, i32), PtxError> {
        let &Operand::Address(Base::Reg(base), offset) = operand else {
            return Err(form.invalid("an address in a register is needed"));
        };
        if offset.unsigned_abs() > 1 << 40 {
            return Err(form.invalid("the offset is too large"));
        }
        let group = self.groups.get(self.at).copied().flatten();
        let checks = group.is_none_or(|group| group.leader == self.at);
        let size = i64::from(bytes);
        let (low, high) = group.map_or((offset, offset + size), |group| (group.low, group.high));
        let reach = stride * (LANES as i64 - 1);
        let (low, high) = (low + reach.min(0), high + reach.max(0));
        let base = self.base(Base::Reg(base))?;
        let part = self.part_block();
        let fault = std::mem::replace(&mut self.fault, part);
        let host = if space == Space::Shared {
            let start = self.context_field(types::I64, offset_of!(BlockContext, shared));
            if checks {
                let limit = self.context_field(types::I64, offset_of!(BlockContext, shared_bytes));
                let first = self.plus(base, low);
                let site = self.imm(types::I32, 0);
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
            host
        } else {
            if checks {
                // What lies between two good places so near each other is good.
                let step = (MemoryView::GUARD as i64 / size).max(1) * size;
                let last = high - size;
                let mut at = low;
                loop {
                    let address = self.plus(base, at);
                    let site = self.imm(types::I32, 0);
                    let args = [BlockArg::Value(address), BlockArg::Value(site)];
                    self.check_device(address, bytes, bytes, part, &args);
                    if at >= last {
                        break;
                    }
                    at = (at + step).min(last);
                }
            }
            base
        };
        self.fault = fault;
        match i32::try_from(offset) {
            Ok(offset) if offset.unsigned_abs() < 1 << 30 => Ok((host, offset)),
            _ => Ok((self.plus(host, offset), 0)),
        }
    }
}
