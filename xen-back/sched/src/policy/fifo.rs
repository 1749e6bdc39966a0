//! First in, first out: no scheduling at all, what a driver's queue does. It is here to be compared with: whoever
//! floods the queue gets the device, and a newcomer waits for all that arrived before it.
//!
//! Pieces of work run in the order of their arrival over all domains. Those of one domain that follow each other
//! in the queue go on together, however long they take. (The baseline of GViM, Gupta et al., HPCVirt 2009,
//! and of Gdev, Kato et al., USENIX ATC 2012.)

use std::collections::{BTreeSet, VecDeque};

use super::{Pick, Policy, PolicyKind, Table};
use crate::{DomainId, Nanos, Share};

/// Pieces that go on together at most: what one worker is told at once.
const MOST: u32 = 4096;

/// All pieces of work in one queue, in the order of their arrival.
#[derive(Debug, Default)]
pub struct Fifo {
    domains: Table<State>,
    /// Ready domains by the arrival of their oldest piece.
    ready: BTreeSet<(u64, DomainId)>,
    /// Number of the last run of arrivals, and whose it was.
    last: u64,
    last_of: Option<DomainId>,
}

#[derive(Debug, Default)]
struct State {
    ready: bool,
    /// Its pieces that wait, oldest first: runs of arrivals between which nobody else's arrived.
    runs: VecDeque<(u64, u32)>,
}

impl State {
    fn key(&self, id: DomainId) -> (u64, DomainId) {
        (self.runs.front().map_or(u64::MAX, |&(run, _)| run), id)
    }
}

impl Fifo {
    /// Changes a domain's pieces and keeps its place in the queue as they have it.
    fn change(&mut self, id: DomainId, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.domains.get_mut(id) {
            self.ready.remove(&state.key(id));
            change(state);
            if state.ready {
                self.ready.insert(state.key(id));
            }
        }
    }
}

impl Policy for Fifo {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Fifo
    }

    fn insert(&mut self, now: Nanos, id: DomainId, _share: Share) {
        self.remove(now, id);
        self.domains.insert(id, State::default());
    }

    fn update(&mut self, _now: Nanos, _id: DomainId, _share: Share) {}

    fn remove(&mut self, _now: Nanos, id: DomainId) {
        self.change(id, |state| state.ready = false);
        self.domains.remove(id);
    }

    fn ready(&mut self, _now: Nanos, id: DomainId) {
        self.change(id, |state| state.ready = true);
    }

    fn unready(&mut self, _now: Nanos, id: DomainId) {
        self.change(id, |state| state.ready = false);
    }

    fn arrived(&mut self, _now: Nanos, id: DomainId, pieces: u32) {
        if self.last_of.replace(id) != Some(id) {
            self.last += 1;
        }
        let last = self.last;
        self.change(id, |state| match state.runs.back_mut() {
            Some((run, count)) if *run == last => *count = count.saturating_add(pieces),
            _ => state.runs.push_back((last, pieces)),
        });
    }

    fn withdrawn(&mut self, _now: Nanos, id: DomainId, mut pieces: u32) {
        self.change(id, |state| {
            while let Some((run, count)) = state.runs.pop_back() {
                if count > pieces {
                    state.runs.push_back((run, count - pieces));
                    break;
                }
                pieces -= count;
            }
        });
    }

    fn pick(&mut self, _now: Nanos, _idle: bool) -> Pick {
        let mut queue = self.ready.iter();
        let Some(&(_, id)) = queue.next() else {
            return Pick::Nobody;
        };
        let others = queue.next().map_or(u64::MAX, |&(run, _)| run);
        let mut pieces = 0_u32;
        for &(run, count) in self
            .domains
            .get(id)
            .map(|state| &state.runs)
            .into_iter()
            .flatten()
        {
            if run >= others || pieces >= MOST {
                break;
            }
            pieces = pieces.saturating_add(count).min(MOST);
        }
        Pick::Run {
            id,
            turn: Nanos::MAX,
            pieces: Some(pieces),
        }
    }

    fn granted(&mut self, _now: Nanos, id: DomainId, _estimate: Nanos, mut pieces: u32) {
        self.change(id, |state| {
            while let Some((run, count)) = state.runs.pop_front() {
                if count > pieces {
                    state.runs.push_front((run, count - pieces));
                    break;
                }
                pieces -= count;
            }
        });
    }

    fn charged(&mut self, _now: Nanos, _id: DomainId, _estimate: Nanos, _used: Nanos) {}

    fn owed(&mut self, _now: Nanos, _id: DomainId, _used: Nanos) {}
}
