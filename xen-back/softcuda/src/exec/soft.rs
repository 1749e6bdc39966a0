//! Floating-point arithmetic in integers: any binary format, any rounding, always correctly rounded.
//! For what the host's units lack: directed rounding, half precision, a fused operation on old hosts.
//! Slow and simple; it must be exact, since tests of everything faster compare with it.

use crate::compile::Rounding;

/// A binary floating-point format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    F16,
    Bf16,
    F32,
    F64,
    /// A single's exponent with ten bits of fraction, in the upper bits of a word.
    Tf32,
    /// No infinity: its place is taken by numbers up to 448, and the very last by NaN. What is too large
    /// becomes the greatest number.
    E4m3,
    E5m2,
}

impl Format {
    const ALL: [Self; 7] = [
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
        Self::Tf32,
        Self::E4m3,
        Self::E5m2,
    ];

    const fn bits(self) -> u32 {
        match self {
            Self::E4m3 | Self::E5m2 => 8,
            Self::F16 | Self::Bf16 => 16,
            // The 19 bits that count; `compute` puts them where they belong.
            Self::Tf32 => 19,
            Self::F32 => 32,
            Self::F64 => 64,
        }
    }

    /// Bits of the stored significand.
    const fn fraction(self) -> u32 {
        match self {
            Self::F16 | Self::Tf32 => 10,
            Self::E4m3 => 3,
            Self::E5m2 => 2,
            Self::Bf16 => 7,
            Self::F32 => 23,
            Self::F64 => 52,
        }
    }

    const fn bias(self) -> i32 {
        (1 << (self.bits() - self.fraction() - 2)) - 1
    }

    const fn infinity(self) -> u64 {
        ((1 << (self.bits() - 1)) - 1) & !((1 << self.fraction()) - 1)
    }

    /// The first bit pattern after the greatest number's: infinity, or NaN where there is none.
    const fn overflow(self) -> u64 {
        match self {
            Self::E4m3 => 0x7f,
            _ => self.infinity(),
        }
    }

    /// The greatest number's exponent.
    const fn greatest_exponent(self) -> i32 {
        ((self.overflow() - 1) >> self.fraction()) as i32 - self.bias()
    }

    /// The NaN that PTX's operations give.
    const fn nan(self) -> u64 {
        match self {
            Self::F64 => 0x7ff8_0000_0000_0000,
            _ => (1 << (self.bits() - 1)) - 1,
        }
    }
}

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Sub,
    Mul,
    Div,
    Fma,
    Sqrt,
    Min,
    Max,
    MinNan,
    MaxNan,
    Convert,
    FromSigned,
    FromUnsigned,
}

impl Operation {
    const ALL: [Self; 13] = [
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Fma,
        Self::Sqrt,
        Self::Min,
        Self::Max,
        Self::MinNan,
        Self::MaxNan,
        Self::Convert,
        Self::FromSigned,
        Self::FromUnsigned,
    ];
}

/// An operation with its formats and modes, packed into a number for compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code {
    pub operation: Operation,
    pub from: Format,
    pub to: Format,
    pub rounding: Rounding,
    /// Subnormal operands and results are zero.
    pub ftz: bool,
    /// The result is clamped to 0 to 1.
    pub sat: bool,
    /// Negative results are zero.
    pub relu: bool,
    /// Results beyond the greatest number, infinity too, are that number.
    pub finite: bool,
}

impl Code {
    /// An operation within one format.
    pub(crate) const fn new(operation: Operation, format: Format, rounding: Rounding) -> Self {
        Self {
            operation,
            from: format,
            to: format,
            rounding,
            ftz: false,
            sat: false,
            relu: false,
            finite: false,
        }
    }

    /// A conversion between formats.
    pub(crate) const fn convert(from: Format, to: Format, rounding: Rounding) -> Self {
        Self {
            to,
            ..Self::new(Operation::Convert, from, rounding)
        }
    }

