//! bfloat16: a x + y in bfloat16.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 256;
const A: f32 = 1.7;

/// Computes a x + y of vectors in bfloat16 on a CUDA device (compute capability 8.0 or higher) and checks every element
///
/// The reference rounds the input to bfloat16, multiplies and adds in double precision, which is exact, and rounds
/// once. The error is the difference, and none is tolerated.
#[derive(Parser)]
#[command(name = "bfloat16", version)]
pub(super) struct Bfloat16 {
    /// Pairs of elements
    #[arg(long, value_name = "PAIRS", default_value_t = 200_001, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pairs: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for Bfloat16 {
    const NAME: &'static str = "bfloat16";
    const PTX: &'static str = include_str!("../../kernels/bfloat16.ptx");
    const KERNELS: &'static [&'static str] = &["axpy"];
    type Input = [Vec<f32>; 2];
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} pairs of elements", self.pairs)
    }

    fn input(&self, seed: u64) -> [Vec<f32>; 2] {
        let mut random = Random::new(seed);
        let n = 2 * self.pairs as usize;
        [random.floats(n, -4.0, 4.0), random.floats(n, -4.0, 4.0)]
    }

    fn solve(&self, lane: &mut Lane, [x, y]: &[Vec<f32>; 2]) -> Result<Vec<f32>> {
        let x = lane.upload(x)?;
        let start = lane.upload(y)?;
        let mut y = lane.zeros(y.len())?;
        let blocks = self.pairs.div_ceil(THREADS_PER_BLOCK);
        lane.iterate(|lane| {
            lane.copy(&start, &mut y)?;
            // SAFETY: the arguments are those of the kernel's source, axpy(a, x, y, pairs), in type and order; both vectors
            // have that many pairs.
            unsafe {
                launch!(lane, "axpy", blocks, THREADS_PER_BLOCK; &A, &x, &mut y, &self.pairs)
            }?;
            Ok(())
        })?;
        lane.download(&y)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, [x, y]: &[Vec<f32>; 2]) -> Vec<Expected> {
        let a = to_bfloat(A.into());
        x.iter()
            .zip(y)
            .map(|(&x, &y)| to_bfloat(a * to_bfloat(x.into()) + to_bfloat(y.into())).into())
            .collect()
    }
}

/// The bfloat16 nearest to a number that is not tiny, ties to even.
fn to_bfloat(x: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    let unit = 2.0_f64.powi(x.abs().log2().floor() as i32 - 7);
    (x / unit).round_ties_even() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_to_bfloat16() {
        for (x, rounded) in [
            (0.0, 0.0),
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 2.0 / 128.0),
            (0.1, 0.100_097_656_25),
            (-0.1, -0.100_097_656_25),
        ] {
            assert_eq!(to_bfloat(x), rounded, "{x}");
        }
    }
}
