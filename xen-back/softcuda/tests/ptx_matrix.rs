//! Matrix instructions against plain Rust: each shape's fragments as the ISA draws them, and sums of small
//! whole numbers, which every order of adding gives exactly.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod ptx_common;

use ptx_common::{Args, Device, Numbers, compile};

/// A kind of element: its bits, and the bits of a small whole number.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    bits: u32,
    encode: fn(i64) -> u64,
    low: i64,
    high: i64,
}

fn float(value: i64, exponent_bits: u32, digits: u32) -> u64 {
    if value == 0 {
        return 0;
    }
    let sign = u64::from(value < 0) << (exponent_bits + digits);
    let magnitude = value.unsigned_abs();
    let power = magnitude.ilog2();
    let fraction = (magnitude << (63 - power) << 1) >> (64 - digits);
    let bias = (1_u64 << (exponent_bits - 1)) - 1;
    sign | (u64::from(power) + bias) << digits | fraction
}

const F16: Kind = Kind {
    name: "f16",
    bits: 16,
    encode: |v| float(v, 5, 10),
    low: -8,
    high: 8,
};
const BF16: Kind = Kind {
    name: "bf16",
    bits: 16,
    encode: |v| float(v, 8, 7),
    low: -8,
    high: 8,
};
const TF32: Kind = Kind {
    name: "tf32",
    bits: 32,
    encode: |v| float(v, 8, 23),
    low: -8,
    high: 8,
};
const F32: Kind = Kind {
    name: "f32",
    bits: 32,
    encode: |v| float(v, 8, 23),
    low: -99,
    high: 99,
};
const F64: Kind = Kind {
    name: "f64",
    bits: 64,
    encode: |v| float(v, 11, 52),
    low: -99,
    high: 99,
};
const E4M3: Kind = Kind {
    name: "e4m3",
    bits: 8,
    encode: |v| float(v, 4, 3),
    low: -8,
    high: 8,
};
const E5M2: Kind = Kind {
    name: "e5m2",
    bits: 8,
    encode: |v| float(v, 5, 2),
    low: -4,
    high: 4,
};
const S8: Kind = Kind {
    name: "s8",
    bits: 8,
    encode: |v| v as u64 & 0xff,
    low: -128,
    high: 127,
};
const U8: Kind = Kind {
    name: "u8",
    bits: 8,
    encode: |v| v as u64,
    low: 0,
    high: 255,
};
const S4: Kind = Kind {
    name: "s4",
    bits: 4,
    encode: |v| v as u64 & 15,
    low: -8,
    high: 7,
};
const U4: Kind = Kind {
    name: "u4",
    bits: 4,
    encode: |v| v as u64,
    low: 0,
    high: 15,
};
const B1: Kind = Kind {
    name: "b1",
    bits: 1,
    encode: |v| v as u64,
    low: 0,
    high: 1,
};
const S32: Kind = Kind {
    name: "s32",
    bits: 32,
    encode: |v| v as u64 & 0xffff_ffff,
    low: -999,
    high: 999,
};

/// A matrix of whole numbers, in the order of rows.
#[derive(Clone)]
struct Matrix {
    columns: usize,
    values: Vec<i64>,
}

impl Matrix {
    fn random(numbers: &mut Numbers, rows: usize, columns: usize, kind: Kind) -> Self {
        let span = (kind.high - kind.low + 1) as u64;
        let value = |numbers: &mut Numbers| (numbers.next() % span) as i64 + kind.low;
        Self {
            columns,
            values: (0..rows * columns).map(|_| value(numbers)).collect(),
        }
    }

    fn at(&self, row: usize, column: usize) -> i64 {
        self.values[row * self.columns + column]
    }
}

fn product(a: &Matrix, b: &Matrix, c: &Matrix, join: impl Fn(i64, i64) -> i64) -> Matrix {
    let mut d = c.clone();
    for (index, sum) in d.values.iter_mut().enumerate() {
        let (row, column) = (index / c.columns, index % c.columns);
        *sum += (0..a.columns)
            .map(|k| join(a.at(row, k), b.at(k, column)))
            .sum::<i64>();
    }
    d
}

