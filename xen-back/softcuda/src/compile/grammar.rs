//! Which modifiers arithmetic and data-movement instructions take, in which order, as the PTX ISA
//! lists them. Checked before an instruction is translated, so that translating need not: it must never
//! be laxer than the ISA for an opcode that it lists.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::form::Form;
use crate::ptx::PtxError;

/// Per opcodes, the sequences of modifiers they take: alternatives are separated by `|`, what may be
/// missing ends with `?`, words in capitals stand for the sets below.
const FORMS: &[(&str, &[&str])] = &[
    (
        "add sub",
        &[
            "INT|u16x2|s16x2",
            "sat s32",
            "cc LONG",
            "RND? ftz? sat? f32",
            "RND? f64",
            "rn? ftz? sat? f16|f16x2",
            "rn? bf16|bf16x2",
        ],
    ),
    ("addc subc", &["cc? LONG"]),
    (
        "mul",
        &[
            "hi|lo INT",
            "wide u16|s16|u32|s32",
            "RND? ftz? sat? f32",
            "RND? f64",
            "rn? ftz? sat? f16|f16x2",
            "rn? bf16|bf16x2",
        ],
    ),
    (
        "mad",
        &[
            "hi|lo INT",
            "wide u16|s16|u32|s32",
            "hi sat s32",
            "hi|lo cc LONG",
            "RND ftz? sat? f32",
            "RND f64",
        ],
    ),
    ("madc", &["hi|lo cc? LONG"]),
    (
        "fma",
        &[
            "RND ftz? sat? f32",
            "RND f64",
            "rn ftz? sat? f16|f16x2",
            "rn ftz? relu f16|f16x2",
            "rn relu? bf16|bf16x2",
            "rn oob relu? f16|f16x2|bf16|bf16x2",
        ],
    ),
    ("mul24", &["hi|lo u32|s32"]),
    ("mad24", &["hi|lo u32|s32", "hi sat s32"]),
    ("sad rem", &["INT"]),
    (
        "div",
        &["INT", "approx|full ftz? f32", "RND ftz? f32", "RND f64"],
    ),
    (
        "abs neg",
        &["s16|s32|s64", "ftz? f32|f16|f16x2", "f64|bf16|bf16x2"],
    ),
    (
        "min max",
        &[
            "INT|u16x2|s16x2",
            "relu s32|s16x2",
            "ftz? NaN? f32",
            "ftz? NaN? abs f32",
            "ftz? NaN? xorsign abs f32",
            "f64",
            "ftz? NaN? f16|f16x2",
            "ftz? NaN? xorsign abs f16|f16x2",
            "NaN? bf16|bf16x2",
            "NaN? xorsign abs bf16|bf16x2",
        ],
    ),
    ("popc clz brev", &["b32|b64"]),
    ("bfind", &["shiftamt? LONG"]),
    ("bfe", &["LONG"]),
    ("bfi", &["b32|b64"]),
    ("bmsk", &["clamp|wrap b32"]),
    ("szext", &["clamp|wrap u32|s32"]),
    ("fns", &["b32"]),
    ("dp4a", &["u32|s32 u32|s32"]),
    ("dp2a", &["lo|hi u32|s32 u32|s32"]),
    (
        "testp",
        &["finite|infinite|number|notanumber|normal|subnormal f32|f64"],
    ),
    ("copysign", &["f32|f64"]),
    (
        "rcp",
        &[
            "approx ftz? f32",
            "RND ftz? f32",
            "RND f64",
            "approx ftz f64",
        ],
    ),
    ("sqrt", &["approx ftz? f32", "RND ftz? f32", "RND f64"]),
    ("rsqrt", &["approx ftz? f32|f64"]),
    ("sin cos lg2", &["approx ftz? f32"]),
    (
        "ex2",
        &[
            "approx ftz? f32",
            "approx f16|f16x2",
            "approx ftz bf16|bf16x2",
        ],
    ),
    ("tanh", &["approx f32|f16|f16x2|bf16|bf16x2"]),
    (
        "set",
        &[
            "CMP BOOL? ftz? u32|s32|f32 ANY",
            "CMP BOOL? ftz? f16 ANY|f16",
            "CMP BOOL? bf16 ANY|f16|bf16",
            "CMP BOOL? ftz? u16|s16|u32|s32 f16",
            "CMP BOOL? u16|s16|u32|s32 bf16",
            "CMP BOOL? ftz? f16x2|u32|s32 f16x2",
            "CMP BOOL? bf16x2|u32|s32 bf16x2",
        ],
    ),
    (
        "setp",
        &[
            "CMP BOOL? ftz? f32|f16|f16x2",
            "CMP BOOL? BITS|INT|f64|bf16|bf16x2",
        ],
    ),
    ("selp", &["ANY"]),
    ("slct", &["ANY s32", "ftz? ANY f32"]),
    ("and or xor not", &["pred|BITS"]),
    ("cnot", &["BITS"]),
    ("lop3", &["b32", "or|and b32"]),
    ("shf", &["l|r clamp|wrap b32"]),
    ("shl", &["BITS"]),
    ("shr", &["BITS|INT"]),
    ("prmt", &["b32 f4e|b4e|rc8|ecl|ecr|rc16?"]),
    ("mov", &["pred|ANY|b128"]),
    (
        "cvt",
        &[
            "sat? WHOLE WHOLE",
            "ROUND ftz? sat? WHOLE f32",
            "ROUND sat? WHOLE f16|bf16|f64",
            "RND ftz? sat? f32 WHOLE",
            "RND sat? f16|bf16|f64 WHOLE",
            "ROUND? ftz? sat? f32 f32",
            "ROUND? sat? f64 f64",
            "ROUND? sat? f16 f16",
            "ROUND? sat? bf16 bf16",
            "RND ftz? sat? f32 f64",
            "RND ftz? sat? f16|bf16 f32",
            "RND sat? f16 f64|bf16",
            "RND sat? bf16 f64|f16",
            "ftz? sat? f32|f64 f16|bf16|f32",
            "rn|rz relu? satfinite? f16|bf16|f16x2|bf16x2 f32",
            "rna satfinite? tf32 f32",
            "rn|rz satfinite? relu? tf32 f32",
            "rn satfinite relu? e4m3x2|e5m2x2 f32|f16x2",
            "rn relu? f16x2 e4m3x2|e5m2x2",
            "pack sat u16|s16 s32",
            "pack sat u2|s2|u4|s4|u8|s8 s32 b32",
        ],
    ),
    (
        "vadd vsub vabsdiff vmin vmax",
        &["u32|s32 u32|s32 u32|s32 sat? add|min|max?"],
    ),
    (
        "vshl vshr",
        &["u32|s32 u32|s32 u32 sat? clamp|wrap add|min|max?"],
    ),
    ("vmad", &["u32|s32 u32|s32 u32|s32 po? sat? shr7|shr15?"]),
    ("vset", &["u32|s32 u32|s32 eq|ne|lt|le|gt|ge add|min|max?"]),
    (
        "vadd2 vsub2 vavrg2 vabsdiff2 vmin2 vmax2 vadd4 vsub4 vavrg4 vabsdiff4 vmin4 vmax4",
        &[
            "u32|s32 u32|s32 u32|s32 sat?",
            "u32|s32 u32|s32 u32|s32 add",
        ],
    ),
    ("vset2 vset4", &["u32|s32 u32|s32 eq|ne|lt|le|gt|ge add?"]),
];

