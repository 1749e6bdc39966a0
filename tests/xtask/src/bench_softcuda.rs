//! `cargo xtask bench softcuda`: softcuda's kernels beside the same algorithms in plain Rust, with and without
//! vectorised warps, and how long it takes to load a module beside how long the compiler took to write it. All are
//! measured in turns in one run, and the results of both sides must be equal. It measures; nothing passes or fails.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use cuda_samples::ptx;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::{bundle, setup};

/// Measure softcuda's kernels beside the same algorithms in plain Rust on all cores.
#[derive(clap::Args)]
pub struct Arguments {
    /// How often each is measured; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print the result as one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

/// What the benchmark program prints for a kernel.
#[derive(Debug, Deserialize)]
struct Figure {
    what: String,
    size: String,
    device_ms: Vec<f64>,
    plain_ms: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Kernel {
    what: String,
    size: String,
    plain_ms: f64,
    softcuda_ms: f64,
    /// How many times as long as plain Rust, measured side by side.
    ratio: f64,
    /// With one thread at a time instead of vectorised warps.
    scalar_ms: f64,
    /// How many times as fast vectorised warps are.
    gain: f64,
}

#[derive(Debug, Serialize)]
struct Load {
    /// Lines of PTX.
    lines: usize,
    /// In a fresh process, nothing kept on disk.
    cold_ms: f64,
    /// In a fresh process, its code kept on disk by an earlier one.
    kept_ms: f64,
    /// The compiler's time from the source to the PTX.
    clang_ms: f64,
    /// Cold, as a part of the compiler's time.
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    processor: String,
    cores: usize,
    kernels: Vec<Kernel>,
    geometric_mean: f64,
    load: Load,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::kernels()?;
    let built = bundle::cargo_build(&["softcuda", "softcuda-bench"])?;
    let program = bundle::find(&built, "softcuda-bench")?;
    let folder = bundle::target_folder()?.join("softcuda-bench");
    std::fs::create_dir_all(&folder)?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = folder.join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(bundle::find(&built, "softcuda")?, &link)
            .with_context(|| format!("making {}", link.display()))?;
    }
    let bench = |settings: &[(&str, &str)], arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("LD_LIBRARY_PATH", &folder)
            .envs(settings.iter().copied());
        vgpu_e2e::run(&mut command, Duration::from_secs(900))?.success()
    };

    let bar = ProgressBar::new(u64::from(arguments.rounds) * 3);
    let (mut vector, mut scalar) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        for (wide, all) in [("1", &mut vector), ("0", &mut scalar)] {
            let settings = [("SOFTCUDA_WIDE", wide), ("SOFTCUDA_CACHE", "0")];
            let output = bench(&settings, &["kernels", "--rounds", "1"])?;
            all.push(serde_json::from_str::<Vec<Figure>>(&output).context(output)?);
            bar.inc(1);
        }
    }
    let kernels = kernels(&vector, &scalar);
    let load = load(arguments.rounds, &folder, bench, &bar)?;
    bar.finish_and_clear();
    let report = Report {
        processor: processor(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        geometric_mean: geometric_mean(kernels.iter().map(|kernel| kernel.ratio)),
        kernels,
        load,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn print(report: &Report) {
    println!("{}, {} cores\n", report.processor, report.cores);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "kernel",
        "size",
        "plain Rust, ms",
        "softcuda, ms",
        "times",
        "without vectors, ms",
        "vectors gain",
    ]);
    for kernel in &report.kernels {
        table.add_row([
            kernel.what.clone(),
            kernel.size.clone(),
            format!("{:.1}", kernel.plain_ms),
            format!("{:.1}", kernel.softcuda_ms),
            format!("{:.2}", kernel.ratio),
            format!("{:.1}", kernel.scalar_ms),
            format!("{:.2}", kernel.gain),
        ]);
    }
    for column in 2..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!(
        "{table}\ngeometric mean: {:.2} times plain Rust\n",
        report.geometric_mean
    );
    let Load {
        lines,
        cold_ms,
        kept_ms,
        clang_ms,
        ratio,
    } = &report.load;
    println!(
        "loading {lines} lines of PTX: {cold_ms:.1} ms cold, {kept_ms:.1} ms kept on disk; \
         clang wrote them in {clang_ms:.1} ms: {ratio:.2} times that"
    );
}

