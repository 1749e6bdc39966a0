//! Matrix instructions of a warp: `mma`, `wmma`, `ldmatrix`, `stmatrix`, `movmatrix`, on the words that its
//! lanes handed over. Products are exact; sums are taken in the order of k, beginning with the
//! accumulator, each rounded to single precision (.f64: fused, in the rounding asked for; integers: exact);
//! a .f16 result is rounded once more at the end. No lane's mistake may reach memory that it did not check.

use half::{bf16, f16};

use super::context::BlockContext;
use super::reach;
use super::soft;
use crate::compile::Rounding;

/// Words that a lane can hand over: operands, and results in their place.
pub(crate) const LANE_WORDS: usize = 32;

/// What a matrix's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    S8,
    U8,
    S4,
    U4,
    B1,
    E4m3,
    E5m2,
    S32,
}

impl Element {
    const ALL: [Self; 13] = [
        Self::F16,
        Self::Bf16,
        Self::Tf32,
        Self::F32,
        Self::F64,
        Self::S8,
        Self::U8,
        Self::S4,
        Self::U4,
        Self::B1,
        Self::E4m3,
        Self::E5m2,
        Self::S32,
    ];

    pub(crate) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "s8" => Self::S8,
            "u8" => Self::U8,
            "s4" => Self::S4,
            "u4" => Self::U4,
            "b1" => Self::B1,
            "e4m3" => Self::E4m3,
            "e5m2" => Self::E5m2,
            "s32" => Self::S32,
            _ => return None,
        })
    }

    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::F64 => 64,
            Self::Tf32 | Self::F32 | Self::S32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::S8 | Self::U8 | Self::E4m3 | Self::E5m2 => 8,
            Self::S4 | Self::U4 => 4,
            Self::B1 => 1,
        }
    }

    fn of(number: u32) -> Self {
        Self::ALL
            .get(number as usize & 15)
            .copied()
            .unwrap_or(Self::F16)
    }

    pub(crate) const fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8 | Self::S4 | Self::U4 | Self::S32)
    }
}

/// Which instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mma,
    Wmma,
    Load,
    Store,
    Transpose,
}

/// A matrix instruction, packed into a number for compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code {
    pub kind: Kind,
    /// Rows of the result; of `ldmatrix` and `stmatrix` the number of matrices.
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub a: Element,
    pub b: Element,
    pub c: Element,
    pub d: Element,
    /// Columns of A, and of B, are contiguous (`.col`); of `ldmatrix` and `stmatrix`: `.trans`.
    pub a_columns: bool,
    pub b_columns: bool,
    pub saturate: bool,
    /// `.b1` operands are combined by `and` instead of `xor`.
    pub and: bool,
    pub rounding: Rounding,
}

impl Code {
    /// All sizes are powers of two up to 256.
    pub(crate) fn bits(self) -> u32 {
        let log = |size: u32| size.max(1).trailing_zeros().min(15);
        // Accumulators: F16, F32, F64, S32.
        let sum = |element: Element| match element {
            Element::F16 => 0_u32,
            Element::F32 => 1,
            Element::F64 => 2,
            _ => 3,
        };
        (self.kind as u32)
            | log(self.m).min(7) << 3
            | log(self.n).min(7) << 6
            | log(self.k) << 9
            | (self.a as u32) << 13
            | (self.b as u32) << 17
            | sum(self.c) << 21
            | sum(self.d) << 23
            | u32::from(self.a_columns) << 25
            | u32::from(self.b_columns) << 26
            | u32::from(self.saturate) << 27
            | u32::from(self.and) << 28
            | (self.rounding as u32) << 29
    }

    fn unpack(bits: u32) -> Self {
        let sum = |number: u32| match number & 3 {
            0 => Element::F16,
            1 => Element::F32,
            2 => Element::F64,
            _ => Element::S32,
        };
        let flag = |at: u32| bits >> at & 1 == 1;
        Self {
            kind: match bits & 7 {
                0 => Kind::Mma,
                1 => Kind::Wmma,
                2 => Kind::Load,
                3 => Kind::Store,
                _ => Kind::Transpose,
            },
            m: 1 << (bits >> 3 & 7),
            n: 1 << (bits >> 6 & 7),
            k: 1 << (bits >> 9 & 15),
            a: Element::of(bits >> 13),
            b: Element::of(bits >> 17),
            c: sum(bits >> 21),
            d: sum(bits >> 23),
            a_columns: flag(25),
            b_columns: flag(26),
            saturate: flag(27),
            and: flag(28),
            rounding: match bits >> 29 & 3 {
                0 => Rounding::Nearest,
                1 => Rounding::Zero,
                2 => Rounding::Down,
                _ => Rounding::Up,
            },
        }
    }

