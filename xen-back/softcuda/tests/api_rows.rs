//! Copies and fills of rows and slices, of device memory, host memory and arrays, against a plain
//! reference.

mod api_common;

use api_common::{Fresh, alloc, stream};
use cuda_abi::{CuResult, Handle};
use proptest::prelude::*;
use std::ffi::c_void;
use std::ptr::null_mut;

/// One test at a time: what is free of the device's memory is counted.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One end of a `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Side {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: *const c_void,
    device: u64,
    array: Handle,
    context: Handle,
    pitch: usize,
    height: usize,
}

const NOWHERE: Side = Side {
    x: 0,
    y: 0,
    z: 0,
    level: 0,
    kind: 0,
    host: null_mut(),
    device: 0,
    array: null_mut(),
    context: null_mut(),
    pitch: 0,
    height: 0,
};

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Copy3D {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
    depth: usize,
}

/// One end of a `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FlatSide {
    x: usize,
    y: usize,
    kind: u32,
    host: *const c_void,
    device: u64,
    array: Handle,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
struct Copy2D {
    from: FlatSide,
    to: FlatSide,
    width: usize,
    height: usize,
}

fn flat(side: &Side) -> FlatSide {
    FlatSide {
        x: side.x,
        y: side.y,
        kind: side.kind,
        host: side.host,
        device: side.device,
        array: side.array,
        pitch: side.pitch,
    }
}

/// A box of bytes somewhere, with its layout.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// 1 host, 2 device, 3 array, 4 either by address.
    kind: u32,
    at: [usize; 3],
    /// Bytes and rows beyond the box.
    spare: [usize; 3],
}

/// The memory of a plan, filled with a pattern.
struct Place {
    side: Side,
    host: Vec<u8>,
    /// Bytes per row, rows per slice, slices.
    sizes: [usize; 3],
}

impl Place {
    fn new(plan: &Plan, extent: [usize; 3], seed: u8) -> Place {
        let sizes: [usize; 3] = std::array::from_fn(|axis| {
            let size = plan.at[axis] + extent[axis] + plan.spare[axis];
            // Arrays of four-byte texels.
            if axis == 0 {
                size.next_multiple_of(4)
            } else {
                size
            }
        });
        let bytes = sizes.iter().product::<usize>();
        let mut host: Vec<u8> = (0..bytes)
            .map(|at| (at as u8).wrapping_mul(7) ^ seed)
            .collect();
        let mut side = Side {
            x: plan.at[0],
            y: plan.at[1],
            z: plan.at[2],
            kind: plan.kind,
            pitch: sizes[0],
            height: sizes[1],
            ..NOWHERE
        };
        match plan.kind {
            1 => side.host = host.as_mut_ptr().cast(),
            2 | 4 => {
                side.device = alloc(bytes);
                ok!(cuMemcpyHtoD_v2(side.device, host.as_ptr().cast(), bytes));
            }
            _ => {
                let wanted = [sizes[0] / 4, sizes[1], sizes[2]];
                side.array = array(wanted, 0);
                let all = Copy3D {
                    from: Side {
                        kind: 1,
                        host: host.as_ptr().cast(),
                        pitch: sizes[0],
                        height: sizes[1],
                        ..NOWHERE
                    },
                    to: Side {
                        kind: 3,
                        array: side.array,
                        ..NOWHERE
                    },
                    width: sizes[0],
                    height: sizes[1],
                    depth: sizes[2],
                };
                ok!(cuMemcpy3D_v2((&raw const all).cast()));
            }
        }
        Place { side, host, sizes }
    }

    /// What is there now.
    fn read(&self) -> Vec<u8> {
        let mut read = vec![0u8; self.host.len()];
        match self.side.kind {
            1 => read.copy_from_slice(&self.host),
            2 | 4 => {
                ok!(cuMemcpyDtoH_v2(
                    read.as_mut_ptr().cast(),
                    self.side.device,
                    read.len()
                ));
            }
            _ => {
                ok!(cuMemcpyAtoH_v2(
                    read.as_mut_ptr().cast(),
                    self.side.array,
                    0,
                    read.len()
                ));
            }
        }
        read
    }

