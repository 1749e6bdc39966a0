//! Instruction families on edge values against plain Rust.

#![allow(
    clippy::precedence,
    clippy::double_comparisons,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::nonminimal_bool,
    clippy::type_complexity,
    clippy::unwrap_used,
    reason = "references read as the ISA writes them, unordered comparisons above all"
)]

mod ptx_common;

use ptx_common::{Args, Device, Numbers, Plain, compile};

/// The values of `%d` that a piece of code computes from each `(%a, %b, %c)`.
fn map<A: Plain, B: Plain, C: Plain, D: Plain>(
    code: &str,
    types: [&str; 4],
    inputs: &[(A, B, C)],
) -> Vec<D> {
    let [a, b, c, d] = types;
    let reg = |ty: &str| {
        if ty.ends_with('8') {
            "b16".to_owned()
        } else {
            ty.to_owned()
        }
    };
    let size = |ty: &str| {
        ty.trim_start_matches(|c: char| !c.is_ascii_digit())
            .parse::<usize>()
            .unwrap()
            / 8
    };
    let (ra, rb, rc, rd) = (reg(a), reg(b), reg(c), reg(d));
    let text = format!(
        ".visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd, .param .u32 n) {{
            .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %x<16>; .reg .b64 %y<16>; .reg .f32 %f<8>; .reg .f64 %g<8>;
            .reg .b64 %base<5>; .reg .b64 %at<5>; .reg .b32 %i<8>; .reg .pred %end;
            .reg .{ra} %a; .reg .{rb} %b; .reg .{rc} %c; .reg .{rd} %d;
            ld.param.u64 %base0, [pa]; ld.param.u64 %base1, [pb]; ld.param.u64 %base2, [pc]; ld.param.u64 %base3, [pd];
            ld.param.u32 %i0, [n];
            mov.u32 %i1, %tid.x; mov.u32 %i2, %ctaid.x; mov.u32 %i3, %ntid.x;
            mad.lo.s32 %i1, %i2, %i3, %i1;
            setp.ge.u32 %end, %i1, %i0;
            @%end ret;
            mad.wide.u32 %at0, %i1, {}, %base0; mad.wide.u32 %at1, %i1, {}, %base1;
            mad.wide.u32 %at2, %i1, {}, %base2; mad.wide.u32 %at3, %i1, {}, %base3;
            ld.global.{a} %a, [%at0]; ld.global.{b} %b, [%at1]; ld.global.{c} %c, [%at2];
            {code}
            st.global.{d} [%at3], %d;
            ret;
        }}",
        size(a),
        size(b),
        size(c),
        size(d),
    );
    let program = compile(&text);
    let mut device = Device::new(1 << 20);
    let pa = device.upload(&inputs.iter().map(|input| input.0).collect::<Vec<A>>());
    let pb = device.upload(&inputs.iter().map(|input| input.1).collect::<Vec<B>>());
    let pc = device.upload(&inputs.iter().map(|input| input.2).collect::<Vec<C>>());
    let pd = device.zeros::<D>(inputs.len());
    let args = Args::new()
        .add(pa)
        .add(pb)
        .add(pc)
        .add(pd)
        .add(inputs.len() as u32);
    device
        .launch(&program, "k", (inputs.len() as u32).div_ceil(64), 64, &args)
        .unwrap();
    device.download(pd, inputs.len())
}

const U32: [u32; 14] = [
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    255,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_fffe,
    0xffff_ffff,
    0x1234_5678,
];
const U64: [u64; 12] = [
    0,
    1,
    3,
    63,
    64,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
    0x0123_4567_89ab_cdef,
    0x8765_4321_0fed_cba9,
];
const U16: [u16; 9] = [0, 1, 15, 16, 0x7fff, 0x8000, 0xffff, 0x1234, 0x00ff];

fn f32s() -> Vec<f32> {
    let bits = [
        0,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x3effffff,
        0x3f00_0000,
        0x3f80_0000,
        0x3fc0_0000,
        0x4020_0000,
        0x4060_0000,
        0x4b00_0001,
        0x4f00_0000,
        0x5f00_0000,
        0x4eff_ffff,
        0x437f_8000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7fc0_0000,
    ];
    bits.iter()
        .flat_map(|&bits| [f32::from_bits(bits), f32::from_bits(bits | 1 << 31)])
        .collect()
}

fn f64s() -> Vec<f64> {
    let extra = [
        0.5,
        1.5,
        2.5,
        1e300,
        1e-300,
        4_294_967_295.5,
        2_147_483_647.5,
        9.3e18,
        1.9e19,
        f64::MAX,
        f64::MIN_POSITIVE,
    ];
    let all = f32s().into_iter().map(f64::from).chain(extra);
    all.flat_map(|value| [value, -value]).collect()
}

fn pairs<T: Copy>(values: &[T]) -> Vec<(T, T, T)> {
    values
        .iter()
        .flat_map(|&a| values.iter().map(move |&b| (a, b, b)))
        .collect()
}

fn triples<T: Copy>(values: &[T]) -> Vec<(T, T, T)> {
    let pairs = pairs(values);
    pairs
        .iter()
        .flat_map(|&(a, b, _)| values.iter().map(move |&c| (a, b, c)))
        .collect()
}

/// Checks an instruction of three equally typed operands.
fn check<T: Plain + PartialEq + std::fmt::Debug>(
    code: &str,
    ty: &str,
    inputs: &[(T, T, T)],
    want: impl Fn(T, T, T) -> T,
) {
    let got: Vec<T> = map(code, [ty, ty, ty, ty], inputs);
    for (&(a, b, c), got) in inputs.iter().zip(got) {
        assert_eq!(got, want(a, b, c), "{code} of {a:?}, {b:?}, {c:?}");
    }
}

/// As `check` for floats: equal bits, or both not numbers.
fn check_f32(code: &str, inputs: &[(f32, f32, f32)], want: impl Fn(f32, f32, f32) -> f32) {
    let got: Vec<f32> = map(code, ["f32"; 4], inputs);
    for (&(a, b, c), got) in inputs.iter().zip(got) {
        let want = want(a, b, c);
        assert!(
            got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
            "{code} of {a:e}, {b:e}, {c:e}: {got:e}, not {want:e}"
        );
    }
}

fn check_f64(code: &str, inputs: &[(f64, f64, f64)], want: impl Fn(f64, f64, f64) -> f64) {
    let got: Vec<f64> = map(code, ["f64"; 4], inputs);
    for (&(a, b, c), got) in inputs.iter().zip(got) {
        let want = want(a, b, c);
        assert!(
            got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
            "{code} of {a:e}, {b:e}, {c:e}: {got:e}, not {want:e}"
        );
    }
}

