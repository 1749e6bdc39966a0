//! asyncAPI: the host works on while the device copies and computes.

use anyhow::{Context, Result};
use clap::Parser;
use cudarc::driver::sys::CUevent_flags;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 512;
const BY: u32 = 26;

/// Queues copies and a kernel on a CUDA device, counts on the host until they are done, and checks every element
///
/// The reference adds on the CPU. The error is the difference, and none is tolerated.
#[derive(Parser)]
#[command(name = "asyncAPI", version)]
pub(super) struct AsyncApi {
    /// Elements
    #[arg(long, value_name = "ELEMENTS", default_value_t = 1_000_001, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for AsyncApi {
    const NAME: &'static str = "asyncAPI";
    const PTX: &'static str = include_str!("../../kernels/asyncAPI.ptx");
    const KERNELS: &'static [&'static str] = &["increment"];
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

    fn solve(&self, lane: &mut Lane, input: &Vec<u32>) -> Result<Vec<u32>> {
        let context = lane.stream().context().clone();
        // SAFETY: all of it is written before any of it is read.
        let mut host = unsafe { context.alloc_pinned::<u32>(input.len()) }
            .context("no pinned memory can be had")?;
        host.as_mut_slice()?.copy_from_slice(input);
        let mut data = lane.zeros::<u32>(input.len())?;
        let blocks = self.n.div_ceil(THREADS_PER_BLOCK);
        let mut counted = 0_u64;
        lane.iterate(|lane| {
            let stream = lane.stream();
            stream.memcpy_htod(&host, &mut data)?;
            // SAFETY: the arguments are those of the kernel's source, increment(data, n, by), in type and
            // order; data has n elements.
            unsafe {
                launch!(lane, "increment", blocks, THREADS_PER_BLOCK; &mut data, &self.n, &BY)
            }?;
            let done = stream.record_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
            while !done.try_is_complete()? {
                counted += 1;
                std::thread::yield_now();
            }
            Ok(())
        })?;
        lane.figure("meanwhile", "rounds of the host", counted as f64);
        lane.download(&data)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vec<u32>) -> Vec<Expected> {
        input
            .iter()
            .map(|element| element.wrapping_add(BY).into())
            .collect()
    }
}
