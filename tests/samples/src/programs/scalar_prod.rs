//! scalarProd: the scalar products of many pairs of vectors, reduced in shared memory and by shuffles.

use crate::compare::{Expected, rounding_bound};
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;
use anyhow::Result;
use clap::Parser;

/// The kernels are written for blocks of this size.
const THREADS_PER_BLOCK: u32 = 256;
/// Additions from a thread's sum to the block's: 8 levels of the tree, or twice 5 shuffles.
const REDUCTION_DEPTH: u32 = 10;

/// Multiplies many pairs of vectors on a CUDA device and checks every product
///
/// Every product is computed twice: by a kernel whose blocks add up in shared memory, and by one whose
/// warps shuffle. The reference is computed in double precision. The error is the difference divided by
/// the norms of the two vectors; the tolerance is the proven bound on the rounding of a block's additions.
#[derive(Parser)]
#[command(name = "scalarProd", version)]
pub(super) struct ScalarProd {
    /// Pairs of vectors
    #[arg(long, value_name = "PAIRS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pairs: u32,

    /// Elements in a vector
    #[arg(long, value_name = "ELEMENTS", default_value_t = 4_099, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    length: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Vectors {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Sample for ScalarProd {
    const NAME: &'static str = "scalarProd";
    const PTX: &'static str = include_str!("../../kernels/scalarProd.ptx");
    const KERNELS: &'static [&'static str] = &["scalarProdTree", "scalarProdShuffle"];
    type Input = Vectors;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} pairs of {} elements, twice", self.pairs, self.length)
    }

    fn input(&self, seed: u64) -> Vectors {
        let mut random = Random::new(seed);
        let count = self.pairs as usize * self.length as usize;
        Vectors {
            a: random.floats(count, -1.0, 1.0),
            b: random.floats(count, -1.0, 1.0),
        }
    }

    /// The products by each kernel, in the order of the list of kernels.
    fn solve(&self, lane: &mut Lane, input: &Vectors) -> Result<Vec<f32>> {
        let a = lane.upload(&input.a)?;
        let b = lane.upload(&input.b)?;
        let mut outputs = Vec::new();
        for name in Self::KERNELS {
            let mut products = lane.zeros(self.pairs as usize)?;
            lane.iterate(|lane| {
                // A block a pair.
                let items = self.pairs as usize * THREADS_PER_BLOCK as usize;
                let blocks = lane.blocks(items, THREADS_PER_BLOCK);
                // SAFETY: the arguments are those of both kernels' sources, (a, b, product, pairs, length), in
                // type and order; a and b have pairs * length elements, the products one a pair, and a block
                // has the threads for which the kernels are written.
                unsafe {
                    launch!(
                        lane, name, blocks, THREADS_PER_BLOCK;
                        &a, &b, &mut products, &self.pairs, &self.length
                    )
                }?;
                Ok(())
            })?;
            outputs.append(&mut lane.download(&products)?);
        }
        Ok(outputs)
    }

    fn tolerance(&self) -> f64 {
        rounding_bound(self.length.div_ceil(THREADS_PER_BLOCK) + REDUCTION_DEPTH)
    }

    fn reference(&self, input: &Vectors) -> Vec<Expected> {
        let length = self.length as usize;
        let pairs = input
            .a
            .chunks_exact(length)
            .zip(input.b.chunks_exact(length));
        pairs
            .map(|(a, b)| {
                let norms = (product(a, a) * product(b, b)).sqrt();
                Expected::relative(product(a, b), norms)
            })
            .collect::<Vec<_>>()
            .repeat(Self::KERNELS.len())
    }
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_multiplies() {
        assert_eq!(product(&[1., 2., 3.], &[4., -5., 6.]), 12.0);
        // A sum that single precision cannot hold.
        assert_eq!(product(&[4096., 1.], &[4096., 1.]), 16_777_217.0);
    }
}
