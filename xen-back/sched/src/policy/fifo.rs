//! First in, first out: no scheduling at all. It is here to be compared with; a domain that floods the queue
//! gets the device.

use std::collections::VecDeque;

use super::{Pick, Policy, PolicyKind, Table};
use crate::{DomainId, Nanos, Share};

/// All pieces of work in one queue, in the order of their arrival.
#[derive(Debug, Default)]
pub struct Fifo {
    queue: VecDeque<DomainId>,
    domains: Table<State>,
}

#[derive(Debug, Default)]
struct State {
    ready: bool,
    /// Pieces taken out of the queue while the domain was over its cap.
    parked: u32,
}

impl Policy for Fifo {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Fifo
    }

    fn insert(&mut self, _now: Nanos, id: DomainId, _share: Share) {
        self.domains.insert(id, State::default());
    }

    fn update(&mut self, _now: Nanos, _id: DomainId, _share: Share) {}

    fn remove(&mut self, _now: Nanos, id: DomainId) {
        self.domains.remove(id);
        self.queue.retain(|queued| *queued != id);
    }

    fn ready(&mut self, _now: Nanos, id: DomainId) {
        if let Some(state) = self.domains.get_mut(id) {
            state.ready = true;
            for _ in 0..std::mem::take(&mut state.parked) {
                self.queue.push_front(id);
            }
        }
    }

    fn unready(&mut self, _now: Nanos, id: DomainId) {
        if let Some(state) = self.domains.get_mut(id) {
            state.ready = false;
        }
    }

    fn arrived(&mut self, _now: Nanos, id: DomainId) {
        self.queue.push_back(id);
    }

    fn pick(&mut self, _now: Nanos, _idle: bool) -> Pick {
        while let Some(&id) = self.queue.front() {
            match self.domains.get_mut(id) {
                // One piece at a time: the next in the queue may be somebody else's.
                Some(state) if state.ready => return Pick::Run { id, turn: 0 },
                Some(state) => state.parked += 1,
                None => {}
            }
            self.queue.pop_front();
        }
        Pick::Nobody
    }

    fn granted(&mut self, _now: Nanos, id: DomainId, _estimate: Nanos, pieces: u32) {
        for _ in 0..pieces {
            if self.queue.front() == Some(&id) {
                self.queue.pop_front();
            }
        }
    }

    fn charged(&mut self, _now: Nanos, _id: DomainId, _estimate: Nanos, _used: Nanos) {}
}
