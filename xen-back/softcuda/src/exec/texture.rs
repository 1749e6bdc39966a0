//! Texture and surface objects: what the handles in a kernel stand for, and the memory of CUDA arrays.
//! A handle comes from a kernel and may be any number: an unknown one, or texels outside the memory that
//! an object may reach, are a fault; nothing here may ever trust one.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// Texels that an object may have per dimension.
pub const MAX_EXTENT: u32 = 1 << 28;
/// Mip levels that an object may have.
pub const MAX_LEVELS: usize = 32;
/// What array memory is aligned to, in bytes.
const ARRAY_ALIGN: usize = 512;

/// How an object's texels are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A row.
    D1,
    /// Rows; also "pitch linear" memory.
    D2,
    /// Slices of rows.
    D3,
    /// Layers of one row each.
    D1Layered,
    /// Layers of rows.
    D2Layered,
    /// Six faces, one layer each, in the order +x, -x, +y, -y, +z, -z.
    Cube,
    /// Six layers per cube.
    CubeLayered,
    /// A row in linear memory, read at whole numbers without filter or addressing modes.
    Buffer,
}

/// What one channel of a texel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is its own name")]
pub enum ChannelFormat {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    F16,
    F32,
}

impl ChannelFormat {
    /// Bytes of a channel.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::U8 | Self::S8 => 1,
            Self::U16 | Self::S16 | Self::F16 => 2,
            Self::U32 | Self::S32 | Self::F32 => 4,
        }
    }

    /// Whether channels are floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32)
    }
}

/// What a coordinate outside the texture means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressMode {
    /// The texture repeats (normalised coordinates only; else as `Clamp`).
    Wrap,
    /// The nearest texel.
    #[default]
    Clamp,
    /// The texture repeats mirrored (normalised coordinates only; else as `Clamp`).
    Mirror,
    /// The border colour.
    Border,
}

/// How texels become a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filter {
    /// The texel that the coordinate lies in.
    #[default]
    Point,
    /// Weighted neighbours: see the programming guide's appendix on texture fetching.
    Linear,
}

/// How a texture is read; surfaces use nothing of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Per dimension.
    pub address: [AddressMode; 3],
    /// Within a level.
    pub filter: Filter,
    /// Between levels.
    pub mip_filter: Filter,
    /// Added to the level asked for.
    pub mip_bias: f32,
    /// Lowest and highest level that is used.
    pub mip_clamp: [f32; 2],
    /// Integers of 8 and 16 bits are read as fractions of their maximum.
    pub normalized_values: bool,
    /// Coordinates run from 0 to 1 over the texture instead of in texels.
    pub normalized_coordinates: bool,
    /// The colour outside with [`AddressMode::Border`].
    pub border: [f32; 4],
    /// Red, green and blue of 8-bit texels are sRGB encoded (with `normalized_values`).
    pub srgb: bool,
}

impl Default for Sampler {
    /// The texel at whole coordinates, clamped, of any level.
    fn default() -> Self {
        Self {
            address: [AddressMode::Clamp; 3],
            filter: Filter::Point,
            mip_filter: Filter::Point,
            mip_bias: 0.0,
            mip_clamp: [0.0, MAX_LEVELS as f32],
            normalized_values: false,
            normalized_coordinates: false,
            border: [0.0; 4],
            srgb: false,
        }
    }
}

/// One mip level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Bytes from the storage's start to the level's first texel.
    pub offset: u64,
    /// Texels per row.
    pub width: u32,
    /// Rows (1 for one dimension).
    pub height: u32,
    /// Slices (1 unless the shape is [`Shape::D3`]).
    pub depth: u32,
    /// Bytes from row to row.
    pub row_pitch: u64,
    /// Bytes from slice to slice, or from layer to layer.
    pub slice_pitch: u64,
}

/// Where texels lie.
#[derive(Debug, Clone)]
pub enum Storage {
    /// From an address that kernels can use themselves: each access is checked against the launch's
    /// memory, like theirs.
    Device(u64),
    /// In a CUDA array.
    Array(Arc<ArrayMemory>),
}

/// A texture or surface object.
#[derive(Debug, Clone)]
pub struct Descriptor {
    /// Arrangement.
    pub shape: Shape,
    /// Of each channel.
    pub format: ChannelFormat,
    /// 1, 2 or 4.
    pub channels: u32,
    /// Where the texels are.
    pub storage: Storage,
    /// The mip levels, at least one; each half as large as the one before.
    pub levels: Vec<Level>,
    /// Layers; 6 for [`Shape::Cube`], 6 times the cubes for [`Shape::CubeLayered`]; otherwise 1.
    pub layers: u32,
    /// How it is read as a texture.
    pub sampler: Sampler,
}

