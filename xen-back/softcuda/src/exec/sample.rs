//! Reads texture objects as the CUDA programming guide's appendix on texture fetching says, and reads and
//! writes surface objects. Fractions of linear filters are rounded to 8 bits; faces of a cube are filtered
//! one by one; without explicit level or gradients a texture's first level is read; channels that texels
//! lack are 0, the fourth 1. A texel that the object's memory does not have is never touched.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use half::f16;

use super::context::BlockContext;
use super::reach;
use super::texture::{
    AddressMode, ChannelFormat, Descriptor, Filter, Level, Sampler, Shape, Storage,
};

/// What compiled code asks for, and gets.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Request {
    pub texture: u64,
    /// Of a separate sampler; 0 for the texture's own.
    pub sampler: u64,
    pub code: u32,
    pub layer: u32,
    pub coordinates: [u32; 3],
    pub offset: [i32; 3],
    /// As the coordinates: a float, or an integer.
    pub level: u32,
    pub gradient: [f32; 6],
    /// What was read, or is to be written.
    pub data: [u32; 4],
}

/// Geometries: bits 0 to 2 of a code.
pub(crate) const GEOMETRIES: [(&str, u32); 7] = [
    ("1d", 0),
    ("2d", 1),
    ("3d", 2),
    ("a1d", 3),
    ("a2d", 4),
    ("cube", 5),
    ("acube", 6),
];
const CUBE: u32 = 5;
/// Coordinates and level are integers.
pub(crate) const INTEGER: u32 = 1 << 3;
pub(crate) const WITH_LEVEL: u32 = 1 << 4;
pub(crate) const WITH_GRADIENT: u32 = 1 << 5;
/// Four texels' component, whose number is in bits 7 and 8.
pub(crate) const GATHER: u32 = 1 << 6;
pub(crate) const COMPONENT_AT: u32 = 7;
/// Floats are returned as halves.
pub(crate) const HALVES: u32 = 1 << 9;

/// Queries: what `txq` and `suq` ask for.
pub(crate) const QUERIES: [(&str, u32); 15] = [
    ("width", 0),
    ("height", 1),
    ("depth", 2),
    ("channel_data_type", 3),
    ("channel_order", 4),
    ("normalized_coords", 5),
    ("filter_mode", 6),
    ("addr_mode_0", 7),
    ("addr_mode_1", 8),
    ("addr_mode_2", 9),
    ("array_size", 10),
    ("num_mipmap_levels", 11),
    ("num_samples", 12),
    ("memory_layout", 13),
    ("force_unnormalized_coords", 14),
];

/// Surfaces: bits 3 and 4 of a code.
pub(crate) const LOAD: u32 = 0;
pub(crate) const STORE: u32 = 1 << 3;
pub(crate) const REDUCE: u32 = 2 << 3;
/// Bits 5 and 6: what happens outside.
pub(crate) const CLAMPS: [(&str, u32); 3] = [("trap", 0), ("clamp", 1 << 5), ("zero", 2 << 5)];
/// x counts texels, values are converted.
pub(crate) const FORMATTED: u32 = 1 << 7;
/// Bytes in all, in bits 8 to 12.
pub(crate) const BYTES_AT: u32 = 8;
/// The logarithm of an element's bytes, in bits 13 to 15.
pub(crate) const ELEMENT_AT: u32 = 13;
/// Reductions, in bits 16 to 18; signed in bit 19.
pub(crate) const REDUCTIONS: [(&str, u32); 5] = [
    ("add", 0),
    ("min", 1 << 16),
    ("max", 2 << 16),
    ("and", 3 << 16),
    ("or", 4 << 16),
];
pub(crate) const SIGNED: u32 = 1 << 19;

/// A texel's channels: floats' bits, or integers.
type Colour = [u32; 4];

struct View<'c> {
    context: &'c BlockContext,
    object: &'c Descriptor,
    sampler: &'c Sampler,
}

