//! Arithmetic, comparison, logic and bit instructions. What the host rounds as PTX wants it is done
//! inline; directed rounding, half precision and approximations of transcendental functions go through
//! helpers, which `exec::soft` and `exec::helpers` define.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type as Clif, Value, types};

use super::form::{Form, Rounding};
use super::lower::{Lower, clif, int_of};
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

const fn is_half(ty: Type) -> bool {
    matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2)
}

const fn is_float(ty: Type) -> bool {
    format(ty).is_some()
}

/// How a comparison's name reads for integers and floats.
#[derive(Debug, Clone, Copy)]
struct Comparison {
    signed: Option<IntCC>,
    unsigned: Option<IntCC>,
    float: Option<FloatCC>,
}

const fn comparison(
    signed: Option<IntCC>,
    unsigned: Option<IntCC>,
    float: Option<FloatCC>,
) -> Comparison {
    Comparison {
        signed,
        unsigned,
        float,
    }
}

const COMPARISONS: [(&str, Comparison); 18] = {
    use FloatCC as F;
    use IntCC as I;
    [
        (
            "eq",
            comparison(Some(I::Equal), Some(I::Equal), Some(F::Equal)),
        ),
        (
            "ne",
            comparison(
                Some(I::NotEqual),
                Some(I::NotEqual),
                Some(F::OrderedNotEqual),
            ),
        ),
        (
            "lt",
            comparison(
                Some(I::SignedLessThan),
                Some(I::UnsignedLessThan),
                Some(F::LessThan),
            ),
        ),
        (
            "le",
            comparison(
                Some(I::SignedLessThanOrEqual),
                Some(I::UnsignedLessThanOrEqual),
                Some(F::LessThanOrEqual),
            ),
        ),
        (
            "gt",
            comparison(
                Some(I::SignedGreaterThan),
                Some(I::UnsignedGreaterThan),
                Some(F::GreaterThan),
            ),
        ),
        (
            "ge",
            comparison(
                Some(I::SignedGreaterThanOrEqual),
                Some(I::UnsignedGreaterThanOrEqual),
                Some(F::GreaterThanOrEqual),
            ),
        ),
        ("lo", comparison(None, Some(I::UnsignedLessThan), None)),
        (
            "ls",
            comparison(None, Some(I::UnsignedLessThanOrEqual), None),
        ),
        ("hi", comparison(None, Some(I::UnsignedGreaterThan), None)),
        (
            "hs",
            comparison(None, Some(I::UnsignedGreaterThanOrEqual), None),
        ),
        ("equ", comparison(None, None, Some(F::UnorderedOrEqual))),
        ("neu", comparison(None, None, Some(F::NotEqual))),
        ("ltu", comparison(None, None, Some(F::UnorderedOrLessThan))),
        (
            "leu",
            comparison(None, None, Some(F::UnorderedOrLessThanOrEqual)),
        ),
        (
            "gtu",
            comparison(None, None, Some(F::UnorderedOrGreaterThan)),
        ),
        (
            "geu",
            comparison(None, None, Some(F::UnorderedOrGreaterThanOrEqual)),
        ),
        ("num", comparison(None, None, Some(F::Ordered))),
        ("nan", comparison(None, None, Some(F::Unordered))),
    ]
};

