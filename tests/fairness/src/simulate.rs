//! Runs an experiment in the simulator: backd's scheduler code on a virtual clock.

use vgpu_sched::sim::{self, Experiment, Outcome, Workload};
use vgpu_sched::{MICROSECOND, Nanos, PolicyKind};

use crate::domain::Domain;
use crate::run::{Counted, Had, Piece, Place, Run};

/// From a kernel's end to its program's knowing, in the simulator.
const NOTICE: Nanos = 30 * MICROSECOND;

/// Bytes, which the simulator does not count.
fn copied(domain: &Domain, outcome: &Outcome) -> u64 {
    outcome.account.transfers * domain.load.copy.unwrap_or(0)
}

/// Simulates these domains under a policy.
pub fn run(
    experiment: &str,
    domains: &[Domain],
    policy: PolicyKind,
    duration: Nanos,
    seed: u64,
) -> Run {
    let workloads: Vec<Workload> = domains.iter().map(Domain::workload).collect();
    let mut simulated = Experiment::new(policy, workloads, duration);
    simulated.record = true;
    simulated.seed = seed;
    let results = sim::run(&simulated);
    let mut had: Vec<Had> = domains
        .iter()
        .zip(&results.domains)
        .map(|(domain, outcome)| Had {
            domain: domain.clone(),
            pieces: Vec::new(),
            bytes: copied(domain, outcome),
            cpu_ns: 0,
            counted: Counted {
                kernels_ns: outcome.account.kernels,
                copies_ns: outcome.account.copies,
                launches: outcome.account.launches,
                bytes: copied(domain, outcome),
                waited_ns: outcome.account.waited,
                turns: outcome.account.turns,
                traced_launches: outcome.account.launches,
                traced_ns: outcome.account.kernels,
            },
        })
        .collect();
    for ran in &results.ran {
        had[ran.domain as usize].pieces.push(Piece {
            submitted: ran.arrived,
            start: ran.start,
            end: ran.end,
            done: ran.end + NOTICE,
        });
    }
    Run {
        experiment: experiment.to_owned(),
        policy,
        place: Place::Sim,
        duration,
        device: "the simulator's".to_owned(),
        held: Some(results.held),
        domains: had,
        trace: Vec::new(),
    }
}
