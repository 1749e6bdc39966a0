//! Who may use an accelerator next: policies, accounts and caps, as pure code on a virtual clock.
//!
//! A [`Scheduler`] is told what happens (work arrives, work ends and took so long) and answers whom to let
//! on the device. It never looks at a clock, a file or a device: the caller gives the time of every event,
//! so the same code runs in vgpu-backd and in the [`sim`]ulator, and an experiment with ten thousand
//! domains takes seconds.
//!
//! ```
//! use vgpu_sched::{Decision, DomainId, PolicyKind, Scheduler, Settings, Share, Used};
//!
//! let mut scheduler = Scheduler::new(PolicyKind::Fair.make(), Settings::default());
//! let guest = DomainId(0);
//! scheduler.insert(0, guest, Share::default());
//! // At 1,000 ns it asks for three kernels' turns.
//! scheduler.arrived(1_000, guest, 3);
//! let Decision::Run(grant) = scheduler.decide(1_000) else {
//!     unreachable!("nobody else wants the device");
//! };
//! // It is told its turn, runs two kernels in it, and reports. The third it asks for again.
//! let used = Used::span(5_000, 905_000, 2);
//! assert_eq!(scheduler.complete(910_000, grant.number, used), 900_000);
//! scheduler.set_waiting(910_000, guest, 1);
//! assert_eq!(scheduler.account(guest).map(|account| account.launches), Some(2));
//! assert!(matches!(scheduler.decide(910_000), Decision::Run(_)));
//! ```
//!
//! The currency is measured device time. The device is not preemptive: what was let on it runs to its end,
//! so every promise here holds up to one piece of work, and what a domain took too much it pays back.

mod account;
pub mod admission;
pub mod description;
pub mod metrics;
pub mod policy;
mod scheduler;
pub mod sim;
pub mod trace;

pub use account::Account;
pub use policy::{Pick, Policy, PolicyKind};
pub use scheduler::{Decision, Grant, Limits, Scheduler, Settings, Used};

/// A time or a duration on the virtual clock, in nanoseconds.
pub type Nanos = u64;

/// Nanoseconds in a microsecond.
pub const MICROSECOND: Nanos = 1_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND: Nanos = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: Nanos = 1_000_000_000;

/// The weight of a domain that has none of its own, as Xen's credit scheduler has it.
pub const DEFAULT_WEIGHT: u32 = 256;

/// The two resources of an accelerator that are shared apart: each has a [`Scheduler`] of its own. (Gdev's
/// multi-resource queues: a domain that copies while another computes holds nobody up.)
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Kernels, and what runs like them: memsets, copies within the device.
    #[default]
    Compute,
    /// Copies between host and device.
    Copy,
}

/// A domain on one accelerator. The caller chooses the numbers; small ones keep tables small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainId(pub u32);

/// What a domain is entitled to on one accelerator.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Share {
    /// Its part of the device is its weight over the sum of the weights of those who want it: 1 to 65,535.
    pub weight: u32,
    /// The most of the device that it may use even if nobody else wants it, in percent of one device.
    pub cap: Option<u32>,
    /// The wait for the device that it can bear when it comes back from idling. It is let on before
    /// others as far as that does not cost them their share.
    pub latency: Option<Nanos>,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            weight: DEFAULT_WEIGHT,
            cap: None,
            latency: None,
        }
    }
}

/// What the hypervisor says about a domain's processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CpuState {
    /// Its weight under Xen's scheduler.
    pub weight: u32,
    /// Its cap in percent of one processor, if it has one.
    pub cap: Option<u32>,
    /// Whether a virtual processor of it runs at the moment.
    pub running: bool,
    /// Processor time used so far.
    pub used: Nanos,
}
