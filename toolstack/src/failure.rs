//! Why a command did not do what was asked, and the exit status that says so. The texts end with what
//! to do next.

use crate::backd::BackdError;
use crate::device::Ends;
use std::path::PathBuf;
use std::time::Duration;
use vgpu_protocol::keys::{DeviceError, DeviceId};
use xen::DomId;
use xen::store::StoreError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No domain has this domid, UUID or name.
    #[error("there is no domain '{wanted}'; there are: {known}")]
    NoDomain {
        /// What was asked for.
        wanted: String,
        /// The domains that there are.
        known: String,
    },
    /// Several domains have this name.
    #[error("several domains are called '{name}': {domids}; say which by its domid")]
    Ambiguous {
        /// The name.
        name: String,
        /// Their numbers.
        domids: String,
    },
    /// A domain cannot serve itself.
    #[error("domain {0} cannot be its own backend; name a guest, or another --backend")]
    OwnBackend(DomId),
    /// The domain has no such device.
    #[error("{domain} has no vgpu device {devid}; {known}")]
    NoDevice {
        /// The domain, for people.
        domain: String,
        /// The device's number.
        devid: u32,
        /// What devices there are.
        known: String,
    },
    /// It is there.
    #[error("{domain} has vgpu device {devid} already ({ends}); xl-vgpu detach takes it away")]
    Attached {
        /// The domain, for people.
        domain: String,
        /// The device's number.
        devid: u32,
        /// What its ends show.
        ends: Ends,
    },
    /// An end did not answer.
    #[error("{device} is attached, but after {} s it shows {ends}; {advice}", .waited.as_secs())]
    Unanswered {
        /// The device.
        device: DeviceId,
        /// How long it had.
        waited: Duration,
        /// What its ends show.
        ends: Ends,
        /// What to do about it.
        advice: String,
    },
    /// Somebody else removed the device.
    #[error("{0} was removed while it was waited for: its domain ended, or it was detached")]
    Removed(DeviceId),
    /// The device could not be made.
    #[error(transparent)]
    Device(DeviceError),
    /// XenStore refused or failed.
    #[error("{}{}", .0, where_to_run(.0))]
    Store(#[from] StoreError),
    /// Xen is not there, or does not let us in.
    #[error(transparent)]
    Platform(xen::Error),
    /// The system refused to let us wait.
    #[error("cannot wait for the device: {0}")]
    Wait(std::io::Error),
    /// backd does not answer, or refuses.
    #[error("vgpu-backd at {socket}: {source}{}", where_backd_is(.source))]
    Backd {
        /// Where it was asked.
        socket: PathBuf,
        /// What it said.
        source: BackdError,
    },
    /// There is no such GPU.
    #[error("there is no GPU {gpu}: vgpu-backd has {count}, from 0")]
    NoGpu {
        /// Which was asked for.
        gpu: u32,
        /// How many there are.
        count: usize,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Files are wrong; what was printed says how.
    #[error("{wrong} of the files cannot be used")]
    WrongFiles {
        /// How many.
        wrong: usize,
    },
    /// Files are good, and there is no room; what was printed says for what.
    #[error(
        "{refused} of the domains would not be let in now; each is when what it lacks has become free"
    )]
    NoRoom {
        /// How many.
        refused: usize,
    },
    /// The result could not be printed.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
}

impl Failure {
    /// The process's exit status.
    pub fn status(&self) -> u8 {
        match self {
            Failure::NoDomain { .. }
            | Failure::NoDevice { .. }
            | Failure::Device(DeviceError::NoDomain(_)) => 3,
            Failure::Attached { .. } | Failure::Device(DeviceError::OtherBackend { .. }) => 4,
            Failure::Unanswered { .. } => 5,
            Failure::NoRoom { .. } => 6,
            Failure::Ambiguous { .. }
            | Failure::OwnBackend(_)
            | Failure::Removed(_)
            | Failure::Device(DeviceError::Store(_))
            | Failure::Store(_)
            | Failure::Platform(_)
            | Failure::Wait(_)
            | Failure::Backd { .. }
            | Failure::NoGpu { .. }
            | Failure::File { .. }
            | Failure::WrongFiles { .. }
            | Failure::Output(_) => 1,
        }
    }
}

impl From<xen::Error> for Failure {
    fn from(error: xen::Error) -> Failure {
        match error {
            xen::Error::Store(error) => Failure::Store(error),
            error => Failure::Platform(error),
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Failure {
        match error {
            DeviceError::Store(error) => Failure::Store(error),
            error => Failure::Device(error),
        }
    }
}

/// A socket's errors do not know who should listen.
fn where_backd_is(error: &BackdError) -> &'static str {
    match error {
        BackdError::Io(_) => {
            "; start vgpu-backd on this machine, or name its folder with --run-dir; run xl-vgpu as root"
        }
        _ => "",
    }
}

/// XenStore's errors do not know that this program belongs in dom0.
fn where_to_run(error: &StoreError) -> &'static str {
    use rustix::io::Errno;
    let denied = match error {
        StoreError::Connect { source, .. } => source.kind() == std::io::ErrorKind::PermissionDenied,
        error => matches!(error.errno(), Some(Errno::ACCESS | Errno::PERM)),
    };
    if denied {
        "; run xl-vgpu as root in dom0"
    } else {
        ""
    }
}
