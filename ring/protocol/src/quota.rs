//! How much device memory a domain holds: one memfd for each domain, shared by vgpu-backd ([`QuotaBack`]) and
//! the domain's workers ([`QuotaWorker`]).
//!
//! Each worker has a slot, in which it alone writes what it holds, so that a worker that dies leaves no count
//! wrong: vgpu-backd clears its slot. Workers that lie can only hurt their own domain; vgpu-backd must never
//! believe a number here more than it shows it. docs/protocol.md §11 draws the memory and tells the rules.

use crate::codec::messages;
use crate::packet::{self, PacketError, WireExtent};
use crate::shared_page::{self, Header, Layout, SharedPage};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use xen::Extent;

/// First word of a quota: "VGPQ".
pub const MAGIC: u32 = u32::from_le_bytes(*b"VGPQ");
/// The version of a quota's layout.
pub const VERSION: u32 = 2;
/// Workers that a domain can have.
pub const SLOTS: u32 = 1024;
/// GPUs that a domain can see.
pub const GPUS: usize = 16;
/// Pages of 4096 bytes of a quota.
pub const QUOTA_PAGES: u32 = shared_page::pages::<Page>();

/// No limit.
const UNLIMITED: u64 = u64::MAX;
/// How often a worker tries again while others of its domain are about to decide who gets what is left.
const ATTEMPTS: u32 = 2000;

messages! {
    /// A worker's part of a quota, by the position of its descriptor.
    WireQuota {
        /// Its memory.
        memory: WireExtent,
        /// The worker's slot.
        slot: u32,
    }
}

/// What one worker writes.
#[repr(C)]
struct Slot {
    used: [AtomicU64; GPUS],
    asked: [AtomicU64; GPUS],
}

/// The memory. See [`Layout`].
#[repr(C)]
struct Page {
    header: Header,
    /// Slots from here on are not in use.
    slots: AtomicU32,
    reserved: AtomicU32,
    limits: [AtomicU64; GPUS],
    bounds: [AtomicU64; GPUS],
    contexts: [AtomicU64; GPUS],
    each: [Slot; SLOTS as usize],
}

impl Page {
    /// The domain's quota.
    fn limit(&self, gpu: usize) -> u64 {
        self.limits
            .get(gpu)
            .map_or(UNLIMITED, |limit| limit.load(Ordering::Relaxed))
    }

    /// What it may hold now: its quota, or less where that is not free.
    fn bound(&self, gpu: usize) -> u64 {
        let bound = self.bounds.get(gpu);
        let bound = bound.map_or(UNLIMITED, |bound| bound.load(Ordering::Relaxed));
        bound.min(self.limit(gpu))
    }

    /// The slots in use.
    fn slots(&self) -> &[Slot] {
        let count = self.slots.load(Ordering::SeqCst) as usize;
        self.each.get(..count).unwrap_or(&self.each)
    }

    fn used(&self, gpu: usize) -> u64 {
        let used = self.slots().iter().filter_map(|slot| slot.used.get(gpu));
        used.fold(0, |sum, used| {
            sum.saturating_add(used.load(Ordering::SeqCst))
        })
    }
}

// SAFETY: it is `repr(C)` and atomics alone, aligned to 8 bytes.
unsafe impl Layout for Page {
    const WHAT: &'static str = "a quota";
    const NAME: &'static str = "vgpu-quota";
    const MAGIC: u32 = MAGIC;
    const VERSION: u32 = VERSION;

    fn header(&self) -> &Header {
        &self.header
    }
}

/// vgpu-backd's end.
#[derive(Debug)]
pub struct QuotaBack {
    page: SharedPage<Page>,
    memory: Extent,
    taken: Mutex<BTreeSet<u32>>,
}

impl QuotaBack {
    /// A domain that holds nothing and has no limit.
    ///
    /// # Errors
    /// If the system has no memory or no descriptor for it.
    pub fn new() -> Result<Self, PacketError> {
        let (page, memory) = SharedPage::<Page>::create()?;
        for limit in page.limits.iter().chain(&page.bounds) {
            limit.store(UNLIMITED, Ordering::Relaxed);
        }
        Ok(QuotaBack {
            page,
            memory,
            taken: Mutex::default(),
        })
    }

