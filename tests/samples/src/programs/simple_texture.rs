//! simpleTexture: an image turned about its middle by a texture that filters.

use std::mem::MaybeUninit;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use cudarc::driver::{CudaContext, sys};

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

/// How a texture continues beyond its image: the driver's mode, and whether coordinates go from 0 to 1.
const MODES: [(sys::CUaddress_mode, bool); 4] = [
    (sys::CUaddress_mode::CU_TR_ADDRESS_MODE_CLAMP, false),
    (sys::CUaddress_mode::CU_TR_ADDRESS_MODE_BORDER, false),
    (sys::CUaddress_mode::CU_TR_ADDRESS_MODE_WRAP, true),
    (sys::CUaddress_mode::CU_TR_ADDRESS_MODE_MIRROR, true),
];

/// Turns an image on a CUDA device, by a texture that filters between pixels, and checks every pixel
///
/// What lies outside the image is its nearest edge, black, the image repeated, then the image mirrored. The
/// reference filters in double precision. A GPU does so with fractions of 8 bits, hence the tolerance: an
/// absolute difference of 0.01, of pixels between 0 and 1, and checksums that differ between kinds of devices.
#[derive(Parser)]
#[command(name = "simpleTexture", version)]
pub(super) struct SimpleTexture {
    /// Pixels in a row
    #[arg(long, value_name = "PIXELS", default_value_t = 160, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    width: u32,

    /// Rows
    #[arg(long, value_name = "ROWS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    height: u32,

    /// The angle
    #[arg(long, value_name = "DEGREES", default_value_t = 40.0)]
    degrees: f64,

    #[command(flatten)]
    common: Common,
}

/// An image in an array of the device, and a texture object over it.
struct Texture {
    array: sys::CUarray,
    object: sys::CUtexObject,
    context: Arc<CudaContext>,
}

impl Texture {
    fn new(
        context: &Arc<CudaContext>,
        image: &[f32],
        (width, height): (usize, usize),
        (mode, normalised): (sys::CUaddress_mode, bool),
    ) -> Result<Self> {
        context.bind_to_thread()?;
        let description = sys::CUDA_ARRAY_DESCRIPTOR_st {
            Width: width,
            Height: height,
            Format: sys::CUarray_format::CU_AD_FORMAT_FLOAT,
            NumChannels: 1,
        };
        let mut array = MaybeUninit::uninit();
        // SAFETY: both pointers are good for the call, which writes the handle if it succeeds.
        unsafe { sys::cuArrayCreate_v2(array.as_mut_ptr(), &raw const description) }
            .result()
            .context("no array can be made")?;
        let mut texture = Self {
            // SAFETY: the call above has succeeded.
            array: unsafe { array.assume_init() },
            object: 0,
            context: context.clone(),
        };
        let copy = sys::CUDA_MEMCPY2D_st {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
            srcHost: image.as_ptr().cast(),
            srcDevice: 0,
            srcArray: std::ptr::null_mut(),
            srcPitch: width * size_of::<f32>(),
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_ARRAY,
            dstHost: std::ptr::null_mut(),
            dstDevice: 0,
            dstArray: texture.array,
            dstPitch: 0,
            WidthInBytes: width * size_of::<f32>(),
            Height: height,
        };
        // SAFETY: the image has height rows of width elements, as the array has.
        unsafe { sys::cuMemcpy2D_v2(&raw const copy) }
            .result()
            .context("copying the image into an array failed")?;
        // SAFETY: numbers, handles and enums with a variant for 0.
        let mut resource: sys::CUDA_RESOURCE_DESC_st = unsafe { std::mem::zeroed() };
        resource.resType = sys::CUresourcetype::CU_RESOURCE_TYPE_ARRAY;
        resource.res.array.hArray = texture.array;
        // SAFETY: as above.
        let mut sampler: sys::CUDA_TEXTURE_DESC_st = unsafe { std::mem::zeroed() };
        sampler.addressMode = [mode; 3];
        sampler.filterMode = sys::CUfilter_mode::CU_TR_FILTER_MODE_LINEAR;
        sampler.flags = if normalised {
            sys::CU_TRSF_NORMALIZED_COORDINATES
        } else {
            0
        };
        // SAFETY: all pointers are good for the call; a null view is allowed.
        unsafe {
            sys::cuTexObjectCreate(
                &raw mut texture.object,
                &raw const resource,
                &raw const sampler,
                std::ptr::null(),
            )
        }
        .result()
        .context("no texture object can be made")?;
        Ok(texture)
    }
}

impl Drop for Texture {
    fn drop(&mut self) {
        self.context.record_err(self.context.bind_to_thread());
        if self.object != 0 {
            // SAFETY: the object is this one's own, and no kernel uses it any more: its user waits for them.
            let destroyed = unsafe { sys::cuTexObjectDestroy(self.object) };
            self.context.record_err(destroyed.result());
        }
        // SAFETY: as above.
        let destroyed = unsafe { sys::cuArrayDestroy(self.array) };
        self.context.record_err(destroyed.result());
    }
}

