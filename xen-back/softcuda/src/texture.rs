//! Texture and surface objects and texture references as programs describe them: their numbers become
//! descriptors that kernels' handles stand for. Every number is checked; none is turned into an enum.

use crate::array::{Array, Mipmap, channel_format, texel_bytes};
use crate::context::Context;
use crate::driver::Driver;
use crate::exec::texture::{
    AddressMode, ChannelFormat, Descriptor, Filter, Level, MAX_EXTENT, Sampler, Shape, Storage,
    TextureError,
};
use cuda_abi::{CuResult, Kind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Linear memory of a texture starts at a multiple of this many bytes, as the device's attribute says.
pub const ALIGNMENT: u64 = 512;
/// Rows of such memory are multiples of this many bytes.
pub const PITCH_ALIGNMENT: u64 = 32;
/// `CU_TRSF_READ_AS_INTEGER`.
const READ_AS_INTEGER: u32 = 1;
/// `CU_TRSF_NORMALIZED_COORDINATES`.
const NORMALIZED_COORDINATES: u32 = 2;
/// `CU_TRSF_SRGB`.
const SRGB: u32 = 0x10;
/// All flags of a texture: also optimisation hints and seamless cube maps.
const FLAGS: u32 = READ_AS_INTEGER | NORMALIZED_COORDINATES | SRGB | 0x20 | 0x40;

/// What an object reads.
#[derive(Debug, Clone)]
pub enum Resource {
    /// An array.
    Array(Arc<Array>),
    /// All levels of a mipmapped array.
    Mipmap(Arc<Mipmap>),
    /// A row in device memory.
    Linear {
        /// Its first byte.
        address: u64,
        /// `CUarray_format`.
        format: u32,
        /// Of a texel.
        channels: u32,
        /// How many.
        bytes: u64,
    },
    /// Rows in device memory.
    Pitch {
        /// Its first byte.
        address: u64,
        /// `CUarray_format`.
        format: u32,
        /// Of a texel.
        channels: u32,
        /// Texels of a row.
        width: u64,
        /// Rows.
        height: u64,
        /// Bytes from row to row.
        pitch: u64,
    },
}

/// How an object is read: `CUDA_TEXTURE_DESC`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Sampling {
    /// `CUaddress_mode` per dimension.
    pub address_modes: [u32; 3],
    /// `CUfilter_mode`.
    pub filter: u32,
    /// `CU_TRSF_*`.
    pub flags: u32,
    /// Ignored: filtering is isotropic.
    pub max_anisotropy: u32,
    /// `CUfilter_mode` between levels.
    pub mip_filter: u32,
    /// Added to the level.
    pub mip_bias: f32,
    /// The lowest level.
    pub mip_min: f32,
    /// The highest level.
    pub mip_max: f32,
    /// The colour outside.
    pub border: [f32; 4],
    /// Must be there, and is not looked at.
    pub reserved: [i32; 12],
}

/// A part of an array, perhaps as another format: `CUDA_RESOURCE_VIEW_DESC`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// `CUresourceViewFormat`.
    pub format: u32,
    /// Texels.
    pub width: usize,
    /// Texels; 0 for one dimension.
    pub height: usize,
    /// Texels or layers.
    pub depth: usize,
    /// The first level.
    pub first_level: u32,
    /// The last level.
    pub last_level: u32,
    /// The first layer.
    pub first_layer: u32,
    /// The last layer.
    pub last_layer: u32,
    /// Must be there, and is not looked at.
    pub reserved: [u32; 16],
}

fn filter(mode: u32) -> Result<Filter, CuResult> {
    match mode {
        0 => Ok(Filter::Point),
        1 => Ok(Filter::Linear),
        _ => Err(CuResult::INVALID_VALUE),
    }
}

impl Sampling {
    /// How it is read, for texels of a format.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a number that means nothing, and for weighted integers.
    fn sampler(&self, format: ChannelFormat) -> Result<Sampler, CuResult> {
        if self.flags & !FLAGS != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let mode = |mode: u32| {
            Ok(match mode {
                0 => AddressMode::Wrap,
                1 => AddressMode::Clamp,
                2 => AddressMode::Mirror,
                3 => AddressMode::Border,
                _ => return Err(CuResult::INVALID_VALUE),
            })
        };
        let [x, y, z] = self.address_modes;
        let narrow = format.bytes() < 4 && !format.is_float();
        let normalized_values = narrow && self.flags & READ_AS_INTEGER == 0;
        let filter_within = filter(self.filter)?;
        if filter_within == Filter::Linear && !format.is_float() && !normalized_values {
            return Err(CuResult::INVALID_VALUE);
        }
        if [self.mip_bias, self.mip_min, self.mip_max]
            .iter()
            .any(|number| number.is_nan())
        {
            return Err(CuResult::INVALID_VALUE);
        }
        Ok(Sampler {
            address: [mode(x)?, mode(y)?, mode(z)?],
            filter: filter_within,
            mip_filter: filter(self.mip_filter)?,
            mip_bias: self.mip_bias,
            mip_clamp: [self.mip_min, self.mip_max],
            normalized_values,
            normalized_coordinates: self.flags & NORMALIZED_COORDINATES != 0,
            border: self.border,
            srgb: self.flags & SRGB != 0,
        })
    }
}

