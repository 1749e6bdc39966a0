//! The kernels of `cargo xtask bench softcuda` on whatever `libcuda.so.1` the loader finds, beside the same
//! algorithms in plain Rust on all cores, in turns. Both sides do the same arithmetic in the same order:
//! their results must be equal to the bit, or there are no figures.

mod plain;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use cuda_samples::Random;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use serde::Serialize;

/// Measure kernels on a CUDA device beside the same algorithms in plain Rust; JSON on standard output
#[derive(Parser)]
#[command(name = "softcuda-bench", version)]
enum Arguments {
    /// Run every kernel and its counterpart in turns
    Kernels {
        /// How often both are run
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Run this kernel alone
        #[arg(long)]
        only: Option<String>,
    },
    /// Load a module once and say how long that took
    Load {
        /// The PTX to load
        ptx: PathBuf,
    },
}

/// Times of one kernel and its counterpart, in milliseconds, a pair a round.
#[derive(Serialize)]
struct Figure {
    what: &'static str,
    size: String,
    device_ms: Vec<f64>,
    plain_ms: Vec<f64>,
}

struct Bench {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    rounds: u32,
    only: Option<String>,
    figures: Vec<Figure>,
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn config(grid: (u32, u32), block: (u32, u32)) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (grid.0, grid.1, 1),
        block_dim: (block.0, block.1, 1),
        shared_mem_bytes: 0,
    }
}

fn same(what: &str, got: &[f32], want: &[f32]) -> Result<()> {
    let bits = |values: &[f32]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>()
    };
    ensure!(
        bits(got) == bits(want),
        "{what}: the device computed something else"
    );
    Ok(())
}

