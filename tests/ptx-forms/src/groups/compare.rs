//! `setp` and `set`: all comparisons, combined with a predicate or not.

use std::cmp::Ordering;

use super::{Table, named};
use crate::form::{Map, exact, exact_all};
use crate::types::{Since, Ty};

const COMBINED: [&str; 4] = ["", "and", "or", "xor"];
const INTEGER: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];
const UNSIGNED: [&str; 4] = ["lo", "ls", "hi", "hs"];
const FLOAT: [&str; 14] = [
    "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

/// The types that are compared, with and without `.ftz`.
const TYPES: [(Ty, bool); 19] = [
    (Ty::B16, false),
    (Ty::B32, false),
    (Ty::B64, false),
    (Ty::U16, false),
    (Ty::U32, false),
    (Ty::U64, false),
    (Ty::S16, false),
    (Ty::S32, false),
    (Ty::S64, false),
    (Ty::F32, false),
    (Ty::F32, true),
    (Ty::F64, false),
    (Ty::F16, false),
    (Ty::F16, true),
    (Ty::Bf16, false),
    (Ty::F16x2, false),
    (Ty::F16x2, true),
    (Ty::Bf16x2, false),
    (Ty::Pred, false),
];

fn comparisons(ty: Ty) -> Vec<&'static str> {
    match ty {
        Ty::Pred => Vec::new(),
        Ty::B16 | Ty::B32 | Ty::B64 => INTEGER[..2].to_vec(),
        Ty::U16 | Ty::U32 | Ty::U64 => [&INTEGER[..], &UNSIGNED].concat(),
        Ty::S16 | Ty::S32 | Ty::S64 => INTEGER.to_vec(),
        _ => FLOAT.to_vec(),
    }
}

/// Whether a comparison of two elements holds.
fn holds(comparison: &str, ty: Ty, ftz: bool, a: u128, b: u128) -> bool {
    let order = match ty.format() {
        Some(format) => {
            let flush = |x| if ftz { format.flush(x) } else { x };
            format.compare(flush(a), flush(b))
        }
        None => Some(ty.value(a).cmp(&ty.value(b))),
    };
    let unordered = order.is_none();
    let is = |wanted: &[Ordering]| order.is_some_and(|order| wanted.contains(&order));
    use Ordering::{Equal, Greater, Less};
    match comparison {
        "eq" => is(&[Equal]),
        "ne" => is(&[Less, Greater]),
        "lt" | "lo" => is(&[Less]),
        "le" | "ls" => is(&[Less, Equal]),
        "gt" | "hi" => is(&[Greater]),
        "ge" | "hs" => is(&[Greater, Equal]),
        "equ" => unordered || is(&[Equal]),
        "neu" => unordered || is(&[Less, Greater]),
        "ltu" => unordered || is(&[Less]),
        "leu" => unordered || is(&[Less, Equal]),
        "gtu" => unordered || is(&[Greater]),
        "geu" => unordered || is(&[Greater, Equal]),
        "num" => !unordered,
        _ => unordered,
    }
}

fn combine(how: &str, holds: bool, with: u128) -> bool {
    let with = with == 1;
    match how {
        "and" => holds && with,
        "or" => holds || with,
        "xor" => holds != with,
        _ => holds,
    }
}

pub(super) fn add(table: &mut Table) {
    for (ty, ftz) in TYPES {
        for comparison in comparisons(ty) {
            for how in COMBINED {
                set_predicate(table, comparison, how, ty, ftz);
                for to in results(ty) {
                    if ftz && to == Ty::Bf16 {
                        continue;
                    }
                    set(table, comparison, how, ty, ftz, to);
                }
            }
        }
    }
}

/// bf16 is compared since sm_90.
const fn since(ty: Ty) -> Since {
    match ty {
        Ty::Bf16 | Ty::Bf16x2 => Since(78, 90),
        _ => Since::ALWAYS,
    }
}

fn operands(how: &str) -> (&'static str, Vec<Ty>) {
    if how.is_empty() {
        ("{0}, {1}", Vec::new())
    } else {
        ("{0}, {1}, {2}", vec![Ty::Pred])
    }
}

