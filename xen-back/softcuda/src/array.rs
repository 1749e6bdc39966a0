//! CUDA arrays: memory that textures and surfaces read and write by texel. It counts against the device's
//! memory and has no address that a kernel could use. Sizes come from the program: all are checked before
//! they are multiplied.

use crate::context::Context;
use crate::driver::Driver;
use crate::exec::texture::{
    ArrayMemory, ChannelFormat, Descriptor, Level, Sampler, Shape, Storage,
};
use crate::memory::Charge;
use crate::work::Rows;
use cuda_abi::{CuResult, Kind};
use std::sync::Arc;

/// `CUarray`, as a kind of handle.
#[derive(Debug)]
pub enum ArrayKind {}
impl Kind for ArrayKind {
    const TAG: u8 = 0x24;
    const NAME: &'static str = "CUarray";
}

/// `CUmipmappedArray`, as a kind of handle.
#[derive(Debug)]
pub enum MipmapKind {}
impl Kind for MipmapKind {
    const TAG: u8 = 0x25;
    const NAME: &'static str = "CUmipmappedArray";
}

/// `CUDA_ARRAY3D_LAYERED`.
pub const LAYERED: u32 = 1;
/// `CUDA_ARRAY3D_SURFACE_LDST`.
pub const SURFACE: u32 = 2;
/// `CUDA_ARRAY3D_CUBEMAP`.
pub const CUBEMAP: u32 = 4;
/// Flags that change nothing: gather, depth texture, colour attachment.
const HINTS: u32 = 8 | 0x10 | 0x20;
/// Sparse arrays and those whose memory is mapped later.
const NOT_THERE: u32 = 0x40 | 0x80;

/// Texels in a dimension, at most, as the device's attributes say.
const MAX_1D: u64 = 131_072;
const MAX_2D: [u64; 2] = [131_072, 65_536];
const MAX_3D: u64 = 16_384;
const MAX_LAYERED: u64 = 32_768;
/// Layers, at most.
const MAX_LAYERS: u64 = 2048;
/// Levels start at multiples of this many bytes.
const LEVEL_ALIGN: u64 = 512;

/// What a program asked for: `CUDA_ARRAY3D_DESCRIPTOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Texels of a row.
    pub width: u64,
    /// Rows; 0 for one dimension.
    pub height: u64,
    /// Slices or layers; 0 for one or two dimensions.
    pub depth: u64,
    /// `CUarray_format`.
    pub format: u32,
    /// Of a texel.
    pub channels: u32,
    /// `CUDA_ARRAY3D_*`.
    pub flags: u32,
}

/// What the elements of a format are.
///
/// # Errors
/// CUDA_ERROR_NOT_SUPPORTED for a format that CUDA knows and softcuda does not (block compression, video
/// planes, normalised integers), CUDA_ERROR_INVALID_VALUE for a number that is none.
pub fn channel_format(format: u32) -> Result<ChannelFormat, CuResult> {
    Ok(match format {
        0x01 => ChannelFormat::U8,
        0x02 => ChannelFormat::U16,
        0x03 => ChannelFormat::U32,
        0x08 => ChannelFormat::S8,
        0x09 => ChannelFormat::S16,
        0x0a => ChannelFormat::S32,
        0x10 => ChannelFormat::F16,
        0x20 => ChannelFormat::F32,
        0x91..=0xb0 | 0xc0..=0xcb => return Err(CuResult::NOT_SUPPORTED),
        _ => return Err(CuResult::INVALID_VALUE),
    })
}

/// Bytes of a texel of this many channels.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE for channels that a texel cannot have.
pub fn texel_bytes(format: ChannelFormat, channels: u32) -> Result<u64, CuResult> {
    match channels {
        1 | 2 | 4 => Ok(u64::from(format.bytes() * channels)),
        _ => Err(CuResult::INVALID_VALUE),
    }
}

