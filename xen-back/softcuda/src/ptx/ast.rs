//! The syntax tree: names are resolved to indices, nodes know their line, opcodes are still text.
//! Sizes in it are within the limits a device has; what an instruction means is not known here.

/// A PTX fundamental type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is PTX's own name")]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    U16x2,
    S16x2,
    E4m3x2,
    E5m2x2,
    Tf32,
}

impl Type {
    /// The type that a dotted word names.
    pub fn named(word: &str) -> Option<Self> {
        Some(match word {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "b128" => Self::B128,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "u16x2" => Self::U16x2,
            "s16x2" => Self::S16x2,
            "e4m3x2" => Self::E4m3x2,
            "e5m2x2" => Self::E5m2x2,
            "tf32" => Self::Tf32,
            _ => return None,
        })
    }

    /// Bytes that a value takes in memory.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Pred | Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16
            | Self::U16
            | Self::S16
            | Self::F16
            | Self::Bf16
            | Self::E4m3x2
            | Self::E5m2x2 => 2,
            Self::B32
            | Self::U32
            | Self::S32
            | Self::F16x2
            | Self::Bf16x2
            | Self::U16x2
            | Self::S16x2
            | Self::Tf32
            | Self::F32 => 4,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
            Self::B128 => 16,
        }
    }

    /// Bits of a value; 1 for predicates.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Pred => 1,
            _ => self.bytes() * 8,
        }
    }

    /// `.s8` to `.s64`.
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// `.u8` to `.u64`.
    pub const fn is_unsigned(self) -> bool {
        matches!(self, Self::U8 | Self::U16 | Self::U32 | Self::U64)
    }

    /// `.s*` and `.u*`.
    pub const fn is_integer(self) -> bool {
        self.is_signed() || self.is_unsigned()
    }

    /// Of a pair of 16-bit values, their type.
    pub const fn lane(self) -> Option<Self> {
        match self {
            Self::F16x2 => Some(Self::F16),
            Self::Bf16x2 => Some(Self::Bf16),
            Self::U16x2 => Some(Self::U16),
            Self::S16x2 => Some(Self::S16),
            _ => None,
        }
    }

    /// Whether variables and registers can have it: formats that only instructions know are words to them.
    pub const fn is_declarable(self) -> bool {
        !matches!(
            self,
            Self::U16x2 | Self::S16x2 | Self::E4m3x2 | Self::E5m2x2 | Self::Tf32
        )
    }

    /// `.b8` to `.b128`.
    pub const fn is_untyped(self) -> bool {
        matches!(
            self,
            Self::B8 | Self::B16 | Self::B32 | Self::B64 | Self::B128
        )
    }
}

/// A state space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is PTX's own name")]
pub enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

impl Space {
    /// PTX's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Global => "global",
            Self::Const => "const",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Param => "param",
        }
    }
}

/// A register of a function: an index into [`Body::registers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u32);

/// What a name that is no register stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// A `.global`, `.const` or `.shared` variable: an index into [`Module::variables`].
    Variable(u32),
    /// A `.local` or `.param` variable of the function: an index into [`Body::locals`].
    Local(u32),
    /// A parameter of the function: an index into [`Function::params`].
    Param(u32),
    /// A result of the function: an index into [`Function::returns`].
    Return(u32),
    /// A function: an index into [`Module::functions`].
    Function(u32),
    /// `.branchtargets` or `.calltargets`: an index into [`Body::tables`].
    Table(u32),
    /// `.callprototype`: an index into [`Body::prototypes`].
    Prototype(u32),
}

/// The base of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Nothing: the offset is the address.
    None,
    /// A register.
    Reg(Reg),
    /// A variable or parameter.
    Symbol(Symbol),
}

/// An instruction's operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// `!%p`
    Not(Reg),
    /// `-%r.h1`: a part of a word, its negative, or both, as video instructions take them.
    Part {
        /// The register.
        reg: Reg,
        /// With a minus sign.
        negated: bool,
        /// What follows the dot; empty for all of it.
        selector: String,
    },
    /// `%p|%q`; a sink is `None`.
    Pair(Option<Reg>, Option<Reg>),
    /// `_`
    Sink,
    /// A special register with its component: `%tid.x`.
    Special(String),
    /// An integer's 64 bits.
    Int(i64),
    /// A decimal or `0d` literal.
    Double(f64),
    /// A `0f` literal.
    Single(f32),
    /// A variable's or function's address, plus a constant.
    Symbol(Symbol, i64),
    /// A label: an index into [`Body::targets`].
    Label(u32),
    /// `[base+offset]`
    Address(Base, i64),
    /// `[a, b]`: textures and tensors.
    Indexed(Vec<Operand>),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
}

/// `@%p` or `@!%p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The predicate.
    pub reg: Reg,
    /// Execute when it is false.
    pub negated: bool,
}

