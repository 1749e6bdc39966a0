//! The simulator: the same schedulers as in vgpu-backd, on devices and domains that are numbers. Deterministic:
//! equal experiments with equal seeds give equal results. Devices run one grant after the other to the end.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::{
    Account, CpuState, Decision, DomainId, Nanos, PolicyKind, Scheduler, Settings, Share, Used,
};

/// A distribution of durations.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Always the same.
    Constant(Nanos),
    /// Evenly from the first to below the second.
    Uniform(Nanos, Nanos),
    /// Exponential with this mean, at least 1 ns.
    Exponential(Nanos),
}

impl Distribution {
    fn draw(self, random: &mut Random) -> Nanos {
        match self {
            Self::Constant(value) => value,
            Self::Uniform(low, high) => low + random.below(high.saturating_sub(low).max(1)),
            Self::Exponential(mean) => {
                let part = -(1.0 - random.unit()).ln();
                ((mean as f64 * part) as Nanos).max(1)
            }
        }
    }
}

/// Pseudo-random numbers (SplitMix64): written out here because results must stay the same for ever.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How a domain's work arrives.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// So many pieces are always asked for; each is asked for again so long after it ended.
    Closed {
        /// Pieces asked for at once.
        depth: u32,
        /// From a piece's end to the next request.
        think: Distribution,
    },
    /// A piece each so often, whatever has become of those before.
    Open {
        /// From a request to the next.
        every: Distribution,
    },
    /// Requests as recorded: when, and how long each piece takes.
    Trace(Vec<(Nanos, Nanos)>),
}

/// A domain of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// What it is entitled to.
    pub share: Share,
    /// How long its pieces take on the device.
    pub piece: Distribution,
    /// How they arrive.
    pub arrivals: Arrivals,
    /// When it comes.
    pub from: Nanos,
    /// When it goes.
    pub until: Nanos,
    /// Which device it is on.
    pub device: u32,
    /// What the hypervisor says of it, from when on.
    pub cpu: Vec<(Nanos, CpuState)>,
}

impl Workload {
    /// A domain on the first device that always has work of this length.
    pub fn busy(piece: Nanos) -> Self {
        Self {
            share: Share::default(),
            piece: Distribution::Constant(piece),
            arrivals: Arrivals::Closed {
                depth: 2,
                think: Distribution::Constant(0),
            },
            from: 0,
            until: Nanos::MAX,
            device: 0,
            cpu: Vec::new(),
        }
    }

    /// The same with another weight.
    pub fn weight(mut self, weight: u32) -> Self {
        self.share.weight = weight;
        self
    }
}

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The domains; their index is their [`DomainId`].
    pub domains: Vec<Workload>,
    /// The policy on every device.
    pub policy: PolicyKind,
    /// How devices are driven.
    pub settings: Settings,
    /// From a decision to the work's being on the device, if the device was idle.
    pub latency: Nanos,
    /// How long.
    pub duration: Nanos,
    /// Device time is also reported per window of this length.
    pub window: Nanos,
    /// Equal seeds give equal results.
    pub seed: u64,
}

/// What became of a domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What it had, as the scheduler counts.
    pub account: Account,
    /// Device time per window, as the device knows.
    pub windows: Vec<Nanos>,
    /// From each request to its start on the device.
    pub waits: Vec<Nanos>,
}

/// What became of an experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// In the order of the domains.
    pub domains: Vec<Outcome>,
    /// Device time used, all devices together.
    pub busy: Nanos,
    /// Time in which a device was idle and work for it waited, all devices together.
    pub lost: Nanos,
    /// Decisions made.
    pub decisions: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Come(u32),
    Go(u32),
    Request(u32),
    Cpu(u32, usize),
    Complete(u32),
    Ask(u32),
}

struct Device {
    scheduler: Scheduler,
    /// What is on it, oldest first: grant, domain, start, end.
    queue: VecDeque<(u64, DomainId, Nanos, Nanos)>,
    /// When an `Ask` is due, so that they do not multiply.
    asked: Nanos,
    /// Pieces that wait, and since when the device idles although there are some.
    waiting: u64,
    loses_since: Option<Nanos>,
}

struct Domain {
    /// When each waiting request was made and, from a trace, how long it takes.
    requests: VecDeque<(Nanos, Option<Nanos>)>,
    next_of_trace: usize,
    here: bool,
    random: Random,
}

/// Runs an experiment to its end.
pub fn run(experiment: &Experiment) -> Results {
    Simulation::new(experiment).run()
}

struct Simulation<'e> {
    experiment: &'e Experiment,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    sequence: u64,
    devices: Vec<Device>,
    domains: Vec<Domain>,
    results: Results,
}

