//! Floating point by exact integers: rounding of any binary rational to any format, square roots, and
//! the true values of the approximated functions to some hundred bits.

use std::sync::OnceLock;

use num_bigint::{BigInt, BigUint, Sign};

use super::float::{Format, Round};

/// A finite number: ± mantissa · 2^exponent.
#[derive(Debug, Clone)]
pub struct Number {
    /// Below zero, or -0.
    pub negative: bool,
    /// Any integer.
    pub mantissa: BigUint,
    /// Of two.
    pub exponent: i64,
}

impl Number {
    /// What a finite bit pattern stands for.
    pub fn of(format: Format, bits: u128) -> Self {
        let fraction = bits & ((1 << format.mantissa_bits()) - 1);
        let exponent = (format.magnitude(bits) >> format.mantissa_bits()) as i64;
        let bias = (1 << (format.exponent_bits() - 1)) - 1 + i64::from(format.mantissa_bits());
        let (mantissa, exponent) = match exponent {
            0 => (fraction, 1 - bias),
            _ => (fraction | 1 << format.mantissa_bits(), exponent - bias),
        };
        Self {
            negative: format.is_negative(bits),
            mantissa: mantissa.into(),
            exponent,
        }
    }

    /// The number in units of 2^-[`Real::BITS`], which must represent it.
    pub fn real(&self) -> Real {
        let shift = self.exponent + Real::BITS as i64;
        let value = if shift >= 0 {
            &self.mantissa << shift as u64
        } else {
            &self.mantissa >> shift.unsigned_abs()
        };
        let sign = if self.negative {
            Sign::Minus
        } else {
            Sign::Plus
        };
        Real(BigInt::from_biguint(sign, value))
    }
}

/// What a format looks like, those without a [`Format`] included.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Stored bits of the significand.
    pub mantissa: u32,
    /// Exponent of the smallest normal number.
    pub least: i64,
    /// Exponent of the largest number.
    pub greatest: i64,
}

impl From<Format> for Layout {
    fn from(format: Format) -> Self {
        let bias = (1 << (format.exponent_bits() - 1)) - 1;
        Self {
            mantissa: format.mantissa_bits(),
            least: 1 - bias,
            greatest: bias,
        }
    }
}

/// How the nearest neighbour is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// One of PTX's four.
    To(Round),
    /// To nearest, ties away from zero (`.rna`).
    TiesAway,
}

/// The magnitude of a number, rounded: in units of the last place and the exponent of that place. With
/// `more`, the number is a little larger than its mantissa says.
pub fn round(layout: Layout, rounding: Rounding, number: &Number, more: bool) -> (BigUint, i64) {
    let top = number.mantissa.bits() as i64 - 1 + number.exponent;
    let place = top.max(layout.least) - i64::from(layout.mantissa);
    let shift = place - number.exponent;
    if shift <= 0 {
        assert!(!more, "the caller gives enough bits");
        return (&number.mantissa << shift.unsigned_abs(), place);
    }
    let kept = &number.mantissa >> shift as u64;
    let rest = &number.mantissa - (&kept << shift as u64);
    let half = BigUint::from(1_u8) << (shift as u64 - 1);
    let exact = rest == BigUint::ZERO && !more;
    let against_half = rest.cmp(&half).then(if more {
        std::cmp::Ordering::Greater
    } else {
        std::cmp::Ordering::Equal
    });
    let up = match rounding {
        Rounding::To(Round::Nearest) => against_half.is_gt() || against_half.is_eq() && kept.bit(0),
        Rounding::TiesAway => against_half.is_ge(),
        Rounding::To(Round::Zero) => false,
        Rounding::To(Round::Down) => number.negative && !exact,
        Rounding::To(Round::Up) => !number.negative && !exact,
    };
    (if up { kept + 1_u8 } else { kept }, place)
}

/// A finite number in a format, as bits.
pub fn rounded(format: Format, rounding: Round, number: &Number, more: bool) -> u128 {
    let layout = Layout::from(format);
    let sign = if number.negative { format.sign() } else { 0 };
    let (units, place) = round(layout, Rounding::To(rounding), number, more);
    let bits = encode(layout, &units, place);
    match bits {
        Some(bits) => sign | bits,
        None => {
            let away = match rounding {
                Round::Nearest => true,
                Round::Zero => false,
                Round::Down => number.negative,
                Round::Up => !number.negative,
            };
            sign | if away {
                format.infinity()
            } else {
                format.largest()
            }
        }
    }
}

