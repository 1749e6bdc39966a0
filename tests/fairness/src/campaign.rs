//! Runs the experiments that are asked for, under the policies and in the places that are asked for, and judges them.
//! A run that fails is told and the others go on. Real runs come first, one at a time, with nothing else running.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use vgpu_sched::{Nanos, PolicyKind, SECOND, Share};

use crate::analysis;
use crate::domain::Domain;
use crate::experiment::{Claim, Experiment, Judged, Runs};
use crate::experiments::scale;
use crate::machine::Machine;
use crate::real::{Real, Setup};
use crate::run::{Piece, Place, Run};
use crate::simulate;

/// Simulated time, if nobody says otherwise.
const SIMULATED: Nanos = 60 * SECOND;
/// How long each domain runs alone, for comparison.
const ALONE: Nanos = 3 * SECOND;

/// What to run.
pub struct Plan {
    /// Experiments.
    pub experiments: Vec<&'static dyn Experiment>,
    /// Whether thousands of domains are simulated as well.
    pub scale: bool,
    /// Policies; those that each experiment is about, and all in the simulator, where there are none.
    pub policies: Vec<PolicyKind>,
    /// Every policy for real, too.
    pub all: bool,
    /// Where.
    pub places: Vec<Place>,
    /// How long each run takes, if not as long as its experiment says.
    pub duration: Option<Nanos>,
    /// A quarter of the time.
    pub quick: bool,
    /// Equal seeds draw equal times.
    pub seed: u64,
    /// The product that is run for real.
    pub setup: Setup,
}

/// What came of an experiment.
pub struct Done {
    /// Which.
    pub experiment: &'static dyn Experiment,
    /// Its runs, real ones first.
    pub judged: Vec<Judged>,
    /// What had to come of it.
    pub claims: Vec<Claim>,
}

/// What came of thousands of domains.
#[derive(Debug, Serialize)]
pub struct Scale {
    /// Simulations.
    pub simulated: Vec<scale::Simulated>,
    /// What decisions cost.
    pub costs: Vec<scale::Cost>,
    /// What had to come of it.
    pub claims: Vec<Claim>,
}

/// All that came of a plan.
pub struct Outcome {
    /// Per experiment.
    pub done: Vec<Done>,
    /// Thousands of domains.
    pub scale: Option<Scale>,
    /// The books against what kernels wrote down, over all real runs.
    pub books: Vec<Claim>,
    /// Where it ran.
    pub machine: Machine,
    /// What was not run, and how to.
    pub left_out: Vec<String>,
    /// What failed.
    pub failed: Vec<String>,
    /// How long all took.
    pub took: Duration,
}

impl Outcome {
    /// Everything that had to come of it.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        let of_scale = self.scale.iter().flat_map(|scale| &scale.claims);
        let done = self.done.iter().flat_map(|done| &done.claims);
        done.chain(of_scale).chain(&self.books)
    }
}

impl Plan {
    fn policies(&self, experiment: &dyn Experiment, place: Place) -> Vec<PolicyKind> {
        let about = experiment.policies();
        let chosen = |policy: &PolicyKind| match self.policies.is_empty() {
            true => self.all || place == Place::Sim || about.contains(policy),
            false => self.policies.contains(policy),
        };
        PolicyKind::ALL.into_iter().filter(chosen).collect()
    }

    fn duration(&self, experiment: &dyn Experiment, place: Place) -> Nanos {
        let usual = self.duration.unwrap_or(match place {
            Place::Real => experiment.duration(),
            Place::Sim => SIMULATED,
        });
        match self.quick && self.duration.is_none() {
            true => (usual / 4).max(2 * SECOND),
            false => usual,
        }
    }

    fn left_out(&self) -> Vec<String> {
        let mut left = Vec::new();
        for experiment in &self.experiments {
            let real = self.policies(*experiment, Place::Real);
            let missing: Vec<_> = PolicyKind::ALL
                .into_iter()
                .filter(|policy| !real.contains(policy))
                .map(PolicyKind::name)
                .collect();
            if self.places.contains(&Place::Real) && !missing.is_empty() && self.policies.is_empty()
            {
                left.push(format!(
                    "{} for real under {}: --all runs it",
                    experiment.name(),
                    missing.join(", ")
                ));
            }
        }
        for (place, name) in [(Place::Real, "real"), (Place::Sim, "sim")] {
            if !self.places.contains(&place) {
                left.push(format!("everything in {name}: --where {name} or both"));
            }
        }
        left
    }

    /// Runs all of it.
    ///
    /// # Errors
    ///
    /// If the product cannot be started. A run that fails is in [`Outcome::failed`].
    pub fn run(&self) -> Result<Outcome> {
        let began = Instant::now();
        let machine = Machine::look();
        let mut failed = Vec::new();
        let mut judged: BTreeMap<usize, Vec<Judged>> = BTreeMap::new();
        if self.places.contains(&Place::Real) && !self.experiments.is_empty() {
            let mut real = Real::start(&self.setup)?;
            self.each(
                Place::Real,
                &mut judged,
                &mut failed,
                |name, domains, policy, duration| {
                    real.run(name, domains, policy, duration, self.seed)
                },
            )?;
            real.stop()?;
        }
        if self.places.contains(&Place::Sim) {
            self.each(
                Place::Sim,
                &mut judged,
                &mut failed,
                |name, domains, policy, duration| {
                    Ok(simulate::run(name, domains, policy, duration, self.seed))
                },
            )?;
        }
        let done: Vec<Done> = judged
            .into_iter()
            .map(|(index, judged)| Done {
                experiment: self.experiments[index],
                claims: self.experiments[index].claims(&Runs(&judged)),
                judged,
            })
            .collect();
        let scale = match self.scale && self.places.contains(&Place::Sim) {
            true => Some(self.scale()?),
            false => None,
        };
        Ok(Outcome {
            books: books(&done),
            done,
            scale,
            machine: machine.and_now(),
            left_out: self.left_out(),
            failed,
            took: began.elapsed(),
        })
    }

