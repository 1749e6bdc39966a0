//! The GPU's thread and its arbiter against workers that are threads of the test, honest ones and others.

use super::arbiter::Arbiter;
use super::*;
use std::time::Instant;
use vgpu_protocol::admin::DomainStats;
use vgpu_protocol::codec::Codec;
use vgpu_protocol::gate::{Engine, GateWorker, Report, Turn};
use vgpu_sched::{MICROSECOND, MILLISECOND, Nanos, SECOND};

/// How long a test waits for what must happen.
const LIMIT: Duration = Duration::from_secs(30);

fn worker_end(wire: &WireGate, fds: &[Arc<OwnedFd>]) -> GateWorker {
    GateWorker::take(&WireGate::decode(&wire.encode()).unwrap(), fds).unwrap()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

// ------------------------------------------------------------------------- on a clock of the test's

/// An arbiter on a clock that the test moves, with the workers' ends of its channels.
struct Bench {
    arbiter: Arbiter,
    now: Nanos,
    next: Nanos,
    workers: Vec<(Key, GateWorker, Arc<Sentence>)>,
}

impl Bench {
    fn new(policy: PolicyKind, longest: Option<Nanos>) -> Bench {
        let now = SECOND;
        Bench {
            arbiter: Arbiter::new(now, 0, "test".into(), policy, longest),
            now,
            next: Nanos::MAX,
            workers: Vec::new(),
        }
    }

    fn domain(&mut self, domid: u16, share: Share) {
        let name = format!("guest{domid}");
        self.arbiter
            .add_domain(self.now, domid, &name, share, Limits::default());
    }

    /// A channel; what names it here.
    fn channel(&mut self, domid: u16) -> usize {
        let index = self.workers.len();
        let key = FIRST_KEY + index as Key;
        let gate = GateBack::new().unwrap();
        let mut fds = Vec::new();
        let wire = gate.put(&mut fds);
        let worker = worker_end(&wire, &fds);
        let sentence = Arc::new(Sentence::new().unwrap());
        let here =
            self.arbiter
                .add_channel(self.now, key, domid, index as u32, gate, sentence.clone());
        assert!(here);
        self.workers.push((key, worker, sentence));
        self.serve();
        index
    }

    fn worker(&self, index: usize) -> &GateWorker {
        &self.workers[index].1
    }

    fn serve(&mut self) {
        self.next = self.arbiter.serve(self.now);
        assert!(self.next > self.now);
    }

    /// Moves the clock, stopping wherever the arbiter wants to be called.
    fn wait(&mut self, time: Nanos) {
        let end = self.now + time;
        while self.next <= end {
            self.now = self.next;
            self.serve();
        }
        self.now = end;
        self.serve();
    }

    fn ask(&mut self, index: usize, engine: Engine, pieces: u32) -> u32 {
        let number = self.worker(index).ask(engine, pieces);
        self.arbiter.rang(self.workers[index].0);
        self.serve();
        number
    }

    /// The turn, where it was granted: the device then has its first work.
    fn turn(&self, index: usize, engine: Engine, number: u32) -> Option<Turn> {
        let turn = self.worker(index).turn(engine, number)?;
        self.worker(index).enter(engine, number);
        Some(turn)
    }

    /// Work goes to the device through the open gate, if it is open.
    fn begin(&self, index: usize) -> bool {
        let open = self.worker(index).begin(Engine::Compute);
        if open {
            self.worker(index).place(Engine::Compute);
        }
        open
    }

    /// The device has done a batch: it is reported, with the bell where a worker rings it.
    fn report(&mut self, index: usize, report: Report) {
        assert!(self.worker(index).report(&report));
        if report.turn != 0 {
            self.arbiter.rang(self.workers[index].0);
            self.serve();
        }
    }

    /// A batch that ends now and took so long.
    fn batch(&self, engine: Engine, turn: u32, took: Nanos, pieces: u32) -> Report {
        Report {
            engine,
            turn,
            start_ns: self.now - took,
            end_ns: self.now,
            busy_ns: took,
            pieces,
            bytes: 0,
            asked_ns: self.now - took,
        }
    }

    /// A channel uses the GPU for nothing, so that nobody is alone on it for a while.
    fn stir(&mut self, index: usize) {
        let number = self.ask(index, Engine::Copy, 1);
        let report = self.batch(Engine::Copy, number, 0, 0);
        self.report(index, report);
    }

    fn stats(&mut self, domid: u16) -> DomainStats {
        let stats = self.arbiter.stats(self.now);
        let mut domains = stats.domains.into_iter();
        domains.find(|domain| domain.domid == domid).unwrap()
    }

    /// Channels of which each wants the GPU all the time, in pieces of these lengths; what each got. At the
    /// end all that was asked for is awaited.
    fn contend(&mut self, pairs: &[(usize, Nanos)], time: Nanos) -> Vec<(usize, Nanos)> {
        let end = self.now + time;
        let mut asks: Vec<Option<u32>> = vec![None; pairs.len()];
        // What is on the device, first in, first out: who, the turn, its length.
        let mut device = std::collections::VecDeque::<(usize, u32, Nanos)>::new();
        let mut begun = self.now;
        let mut log = Vec::new();
        loop {
            let going = self.now < end;
            for (n, &(channel, piece)) in pairs.iter().enumerate() {
                if asks[n].is_none() && going {
                    asks[n] = Some(self.ask(channel, Engine::Compute, 50));
                }
                let Some(number) = asks[n] else {
                    continue;
                };
                if let Some(turn) = self.turn(channel, Engine::Compute, number) {
                    let fit = (turn.time_ns / piece).clamp(1, 50);
                    let pieces = match turn.pieces {
                        0 => fit,
                        most => fit.min(most.into()),
                    };
                    if device.is_empty() {
                        begun = self.now;
                    }
                    device.push_back((n, number, piece * pieces));
                    asks[n] = None;
                }
            }
            assert!(device.len() <= 2, "{device:?}");
            if going && asks.iter().any(Option::is_none) {
                continue;
            }
            if device.is_empty() && asks.iter().all(Option::is_none) {
                return log;
            }
            let ends = device.front().map_or(Nanos::MAX, |job| begun + job.2);
            if ends > self.next {
                self.now = self.next;
                self.serve();
                continue;
            }
            self.now = self.now.max(ends);
            let (n, number, took) = device.pop_front().unwrap();
            begun = self.now;
            log.push((pairs[n].0, took));
            let pieces = (took / pairs[n].1) as u32;
            let report = self.batch(Engine::Compute, number, took, pieces);
            self.report(pairs[n].0, report);
        }
    }
}

fn weight(weight: u32) -> Share {
    Share {
        weight,
        ..Share::default()
    }
}

fn capped(cap: u32) -> Share {
    Share {
        cap: Some(cap),
        ..Share::default()
    }
}

fn had(log: &[(usize, Nanos)], who: usize) -> Nanos {
    let of = log.iter().filter(|(channel, _)| *channel == who);
    of.map(|(_, took)| took).sum()
}

#[test]
fn whoever_is_alone_has_an_open_gate_and_is_accounted() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    bench.domain(1, Share::default());
    bench.domain(2, Share::default());
    let (a, b) = (bench.channel(1), bench.channel(2));
    let number = bench.ask(a, Engine::Compute, 1);
    assert!(bench.turn(a, Engine::Compute, number).is_some());
    assert!(bench.worker(a).is_open());
    assert!(!bench.worker(b).is_open());
    bench.now += MILLISECOND;
    let report = bench.batch(Engine::Compute, number, MILLISECOND, 1);
    bench.report(a, report);
    // Now without a bell.
    for _ in 0..100 {
        assert!(bench.begin(a));
        bench.wait(MILLISECOND);
        let report = bench.batch(Engine::Compute, 0, MILLISECOND, 3);
        bench.report(a, report);
        bench.worker(a).end(Engine::Compute);
    }
    let report = Report {
        bytes: 4096,
        ..bench.batch(Engine::Copy, 0, MILLISECOND, 2)
    };
    bench.report(a, report);
    let stats = bench.stats(1);
    assert_eq!(stats.kernel_ns, 101 * MILLISECOND);
    assert_eq!((stats.launches, stats.kernel_turns), (301, 1));
    assert_eq!((stats.copies, stats.bytes), (2, 4096));
    assert_eq!(stats.copy_ns, MILLISECOND);
    assert_eq!(stats.alone_ns, bench.now - SECOND);
    assert!((0.08..=0.101).contains(&stats.kernel_share), "{stats:?}");
    assert_eq!(bench.stats(2).alone_ns, 0);
    // Its own second channel shares the gate.
    let c = bench.channel(1);
    assert!(bench.worker(c).is_open());
}

