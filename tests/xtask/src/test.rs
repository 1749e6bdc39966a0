//! `cargo xtask test`: every test there is, on this machine and on real Xen in its software CPU.
//! Each step is a command a person could run. It must never skip a step in silence: a missing tool fails.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{bundle, monitor, setup, tinygrad, xen};

/// Run all tests: formatting, lints, licences, every crate, the model checker, the whole product on the
/// local platform, and real Xen.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only the steps whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 9] = [
    ("formatting", || cargo(&["fmt", "--all", "--check"])),
    ("bundle", || bundle::build().map(|_| ())),
    (
        "tests of every crate and of the whole on the local platform",
        || cargo(&["test", "--workspace", "--release"]),
    ),
    ("tinygrad on softcuda", tinygrad::test),
    ("NVIDIA's binding of NVML in a guest", monitor::test),
    ("model checking of the queue", model_check),
    ("real Xen", xen::test_default),
    ("lints", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    }),
    ("licences", licences),
];

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure()?;
    let wanted = |name: &str| {
        arguments
            .only
            .as_deref()
            .is_none_or(|part| name.contains(part))
    };
    let mut results: Vec<(&str, Duration, Result<()>)> = Vec::new();
    for (name, step) in STEPS.iter().filter(|(name, _)| wanted(name)) {
        println!("\n== {name}");
        let started = Instant::now();
        let result = step();
        if let Err(error) = &result {
            println!("FAILED: {name}: {error:#}");
        }
        results.push((name, started.elapsed(), result));
    }
    println!();
    for (name, took, result) in &results {
        let verdict = if result.is_ok() { "ok    " } else { "FAILED" };
        println!("{verdict} {:5.0} s  {name}", took.as_secs_f64());
    }
    let failed = results
        .iter()
        .filter(|(_, _, result)| result.is_err())
        .count();
    if failed != 0 {
        bail!(
            "{failed} of {} steps failed; what they said is above",
            results.len()
        );
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    run_command(command(arguments))
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(bundle::workspace());
    command
}

fn run_command(mut command: Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("running {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// The queue's index code under loom, which replaces its atomics: a build of its own.
fn model_check() -> Result<()> {
    let mut loom = command(&[
        "test",
        "--package",
        "vgpu-ring",
        "--release",
        "--test",
        "loom",
    ]);
    loom.env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", bundle::target_folder()?.join("loom"));
    run_command(loom)
}

/// Licences, bans and sources by deny.toml. Advisories are left out: they need a database from elsewhere.
fn licences() -> Result<()> {
    run_command({
        let mut deny = Command::new(setup::cargo_deny()?);
        deny.args(["--offline", "check", "licenses", "bans", "sources"])
            .current_dir(bundle::workspace());
        deny
    })
}
