//! Matrix instructions of a warp. Fragments are laid out as the instruction set's tables say, written
//! down here element by element; `wmma`'s own fragments are opaque, so that its forms are tested from
//! memory to memory. Products are exact and sums taken along k from the accumulator on, in single
//! precision (`.f64`: fused; integers: exact).

use super::{Table, named};
use crate::form::Kernel;
use crate::reference::float::{Format, Round};
use crate::types::{Numbers, Since, Ty, edges, random};

const LANES: usize = 32;
/// Warps, each with a matrix of its own.
const TRIALS: usize = 6;
const VOLTA: Since = Since(64, 70);
const TURING: Since = Since(65, 75);
const AMPERE: Since = Since(70, 80);
const HOPPER: Since = Since(78, 90);

pub(super) fn add(table: &mut Table) {
    multiply(table);
    warp_level(table);
    moves(table);
    lacking(table);
}

/// What an element of a matrix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
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
    const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Tf32 => "tf32",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::S8 => "s8",
            Self::U8 => "u8",
            Self::S4 => "s4",
            Self::U4 => "u4",
            Self::B1 => "b1",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
            Self::S32 => "s32",
        }
    }

    const fn bits(self) -> usize {
        match self {
            Self::F64 => 64,
            Self::Tf32 | Self::F32 | Self::S32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::S8 | Self::U8 | Self::E4m3 | Self::E5m2 => 8,
            Self::S4 | Self::U4 => 4,
            Self::B1 => 1,
        }
    }

    const fn exact(self) -> bool {
        matches!(
            self,
            Self::S8 | Self::U8 | Self::S4 | Self::U4 | Self::B1 | Self::S32
        )
    }

    /// As an integer.
    const fn integer(self, bits: u64) -> i64 {
        match self {
            Self::S8 => bits as u8 as i8 as i64,
            Self::S4 => ((bits as u8) << 4) as i8 as i64 >> 4,
            Self::S32 => bits as u32 as i32 as i64,
            _ => bits as i64,
        }
    }

    /// As the bits of a single, or of a double where it is one. All are exact.
    fn wide(self, bits: u64) -> u128 {
        let bits = u128::from(bits);
        match self {
            Self::F16 => Format::F16.convert(Format::F32, Round::Nearest, bits),
            Self::Bf16 => bits << 16,
            Self::E4m3 => small(bits as u32, 3, false),
            Self::E5m2 => small(bits as u32, 2, true),
            _ => bits,
        }
    }

    /// An element for a trial: small whole numbers, then numbers that need rounding, at last edges among
    /// them.
    fn pick(self, trial: usize, numbers: &mut Numbers) -> u64 {
        let any = numbers.bits();
        if self.exact() {
            let mask = if self.bits() == 32 {
                0xffff_ffff
            } else {
                (1 << self.bits()) - 1
            };
            let top = 1_u64 << (self.bits() - 1);
            return match (self, trial) {
                // Sums that overflow in both directions.
                (Self::S32, 4) => 0x7fff_ffff - numbers.below(9) as u64,
                (Self::S32, 5) => 0x8000_0000 + numbers.below(9) as u64,
                (Self::B1, _) | (_, 1..=3) => any & mask,
                (_, 4) => mask,
                (_, 5) if matches!(self, Self::U8 | Self::U4) => mask,
                // The most negative, and its opposite.
                (_, 5) => numbers.pick(&[top, top - 1]),
                _ => numbers.below(3) as u64,
            };
        }
        let whole = numbers.below(9) as i128 - 4;
        let format = match self {
            Self::F16 => Some((Format::F16, Ty::F16)),
            Self::Bf16 => Some((Format::Bf16, Ty::Bf16)),
            Self::Tf32 | Self::F32 => Some((Format::F32, Ty::F32)),
            Self::F64 => Some((Format::F64, Ty::F64)),
            _ => None,
        };
        let Some((format, ty)) = format else {
            // Around 1; then any, infinities and NaNs among them.
            return match trial {
                0..=3 => numbers.pick(&[0x38, 0xb8, 0x3c, 0xbc, 0x40, 0x31, 0x2a, 0xb7, 0x45, 0]),
                4 => any & 0xbf,
                _ => any & 0xff,
            };
        };
        let bits = match trial {
            0 => format.of_integer(Round::Nearest, whole),
            1..=3 => {
                let exponent = format.one() >> format.mantissa_bits();
                let near = exponent - 3 + u128::from(any >> 60) % 7;
                let fraction = u128::from(any) & ((1 << format.mantissa_bits()) - 1);
                (u128::from(any >> 59 & 1) << (format.bits() - 1))
                    | near << format.mantissa_bits()
                    | fraction
            }
            4 => random(ty, numbers),
            _ if numbers.below(24) == 0 => numbers.pick(&edges(ty)),
            _ => format.of_integer(Round::Nearest, whole),
        };
        // The instruction set leaves open what bits that tf32 lacks do.
        (bits as u64)
            & if self == Self::Tf32 {
                0xffff_e000
            } else {
                u64::MAX
            }
    }
}

/// An 8-bit number as a single's bits: of so many digits, with or without infinities.
fn small(bits: u32, digits: u32, infinities: bool) -> u128 {
    let magnitude = bits & 0x7f;
    let (exponent, fraction) = (magnitude >> digits, magnitude & ((1 << digits) - 1));
    let bias = (1 << (6 - digits)) - 1;
    let positive = if magnitude == 0x7f || infinities && magnitude > 0x7c {
        0x7fff_ffff
    } else if infinities && magnitude == 0x7c {
        0x7f80_0000
    } else if exponent == 0 {
        // Multiples of the smallest.
        let unit = (127 + 1 - bias - digits) << 23;
        let count = Format::F32.of_integer(Round::Nearest, fraction.into());
        Format::F32.mul(Round::Nearest, count, unit.into()) as u32
    } else {
        (exponent + 127 - bias) << 23 | fraction << (23 - digits)
    };
    u128::from(positive | (bits & 0x80) << 24)
}