    /// `m8n8k4` of halves: four products at once, each of a quarter of the warp.
    pub(crate) fn is_volta(self) -> bool {
        self.kind == Kind::Mma && self.a == Element::F16 && self.k == 4
    }

    /// Words of a lane's part of A, B, C and D.
    pub(crate) fn words(self) -> [usize; 4] {
        let part = |rows: u32, columns: u32, element: Element| {
            (rows * columns * element.bits()).div_ceil(1024) as usize
        };
        if self.is_volta() {
            let sum = |element: Element| if element == Element::F16 { 4 } else { 8 };
            return [2, 2, sum(self.c), sum(self.d)];
        }
        // Each element of `wmma`'s .f16 operands is there at least twice, and 16 are in each lane.
        let halves = self.kind == Kind::Wmma && self.a == Element::F16;
        let operand = |rows, columns, element| {
            if halves {
                8
            } else {
                part(rows, columns, element)
            }
        };
        [
            operand(self.m, self.k, self.a),
            operand(self.k, self.n, self.b),
            part(self.m, self.n, self.c),
            part(self.m, self.n, self.d),
        ]
    }
}

/// What the lanes of a warp handed over, and what they get.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Lanes that take part.
    pub group: u32,
    /// Per lane, an address of 16 bytes that it has checked, or 0.
    pub address: [u64; 32],
    pub words: [[u32; LANE_WORDS]; 32],
}

/// Carries out an instruction: the words become results.
///
/// # Safety
/// Each address that is not 0 is that of 16 aligned bytes that the host thread may read and write.
pub(super) unsafe fn carry_out(code: u32, lanes: &mut Lanes) {
    let code = Code::unpack(code);
    match code.kind {
        // SAFETY: the caller's.
        Kind::Load => unsafe { load_matrices(code, lanes) },
        // SAFETY: the caller's.
        Kind::Store => unsafe { store_matrices(code, lanes) },
        Kind::Transpose => transpose(lanes),
        Kind::Mma | Kind::Wmma => multiply(code, lanes),
    }
}

/// Element `(row, column)` of an 8 by 8 matrix of halves: its lane, and its place in that lane's word.
const fn half_place(row: usize, column: usize) -> (usize, u32) {
    (row * 4 + column / 2, column as u32 % 2 * 16)
}

/// The rows in memory: per row its address, its matrix, and its number in it.
fn rows(code: Code, lanes: &Lanes) -> impl Iterator<Item = (u64, usize, usize)> {
    let (group, addresses) = (lanes.group, lanes.address);
    (0..code.m.min(4) as usize * 8)
        .map(move |giver| (addresses[giver], giver))
        .filter(move |&(address, giver)| address != 0 && group >> giver & 1 == 1)
        .map(|(address, giver)| (address, giver / 8, giver % 8))
}

/// # Safety
/// As `carry_out`.
unsafe fn load_matrices(code: Code, lanes: &mut Lanes) {
    let mut results = [[0; LANE_WORDS]; 32];
    for (address, matrix, row) in rows(code, lanes) {
        for column in 0..8 {
            // SAFETY: eight halves from an address that its lane has checked.
            let value = unsafe { *(address as *const u16).add(column) };
            let (lane, shift) = if code.a_columns {
                half_place(column, row)
            } else {
                half_place(row, column)
            };
            results[lane][matrix] |= u32::from(value) << shift;
        }
    }
    lanes.words = results;
}

/// # Safety
/// As `carry_out`.
unsafe fn store_matrices(code: Code, lanes: &Lanes) {
    for (address, matrix, row) in rows(code, lanes) {
        for column in 0..8 {
            let (lane, shift) = if code.a_columns {
                half_place(column, row)
            } else {
                half_place(row, column)
            };
            let value = (lanes.words[lane][matrix] >> shift) as u16;
            // SAFETY: as in `load_matrices`, for writing.
            unsafe { *(address as *mut u16).add(column) = value };
        }
    }
}

