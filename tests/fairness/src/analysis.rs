//! From the pieces of work to the measures of fairness and waste. Pure functions of a run: what is drawn, written
//! and judged is computed here and nowhere else. Definitions are in docs/experiments.md.

use serde::Serialize;
use vgpu_sched::{Engine, MILLISECOND, Nanos, SECOND, metrics};

use crate::domain::Domain;
use crate::run::{Had, Piece, Run};

/// Lengths of the windows that utilisation errors are told for.
pub const ERROR_WINDOWS: [Nanos; 3] = [100 * MILLISECOND, 500 * MILLISECOND, SECOND];
/// Lengths of all windows.
pub const WINDOWS: [Nanos; 4] = [100 * MILLISECOND, 500 * MILLISECOND, SECOND, 10 * SECOND];

/// What was measured in a run.
#[derive(Clone, Debug, Serialize)]
pub struct Measures {
    /// Per domain.
    pub domains: Vec<DomainMeasures>,
    /// Part of the time in which the compute engine was busy.
    pub busy: f64,
    /// Part of the time in which it idled although a kernel waited.
    pub lost: f64,
    /// Part of the time for which the policy kept the device idle on purpose, where that is known.
    pub held: Option<f64>,
    /// Jain's index over the whole run, of those who always want the device; none if they are not two.
    pub jain: Option<f64>,
    /// Least over most of the same.
    pub min_max: Option<f64>,
    /// The median of that over windows of 10 s.
    pub min_max_10s: Option<f64>,
    /// The largest relative error of a domain's share over the whole run.
    pub share_error: Option<f64>,
    /// Mean utilisation error for each of [`ERROR_WINDOWS`].
    pub errors: [Option<f64>; 3],
    /// In windows of 1 s, the furthest that a domain was from its share, in kernels of its own.
    pub worst_kernels: Option<f64>,
    /// In windows of 1 s, the most by which the device times of two domains differed, each over its weight, in units
    /// of what start-time fair queuing promises: one kernel of each.
    pub worst_lag: Option<f64>,
    /// System throughput, if there are runs of each alone.
    pub stp: Option<f64>,
    /// Average normalised turnaround time.
    pub antt: Option<f64>,
    /// The largest relative difference between what the scheduler counted and what kernels wrote down.
    pub accounting_error: Option<f64>,
}

/// What was measured of a domain.
#[derive(Clone, Debug, Serialize)]
pub struct DomainMeasures {
    /// Its name.
    pub name: String,
    /// Pieces of work.
    pub pieces: usize,
    /// Device time.
    pub used_ns: Nanos,
    /// Part of the device while it was there.
    pub part: f64,
    /// Part that it should have had, given what others wanted.
    pub fair: f64,
    /// From launch to the first instruction.
    pub latency: Latency,
    /// The same while it had the device to itself.
    pub alone: Option<Latency>,
    /// How many times as long from launch to result as alone.
    pub slowdown: Option<f64>,
    /// Bytes copied per second.
    pub rate: f64,
    /// The relative difference between what the scheduler counted and what kernels wrote down.
    pub accounting_error: Option<f64>,
}

/// Percentiles, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half are below.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
}

impl Latency {
    /// From requests to beginnings.
    pub fn of(pieces: &[Piece]) -> Self {
        let mut waits = waits(pieces);
        let mut at = |part| metrics::percentile(&mut waits, part);
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
        }
    }
}

/// From each request to its beginning, in nanoseconds.
pub fn waits(pieces: &[Piece]) -> Vec<f64> {
    let waits = pieces.iter();
    waits
        .map(|piece| piece.start.saturating_sub(piece.submitted) as f64)
        .collect()
}

/// Device time of each domain in each window of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// Their length.
    pub length: Nanos,
    /// By window, then by domain.
    pub used: Vec<Vec<Nanos>>,
}

/// What each had in whole windows of this length, each moment counted once: of work that overlaps on the device,
/// what ended first has the time.
pub fn windows(domains: &[Had], engine: Engine, length: Nanos, duration: Nanos) -> Windows {
    let count = (duration / length.max(1)) as usize;
    let mut used = vec![vec![0; domains.len()]; count];
    for (domain, start, end) in attributed(domains, engine) {
        let mut at = start;
        while at < end {
            let index = at / length;
            let stop = end.min((index + 1) * length);
            match used.get_mut(index as usize) {
                Some(window) => window[domain] += stop - at,
                None => break,
            }
            at = stop;
        }
    }
    Windows { length, used }
}