#[test]
fn integers_of_32_bits() {
    let all = pairs(&U32);
    let s = |v: u32| v.cast_signed();
    let c = |code: &str, want: &dyn Fn(u32, u32, u32) -> u32| check(code, "u32", &all, want);
    c("add.u32 %d, %a, %b;", &|a, b, _| a.wrapping_add(b));
    c("add.s32 %d, %a, -7;", &|a, _, _| a.wrapping_sub(7));
    c("add.sat.s32 %d, %a, %b;", &|a, b, _| {
        s(a).saturating_add(s(b)).cast_unsigned()
    });
    c("sub.s32 %d, %a, %b;", &|a, b, _| a.wrapping_sub(b));
    c("sub.sat.s32 %d, %a, %b;", &|a, b, _| {
        s(a).saturating_sub(s(b)).cast_unsigned()
    });
    c("mul.lo.u32 %d, %a, %b;", &|a, b, _| a.wrapping_mul(b));
    c("mul.hi.u32 %d, %a, %b;", &|a, b, _| {
        (u64::from(a) * u64::from(b) >> 32) as u32
    });
    c("mul.hi.s32 %d, %a, %b;", &|a, b, _| {
        (i64::from(s(a)) * i64::from(s(b)) >> 32) as u32
    });
    c("mul24.lo.u32 %d, %a, %b;", &|a, b, _| {
        (u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) as u32
    });
    c("mul24.hi.s32 %d, %a, %b;", &|a, b, _| {
        let sign = |v: u32| i64::from(s(v << 8) >> 8);
        (sign(a) * sign(b) >> 16) as u32
    });
    c("div.u32 %d, %a, %b;", &|a, b, _| {
        a.checked_div(b).unwrap_or(u32::MAX)
    });
    c("div.s32 %d, %a, %b;", &|a, b, _| {
        if b == 0 {
            u32::MAX
        } else {
            s(a).wrapping_div(s(b)).cast_unsigned()
        }
    });
    c("rem.u32 %d, %a, %b;", &|a, b, _| {
        a.checked_rem(b).unwrap_or(a)
    });
    c("rem.s32 %d, %a, %b;", &|a, b, _| {
        if b == 0 {
            a
        } else {
            s(a).wrapping_rem(s(b)).cast_unsigned()
        }
    });
    c("min.s32 %d, %a, %b;", &|a, b, _| {
        s(a).min(s(b)).cast_unsigned()
    });
    c("max.u32 %d, %a, %b;", &|a, b, _| a.max(b));
    c("abs.s32 %d, %a;", &|a, _, _| {
        s(a).wrapping_abs().cast_unsigned()
    });
    c("neg.s32 %d, %a;", &|a, _, _| a.wrapping_neg());
    c("and.b32 %d, %a, %b;", &|a, b, _| a & b);
    c("or.b32 %d, %a, %b;", &|a, b, _| a | b);
    c("xor.b32 %d, %a, %b;", &|a, b, _| a ^ b);
    c("not.b32 %d, %a;", &|a, _, _| !a);
    c("cnot.b32 %d, %a;", &|a, _, _| u32::from(a == 0));
    c("shl.b32 %d, %a, %b;", &|a, b, _| {
        a.checked_shl(b).unwrap_or(0)
    });
    c("shr.u32 %d, %a, %b;", &|a, b, _| {
        a.checked_shr(b).unwrap_or(0)
    });
    c("shr.s32 %d, %a, %b;", &|a, b, _| {
        (s(a) >> b.min(31)).cast_unsigned()
    });
    c("shr.u32 %d, %a, 32;", &|_, _, _| 0);
    c("popc.b32 %d, %a;", &|a, _, _| a.count_ones());
    c("clz.b32 %d, %a;", &|a, _, _| a.leading_zeros());
    c("brev.b32 %d, %a;", &|a, _, _| a.reverse_bits());
    c("bfind.u32 %d, %a;", &|a, _, _| {
        a.checked_ilog2().unwrap_or(u32::MAX)
    });
    c("bfind.s32 %d, %a;", &|a, _, _| {
        let a = if s(a) < 0 { !a } else { a };
        a.checked_ilog2().unwrap_or(u32::MAX)
    });
    c("bfind.shiftamt.u32 %d, %a;", &|a, _, _| {
        a.checked_ilog2().map_or(u32::MAX, |bit| 31 - bit)
    });
    c("shf.l.wrap.b32 %d, %a, %b, %b;", &|a, b, _| {
        let both = u64::from(b) << 32 | u64::from(a);
        (both << (b & 31) >> 32) as u32
    });
    c("shf.r.clamp.b32 %d, %a, %b, %b;", &|a, b, _| {
        let both = u64::from(b) << 32 | u64::from(a);
        (both >> b.min(32)) as u32
    });
    c("shf.l.clamp.b32 %d, %a, %b, %b;", &|a, b, _| {
        let both = u64::from(b) << 32 | u64::from(a);
        (both << b.min(32) >> 32) as u32
    });
    c("sad.s32 %d, %a, %b, %c;", &|a, b, c| {
        s(a).abs_diff(s(b)).wrapping_add(c)
    });
    c(
        "setp.lt.s32 %p0, %a, %b; selp.b32 %d, %a, %b, %p0;",
        &|a, b, _| if s(a) < s(b) { a } else { b },
    );
    c("set.hi.u32.u32 %d, %a, %b;", &|a, b, _| {
        if a > b { u32::MAX } else { 0 }
    });
    c("slct.u32.s32 %d, %a, %b, %c;", &|a, b, c| {
        if s(c) >= 0 { a } else { b }
    });
    c(
        "@%p0 mov.u32 %d, 1; setp.eq.u32 %p0, %a, %b; mov.u32 %d, 5; @%p0 mov.u32 %d, 9; @!%p0 add.u32 %d, %d, 2;",
        &|a, b, _| {
            if a == b { 9 } else { 7 }
        },
    );
    c(
        "setp.gt.and.u32 %p0|%p1, %a, %b, !%p2; selp.u32 %d, 1, 0, %p0; @%p1 add.u32 %d, %d, 2;",
        &|a, b, _| {
            if a > b { 1 } else { 2 }
        },
    );
    c("bmsk.clamp.b32 %d, %a, %b;", &|a, b, _| {
        let (a, b) = (a.min(32), b.min(32));
        (0..32)
            .filter(|&bit| bit >= a && bit < a + b)
            .fold(0, |set, bit| set | 1 << bit)
    });
    c("lop3.b32 %d, %a, %b, %c, 0x96;", &|a, b, c| a ^ b ^ c);
    c("lop3.b32 %d, %a, %b, 0x0f0f0f0f, 0xe4;", &|a, b, _| {
        // (a & c) | (b & ~c)
        let c = 0x0f0f_0f0f;
        a & c | b & !c
    });
    c("prmt.b32 %d, %a, %b, 0x2561;", &|a, b, _| {
        let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
        u32::from_le_bytes([bytes[1], bytes[6], bytes[5], bytes[2]])
    });
    c("dp4a.s32.u32 %d, %a, %b, %c;", &|a, b, c| {
        let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
        let sum: i32 = products
            .map(|(a, b)| i32::from(a.cast_signed()) * i32::from(b))
            .sum();
        c.wrapping_add(sum.cast_unsigned())
    });
    let all = triples(&[0, 1, 5, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1234_5678]);
    let c = |code: &str, want: &dyn Fn(u32, u32, u32) -> u32| check(code, "u32", &all, want);
    c("mad.lo.s32 %d, %a, %b, %c;", &|a, b, c| {
        a.wrapping_mul(b).wrapping_add(c)
    });
    c("mad.hi.u32 %d, %a, %b, %c;", &|a, b, c| {
        ((u64::from(a) * u64::from(b) >> 32) as u32).wrapping_add(c)
    });
    c("mad.hi.sat.s32 %d, %a, %b, %c;", &|a, b, c| {
        let high = (i64::from(s(a)) * i64::from(s(b)) >> 32) as i32;
        high.saturating_add(s(c)).cast_unsigned()
    });
}

