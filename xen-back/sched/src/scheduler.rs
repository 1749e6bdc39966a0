//! One accelerator: who is on it, who waits, what each has had, and whose cap is reached. It asks the policy
//! whom to let on, and bounds what is in flight so that a newcomer waits at most for the longest piece of
//! work and one turn. It must never lose a grant: each ends in [`Scheduler::complete`] or with its domain.

use std::collections::{BTreeMap, BTreeSet};

use crate::account::Timeline;
use crate::policy::Table;
use crate::{
    Account, CpuState, DomainId, MICROSECOND, MILLISECOND, Nanos, Pick, Policy, PolicyKind, Share,
};

/// How a device is driven, the same under every policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The next is let on so long before the device is expected to be idle: what it takes to tell it.
    pub lead: Nanos,
    /// Caps hold over any time of about this length.
    pub cap_window: Nanos,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lead: 200 * MICROSECOND,
            cap_window: 100 * MILLISECOND,
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
    /// How many of its waiting pieces of work, oldest first; at least one.
    pub pieces: u32,
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

/// What was used of a device by one grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// When its first piece could start.
    pub start: Nanos,
    /// When its last piece had ended.
    pub end: Nanos,
    /// Bytes that its copies moved.
    pub bytes: u64,
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
    account: Account,
    waiting: u32,
    /// Grants that have not ended.
    on_device: u32,
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
}

#[derive(Debug)]
struct InFlight {
    id: DomainId,
    pieces: u32,
    estimate: Nanos,
}

/// One accelerator.
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
}

impl Scheduler {
    /// An accelerator that nobody uses yet.
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
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> PolicyKind {
        self.policy.kind()
    }

    /// Puts another policy in force. What waits and what is in flight stays.
    pub fn switch(&mut self, now: Nanos, mut policy: Box<dyn Policy>) {
        for (id, domain) in self.domains.iter() {
            policy.insert(now, id, domain.share);
            for _ in 0..domain.waiting {
                policy.arrived(now, id);
            }
            if domain.ready {
                policy.ready(now, id);
            }
        }
        self.policy = policy;
    }

