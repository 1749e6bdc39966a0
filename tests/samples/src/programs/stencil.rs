//! stencil: heat that spreads in a box.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const CENTRE: f32 = 0.4;
const SIDE: f32 = 0.1;

/// Spreads heat in a box by a stencil of seven points on a CUDA device and checks every cell
///
/// The cells at the box's faces stay as they are. The reference makes the same steps in double precision. The
/// error is the absolute difference, of numbers between -1 and 1; the tolerance is 1e-6 a step.
#[derive(Parser)]
#[command(name = "stencil", version)]
pub(super) struct Stencil {
    /// Cells along x
    #[arg(long, value_name = "CELLS", default_value_t = 70, value_parser = clap::value_parser!(u32).range(2..=4096))]
    nx: u32,

    /// Cells along y
    #[arg(long, value_name = "CELLS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=4096))]
    ny: u32,

    /// Cells along z
    #[arg(long, value_name = "CELLS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(2..=4096))]
    nz: u32,

    /// Steps
    #[arg(long, value_name = "STEPS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for Stencil {
    const NAME: &'static str = "stencil";
    const PTX: &'static str = include_str!("../../kernels/stencil.ptx");
    const KERNELS: &'static [&'static str] = &["stencil7"];
    type Input = Vec<f32>;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        let Self {
            nx, ny, nz, steps, ..
        } = self;
        format!("{nx} x {ny} x {nz} cells, {steps} steps")
    }

    fn input(&self, seed: u64) -> Vec<f32> {
        let count = self.nx as usize * self.ny as usize * self.nz as usize;
        Random::new(seed).floats(count, -1.0, 1.0)
    }

    fn solve(&self, lane: &mut Lane, input: &Vec<f32>) -> Result<Vec<f32>> {
        let start = lane.upload(input)?;
        let mut from = lane.zeros(input.len())?;
        let mut to = lane.zeros(input.len())?;
        let grid = (self.nx.div_ceil(32), self.ny.div_ceil(8));
        lane.iterate(|lane| {
            lane.copy(&start, &mut from)?;
            for _ in 0..self.steps {
                // SAFETY: the arguments are those of the kernel's source, stencil7(to, from, nx, ny, nz, centre, side), in
                // type and order; both slices have nx * ny * nz elements, and the blocks of 32 by 8 cover x and y.
                unsafe {
                    launch!(
                        lane, "stencil7", grid, (32, 8);
                        &mut to, &from, &self.nx, &self.ny, &self.nz, &CENTRE, &SIDE
                    )
                }?;
                std::mem::swap(&mut from, &mut to);
            }
            Ok(())
        })?;
        lane.download(&from)
    }

    fn tolerance(&self) -> f64 {
        1e-6 * f64::from(self.steps)
    }

    fn reference(&self, input: &Vec<f32>) -> Vec<Expected> {
        let [nx, ny, nz] = [self.nx, self.ny, self.nz].map(|n| n as usize);
        let mut now: Vec<f64> = input.iter().map(|&x| x.into()).collect();
        for _ in 0..self.steps {
            let mut next = now.clone();
            for z in 1..nz - 1 {
                for y in 1..ny - 1 {
                    for x in 1..nx - 1 {
                        let at = (z * ny + y) * nx + x;
                        let sides: f64 = [1, nx, nx * ny]
                            .iter()
                            .map(|step| now[at - step] + now[at + step])
                            .sum();
                        next[at] = f64::from(SIDE) * sides + f64::from(CENTRE) * now[at];
                    }
                }
            }
            now = next;
        }
        now.into_iter().map(Expected::from).collect()
    }
}
