//! shuffleReduction: what the lanes of a warp do together without shared memory.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const WARP: u32 = 32;
const THREADS_PER_BLOCK: u32 = 256;

/// Adds, compares and votes by warp shuffles on a CUDA device and checks every result
///
/// Each warp of 32 elements has a sum, a largest element, prefix sums and a count of odd elements; the whole has a
/// sum. The reference computes them on the CPU; sums wrap around at 2^32. The error is the difference, and
/// none is tolerated.
#[derive(Parser)]
#[command(name = "shuffleReduction", version)]
pub(super) struct ShuffleReduction {
    /// Elements; past the last a warp has zeros
    #[arg(long, value_name = "ELEMENTS", default_value_t = 200_005, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for ShuffleReduction {
    const NAME: &'static str = "shuffleReduction";
    const PTX: &'static str = include_str!("../../kernels/shuffleReduction.ptx");
    const KERNELS: &'static [&'static str] = &["warpResults", "blockSums"];
    type Input = Vec<u32>;
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} elements", self.n)
    }

    fn input(&self, seed: u64) -> Vec<u32> {
        Random::new(seed).words(self.n as usize)
    }

    /// The warps' sums, largest elements and counts, the prefix sums, and the whole's sum.
    fn solve(&self, lane: &mut Lane, input: &Vec<u32>) -> Result<Vec<u32>> {
        let data = lane.upload(input)?;
        let blocks = self.n.div_ceil(THREADS_PER_BLOCK);
        // The last block's warps all have a place for their results.
        let warps = (blocks * THREADS_PER_BLOCK / WARP) as usize;
        let mut sums = lane.zeros::<u32>(warps)?;
        let mut largest = lane.zeros::<u32>(warps)?;
        let mut odd = lane.zeros::<u32>(warps)?;
        let mut prefixes = lane.zeros::<u32>(input.len())?;
        let mut total = lane.zeros::<u32>(1)?;
        let few = lane.blocks(input.len(), THREADS_PER_BLOCK);
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, warpResults(data, n, sums, butterflies, prefixes,
            // odd), in type and order; data and prefixes have n elements, the others one a warp.
            unsafe {
                launch!(
                    lane, "warpResults", blocks, THREADS_PER_BLOCK;
                    &data, &self.n, &mut sums, &mut largest, &mut prefixes, &mut odd
                )
            }?;
            lane.stream().memset_zeros(&mut total)?;
            // SAFETY: the arguments are those of the kernel's source, blockSums(data, n, total), in type and order.
            unsafe {
                launch!(lane, "blockSums", few, THREADS_PER_BLOCK; &data, &self.n, &mut total)
            }?;
            Ok(())
        })?;
        let used = input.len().div_ceil(WARP as usize);
        let mut output = Vec::new();
        for of_warps in [&sums, &largest, &odd] {
            output.extend_from_slice(&lane.download(of_warps)?[..used]);
        }
        output.append(&mut lane.download(&prefixes)?);
        output.append(&mut lane.download(&total)?);
        Ok(output)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vec<u32>) -> Vec<Expected> {
        let add = |sum: u32, element: &u32| sum.wrapping_add(*element);
        let warps = || input.chunks(WARP as usize);
        let sums = warps().map(|warp| warp.iter().fold(0, add));
        let largest = warps().map(|warp| warp.iter().copied().max().unwrap_or(0));
        let odd = warps().map(|warp| warp.iter().map(|element| element % 2).sum());
        let prefixes = warps().flat_map(|warp| {
            warp.iter().scan(0, |sum, element| {
                *sum = add(*sum, element);
                Some(*sum)
            })
        });
        let total = std::iter::once(input.iter().fold(0, add));
        let all = sums.chain(largest).chain(odd).chain(prefixes).chain(total);
        all.map(Expected::from).collect()
    }
}
