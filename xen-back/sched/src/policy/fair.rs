//! `fair`: start-time fair queuing on device time.
//!
//! Each domain has a start tag: the device time that it has had, divided by its weight. Whoever is ready with
//! the least tag goes on. The virtual time is the tag of whoever was let on last; a domain that comes back
//! from idling starts there, so idling saves nothing up. Work is charged with what it took: who overran pays
//! by waiting. For two domains that are ready all the while, with l the longest piece of work of each,
//! |S₁/w₁ − S₂/w₂| ≤ l₁/w₁ + l₂/w₂. (Goyal, Vin, Cheng: Start-time fair queuing, SIGCOMM 1996.)
//!
//! A domain with short kernels that launches the next when it has seen the last one's end is never ready at the
//! moment of the decision, and would lose to one long kernel after another. If it usually comes back at once
//! and is behind, the device waits for it a little; all such waits together are bounded by a part of the time.

use std::collections::BTreeSet;

use super::{Pick, Policy, PolicyKind, TURN, Table};
use crate::{DomainId, MICROSECOND, MILLISECOND, Nanos, Share};

/// Longest wait for a domain that usually comes back sooner (Gdev waits as long).
const RETURN: Nanos = 500 * MICROSECOND;
/// Waits may take one part in so many of the time...
const WAIT_PART: Nanos = 20;
/// ... and so much at once of what was saved up.
const WAIT_SAVED: Nanos = 10 * MILLISECOND;
/// Tags are in nanoseconds for a domain of this weight.
const UNIT: u128 = 1 << 16;

/// Start-time fair queuing with debts, and with bounded waits for short kernels.
#[derive(Debug, Default)]
pub struct Fair {
    domains: Table<State>,
    /// Ready domains by tag.
    ready: BTreeSet<(u128, DomainId)>,
    /// Domains that went idle a moment ago and usually come back at once, by tag.
    expected: BTreeSet<(u128, DomainId)>,
    /// The tag of whoever was let on last.
    virtual_time: u128,
    /// How much waiting is allowed, and when that was worked out.
    wait_saved: Nanos,
    wait_since: Nanos,
    /// The wait that goes on.
    waiting: Option<Nanos>,
}

#[derive(Debug)]
struct State {
    weight: u128,
    latency: Option<Nanos>,
    tag: u128,
    ready: bool,
    /// Grants that have not ended.
    in_flight: u32,
    /// When its last work ended.
    idle_since: Nanos,
    /// How long it usually stays away, if it has ever been.
    away: Option<Nanos>,
    expected: bool,
}

impl State {
    fn cost(&self, used: Nanos) -> u128 {
        u128::from(used) * UNIT / self.weight
    }
}

impl Fair {
    fn forget(&mut self, id: DomainId) {
        if let Some(state) = self.domains.get_mut(id) {
            self.ready.remove(&(state.tag, id));
            self.expected.remove(&(state.tag, id));
            state.expected = false;
        }
    }

    /// Moves a domain's tag by the cost of so much device time.
    fn shift(&mut self, id: DomainId, by: Nanos, forward: bool) {
        let Some(state) = self.domains.get_mut(id) else {
            return;
        };
        let old = state.tag;
        let cost = state.cost(by);
        state.tag = match forward {
            true => old.saturating_add(cost),
            false => old.saturating_sub(cost),
        };
        for set in [&mut self.ready, &mut self.expected] {
            if set.remove(&(old, id)) {
                set.insert((state.tag, id));
            }
        }
    }

    /// Moves the virtual time on to the tag of whoever is on the device. Somebody who was not picked may be
    /// ahead of those who wait: they must not lose by that what they are behind.
    fn advance(&mut self, id: DomainId) {
        if let Some(state) = self.domains.get(id) {
            let first = self.ready.first().map_or(state.tag, |&(tag, _)| tag);
            self.virtual_time = self.virtual_time.max(state.tag.min(first));
        }
    }

    fn save_up(&mut self, now: Nanos) {
        let since = now.saturating_sub(self.wait_since);
        let part = since / WAIT_PART;
        if part > 0 {
            self.wait_saved = (self.wait_saved + part).min(WAIT_SAVED);
            self.wait_since = now;
        }
    }

