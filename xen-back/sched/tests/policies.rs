//! What each policy does with known loads, on the virtual clock: the published behaviour of the old ones, and
//! what `fair` promises.

use vgpu_sched::sim::{Arrivals, Distribution, Experiment, Results, Workload, run};
use vgpu_sched::{CpuState, MICROSECOND, MILLISECOND, PolicyKind, SECOND, Settings, metrics};

const DURATION: u64 = 20 * SECOND;

fn simulate(policy: PolicyKind, domains: Vec<Workload>) -> Results {
    run(&Experiment::new(policy, domains, DURATION))
}

/// The part of the device that each had.
fn parts(results: &Results) -> Vec<f64> {
    let domains = results.domains.iter();
    domains
        .map(|domain| domain.account.kernels as f64 / DURATION as f64)
        .collect()
}

fn mixed() -> Vec<Workload> {
    [1, 5, 20, 50]
        .map(|length| Workload::busy(length * MILLISECOND))
        .into()
}

/// One that waits for each of its kernels and then launches the next.
fn waits_for_each(length: u64) -> Workload {
    let mut workload = Workload::busy(length);
    workload.arrivals = Arrivals::Closed {
        depth: 1,
        think: Distribution::Constant(60 * MICROSECOND),
    };
    workload
}

#[test]
fn fifo_gives_by_length() {
    let parts = parts(&simulate(PolicyKind::Fifo, mixed()));
    for (part, length) in parts.iter().zip([1.0, 5.0, 20.0, 50.0]) {
        assert!((part - length / 76.0).abs() < 0.01, "{parts:?}");
    }
}

#[test]
fn slices_of_clock_time_favour_long_kernels_and_fair_does_not() {
    let unfair = metrics::min_max(&parts(&simulate(PolicyKind::Rr, mixed())));
    assert!(unfair < 0.5, "{unfair}");
    let fair = simulate(PolicyKind::Fair, mixed());
    let ratio = metrics::min_max(&parts(&fair));
    assert!(ratio >= 0.99, "{ratio}");
    assert!(fair.lost < DURATION / 1000, "{}", fair.lost);
}

#[test]
fn in_every_second_nobody_is_further_from_a_fair_share_than_the_longest_kernel() {
    let results = simulate(PolicyKind::Fair, mixed());
    for domain in &results.domains {
        for window in &domain.windows[1..] {
            assert!(window.abs_diff(SECOND / 4) <= 50 * MILLISECOND, "{window}");
        }
    }
}

#[test]
fn weights_are_followed() {
    let weighted =
        || Vec::from([1, 2, 4, 8].map(|weight| Workload::busy(3 * MILLISECOND).weight(weight)));
    for policy in [
        PolicyKind::Credit,
        PolicyKind::XenCredit,
        PolicyKind::GdevCredit,
        PolicyKind::Band,
        PolicyKind::SlaFeedback,
        PolicyKind::Cosched,
        PolicyKind::Augc,
        PolicyKind::Fair,
    ] {
        let parts = parts(&simulate(policy, weighted()));
        for (part, weight) in parts.iter().zip([1.0, 2.0, 4.0, 8.0]) {
            assert!(
                (part / (weight / 15.0) - 1.0).abs() < 0.2,
                "{policy}: {parts:?}"
            );
        }
    }
    let exact = parts(&simulate(PolicyKind::Fair, weighted()));
    for (part, weight) in exact.iter().zip([1.0, 2.0, 4.0, 8.0]) {
        assert!((part / (weight / 15.0) - 1.0).abs() < 0.01, "{exact:?}");
    }
}

/// Gdev's experiment: short kernels against long ones, both waiting for each.
#[test]
fn band_and_fair_help_short_kernels_where_fifo_and_credit_fail() {
    let errors = |policy| {
        let results = simulate(
            policy,
            vec![
                waits_for_each(MILLISECOND),
                waits_for_each(20 * MILLISECOND),
            ],
        );
        let parts = parts(&results);
        parts
            .iter()
            .map(|part| (part - 0.5).abs())
            .fold(0.0, f64::max)
    };
    for policy in [PolicyKind::Fifo, PolicyKind::GdevCredit, PolicyKind::Credit] {
        assert!(errors(policy) > 0.4, "{policy}: {}", errors(policy));
    }
    for policy in [PolicyKind::Band, PolicyKind::Fair] {
        assert!(errors(policy) <= 0.07, "{policy}: {}", errors(policy));
    }
}

#[test]
fn xen_credit_follows_the_hypervisors_weights_as_they_change() {
    let mut domains = vec![
        Workload::busy(2 * MILLISECOND),
        Workload::busy(2 * MILLISECOND),
    ];
    let state = |weight| CpuState {
        weight,
        ..CpuState::default()
    };
    domains[0].cpu = vec![(0, state(256)), (DURATION / 2, state(768))];
    domains[1].cpu = vec![(0, state(512))];
    let results = simulate(PolicyKind::XenCredit, domains);
    let ratio = |window: usize| {
        let [a, b] = [0, 1].map(|domain| results.domains[domain].windows[window] as f64);
        b / a
    };
    assert!((ratio(5) - 2.0).abs() < 0.2, "{}", ratio(5));
    assert!((ratio(12) - 2.0 / 3.0).abs() < 0.1, "{}", ratio(12));
}

#[test]
fn a_newcomer_waits_for_one_long_kernel_and_a_turn_at_most() {
    let long = 20 * MILLISECOND;
    let mut greedy = Workload::busy(long);
    greedy.arrivals = Arrivals::Closed {
        depth: 64,
        think: Distribution::Constant(0),
    };
    let mut interactive = Workload::busy(MILLISECOND);
    interactive.arrivals = Arrivals::Open {
        every: Distribution::Exponential(100 * MILLISECOND),
    };
    let waits = |policy| {
        let results = simulate(policy, vec![greedy.clone(), interactive.clone()]);
        let mut waits: Vec<f64> = results.domains[1]
            .waits
            .iter()
            .map(|wait| *wait as f64)
            .collect();
        assert!(waits.len() > 100);
        metrics::percentile(&mut waits, 0.99)
    };
    let bound = (long + 2 * MILLISECOND) as f64;
    let fair = waits(PolicyKind::Fair);
    assert!(fair <= bound, "{fair}");
    let fifo = waits(PolicyKind::Fifo);
    assert!(fifo > 3.0 * bound, "{fifo}");
}

#[test]
fn a_policy_is_changed_without_losing_work() {
    use vgpu_sched::{Decision, DomainId, Scheduler, Share, Used};
    let mut scheduler = Scheduler::new(PolicyKind::Fifo.make(), Settings::default());
    let id = DomainId(0);
    scheduler.insert(0, id, Share::default());
    scheduler.arrived(0, id, 100);
    let (mut now, mut done) = (0, 0);
    for kind in PolicyKind::ALL.into_iter().cycle().take(1000) {
        scheduler.switch(now, kind.make());
        assert_eq!(scheduler.policy(), kind);
        match scheduler.decide(now) {
            Decision::Run(grant) => {
                let start = now;
                now += u64::from(grant.pieces) * MILLISECOND;
                done += grant.pieces;
                let used = Used::span(start, now, grant.pieces);
                scheduler.complete(now, grant.number, used);
            }
            Decision::At(when) => now = when,
            Decision::Idle => now += MILLISECOND,
        }
    }
    assert_eq!((done, scheduler.waiting(id)), (100, 0));
    assert_eq!(scheduler.account(id).unwrap().kernels, 100 * MILLISECOND);
}