impl<'e> Simulation<'e> {
    fn new(experiment: &'e Experiment) -> Self {
        let devices = experiment
            .domains
            .iter()
            .map(|domain| domain.device + 1)
            .max();
        let windows = experiment.duration.div_ceil(experiment.window.max(1)) as usize;
        let outcome = Outcome {
            windows: vec![0; windows],
            ..Outcome::default()
        };
        let mut simulation = Self {
            experiment,
            events: BinaryHeap::new(),
            sequence: 0,
            devices: (0..devices.unwrap_or(0))
                .map(|_| Device {
                    scheduler: Scheduler::new(experiment.policy.make(), experiment.settings),
                    queue: VecDeque::new(),
                    asked: Nanos::MAX,
                    waiting: 0,
                    loses_since: None,
                })
                .collect(),
            domains: (0..experiment.domains.len() as u64)
                .map(|index| Domain {
                    requests: VecDeque::new(),
                    next_of_trace: 0,
                    here: false,
                    random: Random(experiment.seed ^ index.wrapping_mul(0xd134_2543_de82_ef95)),
                })
                .collect(),
            results: Results {
                domains: vec![outcome; experiment.domains.len()],
                ..Results::default()
            },
        };
        for (index, domain) in experiment.domains.iter().enumerate() {
            let index = index as u32;
            simulation.at(domain.from, Event::Come(index));
            simulation.at(domain.until, Event::Go(index));
            for (change, &(when, _)) in domain.cpu.iter().enumerate() {
                simulation.at(when.max(domain.from), Event::Cpu(index, change));
            }
        }
        simulation
    }

    fn at(&mut self, when: Nanos, event: Event) {
        if when < self.experiment.duration {
            self.sequence += 1;
            self.events.push(Reverse((when, self.sequence, event)));
        }
    }

