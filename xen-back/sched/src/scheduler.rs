//! One engine of an accelerator: who is on it, who waits, what each has had, and whose cap is reached. It asks
//! the policy whom to let on, and bounds what is in flight so that a newcomer waits at most for the longest
//! piece of work and one turn. It must never lose a grant: each ends in [`Scheduler::complete`] or with its
//! domain.

use std::collections::{BTreeMap, BTreeSet};

use crate::account::Timeline;
use crate::policy::{TURN, Table};
use crate::{
    Account, CpuState, DomainId, Engine, MICROSECOND, MILLISECOND, Nanos, Pick, Policy, PolicyKind,
    Share,
};

/// How a device is driven, the same under every policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Which account device time goes to.
    pub engine: Engine,
    /// The next is let on so long before the device is expected to be idle: what it takes to tell it.
    pub lead: Nanos,
    /// What a capped domain did not use in so much time it may catch up with: in any time T, a domain has at
    /// most cap · (T + `cap_burst`) and one turn or piece of work, whichever is longer.
    pub cap_burst: Nanos,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            engine: Engine::Compute,
            lead: 400 * MICROSECOND,
            cap_burst: 20 * MILLISECOND,
        }
    }
}

/// Whom to let on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Names it in [`Scheduler::complete`].
    pub number: u64,
    /// The domain.
    pub id: DomainId,
    /// How many of its waiting pieces of work, oldest first, this takes: at least one. As many as are expected
    /// to fit into `turn`; whoever knows better how long each takes goes by `turn`, but one always goes.
    /// Where `turn` is unbounded this is the bound.
    pub pieces: u32,
    /// The device time that it may use; [`Nanos::MAX`] if only `pieces` bounds it.
    pub turn: Nanos,
    /// What it is expected to take.
    pub estimate: Nanos,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Let this on, then ask again.
    Run(Grant),
    /// Ask again at this time, or when something happens.
    At(Nanos),
    /// Ask again when something happens.
    Idle,
}

impl Decision {
    fn at(when: Nanos) -> Self {
        match when {
            Nanos::MAX => Self::Idle,
            when => Self::At(when),
        }
    }
}

/// What was used of a device by one grant, or without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// When its first piece could start.
    pub start: Nanos,
    /// When its last piece had ended.
    pub end: Nanos,
    /// How much of that time it kept the device busy.
    pub busy: Nanos,
    /// Pieces of work that really ran; a grant may be used for fewer or more than expected.
    pub pieces: u32,
    /// Bytes that its copies moved.
    pub bytes: u64,
}

impl Used {
    /// So many pieces, one right after the other.
    pub fn span(start: Nanos, end: Nanos, pieces: u32) -> Self {
        Self {
            start,
            end,
            busy: end.saturating_sub(start),
            pieces,
            bytes: 0,
        }
    }
}

/// The bounds of one domain beside its share; for the caller to enforce where allocations and launches are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Bytes of device memory.
    pub memory: Option<u64>,
    /// Channels, that is processes.
    pub channels: Option<u32>,
    /// Bytes of the guest's memory mapped.
    pub mapped: Option<u64>,
    /// Launches in flight.
    pub launches: Option<u32>,
}

#[derive(Debug)]
struct Domain {
    share: Share,
    cpu: Option<CpuState>,
    account: Account,
    waiting: u32,
    /// Grants that have not ended, and what they are expected to take.
    on_device: u32,
    expected: Nanos,
    /// The policy counts it as ready.
    ready: bool,
    /// Since when it has waited with nothing on the device.
    waits_since: Option<Nanos>,
    /// What a piece of its work usually takes.
    piece: Option<Nanos>,
    /// Device time that its cap still allows, in hundredths of nanoseconds so that no fraction is lost, as
    /// of `filled`; negative is debt.
    tokens: i128,
    filled: Nanos,
    /// Its place among those over their caps.
    capped: Option<Nanos>,
}

impl Domain {
    /// The most of the device that it may have, in percent: its own cap, or the hypervisor's if the policy goes by
    /// that and it is less.
    fn cap(&self, follows_hypervisor: bool) -> Option<u32> {
        let cpu = self
            .cpu
            .filter(|_| follows_hypervisor)
            .and_then(|cpu| cpu.cap);
        // Xen's 0 is no cap; above 100 it is more than one processor.
        let cpu = cpu.filter(|cap| (1..100).contains(cap));
        self.share.cap.into_iter().chain(cpu).min()
    }

