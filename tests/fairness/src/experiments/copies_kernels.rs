//! Copies against kernels: two engines, shared apart.

use vgpu_sched::{MILLISECOND, Nanos, PolicyKind, SECOND};

use crate::domain::Domain;
use crate::experiment::{Claim, Experiment, Runs};

/// See the file.
pub struct CopiesKernels;

impl Experiment for CopiesKernels {
    fn name(&self) -> &'static str {
        "copies-kernels"
    }

    fn about(&self) -> &'static str {
        "Two domains launch kernels of 2 and 8 ms, and a third copies 4 MB at a time. Copies have an engine of their own \
         and are charged apart (Gdev's multi-resource queues): they cost the others none of the compute engine."
    }

    fn domains(&self, _: Nanos) -> Vec<Domain> {
        vec![
            Domain::kernels("k2ms", 2 * MILLISECOND),
            Domain::kernels("k8ms", 8 * MILLISECOND),
            Domain::copies("copier", 4_000_000),
        ]
    }

    fn duration(&self) -> Nanos {
        10 * SECOND
    }

    fn claims(&self, runs: &Runs<'_>) -> Vec<Claim> {
        runs.each(PolicyKind::Fair, |fair| {
            [Claim::at_least(
                "min-max ratio of the two that launch kernels",
                fair,
                fair.measures.min_max,
                0.97,
            )]
        })
    }
}
