//! PTX text to a syntax tree whose names are resolved and whose nodes know their line.
//! Any byte string gives a tree or an error; nothing here may panic, and nothing here knows what an
//! instruction does: that is `compile`'s business.

pub mod ast;
mod error;
mod expression;
mod lex;
mod link;
mod parse;

pub use error::{PtxError, PtxErrorKind};
pub use link::{lines, link};
pub use parse::parse;