/// Which domain had the engine from when to when.
fn attributed(domains: &[Had], engine: Engine) -> Vec<(usize, Nanos, Nanos)> {
    let mut spans: Vec<(Nanos, Nanos, usize)> = Vec::new();
    for (index, had) in domains.iter().enumerate() {
        if had.domain.engine() == engine {
            spans.extend(
                had.pieces
                    .iter()
                    .map(|piece| (piece.end, piece.start, index)),
            );
        }
    }
    spans.sort_unstable();
    let mut before = 0;
    let spans = spans.into_iter().filter_map(|(end, start, domain)| {
        let start = start.max(before);
        before = before.max(end);
        (start < end).then_some((domain, start, end))
    });
    spans.collect()
}

/// What each should have of `capacity`, by weight: who wants less than its part leaves the rest to the others, in
/// proportion to their weights (weighted max-min fairness). `None` wants all that it can get.
pub fn entitled(capacity: f64, wants: &[(f64, Option<f64>)]) -> Vec<f64> {
    let mut parts = vec![0.0; wants.len()];
    let mut open: Vec<usize> = (0..wants.len()).collect();
    let mut left = capacity;
    loop {
        let weights: f64 = open.iter().map(|&index| wants[index].0).sum();
        if weights <= 0.0 {
            return parts;
        }
        let part = |index: usize| left * wants[index].0 / weights;
        let (content, wanting): (Vec<usize>, Vec<usize>) = open
            .iter()
            .partition(|&&index| wants[index].1.is_some_and(|want| want <= part(index)));
        if content.is_empty() {
            for index in wanting {
                parts[index] = part(index);
            }
            return parts;
        }
        for index in content {
            parts[index] = wants[index].1.unwrap_or(0.0);
            left -= parts[index];
        }
        open = wanting;
    }
}

/// A domain's place among those of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seat {
    /// Its index in the run.
    domain: usize,
    /// What it had.
    used: f64,
    /// What it should have had.
    fair: f64,
    /// Its weight.
    weight: f64,
    /// Whether it wanted the device all the while, without a cap.
    wants: bool,
}

/// Those of a window from `start`, with what they should have had of `capacity`, or of what all of them had.
fn seats(
    run: &Run,
    engine: Engine,
    used: &[Nanos],
    start: Nanos,
    length: Nanos,
    capacity: Option<f64>,
) -> Vec<Seat> {
    let end = start + length;
    let here = |domain: &Domain| domain.from <= start && end <= domain.until;
    let by_cpu = run.policy.needs_hypervisor();
    let mut seats = Vec::new();
    let mut wants = Vec::new();
    for (index, had) in run.domains.iter().enumerate() {
        let domain = &had.domain;
        if domain.engine() != engine || !(here(domain) || used[index] > 0) {
            continue;
        }
        let share = domain.share_at(start);
        let always = domain.always_wants() && here(domain);
        let used = used[index] as f64;
        let cap = share.cap.map(|cap| length as f64 * f64::from(cap) / 100.0);
        let weight = if by_cpu {
            domain.cpu_weight_at(start)
        } else {
            share.weight
        };
        // Who does not always want it wanted what it had.
        wants.push((f64::from(weight), if always { cap } else { Some(used) }));
        seats.push(Seat {
            domain: index,
            used,
            fair: 0.0,
            weight: f64::from(weight),
            wants: always && cap.is_none(),
        });
    }
    let all: f64 = seats.iter().map(|seat| seat.used).sum();
    let fair = entitled(capacity.unwrap_or(all), &wants);
    for (seat, fair) in seats.iter_mut().zip(fair) {
        seat.fair = fair;
    }
    seats
}

/// What those who always want the device had, in units of what they should have had.
fn parts(seats: &[Seat]) -> Option<Vec<f64>> {
    let wanting = seats.iter().filter(|seat| seat.wants && seat.fair > 0.0);
    let parts: Vec<f64> = wanting.map(|seat| seat.used / seat.fair).collect();
    (parts.len() >= 2).then_some(parts)
}

