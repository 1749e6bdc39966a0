//! `cvt`: between all formats, in all roundings; `cvt.pack`.

use super::{Table, each, halves, named, plain};
use crate::form::{Map, exact, hex, number};
use crate::reference::exact::{Layout, Number, Rounding, encode, round};
use crate::reference::float::{Format, Round};
use crate::types::{Since, Ty};

const ALWAYS: Since = Since::ALWAYS;
const ALL_INTEGERS: [Ty; 8] = [
    Ty::U8,
    Ty::S8,
    Ty::U16,
    Ty::S16,
    Ty::U32,
    Ty::S32,
    Ty::U64,
    Ty::S64,
];
const FLOATS: [Ty; 4] = [Ty::F16, Ty::Bf16, Ty::F32, Ty::F64];
const FRACTIONAL: [&str; 4] = ["rn", "rz", "rm", "rp"];
const INTEGRAL: [(&str, Round); 4] = [
    ("rni", Round::Nearest),
    ("rzi", Round::Zero),
    ("rmi", Round::Down),
    ("rpi", Round::Up),
];

pub(super) fn add(table: &mut Table) {
    integers(table);
    to_floats(table);
    to_integers(table);
    between_floats(table);
    narrow_pairs(table);
    tensor_float(table);
    eighths(table);
    pack(table);
}

/// bf16 converts to and from everything since sm_90, to and from f32 since sm_80.
fn since(a: Ty, b: Ty) -> Since {
    let brain = a == Ty::Bf16 || b == Ty::Bf16;
    match (brain, a == Ty::F32 || b == Ty::F32) {
        (true, true) => Since(71, 80),
        (true, false) => Since(78, 90),
        _ => ALWAYS,
    }
}

/// An integer in its register: 8-bit results fill a wider one by their sign.
fn in_register(ty: Ty, value: i128) -> u128 {
    let bits = ty.stored_bits();
    value as u128 & ((1 << bits) - 1)
}

fn integers(table: &mut Table) {
    for from in ALL_INTEGERS {
        for to in ALL_INTEGERS {
            for sat in ["", "sat"] {
                let name = named("cvt", &[sat, to.name(), from.name()]);
                let saturates = !sat.is_empty();
                let judge = exact(move |x| {
                    let value = from.value(x[0]);
                    let bits = if saturates {
                        to.clamp(value)
                    } else {
                        to.wrap(value)
                    };
                    in_register(to, to.value(bits))
                });
                let map = Map::new(&[from], to, plain(&name, 1), judge);
                table.map(name, ALWAYS, map);
            }
        }
    }
}

fn to_floats(table: &mut Table) {
    for from in ALL_INTEGERS {
        for to in FLOATS {
            let Some(format) = to.format() else { continue };
            let ftz: &[&str] = if to == Ty::F32 { &["", "ftz"] } else { &[""] };
            let sat: &[&str] = if to == Ty::Bf16 { &[""] } else { &["", "sat"] };
            for words in each(&[&FRACTIONAL, ftz, sat]) {
                let rounding = rounding(words[0]);
                let saturates = words[2] == "sat";
                let name = named(
                    "cvt",
                    &[words[0], words[1], words[2], to.name(), from.name()],
                );
                let judge = number(format, false, move |x| {
                    let bits = format.of_integer(rounding, from.value(x[0]));
                    if saturates {
                        format.saturate(bits)
                    } else {
                        bits
                    }
                });
                let map = Map::new(&[from], to, plain(&name, 1), judge);
                table.map(name, since(from, to), map);
            }
        }
    }
}

fn rounding(word: &str) -> Round {
    Round::ALL
        .into_iter()
        .find(|(name, _)| *name == word)
        .map_or(Round::Nearest, |(_, round)| round)
}

/// Values around the bounds of the integer types, where conversions saturate.
fn bounds(format: Format) -> Vec<u128> {
    let mut values = Vec::new();
    for ty in ALL_INTEGERS {
        for bound in [ty.least(), ty.greatest()] {
            for around in [-1, 0, 1] {
                for rounding in [Round::Down, Round::Up] {
                    values.push(format.of_integer(rounding, bound + around));
                }
            }
            // And a half beside them.
            let near = format.of_integer(Round::Zero, bound);
            values.extend([near ^ 1, near.wrapping_add(1), near.saturating_sub(1)]);
        }
    }
    for half in [
        0.5_f64, 1.5, 2.5, -0.5, -1.5, -0.4999, 254.5, 255.5, -128.5, -129.5, 32767.5,
    ] {
        let bits = u128::from(half.to_bits());
        values.push(Format::F64.convert(format, Round::Zero, bits));
    }
    values.retain(|value| value >> format.bits() == 0);
    values.sort_unstable();
    values.dedup();
    values
}

