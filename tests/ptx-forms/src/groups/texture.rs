//! Textures and surfaces, after the formulas of the CUDA programming guide on texture fetching. All
//! coordinates are odd multiples of a 64th of a texel, and sizes that normalised coordinates are multiplied
//! with are powers of two, so that nothing but the last sum is rounded.

use softcuda::exec::texture::{AddressMode, ChannelFormat, Filter, Sampler, Shape};

use super::{Table, named};
use crate::form::{Kernel, Object};
use crate::reference::float::{Format, Round};
use crate::types::{Numbers, Since};

const ALWAYS: Since = Since::ALWAYS;
/// Bytes of what a thread reads: see `Point`.
const RECORD: usize = 64;
/// Bytes of what a thread writes.
const RESULT: usize = 32;
/// Threads of a block.
const BLOCK: usize = 64;
/// Points that are read per object.
const POINTS: usize = 24;

pub(super) fn add(table: &mut Table) {
    fetches(table);
    gathers(table);
    queries(table);
    loads(table);
    stores(table);
    reductions(table);
    lacking(table);
}

/// A geometry as instructions name it, and what its coordinates are.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    name: &'static str,
    shape: Shape,
    /// Dimensions of a layer.
    axes: usize,
    layered: bool,
    cube: bool,
}

const GEOMETRIES: [Geometry; 7] = {
    const fn of(name: &'static str, shape: Shape, axes: usize) -> Geometry {
        let layered = matches!(
            shape,
            Shape::D1Layered | Shape::D2Layered | Shape::CubeLayered
        );
        let cube = matches!(shape, Shape::Cube | Shape::CubeLayered);
        Geometry {
            name,
            shape,
            axes,
            layered,
            cube,
        }
    }
    [
        of("1d", Shape::D1, 1),
        of("2d", Shape::D2, 2),
        of("3d", Shape::D3, 3),
        of("a1d", Shape::D1Layered, 1),
        of("a2d", Shape::D2Layered, 2),
        of("cube", Shape::Cube, 2),
        of("acube", Shape::CubeLayered, 2),
    ]
};

impl Geometry {
    /// The coordinates: `%x` are integers, `%y` floats; the first is the layer.
    fn coordinates(&self, letter: char) -> String {
        let count = if self.cube { 3 } else { self.axes };
        let mut parts: Vec<String> = (0..count)
            .map(|axis| format!("%{letter}{}", 2 + axis))
            .collect();
        if self.layered {
            parts.insert(0, "%x1".into());
        }
        // Vectors of three do not exist.
        if parts.len() == 3 {
            parts.push(parts[2].clone());
        }
        format!("{{{}}}", parts.join(", "))
    }

    /// A vector of registers from one on, as long as positions are.
    fn vector(&self, letter: char, first: usize) -> String {
        let count = if self.cube { 3 } else { self.axes };
        let parts: Vec<String> = [0, 1, 2, 2][..if count == 3 { 4 } else { count }]
            .iter()
            .map(|axis| format!("%{letter}{}", first + axis))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }

    fn layers(&self, count: u32) -> u32 {
        match (self.layered, self.cube) {
            (true, true) => 6 * count,
            (false, true) => 6,
            (true, false) => count,
            (false, false) => 1,
        }
    }

    fn sizes(&self, [width, height, depth]: [u32; 3]) -> [u32; 3] {
        match self.axes {
            _ if self.cube => [width, width, 1],
            1 => [width, 1, 1],
            2 => [width, height, 1],
            _ => [width, height, depth],
        }
    }
}

/// What a thread reads: words, floats by their bits.
#[derive(Debug, Clone, Copy, Default)]
struct Point {
    /// The object's number.
    object: usize,
    layer: u32,
    at: [u32; 3],
    level: u32,
    /// Gradients, or offsets in texels.
    gradient: [u32; 6],
    data: [u32; 4],
}

impl Point {
    fn float(&self, axis: usize) -> f64 {
        f64::from(f32::from_bits(self.at[axis]))
    }

    fn whole(&self, axis: usize) -> i64 {
        i64::from(self.at[axis] as i32)
    }
}

fn bits(value: f64) -> u32 {
    (value as f32).to_bits()
}

/// Judges what a thread wrote.
type PointJudge = Box<dyn Fn(&[Object], &Point, &[u8]) -> Result<(), String> + Send + Sync>;

/// A form that each thread executes at its own point; the handle is in `%rd5`, the point's words are in
/// `%x0` and on, and as floats in `%y0` and on; `%rd3` is where results go.
struct Points {
    objects: Vec<Object>,
    points: Vec<Point>,
    code: String,
    faults: bool,
}

impl Points {
    fn input(&self) -> Vec<u8> {
        let mut input = vec![0; self.objects.len() * 8];
        for point in &self.points {
            let mut words = vec![point.object as u32 * 8, point.layer];
            words.extend(point.at);
            words.push(point.level);
            words.extend(point.gradient);
            words.extend(point.data);
            input.extend(words.into_iter().flat_map(u32::to_le_bytes));
        }
        input
    }

    /// Judged by its whole output and the objects' memory.
    fn whole(
        self,
        table: &mut Table,
        name: impl Into<String>,
        since: Since,
        judge: impl Fn(&[Object], &[Point], &[u8]) -> Result<(), String> + Send + Sync + 'static,
    ) {
        let start = self.objects.len() * 8;
        let words = [0, 4, 8, 12].map(|first| {
            let names = |letter: char| {
                let names = (first..first + 4).map(|word| format!("%{letter}{word}"));
                names.collect::<Vec<String>>().join(", ")
            };
            let at = start + first * 4;
            format!(
                "ld.global.b32 %x{first}, [%rd2+{at}]; ld.global.b32 %x{}, [%rd2+{}]; ld.global.b32 %x{}, [%rd2+{}]; ld.global.b32 %x{}, [%rd2+{}];\n",
                first + 1, at + 4, first + 2, at + 8, first + 3, at + 12
            ) + &names('y')
                .split(", ")
                .zip(names('x').split(", "))
                .map(|(to, from)| format!("mov.b32 {to}, {from}; "))
                .collect::<String>()
        });
        let body = format!(
            ".reg .b32 %x<16>; .reg .f32 %y<16>;
             mad.wide.u32 %rd2, %t, {RECORD}, %in; mad.wide.u32 %rd3, %t, {RESULT}, %out;\n{}
             cvt.u64.u32 %rd4, %x0; add.u64 %rd4, %rd4, %in; ld.global.u64 %rd5, [%rd4]; ld.global.u64 %rd6, [%in];\n{}\n",
            words.concat(),
            self.code
        );
        let input = self.input();
        let count = self.points.len().next_multiple_of(BLOCK);
        let (objects, points) = (self.objects.clone(), self.points);
        let mut padded = input;
        // Threads of the last block that have no point of their own take the last one.
        let last = padded[padded.len() - RECORD..].to_vec();
        for _ in points.len()..count {
            padded.extend_from_slice(&last);
        }
        table.kernel(
            name,
            since,
            Kernel {
                declarations: String::new(),
                body,
                threads: BLOCK as u32,
                blocks: (count / BLOCK) as u32,
                input: padded,
                output: count * RESULT,
                faults: self.faults,
                objects: self.objects,
                judge: Box::new(move |_, output| judge(&objects, &points, output)),
            },
        );
    }

    /// Judged point by point; the objects must be as they were.
    fn each(self, table: &mut Table, name: impl Into<String>, since: Since, judge: PointJudge) {
        self.whole(table, name, since, move |objects, points, output| {
            for (point, got) in points.iter().zip(output.chunks(RESULT)) {
                judge(objects, point, got).map_err(|error| format!("{point:x?}: {error}"))?;
            }
            unchanged(objects, output)
        });
    }
}

