//! histogram: how often each value occurs among bytes, over 256 and over 64 bins.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use cuda_samples::{Common, Comparison, Lane, Random, Sample, expect_length};
use cudarc::driver::{LaunchConfig, PushKernelArg};

/// The kernels are written for blocks of this size.
const THREADS_PER_BLOCK: u32 = 256;
/// Blocks that merge the counting blocks' tables.
const MERGE_BLOCKS: u32 = 8;
/// The counting kernels, each with its number of bins.
const HISTOGRAMS: [(&str, u32); 2] = [("histogram256", 256), ("histogram64", 64)];

/// Counts bytes on a CUDA device, over 256 and over 64 bins, and checks every count
///
/// Blocks count with atomics in shared memory, a second kernel merges their tables with atomics in global
/// memory. The reference counts on the CPU. The error is the absolute difference, and none is tolerated.
#[derive(Parser)]
#[command(name = "histogram", version)]
struct Histogram {
    /// Bytes to count
    #[arg(long, value_name = "BYTES", default_value_t = 8_000_005, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for Histogram {
    const NAME: &'static str = "histogram";
    const PTX: &'static str = include_str!("../../kernels/histogram.ptx");
    const KERNELS: &'static [&'static str] = &["histogram256", "histogram64", "mergeTables"];
    type Input = Vec<u8>;
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} bytes, over 256 and over 64 bins", self.n)
    }

    /// Small values are more frequent than large ones, so that no two neighbouring bins should be equal.
    fn input(&self, seed: u64) -> Vec<u8> {
        let mut random = Random::new(seed);
        let mut bytes = random.bytes(self.n as usize);
        for (byte, other) in bytes.iter_mut().zip(random.bytes(self.n as usize)) {
            *byte = (*byte).min(other);
        }
        bytes
    }

    /// The counts of the 256 bins, then those of the 64.
    fn solve(&self, lane: &mut Lane, input: &Vec<u8>) -> Result<Vec<u32>> {
        let data = lane.upload(input)?;
        let n = input.len() as u64;
        let blocks = lane.blocks(input.len().div_ceil(16), THREADS_PER_BLOCK);
        let mut counts = Vec::new();
        for (name, bins) in HISTOGRAMS {
            let mut tables = lane.zeros::<u32>(blocks as usize * bins as usize)?;
            let mut totals = lane.zeros::<u32>(bins as usize)?;
            lane.iterate(|lane| {
                let count = LaunchConfig {
                    grid_dim: (blocks, 1, 1),
                    block_dim: (THREADS_PER_BLOCK, 1, 1),
                    shared_mem_bytes: 0,
                };
                let mut kernel = lane.stream().launch_builder(lane.kernel(name)?);
                kernel.arg(&data).arg(&n).arg(&mut tables);
                // SAFETY: the arguments are those of both kernels' sources, (data, n, blockTables), in type and
                // order; data has n bytes, the tables `bins` counts a block, and a block has the threads for
                // which the kernels are written.
                unsafe { kernel.launch(count) }?;

                lane.stream().memset_zeros(&mut totals)?;
                let merge = LaunchConfig {
                    grid_dim: (MERGE_BLOCKS, 1, 1),
                    block_dim: (bins, 1, 1),
                    shared_mem_bytes: 0,
                };
                let mut kernel = lane.stream().launch_builder(lane.kernel("mergeTables")?);
                kernel.arg(&tables).arg(&blocks).arg(&mut totals);
                // SAFETY: the arguments are those of the kernel's source, mergeTables(tables, tableCount,
                // totals), in type and order; there are as many tables as the counting kernel had blocks, and a
                // block has as many threads as the tables and the totals have bins.
                unsafe { kernel.launch(merge) }?;
                Ok(())
            })?;
            counts.append(&mut lane.download(&totals)?);
        }
        Ok(counts)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn verify(&self, input: &Vec<u8>, output: &[u32], comparison: &mut Comparison) -> Result<()> {
        let reference: Vec<u32> = HISTOGRAMS
            .iter()
            .flat_map(|&(_, bins)| count(input, bins))
            .collect();
        expect_length(output.len(), reference.len())?;
        for (&got, want) in output.iter().zip(reference) {
            comparison.absolute(got.into(), want.into());
        }
        Ok(())
    }
}

/// How many bytes fall into each of `bins` bins of equal width.
fn count(data: &[u8], bins: u32) -> Vec<u32> {
    let width = 256 / bins;
    let mut of_value = [0; 256];
    for &byte in data {
        of_value[usize::from(byte)] += 1;
    }
    of_value
        .chunks(width as usize)
        .map(|values| values.iter().sum())
        .collect()
}

fn main() -> ExitCode {
    cuda_samples::main::<Histogram>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_counts() {
        let counts = count(&[0, 0, 3, 4, 255], 256);
        assert_eq!(
            (counts.len(), counts[0], counts[3], counts[4], counts[255]),
            (256, 2, 1, 1, 1)
        );
        let counts = count(&[0, 0, 3, 4, 255], 64);
        assert_eq!(
            (counts.len(), counts[0], counts[1], counts[63]),
            (64, 3, 1, 1)
        );
    }

    #[test]
    fn one_byte_in_the_wrong_bin_is_found() {
        let sample = Histogram::parse_from(["histogram", "--n", "10001"]);
        let input = sample.input(0);
        let mut output = [count(&input, 256), count(&input, 64)].concat();
        let mut right = Comparison::new(sample.tolerance());
        sample.verify(&input, &output, &mut right).unwrap();
        assert!(right.ok());
        output[256] -= 1;
        output[257] += 1;
        let mut wrong = Comparison::new(sample.tolerance());
        sample.verify(&input, &output, &mut wrong).unwrap();
        assert!(!wrong.ok());
    }
}