/// What is computed: sizes, elements, what is special.
#[derive(Debug, Clone, Copy)]
struct Product {
    m: usize,
    n: usize,
    k: usize,
    a: Element,
    b: Element,
    c: Element,
    d: Element,
    saturates: bool,
    /// `.and` instead of `.xor`.
    and: bool,
    round: Round,
}

impl Product {
    const fn new([m, n, k]: [usize; 3], a: Element, c: Element) -> Self {
        Self {
            m,
            n,
            k,
            a,
            b: a,
            c,
            d: c,
            saturates: false,
            and: false,
            round: Round::Nearest,
        }
    }

    fn shape(&self) -> String {
        format!("m{}n{}k{}", self.m, self.n, self.k)
    }

    /// One element of D from a row of A, a column of B and an element of C.
    fn element(&self, a: &[u64], b: &[u64], c: u64) -> u64 {
        if self.a.exact() {
            let products = a.iter().zip(b).map(|(&a, &b)| match self.a {
                Element::B1 if self.and => (a & b) as i64,
                Element::B1 => (a ^ b) as i64,
                _ => self.a.integer(a) * self.b.integer(b),
            });
            let sum = self.c.integer(c) + products.sum::<i64>();
            let sum = if self.saturates {
                sum.clamp(i32::MIN.into(), i32::MAX.into())
            } else {
                sum
            };
            return sum as u64 & 0xffff_ffff;
        }
        let format = if self.a == Element::F64 {
            Format::F64
        } else {
            Format::F32
        };
        let sum = a.iter().zip(b).fold(self.c.wide(c), |sum, (&a, &b)| {
            format.fma(self.round, self.a.wide(a), self.b.wide(b), sum)
        });
        if self.d == Element::F16 {
            Format::F32.convert(Format::F16, Round::Nearest, sum) as u64
        } else {
            sum as u64
        }
    }

    /// D from A, B and C, all in the order of rows.
    fn result(&self, a: &[u64], b: &[u64], c: &[u64]) -> Vec<u64> {
        let mut d = Vec::new();
        for row in 0..self.m {
            for column in 0..self.n {
                let along: Vec<u64> = (0..self.k).map(|k| b[k * self.n + column]).collect();
                let at = row * self.n + column;
                d.push(self.element(&a[row * self.k..][..self.k], &along, c[at]));
            }
        }
        d
    }

    /// Whether an element of D is what it has to be.
    fn same(&self, got: u64, wanted: u64) -> bool {
        let format = match self.d {
            Element::F16 => Format::F16,
            Element::F32 => Format::F32,
            Element::F64 => Format::F64,
            _ => return got == wanted,
        };
        format.same(got.into(), wanted.into())
    }
}

/// Elements packed into bytes, the first in the lowest bits.
fn pack(values: &[u64], element: Element) -> Vec<u8> {
    let mut bytes = vec![0; (values.len() * element.bits()).div_ceil(8)];
    for (index, value) in values.iter().enumerate() {
        for bit in 0..element.bits() {
            let at = index * element.bits() + bit;
            bytes[at / 8] |= ((value >> bit & 1) as u8) << (at % 8);
        }
    }
    bytes
}

/// An element of packed bytes.
fn unpack(bytes: &[u8], element: Element, index: usize) -> u64 {
    (0..element.bits()).fold(0, |value, bit| {
        let at = index * element.bits() + bit;
        value | u64::from(bytes[at / 8] >> (at % 8) & 1) << bit
    })
}

/// Row and column of an element of a fragment.
type Place = (usize, usize);

/// A's fragments of `mma.sync`: row and column of element `i` of a lane.
fn place_a(product: &Product, lane: usize, i: usize) -> Place {
    let (group, member) = (lane >> 2, lane % 4);
    let lower = |lower: bool| if lower { group + 8 } else { group };
    match (product.m, product.k, product.a.bits()) {
        (8, 4, 64) => (group, member),
        (8, 16, 8) => (group, member * 4 + i),
        (8, 32, 4) => (group, member * 8 + i),
        (8, 128, 1) => (group, member * 32 + i),
        (16, 4, 32 | 64) => (lower(i == 1), member),
        (16, 8, 16) => (lower(i >= 2), member * 2 + (i & 1)),
        (16, 8, 32 | 64) => (
            lower(i == 1 || i == 3),
            if i < 2 { member } else { member + 4 },
        ),
        (16, 16, 16) => (
            lower(!matches!(i, 0 | 1 | 4 | 5)),
            member * 2 + (i & 1) + if i >= 4 { 8 } else { 0 },
        ),
        (16, 16, 64) => {
            let column = if i & 1 == 0 { i * 2 } else { i * 2 - 2 };
            (lower(i % 2 == 1), column + member)
        }
        (16, 16, 8) => (lower(i >= 4), member * 4 + (i & 3)),
        (16, 32, 8) => (
            lower(!matches!(i, 0..=3 | 8..=11)),
            member * 4 + (i & 3) + if i >= 8 { 16 } else { 0 },
        ),
        (16, 32, 4) => (lower(i >= 8), member * 8 + (i & 7)),
        (16, 64, 4) => (
            lower(!matches!(i, 0..=7 | 16..=23)),
            member * 8 + (i & 7) + if i >= 16 { 32 } else { 0 },
        ),
        (16, 128, 1) => (lower(i >= 32), member * 32 + (i & 31)),
        // m16n8k256
        _ => (
            lower(!matches!(i, 0..=31 | 64..=95)),
            member * 32 + (i & 31) + if i >= 64 { 128 } else { 0 },
        ),
    }
}