    /// Limits what the domain may hold of each GPU that it sees. What it holds already stays.
    pub fn set_limit(&self, bytes: Option<u64>) {
        for limit in &self.page.limits {
            limit.store(bytes.unwrap_or(UNLIMITED), Ordering::Relaxed);
        }
    }

    /// Bounds what the domain may hold of a GPU for the time being, as others are to have the rest. It is not told
    /// of this as of its limit.
    pub fn set_bound(&self, gpu: usize, bytes: Option<u64>) {
        if let Some(bound) = self.page.bounds.get(gpu) {
            bound.store(bytes.unwrap_or(UNLIMITED), Ordering::Relaxed);
        }
    }

    /// Says what each context of a GPU that the domain sees counts, in bytes.
    pub fn set_context(&self, gpu: usize, bytes: u64) {
        if let Some(context) = self.page.contexts.get(gpu) {
            context.store(bytes, Ordering::Relaxed);
        }
    }

    /// What the domain's workers say that they hold of a GPU that it sees, in bytes.
    pub fn used(&self, gpu: usize) -> u64 {
        self.page.used(gpu)
    }

    /// A slot for a worker; `None` if all are in use.
    pub fn take_slot(&self) -> Option<u32> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (0..SLOTS).find(|slot| !taken.contains(slot))?;
        taken.insert(slot);
        self.show(&taken);
        Some(slot)
    }

    /// Takes a slot back, and all that its worker held. Only when the worker has ended: the driver has its
    /// memory back then.
    pub fn end_slot(&self, slot: u32) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = self.page.each.get(slot as usize) {
            for word in words.used.iter().chain(&words.asked) {
                word.store(0, Ordering::SeqCst);
            }
        }
        taken.remove(&slot);
        self.show(&taken);
    }

    fn show(&self, taken: &BTreeSet<u32>) {
        let count = taken.last().map_or(0, |slot| slot.saturating_add(1));
        self.page.slots.store(count, Ordering::SeqCst);
    }

    /// Names a worker's part in a message; the descriptor is appended to `fds`.
    pub fn put(&self, slot: u32, fds: &mut Vec<Arc<OwnedFd>>) -> WireQuota {
        let memory = packet::put_extent(&self.memory, fds);
        WireQuota { memory, slot }
    }
}

/// The domain holds as much as it may.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the domain's memory quota is used up")]
pub struct OverQuota;

/// A worker's end. Its threads share it.
#[derive(Debug)]
pub struct QuotaWorker {
    page: SharedPage<Page>,
    slot: u32,
    /// One of this worker's threads asks at a time.
    asking: Mutex<()>,
}

impl QuotaWorker {
    /// The quota that a message names.
    ///
    /// # Errors
    /// If the message lacks the descriptor, or the memory is not a quota of this version.
    pub fn take(wire: &WireQuota, fds: &[Arc<OwnedFd>]) -> Result<Self, PacketError> {
        if wire.slot >= SLOTS {
            return Err(PacketError::Malformed("a quota has no such slot"));
        }
        Ok(QuotaWorker {
            page: SharedPage::take(&wire.memory, fds)?,
            slot: wire.slot,
            asking: Mutex::default(),
        })
    }

    fn own(&self) -> Option<&Slot> {
        self.page.each.get(self.slot as usize)
    }

    /// The most that the domain may hold of a GPU, in bytes.
    pub fn limit(&self, gpu: usize) -> Option<u64> {
        let limit = self.page.limit(gpu);
        (limit != UNLIMITED).then_some(limit)
    }

    /// The most that the domain may hold of a GPU now, in bytes: its limit, or less.
    pub fn bound(&self, gpu: usize) -> Option<u64> {
        let bound = self.page.bound(gpu);
        (bound != UNLIMITED).then_some(bound)
    }

    /// What a context of a GPU counts, in bytes.
    pub fn context(&self, gpu: usize) -> u64 {
        let context = self.page.contexts.get(gpu);
        context.map_or(0, |context| context.load(Ordering::Relaxed))
    }

