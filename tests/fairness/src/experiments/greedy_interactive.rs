//! A greedy domain against an interactive one.

use vgpu_sched::sim::Distribution;
use vgpu_sched::{MILLISECOND, Nanos, PolicyKind};

use crate::domain::Domain;
use crate::experiment::{Claim, Experiment, Judged, Runs};

/// See the file.
pub struct GreedyInteractive;

const KERNEL: Nanos = 20 * MILLISECOND;
/// The interactive domain waits at most for its neighbour's kernel and this.
const MARGIN: Nanos = 5 * MILLISECOND;
/// Several times.
const SEVERAL: u64 = 3;

impl Experiment for GreedyInteractive {
    fn name(&self) -> &'static str {
        "greedy-interactive"
    }

    fn about(&self) -> &'static str {
        "A greedy domain keeps 64 kernels of 20 ms in flight; an interactive one launches a kernel of 1 ms every 40 ms in \
         the mean, at random. It should wait for the kernel that runs, not for the queue behind it."
    }

    fn domains(&self, _: Nanos) -> Vec<Domain> {
        vec![
            Domain::kernels("greedy", KERNEL).depth(64),
            Domain::kernels("inter", MILLISECOND)
                .depth(1)
                .every(Distribution::Exponential(40 * MILLISECOND)),
        ]
    }

    fn policies(&self) -> &'static [PolicyKind] {
        &[PolicyKind::Fifo, PolicyKind::Band, PolicyKind::Fair]
    }

    fn interactive(&self) -> Option<&'static str> {
        Some("inter")
    }

    fn claims(&self, runs: &Runs<'_>) -> Vec<Claim> {
        let p99 = |judged: &Judged| {
            let domains = judged.measures.domains.iter();
            let mut found = domains.filter(|domain| domain.name == "inter");
            found.next().map(|domain| domain.latency.p99)
        };
        let bound = KERNEL + MARGIN;
        let mut claims = runs.each(PolicyKind::Fair, |fair| {
            [Claim::time_at_most(
                "p99 launch latency of the interactive domain",
                fair,
                p99(fair),
                bound as f64,
            )]
        });
        claims.extend(runs.each(PolicyKind::Fifo, |fifo| {
            [Claim::time_over(
                "several times that: p99 launch latency of the interactive domain",
                fifo,
                p99(fifo),
                (SEVERAL * bound) as f64,
            )]
        }));
        claims
    }
}
