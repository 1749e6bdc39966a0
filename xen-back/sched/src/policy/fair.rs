//! `fair`: start-time fair queuing on device time, with debts, a latency target per domain, and short waits.
//!
//! With w a domain's weight, its *tag* is the device time that it has had, over w. Of those that are ready, the one
//! with the least tag goes on, for one turn. The virtual time v is the tag of whoever went on last, and a domain
//! that comes back from idling continues at max(its tag, v): idling saves nothing up. A tag moves by what was
//! expected when work goes on, and by the rest when it has ended and its time is known: who overran pays by
//! waiting, who was overrated gets the difference back. For any two domains that have work waiting all the while
//! from t₁ to t₂, with S the device time that each has in it and l the longest that each is let on with at once:
//!
//! > |S₁/w₁ − S₂/w₂| ≤ (l₁ + x₁)/w₁ + (l₂ + x₂)/w₂, x = b + k + lead + 2e
//!
//! With x = 0 this is theorem 1 of Goyal, Vin, Cheng: Start-time fair queuing, SIGCOMM 1996. x is what this departs
//! from it by on purpose: b and k are below; the next is let on [`lead`](crate::Settings::lead) before the device is
//! idle; and e is by how much more or less than expected a domain's work took, as a tag learns that only in the end.
//!
//! *Latency targets.* A domain that has one goes on before all others when it comes back, the one whose target is
//! due first before those due later, as long as its tag is at most b/w ahead of the least: b is [`BORROW`] for
//! such a domain and 0 for others. It borrows from its own future, as its tag goes on counting. (Duda, Cheriton:
//! Borrowed-virtual-time scheduling, SOSP 1999: our b/w is their warp.)
//!
//! *Short waits.* A program with short kernels that launches the next when it has seen the last one's end is never
//! ready at the moment of a decision, and would lose to one long kernel after another. If it usually comes back
//! at once and its tag is the least, the device is kept for it: until twice the time that it usually takes, and
//! never for more than [`RETURN`]. (Gdev's BAND waits 500 µs.) All such waits together are at most one
//! [`WAIT_PART`]th of the time and [`WAIT_SAVED`]. Such a domain was not idle in between: it keeps its tag, but no
//! further behind v than k/w, with k the longest that anybody had on the device at once in the last seconds (0 for
//! who was away for longer than [`RETURN`]). Otherwise somebody always runs if anybody wants to.

use std::collections::BTreeSet;

use super::{Pick, Policy, PolicyKind, Table};
use crate::{DomainId, MICROSECOND, MILLISECOND, Nanos, SECOND, Share};

/// Longest wait for a domain that usually comes back sooner.
pub const RETURN: Nanos = 500 * MICROSECOND;
/// Waits may take one part in so many of the time...
pub const WAIT_PART: Nanos = 20;
/// ... and so much at once of what was saved up.
pub const WAIT_SAVED: Nanos = 10 * MILLISECOND;
/// Device time that a domain with a latency target may have before its turn.
pub const BORROW: Nanos = 5 * MILLISECOND;
/// Tags are in nanoseconds for a domain of this weight.
const UNIT: u128 = 1 << 16;

/// Start-time fair queuing with debts, latency targets, and bounded waits for short kernels.
#[derive(Debug, Default)]
pub struct Fair {
    domains: Table<State>,
    /// Ready domains by tag.
    ready: BTreeSet<(u128, DomainId)>,
    /// Those of them that came back and have a latency target, by when it is due.
    urgent: BTreeSet<(Nanos, DomainId)>,
    /// Domains that went idle a moment ago and usually come back at once, by tag.
    expected: BTreeSet<(u128, DomainId)>,
    /// The tag of whoever was let on last.
    virtual_time: u128,
    longest: Longest,
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
    /// Its place among the urgent.
    due: Option<Nanos>,
    /// Its place among the expected is its tag.
    expected: bool,
    /// Grants that have not ended.
    in_flight: u32,
    /// When its last work ended.
    idle_since: Nanos,
    /// How long it usually stays away, if it has ever been.
    away: Option<Nanos>,
}

impl State {
    fn cost(&self, used: Nanos) -> u128 {
        u128::from(used) * UNIT / self.weight
    }
}

/// The longest that anybody had on the device at once, in this second and the one before.
#[derive(Debug, Default)]
struct Longest {
    second: u64,
    this: Nanos,
    last: Nanos,
}

