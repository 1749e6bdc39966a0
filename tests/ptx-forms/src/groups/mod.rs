//! The table: every form, group by group. Each file states forms as the instruction set states them, as
//! products of modifiers and types.

mod atomic;
mod compare;
mod control;
mod convert;
mod float;
mod integer;
mod logic;
mod matrix;
mod memory;
mod texture;
mod video;
mod warp;

use crate::form::{Form, Group, Kernel, Map, Test};
use crate::types::Since;

/// All forms.
pub fn table() -> Vec<Form> {
    let mut table = Table {
        group: Group::Integer,
        forms: Vec::new(),
    };
    for (group, add) in [
        (Group::Integer, integer::add as fn(&mut Table)),
        (Group::Logic, logic::add),
        (Group::Float, float::add),
        (Group::Convert, convert::add),
        (Group::Compare, compare::add),
        (Group::Memory, memory::add),
        (Group::Atomic, atomic::add),
        (Group::Warp, warp::add),
        (Group::Matrix, matrix::add),
        (Group::Texture, texture::add),
        (Group::Video, video::add),
        (Group::Control, control::add),
    ] {
        table.group = group;
        add(&mut table);
    }
    table.forms
}

/// The forms so far.
pub(crate) struct Table {
    group: Group,
    forms: Vec<Form>,
}

impl Table {
    /// A form that threads execute on inputs of their own.
    pub(crate) fn map(&mut self, name: impl Into<String>, since: Since, map: Map) {
        // Neither a type nor a version says less than its operands.
        let since = map
            .inputs
            .iter()
            .fold(since, |since, ty| since.and(ty.since()));
        self.push(name, since, Test::Map(map));
    }

    /// A form with a kernel of its own.
    pub(crate) fn kernel(&mut self, name: impl Into<String>, since: Since, kernel: Kernel) {
        self.push(name, since, Test::Kernel(kernel));
    }

    /// Says why softcuda need not have the last form.
    pub(crate) fn lacks_last(&mut self, why: &'static str) {
        if let Some(form) = self.forms.last_mut() {
            form.lacks = Some(why);
        }
    }

    fn push(&mut self, name: impl Into<String>, since: Since, test: Test) {
        self.forms.push(Form {
            name: name.into(),
            group: self.group,
            since,
            lacks: None,
            test,
        });
    }
}

/// `name {d}, {0}, …;`
pub(crate) fn plain(name: &str, inputs: usize) -> String {
    let mut code = format!("{name} {{d}}");
    for index in 0..inputs {
        code += &format!(", {{{index}}}");
    }
    code + ";"
}

/// The modifiers of which each may be there or not, in order: all combinations.
pub(crate) fn each<'a>(options: &[&'a [&'a str]]) -> Vec<Vec<&'a str>> {
    let mut all = vec![Vec::new()];
    for choices in options {
        all = all
            .into_iter()
            .flat_map(|done: Vec<&str>| {
                choices.iter().map(move |choice| {
                    let mut done = done.clone();
                    done.push(*choice);
                    done
                })
            })
            .collect();
    }
    all
}

/// A name of an opcode and modifiers; empty modifiers are left out.
pub(crate) fn named(opcode: &str, modifiers: &[&str]) -> String {
    let mut name = opcode.to_owned();
    for modifier in modifiers.iter().filter(|modifier| !modifier.is_empty()) {
        name.push('.');
        name += modifier;
    }
    name
}

/// The elements of a pair.
pub(crate) const fn halves(bits: u128) -> [u128; 2] {
    [bits & 0xffff, bits >> 16 & 0xffff]
}
