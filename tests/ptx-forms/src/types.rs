//! PTX's types as a test sees them: widths, registers, edge values. It must never know how softcuda
//! stands for them.

use crate::reference::float::Format;

/// A type of an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "PTX's own names")]
pub enum Ty {
    Pred,
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    F16,
    Bf16,
    B32,
    U32,
    S32,
    F32,
    F16x2,
    Bf16x2,
    U16x2,
    S16x2,
    B64,
    U64,
    S64,
    F64,
    B128,
}

impl Ty {
    /// As PTX spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pred => "pred",
            Self::B8 => "b8",
            Self::U8 => "u8",
            Self::S8 => "s8",
            Self::B16 => "b16",
            Self::U16 => "u16",
            Self::S16 => "s16",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::B32 => "b32",
            Self::U32 => "u32",
            Self::S32 => "s32",
            Self::F32 => "f32",
            Self::F16x2 => "f16x2",
            Self::Bf16x2 => "bf16x2",
            Self::U16x2 => "u16x2",
            Self::S16x2 => "s16x2",
            Self::B64 => "b64",
            Self::U64 => "u64",
            Self::S64 => "s64",
            Self::F64 => "f64",
            Self::B128 => "b128",
        }
    }

    /// Width in bits; 1 for predicates.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Pred => 1,
            Self::B8 | Self::U8 | Self::S8 => 8,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 16,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 64,
            Self::B128 => 128,
            _ => 32,
        }
    }

    /// Width in bytes; 1 for predicates.
    pub const fn bytes(self) -> usize {
        self.bits().div_ceil(8) as usize
    }

    /// The type of the register that holds it. 8-bit values sit in 32-bit registers, so that the rest of
    /// the register can be watched.
    pub const fn register(self) -> &'static str {
        match self {
            Self::Pred => "pred",
            Self::B16 | Self::F16 | Self::Bf16 => "b16",
            Self::U16 => "u16",
            Self::S16 => "s16",
            Self::U32 => "u32",
            Self::S32 => "s32",
            Self::F32 => "f32",
            Self::B64 => "b64",
            Self::U64 => "u64",
            Self::S64 => "s64",
            Self::F64 => "f64",
            Self::B128 => "b128",
            _ => "b32",
        }
    }

    /// Width in bits of that register as it is stored.
    pub const fn stored_bits(self) -> u32 {
        match self {
            Self::Pred | Self::B8 | Self::U8 | Self::S8 => 32,
            other => other.bits(),
        }
    }

    /// Whether integers of it have a sign.
    pub const fn signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// Whether it is a signed or unsigned integer.
    pub const fn integer(self) -> bool {
        matches!(
            self,
            Self::U8
                | Self::S8
                | Self::U16
                | Self::S16
                | Self::U32
                | Self::S32
                | Self::U64
                | Self::S64
        )
    }

    /// The format of a floating-point type, of one element for pairs.
    pub const fn format(self) -> Option<Format> {
        match self {
            Self::F16 | Self::F16x2 => Some(Format::F16),
            Self::Bf16 | Self::Bf16x2 => Some(Format::Bf16),
            Self::F32 => Some(Format::F32),
            Self::F64 => Some(Format::F64),
            _ => None,
        }
    }

    /// Whether two 16-bit elements share a register.
    pub const fn pair(self) -> bool {
        matches!(self, Self::F16x2 | Self::Bf16x2 | Self::U16x2 | Self::S16x2)
    }

    /// The bits of its width.
    pub const fn mask(self) -> u128 {
        match self.bits() {
            128 => u128::MAX,
            bits => (1 << bits) - 1,
        }
    }

    /// A bit pattern as the number it stands for.
    pub const fn value(self, bits: u128) -> i128 {
        let bits = bits & self.mask();
        if self.signed() && bits >> (self.bits() - 1) & 1 == 1 {
            bits as i128 - (1_i128 << self.bits())
        } else {
            bits as i128
        }
    }

    /// A number as a bit pattern, wrapped to the width.
    pub const fn wrap(self, value: i128) -> u128 {
        value as u128 & self.mask()
    }

    /// The least number.
    pub const fn least(self) -> i128 {
        if self.signed() {
            -(1_i128 << (self.bits() - 1))
        } else {
            0
        }
    }

    /// The greatest number.
    pub const fn greatest(self) -> i128 {
        if self.signed() {
            (1_i128 << (self.bits() - 1)) - 1
        } else {
            (1_i128 << self.bits()) - 1
        }
    }

    /// A number clamped to the type, as a bit pattern.
    pub const fn clamp(self, value: i128) -> u128 {
        if value < self.least() {
            self.wrap(self.least())
        } else if value > self.greatest() {
            self.wrap(self.greatest())
        } else {
            self.wrap(value)
        }
    }

    /// Since when the type exists: PTX version times ten and sm.
    pub const fn since(self) -> Since {
        match self {
            Self::F16 | Self::F16x2 => Since(60, 53),
            Self::Bf16 | Self::Bf16x2 => Since(70, 80),
            Self::U16x2 | Self::S16x2 => Since(80, 90),
            Self::B128 => Since(83, 70),
            _ => Since(60, 50),
        }
    }

    /// A bit pattern as an immediate operand.
    pub fn literal(self, bits: u128) -> String {
        match self {
            Self::F32 => format!("0f{:08X}", bits as u32),
            Self::F64 => format!("0d{:016X}", bits as u64),
            ty if ty.signed() => ty.value(bits).to_string(),
            ty => format!("0x{:x}", bits & ty.mask()),
        }
    }
}