fn to_integers(table: &mut Table) {
    for from in FLOATS {
        let Some(format) = from.format() else {
            continue;
        };
        let ftz: &[&str] = if from == Ty::F32 { &["", "ftz"] } else { &[""] };
        for to in ALL_INTEGERS {
            for (word, rounding) in INTEGRAL {
                for words in each(&[ftz, &["", "sat"]]) {
                    let flushes = words[0] == "ftz";
                    let name = named("cvt", &[word, words[0], words[1], to.name(), from.name()]);
                    let judge = exact(move |x| {
                        let x = if flushes { format.flush(x[0]) } else { x[0] };
                        // NaN: 0, or the top bit where either side has 64 bits.
                        let bits = match format.integer(rounding, x) {
                            Some(value) => to.clamp(value),
                            None if from == Ty::F64 || to.bits() == 64 => 1 << (to.bits() - 1),
                            None => 0,
                        };
                        in_register(to, to.value(bits))
                    });
                    let map = Map::new(&[from], to, plain(&name, 1), judge);
                    table.map(name, since(from, to), map.with(bounds(format)));
                }
            }
        }
    }
}

fn between_floats(table: &mut Table) {
    for from in FLOATS {
        for to in FLOATS {
            let (Some(source), Some(target)) = (from.format(), to.format()) else {
                continue;
            };
            let ftz: &[&str] = if from == Ty::F32 || to == Ty::F32 {
                // .ftz is of single precision; bf16 keeps its subnormal numbers.
                if from == Ty::Bf16 || to == Ty::Bf16 {
                    &[""]
                } else {
                    &["", "ftz"]
                }
            } else {
                &[""]
            };
            let sat: &[&str] = if to == Ty::Bf16 || from == Ty::Bf16 {
                &[""]
            } else {
                &["", "sat"]
            };
            let widens = target.mantissa_bits() >= source.mantissa_bits()
                && target.exponent_bits() >= source.exponent_bits();
            let modes: Vec<&str> = if from == to {
                let mut modes = vec![""];
                modes.extend(INTEGRAL.map(|(word, _)| word));
                modes
            } else if widens {
                vec![""]
            } else {
                FRACTIONAL.to_vec()
            };
            if from == to && from == Ty::Bf16 {
                continue;
            }
            for words in each(&[&modes, ftz, sat]) {
                let (flushes, saturates) = (words[1] == "ftz", words[2] == "sat");
                let integral = INTEGRAL.into_iter().find(|(word, _)| *word == words[0]);
                let rounding = rounding(words[0]);
                let name = named(
                    "cvt",
                    &[words[0], words[1], words[2], to.name(), from.name()],
                );
                let judge = number(target, false, move |x| {
                    let flush = |format: Format, x: u128| {
                        if flushes && format == Format::F32 {
                            format.flush(x)
                        } else {
                            x
                        }
                    };
                    let x = flush(source, x[0]);
                    let value = match integral {
                        Some((_, round)) => source.integral(round, x),
                        None => source.convert(target, rounding, x),
                    };
                    let value = flush(target, value);
                    if saturates {
                        target.saturate(value)
                    } else {
                        value
                    }
                });
                let map = Map::new(&[from], to, plain(&name, 1), judge);
                table.map(name, since(from, to), map);
            }
        }
    }
}

