//! Every form of every PTX instruction that a compiler for sm_50 to sm_90 may emit, each with a test on
//! softcuda against a reference that shares nothing with it. The table is the one place that says what
//! forms there are; nothing here may be used by softcuda.

#![allow(
    clippy::indexing_slicing,
    reason = "what a test indexes is of its own making"
)]

pub mod form;
mod groups;
pub mod reference;
pub mod report;
pub mod run;
pub mod types;

pub use groups::table;
