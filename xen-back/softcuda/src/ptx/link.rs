//! Several PTX texts as one syntax tree: each symbol that a text only declares becomes the one that
//! another defines, by PTX's rules for `.extern`, `.visible`, `.weak` and `.common`; what is neither stays
//! its own text's. Must never confuse two symbols of one name, nor drop a mistake: an error names both
//! places.

use std::collections::HashMap;

use super::ast::{
    Base, Body, Function, Linkage, Module, Operand, Prototype, Slot, Space, Symbol, Variable,
};
use super::{PtxError, parse};

/// Parses PTX texts and makes one tree of them. Lines are counted through all texts, as if each began on
/// the line after the last one of the text before; text after a NUL byte is ignored.
///
/// # Errors
/// A text's own mistake, a symbol that two texts define, one that is used and that none defines, or
/// declarations of one symbol that contradict each other.
pub fn link<'a>(texts: &[&'a str]) -> Result<Module<'a>, PtxError> {
    let mut modules = Vec::with_capacity(texts.len());
    let mut first = 0_u32;
    for text in texts {
        let mut module = parse(text).map_err(|mut error| {
            error.line = error.line.saturating_add(first);
            error
        })?;
        if first > 0 {
            shift(&mut module, first);
        }
        modules.push(module);
        first = first.saturating_add(lines(text));
    }
    merge(modules)
}

/// Lines of a text.
pub fn lines(text: &str) -> u32 {
    u32::try_from(text.lines().count()).unwrap_or(u32::MAX)
}

/// Adds to every line number of a tree.
fn shift(module: &mut Module<'_>, by: u32) {
    let add = |line: &mut u32| *line = line.saturating_add(by);
    let slots = |slots: &mut [Slot]| slots.iter_mut().for_each(|slot| add(&mut slot.line));
    let prototype = |prototype: &mut Prototype| {
        slots(&mut prototype.returns);
        slots(&mut prototype.params);
    };
    for variable in &mut module.variables {
        add(&mut variable.line);
    }
    for function in &mut module.functions {
        add(&mut function.line);
        prototype(&mut function.prototype);
        if let Some(body) = &mut function.body {
            slots(&mut body.locals);
            body.prototypes.iter_mut().for_each(prototype);
            for instruction in &mut body.code {
                add(&mut instruction.line);
            }
        }
    }
}

/// What a text's symbol becomes.
#[derive(Clone, Copy)]
enum Meaning {
    /// This number of the linked tree.
    Is(u32),
    /// Nothing: no text defines it. Where it is declared.
    Undefined(u32),
}

/// A definition that other texts may mean: which text's, and its number there.
type Chosen<'a> = HashMap<&'a str, (usize, usize)>;

/// Joins trees.
fn merge<'a>(modules: Vec<Module<'a>>) -> Result<Module<'a>, PtxError> {
    let mut variables = HashMap::new();
    let mut functions = HashMap::new();
    for (unit, module) in modules.iter().enumerate() {
        for (index, variable) in module.variables.iter().enumerate() {
            let defines = !matches!(variable.linkage, Linkage::Static | Linkage::Extern);
            if defines {
                choose(&mut variables, &variable.name, (unit, index), |(u, i)| {
                    let variable = &modules[u].variables[i];
                    (variable.linkage, variable.bytes, variable.line)
                })?;
            }
        }
        for (index, function) in module.functions.iter().enumerate() {
            let others = !matches!(function.linkage, Linkage::Static | Linkage::Extern);
            if others && function.body.is_some() {
                choose(&mut functions, function.name, (unit, index), |(u, i)| {
                    let function = &modules[u].functions[i];
                    (function.linkage, 0, function.line)
                })?;
            }
        }
    }
    for (name, &(unit, index)) in &variables {
        if let Some(&(other, function)) = functions.get(name) {
            let (variable, function) = (
                &modules[unit].variables[index],
                &modules[other].functions[function],
            );
            return Err(twice(name, variable.line, function.line));
        }
    }
    let mut linked = Module::default();
    let mut meanings = Vec::with_capacity(modules.len());
    let mut places = Places::default();
    for (unit, module) in modules.iter().enumerate() {
        linked.version = linked.version.max(module.version);
        linked.target = linked.target.max(module.target);
        for (index, variable) in module.variables.iter().enumerate() {
            if stays_variable(variable, &variables, (unit, index)) {
                places
                    .variables
                    .insert((unit, index), places.variables.len() as u32);
            }
        }
        for (index, function) in module.functions.iter().enumerate() {
            if stays_function(function, &functions, (unit, index)) {
                places
                    .functions
                    .insert((unit, index), places.functions.len() as u32);
            }
        }
    }
    for (unit, module) in modules.iter().enumerate() {
        meanings.push(Meanings {
            variables: module
                .variables
                .iter()
                .enumerate()
                .map(|(index, variable)| {
                    variable_meaning(&modules, &variables, &places, variable, (unit, index))
                })
                .collect::<Result<_, _>>()?,
            functions: module
                .functions
                .iter()
                .enumerate()
                .map(|(index, function)| {
                    function_meaning(&modules, &functions, &places, function, (unit, index))
                })
                .collect::<Result<_, _>>()?,
            variable_names: module.variables.iter().map(|v| v.name.clone()).collect(),
        });
    }
    for (unit, (module, meanings)) in modules.into_iter().zip(&meanings).enumerate() {
        for (index, mut variable) in module.variables.into_iter().enumerate() {
            if places.variables.contains_key(&(unit, index)) {
                for relocation in &mut variable.relocations {
                    relocation.target = meanings.of(relocation.target, variable.line)?;
                }
                linked.variables.push(variable);
            }
        }
        for (index, mut function) in module.functions.into_iter().enumerate() {
            if places.functions.contains_key(&(unit, index)) {
                if let Some(body) = &mut function.body {
                    meanings.translate(body, function.line)?;
                }
                linked.functions.push(function);
            }
        }
    }
    Ok(linked)
}

