//! A worker behind a gate: what it reports against what the kernels themselves wrote down, and how it takes
//! turns. The device is softcuda's, for this process alone; vgpu-backd's part is played by the tests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod guest;

use cuda_abi::CuResult;
use guest::{Guest, alone, now_here_and_there};
use std::thread;
use std::time::Duration;
use vgpu_protocol::calls::request;
use vgpu_protocol::codec::{Bytes, Id, Payload, Range};
use vgpu_protocol::gate::{Engine, Report, now_ns};

const MS: u64 = 1_000_000;

/// Kernels' times in nanoseconds, and what is reported of them.
fn sum(times: &[(u64, u64)]) -> u64 {
    times.iter().map(|(start, end)| end - start).sum()
}

fn pieces(reports: &[Report], engine: Engine) -> u32 {
    let of = reports.iter().filter(|report| report.engine == engine);
    of.map(|report| report.pieces).sum()
}

fn busy(reports: &[Report], engine: Engine) -> u64 {
    let of = reports.iter().filter(|report| report.engine == engine);
    of.map(|report| report.busy_ns).sum()
}

/// Compares what is reported with the truth, in rounds: on a machine that is busy with something else the device,
/// which is its processor, does nothing for a while between two kernels, and the driver cannot tell.
fn within_2_percent(mut round: impl FnMut() -> (u64, u64)) {
    let apart: Vec<f64> = (0..5)
        .map(|_| {
            let (reported, truth) = round();
            100.0 * (reported.abs_diff(truth) as f64) / truth as f64
        })
        .take_while(|percent| *percent > 2.0)
        .collect();
    println!("off by more than 2 %: {apart:?}");
    assert!(apart.len() < 5, "off by {apart:?} %");
}

#[test]
fn device_time_is_accounted_while_the_gate_is_open() {
    let _alone = alone();
    let mut guest = Guest::start();
    guest.gate.set_quantum(40 * MS);
    guest.gate.open();
    guest.warm_up(MS);
    within_2_percent(|| {
        let mut launched = 0;
        for (stream, length, count) in [(0, 20, 10), (8, 10, 10), (9, 50, 2)] {
            for _ in 0..count {
                guest.launch(stream, launched, length * MS);
                launched += 1;
            }
            // Some are waited for one by one.
            for _ in 0..3 {
                guest.launch(stream, launched, length * MS);
                guest.call(&request::cuStreamSynchronize {
                    hStream: Id::new(stream),
                });
                launched += 1;
            }
        }
        guest.call(&request::cuCtxSynchronize {});
        let reports = guest.reports_of(Engine::Compute, launched);
        assert_eq!(pieces(&reports, Engine::Compute), launched);
        assert!(reports.iter().all(|report| report.turn == 0));
        let times = guest.times(launched);
        guest.reports_of(Engine::Copy, 1);
        (busy(&reports, Engine::Compute), sum(&times))
    });
}

#[test]
fn device_time_is_accounted_by_turns() {
    let _alone = alone();
    let mut guest = Guest::start();
    guest.gate.open();
    guest.gate.set_quantum(100 * MS);
    guest.warm_up(20 * MS);
    guest.gate.close();
    within_2_percent(|| {
        let launched = 20;
        let (times, reports) = guest.granting(100 * MS, 3, |guest| {
            for n in 0..launched {
                guest.launch(0, n, 20 * MS);
            }
            guest.call(&request::cuCtxSynchronize {});
            guest.times(launched)
        });
        let of = |engine| move |report: &&Report| report.engine == engine;
        let turns: Vec<_> = reports.iter().filter(of(Engine::Compute)).collect();
        // Each turn ends once, in order, and holds no more than it allows.
        let numbers: Vec<u32> = turns.iter().map(|report| report.turn).collect();
        let first = numbers.first().copied().unwrap();
        assert_eq!(numbers, (first..).take(turns.len()).collect::<Vec<_>>());
        assert!(turns.iter().all(|report| (1..=3).contains(&report.pieces)));
        assert_eq!(pieces(&reports, Engine::Compute), launched);
        for report in &turns {
            assert!(report.asked_ns <= report.start_ns && report.start_ns <= report.end_ns);
        }
        // The copy of the times took a turn of the other engine.
        let copies: Vec<_> = reports.iter().filter(of(Engine::Copy)).collect();
        assert_eq!((copies.len(), copies[0].pieces), (1, 1));
        assert_ne!(copies[0].turn, 0);
        (busy(&reports, Engine::Compute), sum(&times))
    });
}

#[test]
fn a_gate_that_closes_leaves_two_batches_at_most() {
    let _alone = alone();
    let mut guest = Guest::start();
    guest.gate.set_quantum(10 * MS);
    guest.gate.open();
    guest.warm_up(4 * MS);
    let launched = 60;
    for n in 0..launched {
        guest.launch(0, n, 4 * MS);
    }
    // Some have run, and more wait in the queue than two batches hold.
    let before = guest.reports_of(Engine::Compute, 10);
    let closing_there = now_here_and_there().1;
    guest.gate.close();
    while !guest.gate.settled(Engine::Compute) {
        thread::sleep(Duration::from_micros(200));
    }
    let (settled, settled_there) = now_here_and_there();
    let mut passed = before;
    while let Some(report) = guest.gate.report(now_ns()) {
        passed.push(report);
    }
    let done = pieces(&passed, Engine::Compute);
    assert!(done < launched, "all {launched} passed");
    assert!(passed.iter().all(|report| report.end_ns <= settled));
    let (times, rest) = guest.granting(10 * MS, 0, |guest| {
        guest.call(&request::cuCtxSynchronize {});
        guest.times(launched)
    });
    assert_eq!(pieces(&rest, Engine::Compute), launched - done);
    let (early, late) = times.split_at(done as usize);
    assert!(early.iter().all(|(_, end)| *end <= settled_there));
    assert!(late.iter().all(|(start, _)| *start >= settled_there));
    // Of what was there when the gate closed, two batches' worth of 10 ms passed, in pieces of 4 ms.
    let passed_after = early.iter().filter(|(start, _)| *start > closing_there);
    assert!(passed_after.count() <= 6, "{closing_there}: {early:?}");
}

