//! Runs one block: its threads in turn until each waits or ends, then whatever they wait for. Decides
//! who waits for whom, as PTX says; threads that nobody can free any more are a fault, never a hang.

use super::WARP_SIZE;
use super::context::{
    BARRIERS, BlockContext, ENDED, FAULT, KernelCode, ThreadHeader, WAITING, wait,
};

/// A kernel's code and how its threads wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    pub code: KernelCode,
    /// Threads may wait.
    pub waits: bool,
    /// They wait at barrier 0 for all others, and for nothing else.
    pub simple: bool,
}

/// Why a block did not end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The context says what.
    Fault,
    /// Threads wait for ever.
    Deadlock { waiting: u32, thread: u32 },
}

/// The frames of one block's threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frames {
    pub first: *mut u8,
    pub stride: usize,
    pub threads: u32,
}

impl Frames {
    fn at(self, thread: u32) -> *mut u8 {
        self.first.wrapping_add(thread as usize * self.stride)
    }

    /// A thread's header. Never called for two threads' headers at once, nor while code runs.
    fn header(&mut self, thread: u32) -> &mut ThreadHeader {
        debug_assert!(thread < self.threads);
        // SAFETY: `first` has room for `threads` frames of `stride` bytes, each with a header at its
        // start, aligned; this block's worker alone reaches them, and `self` is borrowed meanwhile.
        unsafe { &mut *self.at(thread).cast::<ThreadHeader>() }
    }

    /// Gives every thread its place in the block.
    pub(super) fn place_threads(&mut self, block: [u32; 3]) {
        for thread in 0..self.threads {
            let (x, y) = (block[0].max(1), block[1].max(1));
            let tid = [thread % x, thread / x % y, thread / x / y].map(|place| place as u16);
            let header = self.header(thread);
            header.tid = tid;
            header.index = thread as u16;
        }
    }
}

/// Counts a `bar.arrive`.
pub(super) fn arrive(context: &mut BlockContext, barrier: u32, _count: u32) {
    if let Some(arrivals) = context.arrivals.get_mut(barrier as usize) {
        *arrivals = arrivals.saturating_add(1);
    }
}

/// Runs a block to its end.
///
/// # Safety
/// `context` describes a block as the kernel's code expects it, and `frames` are its frames.
pub(super) unsafe fn run(
    kernel: Kernel,
    context: &mut BlockContext,
    mut frames: Frames,
) -> Result<(), Stop> {
    let threads = frames.threads;
    // Frames are passed on as addresses, not as references: code and scheduler take turns.
    let places = frames;
    let step = |context: &mut BlockContext, from: u32, to: u32| {
        // SAFETY: the caller's promise; the range is within the frames and not empty.
        match unsafe { (kernel.code)(context, places.at(from), places.at(to)) } {
            FAULT => Err(Stop::Fault),
            _ => Ok(()),
        }
    };
    if !kernel.waits {
        return step(context, 0, threads);
    }
    context.live = threads;
    context.arrivals = [0; BARRIERS];
    for thread in 0..threads {
        let header = frames.header(thread);
        header.resume = 0;
        header.wait = wait::NOTHING;
    }
    if kernel.simple {
        // After each turn every thread has ended or is at the barrier: all of them pass it.
        while context.live > 0 {
            step(context, 0, threads)?;
        }
        return Ok(());
    }
    loop {
        for first in (0..threads).step_by(WARP_SIZE as usize) {
            let lanes = WARP_SIZE.min(threads - first);
            loop {
                step(context, first, first + lanes)?;
                if !Warp::new(&mut frames, first, lanes).advance(&mut frames) {
                    break;
                }
            }
        }
        if context.live == 0 {
            return Ok(());
        }
        if !release_barriers(context, &mut frames) {
            let waiting = (0..threads).find(|&thread| frames.header(thread).resume != ENDED);
            return Err(Stop::Deadlock {
                waiting: context.live,
                thread: waiting.unwrap_or(0),
            });
        }
    }
}

