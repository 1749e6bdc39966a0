//! Texture and surface objects and texture references, as kernels see them.

mod api_common;

use api_common::{Fresh, alloc, kernel, load_text};
use cuda_abi::{CuResult, Handle};
use std::ffi::c_void;
use std::ptr::{null, null_mut};

const PTX: &str = r#"
.version 6.3
.target sm_75
.address_size 64

.visible .global .texref picture;
.visible .global .surfref canvas;

// out[y * w + x] = the texture at ((x + 0.5) * step + shift, (y + 0.5) * step + shift)
.visible .entry read2d(.param .u64 out, .param .u64 texture, .param .f32 step, .param .f32 shift)
{
    .reg .b32 %r<6>;
    .reg .f32 %f<12>;
    .reg .b64 %d<5>;
    ld.param.u64 %d1, [out];
    ld.param.u64 %d2, [texture];
    ld.param.f32 %f1, [step];
    ld.param.f32 %f2, [shift];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %tid.y;
    mov.u32 %r3, %ntid.x;
    cvt.rn.f32.u32 %f3, %r1;
    cvt.rn.f32.u32 %f4, %r2;
    add.f32 %f3, %f3, 0f3F000000;
    add.f32 %f4, %f4, 0f3F000000;
    fma.rn.f32 %f5, %f3, %f1, %f2;
    fma.rn.f32 %f6, %f4, %f1, %f2;
    tex.2d.v4.f32.f32 {%f7, %f8, %f9, %f10}, [%d2, {%f5, %f6}];
    mad.lo.u32 %r4, %r2, %r3, %r1;
    mul.wide.u32 %d3, %r4, 4;
    add.s64 %d4, %d1, %d3;
    st.global.f32 [%d4], %f7;
    ret;
}

// out[x] = element x of a texture of linear memory
.visible .entry fetch(.param .u64 out, .param .u64 texture)
{
    .reg .b32 %r<7>;
    .reg .b64 %d<5>;
    ld.param.u64 %d1, [out];
    ld.param.u64 %d2, [texture];
    mov.u32 %r1, %tid.x;
    tex.1d.v4.u32.s32 {%r2, %r3, %r4, %r5}, [%d2, {%r1}];
    mul.wide.u32 %d3, %r1, 4;
    add.s64 %d4, %d1, %d3;
    st.global.u32 [%d4], %r2;
    ret;
}

// surface(x, y) = 100 * y + x
.visible .entry paint(.param .u64 surface)
{
    .reg .b32 %r<6>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [surface];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %tid.y;
    mad.lo.u32 %r3, %r2, 100, %r1;
    shl.b32 %r4, %r1, 2;
    sust.b.2d.b32.trap [%d1, {%r4, %r2}], %r3;
    ret;
}

// As read2d and paint, by references.
.visible .entry read_reference(.param .u64 out)
{
    .reg .b32 %r<6>;
    .reg .f32 %f<8>;
    .reg .b64 %d<4>;
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %tid.x;
    cvt.rn.f32.u32 %f1, %r1;
    add.f32 %f2, %f1, 0f3F000000;
    tex.2d.v4.f32.f32 {%f3, %f4, %f5, %f6}, [picture, {%f2, 0f3F000000}];
    mul.wide.u32 %d2, %r1, 4;
    add.s64 %d3, %d1, %d2;
    st.global.f32 [%d3], %f3;
    ret;
}

.visible .entry paint_reference()
{
    .reg .b32 %r<5>;
    mov.u32 %r1, %tid.x;
    shl.b32 %r2, %r1, 2;
    add.u32 %r3, %r1, 7;
    mov.u32 %r4, 0;
    sust.b.2d.b32.trap [canvas, {%r2, %r4}], %r3;
    ret;
}
"#;

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
struct ArrayDescriptor {
    width: usize,
    height: usize,
    depth: usize,
    format: u32,
    channels: u32,
    flags: u32,
}

const FLOAT: u32 = 0x20;
const U8: u32 = 1;
const U32: u32 = 3;
/// `CUDA_ARRAY3D_SURFACE_LDST`.
const SURFACE: u32 = 2;