fn transpose(lanes: &mut Lanes) {
    let mut results = [[0; LANE_WORDS]; 32];
    for row in 0..8 {
        for column in 0..8 {
            let (from, down) = half_place(column, row);
            let (to, up) = half_place(row, column);
            results[to][0] |= (lanes.words[from][0] >> down & 0xffff) << up;
        }
    }
    lanes.words = results;
}

/// Which operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    A,
    B,
    Sum,
}

/// Of a lane's element: its row and column in the operand.
fn place(code: Code, part: Part, element: Element, lane: usize, index: usize) -> (usize, usize) {
    let (m, n, k) = (code.m as usize, code.n as usize, code.k as usize);
    if code.kind == Kind::Wmma {
        let (rows, columns) = match part {
            Part::A => (m, k),
            Part::B => (k, n),
            Part::Sum => (m, n),
        };
        return wmma_place(element, rows, columns, part == Part::B, lane, index);
    }
    let (group, within) = (lane / 4, lane % 4);
    let per_word = (32 / element.bits()).max(1) as usize;
    let (word, inside) = (index / per_word, index % per_word);
    let along = |step: usize| per_word * within + inside + 4 * per_word * step;
    match part {
        Part::A if m == 16 => (group + 8 * (word % 2), along(word / 2)),
        Part::A => (group, along(word)),
        Part::B => (along(word), group),
        Part::Sum => (group + 8 * (index / 2), 2 * within + index % 2),
    }
}

/// Elements of a `wmma` fragment: number `32 * index + lane` in the order of rows. Those smaller than a
/// byte go by whole words along k.
fn wmma_place(
    element: Element,
    rows: usize,
    columns: usize,
    is_b: bool,
    lane: usize,
    index: usize,
) -> (usize, usize) {
    if element.bits() < 8 {
        let per_word = (32 / element.bits()) as usize;
        let (long, number) = if is_b { (rows, lane) } else { (columns, lane) };
        let words = (long / per_word).max(1);
        let (line, along) = (number / words, number % words * per_word + index % per_word);
        return if is_b { (along, line) } else { (line, along) };
    }
    let number = (index * 32 + lane) % (rows * columns).max(1);
    (number / columns.max(1), number % columns.max(1))
}

fn raw(words: &[u32], element: Element, index: usize) -> u64 {
    let word = |at: usize| words.get(at).copied().unwrap_or(0);
    let bits = element.bits();
    if bits == 64 {
        return u64::from(word(2 * index + 1)) << 32 | u64::from(word(2 * index));
    }
    let per_word = (32 / bits) as usize;
    let shifted = word(index / per_word) >> ((index % per_word) as u32 * bits);
    u64::from(shifted & (u32::MAX >> (32 - bits)))
}

fn put(words: &mut [u32], element: Element, index: usize, value: u64) {
    let bits = element.bits();
    let per_word = (32 / bits).max(1) as usize;
    if bits == 64 {
        for (half, at) in [2 * index, 2 * index + 1].into_iter().enumerate() {
            if let Some(word) = words.get_mut(at) {
                *word = (value >> (32 * half)) as u32;
            }
        }
    } else if let Some(word) = words.get_mut(index / per_word) {
        let shift = (index % per_word) as u32 * bits;
        let mask = (u32::MAX >> (32 - bits)) << shift;
        *word = *word & !mask | (value as u32) << shift & mask;
    }
}

/// An 8-bit float: `digits` of fraction, exponent bias, and whether it has infinities.
fn small_float(bits: u64, digits: u32, bias: i32, infinities: bool) -> f32 {
    let sign = if bits & 0x80 != 0 { -1.0 } else { 1.0 };
    let exponent = (bits as u32 & 0x7f) >> digits;
    let fraction = bits as u32 & ((1 << digits) - 1);
    let top = 0x7f >> digits;
    if infinities && exponent == top {
        return if fraction == 0 {
            sign * f32::INFINITY
        } else {
            f32::NAN
        };
    }
    if !infinities && bits & 0x7f == 0x7f {
        return f32::NAN;
    }
    let (whole, power) = if exponent == 0 {
        (fraction, 1 - bias)
    } else {
        (fraction | 1 << digits, exponent as i32 - bias)
    };
    sign * whole as f32 * 2_f32.powi(power - digits as i32)
}