/// Notes a definition, unless one that counts more is there.
fn choose<'a>(
    chosen: &mut Chosen<'a>,
    name: &'a str,
    new: (usize, usize),
    facts: impl Fn((usize, usize)) -> (Linkage, u64, u32),
) -> Result<(), PtxError> {
    let Some(old) = chosen.get(name).copied() else {
        chosen.insert(name, new);
        return Ok(());
    };
    let (old_facts, new_facts) = (facts(old), facts(new));
    let replaces = match (old_facts.0, new_facts.0) {
        (Linkage::Visible, Linkage::Visible) => return Err(twice(name, old_facts.2, new_facts.2)),
        (Linkage::Visible, _) => false,
        (_, Linkage::Visible) => true,
        (Linkage::Common, Linkage::Common) => new_facts.1 > old_facts.1,
        // A weak definition has a value, a common one none.
        (Linkage::Common, Linkage::Weak) => true,
        _ => false,
    };
    if replaces {
        chosen.insert(name, new);
    }
    Ok(())
}

fn twice(name: &str, one: u32, other: u32) -> PtxError {
    PtxError::invalid(
        one.max(other),
        format!("{name} is defined twice, first at line {}", one.min(other)),
    )
}

/// Numbers in the linked tree of what it takes over.
#[derive(Default)]
struct Places {
    variables: HashMap<(usize, usize), u32>,
    functions: HashMap<(usize, usize), u32>,
}

/// Whether a variable becomes one of the linked tree.
fn stays_variable(variable: &Variable, chosen: &Chosen<'_>, own: (usize, usize)) -> bool {
    match variable.linkage {
        Linkage::Static => true,
        // The dynamic shared memory, which no text defines.
        Linkage::Extern => {
            variable.space == Space::Shared && !chosen.contains_key(variable.name.as_str())
        }
        _ => chosen.get(variable.name.as_str()) == Some(&own),
    }
}

/// Whether a function becomes one of the linked tree. Those that are only declared do, for what the
/// device itself offers, unless another text defines them.
fn stays_function(function: &Function<'_>, chosen: &Chosen<'_>, own: (usize, usize)) -> bool {
    match (&function.body, function.linkage) {
        (Some(_), Linkage::Static) => true,
        (Some(_), Linkage::Extern) => true,
        (Some(_), _) => chosen.get(function.name) == Some(&own),
        (None, Linkage::Static) => true,
        (None, _) => !chosen.contains_key(function.name),
    }
}

