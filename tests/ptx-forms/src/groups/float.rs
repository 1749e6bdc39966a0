//! Floating-point arithmetic: correctly rounded where the instruction set says so, within its stated
//! error where it says approximate.

use super::{Table, each, named, plain};
use crate::form::{Map, exact, hex, number};
use crate::reference::exact::{Number, Real};
use crate::reference::float::{Format, Round};
use crate::types::{Since, Ty};

const ALWAYS: Since = Since::ALWAYS;
/// Half-precision forms that came with sm_80, with sm_90.
const AMPERE: Since = Since(70, 80);
const HOPPER: Since = Since(78, 90);

pub(super) fn add(table: &mut Table) {
    sums(table);
    fused(table);
    quotients(table);
    signs(table);
    extremes(table);
    tests(table);
    approximations(table);
}

fn rounding(word: &str) -> Round {
    Round::ALL
        .into_iter()
        .find(|(name, _)| *name == word)
        .map_or(Round::Nearest, |(_, round)| round)
}

/// What `.ftz` and `.sat` and `.relu` do around an operation.
#[derive(Debug, Clone, Copy)]
struct Modes {
    format: Format,
    ftz: bool,
    sat: bool,
    relu: bool,
}

impl Modes {
    fn of(format: Format, words: &[&str]) -> Self {
        let has = |word| words.contains(&word);
        Self {
            format,
            ftz: has("ftz"),
            sat: has("sat"),
            relu: has("relu"),
        }
    }

    fn input(self, bits: u128) -> u128 {
        if self.ftz {
            self.format.flush(bits)
        } else {
            bits
        }
    }

    fn output(self, bits: u128) -> u128 {
        let bits = if self.ftz {
            self.format.flush(bits)
        } else {
            bits
        };
        if self.sat {
            self.format.saturate(bits)
        } else if self.relu {
            self.format.relu(bits)
        } else {
            bits
        }
    }
}

/// A form whose result is one operation on its inputs, modes around it.
fn operation(
    table: &mut Table,
    opcode: &str,
    words: &[&str],
    ty: Ty,
    inputs: usize,
    since: Since,
    result: impl Fn(Format, &[u128]) -> u128 + Send + Sync + 'static,
) {
    let Some(format) = ty.format() else { return };
    let mut all = words.to_vec();
    all.push(ty.name());
    let name = named(opcode, &all);
    let modes = Modes::of(format, words);
    let judge = number(format, ty.pair(), move |x| {
        let x: Vec<u128> = x.iter().map(|&x| modes.input(x)).collect();
        modes.output(result(format, &x))
    });
    let map = Map::new(&vec![ty; inputs], ty, plain(&name, inputs), judge);
    let map = match ty {
        Ty::F32 | Ty::F64 => map.immediate(inputs - 1),
        _ => map,
    };
    table.map(name, since, map);
}

/// Rounding modifiers, none included.
const ANY: &[&str] = &["", "rn", "rz", "rm", "rp"];
const DIRECTED: &[&str] = &["rn", "rz", "rm", "rp"];
const NEAREST: &[&str] = &["", "rn"];
const FTZ: &[&str] = &["", "ftz"];
const SAT: &[&str] = &["", "sat"];
const HALVES: [Ty; 2] = [Ty::F16, Ty::F16x2];
const BRAINS: [Ty; 2] = [Ty::Bf16, Ty::Bf16x2];

fn sums(table: &mut Table) {
    for opcode in ["add", "sub", "mul"] {
        let result = move |round: Round| {
            move |format: Format, x: &[u128]| match opcode {
                "add" => format.add(round, x[0], x[1]),
                "sub" => format.sub(round, x[0], x[1]),
                _ => format.mul(round, x[0], x[1]),
            }
        };
        for words in each(&[ANY, FTZ, SAT]) {
            let round = rounding(words[0]);
            operation(table, opcode, &words, Ty::F32, 2, ALWAYS, result(round));
        }
        for words in each(&[ANY]) {
            let round = rounding(words[0]);
            operation(table, opcode, &words, Ty::F64, 2, ALWAYS, result(round));
        }
        for ty in HALVES {
            for words in each(&[NEAREST, FTZ, SAT]) {
                operation(table, opcode, &words, ty, 2, ALWAYS, result(Round::Nearest));
            }
        }
        for ty in BRAINS {
            for words in each(&[NEAREST]) {
                operation(table, opcode, &words, ty, 2, HOPPER, result(Round::Nearest));
            }
        }
    }
}

