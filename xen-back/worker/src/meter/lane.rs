//! One engine of one device as this worker uses it: what is on it, whether more may go, and whose turn it is.
//!
//! Must never hold its lock while anything waits for the device.

use super::batch::{Batch, Bound, Piece, Scope};
use super::lock;
use crate::tables::Native;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vgpu_protocol::gate::{Engine, GateWorker, Turn, now_ns};

/// Most batches that have not been reaped.
const BATCHES: u32 = 64;
/// So long before a device is expected to be idle it gets more work, however much that is: what it takes to
/// hand it over.
const LEAD_NS: u64 = 200_000;
/// Longest sleep before one looks again whether there is room.
const LOOK: Duration = Duration::from_millis(10);

/// What vgpu-backd allows, as of now.
#[derive(Copy, Clone, Debug)]
pub(super) struct Limits {
    quantum_ns: u64,
    launches: u32,
}

impl Limits {
    pub fn of(gate: &GateWorker) -> Limits {
        Limits {
            quantum_ns: gate.quantum_ns(),
            launches: gate.launches(),
        }
    }

    /// How much a batch may hold without a turn.
    pub fn batch(&self, lane: &Lane) -> Bound {
        let pieces = match (self.launches, lane.engine) {
            (0, _) | (_, Engine::Copy) => u32::MAX,
            (most, Engine::Compute) => most.saturating_sub(lock(&lane.flight).pieces).max(1),
        };
        Bound {
            time_ns: self.quantum_ns,
            pieces,
        }
    }
}

/// What a reaper does.
#[derive(Debug)]
pub(super) enum Job {
    /// Waits for the end of a batch, and reports it.
    Reap(Batch),
    /// Forgets a context, and says so.
    Forget(Arc<Scope>, Sender<()>),
}

#[derive(Debug, Default)]
struct Flight {
    jobs: VecDeque<Job>,
    /// The reaper sleeps.
    asleep: bool,
    batches: u32,
    pieces: u32,
    estimate_ns: u64,
    /// When all of it is expected to have ended.
    ends_ns: u64,
    /// Where it is.
    streams: Vec<(Native, Native)>,
}

/// One engine.
#[derive(Debug)]
pub(super) struct Lane {
    engine: Engine,
    /// Held from an ask to its turn.
    asking: Mutex<()>,
    flight: Mutex<Flight>,
    /// There is a job.
    job: Condvar,
    /// A batch has ended.
    ended: Condvar,
    /// Threads that wait for batches to end.
    hurried: AtomicU32,
}

impl Lane {
    pub fn new(engine: Engine) -> Lane {
        Lane {
            engine,
            asking: Mutex::default(),
            flight: Mutex::default(),
            job: Condvar::new(),
            ended: Condvar::new(),
            hurried: AtomicU32::new(0),
        }
    }

    /// Asks for a turn and waits for it.
    pub fn turn(&self, gate: &GateWorker, pieces: u32) -> Turn {
        let _one = lock(&self.asking);
        let number = gate.ask(self.engine, pieces);
        gate.wait(self.engine, number)
    }

    /// Whether a batch that begins with this piece may go to the device, as far as this worker's own bounds
    /// have it; else for how long not, where that is known.
    fn room(
        &self,
        flight: &Flight,
        limits: &Limits,
        open: bool,
        piece: &Piece<'_>,
    ) -> Result<(), Duration> {
        let full = limits.launches != 0 && flight.pieces >= limits.launches;
        if full && self.engine == Engine::Compute {
            return Err(LOOK);
        }
        if !open || flight.batches == 0 {
            return Ok(());
        }
        if flight.batches >= BATCHES {
            return Err(LOOK);
        }
        let quantum = limits.quantum_ns;
        let usual = piece.usual.of(piece.units);
        if usual.is_none() && flight.batches > 1 {
            // Nobody knows how long it takes: by the clock one after the other would go behind the first, and a
            // newcomer would find them all.
            return Err(LOOK);
        }
        // Two batches in all: of the time that they may take, what this one leaves.
        let this = usual.unwrap_or(quantum).max(quantum);
        let rest = quantum.saturating_mul(2).saturating_sub(this).max(LEAD_NS);
        let left = flight.ends_ns.saturating_sub(now_ns());
        match left.checked_sub(rest) {
            None | Some(0) => Ok(()),
            Some(wait) => Err(LOOK.min(Duration::from_nanos(wait))),
        }
    }