#[test]
fn every_channel_of_a_domain_is_told_its_share_and_nobody_elses() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    bench.domain(1, weight(256));
    bench.domain(2, weight(256));
    let (busy, monitor, other) = (bench.channel(1), bench.channel(1), bench.channel(2));
    let number = bench.ask(busy, Engine::Compute, 1);
    bench.wait(200 * MILLISECOND);
    let report = bench.batch(Engine::Compute, number, 200 * MILLISECOND, 1);
    bench.report(busy, report);
    bench.wait(300 * MILLISECOND);
    let shares = |bench: &Bench, index| bench.worker(index).shares(bench.now);
    assert_eq!(shares(&bench, monitor), [200, 0]);
    assert_eq!(shares(&bench, busy), [200, 0]);
    assert_eq!(shares(&bench, other), [0, 0]);
    // It passes with the second.
    bench.wait(3 * SECOND);
    assert_eq!(shares(&bench, monitor), [0, 0]);
}

#[test]
fn a_newcomer_closes_the_gate_and_waits_for_what_was_begun() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    bench.domain(1, Share::default());
    bench.domain(2, Share::default());
    let (a, b) = (bench.channel(1), bench.channel(2));
    let number = bench.ask(a, Engine::Compute, 1);
    let report = bench.batch(Engine::Compute, number, 0, 1);
    bench.report(a, report);
    assert!(bench.begin(a));
    bench.wait(10 * MILLISECOND);
    let theirs = bench.ask(b, Engine::Compute, 1);
    assert!(!bench.worker(a).is_open() && !bench.worker(b).is_open());
    assert!(!bench.begin(a));
    // What is on the device is expected to end soon: the newcomer may be told ahead of it, never both turns.
    let mine = bench.ask(a, Engine::Compute, 1);
    let turns = |bench: &Bench| {
        let turns = [(a, mine), (b, theirs)];
        turns.map(|(who, number)| bench.turn(who, Engine::Compute, number).is_some())
    };
    bench.wait(50 * MILLISECOND);
    assert_eq!(turns(&bench), [false, true]);
    // It ends: its report is charged, and the next may go.
    let report = bench.batch(Engine::Compute, 0, 60 * MILLISECOND, 1);
    bench.report(a, report);
    bench.worker(a).end(Engine::Compute);
    bench.arbiter.rang(bench.workers[a].0);
    bench.serve();
    bench.wait(MILLISECOND);
    assert_eq!(bench.stats(1).kernel_ns, 60 * MILLISECOND);
    let report = bench.batch(Engine::Compute, theirs, MILLISECOND, 1);
    bench.report(b, report);
    bench.wait(MILLISECOND);
    assert_eq!(turns(&bench), [true, true]);
    // The newcomer goes: after a while the first has the GPU to itself again.
    let report = bench.batch(Engine::Compute, mine, MILLISECOND, 1);
    bench.report(a, report);
    for _ in 0..30 {
        let number = bench.ask(a, Engine::Compute, 1);
        bench.wait(10 * MILLISECOND);
        assert!(bench.turn(a, Engine::Compute, number).is_some());
        let report = bench.batch(Engine::Compute, number, MILLISECOND, 1);
        bench.report(a, report);
    }
    assert!(bench.worker(a).is_open());
    // And when it rests, it holds up nobody who comes.
    bench.wait(SECOND);
    bench.ask(b, Engine::Copy, 1);
    assert!(bench.worker(b).is_open() && !bench.worker(a).is_open());
}