/// B's fragments.
fn place_b(product: &Product, lane: usize, i: usize) -> Place {
    let (group, member) = (lane >> 2, lane % 4);
    let row = match (product.m, product.k, product.a.bits()) {
        (8 | 16, 4, 32 | 64) => member,
        (8, 16, 8) => member * 4 + i,
        (8, 32, 4) => member * 8 + i,
        (8 | 16, 128, 1) => member * 32 + i,
        (16, 8, 16) => member * 2 + i,
        (16, 8, 32 | 64) => member + if i == 1 { 4 } else { 0 },
        (16, 16, 16) => member * 2 + (i & 1) + if i >= 2 { 8 } else { 0 },
        (16, 16, 64) => member + i * 4,
        (16, 16, 8) => member * 4 + i,
        (16, 32, 8) => member * 4 + (i & 3) + if i >= 4 { 16 } else { 0 },
        (16, 32, 4) => member * 8 + i,
        (16, 64, 4) => member * 8 + (i & 7) + if i >= 8 { 32 } else { 0 },
        // m16n8k256
        _ => member * 32 + (i & 31) + if i >= 32 { 128 } else { 0 },
    };
    (row, group)
}

/// The accumulators' fragments.
const fn place_c(lane: usize, i: usize) -> Place {
    let row = lane >> 2;
    (if i < 2 { row } else { row + 8 }, lane % 4 * 2 + (i & 1))
}

/// The 32-bit words of a lane's part of so many elements.
const fn words(elements: usize, element: Element) -> usize {
    elements * element.bits() / LANES / 32
}

/// Registers for a fragment: their type, their names, their count.
fn registers(letter: char, words: usize, element: Element) -> (&'static str, Vec<String>, usize) {
    let (ty, count) = match element {
        Element::F64 => ("f64", words / 2),
        Element::F32 => ("f32", words),
        _ => ("b32", words),
    };
    let names = (0..count).map(|index| format!("%{letter}{index}"));
    (ty, names.collect(), if ty == "f64" { 8 } else { 4 })
}

/// Bytes of each lane's input and output.
const INPUT: usize = 128;
const OUTPUT: usize = 64;

/// An instruction on fragments in registers: of so many words, at these places of these bytes.
fn in_registers(
    table: &mut Table,
    name: &str,
    since: Since,
    parts: [(Element, usize); 4],
    input: Vec<u8>,
    judge: impl Fn(&[u8], &[u8]) -> Result<(), String> + Send + Sync + 'static,
) {
    let mut body =
        format!("mad.wide.u32 %rd1, %t, {INPUT}, %in; mad.wide.u32 %rd2, %t, {OUTPUT}, %out;\n");
    let mut at = 0;
    let mut operands = Vec::new();
    for (letter, (element, words)) in "ABCD".chars().zip(parts) {
        let (ty, names, bytes) = registers(letter, words, element);
        body += &format!(".reg .{ty} %{letter}<{}>;\n", names.len());
        if letter != 'D' {
            for register in &names {
                body += &format!("ld.global.{ty} {register}, [%rd1+{at}];\n");
                at += bytes;
            }
        }
        operands.push(format!("{{{}}}", names.join(", ")));
    }
    body += &format!(
        "{name} {}, {}, {}, {};\n",
        operands[3], operands[0], operands[1], operands[2]
    );
    let (ty, names, bytes) = registers('D', parts[3].1, parts[3].0);
    for (index, register) in names.iter().enumerate() {
        body += &format!("st.global.{ty} [%rd2+{}], {register};\n", index * bytes);
    }
    table.kernel(
        name,
        since,
        Kernel {
            declarations: String::new(),
            body,
            threads: LANES as u32,
            blocks: TRIALS as u32,
            input,
            output: TRIALS * LANES * OUTPUT,
            faults: false,
            objects: Vec::new(),
            judge: Box::new(judge),
        },
    );
}

/// `mma.sync` on fragments as `place_a` and so on say.
fn product_form(table: &mut Table, name: &str, since: Since, product: Product) {
    let mut numbers = Numbers::named(name);
    let (m, n, k) = (product.m, product.n, product.k);
    let counts = [m * k, k * n, m * n].map(|count| count / LANES);
    let elements = [product.a, product.b, product.c];
    let places = move |operand: usize, lane: usize, i: usize| match operand {
        0 => place_a(&product, lane, i),
        1 => place_b(&product, lane, i),
        _ => place_c(lane, i),
    };
    let mut input = Vec::new();
    for trial in 0..TRIALS {
        for _ in 0..LANES {
            let mut bytes = Vec::new();
            for (element, count) in elements.into_iter().zip(counts) {
                let values: Vec<u64> = (0..count)
                    .map(|_| element.pick(trial, &mut numbers))
                    .collect();
                bytes.extend(pack(&values, element));
            }
            bytes.resize(INPUT, 0);
            input.extend(bytes);
        }
    }
    let parts = [
        (product.a, words(m * k, product.a)),
        (product.b, words(k * n, product.b)),
        (product.c, words(m * n, product.c)),
        (product.d, words(m * n, product.d)),
    ];
    in_registers(table, name, since, parts, input, move |input, output| {
        for trial in 0..TRIALS {
            let columns = [k, n, n];
            let mut matrices = [vec![0; m * k], vec![0; k * n], vec![0; m * n]];
            for lane in 0..LANES {
                let mut bytes = &input[(trial * LANES + lane) * INPUT..][..INPUT];
                for operand in 0..3 {
                    for i in 0..counts[operand] {
                        let (row, column) = places(operand, lane, i);
                        matrices[operand][row * columns[operand] + column] =
                            unpack(bytes, elements[operand], i);
                    }
                    bytes = &bytes[parts[operand].1 * 4..];
                }
            }
            let wanted = product.result(&matrices[0], &matrices[1], &matrices[2]);
            for lane in 0..LANES {
                let bytes = &output[(trial * LANES + lane) * OUTPUT..][..OUTPUT];
                for i in 0..counts[2] {
                    let (row, column) = place_c(lane, i);
                    let got = unpack(bytes, product.d, i);
                    let wanted = wanted[row * n + column];
                    if !product.same(got, wanted) {
                        return Err(format!(
                            "warp {trial}, lane {lane}, element {i} of D (row {row}, column {column}): got {got:#x}, wanted {wanted:#x}"
                        ));
                    }
                }
            }
        }
        Ok(())
    });
}

