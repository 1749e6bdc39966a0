//! `atom` and `red`: several threads on one word. The old values that threads got have to be those of
//! some order of the operations, and the last value that order's.

use super::{Table, named};
use crate::form::Kernel;
use crate::reference::float::{Format, Round};
use crate::types::{Numbers, Since, Ty};

const THREADS: usize = 32;
/// Words that threads share, and threads for each.
const CELLS: usize = 4;
const SLOT: usize = 16;

/// The word after an operation: from the word, the operand, and `cas`'s second operand.
type Step = fn(Ty, u128, u128, u128) -> u128;

fn integer(ty: Ty, value: i128) -> u128 {
    ty.wrap(value)
}

fn extreme(ty: Ty, a: u128, b: u128, least: bool) -> u128 {
    let Some(format) = ty.format() else {
        return if (ty.value(a) <= ty.value(b)) == least {
            a
        } else {
            b
        };
    };
    elements(ty, a, b, |a, b| match format.compare(a, b) {
        Some(order) if order.is_le() == least => a,
        _ => b,
    })
}

/// Element by element.
fn elements(ty: Ty, a: u128, b: u128, each: impl Fn(u128, u128) -> u128) -> u128 {
    if ty.pair() {
        each(a >> 16, b >> 16) << 16 | each(a & 0xffff, b & 0xffff)
    } else {
        each(a, b)
    }
}

fn sum(ty: Ty, a: u128, b: u128) -> u128 {
    match ty.format() {
        None => integer(ty, ty.value(a) + ty.value(b)),
        Some(format) => elements(ty, a, b, |a, b| format.add(Round::Nearest, a, b)),
    }
}

/// An operation, its types and since when it is there with each.
struct Operation {
    name: &'static str,
    step: Step,
    types: &'static [(Ty, Since)],
    /// `red` has it as well.
    reduces: bool,
}

const ALWAYS: Since = Since::ALWAYS;
const LONGS: [(Ty, Since); 4] = [
    (Ty::U32, ALWAYS),
    (Ty::S32, ALWAYS),
    (Ty::U64, ALWAYS),
    (Ty::S64, ALWAYS),
];
const BITS: [(Ty, Since); 2] = [(Ty::B32, ALWAYS), (Ty::B64, ALWAYS)];

const OPERATIONS: [Operation; 10] = [
    Operation {
        name: "and",
        step: |_, a, b, _| a & b,
        types: &BITS,
        reduces: true,
    },
    Operation {
        name: "or",
        step: |_, a, b, _| a | b,
        types: &BITS,
        reduces: true,
    },
    Operation {
        name: "xor",
        step: |_, a, b, _| a ^ b,
        types: &BITS,
        reduces: true,
    },
    Operation {
        name: "exch",
        step: |_, _, b, _| b,
        types: &[
            (Ty::B32, ALWAYS),
            (Ty::B64, ALWAYS),
            (Ty::B128, Since(83, 90)),
        ],
        reduces: false,
    },
    Operation {
        name: "cas",
        step: |_, a, b, c| if a == b { c } else { a },
        types: &[
            (Ty::B16, Since(63, 70)),
            (Ty::B32, ALWAYS),
            (Ty::B64, ALWAYS),
            (Ty::B128, Since(83, 90)),
        ],
        reduces: false,
    },
    Operation {
        name: "inc",
        step: |_, a, b, _| if a >= b { 0 } else { a + 1 },
        types: &[(Ty::U32, ALWAYS)],
        reduces: true,
    },
    Operation {
        name: "dec",
        step: |_, a, b, _| if a == 0 || a > b { b } else { a - 1 },
        types: &[(Ty::U32, ALWAYS)],
        reduces: true,
    },
    Operation {
        name: "add",
        step: |ty, a, b, _| sum(ty, a, b),
        types: &[
            (Ty::U32, ALWAYS),
            (Ty::S32, ALWAYS),
            (Ty::U64, ALWAYS),
            (Ty::F32, ALWAYS),
            (Ty::F64, Since(60, 60)),
            (Ty::F16, Since(63, 70)),
            (Ty::F16x2, Since(62, 60)),
            (Ty::Bf16, Since(78, 90)),
            (Ty::Bf16x2, Since(78, 90)),
        ],
        reduces: true,
    },
    Operation {
        name: "min",
        step: |ty, a, b, _| extreme(ty, a, b, true),
        types: &LONGS,
        reduces: true,
    },
    Operation {
        name: "max",
        step: |ty, a, b, _| extreme(ty, a, b, false),
        types: &LONGS,
        reduces: true,
    },
];