/// The words of each lane: `place(lane, index)` is where its elements stand.
fn spread(
    matrix: &Matrix,
    kind: Kind,
    count: usize,
    place: impl Fn(usize, usize) -> (usize, usize),
) -> Vec<Vec<u32>> {
    let words = (count * kind.bits as usize).div_ceil(32);
    (0..32)
        .map(|lane| {
            let mut out = vec![0_u32; words];
            for index in 0..count {
                let (row, column) = place(lane, index);
                let value = (kind.encode)(matrix.at(row, column));
                let bit = index * kind.bits as usize;
                out[bit / 32] |= (value << (bit % 32)) as u32;
                if kind.bits == 64 {
                    out[bit / 32 + 1] = (value >> 32) as u32;
                }
            }
            out
        })
        .collect()
}

/// Runs `instruction D, A, B, C` on the lanes' words; D's words.
fn run(
    instruction: &str,
    operands: &[(Vec<Vec<u32>>, bool)],
    results: (usize, bool),
) -> Vec<Vec<u32>> {
    let mut load = String::new();
    let mut lists = Vec::new();
    let mut input = Vec::new();
    let (mut at, mut wide, mut narrow) = (0, 0, 0);
    let all: usize = operands.iter().map(|(words, _)| words[0].len()).sum();
    for (words, is_wide) in operands {
        let mut names = Vec::new();
        let step = if *is_wide { 2 } else { 1 };
        for _ in (0..words[0].len()).step_by(step) {
            let (name, ty) = if *is_wide {
                wide += 1;
                (format!("%g{wide}"), "f64")
            } else {
                narrow += 1;
                (format!("%r{narrow}"), "u32")
            };
            load += &format!("ld.global.{ty} {name}, [%in+{}];\n", at * 4);
            names.push(name);
            at += step;
        }
        lists.push(format!("{{{}}}", names.join(", ")));
    }
    for lane in 0..32 {
        for (words, _) in operands {
            input.extend_from_slice(&words[lane]);
        }
        input.resize((lane + 1) * (all + all % 2), 0);
    }
    let (count, is_wide) = results;
    let mut names = Vec::new();
    let mut store = String::new();
    for index in 0..count / if is_wide { 2 } else { 1 } {
        let (name, ty) = if is_wide {
            (format!("%e{index}"), "f64")
        } else {
            (format!("%s{index}"), "u32")
        };
        let size = if is_wide { 8 } else { 4 };
        store += &format!("st.global.{ty} [%out+{}], {name};\n", index * size);
        names.push(name);
    }
    let text = format!(
        ".visible .entry k(.param .u64 in, .param .u64 out) {{
         .reg .b32 %r<64>, %s<16>; .reg .f64 %g<32>, %e<16>; .reg .b64 %in, %out; .reg .b32 %t;
         mov.u32 %t, %tid.x; ld.param.u64 %in, [in]; ld.param.u64 %out, [out];
         mad.wide.u32 %in, %t, {}, %in; mad.wide.u32 %out, %t, {}, %out;
         {load} {instruction} {{{}}}, {}; {store} ret; }}",
        (all + all % 2) * 4,
        count * 4,
        names.join(", "),
        lists.join(", ")
    );
    let program = compile(&text);
    let mut device = Device::new(1 << 20);
    let from = device.upload(&input);
    let to = device.zeros::<u32>(count * 32);
    device
        .launch(&program, "k", 1, 32, &Args::new().add(from).add(to))
        .unwrap_or_else(|fault| panic!("{instruction}: {fault}"));
    device
        .download::<u32>(to, count * 32)
        .chunks(count)
        .map(<[u32]>::to_vec)
        .collect()
}