fn number(bits: u64, element: Element) -> f64 {
    match element {
        Element::F16 => f16::from_bits(bits as u16).to_f64(),
        Element::Bf16 => bf16::from_bits(bits as u16).to_f64(),
        // The lower 13 bits do not count.
        Element::Tf32 => f64::from(f32::from_bits(bits as u32 & 0xffff_e000)),
        Element::F32 => f64::from(f32::from_bits(bits as u32)),
        Element::E4m3 => f64::from(small_float(bits, 3, 7, false)),
        Element::E5m2 => f64::from(small_float(bits, 2, 15, true)),
        Element::F64 => f64::from_bits(bits),
        _ => 0.0,
    }
}

fn integer(bits: u64, element: Element) -> i64 {
    let bits_of = element.bits().min(32);
    match element {
        Element::U8 | Element::U4 | Element::B1 => bits.cast_signed(),
        _ => (bits << (64 - bits_of)).cast_signed() >> (64 - bits_of),
    }
}

/// The largest operand: 16 by 256 bits.
const MOST: usize = 16 * 256;

fn multiply(code: Code, lanes: &mut Lanes) {
    let [a_words, b_words, c_words, d_words] = code.words();
    if a_words + b_words + c_words > LANE_WORDS || code.m * code.k > MOST as u32 {
        return;
    }
    if code.is_volta() {
        return multiply_volta(code, lanes);
    }
    let sizes = [(code.m, code.k), (code.k, code.n), (code.m, code.n)];
    let starts = [0, a_words, a_words + b_words];
    let elements = [code.a, code.b, code.c];
    let parts = [Part::A, Part::B, Part::Sum];
    let counts = [a_words, b_words, c_words];
    let mut matrices: [Vec<u64>; 3] =
        sizes.map(|(rows, columns)| vec![0; (rows * columns) as usize]);
    for operand in 0..3 {
        let element = elements[operand];
        let count = counts[operand] * 32 / element.bits() as usize;
        let columns = sizes[operand].1 as usize;
        for (lane, words) in lanes.words.iter().enumerate() {
            let words = words.get(starts[operand]..).unwrap_or_default();
            for index in 0..count {
                let (row, column) = place(code, parts[operand], element, lane, index);
                if let Some(slot) = matrices[operand].get_mut(row * columns + column) {
                    *slot = raw(words, element, index);
                }
            }
        }
    }
    let [a, b, c] = matrices;
    let result = product(code, &a, &b, &c);
    let count = d_words * 32 / code.d.bits() as usize;
    for (lane, words) in lanes.words.iter_mut().enumerate() {
        for index in 0..count {
            let (row, column) = place(code, Part::Sum, code.d, lane, index);
            let at = row * code.n as usize + column;
            put(words, code.d, index, result.get(at).copied().unwrap_or(0));
        }
    }
}

/// D = A B + C, all in the order of rows.
fn product(code: Code, a: &[u64], b: &[u64], c: &[u64]) -> Vec<u64> {
    let (n, k) = (code.n as usize, code.k as usize);
    if code.a == Element::B1 || code.a.is_integer() {
        let a: Vec<i64> = a.iter().map(|&bits| integer(bits, code.a)).collect();
        let b: Vec<i64> = b.iter().map(|&bits| integer(bits, code.b)).collect();
        let mut sums: Vec<i64> = c.iter().map(|&bits| integer(bits, Element::S32)).collect();
        accumulate(&mut sums, &a, &b, n, k, |sum, a, b| {
            sum + match code.a {
                Element::B1 if code.and => a & b,
                Element::B1 => a ^ b,
                _ => a * b,
            }
        });
        let fit = |sum: i64| {
            if code.saturate {
                sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX))
            } else {
                sum
            }
        };
        return sums
            .into_iter()
            .map(|sum| fit(sum).cast_unsigned() & 0xffff_ffff)
            .collect();
    }
    if code.a == Element::F64 {
        let fused = soft::Code {
            operation: soft::Operation::Fma,
            from: soft::Format::F64,
            to: soft::Format::F64,
            rounding: code.rounding,
            ftz: false,
            sat: false,
            finite: false,
            relu: false,
        };
        let mut sums = c.to_vec();
        accumulate(&mut sums, a, b, n, k, |sum, a, b| {
            if code.rounding == Rounding::Nearest {
                let [a, b, c] = [a, b, sum].map(f64::from_bits);
                a.mul_add(b, c).to_bits()
            } else {
                soft::compute(fused.bits(), a, b, sum)
            }
        });
        return sums;
    }
    let mut sums: Vec<f32> = c.iter().map(|&bits| number(bits, code.c) as f32).collect();
    if matches!(code.a, Element::F16 | Element::E4m3 | Element::E5m2) {
        // Their products are exact in single precision.
        let a: Vec<f32> = a.iter().map(|&bits| number(bits, code.a) as f32).collect();
        let b: Vec<f32> = b.iter().map(|&bits| number(bits, code.b) as f32).collect();
        accumulate(&mut sums, &a, &b, n, k, |sum, a, b| sum + a * b);
    } else {
        // The sum of an exact product and a single, in double precision, is so much longer than a
        // single that rounding it again gives the single nearest to the true sum.
        let a: Vec<f64> = a.iter().map(|&bits| number(bits, code.a)).collect();
        let b: Vec<f64> = b.iter().map(|&bits| number(bits, code.b)).collect();
        accumulate(&mut sums, &a, &b, n, k, |sum, a, b| {
            (f64::from(sum) + a * b) as f32
        });
    }
    sums.into_iter().map(|sum| result(sum, code.d)).collect()
}

