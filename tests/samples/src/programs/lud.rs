//! lud: the decomposition of a matrix into a lower and an upper triangle.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const BLOCK: u32 = 16;

/// Decomposes a matrix into triangles on a CUDA device, in place and without pivoting, and checks every element
///
/// The matrix is diagonally dominant, so that no pivot is small. The reference is in double precision. The
/// error is the difference, in the upper triangle divided by the number of rows, which is how large the
/// diagonal is; the tolerance is 1e-5.
#[derive(Parser)]
#[command(name = "lud", version)]
pub(super) struct Lud {
    /// Blocks of 16 rows
    #[arg(long, value_name = "BLOCKS", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=512))]
    blocks: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for Lud {
    const NAME: &'static str = "lud";
    const PTX: &'static str = include_str!("../../kernels/lud.ptx");
    const KERNELS: &'static [&'static str] = &["luDiagonal", "luPerimeter", "luInternal"];
    type Input = Vec<f32>;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        let n = self.rows();
        format!("{n} x {n} elements")
    }

    fn input(&self, seed: u64) -> Vec<f32> {
        let n = self.rows();
        let mut matrix = Random::new(seed).floats(n * n, -1.0, 1.0);
        for i in 0..n {
            matrix[i * n + i] += n as f32;
        }
        matrix
    }

    fn solve(&self, lane: &mut Lane, input: &Vec<f32>) -> Result<Vec<f32>> {
        let original = lane.upload(input)?;
        let mut matrix = lane.zeros(input.len())?;
        let n = self.blocks * BLOCK;
        lane.iterate(|lane| {
            lane.copy(&original, &mut matrix)?;
            for block in 0..self.blocks {
                let offset = block * BLOCK;
                let left = self.blocks - 1 - block;
                // SAFETY: the arguments of these three kernels are (m, n, offset), in type and order; m has n * n
                // elements, and as many blocks of 16 as are launched lie to the right of offset and below it.
                unsafe { launch!(lane, "luDiagonal", 1, BLOCK; &mut matrix, &n, &offset) }?;
                if left > 0 {
                    // SAFETY: as above.
                    unsafe {
                        launch!(lane, "luPerimeter", left, 2 * BLOCK; &mut matrix, &n, &offset)
                    }?;
                    // SAFETY: as above.
                    unsafe {
                        launch!(
                            lane, "luInternal", (left, left), (BLOCK, BLOCK);
                            &mut matrix, &n, &offset
                        )
                    }?;
                }
            }
            Ok(())
        })?;
        lane.download(&matrix)
    }

    fn tolerance(&self) -> f64 {
        1e-5
    }

    fn reference(&self, input: &Vec<f32>) -> Vec<Expected> {
        let n = self.rows();
        let mut m: Vec<f64> = input.iter().map(|&x| x.into()).collect();
        for k in 0..n {
            let (above, below) = m.split_at_mut((k + 1) * n);
            let pivot = &above[k * n..];
            for row in below.chunks_exact_mut(n) {
                row[k] /= pivot[k];
                let factor = row[k];
                for (element, from) in row.iter_mut().zip(pivot).skip(k + 1) {
                    *element -= factor * from;
                }
            }
        }
        // The lower triangle is divided by a pivot, so its elements are smaller by that.
        m.into_iter()
            .enumerate()
            .map(|(i, value)| {
                let scale = if i % n < i / n { 1.0 } else { n as f64 };
                Expected::relative(value, scale)
            })
            .collect()
    }
}

impl Lud {
    fn rows(&self) -> usize {
        self.blocks as usize * BLOCK as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_triangles_product_is_the_matrix() {
        let sample = Lud::parse_from(["lud", "--blocks", "2"]);
        let input = sample.input(3);
        let n = sample.rows();
        let m: Vec<f64> = sample.reference(&input).iter().map(|e| e.value).collect();
        for i in 0..n {
            for j in 0..n {
                let lower = |k| if k == i { 1.0 } else { m[i * n + k] };
                let sum: f64 = (0..=i.min(j)).map(|k| lower(k) * m[k * n + j]).sum();
                assert!((sum - f64::from(input[i * n + j])).abs() < 1e-12);
            }
        }
    }
}
