//! The backend domain's daemon: XenBus backend, device admission, one worker per guest process.
//!
//! [`daemon`] sees domains come and go and gives each its device; [`device`] is one device's thread,
//! which steps the state machine and serves the control ring; [`channels`] the channels of a device and
//! their workers; [`worker`] one worker process; [`gpu`] who may use a GPU
//! when; [`placement`] which domain is on which GPU, and with what. Nothing that a guest does may end this process: an
//! error ends that guest's channel or device.

pub mod admin;
pub mod channels;
pub mod config;
pub mod cpu;
pub mod daemon;
pub mod device;
pub mod gpu;
pub mod limits;
pub mod placement;
pub mod worker;

use std::path::PathBuf;

/// Why backd ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Xen or XenStore failed.
    #[error(transparent)]
    Xen(#[from] xen::Error),
    /// XenStore failed.
    #[error(transparent)]
    Store(#[from] xen::store::StoreError),
    /// The hypervisor's scheduler cannot be asked.
    #[error(transparent)]
    Hypervisor(#[from] vgpu_hypervisor::Error),
    /// The admin socket could not be made.
    #[error(
        "cannot listen at {path}: {source}; is another vgpu-backd running, and may this user write there?"
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
