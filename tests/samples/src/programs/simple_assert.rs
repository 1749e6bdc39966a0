//! simpleAssert: assertions in kernels, that hold or fail.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};

const THREADS_PER_BLOCK: u32 = 64;

/// Asserts a number's limit in every thread on a CUDA device and checks that all went on
///
/// With --fail the last four threads' assertions fail: the kernel ends with CUDA_ERROR_ASSERT, and so does the program.
#[derive(Parser)]
#[command(name = "simpleAssert", version)]
pub(super) struct SimpleAssert {
    /// Blocks of 64 threads
    #[arg(long, value_name = "BLOCKS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    blocks: u32,

    /// Let the last assertions fail
    #[arg(long)]
    fail: bool,

    #[command(flatten)]
    common: Common,
}

impl Sample for SimpleAssert {
    const NAME: &'static str = "simpleAssert";
    const PTX: &'static str = include_str!("../../kernels/simpleAssert.ptx");
    const KERNELS: &'static [&'static str] = &["below"];
    type Input = ();
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} threads", self.blocks * THREADS_PER_BLOCK)
    }

    fn input(&self, _: u64) {}

    fn solve(&self, lane: &mut Lane, (): &()) -> Result<Vec<u32>> {
        let threads = self.blocks * THREADS_PER_BLOCK;
        let mut seen = lane.zeros(threads as usize)?;
        let limit = if self.fail { threads - 4 } else { threads };
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, below(n, seen), in type and order; `seen` has an
            // element a thread.
            unsafe { launch!(lane, "below", self.blocks, THREADS_PER_BLOCK; &limit, &mut seen) }?;
            Ok(())
        })?;
        lane.download(&seen)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, (): &()) -> Vec<Expected> {
        (1..=self.blocks * THREADS_PER_BLOCK)
            .map(Expected::from)
            .collect()
    }
}