/// Measures a run. `alone` has a run of each domain with the device to itself, or none where that was not made.
pub fn measure(run: &Run, alone: &[Option<Vec<Piece>>]) -> Measures {
    // Fairness is told of kernels; of copies where there are no kernels.
    let engine = match run
        .domains
        .iter()
        .any(|had| had.domain.engine() == Engine::Compute)
    {
        true => Engine::Compute,
        false => Engine::Copy,
    };
    let whole = windows(&run.domains, engine, run.duration, run.duration);
    let none = vec![0; run.domains.len()];
    let used = whole.used.first().unwrap_or(&none);
    let seated = seats(run, engine, used, 0, run.duration, None);
    let overall = parts(&seated);
    let domains: Vec<DomainMeasures> = run
        .domains
        .iter()
        .enumerate()
        .map(|(index, had)| {
            let alone = alone.get(index).and_then(Option::as_deref);
            domain_measures(run, index, had, alone)
        })
        .collect();
    let slowdowns: Vec<f64> = domains.iter().filter_map(|d| d.slowdown).collect();
    let all_slowed = !slowdowns.is_empty() && slowdowns.len() == domains.len();
    let errors = ERROR_WINDOWS.map(|length| utilisation_error(run, engine, length));
    let changes = run.domains.iter().any(|had| {
        had.domain.from > 0
            || had.domain.until < run.duration
            || !had.domain.shares.is_empty()
            || had.domain.cpu.len() > 1
    });
    // Over the whole run there is no one share if domains come, go or change.
    let steady = overall.filter(|_| !changes);
    Measures {
        busy: busy(run, engine),
        lost: lost(run, engine),
        held: run
            .held
            .map(|held| held as f64 / run.duration.max(1) as f64),
        jain: steady.as_deref().map(metrics::jain),
        min_max: steady.as_deref().map(metrics::min_max),
        min_max_10s: min_max_10s(run, engine),
        share_error: steady.as_deref().map(|parts| {
            parts
                .iter()
                .map(|part| (part - 1.0).abs())
                .fold(0.0, f64::max)
        }),
        errors,
        worst_kernels: worst_kernels(run, engine),
        worst_lag: worst_lag(run, engine),
        stp: all_slowed.then(|| metrics::stp(&slowdowns)),
        antt: all_slowed.then(|| metrics::antt(&slowdowns)),
        accounting_error: domains
            .iter()
            .filter_map(|domain| domain.accounting_error)
            .reduce(f64::max),
        domains,
    }
}

fn domain_measures(run: &Run, index: usize, had: &Had, alone: Option<&[Piece]>) -> DomainMeasures {
    let engine = had.domain.engine();
    let here = had.domain.until.min(run.duration) - had.domain.from.min(run.duration);
    let slices = windows(&run.domains, engine, 100 * MILLISECOND, run.duration);
    // What it should have had changes as others come and go.
    let fair: f64 = slices
        .used
        .iter()
        .enumerate()
        .flat_map(|(window, used)| {
            let start = window as Nanos * slices.length;
            seats(run, engine, used, start, slices.length, None)
        })
        .filter(|seat| seat.domain == index)
        .map(|seat| seat.fair)
        .sum();
    let used_ns: Nanos = slices.used.iter().map(|window| window[index]).sum();
    let written: Nanos = had.pieces.iter().map(|piece| piece.end - piece.start).sum();
    let kernels = engine == Engine::Compute && written > 0;
    let turnaround = |pieces: &[Piece]| {
        let times = pieces
            .iter()
            .map(|piece| (piece.done - piece.submitted) as f64);
        times.sum::<f64>() / pieces.len().max(1) as f64
    };
    DomainMeasures {
        name: had.domain.name.clone(),
        pieces: had.pieces.len(),
        used_ns,
        part: used_ns as f64 / here.max(1) as f64,
        fair: fair / here.max(1) as f64,
        latency: Latency::of(&had.pieces),
        alone: alone.map(Latency::of),
        slowdown: alone
            .map(turnaround)
            .filter(|&time| time > 0.0 && !had.pieces.is_empty())
            .map(|time| turnaround(&had.pieces) / time),
        rate: had.bytes as f64 / (here.max(1) as f64 / 1e9),
        accounting_error: kernels
            .then(|| had.counted.kernels_ns.abs_diff(written) as f64 / written as f64),
    }
}