/// Why a descriptor is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TextureError {
    /// Channels other than 1, 2 or 4.
    #[error("a texel has 1, 2 or 4 channels, not {0}")]
    Channels(u32),
    /// No level, or too many.
    #[error("an object has 1 to {MAX_LEVELS} mip levels, not {0}")]
    Levels(usize),
    /// A dimension is 0 or too large, or one that the shape does not have.
    #[error("{0} x {1} x {2} texels in {3} layers do not fit the shape")]
    Extent(u32, u32, u32, u32),
    /// The texels do not fit into the array's memory, or their addresses overflow.
    #[error("the texels end {0} bytes after their storage's start, beyond its end")]
    Storage(u64),
    /// A texel's channels would not be aligned to their size.
    #[error("offsets, pitches and the base must be multiples of a channel's {0} bytes")]
    Alignment(u32),
    /// There are as many objects as handles.
    #[error("too many texture and surface objects")]
    Full,
}

impl Descriptor {
    /// Bytes of a texel.
    pub const fn texel_bytes(&self) -> u32 {
        self.format.bytes() * self.channels
    }

    /// Slices or layers of a level.
    pub(super) fn slices(&self, level: &Level) -> u32 {
        if self.shape == Shape::D3 {
            level.depth
        } else {
            self.layers
        }
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), TextureError> {
        if !matches!(self.channels, 1 | 2 | 4) {
            return Err(TextureError::Channels(self.channels));
        }
        if self.levels.is_empty() || self.levels.len() > MAX_LEVELS {
            return Err(TextureError::Levels(self.levels.len()));
        }
        for level in &self.levels {
            let sizes = [level.width, level.height, level.depth, self.layers];
            let good = sizes.iter().all(|size| (1..=MAX_EXTENT).contains(size));
            let flat = level.height == 1;
            let deep = level.depth > 1;
            let layered = self.layers > 1;
            let fits = match self.shape {
                Shape::D1 | Shape::Buffer => flat && !deep && !layered,
                Shape::D2 => !deep && !layered,
                Shape::D3 => !layered,
                Shape::D1Layered => flat && !deep,
                Shape::D2Layered => !deep,
                Shape::Cube => !deep && self.layers == 6,
                Shape::CubeLayered => !deep && self.layers.is_multiple_of(6),
            };
            if !good || !fits {
                return Err(TextureError::Extent(
                    level.width,
                    level.height,
                    level.depth,
                    self.layers,
                ));
            }
            let channel = u64::from(self.format.bytes());
            let base = match &self.storage {
                Storage::Device(base) => *base,
                Storage::Array(_) => 0,
            };
            let places = [base, level.offset, level.row_pitch, level.slice_pitch];
            if !places.iter().all(|place| place.is_multiple_of(channel)) {
                return Err(TextureError::Alignment(self.format.bytes()));
            }
            let row = u64::from(level.width) * u64::from(self.texel_bytes());
            let rows = u64::from(level.height - 1).checked_mul(level.row_pitch);
            let slices = u64::from(self.slices(level) - 1).checked_mul(level.slice_pitch);
            let end = rows
                .zip(slices)
                .and_then(|(rows, slices)| rows.checked_add(slices))
                .and_then(|end| end.checked_add(row)?.checked_add(level.offset));
            let good = end.is_some_and(|end| match &self.storage {
                Storage::Device(base) => base.checked_add(end).is_some(),
                Storage::Array(memory) => end <= memory.bytes(),
            });
            if !good {
                return Err(TextureError::Storage(end.unwrap_or(u64::MAX)));
            }
        }
        Ok(())
    }
}

/// The memory of a CUDA array (all its levels and layers); zero at first. Kernels and copies race on it
/// as on a GPU, so that no reference to its bytes is ever made.
#[derive(Debug)]
pub struct ArrayMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory and hands out only addresses.
unsafe impl Send for ArrayMemory {}
// SAFETY: as for Send.
unsafe impl Sync for ArrayMemory {}

impl ArrayMemory {
    /// Memory of so many bytes; `None` where there is not as much.
    pub fn new(bytes: u64) -> Option<Self> {
        let bytes = usize::try_from(bytes).ok()?.max(1);
        let layout = Layout::from_size_align(bytes, ARRAY_ALIGN).ok()?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { start, layout })
    }

    /// Its first byte's host address.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.layout.size() as u64
    }
}

impl Drop for ArrayMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; whoever reaches it through a descriptor holds it by `Arc`.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// The objects of a context (or of a device), by their handles.
#[derive(Debug, Default)]
pub struct TextureTable {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Handles end in their slot's number plus one.
    slots: Arc<Objects>,
    free: Vec<u32>,
    generation: u32,
}

/// The objects at one time: what a launch sees.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects(Vec<Option<(u64, Arc<Descriptor>)>>);

impl Objects {
    pub(super) fn get(&self, handle: u64) -> Option<&Descriptor> {
        let slot = usize::try_from((handle & 0xffff_ffff).checked_sub(1)?).ok()?;
        match self.0.get(slot) {
            Some(Some((own, descriptor))) if *own == handle => Some(descriptor),
            _ => None,
        }
    }
}

