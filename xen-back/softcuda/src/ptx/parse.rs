//! Tokens to the syntax tree. Names are resolved as they are met, since PTX declares before use; only
//! labels are resolved at a function's end. Must never panic, loop for ever or allocate beyond a small
//! multiple of the text, whatever the text is.

use std::collections::HashMap;

use super::PtxError;
use super::ast::{
    Base, Body, Function, Guard, Instruction, Linkage, Module, Opaque, Operand, Prototype, Reg,
    Relocation, Slot, Space, Symbol, Type, Variable,
};
use super::expression::Number;
use super::lex::{Located, Token, tokens};

/// Braces that may nest in a function's body.
const MAX_SCOPES: usize = 256;
/// Bytes that one function's parameters may take (CUDA 12.1's limit for kernels on sm_70 and later).
const MAX_PARAM_BYTES: u32 = 32764;
/// Bytes of local memory that one function may declare (a GPU's limit per thread).
const MAX_LOCAL_BYTES: u32 = 512 * 1024;
/// Bytes of one variable in device memory.
const MAX_VARIABLE_BYTES: u64 = 1 << 40;
/// Alignment that a variable may ask for.
const MAX_ALIGN: u64 = 1 << 12;

/// Parses a PTX text. Text after a NUL byte is ignored.
///
/// # Errors
/// Where the text is not PTX, or declares what softcuda lacks.
pub fn parse(source: &str) -> Result<Module<'_>, PtxError> {
    let mut parser = Parser {
        tokens: tokens(source)?,
        at: 0,
        module: Module::default(),
        names: HashMap::new(),
        elements: HashMap::new(),
        shared_bytes: 0,
    };
    parser.module()?;
    Ok(parser.module)
}

/// Reads tokens; the module so far is what names are resolved against.
pub(super) struct Parser<'a> {
    tokens: Vec<Located<'a>>,
    at: usize,
    module: Module<'a>,
    names: HashMap<&'a str, Symbol>,
    /// Bytes of an element of each variable of the module, and of each local one of the latest function.
    elements: HashMap<Symbol, i64>,
    shared_bytes: u64,
}

/// What a name in a function's scope stands for.
#[derive(Debug, Clone, Copy)]
enum Local {
    Reg(Reg),
    /// `%r<18>`: registers %r0 to %r17 of a type.
    Range(Type, u64),
    /// `.v4 .f32 %v`: so many registers from one on.
    Vector(Reg, u32),
    Symbol(Symbol),
}

/// A function's body while it is read.
struct Scopes<'a> {
    body: Body<'a>,
    prototype: Prototype,
    /// Names per open brace; the first holds parameters and results.
    open: Vec<(u32, HashMap<&'a str, Local>)>,
    /// Number of scopes seen: their identities.
    count: u32,
    /// Parent of each scope.
    parents: Vec<u32>,
    /// Labels by scope.
    labels: HashMap<(u32, &'a str), u32>,
    /// Mentions of labels, and of whatever else is declared nowhere.
    mentions: Vec<(&'a str, u32, u32)>,
    local_bytes: u32,
}

/// Modifiers and qualifiers before a declaration's name.
struct Declaration<'a> {
    name: &'a str,
    line: u32,
    ty: Type,
    align: u64,
    /// Elements; 0 for `[]`.
    count: u64,
    /// From `<n>`: a range of registers.
    range: Option<u64>,
    vector: u64,
    managed: bool,
    opaque: Option<Opaque>,
}

impl Declaration<'_> {
    /// Bytes of an element.
    fn element(&self) -> i64 {
        i64::from(self.ty.bytes()) * self.vector.cast_signed()
    }
}

