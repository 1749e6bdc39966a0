//! vgpu-load: a CUDA program that keeps a device as busy as it is told to, and says when each kernel ran.
//!
//! Its kernels take exactly so long on any device and write down their own beginning and end, so an
//! experiment knows what each domain truly had without asking the scheduler. Must use little of the processor,
//! which the device of softcuda shares, and must never say that a kernel ran which did not.

mod options;
mod program;
mod report;

pub use options::{Direction, Options, micros};
pub use program::main;
pub use report::{Copy, Kernel, Report, align};
