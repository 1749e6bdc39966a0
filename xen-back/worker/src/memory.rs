//! What this process holds of the device's memory, counted against its domain's quota.
//!
//! Every allocation is counted before the driver makes it and until the driver has it back: memory freed in
//! stream order counts until its stream has come that far. What a context held goes with the context. Must
//! never let the driver allocate what was not counted.

use crate::tables::Native;
use cuda_abi::{CuResult, Driver, Handle};
use std::collections::HashMap;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use vgpu_protocol::quota::QuotaWorker;

/// Memory counts in multiples of so many bytes, as devices give it out.
const GRAIN: u64 = 512;
/// How often memory that is freed in stream order is looked after by who waits for it.
const LOOK: Duration = Duration::from_micros(200);

/// Where memory is: a context and the device it is on, by the guest's numbers.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The guest's index of the context.
    pub context: u32,
    /// The device, as the guest numbers those that it sees.
    pub gpu: usize,
}

/// What a context holds beside allocations. Each is counted once.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Held {
    /// What one of `cuCtxSetLimit`'s limits takes.
    Limit(i32),
    /// A module's variables.
    Module(u32),
    /// What the driver takes for the context itself.
    Context,
}

#[derive(Debug)]
struct Block {
    place: Place,
    bytes: u64,
}

/// Memory that was freed in stream order.
#[derive(Debug)]
struct Freed {
    block: Block,
    stream: Native,
    /// Recorded in the stream behind the free.
    event: Native,
}

#[derive(Debug, Default)]
struct State {
    /// By address.
    blocks: HashMap<u64, Block>,
    held: HashMap<(u32, Held), Block>,
    /// Oldest first.
    freed: Vec<Freed>,
}

/// The account of a process. Threads share it.
#[derive(Debug)]
pub struct Memory {
    quota: QuotaWorker,
    state: Mutex<State>,
}

/// Bytes that are counted for an allocation under way; given back where it fails.
#[derive(Debug)]
pub struct Reservation {
    memory: Arc<Memory>,
    place: Place,
    bytes: u64,
}

impl Reservation {
    /// The allocation was made, here.
    pub fn keep(mut self, address: u64) {
        let block = self.block();
        let before = self.memory.state().blocks.insert(address, block);
        // A driver that gives out an address twice has freed what was there.
        self.memory.release(before);
    }

    /// The context holds it, in place of what it held for the same before.
    pub fn hold(mut self, what: Held) {
        let (key, block) = ((self.place.context, what), self.block());
        let before = self.memory.state().held.insert(key, block);
        self.memory.release(before);
    }

