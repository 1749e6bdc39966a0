//! BlackScholes: the prices of European options.

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;
use anyhow::Result;
use clap::Parser;
use std::f64::consts::PI;

const THREADS_PER_BLOCK: u32 = 128;
/// The interest that no risk earns, a year.
const RATE: f32 = 0.02;
/// The standard deviation of the underlying's yearly return.
const VOLATILITY: f32 = 0.30;

/// Prices European call and put options on a CUDA device and checks every price
///
/// Prices of the underlying are between 5 and 30, strike prices between 1 and 100, times to expiry between
/// 3 months and 10 years. The reference is computed in double precision with a cumulative normal
/// distribution that is exact to 1e-15. The error is the absolute difference; the kernel's approximation
/// of that distribution, good to 7.5e-8, and single precision at prices up to 100 make the tolerance 5e-5.
#[derive(Parser)]
#[command(name = "BlackScholes", version)]
pub(super) struct BlackScholes {
    /// Options to price
    #[arg(long, value_name = "OPTIONS", default_value_t = 1_000_001, value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Options {
    spot: Vec<f32>,
    strike: Vec<f32>,
    years: Vec<f32>,
}

impl Sample for BlackScholes {
    const NAME: &'static str = "BlackScholes";
    const PTX: &'static str = include_str!("../../kernels/BlackScholes.ptx");
    const KERNELS: &'static [&'static str] = &["BlackScholes"];
    type Input = Options;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} options", self.n)
    }

    fn input(&self, seed: u64) -> Options {
        let mut random = Random::new(seed);
        let n = self.n as usize;
        Options {
            spot: random.floats(n, 5.0, 30.0),
            strike: random.floats(n, 1.0, 100.0),
            years: random.floats(n, 0.25, 10.0),
        }
    }

    /// All the calls' prices, then all the puts'.
    fn solve(&self, lane: &mut Lane, input: &Options) -> Result<Vec<f32>> {
        let spot = lane.upload(&input.spot)?;
        let strike = lane.upload(&input.strike)?;
        let years = lane.upload(&input.years)?;
        let mut call = lane.zeros(input.spot.len())?;
        let mut put = lane.zeros(input.spot.len())?;
        let blocks = lane.blocks(input.spot.len().div_ceil(2), THREADS_PER_BLOCK);
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, BlackScholes(call, put, spot, strike,
            // years, rate, volatility, n), in type and order; it stays below n, which is the length of all
            // five slices.
            unsafe {
                launch!(
                    lane, "BlackScholes", blocks, THREADS_PER_BLOCK;
                    &mut call, &mut put, &spot, &strike, &years, &RATE, &VOLATILITY, &self.n
                )
            }?;
            Ok(())
        })?;
        let mut prices = lane.download(&call)?;
        prices.append(&mut lane.download(&put)?);
        Ok(prices)
    }

    fn tolerance(&self) -> f64 {
        5e-5
    }

    fn reference(&self, input: &Options) -> Vec<Expected> {
        let normal = Normal::new();
        let options = input.spot.iter().zip(&input.strike).zip(&input.years);
        let (calls, puts): (Vec<f64>, Vec<f64>) = options
            .map(|((&spot, &strike), &years)| {
                normal.price(spot.into(), strike.into(), years.into())
            })
            .unzip();
        calls.into_iter().chain(puts).map(Expected::from).collect()
    }
}

/// The cumulative normal distribution in double precision, by the series
/// 1/2 + density(x) (x + x^3/3 + x^5/(3*5) + x^7/(3*5*7) + ...), which converges everywhere.
struct Normal {
    /// 1/3, 1/5, 1/7, ...: the factors from one term to the next, but for x^2.
    reciprocals: Vec<f64>,
}

impl Normal {
    /// Beyond this the distribution is 0 or 1 to the precision of a double.
    const FAR: f64 = 8.5;

    fn new() -> Self {
        // At FAR, the terms have fallen below any precision long before the 200th.
        Self {
            reciprocals: (1..200).map(|i| 1.0 / f64::from(2 * i + 1)).collect(),
        }
    }

    fn cumulative(&self, x: f64) -> f64 {
        if x.abs() > Self::FAR {
            return if x > 0.0 { 1.0 } else { 0.0 };
        }
        let square = x * x;
        let mut term = x;
        let mut sum = x;
        for reciprocal in &self.reciprocals {
            term *= square * reciprocal;
            sum += term;
            if term.abs() < 1e-17 * sum.abs() {
                break;
            }
        }
        0.5 + (-0.5 * square).exp() / (2.0 * PI).sqrt() * sum
    }

    /// The prices of a call and a put.
    fn price(&self, spot: f64, strike: f64, years: f64) -> (f64, f64) {
        let (rate, volatility) = (f64::from(RATE), f64::from(VOLATILITY));
        let deviation = volatility * years.sqrt();
        let d1 =
            ((spot / strike).ln() + (rate + 0.5 * volatility * volatility) * years) / deviation;
        let d2 = d1 - deviation;
        let discounted = strike * (-rate * years).exp();
        let call = spot * self.cumulative(d1) - discounted * self.cumulative(d2);
        let put = discounted * self.cumulative(-d2) - spot * self.cumulative(-d1);
        (call, put)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cumulative_normal_distribution_has_its_tabulated_values() {
        let normal = Normal::new();
        for (x, want) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (-1.0, 0.158_655_253_931_457_05),
            (1.96, 0.975_002_104_851_779_5),
            (3.0, 0.998_650_101_968_369_9),
            (-5.0, 2.866_515_718_791_939e-7),
            (8.4, 1.0),
            (-8.4, 0.0),
            (30.0, 1.0),
            (-30.0, 0.0),
        ] {
            let got = normal.cumulative(x);
            assert!((got - want).abs() < 2e-15, "{x}: {got} instead of {want}");
        }
    }

    #[test]
    fn calls_and_puts_are_in_parity() {
        // A call less a put is the underlying less the discounted strike, whatever the distribution.
        let normal = Normal::new();
        for (spot, strike, years) in [
            (5.0, 100.0, 0.25),
            (30.0, 1.0, 0.25),
            (20.0, 20.0, 10.0),
            (17.3, 25.0, 3.0),
        ] {
            let (call, put) = normal.price(spot, strike, years);
            let difference = spot - strike * (-f64::from(RATE) * years).exp();
            assert!((call - put - difference).abs() < 1e-12);
            assert!(call > -1e-12 && put > -1e-12);
        }
    }

    #[test]
    fn at_the_money_forward_the_price_follows_from_one_value_of_the_distribution() {
        // With spot = discounted strike, d1 = -d2 = deviation / 2.
        let normal = Normal::new();
        let strike = 20.0 * (f64::from(RATE) * 4.0).exp();
        let (call, put) = normal.price(20.0, strike, 4.0);
        let half = f64::from(VOLATILITY);
        let want = 20.0 * (2.0 * normal.cumulative(half) - 1.0);
        assert!((call - want).abs() < 1e-12 && (put - want).abs() < 1e-12);
    }
}
