//! Slices in rounds: `rr`, `credit`, `xen-credit` and `sla-feedback`.
//!
//! Every ready domain has one slice a round, those with most credits first. With X a domain's credits, X_min the
//! least of all domains and T the tick of Xen's credit scheduler,
//!
//! > slice = T · min(X / X_min, 50)
//!
//! where X is the same for all (`rr`: GViM's RR; Gupta et al., HPCVirt 2009), the domain's weight on the
//! accelerator (`credit`: Pegasus' AccC), or its weight under the hypervisor's scheduler, whose caps then hold
//! here too (`xen-credit`: GViM's and Pegasus' XC; Gupta et al., USENIX ATC 2011). `sla-feedback` (Pegasus' SLAF,
//! of which only the idea is published) is `credit` with a factor F on the slice, corrected once a second by
//!
//! > F ← F · (1 + k · (target − had) / target), k = 0.5, 0.1 ≤ F ≤ 50
//!
//! with target the domain's weight over those of all that wanted the device, and had its part of their device
//! time. (That costs O(n), once a second.)
//!
//! A slice is time on the clock, in which a thread polls the domain's calls, not device time: a kernel that runs
//! beyond the slice is not paid back, and while the domain has nothing to do in its slice, the device is kept for
//! it for up to a tick. Those are these policies' known faults, kept so that they can be seen. `xen-credit` keeps
//! only the second: it has to keep the hypervisor's weights whatever the kernels are like. So its slices are device
//! time, and what a kernel takes beyond one is taken from the next (deficit round robin; Shreedhar and Varghese,
//! SIGCOMM 1995): a domain in debt for a slice or more sits out. Where only domains in debt are ready, but another is
//! expected back, which had the device within the last 100 ms, the one with the least debt goes on and owes it all the
//! more: else each moment in which a domain has not asked again would be a gift to the others. Debt is at most what one
//! grant took if nobody else wants the device, and twice that if another is only expected.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{Pick, Policy, PolicyKind, Table};
use crate::{CpuState, DEFAULT_WEIGHT, DomainId, MILLISECOND, Nanos, SECOND, Share};

/// The clock tick of Xen's credit scheduler, which Pegasus aligns slices with.
const TICK: Nanos = 10 * MILLISECOND;
/// Most ticks of a slice.
const MOST_TICKS: f64 = 50.0;
/// For so long after it had the device, a domain is expected back.
const EXPECTED: Nanos = 100 * MILLISECOND;
/// Over how long feedback looks at what was achieved.
const WINDOW: Nanos = SECOND;
/// How strongly it corrects.
const GAIN: f64 = 0.5;

/// What a domain's credits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entitlement {
    /// One each.
    Equal,
    /// Its weight on the accelerator.
    Weight,
    /// Its weight under the hypervisor's scheduler; until that is known, its weight on the accelerator.
    Hypervisor,
    /// Its weight, corrected by what it achieved.
    Feedback,
}

/// GViM's and Pegasus' RR, AccC, XC and SLAF.
#[derive(Debug)]
pub struct Rounds {
    entitlement: Entitlement,
    domains: Table<State>,
    /// Credits of all domains, for the least.
    credits: BTreeSet<(u32, DomainId)>,
    /// Ready domains that have not had their slice in this round, those with most credits first.
    round: BTreeSet<(Reverse<u32>, DomainId)>,
    /// Ready domains that wait for the next round.
    next: BTreeSet<(Reverse<u32>, DomainId)>,
    /// Whose slice it is, and until when.
    current: Option<(DomainId, Nanos)>,
    /// The two domains that had the device last, and when.
    recent: [Option<(DomainId, Nanos)>; 2],
    window_since: Nanos,
}

#[derive(Debug)]
struct State {
    weight: u32,
    hypervisor: Option<u32>,
    credits: u32,
    ready: bool,
    /// Grants that have not ended, and when the last did.
    in_flight: u32,
    idle_since: Nanos,
    /// Device time used in this window.
    used: Nanos,
    /// What feedback makes of its slice.
    factor: f64,
    /// Device time left of its slice; negative is debt. Where slices are device time.
    left: i128,
}

impl Rounds {
    /// A policy with these credits.
    pub fn new(entitlement: Entitlement) -> Self {
        Self {
            entitlement,
            domains: Table::default(),
            credits: BTreeSet::new(),
            round: BTreeSet::new(),
            next: BTreeSet::new(),
            current: None,
            recent: [None; 2],
            window_since: 0,
        }
    }

