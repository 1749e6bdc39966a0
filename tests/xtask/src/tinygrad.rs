//! `cargo xtask tinygrad`: a third party's framework, which writes PTX of its own, trains small networks on softcuda,
//! directly and through the split driver, and on its own CPU backend. The losses must be the same numbers, save for
//! rounding. Nothing of tinygrad is in this repository: pip fetches it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use vgpu_e2e::{Bundle, Driver, Host};

use crate::{bundle, setup};

/// Train small networks with tinygrad on its CPU backend, on softcuda and through the split driver.
#[derive(clap::Args)]
pub struct Arguments {
    /// Steps of training.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Print the result as one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// How far a loss may be from the CPU backend's: a part of it, and what is always allowed. Both compute in single
/// precision, but add in different orders, and training carries the differences on.
const RELATIVE: f64 = 1e-4;
const ABSOLUTE: f64 = 1e-5;

/// How long training may take on one device.
const LIMIT: Duration = Duration::from_secs(600);

/// What train.py prints.
#[derive(Debug, Deserialize)]
struct Trained {
    device: String,
    networks: Vec<Network>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Network {
    network: String,
    losses: Vec<f64>,
    accuracy: f64,
    seconds: f64,
}

/// A network on a device.
#[derive(Debug, Serialize)]
struct Line {
    on: &'static str,
    #[serde(flatten)]
    trained: Network,
    /// The largest difference of a loss from the CPU backend's, relative to that.
    difference: f64,
    /// Whether all losses are near enough and the accuracy is equal.
    same: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::demo()?;
    let python = setup::python()?;
    let built = bundle::build()?;
    let mut host = Host::start(&Bundle::at(built.root), Driver::Softcuda)?;
    let guest = host.guest("tinygrad")?;
    let command = |device: &str| {
        let mut command = Command::new(&python);
        command
            .arg(bundle::workspace().join("tests/third-party/tinygrad/train.py"))
            .arg(arguments.steps.to_string())
            .env("DEV", device)
            // The compiler of the CPU backend, by the name that Debian gives it.
            .env("CC", "clang-14")
            // Nothing is kept between runs, nor below the person's home.
            .env("CACHELEVEL", "0");
        command
    };
    let cpu = command("CPU");
    let mut direct = command("CUDA:PTX");
    host.direct_environment(&mut direct);
    let mut split = command("CUDA:PTX");
    host.guest_environment(&guest, &mut split);
    // Kernels one by one: the split driver carries no graphs.
    split.env("JIT", "2");
    let runs = [
        ("CPU", "tinygrad's CPU backend", cpu),
        ("CUDA", "softcuda", direct),
        ("CUDA", "softcuda through the split driver", split),
    ];
    let bar = ProgressBar::new(runs.len() as u64);
    let mut results = Vec::new();
    for (device, on, command) in runs {
        let trained = train(command, &python).with_context(|| format!("training on {on}"))?;
        if trained.device != device {
            bail!("tinygrad trained on {} instead of {device}", trained.device);
        }
        results.push((on, trained.networks));
        bar.inc(1);
    }
    bar.finish_and_clear();
    host.destroy(guest)?;
    host.check_clean()?;
    let lines = lines(results)?;
    let same = lines.iter().all(|line| line.same);
    if arguments.json {
        println!("{}", serde_json::json!({ "same": same, "runs": lines }));
    } else {
        print_table(&lines, arguments.steps);
    }
    if !same {
        bail!("the numbers differ: see above");
    }
    Ok(())
}

/// The step of `cargo xtask test`.
pub fn test() -> Result<()> {
    run(&Arguments {
        steps: 60,
        json: false,
    })
}

fn train(mut command: Command, python: &Path) -> Result<Trained> {
    let output = vgpu_e2e::run(&mut command, LIMIT)?.success()?;
    // tinygrad may have something to say before the last line.
    let last = output.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("{} printed {output}", python.display()))
}

/// Every run's networks beside the first run's.
fn lines(results: Vec<(&'static str, Vec<Network>)>) -> Result<Vec<Line>> {
    let reference: Vec<(Vec<f64>, f64)> = results
        .first()
        .map(|(_, networks)| networks)
        .into_iter()
        .flatten()
        .map(|network| (network.losses.clone(), network.accuracy))
        .collect();
    let mut lines = Vec::new();
    for (on, networks) in results {
        if networks.len() != reference.len() {
            bail!("{on}: {} networks were trained", networks.len());
        }
        for (trained, (losses, accuracy)) in networks.into_iter().zip(&reference) {
            let pairs = || trained.losses.iter().zip(losses);
            let difference = pairs()
                .map(|(got, want)| (got - want).abs() / want.abs())
                .fold(0.0, f64::max);
            let near = |got: f64, want: f64| (got - want).abs() <= RELATIVE * want.abs() + ABSOLUTE;
            let same = trained.losses.len() == losses.len()
                && pairs().all(|(&got, &want)| near(got, want))
                && trained.accuracy.to_bits() == accuracy.to_bits();
            lines.push(Line {
                on,
                trained,
                difference,
                same,
            });
        }
    }
    Ok(lines)
}

fn print_table(lines: &[Line], steps: u32) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "network",
        "on",
        "first loss",
        "middle",
        "last",
        "accuracy",
        "largest difference",
        "s",
        "numbers",
    ]);
    for line in lines {
        let Network {
            network,
            losses,
            accuracy,
            seconds,
        } = &line.trained;
        let loss = |at: usize| {
            losses
                .get(at)
                .map_or_else(String::new, |loss| format!("{loss:.6}"))
        };
        table.add_row([
            network.clone(),
            line.on.to_owned(),
            loss(0),
            loss(losses.len() / 2),
            loss(losses.len().saturating_sub(1)),
            format!("{:.1} %", 100.0 * accuracy),
            format!("{:.1e}", line.difference),
            format!("{seconds:.1}"),
            if line.same { "the same" } else { "DIFFERENT" }.to_owned(),
        ]);
    }
    for column in 2..=7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    println!(
        "{steps} steps. A loss is the same within {RELATIVE:.0e} of the CPU backend's plus {ABSOLUTE:.0e}; differences are relative."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(losses: &[f64], accuracy: f64) -> Vec<Network> {
        vec![Network {
            network: "n".into(),
            losses: losses.to_vec(),
            accuracy,
            seconds: 1.0,
        }]
    }

    #[test]
    fn numbers_are_the_same_within_the_tolerance_and_no_further() {
        let judge = |losses: &[f64], accuracy| {
            let runs = vec![
                ("a", network(&[1.0, 1e-4], 0.5)),
                ("b", network(losses, accuracy)),
            ];
            lines(runs).unwrap()[1].same
        };
        assert!(judge(&[1.0, 1e-4], 0.5));
        assert!(judge(&[1.000_05, 1.05e-4], 0.5));
        assert!(!judge(&[1.000_2, 1e-4], 0.5));
        assert!(!judge(&[1.0, 1.2e-4], 0.5));
        assert!(!judge(&[f64::NAN, 1e-4], 0.5));
        assert!(!judge(&[1.0], 0.5));
        assert!(!judge(&[1.0, 1e-4], 0.75));
    }
}