fn fused(table: &mut Table) {
    let result =
        |round: Round| move |format: Format, x: &[u128]| format.fma(round, x[0], x[1], x[2]);
    for opcode in ["fma", "mad"] {
        for words in each(&[DIRECTED, FTZ, SAT]) {
            operation(
                table,
                opcode,
                &words,
                Ty::F32,
                3,
                ALWAYS,
                result(rounding(words[0])),
            );
        }
        for words in each(&[DIRECTED]) {
            operation(
                table,
                opcode,
                &words,
                Ty::F64,
                3,
                ALWAYS,
                result(rounding(words[0])),
            );
        }
    }
    for ty in HALVES {
        for words in each(&[&["rn"], FTZ, SAT]) {
            operation(table, "fma", &words, ty, 3, ALWAYS, result(Round::Nearest));
        }
        for words in each(&[&["rn"], FTZ, &["relu"]]) {
            operation(table, "fma", &words, ty, 3, AMPERE, result(Round::Nearest));
        }
    }
    for ty in BRAINS {
        for words in each(&[&["rn"], &["", "relu"]]) {
            operation(table, "fma", &words, ty, 3, AMPERE, result(Round::Nearest));
        }
    }
    for ty in [HALVES, BRAINS].concat() {
        let Some(format) = ty.format() else { continue };
        for words in each(&[&["rn"], &["oob"], &["", "relu"]]) {
            let name = named("fma", &[words[0], words[1], words[2], ty.name()]);
            let modes = Modes::of(format, &words);
            // Which NaN stands for out of bounds is not said, so that inputs with any are not judged.
            let judge = move |x: &[u128], got: &[u128]| {
                let shifts: &[u32] = if ty.pair() { &[0, 16] } else { &[0] };
                for shift in shifts {
                    let part: Vec<u128> = x.iter().map(|x| x >> shift & 0xffff).collect();
                    let wanted =
                        modes.output(format.fma(Round::Nearest, part[0], part[1], part[2]));
                    if !part.iter().any(|&x| format.is_nan(x))
                        && !format.same(got[0] >> shift & 0xffff, wanted)
                    {
                        return Err(hex(&[wanted << shift]));
                    }
                }
                Ok(())
            };
            table.map(
                &name,
                Since(81, 90),
                Map::new(&[ty; 3], ty, plain(&name, 3), judge),
            );
        }
    }
}

fn quotients(table: &mut Table) {
    for (ty, ftz) in [(Ty::F32, FTZ), (Ty::F64, &[""][..])] {
        for words in each(&[DIRECTED, ftz]) {
            let round = rounding(words[0]);
            operation(table, "div", &words, ty, 2, ALWAYS, move |format, x| {
                format.div(round, x[0], x[1])
            });
            operation(table, "rcp", &words, ty, 1, ALWAYS, move |format, x| {
                format.div(round, format.one(), x[0])
            });
            operation(table, "sqrt", &words, ty, 1, ALWAYS, move |format, x| {
                format.sqrt(round, x[0])
            });
        }
    }
}