/// Adds to each sum its row of A times its column of B, in the order of k.
fn accumulate<S: Copy, T: Copy>(
    sums: &mut [S],
    a: &[T],
    b: &[T],
    n: usize,
    k: usize,
    add: impl Fn(S, T, T) -> S,
) {
    for (sums, a) in sums.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = add(*sum, a, b);
            }
        }
    }
}

/// A sum's bits as an element of D.
fn result(sum: f32, element: Element) -> u64 {
    match element {
        Element::F16 if sum.is_nan() => 0x7fff,
        Element::F16 => u64::from(f16::from_f32(sum).to_bits()),
        _ if sum.is_nan() => 0x7fff_ffff,
        _ => u64::from(sum.to_bits()),
    }
}

/// `m8n8k4`: lanes 4q to 4q+3 and 16+4q to 16+4q+3 compute the q-th product.
fn multiply_volta(code: Code, lanes: &mut Lanes) {
    let [_, _, c_words, _] = code.words();
    let mut results = lanes.words;
    for quad in 0..4 {
        let members: Vec<usize> = (0..8)
            .map(|member| quad * 4 + member % 4 + member / 4 * 16)
            .collect();
        let (mut a, mut b, mut c) = (vec![0; 32], vec![0; 32], vec![0; 64]);
        let sum_place = |element: Element, member: usize, index: usize| {
            let upper = member / 4 * 4;
            if element == Element::F16 {
                (member % 4 + upper, index)
            } else {
                let row = (member & 1) + (index & 2) + upper;
                (row, (index & 4) + (member & 2) + (index & 1))
            }
        };
        for (member, &lane) in members.iter().enumerate() {
            let (line, upper, words) = (member % 4, member / 4 * 4, &lanes.words[lane]);
            for index in 0..4 {
                let (row, column) = if code.a_columns {
                    (index + upper, line)
                } else {
                    (line + upper, index)
                };
                a[row * 4 + column] = raw(words, Element::F16, index);
                let (row, column) = if code.b_columns {
                    (index, line + upper)
                } else {
                    (line, index + upper)
                };
                b[row * 8 + column] = raw(&words[2..], Element::F16, index);
            }
            for index in 0..8 {
                let (row, column) = sum_place(code.c, member, index);
                c[row * 8 + column] = raw(&words[4..4 + c_words], code.c, index);
            }
        }
        let d = product(code, &a, &b, &c);
        for (member, &lane) in members.iter().enumerate() {
            for index in 0..8 {
                let (row, column) = sum_place(code.d, member, index);
                put(&mut results[lane], code.d, index, d[row * 8 + column]);
            }
        }
    }
    lanes.words = results;
}

/// A `wmma` fragment in memory, packed into a number for compiled code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fragment {
    pub element: Element,
    pub rows: u32,
    pub columns: u32,
    /// Columns are contiguous in memory.
    pub by_columns: bool,
    /// It is B's: small elements run along its columns.
    pub is_b: bool,
    /// Words of a lane's part.
    pub words: u32,
}

