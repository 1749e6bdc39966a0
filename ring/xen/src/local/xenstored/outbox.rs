//! What waits to be sent to one client of the local XenStore.
//!
//! Bounded: identical watch events are kept once, and a client that lets too much pile up is cut off. It must
//! never let one client's slowness cost another memory or time, save that a domain whose requests made events
//! for dom0 waits until dom0 has taken them (C xenstored's limit on outstanding requests).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::store::wire::{self, Op};

/// Bytes that may wait for a guest's client before it is cut off.
const GUEST_BYTES: usize = 256 << 10;
/// Bytes that may wait for one of dom0's.
const PRIVILEGED_BYTES: usize = 16 << 20;
/// A client that takes nothing for this long no longer holds up the domains whose events wait for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// One request of a domain that is outstanding until every event it caused was taken.
#[derive(Debug)]
pub struct Charge(Arc<AtomicUsize>);

impl Charge {
    /// One more outstanding request on this domain's account.
    pub fn new(account: &Arc<AtomicUsize>) -> Arc<Charge> {
        account.fetch_add(1, Ordering::Relaxed);
        Arc::new(Charge(Arc::clone(account)))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Item {
    bytes: Arc<[u8]>,
    is_event: bool,
    charge: Option<Arc<Charge>>,
}

/// The queue.
#[derive(Debug)]
pub struct Outbox {
    privileged: bool,
    items: VecDeque<Item>,
    /// The events that wait and of which no byte was sent.
    events: HashSet<Arc<[u8]>>,
    bytes: usize,
    replies: usize,
    /// Bytes of the first item that were sent.
    sent: usize,
    /// Since when nothing was taken though something waited.
    stuck_since: Option<Instant>,
    overflowed: bool,
}

impl Outbox {
    /// An empty queue for a client of dom0 or of a guest.
    pub fn new(privileged: bool) -> Outbox {
        Outbox {
            privileged,
            items: VecDeque::new(),
            events: HashSet::new(),
            bytes: 0,
            replies: 0,
            sent: 0,
            stuck_since: None,
            overflowed: false,
        }
    }

    /// Queues the answer to a request.
    pub fn reply(&mut self, kind: Op, req_id: u32, tx_id: u32, payload: &[u8]) {
        self.replies += 1;
        self.push(Item {
            bytes: wire::encode(kind, req_id, tx_id, payload).into(),
            is_event: false,
            charge: None,
        });
    }

    /// Queues a watch event; one that waits already is not queued again, unless it `repeats` (each arrival or
    /// departure of a domain counts).
    pub fn event(&mut self, path: &str, token: &[u8], repeats: bool, charge: Option<&Arc<Charge>>) {
        let mut payload = Vec::with_capacity(path.len() + token.len() + 2);
        payload.extend_from_slice(path.as_bytes());
        payload.push(0);
        payload.extend_from_slice(token);
        payload.push(0);
        if payload.len() > wire::PAYLOAD_MAX {
            return;
        }
        let bytes: Arc<[u8]> = wire::encode(Op::WatchEvent, 0, 0, &payload).into();
        if !repeats && !self.events.insert(Arc::clone(&bytes)) {
            return;
        }
        // Only dom0's slowness may hold up the domain that caused this; a guest's queue is short instead.
        let charge = if self.privileged && !self.is_stuck() {
            charge.cloned()
        } else {
            None
        };
        self.push(Item {
            bytes,
            is_event: true,
            charge,
        });
    }

    fn push(&mut self, item: Item) {
        if self.overflowed {
            return;
        }
        let most = if self.privileged {
            PRIVILEGED_BYTES
        } else {
            GUEST_BYTES
        };
        if self.bytes + item.bytes.len() > most {
            self.overflowed = true;
            self.items.clear();
            self.events.clear();
            return;
        }
        if self.items.is_empty() {
            self.stuck_since = Some(Instant::now());
        }
        self.bytes += item.bytes.len();
        self.items.push_back(item);
    }

    /// What is to be sent next.
    pub fn front(&self) -> Option<&[u8]> {
        self.items
            .front()
            .and_then(|item| item.bytes.get(self.sent..))
    }

    /// So many bytes of [`Outbox::front`] were sent.
    pub fn sent(&mut self, bytes: usize) {
        let Some(first) = self.items.front() else {
            return;
        };
        if self.sent == 0 && first.is_event {
            self.events.remove(&first.bytes);
        }
        self.sent += bytes;
        self.stuck_since = Some(Instant::now());
        if self.sent >= first.bytes.len() {
            self.sent = 0;
            if let Some(item) = self.items.pop_front() {
                self.bytes = self.bytes.saturating_sub(item.bytes.len());
                self.replies -= usize::from(!item.is_event);
            }
            if self.items.is_empty() {
                self.stuck_since = None;
            }
        }
    }

    /// Answers that wait to be taken.
    pub fn replies(&self) -> usize {
        self.replies
    }

    /// Whether too much piled up; the connection is to be closed.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    fn is_stuck(&self) -> bool {
        self.stuck_since
            .is_some_and(|since| since.elapsed() > PATIENCE)
    }

    /// Lets go of the domains that wait for this client, where it has taken nothing for too long.
    pub fn lose_patience(&mut self) {
        if self.is_stuck() {
            for item in &mut self.items {
                item.charge = None;
            }
        }
    }

    /// Whether any domain waits for this client.
    pub fn holds_up_others(&self) -> bool {
        self.items.iter().any(|item| item.charge.is_some())
    }
}