    /// From here on the bytes are counted as the block's.
    fn block(&mut self) -> Block {
        Block {
            place: self.place,
            bytes: std::mem::take(&mut self.bytes),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.quota.release(self.place.gpu, self.bytes);
    }
}

/// An allocation that the driver is about to free.
#[derive(Debug)]
pub struct Leaving {
    address: u64,
    block: Option<Block>,
}

impl Memory {
    /// The account of a process that holds nothing.
    pub fn new(quota: QuotaWorker) -> Memory {
        Memory {
            quota,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, blocks: impl IntoIterator<Item = Block>) {
        for block in blocks {
            self.quota.release(block.place.gpu, block.bytes);
        }
    }

    /// The most that the domain may hold of a device now, in bytes, if there is such a bound.
    pub fn bound(&self, gpu: usize) -> Option<u64> {
        self.quota.bound(gpu)
    }

    /// What the domain holds of a device, in bytes.
    pub fn used(&self, gpu: usize) -> u64 {
        self.quota.used(gpu)
    }

    /// Free and total bytes of a device as the domain has it, from what the driver says.
    pub fn seen(&self, gpu: usize, free: usize, total: usize) -> (usize, usize) {
        let Some(bound) = self.bound(gpu) else {
            return (free, total);
        };
        let left = bound.saturating_sub(self.used(gpu));
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let limit = self.quota.limit(gpu).unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        (free.min(left), total.min(limit))
    }

    /// Counts bytes for an allocation.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY` beyond the quota. [`Memory::may_shrink`] says whether waiting can help.
    pub fn reserve(
        self: &Arc<Self>,
        driver: &Driver,
        place: Place,
        bytes: u64,
    ) -> Result<Reservation, CuResult> {
        let counted = bytes
            .max(1)
            .checked_next_multiple_of(GRAIN)
            .ok_or(CuResult::OUT_OF_MEMORY)?;
        if self.quota.reserve(place.gpu, counted).is_err() {
            self.collect(driver);
            self.quota
                .reserve(place.gpu, counted)
                .map_err(|_| CuResult::OUT_OF_MEMORY)?;
        }
        Ok(Reservation {
            memory: self.clone(),
            place,
            bytes: counted,
        })
    }

    /// The same for a context that is about to be made; none where contexts take nothing.
    ///
    /// # Errors
    /// As [`Memory::reserve`].
    pub fn reserve_context(
        self: &Arc<Self>,
        driver: &Driver,
        place: Place,
    ) -> Result<Option<Reservation>, CuResult> {
        match self.quota.context(place.gpu) {
            0 => Ok(None),
            bytes => self.reserve(driver, place, bytes).map(Some),
        }
    }

    /// The same for an allocation in stream order: it may have what the same stream freed before, as the
    /// stream will have come that far.
    ///
    /// # Errors
    /// As [`Memory::reserve`].
    pub fn reserve_in(
        self: &Arc<Self>,
        driver: &Driver,
        place: Place,
        stream: Native,
        bytes: u64,
    ) -> Result<Reservation, CuResult> {
        loop {
            let refused = match self.reserve(driver, place, bytes) {
                Err(refused) => refused,
                reserved => return reserved,
            };
            let mut state = self.state();
            let mut freed = state.freed.iter();
            let oldest =
                freed.position(|freed| freed.stream == stream && freed.block.place == place);
            let Some(oldest) = oldest else {
                return Err(refused);
            };
            let freed = state.freed.remove(oldest);
            drop(state);
            self.forget(driver, [freed]);
        }
    }

    /// Waits until there is room or nothing more that may make some, and counts bytes for an allocation.
    ///
    /// # Errors
    /// As [`Memory::reserve`].
    pub fn wait_and_reserve(
        self: &Arc<Self>,
        driver: &Driver,
        place: Place,
        bytes: u64,
    ) -> Result<Reservation, CuResult> {
        loop {
            // Before trying: what ends meanwhile makes for one more try.
            let may_shrink = self.may_shrink(place.gpu);
            match self.reserve(driver, place, bytes) {
                Err(_) if may_shrink => thread::sleep(LOOK),
                decided => return decided,
            }
        }
    }

    /// Whether memory of a device will be given back without the program doing more.
    pub fn may_shrink(&self, gpu: usize) -> bool {
        let state = self.state();
        let mut freed = state.freed.iter();
        freed.any(|freed| freed.block.place.gpu == gpu)
    }

    /// Gives back what streams have freed by now.
    fn collect(&self, driver: &Driver) {
        let mut state = self.state();
        let (done, waiting) = std::mem::take(&mut state.freed)
            .into_iter()
            // SAFETY: the event is the driver's own, and lives until it is forgotten.
            .partition(|freed| unsafe {
                driver.cuEventQuery(freed.event.handle()) != CuResult::NOT_READY
            });
        state.freed = waiting;
        drop(state);
        self.forget(driver, done);
    }

    /// Counts memory that was freed in stream order no more.
    fn forget(&self, driver: &Driver, freed: impl IntoIterator<Item = Freed>) {
        for freed in freed {
            // SAFETY: the event is the driver's own, and nothing else has it.
            let _ = unsafe { driver.cuEventDestroy_v2(freed.event.handle()) };
            self.release([freed.block]);
        }
    }

    /// An allocation is about to be freed. From here on its address may be given out again.
    pub fn leaving(&self, address: u64) -> Leaving {
        Leaving {
            address,
            block: self.state().blocks.remove(&address),
        }
    }

    /// The driver has freed it, or not.
    pub fn left(&self, leaving: Leaving, result: CuResult) {
        match (leaving.block, result) {
            (Some(block), CuResult::SUCCESS) => self.release([block]),
            (Some(block), _) => {
                self.state().blocks.insert(leaving.address, block);
            }
            (None, _) => {}
        }
    }

    /// The driver frees it when a stream has come so far. The stream's context is current.
    pub fn left_in(&self, driver: &Driver, leaving: Leaving, stream: Native) {
        let Some(block) = leaving.block else {
            return;
        };
        if self.bound(block.place.gpu).is_none() {
            return self.release([block]);
        }
        let mut event: Handle = ptr::null_mut();
        // SAFETY: the place outlives the call; 2 is CU_EVENT_DISABLE_TIMING; the stream is the driver's own.
        let recorded = unsafe {
            driver.cuEventCreate(&mut event, 2).is_ok()
                && driver.cuEventRecord(event, stream.handle()).is_ok()
        };
        let freed = Freed {
            block,
            stream,
            event: event.into(),
        };
        match recorded {
            true => self.state().freed.push(freed),
            // The context is broken: nothing more is allocated in it.
            false => self.forget(driver, [freed]),
        }
    }

    /// A context holds something no more.
    pub fn drop_held(&self, context: u32, what: Held) {
        let block = self.state().held.remove(&(context, what));
        self.release(block);
    }

    /// A context is no more, nor anything in it.
    pub fn context_gone(&self, context: u32) {
        let mut gone = Vec::new();
        let mut state = self.state();
        let State {
            blocks,
            held,
            freed,
        } = &mut *state;
        let of_context = |block: &Block| block.place.context == context;
        gone.extend(
            blocks
                .extract_if(|_, block| of_context(block))
                .map(|(_, block)| block),
        );
        gone.extend(
            held.extract_if(|_, block| of_context(block))
                .map(|(_, block)| block),
        );
        // Their events went with the context.
        gone.extend(
            freed
                .extract_if(.., |freed| of_context(&freed.block))
                .map(|freed| freed.block),
        );
        drop(state);
        self.release(gone);
    }
}