#[test]
fn bit_fields() {
    let inputs: Vec<(u32, u32, u32)> = [0_u32, 0xffff_ffff, 0x8000_0001, 0x1234_5678, 0xf0f0_f0f0]
        .iter()
        .flat_map(|&a| {
            [0, 1, 5, 16, 31, 32, 40, 255, 256]
                .into_iter()
                .flat_map(move |p| {
                    [0, 1, 7, 16, 31, 32, 33, 255]
                        .into_iter()
                        .map(move |l| (a, p, l))
                })
        })
        .collect();
    // Bit by bit, as the ISA writes it.
    let extract = |a: u64, width: u32, signed: bool, p: u32, l: u32| {
        let (p, l) = (p & 255, l & 255);
        let bit = |at: u32| a >> at & 1;
        let sign = if !signed || l == 0 {
            0
        } else {
            bit((p + l - 1).min(width - 1))
        };
        (0..width).fold(0, |d, i| {
            d | if i < l && p + i < width {
                bit(p + i)
            } else {
                sign
            } << i
        })
    };
    let insert = |a: u64, b: u64, width: u32, p: u32, l: u32| {
        let (p, l) = (p & 255, l & 255);
        (0..width).fold(0, |d, i| {
            d | if i >= p && i < p + l {
                a >> (i - p) & 1
            } else {
                b >> i & 1
            } << i
        })
    };
    let c = |code: &str, want: &dyn Fn(u32, u32, u32) -> u32| check(code, "u32", &inputs, want);
    c("bfe.u32 %d, %a, %b, %c;", &|a, p, l| {
        extract(u64::from(a), 32, false, p, l) as u32
    });
    c("bfe.s32 %d, %a, %b, %c;", &|a, p, l| {
        extract(u64::from(a), 32, true, p, l) as u32
    });
    c("bfi.b32 %d, %a, 0x5a5a5a5a, %b, %c;", &|a, p, l| {
        insert(u64::from(a), 0x5a5a_5a5a, 32, p, l) as u32
    });
    for (p, l) in [
        (0, 8),
        (8, 8),
        (24, 8),
        (31, 1),
        (30, 5),
        (32, 4),
        (4, 0),
        (0, 32),
        (200, 3),
    ] {
        c(&format!("bfe.u32 %d, %a, {p}, {l};"), &|a, _, _| {
            extract(u64::from(a), 32, false, p, l) as u32
        });
        c(&format!("bfe.s32 %d, %a, {p}, {l};"), &|a, _, _| {
            extract(u64::from(a), 32, true, p, l) as u32
        });
    }
    let wide: Vec<(u64, u32, u32)> = U64
        .iter()
        .flat_map(|&a| {
            [(0, 1), (63, 2), (10, 20), (5, 64), (64, 3), (1, 62)].map(|(p, l)| (a, p, l))
        })
        .collect();
    for (code, signed) in [
        ("bfe.u64 %d, %a, %b, %c;", false),
        ("bfe.s64 %d, %a, %b, %c;", true),
    ] {
        let got: Vec<u64> = map(code, ["u64", "u32", "u32", "u64"], &wide);
        for (&(a, p, l), got) in wide.iter().zip(got) {
            assert_eq!(got, extract(a, 64, signed, p, l), "{code} {a:#x} {p} {l}");
        }
    }
    let got: Vec<u64> = map(
        "bfi.b64 %d, %a, 0x5555555555555555, %b, %c;",
        ["u64", "u32", "u32", "u64"],
        &wide,
    );
    for (&(a, p, l), got) in wide.iter().zip(got) {
        assert_eq!(
            got,
            insert(a, 0x5555_5555_5555_5555, 64, p, l),
            "{a:#x} {p} {l}"
        );
    }
}

#[test]
fn integers_of_64_bits() {
    let all = pairs(&U64);
    let s = |v: u64| v.cast_signed();
    let c = |code: &str, want: &dyn Fn(u64, u64, u64) -> u64| check(code, "u64", &all, want);
    c("add.s64 %d, %a, %b;", &|a, b, _| a.wrapping_add(b));
    c("mul.lo.s64 %d, %a, %b;", &|a, b, _| a.wrapping_mul(b));
    c("mul.hi.u64 %d, %a, %b;", &|a, b, _| {
        (u128::from(a) * u128::from(b) >> 64) as u64
    });
    c("mul.hi.s64 %d, %a, %b;", &|a, b, _| {
        (i128::from(s(a)) * i128::from(s(b)) >> 64) as u64
    });
    c("div.s64 %d, %a, %b;", &|a, b, _| {
        if b == 0 {
            u64::MAX
        } else {
            s(a).wrapping_div(s(b)).cast_unsigned()
        }
    });
    c("rem.u64 %d, %a, %b;", &|a, b, _| {
        a.checked_rem(b).unwrap_or(a)
    });
    c("cvt.u32.u64 %x0, %b; shl.b64 %d, %a, %x0;", &|a, b, _| {
        a.checked_shl(b as u32).unwrap_or(0)
    });
    c("cvt.u32.u64 %x0, %b; shr.s64 %d, %a, %x0;", &|a, b, _| {
        (s(a) >> (b as u32).min(63)).cast_unsigned()
    });
    c("clz.b64 %x0, %a; cvt.u64.u32 %d, %x0;", &|a, _, _| {
        u64::from(a.leading_zeros())
    });
    c("popc.b64 %x0, %a; cvt.u64.u32 %d, %x0;", &|a, _, _| {
        u64::from(a.count_ones())
    });
    c("brev.b64 %d, %a;", &|a, _, _| a.reverse_bits());
    c("bfind.s64 %x0, %a; cvt.s64.s32 %d, %x0;", &|a, _, _| {
        let a = if s(a) < 0 { !a } else { a };
        a.checked_ilog2().map_or(u64::MAX, u64::from)
    });
    c(
        "cvt.u32.u64 %x0, %a; cvt.u32.u64 %x1, %b; mul.wide.u32 %d, %x0, %x1;",
        &|a, b, _| u64::from(a as u32) * u64::from(b as u32),
    );
    c(
        "cvt.u32.u64 %x0, %a; cvt.u32.u64 %x1, %b; mad.wide.s32 %d, %x0, %x1, %a;",
        &|a, b, _| {
            (i64::from(a as i32) * i64::from(b as i32))
                .cast_unsigned()
                .wrapping_add(a)
        },
    );
    c(
        "mov.b64 {%x0, %x1}, %a; mov.b64 %d, {%x1, %x0};",
        &|a, _, _| a.rotate_left(32),
    );
    c(
        "mov.b64 {%h0, %h1, %h2, %h3}, %a; mov.b64 %d, {%h3, %h2, %h1, %h0};",
        &|a, _, _| (0..4).fold(0, |d, i| d | (a >> (16 * i) & 0xffff) << (48 - 16 * i)),
    );
    // 128-bit sums and differences of (a, b) and (b, a) in 64-bit steps; a product of 64 bits in 32-bit ones.
    c(
        "add.cc.u64 %y0, %a, %b; addc.u64 %d, %b, %a;",
        &|a, b, _| {
            let x = u128::from(b) << 64 | u128::from(a);
            let y = u128::from(a) << 64 | u128::from(b);
            (x.wrapping_add(y) >> 64) as u64
        },
    );
    c(
        "sub.cc.u64 %y0, %a, %b; subc.u64 %d, %b, %a;",
        &|a, b, _| {
            let x = u128::from(b) << 64 | u128::from(a);
            let y = u128::from(a) << 64 | u128::from(b);
            (x.wrapping_sub(y) >> 64) as u64
        },
    );
    c(
        "mov.b64 {%x0, %x1}, %a; mov.b64 {%x2, %x3}, %b;
         mul.lo.u32 %x4, %x0, %x2; mul.hi.u32 %x5, %x0, %x2;
         mad.lo.cc.u32 %x5, %x0, %x3, %x5; madc.hi.u32 %x6, %x0, %x3, 0;
         mad.lo.cc.u32 %x5, %x1, %x2, %x5; madc.hi.cc.u32 %x6, %x1, %x2, %x6; addc.u32 %x7, 0, 0;
         mad.lo.cc.u32 %x6, %x1, %x3, %x6; madc.hi.u32 %x7, %x1, %x3, %x7;
         mov.b64 %d, {%x6, %x7};",
        &|a, b, _| (u128::from(a) * u128::from(b) >> 64) as u64,
    );
}

