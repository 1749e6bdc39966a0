//! The simulator: the same schedulers as in vgpu-backd, on devices and domains that are numbers. Deterministic:
//! equal experiments with equal seeds give equal results. Each engine of a device runs one piece of work after
//! the other to the end; a worker knows how long a piece takes no better than the scheduler does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::{
    Account, CpuState, Decision, DomainId, Engine, Grant, MICROSECOND, Nanos, PolicyKind, SECOND,
    Scheduler, Settings, Share, Used,
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
    /// The next duration.
    pub fn draw(self, random: &mut Random) -> Nanos {
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
pub struct Random(u64);

impl Random {
    /// Equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

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
    /// Requests as recorded: when after the domain came, in order, and how long each piece takes.
    Trace(Vec<(Nanos, Nanos)>),
}

/// A domain of an experiment, or one stream of work of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// What it is entitled to when it comes.
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
    /// Which engine of the device. A domain that uses both is two workloads.
    pub engine: Engine,
    /// What it is entitled to later, from when on.
    pub shares: Vec<(Nanos, Share)>,
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
            engine: Engine::Compute,
            shares: Vec::new(),
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
    /// The domains.
    pub domains: Vec<Workload>,
    /// The policy on every device.
    pub policy: PolicyKind,
    /// Policies put in force later on every device, and when.
    pub switches: Vec<(Nanos, PolicyKind)>,
    /// How devices are driven; the engine is each device's own.
    pub settings: Settings,
    /// From a decision to the work's being on the device, if the device was idle.
    pub latency: Nanos,
    /// How long.
    pub duration: Nanos,
    /// Device time is also reported per window of this length.
    pub window: Nanos,
    /// Whether each piece's life goes into [`Results::ran`].
    pub record: bool,
    /// Equal seeds give equal results.
    pub seed: u64,
}

impl Experiment {
    /// These domains under this policy, as backd would drive the devices.
    pub fn new(policy: PolicyKind, domains: Vec<Workload>, duration: Nanos) -> Self {
        Self {
            domains,
            policy,
            switches: Vec::new(),
            settings: Settings::default(),
            latency: 50 * MICROSECOND,
            duration,
            window: SECOND,
            record: false,
            seed: 1,
        }
    }
}

/// What became of a domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What it had, as the scheduler counts.
    pub account: Account,
    /// Device time per window, as the device knows.
    pub windows: Vec<Nanos>,
    /// Time per window in which it had work that waited or ran.
    pub backlogged: Vec<Nanos>,
    /// From each request to its start on the device.
    pub waits: Vec<Nanos>,
    /// Requests that still waited when it went.
    pub unserved: u64,
}

/// The life of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Whose: an index into [`Experiment::domains`].
    pub domain: u32,
    /// When it was asked for.
    pub arrived: Nanos,
    /// When it was let on.
    pub granted: Nanos,
    /// With which grant of its engine: pieces let on together share it.
    pub turn: u64,
    /// What that grant was expected to take.
    pub estimate: Nanos,
    /// When it was on the device.
    pub start: Nanos,
    /// When it had ended. May lie beyond the experiment's end.
    pub end: Nanos,
}

/// What became of an experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// In the order of the domains.
    pub domains: Vec<Outcome>,
    /// Device time used, all engines together, as schedulers count.
    pub busy: Nanos,
    /// Time in which an engine was idle and work for it waited, all together.
    pub lost: Nanos,
    /// The part of that in which it was kept idle on purpose, for somebody expected back.
    pub held: Nanos,
    /// Decisions made.
    pub decisions: u64,
    /// Each piece of work in the order of starts, if recorded.
    pub ran: Vec<Ran>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Come(u32),
    Go(u32),
    Request(u32),
    Share(u32, u32),
    Cpu(u32, u32),
    Switch(PolicyKind),
    Complete(u32),
    Ask(u32),
}

/// An engine of a device.
struct Device {
    scheduler: Scheduler,
    /// Its domains; the index is their [`DomainId`] there.
    members: Vec<u32>,
    /// What is on it, oldest first: grant, and what it will have used.
    queue: VecDeque<(u64, Used)>,
    /// When an `Ask` is due, so that they do not multiply.
    asked: Nanos,
    /// Pieces that wait, and since when the device idles although there are some.
    waiting: u64,
    loses_since: Option<Nanos>,
}