    /// What the domain holds of a GPU, in bytes.
    pub fn used(&self, gpu: usize) -> u64 {
        self.page.used(gpu)
    }

    /// Counts bytes as held.
    ///
    /// # Errors
    /// [`OverQuota`] if the domain would hold more than it may: then they are not counted.
    pub fn reserve(&self, gpu: usize, bytes: u64) -> Result<(), OverQuota> {
        let _alone = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let page = &*self.page;
        let Some((used, asked)) = self
            .own()
            .and_then(|own| Some((own.used.get(gpu)?, own.asked.get(gpu)?)))
        else {
            return Ok(());
        };
        // One thread at a time adds, and others only take away.
        let hold = || {
            let more = used.load(Ordering::SeqCst).saturating_add(bytes);
            more != UNLIMITED && {
                used.fetch_add(bytes, Ordering::SeqCst);
                true
            }
        };
        if page.bound(gpu) == UNLIMITED {
            return hold().then_some(()).ok_or(OverQuota);
        }
        for attempt in 0..ATTEMPTS {
            // Asked before looking, and held before the wish is withdrawn: of two workers that ask at once, at
            // least one sees the other.
            asked.store(bytes, Ordering::SeqCst);
            let (mut held, mut wished) = (0u64, 0u64);
            for (number, slot) in (0..).zip(page.slots()) {
                let read = |word: Option<&AtomicU64>| word.map_or(0, |w| w.load(Ordering::SeqCst));
                // In this order: what moves between the two looks is seen twice, never missed.
                let wishes = read(slot.asked.get(gpu));
                held = held.saturating_add(read(slot.used.get(gpu)));
                if number != self.slot {
                    wished = wished.saturating_add(wishes);
                }
            }
            let limit = page.bound(gpu);
            let needed = held.saturating_add(bytes);
            let granted = needed.saturating_add(wished) <= limit && hold();
            asked.store(0, Ordering::SeqCst);
            if granted {
                return Ok(());
            }
            if needed > limit {
                return Err(OverQuota);
            }
            // It depends on who else asks now. Different workers try again at different times.
            let turn = u64::from(self.slot % 8).saturating_add(u64::from(attempt % 4));
            std::thread::sleep(Duration::from_micros(turn.saturating_mul(10)));
        }
        Err(OverQuota)
    }

