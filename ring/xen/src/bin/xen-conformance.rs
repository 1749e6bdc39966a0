//! xen-conformance: the platform's conformance suite, run by two domains with each other.
//!
//! Started in both domains, in any order; they meet in XenStore (in `data` of each). It
//! prints a line a check and leaves nothing behind, unless it is killed.

#[path = "../../tests/conformance/mod.rs"]
mod conformance;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use conformance::{Outcome, Role, Session};
use tracing_subscriber::EnvFilter;
use xen::{DomId, PlatformSpec};

/// Checks grants, event channels and XenStore between two domains.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Domains {
    /// Where Xen is: device, or local:DIR with the folder of a domain of a running xen-local
    #[arg(long, default_value_t)]
    platform: PlatformSpec,
    /// The other domain
    #[arg(long, value_name = "DOMID")]
    peer: DomId,
    /// Run only checks whose name contains this text; the other domain must be told the same
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

#[derive(Subcommand)]
enum Command {
    /// Be the backend domain, which may be dom0
    Backend(Domains),
    /// Be the frontend domain, a guest
    Frontend(Domains),
    /// A second process of a domain, as the suite starts it
    #[command(hide = true)]
    Child,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let result = match Cli::parse().command {
        Command::Backend(domains) => run(Role::Backend, domains),
        Command::Frontend(domains) => run(Role::Frontend, domains),
        Command::Child => conformance::child::run().map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xen-conformance: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the suite and says whether all of it passed.
fn run(role: Role, domains: Domains) -> Outcome<bool> {
    let program = std::env::current_exe()?;
    let session = Session::begin(domains.platform, role, domains.peer, program)?;
    let (mut passed, mut failed) = (0, 0);
    for (number, check) in conformance::checks().iter().enumerate() {
        if !check.name.contains(&domains.only) {
            continue;
        }
        let verdict = session.run(number, check)?;
        if verdict.passed() {
            passed += 1;
            println!("ok      {}", verdict.name);
            continue;
        }
        failed += 1;
        println!("FAILED  {}", verdict.name);
        if let Err(error) = verdict.own {
            println!("        here: {error}");
        }
        if verdict.theirs != "ok" {
            println!("        there: {}", verdict.theirs);
        }
    }
    session.end()?;
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}
