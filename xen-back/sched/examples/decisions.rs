//! What a decision costs, policy by policy, with 10 to 100,000 domains that all have work, and how it grows: the fit
//! is the line a + b · log₂ n through the measurements. `cargo run --release -p vgpu-sched --example decisions`.

use std::time::Instant;

use vgpu_sched::{
    CpuState, Decision, DomainId, MILLISECOND, PolicyKind, Scheduler, Settings, Share, Used,
};

const SIZES: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];
const ROUNDS: u32 = 200_000;

/// Nanoseconds for one piece of work: that it arrives, is let on, ends and is charged.
fn measure(policy: PolicyKind, domains: u32) -> f64 {
    let mut scheduler = Scheduler::new(policy.make(), Settings::default());
    for index in 0..domains {
        let share = Share {
            weight: 64 + index * 37 % 1000,
            ..Share::default()
        };
        scheduler.insert(0, DomainId(index), share);
        let state = CpuState {
            weight: 256,
            running: index % 2 == 0,
            ..CpuState::default()
        };
        scheduler.cpu(0, DomainId(index), state);
        scheduler.arrived(0, DomainId(index), 2);
    }
    let mut now = 0;
    let mut round = |count: u32| {
        for _ in 0..count {
            match scheduler.decide(now) {
                Decision::Run(grant) => {
                    let start = now;
                    now += MILLISECOND;
                    let used = Used::span(start, now, grant.pieces);
                    scheduler.complete(now, grant.number, used);
                    scheduler.arrived(now, grant.id, grant.pieces);
                }
                Decision::At(when) => now = when,
                Decision::Idle => now += MILLISECOND,
            }
        }
    };
    round(ROUNDS / 4);
    let began = Instant::now();
    round(ROUNDS);
    began.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
}

/// The line through the points, and the part of their variance that it explains.
fn fit(points: &[(f64, f64)]) -> (f64, f64, f64) {
    let count = points.len() as f64;
    let mean = |values: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(values).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let sum = |value: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>();
    let b = sum(&|(px, py)| (px - x) * (py - y)) / sum(&|(px, _)| (px - x).powi(2));
    let a = y - b * x;
    let rest = sum(&|(px, py)| (py - a - b * px).powi(2));
    (a, b, 1.0 - rest / sum(&|(_, py)| (py - y).powi(2)))
}

fn main() {
    println!("ns for one piece of work, all that the scheduler does for it");
    println!("{:12} {SIZES:>8?}  a + b·log2(n)  R²", "policy");
    for policy in PolicyKind::ALL {
        let costs: Vec<f64> = SIZES.iter().map(|size| measure(policy, *size)).collect();
        let points: Vec<(f64, f64)> = (SIZES.iter().zip(&costs))
            .map(|(size, cost)| (f64::from(*size).log2(), *cost))
            .collect();
        let (a, b, explained) = fit(&points);
        let costs: Vec<String> = costs.iter().map(|cost| format!("{cost:8.0}")).collect();
        let name = policy.name();
        println!(
            "{name:12} {}  {a:.0} + {b:.1}·log2(n)  {explained:.2}",
            costs.join(" ")
        );
    }
}
