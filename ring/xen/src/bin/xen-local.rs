//! xen-local: domains without a hypervisor, on one machine.
//!
//! `serve` stands in for Xen and xenstored; the other commands are a small toolstack that talks to
//! a running server as a process in dom0 would. They do nothing that only this program could do.

use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::{io, ptr};

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use xen::DomId;
use xen::local::domain_folder;
use xen::local::hypervisor::Limits;
use xen::local::schedule::{Domain, Schedule, Vcpu};
use xen::local::server::Server;
use xen::local::toolstack::Toolstack;
use xen::platform::{Error, Result};

/// Domains without a hypervisor: XenStore, grants and event channels on one machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Folder {
    /// The folder that is served; domain N's sockets are in DIR/domN
    #[arg(long, value_name = "DIR", default_value = "/run/xen-local")]
    dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT; prints a line when ready
    Serve {
        #[command(flatten)]
        folder: Folder,
        /// How many pages of 4 KiB each domain may grant at a time
        #[arg(long, value_name = "PAGES", default_value_t = Limits::default().granted_pages)]
        grant_limit: u32,
    },
    /// Make a domain and print its domid
    Create {
        #[command(flatten)]
        folder: Folder,
        /// The domain's name
        name: String,
    },
    /// End a domain
    Destroy {
        #[command(flatten)]
        folder: Folder,
        /// Its name or domid
        domain: String,
    },
    /// End a domain and start it under its new domid, which is printed
    Reboot {
        #[command(flatten)]
        folder: Folder,
        /// Its name or domid
        domain: String,
    },
    /// List the domains
    List {
        #[command(flatten)]
        folder: Folder,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what a hypervisor's scheduler would know of domains; without an option, print it
    ///
    /// Nothing is scheduled by it here: it is what the backend's policies go by that look at the hypervisor.
    Sched {
        #[command(flatten)]
        folder: Folder,
        /// The domain's name or domid; all domains if there is none
        #[arg(short, long, value_name = "DOMAIN")]
        domain: Option<String>,
        /// Its weight
        #[arg(short, long, value_name = "N", requires = "domain", value_parser = clap::value_parser!(u16).range(1..))]
        weight: Option<u16>,
        /// Its cap in percent of one processor; 0 for none
        #[arg(short, long, value_name = "PERCENT", requires = "domain")]
        cap: Option<u16>,
        /// Its virtual processors, one option each: running, runnable, blocked or offline, and with :N how many
        /// nanoseconds it has run
        #[arg(long, value_name = "STATE[:N]", requires = "domain")]
        vcpu: Vec<Vcpu>,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("XEN_VGPU_LOG").unwrap_or_else(|_| "info".into()))
        .with_writer(io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xen-local: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve {
            folder,
            grant_limit,
        } => {
            // Before the server's threads start, which inherit the mask.
            let stop = termination().map_err(|source| Error::Io {
                operation: "waiting for SIGTERM and SIGINT".into(),
                source,
            })?;
            let limits = Limits {
                granted_pages: grant_limit,
            };
            let server = Server::new(&folder.dir, limits)?;
            print(&format!(
                "xen-local: ready, domain 0 is {}",
                domain_folder(&folder.dir, DomId(0)).display()
            ))?;
            server.run(stop)
        }
        Command::Create { folder, name } => {
            print(&Toolstack::open(&folder.dir)?.create(&name)?.to_string())
        }
        Command::Destroy { folder, domain } => {
            let toolstack = Toolstack::open(&folder.dir)?;
            toolstack.destroy(toolstack.find(&domain)?)
        }
        Command::Reboot { folder, domain } => {
            let toolstack = Toolstack::open(&folder.dir)?;
            print(&toolstack.reboot(toolstack.find(&domain)?)?.to_string())
        }
        Command::List { folder, json } => {
            let domains = Toolstack::open(&folder.dir)?.list()?;
            if json {
                let text = serde_json::to_string_pretty(&domains).map_err(io::Error::from);
                return print(&text.map_err(output_failed)?);
            }
            print(&format!("{:>5}  {:36}  NAME", "DOMID", "UUID"))?;
            for domain in domains {
                print(&format!(
                    "{:>5}  {:36}  {}",
                    domain.domid,
                    domain.uuid.as_deref().unwrap_or("-"),
                    domain.name.as_deref().unwrap_or("-")
                ))?;
            }
            Ok(())
        }
        Command::Sched {
            folder,
            domain,
            weight,
            cap,
            vcpu,
        } => {
            let toolstack = Toolstack::open(&folder.dir)?;
            let path = Schedule::path(&folder.dir);
            let chosen = domain.map(|domain| toolstack.find(&domain)).transpose()?;
            if let Some(domid) = chosen
                && (weight.is_some() || cap.is_some() || !vcpu.is_empty())
            {
                return Schedule::change(&path, |schedule| {
                    let domain = schedule.domain_mut(domid);
                    domain.weight = weight.unwrap_or(domain.weight);
                    domain.cap = cap.unwrap_or(domain.cap);
                    if !vcpu.is_empty() {
                        domain.vcpus = vcpu;
                    }
                    Ok(())
                });
            }
            let schedule = Schedule::read(&path)?;
            print(&format!(
                "{:>5}  {:>6}  {:>4}  NAME",
                "DOMID", "WEIGHT", "CAP"
            ))?;
            for domain in toolstack.list()? {
                if chosen.is_some_and(|domid| domid != domain.domid) {
                    continue;
                }
                let Domain { weight, cap, .. } = schedule.domain(domain.domid);
                let name = domain.name.as_deref().unwrap_or("-");
                print(&format!(
                    "{:>5}  {weight:>6}  {cap:>4}  {name}",
                    domain.domid
                ))?;
            }
            Ok(())
        }
    }
}

fn print(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(output_failed)
}

fn output_failed(source: io::Error) -> Error {
    Error::Io {
        operation: "writing to standard output".into(),
        source,
    }
}

/// A descriptor that is readable once SIGTERM or SIGINT has come, which then no longer kill us.
fn termination() -> io::Result<OwnedFd> {
    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before the other calls read it, and signalfd returns
    // a descriptor that nobody else owns, or -1.
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGINT);
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        match libc::signalfd(-1, signals.as_ptr(), libc::SFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}
