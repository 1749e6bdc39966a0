//! Barriers and warp instructions: what a thread hands to the scheduler before it waits, and what it
//! takes from it when it goes on. Who waits for whom is `exec::block`'s business alone.

use std::mem::offset_of;

use cranelift_codegen::ir::{InstBuilder, types};

use super::analysis;
use super::form::Form;
use super::lower::{Lower, clif};
use crate::exec::context::{CLUSTER_BARRIER, Exchange, wait};
use crate::exec::helpers::Helper;
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Type};

impl Lower<'_, '_, '_> {
    fn store_mask(&mut self, mask: Option<&Operand>) -> Result<(), PtxError> {
        let mask = match mask {
            Some(mask) => self.read(mask, Type::B32)?,
            // Lanes that come to the same place belong together; the place is the group's name.
            None => self.imm(types::I32, (self.index as i64) << 17 | self.at as i64),
        };
        self.store_exchange(mask, offset_of!(Exchange, mask));
        Ok(())
    }

    fn store_operand(&mut self, operand: &Operand, ty: Type) -> Result<(), PtxError> {
        let value = self.read(operand, ty)?;
        let value = self.cast(value, super::lower::int_of(clif(ty)));
        let value = if ty.bits() == 64 {
            value
        } else {
            self.b.ins().uextend(types::I64, value)
        };
        self.store_exchange(value, offset_of!(Exchange, operand));
        Ok(())
    }

    /// Which barrier, and for how many threads (0: all).
    fn store_barrier(
        &mut self,
        form: &Form<'_, '_>,
        barrier: &Operand,
        count: Option<&Operand>,
    ) -> Result<(), PtxError> {
        if matches!(barrier, Operand::Int(number) if !(0..16).contains(number)) {
            return Err(form.invalid("a block has barriers 0 to 15"));
        }
        let barrier = self.read(barrier, Type::U32)?;
        self.store_exchange(barrier, offset_of!(Exchange, control));
        let count = match count {
            Some(count) => self.read(count, Type::U32)?,
            None => self.imm(types::I32, 0),
        };
        self.store_exchange(count, offset_of!(Exchange, mask));
        Ok(())
    }

    /// Hands over the operands of an instruction that waits; the kind of waiting.
    pub(super) fn wait_operands(&mut self, form: &Form<'_, '_>) -> Result<u32, PtxError> {
        let operands = form.instruction.operands.as_slice();
        let missing = || form.invalid("operands are missing");
        let opcode = form.instruction.opcode;
        if analysis::is_matrix(form.instruction) {
            return self.matrix_operands(form);
        }
        if matches!(opcode, "bar" | "barrier") {
            return self.barrier_operands(form);
        }
        if opcode == "activemask" {
            form.take("b32");
            form.finish()?;
            self.store_mask(None)?;
            return Ok(wait::ACTIVE_MASK | wait::CONVERGED);
        }
        let sync = form.take("sync");
        let converged = if sync { 0 } else { wait::CONVERGED };
        let kind = match opcode {
            "shfl" => {
                let kind = form
                    .one_of(&[
                        ("up", wait::SHFL_UP),
                        ("down", wait::SHFL_DOWN),
                        ("bfly", wait::SHFL_BFLY),
                        ("idx", wait::SHFL_IDX),
                    ])
                    .ok_or_else(|| form.invalid("up, down, bfly or idx is missing"))?;
                let ty = form.ty()?;
                form.finish()?;
                let ([_, value, lane, clamp], mask) =
                    operands.split_at_checked(4).ok_or_else(missing)?
                else {
                    return Err(missing());
                };
                if ty.bits() != 32 {
                    return Err(form.unsupported("this type"));
                }
                self.store_operand(value, Type::B32)?;
                let lane = self.read(lane, Type::U32)?;
                self.store_exchange(lane, offset_of!(Exchange, control));
                let clamp = self.read(clamp, Type::U32)?;
                self.store_exchange(clamp, offset_of!(Exchange, clamp));
                self.store_mask(if sync {
                    Some(mask.first().ok_or_else(missing)?)
                } else {
                    None
                })?;
                kind
            }
            "vote" => {
                let kind = form
                    .one_of(&[
                        ("all", wait::VOTE_ALL),
                        ("any", wait::VOTE_ANY),
                        ("uni", wait::VOTE_UNI),
                        ("ballot", wait::VOTE_BALLOT),
                    ])
                    .ok_or_else(|| form.invalid("all, any, uni or ballot is missing"))?;
                form.ty()?;
                form.finish()?;
                let [_, value, mask @ ..] = operands else {
                    return Err(missing());
                };
                self.store_operand(value, Type::Pred)?;
                self.store_mask(if sync {
                    Some(mask.first().ok_or_else(missing)?)
                } else {
                    None
                })?;
                kind
            }
            "match" => {
                let kind = form
                    .one_of(&[("any", wait::MATCH_ANY), ("all", wait::MATCH_ALL)])
                    .ok_or_else(|| form.invalid("any or all is missing"))?;
                let ty = form.ty()?;
                form.finish()?;
                let [_, value, mask] = operands else {
                    return Err(missing());
                };
                self.store_operand(value, ty)?;
                self.store_mask(Some(mask))?;
                kind
            }
            "redux" => {
                const OPERATIONS: [&str; 6] = ["add", "min", "max", "and", "or", "xor"];
                let operation = OPERATIONS.into_iter().find(|word| form.take(word));
                let mut flags = 0;
                for (word, flag) in [("abs", wait::MAGNITUDES), ("NaN", wait::NAN_WINS)] {
                    flags |= if form.take(word) { flag } else { 0 };
                }
                let ty = form.ty()?;
                form.finish()?;
                if flags != 0 && ty != Type::F32 {
                    return Err(form.unsupported("this operation and type"));
                }
                let flags = self.imm(types::I32, i64::from(flags));
                self.store_exchange(flags, offset_of!(Exchange, control));
                let kind = match (operation, ty) {
                    (Some("min"), Type::F32) => wait::REDUX_MIN_F,
                    (Some("max"), Type::F32) => wait::REDUX_MAX_F,
                    (Some("add"), Type::U32 | Type::S32) => wait::REDUX_ADD,
                    (Some("min"), Type::U32) => wait::REDUX_MIN_U,
                    (Some("max"), Type::U32) => wait::REDUX_MAX_U,
                    (Some("min"), Type::S32) => wait::REDUX_MIN_S,
                    (Some("max"), Type::S32) => wait::REDUX_MAX_S,
                    (Some("and"), Type::B32) => wait::REDUX_AND,
                    (Some("or"), Type::B32) => wait::REDUX_OR,
                    (Some("xor"), Type::B32) => wait::REDUX_XOR,
                    _ => return Err(form.unsupported("this operation and type")),
                };
                let [_, value, mask] = operands else {
                    return Err(missing());
                };
                self.store_operand(value, ty)?;
                self.store_mask(Some(mask))?;
                kind
            }
            _ => {
                form.finish()?;
                let [_, mask] = operands else {
                    return Err(missing());
                };
                self.store_mask(Some(mask))?;
                wait::ELECT
            }
        };
        Ok(kind | converged)
    }

    fn barrier_operands(&mut self, form: &Form<'_, '_>) -> Result<u32, PtxError> {
        let operands = form.instruction.operands.as_slice();
        let missing = || form.invalid("operands are missing");
        form.take("cta");
        form.take("aligned");
        if form.take("cluster") {
            // The cluster is the block: threads wait here until all of them are here.
            if !form.take("wait") {
                return Err(form.unsupported("this form"));
            }
            form.take("acquire");
            form.finish()?;
            let barrier = self.imm(types::I32, i64::from(CLUSTER_BARRIER));
            self.store_exchange(barrier, offset_of!(Exchange, control));
            let all = self.imm(types::I32, 0);
            self.store_exchange(all, offset_of!(Exchange, mask));
            return Ok(wait::BARRIER);
        }
        if form.take("warp") {
            form.take("sync");
            form.finish()?;
            self.store_mask(Some(operands.first().ok_or_else(missing)?))?;
            return Ok(wait::WARP_SYNC);
        }
        if form.take("red") {
            let kind = form
                .one_of(&[
                    ("popc", wait::BARRIER_POPC),
                    ("and", wait::BARRIER_AND),
                    ("or", wait::BARRIER_OR),
                ])
                .ok_or_else(|| form.invalid("popc, and or or is missing"))?;
            form.ty()?;
            form.finish()?;
            let (barrier, count, value) = match operands {
                [_, barrier, value] => (barrier, None, value),
                [_, barrier, count, value] => (barrier, Some(count), value),
                _ => return Err(missing()),
            };
            self.store_operand(value, Type::Pred)?;
            self.store_barrier(form, barrier, count)?;
            return Ok(kind);
        }
        if !form.take("sync") {
            return Err(form.unsupported("this form"));
        }
        form.finish()?;
        if !self.layout.simple_waits[self.index] {
            let barrier = operands.first().ok_or_else(missing)?;
            self.store_barrier(form, barrier, operands.get(1))?;
        }
        Ok(wait::BARRIER)
    }

    /// Takes the results after waiting.
    pub(super) fn wait_results(&mut self, form: &Form<'_, '_>, kind: u32) -> Result<(), PtxError> {
        let kind = kind & !wait::CONVERGED;
        if kind == wait::MATRIX {
            return self.matrix_results(form);
        }
        if matches!(kind, wait::BARRIER | wait::WARP_SYNC) {
            return Ok(());
        }
        let Some(to) = form.instruction.operands.first() else {
            return Ok(());
        };
        let predicate_only = matches!(
            kind,
            wait::BARRIER_AND | wait::BARRIER_OR | wait::VOTE_ALL | wait::VOTE_ANY | wait::VOTE_UNI
        );
        if predicate_only {
            let predicate = self.load_exchange(types::I8, offset_of!(Exchange, predicate));
            return self.write(to, Type::Pred, predicate);
        }
        let result = self.exchange_result(types::I32);
        match to {
            Operand::Pair(value, predicate) => {
                if let Some(value) = value {
                    self.write_wide(&Operand::Reg(*value), Type::B32, result)?;
                }
                let taken = self.load_exchange(types::I8, offset_of!(Exchange, predicate));
                self.write_predicate(*predicate, taken)
            }
            // LLVM 14 gives `match` of 64 bits a result as wide.
            to => self.write_wide(to, Type::B32, result),
        }
    }

    /// Instructions for what is not here: dependent grids, and registers to give away.
    pub(super) fn hint(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        for word in [
            "launch_dependents",
            "wait",
            "inc",
            "dec",
            "sync",
            "aligned",
            "u32",
        ] {
            form.take(word);
        }
        form.finish()
    }

    /// `bar.arrive`: counted at once, nothing is waited for.
    pub(super) fn arrive(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        form.take("cta");
        form.take("aligned");
        let cluster = form.take("cluster");
        if !form.take("arrive") {
            return Err(form.unsupported("this form"));
        }
        if cluster {
            // Counted when the thread waits, which it must before it arrives again.
            for word in ["release", "relaxed"] {
                form.take(word);
            }
            return form.finish();
        }
        form.finish()?;
        let [barrier, count] = form.instruction.operands.as_slice() else {
            return Err(form.invalid("a barrier and a number of threads are needed"));
        };
        let barrier = self.read(barrier, Type::U32)?;
        // How many it waits for is what the threads that wait there say.
        self.read(count, Type::U32)?;
        self.helper(
            Helper::Arrive,
            &[self.context, self.thread, barrier],
            types::I32,
        );
        Ok(())
    }
}