/// Units of a place as a magnitude's bits; none above the largest number.
pub fn encode(layout: Layout, units: &BigUint, place: i64) -> Option<u128> {
    let units = u128::try_from(units).ok()?;
    let (units, place) = if units >> (layout.mantissa + 1) != 0 {
        (units >> 1, place + 1)
    } else {
        (units, place)
    };
    let exponent = place + i64::from(layout.mantissa);
    if exponent > layout.greatest {
        return None;
    }
    let hidden = 1 << layout.mantissa;
    Some(if units < hidden {
        units
    } else {
        ((exponent - layout.least + 1) as u128) << layout.mantissa | (units - hidden)
    })
}

/// √a, correctly rounded.
pub fn sqrt(format: Format, rounding: Round, a: u128) -> u128 {
    if format.is_nan(a) || format.is_negative(a) && !format.is_zero(a) {
        return format.canonical_nan();
    }
    if format.is_zero(a) || format.is_infinite(a) {
        return a;
    }
    let number = Number::of(format, a);
    // Enough bits below the last place, and an even exponent.
    let extra = 2 * (u64::from(format.mantissa_bits()) + 8);
    let extra = extra + (number.exponent - extra as i64).rem_euclid(2) as u64;
    let wide = &number.mantissa << extra;
    let root = wide.sqrt();
    let more = &root * &root != wide;
    let number = Number {
        negative: false,
        mantissa: root,
        exponent: (number.exponent - extra as i64) / 2,
    };
    rounded(format, rounding, &number, more)
}

/// A real number, to [`Real::BITS`] bits behind the point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Real(pub BigInt);

impl Real {
    /// Bits behind the point.
    pub const BITS: u64 = 640;

    /// An integer.
    pub fn integer(value: i64) -> Self {
        Self(BigInt::from(value) << Self::BITS)
    }

    /// 2^exponent, for a bound.
    pub fn power(exponent: i64) -> Self {
        Self(BigInt::from(1) << (exponent + Self::BITS as i64).max(0) as u64)
    }

    fn times(&self, other: &Self) -> Self {
        Self((&self.0 * &other.0) >> Self::BITS)
    }

    fn over(&self, other: &Self) -> Self {
        Self((&self.0 << Self::BITS) / &other.0)
    }

    /// |self - other|
    pub fn distance(&self, other: &Self) -> Self {
        let difference = &self.0 - &other.0;
        Self(if difference.sign() == Sign::Minus {
            -difference
        } else {
            difference
        })
    }

    /// The magnitude times 2^-`places`, places in tenths: a relative error's bound.
    pub fn fraction(&self, tenths: u32) -> Self {
        let magnitude = self.distance(&Self::integer(0));
        // 2^(1/10) to 20 digits, a little less than it.
        let mut value = magnitude.0 >> (tenths.div_ceil(10));
        for _ in 0..tenths.div_ceil(10) * 10 - tenths {
            value = value * 1_071_773_462_536_293_164_u64 / 1_000_000_000_000_000_000_u64;
        }
        Self(value)
    }

    /// e^x by its series, x below 1.
    fn exp_small(x: &Self) -> Self {
        let (mut sum, mut term) = (Self::integer(1), Self::integer(1));
        for n in 1_u32.. {
            term = Self(term.times(x).0 / n);
            if term.0 == BigInt::ZERO || term.0 == BigInt::from(-1) {
                break;
            }
            sum.0 += &term.0;
        }
        sum
    }

    /// ln x for x from 1 to 2: 2 artanh((x - 1) / (x + 1)).
    fn ln_small(x: &Self) -> Self {
        let one = Self::integer(1);
        let z = Self(&x.0 - &one.0).over(&Self(&x.0 + &one.0));
        let square = z.times(&z);
        let (mut sum, mut power) = (BigInt::ZERO, z);
        for n in (1_u32..).step_by(2) {
            let term = &power.0 / n;
            if term == BigInt::ZERO {
                break;
            }
            sum += term;
            power = power.times(&square);
        }
        Self(sum * 2)
    }

