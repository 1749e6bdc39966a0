//! hotspot: the temperature of a chip under the power of its parts.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const TILE: u32 = 16;
/// Steps in time that a block makes between reading and writing.
const STEPS_AT_ONCE: u32 = 2;

/// Metres: the chip's width and height, and its thickness.
const SIDE: f64 = 0.016;
const THICKNESS: f64 = 0.0005;
/// Of silicon: joules in a cubic metre a kelvin, and watts through a metre a kelvin.
const HEAT_CAPACITY: f64 = 1.75e6;
const CONDUCTIVITY: f64 = 100.0;
/// What of the heat capacity counts, in Rodinia's model.
const CAPACITY_FACTOR: f64 = 0.5;
/// Degrees Celsius.
const AMBIENT: f32 = 80.0;

/// Simulates the temperature of a chip on a CUDA device and checks every cell
///
/// The reference makes the same steps one at a time in double precision. The error is the difference in
/// kelvins; the tolerance is 1e-3, at temperatures up to some hundreds.
#[derive(Parser)]
#[command(name = "hotspot", version)]
pub(super) struct Hotspot {
    /// Cells in a row
    #[arg(long, value_name = "CELLS", default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    width: u32,

    /// Rows of cells
    #[arg(long, value_name = "ROWS", default_value_t = 130, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    height: u32,

    /// Steps in time
    #[arg(long, value_name = "STEPS", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Chip {
    temperature: Vec<f32>,
    power: Vec<f32>,
}

/// The factors of a step: of all, of the flow along x, y and z.
struct Factors {
    step: f32,
    x: f32,
    y: f32,
    z: f32,
}

impl Hotspot {
    fn factors(&self) -> Factors {
        let (x, y) = (SIDE / f64::from(self.width), SIDE / f64::from(self.height));
        let capacity = CAPACITY_FACTOR * HEAT_CAPACITY * THICKNESS * x * y;
        let across_x = CONDUCTIVITY * THICKNESS * y / x;
        let across_y = CONDUCTIVITY * THICKNESS * x / y;
        let to_ambient = CONDUCTIVITY * x * y / THICKNESS;
        // A quarter of the longest step that is stable.
        let seconds = 0.25 * capacity / (2.0 * across_x + 2.0 * across_y + to_ambient);
        Factors {
            step: (seconds / capacity) as f32,
            x: across_x as f32,
            y: across_y as f32,
            z: to_ambient as f32,
        }
    }
}

impl Sample for Hotspot {
    const NAME: &'static str = "hotspot";
    const PTX: &'static str = include_str!("../../kernels/hotspot.ptx");
    const KERNELS: &'static [&'static str] = &["hotspot"];
    type Input = Chip;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        let Self {
            width,
            height,
            steps,
            ..
        } = self;
        format!("{width} x {height} cells, {steps} steps")
    }

    fn input(&self, seed: u64) -> Chip {
        let mut random = Random::new(seed);
        let count = self.width as usize * self.height as usize;
        Chip {
            temperature: random.floats(count, 50.0, 100.0),
            // Watts; all cells together have some tens.
            power: random.floats(count, 0.0, 100.0 / count as f32),
        }
    }

    fn solve(&self, lane: &mut Lane, input: &Chip) -> Result<Vec<f32>> {
        let start = lane.upload(&input.temperature)?;
        let power = lane.upload(&input.power)?;
        let mut from = lane.zeros(input.power.len())?;
        let mut to = lane.zeros(input.power.len())?;
        let Factors { step, x, y, z } = self.factors();
        lane.iterate(|lane| {
            lane.copy(&start, &mut from)?;
            let mut left = self.steps;
            while left > 0 {
                let steps = left.min(STEPS_AT_ONCE);
                let fresh = TILE - 2 * steps;
                let grid = (self.width.div_ceil(fresh), self.height.div_ceil(fresh));
                // SAFETY: the arguments are those of the kernel's source, hotspot(to, from, power, width, height, steps,
                // perStep, perX, perY, perZ, ambient), in type and order; the slices have width * height elements,
                // and the tiles that blocks write cover them.
                unsafe {
                    launch!(
                        lane, "hotspot", grid, (TILE, TILE);
                        &mut to, &from, &power, &self.width, &self.height, &steps,
                        &step, &x, &y, &z, &AMBIENT
                    )
                }?;
                std::mem::swap(&mut from, &mut to);
                left -= steps;
            }
            Ok(())
        })?;
        lane.download(&from)
    }

    fn tolerance(&self) -> f64 {
        1e-3
    }

    fn reference(&self, input: &Chip) -> Vec<Expected> {
        let (width, height) = (self.width as usize, self.height as usize);
        let Factors { step, x, y, z } = self.factors();
        let [step, across_x, across_y, to_ambient] = [step, x, y, z].map(f64::from);
        let mut now: Vec<f64> = input.temperature.iter().map(|&t| t.into()).collect();
        for _ in 0..self.steps {
            let cell = |x: usize, y: usize| now[y * width + x];
            let mut next = Vec::with_capacity(now.len());
            for y in 0..height {
                for x in 0..width {
                    let t = cell(x, y);
                    let (west, east) = (
                        cell(x.saturating_sub(1), y),
                        cell((x + 1).min(width - 1), y),
                    );
                    let (north, south) = (
                        cell(x, y.saturating_sub(1)),
                        cell(x, (y + 1).min(height - 1)),
                    );
                    let flow = (west + east - 2.0 * t) * across_x
                        + (north + south - 2.0 * t) * across_y
                        + (f64::from(AMBIENT) - t) * to_ambient;
                    next.push(t + step * (f64::from(input.power[y * width + x]) + flow));
                }
            }
            now = next;
        }
        now.into_iter().map(Expected::from).collect()
    }
}
