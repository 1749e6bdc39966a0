//! Matrix instructions. A lane hands its words to the scheduler, which computes with those of the whole
//! warp (`exec::matrix`); `wmma`'s loads and stores are each lane's own business, since how fragments are
//! spread over lanes is ours to choose.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value, types};

use super::form::{Form, Rounding};
use super::lower::Lower;
use super::memory::SPACES;
use crate::exec::context::{Exchange, wait};
use crate::exec::helpers::Helper;
use crate::exec::matrix::{Code, Element, Fragment, Kind};
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Space, Type};

/// Shapes with the elements of A that they take in `mma`.
const MMA: [(&str, [u32; 3], &[Element]); 15] = {
    use Element::{B1, Bf16, E4m3, E5m2, F16, F64, S4, S8, Tf32, U4, U8};
    [
        ("m8n8k4", [8, 8, 4], &[F16, F64]),
        ("m16n8k4", [16, 8, 4], &[Tf32, F64]),
        ("m16n8k8", [16, 8, 8], &[F16, Bf16, Tf32, F64]),
        (
            "m16n8k16",
            [16, 8, 16],
            &[F16, Bf16, S8, U8, F64, E4m3, E5m2],
        ),
        ("m8n8k16", [8, 8, 16], &[S8, U8]),
        ("m16n8k32", [16, 8, 32], &[S8, U8, S4, U4, E4m3, E5m2]),
        ("m8n8k32", [8, 8, 32], &[S4, U4]),
        ("m16n8k64", [16, 8, 64], &[S4, U4]),
        ("m8n8k128", [8, 8, 128], &[B1]),
        ("m16n8k128", [16, 8, 128], &[B1]),
        ("m16n8k256", [16, 8, 256], &[B1]),
        // Only `wmma` has these.
        ("m16n16k16", [16, 16, 16], &[]),
        ("m32n8k16", [32, 8, 16], &[]),
        ("m8n32k16", [8, 32, 16], &[]),
        ("m16n16k8", [16, 16, 8], &[]),
    ]
};

/// As `MMA`, for `wmma`.
fn wmma_elements(shape: &str) -> &'static [Element] {
    use Element::{B1, Bf16, F16, F64, S4, S8, Tf32, U4, U8};
    match shape {
        "m16n16k16" | "m32n8k16" | "m8n32k16" => &[F16, Bf16, S8, U8],
        "m16n16k8" => &[Tf32],
        "m8n8k4" => &[F64],
        "m8n8k32" => &[S4, U4],
        "m8n8k128" => &[B1],
        _ => &[],
    }
}

fn shape(form: &Form<'_, '_>) -> Result<(&'static str, [u32; 3]), PtxError> {
    let shapes = MMA.map(|(name, sizes, _)| (name, (name, sizes)));
    form.one_of(&shapes)
        .ok_or_else(|| form.unsupported("this shape"))
}

/// The elements that an instruction's modifiers name, in order.
fn elements(form: &Form<'_, '_>) -> Vec<Element> {
    let words = form.instruction.modifiers.iter();
    words
        .filter_map(|word| Element::named(word).filter(|_| form.take(word)))
        .collect()
}

/// Whether columns are contiguous.
fn layout(form: &Form<'_, '_>) -> Result<bool, PtxError> {
    form.one_of(&[("row", false), ("col", true)])
        .ok_or_else(|| form.invalid(".row or .col is missing"))
}

/// Whether accumulators of these kinds go with A's elements.
fn sums_fit(a: Element, c: Element, d: Element) -> bool {
    match a {
        Element::F16 | Element::E4m3 | Element::E5m2 => [c, d]
            .iter()
            .all(|sum| matches!(sum, Element::F16 | Element::F32)),
        Element::Bf16 | Element::Tf32 => c == Element::F32 && d == Element::F32,
        Element::F64 => c == Element::F64 && d == Element::F64,
        _ => c == Element::S32 && d == Element::S32,
    }
}

