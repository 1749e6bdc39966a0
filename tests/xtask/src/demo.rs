//! `cargo xtask demo`: the product on this machine, from nothing to verified results.
//! Two domains of the local platform run the CUDA programs through the split driver, alone and at the
//! same time, beside the same programs directly on the device. It must never need a Xen host or a GPU.

use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use vgpu_e2e::{Bundle, Driver, Guest, Host, gpu};

use crate::{bundle, setup};

/// Run the CUDA programs in two domains on this machine: no Xen and no GPU needed.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print the result as one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Use softcuda although there is an NVIDIA GPU.
    #[arg(long)]
    softcuda: bool,
}

/// The programs, as GPU-virtualization papers use them.
pub const PROGRAMS: [&str; 5] = [
    "vectorAdd",
    "matrixMul",
    "BlackScholes",
    "scalarProd",
    "histogram",
];

/// What a program reports with `--json`.
#[derive(Clone, Debug, Deserialize)]
struct Report {
    device: String,
    problem: String,
    ok: bool,
    checksum: String,
    times_ms: Times,
}

#[derive(Clone, Debug, Deserialize)]
struct Times {
    total: f64,
}

/// One program's line of the result.
#[derive(Debug, Serialize)]
struct Line {
    program: &'static str,
    problem: String,
    /// Milliseconds on the device itself: the median of several runs, as is the next.
    direct_ms: f64,
    /// Milliseconds through the split driver, with the device to itself.
    split_ms: f64,
    /// Milliseconds in each guest while both run it.
    shared_ms: [f64; 2],
    /// Whether every run verified its result and all results are the same bits.
    verified: bool,
}

/// How long any one program may take.
const LIMIT: Duration = Duration::from_secs(180);

pub fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    setup::demo()?;
    let built = bundle::build()?;
    let driver = if arguments.softcuda {
        Driver::Softcuda
    } else {
        gpu()
    };
    let mut host = Host::start(&Bundle::at(built.root), driver)?;
    let guests = [host.guest("alpha")?, host.guest("beta")?];
    let bar = ProgressBar::new(PROGRAMS.len() as u64).with_style(
        ProgressStyle::with_template("{bar:20} {pos}/{len} {msg}").context("a progress bar")?,
    );
    let (mut lines, mut device) = (Vec::new(), String::new());
    for program in PROGRAMS {
        bar.set_message(program);
        let (line, used) = measure(&host, &guests, program)?;
        lines.push(line);
        device = used;
        bar.inc(1);
    }
    bar.finish_and_clear();
    for guest in guests {
        host.destroy(guest)?;
    }
    host.check_clean()?;
    let verified = lines.iter().all(|line| line.verified);
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({ "device": device, "verified": verified, "programs": lines })
        );
    } else {
        print_table(&device, &lines, started.elapsed());
    }
    if !verified {
        bail!("a program's result is wrong: see the table");
    }
    Ok(())
}

/// How often each program runs alone, directly and in a guest in turns; the median counts.
const RUNS: usize = 5;

fn measure(host: &Host, guests: &[Guest; 2], program: &'static str) -> Result<(Line, String)> {
    let (mut direct, mut split) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        direct.push(report(&mut host.direct(program))?);
        split.push(report(&mut host.in_guest(&guests[0], program))?);
    }
    let both = thread::scope(|scope| {
        guests
            .each_ref()
            .map(|guest| scope.spawn(|| report(&mut host.in_guest(guest, program))))
            .map(|run| {
                run.join()
                    .unwrap_or_else(|_| bail!("a run of {program} panicked"))
            })
    });
    let [first, second] = both;
    let shared = [first?, second?];
    let Report {
        device,
        problem,
        checksum,
        ..
    } = direct[0].clone();
    let verified = [&direct[..], &split, &shared]
        .concat()
        .iter()
        .all(|report| report.ok && report.checksum == checksum);
    let line = Line {
        program,
        problem,
        direct_ms: median(&direct),
        split_ms: median(&split),
        shared_ms: shared.map(|report| report.times_ms.total),
        verified,
    };
    Ok((line, device))
}

fn median(reports: &[Report]) -> f64 {
    let mut totals: Vec<f64> = reports.iter().map(|report| report.times_ms.total).collect();
    totals.sort_by(f64::total_cmp);
    totals[totals.len() / 2]
}

fn report(command: &mut std::process::Command) -> Result<Report> {
    let output = vgpu_e2e::run(command.arg("--json"), LIMIT)?;
    let parsed = serde_json::from_str(&output.stdout);
    parsed.with_context(|| said(output.status, &output.stderr))
}

fn said(status: ExitStatus, stderr: &str) -> String {
    format!(
        "the program ended with {status} and said: {}",
        stderr.trim()
    )
}

fn print_table(device: &str, lines: &[Line], took: Duration) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "program",
        "problem",
        "direct, ms",
        "split driver, ms",
        "ratio",
        "alpha with beta, ms",
        "beta with alpha, ms",
        "results",
    ]);
    for line in lines {
        table.add_row([
            line.program.to_owned(),
            line.problem.clone(),
            format!("{:.1}", line.direct_ms),
            format!("{:.1}", line.split_ms),
            format!("{:.2}", line.split_ms / line.direct_ms),
            format!("{:.1}", line.shared_ms[0]),
            format!("{:.1}", line.shared_ms[1]),
            if line.verified {
                "verified, all equal"
            } else {
                "WRONG"
            }
            .to_owned(),
        ]);
    }
    for column in 2..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    println!(
        "Device: {device}. Each program ran directly on it and in domain alpha through the split driver, {RUNS} times in\n\
         turns (medians), then in alpha and beta at the same time. Nothing of the domains is left. All of it took {:.0} s.",
        took.as_secs_f64()
    );
}
