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
    patience: Duration,
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
            patience: PATIENCE,
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
            .is_some_and(|since| since.elapsed() > self.patience)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn take(outbox: &mut Outbox) -> Option<Vec<u8>> {
        let bytes = outbox.front()?.to_vec();
        outbox.sent(bytes.len());
        Some(bytes)
    }

    #[test]
    fn identical_events_wait_once() {
        let mut outbox = Outbox::new(true);
        outbox.event("/a", b"t", false, None);
        outbox.event("/b", b"t", false, None);
        outbox.event("/a", b"t", false, None);
        let first = take(&mut outbox).unwrap();
        assert!(first.ends_with(b"/a\0t\0"));
        // What was sent is another event the next time, even where only its first byte was sent.
        outbox.event("/a", b"t", false, None);
        outbox.sent(1);
        outbox.event("/b", b"t", false, None);
        let rest: Vec<Vec<u8>> = std::iter::from_fn(|| take(&mut outbox)).collect();
        assert_eq!(rest.len(), 3);
        // Domains that come and go are counted.
        outbox.event("@releaseDomain", b"t", true, None);
        outbox.event("@releaseDomain", b"t", true, None);
        assert_eq!(std::iter::from_fn(|| take(&mut outbox)).count(), 2);
    }

    #[test]
    fn who_takes_nothing_is_cut_off() {
        let mut outbox = Outbox::new(false);
        let mut events = 0;
        while !outbox.overflowed() {
            outbox.event(&format!("/{events}"), b"t", false, None);
            events += 1;
            assert!(events <= GUEST_BYTES);
        }
        assert_eq!(outbox.front(), None);
    }

    #[test]
    fn a_request_is_outstanding_until_dom0_has_its_events() {
        let account = Arc::new(AtomicUsize::new(0));
        let (mut dom0, mut guest) = (Outbox::new(true), Outbox::new(false));
        let charge = Charge::new(&account);
        for outbox in [&mut dom0, &mut guest] {
            outbox.event("/a", b"t", false, Some(&charge));
            outbox.event("/b", b"t", false, Some(&charge));
        }
        drop(charge);
        assert!(dom0.holds_up_others() && !guest.holds_up_others());
        take(&mut dom0).unwrap();
        assert_eq!(account.load(Ordering::Relaxed), 1);
        take(&mut dom0).unwrap();
        assert_eq!(account.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn patience_ends() {
        let account = Arc::new(AtomicUsize::new(0));
        let mut dom0 = Outbox::new(true);
        dom0.event("/a", b"t", false, Some(&Charge::new(&account)));
        dom0.lose_patience();
        assert_eq!(account.load(Ordering::Relaxed), 1);
        dom0.patience = Duration::ZERO;
        dom0.lose_patience();
        assert_eq!(account.load(Ordering::Relaxed), 0);
        // And nobody else waits for it, until it takes something again.
        dom0.event("/b", b"t", false, Some(&Charge::new(&account)));
        assert!(!dom0.holds_up_others());
    }
}
