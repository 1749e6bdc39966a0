//! What must hold for any load, under any policy: conservation, caps, no starvation, bounded waits; and the lag bound
//! of `fair`. Bounds are checked over every interval of time, not only over windows.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vgpu_sched::policy::{BORROW, RETURN, WAIT_PART, WAIT_SAVED};
use vgpu_sched::sim::{Arrivals, Distribution, Experiment, Ran, Results, Workload, run};
use vgpu_sched::{MICROSECOND, MILLISECOND, Nanos, PolicyKind, SECOND, Settings, Share};

const DURATION: Nanos = 2 * SECOND;
const WINDOW: Nanos = 100 * MILLISECOND;

fn experiment(policy: PolicyKind, domains: &[Workload], seed: u64) -> Experiment {
    Experiment {
        window: WINDOW,
        record: true,
        seed,
        ..Experiment::new(policy, domains.to_vec(), DURATION)
    }
}

fn policies() -> impl Strategy<Value = PolicyKind> {
    prop::sample::select(PolicyKind::ALL.to_vec())
}

fn distributions() -> impl Strategy<Value = Distribution> {
    prop_oneof![
        (50 * MICROSECOND..20 * MILLISECOND).prop_map(Distribution::Constant),
        (50 * MICROSECOND..MILLISECOND, MILLISECOND..20 * MILLISECOND)
            .prop_map(|(low, high)| Distribution::Uniform(low, high)),
        (100 * MICROSECOND..5 * MILLISECOND).prop_map(Distribution::Exponential),
    ]
}

fn shares() -> impl Strategy<Value = Share> {
    let cap = prop::option::weighted(0.2, 1..100_u32);
    let latency = prop::option::weighted(0.3, MILLISECOND..50 * MILLISECOND);
    (1..2000_u32, cap, latency).prop_map(|(weight, cap, latency)| Share {
        weight,
        cap,
        latency,
    })
}

/// Domains of every kind, that come and go and are given other shares.
fn workloads() -> impl Strategy<Value = Workload> {
    let think = prop_oneof![Just(0), 0..2 * MILLISECOND];
    let arrivals = prop_oneof![
        (1..5_u32, think).prop_map(|(depth, think)| Arrivals::Closed {
            depth,
            think: Distribution::Exponential(think)
        }),
        (MILLISECOND..50 * MILLISECOND).prop_map(|every| Arrivals::Open {
            every: Distribution::Exponential(every)
        }),
    ];
    let changes = prop::collection::vec((0..DURATION, shares()), 0..3);
    let stay = prop_oneof![4 => Just(Nanos::MAX), 1 => 0..DURATION];
    (
        distributions(),
        arrivals,
        shares(),
        0..DURATION / 2,
        stay,
        changes,
    )
        .prop_map(|(piece, arrivals, share, from, stay, mut shares)| {
            shares.sort_by_key(|&(when, _)| when);
            Workload {
                share,
                piece,
                arrivals,
                from,
                until: from.saturating_add(stay),
                shares,
                ..Workload::busy(0)
            }
        })
}

fn plain(mut domains: Vec<Workload>) -> Vec<Workload> {
    for domain in &mut domains {
        domain.share.cap = None;
        domain.shares.clear();
    }
    domains
}

/// What a domain had of its device up to any moment.
struct Service {
    /// Start and end of each piece, and what it had before.
    pieces: Vec<(Nanos, Nanos, Nanos)>,
}

impl Service {
    fn of(ran: &[Ran], domain: u32) -> Self {
        let mut before = 0;
        let pieces = ran.iter().filter(|ran| ran.domain == domain);
        let pieces = pieces.map(|ran| {
            let piece = (ran.start, ran.end, before);
            before += ran.end - ran.start;
            piece
        });
        Self {
            pieces: pieces.collect(),
        }
    }

    fn until(&self, time: Nanos) -> Nanos {
        let next = self.pieces.partition_point(|&(start, ..)| start <= time);
        match next.checked_sub(1).map(|last| self.pieces[last]) {
            Some((start, end, before)) => before + time.min(end) - start,
            None => 0,
        }
    }

    /// The moments from and to these at which it begins or ends to be served.
    fn moments(&self, from: Nanos, to: Nanos) -> impl Iterator<Item = Nanos> {
        let first = self.pieces.partition_point(|&(_, end, _)| end < from);
        let pieces = self.pieces[first..].iter();
        let pieces = pieces.take_while(move |&&(start, ..)| start <= to);
        let moments = pieces.flat_map(|&(start, end, _)| [start, end]);
        moments.filter(move |moment| (from..=to).contains(moment))
    }
}

