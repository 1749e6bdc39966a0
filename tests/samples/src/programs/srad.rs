//! srad: speckle-reducing anisotropic diffusion of an image.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 256;
const LAMBDA: f32 = 0.5;

/// Removes speckle from an image on a CUDA device and checks every pixel
///
/// The reference makes the same steps in double precision. The error is the absolute difference of pixels
/// between 0 and 255; the tolerance is 0.05.
#[derive(Parser)]
#[command(name = "srad", version)]
pub(super) struct Srad {
    /// Pixels in a row
    #[arg(long, value_name = "PIXELS", default_value_t = 150, value_parser = clap::value_parser!(u32).range(2..=16_384))]
    width: u32,

    /// Rows
    #[arg(long, value_name = "ROWS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(2..=16_384))]
    height: u32,

    /// Steps
    #[arg(long, value_name = "STEPS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for Srad {
    const NAME: &'static str = "srad";
    const PTX: &'static str = include_str!("../../kernels/srad.ptx");
    const KERNELS: &'static [&'static str] = &[
        "extract",
        "compress",
        "reduce",
        "speckle",
        "coefficients",
        "diffuse",
    ];
    type Input = Vec<f32>;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!(
            "{} x {} pixels, {} steps",
            self.width, self.height, self.steps
        )
    }

    fn input(&self, seed: u64) -> Vec<f32> {
        let count = self.width as usize * self.height as usize;
        Random::new(seed).floats(count, 0.0, 255.0)
    }

    fn solve(&self, lane: &mut Lane, input: &Vec<f32>) -> Result<Vec<f32>> {
        let original = lane.upload(input)?;
        let mut from = lane.zeros::<f32>(input.len())?;
        let mut to = lane.zeros::<f32>(input.len())?;
        let mut coefficients = lane.zeros::<f32>(input.len())?;
        let (width, height) = (self.width, self.height);
        let n = width * height;
        // The sums depend on how many blocks there are, and must not depend on the device.
        let blocks = n.div_ceil(THREADS_PER_BLOCK * 8);
        let mut sums = lane.zeros::<f32>(blocks as usize * 2)?;
        let mut speckle = lane.zeros::<f32>(1)?;
        let line = n.div_ceil(THREADS_PER_BLOCK);
        let (tile, grid) = ((16, 16), (width.div_ceil(16), height.div_ceil(16)));
        lane.iterate(|lane| {
            lane.copy(&original, &mut from)?;
            // SAFETY: the arguments are those of the kernel's source, extract(image, n), in type and order; the image
            // has n pixels.
            unsafe { launch!(lane, "extract", line, THREADS_PER_BLOCK; &mut from, &n) }?;
            for _ in 0..self.steps {
                // SAFETY: the arguments are those of the kernel's source, reduce(image, n, sums), in type and order;
                // sums has two elements a block, and a block the threads for which the kernel is written.
                unsafe {
                    launch!(lane, "reduce", blocks, THREADS_PER_BLOCK; &from, &n, &mut sums)
                }?;
                // SAFETY: as above, of speckle(sums, blocks, n, q0).
                unsafe {
                    launch!(lane, "speckle", 1, THREADS_PER_BLOCK; &sums, &blocks, &n, &mut speckle)
                }?;
                // SAFETY: the arguments are those of the kernel's source, coefficients(image, width, height, q0, c), in
                // type and order; image and c have width * height elements.
                unsafe {
                    launch!(
                        lane, "coefficients", grid, tile;
                        &from, &width, &height, &speckle, &mut coefficients
                    )
                }?;
                // SAFETY: as above, of diffuse(to, from, c, width, height, lambda).
                unsafe {
                    launch!(
                        lane, "diffuse", grid, tile;
                        &mut to, &from, &coefficients, &width, &height, &LAMBDA
                    )
                }?;
                std::mem::swap(&mut from, &mut to);
            }
            // SAFETY: as for extract.
            unsafe { launch!(lane, "compress", line, THREADS_PER_BLOCK; &mut from, &n) }?;
            Ok(())
        })?;
        lane.download(&from)
    }

    fn tolerance(&self) -> f64 {
        0.05
    }

    fn reference(&self, input: &Vec<f32>) -> Vec<Expected> {
        let (width, height) = (self.width as usize, self.height as usize);
        let n = input.len() as f64;
        let mut image: Vec<f64> = input
            .iter()
            .map(|&x| (f64::from(x) / 255.0).exp())
            .collect();
        for _ in 0..self.steps {
            let mean = image.iter().sum::<f64>() / n;
            let variance = image.iter().map(|x| x * x).sum::<f64>() / n - mean * mean;
            let q0 = variance / (mean * mean);
            let pixels = || (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
            let at = |x: usize, y: usize| image[y * width + x];
            // To the north, south, west and east.
            let differences = |(x, y): (usize, usize)| {
                [
                    at(x, y.saturating_sub(1)),
                    at(x, (y + 1).min(height - 1)),
                    at(x.saturating_sub(1), y),
                    at((x + 1).min(width - 1), y),
                ]
                .map(|neighbour| neighbour - at(x, y))
            };
            let coefficients: Vec<f64> = pixels()
                .map(|(x, y)| {
                    let d = differences((x, y));
                    let gradient = d.iter().map(|d| d * d).sum::<f64>() / at(x, y).powi(2);
                    let laplacian = d.iter().sum::<f64>() / at(x, y);
                    let numerator = 0.5 * gradient - laplacian * laplacian / 16.0;
                    let q = numerator / (1.0 + 0.25 * laplacian).powi(2);
                    (1.0 / (1.0 + (q - q0) / (q0 * (1.0 + q0)))).clamp(0.0, 1.0)
                })
                .collect();
            let c = |x: usize, y: usize| coefficients[y * width + x];
            image = pixels()
                .map(|(x, y)| {
                    let [north, south, west, east] = differences((x, y));
                    let divergence = c(x, y) * (north + west)
                        + c(x, (y + 1).min(height - 1)) * south
                        + c((x + 1).min(width - 1), y) * east;
                    at(x, y) + 0.25 * f64::from(LAMBDA) * divergence
                })
                .collect();
        }
        image
            .into_iter()
            .map(|x| Expected::from(x.ln() * 255.0))
            .collect()
    }
}
