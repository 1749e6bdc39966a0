//! Video instructions: arithmetic on parts of words. They run in helpers, which take the selectors as
//! numbers; nothing here may accept a selector that the ISA does not list.

use cranelift_codegen::ir::types;

use super::form::Form;
use super::lower::Lower;
use crate::exec::helpers::Helper;
use crate::exec::video::{Compare, Lanes, Mad, Merge, Operation, Scalar, Second};
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Reg, Type};

/// A word operand of a video instruction: a register or constant, its selector, and its sign.
struct Source<'o> {
    operand: Operand,
    selector: Option<&'o str>,
    negated: bool,
}

impl<'o> Source<'o> {
    fn of(operand: &'o Operand) -> Self {
        match operand {
            Operand::Part {
                reg,
                negated,
                selector,
            } => Self {
                operand: Operand::Reg(*reg),
                selector: (!selector.is_empty()).then_some(selector.as_str()),
                negated: *negated,
            },
            other => Self {
                operand: other.clone(),
                selector: None,
                negated: false,
            },
        }
    }
}

/// Which part of a word: 0 all of it, 1 to 4 a byte, 5 and 6 a half.
fn part(form: &Form<'_, '_>, selector: Option<&str>) -> Result<u32, PtxError> {
    const PARTS: [&str; 6] = ["b0", "b1", "b2", "b3", "h0", "h1"];
    let Some(word) = selector else {
        return Ok(0);
    };
    let place = PARTS.iter().position(|part| *part == word);
    place
        .map(|place| place as u32 + 1)
        .ok_or_else(|| form.invalid("a selector is one of .b0 to .b3, .h0 and .h1"))
}

/// The digits of a selector such as `h32` or `b7654`, the lowest lane's last.
fn digits(form: &Form<'_, '_>, word: &str, lanes: usize) -> Result<Vec<u32>, PtxError> {
    let (letter, most) = if lanes == 2 { ('h', 4) } else { ('b', 8) };
    let digits = word.strip_prefix(letter).map(|rest| {
        rest.chars()
            .map(|digit| digit.to_digit(most))
            .collect::<Option<Vec<u32>>>()
    });
    digits
        .flatten()
        .ok_or_else(|| form.invalid("the selector does not fit the instruction"))
}