/// A domain's grants: when each was given and ended, what it was expected to take and what it took.
fn turns(ran: &[Ran], domain: u32) -> Vec<(Nanos, Nanos, Nanos, Nanos)> {
    let mut turns = BTreeMap::new();
    for ran in ran.iter().filter(|ran| ran.domain == domain) {
        let turn = turns
            .entry(ran.turn)
            .or_insert((ran.granted, 0, ran.estimate, 0));
        turn.1 = ran.end;
        turn.3 += ran.end - ran.start;
    }
    turns.into_values().collect()
}

/// The times in which a domain has a piece of work that waits to be let on.
fn ready(ran: &[Ran], domain: u32) -> Vec<(Nanos, Nanos)> {
    let mut spans: Vec<(Nanos, Nanos)> = Vec::new();
    for ran in ran.iter().filter(|ran| ran.domain == domain) {
        match spans.last_mut() {
            Some((_, end)) if ran.arrived < *end => *end = ran.granted.max(*end),
            _ => spans.push((ran.arrived, ran.granted)),
        }
    }
    spans
}

/// The part of the lag bound of `fair` that is one domain's, in device time, for an interval in which it always
/// has work that waits (`since` some moment before): l + b + k + lead + 2e, where
/// l is the longest that it is let on with at once,
/// b is what it may borrow if it has a latency target,
/// k is what it may have kept if it was away before, but not for long: the longest that anybody had at once,
/// lead is how early the next is let on, and
/// e is by how much more or less than expected it took.
fn slack(
    workload: &Workload,
    turns: &[(Nanos, Nanos, Nanos, Nanos)],
    since: Nanos,
    (from, to): (Nanos, Nanos),
    longest: Nanos,
) -> Nanos {
    let before = turns.partition_point(|&(granted, ..)| granted < from);
    let (mut l, mut e) = (0, 0);
    for &(granted, _, estimate, took) in &turns[before.saturating_sub(2)..] {
        if granted <= to {
            l = l.max(took);
            e = e.max(took.abs_diff(estimate));
        }
    }
    let b = workload.share.latency.map_or(0, |_| BORROW);
    let earlier = turns.partition_point(|&(granted, ..)| granted < since);
    let k = match turns[..earlier].last() {
        Some(&(_, ended, ..)) if since.saturating_sub(ended) < RETURN => longest,
        _ => 0,
    };
    l + b + k + Settings::default().lead + 2 * e
}

/// The intervals in which both have work that waits, and since when each has.
fn common(one: &[(Nanos, Nanos)], other: &[(Nanos, Nanos)]) -> Vec<((Nanos, Nanos), [Nanos; 2])> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut common = Vec::new();
    while let (Some(&&(from1, to1)), Some(&&(from2, to2))) = (one.peek(), other.peek()) {
        let (from, to) = (from1.max(from2), to1.min(to2));
        if from < to {
            common.push(((from, to), [from1, from2]));
        }
        match to1 < to2 {
            true => one.next(),
            false => other.next(),
        };
    }
    common
}

/// Checks the lag bound for every pair of domains, over every interval in which both always have work that waits.
/// How many intervals there were, and how close to its bound the worst came.
fn check_lag(domains: &[Workload], ran: &[Ran]) -> Result<(usize, f64), TestCaseError> {
    let count = domains.len() as u32;
    let services: Vec<_> = (0..count).map(|domain| Service::of(ran, domain)).collect();
    let turns: Vec<_> = (0..count).map(|domain| turns(ran, domain)).collect();
    let ready: Vec<_> = (0..count).map(|domain| ready(ran, domain)).collect();
    let all = turns.iter().flatten();
    let longest = all.map(|&(.., took)| took).max().unwrap_or(0);
    let weight = |domain: usize| f64::from(domains[domain].share.weight);
    let (mut intervals, mut closest) = (0, 0.0_f64);
    for one in 0..domains.len() {
        for other in one + 1..domains.len() {
            for ((from, to), since) in common(&ready[one], &ready[other]) {
                let lag = |time| {
                    let part = |domain: usize| services[domain].until(time) as f64 / weight(domain);
                    part(one) - part(other)
                };
                let moments = services[one].moments(from, to);
                let moments = moments.chain(services[other].moments(from, to));
                let (mut least, mut most) = (lag(from), lag(from));
                for moment in moments.chain([to]) {
                    let lag = lag(moment);
                    (least, most) = (least.min(lag), most.max(lag));
                }
                let slack = |domain: usize, since| {
                    let turns = &turns[domain];
                    let slack = slack(&domains[domain], turns, since, (from, to), longest);
                    slack as f64 / weight(domain)
                };
                let bound = slack(one, since[0]) + slack(other, since[1]);
                prop_assert!(
                    most - least <= bound + 0.01,
                    "{one} and {other} from {from} to {to}: {} > {bound}",
                    most - least
                );
                intervals += 1;
                closest = closest.max((most - least) / bound);
            }
        }
    }
    Ok((intervals, closest))
}

