//! Texture and surface instructions against the formulas of the CUDA programming guide's appendix on
//! texture fetching, written down again in plain Rust.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod ptx_common;

use std::sync::Arc;

use ptx_common::{Args, Device, compile};
use softcuda::exec::texture::{
    AddressMode, ArrayMemory, ChannelFormat, Descriptor, Filter, Level, Sampler, Shape, Storage,
    TextureTable,
};
use softcuda::exec::{Fault, Launch, Program};

fn launch(
    device: &Device,
    program: &Program,
    threads: u32,
    args: &Args,
    table: &TextureTable,
) -> Result<(), Fault> {
    program.launch(&Launch {
        textures: Some(table),
        ..Launch::new(0, [1; 3], [threads, 1, 1], args.bytes(), device.view())
    })
}

/// An object of one level over an array with these bytes.
fn object(
    shape: Shape,
    [width, height, depth]: [u32; 3],
    layers: u32,
    format: ChannelFormat,
    channels: u32,
    bytes: &[u8],
) -> Descriptor {
    let memory = Arc::new(ArrayMemory::new(bytes.len() as u64).unwrap());
    // SAFETY: the memory has that many bytes, and nothing else uses it yet.
    unsafe { (memory.address() as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    let row_pitch = u64::from(width * format.bytes() * channels);
    Descriptor {
        shape,
        format,
        channels,
        storage: Storage::Array(memory),
        levels: vec![Level {
            offset: 0,
            width,
            height,
            depth,
            row_pitch,
            slice_pitch: row_pitch * u64::from(height),
        }],
        layers,
        sampler: Sampler::default(),
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Reads a texture at points: per point the words that the instruction takes (up to 8, at %x0 and on, both
/// as %x and as %f), and the four words that come back.
fn read(descriptor: Descriptor, instruction: &str, points: &[[u32; 8]]) -> Vec<[u32; 4]> {
    let table = TextureTable::new();
    let handle = table.insert(descriptor).unwrap();
    let text = format!(
        ".visible .entry k(.param .u64 tex, .param .u64 in, .param .u64 out) {{
         .reg .b64 %tex, %in, %out; .reg .b32 %t; .reg .b32 %x<8>; .reg .f32 %f<8>; .reg .b32 %r<4>; .reg .f32 %g<4>;
         ld.param.u64 %tex, [tex]; ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x;
         mad.wide.u32 %in, %t, 32, %in; mad.wide.u32 %out, %t, 16, %out;
         ld.global.v4.b32 {{%x0, %x1, %x2, %x3}}, [%in]; ld.global.v4.b32 {{%x4, %x5, %x6, %x7}}, [%in+16];
         ld.global.v4.f32 {{%f0, %f1, %f2, %f3}}, [%in]; ld.global.v4.f32 {{%f4, %f5, %f6, %f7}}, [%in+16];
         mov.f32 %g0, 0f00000000; mov.f32 %g1, %g0; mov.f32 %g2, %g0; mov.f32 %g3, %g0;
         mov.b32 %r0, 0; mov.b32 %r1, 0; mov.b32 %r2, 0; mov.b32 %r3, 0;
         {instruction}
         {} ret; }}",
        if instruction.contains("%g0") {
            "st.global.v4.f32 [%out], {%g0, %g1, %g2, %g3};"
        } else {
            "st.global.v4.b32 [%out], {%r0, %r1, %r2, %r3};"
        }
    );
    let program = compile(&text);
    let mut device = Device::new(1 << 20);
    let input: Vec<u32> = points.iter().flatten().copied().collect();
    let from = device.upload(&input);
    let to = device.zeros::<u32>(points.len() * 4);
    let args = Args::new().add(handle).add(from).add(to);
    launch(&device, &program, points.len() as u32, &args, &table)
        .unwrap_or_else(|fault| panic!("{instruction}: {fault}"));
    let got = device.download::<u32>(to, points.len() * 4);
    got.chunks(4)
        .map(|words| words.try_into().unwrap())
        .collect()
}

fn points(values: &[&[f32]]) -> Vec<[u32; 8]> {
    let point = |values: &&[f32]| {
        let mut words = [0; 8];
        for (word, value) in words.iter_mut().zip(values.iter()) {
            *word = value.to_bits();
        }
        words
    };
    values.iter().map(point).collect()
}

/// The guide's index of a texel, for whole numbers; `None` is the border.
fn wrapped(mode: AddressMode, index: i64, count: i64) -> Option<usize> {
    match mode {
        AddressMode::Border => (0..count).contains(&index).then_some(index as usize),
        AddressMode::Clamp => Some(index.clamp(0, count - 1) as usize),
        AddressMode::Wrap => Some(index.rem_euclid(count) as usize),
        AddressMode::Mirror => {
            let index = index.rem_euclid(2 * count);
            Some(if index < count {
                index
            } else {
                2 * count - 1 - index
            } as usize)
        }
    }
}

#[test]
fn one_dimension_in_all_modes() {
    let values = [3.0, -1.0, 8.0, 0.5, 100.0];
    let count = values.len() as i64;
    for mode in [
        AddressMode::Wrap,
        AddressMode::Clamp,
        AddressMode::Mirror,
        AddressMode::Border,
    ] {
        for filter in [Filter::Point, Filter::Linear] {
            for normalized in [false, true] {
                let mut descriptor = object(
                    Shape::D1,
                    [5, 1, 1],
                    1,
                    ChannelFormat::F32,
                    1,
                    &floats(&values),
                );
                descriptor.sampler = Sampler {
                    address: [mode; 3],
                    filter,
                    normalized_coordinates: normalized,
                    border: [-7.0; 4],
                    ..Sampler::default()
                };
                // Sixteenths of texels, so that nothing needs rounding.
                let places: Vec<f32> = (-200..200).map(|n| n as f32 / 16.0 + 1.0 / 64.0).collect();
                let given: Vec<Vec<f32>> = places
                    .iter()
                    .map(|&x| vec![if normalized { x / 5.0 } else { x }])
                    .collect();
                let given: Vec<&[f32]> = given.iter().map(Vec::as_slice).collect();
                let got = read(
                    descriptor,
                    "tex.1d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%f0}];",
                    &points(&given),
                );
                // Without normalised coordinates there is nothing to repeat.
                let mode = match mode {
                    AddressMode::Wrap | AddressMode::Mirror if !normalized => AddressMode::Clamp,
                    mode => mode,
                };
                let at =
                    |index: i64| wrapped(mode, index, count).map_or(-7.0, |index| values[index]);
                for (x, got) in places.iter().zip(got) {
                    let value = f32::from_bits(got[0]);
                    let (wanted, slack) = match filter {
                        Filter::Point => (at(x.floor() as i64), 0.0),
                        Filter::Linear => {
                            let x = x - 0.5;
                            let part = x - x.floor();
                            let index = x.floor() as i64;
                            // The fraction has 8 bits; dividing by 5 costs another half of one.
                            (
                                (1.0 - part) * at(index) + part * at(index + 1),
                                110.0 / 256.0,
                            )
                        }
                    };
                    assert!(
                        (value - wanted).abs() <= slack,
                        "{mode:?} {filter:?} {normalized} {x}: {value} {wanted}"
                    );
                }
            }
        }
    }
}

#[test]
fn fractions_have_eight_bits() {
    let mut descriptor = object(
        Shape::D1,
        [2, 1, 1],
        1,
        ChannelFormat::F32,
        1,
        &floats(&[0.0, 256.0]),
    );
    descriptor.sampler.filter = Filter::Linear;
    let places: Vec<Vec<f32>> = (0..64).map(|n| vec![0.5 + n as f32 / 1024.0]).collect();
    let places: Vec<&[f32]> = places.iter().map(Vec::as_slice).collect();
    let got = read(
        descriptor,
        "tex.1d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%f0}];",
        &points(&places),
    );
    for (n, got) in got.into_iter().enumerate() {
        // 256 times the fraction, to the nearest whole number.
        assert_eq!(f32::from_bits(got[0]), (n as f32 / 4.0).round(), "{n}");
    }
}

#[test]
fn two_and_three_dimensions() {
    let value = |x: i64, y: i64, z: i64| (x + 10 * y + 100 * z) as f32;
    let texels: Vec<f32> = (0..60).map(|n| value(n % 5, n / 5 % 4, n / 20)).collect();
    for filter in [Filter::Point, Filter::Linear] {
        let mut volume = object(
            Shape::D3,
            [5, 4, 3],
            1,
            ChannelFormat::F32,
            1,
            &floats(&texels),
        );
        volume.sampler.filter = filter;
        let mut plane = object(
            Shape::D2,
            [5, 4, 1],
            1,
            ChannelFormat::F32,
            1,
            &floats(&texels[..20]),
        );
        plane.sampler.filter = filter;
        let places: Vec<[f32; 3]> = (0..200)
            .map(|n| [n % 7, n / 7 % 6, n / 42].map(|n| n as f32 * 0.75 - 0.25))
            .collect();
        let given: Vec<&[f32]> = places.iter().map(<[f32; 3]>::as_slice).collect();
        let got_volume = read(
            volume,
            "tex.3d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%f0, %f1, %f2, %f2}];",
            &points(&given),
        );
        let got_plane = read(
            plane,
            "tex.base.2d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%f0, %f1}];",
            &points(&given),
        );
        for ((place, volume), plane) in places.iter().zip(got_volume).zip(got_plane) {
            // The texels are linear in each coordinate, so that the filter is, within the edges.
            let along = |at: f32, count: f32| match filter {
                Filter::Point => at.floor().clamp(0.0, count - 1.0),
                Filter::Linear => (at - 0.5).clamp(0.0, count - 1.0),
            };
            let (x, y) = (along(place[0], 5.0), along(place[1], 4.0));
            let z = along(place[2], 3.0);
            assert_eq!(
                f32::from_bits(plane[0]),
                x + 10.0 * y,
                "{filter:?} {place:?}"
            );
            assert_eq!(
                f32::from_bits(volume[0]),
                x + 10.0 * y + 100.0 * z,
                "{filter:?} {place:?}"
            );
        }
    }
}

#[test]
fn formats_and_channels() {
    let x = [[0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]];
    let one = 1_f32.to_bits();
    for (format, bytes, plain, fraction) in [
        (
            ChannelFormat::U8,
            vec![255_u8, 51],
            [255, 51],
            Some([1.0, 0.2]),
        ),
        (
            ChannelFormat::S8,
            vec![0x81, 0x80],
            [-127_i32 as u32, -128_i32 as u32],
            Some([-1.0, -1.0]),
        ),
        (
            ChannelFormat::U16,
            vec![0xff, 0xff, 0, 0],
            [65535, 0],
            Some([1.0, 0.0]),
        ),
        (
            ChannelFormat::S16,
            vec![0xff, 0x7f, 0, 0x80],
            [32767, -32768_i32 as u32],
            Some([1.0, -1.0]),
        ),
        (
            ChannelFormat::U32,
            vec![1, 2, 3, 4, 0, 0, 0, 0x80],
            [0x0403_0201, 0x8000_0000],
            None,
        ),
        (ChannelFormat::S32, vec![255; 8], [u32::MAX, u32::MAX], None),
    ] {
        let descriptor = object(Shape::D1, [2, 1, 1], 1, format, 1, &bytes);
        let got = read(
            descriptor.clone(),
            "tex.1d.v4.s32.s32 {%r0, %r1, %r2, %r3}, [%tex, {%x0}];",
            &x,
        );
        assert_eq!(
            got,
            [[plain[0], 0, 0, 1], [plain[1], 0, 0, 1]],
            "{format:?}"
        );
        if let Some(fraction) = fraction {
            let mut descriptor = descriptor;
            descriptor.sampler.normalized_values = true;
            let got = read(
                descriptor,
                "tex.1d.v4.f32.s32 {%g0, %g1, %g2, %g3}, [%tex, {%x0}];",
                &x,
            );
            let wanted = fraction.map(|value: f32| [value.to_bits(), 0, 0, one]);
            assert_eq!(got, wanted, "{format:?}");
        }
    }
    // Halves, two channels; packed results.
    let halves = [0x3c00_u16, 0xc000, 0x3800, 0x7c00];
    let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
    let descriptor = object(Shape::D1, [2, 1, 1], 1, ChannelFormat::F16, 2, &bytes);
    let got = read(
        descriptor.clone(),
        "tex.1d.v4.f32.s32 {%g0, %g1, %g2, %g3}, [%tex, {%x0}];",
        &x,
    );
    let wanted =
        [[1.0, -2.0, 0.0, 1.0], [0.5, f32::INFINITY, 0.0, 1.0]].map(|c| c.map(f32::to_bits));
    assert_eq!(got, wanted);
    let got = read(
        descriptor,
        "tex.1d.v2.f16x2.s32 {%r0, %r1}, [%tex, {%x0}];",
        &x,
    );
    assert_eq!(
        got,
        [
            [0xc000_3c00, 0x3c00_0000, 0, 0],
            [0x7c00_3800, 0x3c00_0000, 0, 0]
        ]
    );
    // sRGB: the middle of its scale is about a fifth of the light.
    let mut descriptor = object(
        Shape::D1,
        [1, 1, 1],
        1,
        ChannelFormat::U8,
        4,
        &[128, 0, 255, 128],
    );
    descriptor.sampler.normalized_values = true;
    descriptor.sampler.srgb = true;
    let got = read(
        descriptor,
        "tex.1d.v4.f32.s32 {%g0, %g1, %g2, %g3}, [%tex, {%x0}];",
        &x[..1],
    );
    let got = got[0].map(f32::from_bits);
    assert!((got[0] - 0.215_86).abs() < 1e-4 && got[1] == 0.0 && got[2] == 1.0);
    assert_eq!(got[3], 128.0 / 255.0);
}

#[test]
fn layers_faces_and_gathers() {
    let texels: Vec<f32> = (0..6 * 4 * 2).map(|n| n as f32).collect();
    let layered = object(
        Shape::D2Layered,
        [2, 2, 1],
        12,
        ChannelFormat::F32,
        1,
        &floats(&texels),
    );
    let mut given = points(&[&[0.0, 1.5, 0.5], &[0.0, 0.5, 1.5], &[0.0, 0.0, 0.0]]);
    for (point, layer) in given.iter_mut().zip([3, 11, 99]) {
        point[0] = layer;
    }
    let got = read(
        layered,
        "tex.a2d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%x0, %f1, %f2, %f2}];",
        &given,
    );
    let first = |got: Vec<[u32; 4]>| {
        got.iter()
            .map(|words| f32::from_bits(words[0]))
            .collect::<Vec<_>>()
    };
    assert_eq!(first(got), [13.0, 46.0, 44.0]);
    let rows = object(
        Shape::D1Layered,
        [2, 1, 1],
        3,
        ChannelFormat::F32,
        1,
        &floats(&texels[..6]),
    );
    let mut given = points(&[&[0.0, 1.5], &[0.0, 0.5]]);
    given[0][0] = 2;
    let got = read(
        rows,
        "tex.a1d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%x0, %f1}];",
        &given,
    );
    assert_eq!(first(got), [5.0, 0.0]);

    // The middle of each face's first quarter.
    let cube = object(
        Shape::Cube,
        [2, 2, 1],
        6,
        ChannelFormat::F32,
        1,
        &floats(&texels[..24]),
    );
    let directions: [&[f32]; 7] = [
        &[1.0, 0.5, 0.5],
        &[-1.0, 0.5, -0.5],
        &[-0.5, 1.0, -0.5],
        &[-0.5, -1.0, 0.5],
        &[-0.5, 0.5, 1.0],
        &[0.5, 0.5, -1.0],
        &[3.0, -1.5, -1.5],
    ];
    let got = read(
        cube,
        "tex.cube.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%f0, %f1, %f2, %f2}];",
        &points(&directions),
    );
    assert_eq!(first(got), [0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 3.0]);
    let cubes = object(
        Shape::CubeLayered,
        [2, 2, 1],
        12,
        ChannelFormat::F32,
        1,
        &floats(&texels),
    );
    let mut given = points(&[&[0.0, 0.5, 0.5, -1.0]]);
    given[0][0] = 1;
    let got = read(
        cubes,
        "tex.acube.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%x0, %f1, %f2, %f3}];",
        &given,
    );
    assert_eq!(first(got), [44.0]);

    let plane = object(
        Shape::D2,
        [4, 4, 1],
        1,
        ChannelFormat::F32,
        1,
        &floats(&texels[..16]),
    );
    let got = read(
        plane.clone(),
        "tld4.r.2d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%f0, %f1}];",
        &points(&[&[2.0, 1.0]]),
    );
    assert_eq!(got[0].map(f32::from_bits), [5.0, 6.0, 2.0, 1.0]);
    let got = read(
        plane.clone(),
        "tex.2d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%f0, %f1}], {%x2, %x3};",
        &{
            let mut given = points(&[&[0.5, 1.5]]);
            (given[0][2], given[0][3]) = (2, -1_i32 as u32);
            given
        },
    );
    assert_eq!(f32::from_bits(got[0][0]), 2.0);
    for (what, wanted) in [
        ("width", 4),
        ("height", 4),
        ("channel_data_type", 0x10de),
        ("channel_order", 0x10b0),
        ("normalized_coords", 0),
        ("num_mipmap_levels", 1),
    ] {
        let got = read(
            plane.clone(),
            &format!("txq.{what}.b32 %r0, [%tex];"),
            &[[0; 8]],
        );
        assert_eq!(got[0][0], wanted, "{what}");
    }
}

#[test]
fn levels_between_and_by_gradient() {
    // Level n is all n, and has 8 >> n texels a side.
    let mut bytes = Vec::new();
    let mut levels = Vec::new();
    for level in 0..4_u32 {
        let size = 8 >> level;
        levels.push(Level {
            offset: bytes.len() as u64,
            width: size,
            height: size,
            depth: 1,
            row_pitch: u64::from(size) * 4,
            slice_pitch: u64::from(size * size) * 4,
        });
        bytes.extend(floats(&vec![level as f32; (size * size) as usize]));
    }
    let mut descriptor = object(Shape::D2, [1, 1, 1], 1, ChannelFormat::F32, 1, &bytes);
    descriptor.levels = levels;
    descriptor.sampler.normalized_coordinates = true;
    let lods: Vec<f32> = (-4..20).map(|n| n as f32 / 4.0).collect();
    let given: Vec<[f32; 3]> = lods.iter().map(|&lod| [0.3, 0.6, lod]).collect();
    let given: Vec<&[f32]> = given.iter().map(<[f32; 3]>::as_slice).collect();
    for filter in [Filter::Point, Filter::Linear] {
        for (bias, clamp) in [(0.0, [0.0, 9.0]), (0.5, [1.0, 2.0]), (0.0, [0.0, 0.0])] {
            let mut descriptor = descriptor.clone();
            descriptor.sampler.mip_filter = filter;
            descriptor.sampler.mip_bias = bias;
            descriptor.sampler.mip_clamp = clamp;
            let got = read(
                descriptor,
                "tex.level.2d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%f0, %f1}], %f2;",
                &points(&given),
            );
            for (lod, got) in lods.iter().zip(got) {
                let mut wanted = lod + bias;
                wanted = wanted.clamp(clamp[0], clamp[1]);
                wanted = wanted.clamp(0.0, 3.0);
                if filter == Filter::Point {
                    wanted = (wanted + 0.5).floor();
                }
                assert_eq!(f32::from_bits(got[0]), wanted, "{filter:?} {bias} {lod}");
            }
        }
    }
    // Steps of 2, 4 texels.
    let got = read(
        descriptor.clone(),
        "tex.grad.2d.v4.f32.f32 {%g0, %g1, %g2, %g3}, [%tex, {%f0, %f1}], {%f2, %f3}, {%f4, %f5};",
        &points(&[
            &[0.3, 0.6, 0.25, 0.0, 0.0, 0.125],
            &[0.3, 0.6, 0.0, 0.25, 0.5, 0.0],
            &[0.3, 0.6],
        ]),
    );
    assert_eq!(
        got.iter().map(|w| f32::from_bits(w[0])).collect::<Vec<_>>(),
        [1.0, 2.0, 0.0]
    );
    let got = read(
        descriptor,
        "txq.level.width.b32 %r0, [%tex], %x0;",
        &[[2, 0, 0, 0, 0, 0, 0, 0]],
    );
    assert_eq!(got[0][0], 2);
}

#[test]
fn linear_memory_is_checked_like_any() {
    let mut device = Device::new(1 << 16);
    let at = device.upload(&[10_u32, 11, 12, 13]);
    let out = device.zeros::<u32>(8);
    let text = ".visible .entry k(.param .u64 tex, .param .u64 out) {
         .reg .b64 %tex, %out; .reg .b32 %t; .reg .b32 %r<4>;
         ld.param.u64 %tex, [tex]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x;
         mad.wide.u32 %out, %t, 4, %out; sub.u32 %t, %t, 1;
         tex.1d.v4.u32.s32 {%r0, %r1, %r2, %r3}, [%tex, {%t}]; st.global.u32 [%out], %r0; ret; }";
    let program = compile(text);
    let descriptor = |width: u32| Descriptor {
        shape: Shape::Buffer,
        storage: Storage::Device(at),
        ..object(
            Shape::D1,
            [width, 1, 1],
            1,
            ChannelFormat::U32,
            1,
            &vec![0; width as usize * 4],
        )
    };
    let table = TextureTable::new();
    let good = table.insert(descriptor(4)).unwrap();
    let long = table.insert(descriptor(5)).unwrap();
    let run = |handle: u64| {
        launch(
            &device,
            &program,
            7,
            &Args::new().add(handle).add(out),
            &table,
        )
    };
    run(good).unwrap();
    assert_eq!(device.download::<u32>(out, 7), [0, 10, 11, 12, 13, 0, 0]);
    assert!(matches!(
        run(long),
        Err(Fault::IllegalAddress {
            space: "texture",
            ..
        })
    ));
    table.remove(good);
    for unknown in [good, 0, 1, at, u64::MAX] {
        assert!(
            matches!(run(unknown), Err(Fault::IllegalAddress { address, .. }) if address == unknown)
        );
    }
}

#[test]
fn surfaces_are_read_written_and_reduced() {
    let text = ".visible .entry k(.param .u64 surf, .param .u64 out) {
         .reg .b64 %s, %out, %d<4>; .reg .b32 %t, %y, %x; .reg .b32 %r<8>; .reg .b16 %h<4>; .reg .f32 %f<4>;
         ld.param.u64 %s, [surf]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x;
         and.b32 %x, %t, 7; shr.u32 %y, %t, 3; shl.b32 %r7, %x, 2;
         add.u32 %r0, %t, 1000; sust.b.2d.b32.trap [%s, {%r7, %y}], {%r0};
         bar.sync 0; suld.b.2d.v2.b16.trap {%h0, %h1}, [%s, {%r7, %y}];
         bar.sync 0; cvt.u32.u16 %r1, %h0; sured.b.add.2d.u32.trap [%s, {4, 1}], %r1;
         sured.b.min.2d.s32.clamp [%s, {-400, -7}], -5;
         suld.b.2d.b32.zero %r2, [%s, {32, 0}]; suld.b.2d.b32.clamp %r3, [%s, {4096, 9}];
         sust.b.2d.b32.zero [%s, {-4, 0}], %r1; bar.sync 0;
         suld.b.2d.b64.trap %d0, [%s, {0, 1}]; cvt.u32.u64 %r4, %d0; shr.u64 %d0, %d0, 32; cvt.u32.u64 %r5, %d0;
         suq.width.b32 %r6, [%s];
         mad.wide.u32 %out, %t, 32, %out; st.global.v4.u32 [%out], {%r1, %r2, %r3, %r4};
         st.global.v2.u32 [%out+16], {%r5, %r6}; ret; }";
    let program = compile(text);
    let mut device = Device::new(1 << 16);
    let out = device.zeros::<u32>(32 * 8);
    let table = TextureTable::new();
    let surface = object(Shape::D2, [8, 4, 1], 1, ChannelFormat::U32, 1, &[0; 128]);
    let Storage::Array(memory) = &surface.storage else {
        panic!()
    };
    let memory = Arc::clone(memory);
    let handle = table.insert(surface).unwrap();
    let args = Args::new().add(handle).add(out);
    launch(&device, &program, 32, &args, &table).unwrap();
    let got = device.download::<u32>(out, 32 * 8);
    let sum: u32 = 1009 + (0..32).map(|t| t + 1000).sum::<u32>();
    for t in 0..32_usize {
        let words = &got[t * 8..][..6];
        assert_eq!(
            words,
            [t as u32 + 1000, 0, 1031, 1008, sum, 8],
            "thread {t}"
        );
    }
    // SAFETY: the array has 32 words, and no kernel runs.
    let first = unsafe { *(memory.address() as *const u32) };
    assert_eq!(first, -5_i32 as u32);

    // Outside with .trap, and not aligned.
    for place in ["{32, 0}", "{-4, 0}", "{0, 4}", "{2, 0}"] {
        let text = format!(
            ".visible .entry k(.param .u64 surf) {{ .reg .b64 %s; .reg .b32 %r; ld.param.u64 %s, [surf];
             suld.b.2d.b32.trap %r, [%s, {place}]; ret; }}"
        );
        let result = launch(
            &device,
            &compile(&text),
            1,
            &Args::new().add(handle),
            &table,
        );
        assert!(
            matches!(result, Err(Fault::IllegalAddress { .. })),
            "{place}"
        );
    }

    // Formatted: texels and their numbers.
    let text = ".visible .entry k(.param .u64 surf, .param .u64 out) {
         .reg .b64 %s, %out; .reg .f32 %f<4>; ld.param.u64 %s, [surf]; ld.param.u64 %out, [out];
         mov.f32 %f0, 0f3f800000; mov.f32 %f1, 0fc0000000;
         sust.p.a2d.v2.f32.trap [%s, {2, 1, 1, 0}], {%f0, %f1};
         suld.p.a2d.v2.f32.trap {%f2, %f3}, [%s, {2, 1, 1, 0}]; st.global.v2.f32 [%out], {%f2, %f3}; ret; }";
    let surface = object(
        Shape::D2Layered,
        [2, 2, 1],
        3,
        ChannelFormat::F16,
        2,
        &[0; 48],
    );
    let Storage::Array(memory) = &surface.storage else {
        panic!()
    };
    let memory = Arc::clone(memory);
    let handle = table.insert(surface).unwrap();
    launch(
        &device,
        &compile(text),
        1,
        &Args::new().add(handle).add(out),
        &table,
    )
    .unwrap();
    assert_eq!(device.download::<f32>(out, 2), [1.0, -2.0]);
    // SAFETY: the array has 48 bytes, and no kernel runs.
    let last = unsafe { *((memory.address() + 44) as *const u32) };
    assert_eq!(last, 0xc000_3c00);
}