impl Bench {
    fn wanted(&self, what: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == what)
    }

    fn kernels<const N: usize>(&self, ptx: &str, names: [&str; N]) -> Result<[CudaFunction; N]> {
        let module = self
            .context
            .load_module(Ptx::from_src(ptx))
            .context("a module cannot be loaded")?;
        let found = names.map(|name| module.load_function(name));
        let mut functions = Vec::new();
        for function in found {
            functions.push(function?);
        }
        functions
            .try_into()
            .map_err(|_| anyhow::anyhow!("a kernel was lost"))
    }

    fn upload(&self, values: &[f32]) -> Result<CudaSlice<f32>> {
        Ok(self.stream.clone_htod(values)?)
    }

    /// Runs both sides in turns, after one run of each that does not count.
    fn measure(
        &mut self,
        what: &'static str,
        size: String,
        mut launch: impl FnMut(&Arc<CudaStream>) -> Result<()>,
        mut plain: impl FnMut(),
    ) -> Result<()> {
        let (mut device_ms, mut plain_ms) = (Vec::new(), Vec::new());
        for round in 0..=self.rounds {
            let start = Instant::now();
            launch(&self.stream)?;
            self.stream
                .synchronize()
                .with_context(|| format!("{what} failed"))?;
            let device = milliseconds(start);
            let start = Instant::now();
            plain();
            if round > 0 {
                plain_ms.push(milliseconds(start));
                device_ms.push(device);
            }
        }
        self.figures.push(Figure {
            what,
            size,
            device_ms,
            plain_ms,
        });
        Ok(())
    }

    fn matrix_mul(&mut self) -> Result<()> {
        const N: usize = 1024;
        let mut random = Random::new(1);
        let (a, b) = (
            random.floats(N * N, -1.0, 1.0),
            random.floats(N * N, -1.0, 1.0),
        );
        let [kernel] = self.kernels(
            include_str!("../../samples/kernels/matrixMul.ptx"),
            ["matrixMul32"],
        )?;
        let (on_a, on_b) = (self.upload(&a)?, self.upload(&b)?);
        let mut on_c = self.stream.alloc_zeros::<f32>(N * N)?;
        let mut c = vec![0.0; N * N];
        let width = N as u32;
        self.measure(
            "matrixMul",
            format!("{N} × {N}"),
            |stream| {
                let mut launch = stream.launch_builder(&kernel);
                launch.arg(&on_a).arg(&on_b).arg(&mut on_c);
                launch.arg(&width).arg(&width).arg(&width);
                // SAFETY: matrixMul32(a, b, c, m, n, k) stays within matrices of these sizes.
                unsafe { launch.launch(config((width / 32, width / 32), (32, 32))) }?;
                Ok(())
            },
            || plain::matrix_mul(&a, &b, &mut c, N),
        )?;
        same("matrixMul", &self.stream.clone_dtoh(&on_c)?, &c)
    }

    fn black_scholes(&mut self) -> Result<()> {
        const N: usize = 4_000_000;
        const RATE: f32 = 0.02;
        const VOLATILITY: f32 = 0.30;
        let mut random = Random::new(2);
        let spot = random.floats(N, 5.0, 30.0);
        let strike = random.floats(N, 1.0, 100.0);
        let years = random.floats(N, 0.25, 10.0);
        let [kernel] = self.kernels(
            include_str!("../../samples/kernels/BlackScholes.ptx"),
            ["BlackScholes"],
        )?;
        let (on_spot, on_strike, on_years) = (
            self.upload(&spot)?,
            self.upload(&strike)?,
            self.upload(&years)?,
        );
        let mut on_call = self.stream.alloc_zeros::<f32>(N)?;
        let mut on_put = self.stream.alloc_zeros::<f32>(N)?;
        let (mut call, mut put) = (vec![0.0; N], vec![0.0; N]);
        let count = N as u32;
        self.measure(
            "BlackScholes",
            format!("{N} options"),
            |stream| {
                let mut launch = stream.launch_builder(&kernel);
                launch
                    .arg(&mut on_call)
                    .arg(&mut on_put)
                    .arg(&on_spot)
                    .arg(&on_strike);
                launch
                    .arg(&on_years)
                    .arg(&RATE)
                    .arg(&VOLATILITY)
                    .arg(&count);
                // SAFETY: the kernel's arguments in its order; it stays below `count`, the slices' length.
                unsafe { launch.launch(config((1024, 1), (128, 1))) }?;
                Ok(())
            },
            || {
                plain::black_scholes(
                    &spot, &strike, &years, &mut call, &mut put, RATE, VOLATILITY,
                )
            },
        )?;
        same("BlackScholes", &self.stream.clone_dtoh(&on_call)?, &call)?;
        same("BlackScholes", &self.stream.clone_dtoh(&on_put)?, &put)
    }

    fn nbody(&mut self) -> Result<()> {
        const N: usize = 8192;
        let bodies = Random::new(3).floats(4 * N, 0.0, 1.0);
        let [kernel] = self.kernels(include_str!("../kernels/nbody.ptx"), ["nbody"])?;
        let on_bodies = self.upload(&bodies)?;
        let mut on_result = self.stream.alloc_zeros::<f32>(4 * N)?;
        let mut result = vec![0.0; 4 * N];
        let count = N as u32;
        self.measure(
            "nbody",
            format!("{N} bodies"),
            |stream| {
                let mut launch = stream.launch_builder(&kernel);
                launch.arg(&on_bodies).arg(&mut on_result).arg(&count);
                // SAFETY: nbody(bodies, accelerations, n): both have n times four floats, n is a multiple
                // of the block's 256.
                unsafe { launch.launch(config((count / 256, 1), (256, 1))) }?;
                Ok(())
            },
            || plain::nbody(&bodies, &mut result),
        )?;
        same("nbody", &self.stream.clone_dtoh(&on_result)?, &result)
    }

    fn histogram(&mut self) -> Result<()> {
        const BYTES: usize = 64 << 20;
        const BLOCKS: u32 = 256;
        let data = Random::new(4).bytes(BYTES);
        let [count, merge] = self.kernels(
            include_str!("../../samples/kernels/histogram.ptx"),
            ["histogram256", "mergeTables"],
        )?;
        let on_data = self.stream.clone_htod(&data)?;
        let mut tables = self.stream.alloc_zeros::<u32>(256 * BLOCKS as usize)?;
        let mut totals = self.stream.alloc_zeros::<u32>(256)?;
        let mut bins = [0; 256];
        self.measure(
            "histogram",
            format!("{} MiB", BYTES >> 20),
            |stream| {
                stream.memset_zeros(&mut totals)?;
                let mut launch = stream.launch_builder(&count);
                launch.arg(&on_data).arg(&BYTES).arg(&mut tables);
                // SAFETY: histogram256(data, n, tables): n bytes, a table of 256 words a block.
                unsafe { launch.launch(config((BLOCKS, 1), (256, 1))) }?;
                let mut launch = stream.launch_builder(&merge);
                launch.arg(&tables).arg(&BLOCKS).arg(&mut totals);
                // SAFETY: mergeTables(tables, tableCount, totals) with blocks as wide as a table.
                unsafe { launch.launch(config((8, 1), (256, 1))) }?;
                Ok(())
            },
            || bins = plain::histogram(&data),
        )?;
        ensure!(
            self.stream.clone_dtoh(&totals)? == bins,
            "histogram: the device computed something else"
        );
        Ok(())
    }

    fn scan(&mut self) -> Result<()> {
        const N: usize = 1 << 24;
        /// Words that a block scans.
        const PART: usize = 256 * 8;
        let values: Vec<u32> = Random::new(5).bytes(N).into_iter().map(u32::from).collect();
        let [parts, sums, add] = self.kernels(
            include_str!("../kernels/scan.ptx"),
            ["scanParts", "scanSums", "addSums"],
        )?;
        let on_values = self.stream.clone_htod(&values)?;
        let mut on_result = self.stream.alloc_zeros::<u32>(N)?;
        let mut on_sums = self.stream.alloc_zeros::<u32>(N / PART)?;
        let mut result = vec![0; N];
        let blocks = (N / PART) as u32;
        self.measure(
            "scan",
            format!("{} Mi words", N >> 20),
            |stream| {
                let mut launch = stream.launch_builder(&parts);
                launch.arg(&on_values).arg(&mut on_result).arg(&mut on_sums);
                // SAFETY: scanParts(in, out, sums): a part of both and a sum a block.
                unsafe { launch.launch(config((blocks, 1), (256, 1))) }?;
                let mut launch = stream.launch_builder(&sums);
                launch.arg(&mut on_sums).arg(&blocks);
                // SAFETY: scanSums(sums, count) in one block.
                unsafe { launch.launch(config((1, 1), (256, 1))) }?;
                let mut launch = stream.launch_builder(&add);
                launch.arg(&mut on_result).arg(&on_sums);
                // SAFETY: addSums(out, sums): a part and a sum a block.
                unsafe { launch.launch(config((blocks, 1), (256, 1))) }?;
                Ok(())
            },
            || plain::scan(&values, &mut result, PART),
        )?;
        ensure!(
            self.stream.clone_dtoh(&on_result)? == result,
            "scan: the device computed something else"
        );
        Ok(())
    }

    fn stencil(&mut self) -> Result<()> {
        const N: usize = 256;
        const CENTRE: f32 = 0.4;
        const SIDE: f32 = 0.1;
        let grid = Random::new(6).floats(N * N * N, 0.0, 1.0);
        let [kernel] = self.kernels(include_str!("../kernels/stencil.ptx"), ["stencil"])?;
        let on_grid = self.upload(&grid)?;
        let mut on_result = self.upload(&grid)?;
        let mut result = grid.clone();
        let side = N as u32;
        self.measure(
            "stencil",
            format!("{N}³ points"),
            |stream| {
                let mut launch = stream.launch_builder(&kernel);
                launch
                    .arg(&on_grid)
                    .arg(&mut on_result)
                    .arg(&side)
                    .arg(&side)
                    .arg(&side);
                launch.arg(&CENTRE).arg(&SIDE);
                // SAFETY: stencil(in, out, nx, ny, nz, centre, side): grids of nx * ny * nz floats.
                unsafe { launch.launch(config((side / 32, side / 8), (32, 8))) }?;
                Ok(())
            },
            || plain::stencil(&grid, &mut result, N, CENTRE, SIDE),
        )?;
        same("stencil", &self.stream.clone_dtoh(&on_result)?, &result)
    }
}

