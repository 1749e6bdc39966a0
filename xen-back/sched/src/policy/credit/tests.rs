//! How far what `cosched` and `augc` go by is from the truth, on a model of Xen's credit scheduler that knows it.

use std::collections::VecDeque;

use super::*;
use crate::MICROSECOND;

const STEP: Nanos = 100 * MICROSECOND;
const TICK: Nanos = 10 * MILLISECOND;
const PROCESSORS: usize = 2;

/// Equal results for ever (the multiplier is L'Ecuyer's).
struct Random(u64);

impl Random {
    fn exponential(&mut self, mean: Nanos) -> Nanos {
        self.0 = self
            .0
            .wrapping_mul(2_862_933_555_777_941_757)
            .wrapping_add(3_037_000_493);
        let unit = (self.0 >> 11) as f64 / (1_u64 << 53) as f64;
        (-(1.0 - unit).ln() * mean as f64) as Nanos + STEP
    }
}

/// A virtual processor that runs for a while, sleeps for a while, and so on.
struct Vcpu {
    weight: u32,
    runs: Nanos,
    sleeps: Nanos,
    /// When it falls asleep, in time that it has run; when it wakes up, on the clock.
    left: Nanos,
    asleep_until: Option<Nanos>,
    used: Nanos,
    credit: i128,
    boosted: bool,
    ran_this_slice: bool,
}

/// Xen's credit scheduler: those with credits before those without, and before both who just woke up; a slice
/// each; every 30 ms those that ran share the processors' time as credits, by weight, up to a slice.
struct Xen {
    now: Nanos,
    vcpus: Vec<Vcpu>,
    /// Who is on each processor, since when.
    on: Vec<Option<(usize, Nanos)>>,
    queue: VecDeque<usize>,
    random: Random,
}

impl Xen {
    fn new() -> Self {
        // Weight, usual run, usual sleep in milliseconds: busy ones, and some that do input and output.
        let kinds = [
            (256, 200, 5),
            (512, 200, 5),
            (256, 8, 8),
            (256, 3, 12),
            (128, 30, 30),
            (1024, 5, 40),
        ];
        let vcpus = kinds.map(|(weight, runs, sleeps)| Vcpu {
            weight,
            runs: runs * MILLISECOND,
            sleeps: sleeps * MILLISECOND,
            left: runs * MILLISECOND,
            asleep_until: None,
            used: 0,
            credit: 0,
            boosted: false,
            ran_this_slice: false,
        });
        Self {
            now: 0,
            queue: (0..vcpus.len()).collect(),
            vcpus: vcpus.into(),
            on: vec![None; PROCESSORS],
            random: Random(7),
        }
    }

    fn runs(&self, vcpu: usize) -> bool {
        self.on.iter().flatten().any(|&(on, _)| on == vcpu)
    }

    fn rank(&self, vcpu: usize) -> u8 {
        let vcpu = &self.vcpus[vcpu];
        match (vcpu.boosted, vcpu.credit >= 0) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        }
    }

    fn step(&mut self) {
        if self.now.is_multiple_of(SLICE) {
            self.account();
        }
        for index in 0..self.vcpus.len() {
            let vcpu = &mut self.vcpus[index];
            if vcpu.asleep_until.is_some_and(|until| until <= self.now) {
                vcpu.asleep_until = None;
                vcpu.left = self.random.exponential(vcpu.runs);
                vcpu.boosted = vcpu.credit >= 0;
                self.queue.push_back(index);
            }
        }
        for processor in 0..PROCESSORS {
            let best = self
                .queue
                .iter()
                .copied()
                .min_by_key(|vcpu| self.rank(*vcpu));
            let next = match (self.on[processor], best) {
                (None, best) => best,
                (Some((current, since)), Some(best)) => {
                    let over = self.now - since >= SLICE;
                    let (own, other) = (self.rank(current), self.rank(best));
                    (other < own || over && other <= own).then_some(best)
                }
                (Some(_), None) => None,
            };
            if let Some(next) = next {
                self.queue.retain(|queued| *queued != next);
                if let Some((before, _)) = self.on[processor].replace((next, self.now)) {
                    self.queue.push_back(before);
                }
            }
        }
        self.now += STEP;
        for processor in 0..PROCESSORS {
            let Some((index, since)) = self.on[processor] else {
                continue;
            };
            let vcpu = &mut self.vcpus[index];
            vcpu.used += STEP;
            vcpu.credit -= i128::from(STEP);
            vcpu.ran_this_slice = true;
            if self.now - since >= TICK {
                vcpu.boosted = false;
            }
            vcpu.left = vcpu.left.saturating_sub(STEP);
            if vcpu.left == 0 {
                vcpu.asleep_until = Some(self.now + self.random.exponential(vcpu.sleeps));
                vcpu.boosted = false;
                self.on[processor] = None;
            }
        }
    }

    fn account(&mut self) {
        let active = |vcpu: &Vcpu| vcpu.ran_this_slice || vcpu.asleep_until.is_none();
        let weights: u32 = self
            .vcpus
            .iter()
            .filter(|vcpu| active(vcpu))
            .map(|vcpu| vcpu.weight)
            .sum();
        let all = i128::from(SLICE) * PROCESSORS as i128;
        for vcpu in &mut self.vcpus {
            if active(vcpu) {
                let earned = all * i128::from(vcpu.weight) / i128::from(weights);
                vcpu.credit = (vcpu.credit + earned).clamp(-SAVED, SAVED);
            }
            vcpu.ran_this_slice = false;
        }
    }

    fn state(&self, vcpu: usize) -> CpuState {
        CpuState {
            weight: self.vcpus[vcpu].weight,
            cap: None,
            running: self.runs(vcpu),
            used: self.vcpus[vcpu].used,
        }
    }
}