    fn set(&mut self, id: DomainId, change: impl FnOnce(&mut State)) {
        let entitlement = self.entitlement;
        let Some(state) = self.domains.get_mut(id) else {
            return;
        };
        let old = state.credits;
        change(state);
        let credits = match entitlement {
            Entitlement::Equal => 1,
            Entitlement::Weight | Entitlement::Feedback => state.weight,
            Entitlement::Hypervisor => state.hypervisor.unwrap_or(state.weight),
        };
        state.credits = credits.max(1);
        self.credits.remove(&(old, id));
        self.credits.insert((state.credits, id));
        for set in [&mut self.round, &mut self.next] {
            if set.remove(&(Reverse(old), id)) {
                set.insert((Reverse(state.credits), id));
            }
        }
    }

    fn slice(&self, id: DomainId) -> Nanos {
        let least = self.credits.first().map_or(1, |&(credits, _)| credits);
        let ticks = self.domains.get(id).map_or(1.0, |state| {
            f64::from(state.credits) / f64::from(least) * state.factor
        });
        (ticks.clamp(1.0, MOST_TICKS) * TICK as f64) as Nanos
    }

    /// Whether slices are device time.
    fn bills_device(&self) -> bool {
        self.entitlement == Entitlement::Hypervisor
    }

    /// What a domain may still have of its slice, which is over on the clock at this time.
    fn rest(&self, now: Nanos, id: DomainId, until: Nanos) -> Nanos {
        match self.domains.get(id) {
            Some(state) if self.bills_device() => u64::try_from(state.left).unwrap_or(0),
            _ => until.saturating_sub(now),
        }
    }

    /// A domain has the device, or has had it until now.
    fn has_device(&mut self, now: Nanos, id: DomainId) {
        let [first, second] = self.recent;
        self.recent = match first {
            Some((last, _)) if last != id => [Some((id, now)), first],
            _ => [Some((id, now)), second],
        };
    }

    /// Whether a domain that is not ready is expected back, other than this one.
    fn expects_another(&self, now: Nanos, than: Option<DomainId>) -> bool {
        self.recent.iter().flatten().any(|&(id, at)| {
            let state = self.domains.get(id);
            let expected = |state: &State| {
                !state.ready && (state.in_flight > 0 || now < at.saturating_add(EXPECTED))
            };
            Some(id) != than && state.is_some_and(expected)
        })
    }

    /// The next domain's slice, and what it may have of it.
    fn next_slice(&mut self, now: Nanos) -> Option<(DomainId, Nanos, Nanos)> {
        if self.bills_device() && self.expects_another(now, None) {
            let ready = || self.round.iter().chain(&self.next).copied();
            let left = |id| self.domains.get(id).map_or(0, |state| state.left);
            let in_debt = |&(_, id): &(_, DomainId)| left(id) + i128::from(self.slice(id)) <= 0;
            if ready().all(|place| in_debt(&place)) {
                let place = ready().max_by_key(|&(_, id)| left(id))?;
                self.round.remove(&place);
                self.next.remove(&place);
                let slice = self.slice(place.1);
                return Some((place.1, slice, slice));
            }
        }
        loop {
            if self.round.is_empty() {
                self.round = std::mem::take(&mut self.next);
            }
            let (Reverse(credits), id) = self.round.pop_first()?;
            let slice = self.slice(id);
            if !self.bills_device() {
                return Some((id, slice, slice));
            }
            let Some(state) = self.domains.get_mut(id) else {
                continue;
            };
            // What it did not use of its last one is gone; what it owes is not.
            state.left = state.left.min(0) + i128::from(slice);
            match u64::try_from(state.left) {
                Ok(left @ 1..) => return Some((id, slice, left)),
                _ => self.next.insert((Reverse(credits), id)),
            };
        }
    }

    /// Corrects slices at a window's end by what was achieved in it.
    fn feed_back(&mut self, now: Nanos) {
        if self.entitlement != Entitlement::Feedback || now < self.window_since + WINDOW {
            return;
        }
        self.window_since = now;
        let used: Nanos = self.domains.iter().map(|(_, state)| state.used).sum();
        let active = |state: &State| state.ready || state.used > 0;
        let weights: u64 = self
            .domains
            .iter()
            .filter(|(_, state)| active(state))
            .map(|(_, state)| u64::from(state.weight))
            .sum();
        for state in self.domains.values_mut() {
            if used > 0 && active(state) {
                let target = f64::from(state.weight) / weights.max(1) as f64;
                let achieved = state.used as f64 / used as f64;
                let error = (target - achieved) / target;
                state.factor = (state.factor * (1.0 + GAIN * error)).clamp(0.1, MOST_TICKS);
            }
            state.used = 0;
        }
    }
}