    fn free(&self) {
        if self.side.kind == 3 {
            ok!(cuArrayDestroy(self.side.array));
        } else if self.side.kind != 1 {
            ok!(cuMemFree_v2(self.side.device));
        }
    }

    fn index(&self, [x, y, z]: [usize; 3]) -> usize {
        let [width, height, _] = self.sizes;
        ((self.side.z + z) * height + self.side.y + y) * width + self.side.x + x
    }
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Descriptor {
    width: usize,
    height: usize,
    depth: usize,
    format: u32,
    channels: u32,
    flags: u32,
}

/// An array of 32-bit words.
fn array([width, height, depth]: [usize; 3], flags: u32) -> Handle {
    let descriptor = Descriptor {
        width,
        height,
        depth,
        format: 3,
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

fn plan() -> impl Strategy<Value = Plan> {
    let small = || prop::array::uniform3(0usize..5);
    (1u32..5, small(), small()).prop_map(|(kind, at, spare)| {
        let mut plan = Plan { kind, at, spare };
        if kind == 3 {
            plan.at[0] *= 4;
        }
        plan
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn boxes_are_copied_as_a_plain_loop_would(
        to in plan(),
        from in plan(),
        extent in prop::array::uniform3(1usize..6),
        way in 0u8..4,
    ) {
        let _alone = alone();
        let _context = Fresh::new();
        let mut extent = extent;
        let whole_texels = to.kind == 3 || from.kind == 3;
        if whole_texels {
            extent[0] *= 4;
        }
        let flat_copy = way >= 2;
        let (mut to, mut from) = (to, from);
        if flat_copy {
            extent[2] = 1;
            (to.at[2], from.at[2]) = (0, 0);
        }
        let (mut to, from) = (Place::new(&to, extent, 0), Place::new(&from, extent, 0x5a));
        let mut expected = to.read();
        let source = from.read();
        for z in 0..extent[2] {
            for y in 0..extent[1] {
                for x in 0..extent[0] {
                    expected[to.index([x, y, z])] = source[from.index([x, y, z])];
                }
            }
        }
        // Memory told by its address alone may be the host's too.
        let [width, height, depth] = extent;
        let copy = Copy3D { from: from.side, to: to.side, width, height, depth };
        let rows = Copy2D { from: flat(&from.side), to: flat(&to.side), width, height };
        let (copy, rows) = ((&raw const copy).cast(), (&raw const rows).cast());
        let queue = stream(0);
        match way {
            0 => ok!(cuMemcpy3D_v2(copy)),
            1 => ok!(cuMemcpy3DAsync_v2(copy, queue)),
            2 => ok!(cuMemcpy2DUnaligned_v2(rows)),
            _ => ok!(cuMemcpy2DAsync_v2(rows, queue)),
        }
        ok!(cuStreamSynchronize(queue));
        if to.side.kind == 1 {
            // The copy wrote through the pointer.
            // SAFETY: the vector's own bytes.
            let bytes = unsafe { std::slice::from_raw_parts(to.side.host.cast::<u8>(), to.host.len()) };
            to.host = bytes.to_vec();
        }
        prop_assert_eq!(to.read(), expected);
        to.free();
        from.free();
    }
}

#[test]
fn boxes_outside_their_memory_are_refused() {
    let _alone = alone();
    let _context = Fresh::new();
    let device = alloc(64 * 8);
    let own = vec![0u8; 64 * 8];
    let words = array([16, 8, 0], 0);
    let host = Side {
        kind: 1,
        host: own.as_ptr().cast(),
        pitch: 64,
        height: 8,
        ..NOWHERE
    };
    let on_device = Side {
        kind: 2,
        device,
        pitch: 64,
        height: 8,
        ..NOWHERE
    };
    let in_array = Side {
        kind: 3,
        array: words,
        ..NOWHERE
    };
    let good = Copy3D {
        from: host,
        to: on_device,
        width: 64,
        height: 8,
        depth: 1,
    };
    let copy = |copy: Copy3D| cu!(cuMemcpy3D_v2((&raw const copy).cast()));
    assert_eq!(copy(good), CuResult::SUCCESS);
    assert_eq!(
        copy(Copy3D {
            to: in_array,
            ..good
        }),
        CuResult::SUCCESS
    );
    assert_eq!(copy(Copy3D { width: 0, ..good }), CuResult::SUCCESS);
    let to = |to| copy(Copy3D { to, ..good });
    for refused in [
        to(Side { y: 1, ..on_device }),
        to(Side { x: 1, ..on_device }),
        to(Side { z: 1, ..on_device }),
        to(Side {
            pitch: 63,
            ..on_device
        }),
        to(Side {
            pitch: 0,
            ..on_device
        }),
        to(Side {
            pitch: usize::MAX,
            ..on_device
        }),
        to(Side {
            device: device + 1,
            ..on_device
        }),
        to(Side {
            device: 0,
            ..on_device
        }),
        to(Side {
            level: 1,
            ..on_device
        }),
        to(Side {
            kind: 0,
            ..on_device
        }),
        to(Side {
            kind: 5,
            ..on_device
        }),
        to(Side {
            x: usize::MAX,
            ..on_device
        }),
        to(Side {
            y: usize::MAX,
            ..on_device
        }),
        to(Side {
            kind: 2,
            device: own.as_ptr() as u64,
            ..on_device
        }),
        to(Side { y: 1, ..in_array }),
        to(Side { x: 4, ..in_array }),
        to(Side { x: 2, ..in_array }),
        copy(Copy3D {
            height: usize::MAX,
            ..good
        }),
        copy(Copy3D { depth: 2, ..good }),
        copy(Copy3D {
            depth: usize::MAX,
            ..good
        }),
        copy(Copy3D {
            width: usize::MAX,
            ..good
        }),
    ] {
        assert_eq!(refused, CuResult::INVALID_VALUE);
    }
    assert_eq!(
        to(Side {
            array: null_mut(),
            ..in_array
        }),
        CuResult::INVALID_HANDLE
    );
    assert_eq!(cu!(cuMemcpy3D_v2(null_mut())), CuResult::INVALID_VALUE);
    assert_eq!(cu!(cuMemcpy2D_v2(null_mut())), CuResult::INVALID_VALUE);
}

#[test]
fn rows_are_filled_and_nothing_between_them() {
    let _alone = alone();
    let _context = Fresh::new();
    let (mut address, mut pitch) = (0, 0);
    ok!(cuMemAllocPitch_v2(&mut address, &mut pitch, 100, 5, 4));
    assert_eq!((pitch % 512, address % 256), (0, 0));
    ok!(cuMemsetD8_v2(address, 0xee, pitch * 5));
    ok!(cuMemsetD2D8_v2(address, pitch, 1, 3, 5));
    ok!(cuMemsetD2D16_v2(address + 4, pitch, 0x0302, 2, 4));
    ok!(cuMemsetD2D32_v2(address + 8, pitch, 0x0706_0504, 2, 3));
    let queue = stream(1);
    ok!(cuMemsetD2D8Async(address + 20, pitch, 9, 1, 2, queue));
    ok!(cuMemsetD2D16Async(address + 22, pitch, 0x0b0a, 1, 2, queue));
    ok!(cuMemsetD2D32Async(
        address + 24,
        pitch,
        0x0f0e_0d0c,
        1,
        1,
        queue
    ));
    ok!(cuStreamSynchronize(queue));
    let mut read = vec![0u8; pitch * 5];
    ok!(cuMemcpyDtoH_v2(
        read.as_mut_ptr().cast(),
        address,
        read.len()
    ));
    let mut expected = vec![0xeeu8; pitch * 5];
    let mut put = |row: usize, at: usize, bytes: &[u8]| {
        expected[row * pitch + at..][..bytes.len()].copy_from_slice(bytes);
    };
    (0..5).for_each(|row| put(row, 0, &[1; 3]));
    (0..4).for_each(|row| put(row, 4, &[2, 3, 2, 3]));
    (0..3).for_each(|row| put(row, 8, &[4, 5, 6, 7, 4, 5, 6, 7]));
    (0..2).for_each(|row| put(row, 20, &[9]));
    (0..2).for_each(|row| put(row, 22, &[10, 11]));
    put(0, 24, &[12, 13, 14, 15]);
    assert_eq!(read, expected);
    for refused in [
        cu!(cuMemsetD2D8_v2(address, 2, 0, 3, 2)),
        cu!(cuMemsetD2D8_v2(address, pitch, 0, 3, 6)),
        cu!(cuMemsetD2D8_v2(address, usize::MAX, 0, 3, 5)),
        cu!(cuMemsetD2D32_v2(address + 2, pitch, 0, 1, 1)),
        cu!(cuMemsetD2D32_v2(address, 6, 0, 1, 2)),
        cu!(cuMemsetD2D32_v2(address, pitch, 0, usize::MAX, 2)),
        cu!(cuMemAllocPitch_v2(&mut address, &mut pitch, 0, 5, 4)),
        cu!(cuMemAllocPitch_v2(&mut address, &mut pitch, 8, 5, 3)),
        cu!(cuMemAllocPitch_v2(
            &mut address,
            &mut pitch,
            usize::MAX,
            5,
            4
        )),
    ] {
        assert_eq!(refused, CuResult::INVALID_VALUE);
    }
}

#[test]
fn arrays_are_described_and_count_as_the_devices_memory() {
    let _alone = alone();
    let _context = Fresh::new();
    let free = || {
        let (mut free, mut total) = (0, 0);
        ok!(cuMemGetInfo_v2(&mut free, &mut total));
        free
    };
    let before = free();
    let layered = array([64, 32, 10], 1);
    assert!(before - free() >= 64 * 32 * 10 * 4);
    let mut descriptor = Descriptor {
        width: 0,
        height: 0,
        depth: 0,
        format: 0,
        channels: 0,
        flags: 0,
    };
    ok!(cuArray3DGetDescriptor_v2(
        (&raw mut descriptor).cast(),
        layered
    ));
    let expected = Descriptor {
        width: 64,
        height: 32,
        depth: 10,
        format: 3,
        channels: 1,
        flags: 1,
    };
    assert_eq!(descriptor, expected);
    ok!(cuArrayDestroy(layered));
    assert_eq!(cu!(cuArrayDestroy(layered)), CuResult::INVALID_HANDLE);
    let create = |descriptor: Descriptor| {
        let mut array = null_mut();
        let result = cu!(cuArray3DCreate_v2(
            &mut array,
            (&raw const descriptor).cast()
        ));
        if result == CuResult::SUCCESS {
            ok!(cuArrayDestroy(array));
        }
        result
    };
    let refused = [
        Descriptor {
            width: 0,
            ..expected
        },
        Descriptor {
            depth: 0,
            ..expected
        },
        Descriptor {
            channels: 3,
            ..expected
        },
        Descriptor {
            format: 4,
            ..expected
        },
        Descriptor {
            flags: 0x100,
            ..expected
        },
        Descriptor {
            width: 1 << 40,
            ..expected
        },
        Descriptor {
            flags: 0,
            width: usize::MAX,
            ..expected
        },
        Descriptor {
            flags: 0,
            height: 0,
            ..expected
        },
        Descriptor {
            flags: 4,
            ..expected
        },
        Descriptor {
            flags: 5,
            height: 64,
            ..expected
        },
    ];
    for descriptor in refused {
        assert_eq!(
            create(descriptor),
            CuResult::INVALID_VALUE,
            "{descriptor:?}"
        );
    }
    assert_eq!(
        create(Descriptor {
            flags: 0x40,
            ..expected
        }),
        CuResult::NOT_SUPPORTED
    );
    let huge = Descriptor {
        width: 16_384,
        height: 16_384,
        depth: 16_384,
        flags: 0,
        ..expected
    };
    assert_eq!(create(huge), CuResult::OUT_OF_MEMORY);
    for good in [
        Descriptor {
            flags: 4,
            height: 64,
            depth: 6,
            ..expected
        },
        Descriptor {
            flags: 5,
            height: 64,
            depth: 12,
            ..expected
        },
        Descriptor {
            flags: 1,
            height: 0,
            ..expected
        },
        Descriptor {
            flags: 2,
            ..expected
        },
        Descriptor {
            flags: 0,
            height: 0,
            depth: 0,
            format: 0x20,
            channels: 4,
            ..expected
        },
    ] {
        assert_eq!(create(good), CuResult::SUCCESS, "{good:?}");
    }
    assert_eq!(free(), before);
}

#[test]
fn levels_of_a_mipmapped_array_are_arrays() {
    let _alone = alone();
    let _context = Fresh::new();
    let descriptor = Descriptor {
        width: 20,
        height: 6,
        depth: 0,
        format: 3,
        channels: 1,
        flags: 0,
    };
    let mut mipmap = null_mut();
    let given = (&raw const descriptor).cast();
    ok!(cuMipmappedArrayCreate(&mut mipmap, given, 99));
    let mut sizes = Vec::new();
    let mut level = null_mut();
    while cu!(cuMipmappedArrayGetLevel(
        &mut level,
        mipmap,
        sizes.len() as u32
    )) == CuResult::SUCCESS
    {
        let mut own = descriptor;
        ok!(cuArray3DGetDescriptor_v2((&raw mut own).cast(), level));
        // Each holds its own bytes.
        let value = vec![sizes.len() as u8; own.width * own.height * 4];
        ok!(cuMemcpyHtoA_v2(
            level,
            0,
            value.as_ptr().cast(),
            value.len()
        ));
        sizes.push((own.width, own.height));
    }
    assert_eq!(sizes, [(20, 6), (10, 3), (5, 1), (2, 1), (1, 1)]);
    for (number, (width, height)) in sizes.iter().enumerate() {
        ok!(cuMipmappedArrayGetLevel(&mut level, mipmap, number as u32));
        let mut read = vec![99u8; width * height * 4];
        ok!(cuMemcpyAtoH_v2(
            read.as_mut_ptr().cast(),
            level,
            0,
            read.len()
        ));
        assert!(read.iter().all(|byte| *byte == number as u8));
    }
    assert_eq!(cu!(cuArrayDestroy(level)), CuResult::INVALID_HANDLE);
    ok!(cuMipmappedArrayDestroy(mipmap));
    let mut byte = 0u8;
    assert_eq!(
        cu!(cuMemcpyAtoH_v2((&raw mut byte).cast(), level, 0, 1)),
        CuResult::INVALID_HANDLE
    );
    assert_eq!(
        cu!(cuMipmappedArrayCreate(&mut mipmap, given, 0)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMipmappedArrayDestroy(mipmap)),
        CuResult::INVALID_HANDLE
    );
}

#[test]
fn bytes_of_arrays_go_everywhere() {
    let _alone = alone();
    let _context = Fresh::new();
    let (one, two) = (array([8, 0, 0], 0), array([4, 4, 0], 0));
    let own: Vec<u8> = (0..32).collect();
    let device = alloc(32);
    let queue = stream(0);
    ok!(cuMemcpyHtoAAsync_v2(one, 0, own.as_ptr().cast(), 32, queue));
    ok!(cuStreamSynchronize(queue));
    ok!(cuMemcpyAtoA_v2(two, 16, one, 8, 24));
    ok!(cuMemcpyAtoD_v2(device, two, 16, 24));
    ok!(cuMemcpyDtoA_v2(one, 4, device, 24));
    let mut read = [0u8; 32];
    ok!(cuMemcpyAtoHAsync_v2(
        read.as_mut_ptr().cast(),
        one,
        0,
        32,
        queue
    ));
    ok!(cuStreamSynchronize(queue));
    let mut expected = own.clone();
    expected.copy_within(8..32, 4);
    assert_eq!(read[..], expected[..]);
    let to = read.as_mut_ptr().cast::<c_void>();
    for (offset, bytes) in [(0, 33), (32, 1), (usize::MAX, 2), (1, usize::MAX)] {
        assert_eq!(
            cu!(cuMemcpyAtoD_v2(device, one, offset, bytes)),
            CuResult::INVALID_VALUE
        );
    }
    assert_eq!(
        cu!(cuMemcpyAtoH_v2(to, null_mut(), 0, 1)),
        CuResult::INVALID_HANDLE
    );
    ok!(cuMemcpyAtoH_v2(to, one, 99, 0));
}
