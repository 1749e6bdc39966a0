//! Integer arithmetic: exact in `i128`, wrapped to the type.

use super::{Table, each, halves, named, plain};
use crate::form::{Map, exact, exact_all};
use crate::types::{INTEGERS, Since, Ty};

const ALWAYS: Since = Since::ALWAYS;

pub(super) fn add(table: &mut Table) {
    sums(table);
    products(table);
    carries(table);
    extremes(table);
    packed(table);
    dots(table);
}

/// A form of one type whose result is a function of its numbers, wrapped.
fn wrapped(
    table: &mut Table,
    name: String,
    ty: Ty,
    inputs: usize,
    result: impl Fn(&[i128]) -> i128 + Send + Sync + 'static,
) {
    let code = plain(&name, inputs);
    let judge = exact(move |x| {
        let values: Vec<i128> = x.iter().map(|&x| ty.value(x)).collect();
        ty.wrap(result(&values))
    });
    let map = Map::new(&vec![ty; inputs], ty, code, judge).immediate(inputs - 1);
    table.map(name, ALWAYS, map);
}

fn sums(table: &mut Table) {
    for ty in INTEGERS {
        let name = |opcode: &str| format!("{opcode}.{}", ty.name());
        wrapped(table, name("add"), ty, 2, |x| x[0] + x[1]);
        wrapped(table, name("sub"), ty, 2, |x| x[0] - x[1]);
        wrapped(table, name("sad"), ty, 3, |x| (x[0] - x[1]).abs() + x[2]);
        for opcode in ["div", "rem"] {
            let code = plain(&name(opcode), 2);
            let judge = move |inputs: &[u128], got: &[u128]| {
                let (a, b) = (ty.value(inputs[0]), ty.value(inputs[1]));
                if b == 0 {
                    // Unspecified; it must come back at all.
                    return Ok(());
                }
                let wanted = ty.wrap(if opcode == "div" { a / b } else { a % b });
                exact(move |_| wanted)(inputs, got)
            };
            let map = Map::new(&[ty, ty], ty, code, judge).immediate(1);
            table.map(name(opcode), ALWAYS, map);
        }
        if ty.signed() {
            wrapped(table, name("abs"), ty, 1, |x| x[0].abs());
            wrapped(table, name("neg"), ty, 1, |x| -x[0]);
        }
    }
    for opcode in ["add", "sub"] {
        let name = format!("{opcode}.sat.s32");
        let judge = exact(move |x| {
            let (a, b) = (Ty::S32.value(x[0]), Ty::S32.value(x[1]));
            Ty::S32.clamp(if opcode == "add" { a + b } else { a - b })
        });
        let map = Map::new(&[Ty::S32; 2], Ty::S32, plain(&name, 2), judge).immediate(1);
        table.map(name, ALWAYS, map);
    }
}

/// The type of twice the width.
const fn wide(ty: Ty) -> Option<Ty> {
    match ty {
        Ty::U16 => Some(Ty::U32),
        Ty::S16 => Some(Ty::S32),
        Ty::U32 => Some(Ty::U64),
        Ty::S32 => Some(Ty::S64),
        _ => None,
    }
}

/// The product's upper half, as a number.
fn high(ty: Ty, a: i128, b: i128) -> i128 {
    if ty == Ty::U64 {
        // The product of two unsigned 64-bit numbers leaves i128.
        ((a as u128 * b as u128) >> 64) as i128
    } else {
        (a * b) >> ty.bits()
    }
}

