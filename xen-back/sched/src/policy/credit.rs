//! Credits that are used up: `cosched` and `augc`, which look at processors and accelerator together. (Gupta et
//! al.: Pegasus, USENIX ATC 2011; the details below are ours.)
//!
//! With u the device time that a ready domain has used, and w its weight, u/w is what it has *spent*; whoever has
//! spent least has most credits, which are at most a slice S = 30 ms of Xen's credit scheduler ahead of whoever
//! was let on last. With s = S/256 (a slice of a domain of Xen's default weight):
//!
//! > `cosched`: least u/w among the ready domains on a processor, unless another is more than s behind them
//! >
//! > `augc`: least u/w − a, with a = c/256, −s ≤ a ≤ s, for c nanoseconds of remaining processor credit
//!
//! Pegasus has the hypervisor tell which virtual processors run in the next period, and how many credits each domain
//! has left. Xen as it is tells neither. Here a domain is taken to be on a processor if a virtual processor of it
//! was when it was last looked at. And remaining credit is what Xen's own rule makes of the processor time that
//! domains have used since they were last looked at: those that ran earn all of it by weight, and each pays its own,
//!
//! > c ← c + Σ Δused · W / Σ W − Δused, −S ≤ c ≤ S, sums over those that ran in the last 30 ms, W the hypervisor's weight
//!
//! Both are as far from the truth as looking is rare. On a model of Xen's credit scheduler with two processors and
//! six domains that run and sleep for some milliseconds each (this module's tests have it; slices end long
//! before 30 ms if somebody wakes up):
//!
//! | looked at every | on-CPU state is wrong | `cosched` picks who is not on one | credit is off by (mean) | two are in the wrong order | `augc`'s pick is behind the best by (mean) |
//! |---|---|---|---|---|---|
//! | 1 ms | 3.9 % | 8.8 % | 5.7 ms | 7.2 % | 7.1 ms |
//! | 10 ms | 25.0 % | 44.1 % | 6.6 ms | 10.6 % | 10.8 ms |
//! | 30 ms | 35.7 % | 62.6 % | 8.1 ms | 19.2 % | 15.7 ms |
//! | 100 ms | 36.0 % | 64.5 % | 9.8 ms | 33.2 % | 18.9 ms |
//!
//! So `cosched` needs looks that are shorter apart than the domains' runs: every 100 ms is as good as none. What
//! remains of `augc`'s error at 1 ms is Xen's: it gives credits out once in 30 ms, this as they are used.

use std::collections::BTreeSet;

use super::{Pick, Policy, PolicyKind, Table};
use crate::{CpuState, DEFAULT_WEIGHT, DomainId, MILLISECOND, Nanos, Share};

/// A slice of Xen's credit scheduler, and how often it gives out credits.
const SLICE: Nanos = 30 * MILLISECOND;
/// Credits that a domain can save up or owe, in device or processor time.
const SAVED: i128 = SLICE as i128;
/// Credits are nanoseconds for a domain of this weight.
const UNIT: i128 = 1 << 16;

/// What both keep of a domain.
#[derive(Debug)]
struct State {
    weight: i128,
    ready: bool,
    running: bool,
    /// Device time used over weight: the fewer, the more credits.
    spent: i128,
    /// Processor credits to add.
    augment: i128,
}

impl State {
    fn key(&self) -> i128 {
        self.spent - self.augment
    }
}

/// Credits of domains, sorted.
#[derive(Debug, Default)]
struct Credits {
    domains: Table<State>,
    /// Ready domains, those with most credits first.
    ready: BTreeSet<(i128, DomainId)>,
    /// Those of them whose processors run.
    running: BTreeSet<(i128, DomainId)>,
    /// What whoever was let on last had spent.
    level: i128,
}

impl Credits {
    fn insert(&mut self, id: DomainId, share: Share) {
        self.remove(id);
        let state = State {
            weight: i128::from(share.weight.max(1)),
            ready: false,
            running: false,
            spent: self.level,
            augment: 0,
        };
        self.domains.insert(id, state);
    }

