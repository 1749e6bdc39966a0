//! A libcuda.so.1 that compiles PTX with Cranelift and runs it on the CPU.
//!
//! `ptx`, `compile` and `exec` turn PTX into code and run a grid of it; `memory` is the device's memory,
//! `engine` decides when work runs and `work` carries it out; `context`, `stream`, `event` and `module`
//! are what a program's handles mean, and `api` is the driver's C functions over them. Programs reach it
//! through the exported symbols only.

#[allow(
    non_snake_case,
    clippy::missing_safety_doc,
    reason = "the functions have C's names and CUDA's contracts; cuda-abi documents each"
)]
mod api;
mod context;
mod device;
mod driver;
mod engine;
mod event;
pub mod exec;
mod handles;
mod launch;
mod memory;
mod module;
pub mod ptx;
mod rounding;
mod settings;
mod stream;
mod work;

cuda_abi::with_calls!(cuda_abi::export_calls);