/// One instruction.
#[derive(Debug, Clone)]
pub struct Instruction<'a> {
    /// Line in the text.
    pub line: u32,
    /// Its predicate.
    pub guard: Option<Guard>,
    /// `add` of `add.s32`.
    pub opcode: &'a str,
    /// `s32` of `add.s32`.
    pub modifiers: Vec<&'a str>,
    /// Its operands, in order.
    pub operands: Vec<Operand>,
}

impl Instruction<'_> {
    /// The opcode with its modifiers.
    pub fn name(&self) -> String {
        std::iter::once(self.opcode)
            .chain(self.modifiers.iter().copied())
            .collect::<Vec<_>>()
            .join(".")
    }
}

/// A parameter, result or local variable: where it lies is its user's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Name in the text; `_` in prototypes.
    pub name: String,
    /// Line of its declaration.
    pub line: u32,
    /// `.param`, `.local`; `None` for a `.reg` parameter.
    pub space: Option<Space>,
    /// Element type.
    pub ty: Type,
    /// Bytes in all.
    pub bytes: u32,
    /// Alignment in bytes, a power of two.
    pub align: u32,
    /// The register of a `.reg` parameter or result.
    pub reg: Option<Reg>,
}

/// The results and parameters of a function or prototype.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prototype {
    /// Results.
    pub returns: Vec<Slot>,
    /// Parameters.
    pub params: Vec<Slot>,
}

/// A function's code.
#[derive(Debug, Clone, Default)]
pub struct Body<'a> {
    /// Type of each register that is used.
    pub registers: Vec<Type>,
    /// `.local` and `.param` variables.
    pub locals: Vec<Slot>,
    /// The code, blocks flattened.
    pub code: Vec<Instruction<'a>>,
    /// Per mention of a label, the index in `code` it leads to (`code.len()`: the end).
    pub targets: Vec<u32>,
    /// Tables of labels or functions.
    pub tables: Vec<Vec<Operand>>,
    /// `.callprototype`s.
    pub prototypes: Vec<Prototype>,
}

/// An opaque type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opaque {
    /// `.texref`
    Texture,
    /// `.samplerref`
    Sampler,
    /// `.surfref`
    Surface,
}

impl Opaque {
    /// The opaque type that a dotted word names.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "texref" => Some(Self::Texture),
            "samplerref" => Some(Self::Sampler),
            "surfref" => Some(Self::Surface),
            _ => None,
        }
    }
}

/// Which modules a symbol's name has a meaning in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linkage {
    /// Its own alone.
    #[default]
    Static,
    /// `.extern`: another module defines it.
    Extern,
    /// `.visible`: all; there is no other definition.
    Visible,
    /// `.weak`: all; of several definitions any counts.
    Weak,
    /// `.common`: all; of several definitions the largest counts.
    Common,
}

/// A kernel or function.
#[derive(Debug, Clone)]
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// Who else may mean it.
    pub linkage: Linkage,
    /// Line of its first declaration.
    pub line: u32,
    /// `.entry`
    pub is_kernel: bool,
    /// Its results and parameters.
    pub prototype: Prototype,
    /// Its code; `None` when it is only declared.
    pub body: Option<Body<'a>>,
    /// `.maxntid`
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`
    pub required_threads: Option<[u32; 3]>,
}

/// What an initialiser's word refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Offset in the variable.
    pub offset: u64,
    /// Bytes of the word, at most 8.
    pub bytes: u32,
    /// Whose address.
    pub target: Symbol,
    /// Added to the address.
    pub addend: i64,
}

/// A `.global`, `.const` or `.shared` variable.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name; unique only per scope.
    pub name: String,
    /// Line of its declaration.
    pub line: u32,
    /// Global, Const or Shared.
    pub space: Space,
    /// Bytes; 0 for `[]`.
    pub bytes: u64,
    /// Alignment in bytes, a power of two.
    pub align: u64,
    /// Who else may mean it.
    pub linkage: Linkage,
    /// `.attribute(.managed)`
    pub managed: bool,
    /// Of an opaque type: eight bytes that hold the handle of an object.
    pub opaque: Option<Opaque>,
    /// The leading bytes that the initialiser gives.
    pub image: Vec<u8>,
    /// Words of `image` that are addresses.
    pub relocations: Vec<Relocation>,
}

/// A PTX text.
#[derive(Debug, Clone, Default)]
pub struct Module<'a> {
    /// 63 for `.version 6.3`.
    pub version: u32,
    /// 75 for `.target sm_75`.
    pub target: u32,
    /// Variables of every scope.
    pub variables: Vec<Variable>,
    /// Kernels and functions.
    pub functions: Vec<Function<'a>>,
}

impl Module<'_> {
    /// Whether a variable holds the handle of a texture, surface or sampler.
    pub fn is_opaque(&self, variable: u32) -> bool {
        self.variables
            .get(variable as usize)
            .is_some_and(|variable| variable.opaque.is_some())
    }
}
