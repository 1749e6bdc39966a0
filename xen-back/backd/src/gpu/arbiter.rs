//! Who may use one GPU now: joins gates, as workers move them, to the schedulers of its two engines.
//!
//! It is told when to look and what time it is, and never waits. A worker's word is checked before it counts:
//! a lie may cost the liar's own domain, and others a wait that is bounded here. Every ask that is taken
//! gets its turn or ends with its channel; no turn may be lost.

use super::Sentence;
use super::record::Recorder;
use crate::cpu::{Presence, Visit};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vgpu_protocol::admin::{DomainStats, GpuStats};
use vgpu_protocol::gate::{Engine, GateBack, REPORTS, Report};
use vgpu_sched::trace::{Entry, Work};
use vgpu_sched::{
    CpuState, Decision, DomainId, Grant, Limits, MICROSECOND, MILLISECOND, Nanos, PolicyKind,
    SECOND, Scheduler, Settings, Share, Used,
};

/// A domain has a GPU to itself when nobody else has wanted it for so long.
const ALONE: Nanos = 100 * MILLISECOND;
/// How often gates are looked at that do not ring, while their workers work...
const TICK: Nanos = 100 * MILLISECOND;
/// ... and while they seem to rest.
const SLOW_TICK: Nanos = SECOND;
/// Device time of a batch while the gate is open. Two are in flight at most, which a newcomer waits for.
const QUANTUM: Nanos = MILLISECOND;
/// A turn that has not ended after so long no longer keeps others from theirs.
const PATIENCE: Nanos = SECOND;
/// A scheduler that wants to be asked again at once is asked after so long.
const PAUSE: Nanos = 20 * MICROSECOND;
/// Between two looks whether the device has what was let on. Mostly it has at the first.
const LOOK: Nanos = 100 * MICROSECOND;
/// Pieces of work of one ask beyond which it is not believed.
const PIECES: u32 = 4096;
/// Parts of the second over which shares are shown.
const BUCKETS: u64 = 10;
const BUCKET: Nanos = SECOND / BUCKETS;
/// Device time without bound.
const UNBOUNDED: Nanos = Nanos::MAX;

/// Names a channel to the GPU's thread.
pub(super) type Key = u64;

fn of_engine<T>(both: &[T; 2], engine: Engine) -> &T {
    let [compute, copy] = both;
    match engine {
        Engine::Compute => compute,
        Engine::Copy => copy,
    }
}

fn of_engine_mut<T>(both: &mut [T; 2], engine: Engine) -> &mut T {
    let [compute, copy] = both;
    match engine {
        Engine::Compute => compute,
        Engine::Copy => copy,
    }
}

fn traced(engine: Engine) -> vgpu_sched::Engine {
    match engine {
        Engine::Compute => vgpu_sched::Engine::Compute,
        Engine::Copy => vgpu_sched::Engine::Copy,
    }
}

/// Device time of the last second, by the part of it in which it became known; and of the part that goes on.
#[derive(Debug, Default)]
struct Window {
    buckets: [Nanos; BUCKETS as usize + 1],
    newest: u64,
}

impl Window {
    /// The part of the second that has this number.
    fn bucket(&mut self, number: u64) -> Option<&mut Nanos> {
        self.buckets.get_mut((number % (BUCKETS + 1)) as usize)
    }

    fn turn_to(&mut self, now: Nanos) {
        let newest = now / BUCKET;
        let first = self
            .newest
            .saturating_add(1)
            .max(newest.saturating_sub(BUCKETS));
        for passed in first..=newest {
            if let Some(bucket) = self.bucket(passed) {
                *bucket = 0;
            }
        }
        self.newest = self.newest.max(newest);
    }

    fn add(&mut self, now: Nanos, time: Nanos) {
        self.turn_to(now);
        if let Some(bucket) = self.bucket(self.newest) {
            *bucket = bucket.saturating_add(time);
        }
    }

    /// The part of the last second that was used, at most all of it.
    fn share(&mut self, now: Nanos) -> f64 {
        self.turn_to(now);
        let goes_on = self.bucket(self.newest).map_or(0, |bucket| *bucket);
        let sum = self.buckets.iter().sum::<Nanos>().saturating_sub(goes_on);
        (sum as f64 / SECOND as f64).min(1.0)
    }
}

#[derive(Debug)]
struct Domain {
    domid: u16,
    name: String,
    share: Share,
    limits: Limits,
    /// Devices of the domain that have come and not gone.
    devices: u32,
    channels: BTreeSet<Key>,
    windows: [Window; 2],
    /// When it last wanted or used the GPU.
    active: Nanos,
    /// How long it has had the GPU to itself.
    alone: Nanos,
    overdue: u64,
    /// What the hypervisor said of it last.
    cpu: Option<CpuState>,
    /// Who is told whether its work is on the GPU.
    presence: Option<Arc<Presence>>,
}

/// A channel's ask for a turn that is not answered yet.
#[derive(Copy, Clone, Debug)]
struct Waiting {
    pieces: u32,
    since: Nanos,
}

