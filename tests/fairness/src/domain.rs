//! A domain of an experiment, as it is written down: what it does, what it is entitled to and when it is there.
//! One description serves both places: the options of a real program, and the simulator's workload.

use clap::Parser as _;
use vgpu_load::Options;
use vgpu_sched::sim::{Arrivals, Distribution, Workload};
use vgpu_sched::{CpuState, Engine, MICROSECOND, Nanos, SECOND, Share};

/// What a simulated program that waits for each kernel takes to launch the next: about what the split driver takes.
const ROUND_TRIP: Nanos = 60 * MICROSECOND;
/// Bytes per second of the simulator's copy engines.
const COPY_RATE: u64 = 10_000_000_000;

/// A domain.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its name, of letters and digits.
    pub name: String,
    /// What its program does.
    pub load: Options,
    /// What it is entitled to when it comes.
    pub share: Share,
    /// When it comes.
    pub from: Nanos,
    /// When it goes: its program launches nothing more.
    pub until: Nanos,
    /// What it is entitled to later, from when on.
    pub shares: Vec<(Nanos, Share)>,
    /// What the hypervisor says of its processors, from when on.
    pub cpu: Vec<(Nanos, CpuState)>,
}

impl Domain {
    fn new(name: &str, arguments: &[&str]) -> Self {
        let arguments = ["vgpu-load"].iter().chain(arguments);
        Self {
            name: name.to_owned(),
            load: Options::parse_from(arguments),
            share: Share::default(),
            from: 0,
            until: Nanos::MAX,
            shares: Vec::new(),
            cpu: Vec::new(),
        }
    }

    /// Kernels of this length, one always waiting behind the one that runs.
    pub fn kernels(name: &str, length: Nanos) -> Self {
        let mut domain = Self::new(name, &["--depth", "2"]);
        domain.load.kernel_us = Distribution::Constant(length);
        domain
    }

    /// Copies of so many bytes, one after the other, in both directions in turns.
    pub fn copies(name: &str, bytes: u64) -> Self {
        Self::new(name, &["--copy", &bytes.to_string()])
    }

    /// So many kernels launched and not yet seen to end; with 1 the program waits for each.
    pub fn depth(mut self, depth: u32) -> Self {
        self.load.depth = depth;
        self
    }

    /// A kernel each so often, whatever has become of those before.
    pub fn every(mut self, every: Distribution) -> Self {
        self.load.every_us = Some(every);
        self
    }

    /// Waits for each kernel, and sleeps so long before the next.
    pub fn thinks(mut self, time: Distribution) -> Self {
        (self.load.depth, self.load.think_us) = (1, time);
        self
    }

    /// Waits for each kernel, and computes so long on the processor before the next.
    pub fn computes(mut self, time: Distribution) -> Self {
        (self.load.depth, self.load.compute_us) = (1, time);
        self
    }

    /// Its weight.
    pub fn weight(mut self, weight: u32) -> Self {
        self.share.weight = weight;
        self
    }

    /// The most that it may use, in percent of the device.
    pub fn cap(mut self, percent: u32) -> Self {
        self.share.cap = Some(percent);
        self
    }

    /// The wait that it can bear when it comes back from idling.
    pub fn latency(mut self, target: Nanos) -> Self {
        self.share.latency = Some(target);
        self
    }

    /// There from then until then.
    pub fn between(mut self, from: Nanos, until: Nanos) -> Self {
        (self.from, self.until) = (from, until);
        self
    }

    /// Another weight from then on.
    pub fn weight_from(mut self, when: Nanos, weight: u32) -> Self {
        let share = self.shares.last().map_or(self.share, |&(_, share)| share);
        self.shares.push((when, Share { weight, ..share }));
        self
    }

    /// The weight of its processors from then on.
    pub fn cpu_weight(mut self, when: Nanos, weight: u32) -> Self {
        self.cpu.push((
            when,
            CpuState {
                weight,
                running: true,
                ..CpuState::default()
            },
        ));
        self
    }

    /// Its processors run for the part `slot` of `slots` of each period, until `end`.
    pub fn cpu_slot(mut self, slot: u64, slots: u64, each: Nanos, end: Nanos) -> Self {
        let period = slots * each;
        let mut used = 0;
        for round in 0..end.div_ceil(period) {
            let on = round * period + slot * each;
            for (at, running) in [(on, true), (on + each, false)] {
                let state = CpuState {
                    weight: vgpu_sched::DEFAULT_WEIGHT,
                    cap: None,
                    running,
                    used,
                };
                self.cpu.push((at, state));
                used += if running { each } else { 0 };
            }
        }
        self
    }

    /// Which engine it uses.
    pub fn engine(&self) -> Engine {
        match self.load.copy {
            Some(_) => Engine::Copy,
            None => Engine::Compute,
        }
    }

    /// Whether it always wants the device while it is there: only then can it be told what it should have had
    /// apart from what it asked for.
    pub fn always_wants(&self) -> bool {
        let none = Distribution::Constant(0);
        self.load.every_us.is_none() && self.load.think_us == none && self.load.compute_us == none
    }

    /// What it is entitled to at a time.
    pub fn share_at(&self, when: Nanos) -> Share {
        let later = self.shares.iter().rev().find(|&&(from, _)| from <= when);
        later.map_or(self.share, |&(_, share)| share)
    }

    /// The weight of its processors at a time.
    pub fn cpu_weight_at(&self, when: Nanos) -> u32 {
        let state = self.cpu.iter().rev().find(|&&(from, _)| from <= when);
        state.map_or(vgpu_sched::DEFAULT_WEIGHT, |&(_, state)| state.weight)
    }

