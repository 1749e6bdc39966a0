//! `cargo xtask xen-test` and `cargo xtask xen-shell`: the lab, for tests and for a person.
//! What is tested is in tests/lab/scenarios; here it is only built, put into the machine and counted.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use xen_lab::{Guest, GuestType, Lab, Options, SCENARIOS, Scenario, Show};

use crate::{bundle, setup};

/// Test on the real Xen hypervisor, with real guests, all in QEMU's software CPU.
#[derive(Parser)]
pub struct TestArguments {
    /// The guests, which run at the same time.
    #[arg(long = "guest", value_delimiter = ',', default_value = "pv,pvh")]
    guests: Vec<GuestType>,
    /// Only these scenarios; without this, all but those that measure shares, which need an idle machine.
    #[arg(long = "scenario", value_parser = scenario)]
    scenarios: Vec<Scenario>,
    /// Print the whole console.
    #[arg(short, long)]
    verbose: bool,
    /// Give up after so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// A prompt in dom0 on the real Xen hypervisor, to try xl and xl-vgpu. Ctrl-a x ends it.
#[derive(clap::Args)]
pub struct ShellArguments {
    /// The guests to start first.
    #[arg(long = "guest", value_delimiter = ',', default_value = "pv,pvh")]
    guests: Vec<GuestType>,
}

/// Scenarios that measure shares of time. In a software CPU that has to wait for the host's, they would measure that.
const MEASURES: [&str; 1] = ["xen-credit"];

/// The lab as `cargo xtask test` runs it. QEMU's emulation of a processor that runs guests is not faultless: what fails is
/// tried once more on a machine that is started anew, and said so.
pub fn test_default() -> Result<()> {
    let arguments = TestArguments::parse_from(["xen-test"]);
    test(&arguments).or_else(|error| {
        println!("{error:#}\nthe lab failed; once more, on a machine that is started anew");
        test(&arguments)
    })
}

pub fn test(arguments: &TestArguments) -> Result<()> {
    let scenarios: Vec<Scenario> = match arguments.scenarios.as_slice() {
        [] => SCENARIOS
            .iter()
            .filter(|all| !MEASURES.contains(&all.name))
            .copied()
            .collect(),
        chosen => chosen.to_vec(),
    };
    let scenarios = scenarios.as_slice();
    setup::ensure()?;
    let defaults = Options::default();
    let mut lab = Lab::new(Options {
        // With one CPU an HVM guest and dom0 stand still in the conformance suite; why is not known.
        cpus: match arguments.guests.contains(&GuestType::Hvm) {
            true => 2,
            false => defaults.cpus,
        },
        show: if arguments.verbose {
            Show::Console
        } else {
            Show::Checks
        },
        timeout: Duration::from_secs(arguments.timeout),
        ..defaults
    })?;
    if scenarios
        .iter()
        .any(|scenario| scenario.name == "conformance")
    {
        let built = bundle::cargo_build(&["xen"])?;
        let conformance = bundle::find(&built, "xen-conformance")?;
        for image in [&mut lab.dom0, &mut lab.guest] {
            image.program("/usr/bin/xen-conformance", conformance)?;
        }
    }
    if scenarios
        .iter()
        .any(|scenario| ["split-driver", "xen-credit"].contains(&scenario.name))
    {
        let product = bundle::build()?;
        lab.install(&product.backend, &product.guest)?;
    }
    for scenario in scenarios {
        println!("{}: {}", scenario.name, scenario.about);
    }
    let outcome = lab.run(scenarios, &Guest::of(&arguments.guests))?;
    let [boot, total, cpu] =
        [outcome.boot, outcome.total, outcome.cpu].map(|time| time.as_secs_f64());
    println!(
        "dom0 was up after {boot:.0} s, all was over after {total:.0} s, for {cpu:.0} s of CPU"
    );
    if !outcome.success() && !arguments.verbose {
        println!("the console:\n{}", outcome.console.join("\n"));
    }
    println!(
        "{} passed, {} failed",
        outcome.passed.len(),
        outcome.failed.len()
    );
    if !outcome.success() {
        bail!(
            "the tests on real Xen failed:\n{}",
            outcome.failed.join("\n")
        );
    }
    Ok(())
}

pub fn shell(arguments: &ShellArguments) -> Result<()> {
    setup::ensure()?;
    let product = bundle::build()?;
    let mut lab = Lab::new(Options::default())?;
    lab.install(&product.backend, &product.guest)?;
    println!(
        "real Xen is starting; dom0's prompt takes about half a minute. Ctrl-a x ends it at any time."
    );
    lab.shell(&Guest::of(&arguments.guests))
}

fn scenario(name: &str) -> Result<Scenario> {
    SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .copied()
        .with_context(|| {
            let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            format!(
                "there is no scenario '{name}'; there are {}",
                names.join(", ")
            )
        })
}
