//! A guest process with its worker in a thread, and vgpu-backd's end of the gate.

use cuda_abi::{CuResult, Driver};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vgpu_protocol::calls::{Request, decode_reply, encode_call, request};
use vgpu_protocol::codec::{Bytes, Codec, Id, Payload, Range};
use vgpu_protocol::gate::{Engine, GateBack, GateWorker, Report, now_ns};
use vgpu_protocol::quota::{QuotaBack, QuotaWorker};
use vgpu_ring::{Back, Front, Layout, SpinPolicy, Ticket, inproc};
use vgpu_worker::execute::Executor;
use vgpu_worker::memory::Memory;
use vgpu_worker::meter::Meter;
use vgpu_worker::regions::Regions;
use vgpu_worker::serve::carry_out;

const LOAD: &[u8] = include_bytes!("load.ptx");
/// Kernels whose times there is memory for.
const KERNELS: u64 = 256;
const PATIENCE: Duration = Duration::from_secs(60);
const CONTEXT: u32 = 1;

/// Tests have the device one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    static DEVICE: Mutex<()> = Mutex::new(());
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn driver() -> Arc<Driver> {
    static DRIVER: OnceLock<Arc<Driver>> = OnceLock::new();
    let load = || {
        // SAFETY: the one that holds the lock is the only thread that does anything yet.
        unsafe { std::env::set_var("SOFTCUDA_ENGINE", "off") };
        let beside: PathBuf = std::env::current_exe().unwrap();
        let path = beside.with_file_name("libsoftcuda.so");
        // SAFETY: softcuda, built with this test.
        let driver = unsafe { Driver::load(&path) }.unwrap();
        // SAFETY: 0 is the only flag there is.
        assert!(unsafe { driver.cuInit(0) }.is_ok());
        Arc::new(driver)
    };
    DRIVER.get_or_init(load).clone()
}

/// Now, on the clock of reports and on the one that kernels see.
pub fn now_here_and_there() -> (u64, u64) {
    let there = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now_ns(), there.as_nanos() as u64)
}

pub struct Guest {
    front: Front,
    pub gate: GateBack,
    pub memory: u64,
    _quota: QuotaBack,
}

impl Guest {
    /// A process with a context, its module and streams 8 and 9, behind a gate that is closed.
    pub fn start() -> Guest {
        let driver = driver();
        let layout = Layout::new(64 << 10, 64 << 10, 0).unwrap();
        let shared = inproc::memory(layout.total_bytes());
        let (at_front, at_back) = inproc::bells();
        let spin = SpinPolicy::default();
        let front = Front::new(shared.clone(), layout, at_front, spin).unwrap();
        let gate = GateBack::new().unwrap();
        let mut fds = Vec::new();
        let wire = gate.put(&mut fds);
        let at_worker = GateWorker::take(&wire, &fds).unwrap();
        let quota = QuotaBack::new().unwrap();
        let slot = quota.take_slot().unwrap();
        let mut fds = Vec::new();
        let wire = quota.put(slot, &mut fds);
        let memory = Memory::new(QuotaWorker::take(&wire, &fds).unwrap());
        thread::spawn(move || {
            let mut back = Back::attach(shared, layout, at_back, spin, PATIENCE).unwrap();
            let regions = Arc::new(Regions::new(back.arena()));
            let meter = Meter::new(driver.clone(), vec![at_worker], back.backlog()).unwrap();
            let completer = back.completer();
            let longest = layout.max_completion();
            let mut executor = Executor::new(driver, regions, completer, meter, longest, memory);
            carry_out(&mut back, &mut executor)
        });
        let mut guest = Guest {
            front,
            gate,
            memory: 0,
            _quota: quota,
        };
        guest.set_up();
        guest
    }

    /// Makes the context and what is in it.
    pub fn set_up(&mut self) {
        self.call(&request::PrimaryRetain {
            context: Id::new(CONTEXT),
            device: 0,
        });
        self.post(&request::ImageData {
            image: 1,
            data: Payload::Inline(Bytes([LOAD, &[0]].concat())),
        });
        let loaded = self.call(&request::ModuleLoad {
            image: 1,
            module: Id::new(1),
        });
        assert_eq!(
            loaded.result,
            0,
            "{}",
            String::from_utf8_lossy(&loaded.log.0)
        );
        self.call(&request::ModuleGetFunction {
            module: Id::new(1),
            function: Id::new(1),
            name: Bytes(b"load".to_vec()),
        });
        for stream in [8, 9] {
            self.post(&request::cuStreamCreate {
                phStream: Id::new(stream),
                Flags: 1,
            });
        }
        self.memory = self
            .call(&request::MemAlloc {
                bytes: 16 * KERNELS,
            })
            .address;
    }

    pub fn submit<R: Request>(&self, request: &R) -> Waiting<R> {
        let record = encode_call(CONTEXT, request);
        let ticket = self.front.submit(&[&record], true).unwrap();
        Waiting(ticket, std::marker::PhantomData)
    }

    pub fn answer<R: Request>(&self, waiting: Waiting<R>) -> Result<R::Reply, CuResult> {
        decode_reply(&self.front.wait(waiting.0).unwrap()).unwrap()
    }