impl View<'_> {
    /// Values are floats.
    fn is_float(&self) -> bool {
        self.object.format.is_float()
            || self.sampler.normalized_values && self.object.format.bytes() < 4
    }

    /// Where bytes of a level lie that belong to it.
    fn address(&self, level: &Level, x: u64, y: u64, slice: u64, bytes: u64) -> Option<u64> {
        let at = level.offset + slice * level.slice_pitch + y * level.row_pitch + x;
        match &self.object.storage {
            Storage::Device(base) => {
                let address = base.wrapping_add(at);
                reach::global(self.context, address, bytes).then_some(address)
            }
            Storage::Array(memory) => (at + bytes <= memory.bytes()).then(|| memory.address() + at),
        }
    }

    fn texel(&self, level: &Level, place: [u32; 3]) -> Option<Colour> {
        let [x, y, slice] = place.map(u64::from);
        let bytes = u64::from(self.object.texel_bytes());
        let address = self.address(level, x * bytes, y, slice, bytes)?;
        let one = if self.is_float() { 1_f32.to_bits() } else { 1 };
        let mut colour = [0, 0, 0, one];
        let channels = self.object.channels as usize;
        for (index, slot) in colour.iter_mut().enumerate().take(channels) {
            let step = u64::from(self.object.format.bytes());
            // SAFETY: the bytes are the object's (just checked), and aligned as its descriptor was
            // found to be.
            let raw = unsafe { load(address + index as u64 * step, step) } as u32;
            *slot = self.channel(raw, index);
        }
        Some(colour)
    }

    fn channel(&self, raw: u32, index: usize) -> u32 {
        let normalized = self.sampler.normalized_values;
        let linear = |value: f32| {
            if !self.sampler.srgb || index == 3 {
                value
            } else if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        let unsigned = |most: f32| linear(raw as f32 / most).to_bits();
        let signed = |value: i32, most: f32| (value as f32 / most).max(-1.0).to_bits();
        let (byte, short) = (raw as u8 as i8, raw as u16 as i16);
        match self.object.format {
            ChannelFormat::F32 | ChannelFormat::U32 | ChannelFormat::S32 => raw,
            ChannelFormat::F16 => f16::from_bits(raw as u16).to_f32().to_bits(),
            ChannelFormat::U8 if normalized => unsigned(255.0),
            ChannelFormat::U16 if normalized => (raw as f32 / 65535.0).to_bits(),
            ChannelFormat::S8 if normalized => signed(i32::from(byte), 127.0),
            ChannelFormat::S16 if normalized => signed(i32::from(short), 32767.0),
            ChannelFormat::U8 | ChannelFormat::U16 => raw,
            ChannelFormat::S8 => i32::from(byte).cast_unsigned(),
            ChannelFormat::S16 => i32::from(short).cast_unsigned(),
        }
    }

    /// The colour outside.
    fn border(&self) -> Colour {
        if self.is_float() {
            self.sampler.border.map(f32::to_bits)
        } else {
            self.sampler
                .border
                .map(|value| (value as i32).cast_unsigned())
        }
    }

    fn mode(&self, axis: usize) -> AddressMode {
        let mode = self.sampler.address[axis];
        let repeats = matches!(mode, AddressMode::Wrap | AddressMode::Mirror);
        let is_cube = matches!(self.object.shape, Shape::Cube | Shape::CubeLayered);
        if is_cube || repeats && !self.sampler.normalized_coordinates {
            AddressMode::Clamp
        } else {
            mode
        }
    }

    /// A coordinate in texels, and whether texels follow each other backwards there.
    fn scaled(&self, axis: usize, value: f32, size: u32) -> (f64, bool) {
        let value = f64::from(value);
        if value.is_nan() {
            return (0.0, false);
        }
        let value = value.clamp(-1e9, 1e9);
        if !self.normalized() {
            return (value, false);
        }
        let size = f64::from(size);
        match self.mode(axis) {
            AddressMode::Wrap => ((value - value.floor()) * size, false),
            AddressMode::Mirror if value.floor().rem_euclid(2.0) != 0.0 => {
                ((1.0 - (value - value.floor())) * size, true)
            }
            AddressMode::Mirror => ((value - value.floor()) * size, false),
            _ => (value * size, false),
        }
    }

    fn normalized(&self) -> bool {
        self.sampler.normalized_coordinates
            || matches!(self.object.shape, Shape::Cube | Shape::CubeLayered)
    }

    /// A texel's number brought into the texture; `None`: the border.
    fn inside(&self, axis: usize, index: i64, size: u32) -> Option<u32> {
        let count = i64::from(size);
        let index = match self.mode(axis) {
            AddressMode::Border if !(0..count).contains(&index) => return None,
            AddressMode::Border | AddressMode::Clamp => index.clamp(0, count - 1),
            AddressMode::Wrap => index.rem_euclid(count),
            AddressMode::Mirror => {
                let index = index.rem_euclid(2 * count);
                index.min(2 * count - 1 - index)
            }
        };
        u32::try_from(index).ok()
    }

    /// The texel at numbers that may be outside.
    fn at(&self, level: &Level, index: [i64; 3], slice: u32) -> Option<Colour> {
        let sizes = [level.width, level.height, level.depth];
        let mut place = [0; 3];
        for axis in 0..self.axes() {
            match self.inside(axis, index[axis], sizes[axis]) {
                Some(index) => place[axis] = index,
                None => return Some(self.border()),
            }
        }
        if self.object.shape != Shape::D3 {
            place[2] = slice;
        }
        self.texel(level, place)
    }

    /// Dimensions in which coordinates count.
    fn axes(&self) -> usize {
        match self.object.shape {
            Shape::D1 | Shape::D1Layered | Shape::Buffer => 1,
            Shape::D3 => 3,
            _ => 2,
        }
    }

    /// One level's value at coordinates.
    fn filtered(
        &self,
        level: &Level,
        coordinates: [f32; 3],
        offset: [i32; 3],
        slice: u32,
    ) -> Option<Colour> {
        let sizes = [level.width, level.height, level.depth];
        let mut index = [0_i64; 3];
        let mut weights = [0_f32; 3];
        let linear = self.sampler.filter == Filter::Linear && self.is_float();
        for axis in 0..self.axes() {
            let half = if linear { 0.5 } else { 0.0 };
            let (place, backwards) = self.scaled(axis, coordinates[axis], sizes[axis]);
            let place = place - half;
            let step = i64::from(offset[axis]);
            index[axis] = place.floor() as i64 + if backwards { -step } else { step };
            weights[axis] = (((place - place.floor()) * 256.0).round() / 256.0) as f32;
        }
        if !linear {
            return self.at(level, index, slice);
        }
        let mut sum = [0_f32; 4];
        for corner in 0..1_usize << self.axes() {
            let mut weight = 1.0;
            let mut corner_index = index;
            for axis in 0..self.axes() {
                if corner >> axis & 1 == 1 {
                    corner_index[axis] += 1;
                    weight *= weights[axis];
                } else {
                    weight *= 1.0 - weights[axis];
                }
            }
            // A texel without weight may be infinite.
            if weight == 0.0 {
                continue;
            }
            let colour = self.at(level, corner_index, slice)?;
            for (sum, channel) in sum.iter_mut().zip(colour) {
                *sum += weight * f32::from_bits(channel);
            }
        }
        Some(sum.map(f32::to_bits))
    }

    /// The four texels that a linear filter would weigh: one component of each.
    fn gathered(
        &self,
        level: &Level,
        coordinates: [f32; 3],
        offset: [i32; 3],
        slice: u32,
        component: usize,
    ) -> Option<Colour> {
        let sizes = [level.width, level.height, level.depth];
        // Along both axes, the numbers of the neighbours.
        let mut pairs = [[0_i64; 2]; 2];
        for (axis, pair) in pairs.iter_mut().enumerate() {
            let (place, backwards) = self.scaled(axis, coordinates[axis], sizes[axis]);
            let (first, step) = ((place - 0.5).floor() as i64, i64::from(offset[axis]));
            *pair = if backwards {
                [first + 1 - step, first - step]
            } else {
                [first + step, first + 1 + step]
            };
        }
        let [columns, rows] = pairs;
        let mut result = [0; 4];
        for (slot, (right, below)) in result.iter_mut().zip([(0, 1), (1, 1), (1, 0), (0, 0)]) {
            let corner = [columns[right], rows[below], 0];
            *slot = self.at(level, corner, slice)?[component & 3];
        }
        Some(result)
    }

    /// The level asked for, as a number between levels.
    fn detail(&self, request: &Request) -> f32 {
        let levels = self.object.levels.len() as f32;
        let level = if request.code & WITH_LEVEL != 0 {
            if request.code & INTEGER != 0 {
                request.level.cast_signed() as f32
            } else {
                f32::from_bits(request.level)
            }
        } else if request.code & WITH_GRADIENT != 0 {
            let first = self.object.levels.first();
            let sizes = first.map_or([1; 3], |level| [level.width, level.height, level.depth]);
            let length = |part: &[f32]| {
                let scaled = part
                    .iter()
                    .zip(sizes)
                    .take(self.axes())
                    .map(|(&step, size)| {
                        let size = if self.normalized() { size as f32 } else { 1.0 };
                        (step * size) * (step * size)
                    });
                scaled.sum::<f32>().sqrt()
            };
            let [ax, ay, az, bx, by, bz] = request.gradient;
            let mut steps = [[ax, ay, az], [bx, by, bz]];
            if request.code & 7 >= CUBE {
                let direction = request.coordinates.map(f32::from_bits);
                steps = steps.map(|step| on_face(direction, step));
            }
            length(&steps[0]).max(length(&steps[1])).log2()
        } else {
            0.0
        };
        let bias = if request.code & INTEGER != 0 {
            0.0
        } else {
            self.sampler.mip_bias
        };
        let [low, high] = self.sampler.mip_clamp;
        let level = (level + bias).max(low).min(high);
        // A gradient of nothing has a level of minus infinity.
        if level.is_nan() {
            0.0
        } else {
            level.max(0.0).min(levels - 1.0)
        }
    }

    fn fetch(&self, request: &Request) -> Option<Colour> {
        let first = self.object.levels.first()?;
        let slices = self.object.slices(first);
        if self.object.shape == Shape::Buffer {
            let x = request.coordinates[0];
            let x = if request.code & INTEGER != 0 {
                i64::from(x.cast_signed())
            } else {
                f32::from_bits(x).floor() as i64
            };
            let x = x + i64::from(request.offset[0]);
            return match u32::try_from(x) {
                Ok(x) if x < first.width => self.texel(first, [x, 0, 0]),
                _ => Some([0; 4]),
            };
        }
        let is_cube = matches!(self.object.shape, Shape::Cube | Shape::CubeLayered);
        if is_cube != (request.code & 7 >= CUBE) {
            return None;
        }
        if request.code & INTEGER != 0 {
            let level = self.object.levels.get(self.detail(request) as usize)?;
            let mut index = [0; 3];
            for (axis, slot) in index.iter_mut().enumerate() {
                let coordinate = i64::from(request.coordinates[axis].cast_signed());
                *slot = coordinate + i64::from(request.offset[axis]);
            }
            return self.at(level, index, request.layer.min(slices - 1));
        }
        let mut coordinates = request.coordinates.map(f32::from_bits);
        let mut slice = request.layer.min(slices - 1);
        if is_cube {
            let (face, s, t) = face(coordinates);
            coordinates = [s, t, 0.0];
            slice = request.layer.saturating_mul(6).min(slices - 6) + face;
        }
        let detail = self.detail(request);
        if request.code & GATHER != 0 {
            let component = (request.code >> COMPONENT_AT & 3) as usize;
            return self.gathered(first, coordinates, request.offset, slice, component);
        }
        let sample = |level: &Level| self.filtered(level, coordinates, request.offset, slice);
        if self.sampler.mip_filter == Filter::Linear && self.is_float() {
            let fraction = ((detail - detail.floor()) * 256.0).round() / 256.0;
            let below = self.object.levels.get(detail as usize)?;
            let near = sample(below)?;
            let Some(above) = self.object.levels.get(detail as usize + 1) else {
                return Some(near);
            };
            if fraction == 0.0 {
                return Some(near);
            }
            let far = sample(above)?;
            let mut mixed = [0; 4];
            for (slot, (near, far)) in mixed.iter_mut().zip(near.into_iter().zip(far)) {
                let (near, far) = (f32::from_bits(near), f32::from_bits(far));
                *slot = ((1.0 - fraction) * near + fraction * far).to_bits();
            }
            return Some(mixed);
        }
        sample(self.object.levels.get((detail + 0.5).floor() as usize)?)
    }
}