fn charged(results: &Results) -> Nanos {
    let domains = results.domains.iter();
    domains.map(|domain| domain.account.kernels).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Time is neither made nor lost, whatever comes, goes, changes its share, and whatever policies follow each
    /// other: what domains were charged is what the device worked, no moment twice, and as the device knows.
    #[test]
    fn device_time_is_conserved(
        policy in policies(),
        switches in prop::collection::vec((0..DURATION, policies()), 0..6),
        domains in prop::collection::vec(workloads(), 1..8),
        seed: u64,
    ) {
        let results = run(&Experiment { switches, ..experiment(policy, &domains, seed) });
        prop_assert_eq!(charged(&results), results.busy);
        prop_assert!(results.busy <= DURATION);
        for window in 0..results.domains[0].windows.len() {
            let used: Nanos = results.domains.iter().map(|domain| domain.windows[window]).sum();
            prop_assert!(used <= WINDOW);
        }
        let mut free = 0;
        for ran in &results.ran {
            prop_assert!(ran.arrived <= ran.granted && ran.granted <= ran.start);
            prop_assert!(free <= ran.start, "two pieces at once at {}", ran.start);
            free = ran.end;
        }
        for (index, (domain, workload)) in results.domains.iter().zip(&domains).enumerate() {
            // All that ended while it was there, to the nanosecond.
            let ended: Nanos = turns(&results.ran, index as u32)
                .iter()
                .filter(|turn| turn.1 < DURATION.min(workload.until))
                .map(|&(.., took)| took)
                .sum();
            let account = domain.account;
            prop_assert_eq!(account.kernels, ended, "domain {}", index);
            let ran = results.ran.iter().filter(|ran| ran.domain == index as u32).count();
            prop_assert_eq!(domain.waits.len(), ran);
        }
    }

    /// No request is lost or run twice, however often policies are switched.
    #[test]
    fn every_request_runs_once(
        policy in policies(),
        switches in prop::collection::vec((0..DURATION, policies()), 0..20),
        requests in prop::collection::vec(
            prop::collection::vec((0..DURATION / 2, 10 * MICROSECOND..2 * MILLISECOND), 0..60),
            1..6,
        ),
    ) {
        let domains: Vec<Workload> = requests
            .iter()
            .map(|requests| {
                let mut requests = requests.clone();
                requests.sort_unstable();
                Workload { arrivals: Arrivals::Trace(requests), ..Workload::busy(0) }
            })
            .collect();
        let results = run(&Experiment { switches, ..experiment(policy, &domains, 1) });
        for (index, (requests, domain)) in requests.iter().zip(&results.domains).enumerate() {
            let all: Nanos = requests.iter().map(|&(_, takes)| takes).sum();
            prop_assert_eq!(domain.account.kernels, all);
            prop_assert_eq!(domain.account.launches, requests.len() as u64);
            prop_assert_eq!(domain.unserved, 0);
            let ran = results.ran.iter().filter(|ran| ran.domain == index as u32).count();
            prop_assert_eq!(ran, requests.len());
        }
    }

    /// In any time T a capped domain has at most cap · (T + burst) + l + o, with l the longest that it is let on
    /// with at once, and o by how much more than expected that took: never more, however long T is.
    #[test]
    fn caps_hold_over_any_time(
        policy in policies(),
        others in prop::collection::vec(workloads(), 0..4),
        cap in 1..90_u32,
        piece in distributions(),
        depth in 1..5_u32,
        seed: u64,
    ) {
        let mut capped = Workload::busy(0);
        capped.piece = piece;
        capped.arrivals = Arrivals::Closed { depth, think: Distribution::Constant(0) };
        capped.share.cap = Some(cap);
        let index = others.len() as u32;
        let mut domains = others;
        domains.push(capped);
        let results = run(&experiment(policy, &domains, seed));
        let turns = turns(&results.ran, index);
        let longest = turns.iter().map(|&(.., took)| took).max().unwrap_or(0);
        let over = turns.iter().map(|&(.., estimate, took)| took.saturating_sub(estimate)).max();
        // Pieces of equal lengths are as long as expected once two have ended.
        let (from, over) = match (piece, turns.get(1)) {
            (Distribution::Constant(_), Some(&(_, ended, ..))) => (ended, 0),
            _ => (0, over.unwrap_or(0)),
        };
        // In hundredths of nanoseconds.
        let burst = Settings::default().cap_burst * Nanos::from(cap);
        let bound = i128::from(burst + (longest + over) * 100);
        let service = Service::of(&results.ran, index);
        let mut least = i128::MAX;
        for moment in service.moments(from, Nanos::MAX) {
            let had = i128::from(service.until(moment)) * 100;
            let ahead = had - i128::from(moment) * i128::from(cap);
            least = least.min(ahead);
            prop_assert!(ahead - least <= bound + 100, "{} > {bound} at {moment}", ahead - least);
        }
    }

    /// A capped domain gets its cap if nobody else wants the device.
    #[test]
    fn caps_are_reached(policy in policies(), cap in 1..100_u32, piece in MILLISECOND..5 * MILLISECOND) {
        let mut capped = Workload::busy(piece);
        capped.share.cap = Some(cap);
        let results = run(&experiment(policy, &[capped], 1));
        let part = charged(&results) as f64 / DURATION as f64;
        prop_assert!((part - f64::from(cap) / 100.0).abs() < 0.03, "{part} of {cap} %");
    }

    /// Whoever always has work gets on again and again, under every policy but fifo, where arrivals decide: never
    /// does it wait longer than all others' longest slices (half a second) in a row, and what overruns each.
    #[test]
    fn nobody_starves(
        policy in policies(),
        others in prop::collection::vec(workloads(), 1..6),
        weight in 64..512_u32,
        piece in 10 * MICROSECOND..10 * MILLISECOND,
        seed: u64,
    ) {
        prop_assume!(policy != PolicyKind::Fifo);
        let index = others.len() as u32;
        let mut domains = others;
        domains.push(Workload::busy(piece).weight(weight));
        let duration = 4 * DURATION;
        let results = run(&Experiment { duration, ..experiment(policy, &domains, seed) });
        let starts = results.ran.iter().filter(|ran| ran.domain == index).map(|ran| ran.start);
        let mut last = 0;
        for start in starts.chain([duration]) {
            let gap = start.saturating_sub(last);
            let bound = Nanos::from(index) * (SECOND / 2 + 3 * 20 * MILLISECOND) + SECOND / 2;
            prop_assert!(gap <= bound, "{gap} ns without the device from {last}");
            last = start;
        }
    }

    /// The device is only idle while somebody wants it for as long as it takes to start, but for deliberate waits;
    /// and those of `fair` are bounded.
    #[test]
    fn work_is_conserved_but_for_bounded_waits(
        policy in policies(),
        domains in prop::collection::vec(workloads(), 1..8),
        seed: u64,
    ) {
        let experiment = experiment(policy, &plain(domains), seed);
        let results = run(&experiment);
        let turns: u64 = results.domains.iter().map(|domain| domain.account.turns).sum();
        let starts = experiment.latency * (turns + 1);
        prop_assert!(results.lost <= results.held + starts, "{} {}", results.lost, results.held);
        if policy == PolicyKind::Fair {
            let allowed = DURATION / WAIT_PART + WAIT_SAVED;
            prop_assert!(results.held <= allowed, "{} > {allowed}", results.held);
        }
    }

    /// The lag bound of `fair`, for any arrivals.
    #[test]
    fn fair_keeps_the_lag_bound(
        domains in prop::collection::vec(workloads(), 2..7),
        seed: u64,
    ) {
        let domains = plain(domains);
        let results = run(&experiment(PolicyKind::Fair, &domains, seed));
        check_lag(&domains, &results.ran)?;
    }

    /// And for domains that always have much work, where there is one long interval.
    #[test]
    fn fair_keeps_the_lag_bound_of_busy_domains(
        loads in prop::collection::vec((distributions(), 1..1000_u32), 2..6),
        seed: u64,
    ) {
        let domains: Vec<Workload> = loads
            .iter()
            .map(|&(piece, weight)| {
                let arrivals = Arrivals::Closed { depth: 2000, think: Distribution::Constant(0) };
                Workload { piece, arrivals, ..Workload::busy(0) }.weight(weight)
            })
            .collect();
        let results = run(&experiment(PolicyKind::Fair, &domains, seed));
        let (intervals, closest) = check_lag(&domains, &results.ran)?;
        prop_assert!(intervals > 0 && closest > 0.0);
    }
}