impl Lower<'_, '_, '_> {
    fn destination<'o>(
        form: &Form<'_, '_>,
        operand: &'o Operand,
    ) -> Result<(Reg, Option<&'o str>), PtxError> {
        match operand {
            Operand::Reg(reg) => Ok((*reg, None)),
            Operand::Part {
                reg,
                negated: false,
                selector,
            } => Ok((*reg, Some(selector.as_str()))),
            _ => Err(form.invalid("the destination must be a register")),
        }
    }

    fn video_operation(form: &Form<'_, '_>) -> Operation {
        match form.instruction.opcode.trim_end_matches(['2', '4']) {
            "vsub" => Operation::Sub,
            "vabsdiff" => Operation::Distance,
            "vmin" => Operation::Min,
            "vmax" => Operation::Max,
            "vavrg" => Operation::Average,
            "vshl" => Operation::Left,
            "vshr" => Operation::Right,
            "vset" => Operation::Set,
            _ => Operation::Add,
        }
    }

    fn compare_word(form: &Form<'_, '_>) -> Compare {
        form.one_of(&[
            ("eq", Compare::Equal),
            ("ne", Compare::NotEqual),
            ("lt", Compare::Less),
            ("le", Compare::LessEqual),
            ("gt", Compare::Greater),
            ("ge", Compare::GreaterEqual),
        ])
        .unwrap_or(Compare::Equal)
    }

    pub(super) fn video(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let operation = Self::video_operation(form);
        // A comparison's result is unsigned.
        let result = if operation == Operation::Set {
            Type::U32
        } else {
            form.ty()?
        };
        let (a_type, b_type) = (form.ty()?, form.ty()?);
        let sat = form.take("sat");
        let wrap = form.one_of(&[("clamp", false), ("wrap", true)]);
        let compare = Self::compare_word(form);
        let second = form.one_of(&[
            ("add", Second::Add),
            ("min", Second::Min),
            ("max", Second::Max),
        ]);
        form.finish()?;
        let operands = form.instruction.operands.as_slice();
        let (to, a, b, c) = match operands {
            [to, a, b] if second.is_none() => (to, a, b, None),
            [to, a, b, c] => (to, a, b, Some(c)),
            _ => return Err(form.invalid("another number of operands is needed")),
        };
        let (to, to_part) = Self::destination(form, to)?;
        let to_part = part(form, to_part)?;
        if c.is_some() != (second.is_some() || to_part != 0) || second.is_some() && to_part != 0 {
            return Err(form.invalid(
                "a fourth operand goes with either a second operation or a part of the destination",
            ));
        }
        let (a, b) = (Source::of(a), Source::of(b));
        if a.negated || b.negated {
            return Err(form.invalid("only vmad has negated operands"));
        }
        let code = Scalar {
            operation,
            compare,
            second: second.unwrap_or(Second::None),
            signed: [result, a_type, b_type].map(Type::is_signed),
            sat,
            wrap: wrap.unwrap_or(false),
            parts: [to_part, part(form, a.selector)?, part(form, b.selector)?],
        };
        let c = match c {
            Some(c) => self.read(c, Type::B32)?,
            None => self.imm(types::I32, 0),
        };
        let args = [
            self.imm(types::I32, i64::from(code.bits())),
            self.read(&a.operand, Type::B32)?,
            self.read(&b.operand, Type::B32)?,
            c,
        ];
        let value = self.helper(Helper::Video, &args, types::I32);
        self.write(&Operand::Reg(to), Type::B32, value)
    }

    pub(super) fn video_mad(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let (_, a_type, b_type) = (form.ty()?, form.ty()?, form.ty()?);
        let plus_one = form.take("po");
        let sat = form.take("sat");
        let scale = form.one_of(&[("shr7", 7), ("shr15", 15)]).unwrap_or(0);
        form.finish()?;
        let (to, [a, b, c]) = Self::sources(form)?;
        let (a, b, c) = (Source::of(a), Source::of(b), Source::of(c));
        let product = a.negated != b.negated;
        if c.selector.is_some()
            || product && c.negated
            || plus_one && (a.negated || b.negated || c.negated)
        {
            return Err(form.invalid(
                "either the product or the third operand may be negated, neither with .po",
            ));
        }
        let code = Mad {
            signed: [a_type, b_type].map(Type::is_signed),
            parts: [part(form, a.selector)?, part(form, b.selector)?],
            negate_product: product,
            negate_addend: c.negated,
            plus_one,
            sat,
            scale,
        };
        let args = [
            self.imm(types::I32, i64::from(code.bits())),
            self.read(&a.operand, Type::B32)?,
            self.read(&b.operand, Type::B32)?,
            self.read(&c.operand, Type::B32)?,
        ];
        let value = self.helper(Helper::VideoMad, &args, types::I32);
        self.write(to, Type::B32, value)
    }

    pub(super) fn video_lanes(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let lanes = if form.instruction.opcode.ends_with('2') {
            2
        } else {
            4
        };
        let operation = Self::video_operation(form);
        let result = if operation == Operation::Set {
            Type::U32
        } else {
            form.ty()?
        };
        let (a_type, b_type) = (form.ty()?, form.ty()?);
        let sat = form.take("sat");
        let compare = Self::compare_word(form);
        let merge = if form.take("add") {
            Merge::Accumulate
        } else {
            Merge::Keep
        };
        form.finish()?;
        let (to, [a, b, c]) = Self::sources(form)?;
        let (to, mask) = Self::destination(form, to)?;
        let (a, b) = (Source::of(a), Source::of(b));
        if a.negated || b.negated {
            return Err(form.invalid("only vmad has negated operands"));
        }
        let mask = match mask {
            None => (1 << lanes) - 1,
            Some(word) => {
                let digits = digits(form, word, lanes)?;
                let falling = digits.windows(2).all(|pair| pair[0] > pair[1]);
                if digits.is_empty() || !falling || digits[0] >= lanes as u32 {
                    return Err(form.invalid("a mask names lanes once, from the highest down"));
                }
                digits.iter().fold(0, |mask, lane| mask | 1 << lane)
            }
        };
        let select = |source: &Source<'_>, first: u32| -> Result<u32, PtxError> {
            let digits = match source.selector {
                None => (0..lanes as u32).rev().map(|lane| first + lane).collect(),
                Some(word) => digits(form, word, lanes)?,
            };
            if digits.len() != lanes {
                return Err(form.invalid("a selector names one source per lane"));
            }
            Ok(digits.iter().fold(0, |all, digit| all << 3 | digit))
        };
        let code = Lanes {
            operation,
            compare,
            four: lanes == 4,
            merge,
            signed: [result, a_type, b_type].map(Type::is_signed),
            sat,
            mask,
        };
        let selectors = select(&a, 0)? | select(&b, lanes as u32)? << 16;
        let args = [
            self.imm(types::I32, i64::from(code.bits())),
            self.imm(types::I32, i64::from(selectors)),
            self.read(&a.operand, Type::B32)?,
            self.read(&b.operand, Type::B32)?,
            self.read(c, Type::B32)?,
        ];
        let value = self.helper(Helper::VideoLanes, &args, types::I32);
        self.write(&Operand::Reg(to), Type::B32, value)
    }
}