fn signs(table: &mut Table) {
    let forms = [
        (Ty::F32, FTZ, ALWAYS),
        (Ty::F64, &[""][..], ALWAYS),
        (Ty::F16, FTZ, ALWAYS),
        (Ty::F16x2, FTZ, ALWAYS),
        (Ty::Bf16, &[""][..], AMPERE),
        (Ty::Bf16x2, &[""][..], AMPERE),
    ];
    for (ty, ftz, since) in forms {
        for words in each(&[ftz]) {
            operation(table, "abs", &words, ty, 1, since, |format, x| {
                format.magnitude(x[0])
            });
            operation(table, "neg", &words, ty, 1, since, |format, x| {
                x[0] ^ format.sign()
            });
        }
    }
    for ty in [Ty::F32, Ty::F64] {
        let Some(format) = ty.format() else { continue };
        let name = format!("copysign.{}", ty.name());
        // The sign of the first on the second.
        let judge = exact(move |x| x[0] & format.sign() | format.magnitude(x[1]));
        let map = Map::new(&[ty, ty], ty, plain(&name, 2), judge).immediate(1);
        table.map(name, ALWAYS, map);
    }
}

/// The lesser or greater: +0 above -0, a number rather than a NaN unless `.NaN`.
fn extreme(format: Format, least: bool, words: &[&str], a: u128, b: u128) -> u128 {
    let xorsign = words.contains(&"xorsign");
    let (a_nan, b_nan) = (format.is_nan(a), format.is_nan(b));
    if a_nan && b_nan || (a_nan || b_nan) && words.contains(&"NaN") {
        return format.canonical_nan();
    }
    let sign = (a ^ b) & format.sign();
    let (x, y) = if xorsign {
        (format.magnitude(a), format.magnitude(b))
    } else {
        (a, b)
    };
    // In the order of the numbers.
    let order = |bits: u128| {
        let magnitude = format.magnitude(bits) as i128;
        if format.is_negative(bits) {
            -1 - magnitude
        } else {
            magnitude
        }
    };
    let chosen = if a_nan {
        y
    } else if b_nan || (order(x) <= order(y)) == least {
        x
    } else {
        y
    };
    if xorsign { chosen | sign } else { chosen }
}

fn extremes(table: &mut Table) {
    let nan: &[&str] = &["", "NaN"];
    let forms = [
        (Ty::F32, FTZ, nan, ALWAYS),
        (Ty::F64, &[""][..], &[""][..], ALWAYS),
        (Ty::F16, FTZ, nan, AMPERE),
        (Ty::F16x2, FTZ, nan, AMPERE),
        (Ty::Bf16, &[""][..], nan, AMPERE),
        (Ty::Bf16x2, &[""][..], nan, AMPERE),
    ];
    for (ty, ftz, nan, since) in forms {
        for xorsign in [false, true] {
            if xorsign && ty == Ty::F64 {
                continue;
            }
            for words in each(&[ftz, nan]) {
                for (opcode, least) in [("min", true), ("max", false)] {
                    let mut words = words.clone();
                    let mut since = since;
                    if words.contains(&"NaN") {
                        since = since.and(AMPERE);
                    }
                    if xorsign {
                        words.extend(["xorsign", "abs"]);
                        since = since.and(Since(72, 86));
                    }
                    let kept: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
                    operation(table, opcode, &words, ty, 2, since, move |format, x| {
                        let words: Vec<&str> = kept.iter().map(String::as_str).collect();
                        extreme(format, least, &words, x[0], x[1])
                    });
                }
            }
        }
    }
}

fn tests(table: &mut Table) {
    for ty in [Ty::F32, Ty::F64] {
        let Some(format) = ty.format() else { continue };
        for word in [
            "finite",
            "infinite",
            "number",
            "notanumber",
            "normal",
            "subnormal",
        ] {
            let name = named("testp", &[word, ty.name()]);
            let judge = exact(move |x| {
                let x = x[0];
                let finite = format.magnitude(x) < format.infinity();
                u128::from(match word {
                    "finite" => finite,
                    "infinite" => format.is_infinite(x),
                    "number" => !format.is_nan(x),
                    "notanumber" => format.is_nan(x),
                    // Zero counts as normal.
                    "normal" => finite && !format.is_subnormal(x),
                    _ => format.is_subnormal(x),
                })
            });
            table.map(
                &name,
                ALWAYS,
                Map::new(&[ty], Ty::Pred, plain(&name, 1), judge),
            );
        }
    }
}