/// Forms that the ISA has for targets after sm_90 only.
const LACKING: &[(&str, &[&str])] = &[
    ("add sub", &["RND? ftz? f32x2", "RND? sat? f32 f16|bf16"]),
    ("mul", &["RND? ftz? f32x2"]),
    ("fma", &["RND ftz? f32x2", "RND sat? f32 f16|bf16"]),
    (
        "cvt",
        &[
            "rs relu? satfinite? f16x2|bf16x2|SMALL f32",
            "rn|rz|rp satfinite? relu? SMALL f32|f16x2|bf16x2",
            "rn relu? f16x2|bf16x2 SMALL",
        ],
    ),
];

const SETS: &[(&str, &str)] = &[
    ("INT", "u16|u32|u64|s16|s32|s64"),
    ("LONG", "u32|u64|s32|s64"),
    ("WHOLE", "u8|u16|u32|u64|s8|s16|s32|s64"),
    ("BITS", "b16|b32|b64"),
    ("ANY", "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64"),
    ("RND", "rn|rz|rm|rp"),
    ("ROUND", "rni|rzi|rmi|rpi"),
    (
        "CMP",
        "eq|ne|lt|le|gt|ge|lo|ls|hi|hs|equ|neu|ltu|leu|gtu|geu|num|nan",
    ),
    ("BOOL", "and|or|xor"),
    (
        "SMALL",
        "e2m1x2|e2m3x2|e3m2x2|ue8m0x2|e2m1x4|e2m3x4|e3m2x4|e4m3x4|e5m2x4",
    ),
];