fn variable_meaning(
    modules: &[Module<'_>],
    chosen: &Chosen<'_>,
    places: &Places,
    variable: &Variable,
    own: (usize, usize),
) -> Result<Meaning, PtxError> {
    if let Some(&place) = places.variables.get(&own) {
        return Ok(Meaning::Is(place));
    }
    let Some(&(unit, index)) = chosen.get(variable.name.as_str()) else {
        return Ok(Meaning::Undefined(variable.line));
    };
    let definition = &modules[unit].variables[index];
    let declared = variable.linkage == Linkage::Extern;
    if definition.space != variable.space
        || declared && variable.bytes > definition.bytes
        || declared && variable.align > definition.align.max(16)
    {
        return Err(PtxError::invalid(
            variable.line,
            format!(
                "{} is not what line {} defines: its space or size is another",
                variable.name, definition.line
            ),
        ));
    }
    Ok(places
        .variables
        .get(&(unit, index))
        .map_or(Meaning::Undefined(variable.line), |place| {
            Meaning::Is(*place)
        }))
}

fn function_meaning(
    modules: &[Module<'_>],
    chosen: &Chosen<'_>,
    places: &Places,
    function: &Function<'_>,
    own: (usize, usize),
) -> Result<Meaning, PtxError> {
    if let Some(&place) = places.functions.get(&own) {
        return Ok(Meaning::Is(place));
    }
    let Some(&(unit, index)) = chosen.get(function.name) else {
        return Ok(Meaning::Undefined(function.line));
    };
    let definition = &modules[unit].functions[index];
    if !same_shape(&function.prototype, &definition.prototype)
        || function.is_kernel != definition.is_kernel
    {
        return Err(PtxError::invalid(
            function.line,
            format!(
                "{} is not what line {} defines: its parameters or results are others",
                function.name, definition.line
            ),
        ));
    }
    Ok(places
        .functions
        .get(&(unit, index))
        .map_or(Meaning::Undefined(function.line), |place| {
            Meaning::Is(*place)
        }))
}

/// Whether calls of the one are calls of the other.
fn same_shape(one: &Prototype, other: &Prototype) -> bool {
    let same = |a: &[Slot], b: &[Slot]| {
        a.len() == b.len()
            && a.iter()
                .zip(b)
                .all(|(a, b)| a.bytes == b.bytes && a.space.is_some() == b.space.is_some())
    };
    same(&one.params, &other.params) && same(&one.returns, &other.returns)
}

/// What the symbols of one text become.
struct Meanings {
    variables: Vec<Meaning>,
    functions: Vec<Meaning>,
    variable_names: Vec<String>,
}

impl Meanings {
    /// A symbol's number in the linked tree; `line` uses it.
    fn of(&self, symbol: Symbol, line: u32) -> Result<Symbol, PtxError> {
        let (meanings, index) = match symbol {
            Symbol::Variable(index) => (&self.variables, index),
            Symbol::Function(index) => (&self.functions, index),
            other => return Ok(other),
        };
        match (symbol, meanings.get(index as usize)) {
            (Symbol::Variable(_), Some(Meaning::Is(place))) => Ok(Symbol::Variable(*place)),
            (Symbol::Function(_), Some(Meaning::Is(place))) => Ok(Symbol::Function(*place)),
            (_, meaning) => {
                let name = self.variable_names.get(index as usize);
                let name = name.map_or("a function", String::as_str);
                let declared = match meaning {
                    Some(Meaning::Undefined(line)) => *line,
                    _ => line,
                };
                Err(PtxError::invalid(
                    line,
                    format!(
                        "{name} is used, but only declared (at line {declared}): link the module that defines it"
                    ),
                ))
            }
        }
    }

    /// Gives a function's code the linked tree's numbers.
    fn translate(&self, body: &mut Body<'_>, line: u32) -> Result<(), PtxError> {
        for instruction in &mut body.code {
            for operand in &mut instruction.operands {
                self.operand(operand, instruction.line)?;
            }
        }
        for operand in body.tables.iter_mut().flatten() {
            self.operand(operand, line)?;
        }
        Ok(())
    }

    /// Operands nest no deeper than the parser lets them.
    fn operand(&self, operand: &mut Operand, line: u32) -> Result<(), PtxError> {
        match operand {
            Operand::Symbol(symbol, _) | Operand::Address(Base::Symbol(symbol), _) => {
                *symbol = self.of(*symbol, line)?;
            }
            Operand::Indexed(parts) | Operand::Vector(parts) | Operand::List(parts) => {
                for part in parts {
                    self.operand(part, line)?;
                }
            }
            Operand::Reg(_)
            | Operand::Part { .. }
            | Operand::Not(_)
            | Operand::Pair(..)
            | Operand::Sink
            | Operand::Special(_)
            | Operand::Int(_)
            | Operand::Double(_)
            | Operand::Single(_)
            | Operand::Label(_)
            | Operand::Address(..) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = ".version 7.0\n.target sm_75\n.address_size 64\n";

    fn unit(text: &str) -> String {
        format!("{HEAD}{text}")
    }

    fn linked(texts: &[&str]) -> Result<(Vec<String>, Vec<String>), PtxError> {
        let texts: Vec<String> = texts.iter().map(|text| unit(text)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let module = link(&texts)?;
        let variables = module.variables.iter();
        let functions = module.functions.iter();
        Ok((
            variables
                .map(|v| format!("{} {}", v.name, v.bytes))
                .collect(),
            functions
                .map(|f| format!("{} {}", f.name, f.body.is_some()))
                .collect(),
        ))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const USES: &str = ".extern .global .u32 x;\n.visible .entry k() {\n.reg .u32 %r;\nld.global.u32 %r, [x];\nret;\n}\n";

    #[test]
    fn a_declared_symbol_is_the_one_that_another_text_defines() {
        let both = linked(&[USES, ".visible .global .u32 x = 7;"]).unwrap();
        assert_eq!(both, (names(&["x 4"]), names(&["k true"])));
        let turned = linked(&[".visible .global .u32 x = 7;", USES]).unwrap();
        assert_eq!(turned.0, names(&["x 4"]));
        // Within one text, too.
        let one = linked(&[".extern .global .u32 x;\n.visible .global .u32 x = 1;"]).unwrap();
        assert_eq!(one.0, names(&["x 4"]));
        let call = ".extern .func f();\n.visible .entry k() {\ncall f;\nret;\n}\n";
        let both = linked(&[call, ".visible .func f() {\nret;\n}"]).unwrap();
        assert_eq!(both.1, names(&["k true", "f true"]));
    }

    #[test]
    fn an_undefined_symbol_is_named_where_it_is_used() {
        let error = linked(&[".global .u32 y;\n", USES]).unwrap_err();
        // The first text has four lines.
        assert_eq!(error.line, 4 + 7, "{error}");
        assert!(error.message.contains("x is used"), "{error}");
        assert!(error.message.contains("line 8"), "{error}");
        // One that is not used harms nobody.
        assert_eq!(linked(&[".extern .global .u32 x;"]).unwrap().0, names(&[]));
    }

    #[test]
    fn two_definitions_are_refused_unless_they_may_be() {
        let strong = ".visible .global .u32 x = 1;\n";
        let error = linked(&[strong, strong]).unwrap_err();
        assert!(error.message.contains("x is defined twice"), "{error}");
        assert_eq!(error.line, 8);
        let function = ".visible .func x() {\nret;\n}\n";
        assert!(linked(&[function, function]).is_err());
        assert!(linked(&[strong, function]).is_err());
        let weak = ".weak .global .u64 x = 2;\n";
        for pair in [[strong, weak], [weak, strong]] {
            assert_eq!(linked(&pair).unwrap().0, names(&["x 4"]));
        }
        assert_eq!(linked(&[weak, weak]).unwrap().0, names(&["x 8"]));
        let (small, large) = (".common .global .b8 x[4];\n", ".common .global .b8 x[9];\n");
        for pair in [[small, large], [large, small]] {
            assert_eq!(linked(&pair).unwrap().0, names(&["x 9"]));
        }
        assert_eq!(linked(&[large, strong]).unwrap().0, names(&["x 4"]));
    }

    #[test]
    fn static_symbols_of_one_name_stay_apart() {
        let one = ".global .u32 x = 1;\n.func f() {\nret;\n}\n";
        let two = linked(&[one, one]).unwrap();
        assert_eq!(two, (names(&["x 4", "x 4"]), names(&["f true", "f true"])));
    }

    #[test]
    fn declarations_must_agree_with_the_definition() {
        for (declared, defined) in [
            (USES, ".visible .const .u32 x = 7;"),
            (USES, ".visible .global .u8 x = 7;"),
            (
                ".extern .func f(.param .u32 a);\n",
                ".visible .func f(.param .u64 a) {\nret;\n}",
            ),
            (
                ".extern .func f(.param .u32 a);\n",
                ".visible .func f() {\nret;\n}",
            ),
        ] {
            let error = linked(&[declared, defined]).unwrap_err();
            assert!(error.message.contains("is not what line"), "{error}");
        }
    }

    #[test]
    fn dynamic_shared_memory_needs_no_definition() {
        let uses = ".extern .shared .b8 s[];\n.visible .entry k() {\n.reg .u64 %r;\nmov.u64 %r, s;\nret;\n}\n";
        assert_eq!(linked(&[uses]).unwrap().0, names(&["s 0"]));
    }

    #[test]
    fn a_texts_own_mistake_is_found_at_its_line() {
        let error = linked(&["\n\n", ".global .nonsense x;\n"]).unwrap_err();
        assert_eq!(error.line, 5 + 4, "{error}");
    }
}