/// Lets threads pass the barriers that have all they wait for; whether any did.
fn release_barriers(context: &mut BlockContext, frames: &mut Frames) -> bool {
    #[derive(Clone, Copy, Default)]
    struct Barrier {
        waiting: u32,
        /// The count that the last of them gave; 0: all threads.
        wanted: u32,
        truths: u32,
    }
    let mut barriers = [Barrier::default(); BARRIERS];
    let at_barrier = |header: &ThreadHeader| {
        let waits = header.resume & WAITING != 0 && header.resume != ENDED;
        let kind = matches!(
            header.wait,
            wait::BARRIER | wait::BARRIER_POPC | wait::BARRIER_AND | wait::BARRIER_OR
        );
        (waits && kind).then_some(header.exchange.control as usize % BARRIERS)
    };
    for thread in 0..frames.threads {
        let header = frames.header(thread);
        if let Some(number) = at_barrier(header) {
            let barrier = &mut barriers[number];
            barrier.waiting += 1;
            barrier.wanted = header.exchange.mask;
            barrier.truths += u32::from(header.exchange.operand & 1 == 1);
        }
    }
    let full: [bool; BARRIERS] = std::array::from_fn(|number| {
        let barrier = barriers[number];
        let wanted = if barrier.wanted == 0 {
            context.live
        } else {
            barrier.wanted
        };
        barrier.waiting > 0 && barrier.waiting.saturating_add(context.arrivals[number]) >= wanted
    });
    for thread in 0..frames.threads {
        let header = frames.header(thread);
        let Some(number) = at_barrier(header).filter(|&number| full[number]) else {
            continue;
        };
        let Barrier {
            waiting, truths, ..
        } = barriers[number];
        header.resume &= !WAITING;
        header.exchange.result = u64::from(truths);
        header.exchange.predicate = match header.wait {
            wait::BARRIER_AND => u32::from(truths == waiting),
            _ => u32::from(truths > 0),
        };
    }
    for (arrivals, full) in context.arrivals.iter_mut().zip(full) {
        if full {
            *arrivals = 0;
        }
    }
    full.contains(&true)
}

/// What a warp's lanes wait for, copied out of their headers.
struct Warp {
    first: u32,
    lanes: u32,
    /// Lanes that have not ended.
    live: u32,
    wait: [u32; 32],
    mask: [u32; 32],
    control: [u32; 32],
    clamp: [u32; 32],
    operand: [u64; 32],
}

impl Warp {
    fn new(frames: &mut Frames, first: u32, lanes: u32) -> Self {
        let mut warp = Self {
            first,
            lanes,
            live: 0,
            wait: [wait::NOTHING; 32],
            mask: [0; 32],
            control: [0; 32],
            clamp: [0; 32],
            operand: [0; 32],
        };
        for lane in 0..lanes as usize {
            let header = frames.header(first + lane as u32);
            if header.resume == ENDED {
                continue;
            }
            warp.live |= 1 << lane;
            if header.resume & WAITING != 0 && header.wait >= wait::WARP_SYNC {
                warp.wait[lane] = header.wait;
                warp.mask[lane] = header.exchange.mask;
                warp.control[lane] = header.exchange.control;
                warp.clamp[lane] = header.exchange.clamp;
                warp.operand[lane] = header.exchange.operand;
            }
        }
        warp
    }

    /// Carries out the warp instructions whose lanes are all there; whether there were any. Those without
    /// a mask take whoever is at the same place when nobody can move otherwise.
    fn advance(&self, frames: &mut Frames) -> bool {
        let mut done = 0_u32;
        for converged in [false, true] {
            for lane in 0..self.lanes as usize {
                let kind = self.wait[lane];
                if done >> lane & 1 == 1
                    || kind == wait::NOTHING
                    || (kind & wait::CONVERGED != 0) != converged
                {
                    continue;
                }
                let alike =
                    |other: usize| self.wait[other] == kind && self.mask[other] == self.mask[lane];
                let there = (0..self.lanes as usize)
                    .filter(|&other| alike(other))
                    .fold(0, |set, other| set | 1 << other);
                let group = if converged {
                    there
                } else {
                    self.mask[lane] & self.live | 1 << lane
                };
                if group & !there != 0 {
                    continue;
                }
                self.carry_out(kind & !wait::CONVERGED, group & !done, frames);
                done |= group;
            }
            if done != 0 {
                return true;
            }
        }
        false
    }

