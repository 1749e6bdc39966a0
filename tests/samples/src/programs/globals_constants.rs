//! globalsConstants: variables of a module in every state space.

use anyhow::{Result, ensure};
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

/// What the module's own variables begin with.
const INITIALISED: [u32; 8] = [3, 1, 4, 1, 5, 9, 2, 6];
const SQUARES: [u32; 5] = [0, 1, 4, 9, 16];
const STEP: u32 = 7;
const COUNTER: u32 = 1000;
const HISTORY: u32 = 64;

/// Uses a module's variables and dynamic shared memory on a CUDA device and checks every element
///
/// The kernel reads tables that the module initialises and one that the host writes, follows a pointer to a variable, and
/// counts its blocks, which the host reads. The reference computes the same on the CPU; the error is the
/// difference, and none is tolerated.
#[derive(Parser)]
#[command(name = "globalsConstants", version)]
pub(super) struct GlobalsConstants {
    /// Blocks
    #[arg(long, value_name = "BLOCKS", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    blocks: u32,

    /// Threads in a block, each with four bytes of dynamic shared memory
    #[arg(long, value_name = "THREADS", default_value_t = 333, value_parser = clap::value_parser!(u32).range(1..=1024))]
    block_size: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Words {
    data: Vec<u32>,
    table: Vec<u32>,
}

impl Sample for GlobalsConstants {
    const NAME: &'static str = "globalsConstants";
    const PTX: &'static str = include_str!("../../kernels/globalsConstants.ptx");
    const KERNELS: &'static [&'static str] = &["permute"];
    type Input = Words;
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} blocks of {} threads", self.blocks, self.block_size)
    }

    fn input(&self, seed: u64) -> Words {
        let mut random = Random::new(seed);
        Words {
            data: random.words(self.blocks as usize * self.block_size as usize),
            table: random.words(256),
        }
    }

    fn solve(&self, lane: &mut Lane, input: &Words) -> Result<Vec<u32>> {
        let from = lane.upload(&input.data)?;
        let mut to = lane.zeros(input.data.len())?;
        lane.set("fromHost", &input.table)?;
        let shared = 4 * self.block_size;
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, permute(from, to), in type and order; both have an
            // element a thread, and a block's shared memory has four bytes a thread.
            unsafe {
                launch!(lane, "permute", self.blocks, self.block_size, shared; &from, &mut to)
            }?;
            Ok(())
        })?;
        let output = lane.download(&to)?;
        // Other threads of this program count in the same module.
        if self.common.threads == 1 {
            let launched = self.blocks * self.common.iterations;
            let counter = lane.get::<u32>("counter", 1)?[0];
            ensure!(
                counter == COUNTER + launched,
                "the counter is {counter} instead of {COUNTER} + {launched}"
            );
            let mut last: Vec<u32> = lane.get("history", HISTORY as usize)?;
            last.retain(|&ticket| ticket != 0);
            last.sort_unstable();
            let want: Vec<u32> = (counter - launched.min(HISTORY)..counter).collect();
            ensure!(last == want, "the last tickets are {last:?}");
        }
        Ok(output)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Words) -> Vec<Expected> {
        let blocks = input.data.chunks_exact(self.block_size as usize);
        let of_block = |(block, data): (usize, &[u32])| -> Vec<Expected> {
            let mirrored = (0..data.len()).map(|thread| {
                let other = data.len() - 1 - thread;
                data[other]
                    .wrapping_add(input.table[other % 256])
                    .wrapping_add(INITIALISED[thread % 8] + SQUARES[block % 5] + STEP)
                    .into()
            });
            mirrored.collect()
        };
        blocks.enumerate().flat_map(of_block).collect()
    }
}
