//! Measures what a guest process has the devices do, and holds it back at the gate (docs/protocol.md §10).
//!
//! Work goes in *batches*: consecutive pieces of work for one engine, between events on the streams that they
//! use. The main thread fills one at a time and waits for turns here; a thread for each engine ([`reaper`]) waits
//! for their ends and reports them. Must never cost a launch more than a few loads while the gate is open, nor
//! use an event of a context that is gone.

mod batch;
mod lane;
mod reaper;

pub use batch::Usual;

use crate::tables::Native;
use batch::{Batch, Piece, Scope};
use cuda_abi::{CuResult, Driver};
use lane::{Lane, Limits};
use std::collections::HashMap;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::gate::{Engine, GateWorker, now_ns};
use vgpu_ring::Backlog;

/// Most times that a batch may have streams begin and end: each takes two events.
const SEGMENTS: usize = 256;
/// Most records that an ask counts as waiting.
const VISIBLE: u32 = 256;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something for each engine.
#[derive(Debug)]
struct Both<T> {
    compute: T,
    copy: T,
}

impl<T> Both<T> {
    fn of(&self, engine: Engine) -> &T {
        match engine {
            Engine::Compute => &self.compute,
            Engine::Copy => &self.copy,
        }
    }
}

/// A device behind its gate.
#[derive(Debug)]
struct Device {
    gate: GateWorker,
    lanes: Both<Lane>,
    /// Held while a report is put: both reapers do.
    reporting: Mutex<()>,
    /// What a byte takes: memsets and copies within the device, copies in, copies out.
    fills: Arc<Usual>,
    ins: Arc<Usual>,
    outs: Arc<Usual>,
}

/// A piece of work for a device.
#[derive(Copy, Clone, Debug)]
pub enum Work<'a> {
    /// A launch of a kernel that usually takes so long.
    Kernel(&'a Arc<Usual>),
    /// A memset or a copy within the device, of so many bytes.
    Fill(u64),
    /// A copy from the host, of so many bytes.
    CopyIn(u64),
    /// A copy to the host, of so many bytes.
    CopyOut(u64),
}

/// Bytes that a copy of none would take as long as.
const COPY_OVERHEAD: u64 = 64 << 10;

impl<'a> Work<'a> {
    fn engine(self) -> Engine {
        match self {
            Work::Kernel(_) | Work::Fill(_) => Engine::Compute,
            Work::CopyIn(_) | Work::CopyOut(_) => Engine::Copy,
        }
    }

    fn piece(self, device: &'a Device) -> Piece<'a> {
        let (usual, bytes) = match self {
            Work::Kernel(usual) => {
                return Piece {
                    usual,
                    units: 1,
                    bytes: 0,
                };
            }
            Work::Fill(bytes) => (&device.fills, bytes),
            Work::CopyIn(bytes) => (&device.ins, bytes),
            Work::CopyOut(bytes) => (&device.outs, bytes),
        };
        Piece {
            usual,
            units: bytes.saturating_add(COPY_OVERHEAD),
            bytes,
        }
    }
}

/// The batch that the main thread fills.
#[derive(Debug)]
struct Filling {
    /// The guest's index of its context.
    context: u32,
    engine: Engine,
    batch: Batch,
}

/// The main thread's part. The context that is current when a batch begins must be so until it ends:
/// [`Meter::pause`] before another becomes so.
pub struct Meter {
    driver: Arc<Driver>,
    backlog: Backlog,
    /// By ordinal; none at all where nothing is measured.
    devices: Vec<Arc<Device>>,
    /// The contexts by the guest's index: the driver's handle and the device's ordinal.
    contexts: HashMap<u32, (Native, usize)>,
    scopes: HashMap<u32, Arc<Scope>>,
    filling: Option<Filling>,
}

impl Meter {
    /// A meter for these devices, by ordinal.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(driver: Arc<Driver>, gates: Vec<GateWorker>, backlog: Backlog) -> io::Result<Meter> {
        let mut devices = Vec::new();
        for gate in gates {
            let device = Arc::new(Device {
                gate,
                lanes: Both {
                    compute: Lane::new(Engine::Compute),
                    copy: Lane::new(Engine::Copy),
                },
                reporting: Mutex::default(),
                fills: Arc::default(),
                ins: Arc::default(),
                outs: Arc::default(),
            });
            for engine in Engine::ALL {
                reaper::start(driver.clone(), device.clone(), engine)?;
            }
            devices.push(device);
        }
        Ok(Meter {
            driver,
            backlog,
            devices,
            contexts: HashMap::new(),
            scopes: HashMap::new(),
            filling: None,
        })
    }