#[test]
fn weights_decide_what_each_gets() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    bench.domain(1, weight(100));
    bench.domain(2, weight(300));
    let (a, b) = (bench.channel(1), bench.channel(2));
    let log = bench.contend(&[(a, MILLISECOND), (b, 5 * MILLISECOND)], 4 * SECOND);
    let (one, two) = (had(&log, a), had(&log, b));
    assert!((one + two).abs_diff(4 * SECOND) < 20 * MILLISECOND);
    assert!((3 * one).abs_diff(two) < 40 * MILLISECOND, "{one} {two}");
    let (mine, theirs) = (bench.stats(1), bench.stats(2));
    assert_eq!((mine.kernel_ns, theirs.kernel_ns), (one, two));
    assert_eq!(mine.launches, one / MILLISECOND);
    assert_eq!((mine.overdue, theirs.overdue), (0, 0));
    assert!((mine.kernel_share + theirs.kernel_share - 1.0).abs() < 0.02);
}

#[test]
fn another_policy_loses_nothing_that_waits_or_runs() {
    let mut bench = Bench::new(PolicyKind::Fifo, None);
    for domid in 1..=3 {
        bench.domain(domid, Share::default());
    }
    let channels: Vec<usize> = (1..=3).map(|domid| bench.channel(domid)).collect();
    let pairs: Vec<_> = channels.iter().map(|it| (*it, 2 * MILLISECOND)).collect();
    let mut turns_before = 0;
    for kind in PolicyKind::ALL {
        bench.arbiter.switch(bench.now, kind);
        let log = bench.contend(&pairs, 500 * MILLISECOND);
        for channel in &channels {
            assert!(had(&log, *channel) > 0, "{kind} {log:?}");
        }
        let total: Nanos = log.iter().map(|(_, took)| took).sum();
        assert!(
            total > 400 * MILLISECOND,
            "{kind} kept the device idle: {total}"
        );
        turns_before += log.len();
    }
    let turns: u64 = (1..=3).map(|domid| bench.stats(domid).kernel_turns).sum();
    assert!(turns >= turns_before as u64);
}

#[test]
fn a_cap_binds_alone_too() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    bench.domain(1, capped(25));
    let a = bench.channel(1);
    let log = bench.contend(&[(a, MILLISECOND)], 2 * SECOND);
    assert!(!bench.worker(a).is_open());
    let part = had(&log, a) as f64 / (2 * SECOND) as f64;
    assert!((0.22..0.28).contains(&part), "{part}");
    // Taken away, the gate opens; given back, it closes.
    bench.arbiter.update(bench.now, 1, Share::default());
    bench.ask(a, Engine::Copy, 1);
    assert!(bench.worker(a).is_open());
    bench.arbiter.update(bench.now, 1, capped(25));
    bench.serve();
    assert!(!bench.worker(a).is_open());
}

