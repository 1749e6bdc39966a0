//! CUDA programs that verify themselves: those that papers on GPU virtualization measure, and those of
//! CUDA's own samples. One binary holds them all and goes by the name that it is called by.
//!
//! For: showing that whichever `libcuda.so.1` the loader finds (NVIDIA's, softcuda, the split driver)
//! computes what it should, and how long it takes. They must never know which of the three it is, nor
//! depend on any other crate of this project.
//!
//! A program is a `harness::Sample`; `harness::main` parses its options, runs it and prints its [`Report`], as text or,
//! with `--json`, as one JSON object on one line of standard output:
//!
//! ```json
//! {"program": "vectorAdd", "device": "…", "problem": "4000003 elements", "threads": 1, "iterations": 1,
//!  "ok": true, "max_error": 0.0, "tolerance": 0.0, "checksum": "9d0ac44a7a1a2b0c",
//!  "times_ms": {"setup": 1.0, "h2d": 1.0, "kernel": 1.0, "d2h": 1.0, "total": 4.0}}
//! ```
//!
//! The exit status is 0 if and only if the result is right. A wrong result still prints the report, with
//! `"ok": false`; when CUDA fails there is no report. In both cases one line on standard error says why.
//!
//! The kernels use correctly rounded operations only (see `kernels/cuda.h`) and add in a fixed order, so
//! for given options the checksum is the same on every device that works.
//!
//! cudarc asks the loader for `libcuda.so` and a dozen other names before `libcuda.so.1`. To be sure of
//! the library that a program gets, set `LD_LIBRARY_PATH` to a directory that holds it under both names.

mod compare;
mod harness;
mod input;
mod programs;
pub mod ptx;
mod report;

pub use input::Random;

pub use programs::main;
pub use report::{Figure, Report, TimesMs};