impl TextureTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an object; its handle, never 0 and never one that was used before. Launches that have
    /// begun do not see it.
    ///
    /// # Errors
    /// What is wrong with the descriptor.
    pub fn insert(&self, descriptor: Descriptor) -> Result<u64, TextureError> {
        descriptor.check()?;
        let mut state = self.state();
        let generation = state.generation.checked_add(1).ok_or(TextureError::Full)?;
        let slot = match state.free.pop() {
            Some(slot) => slot,
            None => u32::try_from(state.slots.0.len())
                .ok()
                .filter(|&slot| slot < u32::MAX)
                .ok_or(TextureError::Full)?,
        };
        state.generation = generation;
        let handle = u64::from(generation) << 32 | u64::from(slot + 1);
        let slots = &mut Arc::make_mut(&mut state.slots).0;
        let slot = slot as usize;
        if slots.len() <= slot {
            slots.resize(slot + 1, None);
        }
        if let Some(entry) = slots.get_mut(slot) {
            *entry = Some((handle, Arc::new(descriptor)));
        }
        Ok(handle)
    }

    /// Removes an object; launches that have begun keep it. `None` if there is no such handle.
    pub fn remove(&self, handle: u64) -> Option<Arc<Descriptor>> {
        let mut state = self.state();
        state.slots.get(handle)?;
        let slot = (handle & 0xffff_ffff) as u32 - 1;
        let entry = Arc::make_mut(&mut state.slots)
            .0
            .get_mut(slot as usize)?
            .take();
        state.free.push(slot);
        entry.map(|(_, descriptor)| descriptor)
    }

    /// An object.
    pub fn get(&self, handle: u64) -> Option<Arc<Descriptor>> {
        let state = self.state();
        state.slots.get(handle)?;
        let slot = (handle & 0xffff_ffff) as usize - 1;
        let entry = state.slots.0.get(slot)?.as_ref()?;
        Some(Arc::clone(&entry.1))
    }

    /// The objects as they are now.
    pub(super) fn objects(&self) -> Arc<Objects> {
        Arc::clone(&self.state().slots)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn plane(storage: Storage) -> Descriptor {
        let level = Level {
            offset: 0,
            width: 8,
            height: 4,
            depth: 1,
            row_pitch: 32,
            slice_pitch: 128,
        };
        Descriptor {
            shape: Shape::D2,
            format: ChannelFormat::F32,
            channels: 1,
            storage,
            levels: vec![level],
            layers: 1,
            sampler: Sampler::default(),
        }
    }

    #[test]
    fn handles_are_never_used_twice() {
        let table = TextureTable::new();
        let first = table.insert(plane(Storage::Device(4096))).unwrap();
        let second = table.insert(plane(Storage::Device(8192))).unwrap();
        assert!(first != 0 && first != second);
        let before = table.objects();
        assert!(matches!(
            table.remove(first).unwrap().storage,
            Storage::Device(4096)
        ));
        assert!(table.remove(first).is_none() && table.get(first).is_none());
        assert!(
            before.get(first).is_some(),
            "what a launch sees does not change"
        );
        let third = table.insert(plane(Storage::Device(4096))).unwrap();
        assert!(third != first && table.get(first).is_none() && table.get(third).is_some());
        for unknown in [0, 1, 3, u64::MAX, third + 1, second ^ 1 << 40] {
            assert!(table.get(unknown).is_none());
        }
    }

    #[test]
    fn descriptors_that_do_not_fit_are_refused() {
        let memory = Arc::new(ArrayMemory::new(128).unwrap());
        let good = plane(Storage::Array(Arc::clone(&memory)));
        assert_eq!(good.check(), Ok(()));
        let change = |change: &dyn Fn(&mut Descriptor)| {
            let mut descriptor = good.clone();
            change(&mut descriptor);
            descriptor.check()
        };
        assert_eq!(change(&|d| d.channels = 3), Err(TextureError::Channels(3)));
        assert_eq!(change(&|d| d.levels.clear()), Err(TextureError::Levels(0)));
        assert!(matches!(
            change(&|d| d.layers = 2),
            Err(TextureError::Extent(..))
        ));
        assert!(matches!(
            change(&|d| d.shape = Shape::D1),
            Err(TextureError::Extent(..))
        ));
        assert_eq!(
            change(&|d| d.levels[0].offset = 4),
            Err(TextureError::Storage(132))
        );
        assert_eq!(
            change(&|d| d.levels[0].offset = 1),
            Err(TextureError::Alignment(4))
        );
        assert!(change(&|d| d.levels[0].row_pitch = u64::MAX - 3).is_err());
        assert!(change(&|d| d.storage = Storage::Device(u64::MAX - 7)).is_err());
    }
}