/// As the ISA draws fragments of `mma`: a group of four lanes shares a row of A and a column of B.
fn check_mma(shape: [usize; 3], kinds: [Kind; 4], suffix: &str) {
    let [m, n, k] = shape;
    let [d, a, b, c] = kinds;
    let mut numbers = Numbers((m * 1000 + n * 100 + k) as u64);
    let left = Matrix::random(&mut numbers, m, k, a);
    let right = Matrix::random(&mut numbers, k, n, b);
    let start = Matrix::random(&mut numbers, m, n, if c.bits == 16 { F16 } else { c });
    let per = |kind: Kind| (32 / kind.bits.min(32)) as usize;
    let a_place = |lane: usize, index: usize| {
        let (word, inside) = (index / per(a), index % per(a));
        let (down, right) = if m == 16 {
            (word % 2, word / 2)
        } else {
            (0, word)
        };
        (
            lane / 4 + 8 * down,
            (lane % 4 + 4 * right) * per(a) + inside,
        )
    };
    let b_place = |lane: usize, index: usize| {
        let (word, inside) = (index / per(b), index % per(b));
        ((lane % 4 + 4 * word) * per(b) + inside, lane / 4)
    };
    let c_place = |lane: usize, index: usize| (lane / 4 + index / 2 * 8, lane % 4 * 2 + index % 2);
    let sums = m * n / 32;
    let operands = [
        (spread(&left, a, m * k / 32, a_place), a.bits == 64),
        (spread(&right, b, k * n / 32, b_place), b.bits == 64),
        (spread(&start, c, sums, c_place), c.bits == 64),
    ];
    let layout = ".row.col";
    let instruction = format!(
        "mma.sync.aligned.m{m}n{n}k{k}{layout}.{}.{}.{}.{}{suffix}",
        d.name, a.name, b.name, c.name
    );
    let join: fn(i64, i64) -> i64 = match suffix {
        ".xor.popc" => |a, b| a ^ b,
        ".and.popc" => |a, b| a & b,
        _ => |a, b| a * b,
    };
    let wanted = product(&left, &right, &start, join);
    let wanted = spread(&wanted, d, sums, c_place);
    let words = sums * d.bits as usize / 32;
    assert_eq!(
        run(&instruction, &operands, (words, d.bits == 64)),
        wanted,
        "{instruction}"
    );
}

#[test]
fn products_of_floats() {
    check_mma([16, 8, 16], [F32, F16, F16, F32], "");
    check_mma([16, 8, 16], [F16, F16, F16, F16], "");
    check_mma([16, 8, 8], [F32, F16, F16, F32], "");
    check_mma([16, 8, 8], [F16, F16, F16, F16], "");
    check_mma([16, 8, 16], [F32, BF16, BF16, F32], "");
    check_mma([16, 8, 8], [F32, BF16, BF16, F32], "");
    check_mma([16, 8, 4], [F32, TF32, TF32, F32], "");
    check_mma([16, 8, 8], [F32, TF32, TF32, F32], "");
    check_mma([16, 8, 32], [F32, E4M3, E5M2, F32], "");
    check_mma([16, 8, 32], [F32, E5M2, E4M3, F32], "");
    for k in [4, 8, 16] {
        check_mma([16, 8, k], [F64, F64, F64, F64], "");
    }
    check_mma([8, 8, 4], [F64, F64, F64, F64], "");
}

#[test]
fn products_of_integers() {
    for (a, b) in [(S8, S8), (U8, S8), (S8, U8), (U8, U8)] {
        check_mma([8, 8, 16], [S32, a, b, S32], "");
        check_mma([16, 8, 16], [S32, a, b, S32], "");
        check_mma([16, 8, 32], [S32, a, b, S32], "");
    }
    for (a, b) in [(S4, S4), (U4, S4), (S4, U4)] {
        check_mma([8, 8, 32], [S32, a, b, S32], "");
        check_mma([16, 8, 32], [S32, a, b, S32], "");
        check_mma([16, 8, 64], [S32, a, b, S32], "");
    }
    for k in [128, 256] {
        check_mma([16, 8, k], [S32, B1, B1, S32], ".xor.popc");
        check_mma([16, 8, k], [S32, B1, B1, S32], ".and.popc");
    }
    check_mma([8, 8, 128], [S32, B1, B1, S32], ".xor.popc");
}

#[test]
fn sums_of_integers_wrap_or_saturate() {
    let full = (0..32).map(|_| vec![0x7f7f_7f7f]).collect::<Vec<_>>();
    let sum = (0..32)
        .map(|_| vec![i32::MAX as u32; 2])
        .collect::<Vec<_>>();
    for (suffix, wanted) in [
        ("", i32::MAX.wrapping_add(16 * 127 * 127)),
        (".satfinite", i32::MAX),
    ] {
        let instruction = format!("mma.sync.aligned.m8n8k16.row.col{suffix}.s32.s8.s8.s32");
        let operands = [
            (full.clone(), false),
            (full.clone(), false),
            (sum.clone(), false),
        ];
        let got = run(&instruction, &operands, (2, false));
        assert!(got.iter().flatten().all(|&word| word == wanted as u32));
    }
}

