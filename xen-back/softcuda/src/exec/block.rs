//! Runs one block: its threads in turn until each waits or ends, then whatever they wait for. Decides
//! who waits for whom, as PTX says; threads that nobody can free any more are a fault, never a hang.

use super::WARP_SIZE;
use super::context::{
    Arrivals, BARRIERS, BlockContext, ENDED, FAULT, KernelCode, TURNS, ThreadHeader, WAITING, wait,
};
use super::matrix::{self, LANE_WORDS, Lanes};
use std::sync::atomic::Ordering;

/// A kernel's code and how its threads wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    pub code: KernelCode,
    /// Threads may wait.
    pub waits: bool,
    /// They wait at barrier 0 for all others, and for nothing else.
    pub simple: bool,
    /// Threads may make way for others.
    pub yields: bool,
}

/// Why a block did not end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The context says what.
    Fault,
    /// The launch ends, whatever this block does.
    Ending,
    /// Threads wait for ever.
    Deadlock { waiting: u32, thread: u32 },
}

/// How far a block came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All its threads have ended.
    Ended,
    /// For some rounds nothing happened but that threads made way for each other.
    Spins {
        /// Whether there was more before.
        moved: bool,
    },
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

    /// The words that a thread handed over, at an offset that must be within its frame.
    fn words(&self, thread: u32, offset: u32) -> Option<*mut [u32; LANE_WORDS]> {
        let bytes = size_of::<[u32; LANE_WORDS]>();
        let offset = offset as usize;
        let good =
            thread < self.threads && offset.is_multiple_of(4) && offset + bytes <= self.stride;
        good.then(|| self.at(thread).wrapping_add(offset).cast())
    }

    /// A thread's header. Never called for two threads' headers at once, nor while code runs.
    fn header(&mut self, thread: u32) -> &mut ThreadHeader {
        debug_assert!(thread < self.threads);
        // SAFETY: `first` has room for `threads` frames of `stride` bytes, each with a header at its
        // start, aligned; this block's worker alone reaches them, and `self` is borrowed meanwhile.
        unsafe { &mut *self.at(thread).cast::<ThreadHeader>() }
    }

    /// A thread's state.
    pub(super) fn resume(self, thread: u32) -> u32 {
        let mut frames = self;
        frames.header(thread).resume
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

/// Counts a thread's `bar.arrive`.
pub(super) fn arrive(context: &mut BlockContext, thread: u32, barrier: u32) {
    let arrivals = &mut context.arrivals;
    let (warp, lane) = (thread / WARP_SIZE, thread % WARP_SIZE);
    let Some(lanes) = arrivals.lanes.get_mut(barrier as usize) else {
        return;
    };
    arrivals.any = true;
    match lanes.get_mut(warp as usize) {
        Some(lanes) if *lanes >> lane & 1 == 0 => *lanes |= 1 << lane,
        _ => {
            let more = &mut arrivals.more[barrier as usize];
            *more = more.saturating_add(1);
        }
    }
}

fn is_ending(context: &BlockContext) -> bool {
    // SAFETY: the launch that made the context keeps it until its last block has ended.
    unsafe { &*context.ending }.load(Ordering::Relaxed) != 0
}

/// Makes a block's threads start anew.
pub(super) fn start(kernel: Kernel, context: &mut BlockContext, frames: &mut Frames) {
    if !kernel.waits {
        return;
    }
    context.live = frames.threads;
    context.turns = TURNS;
    if context.arrivals.any {
        context.arrivals = Arrivals::default();
    }
    for thread in 0..frames.threads {
        let header = frames.header(thread);
        header.resume = 0;
        header.wait = wait::NOTHING;
    }
}

/// Runs a block that was started until it ends, or until for so many rounds all that its threads did
/// was to make way for each other.
///
/// # Safety
/// `context` describes a block as the kernel's code expects it, and `frames` are its frames.
pub(super) unsafe fn advance(
    kernel: Kernel,
    context: &mut BlockContext,
    frames: &mut Frames,
    patience: u32,
) -> Result<Progress, Stop> {
    let threads = frames.threads;
    // Frames are passed on as addresses, not as references: code and scheduler take turns.
    let places = *frames;
    let step = |context: &mut BlockContext, from: u32, to: u32| {
        // SAFETY: the caller's promise; the range is within the frames and not empty.
        match unsafe { (kernel.code)(context, places.at(from), places.at(to)) } {
            FAULT => Err(Stop::Fault),
            _ => Ok(()),
        }
    };
    if !kernel.waits {
        step(context, 0, threads)?;
        return Ok(Progress::Ended);
    }
    if kernel.simple {
        // After each turn every thread has ended or is at the barrier: all of them pass it.
        while context.live > 0 {
            if is_ending(context) {
                return Err(Stop::Ending);
            }
            step(context, 0, threads)?;
        }
        return Ok(Progress::Ended);
    }
    // Warps that may have a thread to run, a bit each.
    let all_warps = u32::MAX >> (32 - threads.div_ceil(WARP_SIZE).clamp(1, 32));
    let mut runnable = all_warps;
    let (mut idle, mut ever_moved) = (0, false);
    loop {
        let live = context.live;
        let mut moved = false;
        for (warp, first) in (0..threads).step_by(WARP_SIZE as usize).enumerate() {
            if runnable >> warp & 1 == 0 {
                continue;
            }
            let lanes = WARP_SIZE.min(threads - first);
            loop {
                if is_ending(context) {
                    return Err(Stop::Ending);
                }
                step(context, first, first + lanes)?;
                let now = Warp::new(frames, first, lanes);
                if !now.advance(frames) {
                    runnable &= !(1 << warp);
                    runnable |= u32::from(now.yielded) << warp;
                    break;
                }
                moved = true;
                if now.yielded {
                    // The others of the block have their turn first.
                    break;
                }
            }
        }
        if context.live == 0 {
            return Ok(Progress::Ended);
        }
        if release_barriers(context, frames) {
            moved = true;
            runnable = all_warps;
        } else if runnable == 0 {
            let waiting = (0..threads).find(|&thread| frames.header(thread).resume != ENDED);
            return Err(Stop::Deadlock {
                waiting: context.live,
                thread: waiting.unwrap_or(0),
            });
        }
        if moved || context.live != live {
            (idle, ever_moved) = (0, true);
        } else {
            idle += 1;
            if idle >= patience {
                return Ok(Progress::Spins { moved: ever_moved });
            }
        }
    }
}

/// Lets threads pass the barriers that have all they wait for; whether any did.
///
/// A barrier of all threads waits for those that have not ended. One with a count of threads counts
/// warps: a warp whose threads are all there counts in full, however many of its lanes have ended or
/// never were.
fn release_barriers(context: &mut BlockContext, frames: &mut Frames) -> bool {
    #[derive(Clone, Copy, Default)]
    struct Barrier {
        waiting: u32,
        /// Threads that arrived, have not ended and do not wait.
        arrived: u32,
        /// Threads as a barrier with a count counts them.
        counted: u32,
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
    for (warp, first) in (0..frames.threads).step_by(WARP_SIZE as usize).enumerate() {
        let mut live = 0_u32;
        let mut here = [0_u32; BARRIERS];
        for lane in 0..WARP_SIZE.min(frames.threads - first) {
            let header = frames.header(first + lane);
            live |= u32::from(header.resume != ENDED) << lane;
            if let Some(number) = at_barrier(header) {
                let barrier = &mut barriers[number];
                barrier.waiting += 1;
                barrier.wanted = header.exchange.mask;
                barrier.truths += u32::from(header.exchange.operand & 1 == 1);
                here[number] |= 1 << lane;
            }
        }
        for (number, barrier) in barriers.iter_mut().enumerate() {
            let arrived = context.arrivals.lanes[number][warp];
            let present = here[number] | arrived;
            barrier.arrived += (arrived & live & !here[number]).count_ones();
            barrier.counted += match present {
                0 => 0,
                _ if live & !present == 0 => WARP_SIZE,
                _ => present.count_ones(),
            };
        }
    }
    let full: [bool; BARRIERS] = std::array::from_fn(|number| {
        let barrier = barriers[number];
        let more = context.arrivals.more[number];
        let (there, wanted) = match barrier.wanted {
            0 => (barrier.waiting + barrier.arrived, context.live),
            wanted => (barrier.counted, wanted),
        };
        barrier.waiting > 0 && there.saturating_add(more) >= wanted
    });
    if !full.contains(&true) {
        return false;
    }
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
    for (number, full) in full.into_iter().enumerate() {
        if full {
            context.arrivals.lanes[number] = Default::default();
            context.arrivals.more[number] = 0;
        }
    }
    true
}

/// The smallest or largest of singles; zeros are ordered by sign.
fn reduced_singles(kind: u32, control: u32, singles: &[f32]) -> f32 {
    const NAN: f32 = f32::from_bits(0x7fff_ffff);
    if control & wait::NAN_WINS != 0 && singles.iter().any(|single| single.is_nan()) {
        return NAN;
    }
    let singles = singles.iter().copied().filter(|single| !single.is_nan());
    let singles = singles.map(|single| match control & wait::MAGNITUDES {
        0 => single,
        _ => single.abs(),
    });
    let found = match kind {
        wait::REDUX_MIN_F => singles.min_by(f32::total_cmp),
        _ => singles.max_by(f32::total_cmp),
    };
    found.unwrap_or(NAN)
}

/// What a warp's lanes wait for, copied out of their headers.
struct Warp {
    first: u32,
    lanes: u32,
    /// Lanes that have not ended.
    live: u32,
    /// Some lanes made way; they go on next time.
    yielded: bool,
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
            yielded: false,
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
            if header.resume & WAITING != 0 && header.wait == wait::YIELD {
                header.resume &= !WAITING;
                header.wait = wait::NOTHING;
                warp.yielded = true;
            }
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
        if kind == wait::MATRIX {
            return self.carry_out_matrix(group, frames);
        }
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
            wait::REDUX_MIN_F | wait::REDUX_MAX_F => {
                let singles: Vec<f32> = words().map(f32::from_bits).collect();
                reduced_singles(kind, self.control[first], &singles).to_bits()
            }
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

    fn carry_out_matrix(&self, group: u32, frames: &mut Frames) {
        let mut lanes = Lanes {
            group,
            address: self.operand,
            words: [[0; LANE_WORDS]; 32],
        };
        let members = || (0..32_usize).filter(move |lane| group >> lane & 1 == 1);
        for lane in members() {
            let place = frames.words(self.first + lane as u32, self.control[lane]);
            // SAFETY: within the lane's frame (see `words`), which no code uses now.
            lanes.words[lane] = place.map_or([0; LANE_WORDS], |place| unsafe { place.read() });
        }
        let first = group.trailing_zeros().min(31) as usize;
        // SAFETY: a lane gives no address that it has not checked for 16 bytes, and has not run since.
        unsafe { matrix::carry_out(self.clamp[first], &mut lanes) };
        for lane in members() {
            if let Some(place) = frames.words(self.first + lane as u32, self.control[lane]) {
                // SAFETY: as above.
                unsafe { place.write(lanes.words[lane]) };
            }
            let header = frames.header(self.first + lane as u32);
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
