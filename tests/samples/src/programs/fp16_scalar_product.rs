//! fp16ScalarProduct: a scalar product of half-precision vectors.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 128;
const BLOCKS: u32 = 16;

/// Multiplies two vectors of half-precision numbers on a CUDA device and checks the blocks' sums
///
/// One kernel adds in half precision, the other in single precision. The reference rounds the input to half precision
/// and multiplies and adds in double precision. The error is the difference divided by the sum of
/// the products' absolute values; the tolerance is the proven bound on the rounding of the additions of the
/// less precise one.
#[derive(Parser)]
#[command(name = "fp16ScalarProduct", version)]
pub(super) struct Fp16ScalarProduct {
    /// Pairs of elements
    #[arg(long, value_name = "PAIRS", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pairs: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for Fp16ScalarProduct {
    const NAME: &'static str = "fp16ScalarProduct";
    const PTX: &'static str = include_str!("../../kernels/fp16ScalarProduct.ptx");
    const KERNELS: &'static [&'static str] =
        &["toHalf", "scalarProductHalf", "scalarProductSingle"];
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
        [random.floats(n, -1.0, 1.0), random.floats(n, -1.0, 1.0)]
    }

    /// The blocks' sums by each of the two kernels.
    fn solve(&self, lane: &mut Lane, input: &[Vec<f32>; 2]) -> Result<Vec<f32>> {
        let pairs = self.pairs;
        let single = [lane.upload(&input[0])?, lane.upload(&input[1])?];
        let mut half = [
            lane.zeros::<u32>(pairs as usize)?,
            lane.zeros::<u32>(pairs as usize)?,
        ];
        let line = pairs.div_ceil(THREADS_PER_BLOCK);
        let mut output = Vec::new();
        for name in &Self::KERNELS[1..] {
            let mut sums = lane.zeros(BLOCKS as usize)?;
            lane.iterate(|lane| {
                for (from, to) in single.iter().zip(&mut half) {
                    // SAFETY: the arguments are those of the kernel's source, toHalf(from, to, pairs), in type and order; the
                    // slices have that many pairs.
                    unsafe { launch!(lane, "toHalf", line, THREADS_PER_BLOCK; from, to, &pairs) }?;
                }
                // SAFETY: the arguments are those of both kernels' sources, (a, b, pairs, blockSums), in type and order;
                // there is a sum a block, which has the threads for which the kernels are written.
                unsafe {
                    launch!(
                        lane, name, BLOCKS, THREADS_PER_BLOCK;
                        &half[0], &half[1], &pairs, &mut sums
                    )
                }?;
                Ok(())
            })?;
            output.append(&mut lane.download(&sums)?);
        }
        Ok(output)
    }

    fn tolerance(&self) -> f64 {
        let additions =
            self.pairs.div_ceil(BLOCKS * THREADS_PER_BLOCK) + THREADS_PER_BLOCK.ilog2() + 1;
        f64::from(additions) * f64::from(2.0_f32.powi(-11))
    }

    fn reference(&self, [a, b]: &[Vec<f32>; 2]) -> Vec<Expected> {
        let mut sums = vec![Expected::relative(0.0, 0.0); BLOCKS as usize];
        for (i, (a, b)) in a.chunks_exact(2).zip(b.chunks_exact(2)).enumerate() {
            let sum = &mut sums[i / THREADS_PER_BLOCK as usize % BLOCKS as usize];
            for (&a, &b) in a.iter().zip(b) {
                let product = to_half(a) * to_half(b);
                sum.value += product;
                sum.scale += product.abs();
            }
        }
        sums.repeat(2)
    }
}

/// The half-precision number nearest to one between -2 and 2, ties to even.
fn to_half(x: f32) -> f64 {
    let x = f64::from(x);
    // Eleven bits from the first; below 2^-14, bits down to 2^-24.
    let exponent = if x == 0.0 {
        -14
    } else {
        (x.abs().log2().floor() as i32).max(-14)
    };
    let unit = 2.0_f64.powi(exponent - 10);
    (x / unit).round_ties_even() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_to_half_precision() {
        for (x, half) in [
            (0.0, 0.0),
            (1.0, 1.0),
            (1.0 + 1.0 / 2048.0, 1.0),
            (1.0 + 3.0 / 2048.0, 1.0 + 2.0 / 1024.0),
            (0.1, 0.099_975_585_937_5),
            (-0.1, -0.099_975_585_937_5),
            (2.0_f32.powi(-24), 2.0_f64.powi(-24)),
            (2.0_f32.powi(-25), 0.0),
            (1.5 * 2.0_f32.powi(-24), 2.0_f64.powi(-23)),
        ] {
            assert_eq!(to_half(x), half, "{x}");
        }
    }
}
