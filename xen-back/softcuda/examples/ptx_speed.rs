//! How fast the sample programs' kernels are compiled and run: `cargo run --release -p softcuda
//! --example ptx_speed`.

#![allow(
    clippy::expect_used,
    reason = "a program for developers, who see the message"
)]

#[path = "../tests/ptx_common/mod.rs"]
mod ptx_common;

use std::time::Instant;

use ptx_common::{Args, Device, Dim, Numbers};
use softcuda::exec::Program;

const SAMPLES: [(&str, &str); 5] = [
    (
        "vectorAdd",
        include_str!("../../../tests/samples/kernels/vectorAdd.ptx"),
    ),
    (
        "matrixMul",
        include_str!("../../../tests/samples/kernels/matrixMul.ptx"),
    ),
    (
        "BlackScholes",
        include_str!("../../../tests/samples/kernels/BlackScholes.ptx"),
    ),
    (
        "scalarProd",
        include_str!("../../../tests/samples/kernels/scalarProd.ptx"),
    ),
    (
        "histogram",
        include_str!("../../../tests/samples/kernels/histogram.ptx"),
    ),
];

/// Seconds that this process has had of the processors: on a busy machine what a core does in them says
/// more than the clock.
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The best of a few runs: seconds by the clock, and of the processors.
fn best(mut run: impl FnMut()) -> (f64, f64) {
    let times = (0..5).map(|_| {
        let (start, used) = (Instant::now(), processor_seconds());
        run();
        (start.elapsed().as_secs_f64(), processor_seconds() - used)
    });
    times.fold((f64::INFINITY, f64::INFINITY), |a, b| {
        (a.0.min(b.0), a.1.min(b.1))
    })
}

/// One line: how many units of work in how much time.
fn report(name: &str, (clock, used): (f64, f64), work: f64, unit: &str) {
    println!(
        "{name:20} {:9.2} ms {:8.2} {unit} {:8.2} per core",
        clock * 1e3,
        work / clock / 1e9,
        work / used / 1e9
    );
}

fn main() {
    let mut programs = Vec::new();
    for (name, text) in SAMPLES {
        let start = Instant::now();
        let program = Program::compile(text).expect("the samples compile");
        let first = start.elapsed().as_secs_f64() * 1e3;
        let again = best(|| drop(Program::compile(text))).0 * 1e3;
        println!(
            "{name:14} compile {first:7.2} ms, again {again:7.2} ms, {} lines",
            text.lines().count()
        );
        programs.push(program);
    }
    let [
        vector_add,
        matrix_mul,
        black_scholes,
        scalar_prod,
        histogram,
    ] = &programs[..]
    else {
        return;
    };
    let mut device = Device::new(1 << 30);
    let mut numbers = Numbers(1);
    let mut floats =
        |count: usize| -> Vec<f32> { (0..count).map(|_| 0.5 + numbers.unit()).collect() };

    let run = |device: &Device,
               program: &Program,
               name: &str,
               grid: [u32; 2],
               block: [u32; 2],
               args: &Args| {
        let time = best(|| {
            device
                .launch(program, name, Dim::from(grid), Dim::from(block), args)
                .expect("the kernel runs");
        });
        let kernel = program.kernels().iter().position(|info| info.name == name);
        if !kernel.is_some_and(|kernel| program.runs_in_gangs(kernel)) {
            print!("(thread by thread) ");
        }
        time
    };

    let count = 16 << 20;
    let (a, b, c) = (
        device.upload(&floats(count)),
        device.upload(&floats(count)),
        device.zeros::<f32>(count),
    );
    let args = Args::new().add(a).add(b).add(c).add(count as u64);
    let time = run(&device, vector_add, "vectorAdd", [256, 1], [256, 1], &args);
    report("vectorAdd", time, 12.0 * count as f64, "GB/s");

    for (name, tile) in [("matrixMul16", 16), ("matrixMul32", 32)] {
        for n in [512_u32, 1024] {
            let size = (n * n) as usize;
            let args = Args::new().add(a).add(b).add(c).add(n).add(n).add(n);
            let time = run(&device, matrix_mul, name, [n / tile; 2], [tile; 2], &args);
            let flops = 2.0 * size as f64 * f64::from(n);
            report(&format!("{name} {n}"), time, flops, "GFLOP/s");
        }
    }

    let options = 4_000_000;
    let years = device.upload(&floats(options));
    let puts = device.zeros::<f32>(options);
    let args = Args::new()
        .add(c)
        .add(puts)
        .add(a)
        .add(b)
        .add(years)
        .add(0.02_f32)
        .add(0.3_f32)
        .add(options as u32);
    let time = run(
        &device,
        black_scholes,
        "BlackScholes",
        [480, 1],
        [128, 1],
        &args,
    );
    report("BlackScholes", time, options as f64, "Goptions/s");

    for name in ["scalarProdTree", "scalarProdShuffle"] {
        let args = Args::new().add(a).add(b).add(c).add(256_u32).add(4096_u32);
        let time = run(&device, scalar_prod, name, [128, 1], [256, 1], &args);
        report(name, time, 8.0 * 256.0 * 4096.0, "GB/s");
    }

    let bytes = 64 << 20;
    let data: Vec<u64> = (0..bytes / 8).map(|_| numbers.next()).collect();
    let data = device.upload(&data);
    for (name, bins) in [("histogram256", 256), ("histogram64", 64)] {
        let partial = device.zeros::<u32>(240 * bins);
        let args = Args::new().add(data).add(bytes as u64).add(partial);
        let time = run(&device, histogram, name, [240, 1], [256, 1], &args);
        report(name, time, bytes as f64, "GB/s");
    }
}