#[test]
fn four_products_at_once() {
    // m8n8k4 of halves: each quarter of the warp has a product of its own.
    for (a_columns, b_columns) in [(false, true), (true, false), (false, false), (true, true)] {
        for sum in [F16, F32] {
            let mut numbers = Numbers(7);
            let parts: Vec<[Matrix; 3]> = (0..4)
                .map(|_| {
                    [
                        Matrix::random(&mut numbers, 8, 4, F16),
                        Matrix::random(&mut numbers, 4, 8, F16),
                        Matrix::random(&mut numbers, 8, 8, F16),
                    ]
                })
                .collect();
            // All of them side by side, so that `place` can say which.
            let join = |operand: usize| Matrix {
                columns: parts[0][operand].columns,
                values: parts
                    .iter()
                    .flat_map(|part| part[operand].values.clone())
                    .collect(),
            };
            let quad = |lane: usize| lane % 16 / 4;
            let upper = |lane: usize| lane / 16 * 4;
            let a_place = |lane: usize, i: usize| {
                let (row, column) = if a_columns {
                    (i + upper(lane), lane % 4)
                } else {
                    (lane % 4 + upper(lane), i)
                };
                (quad(lane) * 8 + row, column)
            };
            let b_place = |lane: usize, i: usize| {
                let (row, column) = if b_columns {
                    (i, lane % 4 + upper(lane))
                } else {
                    (lane % 4, i + upper(lane))
                };
                (quad(lane) * 4 + row, column)
            };
            let c_place = |lane: usize, i: usize| {
                let (row, column) = if sum.bits == 16 {
                    (lane % 4 + upper(lane), i)
                } else {
                    (
                        (lane & 1) + (i & 2) + upper(lane),
                        (i & 4) + (lane & 2) + (i & 1),
                    )
                };
                (quad(lane) * 8 + row, column)
            };
            let operands = [
                (spread(&join(0), F16, 4, a_place), false),
                (spread(&join(1), F16, 4, b_place), false),
                (spread(&join(2), sum, 8, c_place), false),
            ];
            let wanted = Matrix {
                columns: 8,
                values: parts
                    .iter()
                    .flat_map(|[a, b, c]| product(a, b, c, |a, b| a * b).values)
                    .collect(),
            };
            let wanted = spread(&wanted, sum, 8, c_place);
            let word = |columns: bool| if columns { "col" } else { "row" };
            let instruction = format!(
                "mma.sync.aligned.m8n8k4.{}.{}.{sum}.f16.f16.{sum}",
                word(a_columns),
                word(b_columns),
                sum = sum.name
            );
            let words = sum.bits as usize / 4;
            assert_eq!(
                run(&instruction, &operands, (words, false)),
                wanted,
                "{instruction}"
            );
        }
    }
}

#[test]
fn rounding_is_of_each_sum() {
    // 2^24 + 1 + 1 is 2^24 when each sum is rounded to single precision.
    let one = (0..32)
        .map(|lane| vec![if lane % 4 == 0 { 0x3c00_3c00 } else { 0 }])
        .collect::<Vec<_>>();
    let a = (0..32)
        .map(|lane| vec![one[lane][0]; 2])
        .collect::<Vec<_>>();
    let c = (0..32)
        .map(|_| vec![16_777_216_f32.to_bits(); 4])
        .collect::<Vec<_>>();
    let operands = [(a, false), (one, false), (c.clone(), false)];
    let got = run(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32",
        &operands,
        (4, false),
    );
    assert_eq!(got, c);
}

/// A matrix in memory with lines `stride` elements apart.
fn image(matrix: &Matrix, kind: Kind, by_columns: bool, stride: usize) -> Vec<u8> {
    let rows = matrix.values.len() / matrix.columns;
    let lines = if by_columns { matrix.columns } else { rows };
    let mut bits = vec![0_u8; lines * stride * kind.bits as usize / 8 + 8];
    for row in 0..rows {
        for column in 0..matrix.columns {
            let (line, along) = if by_columns {
                (column, row)
            } else {
                (row, column)
            };
            let at = (line * stride + along) * kind.bits as usize;
            let value = (kind.encode)(matrix.at(row, column));
            for byte in 0..(kind.bits as usize).div_ceil(8) {
                bits[at / 8 + byte] |= ((value << (at % 8)) >> (8 * byte)) as u8;
            }
        }
    }
    bits
}

