//! What video instructions compute, with the numbers that compiled code passes for their modifiers.
//! Any number is a valid one: what cannot come from the compiler has some meaning, and none panics.

/// What is computed of the two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Sub,
    Distance,
    Min,
    Max,
    Average,
    Left,
    Right,
    Set,
}

/// How `vset` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// What is done with the result and the third operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    None,
    Add,
    Min,
    Max,
}

/// What becomes of lanes: their sum is added to the third operand, or they replace its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merge {
    Keep,
    Accumulate,
}

/// A scalar instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar {
    pub operation: Operation,
    pub compare: Compare,
    pub second: Second,
    /// Of the result and the two operands.
    pub signed: [bool; 3],
    pub sat: bool,
    /// Shifts take the amount modulo 32, instead of 32 at most.
    pub wrap: bool,
    /// Of the result and the two operands: 0 all of a word, 1 to 4 a byte, 5 and 6 a half.
    pub parts: [u32; 3],
}

/// `vmad`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mad {
    pub signed: [bool; 2],
    pub parts: [u32; 2],
    pub negate_product: bool,
    pub negate_addend: bool,
    pub plus_one: bool,
    pub sat: bool,
    /// Bits that the result is shifted right by.
    pub scale: u32,
}

/// An instruction on two or four lanes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes {
    pub operation: Operation,
    pub compare: Compare,
    pub four: bool,
    pub merge: Merge,
    /// Of the result and the two operands.
    pub signed: [bool; 3],
    pub sat: bool,
    /// A bit per lane that is computed.
    pub mask: u32,
}

fn flags<const N: usize>(flags: [bool; N]) -> u32 {
    (0..N).fold(0, |bits, index| bits | u32::from(flags[index]) << index)
}

const fn flag(bits: u32, at: u32) -> bool {
    bits >> at & 1 == 1
}

impl Operation {
    const fn of(bits: u32) -> Self {
        match bits & 15 {
            0 => Self::Add,
            1 => Self::Sub,
            2 => Self::Distance,
            3 => Self::Min,
            4 => Self::Max,
            5 => Self::Average,
            6 => Self::Left,
            7 => Self::Right,
            _ => Self::Set,
        }
    }
}

impl Compare {
    const fn of(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Equal,
            1 => Self::NotEqual,
            2 => Self::Less,
            3 => Self::LessEqual,
            4 => Self::Greater,
            _ => Self::GreaterEqual,
        }
    }

    const fn holds(self, a: i128, b: i128) -> bool {
        match self {
            Self::Equal => a == b,
            Self::NotEqual => a != b,
            Self::Less => a < b,
            Self::LessEqual => a <= b,
            Self::Greater => a > b,
            Self::GreaterEqual => a >= b,
        }
    }
}

impl Scalar {
    pub(crate) fn bits(self) -> u32 {
        self.operation as u32
            | (self.compare as u32) << 4
            | (self.second as u32) << 7
            | flags(self.signed) << 9
            | u32::from(self.sat) << 12
            | u32::from(self.wrap) << 13
            | self.parts[0] << 14
            | self.parts[1] << 17
            | self.parts[2] << 20
    }

    const fn of(bits: u32) -> Self {
        Self {
            operation: Operation::of(bits),
            compare: Compare::of(bits >> 4),
            second: match bits >> 7 & 3 {
                0 => Second::None,
                1 => Second::Add,
                2 => Second::Min,
                _ => Second::Max,
            },
            signed: [flag(bits, 9), flag(bits, 10), flag(bits, 11)],
            sat: flag(bits, 12),
            wrap: flag(bits, 13),
            parts: [bits >> 14 & 7, bits >> 17 & 7, bits >> 20 & 7],
        }
    }
}

impl Mad {
    pub(crate) fn bits(self) -> u32 {
        flags(self.signed)
            | self.parts[0] << 2
            | self.parts[1] << 5
            | flags([
                self.negate_product,
                self.negate_addend,
                self.plus_one,
                self.sat,
            ]) << 8
            | self.scale << 12
    }

    const fn of(bits: u32) -> Self {
        Self {
            signed: [flag(bits, 0), flag(bits, 1)],
            parts: [bits >> 2 & 7, bits >> 5 & 7],
            negate_product: flag(bits, 8),
            negate_addend: flag(bits, 9),
            plus_one: flag(bits, 10),
            sat: flag(bits, 11),
            scale: bits >> 12 & 31,
        }
    }
}

impl Lanes {
    pub(crate) fn bits(self) -> u32 {
        self.operation as u32
            | (self.compare as u32) << 4
            | flags([self.four, self.merge == Merge::Accumulate, self.sat]) << 7
            | flags(self.signed) << 10
            | self.mask << 13
    }

