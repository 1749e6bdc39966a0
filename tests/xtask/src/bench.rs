//! `cargo xtask bench`: what the split driver costs, as ratios to the driver itself.
//! Both are measured in turns in one run, since this or any shared machine is noisy. It measures; nothing here passes
//! or fails.

use std::time::Duration;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use vgpu_e2e::{Bundle, Driver, Host, gpu};

use crate::{bench_softcuda, bundle, setup};

/// Measure what calls cost through the split driver, beside the driver itself.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// How often both are measured; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print the result as one JSON array instead of a table.
    #[arg(long)]
    json: bool,
    /// Use softcuda although there is an NVIDIA GPU.
    #[arg(long)]
    softcuda: bool,
}

/// What else can be measured.
#[derive(clap::Subcommand)]
enum What {
    Softcuda(bench_softcuda::Arguments),
}

/// One figure of call-bench.
#[derive(Clone, Debug, Deserialize)]
struct Figure {
    what: String,
    unit: String,
    value: f64,
}

#[derive(Debug, Serialize)]
struct Line {
    what: String,
    unit: String,
    direct: f64,
    split: f64,
    /// How many times as much time the split driver takes.
    ratio: f64,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(What::Softcuda(arguments)) = &arguments.what {
        return bench_softcuda::run(arguments);
    }
    setup::demo()?;
    let product = bundle::build()?;
    let bench = bundle::cargo_build(&["vgpu-e2e"])?;
    let bench = bundle::find(&bench, "call-bench")?;
    let driver = if arguments.softcuda {
        Driver::Softcuda
    } else {
        gpu()
    };
    let mut host = Host::start(&Bundle::at(product.root), driver)?;
    let guest = host.guest("bench")?;
    let bar = ProgressBar::new(u64::from(arguments.rounds) * 2);
    let (mut direct, mut split) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        for (library, all) in [
            (host.driver_libcuda(), &mut direct),
            (host.guest_libcuda(), &mut split),
        ] {
            let mut command = std::process::Command::new(bench);
            command.arg(library);
            host.guest_environment(&guest, &mut command);
            let output = vgpu_e2e::run(&mut command, Duration::from_secs(300))?.success()?;
            all.push(serde_json::from_str::<Vec<Figure>>(&output).context(output)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    host.destroy(guest)?;
    host.check_clean()?;
    let lines = lines(&direct, &split);
    if arguments.json {
        println!("{}", serde_json::to_string(&lines)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "",
        "unit",
        "direct",
        "split driver",
        "times the time",
    ]);
    for line in lines {
        table.add_row([
            line.what,
            line.unit,
            format!("{:.2}", line.direct),
            format!("{:.2}", line.split),
            format!("{:.2}", line.ratio),
        ]);
    }
    for column in 2..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    Ok(())
}

/// The median of each figure over the rounds.
fn medians(rounds: &[Vec<Figure>]) -> Vec<Figure> {
    let Some(first) = rounds.first() else {
        return Vec::new();
    };
    first
        .iter()
        .enumerate()
        .map(|(at, figure)| {
            let mut values: Vec<f64> = rounds
                .iter()
                .filter_map(|round| round.get(at).map(|figure| figure.value))
                .collect();
            values.sort_by(f64::total_cmp);
            Figure {
                value: values[values.len() / 2],
                ..figure.clone()
            }
        })
        .collect()
}

fn lines(direct: &[Vec<Figure>], split: &[Vec<Figure>]) -> Vec<Line> {
    let pairs = medians(direct).into_iter().zip(medians(split));
    pairs
        .map(|(direct, split)| Line {
            ratio: if direct.unit == "GB/s" {
                direct.value / split.value
            } else {
                split.value / direct.value
            },
            what: direct.what,
            unit: direct.unit,
            direct: direct.value,
            split: split.value,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(unit: &str, value: f64) -> Figure {
        Figure {
            what: "x".into(),
            unit: unit.into(),
            value,
        }
    }

    #[test]
    fn the_ratio_is_of_times_and_of_the_medians() {
        let rounds = |unit: &str, values: [f64; 3]| values.map(|value| vec![figure(unit, value)]);
        let slower = lines(
            &rounds("µs", [1.0, 2.0, 900.0]),
            &rounds("µs", [6.0, 0.1, 6.0]),
        );
        assert_eq!(slower[0].ratio, 3.0);
        let half = lines(
            &rounds("GB/s", [8.0, 8.0, 8.0]),
            &rounds("GB/s", [4.0, 4.0, 4.0]),
        );
        assert_eq!(half[0].ratio, 2.0);
    }
}
