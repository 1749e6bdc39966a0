//! vgpu-frontd: the guest's end of the XenBus device.

use anyhow::Context;
use clap::Parser;
use std::os::fd::AsFd;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;
use vgpu_frontd::{Options, device};
use vgpu_ring::Layout;
use xen::PlatformSpec;

/// Gives every CUDA program of this guest a channel to the GPU.
///
/// It waits for the vgpu device that the backend's domain gives this guest, and listens for programs,
/// which reach it through libcuda.so.1. It needs /dev/xen/gntalloc, /dev/xen/evtchn and XenStore.
#[derive(Parser)]
#[command(name = "vgpu-frontd", version)]
struct Arguments {
    /// Where Xen is: "device", or "local:DIR" with a domain's folder of a running xen-local
    #[arg(long, env = "XEN_VGPU_PLATFORM", default_value = "device")]
    platform: PlatformSpec,
    /// The socket to listen at; programs find it there, or by XEN_VGPU_SOCKET
    #[arg(long, value_name = "PATH", default_value = vgpu_protocol::guest::SOCKET)]
    socket: PathBuf,
    /// Which of this domain's vgpu devices to use
    #[arg(long, default_value_t = 0)]
    devid: u32,
    /// Bytes of a program's submission ring: a power of two from 4096
    #[arg(long, value_name = "BYTES", default_value_t = 256 * 1024)]
    sq: u32,
    /// Bytes of a program's completion ring: a power of two from 4096
    #[arg(long, value_name = "BYTES", default_value_t = 64 * 1024)]
    cq: u32,
    /// Bytes of a program's arena, through which bulk data goes: a multiple of 4096. Smaller where
    /// this domain cannot grant as much
    #[arg(long, value_name = "BYTES", default_value_t = 4 * 1024 * 1024)]
    arena: u32,
    /// Most programs of one user at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    programs_per_user: u32,
    /// What to raise the xen-gntalloc module's limit to, in pages of 4 KiB
    #[arg(long, value_name = "PAGES", default_value_t = 65536)]
    gntalloc_limit: u32,
    /// What to log, as "info" or "vgpu_frontd=debug"
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
    let options = Options {
        platform: arguments.platform,
        socket: arguments.socket,
        devid: arguments.devid,
        layout: Layout::new(arguments.sq, arguments.cq, arguments.arena)?,
        programs_per_user: arguments.programs_per_user,
        gntalloc_limit: arguments.gntalloc_limit,
    };
    device::run(&options, stop.as_fd())?;
    Ok(())
}
