//! Floating-point arithmetic. What the host rounds as PTX wants it is done inline; directed rounding
//! goes through `exec::soft`, approximations of transcendental functions through `exec::helpers`. Must
//! never round twice where the ISA rounds once.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type as Clif, Value, types};

use super::form::{Form, Rounding};
use super::lower::{Lower, clif, int_of};
use super::packed::is_half;
use crate::exec::helpers::Helper;
use crate::exec::soft::{Code, Format, Operation};
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Type};

/// The floating-point format of a type, element by element for pairs.
pub(super) const fn format(ty: Type) -> Option<Format> {
    match ty {
        Type::F16 | Type::F16x2 => Some(Format::F16),
        Type::Bf16 | Type::Bf16x2 => Some(Format::Bf16),
        Type::F32 => Some(Format::F32),
        Type::F64 => Some(Format::F64),
        _ => None,
    }
}

pub(super) const fn is_float(ty: Type) -> bool {
    format(ty).is_some()
}

/// What floating-point arithmetic may carry.
#[derive(Debug, Clone, Copy)]
struct Modes {
    rounding: Rounding,
    ftz: bool,
    sat: bool,
    /// Negative results are zero.
    relu: bool,
    /// The result is zero where an operand is what stands for elements outside a tensor.
    oob: bool,
    /// Of `div`: by multiplying with a reciprocal, which is zero for large numbers.
    approximate: bool,
}

/// The NaN that stands for elements outside a tensor, as a half of either format. The ISA keeps its own
/// to itself; arithmetic never gives this one.
const OUT_OF_BOUNDS: i64 = 0xffff;

/// What `min` and `max` may carry.
#[derive(Debug, Clone, Copy)]
struct Extremes {
    least: bool,
    /// NaN if any operand is.
    nan: bool,
    /// Of magnitudes.
    absolute: bool,
    /// The result's sign is that of the operands' product.
    xor_sign: bool,
}