fn set_predicate(
    table: &mut Table,
    comparison: &'static str,
    how: &'static str,
    ty: Ty,
    ftz: bool,
) {
    let name = named(
        "setp",
        &[comparison, how, if ftz { "ftz" } else { "" }, ty.name()],
    );
    let (list, with) = operands(how);
    let inputs = [vec![ty, ty], with].concat();
    let element = match ty {
        Ty::F16x2 => Ty::F16,
        Ty::Bf16x2 => Ty::Bf16,
        other => other,
    };
    if ty.pair() {
        // A predicate for each half.
        let judge = exact_all(move |x| {
            let with = x.get(2).copied().unwrap_or(0);
            [0, 16]
                .map(|shift| {
                    let (a, b) = (x[0] >> shift & 0xffff, x[1] >> shift & 0xffff);
                    u128::from(combine(how, holds(comparison, element, ftz, a, b), with))
                })
                .to_vec()
        });
        let code = format!("{name} {{d}}|{{d1}}, {list};");
        let map = Map::new(&inputs, Ty::Pred, code, judge).outputs(&[Ty::Pred; 2]);
        table.map(name, since(ty), map);
        return;
    }
    // One predicate, and two: the second is of the opposite comparison. And the combined one negated.
    let judge = exact_all(move |x| {
        let with = x.get(2).copied().unwrap_or(0);
        let result = holds(comparison, ty, ftz, x[0], x[1]);
        let all = [
            combine(how, result, with),
            combine(how, result, with),
            combine(how, !result, with),
            combine(how, result, 1 - with),
        ];
        all.map(u128::from).to_vec()
    });
    let negated = list.replace("{2}", "!{2}");
    let code =
        format!("{name} {{d}}, {list}; {name} {{d1}}|{{d2}}, {list}; {name} {{d3}}, {negated};");
    let map = Map::new(&inputs, Ty::Pred, code, judge).outputs(&[Ty::Pred; 4]);
    let map = match ty {
        Ty::F16 | Ty::Bf16 => map,
        _ => map.immediate(1),
    };
    table.map(name, since(ty), map);
}

/// The types that `set` gives for a comparison of these.
fn results(ty: Ty) -> Vec<Ty> {
    match ty {
        Ty::F16 => vec![Ty::F16, Ty::Bf16, Ty::U16, Ty::S16, Ty::U32, Ty::S32],
        Ty::Bf16 => vec![Ty::Bf16, Ty::U16, Ty::S16, Ty::U32, Ty::S32],
        Ty::F16x2 => vec![Ty::F16x2, Ty::U32, Ty::S32],
        Ty::Bf16x2 => vec![Ty::Bf16x2, Ty::U32, Ty::S32],
        _ => vec![Ty::U32, Ty::S32, Ty::F32, Ty::F16, Ty::Bf16],
    }
}

fn set(table: &mut Table, comparison: &'static str, how: &'static str, ty: Ty, ftz: bool, to: Ty) {
    let words = [
        comparison,
        how,
        if ftz { "ftz" } else { "" },
        to.name(),
        ty.name(),
    ];
    let name = named("set", &words);
    let (list, with) = operands(how);
    let inputs = [vec![ty, ty], with].concat();
    let element = match ty {
        Ty::F16x2 => Ty::F16,
        Ty::Bf16x2 => Ty::Bf16,
        other => other,
    };
    let yes = match to.format() {
        Some(format) => format.one(),
        None if ty.pair() => 0xffff,
        None => to.mask(),
    };
    let judge = exact(move |x| {
        let with = x.get(2).copied().unwrap_or(0);
        let one = |a, b| {
            if combine(how, holds(comparison, element, ftz, a, b), with) {
                yes
            } else {
                0
            }
        };
        if ty.pair() {
            one(x[0] >> 16 & 0xffff, x[1] >> 16 & 0xffff) << 16 | one(x[0] & 0xffff, x[1] & 0xffff)
        } else {
            one(x[0], x[1])
        }
    });
    let map = Map::new(&inputs, to, format!("{name} {{d}}, {list};"), judge);
    let map = match ty {
        Ty::F32 | Ty::F64 | Ty::S32 | Ty::U64 => map.immediate(1),
        _ => map,
    };
    let since = since(ty).and(since_result(to));
    table.map(name, since, map);
}

const fn since_result(to: Ty) -> Since {
    match to {
        Ty::Bf16 | Ty::Bf16x2 => Since(78, 90),
        Ty::F16 | Ty::F16x2 => Since(60, 53),
        _ => Since::ALWAYS,
    }
}
