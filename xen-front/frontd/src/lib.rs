//! The guest's end of the XenBus device: opens a channel for every CUDA process.
//!
//! [`device`] is the XenBus frontend, one thread that steps the state machine; [`control`] the control
//! ring to the backend; [`clients`] the programs: a Unix socket and a thread for each. frontd is not on
//! the path of any CUDA call: once a program has its channel, it talks to its worker alone.

pub mod clients;
pub mod control;
pub mod device;

use std::path::PathBuf;
use vgpu_ring::Layout;
use xen::PlatformSpec;

/// What frontd is told on its command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where Xen is.
    pub platform: PlatformSpec,
    /// Where programs reach us.
    pub socket: PathBuf,
    /// Which of the domain's vgpu devices is ours.
    pub devid: u32,
    /// The rings and the arena of each channel; the arena shrinks where the domain may not grant as much.
    pub layout: Layout,
    /// Most programs of one user at once.
    pub programs_per_user: u32,
    /// What the limit of the xen-gntalloc module is raised to, in pages.
    pub gntalloc_limit: u32,
}

/// Why frontd ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Xen or XenStore failed.
    #[error(transparent)]
    Xen(#[from] xen::Error),
    /// XenStore failed.
    #[error(transparent)]
    Store(#[from] xen::store::StoreError),
    /// The socket for programs could not be made.
    #[error(
        "cannot listen at {path}: {source}; is another vgpu-frontd running, and may this user write there?"
    )]
    Listen {
        /// Where.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// Something of the system's failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The error.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::System { what, source }
    }
}