fn check_wmma(shape: [usize; 3], kinds: [Kind; 4], layouts: [bool; 3], shared: bool) {
    let [m, n, k] = shape;
    let [d, a, b, c] = kinds;
    let [a_columns, b_columns, c_columns] = layouts;
    let mut numbers = Numbers((m + 3 * n + 7 * k) as u64);
    let left = Matrix::random(&mut numbers, m, k, a);
    let right = Matrix::random(&mut numbers, k, n, b);
    let start = Matrix::random(&mut numbers, m, n, if c.bits == 16 { F16 } else { c });
    let words =
        |rows: usize, columns: usize, kind: Kind| rows * columns * kind.bits as usize / 1024;
    let count = |kind: Kind, words: usize| if kind.bits == 64 { words / 2 } else { words };
    let operand_words = |rows, columns, kind: Kind| {
        if kind.name == "f16" {
            8
        } else {
            words(rows, columns, kind)
        }
    };
    let sum_words = |kind: Kind| m * n * kind.bits as usize / 1024;
    let list = |prefix: &str, kind: Kind, words: usize| {
        let names: Vec<String> = (0..count(kind, words))
            .map(|index| {
                format!(
                    "%{}{prefix}{index}",
                    if kind.bits == 64 { "g" } else { "r" }
                )
            })
            .collect();
        format!("{{{}}}", names.join(", "))
    };
    let layout = |columns: bool| if columns { "col" } else { "row" };
    let stride = |rows: usize, columns: usize, by_columns: bool, pad: usize| {
        (if by_columns { rows } else { columns }) + pad
    };
    let pad = |kind: Kind| 128 / kind.bits as usize;
    let strides = [
        stride(m, k, a_columns, pad(a)),
        stride(k, n, b_columns, pad(b)),
        stride(m, n, c_columns, pad(c)),
        stride(m, n, c_columns, 0),
    ];
    let shape_name = format!("m{m}n{n}k{k}");
    let four = a.name != "f16";
    let types = if four {
        format!("{}.{}.{}.{}", d.name, a.name, b.name, c.name)
    } else {
        format!("{}.{}", d.name, c.name)
    };
    let operation = if a.bits == 1 { ".xor.popc" } else { "" };
    let (space, store_space) = if shared {
        (".shared", ".shared")
    } else {
        (".global", "")
    };
    let bytes = m * n * d.bits as usize / 8;
    let text = format!(
        ".visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) {{
         .reg .b32 %rA<8>, %rB<8>, %rC<8>, %rD<8>; .reg .f64 %gA<4>, %gB<4>, %gC<4>, %gD<4>;
         .reg .b64 %a, %b, %c, %d, %x; .reg .b32 %s, %t, %v; .reg .pred %p;
         .shared .align 128 .b8 tile[4096];
         ld.param.u64 %a, [a]; ld.param.u64 %b, [b]; ld.param.u64 %c, [c]; ld.param.u64 %d, [d];
         mov.u32 %s, {};
         wmma.load.a.sync.aligned.{}.{shape_name}.global.{} {}, [%a], %s;
         wmma.load.b.sync.aligned.{}.{shape_name}.{} {}, [%b], {};
         wmma.load.c.sync.aligned.{}.{shape_name}.global.{} {}, [%c], {};
         wmma.mma{operation}.sync.aligned.{}.{}.{shape_name}.{types} {}, {}, {}, {};
         {}
         ret; }}",
        strides[0],
        layout(a_columns),
        a.name,
        list("A", a, operand_words(m, k, a)),
        layout(b_columns),
        b.name,
        list("B", b, operand_words(k, n, b)),
        strides[1],
        layout(c_columns),
        c.name,
        list("C", c, sum_words(c)),
        strides[2],
        layout(a_columns),
        layout(b_columns),
        list("D", d, sum_words(d)),
        list("A", a, operand_words(m, k, a)),
        list("B", b, operand_words(k, n, b)),
        list("C", c, sum_words(c)),
        if shared {
            format!(
                "mov.u32 %v, tile; wmma.store.d.sync.aligned.{}.{shape_name}{store_space}.{} [%v], {}, {};
                 bar.sync 0; mov.u32 %t, %tid.x; shl.b32 %t, %t, 2;
                 more: setp.ge.u32 %p, %t, {bytes}; @%p bra end; add.u32 %v, %t, 0; cvt.u64.u32 %x, %t; add.u64 %x, %d, %x;
                 mov.u32 %s, tile; add.u32 %v, %v, %s; ld{space}.u32 %s, [%v]; st.global.u32 [%x], %s;
                 add.u32 %t, %t, 128; bra more; end:",
                layout(c_columns), d.name, list("D", d, sum_words(d)), strides[3]
            )
        } else {
            format!(
                "wmma.store.d.sync.aligned.{}.{shape_name}{store_space}.{} [%d], {};",
                layout(c_columns),
                d.name,
                list("D", d, sum_words(d))
            )
        }
    );
    let program = compile(&text);
    let mut device = Device::new(1 << 20);
    let a_at = device.upload(&image(&left, a, a_columns, strides[0]));
    let b_at = device.upload(&image(&right, b, b_columns, strides[1]));
    let c_at = device.upload(&image(&start, c, c_columns, strides[2]));
    let d_at = device.zeros::<u8>(bytes);
    let args = Args::new().add(a_at).add(b_at).add(c_at).add(d_at);
    device
        .launch(&program, "k", 1, 32, &args)
        .unwrap_or_else(|fault| panic!("{fault}\n{text}"));
    let join: fn(i64, i64) -> i64 = if a.bits == 1 {
        |a, b| a ^ b
    } else {
        |a, b| a * b
    };
    let wanted = product(&left, &right, &start, join);
    let wanted = image(&wanted, d, c_columns, strides[3]);
    assert_eq!(
        device.download::<u8>(d_at, bytes),
        wanted[..bytes],
        "{shape_name} {types}"
    );
}