impl Lower<'_, '_, '_> {
    /// The bytes in the frame through which a lane hands over its words.
    fn exchange_words(&self, form: &Form<'_, '_>) -> Result<i32, PtxError> {
        let offset = self.frame_layout.fragments;
        let offset = offset.ok_or_else(|| form.invalid("no room for words (an internal error)"))?;
        Ok(offset as i32)
    }

    /// Whether an operand's words are 64 bits wide, and its registers.
    fn fragment<'o>(
        form: &Form<'_, '_>,
        operand: &'o Operand,
        element: Element,
        words: usize,
    ) -> Result<(bool, &'o [Operand]), PtxError> {
        let wide = element == Element::F64;
        let parts = match operand {
            Operand::Vector(parts) => parts.as_slice(),
            scalar => std::slice::from_ref(scalar),
        };
        if parts.len() * if wide { 2 } else { 1 } != words {
            return Err(form.invalid(&format!("a fragment of {words} 32-bit words is needed")));
        }
        Ok((wide, parts))
    }

    /// Stores words for the scheduler, from a place on; the place after them.
    fn give_words(
        &mut self,
        form: &Form<'_, '_>,
        operand: &Operand,
        element: Element,
        words: usize,
        mut at: i32,
    ) -> Result<i32, PtxError> {
        let (wide, parts) = Self::fragment(form, operand, element, words)?;
        let ty = if wide { Type::B64 } else { Type::B32 };
        for part in parts {
            let value = self.read(part, ty)?;
            let flags = self.private_flags();
            let frame = self.frame;
            self.b.ins().store(flags, value, frame, at);
            at += ty.bytes() as i32;
        }
        Ok(at)
    }

    fn announce(&mut self, code: u32, words_at: i32) {
        let all = self.imm(types::I32, -1);
        self.store_exchange(all, offset_of!(Exchange, mask));
        let code = self.imm(types::I32, i64::from(code));
        self.store_exchange(code, offset_of!(Exchange, clamp));
        let words = self.b.ins().isub(self.frame, self.thread);
        let offset = self.imm(types::I64, i64::from(words_at));
        let words = self.b.ins().iadd(words, offset);
        let words = self.b.ins().ireduce(types::I32, words);
        self.store_exchange(words, offset_of!(Exchange, control));
    }

    /// Hands over the operands of a matrix instruction.
    pub(super) fn matrix_operands(&mut self, form: &Form<'_, '_>) -> Result<u32, PtxError> {
        let (code, _) = self.matrix_code(form)?;
        let at = self.exchange_words(form)?;
        let operands = form.instruction.operands.as_slice();
        match (code.kind, operands) {
            (Kind::Mma | Kind::Wmma, [_, a, b, c]) => {
                let words = code.words();
                let after = self.give_words(form, a, code.a, words[0], at)?;
                let after = self.give_words(form, b, code.b, words[1], after)?;
                self.give_words(form, c, code.c, words[2], after)?;
            }
            (Kind::Load, [_, address]) => self.give_row(form, address, code.m)?,
            (Kind::Store, [address, values]) => {
                self.give_words(form, values, Element::F16, code.m as usize, at)?;
                self.give_row(form, address, code.m)?;
            }
            (Kind::Transpose, [_, value]) => {
                self.give_words(form, value, Element::F16, 1, at)?;
            }
            _ => return Err(form.invalid("the operands do not fit")),
        }
        self.announce(code.bits(), at);
        Ok(wait::MATRIX)
    }

    /// Takes the results.
    pub(super) fn matrix_results(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        // Its modifiers were taken when the operands were handed over.
        let again = Form::new(form.instruction);
        let (code, _) = self.matrix_code(&again)?;
        let (element, words) = match code.kind {
            Kind::Store => return Ok(()),
            Kind::Load => (Element::F16, code.m as usize),
            Kind::Transpose => (Element::F16, 1),
            Kind::Mma | Kind::Wmma => (code.d, code.words()[3]),
        };
        let Some(to) = form.instruction.operands.first() else {
            return Err(form.invalid("a destination is needed"));
        };
        let (wide, parts) = Self::fragment(form, to, element, words)?;
        let ty = if wide { Type::B64 } else { Type::B32 };
        let at = self.exchange_words(form)?;
        let (flags, frame) = (self.private_flags(), self.frame);
        let mut values = Vec::new();
        for index in 0..parts.len() as i32 {
            let at = at + index * ty.bytes() as i32;
            values.push(self.b.ins().load(super::lower::clif(ty), flags, frame, at));
        }
        for (part, value) in parts.iter().zip(values) {
            self.write(part, ty, value)?;
        }
        Ok(())
    }

    /// The host address of a row of `ldmatrix` or `stmatrix`; 0 in lanes that give none.
    fn give_row(
        &mut self,
        form: &Form<'_, '_>,
        address: &Operand,
        matrices: u32,
    ) -> Result<(), PtxError> {
        let again = Form::new(form.instruction);
        let (_, space) = self.matrix_code(&again)?;
        let lane = self.read(&Operand::Special("%laneid".into()), Type::U32)?;
        let givers = self.imm(types::I32, i64::from(matrices) * 8);
        let gives = self.b.ins().icmp(IntCC::UnsignedLessThan, lane, givers);
        let (inside, after) = (self.b.create_block(), self.b.create_block());
        let host = self.b.append_block_param(after, types::I64);
        let zero = self.imm(types::I64, 0);
        self.b
            .ins()
            .brif(gives, inside, &[], after, &[BlockArg::Value(zero)]);
        self.b.switch_to_block(inside);
        let place = self.access(form, address, space, 16)?;
        let found: Value = self.host_address(place);
        self.b.ins().jump(after, &[BlockArg::Value(found)]);
        self.b.switch_to_block(after);
        self.store_exchange(host, offset_of!(Exchange, operand));
        Ok(())
    }

    /// What the modifiers say.
    fn matrix_code(&self, form: &Form<'_, '_>) -> Result<(Code, Space), PtxError> {
        let mut code = Code {
            kind: Kind::Mma,
            m: 1,
            n: 1,
            k: 1,
            a: Element::F16,
            b: Element::F16,
            c: Element::F16,
            d: Element::F16,
            a_columns: false,
            b_columns: false,
            saturate: false,
            and: false,
            rounding: Rounding::Nearest,
        };
        form.take("sync");
        form.take("aligned");
        let mut space = Space::Generic;
        match form.instruction.opcode {
            opcode @ ("ldmatrix" | "stmatrix") => {
                code.kind = if opcode == "ldmatrix" {
                    Kind::Load
                } else {
                    Kind::Store
                };
                if !form.take("m8n8") {
                    return Err(form.unsupported("this shape"));
                }
                code.m = form
                    .one_of(&[("x1", 1), ("x2", 2), ("x4", 4)])
                    .ok_or_else(|| form.invalid(".x1, .x2 or .x4 is missing"))?;
                code.a_columns = form.take("trans");
                space = form.one_of(&SPACES).unwrap_or(Space::Generic);
                form.take("b16");
            }
            "movmatrix" => {
                code.kind = Kind::Transpose;
                if !form.take("m8n8") || !form.take("trans") {
                    return Err(form.unsupported("this form"));
                }
                form.take("b16");
            }
            opcode => {
                let wmma = opcode == "wmma";
                if wmma {
                    form.take("mma");
                    code.kind = Kind::Wmma;
                }
                let (name, [m, n, k]) = shape(form)?;
                (code.m, code.n, code.k) = (m, n, k);
                code.a_columns = layout(form)?;
                code.b_columns = layout(form)?;
                code.saturate = form.take("satfinite");
                form.take("popc");
                code.and = form.take("and");
                form.take("xor");
                code.rounding = form.rounding().unwrap_or(Rounding::Nearest);
                match *elements(form).as_slice() {
                    [d, a, b, c] => (code.d, code.a, code.b, code.c) = (d, a, b, c),
                    [d, c] if wmma => (code.d, code.c) = (d, c),
                    _ => return Err(form.invalid("the types of D, A, B and C are needed")),
                }
                let known: &[Element] = if wmma {
                    wmma_elements(name)
                } else {
                    MMA.iter()
                        .find(|entry| entry.0 == name)
                        .map_or(&[], |entry| entry.2)
                };
                let alike = code.a == code.b
                    || code.a.is_integer() && code.b.is_integer() && code.a.bits() == code.b.bits()
                    || matches!((code.a, code.b), (Element::E4m3, Element::E5m2))
                    || matches!((code.a, code.b), (Element::E5m2, Element::E4m3));
                if !known.contains(&code.a) || !alike || !sums_fit(code.a, code.c, code.d) {
                    return Err(form.unsupported("this combination of shape and types"));
                }
                let fixed = !wmma && !code.is_volta();
                if fixed && (code.a_columns || !code.b_columns) {
                    return Err(form.invalid("this shape has A in rows and B in columns"));
                }
            }
        }
        form.finish()?;
        Ok((code, space))
    }

    /// `wmma.load` and `wmma.store`.
    pub(super) fn move_fragment(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let stores = form.take("store");
        if !stores && !form.take("load") {
            return Err(form.unsupported("this form"));
        }
        let part = form
            .one_of(&[("a", 'a'), ("b", 'b'), ("c", 'c'), ("d", 'd')])
            .filter(|part| (*part == 'd') == stores)
            .ok_or_else(|| form.invalid("which matrix is missing"))?;
        form.take("sync");
        form.take("aligned");
        let by_columns = layout(form)?;
        let (name, [m, n, k]) = shape(form)?;
        let space = form.one_of(&SPACES).unwrap_or(Space::Generic);
        let &[element] = elements(form).as_slice() else {
            return Err(form.invalid("one type is needed"));
        };
        form.finish()?;
        let sum = matches!(part, 'c' | 'd');
        let fits = if sum {
            let known = wmma_elements(name).iter();
            known.copied().any(|a| sums_fit(a, element, element))
        } else {
            wmma_elements(name).contains(&element)
        };
        let small = element.bits() < 8 && by_columns != (part == 'b');
        if !fits || small {
            return Err(form.unsupported("this combination of shape, layout and type"));
        }
        let (rows, columns) = match part {
            'a' => (m, k),
            'b' => (k, n),
            _ => (m, n),
        };
        let words = if element == Element::F16 && !sum {
            8
        } else {
            rows * columns * element.bits() / 1024
        };
        let (first, second, rest) = match form.instruction.operands.as_slice() {
            [first, second, rest @ ..] if rest.len() <= 1 => (first, second, rest),
            _ => return Err(form.invalid("a fragment and an address are needed")),
        };
        let (address, registers) = if stores {
            (first, second)
        } else {
            (second, first)
        };
        let (wide, parts) = Self::fragment(form, registers, element, words as usize)?;
        let ty = if wide { Type::B64 } else { Type::B32 };
        let address = self.generic_address(form, address, space)?;
        let stride = match rest {
            [stride] => self.read(stride, Type::U32)?,
            _ => self.imm(
                types::I32,
                i64::from(if by_columns { rows } else { columns }),
            ),
        };
        let fragment = Fragment {
            element,
            rows,
            columns,
            by_columns,
            is_b: part == 'b',
            words,
        };
        let buffer = self.scratch();
        let flags = self.private_flags();
        if stores {
            for (index, part) in parts.iter().enumerate() {
                let value = self.read(part, ty)?;
                let at = (index as u32 * ty.bytes()) as i32;
                self.b.ins().store(flags, value, buffer, at);
            }
        }
        let code = fragment.bits() | u32::from(stores) << 31;
        let code = self.imm(types::I32, i64::from(code));
        let arguments = [self.context, self.thread, address, stride, code, buffer];
        let good = self.helper(Helper::MoveFragment, &arguments, types::I32);
        let bytes = (element.bits() / 8).max(4);
        self.fault_unless(
            good,
            form,
            "matrix",
            bytes,
            (element.bits() / 8).max(1),
            address,
        );
        if !stores {
            for (index, part) in parts.iter().enumerate() {
                let at = (index as u32 * ty.bytes()) as i32;
                let value = self.b.ins().load(super::lower::clif(ty), flags, buffer, at);
                self.write(part, ty, value)?;
            }
        }
        Ok(())
    }
}