    /// What its cap allows beyond what it has on the device, in hundredths of nanoseconds.
    fn allowed(&self) -> i128 {
        self.tokens - i128::from(self.expected) * 100
    }
}

#[derive(Debug)]
struct InFlight {
    id: DomainId,
    estimate: Nanos,
}

/// One engine of an accelerator.
#[derive(Debug)]
pub struct Scheduler {
    policy: Box<dyn Policy>,
    settings: Settings,
    domains: Table<Domain>,
    in_flight: BTreeMap<u64, InFlight>,
    /// When what is in flight is expected to have ended.
    expected_end: Nanos,
    timeline: Timeline,
    next: u64,
    /// Domains over their caps, by when they may go on.
    capped: BTreeSet<(Nanos, DomainId)>,
    /// Since when the idle device is kept for somebody, and for how long it has been.
    holding: Option<Nanos>,
    held: Nanos,
}

impl Scheduler {
    /// An engine that nobody uses yet.
    pub fn new(policy: Box<dyn Policy>, settings: Settings) -> Self {
        Self {
            policy,
            settings,
            domains: Table::default(),
            in_flight: BTreeMap::new(),
            expected_end: 0,
            timeline: Timeline::default(),
            next: 0,
            capped: BTreeSet::new(),
            holding: None,
            held: 0,
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> PolicyKind {
        self.policy.kind()
    }

    /// How the engine is driven.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Puts another policy in force. What waits and what is in flight stays.
    pub fn switch(&mut self, now: Nanos, mut policy: Box<dyn Policy>) {
        for (id, domain) in self.domains.iter() {
            policy.insert(now, id, domain.share);
            if let Some(state) = domain.cpu {
                policy.cpu(now, id, state);
            }
            if domain.waiting > 0 {
                policy.arrived(now, id, domain.waiting);
            }
            if domain.ready {
                policy.ready(now, id);
            }
        }
        for flight in self.in_flight.values() {
            policy.granted(now, flight.id, flight.estimate, 0);
        }
        self.policy = policy;
        let domains: Vec<_> = self.domains.iter().map(|(id, _)| id).collect();
        for id in domains {
            // The hypervisor's cap may now count, or no longer.
            self.judge(now, id);
        }
    }

    /// A domain comes.
    pub fn insert(&mut self, now: Nanos, id: DomainId, share: Share) {
        self.remove(now, id);
        let domain = Domain {
            share,
            cpu: None,
            account: Account::default(),
            waiting: 0,
            on_device: 0,
            expected: 0,
            ready: false,
            waits_since: None,
            piece: None,
            tokens: 0,
            filled: now,
            capped: None,
        };
        self.domains.insert(id, domain);
        self.policy.insert(now, id, share);
    }

    /// A domain's share changes.
    pub fn update(&mut self, now: Nanos, id: DomainId, share: Share) {
        self.fill(now, id);
        if let Some(domain) = self.domains.get_mut(id) {
            domain.share = share;
            self.policy.update(now, id, share);
            self.judge(now, id);
        }
    }

    /// What the hypervisor says of a domain.
    pub fn cpu(&mut self, now: Nanos, id: DomainId, state: CpuState) {
        self.fill(now, id);
        if let Some(domain) = self.domains.get_mut(id) {
            domain.cpu = Some(state);
            self.policy.cpu(now, id, state);
            self.judge(now, id);
        }
    }

    /// A domain goes; what it has in flight ends with it, uncharged.
    pub fn remove(&mut self, now: Nanos, id: DomainId) {
        if let Some(domain) = self.domains.remove(id) {
            self.policy.remove(now, id);
            if let Some(until) = domain.capped {
                self.capped.remove(&(until, id));
            }
        }
        self.in_flight.retain(|_, flight| flight.id != id);
    }

    /// What a domain has had.
    pub fn account(&self, id: DomainId) -> Option<Account> {
        self.domains.get(id).map(|domain| domain.account)
    }

    /// What a domain is entitled to.
    pub fn share(&self, id: DomainId) -> Option<Share> {
        self.domains.get(id).map(|domain| domain.share)
    }

    /// Time in which the device has had work.
    pub fn busy(&self) -> Nanos {
        self.timeline.busy
    }

    /// Time for which the device was kept idle on purpose, for somebody whom the policy expected back soon,
    /// although others had work: what the policy's waits cost.
    pub fn held(&self, now: Nanos) -> Nanos {
        let since = self.holding.unwrap_or(now);
        self.held + now.saturating_sub(since)
    }

    /// Pieces of work of a domain that wait.
    pub fn waiting(&self, id: DomainId) -> u32 {
        self.domains.get(id).map_or(0, |domain| domain.waiting)
    }

    /// Whether anything is in flight.
    pub fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// So many more pieces of work wait.
    pub fn arrived(&mut self, now: Nanos, id: DomainId, pieces: u32) {
        let Some(domain) = self.domains.get_mut(id).filter(|_| pieces > 0) else {
            return;
        };
        let pieces = pieces.min(u32::MAX - domain.waiting);
        domain.waiting += pieces;
        if domain.on_device == 0 {
            domain.waits_since.get_or_insert(now);
        }
        self.policy.arrived(now, id, pieces);
        self.judge(now, id);
    }

    /// So many pieces of work, the youngest, do not wait any more: they went without a grant or never were.
    pub fn withdraw(&mut self, now: Nanos, id: DomainId, pieces: u32) {
        let Some(domain) = self.domains.get_mut(id) else {
            return;
        };
        let pieces = pieces.min(domain.waiting);
        if pieces == 0 {
            return;
        }
        domain.waiting -= pieces;
        if domain.waiting == 0
            && let Some(since) = domain.waits_since.take()
        {
            domain.account.waited += now.saturating_sub(since);
        }
        self.policy.withdrawn(now, id, pieces);
        self.judge(now, id);
    }

    /// As many pieces of work wait as this says: [`Scheduler::arrived`] or [`Scheduler::withdraw`] for a
    /// caller that knows the sum.
    pub fn set_waiting(&mut self, now: Nanos, id: DomainId, pieces: u32) {
        let waiting = self.waiting(id);
        match pieces.checked_sub(waiting) {
            Some(more) => self.arrived(now, id, more),
            None => self.withdraw(now, id, waiting - pieces),
        }
    }

    /// Whom to let on now.
    pub fn decide(&mut self, now: Nanos) -> Decision {
        while let Some(&(until, id)) = self.capped.first() {
            if until > now {
                break;
            }
            self.judge(now, id);
        }
        if let Some(since) = self.holding.take() {
            self.held += now.saturating_sub(since);
        }
        let idle = self.in_flight.is_empty();
        let from = self.expected_end.saturating_sub(self.settings.lead);
        if !idle && now < from {
            return Decision::At(from);
        }
        // Beyond the running one, one is told early. Never more: a newcomer would wait for all of them.
        if self.in_flight.len() > 1 {
            return Decision::Idle;
        }
        let (id, turn, most) = match self.policy.pick(now, idle) {
            Pick::Run { id, turn, pieces } => (id, turn, pieces.unwrap_or(u32::MAX)),
            Pick::Wait { until } => {
                self.holding = idle.then_some(now);
                return Decision::at(until.min(self.next_uncapped()));
            }
            Pick::Nobody => return Decision::at(self.next_uncapped()),
        };
        let Some(domain) = self.domains.get_mut(id).filter(|domain| domain.waiting > 0) else {
            return Decision::Idle;
        };
        let turn = match domain.cap(self.policy.follows_hypervisor_caps()) {
            Some(_) => {
                turn.min(u64::try_from(domain.allowed() / 100).map_or(TURN, |rest| rest.max(TURN)))
            }
            None => turn,
        };
        let piece = domain.piece.unwrap_or(TURN).max(1);
        let fit = u32::try_from(turn / piece).unwrap_or(u32::MAX);
        let pieces = fit.min(most).clamp(1, domain.waiting);
        let estimate = piece.saturating_mul(pieces.into());
        domain.waiting -= pieces;
        domain.account.turns += 1;
        let number = self.put_on(now, id, estimate, pieces);
        Decision::Run(Grant {
            number,
            id,
            pieces,
            turn,
            estimate,
        })
    }

    /// The device is busy with work that a domain began without a grant, expected to take so long. It ends in
    /// [`Scheduler::complete`] with the number returned, as a grant does.
    pub fn foreign(&mut self, now: Nanos, id: DomainId, estimate: Nanos) -> u64 {
        self.put_on(now, id, estimate, 0)
    }

    fn put_on(&mut self, now: Nanos, id: DomainId, estimate: Nanos, pieces: u32) -> u64 {
        if let Some(domain) = self.domains.get_mut(id) {
            domain.on_device += 1;
            domain.expected = domain.expected.saturating_add(estimate);
            if let Some(since) = domain.waits_since.take() {
                domain.account.waited += now.saturating_sub(since);
            }
        }
        self.policy.granted(now, id, estimate, pieces);
        self.expected_end = self.expected_end.max(now).saturating_add(estimate);
        let number = self.next;
        self.next += 1;
        self.in_flight.insert(number, InFlight { id, estimate });
        self.judge(now, id);
        number
    }

    /// A grant's work has ended. Grants of one engine end in the order in which their work did. Pieces that
    /// it was for and that did not run are no longer counted as waiting; if they do wait, the caller says
    /// so. Returns the device time charged; 0 for a grant that ended with its domain.
    pub fn complete(&mut self, now: Nanos, number: u64, used: Used) -> Nanos {
        let Some(flight) = self.in_flight.remove(&number) else {
            return 0;
        };
        let time = self.book(now, flight.id, used);
        // What follows starts now, whatever was expected.
        self.expected_end =
            (self.in_flight.values()).fold(now, |end, flight| end.saturating_add(flight.estimate));
        if let Some(domain) = self.domains.get_mut(flight.id) {
            domain.on_device = domain.on_device.saturating_sub(1);
            domain.expected = domain.expected.saturating_sub(flight.estimate);
            if domain.waiting > 0 && domain.on_device == 0 {
                domain.waits_since = Some(now);
            }
        }
        self.policy.charged(now, flight.id, flight.estimate, time);
        self.judge(now, flight.id);
        time
    }

    /// A domain's work went without a grant and has ended: it is charged all the same, and owes what it took.
    /// Returns the device time charged.
    pub fn charge(&mut self, now: Nanos, id: DomainId, used: Used) -> Nanos {
        if self.domains.get(id).is_none() {
            return 0;
        }
        let time = self.book(now, id, used);
        self.policy.owed(now, id, time);
        self.judge(now, id);
        time
    }

    /// Attributes device time and writes it to the domain's account and against its cap.
    fn book(&mut self, now: Nanos, id: DomainId, used: Used) -> Nanos {
        let time = self
            .timeline
            .attribute(used.start, used.end.min(now), used.busy);
        self.fill(now, id);
        if let Some(domain) = self.domains.get_mut(id) {
            let (kernels, copies) = match self.settings.engine {
                Engine::Compute => (time, 0),
                Engine::Copy => (0, time),
            };
            let (launches, transfers) = match self.settings.engine {
                Engine::Compute => (used.pieces, 0),
                Engine::Copy => (0, used.pieces),
            };
            domain.account += Account {
                kernels,
                copies,
                launches: launches.into(),
                transfers: transfers.into(),
                bytes: used.bytes,
                ..Account::default()
            };
            domain.tokens -= i128::from(time) * 100;
            if used.pieces > 0 {
                let piece = time / Nanos::from(used.pieces);
                let usual = domain.piece.unwrap_or(piece);
                domain.piece = Some((usual * 3 + piece) / 4);
            }
        }
        time
    }

    fn next_uncapped(&self) -> Nanos {
        self.capped.first().map_or(Nanos::MAX, |&(until, _)| until)
    }

    /// Gives a domain the device time that its cap allows since the last time.
    fn fill(&mut self, now: Nanos, id: DomainId) {
        let burst = i128::from(self.settings.cap_burst);
        let follows = self.policy.follows_hypervisor_caps();
        if let Some(domain) = self.domains.get_mut(id) {
            let since = i128::from(now.saturating_sub(domain.filled));
            domain.filled = now;
            if let Some(cap) = domain.cap(follows) {
                let cap = i128::from(cap);
                domain.tokens = (domain.tokens + since * cap).min(burst * cap);
            } else {
                domain.tokens = 0;
            }
        }
    }

    /// Tells the policy whether a domain is ready, as its work and its cap have it.
    fn judge(&mut self, now: Nanos, id: DomainId) {
        self.fill(now, id);
        let follows = self.policy.follows_hypervisor_caps();
        let Some(domain) = self.domains.get_mut(id) else {
            return;
        };
        if let Some(until) = domain.capped.take() {
            self.capped.remove(&(until, id));
        }
        let within = match domain.cap(follows) {
            Some(cap) if domain.allowed() < 0 => {
                if domain.waiting > 0 && cap > 0 {
                    let rest = u64::try_from(-domain.allowed()).unwrap_or(u64::MAX);
                    let until = now.saturating_add(rest.div_ceil(cap.into()));
                    domain.capped = Some(until);
                    self.capped.insert((until, id));
                }
                false
            }
            Some(cap) => cap > 0,
            None => true,
        };
        let ready = within && domain.waiting > 0;
        if ready != std::mem::replace(&mut domain.ready, ready) {
            match ready {
                true => self.policy.ready(now, id),
                false => self.policy.unready(now, id),
            }
        }
    }
}