fn array(width: usize, height: usize, format: u32, flags: u32) -> Handle {
    let descriptor = ArrayDescriptor {
        width,
        height,
        depth: 0,
        format,
        channels: 1,
        flags,
    };
    let mut array = null_mut();
    ok!(cuArray3DCreate_v2(
        &mut array,
        (&raw const descriptor).cast()
    ));
    array
}

fn picture(width: usize, height: usize, texel: impl Fn(usize, usize) -> f32) -> Handle {
    let texels: Vec<f32> = (0..width * height)
        .map(|at| texel(at % width, at / width))
        .collect();
    let array = array(width, height, FLOAT, 0);
    ok!(cuMemcpyHtoA_v2(
        array,
        0,
        texels.as_ptr().cast(),
        texels.len() * 4
    ));
    array
}

/// `CUDA_RESOURCE_DESC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Resource {
    kind: u32,
    words: [u64; 16],
    flags: u32,
}

fn of_array(array: Handle) -> Resource {
    let mut words = [0; 16];
    words[0] = array as u64;
    Resource {
        kind: 0,
        words,
        flags: 0,
    }
}

fn of_memory(address: u64, format: u32, channels: u32, rest: &[u64]) -> Resource {
    let mut words = [0; 16];
    words[0] = address;
    words[1] = u64::from(format) | u64::from(channels) << 32;
    words[2..2 + rest.len()].copy_from_slice(rest);
    Resource {
        kind: if rest.len() == 1 { 2 } else { 3 },
        words,
        flags: 0,
    }
}

/// `CUDA_TEXTURE_DESC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sampling {
    address: [u32; 3],
    filter: u32,
    flags: u32,
    anisotropy: u32,
    mip_filter: u32,
    bias: f32,
    min: f32,
    max: f32,
    border: [f32; 4],
    reserved: [i32; 12],
}

/// Nearest texel, clamped.
const POINT: Sampling = Sampling {
    address: [1; 3],
    filter: 0,
    flags: 0,
    anisotropy: 0,
    mip_filter: 0,
    bias: 0.0,
    min: 0.0,
    max: 0.0,
    border: [0.0; 4],
    reserved: [0; 12],
};

fn texture(resource: &Resource, sampling: &Sampling) -> Result<u64, CuResult> {
    let mut object = 0;
    match cu!(cuTexObjectCreate(
        &mut object,
        (&raw const *resource).cast(),
        (&raw const *sampling).cast(),
        null()
    )) {
        CuResult::SUCCESS => Ok(object),
        error => Err(error),
    }
}

fn run(function: Handle, block: [u32; 2], params: &mut [*mut c_void]) -> CuResult {
    let [x, y] = block;
    ok!(cuLaunchKernel(
        function,
        1,
        1,
        1,
        x,
        y,
        1,
        0,
        null_mut(),
        params.as_mut_ptr(),
        null_mut()
    ));
    cu!(cuCtxSynchronize())
}

fn read<T: Copy + Default>(address: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    let bytes = count * size_of::<T>();
    ok!(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, bytes));
    values
}

/// What `read2d` sees over a block.
fn sample(module: Handle, object: u64, block: [u32; 2], step: f32, shift: f32) -> Vec<f32> {
    let count = (block[0] * block[1]) as usize;
    let out = alloc(count * 4);
    let result = run(
        kernel(module, "read2d"),
        block,
        &mut [
            (&raw const out).cast_mut().cast(),
            (&raw const object).cast_mut().cast(),
            (&raw const step).cast_mut().cast(),
            (&raw const shift).cast_mut().cast(),
        ],
    );
    assert_eq!(result, CuResult::SUCCESS);
    read(out, count)
}

