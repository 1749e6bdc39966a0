//! The program: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vgpu_load::main()
}
