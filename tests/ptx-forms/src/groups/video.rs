//! Video instructions: arithmetic on selected parts of words, exact, with the saturation, merging and
//! second operations that they may carry.

use super::{Table, each, named};
use crate::form::{Map, exact_all};
use crate::types::{Since, Ty};

const ALWAYS: Since = Since::ALWAYS;
const WORDS: [Ty; 2] = [Ty::U32, Ty::S32];

pub(super) fn add(table: &mut Table) {
    scalar(table);
    multiply(table);
    compare(table);
    lanes(table);
}

/// A part of a word as a number of the type's sign.
fn part(ty: Ty, word: u128, selector: &str) -> i128 {
    let (shift, small) = match selector {
        "b0" => (0, 8),
        "b1" => (8, 8),
        "b2" => (16, 8),
        "b3" => (24, 8),
        "h0" => (0, 16),
        "h1" => (16, 16),
        _ => (0, 32),
    };
    sized(ty.signed(), small).value(word >> shift)
}

fn sized(signed: bool, bits: u32) -> Ty {
    match (signed, bits) {
        (false, 8) => Ty::U8,
        (true, 8) => Ty::S8,
        (false, 16) => Ty::U16,
        (true, 16) => Ty::S16,
        (false, _) => Ty::U32,
        (true, _) => Ty::S32,
    }
}

/// The result put into a part of the third operand.
fn merge(selector: &str, value: u128, c: u128) -> u128 {
    let (shift, mask) = match selector {
        "b0" => (0, 0xff),
        "b1" => (8, 0xff),
        "b2" => (16, 0xff),
        "b3" => (24, 0xff),
        "h0" => (0, 0xffff),
        "h1" => (16, 0xffff),
        _ => (0, 0xffff_ffff),
    };
    c & !(mask << shift) & 0xffff_ffff | (value & mask) << shift
}

/// The first operation's result is not cut to the type before the second.
fn second(operation: &str, ty: Ty, a: i128, c: u128) -> u128 {
    let b = ty.value(c);
    ty.wrap(match operation {
        "add" => a + b,
        "min" => a.min(b),
        _ => a.max(b),
    })
}

/// Selectors of the operands and of the result, each tried with each form.
const SELECTED: [(&str, &str, &str); 6] = [
    ("", "", ""),
    ("b0", "h1", ""),
    ("h0", "b3", "h1"),
    ("b2", "", "b1"),
    ("", "b1", "h0"),
    ("h1", "h1", "b3"),
];

fn operand(index: usize, selector: &str) -> String {
    if selector.is_empty() {
        format!("{{{index}}}")
    } else {
        format!("{{{index}}}.{selector}")
    }
}

/// A scalar form: plain, merged into parts, and with a second operation.
fn scalar_form(
    table: &mut Table,
    opcode: &str,
    types: [Ty; 3],
    words: &[&str],
    saturates: bool,
    result: impl Fn(i128, i128) -> i128 + Send + Sync + Clone + 'static,
) {
    let [to, a, b] = types;
    let mut all = vec![to.name(), a.name(), b.name()];
    all.extend(words);
    let name = named(opcode, &all);
    let mut code = String::new();
    for (index, (x, y, z)) in SELECTED.into_iter().enumerate() {
        let (x, y) = (operand(0, x), operand(1, y));
        code += &if z.is_empty() {
            format!("{name} {{d{index}}}, {x}, {y};\n")
        } else {
            format!("{name} {{d{index}}}.{z}, {x}, {y}, {{2}};\n")
        };
    }
    let compute = result.clone();
    let judge = exact_all(move |inputs| {
        SELECTED
            .map(|(x, y, z)| {
                let value = compute(part(a, inputs[0], x), part(b, inputs[1], y));
                let bits = match z.chars().next() {
                    Some('b') => 8,
                    Some(_) => 16,
                    None => 32,
                };
                let value = if saturates {
                    sized(to.signed(), bits).clamp(value)
                } else {
                    Ty::U32.wrap(value)
                };
                if z.is_empty() {
                    value
                } else {
                    merge(z, value, inputs[2])
                }
            })
            .to_vec()
    });
    let map = Map::new(&[Ty::B32; 3], Ty::B32, code, judge).outputs(&[Ty::B32; SELECTED.len()]);
    table.map(&name, ALWAYS, map);
    for operation in ["add", "min", "max"] {
        let name = format!("{name}.{operation}");
        let mut code = String::new();
        for (index, (x, y, _)) in SELECTED.into_iter().enumerate() {
            let (x, y) = (operand(0, x), operand(1, y));
            code += &format!("{name} {{d{index}}}, {x}, {y}, {{2}};\n");
        }
        let compute = result.clone();
        let judge = exact_all(move |inputs| {
            SELECTED
                .map(|(x, y, _)| {
                    let value = compute(part(a, inputs[0], x), part(b, inputs[1], y));
                    let value = if saturates {
                        to.value(to.clamp(value))
                    } else {
                        value
                    };
                    second(operation, to, value, inputs[2])
                })
                .to_vec()
        });
        let map = Map::new(&[Ty::B32; 3], Ty::B32, code, judge).outputs(&[Ty::B32; SELECTED.len()]);
        table.map(name, ALWAYS, map);
    }
}