    /// Runs every experiment under every policy in one place, and each of its domains alone.
    fn each(
        &self,
        place: Place,
        judged: &mut BTreeMap<usize, Vec<Judged>>,
        failed: &mut Vec<String>,
        mut run: impl FnMut(&str, &[Domain], PolicyKind, Nanos) -> Result<Run>,
    ) -> Result<()> {
        let mut alone: BTreeMap<String, Option<Vec<Piece>>> = BTreeMap::new();
        let total: usize = self
            .experiments
            .iter()
            .map(|experiment| self.policies(*experiment, place).len())
            .sum();
        let bar = progress(total as u64, &place.to_string())?;
        for (index, experiment) in self.experiments.iter().enumerate() {
            let duration = self.duration(*experiment, place);
            let domains = experiment.domains(duration);
            let mut comparisons = Vec::new();
            for domain in &domains {
                let mut lone = Domain {
                    share: Share::default(),
                    from: 0,
                    until: Nanos::MAX,
                    shares: Vec::new(),
                    cpu: Vec::new(),
                    ..domain.clone()
                };
                lone.name = "alone".to_owned();
                let key = lone.load.arguments().join(" ");
                if !alone.contains_key(&key) {
                    bar.set_message(format!("{}: {} alone", experiment.name(), domain.name));
                    let got = run("alone", &[lone], PolicyKind::Fair, ALONE.min(duration));
                    let pieces = match got {
                        Ok(mut run) => run.domains.pop().map(|had| had.pieces),
                        Err(error) => {
                            failed.push(format!("{} alone, {place}: {error:#}", domain.name));
                            None
                        }
                    };
                    alone.insert(key.clone(), pieces);
                }
                comparisons.push(alone.get(&key).cloned().flatten());
            }
            let comparisons = Arc::new(comparisons);
            for policy in self.policies(*experiment, place) {
                bar.set_message(format!("{} under {policy}", experiment.name()));
                match run(experiment.name(), &domains, policy, duration) {
                    Ok(run) => {
                        let measures = analysis::measure(&run, &comparisons);
                        let judged = judged.entry(index).or_default();
                        judged.push(Judged {
                            run,
                            measures,
                            alone: Arc::clone(&comparisons),
                        });
                    }
                    Err(error) => failed.push(format!(
                        "{} under {policy}, {place}: {error:#}",
                        experiment.name()
                    )),
                }
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Simulates thousands of domains, and times decisions.
    fn scale(&self) -> Result<Scale> {
        let policies = match self.policies.is_empty() {
            true => PolicyKind::ALL.to_vec(),
            false => self.policies.clone(),
        };
        let duration = self.duration.unwrap_or(scale::DURATION);
        // All sizes under the policy that most is promised of, the largest under each.
        let mut sizes = Vec::new();
        for &policy in &policies {
            for size in scale::SIZES {
                let largest = size == scale::SIZES[scale::SIZES.len() - 1];
                if policy == PolicyKind::Fair || (largest && !self.quick) {
                    sizes.push((policy, size));
                }
            }
        }
        let costs = policies.len() * scale::COSTS.len();
        let bar = progress((sizes.len() + costs) as u64, "scale")?;
        let mut result = Scale {
            simulated: Vec::new(),
            costs: Vec::new(),
            claims: Vec::new(),
        };
        for (policy, size) in sizes {
            bar.set_message(format!("{} domains under {policy}", size.0));
            let simulated = scale::simulate(policy, size, duration, self.seed);
            result.simulated.push(simulated);
            bar.inc(1);
        }
        for &policy in &policies {
            for domains in scale::COSTS {
                bar.set_message(format!("decisions among {domains} domains under {policy}"));
                result.costs.push(scale::cost(policy, domains));
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        result.claims = scale::claims(&result.simulated, &result.costs);
        Ok(result)
    }
}

/// What the scheduler counted against what kernels wrote down.
fn books(done: &[Done]) -> Vec<Claim> {
    let runs = done.iter().flat_map(|done| &done.judged);
    let real = runs.filter(|judged| judged.run.place == Place::Real);
    let worst = real
        .filter(|judged| judged.measures.accounting_error.is_some())
        .max_by(|a, b| {
            let [a, b] = [a, b].map(|judged| judged.measures.accounting_error);
            a.unwrap_or(0.0).total_cmp(&b.unwrap_or(0.0))
        });
    worst
        .map(|judged| {
            Claim::percent_at_most(
                "the worst of all: device time in the books against what kernels wrote down",
                judged,
                judged.measures.accounting_error,
                0.02,
            )
        })
        .into_iter()
        .collect()
}

fn progress(length: u64, prefix: &str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {elapsed} {msg}")
        .context("a progress bar")?;
    let bar = ProgressBar::new(length).with_style(style);
    bar.set_prefix(prefix.to_owned());
    Ok(bar)
}
