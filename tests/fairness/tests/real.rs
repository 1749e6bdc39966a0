//! One small experiment from end to end: real programs through the split driver, the scheduler's books and trace, and
//! the report. Nothing about time is asserted: CI's machine has other work.

use anyhow::{Context as _, Result};
use vgpu_e2e::Driver;
use vgpu_fairness::campaign::Plan;
use vgpu_fairness::experiment::{Claim, Experiment, Judged, Runs};
use vgpu_fairness::{Domain, Place, Setup, report};
use vgpu_sched::{MILLISECOND, Nanos, PolicyKind, SECOND};

struct Small;

impl Experiment for Small {
    fn name(&self) -> &'static str {
        "small"
    }

    fn about(&self) -> &'static str {
        "Two domains and a third that copies, for a second."
    }

    fn domains(&self, duration: Nanos) -> Vec<Domain> {
        vec![
            Domain::kernels("one", MILLISECOND).weight(512),
            Domain::kernels("two", 3 * MILLISECOND)
                .depth(1)
                .between(duration / 4, duration)
                .weight_from(duration / 2, 100),
            Domain::copies("three", 100_000),
        ]
    }

    fn claims(&self, runs: &Runs<'_>) -> Vec<Claim> {
        runs.each(PolicyKind::Fair, |judged| {
            let busy = Some(judged.measures.busy);
            [Claim::percent_at_most("it is <busy>", judged, busy, 1.0)]
        })
    }
}

fn look(judged: &Judged) {
    let place = judged.run.place;
    for had in &judged.run.domains {
        let name = &had.domain.name;
        assert!(!had.pieces.is_empty(), "{name} did nothing in {place}");
        for piece in &had.pieces {
            assert!(
                piece.submitted <= piece.start && piece.start <= piece.end,
                "{piece:?}"
            );
        }
        let counted = &had.counted;
        if name == "three" {
            // The books also have what the program fetched at its end.
            assert!(
                had.bytes > 0 && counted.bytes >= had.bytes,
                "{} bytes, {counted:?}",
                had.bytes
            );
            continue;
        }
        if place == Place::Real {
            // vgpu-load has seen that each of its kernels ran, in order and long enough.
            let launches = had.pieces.len() as u64;
            assert_eq!(counted.launches, launches, "{name}: the books");
            assert_eq!(counted.traced_launches, launches, "{name}: the trace");
            // What two had at once is in the books once.
            assert!(
                counted.kernels_ns <= counted.traced_ns,
                "{name}: {counted:?}"
            );
        }
        assert!(counted.kernels_ns > 0);
    }
}

#[test]
fn a_real_experiment_adds_up() -> Result<()> {
    let plan = Plan {
        experiments: vec![&Small],
        scale: false,
        policies: vec![PolicyKind::Fair],
        all: false,
        places: vec![Place::Real, Place::Sim],
        duration: Some(SECOND),
        quick: false,
        seed: 7,
        setup: Setup {
            bundle: None,
            driver: Driver::Softcuda,
        },
    };
    let outcome = plan.run()?;
    assert!(outcome.failed.is_empty(), "{:#?}", outcome.failed);
    let done = outcome.done.first().context("nothing came of it")?;
    let places: Vec<Place> = done.judged.iter().map(|judged| judged.run.place).collect();
    assert_eq!(places, [Place::Real, Place::Sim]);
    for judged in &done.judged {
        look(judged);
    }
    let folder = tempfile::tempdir()?;
    let page = std::fs::read_to_string(report::write(&outcome, folder.path())?)?;
    for part in ["<svg", "it is &lt;busy&gt;", "id=small", "softcuda"] {
        assert!(page.contains(part), "{part} is not in the report");
    }
    let windows = std::fs::read_to_string(folder.path().join("runs/small-fair-real-windows.csv"))?;
    // Ten, two and one window for each of the three domains.
    assert_eq!(windows.lines().count(), 1 + 13 * 3);
    let summary = report::summary(&outcome);
    assert_eq!(summary["runs"].as_array().map(Vec::len), Some(2));
    Ok(())
}