fn each_window(
    run: &Run,
    engine: Engine,
    length: Nanos,
    capacity: Option<f64>,
) -> impl Iterator<Item = Vec<Seat>> {
    let windows = windows(&run.domains, engine, length, run.duration);
    let seated: Vec<_> = windows
        .used
        .iter()
        .enumerate()
        .map(|(index, used)| seats(run, engine, used, index as Nanos * length, length, capacity))
        .collect();
    seated.into_iter()
}

/// Mean over windows and domains of |part had − part entitled to| (Gdev, GPUvm), of those who always want it.
fn utilisation_error(run: &Run, engine: Engine, length: Nanos) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u32);
    for seats in each_window(run, engine, length, Some(length as f64)) {
        for seat in seats.iter().filter(|seat| seat.wants) {
            sum += (seat.used - seat.fair).abs() / length as f64;
            count += 1;
        }
    }
    (count > 0).then(|| sum / f64::from(count))
}

fn min_max_10s(run: &Run, engine: Engine) -> Option<f64> {
    let windows = each_window(run, engine, 10 * SECOND, None);
    let mut ratios: Vec<f64> = windows
        .filter_map(|seats| Some(metrics::min_max(&parts(&seats)?)))
        .collect();
    (!ratios.is_empty()).then(|| metrics::percentile(&mut ratios, 0.5))
}

/// How far from its share anybody was in a window of 1 s, in kernels of its own.
fn worst_kernels(run: &Run, engine: Engine) -> Option<f64> {
    let windows = each_window(run, engine, SECOND, None);
    // Whoever is the only one to want the device has no share to be off from.
    let shared = windows.filter(|seats| seats.iter().filter(|seat| seat.wants).count() > 1);
    let seats = shared.flatten().filter(|seat| seat.wants);
    let kernels = seats.filter_map(|seat| {
        let kernel = run.domains[seat.domain].domain.kernel();
        (kernel > 0.0).then(|| (seat.used - seat.fair).abs() / kernel)
    });
    kernels.reduce(f64::max)
}

/// The worst of |S₁/w₁ − S₂/w₂| / (l₁/w₁ + l₂/w₂) over windows of 1 s and pairs of those who always want the device,
/// with l a domain's kernel: at most 1 under start-time fair queuing (Goyal, Vin, Cheng 1996).
fn worst_lag(run: &Run, engine: Engine) -> Option<f64> {
    let mut worst: Option<f64> = None;
    for seats in each_window(run, engine, SECOND, None) {
        let wanting: Vec<&Seat> = seats.iter().filter(|seat| seat.wants).collect();
        for (index, one) in wanting.iter().enumerate() {
            for other in &wanting[index + 1..] {
                let kernel = |seat: &Seat| run.domains[seat.domain].domain.kernel() / seat.weight;
                let bound = kernel(one) + kernel(other);
                if bound > 0.0 {
                    let apart = (one.used / one.weight - other.used / other.weight).abs() / bound;
                    worst = Some(worst.unwrap_or(0.0).max(apart));
                }
            }
        }
    }
    worst
}

/// Part of the time in which an engine was busy.
fn busy(run: &Run, engine: Engine) -> f64 {
    let spans = attributed(&run.domains, engine);
    let time: Nanos = spans
        .iter()
        .map(|&(_, start, end)| end.min(run.duration) - start.min(run.duration))
        .sum();
    time as f64 / run.duration.max(1) as f64
}

/// Part of the time in which an engine idled although work for it waited.
fn lost(run: &Run, engine: Engine) -> f64 {
    let mut waiting: Vec<(Nanos, Nanos)> = run
        .domains
        .iter()
        .filter(|had| had.domain.engine() == engine)
        .flat_map(|had| had.pieces.iter())
        .map(|piece| (piece.submitted, piece.start))
        .collect();
    let waiting = merge(&mut waiting);
    let mut busy: Vec<(Nanos, Nanos)> = attributed(&run.domains, engine)
        .into_iter()
        .map(|(_, start, end)| (start, end))
        .collect();
    let busy = merge(&mut busy);
    let length = |spans: &[(Nanos, Nanos)]| -> Nanos {
        let spans = spans.iter();
        spans
            .map(|&(start, end)| end.min(run.duration) - start.min(run.duration))
            .sum()
    };
    let lost = length(&waiting) - length(&both(&waiting, &busy));
    lost as f64 / run.duration.max(1) as f64
}