/// One engine as one channel uses it.
#[derive(Debug, Default)]
struct Lane {
    waiting: Option<Waiting>,
    /// Turns that are set aside: until they end there are no more.
    aside: u32,
    /// Since when it has had work begun through the open gate without any of it ending, as far as looks tell.
    stuck: Option<Nanos>,
    /// Something ended since the last tick.
    moved: bool,
}

#[derive(Debug)]
struct Channel {
    domain: DomainId,
    /// Its number, for the log.
    number: u32,
    gate: GateBack,
    lanes: [Lane; 2],
    sentence: Arc<Sentence>,
    sentenced: bool,
    came: Nanos,
}

/// Work that was let on the device and has not ended.
#[derive(Debug)]
struct Flight {
    channel: Key,
    domain: DomainId,
    /// The gate's turn; `None` for what was begun while the gate was open.
    turn: Option<u32>,
    granted: Nanos,
    /// Since when nothing older keeps the device from it.
    first: Option<Nanos>,
    /// Since when it is set aside.
    aside: Option<Nanos>,
}

/// One engine of the GPU.
#[derive(Debug)]
struct Track {
    scheduler: Scheduler,
    /// By the scheduler's number, which is their order.
    flights: BTreeMap<u64, Flight>,
    /// Turns that do not end: the scheduler no longer counts them.
    aside: Vec<Flight>,
    /// A grant that is given when the device has what was let on before it. Else it could come first, and whoever it
    /// holds up would be taken for the one that keeps the device.
    held: Option<Grant>,
}

impl Track {
    fn new(engine: Engine, policy: PolicyKind) -> Track {
        let settings = Settings {
            engine: traced(engine),
            ..Settings::default()
        };
        Track {
            scheduler: Scheduler::new(policy.make(), settings),
            flights: BTreeMap::new(),
            aside: Vec::new(),
            held: None,
        }
    }

    fn has_of(&self, domain: DomainId) -> bool {
        let mut all = self.flights.values().chain(&self.aside);
        all.any(|flight| flight.domain == domain)
    }

    fn flight_of(&self, channel: Key, turn: Option<u32>) -> Option<u64> {
        let mut flights = self.flights.iter();
        flights
            .find(|(_, flight)| flight.channel == channel && flight.turn == turn)
            .map(|(number, _)| *number)
    }

    /// Starts the clocks of what nothing older holds up any more.
    fn advance(&mut self, now: Nanos) {
        if let Some(mut first) = self.flights.first_entry() {
            first.get_mut().first.get_or_insert(now);
        }
        if let Some(first) = self.aside.first_mut() {
            first.first.get_or_insert(now);
        }
    }
}

/// One GPU.
#[derive(Debug)]
pub(super) struct Arbiter {
    gpu: u32,
    name: String,
    policy: PolicyKind,
    /// How long work may keep the device before its channel is ended.
    longest: Option<Nanos>,
    tracks: [Track; 2],
    domains: BTreeMap<DomainId, Domain>,
    ids: BTreeMap<u16, DomainId>,
    channels: BTreeMap<Key, Channel>,
    /// Channels that rang.
    rang: BTreeSet<Key>,
    /// Channels that did something lately, and when.
    hot: BTreeMap<Key, Nanos>,
    /// Domains that want or use the GPU, or did a moment ago.
    active: BTreeSet<DomainId>,
    /// Whose gates are open, and since when.
    owner: Option<(DomainId, Nanos)>,
    recorders: Vec<Recorder>,
    /// The hypervisor has told of processors.
    cpu_known: bool,
    /// Domains whose work is on the GPU or next there, and that want to be told.
    here: BTreeMap<DomainId, Visit>,
    started: Nanos,
    ticked: Nanos,
}

impl Arbiter {
    pub fn new(
        now: Nanos,
        gpu: u32,
        name: String,
        policy: PolicyKind,
        longest: Option<Nanos>,
    ) -> Arbiter {
        Arbiter {
            gpu,
            name,
            policy,
            longest,
            tracks: Engine::ALL.map(|engine| Track::new(engine, policy)),
            domains: BTreeMap::new(),
            ids: BTreeMap::new(),
            channels: BTreeMap::new(),
            rang: BTreeSet::new(),
            hot: BTreeMap::new(),
            active: BTreeSet::new(),
            owner: None,
            recorders: Vec::new(),
            cpu_known: false,
            here: BTreeMap::new(),
            started: now,
            ticked: now,
        }
    }

    // ------------------------------------------------------------------------------ who is there

    /// A domain comes, or another device of it.
    pub fn add_domain(&mut self, now: Nanos, domid: u16, name: &str, share: Share, limits: Limits) {
        if let Some(domain) = self.ids.get(&domid).and_then(|id| self.domains.get_mut(id)) {
            domain.devices = domain.devices.saturating_add(1);
            return;
        }
        // The least that is free: tables stay small.
        let id = (0..)
            .map(DomainId)
            .find(|id| !self.domains.contains_key(id))
            .unwrap_or(DomainId(u32::MAX));
        let domain = Domain {
            domid,
            name: name.to_owned(),
            share,
            limits,
            devices: 1,
            channels: BTreeSet::new(),
            windows: Default::default(),
            active: 0,
            alone: 0,
            overdue: 0,
            cpu: None,
            presence: None,
        };
        self.ids.insert(domid, id);
        self.domains.insert(id, domain);
        for track in &mut self.tracks {
            track.scheduler.insert(now, id, share);
        }
        self.tell_share(now, id);
    }