struct Domain {
    device: u32,
    id: DomainId,
    /// When each waiting request was made and, from a trace, how long it takes.
    requests: VecDeque<(Nanos, Option<Nanos>)>,
    /// When all that it asked for and that was let on will have ended.
    on_until: Nanos,
    /// Since when it has wanted the device, up to `on_until` or longer.
    wants_since: Nanos,
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
        let windows = experiment.duration.div_ceil(experiment.window.max(1)) as usize;
        let outcome = Outcome {
            windows: vec![0; windows],
            backlogged: vec![0; windows],
            ..Outcome::default()
        };
        let mut simulation = Self {
            experiment,
            events: BinaryHeap::new(),
            sequence: 0,
            devices: Vec::new(),
            domains: Vec::with_capacity(experiment.domains.len()),
            results: Results {
                domains: vec![outcome; experiment.domains.len()],
                ..Results::default()
            },
        };
        for &(when, kind) in &experiment.switches {
            simulation.at(when, Event::Switch(kind));
        }
        let mut engines = BTreeMap::new();
        for (index, workload) in experiment.domains.iter().enumerate() {
            let index = index as u32;
            let devices = &mut simulation.devices;
            let device = *engines
                .entry((workload.device, workload.engine))
                .or_insert_with(|| {
                    let settings = Settings {
                        engine: workload.engine,
                        ..experiment.settings
                    };
                    devices.push(Device {
                        scheduler: Scheduler::new(experiment.policy.make(), settings),
                        members: Vec::new(),
                        queue: VecDeque::new(),
                        asked: Nanos::MAX,
                        waiting: 0,
                        loses_since: None,
                    });
                    devices.len() as u32 - 1
                });
            let members = &mut devices[device as usize].members;
            let id = DomainId(members.len() as u32);
            members.push(index);
            let salt = u64::from(index).wrapping_mul(0xd134_2543_de82_ef95);
            simulation.domains.push(Domain {
                device,
                id,
                requests: VecDeque::new(),
                on_until: 0,
                wants_since: 0,
                next_of_trace: 0,
                here: false,
                random: Random(experiment.seed ^ salt),
            });
            simulation.at(workload.from, Event::Come(index));
            simulation.at(workload.until, Event::Go(index));
            for (change, &(when, _)) in (0..).zip(&workload.shares) {
                simulation.at(when.max(workload.from), Event::Share(index, change));
            }
            for (change, &(when, _)) in (0..).zip(&workload.cpu) {
                simulation.at(when.max(workload.from), Event::Cpu(index, change));
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
            self.results.held += device.scheduler.held(end);
        }
        for index in 0..self.domains.len() as u32 {
            if self.domains[index as usize].here {
                self.leave(end, index);
            }
        }
        self.results
    }