/// One place of a form: whether it may be missing, and the words that fit.
type Place = (bool, Vec<&'static str>);

/// Per opcode, its forms and those that are lacking.
type Table = HashMap<&'static str, (Vec<Vec<Place>>, Vec<Vec<Place>>)>;

fn places(pattern: &'static str) -> Vec<Place> {
    let place = |text: &'static str| {
        let (words, optional) = match text.strip_suffix('?') {
            Some(words) => (words, true),
            None => (text, false),
        };
        let words = words.split('|').flat_map(|word| {
            let set = SETS.iter().find(|(name, _)| *name == word);
            set.map_or(word, |(_, words)| words).split('|')
        });
        (optional, words.collect())
    };
    pattern.split(' ').map(place).collect()
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table::new();
        for (opcodes, forms) in FORMS {
            for opcode in opcodes.split(' ') {
                let entry = table.entry(opcode).or_default();
                entry.0.extend(forms.iter().map(|form| places(form)));
            }
        }
        for (opcodes, forms) in LACKING {
            for opcode in opcodes.split(' ') {
                let entry = table.entry(opcode).or_default();
                entry.1.extend(forms.iter().map(|form| places(form)));
            }
        }
        table
    })
}

/// Whether modifiers are a form. No word fits two neighbouring places, so that the first fit is right.
fn fits(form: &[Place], modifiers: &[&str]) -> bool {
    let mut left = modifiers.iter();
    let mut next = left.next();
    for (optional, words) in form {
        match next {
            Some(word) if words.contains(word) => next = left.next(),
            _ if *optional => {}
            _ => return false,
        }
    }
    next.is_none()
}

/// The instruction's modifiers are a form that the ISA has and softcuda translates; opcodes that are
/// not listed here are checked where they are translated.
///
/// # Errors
/// What is wrong with the form.
pub(super) fn check(form: &Form<'_, '_>) -> Result<(), PtxError> {
    let Some((known, lacking)) = table().get(form.instruction.opcode) else {
        return Ok(());
    };
    let modifiers = form.instruction.modifiers.as_slice();
    let any = |forms: &[Vec<Place>]| forms.iter().any(|form| fits(form, modifiers));
    if any(known) {
        return Ok(());
    }
    if any(lacking) {
        return Err(form.unsupported("this form, which targets up to sm_90 do not have"));
    }
    Err(form.invalid("the instruction takes no such modifiers, or not in this order"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_fits_two_neighbouring_places() {
        for (opcode, (known, lacking)) in table() {
            for form in known.iter().chain(lacking) {
                for (index, (optional, words)) in form.iter().enumerate() {
                    // Those up to the next that must be there.
                    for (later_optional, later) in form.iter().skip(index + 1) {
                        let both = *optional && words.iter().any(|word| later.contains(word));
                        assert!(!both, "{opcode}: {words:?} {later:?}");
                        if !later_optional {
                            break;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn forms_are_told_apart() {
        let fits_any = |opcode: &str, modifiers: &str| {
            let modifiers: Vec<&str> = modifiers
                .split('.')
                .filter(|word| !word.is_empty())
                .collect();
            let (known, _) = &table()[opcode];
            known.iter().any(|form| fits(form, &modifiers))
        };
        for good in [
            "add:s32",
            "add:sat.s32",
            "add:cc.u64",
            "add:rz.ftz.sat.f32",
            "add:f16x2",
            "prmt:b32",
            "prmt:b32.f4e",
            "cvt:rn.f16.f32",
            "cvt:u8.s64",
            "cvt:f64.f32",
            "cvt:rzi.s32.f32",
            "set:lt.and.ftz.f32.f32",
            "setp:ne.b16",
            "min:NaN.xorsign.abs.f16",
        ] {
            let (opcode, modifiers) = good.split_once(':').unwrap_or((good, ""));
            assert!(fits_any(opcode, modifiers), "{good}");
        }
        for bad in [
            "add:b32",
            "add:s32.sat",
            "add:sat.u32",
            "add:ftz.f64",
            "add:",
            "fma:f32",
            "mul:s32",
            "cvt:rn.f64.f32",
            "cvt:f16.f32",
            "cvt:s32.f32",
            "cvt:rn.s32.u32",
            "prmt:f4e.b32",
            "setp:b32",
            "shl:s32",
            "add:s32.s32",
        ] {
            let (opcode, modifiers) = bad.split_once(':').unwrap_or((bad, ""));
            assert!(!fits_any(opcode, modifiers), "{bad}");
        }
    }
}
