//! The programs by name. Each is a module with its options, its launches and its reference; its kernels
//! are the PTX of the same name in `kernels`. Nothing here may know what libcuda it runs on.

mod black_scholes;
mod histogram;
mod matrix_mul;
mod scalar_prod;
mod vector_add;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::harness::{self, Sample};

/// A program.
struct Program {
    name: &'static str,
    /// Other names that papers have for it.
    aliases: &'static [&'static str],
    /// What it does, in a line.
    about: fn() -> String,
    run: fn(Vec<OsString>) -> ExitCode,
    #[cfg(test)]
    check: fn(),
}

impl Program {
    const fn of<S: Sample>(aliases: &'static [&'static str]) -> Self {
        Self {
            name: S::NAME,
            aliases,
            about: || {
                S::command()
                    .get_about()
                    .map(ToString::to_string)
                    .unwrap_or_default()
            },
            run: harness::main::<S>,
            #[cfg(test)]
            check: harness::check::<S>,
        }
    }

    fn is(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

const PROGRAMS: &[Program] = &[
    Program::of::<black_scholes::BlackScholes>(&[]),
    Program::of::<histogram::Histogram>(&["Histogram"]),
    Program::of::<matrix_mul::MatrixMul>(&["matrixMul-sizeable"]),
    Program::of::<scalar_prod::ScalarProd>(&[]),
    Program::of::<vector_add::VectorAdd>(&["VecAdd"]),
];

/// Runs the program that the binary is called by, or that its first argument names.
///
/// `--names` as the only argument lists all names, for whoever makes links to the binary.
pub fn main(mut arguments: Vec<OsString>) -> ExitCode {
    let program = |argument: Option<&OsString>| {
        let name = Path::new(argument?).file_name()?.to_str()?;
        PROGRAMS.iter().find(|program| program.is(name))
    };
    if let Some(program) = program(arguments.first()) {
        return (program.run)(arguments);
    }
    if let Some(program) = program(arguments.get(1)) {
        arguments.remove(0);
        return (program.run)(arguments);
    }
    if arguments.get(1).is_some_and(|only| only == "--names") {
        for program in PROGRAMS {
            for name in [program.name].iter().chain(program.aliases) {
                println!("{name}");
            }
        }
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "Usage: samples PROGRAM [OPTIONS]\n\nThe programs; PROGRAM --help tells the options of one:"
    );
    for program in PROGRAMS {
        let names = [&[program.name], program.aliases].concat().join(", ");
        eprintln!("  {names:30} {}", (program.about)());
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_knows_right_from_wrong() {
        for program in PROGRAMS {
            (program.check)();
        }
    }

    #[test]
    fn a_name_is_one_program() {
        let mut names: Vec<_> = PROGRAMS
            .iter()
            .flat_map(|program| [&[program.name], program.aliases].concat())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