fn products(table: &mut Table) {
    for ty in INTEGERS {
        wrapped(table, format!("mul.lo.{}", ty.name()), ty, 2, |x| {
            x[0].wrapping_mul(x[1])
        });
        wrapped(table, format!("mul.hi.{}", ty.name()), ty, 2, move |x| {
            high(ty, x[0], x[1])
        });
        wrapped(table, format!("mad.lo.{}", ty.name()), ty, 3, |x| {
            x[0].wrapping_mul(x[1]).wrapping_add(x[2])
        });
        wrapped(table, format!("mad.hi.{}", ty.name()), ty, 3, move |x| {
            high(ty, x[0], x[1]) + x[2]
        });
        let Some(double) = wide(ty) else { continue };
        let name = format!("mul.wide.{}", ty.name());
        let judge = exact(move |x| double.wrap(ty.value(x[0]) * ty.value(x[1])));
        let map = Map::new(&[ty, ty], double, plain(&name, 2), judge).immediate(1);
        table.map(name, ALWAYS, map);
        let name = format!("mad.wide.{}", ty.name());
        let judge =
            exact(move |x| double.wrap(ty.value(x[0]) * ty.value(x[1]) + double.value(x[2])));
        let map = Map::new(&[ty, ty, double], double, plain(&name, 3), judge).immediate(1);
        table.map(name, ALWAYS, map);
    }
    let name = "mad.hi.sat.s32";
    let judge = exact(|x| {
        let [a, b, c] = [x[0], x[1], x[2]].map(|x| Ty::S32.value(x));
        Ty::S32.clamp(high(Ty::S32, a, b) + c)
    });
    table.map(
        name,
        ALWAYS,
        Map::new(&[Ty::S32; 3], Ty::S32, plain(name, 3), judge).immediate(2),
    );
    // 24-bit products: bits 47..16 (hi) or 31..0 (lo) of the 48-bit product.
    for ty in [Ty::U32, Ty::S32] {
        let low24 = move |bits: u128| {
            let value = (bits & 0xff_ffff) as i128;
            if ty.signed() && value >> 23 == 1 {
                value - (1 << 24)
            } else {
                value
            }
        };
        for part in ["hi", "lo"] {
            let product = move |x: &[u128]| {
                let product = low24(x[0]) * low24(x[1]);
                let product = if part == "hi" { product >> 16 } else { product };
                ty.value(ty.wrap(product))
            };
            let name = named("mul24", &[part, ty.name()]);
            let map = Map::new(
                &[ty; 2],
                ty,
                plain(&name, 2),
                exact(move |x| ty.wrap(product(x))),
            );
            table.map(name, ALWAYS, map.immediate(1));
            let name = named("mad24", &[part, ty.name()]);
            let map = Map::new(
                &[ty; 3],
                ty,
                plain(&name, 3),
                exact(move |x| ty.wrap(product(x) + ty.value(x[2]))),
            );
            table.map(name, ALWAYS, map.immediate(2));
        }
    }
    let name = "mad24.hi.sat.s32";
    let judge = exact(|x| {
        let low24 = |bits: u128| ((bits as u32) << 8) as i32 as i128 >> 8;
        let product = Ty::S32.value(Ty::S32.wrap((low24(x[0]) * low24(x[1])) >> 16));
        Ty::S32.clamp(product + Ty::S32.value(x[2]))
    });
    table.map(
        name,
        ALWAYS,
        Map::new(&[Ty::S32; 3], Ty::S32, plain(name, 3), judge).immediate(2),
    );
}

/// Carry chains: the carry comes from an addition of its own and is read back by another.
fn carries(table: &mut Table) {
    for ty in [Ty::U32, Ty::S32, Ty::U64, Ty::S64] {
        let t = ty.name();
        let unsigned = move |x: u128| x & ty.mask();
        let one = 1_u128 << ty.bits();
        // With input 3 all ones, adding 1 carries; else it does not.
        let set = format!("{{ .reg .b{0} %z; add.cc.u{0} %z, {{3}}, 1; }} ", ty.bits());
        // A borrow that is read back is 0 or all ones.
        let read_carry = format!("addc.u{} {{d1}}, 0, 0;", ty.bits());
        let read_borrow = format!("subc.u{} {{d1}}, 0, 0;", ty.bits());
        let carry_in = move |x: &[u128]| u128::from(unsigned(x[3]) + 1 == one);
        for (opcode, reads, writes) in [
            ("add.cc", false, true),
            ("addc", true, false),
            ("addc.cc", true, true),
            ("sub.cc", false, true),
            ("subc", true, false),
            ("subc.cc", true, true),
        ] {
            let subtracts = opcode.starts_with("sub");
            let name = format!("{opcode}.{t}");
            let set = if subtracts {
                // Input 3 all ones borrows from 0; else subtracting nothing from all does not.
                format!(
                    "{{ .reg .b{0} %z, %y; .reg .pred %q; setp.eq.u{0} %q, {{3}}, -1; selp.b{0} %y, 1, 0, %q; \
                     sub.cc.u{0} %z, 0, %y; }} ",
                    ty.bits()
                )
            } else {
                set.clone()
            };
            let read = if !writes {
                format!("mov.b{} {{d1}}, 0;", ty.bits())
            } else if subtracts {
                read_borrow.clone()
            } else {
                read_carry.clone()
            };
            let code = format!("{set}{name} {{d}}, {{0}}, {{1}}; {read}");
            let judge = exact_all(move |x| {
                let (a, b) = (unsigned(x[0]), unsigned(x[1]));
                let carry = if reads { carry_in(x) } else { 0 };
                if subtracts {
                    let value = one + a - b - carry;
                    let borrow = if value < one { ty.mask() } else { 0 };
                    vec![unsigned(value), if writes { borrow } else { 0 }]
                } else {
                    let value = a + b + carry;
                    vec![unsigned(value), if writes { value >> ty.bits() } else { 0 }]
                }
            });
            let map = Map::new(&[ty; 4], ty, code, judge).outputs(&[ty, ty]);
            table.map(name, ALWAYS, map.immediate(1));
        }
        for (opcode, reads, writes) in [
            ("mad", false, true),
            ("madc", true, false),
            ("madc", true, true),
        ] {
            for part in ["lo", "hi"] {
                let name = named(opcode, &[part, if writes { "cc" } else { "" }, t]);
                let read = if writes {
                    read_carry.clone()
                } else {
                    format!("mov.b{} {{d1}}, 0;", ty.bits())
                };
                let code = format!("{set}{name} {{d}}, {{0}}, {{1}}, {{2}}; {read}");
                let judge = exact_all(move |x| {
                    let (a, b) = (ty.value(x[0]), ty.value(x[1]));
                    let product = if part == "hi" {
                        ty.wrap(high(ty, a, b))
                    } else {
                        ty.wrap(a.wrapping_mul(b))
                    };
                    let carry = if reads { carry_in(x) } else { 0 };
                    let value = product + unsigned(x[2]) + carry;
                    vec![unsigned(value), if writes { value >> ty.bits() } else { 0 }]
                });
                let map = Map::new(&[ty; 4], ty, code, judge).outputs(&[ty, ty]);
                table.map(name, ALWAYS, map.immediate(2));
            }
        }
    }
}