/// The face of a cube that a direction points to.
fn face_of([x, y, z]: [f32; 3]) -> u32 {
    let (ax, ay, az) = (x.abs(), y.abs(), z.abs());
    if ax >= ay && ax >= az {
        if x >= 0.0 { 0 } else { 1 }
    } else if ay >= az {
        if y >= 0.0 { 2 } else { 3 }
    } else if z >= 0.0 {
        4
    } else {
        5
    }
}

/// A vector along a face's axes, and along the face's own direction.
fn along_face(face: u32, [x, y, z]: [f32; 3]) -> [f32; 3] {
    match face {
        0 => [-z, -y, x],
        1 => [z, -y, -x],
        2 => [x, z, y],
        3 => [x, -z, -y],
        4 => [x, -y, z],
        _ => [-x, -y, -z],
    }
}

/// The face of a cube that a direction points to, and the place on it from 0 to 1.
fn face(direction: [f32; 3]) -> (u32, f32, f32) {
    let face = face_of(direction);
    let [s, t, major] = along_face(face, direction);
    (face, (s / major + 1.0) / 2.0, (t / major + 1.0) / 2.0)
}

/// How the place on the face changes with a direction that changes so.
fn on_face(direction: [f32; 3], change: [f32; 3]) -> [f32; 3] {
    let face = face_of(direction);
    let [s, t, major] = along_face(face, direction);
    let [by_s, by_t, by_major] = along_face(face, change);
    let slope = |by: f32, part: f32| (by - part / major * by_major) / major / 2.0;
    [slope(by_s, s), slope(by_t, t), 0.0]
}

