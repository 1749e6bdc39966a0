//! What came of one experiment under one policy in one place: every piece of work of every domain, by clocks that
//! the scheduler has no part in. Facts only; judging them is the analysis's.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use vgpu_sched::trace::Work;
use vgpu_sched::{Nanos, PolicyKind};

use crate::domain::Domain;

/// Where an experiment runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Real programs through the split driver on a device.
    Real,
    /// The simulator.
    Sim,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Place::Real => "real",
            Place::Sim => "sim",
        })
    }
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "real" => Ok(Place::Real),
            "sim" => Ok(Place::Sim),
            _ => bail!("an experiment runs in real or sim, not in {name:?}"),
        }
    }
}

/// A piece of work: a kernel or a copy. Times count from the beginning of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// When the program asked for it.
    pub submitted: Nanos,
    /// When it began on the device.
    pub start: Nanos,
    /// When it had ended there.
    pub end: Nanos,
    /// When the program knew.
    pub done: Nanos,
}

/// What the scheduler's own books say of a domain, to be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Device time of kernels.
    pub kernels_ns: Nanos,
    /// Time of copy engines.
    pub copies_ns: Nanos,
    /// Kernels.
    pub launches: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Time in which it had work waiting and none on the device.
    pub waited_ns: Nanos,
    /// Turns it was given.
    pub turns: u64,
    /// Kernels in the recorded trace, and their device time; in the simulator as above.
    pub traced_launches: u64,
    /// Device time of kernels in the recorded trace.
    pub traced_ns: Nanos,
}

/// What a domain had.
#[derive(Clone, Debug)]
pub struct Had {
    /// Which, and what it is entitled to.
    pub domain: Domain,
    /// Its work in the order of submission.
    pub pieces: Vec<Piece>,
    /// Bytes that it copied.
    pub bytes: u64,
    /// Processor time of its program, where there is one.
    pub cpu_ns: Nanos,
    /// What the scheduler says.
    pub counted: Counted,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The experiment's name.
    pub experiment: String,
    /// The policy in force.
    pub policy: PolicyKind,
    /// Where.
    pub place: Place,
    /// How long.
    pub duration: Nanos,
    /// The device.
    pub device: String,
    /// Time for which the policy kept the device idle on purpose, where that is known.
    pub held: Option<Nanos>,
    /// Its domains.
    pub domains: Vec<Had>,
    /// What backd recorded, times counted from the beginning; nothing in the simulator.
    pub trace: Vec<Work>,
}
