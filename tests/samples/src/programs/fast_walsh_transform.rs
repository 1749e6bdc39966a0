//! fastWalshTransform: a dyadic convolution by Walsh-Hadamard transforms.

use anyhow::Result;
use clap::Parser;
use cudarc::driver::CudaSlice;

use crate::compare::{Expected, rounding_bound};
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

/// Convolves two arrays over the exclusive or of their indices on a CUDA device and checks every element
///
/// Both are transformed, multiplied and transformed back. The reference is the sum itself, in double
/// precision. The error is the difference divided by the arrays' norms; the tolerance is the
/// proven bound on the rounding of three transforms and a product.
#[derive(Parser)]
#[command(name = "fastWalshTransform", version)]
pub(super) struct FastWalshTransform {
    /// Binary logarithm of the data's length
    #[arg(long, value_name = "LOG2", default_value_t = 15, value_parser = clap::value_parser!(u32).range(10..=24))]
    log2_data: u32,

    /// Binary logarithm of the length of what it is convolved with
    #[arg(long, value_name = "LOG2", default_value_t = 7, value_parser = clap::value_parser!(u32).range(0..=10))]
    log2_kernel: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Arrays {
    data: Vec<f32>,
    kernel: Vec<f32>,
}

impl Sample for FastWalshTransform {
    const NAME: &'static str = "fastWalshTransform";
    const PTX: &'static str = include_str!("../../kernels/fastWalshTransform.ptx");
    const KERNELS: &'static [&'static str] = &["walshStep", "walshStretch", "modulate"];
    type Input = Arrays;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("2^{} elements with 2^{}", self.log2_data, self.log2_kernel)
    }

    fn input(&self, seed: u64) -> Arrays {
        let mut random = Random::new(seed);
        Arrays {
            data: random.floats(1 << self.log2_data, -1.0, 1.0),
            kernel: random.floats(1 << self.log2_kernel, -1.0, 1.0),
        }
    }

    fn solve(&self, lane: &mut Lane, input: &Arrays) -> Result<Vec<f32>> {
        let n = 1_u32 << self.log2_data;
        let mut padded = input.kernel.clone();
        padded.resize(n as usize, 0.0);
        let (from, kernel) = (lane.upload(&input.data)?, lane.upload(&padded)?);
        let mut data = lane.zeros(n as usize)?;
        let mut weights = lane.zeros(n as usize)?;
        let factor = 1.0 / n as f32;
        lane.iterate(|lane| {
            lane.copy(&from, &mut data)?;
            lane.copy(&kernel, &mut weights)?;
            self.transform(lane, &mut data)?;
            self.transform(lane, &mut weights)?;
            let blocks = n.div_ceil(256);
            // SAFETY: the arguments are those of the kernel's source, modulate(a, b, n, factor), in type and order;
            // both slices have n elements.
            unsafe { launch!(lane, "modulate", blocks, 256; &mut data, &weights, &n, &factor) }?;
            self.transform(lane, &mut data)
        })?;
        lane.download(&data)
    }

    fn tolerance(&self) -> f64 {
        rounding_bound(3 * self.log2_data + 2)
    }

    fn reference(&self, input: &Arrays) -> Vec<Expected> {
        let squares = |data: &[f32]| -> f64 { data.iter().map(|&x| f64::from(x).powi(2)).sum() };
        let scale = (squares(&input.data) * squares(&input.kernel)).sqrt();
        (0..input.data.len())
            .map(|i| {
                let terms = input.kernel.iter().enumerate();
                let sum = terms
                    .map(|(j, &weight)| f64::from(weight) * f64::from(input.data[i ^ j]))
                    .sum();
                Expected::relative(sum, scale)
            })
            .collect()
    }
}

impl FastWalshTransform {
    fn transform(&self, lane: &Lane, data: &mut CudaSlice<f32>) -> Result<()> {
        // A step does two levels, so what is left for the last kernel is 9 or 10.
        let last = 10 - self.log2_data % 2;
        let quarter = 1_u32 << (self.log2_data - 2);
        for level in (last..self.log2_data).step_by(2).rev() {
            let stride = 1_u32 << level;
            let blocks = quarter.div_ceil(256);
            // SAFETY: the arguments are those of the kernel's source, walshStep(data, quarter, stride), in type and
            // order; data has four times quarter elements, and four strides divide that.
            unsafe { launch!(lane, "walshStep", blocks, 256; &mut *data, &quarter, &stride) }?;
        }
        let (blocks, threads) = (1_u32 << (self.log2_data - last), 1_u32 << (last - 1));
        // SAFETY: the argument is that of the kernel's source; a block has two elements a thread in data and in its
        // shared memory.
        unsafe { launch!(lane, "walshStretch", blocks, threads, 8 * threads; &mut *data) }?;
        Ok(())
    }
}
