//! `mbarrier` objects and asynchronous copies. Copies are done at once (see `exec::asynchronous`), so that
//! waiting for them is nothing to do; both ends are checked like any access.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::form::Form;
use super::lower::Lower;
use super::memory::{SPACES, is_policy, take_hints, take_scopes};
use crate::exec::asynchronous::{ARRIVE, ARRIVE_DROP, COMPLETE, EXPECT, INIT};
use crate::exec::context::{BlockContext, SiteKind};
use crate::exec::helpers::Helper;
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Space, Type};

impl Lower<'_, '_, '_> {
    /// The host address of an mbarrier object.
    fn barrier_object(
        &mut self,
        form: &Form<'_, '_>,
        operand: &Operand,
        space: Space,
    ) -> Result<Value, PtxError> {
        let place = self.access(form, operand, space, 8)?;
        Ok(self.host_address(place))
    }

    /// Changes an mbarrier object; its state before.
    fn change_barrier(&mut self, object: Value, operation: u32, operand: Value) -> Value {
        let operation = self.imm(types::I32, i64::from(operation));
        let operand = match self.b.func.dfg.value_type(operand) {
            types::I64 => operand,
            _ => self.b.ins().uextend(types::I64, operand),
        };
        self.helper(Helper::Mbarrier, &[object, operation, operand], types::I64)
    }

    pub(super) fn mbarrier(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        const OPERATIONS: [(&str, &str); 9] = [
            ("init", "init"),
            ("inval", "inval"),
            ("arrive", "arrive"),
            ("arrive_drop", "arrive_drop"),
            ("test_wait", "wait"),
            ("try_wait", "wait"),
            ("pending_count", "pending_count"),
            ("complete_tx", "complete_tx"),
            ("expect_tx", "expect_tx"),
        ];
        let operation = form
            .one_of(&OPERATIONS)
            .ok_or_else(|| form.unsupported("this form"))?;
        take_scopes(form);
        let space = form.one_of(&SPACES).unwrap_or(Space::Generic);
        let expects = form.take("expect_tx");
        form.take("noComplete");
        let parity = form.take("parity");
        form.take("b64");
        form.finish()?;
        let operands = form.instruction.operands.as_slice();
        match (operation, operands) {
            ("init", [object, count]) => {
                let object = self.barrier_object(form, object, space)?;
                let count = self.read(count, Type::U32)?;
                self.change_barrier(object, INIT, count);
            }
            ("inval", [object]) => {
                self.barrier_object(form, object, space)?;
            }
            ("arrive" | "arrive_drop", operands) => {
                let (state, object, count) = match operands {
                    [state, object @ Operand::Address(..)] => (state, object, None),
                    [state, object @ Operand::Address(..), count] => (state, object, Some(count)),
                    [object @ Operand::Address(..), rest @ ..] => {
                        (&Operand::Sink, object, rest.first())
                    }
                    _ => return Err(form.invalid("an mbarrier's address is needed")),
                };
                let object = self.barrier_object(form, object, space)?;
                let one = self.imm(types::I32, 1);
                let mut count = match count {
                    Some(count) => self.read(count, Type::U32)?,
                    None if expects => return Err(form.invalid("a number of bytes is needed")),
                    None => one,
                };
                let mut before = None;
                if expects {
                    before = Some(self.change_barrier(object, EXPECT, count));
                    count = one;
                }
                let drop = operation == "arrive_drop";
                let arrival = if drop { ARRIVE_DROP } else { ARRIVE };
                let old = self.change_barrier(object, arrival, count);
                self.write(state, Type::B64, before.unwrap_or(old))?;
            }
            ("expect_tx" | "complete_tx", [object, bytes]) => {
                let object = self.barrier_object(form, object, space)?;
                let bytes = self.read(bytes, Type::U32)?;
                let completes = operation == "complete_tx";
                let change = if completes { COMPLETE } else { EXPECT };
                self.change_barrier(object, change, bytes);
            }
            ("wait", [done, object, state, ..]) if operands.len() <= 4 => {
                // Whoever waits asks again: between, the others get their turn.
                let object = self.barrier_object(form, object, space)?;
                let flags = self.device_flags();
                let word = self.b.ins().load(types::I64, flags, object, 0);
                let top = self.imm(types::I64, 63);
                let phase = self.b.ins().ushr(word, top);
                let phase = self.b.ins().ireduce(types::I8, phase);
                let asked = if parity {
                    let parity = self.read(state, Type::U32)?;
                    let one = self.imm(types::I32, 1);
                    let parity = self.b.ins().band(parity, one);
                    self.b.ins().ireduce(types::I8, parity)
                } else {
                    let state = self.read(state, Type::B64)?;
                    let state = self.b.ins().ushr(state, top);
                    self.b.ins().ireduce(types::I8, state)
                };
                let over = self.b.ins().icmp(IntCC::NotEqual, phase, asked);
                self.write(done, Type::Pred, over)?;
            }
            ("pending_count", [count, state]) => {
                let state = self.read(state, Type::B64)?;
                let state = self.b.ins().ireduce(types::I32, state);
                let mask = self.imm(types::I32, (1 << 20) - 1);
                let pending = self.b.ins().band(state, mask);
                self.write(count, Type::U32, pending)?;
            }
            _ => return Err(form.invalid("the operands do not fit")),
        }
        Ok(())
    }

    pub(super) fn copy_asynchronously(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        if !form.take("async") {
            return Err(form.unsupported("this form"));
        }
        if form.take("bulk") {
            return self.copy_bulk(form);
        }
        if form.take("commit_group") || form.take("wait_group") || form.take("wait_all") {
            return form.finish();
        }
        let operands = form.instruction.operands.as_slice();
        if form.take("mbarrier") {
            form.take("arrive");
            let counted = form.take("noinc");
            let space = form.one_of(&SPACES).unwrap_or(Space::Generic);
            form.take("b64");
            form.finish()?;
            let [object] = operands else {
                return Err(form.invalid("an mbarrier's address is needed"));
            };
            let object = self.barrier_object(form, object, space)?;
            // Otherwise the pending count goes up and down again.
            if counted {
                let one = self.imm(types::I32, 1);
                self.change_barrier(object, ARRIVE, one);
            }
            return Ok(());
        }
        let whole = form.take("cg");
        if !whole && !form.take("ca") {
            return Err(form.unsupported("this form"));
        }
        if !(form.one_of(&SPACES) == Some(Space::Shared)
            && form.one_of(&SPACES) == Some(Space::Global))
        {
            return Err(form.invalid("the copy is from .global to .shared"));
        }
        take_hints(form);
        form.finish()?;
        let operands = match operands {
            [operands @ .., _policy] if is_policy(form) => operands,
            operands => operands,
        };
        let [to, from, Operand::Int(bytes @ (4 | 8 | 16)), rest @ ..] = operands else {
            return Err(form.invalid("two addresses and 4, 8 or 16 bytes are needed"));
        };
        if whole && *bytes != 16 {
            return Err(form.invalid(".cg copies 16 bytes"));
        }
        let bytes = *bytes as u32;
        let to = self.access(form, to, Space::Shared, bytes)?;
        let to = self.host_address(to);
        let read = match rest {
            [] => {
                let from = self.access(form, from, Space::Global, bytes)?;
                let from = self.host_address(from);
                let flags = self.device_flags();
                let (ty, step) = if bytes == 4 {
                    (types::I32, 4)
                } else {
                    (types::I64, 8)
                };
                for at in (0..bytes as i32).step_by(step) {
                    let value = self.b.ins().load(ty, flags, from, at);
                    self.b.ins().store(flags, value, to, at);
                }
                return Ok(());
            }
            [ignore] if self.is_predicate(ignore) => {
                let ignore = self.read(ignore, Type::Pred)?;
                let zero = self.imm(types::I32, 0);
                let all = self.imm(types::I32, i64::from(bytes));
                self.b.ins().select(ignore, zero, all)
            }
            [read] => self.read(read, Type::U32)?,
            _ => return Err(form.invalid("too many operands")),
        };
        let from = self.generic_address(form, from, Space::Global)?;
        let read = self.b.ins().uextend(types::I64, read);
        let high = self.imm(types::I64, 32);
        let sizes = self.b.ins().ishl(read, high);
        let fill = self.imm(types::I64, i64::from(bytes));
        let sizes = self.b.ins().bor(sizes, fill);
        let arguments = [self.context, self.thread, to, from, sizes];
        let good = self.helper(Helper::CopyAsync, &arguments, types::I32);
        self.fault_unless(good, form, "global", bytes, bytes, from);
        Ok(())
    }

    /// `cp.async.bulk` in its simple forms: between global and shared memory.
    fn copy_bulk(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        if form.take("commit_group") || form.take("wait_group") {
            form.take("read");
            return form.finish();
        }
        let prefetch = form.take("prefetch");
        let (to_space, from_space) = if prefetch {
            form.take("L2");
            (None, form.one_of(&SPACES))
        } else {
            (form.one_of(&SPACES), form.one_of(&SPACES))
        };
        let completes = form.take("mbarrier::complete_tx::bytes");
        form.take("bulk_group");
        take_hints(form);
        form.finish()?;
        if prefetch {
            return Ok(());
        }
        let (Some(to_space), Some(from_space)) = (to_space, from_space) else {
            return Err(form.invalid("two spaces are needed"));
        };
        let operands = match form.instruction.operands.as_slice() {
            [operands @ .., _policy] if is_policy(form) => operands,
            operands => operands,
        };
        let ([to, from, bytes], object) = match operands {
            [to, from, bytes] if !completes => ([to, from, bytes], None),
            [to, from, bytes, object] if completes => ([to, from, bytes], Some(object)),
            _ => return Err(form.invalid("the operands do not fit")),
        };
        let to = self.generic_address(form, to, to_space)?;
        let from = self.generic_address(form, from, from_space)?;
        let bytes = self.read(bytes, Type::U32)?;
        let object = match object {
            Some(object) => Some(self.barrier_object(form, object, Space::Shared)?),
            None => None,
        };
        let wide = self.b.ins().uextend(types::I64, bytes);
        let arguments = [self.context, self.thread, to, from, wide];
        let good = self.helper(Helper::CopyBulk, &arguments, types::I32);
        self.fault_unless(good, form, "bulk copy", 16, 16, from);
        if let Some(object) = object {
            self.change_barrier(object, COMPLETE, bytes);
        }
        Ok(())
    }

    fn is_predicate(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Reg(reg) | Operand::Not(reg) => self.register_type(*reg) == Type::Pred,
            _ => false,
        }
    }

    /// The generic address that an operand means; not checked.
    pub(super) fn generic_address(
        &mut self,
        form: &Form<'_, '_>,
        operand: &Operand,
        space: Space,
    ) -> Result<Value, PtxError> {
        let Operand::Address(base, offset) = *operand else {
            return Err(form.invalid("an address in brackets is needed"));
        };
        let space = self.space_of(base, space);
        let base = self.base(base)?;
        let offset = self.imm(types::I64, offset);
        let address = self.b.ins().iadd(base, offset);
        Ok(match space {
            Space::Shared => {
                let start = self.context_field(types::I64, offset_of!(BlockContext, shared));
                self.b.ins().iadd(address, start)
            }
            Space::Local => self.b.ins().iadd(address, self.thread),
            _ => address,
        })
    }

    /// Faults where a helper found that an access is not allowed.
    pub(super) fn fault_unless(
        &mut self,
        good: Value,
        form: &Form<'_, '_>,
        space: &'static str,
        bytes: u32,
        align: u32,
        address: Value,
    ) {
        let kind = SiteKind::Access {
            space,
            bytes,
            align,
        };
        let site = self.site(form.instruction.line, kind);
        let bad = self.b.ins().icmp_imm_u(IntCC::Equal, good, 0);
        self.fault_if(bad, address, site);
    }
}