/// # Safety
/// The address is aligned to the bytes, and may be read.
unsafe fn load(address: u64, bytes: u64) -> u64 {
    // SAFETY: the caller's; kernels reach the word at the same time only as on a GPU.
    unsafe {
        match bytes {
            1 => u64::from(AtomicU8::from_ptr(address as *mut u8).load(Ordering::Relaxed)),
            2 => u64::from(AtomicU16::from_ptr(address as *mut u16).load(Ordering::Relaxed)),
            4 => u64::from(AtomicU32::from_ptr(address as *mut u32).load(Ordering::Relaxed)),
            _ => AtomicU64::from_ptr(address as *mut u64).load(Ordering::Relaxed),
        }
    }
}

/// # Safety
/// As `load`, for writing.
unsafe fn store(address: u64, bytes: u64, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(address as *mut u8).store(value as u8, Ordering::Relaxed),
            2 => AtomicU16::from_ptr(address as *mut u16).store(value as u16, Ordering::Relaxed),
            4 => AtomicU32::from_ptr(address as *mut u32).store(value as u32, Ordering::Relaxed),
            _ => AtomicU64::from_ptr(address as *mut u64).store(value, Ordering::Relaxed),
        }
    }
}

/// # Safety
/// As `store`.
unsafe fn reduce(address: u64, bytes: u64, code: u32, value: u64) {
    let signed = code & SIGNED != 0;
    let combine = |old: u64| -> u64 {
        let wide = |value: u64| match bytes {
            4 => i64::from((value as u32).cast_signed()),
            _ => value.cast_signed(),
        };
        let least = |first: bool| if first { old } else { value };
        let below = if signed {
            wide(old) < wide(value)
        } else {
            old < value
        };
        match code >> 16 & 7 {
            0 => old.wrapping_add(value),
            1 => least(below),
            2 => least(!below),
            3 => old & value,
            _ => old | value,
        }
    };
    // SAFETY: the caller's.
    unsafe {
        if bytes == 4 {
            let word = AtomicU32::from_ptr(address as *mut u32);
            let change = |old| Some(combine(u64::from(old)) as u32);
            let _ = word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, change);
        } else {
            let word = AtomicU64::from_ptr(address as *mut u64);
            let change = |old| Some(combine(old));
            let _ = word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, change);
        }
    }
}