    fn remove(&mut self, id: DomainId) {
        self.change(id, |state| state.ready = false);
        self.domains.remove(id);
    }

    /// Changes a domain and puts it where it now belongs.
    fn change(&mut self, id: DomainId, change: impl FnOnce(&mut State)) {
        let Some(state) = self.domains.get_mut(id) else {
            return;
        };
        let old = (state.key(), id);
        self.ready.remove(&old);
        self.running.remove(&old);
        change(state);
        let new = (state.key(), id);
        if state.ready {
            self.ready.insert(new);
            if state.running {
                self.running.insert(new);
            }
        }
    }

    fn ready(&mut self, id: DomainId) {
        let level = self.level;
        self.change(id, |state| {
            state.ready = true;
            // Idling saves up no more than a slice.
            state.spent = state.spent.max(level - SAVED * UNIT / state.weight);
        });
    }

    fn charge(&mut self, id: DomainId, used: Nanos) {
        self.change(id, |state| {
            state.spent += i128::from(used) * UNIT / state.weight
        });
    }

    /// Whoever has most credits.
    fn first(&self) -> Option<DomainId> {
        self.ready.first().map(|&(_, id)| id)
    }

    /// Whoever has most credits of those that run, if nobody else is far behind.
    fn first_running(&self) -> Option<DomainId> {
        let &(behind, first) = self.ready.first()?;
        match self.running.first() {
            Some(&(spent, id)) if spent - behind <= SAVED * UNIT / i128::from(DEFAULT_WEIGHT) => {
                Some(id)
            }
            _ => Some(first),
        }
    }

    fn granted(&mut self, id: DomainId) {
        if let Some(state) = self.domains.get(id) {
            self.level = self.level.max(state.spent);
        }
    }
}

/// Pegasus' CoSched: the domain with most credits among those whose processors run, so that its program is
/// there when its work ends; if none of them is ready, the one with most credits, so that the device is
/// busy. Beyond Pegasus: whoever is a slice behind goes first in any case, so that nobody starves.
#[derive(Debug, Default)]
pub struct CoScheduled(Credits);

impl Policy for CoScheduled {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Cosched
    }

    fn insert(&mut self, _now: Nanos, id: DomainId, share: Share) {
        self.0.insert(id, share);
    }

    fn update(&mut self, _now: Nanos, id: DomainId, share: Share) {
        self.0
            .change(id, |state| state.weight = i128::from(share.weight.max(1)));
    }

    fn cpu(&mut self, _now: Nanos, id: DomainId, cpu: CpuState) {
        self.0.change(id, |state| state.running = cpu.running);
    }

    fn remove(&mut self, _now: Nanos, id: DomainId) {
        self.0.remove(id);
    }

    fn ready(&mut self, _now: Nanos, id: DomainId) {
        self.0.ready(id);
    }

    fn unready(&mut self, _now: Nanos, id: DomainId) {
        self.0.change(id, |state| state.ready = false);
    }

    fn pick(&mut self, _now: Nanos, _idle: bool) -> Pick {
        let id = self.0.first_running();
        id.map_or(Pick::Nobody, Pick::a_turn)
    }

    fn granted(&mut self, _now: Nanos, id: DomainId, _estimate: Nanos, _pieces: u32) {
        self.0.granted(id);
    }

    fn charged(&mut self, _now: Nanos, id: DomainId, _estimate: Nanos, used: Nanos) {
        self.0.charge(id, used);
    }

    fn owed(&mut self, _now: Nanos, id: DomainId, used: Nanos) {
        self.0.charge(id, used);
    }
}

/// Remaining processor credits, estimated from the processor time that domains used.
#[derive(Debug, Default)]
struct Processors {
    domains: Table<Seen>,
    /// Weights of those that ran when they were last looked at.
    active: i128,
    /// Processor time that was earned so far by a domain of weight 1 that always ran, in fractions (`UNIT`).
    earned: i128,
}

