//! `mov` and `cvt`. A conversion must round once, from the exact value.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::float::format;
use super::form::{Form, Rounding};
use super::lower::{Lower, clif};
use super::packed::is_half;
use crate::exec::helpers::Helper;
use crate::exec::soft::{Code, Format, Operation};
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Type};

/// What a conversion may carry.
#[derive(Debug, Clone, Copy)]
struct Modes {
    /// To an integral value.
    integral: Option<Rounding>,
    rounding: Rounding,
    ftz: bool,
    sat: bool,
    relu: bool,
    /// `.satfinite`
    finite: bool,
}

/// The format of a floating-point type that is no pair.
fn element_format(ty: Type) -> Format {
    format(ty).unwrap_or(Format::F32)
}

const fn small_format(ty: Type) -> Format {
    match ty {
        Type::E4m3x2 => Format::E4m3,
        _ => Format::E5m2,
    }
}

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
                self.unpack(form, ty, parts, value)
            }
            _ => {
                let value = self.read(from, ty)?;
                self.write(to, ty, value)
            }
        }
    }

    /// The type of a vector's elements that together make up a value.
    fn element(form: &Form<'_, '_>, ty: Type, parts: &[Operand]) -> Result<Type, PtxError> {
        match (ty, parts.len()) {
            (Type::B16, 2) | (Type::B32, 4) => Ok(Type::B8),
            (Type::B32, 2) | (Type::B64, 4) => Ok(Type::B16),
            (Type::B64, 2) | (Type::B128, 4) => Ok(Type::B32),
            (Type::B128, 2) => Ok(Type::B64),
            _ => Err(form.invalid("the type is not made up of so many elements")),
        }
    }

    fn pack(
        &mut self,
        form: &Form<'_, '_>,
        ty: Type,
        parts: &[Operand],
    ) -> Result<Value, PtxError> {
        let element = Self::element(form, ty, parts)?;
        let mut value = self.imm(clif(ty), 0);
        for (index, part) in parts.iter().enumerate() {
            let part = self.read(part, element)?;
            let part = self.b.ins().uextend(clif(ty), part);
            let by = self.imm(types::I32, (index as u32 * element.bits()).into());
            let part = self.b.ins().ishl(part, by);
            value = self.b.ins().bor(value, part);
        }
        Ok(value)
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
        if form.take("pack") {
            return self.convert_pack(form);
        }
        let modes = Modes {
            integral: form.one_of(&[
                ("rni", Rounding::Nearest),
                ("rzi", Rounding::Zero),
                ("rmi", Rounding::Down),
                ("rpi", Rounding::Up),
            ]),
            rounding: form.rounding().unwrap_or(Rounding::Nearest),
            ftz: form.take("ftz"),
            sat: form.take("sat"),
            relu: form.take("relu"),
            finite: form.take("satfinite"),
        };
        let (to_type, from_type) = (form.ty()?, form.ty()?);
        form.finish()?;
        let small = |ty: Type| matches!(ty, Type::E4m3x2 | Type::E5m2x2);
        match (to_type.lane(), from_type.lane()) {
            (None, Some(half)) if small(to_type) => {
                let (to, [from]) = Self::sources(form)?;
                let value = self.read(from, from_type)?;
                let lanes = [self.half_at(value, 0), self.half_at(value, 1)];
                let value = self.small_pair(lanes, half, to_type, modes);
                return self.write(to, to_type, value);
            }
            (Some(half), None) if small(from_type) => {
                let (to, [from]) = Self::sources(form)?;
                let value = self.read(from, from_type)?;
                let eight = self.imm(types::I32, 8);
                let lanes = [value, self.b.ins().ushr(value, eight)].map(|lane| {
                    let lane = self.b.ins().ireduce(types::I8, lane);
                    self.converted(lane, small_format(from_type), element_format(half), modes)
                });
                let lanes = lanes.map(|lane| self.narrow(lane, types::I16));
                let value = self.pair(lanes[0], lanes[1]);
                return self.write(to, to_type, value);
            }
            (Some(half), None) => {
                let (to, [high, low]) = Self::sources(form)?;
                let (high, low) = (self.read(high, from_type)?, self.read(low, from_type)?);
                let high = self.half_of(high, from_type, half, modes);
                let low = self.half_of(low, from_type, half, modes);
                let value = self.pair(low, high);
                return self.write(to, to_type, value);
            }
            (None, None) if small(to_type) => {
                let (to, [high, low]) = Self::sources(form)?;
                let lanes = [self.read(low, from_type)?, self.read(high, from_type)?];
                let value = self.small_pair(lanes, from_type, to_type, modes);
                return self.write(to, to_type, value);
            }
            _ => {}
        }
        let (to, [from]) = Self::sources(form)?;
        if to_type == Type::Tf32 {
            let value = self.read(from, from_type)?;
            let value = self.converted(value, Format::F32, Format::Tf32, modes);
            let value = self.narrow(value, types::I32);
            return self.write(to, to_type, value);
        }
        let value = self.read_narrow(from, from_type)?;
        let value = match (from_type.is_integer(), to_type.is_integer()) {
            (true, true) => self.integer_to_integer(value, from_type, to_type, modes.sat),
            (true, false) => {
                let value = self.integer_to_float(value, from_type, to_type, modes.rounding);
                if modes.sat {
                    self.saturate_any(value, to_type)
                } else {
                    value
                }
            }
            (false, true) => {
                let (mut value, mut from_type) = (value, from_type);
                if is_half(from_type) {
                    value = self.widen(value, from_type);
                    from_type = Type::F32;
                }
                if modes.ftz {
                    value = self.flush(value, from_type);
                }
                let integral = modes.integral.unwrap_or(Rounding::Zero);
                self.float_to_integer(value, from_type, to_type, integral)
            }
            (false, false) => {
                let mut value = value;
                if modes.ftz && from_type == Type::F32 {
                    value = self.flush(value, from_type);
                }
                value = match modes.integral {
                    Some(integral) if is_half(from_type) => {
                        // What is integral in single precision is so as a half.
                        let single = self.widen(value, from_type);
                        let single = self.round(single, Type::F32, integral);
                        self.half_of_single(single, to_type)
                    }
                    Some(integral) => self.round(value, from_type, integral),
                    None if from_type == to_type => value,
                    None => self.float_to_float(value, from_type, to_type, modes),
                };
                if modes.ftz && to_type == Type::F32 {
                    value = self.flush(value, to_type);
                }
                if modes.sat {
                    self.saturate_any(value, to_type)
                } else {
                    value
                }
            }
        };
        self.write_wide(to, to_type, value)
    }

    /// Two numbers as a pair of bytes, the low one first.
    fn small_pair(&mut self, lanes: [Value; 2], from: Type, to: Type, modes: Modes) -> Value {
        let [low, high] = lanes.map(|lane| {
            let value = self.converted(lane, element_format(from), small_format(to), modes);
            self.narrow(value, types::I16)
        });
        let eight = self.imm(types::I32, 8);
        let high = self.b.ins().ishl(high, eight);
        self.b.ins().bor(low, high)
    }

    /// A value in another format, in the low bits of 64.
    fn converted(&mut self, value: Value, from: Format, to: Format, modes: Modes) -> Value {
        let code = Code {
            relu: modes.relu,
            finite: modes.finite,
            ..Code::convert(from, to, modes.rounding)
        };
        self.soft(code, &[value])
    }

    /// A single or a double as a half.
    fn half_of(&mut self, value: Value, from: Type, to: Type, modes: Modes) -> Value {
        if modes.rounding == Rounding::Nearest && !modes.relu && !modes.finite {
            return match from {
                Type::F32 => self.half_of_single(value, to),
                Type::F64 => self.half_of_double(value, to),
                _ => {
                    let value = self.widen(value, from);
                    self.half_of_single(value, to)
                }
            };
        }
        let value = self.converted(value, element_format(from), element_format(to), modes);
        self.narrow(value, types::I16)
    }

    /// `cvt.pack`: two integers, saturated, side by side, below the bits that a third gives.
    fn convert_pack(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        form.take("sat");
        let narrow = form.one_of(&[
            ("u2", (2, false)),
            ("s2", (2, true)),
            ("u4", (4, false)),
            ("s4", (4, true)),
        ]);
        let (bits, signed) = match narrow {
            Some(narrow) => narrow,
            None => {
                let ty = form.ty()?;
                (ty.bits(), ty.is_signed())
            }
        };
        let from = form.ty()?;
        let third = form.optional_ty();
        form.finish()?;
        let (to, a, b, c) = match (form.instruction.operands.as_slice(), third) {
            ([to, a, b], None) => (to, a, b, None),
            ([to, a, b, c], Some(ty)) => (to, a, b, Some((c, ty))),
            _ => return Err(form.invalid("another number of operands is needed")),
        };
        let (low, high) = if signed {
            (-1_i64 << (bits - 1), (1_i64 << (bits - 1)) - 1)
        } else {
            (0, (1_i64 << bits) - 1)
        };
        let mut part = |operand: &Operand| -> Result<Value, PtxError> {
            let value = self.read(operand, from)?;
            let (low, high) = (self.imm(types::I32, low), self.imm(types::I32, high));
            let value = self.b.ins().smax(value, low);
            let value = self.b.ins().smin(value, high);
            let mask = self.imm(types::I32, (1_i64 << bits) - 1);
            Ok(self.b.ins().band(value, mask))
        };
        let (a, b) = (part(a)?, part(b)?);
        let by = self.imm(types::I32, bits.into());
        let a = self.b.ins().ishl(a, by);
        let mut value = self.b.ins().bor(a, b);
        if let Some((c, ty)) = c {
            let c = self.read(c, ty)?;
            let by = self.imm(types::I32, (2 * bits).into());
            let c = self.b.ins().ishl(c, by);
            value = self.b.ins().bor(value, c);
        }
        self.write(to, Type::B32, value)
    }

    /// `.sat` of a floating-point result of any type.
    fn saturate_any(&mut self, value: Value, ty: Type) -> Value {
        if !is_half(ty) {
            return self.saturate(value);
        }
        let single = self.widen(value, ty);
        let single = self.saturate(single);
        self.half_of_single(single, ty)
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
        let code = Code::new(operation, element_format(to), rounding);
        let value = self.soft(code, &[value]);
        self.narrow(value, clif(to))
    }

    fn float_to_float(&mut self, value: Value, from: Type, to: Type, modes: Modes) -> Value {
        match (from, to) {
            (Type::F32, Type::F64) => self.b.ins().fpromote(types::F64, value),
            (Type::F64, Type::F32) if modes.rounding == Rounding::Nearest => {
                self.b.ins().fdemote(types::F32, value)
            }
            (_, Type::F32) if is_half(from) => self.widen(value, from),
            (_, Type::F64) if is_half(from) => self.double_of_half(value, from),
            _ if is_half(to) => self.half_of(value, from, to, modes),
            _ => {
                let value = self.converted(value, element_format(from), element_format(to), modes);
                self.narrow(value, clif(to))
            }
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
            Rounding::Nearest | Rounding::Away => self.b.ins().nearest(value),
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
