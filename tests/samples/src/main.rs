//! The sample programs: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cuda_samples::main(std::env::args_os().collect())
}