    pub(crate) const fn bits(self) -> u32 {
        self.operation as u32
            | (self.from as u32) << 4
            | (self.to as u32) << 7
            | (self.rounding as u32) << 10
            | (self.ftz as u32) << 13
            | (self.sat as u32) << 14
            | (self.relu as u32) << 15
            | (self.finite as u32) << 16
    }

    fn unpack(bits: u32) -> Self {
        let rounding = match bits >> 10 & 7 {
            0 => Rounding::Nearest,
            1 => Rounding::Zero,
            2 => Rounding::Down,
            3 => Rounding::Up,
            _ => Rounding::Away,
        };
        let format = |at: u32| {
            let format = Format::ALL.get((bits >> at & 7) as usize);
            format.copied().unwrap_or(Format::F32)
        };
        Self {
            operation: Operation::ALL
                .get(bits as usize & 15)
                .copied()
                .unwrap_or(Operation::Convert),
            from: format(4),
            to: format(7),
            rounding,
            ftz: bits >> 13 & 1 == 1,
            sat: bits >> 14 & 1 == 1,
            relu: bits >> 15 & 1 == 1,
            finite: bits >> 16 & 1 == 1,
        }
    }
}

/// A number taken apart: `magnitude` times two to the `exponent`, exactly.
#[derive(Debug, Clone, Copy)]
struct Number {
    negative: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Nan,
    Infinity,
    Finite { magnitude: u128, exponent: i32 },
}

const ZERO: Kind = Kind::Finite {
    magnitude: 0,
    exponent: 0,
};

fn unpack(bits: u64, format: Format, ftz: bool) -> Number {
    let negative = bits >> (format.bits() - 1) & 1 == 1;
    let fraction = bits & ((1 << format.fraction()) - 1);
    let exponent = (bits & format.infinity()) >> format.fraction();
    let least = 1 - format.bias() - format.fraction() as i32;
    let magnitude = bits & ((1 << (format.bits() - 1)) - 1);
    let kind = if magnitude >= format.overflow() {
        if magnitude == format.infinity() {
            Kind::Infinity
        } else {
            Kind::Nan
        }
    } else if exponent == 0 {
        if ftz {
            ZERO
        } else {
            Kind::Finite {
                magnitude: u128::from(fraction),
                exponent: least,
            }
        }
    } else {
        let magnitude = u128::from(fraction | 1 << format.fraction());
        Kind::Finite {
            magnitude,
            exponent: least + exponent as i32 - 1,
        }
    };
    Number { negative, kind }
}

