//! `cargo xtask`: the few commands a person or CI runs in this repository.
//! Each command is a module with one `run`; this file only reads the command line.
//! Nothing here is part of the product, and nothing it does needs a Xen host or a GPU.

mod api;
mod bench;
mod bench_softcuda;
mod bundle;
mod coverage;
mod demo;
mod fairness;
mod monitor;
mod setup;
mod test;
mod tinygrad;
mod xen;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "What a person or CI runs in this repository"
)]
enum Command {
    Demo(demo::Arguments),
    Test(test::Arguments),
    Setup(setup::Arguments),
    Bundle(bundle::Arguments),
    Bench(bench::Arguments),
    Fairness(fairness::Arguments),
    XenTest(xen::TestArguments),
    XenShell(xen::ShellArguments),
    Tinygrad(tinygrad::Arguments),
    Nvml(monitor::Arguments),
    ApiTable(api::Arguments),
    PtxCoverage(coverage::Arguments),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Fairness(arguments) => fairness::run(&arguments),
        Command::Bundle(arguments) => bundle::run(&arguments),
        Command::XenTest(arguments) => xen::test(&arguments),
        Command::XenShell(arguments) => xen::shell(&arguments),
        Command::Tinygrad(arguments) => tinygrad::run(&arguments),
        Command::Nvml(arguments) => monitor::run(&arguments),
        Command::ApiTable(arguments) => api::run(&arguments),
        Command::PtxCoverage(arguments) => coverage::run(&arguments),
    }
}