/// f32 into one or two halves, with `.relu` and `.satfinite`.
fn narrow_pairs(table: &mut Table) {
    for (pair, single) in [(Ty::F16x2, Ty::F16), (Ty::Bf16x2, Ty::Bf16)] {
        let Some(format) = single.format() else {
            continue;
        };
        for words in each(&[&["rn", "rz"], &["", "relu"], &["", "satfinite"]]) {
            let round = rounding(words[0]);
            let (relu, finite) = (words[1] == "relu", words[2] == "satfinite");
            let convert = move |x: u128| {
                let bits = Format::F32.convert(format, round, x);
                if format.is_nan(bits) {
                    return format.canonical_nan();
                }
                let bits = if finite && format.is_infinite(bits) {
                    bits - 1
                } else {
                    bits
                };
                if relu { format.relu(bits) } else { bits }
            };
            let since = Since(if finite { 81 } else { 70 }, 80);
            let name = named("cvt", &[words[0], words[1], words[2], pair.name(), "f32"]);
            // The first source becomes the upper half.
            let judge = move |x: &[u128], got: &[u128]| {
                let wanted = [convert(x[1]), convert(x[0])];
                let got = halves(got[0]);
                if (0..2).all(|i| format.same(got[i], wanted[i])) {
                    Ok(())
                } else {
                    Err(hex(&[wanted[1] << 16 | wanted[0]]))
                }
            };
            let map = Map::new(&[Ty::F32, Ty::F32], pair, plain(&name, 2), judge);
            table.map(name, since, map);
            if relu || finite {
                let name = named("cvt", &[words[0], words[1], words[2], single.name(), "f32"]);
                let judge = number(format, false, move |x| convert(x[0]));
                let map = Map::new(&[Ty::F32], single, plain(&name, 1), judge);
                table.map(name, since, map);
            }
        }
    }
}

/// f32 with a significand of 10 bits, in the upper bits of a register.
fn tensor_float(table: &mut Table) {
    let layout = Layout {
        mantissa: 10,
        least: -126,
        greatest: 127,
    };
    for words in each(&[&["rna", "rn", "rz"], &["", "relu"], &["", "satfinite"]]) {
        if words[0] == "rna" && words[1] == "relu" {
            continue;
        }
        let since = if words[0] == "rna" && words[2].is_empty() {
            Since(70, 80)
        } else if words[0] == "rna" {
            Since(81, 80)
        } else if words[2].is_empty() {
            Since(78, 90)
        } else {
            Since(81, 90)
        };
        let mode = match words[0] {
            "rna" => Rounding::TiesAway,
            word => Rounding::To(rounding(word)),
        };
        let (relu, finite) = (words[1] == "relu", words[2] == "satfinite");
        let name = named("cvt", &[words[0], words[2], words[1], "tf32", "f32"]);
        // The lower 13 bits are not said to be anything.
        let judge = move |x: &[u128], got: &[u128]| {
            let format = Format::F32;
            let x = x[0];
            let nan = format.is_nan(x);
            let wanted = if nan {
                format.canonical_nan()
            } else {
                let largest = format.infinity() - (1 << 13);
                let sign = x & format.sign();
                let magnitude = if format.is_infinite(x) {
                    if finite { largest } else { format.infinity() }
                } else {
                    let (units, place) = round(layout, mode, &Number::of(format, x), false);
                    match encode(layout, &units, place) {
                        Some(bits) => bits << 13,
                        None if finite || words_zero(mode) => largest,
                        None => format.infinity(),
                    }
                };
                let value = sign | magnitude;
                if relu { format.relu(value) } else { value }
            };
            let got = got[0];
            let same = if nan {
                format.is_nan(got) || format.is_nan(got & !0x1fff)
            } else {
                got & !0x1fff == wanted
            };
            if same { Ok(()) } else { Err(hex(&[wanted])) }
        };
        let map = Map::new(&[Ty::F32], Ty::B32, plain(&name, 1), judge);
        table.map(name, since, map);
    }
}

fn words_zero(mode: Rounding) -> bool {
    mode == Rounding::To(Round::Zero)
}

/// The 8-bit formats, which come in pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eighth {
    E4m3,
    E5m2,
}

impl Eighth {
    const fn layout(self) -> Layout {
        match self {
            Self::E4m3 => Layout {
                mantissa: 3,
                least: -6,
                greatest: 8,
            },
            Self::E5m2 => Layout {
                mantissa: 2,
                least: -14,
                greatest: 15,
            },
        }
    }

    /// The largest finite magnitude; e4m3 has a NaN where the next would be.
    const fn largest(self) -> u128 {
        match self {
            Self::E4m3 => 0x7e,
            Self::E5m2 => 0x7b,
        }
    }

    /// To nearest, saturated; NaN becomes 0x7f.
    fn of(self, format: Format, x: u128, relu: bool) -> u128 {
        if format.is_nan(x) {
            return 0x7f;
        }
        if relu && format.is_negative(x) {
            return 0;
        }
        let sign = u128::from(format.is_negative(x)) << 7;
        if format.is_infinite(x) {
            return sign | self.largest();
        }
        let nearest = Rounding::To(Round::Nearest);
        let (units, place) = round(self.layout(), nearest, &Number::of(format, x), false);
        let magnitude = encode(self.layout(), &units, place).unwrap_or(0x7f);
        sign | magnitude.min(self.largest())
    }