    /// The usual length of its kernels, in nanoseconds; 0 for copies.
    pub fn kernel(&self) -> f64 {
        match self.load.copy {
            Some(_) => 0.0,
            None => mean(self.load.kernel_us),
        }
    }

    /// For the simulator.
    pub fn workload(&self) -> Workload {
        let arrivals = match self.load.every_us {
            Some(every) => Arrivals::Open { every },
            None => Arrivals::Closed {
                depth: self.load.depth,
                think: self.away(),
            },
        };
        let piece = match self.load.copy {
            Some(bytes) => Distribution::Constant((bytes * SECOND / COPY_RATE).max(1)),
            None => self.load.kernel_us,
        };
        Workload {
            share: self.share,
            piece,
            arrivals,
            from: self.from,
            until: self.until,
            device: 0,
            engine: self.engine(),
            shares: self.shares.clone(),
            cpu: self.cpu.clone(),
        }
    }

    /// From the end of a piece of work to the next request.
    fn away(&self) -> Distribution {
        let trip = if self.load.depth == 1 { ROUND_TRIP } else { 0 };
        match (self.load.think_us, self.load.compute_us) {
            (think, Distribution::Constant(compute)) => later(think, compute + trip),
            (Distribution::Constant(think), compute) => later(compute, think + trip),
            // Two that vary: as long in the mean.
            (think, compute) => later(think, mean(compute) as Nanos + trip),
        }
    }

    /// In words, for the report.
    pub fn describe(&self) -> String {
        let mut text = match (self.load.copy, self.load.every_us) {
            (Some(bytes), _) => format!("copies of {:.1} MB", bytes as f64 / 1e6),
            (None, Some(every)) => format!(
                "a kernel of {} every {}",
                words(self.load.kernel_us),
                words(every)
            ),
            (None, None) => {
                let kernel = words(self.load.kernel_us);
                match self.load.depth {
                    1 => format!("kernels of {kernel}, waits for each"),
                    depth => format!("kernels of {kernel}, {depth} in flight"),
                }
            }
        };
        for (time, verb) in [
            (self.load.think_us, "sleeps"),
            (self.load.compute_us, "computes"),
        ] {
            if time != Distribution::Constant(0) {
                text += &format!(", then {verb} for {}", words(time));
            }
        }
        if self.from > 0 || self.until != Nanos::MAX {
            text += &format!("; there from {:.0} s", self.from as f64 / 1e9);
            if self.until != Nanos::MAX {
                text += &format!(" to {:.0} s", self.until as f64 / 1e9);
            }
        }
        text
    }
}

fn later(time: Distribution, by: Nanos) -> Distribution {
    match time {
        Distribution::Constant(value) => Distribution::Constant(value + by),
        Distribution::Uniform(low, high) => Distribution::Uniform(low + by, high + by),
        Distribution::Exponential(mean) => Distribution::Exponential(mean + by),
    }
}

fn mean(distribution: Distribution) -> f64 {
    match distribution {
        Distribution::Constant(value) | Distribution::Exponential(value) => value as f64,
        Distribution::Uniform(low, high) => (low + high) as f64 / 2.0,
    }
}

fn words(distribution: Distribution) -> String {
    match distribution {
        Distribution::Constant(value) => time(value),
        Distribution::Uniform(low, high) => format!("{} to {}", time(low), time(high)),
        Distribution::Exponential(mean) => format!("{} (exponential)", time(mean)),
    }
}

/// A duration with its unit.
pub fn time(nanos: Nanos) -> String {
    match nanos {
        0 => "0 s".to_owned(),
        1..1_000_000 => format!("{} µs", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{} ms", nanos as f64 / 1e6),
        _ => format!("{} s", nanos as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_sched::MILLISECOND;

    #[test]
    fn one_description_for_a_program_and_for_the_simulator() {
        let domain = Domain::kernels("a", 5 * MILLISECOND).weight(512);
        let workload = domain.workload();
        assert_eq!(workload.piece, Distribution::Constant(5 * MILLISECOND));
        assert_eq!(workload.share.weight, 512);
        assert!(domain.always_wants());
        let line = domain.load.arguments().join(" ");
        assert!(
            line.contains("--depth 2") && line.contains("--kernel-us 5000"),
            "{line}"
        );

        let thinking = Domain::kernels("b", MILLISECOND).thinks(Distribution::Constant(1_000));
        assert!(!thinking.always_wants());
        let Arrivals::Closed { depth, think } = thinking.workload().arrivals else {
            panic!("it waits for each");
        };
        assert_eq!((depth, think), (1, Distribution::Constant(61_000)));

        let copier = Domain::copies("c", 1_000_000).workload();
        assert_eq!(copier.engine, Engine::Copy);
        assert_eq!(copier.piece, Distribution::Constant(100_000));
    }

    #[test]
    fn what_changes_holds_from_then_on() {
        let domain = Domain::kernels("a", 1)
            .cap(30)
            .weight_from(SECOND, 99)
            .cpu_weight(0, 256)
            .cpu_weight(2 * SECOND, 512);
        assert_eq!(domain.share_at(SECOND - 1).weight, 256);
        assert_eq!(domain.share_at(SECOND).weight, 99);
        assert_eq!(domain.share_at(5 * SECOND).cap, Some(30));
        assert_eq!(
            [0, 1, 2].map(|second| domain.cpu_weight_at(second * SECOND)),
            [256, 256, 512]
        );
        let turns = Domain::kernels("b", 1).cpu_slot(1, 2, 10, 40);
        let on: Vec<_> = turns
            .cpu
            .iter()
            .map(|(at, state)| (*at, state.running, state.used))
            .collect();
        assert_eq!(
            on,
            [
                (10, true, 0),
                (20, false, 10),
                (30, true, 10),
                (40, false, 20)
            ]
        );
    }
}