/// What was known of a domain when it was last looked at.
#[derive(Debug)]
struct Seen {
    weight: i128,
    used: Nanos,
    /// When it last ran, and whether that was not long ago.
    ran: Option<Nanos>,
    active: bool,
    earned: i128,
    credit: i128,
}

impl Processors {
    /// Looks at a domain: its remaining credit, in nanoseconds of processor time.
    fn look(&mut self, now: Nanos, id: DomainId, cpu: &CpuState) -> i128 {
        let weight = i128::from(cpu.weight.max(1));
        let old = self.remove(id);
        let used = old
            .as_ref()
            .map_or(0, |old| cpu.used.saturating_sub(old.used));
        let ran = match used > 0 || cpu.running {
            true => Some(now),
            false => old.as_ref().and_then(|old| old.ran),
        };
        let active = ran.is_some_and(|ran| now.saturating_sub(ran) <= SLICE);
        if active {
            self.active += weight;
        }
        self.earned += i128::from(used) * UNIT / self.active.max(1);
        let credit = old.map_or(0, |old| {
            let earned = match active {
                true => (self.earned - old.earned) * weight / UNIT,
                false => 0,
            };
            (old.credit + earned - i128::from(used)).clamp(-SAVED, SAVED)
        });
        let seen = Seen {
            weight,
            used: cpu.used,
            ran,
            active,
            earned: self.earned,
            credit,
        };
        self.domains.insert(id, seen);
        credit
    }

    fn remove(&mut self, id: DomainId) -> Option<Seen> {
        let seen = self.domains.remove(id)?;
        if seen.active {
            self.active -= seen.weight;
        }
        Some(seen)
    }
}

/// Pegasus' AugC: the domain with most credits of accelerator and processor together. A domain that has had
/// less of the processors than others is let on earlier, by at most a slice, and no later than a slice
/// behind: so nobody starves.
#[derive(Debug, Default)]
pub struct Augmented {
    credits: Credits,
    processors: Processors,
}

impl Policy for Augmented {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Augc
    }

    fn insert(&mut self, now: Nanos, id: DomainId, share: Share) {
        self.remove(now, id);
        self.credits.insert(id, share);
    }

    fn update(&mut self, _now: Nanos, id: DomainId, share: Share) {
        self.credits
            .change(id, |state| state.weight = i128::from(share.weight.max(1)));
    }

    fn cpu(&mut self, now: Nanos, id: DomainId, cpu: CpuState) {
        if self.credits.domains.get(id).is_some() {
            let credit = self.processors.look(now, id, &cpu);
            let augment = credit * UNIT / i128::from(DEFAULT_WEIGHT);
            self.credits.change(id, |state| state.augment = augment);
        }
    }

    fn remove(&mut self, _now: Nanos, id: DomainId) {
        self.processors.remove(id);
        self.credits.remove(id);
    }

    fn ready(&mut self, _now: Nanos, id: DomainId) {
        self.credits.ready(id);
    }

    fn unready(&mut self, _now: Nanos, id: DomainId) {
        self.credits.change(id, |state| state.ready = false);
    }

    fn pick(&mut self, _now: Nanos, _idle: bool) -> Pick {
        let id = self.credits.first();
        id.map_or(Pick::Nobody, Pick::a_turn)
    }

    fn granted(&mut self, _now: Nanos, id: DomainId, _estimate: Nanos, _pieces: u32) {
        self.credits.granted(id);
    }

    fn charged(&mut self, _now: Nanos, id: DomainId, _estimate: Nanos, used: Nanos) {
        self.credits.charge(id, used);
    }

    fn owed(&mut self, _now: Nanos, id: DomainId, used: Nanos) {
        self.credits.charge(id, used);
    }
}

#[cfg(test)]
mod tests;