/// What all floating-point arithmetic may carry.
#[derive(Debug, Clone, Copy)]
struct Modes {
    rounding: Rounding,
    ftz: bool,
    sat: bool,
}

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
            _ => Err(form.unsupported("this instruction")),
        }
    }

    /// The operands after the destination.
    fn sources<'f, const N: usize>(
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

    // Floating point.

    /// Subnormal numbers become zeros of their sign.
    pub(super) fn flush(&mut self, value: Value) -> Value {
        let bits = self.cast(value, types::I32);
        let exponent = self.imm(types::I32, 0x7f80_0000);
        let exponent = self.b.ins().band(bits, exponent);
        let small = self.b.ins().icmp_imm_u(IntCC::Equal, exponent, 0);
        let sign = self.imm(types::I32, 0x8000_0000);
        let sign = self.b.ins().band(bits, sign);
        let bits = self.b.ins().select(small, sign, bits);
        self.cast(bits, types::F32)
    }

    /// Clamped to 0 to 1; NaN becomes +0.
    pub(super) fn saturate(&mut self, value: Value) -> Value {
        let ty = self.b.func.dfg.value_type(value);
        let zero = self.zero(ty);
        let one = if ty == types::F32 {
            self.f32(1.0)
        } else {
            self.f64(1.0)
        };
        let above = self.b.ins().fcmp(FloatCC::GreaterThan, value, one);
        let low = self.b.ins().select(above, one, value);
        let positive = self.b.ins().fcmp(FloatCC::GreaterThan, low, zero);
        self.b.ins().select(positive, low, zero)
    }

    fn finish_float(&mut self, modes: Modes, ty: Type, value: Value) -> Value {
        let value = if modes.ftz && ty == Type::F32 {
            self.flush(value)
        } else {
            value
        };
        if modes.sat {
            self.saturate(value)
        } else {
            value
        }
    }

    /// A floating-point operand, flushed if asked for.
    fn float(&mut self, operand: &Operand, ty: Type, modes: Modes) -> Result<Value, PtxError> {
        let value = self.read(operand, ty)?;
        Ok(if modes.ftz && ty == Type::F32 {
            self.flush(value)
        } else {
            value
        })
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

    /// A software operation on scalars or on both halves of a pair.
    fn soft_elements(
        &mut self,
        operation: Operation,
        modes: Modes,
        ty: Type,
        args: &[Value],
    ) -> Value {
        let code = Code {
            operation,
            from: format(ty).unwrap_or(Format::F32),
            to: format(ty).unwrap_or(Format::F32),
            rounding: modes.rounding,
            ftz: modes.ftz,
            sat: modes.sat,
        };
        if !matches!(ty, Type::F16x2 | Type::Bf16x2) {
            let value = self.soft(code, args);
            return self.narrow(value, clif(ty));
        }
        let sixteen = self.imm(types::I32, 16);
        let mut halves = Vec::new();
        for high in [false, true] {
            let parts: Vec<Value> = args
                .iter()
                .map(|&arg| {
                    let part = if high {
                        self.b.ins().ushr(arg, sixteen)
                    } else {
                        arg
                    };
                    self.b.ins().ireduce(types::I16, part)
                })
                .collect();
            let value = self.soft(code, &parts);
            let value = self.b.ins().ireduce(types::I16, value);
            halves.push(self.b.ins().uextend(types::I32, value));
        }
        let high = self.b.ins().ishl(halves[1], sixteen);
        self.b.ins().bor(halves[0], high)
    }

    fn numeric(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let approximate = form.take("approx") || form.take("full");
        let rounding = form.rounding();
        let modes = Modes {
            rounding: rounding.unwrap_or(Rounding::Nearest),
            ftz: form.take("ftz"),
            sat: form.take("sat"),
        };
        let part = form.one_of(&[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)]);
        let writes_carry = form.take("cc");
        let propagate_nan = form.take("NaN");
        let ty = form.ty()?;
        form.finish()?;
        let opcode = form.instruction.opcode;
        if propagate_nan && !(is_float(ty) && matches!(opcode, "min" | "max")) {
            return Err(form.invalid("modifier .NaN does not belong here"));
        }
        if is_float(ty) {
            if part.is_some() || writes_carry {
                return Err(form.invalid("an integer modifier on a floating-point type"));
            }
            return self.float_numeric(form, ty, modes, propagate_nan);
        }
        if rounding.is_some() || approximate || modes.ftz {
            return Err(form.invalid("a floating-point modifier on an integer type"));
        }
        if !(ty.is_integer() || ty.is_untyped() && matches!(opcode, "add" | "sub"))
            || ty.bytes() < 2
        {
            return Err(form.unsupported("this type"));
        }
        self.integer_numeric(form, ty, modes.sat, part, writes_carry)
    }

    fn float_numeric(
        &mut self,
        form: &Form<'_, '_>,
        ty: Type,
        modes: Modes,
        propagate_nan: bool,
    ) -> Result<(), PtxError> {
        let opcode = form.instruction.opcode;
        let operation = match opcode {
            "add" => Operation::Add,
            "sub" => Operation::Sub,
            "mul" => Operation::Mul,
            "div" => Operation::Div,
            "fma" | "mad" => Operation::Fma,
            "min" => Operation::Min,
            "max" => Operation::Max,
            "abs" | "neg" => return self.float_sign(form, ty, modes),
            _ => return Err(form.invalid("this instruction has no floating-point form")),
        };
        let (to, args) = form
            .instruction
            .operands
            .split_first()
            .ok_or_else(|| form.invalid("operands are missing"))?;
        let wanted = if operation == Operation::Fma { 3 } else { 2 };
        if args.len() != wanted {
            return Err(form.invalid(&format!("{} operands are needed", wanted + 1)));
        }
        if is_half(ty) {
            let args: Vec<Value> = args
                .iter()
                .map(|arg| self.read(arg, ty))
                .collect::<Result<_, _>>()?;
            let operation = match (operation, propagate_nan) {
                (Operation::Min, true) => Operation::MinNan,
                (Operation::Max, true) => Operation::MaxNan,
                (operation, _) => operation,
            };
            let value = self.soft_elements(operation, modes, ty, &args);
            return self.write(to, ty, value);
        }
        let args: Vec<Value> = args
            .iter()
            .map(|arg| self.float(arg, ty, modes))
            .collect::<Result<_, _>>()?;
        let inline = modes.rounding == Rounding::Nearest;
        let value = match operation {
            Operation::Min | Operation::Max => {
                let (a, b) = (args[0], args[1]);
                let value = if operation == Operation::Min {
                    self.b.ins().fmin(a, b)
                } else {
                    self.b.ins().fmax(a, b)
                };
                if propagate_nan {
                    value
                } else {
                    // The number, where only one of them is one.
                    let b_nan = self.b.ins().fcmp(FloatCC::Unordered, b, b);
                    let value = self.b.ins().select(b_nan, a, value);
                    let a_nan = self.b.ins().fcmp(FloatCC::Unordered, a, a);
                    self.b.ins().select(a_nan, b, value)
                }
            }
            Operation::Fma if inline => self.fused(ty, args[0], args[1], args[2]),
            Operation::Add if inline => self.b.ins().fadd(args[0], args[1]),
            Operation::Sub if inline => self.b.ins().fsub(args[0], args[1]),
            Operation::Mul if inline => self.b.ins().fmul(args[0], args[1]),
            Operation::Div if inline => self.b.ins().fdiv(args[0], args[1]),
            _ => self.soft_elements(
                operation,
                Modes {
                    sat: false,
                    ftz: false,
                    ..modes
                },
                ty,
                &args,
            ),
        };
        let value = self.finish_float(modes, ty, value);
        self.write(to, ty, value)
    }

    /// a b + c, rounded once.
    fn fused(&mut self, ty: Type, a: Value, b: Value, c: Value) -> Value {
        match (self.has_fma, ty) {
            (true, _) => self.b.ins().fma(a, b, c),
            (false, Type::F32) => self.helper(Helper::FmaF32, &[a, b, c], types::F32),
            (false, _) => self.helper(Helper::FmaF64, &[a, b, c], types::F64),
        }
    }

    fn float_sign(&mut self, form: &Form<'_, '_>, ty: Type, modes: Modes) -> Result<(), PtxError> {
        let (to, [from]) = Self::sources(form)?;
        let negate = form.instruction.opcode == "neg";
        if is_half(ty) {
            let value = self.read(from, ty)?;
            let sign = match ty {
                Type::F16x2 | Type::Bf16x2 => 0x8000_8000,
                _ => 0x8000,
            };
            let sign = self.imm(clif(ty), sign);
            let value = if negate {
                self.b.ins().bxor(value, sign)
            } else {
                self.b.ins().band_not(value, sign)
            };
            return self.write(to, ty, value);
        }
        let value = self.float(from, ty, modes)?;
        let value = if negate {
            self.b.ins().fneg(value)
        } else {
            self.b.ins().fabs(value)
        };
        self.write(to, ty, value)
    }

    /// Roots, reciprocals and approximate functions.
    fn function(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let approximate = form.take("approx");
        let rounding = form.rounding();
        let modes = Modes {
            rounding: rounding.unwrap_or(Rounding::Nearest),
            ftz: form.take("ftz"),
            sat: false,
        };
        let ty = form.ty()?;
        form.finish()?;
        let (to, [from]) = Self::sources(form)?;
        let opcode = form.instruction.opcode;
        let exact = matches!(opcode, "rcp" | "sqrt");
        if approximate == rounding.is_some() || rounding.is_some() && !exact {
            return Err(form.invalid("either .approx or a rounding is needed"));
        }
        if is_half(ty) {
            // Through single precision: far more exact than the half's own precision asks for.
            return self.half_function(form, ty, to, from);
        }
        if ty == Type::F64 && !matches!(opcode, "rcp" | "sqrt" | "rsqrt") {
            return Err(form.unsupported("this type"));
        }
        let value = self.float(from, ty, modes)?;
        let one = if ty == Type::F64 {
            self.f64(1.0)
        } else {
            self.f32(1.0)
        };
        let value = match (opcode, modes.rounding) {
            ("rcp", Rounding::Nearest) => self.b.ins().fdiv(one, value),
            ("sqrt", Rounding::Nearest) => self.b.ins().sqrt(value),
            ("rcp", _) => self.soft_elements(
                Operation::Div,
                Modes {
                    ftz: false,
                    ..modes
                },
                ty,
                &[one, value],
            ),
            ("sqrt", _) => self.soft_elements(
                Operation::Sqrt,
                Modes {
                    ftz: false,
                    ..modes
                },
                ty,
                &[value],
            ),
            ("rsqrt", _) => {
                let root = self.b.ins().sqrt(value);
                self.b.ins().fdiv(one, root)
            }
            _ => self.single_function(form, value)?,
        };
        let value = self.finish_float(modes, ty, value);
        self.write(to, ty, value)
    }

    fn single_function(&mut self, form: &Form<'_, '_>, value: Value) -> Result<Value, PtxError> {
        let helper = match form.instruction.opcode {
            "ex2" => Helper::Ex2,
            "lg2" => Helper::Lg2,
            "sin" => Helper::Sin,
            "cos" => Helper::Cos,
            "tanh" => Helper::Tanh,
            _ => return Err(form.unsupported("this type")),
        };
        Ok(self.helper(helper, &[value], types::F32))
    }

    fn half_function(
        &mut self,
        form: &Form<'_, '_>,
        ty: Type,
        to: &Operand,
        from: &Operand,
    ) -> Result<(), PtxError> {
        if !matches!(ty, Type::F16 | Type::Bf16)
            || !matches!(form.instruction.opcode, "ex2" | "tanh")
        {
            return Err(form.unsupported("this type"));
        }
        let value = self.read(from, ty)?;
        let value = self.widen(value, ty);
        let value = self.single_function(form, value)?;
        let value = self.reformat(value, Type::F32, ty, Rounding::Nearest);
        self.write(to, ty, value)
    }

    /// A half-precision value in single precision.
    pub(super) fn widen(&mut self, value: Value, ty: Type) -> Value {
        self.reformat(value, ty, Type::F32, Rounding::Nearest)
    }

    /// A value of one floating-point type as another.
    pub(super) fn reformat(
        &mut self,
        value: Value,
        from: Type,
        to: Type,
        rounding: Rounding,
    ) -> Value {
        let code = Code {
            operation: Operation::Convert,
            from: format(from).unwrap_or(Format::F32),
            to: format(to).unwrap_or(Format::F32),
            rounding,
            ftz: false,
            sat: false,
        };
        let value = self.soft(code, &[value]);
        self.narrow(value, clif(to))
    }

    fn float_bits(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        if form.instruction.opcode == "copysign" {
            let ty = form.ty()?;
            form.finish()?;
            let (to, [sign, value]) = Self::sources(form)?;
            if !matches!(ty, Type::F32 | Type::F64) {
                return Err(form.unsupported("this type"));
            }
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
            Type::F64 => (types::I64, 0x7ff0_0000_0000_0000, 0x0010_0000_0000_0000),
            _ => return Err(form.unsupported("this type")),
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
            "normal" => {
                let finite = self.b.ins().icmp(IntCC::UnsignedLessThan, bits, infinity);
                let large = self
                    .b
                    .ins()
                    .icmp(IntCC::UnsignedGreaterThanOrEqual, bits, least);
                self.b.ins().band(finite, large)
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

    // Integers.

    fn integer_numeric(
        &mut self,
        form: &Form<'_, '_>,
        ty: Type,
        sat: bool,
        part: Option<Part>,
        writes_carry: bool,
    ) -> Result<(), PtxError> {
        let opcode = form.instruction.opcode;
        let needs_part = matches!(opcode, "mul" | "mad" | "madc");
        if needs_part != part.is_some() {
            return Err(form.invalid(if needs_part {
                "lo, hi or wide is missing"
            } else {
                "lo, hi or wide is out of place"
            }));
        }
        if sat
            && !(ty == Type::S32
                && (matches!(opcode, "add" | "sub") || opcode == "mad" && part == Some(Part::High)))
        {
            return Err(form.invalid("modifier .sat does not belong here"));
        }
        if writes_carry && !matches!(opcode, "add" | "sub" | "mad" | "addc" | "subc" | "madc") {
            return Err(form.invalid("modifier .cc does not belong here"));
        }
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
                let part = part.unwrap_or(Part::Low);
                let product = self.product(a, b, ty, part, form)?;
                let wide = part
                    .result(ty)
                    .ok_or_else(|| form.unsupported("this type"))?;
                let c = self.read(c, wide)?;
                let value = self.sum(product, c, wide, sat, opcode == "madc", writes_carry);
                self.write(to, wide, value)
            }
            "mul" => {
                let (to, [a, b]) = Self::sources(form)?;
                let part = part.unwrap_or(Part::Low);
                let value = self.product(a, b, ty, part, form)?;
                let wide = part
                    .result(ty)
                    .ok_or_else(|| form.unsupported("this type"))?;
                self.write(to, wide, value)
            }
            _ => {
                let (to, [a, b]) = Self::sources(form)?;
                let (a, b) = (self.read(a, ty)?, self.read(b, ty)?);
                let signed = ty.is_signed();
                let value = match opcode {
                    "add" | "addc" => self.sum(a, b, ty, sat, opcode == "addc", writes_carry),
                    "sub" | "subc" => {
                        self.difference(a, b, ty, sat, opcode == "subc", writes_carry)
                    }
                    "min" if signed => self.b.ins().smin(a, b),
                    "min" => self.b.ins().umin(a, b),
                    "max" if signed => self.b.ins().smax(a, b),
                    "max" => self.b.ins().umax(a, b),
                    "div" | "rem" => self.quotient(a, b, ty, opcode == "rem"),
                    _ => return Err(form.invalid("this instruction has no integer form")),
                };
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
        form: &Form<'_, '_>,
    ) -> Result<Value, PtxError> {
        let signed = ty.is_signed();
        // Array elements' sizes: a shift does it.
        if let (Operand::Int(factor), Part::Low | Part::Wide) = (b, part)
            && let Some(shift) = power_of_two(*factor, ty)
            && let Some(wide) = part.result(ty)
        {
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
            return match (part, signed) {
                (Part::Wide, _) => Err(form.unsupported("this type")),
                (_, true) => Ok(self.b.ins().smulhi(a, b)),
                (_, false) => Ok(self.b.ins().umulhi(a, b)),
            };
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
        let mut overflow = None;
        if ty.is_signed() {
            let least = self.imm(own, i64::MIN >> (64 - ty.bits()));
            let minus_one = self.imm(own, -1);
            let at_least = self.b.ins().icmp(IntCC::Equal, a, least);
            let by_minus_one = self.b.ins().icmp(IntCC::Equal, b, minus_one);
            let both = self.b.ins().band(at_least, by_minus_one);
            unsafe_divisor = self.b.ins().bor(by_zero, both);
            overflow = Some(both);
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
        let _ = overflow;
        self.b.ins().select(by_zero, when_zero, value)
    }

    fn multiply24(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let high = form
            .one_of(&[("lo", false), ("hi", true)])
            .ok_or_else(|| form.invalid("lo or hi is missing"))?;
        let ty = form.ty()?;
        form.finish()?;
        let add = form.instruction.opcode == "mad24";
        if !matches!(ty, Type::U32 | Type::S32) {
            return Err(form.invalid("the type is u32 or s32"));
        }
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
            value = self.b.ins().iadd(value, c);
        }
        self.write(to, ty, value)
    }

    fn integer_sum(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        if form.instruction.opcode == "sad" {
            let ty = form.ty()?;
            form.finish()?;
            if !ty.is_integer() || ty.bytes() < 2 {
                return Err(form.invalid("an integer type is needed"));
            }
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
        if !matches!(
            (a_type, b_type),
            (Type::U32 | Type::S32, Type::U32 | Type::S32)
        ) {
            return Err(form.invalid("the types are u32 or s32"));
        }
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

    // Logic, shifts, bits.

    fn logic(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let ty = form.ty()?;
        form.finish()?;
        if ty != Type::Pred && !(ty.is_untyped() && matches!(ty.bytes(), 2 | 4 | 8)) {
            return Err(form.invalid("the type is pred or b16 to b64"));
        }
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
                let value = if clif(ty) == types::I8 {
                    is_zero
                } else {
                    self.b.ins().uextend(clif(ty), is_zero)
                };
                self.write(to, ty, value)
            }
            "lop3" => {
                let (to, [a, b, c, table]) = Self::sources(form)?;
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
                self.write(to, ty, value)
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

    fn shift(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        if form.instruction.opcode == "shf" {
            return self.funnel(form);
        }
        let ty = form.ty()?;
        form.finish()?;
        if is_float(ty) || ty == Type::Pred || !matches!(ty.bytes(), 2 | 4 | 8) {
            return Err(form.invalid("the type is an integer or b16 to b64"));
        }
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
        if ty != Type::B32 {
            return Err(form.invalid("the type is b32"));
        }
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

    fn bits(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
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
        if is_float(ty) || !matches!(ty.bytes(), 4 | 8) {
            return Err(form.invalid("the type is 32 or 64 bits wide"));
        }
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
            "prmt" if ty == Type::B32 => {
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
            "bmsk" if ty == Type::B32 => {
                let (to, [place, length]) = Self::sources(form)?;
                let wrap = wrap.ok_or_else(|| form.invalid("wrap or clamp is missing"))?;
                let wrap = self.imm(types::I32, wrap);
                let args = [
                    wrap,
                    self.read(place, Type::U32)?,
                    self.read(length, Type::U32)?,
                ];
                let value = self.helper(Helper::BitMask, &args, types::I32);
                self.write(to, ty, value)
            }
            _ => Err(form.unsupported("this instruction or type")),
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

    // Comparison and selection.

    /// Whether a comparison holds.
    fn compare(
        &mut self,
        form: &Form<'_, '_>,
        comparison: Comparison,
        ty: Type,
        ftz: bool,
        a: &Operand,
        b: &Operand,
    ) -> Result<Value, PtxError> {
        if let Some(condition) = comparison.float
            && is_float(ty)
        {
            let modes = Modes {
                rounding: Rounding::Nearest,
                ftz,
                sat: false,
            };
            let (a, b) = if is_half(ty) {
                if !matches!(ty, Type::F16 | Type::Bf16) {
                    return Err(form.unsupported("comparison of pairs"));
                }
                let (a, b) = (self.read(a, ty)?, self.read(b, ty)?);
                (self.widen(a, ty), self.widen(b, ty))
            } else {
                (self.float(a, ty, modes)?, self.float(b, ty, modes)?)
            };
            return Ok(self.b.ins().fcmp(condition, a, b));
        }
        let condition = if is_float(ty) || ty == Type::Pred || ty.bytes() < 2 {
            None
        } else if ty.is_signed() {
            comparison.signed
        } else if ty.is_untyped() {
            comparison
                .unsigned
                .filter(|condition| matches!(condition, IntCC::Equal | IntCC::NotEqual))
        } else {
            comparison.unsigned
        };
        let condition =
            condition.ok_or_else(|| form.invalid("this comparison does not fit the type"))?;
        let (a, b) = (self.read(a, ty)?, self.read(b, ty)?);
        Ok(self.b.ins().icmp(condition, a, b))
    }

    fn take_comparison(
        form: &Form<'_, '_>,
    ) -> Result<(Comparison, Option<&'static str>, bool), PtxError> {
        let comparison = form
            .one_of(&COMPARISONS)
            .ok_or_else(|| form.invalid("the comparison is missing"))?;
        let combine = form.one_of(&[("and", "and"), ("or", "or"), ("xor", "xor")]);
        Ok((comparison, combine, form.take("ftz")))
    }

    fn combine(&mut self, how: Option<&str>, holds: Value, with: Option<Value>) -> Value {
        match (how, with) {
            (Some("and"), Some(with)) => self.b.ins().band(holds, with),
            (Some("or"), Some(with)) => self.b.ins().bor(holds, with),
            (Some("xor"), Some(with)) => self.b.ins().bxor(holds, with),
            _ => holds,
        }
    }

    fn set_predicate(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let (comparison, combine, ftz) = Self::take_comparison(form)?;
        let ty = form.ty()?;
        form.finish()?;
        let (to, a, b, with) = match (form.instruction.operands.as_slice(), combine) {
            ([to, a, b], None) => (to, a, b, None),
            ([to, a, b, with], Some(_)) => (to, a, b, Some(with)),
            _ => return Err(form.invalid("another number of operands is needed")),
        };
        let holds = self.compare(form, comparison, ty, ftz, a, b)?;
        let with = with.map(|with| self.read(with, Type::Pred)).transpose()?;
        match to {
            Operand::Pair(first, second) => {
                let value = self.combine(combine, holds, with);
                let fails = self.not(holds);
                let other = self.combine(combine, fails, with);
                self.write_predicate(*first, value)?;
                self.write_predicate(*second, other)
            }
            to => {
                let value = self.combine(combine, holds, with);
                self.write(to, Type::Pred, value)
            }
        }
    }

    fn set(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let (comparison, combine, ftz) = Self::take_comparison(form)?;
        let (result, ty) = (form.ty()?, form.ty()?);
        form.finish()?;
        let (to, a, b, with) = match (form.instruction.operands.as_slice(), combine) {
            ([to, a, b], None) => (to, a, b, None),
            ([to, a, b, with], Some(_)) => (to, a, b, Some(with)),
            _ => return Err(form.invalid("another number of operands is needed")),
        };
        let holds = self.compare(form, comparison, ty, ftz, a, b)?;
        let with = with.map(|with| self.read(with, Type::Pred)).transpose()?;
        let holds = self.combine(combine, holds, with);
        let yes = match result {
            Type::F32 => self.f32(1.0),
            Type::U32 | Type::S32 => self.imm(types::I32, -1),
            Type::U16 | Type::S16 => self.imm(types::I16, -1),
            Type::F16 => self.imm(types::I16, 0x3c00),
            Type::Bf16 => self.imm(types::I16, 0x3f80),
            _ => return Err(form.unsupported("this type")),
        };
        let no = self.zero(clif(result));
        let value = self.b.ins().select(holds, yes, no);
        self.write(to, result, value)
    }

    fn select(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let ftz = form.take("ftz");
        let ty = form.ty()?;
        let by = if form.instruction.opcode == "slct" {
            Some(form.ty()?)
        } else {
            None
        };
        form.finish()?;
        if ty == Type::Pred {
            return Err(form.invalid("predicates cannot be selected"));
        }
        let (to, [a, b, choice]) = Self::sources(form)?;
        let (a, b) = (self.read(a, ty)?, self.read(b, ty)?);
        let choice = match by {
            None => self.read(choice, Type::Pred)?,
            Some(Type::S32) => {
                let choice = self.read(choice, Type::S32)?;
                self.b
                    .ins()
                    .icmp_imm_s(IntCC::SignedGreaterThanOrEqual, choice, 0)
            }
            Some(Type::F32) => {
                let modes = Modes {
                    rounding: Rounding::Nearest,
                    ftz,
                    sat: false,
                };
                let choice = self.float(choice, Type::F32, modes)?;
                let zero = self.zero(types::F32);
                self.b.ins().fcmp(FloatCC::GreaterThanOrEqual, choice, zero)
            }
            Some(_) => return Err(form.invalid("the choice is s32 or f32")),
        };
        let value = self.b.ins().select(choice, a, b);
        self.write(to, ty, value)
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
    const fn result(self, ty: Type) -> Option<Type> {
        match (self, ty) {
            (Self::Wide, Type::U16) => Some(Type::U32),
            (Self::Wide, Type::S16) => Some(Type::S32),
            (Self::Wide, Type::U32) => Some(Type::U64),
            (Self::Wide, Type::S32) => Some(Type::S64),
            (Self::Wide, _) => None,
            _ => Some(ty),
        }
    }
}

/// `bfe` (of a signed type or not) or `bfi`.
#[derive(Debug, Clone, Copy)]
enum Field {
    Extract(bool),
    Insert,
}