#[test]
fn channels_of_a_domain_take_turns_and_share_its_part() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    bench.domain(1, Share::default());
    bench.domain(2, Share::default());
    let (a, b, c) = (bench.channel(1), bench.channel(1), bench.channel(2));
    let pairs = [a, b, c].map(|it| (it, MILLISECOND));
    let log = bench.contend(&pairs, SECOND);
    let [a, b, c] = [a, b, c].map(|it| had(&log, it));
    assert!((a + b).abs_diff(c) < 10 * MILLISECOND, "{a} {b} {c}");
    assert!(a.abs_diff(b) < 10 * MILLISECOND, "{a} {b} {c}");
}

#[test]
fn copies_and_kernels_do_not_wait_for_each_other() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    for domid in [1, 2, 3] {
        bench.domain(domid, Share::default());
    }
    let (a, b, c) = (bench.channel(1), bench.channel(2), bench.channel(3));
    let kernels = bench.ask(a, Engine::Compute, 1);
    let more = bench.ask(c, Engine::Compute, 1);
    let copies = bench.ask(b, Engine::Copy, 1);
    assert!(bench.turn(a, Engine::Compute, kernels).is_some());
    assert!(bench.turn(c, Engine::Compute, more).is_none());
    assert!(bench.turn(b, Engine::Copy, copies).is_some());
}

#[test]
fn a_dead_worker_ends_its_turns() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    bench.domain(1, Share::default());
    bench.domain(2, Share::default());
    let (a, b) = (bench.channel(1), bench.channel(2));
    bench.stir(b);
    let mine = bench.ask(a, Engine::Compute, 1);
    assert!(bench.turn(a, Engine::Compute, mine).is_some());
    let theirs = bench.ask(b, Engine::Compute, 1);
    assert!(bench.turn(b, Engine::Compute, theirs).is_none());
    bench.now += 100 * MICROSECOND;
    let key = bench.workers[a].0;
    bench.arbiter.remove_channel(bench.now, key);
    bench.serve();
    assert!(bench.turn(b, Engine::Compute, theirs).is_some());
    // What its turn had kept of the device is its domain's.
    assert_eq!(bench.stats(1).kernel_ns, 100 * MICROSECOND);
    // Channels and domains go in any order, and what names them afterwards harms nothing.
    bench.arbiter.remove_domain(bench.now, 2);
    bench.arbiter.rang(bench.workers[b].0);
    let key = bench.workers[b].0;
    bench.arbiter.remove_channel(bench.now, key);
    bench.arbiter.remove_domain(bench.now, 1);
    bench.serve();
    assert!(bench.arbiter.stats(bench.now).domains.is_empty());
    assert_eq!(bench.next, Nanos::MAX);
}

#[test]
fn a_turn_that_does_not_end_is_set_aside_and_its_domain_pays() {
    let mut bench = Bench::new(PolicyKind::Fair, Some(3 * SECOND));
    for domid in [1, 2, 3] {
        bench.domain(domid, Share::default());
    }
    let (liar, b, c) = (bench.channel(1), bench.channel(2), bench.channel(3));
    bench.stir(c);
    let never = bench.ask(liar, Engine::Compute, 1);
    assert!(bench.turn(liar, Engine::Compute, never).is_some());
    let log = bench.contend(&[(b, MILLISECOND), (c, MILLISECOND)], 2 * SECOND);
    // A second was lost, and is the liar's; the others share what is left.
    assert!(bench.stats(1).kernel_ns.abs_diff(SECOND) < 20 * MILLISECOND);
    assert_eq!(bench.stats(1).overdue, 1);
    let (b_had, c_had) = (had(&log, b), had(&log, c));
    assert!(b_had.abs_diff(c_had) < 10 * MILLISECOND);
    assert!((b_had + c_had).abs_diff(SECOND) < 20 * MILLISECOND);
    // It gets no other turn before that one has ended.
    let again = bench.ask(liar, Engine::Compute, 1);
    bench.wait(500 * MILLISECOND);
    assert!(bench.turn(liar, Engine::Compute, again).is_none());
    assert_eq!(bench.workers[liar].2.reason.get(), None);
    bench.wait(SECOND);
    let reason = bench.workers[liar].2.reason.get().unwrap();
    assert!(
        reason.contains("--longest-turn") && reason.contains("3 s"),
        "{reason}"
    );
    assert_eq!(bench.workers[b].2.reason.get(), None);
    assert_eq!(bench.workers[c].2.reason.get(), None);
}

