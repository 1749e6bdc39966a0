//! vgpu-worker: serves one guest process. vgpu-backd starts it; it is not for hands.

use clap::Parser;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use vgpu_protocol::backend::WORKER_FD;

/// Runs one guest process's CUDA calls. Started by vgpu-backd, which hands it the channel as
/// descriptor 3.
#[derive(Parser)]
#[command(version)]
struct Arguments {}

fn main() -> ExitCode {
    Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(
            EnvFilter::try_from_env("XEN_VGPU_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .init();
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