fn scalar(table: &mut Table) {
    for to in WORDS {
        for a in WORDS {
            for b in WORDS {
                for sat in ["", "sat"] {
                    for opcode in ["vadd", "vsub", "vabsdiff", "vmin", "vmax"] {
                        let result = move |a: i128, b: i128| match opcode {
                            "vadd" => a + b,
                            "vsub" => a - b,
                            "vabsdiff" => (a - b).abs(),
                            "vmin" => a.min(b),
                            _ => a.max(b),
                        };
                        scalar_form(table, opcode, [to, a, b], &[sat], !sat.is_empty(), result);
                    }
                }
            }
            for words in each(&[&["", "sat"], &["clamp", "wrap"]]) {
                for opcode in ["vshl", "vshr"] {
                    let clamps = words[1] == "clamp";
                    let result = move |a: i128, b: i128| {
                        let by = if clamps { b.min(32) } else { b & 31 };
                        if opcode == "vshl" { a << by } else { a >> by }
                    };
                    scalar_form(
                        table,
                        opcode,
                        [to, a, Ty::U32],
                        &words,
                        words[0] == "sat",
                        result,
                    );
                }
            }
        }
    }
}

/// Negations of the operands that `vmad` is tried with.
const SIGNS: [(&str, &str, &str); 4] = [("", "", ""), ("-", "", ""), ("", "-", ""), ("", "", "-")];

fn multiply(table: &mut Table) {
    for to in WORDS {
        for a in WORDS {
            for b in WORDS {
                for words in each(&[&["", "po"], &["", "sat"], &["", "shr7", "shr15"]]) {
                    let name = named(
                        "vmad",
                        &[to.name(), a.name(), b.name(), words[0], words[1], words[2]],
                    );
                    let plus_one = words[0] == "po";
                    let saturates = words[1] == "sat";
                    let by = match words[2] {
                        "shr7" => 7,
                        "shr15" => 15,
                        _ => 0,
                    };
                    // Negation goes with neither .po nor operands without a sign of the whole.
                    let signs = if plus_one { &SIGNS[..1] } else { &SIGNS[..] };
                    let mut cases = Vec::new();
                    for (x, y, _) in SELECTED {
                        for &sign in signs {
                            cases.push((x, y, sign));
                        }
                    }
                    let mut code = String::new();
                    for (index, (x, y, (p, q, r))) in cases.iter().enumerate() {
                        let (x, y) = (operand(0, x), operand(1, y));
                        code += &format!("{name} {{d{index}}}, {p}{x}, {q}{y}, {r}{{2}};\n");
                    }
                    let outputs = vec![Ty::B32; cases.len()];
                    let judge = exact_all(move |inputs| {
                        cases
                            .iter()
                            .map(|(x, y, (p, q, r))| {
                                let signed = a.signed() || b.signed() || p != q || !r.is_empty();
                                let product = part(a, inputs[0], x) * part(b, inputs[1], y);
                                let product = if p == q { product } else { -product };
                                let c = sized(signed, 32).value(inputs[2]);
                                let c = if r.is_empty() { c } else { -c };
                                let sum = (product + c + i128::from(plus_one)) >> by;
                                if saturates {
                                    sized(signed, 32).clamp(sum)
                                } else {
                                    Ty::U32.wrap(sum)
                                }
                            })
                            .collect()
                    });
                    let map = Map::new(&[Ty::B32; 3], Ty::B32, code, judge).outputs(&outputs);
                    table.map(name, ALWAYS, map);
                }
            }
        }
    }
}

const COMPARISONS: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];

fn holds(comparison: &str, a: i128, b: i128) -> i128 {
    i128::from(match comparison {
        "eq" => a == b,
        "ne" => a != b,
        "lt" => a < b,
        "le" => a <= b,
        "gt" => a > b,
        _ => a >= b,
    })
}