fn unchanged(objects: &[Object], output: &[u8]) -> Result<(), String> {
    let all: Vec<u8> = objects
        .iter()
        .flat_map(|object| object.texels.clone())
        .collect();
    if output.ends_with(&all) {
        Ok(())
    } else {
        Err("a texture's memory changed".into())
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    bytes.chunks_exact(4).map(word).collect()
}

/// Texels that add up without rounding.
fn texels(format: ChannelFormat, normalized: bool, count: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        let small = numbers.below(129) as i128 - 64;
        match format {
            ChannelFormat::F32 => {
                bytes.extend((Format::F32.of_integer(Round::Nearest, small) as u32).to_le_bytes());
            }
            ChannelFormat::F16 => {
                bytes.extend((Format::F16.of_integer(Round::Nearest, small) as u16).to_le_bytes());
            }
            other => {
                let mut value = numbers.bits();
                // Ends of the scale are likely.
                if normalized && numbers.below(4) == 0 {
                    value = numbers.pick(&[0, 0xff, 0x80, 0x7f, 0x7fff, 0x8000, 0xffff]);
                }
                bytes.extend_from_slice(&value.to_le_bytes()[..other.bytes() as usize]);
            }
        }
    }
    bytes
}

fn object(
    geometry: &Geometry,
    format: ChannelFormat,
    channels: u32,
    levels: u32,
    sampler: Sampler,
    numbers: &mut Numbers,
) -> Object {
    let sizes = if sampler.normalized_coordinates {
        [8, 4, 4]
    } else {
        [7, 5, 3]
    };
    let mut object = Object {
        shape: geometry.shape,
        format,
        channels,
        sizes: geometry.sizes(sizes),
        layers: geometry.layers(2),
        levels,
        sampler,
        texels: Vec::new(),
    };
    let count = object.start(levels) as usize / format.bytes() as usize;
    object.texels = texels(format, sampler.normalized_values, count, numbers);
    object
}

/// A channel as the number it stands for.
fn channel(object: &Object, raw: &[u8], index: usize) -> f64 {
    let byte = raw[0];
    let short = u16::from_le_bytes([raw[0], raw.get(1).copied().unwrap_or(0)]);
    let long = u32::from_le_bytes([
        raw[0],
        raw.get(1).copied().unwrap_or(0),
        raw.get(2).copied().unwrap_or(0),
        raw.get(3).copied().unwrap_or(0),
    ]);
    let whole = match object.format {
        ChannelFormat::U8 => byte.into(),
        ChannelFormat::S8 => f64::from(byte as i8),
        ChannelFormat::U16 => short.into(),
        ChannelFormat::S16 => f64::from(short as i16),
        ChannelFormat::U32 => long.into(),
        ChannelFormat::S32 => f64::from(long as i32),
        ChannelFormat::F16 => {
            let single = Format::F16.convert(Format::F32, Round::Nearest, short.into());
            f64::from(f32::from_bits(single as u32))
        }
        ChannelFormat::F32 => f64::from(f32::from_bits(long)),
    };
    let most = match object.format {
        ChannelFormat::U8 => 255.0,
        ChannelFormat::S8 => 127.0,
        ChannelFormat::U16 => 65535.0,
        ChannelFormat::S16 => 32767.0,
        _ => return whole,
    };
    if !object.sampler.normalized_values {
        return whole;
    }
    let part = (whole / most).max(-1.0);
    if object.sampler.srgb && index < 3 {
        if part <= 0.04045 {
            part / 12.92
        } else {
            ((part + 0.055) / 1.055).powf(2.4)
        }
    } else {
        part
    }
}

/// A texel that is there.
fn texel(object: &Object, level: u32, [x, y, slice]: [i64; 3]) -> [f64; 4] {
    let [width, height, _] = object.sizes(level).map(i64::from);
    let number = (slice * height + y) * width + x;
    let start = object.start(level) as usize + number as usize * object.texel() as usize;
    let mut colour = [0.0, 0.0, 0.0, 1.0];
    let bytes = object.format.bytes() as usize;
    for (index, slot) in colour.iter_mut().enumerate().take(object.channels as usize) {
        *slot = channel(
            object,
            &object.texels[start + index * bytes..][..bytes],
            index,
        );
    }
    colour
}

/// The texel at any whole place.
fn addressed(
    geometry: &Geometry,
    object: &Object,
    level: u32,
    at: [i64; 3],
    slice: i64,
) -> [f64; 4] {
    let sizes = object.sizes(level).map(i64::from);
    let mut place = [0, 0, slice];
    for axis in 0..geometry.axes {
        let (i, n) = (at[axis], sizes[axis]);
        let mode = object.sampler.address[axis];
        let repeats = object.sampler.normalized_coordinates && !geometry.cube;
        place[axis] = match mode {
            AddressMode::Wrap if repeats => i.rem_euclid(n),
            AddressMode::Mirror if repeats && i.div_euclid(n) % 2 != 0 => n - 1 - i.rem_euclid(n),
            AddressMode::Mirror if repeats => i.rem_euclid(n),
            AddressMode::Border if !geometry.cube && !(0..n).contains(&i) => {
                return object.sampler.border.map(f64::from);
            }
            _ => i.clamp(0, n - 1),
        };
    }
    texel(object, level, place)
}

/// The face that a direction points to, the place on it from -1 to 1.
fn face([x, y, z]: [f64; 3]) -> (i64, [f64; 2]) {
    let most = x.abs().max(y.abs()).max(z.abs());
    let (face, s, t) = if x.abs() == most {
        if x > 0.0 { (0, -z, -y) } else { (1, z, -y) }
    } else if y.abs() == most {
        if y > 0.0 { (2, x, z) } else { (3, x, -z) }
    } else if z > 0.0 {
        (4, x, -y)
    } else {
        (5, -x, -y)
    };
    (face, [s / most, t / most])
}

/// Where a point is: the coordinates as fractions or texels, and the slice.
fn placed(geometry: &Geometry, object: &Object, point: &Point) -> ([f64; 3], i64) {
    let layers = i64::from(object.layers);
    let layer = i64::from(point.layer);
    if geometry.cube {
        let (face, [s, t]) = face([0, 1, 2].map(|axis| point.float(axis)));
        let cube = layer.min(layers / 6 - 1) * 6;
        return ([s.midpoint(1.0), t.midpoint(1.0), 0.0], cube + face);
    }
    let at = [0, 1, 2].map(|axis| point.float(axis));
    (
        at,
        if geometry.layered {
            layer.min(layers - 1)
        } else {
            0
        },
    )
}

/// Coordinates in texels of a level.
fn in_texels(geometry: &Geometry, object: &Object, level: u32, at: [f64; 3]) -> [f64; 3] {
    let sizes = object.sizes(level);
    let scales = object.sampler.normalized_coordinates || geometry.cube;
    let mut at = at;
    for axis in 0..geometry.axes {
        at[axis] *= if scales { f64::from(sizes[axis]) } else { 1.0 };
    }
    at
}

/// One level's value, with offsets in texels.
fn filtered(
    geometry: &Geometry,
    object: &Object,
    level: u32,
    point: &Point,
    offset: [i64; 3],
) -> [f64; 4] {
    let (at, slice) = placed(geometry, object, point);
    let at = in_texels(geometry, object, level, at);
    let linear = object.sampler.filter == Filter::Linear;
    let axes = geometry.axes;
    let mut first = [0; 3];
    let mut part = [0.0; 3];
    for axis in 0..axes {
        let place = at[axis] - if linear { 0.5 } else { 0.0 };
        first[axis] = place.floor() as i64 + offset[axis];
        part[axis] = place - place.floor();
    }
    if !linear {
        return addressed(geometry, object, level, first, slice);
    }
    let mut sum = [0.0; 4];
    for corner in 0..1 << axes {
        let (mut index, mut weight) = (first, 1.0);
        for axis in 0..axes {
            let upper = corner >> axis & 1;
            index[axis] += upper;
            weight *= if upper == 1 {
                part[axis]
            } else {
                1.0 - part[axis]
            };
        }
        let colour = addressed(geometry, object, level, index, slice);
        for (sum, channel) in sum.iter_mut().zip(colour) {
            *sum += weight * channel;
        }
    }
    sum
}

