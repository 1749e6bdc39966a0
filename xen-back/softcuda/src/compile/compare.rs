//! Comparison and selection, of scalars and of packed pairs. Comparisons with NaN are false unless
//! their name says otherwise.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::float::is_float;
use super::form::Form;
use super::lower::{Lower, clif};
use super::packed::is_half;
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Type};

/// How a comparison's name reads for integers and floats.
#[derive(Debug, Clone, Copy)]
struct Comparison {
    signed: Option<IntCC>,
    unsigned: Option<IntCC>,
    float: Option<FloatCC>,
}

const fn comparison(
    signed: Option<IntCC>,
    unsigned: Option<IntCC>,
    float: Option<FloatCC>,
) -> Comparison {
    Comparison {
        signed,
        unsigned,
        float,
    }
}

const COMPARISONS: [(&str, Comparison); 18] = {
    use FloatCC as F;
    use IntCC as I;
    [
        (
            "eq",
            comparison(Some(I::Equal), Some(I::Equal), Some(F::Equal)),
        ),
        (
            "ne",
            comparison(
                Some(I::NotEqual),
                Some(I::NotEqual),
                Some(F::OrderedNotEqual),
            ),
        ),
        (
            "lt",
            comparison(
                Some(I::SignedLessThan),
                Some(I::UnsignedLessThan),
                Some(F::LessThan),
            ),
        ),
        (
            "le",
            comparison(
                Some(I::SignedLessThanOrEqual),
                Some(I::UnsignedLessThanOrEqual),
                Some(F::LessThanOrEqual),
            ),
        ),
        (
            "gt",
            comparison(
                Some(I::SignedGreaterThan),
                Some(I::UnsignedGreaterThan),
                Some(F::GreaterThan),
            ),
        ),
        (
            "ge",
            comparison(
                Some(I::SignedGreaterThanOrEqual),
                Some(I::UnsignedGreaterThanOrEqual),
                Some(F::GreaterThanOrEqual),
            ),
        ),
        ("lo", comparison(None, Some(I::UnsignedLessThan), None)),
        (
            "ls",
            comparison(None, Some(I::UnsignedLessThanOrEqual), None),
        ),
        ("hi", comparison(None, Some(I::UnsignedGreaterThan), None)),
        (
            "hs",
            comparison(None, Some(I::UnsignedGreaterThanOrEqual), None),
        ),
        ("equ", comparison(None, None, Some(F::UnorderedOrEqual))),
        ("neu", comparison(None, None, Some(F::NotEqual))),
        ("ltu", comparison(None, None, Some(F::UnorderedOrLessThan))),
        (
            "leu",
            comparison(None, None, Some(F::UnorderedOrLessThanOrEqual)),
        ),
        (
            "gtu",
            comparison(None, None, Some(F::UnorderedOrGreaterThan)),
        ),
        (
            "geu",
            comparison(None, None, Some(F::UnorderedOrGreaterThanOrEqual)),
        ),
        ("num", comparison(None, None, Some(F::Ordered))),
        ("nan", comparison(None, None, Some(F::Unordered))),
    ]
};

/// A comparison as it applies to a type.
#[derive(Debug, Clone, Copy)]
enum Condition {
    Float(FloatCC),
    Integer(IntCC),
}

/// What `set` and `setp` have in common, as taken from the modifiers.
#[derive(Debug, Clone, Copy)]
struct Test {
    comparison: Comparison,
    /// `.and`, `.or`, `.xor`
    combine: Option<&'static str>,
    ftz: bool,
}

impl Test {
    fn take(form: &Form<'_, '_>) -> Result<Self, PtxError> {
        Ok(Self {
            comparison: form
                .one_of(&COMPARISONS)
                .ok_or_else(|| form.invalid("the comparison is missing"))?,
            combine: form.one_of(&[("and", "and"), ("or", "or"), ("xor", "xor")]),
            ftz: form.take("ftz"),
        })
    }

    fn condition(&self, form: &Form<'_, '_>, ty: Type) -> Result<Condition, PtxError> {
        let unsigned = self.comparison.unsigned;
        let condition = if is_float(ty) {
            self.comparison.float.map(Condition::Float)
        } else if ty.is_signed() {
            self.comparison.signed.map(Condition::Integer)
        } else if ty.is_untyped() {
            unsigned
                .filter(|condition| matches!(condition, IntCC::Equal | IntCC::NotEqual))
                .map(Condition::Integer)
        } else {
            unsigned.map(Condition::Integer)
        };
        condition.ok_or_else(|| form.invalid("this comparison does not fit the type"))
    }

    /// Destination, the two operands, and the predicate to combine with.
    fn operands<'f>(
        &self,
        form: &Form<'f, '_>,
    ) -> Result<(&'f Operand, [&'f Operand; 2], Option<&'f Operand>), PtxError> {
        match (form.instruction.operands.as_slice(), self.combine) {
            ([to, a, b], None) => Ok((to, [a, b], None)),
            ([to, a, b, with], Some(_)) => Ok((to, [a, b], Some(with))),
            _ => Err(form.invalid("another number of operands is needed")),
        }
    }
}

