//! binomialOptions: the prices of European options on a binomial tree.

use anyhow::Result;
use clap::Parser;

use crate::compare::{Expected, rounding_bound};
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 128;
/// The interest that no risk earns, a year.
const RATE: f32 = 0.06;
/// The standard deviation of the underlying's yearly return.
const VOLATILITY: f32 = 0.10;

/// Prices European call options on a binomial tree on a CUDA device and checks every price
///
/// The reference goes through the same tree in double precision. The error is the difference divided by the price
/// of the underlying; the tolerance is the bound on four roundings a step, as those of the weights add up.
#[derive(Parser)]
#[command(name = "binomialOptions", version)]
pub(super) struct BinomialOptions {
    /// Options
    #[arg(long, value_name = "OPTIONS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    options: u32,

    /// Steps in time
    #[arg(long, value_name = "STEPS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=2048))]
    steps: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Options {
    spot: Vec<f32>,
    strike: Vec<f32>,
    years: Vec<f32>,
}

impl Sample for BinomialOptions {
    const NAME: &'static str = "binomialOptions";
    const PTX: &'static str = include_str!("../../kernels/binomialOptions.ptx");
    const KERNELS: &'static [&'static str] = &["binomialOptions"];
    type Input = Options;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} options, {} steps", self.options, self.steps)
    }

    fn input(&self, seed: u64) -> Options {
        let mut random = Random::new(seed);
        let n = self.options as usize;
        Options {
            spot: random.floats(n, 5.0, 30.0),
            strike: random.floats(n, 1.0, 100.0),
            years: random.floats(n, 0.25, 10.0),
        }
    }

    fn solve(&self, lane: &mut Lane, input: &Options) -> Result<Vec<f32>> {
        let spot = lane.upload(&input.spot)?;
        let strike = lane.upload(&input.strike)?;
        let years = lane.upload(&input.years)?;
        let mut call = lane.zeros(input.spot.len())?;
        let shared = 8 * (self.steps + 1);
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, binomialOptions(spot, strike, years, rate,
            // volatility, steps, call), in type and order; there is a block for each option, whose shared memory
            // holds twice steps + 1 prices.
            unsafe {
                launch!(
                    lane, "binomialOptions", self.options, THREADS_PER_BLOCK, shared;
                    &spot, &strike, &years, &RATE, &VOLATILITY, &self.steps, &mut call
                )
            }?;
            Ok(())
        })?;
        lane.download(&call)
    }

    fn tolerance(&self) -> f64 {
        rounding_bound(4 * self.steps)
    }

    fn reference(&self, input: &Options) -> Vec<Expected> {
        let steps = self.steps as usize;
        let (rate, volatility) = (f64::from(RATE), f64::from(VOLATILITY));
        let options = input.spot.iter().zip(&input.strike).zip(&input.years);
        options
            .map(|((&spot, &strike), &years)| {
                let [spot, strike, years] = [spot, strike, years].map(f64::from);
                let step = years / f64::from(self.steps);
                let up = (volatility * step.sqrt()).exp();
                let rise = ((rate * step).exp() - 1.0 / up) / (up - 1.0 / up);
                let discount = (-rate * step).exp();
                let mut prices: Vec<f64> = (0..=steps)
                    .map(|ups| {
                        let moves = 2.0 * ups as f64 - steps as f64;
                        (spot * up.powf(moves) - strike).max(0.0)
                    })
                    .collect();
                for left in (0..steps).rev() {
                    for i in 0..=left {
                        prices[i] = discount * (rise * prices[i + 1] + (1.0 - rise) * prices[i]);
                    }
                }
                Expected::relative(prices[0], spot)
            })
            .collect()
    }
}