/// An error that the instruction set allows.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// Units in the last place of the result's format.
    Ulps(u32),
    /// 2^-(tenths / 10) of the true value.
    Relative(u32),
    /// 2^-(tenths / 10).
    Absolute(u32),
}

/// One unit in the last place at a value: of the format's spacing there.
fn ulp(format: Format, value: &Real) -> Real {
    let top = value.distance(&Real::integer(0)).0.bits() as i64 - 1 - Real::BITS as i64;
    let bias = (1 << (format.exponent_bits() - 1)) - 1;
    let least = 1 - bias;
    Real::power(top.max(least) - i64::from(format.mantissa_bits()))
}

/// Whether a finite result is near enough to the true value.
fn near(format: Format, bound: Bound, got: u128, value: &Real) -> bool {
    let allowed = match bound {
        Bound::Ulps(count) => Real(ulp(format, value).0 * count),
        // A relative error cannot be kept below the smallest normal number: half of the spacing there.
        Bound::Relative(tenths) => {
            let spacing = Real(ulp(format, &Real(0.into())).0 / 2_u8);
            value.fraction(tenths).max(spacing)
        }
        Bound::Absolute(tenths) => Real::integer(1).fraction(tenths),
    };
    if format.is_nan(got) {
        return false;
    }
    let got = if format.is_infinite(got) {
        // As the number that would follow the largest.
        let mut number = Number::of(format, format.largest());
        number.mantissa += 1_u8;
        number.negative = format.is_negative(got);
        number.real()
    } else {
        Number::of(format, got).real()
    };
    got.distance(value) <= allowed
}

/// What an approximated function gives: special values exactly, the rest within a bound.
enum Truth {
    /// Exactly these bits (any NaN for a NaN).
    Exactly(u128),
    /// Near this.
    Near(Real, Bound),
    /// Not said.
    Anything,
}

fn approximate(
    table: &mut Table,
    name: &str,
    ty: Ty,
    ftz: bool,
    since: Since,
    inputs: usize,
    truth: impl Fn(&[u128]) -> Truth + Send + Sync + 'static,
) {
    let Some(format) = ty.format() else { return };
    let judge_one = move |x: &[u128], got: u128| {
        let x: Vec<u128> = x
            .iter()
            .map(|&x| if ftz { format.flush(x) } else { x })
            .collect();
        match truth(&x) {
            Truth::Anything => Ok(()),
            Truth::Exactly(bits) if format.same(got, bits) => Ok(()),
            Truth::Exactly(bits) => Err(hex(&[bits])),
            Truth::Near(value, bound) => {
                // With .ftz a subnormal result is flushed, before or after rounding.
                let least = Number::of(format, 1 << format.mantissa_bits()).real();
                let magnitude = value.distance(&Real::integer(0));
                let flushed = ftz && format.is_zero(got) && magnitude <= least;
                let subnormal = ftz && format.is_subnormal(got);
                if flushed || !subnormal && near(format, bound, got, &value) {
                    Ok(())
                } else {
                    Err(format!("{} ± {bound:?}", decimal(&value)))
                }
            }
        }
    };
    let judge = move |x: &[u128], got: &[u128]| {
        if !ty.pair() {
            return judge_one(x, got[0]);
        }
        for shift in [0, 16] {
            let part: Vec<u128> = x.iter().map(|x| x >> shift & 0xffff).collect();
            judge_one(&part, got[0] >> shift & 0xffff)?;
        }
        Ok(())
    };
    let map = Map::new(&vec![ty; inputs], ty, plain(name, inputs), judge);
    table.map(name, since, map);
}

/// For people.
fn decimal(value: &Real) -> String {
    let bits = value.0.bits() as i64;
    let shift = (bits - 53).max(0);
    let mantissa = i64::try_from(&value.0 >> shift as u64).unwrap_or(0);
    let value = mantissa as f64 * ((shift - Real::BITS as i64) as f64).exp2();
    format!("{value:e}")
}