/// Loads the large module in fresh processes, and has the compiler write it, in turns.
fn load(
    rounds: u32,
    folder: &Path,
    bench: impl Fn(&[(&str, &str)], &[&str]) -> Result<String>,
    bar: &ProgressBar,
) -> Result<Load> {
    let source = bundle::workspace().join("tests/softbench/kernels/large.cu");
    let file = folder.join("large.ptx");
    let cache = folder.join("cache");
    let cache = cache.to_string_lossy();
    let (mut cold, mut kept, mut clang) = (Vec::new(), Vec::new(), Vec::new());
    let mut lines = 0;
    for round in 0..=rounds {
        let start = Instant::now();
        let text = ptx::compile(&source)?;
        let compiled = start.elapsed().as_secs_f64() * 1e3;
        lines = text.lines().count();
        std::fs::write(&file, text)?;
        let file = file.to_string_lossy();
        let loaded = |cache: &str| -> Result<f64> {
            let output = bench(&[("SOFTCUDA_CACHE", cache)], &["load", &file])?;
            output
                .trim()
                .parse()
                .with_context(|| format!("a time was expected, not {output}"))
        };
        let (without, with) = (loaded("0")?, loaded(&cache)?);
        // The first round fills the caches: the compiler's files', and the one on disk.
        if round > 0 {
            clang.push(compiled);
            cold.push(without);
            kept.push(with);
            bar.inc(1);
        }
    }
    let (cold_ms, clang_ms) = (median(cold), median(clang));
    Ok(Load {
        lines,
        cold_ms,
        kept_ms: median(kept),
        clang_ms,
        ratio: cold_ms / clang_ms,
    })
}

/// One line a kernel. Ratios are medians of each round's own ratio: the two sides of a round ran one after
/// the other, and a noisy neighbour met both.
fn kernels(vector: &[Vec<Figure>], scalar: &[Vec<Figure>]) -> Vec<Kernel> {
    let Some(first) = vector.first() else {
        return Vec::new();
    };
    (0..first.len())
        .map(|at| {
            let of = |rounds: &[Vec<Figure>], pick: fn(&Figure) -> &Vec<f64>| -> Vec<f64> {
                let figures = rounds.iter().filter_map(|round| round.get(at));
                figures.flat_map(|figure| pick(figure).clone()).collect()
            };
            let device = of(vector, |figure| &figure.device_ms);
            let plain = of(vector, |figure| &figure.plain_ms);
            let scalar = of(scalar, |figure| &figure.device_ms);
            let ratios = |over: &[f64], under: &[f64]| {
                median(
                    over.iter()
                        .zip(under)
                        .map(|(over, under)| over / under)
                        .collect(),
                )
            };
            Kernel {
                what: first[at].what.clone(),
                size: first[at].size.clone(),
                ratio: ratios(&device, &plain),
                gain: ratios(&scalar, &device),
                plain_ms: median(plain),
                softcuda_ms: median(device),
                scalar_ms: median(scalar),
            }
        })
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| {
        (sum + value.ln(), count + 1.0)
    });
    (sum / count).exp()
}

/// What the kernel calls this processor.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| {
        line.strip_prefix("model name")?
            .split_once(':')
            .map(|(_, name)| name.trim())
    });
    name.unwrap_or("a processor without a name").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_medians() {
        assert!((geometric_mean([1.0, 4.0, 16.0].into_iter()) - 4.0).abs() < 1e-12);
        assert_eq!(median(vec![900.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn a_kernels_ratio_is_the_median_of_the_rounds_own() {
        let round = |device: f64, plain: f64| {
            vec![Figure {
                what: "x".into(),
                size: "1".into(),
                device_ms: vec![device],
                plain_ms: vec![plain],
            }]
        };
        // In the second round the machine was ten times as slow for both.
        let vector = [round(2.0, 1.0), round(30.0, 10.0), round(4.0, 1.0)];
        let scalar = [round(8.0, 1.0), round(60.0, 10.0), round(8.0, 1.0)];
        let kernels = kernels(&vector, &scalar);
        assert_eq!((kernels[0].ratio, kernels[0].gain), (3.0, 2.0));
    }
}
