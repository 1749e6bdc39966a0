//! Co-scheduling: processors and accelerator at the same time.

use vgpu_sched::sim::Distribution;
use vgpu_sched::{MICROSECOND, MILLISECOND, Nanos, PolicyKind, SECOND};

use crate::domain::Domain;
use crate::experiment::Experiment;

/// See the file.
pub struct CoScheduling;

/// How long each pair of domains has the processors: Xen's time slice.
const SLICE: Nanos = 30 * MILLISECOND;

impl Experiment for CoScheduling {
    fn name(&self) -> &'static str {
        "cosched"
    }

    fn about(&self) -> &'static str {
        "Four domains compute for 0.5 ms on their processors between kernels of 2 ms; the hypervisor runs the first two for \
         30 ms, then the others. Pegasus' CoSched and AugC let on whose processors run, so that the next kernel comes soon. \
         On one machine the processors' states are told and not enforced: what is seen is the policies' choice, not their gain."
    }

    fn domains(&self, duration: Nanos) -> Vec<Domain> {
        (0..4)
            .map(|index| {
                Domain::kernels(&format!("d{index}"), 2 * MILLISECOND)
                    .computes(Distribution::Constant(500 * MICROSECOND))
                    .cpu_slot(index / 2, 2, SLICE, duration)
            })
            .collect()
    }

    fn duration(&self) -> Nanos {
        10 * SECOND
    }

    fn policies(&self) -> &'static [PolicyKind] {
        &[PolicyKind::Cosched, PolicyKind::Augc, PolicyKind::Fair]
    }
}
