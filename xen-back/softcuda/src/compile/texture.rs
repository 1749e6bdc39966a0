//! Texture and surface instructions: a request with the handle and all operands goes to the runtime
//! (`exec::sample`), which alone knows what the handle stands for. A `.texref`, `.surfref` or `.samplerref`
//! variable holds the handle of the object now bound to it.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::form::Form;
use super::lower::{Lower, clif};
use crate::exec::helpers::Helper;
use crate::exec::sample::{
    BYTES_AT, CLAMPS, COMPONENT_AT, ELEMENT_AT, FORMATTED, GATHER, GEOMETRIES, HALVES, INTEGER,
    LOAD, QUERIES, REDUCE, REDUCTIONS, Request, SIGNED, STORE, WITH_GRADIENT, WITH_LEVEL,
};
use crate::ptx::PtxError;
use crate::ptx::ast::{Operand, Type};

/// Of a geometry: the dimensions, and whether the first coordinate is a layer.
fn dimensions(geometry: u32) -> (usize, bool) {
    match geometry {
        0 => (1, false),
        1 => (2, false),
        2 => (3, false),
        3 => (1, true),
        4 => (2, true),
        5 => (3, false),
        _ => (3, true),
    }
}

fn parts(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(parts) => parts,
        scalar => std::slice::from_ref(scalar),
    }
}