/// The format and channels of a `CUresourceViewFormat`; `None`: the array's own.
fn view_format(format: u32) -> Result<Option<(ChannelFormat, u32)>, CuResult> {
    let Some(number) = format.checked_sub(1) else {
        return Ok(None);
    };
    let channels = [1, 2, 4][number as usize % 3];
    let format = match number / 3 {
        0 => ChannelFormat::U8,
        1 => ChannelFormat::S8,
        2 => ChannelFormat::U16,
        3 => ChannelFormat::S16,
        4 => ChannelFormat::U32,
        5 => ChannelFormat::S32,
        6 => ChannelFormat::F16,
        7 => ChannelFormat::F32,
        // Block compression.
        8..=12 => return Err(CuResult::NOT_SUPPORTED),
        _ => return Err(CuResult::INVALID_VALUE),
    };
    Ok(Some((format, channels)))
}

/// Narrows a descriptor to a view of it.
fn apply_view(descriptor: &mut Descriptor, view: &View) -> Result<(), CuResult> {
    let texel = descriptor.texel_bytes();
    if let Some((format, channels)) = view_format(view.format)? {
        (descriptor.format, descriptor.channels) = (format, channels);
        if descriptor.texel_bytes() != texel {
            return Err(CuResult::INVALID_VALUE);
        }
    }
    let (first, last) = (view.first_level as usize, view.last_level as usize);
    let levels = descriptor.levels.get(first..=last.max(first));
    let levels = levels.filter(|_| first <= last);
    descriptor.levels = levels.ok_or(CuResult::INVALID_VALUE)?.to_vec();
    let layered = !matches!(
        descriptor.shape,
        Shape::D1 | Shape::D2 | Shape::D3 | Shape::Buffer
    );
    if layered && (view.first_layer, view.last_layer) != (0, 0) {
        let (first, last) = (view.first_layer, view.last_layer);
        if first > last || last >= descriptor.layers {
            return Err(CuResult::INVALID_VALUE);
        }
        descriptor.layers = last - first + 1;
        for level in &mut descriptor.levels {
            level.offset += u64::from(first) * level.slice_pitch;
        }
    }
    let extent = descriptor
        .levels
        .first()
        .map(|level| (level.width, level.height));
    let named = (view.width as u64, view.height.max(1) as u64);
    match extent {
        Some((width, height)) if named == (width.into(), height.into()) => Ok(()),
        _ => Err(CuResult::INVALID_VALUE),
    }
}

fn refused(error: TextureError) -> CuResult {
    match error {
        TextureError::Full => CuResult::OUT_OF_MEMORY,
        _ => CuResult::INVALID_VALUE,
    }
}

impl Resource {
    /// A texture object's descriptor.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for what cannot be read like that, CUDA_ERROR_NOT_SUPPORTED for formats
    /// that softcuda lacks.
    pub fn descriptor(
        &self,
        driver: &Driver,
        sampling: &Sampling,
        view: Option<&View>,
    ) -> Result<Descriptor, CuResult> {
        let mut descriptor = match self {
            Resource::Array(array) => array.descriptor(Sampler::default()),
            Resource::Mipmap(mipmap) => mipmap.descriptor(Sampler::default())?,
            Resource::Linear {
                address,
                format,
                channels,
                bytes,
            } => {
                let format = channel_format(*format)?;
                let width = bytes / texel_bytes(format, *channels)?;
                plain(
                    driver,
                    *address,
                    format,
                    *channels,
                    (width, 1, *bytes),
                    Shape::Buffer,
                )?
            }
            Resource::Pitch {
                address,
                format,
                channels,
                width,
                height,
                pitch,
            } => {
                let format = channel_format(*format)?;
                let row = texel_bytes(format, *channels)?.checked_mul(*width);
                if row.is_none_or(|row| row > *pitch) || !pitch.is_multiple_of(PITCH_ALIGNMENT) {
                    return Err(CuResult::INVALID_VALUE);
                }
                let extent = (*width, *height, *pitch);
                plain(driver, *address, format, *channels, extent, Shape::D2)?
            }
        };
        if let Some(view) = view {
            if !matches!(self, Resource::Array(_) | Resource::Mipmap(_)) {
                return Err(CuResult::INVALID_VALUE);
            }
            apply_view(&mut descriptor, view)?;
        }
        descriptor.sampler = sampling.sampler(descriptor.format)?;
        Ok(descriptor)
    }