impl Fragment {
    pub(crate) fn bits(self) -> u32 {
        (self.element as u32)
            | self.rows.trailing_zeros() << 4
            | self.columns.trailing_zeros() << 8
            | u32::from(self.by_columns) << 12
            | u32::from(self.is_b) << 13
            | self.words << 16
    }

    fn unpack(bits: u32) -> Self {
        Self {
            element: Element::of(bits),
            rows: 1 << (bits >> 4 & 15),
            columns: 1 << (bits >> 8 & 15),
            by_columns: bits >> 12 & 1 == 1,
            is_b: bits >> 13 & 1 == 1,
            words: bits >> 16 & 31,
        }
    }
}

/// One lane's part of `wmma.load` or `wmma.store`: moves each of its elements between memory, at a generic
/// address with rows or columns `stride` elements apart, and the words. Bit 31 of the code stores.
/// Whether the lane may use all of the memory.
pub(super) extern "C" fn move_fragment(
    context: *const BlockContext,
    thread: *const u8,
    address: u64,
    stride: u32,
    code: u32,
    words: *mut [u32; LANE_WORDS],
) -> u32 {
    let stores = code >> 31 == 1;
    let fragment = Fragment::unpack(code & 0x7fff_ffff);
    // SAFETY: compiled code passes the context it was given, and words in its own frame.
    let (context, words) = unsafe { (&*context, &mut *words) };
    // SAFETY: `tid` and `index` are written before the block runs and not while it does.
    let lane = unsafe { (*thread.cast::<super::context::ThreadHeader>()).index } as usize % 32;
    let element = fragment.element;
    // Small elements move as the words they fill.
    let per_unit = if element.bits() < 8 {
        32 / element.bits()
    } else {
        1
    };
    let bytes = u64::from((element.bits() * per_unit / 8).max(1));
    let count = fragment.words as usize * 32 / (element.bits() * per_unit) as usize;
    for index in 0..count {
        let (row, column) = wmma_place(
            element,
            fragment.rows as usize,
            fragment.columns as usize,
            fragment.is_b,
            lane,
            index * per_unit as usize,
        );
        let (line, along) = if fragment.by_columns {
            (column, row)
        } else {
            (row, column)
        };
        let number = line as u64 * u64::from(stride) + along as u64;
        let at = address.wrapping_add(number * u64::from(element.bits()) / 8);
        if !at.is_multiple_of(bytes) || !reach::generic(context, thread, at, bytes) {
            return 0;
        }
        // SAFETY: just checked: aligned, and the thread may use it; kernels race on it as on a GPU.
        unsafe {
            match (bytes, stores) {
                (1, false) => put(words, element, index, u64::from(*(at as *const u8))),
                (2, false) => put(words, element, index, u64::from(*(at as *const u16))),
                (4, false) => put(words, Element::S32, index, u64::from(*(at as *const u32))),
                (_, false) => put(words, element, index, *(at as *const u64)),
                (1, true) => *(at as *mut u8) = raw(words, element, index) as u8,
                (2, true) => *(at as *mut u16) = raw(words, element, index) as u16,
                (4, true) => *(at as *mut u32) = raw(words, Element::S32, index) as u32,
                (_, true) => *(at as *mut u64) = raw(words, element, index),
            }
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_all_parts() {
        let code = Code {
            kind: Kind::Wmma,
            m: 32,
            n: 8,
            k: 16,
            a: Element::U8,
            b: Element::S32,
            c: Element::S32,
            d: Element::F16,
            a_columns: true,
            b_columns: false,
            saturate: true,
            and: true,
            rounding: Rounding::Up,
        };
        assert_eq!(Code::unpack(code.bits()), code);
    }

    #[test]
    fn small_floats_have_their_values() {
        let e4m3 = |bits| number(bits, Element::E4m3);
        assert_eq!(
            [e4m3(0x38), e4m3(0xb8), e4m3(0x7e), e4m3(1)],
            [1.0, -1.0, 448.0, 1.0 / 512.0]
        );
        assert!(e4m3(0x7f).is_nan());
        let e5m2 = |bits| number(bits, Element::E5m2);
        assert_eq!(
            [e5m2(0x3c), e5m2(0x7b), e5m2(0xfc)],
            [1.0, 57344.0, f64::NEG_INFINITY]
        );
    }
}