/// The same moments as spans that neither touch nor overlap, in order.
fn merge(spans: &mut [(Nanos, Nanos)]) -> Vec<(Nanos, Nanos)> {
    spans.sort_unstable();
    let mut merged: Vec<(Nanos, Nanos)> = Vec::new();
    for &(start, end) in spans.iter().filter(|(start, end)| start < end) {
        match merged.last_mut() {
            Some((_, last)) if *last >= start => *last = (*last).max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// What lies in spans of both lists, each as [`merge`] makes it.
fn both(one: &[(Nanos, Nanos)], other: &[(Nanos, Nanos)]) -> Vec<(Nanos, Nanos)> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut common = Vec::new();
    while let (Some(&&a), Some(&&b)) = (one.peek(), other.peek()) {
        let (start, end) = (a.0.max(b.0), a.1.min(b.1));
        if start < end {
            common.push((start, end));
        }
        if a.1 <= b.1 {
            one.next();
        } else {
            other.next();
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Counted, Place};
    use vgpu_sched::PolicyKind;
    use vgpu_sched::sim::Distribution;

    fn had(domain: Domain, spans: &[(Nanos, Nanos, Nanos)]) -> Had {
        let pieces: Vec<Piece> = spans
            .iter()
            .map(|&(submitted, start, end)| Piece {
                submitted,
                start,
                end,
                done: end,
            })
            .collect();
        let time = pieces.iter().map(|piece| piece.end - piece.start).sum();
        Had {
            domain,
            counted: Counted {
                kernels_ns: time,
                launches: pieces.len() as u64,
                ..Counted::default()
            },
            pieces,
            bytes: 0,
            cpu_ns: 0,
        }
    }

    fn run(domains: Vec<Had>, duration: Nanos) -> Run {
        Run {
            experiment: "test".into(),
            policy: PolicyKind::Fair,
            place: Place::Sim,
            duration,
            device: String::new(),
            held: None,
            domains,
            trace: Vec::new(),
        }
    }

    fn near(got: Option<f64>, want: f64) {
        assert!((got.unwrap() - want).abs() < 1e-9, "{got:?}, not {want}");
    }

    #[test]
    fn time_is_put_into_windows_and_never_counted_twice() {
        let a = had(Domain::kernels("a", 10), &[(0, 5, 15), (0, 20, 30)]);
        // On the device from 12, but the first had it until 15.
        let b = had(Domain::kernels("b", 10), &[(0, 12, 20), (0, 30, 42)]);
        let got = windows(&[a, b], Engine::Compute, 10, 40);
        assert_eq!(got.used, [[5, 0], [5, 5], [10, 0], [0, 10]]);
    }

    #[test]
    fn who_wants_less_leaves_the_rest_to_the_others() {
        assert_eq!(entitled(12.0, &[(1.0, None), (2.0, None)]), [4.0, 8.0]);
        // The first is content with 2; 10 are left for weights 1 and 4.
        let wants = [(5.0, Some(2.0)), (1.0, None), (4.0, None)];
        assert_eq!(entitled(12.0, &wants), [2.0, 2.0, 8.0]);
        // That gives the second more than it wants, in turn.
        let wants = [(5.0, Some(2.0)), (1.0, Some(1.5)), (4.0, None)];
        assert_eq!(entitled(12.0, &wants), [2.0, 1.5, 8.5]);
        // All are content: some is left.
        assert_eq!(entitled(12.0, &[(1.0, Some(3.0))]), [3.0]);
        assert_eq!(entitled(12.0, &[]), Vec::<f64>::new());
    }

    #[test]
    fn shares_errors_and_deviations() {
        // In 2 s: a has 0.5 and 0.9 s, b has 0.5 and 0.1 s.
        let ms = MILLISECOND;
        let a = had(
            Domain::kernels("a", 100 * ms),
            &[(0, 0, 500 * ms), (0, 1000 * ms, 1900 * ms)],
        );
        let b = had(
            Domain::kernels("b", 10 * ms),
            &[(0, 500 * ms, 1000 * ms), (0, 1900 * ms, 2000 * ms)],
        );
        let measures = measure(&run(vec![a, b], 2 * SECOND), &[]);
        near(measures.min_max, 600.0 / 1400.0);
        near(measures.jain, 1.0 / (0.5 * (1.4 * 1.4 + 0.6 * 0.6)));
        near(measures.share_error, 0.4);
        // 0 in the first window, 0.4 in the second.
        near(measures.errors[2], 0.2);
        // In 500 ms windows: 0.5 three times and 0.3 once.
        near(measures.errors[1], (0.5 + 0.5 + 0.5 + 0.3) / 4.0);
        // 400 ms are four kernels of a and forty of b.
        near(measures.worst_kernels, 40.0);
        // 800 ms apart, where 100 + 10 are allowed.
        near(measures.worst_lag, 800.0 / 110.0);
        assert_eq!(measures.min_max_10s, None);
        assert_eq!((measures.busy, measures.lost), (1.0, 0.0));
        near(Some(measures.domains[0].part), 0.7);
        near(Some(measures.domains[1].fair), 0.5);
        near(measures.accounting_error, 0.0);
    }

    #[test]
    fn weights_caps_and_those_who_do_not_always_want() {
        let ms = MILLISECOND;
        let heavy = had(
            Domain::kernels("heavy", ms).weight(768),
            &[(0, 0, 600 * ms)],
        );
        let light = had(Domain::kernels("light", ms), &[(0, 600 * ms, 800 * ms)]);
        let capped = had(
            Domain::kernels("capped", ms).cap(10),
            &[(0, 800 * ms, 900 * ms)],
        );
        let seldom = had(
            Domain::kernels("seldom", ms).every(Distribution::Constant(ms)),
            &[(0, 900 * ms, 1000 * ms)],
        );
        let run = run(vec![heavy, light, capped, seldom], SECOND);
        let measures = measure(&run, &[]);
        // Of the 800 ms that capped and seldom leave, three quarters and one.
        assert_eq!(measures.min_max, Some(1.0));
        let fair: Vec<f64> = measures.domains.iter().map(|d| d.fair).collect();
        // In each slice of 100 ms only what was asked for there counts.
        assert!((fair.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        near(measures.errors[2], 0.0);
        assert_eq!(measures.worst_kernels, Some(0.0));
    }

    #[test]
    fn idle_time_counts_as_lost_only_if_work_waited() {
        // Waits in 5..10 and 20..30; the device runs 10..20 and 30..40, and idles with nobody waiting in 40..50.
        let a = had(Domain::kernels("a", 10), &[(5, 10, 20), (12, 30, 40)]);
        let measures = measure(&run(vec![a], 50), &[]);
        assert_eq!((measures.busy, measures.lost), (0.4, 0.3));
        assert_eq!(
            merge(&mut [(5, 7), (1, 3), (3, 4), (6, 6)]),
            [(1, 4), (5, 7)]
        );
        assert_eq!(
            both(&[(0, 10), (20, 30)], &[(5, 22), (29, 40)]),
            [(5, 10), (20, 22), (29, 30)]
        );
    }

    #[test]
    fn slowdowns_are_of_the_time_from_launch_to_result() {
        let shared = had(Domain::kernels("a", 10), &[(0, 10, 20), (20, 50, 60)]);
        let alone = vec![Piece {
            submitted: 0,
            start: 5,
            end: 15,
            done: 15,
        }];
        let other = had(Domain::kernels("b", 10), &[(0, 20, 30)]);
        let measures = measure(
            &run(vec![shared, other], 60),
            &[Some(alone.clone()), Some(alone)],
        );
        // 30 and 30 against 15.
        assert_eq!(measures.domains[0].slowdown, Some(2.0));
        assert_eq!(measures.domains[0].latency.p99, 30.0);
        assert_eq!(measures.domains[0].alone.unwrap().p50, 5.0);
        assert_eq!((measures.antt, measures.stp), (Some(2.0), Some(1.0)));
    }

    #[test]
    fn who_comes_late_has_no_part_in_earlier_windows() {
        let s = SECOND;
        let early = had(
            Domain::kernels("early", s / 10),
            &[(0, 0, s), (0, s, s + s / 2)],
        );
        let late = had(
            Domain::kernels("late", s / 10).between(s, 2 * s),
            &[(s, s + s / 2, 2 * s)],
        );
        let measures = measure(&run(vec![early, late], 2 * s), &[]);
        assert_eq!(measures.errors[2], Some(0.0));
        assert_eq!(measures.worst_kernels, Some(0.0));
        assert_eq!(measures.worst_lag, Some(0.0));
        assert_eq!(measures.min_max, None);
        near(Some(measures.domains[1].part), 0.5);
    }
}
