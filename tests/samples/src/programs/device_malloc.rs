//! deviceMalloc: memory that kernels allocate and free.

use anyhow::{Result, ensure};
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};

const THREADS_PER_BLOCK: u32 = 64;

/// Builds lists in kernels' own memory on a CUDA device, frees them in another kernel, and checks what was in them
///
/// A third kernel's blocks have an array each. The reference computes the same on the CPU; the error is the
/// difference, and none is tolerated.
#[derive(Parser)]
#[command(name = "deviceMalloc", version)]
pub(super) struct DeviceMalloc {
    /// Blocks of 64 threads
    #[arg(long, value_name = "BLOCKS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    blocks: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for DeviceMalloc {
    const NAME: &'static str = "deviceMalloc";
    const PTX: &'static str = include_str!("../../kernels/deviceMalloc.ptx");
    const KERNELS: &'static [&'static str] = &["build", "consume", "blockArray"];
    type Input = ();
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} lists", self.threads())
    }

    fn input(&self, _: u64) {}

    /// The sums of the threads' lists, then the blocks' arrays.
    fn solve(&self, lane: &mut Lane, (): &()) -> Result<Vec<u32>> {
        let threads = self.threads() as usize;
        // Pointers, which only the device may follow.
        let mut lists = lane.zeros::<u64>(threads)?;
        let mut failed = lane.zeros::<u32>(1)?;
        let mut sums = lane.zeros(threads)?;
        let mut arrays = lane.zeros(threads)?;
        let blocks = self.blocks;
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, build(lists, failed), in type and order; there is a
            // list a thread.
            unsafe { launch!(lane, "build", blocks, THREADS_PER_BLOCK; &mut lists, &mut failed) }?;
            // SAFETY: as above, of consume(lists, sums).
            unsafe { launch!(lane, "consume", blocks, THREADS_PER_BLOCK; &mut lists, &mut sums) }?;
            // SAFETY: as above, of blockArray(to), with an element a thread.
            unsafe { launch!(lane, "blockArray", blocks, THREADS_PER_BLOCK; &mut arrays) }?;
            Ok(())
        })?;
        let failed = lane.download(&failed)?;
        ensure!(failed == [0], "{} allocations failed", failed[0]);
        Ok([lane.download(&sums)?, lane.download(&arrays)?].concat())
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, (): &()) -> Vec<Expected> {
        let sum = |i: u32| {
            (0..=i % 8)
                .rev()
                .fold(0_u32, |sum, j| sum.wrapping_mul(3).wrapping_add(i * 16 + j))
        };
        let mirrored = |i: u32| {
            let block = i / THREADS_PER_BLOCK * THREADS_PER_BLOCK;
            let other = block + THREADS_PER_BLOCK - 1 - i % THREADS_PER_BLOCK;
            other * other
        };
        let threads = self.threads();
        let all = (0..threads).map(sum).chain((0..threads).map(mirrored));
        all.map(Expected::from).collect()
    }
}

impl DeviceMalloc {
    fn threads(&self) -> u32 {
        self.blocks * THREADS_PER_BLOCK
    }
}