    fn carry_out(&self, kind: u32, group: u32, frames: &mut Frames) {
        let members = || (0..32_usize).filter(move |lane| group >> lane & 1 == 1);
        let ballot = members()
            .filter(|&lane| self.operand[lane] & 1 == 1)
            .fold(0_u32, |set, lane| set | 1 << lane);
        let first = group.trailing_zeros().min(31) as usize;
        let words = || members().map(|lane| self.operand[lane] as u32);
        let signed = || words().map(u32::cast_signed);
        let reduced = match kind {
            wait::REDUX_ADD => words().fold(0, u32::wrapping_add),
            wait::REDUX_MIN_U => words().min().unwrap_or(0),
            wait::REDUX_MAX_U => words().max().unwrap_or(0),
            wait::REDUX_MIN_S => signed().min().unwrap_or(0).cast_unsigned(),
            wait::REDUX_MAX_S => signed().max().unwrap_or(0).cast_unsigned(),
            wait::REDUX_AND => words().fold(u32::MAX, |a, b| a & b),
            wait::REDUX_OR => words().fold(0, |a, b| a | b),
            wait::REDUX_XOR => words().fold(0, |a, b| a ^ b),
            _ => 0,
        };
        for lane in members() {
            let (result, predicate) = match kind {
                wait::SHFL_UP..=wait::SHFL_IDX => self.shuffled(kind, lane, group),
                wait::VOTE_ALL => (0, ballot == group),
                wait::VOTE_ANY => (0, ballot != 0),
                wait::VOTE_UNI => (0, ballot == group || ballot == 0),
                wait::VOTE_BALLOT => (ballot, false),
                wait::MATCH_ANY => {
                    let same = members().filter(|&other| self.operand[other] == self.operand[lane]);
                    (same.fold(0, |set, other| set | 1 << other), true)
                }
                wait::MATCH_ALL => {
                    let all = members().all(|other| self.operand[other] == self.operand[first]);
                    (if all { group } else { 0 }, all)
                }
                wait::ELECT => (first as u32, lane == first),
                wait::ACTIVE_MASK => (group, true),
                _ => (reduced, true),
            };
            let header = frames.header(self.first + lane as u32);
            header.exchange.result = u64::from(result);
            header.exchange.predicate = u32::from(predicate);
            header.resume &= !WAITING;
        }
    }

    /// `shfl`: the value of another lane, and whether that lane is in range. A lane that takes no part
    /// has no value to give: the lane's own is taken.
    fn shuffled(&self, kind: u32, lane: usize, group: u32) -> (u32, bool) {
        let own = lane as i32;
        let by = (self.control[lane] & 31) as i32;
        let clamp = (self.clamp[lane] & 31) as i32;
        let segment = (self.clamp[lane] >> 8 & 31) as i32;
        let last = own & segment | clamp & !segment & 31;
        let (from, within) = match kind {
            wait::SHFL_UP => (own - by, own - by >= last),
            wait::SHFL_DOWN => (own + by, own + by <= last),
            wait::SHFL_BFLY => (own ^ by, own ^ by <= last),
            _ => {
                let from = own & segment | by & !segment;
                (from, from <= last)
            }
        };
        let from = if within { from } else { own };
        let giver = usize::try_from(from)
            .ok()
            .filter(|&from| from < 32 && group >> from & 1 == 1);
        (self.operand[giver.unwrap_or(lane)] as u32, within)
    }
}