#[test]
fn integers_of_16_bits_and_narrow_loads() {
    let all = pairs(&U16);
    let s = |v: u16| v.cast_signed();
    let c = |code: &str, want: &dyn Fn(u16, u16, u16) -> u16| check(code, "u16", &all, want);
    c("add.u16 %d, %a, %b;", &|a, b, _| a.wrapping_add(b));
    c("mul.hi.s16 %d, %a, %b;", &|a, b, _| {
        (i32::from(s(a)) * i32::from(s(b)) >> 16) as u16
    });
    c(
        "mul.wide.u16 %x0, %a, %b; shr.u32 %x0, %x0, 16; cvt.u16.u32 %d, %x0;",
        &|a, b, _| (u32::from(a) * u32::from(b) >> 16) as u16,
    );
    c("div.s16 %d, %a, %b;", &|a, b, _| {
        if b == 0 {
            u16::MAX
        } else {
            s(a).wrapping_div(s(b)).cast_unsigned()
        }
    });
    c("min.s16 %d, %a, %b;", &|a, b, _| {
        s(a).min(s(b)).cast_unsigned()
    });
    c("cvt.u32.u16 %x0, %b; shl.b16 %d, %a, %x0;", &|a, b, _| {
        a.checked_shl(u32::from(b)).unwrap_or(0)
    });
    c("cvt.u32.u16 %x0, %b; shr.s16 %d, %a, %x0;", &|a, b, _| {
        (s(a) >> b.min(15)).cast_unsigned()
    });
    // Loads extend into wider registers as their type says; stores take the low bits.
    let bytes: Vec<(u8, u8, u8)> = [0, 1, 127, 128, 255].map(|b| (b, b, b)).to_vec();
    let got: Vec<u32> = map(
        "ld.global.s8 %x0, [%at0]; ld.global.u8 %x1, [%at0]; st.local.u8 [buf], %x0; ld.local.s8 %h1, [buf];
         cvt.s32.s16 %x2, %h1; shl.b32 %x1, %x1, 8; xor.b32 %d, %x0, %x1; sub.s32 %x2, %x2, %x0; add.s32 %d, %d, %x2;
         .local .align 4 .b8 buf[4];"
            .rsplit_once(".local")
            .map(|(code, decl)| format!(".local{decl} {code}"))
            .unwrap()
            .as_str(),
        ["u8", "u8", "u8", "u32"],
        &bytes,
    );
    for (&(byte, ..), got) in bytes.iter().zip(got) {
        let signed = i32::from(byte.cast_signed()).cast_unsigned();
        assert_eq!(got, signed ^ u32::from(byte) << 8, "{byte}");
    }
}

#[test]
fn single_precision() {
    let values = f32s();
    let all = pairs(&values);
    let c = |code: &str, want: &dyn Fn(f32, f32, f32) -> f32| check_f32(code, &all, want);
    let flush = |v: f32| {
        if v.is_subnormal() {
            0_f32.copysign(v)
        } else {
            v
        }
    };
    let sat = |v: f32| if v > 0.0 { v.min(1.0) } else { 0.0 };
    c("add.f32 %d, %a, %b;", &|a, b, _| a + b);
    c("sub.rn.f32 %d, %a, %b;", &|a, b, _| a - b);
    c("mul.f32 %d, %a, %b;", &|a, b, _| a * b);
    c("div.rn.f32 %d, %a, %b;", &|a, b, _| a / b);
    c("mul.ftz.f32 %d, %a, %b;", &|a, b, _| {
        flush(flush(a) * flush(b))
    });
    c("add.ftz.sat.f32 %d, %a, %b;", &|a, b, _| {
        sat(flush(flush(a) + flush(b)))
    });
    c("sub.sat.f32 %d, %a, %b;", &|a, b, _| sat(a - b));
    c("rcp.rn.f32 %d, %a;", &|a, _, _| 1.0 / a);
    c("sqrt.rn.f32 %d, %a;", &|a, _, _| a.sqrt());
    c("abs.f32 %d, %a;", &|a, _, _| a.abs());
    c("neg.ftz.f32 %d, %a;", &|a, _, _| -flush(a));
    c("min.f32 %d, %a, %b;", &|a, b, _| {
        if a == b {
            f32::from_bits(a.to_bits() | b.to_bits())
        } else {
            a.min(b)
        }
    });
    c("max.f32 %d, %a, %b;", &|a, b, _| {
        if a == b {
            f32::from_bits(a.to_bits() & b.to_bits())
        } else {
            a.max(b)
        }
    });
    c("max.NaN.f32 %d, %a, %b;", &|a, b, _| {
        if a.is_nan() || b.is_nan() {
            f32::NAN
        } else if a == b {
            f32::from_bits(a.to_bits() & b.to_bits())
        } else {
            a.max(b)
        }
    });
    c("copysign.f32 %d, %a, %b;", &|a, b, _| b.copysign(a));
    c(
        "setp.lt.f32 %p0, %a, %b; selp.f32 %d, %a, %b, %p0;",
        &|a, b, _| if a < b { a } else { b },
    );
    c("slct.f32.f32 %d, %a, 0f40000000, %b;", &|a, b, _| {
        if b >= 0.0 { a } else { 2.0 }
    });
    c("cvt.rni.f32.f32 %d, %a;", &|a, _, _| a.round_ties_even());
    c("cvt.rzi.f32.f32 %d, %a;", &|a, _, _| a.trunc());
    c("cvt.rmi.f32.f32 %d, %a;", &|a, _, _| a.floor());
    c("cvt.rpi.ftz.f32.f32 %d, %a;", &|a, _, _| flush(a).ceil());
    c("cvt.sat.f32.f32 %d, %a;", &|a, _, _| sat(a));
    let comparisons: [(&str, fn(f32, f32) -> bool); 14] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a < b || a > b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("equ", |a, b| !(a < b || a > b)),
        ("neu", |a, b| a != b),
        ("ltu", |a, b| !(a >= b)),
        ("leu", |a, b| !(a > b)),
        ("gtu", |a, b| !(a <= b)),
        ("geu", |a, b| !(a < b)),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (name, holds) in comparisons {
        c(&format!("set.{name}.f32.f32 %d, %a, %b;"), &|a, b, _| {
            if holds(a, b) { 1.0 } else { 0.0 }
        });
    }
    let properties: [(&str, fn(f32) -> bool); 6] = [
        ("finite", f32::is_finite),
        ("infinite", f32::is_infinite),
        ("number", |a| !a.is_nan()),
        ("notanumber", f32::is_nan),
        ("normal", |a| a.is_normal() || a == 0.0),
        ("subnormal", f32::is_subnormal),
    ];
    for (name, holds) in properties {
        c(
            &format!("testp.{name}.f32 %p0, %a; selp.f32 %d, 0f3F800000, 0f00000000, %p0;"),
            &|a, _, _| {
                if holds(a) { 1.0 } else { 0.0 }
            },
        );
    }
    let some: Vec<f32> = values
        .iter()
        .copied()
        .step_by(3)
        .chain([1.0, -3.5])
        .collect();
    let all = triples(&some);
    check_f32("fma.rn.f32 %d, %a, %b, %c;", &all, f32::mul_add);
    check_f32("fma.rn.ftz.f32 %d, %a, %b, %c;", &all, |a, b, c| {
        flush(flush(a).mul_add(flush(b), flush(c)))
    });
    check_f32("mad.rn.f32 %d, %a, %b, %c;", &all, f32::mul_add);
}

#[test]
fn double_precision() {
    let values = f64s();
    let all = pairs(&values);
    let c = |code: &str, want: &dyn Fn(f64, f64, f64) -> f64| check_f64(code, &all, want);
    c("add.f64 %d, %a, %b;", &|a, b, _| a + b);
    c("sub.rn.f64 %d, %a, %b;", &|a, b, _| a - b);
    c("mul.rn.f64 %d, %a, %b;", &|a, b, _| a * b);
    c("div.rn.f64 %d, %a, %b;", &|a, b, _| a / b);
    c("rcp.rn.f64 %d, %a;", &|a, _, _| 1.0 / a);
    c("sqrt.rn.f64 %d, %a;", &|a, _, _| a.sqrt());
    c("neg.f64 %d, %a;", &|a, _, _| -a);
    c("fma.rn.f64 %d, %a, %b, 0d3FF0000000000000;", &|a, b, _| {
        a.mul_add(b, 1.0)
    });
    c("cvt.rpi.f64.f64 %d, %a;", &|a, _, _| a.ceil());
    c(
        "setp.geu.f64 %p0, %a, %b; selp.f64 %d, %a, %b, %p0;",
        &|a, b, _| if !(a < b) { a } else { b },
    );
}