fn read_texture(context: &BlockContext, request: &mut Request) -> Option<()> {
    // SAFETY: the launch keeps the objects that it began with.
    let objects = unsafe { &*context.textures };
    let object = objects.get(request.texture)?;
    let sampler = match objects.get(request.sampler) {
        Some(other) => &other.sampler,
        None => &object.sampler,
    };
    let view = View {
        context,
        object,
        sampler,
    };
    let mut colour = view.fetch(request)?;
    if request.code & HALVES != 0 && view.is_float() {
        colour = colour.map(|bits| u32::from(f16::from_f32(f32::from_bits(bits)).to_bits()));
    }
    request.data = colour;
    Some(())
}

/// `tex` and `tld4`; whether the texture is there.
pub(super) extern "C" fn texture(context: *const BlockContext, request: *mut Request) -> u32 {
    // SAFETY: compiled code passes the context it was given, and a request in its own frame.
    let (context, request) = unsafe { (&*context, &mut *request) };
    u32::from(read_texture(context, request).is_some())
}

/// `txq` and `suq`: the answer, or all ones if there is no such object or level.
pub(super) extern "C" fn query(
    context: *const BlockContext,
    handle: u64,
    what: u32,
    level: u32,
) -> u64 {
    // SAFETY: compiled code passes the context it was given; the launch keeps its objects.
    let objects = unsafe { &*(*context).textures };
    let answer = objects.get(handle).and_then(|object| {
        let level = object.levels.get(level as usize)?;
        let sampler = &object.sampler;
        let mode = |axis: usize| match sampler.address[axis] {
            AddressMode::Wrap => 0,
            AddressMode::Mirror => 1,
            AddressMode::Clamp => 3,
            AddressMode::Border => 4,
        };
        let normalized = sampler.normalized_values;
        Some(match what {
            0 => level.width,
            1 => level.height,
            2 => level.depth,
            // OpenCL's numbers.
            3 => match object.format {
                ChannelFormat::S8 if normalized => 0x10d0,
                ChannelFormat::S16 if normalized => 0x10d1,
                ChannelFormat::U8 if normalized => 0x10d2,
                ChannelFormat::U16 if normalized => 0x10d3,
                ChannelFormat::S8 => 0x10d7,
                ChannelFormat::S16 => 0x10d8,
                ChannelFormat::S32 => 0x10d9,
                ChannelFormat::U8 => 0x10da,
                ChannelFormat::U16 => 0x10db,
                ChannelFormat::U32 => 0x10dc,
                ChannelFormat::F16 => 0x10dd,
                ChannelFormat::F32 => 0x10de,
            },
            4 => match object.channels {
                1 => 0x10b0,
                2 => 0x10b2,
                _ => 0x10b5,
            },
            5 => u32::from(sampler.normalized_coordinates),
            6 => u32::from(sampler.filter == Filter::Linear),
            7..=9 => mode(what as usize - 7),
            10 => match object.shape {
                Shape::CubeLayered => object.layers / 6,
                Shape::D1Layered | Shape::D2Layered => object.layers,
                _ => 0,
            },
            11 => object.levels.len() as u32,
            12 => 1,
            13 => 0,
            _ => u32::from(!sampler.normalized_coordinates),
        })
    });
    answer.map_or(u64::MAX, u64::from)
}