fn multiply(table: &mut Table) {
    use Element::{B1, Bf16, E4m3, E5m2, F16, F32, F64, S4, S8, S32, Tf32, U4, U8};
    quarters(table);
    let name = |product: &Product, more: &[&str]| {
        let types = [product.d, product.a, product.b, product.c].map(Element::name);
        let shape = product.shape();
        let mut words = vec!["sync", "aligned", &shape, "row", "col"];
        words.extend(more);
        words.extend(types);
        named("mma", &words)
    };
    for (sizes, a, sums, since) in [
        ([16, 8, 8], F16, &[F16, F32][..], TURING),
        ([16, 8, 16], F16, &[F16, F32], AMPERE),
        ([16, 8, 8], Bf16, &[F32], AMPERE),
        ([16, 8, 16], Bf16, &[F32], AMPERE),
        ([16, 8, 4], Tf32, &[F32], AMPERE),
        ([16, 8, 8], Tf32, &[F32], AMPERE),
    ] {
        for &sum in sums {
            let product = Product::new(sizes, a, sum);
            product_form(table, &name(&product, &[]), since, product);
        }
    }
    for (sizes, since) in [
        ([8, 8, 4], AMPERE),
        ([16, 8, 4], HOPPER),
        ([16, 8, 8], HOPPER),
        ([16, 8, 16], HOPPER),
    ] {
        let plain = Product::new(sizes, F64, F64);
        product_form(table, &name(&plain, &[]), since, plain);
        for (suffix, round) in Round::ALL {
            let product = Product { round, ..plain };
            product_form(table, &name(&product, &[suffix]), since, product);
        }
    }
    for (sizes, pairs, since) in [
        ([8, 8, 16], [S8, U8], TURING),
        ([16, 8, 16], [S8, U8], AMPERE),
        ([16, 8, 32], [S8, U8], AMPERE),
        ([8, 8, 32], [S4, U4], TURING),
        ([16, 8, 32], [S4, U4], AMPERE),
        ([16, 8, 64], [S4, U4], AMPERE),
    ] {
        for a in pairs {
            for b in pairs {
                for saturates in [false, true] {
                    let product = Product {
                        b,
                        saturates,
                        ..Product::new(sizes, a, S32)
                    };
                    let more: &[&str] = if saturates { &["satfinite"] } else { &[] };
                    product_form(table, &name(&product, more), since, product);
                }
            }
        }
    }
    for (sizes, since) in [
        ([8, 8, 128], Since(70, 75)),
        ([16, 8, 128], AMPERE),
        ([16, 8, 256], AMPERE),
    ] {
        for (operation, and, since) in [
            ("xor", false, since),
            ("and", true, since.and(Since(71, 80))),
        ] {
            let product = Product {
                and,
                ..Product::new(sizes, B1, S32)
            };
            let name = format!("{}.{operation}.popc", name(&product, &[]));
            product_form(table, &name, since, product);
        }
    }
    for (sizes, whole) in [([16, 8, 16], false), ([16, 8, 32], true)] {
        for a in [E4m3, E5m2] {
            for b in [E4m3, E5m2] {
                for sum in [F32, F16] {
                    let product = Product {
                        b,
                        ..Product::new(sizes, a, sum)
                    };
                    let since = if whole && sum == F32 {
                        Since(84, 89)
                    } else {
                        Since(87, 89)
                    };
                    product_form(table, &name(&product, &[]), since, product);
                }
            }
        }
    }
}

/// `mma.m8n8k4` of halves: four products at once, each of eight lanes.
fn quarters(table: &mut Table) {
    use Element::{F16, F32};
    for a_columns in [false, true] {
        for b_columns in [false, true] {
            for (d, c) in [(F16, F16), (F32, F16), (F32, F32)] {
                let product = Product {
                    d,
                    ..Product::new([8, 8, 4], F16, c)
                };
                let layout = |columns| if columns { "col" } else { "row" };
                let name = named(
                    "mma",
                    &[
                        "sync",
                        "aligned",
                        "m8n8k4",
                        layout(a_columns),
                        layout(b_columns),
                        d.name(),
                        "f16",
                        "f16",
                        c.name(),
                    ],
                );
                let mut numbers = Numbers::named(&name);
                let mut input = Vec::new();
                for trial in 0..TRIALS {
                    for _ in 0..LANES {
                        let mut values = |element: Element, count: usize| {
                            let values: Vec<u64> = (0..count)
                                .map(|_| element.pick(trial, &mut numbers))
                                .collect();
                            pack(&values, element)
                        };
                        let mut bytes = [values(F16, 8), values(c, 8)].concat();
                        bytes.resize(INPUT, 0);
                        input.extend(bytes);
                    }
                }
                let half = |lane: usize, index: usize| {
                    if lane < 16 { index } else { index + 4 }
                };
                let place_sum = move |element: Element, lane: usize, i: usize| {
                    if element == F16 {
                        (half(lane, lane % 4), i)
                    } else {
                        let row = half(lane, (lane & 1) + (i & 2));
                        (row, (i & 4) + (lane & 2) + (i & 1))
                    }
                };
                let sum_words = |element| if element == F16 { 4 } else { 8 };
                let parts = [(F16, 2), (F16, 2), (c, sum_words(c)), (d, sum_words(d))];
                in_registers(table, &name, VOLTA, parts, input, move |input, output| {
                    for group in 0..TRIALS * 4 {
                        let (trial, quarter) = (group / 4, group % 4);
                        let lanes = (0..LANES).filter(|lane| lane % 16 / 4 == quarter);
                        let (mut a, mut b, mut sum) = ([0; 32], [0; 32], [0; 64]);
                        for lane in lanes.clone() {
                            let bytes = &input[(trial * LANES + lane) * INPUT..][..INPUT];
                            for i in 0..4 {
                                let (row, column) = if a_columns {
                                    (half(lane, i), lane % 4)
                                } else {
                                    (half(lane, lane % 4), i)
                                };
                                a[row * 4 + column] = unpack(bytes, F16, i);
                                let (row, column) = if b_columns {
                                    (i, half(lane, lane % 4))
                                } else {
                                    (lane % 4, half(lane, i))
                                };
                                b[row * 8 + column] = unpack(&bytes[8..], F16, i);
                            }
                            for i in 0..8 {
                                let (row, column) = place_sum(c, lane, i);
                                sum[row * 8 + column] = unpack(&bytes[16..], c, i);
                            }
                        }
                        let wanted = product.result(&a, &b, &sum);
                        for lane in lanes {
                            let bytes = &output[(trial * LANES + lane) * OUTPUT..][..OUTPUT];
                            for i in 0..8 {
                                let (row, column) = place_sum(d, lane, i);
                                let (got, wanted) = (unpack(bytes, d, i), wanted[row * 8 + column]);
                                if !product.same(got, wanted) {
                                    return Err(format!(
                                        "warp {trial}, lane {lane}, element {i} of D (row {row}, column {column}): got {got:#x}, wanted {wanted:#x}"
                                    ));
                                }
                            }
                        }
                    }
                    Ok(())
                });
            }
        }
    }
}

