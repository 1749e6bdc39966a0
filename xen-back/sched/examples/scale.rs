//! How long the simulator takes for ten thousand domains on a hundred devices for a minute, policy by policy:
//! `cargo run --release -p vgpu-sched --example scale [DOMAINS [DEVICES [SECONDS [POLICY…]]]]`.

use std::time::Instant;

use vgpu_sched::sim::{Arrivals, Distribution, Experiment, Workload, run};
use vgpu_sched::{Engine, MILLISECOND, Nanos, PolicyKind, SECOND, metrics};

/// A mixture: half always have work, the rest wait for each kernel, come and go, or copy.
fn domain(index: u32, domains: u32, devices: u32, duration: Nanos) -> Workload {
    let lengths = [1, 2, 5, 10].map(|length| length * MILLISECOND);
    let length = lengths[index as usize / 7 % lengths.len()];
    let mut workload = Workload::busy(length);
    workload.device = index % devices;
    match index / devices % 8 {
        0..4 => {}
        4 | 5 => {
            workload.arrivals = Arrivals::Open {
                every: Distribution::Exponential(Nanos::from(domains / devices) * 2 * length),
            };
        }
        6 => {
            workload.piece = Distribution::Exponential(length);
            workload.from = duration / 4;
            workload.until = duration / 4 * 3;
        }
        _ => workload.engine = Engine::Copy,
    }
    workload
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: u32| {
        let argument = arguments.next();
        argument.map_or(Ok(otherwise), |argument| argument.parse())
    };
    let (domains, devices, seconds) = (number(10_000)?, number(100)?, number(60)?);
    let mut policies: Vec<PolicyKind> = arguments
        .map(|name| name.parse())
        .collect::<Result<_, _>>()?;
    if policies.is_empty() {
        policies.extend(PolicyKind::ALL);
    }
    let duration = Nanos::from(seconds) * SECOND;
    println!("{domains} domains on {devices} devices for {seconds} s");
    println!("policy        took s  decisions  kernels  utilisation  min-max of the busy ones");
    for policy in policies {
        let workloads: Vec<Workload> = (0..domains)
            .map(|index| domain(index, domains, devices, duration))
            .collect();
        let experiment = Experiment {
            window: duration,
            ..Experiment::new(policy, workloads, duration)
        };
        let began = Instant::now();
        let results = run(&experiment);
        let took = began.elapsed().as_secs_f64();
        let kernels: u64 = (results.domains.iter())
            .map(|domain| domain.account.launches)
            .sum();
        let busy: Nanos = (results.domains.iter())
            .map(|domain| domain.account.kernels)
            .sum();
        let utilisation = busy as f64 / duration as f64 / f64::from(devices);
        // Domains that always had work, device by device.
        let ratios = (0..devices).map(|device| {
            let had: Vec<f64> = (device..domains)
                .step_by(devices as usize)
                .filter(|index| index / devices % 8 < 4)
                .map(|index| results.domains[index as usize].account.kernels as f64)
                .collect();
            metrics::min_max(&had)
        });
        let worst = ratios.fold(1.0, f64::min);
        let name = policy.name();
        println!(
            "{name:12} {took:7.2} {:10} {kernels:8} {utilisation:12.4} {worst:9.4}",
            results.decisions
        );
    }
    Ok(())
}