#[test]
fn a_texture_shows_its_array() {
    let _context = Fresh::new();
    let module = load_text(PTX);
    let texel = |x: usize, y: usize| (10 * y + x) as f32;
    let array = picture(8, 4, texel);
    let object = texture(&of_array(array), &POINT).unwrap();
    let expected: Vec<f32> = (0..32).map(|at| texel(at % 8, at / 8)).collect();
    assert_eq!(sample(module, object, [8, 4], 1.0, 0.0), expected);
    // Between two texels, half of each; outside, the nearest.
    let linear = texture(&of_array(array), &Sampling { filter: 1, ..POINT }).unwrap();
    let between = sample(module, linear, [8, 1], 1.0, 0.5);
    let row = |x: usize| 0.5 * (texel(x, 0) + texel((x + 1).min(7), 0));
    let both = |x: usize| 0.5 * (row(x) + row(x) + 10.0);
    assert_eq!(between, (0..8).map(both).collect::<Vec<_>>());
    // Normalised coordinates repeat.
    let wrapped = Sampling {
        address: [0; 3],
        flags: 2,
        ..POINT
    };
    let wrapped = texture(&of_array(array), &wrapped).unwrap();
    let seen = sample(module, wrapped, [16, 1], 0.125, 0.0);
    assert_eq!(seen[..8], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(seen[8..], seen[..8]);
    // A border has its colour.
    let border = Sampling {
        address: [3; 3],
        border: [9.5, 0.0, 0.0, 0.0],
        ..POINT
    };
    let border = texture(&of_array(array), &border).unwrap();
    assert_eq!(sample(module, border, [2, 1], 1.0, 7.0)[1], 9.5);
    // The array may go before the object does.
    ok!(cuArrayDestroy(array));
    assert_eq!(sample(module, object, [3, 1], 1.0, 0.0), [0.0, 1.0, 2.0]);
    ok!(cuTexObjectDestroy(object));
    assert_eq!(cu!(cuTexObjectDestroy(object)), CuResult::INVALID_VALUE);
}

#[test]
fn a_destroyed_texture_ends_the_kernel() {
    let _context = Fresh::new();
    let module = load_text(PTX);
    let array = picture(2, 2, |_, _| 1.0);
    let object = texture(&of_array(array), &POINT).unwrap();
    ok!(cuTexObjectDestroy(object));
    let (out, step) = (alloc(4), 1f32);
    let mut params: [*mut c_void; 4] = [
        (&raw const out).cast_mut().cast(),
        (&raw const object).cast_mut().cast(),
        (&raw const step).cast_mut().cast(),
        (&raw const step).cast_mut().cast(),
    ];
    let result = run(kernel(module, "read2d"), [1, 1], &mut params);
    assert_eq!(result, CuResult::ILLEGAL_ADDRESS);
    assert_eq!(
        cu!(cuCtxSynchronize()),
        CuResult::ILLEGAL_ADDRESS,
        "it sticks"
    );
}

#[test]
fn textures_of_device_memory() {
    let _context = Fresh::new();
    let module = load_text(PTX);
    let address = alloc(64 * 4);
    let values: Vec<u32> = (0..64).map(|at| at * at).collect();
    ok!(cuMemcpyHtoD_v2(address, values.as_ptr().cast(), 256));
    let row = of_memory(address, U32, 1, &[256]);
    let object = texture(&row, &Sampling { flags: 1, ..POINT }).unwrap();
    let out = alloc(64 * 4);
    let mut params: [*mut c_void; 2] = [
        (&raw const out).cast_mut().cast(),
        (&raw const object).cast_mut().cast(),
    ];
    assert_eq!(
        run(kernel(module, "fetch"), [64, 1], &mut params),
        CuResult::SUCCESS
    );
    assert_eq!(read::<u32>(out, 64), values);
    // Bytes as fractions, in rows with a pitch.
    let rows = alloc(64 * 4);
    let bytes: Vec<u8> = (0..=255).collect();
    ok!(cuMemcpyHtoD_v2(rows, bytes.as_ptr().cast(), 256));
    let pitched = of_memory(rows, U8, 1, &[16, 4, 64]);
    let object = texture(&pitched, &POINT).unwrap();
    let seen = sample(module, object, [16, 4], 1.0, 0.0);
    for (at, seen) in seen.iter().enumerate() {
        let byte = bytes[at / 16 * 64 + at % 16];
        assert!((seen * 255.0 - f32::from(byte)).abs() < 1e-3, "{at}");
    }
}

#[test]
fn objects_are_described_as_they_were_made() {
    let _context = Fresh::new();
    let array = array(4, 4, U32, SURFACE);
    let resource = of_array(array);
    let sampling = Sampling {
        flags: 3,
        max: 2.5,
        ..POINT
    };
    let object = texture(&resource, &sampling).unwrap();
    let mut seen = of_array(null_mut());
    ok!(cuTexObjectGetResourceDesc((&raw mut seen).cast(), object));
    assert_eq!(seen, resource);
    let mut how = POINT;
    ok!(cuTexObjectGetTextureDesc((&raw mut how).cast(), object));
    assert_eq!(how, sampling);
    let mut view = [0u8; 112];
    assert_eq!(
        cu!(cuTexObjectGetResourceViewDesc(
            view.as_mut_ptr().cast(),
            object
        )),
        CuResult::INVALID_VALUE,
        "it has none"
    );
    let mut surface = 0;
    ok!(cuSurfObjectCreate(
        &mut surface,
        (&raw const resource).cast()
    ));
    ok!(cuSurfObjectGetResourceDesc((&raw mut seen).cast(), surface));
    assert_eq!(seen, resource);
    for mixed in [
        cu!(cuTexObjectDestroy(surface)),
        cu!(cuSurfObjectDestroy(object)),
        cu!(cuTexObjectGetResourceDesc((&raw mut seen).cast(), surface)),
        cu!(cuTexObjectDestroy(0)),
        cu!(cuTexObjectDestroy(u64::MAX)),
    ] {
        assert_eq!(mixed, CuResult::INVALID_VALUE);
    }
    ok!(cuSurfObjectDestroy(surface));
}

#[test]
fn what_is_no_texture_is_refused() {
    let _context = Fresh::new();
    let array = array(4, 4, U32, 0);
    let good = of_array(array);
    let memory = alloc(4096);
    let linear = |bytes| of_memory(memory, U32, 1, &[bytes]);
    let rows = |width, height, pitch| of_memory(memory, U32, 1, &[width, height, pitch]);
    for (resource, sampling) in [
        (
            good,
            Sampling {
                address: [4, 0, 0],
                ..POINT
            },
        ),
        (good, Sampling { filter: 2, ..POINT }),
        (good, Sampling { filter: 1, ..POINT }), // weighted integers
        (
            good,
            Sampling {
                flags: 0x80,
                ..POINT
            },
        ),
        (
            good,
            Sampling {
                mip_filter: 9,
                ..POINT
            },
        ),
        (
            good,
            Sampling {
                bias: f32::NAN,
                ..POINT
            },
        ),
        (Resource { kind: 4, ..good }, POINT),
        (Resource { flags: 1, ..good }, POINT),
        (linear(0), POINT),
        (linear(4097), POINT),
        (linear(u64::MAX), POINT),
        (of_memory(memory + 4, U32, 1, &[8]), POINT),
        (of_memory(64, U32, 1, &[8]), POINT),
        (of_memory(memory, U32, 3, &[8]), POINT),
        (of_memory(memory, 99, 1, &[8]), POINT),
        (rows(8, 8, 31), POINT),
        (rows(8, 0, 32), POINT),
        (rows(9, 8, 32), POINT),
        (rows(8, 129, 32), POINT),
        (rows(8, u64::MAX, 32), POINT),
        (rows(u64::MAX, 1, u64::MAX), POINT),
    ] {
        assert_eq!(
            texture(&resource, &sampling),
            Err(CuResult::INVALID_VALUE),
            "{resource:?} {sampling:?}"
        );
    }
    assert_eq!(
        texture(&of_array(null_mut()), &POINT),
        Err(CuResult::INVALID_HANDLE)
    );
    assert_eq!(
        texture(&Resource { kind: 1, ..good }, &POINT),
        Err(CuResult::INVALID_HANDLE)
    );
    let mut surface = 0;
    assert_eq!(
        cu!(cuSurfObjectCreate(&mut surface, (&raw const good).cast())),
        CuResult::INVALID_VALUE,
        "not made for surfaces"
    );
    assert_eq!(
        cu!(cuSurfObjectCreate(&mut surface, null())),
        CuResult::INVALID_VALUE
    );
}

/// `CUDA_RESOURCE_VIEW_DESC`.
#[repr(C)]
#[derive(Clone, Copy)]
struct View {
    format: u32,
    width: usize,
    height: usize,
    depth: usize,
    levels: [u32; 2],
    layers: [u32; 2],
    reserved: [u32; 16],
}

#[test]
fn a_view_shows_a_level_in_another_format() {
    let _context = Fresh::new();
    let module = load_text(PTX);
    let descriptor = ArrayDescriptor {
        width: 8,
        height: 8,
        depth: 0,
        format: U32,
        channels: 1,
        flags: 0,
    };
    let (mut mipmap, mut level) = (null_mut(), null_mut());
    ok!(cuMipmappedArrayCreate(
        &mut mipmap,
        (&raw const descriptor).cast(),
        4
    ));
    ok!(cuMipmappedArrayGetLevel(&mut level, mipmap, 1));
    let texels: Vec<f32> = (0..16).map(|at| at as f32 * 1.5).collect();
    ok!(cuMemcpyHtoA_v2(level, 0, texels.as_ptr().cast(), 64));
    let resource = Resource {
        kind: 1,
        ..of_array(mipmap)
    };
    let view = View {
        format: 0x16, // one float
        width: 4,
        height: 4,
        depth: 0,
        levels: [1, 1],
        layers: [0, 0],
        reserved: [0; 16],
    };
    let sampling = POINT;
    let create = |view: &View| {
        let mut object = 0;
        let result = cu!(cuTexObjectCreate(
            &mut object,
            (&raw const resource).cast(),
            (&raw const sampling).cast(),
            (&raw const *view).cast()
        ));
        (result, object)
    };
    let (result, object) = create(&view);
    assert_eq!(result, CuResult::SUCCESS);
    assert_eq!(sample(module, object, [4, 4], 1.0, 0.0), texels);
    let mut seen = View { format: 0, ..view };
    ok!(cuTexObjectGetResourceViewDesc(
        (&raw mut seen).cast(),
        object
    ));
    assert_eq!((seen.format, seen.levels), (0x16, [1, 1]));
    for wrong in [
        View {
            format: 0x17,
            ..view
        },
        View {
            format: 0x30,
            ..view
        },
        View {
            levels: [2, 1],
            ..view
        },
        View {
            levels: [1, 9],
            ..view
        },
        View {
            levels: [0, u32::MAX],
            ..view
        },
        View { width: 8, ..view },
    ] {
        assert_eq!(create(&wrong).0, CuResult::INVALID_VALUE);
    }
    assert_eq!(
        create(&View {
            format: 0x1a,
            ..view
        })
        .0,
        CuResult::NOT_SUPPORTED
    );
}

#[test]
fn kernels_paint_on_surfaces() {
    let _context = Fresh::new();
    let module = load_text(PTX);
    let array = array(8, 4, U32, SURFACE);
    let resource = of_array(array);
    let mut surface = 0u64;
    ok!(cuSurfObjectCreate(
        &mut surface,
        (&raw const resource).cast()
    ));
    let mut params: [*mut c_void; 1] = [(&raw mut surface).cast()];
    assert_eq!(
        run(kernel(module, "paint"), [8, 4], &mut params),
        CuResult::SUCCESS
    );
    let mut seen = [0u32; 32];
    ok!(cuMemcpyAtoH_v2(seen.as_mut_ptr().cast(), array, 0, 128));
    let expected: Vec<u32> = (0..32).map(|at| 100 * (at / 8) + at % 8).collect();
    assert_eq!(seen[..], expected[..]);
    // One texel outside ends the kernel.
    assert_ne!(
        run(kernel(module, "paint"), [9, 1], &mut params),
        CuResult::SUCCESS
    );
}

#[test]
fn references_show_what_is_bound_to_them() {
    let _context = Fresh::new();
    let module = load_text(PTX);
    let (mut reference, mut same) = (null_mut(), null_mut());
    ok!(cuModuleGetTexRef(
        &mut reference,
        module,
        c"picture".as_ptr()
    ));
    ok!(cuModuleGetTexRef(&mut same, module, c"picture".as_ptr()));
    assert_eq!(reference, same);
    for (name, result) in [
        (c"canvas", CuResult::NOT_FOUND),
        (c"nothing", CuResult::NOT_FOUND),
    ] {
        assert_eq!(
            cu!(cuModuleGetTexRef(&mut same, module, name.as_ptr())),
            result
        );
    }
    let out = alloc(16);
    let mut params: [*mut c_void; 1] = [(&raw const out).cast_mut().cast()];
    let mut seen = |expected: [f32; 4]| {
        let result = run(kernel(module, "read_reference"), [4, 1], &mut params);
        assert_eq!(result, CuResult::SUCCESS);
        assert_eq!(read::<f32>(out, 4), expected);
    };
    ok!(cuTexRefSetArray(
        reference,
        picture(4, 1, |x, _| x as f32),
        1
    ));
    seen([0.0, 1.0, 2.0, 3.0]);
    ok!(cuTexRefSetArray(
        reference,
        picture(2, 1, |x, _| 5.0 + x as f32),
        1
    ));
    ok!(cuTexRefSetAddressMode(reference, 0, 3));
    seen([5.0, 6.0, 0.0, 0.0]);
    let mut border = [4.5f32, 0.0, 0.0, 0.0];
    ok!(cuTexRefSetBorderColor(reference, border.as_mut_ptr()));
    seen([5.0, 6.0, 4.5, 4.5]);
    // Rows of device memory.
    #[repr(C)]
    struct Flat {
        width: usize,
        height: usize,
        format: u32,
        channels: u32,
    }
    let rows = alloc(256);
    ok!(cuMemsetD32_v2(rows, 2.25f32.to_bits(), 64));
    let flat = Flat {
        width: 3,
        height: 2,
        format: FLOAT,
        channels: 1,
    };
    ok!(cuTexRefSetAddress2D_v3(
        reference,
        (&raw const flat).cast(),
        rows,
        128
    ));
    seen([2.25, 2.25, 2.25, 4.5]);
    let (mut address, mut mode, mut filter, mut flags, mut format, mut channels) =
        (0, 0, 9, 9, 0, 0);
    ok!(cuTexRefGetAddress_v2(&mut address, reference));
    ok!(cuTexRefGetAddressMode(&mut mode, reference, 0));
    ok!(cuTexRefGetFilterMode(&mut filter, reference));
    ok!(cuTexRefGetFlags(&mut flags, reference));
    ok!(cuTexRefGetFormat(&mut format, &mut channels, reference));
    assert_eq!(
        (address, mode, filter, flags, format, channels),
        (rows, 3, 0, 0, FLOAT, 1)
    );
    let mut color = [0f32; 4];
    ok!(cuTexRefGetBorderColor(color.as_mut_ptr(), reference));
    assert_eq!(color, border);
    for refused in [
        cu!(cuTexRefSetFilterMode(reference, 2)),
        cu!(cuTexRefSetAddressMode(reference, 3, 0)),
        cu!(cuTexRefSetFlags(reference, 0x100)),
        cu!(cuTexRefSetFormat(reference, 77, 1)),
        cu!(cuTexRefSetFormat(reference, FLOAT, 3)),
        cu!(cuTexRefSetArray(reference, array(2, 1, U32, 0), 0)),
        cu!(cuTexRefSetAddress2D_v3(
            reference,
            (&raw const flat).cast(),
            rows,
            8
        )),
    ] {
        assert_eq!(refused, CuResult::INVALID_VALUE);
    }
    // What was refused changed nothing.
    seen([2.25, 2.25, 2.25, 4.5]);
    // Surfaces.
    let mut canvas = null_mut();
    ok!(cuModuleGetSurfRef(&mut canvas, module, c"canvas".as_ptr()));
    let painted = array(4, 1, U32, SURFACE);
    ok!(cuSurfRefSetArray(canvas, painted, 0));
    assert_eq!(
        cu!(cuTexRefSetFilterMode(canvas, 0)),
        CuResult::INVALID_HANDLE
    );
    let result = run(kernel(module, "paint_reference"), [4, 1], &mut []);
    assert_eq!(result, CuResult::SUCCESS);
    let mut words = [0u32; 4];
    ok!(cuMemcpyAtoH_v2(words.as_mut_ptr().cast(), painted, 0, 16));
    assert_eq!(words, [7, 8, 9, 10]);
    ok!(cuModuleUnload(module));
    assert_eq!(
        cu!(cuTexRefSetFilterMode(reference, 0)),
        CuResult::INVALID_HANDLE
    );
}
