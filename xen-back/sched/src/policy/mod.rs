//! The policies: each a value that says whom to let on the device next. A policy knows domains, weights and
//! what was used; caps, accounts and the bound on work in flight are the [`Scheduler`](crate::Scheduler)'s,
//! the same under every policy. A policy must answer in O(log n) and never look at a clock of its own.

mod band;
mod credit;
mod fair;
mod fifo;
mod rounds;

use std::fmt;
use std::str::FromStr;

pub use band::Band;
pub use credit::{Augmented, CoScheduled};
pub use fair::{BORROW, Fair, RETURN, WAIT_PART, WAIT_SAVED};
pub use fifo::Fifo;
pub use rounds::{Entitlement, Rounds};

use crate::{CpuState, DomainId, MILLISECOND, Nanos, Share};

/// What a policy answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Nobody wants the device.
    Nobody,
    /// This domain, for about so much device time; one piece of work always fits.
    Run {
        /// Whom.
        id: DomainId,
        /// How much, in device time.
        turn: Nanos,
        /// And no more than so many pieces of work, if the policy counts them.
        pieces: Option<u32>,
    },
    /// Somebody who is expected back soon is worth waiting for: ask again at this time, or when something
    /// happens.
    Wait {
        /// When.
        until: Nanos,
    },
}

impl Pick {
    /// This domain, for a usual turn.
    pub fn a_turn(id: DomainId) -> Self {
        Self::Run {
            id,
            turn: TURN,
            pieces: None,
        }
    }
}

/// Decides whom to let on the device. Times never go backwards from call to call.
///
/// A domain is *ready* while it has work that waits and may run (it is not over its cap).
pub trait Policy: Send + fmt::Debug {
    /// Which it is.
    fn kind(&self) -> PolicyKind;
    /// A domain comes, not ready.
    fn insert(&mut self, now: Nanos, id: DomainId, share: Share);
    /// A domain's entitlement changes.
    fn update(&mut self, now: Nanos, id: DomainId, share: Share);
    /// What the hypervisor says of a domain's processors.
    fn cpu(&mut self, _now: Nanos, _id: DomainId, _state: CpuState) {}
    /// Whether domains' caps under the hypervisor's scheduler hold on the device too.
    fn follows_hypervisor_caps(&self) -> bool {
        false
    }
    /// A domain goes, ready or not.
    fn remove(&mut self, now: Nanos, id: DomainId);
    /// A domain that was not ready is now.
    fn ready(&mut self, now: Nanos, id: DomainId);
    /// A ready domain is no longer.
    fn unready(&mut self, now: Nanos, id: DomainId);
    /// So many pieces of work of this domain arrived; called before `ready`.
    fn arrived(&mut self, _now: Nanos, _id: DomainId, _pieces: u32) {}
    /// So many of its pieces that waited no longer do, the youngest; called before `unready`.
    fn withdrawn(&mut self, _now: Nanos, _id: DomainId, _pieces: u32) {}
    /// Whom to let on next. `idle`: the device has nothing to do meanwhile.
    fn pick(&mut self, now: Nanos, idle: bool) -> Pick;
    /// A domain was let on with work expected to take so long, so many of the pieces that waited. With no
    /// pieces: what it has on the device was not picked by this policy (it went while the gate was open, or
    /// before the policy was switched), but will be `charged` like a grant.
    fn granted(&mut self, now: Nanos, id: DomainId, estimate: Nanos, pieces: u32);
    /// That work has ended and has taken so long. The domain may be gone.
    fn charged(&mut self, now: Nanos, id: DomainId, estimate: Nanos, used: Nanos);
    /// The domain has used so much device time without having been let on: it owes it.
    fn owed(&mut self, now: Nanos, id: DomainId, used: Nanos);
}

/// Device time that a domain is let on with at once, if its pieces of work are shorter: what a turn's
/// overhead is spread over, and what a newcomer may have to wait beyond the longest piece.
pub const TURN: Nanos = MILLISECOND;