impl Lower<'_, '_, '_> {
    /// Whether a comparison of scalars holds.
    fn holds(
        &mut self,
        condition: Condition,
        ty: Type,
        ftz: bool,
        mut a: Value,
        mut b: Value,
    ) -> Value {
        let condition = match condition {
            Condition::Integer(condition) => return self.b.ins().icmp(condition, a, b),
            Condition::Float(condition) => condition,
        };
        if ftz {
            (a, b) = (self.flush(a, ty), self.flush(b, ty));
        }
        if is_half(ty) {
            (a, b) = (self.widen(a, ty), self.widen(b, ty));
        }
        self.b.ins().fcmp(condition, a, b)
    }

    fn combine(&mut self, test: &Test, holds: Value, with: Option<Value>) -> Value {
        match (test.combine, with) {
            (Some("and"), Some(with)) => self.b.ins().band(holds, with),
            (Some("or"), Some(with)) => self.b.ins().bor(holds, with),
            (Some("xor"), Some(with)) => self.b.ins().bxor(holds, with),
            _ => holds,
        }
    }

    pub(super) fn set_predicate(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let test = Test::take(form)?;
        let ty = form.ty()?;
        form.finish()?;
        let condition = test.condition(form, ty)?;
        let (to, [a, b], with) = test.operands(form)?;
        let (a, b) = (self.read(a, ty)?, self.read(b, ty)?);
        let with = with.map(|with| self.read(with, Type::Pred)).transpose()?;
        if let Some(element) = ty.lane() {
            let &Operand::Pair(first, second) = to else {
                return Err(form.invalid("pairs are compared to two predicates, p|q"));
            };
            for (index, to) in [(0, first), (1, second)] {
                let (a, b) = (self.half_at(a, index), self.half_at(b, index));
                let holds = self.holds(condition, element, test.ftz, a, b);
                let holds = self.combine(&test, holds, with);
                self.write_predicate(to, holds)?;
            }
            return Ok(());
        }
        let holds = self.holds(condition, ty, test.ftz, a, b);
        let value = self.combine(&test, holds, with);
        match to {
            Operand::Pair(first, second) => {
                let fails = self.not(holds);
                let other = self.combine(&test, fails, with);
                self.write_predicate(*first, value)?;
                self.write_predicate(*second, other)
            }
            to => self.write(to, Type::Pred, value),
        }
    }

    pub(super) fn set(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let test = Test::take(form)?;
        let (result, ty) = (form.ty()?, form.ty()?);
        form.finish()?;
        let condition = test.condition(form, ty)?;
        let (to, [a, b], with) = test.operands(form)?;
        let args = [self.read(a, ty)?, self.read(b, ty)?];
        let with = with.map(|with| self.read(with, Type::Pred)).transpose()?;
        // Of a pair each half of the result is 1.0 or 0, or all ones or zeros.
        let each = match (ty.lane(), result.lane()) {
            (None, _) => result,
            (Some(_), Some(half)) => half,
            (Some(_), None) => Type::U16,
        };
        let value = self.lanes(ty, &args, |lower, ty, args| {
            let &[a, b] = args else {
                return lower.zero(clif(each));
            };
            let holds = lower.holds(condition, ty, test.ftz, a, b);
            let holds = lower.combine(&test, holds, with);
            let yes = match each {
                Type::F32 => lower.f32(1.0),
                Type::F16 => lower.imm(types::I16, 0x3c00),
                Type::Bf16 => lower.imm(types::I16, 0x3f80),
                other => lower.imm(clif(other), -1),
            };
            let no = lower.zero(clif(each));
            lower.b.ins().select(holds, yes, no)
        });
        self.write(to, result, value)
    }

    pub(super) fn select(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let ftz = form.take("ftz");
        let ty = form.ty()?;
        let by = if form.instruction.opcode == "slct" {
            Some(form.ty()?)
        } else {
            None
        };
        form.finish()?;
        let (to, [a, b, choice]) = Self::sources(form)?;
        let (a, b) = (self.read(a, ty)?, self.read(b, ty)?);
        let choice = match by {
            None => self.read(choice, Type::Pred)?,
            Some(Type::S32) => {
                let choice = self.read(choice, Type::S32)?;
                self.b
                    .ins()
                    .icmp_imm_s(IntCC::SignedGreaterThanOrEqual, choice, 0)
            }
            Some(Type::F32) => {
                let choice = self.float(choice, Type::F32, ftz)?;
                let zero = self.zero(types::F32);
                self.b.ins().fcmp(FloatCC::GreaterThanOrEqual, choice, zero)
            }
            Some(_) => return Err(form.invalid("the choice is s32 or f32")),
        };
        let value = self.b.ins().select(choice, a, b);
        self.write(to, ty, value)
    }
}