fn approximations(table: &mut Table) {
    let f32s = Format::F32;
    let real = |x: u128| Number::of(Format::F32, x).real();
    let over = |a: &Real, b: &Real| Real((&a.0 << Real::BITS) / &b.0);
    for words in each(&[FTZ]) {
        let ftz = words[0] == "ftz";
        let name = |opcode: &str, kind: &str| named(opcode, &[kind, words[0], "f32"]);
        // div.approx: 2 ulp for |b| from 2^-126 to 2^126; for larger b, NaN of infinity, else 0.
        // div.full: 2 ulp over the full range.
        for kind in ["approx", "full"] {
            let truth = move |x: &[u128]| {
                let exact = f32s.div(Round::Nearest, x[0], x[1]);
                let magnitude = f32s.magnitude(x[1]);
                if f32s.is_nan(exact) {
                    return Truth::Exactly(exact);
                }
                if kind == "approx" {
                    if magnitude > 0x7e80_0000 && magnitude < f32s.infinity() {
                        return Truth::Exactly(if f32s.is_infinite(x[0]) {
                            f32s.canonical_nan()
                        } else {
                            (x[0] ^ x[1]) & f32s.sign()
                        });
                    }
                    if magnitude < 0x0080_0000 && magnitude != 0 {
                        return Truth::Anything;
                    }
                }
                if f32s.is_infinite(x[0])
                    || f32s.is_infinite(x[1])
                    || f32s.is_zero(x[0])
                    || magnitude == 0
                {
                    return Truth::Exactly(exact);
                }
                Truth::Near(
                    largest(f32s, over(&real(x[0]), &real(x[1]))),
                    Bound::Ulps(2),
                )
            };
            approximate(table, &name("div", kind), Ty::F32, ftz, ALWAYS, 2, truth);
        }
        // rcp: 1 ulp over the full range.
        approximate(
            table,
            &name("rcp", "approx"),
            Ty::F32,
            ftz,
            ALWAYS,
            1,
            move |x| {
                if f32s.is_nan(x[0]) || f32s.is_zero(x[0]) || f32s.is_infinite(x[0]) {
                    return Truth::Exactly(f32s.div(Round::Nearest, f32s.one(), x[0]));
                }
                Truth::Near(
                    largest(f32s, over(&Real::integer(1), &real(x[0]))),
                    Bound::Ulps(1),
                )
            },
        );
        // sqrt: relative error 2^-23 over the positive finite numbers.
        approximate(
            table,
            &name("sqrt", "approx"),
            Ty::F32,
            ftz,
            ALWAYS,
            1,
            move |x| {
                if !positive(f32s, x[0]) {
                    return Truth::Exactly(f32s.sqrt(Round::Nearest, x[0]));
                }
                Truth::Near(root(&real(x[0])), Bound::Relative(230))
            },
        );
        // rsqrt: relative error 2^-22.9 over the positive finite numbers.
        approximate(
            table,
            &name("rsqrt", "approx"),
            Ty::F32,
            ftz,
            ALWAYS,
            1,
            move |x| {
                if !positive(f32s, x[0]) {
                    return Truth::Exactly(of_root(f32s, x[0]));
                }
                Truth::Near(
                    over(&Real::integer(1), &root(&real(x[0]))),
                    Bound::Relative(229),
                )
            },
        );
        // sin and cos: absolute error 2^-20.5 within 2π of 0, 2^-14.7 within 100π.
        for (opcode, quarter) in [("sin", false), ("cos", true)] {
            let bound = |x: &[u128]| {
                let magnitude = f32::from_bits(Format::F32.magnitude(x[0]) as u32);
                Bound::Absolute(if magnitude < std::f32::consts::TAU {
                    205
                } else {
                    147
                })
            };
            approximate(
                table,
                &name(opcode, "approx"),
                Ty::F32,
                ftz,
                ALWAYS,
                1,
                move |x| {
                    if f32s.is_nan(x[0]) || f32s.is_infinite(x[0]) {
                        return Truth::Exactly(f32s.canonical_nan());
                    }
                    if f32s.is_zero(x[0]) {
                        return Truth::Exactly(if quarter { f32s.one() } else { x[0] });
                    }
                    if f32::from_bits(f32s.magnitude(x[0]) as u32) > 314.159 {
                        return Truth::Anything;
                    }
                    Truth::Near(real(x[0]).sin(quarter), bound(x))
                },
            );
        }
        // lg2: absolute error 2^-22 between 0.5 and 2, relative error 2^-22 elsewhere.
        let bound = |x: &[u128]| {
            let value = f32::from_bits(x[0] as u32);
            if value > 0.5 && value < 2.0 {
                Bound::Absolute(220)
            } else {
                Bound::Relative(220)
            }
        };
        approximate(
            table,
            &name("lg2", "approx"),
            Ty::F32,
            ftz,
            ALWAYS,
            1,
            move |x| {
                if f32s.is_zero(x[0]) {
                    return Truth::Exactly(f32s.sign() | f32s.infinity());
                }
                if f32s.is_nan(x[0]) || f32s.is_negative(x[0]) {
                    return Truth::Exactly(f32s.canonical_nan());
                }
                if f32s.is_infinite(x[0]) {
                    return Truth::Exactly(x[0]);
                }
                Truth::Near(real(x[0]).log2(), bound(x))
            },
        );
        // ex2: 2 ulp over the full range.
        exponential(
            table,
            &name("ex2", "approx"),
            Ty::F32,
            ftz,
            ALWAYS,
            Bound::Ulps(2),
        );
    }
    // tanh: relative error 2^-11.
    hyperbolic(
        table,
        "tanh.approx.f32",
        Ty::F32,
        Since(70, 75),
        Bound::Relative(110),
    );
    for ty in HALVES {
        // ex2 of f16: relative error 2^-9.9; tanh: absolute error 2^-10.987.
        let name = named("ex2", &["approx", ty.name()]);
        exponential(table, &name, ty, false, Since(70, 75), Bound::Relative(99));
        let name = named("tanh", &["approx", ty.name()]);
        hyperbolic(table, &name, ty, Since(70, 75), Bound::Absolute(109));
    }
    for ty in BRAINS {
        // ex2 of bf16: relative error 2^-7; tanh: absolute error 2^-8.
        let name = named("ex2", &["approx", "ftz", ty.name()]);
        exponential(table, &name, ty, true, HOPPER, Bound::Relative(70));
        let name = named("tanh", &["approx", ty.name()]);
        hyperbolic(table, &name, ty, HOPPER, Bound::Absolute(80));
    }
    doubles(table);
}

