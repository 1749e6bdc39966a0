//! Domains that come and go.

use vgpu_sched::{MILLISECOND, Nanos, PolicyKind};

use crate::domain::Domain;
use crate::experiment::{Claim, Experiment, Runs};

/// See the file.
pub struct ComeAndGo;

impl Experiment for ComeAndGo {
    fn name(&self) -> &'static str {
        "come-and-go"
    }

    fn about(&self) -> &'static str {
        "Four domains of equal weight with kernels of 2, 4, 8 and 16 ms come one after the other and go again in the same \
         order; the last one's weight is doubled half-way. Whoever is there has its share at once: a newcomer is owed \
         nothing for the time before."
    }

    fn domains(&self, duration: Nanos) -> Vec<Domain> {
        let part = duration / 8;
        let domains = [2, 4, 8, 16].into_iter().zip(0..);
        domains
            .map(|(length, index)| {
                let domain = Domain::kernels(&format!("k{length}ms"), length * MILLISECOND)
                    .between(index * part, (index + 5) * part);
                match index {
                    3 => domain.weight_from(4 * part, 512),
                    _ => domain,
                }
            })
            .collect()
    }

    fn changes(&self) -> bool {
        true
    }

    fn claims(&self, runs: &Runs<'_>) -> Vec<Claim> {
        runs.each(PolicyKind::Fair, |fair| {
            [Claim::percent_at_most(
                "mean utilisation error in windows of 500 ms",
                fair,
                fair.measures.errors[1],
                0.05,
            )]
        })
    }
}
