//! The experiments, one a file. To add one: a file, and its name here twice.

mod caps;
mod come_and_go;
mod copies_kernels;
mod cosched;
mod cpu_weights;
mod equal;
mod greedy_interactive;
pub mod scale;
mod short_long;
mod weights;

use crate::experiment::Experiment;

/// All that run domains, in the order of the report. [`scale`] is apart: it has thousands of them.
pub const ALL: [&dyn Experiment; 9] = [
    &equal::Equal,
    &weights::Weights,
    &short_long::ShortLong,
    &greedy_interactive::GreedyInteractive,
    &copies_kernels::CopiesKernels,
    &caps::Caps,
    &come_and_go::ComeAndGo,
    &cpu_weights::CpuWeights,
    &cosched::CoScheduling,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use vgpu_sched::SECOND;

    #[test]
    fn names_are_unique_and_domains_make_sense() {
        let mut names = BTreeSet::new();
        for experiment in ALL {
            assert!(names.insert(experiment.name()), "{}", experiment.name());
            assert!(!experiment.policies().is_empty() && !experiment.about().is_empty());
            for duration in [2 * SECOND, experiment.duration()] {
                let domains = experiment.domains(duration);
                let of_domains: BTreeSet<_> = domains.iter().map(|d| &d.name).collect();
                assert_eq!(of_domains.len(), domains.len());
                for domain in &domains {
                    assert!(domain.load.check().is_ok());
                    assert!(domain.name.chars().all(|c| c.is_ascii_alphanumeric()));
                    assert!(domain.from < domain.until.min(duration), "{domain:?}");
                }
                if let Some(name) = experiment.interactive() {
                    assert!(domains.iter().any(|domain| domain.name == name));
                }
            }
        }
    }
}
