//! xl-vgpu: attaches, detaches and lists vgpu devices by hand, with the code that backd uses, and shows
//! and sets how domains share the GPUs.
//!
//! It writes a device's nodes in XenStore and reads what both ends show there; what runs on a device
//! and on the GPUs it asks backd. It must never follow a path or trust a text that a guest wrote.

mod attach;
mod backd;
mod check;
mod detach;
mod device;
mod domain;
mod failure;
mod list;
mod share;

use clap::{ArgGroup, Args, Parser, Subcommand};
use failure::Failure;
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use vgpu_protocol::admin::{self, ShareChange};
use vgpu_protocol::keys::{Domain, list_domains};
use vgpu_sched::description::{SIZES, parse_size};
use xen::{DomId, PlatformSpec, Store};

/// Gives guests a vgpu device, takes it away, shows who has one and how they share the GPUs.
///
/// It is run by root in dom0. Guests that a file in /etc/xen-vgpu/domains.d names get their device
/// from vgpu-backd; this is for all others, and for guests that are running already.
#[derive(Parser)]
#[command(name = "xl-vgpu", version, after_help = EXIT_STATUS)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  it failed, and the text says why
  2  the arguments make no sense
  3  there is no such domain or device
  4  attach: the domain has the device already
  5  attach: the device is attached, but an end of it did not answer in time
  6  check: the files are good, but a domain would not be let in now";

#[derive(Args)]
struct Options {
    /// Where Xen is: "device", or "local:DIR" with dom0's folder of a running xen-local
    #[arg(
        long,
        global = true,
        env = "XEN_VGPU_PLATFORM",
        default_value = "device"
    )]
    platform: PlatformSpec,
    /// Where vgpu-backd's admin socket is
    #[arg(long, global = true, value_name = "DIR", default_value = admin_dir())]
    run_dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Give a domain a vgpu device
    Attach {
        /// Its domid, UUID or name
        domain: String,
        /// The device's number among the domain's vgpu devices
        #[arg(long, value_name = "N", default_value_t = 0)]
        devid: u32,
        /// The domain that vgpu-backd runs in
        #[arg(long, value_name = "DOMID", default_value_t = DomId(0))]
        backend: DomId,
        /// Wait until both ends are connected; without this, 10 s for the backend alone
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u32>,
    },
    /// Take a domain's vgpu device away; programs that use it get an error
    Detach {
        /// Its domid, UUID or name; a domain that is gone has its domid alone
        domain: String,
        /// The device's number among the domain's vgpu devices
        #[arg(long, value_name = "N", default_value_t = 0)]
        devid: u32,
        /// How long the two ends may take to close the device before it is removed all the same
        #[arg(long, value_name = "SECONDS", default_value_t = 15)]
        wait: u32,
        /// Remove it without asking the two ends to close it first
        #[arg(long)]
        force: bool,
    },
    /// List the vgpu devices and what runs on them
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what each domain has had of the GPUs
    Stats {
        /// Print JSON; with --watch, a line each time
        #[arg(long)]
        json: bool,
        /// Show it again each second until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Show the policy by which domains share the GPUs, or put another in force
    Policy {
        /// This GPU alone
        #[arg(long, value_name = "N")]
        gpu: Option<u32>,
        /// The policy from now on; nothing that waits or runs is lost
        policy: Option<String>,
    },
    /// Change what a domain has of its GPUs until it ends; what is not named stays
    #[command(group = ArgGroup::new("change").required(true).multiple(true))]
    Set {
        /// Its domid, UUID or name
        domain: String,
        /// Its part against the others'
        #[arg(long, value_name = "N", group = "change", value_parser = clap::value_parser!(u32).range(1..=65535))]
        weight: Option<u32>,
        /// The most that it may use even if nobody else wants it, in percent of one GPU; 0: all
        #[arg(long, value_name = "PERCENT", group = "change", value_parser = clap::value_parser!(u32).range(0..=100))]
        cap: Option<u32>,
        /// The wait for the GPU that it can bear, in milliseconds; 0: any
        #[arg(long, value_name = "MS", group = "change", value_parser = clap::value_parser!(u32).range(0..=60000))]
        latency_ms: Option<u32>,
        /// The part of each of its GPUs that it has whatever others want, in percent; 0: none. Where it is not to be
        /// had nothing is changed
        #[arg(long, value_name = "PERCENT", group = "change", value_parser = clap::value_parser!(u32).range(0..=100))]
        guaranteed: Option<u32>,
        /// The most of each GPU's memory that its programs together may have allocated, as 2G or in bytes; 0: all.
        /// Kept free for it while something is guaranteed. What they have stays theirs
        #[arg(long, value_name = "SIZE", group = "change", value_parser = memory)]
        memory: Option<u64>,
    },
    /// Say whether domains' files are good, and whether their domains would be let in now
    Check {
        /// Files as in /etc/xen-vgpu/domains.d, NAME.toml
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write what the GPUs do from now on, a line of JSON for each batch of work
    Record {
        /// For how long
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86400))]
        seconds: u32,
        /// Where to; without this, standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// What every command works with.
