//! Weights 1:2:4:8.

use vgpu_sched::{MILLISECOND, Nanos, PolicyKind};

use crate::domain::Domain;
use crate::experiment::{Claim, Experiment, Runs};

/// See the file.
pub struct Weights;

impl Experiment for Weights {
    fn name(&self) -> &'static str {
        "weights"
    }

    fn about(&self) -> &'static str {
        "Four domains of weights 128, 256, 512 and 1024 always want the device, with kernels of 3 ms. Each is to have \
         the device in proportion to its weight."
    }

    fn domains(&self, _: Nanos) -> Vec<Domain> {
        [1, 2, 4, 8]
            .map(|weight| {
                Domain::kernels(&format!("w{weight}"), 3 * MILLISECOND).weight(128 * weight)
            })
            .into()
    }

    fn claims(&self, runs: &Runs<'_>) -> Vec<Claim> {
        runs.each(PolicyKind::Fair, |fair| {
            [Claim::percent_at_most(
                "largest relative error of a share",
                fair,
                fair.measures.share_error,
                0.03,
            )]
        })
    }
}