    fn ln2() -> &'static Self {
        static LN2: OnceLock<Real> = OnceLock::new();
        LN2.get_or_init(|| Self::ln_small(&Self::integer(2)))
    }

    /// π by Machin's formula.
    fn pi() -> &'static Self {
        static PI: OnceLock<Real> = OnceLock::new();
        let arctangent = |n: i64| {
            let (mut sum, mut power) = (BigInt::ZERO, Self::integer(1).0 / n);
            for k in 0_i64.. {
                let term = &power / (2 * k + 1);
                if term == BigInt::ZERO {
                    break;
                }
                sum += if k % 2 == 0 { term } else { -term };
                power /= n * n;
            }
            sum
        };
        PI.get_or_init(|| Self(arctangent(5) * 16 - arctangent(239) * 4))
    }

    /// 2^x
    pub fn exp2(&self) -> Self {
        // Rounded down.
        let whole: BigInt = &self.0 >> Self::BITS;
        let rest = Self(&self.0 - (&whole << Self::BITS));
        let power = Self::exp_small(&rest.times(Self::ln2()));
        let whole = i64::try_from(whole).unwrap_or(i64::MIN);
        Self(if whole >= 0 {
            power.0 << whole.min(4096) as u64
        } else {
            power.0 >> whole.unsigned_abs().min(4096)
        })
    }

    /// log2 x, x above 0
    pub fn log2(&self) -> Self {
        let top = self.0.bits() as i64 - 1 - Self::BITS as i64;
        let mantissa = Self(if top >= 0 {
            &self.0 >> top as u64
        } else {
            &self.0 << top.unsigned_abs()
        });
        let fraction = Self::ln_small(&mantissa).over(Self::ln2());
        Self(fraction.0 + Self::integer(top).0)
    }

    /// tanh x
    pub fn tanh(&self) -> Self {
        if self.distance(&Self::integer(0)) > Self::integer(400) {
            let one = Self::integer(1);
            return if self.0.sign() == Sign::Minus {
                Self(-one.0)
            } else {
                one
            };
        }
        let power = Self(&self.0 * 2).over(Self::ln2()).exp2();
        let one = Self::integer(1);
        Self(&power.0 - &one.0).over(&Self(power.0 + one.0))
    }

    /// sin x, or cos x with `quarter`
    pub fn sin(&self, quarter: bool) -> Self {
        let pi = Self::pi();
        let mut x = self.0.clone();
        if quarter {
            x += &pi.0 / 2;
        }
        let turn: BigInt = &pi.0 * 2;
        x %= &turn;
        let x = Self(x);
        let square = x.times(&x);
        let (mut sum, mut term) = (x.0.clone(), x);
        for n in (2_u32..).step_by(2) {
            term = Self(-(term.times(&square).0 / (n * (n + 1))));
            if term.0 == BigInt::ZERO {
                break;
            }
            sum += &term.0;
        }
        Self(sum)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::types::{Numbers, Ty, random};

    /// The two references agree where both can do it.
    #[test]
    fn rounding_by_integers_is_apfloats() {
        let mut numbers = Numbers::new(1);
        for ty in [Ty::F16, Ty::Bf16, Ty::F32, Ty::F64] {
            let format = ty.format().unwrap();
            for _ in 0..2000 {
                let (a, b) = (random(ty, &mut numbers), random(ty, &mut numbers));
                let finite = |x| format.magnitude(x) < format.infinity();
                if !finite(a) || !finite(b) || format.is_zero(a) || format.is_zero(b) {
                    continue;
                }
                let (x, y) = (Number::of(format, a), Number::of(format, b));
                let product = Number {
                    negative: x.negative != y.negative,
                    mantissa: &x.mantissa * &y.mantissa,
                    exponent: x.exponent + y.exponent,
                };
                for (_, rounding) in Round::ALL {
                    assert_eq!(
                        rounded(format, rounding, &product, false),
                        format.mul(rounding, a, b),
                        "{a:x} {b:x} {rounding:?} {format:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn roots_are_the_hosts() {
        let mut numbers = Numbers::new(2);
        for _ in 0..2000 {
            let a = random(Ty::F32, &mut numbers) as u32;
            let host = f32::from_bits(a).sqrt();
            let ours = f32::from_bits(Format::F32.sqrt(Round::Nearest, a.into()) as u32);
            assert!(host == ours || host.is_nan() && ours.is_nan(), "{a:x}");
        }
    }

    #[test]
    fn real_functions_are_the_hosts_to_its_precision() {
        let near = |real: &Real, host: f64| {
            let host = Number::of(Format::F64, host.to_bits().into()).real();
            real.distance(&host) <= Real(host.fraction(490).0 + Real::power(-60).0)
        };
        for x in [
            0.0, 1e-9, 0.3, 1.0, 2.5, 17.25, -0.7, -3.0, 600.0, -600.0_f64,
        ] {
            let real = Number::of(Format::F64, x.to_bits().into()).real();
            assert!(near(&real.sin(false), x.sin()), "sin {x}");
            assert!(near(&real.sin(true), x.cos()), "cos {x}");
            assert!(near(&real.tanh(), x.tanh()), "tanh {x}");
            if x.abs() < 100.0 {
                assert!(near(&real.exp2(), x.exp2()), "2^{x}");
            }
            if x > 0.0 {
                assert!(near(&real.log2(), x.log2()), "log2 {x}");
            }
        }
    }
}
