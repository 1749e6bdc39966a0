//! A libcuda.so.1 that compiles PTX with Cranelift and runs it on the CPU.

pub mod exec;
pub mod ptx;