    /// As f16 holds it, exactly.
    fn f16(self, x: u128) -> u128 {
        let format = Format::F16;
        let sign = (x >> 7 & 1) << 15;
        let magnitude = x & 0x7f;
        match self {
            // A shorter f16.
            Self::E5m2 => sign | magnitude << 8,
            Self::E4m3 if magnitude == 0x7f => format.canonical_nan(),
            Self::E4m3 => {
                let (exponent, fraction) = (magnitude >> 3, magnitude & 7);
                let number = Number {
                    negative: false,
                    mantissa: (if exponent == 0 {
                        fraction
                    } else {
                        fraction | 8
                    })
                    .into(),
                    exponent: exponent.max(1) as i64 - 10,
                };
                let rounding = Round::Nearest;
                sign | crate::reference::exact::rounded(format, rounding, &number, false)
            }
        }
    }
}

fn eighths(table: &mut Table) {
    for (kind, word) in [(Eighth::E4m3, "e4m3x2"), (Eighth::E5m2, "e5m2x2")] {
        for relu in ["", "relu"] {
            let clamps = !relu.is_empty();
            let since = Since(81, 89);
            let name = named("cvt", &["rn", "satfinite", relu, word, "f32"]);
            let judge = exact(move |x| {
                kind.of(Format::F32, x[0], clamps) << 8 | kind.of(Format::F32, x[1], clamps)
            });
            let map = Map::new(&[Ty::F32, Ty::F32], Ty::B16, plain(&name, 2), judge);
            table.map(name, since, map.with(bounds(Format::F32)));
            let name = named("cvt", &["rn", "satfinite", relu, word, "f16x2"]);
            let judge = exact(move |x| {
                let [low, high] = halves(x[0]);
                kind.of(Format::F16, high, clamps) << 8 | kind.of(Format::F16, low, clamps)
            });
            let map = Map::new(&[Ty::F16x2], Ty::B16, plain(&name, 1), judge);
            table.map(name, since, map);
            let name = named("cvt", &["rn", relu, "f16x2", word]);
            let judge = move |x: &[u128], got: &[u128]| {
                let wanted = [x[0] & 0xff, x[0] >> 8].map(|x| {
                    let value = kind.f16(x);
                    if clamps {
                        Format::F16.relu(value)
                    } else {
                        value
                    }
                });
                let got = halves(got[0]);
                if (0..2).all(|i| Format::F16.same(got[i], wanted[i])) {
                    Ok(())
                } else {
                    Err(hex(&[wanted[1] << 16 | wanted[0]]))
                }
            };
            let map = Map::new(&[Ty::B16], Ty::F16x2, plain(&name, 1), judge);
            // Every byte in the lower half.
            let bytes = (0..256).map(|x: u128| x << 8 | x.wrapping_mul(7) & 0xff);
            table.map(name, since, map.with(bytes.collect()));
        }
    }
}

/// Two integers saturated and packed, above what the third operand holds.
fn pack(table: &mut Table) {
    for (to, bits, signed) in [("u16", 16, false), ("s16", 16, true)] {
        let name = format!("cvt.pack.sat.{to}.s32");
        let judge = exact(move |x| pack_pair(x, bits, signed));
        let map = Map::new(&[Ty::S32, Ty::S32], Ty::B32, plain(&name, 2), judge);
        table.map(name, Since(65, 72), map.immediate(1));
    }
    for (to, bits, signed) in [
        ("u8", 8, false),
        ("s8", 8, true),
        ("u4", 4, false),
        ("s4", 4, true),
        ("u2", 2, false),
        ("s2", 2, true),
    ] {
        let name = format!("cvt.pack.sat.{to}.s32.b32");
        let judge = exact(move |x| (x[2] << (2 * bits) | pack_pair(x, bits, signed)) & 0xffff_ffff);
        let map = Map::new(
            &[Ty::S32, Ty::S32, Ty::B32],
            Ty::B32,
            plain(&name, 3),
            judge,
        );
        let sm = if bits == 8 { 72 } else { 75 };
        table.map(name, Since(65, sm), map.immediate(2));
    }
}

fn pack_pair(x: &[u128], bits: u32, signed: bool) -> u128 {
    let (least, greatest) = if signed {
        (-(1_i128 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    };
    let clamp = |x: u128| {
        let value = Ty::S32.value(x).clamp(least, greatest);
        value as u128 & ((1 << bits) - 1)
    };
    clamp(x[0]) << bits | clamp(x[1])
}
