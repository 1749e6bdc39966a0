//! Caps: not more than so much, even where nobody else wants it.

use vgpu_sched::{MILLISECOND, Nanos, PolicyKind, SECOND};

use crate::domain::Domain;
use crate::experiment::{Claim, Experiment, Runs};

/// See the file.
pub struct Caps;

impl Experiment for Caps {
    fn name(&self) -> &'static str {
        "caps"
    }

    fn about(&self) -> &'static str {
        "Two domains are capped at 20 and 30 % of the device, a third is not and goes away half-way. The capped ones never \
         have more than their caps, also not when half of the device idles."
    }

    fn domains(&self, duration: Nanos) -> Vec<Domain> {
        vec![
            Domain::kernels("cap20", 2 * MILLISECOND).cap(20),
            Domain::kernels("cap30", 5 * MILLISECOND).cap(30),
            Domain::kernels("free", 5 * MILLISECOND).between(0, duration / 2),
        ]
    }

    fn duration(&self) -> Nanos {
        10 * SECOND
    }

    fn changes(&self) -> bool {
        true
    }

    fn claims(&self, runs: &Runs<'_>) -> Vec<Claim> {
        runs.each(PolicyKind::Fair, |fair| {
            let capped = fair.run.domains.iter().zip(&fair.measures.domains);
            let claims = capped.filter_map(|(had, measured)| {
                let cap = f64::from(had.domain.share.cap?) / 100.0;
                Some(Claim::percent_at_most(
                    &format!("{}'s part of the device, within 1 % point", measured.name),
                    fair,
                    Some(measured.part),
                    cap + 0.01,
                ))
            });
            claims.collect::<Vec<_>>()
        })
    }
}