impl<'a> Parser<'a> {
    pub(super) fn peek_at(&self, ahead: usize) -> Token<'a> {
        self.tokens
            .get(self.at + ahead)
            .map_or(Token::End, |located| located.token)
    }

    pub(super) fn peek(&self) -> Token<'a> {
        self.peek_at(0)
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens
            .get(self.at)
            .or(self.tokens.last())
            .map_or(1, |located| located.line)
    }

    pub(super) fn advance(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    /// A token as an error message shows it.
    pub(super) fn shown(token: Token<'_>) -> String {
        match token {
            Token::Name(text) | Token::Dot(text) | Token::Text(text) => {
                format!("{:?}", text.chars().take(80).collect::<String>())
            }
            Token::Int(value) => format!("{value}"),
            Token::Float(value) => format!("{value}"),
            Token::Single(bits) => format!("0f{bits:08X}"),
            Token::Double(bits) => format!("0d{bits:016X}"),
            Token::Mark(byte) => format!("'{}'", char::from(byte)),
            Token::End => "the text's end".into(),
        }
    }

    fn wanted(&self, what: &str) -> PtxError {
        PtxError::invalid(
            self.line(),
            format!("{what} is needed, not {}", Self::shown(self.peek())),
        )
    }

    fn accept(&mut self, mark: u8) -> bool {
        let found = self.peek() == Token::Mark(mark);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect(&mut self, mark: u8) -> Result<(), PtxError> {
        if self.accept(mark) {
            Ok(())
        } else {
            Err(self.wanted(&format!("'{}'", char::from(mark))))
        }
    }

    fn name(&mut self) -> Result<&'a str, PtxError> {
        match self.peek() {
            Token::Name(name) => {
                self.advance();
                Ok(name)
            }
            _ => Err(self.wanted("a name")),
        }
    }

    /// Skips to the next `;`, for directives without meaning here.
    fn skip_statement(&mut self) -> Result<(), PtxError> {
        loop {
            match self.peek() {
                Token::Mark(b';') => {
                    self.advance();
                    return Ok(());
                }
                Token::End => return Err(self.wanted("';'")),
                _ => self.advance(),
            }
        }
    }

    /// Skips the rest of the line, for directives that end with it.
    fn skip_line(&mut self) {
        let line = self.line();
        while self.line() == line && self.peek() != Token::End {
            self.advance();
        }
    }

    /// The bank number of `.const[2]`: all banks are one memory.
    fn skip_bank(&mut self) {
        if let (Token::Mark(b'['), Token::Int(_), Token::Mark(b']'), Token::Dot(_)) = (
            self.peek(),
            self.peek_at(1),
            self.peek_at(2),
            self.peek_at(3),
        ) {
            self.at += 3;
        }
    }

    fn skip_braces(&mut self) -> Result<(), PtxError> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Token::Mark(b'{') => depth += 1,
                Token::Mark(b'}') if depth <= 1 => {
                    self.advance();
                    return Ok(());
                }
                Token::Mark(b'}') => depth -= 1,
                Token::End => return Err(self.wanted("'}'")),
                _ => {}
            }
            self.advance();
        }
    }

    fn module(&mut self) -> Result<(), PtxError> {
        self.header()?;
        let mut linkage = Linkage::Static;
        loop {
            let line = self.line();
            let word = match self.peek() {
                Token::End => return Ok(()),
                Token::Mark(b';') => {
                    self.advance();
                    continue;
                }
                // `@@DWARF`: the debug sections of old compilers.
                Token::Mark(b'@') => {
                    self.skip_line();
                    continue;
                }
                Token::Dot(word) => word,
                _ => return Err(self.wanted("a directive")),
            };
            self.advance();
            match word {
                "extern" => linkage = Linkage::Extern,
                "visible" => linkage = Linkage::Visible,
                "weak" => linkage = Linkage::Weak,
                "common" => linkage = Linkage::Common,
                "entry" | "func" => {
                    self.function(word == "entry", std::mem::take(&mut linkage), line)?;
                }
                "global" | "const" | "shared" => {
                    let (name, symbol) = self.variable(word, std::mem::take(&mut linkage))?;
                    self.names.insert(name, symbol);
                }
                "file" => self.skip_line(),
                "section" => self.skip_braces()?,
                "pragma" => self.skip_statement()?,
                "loc" => self.skip_line(),
                _ => return Err(PtxError::unsupported(line, format!("directive .{word}"))),
            }
        }
    }

    fn header(&mut self) -> Result<(), PtxError> {
        if self.peek() != Token::Dot("version") {
            return Err(self.wanted("\".version\" (PTX starts with it)"));
        }
        self.advance();
        let version = match self.peek() {
            Token::Float(value) if (1.0..100.0).contains(&value) => (value * 10.0).round(),
            _ => return Err(self.wanted("a version like 6.3")),
        };
        // In range by the pattern above.
        self.module.version = version as u32;
        self.advance();
        while let Token::Dot(word @ ("target" | "address_size")) = self.peek() {
            let line = self.line();
            self.advance();
            if word == "target" {
                self.target(line)?;
            } else if self.integer()? != 64 {
                return Err(PtxError::unsupported(
                    line,
                    "only 64-bit addresses exist here",
                ));
            }
        }
        if self.module.target == 0 {
            return Err(self.wanted("\".target\""));
        }
        Ok(())
    }

    fn target(&mut self, line: u32) -> Result<(), PtxError> {
        loop {
            let word = self.name()?;
            if let Some(number) = word.strip_prefix("sm_") {
                let digits = number.trim_end_matches(['a', 'f']);
                self.module.target = digits
                    .parse()
                    .ok()
                    .filter(|number| (10..1000).contains(number))
                    .ok_or_else(|| {
                        PtxError::invalid(line, format!("target {word:?} is not an sm_NN"))
                    })?;
            } else if !matches!(
                word,
                "debug" | "map_f64_to_f32" | "texmode_unified" | "texmode_independent"
            ) {
                return Err(PtxError::unsupported(line, format!("target {word:?}")));
            }
            if !self.accept(b',') {
                return Ok(());
            }
        }
    }

    /// What stands between a declaration's space and its initialiser.
    fn declaration(&mut self) -> Result<Declaration<'a>, PtxError> {
        let (mut ty, mut align, mut vector) = (None, None, 1);
        let (mut managed, mut opaque) = (false, None);
        let line = self.line();
        loop {
            match self.peek() {
                Token::Dot("align") => {
                    self.advance();
                    let value = u64::try_from(self.integer()?).unwrap_or(0);
                    if !value.is_power_of_two() || value > MAX_ALIGN {
                        return Err(PtxError::invalid(
                            line,
                            "an alignment is a power of two up to 4096",
                        ));
                    }
                    align = Some(value);
                }
                Token::Dot("attribute") => {
                    self.advance();
                    self.expect(b'(')?;
                    while !self.accept(b')') {
                        if self.peek() == Token::End {
                            return Err(self.wanted("')'"));
                        }
                        managed |= self.peek() == Token::Dot("managed");
                        self.advance();
                    }
                }
                Token::Dot(word @ ("v2" | "v4" | "v8")) => {
                    vector = u64::from(word.as_bytes().last().map_or(1, |digit| digit - b'0'));
                    self.advance();
                }
                // `.ptr .global .align 8` of a kernel parameter: a hint; its alignment is the target's.
                Token::Dot("ptr") => {
                    self.advance();
                    while let Token::Dot(
                        word @ ("global" | "const" | "shared" | "local" | "align"),
                    ) = self.peek()
                    {
                        self.advance();
                        if word == "align" {
                            self.integer()?;
                        }
                    }
                }
                Token::Dot(word) if Opaque::named(word).is_some() => {
                    (ty, opaque) = (Some(Type::B64), Opaque::named(word));
                    self.advance();
                }
                Token::Dot(word) => {
                    let found = Type::named(word)
                        .filter(|ty| ty.is_declarable())
                        .ok_or_else(|| PtxError::unsupported(line, format!("type .{word}")))?;
                    ty = Some(found);
                    self.advance();
                }
                _ => break,
            }
        }
        let ty = ty.ok_or_else(|| self.wanted("a type"))?;
        let name = self.name()?;
        let declaration = self.dimensions(name, line, ty, align, vector)?;
        Ok(Declaration {
            managed,
            opaque,
            ..declaration
        })
    }

    /// A declared name's `[n][m]` or `<n>`.
    fn dimensions(
        &mut self,
        name: &'a str,
        line: u32,
        ty: Type,
        align: Option<u64>,
        vector: u64,
    ) -> Result<Declaration<'a>, PtxError> {
        let (mut count, mut range) = (1_u64, None);
        if self.accept(b'<') {
            range = Some(u64::try_from(self.integer_before_angle()?).unwrap_or(0));
            self.expect(b'>')?;
        }
        while self.accept(b'[') {
            if self.accept(b']') {
                count = 0;
                continue;
            }
            let elements = u64::try_from(self.integer()?).unwrap_or(u64::MAX);
            self.expect(b']')?;
            count = count
                .checked_mul(elements)
                .filter(|&count| count <= MAX_VARIABLE_BYTES)
                .ok_or_else(|| PtxError::limit(line, format!("{name} is too large")))?;
        }
        let align = align.unwrap_or(u64::from(ty.bytes()) * vector);
        Ok(Declaration {
            name,
            line,
            ty,
            align,
            count,
            range,
            vector,
            managed: false,
            opaque: None,
        })
    }

    /// The count in `<n>`: a literal, since `>` would end up as an operator.
    fn integer_before_angle(&mut self) -> Result<i64, PtxError> {
        match self.peek() {
            Token::Int(value) => {
                self.advance();
                Ok(value.cast_signed())
            }
            _ => Err(self.wanted("a count")),
        }
    }

    /// The bytes of a declaration, within a limit.
    fn bytes(declaration: &Declaration<'_>, limit: u64) -> Result<u64, PtxError> {
        let Declaration {
            name,
            line,
            ty,
            count,
            vector,
            ..
        } = *declaration;
        count
            .checked_mul(u64::from(ty.bytes()) * vector)
            .filter(|&bytes| bytes <= limit)
            .ok_or_else(|| PtxError::limit(line, format!("{name} is larger than {limit} bytes")))
    }

    /// A variable at module scope, or one of those spaces in a function.
    fn variable(&mut self, space: &str, linkage: Linkage) -> Result<(&'a str, Symbol), PtxError> {
        let space = match space {
            "global" => Space::Global,
            "const" => Space::Const,
            _ => Space::Shared,
        };
        let declaration = self.declaration()?;
        if declaration.range.is_some() {
            return Err(PtxError::unsupported(
                declaration.line,
                "a range of variables",
            ));
        }
        let limit = if space == Space::Shared {
            u64::from(u32::MAX)
        } else {
            MAX_VARIABLE_BYTES
        };
        let mut variable = Variable {
            name: declaration.name.to_owned(),
            line: declaration.line,
            space,
            bytes: Self::bytes(&declaration, limit)?,
            align: declaration.align,
            linkage,
            managed: declaration.managed,
            opaque: declaration.opaque,
            image: Vec::new(),
            relocations: Vec::new(),
        };
        if self.accept(b'=') {
            if declaration.opaque.is_some() {
                // `{ addr_mode_0 = wrap, … }`: the driver says how it is read when it binds an object.
                self.skip_braces()?;
            } else {
                self.initialiser(&declaration, &mut variable)?;
            }
        }
        self.expect(b';')?;
        if space == Space::Shared {
            self.shared_bytes = self.shared_bytes.saturating_add(variable.bytes);
        }
        let index = u32::try_from(self.module.variables.len())
            .map_err(|_| PtxError::limit(declaration.line, "too many variables"))?;
        self.module.variables.push(variable);
        let symbol = Symbol::Variable(index);
        self.elements.insert(symbol, declaration.element());
        Ok((declaration.name, symbol))
    }

    /// `= 1`, `= {1, 2}`, `= {{1}, {x+4, generic(y)}}`: rows shorter than their dimension are not told
    /// apart from full ones, as compilers emit flat lists only.
    fn initialiser(
        &mut self,
        declaration: &Declaration<'a>,
        variable: &mut Variable,
    ) -> Result<(), PtxError> {
        let line = self.line();
        if variable.space == Space::Shared {
            return Err(PtxError::invalid(
                line,
                "shared variables have no initialiser",
            ));
        }
        let mut depth = 0_u32;
        loop {
            if self.accept(b'{') {
                depth += 1;
                if depth > 8 {
                    return Err(PtxError::limit(line, "an initialiser nests too deeply"));
                }
                continue;
            }
            if !(depth > 0 && self.peek() == Token::Mark(b'}')) {
                self.initial_value(declaration, variable)?;
            }
            while depth > 0 && self.accept(b'}') {
                depth -= 1;
            }
            if depth == 0 {
                break;
            }
            if !self.accept(b',') {
                return Err(self.wanted("',' or '}'"));
            }
        }
        let given = variable.image.len() as u64;
        if variable.bytes == 0 {
            variable.bytes = given;
        }
        if given > variable.bytes {
            return Err(PtxError::invalid(
                line,
                format!("{} has more initial values than elements", variable.name),
            ));
        }
        Ok(())
    }

    fn initial_value(
        &mut self,
        declaration: &Declaration<'a>,
        variable: &mut Variable,
    ) -> Result<(), PtxError> {
        let line = self.line();
        let ty = declaration.ty;
        let width = ty.bytes() as usize;
        // `0xFF00(x)`: one byte of an address.
        if let (Token::Int(mask), Token::Mark(b'('), Token::Name(_)) =
            (self.peek(), self.peek_at(1), self.peek_at(2))
        {
            let _ = mask;
            return Err(PtxError::unsupported(
                line,
                "an initialiser that takes a part of an address",
            ));
        }
        if let Token::Name(name) = self.peek()
            && name != "WARP_SZ"
        {
            self.advance();
            let target = if name == "generic" {
                self.expect(b'(')?;
                let target = self.name()?;
                self.expect(b')')?;
                target
            } else {
                name
            };
            let target = *self
                .names
                .get(target)
                .ok_or_else(|| PtxError::invalid(line, format!("{target} is not declared")))?;
            let addend = match self.peek() {
                Token::Mark(b'+' | b'-') => self.integer()?,
                _ => 0,
            };
            if width != 8 {
                return Err(PtxError::unsupported(
                    line,
                    "an address in a variable of another size than 64 bits",
                ));
            }
            let relocation = Relocation {
                offset: variable.image.len() as u64,
                bytes: 8,
                target,
                addend,
            };
            variable.relocations.push(relocation);
            variable.image.extend_from_slice(&[0; 8]);
            return Ok(());
        }
        let bytes = match (self.number()?, ty) {
            (Number::Int(value), Type::F32) => (value as f32).to_le_bytes().to_vec(),
            (Number::Int(value), Type::F64) => (value as f64).to_le_bytes().to_vec(),
            (Number::Int(value), _) => {
                let mut bytes = value.to_le_bytes().to_vec();
                bytes.resize(width, if value < 0 { 0xff } else { 0 });
                bytes
            }
            (Number::Double(value), Type::F32) => (value as f32).to_le_bytes().to_vec(),
            (Number::Double(value), Type::F64) => value.to_le_bytes().to_vec(),
            (Number::Single(value), Type::F32) => value.to_le_bytes().to_vec(),
            (Number::Single(value), Type::F64) => f64::from(value).to_le_bytes().to_vec(),
            _ => {
                return Err(PtxError::invalid(
                    line,
                    "a floating-point value for an integer variable",
                ));
            }
        };
        variable
            .image
            .extend_from_slice(bytes.get(..width).unwrap_or(&bytes));
        Ok(())
    }

    /// A parameter or result list without its parentheses' opening one.
    fn slots(
        &mut self,
        scopes: Option<&mut Scopes<'a>>,
        returns: bool,
    ) -> Result<Vec<Slot>, PtxError> {
        let mut scopes = scopes;
        let mut slots: Vec<Slot> = Vec::new();
        let mut total = 0_u32;
        loop {
            if slots.is_empty() && self.accept(b')') {
                return Ok(slots);
            }
            let line = self.line();
            let in_register = match self.peek() {
                Token::Dot("param") => false,
                Token::Dot("reg") => true,
                _ => return Err(self.wanted("\".param\"")),
            };
            self.advance();
            let declaration = self.declaration()?;
            let bytes = Self::bytes(&declaration, u64::from(MAX_PARAM_BYTES))? as u32;
            total = total
                .saturating_add(bytes)
                .saturating_add(declaration.align as u32);
            if total > 2 * MAX_PARAM_BYTES {
                return Err(PtxError::limit(line, "too many bytes of parameters"));
            }
            let mut slot = Slot {
                name: declaration.name.to_owned(),
                line,
                space: (!in_register).then_some(Space::Param),
                ty: declaration.ty,
                bytes,
                align: declaration.align as u32,
                reg: None,
            };
            if let Some(scopes) = scopes.as_deref_mut() {
                let index = slots.len() as u32;
                let local = if in_register {
                    let reg = scopes.register(declaration.ty);
                    slot.reg = Some(reg);
                    Local::Reg(reg)
                } else if returns {
                    Local::Symbol(Symbol::Return(index))
                } else {
                    Local::Symbol(Symbol::Param(index))
                };
                scopes.declare(declaration.name, local);
            }
            slots.push(slot);
            if self.accept(b')') {
                return Ok(slots);
            }
            self.expect(b',')?;
        }
    }

    fn function(&mut self, is_kernel: bool, linkage: Linkage, line: u32) -> Result<(), PtxError> {
        let mut scopes = Scopes::new();
        if let Token::Dot("attribute") = self.peek() {
            self.advance();
            self.skip_parentheses()?;
        }
        if !is_kernel && self.accept(b'(') {
            scopes.prototype.returns = self.slots(Some(&mut scopes), true)?;
        }
        let name = self.name()?;
        if self.accept(b'(') {
            scopes.prototype.params = self.slots(Some(&mut scopes), false)?;
        }
        let (mut max_threads, mut required_threads) = (None, None);
        loop {
            let line = self.line();
            match self.peek() {
                Token::Dot(word @ ("maxntid" | "reqntid")) => {
                    self.advance();
                    let mut threads = [1_u32; 3];
                    for (axis, slot) in threads.iter_mut().enumerate() {
                        if axis > 0 && !self.accept(b',') {
                            break;
                        }
                        *slot = u32::try_from(self.integer()?)
                            .ok()
                            .filter(|&count| count > 0)
                            .ok_or_else(|| {
                                PtxError::invalid(line, format!(".{word} needs positive counts"))
                            })?;
                    }
                    if word == "maxntid" {
                        max_threads = Some(threads);
                    } else {
                        required_threads = Some(threads);
                    }
                }
                Token::Dot("minnctapersm" | "maxnctapersm" | "maxnreg" | "maxclusterrank") => {
                    self.advance();
                    self.integer()?;
                }
                Token::Dot("noreturn") => self.advance(),
                Token::Dot("pragma") => self.skip_statement()?,
                Token::Dot(word) => {
                    return Err(PtxError::unsupported(
                        line,
                        format!("directive .{word} of a function"),
                    ));
                }
                _ => break,
            }
        }
        let existing = match self.names.get(name) {
            None => None,
            Some(&Symbol::Function(index)) => Some(index as usize),
            Some(_) => {
                return Err(PtxError::invalid(
                    line,
                    format!("{name} is already a variable"),
                ));
            }
        };
        let index = match existing {
            Some(index) => index,
            None => {
                let index = self.module.functions.len();
                let symbol = u32::try_from(index)
                    .map_err(|_| PtxError::limit(line, "too many functions"))?;
                self.names.insert(name, Symbol::Function(symbol));
                self.module.functions.push(Function {
                    name,
                    linkage,
                    line,
                    is_kernel,
                    prototype: scopes.prototype.clone(),
                    body: None,
                    max_threads,
                    required_threads,
                });
                index
            }
        };
        if self.accept(b';') {
            return Ok(());
        }
        if self.peek() != Token::Mark(b'{') {
            return Err(self.wanted("a function's body"));
        }
        if self
            .module
            .functions
            .get(index)
            .is_some_and(|function| function.body.is_some())
        {
            return Err(PtxError::invalid(line, format!("{name} is defined twice")));
        }
        self.body(&mut scopes)?;
        scopes.resolve_labels()?;
        if let Some(function) = self.module.functions.get_mut(index) {
            function.line = line;
            function.linkage = match linkage {
                // `.visible .func f; .func f {…}`: said once is enough.
                Linkage::Static if function.linkage != Linkage::Extern => function.linkage,
                said => said,
            };
            function.is_kernel = is_kernel;
            function.prototype = scopes.prototype;
            function.body = Some(scopes.body);
            function.max_threads = max_threads;
            function.required_threads = required_threads;
        }
        Ok(())
    }

    fn skip_parentheses(&mut self) -> Result<(), PtxError> {
        self.expect(b'(')?;
        while !self.accept(b')') {
            if self.peek() == Token::End {
                return Err(self.wanted("')'"));
            }
            self.advance();
        }
        Ok(())
    }

    fn body(&mut self, scopes: &mut Scopes<'a>) -> Result<(), PtxError> {
        let outside = scopes.open.len();
        loop {
            let line = self.line();
            match self.peek() {
                Token::Mark(b'{') => {
                    self.advance();
                    scopes.enter(line)?;
                }
                Token::Mark(b'}') => {
                    self.advance();
                    scopes.open.pop();
                    if scopes.open.len() == outside {
                        return Ok(());
                    }
                }
                Token::Mark(b';') => self.advance(),
                Token::Dot(word) => {
                    self.advance();
                    self.directive(word, line, scopes)?;
                }
                Token::Name(name) if self.peek_at(1) == Token::Mark(b':') => {
                    self.advance();
                    self.advance();
                    self.label(name, line, scopes)?;
                }
                Token::Name(_) | Token::Mark(b'@') => {
                    let instruction = self.instruction(line, scopes)?;
                    scopes.body.code.push(instruction);
                }
                _ => return Err(self.wanted("an instruction")),
            }
        }
    }

    /// A label, or the name of a table or prototype.
    fn label(&mut self, name: &'a str, line: u32, scopes: &mut Scopes<'a>) -> Result<(), PtxError> {
        match self.peek() {
            Token::Dot("branchtargets" | "calltargets") => {
                self.advance();
                let mut table = Vec::new();
                loop {
                    table.push(self.operand(scopes, false)?);
                    if !self.accept(b',') {
                        break;
                    }
                }
                self.expect(b';')?;
                let symbol = Symbol::Table(scopes.body.tables.len() as u32);
                scopes.body.tables.push(table);
                scopes.declare(name, Local::Symbol(symbol));
            }
            Token::Dot("callprototype") => {
                self.advance();
                let mut prototype = Prototype::default();
                if self.accept(b'(') {
                    prototype.returns = self.slots(None, true)?;
                }
                if self.name()? != "_" {
                    return Err(PtxError::invalid(line, "a prototype's name is _"));
                }
                if self.accept(b'(') {
                    prototype.params = self.slots(None, false)?;
                }
                while self.peek() != Token::Mark(b';') && self.peek() != Token::End {
                    self.advance();
                }
                self.expect(b';')?;
                let symbol = Symbol::Prototype(scopes.body.prototypes.len() as u32);
                scopes.body.prototypes.push(prototype);
                scopes.declare(name, Local::Symbol(symbol));
            }
            _ => {
                let scope = scopes.open.last().map_or(0, |scope| scope.0);
                let at = scopes.body.code.len() as u32;
                if scopes.labels.insert((scope, name), at).is_some() {
                    return Err(PtxError::invalid(
                        line,
                        format!("label {name} is defined twice"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn directive(
        &mut self,
        word: &str,
        line: u32,
        scopes: &mut Scopes<'a>,
    ) -> Result<(), PtxError> {
        match word {
            "reg" => self.registers(line, scopes),
            "local" | "param" => {
                let declaration = self.declaration()?;
                let limit = if word == "local" {
                    MAX_LOCAL_BYTES
                } else {
                    MAX_PARAM_BYTES
                };
                let bytes = Self::bytes(&declaration, u64::from(limit))? as u32;
                let align = declaration.align as u32;
                scopes.local_bytes = scopes
                    .local_bytes
                    .saturating_add(bytes)
                    .saturating_add(align);
                if scopes.local_bytes > 2 * MAX_LOCAL_BYTES {
                    return Err(PtxError::limit(line, "too much local memory"));
                }
                self.expect(b';')?;
                let symbol = Symbol::Local(scopes.body.locals.len() as u32);
                self.elements.insert(symbol, declaration.element());
                scopes.body.locals.push(Slot {
                    name: declaration.name.to_owned(),
                    line,
                    space: Some(if word == "local" {
                        Space::Local
                    } else {
                        Space::Param
                    }),
                    ty: declaration.ty,
                    bytes,
                    align,
                    reg: None,
                });
                scopes.declare(declaration.name, Local::Symbol(symbol));
                Ok(())
            }
            "global" | "const" | "shared" => {
                let (name, symbol) = self.variable(word, Linkage::Static)?;
                scopes.declare(name, Local::Symbol(symbol));
                Ok(())
            }
            "loc" => {
                self.skip_line();
                Ok(())
            }
            "pragma" => self.skip_statement(),
            _ => Err(PtxError::unsupported(
                line,
                format!("directive .{word} in a function"),
            )),
        }
    }

    /// `.reg .b32 %r<18>, %x;`
    fn registers(&mut self, line: u32, scopes: &mut Scopes<'a>) -> Result<(), PtxError> {
        let mut declaration = self.declaration()?;
        loop {
            let vector = declaration.vector as u32;
            if vector > 4 || declaration.count != 1 || vector > 1 && declaration.range.is_some() {
                return Err(PtxError::unsupported(
                    line,
                    "registers that are arrays or ranges of vectors",
                ));
            }
            let local = match declaration.range {
                Some(count) => Local::Range(declaration.ty, count),
                None => {
                    let first = scopes.register(declaration.ty);
                    for _ in 1..vector {
                        scopes.register(declaration.ty);
                    }
                    if vector > 1 {
                        Local::Vector(first, vector)
                    } else {
                        Local::Reg(first)
                    }
                }
            };
            scopes.declare(declaration.name, local);
            if !self.accept(b',') {
                return self.expect(b';');
            }
            let name = self.name()?;
            declaration = self.dimensions(name, line, declaration.ty, None, declaration.vector)?;
        }
    }

    fn instruction(
        &mut self,
        line: u32,
        scopes: &mut Scopes<'a>,
    ) -> Result<Instruction<'a>, PtxError> {
        let guard = if self.accept(b'@') {
            let negated = self.accept(b'!');
            let name = self.name()?;
            match self.find(name, scopes) {
                Some(Local::Reg(reg)) => Some(Guard { reg, negated }),
                _ => return Err(PtxError::invalid(line, format!("{name} is no register"))),
            }
        } else {
            None
        };
        let opcode = self.name()?;
        let mut modifiers = Vec::new();
        while let Token::Dot(word) = self.peek() {
            modifiers.push(word);
            self.advance();
            if word == "const" {
                self.skip_bank();
            }
        }
        let mut operands = Vec::new();
        if !self.accept(b';') {
            loop {
                // `ld.u32 %r, array[2]` reads the element; `mov` takes its address.
                let element = self.peek_at(1) == Token::Mark(b'[') && opcode != "mov";
                operands.push(match self.operand(scopes, opcode == "call")? {
                    Operand::Symbol(symbol, offset) if element => {
                        Operand::Address(Base::Symbol(symbol), offset)
                    }
                    operand => operand,
                });
                if self.accept(b';') {
                    break;
                }
                if !self.accept(b',') {
                    return Err(self.wanted("',' or ';'"));
                }
            }
        }
        Ok(Instruction {
            line,
            guard,
            opcode,
            modifiers,
            operands,
        })
    }

    /// What a name means here; a register of a range comes to be when it is first named.
    fn find(&self, name: &'a str, scopes: &mut Scopes<'a>) -> Option<Local> {
        scopes
            .find(name)
            .or_else(|| self.names.get(name).map(|&symbol| Local::Symbol(symbol)))
    }

    fn operand(&mut self, scopes: &mut Scopes<'a>, call: bool) -> Result<Operand, PtxError> {
        let line = self.line();
        match self.peek() {
            Token::Mark(b'{') => {
                self.advance();
                self.operands_until(b'}', scopes).map(Operand::Vector)
            }
            Token::Mark(b'(') if call => {
                self.advance();
                self.operands_until(b')', scopes).map(Operand::List)
            }
            Token::Mark(b'[') => {
                self.advance();
                self.address(scopes)
            }
            Token::Mark(b'!') if matches!(self.peek_at(1), Token::Name(_)) => {
                self.advance();
                let name = self.name()?;
                match self.find(name, scopes) {
                    Some(Local::Reg(reg)) => Ok(Operand::Not(reg)),
                    _ => Err(PtxError::invalid(line, format!("{name} is no register"))),
                }
            }
            Token::Mark(b'-')
                if matches!(self.peek_at(1), Token::Name(name)
                    if matches!(self.find(name, scopes), Some(Local::Reg(_)))) =>
            {
                self.advance();
                let name = self.name()?;
                match self.named(name, line, scopes)? {
                    Operand::Reg(reg) => Ok(Operand::Part {
                        reg,
                        negated: true,
                        selector: String::new(),
                    }),
                    Operand::Part { reg, selector, .. } => Ok(Operand::Part {
                        reg,
                        negated: true,
                        selector,
                    }),
                    _ => Err(PtxError::invalid(line, format!("-{name} is no operand"))),
                }
            }
            Token::Name(name) if name != "WARP_SZ" => {
                self.advance();
                self.named(name, line, scopes)
            }
            _ => Ok(match self.number()? {
                Number::Int(value) => Operand::Int(value),
                Number::Double(value) => Operand::Double(value),
                Number::Single(value) => Operand::Single(value),
            }),
        }
    }

    /// An operand that begins with a name.
    fn named(
        &mut self,
        name: &'a str,
        line: u32,
        scopes: &mut Scopes<'a>,
    ) -> Result<Operand, PtxError> {
        let reg_or_sink = |found: Option<Local>, name: &str| match found {
            Some(Local::Reg(reg)) => Ok(Some(reg)),
            None if name == "_" => Ok(None),
            _ => Err(PtxError::invalid(line, format!("{name} is no register"))),
        };
        let found = self.find(name, scopes);
        if self.peek() == Token::Mark(b'|') {
            self.advance();
            let second = self.name()?;
            let second_found = self.find(second, scopes);
            return Ok(Operand::Pair(
                reg_or_sink(found, name)?,
                reg_or_sink(second_found, second)?,
            ));
        }
        match found {
            Some(Local::Reg(reg)) => match self.peek() {
                Token::Dot(selector) => {
                    self.advance();
                    Ok(Operand::Part {
                        reg,
                        negated: false,
                        selector: selector.to_owned(),
                    })
                }
                _ => Ok(Operand::Reg(reg)),
            },
            Some(Local::Vector(first, count)) => {
                let element = |index: u32| Reg(first.0 + index);
                let Token::Dot(component) = self.peek() else {
                    let elements = (0..count).map(|index| Operand::Reg(element(index)));
                    return Ok(Operand::Vector(elements.collect()));
                };
                self.advance();
                let index = ["x", "y", "z", "w"]
                    .iter()
                    .zip(["r", "g", "b", "a"])
                    .position(|(place, colour)| *place == component || colour == component)
                    .map(|index| index as u32)
                    .filter(|index| *index < count)
                    .ok_or_else(|| {
                        PtxError::invalid(line, format!("{name} has no element .{component}"))
                    })?;
                Ok(Operand::Reg(element(index)))
            }
            Some(Local::Symbol(symbol)) => {
                let offset = match self.peek() {
                    Token::Mark(b'+' | b'-') => self.integer()?,
                    // `array[2]`
                    Token::Mark(b'[') => {
                        self.advance();
                        let index = self.integer()?;
                        self.expect(b']')?;
                        self.elements
                            .get(&symbol)
                            .and_then(|bytes| index.checked_mul(*bytes))
                            .ok_or_else(|| {
                                PtxError::invalid(line, format!("{name} has no element {index}"))
                            })?
                    }
                    _ => 0,
                };
                Ok(Operand::Symbol(symbol, offset))
            }
            Some(Local::Range(..)) => Err(PtxError::invalid(
                line,
                format!("{name} is a range of registers"),
            )),
            None if name == "_" => Ok(Operand::Sink),
            None if name.starts_with('%') => {
                let mut special = name.to_owned();
                if let Token::Dot(component @ ("x" | "y" | "z" | "w")) = self.peek() {
                    self.advance();
                    special.push('.');
                    special.push_str(component);
                }
                Ok(Operand::Special(special))
            }
            None => {
                let mention = scopes.mentions.len() as u32;
                let scope = scopes.open.last().map_or(0, |scope| scope.0);
                scopes.mentions.push((name, line, scope));
                Ok(Operand::Label(mention))
            }
        }
    }

    fn operands_until(
        &mut self,
        end: u8,
        scopes: &mut Scopes<'a>,
    ) -> Result<Vec<Operand>, PtxError> {
        let mut operands = Vec::new();
        while !self.accept(end) {
            if !operands.is_empty() {
                self.expect(b',')?;
            }
            // Lists do not nest: what begins with a brace, bracket or parenthesis is refused.
            if matches!(self.peek(), Token::Mark(b'{' | b'[')) {
                return Err(self.wanted("a register or constant"));
            }
            operands.push(self.operand(scopes, false)?);
        }
        Ok(operands)
    }

    /// What follows `[`.
    fn address(&mut self, scopes: &mut Scopes<'a>) -> Result<Operand, PtxError> {
        let line = self.line();
        let base = match self.peek() {
            Token::Name(name) if name != "WARP_SZ" => {
                self.advance();
                match self.find(name, scopes) {
                    Some(Local::Reg(reg)) => Base::Reg(reg),
                    Some(Local::Symbol(symbol)) => Base::Symbol(symbol),
                    _ => return Err(PtxError::invalid(line, format!("{name} is not declared"))),
                }
            }
            _ => Base::None,
        };
        let offset = match self.peek() {
            Token::Mark(b'+' | b'-') => self.integer()?,
            Token::Mark(b']' | b',') if base != Base::None => 0,
            _ if base == Base::None => self.integer()?,
            _ => return Err(self.wanted("']'")),
        };
        if self.accept(b']') {
            return Ok(Operand::Address(base, offset));
        }
        // `[texture, {x, y}]`
        let mut parts = vec![Operand::Address(base, offset)];
        while self.accept(b',') {
            if self.accept(b'{') {
                parts.push(Operand::Vector(self.operands_until(b'}', scopes)?));
            } else {
                if matches!(self.peek(), Token::Mark(b'[' | b'(')) {
                    return Err(self.wanted("a register or constant"));
                }
                parts.push(self.operand(scopes, false)?);
            }
        }
        self.expect(b']')?;
        Ok(Operand::Indexed(parts))
    }
}

impl<'a> Scopes<'a> {
    fn new() -> Self {
        Self {
            body: Body::default(),
            prototype: Prototype::default(),
            open: vec![(0, HashMap::new())],
            count: 1,
            parents: vec![0],
            labels: HashMap::new(),
            mentions: Vec::new(),
            local_bytes: 0,
        }
    }

    fn enter(&mut self, line: u32) -> Result<(), PtxError> {
        if self.open.len() > MAX_SCOPES {
            return Err(PtxError::limit(line, "blocks nest too deeply"));
        }
        self.parents
            .push(self.open.last().map_or(0, |scope| scope.0));
        self.open.push((self.count, HashMap::new()));
        self.count += 1;
        Ok(())
    }

    fn declare(&mut self, name: &'a str, local: Local) {
        if let Some((_, names)) = self.open.last_mut() {
            names.insert(name, local);
        }
    }

    fn register(&mut self, ty: Type) -> Reg {
        let reg = Reg(self.body.registers.len() as u32);
        self.body.registers.push(ty);
        reg
    }

    fn find(&mut self, name: &'a str) -> Option<Local> {
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (prefix, number) = name.split_at(name.len() - digits);
        let number = if digits == 1 || !number.starts_with('0') {
            number.parse::<u64>().ok()
        } else {
            None
        };
        for depth in (0..self.open.len()).rev() {
            let names = &self.open.get(depth)?.1;
            if let Some(&local) = names.get(name) {
                return Some(local);
            }
            if let (Some(&Local::Range(ty, count)), Some(number)) = (names.get(prefix), number)
                && number < count
            {
                let reg = self.register(ty);
                self.open.get_mut(depth)?.1.insert(name, Local::Reg(reg));
                return Some(Local::Reg(reg));
            }
        }
        None
    }

    /// Each mention's target: the label of that name in the nearest enclosing scope.
    fn resolve_labels(&mut self) -> Result<(), PtxError> {
        for &(name, line, mut scope) in &self.mentions {
            let target = loop {
                if let Some(&target) = self.labels.get(&(scope, name)) {
                    break target;
                }
                if scope == 0 {
                    return Err(PtxError::invalid(line, format!("{name} is not declared")));
                }
                scope = self.parents.get(scope as usize).copied().unwrap_or(0);
            };
            self.body.targets.push(target);
        }
        Ok(())
    }
}