fn compare(table: &mut Table) {
    for a in WORDS {
        for b in WORDS {
            for comparison in COMPARISONS {
                let name = named("vset", &[a.name(), b.name(), comparison]);
                for operation in ["", "add", "min", "max"] {
                    let name = named(&name, &[operation]);
                    let merges = operation.is_empty();
                    let mut code = String::new();
                    for (index, (x, y, z)) in SELECTED.into_iter().enumerate() {
                        let (x, y) = (operand(0, x), operand(1, y));
                        code += &if !merges {
                            format!("{name} {{d{index}}}, {x}, {y}, {{2}};\n")
                        } else if z.is_empty() {
                            format!("{name} {{d{index}}}, {x}, {y};\n")
                        } else {
                            format!("{name} {{d{index}}}.{z}, {x}, {y}, {{2}};\n")
                        };
                    }
                    let judge = exact_all(move |inputs| {
                        SELECTED
                            .map(|(x, y, z)| {
                                let value =
                                    holds(comparison, part(a, inputs[0], x), part(b, inputs[1], y));
                                if !merges {
                                    second(operation, Ty::U32, value, inputs[2])
                                } else if z.is_empty() {
                                    value as u128
                                } else {
                                    merge(z, value as u128, inputs[2])
                                }
                            })
                            .to_vec()
                    });
                    let map = Map::new(&[Ty::B32; 3], Ty::B32, code, judge)
                        .outputs(&[Ty::B32; SELECTED.len()]);
                    table.map(name, ALWAYS, map);
                }
            }
        }
    }
}

/// Two halves or four bytes at once: plain, with a mask, and summed.
fn lanes(table: &mut Table) {
    for count in [2_u32, 4] {
        let bits = 32 / count;
        for a in WORDS {
            for b in WORDS {
                for to in WORDS {
                    for opcode in ["vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax"] {
                        for word in ["", "sat", "add"] {
                            let name = named(
                                &format!("{opcode}{count}"),
                                &[to.name(), a.name(), b.name(), word],
                            );
                            let result = move |a: i128, b: i128| match opcode {
                                "vadd" => a + b,
                                "vsub" => a - b,
                                // Rounded away from zero.
                                "vavrg" => (a + b + i128::from(a + b >= 0)) >> 1,
                                "vabsdiff" => (a - b).abs(),
                                "vmin" => a.min(b),
                                _ => a.max(b),
                            };
                            lane_form(table, name, count, bits, [to, a, b], word, result);
                        }
                    }
                }
                for comparison in COMPARISONS {
                    for word in ["", "add"] {
                        let name = named(
                            &format!("vset{count}"),
                            &[a.name(), b.name(), comparison, word],
                        );
                        let result = move |a, b| holds(comparison, a, b);
                        lane_form(table, name, count, bits, [Ty::U32, a, b], word, result);
                    }
                }
            }
        }
    }
}

fn lane_form(
    table: &mut Table,
    name: String,
    count: u32,
    bits: u32,
    [to, a, b]: [Ty; 3],
    word: &'static str,
    result: impl Fn(i128, i128) -> i128 + Send + Sync + 'static,
) {
    // Selectors: places among the lanes of both words, lowest first. As they are, and shuffled.
    let plain: (Vec<u32>, Vec<u32>) = ((0..count).collect(), (count..2 * count).collect());
    let shuffled: (Vec<u32>, Vec<u32>) = if count == 2 {
        (vec![3, 0], vec![1, 2])
    } else {
        (vec![7, 0, 5, 2], vec![1, 1, 6, 3])
    };
    let letter = if count == 2 { 'h' } else { 'b' };
    let spelled = |order: &[u32]| {
        let digits: String = order.iter().rev().map(u32::to_string).collect();
        format!(".{letter}{digits}")
    };
    let mask = if count == 2 { ".h1" } else { ".b20" };
    let masked: u32 = if count == 2 { 0b10 } else { 0b101 };
    let (x, y) = (spelled(&shuffled.0), spelled(&shuffled.1));
    let mut code =
        format!("{name} {{d0}}, {{0}}, {{1}}, {{2}};\n{name} {{d1}}, {{0}}{x}, {{1}}{y}, {{2}};\n");
    code += &format!("{name} {{d2}}{mask}, {{0}}, {{1}}, {{2}};\n");
    let sums = word == "add";
    let saturates = word == "sat";
    let judge = exact_all(move |inputs| {
        let lane = |ty: Ty, place: u32| {
            let word = if place < count { inputs[0] } else { inputs[1] };
            sized(ty.signed(), bits).value(word >> (bits * (place % count)))
        };
        [(&plain, u32::MAX), (&shuffled, u32::MAX), (&plain, masked)]
            .map(|((x, y), mask)| {
                let mut total = to.value(inputs[2]);
                let mut merged = inputs[2];
                for at in 0..count {
                    if mask >> at & 1 == 0 {
                        continue;
                    }
                    let value = result(lane(a, x[at as usize]), lane(b, y[at as usize]));
                    total += value;
                    let element = sized(to.signed(), bits);
                    let value = if saturates {
                        element.clamp(value)
                    } else {
                        element.wrap(value)
                    };
                    merged = merged & !(element.mask() << (bits * at)) | value << (bits * at);
                }
                if sums {
                    Ty::U32.wrap(total)
                } else {
                    merged & 0xffff_ffff
                }
            })
            .to_vec()
    });
    let map = Map::new(&[Ty::B32; 3], Ty::B32, code, judge).outputs(&[Ty::B32; 3]);
    table.map(name, ALWAYS, map);
}