    /// Until when to wait rather than let on whoever has this tag.
    fn worth_waiting(&mut self, now: Nanos, tag: u128) -> Option<Nanos> {
        while let Some(&(behind, id)) = self.expected.first() {
            if behind >= tag {
                return None;
            }
            let until = self.domains.get(id).and_then(|state| {
                if state.in_flight > 0 {
                    // It cannot come back before its work has ended, and then there is a new decision.
                    return Some(Nanos::MAX);
                }
                let away = state.away?;
                Some(state.idle_since + (2 * away + 50 * MICROSECOND).min(RETURN))
            });
            match until {
                Some(until) if until > now => return Some(until),
                // It did not come back.
                _ => {
                    self.expected.remove(&(behind, id));
                    if let Some(state) = self.domains.get_mut(id) {
                        state.expected = false;
                    }
                }
            }
        }
        None
    }
}

impl Policy for Fair {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Fair
    }

    fn insert(&mut self, now: Nanos, id: DomainId, share: Share) {
        self.forget(id);
        let state = State {
            weight: share.weight.max(1).into(),
            latency: share.latency,
            tag: self.virtual_time,
            ready: false,
            in_flight: 0,
            idle_since: now,
            away: None,
            expected: false,
        };
        self.domains.insert(id, state);
    }

    fn update(&mut self, _now: Nanos, id: DomainId, share: Share) {
        if let Some(state) = self.domains.get_mut(id) {
            state.weight = share.weight.max(1).into();
            state.latency = share.latency;
        }
    }

    fn remove(&mut self, _now: Nanos, id: DomainId) {
        self.forget(id);
        self.domains.remove(id);
    }

    fn ready(&mut self, now: Nanos, id: DomainId) {
        let virtual_time = self.virtual_time;
        let expected = self.domains.get(id).is_some_and(|state| state.expected);
        self.forget(id);
        let Some(state) = self.domains.get_mut(id) else {
            return;
        };
        let away = match state.in_flight {
            0 => now.saturating_sub(state.idle_since),
            _ => 0,
        };
        // Whoever was waited for has not been away.
        if !expected {
            // A domain with a latency target may go before those whose tags are that little ahead.
            let early = state.latency.map_or(0, |_| state.cost(TURN));
            state.tag = state.tag.max(virtual_time.saturating_sub(early));
        }
        let usual = state.away.unwrap_or(away);
        state.away = Some(((usual * 7 + away) / 8).min(2 * RETURN));
        state.ready = true;
        self.ready.insert((state.tag, id));
    }

    fn unready(&mut self, _now: Nanos, id: DomainId) {
        self.forget(id);
        if let Some(state) = self.domains.get_mut(id) {
            state.ready = false;
            // If its program usually launches again as soon as it sees the end, it is expected.
            if state.in_flight > 0 && state.away.is_some_and(|away| away < RETURN) {
                state.expected = true;
                self.expected.insert((state.tag, id));
            }
        }
    }

    fn pick(&mut self, now: Nanos, idle: bool) -> Pick {
        self.save_up(now);
        if let Some(since) = self.waiting.take() {
            self.wait_saved = self.wait_saved.saturating_sub(now.saturating_sub(since));
        }
        let Some(&(tag, id)) = self.ready.first() else {
            return Pick::Nobody;
        };
        if let Some(until) = self.worth_waiting(now, tag) {
            let until = match idle {
                true => until.min(now + self.wait_saved),
                false => until,
            };
            if until > now {
                if idle {
                    self.waiting = Some(now);
                }
                return Pick::Wait { until };
            }
        }
        Pick::Run {
            id,
            turn: TURN,
            pieces: None,
        }
    }

    fn granted(&mut self, _now: Nanos, id: DomainId, estimate: Nanos, _pieces: u32) {
        self.advance(id);
        if let Some(state) = self.domains.get_mut(id) {
            state.in_flight += 1;
        }
        self.shift(id, estimate, true);
    }

    fn charged(&mut self, now: Nanos, id: DomainId, estimate: Nanos, used: Nanos) {
        match used.checked_sub(estimate) {
            Some(more) => self.shift(id, more, true),
            None => self.shift(id, estimate - used, false),
        }
        if let Some(state) = self.domains.get_mut(id) {
            state.in_flight = state.in_flight.saturating_sub(1);
            state.idle_since = now;
        }
    }

    fn owed(&mut self, now: Nanos, id: DomainId, used: Nanos) {
        self.advance(id);
        self.shift(id, used, true);
        if let Some(state) = self.domains.get_mut(id) {
            state.idle_since = now;
        }
    }
}