    fn run(mut self) -> Results {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            self.handle(now, event);
        }
        let end = self.experiment.duration;
        for device in &mut self.devices {
            if let Some(since) = device.loses_since.take() {
                self.results.lost += end.saturating_sub(since);
            }
            self.results.busy += device.scheduler.busy();
        }
        for (index, domain) in self.experiment.domains.iter().enumerate() {
            let scheduler = &self.devices[domain.device as usize].scheduler;
            if let Some(account) = scheduler.account(DomainId(index as u32)) {
                self.results.domains[index].account = account;
            }
        }
        self.results
    }

    fn handle(&mut self, now: Nanos, event: Event) {
        match event {
            Event::Come(index) => {
                let workload = &self.experiment.domains[index as usize];
                self.domains[index as usize].here = true;
                self.scheduler(index)
                    .insert(now, DomainId(index), workload.share);
                match &workload.arrivals {
                    Arrivals::Closed { depth, .. } => {
                        for _ in 0..*depth {
                            self.at(now, Event::Request(index));
                        }
                    }
                    Arrivals::Open { every } => {
                        let first = every.draw(&mut self.domains[index as usize].random);
                        self.at(now + first, Event::Request(index));
                    }
                    Arrivals::Trace(trace) => {
                        if let Some(&(when, _)) = trace.first() {
                            self.at(now + when, Event::Request(index));
                        }
                    }
                }
            }
            Event::Go(index) => {
                let id = DomainId(index);
                let account = self.scheduler(index).account(id);
                self.results.domains[index as usize].account = account.unwrap_or_default();
                self.scheduler(index).remove(now, id);
                self.domains[index as usize].here = false;
                let gone = self.domains[index as usize].requests.len() as u64;
                self.domains[index as usize].requests.clear();
                let device = self.experiment.domains[index as usize].device;
                self.devices[device as usize].waiting -= gone;
                self.decide(now, device);
            }
            Event::Cpu(index, change) => {
                if let Some(&(_, state)) = self.experiment.domains[index as usize].cpu.get(change) {
                    self.scheduler(index).cpu(now, DomainId(index), state);
                }
            }
            Event::Request(index) => self.request(now, index),
            Event::Complete(device) => self.complete(now, device),
            Event::Ask(device) => {
                let state = &mut self.devices[device as usize];
                if state.asked <= now {
                    state.asked = Nanos::MAX;
                    self.decide(now, device);
                }
            }
        }
    }

    fn scheduler(&mut self, index: u32) -> &mut Scheduler {
        let device = self.experiment.domains[index as usize].device;
        &mut self.devices[device as usize].scheduler
    }

    fn request(&mut self, now: Nanos, index: u32) {
        let workload = &self.experiment.domains[index as usize];
        let domain = &mut self.domains[index as usize];
        if !domain.here {
            return;
        }
        let mut takes = None;
        match &workload.arrivals {
            Arrivals::Closed { .. } => {}
            Arrivals::Open { every } => {
                let next = now + every.draw(&mut domain.random);
                self.at(next, Event::Request(index));
            }
            Arrivals::Trace(trace) => {
                takes = trace.get(domain.next_of_trace).map(|&(_, takes)| takes);
                domain.next_of_trace += 1;
                if let Some(&(when, _)) = trace.get(domain.next_of_trace) {
                    self.at((workload.from + when).max(now), Event::Request(index));
                }
            }
        }
        self.domains[index as usize]
            .requests
            .push_back((now, takes));
        self.devices[workload.device as usize].waiting += 1;
        self.scheduler(index).arrived(now, DomainId(index));
        self.decide(now, workload.device);
    }

    fn decide(&mut self, now: Nanos, device: u32) {
        loop {
            self.results.decisions += 1;
            let state = &mut self.devices[device as usize];
            match state.scheduler.decide(now) {
                Decision::Run(grant) => {
                    let index = grant.id.0 as usize;
                    let workload = &self.experiment.domains[index];
                    let domain = &mut self.domains[index];
                    let idle_start = now + self.experiment.latency;
                    let mut end = state
                        .queue
                        .back()
                        .map_or(idle_start, |&(.., end)| end.max(idle_start));
                    let start = end;
                    for _ in 0..grant.pieces {
                        let Some((since, takes)) = domain.requests.pop_front() else {
                            break;
                        };
                        state.waiting -= 1;
                        let outcome = &mut self.results.domains[index];
                        outcome.waits.push(end - since);
                        let takes =
                            takes.unwrap_or_else(|| workload.piece.draw(&mut domain.random));
                        spread(
                            &mut outcome.windows,
                            self.experiment.window,
                            end,
                            end + takes,
                        );
                        end += takes;
                    }
                    state.queue.push_back((grant.number, grant.id, start, end));
                    if let Some(since) = state.loses_since.take() {
                        self.results.lost += start.saturating_sub(since);
                    }
                    if state.queue.len() == 1 {
                        self.at(end, Event::Complete(device));
                    }
                }
                Decision::At(when) => {
                    if when > now && when < state.asked {
                        state.asked = when;
                        self.at(when, Event::Ask(device));
                    }
                    break;
                }
                Decision::Idle => break,
            }
        }
        let state = &mut self.devices[device as usize];
        if state.queue.is_empty() && state.waiting > 0 {
            state.loses_since.get_or_insert(now);
        } else if state.waiting == 0
            && let Some(since) = state.loses_since.take()
        {
            self.results.lost += now - since;
        }
    }

    fn complete(&mut self, now: Nanos, device: u32) {
        let state = &mut self.devices[device as usize];
        let Some((number, id, start, end)) = state.queue.pop_front() else {
            return;
        };
        let next = state.queue.front().map(|&(.., end)| end);
        let used = Used {
            start,
            end,
            bytes: 0,
        };
        let before = state
            .scheduler
            .account(id)
            .map_or(0, |account| account.launches);
        state.scheduler.complete(now, number, used);
        let after = state
            .scheduler
            .account(id)
            .map_or(before, |account| account.launches);
        if let Some(next) = next {
            self.at(next, Event::Complete(device));
        }
        if let Arrivals::Closed { think, .. } = self.experiment.domains[id.0 as usize].arrivals {
            for _ in before..after {
                let wait = think.draw(&mut self.domains[id.0 as usize].random);
                self.at(now + wait, Event::Request(id.0));
            }
        }
        // Requests of this very moment come first, as those of a program that has more work queued.
        self.at(now, Event::Ask(device));
        let state = &mut self.devices[device as usize];
        state.asked = now;
    }
}

/// Adds the time from `start` to `end` to the windows that it lies in.
fn spread(windows: &mut [Nanos], window: Nanos, start: Nanos, end: Nanos) {
    let window = window.max(1);
    let mut at = start;
    while at < end {
        let index = at / window;
        let stop = end.min((index + 1) * window);
        match windows.get_mut(index as usize) {
            Some(sum) => *sum += stop - at,
            None => return,
        }
        at = stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MILLISECOND, SECOND};

    #[test]
    fn time_is_spread_over_windows() {
        let mut windows = [0; 3];
        spread(&mut windows, 10, 5, 27);
        assert_eq!(windows, [5, 10, 7]);
        spread(&mut windows, 10, 25, 99);
        assert_eq!(windows, [5, 10, 12]);
    }

    #[test]
    fn equal_seeds_give_equal_results_and_others_do_not() {
        let mut experiment = Experiment {
            domains: vec![Workload::busy(MILLISECOND); 3],
            policy: PolicyKind::Fair,
            settings: Settings::default(),
            latency: 1000,
            duration: SECOND,
            window: SECOND,
            seed: 1,
        };
        for domain in &mut experiment.domains {
            domain.piece = Distribution::Exponential(MILLISECOND);
        }
        let one = run(&experiment);
        assert_eq!(one, run(&experiment));
        experiment.seed = 2;
        assert_ne!(one, run(&experiment));
    }
}
