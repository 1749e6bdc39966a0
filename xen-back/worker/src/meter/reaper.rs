//! The thread that waits for the ends of one engine's batches and reports them to vgpu-backd.
//!
//! While the gate is open and nobody waits for it, it looks only now and then, so that short batches cost the
//! main thread no wake-up each. Must never keep an end from vgpu-backd when the gate is closed.

use super::batch::{Batch, Pass, Scope, Segment, create_event};
use super::lane::{Job, Lane};
use super::{Device, lock};
use crate::tables::Native;
use cuda_abi::{CuResult, Driver, Handle};
use std::collections::HashMap;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use vgpu_protocol::gate::{Engine, REPORTS, Report, now_ns};

/// The shortest and the longest time between two looks while nothing is urgent.
const NAP: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));
/// Between two attempts to put a report where there is no room.
const NO_ROOM: Duration = Duration::from_millis(1);
/// How old a clock's base may get: a distance of up to 4,096 ms is a 32-bit float to 0.25 µs.
const BASE_AGE_NS: u64 = 4_000_000_000;
/// A base that is known to so many nanoseconds is good enough; else it is tried again, so often.
const PRECISION_NS: u64 = 20_000;
const ATTEMPTS: u32 = 4;
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;

/// Starts the thread.
pub(super) fn start(driver: Arc<Driver>, device: Arc<Device>, engine: Engine) -> io::Result<()> {
    let reaper = Reaper {
        driver,
        device,
        engine,
        clocks: HashMap::new(),
        current: None,
        held: None,
        ended: 0,
    };
    thread::Builder::new()
        .name("vgpu-meter".into())
        .spawn(move || reaper.run())?;
    Ok(())
}

struct Reaper {
    driver: Arc<Driver>,
    device: Arc<Device>,
    engine: Engine,
    /// By the context's native handle; `None` where it has none, having failed.
    clocks: HashMap<Native, Option<Clock>>,
    /// The context that is current in this thread.
    current: Option<Native>,
    /// What is not reported yet, of batches without a turn.
    held: Option<Report>,
    /// Batches of an open gate in it.
    ended: u64,
}

/// Runs of time: what is in several of them counts once.
fn union(mut times: Vec<(u64, u64)>) -> Option<(u64, u64, u64)> {
    times.sort_unstable();
    let (start, _) = *times.first()?;
    let (mut end, mut busy) = (start, 0u64);
    for (from, to) in times {
        busy = busy.saturating_add(to.saturating_sub(from.max(end)));
        end = end.max(to);
    }
    Some((start, end, busy))
}

/// Gives a reaped batch's events back.
fn give_back(batch: Batch) {
    for segment in batch.segments {
        for event in [Some(segment.start), segment.end].into_iter().flatten() {
            batch.scope.give_back(event);
        }
    }
}

impl Reaper {
    fn lane(&self) -> &Lane {
        self.device.lanes.of(self.engine)
    }

    fn run(mut self) {
        loop {
            let job = match self.lane().try_next() {
                Some(job) => job,
                None => {
                    self.flush();
                    self.lane().next()
                }
            };
            match job {
                Job::Reap(batch) => {
                    self.await_end(&batch);
                    self.report(&batch);
                    self.lane().reaped(&batch);
                    give_back(batch);
                }
                Job::Forget(scope, done) => {
                    self.flush();
                    self.forget(&scope);
                    // Nobody waits for it any more: then it need not know.
                    let _ = done.send(());
                }
            }
        }
    }

    fn make_current(&mut self, context: Native) {
        if self.current != Some(context) {
            self.current = Some(context);
            // SAFETY: the context is there until this thread has forgotten it.
            let _ = unsafe { self.driver.cuCtxSetCurrent(context.handle()) };
        }
    }

    fn forget(&mut self, scope: &Scope) {
        self.make_current(scope.native);
        if let Some(Some(clock)) = self.clocks.remove(&scope.native) {
            clock.destroy(&self.driver);
        }
        self.current = None;
        // SAFETY: null takes the current context away.
        let _ = unsafe { self.driver.cuCtxSetCurrent(ptr::null_mut()) };
    }