    /// A domain's device goes, after its channels; with the last one the domain.
    pub fn remove_domain(&mut self, now: Nanos, domid: u16) {
        let Some(&id) = self.ids.get(&domid) else {
            return;
        };
        let Some(domain) = self.domains.get_mut(&id) else {
            return;
        };
        domain.devices = domain.devices.saturating_sub(1);
        if domain.devices > 0 {
            return;
        }
        for key in domain.channels.clone() {
            self.remove_channel(now, key);
        }
        for track in &mut self.tracks {
            track.scheduler.remove(now, id);
            track.flights.retain(|_, flight| flight.domain != id);
            track.aside.retain(|flight| flight.domain != id);
            track.held = track.held.take().filter(|grant| grant.id != id);
        }
        self.ids.remove(&domid);
        self.domains.remove(&id);
        self.active.remove(&id);
        self.here.remove(&id);
        if self.owner.is_some_and(|(owner, _)| owner == id) {
            self.owner = None;
        }
        self.tell(&Entry::Gone {
            at_ns: now,
            gpu: self.gpu,
            domid: domid.into(),
        });
    }

    /// Other limits hold for a domain from now on.
    pub fn limit(&mut self, domid: u16, limits: Limits) {
        let Some(domain) = self.ids.get(&domid).and_then(|id| self.domains.get_mut(id)) else {
            return;
        };
        domain.limits = limits;
        let channels = domain.channels.clone();
        for gate in channels.iter().filter_map(|key| self.gate(*key)) {
            gate.set_launches(limits.launches.unwrap_or(0));
        }
    }

    /// What a domain is entitled to, if it is here.
    pub fn share(&self, domid: u16) -> Option<Share> {
        let id = self.ids.get(&domid)?;
        self.domains.get(id).map(|domain| domain.share)
    }