/// The first PTX version (times ten) and the first sm that have a form. Nothing before PTX 6.0 and sm_50
/// is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Since(pub u32, pub u32);

impl Since {
    /// What every version has.
    pub const ALWAYS: Self = Self(60, 50);

    /// The later of both.
    pub const fn and(self, other: Self) -> Self {
        Self(
            if self.0 > other.0 { self.0 } else { other.0 },
            if self.1 > other.1 { self.1 } else { other.1 },
        )
    }

    /// The head of a module for it.
    pub fn header(self) -> String {
        format!(
            ".version {}.{}\n.target sm_{}\n.address_size 64\n",
            self.0 / 10,
            self.0 % 10,
            self.1
        )
    }
}

/// Integers of a width.
pub const INTEGERS: [Ty; 6] = [Ty::U16, Ty::U32, Ty::U64, Ty::S16, Ty::S32, Ty::S64];

/// Reproducible numbers that look random.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// From a name.
    pub fn named(name: &str) -> Self {
        Self::new(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// The next 64 bits (SplitMix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// The next 128 bits.
    pub fn wide(&mut self) -> u128 {
        u128::from(self.bits()) << 64 | u128::from(self.bits())
    }
}

/// The edge values of a type, as bit patterns of its register.
pub fn edges(ty: Ty) -> Vec<u128> {
    let mut values: Vec<u128> = Vec::new();
    match (ty, ty.format()) {
        (Ty::Pred, _) => values.extend([0, 1]),
        (ty, Some(format)) if ty.pair() => {
            let single = float_edges(format);
            let count = single.len();
            for (index, &low) in single.iter().enumerate() {
                values.push(single[(index * 7 + 3) % count] << 16 | low);
            }
        }
        (_, Some(format)) => values = float_edges(format),
        (Ty::U16x2 | Ty::S16x2, _) => {
            let single = edges(Ty::S16);
            let count = single.len();
            for (index, &low) in single.iter().enumerate() {
                values.push(single[(index * 7 + 3) % count] << 16 | low);
            }
        }
        (ty, None) => {
            let bits = ty.bits();
            let mask = ty.mask();
            values.extend([0, 1, 2, 3, 5, 7, 10, 31, 32, 33, 63, 64, 65, 100]);
            for shift in [7, 8, 15, 16, 24, 31, 32, 47, 63, 64, 127] {
                if shift < bits {
                    let power = 1_u128 << shift;
                    values.extend([power - 1, power, power + 1, !power]);
                }
            }
            values.extend([mask, mask - 1, mask - 2, mask / 3, mask / 5, mask / 3 * 2]);
            values.iter_mut().for_each(|value| *value &= mask);
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

fn float_edges(format: Format) -> Vec<u128> {
    let (exponent, mantissa) = (format.exponent_bits(), format.mantissa_bits());
    let bias = (1_u128 << (exponent - 1)) - 1;
    let at = |exponent: u128, fraction: u128| exponent << mantissa | fraction;
    let top = (1 << exponent) - 1;
    let full = (1 << mantissa) - 1;
    let quiet = 1 << (mantissa - 1);
    let positive = [
        0,                                  // zero
        1,                                  // the smallest subnormal
        full,                               // the largest subnormal
        full / 3,                           // some subnormal
        at(1, 0),                           // the smallest normal
        at(1, 1),                           // the next
        at(2, full),                        // small
        at(bias - 1, 0),                    // 0.5
        at(bias - 1, full),                 // just below 1
        at(bias, 0),                        // 1
        at(bias, 1),                        // just above 1
        at(bias, quiet),                    // 1.5
        at(bias + 1, 0),                    // 2
        at(bias + 1, quiet | quiet >> 1),   // 3.5
        at(bias + u128::from(mantissa), 1), // odd, just representable
        at(top - 1, 0),                     // the largest power of two
        at(top - 1, full),                  // the largest
        at(top, 0),                         // infinity
        at(top, quiet),                     // a quiet NaN
        at(top, quiet - 1),                 // a signalling NaN
        at(top, full),                      // all ones
    ];
    let sign = 1 << (exponent + mantissa);
    positive
        .into_iter()
        .chain(positive.into_iter().map(|value| value | sign))
        .collect()
}

/// A value that is no edge but likely to need rounding, near others of its kind.
pub fn random(ty: Ty, numbers: &mut Numbers) -> u128 {
    if ty.pair() {
        let single = match ty {
            Ty::F16x2 => Ty::F16,
            Ty::Bf16x2 => Ty::Bf16,
            _ => Ty::S16,
        };
        return random(single, numbers) << 16 | random(single, numbers);
    }
    let raw = numbers.wide();
    let Some(format) = ty.format() else {
        // Of any magnitude.
        let bits = ty.stored_bits();
        let value = raw >> (128 - bits);
        return match ty {
            Ty::Pred => value & 1,
            // The rest of the register holds other bits, which must not matter.
            Ty::B8 | Ty::U8 | Ty::S8 => value,
            _ => {
                let value = value >> numbers.below(bits as usize);
                if numbers.bits() & 1 == 0 {
                    value
                } else {
                    value.wrapping_neg() & ty.mask()
                }
            }
        };
    };
    let (exponent, mantissa) = (format.exponent_bits(), format.mantissa_bits());
    let all = raw & ((1 << (1 + exponent + mantissa)) - 1);
    let sign = all >> (exponent + mantissa) << (exponent + mantissa);
    let fraction = all & ((1 << mantissa) - 1);
    let bias = (1_u128 << (exponent - 1)) - 1;
    let near = |numbers: &mut Numbers, spread: u32| {
        let spread = (1 << spread.min(exponent - 1)) as usize;
        bias + numbers.below(spread) as u128 - spread as u128 / 2
    };
    match numbers.below(4) {
        0 => all,
        // Around 1.
        1 => sign | near(numbers, 4) << mantissa | fraction,
        // Around 1, few bits: sums and products that end half way.
        2 => {
            let keep = mantissa - numbers.below(mantissa as usize) as u32;
            sign | near(numbers, 3) << mantissa | fraction >> keep << keep
        }
        // Around integers.
        _ => sign | near(numbers, 6) << mantissa | fraction >> (mantissa / 2) << (mantissa / 2),
    }
}