#[test]
fn directed_rounding() {
    let values: Vec<f32> = f32s()
        .into_iter()
        .chain([0.1, -0.3, 1e-40, 3.3e38, 7.7])
        .collect();
    let all = pairs(&values);
    // What lies toward a direction of an exact value that f64 holds, or holds with its error.
    let toward = |value: f64, error: f64, up: bool| -> f32 {
        if !value.is_finite() {
            return value as f32;
        }
        let nearest = value as f32;
        let rest = if nearest.is_finite() {
            (value - f64::from(nearest)) + error
        } else {
            value - f64::from(nearest)
        };
        match (rest > 0.0, rest < 0.0, up) {
            (true, _, true) => nearest.next_up(),
            (_, true, false) => nearest.next_down(),
            _ => nearest,
        }
    };
    let exact_sum = |a: f32, b: f32| {
        let (a, b) = (f64::from(a), f64::from(b));
        let sum = a + b;
        let back = sum - a;
        (sum, (a - (sum - back)) + (b - back))
    };
    for (mode, up) in [("rp", true), ("rm", false)] {
        check_f32(&format!("mul.{mode}.f32 %d, %a, %b;"), &all, |a, b, _| {
            let product = f64::from(a) * f64::from(b);
            if product == 0.0 {
                product as f32
            } else {
                toward(product, 0.0, up)
            }
        });
        check_f32(&format!("add.{mode}.f32 %d, %a, %b;"), &all, |a, b, _| {
            let (sum, error) = exact_sum(a, b);
            match sum == 0.0 {
                true if a.to_bits() == b.to_bits() => a,
                true => {
                    if up {
                        0.0
                    } else {
                        -0.0
                    }
                }
                false => toward(sum, if error.is_nan() { 0.0 } else { error }, up),
            }
        });
    }
    check_f32("mul.rz.f32 %d, %a, %b;", &all, |a, b, _| {
        let product = f64::from(a) * f64::from(b);
        if product == 0.0 {
            product as f32
        } else {
            toward(product, 0.0, product < 0.0)
        }
    });
    check_f32("fma.rz.f32 %d, %a, %b, 0f00000000;", &all, |a, b, _| {
        let product = f64::from(a) * f64::from(b);
        if product == 0.0 {
            product as f32 + 0.0
        } else {
            toward(product, 0.0, product < 0.0)
        }
    });
    // A root's square lies on the right side of the number.
    let roots: Vec<f32> = map("sqrt.rm.f32 %d, %a;", ["f32"; 4], &all);
    for (&(a, ..), root) in all.iter().zip(roots) {
        if a > 0.0 && a.is_finite() {
            let (low, high) = (f64::from(root), f64::from(root.next_up()));
            assert!(
                low * low <= f64::from(a) && high * high > f64::from(a),
                "{a:e} {root:e}"
            );
        }
    }
}

#[test]
fn approximations_are_within_the_stated_errors() {
    let values: Vec<(f32, f32, f32)> = (0..4000)
        .map(|i| {
            let x = (i as f32 - 2000.0) * 0.031_7 + 0.011;
            (x, 0.3 + x.abs(), 0.0)
        })
        .collect();
    let bound = |code: &str, exact: fn(f64, f64) -> f64, relative: f64, absolute: f64| {
        let got: Vec<f32> = map(code, ["f32"; 4], &values);
        for (&(a, b, _), got) in values.iter().zip(got) {
            let want = exact(f64::from(a), f64::from(b));
            if want.is_nan() {
                assert!(got.is_nan(), "{code} of {a}");
                continue;
            }
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= relative * want.abs() + absolute,
                "{code} of {a}, {b}: {got}, not {want}"
            );
        }
    };
    let ulp = f64::from(f32::EPSILON);
    bound("rcp.approx.f32 %d, %a;", |a, _| 1.0 / a, ulp, 0.0);
    bound("div.approx.f32 %d, %a, %b;", |a, b| a / b, 2.0 * ulp, 0.0);
    bound("div.full.ftz.f32 %d, %a, %b;", |a, b| a / b, 2.0 * ulp, 0.0);
    bound("sqrt.approx.f32 %d, %b;", |_, b| b.sqrt(), ulp, 0.0);
    bound(
        "rsqrt.approx.ftz.f32 %d, %b;",
        |_, b| 1.0 / b.sqrt(),
        2_f64.powf(-22.9),
        0.0,
    );
    bound(
        "ex2.approx.f32 %d, %a;",
        |a, _| a.exp2(),
        2_f64.powf(-22.5),
        0.0,
    );
    bound(
        "lg2.approx.f32 %d, %b;",
        |_, b| b.log2(),
        0.0,
        2_f64.powi(-21),
    );
    bound(
        "sin.approx.f32 %d, %a;",
        |a, _| a.sin(),
        0.0,
        2_f64.powf(-20.9),
    );
    bound(
        "cos.approx.f32 %d, %a;",
        |a, _| a.cos(),
        0.0,
        2_f64.powf(-20.9),
    );
    bound(
        "tanh.approx.f32 %d, %a;",
        |a, _| a.tanh(),
        2_f64.powi(-11),
        0.0,
    );
    let special: Vec<(f32, f32, f32)> =
        [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-42]
            .map(|v| (v, v, v))
            .to_vec();
    let at = |code: &str| map::<f32, f32, f32, f32>(code, ["f32"; 4], &special);
    let ex2 = at("ex2.approx.f32 %d, %a;");
    assert_eq!(
        (ex2[0], ex2[1], ex2[2], ex2[3]),
        (1.0, 1.0, f32::INFINITY, 0.0)
    );
    let lg2 = at("lg2.approx.f32 %d, %a;");
    assert_eq!((lg2[0], lg2[2]), (f32::NEG_INFINITY, f32::INFINITY));
    assert!(lg2[3].is_nan() && lg2[4].is_nan());
    let rcp = at("rcp.approx.ftz.f32 %d, %a;");
    assert_eq!(
        (rcp[0], rcp[1], rcp[2], rcp[5]),
        (f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::INFINITY)
    );
}