#[test]
fn fragments_in_memory() {
    for shape in [[16, 16, 16], [32, 8, 16], [8, 32, 16]] {
        for layouts in [
            [false, true, false],
            [true, false, true],
            [false, false, false],
        ] {
            check_wmma(shape, [F32, F16, F16, F32], layouts, false);
            check_wmma(shape, [F16, F16, F16, F32], layouts, true);
            check_wmma(shape, [F32, BF16, BF16, F32], layouts, false);
            check_wmma(shape, [S32, S8, S8, S32], layouts, true);
        }
        check_wmma(shape, [F32, F16, F16, F16], [false; 3], false);
        check_wmma(shape, [S32, U8, U8, S32], [true; 3], false);
    }
    for layouts in [[false, true, false], [true, false, true]] {
        check_wmma([16, 16, 8], [F32, TF32, TF32, F32], layouts, false);
        check_wmma([8, 8, 4], [F64, F64, F64, F64], layouts, true);
    }
    check_wmma([8, 8, 32], [S32, S4, S4, S32], [false, true, false], false);
    check_wmma([8, 8, 32], [S32, U4, U4, S32], [false, true, true], false);
    check_wmma([8, 8, 128], [S32, B1, B1, S32], [false, true, false], false);
}

#[test]
fn rows_in_shared_memory() {
    // Rows of 8 halves, 40 bytes apart; half number = 100 * matrix + 8 * row + column.
    let text = |count: u32, trans: &str, space: &str| {
        let list: Vec<String> = (0..count).map(|index| format!("%r{index}")).collect();
        let list = list.join(", ");
        let stores: String = (0..count)
            .map(|index| format!("st.global.u32 [%to+{}], %r{index};", 4 * index))
            .collect();
        format!(
            ".visible .entry k(.param .u64 out, .param .u64 back) {{
             .reg .b32 %r<8>; .reg .b64 %to, %from, %g; .reg .b32 %t, %a, %x, %m; .reg .b16 %h; .reg .pred %p;
             .shared .align 16 .b8 rows[1536]; .shared .align 16 .b8 copy[1536];
             mov.u32 %t, %tid.x; mov.u32 %a, rows; mad.lo.u32 %a, %t, 48, %a;
             shr.u32 %m, %t, 3; mul.lo.u32 %x, %m, 100; and.b32 %m, %t, 7; mad.lo.u32 %x, %m, 8, %x;
             mov.u32 %m, 0;
             more: cvt.u16.u32 %h, %x; st.shared.u16 [%a], %h; add.u32 %x, %x, 1; add.u32 %a, %a, 2;
             add.u32 %m, %m, 1; setp.lt.u32 %p, %m, 8; @%p bra more;
             bar.sync 0; mov.u32 %a, rows; mad.lo.u32 %a, %t, 48, %a; {}
             ldmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 {{{list}}}, [{}];
             ld.param.u64 %to, [out]; mad.wide.u32 %to, %t, 16, %to; {stores}
             mov.u32 %a, copy; mad.lo.u32 %a, %t, 48, %a;
             stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%a], {{{list}}};
             bar.sync 0; ld.param.u64 %from, [back]; mad.wide.u32 %from, %t, 16, %from;
             ld.shared.v4.u32 {{%r0, %r1, %r2, %r3}}, [%a]; st.global.v4.u32 [%from], {{%r0, %r1, %r2, %r3}};
             movmatrix.sync.aligned.m8n8.trans.b16 %r5, %t; st.global.u32 [%from+512], %r5; ret; }}",
            if space.is_empty() { "cvt.u64.u32 %g, %a; cvta.shared.u64 %g, %g;" } else { "" },
            if space.is_empty() { "%g" } else { "%a" },
        )
    };
    for (count, trans, space) in [
        (1, "", ".shared"),
        (2, ".trans", ".shared::cta"),
        (4, "", ""),
        (4, ".trans", ".shared"),
    ] {
        let program = compile(&text(count, trans, space));
        let mut device = Device::new(1 << 20);
        let out = device.zeros::<u32>(128);
        let back = device.zeros::<u32>(128 * 3);
        device
            .launch(&program, "k", 1, 32, &Args::new().add(out).add(back))
            .unwrap();
        let got = device.download::<u32>(out, 128);
        for lane in 0..32_u32 {
            for matrix in 0..count {
                let half = |column: u32| {
                    let (row, column) = (lane / 4, lane % 4 * 2 + column);
                    let (row, column) = if trans.is_empty() {
                        (row, column)
                    } else {
                        (column, row)
                    };
                    100 * matrix + 8 * row + column
                };
                let wanted = half(1) << 16 | half(0);
                assert_eq!(
                    got[(lane * 4 + matrix) as usize],
                    wanted,
                    "{count} {trans} {lane}"
                );
            }
        }
        // Stored the same way, all is as it was.
        let got = device.download::<u32>(back, 128 * 3);
        for thread in 0..8 * count {
            let start = 100 * (thread / 8) + thread % 8 * 8;
            for word in 0..4 {
                let wanted = (start + 2 * word + 1) << 16 | (start + 2 * word);
                assert_eq!(
                    got[(thread * 4 + word) as usize],
                    wanted,
                    "{count} {trans} {thread}"
                );
            }
        }
        // Each lane gave its number, the low half of a pair.
        for lane in 0..32_u32 {
            let half = |column: u32| {
                let (row, column) = (lane % 4 * 2 + column, lane / 4);
                if column % 2 == 0 {
                    row * 4 + column / 2
                } else {
                    0
                }
            };
            let wanted = half(1) << 16 | half(0);
            assert_eq!(got[(lane * 4 + 128) as usize], wanted, "lane {lane}");
        }
    }
}

#[test]
fn what_is_not_there_is_named() {
    for (text, what) in [
        (
            "mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {%f,%f,%f,%f}, {%r,%r,%r,%r}, {%r,%r}, {%f,%f,%f,%f};",
            "rows and B in columns",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f,%f,%f,%f}, {%r,%r}, {%r,%r}, {%f,%f,%f,%f};",
            "4 32-bit words",
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.s8.s8.f32 {%f,%f,%f,%f}, {%r,%r}, {%r}, {%f,%f,%f,%f};",
            "combination",
        ),
        (
            "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f,%f,%f,%f}, {%r,%r}, {%r,%r}, {%f,%f,%f,%f}, %r, 0;",
            ".sp",
        ),
        ("wgmma.fence.sync.aligned;", "wgmma"),
    ] {
        let text = ptx_common::module(&format!(
            ".visible .entry k() {{ .reg .b32 %r; .reg .f32 %f;\n{text}\nret; }}"
        ));
        let error = softcuda::exec::Program::compile(&text)
            .unwrap_err()
            .to_string();
        assert!(error.contains(what) && error.contains('5'), "{error}");
    }
}
