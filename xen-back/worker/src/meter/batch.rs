//! A batch of work: what it may hold, what it holds, and the events around it.
//!
//! Must never be handed on while a stream of it has no event at its end.

use super::{Device, lock};
use crate::tables::Native;
use cuda_abi::{Driver, Handle};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use vgpu_protocol::gate::{Engine, Turn, now_ns};

/// `CU_EVENT_BLOCKING_SYNC`: who waits for the event sleeps.
const BLOCKING_SYNC: u32 = 1;

/// What a unit of some work usually takes: a launch of one kernel, a byte of a kind of copy. A moving average.
#[derive(Debug, Default)]
pub struct Usual {
    /// In 1024ths of nanoseconds, 0 while it is not known.
    unit: AtomicU64,
    /// Pieces of work that it has held for, one after the other.
    held: AtomicU32,
}

impl Usual {
    /// What so many units take, in nanoseconds, if that is known.
    pub fn of(&self, units: u64) -> Option<u64> {
        match self.unit.load(Ordering::Relaxed) {
            0 => None,
            unit => Some((unit.saturating_mul(units) >> 10).max(1)),
        }
    }

    /// How many pieces may rely on it: twice as many as it has held for.
    pub fn trust(&self) -> u32 {
        self.held.load(Ordering::Relaxed).saturating_mul(2).max(1)
    }

    /// So many pieces, of so many units, took so many nanoseconds.
    pub fn learn(&self, pieces: u32, units: u64, took_ns: u64) {
        let took = took_ns.saturating_mul(1024).checked_div(units).unwrap_or(0);
        let before = self.unit.load(Ordering::Relaxed);
        let unit = match before {
            0 => took,
            _ => (before / 4).saturating_mul(3).saturating_add(took / 4),
        };
        self.unit.store(unit.max(1), Ordering::Relaxed);
        let held = match before != 0 && took / 2 > before {
            true => 0,
            false => self.held.load(Ordering::Relaxed),
        };
        self.held
            .store(held.saturating_add(pieces), Ordering::Relaxed);
    }
}

/// A context with its device: where events come from and go back to.
#[derive(Debug)]
pub(super) struct Scope {
    pub native: Native,
    pub device: Arc<Device>,
    events: Mutex<Vec<Native>>,
    couriers: Mutex<u32>,
    left: Condvar,
}

impl Scope {
    pub fn new(native: Native, device: Arc<Device>) -> Scope {
        Scope {
            native,
            device,
            events: Mutex::default(),
            couriers: Mutex::default(),
            left: Condvar::new(),
        }
    }

    /// Records an event in a stream. The context is current. `None` where the driver refuses: its context
    /// has failed.
    fn record(&self, driver: &Driver, stream: Native) -> Option<Native> {
        let event = lock(&self.events).pop();
        let event = event.or_else(|| create_event(driver))?;
        // SAFETY: both handles are the driver's own and live in the context that is current.
        let recorded = unsafe { driver.cuEventRecord(event.handle(), stream.handle()) };
        if !recorded.is_ok() {
            self.give_back(event);
        }
        recorded.is_ok().then_some(event)
    }

    pub fn give_back(&self, event: Native) {
        lock(&self.events).push(event);
    }

    /// Nobody uses any more.
    pub fn destroy_events(&self, driver: &Driver) {
        for event in lock(&self.events).drain(..) {
            // SAFETY: the event is the driver's own, and its context still there.
            let _ = unsafe { driver.cuEventDestroy_v2(event.handle()) };
        }
    }

    pub fn add_courier(&self) {
        let mut couriers = lock(&self.couriers);
        *couriers = couriers.saturating_add(1);
    }

    pub fn remove_courier(&self) {
        let mut couriers = lock(&self.couriers);
        *couriers = couriers.saturating_sub(1);
        self.left.notify_all();
    }

    pub fn await_couriers(&self) {
        let couriers = lock(&self.couriers);
        let none = self.left.wait_while(couriers, |couriers| *couriers != 0);
        drop(none.unwrap_or_else(PoisonError::into_inner));
    }
}