    const fn of(bits: u32) -> Self {
        Self {
            operation: Operation::of(bits),
            compare: Compare::of(bits >> 4),
            four: flag(bits, 7),
            merge: if flag(bits, 8) {
                Merge::Accumulate
            } else {
                Merge::Keep
            },
            sat: flag(bits, 9),
            signed: [flag(bits, 10), flag(bits, 11), flag(bits, 12)],
            mask: bits >> 13 & 15,
        }
    }
}

/// Where a part of a word begins, and its bits.
const fn place(part: u32) -> (u32, u32) {
    match part {
        1..=4 => (8 * (part - 1), 8),
        5 => (0, 16),
        6 => (16, 16),
        _ => (0, 32),
    }
}

/// Some bits of a word, at most 32, as a number.
const fn extract(word: u64, start: u32, bits: u32, signed: bool) -> i128 {
    let up = word << (64 - start - bits);
    if signed {
        (up.cast_signed() >> (64 - bits)) as i128
    } else {
        (up >> (64 - bits)) as i128
    }
}

fn clamp(value: i128, bits: u32, signed: bool) -> i128 {
    let (low, high) = if signed {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    };
    value.clamp(low, high)
}

fn operate(operation: Operation, compare: Compare, wrap: bool, a: i128, b: i128) -> i128 {
    // An amount is not negative: its type is unsigned.
    let amount = if wrap { b & 31 } else { b.clamp(0, 32) };
    match operation {
        Operation::Add => a + b,
        Operation::Sub => a - b,
        Operation::Distance => (a - b).abs(),
        Operation::Min => a.min(b),
        Operation::Max => a.max(b),
        Operation::Average => (a + b + i128::from(a + b >= 0)) >> 1,
        Operation::Left => a << amount,
        Operation::Right => a >> amount,
        Operation::Set => i128::from(compare.holds(a, b)),
    }
}

/// `vadd` and its like.
pub(crate) fn scalar(code: u32, a: u32, b: u32, c: u32) -> u32 {
    let code = Scalar::of(code);
    let [signed, a_signed, b_signed] = code.signed;
    let source = |word: u32, part: u32, signed: bool| {
        let (start, bits) = place(part);
        extract(word.into(), start, bits, signed)
    };
    let (a, b) = (
        source(a, code.parts[1], a_signed),
        source(b, code.parts[2], b_signed),
    );
    let (start, bits) = place(code.parts[0]);
    let mut value = operate(code.operation, code.compare, code.wrap, a, b);
    if code.sat {
        value = clamp(value, bits, signed);
    }
    let third = source(c, 0, signed);
    value = match code.second {
        Second::None => value,
        Second::Add => value + third,
        Second::Min => value.min(third),
        Second::Max => value.max(third),
    };
    if bits == 32 {
        return value as u32;
    }
    let mask = ((1 << bits) - 1) << start;
    c & !mask | (value as u32) << start & mask
}

/// `vmad`.
pub(crate) fn mad(code: u32, a: u32, b: u32, c: u32) -> u32 {
    let code = Mad::of(code);
    let source = |word: u32, index: usize| {
        let (start, bits) = place(code.parts[index]);
        extract(word.into(), start, bits, code.signed[index])
    };
    let signed = code.signed[0] || code.signed[1] || code.negate_product || code.negate_addend;
    let product = source(a, 0) * source(b, 1);
    // A negated addend is its complement, as a word, plus one.
    let (product, c, one) = match code {
        Mad { plus_one: true, .. } => (product, c, 1),
        Mad {
            negate_product: true,
            ..
        } => (-product, c, 0),
        Mad {
            negate_addend: true,
            ..
        } => (product, !c, 1),
        _ => (product, c, 0),
    };
    let sum = product + extract(c.into(), 0, 32, signed) + one;
    let value = sum >> code.scale;
    if code.sat {
        clamp(value, 32, signed) as u32
    } else {
        value as u32
    }
}

/// `vadd2`, `vadd4` and their like. The selectors have three bits per lane; those of `b` begin at bit 16.
pub(crate) fn lanes(code: u32, selectors: u32, a: u32, b: u32, c: u32) -> u32 {
    let code = Lanes::of(code);
    let (count, bits) = if code.four { (4, 8) } else { (2, 16) };
    let both = u64::from(b) << 32 | u64::from(a);
    let [signed, a_signed, b_signed] = code.signed;
    let mut result = c;
    for lane in (0..count).filter(|lane| flag(code.mask, *lane)) {
        let element = |first: u32, signed: bool| {
            let index = selectors >> (first + 3 * lane) & 7;
            extract(both, index % (2 * count) * bits, bits, signed)
        };
        let (x, y) = (element(0, a_signed), element(16, b_signed));
        let mut value = operate(code.operation, code.compare, false, x, y);
        if code.sat {
            value = clamp(value, bits, signed);
        }
        if code.merge == Merge::Accumulate {
            result = result.wrapping_add(value as u32);
        } else {
            let mask = ((1 << bits) - 1) << (lane * bits);
            result = result & !mask | (value as u32) << (lane * bits) & mask;
        }
    }
    result
}
