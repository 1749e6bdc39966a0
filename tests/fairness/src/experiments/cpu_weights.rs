//! The hypervisor's weights, changed while the device is shared.

use vgpu_sched::{Engine, MILLISECOND, Nanos, PolicyKind, SECOND};

use crate::analysis::windows;
use crate::domain::Domain;
use crate::experiment::{Claim, Experiment, Judged, Runs};

/// See the file.
pub struct CpuWeights;

/// How soon a change must show.
const FOLLOWS: Nanos = 2 * SECOND;

impl Experiment for CpuWeights {
    fn name(&self) -> &'static str {
        "cpu-weights"
    }

    fn about(&self) -> &'static str {
        "Two domains whose processors have the hypervisor's weights 256 and 512 always want the device; half-way the \
         first one's is set to 1024. Under xen-credit the device is shared 1:2, and 2:1 afterwards; policies that do not \
         look at the hypervisor share it 1:1."
    }

    fn domains(&self, duration: Nanos) -> Vec<Domain> {
        vec![
            Domain::kernels("x256", 2 * MILLISECOND)
                .cpu_weight(0, 256)
                .cpu_weight(duration / 2, 1024),
            Domain::kernels("x512", 2 * MILLISECOND).cpu_weight(0, 512),
        ]
    }

    fn policies(&self) -> &'static [PolicyKind] {
        &[PolicyKind::XenCredit]
    }

    fn changes(&self) -> bool {
        true
    }

    fn claims(&self, runs: &Runs<'_>) -> Vec<Claim> {
        runs.each(PolicyKind::XenCredit, |judged| {
            let half = judged.run.duration / 2;
            let mut claims = Vec::new();
            for (what, from, to, ratio) in [
                ("256:512 share 1:2, relative error", 0, half, 2.0),
                (
                    "1024:512 share 2:1 from 2 s after the change, relative error",
                    half + FOLLOWS,
                    judged.run.duration,
                    0.5,
                ),
            ] {
                let error = second_to_first(judged, from, to).map(|got| (got / ratio - 1.0).abs());
                claims.push(Claim::percent_at_most(what, judged, error, 0.05));
            }
            claims
        })
    }
}

/// What the second domain had in units of what the first had.
fn second_to_first(judged: &Judged, from: Nanos, to: Nanos) -> Option<f64> {
    let length = SECOND / 2;
    let run = &judged.run;
    let windows = windows(&run.domains, Engine::Compute, length, run.duration);
    let range = (from.div_ceil(length) as usize)..((to / length) as usize);
    let part = windows.used.get(range).filter(|part| !part.is_empty())?;
    let sum = |domain: usize| part.iter().map(|window| window[domain]).sum::<Nanos>() as f64;
    Some(sum(1) / sum(0))
}