    /// Waits for room, or for the gate to become something else than it was.
    pub fn await_room(&self, gate: &GateWorker, limits: &Limits, open: bool, piece: &Piece<'_>) {
        if (self.room(&lock(&self.flight), limits, open, piece)).is_ok() {
            return;
        }
        self.hurry(gate, |lane| {
            let mut flight = lock(&lane.flight);
            while gate.is_open() == open
                && let Err(wait) = lane.room(&flight, limits, open, piece)
            {
                let woken = lane.ended.wait_timeout(flight, wait);
                flight = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        });
    }

    /// Does something during which ends of batches are not to be noticed late.
    pub fn hurry<T>(&self, gate: &GateWorker, wait: impl FnOnce(&Lane) -> T) -> T {
        self.hurried.fetch_add(1, Ordering::SeqCst);
        gate.stir();
        let result = wait(self);
        self.hurried.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Whether somebody waits for batches to end.
    pub fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::SeqCst) != 0
    }

    /// A batch is on the device.
    pub fn hand_in(&self, batch: Batch) {
        let mut flight = lock(&self.flight);
        flight.batches = flight.batches.saturating_add(1);
        flight.pieces = flight.pieces.saturating_add(batch.load.pieces);
        flight.estimate_ns = flight.estimate_ns.saturating_add(batch.load.estimate_ns);
        let from = match flight.batches {
            1 => batch.begun_ns,
            _ => flight.ends_ns.max(batch.begun_ns),
        };
        flight.ends_ns = from.saturating_add(batch.load.estimate_ns);
        let context = batch.scope.native;
        let streams = batch.segments.iter().map(|segment| segment.stream);
        flight
            .streams
            .extend(streams.map(|stream| (context, stream)));
        self.add(flight, Job::Reap(batch));
    }

    /// Has the reaper forget a context.
    pub fn forget(&self, scope: Arc<Scope>, done: Sender<()>) {
        self.add(lock(&self.flight), Job::Forget(scope, done));
    }

    fn add(&self, mut flight: MutexGuard<'_, Flight>, job: Job) {
        flight.jobs.push_back(job);
        if std::mem::take(&mut flight.asleep) {
            drop(flight);
            self.job.notify_one();
        }
    }

    /// For the reaper: the next job, if there is one.
    pub fn try_next(&self) -> Option<Job> {
        lock(&self.flight).jobs.pop_front()
    }

    /// For the reaper: the next job.
    pub fn next(&self) -> Job {
        let mut flight = lock(&self.flight);
        loop {
            if let Some(job) = flight.jobs.pop_front() {
                return job;
            }
            flight.asleep = true;
            flight = self
                .job
                .wait(flight)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// For the reaper: how long until all is expected to have ended.
    pub fn left(&self) -> Duration {
        Duration::from_nanos(lock(&self.flight).ends_ns.saturating_sub(now_ns()))
    }

    /// For the reaper: a batch has ended.
    pub fn reaped(&self, batch: &Batch) {
        let mut flight = lock(&self.flight);
        flight.batches = flight.batches.saturating_sub(1);
        flight.pieces = flight.pieces.saturating_sub(batch.load.pieces);
        flight.estimate_ns = flight.estimate_ns.saturating_sub(batch.load.estimate_ns);
        // What follows started just now, whatever was expected, or earlier.
        flight.ends_ns = flight
            .ends_ns
            .min(now_ns().saturating_add(flight.estimate_ns));
        for segment in &batch.segments {
            let here = (batch.scope.native, segment.stream);
            if let Some(at) = flight.streams.iter().position(|place| *place == here) {
                flight.streams.swap_remove(at);
            }
        }
        drop(flight);
        self.ended.notify_all();
    }

    /// Whether a stream has a batch on this engine.
    pub fn is_in(&self, scope: &Scope, stream: Native) -> bool {
        let place = (scope.native, stream.lane());
        lock(&self.flight).streams.contains(&place)
    }
}
