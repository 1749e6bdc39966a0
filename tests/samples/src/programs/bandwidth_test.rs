//! bandwidthTest: how fast data goes between host and device, and within the device.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 256;

/// Copies data to a CUDA device, within it and back, in each way there is, and checks every byte
///
/// The copies to the device and back are from and to pageable memory, then pinned memory; those within are by
/// the driver, then by a kernel. The report has the bandwidth of each; within the device, a byte that is read
/// and written counts twice. The reference is the input itself; the error is the difference, and none is tolerated.
#[derive(Parser)]
#[command(name = "bandwidthTest", version)]
pub(super) struct BandwidthTest {
    /// Mebibytes
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    mib: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for BandwidthTest {
    const NAME: &'static str = "bandwidthTest";
    const PTX: &'static str = include_str!("../../kernels/bandwidthTest.ptx");
    const KERNELS: &'static [&'static str] = &["copy"];
    type Input = Vec<u32>;
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} MiB", self.mib)
    }

    fn input(&self, seed: u64) -> Vec<u32> {
        Random::new(seed).words((self.mib as usize) << 18)
    }

    /// What came through pageable memory and the driver's copy, then what came through the other ways.
    fn solve(&self, lane: &mut Lane, input: &Vec<u32>) -> Result<Vec<u32>> {
        let stream = lane.stream().clone();
        let context = stream.context().clone();
        let rounds = self.common.iterations;
        let bytes = size_of_val(input.as_slice()) as f64 * f64::from(rounds);
        // SAFETY: all of it is written before any of it is read.
        let mut host = unsafe { context.alloc_pinned::<u32>(input.len()) }
            .context("no pinned memory can be had")?;
        host.as_mut_slice()?.copy_from_slice(input);
        let mut first = lane.zeros::<u32>(input.len())?;
        let mut second = lane.zeros::<u32>(input.len())?;
        let (mut pageable, mut pinned) = (vec![0; input.len()], Vec::new());
        let vectors = self.mib << 16;
        let blocks = lane.blocks(vectors as usize, THREADS_PER_BLOCK);
        stream.synchronize()?;

        let timed = |what: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
            let start = Instant::now();
            for _ in 0..rounds {
                what()?;
            }
            stream.synchronize()?;
            Ok(bytes / start.elapsed().as_secs_f64() / 1e9)
        };
        let to_pageable = timed(&mut || Ok(stream.memcpy_htod(input, &mut first)?))?;
        let within = timed(&mut || lane.copy(&first, &mut second))?;
        let from_pageable = timed(&mut || Ok(stream.memcpy_dtoh(&second, &mut pageable)?))?;
        lane.stream().memset_zeros(&mut first)?;
        let to_pinned = timed(&mut || Ok(stream.memcpy_htod(&host, &mut first)?))?;
        stream.memset_zeros(&mut second)?;
        let by_kernel = timed(&mut || {
            // SAFETY: the arguments are those of the kernel's source, copy(to, from, n), in type and order; both
            // slices have n elements of 16 bytes, and no allocation is aligned to less.
            unsafe {
                launch!(lane, "copy", blocks, THREADS_PER_BLOCK; &mut second, &first, &vectors)
            }?;
            Ok(())
        })?;
        host.as_mut_slice()?.fill(0);
        let from_pinned = timed(&mut || Ok(stream.memcpy_dtoh(&second, &mut host)?))?;
        pinned.extend_from_slice(host.as_slice()?);

        for (what, value) in [
            ("to, pageable", to_pageable),
            ("to, pinned", to_pinned),
            ("within, driver", 2.0 * within),
            ("within, kernel", 2.0 * by_kernel),
            ("from, pageable", from_pageable),
            ("from, pinned", from_pinned),
        ] {
            lane.figure(what, "GB/s", value);
        }
        Ok([pageable, pinned].concat())
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vec<u32>) -> Vec<Expected> {
        let twice = input.iter().chain(input);
        twice.map(|&element| element.into()).collect()
    }
}
