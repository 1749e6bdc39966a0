//! mergeSort: pairs of keys and values, sorted in stretches and merged.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const STRETCH: u32 = 1024;
const THREADS_PER_BLOCK: u32 = 256;

/// Sorts pairs of keys and values on a CUDA device and checks every one
///
/// Values are the pairs' places before, and of equal keys the one with the smaller value comes first. The reference
/// sorts on the CPU. The error is the difference, and none is tolerated.
#[derive(Parser)]
#[command(name = "mergeSort", version)]
pub(super) struct MergeSort {
    /// Pairs
    #[arg(long, value_name = "PAIRS", default_value_t = 100_003, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for MergeSort {
    const NAME: &'static str = "mergeSort";
    const PTX: &'static str = include_str!("../../kernels/mergeSort.ptx");
    const KERNELS: &'static [&'static str] = &["sortStretches", "mergeStretches"];
    /// Keys and values in turns.
    type Input = Vec<u32>;
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} pairs", self.n)
    }

    /// So few keys that some are equal.
    fn input(&self, seed: u64) -> Vec<u32> {
        let keys = Random::new(seed).words(self.n as usize);
        keys.into_iter()
            .zip(0..)
            .flat_map(|(key, value)| [key % self.n, value])
            .collect()
    }

    fn solve(&self, lane: &mut Lane, input: &Vec<u32>) -> Result<Vec<u32>> {
        let data = lane.upload(input)?;
        let mut from = lane.zeros::<u32>(input.len())?;
        let mut to = lane.zeros::<u32>(input.len())?;
        let n = self.n;
        lane.iterate(|lane| {
            lane.copy(&data, &mut from)?;
            let blocks = n.div_ceil(STRETCH);
            // SAFETY: the arguments are those of the kernel's source, sortStretches(data, n), in type and order; data has
            // n pairs, and a block the threads for which the kernel is written.
            unsafe { launch!(lane, "sortStretches", blocks, STRETCH / 2; &mut from, &n) }?;
            let mut length = STRETCH;
            while length < n {
                let blocks = n.div_ceil(THREADS_PER_BLOCK);
                // SAFETY: the arguments are those of the kernel's source, mergeStretches(to, from, n, length), in type
                // and order; both arrays have n pairs.
                unsafe {
                    launch!(
                        lane, "mergeStretches", blocks, THREADS_PER_BLOCK;
                        &mut to, &from, &n, &length
                    )
                }?;
                std::mem::swap(&mut from, &mut to);
                length *= 2;
            }
            Ok(())
        })?;
        lane.download(&from)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vec<u32>) -> Vec<Expected> {
        let mut pairs: Vec<_> = input.chunks_exact(2).collect();
        pairs.sort_unstable();
        pairs
            .into_iter()
            .flatten()
            .map(|&word| Expected::from(word))
            .collect()
    }
}
