//! Many domains, in the simulator alone: 10 to 10,000, up to a hundred on each device, and what a decision costs.

use std::time::Instant;

use serde::Serialize;
use vgpu_sched::sim::{Experiment, Workload, run};
use vgpu_sched::{
    CpuState, Decision, DomainId, MICROSECOND, MILLISECOND, Nanos, PolicyKind, SECOND, Scheduler,
    Settings, Share, Used, metrics,
};

use crate::experiment::Claim;
use crate::run::Place;

/// What `--experiment` calls it.
pub const NAME: &str = "scale";
/// What it is about.
pub const ABOUT: &str = "10 to 10,000 domains with kernels of 0.5, 1, 2 and 4 ms and equal weights share up to 100 devices in \
     the simulator; and one device is shared by 10 to 10,000 domains that all have work, to see what a decision costs.";
/// Simulated time.
pub const DURATION: Nanos = 60 * SECOND;
/// Domains and devices.
pub const SIZES: [(u32, u32); 4] = [(10, 1), (100, 1), (1_000, 10), (10_000, 100)];
/// Kernels: short, since among a hundred domains each has 600 ms in a minute, of which one kernel should be little.
const LENGTHS: [Nanos; 4] = [
    500 * MICROSECOND,
    MILLISECOND,
    2 * MILLISECOND,
    4 * MILLISECOND,
];
/// Domains on the one device for which a decision is timed.
pub const COSTS: [u32; 4] = [10, 100, 1_000, 10_000];
/// Pieces of work for which it is timed.
const ROUNDS: u32 = 50_000;

/// A simulation.
#[derive(Clone, Debug, Serialize)]
pub struct Simulated {
    /// The policy.
    pub policy: PolicyKind,
    /// Domains.
    pub domains: u32,
    /// Devices.
    pub devices: u32,
    /// Simulated time in seconds.
    pub simulated_s: f64,
    /// How long it took on this machine, in seconds.
    pub took_s: f64,
    /// Kernels that ran.
    pub kernels: u64,
    /// Decisions made.
    pub decisions: u64,
    /// Median over devices of least over most device time.
    pub min_max: f64,
    /// The least of these.
    pub min_max_worst: f64,
    /// Part of the time in which devices were busy.
    pub busy: f64,
}

/// What the scheduler takes for one piece of work.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// The policy.
    pub policy: PolicyKind,
    /// Domains that all have work.
    pub domains: u32,
    /// From arrival to charge, on this machine, in nanoseconds.
    pub ns: f64,
}

/// Simulates so many domains on so many devices.
pub fn simulate(
    policy: PolicyKind,
    (domains, devices): (u32, u32),
    duration: Nanos,
    seed: u64,
) -> Simulated {
    let workloads = (0..domains)
        .map(|index| {
            let length = LENGTHS[(index / devices % 4) as usize];
            let mut workload = Workload::busy(length);
            workload.device = index % devices;
            workload
        })
        .collect();
    let mut experiment = Experiment::new(policy, workloads, duration);
    (experiment.window, experiment.seed) = (duration, seed);
    let began = Instant::now();
    let results = run(&experiment);
    let took_s = began.elapsed().as_secs_f64();
    let mut ratios: Vec<f64> = (0..devices as usize)
        .map(|device| {
            let members = results.domains.iter().skip(device);
            let had: Vec<f64> = members
                .step_by(devices as usize)
                .map(|outcome| outcome.account.kernels as f64)
                .collect();
            metrics::min_max(&had)
        })
        .collect();
    Simulated {
        policy,
        domains,
        devices,
        simulated_s: duration as f64 / 1e9,
        took_s,
        kernels: results.domains.iter().map(|d| d.account.launches).sum(),
        decisions: results.decisions,
        min_max: metrics::percentile(&mut ratios, 0.5),
        min_max_worst: ratios.iter().copied().fold(1.0, f64::min),
        busy: results.busy as f64 / (duration as f64 * f64::from(devices)),
    }
}