/// One use of all of `wmma`, from memory to memory.
#[derive(Debug, Clone, Copy)]
struct Whole {
    product: Product,
    /// Columns are contiguous: of A, B, C and D.
    columns: [bool; 4],
    space: &'static str,
    /// A leading dimension is given, which leaves gaps.
    strided: bool,
}

impl Whole {
    const fn new(product: Product) -> Self {
        Self {
            product,
            columns: [false, true, false, false],
            space: "global",
            strided: true,
        }
    }

    /// Rows and columns of an operand.
    const fn sizes(&self, operand: usize) -> (usize, usize) {
        let product = &self.product;
        match operand {
            0 => (product.m, product.k),
            1 => (product.k, product.n),
            _ => (product.m, product.n),
        }
    }

    const fn element(&self, operand: usize) -> Element {
        match operand {
            0 => self.product.a,
            1 => self.product.b,
            2 => self.product.c,
            _ => self.product.d,
        }
    }

    /// Elements from line to line.
    const fn stride(&self, operand: usize) -> usize {
        let (rows, columns) = self.sizes(operand);
        let line = if self.columns[operand] { rows } else { columns };
        if self.strided {
            // Another 32 bytes.
            line + 256 / self.element(operand).bits()
        } else {
            line
        }
    }

    /// The elements' numbers in memory, in the order of rows.
    fn places(&self, operand: usize) -> Vec<usize> {
        let (rows, columns) = self.sizes(operand);
        let stride = self.stride(operand);
        (0..rows * columns)
            .map(|index| {
                let (row, column) = (index / columns, index % columns);
                if self.columns[operand] {
                    column * stride + row
                } else {
                    row * stride + column
                }
            })
            .collect()
    }

    /// Bytes that an operand takes, in whole lines of a warp.
    fn bytes(&self, operand: usize) -> usize {
        let (rows, columns) = self.sizes(operand);
        let lines = if self.columns[operand] { columns } else { rows };
        (lines * self.stride(operand) * self.element(operand).bits())
            .div_ceil(8)
            .next_multiple_of(LANES * 16)
    }

    /// 32-bit words of a lane's part.
    fn words(&self, operand: usize) -> usize {
        let (rows, columns) = self.sizes(operand);
        // All halves of A and B are there twice or more.
        if operand < 2 && self.product.a == Element::F16 {
            8
        } else {
            words(rows * columns, self.element(operand))
        }
    }

    fn load(&self, operand: usize) -> String {
        named(
            if operand < 3 {
                "wmma.load"
            } else {
                "wmma.store"
            },
            &[
                ["a", "b", "c", "d"][operand],
                "sync",
                "aligned",
                if self.columns[operand] { "col" } else { "row" },
                &self.product.shape(),
                self.space,
                self.element(operand).name(),
            ],
        )
    }

    fn multiply(&self) -> String {
        let product = &self.product;
        let layout = |operand: usize| if self.columns[operand] { "col" } else { "row" };
        let round = Round::ALL
            .iter()
            .find(|(_, round)| *round == product.round && *round != Round::Nearest)
            .map_or("", |(name, _)| name);
        let operation = match product.a {
            Element::B1 if product.and => "and.popc",
            Element::B1 => "xor.popc",
            _ => "",
        };
        let mut words = vec![operation, "sync", "aligned", layout(0), layout(1)];
        let shape = product.shape();
        words.extend([shape.as_str(), round]);
        let types = [product.d, product.a, product.b, product.c].map(Element::name);
        if product.a == Element::F16 {
            words.extend([types[0], types[3]]);
        } else {
            words.extend(types);
        }
        if product.saturates {
            words.push("satfinite");
        }
        named("wmma.mma", &words)
    }