/// How a form says which level it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Base,
    Level,
    Gradient,
}

/// The value at a point whose level is a number of levels from the first.
fn sampled(
    geometry: &Geometry,
    object: &Object,
    point: &Point,
    level: f64,
    offset: [i64; 3],
) -> [f64; 4] {
    let sampler = &object.sampler;
    let top = f64::from(object.levels - 1);
    let level = (level + f64::from(sampler.mip_bias))
        .clamp(sampler.mip_clamp[0].into(), sampler.mip_clamp[1].into())
        .clamp(0.0, top);
    let value = |level: f64| filtered(geometry, object, level as u32, point, offset);
    if sampler.mip_filter == Filter::Point {
        return value((level + 0.5).floor());
    }
    let part = level - level.floor();
    let (near, far) = (value(level.floor()), value(level.ceil()));
    [0, 1, 2, 3].map(|index| near[index] * (1.0 - part) + far[index] * part)
}

const MODES: [AddressMode; 4] = [
    AddressMode::Wrap,
    AddressMode::Clamp,
    AddressMode::Mirror,
    AddressMode::Border,
];

/// Objects whose values are floats, with all filters and modes.
fn float_objects(geometry: &Geometry, detail: Detail, numbers: &mut Numbers) -> Vec<Object> {
    let formats = [
        (ChannelFormat::F32, 4, false),
        (ChannelFormat::U8, 4, true),
        (ChannelFormat::F16, 2, false),
        (ChannelFormat::S16, 1, true),
        (ChannelFormat::F32, 1, false),
        (ChannelFormat::S8, 2, true),
        (ChannelFormat::U16, 4, true),
    ];
    let mut objects = Vec::new();
    for filter in [Filter::Point, Filter::Linear] {
        for mode in MODES {
            for normalized_coordinates in [false, true] {
                let index = objects.len();
                let (format, channels, normalized_values) = formats[index % formats.len()];
                let leveled = detail != Detail::Base;
                let mut border = [3.0, -2.0, 5.0, 2.0];
                for (index, slot) in border.iter_mut().enumerate().skip(channels as usize) {
                    *slot = if index == 3 { 1.0 } else { 0.0 };
                }
                let sampler = Sampler {
                    // Axes differ.
                    address: [mode, MODES[(index / 2 + 1) % 4], mode],
                    filter,
                    mip_filter: if leveled && index % 3 == 1 {
                        Filter::Linear
                    } else {
                        Filter::Point
                    },
                    mip_bias: if leveled && index % 5 == 2 { 1.0 } else { 0.0 },
                    mip_clamp: if leveled && index % 5 == 3 {
                        [1.0, 2.0]
                    } else {
                        [0.0, 32.0]
                    },
                    normalized_values,
                    normalized_coordinates,
                    border,
                    srgb: format == ChannelFormat::U8 && index % 2 == 1,
                };
                let levels = if leveled && normalized_coordinates {
                    3
                } else {
                    1
                };
                objects.push(object(geometry, format, channels, levels, sampler, numbers));
            }
        }
    }
    objects
}

/// Objects whose values are integers of a sign.
fn integer_objects(
    geometry: &Geometry,
    signed: bool,
    detail: Detail,
    may_normalize: bool,
    numbers: &mut Numbers,
) -> Vec<Object> {
    let formats = if signed {
        [ChannelFormat::S8, ChannelFormat::S16, ChannelFormat::S32]
    } else {
        [ChannelFormat::U8, ChannelFormat::U16, ChannelFormat::U32]
    };
    let mut objects = Vec::new();
    for format in formats {
        for mode in MODES {
            let index = objects.len();
            let normalized_coordinates = may_normalize && index % 2 == 0;
            let channels = [4, 1, 2][index % 3];
            let mut border = [3.0, 2.0, 5.0, 9.0];
            for (index, slot) in border.iter_mut().enumerate().skip(channels as usize) {
                *slot = if index == 3 { 1.0 } else { 0.0 };
            }
            let sampler = Sampler {
                address: [mode; 3],
                normalized_coordinates,
                border,
                ..Sampler::default()
            };
            let leveled = detail != Detail::Base && (normalized_coordinates || !may_normalize);
            let levels = if leveled { 3 } else { 1 };
            objects.push(object(geometry, format, channels, levels, sampler, numbers));
        }
    }
    objects
}

/// Points of an object: in texels about from -8 to 15, on all layers and levels.
fn points_of(
    geometry: &Geometry,
    object: &Object,
    number: usize,
    integers: bool,
    numbers: &mut Numbers,
) -> Vec<Point> {
    let sizes = object.sizes(0);
    let points = (0..POINTS).map(|_| {
        let mut point = Point {
            object: number,
            // The last one is beyond the layers.
            layer: numbers.below(3) as u32,
            ..Point::default()
        };
        if integers {
            point.at = [0; 3].map(|_| (numbers.below(14) as i32 - 4) as u32);
            // Inside, mostly.
            if numbers.below(3) > 0 {
                point.at = sizes.map(|size| numbers.below(size as usize) as u32);
            }
            point.level = numbers.below(4) as u32;
            return point;
        }
        let odd = |numbers: &mut Numbers, texels: usize| 2 * numbers.below(texels * 32) as i64 + 1;
        if geometry.cube {
            // On the inner part of a face, whose neighbours then do not matter.
            let level = f64::from(object.sizes(object.levels - 1)[0]);
            let inner = ((1.0 - 1.0 / level) * 32.0) as usize;
            let mut place =
                || (2 * numbers.below(2 * inner) as i64 + 1 - 2 * inner as i64) as f64 / 64.0;
            let (s, t) = (place(), place());
            let scale = numbers.pick(&[1.0, 2.0, 0.5]);
            let major = numbers.pick(&[1.0, -1.0]);
            let direction = match numbers.below(3) {
                0 => [major, s, t],
                1 => [s, major, t],
                _ => [s, t, major],
            };
            point.at = direction.map(|part| bits(part * scale));
        } else {
            for (axis, &size) in sizes.iter().enumerate().take(geometry.axes) {
                let texels = (odd(numbers, 24) - 8 * 64) as f64 / 64.0;
                let scale = if object.sampler.normalized_coordinates {
                    f64::from(size)
                } else {
                    1.0
                };
                point.at[axis] = bits(texels / scale);
            }
        }
        point.level = bits(numbers.pick(&[-1.0, 0.0, 0.25, 0.75, 1.0, 1.25, 2.0, 1.75, 9.0]));
        point
    });
    points.collect()
}

