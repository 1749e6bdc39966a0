//! Credits that are used up: `cosched` and `augc`, which look at processors and accelerator together.
//!
//! Pegasus has the hypervisor tell which virtual processors run in the next period and how many credits each
//! domain has left. Xen as it is tells neither: here a domain counts as scheduled if a virtual processor of it
//! ran when it was last looked at, and its remaining credit is estimated from the processor time that it
//! used, beside the others'. How far that is from the truth depends on how often the caller looks.

use std::collections::BTreeSet;

use super::{Pick, Policy, PolicyKind, TURN, Table};
use crate::{CpuState, DEFAULT_WEIGHT, DomainId, MILLISECOND, Nanos, Share};

/// Credits that a domain can save up or owe, in device or processor time: a slice of Xen's credit scheduler.
const SAVED: i128 = 30 * MILLISECOND as i128;
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
    cpu: Option<CpuState>,
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
            cpu: None,
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
        let Some(&(behind, first)) = self.0.ready.first() else {
            return Pick::Nobody;
        };
        let id = match self.0.running.first() {
            Some(&(spent, id)) if spent - behind <= SAVED * UNIT / i128::from(DEFAULT_WEIGHT) => id,
            _ => first,
        };
        Pick::Run {
            id,
            turn: TURN,
            pieces: None,
        }
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

/// Pegasus' AugC: the domain with most credits of accelerator and processor together. A domain that has had
/// less of the processors than others is let on earlier, by at most a slice, and no later than a slice
/// behind: so nobody starves.
#[derive(Debug, Default)]
pub struct Augmented {
    credits: Credits,
    /// Sum over domains of processor time over weight, and how many they are.
    total: i128,
    count: i128,
}

fn cpu_spent(state: &CpuState) -> i128 {
    i128::from(state.used) * UNIT / i128::from(state.weight.max(1))
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

    fn cpu(&mut self, _now: Nanos, id: DomainId, cpu: CpuState) {
        let Some(state) = self.credits.domains.get(id) else {
            return;
        };
        match &state.cpu {
            Some(old) => self.total -= cpu_spent(old),
            None => self.count += 1,
        }
        let own = cpu_spent(&cpu);
        self.total += own;
        let mean = self.total / self.count.max(1);
        let limit = SAVED * UNIT / i128::from(DEFAULT_WEIGHT);
        self.credits.change(id, |state| {
            state.cpu = Some(cpu);
            state.augment = (mean - own).clamp(-limit, limit);
        });
    }

    fn remove(&mut self, _now: Nanos, id: DomainId) {
        if let Some(cpu) = self.credits.domains.get(id).and_then(|state| state.cpu) {
            self.total -= cpu_spent(&cpu);
            self.count -= 1;
        }
        self.credits.remove(id);
    }

    fn ready(&mut self, _now: Nanos, id: DomainId) {
        self.credits.ready(id);
    }

    fn unready(&mut self, _now: Nanos, id: DomainId) {
        self.credits.change(id, |state| state.ready = false);
    }

    fn pick(&mut self, _now: Nanos, _idle: bool) -> Pick {
        match self.credits.ready.first() {
            Some(&(_, id)) => Pick::Run {
                id,
                turn: TURN,
                pieces: None,
            },
            None => Pick::Nobody,
        }
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