    fn add(self, table: &mut Table, name: &str, since: Since) {
        let mut numbers = Numbers::named(name);
        let starts = [0, self.bytes(0), self.bytes(0) + self.bytes(1)];
        let each = starts[2] + self.bytes(2);
        let result = self.bytes(3);
        let mut input = Vec::new();
        for trial in 0..TRIALS {
            for operand in 0..3 {
                let element = self.element(operand);
                let count = self.bytes(operand) * 8 / element.bits();
                let values: Vec<u64> = (0..count)
                    .map(|_| element.pick(trial, &mut numbers))
                    .collect();
                input.extend(pack(&values, element));
            }
        }
        let in_shared = self.space.starts_with("shared");
        let mut body = format!(
            "mov.u32 %r1, %ctaid.x; mad.wide.u32 %rd1, %r1, {each}, %in; mad.wide.u32 %rd2, %r1, {result}, %out;
             mov.u64 %rd5, %rd1; mov.u64 %rd6, %rd2; mov.u32 %r2, %laneid; mul.wide.u32 %rd7, %r2, 16;\n"
        );
        let mut declarations = String::new();
        if in_shared {
            declarations = format!(".shared .align 32 .b8 {{k}}s[{}];\n", each + result);
            body += &format!(
                "mov.u64 %rd5, {{k}}s; add.u64 %rd6, %rd5, {each}; add.u64 %rd8, %rd1, %rd7; add.u64 %rd9, %rd5, %rd7;\n"
            );
            for at in (0..each).step_by(LANES * 16) {
                body += &format!(
                    "ld.global.v2.b64 {{%rd3, %rd4}}, [%rd8+{at}]; st.shared.v2.b64 [%rd9+{at}], {{%rd3, %rd4}};\n"
                );
            }
            // What the store leaves alone is what was there.
            for at in (0..result).step_by(LANES * 16) {
                body += &format!(
                    "mov.b64 %rd3, 0; st.shared.v2.b64 [%rd9+{}], {{%rd3, %rd3}};\n",
                    each + at
                );
            }
            body += "bar.warp.sync -1;\n";
        }
        let mut operands = Vec::new();
        for operand in 0..4 {
            let letter = ['A', 'B', 'C', 'D'][operand];
            let (ty, names, _) = registers(letter, self.words(operand), self.element(operand));
            body += &format!(".reg .{ty} %{letter}<{}>;\n", names.len());
            operands.push(format!("{{{}}}", names.join(", ")));
        }
        let stride = |operand: usize| {
            if self.strided {
                format!(", {}", self.stride(operand))
            } else {
                String::new()
            }
        };
        for operand in 0..3 {
            body += &format!(
                "{} {}, [%rd5+{}]{};\n",
                self.load(operand),
                operands[operand],
                starts[operand],
                stride(operand)
            );
        }
        body += &format!(
            "{} {}, {}, {}, {};\n{} [%rd6], {}{};\n",
            self.multiply(),
            operands[3],
            operands[0],
            operands[1],
            operands[2],
            self.load(3),
            operands[3],
            stride(3)
        );
        if in_shared {
            body += "bar.warp.sync -1; add.u64 %rd8, %rd2, %rd7;\n";
            for at in (0..result).step_by(LANES * 16) {
                body += &format!(
                    "ld.shared.v2.b64 {{%rd3, %rd4}}, [%rd9+{}]; st.global.v2.b64 [%rd8+{at}], {{%rd3, %rd4}};\n",
                    each + at
                );
            }
        }
        let places: Vec<Vec<usize>> = (0..4).map(|operand| self.places(operand)).collect();
        table.kernel(
            name,
            since,
            Kernel {
                declarations,
                body,
                threads: LANES as u32,
                blocks: TRIALS as u32,
                input,
                output: TRIALS * result,
                faults: false,
                objects: Vec::new(),
                judge: Box::new(move |input, output| {
                    for trial in 0..TRIALS {
                        let input = &input[trial * each..][..each];
                        let matrix = |operand: usize| -> Vec<u64> {
                            let places = places[operand].iter();
                            let element = self.element(operand);
                            places
                                .map(|&at| unpack(&input[starts[operand]..], element, at))
                                .collect()
                        };
                        let d = self.product.result(&matrix(0), &matrix(1), &matrix(2));
                        let output = &output[trial * result..][..result];
                        for (index, (&at, wanted)) in places[3].iter().zip(d).enumerate() {
                            let got = unpack(output, self.product.d, at);
                            if !self.product.same(got, wanted) {
                                return Err(format!(
                                    "warp {trial}, element {index} of D: got {got:#x}, wanted {wanted:#x}"
                                ));
                            }
                        }
                        let bits = self.product.d.bits();
                        let gap = (0..result * 8 / bits).find(|at| {
                            !places[3].contains(at) && unpack(output, self.product.d, *at) != 0
                        });
                        if let Some(at) = gap {
                            return Err(format!("element {at} in memory, between D's, was written"));
                        }
                    }
                    Ok(())
                }),
            },
        );
    }
}