/// The nearest number of a format in the rounding's direction. The lowest bit of `magnitude` may stand
/// for anything smaller than it that was cut off, if there are at least two bits more than the format has.
fn round(
    negative: bool,
    magnitude: u128,
    exponent: i32,
    format: Format,
    rounding: Rounding,
) -> u64 {
    let sign = u64::from(negative) << (format.bits() - 1);
    if magnitude == 0 {
        return sign;
    }
    let fraction = format.fraction() as i32;
    let top = exponent + 127 - magnitude.leading_zeros() as i32;
    let least = 1 - format.bias();
    // The exponent of the result's last place.
    let place = top.max(least) - fraction;
    let cut = place - exponent;
    let (mut kept, rest, half) = if cut <= 0 {
        (magnitude << -cut, 0, 1)
    } else if cut > 127 {
        // Less than half of the last place, and not nothing.
        (0, 1, 2)
    } else {
        (
            magnitude >> cut,
            magnitude & ((1 << cut) - 1),
            1_u128 << (cut - 1),
        )
    };
    let up = match rounding {
        Rounding::Nearest => rest > half || rest == half && kept & 1 == 1,
        Rounding::Away => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    kept += u128::from(up);
    // A subnormal that reaches the hidden bit is the least normal number by the same sum.
    let infinity = format.overflow() as i64;
    let bits = if top > format.greatest_exponent() {
        infinity
    } else {
        (i64::from(top.max(least) - least) << fraction) + kept as i64
    };
    if bits >= infinity {
        let away = match rounding {
            Rounding::Nearest | Rounding::Away => true,
            Rounding::Zero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        };
        let away = away && format != Format::E4m3;
        return sign | (infinity - i64::from(!away)) as u64;
    }
    sign | bits as u64
}

/// The magnitude with its highest bit at a place, and the exponent that goes with it; bits cut off stay
/// as a one in the lowest.
fn aligned(magnitude: u128, exponent: i32, top: u32) -> (u128, i32) {
    let shift = top as i32 - (127 - magnitude.leading_zeros() as i32);
    if shift >= 0 {
        (magnitude << shift, exponent - shift)
    } else {
        (sticky_right(magnitude, -shift), exponent - shift)
    }
}

fn sticky_right(magnitude: u128, by: i32) -> u128 {
    if by >= 128 {
        return u128::from(magnitude != 0);
    }
    let lost = magnitude & ((1 << by) - 1) != 0;
    magnitude >> by | u128::from(lost)
}

/// The sum of two numbers as a sign, a magnitude and an exponent; the sign of an exact zero follows the
/// rounding.
fn sum(a: (bool, u128, i32), b: (bool, u128, i32), rounding: Rounding) -> (bool, u128, i32) {
    let zero_sign = rounding == Rounding::Down;
    match (a.1, b.1) {
        (0, 0) => return (if a.0 == b.0 { a.0 } else { zero_sign }, 0, 0),
        (0, _) => return b,
        (_, 0) => return a,
        _ => {}
    }
    let height = |x: (bool, u128, i32)| x.2 + 127 - x.1.leading_zeros() as i32;
    let (high, low) = if height(a) >= height(b) {
        (a, b)
    } else {
        (b, a)
    };
    // 106 bits at most, so what the shift below cuts off is far below the last place that counts.
    let (magnitude, exponent) = aligned(high.1, high.2, 125);
    let shift = exponent - low.2;
    let other = if shift >= 0 {
        sticky_right(low.1, shift)
    } else {
        // The lower number's highest bit is at most as high: this does not overflow.
        low.1 << -shift
    };
    if high.0 == low.0 {
        return (high.0, magnitude + other, exponent);
    }
    match magnitude.cmp(&other) {
        std::cmp::Ordering::Equal => (zero_sign, 0, 0),
        std::cmp::Ordering::Greater => (high.0, magnitude - other, exponent),
        std::cmp::Ordering::Less => (low.0, other - magnitude, exponent),
    }
}

/// Computes an operation on bit patterns; unused operands are ignored.
pub(crate) fn compute(code: u32, a: u64, b: u64, c: u64) -> u64 {
    let code = Code::unpack(code);
    // A tf32 lies in the upper bits of a single.
    let a = if code.from == Format::Tf32 {
        a >> 13
    } else {
        a
    };
    let mut result = raw(code, a, b, c);
    let sign_bit = 1 << (code.to.bits() - 1);
    if code.finite && code.to != Format::E4m3 && result & !sign_bit == code.to.infinity() {
        result -= 1;
    }
    if code.ftz {
        let sign = 1 << (code.to.bits() - 1);
        if result & code.to.infinity() == 0 {
            result &= sign;
        }
    }
    if code.sat {
        let one = (code.to.bias() as u64) << code.to.fraction();
        let sign = result >> (code.to.bits() - 1) & 1 == 1;
        let nan = result & !(1 << (code.to.bits() - 1)) > code.to.infinity();
        result = if sign || nan { 0 } else { result.min(one) };
    }
    if code.relu && result & sign_bit != 0 {
        result = 0;
    }
    if code.to == Format::Tf32 {
        // The canonical NaN is that of singles.
        let nan = result == Format::Tf32.nan();
        result << 13 | if nan { 0x1fff } else { 0 }
    } else {
        result
    }
}

fn raw(code: Code, a: u64, b: u64, c: u64) -> u64 {
    let (from, to, rounding) = (code.from, code.to, code.rounding);
    match code.operation {
        Operation::FromSigned => {
            let value = a.cast_signed();
            return round(value < 0, u128::from(value.unsigned_abs()), 0, to, rounding);
        }
        Operation::FromUnsigned => return round(false, u128::from(a), 0, to, rounding),
        _ => {}
    }
    let (x, y, z) = (
        unpack(a, from, code.ftz),
        unpack(b, from, code.ftz),
        unpack(c, from, code.ftz),
    );
    let pack = |negative: bool, kind: Kind| match kind {
        Kind::Nan => to.nan(),
        Kind::Infinity => {
            let greatest = to.overflow() - u64::from(to == Format::E4m3);
            u64::from(negative) << (to.bits() - 1) | greatest
        }
        Kind::Finite {
            magnitude,
            exponent,
        } => round(negative, magnitude, exponent, to, rounding),
    };
    match code.operation {
        Operation::Add => pack_sum(x, y, rounding, pack),
        Operation::Sub => pack_sum(
            x,
            Number {
                negative: !y.negative,
                ..y
            },
            rounding,
            pack,
        ),
        Operation::Mul => {
            let product = multiply(x, y);
            pack(product.negative, product.kind)
        }
        Operation::Fma => pack_sum(multiply(x, y), z, rounding, pack),
        Operation::Div => divide(x, y, pack),
        Operation::Sqrt => root(x, pack),
        Operation::Min | Operation::Max | Operation::MinNan | Operation::MaxNan => {
            let nan_wins = matches!(code.operation, Operation::MinNan | Operation::MaxNan);
            let less = matches!(code.operation, Operation::Min | Operation::MinNan);
            match (x.kind, y.kind) {
                (Kind::Nan, Kind::Nan) => to.nan(),
                (Kind::Nan, _) | (_, Kind::Nan) if nan_wins => to.nan(),
                (Kind::Nan, _) => pack(y.negative, y.kind),
                (_, Kind::Nan) => pack(x.negative, x.kind),
                _ => {
                    // Order of the bit patterns, made monotonic.
                    let rank = |number: Number| {
                        let bits = pack(number.negative, number.kind);
                        let sign = 1 << (to.bits() - 1);
                        if number.negative {
                            -((bits & !sign) as i64) - 1
                        } else {
                            bits as i64
                        }
                    };
                    let first = if less {
                        rank(x) <= rank(y)
                    } else {
                        rank(x) >= rank(y)
                    };
                    let chosen = if first { x } else { y };
                    pack(chosen.negative, chosen.kind)
                }
            }
        }
        _ => pack(x.negative, x.kind),
    }
}

fn pack_sum(x: Number, y: Number, rounding: Rounding, pack: impl Fn(bool, Kind) -> u64) -> u64 {
    match (x.kind, y.kind) {
        (Kind::Nan, _) | (_, Kind::Nan) => pack(false, Kind::Nan),
        (Kind::Infinity, Kind::Infinity) if x.negative != y.negative => pack(false, Kind::Nan),
        (Kind::Infinity, _) => pack(x.negative, Kind::Infinity),
        (_, Kind::Infinity) => pack(y.negative, Kind::Infinity),
        (
            Kind::Finite {
                magnitude: a,
                exponent: p,
            },
            Kind::Finite {
                magnitude: b,
                exponent: q,
            },
        ) => {
            let (negative, magnitude, exponent) =
                sum((x.negative, a, p), (y.negative, b, q), rounding);
            pack(
                negative,
                Kind::Finite {
                    magnitude,
                    exponent,
                },
            )
        }
    }
}

/// The exact product.
fn multiply(x: Number, y: Number) -> Number {
    let negative = x.negative != y.negative;
    let kind = match (x.kind, y.kind) {
        (Kind::Nan, _) | (_, Kind::Nan) => Kind::Nan,
        (Kind::Infinity, Kind::Finite { magnitude: 0, .. })
        | (Kind::Finite { magnitude: 0, .. }, Kind::Infinity) => Kind::Nan,
        (Kind::Infinity, _) | (_, Kind::Infinity) => Kind::Infinity,
        (
            Kind::Finite {
                magnitude: a,
                exponent: p,
            },
            Kind::Finite {
                magnitude: b,
                exponent: q,
            },
        ) => {
            // 53 bits each.
            Kind::Finite {
                magnitude: a * b,
                exponent: p + q,
            }
        }
    };
    Number { negative, kind }
}

fn divide(x: Number, y: Number, pack: impl Fn(bool, Kind) -> u64) -> u64 {
    let negative = x.negative != y.negative;
    let kind = match (x.kind, y.kind) {
        (Kind::Nan, _) | (_, Kind::Nan) | (Kind::Infinity, Kind::Infinity) => Kind::Nan,
        (Kind::Finite { magnitude: 0, .. }, Kind::Finite { magnitude: 0, .. }) => Kind::Nan,
        (Kind::Infinity, _) | (_, Kind::Finite { magnitude: 0, .. }) => Kind::Infinity,
        (Kind::Finite { magnitude: 0, .. }, _) | (_, Kind::Infinity) => ZERO,
        (
            Kind::Finite {
                magnitude: a,
                exponent: p,
            },
            Kind::Finite {
                magnitude: b,
                exponent: q,
            },
        ) => {
            let (a, p) = aligned(a, p, 126);
            let (b, q) = aligned(b, q, 62);
            // At least 64 bits of quotient.
            let quotient = (a / b) << 1 | u128::from(a % b != 0);
            Kind::Finite {
                magnitude: quotient,
                exponent: p - q - 1,
            }
        }
    };
    pack(negative, kind)
}

fn root(x: Number, pack: impl Fn(bool, Kind) -> u64) -> u64 {
    match x.kind {
        Kind::Finite { magnitude: 0, .. } => pack(x.negative, ZERO),
        Kind::Nan => pack(false, Kind::Nan),
        _ if x.negative => pack(false, Kind::Nan),
        Kind::Infinity => pack(false, Kind::Infinity),
        Kind::Finite {
            magnitude,
            exponent,
        } => {
            let (magnitude, exponent) = aligned(magnitude, exponent, 125);
            let (magnitude, exponent) = if exponent % 2 == 0 {
                (magnitude, exponent)
            } else {
                (magnitude << 1, exponent - 1)
            };
            let root = magnitude.isqrt();
            let root_bits = root << 1 | u128::from(root * root != magnitude);
            pack(
                false,
                Kind::Finite {
                    magnitude: root_bits,
                    exponent: exponent / 2 - 1,
                },
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op(operation: Operation, format: Format, rounding: Rounding, args: [u64; 3]) -> u64 {
        let code = Code::new(operation, format, rounding);
        compute(code.bits(), args[0], args[1], args[2])
    }

    /// Numbers of every kind: any bits, and those where something changes.
    fn any_f32() -> impl Strategy<Value = f32> {
        let special = [
            0,
            1,
            2,
            0x007f_ffff,
            0x0080_0000,
            0x3f80_0000,
            0x3f80_0001,
            0x4b00_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7fc0_0000,
        ];
        prop_oneof![
            any::<u32>().prop_map(f32::from_bits),
            (0_usize..special.len(), any::<bool>())
                .prop_map(move |(at, sign)| f32::from_bits(special[at] | u32::from(sign) << 31)),
            (-200_i32..200, 1_i32..16).prop_map(|(n, d)| n as f32 / d as f32),
        ]
    }

    fn any_f64() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            any_f32().prop_map(f64::from),
            (any_f32(), -60_i32..60)
                .prop_map(|(x, e)| f64::from(x) * 2_f64.powi(e) * (1.0 + f64::EPSILON)),
        ]
    }

    fn same32(got: u64, want: f32) -> bool {
        let got = f32::from_bits(got as u32);
        got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan()
    }

    fn same64(got: u64, want: f64) -> bool {
        got == want.to_bits() || f64::from_bits(got).is_nan() && want.is_nan()
    }

    const BINARY: [Operation; 4] = [
        Operation::Add,
        Operation::Sub,
        Operation::Mul,
        Operation::Div,
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn rounding_to_nearest_is_the_hosts(a in any_f32(), b in any_f32(), c in any_f32(), x in any_f64(), y in any_f64(), z in any_f64()) {
            let nearest = |operation, format, args| op(operation, format, Rounding::Nearest, args);
            let bits = [a, b, c].map(|v| u64::from(v.to_bits()));
            for (operation, want) in BINARY.into_iter().zip([a + b, a - b, a * b, a / b]) {
                prop_assert!(same32(nearest(operation, Format::F32, bits), want), "{:?} {} {}", operation, a, b);
            }
            prop_assert!(same32(nearest(Operation::Fma, Format::F32, bits), a.mul_add(b, c)), "{a} {b} {c}");
            prop_assert!(same32(nearest(Operation::Sqrt, Format::F32, bits), a.sqrt()), "{a}");
            let bits = [x, y, z].map(f64::to_bits);
            for (operation, want) in BINARY.into_iter().zip([x + y, x - y, x * y, x / y]) {
                prop_assert!(same64(nearest(operation, Format::F64, bits), want), "{:?} {} {}", operation, x, y);
            }
            prop_assert!(same64(nearest(Operation::Fma, Format::F64, bits), x.mul_add(y, z)), "{x} {y} {z}");
            prop_assert!(same64(nearest(Operation::Sqrt, Format::F64, bits), x.sqrt()), "{x}");
            let narrow = Code::convert(Format::F64, Format::F32, Rounding::Nearest);
            prop_assert!(same32(compute(narrow.bits(), bits[0], 0, 0), x as f32));
        }

        #[test]
        fn no_code_and_no_bits_make_it_panic(code in 0_u32..1 << 17, a in any::<u64>(), b in any::<u64>(), c in any::<u64>()) {
            let small = |bits: u64| bits >> 48;
            compute(code, a, b, c);
            compute(code, small(a), small(b), small(c));
            compute(code, a >> 32, b >> 32, c >> 32);
        }

        #[test]
        fn integers_become_the_hosts_floats(v in any::<i64>()) {
            let of = |operation, to| {
                let code = Code::new(operation, to, Rounding::Nearest);
                compute(code.bits(), v.cast_unsigned(), 0, 0)
            };
            prop_assert!(same32(of(Operation::FromSigned, Format::F32), v as f32));
            prop_assert!(same64(of(Operation::FromSigned, Format::F64), v as f64));
            prop_assert!(same32(of(Operation::FromUnsigned, Format::F32), v.cast_unsigned() as f32));
            prop_assert!(same64(of(Operation::FromUnsigned, Format::F64), v.cast_unsigned() as f64));
        }

        /// Down and up are neighbours around the exact value, equal where it is representable; nearest is one of
        /// them, and toward zero the one with the lesser magnitude.
        #[test]
        fn directed_roundings_bracket(x in any_f64(), y in any_f64(), z in any_f64(), which in 0_usize..6) {
            let operation = [Operation::Add, Operation::Sub, Operation::Mul, Operation::Div, Operation::Fma, Operation::Sqrt][which];
            let args = [x, y, z].map(f64::to_bits);
            let get = |rounding| f64::from_bits(op(operation, Format::F64, rounding, args));
            let (nearest, zero, down, up) = (get(Rounding::Nearest), get(Rounding::Zero), get(Rounding::Down), get(Rounding::Up));
            if nearest.is_nan() {
                prop_assert!(zero.is_nan() && down.is_nan() && up.is_nan());
                return Ok(());
            }
            prop_assert!(down <= up);
            prop_assert!(down == up || down.next_up() == up, "{down} {up}");
            prop_assert!(nearest == down || nearest == up);
            prop_assert!(zero == if nearest > 0.0 || down >= 0.0 && up > 0.0 { down } else { up }, "{zero} {down} {up}");
            // The residual of the nearest result, which is exact for these, says on which side the value lies.
            let residual = match operation {
                Operation::Mul if nearest.is_normal() && nearest.abs() > 1e-200 && nearest.abs() < 1e300 => Some(x.mul_add(y, -nearest)),
                Operation::Div if [x, y, nearest].iter().all(|v| v.is_normal() && (1e-100..1e100).contains(&v.abs())) => {
                    Some((-nearest).mul_add(y, x) * y.signum())
                }
                _ => None,
            };
            if let Some(residual) = residual {
                prop_assert_eq!(residual == 0.0, down == up);
                if residual > 0.0 { prop_assert_eq!(nearest, down) }
                if residual < 0.0 { prop_assert_eq!(nearest, up) }
            }
        }
    }

    /// A half's value by its definition.
    fn half(bits: u16) -> f64 {
        let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
        let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
        match exponent {
            0 => sign * fraction * 2_f64.powi(-24),
            _ => sign * (1024.0 + fraction) * 2_f64.powi(exponent - 25),
        }
    }

    #[test]
    fn halves_convert_to_the_nearest_of_all() {
        let convert = |from, to, bits| {
            let code = Code::convert(from, to, Rounding::Nearest);
            compute(code.bits(), bits, 0, 0)
        };
        // All finite positive halves, and the overflow threshold's neighbour.
        for bits in 0..0x7c00_u16 {
            let value = half(bits);
            assert_eq!(
                f64::from_bits(convert(Format::F16, Format::F64, u64::from(bits))),
                value
            );
            assert_eq!(
                convert(Format::F64, Format::F16, value.to_bits()),
                u64::from(bits)
            );
            let above = if bits == 0x7bff {
                65536.0
            } else {
                half(bits + 1)
            };
            let middle = f64::midpoint(value, above);
            let even = u64::from(bits + (bits & 1));
            assert_eq!(
                convert(Format::F64, Format::F16, middle.to_bits()),
                even,
                "{middle}"
            );
            assert_eq!(
                convert(Format::F64, Format::F16, middle.next_up().to_bits()),
                u64::from(bits + 1)
            );
            assert_eq!(
                convert(Format::F64, Format::F16, middle.next_down().to_bits()),
                u64::from(bits)
            );
        }
    }

    #[test]
    fn least_and_greatest_of_numbers_and_nans() {
        let f = |operation, a: f32, b: f32| {
            op(
                operation,
                Format::F32,
                Rounding::Nearest,
                [u64::from(a.to_bits()), u64::from(b.to_bits()), 0],
            )
        };
        assert!(same32(f(Operation::Min, 0.0, -0.0), -0.0));
        assert!(same32(f(Operation::Max, -0.0, 0.0), 0.0));
        assert!(same32(f(Operation::Min, f32::NAN, 3.0), 3.0));
        assert!(same32(f(Operation::Max, 3.0, f32::NAN), 3.0));
        assert!(same32(f(Operation::MinNan, f32::NAN, 3.0), f32::NAN));
        assert!(same32(f(Operation::Max, f32::NEG_INFINITY, -2.0), -2.0));
    }

    #[test]
    fn flushing_and_saturating() {
        let f = |a: f32, b: f32| {
            let code = Code {
                ftz: true,
                sat: true,
                ..Code::new(Operation::Mul, Format::F32, Rounding::Zero)
            };
            f32::from_bits(compute(
                code.bits(),
                u64::from(a.to_bits()),
                u64::from(b.to_bits()),
                0,
            ) as u32)
        };
        assert_eq!(f(f32::MIN_POSITIVE / 2.0, 1e30), 0.0);
        assert_eq!(f(f32::MIN_POSITIVE, 0.5).to_bits(), 0);
        assert_eq!(f(3.0, 3.0), 1.0);
        assert_eq!(f(0.5, 0.5), 0.25);
        assert_eq!(f(f32::NAN, 0.5).to_bits(), 0);
        assert_eq!(f(-1.0, 0.5).to_bits(), 0);
    }
}
