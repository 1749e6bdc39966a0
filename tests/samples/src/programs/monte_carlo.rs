//! MonteCarlo: the prices of European options by simulation.

use std::f64::consts::TAU;

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 256;
/// The interest that no risk earns, a year.
const RATE: f32 = 0.06;
/// The standard deviation of the underlying's yearly return.
const VOLATILITY: f32 = 0.10;

/// Prices European call options by simulation on a CUDA device and checks every price
///
/// A block simulates the paths of one option with a counter-based generator (Philox 4x32-10) and Box and
/// Muller's transformation. The reference simulates the same paths in double precision. The results are the
/// mean payoffs and the means of their squares; the error is the difference divided by the option's price
/// of the underlying (squared for squares), and the tolerance is 1e-5.
#[derive(Parser)]
#[command(name = "MonteCarlo", version)]
pub(super) struct MonteCarlo {
    /// Options
    #[arg(long, value_name = "OPTIONS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    options: u32,

    /// Thousands of paths for each option
    #[arg(long, value_name = "PATHS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    kilopaths: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Options {
    spot: Vec<f32>,
    strike: Vec<f32>,
    years: Vec<f32>,
    seed: u32,
}

impl Sample for MonteCarlo {
    const NAME: &'static str = "MonteCarlo";
    const PTX: &'static str = include_str!("../../kernels/MonteCarlo.ptx");
    const KERNELS: &'static [&'static str] = &["MonteCarlo"];
    type Input = Options;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} options, {} paths each", self.options, self.paths())
    }

    fn input(&self, seed: u64) -> Options {
        let mut random = Random::new(seed);
        let n = self.options as usize;
        Options {
            spot: random.floats(n, 5.0, 50.0),
            strike: random.floats(n, 10.0, 25.0),
            years: random.floats(n, 1.0, 5.0),
            seed: seed as u32,
        }
    }

    /// A mean payoff and a mean of squares for each option.
    fn solve(&self, lane: &mut Lane, input: &Options) -> Result<Vec<f32>> {
        let spot = lane.upload(&input.spot)?;
        let strike = lane.upload(&input.strike)?;
        let years = lane.upload(&input.years)?;
        let mut result = lane.zeros(2 * input.spot.len())?;
        let paths = self.paths();
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, MonteCarlo(spot, strike, years, rate, volatility,
            // paths, seed, result), in type and order; there is a block for each option, of the threads for which
            // the kernel is written, and the result has two elements a block.
            unsafe {
                launch!(
                    lane, "MonteCarlo", self.options, THREADS_PER_BLOCK;
                    &spot, &strike, &years, &RATE, &VOLATILITY, &paths, &input.seed, &mut result
                )
            }?;
            Ok(())
        })?;
        lane.download(&result)
    }

    fn tolerance(&self) -> f64 {
        1e-5
    }

    fn reference(&self, input: &Options) -> Vec<Expected> {
        let paths = self.paths();
        let (rate, volatility) = (f64::from(RATE), f64::from(VOLATILITY));
        let mut expected = Vec::new();
        for (option, ((&spot, &strike), &years)) in
            (0..).zip(input.spot.iter().zip(&input.strike).zip(&input.years))
        {
            let [spot, strike, years] = [spot, strike, years].map(f64::from);
            let drift = (rate - 0.5 * volatility * volatility) * years;
            let deviation = volatility * years.sqrt();
            let (mut sum, mut squares) = (0.0, 0.0);
            for i in 0..paths / 4 {
                for draw in normals(philox([i, option, 0, 0], [input.seed, 0])) {
                    let payoff = (spot * (drift + deviation * draw).exp() - strike).max(0.0);
                    sum += payoff;
                    squares += payoff * payoff;
                }
            }
            let discount = (-rate * years).exp();
            let paths = f64::from(paths);
            expected.push(Expected::relative(discount * sum / paths, spot));
            expected.push(Expected::relative(
                discount * discount * squares / paths,
                spot * spot,
            ));
        }
        expected
    }
}

impl MonteCarlo {
    fn paths(&self) -> u32 {
        self.kilopaths * 1000
    }
}

/// Philox 4x32-10: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high_a, low_a) = product(0xd251_1f53, counter[0]);
        let (high_b, low_b) = product(0xcd9e_8d57, counter[2]);
        counter = [
            high_b ^ counter[1] ^ key[0],
            low_b,
            high_a ^ counter[3] ^ key[1],
            low_a,
        ];
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    counter
}

/// Numbers of the standard normal distribution: G. Box, M. Muller, 1958.
fn normals(bits: [u32; 4]) -> [f64; 4] {
    let [a, b, c, d] = bits.map(|bits| (f64::from(bits >> 9) + 0.5) / f64::from(1 << 23));
    let pair = |a: f64, b: f64| {
        let radius = (-2.0 * a.ln()).sqrt();
        (radius * (TAU * b).cos(), radius * (TAU * b).sin())
    };
    let ((n, m), (o, p)) = (pair(a, b), pair(c, d));
    [n, m, o, p]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_its_authors_numbers() {
        // The known answers that come with the reference implementation.
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn the_numbers_are_normally_distributed() {
        let draws: Vec<f64> = (0..25_000)
            .flat_map(|i| normals(philox([i, 0, 0, 0], [1, 0])))
            .collect();
        let n = draws.len() as f64;
        let moment = |power| draws.iter().map(|x: &f64| x.powi(power)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.02);
        assert!((moment(2) - 1.0).abs() < 0.03);
        assert!((moment(4) - 3.0).abs() < 0.2);
    }
}