/// Times what the scheduler does for a piece of work: that it arrives, is let on, ends and is charged.
pub fn cost(policy: PolicyKind, domains: u32) -> Cost {
    let mut scheduler = Scheduler::new(policy.make(), Settings::default());
    for index in 0..domains {
        let id = DomainId(index);
        let share = Share {
            weight: 64 + index * 37 % 1000,
            ..Share::default()
        };
        scheduler.insert(0, id, share);
        let state = CpuState {
            weight: 256,
            running: index % 2 == 0,
            ..CpuState::default()
        };
        scheduler.cpu(0, id, state);
        scheduler.arrived(0, id, 2);
    }
    let mut now = 0;
    let mut pieces = |count: u32| {
        let mut done = 0;
        // A policy that never lets anything on would be found by other tests; here it must not hang.
        for _ in 0..10 * count {
            match scheduler.decide(now) {
                Decision::Run(grant) => {
                    let start = now;
                    now += MILLISECOND;
                    let used = Used::span(start, now, grant.pieces);
                    scheduler.complete(now, grant.number, used);
                    scheduler.arrived(now, grant.id, grant.pieces);
                    done += 1;
                }
                Decision::At(when) => now = when.max(now),
                Decision::Idle => now += MILLISECOND,
            }
            if done == count {
                break;
            }
        }
        done
    };
    pieces(ROUNDS / 4);
    let began = Instant::now();
    let done = pieces(ROUNDS);
    Cost {
        policy,
        domains,
        ns: began.elapsed().as_nanos() as f64 / f64::from(done.max(1)),
    }
}

/// What must come of it.
pub fn claims(simulated: &[Simulated], costs: &[Cost]) -> Vec<Claim> {
    let claim = |what: String, wanted: String, measured: String, holds| Claim {
        what: format!("{NAME}: {what}"),
        place: Place::Sim,
        wanted,
        measured,
        holds: Some(holds),
    };
    let mut claims = Vec::new();
    for run in simulated
        .iter()
        .filter(|run| run.policy == PolicyKind::Fair)
    {
        let (domains, devices) = (run.domains, run.devices);
        claims.push(claim(
            format!(
                "fair, min-max ratio of {domains} domains, {} on each device",
                domains / devices
            ),
            "≥ 0.99".to_owned(),
            format!("{:.4}", run.min_max),
            run.min_max >= 0.99,
        ));
    }
    let largest = simulated
        .iter()
        .filter(|run| run.domains == SIZES[SIZES.len() - 1].0);
    if let Some(slowest) = largest.max_by(|a, b| a.took_s.total_cmp(&b.took_s)) {
        let Simulated {
            policy,
            domains,
            devices,
            simulated_s,
            took_s,
            ..
        } = slowest;
        claims.push(claim(
            format!(
                "{domains} domains on {devices} devices for {simulated_s} s, the slowest policy ({policy})"
            ),
            "< 60 s".to_owned(),
            format!("{took_s:.1} s"),
            *took_s < 60.0,
        ));
    }
    let cost = |policy, domains| {
        let mut costs = costs.iter();
        let found = costs.find(|cost| cost.policy == policy && cost.domains == domains);
        found.map(|cost| cost.ns)
    };
    let (few, many) = (COSTS[0], COSTS[COSTS.len() - 1]);
    if let (Some(least), Some(most)) = (cost(PolicyKind::Fair, few), cost(PolicyKind::Fair, many)) {
        // A cost of a + b log n with a ≥ 0 grows no more than log n does.
        let bound = f64::from(many).ln() / f64::from(few).ln();
        claims.push(claim(
            format!("fair, a decision among {many} domains costs no more than log n allows, from {few} on"),
            format!("≤ {bound:.1} times"),
            format!("{:.1} times ({least:.0} ns, {most:.0} ns)", most / least),
            most / least <= bound,
        ));
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_devices_are_busy_and_shared() {
        let simulated = simulate(PolicyKind::Fair, (40, 10), 4 * SECOND, 1);
        assert!(simulated.busy > 0.98, "{simulated:?}");
        assert!(simulated.min_max_worst > 0.9, "{simulated:?}");
        assert!(simulated.kernels > 0 && simulated.min_max >= simulated.min_max_worst);
        assert!(cost(PolicyKind::Band, 10).ns > 0.0);
    }
}
