//! doubleMath: elementary functions and Newton's method in double precision.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 128;

/// Computes functions in double precision on a CUDA device and checks every value
///
/// They are e^x, ln(|x| + 1), sine, cosine, the square root of |x|, x without its digits after the sixth, and the root of
/// t^3 + 3 t = x by Newton's method. The reference is the CPU's mathematics library. The error is the difference
/// divided by the value, or by 1 if that is more; the tolerance is 2e-15, some nine units in the last place.
#[derive(Parser)]
#[command(name = "doubleMath", version)]
pub(super) struct DoubleMath {
    /// Numbers
    #[arg(long, value_name = "NUMBERS", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for DoubleMath {
    const NAME: &'static str = "doubleMath";
    const PTX: &'static str = include_str!("../../kernels/doubleMath.ptx");
    const KERNELS: &'static [&'static str] = &["functions", "cubicRoot"];
    type Input = Vec<f64>;
    type Output = f64;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} numbers", self.n)
    }

    fn input(&self, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        let n = self.n as usize;
        // More digits than a float has.
        let (coarse, fine) = (random.floats(n, -30.0, 30.0), random.floats(n, -1e-6, 1e-6));
        let both = coarse.into_iter().zip(fine);
        both.map(|(a, b)| f64::from(a) + f64::from(b)).collect()
    }

    /// The values by function, then the roots.
    fn solve(&self, lane: &mut Lane, input: &Vec<f64>) -> Result<Vec<f64>> {
        let x = lane.upload(input)?;
        let mut values = lane.zeros(6 * input.len())?;
        let mut roots = lane.zeros(input.len())?;
        let blocks = self.n.div_ceil(THREADS_PER_BLOCK);
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, functions(x, n, result), in type and order; there are
            // six results for each of n numbers.
            unsafe {
                launch!(lane, "functions", blocks, THREADS_PER_BLOCK; &x, &self.n, &mut values)
            }?;
            // SAFETY: as above, of cubicRoot(x, n, root), with one.
            unsafe {
                launch!(lane, "cubicRoot", blocks, THREADS_PER_BLOCK; &x, &self.n, &mut roots)
            }?;
            Ok(())
        })?;
        Ok([lane.download(&values)?, lane.download(&roots)?].concat())
    }

    fn tolerance(&self) -> f64 {
        2e-15
    }

    fn reference(&self, input: &Vec<f64>) -> Vec<Expected> {
        let functions: [fn(f64) -> f64; 7] = [
            f64::exp,
            |x| (x.abs() + 1.0).ln(),
            f64::sin,
            f64::cos,
            |x| x.abs().sqrt(),
            |x| (x * 1e6).trunc() / 1e6,
            cubic_root,
        ];
        functions
            .iter()
            .flat_map(|function| input.iter().map(|&x| function(x)))
            .map(|value| Expected::relative(value, value.abs().max(1.0)))
            .collect()
    }
}

/// The real root of t^3 + 3 t - x by Cardano's formula.
fn cubic_root(x: f64) -> f64 {
    // Of t = s - 1/s: s^3 - 1/s^3 = x. The sign is taken out, as s would be small where x is negative.
    let half = x.abs() / 2.0;
    let s = (half + (half * half + 1.0).sqrt()).cbrt();
    let t = s - 1.0 / s;
    // Where s is near 1 the difference loses digits: one step of Newton's restores them.
    let t = t - (t * t * t + 3.0 * t - x.abs()) / (3.0 * t * t + 3.0);
    t.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_roots() {
        for x in [-30.0, -4.0, -0.1, 0.0, 1e-9, 0.5, 4.0, 14.0, 30.0] {
            let t = cubic_root(x);
            assert!(
                (t * t * t + 3.0 * t - x).abs() <= 4e-15 * x.abs().max(1.0),
                "{x}"
            );
        }
        assert_eq!((cubic_root(4.0), cubic_root(-14.0)), (1.0, -2.0));
    }
}
