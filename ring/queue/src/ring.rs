//! One byte ring: the producing half and the consuming half, used in both directions. Own indices
//! live here, in private memory, and are never read back from the page; each index of the peer is
//! loaded once and checked before it means anything. A half never sleeps and never notifies: it says
//! whether the peer asked to be notified.

use crate::{
    Error, Ticket,
    layout::{RECORD_HEADER_BYTES, RingId, Word, max_payload},
    memory::{Pages, Track},
    sync::{AtomicU32, Ordering, fence},
};
use std::sync::Arc;

/// Bytes that a payload of `len` takes in a ring.
fn record_bytes(len: u32) -> u32 {
    RECORD_HEADER_BYTES + len.next_multiple_of(8)
}

/// Whether the move of an index from `old` to `new` passes the peer's `event`: the final-check
/// protocol of Xen's io/ring.h.
fn passes(event: u32, old: u32, new: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// The header of one record, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) ticket: Ticket,
    pub(crate) flags: u32,
}

/// The half that writes records.
#[derive(Debug)]
pub(crate) struct Producer {
    pages: Pages,
    track: Track,
    ring: RingId,
    bytes: u32,
    prod: u32,
    /// The peer's last checked `cons`.
    cons: u32,
}

impl Producer {
    pub(crate) fn new(pages: Pages, ring: RingId) -> Self {
        Self {
            track: pages.track(ring),
            ring,
            bytes: ring.bytes(&pages.layout()),
            pages,
            prod: 0,
            cons: 0,
        }
    }

    /// Bytes of ring that a record of these parts takes.
    pub(crate) fn measure(&self, parts: &[&[u8]]) -> Result<u32, Error> {
        let len = parts
            .iter()
            .fold(0usize, |sum, part| sum.saturating_add(part.len()));
        let max = max_payload(self.bytes);
        match u32::try_from(len) {
            Ok(len) if len <= max => Ok(record_bytes(len)),
            _ => Err(Error::TooLong {
                len,
                max: max as usize,
            }),
        }
    }

    /// Whether a record of `need` bytes fits now. Looks at the shared page only if the last look
    /// found too little.
    pub(crate) fn has_room(&mut self, need: u32) -> Result<bool, Error> {
        if self.bytes - self.prod.wrapping_sub(self.cons) >= need {
            return Ok(true);
        }
        let cons = self.pages.word(self.ring.cons()).load(Ordering::Acquire);
        let used = self.prod.wrapping_sub(cons);
        if used > self.prod.wrapping_sub(self.cons) || !cons.is_multiple_of(8) {
            return Err(Error::Protocol {
                peer: self.ring.consumer(),
                what: "its consumer index left the records that were under way",
                value: cons.into(),
            });
        }
        self.cons = cons;
        Ok(self.bytes - used >= need)
    }

    /// Writes and publishes one record. `need` is what `measure` said of the same parts, and
    /// `has_room` said that it fits. Returns whether the peer sleeps and must be notified.
    pub(crate) fn push(&mut self, need: u32, head: Head, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.track
            .store(self.prod, len as u64 | u64::from(head.flags) << 32);
        self.track.store(self.prod.wrapping_add(8), head.ticket);
        self.write(self.prod.wrapping_add(RECORD_HEADER_BYTES), parts);
        let old = self.prod;
        self.prod = old.wrapping_add(need);
        // Release: who sees the index sees the record.
        self.pages
            .word(self.ring.prod())
            .store(self.prod, Ordering::Release);
        // Index first, then the event; the consumer does it the other way round. Of the two, one
        // sees what the other did.
        fence(Ordering::SeqCst);
        let event = self
            .pages
            .word(self.ring.prod_event())
            .load(Ordering::Relaxed);
        passes(event, old, self.prod)
    }

    /// Writes the parts as one run of bytes, zero-filled to a whole word.
    fn write(&self, mut position: u32, parts: &[&[u8]]) {
        let mut word = 0u64;
        let mut filled = 0;
        for part in parts {
            let mut rest = *part;
            while filled > 0
                && let Some((byte, after)) = rest.split_first()
            {
                word |= u64::from(*byte) << (8 * filled);
                filled = (filled + 1) % 8;
                rest = after;
                if filled == 0 {
                    self.track.store(position, word);
                    position = position.wrapping_add(8);
                    word = 0;
                }
            }
            let (words, tail) = rest.as_chunks::<8>();
            for bytes in words {
                self.track.store(position, u64::from_le_bytes(*bytes));
                position = position.wrapping_add(8);
            }
            for byte in tail {
                word |= u64::from(*byte) << (8 * filled);
                filled += 1;
            }
        }
        if filled > 0 {
            self.track.store(position, word);
        }
    }
}

