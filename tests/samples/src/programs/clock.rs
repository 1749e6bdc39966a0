//! clock: how long blocks take, by the multiprocessor's own clock.

use anyhow::{Result, ensure};
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

/// Finds the smallest number of each block on a CUDA device, timed by its clock, and checks every one
///
/// The reference is found on the CPU. The error is the difference, and none is tolerated. A block that took no
/// time at all is an error too.
#[derive(Parser)]
#[command(name = "clock", version)]
pub(super) struct Clock {
    /// Blocks
    #[arg(long, value_name = "BLOCKS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    blocks: u32,

    /// Threads in a block, a power of two
    #[arg(long, value_name = "THREADS", default_value_t = 256, value_parser = power_of_two)]
    block_size: u32,

    #[command(flatten)]
    common: Common,
}

fn power_of_two(text: &str) -> Result<u32> {
    let number: u32 = text.parse()?;
    ensure!(
        number.is_power_of_two() && number <= 1024,
        "1, 2, 4, … or 1024 is needed"
    );
    Ok(number)
}

impl Sample for Clock {
    const NAME: &'static str = "clock";
    const PTX: &'static str = include_str!("../../kernels/clock.ptx");
    const KERNELS: &'static [&'static str] = &["timedReduction"];
    type Input = Vec<f32>;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} blocks of {} threads", self.blocks, self.block_size)
    }

    fn input(&self, seed: u64) -> Vec<f32> {
        let count = self.blocks as usize * self.block_size as usize * 2;
        Random::new(seed).floats(count, -1.0, 1.0)
    }

    fn solve(&self, lane: &mut Lane, input: &Vec<f32>) -> Result<Vec<f32>> {
        let numbers = lane.upload(input)?;
        let blocks = self.blocks as usize;
        let mut smallest = lane.zeros(blocks)?;
        let mut clocks = lane.zeros::<u64>(2 * blocks)?;
        let shared = self.block_size * 8;
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, timedReduction(input, output, clocks), in
            // type and order; a block reads two numbers a thread and writes one number and two clocks, and has
            // eight bytes of shared memory a thread.
            unsafe {
                launch!(
                    lane, "timedReduction", self.blocks, self.block_size, shared;
                    &numbers, &mut smallest, &mut clocks
                )
            }?;
            Ok(())
        })?;
        let clocks = lane.stream().clone_dtoh(&clocks)?;
        lane.stream().synchronize()?;
        let (starts, ends) = clocks.split_at(blocks);
        let mut sum = 0.0;
        for (block, (start, end)) in starts.iter().zip(ends).enumerate() {
            ensure!(
                end > start,
                "block {block} began at clock {start} and ended at {end}"
            );
            sum += (end - start) as f64;
        }
        lane.figure("a block took", "clocks", sum / f64::from(self.blocks));
        lane.download(&smallest)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vec<f32>) -> Vec<Expected> {
        input
            .chunks_exact(self.block_size as usize * 2)
            .map(|numbers| numbers.iter().copied().fold(f32::INFINITY, f32::min).into())
            .collect()
    }
}