    /// A domain is entitled to something else from now on.
    pub fn update(&mut self, now: Nanos, domid: u16, share: Share) {
        let Some(&id) = self.ids.get(&domid) else {
            return;
        };
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.share = share;
        }
        for track in &mut self.tracks {
            track.scheduler.update(now, id, share);
        }
        self.tell_share(now, id);
    }

    /// What the hypervisor says of a domain.
    pub fn cpu(&mut self, now: Nanos, domid: u16, state: CpuState) {
        let Some(&id) = self.ids.get(&domid) else {
            return;
        };
        let Some(domain) = self.domains.get_mut(&id) else {
            return;
        };
        if domain.cpu.replace(state) == Some(state) {
            return;
        }
        self.cpu_known = true;
        for track in &mut self.tracks {
            track.scheduler.cpu(now, id, state);
        }
        self.tell_cpu(now, id);
    }

    /// Who is told from now on whether a domain's work is on the GPU or next there.
    pub fn presence(&mut self, domid: u16, presence: Arc<Presence>) {
        let id = self.ids.get(&domid);
        if let Some(domain) = id.and_then(|id| self.domains.get_mut(id)) {
            domain.presence = Some(presence);
        }
    }

    /// Tells who is on the GPU or next there: whose turns go on, and whoever has it to itself and uses it.
    fn tell_presences(&mut self) {
        let owner = self.owner.map(|(owner, _)| owner);
        let owner = owner.filter(|owner| self.active.contains(owner));
        let flights = self.tracks.iter().flat_map(|track| track.flights.values());
        let here: BTreeSet<DomainId> = flights.map(|flight| flight.domain).chain(owner).collect();
        self.here.retain(|id, _| here.contains(id));
        for id in here {
            if !self.here.contains_key(&id)
                && let Some(presence) = self.domains.get(&id).and_then(|it| it.presence.as_ref())
            {
                self.here.insert(id, Visit::begin(presence.clone()));
            }
        }
    }

    /// Another policy from now on.
    pub fn switch(&mut self, now: Nanos, policy: PolicyKind) {
        self.policy = policy;
        for track in &mut self.tracks {
            track.scheduler.switch(now, policy.make());
        }
    }

    /// A channel of a domain that is here. Returns whether it is.
    pub fn add_channel(
        &mut self,
        now: Nanos,
        key: Key,
        domid: u16,
        number: u32,
        mut gate: GateBack,
        sentence: Arc<Sentence>,
    ) -> bool {
        let Some(&id) = self.ids.get(&domid) else {
            return false;
        };
        let Some(domain) = self.domains.get_mut(&id) else {
            return false;
        };
        gate.set_quantum(QUANTUM);
        gate.set_launches(domain.limits.launches.unwrap_or(0));
        if self.owner.is_some_and(|(owner, _)| owner == id) {
            gate.open();
        }
        domain.channels.insert(key);
        let channel = Channel {
            domain: id,
            number,
            gate,
            lanes: Default::default(),
            sentence,
            sentenced: false,
            came: now,
        };
        self.channels.insert(key, channel);
        self.rang.insert(key);
        true
    }

    /// A channel's gate, to be listened to.
    pub fn gate(&self, key: Key) -> Option<&GateBack> {
        self.channels.get(&key).map(|channel| &channel.gate)
    }

    /// A channel goes; its worker is no more, and so is what it had on the device.
    pub fn remove_channel(&mut self, now: Nanos, key: Key) {
        // What it reported last counts.
        let mut reports = Vec::new();
        self.drain(now, key, &mut reports);
        self.book(now, reports);
        let Some(channel) = self.channels.remove(&key) else {
            return;
        };
        self.rang.remove(&key);
        self.hot.remove(&key);
        if let Some(domain) = self.domains.get_mut(&channel.domain) {
            domain.channels.remove(&key);
        }
        for engine in Engine::ALL {
            let track = of_engine_mut(&mut self.tracks, engine);
            track.aside.retain(|flight| flight.channel != key);
            let ended: Vec<u64> = track
                .flights
                .iter()
                .filter(|(_, flight)| flight.channel == key)
                .map(|(number, _)| *number)
                .collect();
            for number in ended {
                self.give_up(now, engine, number);
            }
            self.count_waiting(now, engine, channel.domain);
        }
    }

    // ------------------------------------------------------------------------------ what happens

    /// A channel's bell was rung.
    pub fn rang(&mut self, key: Key) {
        self.rang.insert(key);
    }

    /// Looks at everything that may have changed, and lets work on. When to call it again at the latest.
    pub fn serve(&mut self, now: Nanos) -> Nanos {
        let tick = now >= self.next_tick();
        let mut keys = std::mem::take(&mut self.rang);
        keys.extend(self.hot.keys());
        if tick && let Some((owner, _)) = self.owner {
            let domain = self.domains.get(&owner);
            keys.extend(domain.into_iter().flat_map(|domain| &domain.channels));
        }
        let mut reports = Vec::new();
        for key in &keys {
            self.drain(now, *key, &mut reports);
        }
        // Whoever has asked again before its turn ended has been there all the while.
        for key in &keys {
            self.hear(now, *key);
        }
        self.book(now, reports);
        for key in &keys {
            self.settle(now, *key);
        }
        if tick {
            self.ticked = now;
            self.tick(now);
        }
        self.judge(now);
        self.steer(now, tick);
        let mut next = self.next_tick();
        for engine in Engine::ALL {
            next = next.min(self.decide(now, engine));
        }
        self.tell_presences();
        next.min(self.next_judgement()).max(now.saturating_add(1))
    }

    fn next_tick(&self) -> Nanos {
        let pause = match (self.hot.is_empty(), self.owner) {
            (false, _) => TICK,
            (true, Some(_)) => SLOW_TICK,
            (true, None) => return Nanos::MAX,
        };
        self.ticked.saturating_add(pause)
    }

    /// Takes a channel's reports; no more than it could have put, however fast it puts more.
    fn drain(&mut self, now: Nanos, key: Key, reports: &mut Vec<(Key, Report)>) {
        let Some(channel) = self.channels.get_mut(&key) else {
            return;
        };
        for _ in 0..REPORTS {
            let Some(report) = channel.gate.report(now) else {
                break;
            };
            of_engine_mut(&mut channel.lanes, report.engine).moved = true;
            reports.push((key, report));
        }
    }

    /// Takes a channel's asks.
    fn hear(&mut self, now: Nanos, key: Key) {
        let Some(channel) = self.channels.get_mut(&key) else {
            return;
        };
        let domain = channel.domain;
        for engine in Engine::ALL {
            let Some(channel) = self.channels.get_mut(&key) else {
                return;
            };
            let lane = of_engine_mut(&mut channel.lanes, engine);
            if lane.waiting.is_some() || channel.sentenced {
                continue;
            }
            let Some(ask) = channel.gate.asked(engine) else {
                continue;
            };
            lane.waiting = Some(Waiting {
                pieces: ask.pieces.min(PIECES),
                since: now,
            });
            self.mark(now, domain, now);
            self.hot.insert(key, now);
            self.count_waiting(now, engine, domain);
        }
    }

    /// Tells an engine's scheduler how much of a domain's work waits.
    fn count_waiting(&mut self, now: Nanos, engine: Engine, id: DomainId) {
        let Some(domain) = self.domains.get(&id) else {
            return;
        };
        let lanes = domain
            .channels
            .iter()
            .filter_map(|key| self.channels.get(key))
            .map(|channel| of_engine(&channel.lanes, engine));
        let pieces = lanes
            .filter(|lane| lane.aside == 0)
            .filter_map(|lane| lane.waiting)
            .fold(0u32, |sum, waiting| sum.saturating_add(waiting.pieces));
        let track = of_engine_mut(&mut self.tracks, engine);
        track.scheduler.set_waiting(now, id, pieces);
    }

    /// A domain wanted or used the GPU at this time.
    fn mark(&mut self, now: Nanos, id: DomainId, at: Nanos) {
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.active = domain.active.max(at);
            if now.saturating_sub(at) < ALONE {
                self.active.insert(id);
            }
        }
    }

    /// Books what ended, in the order in which it did.
    fn book(&mut self, now: Nanos, mut reports: Vec<(Key, Report)>) {
        reports.sort_by_key(|(_, report)| report.end_ns);
        for (key, report) in reports {
            self.book_one(now, key, &report);
        }
    }

    fn book_one(&mut self, now: Nanos, key: Key, report: &Report) {
        let Some(channel) = self.channels.get_mut(&key) else {
            return;
        };
        let (id, engine) = (channel.domain, report.engine);
        let track = of_engine_mut(&mut self.tracks, engine);
        // No earlier than it could have begun.
        let used = |from: Nanos| {
            let end = report.end_ns.max(from);
            let start = report.start_ns.max(from).min(end);
            Used {
                start,
                end,
                busy: report.busy_ns.min(end.saturating_sub(start)),
                pieces: report.pieces,
                bytes: report.bytes,
            }
        };
        let turn = (report.turn != 0).then_some(report.turn);
        let number = turn.and_then(|turn| track.flight_of(key, Some(turn)));
        let aside = track
            .aside
            .iter()
            .position(|flight| turn.is_some() && (flight.channel, flight.turn) == (key, turn));
        let (time, used) = if let Some(number) = number {
            let from = track.flights.remove(&number).map_or(0, |it| it.granted);
            let used = used(from);
            (track.scheduler.complete(now, number, used), used)
        } else if let Some(position) = aside {
            let flight = track.aside.remove(position);
            let lane = of_engine_mut(&mut channel.lanes, engine);
            lane.aside = lane.aside.saturating_sub(1);
            let used = used(flight.aside.unwrap_or(flight.granted));
            (track.scheduler.charge(now, id, used), used)
        } else {
            if turn.is_some()
                && let Some(domain) = self.domains.get_mut(&id)
            {
                // A turn that it was not given, or has ended before.
                domain.overdue = domain.overdue.saturating_add(1);
            }
            let used = used(channel.came);
            (track.scheduler.charge(now, id, used), used)
        };
        track.advance(now);
        if aside.is_some() {
            self.count_waiting(now, engine, id);
        }
        self.hot.insert(key, now);
        self.mark(now, id, used.end);
        if let Some(domain) = self.domains.get_mut(&id) {
            of_engine_mut(&mut domain.windows, engine).add(now, time);
        }
        if !self.recorders.is_empty() && used.pieces > 0 {
            let domain = self.domains.get(&id);
            let entry = Entry::Work(Work {
                gpu: self.gpu,
                domid: domain.map_or(0, |domain| domain.domid.into()),
                domain: domain.map(|domain| domain.name.clone()).unwrap_or_default(),
                engine: traced(engine),
                arrived_ns: report.asked_ns.min(used.start),
                start_ns: used.start,
                end_ns: used.end,
                busy_ns: used.busy,
                pieces: used.pieces,
                bytes: used.bytes,
            });
            self.tell(&entry);
        }
    }

    /// Takes off the device what was begun through a gate before it was closed, once it has ended.
    fn settle(&mut self, now: Nanos, key: Key) {
        let Some(channel) = self.channels.get_mut(&key) else {
            return;
        };
        for engine in Engine::ALL {
            if channel.gate.is_open() || !channel.gate.settled(engine) {
                continue;
            }
            let track = of_engine_mut(&mut self.tracks, engine);
            if let Some(number) = track.flight_of(key, None) {
                track.flights.remove(&number);
                // Its reports have been charged.
                track.scheduler.complete(now, number, Used::default());
                track.advance(now);
            }
            let before = track.aside.len();
            track
                .aside
                .retain(|flight| (flight.channel, flight.turn) != (key, None));
            if track.aside.len() != before {
                let lane = of_engine_mut(&mut channel.lanes, engine);
                lane.aside = lane.aside.saturating_sub(1);
                track.advance(now);
                let domain = channel.domain;
                self.count_waiting(now, engine, domain);
                return self.settle(now, key);
            }
        }
    }

    /// What is looked at now and then.
    fn tick(&mut self, now: Nanos) {
        let mut stuck = Vec::new();
        for (key, channel) in &mut self.channels {
            for engine in Engine::ALL {
                let busy = channel.gate.is_open() && !channel.gate.settled(engine);
                let lane = of_engine_mut(&mut channel.lanes, engine);
                match busy && !std::mem::take(&mut lane.moved) {
                    true => {
                        let since = *lane.stuck.get_or_insert(now);
                        if self
                            .longest
                            .is_some_and(|longest| now.saturating_sub(since) > longest)
                        {
                            stuck.push(*key);
                        }
                    }
                    false => lane.stuck = None,
                }
                if busy {
                    self.hot.insert(*key, now);
                }
            }
        }
        for key in stuck {
            self.sentence(key);
        }
        for domain in self.domains.values_mut() {
            let shares = domain.windows.each_mut().map(|window| {
                // At most 1: no more than 1000.
                (window.share(now) * 1000.0).round() as u32
            });
            for channel in domain
                .channels
                .iter()
                .filter_map(|key| self.channels.get(key))
            {
                channel.gate.set_shares(now, shares);
            }
        }
        self.hot
            .retain(|_, last| now.saturating_sub(*last) < SLOW_TICK);
        self.recorders.retain(Recorder::is_taken);
    }

    /// Loses patience with turns that do not end.
    fn judge(&mut self, now: Nanos) {
        for engine in Engine::ALL {
            let track = of_engine_mut(&mut self.tracks, engine);
            track.advance(now);
            let overdue = track
                .flights
                .first_key_value()
                .and_then(|(number, flight)| {
                    let since = flight.first.unwrap_or(flight.granted);
                    (now.saturating_sub(since) >= PATIENCE).then_some(*number)
                });
            if let Some(number) = overdue {
                self.set_aside(now, engine, number);
            }
            let track = of_engine(&self.tracks, engine);
            if let (Some(longest), Some(first)) = (self.longest, track.aside.first())
                && now.saturating_sub(first.first.unwrap_or(first.granted)) > longest
            {
                let key = first.channel;
                self.sentence(key);
            }
        }
    }

    /// When [`Arbiter::judge`] has something to say at the earliest.
    fn next_judgement(&self) -> Nanos {
        let mut next = Nanos::MAX;
        for track in &self.tracks {
            if let Some((_, flight)) = track.flights.first_key_value() {
                let since = flight.first.unwrap_or(flight.granted);
                next = next.min(since.saturating_add(PATIENCE));
            }
            if let (Some(longest), Some(flight)) = (self.longest, track.aside.first()) {
                let sentenced = self
                    .channels
                    .get(&flight.channel)
                    .is_none_or(|channel| channel.sentenced);
                let since = flight.first.unwrap_or(flight.granted);
                if !sentenced {
                    next = next.min(since.saturating_add(longest).saturating_add(1));
                }
            }
        }
        next
    }

    /// Work that does not end no longer keeps others from their turns. It may really hold the device, where
    /// theirs then wait; but whether it does, only its worker knows.
    fn set_aside(&mut self, now: Nanos, engine: Engine, number: u64) {
        let track = of_engine_mut(&mut self.tracks, engine);
        let Some(mut flight) = track.flights.remove(&number) else {
            return;
        };
        let since = flight.first.unwrap_or(flight.granted);
        // Behind another that does not end, it is not its own fault.
        let used = match track.aside.is_empty() {
            true => Used::span(since, now, 0),
            false => Used::default(),
        };
        let time = track.scheduler.complete(now, number, used);
        flight.aside = Some(now);
        flight.first = None;
        let (key, id) = (flight.channel, flight.domain);
        // Its clock is that of the turn where it was the first one's.
        if track.aside.is_empty() {
            flight.first = Some(since);
        }
        track.aside.push(flight);
        track.advance(now);
        if let Some(channel) = self.channels.get_mut(&key) {
            let lane = of_engine_mut(&mut channel.lanes, engine);
            lane.aside = lane.aside.saturating_add(1);
            tracing::debug!(
                gpu = self.gpu,
                channel = channel.number,
                ?engine,
                "a turn does not end"
            );
        }
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.overdue = domain.overdue.saturating_add(1);
            of_engine_mut(&mut domain.windows, engine).add(now, time);
        }
        self.count_waiting(now, engine, id);
    }

    /// A turn whose worker is no more.
    fn give_up(&mut self, now: Nanos, engine: Engine, number: u64) {
        let track = of_engine_mut(&mut self.tracks, engine);
        let Some(flight) = track.flights.remove(&number) else {
            return;
        };
        // What was begun without a turn was charged as far as it was reported.
        let used = match (flight.turn, flight.first) {
            (Some(_), Some(first)) => Used::span(first, now, 0),
            _ => Used::default(),
        };
        let time = track.scheduler.complete(now, number, used);
        track.advance(now);
        if let Some(domain) = self.domains.get_mut(&flight.domain) {
            of_engine_mut(&mut domain.windows, engine).add(now, time);
        }
    }

    /// Ends a channel that keeps the device.
    fn sentence(&mut self, key: Key) {
        let Some(channel) = self.channels.get_mut(&key) else {
            return;
        };
        if std::mem::replace(&mut channel.sentenced, true) {
            return;
        }
        let seconds = self.longest.unwrap_or(0) / SECOND;
        channel.sentence.pass(format!(
            "its work has kept GPU {} for more than {seconds} s (--longest-turn)",
            self.gpu
        ));
    }

    // ------------------------------------------------------------------------------ open or closed

    /// Opens the gates of whoever is alone, and closes them when it no longer is.
    fn steer(&mut self, now: Nanos, tick: bool) {
        if tick || (self.owner.is_some() && self.active.len() > 1) {
            self.prune(now);
        }
        let mut active = self.active.iter();
        let alone = match (active.next(), active.next()) {
            (Some(id), None) => Some(*id),
            (None, _) => self.owner.map(|(owner, _)| owner),
            _ => None,
        };
        let alone = alone.filter(|id| {
            // A cap binds even where nobody else wants the GPU.
            let free = self.domains.get(id).is_some_and(|domain| {
                let cpu = domain.cpu.and_then(|cpu| cpu.cap);
                let capped = self.policy == PolicyKind::XenCredit && cpu.is_some();
                domain.share.cap.is_none() && !capped
            });
            free && self
                .tracks
                .iter()
                .flat_map(|track| track.flights.values().chain(&track.aside))
                .all(|flight| flight.domain == *id)
        });
        match self.owner {
            Some((owner, _)) if Some(owner) == alone => {}
            Some((owner, since)) => {
                self.close(now, owner, since);
                self.open(now, alone);
            }
            None => self.open(now, alone),
        }
    }

    /// Forgets who no longer wants the GPU.
    fn prune(&mut self, now: Nanos) {
        let (domains, channels, tracks) = (&self.domains, &self.channels, &self.tracks);
        self.active.retain(|id| {
            let Some(domain) = domains.get(id) else {
                return false;
            };
            let busy = |channel: &Channel| {
                let waits = channel.lanes.iter().any(|lane| lane.waiting.is_some());
                let works = Engine::ALL
                    .iter()
                    .any(|engine| !channel.gate.settled(*engine));
                waits || works
            };
            now.saturating_sub(domain.active) < ALONE
                || tracks.iter().any(|track| track.has_of(*id))
                || domain
                    .channels
                    .iter()
                    .filter_map(|key| channels.get(key))
                    .any(busy)
        });
    }

    fn open(&mut self, now: Nanos, id: Option<DomainId>) {
        let Some((id, domain)) = id.and_then(|id| Some((id, self.domains.get(&id)?))) else {
            return;
        };
        for key in &domain.channels {
            let Some(channel) = self.channels.get_mut(key) else {
                continue;
            };
            channel.gate.open();
            // What it began before the gate was last closed is again nobody's affair.
            for engine in Engine::ALL {
                let track = of_engine_mut(&mut self.tracks, engine);
                if let Some(number) = track.flight_of(*key, None) {
                    track.flights.remove(&number);
                    track.scheduler.complete(now, number, Used::default());
                }
                let before = track.aside.len();
                track
                    .aside
                    .retain(|flight| (flight.channel, flight.turn) != (*key, None));
                let lane = of_engine_mut(&mut channel.lanes, engine);
                let gone = before.saturating_sub(track.aside.len()) as u32;
                lane.aside = lane.aside.saturating_sub(gone);
                track.advance(now);
            }
            self.hot.insert(*key, now);
        }
        self.owner = Some((id, now));
        self.ticked = now;
    }

    fn close(&mut self, now: Nanos, id: DomainId, since: Nanos) {
        self.owner = None;
        let Some(domain) = self.domains.get_mut(&id) else {
            return;
        };
        domain.alone = domain.alone.saturating_add(now.saturating_sub(since));
        let keys: Vec<Key> = domain.channels.iter().copied().collect();
        let mut reports = Vec::new();
        for key in &keys {
            if let Some(channel) = self.channels.get_mut(key) {
                channel.gate.close();
            }
            self.drain(now, *key, &mut reports);
        }
        self.book(now, reports);
        for key in keys {
            let Some(channel) = self.channels.get(&key) else {
                continue;
            };
            for engine in Engine::ALL {
                if channel.gate.settled(engine) {
                    continue;
                }
                let track = of_engine_mut(&mut self.tracks, engine);
                let number = track.scheduler.foreign(now, id, QUANTUM);
                let flight = Flight {
                    channel: key,
                    domain: id,
                    turn: None,
                    granted: now,
                    first: None,
                    aside: None,
                };
                track.flights.insert(number, flight);
                track.advance(now);
            }
        }
    }

    // ------------------------------------------------------------------------------ turns

    /// Lets on whom the engine's scheduler picks. When it wants to be asked again.
    fn decide(&mut self, now: Nanos, engine: Engine) -> Nanos {
        // Each grant takes an ask away, so that it ends.
        loop {
            let track = of_engine_mut(&mut self.tracks, engine);
            let decision = match track.held.take() {
                Some(grant) => Decision::Run(grant),
                None => track.scheduler.decide(now),
            };
            match decision {
                Decision::Run(grant) if self.all_entered(engine) => self.grant(now, engine, grant),
                Decision::Run(grant) => {
                    of_engine_mut(&mut self.tracks, engine).held = Some(grant);
                    return now.saturating_add(LOOK);
                }
                Decision::At(at) => return at.max(now.saturating_add(PAUSE)),
                Decision::Idle => return Nanos::MAX,
            }
        }
    }

    /// Whether the device has all that was let on an engine, but for what was set aside.
    fn all_entered(&self, engine: Engine) -> bool {
        of_engine(&self.tracks, engine)
            .flights
            .values()
            .all(|flight| {
                let channel = self.channels.get(&flight.channel);
                channel.is_none_or(|channel| channel.gate.has_entered(engine, flight.turn))
            })
    }

    fn grant(&mut self, now: Nanos, engine: Engine, grant: Grant) {
        let Some(domain) = self.domains.get(&grant.id) else {
            return;
        };
        let oldest = domain
            .channels
            .iter()
            .filter_map(|key| {
                let lane = of_engine(&self.channels.get(key)?.lanes, engine);
                let waiting = lane.waiting.filter(|_| lane.aside == 0)?;
                Some((waiting.since, *key))
            })
            .min();
        let track = of_engine_mut(&mut self.tracks, engine);
        let channel = oldest.and_then(|(_, key)| Some((key, self.channels.get_mut(&key)?)));
        let Some((key, channel)) = channel else {
            // Its work is gone.
            track.scheduler.complete(now, grant.number, Used::default());
            self.count_waiting(now, engine, grant.id);
            return;
        };
        let pieces = match grant.turn {
            UNBOUNDED => grant.pieces,
            _ => 0,
        };
        let turn = channel.gate.grant(engine, grant.turn, pieces);
        of_engine_mut(&mut channel.lanes, engine).waiting = None;
        let flight = Flight {
            channel: key,
            domain: grant.id,
            turn: Some(turn.number),
            granted: now,
            first: None,
            aside: None,
        };
        track.flights.insert(grant.number, flight);
        track.advance(now);
        // What the channel has beyond this turn it asks for again.
        self.count_waiting(now, engine, grant.id);
    }

    // ------------------------------------------------------------------------------ what is told

    /// Begins to tell a recorder.
    pub fn record(&mut self, now: Nanos, recorder: Recorder) {
        self.recorders.push(recorder);
        for id in self.domains.keys().copied().collect::<Vec<_>>() {
            self.tell_share(now, id);
            self.tell_cpu(now, id);
        }
    }

    fn tell_cpu(&mut self, now: Nanos, id: DomainId) {
        if let Some(domain) = self.domains.get(&id)
            && let Some(state) = domain.cpu
        {
            self.tell(&Entry::Cpu {
                at_ns: now,
                domid: domain.domid.into(),
                state,
            });
        }
    }

    fn tell_share(&mut self, now: Nanos, id: DomainId) {
        if let Some(domain) = self.domains.get(&id) {
            let entry = Entry::Share {
                at_ns: now,
                gpu: self.gpu,
                domid: domain.domid.into(),
                domain: domain.name.clone(),
                share: domain.share,
            };
            self.tell(&entry);
        }
    }

    fn tell(&mut self, entry: &Entry) {
        for recorder in &self.recorders {
            recorder.record(entry);
        }
    }

    /// What each domain has had.
    pub fn stats(&mut self, now: Nanos) -> GpuStats {
        // What was not rung for.
        let keys: Vec<Key> = self.channels.keys().copied().collect();
        let mut reports = Vec::new();
        for key in keys {
            self.drain(now, key, &mut reports);
        }
        self.book(now, reports);
        let blind = self.policy.needs_hypervisor() && !self.cpu_known;
        let lacks = match blind && !self.ids.is_empty() {
            true => format!(
                "{} needs what the hypervisor says of domains' processors, and it does not say",
                self.policy
            ),
            false => String::new(),
        };
        let [compute, copy] = &self.tracks;
        let mut domains = Vec::with_capacity(self.ids.len());
        for (domid, id) in &self.ids {
            let Some(domain) = self.domains.get_mut(id) else {
                continue;
            };
            let kernels = compute.scheduler.account(*id).unwrap_or_default();
            let copies = copy.scheduler.account(*id).unwrap_or_default();
            let waiting = compute.scheduler.waiting(*id).into();
            let alone = match self.owner {
                Some((owner, since)) if owner == *id => now.saturating_sub(since),
                _ => 0,
            };
            let [kernel_window, copy_window] = &mut domain.windows;
            domains.push(DomainStats {
                domid: *domid,
                domain: domain.name.clone(),
                weight: domain.share.weight,
                cap: domain.share.cap,
                latency_ns: domain.share.latency,
                channels: domain.channels.len() as u32,
                kernel_ns: kernels.kernels,
                copy_ns: copies.copies,
                kernel_share: kernel_window.share(now),
                copy_share: copy_window.share(now),
                kernel_waited_ns: kernels.waited,
                copy_waited_ns: copies.waited,
                launches: kernels.launches,
                copies: copies.transfers,
                bytes: copies.bytes,
                kernel_turns: kernels.turns,
                copy_turns: copies.turns,
                waiting: u64::saturating_add(waiting, copy.scheduler.waiting(*id).into()),
                alone_ns: domain.alone.saturating_add(alone),
                overdue: domain.overdue,
                ..DomainStats::default()
            });
        }
        let owner = self.owner.and_then(|(owner, _)| self.domains.get(&owner));
        GpuStats {
            gpu: self.gpu,
            name: self.name.clone(),
            policy: self.policy.name().to_owned(),
            lacks,
            elapsed_ns: now.saturating_sub(self.started),
            kernel_ns: compute.scheduler.busy(),
            copy_ns: copy.scheduler.busy(),
            alone: owner.map(|domain| domain.domid),
            domains,
            ..GpuStats::default()
        }
    }

    /// Lets everybody go: nobody is left waiting by a thread that ends.
    pub fn release(&mut self) {
        for channel in self.channels.values_mut() {
            channel.gate.open();
            for engine in Engine::ALL {
                if channel.gate.asked(engine).is_some() {
                    channel.gate.grant(engine, UNBOUNDED, 0);
                }
            }
        }
    }
}