/// An event of the context that is current.
pub(super) fn create_event(driver: &Driver) -> Option<Native> {
    let mut event: Handle = ptr::null_mut();
    // SAFETY: the place outlives the call.
    let created = unsafe { driver.cuEventCreate(&mut event, BLOCKING_SYNC) };
    created.is_ok().then(|| event.into())
}

/// One launch or copy.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub usual: &'a Arc<Usual>,
    pub units: u64,
    pub bytes: u64,
}

/// What the pieces of one kind come to.
#[derive(Debug)]
pub(super) struct Kind {
    pub usual: Arc<Usual>,
    pub pieces: u32,
    pub units: u64,
    pub estimate_ns: u64,
}

/// The time in which a stream has work of a batch, between two events.
#[derive(Debug)]
pub(super) struct Segment {
    pub stream: Native,
    pub start: Native,
    /// `None` while it is open, or where its context has failed.
    pub end: Option<Native>,
}

/// What lets a batch on the device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Pass {
    /// The gate is open; it was counted as begun.
    Open,
    /// A turn.
    Turn(u32),
    /// It goes along behind other work.
    Along,
}

/// How much a batch may hold.
#[derive(Copy, Clone, Debug)]
pub(super) struct Bound {
    pub time_ns: u64,
    pub pieces: u32,
}

/// What a batch holds.
#[derive(Debug)]
pub(super) struct Load {
    bound: Bound,
    pub estimate_ns: u64,
    pub pieces: u32,
    pub bytes: u64,
    pub kinds: Vec<Kind>,
}

impl Load {
    /// What is assumed of a piece: one that is not known fills a batch, so that it is measured by itself.
    fn estimate(&self, piece: &Piece<'_>) -> u64 {
        piece.usual.of(piece.units).unwrap_or(self.bound.time_ns)
    }

    /// Whether a piece fits in.
    pub fn takes(&self, piece: &Piece<'_>) -> bool {
        let time = self.estimate_ns.saturating_add(self.estimate(piece));
        let most = self.bound.pieces.min(piece.usual.trust());
        self.pieces == 0 || time <= self.bound.time_ns && self.pieces < most
    }

    /// Counts a piece in.
    pub fn add(&mut self, piece: &Piece<'_>) {
        let estimate_ns = self.estimate(piece);
        self.estimate_ns = self.estimate_ns.saturating_add(estimate_ns);
        self.pieces = self.pieces.saturating_add(1);
        self.bytes = self.bytes.saturating_add(piece.bytes);
        let same = |kind: &&mut Kind| Arc::ptr_eq(&kind.usual, piece.usual);
        match self.kinds.iter_mut().rev().find(same) {
            Some(kind) => {
                kind.pieces = kind.pieces.saturating_add(1);
                kind.units = kind.units.saturating_add(piece.units);
                kind.estimate_ns = kind.estimate_ns.saturating_add(estimate_ns);
            }
            None => self.kinds.push(Kind {
                usual: piece.usual.clone(),
                pieces: 1,
                units: piece.units,
                estimate_ns,
            }),
        }
    }
}

/// Consecutive pieces of work for one engine.
#[derive(Debug)]
pub(super) struct Batch {
    pub scope: Arc<Scope>,
    pub pass: Pass,
    pub load: Load,
    pub asked_ns: u64,
    /// When it was let on: no piece of it ran before.
    pub begun_ns: u64,
    pub segments: Vec<Segment>,
    /// The stream that the last piece went to, if its segment is open: the next one goes there most often.
    latest: Option<Native>,
    /// vgpu-backd was told that the device has its first piece.
    entered: bool,
}

impl Batch {
    fn new(scope: Arc<Scope>, asked_ns: u64, pass: Pass, bound: Bound) -> Batch {
        Batch {
            scope,
            pass,
            load: Load {
                bound,
                estimate_ns: 0,
                pieces: 0,
                bytes: 0,
                kinds: Vec::new(),
            },
            asked_ns,
            begun_ns: now_ns(),
            segments: Vec::new(),
            latest: None,
            entered: false,
        }
    }