    /// Waits until all of a batch has ended, or its context has failed.
    fn await_end(&mut self, batch: &Batch) {
        self.make_current(batch.scope.native);
        for end in batch.segments.iter().filter_map(|segment| segment.end) {
            loop {
                // SAFETY: the event is the driver's own, of a context that is there.
                let status = unsafe { self.driver.cuEventQuery(end.handle()) };
                if status != CuResult::NOT_READY {
                    break;
                }
                self.flush();
                if self.device.gate.is_open() && !self.lane().is_hurried() {
                    let left = self.lane().left();
                    self.device.gate.nap(left.clamp(NAP.0, NAP.1));
                } else {
                    // SAFETY: as above.
                    let _ = unsafe { self.driver.cuEventSynchronize(end.handle()) };
                    break;
                }
            }
        }
    }

    /// When a segment began and ended.
    fn times(&mut self, batch: &Batch, segment: &Segment, now: u64) -> Option<(u64, u64)> {
        let (driver, scope) = (&self.driver, &batch.scope);
        let took = elapsed(driver, segment.start, segment.end?)?.max(0) as u64;
        let clock = self.clocks.entry(scope.native);
        let clock = clock.or_insert_with(|| Clock::new(driver)).as_mut()?;
        clock.refresh(driver);
        clock.place(driver, segment.end?, took, (batch.begun_ns, now))
    }

    fn report(&mut self, batch: &Batch) {
        let now = now_ns();
        let mut times = Vec::with_capacity(batch.segments.len());
        for segment in &batch.segments {
            // Without times of the device's, its context having failed, it had it all the while.
            let time = self.times(batch, segment, now);
            times.push(time.unwrap_or((batch.begun_ns, now)));
        }
        let none = (batch.begun_ns, batch.begun_ns, 0);
        let (start_ns, end_ns, busy_ns) = union(times).unwrap_or(none);
        let estimate = batch.load.estimate_ns.max(1);
        for kind in batch.load.kinds.iter().filter(|_| busy_ns > 0) {
            let part = u128::from(busy_ns) * u128::from(kind.estimate_ns) / u128::from(estimate);
            let took = match batch.load.kinds.len() {
                1 => busy_ns,
                _ => u64::try_from(part).unwrap_or(busy_ns),
            };
            kind.usual.learn(kind.pieces, kind.units, took);
        }
        let mut report = Report {
            engine: self.engine,
            turn: 0,
            start_ns,
            end_ns,
            busy_ns,
            pieces: batch.load.pieces,
            bytes: batch.load.bytes,
            asked_ns: batch.asked_ns,
        };
        match batch.pass {
            Pass::Turn(number) => {
                self.flush();
                report.turn = number;
                self.put(&report);
                self.device.gate.ring();
            }
            pass => {
                self.hold(report);
                if pass == Pass::Open {
                    self.ended = self.ended.saturating_add(1);
                }
            }
        }
    }

    /// Adds to what is reported next.
    fn hold(&mut self, report: Report) {
        self.held = Some(match self.held.take() {
            None => report,
            Some(held) => Report {
                start_ns: held.start_ns.min(report.start_ns),
                end_ns: held.end_ns.max(report.end_ns),
                busy_ns: held.busy_ns.saturating_add(report.busy_ns),
                pieces: held.pieces.saturating_add(report.pieces),
                bytes: held.bytes.saturating_add(report.bytes),
                asked_ns: held.asked_ns.min(report.asked_ns),
                ..held
            },
        });
    }

    /// Reports what is held, and then says that it has ended.
    fn flush(&mut self) {
        if let Some(report) = self.held.take() {
            self.put(&report);
        }
        for _ in 0..std::mem::take(&mut self.ended) {
            self.device.gate.end(self.engine);
        }
    }

    /// Puts a report. Where vgpu-backd leaves no room, it is waited for: nothing goes unaccounted.
    fn put(&self, report: &Report) {
        let gate = &self.device.gate;
        let _one = lock(&self.device.reporting);
        while !gate.report(report) {
            gate.ring();
            thread::sleep(NO_ROOM);
        }
        if gate.room() < REPORTS / 2 {
            gate.ring();
        }
    }
}

/// Nanoseconds from one event to another, where both have happened in a context that has not failed.
fn elapsed(driver: &Driver, from: Native, to: Native) -> Option<i64> {
    let mut milliseconds = 0f32;
    // SAFETY: the place outlives the call; the events are the driver's own, of a context that is there.
    let status =
        unsafe { driver.cuEventElapsedTime(&mut milliseconds, from.handle(), to.handle()) };
    (status.is_ok() && milliseconds.is_finite())
        .then(|| (f64::from(milliseconds) * 1e6).round() as i64)
}