    /// What part of a device's engines the domain has had in the last second, in thousandths: kernels, copies.
    pub fn shares(&self, ordinal: usize) -> Option<[u32; 2]> {
        let device = self.devices.get(ordinal)?;
        Some(device.gate.shares(now_ns()))
    }

    /// The guest has a new context.
    pub fn came(&mut self, context: u32, native: Native, ordinal: i32) {
        if let Ok(ordinal) = usize::try_from(ordinal) {
            self.contexts.insert(context, (native, ordinal));
        }
    }

    /// A context of the guest's is no more: [`Meter::forget`] was called before it went.
    pub fn went(&mut self, context: u32) {
        self.contexts.remove(&context);
    }

    /// A context of the driver's is about to go, or may be: waits for all of its work, and keeps nothing of it.
    pub fn forget(&mut self, native: Native) {
        self.pause();
        let gone: Vec<u32> = self
            .scopes
            .iter()
            .filter(|(_, scope)| scope.native == native)
            .map(|(context, _)| *context)
            .collect();
        for scope in gone
            .iter()
            .filter_map(|context| self.scopes.remove(context))
        {
            scope.await_couriers();
            for engine in Engine::ALL {
                let (done, forgotten) = mpsc::channel();
                let lane = scope.device.lanes.of(engine);
                lane.hurry(&scope.device.gate, |lane| {
                    lane.forget(scope.clone(), done);
                    // An end without a word: the reaper is gone, and holds nothing either.
                    let _ = forgotten.recv();
                });
            }
            scope.destroy_events(&self.driver);
        }
    }

    fn scope(&mut self, context: u32) -> Option<Arc<Scope>> {
        if let Some(scope) = self.scopes.get(&context) {
            return Some(scope.clone());
        }
        let (native, ordinal) = *self.contexts.get(&context)?;
        let device = self.devices.get(ordinal)?.clone();
        let scope = Arc::new(Scope::new(native, device));
        self.scopes.insert(context, scope.clone());
        Some(scope)
    }

    /// A piece of work is about to be given to a stream of the context, which is current: waits until it may.
    pub fn piece(&mut self, context: u32, stream: Native, work: Work<'_>) {
        if self.devices.is_empty() {
            return;
        }
        if let Some(filling) = &mut self.filling
            && filling.context == context
            && filling.engine == work.engine()
            && let batch = &mut filling.batch
            && batch.segments.len() < SEGMENTS
            && (batch.has_turn() || batch.scope.device.gate.is_open())
        {
            // The call with the piece before has returned.
            batch.has_entered(filling.engine);
            let piece = work.piece(&batch.scope.device);
            if batch.load.takes(&piece) {
                batch.load.add(&piece);
                batch.enter(&self.driver, stream);
                return;
            }
        }
        self.begin(context, stream, work);
    }

    /// Begins a batch with a piece of work.
    fn begin(&mut self, context: u32, stream: Native, work: Work<'_>) {
        // Whatever waits for its end is to see it, however long this thread waits here.
        self.pause();
        let asked_ns = now_ns();
        let Some(scope) = self.scope(context) else {
            return;
        };
        let (engine, device) = (work.engine(), scope.device.clone());
        let (gate, lane, piece) = (&device.gate, device.lanes.of(engine), work.piece(&device));
        let mut batch = loop {
            let limits = Limits::of(gate);
            let open = gate.is_open();
            lane.await_room(gate, &limits, open, &piece);
            if open {
                if gate.begin(engine) {
                    break Batch::open(scope, asked_ns, limits.batch(lane));
                }
            } else if engine == Engine::Copy && behind(&self.driver, &device, &scope, stream) {
                break Batch::along(scope, asked_ns);
            } else {
                let waiting = self.backlog.count(VISIBLE).saturating_add(1);
                let turn = lane.turn(gate, waiting);
                break Batch::turn(scope, asked_ns, turn, limits.batch(lane));
            }
        };
        batch.load.add(&piece);
        batch.enter(&self.driver, stream);
        if engine == Engine::Copy {
            // Its call may return only when all is over.
            batch.has_entered(engine);
        }
        self.filling = Some(Filling {
            context,
            engine,
            batch,
        });
    }

