//! `cargo xtask ptx-coverage`: runs the table of PTX forms (crate ptx-forms) on softcuda and prints what it
//! found. It builds that crate optimised, and must never judge a form itself.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::bundle;

/// Run every form of every PTX instruction on softcuda against its reference; fails if one is wrong.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// List each form that is not supported, with the error that a user gets.
    #[arg(long)]
    missing: bool,
    /// Write docs/ptx-coverage.md instead.
    #[arg(long)]
    write: bool,
    /// Only forms whose name contains this.
    form: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(bundle::workspace()).args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "ptx-forms",
        "--",
    ]);
    for (wanted, flag) in [
        (arguments.json, "--json"),
        (arguments.missing, "--missing"),
        (arguments.write, "--write"),
    ] {
        if wanted {
            command.arg(flag);
        }
    }
    let status = command
        .args(&arguments.form)
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("not every form is as its reference or the list of unsupported forms says");
    }
    Ok(())
}