#[test]
fn a_long_kernel_is_charged_in_full_and_those_behind_it_are_not() {
    let mut bench = Bench::new(PolicyKind::Fair, Some(60 * SECOND));
    bench.domain(1, Share::default());
    bench.domain(2, Share::default());
    let (a, b) = (bench.channel(1), bench.channel(2));
    bench.stir(b);
    let long = bench.ask(a, Engine::Compute, 1);
    let short = bench.ask(b, Engine::Compute, 1);
    // The device does one thing after the other: the short one is behind the long one.
    bench.wait(10 * SECOND);
    assert!(bench.turn(b, Engine::Compute, short).is_some());
    let report = bench.batch(Engine::Compute, long, 10 * SECOND, 1);
    bench.report(a, report);
    bench.now += MILLISECOND;
    let report = Report {
        busy_ns: MILLISECOND,
        ..bench.batch(Engine::Compute, short, 9 * SECOND, 1)
    };
    bench.report(b, report);
    assert_eq!(bench.stats(1).kernel_ns, 10 * SECOND);
    assert_eq!(bench.stats(2).kernel_ns, MILLISECOND);
    let next = bench.ask(a, Engine::Compute, 1);
    bench.wait(MILLISECOND);
    assert!(bench.turn(a, Engine::Compute, next).is_some());
}

#[test]
fn work_through_an_open_gate_that_does_not_end_holds_nobody_for_long() {
    let mut bench = Bench::new(PolicyKind::Fair, Some(2 * SECOND));
    bench.domain(1, Share::default());
    bench.domain(2, Share::default());
    let (a, b) = (bench.channel(1), bench.channel(2));
    let number = bench.ask(a, Engine::Compute, 1);
    let report = bench.batch(Engine::Compute, number, 0, 1);
    bench.report(a, report);
    assert!(bench.begin(a));
    assert!(bench.begin(a));
    bench.wait(MILLISECOND);
    let first = bench.ask(b, Engine::Compute, 1);
    bench.wait(MILLISECOND);
    assert!(bench.turn(b, Engine::Compute, first).is_some());
    let report = bench.batch(Engine::Compute, first, MILLISECOND, 1);
    bench.report(b, report);
    let log = bench.contend(&[(b, MILLISECOND)], 3 * SECOND);
    assert!(had(&log, b) > 2 * SECOND, "{log:?}");
    assert!(bench.workers[a].2.reason.get().is_some());
    assert_eq!(bench.stats(1).overdue, 1);
    // The same where nobody else is there to mind.
    let mut bench = Bench::new(PolicyKind::Fair, Some(2 * SECOND));
    bench.domain(1, Share::default());
    let a = bench.channel(1);
    bench.ask(a, Engine::Copy, 1);
    assert!(bench.begin(a));
    bench.wait(SECOND);
    assert!(bench.workers[a].2.reason.get().is_none());
    bench.wait(2 * SECOND);
    assert!(bench.workers[a].2.reason.get().is_some());
}

#[test]
fn nobody_is_let_on_before_the_device_has_what_was_let_on_earlier() {
    let mut bench = Bench::new(PolicyKind::Fair, Some(3 * SECOND));
    for domid in 1..=2 {
        bench.domain(domid, Share::default());
    }
    let (slow, hangs) = (bench.channel(1), bench.channel(2));
    let number = bench.ask(slow, Engine::Compute, 1);
    let report = bench.batch(Engine::Compute, number, 0, 1);
    bench.report(slow, report);
    // Its worker has begun, and does not run before the driver has the work.
    assert!(bench.worker(slow).begin(Engine::Compute));
    bench.wait(10 * MILLISECOND);
    let theirs = bench.ask(hangs, Engine::Compute, 1);
    bench.wait(100 * MILLISECOND);
    assert!(bench.turn(hangs, Engine::Compute, theirs).is_none());
    bench.worker(slow).place(Engine::Compute);
    bench.wait(MILLISECOND);
    assert!(bench.turn(hangs, Engine::Compute, theirs).is_some());
    let report = bench.batch(Engine::Compute, 0, MILLISECOND, 1);
    bench.report(slow, report);
    bench.worker(slow).end(Engine::Compute);
    bench.arbiter.rang(bench.workers[slow].0);
    bench.serve();
    // The same with a turn, behind one that has ended. Then the other's never ends.
    let mine = bench.ask(slow, Engine::Compute, 1);
    bench.wait(4 * SECOND);
    assert!(bench.turn(slow, Engine::Compute, mine).is_some());
    let ended = |index: usize| bench.workers[index].2.reason.get().is_some();
    assert_eq!([ended(slow), ended(hangs)], [false, true]);
    // One who never puts its work on the device holds others up for a second, or until it goes.
    for goes in [false, true] {
        let mut bench = Bench::new(PolicyKind::Fair, None);
        for domid in 1..=2 {
            bench.domain(domid, Share::default());
        }
        let (never, other) = (bench.channel(1), bench.channel(2));
        bench.stir(other);
        bench.ask(never, Engine::Compute, 1);
        let theirs = bench.ask(other, Engine::Compute, 1);
        bench.wait(SECOND - MILLISECOND);
        assert!(bench.turn(other, Engine::Compute, theirs).is_none());
        if goes {
            bench.arbiter.remove_domain(bench.now, 1);
            bench.wait(MILLISECOND / 2);
        } else {
            bench.wait(2 * MILLISECOND);
        }
        assert!(bench.turn(other, Engine::Compute, theirs).is_some());
    }
}