struct Context {
    store: Store,
    /// The domain we are in.
    here: DomId,
    /// All domains, in order.
    domains: Vec<Domain>,
    /// backd's admin socket.
    socket: PathBuf,
}

impl Context {
    fn open(options: Options) -> Result<Context, Failure> {
        let platform = options.platform.open()?;
        let store = platform.store()?;
        Ok(Context {
            here: platform.domid()?,
            domains: list_domains(&store)?,
            store,
            socket: options.run_dir.join(admin_file()),
        })
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("XEN_VGPU_LOG").unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note(&failure);
            ExitCode::from(failure.status())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    if let Command::Check { files, json } = &cli.command {
        // Files can be checked where no Xen is.
        return check::run(&cli.options.run_dir.join(admin_file()), files, *json);
    }
    let context = Context::open(cli.options)?;
    match cli.command {
        Command::Check { .. } => Ok(()),
        Command::Attach {
            domain,
            devid,
            backend,
            wait,
        } => {
            let wait = wait.map(|seconds| Duration::from_secs(seconds.into()));
            attach::run(&context, &domain, devid, backend, wait)
        }
        Command::Detach {
            domain,
            devid,
            wait,
            force,
        } => {
            let wait = (!force).then(|| Duration::from_secs(wait.into()));
            detach::run(&context, &domain, devid, wait)
        }
        Command::List { json } => list::run(&context, json),
        Command::Stats { json, watch } => share::stats(&context, json, watch),
        Command::Policy { gpu, policy } => share::policy(&context, gpu, policy),
        Command::Set {
            domain,
            weight,
            cap,
            latency_ms,
            guaranteed,
            memory,
        } => {
            let share = ShareChange {
                weight,
                cap,
                latency_ms,
                guaranteed,
                memory,
            };
            share::set(&context, &domain, share)
        }
        Command::Record { seconds, out } => share::record(&context, seconds, out.as_deref()),
    }
}

/// A memory quota, or 0 for none.
fn memory(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        text => parse_size(text).ok_or_else(|| format!("it is {SIZES}; or 0 for none")),
    }
}

/// Prints a line of the result.
fn print(line: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Tells people something that is not the result.
fn note(text: impl Display) {
    // Where standard error is closed, nobody wants to know.
    let _ = writeln!(std::io::stderr(), "xl-vgpu: {text}");
}

/// A text that others wrote, fit for a line on a terminal.
fn printable(text: &str) -> String {
    vgpu_protocol::control::printable(text.as_bytes(), 200)
}

/// The folder of [`admin::SOCKET`].
fn admin_dir() -> &'static str {
    admin::SOCKET.rsplit_once('/').map_or("/", |(dir, _)| dir)
}

/// The file name of [`admin::SOCKET`].
fn admin_file() -> &'static str {
    admin::SOCKET
        .rsplit_once('/')
        .map_or(admin::SOCKET, |(_, file)| file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_admin_socket_is_where_backd_listens() {
        assert_eq!(format!("{}/{}", admin_dir(), admin_file()), admin::SOCKET);
    }

    #[test]
    fn what_others_wrote_cannot_drive_a_terminal() {
        let shown = printable("\x1b[2Jdb\r\n\u{9b}1m ü");
        assert_eq!(shown, "\u{fffd}[2Jdb\u{fffd}\u{fffd}\u{fffd}1m ü");
        assert_eq!(printable(&"x".repeat(5000)).len(), 200);
    }
}