const SCOPES: [(&str, Since); 5] = [
    ("", ALWAYS),
    ("cta", Since(60, 60)),
    ("cluster", Since(78, 90)),
    ("gpu", Since(60, 60)),
    ("sys", Since(60, 60)),
];
const SPACES: [(&str, Since); 5] = [
    ("", ALWAYS),
    ("global", ALWAYS),
    ("shared", ALWAYS),
    ("shared::cta", Since(78, 50)),
    ("shared::cluster", Since(78, 90)),
];

pub(super) fn add(table: &mut Table) {
    vectors(table);
    for operation in &OPERATIONS {
        for &(ty, from) in operation.types {
            for (scope, scoped) in SCOPES {
                for (space, placed) in SPACES {
                    for order in ["", "relaxed", "acquire", "release", "acq_rel"] {
                        // A scope without an order is of relaxed operations.
                        let ordered = if order.is_empty() {
                            ALWAYS
                        } else {
                            Since(60, 70)
                        };
                        let since = from.and(scoped).and(placed).and(ordered);
                        let halves = if ty.format().is_some() && ty.bits() <= 32 && ty != Ty::F32 {
                            "noftz"
                        } else {
                            ""
                        };
                        let rest = [order, scope, space, operation.name, halves, ty.name()];
                        atom(
                            table,
                            &named("atom", &rest),
                            space,
                            ty,
                            operation,
                            true,
                            since,
                        );
                        if operation.reduces && !matches!(order, "acquire" | "acq_rel") {
                            atom(
                                table,
                                &named("red", &rest),
                                space,
                                ty,
                                operation,
                                false,
                                since,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Vectors, element by element: each thread on a place of its own, then all on one.
fn vectors(table: &mut Table) {
    let since = Since(81, 90);
    for (ty, counts, operations) in [
        (Ty::F32, &[2, 4][..], &["add"][..]),
        (Ty::F16, &[2, 4, 8], &["add", "min", "max"]),
        (Ty::Bf16, &[2, 4, 8], &["add", "min", "max"]),
        (Ty::F16x2, &[2, 4], &["add", "min", "max"]),
        (Ty::Bf16x2, &[2, 4], &["add", "min", "max"]),
    ] {
        for &count in counts {
            for &operation in operations {
                for scope in ["", "cta", "cluster", "gpu", "sys"] {
                    for space in ["", "global"] {
                        for opcode in ["atom", "red"] {
                            for order in ["", "relaxed", "release", "acquire", "acq_rel"] {
                                if opcode == "red" && matches!(order, "acquire" | "acq_rel") {
                                    continue;
                                }
                                let noftz = if ty == Ty::F32 { "" } else { "noftz" };
                                let vector = format!("v{count}");
                                let rest =
                                    [order, scope, space, operation, noftz, &vector, ty.name()];
                                let name = named(opcode, &rest);
                                vector_form(table, &name, ty, count, operation, since);
                            }
                        }
                    }
                }
            }
        }
    }
}

fn vector_form(
    table: &mut Table,
    name: &str,
    ty: Ty,
    count: usize,
    operation: &'static str,
    since: Since,
) {
    let mut numbers = Numbers::named(name);
    let bytes = ty.bytes();
    let fetches = name.starts_with("atom");
    let mut input = Vec::new();
    // Per thread what its place holds at first, and its operands.
    for _ in 0..THREADS * 2 * SLOT / bytes {
        let value = operand(ty, operation, &mut numbers);
        input.extend_from_slice(&value.to_le_bytes()[..bytes]);
    }
    let letter = match ty {
        Ty::F32 => 'f',
        Ty::F16 | Ty::Bf16 => 'h',
        _ => 'r',
    };
    let registers = |from: usize| {
        let names = (from..from + count).map(|index| format!("%{letter}{index}"));
        names.collect::<Vec<String>>()
    };
    let (olds, values) = (registers(1), registers(10));
    let vector = |names: &[String]| format!("{{{}}}", names.join(", "));
    let register = ty.register();
    let mut body = format!(
        "mad.wide.u32 %rd1, %t, {}, %in; mad.wide.u32 %rd2, %t, {}, %out; add.u64 %rd3, %out, {};
         ld.global.v2.b64 {{%rd4, %rd5}}, [%rd1]; st.global.v2.b64 [%rd2], {{%rd4, %rd5}};\n",
        2 * SLOT,
        2 * SLOT,
        THREADS * 2 * SLOT
    );
    for (index, value) in values.iter().enumerate() {
        body += &format!(
            "ld.global.{register} {value}, [%rd1+{}];\n",
            SLOT + index * bytes
        );
    }
    if fetches {
        body += &format!("{name} {}, [%rd2], {};\n", vector(&olds), vector(&values));
        for (index, old) in olds.iter().enumerate() {
            body += &format!(
                "st.global.{register} [%rd2+{}], {old};\n",
                SLOT + index * bytes
            );
        }
        body += &format!("{name} {}, [%rd3], {};\n", vector(&olds), vector(&values));
    } else {
        body += &format!(
            "{name} [%rd2], {values}; {name} [%rd3], {values};\n",
            values = vector(&values)
        );
    }
    let step = move |a: u128, b: u128| match operation {
        "add" => sum(ty, a, b),
        "min" => extreme(ty, a, b, true),
        _ => extreme(ty, a, b, false),
    };
    let judge = move |input: &[u8], output: &[u8]| {
        let element = |from: &[u8], at: usize| {
            let mut raw = [0; 16];
            raw[..bytes].copy_from_slice(&from[at..at + bytes]);
            u128::from_le_bytes(raw)
        };
        for index in 0..count {
            let mut all = 0;
            for thread in 0..THREADS {
                let at = thread * 2 * SLOT + index * bytes;
                let (old, value) = (element(input, at), element(input, at + SLOT));
                all = step(all, value);
                let got = [element(output, at), element(output, at + SLOT)];
                let wanted = [step(old, value), if fetches { old } else { 0 }];
                if got != wanted {
                    return Err(format!(
                        "thread {thread}, element {index}: got {got:x?}, wanted {wanted:x?}"
                    ));
                }
            }
            let got = element(output, THREADS * 2 * SLOT + index * bytes);
            // Zeros of both signs compare equal.
            let clear = |value: u128| {
                ty.format().map_or(value, |format| {
                    elements(
                        ty,
                        value,
                        0,
                        |value, _| if format.is_zero(value) { 0 } else { value },
                    )
                })
            };
            if clear(got) != clear(all) {
                return Err(format!(
                    "element {index} of what all change: got {got:#x}, wanted {all:#x}"
                ));
            }
        }
        Ok(())
    };
    table.kernel(
        name,
        since,
        Kernel {
            declarations: String::new(),
            body,
            threads: THREADS as u32,
            blocks: 1,
            input,
            output: THREADS * 2 * SLOT + SLOT,
            faults: false,
            objects: Vec::new(),
            judge: Box::new(judge),
        },
    );
}

/// Operands that let orders be told apart, and yet add up exactly.
fn operand(ty: Ty, name: &str, numbers: &mut Numbers) -> u128 {
    let small = numbers.below(7) as i128 - 3;
    let float = |format: Format| format.of_integer(Round::Nearest, small);
    match (ty.format(), name) {
        (Some(format), _) if ty.pair() => {
            let other = format.of_integer(Round::Nearest, numbers.below(5) as i128);
            other << 16 | float(format)
        }
        (Some(format), _) => float(format),
        (None, "cas") => numbers.below(3) as u128,
        (None, "inc" | "dec") => 3 + numbers.below(4) as u128,
        (None, "add") if numbers.below(2) == 0 => ty.wrap(small),
        _ => numbers.wide() & ty.mask(),
    }
}

fn atom(
    table: &mut Table,
    name: &str,
    space: &str,
    ty: Ty,
    operation: &Operation,
    fetches: bool,
    since: Since,
) {
    let mut numbers = Numbers::named(name);
    let mut input = Vec::new();
    // The words at first, then each thread's two operands.
    for index in 0..CELLS + 2 * THREADS {
        let second = index >= CELLS && (index - CELLS) % 2 == 1;
        let value = if second && operation.name != "cas" {
            0
        } else {
            operand(ty, operation.name, &mut numbers)
        };
        input.extend_from_slice(&value.to_le_bytes());
    }
    let register = ty.register();
    let load = |to: &str, from: &str| match ty {
        Ty::B128 => {
            format!("ld.global.v2.b64 {{%rd1, %rd2}}, [{from}]; mov.b128 {to}, {{%rd1, %rd2}};\n")
        }
        _ => format!("ld.global.{register} {to}, [{from}];\n"),
    };
    let in_shared = space.starts_with("shared");
    let declarations = if in_shared {
        format!(".shared .align 16 .b8 {{k}}s[{}];\n", CELLS * SLOT)
    } else {
        String::new()
    };
    let copy = |to: &str, from: &str, to_space: &str, from_space: &str| {
        format!(
            "ld.{from_space}.v2.b64 {{%rd1, %rd2}}, [{from}]; st.{to_space}.v2.b64 [{to}], {{%rd1, %rd2}};\n"
        )
    };
    // The words are either in shared memory or at the end of the output.
    let mut body = format!(
        ".reg .{register} %e<4>; .reg .pred %q;\nsetp.ge.u32 %q, %t, {CELLS}; mov.u64 %rd5, {};\n{}\
         mad.wide.u32 %rd6, %t, {SLOT}, %rd5; mad.wide.u32 %rd7, %t, {SLOT}, %in;\n@%q bra filled;\n{}filled: bar.sync 0;\n",
        if in_shared { "{k}s" } else { "%out" },
        if in_shared {
            String::new()
        } else {
            format!("add.u64 %rd5, %rd5, {};\n", THREADS * SLOT)
        },
        copy(
            "%rd6",
            "%rd7",
            if in_shared { "shared" } else { "global" },
            "global"
        ),
    );
    body += &format!(
        "mad.wide.u32 %rd8, %t, {}, %in; and.b32 %r9, %t, {}; mad.wide.u32 %rd9, %r9, {SLOT}, %rd5;\n",
        2 * SLOT,
        CELLS - 1
    );
    body += &load("%e1", &format!("%rd8+{}", CELLS * SLOT));
    body += &load("%e2", &format!("%rd8+{}", (CELLS + 1) * SLOT));
    let second = if operation.name == "cas" { ", %e2" } else { "" };
    body += &if fetches {
        format!("{name} %e0, [%rd9], %e1{second};\n")
    } else {
        format!("{name} [%rd9], %e1{second};\n")
    };
    body += &format!("mad.wide.u32 %rd10, %t, {SLOT}, %out;\n");
    if fetches {
        body += &match ty {
            Ty::B128 => {
                "mov.b128 {%rd1, %rd2}, %e0; st.global.v2.b64 [%rd10], {%rd1, %rd2};\n".to_owned()
            }
            _ => format!("st.global.{register} [%rd10], %e0;\n"),
        };
    }
    body += "bar.sync 0;\n";
    if in_shared {
        body += &format!(
            "@%q bra copied;\n{}copied: \n",
            copy(
                &format!("%rd10+{}", THREADS * SLOT),
                "%rd6",
                "global",
                "shared"
            )
        );
    }
    let step = operation.step;
    let judge = move |input: &[u8], output: &[u8]| {
        let word = |bytes: &[u8], index: usize| {
            let mut word = [0; SLOT];
            word.copy_from_slice(&bytes[index * SLOT..][..SLOT]);
            u128::from_le_bytes(word)
        };
        for cell in 0..CELLS {
            // Operands and the old value that each thread got.
            let calls: Vec<(u128, u128, Option<u128>)> = (cell..THREADS)
                .step_by(CELLS)
                .map(|thread| {
                    let at = CELLS + 2 * thread;
                    (
                        word(input, at),
                        word(input, at + 1),
                        fetches.then(|| word(output, thread)),
                    )
                })
                .collect();
            let (first, last) = (word(input, cell), word(output, THREADS + cell));
            let next = |state: u128, call: &(u128, u128, Option<u128>)| {
                step(ty, state & ty.mask(), call.0, call.1) | state & !ty.mask()
            };
            if !some_order(first, last, &calls, &next, &mut vec![false; calls.len()]) {
                return Err(format!(
                    "no order of the operations gives this: word {first:#x}, then {last:#x}; operands and old values {calls:x?}"
                ));
            }
        }
        Ok(())
    };
    table.kernel(
        name,
        since,
        Kernel {
            declarations,
            body,
            threads: THREADS as u32,
            blocks: 1,
            input,
            output: (THREADS + CELLS) * SLOT,
            faults: false,
            objects: Vec::new(),
            judge: Box::new(judge),
        },
    );
}

type Call = (u128, u128, Option<u128>);

/// Whether the calls left have an order that leads from this state to the last one.
fn some_order(
    state: u128,
    last: u128,
    calls: &[Call],
    next: &impl Fn(u128, &Call) -> u128,
    done: &mut Vec<bool>,
) -> bool {
    let mut all = true;
    for index in 0..calls.len() {
        if done[index] {
            continue;
        }
        all = false;
        let call = &calls[index];
        if call.2.is_some_and(|old| old != state) {
            continue;
        }
        done[index] = true;
        if some_order(next(state, call), last, calls, next, done) {
            return true;
        }
        done[index] = false;
        // Without old values one order is as good as another, for what is added exactly.
        if call.2.is_none() {
            return false;
        }
    }
    all && state == last
}