/// `istypep`: whether a handle is one of an object.
pub(super) extern "C" fn is_object(context: *const BlockContext, handle: u64) -> u32 {
    // SAFETY: as in `query`.
    let objects = unsafe { &*(*context).textures };
    u32::from(objects.get(handle).is_some())
}

fn reach_surface(context: &BlockContext, request: &mut Request) -> Option<()> {
    // SAFETY: the launch keeps the objects that it began with.
    let objects = unsafe { &*context.textures };
    let object = objects.get(request.texture)?;
    let view = View {
        context,
        object,
        sampler: &object.sampler,
    };
    let level = object.levels.first()?;
    let code = request.code;
    let formatted = code & FORMATTED != 0;
    let texel = u64::from(object.texel_bytes());
    let asked = u64::from(code >> BYTES_AT & 31);
    let bytes = if formatted { texel } else { asked };
    let outside = code >> 5 & 3;
    // Along a row in bytes; what an access needs fits into the row.
    let row = u64::from(level.width) * texel;
    let last = row.checked_sub(bytes)?.cast_signed();
    let slices = object.slices(level);
    let [x, y, z] = request
        .coordinates
        .map(|value| i64::from(value.cast_signed()));
    let x = if formatted {
        x.saturating_mul(texel.cast_signed())
    } else {
        x
    };
    let (y, slice) = match object.shape {
        Shape::D1 | Shape::Buffer => (0, 0),
        Shape::D1Layered => (0, i64::from(request.layer)),
        Shape::D2 => (y, 0),
        Shape::D3 => (y, z),
        _ => (y, i64::from(request.layer)),
    };
    let limits = [last, i64::from(level.height) - 1, i64::from(slices) - 1];
    let mut place = [x, y, slice];
    let inside = place
        .iter()
        .zip(limits)
        .all(|(place, limit)| (0..=limit).contains(place));
    if !inside {
        match outside {
            0 => return None,
            1 => {
                for (place, limit) in place.iter_mut().zip(limits) {
                    *place = (*place).clamp(0, limit);
                }
            }
            _ => {
                request.data = [0; 4];
                return Some(());
            }
        }
    }
    let [x, y, slice] = place.map(i64::cast_unsigned);
    let address = view.address(level, x, y, slice, bytes)?;
    let element = if formatted {
        u64::from(object.format.bytes())
    } else {
        1 << (code >> ELEMENT_AT & 7)
    };
    if !address.is_multiple_of(if formatted { element } else { bytes.max(1) }) {
        return None;
    }
    let action = code & (3 << 3);
    if action == REDUCE {
        let value = u64::from(request.data[1]) << 32 | u64::from(request.data[0]);
        let size = if asked == 8 { 8 } else { 4 };
        if asked != size || bytes < size || !address.is_multiple_of(size) {
            return None;
        }
        let value = if size == 4 {
            value & 0xffff_ffff
        } else {
            value
        };
        // Of a formatted surface, the format has the sign.
        let signed = if formatted && object.format == ChannelFormat::S32 {
            SIGNED
        } else {
            0
        };
        // SAFETY: the bytes are the object's, aligned.
        unsafe { reduce(address, size, code | signed, value) };
        return Some(());
    }
    let mut data = [0_u8; 16];
    for (chunk, word) in data.chunks_exact_mut(4).zip(request.data) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    let mut result = [0_u32; 4];
    for index in 0..(bytes / element).min(16) as usize {
        let at = address + index as u64 * element;
        // SAFETY: the bytes are the object's, aligned to the element.
        unsafe {
            match (action == STORE, formatted) {
                (true, true) => store(at, element, stored(object.format, request.data[index & 3])),
                (true, false) => {
                    let mut value = [0; 8];
                    let (start, size) = (index * element as usize, element as usize);
                    value[..size].copy_from_slice(&data[start..start + size]);
                    store(at, element, u64::from_le_bytes(value));
                }
                (false, true) => {
                    let plain = Sampler::default();
                    let view = View {
                        context,
                        object,
                        sampler: &plain,
                    };
                    result[index & 3] = view.channel(load(at, element) as u32, index);
                }
                (false, false) => {
                    let value = load(at, element).to_le_bytes();
                    let (start, size) = (index * element as usize, element as usize);
                    data[start..start + size].copy_from_slice(&value[..size]);
                }
            }
        }
    }
    if action == LOAD && !formatted {
        for (word, chunk) in result.iter_mut().zip(data.chunks_exact(4)) {
            *word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
    }
    if action == LOAD {
        request.data = result;
    }
    Some(())
}

/// A 32-bit value as a channel's bits.
fn stored(format: ChannelFormat, value: u32) -> u64 {
    match format {
        ChannelFormat::F16 => u64::from(f16::from_f32(f32::from_bits(value)).to_bits()),
        _ => u64::from(value),
    }
}

/// `suld`, `sust` and `sured`; whether there is such a surface and place in it.
pub(super) extern "C" fn surface(context: *const BlockContext, request: *mut Request) -> u32 {
    // SAFETY: compiled code passes the context it was given, and a request in its own frame.
    let (context, request) = unsafe { (&*context, &mut *request) };
    u32::from(reach_surface(context, request).is_some())
}