fn positive(format: Format, x: u128) -> bool {
    x > 0 && x < format.infinity()
}

fn root(x: &Real) -> Real {
    Real((&x.0 << Real::BITS).sqrt())
}

/// 1/√x of a number that is not positive and finite.
fn of_root(format: Format, x: u128) -> u128 {
    if format.is_zero(x) {
        x | format.infinity()
    } else if x == format.infinity() {
        0
    } else {
        format.canonical_nan()
    }
}

fn exponential(table: &mut Table, name: &str, ty: Ty, ftz: bool, since: Since, bound: Bound) {
    let Some(format) = ty.format() else { return };
    approximate(table, name, ty, ftz, since, 1, move |x| {
        if format.is_nan(x[0]) {
            return Truth::Exactly(x[0]);
        }
        let value = Number::of(format, x[0]);
        // Beyond all numbers of any format here.
        let large = format.is_infinite(x[0])
            || value.real().distance(&Real::integer(0)) > Real::integer(300);
        if large {
            return Truth::Exactly(if value.negative { 0 } else { format.infinity() });
        }
        Truth::Near(largest(format, value.real().exp2()), bound)
    });
}

/// The value, or the number that would follow the largest one for whatever is beyond it.
fn largest(format: Format, value: Real) -> Real {
    let mut number = Number::of(format, format.largest());
    number.mantissa += 1_u8;
    let above = number.real();
    number.negative = true;
    value.clamp(number.real(), above)
}