impl Wanted {
    /// The shape and the number of layers.
    fn shape(&self) -> Result<(Shape, u64), CuResult> {
        let Wanted {
            width,
            height,
            depth,
            ..
        } = *self;
        let within = |sizes: &[(u64, u64)]| sizes.iter().all(|(n, most)| (1..=*most).contains(n));
        let layered = self.flags & LAYERED != 0;
        let (shape, layers, good) = if self.flags & CUBEMAP != 0 {
            let square = width == height && within(&[(width, MAX_LAYERED)]);
            if layered {
                let good = depth.is_multiple_of(6) && within(&[(depth, MAX_LAYERS)]);
                (Shape::CubeLayered, depth, square && good)
            } else {
                (Shape::Cube, 6, square && depth == 6)
            }
        } else if layered {
            let good = within(&[(width, MAX_LAYERED), (depth, MAX_LAYERS)]);
            if height == 0 {
                (Shape::D1Layered, depth, good)
            } else {
                (Shape::D2Layered, depth, good && height <= MAX_LAYERED)
            }
        } else if depth > 0 {
            let good = within(&[(width, MAX_3D), (height, MAX_3D), (depth, MAX_3D)]);
            (Shape::D3, 1, good)
        } else if height > 0 {
            let good = within(&[(width, MAX_2D[0]), (height, MAX_2D[1])]);
            (Shape::D2, 1, good)
        } else {
            (Shape::D1, 1, within(&[(width, MAX_1D)]))
        };
        if good {
            Ok((shape, layers))
        } else {
            Err(CuResult::INVALID_VALUE)
        }
    }
}

/// The memory of an array or mipmapped array, with its layout.
#[derive(Debug)]
struct Contents {
    context: Arc<Context>,
    memory: Arc<ArrayMemory>,
    format: ChannelFormat,
    shape: Shape,
    layers: u32,
    texel_bytes: u64,
    _charge: Charge,
}

/// An array, or a level of a mipmapped one.
#[derive(Debug)]
pub struct Array {
    contents: Arc<Contents>,
    /// As asked for; a level's own extent.
    pub wanted: Wanted,
    level: Level,
    /// Whether it is a level, which ends with its mipmapped array alone.
    pub is_level: bool,
}

/// A mipmapped array.
#[derive(Debug)]
pub struct Mipmap {
    /// Handles of its levels' arrays.
    pub levels: Vec<u64>,
    /// Those arrays.
    pub arrays: Vec<Arc<Array>>,
}

/// Makes a mipmapped array's levels, which share their memory.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE for an extent that no array has, CUDA_ERROR_NOT_SUPPORTED for flags or a
/// format that softcuda lacks, CUDA_ERROR_OUT_OF_MEMORY.
fn make(
    driver: &Driver,
    context: &Arc<Context>,
    wanted: Wanted,
    levels: u32,
) -> Result<Vec<Array>, CuResult> {
    if wanted.flags & !(LAYERED | SURFACE | CUBEMAP | HINTS | NOT_THERE) != 0 {
        return Err(CuResult::INVALID_VALUE);
    }
    if wanted.flags & NOT_THERE != 0 {
        return Err(CuResult::NOT_SUPPORTED);
    }
    let format = channel_format(wanted.format)?;
    let texel_bytes = texel_bytes(format, wanted.channels)?;
    let (shape, layers) = wanted.shape()?;
    let volume = shape == Shape::D3;
    let longest = [
        wanted.width,
        wanted.height,
        if volume { wanted.depth } else { 0 },
    ]
    .into_iter()
    .max()
    .unwrap_or(1);
    let possible = 1 + longest.max(1).ilog2();
    let mut end = 0_u64;
    let mut laid_out = Vec::new();
    for number in 0..levels.clamp(1, possible) {
        let smaller = |size: u64| {
            if size == 0 {
                0
            } else {
                (size >> number).max(1)
            }
        };
        let own = Wanted {
            width: smaller(wanted.width),
            height: smaller(wanted.height),
            depth: if volume {
                smaller(wanted.depth)
            } else {
                wanted.depth
            },
            ..wanted
        };
        // The limits on extents keep all of this far below 2^64.
        let row_pitch = own.width * texel_bytes;
        let slice_pitch = row_pitch * own.height.max(1);
        let offset = end.next_multiple_of(LEVEL_ALIGN);
        let slices = if volume { own.depth } else { layers };
        end = offset + slice_pitch * slices;
        let level = Level {
            offset,
            width: own.width as u32,
            height: own.height.max(1) as u32,
            depth: if volume { own.depth as u32 } else { 1 },
            row_pitch,
            slice_pitch,
        };
        laid_out.push((own, level));
    }
    let charge = driver.memory.charge(context.device, end)?;
    let memory = ArrayMemory::new(end).ok_or(CuResult::OUT_OF_MEMORY)?;
    let contents = Arc::new(Contents {
        context: Arc::clone(context),
        memory: Arc::new(memory),
        format,
        shape,
        layers: layers as u32,
        texel_bytes,
        _charge: charge,
    });
    let array = |(wanted, level)| Array {
        contents: Arc::clone(&contents),
        wanted,
        level,
        is_level: false,
    };
    Ok(laid_out.into_iter().map(array).collect())
}