fn warp_level(table: &mut Table) {
    use Element::{B1, Bf16, F16, F32, F64, S4, S8, S32, Tf32, U4, U8};
    const SHAPES: [[usize; 3]; 3] = [[16, 16, 16], [32, 8, 16], [8, 32, 16]];
    /// Halves came with 6.0 in one shape, and with 6.1 in the others.
    const fn halves(sizes: [usize; 3]) -> Since {
        if sizes[0] == 16 {
            Since(60, 70)
        } else {
            Since(61, 70)
        }
    }
    let mut kinds: Vec<(Product, Since)> = Vec::new();
    for sizes in SHAPES {
        for (d, c) in [(F16, F16), (F16, F32), (F32, F16), (F32, F32)] {
            let product = Product {
                d,
                ..Product::new(sizes, F16, c)
            };
            kinds.push((product, halves(sizes)));
        }
        kinds.push((Product::new(sizes, Bf16, F32), AMPERE));
        for a in [S8, U8] {
            for saturates in [false, true] {
                let product = Product {
                    saturates,
                    ..Product::new(sizes, a, S32)
                };
                kinds.push((product, Since(63, 72)));
            }
        }
    }
    kinds.push((Product::new([16, 16, 8], Tf32, F32), AMPERE));
    for (_, round) in Round::ALL {
        let product = Product {
            round,
            ..Product::new([8, 8, 4], F64, F64)
        };
        kinds.push((product, AMPERE));
    }
    for a in [S4, U4] {
        for saturates in [false, true] {
            let product = Product {
                saturates,
                ..Product::new([8, 8, 32], a, S32)
            };
            kinds.push((product, Since(63, 75)));
        }
    }
    for (and, since) in [(false, Since(63, 75)), (true, Since(71, 80))] {
        let product = Product {
            and,
            ..Product::new([8, 8, 128], B1, S32)
        };
        kinds.push((product, since));
    }
    for &(product, since) in &kinds {
        // Small elements have one layout.
        let layouts: &[(bool, bool)] = if product.a.bits() < 8 {
            &[(false, true)]
        } else {
            &[(false, false), (false, true), (true, false), (true, true)]
        };
        for &(a, b) in layouts {
            let whole = Whole {
                columns: [a, b, false, false],
                ..Whole::new(product)
            };
            whole.add(table, &whole.multiply(), since);
        }
    }
    // The loads and stores, each with one product around it.
    let mut seen = std::collections::HashSet::new();
    for &(product, since) in &kinds {
        for operand in 0..4 {
            for columns in [false, true] {
                for space in ["", "global", "shared", "shared::cta"] {
                    for strided in [true, false] {
                        let mut whole = Whole {
                            space,
                            strided,
                            ..Whole::new(product)
                        };
                        if operand < 2 && product.a.bits() < 8 && whole.columns[operand] != columns
                        {
                            continue;
                        }
                        whole.columns[operand] = columns;
                        let name = whole.load(operand);
                        let name = if strided {
                            name
                        } else {
                            format!("{name} (packed)")
                        };
                        let since = if space == "shared::cta" {
                            since.and(Since(78, 70))
                        } else {
                            since
                        };
                        if seen.insert(name.clone()) {
                            whole.add(table, &name, since);
                        }
                    }
                }
            }
        }
    }
}

/// `ldmatrix`, `stmatrix` and `movmatrix`: matrices of 8 by 8 halves, of whose row `r` lane `4 r + i`
/// has elements `2 i` and `2 i + 1`.
fn moves(table: &mut Table) {
    for stores in [false, true] {
        let (opcode, from) = if stores {
            ("stmatrix", Since(78, 90))
        } else {
            ("ldmatrix", TURING)
        };
        for (count, matrices) in [("x1", 1_usize), ("x2", 2), ("x4", 4)] {
            for transposed in ["", "trans"] {
                for (space, placed) in [
                    ("", from),
                    ("shared", from),
                    ("shared::cta", from.and(Since(78, 75))),
                ] {
                    let name = named(
                        opcode,
                        &["sync", "aligned", "m8n8", count, transposed, space, "b16"],
                    );
                    move_form(
                        table,
                        &name,
                        placed,
                        stores,
                        matrices,
                        !transposed.is_empty(),
                        space,
                    );
                }
            }
        }
    }
    let mut numbers = Numbers::named("movmatrix");
    table.kernel(
        "movmatrix.sync.aligned.m8n8.trans.b16",
        Since(78, 75),
        Kernel {
            declarations: String::new(),
            body: "mad.wide.u32 %rd1, %t, 4, %in; mad.wide.u32 %rd2, %t, 4, %out; ld.global.b32 %r1, [%rd1];
                   movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1; st.global.b32 [%rd2], %r2;"
                .into(),
            threads: LANES as u32,
            blocks: TRIALS as u32,
            input: (0..TRIALS * LANES * 4).map(|_| numbers.bits() as u8).collect(),
            output: TRIALS * LANES * 4,
            faults: false,
            objects: Vec::new(),
            judge: Box::new(|input, output| {
                for (warp, (input, output)) in input.chunks(128).zip(output.chunks(128)).enumerate() {
                    // A warp's words are the matrix, row after row.
                    for row in 0..8 {
                        for column in 0..8 {
                            let got = unpack(output, Element::F16, row * 8 + column);
                            let wanted = unpack(input, Element::F16, column * 8 + row);
                            if got != wanted {
                                return Err(format!(
                                    "warp {warp}, row {row}, column {column}: got {got:#x}, wanted {wanted:#x}"
                                ));
                            }
                        }
                    }
                }
                Ok(())
            }),
        },
    );
}