fn extremes(table: &mut Table) {
    for ty in INTEGERS {
        wrapped(table, format!("min.{}", ty.name()), ty, 2, |x| {
            x[0].min(x[1])
        });
        wrapped(table, format!("max.{}", ty.name()), ty, 2, |x| {
            x[0].max(x[1])
        });
    }
    for opcode in ["min", "max"] {
        let name = format!("{opcode}.relu.s32");
        let judge = exact(move |x| {
            let (a, b) = (Ty::S32.value(x[0]), Ty::S32.value(x[1]));
            Ty::S32.wrap(if opcode == "min" { a.min(b) } else { a.max(b) }.max(0))
        });
        let map = Map::new(&[Ty::S32; 2], Ty::S32, plain(&name, 2), judge);
        table.map(name, Since(80, 90), map.immediate(1));
    }
}

/// Two 16-bit integers in a register.
fn packed(table: &mut Table) {
    for (ty, element) in [(Ty::U16x2, Ty::U16), (Ty::S16x2, Ty::S16)] {
        for (opcode, relu) in each(&[&["add", "min", "max"], &["", "relu"]])
            .into_iter()
            .map(|words| (words[0], words[1]))
        {
            if !relu.is_empty() && (opcode == "add" || !element.signed()) {
                continue;
            }
            let name = named(opcode, &[relu, ty.name()]);
            let floor = if relu.is_empty() { i128::MIN } else { 0 };
            let judge = exact(move |x| {
                let (a, b) = (halves(x[0]), halves(x[1]));
                let half = |index: usize| {
                    let (a, b) = (element.value(a[index]), element.value(b[index]));
                    let value = match opcode {
                        "add" => a + b,
                        "min" => a.min(b),
                        _ => a.max(b),
                    };
                    element.wrap(value.max(floor))
                };
                half(1) << 16 | half(0)
            });
            let map = Map::new(&[ty, ty], ty, plain(&name, 2), judge);
            table.map(name, Since(80, 90), map);
        }
    }
}

/// Dot products of bytes.
fn dots(table: &mut Table) {
    for (a, b) in [
        (Ty::U32, Ty::U32),
        (Ty::U32, Ty::S32),
        (Ty::S32, Ty::U32),
        (Ty::S32, Ty::S32),
    ] {
        let byte = |ty: Ty| if ty.signed() { Ty::S8 } else { Ty::U8 };
        let half = |ty: Ty| if ty.signed() { Ty::S16 } else { Ty::U16 };
        let result = if a.signed() || b.signed() {
            Ty::S32
        } else {
            Ty::U32
        };
        let name = format!("dp4a.{}.{}", a.name(), b.name());
        let judge = exact(move |x| {
            let product =
                (0..4).map(|i| byte(a).value(x[0] >> (8 * i)) * byte(b).value(x[1] >> (8 * i)));
            result.wrap(result.value(x[2]) + product.sum::<i128>())
        });
        let map = Map::new(&[Ty::B32, Ty::B32, result], result, plain(&name, 3), judge);
        table.map(name, Since(60, 61), map.immediate(2));
        for part in ["lo", "hi"] {
            let name = format!("dp2a.{part}.{}.{}", a.name(), b.name());
            let judge = exact(move |x| {
                let at = if part == "hi" { 2 } else { 0 };
                let product = (0..2).map(|i| {
                    half(a).value(x[0] >> (16 * i)) * byte(b).value(x[1] >> (8 * (i + at)))
                });
                result.wrap(result.value(x[2]) + product.sum::<i128>())
            });
            let map = Map::new(&[Ty::B32, Ty::B32, result], result, plain(&name, 3), judge);
            table.map(name, Since(60, 61), map.immediate(2));
        }
    }
}