/// The policies there are.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    /// Work runs in the order in which it arrived: what a driver without a scheduler does.
    Fifo,
    /// Equal slices in turn (GViM's RR).
    Rr,
    /// Slices in proportion to accelerator credits (Pegasus' AccC).
    Credit,
    /// The same with the hypervisor's processor weights as credits (GViM's and Pegasus' XC).
    XenCredit,
    /// Gdev's CREDIT: whoever has used up its budget of a period goes to the end of the queue.
    GdevCredit,
    /// Gdev's BAND: only who is over its bandwidth as well, and a short wait for short kernels.
    Band,
    /// AccC with slices corrected by what was achieved in the last window (Pegasus' SLAF).
    SlaFeedback,
    /// The one with most credits among those whose processors run (Pegasus' CoSched).
    Cosched,
    /// The one with most credits of accelerator and processor together (Pegasus' AugC).
    Augc,
    /// Start-time fair queuing on device time: the default.
    Fair,
}

impl PolicyKind {
    /// All of them, in the order of their ancestry.
    pub const ALL: [Self; 10] = [
        Self::Fifo,
        Self::Rr,
        Self::Credit,
        Self::XenCredit,
        Self::GdevCredit,
        Self::Band,
        Self::SlaFeedback,
        Self::Cosched,
        Self::Augc,
        Self::Fair,
    ];

    /// The name that settings and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Rr => "rr",
            Self::Credit => "credit",
            Self::XenCredit => "xen-credit",
            Self::GdevCredit => "gdev-credit",
            Self::Band => "band",
            Self::SlaFeedback => "sla-feedback",
            Self::Cosched => "cosched",
            Self::Augc => "augc",
            Self::Fair => "fair",
        }
    }

    /// Whether it needs [`CpuState`]s from the hypervisor.
    pub fn needs_hypervisor(self) -> bool {
        matches!(self, Self::XenCredit | Self::Cosched | Self::Augc)
    }

    /// A policy of this kind that knows no domain yet.
    pub fn make(self) -> Box<dyn Policy> {
        match self {
            Self::Fifo => Box::new(Fifo::default()),
            Self::Rr => Box::new(Rounds::new(Entitlement::Equal)),
            Self::Credit => Box::new(Rounds::new(Entitlement::Weight)),
            Self::XenCredit => Box::new(Rounds::new(Entitlement::Hypervisor)),
            Self::SlaFeedback => Box::new(Rounds::new(Entitlement::Feedback)),
            Self::GdevCredit => Box::new(Band::gdev_credit()),
            Self::Band => Box::new(Band::gdev_band()),
            Self::Cosched => Box::new(CoScheduled::default()),
            Self::Augc => Box::new(Augmented::default()),
            Self::Fair => Box::new(Fair::default()),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no policy {0:?}; there are fifo, rr, credit, xen-credit, gdev-credit, band, sla-feedback, cosched, augc and fair"
)]
pub struct UnknownPolicy(String);

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// Per domain, a value; domains' numbers are small.
#[derive(Clone, Debug)]
pub(crate) struct Table<T>(Vec<Option<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Table<T> {
    pub(crate) fn insert(&mut self, id: DomainId, value: T) {
        let index = id.0 as usize;
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        if let Some(place) = self.0.get_mut(index) {
            *place = Some(value);
        }
    }

    pub(crate) fn remove(&mut self, id: DomainId) -> Option<T> {
        self.0.get_mut(id.0 as usize)?.take()
    }

    pub(crate) fn get(&self, id: DomainId) -> Option<&T> {
        self.0.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: DomainId) -> Option<&mut T> {
        self.0.get_mut(id.0 as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (DomainId, &T)> {
        let values = self.0.iter().enumerate();
        values.filter_map(|(index, value)| Some((DomainId(index as u32), value.as_ref()?)))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for kind in PolicyKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.make().kind(), kind);
        }
        let error = "best".parse::<PolicyKind>().unwrap_err().to_string();
        for kind in PolicyKind::ALL {
            assert!(error.contains(kind.name()), "{error}");
        }
    }
}