#[test]
fn lies_are_the_liars_loss() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    bench.domain(1, Share::default());
    bench.domain(2, Share::default());
    let (a, b) = (bench.channel(1), bench.channel(2));
    bench.stir(b);
    bench.wait(10 * MILLISECOND);
    let number = bench.ask(a, Engine::Compute, u32::MAX);
    // Turns that it was not given, times that cannot be.
    for turn in [number + 1, 77, u32::MAX] {
        let report = Report {
            start_ns: 0,
            end_ns: Nanos::MAX,
            busy_ns: Nanos::MAX,
            pieces: u32::MAX,
            bytes: u64::MAX,
            asked_ns: 0,
            ..bench.batch(Engine::Compute, turn, 0, 1)
        };
        bench.report(a, report);
    }
    let mine = bench.stats(1);
    assert_eq!(mine.overdue, 3);
    assert!(mine.kernel_ns <= 10 * MILLISECOND, "{mine:?}");
    assert_eq!(bench.stats(2).kernel_ns, 0);
    // Its real turn still ends, once.
    bench.now += MILLISECOND;
    for _ in 0..2 {
        let report = bench.batch(Engine::Compute, number, MILLISECOND, 1);
        bench.report(a, report);
    }
    assert_eq!(bench.stats(1).overdue, 4);
    let number = bench.ask(b, Engine::Compute, 1);
    bench.wait(MILLISECOND);
    assert!(bench.turn(b, Engine::Compute, number).is_some());
}

#[test]
fn nobody_waits_for_an_arbiter_that_has_ended() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    for domid in 1..=3 {
        bench.domain(domid, Share::default());
    }
    let channels = [1, 2, 3].map(|domid| bench.channel(domid));
    let numbers = channels.map(|channel| bench.ask(channel, Engine::Compute, 1));
    let [_, _, last] = channels;
    assert_eq!(bench.turn(last, Engine::Compute, numbers[2]), None);
    bench.arbiter.release();
    assert!(bench.turn(last, Engine::Compute, numbers[2]).is_some());
    assert!(bench.worker(last).is_open());
}

#[test]
fn what_happens_is_recorded() {
    use vgpu_sched::trace::Entry;
    let mut bench = Bench::new(PolicyKind::Fair, None);
    bench.domain(1, weight(7));
    let a = bench.channel(1);
    let (recorder, recording) = recording();
    bench.arbiter.record(bench.now, recorder);
    let number = bench.ask(a, Engine::Compute, 1);
    bench.now += MILLISECOND;
    let report = Report {
        asked_ns: bench.now - 3 * MILLISECOND,
        ..bench.batch(Engine::Compute, number, MILLISECOND, 2)
    };
    bench.report(a, report);
    bench.arbiter.update(bench.now, 1, weight(9));
    bench.arbiter.remove_domain(bench.now, 1);
    let entries: Vec<Entry> = std::iter::from_fn(|| recording.next(Duration::ZERO)).collect();
    let [
        Entry::Share { share: first, .. },
        Entry::Work(work),
        Entry::Share { share: second, .. },
        Entry::Gone { domid: 1, .. },
    ] = entries.as_slice()
    else {
        panic!("{entries:?}");
    };
    assert_eq!((first.weight, second.weight), (7, 9));
    assert_eq!((work.domid, work.domain.as_str()), (1, "guest1"));
    assert_eq!((work.pieces, work.busy_ns), (2, MILLISECOND));
    assert_eq!(work.start_ns - work.arrived_ns, 2 * MILLISECOND);
}

#[test]
fn a_policy_says_what_it_lacks() {
    let mut bench = Bench::new(PolicyKind::XenCredit, None);
    bench.domain(1, Share::default());
    let lacks = bench.arbiter.stats(bench.now).lacks;
    assert!(lacks.contains("xen-credit"), "{lacks}");
    bench.arbiter.cpu(bench.now, 1, CpuState::default());
    assert_eq!(bench.arbiter.stats(bench.now).lacks, "");
}

#[test]
fn the_hypervisors_weights_are_kept_and_a_capped_domain_is_never_let_loose() {
    let mut bench = Bench::new(PolicyKind::XenCredit, None);
    let state = |weight, cap| CpuState {
        weight,
        cap,
        ..CpuState::default()
    };
    for (domid, cpu) in [
        (1, state(256, None)),
        (2, state(512, None)),
        (3, state(256, Some(50))),
    ] {
        bench.domain(domid, Share::default());
        bench.arbiter.cpu(bench.now, domid, cpu);
    }
    let channels = [bench.channel(1), bench.channel(2), bench.channel(3)];
    let pairs = [
        (channels[0], 20 * MILLISECOND),
        (channels[1], 20 * MILLISECOND),
    ];
    let ratio = |bench: &mut Bench| {
        let log = bench.contend(&pairs, 20 * SECOND);
        had(&log, channels[1]) as f64 / had(&log, channels[0]) as f64
    };
    let before = ratio(&mut bench);
    assert!((before - 2.0).abs() < 0.05, "{before}");
    bench.arbiter.cpu(bench.now, 1, state(1024, None));
    let after = ratio(&mut bench);
    assert!((after - 0.5).abs() < 0.02, "{after}");
    // Alone, one without a cap needs no turns; one whose cap binds does.
    bench.wait(SECOND);
    bench.stir(channels[0]);
    assert!(bench.worker(channels[0]).is_open());
    bench.wait(SECOND);
    bench.stir(channels[2]);
    bench.wait(SECOND);
    bench.stir(channels[2]);
    assert!(!bench.worker(channels[2]).is_open());
    bench.arbiter.switch(bench.now, PolicyKind::Fair);
    bench.stir(channels[2]);
    assert!(bench.worker(channels[2]).is_open());
}

