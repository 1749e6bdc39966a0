//! mmul: the product of two matrices of integers, without tiles.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

/// Multiplies two square matrices of unsigned integers on a CUDA device and checks every element
///
/// The reference multiplies on the CPU; sums wrap around at 2^32. The error is the difference, and none is
/// tolerated.
#[derive(Parser)]
#[command(name = "mmul", version)]
pub(super) struct Mmul {
    /// Rows and columns
    #[arg(long, value_name = "ROWS", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for Mmul {
    const NAME: &'static str = "mmul";
    const PTX: &'static str = include_str!("../../kernels/mmul.ptx");
    const KERNELS: &'static [&'static str] = &["multiply"];
    type Input = [Vec<u32>; 2];
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        let n = self.n;
        format!("{n} x {n} times {n} x {n}")
    }

    fn input(&self, seed: u64) -> [Vec<u32>; 2] {
        let mut random = Random::new(seed);
        let count = self.n as usize * self.n as usize;
        [random.words(count), random.words(count)]
    }

    fn solve(&self, lane: &mut Lane, input: &[Vec<u32>; 2]) -> Result<Vec<u32>> {
        let (a, b) = (lane.upload(&input[0])?, lane.upload(&input[1])?);
        let mut c = lane.zeros(input[0].len())?;
        let blocks = self.n.div_ceil(16);
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, multiply(a, b, c, n), in type and order; the
            // matrices have n * n elements.
            unsafe {
                launch!(lane, "multiply", (blocks, blocks), (16, 16); &a, &b, &mut c, &self.n)
            }?;
            Ok(())
        })?;
        lane.download(&c)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, [a, b]: &[Vec<u32>; 2]) -> Vec<Expected> {
        let n = self.n as usize;
        let mut c = vec![0_u32; n * n];
        for (row_a, row_c) in a.chunks_exact(n).zip(c.chunks_exact_mut(n)) {
            for (weight, row_b) in row_a.iter().zip(b.chunks_exact(n)) {
                for (sum, element) in row_c.iter_mut().zip(row_b) {
                    *sum = sum.wrapping_add(weight.wrapping_mul(*element));
                }
            }
        }
        c.into_iter().map(Expected::from).collect()
    }
}
