//! The modifiers of one instruction, taken one by one by whoever translates it: what is left over is a
//! form that softcuda lacks, and named so.

use std::cell::Cell;

use crate::ptx::PtxError;
use crate::ptx::ast::{Instruction, Type};

/// Rounding of a floating-point result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
    /// To nearest, ties away from zero: conversions to tf32 only.
    Away,
}

/// An instruction with the modifiers that nobody has taken yet.
pub(super) struct Form<'i, 'a> {
    pub instruction: &'i Instruction<'a>,
    taken: Cell<u64>,
}

impl<'i, 'a> Form<'i, 'a> {
    pub(super) fn new(instruction: &'i Instruction<'a>) -> Self {
        Self {
            instruction,
            taken: Cell::new(0),
        }
    }

    fn left(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let words = self.instruction.modifiers.iter().copied().enumerate();
        words.filter(|&(index, _)| index >= 64 || self.taken.get() >> index & 1 == 0)
    }

    fn mark(&self, index: usize) {
        if index < 64 {
            self.taken.set(self.taken.get() | 1 << index);
        }
    }

    /// Takes a modifier; whether it was there.
    pub(super) fn take(&self, word: &str) -> bool {
        let found = self.left().find(|&(_, left)| left == word);
        if let Some((index, _)) = found {
            self.mark(index);
        }
        found.is_some()
    }

    /// Takes the first modifier that the table has.
    pub(super) fn one_of<T: Copy>(&self, table: &[(&str, T)]) -> Option<T> {
        for (index, word) in self.left() {
            if let Some(&(_, value)) = table.iter().find(|(name, _)| *name == word) {
                self.mark(index);
                return Some(value);
            }
        }
        None
    }

    /// Takes the next modifier that is a type.
    pub(super) fn ty(&self) -> Result<Type, PtxError> {
        self.optional_ty()
            .ok_or_else(|| self.invalid("a type is missing"))
    }

    /// Takes the next modifier that is a type, if there is one.
    pub(super) fn optional_ty(&self) -> Option<Type> {
        let (index, ty) = self
            .left()
            .find_map(|(index, word)| Type::named(word).map(|ty| (index, ty)))?;
        self.mark(index);
        Some(ty)
    }

    /// Takes `.rn`, `.rz`, `.rm` or `.rp`.
    pub(super) fn rounding(&self) -> Option<Rounding> {
        self.one_of(&[
            ("rn", Rounding::Nearest),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
            ("rna", Rounding::Away),
        ])
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), PtxError> {
        match self.left().next() {
            None => Ok(()),
            Some((_, word)) => Err(self.unsupported(&format!("modifier .{word}"))),
        }
    }

    pub(super) fn invalid(&self, why: &str) -> PtxError {
        PtxError::invalid(
            self.instruction.line,
            format!("{}: {why}", self.instruction.name()),
        )
    }

    pub(super) fn unsupported(&self, what: &str) -> PtxError {
        PtxError::unsupported(
            self.instruction.line,
            format!("{}: softcuda lacks {what}", self.instruction.name()),
        )
    }
}
