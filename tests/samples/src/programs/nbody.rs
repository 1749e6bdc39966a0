//! nbody: bodies under each other's gravity.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const SECONDS: f32 = 0.01;
const SOFTENING2: f32 = 0.01;

/// Moves bodies under each other's gravity on a CUDA device and checks every position and velocity
///
/// The reference makes the same steps in double precision. The error is the absolute difference; positions
/// are within some units of the origin, and the tolerance is 1e-4.
#[derive(Parser)]
#[command(name = "nbody", version)]
pub(super) struct Nbody {
    /// Bodies, rounded up to whole blocks
    #[arg(long, value_name = "BODIES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    n: u32,

    /// Threads in a block
    #[arg(long, value_name = "THREADS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1024))]
    block_size: u32,

    /// Steps in time
    #[arg(long, value_name = "STEPS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Bodies {
    /// Four numbers a body; the fourth is its mass.
    positions: Vec<f32>,
    /// Four numbers a body; the fourth is 0.
    velocities: Vec<f32>,
}

impl Sample for Nbody {
    const NAME: &'static str = "nbody";
    const PTX: &'static str = include_str!("../../kernels/nbody.ptx");
    const KERNELS: &'static [&'static str] = &["integrate"];
    type Input = Bodies;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} bodies, {} steps", self.bodies(), self.steps)
    }

    fn input(&self, seed: u64) -> Bodies {
        let mut random = Random::new(seed);
        let n = self.bodies() as usize;
        let mut vectors = |fourth: f32| {
            let mut vectors = random.floats(4 * n, -1.0, 1.0);
            vectors
                .iter_mut()
                .skip(3)
                .step_by(4)
                .for_each(|w| *w = fourth);
            vectors
        };
        Bodies {
            positions: vectors(1.0 / n as f32),
            velocities: vectors(0.0),
        }
    }

    /// All positions, then all velocities.
    fn solve(&self, lane: &mut Lane, input: &Bodies) -> Result<Vec<f32>> {
        let starts = [
            lane.upload(&input.positions)?,
            lane.upload(&input.velocities)?,
        ];
        let count = input.positions.len();
        let mut from = [lane.zeros(count)?, lane.zeros(count)?];
        let mut to = [lane.zeros(count)?, lane.zeros(count)?];
        let n = self.bodies();
        let (blocks, shared) = (n / self.block_size, 16 * self.block_size);
        lane.iterate(|lane| {
            for (start, from) in starts.iter().zip(&mut from) {
                lane.copy(start, from)?;
            }
            for _ in 0..self.steps {
                let [position, velocity] = &mut to;
                // SAFETY: the arguments are those of the kernel's source, integrate(newPosition, newVelocity, position,
                // velocity, n, seconds, softening2), in type and order; the slices have four elements for each of
                // n bodies, n is a multiple of the block's size, and the block's shared memory holds a body a thread.
                unsafe {
                    launch!(
                        lane, "integrate", blocks, self.block_size, shared;
                        position, velocity, &from[0], &from[1], &n, &SECONDS, &SOFTENING2
                    )
                }?;
                std::mem::swap(&mut from, &mut to);
            }
            Ok(())
        })?;
        let [positions, velocities] = &from;
        Ok([lane.download(positions)?, lane.download(velocities)?].concat())
    }

    fn tolerance(&self) -> f64 {
        1e-4
    }

    fn reference(&self, input: &Bodies) -> Vec<Expected> {
        let double = |numbers: &[f32]| -> Vec<f64> { numbers.iter().map(|&x| x.into()).collect() };
        let (mut positions, mut velocities) = (double(&input.positions), double(&input.velocities));
        for _ in 0..self.steps {
            for (p, v) in positions
                .chunks_exact(4)
                .zip(velocities.chunks_exact_mut(4))
            {
                let mut acceleration = [0.0; 3];
                for other in positions.chunks_exact(4) {
                    let d = [other[0] - p[0], other[1] - p[1], other[2] - p[2]];
                    let distance2 = d.iter().map(|d| d * d).sum::<f64>() + f64::from(SOFTENING2);
                    let pull = other[3] / (distance2 * distance2.sqrt());
                    for (a, d) in acceleration.iter_mut().zip(d) {
                        *a += d * pull;
                    }
                }
                for (v, a) in v.iter_mut().zip(acceleration) {
                    *v += a * f64::from(SECONDS);
                }
            }
            for (p, v) in positions
                .chunks_exact_mut(4)
                .zip(velocities.chunks_exact(4))
            {
                for (p, v) in p.iter_mut().zip(v).take(3) {
                    *p += v * f64::from(SECONDS);
                }
            }
        }
        let all = positions.into_iter().chain(velocities);
        all.map(Expected::from).collect()
    }
}

impl Nbody {
    /// As many as asked for, rounded up to whole blocks.
    fn bodies(&self) -> u32 {
        self.n.next_multiple_of(self.block_size)
    }
}