/// Gradients of a whole number of levels: along one axis alone, the other gradient half as long.
fn steepen(geometry: &Geometry, object: &Object, point: &mut Point, numbers: &mut Numbers) -> f64 {
    let level = numbers.below(4) as f64 - 1.0;
    let length = level.exp2();
    let first = if numbers.below(2) == 0 { 0 } else { 3 };
    let put = |point: &mut Point, at: usize, axis: usize, length: f64| {
        point.gradient[at + axis] = bits(length);
    };
    if geometry.cube {
        // Along a face, on which the direction's other parts are measured by the largest.
        let direction = [0, 1, 2].map(|axis| point.float(axis));
        let most = direction
            .iter()
            .fold(0.0, |most: f64, part| most.max(part.abs()));
        let along: Vec<usize> = (0..3)
            .filter(|&axis| direction[axis].abs() != most)
            .collect();
        let size = f64::from(object.sizes(0)[0]);
        let axis = numbers.pick(&along);
        put(point, first, axis, -2.0 * most * length / size);
        put(point, 3 - first, along[0], most * length / size);
    } else {
        let axis = numbers.below(geometry.axes);
        let size = if object.sampler.normalized_coordinates {
            f64::from(object.sizes(0)[axis])
        } else {
            1.0
        };
        put(point, first, axis, length / size);
        put(point, 3 - first, axis, -length / size / 2.0);
    }
    level
}

/// Compares floats, of which the sum of at most 16 products was rounded.
fn close(got: f32, wanted: f64, halves: bool) -> bool {
    let slack = 1e-6 * wanted.abs().max(1.0) + 64.0 * 4e-7;
    let slack = slack
        + if halves {
            wanted.abs() / 2048.0 + 1e-7
        } else {
            0.0
        };
    (f64::from(got) - wanted).abs() <= slack
}

/// Results of a type, compared with a colour.
fn compare(dtype: &str, got: &[u8], wanted: [f64; 4]) -> Result<(), String> {
    let got = words(got);
    for (index, &value) in wanted.iter().enumerate() {
        let (number, good) = match dtype {
            "f32" => {
                let number = f32::from_bits(got[index]);
                (f64::from(number), close(number, value, false))
            }
            "f16" | "f16x2" => {
                let half = if dtype == "f16" {
                    got[index] & 0xffff
                } else {
                    got[index / 2] >> (index % 2 * 16) & 0xffff
                };
                let single = Format::F16.convert(Format::F32, Round::Nearest, half.into());
                let number = f32::from_bits(single as u32);
                (f64::from(number), close(number, value, true))
            }
            _ => {
                let number = f64::from(got[index]);
                (number, got[index] == value as i64 as u32)
            }
        };
        if !good {
            return Err(format!("channel {index}: got {number}, wanted {value}"));
        }
    }
    Ok(())
}

/// Registers that four results of a type go to, and how they are stored.
fn results(dtype: &str) -> (&'static str, String) {
    match dtype {
        "f32" => (
            "{%f0, %f1, %f2, %f3}",
            "st.global.v4.f32 [%rd3], {%f0, %f1, %f2, %f3};".into(),
        ),
        "f16" => (
            "{%h0, %h1, %h2, %h3}",
            (0..4)
                .map(|index| format!("st.global.b16 [%rd3+{}], %h{index}; ", index * 4))
                .collect(),
        ),
        "f16x2" => (
            "{%r10, %r11}",
            "st.global.v2.b32 [%rd3], {%r10, %r11};".into(),
        ),
        _ => (
            "{%r10, %r11, %r12, %r13}",
            "st.global.v4.b32 [%rd3], {%r10, %r11, %r12, %r13};".into(),
        ),
    }
}

