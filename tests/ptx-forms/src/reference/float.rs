//! Correctly rounded floating point on bit patterns, by `rustc_apfloat`. Any NaN stands for all NaNs:
//! the instruction set fixes payloads in few places, which the forms name.

use rustc_apfloat::ieee::{BFloat, Double, Half, Single};
use rustc_apfloat::{Float as _, FloatConvert as _, Round as ApRound};

use super::exact;

/// A binary format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "PTX's own names")]
pub enum Format {
    F16,
    Bf16,
    F32,
    F64,
}

/// PTX's rounding modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named by their direction")]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Round {
    /// As a suffix names them, with what stands for each.
    pub const ALL: [(&'static str, Self); 4] = [
        ("rn", Self::Nearest),
        ("rz", Self::Zero),
        ("rm", Self::Down),
        ("rp", Self::Up),
    ];

    const fn ap(self) -> ApRound {
        match self {
            Self::Nearest => ApRound::NearestTiesToEven,
            Self::Zero => ApRound::TowardZero,
            Self::Down => ApRound::TowardNegative,
            Self::Up => ApRound::TowardPositive,
        }
    }
}

/// With a format's type of `rustc_apfloat`.
macro_rules! with {
    ($format:expr, $ty:ident => $body:expr) => {
        match $format {
            Format::F16 => {
                type $ty = Half;
                $body
            }
            Format::Bf16 => {
                type $ty = BFloat;
                $body
            }
            Format::F32 => {
                type $ty = Single;
                $body
            }
            Format::F64 => {
                type $ty = Double;
                $body
            }
        }
    };
}

impl Format {
    /// Bits of the exponent.
    pub const fn exponent_bits(self) -> u32 {
        match self {
            Self::F16 => 5,
            Self::Bf16 | Self::F32 => 8,
            Self::F64 => 11,
        }
    }

    /// Stored bits of the significand.
    pub const fn mantissa_bits(self) -> u32 {
        match self {
            Self::F16 => 10,
            Self::Bf16 => 7,
            Self::F32 => 23,
            Self::F64 => 52,
        }
    }

    /// All bits.
    pub const fn bits(self) -> u32 {
        1 + self.exponent_bits() + self.mantissa_bits()
    }

    /// The sign's bit.
    pub const fn sign(self) -> u128 {
        1 << (self.bits() - 1)
    }

    /// Plus infinity; a greater magnitude is a NaN.
    pub const fn infinity(self) -> u128 {
        ((1 << self.exponent_bits()) - 1) << self.mantissa_bits()
    }

    /// The largest finite number.
    pub const fn largest(self) -> u128 {
        self.infinity() - 1
    }

    /// One.
    pub const fn one(self) -> u128 {
        ((1 << (self.exponent_bits() - 1)) - 1) << self.mantissa_bits()
    }

    /// The NaN that PTX calls canonical.
    pub const fn canonical_nan(self) -> u128 {
        match self {
            Self::F64 => 0x7ff8_0000_0000_0000,
            other => (1 << (other.bits() - 1)) - 1,
        }
    }

    /// Without the sign.
    pub const fn magnitude(self, bits: u128) -> u128 {
        bits & (self.sign() - 1)
    }

    /// Whether these bits are a NaN.
    pub const fn is_nan(self, bits: u128) -> bool {
        self.magnitude(bits) > self.infinity()
    }

    /// Whether these bits are an infinity.
    pub const fn is_infinite(self, bits: u128) -> bool {
        self.magnitude(bits) == self.infinity()
    }

    /// Whether these bits are a zero.
    pub const fn is_zero(self, bits: u128) -> bool {
        self.magnitude(bits) == 0
    }

    /// Whether the sign's bit is set.
    pub const fn is_negative(self, bits: u128) -> bool {
        bits & self.sign() != 0
    }

    /// Whether these bits are a subnormal number.
    pub const fn is_subnormal(self, bits: u128) -> bool {
        let magnitude = self.magnitude(bits);
        magnitude != 0 && magnitude >> self.mantissa_bits() == 0
    }

    /// `.ftz`: subnormal numbers become zeros of their sign.
    pub const fn flush(self, bits: u128) -> u128 {
        if self.is_subnormal(bits) {
            bits & self.sign()
        } else {
            bits
        }
    }

    /// `.sat`: clamped to 0 to 1, NaN becomes +0.
    pub const fn saturate(self, bits: u128) -> u128 {
        if self.is_nan(bits) || self.is_negative(bits) {
            0
        } else if bits > self.one() {
            self.one()
        } else {
            bits
        }
    }

    /// `.relu`: negative numbers become +0, NaN becomes canonical.
    pub const fn relu(self, bits: u128) -> u128 {
        if self.is_nan(bits) {
            self.canonical_nan()
        } else if self.is_negative(bits) {
            0
        } else {
            bits
        }
    }

    /// a + b
    pub fn add(self, round: Round, a: u128, b: u128) -> u128 {
        with!(self, T => T::from_bits(a).add_r(T::from_bits(b), round.ap()).value.to_bits())
    }

    /// a - b
    pub fn sub(self, round: Round, a: u128, b: u128) -> u128 {
        with!(self, T => T::from_bits(a).sub_r(T::from_bits(b), round.ap()).value.to_bits())
    }

    /// a b
    pub fn mul(self, round: Round, a: u128, b: u128) -> u128 {
        with!(self, T => T::from_bits(a).mul_r(T::from_bits(b), round.ap()).value.to_bits())
    }

    /// a / b
    pub fn div(self, round: Round, a: u128, b: u128) -> u128 {
        with!(self, T => T::from_bits(a).div_r(T::from_bits(b), round.ap()).value.to_bits())
    }

    /// a b + c, rounded once
    pub fn fma(self, round: Round, a: u128, b: u128, c: u128) -> u128 {
        with!(self, T => T::from_bits(a)
            .mul_add_r(T::from_bits(b), T::from_bits(c), round.ap()).value.to_bits())
    }

    /// √a, from exact integers
    pub fn sqrt(self, round: Round, a: u128) -> u128 {
        exact::sqrt(self, round, a)
    }

    /// To an integral value.
    pub fn integral(self, round: Round, a: u128) -> u128 {
        with!(self, T => T::from_bits(a).round_to_integral(round.ap()).value.to_bits())
    }

    /// The integral value of an integral number, saturated to `i128`; none for NaN.
    pub fn integer(self, round: Round, a: u128) -> Option<i128> {
        if self.is_nan(a) {
            return None;
        }
        let mut exact = false;
        Some(with!(self, T => T::from_bits(a).to_i128_r(128, round.ap(), &mut exact).value))
    }

    /// Of an integer.
    pub fn of_integer(self, round: Round, value: i128) -> u128 {
        with!(self, T => T::from_i128_r(value, round.ap()).value.to_bits())
    }

    /// In another format.
    pub fn convert(self, to: Self, round: Round, a: u128) -> u128 {
        let mut loses = false;
        with!(self, T => with!(to, U => {
            let value: rustc_apfloat::StatusAnd<U> = T::from_bits(a).convert_r(round.ap(), &mut loses);
            value.value.to_bits()
        }))
    }

    /// How two numbers compare; none if one is a NaN.
    pub fn compare(self, a: u128, b: u128) -> Option<std::cmp::Ordering> {
        with!(self, T => T::from_bits(a).partial_cmp(&T::from_bits(b)))
    }

    /// Whether a result is what is wanted, where any NaN is as good as another.
    pub const fn same(self, got: u128, wanted: u128) -> bool {
        got == wanted || self.is_nan(got) && self.is_nan(wanted)
    }
}
