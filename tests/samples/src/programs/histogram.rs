//! histogram: how often each value occurs among bytes, over 256 and over 64 bins.

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;
use anyhow::Result;
use clap::{Parser, ValueEnum};

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
pub(super) struct Histogram {
    /// Bytes to count
    #[arg(long, value_name = "BYTES", default_value_t = 8_000_005, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,

    /// Count over this many bins only
    #[arg(long, value_enum)]
    bins: Option<Bins>,

    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bins {
    #[value(name = "64")]
    Of64,
    #[value(name = "256")]
    Of256,
}

impl Bins {
    fn count(self) -> u32 {
        match self {
            Self::Of64 => 64,
            Self::Of256 => 256,
        }
    }
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
        let bins: Vec<_> = self
            .histograms()
            .map(|(_, bins)| format!("over {bins} bins"))
            .collect();
        format!("{} bytes, {}", self.n, bins.join(" and "))
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

    /// The counts of the 256 bins, then those of the 64, if both are wanted.
    fn solve(&self, lane: &mut Lane, input: &Vec<u8>) -> Result<Vec<u32>> {
        let data = lane.upload(input)?;
        let n = input.len() as u64;
        let blocks = lane.blocks(input.len().div_ceil(16), THREADS_PER_BLOCK);
        let mut counts = Vec::new();
        for (name, bins) in self.histograms() {
            let mut tables = lane.zeros::<u32>(blocks as usize * bins as usize)?;
            let mut totals = lane.zeros::<u32>(bins as usize)?;
            lane.iterate(|lane| {
                // SAFETY: the arguments are those of both kernels' sources, (data, n, blockTables), in type and
                // order; data has n bytes, the tables `bins` counts a block, and a block has the threads for
                // which the kernels are written.
                unsafe { launch!(lane, name, blocks, THREADS_PER_BLOCK; &data, &n, &mut tables) }?;
                lane.stream().memset_zeros(&mut totals)?;
                // SAFETY: the arguments are those of the kernel's source, mergeTables(tables, tableCount,
                // totals), in type and order; there are as many tables as the counting kernel had blocks, and a
                // block has as many threads as the tables and the totals have bins.
                unsafe {
                    launch!(lane, "mergeTables", MERGE_BLOCKS, bins; &tables, &blocks, &mut totals)
                }?;
                Ok(())
            })?;
            counts.append(&mut lane.download(&totals)?);
        }
        Ok(counts)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vec<u8>) -> Vec<Expected> {
        self.histograms()
            .flat_map(|(_, bins)| count(input, bins))
            .map(Expected::from)
            .collect()
    }
}

impl Histogram {
    /// The kernels to run, each with its number of bins.
    fn histograms(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let wanted = self.bins;
        HISTOGRAMS
            .into_iter()
            .filter(move |&(_, bins)| wanted.is_none_or(|wanted| wanted.count() == bins))
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
}
