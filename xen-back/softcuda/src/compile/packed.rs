//! Packed pairs and half precision: a pair's lanes go one by one through the same code as scalars, and
//! halves are computed in double precision, which leaves one rounding: to the half. Must round exactly
//! as the ISA says, which the comments here justify per operation.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::lower::Lower;
use crate::ptx::ast::Type;

pub(super) const fn is_half(ty: Type) -> bool {
    matches!(ty, Type::F16 | Type::Bf16)
}

/// Of a 16-bit format: bits of its fraction, and its exponent's bias.
const fn shape(ty: Type) -> (i64, i64) {
    match ty {
        Type::Bf16 => (7, 127),
        _ => (10, 15),
    }
}

impl Lower<'_, '_, '_> {
    /// Applies `lane` to scalars of a type, or to both 16-bit lanes of pairs; its results are the lanes
    /// of the result.
    pub(super) fn lanes(
        &mut self,
        ty: Type,
        args: &[Value],
        mut lane: impl FnMut(&mut Self, Type, &[Value]) -> Value,
    ) -> Value {
        let Some(element) = ty.lane() else {
            return lane(self, ty, args);
        };
        let low: Vec<Value> = args.iter().map(|&arg| self.half_at(arg, 0)).collect();
        let high: Vec<Value> = args.iter().map(|&arg| self.half_at(arg, 1)).collect();
        let (low, high) = (lane(self, element, &low), lane(self, element, &high));
        self.pair(low, high)
    }

    /// The low or the high 16 bits of a word.
    pub(super) fn half_at(&mut self, word: Value, index: i64) -> Value {
        let word = if index == 0 {
            word
        } else {
            let sixteen = self.imm(types::I32, 16);
            self.b.ins().ushr(word, sixteen)
        };
        self.b.ins().ireduce(types::I16, word)
    }

    /// Two 16-bit values as a word.
    pub(super) fn pair(&mut self, low: Value, high: Value) -> Value {
        let low = self.b.ins().uextend(types::I32, low);
        let high = self.b.ins().uextend(types::I32, high);
        let sixteen = self.imm(types::I32, 16);
        let high = self.b.ins().ishl(high, sixteen);
        self.b.ins().bor(low, high)
    }

    /// A half in single precision, exactly.
    pub(super) fn widen(&mut self, value: Value, ty: Type) -> Value {
        let value = self.b.ins().uextend(types::I32, value);
        let sixteen = self.imm(types::I32, 16);
        let high = self.b.ins().ishl(value, sixteen);
        if ty == Type::Bf16 {
            return self.cast(high, types::F32);
        }
        let sign = self.imm(types::I32, 0x8000_0000);
        let sign = self.b.ins().band(high, sign);
        let magnitude = self.imm(types::I32, 0x7fff);
        let magnitude = self.b.ins().band(value, magnitude);
        let thirteen = self.imm(types::I32, 13);
        let magnitude = self.b.ins().ishl(magnitude, thirteen);
        // The exponent's bias is put right by multiplying, which makes subnormal halves normal, too.
        let small = self.cast(magnitude, types::F32);
        let scale = self.f32(f32::from_bits((127 + 112) << 23));
        let scaled = self.b.ins().fmul(small, scale);
        let scaled = self.cast(scaled, types::I32);
        let infinity = self.imm(types::I32, 0x7f80_0000);
        let beyond = self.b.ins().bor(magnitude, infinity);
        let special =
            self.b
                .ins()
                .icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, magnitude, 0x7c00 << 13);
        let bits = self.b.ins().select(special, beyond, scaled);
        let bits = self.b.ins().bor(bits, sign);
        self.cast(bits, types::F32)
    }

    /// A half in double precision, exactly.
    pub(super) fn double_of_half(&mut self, value: Value, ty: Type) -> Value {
        let single = self.widen(value, ty);
        self.b.ins().fpromote(types::F64, single)
    }

    /// A number in double precision as the nearest half, ties to even; NaN is the canonical one.
    pub(super) fn half_of_double(&mut self, value: Value, ty: Type) -> Value {
        let (fraction, bias) = shape(ty);
        let long = types::I64;
        let infinity = ((1 << (15 - fraction)) - 1) << fraction;
        let bits = self.cast(value, long);
        let magnitude = self.imm(long, i64::MAX);
        let magnitude = self.b.ins().band(bits, magnitude);
        // Normal numbers: half of the last place is added, a bit less for what is even already.
        let cut = 52 - fraction;
        let by = self.imm(long, cut);
        let odd = self.b.ins().ushr(magnitude, by);
        let one = self.imm(long, 1);
        let odd = self.b.ins().band(odd, one);
        let offset = self.imm(long, ((1 << (cut - 1)) - 1) - ((1023 - bias) << 52));
        let normal = self.b.ins().iadd(magnitude, offset);
        let normal = self.b.ins().iadd(normal, odd);
        let normal = self.b.ins().ushr(normal, by);
        // Subnormal ones: the host rounds to the last place of a number added.
        let place = 52 + 1 - bias - fraction;
        let magic = f64::from_bits(((1023 + place) as u64) << 52);
        let magic_value = self.f64(magic);
        let positive = self.cast(magnitude, types::F64);
        let sum = self.b.ins().fadd(positive, magic_value);
        let sum = self.cast(sum, long);
        let magic_bits = self.imm(long, magic.to_bits().cast_signed());
        let subnormal = self.b.ins().isub(sum, magic_bits);
        let least = self.imm(long, (1024 - bias) << 52);
        let is_small = self.b.ins().icmp(IntCC::UnsignedLessThan, magnitude, least);
        let rounded = self.b.ins().select(is_small, subnormal, normal);
        let infinity = self.imm(long, infinity);
        let rounded = self.b.ins().umin(rounded, infinity);
        let forty_eight = self.imm(long, 48);
        let sign = self.b.ins().ushr(bits, forty_eight);
        let sign_bit = self.imm(long, 0x8000);
        let sign = self.b.ins().band(sign, sign_bit);
        let signed = self.b.ins().bor(rounded, sign);
        let nan = self.b.ins().fcmp(FloatCC::Unordered, value, value);
        let canonical = self.imm(long, 0x7fff);
        let result = self.b.ins().select(nan, canonical, signed);
        self.b.ins().ireduce(types::I16, result)
    }

    /// A number in single precision as the nearest half.
    pub(super) fn half_of_single(&mut self, value: Value, ty: Type) -> Value {
        let value = self.b.ins().fpromote(types::F64, value);
        self.half_of_double(value, ty)
    }

    /// a b + c of halves in double precision, such that rounding to the half rounds the exact value.
    pub(super) fn half_fused(&mut self, ty: Type, a: Value, b: Value, c: Value) -> Value {
        // The product is exact: 22 bits at most.
        let product = self.b.ins().fmul(a, b);
        let sum = self.b.ins().fadd(product, c);
        if ty == Type::F16 {
            // Where 53 bits do not hold an f16's sum below overflow, the product is below 2^-14 and the
            // addend above 2^4: the result is the addend, which no rounding on the way changes.
            return sum;
        }
        // Rounded to odd instead: an inexact sum's last bit becomes one, so that it is no tie.
        let back = self.b.ins().fsub(sum, product);
        let rest = self.b.ins().fsub(sum, back);
        let first = self.b.ins().fsub(product, rest);
        let second = self.b.ins().fsub(c, back);
        let error = self.b.ins().fadd(first, second);
        let zero = self.f64(0.0);
        let inexact = self.b.ins().fcmp(FloatCC::OrderedNotEqual, error, zero);
        let (bits, error) = (self.cast(sum, types::I64), self.cast(error, types::I64));
        let one = self.imm(types::I64, 1);
        let last = self.b.ins().band(bits, one);
        let even = self.b.ins().icmp_imm_u(IntCC::Equal, last, 0);
        let adjust = self.b.ins().band(inexact, even);
        // Away from zero where the error has the sum's sign, else toward it.
        let signs = self.b.ins().bxor(bits, error);
        let inward = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, signs, 0);
        let minus_one = self.imm(types::I64, -1);
        let step = self.b.ins().select(inward, minus_one, one);
        let moved = self.b.ins().iadd(bits, step);
        let bits = self.b.ins().select(adjust, moved, bits);
        self.cast(bits, types::F64)
    }
}