impl Lower<'_, '_, '_> {
    /// A handle: of a variable, or in a register.
    fn handle(&mut self, form: &Form<'_, '_>, operand: &Operand) -> Result<Value, PtxError> {
        match *operand {
            Operand::Address(base, 0) => self.base(base),
            Operand::Reg(_) | Operand::Symbol(_, 0) => self.read(operand, Type::B64),
            _ => Err(form.invalid("a texture or surface is needed")),
        }
    }

    fn put(&mut self, request: Value, value: Value, offset: usize) {
        let flags = self.private_flags();
        self.b.ins().store(flags, value, request, offset as i32);
    }

    /// The start of a request: the handles and the coordinates.
    fn request(
        &mut self,
        form: &Form<'_, '_>,
        handles: &[&Operand],
        coordinates: &Operand,
        geometry: u32,
        ty: Type,
        code: u32,
    ) -> Result<Value, PtxError> {
        let request = self.scratch();
        let (texture, sampler) = match handles {
            [texture] => (self.handle(form, texture)?, self.imm(types::I64, 0)),
            [texture, sampler] => (self.handle(form, texture)?, self.handle(form, sampler)?),
            _ => return Err(form.invalid("a texture is needed")),
        };
        self.put(request, texture, offset_of!(Request, texture));
        self.put(request, sampler, offset_of!(Request, sampler));
        let code = self.imm(types::I32, i64::from(code | geometry));
        self.put(request, code, offset_of!(Request, code));
        let (count, layered) = dimensions(geometry);
        let mut given = parts(coordinates);
        let mut layer = self.imm(types::I32, 0);
        if let (true, [first, rest @ ..]) = (layered, given) {
            layer = self.read(first, Type::U32)?;
            given = rest;
        }
        self.put(request, layer, offset_of!(Request, layer));
        if given.len() < count {
            return Err(form.invalid("there are too few coordinates"));
        }
        for index in 0..3 {
            let value = match given.get(index).filter(|_| index < count) {
                Some(part) => self.read(part, ty)?,
                None => self.imm(types::I32, 0),
            };
            self.put(request, value, offset_of!(Request, coordinates) + 4 * index);
        }
        for index in 0..3 {
            let zero = self.imm(types::I32, 0);
            self.put(request, zero, offset_of!(Request, offset) + 4 * index);
        }
        Ok(request)
    }

    fn put_all(
        &mut self,
        form: &Form<'_, '_>,
        request: Value,
        operand: &Operand,
        ty: Type,
        count: usize,
        offset: usize,
    ) -> Result<(), PtxError> {
        let given = parts(operand);
        if given.len() < count {
            return Err(form.invalid("a vector has too few elements"));
        }
        for index in 0..3 {
            let value = match given.get(index).filter(|_| index < count) {
                Some(part) => self.read(part, ty)?,
                None => self.imm(types::I32, 0),
            };
            self.put(request, value, offset + 4 * index);
        }
        Ok(())
    }

    fn check(&mut self, form: &Form<'_, '_>, request: Value, good: Value, space: &'static str) {
        let flags = self.private_flags();
        let handle = self.b.ins().load(types::I64, flags, request, 0);
        self.fault_unless(good, form, space, 4, 1, handle);
    }

    pub(super) fn texture(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let gathers = form.instruction.opcode == "tld4";
        let base = form.take("base");
        let level = form.take("level");
        let gradient = form.take("grad");
        let component = form
            .one_of(&[("r", 0), ("g", 1), ("b", 2), ("a", 3)])
            .unwrap_or(0);
        let geometry = form
            .one_of(&GEOMETRIES)
            .ok_or_else(|| form.unsupported("this geometry"))?;
        let count = form.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let result = form.ty()?;
        let ty = form.ty()?;
        form.finish()?;
        let halves = matches!(result, Type::F16 | Type::F16x2);
        if !matches!(ty, Type::S32 | Type::F32)
            || !(halves || matches!(result, Type::S32 | Type::U32 | Type::F32))
            || base && (level || gradient)
        {
            return Err(form.unsupported("these types"));
        }
        let [to, Operand::Indexed(source), rest @ ..] = form.instruction.operands.as_slice() else {
            return Err(form.invalid("a destination and [texture, coordinates] are needed"));
        };
        let (handles, coordinates) = match source.as_slice() {
            [texture, coordinates] => (vec![texture], coordinates),
            [texture, sampler, coordinates] => (vec![texture, sampler], coordinates),
            _ => return Err(form.invalid("[texture, coordinates] is needed")),
        };
        let mut code = 0;
        for (set, flag) in [
            (ty == Type::S32, INTEGER),
            (level, WITH_LEVEL),
            (gradient, WITH_GRADIENT),
            (gathers, GATHER | component << COMPONENT_AT),
            (halves, HALVES),
        ] {
            code |= if set { flag } else { 0 };
        }
        let request = self.request(form, &handles, coordinates, geometry, ty, code)?;
        let (dimensions, _) = dimensions(geometry);
        let mut rest = rest.iter();
        if level {
            let level = rest
                .next()
                .ok_or_else(|| form.invalid("a level is missing"))?;
            let level = self.read(level, ty)?;
            self.put(request, level, offset_of!(Request, level));
        }
        if gradient {
            for step in 0..2 {
                let operand = rest.next();
                let operand = operand.ok_or_else(|| form.invalid("gradients are missing"))?;
                let offset = offset_of!(Request, gradient) + 12 * step;
                self.put_all(form, request, operand, Type::F32, dimensions, offset)?;
            }
        }
        if let Some(offsets) = rest.next() {
            if !matches!(offsets, Operand::Vector(_)) && dimensions > 1 {
                return Err(form.unsupported("comparison of depths"));
            }
            let offset = offset_of!(Request, offset);
            self.put_all(form, request, offsets, Type::S32, dimensions.min(3), offset)?;
        }
        if rest.next().is_some() {
            return Err(form.unsupported("comparison of depths"));
        }
        let good = self.helper(Helper::Texture, &[self.context, request], types::I32);
        self.check(form, request, good, "texture");
        let words = self.results(request);
        let given = parts(to);
        if given.len() != count {
            return Err(form.invalid("the vector has another number of elements"));
        }
        for (index, part) in given.iter().enumerate() {
            if result == Type::F16x2 {
                let high = self.imm(types::I32, 16);
                let high = self.b.ins().ishl(words[(2 * index + 1) & 3], high);
                let pair = self.b.ins().bor(words[(2 * index) & 3], high);
                self.write(part, Type::B32, pair)?;
            } else if result == Type::F16 {
                let half = self.b.ins().ireduce(types::I16, words[index]);
                self.write(part, Type::B16, half)?;
            } else {
                let value = self.cast(words[index], clif(result));
                self.write(part, result, value)?;
            }
        }
        Ok(())
    }

    /// The four words that came back.
    fn results(&mut self, request: Value) -> [Value; 4] {
        let flags = self.private_flags();
        [0, 1, 2, 3].map(|index| {
            let offset = offset_of!(Request, data) as i32 + 4 * index;
            self.b.ins().load(types::I32, flags, request, offset)
        })
    }

    /// `txq` and `suq`.
    pub(super) fn query(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let level = form.take("level");
        let what = form
            .one_of(&QUERIES)
            .ok_or_else(|| form.unsupported("this query"))?;
        form.take("b32");
        form.finish()?;
        let (to, handle, rest) = match form.instruction.operands.as_slice() {
            [to, handle, rest @ ..] => (to, handle, rest),
            _ => return Err(form.invalid("a destination and a handle are needed")),
        };
        let handle = self.handle(form, handle)?;
        let level = match rest {
            [wanted] if level => self.read(wanted, Type::U32)?,
            [] if !level => self.imm(types::I32, 0),
            _ => return Err(form.invalid("the operands do not fit")),
        };
        let what = self.imm(types::I32, i64::from(what));
        let answer = self.helper(
            Helper::Query,
            &[self.context, handle, what, level],
            types::I64,
        );
        let one = self.imm(types::I64, 1);
        let next = self.b.ins().iadd(answer, one);
        let good = self.b.ins().icmp_imm_u(IntCC::NotEqual, next, 0);
        self.fault_unless(good, form, "texture", 4, 1, handle);
        let answer = self.b.ins().ireduce(types::I32, answer);
        self.write(to, Type::B32, answer)
    }

    /// `istypep`.
    pub(super) fn is_type(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let known = ["texref", "samplerref", "surfref"]
            .iter()
            .any(|word| form.take(word));
        form.finish()?;
        let [to, handle] = form.instruction.operands.as_slice() else {
            return Err(form.invalid("a destination and an address are needed"));
        };
        if !known {
            return Err(form.invalid("a type is missing"));
        }
        let handle = self.read(handle, Type::B64)?;
        let found = self.helper(Helper::IsObject, &[self.context, handle], types::I32);
        let found = self.b.ins().icmp_imm_u(IntCC::NotEqual, found, 0);
        self.write(to, Type::Pred, found)
    }

    /// `suld`, `sust` and `sured`.
    pub(super) fn surface(&mut self, form: &Form<'_, '_>) -> Result<(), PtxError> {
        let action = match form.instruction.opcode {
            "suld" => LOAD,
            "sust" => STORE,
            _ => REDUCE,
        };
        let formatted = form.take("p");
        if !formatted && !form.take("b") {
            return Err(form.invalid(".b or .p is missing"));
        }
        let reduction = if action == REDUCE {
            form.one_of(&REDUCTIONS)
                .ok_or_else(|| form.unsupported("this operation"))?
        } else {
            0
        };
        let geometry = form
            .one_of(&GEOMETRIES[..5])
            .ok_or_else(|| form.unsupported("this geometry"))?;
        super::memory::take_hints(form);
        let count = form.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let ty = form.ty()?;
        let outside = form.one_of(&CLAMPS).unwrap_or(0);
        form.finish()?;
        let bytes = ty.bytes() * count;
        let sized = match action {
            REDUCE => {
                count == 1 && matches!(ty.bytes(), 4 | 8) && !matches!(ty, Type::F32 | Type::F64)
            }
            _ if formatted => ty.bytes() == 4,
            _ => ty.is_untyped() && bytes <= 16,
        };
        if !sized {
            return Err(form.unsupported("this type or vector"));
        }
        let mut code = action | reduction | outside | bytes << BYTES_AT;
        code |= ty.bytes().trailing_zeros() << ELEMENT_AT;
        code |= if formatted { FORMATTED } else { 0 };
        code |= if ty.is_signed() { SIGNED } else { 0 };
        let (values, source) = match (action, form.instruction.operands.as_slice()) {
            (LOAD, [to, Operand::Indexed(source)]) => (to, source),
            (STORE | REDUCE, [Operand::Indexed(source), from]) => (from, source),
            _ => return Err(form.invalid("[surface, coordinates] and a value are needed")),
        };
        let [handle, coordinates] = source.as_slice() else {
            return Err(form.invalid("[surface, coordinates] is needed"));
        };
        let values = parts(values);
        if values.len() != count as usize {
            return Err(form.invalid("the vector has another number of elements"));
        }
        let request = self.request(form, &[handle], coordinates, geometry, Type::S32, code)?;
        let data = offset_of!(Request, data);
        if action != LOAD {
            for (index, part) in values.iter().enumerate() {
                let value = self.read_narrow(part, ty)?;
                self.put(request, value, data + index * ty.bytes() as usize);
            }
        }
        let good = self.helper(Helper::Surface, &[self.context, request], types::I32);
        self.check(form, request, good, "surface");
        if action == LOAD {
            let flags = self.private_flags();
            for (index, part) in values.iter().enumerate() {
                let at = (data + index * ty.bytes() as usize) as i32;
                let value = self.b.ins().load(clif(ty), flags, request, at);
                self.write_wide(part, ty, value)?;
            }
        }
        Ok(())
    }
}