    fn handle(&mut self, now: Nanos, event: Event) {
        match event {
            Event::Come(index) => self.come(now, index),
            Event::Go(index) => {
                let device = self.leave(now, index);
                self.decide(now, device);
            }
            Event::Share(index, change) => {
                let shares = &self.experiment.domains[index as usize].shares;
                if let Some(&(_, share)) = shares.get(change as usize) {
                    let (scheduler, id) = self.scheduler(index);
                    scheduler.update(now, id, share);
                    self.decide(now, self.domains[index as usize].device);
                }
            }
            Event::Cpu(index, change) => {
                let states = &self.experiment.domains[index as usize].cpu;
                if let Some(&(_, state)) = states.get(change as usize) {
                    let (scheduler, id) = self.scheduler(index);
                    scheduler.cpu(now, id, state);
                }
            }
            Event::Switch(kind) => {
                for device in 0..self.devices.len() as u32 {
                    let scheduler = &mut self.devices[device as usize].scheduler;
                    scheduler.switch(now, kind.make());
                    self.decide(now, device);
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

    fn scheduler(&mut self, index: u32) -> (&mut Scheduler, DomainId) {
        let domain = &self.domains[index as usize];
        let device = &mut self.devices[domain.device as usize];
        (&mut device.scheduler, domain.id)
    }

    fn come(&mut self, now: Nanos, index: u32) {
        let workload = &self.experiment.domains[index as usize];
        let domain = &mut self.domains[index as usize];
        domain.here = true;
        let first = match &workload.arrivals {
            Arrivals::Closed { .. } => Some(0),
            Arrivals::Open { every } => Some(every.draw(&mut domain.random)),
            Arrivals::Trace(trace) => trace.first().map(|&(when, _)| when),
        };
        let requests = match workload.arrivals {
            Arrivals::Closed { depth, .. } => depth,
            _ => 1,
        };
        let (scheduler, id) = self.scheduler(index);
        scheduler.insert(now, id, workload.share);
        if let Some(first) = first {
            for _ in 0..requests {
                self.at(now.saturating_add(first), Event::Request(index));
            }
        }
    }

    /// A domain goes, at the end of the experiment at the latest. Which device it was on.
    fn leave(&mut self, now: Nanos, index: u32) -> u32 {
        let (scheduler, id) = self.scheduler(index);
        let account = scheduler.account(id).unwrap_or_default();
        scheduler.remove(now, id);
        let domain = &mut self.domains[index as usize];
        domain.here = false;
        let outcome = &mut self.results.domains[index as usize];
        outcome.account = account;
        let until = match domain.requests.is_empty() {
            true => domain.on_until,
            false => now,
        };
        let window = self.experiment.window;
        spread(&mut outcome.backlogged, window, domain.wants_since, until);
        let device = &mut self.devices[domain.device as usize];
        outcome.unserved = domain.requests.len() as u64;
        device.waiting -= outcome.unserved;
        domain.requests.clear();
        domain.device
    }

    fn request(&mut self, now: Nanos, index: u32) {
        let workload = &self.experiment.domains[index as usize];
        let domain = &mut self.domains[index as usize];
        if !domain.here {
            return;
        }
        let mut takes = None;
        let mut next = None;
        match &workload.arrivals {
            Arrivals::Closed { .. } => {}
            Arrivals::Open { every } => next = Some(now + every.draw(&mut domain.random)),
            Arrivals::Trace(trace) => {
                takes = trace.get(domain.next_of_trace).map(|&(_, takes)| takes);
                domain.next_of_trace += 1;
                let following = trace.get(domain.next_of_trace);
                next = following.map(|&(when, _)| workload.from.saturating_add(when).max(now));
            }
        }
        if domain.requests.is_empty() && domain.on_until < now {
            let outcome = &mut self.results.domains[index as usize];
            let window = self.experiment.window;
            spread(
                &mut outcome.backlogged,
                window,
                domain.wants_since,
                domain.on_until,
            );
            domain.wants_since = now;
        }
        domain.requests.push_back((now, takes));
        let device = domain.device;
        self.devices[device as usize].waiting += 1;
        if let Some(next) = next {
            self.at(next, Event::Request(index));
        }
        let (scheduler, id) = self.scheduler(index);
        scheduler.arrived(now, id, 1);
        self.decide(now, device);
    }

    fn decide(&mut self, now: Nanos, device: u32) {
        loop {
            self.results.decisions += 1;
            let state = &mut self.devices[device as usize];
            match state.scheduler.decide(now) {
                Decision::Run(grant) => self.put_on(now, device, grant),
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

    /// Puts a grant's pieces on the device, one after the other, behind what is there.
    fn put_on(&mut self, now: Nanos, device: u32, grant: Grant) {
        let experiment = self.experiment;
        let state = &mut self.devices[device as usize];
        let index = state.members[grant.id.0 as usize];
        let workload = &experiment.domains[index as usize];
        let idle_start = now + experiment.latency;
        let before = state.queue.back().map_or(0, |(_, used)| used.end);
        let start = before.max(idle_start);
        if let Some(since) = state.loses_since.take() {
            self.results.lost += start.saturating_sub(since);
        }
        let (mut end, mut pieces) = (start, 0);
        for _ in 0..grant.pieces {
            let domain = &mut self.domains[index as usize];
            let Some((arrived, takes)) = domain.requests.pop_front() else {
                break;
            };
            self.devices[device as usize].waiting -= 1;
            let takes = takes.unwrap_or_else(|| workload.piece.draw(&mut domain.random));
            let outcome = &mut self.results.domains[index as usize];
            outcome.waits.push(end - arrived);
            let start = end;
            end += takes;
            pieces += 1;
            domain.on_until = end;
            spread(&mut outcome.windows, experiment.window, start, end);
            if experiment.record {
                self.results.ran.push(Ran {
                    domain: index,
                    arrived,
                    granted: now,
                    turn: grant.number,
                    estimate: grant.estimate,
                    start,
                    end,
                });
            }
            if let Arrivals::Closed { think, .. } = workload.arrivals {
                let again = end + think.draw(&mut domain.random);
                self.at(again, Event::Request(index));
            }
        }
        let queue = &mut self.devices[device as usize].queue;
        queue.push_back((grant.number, Used::span(start, end, pieces)));
        if queue.len() == 1 {
            self.at(end, Event::Complete(device));
        }
    }

    fn complete(&mut self, now: Nanos, device: u32) {
        let state = &mut self.devices[device as usize];
        let Some((number, used)) = state.queue.pop_front() else {
            return;
        };
        state.scheduler.complete(now, number, used);
        if let Some((_, next)) = state.queue.front() {
            let end = next.end;
            self.at(end, Event::Complete(device));
        }
        // Requests of this very moment come first, as those of a program that has more work queued.
        self.at(now, Event::Ask(device));
        self.devices[device as usize].asked = now;
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
    use crate::MILLISECOND;

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
        for policy in PolicyKind::ALL {
            let mut domains = vec![Workload::busy(MILLISECOND); 6];
            for (index, domain) in (0..).zip(&mut domains) {
                domain.piece = Distribution::Exponential(MILLISECOND);
                domain.device = index % 2;
                if index > 3 {
                    domain.arrivals = Arrivals::Open {
                        every: Distribution::Uniform(MILLISECOND, 9 * MILLISECOND),
                    };
                }
            }
            let mut experiment = Experiment::new(policy, domains, SECOND / 2);
            let one = run(&experiment);
            assert_eq!(one, run(&experiment), "{policy}");
            experiment.seed = 2;
            assert_ne!(one, run(&experiment), "{policy}");
        }
    }
}
