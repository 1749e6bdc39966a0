//! `mov` and `cvt`.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::arithmetic::format;
use super::form::{Form, Rounding};
use super::lower::{Lower, clif, int_of};
use crate::exec::helpers::Helper;
use crate::exec::soft::{Code, Format, Operation};
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Type};

impl Lower<'_, '_, '_> {
    pub(super) fn mov(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let ty = form.ty()?;
        form.finish()?;
        let [to, from] = form.instruction.operands.as_slice() else {
            return Err(form.invalid("a destination and a source are needed"));
        };
        match (to, from) {
            (to, Operand::Vector(parts)) => {
                let value = self.pack(form, ty, parts)?;
                self.write(to, ty, value)
            }
            (Operand::Vector(parts), from) => {
                let value = self.read(from, ty)?;
                let value = self.cast(value, int_of(clif(ty)));
                self.unpack(form, ty, parts, value)
            }
            _ => {
                let value = self.read(from, ty)?;
                self.write(to, ty, value)
            }
        }
    }

    fn element(form: &Form<'_, '_>, ty: Type, parts: &[Operand]) -> Result<Type, PtxError> {
        match ty.bits() / (parts.len().max(1) as u32) {
            8 if parts.len() >= 2 => Ok(Type::B8),
            16 if parts.len() >= 2 => Ok(Type::B16),
            32 if parts.len() >= 2 => Ok(Type::B32),
            64 if parts.len() == 2 => Ok(Type::B64),
            _ => Err(form.invalid("the vector has another number of elements")),
        }
    }

    fn pack(
        &mut self,
        form: &Form<'_, '_>,
        ty: Type,
        parts: &[Operand],
    ) -> Result<Value, PtxError> {
        let element = Self::element(form, ty, parts)?;
        let whole = int_of(clif(ty));
        let mut value = self.imm(whole, 0);
        for (index, part) in parts.iter().enumerate() {
            let part = self.read(part, element)?;
            let part = self.b.ins().uextend(whole, part);
            let by = self.imm(types::I32, (index as u32 * element.bits()).into());
            let part = self.b.ins().ishl(part, by);
            value = self.b.ins().bor(value, part);
        }
        Ok(self.cast(value, clif(ty)))
    }

    fn unpack(
        &mut self,
        form: &Form<'_, '_>,
        ty: Type,
        parts: &[Operand],
        value: Value,
    ) -> Result<(), PtxError> {
        let element = Self::element(form, ty, parts)?;
        for (index, part) in parts.iter().enumerate() {
            let by = self.imm(types::I32, (index as u32 * element.bits()).into());
            let shifted = self.b.ins().ushr(value, by);
            let shifted = self.b.ins().ireduce(clif(element), shifted);
            self.write(part, element, shifted)?;
        }
        Ok(())
    }

    pub(super) fn convert(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let integral = form.one_of(&[
            ("rni", Rounding::Nearest),
            ("rzi", Rounding::Zero),
            ("rmi", Rounding::Down),
            ("rpi", Rounding::Up),
        ]);
        let rounding = form.rounding();
        let ftz = form.take("ftz");
        let sat = form.take("sat");
        let (to_type, from_type) = (form.ty()?, form.ty()?);
        form.finish()?;
        let operands = form.instruction.operands.as_slice();
        if let (Type::F16x2 | Type::Bf16x2, Type::F32, [to, high, low]) =
            (to_type, from_type, operands)
        {
            let half = if to_type == Type::F16x2 {
                Type::F16
            } else {
                Type::Bf16
            };
            let mut parts = Vec::new();
            for part in [low, high] {
                let value = self.read(part, Type::F32)?;
                let value = self.reformat(
                    value,
                    Type::F32,
                    half,
                    rounding.unwrap_or(Rounding::Nearest),
                );
                parts.push(self.b.ins().uextend(types::I32, value));
            }
            let sixteen = self.imm(types::I32, 16);
            let high = self.b.ins().ishl(parts[1], sixteen);
            let value = self.b.ins().bor(parts[0], high);
            return self.write(to, to_type, value);
        }
        let [to, from] = operands else {
            return Err(form.invalid("a destination and a source are needed"));
        };
        let whole = |ty: Type| {
            ty.is_integer() || matches!(ty, Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
        };
        if !whole(to_type) || !whole(from_type) {
            return Err(form.unsupported("this type"));
        }
        let value = self.read_narrow(from, from_type)?;
        let value = match (from_type.is_integer(), to_type.is_integer()) {
            (true, true) => self.integer_to_integer(value, from_type, to_type, sat),
            (true, false) => {
                let value = self.integer_to_float(
                    value,
                    from_type,
                    to_type,
                    rounding.unwrap_or(Rounding::Nearest),
                );
                if sat {
                    self.saturate_any(value, to_type)
                } else {
                    value
                }
            }
            (false, true) => {
                let (mut value, mut from_type) = (value, from_type);
                if matches!(from_type, Type::F16 | Type::Bf16) {
                    value = self.widen(value, from_type);
                    from_type = Type::F32;
                }
                if ftz && from_type == Type::F32 {
                    value = self.flush(value);
                }
                // Without a rounding the ISA asks for one; compilers always give it.
                self.float_to_integer(
                    value,
                    from_type,
                    to_type,
                    integral.unwrap_or(Rounding::Zero),
                )
            }
            (false, false) => {
                let mut value = value;
                if ftz && from_type == Type::F32 {
                    value = self.flush(value);
                }
                if let Some(integral) = integral {
                    if from_type != to_type || !matches!(from_type, Type::F32 | Type::F64) {
                        return Err(form.unsupported("rounding to an integer between these types"));
                    }
                    value = self.round(value, from_type, integral);
                } else if from_type != to_type {
                    value = self.float_to_float(
                        value,
                        from_type,
                        to_type,
                        rounding.unwrap_or(Rounding::Nearest),
                    );
                }
                if ftz && to_type == Type::F32 {
                    value = self.flush(value);
                }
                if sat {
                    self.saturate_any(value, to_type)
                } else {
                    value
                }
            }
        };
        self.write_wide(to, to_type, value)
    }

    /// `.sat` of a floating-point result of any type.
    fn saturate_any(&mut self, value: Value, ty: Type) -> Value {
        if matches!(ty, Type::F32 | Type::F64) {
            return self.saturate(value);
        }
        let single = self.widen(value, ty);
        let single = self.saturate(single);
        self.reformat(single, Type::F32, ty, Rounding::Nearest)
    }

    fn extend(&mut self, value: Value, ty: Type) -> Value {
        match (ty.bits(), ty.is_signed()) {
            (64, _) => value,
            (_, true) => self.b.ins().sextend(types::I64, value),
            (_, false) => self.b.ins().uextend(types::I64, value),
        }
    }

    fn integer_to_integer(&mut self, value: Value, from: Type, to: Type, sat: bool) -> Value {
        let mut value = self.extend(value, from);
        if sat {
            // Bounds of the target within the source's own order.
            if from.is_signed() {
                let (low, high) = integer_bounds(to);
                let low = self.imm(types::I64, low);
                let value_low = self.b.ins().smax(value, low);
                value = match high {
                    Some(high) => {
                        let high = self.imm(types::I64, high);
                        self.b.ins().smin(value_low, high)
                    }
                    None => value_low,
                };
            } else {
                let high = if to == Type::U64 {
                    -1
                } else {
                    integer_bounds(to).1.unwrap_or(i64::MAX)
                };
                let high = self.imm(types::I64, high);
                value = self.b.ins().umin(value, high);
            }
        }
        self.narrow(value, clif(to))
    }

    fn integer_to_float(
        &mut self,
        value: Value,
        from: Type,
        to: Type,
        rounding: Rounding,
    ) -> Value {
        if rounding == Rounding::Nearest && matches!(to, Type::F32 | Type::F64) {
            let value = if from.bits() < 32 {
                if from.is_signed() {
                    self.b.ins().sextend(types::I32, value)
                } else {
                    self.b.ins().uextend(types::I32, value)
                }
            } else {
                value
            };
            return if from.is_signed() {
                self.b.ins().fcvt_from_sint(clif(to), value)
            } else {
                self.b.ins().fcvt_from_uint(clif(to), value)
            };
        }
        let value = self.extend(value, from);
        let operation = if from.is_signed() {
            Operation::FromSigned
        } else {
            Operation::FromUnsigned
        };
        let format = format(to).unwrap_or(Format::F32);
        let value = self.soft(
            Code {
                operation,
                from: format,
                to: format,
                rounding,
                ftz: false,
                sat: false,
            },
            &[value],
        );
        self.narrow(value, clif(to))
    }

    fn float_to_float(&mut self, value: Value, from: Type, to: Type, rounding: Rounding) -> Value {
        match (from, to, rounding) {
            (Type::F32, Type::F64, _) => self.b.ins().fpromote(types::F64, value),
            (Type::F64, Type::F32, Rounding::Nearest) => self.b.ins().fdemote(types::F32, value),
            _ => self.reformat(value, from, to, rounding),
        }
    }

    /// To an integral value of the same type.
    fn round(&mut self, value: Value, ty: Type, rounding: Rounding) -> Value {
        if !self.has_rounding {
            let mode = self.imm(types::I32, rounding as i64);
            return match ty {
                Type::F32 => self.helper(Helper::RoundF32, &[value, mode], types::F32),
                _ => self.helper(Helper::RoundF64, &[value, mode], types::F64),
            };
        }
        match rounding {
            Rounding::Nearest => self.b.ins().nearest(value),
            Rounding::Zero => self.b.ins().trunc(value),
            Rounding::Down => self.b.ins().floor(value),
            Rounding::Up => self.b.ins().ceil(value),
        }
    }

    /// Clamped to the target's range. NaN gives 0, or the top bit alone where either side has 64 bits.
    fn float_to_integer(
        &mut self,
        value: Value,
        from: Type,
        to: Type,
        rounding: Rounding,
    ) -> Value {
        let value = if rounding == Rounding::Zero {
            value
        } else {
            self.round(value, from, rounding)
        };
        let wide = if to.bits() == 64 {
            types::I64
        } else {
            types::I32
        };
        let mut result = if to.is_signed() {
            self.b.ins().fcvt_to_sint_sat(wide, value)
        } else {
            self.b.ins().fcvt_to_uint_sat(wide, value)
        };
        if from == Type::F64 || to.bits() == 64 {
            let nan = self.b.ins().fcmp(FloatCC::Unordered, value, value);
            let top = self.imm(wide, i64::MIN >> (64 - to.bits()));
            result = self.b.ins().select(nan, top, result);
            if to.bits() >= 32 {
                return result;
            }
        }
        if to.bits() < 32 {
            let (low, high) = integer_bounds(to);
            let high = self.imm(types::I32, high.unwrap_or(i64::from(i32::MAX)));
            result = if to.is_signed() {
                let low = self.imm(types::I32, low);
                let clamped = self.b.ins().smax(result, low);
                self.b.ins().smin(clamped, high)
            } else {
                self.b.ins().umin(result, high)
            };
            let nan = self.b.ins().fcmp(FloatCC::Unordered, value, value);
            if from == Type::F64 {
                let top = self.imm(types::I32, i64::MIN >> (64 - to.bits()));
                result = self.b.ins().select(nan, top, result);
            }
            let _ = IntCC::Equal;
            return self.b.ins().ireduce(clif(to), result);
        }
        result
    }
}

/// The least and the greatest value of an integer type; no greatest for those that reach beyond `i64`.
fn integer_bounds(ty: Type) -> (i64, Option<i64>) {
    let bits = ty.bits();
    match (ty.is_signed(), bits) {
        (true, _) => (i64::MIN >> (64 - bits), Some(i64::MAX >> (64 - bits))),
        (false, 64) => (0, None),
        (false, _) => (0, Some((1 << bits) - 1)),
    }
}