    /// A domain comes.
    pub fn insert(&mut self, now: Nanos, id: DomainId, share: Share) {
        self.remove(now, id);
        let domain = Domain {
            share,
            account: Account::default(),
            waiting: 0,
            on_device: 0,
            ready: false,
            waits_since: None,
            piece: None,
            tokens: 0,
            filled: now,
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
        self.policy.cpu(now, id, state);
    }

    /// A domain goes; what it has in flight ends with it.
    pub fn remove(&mut self, now: Nanos, id: DomainId) {
        if self.domains.remove(id).is_some() {
            self.policy.remove(now, id);
            self.capped.retain(|&(_, capped)| capped != id);
            self.in_flight.retain(|_, flight| flight.id != id);
        }
    }

    /// What a domain has had.
    pub fn account(&self, id: DomainId) -> Option<Account> {
        self.domains.get(id).map(|domain| domain.account)
    }

    /// Time in which the device has had work.
    pub fn busy(&self) -> Nanos {
        self.timeline.busy
    }

    /// Pieces of work that wait.
    pub fn waiting(&self, id: DomainId) -> u32 {
        self.domains.get(id).map_or(0, |domain| domain.waiting)
    }

    /// A piece of work arrived.
    pub fn arrived(&mut self, now: Nanos, id: DomainId) {
        let Some(domain) = self.domains.get_mut(id) else {
            return;
        };
        domain.waiting = domain.waiting.saturating_add(1);
        if domain.waiting == 1 && domain.on_device == 0 {
            domain.waits_since = Some(now);
        }
        self.policy.arrived(now, id);
        self.judge(now, id);
    }

    /// Whom to let on now.
    pub fn decide(&mut self, now: Nanos) -> Decision {
        while let Some(&(until, id)) = self.capped.first() {
            if until > now {
                break;
            }
            self.capped.pop_first();
            self.judge(now, id);
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
        let (id, turn) = match self.policy.pick(now, idle) {
            Pick::Run { id, turn } => (id, turn),
            Pick::Wait { until } => return Decision::At(until.min(self.next_uncapped())),
            Pick::Nobody if self.capped.is_empty() => return Decision::Idle,
            Pick::Nobody => return Decision::At(self.next_uncapped()),
        };
        let Some(domain) = self.domains.get_mut(id).filter(|domain| domain.waiting > 0) else {
            return Decision::Idle;
        };
        let piece = domain.piece.unwrap_or(turn).max(1);
        let fit = u32::try_from(turn / piece).unwrap_or(u32::MAX);
        let pieces = fit.clamp(1, domain.waiting);
        let estimate = piece.saturating_mul(pieces.into());
        domain.waiting -= pieces;
        domain.on_device += 1;
        domain.account.turns += 1;
        if let Some(since) = domain.waits_since.take() {
            domain.account.waited += now.saturating_sub(since);
        }
        self.policy.granted(now, id, estimate, pieces);
        self.expected_end = self.expected_end.max(now).saturating_add(estimate);
        let number = self.next;
        self.next += 1;
        let flight = InFlight {
            id,
            pieces,
            estimate,
        };
        self.in_flight.insert(number, flight);
        self.judge(now, id);
        Decision::Run(Grant { number, id, pieces })
    }

    /// A grant's work has ended. Grants of one device end in the order in which their work did. The device
    /// time charged; 0 for a grant that ended with its domain.
    pub fn complete(&mut self, now: Nanos, number: u64, used: Used) -> Nanos {
        let Some(flight) = self.in_flight.remove(&number) else {
            return 0;
        };
        let time = self.timeline.attribute(used.start, used.end.min(now));
        // What follows starts now, whatever was expected.
        let rest: Nanos = self.in_flight.values().map(|flight| flight.estimate).sum();
        self.expected_end = now.saturating_add(rest);
        self.fill(now, flight.id);
        if let Some(domain) = self.domains.get_mut(flight.id) {
            domain.account.kernels += time;
            domain.account.launches += u64::from(flight.pieces);
            domain.account.bytes += used.bytes;
            domain.on_device = domain.on_device.saturating_sub(1);
            domain.tokens -= i128::from(time) * 100;
            let piece = time / Nanos::from(flight.pieces.max(1));
            let usual = domain.piece.unwrap_or(piece);
            domain.piece = Some((usual * 3 + piece) / 4);
            if domain.waiting > 0 && domain.on_device == 0 {
                domain.waits_since = Some(now);
            }
        }
        self.policy.charged(now, flight.id, flight.estimate, time);
        self.judge(now, flight.id);
        time
    }

    fn next_uncapped(&self) -> Nanos {
        self.capped.first().map_or(Nanos::MAX, |&(until, _)| until)
    }

    /// Gives a domain the device time that its cap allows since the last time.
    fn fill(&mut self, now: Nanos, id: DomainId) {
        let window = i128::from(self.settings.cap_window);
        if let Some(domain) = self.domains.get_mut(id) {
            let since = i128::from(now.saturating_sub(domain.filled));
            domain.filled = now;
            if let Some(cap) = domain.share.cap {
                let cap = i128::from(cap);
                domain.tokens = (domain.tokens + since * cap).min(window * cap);
            } else {
                domain.tokens = 0;
            }
        }
    }

    /// Tells the policy whether a domain is ready, as its work and its cap have it.
    fn judge(&mut self, now: Nanos, id: DomainId) {
        self.fill(now, id);
        let Some(domain) = self.domains.get_mut(id) else {
            return;
        };
        let within = match domain.share.cap {
            Some(cap) if domain.tokens < 0 => {
                if domain.waiting > 0 && cap > 0 {
                    let rest = u64::try_from(-domain.tokens).unwrap_or(u64::MAX);
                    let wait = rest.div_ceil(cap.into());
                    self.capped.insert((now.saturating_add(wait), id));
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