/// The half that takes records out.
#[derive(Debug)]
pub(crate) struct Consumer {
    pages: Pages,
    track: Track,
    ring: RingId,
    bytes: u32,
    /// Up to here the space is given back.
    cons: u32,
    /// Up to here records are taken; at or after `cons`.
    read: u32,
    /// The same, for [`Visible`].
    seen: Arc<AtomicU32>,
    /// The peer's last checked `prod`.
    prod: u32,
}

impl Consumer {
    pub(crate) fn new(pages: Pages, ring: RingId) -> Self {
        Self {
            track: pages.track(ring),
            ring,
            bytes: ring.bytes(&pages.layout()),
            pages,
            cons: 0,
            read: 0,
            seen: Arc::new(AtomicU32::new(0)),
            prod: 0,
        }
    }

    /// A view of what was published and not taken.
    pub(crate) fn visible(&self) -> Visible {
        Visible {
            track: self.pages.track(self.ring),
            pages: self.pages.clone(),
            ring: self.ring,
            bytes: self.bytes,
            read: Arc::clone(&self.seen),
        }
    }

    fn protocol(&self, what: &'static str, value: u64) -> Error {
        Error::Protocol {
            peer: self.ring.producer(),
            what,
            value,
        }
    }

    /// Whether the peer published something: one load, to poll with. Believes nothing yet.
    pub(crate) fn stirs(&self) -> bool {
        self.pages.word(self.ring.prod()).load(Ordering::Relaxed) != self.read
    }

    /// Whether a record can be taken; checks the peer's index.
    pub(crate) fn available(&mut self) -> Result<bool, Error> {
        if self.prod != self.read {
            return Ok(true);
        }
        // Acquire: who sees the index sees the record.
        let prod = self.pages.word(self.ring.prod()).load(Ordering::Acquire);
        let ahead = prod.wrapping_sub(self.read);
        if ahead > self.bytes - self.read.wrapping_sub(self.cons) || !prod.is_multiple_of(8) {
            return Err(self.protocol("its producer index is beyond the ring", prod.into()));
        }
        self.prod = prod;
        Ok(ahead != 0)
    }

    /// Copies the next record's payload into `buf` and returns its header; `None` if there is none.
    pub(crate) fn take(&mut self, buf: &mut Vec<u8>) -> Result<Option<Head>, Error> {
        if !self.available()? {
            return Ok(None);
        }
        let published = self.prod.wrapping_sub(self.read);
        if published < RECORD_HEADER_BYTES {
            return Err(self.protocol("it published less than a record's header", published.into()));
        }
        let first = self.track.load(self.read);
        let ticket = self.track.load(self.read.wrapping_add(8));
        let len = first as u32;
        if len > max_payload(self.bytes) {
            return Err(self.protocol("a record is longer than the limit", len.into()));
        }
        if record_bytes(len) > published {
            return Err(self.protocol("a record is longer than what is published", len.into()));
        }
        let mut position = self.read.wrapping_add(RECORD_HEADER_BYTES);
        buf.clear();
        buf.resize(len.next_multiple_of(8) as usize, 0);
        for bytes in buf.as_chunks_mut::<8>().0 {
            *bytes = self.track.load(position).to_le_bytes();
            position = position.wrapping_add(8);
        }
        buf.truncate(len as usize);
        self.read = position;
        self.seen.store(position, Ordering::Relaxed);
        Ok(Some(Head {
            ticket,
            flags: (first >> 32) as u32,
        }))
    }