/// Puts a context's events on the clock of [`now_ns`]: by the distance to a base event, whose time was between
/// two looks at the clock.
struct Clock {
    stream: Native,
    base: Native,
    /// The next base.
    spare: Native,
    base_ns: u64,
}

impl Clock {
    /// For the context that is current. `None` where the driver refuses.
    fn new(driver: &Driver) -> Option<Clock> {
        let mut stream: Handle = ptr::null_mut();
        // SAFETY: the place outlives the call.
        let created = unsafe { driver.cuStreamCreate(&mut stream, NON_BLOCKING) };
        created.is_ok().then_some(())?;
        let mut clock = Clock {
            stream: stream.into(),
            base: create_event(driver)?,
            spare: create_event(driver)?,
            base_ns: 0,
        };
        let (before, after) = clock.mark(driver)?;
        std::mem::swap(&mut clock.base, &mut clock.spare);
        clock.base_ns = before.midpoint(after);
        Some(clock)
    }

    /// Records the spare event, between two times.
    fn mark(&self, driver: &Driver) -> Option<(u64, u64)> {
        let mut around = None;
        for _ in 0..ATTEMPTS {
            let before = now_ns();
            // SAFETY: both handles are the driver's own, of the context that is current.
            let recorded = unsafe {
                driver
                    .cuEventRecord(self.spare.handle(), self.stream.handle())
                    .ok()
                    .and_then(|()| driver.cuEventSynchronize(self.spare.handle()).ok())
            };
            recorded.ok()?;
            let after = now_ns();
            around = Some((before, after));
            if after.saturating_sub(before) < PRECISION_NS {
                break;
            }
        }
        around
    }

    /// Takes a new base if the old one is old.
    fn refresh(&mut self, driver: &Driver) {
        if now_ns().saturating_sub(self.base_ns) < BASE_AGE_NS {
            return;
        }
        if let Some((before, after)) = self.mark(driver)
            && let Some(since) = elapsed(driver, self.base, self.spare)
        {
            // What the old base says, as far as it can be true: the device's clock may drift.
            let expected = self.base_ns.saturating_add_signed(since);
            self.base_ns = expected.clamp(before, after);
            std::mem::swap(&mut self.base, &mut self.spare);
        }
    }

    /// When something began and ended that took so long and ended with this event; all of it was between two
    /// times.
    fn place(
        &mut self,
        driver: &Driver,
        end: Native,
        took: u64,
        (first, last): (u64, u64),
    ) -> Option<(u64, u64)> {
        let since = elapsed(driver, self.base, end)?;
        let mut end_ns = self.base_ns.saturating_add_signed(since);
        // What cannot be says by how much the base is wrong at least.
        if end_ns > last {
            self.base_ns = self.base_ns.saturating_sub(end_ns.saturating_sub(last));
            end_ns = last;
        }
        let start_ns = end_ns.saturating_sub(took);
        if start_ns < first {
            let late = first.saturating_sub(start_ns);
            self.base_ns = self.base_ns.saturating_add(late);
            end_ns = end_ns.saturating_add(late).min(last);
        }
        Some((end_ns.saturating_sub(took).max(first), end_ns))
    }

    fn destroy(&self, driver: &Driver) {
        for event in [self.base, self.spare] {
            // SAFETY: the event is the driver's own, and its context still there.
            let _ = unsafe { driver.cuEventDestroy_v2(event.handle()) };
        }
        // SAFETY: as above, of the stream.
        let _ = unsafe { driver.cuStreamDestroy_v2(self.stream.handle()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_time_counts_once() {
        assert_eq!(union(vec![]), None);
        assert_eq!(union(vec![(5, 9)]), Some((5, 9, 4)));
        assert_eq!(union(vec![(20, 30), (5, 9)]), Some((5, 30, 14)));
        assert_eq!(union(vec![(5, 9), (6, 8), (8, 12)]), Some((5, 12, 7)));
        assert_eq!(union(vec![(5, 5), (0, 9)]), Some((0, 9, 9)));
    }
}
