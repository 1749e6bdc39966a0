//! Integer arithmetic, and which module translates which other opcode. Must never trap the host:
//! division by zero and overflow give what a GPU gives.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::float::is_float;
use super::form::Form;
use super::lower::{Lower, clif};
use crate::exec::helpers::Helper;
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Type};

impl Lower<'_, '_, '_> {
    pub(super) fn arithmetic(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        match form.instruction.opcode {
            "add" | "sub" | "mul" | "div" | "fma" | "mad" | "min" | "max" | "abs" | "neg"
            | "rem" | "addc" | "subc" | "madc" => self.numeric(form),
            "mul24" | "mad24" => self.multiply24(form),
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => {
                self.function(form)
            }
            "and" | "or" | "xor" | "not" | "cnot" | "lop3" => self.logic(form),
            "shl" | "shr" | "shf" => self.shift(form),
            "setp" => self.set_predicate(form),
            "set" => self.set(form),
            "selp" | "slct" => self.select(form),
            "popc" | "clz" | "bfind" | "brev" | "bfe" | "bfi" | "bmsk" | "prmt" | "szext"
            | "fns" => self.bits(form),
            "sad" | "dp4a" | "dp2a" => self.integer_sum(form),
            "copysign" | "testp" => self.float_bits(form),
            "vadd" | "vsub" | "vabsdiff" | "vmin" | "vmax" | "vshl" | "vshr" | "vset" => {
                self.video(form)
            }
            "vmad" => self.video_mad(form),
            "vadd2" | "vsub2" | "vavrg2" | "vabsdiff2" | "vmin2" | "vmax2" | "vset2" | "vadd4"
            | "vsub4" | "vavrg4" | "vabsdiff4" | "vmin4" | "vmax4" | "vset4" => {
                self.video_lanes(form)
            }
            _ => Err(form.unsupported("this instruction")),
        }
    }

    /// The operands after the destination.
    pub(super) fn sources<'f, const N: usize>(
        form: &Form<'f, '_>,
    ) -> Result<(&'f Operand, &'f [Operand; N]), PtxError> {
        let (to, from) = form
            .instruction
            .operands
            .split_first()
            .ok_or_else(|| form.invalid("operands are missing"))?;
        let from = from
            .try_into()
            .map_err(|_| form.invalid(&format!("{} operands are needed", N + 1)))?;
        Ok((to, from))
    }

    fn numeric(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let part = form.one_of(&[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)]);
        let ty = form.ty()?;
        if is_float(ty) {
            return self.float_numeric(form, ty);
        }
        let (sat, writes_carry, relu) = (form.take("sat"), form.take("cc"), form.take("relu"));
        form.finish()?;
        let opcode = form.instruction.opcode;
        let part = part.unwrap_or(Part::Low);
        match opcode {
            "abs" | "neg" => {
                let (to, [from]) = Self::sources(form)?;
                let value = self.read(from, ty)?;
                let value = if opcode == "neg" {
                    self.b.ins().ineg(value)
                } else {
                    self.b.ins().iabs(value)
                };
                self.write(to, ty, value)
            }
            "mad" | "madc" => {
                let (to, [a, b, c]) = Self::sources(form)?;
                let product = self.product(a, b, ty, part)?;
                let wide = part.result(ty);
                let c = self.read(c, wide)?;
                let value = self.sum(product, c, wide, sat, opcode == "madc", writes_carry);
                self.write(to, wide, value)
            }
            "mul" => {
                let (to, [a, b]) = Self::sources(form)?;
                let value = self.product(a, b, ty, part)?;
                self.write(to, part.result(ty), value)
            }
            _ => {
                let (to, [a, b]) = Self::sources(form)?;
                let args = [self.read(a, ty)?, self.read(b, ty)?];
                let value = self.lanes(ty, &args, |lower, ty, args| {
                    let &[a, b] = args else {
                        return lower.zero(clif(ty));
                    };
                    let signed = ty.is_signed();
                    let value = match opcode {
                        "add" | "addc" => lower.sum(a, b, ty, sat, opcode == "addc", writes_carry),
                        "sub" | "subc" => {
                            lower.difference(a, b, ty, sat, opcode == "subc", writes_carry)
                        }
                        "min" if signed => lower.b.ins().smin(a, b),
                        "min" => lower.b.ins().umin(a, b),
                        "max" if signed => lower.b.ins().smax(a, b),
                        "max" => lower.b.ins().umax(a, b),
                        _ => lower.quotient(a, b, ty, opcode == "rem"),
                    };
                    if relu {
                        let zero = lower.imm(clif(ty), 0);
                        lower.b.ins().smax(value, zero)
                    } else {
                        value
                    }
                });
                self.write(to, ty, value)
            }
        }
    }

    /// The wanted part of a product.
    fn product(
        &mut self,
        a: &Operand,
        b: &Operand,
        ty: Type,
        part: Part,
    ) -> Result<Value, PtxError> {
        let signed = ty.is_signed();
        // Array elements' sizes: a shift does it.
        if let (Operand::Int(factor), Part::Low | Part::Wide) = (b, part)
            && let Some(shift) = power_of_two(*factor, ty)
        {
            let wide = part.result(ty);
            let value = self.read(a, ty)?;
            let value = match (part, signed) {
                (Part::Low, _) => value,
                (_, true) => self.b.ins().sextend(clif(wide), value),
                (_, false) => self.b.ins().uextend(clif(wide), value),
            };
            let shift = self.imm(types::I32, shift);
            return Ok(self.b.ins().ishl(value, shift));
        }
        let (a, b) = (self.read(a, ty)?, self.read(b, ty)?);
        if part == Part::Low {
            return Ok(self.b.ins().imul(a, b));
        }
        if ty.bits() == 64 {
            return Ok(if signed {
                self.b.ins().smulhi(a, b)
            } else {
                self.b.ins().umulhi(a, b)
            });
        }
        let wide = if ty.bits() == 32 {
            types::I64
        } else {
            types::I32
        };
        let mut extend = |value| {
            if signed {
                self.b.ins().sextend(wide, value)
            } else {
                self.b.ins().uextend(wide, value)
            }
        };
        let (a, b) = (extend(a), extend(b));
        let product = self.b.ins().imul(a, b);
        if part == Part::Wide {
            return Ok(product);
        }
        let bits = self.imm(wide, i64::from(ty.bits()));
        let high = self.b.ins().ushr(product, bits);
        Ok(self.b.ins().ireduce(clif(ty), high))
    }

    /// a + b, with the carry flag going in and out as asked.
    fn sum(
        &mut self,
        a: Value,
        b: Value,
        ty: Type,
        sat: bool,
        carry_in: bool,
        carry_out: bool,
    ) -> Value {
        let mut value = self.b.ins().iadd(a, b);
        if sat {
            return self.saturated(a, b, true);
        }
        let mut carry = carry_out.then(|| self.b.ins().icmp(IntCC::UnsignedLessThan, value, a));
        if carry_in {
            let flag = self.carry();
            let flag = self.b.use_var(flag);
            let flag = self.b.ins().uextend(clif(ty), flag);
            let more = self.b.ins().iadd(value, flag);
            if let Some(first) = carry {
                let second = self.b.ins().icmp(IntCC::UnsignedLessThan, more, value);
                carry = Some(self.b.ins().bor(first, second));
            }
            value = more;
        }
        self.set_carry(carry);
        value
    }

    /// a - b, with the borrow flag going in and out as asked.
    fn difference(
        &mut self,
        a: Value,
        b: Value,
        ty: Type,
        sat: bool,
        carry_in: bool,
        carry_out: bool,
    ) -> Value {
        if sat {
            return self.saturated(a, b, false);
        }
        let mut value = self.b.ins().isub(a, b);
        let mut borrow = carry_out.then(|| self.b.ins().icmp(IntCC::UnsignedLessThan, a, b));
        if carry_in {
            let flag = self.carry();
            let flag = self.b.use_var(flag);
            let flag = self.b.ins().uextend(clif(ty), flag);
            let less = self.b.ins().isub(value, flag);
            if let Some(first) = borrow {
                let second = self.b.ins().icmp(IntCC::UnsignedLessThan, value, flag);
                borrow = Some(self.b.ins().bor(first, second));
            }
            value = less;
        }
        self.set_carry(borrow);
        value
    }

    fn set_carry(&mut self, carry: Option<Value>) {
        if let Some(carry) = carry {
            let variable = self.carry();
            self.b.def_var(variable, carry);
        }
    }

    /// 32-bit signed sum or difference clamped to its type.
    fn saturated(&mut self, a: Value, b: Value, add: bool) -> Value {
        let (a, b) = (
            self.b.ins().sextend(types::I64, a),
            self.b.ins().sextend(types::I64, b),
        );
        let value = if add {
            self.b.ins().iadd(a, b)
        } else {
            self.b.ins().isub(a, b)
        };
        let (low, high) = (
            self.imm(types::I64, i64::from(i32::MIN)),
            self.imm(types::I64, i64::from(i32::MAX)),
        );
        let value = self.b.ins().smax(value, low);
        let value = self.b.ins().smin(value, high);
        self.b.ins().ireduce(types::I32, value)
    }

    /// Division as a GPU does it: no trap; by zero all ones (and the remainder is the dividend), and the
    /// one overflow wraps.
    fn quotient(&mut self, a: Value, b: Value, ty: Type, remainder: bool) -> Value {
        let own = clif(ty);
        let zero = self.imm(own, 0);
        let one = self.imm(own, 1);
        let by_zero = self.b.ins().icmp(IntCC::Equal, b, zero);
        let mut unsafe_divisor = by_zero;
        if ty.is_signed() {
            let least = self.imm(own, i64::MIN >> (64 - ty.bits()));
            let minus_one = self.imm(own, -1);
            let at_least = self.b.ins().icmp(IntCC::Equal, a, least);
            let by_minus_one = self.b.ins().icmp(IntCC::Equal, b, minus_one);
            let both = self.b.ins().band(at_least, by_minus_one);
            unsafe_divisor = self.b.ins().bor(by_zero, both);
        }
        let divisor = self.b.ins().select(unsafe_divisor, one, b);
        let (value, when_zero) = if remainder {
            let value = if ty.is_signed() {
                self.b.ins().srem(a, divisor)
            } else {
                self.b.ins().urem(a, divisor)
            };
            (value, a)
        } else {
            let value = if ty.is_signed() {
                self.b.ins().sdiv(a, divisor)
            } else {
                self.b.ins().udiv(a, divisor)
            };
            (value, self.imm(own, -1))
        };
        // On overflow dividing by one instead gives what wrapping gives: MIN, remainder 0.
        self.b.ins().select(by_zero, when_zero, value)
    }

    fn multiply24(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let high = form
            .one_of(&[("lo", false), ("hi", true)])
            .ok_or_else(|| form.invalid("lo or hi is missing"))?;
        let sat = form.take("sat");
        let ty = form.ty()?;
        form.finish()?;
        let add = form.instruction.opcode == "mad24";
        let operands = form.instruction.operands.as_slice();
        let (to, a, b, c) = match (operands, add) {
            ([to, a, b], false) => (to, a, b, None),
            ([to, a, b, c], true) => (to, a, b, Some(c)),
            _ => return Err(form.invalid("another number of operands is needed")),
        };
        let eight = self.imm(types::I32, 8);
        let factor = |lower: &mut Self, operand: &Operand| -> Result<Value, PtxError> {
            let value = lower.read(operand, ty)?;
            let value = lower.b.ins().ishl(value, eight);
            Ok(if ty.is_signed() {
                let value = lower.b.ins().sshr(value, eight);
                lower.b.ins().sextend(types::I64, value)
            } else {
                let value = lower.b.ins().ushr(value, eight);
                lower.b.ins().uextend(types::I64, value)
            })
        };
        let (a, b) = (factor(self, a)?, factor(self, b)?);
        let mut value = self.b.ins().imul(a, b);
        if high {
            let sixteen = self.imm(types::I64, 16);
            value = self.b.ins().ushr(value, sixteen);
        }
        let mut value = self.b.ins().ireduce(types::I32, value);
        if let Some(c) = c {
            let c = self.read(c, ty)?;
            value = self.sum(value, c, ty, sat, false, false);
        }
        self.write(to, ty, value)
    }

    fn integer_sum(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        if form.instruction.opcode == "sad" {
            let ty = form.ty()?;
            form.finish()?;
            let (to, [a, b, c]) = Self::sources(form)?;
            let (a, b, c) = (self.read(a, ty)?, self.read(b, ty)?, self.read(c, ty)?);
            let (high, low) = if ty.is_signed() {
                (self.b.ins().smax(a, b), self.b.ins().smin(a, b))
            } else {
                (self.b.ins().umax(a, b), self.b.ins().umin(a, b))
            };
            let distance = self.b.ins().isub(high, low);
            let value = self.b.ins().iadd(distance, c);
            return self.write(to, ty, value);
        }
        let two = form.instruction.opcode == "dp2a";
        let high = two && form.one_of(&[("lo", false), ("hi", true)]).unwrap_or(false);
        let (a_type, b_type) = (form.ty()?, form.ty()?);
        form.finish()?;
        let (to, [a, b, c]) = Self::sources(form)?;
        let (a, b, c) = (
            self.read(a, Type::B32)?,
            self.read(b, Type::B32)?,
            self.read(c, Type::B32)?,
        );
        let code = i64::from(a_type.is_signed())
            | i64::from(b_type.is_signed()) << 1
            | i64::from(two) << 2
            | i64::from(high) << 3;
        let code = self.imm(types::I32, code);
        let value = self.helper(Helper::DotProduct, &[code, a, b, c], types::I32);
        self.write(to, Type::B32, value)
    }
}

/// Which power of two a constant factor is, if it is a positive one in its type.
fn power_of_two(factor: i64, ty: Type) -> Option<i64> {
    let bits = ty.bits() - u32::from(ty.is_signed());
    let shift = factor.checked_ilog2()?;
    (factor.count_ones() == 1 && shift < bits).then_some(i64::from(shift))
}

/// What of a product is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Low,
    High,
    Wide,
}

impl Part {
    /// The result's type.
    const fn result(self, ty: Type) -> Type {
        match (self, ty) {
            (Self::Wide, Type::U16) => Type::U32,
            (Self::Wide, Type::S16) => Type::S32,
            (Self::Wide, Type::U32) => Type::U64,
            (Self::Wide, Type::S32) => Type::S64,
            _ => ty,
        }
    }
}
