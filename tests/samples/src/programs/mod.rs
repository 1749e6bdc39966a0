//! The programs by name. Each is a module with its options, its launches and its reference; its kernels
//! are the PTX of the same name in `kernels`. Nothing here may know what libcuda it runs on.

mod aligned_types;
mod async_api;
mod bandwidth_test;
mod bfloat16;
mod binomial_options;
mod black_scholes;
mod clock;
mod convolution_separable;
mod device_malloc;
mod double_math;
mod fast_walsh_transform;
mod fp16_scalar_product;
mod globals_constants;
mod histogram;
mod hotspot;
mod lud;
mod matrix_mul;
mod merge_sort;
mod mmul;
mod monte_carlo;
mod nbody;
mod reduction_multi_block;
mod scalar_prod;
mod scan;
mod shuffle_reduction;
mod simple_assert;
mod simple_printf;
mod simple_texture;
mod srad;
mod stencil;
mod transpose;
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
    Program::of::<aligned_types::AlignedTypes>(&[]),
    Program::of::<async_api::AsyncApi>(&[]),
    Program::of::<bandwidth_test::BandwidthTest>(&[]),
    Program::of::<bfloat16::Bfloat16>(&[]),
    Program::of::<binomial_options::BinomialOptions>(&[]),
    Program::of::<black_scholes::BlackScholes>(&[]),
    Program::of::<clock::Clock>(&[]),
    Program::of::<convolution_separable::ConvolutionSeparable>(&[]),
    Program::of::<device_malloc::DeviceMalloc>(&[]),
    Program::of::<double_math::DoubleMath>(&[]),
    Program::of::<fast_walsh_transform::FastWalshTransform>(&[]),
    Program::of::<fp16_scalar_product::Fp16ScalarProduct>(&[]),
    Program::of::<globals_constants::GlobalsConstants>(&[]),
    Program::of::<histogram::Histogram>(&["Histogram"]),
    Program::of::<hotspot::Hotspot>(&[]),
    Program::of::<lud::Lud>(&[]),
    Program::of::<matrix_mul::MatrixMul>(&["matrixMul-sizeable"]),
    Program::of::<merge_sort::MergeSort>(&[]),
    Program::of::<mmul::Mmul>(&[]),
    Program::of::<monte_carlo::MonteCarlo>(&[]),
    Program::of::<nbody::Nbody>(&[]),
    Program::of::<reduction_multi_block::ReductionMultiBlock>(&[]),
    Program::of::<scalar_prod::ScalarProd>(&[]),
    Program::of::<scan::Scan>(&[]),
    Program::of::<shuffle_reduction::ShuffleReduction>(&[]),
    Program::of::<simple_assert::SimpleAssert>(&[]),
    Program::of::<simple_printf::SimplePrintf>(&[]),
    Program::of::<simple_texture::SimpleTexture>(&[]),
    Program::of::<srad::Srad>(&[]),
    Program::of::<stencil::Stencil>(&[]),
    Program::of::<transpose::Transpose>(&[]),
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