    /// A batch while the gate is open.
    pub fn open(scope: Arc<Scope>, asked_ns: u64, bound: Bound) -> Batch {
        Batch::new(scope, asked_ns, Pass::Open, bound)
    }

    /// A batch that has a turn.
    pub fn turn(scope: Arc<Scope>, asked_ns: u64, turn: Turn, bound: Bound) -> Batch {
        let pieces = match turn.pieces {
            0 => bound.pieces,
            pieces => pieces.min(bound.pieces),
        };
        let bound = Bound {
            time_ns: turn.time_ns,
            pieces,
        };
        Batch::new(scope, asked_ns, Pass::Turn(turn.number), bound)
    }

    /// A piece that goes along behind other work.
    pub fn along(scope: Arc<Scope>, asked_ns: u64) -> Batch {
        let one = Bound {
            time_ns: 0,
            pieces: 1,
        };
        Batch::new(scope, asked_ns, Pass::Along, one)
    }

    /// Whether it has a turn, so that it goes on although the gate is closed.
    pub fn has_turn(&self) -> bool {
        matches!(self.pass, Pass::Turn(_))
    }

    /// The driver has been given its first piece.
    pub fn has_entered(&mut self, engine: Engine) {
        if !std::mem::replace(&mut self.entered, true) {
            let gate = &self.scope.device.gate;
            match self.pass {
                Pass::Open => gate.place(engine),
                Pass::Turn(number) => gate.enter(engine, number),
                Pass::Along => {}
            }
        }
    }

    /// The next piece goes to this stream.
    pub fn enter(&mut self, driver: &Driver, stream: Native) {
        let stream = stream.lane();
        if self.latest == Some(stream) {
            return;
        }
        let open = |segment: &Segment| segment.stream == stream && segment.end.is_none();
        if !self.segments.iter().any(open) {
            match self.scope.record(driver, stream) {
                Some(start) => self.segments.push(Segment {
                    stream,
                    start,
                    end: None,
                }),
                None => return,
            }
        }
        self.latest = Some(stream);
    }

    /// Something else goes to this stream.
    pub fn leave(&mut self, driver: &Driver, stream: Native) {
        let stream = stream.lane();
        for segment in &mut self.segments {
            if segment.stream == stream && segment.end.is_none() {
                segment.end = self.scope.record(driver, stream);
            }
        }
        if self.latest == Some(stream) {
            self.latest = None;
        }
    }

    /// No piece follows.
    pub fn close(&mut self, driver: &Driver) {
        for segment in &mut self.segments {
            if segment.end.is_none() {
                segment.end = self.scope.record(driver, segment.stream);
            }
        }
        self.latest = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_work_takes_is_learnt() {
        let usual = Usual::default();
        assert_eq!((usual.of(1), usual.trust()), (None, 1));
        usual.learn(2, 2, 2_000_000);
        assert_eq!(
            (usual.of(1), usual.of(7)),
            (Some(1_000_000), Some(7_000_000))
        );
        assert_eq!(usual.trust(), 4);
        usual.learn(4, 4, 8_000_000);
        assert_eq!((usual.of(1), usual.trust()), (Some(1_250_000), 12));
        // Much more than it says ends the trust in it.
        usual.learn(1, 1, 9_250_000);
        assert_eq!((usual.of(1), usual.trust()), (Some(3_250_000), 2));
        for _ in 0..100 {
            usual.learn(1, 1, 1_000_000);
        }
        let now = usual.of(1).unwrap();
        assert!((999_000..=1_001_000).contains(&now), "{now}");
        // Nothing is free, or it would never fill a batch.
        let copies = Usual::default();
        copies.learn(1, 1 << 40, 1);
        assert_eq!(copies.of(1), Some(1));
        copies.learn(u32::MAX, 0, u64::MAX);
        assert_eq!(copies.trust(), u32::MAX);
    }
}