impl Lower<'_, '_, '_> {
    /// Subnormal numbers of a type become zeros of their sign.
    pub(super) fn flush(&mut self, value: Value, ty: Type) -> Value {
        let own = self.b.func.dfg.value_type(value);
        let int = int_of(own);
        let (exponent, sign) = match ty {
            Type::F16 => (0x7c00, 0x8000),
            Type::Bf16 => (0x7f80, 0x8000),
            Type::F64 => (0x7ff0_0000_0000_0000, i64::MIN),
            _ => (0x7f80_0000, 0x8000_0000),
        };
        let bits = self.cast(value, int);
        let exponent = self.imm(int, exponent);
        let exponent = self.b.ins().band(bits, exponent);
        let small = self.b.ins().icmp_imm_u(IntCC::Equal, exponent, 0);
        let sign = self.imm(int, sign);
        let sign = self.b.ins().band(bits, sign);
        let bits = self.b.ins().select(small, sign, bits);
        self.cast(bits, own)
    }

    /// Clamped to 0 to 1; NaN becomes +0.
    pub(super) fn saturate(&mut self, value: Value) -> Value {
        let ty = self.b.func.dfg.value_type(value);
        let zero = self.zero(ty);
        let one = self.one(ty);
        let above = self.b.ins().fcmp(FloatCC::GreaterThan, value, one);
        let low = self.b.ins().select(above, one, value);
        let positive = self.b.ins().fcmp(FloatCC::GreaterThan, low, zero);
        self.b.ins().select(positive, low, zero)
    }

    fn one(&mut self, ty: Clif) -> Value {
        if ty == types::F32 {
            self.f32(1.0)
        } else {
            self.f64(1.0)
        }
    }

    /// The canonical NaN.
    fn nan(&mut self, ty: Clif) -> Value {
        if ty == types::F32 {
            self.f32(f32::from_bits(0x7fff_ffff))
        } else {
            self.f64(f64::NAN)
        }
    }

    /// A floating-point operand, flushed if asked for.
    pub(super) fn float(
        &mut self,
        operand: &Operand,
        ty: Type,
        ftz: bool,
    ) -> Result<Value, PtxError> {
        let value = self.read(operand, ty)?;
        Ok(if ftz { self.flush(value, ty) } else { value })
    }

    /// An operation in software: any format and rounding.
    pub(super) fn soft(&mut self, code: Code, args: &[Value]) -> Value {
        let mut operands = vec![self.imm(types::I32, i64::from(code.bits()))];
        for index in 0..3 {
            let value = match args.get(index) {
                None => self.imm(types::I64, 0),
                Some(&value) => {
                    let ty = self.b.func.dfg.value_type(value);
                    let int = self.cast(value, int_of(ty));
                    if int_of(ty) == types::I64 {
                        int
                    } else {
                        self.b.ins().uextend(types::I64, int)
                    }
                }
            };
            operands.push(value);
        }
        self.helper(Helper::Soft, &operands, types::I64)
    }

    /// The low bits of a 64-bit result as a type.
    pub(super) fn narrow(&mut self, value: Value, ty: Clif) -> Value {
        let int = int_of(ty);
        let value = if int == types::I64 {
            value
        } else {
            self.b.ins().ireduce(int, value)
        };
        self.cast(value, ty)
    }

    /// A software operation on scalars, with a rounding.
    fn soft_scalar(
        &mut self,
        operation: Operation,
        rounding: Rounding,
        ty: Type,
        args: &[Value],
    ) -> Value {
        let format = format(ty).unwrap_or(Format::F32);
        let value = self.soft(Code::new(operation, format, rounding), args);
        self.narrow(value, clif(ty))
    }

    pub(super) fn float_numeric(&mut self, form: &Form<'_, '_>, ty: Type) -> Result<(), PtxError> {
        let opcode = form.instruction.opcode;
        // Exact division is within the error of a full-range one.
        form.take("full");
        let modes = Modes {
            approximate: form.take("approx"),
            oob: form.take("oob"),
            rounding: form.rounding().unwrap_or(Rounding::Nearest),
            ftz: form.take("ftz"),
            sat: form.take("sat"),
            relu: form.take("relu"),
        };
        let extremes = Extremes {
            least: opcode == "min",
            nan: form.take("NaN"),
            xor_sign: form.take("xorsign"),
            absolute: form.take("abs"),
        };
        form.finish()?;
        let three = ty == Type::F32 && !extremes.xor_sign;
        let wanted = match opcode {
            "abs" | "neg" => 1..=1,
            "min" | "max" if extremes.absolute && three => 3..=3,
            "min" | "max" if three => 2..=3,
            "fma" | "mad" => 3..=3,
            _ => 2..=2,
        };
        let (to, args) = form
            .instruction
            .operands
            .split_first()
            .filter(|(_, args)| wanted.contains(&args.len()))
            .ok_or_else(|| form.invalid(&format!("{} operands are needed", wanted.end() + 1)))?;
        let args = args
            .iter()
            .map(|arg| self.read(arg, ty))
            .collect::<Result<Vec<_>, _>>()?;
        let value = self.lanes(ty, &args, |lower, ty, args| match opcode {
            "abs" | "neg" => lower.float_sign(opcode == "neg", modes.ftz, ty, args),
            "min" | "max" => lower.float_extreme(extremes, modes.ftz, ty, args),
            _ => lower.float_operation(opcode, modes, ty, args),
        });
        self.write(to, ty, value)
    }

    fn flushed(&mut self, ftz: bool, ty: Type, args: &[Value]) -> Vec<Value> {
        args.iter()
            .map(|&arg| if ftz { self.flush(arg, ty) } else { arg })
            .collect()
    }

    /// Sums, products and quotients of scalars.
    fn float_operation(&mut self, opcode: &str, modes: Modes, ty: Type, args: &[Value]) -> Value {
        let outside = if modes.oob {
            let tests = args
                .iter()
                .map(|&arg| self.b.ins().icmp_imm_u(IntCC::Equal, arg, OUT_OF_BOUNDS));
            let tests: Vec<Value> = tests.collect();
            tests
                .into_iter()
                .reduce(|some, test| self.b.ins().bor(some, test))
        } else {
            None
        };
        let args = self.flushed(modes.ftz, ty, args);
        let wide: Vec<Value> = if is_half(ty) {
            args.iter()
                .map(|&arg| self.double_of_half(arg, ty))
                .collect()
        } else {
            args
        };
        let [a, b, ref rest @ ..] = wide[..] else {
            return self.zero(clif(ty));
        };
        let c = rest.first().copied().unwrap_or(a);
        let operation = match opcode {
            "add" => Operation::Add,
            "sub" => Operation::Sub,
            "mul" => Operation::Mul,
            "div" => Operation::Div,
            _ => Operation::Fma,
        };
        // Double precision holds halves' products, and more than twice the bits of their sums and so
        // rounds those without harm.
        let value = match operation {
            _ if modes.rounding != Rounding::Nearest => {
                self.soft_scalar(operation, modes.rounding, ty, &wide)
            }
            Operation::Add => self.b.ins().fadd(a, b),
            Operation::Sub => self.b.ins().fsub(a, b),
            Operation::Mul => self.b.ins().fmul(a, b),
            Operation::Div if modes.approximate => {
                let quotient = self.b.ins().fdiv(a, b);
                let magnitude = self.b.ins().fabs(b);
                let limit = self.f32(f32::from_bits((127 + 126) << 23));
                let large = self.b.ins().fcmp(FloatCC::GreaterThan, magnitude, limit);
                let zero = self.f32(0.0);
                let reciprocal = self.b.ins().fcopysign(zero, b);
                let product = self.b.ins().fmul(a, reciprocal);
                self.b.ins().select(large, product, quotient)
            }
            Operation::Div => self.b.ins().fdiv(a, b),
            _ if is_half(ty) => self.half_fused(ty, a, b, c),
            _ => self.fused(ty, a, b, c),
        };
        if !is_half(ty) {
            let value = if modes.ftz {
                self.flush(value, ty)
            } else {
                value
            };
            return if modes.sat {
                self.saturate(value)
            } else {
                value
            };
        }
        let mut value = value;
        if modes.sat {
            value = self.saturate(value);
        }
        if modes.relu {
            let zero = self.f64(0.0);
            let negative = self.b.ins().fcmp(FloatCC::LessThanOrEqual, value, zero);
            value = self.b.ins().select(negative, zero, value);
        }
        let value = self.half_of_double(value, ty);
        let value = if modes.ftz {
            self.flush(value, ty)
        } else {
            value
        };
        match outside {
            Some(outside) => {
                let zero = self.imm(types::I16, 0);
                self.b.ins().select(outside, zero, value)
            }
            None => value,
        }
    }

    /// a b + c, rounded once.
    fn fused(&mut self, ty: Type, a: Value, b: Value, c: Value) -> Value {
        match (self.has_fma, ty) {
            (true, _) => self.b.ins().fma(a, b, c),
            (false, Type::F32) => self.helper(Helper::FmaF32, &[a, b, c], types::F32),
            (false, _) => self.helper(Helper::FmaF64, &[a, b, c], types::F64),
        }
    }

    /// The least or the greatest of two or three scalars.
    fn float_extreme(&mut self, extremes: Extremes, ftz: bool, ty: Type, args: &[Value]) -> Value {
        let args = self.flushed(ftz, ty, args);
        let mut args: Vec<Value> = if is_half(ty) {
            args.iter().map(|&arg| self.widen(arg, ty)).collect()
        } else {
            args
        };
        let own = if ty == Type::F64 {
            types::F64
        } else {
            types::F32
        };
        let signs = match args[..] {
            [a, b] if extremes.xor_sign => {
                let (a, b) = (self.cast(a, types::I32), self.cast(b, types::I32));
                let signs = self.b.ins().bxor(a, b);
                let sign = self.imm(types::I32, 0x8000_0000);
                Some(self.b.ins().band(signs, sign))
            }
            _ => None,
        };
        if extremes.absolute {
            for arg in &mut args {
                *arg = self.b.ins().fabs(*arg);
            }
        }
        let Some(mut value) = args.first().copied() else {
            return self.zero(clif(ty));
        };
        for &other in args.iter().skip(1) {
            let chosen = if extremes.least {
                self.b.ins().fmin(value, other)
            } else {
                self.b.ins().fmax(value, other)
            };
            value = if extremes.nan {
                chosen
            } else {
                // The number, where only one of them is one.
                let other_nan = self.b.ins().fcmp(FloatCC::Unordered, other, other);
                let chosen = self.b.ins().select(other_nan, value, chosen);
                let value_nan = self.b.ins().fcmp(FloatCC::Unordered, value, value);
                self.b.ins().select(value_nan, other, chosen)
            };
        }
        let is_nan = self.b.ins().fcmp(FloatCC::Unordered, value, value);
        if let Some(signs) = signs {
            let bits = self.cast(value, types::I32);
            let bits = self.b.ins().bor(bits, signs);
            value = self.cast(bits, types::F32);
        }
        let nan = self.nan(own);
        let value = self.b.ins().select(is_nan, nan, value);
        if is_half(ty) {
            self.half_of_single(value, ty)
        } else {
            value
        }
    }

    fn float_sign(&mut self, negate: bool, ftz: bool, ty: Type, args: &[Value]) -> Value {
        let args = self.flushed(ftz, ty, args);
        let Some(&value) = args.first() else {
            return self.zero(clif(ty));
        };
        match (is_half(ty), negate) {
            (false, true) => self.b.ins().fneg(value),
            (false, false) => self.b.ins().fabs(value),
            (true, true) => {
                let sign = self.imm(types::I16, 0x8000);
                self.b.ins().bxor(value, sign)
            }
            (true, false) => {
                let rest = self.imm(types::I16, 0x7fff);
                self.b.ins().band(value, rest)
            }
        }
    }

    /// Roots, reciprocals and approximate functions.
    pub(super) fn function(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let opcode = form.instruction.opcode;
        let approximate = form.take("approx");
        let rounding = form.rounding().unwrap_or(Rounding::Nearest);
        let ftz = form.take("ftz");
        let ty = form.ty()?;
        form.finish()?;
        let (to, [from]) = Self::sources(form)?;
        let value = self.read(from, ty)?;
        let value = if ty == Type::F64 && approximate && ftz {
            self.gross(opcode == "rsqrt", value)
        } else {
            self.lanes(ty, &[value], |lower, ty, args| {
                lower.scalar_function(opcode, rounding, ftz, ty, args)
            })
        };
        self.write(to, ty, value)
    }

    fn scalar_function(
        &mut self,
        opcode: &str,
        rounding: Rounding,
        ftz: bool,
        ty: Type,
        args: &[Value],
    ) -> Value {
        let args = self.flushed(ftz, ty, args);
        let Some(&value) = args.first() else {
            return self.zero(clif(ty));
        };
        let one = self.one(clif(ty));
        let helper = match opcode {
            "ex2" => Some(Helper::Ex2),
            "lg2" => Some(Helper::Lg2),
            "sin" => Some(Helper::Sin),
            "cos" => Some(Helper::Cos),
            "tanh" => Some(Helper::Tanh),
            _ => None,
        };
        let value = match (helper, opcode, rounding) {
            // Through single precision: far more exact than the ISA asks for halves.
            (Some(helper), ..) if is_half(ty) => {
                let single = self.widen(value, ty);
                let value = self.helper(helper, &[single], types::F32);
                self.half_of_single(value, ty)
            }
            (Some(helper), ..) => self.helper(helper, &[value], types::F32),
            (_, "rcp", Rounding::Nearest) => self.b.ins().fdiv(one, value),
            (_, "sqrt", Rounding::Nearest) => self.b.ins().sqrt(value),
            (_, "rcp", _) => self.soft_scalar(Operation::Div, rounding, ty, &[one, value]),
            (_, "sqrt", _) => self.soft_scalar(Operation::Sqrt, rounding, ty, &[value]),
            _ => {
                let root = self.b.ins().sqrt(value);
                self.b.ins().fdiv(one, root)
            }
        };
        if ftz { self.flush(value, ty) } else { value }
    }

    /// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: of the operand and of the result only the upper
    /// 32 bits count.
    fn gross(&mut self, root: bool, value: Value) -> Value {
        let upper = |lower: &mut Self, value: Value| {
            let bits = lower.cast(value, types::I64);
            let mask = lower.imm(types::I64, -1 << 32);
            let bits = lower.b.ins().band(bits, mask);
            let value = lower.cast(bits, types::F64);
            lower.flush(value, Type::F64)
        };
        let mut input = upper(self, value);
        if root {
            input = self.b.ins().sqrt(input);
        }
        let one = self.f64(1.0);
        let result = self.b.ins().fdiv(one, input);
        let result = upper(self, result);
        // A NaN may have had all its bits in the lower half.
        let nan = self.b.ins().fcmp(FloatCC::Unordered, value, value);
        let canonical = self.nan(types::F64);
        self.b.ins().select(nan, canonical, result)
    }

    pub(super) fn float_bits(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        if form.instruction.opcode == "copysign" {
            let ty = form.ty()?;
            form.finish()?;
            let (to, [sign, value]) = Self::sources(form)?;
            let (sign, value) = (self.read(sign, ty)?, self.read(value, ty)?);
            let value = self.b.ins().fcopysign(value, sign);
            return self.write(to, ty, value);
        }
        const QUESTIONS: [&str; 6] = [
            "finite",
            "infinite",
            "number",
            "notanumber",
            "normal",
            "subnormal",
        ];
        let question = QUESTIONS.into_iter().find(|word| form.take(word));
        let question = question.ok_or_else(|| form.invalid("the property is missing"))?;
        let ty = form.ty()?;
        form.finish()?;
        let (to, [from]) = Self::sources(form)?;
        let (int, infinity, least) = match ty {
            Type::F32 => (types::I32, 0x7f80_0000, 0x0080_0000),
            _ => (types::I64, 0x7ff0_0000_0000_0000, 0x0010_0000_0000_0000),
        };
        let value = self.read(from, ty)?;
        let value = self.b.ins().fabs(value);
        let bits = self.cast(value, int);
        let (infinity, least) = (self.imm(int, infinity), self.imm(int, least));
        let value = match question {
            "finite" => self.b.ins().icmp(IntCC::UnsignedLessThan, bits, infinity),
            "infinite" => self.b.ins().icmp(IntCC::Equal, bits, infinity),
            "number" => self
                .b
                .ins()
                .icmp(IntCC::UnsignedLessThanOrEqual, bits, infinity),
            "notanumber" => self
                .b
                .ins()
                .icmp(IntCC::UnsignedGreaterThan, bits, infinity),
            // Zero counts as normal.
            "normal" => {
                let finite = self.b.ins().icmp(IntCC::UnsignedLessThan, bits, infinity);
                let large = self
                    .b
                    .ins()
                    .icmp(IntCC::UnsignedGreaterThanOrEqual, bits, least);
                let zero = self.b.ins().icmp_imm_u(IntCC::Equal, bits, 0);
                let fits = self.b.ins().bor(large, zero);
                self.b.ins().band(finite, fits)
            }
            _ => {
                let zero = self.imm(int, 0);
                let some = self.b.ins().icmp(IntCC::NotEqual, bits, zero);
                let small = self.b.ins().icmp(IntCC::UnsignedLessThan, bits, least);
                self.b.ins().band(some, small)
            }
        };
        self.write(to, Type::Pred, value)
    }
}