    /// Asks to be notified of the next record. Look once more (`available`) before sleeping.
    pub(crate) fn arm(&self) {
        self.pages
            .word(self.ring.prod_event())
            .store(self.read.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Gives the space of all taken records back. Returns how far the index moved: from, to.
    pub(crate) fn release(&mut self) -> (u32, u32) {
        let old = self.cons;
        self.cons = self.read;
        // Release: the copies out of the ring come before the producer's next writes into it.
        self.pages
            .word(self.ring.cons())
            .store(self.cons, Ordering::Release);
        (old, self.cons)
    }
}

/// What the peer has published and the consumer not taken: to plan by, not to believe.
#[derive(Debug)]
pub(crate) struct Visible {
    pages: Pages,
    track: Track,
    ring: RingId,
    bytes: u32,
    read: Arc<AtomicU32>,
}

impl Visible {
    /// Records, at most `limit`. Whatever the peer writes, it looks at no more than that and at nothing but
    /// the ring.
    pub(crate) fn count(&self, limit: u32) -> u32 {
        let mut position = self.read.load(Ordering::Relaxed);
        // Acquire: who sees the index sees the records.
        let prod = self.pages.word(self.ring.prod()).load(Ordering::Acquire);
        let mut left = prod.wrapping_sub(position);
        let mut count = 0;
        while count < limit && left >= RECORD_HEADER_BYTES && left <= self.bytes {
            let len = self.track.load(position & !7) as u32;
            if len > max_payload(self.bytes) || record_bytes(len) > left {
                break;
            }
            position = position.wrapping_add(record_bytes(len));
            left -= record_bytes(len);
            count += 1;
        }
        count
    }
}

/// The front asks to be notified of the back's next progress in the submission ring. Returns whether
/// there was none meanwhile: then look once more at what is waited for, and sleep. One thread at a
/// time: a late store of an old index would disarm another's newer one.
pub(crate) fn arm_progress(pages: &Pages) -> bool {
    let cons = pages.word(Word::SqCons);
    let seen = cons.load(Ordering::Acquire);
    pages
        .word(Word::SqConsEvent)
        .store(seen.wrapping_add(1), Ordering::Relaxed);
    fence(Ordering::SeqCst);
    cons.load(Ordering::Acquire) == seen
}

/// Whether the front waits for the back's progress from `old` to `new`, which was just published.
pub(crate) fn progress_is_awaited(pages: &Pages, (old, new): (u32, u32)) -> bool {
    fence(Ordering::SeqCst);
    passes(
        pages.word(Word::SqConsEvent).load(Ordering::Relaxed),
        old,
        new,
    )
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::{Layout, inproc};

    /// Both halves of one ring whose indices stand at `start`, as if it had run for long.
    fn halves(ring: RingId, start: u32) -> (Pages, Producer, Consumer) {
        let layout = Layout::new(4096, 4096, 0).unwrap();
        let pages = Pages::new(inproc::memory(layout.total_bytes()), layout).unwrap();
        pages.word(ring.prod()).store(start, Ordering::Relaxed);
        pages.word(ring.cons()).store(start, Ordering::Relaxed);
        pages
            .word(ring.prod_event())
            .store(start.wrapping_add(1), Ordering::Relaxed);
        let mut producer = Producer::new(pages.clone(), ring);
        (producer.prod, producer.cons) = (start, start);
        let mut consumer = Consumer::new(pages.clone(), ring);
        (consumer.prod, consumer.read, consumer.cons) = (start, start, start);
        consumer.seen.store(start, Ordering::Relaxed);
        (pages, producer, consumer)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(Vec<Vec<u8>>),
        Take,
        Arm,
        Release,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let part = prop::collection::vec(any::<u8>(), 0..400);
        prop::collection::vec(
            prop_oneof![
                4 => prop::collection::vec(part, 0..5).prop_map(Step::Push),
                4 => Just(Step::Take),
                1 => Just(Step::Arm),
                2 => Just(Step::Release),
            ],
            1..120,
        )
    }

    proptest! {
        /// Records of any sizes, cut into any parts, arrive whole and in order, wherever the indices
        /// stand; a notification is asked for exactly when the consumer armed and has not been
        /// notified since; what is left of the last word is zero.
        #[test]
        fn records_go_round(
            steps in steps(),
            start in prop_oneof![Just(0u32), any::<u32>(), u32::MAX - 8192..=u32::MAX],
            completion in any::<bool>(),
        ) {
            let ring = if completion { RingId::Completion } else { RingId::Submission };
            let start = start & !7;
            let (_pages, mut producer, mut consumer) = halves(ring, start);
            let mut under_way: VecDeque<(Ticket, Vec<u8>)> = VecDeque::new();
            let (mut used, mut taken) = (0u32, 0u32);
            let mut ticket = 0;
            let mut armed = true;
            let mut buf = vec![0xee; 10];
            for step in steps {
                match step {
                    Step::Push(parts) => {
                        let whole = parts.concat();
                        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                        let Ok(need) = producer.measure(&parts) else {
                            prop_assert!(whole.len() > 1024);
                            continue;
                        };
                        prop_assert_eq!(need as usize, 16 + whole.len().div_ceil(8) * 8);
                        let room = producer.has_room(need).unwrap();
                        prop_assert_eq!(room, used + need <= 4096);
                        if room {
                            ticket += 1;
                            let last = producer.prod.wrapping_add(need - 8);
                            let notify = producer.push(need, Head { ticket, flags: 1 }, &parts);
                            prop_assert_eq!(notify, armed);
                            armed = false;
                            let rest = whole.len() % 8;
                            if rest > 0 {
                                prop_assert_eq!(producer.track.load(last) >> (8 * rest), 0);
                            }
                            used += need;
                            under_way.push_back((ticket, whole));
                        }
                    }
                    Step::Take => {
                        let head = consumer.take(&mut buf).unwrap();
                        match under_way.pop_front() {
                            None => prop_assert!(head.is_none()),
                            Some((ticket, whole)) => {
                                prop_assert_eq!(head.map(|head| head.ticket), Some(ticket));
                                taken += record_bytes(whole.len() as u32);
                                prop_assert_eq!(&buf, &whole);
                            }
                        }
                    }
                    // An end arms when it found nothing to take.
                    Step::Arm => if under_way.is_empty() {
                        consumer.arm();
                        armed = true;
                    },
                    Step::Release => {
                        let (from, to) = consumer.release();
                        prop_assert_eq!(to.wrapping_sub(from), taken);
                        used -= std::mem::take(&mut taken);
                    }
                }
            }
        }

        /// Whatever the peer writes into its index, a producer never counts more room than it has.
        #[test]
        fn a_consumer_index_is_believed_only_if_it_can_be(start in any::<u32>(), lie in any::<u32>()) {
            let start = start & !7;
            let (pages, mut producer, _) = halves(RingId::Submission, start);
            for ticket in 1..=4 {
                prop_assert!(producer.has_room(1024).unwrap());
                producer.push(1024, Head { ticket, flags: 0 }, &[&[0; 1008]]);
            }
            pages.word(Word::SqCons).store(lie, Ordering::Relaxed);
            let freed = lie.wrapping_sub(start);
            match producer.has_room(1024) {
                Ok(room) => {
                    prop_assert!(freed <= 4096 && freed % 8 == 0);
                    prop_assert_eq!(room, freed >= 1024);
                }
                Err(_) => prop_assert!(freed > 4096 || freed % 8 != 0),
            }
        }

        /// The same for a producer's index, and for the header of the record it points at.
        #[test]
        fn a_producer_index_and_a_header_are_believed_only_if_they_can_be(
            start in any::<u32>(),
            lie in prop_oneof![any::<u32>(), (0u32..5000).prop_map(|n| n & !7)],
            len in prop_oneof![any::<u32>(), 0u32..1100],
        ) {
            let start = start & !7;
            let (pages, _, mut consumer) = halves(RingId::Completion, start);
            pages.word(Word::CqProd).store(start.wrapping_add(lie), Ordering::Relaxed);
            consumer.track.store(start, len.into());
            prop_assert!(consumer.visible().count(300) <= 256);
            let mut buf = Vec::new();
            match consumer.take(&mut buf) {
                Ok(None) => prop_assert_eq!(lie, 0),
                Ok(Some(_)) => {
                    prop_assert!(lie <= 4096 && lie % 8 == 0);
                    prop_assert!(len <= 1024 && record_bytes(len) <= lie);
                    prop_assert_eq!(buf.len(), len as usize);
                }
                Err(_) => prop_assert!(
                    lie > 4096 || lie % 8 != 0 || len > 1024 || record_bytes(len) > lie
                ),
            }
        }
    }

    #[test]
    fn records_that_are_not_taken_are_counted() {
        for start in [0, u32::MAX - 1023] {
            let (_pages, mut producer, mut consumer) = halves(RingId::Submission, start);
            let visible = consumer.visible();
            assert_eq!(visible.count(9), 0);
            for ticket in 1..=5 {
                producer.push(416, Head { ticket, flags: 0 }, &[&[7; 400]]);
            }
            assert_eq!((visible.count(9), visible.count(3)), (5, 3));
            let mut buf = Vec::new();
            consumer.take(&mut buf).unwrap();
            assert_eq!(visible.count(9), 4);
        }
    }

    #[test]
    fn an_event_is_passed_by_the_move_that_crosses_it() {
        assert!(passes(1, 0, 8));
        assert!(passes(8, 0, 8));
        assert!(!passes(9, 0, 8));
        assert!(!passes(0, 0, 8));
        assert!(!passes(5, 8, 8));
        assert!(passes(u32::MAX - 6, u32::MAX - 7, 0));
        assert!(passes(1, u32::MAX - 7, 8));
    }
}