#[test]
fn what_the_hypervisor_says_is_recorded_when_it_is_news() {
    use vgpu_sched::trace::Entry;
    let mut bench = Bench::new(PolicyKind::XenCredit, None);
    bench.domain(1, Share::default());
    let state = |weight| CpuState {
        weight,
        ..CpuState::default()
    };
    bench.arbiter.cpu(bench.now, 1, state(300));
    let (recorder, recording) = recording();
    bench.arbiter.record(bench.now, recorder);
    for weight in [300, 300, 400, 400] {
        bench.arbiter.cpu(bench.now, 1, state(weight));
    }
    let weights: Vec<u32> = std::iter::from_fn(|| recording.next(Duration::ZERO))
        .filter_map(|entry| match entry {
            Entry::Cpu { state, .. } => Some(state.weight),
            _ => None,
        })
        .collect();
    assert_eq!(weights, [300, 400]);
}

#[test]
fn a_domains_presence_is_told() {
    let mut bench = Bench::new(PolicyKind::Fair, None);
    let presences = [Arc::<Presence>::default(), Arc::default()];
    for (domid, presence) in [1, 2].into_iter().zip(&presences) {
        bench.domain(domid, Share::default());
        bench.arbiter.presence(domid, presence.clone());
    }
    let channels = [bench.channel(1), bench.channel(2)];
    let here = || presences.each_ref().map(|presence| presence.look());
    assert_eq!(here(), [false, false]);
    // One has it to itself while it wants it.
    let number = bench.ask(channels[0], Engine::Compute, 1);
    assert_eq!(here(), [true, false]);
    let report = bench.batch(Engine::Compute, number, 0, 1);
    bench.report(channels[0], report);
    bench.wait(2 * SECOND);
    here();
    assert!(bench.worker(channels[0]).is_open());
    assert_eq!(here(), [false, false]);
    // With others, while it has turns.
    let numbers = channels.map(|channel| bench.ask(channel, Engine::Compute, 1));
    assert!(
        bench
            .turn(channels[0], Engine::Compute, numbers[0])
            .is_some()
    );
    bench.wait(MILLISECOND);
    here();
    assert_eq!(here(), [true, true], "on the device, and next there");
    for (channel, number) in channels.into_iter().zip(numbers) {
        bench.now += MILLISECOND;
        let report = bench.batch(Engine::Compute, number, MILLISECOND, 1);
        bench.report(channel, report);
    }
    here();
    assert_eq!(here(), [false, false]);
    // It goes while it is there.
    bench.ask(channels[1], Engine::Compute, 1);
    bench.arbiter.remove_domain(bench.now, 2);
    here();
    assert_eq!(here(), [false, false]);
}

// ------------------------------------------------------------------- on the real clock and threads

/// A worker that does what it is told, with a device that all share: a lock that is held for a while.
struct Honest<'a> {
    gate: &'a GateWorker,
    device: &'a Mutex<()>,
}

impl Honest<'_> {
    /// Has pieces of work done, each of which takes so long, as an honest worker would; how many of its
    /// batches had a turn.
    fn work(&self, mut pieces: u32, each: Duration) -> u32 {
        let mut turns = 0;
        while pieces > 0 {
            let asked_ns = now_ns();
            let (turn, most) = match self.gate.is_open() && self.gate.begin(Engine::Compute) {
                true => (0, 1),
                false => {
                    let number = self.gate.ask(Engine::Compute, pieces);
                    let turn = self.gate.wait(Engine::Compute, number);
                    let fit = turn.time_ns / (each.as_nanos() as u64).max(1);
                    let most = match turn.pieces {
                        0 => pieces,
                        most => most,
                    };
                    turns += 1;
                    (
                        number,
                        u32::try_from(fit).unwrap_or(u32::MAX).clamp(1, most),
                    )
                }
            };
            let batch = most.min(pieces);
            let held = self.device.lock().unwrap();
            match turn {
                0 => self.gate.place(Engine::Compute),
                turn => self.gate.enter(Engine::Compute, turn),
            }
            let start_ns = now_ns();
            std::thread::sleep(each * batch);
            let end_ns = now_ns();
            drop(held);
            let report = Report {
                engine: Engine::Compute,
                turn,
                start_ns,
                end_ns,
                busy_ns: end_ns - start_ns,
                pieces: batch,
                bytes: 0,
                asked_ns,
            };
            assert!(self.gate.report(&report));
            match turn {
                0 => self.gate.end(Engine::Compute),
                _ => self.gate.ring(),
            }
            pieces -= batch;
        }
        turns
    }
}

