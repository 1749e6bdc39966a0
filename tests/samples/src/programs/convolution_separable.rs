//! convolutionSeparable: a filter over an image, rows and columns one after the other.

use anyhow::Result;
use clap::Parser;

use crate::compare::{Expected, rounding_bound};
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const RADIUS: usize = 8;
const TAPS: usize = 2 * RADIUS + 1;

/// Filters an image on a CUDA device and checks every pixel
///
/// The filter has 17 by 17 weights that are products of 17; beyond the image all is zero. The reference is the
/// filter in both directions at once, in double precision. The error is the difference divided by the same
/// sum over absolute values; the tolerance is the proven bound on the rounding of two sums of 17.
#[derive(Parser)]
#[command(name = "convolutionSeparable", version)]
pub(super) struct ConvolutionSeparable {
    /// Pixels in a row
    #[arg(long, value_name = "PIXELS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    width: u32,

    /// Rows
    #[arg(long, value_name = "ROWS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    height: u32,

    #[command(flatten)]
    common: Common,
}

pub(super) struct Image {
    pixels: Vec<f32>,
    weights: Vec<f32>,
}

impl Sample for ConvolutionSeparable {
    const NAME: &'static str = "convolutionSeparable";
    const PTX: &'static str = include_str!("../../kernels/convolutionSeparable.ptx");
    const KERNELS: &'static [&'static str] = &["convolutionRows", "convolutionColumns"];
    type Input = Image;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!(
            "{} x {} pixels, {TAPS} x {TAPS} weights",
            self.width, self.height
        )
    }

    fn input(&self, seed: u64) -> Image {
        let mut random = Random::new(seed);
        Image {
            pixels: random.floats(self.width as usize * self.height as usize, 0.0, 255.0),
            weights: random.floats(TAPS, -1.0, 1.0),
        }
    }

    fn solve(&self, lane: &mut Lane, input: &Image) -> Result<Vec<f32>> {
        let image = lane.upload(&input.pixels)?;
        let mut rows = lane.zeros::<f32>(input.pixels.len())?;
        let mut both = lane.zeros(input.pixels.len())?;
        lane.set("weights", &input.weights)?;
        let (width, height) = (self.width, self.height);
        lane.iterate(|lane| {
            let grid = (width.div_ceil(128), height.div_ceil(4));
            // SAFETY: the arguments are those of the kernel's source, convolutionRows(to, from, width, height), in
            // type and order; both slices have width * height elements, and a block is 32 by 4 threads.
            unsafe {
                launch!(lane, "convolutionRows", grid, (32, 4); &mut rows, &image, &width, &height)
            }?;
            let grid = (width.div_ceil(16), height.div_ceil(64));
            // SAFETY: as above, with blocks of 16 by 8 threads.
            unsafe {
                launch!(lane, "convolutionColumns", grid, (16, 8); &mut both, &rows, &width, &height)
            }?;
            Ok(())
        })?;
        lane.download(&both)
    }

    fn tolerance(&self) -> f64 {
        rounding_bound(2 * TAPS as u32)
    }

    fn reference(&self, input: &Image) -> Vec<Expected> {
        let (width, height) = (self.width as usize, self.height as usize);
        let weight = |tap: usize| f64::from(input.weights[TAPS - 1 - tap]);
        let mut expected = Vec::with_capacity(input.pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (mut sum, mut scale) = (0.0, 0.0);
                for (row, at_y) in (y..).take(TAPS).enumerate() {
                    if at_y < RADIUS || at_y - RADIUS >= height {
                        continue;
                    }
                    let line = &input.pixels[(at_y - RADIUS) * width..][..width];
                    for (column, at_x) in (x..).take(TAPS).enumerate() {
                        if at_x >= RADIUS && at_x - RADIUS < width {
                            let term =
                                weight(row) * weight(column) * f64::from(line[at_x - RADIUS]);
                            sum += term;
                            scale += term.abs();
                        }
                    }
                }
                expected.push(Expected::relative(sum, scale));
            }
        }
        expected
    }
}
