//! vgpu-fairness: runs the fairness experiments and writes their report. `cargo xtask fairness` builds what it needs
//! and runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use vgpu_e2e::{Bundle, Driver, gpu};
use vgpu_fairness::campaign::{Outcome, Plan};
use vgpu_fairness::experiment::Experiment;
use vgpu_fairness::experiments::{self, scale};
use vgpu_fairness::{Place, Setup, report};
use vgpu_sched::{Nanos, PolicyKind};

/// Runs the fairness experiments, and writes a report with plots and tables
#[derive(Parser)]
#[command(name = "vgpu-fairness", version)]
struct Arguments {
    /// Only this experiment; may be given several times
    #[arg(long, value_name = "NAME", value_parser = experiment)]
    experiment: Vec<Chosen>,
    /// Only this policy; may be given several times
    #[arg(long, value_name = "NAME")]
    policy: Vec<PolicyKind>,
    /// Where to run: real programs through the split driver, the simulator, or both
    #[arg(long = "where", value_name = "real|sim|both", default_value = "both", value_parser = places)]
    places: Places,
    /// Every policy for real, too: without this, only those that an experiment is about
    #[arg(long)]
    all: bool,
    /// How long each run takes
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// A quarter of the time
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// Equal seeds draw equal times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the domains share: an NVIDIA GPU where there is one, else softcuda
    #[arg(long, value_enum)]
    driver: Option<DriverName>,
    /// Where the report goes
    #[arg(
        long,
        value_name = "DIR",
        default_value = "target/fairness",
        overrides_with = "out"
    )]
    out: PathBuf,
    /// The product, as `cargo xtask bundle` lays it out
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Print all results as one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// List the experiments and policies
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum DriverName {
    Softcuda,
    Nvidia,
}

/// An experiment that runs domains, or the one of thousands of them.
#[derive(Clone, Copy)]
enum Chosen {
    Domains(&'static dyn Experiment),
    Scale,
}

#[derive(Clone)]
struct Places(Vec<Place>);

fn experiment(name: &str) -> Result<Chosen, String> {
    if name == scale::NAME {
        return Ok(Chosen::Scale);
    }
    let found = experiments::ALL
        .into_iter()
        .find(|experiment| experiment.name() == name);
    found.map(Chosen::Domains).ok_or_else(|| {
        let names = experiments::ALL.map(Experiment::name);
        format!("there are {} and {}", names.join(", "), scale::NAME)
    })
}

fn places(name: &str) -> Result<Places, anyhow::Error> {
    Ok(Places(match name {
        "both" => vec![Place::Real, Place::Sim],
        one => vec![one.parse()?],
    }))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vgpu-fairness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for experiment in experiments::ALL {
            println!("{:20} {}", experiment.name(), experiment.about());
        }
        println!("{:20} {}", scale::NAME, scale::ABOUT);
        let policies = PolicyKind::ALL.map(PolicyKind::name);
        println!("policies: {}", policies.join(", "));
        return Ok(());
    }
    let chosen = &arguments.experiment;
    let plan = Plan {
        experiments: match chosen.is_empty() {
            true => experiments::ALL.to_vec(),
            false => {
                let domains = chosen.iter().filter_map(|chosen| match chosen {
                    Chosen::Domains(experiment) => Some(*experiment),
                    Chosen::Scale => None,
                });
                domains.collect()
            }
        },
        scale: chosen.is_empty() || chosen.iter().any(|one| matches!(one, Chosen::Scale)),
        policies: arguments.policy.clone(),
        all: arguments.all,
        places: arguments.places.0.clone(),
        duration: arguments.seconds.map(|s| s as Nanos * vgpu_sched::SECOND),
        quick: arguments.quick,
        seed: arguments.seed,
        setup: Setup {
            bundle: arguments.bundle.clone().map(Bundle::at),
            driver: match arguments.driver {
                Some(DriverName::Softcuda) => Driver::Softcuda,
                Some(DriverName::Nvidia) => Driver::Nvidia,
                None => gpu(),
            },
        },
    };
    let outcome = plan.run()?;
    let file = report::write(&outcome, &arguments.out)?;
    if arguments.json {
        println!("{}", report::summary(&outcome));
    } else {
        print(&outcome);
        println!("The report with all plots: {}", file.display());
    }
    if !outcome.failed.is_empty() {
        bail!(
            "{} runs failed: {}",
            outcome.failed.len(),
            outcome.failed.join("; ")
        );
    }
    Ok(())
}

fn print(outcome: &Outcome) {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(["what", "where", "wanted", "measured", ""]);
    for claim in outcome.claims() {
        table.add_row([
            &claim.what,
            &claim.place.to_string(),
            &claim.wanted,
            &claim.measured,
            report::verdict(claim),
        ]);
    }
    for column in [2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    for (title, items) in [("Left out", &outcome.left_out), ("Failed", &outcome.failed)] {
        for item in items {
            println!("{title}: {item}");
        }
    }
    let runs: usize = outcome.done.iter().map(|done| done.judged.len()).sum();
    println!(
        "{runs} runs in {:.0} s; load average {:.2} before, {:.2} after.",
        outcome.took.as_secs_f64(),
        outcome.machine.load.0,
        outcome.machine.load.1
    );
}