    /// A stream is about to wait for something that is not a batch's: the time is not the batch's either.
    pub fn split(&mut self, stream: Native) {
        if let Some(filling) = &mut self.filling {
            filling.batch.leave(&self.driver, stream);
        }
    }

    /// Whether the main thread fills a batch.
    pub fn fills(&self) -> bool {
        self.filling.is_some()
    }

    /// Ends the batch that the main thread fills: no more work is there, or something else is to be done that
    /// may take long.
    pub fn pause(&mut self) {
        if let Some(filling) = self.filling.take() {
            let Filling {
                mut batch, engine, ..
            } = filling;
            batch.has_entered(engine);
            batch.close(&self.driver);
            let device = batch.scope.device.clone();
            device.lanes.of(engine).hand_in(batch);
        }
    }

    /// Whether work of a context passes without waiting for a turn.
    pub fn passes(&self, context: u32) -> bool {
        let ordinal = self.contexts.get(&context).map(|(_, ordinal)| *ordinal);
        let device = ordinal.and_then(|ordinal| self.devices.get(ordinal));
        device.is_none_or(|device| device.gate.is_open())
    }

    /// What a thread needs to copy out of a context's memory while others wait; `None` where nothing is
    /// measured. The context stays until it is dropped.
    pub fn courier(&mut self, context: u32) -> Option<Courier> {
        let scope = self.scope(context)?;
        scope.add_courier();
        Some(Courier {
            driver: self.driver.clone(),
            scope,
        })
    }
}

/// Whether a copy would have to wait in its stream for something else than copies of this worker: then it goes
/// along without a turn, as one who holds the engine for work that cannot start would leave it idle.
fn behind(driver: &Driver, device: &Device, scope: &Scope, stream: Native) -> bool {
    // SAFETY: the stream is the driver's own handle, and its context is current.
    let waits = unsafe { driver.cuStreamQuery(stream.handle()) } == CuResult::NOT_READY;
    waits && (device.lanes.compute.is_in(scope, stream) || !device.lanes.copy.is_in(scope, stream))
}

/// Carries one copy out of device memory, on a thread that may wait.
pub struct Courier {
    driver: Arc<Driver>,
    scope: Arc<Scope>,
}

impl Courier {
    /// Makes a copy out of a stream of so many bytes. The context is current in this thread.
    pub fn carry<T>(&self, stream: Native, bytes: u64, copy: impl FnOnce() -> T) -> T {
        let asked_ns = now_ns();
        let (driver, scope) = (&self.driver, &self.scope);
        let device = &scope.device;
        let (gate, lane) = (&device.gate, &device.lanes.copy);
        let piece = Work::CopyOut(bytes).piece(device);
        let mut batch = loop {
            let limits = Limits::of(gate);
            if gate.is_open() {
                lane.await_room(gate, &limits, true, &piece);
                if gate.begin(Engine::Copy) {
                    break Batch::open(scope.clone(), asked_ns, limits.batch(lane));
                }
            }
            // Only then can the copy begin, and hold the engine for nothing but itself.
            // SAFETY: the stream is the driver's own handle, and its context is current.
            let _ = unsafe { driver.cuStreamSynchronize(stream.handle()) };
            if !gate.is_open() {
                let turn = lane.turn(gate, 1);
                break Batch::turn(scope.clone(), asked_ns, turn, limits.batch(lane));
            }
        };
        batch.load.add(&piece);
        batch.enter(driver, stream);
        // The call returns when all is over.
        batch.has_entered(Engine::Copy);
        let result = copy();
        batch.close(driver);
        lane.hand_in(batch);
        result
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.scope.remove_courier();
    }
}