    pub fn try_call<R: Request>(&self, request: &R) -> Result<R::Reply, CuResult> {
        self.answer(self.submit(request))
    }

    pub fn call<R: Request>(&self, request: &R) -> R::Reply {
        self.try_call(request).unwrap()
    }

    pub fn post<R: Request>(&self, request: &R) {
        let record = encode_call(CONTEXT, request);
        self.front.submit(&[&record], false).unwrap();
    }

    /// Launches the kernel of this number: it takes so long and writes down when it ran.
    pub fn launch(&self, stream: u32, number: u32, nanoseconds: u64) {
        assert!(u64::from(number) < KERNELS);
        self.launch_at(stream, self.memory + 16 * u64::from(number), nanoseconds);
    }

    /// The same, with the place for its times.
    pub fn launch_at(&self, stream: u32, times: u64, nanoseconds: u64) {
        let mut params = Vec::new();
        times.put(&mut params);
        nanoseconds.put(&mut params);
        self.post(&request::Launch {
            function: Id::new(1),
            stream: Id::new(stream),
            grid: [1; 3],
            block: [1; 3],
            shared: 0,
            cooperative: 0,
            params: Bytes(params),
        });
    }

    /// Runs everything once: what comes later is not the first of its kind, and known to take as long. The gate
    /// is open.
    pub fn warm_up(&mut self, nanoseconds: u64) {
        for stream in [0, 8, 9] {
            self.launch(stream, 0, nanoseconds);
            self.call(&request::cuCtxSynchronize {});
        }
        self.reports_of(Engine::Compute, 3);
        self.times(1);
        self.reports_of(Engine::Copy, 1);
    }

    /// When the first kernels began and ended, by their own clock.
    pub fn times(&self, kernels: u32) -> Vec<(u64, u64)> {
        let reply = self.call(&request::CopyOut {
            address: self.memory,
            bytes: 16 * u64::from(kernels),
            ordered: 0,
            stream: Id::new(0),
            into: Range::default(),
        });
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let times = reply.data.0.chunks_exact(16);
        times
            .map(|time| (word(&time[..8]), word(&time[8..])))
            .collect()
    }

    /// Reports, until so many pieces of work of an engine are; none of another engine is there meanwhile.
    pub fn reports_of(&mut self, engine: Engine, pieces: u32) -> Vec<Report> {
        let deadline = Instant::now() + PATIENCE;
        let (mut reports, mut seen) = (Vec::new(), 0);
        while seen < pieces {
            assert!(Instant::now() < deadline, "{seen} of {pieces}: {reports:?}");
            match self.gate.report(now_ns()) {
                Some(report) => {
                    assert_eq!(report.engine, engine);
                    seen += report.pieces;
                    reports.push(report);
                }
                None => thread::sleep(Duration::from_micros(100)),
            }
        }
        reports
    }

    /// Waits for an ask, grants it, and waits for the turn's end.
    pub fn grant_one(&mut self, engine: Engine) -> Report {
        let deadline = Instant::now() + PATIENCE;
        while self.gate.asked(engine).is_none() {
            assert!(Instant::now() < deadline, "nobody asks");
            assert_eq!(self.gate.report(now_ns()), None);
            thread::sleep(Duration::from_micros(100));
        }
        let turn = self.gate.grant(engine, 1_000_000_000, 0);
        let report = self.reports_of(engine, 1).remove(0);
        assert_eq!(report.turn, turn.number);
        report
    }

    /// Does something while every ask is granted at once; what it gives, and all reports.
    pub fn granting<T>(
        &mut self,
        time_ns: u64,
        pieces: u32,
        work: impl FnOnce(&Guest) -> T,
    ) -> (T, Vec<Report>) {
        let done = AtomicBool::new(false);
        // The thread that grants has the gate meanwhile.
        let mut gate = std::mem::replace(&mut self.gate, GateBack::new().unwrap());
        let (result, gate, reports) = thread::scope(|scope| {
            let done = &done;
            let grants = scope.spawn(move || {
                let mut reports = Vec::new();
                let mut under_way = 0;
                let mut newest = None;
                loop {
                    let last = done.load(Ordering::Acquire);
                    for engine in Engine::ALL {
                        if gate.asked(engine).is_some() {
                            if engine == Engine::Compute {
                                // One thread launches, and asks when the driver has what it had a turn for.
                                assert!(newest.is_none() || gate.has_entered(engine, newest));
                            }
                            let turn = gate.grant(engine, time_ns, pieces);
                            if engine == Engine::Compute {
                                newest = Some(turn.number);
                            }
                            under_way += 1;
                        }
                    }
                    while let Some(report) = gate.report(now_ns()) {
                        under_way -= u32::from(report.turn != 0);
                        reports.push(report);
                    }
                    if last && under_way == 0 {
                        return (gate, reports);
                    }
                    thread::sleep(Duration::from_micros(50));
                }
            });
            let result = work(self);
            done.store(true, Ordering::Release);
            let (gate, reports) = grants.join().unwrap();
            (result, gate, reports)
        });
        self.gate = gate;
        (result, reports)
    }
}

/// An answer that is to come.
pub struct Waiting<R>(Ticket, std::marker::PhantomData<R>);