#[test]
fn conversions_between_integers() {
    let inputs: Vec<(u64, u64, u64)> = U64
        .iter()
        .chain(&[127, 128, 255, 256, 0xffff_ff80, 0xffff_ffff_ffff_ff7f])
        .map(|&v| (v, v, v))
        .collect();
    let widths = [("8", 8), ("16", 16), ("32", 32), ("64", 64)];
    let bounds = |signed: bool, bits: u32| -> (i128, i128) {
        if signed {
            (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        } else {
            (0, (1 << bits) - 1)
        }
    };
    for from_signed in [false, true] {
        for to_signed in [false, true] {
            for (from, from_bits) in widths {
                for (to, to_bits) in widths {
                    for sat in [false, true] {
                        let (f, t) = (
                            if from_signed { "s" } else { "u" },
                            if to_signed { "s" } else { "u" },
                        );
                        let mid = if to_bits == 64 {
                            "y"
                        } else if to_bits == 32 {
                            "x"
                        } else {
                            "h"
                        };
                        let sat_text = if sat { ".sat" } else { "" };
                        // Sources may be wider than their type; small targets are extended into their register.
                        let source = match from_bits {
                            64 => "mov.u64 %y1, %a;".to_owned(),
                            32 => "cvt.u32.u64 %x1, %a;".to_owned(),
                            _ => "cvt.u16.u64 %h1, %a;".to_owned(),
                        };
                        let from_reg = match from_bits {
                            64 => "%y1",
                            32 => "%x1",
                            _ => "%h1",
                        };
                        let widen = if to_signed { "s64.s" } else { "u64.u" };
                        let mid_bits = to_bits.max(16);
                        let code = format!(
                            "{source} cvt{sat_text}.{t}{to}.{f}{from} %{mid}0, {from_reg}; cvt.{widen}{mid_bits} %d, %{mid}0;"
                        );
                        let got: Vec<u64> = map(&code, ["u64"; 4], &inputs);
                        for (&(a, ..), got) in inputs.iter().zip(got) {
                            let shift = 64 - from_bits;
                            let value = if from_signed {
                                i128::from((a << shift).cast_signed() >> shift)
                            } else {
                                i128::from(a << shift >> shift)
                            };
                            let (low, high) = bounds(to_signed, to_bits);
                            let value = if sat { value.clamp(low, high) } else { value };
                            let shift = 64 - to_bits;
                            let want = if to_signed {
                                ((value as u64) << shift)
                                    .cast_signed()
                                    .wrapping_shr(shift)
                                    .cast_unsigned()
                            } else {
                                (value as u64) << shift >> shift
                            };
                            assert_eq!(got, want, "{code} of {a:#x}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn conversions_between_integers_and_floats() {
    let floats: Vec<(f32, f32, f32)> = f32s()
        .into_iter()
        .chain([254.5, 255.5, -0.5, -1.5])
        .map(|v| (v, v, v))
        .collect();
    let round = |mode: &str, v: f64| match mode {
        "rni" => v.round_ties_even(),
        "rzi" => v.trunc(),
        "rmi" => v.floor(),
        _ => v.ceil(),
    };
    for mode in ["rni", "rzi", "rmi", "rpi"] {
        let signed: Vec<i32> = map(
            &format!("cvt.{mode}.s32.f32 %d, %a;"),
            ["f32", "f32", "f32", "s32"],
            &floats,
        );
        let unsigned: Vec<u32> = map(
            &format!("cvt.{mode}.u32.f32 %d, %a;"),
            ["f32", "f32", "f32", "u32"],
            &floats,
        );
        let wide: Vec<i64> = map(
            &format!("cvt.{mode}.s64.f32 %d, %a;"),
            ["f32", "f32", "f32", "s64"],
            &floats,
        );
        let small: Vec<u32> = map(
            &format!("cvt.{mode}.u8.f32 %x0, %a; mov.u32 %d, %x0;"),
            ["f32", "f32", "f32", "u32"],
            &floats,
        );
        for (index, &(a, ..)) in floats.iter().enumerate() {
            let rounded = round(mode, f64::from(a));
            assert_eq!(signed[index], rounded as i32, "{mode} {a}");
            assert_eq!(unsigned[index], rounded as u32, "{mode} {a}");
            assert_eq!(
                wide[index],
                if a.is_nan() { i64::MIN } else { rounded as i64 },
                "{mode} {a}"
            );
            assert_eq!(small[index], u32::from(rounded as u8), "{mode} {a}");
        }
    }
    let doubles: Vec<(f64, f64, f64)> = f64s().into_iter().map(|v| (v, v, v)).collect();
    let to_u64: Vec<u64> = map(
        "cvt.rzi.u64.f64 %d, %a;",
        ["f64", "f64", "f64", "u64"],
        &doubles,
    );
    let to_s32: Vec<i32> = map(
        "cvt.rni.s32.f64 %d, %a;",
        ["f64", "f64", "f64", "s32"],
        &doubles,
    );
    let to_f32: Vec<f32> = map(
        "cvt.rn.f32.f64 %d, %a;",
        ["f64", "f64", "f64", "f32"],
        &doubles,
    );
    let to_f32_zero: Vec<f32> = map(
        "cvt.rz.f32.f64 %d, %a;",
        ["f64", "f64", "f64", "f32"],
        &doubles,
    );
    for (index, &(a, ..)) in doubles.iter().enumerate() {
        assert_eq!(
            to_u64[index],
            if a.is_nan() { 1 << 63 } else { a as u64 },
            "{a}"
        );
        assert_eq!(
            to_s32[index],
            if a.is_nan() {
                i32::MIN
            } else {
                a.round_ties_even() as i32
            },
            "{a}"
        );
        let nearest = a as f32;
        assert!(
            to_f32[index].to_bits() == nearest.to_bits() || a.is_nan() && to_f32[index].is_nan()
        );
        let zero = match f64::from(nearest).abs() > a.abs() {
            true if nearest > 0.0 => nearest.next_down(),
            true => nearest.next_up(),
            false => nearest,
        };
        assert!(
            to_f32_zero[index].to_bits() == zero.to_bits() || a.is_nan(),
            "{a:e} {:e} {zero:e}",
            to_f32_zero[index]
        );
    }
    let integers: Vec<(u64, u64, u64)> = U64
        .iter()
        .chain(&[0x0100_0001, 0x7fff_ffbf_ffff_ffff, 0xffff_ff7f_ffff_ffff])
        .map(|&v| (v, v, v))
        .collect();
    let s64: Vec<f32> = map(
        "cvt.rn.f32.s64 %d, %a;",
        ["u64", "u64", "u64", "f32"],
        &integers,
    );
    let u64_: Vec<f32> = map(
        "cvt.rn.f32.u64 %d, %a;",
        ["u64", "u64", "u64", "f32"],
        &integers,
    );
    let u64_zero: Vec<f32> = map(
        "cvt.rz.f32.u64 %d, %a;",
        ["u64", "u64", "u64", "f32"],
        &integers,
    );
    let s64_double: Vec<f64> = map(
        "cvt.rn.f64.s64 %d, %a;",
        ["u64", "u64", "u64", "f64"],
        &integers,
    );
    for (index, &(a, ..)) in integers.iter().enumerate() {
        assert_eq!(s64[index], a.cast_signed() as f32);
        assert_eq!(u64_[index], a as f32);
        assert_eq!(s64_double[index], a.cast_signed() as f64);
        let nearest = a as f32;
        let zero = if nearest as u128 > u128::from(a) {
            nearest.next_down()
        } else {
            nearest
        };
        assert_eq!(u64_zero[index], zero, "{a}");
    }
}

#[test]
fn half_precision() {
    // Results that halves hold exactly, and those that must round.
    let inputs: Vec<(f32, f32, f32)> = [
        (1.0, 2.0, 3.0),
        (0.1, 0.2, 0.3),
        (2048.0, 1.0, 0.5),
        (65504.0, 65504.0, 1.0),
        (1e-7, 3e-8, 0.0),
    ]
    .to_vec();
    let prepare = "cvt.rn.f16.f32 %h0, %a; cvt.rn.f16.f32 %h1, %b; cvt.rn.f16.f32 %h2, %c;";
    let run = |code: &str| -> Vec<f32> {
        map(
            &format!("{prepare} {code} cvt.f32.f16 %d, %h3;"),
            ["f32"; 4],
            &inputs,
        )
    };
    let sums = run("add.f16 %h3, %h0, %h1;");
    assert_eq!(sums[0], 3.0);
    assert_eq!(sums[2], 2048.0);
    assert_eq!(sums[3], f32::INFINITY);
    assert!((sums[1] - 0.3).abs() < 2e-4);
    let fused = run("fma.rn.f16 %h3, %h0, %h1, %h2;");
    assert_eq!(fused[0], 5.0);
    assert_eq!(fused[2], 2048.0);
    let least = run("min.f16 %h3, %h0, %h1;");
    assert_eq!(least[0], 1.0);
    let negated = run("neg.f16 %h3, %h0;");
    assert_eq!(negated[0], -1.0);
    let pairs: Vec<f32> = map(
        "cvt.rn.f16x2.f32 %x0, %a, %b; cvt.rn.f16x2.f32 %x1, %b, %c; add.f16x2 %x2, %x0, %x1;
         mov.b32 {%h0, %h1}, %x2; cvt.f32.f16 %f0, %h0; cvt.f32.f16 %f1, %h1; fma.rn.f32 %d, %f1, 0f42C80000, %f0;",
        ["f32"; 4],
        &inputs[..1],
    );
    // Low halves: b + c = 5; high halves: a + b = 3.
    assert_eq!(pairs[0], 305.0);
    let compared: Vec<f32> = map(
        &format!("{prepare} setp.lt.f16 %p0, %h0, %h1; selp.f32 %d, 0f3F800000, 0f00000000, %p0;"),
        ["f32"; 4],
        &inputs,
    );
    assert_eq!(compared, [1.0, 1.0, 0.0, 0.0, 0.0]);
}

/// The nearest f16, ties to even, of an integer in units of 2^-48.
fn nearest_f16(value: i128) -> u16 {
    let sign = if value < 0 { 0x8000 } else { 0 };
    let magnitude = value.unsigned_abs();
    if magnitude == 0 {
        return 0;
    }
    // The last place is that of 11 bits, or 2^-24 at least.
    let place = (127 - magnitude.leading_zeros()).max(34) - 10;
    let (kept, rest) = (magnitude >> place, magnitude & ((1 << place) - 1));
    let half = 1_u128 << (place - 1);
    let kept = kept + u128::from(rest > half || rest == half && kept & 1 == 1);
    let bits = (u128::from(place - 24) << 10) + kept;
    sign | bits.min(0x7c00) as u16
}

/// A finite f16 in units of 2^-24.
fn f16_units(bits: u16) -> i128 {
    let (exponent, fraction) = (bits >> 10 & 31, i128::from(bits & 0x3ff));
    let magnitude = if exponent == 0 {
        fraction
    } else {
        (fraction | 0x400) << (exponent - 1)
    };
    if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

#[test]
fn halves_round_once() {
    let mut numbers = Numbers(7);
    let edges = [
        0, 1, 0x3ff, 0x400, 0x3bff, 0x3c00, 0x3c01, 0x7bff, 0x6800, 0x1400,
    ];
    let mut any = || {
        let bits = numbers.next();
        let value = if bits & 7 == 0 {
            edges[(bits >> 8) as usize % edges.len()]
        } else {
            (bits >> 16) as u16 & 0x7fff
        };
        (if value >= 0x7c00 {
            value - 0x400
        } else {
            value
        }) | (bits >> 48) as u16 & 0x8000
    };
    let inputs: Vec<(u16, u16, u16)> = (0..4000).map(|_| (any(), any(), any())).collect();
    let unsigned_zero = |bits: u16| if bits == 0x8000 { 0 } else { bits };
    let exact: [(&str, fn(i128, i128, i128) -> i128); 4] = [
        ("fma.rn.f16 %d, %a, %b, %c;", |a, b, c| a * b + (c << 24)),
        ("mul.f16 %d, %a, %b;", |a, b, _| a * b),
        ("add.f16 %d, %a, %c;", |a, _, c| (a + c) << 24),
        ("sub.f16 %d, %a, %c;", |a, _, c| (a - c) << 24),
    ];
    for (code, reference) in exact {
        let got: Vec<u16> = map(code, ["b16"; 4], &inputs);
        for (&(a, b, c), got) in inputs.iter().zip(got) {
            let want = nearest_f16(reference(f16_units(a), f16_units(b), f16_units(c)));
            assert_eq!(
                unsigned_zero(got),
                unsigned_zero(want),
                "{code} of {a:#x}, {b:#x}, {c:#x}"
            );
        }
    }
    // A product half way between two bf16, and addends too small for anything but the direction.
    let ties: [(u16, u16, u16); 3] = [
        (0x3f81, 0x3fc0, 0x0d80),
        (0x3f81, 0x3fc0, 0x8d80),
        (0x3f81, 0x3fc0, 0),
    ];
    let got: Vec<u16> = map("fma.rn.bf16 %d, %a, %b, %c;", ["b16"; 4], &ties);
    assert_eq!(got, [0x3fc2, 0x3fc1, 0x3fc2]);
    let some: [(u16, u16, u16); 3] = [
        (0x3c00, 0xbc00, 0),
        (0x3c00, 0x3c00, 0),
        (0x7e01, 0x3c00, 0),
    ];
    let got: Vec<u16> = map("fma.rn.relu.f16 %d, %a, %b, %c;", ["b16"; 4], &some);
    assert_eq!(got, [0, 0x3c00, 0x7fff]);
}

#[test]
fn pairs_go_lane_by_lane() {
    let run = |code: &str, a: u32, b: u32| -> u32 {
        map::<u32, u32, u32, u32>(code, ["b32"; 4], &[(a, b, 0)])[0]
    };
    assert_eq!(
        run("add.s16x2 %d, %a, %b;", 0x7fff_ffff, 0x0001_0001),
        0x8000_0000
    );
    assert_eq!(
        run("min.relu.s16x2 %d, %a, %b;", 0xffff_0005, 0x0003_0004),
        0x0000_0004
    );
    assert_eq!(
        run("max.u16x2 %d, %a, %b;", 0xffff_0005, 0x0003_0006),
        0xffff_0006
    );
    // 1.0 and 2.0 against 1.5 and 1.5.
    assert_eq!(
        run("set.lt.f16x2.f16x2 %d, %a, %b;", 0x4000_3c00, 0x3e00_3e00),
        0x0000_3c00
    );
    assert_eq!(
        run("set.gt.u32.f16x2 %d, %a, %b;", 0x4000_3c00, 0x3e00_3e00),
        0xffff_0000
    );
    let both = "setp.gt.f16x2 %p0|%p1, %a, %b; selp.b32 %x0, 1, 0, %p0; selp.b32 %x1, 2, 0, %p1; or.b32 %d, %x0, %x1;";
    assert_eq!(run(both, 0x4000_3c00, 0x3e00_3e00), 2);
    assert_eq!(
        run("min.xorsign.abs.f32 %d, %a, %b;", 0xc000_0000, 0x3f80_0000),
        0xbf80_0000
    );
    assert_eq!(
        run("max.NaN.f16x2 %d, %a, %b;", 0x7e00_3c00, 0x3c00_4000),
        0x7fff_4000
    );
    assert_eq!(
        run("max.f32 %d, %a, %b;", 0x7fc0_0000, 0xffc0_0001),
        0x7fff_ffff
    );
    assert_eq!(
        run("min.f32 %d, %a, %b, 0f3F000000;", 0x3f80_0000, 0x7fc0_0000),
        0x3f00_0000
    );
    assert_eq!(
        run("fma.rn.oob.f16x2 %d, %a, %b, 0;", 0xffff_4000, 0x3c00_4000),
        0x0000_4400
    );
}

#[test]
fn bytes_as_floats() {
    // Every number of both formats survives the way to half precision and back; NaN becomes the canonical one.
    for (name, nan_from) in [("e4m3x2", 0x7f), ("e5m2x2", 0x7d)] {
        let inputs: Vec<(u16, u16, u16)> = (0..256).map(|byte| (byte | 0x3800, 0, 0)).collect();
        let code = format!("cvt.rn.f16x2.{name} %x0, %a; cvt.rn.satfinite.{name}.f16x2 %d, %x0;");
        let got: Vec<u16> = map(&code, ["b16"; 4], &inputs);
        for (byte, got) in (0_u16..256).zip(got) {
            let want = match byte & 0x7f {
                magnitude if magnitude >= nan_from => 0x7f,
                0x7c if name == "e5m2x2" => byte & 0x80 | 0x7b,
                _ => byte,
            };
            assert_eq!(got, want | 0x3800, "{name} {byte:#x}");
        }
    }
    let inputs: Vec<(f32, f32, f32)> = [448.0, 1e9, f32::INFINITY, 0.00098, -1.0625, -1.1875]
        .map(|value| (value, -0.0, 0.0))
        .to_vec();
    let to = |name: &str| -> Vec<u32> {
        map(
            &format!("cvt.rn.satfinite.{name}.f32 %h0, %a, %b; cvt.u32.u16 %d, %h0;"),
            ["f32", "f32", "f32", "u32"],
            &inputs,
        )
    };
    assert_eq!(
        to("e4m3x2"),
        [0x7e80, 0x7e80, 0x7e80, 0x0180, 0xb880, 0xba80]
    );
    assert_eq!(
        to("e5m2x2"),
        [0x5f80, 0x7b80, 0x7b80, 0x1480, 0xbc80, 0xbd80]
    );
    let tf32 = |form: &str, a: u32| -> u32 {
        let code = format!("mov.b32 %f0, %a; cvt.{form}.tf32.f32 %d, %f0;");
        map::<u32, u32, u32, u32>(&code, ["b32"; 4], &[(a, 0, 0)])[0]
    };
    assert_eq!(tf32("rna", 0x3f80_1000), 0x3f80_2000);
    assert_eq!(tf32("rn", 0x3f80_1000), 0x3f80_0000);
    assert_eq!(tf32("rz.relu", 0xbf80_1000), 0);
    assert_eq!(tf32("rna.satfinite", 0x7f80_0000), 0x7f7f_e000);
    assert_eq!(tf32("rna", 0xff80_0001), 0x7fff_ffff);
}

#[test]
fn rarer_bits() {
    let run = |code: &str, a: u32, b: u32, c: u32| -> u32 {
        map::<u32, u32, u32, u32>(code, ["b32"; 4], &[(a, b, c)])[0]
    };
    assert_eq!(run("szext.clamp.s32 %d, %a, %b;", 0xff, 8, 0), u32::MAX);
    assert_eq!(run("szext.clamp.u32 %d, %a, %b;", 0xfff, 8, 0), 0xff);
    assert_eq!(
        run("szext.clamp.s32 %d, %a, %b;", 0x8000_0000, 32, 0),
        0x8000_0000
    );
    assert_eq!(run("szext.wrap.s32 %d, %a, %b;", 0x8000_0000, 32, 0), 0);
    // The ISA's own examples.
    for (base, offset, want) in [(3, 1, 3), (3, -1, 3), (2, 1, 3), (2, -1, 1), (2, 0, -1)] {
        let code = "fns.b32 %d, %a, %b, %c;";
        assert_eq!(
            run(code, 0xaaaa_aaaa, base, offset as u32),
            want as u32,
            "{base} {offset}"
        );
    }
    let lop = "setp.eq.u32 %p1, 0, 1; lop3.or.b32 %x0|%p0, %a, %b, %c, 0x80, %p1; selp.b32 %x1, 1, 0, %p0; shl.b32 %x1, %x1, 31; or.b32 %d, %x0, %x1;";
    assert_eq!(run(lop, 7, 6, 12), 0x8000_0004);
    assert_eq!(run(lop, 1, 6, 8), 0);
    assert_eq!(
        run(
            "mad24.hi.sat.s32 %d, %a, %b, %c;",
            0x7f_ffff,
            0x7f_ffff,
            0x7fff_ffff
        ),
        0x7fff_ffff
    );
    assert_eq!(
        run(
            "cvt.pack.sat.u8.s32.b32 %d, %a, %b, %c;",
            -5_i32 as u32,
            300,
            0x1234_5678
        ),
        0x5678_00ff
    );
    assert_eq!(
        run(
            "cvt.pack.sat.s16.s32 %d, %a, %b;",
            40000,
            -40000_i32 as u32,
            0
        ),
        0x7fff_8000
    );
    assert_eq!(
        run(
            "cvt.pack.sat.s4.s32.b32 %d, %a, %b, %c;",
            9,
            -9_i32 as u32,
            1
        ),
        0x178
    );
    let wide = ".reg .b128 %q; cvt.u64.u32 %y0, %a; cvt.u64.u32 %y1, %b; mov.b128 %q, {%y0, %y1}; mov.b128 {%y2, %y3}, %q;
                mov.b128 {%x0, %x1, %x2, %x3}, %q; sub.u64 %y2, %y3, %y2; cvt.u32.u64 %d, %y2; add.u32 %d, %d, %x3;";
    assert_eq!(run(wide, 5, 12, 0), 7);
    let vector =
        ".reg .v2 .b32 %v; mov.b64 %y0, {%a, %b}; mov.b64 %v, %y0; sub.u32 %d, %v.y, %v.x;";
    assert_eq!(run(vector, 5, 12, 0), 7);
    // |b| beyond 2^126.
    assert_eq!(
        run("div.approx.f32 %d, %a, %b;", 0xc060_0000, 0xff7f_ffff, 0),
        0
    );
    assert_eq!(
        run("div.full.f32 %d, %a, %b;", 0x7e80_0000, 0x7f00_0000, 0),
        0x3f00_0000
    );
    let gross: Vec<u64> = map(
        "rcp.approx.ftz.f64 %d, %a;",
        ["b64"; 4],
        &[
            (3.0_f64.to_bits(), 0_u64, 0_u64),
            (1, 0, 0),
            (0x7fe0_0000_0000_0000, 0, 0),
            (0x7ff0_0000_0000_0001, 0, 0),
        ],
    );
    assert_eq!(gross[0] as u32, 0);
    assert!((f64::from_bits(gross[0]) * 3.0 - 1.0).abs() < 1e-6);
    assert_eq!(gross[1..], [f64::INFINITY.to_bits(), 0, f64::NAN.to_bits()]);
}

#[test]
fn video_instructions() {
    let run = |code: &str, a: u32, b: u32, c: u32| -> u32 {
        map::<u32, u32, u32, u32>(code, ["b32"; 4], &[(a, b, c)])[0]
    };
    let (a, b, c) = (0x80ff_7f01, 0x0102_fe03, 0x1122_3344);
    assert_eq!(
        run("vadd.s32.s32.s32 %d, %a.b2, %b.b1;", a, b, c),
        -3_i32 as u32
    );
    assert_eq!(
        run("vadd.u32.u32.u32 %d, %a.b2, %b.b1;", a, b, c),
        0xff + 0xfe
    );
    assert_eq!(run("vsub.u32.u32.u32.sat %d, %a.b0, %b.b0;", a, b, c), 0);
    assert_eq!(
        run("vadd.u32.u32.u32.sat %d.b1, %a.b2, %b.b1, %c;", a, b, c),
        0x1122_ff44
    );
    assert_eq!(
        run("vabsdiff.u32.u32.s32 %d.h1, %a.h0, %b.b1, %c;", a, b, c),
        0x7f03_3344
    );
    assert_eq!(
        run("vmax.s32.s32.s32.min %d, %a.h1, %b.h1, %c;", a, b, 7),
        7
    );
    assert_eq!(
        run("vshl.u32.u32.u32.sat.clamp %d, %a, %b;", 1, 40, 0),
        u32::MAX
    );
    assert_eq!(
        run(
            "vshr.s32.s32.u32.wrap.add %d, %a, %b, %c;",
            0x8000_0000,
            63,
            1
        ),
        0
    );
    assert_eq!(
        run("vset.s32.u32.lt.add %d, %a, %b, %c;", u32::MAX, 0, 5),
        6
    );
    assert_eq!(
        run("vmad.s32.s32.u32 %d, %a.h0, -%b.b0, %c;", 10, 3, 5),
        -25_i32 as u32
    );
    assert_eq!(
        run("vmad.u32.u32.u32.po.shr7 %d, %a, %b, %c;", 64, 3, 63),
        2
    );
    assert_eq!(
        run("vmad.s32.s32.s32.sat %d, %a, %b, -%c;", 0x7fff_ffff, 2, 1),
        0x7fff_ffff
    );
    assert_eq!(
        run(
            "vadd2.s32.s32.s32.sat %d, %a, %b, %c;",
            0x7fff_8000,
            0x0001_ffff,
            0
        ),
        0x7fff_8000
    );
    assert_eq!(
        run(
            "vavrg4.u32.u32.u32 %d.b20, %a, %b.b7654, %c;",
            0x0001_0203,
            0x0003_0405,
            c
        ),
        0x1102_3304
    );
    assert_eq!(
        run(
            "vabsdiff4.u32.u32.u32.add %d, %a, %b, %c;",
            0x0102_0304,
            0x0403_0201,
            100
        ),
        108
    );
    assert_eq!(
        run(
            "vset2.s32.s32.lt %d.h1, %a.h10, %b.h32, %c;",
            0xffff_0000,
            0,
            c
        ),
        0x0001_3344
    );
}

#[test]
fn special_registers_of_one_block_clusters() {
    let run = |code: &str| -> u32 { map::<u32, u32, u32, u32>(code, ["b32"; 4], &[(0, 0, 0)])[0] };
    for (name, want) in [
        ("%nclusterid.x", 1),
        ("%clusterid.y", 0),
        ("%cluster_ctaid.x", 0),
        ("%cluster_nctaid.z", 1),
        ("%cluster_ctarank", 0),
        ("%cluster_nctarank", 1),
        ("%ntid.w", 0),
        ("%aggr_smem_size", 0),
        ("%pm7", 0),
        ("%envreg31", 0),
    ] {
        assert_eq!(run(&format!("mov.u32 %d, {name};")), want, "{name}");
    }
    assert_eq!(
        run("mov.pred %p0, %is_explicit_cluster; selp.b32 %d, 1, 0, %p0;"),
        0
    );
    // The halves of the clock agree with the whole to the second.
    let clock = "mov.u32 %x0, %globaltimer_hi; mov.u64 %y0, %globaltimer; shr.u64 %y0, %y0, 32; cvt.u32.u64 %x1, %y0; sub.u32 %d, %x1, %x0;";
    assert!(run(clock) <= 1);
    assert_eq!(run("mov.u64 %y0, %pm3_64; cvt.u32.u64 %d, %y0;"), 0);
}
