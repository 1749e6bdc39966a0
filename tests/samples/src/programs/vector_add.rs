//! vectorAdd: the sum of two vectors.

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;
use anyhow::Result;
use clap::Parser;

const THREADS_PER_BLOCK: u32 = 256;

/// Adds two vectors on a CUDA device and checks every element
///
/// The reference is the CPU's own single-precision sum. The error is the absolute difference, and none is
/// tolerated: addition is correctly rounded on both sides.
#[derive(Parser)]
#[command(name = "vectorAdd", version)]
pub(super) struct VectorAdd {
    /// Elements in a vector
    #[arg(long, value_name = "ELEMENTS", default_value_t = 4_000_003, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Vectors {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Sample for VectorAdd {
    const NAME: &'static str = "vectorAdd";
    const PTX: &'static str = include_str!("../../kernels/vectorAdd.ptx");
    const KERNELS: &'static [&'static str] = &["vectorAdd"];
    type Input = Vectors;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} elements", self.n)
    }

    fn input(&self, seed: u64) -> Vectors {
        let mut random = Random::new(seed);
        let n = self.n as usize;
        Vectors {
            a: random.floats(n, -1.0, 1.0),
            b: random.floats(n, -1.0, 1.0),
        }
    }

    fn solve(&self, lane: &mut Lane, input: &Vectors) -> Result<Vec<f32>> {
        let a = lane.upload(&input.a)?;
        let b = lane.upload(&input.b)?;
        let mut c = lane.zeros(input.a.len())?;
        let n = input.a.len() as u64;
        let blocks = lane.blocks(input.a.len().div_ceil(4), THREADS_PER_BLOCK);
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, vectorAdd(a, b, c, n), in type and
            // order; it reads a and b and writes c below n, which is the length of all three.
            unsafe { launch!(lane, "vectorAdd", blocks, THREADS_PER_BLOCK; &a, &b, &mut c, &n) }?;
            Ok(())
        })?;
        lane.download(&c)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vectors) -> Vec<Expected> {
        add(input).into_iter().map(Expected::from).collect()
    }
}

fn add(input: &Vectors) -> Vec<f32> {
    input.a.iter().zip(&input.b).map(|(a, b)| a + b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_adds() {
        let input = Vectors {
            a: vec![1.0, -2.5, 0.1],
            b: vec![2.0, 2.5, 0.2],
        };
        assert_eq!(add(&input), [3.0, 0.0, 0.3]);
    }
}