fn kernels(rounds: u32, only: Option<String>) -> Result<()> {
    let context = CudaContext::new(0).context("no context can be made on CUDA device 0")?;
    let stream = context.new_stream()?;
    let mut bench = Bench {
        context,
        stream,
        rounds,
        only,
        figures: Vec::new(),
    };
    type Run = fn(&mut Bench) -> Result<()>;
    let all: [(&str, Run); 6] = [
        ("matrixMul", Bench::matrix_mul),
        ("BlackScholes", Bench::black_scholes),
        ("nbody", Bench::nbody),
        ("histogram", Bench::histogram),
        ("scan", Bench::scan),
        ("stencil", Bench::stencil),
    ];
    for (what, run) in all {
        if bench.wanted(what) {
            run(&mut bench)?;
        }
    }
    println!("{}", serde_json::to_string(&bench.figures)?);
    Ok(())
}

/// Milliseconds that loading the module takes in a fresh process.
fn load(ptx: &Path) -> Result<()> {
    let text =
        std::fs::read_to_string(ptx).with_context(|| format!("reading {}", ptx.display()))?;
    let context = CudaContext::new(0).context("no context can be made on CUDA device 0")?;
    let start = Instant::now();
    let module = context
        .load_module(Ptx::from_src(text))
        .context("the module cannot be loaded")?;
    let taken = milliseconds(start);
    drop(module);
    println!("{taken}");
    Ok(())
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Kernels { rounds, only } => kernels(rounds, only),
        Arguments::Load { ptx } => load(&ptx),
    }
}
