//! vgpu-worker: serves one guest process. vgpu-backd starts it; it is not for hands.

use clap::Parser;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use vgpu_protocol::backend::WORKER_FD;

/// Runs one guest process's CUDA calls. Started by vgpu-backd, which hands it the channel as
/// descriptor 3.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Print the devices of the driver as JSON, and serve nobody
    #[arg(long, requires = "driver")]
    probe: bool,
    /// The CUDA driver to look at: a path, or a name for the loader
    #[arg(long, value_name = "LIBRARY", requires = "probe")]
    driver: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(
            EnvFilter::try_from_env("XEN_VGPU_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .init();
    if let Some(driver) = arguments.driver {
        return probe(&driver);
    }
    // SAFETY: only asks for a descriptor's flags.
    if unsafe { libc::fcntl(WORKER_FD, libc::F_GETFD) } == -1 {
        eprintln!(
            "vgpu-worker: descriptor {WORKER_FD} is not open; vgpu-backd starts workers, there is no need to do it by hand"
        );
        return ExitCode::FAILURE;
    }
    // SAFETY: the descriptor is open, and nothing else in this process has it.
    let socket = unsafe { OwnedFd::from_raw_fd(WORKER_FD) };
    let ended = vgpu_worker::serve::run(socket);
    if let Err(error) = &ended {
        tracing::info!(%error, "the worker ends");
    }
    // SAFETY: ends the process at once. Other threads may be inside the driver, whose destructors would
    // wait for a kernel of the guest's that perhaps never ends.
    unsafe { libc::_exit(i32::from(ended.is_err())) }
}

fn probe(driver: &Path) -> ExitCode {
    let printed = match vgpu_worker::probe::devices(driver) {
        // What there is to print can be written as JSON.
        Ok(devices) => serde_json::to_string(&devices)
            .map_err(std::io::Error::from)
            .and_then(|text| writeln!(std::io::stdout(), "{text}")),
        Err(error) => Err(std::io::Error::other(error)),
    };
    if let Err(error) = printed {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