fn hyperbolic(table: &mut Table, name: &str, ty: Ty, since: Since, bound: Bound) {
    let Some(format) = ty.format() else { return };
    approximate(table, name, ty, false, since, 1, move |x| {
        if format.is_nan(x[0]) || format.is_zero(x[0]) {
            return Truth::Exactly(x[0]);
        }
        if format.is_infinite(x[0]) {
            return Truth::Exactly(x[0] & format.sign() | format.one());
        }
        Truth::Near(Number::of(format, x[0]).real().tanh(), bound)
    });
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx{.ftz}.f64`, by exact products.
fn doubles(table: &mut Table) {
    let format = Format::F64;
    // |result^power a - 1| in units of 2^-60, for finite numbers.
    let error = move |result: u128, power: u32, a: u128| {
        let (r, a) = (Number::of(format, result), Number::of(format, a));
        let mut mantissa = a.mantissa;
        let mut exponent = a.exponent;
        for _ in 0..power {
            mantissa *= &r.mantissa;
            exponent += r.exponent;
        }
        let shift = exponent + 60;
        let scaled = if shift >= 0 {
            mantissa << shift as u64
        } else {
            mantissa >> shift.unsigned_abs()
        };
        let one = num_bigint::BigUint::from(1_u64 << 60);
        let difference = if scaled > one {
            scaled - one
        } else {
            one - scaled
        };
        u64::try_from(difference).unwrap_or(u64::MAX)
    };
    // A gross approximation: of the upper 32 bits, with the lower 32 bits of the result zero. Its error
    // is not stated; 20 bits of input and output leave less than 2^-18.
    let name = "rcp.approx.ftz.f64";
    let judge = move |x: &[u128], got: &[u128]| {
        let a = format.flush(x[0]);
        if format.is_nan(a) || format.is_zero(a) || format.is_infinite(a) {
            let wanted = format.div(Round::Nearest, format.one(), a);
            return if format.same(got[0], wanted) {
                Ok(())
            } else {
                Err(hex(&[wanted]))
            };
        }
        let exact = format.flush(format.div(Round::Nearest, format.one(), a));
        let subnormal = format.is_zero(exact) && got[0] == exact;
        if got[0] & 0xffff_ffff == 0
            && (subnormal
                || format.is_negative(got[0]) == format.is_negative(a)
                    && !format.is_nan(got[0])
                    && !format.is_infinite(got[0])
                    && error(got[0], 1, a) <= 1 << 42)
        {
            Ok(())
        } else {
            Err(format!("near {} with 32 zero bits", hex(&[exact])))
        }
    };
    table.map(
        name,
        ALWAYS,
        Map::new(&[Ty::F64], Ty::F64, plain(name, 1), judge),
    );
    for words in each(&[FTZ]) {
        let ftz = words[0] == "ftz";
        let name = named("rsqrt", &["approx", words[0], "f64"]);
        let judge = move |x: &[u128], got: &[u128]| {
            let a = if ftz { format.flush(x[0]) } else { x[0] };
            if !positive(format, a) {
                let wanted = of_root(format, a);
                return if format.same(got[0], wanted) {
                    Ok(())
                } else {
                    Err(hex(&[wanted]))
                };
            }
            // Gross with .ftz, as rcp; else a relative error of 2^-22.9, which doubles in the square.
            let allowed = if ftz { 1 << 43 } else { 1_u64 << 38 };
            let finite =
                format.magnitude(got[0]) < format.infinity() && !format.is_negative(got[0]);
            if finite && error(got[0], 2, a) <= allowed && (!ftz || got[0] & 0xffff_ffff == 0) {
                Ok(())
            } else {
                Err("1/√a within its error".into())
            }
        };
        let since = if ftz { Since(60, 50) } else { ALWAYS };
        table.map(
            &name,
            since,
            Map::new(&[Ty::F64], Ty::F64, plain(&name, 1), judge),
        );
    }
}
