//! `cargo xtask fairness`: builds the product and the experiments as users run them, and runs the experiments.
//! What it takes is what vgpu-fairness takes. It measures; a claim that does not hold is in the report, and is no
//! failure of the command.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{bundle, setup};

/// Run the fairness experiments, for real and in the simulator, and write their report; --help lists the options.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// As vgpu-fairness takes them
    #[arg(
        value_name = "OPTIONS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    options: Vec<OsString>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::demo()?;
    let built = bundle::cargo_build(&["vgpu-fairness"])?;
    let program = bundle::find(&built, "vgpu-fairness")?;
    let mut command = Command::new(program);
    let only_asks = |option: &OsString| {
        ["--help", "-h", "--version", "-V", "--list"]
            .iter()
            .any(|word| option == word)
    };
    if !arguments.options.iter().any(only_asks) {
        let product = bundle::build()?;
        let out = bundle::target_folder()?.join("fairness");
        command.arg("--bundle").arg(product.root);
        command.arg("--out").arg(out);
    }
    let status = command
        .args(&arguments.options)
        .status()
        .with_context(|| format!("running {}", program.display()))?;
    if !status.success() {
        bail!("vgpu-fairness ended with {status}");
    }
    Ok(())
}