#[test]
fn references_are_variables_with_handles() {
    let text = ".global .texref colours = { addr_mode_0 = clamp_to_edge, filter_mode = nearest };
         .global .surfref target; .global .samplerref how;
         .visible .entry k(.param .u64 out) {
         .reg .b64 %t, %out; .reg .b32 %r<8>; .reg .pred %p<2>; ld.param.u64 %out, [out];
         tex.1d.v4.u32.s32 {%r0, %r1, %r2, %r3}, [colours, {1}];
         tex.1d.v4.u32.s32 {%r1, %r2, %r3, %r4}, [colours, how, {0}];
         mov.u64 %t, colours; tex.1d.v4.u32.s32 {%r2, %r3, %r4, %r5}, [%t, {1}];
         istypep.texref %p0, %t; selp.u32 %r3, 1, 0, %p0; istypep.samplerref %p1, %out; selp.u32 %r4, 1, 0, %p1;
         suld.b.1d.b32.trap %r5, [target, {4}]; txq.width.b32 %r6, [colours];
         st.global.v4.u32 [%out], {%r0, %r1, %r2, %r3}; st.global.v4.u32 [%out+16], {%r4, %r5, %r6, %r6}; ret; }";
    let program = compile(text);
    assert!(
        program
            .variables()
            .iter()
            .all(|variable| variable.opaque.is_some() && variable.bytes == 8)
    );
    let mut device = Device::new(1 << 16);
    let places = device.bind(&program);
    let table = TextureTable::new();
    let bytes: Vec<u8> = [5_u32, 6].iter().flat_map(|v| v.to_le_bytes()).collect();
    let handle = table
        .insert(object(
            Shape::D1,
            [2, 1, 1],
            1,
            ChannelFormat::U32,
            1,
            &bytes,
        ))
        .unwrap();
    for place in &places[..2] {
        // SAFETY: the variable's eight bytes, and no kernel runs.
        unsafe { *(*place as *mut u64) = handle };
    }
    let out = device.zeros::<u32>(8);
    launch(&device, &program, 1, &Args::new().add(out), &table).unwrap();
    assert_eq!(device.download::<u32>(out, 8), [6, 5, 6, 1, 0, 6, 2, 2]);
}