impl Array {
    /// A new array, zeroed.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for an extent that no array has, CUDA_ERROR_NOT_SUPPORTED for flags or a
    /// format that softcuda lacks, CUDA_ERROR_OUT_OF_MEMORY.
    pub fn new(driver: &Driver, context: &Arc<Context>, wanted: Wanted) -> Result<Array, CuResult> {
        let mut levels = make(driver, context, wanted, 1)?;
        levels.pop().ok_or(CuResult::INVALID_VALUE)
    }

    /// The levels of a new mipmapped array: as many as asked for, or as there can be.
    ///
    /// # Errors
    /// As [`Array::new`]'s.
    pub fn levels(
        driver: &Driver,
        context: &Arc<Context>,
        wanted: Wanted,
        levels: u32,
    ) -> Result<Vec<Array>, CuResult> {
        let mut made = make(driver, context, wanted, levels)?;
        for level in &mut made {
            level.is_level = true;
        }
        Ok(made)
    }

    /// Where it belongs.
    pub fn context(&self) -> &Arc<Context> {
        &self.contents.context
    }

    /// Its memory.
    pub fn memory(&self) -> &Arc<ArrayMemory> {
        &self.contents.memory
    }

    /// Bytes of all its texels.
    fn all_bytes(&self) -> u64 {
        self.level.slice_pitch * u64::from(self.slices())
    }

    fn slices(&self) -> u32 {
        if self.contents.shape == Shape::D3 {
            self.level.depth
        } else {
            self.contents.layers
        }
    }

    fn first(&self) -> u64 {
        self.contents.memory.address() + self.level.offset
    }

    /// The address of so many of its bytes, counted through rows and slices.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if it has not that many.
    pub fn bytes(&self, offset: u64, bytes: u64) -> Result<u64, CuResult> {
        let end = offset.checked_add(bytes);
        end.filter(|end| *end <= self.all_bytes())
            .ok_or(CuResult::INVALID_VALUE)?;
        Ok(self.first() + offset)
    }

    /// Where a box of it lies. The first coordinate and the width count bytes.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if it is not all inside.
    pub fn rows(&self, at: [u64; 3], extent: [u64; 3]) -> Result<Rows, CuResult> {
        let texel = self.contents.texel_bytes;
        let sizes = [
            self.level.row_pitch,
            u64::from(self.level.height),
            u64::from(self.slices()),
        ];
        let inside = (0..3).all(|axis| {
            at[axis]
                .checked_add(extent[axis])
                .is_some_and(|end| end <= sizes[axis])
        });
        if !inside || !at[0].is_multiple_of(texel) || !extent[0].is_multiple_of(texel) {
            return Err(CuResult::INVALID_VALUE);
        }
        let [x, y, z] = at;
        let (pitch, slice) = (self.level.row_pitch, self.level.slice_pitch);
        Ok(Rows {
            address: self.first() + x + y * pitch + z * slice,
            pitch,
            slice,
        })
    }

    /// What a texture or surface object of it is.
    pub fn descriptor(&self, sampler: Sampler) -> Descriptor {
        Descriptor {
            shape: self.contents.shape,
            format: self.contents.format,
            channels: self.wanted.channels,
            storage: Storage::Array(Arc::clone(&self.contents.memory)),
            levels: vec![self.level],
            layers: self.contents.layers,
            sampler,
        }
    }
}

impl Mipmap {
    /// What a texture object of all its levels is.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if it has none.
    pub fn descriptor(&self, sampler: Sampler) -> Result<Descriptor, CuResult> {
        let first = self.arrays.first().ok_or(CuResult::INVALID_VALUE)?;
        let mut descriptor = first.descriptor(sampler);
        descriptor.levels = self.arrays.iter().map(|array| array.level).collect();
        Ok(descriptor)
    }
}
