//! What the gate costs a launch: `cargo bench -p vgpu-worker`. The driver is softcuda, for this process alone.
//!
//! Prints nanoseconds: the lowest and the median of so many rounds, as a machine that does something else makes
//! single rounds longer.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot be made ends with why"
)]

use cuda_abi::{Driver, Handle};
use std::hint::black_box;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;
use vgpu_protocol::gate::{Engine, GateBack, GateWorker, now_ns};
use vgpu_ring::{Back, Front, Layout, SpinPolicy, inproc};
use vgpu_worker::meter::{Meter, Usual, Work};
use vgpu_worker::tables::Native;

const CONTEXT: u32 = 1;
const ROUNDS: usize = 30;

/// Runs rounds of something, each of so many; what one takes.
fn measure(what: &str, count: u32, mut one: impl FnMut()) {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(|_| one());
            start.elapsed().as_nanos() as f64 / f64::from(count)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!(
        "{what}: {:.1} ns, median {:.1} ns",
        rounds.first().unwrap(),
        rounds.get(ROUNDS / 2).unwrap()
    );
}

fn main() {
    // SAFETY: no other thread is there yet.
    unsafe { std::env::set_var("SOFTCUDA_ENGINE", "off") };
    let path = std::env::current_exe().unwrap();
    // SAFETY: softcuda, built with this program.
    let driver = unsafe { Driver::load(&path.with_file_name("libsoftcuda.so")) }.unwrap();
    let driver = Arc::new(driver);
    let mut native: Handle = ptr::null_mut();
    // SAFETY: the place outlives the calls.
    unsafe {
        driver.cuInit(0).ok().unwrap();
        driver.cuCtxCreate_v2(&mut native, 0, 0).ok().unwrap();
    }
    let layout = Layout::new(64 << 10, 64 << 10, 0).unwrap();
    let memory = inproc::memory(layout.total_bytes());
    let (at_front, at_back) = inproc::bells();
    let spin = SpinPolicy::default();
    let _front = Front::new(memory.clone(), layout, at_front, spin).unwrap();
    let patience = std::time::Duration::from_secs(1);
    let back = Back::attach(memory, layout, at_back, spin, patience).unwrap();
    let mut gate = GateBack::new().unwrap();
    let mut fds = Vec::new();
    let wire = gate.put(&mut fds);
    let at_worker = GateWorker::take(&wire, &fds).unwrap();
    let mut meter = Meter::new(driver.clone(), vec![at_worker], back.backlog()).unwrap();
    meter.came(CONTEXT, native.into(), 0);
    let mut none = Meter::new(driver, Vec::new(), back.backlog()).unwrap();
    let stream = Native::from(ptr::null_mut());

    // A kernel of a nanosecond, as far as anybody knows: a batch takes as many as there are.
    let usual = Arc::new(Usual::default());
    usual.learn(1 << 30, 1 << 30, 1 << 30);
    gate.set_quantum(1 << 40);
    gate.open();
    measure("a launch without a gate", 1_000_000, || {
        none.piece(black_box(CONTEXT), stream, Work::Kernel(black_box(&usual)));
    });
    measure("a launch, in an open batch", 1_000_000, || {
        meter.piece(black_box(CONTEXT), stream, Work::Kernel(black_box(&usual)));
    });
    let (done, drained) = (AtomicBool::new(false), AtomicBool::new(false));
    let drain = |gate: &mut GateBack| while gate.report(now_ns()).is_some() {};
    meter.pause();
    measure(
        "a launch in a batch of its own, the gate open",
        1000,
        || {
            meter.piece(CONTEXT, stream, Work::Kernel(&usual));
            meter.pause();
            drain(&mut gate);
        },
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            gate.close();
            drained.store(true, Ordering::Release);
            while !done.load(Ordering::Acquire) {
                if gate.asked(Engine::Compute).is_some() {
                    gate.grant(Engine::Compute, 1_000_000, 0);
                }
                while gate.report(now_ns()).is_some() {}
                thread::yield_now();
            }
        });
        while !drained.load(Ordering::Acquire) {
            thread::yield_now();
        }
        measure(
            "a launch with a turn of its own, granted at once",
            1000,
            || {
                meter.piece(CONTEXT, stream, Work::Kernel(&usual));
                meter.pause();
            },
        );
        done.store(true, Ordering::Release);
    });
}