/// How often something was so.
#[derive(Default)]
struct Part(u64, u64);

impl Part {
    fn count(&mut self, so: bool) {
        self.0 += u64::from(so);
        self.1 += 1;
    }

    fn percent(&self) -> f64 {
        self.0 as f64 * 100.0 / self.1 as f64
    }
}

/// What looking every so often gets wrong: the columns of the table in the head comment.
fn errors(every: Nanos) -> [f64; 5] {
    const STEPS: u64 = 150_000;
    let mut xen = Xen::new();
    let count = xen.vcpus.len();
    let ids = || (0..count).map(|vcpu| DomainId(vcpu as u32));
    let mut cosched = CoScheduled::default();
    let mut augc = Augmented::default();
    for id in ids() {
        for policy in [&mut cosched as &mut dyn Policy, &mut augc] {
            policy.insert(0, id, Share::default());
            policy.ready(0, id);
        }
    }
    let [mut state, mut absent, mut order] = [(); 3].map(|()| Part::default());
    let (mut off, mut behind) = (0.0, 0.0);
    let mut seen = vec![false; count];
    for step in 0..STEPS {
        xen.step();
        for id in ids().filter(|_| xen.now.is_multiple_of(every)) {
            let cpu = xen.state(id.0 as usize);
            seen[id.0 as usize] = cpu.running;
            cosched.cpu(xen.now, id, cpu);
            augc.cpu(xen.now, id, cpu);
        }
        let credit = |id: DomainId| xen.vcpus[id.0 as usize].credit;
        let estimate = |id| {
            augc.processors
                .domains
                .get(id)
                .map_or(0, |seen| seen.credit)
        };
        for id in ids() {
            state.count(seen[id.0 as usize] != xen.runs(id.0 as usize));
            off += credit(id).abs_diff(estimate(id)) as f64;
            for other in ids().take_while(|other| *other < id) {
                let truth = credit(id).cmp(&credit(other));
                order.count(truth != estimate(id).cmp(&estimate(other)));
            }
        }
        // A decision every millisecond; what it lets on takes a millisecond.
        if step % 10 == 0 {
            let pick = cosched.0.first_running().unwrap();
            absent.count(!xen.runs(pick.0 as usize));
            cosched.0.granted(pick);
            cosched.0.charge(pick, MILLISECOND);

            let truth = |id: DomainId| {
                let spent = augc.credits.domains.get(id).unwrap().spent;
                spent - credit(id) * UNIT / i128::from(DEFAULT_WEIGHT)
            };
            let pick = augc.credits.first().unwrap();
            let best = ids().map(truth).min().unwrap();
            behind += ((truth(pick) - best) * i128::from(DEFAULT_WEIGHT) / UNIT) as f64;
            augc.credits.granted(pick);
            augc.credits.charge(pick, MILLISECOND);
        }
    }
    let milliseconds = |sum: f64, count: u64| sum / count as f64 / MILLISECOND as f64;
    let off = milliseconds(off, STEPS * count as u64);
    let behind = milliseconds(behind, STEPS / 10);
    [
        state.percent(),
        absent.percent(),
        off,
        order.percent(),
        behind,
    ]
}

#[test]
fn approximations_are_as_good_as_documented() {
    for (every, documented) in [
        (1, [3.9, 8.8, 5.7, 7.2, 7.1]),
        (10, [25.0, 44.1, 6.6, 10.6, 10.8]),
        (30, [35.7, 62.6, 8.1, 19.2, 15.7]),
        (100, [36.0, 64.5, 9.8, 33.2, 18.9]),
    ] {
        let errors = errors(every * MILLISECOND);
        for (error, documented) in errors.iter().zip(documented) {
            assert!(
                (error - documented).abs() < 0.1,
                "every {every} ms: {errors:?}"
            );
        }
    }
}

#[test]
fn remaining_credit_is_earned_by_weight_and_paid_by_use() {
    let mut processors = Processors::default();
    let [one, two, idle] = [0, 1, 2].map(DomainId);
    let state = |weight, used: u64, running| CpuState {
        weight,
        cap: None,
        running,
        used: used * MILLISECOND,
    };
    for (id, weight) in [(one, 512), (two, 256), (idle, 256)] {
        assert_eq!(processors.look(0, id, &state(weight, 0, id != idle)), 0);
    }
    // Each has used 15 ms of 30: by weight they were due 20 and 10.
    let now = 30 * MILLISECOND;
    processors.look(now, one, &state(512, 15, true));
    processors.look(now, two, &state(256, 15, true));
    let credits = [one, two, idle].map(|id| {
        let weight = if id == one { 512 } else { 256 };
        let used = if id == idle { 0 } else { 15 };
        processors.look(now, id, &state(weight, used, id != idle)) / i128::from(MILLISECOND)
    });
    // 5 ms to have and 5 ms owed (rounded towards zero); who slept has earned nothing.
    assert!(
        (4..=5).contains(&credits[0]) && (-5..=-4).contains(&credits[1]),
        "{credits:?}"
    );
    assert_eq!(credits[2], 0);
    // A counter that starts anew is no use of the processor.
    assert!(processors.look(now, two, &state(256, 0, false)) < 0);
}