impl Policy for Rounds {
    fn kind(&self) -> PolicyKind {
        match self.entitlement {
            Entitlement::Equal => PolicyKind::Rr,
            Entitlement::Weight => PolicyKind::Credit,
            Entitlement::Hypervisor => PolicyKind::XenCredit,
            Entitlement::Feedback => PolicyKind::SlaFeedback,
        }
    }

    fn insert(&mut self, now: Nanos, id: DomainId, share: Share) {
        self.remove(now, id);
        let state = State {
            weight: share.weight,
            hypervisor: None,
            credits: DEFAULT_WEIGHT,
            ready: false,
            in_flight: 0,
            idle_since: now,
            used: 0,
            factor: 1.0,
            left: 0,
        };
        self.domains.insert(id, state);
        self.set(id, |_| ());
    }

    fn update(&mut self, _now: Nanos, id: DomainId, share: Share) {
        self.set(id, |state| state.weight = share.weight);
    }

    fn follows_hypervisor_caps(&self) -> bool {
        self.entitlement == Entitlement::Hypervisor
    }

    fn cpu(&mut self, _now: Nanos, id: DomainId, cpu: CpuState) {
        self.set(id, |state| state.hypervisor = Some(cpu.weight));
    }

    fn remove(&mut self, now: Nanos, id: DomainId) {
        self.unready(now, id);
        if let Some(state) = self.domains.remove(id) {
            self.credits.remove(&(state.credits, id));
        }
    }

    fn ready(&mut self, _now: Nanos, id: DomainId) {
        let Some(state) = self.domains.get_mut(id) else {
            return;
        };
        state.ready = true;
        // Whoever comes back within its slice goes on with it.
        if self.current.is_none_or(|(current, _)| current != id) {
            self.next.insert((Reverse(state.credits), id));
        }
    }

    fn unready(&mut self, _now: Nanos, id: DomainId) {
        let Some(state) = self.domains.get_mut(id) else {
            return;
        };
        state.ready = false;
        self.round.remove(&(Reverse(state.credits), id));
        self.next.remove(&(Reverse(state.credits), id));
    }

    fn pick(&mut self, now: Nanos, _idle: bool) -> Pick {
        self.feed_back(now);
        if let Some((id, until)) = self.current {
            let state = self.domains.get(id);
            let ready = state.is_some_and(|state| state.ready);
            let rest = self.rest(now, id, until);
            if ready && rest > 0 {
                return Pick::Run {
                    id,
                    turn: rest,
                    pieces: None,
                };
            }
            // Nobody else wants the rest of its slice, or its calls are polled for a while.
            let polled_until = state.map_or(0, |state| match state.in_flight {
                0 => until.min(state.idle_since + TICK),
                _ => until,
            });
            if !ready && now < polled_until {
                return match self.round.is_empty() && self.next.is_empty() {
                    true => Pick::Nobody,
                    false => Pick::Wait {
                        until: polled_until,
                    },
                };
            }
            self.current = None;
            if let Some(state) = self.domains.get(id)
                && ready
            {
                self.next.insert((Reverse(state.credits), id));
            }
        }
        match self.next_slice(now) {
            Some((id, slice, turn)) => {
                self.current = Some((id, now + slice));
                Pick::Run {
                    id,
                    turn,
                    pieces: None,
                }
            }
            None => Pick::Nobody,
        }
    }

    fn granted(&mut self, now: Nanos, id: DomainId, estimate: Nanos, _pieces: u32) {
        self.has_device(now, id);
        if let Some(state) = self.domains.get_mut(id) {
            state.in_flight += 1;
            state.left -= i128::from(estimate);
        }
    }

    fn charged(&mut self, now: Nanos, id: DomainId, estimate: Nanos, used: Nanos) {
        self.has_device(now, id);
        if let Some(state) = self.domains.get_mut(id) {
            state.in_flight = state.in_flight.saturating_sub(1);
            state.idle_since = now;
            state.left += i128::from(estimate);
        }
        self.owed(now, id, used);
    }

    fn owed(&mut self, now: Nanos, id: DomainId, used: Nanos) {
        let waiting = self.round.iter().chain(&self.next).map(|&(_, id)| id);
        let current = self.current.map(|(id, _)| id);
        let alone = waiting.chain(current).all(|other| other == id);
        let expects = self.expects_another(now, Some(id));
        if let Some(state) = self.domains.get_mut(id) {
            state.used += used;
            state.left -= i128::from(used);
            if alone {
                // Nobody has lost anything by what it had before, or not much by what it had just before.
                let counted = if expects { 2 } else { 1 };
                state.left = state.left.max(-counted * i128::from(used));
            }
        }
    }
}
