//! transpose: a matrix transposed in four ways.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const TILE: u32 = 32;

/// Transposes a matrix on a CUDA device in four ways and checks every element
///
/// The reference transposes on the CPU. The error is the difference, and none is tolerated.
#[derive(Parser)]
#[command(name = "transpose", version)]
pub(super) struct Transpose {
    /// Columns
    #[arg(long, value_name = "COLUMNS", default_value_t = 450, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    width: u32,

    /// Rows
    #[arg(long, value_name = "ROWS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    height: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for Transpose {
    const NAME: &'static str = "transpose";
    const PTX: &'static str = include_str!("../../kernels/transpose.ptx");
    const KERNELS: &'static [&'static str] = &[
        "transposeNaive",
        "transposeCoalesced",
        "transposeNoBankConflicts",
        "transposeDiagonal",
    ];
    type Input = Vec<f32>;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} x {} elements", self.height, self.width)
    }

    fn input(&self, seed: u64) -> Vec<f32> {
        let count = self.width as usize * self.height as usize;
        Random::new(seed).floats(count, -1.0, 1.0)
    }

    /// The transposed matrices, one a kernel.
    fn solve(&self, lane: &mut Lane, input: &Vec<f32>) -> Result<Vec<f32>> {
        let from = lane.upload(input)?;
        let grid = (self.width.div_ceil(TILE), self.height.div_ceil(TILE));
        let mut output = Vec::new();
        for name in Self::KERNELS {
            let mut to = lane.zeros(input.len())?;
            lane.iterate(|lane| {
                // SAFETY: the arguments are those of all four kernels, (to, from, width, height), in type and order;
                // both matrices have width * height elements, and the tiles cover them.
                unsafe {
                    launch!(lane, name, grid, (TILE, 8); &mut to, &from, &self.width, &self.height)
                }?;
                Ok(())
            })?;
            output.append(&mut lane.download(&to)?);
        }
        Ok(output)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vec<f32>) -> Vec<Expected> {
        let width = self.width as usize;
        (0..width)
            .flat_map(|x| input.iter().skip(x).step_by(width))
            .map(|&element| Expected::from(element))
            .collect::<Vec<_>>()
            .repeat(Self::KERNELS.len())
    }
}