/// `ldmatrix` from, or `stmatrix` to, rows in an order of their own.
fn move_form(
    table: &mut Table,
    name: &str,
    since: Since,
    stores: bool,
    matrices: usize,
    transposed: bool,
    space: &str,
) {
    /// Bytes of shared memory: 32 rows of 16 bytes.
    const MEMORY: usize = 512;
    let mut numbers = Numbers::named(name);
    // Row `r` of matrix `m`, which lane `8 m + r` names, is at this place.
    let mut order: Vec<usize> = (0..32).collect();
    for index in 0..32 {
        order.swap(index, numbers.below(32));
    }
    // What is in shared memory, the lanes' words, the lanes' addresses.
    let mut input: Vec<u8> = (0..2 * MEMORY).map(|_| numbers.bits() as u8).collect();
    for place in &order {
        input.extend_from_slice(&(*place as u32 * 16).to_le_bytes());
    }
    let vector: Vec<String> = (1..=matrices).map(|index| format!("%r{index}")).collect();
    let vector = format!("{{{}}}", vector.join(", "));
    let generic = if space.is_empty() {
        "cvta.shared.u64 %rd6, %rd6;"
    } else {
        ""
    };
    let action = if stores {
        format!("{name} [%rd6], {vector};")
    } else {
        format!("{name} {vector}, [%rd6];")
    };
    // Shared memory before and after, and the lanes' words.
    let body = format!(
        "mov.u64 %rd5, {{k}}s; mad.wide.u32 %rd7, %t, 16, %in; mad.wide.u32 %rd8, %t, 16, %rd5; mad.wide.u32 %rd9, %t, 16, %out;
         ld.global.v2.b64 {{%rd1, %rd2}}, [%rd7]; st.shared.v2.b64 [%rd8], {{%rd1, %rd2}};
         ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%rd7+{MEMORY}];
         mad.wide.u32 %rd10, %t, 4, %in; ld.global.u32 %r5, [%rd10+{}]; cvt.u64.u32 %rd6, %r5; add.u64 %rd6, %rd6, %rd5; {generic}
         bar.warp.sync -1;\n{action}\nbar.warp.sync -1;
         st.global.v4.b32 [%rd9], {{%r1, %r2, %r3, %r4}};
         ld.shared.v2.b64 {{%rd1, %rd2}}, [%rd8]; st.global.v2.b64 [%rd9+{MEMORY}], {{%rd1, %rd2}};",
        2 * MEMORY
    );
    table.kernel(
        name,
        since,
        Kernel {
            declarations: format!(".shared .align 16 .b8 {{k}}s[{MEMORY}];\n"),
            body,
            threads: LANES as u32,
            blocks: 1,
            input,
            output: 2 * MEMORY,
            faults: false,
            objects: Vec::new(),
            judge: Box::new(move |input, output| {
                let (mut memory, mut words) =
                    (input[..MEMORY].to_vec(), input[MEMORY..2 * MEMORY].to_vec());
                for matrix in 0..matrices {
                    for row in 0..8 {
                        for column in 0..8 {
                            let (r, c) = if transposed {
                                (column, row)
                            } else {
                                (row, column)
                            };
                            // Element (r, c) of the fragment is element (row, column) in memory.
                            let lane = 4 * r + c / 2;
                            let word = lane * 16 + matrix * 4 + c % 2 * 2;
                            let place = order[matrix * 8 + row] * 16 + column * 2;
                            if stores {
                                memory[place..place + 2].copy_from_slice(&words[word..word + 2]);
                            } else {
                                words[word..word + 2].copy_from_slice(&memory[place..place + 2]);
                            }
                        }
                    }
                }
                let wanted = [words, memory].concat();
                match output
                    .iter()
                    .zip(&wanted)
                    .position(|(got, wanted)| got != wanted)
                {
                    None => Ok(()),
                    Some(at) => Err(format!(
                        "byte {at} of the lanes' words and shared memory: got {:#x}, wanted {:#x}",
                        output[at], wanted[at]
                    )),
                }
            }),
        },
    );
}

/// Shapes of sparse matrices, and of later tensor cores.
fn lacking(table: &mut Table) {
    const SPARSE: &str = "no compiler emits sparse products for plain CUDA C++";
    const LATER: &str = "targets after sm_90 alone have it";
    for (name, operands, since, why) in [
        (
            "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
            "{%f0,%f1,%f2,%f3}, {%r1,%r2}, {%r3,%r4}, {%f4,%f5,%f6,%f7}, %r5, 0",
            Since(71, 80),
            SPARSE,
        ),
        (
            "mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32",
            "{%f0,%f1,%f2,%f3}, {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, {%f4,%f5,%f6,%f7}, %r9, 0",
            Since(71, 80),
            SPARSE,
        ),
        (
            "mma.sp.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32",
            "{%f0,%f1,%f2,%f3}, {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, {%f4,%f5,%f6,%f7}, %r9, 0",
            Since(71, 80),
            SPARSE,
        ),
        (
            "mma.sp.sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32",
            "{%f0,%f1,%f2,%f3}, {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, {%f4,%f5,%f6,%f7}, %r9, 0",
            Since(71, 80),
            SPARSE,
        ),
        (
            "mma.sp.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32",
            "{%r0,%r1,%r2,%r3}, {%r4,%r5,%r6,%r7}, {%r8,%r9,%r10,%r11}, {%r12,%r13,%r14,%r15}, %r16, 0",
            Since(71, 80),
            SPARSE,
        ),
        (
            "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32",
            "{%f0,%f1,%f2,%f3}, {%r1,%r2,%r3,%r4}, {%r5,%r6,%r7,%r8}, {%f4,%f5,%f6,%f7}, %r9, 0",
            Since(85, 80),
            SPARSE,
        ),
        (
            "mma.sync.aligned.kind::f8f6f4.m16n8k32.row.col.f32.e2m1.e2m1.f32",
            "{%f0,%f1,%f2,%f3}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f4,%f5,%f6,%f7}",
            Since(87, 90),
            LATER,
        ),
        (
            "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8",
            "{%r1, %r2}, [%rd1]",
            Since(86, 90),
            LATER,
        ),
        (
            "stmatrix.sync.aligned.m16n8.x1.trans.shared.b8",
            "[%rd1], {%r1}",
            Since(86, 90),
            LATER,
        ),
        ("tcgen05.wait::ld.sync.aligned", "", Since(86, 90), LATER),
        (
            "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32",
            "[%rd1], 32",
            Since(86, 90),
            LATER,
        ),
        (
            "tcgen05.mma.cta_group::1.kind::f16",
            "[%r1], %rd1, %rd2, %r2, %p1",
            Since(86, 90),
            LATER,
        ),
    ] {
        table.kernel(
            name,
            since,
            Kernel {
                declarations: String::new(),
                body: format!("{name} {operands};"),
                threads: LANES as u32,
                blocks: 1,
                input: vec![0; 16],
                output: 16,
                faults: false,
                objects: Vec::new(),
                judge: Box::new(|_, _| Ok(())),
            },
        );
        table.lacks_last(why);
    }
}
