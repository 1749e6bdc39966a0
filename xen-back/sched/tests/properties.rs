//! What must hold for any load: conservation, caps, no starvation, and the lag bound of start-time fair queuing.

use proptest::prelude::*;
use vgpu_sched::sim::{Arrivals, Distribution, Experiment, Results, Workload, run};
use vgpu_sched::{MICROSECOND, MILLISECOND, Nanos, PolicyKind, SECOND, Settings, Share};

const DURATION: Nanos = 3 * SECOND;
const WINDOW: Nanos = 100 * MILLISECOND;

fn simulate(policy: PolicyKind, domains: &[Workload], seed: u64) -> Results {
    run(&Experiment {
        window: WINDOW,
        seed,
        ..Experiment::new(policy, domains.to_vec(), DURATION)
    })
}

fn policies() -> impl Strategy<Value = PolicyKind> {
    prop::sample::select(PolicyKind::ALL.to_vec())
}

fn distributions() -> impl Strategy<Value = Distribution> {
    prop_oneof![
        (10 * MICROSECOND..20 * MILLISECOND).prop_map(Distribution::Constant),
        (10 * MICROSECOND..MILLISECOND, MILLISECOND..20 * MILLISECOND)
            .prop_map(|(low, high)| Distribution::Uniform(low, high)),
        (10 * MICROSECOND..5 * MILLISECOND).prop_map(Distribution::Exponential),
    ]
}

fn workloads() -> impl Strategy<Value = Workload> {
    let arrivals = prop_oneof![
        (1..5_u32, 0..2 * MILLISECOND).prop_map(|(depth, think)| Arrivals::Closed {
            depth,
            think: Distribution::Exponential(think)
        }),
        (MILLISECOND..50 * MILLISECOND).prop_map(|every| Arrivals::Open {
            every: Distribution::Exponential(every)
        }),
    ];
    let share = (
        1..2000_u32,
        prop::option::weighted(0.2, 1..100_u32),
        any::<bool>(),
    );
    (
        distributions(),
        arrivals,
        share,
        0..DURATION / 2,
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(piece, arrivals, (weight, cap, latency), from, leaves)| Workload {
                share: Share {
                    weight,
                    cap,
                    latency: latency.then_some(MILLISECOND),
                },
                piece,
                arrivals,
                from,
                until: if leaves {
                    from + DURATION / 3
                } else {
                    Nanos::MAX
                },
                ..Workload::busy(0)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Time is neither made nor lost: what domains were charged is what the device worked.
    #[test]
    fn device_time_is_conserved(
        policy in policies(),
        domains in prop::collection::vec(workloads(), 1..8),
        seed: u64,
    ) {
        let results = simulate(policy, &domains, seed);
        let charged: Nanos = results.domains.iter().map(|domain| domain.account.kernels).sum();
        prop_assert_eq!(charged, results.busy);
        prop_assert!(results.busy <= DURATION);
        for window in 0..results.domains[0].windows.len() {
            let used: Nanos = results.domains.iter().map(|domain| domain.windows[window]).sum();
            prop_assert!(used <= WINDOW);
        }
    }

    /// Over any run of windows a capped domain has at most its cap of them, and what its cap lets it save up,
    /// and one piece of work (two may be let on before the first has ended).
    #[test]
    fn caps_hold(
        policy in policies(),
        others in prop::collection::vec(workloads(), 0..4),
        cap in 1..90_u32,
        piece in 10 * MICROSECOND..20 * MILLISECOND,
        seed: u64,
    ) {
        let mut domains = others;
        let mut capped = Workload::busy(piece);
        capped.share.cap = Some(cap);
        domains.push(capped);
        let results = simulate(policy, &domains, seed);
        let windows = &results.domains.last().unwrap().windows;
        let allowed = |length: Nanos| length * Nanos::from(cap) / 100;
        for from in 0..windows.len() {
            let mut used = 0;
            for (count, window) in windows[from..].iter().enumerate() {
                used += window;
                let length = (count as Nanos + 1) * WINDOW;
                let slack = allowed(Settings::default().cap_burst) + 2 * piece.max(MILLISECOND);
                prop_assert!(used <= allowed(length) + slack, "{used} of {length} from {from}");
            }
        }
    }

    /// Whoever always has work gets on, under every policy but fifo, where arrivals decide.
    #[test]
    fn nobody_starves(
        policy in policies(),
        others in prop::collection::vec(workloads(), 1..6),
        weight in 64..512_u32,
        piece in 10 * MICROSECOND..10 * MILLISECOND,
        seed: u64,
    ) {
        prop_assume!(policy != PolicyKind::Fifo);
        let mut domains = others;
        domains.push(Workload::busy(piece).weight(weight));
        let results = simulate(policy, &domains, seed);
        let turns = results.domains.last().unwrap().account.turns;
        prop_assert!(turns > 0);
    }

    /// For any two that are ready all the while, |S₁/w₁ − S₂/w₂| ≤ l₁/w₁ + l₂/w₂ at every moment at which
    /// windows end, where l is the longest that one is let on with at once, twice since one may be let on while
    /// another is still there.
    #[test]
    fn fair_keeps_the_lag_bound(
        loads in prop::collection::vec((100 * MICROSECOND..30 * MILLISECOND, 1..1000_u32), 2..6),
        seed: u64,
    ) {
        let domains: Vec<Workload> =
            loads.iter().map(|&(piece, weight)| Workload::busy(piece).weight(weight)).collect();
        let results = simulate(PolicyKind::Fair, &domains, seed);
        let mut had = vec![0.0; loads.len()];
        for window in 0..results.domains[0].windows.len() {
            for (had, domain) in had.iter_mut().zip(&results.domains) {
                *had += domain.windows[window] as f64;
            }
            for (one, &(l1, w1)) in loads.iter().enumerate() {
                for (other, &(l2, w2)) in loads.iter().enumerate().skip(one + 1) {
                    let [w1, w2] = [w1, w2].map(f64::from);
                    let [l1, l2] = [l1, l2].map(|l| l.max(2 * MILLISECOND) as f64);
                    let lag = (had[one] / w1 - had[other] / w2).abs();
                    let bound = 2.0 * (l1 / w1 + l2 / w2);
                    prop_assert!(lag <= bound, "{one} and {other}: {lag} > {bound} after {window}");
                }
            }
        }
    }
}
