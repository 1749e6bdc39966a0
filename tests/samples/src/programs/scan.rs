//! scan: prefix sums, of one block and of many.

use anyhow::Result;
use clap::Parser;
use cudarc::driver::CudaSlice;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 256;
const PER_BLOCK: u32 = 4 * THREADS_PER_BLOCK;

/// Makes the exclusive prefix sums of an array on a CUDA device and checks every one
///
/// The reference adds on the CPU; sums wrap around at 2^32. The error is the difference, and none is tolerated.
#[derive(Parser)]
#[command(name = "scan", version)]
pub(super) struct Scan {
    /// Elements
    #[arg(long, value_name = "ELEMENTS", default_value_t = 1_200_003, value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

/// An array's sums, the sums of its blocks, theirs, and so on, up to one block.
struct Level {
    sums: CudaSlice<u32>,
    n: u32,
}

impl Sample for Scan {
    const NAME: &'static str = "scan";
    const PTX: &'static str = include_str!("../../kernels/scan.ptx");
    const KERNELS: &'static [&'static str] = &["scanBlocks", "addBefore"];
    type Input = Vec<u32>;
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("one block of elements, then {}", self.n)
    }

    fn input(&self, seed: u64) -> Vec<u32> {
        Random::new(seed).words(self.n as usize)
    }

    /// The sums of the first block alone, which are in the whole's too, and those of all.
    fn solve(&self, lane: &mut Lane, input: &Vec<u32>) -> Result<Vec<u32>> {
        let data = lane.upload(input)?;
        let mut output = Vec::new();
        for n in [self.n.min(PER_BLOCK), self.n] {
            let mut levels = Vec::new();
            let mut count = n;
            loop {
                levels.push(Level {
                    sums: lane.zeros(count as usize)?,
                    n: count,
                });
                if levels.len() > 1 && count == 1 {
                    break;
                }
                count = count.div_ceil(PER_BLOCK);
            }
            lane.iterate(|lane| scan(lane, &data, &mut levels))?;
            output.append(&mut lane.download(&levels[0].sums)?);
        }
        Ok(output)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vec<u32>) -> Vec<Expected> {
        let sums = |n: u32| {
            input.iter().take(n as usize).scan(0_u32, |sum, element| {
                let before = *sum;
                *sum = sum.wrapping_add(*element);
                Some(Expected::from(before))
            })
        };
        sums(PER_BLOCK).chain(sums(self.n)).collect()
    }
}

fn scan(lane: &Lane, data: &CudaSlice<u32>, levels: &mut [Level]) -> Result<()> {
    let [level, above @ ..] = levels else {
        return Ok(());
    };
    let [next, ..] = above else {
        return Ok(());
    };
    let n = level.n;
    let blocks = n.div_ceil(PER_BLOCK);
    // SAFETY: the arguments are those of the kernel's source, scanBlocks(to, from, n, sums), in type and order; data
    // and this level have n elements, the next has one a block.
    unsafe {
        launch!(
            lane, "scanBlocks", blocks, THREADS_PER_BLOCK;
            &mut level.sums, data, &n, &mut next.sums
        )
    }?;
    if blocks > 1 {
        // A level is scanned from a copy of itself: the kernel's arrays must not overlap.
        let mut sums = lane.zeros(blocks as usize)?;
        lane.copy(&next.sums, &mut sums)?;
        scan(lane, &sums, above)?;
        // SAFETY: the arguments are those of the kernel's source, addBefore(data, n, before), in type and order.
        unsafe {
            launch!(
                lane, "addBefore", blocks, THREADS_PER_BLOCK;
                &mut level.sums, &n, &above[0].sums
            )
        }?;
    }
    Ok(())
}