    /// A surface object's descriptor.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for what is no array made for surfaces.
    pub fn surface(&self) -> Result<Descriptor, CuResult> {
        match self {
            Resource::Array(array) if array.wanted.flags & crate::array::SURFACE != 0 => {
                Ok(array.descriptor(Sampler::default()))
            }
            _ => Err(CuResult::INVALID_VALUE),
        }
    }
}

/// A descriptor of device memory; the extent is in texels, rows, and bytes from row to row.
fn plain(
    driver: &Driver,
    address: u64,
    format: ChannelFormat,
    channels: u32,
    (width, height, pitch): (u64, u64, u64),
    shape: Shape,
) -> Result<Descriptor, CuResult> {
    let most = u64::from(MAX_EXTENT);
    if !(1..=most).contains(&width) || !(1..=most).contains(&height) {
        return Err(CuResult::INVALID_VALUE);
    }
    let bytes = pitch
        .checked_mul(height - 1)
        .and_then(|rows| rows.checked_add(width * u64::from(format.bytes() * channels)));
    let found = bytes.and_then(|bytes| driver.memory.find(address, bytes));
    if found.is_none() || !address.is_multiple_of(ALIGNMENT.min(256)) {
        return Err(CuResult::INVALID_VALUE);
    }
    let level = Level {
        offset: 0,
        width: width as u32,
        height: height as u32,
        depth: 1,
        row_pitch: pitch,
        slice_pitch: pitch.saturating_mul(height),
    };
    Ok(Descriptor {
        shape,
        format,
        channels,
        storage: Storage::Device(address),
        levels: vec![level],
        layers: 1,
        sampler: Sampler::default(),
    })
}

/// Makes an object that the kernels of a context know by its handle.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE for a descriptor whose parts do not fit together.
pub fn insert(context: &Context, descriptor: Descriptor) -> Result<u64, CuResult> {
    context.textures.insert(descriptor).map_err(|error| {
        tracing::error!(%error, "no texture or surface object");
        refused(error)
    })
}

/// `CUtexref` and `CUsurfref`, as a kind of handle.
#[derive(Debug)]
pub enum ReferenceKind {}
impl Kind for ReferenceKind {
    const TAG: u8 = 0x26;
    const NAME: &'static str = "CUtexref";
}

/// A texture or surface reference of a module: its variable holds the handle of an object that is made
/// anew whenever the reference changes.
#[derive(Debug)]
pub struct Reference {
    /// Where it belongs.
    pub context: Arc<Context>,
    /// Handle of its module.
    pub module: u64,
    /// Whether it is a surface's.
    pub is_surface: bool,
    /// Address of the module's variable.
    variable: u64,
    state: Mutex<ReferenceState>,
}

/// What a reference was told.
#[derive(Debug, Clone)]
pub struct ReferenceState {
    /// What it reads, once bound.
    pub resource: Option<Resource>,
    /// Of linear memory: `CUarray_format` and channels.
    pub format: (u32, u32),
    /// How it is read.
    pub sampling: Sampling,
    /// The object that the variable names; 0 for none.
    object: u64,
}

impl Reference {
    /// A reference to the variable at this address, bound to nothing.
    pub fn new(context: Arc<Context>, module: u64, is_surface: bool, variable: u64) -> Reference {
        Reference {
            context,
            module,
            is_surface,
            variable,
            state: Mutex::new(ReferenceState {
                resource: None,
                format: (0x20, 1),
                sampling: Sampling {
                    address_modes: [1; 3],
                    ..Sampling::default()
                },
                object: 0,
            }),
        }
    }

    /// What it was told.
    pub fn state(&self) -> MutexGuard<'_, ReferenceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it something, and gives its variable the new object once kernels that use the old one have
    /// ended.
    ///
    /// # Errors
    /// What keeps it from being read like that; then it stays as it was.
    pub fn change(
        &self,
        driver: &'static Driver,
        change: impl FnOnce(&mut ReferenceState) -> Result<(), CuResult>,
    ) -> Result<(), CuResult> {
        let mut state = self.state();
        let mut new = state.clone();
        change(&mut new)?;
        new.object = match &new.resource {
            None => 0,
            Some(resource) if self.is_surface => insert(&self.context, resource.surface()?)?,
            Some(resource) => {
                let descriptor = resource.descriptor(driver, &new.sampling, None)?;
                insert(&self.context, descriptor)?
            }
        };
        driver.engines.wait_context(driver, self.context.id);
        // SAFETY: the variable has eight bytes as long as its module lives, which ends its references
        // first; nothing runs in the context.
        unsafe { (self.variable as *mut u64).write_unaligned(new.object) };
        self.context.textures.remove(state.object);
        *state = new;
        Ok(())
    }
}
