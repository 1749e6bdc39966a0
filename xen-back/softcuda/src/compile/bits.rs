//! Logic, shifts and bit fields. What takes more than a few of the host's instructions is done by
//! helpers; none of it may depend on bits beyond a value's own width.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::form::Form;
use super::lower::{Lower, clif};
use crate::exec::helpers::Helper;
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Type};

impl Lower<'_, '_, '_> {
    pub(super) fn logic(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let combine = form.one_of(&[("or", false), ("and", true)]);
        let ty = form.ty()?;
        form.finish()?;
        match form.instruction.opcode {
            "not" => {
                let (to, [from]) = Self::sources(form)?;
                let value = self.read(from, ty)?;
                let value = if ty == Type::Pred {
                    self.not(value)
                } else {
                    self.b.ins().bnot(value)
                };
                self.write(to, ty, value)
            }
            "cnot" => {
                let (to, [from]) = Self::sources(form)?;
                let value = self.read(from, ty)?;
                let zero = self.imm(clif(ty), 0);
                let is_zero = self.b.ins().icmp(IntCC::Equal, value, zero);
                let value = self.b.ins().uextend(clif(ty), is_zero);
                self.write(to, ty, value)
            }
            "lop3" => {
                let operands = form.instruction.operands.as_slice();
                let (to, a, b, c, table, with) = match (operands, combine) {
                    ([to, a, b, c, table], None) => (to, a, b, c, table, None),
                    ([to, a, b, c, table, with], Some(_)) => (to, a, b, c, table, Some(with)),
                    _ => return Err(form.invalid("another number of operands is needed")),
                };
                let &Operand::Int(table @ 0..=255) = table else {
                    return Err(form.invalid("the table is a constant from 0 to 255"));
                };
                let inputs = [self.read(a, ty)?, self.read(b, ty)?, self.read(c, ty)?];
                let mut value = self.imm(clif(ty), 0);
                for row in (0..8).filter(|row| table >> row & 1 == 1) {
                    let mut term = self.imm(clif(ty), -1);
                    for (place, &input) in inputs.iter().enumerate() {
                        let set = row >> (2 - place) & 1 == 1;
                        term = if set {
                            self.b.ins().band(term, input)
                        } else {
                            self.b.ins().band_not(term, input)
                        };
                    }
                    value = self.b.ins().bor(value, term);
                }
                let Some(with) = with else {
                    return self.write(to, ty, value);
                };
                let Operand::Pair(result, predicate) = to else {
                    return Err(form.invalid("the destination is a register and a predicate"));
                };
                let with = self.read(with, Type::Pred)?;
                let some = self.b.ins().icmp_imm_u(IntCC::NotEqual, value, 0);
                let holds = if combine == Some(true) {
                    self.b.ins().band(some, with)
                } else {
                    self.b.ins().bor(some, with)
                };
                if let Some(result) = result {
                    self.write(&Operand::Reg(*result), ty, value)?;
                }
                self.write_predicate(*predicate, holds)
            }
            opcode => {
                let (to, [a, b]) = Self::sources(form)?;
                let (a, b) = (self.read(a, ty)?, self.read(b, ty)?);
                let value = match opcode {
                    "and" => self.b.ins().band(a, b),
                    "or" => self.b.ins().bor(a, b),
                    _ => self.b.ins().bxor(a, b),
                };
                self.write(to, ty, value)
            }
        }
    }

    pub(super) fn shift(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        if form.instruction.opcode == "shf" {
            return self.funnel(form);
        }
        let ty = form.ty()?;
        form.finish()?;
        let (to, [value, amount]) = Self::sources(form)?;
        let value = self.read(value, ty)?;
        let left = form.instruction.opcode == "shl";
        let bits = i64::from(ty.bits());
        let signed = !left && ty.is_signed();
        let shifted = |lower: &mut Self, amount: Value| match (left, signed) {
            (true, _) => lower.b.ins().ishl(value, amount),
            (_, true) => lower.b.ins().sshr(value, amount),
            _ => lower.b.ins().ushr(value, amount),
        };
        // Beyond the width only zeros are left, or copies of the sign.
        let value = match *amount {
            Operand::Int(amount) => {
                let amount = i64::from(amount as u32);
                if amount >= bits && !signed {
                    self.imm(clif(ty), 0)
                } else {
                    let amount = self.imm(types::I32, amount.min(bits - 1));
                    shifted(self, amount)
                }
            }
            _ => {
                let amount = self.read(amount, Type::U32)?;
                if signed {
                    let most = self.imm(types::I32, bits - 1);
                    let amount = self.b.ins().umin(amount, most);
                    shifted(self, amount)
                } else {
                    let zero = self.imm(clif(ty), 0);
                    let beyond = IntCC::UnsignedGreaterThanOrEqual;
                    let all = self.b.ins().icmp_imm_u(beyond, amount, bits);
                    let value = shifted(self, amount);
                    self.b.ins().select(all, zero, value)
                }
            }
        };
        self.write(to, ty, value)
    }

    fn funnel(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let left = form
            .one_of(&[("l", true), ("r", false)])
            .ok_or_else(|| form.invalid("l or r is missing"))?;
        let wrap = form
            .one_of(&[("wrap", true), ("clamp", false)])
            .ok_or_else(|| form.invalid("wrap or clamp is missing"))?;
        let ty = form.ty()?;
        form.finish()?;
        let (to, [low, high, amount]) = Self::sources(form)?;
        let (low, high) = (self.read(low, ty)?, self.read(high, ty)?);
        let amount = self.read(amount, Type::U32)?;
        let amount = if wrap {
            let mask = self.imm(types::I32, 31);
            self.b.ins().band(amount, mask)
        } else {
            let most = self.imm(types::I32, 32);
            self.b.ins().umin(amount, most)
        };
        let (low, high) = (
            self.b.ins().uextend(types::I64, low),
            self.b.ins().uextend(types::I64, high),
        );
        let half = self.imm(types::I64, 32);
        let high = self.b.ins().ishl(high, half);
        let both = self.b.ins().bor(low, high);
        let value = if left {
            let value = self.b.ins().ishl(both, amount);
            self.b.ins().ushr(value, half)
        } else {
            self.b.ins().ushr(both, amount)
        };
        let value = self.b.ins().ireduce(types::I32, value);
        self.write(to, ty, value)
    }

    pub(super) fn bits(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let opcode = form.instruction.opcode;
        let shift_amount = opcode == "bfind" && form.take("shiftamt");
        let wrap = if opcode == "bmsk" || opcode == "szext" {
            form.one_of(&[("wrap", 1), ("clamp", 0)])
        } else {
            None
        };
        let ty = form.ty()?;
        let mode = if opcode == "prmt" {
            let modes = [
                ("f4e", 1),
                ("b4e", 2),
                ("rc8", 3),
                ("ecl", 4),
                ("ecr", 5),
                ("rc16", 6),
            ];
            form.one_of(&modes).unwrap_or(0)
        } else {
            0
        };
        form.finish()?;
        let own = clif(ty);
        match opcode {
            "popc" | "clz" => {
                let (to, [from]) = Self::sources(form)?;
                let value = self.read(from, ty)?;
                let value = if opcode == "popc" {
                    self.b.ins().popcnt(value)
                } else {
                    self.b.ins().clz(value)
                };
                let value = if own == types::I64 {
                    self.b.ins().ireduce(types::I32, value)
                } else {
                    value
                };
                self.write(to, Type::U32, value)
            }
            "brev" => {
                let (to, [from]) = Self::sources(form)?;
                let value = self.read(from, ty)?;
                let value = self.b.ins().bitrev(value);
                self.write(to, ty, value)
            }
            "bfind" => {
                let (to, [from]) = Self::sources(form)?;
                let mut value = self.read(from, ty)?;
                if ty.is_signed() {
                    // For negative numbers the highest zero is looked for.
                    let width = self.imm(own, i64::from(ty.bits() - 1));
                    let sign = self.b.ins().sshr(value, width);
                    value = self.b.ins().bxor(value, sign);
                }
                let zeros = self.b.ins().clz(value);
                let zeros = if own == types::I64 {
                    self.b.ins().ireduce(types::I32, zeros)
                } else {
                    zeros
                };
                let top = self.imm(types::I32, i64::from(ty.bits() - 1));
                let place = if shift_amount {
                    zeros
                } else {
                    self.b.ins().isub(top, zeros)
                };
                let none = self.b.ins().icmp(IntCC::UnsignedGreaterThan, zeros, top);
                let nothing = self.imm(types::I32, -1);
                let place = self.b.ins().select(none, nothing, place);
                self.write(to, Type::U32, place)
            }
            "bfe" => {
                let (to, [from, place, length]) = Self::sources(form)?;
                let value = self.read(from, ty)?;
                let value = match (place, length) {
                    (Operand::Int(place), Operand::Int(length)) => {
                        self.constant_field(value, ty, *place, *length)
                    }
                    _ => self.field(
                        Field::Extract(ty.is_signed()),
                        ty,
                        [value, value],
                        place,
                        length,
                    )?,
                };
                self.write(to, ty, value)
            }
            "bfi" => {
                let (to, [from, into, place, length]) = Self::sources(form)?;
                let values = [self.read(from, ty)?, self.read(into, ty)?];
                let value = self.field(Field::Insert, ty, values, place, length)?;
                self.write(to, ty, value)
            }
            "prmt" => {
                let (to, [a, b, selector]) = Self::sources(form)?;
                let mode = self.imm(types::I32, mode);
                let args = [
                    mode,
                    self.read(a, ty)?,
                    self.read(b, ty)?,
                    self.read(selector, ty)?,
                ];
                let value = self.helper(Helper::Permute, &args, types::I32);
                self.write(to, ty, value)
            }
            "bmsk" => {
                let (to, [place, length]) = Self::sources(form)?;
                let wrap = self.imm(types::I32, wrap.unwrap_or(0));
                let args = [
                    wrap,
                    self.read(place, Type::U32)?,
                    self.read(length, Type::U32)?,
                ];
                let value = self.helper(Helper::BitMask, &args, types::I32);
                self.write(to, ty, value)
            }
            "szext" => {
                let (to, [from, length]) = Self::sources(form)?;
                let mode = wrap.unwrap_or(0) | i64::from(ty.is_signed()) << 1;
                let args = [
                    self.imm(types::I32, mode),
                    self.read(from, ty)?,
                    self.read(length, Type::U32)?,
                ];
                let value = self.helper(Helper::SignExtend, &args, types::I32);
                self.write(to, ty, value)
            }
            _ => {
                let (to, [mask, base, offset]) = Self::sources(form)?;
                let args = [
                    self.read(mask, ty)?,
                    self.read(base, Type::B32)?,
                    self.read(offset, Type::B32)?,
                ];
                let value = self.helper(Helper::FindNthSet, &args, types::I32);
                self.write(to, ty, value)
            }
        }
    }

    /// `bfe` with a constant place and length.
    fn constant_field(&mut self, value: Value, ty: Type, place: i64, length: i64) -> Value {
        let own = clif(ty);
        let bits = i64::from(ty.bits());
        let (place, length) = (place & 0xff, length & 0xff);
        if length == 0 {
            return self.imm(own, 0);
        }
        if !ty.is_signed() {
            if place >= bits {
                return self.imm(own, 0);
            }
            let by = self.imm(own, place);
            let value = self.b.ins().ushr(value, by);
            if place + length >= bits {
                return value;
            }
            let mask = self.imm(own, (1_i64 << length) - 1);
            return self.b.ins().band(value, mask);
        }
        // The sign bit of the field, or of the whole where the field reaches beyond it.
        let place = place.min(bits - 1);
        let length = length.min(bits - place);
        let up = self.imm(own, bits - place - length);
        let value = self.b.ins().ishl(value, up);
        let down = self.imm(own, bits - length);
        self.b.ins().sshr(value, down)
    }

    fn field(
        &mut self,
        field: Field,
        ty: Type,
        values: [Value; 2],
        place: &Operand,
        length: &Operand,
    ) -> Result<Value, PtxError> {
        let code = i64::from(ty.bits() == 64)
            | match field {
                Field::Extract(signed) => i64::from(signed) << 1,
                Field::Insert => 4,
            };
        let code = self.imm(types::I32, code);
        let widened = values.map(|value| {
            if ty.bits() == 64 {
                value
            } else {
                self.b.ins().uextend(types::I64, value)
            }
        });
        let (place, length) = (self.read(place, Type::U32)?, self.read(length, Type::U32)?);
        let value = self.helper(
            Helper::BitField,
            &[code, widened[0], widened[1], place, length],
            types::I64,
        );
        Ok(self.narrow(value, clif(ty)))
    }
}

/// `bfe` (of a signed type or not) or `bfi`.
#[derive(Debug, Clone, Copy)]
enum Field {
    Extract(bool),
    Insert,
}