impl Longest {
    fn turn(&mut self, now: Nanos) {
        let second = now / SECOND;
        if second > self.second {
            let next = second == self.second + 1;
            self.last = if next { self.this } else { 0 };
            (self.second, self.this) = (second, 0);
        }
    }

    fn saw(&mut self, now: Nanos, used: Nanos) {
        self.turn(now);
        self.this = self.this.max(used);
    }

    fn get(&mut self, now: Nanos) -> Nanos {
        self.turn(now);
        self.this.max(self.last)
    }
}

impl Fair {
    /// Takes a domain out of all queues.
    fn forget(&mut self, id: DomainId) {
        if let Some(state) = self.domains.get_mut(id) {
            self.ready.remove(&(state.tag, id));
            self.expected.remove(&(state.tag, id));
            (state.ready, state.expected) = (false, false);
            if let Some(due) = state.due.take() {
                self.urgent.remove(&(due, id));
            }
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

    /// Moves the virtual time on to the tag of whoever goes on. Somebody who was not the first in the queue is
    /// ahead of those who wait: they must not lose by that what they are behind.
    fn advance(&mut self, id: DomainId) {
        if let Some(state) = self.domains.get(id) {
            let first = self.ready.first().map_or(state.tag, |&(tag, _)| tag);
            self.virtual_time = self.virtual_time.max(state.tag.min(first));
        }
    }

    fn save_up(&mut self, now: Nanos) {
        let part = now.saturating_sub(self.wait_since) / WAIT_PART;
        if part > 0 {
            self.wait_saved = (self.wait_saved + part).min(WAIT_SAVED);
            self.wait_since = now;
        }
        if let Some(since) = self.waiting.take() {
            self.wait_saved = self.wait_saved.saturating_sub(now.saturating_sub(since));
        }
    }

    /// Who goes on before its turn. Whoever has borrowed all it may waits for its turn, and is urgent again when
    /// it next comes back.
    fn borrower(&mut self, least: u128) -> Option<DomainId> {
        while let Some(&(due, id)) = self.urgent.first() {
            let state = self.domains.get_mut(id)?;
            if state.tag <= least + state.cost(BORROW) {
                return Some(id);
            }
            self.urgent.remove(&(due, id));
            state.due = None;
        }
        None
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
                _ => self.forget(id),
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
            due: None,
            expected: false,
            in_flight: 0,
            idle_since: now,
            away: None,
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
        self.forget(id);
        let longest = self.longest.get(now);
        let virtual_time = self.virtual_time;
        let Some(state) = self.domains.get_mut(id) else {
            return;
        };
        let away = match state.in_flight {
            0 => now.saturating_sub(state.idle_since),
            _ => 0,
        };
        let kept = match away < RETURN {
            true => state.cost(longest),
            false => 0,
        };
        state.tag = state.tag.max(virtual_time.saturating_sub(kept));
        let usual = state.away.unwrap_or(away);
        state.away = Some(((usual * 7 + away) / 8).min(2 * RETURN));
        state.ready = true;
        self.ready.insert((state.tag, id));
        if let Some(latency) = state.latency {
            let due = now.saturating_add(latency);
            state.due = Some(due);
            self.urgent.insert((due, id));
        }
    }

    fn unready(&mut self, _now: Nanos, id: DomainId) {
        self.forget(id);
        if let Some(state) = self.domains.get_mut(id) {
            // If its program usually launches again as soon as it sees the end, it is expected.
            if state.in_flight > 0 && state.away.is_some_and(|away| away < RETURN) {
                state.expected = true;
                self.expected.insert((state.tag, id));
            }
        }
    }

    fn pick(&mut self, now: Nanos, idle: bool) -> Pick {
        self.save_up(now);
        let Some(&(tag, first)) = self.ready.first() else {
            return Pick::Nobody;
        };
        let borrower = self.borrower(tag);
        if borrower.is_none()
            && let Some(until) = self.worth_waiting(now, tag)
        {
            let until = match idle {
                true => until.min(now + self.wait_saved),
                false => until,
            };
            if until > now {
                self.waiting = idle.then_some(now);
                return Pick::Wait { until };
            }
        }
        Pick::a_turn(borrower.unwrap_or(first))
    }

    fn granted(&mut self, _now: Nanos, id: DomainId, estimate: Nanos, _pieces: u32) {
        self.advance(id);
        if let Some(state) = self.domains.get_mut(id) {
            state.in_flight += 1;
        }
        self.shift(id, estimate, true);
    }

    fn charged(&mut self, now: Nanos, id: DomainId, estimate: Nanos, used: Nanos) {
        self.longest.saw(now, used);
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