fn sharing(policy: PolicyKind) -> Sharing {
    Sharing {
        policy,
        longest: None,
    }
}

fn joined(gpu: &Arc<Gpu>, domid: u16) -> (Membership, Vec<Pass>, GateWorker) {
    let name = format!("guest{domid}");
    let share = Share::default();
    let gpus = std::slice::from_ref(gpu);
    let membership = Membership::new(gpus, domid, &name, share, Limits::default());
    let mut fds = Vec::new();
    let (passes, gates) = membership.add_channel(1, &mut fds).unwrap();
    let worker = worker_end(&gates[0], &fds);
    (membership, passes, worker)
}

fn stats_of(gpu: &Gpu, domid: u16) -> DomainStats {
    let domains = gpu.stats().unwrap().domains;
    let of = domains.into_iter().find(|domain| domain.domid == domid);
    of.unwrap_or_default()
}

#[test]
fn one_worker_alone_needs_one_turn() {
    let gpu = Arc::new(Gpu::start(0, "", &sharing(PolicyKind::Fair)).unwrap());
    let (_membership, _passes, gate) = joined(&gpu, 1);
    let device = Mutex::new(());
    let worker = Honest {
        gate: &gate,
        device: &device,
    };
    assert_eq!(worker.work(1, Duration::from_micros(100)), 1);
    until("the gate is open", || gate.is_open());
    assert_eq!(worker.work(50, Duration::from_micros(100)), 0);
    let stats = stats_of(&gpu, 1);
    assert_eq!((stats.launches, stats.kernel_turns), (51, 1));
    assert_eq!(gpu.stats().unwrap().alone, Some(1));
}

#[test]
fn workers_under_every_policy_all_finish_while_it_is_switched() {
    let gpu = Arc::new(Gpu::start(0, "", &sharing(PolicyKind::Fair)).unwrap());
    let domains: Vec<_> = (1..=3).map(|domid| joined(&gpu, domid)).collect();
    let device = Mutex::new(());
    let left = AtomicU64::new(3);
    std::thread::scope(|scope| {
        for (_, _, gate) in &domains {
            let worker = Honest {
                gate,
                device: &device,
            };
            let left = &left;
            scope.spawn(move || {
                for _ in 0..100 {
                    worker.work(4, Duration::from_micros(200));
                }
                left.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let mut kinds = PolicyKind::ALL.into_iter().cycle();
        while left.load(Ordering::Relaxed) > 0 {
            gpu.switch(kinds.next().unwrap());
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    for domid in 1..=3 {
        let stats = stats_of(&gpu, domid);
        assert_eq!(stats.launches, 400, "{stats:?}");
        assert_eq!((stats.waiting, stats.overdue), (0, 0), "{stats:?}");
    }
}

#[test]
fn a_thread_that_has_ended_refuses_channels_and_holds_nobody() {
    let gpu = Arc::new(Gpu::start(0, "", &sharing(PolicyKind::Fair)).unwrap());
    let (membership, _passes, worker) = joined(&gpu, 1);
    assert!(!worker.is_open());
    assert!(gpu.shared.give(Order::Stop));
    until("the gate is let open", || worker.is_open());
    until("channels are refused", || {
        let refused = membership.add_channel(2, &mut Vec::new()).err();
        refused.is_some_and(|error| error.to_string().contains("restart vgpu-backd"))
    });
    assert_eq!(gpu.stats(), None);
    assert_eq!(gpu.change(1, |share| share), None);
}

#[test]
fn a_bell_that_never_stops_does_not_keep_others_from_their_turns() {
    let gpu = Arc::new(Gpu::start(0, "", &sharing(PolicyKind::Fair)).unwrap());
    let (noisy, quiet) = (joined(&gpu, 1), joined(&gpu, 2));
    let device = Mutex::new(());
    let worker = Honest {
        gate: &quiet.2,
        device: &device,
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                noisy.2.ring();
            }
        });
        worker.work(20, Duration::from_micros(100));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(stats_of(&gpu, 2).launches, 20);
    // And is heard again afterwards.
    let number = noisy.2.ask(Engine::Compute, 1);
    until("it has its turn", || {
        noisy.2.turn(Engine::Compute, number).is_some()
    });
}

#[test]
fn a_share_changes_while_it_runs() {
    let gpu = Arc::new(Gpu::start(3, "", &sharing(PolicyKind::Fair)).unwrap());
    let (membership, passes, _gate) = joined(&gpu, 1);
    // Another device of the same domain: the domain stays until both are gone.
    let other = Membership::new(
        std::slice::from_ref(&gpu),
        1,
        "guest1",
        Share::default(),
        Limits::default(),
    );
    drop(passes);
    drop(membership);
    assert_eq!(gpu.change(1, |_| weight(512)), Some(weight(512)));
    assert_eq!(stats_of(&gpu, 1).weight, 512);
    assert_eq!(stats_of(&gpu, 1).channels, 0);
    drop(other);
    assert_eq!(gpu.change(1, |share| share), None);
}