    /// Counts bytes as held no more.
    pub fn release(&self, gpu: usize, bytes: u64) {
        if let Some(used) = self.own().and_then(|own| own.used.get(gpu)) {
            let less = |used: u64| Some(used.saturating_sub(bytes));
            // `less` never refuses.
            let _ = used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn worker(back: &QuotaBack) -> (u32, QuotaWorker) {
        let slot = back.take_slot().unwrap();
        let mut fds = Vec::new();
        let wire = back.put(slot, &mut fds);
        (slot, QuotaWorker::take(&wire, &fds).unwrap())
    }

    #[test]
    fn a_domains_workers_share_its_quota_to_the_byte() {
        let back = QuotaBack::new().unwrap();
        let ((first, a), (_, b)) = (worker(&back), worker(&back));
        a.reserve(0, 1 << 50).unwrap();
        assert_eq!(
            (a.limit(0), b.used(0), back.used(0)),
            (None, 1 << 50, 1 << 50)
        );
        a.release(0, 1 << 50);
        back.set_limit(Some(1000));
        a.reserve(0, 600).unwrap();
        assert_eq!(b.reserve(0, 401), Err(OverQuota));
        b.reserve(0, 400).unwrap();
        assert_eq!(a.reserve(0, 1), Err(OverQuota));
        // Each GPU by itself.
        a.reserve(1, 1000).unwrap();
        assert_eq!((b.limit(0), b.used(0), b.used(1)), (Some(1000), 1000, 1000));
        b.release(0, 400);
        b.reserve(0, 400).unwrap();
        // A worker that ends gives all back.
        back.end_slot(first);
        assert_eq!((back.used(0), back.used(1)), (400, 0));
        b.reserve(0, 600).unwrap();
        // A smaller quota takes nothing away.
        back.set_limit(Some(10));
        assert_eq!(b.reserve(0, 1), Err(OverQuota));
        assert_eq!(back.used(0), 1000);
        back.set_limit(None);
        b.reserve(0, 1).unwrap();
        // A bound holds beside the limit, for one GPU, and is not shown as one.
        back.set_bound(0, Some(1001));
        assert_eq!(b.reserve(0, 1), Err(OverQuota));
        assert_eq!(
            (b.limit(0), b.bound(0), b.bound(1)),
            (None, Some(1001), None)
        );
        back.set_limit(Some(5));
        assert_eq!((b.limit(0), b.bound(0)), (Some(5), Some(5)));
        back.set_limit(None);
        back.set_bound(0, None);
        b.reserve(0, 1).unwrap();
    }

    #[test]
    fn no_size_overflows() {
        let back = QuotaBack::new().unwrap();
        let (_, a) = worker(&back);
        a.reserve(0, 10).unwrap();
        for bytes in [u64::MAX, u64::MAX - 5, u64::MAX - 10] {
            assert_eq!(a.reserve(0, bytes), Err(OverQuota));
        }
        back.set_limit(Some(1 << 40));
        assert_eq!(a.reserve(0, u64::MAX), Err(OverQuota));
        a.release(0, u64::MAX);
        assert_eq!(a.used(0), 0);
        back.set_context(1, 300);
        back.set_context(GPUS, 400);
        assert_eq!((a.context(0), a.context(1), a.context(GPUS)), (0, 300, 0));
        // No such GPU: nothing to count.
        a.reserve(GPUS, 1).unwrap();
        a.release(usize::MAX, 1);
        assert_eq!(a.limit(GPUS), None);
    }

    #[test]
    fn slots_come_back_and_run_out() {
        let back = QuotaBack::new().unwrap();
        let slots: Vec<u32> = (0..SLOTS).map(|_| back.take_slot().unwrap()).collect();
        assert_eq!(back.take_slot(), None);
        back.end_slot(slots[7]);
        assert_eq!(back.take_slot(), Some(7));
        for slot in slots {
            back.end_slot(slot);
        }
        back.end_slot(u32::MAX);
        assert_eq!(back.page.slots.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn what_is_not_a_quota_is_refused() {
        let back = QuotaBack::new().unwrap();
        let mut fds = Vec::new();
        let wire = back.put(0, &mut fds);
        assert!(QuotaWorker::take(&wire, &[]).is_err());
        let short = WireQuota {
            memory: WireExtent {
                pages: 1,
                ..wire.memory.clone()
            },
            ..wire
        };
        assert!(QuotaWorker::take(&short, &fds).is_err());
        assert!(
            QuotaWorker::take(
                &WireQuota {
                    slot: SLOTS,
                    ..wire.clone()
                },
                &fds
            )
            .is_err()
        );
        back.page.header.magic.store(0, Ordering::Relaxed);
        assert!(QuotaWorker::take(&wire, &fds).is_err());
    }

    #[test]
    fn workers_that_ask_at_once_get_all_of_it_and_never_more() {
        const PIECES: u64 = 64;
        for _ in 0..20 {
            let back = QuotaBack::new().unwrap();
            back.set_limit(Some(PIECES * 100));
            let workers: Vec<QuotaWorker> = (0..4).map(|_| worker(&back).1).collect();
            let got: Vec<u64> = thread::scope(|scope| {
                let asks = workers.iter().map(|worker| {
                    scope.spawn(move || {
                        let mut got = 0u64;
                        while worker.reserve(0, 100).is_ok() {
                            got += 1;
                            // Given back and asked for again now and then.
                            if got.is_multiple_of(5) {
                                worker.release(0, 100);
                                got -= 1;
                                if worker.reserve(0, 100).is_err() {
                                    break;
                                }
                                got += 1;
                            }
                            assert!(worker.used(0) <= PIECES * 100);
                        }
                        got
                    })
                });
                let asks: Vec<_> = asks.collect();
                asks.into_iter().map(|ask| ask.join().unwrap()).collect()
            });
            assert_eq!(got.iter().sum::<u64>(), PIECES, "{got:?}");
            assert_eq!(back.used(0), PIECES * 100);
        }
    }
}
