//! matrixMul: the product of two matrices of any size, tiled in shared memory.

use crate::compare::{Expected, rounding_bound};
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;
use anyhow::Result;
use clap::{Parser, ValueEnum};

/// Multiplies two matrices on a CUDA device and checks every element
///
/// C (m by n) = A (m by k) times B (k by n). The reference is computed in double precision. An element's
/// error is its difference from the reference, divided by the norms of the row of A and the column of B
/// that it is the product of; the tolerance is the proven bound on the rounding of k additions.
#[derive(Parser)]
#[command(name = "matrixMul", version)]
pub(super) struct MatrixMul {
    /// Rows of A and C
    #[arg(long, value_name = "ROWS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    m: u32,

    /// Columns of B and C
    #[arg(long, value_name = "COLUMNS", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    n: u32,

    /// Columns of A and rows of B
    #[arg(long, value_name = "TERMS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    k: u32,

    /// Rows and columns of all three matrices, in place of the three sizes above
    #[arg(long, value_name = "ROWS", conflicts_with_all = ["m", "n", "k"], value_parser = clap::value_parser!(u32).range(1..=65_536))]
    size: Option<u32>,

    /// Width and height of a tile, and of a block of threads
    #[arg(long, value_enum, default_value = "32")]
    tile: Tile,

    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum Tile {
    #[value(name = "16")]
    Of16,
    #[value(name = "32")]
    Of32,
}

impl Tile {
    fn width(self) -> u32 {
        match self {
            Self::Of16 => 16,
            Self::Of32 => 32,
        }
    }

    fn kernel(self) -> &'static str {
        match self {
            Self::Of16 => "matrixMul16",
            Self::Of32 => "matrixMul32",
        }
    }
}

pub(super) struct Matrices {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Sample for MatrixMul {
    const NAME: &'static str = "matrixMul";
    const PTX: &'static str = include_str!("../../kernels/matrixMul.ptx");
    const KERNELS: &'static [&'static str] = &["matrixMul16", "matrixMul32"];
    type Input = Matrices;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        let (m, n, k) = self.sizes();
        let tile = self.tile.width();
        format!("{m} x {k} times {k} x {n}, tiles of {tile}")
    }

    fn input(&self, seed: u64) -> Matrices {
        let mut random = Random::new(seed);
        let (m, n, k) = self.sizes();
        let (m, n, k) = (m as usize, n as usize, k as usize);
        Matrices {
            a: random.floats(m * k, -1.0, 1.0),
            b: random.floats(k * n, -1.0, 1.0),
        }
    }

    fn solve(&self, lane: &mut Lane, input: &Matrices) -> Result<Vec<f32>> {
        let a = lane.upload(&input.a)?;
        let b = lane.upload(&input.b)?;
        let (m, n, k) = self.sizes();
        let mut c = lane.zeros(m as usize * n as usize)?;
        let width = self.tile.width();
        let grid = (n.div_ceil(width), m.div_ceil(width));
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, matrixMul*(a, b, c, m, n, k), in type
            // and order; the slices have the m*k, k*n and m*n elements within which it stays, and a block
            // is as wide and as high as the tile.
            unsafe {
                launch!(
                    lane, self.tile.kernel(), grid, (width, width);
                    &a, &b, &mut c, &m, &n, &k
                )
            }?;
            Ok(())
        })?;
        lane.download(&c)
    }

    fn tolerance(&self) -> f64 {
        rounding_bound(self.sizes().2)
    }

    fn reference(&self, input: &Matrices) -> Vec<Expected> {
        let (_, n, k) = self.sizes();
        let (n, k) = (n as usize, k as usize);
        let row_norms = input.a.chunks_exact(k).map(|row| norm(row.iter()));
        let column_norms: Vec<f64> = (0..n)
            .map(|column| norm(input.b.iter().skip(column).step_by(n)))
            .collect();
        let scales = row_norms.flat_map(|row| column_norms.iter().map(move |column| row * column));
        multiply(input, n, k)
            .into_iter()
            .zip(scales)
            .map(|(value, scale)| Expected::relative(value, scale))
            .collect()
    }
}

impl MatrixMul {
    /// Rows of A, columns of B, and columns of A.
    fn sizes(&self) -> (u32, u32, u32) {
        match self.size {
            Some(size) => (size, size, size),
            None => (self.m, self.n, self.k),
        }
    }
}

fn norm<'a>(elements: impl Iterator<Item = &'a f32>) -> f64 {
    elements
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt()
}

/// A times B, row by row: each row of C is the sum of B's rows, weighted by a row of A.
fn multiply(input: &Matrices, n: usize, k: usize) -> Vec<f64> {
    let mut c = Vec::with_capacity(input.a.len() / k * n);
    for row_a in input.a.chunks_exact(k) {
        let mut row_c = vec![0.0; n];
        for (&weight, row_b) in row_a.iter().zip(input.b.chunks_exact(n)) {
            for (sum, &element) in row_c.iter_mut().zip(row_b) {
                *sum += f64::from(weight) * f64::from(element);
            }
        }
        c.append(&mut row_c);
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_multiplies_matrices_that_are_not_square() {
        // 2 x 3 times 3 x 2
        let input = Matrices {
            a: vec![1., 2., 3., 4., 5., 6.],
            b: vec![7., 8., 9., 10., 11., 12.],
        };
        assert_eq!(multiply(&input, 2, 3), [58., 64., 139., 154.]);
        // 3 x 1 times 1 x 2
        let input = Matrices {
            a: vec![1., 2., 3.],
            b: vec![4., 5.],
        };
        assert_eq!(multiply(&input, 2, 1), [4., 5., 8., 10., 12., 15.]);
    }
}
