//! Gdev's BAND (`band`), and the CREDIT that it improves on (`gdev-credit`). (Kato, McThrow, Maltzahn, Brandt: Gdev,
//! USENIX ATC 2012; times as in its code.)
//!
//! Domains stand in one queue, and the first that has work goes on. With B = w/Σw a domain's bandwidth, over all
//! domains, each has a budget of device time that changes
//!
//! > every P = 30 ms by P · B (beyond ±P it is forgotten: set to 0), and by −d with each d of device time used.
//!
//! CREDIT sends whoever's budget is below 0 to the end of the queue. BAND does so only if the domain is also over
//! its bandwidth: if it has had more than B of the time since the second began. And before BAND lets on another
//! that is over its bandwidth, it waits up to 500 µs for the one that was on last, whose kernels may be short.
//! Nothing is capped, and but for that wait somebody always runs if anybody wants to.
//!
//! Gdev decides for each kernel; here kernels shorter than a turn go on together.

use std::collections::BTreeSet;

use super::{Pick, Policy, PolicyKind, Table};
use crate::{DomainId, MICROSECOND, MILLISECOND, Nanos, SECOND, Share};

/// How often budgets are given out; what is left beyond as much on either side is forgotten.
const PERIOD: Nanos = 30 * MILLISECOND;
/// The wait for a domain with short kernels.
const WAIT: Nanos = 500 * MICROSECOND;
/// Over how long use of the device is looked at.
const WINDOW: Nanos = SECOND;

/// BAND and CREDIT.
#[derive(Debug)]
pub struct Band {
    looks_at_use: bool,
    domains: Table<State>,
    weights: u64,
    /// Ready domains by their place in the queue.
    ready: BTreeSet<(u64, DomainId)>,
    tail: u64,
    current: Option<DomainId>,
    /// Until when the current one is waited for.
    waiting: Option<Nanos>,
}

#[derive(Debug)]
struct State {
    weight: u32,
    place: u64,
    ready: bool,
    /// Device time that it may still use, as of `period`.
    budget: i64,
    period: u64,
    used: Nanos,
    window: u64,
    window_start: Nanos,
}

impl State {
    fn bandwidth(&self, weights: u64) -> f64 {
        f64::from(self.weight) / weights.max(1) as f64
    }

    /// Gives out the budgets of the periods since.
    fn refill(&mut self, now: Nanos, weights: u64) {
        let period = now / PERIOD;
        let periods = period.saturating_sub(self.period);
        self.period = period;
        let each = (PERIOD as f64 * self.bandwidth(weights)) as i64;
        let limit = PERIOD as i64;
        // Beyond a hundred periods any budget has been forgotten anyway.
        for _ in 0..periods.min(100) {
            self.budget += each;
            if self.budget.abs() > limit {
                self.budget = 0;
            }
        }
        let window = now / WINDOW;
        if window != self.window {
            (self.window, self.window_start, self.used) = (window, now, 0);
        }
    }

    fn over(&self, now: Nanos, weights: u64) -> bool {
        let elapsed = now.saturating_sub(self.window_start);
        self.used as f64 > elapsed as f64 * self.bandwidth(weights)
    }
}

impl Band {
    /// Gdev's BAND.
    pub fn gdev_band() -> Self {
        Self::new(true)
    }

    /// Gdev's CREDIT.
    pub fn gdev_credit() -> Self {
        Self::new(false)
    }

    fn new(looks_at_use: bool) -> Self {
        Self {
            looks_at_use,
            domains: Table::default(),
            weights: 0,
            ready: BTreeSet::new(),
            tail: 0,
            current: None,
            waiting: None,
        }
    }

    fn send_back(&mut self, id: DomainId) {
        self.tail += 1;
        if let Some(state) = self.domains.get_mut(id) {
            let old = std::mem::replace(&mut state.place, self.tail);
            if self.ready.remove(&(old, id)) {
                self.ready.insert((self.tail, id));
            }
        }
    }
}

impl Policy for Band {
    fn kind(&self) -> PolicyKind {
        match self.looks_at_use {
            true => PolicyKind::Band,
            false => PolicyKind::GdevCredit,
        }
    }

    fn insert(&mut self, now: Nanos, id: DomainId, share: Share) {
        self.remove(now, id);
        self.tail += 1;
        self.weights += u64::from(share.weight);
        let state = State {
            weight: share.weight,
            place: self.tail,
            ready: false,
            budget: 0,
            period: now / PERIOD,
            used: 0,
            window: now / WINDOW,
            window_start: now,
        };
        self.domains.insert(id, state);
    }

    fn update(&mut self, _now: Nanos, id: DomainId, share: Share) {
        if let Some(state) = self.domains.get_mut(id) {
            self.weights = self.weights - u64::from(state.weight) + u64::from(share.weight);
            state.weight = share.weight;
        }
    }

    fn remove(&mut self, _now: Nanos, id: DomainId) {
        if let Some(state) = self.domains.remove(id) {
            self.weights -= u64::from(state.weight);
            self.ready.remove(&(state.place, id));
        }
        if self.current == Some(id) {
            self.current = None;
        }
    }

    fn ready(&mut self, _now: Nanos, id: DomainId) {
        if let Some(state) = self.domains.get_mut(id) {
            state.ready = true;
            self.ready.insert((state.place, id));
        }
    }

    fn unready(&mut self, _now: Nanos, id: DomainId) {
        if let Some(state) = self.domains.get_mut(id) {
            state.ready = false;
            self.ready.remove(&(state.place, id));
        }
    }

    fn pick(&mut self, now: Nanos, idle: bool) -> Pick {
        let weights = self.weights;
        let Some(&(_, id)) = self.ready.first() else {
            return Pick::Nobody;
        };
        let over = self.domains.get_mut(id).is_some_and(|state| {
            state.refill(now, weights);
            state.over(now, weights)
        });
        let other = self
            .current
            .filter(|current| *current != id && self.looks_at_use && over);
        let away = other
            .and_then(|current| self.domains.get(current))
            .is_some_and(|state| !state.ready);
        if away && !idle {
            // It cannot be back before its work has ended, and then there is a new decision.
            return Pick::Wait { until: Nanos::MAX };
        }
        if away {
            let until = *self.waiting.get_or_insert(now + WAIT);
            if now < until {
                return Pick::Wait { until };
            }
        }
        self.waiting = None;
        Pick::a_turn(id)
    }

    fn granted(&mut self, _now: Nanos, id: DomainId, _estimate: Nanos, _pieces: u32) {
        self.current = Some(id);
        self.waiting = None;
    }

    fn charged(&mut self, now: Nanos, id: DomainId, _estimate: Nanos, used: Nanos) {
        self.owed(now, id, used);
    }

    fn owed(&mut self, now: Nanos, id: DomainId, used: Nanos) {
        let weights = self.weights;
        let looks_at_use = self.looks_at_use;
        let Some(state) = self.domains.get_mut(id) else {
            return;
        };
        state.refill(now, weights);
        state.budget = state.budget.saturating_sub_unsigned(used);
        state.used += used;
        if state.budget < 0 && (!looks_at_use || state.over(now, weights)) {
            self.send_back(id);
        }
    }
}