impl Sample for SimpleTexture {
    const NAME: &'static str = "simpleTexture";
    const PTX: &'static str = include_str!("../../kernels/simpleTexture.ptx");
    const KERNELS: &'static [&'static str] = &["rotate"];
    type Input = Vec<f32>;
    type Output = f32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!(
            "{} x {} pixels by {} degrees, {} ways",
            self.width,
            self.height,
            self.degrees,
            MODES.len()
        )
    }

    fn input(&self, seed: u64) -> Vec<f32> {
        let count = self.width as usize * self.height as usize;
        Random::new(seed).floats(count, 0.0, 1.0)
    }

    /// The turned images, one a way to continue the image.
    fn solve(&self, lane: &mut Lane, input: &Vec<f32>) -> Result<Vec<f32>> {
        let context = lane.stream().context().clone();
        let size = (self.width as usize, self.height as usize);
        let grid = (self.width.div_ceil(16), self.height.div_ceil(16));
        let (sine, cosine) = self.turn();
        let mut output = Vec::new();
        for mode in MODES {
            let texture = Texture::new(&context, input, size, mode)?;
            let mut to = lane.zeros(input.len())?;
            let normalised = u32::from(mode.1);
            lane.iterate(|lane| {
                // SAFETY: the arguments are those of the kernel's source, rotate(to, width, height, sine, cosine, texture,
                // normalised), in type and order; `to` has width * height elements, and the texture lives on.
                unsafe {
                    launch!(
                        lane, "rotate", grid, (16, 16);
                        &mut to, &self.width, &self.height, &sine, &cosine,
                        &texture.object, &normalised
                    )
                }?;
                Ok(())
            })?;
            output.append(&mut lane.download(&to)?);
        }
        Ok(output)
    }

    fn tolerance(&self) -> f64 {
        0.01
    }

    fn reference(&self, input: &Vec<f32>) -> Vec<Expected> {
        let (width, height) = (i64::from(self.width), i64::from(self.height));
        let (w, h) = (width as f64, height as f64);
        let (sine, cosine) = self.turn();
        let (sine, cosine) = (f64::from(sine), f64::from(cosine));
        let mut expected = Vec::new();
        for (mode, _) in MODES {
            let texel = |x: i64, y: i64| match (outside(mode, x, width), outside(mode, y, height)) {
                (Some(x), Some(y)) => f64::from(input[(y * width + x) as usize]),
                _ => 0.0,
            };
            for y in 0..height {
                for x in 0..width {
                    let (u, v) = (x as f64 + 0.5 - 0.5 * w, y as f64 + 0.5 - 0.5 * h);
                    // A texel's value is that of its middle.
                    let s = u * cosine - v * sine + 0.5 * w - 0.5;
                    let t = v * cosine + u * sine + 0.5 * h - 0.5;
                    let (i, j) = (s.floor(), t.floor());
                    let (a, b) = (s - i, t - j);
                    let (i, j) = (i as i64, j as i64);
                    let row = |j| (1.0 - a) * texel(i, j) + a * texel(i + 1, j);
                    expected.push(((1.0 - b) * row(j) + b * row(j + 1)).into());
                }
            }
        }
        expected
    }
}

impl SimpleTexture {
    /// The angle's sine and cosine.
    fn turn(&self) -> (f32, f32) {
        let (sine, cosine) = self.degrees.to_radians().sin_cos();
        (sine as f32, cosine as f32)
    }
}

/// Which texel stands for the one at `i` of a row of `n`; none for black.
fn outside(mode: sys::CUaddress_mode, i: i64, n: i64) -> Option<i64> {
    match mode {
        sys::CUaddress_mode::CU_TR_ADDRESS_MODE_WRAP => Some(i.rem_euclid(n)),
        sys::CUaddress_mode::CU_TR_ADDRESS_MODE_MIRROR => {
            let i = i.rem_euclid(2 * n);
            Some(i.min(2 * n - 1 - i))
        }
        sys::CUaddress_mode::CU_TR_ADDRESS_MODE_BORDER => (0..n).contains(&i).then_some(i),
        sys::CUaddress_mode::CU_TR_ADDRESS_MODE_CLAMP => Some(i.clamp(0, n - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_continues_in_four_ways() {
        let of = |mode: usize| (-4..7).map(move |i| outside(MODES[mode].0, i, 3).map_or(9, |i| i));
        assert!(of(0).eq([0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2]));
        assert!(of(1).eq([9, 9, 9, 9, 0, 1, 2, 9, 9, 9, 9]));
        assert!(of(2).eq([2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]));
        assert!(of(3).eq([2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]));
    }
}