#[test]
fn no_more_launches_are_in_flight_than_allowed() {
    let _alone = alone();
    let mut guest = Guest::start();
    guest.gate.set_quantum(1000 * MS);
    guest.gate.open();
    guest.warm_up(MS);
    guest.gate.close();
    guest.gate.set_launches(3);
    let (_, reports) = guest.granting(1000 * MS, 0, |guest| {
        for n in 0..20 {
            guest.launch(0, n, MS);
        }
        guest.call(&request::cuCtxSynchronize {});
    });
    assert_eq!(pieces(&reports, Engine::Compute), 20);
    assert!(
        reports.iter().all(|report| report.pieces <= 3),
        "{reports:?}"
    );
}

#[test]
fn copies_take_turns_of_their_own_engine_and_posted_ones_go_along_behind_kernels() {
    let _alone = alone();
    let mut guest = Guest::start();
    guest.gate.set_quantum(1000 * MS);
    guest.gate.open();
    guest.warm_up(MS);
    guest.gate.close();
    let copy_in = |address, stream, ordered| request::CopyIn {
        address,
        ordered,
        stream: Id::new(stream),
        data: Payload::Inline(Bytes(vec![7; 1000])),
    };
    // Into a stream that is idle: it needs a turn of the engine that copies.
    guest.post(&copy_in(guest.memory, 8, 1));
    let copies = guest.grant_one(Engine::Copy);
    assert_eq!((copies.pieces, copies.bytes), (1, 1000));
    assert_ne!(copies.turn, 0);
    // Behind a kernel: it has the kernel's time to wait, and no turn is granted for it.
    guest.launch(8, 100, 30 * MS);
    guest.post(&copy_in(guest.memory + 2048, 8, 1));
    let kernel = guest.grant_one(Engine::Compute);
    assert_eq!((kernel.pieces, kernel.bytes), (1, 0));
    guest.call(&request::cuStreamSynchronize {
        hStream: Id::new(8),
    });
    let copies = guest.reports_of(Engine::Copy, 1);
    assert_eq!((copies[0].turn, copies[0].bytes), (0, 1000));
    assert!(copies[0].start_ns >= kernel.start_ns);
    assert_eq!(guest.gate.asked(Engine::Copy), None);
    // Behind a kernel and waited for: the turn is asked for when the kernel has ended.
    guest.launch(8, 101, 20 * MS);
    let out = guest.submit(&request::CopyOut {
        address: guest.memory,
        bytes: 500,
        ordered: 1,
        stream: Id::new(8),
        into: Range::default(),
    });
    let kernel = guest.grant_one(Engine::Compute);
    let copies = guest.grant_one(Engine::Copy);
    assert_eq!((copies.pieces, copies.bytes), (1, 500));
    assert!(copies.start_ns >= kernel.end_ns);
    assert_eq!(guest.answer(out).unwrap().data.0, vec![7; 500]);
    // Memsets compute.
    guest.post(&request::cuMemsetD16Async {
        dstDevice: guest.memory,
        us: 1,
        N: 300,
        hStream: Id::new(8),
    });
    let fill = guest.grant_one(Engine::Compute);
    assert_eq!((fill.pieces, fill.bytes), (1, 600));
}

#[test]
fn a_failed_context_ends_its_turns_and_the_next_one_works() {
    let _alone = alone();
    let mut guest = Guest::start();
    guest.gate.set_quantum(10 * MS);
    guest.gate.open();
    guest.warm_up(MS);
    guest.gate.close();
    guest.launch_at(8, 0x10, MS);
    guest.launch(8, 1, MS);
    let (failed, reports) = guest.granting(10 * MS, 1, |guest| {
        let failed = guest.try_call(&request::cuCtxSynchronize {});
        guest.call(&request::PrimaryReset { device: 0 });
        failed
    });
    assert_eq!(failed, Err(CuResult::ILLEGAL_ADDRESS));
    assert!(
        (1..=2).contains(&pieces(&reports, Engine::Compute)),
        "{reports:?}"
    );
    assert!(reports.iter().all(|report| report.turn != 0));
    guest.gate.open();
    guest.set_up();
    guest.warm_up(MS);
}

#[test]
fn a_context_that_goes_with_work_under_way_is_accounted_for() {
    let _alone = alone();
    let mut guest = Guest::start();
    guest.gate.set_quantum(10 * MS);
    guest.gate.open();
    guest.warm_up(MS);
    for round in 0..3 {
        for n in 0..5 {
            guest.launch([0, 8][n as usize % 2], n, 2 * MS);
        }
        guest.post(&request::cuStreamDestroy_v2 {
            hStream: Id::new(8),
        });
        if round == 0 {
            guest.call(&request::PrimaryReset { device: 0 });
        }
        while guest.call(&request::PrimaryState { device: 0 }).active != 0 {
            guest.call(&request::PrimaryRelease { device: 0 });
        }
        let reports = guest.reports_of(Engine::Compute, 5);
        assert!(busy(&reports, Engine::Compute) >= 10 * MS);
        guest.set_up();
        guest.warm_up(MS);
    }
}
