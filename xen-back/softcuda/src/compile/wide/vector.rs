//! Arithmetic on vectors, for the instructions that hosts have as vectors and compilers emit most. Each
//! does what its scalar translation does, operation by operation; the rest is left to that.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{ConstantData, InstBuilder, MemFlagsData, Type as Clif, Value, types};

use super::{Class, Lower, PARTS, vector_of};
use crate::compile::lower::clif;
use crate::ptx::PtxError;
use crate::ptx::ast::{Instruction, Operand, Reg, Type};

/// One value of each thread.
type Vectors = [Value; PARTS];

impl<'l, 'a> Lower<'l, 'a, '_> {
    fn vector_cast(&mut self, value: Value, to: Clif) -> Value {
        if self.b.func.dfg.value_type(value) == to {
            return value;
        }
        // As on a register: lanes stay where they are.
        let flags = MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little);
        self.b.ins().bitcast(to, flags, value)
    }

    /// A vector of a constant's bits.
    fn constant(&mut self, ty: Clif, words: [u32; 4]) -> Value {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let data = self
            .b
            .func
            .dfg
            .constants
            .insert(ConstantData::from(bytes.as_slice()));
        self.b.ins().vconst(ty, data)
    }

    fn splat_bits(&mut self, ty: Clif, bits: u32) -> Value {
        self.constant(ty, [bits; 4])
    }

    /// An operand of 32 bits as vectors of a type; `None` where it is none.
    pub(super) fn vector_operand(
        &mut self,
        operand: &Operand,
        ty: Type,
    ) -> Result<Option<Vectors>, PtxError> {
        let of = vector_of(clif(ty));
        let constant = match operand {
            Operand::Int(value) if ty == Type::F32 => Some((*value as f32).to_bits()),
            Operand::Int(value) => Some(*value as u32),
            Operand::Single(value) => Some(value.to_bits()),
            Operand::Double(value) if ty == Type::F32 => Some((*value as f32).to_bits()),
            _ => None,
        };
        if let Some(bits) = constant {
            let vector = self.splat_bits(of, bits);
            return Ok(Some([vector; PARTS]));
        }
        let Operand::Reg(reg) = operand else {
            return Ok(None);
        };
        if self.register_type(*reg).bits() != 32 {
            return Ok(None);
        }
        match self.class(*reg) {
            Class::Varying => {
                let variables = self.varying(*reg);
                let mut vectors = Vec::new();
                for variable in variables {
                    let vector = self.b.use_var(variable);
                    vectors.push(self.vector_cast(vector, of));
                }
                Ok(vectors.try_into().ok())
            }
            class => {
                let own = clif(self.register_type(*reg));
                let value = self.register(*reg);
                let vector = self.b.ins().splat(vector_of(own), value);
                let Class::Stride(stride) = class else {
                    return Ok(None);
                };
                let mut vectors = [vector; PARTS];
                if stride != 0 {
                    for (part, vector) in vectors.iter_mut().enumerate() {
                        let words = std::array::from_fn(|lane| {
                            (stride as u32).wrapping_mul((4 * part + lane) as u32)
                        });
                        let steps = self.constant(types::I32X4, words);
                        *vector = self.b.ins().iadd(*vector, steps);
                    }
                }
                Ok(Some(vectors.map(|vector| self.vector_cast(vector, of))))
            }
        }
    }

    /// A predicate as masks.
    fn mask_operand(&mut self, operand: &Operand) -> Option<Vectors> {
        let (reg, negated) = match operand {
            Operand::Reg(reg) => (*reg, false),
            Operand::Not(reg) => (*reg, true),
            _ => return None,
        };
        if self.register_type(reg) != Type::Pred {
            return None;
        }
        let masks: Vectors = if self.class(reg) == Class::Varying {
            let variables = self.varying(reg);
            let masks: Vec<Value> = variables
                .into_iter()
                .map(|mask| self.b.use_var(mask))
                .collect();
            masks.try_into().ok()?
        } else {
            let value = self.register(reg);
            let value = self.b.ins().uextend(types::I32, value);
            let value = self.b.ins().ineg(value);
            [self.b.ins().splat(types::I32X4, value); PARTS]
        };
        Some(if negated {
            masks.map(|mask| self.b.ins().bnot(mask))
        } else {
            masks
        })
    }

    /// Subnormal numbers become zeros of their sign, as in the scalar `flush`.
    fn vector_flush(&mut self, value: Value) -> Value {
        let bits = self.vector_cast(value, types::I32X4);
        let exponent = self.splat_bits(types::I32X4, 0x7f80_0000);
        let zero = self.splat_bits(types::I32X4, 0);
        let sign = self.splat_bits(types::I32X4, 0x8000_0000);
        let exponent = self.b.ins().band(bits, exponent);
        let small = self.b.ins().icmp(IntCC::Equal, exponent, zero);
        let sign = self.b.ins().band(bits, sign);
        let bits = self.b.ins().bitselect(small, sign, bits);
        self.vector_cast(bits, types::F32X4)
    }

    /// Translates an instruction for whole vectors; whether it is one of those known here.
    pub(super) fn vector(&mut self, instruction: &'l Instruction<'a>) -> Result<bool, PtxError> {
        let Some((Operand::Reg(to), sources)) = instruction.operands.split_first() else {
            return Ok(false);
        };
        if self.class(*to) != Class::Varying {
            return Ok(false);
        }
        let own = self.register_type(*to);
        let result = match own.bits() {
            32 => self.vector_value(instruction, sources, own)?,
            1 => self.vector_predicate(instruction, sources)?,
            _ => None,
        };
        let Some(mut result) = result else {
            return Ok(false);
        };
        let of = if own == Type::Pred {
            types::I32X4
        } else {
            vector_of(clif(own))
        };
        result = result.map(|vector| self.vector_cast(vector, of));
        if let Some(guard) = instruction.guard
            && self.guard_varies(Some(guard))
        {
            let operand = if guard.negated {
                Operand::Not(guard.reg)
            } else {
                Operand::Reg(guard.reg)
            };
            let Some(masks) = self.mask_operand(&operand) else {
                return Ok(false);
            };
            let old: Vec<Value> = self
                .varying(*to)
                .into_iter()
                .map(|variable| self.b.use_var(variable))
                .collect();
            for ((new, mask), old) in result.iter_mut().zip(masks).zip(old) {
                *new = self.select_vector(mask, *new, old);
            }
        }
        self.define_varying(*to, &result);
        Ok(true)
    }

    fn select_vector(&mut self, mask: Value, yes: Value, no: Value) -> Value {
        let ty = self.b.func.dfg.value_type(yes);
        let mask = self.vector_cast(mask, ty);
        self.b.ins().bitselect(mask, yes, no)
    }

    /// All operands as vectors of one type.
    fn all(&mut self, sources: &[Operand], ty: Type) -> Result<Option<Vec<Vectors>>, PtxError> {
        let mut all = Vec::new();
        for source in sources {
            match self.vector_operand(source, ty)? {
                Some(vectors) => all.push(vectors),
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    fn vector_value(
        &mut self,
        instruction: &Instruction<'_>,
        sources: &[Operand],
        own: Type,
    ) -> Result<Option<Vectors>, PtxError> {
        let mut words = Words::new(instruction);
        let Some(ty) = words.ty else {
            return Ok(None);
        };
        if instruction.opcode == "cvt" {
            return self.vector_convert(&words, sources);
        }
        if instruction.opcode == "selp" {
            let [a, b, choice] = sources else {
                return Ok(None);
            };
            if ty.bits() != 32 || !words.only(&[]) {
                return Ok(None);
            }
            let ty = if own == Type::F32 {
                Type::F32
            } else {
                Type::B32
            };
            let values = self.all(&[a.clone(), b.clone()], ty)?;
            let (Some(values), Some(masks)) = (values, self.mask_operand(choice)) else {
                return Ok(None);
            };
            return Ok(Some(std::array::from_fn(|part| {
                self.select_vector(masks[part], values[0][part], values[1][part])
            })));
        }
        if words.second.is_some() {
            return Ok(None);
        }
        match ty {
            Type::F32 => self.vector_float(instruction.opcode, &mut words, sources),
            _ if ty.bits() == 32
                && (ty.is_integer() || ty.is_untyped())
                && !matches!(ty, Type::F16x2 | Type::Bf16x2) =>
            {
                self.vector_integer(instruction.opcode, &words, ty, sources)
            }
            _ => Ok(None),
        }
    }

    fn vector_float(
        &mut self,
        opcode: &str,
        words: &mut Words<'_, '_>,
        sources: &[Operand],
    ) -> Result<Option<Vectors>, PtxError> {
        let ftz = words.has("ftz");
        let (count, allowed): (usize, &[&str]) = match opcode {
            "mov" => (1, &[]),
            "add" | "sub" | "mul" => (2, &["rn", "ftz"]),
            "div" => (2, &["rn", "ftz"]),
            "fma" if self.has_fma => (3, &["rn", "ftz"]),
            "neg" | "abs" => (1, &["ftz"]),
            "sqrt" | "rcp" if words.has("rn") => (1, &["rn", "ftz"]),
            _ => return Ok(None),
        };
        if !words.only(allowed) || sources.len() != count {
            return Ok(None);
        }
        let Some(mut args) = self.all(sources, Type::F32)? else {
            return Ok(None);
        };
        if ftz {
            for arg in &mut args {
                *arg = arg.map(|value| self.vector_flush(value));
            }
        }
        let one = 1.0_f32.to_bits();
        let result = std::array::from_fn(|part| {
            let arg = |index: usize| args[index][part];
            let value = match opcode {
                "mov" => arg(0),
                "add" => self.b.ins().fadd(arg(0), arg(1)),
                "sub" => self.b.ins().fsub(arg(0), arg(1)),
                "mul" => self.b.ins().fmul(arg(0), arg(1)),
                "div" => self.b.ins().fdiv(arg(0), arg(1)),
                "fma" => self.b.ins().fma(arg(0), arg(1), arg(2)),
                "neg" => self.b.ins().fneg(arg(0)),
                "abs" => self.b.ins().fabs(arg(0)),
                "sqrt" => self.b.ins().sqrt(arg(0)),
                _ => {
                    let one = self.splat_bits(types::F32X4, one);
                    self.b.ins().fdiv(one, arg(0))
                }
            };
            if ftz && !matches!(opcode, "neg" | "abs") {
                self.vector_flush(value)
            } else {
                value
            }
        });
        Ok(Some(result))
    }

    fn vector_integer(
        &mut self,
        opcode: &str,
        words: &Words<'_, '_>,
        ty: Type,
        sources: &[Operand],
    ) -> Result<Option<Vectors>, PtxError> {
        let allowed: &[&str] = if matches!(opcode, "mul" | "mad") {
            &["lo"]
        } else {
            &[]
        };
        if !words.only(allowed) {
            return Ok(None);
        }
        if matches!(opcode, "shl" | "shr") {
            let [value, Operand::Int(by @ 0..=31)] = sources else {
                return Ok(None);
            };
            let Some(value) = self.vector_operand(value, Type::B32)? else {
                return Ok(None);
            };
            let by = self.imm(types::I32, *by);
            return Ok(Some(value.map(|value| match (opcode, ty.is_signed()) {
                ("shl", _) => self.b.ins().ishl(value, by),
                (_, true) => self.b.ins().sshr(value, by),
                _ => self.b.ins().ushr(value, by),
            })));
        }
        if opcode == "bfe" {
            let (
                false,
                [
                    value,
                    Operand::Int(place @ 0..=31),
                    Operand::Int(length @ 1..=31),
                ],
            ) = (ty.is_signed(), sources)
            else {
                return Ok(None);
            };
            let Some(value) = self.vector_operand(value, Type::B32)? else {
                return Ok(None);
            };
            let place = self.imm(types::I32, *place);
            let mask = self.splat_bits(types::I32X4, (1 << *length) - 1);
            return Ok(Some(value.map(|value| {
                let value = self.b.ins().ushr(value, place);
                self.b.ins().band(value, mask)
            })));
        }
        let count = match opcode {
            "mov" | "not" | "neg" => 1,
            "add" | "sub" | "mul" | "and" | "or" | "xor" | "min" | "max" => 2,
            "mad" => 3,
            _ => return Ok(None),
        };
        if sources.len() != count {
            return Ok(None);
        }
        let Some(args) = self.all(sources, Type::B32)? else {
            return Ok(None);
        };
        let signed = ty.is_signed();
        Ok(Some(std::array::from_fn(|part| {
            let arg = |index: usize| args[index][part];
            match opcode {
                "mov" => arg(0),
                "not" => self.b.ins().bnot(arg(0)),
                "neg" => self.b.ins().ineg(arg(0)),
                "add" => self.b.ins().iadd(arg(0), arg(1)),
                "sub" => self.b.ins().isub(arg(0), arg(1)),
                "mul" => self.b.ins().imul(arg(0), arg(1)),
                "mad" => {
                    let product = self.b.ins().imul(arg(0), arg(1));
                    self.b.ins().iadd(product, arg(2))
                }
                "and" => self.b.ins().band(arg(0), arg(1)),
                "or" => self.b.ins().bor(arg(0), arg(1)),
                "xor" => self.b.ins().bxor(arg(0), arg(1)),
                "min" if signed => self.b.ins().smin(arg(0), arg(1)),
                "min" => self.b.ins().umin(arg(0), arg(1)),
                _ if signed => self.b.ins().smax(arg(0), arg(1)),
                _ => self.b.ins().umax(arg(0), arg(1)),
            }
        })))
    }

    fn vector_convert(
        &mut self,
        words: &Words<'_, '_>,
        sources: &[Operand],
    ) -> Result<Option<Vectors>, PtxError> {
        let ([from], Some(to), Some(of)) = (sources, words.ty, words.second) else {
            return Ok(None);
        };
        let integer = |ty| matches!(ty, Type::S32 | Type::U32);
        let ftz = words.has("ftz");
        match (to, of) {
            (Type::F32, _) if integer(of) && words.only(&["rn"]) => {
                let Some(value) = self.vector_operand(from, Type::B32)? else {
                    return Ok(None);
                };
                Ok(Some(value.map(|value| {
                    if of == Type::S32 {
                        self.b.ins().fcvt_from_sint(types::F32X4, value)
                    } else {
                        self.b.ins().fcvt_from_uint(types::F32X4, value)
                    }
                })))
            }
            (_, Type::F32) if integer(to) && words.only(&["rzi", "ftz"]) => {
                let Some(value) = self.vector_operand(from, Type::F32)? else {
                    return Ok(None);
                };
                Ok(Some(value.map(|value| {
                    let value = if ftz { self.vector_flush(value) } else { value };
                    if to == Type::S32 {
                        self.b.ins().fcvt_to_sint_sat(types::I32X4, value)
                    } else {
                        self.b.ins().fcvt_to_uint_sat(types::I32X4, value)
                    }
                })))
            }
            _ if integer(to) && integer(of) && words.only(&[]) => {
                self.vector_operand(from, Type::B32)
            }
            _ => Ok(None),
        }
    }

    fn vector_predicate(
        &mut self,
        instruction: &Instruction<'_>,
        sources: &[Operand],
    ) -> Result<Option<Vectors>, PtxError> {
        let words = Words::new(instruction);
        match (instruction.opcode, words.ty) {
            ("setp", Some(ty)) if ty.bits() == 32 && words.second.is_none() => {
                self.vector_comparison(&words, ty, sources)
            }
            ("and" | "or" | "xor", Some(Type::Pred)) if words.only(&[]) => {
                let [a, b] = sources else {
                    return Ok(None);
                };
                let (Some(a), Some(b)) = (self.mask_operand(a), self.mask_operand(b)) else {
                    return Ok(None);
                };
                Ok(Some(std::array::from_fn(|part| match instruction.opcode {
                    "and" => self.b.ins().band(a[part], b[part]),
                    "or" => self.b.ins().bor(a[part], b[part]),
                    _ => self.b.ins().bxor(a[part], b[part]),
                })))
            }
            ("not", Some(Type::Pred)) if words.only(&[]) => {
                let [Operand::Reg(reg)] = sources else {
                    return Ok(None);
                };
                Ok(self.mask_operand(&Operand::Not(*reg)))
            }
            ("mov", Some(Type::Pred)) if words.only(&[]) => match sources {
                [from @ Operand::Reg(Reg(_))] => Ok(self.mask_operand(from)),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    fn vector_comparison(
        &mut self,
        words: &Words<'_, '_>,
        ty: Type,
        sources: &[Operand],
    ) -> Result<Option<Vectors>, PtxError> {
        const NAMES: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];
        let Some(name) = NAMES.into_iter().find(|name| words.has(name)) else {
            return Ok(None);
        };
        if !words.only(&[name]) || sources.len() != 2 {
            return Ok(None);
        }
        if ty == Type::F32 {
            let Some(args) = self.all(sources, Type::F32)? else {
                return Ok(None);
            };
            return Ok(Some(std::array::from_fn(|part| {
                let (a, b) = (args[0][part], args[1][part]);
                let condition = match name {
                    "eq" => FloatCC::Equal,
                    "ne" => {
                        let differ = self.b.ins().fcmp(FloatCC::NotEqual, a, b);
                        let ordered = self.b.ins().fcmp(FloatCC::Ordered, a, b);
                        return self.b.ins().band(differ, ordered);
                    }
                    "lt" => FloatCC::LessThan,
                    "le" => FloatCC::LessThanOrEqual,
                    "gt" => FloatCC::GreaterThan,
                    _ => FloatCC::GreaterThanOrEqual,
                };
                self.b.ins().fcmp(condition, a, b)
            })));
        }
        if !(ty.is_integer() || ty == Type::B32 && matches!(name, "eq" | "ne")) {
            return Ok(None);
        }
        let Some(args) = self.all(sources, Type::B32)? else {
            return Ok(None);
        };
        let condition = match (name, ty.is_signed()) {
            ("eq", _) => IntCC::Equal,
            ("ne", _) => IntCC::NotEqual,
            ("lt", true) => IntCC::SignedLessThan,
            ("le", true) => IntCC::SignedLessThanOrEqual,
            ("gt", true) => IntCC::SignedGreaterThan,
            ("ge", true) => IntCC::SignedGreaterThanOrEqual,
            ("lt", _) => IntCC::UnsignedLessThan,
            ("le", _) => IntCC::UnsignedLessThanOrEqual,
            ("gt", _) => IntCC::UnsignedGreaterThan,
            _ => IntCC::UnsignedGreaterThanOrEqual,
        };
        Ok(Some(std::array::from_fn(|part| {
            self.b.ins().icmp(condition, args[0][part], args[1][part])
        })))
    }
}

/// An instruction's modifiers: its types, and the others.
struct Words<'i, 'a> {
    ty: Option<Type>,
    second: Option<Type>,
    others: Vec<&'i &'a str>,
}

impl<'i, 'a> Words<'i, 'a> {
    fn new(instruction: &'i Instruction<'a>) -> Self {
        let mut types = instruction
            .modifiers
            .iter()
            .filter_map(|word| Type::named(word));
        let (ty, mut second) = (types.next(), types.next());
        if types.next().is_some() {
            // No instruction known here.
            second = Some(Type::B128);
        }
        let others = instruction
            .modifiers
            .iter()
            .filter(|word| Type::named(word).is_none())
            .collect();
        Self { ty, second, others }
    }

    fn has(&self, word: &str) -> bool {
        self.others.iter().any(|other| **other == word)
    }

    /// Whether there are no modifiers but these.
    fn only(&self, words: &[&str]) -> bool {
        self.others.iter().all(|other| words.contains(other))
    }
}
