//! Equal weights, unequal kernels.

use vgpu_sched::{MILLISECOND, Nanos, PolicyKind, SECOND};

use crate::domain::Domain;
use crate::experiment::{Claim, Experiment, Runs};
use crate::run::Place;

/// See the file.
pub struct Equal;

impl Experiment for Equal {
    fn name(&self) -> &'static str {
        "equal"
    }

    fn about(&self) -> &'static str {
        "Four domains of equal weight always want the device, with kernels of 1, 5, 20 and 50 ms. Who counts launches \
         gives by kernel length; who counts device time gives a quarter to each."
    }

    fn domains(&self, _: Nanos) -> Vec<Domain> {
        [1, 5, 20, 50]
            .map(|length| Domain::kernels(&format!("k{length}ms"), length * MILLISECOND))
            .into()
    }

    fn duration(&self) -> Nanos {
        30 * SECOND
    }

    fn claims(&self, runs: &Runs<'_>) -> Vec<Claim> {
        runs.each(PolicyKind::Fair, |fair| {
            let measures = &fair.measures;
            let bound = match fair.run.place {
                Place::Real => 0.97,
                Place::Sim => 0.99,
            };
            vec![
                Claim::at_least(
                    "min-max ratio over 10 s windows, median",
                    fair,
                    measures.min_max_10s,
                    bound,
                ),
                Claim::at_most(
                    "furthest from its share in any 1 s window, in own kernels",
                    fair,
                    measures.worst_kernels,
                    1.0,
                ),
                Claim::at_most(
                    "furthest that two are apart in any 1 s window, in one kernel of each",
                    fair,
                    measures.worst_lag,
                    1.0,
                ),
                Claim::percent_at_most(
                    "device idle while work waits",
                    fair,
                    Some(measures.lost),
                    0.02,
                ),
                Claim::percent_at_most(
                    "less work done than under fifo",
                    fair,
                    runs.overhead(fair),
                    0.02,
                ),
            ]
        })
    }
}
