//! vgpu-backd: the backend domain's daemon.

use anyhow::Context;
use clap::Parser;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use vgpu_backd::daemon::{self, Options};
use vgpu_backd::gpu::Sharing;
use vgpu_backd::limits::Limits;
use vgpu_backd::worker::{Launcher, User};
use vgpu_backd::{Error, config};
use vgpu_sched::PolicyKind;
use xen::PlatformSpec;

/// Shares this domain's GPU with guests.
///
/// A domain that has a file NAME.toml in the configuration folder, NAME being its name or UUID, gets a
/// vgpu device when it starts; xl-vgpu attach gives one by hand. Each CUDA process of a guest has a
/// worker process here.
#[derive(Parser)]
#[command(name = "vgpu-backd", version)]
struct Arguments {
    /// Where Xen is: "device", or "local:DIR" with a domain's folder of a running xen-local
    #[arg(long, env = "XEN_VGPU_PLATFORM", default_value = "device")]
    platform: PlatformSpec,
    /// The folder of the domains' files
    #[arg(long, value_name = "DIR", default_value = config::DIR)]
    config_dir: PathBuf,
    /// The folder of the admin socket, backd.sock
    #[arg(long, value_name = "DIR", default_value = "/run/xen-vgpu")]
    run_dir: PathBuf,
    /// The worker's program [default: vgpu-worker beside this program]
    #[arg(long, value_name = "PATH")]
    worker: Option<PathBuf>,
    /// Whom workers run as, if this runs as root; "root" leaves them as they are
    #[arg(long, value_name = "USER", default_value = "nobody")]
    worker_user: String,
    /// The CUDA driver that workers use: a path, or a name for the loader
    #[arg(long, value_name = "LIBRARY", default_value = "libcuda.so.1")]
    driver: String,
    /// Most channels of a domain: one for each of its CUDA processes
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_channels: u32,
    /// Most channels of all domains together
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_channels_total: u32,
    /// Most pages of 4 KiB that are mapped from a domain
    #[arg(long, value_name = "PAGES", default_value_t = 65536)]
    max_pages: u32,
    /// Most pages of 4 KiB that are mapped from all domains together
    #[arg(long, value_name = "PAGES", default_value_t = 196_608)]
    max_pages_total: u32,
    /// How domains share a GPU; xl-vgpu policy changes it while they run. One of fifo, rr, credit,
    /// xen-credit, gdev-credit, band, sla-feedback, cosched, augc, fair
    #[arg(long, value_name = "POLICY", default_value = "fair")]
    policy: PolicyKind,
    /// How long a domain's work may keep a GPU without end before its program is ended, from 2 s; without
    /// this, as long as it likes
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=86400))]
    longest_turn: Option<u64>,
    /// Raise a domain's weight under Xen's scheduler by so much while its work is on a GPU or next there, so that its
    /// programs are there when it ends; without this, leave it
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    cpu_boost: Option<u32>,
    /// What to log, as "info" or "vgpu_backd=debug"
    #[arg(
        long,
        value_name = "FILTER",
        env = "XEN_VGPU_LOG",
        default_value = "info"
    )]
    log: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_new(&arguments.log).context("--log")?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(filter)
        .init();
    // Before any thread is started.
    let stop = vgpu_protocol::wait::stop_signal().context("cannot wait for SIGTERM")?;
    let program = match arguments.worker {
        Some(path) => path,
        None => std::env::current_exe()
            .context("cannot find the worker")?
            .with_file_name("vgpu-worker"),
    };
    let user = match arguments.worker_user.as_str() {
        "root" => None,
        name if rustix::process::geteuid().is_root() => {
            Some(User::named(name).context("--worker-user")?)
        }
        _ => None,
    };
    let options = Options {
        platform: arguments.platform,
        config_dir: arguments.config_dir,
        admin_socket: arguments.run_dir.join("backd.sock"),
        launcher: Launcher {
            program,
            driver: arguments.driver,
            user,
        },
        per_domain: Limits {
            channels: arguments.max_channels,
            pages: arguments.max_pages,
        },
        total: Limits {
            channels: arguments.max_channels_total,
            pages: arguments.max_pages_total,
        },
        sharing: Sharing {
            policy: arguments.policy,
            longest: arguments.longest_turn.map(Duration::from_secs),
        },
        cpu_boost: arguments.cpu_boost,
        cpu_boosts: arguments.run_dir.join("boost.json"),
    };
    daemon::run(&options, stop.as_fd()).map_err(|error: Error| error.into())
}
