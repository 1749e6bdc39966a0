//! What an experiment is: domains, how long, and what must come of it. To add one, write a file in `experiments/` and
//! name it in the list there.

use std::sync::Arc;

use serde::Serialize;
use vgpu_sched::{Nanos, PolicyKind, SECOND};

use crate::analysis::Measures;
use crate::domain::Domain;
use crate::run::{Piece, Place, Run};

/// An experiment.
pub trait Experiment: Sync {
    /// What `--experiment` calls it.
    fn name(&self) -> &'static str;

    /// What it is about, in a sentence or two: what is shared by whom, and what is to be seen.
    fn about(&self) -> &'static str;

    /// The domains, for a run of this length.
    fn domains(&self, duration: Nanos) -> Vec<Domain>;

    /// How long it runs if nobody says otherwise.
    fn duration(&self) -> Nanos {
        20 * SECOND
    }

    /// The policies that it is about: those that it runs under for real, unless more are asked for. The simulator
    /// runs all.
    fn policies(&self) -> &'static [PolicyKind] {
        &[PolicyKind::Fifo, PolicyKind::Fair]
    }

    /// Whether shares over time are worth drawing.
    fn changes(&self) -> bool {
        false
    }

    /// Whose launch latency is worth drawing: a domain's name.
    fn interactive(&self) -> Option<&'static str> {
        None
    }

    /// What must come of it.
    fn claims(&self, _: &Runs<'_>) -> Vec<Claim> {
        Vec::new()
    }
}

/// A run and what was measured in it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The run.
    pub run: Run,
    /// The measures.
    pub measures: Measures,
    /// What each domain's work was like while it had the device to itself, if that was run.
    pub alone: Arc<Vec<Option<Vec<Piece>>>>,
}

/// The runs of one experiment.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'r>(pub &'r [Judged]);

impl<'r> Runs<'r> {
    /// The run under a policy, if there is one.
    pub fn of(&self, place: Place, policy: PolicyKind) -> Option<&'r Judged> {
        let mut runs = self.0.iter();
        runs.find(|judged| judged.run.place == place && judged.run.policy == policy)
    }

    /// What `claim` makes of the run under a policy, in each place in which there is one.
    pub fn each<'a, C: IntoIterator<Item = Claim>>(
        &'a self,
        policy: PolicyKind,
        claim: impl FnMut(&'r Judged) -> C,
    ) -> Vec<Claim> {
        [Place::Real, Place::Sim]
            .into_iter()
            .filter_map(|place| self.of(place, policy))
            .flat_map(claim)
            .collect()
    }

    /// Work done under a policy over the work done under fifo, less one: what arbitration costs.
    pub fn overhead(&self, judged: &Judged) -> Option<f64> {
        let fifo = self.of(judged.run.place, PolicyKind::Fifo)?;
        Some(fifo.measures.busy / judged.measures.busy - 1.0)
    }
}

/// Something that must be so, and whether it was.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// What it is about.
    pub what: String,
    /// Where it was measured.
    pub place: Place,
    /// What must be.
    pub wanted: String,
    /// What was.
    pub measured: String,
    /// Whether that is enough; none if it was not measured.
    pub holds: Option<bool>,
}

impl Claim {
    /// A value that must be at least so much; `None` was not measured.
    pub fn at_least(what: &str, judged: &Judged, value: Option<f64>, bound: f64) -> Self {
        Self::new(
            what,
            judged,
            value,
            format!("≥ {bound}"),
            |v| v >= bound,
            plain,
        )
    }

    /// A part that must be at most so much, in percent.
    pub fn percent_at_most(what: &str, judged: &Judged, value: Option<f64>, bound: f64) -> Self {
        let wanted = format!("≤ {} %", short(bound * 100.0));
        Self::new(what, judged, value, wanted, |v| v <= bound, percent)
    }

    /// A part that must be more than so much, in percent.
    pub fn percent_over(what: &str, judged: &Judged, value: Option<f64>, bound: f64) -> Self {
        let wanted = format!("> {} %", short(bound * 100.0));
        Self::new(what, judged, value, wanted, |v| v > bound, percent)
    }

    /// A number that must be at most so much.
    pub fn at_most(what: &str, judged: &Judged, value: Option<f64>, bound: f64) -> Self {
        Self::new(
            what,
            judged,
            value,
            format!("≤ {bound}"),
            |v| v <= bound,
            plain,
        )
    }

    /// A time, in nanoseconds, that must be at most so much.
    pub fn time_at_most(what: &str, judged: &Judged, value: Option<f64>, bound: f64) -> Self {
        let wanted = format!("≤ {}", millis(bound));
        Self::new(what, judged, value, wanted, |v| v <= bound, millis)
    }

    /// A time, in nanoseconds, that must be more than so much.
    pub fn time_over(what: &str, judged: &Judged, value: Option<f64>, bound: f64) -> Self {
        let wanted = format!("> {}", millis(bound));
        Self::new(what, judged, value, wanted, |v| v > bound, millis)
    }

    fn new(
        what: &str,
        judged: &Judged,
        value: Option<f64>,
        wanted: String,
        holds: impl Fn(f64) -> bool,
        text: fn(f64) -> String,
    ) -> Self {
        Self {
            what: format!("{}, {}: {what}", judged.run.experiment, judged.run.policy),
            place: judged.run.place,
            wanted,
            measured: value.map_or_else(|| "not measured".to_owned(), text),
            // NaN is enough for nothing.
            holds: value.map(holds),
        }
    }
}

/// Without digits that say nothing.
fn short(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn plain(value: f64) -> String {
    format!("{value:.3}")
}

fn percent(value: f64) -> String {
    format!("{:.2} %", value * 100.0)
}

fn millis(nanos: f64) -> String {
    format!("{:.2} ms", nanos / 1e6)
}