fn fetches(table: &mut Table) {
    for geometry in GEOMETRIES {
        for ctype in ["f32", "s32"] {
            if geometry.cube && ctype == "s32" {
                continue;
            }
            for (word, detail) in [
                ("", Detail::Base),
                ("level", Detail::Level),
                ("grad", Detail::Gradient),
            ] {
                if detail == Detail::Gradient && ctype == "s32" {
                    continue;
                }
                for dtype in ["f32", "s32", "u32", "f16", "f16x2"] {
                    let vector = if dtype == "f16x2" { "v2" } else { "v4" };
                    let name = named("tex", &[word, geometry.name, vector, dtype, ctype]);
                    let since = if dtype.starts_with("f16") {
                        Since(60, 53)
                    } else {
                        ALWAYS
                    };
                    fetch(
                        table,
                        &name,
                        since,
                        geometry,
                        ctype,
                        detail,
                        dtype,
                        Extra::None,
                    );
                    if dtype == "f32" && detail == Detail::Base {
                        let name = named("tex", &["base", geometry.name, vector, dtype, ctype]);
                        fetch(
                            table,
                            &name,
                            since,
                            geometry,
                            ctype,
                            detail,
                            dtype,
                            Extra::None,
                        );
                        fetch(
                            table,
                            &format!("tex.{}.v4.f32.{ctype} (sampler)", geometry.name),
                            since,
                            geometry,
                            ctype,
                            detail,
                            dtype,
                            Extra::Sampler,
                        );
                        if !geometry.cube {
                            fetch(
                                table,
                                &format!("tex.{}.v4.f32.{ctype} (offset)", geometry.name),
                                since,
                                geometry,
                                ctype,
                                detail,
                                dtype,
                                Extra::Offset,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// What an operand more says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extra {
    None,
    /// The sampler comes from an object of its own.
    Sampler,
    /// Texels to go on.
    Offset,
}

#[allow(clippy::too_many_arguments, reason = "the parts of a form's name")]
fn fetch(
    table: &mut Table,
    name: &str,
    since: Since,
    geometry: Geometry,
    ctype: &str,
    detail: Detail,
    dtype: &'static str,
    extra: Extra,
) {
    let mut numbers = Numbers::named(name);
    let integers = ctype == "s32";
    let mut objects = if dtype.starts_with('f') {
        float_objects(&geometry, detail, &mut numbers)
    } else {
        integer_objects(&geometry, dtype == "s32", detail, !integers, &mut numbers)
    };
    if integers {
        // Integers count texels, and are not filtered.
        for object in &mut objects {
            object.sampler.normalized_coordinates = false;
            object.sampler.filter = Filter::Point;
            object.sampler.mip_filter = Filter::Point;
            object.sampler.mip_bias = 0.0;
            object.sampler.mip_clamp = [0.0, 32.0];
        }
    }
    let mut points = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        for mut point in points_of(&geometry, object, number, integers, &mut numbers) {
            if detail == Detail::Gradient {
                // The level is what the reference needs to know.
                point.level = bits(steepen(&geometry, object, &mut point, &mut numbers));
            } else if extra == Extra::Offset {
                for slot in &mut point.gradient[..3] {
                    *slot = (numbers.below(16) as i32 - 8) as u32;
                }
            }
            points.push(point);
        }
    }
    let (to, store) = results(dtype);
    let letter = if integers { 'x' } else { 'y' };
    let coordinates = geometry.coordinates(letter);
    let handles = if extra == Extra::Sampler {
        // All read the first texture.
        "%rd6, %rd5"
    } else {
        "%rd5"
    };
    let more = match (detail, extra) {
        (Detail::Level, _) => format!(", %{letter}5"),
        (Detail::Gradient, _) => {
            format!(", {}, {}", geometry.vector('y', 6), geometry.vector('y', 9))
        }
        (_, Extra::Offset) => format!(", {}", geometry.vector('x', 6)),
        _ => String::new(),
    };
    let opcode = name.split(' ').next().unwrap_or_default();
    let code = format!("{opcode} {to}, [{handles}, {coordinates}]{more};\n{store}");
    // Of a size that scales without rounding, and of floats.
    let first = objects[objects.len().min(8) - 1].clone();
    if extra == Extra::Sampler {
        // Whole texels, of one format and size.
        for object in &mut objects {
            object.sampler.normalized_values = false;
            object.sampler.srgb = false;
            let mut object_of_first = first.clone();
            object_of_first.sampler = object.sampler;
            object_of_first.sampler.border = [3.0, -2.0, 5.0, 2.0];
            *object = object_of_first;
        }
    }
    Points {
        objects,
        points,
        code,
        faults: false,
    }
    .each(
        table,
        name,
        since,
        Box::new(move |objects, point, got| {
            let object = &objects[point.object];
            let offset = if extra == Extra::Offset {
                [0, 1, 2].map(|axis| i64::from(point.gradient[axis] as i32))
            } else {
                [0; 3]
            };
            let wanted = if integers {
                let level = if detail == Detail::Level {
                    point.level.min(object.levels - 1)
                } else {
                    0
                };
                let slice = if geometry.layered {
                    i64::from(point.layer.min(object.layers - 1))
                } else {
                    0
                };
                let at = [0, 1, 2].map(|axis| point.whole(axis) + offset[axis]);
                addressed(&geometry, object, level, at, slice)
            } else {
                let level = match detail {
                    Detail::Base => 0.0,
                    _ => f64::from(f32::from_bits(point.level)),
                };
                sampled(&geometry, object, point, level, offset)
            };
            compare(dtype, got, wanted)
        }),
    );
}

/// `tld4`: one component of the four texels that a linear filter weighs, anticlockwise from the lower
/// left one (the upper one has the smaller coordinate).
fn gathers(table: &mut Table) {
    for geometry in [GEOMETRIES[1], GEOMETRIES[4], GEOMETRIES[5], GEOMETRIES[6]] {
        for (component, letter) in ["r", "g", "b", "a"].into_iter().enumerate() {
            for dtype in ["f32", "s32", "u32"] {
                for offset in [false, true] {
                    if offset && (geometry.cube || dtype != "f32") {
                        continue;
                    }
                    let name = named("tld4", &[letter, geometry.name, "v4", dtype, "f32"]);
                    let opcode = name.clone();
                    let name = if offset { name + " (offset)" } else { name };
                    let mut numbers = Numbers::named(&name);
                    let objects = if dtype == "f32" {
                        float_objects(&geometry, Detail::Base, &mut numbers)
                    } else {
                        let signed = dtype == "s32";
                        integer_objects(&geometry, signed, Detail::Base, true, &mut numbers)
                    };
                    let mut points = Vec::new();
                    for (number, object) in objects.iter().enumerate() {
                        points.extend(points_of(&geometry, object, number, false, &mut numbers));
                    }
                    if offset {
                        for point in &mut points {
                            for slot in &mut point.gradient[..2] {
                                *slot = (numbers.below(16) as i32 - 8) as u32;
                            }
                        }
                    }
                    let (to, store) = results(dtype);
                    let more = if offset { ", {%x6, %x7}" } else { "" };
                    let code = format!(
                        "{opcode} {to}, [%rd5, {}]{more};\n{store}",
                        geometry.coordinates('y')
                    );
                    Points {
                        objects,
                        points,
                        code,
                        faults: false,
                    }
                    .each(
                        table,
                        name,
                        ALWAYS,
                        Box::new(move |objects, point, got| {
                            let object = &objects[point.object];
                            let (at, slice) = placed(&geometry, object, point);
                            let at = in_texels(&geometry, object, 0, at);
                            let first = [0, 1].map(|axis| {
                                let step = if offset {
                                    point.gradient[axis] as i32
                                } else {
                                    0
                                };
                                (at[axis] - 0.5).floor() as i64 + i64::from(step)
                            });
                            let wanted = [(0, 1), (1, 1), (1, 0), (0, 0)].map(|(x, y)| {
                                let at = [first[0] + x, first[1] + y, 0];
                                addressed(&geometry, object, 0, at, slice)[component]
                            });
                            compare(dtype, got, wanted)
                        }),
                    );
                }
            }
        }
    }
}

/// OpenCL's number of a channel's type.
const fn data_type(object: &Object) -> u32 {
    match (object.format, object.sampler.normalized_values) {
        (ChannelFormat::S8, true) => 0x10d0,
        (ChannelFormat::S16, true) => 0x10d1,
        (ChannelFormat::U8, true) => 0x10d2,
        (ChannelFormat::U16, true) => 0x10d3,
        (ChannelFormat::S8, false) => 0x10d7,
        (ChannelFormat::S16, false) => 0x10d8,
        (ChannelFormat::S32, _) => 0x10d9,
        (ChannelFormat::U8, false) => 0x10da,
        (ChannelFormat::U16, false) => 0x10db,
        (ChannelFormat::U32, _) => 0x10dc,
        (ChannelFormat::F16, _) => 0x10dd,
        (ChannelFormat::F32, _) => 0x10de,
    }
}

/// What a query is about an object.
type Answer = fn(&Object) -> u32;

fn queries(table: &mut Table) {
    let all: [(&str, Answer, bool); 13] = [
        ("width", |object| object.sizes[0], true),
        ("height", |object| object.sizes[1], true),
        ("depth", |object| object.sizes[2], true),
        ("channel_data_type", data_type, true),
        (
            "channel_order",
            |object| [0, 0x10b0, 0x10b2, 0, 0x10b5][object.channels as usize],
            true,
        ),
        (
            "normalized_coords",
            |object| object.sampler.normalized_coordinates.into(),
            false,
        ),
        (
            "force_unnormalized_coords",
            |object| (!object.sampler.normalized_coordinates).into(),
            false,
        ),
        (
            "filter_mode",
            |object| (object.sampler.filter == Filter::Linear).into(),
            false,
        ),
        ("addr_mode_0", |object| mode(object, 0), false),
        ("addr_mode_1", |object| mode(object, 1), false),
        ("addr_mode_2", |object| mode(object, 2), false),
        (
            "array_size",
            |object| match object.shape {
                Shape::CubeLayered => object.layers / 6,
                Shape::D1Layered | Shape::D2Layered => object.layers,
                _ => 0,
            },
            true,
        ),
        ("num_mipmap_levels", |object| object.levels, false),
    ];
    fn mode(object: &Object, axis: usize) -> u32 {
        match object.sampler.address[axis] {
            AddressMode::Wrap => 0,
            AddressMode::Mirror => 1,
            AddressMode::Clamp => 3,
            AddressMode::Border => 4,
        }
    }
    let query = |table: &mut Table, name: String, levels: bool, answer: fn(&Object) -> u32| {
        let mut numbers = Numbers::named(&name);
        let mut objects = Vec::new();
        for geometry in GEOMETRIES {
            let mut some = float_objects(&geometry, Detail::Level, &mut numbers);
            some.extend(integer_objects(
                &geometry,
                true,
                Detail::Level,
                true,
                &mut numbers,
            ));
            some.extend(integer_objects(
                &geometry,
                false,
                Detail::Level,
                true,
                &mut numbers,
            ));
            objects.extend((0..5).map(|_| some[numbers.below(some.len())].clone()));
        }
        let points = objects.iter().enumerate().map(|(object, of)| Point {
            object,
            level: numbers.below(of.levels as usize) as u32,
            ..Point::default()
        });
        let points: Vec<Point> = points.collect();
        let level = if levels { ", %x5" } else { "" };
        let code = format!("{name} %r10, [%rd5]{level};\nst.global.b32 [%rd3], %r10;");
        let since = if levels || name.contains("num_mipmap_levels") {
            ALWAYS
        } else {
            Since(60, 50)
        };
        Points {
            objects,
            points,
            code,
            faults: false,
        }
        .each(
            table,
            name,
            since,
            Box::new(move |objects, point, got| {
                let mut object = objects[point.object].clone();
                if levels {
                    object.sizes = object.sizes(point.level);
                }
                let (got, wanted) = (words(got)[0], answer(&object));
                if got == wanted {
                    Ok(())
                } else {
                    Err(format!("got {got}, wanted {wanted}"))
                }
            }),
        );
    };
    for (what, answer, surfaces) in all {
        query(table, format!("txq.{what}.b32"), false, answer);
        if matches!(what, "width" | "height" | "depth") {
            query(table, format!("txq.level.{what}.b32"), true, answer);
        }
        if surfaces {
            query(table, format!("suq.{what}.b32"), false, answer);
        }
    }
    query(table, "txq.num_samples.b32".into(), false, |_| 1);
    query(table, "suq.memory_layout.b32".into(), false, |_| 0);
    for ty in ["texref", "samplerref", "surfref"] {
        let name = format!("istypep.{ty}");
        let mut numbers = Numbers::named(&name);
        let objects = float_objects(&GEOMETRIES[1], Detail::Base, &mut numbers);
        let points = (0..objects.len()).flat_map(|object| {
            [0, 1].map(|level| Point {
                object,
                level,
                ..Point::default()
            })
        });
        let points: Vec<Point> = points.collect();
        let code = format!(
            "setp.eq.u32 %p1, %x5, 0; selp.b64 %rd5, 0, %rd5, %p1; {name} %p2, %rd5; selp.u32 %r10, 1, 0, %p2; st.global.b32 [%rd3], %r10;"
        );
        Points {
            objects,
            points,
            code,
            faults: false,
        }
        .each(
            table,
            name,
            ALWAYS,
            Box::new(|_, point, got| {
                if words(got)[0] == point.level {
                    Ok(())
                } else {
                    Err(format!("got {}, wanted {}", words(got)[0], point.level))
                }
            }),
        );
    }
}

/// The forms of surface accesses: geometry, vector, what happens outside.
fn surfaces() -> impl Iterator<Item = (Geometry, usize, &'static str)> {
    GEOMETRIES[..5].iter().flat_map(|geometry| {
        [1, 2, 4].into_iter().flat_map(move |count| {
            ["", "trap", "clamp", "zero"]
                .into_iter()
                .map(move |outside| (*geometry, count, outside))
        })
    })
}

const fn vector(count: usize) -> &'static str {
    match count {
        1 => "",
        2 => "v2",
        _ => "v4",
    }
}

/// A surface without a sampler.
fn surface(
    geometry: &Geometry,
    format: ChannelFormat,
    channels: u32,
    numbers: &mut Numbers,
) -> Object {
    let mut object = object(geometry, format, channels, 1, Sampler::default(), numbers);
    if !format.is_float() {
        object.texels = (0..object.texels.len())
            .map(|_| numbers.bits() as u8)
            .collect();
    }
    object
}

/// Places of a surface, in texels; some outside, where that is no fault.
fn places(
    geometry: &Geometry,
    object: &Object,
    outside: &str,
    numbers: &mut Numbers,
) -> Vec<Point> {
    let sizes = object.sizes(0).map(|size| size as usize);
    let layers = object.layers as usize;
    let traps = matches!(outside, "" | "trap");
    (0..2 * POINTS)
        .map(|_| {
            let mut point = Point {
                layer: numbers.below(layers) as u32,
                data: [0; 4].map(|_| numbers.bits() as u32),
                ..Point::default()
            };
            for (axis, &size) in sizes.iter().enumerate().take(geometry.axes) {
                point.at[axis] = numbers.below(size) as u32;
                if !traps && numbers.below(4) == 0 {
                    let away = [-1, -3, size as i32, size as i32 + 4];
                    point.at[axis] = numbers.pick(&away) as u32;
                }
            }
            if geometry.layered && !traps && numbers.below(6) == 0 {
                point.layer = layers as u32 + 1;
            }
            point
        })
        .collect()
}

/// The byte at which a place's texel begins; none where nothing happens.
fn reached(geometry: &Geometry, object: &Object, point: &Point, outside: &str) -> Option<usize> {
    let sizes = object.sizes(0).map(i64::from);
    let mut place = [0; 3];
    let mut inside = true;
    for axis in 0..geometry.axes {
        place[axis] = point.whole(axis).clamp(0, sizes[axis] - 1);
        inside &= place[axis] == point.whole(axis);
    }
    if geometry.layered {
        place[2] = i64::from(point.layer).min(i64::from(object.layers) - 1);
        inside &= place[2] == i64::from(point.layer);
    }
    let number = (place[2] * sizes[1] + place[1]) * sizes[0] + place[0];
    (inside || outside == "clamp").then_some(number as usize * object.texel() as usize)
}

/// The texel that has as many bytes as an access of so many elements.
const fn untyped(bits: usize, count: usize) -> (ChannelFormat, u32) {
    match bits {
        8 => (ChannelFormat::U8, count as u32),
        16 => (ChannelFormat::U16, count as u32),
        32 => (ChannelFormat::U32, count as u32),
        _ => (ChannelFormat::U32, 2 * count as u32),
    }
}

/// Coordinates whose first counts bytes, and the code before.
fn byte_coordinates(geometry: &Geometry, bytes: u32) -> (String, String) {
    (
        format!("mul.lo.u32 %x2, %x2, {bytes};\n"),
        geometry.coordinates('x'),
    )
}

/// Registers of a vector of bits; elements of 8 bits are in registers of 16.
fn bit_registers(bits: usize, count: usize) -> (usize, Vec<String>, String) {
    let width = bits.max(16);
    let names: Vec<String> = (0..count)
        .map(|index| match width {
            16 => format!("%h{}", index + 4),
            32 => format!("%r{}", index + 10),
            _ => format!("%rd{}", index + 10),
        })
        .collect();
    let vector = if count == 1 {
        names[0].clone()
    } else {
        format!("{{{}}}", names.join(", "))
    };
    (width, names, vector)
}

fn loads(table: &mut Table) {
    for (geometry, count, outside) in surfaces() {
        for bits in [8, 16, 32, 64] {
            if bits * count > 128 {
                continue;
            }
            // Cache operators change nothing.
            let caches: &[&str] = if bits == 32 {
                &["", "ca", "cg", "cs", "cv"]
            } else {
                &[""]
            };
            for cache in caches {
                let ty = format!("b{bits}");
                let name = named(
                    "suld",
                    &["b", geometry.name, cache, vector(count), &ty, outside],
                );
                load(table, &name, geometry, bits, count, outside);
            }
        }
        for ty in ["b32", "u32", "s32", "f32"] {
            let name = named("suld", &["p", geometry.name, vector(count), ty, outside]);
            load_formatted(table, &name, geometry, ty, count, outside);
        }
    }
    for geometry in &GEOMETRIES[..5] {
        for outside in ["", "trap"] {
            let opcode = named("suld", &["b", geometry.name, "b32", outside]);
            let mut numbers = Numbers::named(&opcode);
            outside_faults(
                table,
                geometry,
                &format!("{opcode} (outside)"),
                &format!("{opcode} %r10, [%rd5, {}];", geometry.coordinates('x')),
                &mut numbers,
            );
        }
    }
}

/// An access outside ends the launch.
fn outside_faults(
    table: &mut Table,
    geometry: &Geometry,
    name: &str,
    code: &str,
    numbers: &mut Numbers,
) {
    let object = surface(geometry, ChannelFormat::U32, 1, numbers);
    let point = Point {
        at: [object.sizes[0] * 4, 0, 0],
        ..Point::default()
    };
    Points {
        objects: vec![object],
        points: vec![point],
        code: code.into(),
        faults: true,
    }
    .whole(table, name, ALWAYS, |_, _, _| Ok(()));
}

fn load(
    table: &mut Table,
    name: &str,
    geometry: Geometry,
    bits: usize,
    count: usize,
    outside: &'static str,
) {
    let mut numbers = Numbers::named(name);
    let (format, channels) = untyped(bits, count);
    let object = surface(&geometry, format, channels, &mut numbers);
    let points = places(&geometry, &object, outside, &mut numbers);
    let (before, coordinates) = byte_coordinates(&geometry, object.texel());
    let (width, names, to) = bit_registers(bits, count);
    let mut code = format!("{before}{name} {to}, [%rd5, {coordinates}];\n");
    for (index, register) in names.iter().enumerate() {
        code += &format!(
            "st.global.b{width} [%rd3+{}], {register};\n",
            index * width / 8
        );
    }
    Points {
        objects: vec![object],
        points,
        code,
        faults: false,
    }
    .each(
        table,
        name,
        ALWAYS,
        Box::new(move |objects, point, got| {
            let at = reached(&geometry, &objects[0], point, outside);
            for index in 0..count {
                let bytes = bits / 8;
                let mut wanted = vec![0; width / 8];
                if let Some(at) = at {
                    let from = &objects[0].texels[at + index * bytes..][..bytes];
                    wanted[..bytes].copy_from_slice(from);
                }
                let got = &got[index * width / 8..][..width / 8];
                if got != wanted {
                    return Err(format!("element {index}: got {got:x?}, wanted {wanted:x?}"));
                }
            }
            Ok(())
        }),
    );
}

/// Formats that elements of a type may be of, with so many channels.
fn formats(ty: &str) -> Vec<ChannelFormat> {
    match ty {
        "f32" => vec![ChannelFormat::F32, ChannelFormat::F16],
        "u32" => vec![ChannelFormat::U32, ChannelFormat::U16, ChannelFormat::U8],
        "s32" => vec![ChannelFormat::S32, ChannelFormat::S16, ChannelFormat::S8],
        _ => [formats("f32"), formats("u32"), formats("s32")].concat(),
    }
}

/// What a channel is as 32 bits: a single, or an integer with its sign.
fn word_of(object: &Object, raw: &[u8]) -> u32 {
    let value = channel(object, raw, 0);
    if object.format.is_float() {
        bits(value)
    } else {
        value as i64 as u32
    }
}

fn load_formatted(
    table: &mut Table,
    name: &str,
    geometry: Geometry,
    ty: &str,
    count: usize,
    outside: &'static str,
) {
    let mut numbers = Numbers::named(name);
    let mut points = Vec::new();
    let mut objects = Vec::new();
    for format in formats(ty) {
        let object = surface(&geometry, format, count as u32, &mut numbers);
        for mut point in places(&geometry, &object, outside, &mut numbers) {
            point.object = objects.len();
            points.push(point);
        }
        objects.push(object);
    }
    let register = if ty == "f32" { 'f' } else { 'r' };
    let names: Vec<String> = (0..count)
        .map(|index| format!("%{register}{}", index + 10))
        .collect();
    let to = if count == 1 {
        names[0].clone()
    } else {
        format!("{{{}}}", names.join(", "))
    };
    let mut code = format!("{name} {to}, [%rd5, {}];\n", geometry.coordinates('x'));
    for (index, register) in names.iter().enumerate() {
        code += &format!("st.global.{ty} [%rd3+{}], {register};\n", index * 4);
    }
    Points {
        objects,
        points,
        code,
        faults: false,
    }
    .each(
        table,
        name,
        ALWAYS,
        Box::new(move |objects, point, got| {
            let object = &objects[point.object];
            let at = reached(&geometry, object, point, outside);
            for index in 0..count {
                let bytes = object.format.bytes() as usize;
                let wanted = at.map_or(0, |at| {
                    word_of(object, &object.texels[at + index * bytes..][..bytes])
                });
                let got = words(got)[index];
                if got != wanted {
                    return Err(format!("element {index}: got {got:x}, wanted {wanted:x}"));
                }
            }
            Ok(())
        }),
    );
}

/// Points that reach different texels.
fn apart(geometry: &Geometry, objects: &[Object], outside: &str, points: Vec<Point>) -> Vec<Point> {
    let mut seen = std::collections::HashSet::new();
    let fresh = |point: &Point| match reached(geometry, &objects[point.object], point, outside) {
        Some(at) => seen.insert((point.object, at)),
        None => true,
    };
    points.into_iter().filter(fresh).collect()
}

/// What objects hold has to be this.
fn held(objects: &[Object], wanted: &[Vec<u8>], output: &[u8]) -> Result<(), String> {
    let total: usize = wanted.iter().map(Vec::len).sum();
    let mut got = &output[output.len() - total..];
    for (number, (wanted, object)) in wanted.iter().zip(objects).enumerate() {
        let (mine, rest) = got.split_at(wanted.len());
        got = rest;
        if let Some(at) = mine
            .iter()
            .zip(wanted)
            .position(|(got, wanted)| got != wanted)
        {
            return Err(format!(
                "byte {at} of surface {number} ({:?}): got {:#x}, wanted {:#x}",
                object.format, mine[at], wanted[at]
            ));
        }
    }
    Ok(())
}

fn stores(table: &mut Table) {
    for (geometry, count, outside) in surfaces() {
        for bits in [8, 16, 32, 64] {
            if bits * count > 128 {
                continue;
            }
            let caches: &[&str] = if bits == 32 {
                &["", "wb", "cg", "cs", "wt"]
            } else {
                &[""]
            };
            for cache in caches {
                let ty = format!("b{bits}");
                let name = named(
                    "sust",
                    &["b", geometry.name, cache, vector(count), &ty, outside],
                );
                store(table, &name, geometry, bits, count, outside);
            }
        }
        for ty in ["b32", "u32", "s32", "f32"] {
            let name = named("sust", &["p", geometry.name, vector(count), ty, outside]);
            store_formatted(table, &name, geometry, ty, count, outside);
        }
    }
    for geometry in &GEOMETRIES[..5] {
        for (form, kind) in [("b", "b32"), ("p", "b32")] {
            for outside in ["", "trap"] {
                let opcode = named("sust", &[form, geometry.name, kind, outside]);
                let mut numbers = Numbers::named(&opcode);
                outside_faults(
                    table,
                    geometry,
                    &format!("{opcode} (outside)"),
                    &format!("{opcode} [%rd5, {}], %x1;", geometry.coordinates('x')),
                    &mut numbers,
                );
            }
        }
    }
}

fn store(
    table: &mut Table,
    name: &str,
    geometry: Geometry,
    bits: usize,
    count: usize,
    outside: &'static str,
) {
    let mut numbers = Numbers::named(name);
    let (format, channels) = untyped(bits, count);
    let objects = vec![surface(&geometry, format, channels, &mut numbers)];
    let points = places(&geometry, &objects[0], outside, &mut numbers);
    let points = apart(&geometry, &objects, outside, points);
    let (before, coordinates) = byte_coordinates(&geometry, objects[0].texel());
    let (width, names, from) = bit_registers(bits, count);
    // The record's last 16 bytes are what is stored.
    let mut code = format!("{before}add.u64 %rd7, %rd2, {};\n", objects.len() * 8 + 48);
    for (index, register) in names.iter().enumerate() {
        let (load, at) = if bits == 8 {
            ("u8", index)
        } else {
            (
                ["b16", "b32", "b64"][width.trailing_zeros() as usize - 4],
                index * width / 8,
            )
        };
        code += &format!("ld.global.{load} {register}, [%rd7+{at}];\n");
        if bits == 8 {
            // What lies above must not matter.
            code += &format!("or.b16 {register}, {register}, 0x5a00;\n");
        }
    }
    code += &format!("{name} [%rd5, {coordinates}], {from};\n");
    Points {
        objects,
        points,
        code,
        faults: false,
    }
    .whole(table, name, ALWAYS, move |objects, points, output| {
        let mut wanted = objects[0].texels.clone();
        for point in points {
            if let Some(at) = reached(&geometry, &objects[0], point, outside) {
                let data: Vec<u8> = point
                    .data
                    .iter()
                    .flat_map(|word| word.to_le_bytes())
                    .collect();
                let bytes = bits / 8 * count;
                wanted[at..at + bytes].copy_from_slice(&data[..bytes]);
            }
        }
        held(objects, &[wanted], output)
    });
}

/// Numbers that a format has.
fn fitting(format: ChannelFormat, value: u32) -> u32 {
    let small = value % 129;
    match format {
        ChannelFormat::F32 | ChannelFormat::F16 => bits(f64::from(small) / 4.0 - 16.0),
        ChannelFormat::U32 | ChannelFormat::S32 => value,
        ChannelFormat::U16 => value & 0xffff,
        ChannelFormat::U8 => value & 0xff,
        ChannelFormat::S16 => (value as i16) as u32,
        ChannelFormat::S8 => (value as i8) as u32,
    }
}

fn store_formatted(
    table: &mut Table,
    name: &str,
    geometry: Geometry,
    ty: &str,
    count: usize,
    outside: &'static str,
) {
    let mut numbers = Numbers::named(name);
    let mut points = Vec::new();
    let mut objects = Vec::new();
    for format in formats(ty) {
        let object = surface(&geometry, format, count as u32, &mut numbers);
        for mut point in places(&geometry, &object, outside, &mut numbers) {
            point.object = objects.len();
            point.data = point.data.map(|value| fitting(format, value));
            points.push(point);
        }
        objects.push(object);
    }
    let points = apart(&geometry, &objects, outside, points);
    let letter = if ty == "f32" { 'y' } else { 'x' };
    let names: Vec<String> = (0..count)
        .map(|index| format!("%{letter}{}", index + 12))
        .collect();
    let from = if count == 1 {
        names[0].clone()
    } else {
        format!("{{{}}}", names.join(", "))
    };
    let code = format!("{name} [%rd5, {}], {from};\n", geometry.coordinates('x'));
    Points {
        objects,
        points,
        code,
        faults: false,
    }
    .whole(table, name, ALWAYS, move |objects, points, output| {
        let mut wanted: Vec<Vec<u8>> = objects.iter().map(|object| object.texels.clone()).collect();
        for point in points {
            let object = &objects[point.object];
            let Some(at) = reached(&geometry, object, point, outside) else {
                continue;
            };
            let bytes = object.format.bytes() as usize;
            for index in 0..count {
                let value = point.data[index];
                let stored = if object.format == ChannelFormat::F16 {
                    Format::F32.convert(Format::F16, Round::Nearest, value.into()) as u32
                } else {
                    value
                };
                wanted[point.object][at + index * bytes..][..bytes]
                    .copy_from_slice(&stored.to_le_bytes()[..bytes]);
            }
        }
        held(objects, &wanted, output)
    });
}

/// `sured`: many threads on few texels.
fn reductions(table: &mut Table) {
    for geometry in &GEOMETRIES[..5] {
        for outside in ["", "trap", "clamp", "zero"] {
            for (operation, types) in [
                ("add", &["u32", "s32", "u64"][..]),
                ("min", &["u32", "s32", "u64", "s64"]),
                ("max", &["u32", "s32", "u64", "s64"]),
                ("and", &["b32"]),
                ("or", &["b32"]),
            ] {
                for ty in types {
                    let name = named("sured", &["b", operation, geometry.name, ty, outside]);
                    let bytes = if ty.ends_with("64") { 8 } else { 4 };
                    let signed = ty.starts_with('s');
                    let format = ChannelFormat::U32;
                    reduction(
                        table,
                        &name,
                        *geometry,
                        operation,
                        (format, bytes, signed),
                        outside,
                    );
                }
                // Of a formatted surface, the format says whether there is a sign.
                for (format, signed) in [(ChannelFormat::U32, false), (ChannelFormat::S32, true)] {
                    let name = named("sured", &["p", operation, geometry.name, "b32", outside]);
                    let name = format!("{name} ({})", if signed { "signed" } else { "unsigned" });
                    reduction(
                        table,
                        &name,
                        *geometry,
                        operation,
                        (format, 4, signed),
                        outside,
                    );
                }
            }
        }
    }
}

fn reduction(
    table: &mut Table,
    name: &str,
    geometry: Geometry,
    operation: &'static str,
    (format, bytes, signed): (ChannelFormat, usize, bool),
    outside: &'static str,
) {
    let mut numbers = Numbers::named(name);
    let objects = vec![surface(&geometry, format, bytes as u32 / 4, &mut numbers)];
    let points = places(&geometry, &objects[0], outside, &mut numbers);
    // Threads without a point of their own would count the last one twice.
    let points: Vec<Point> = points.iter().cycle().take(2 * BLOCK).copied().collect();
    let opcode = name.split(' ').next().unwrap_or_default();
    let before = if opcode.starts_with("sured.b") {
        byte_coordinates(&geometry, bytes as u32).0
    } else {
        String::new()
    };
    let from = if bytes == 8 { "%rd10" } else { "%x12" };
    let code = format!(
        "{before}mov.b64 %rd10, {{%x12, %x13}}; {opcode} [%rd5, {}], {from};",
        geometry.coordinates('x')
    );
    Points {
        objects,
        points,
        code,
        faults: false,
    }
    .whole(table, name, ALWAYS, move |objects, points, output| {
        let mut wanted = objects[0].texels.clone();
        for point in points {
            let Some(at) = reached(&geometry, &objects[0], point, outside) else {
                continue;
            };
            let slot = &mut wanted[at..at + bytes];
            let mut raw = [0; 8];
            raw[..bytes].copy_from_slice(slot);
            let old = u64::from_le_bytes(raw);
            let mut value = u64::from(point.data[1]) << 32 | u64::from(point.data[0]);
            if bytes == 4 {
                value &= 0xffff_ffff;
            }
            let number = |value: u64| match (signed, bytes) {
                (false, _) => i128::from(value),
                (true, 4) => i128::from(value as u32 as i32),
                (true, _) => i128::from(value as i64),
            };
            let below = number(old) < number(value);
            let new = match operation {
                "add" => old.wrapping_add(value),
                "min" => {
                    if below {
                        old
                    } else {
                        value
                    }
                }
                "max" => {
                    if below {
                        value
                    } else {
                        old
                    }
                }
                "and" => old & value,
                _ => old | value,
            };
            slot.copy_from_slice(&new.to_le_bytes()[..bytes]);
        }
        held(objects, &[wanted], output)
    });
}

fn lacking(table: &mut Table) {
    const SAMPLES: &str = "multisampled textures come from graphics interfaces alone";
    const DEPTH: &str = "depth textures come from graphics interfaces alone";
    for (name, code, why) in [
        (
            "tex.2dms.v4.f32.s32",
            "tex.2dms.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%rd1, {%r1, %r2, %r3, %r3}];",
            SAMPLES,
        ),
        (
            "tex.a2dms.v4.f32.s32",
            "tex.a2dms.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%rd1, {%r1, %r2, %r3, %r4}];",
            SAMPLES,
        ),
        (
            "tex.2d.v4.f32.f32 (depth compared)",
            "tex.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%rd1, {%f4, %f5}], {%r1, %r2}, %f6;",
            DEPTH,
        ),
        (
            "tld4.r.2d.v4.f32.f32 (depth compared)",
            "tld4.r.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%rd1, {%f4, %f5}], {%r1, %r2}, %f6;",
            DEPTH,
        ),
    ] {
        table.kernel(
            name,
            ALWAYS,
            Kernel {
                declarations: String::new(),
                body: code.into(),
                threads: 1,
                blocks: 1,
                input: vec![0; 16],
                output: 16,
                faults: false,
                objects: Vec::new(),
                judge: Box::new(|_, _| Ok(())),
            },
        );
        table.lacks_last(why);
    }
}
