//! reductionMultiBlockCG: a sum by one kernel whose blocks wait for each other.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use cudarc::driver::PushKernelArg;

use crate::compare::{Expected, rounding_bound};
use crate::harness::{Common, Lane, Sample, config};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 256;

/// Divides a vector by its sum on a CUDA device, in one cooperative kernel, and checks every element
///
/// The reference adds in double precision. The error is the difference divided by the element; the
/// tolerance is the proven bound on the rounding of all additions of positive numbers and a division.
#[derive(Parser)]
#[command(name = "reductionMultiBlockCG", version)]
pub(super) struct ReductionMultiBlock {
    /// Elements
    #[arg(long, value_name = "ELEMENTS", default_value_t = 200_003, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    n: u32,

    /// Blocks, all of which the device must be able to run at once
    #[arg(long, value_name = "BLOCKS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    blocks: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for ReductionMultiBlock {
    const NAME: &'static str = "reductionMultiBlockCG";
    const PTX: &'static str = include_str!("../../kernels/reductionMultiBlockCG.ptx");
    const KERNELS: &'static [&'static str] = &["normalise"];
    type Input = Vec<f32>;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} elements, {} blocks", self.n, self.blocks)
    }

    fn input(&self, seed: u64) -> Vec<f32> {
        Random::new(seed).floats(self.n as usize, 0.5, 1.5)
    }

    fn solve(&self, lane: &mut Lane, input: &Vec<f32>) -> Result<Vec<f32>> {
        let start = lane.upload(input)?;
        let mut data = lane.zeros(input.len())?;
        let mut sums = lane.zeros::<f32>(self.blocks as usize)?;
        let mut total = lane.zeros::<f32>(1)?;
        let mut arrived = lane.zeros::<u32>(1)?;
        let per_multiprocessor = lane
            .kernel("normalise")?
            .occupancy_max_active_blocks_per_multiprocessor(THREADS_PER_BLOCK, 0, None)
            .context("the device does not tell how many blocks it runs at once")?;
        let at_once = per_multiprocessor.saturating_mul(lane.multiprocessors());
        ensure!(
            self.blocks <= at_once,
            "the device runs only {at_once} of these blocks at once: ask for no more with --blocks"
        );
        lane.iterate(|lane| {
            lane.copy(&start, &mut data)?;
            lane.stream().memset_zeros(&mut arrived)?;
            let mut kernel = lane.stream().launch_builder(lane.kernel("normalise")?);
            kernel.arg(&mut data).arg(&self.n).arg(&mut sums);
            kernel.arg(&mut total).arg(&mut arrived);
            // SAFETY: the arguments are those of the kernel's source, normalise(data, n, blockSums, total, arrived), in
            // type and order; data has n elements, the sums one a block, and the counter is 0.
            unsafe { kernel.launch_cooperative(config(self.blocks, THREADS_PER_BLOCK, 0)) }?;
            Ok(())
        })?;
        lane.download(&data)
    }

    fn tolerance(&self) -> f64 {
        rounding_bound(self.n.div_ceil(self.blocks * THREADS_PER_BLOCK) + 2 * 8 + self.blocks + 1)
    }

    fn reference(&self, input: &Vec<f32>) -> Vec<Expected> {
        let sum: f64 = input.iter().map(|&x| f64::from(x)).sum();
        input
            .iter()
            .map(|&x| Expected::relative(f64::from(x) / sum, f64::from(x) / sum))
            .collect()
    }
}
