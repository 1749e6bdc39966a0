//! Gdev's experiment: short kernels against long ones.

use vgpu_sched::{MILLISECOND, Nanos, PolicyKind};

use crate::domain::Domain;
use crate::experiment::{Claim, Experiment, Runs};

/// See the file.
pub struct ShortLong;

/// Gdev's own finding is at most this under BAND (Kato et al., USENIX ATC 2012).
const BAND: f64 = 0.07;

impl Experiment for ShortLong {
    fn name(&self) -> &'static str {
        "short-long"
    }

    fn about(&self) -> &'static str {
        "Gdev's set-up of LUD (short kernels) against HW (long kernels): two domains of equal weight, kernels of 1 ms and \
         of 20 ms, and each program launches the next kernel when it has seen the last one end. The short one is never \
         waiting at the moment of a decision, so FIFO and CREDIT give nearly everything to the long one."
    }

    fn domains(&self, _: Nanos) -> Vec<Domain> {
        vec![
            Domain::kernels("lud", MILLISECOND).depth(1),
            Domain::kernels("hw", 20 * MILLISECOND).depth(1),
        ]
    }

    fn policies(&self) -> &'static [PolicyKind] {
        &[
            PolicyKind::Fifo,
            PolicyKind::Credit,
            PolicyKind::GdevCredit,
            PolicyKind::Band,
            PolicyKind::Fair,
        ]
    }

    fn claims(&self, runs: &Runs<'_>) -> Vec<Claim> {
        let mut claims = Vec::new();
        for policy in [PolicyKind::Band, PolicyKind::Fair] {
            claims.extend(runs.each(policy, |judged| {
                [Claim::percent_at_most(
                    "mean utilisation error in windows of 500 ms",
                    judged,
                    judged.measures.errors[1],
                    BAND,
                )]
            }));
        }
        for policy in [PolicyKind::Fifo, PolicyKind::GdevCredit] {
            claims.extend(runs.each(policy, |judged| {
                [Claim::percent_over(
                    "fails, as Gdev found: mean utilisation error in windows of 500 ms",
                    judged,
                    judged.measures.errors[1],
                    BAND,
                )]
            }));
        }
        claims
    }
}
