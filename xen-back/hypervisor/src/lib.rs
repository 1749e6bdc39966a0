//! What the hypervisor's scheduler knows of domains: weights, caps and virtual processors, for policies that look at
//! processors and accelerator together.
//!
//! One trait, [`Hypervisor`], and what stands behind it: [`ctrl`], Xen's libxenctrl loaded at run time, and [`local`],
//! a file of the local platform. It must never keep anything of its own about a domain: each call asks anew, since a
//! domain's number may come again and people change weights when they like.

pub mod ctrl;
pub mod local;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use xen::{DomId, PlatformSpec};

/// Schedulers of Xen that have weights (`XEN_SCHEDULER_*` in `public/domctl.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// The first credit scheduler.
    Credit,
    /// The second, which is Xen's default.
    Credit2,
}

impl Scheduler {
    /// As xl and Xen's command line name it.
    pub fn name(self) -> &'static str {
        match self {
            Scheduler::Credit => "credit",
            Scheduler::Credit2 => "credit2",
        }
    }
}

/// What a domain is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The scheduler that it is under: each pool of processors has its own.
    pub scheduler: Scheduler,
    /// Its weight: 1 to 65,535, and 256 unless somebody has changed it.
    pub weight: u16,
    /// Its cap in percent of one processor, if it has one.
    pub cap: Option<u16>,
}

/// One virtual processor at the moment of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpu {
    /// The domain uses it.
    pub online: bool,
    /// It waits for an event.
    pub blocked: bool,
    /// It is on a processor.
    pub running: bool,
    /// Processor time that it has used.
    pub cpu_time: Duration,
}

/// A hypervisor's scheduler, as a process of the privileged domain sees it.
pub trait Hypervisor: Send + std::fmt::Debug {
    /// What it is, for messages: a library's path, a file's.
    fn name(&self) -> String;

    /// What a domain is entitled to.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::NoWeights`], or what the hypervisor said.
    fn parameters(&self, domid: DomId) -> Result<Parameters, Error>;

    /// Changes a domain's weight and leaves its cap.
    ///
    /// # Errors
    /// As [`Hypervisor::parameters`].
    fn set_weight(&self, domid: DomId, weight: u16) -> Result<(), Error>;

    /// One of a domain's virtual processors, which are numbered from 0; `None` if it has no such one.
    ///
    /// # Errors
    /// [`Error::NoDomain`], or what the hypervisor said.
    fn vcpu(&self, domid: DomId, number: u32) -> Result<Option<Vcpu>, Error>;
}

/// The hypervisor of a platform.
///
/// # Errors
/// There is none, or no way to it from here: the text says what to do.
pub fn open(platform: &PlatformSpec) -> Result<Box<dyn Hypervisor>, Error> {
    Ok(match platform {
        PlatformSpec::Device => Box::new(ctrl::LibXenCtrl::open()?),
        PlatformSpec::Local(folder) => Box::new(local::LocalFile::open(folder)?),
    })
}

/// Why the hypervisor's scheduler could not be asked. Each text ends with what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Linux knows of no Xen.
    #[error(
        "cannot read Xen's version from {path}: {source}; this takes the domain that Xen's toolstack runs in"
    )]
    NoXen {
        /// What was to be read.
        path: PathBuf,
        /// Why it could not be.
        source: io::Error,
    },
    /// No libxenctrl could be loaded.
    #[error("{library} cannot be loaded: {reason}; {INSTALL}")]
    NoLibrary {
        /// Which was wanted.
        library: String,
        /// What the loader said.
        reason: String,
    },
    /// A library lacks a function.
    #[error(
        "{library} has no function {symbol}: it is no libxenctrl of Xen 4.17 or newer; {INSTALL}"
    )]
    NoFunction {
        /// Which library.
        library: String,
        /// Which function.
        symbol: &'static str,
    },
    /// libxenctrl cannot reach the hypervisor.
    #[error(
        "{library} cannot reach the hypervisor: {source}; this takes root, and the kernel module xen-privcmd"
    )]
    NoInterface {
        /// Which library.
        library: String,
        /// What the system said.
        source: io::Error,
    },
    /// libxenctrl and hypervisor are of different versions.
    #[error("{library} is not of the running Xen's version; {INSTALL}")]
    OtherVersion {
        /// Which library.
        library: String,
    },
    /// The hypervisor does not let this domain ask.
    #[error(
        "{call} was refused: only the domain that Xen's toolstack runs in may ask about others; run vgpu-backd there, or use another policy"
    )]
    Denied {
        /// What was called.
        call: &'static str,
    },
    /// There is no such domain.
    #[error("there is no domain {domid}")]
    NoDomain {
        /// Its number.
        domid: DomId,
    },
    /// A scheduler without weights.
    #[error(
        "domain {domid} is under a scheduler of Xen's that has no weights; start Xen with sched=credit2, or use another policy"
    )]
    NoWeights {
        /// The domain.
        domid: DomId,
    },
    /// The hypervisor refused in another way.
    #[error("{call} for domain {domid}: {source}; `xl dmesg` may say more")]
    Call {
        /// What was called.
        call: &'static str,
        /// The domain.
        domid: DomId,
        /// What it said.
        source: io::Error,
    },
    /// The local platform's file.
    #[error(transparent)]
    Local(#[from] xen::Error),
}

/// What to do about a library that does not fit.
const INSTALL: &str = "install the libraries of the running Xen's tools (libxenmisc4.NN on Debian, where xl is they are too)";
