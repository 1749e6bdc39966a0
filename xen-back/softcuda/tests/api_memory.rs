//! Memory: allocations, copies, fills, and what the driver knows of an address.

mod api_common;

use api_common::{Fresh, alloc, in_child, kernel, load_text, stream};
use cuda_abi::{CuResult, Handle};
use std::ffi::c_void;
use std::ptr::null_mut;

fn pinned(bytes: usize) -> *mut c_void {
    let mut address = null_mut();
    ok!(cuMemHostAlloc(&mut address, bytes, 0));
    address
}

#[test]
fn copies_and_fills_stay_inside_their_allocation() {
    let _context = Fresh::new();
    let address = alloc(1000);
    let mut host = vec![0u8; 2000];
    let from = host.as_ptr().cast::<c_void>();
    let to = host.as_mut_ptr().cast::<c_void>();
    ok!(cuMemcpyHtoD_v2(address, from, 1000));
    ok!(cuMemcpyHtoD_v2(address + 999, from, 1));
    for (start, bytes) in [
        (address, 1001),
        (address + 999, 2),
        (address - 1, 1),
        (address + 1000, 1),
        (address, usize::MAX),
        (0, 1),
        (to as u64, 1),
        (u64::MAX, 2),
    ] {
        let wrong = CuResult::INVALID_VALUE;
        assert_eq!(
            cu!(cuMemcpyHtoD_v2(start, from, bytes)),
            wrong,
            "{start:#x} {bytes}"
        );
        assert_eq!(cu!(cuMemcpyDtoH_v2(to, start, bytes)), wrong);
        assert_eq!(cu!(cuMemcpyDtoD_v2(start, address, bytes)), wrong);
        assert_eq!(
            cu!(cuMemcpyDtoDAsync_v2(address, start, bytes, null_mut())),
            wrong
        );
        assert_eq!(
            cu!(cuMemcpyHtoDAsync_v2(start, from, bytes, null_mut())),
            wrong
        );
        assert_eq!(
            cu!(cuMemcpyDtoHAsync_v2(to, start, bytes, null_mut())),
            wrong
        );
        assert_eq!(cu!(cuMemsetD8_v2(start, 1, bytes)), wrong);
    }
    assert_eq!(
        cu!(cuMemcpyHtoD_v2(address, std::ptr::null(), 8)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemcpyDtoH_v2(null_mut(), address, 8)),
        CuResult::INVALID_VALUE
    );
    ok!(cuMemcpyHtoD_v2(0, std::ptr::null(), 0));
    ok!(cuMemsetD32_v2(0, 0, 0));
    assert_eq!(
        cu!(cuMemsetD32_v2(address + 2, 1, 1)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemsetD16_v2(address + 1, 1, 1)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemsetD32_v2(address, 1, usize::MAX / 2)),
        CuResult::INVALID_VALUE
    );
}

#[test]
fn bytes_arrive_by_every_way() {
    let _context = Fresh::new();
    const N: usize = 300_000;
    let (a, b, own) = (alloc(N), alloc(N), stream(1));
    let data: Vec<u8> = (0..N).map(|i| (i * 7 % 251) as u8).collect();
    let mut back = vec![0u8; N];
    let to = back.as_mut_ptr().cast::<c_void>();
    let locked = pinned(N);
    // pageable → pinned → device → device → pinned → pageable, in one stream.
    ok!(cuMemcpyAsync(locked as u64, data.as_ptr() as u64, N, own));
    ok!(cuMemcpyHtoDAsync_v2(a, locked, N, own));
    ok!(cuMemcpyDtoDAsync_v2(b, a, N, own));
    ok!(cuMemsetD8Async(a, 0xee, N, own));
    ok!(cuMemcpyDtoHAsync_v2(locked, b, N, own));
    ok!(cuMemcpyAsync(to as u64, locked as u64, N, own));
    ok!(cuStreamSynchronize(own));
    assert_eq!(back, data);
    ok!(cuMemcpyDtoH_v2(to, a, N));
    assert!(back.iter().all(|byte| *byte == 0xee));
    // The other order: by address only, in the null stream.
    ok!(cuMemcpy(a, data.as_ptr() as u64, N));
    ok!(cuMemcpy(b, a, N));
    ok!(cuMemcpy(to as u64, b, N));
    assert_eq!(back, data);
    // Values of each width.
    ok!(cuMemsetD16_v2(a, 0x1234, N / 2));
    ok!(cuMemsetD32Async(a + 4, 0xdead_beef, 1, null_mut()));
    ok!(cuMemsetD16Async(a + 8, 0x5678, 1, null_mut()));
    ok!(cuMemcpyDtoH_v2(to, a, 12));
    assert_eq!(
        back[..12],
        [
            0x34, 0x12, 0x34, 0x12, 0xef, 0xbe, 0xad, 0xde, 0x78, 0x56, 0x34, 0x12
        ]
    );
    ok!(cuMemFreeHost(locked));
}

#[test]
fn a_small_pageable_source_may_change_after_the_call() {
    let _context = Fresh::new();
    let (address, own) = (alloc(16), stream(0));
    let mut host = [7u32; 4];
    for round in 0..200u32 {
        host.fill(round);
        ok!(cuMemcpyHtoDAsync_v2(address, host.as_ptr().cast(), 16, own));
        host.fill(u32::MAX);
        ok!(cuStreamSynchronize(own));
        assert_eq!(api_common::word(address + 12), round);
    }
}

#[test]
fn frees_are_checked() {
    let _context = Fresh::new();
    let address = alloc(64);
    ok!(cuMemFree_v2(0));
    for wrong in [address + 1, 8, u64::MAX] {
        assert_eq!(cu!(cuMemFree_v2(wrong)), CuResult::INVALID_VALUE);
        assert_eq!(
            cu!(cuMemFreeAsync(wrong, null_mut())),
            CuResult::INVALID_VALUE
        );
        assert_eq!(cu!(cuMemFreeHost(wrong as _)), CuResult::INVALID_VALUE);
    }
    assert_eq!(cu!(cuMemFreeHost(address as _)), CuResult::INVALID_VALUE);
    let locked = pinned(64);
    assert_eq!(cu!(cuMemFree_v2(locked as u64)), CuResult::INVALID_VALUE);
    ok!(cuMemFreeHost(locked));
    ok!(cuMemFree_v2(address));
    assert_eq!(cu!(cuMemFree_v2(address)), CuResult::INVALID_VALUE);
    assert_eq!(
        cu!(cuMemcpyDtoD_v2(address, address, 4)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(cu!(cuMemAlloc_v2(&mut 0, 0)), CuResult::INVALID_VALUE);
    assert_eq!(cu!(cuMemAlloc_v2(null_mut(), 4)), CuResult::INVALID_VALUE);
    let mut stream_ordered = 0;
    ok!(cuMemAllocAsync(&mut stream_ordered, 64, null_mut()));
    ok!(cuMemFreeAsync(stream_ordered, null_mut()));
    assert_eq!(
        cu!(cuMemFreeAsync(stream_ordered, null_mut())),
        CuResult::INVALID_VALUE
    );
}

#[test]
fn memory_runs_out_and_comes_back() {
    let variables = [("SOFTCUDA_MEMORY", "32M")];
    if in_child("memory_runs_out_and_comes_back", &variables) {
        let _context = Fresh::new();
        let info = || {
            let (mut free, mut total) = (0, 0);
            ok!(cuMemGetInfo_v2(&mut free, &mut total));
            assert_eq!(total, 32 << 20);
            free
        };
        assert_eq!(info(), 32 << 20);
        let blocks: Vec<u64> = (0..32).map(|_| alloc(1 << 20)).collect();
        assert_eq!(info(), 0);
        assert_eq!(cu!(cuMemAlloc_v2(&mut 0, 1)), CuResult::OUT_OF_MEMORY);
        assert_eq!(
            cu!(cuMemAlloc_v2(&mut 0, usize::MAX)),
            CuResult::OUT_OF_MEMORY
        );
        // Holes do not matter: 16 MiB in one piece fit where single MiBs were freed.
        for block in blocks.iter().step_by(2) {
            ok!(cuMemFreeAsync(*block, null_mut()));
        }
        let large = alloc(16 << 20);
        ok!(cuMemsetD8_v2(large, 1, 16 << 20));
        ok!(cuMemFree_v2(large));
        for block in blocks.iter().skip(1).step_by(2) {
            ok!(cuMemFree_v2(*block));
        }
        assert_eq!(info(), 32 << 20);
        // A context takes what it holds with it.
        let other = Fresh::new();
        alloc(8 << 20);
        assert_eq!(info(), 24 << 20);
        drop(other);
        assert_eq!(info(), 32 << 20);
        // Host memory is not the device's.
        let locked = pinned(1 << 20);
        assert_eq!(info(), 32 << 20);
        ok!(cuMemFreeHost(locked));
    }
}

#[test]
fn what_is_known_of_an_address() {
    let context = Fresh::new();
    let address = alloc(1000);
    let mut locked = null_mut();
    ok!(cuMemHostAlloc(&mut locked, 100, 3));
    let (mut base, mut bytes) = (0, 0);
    ok!(cuMemGetAddressRange_v2(
        &mut base,
        &mut bytes,
        address + 999
    ));
    assert_eq!((base, bytes), (address, 1000));
    ok!(cuMemGetAddressRange_v2(null_mut(), null_mut(), address));
    assert_eq!(
        cu!(cuMemGetAddressRange_v2(
            &mut base,
            &mut bytes,
            address + 1000
        )),
        CuResult::NOT_FOUND
    );
    let long = |attribute, pointer| {
        let mut value = 0u64;
        let result = cu!(cuPointerGetAttribute(
            (&raw mut value).cast(),
            attribute,
            pointer
        ));
        (result == CuResult::SUCCESS).then_some(value)
    };
    assert_eq!(long(1, address), Some(context.0 as u64));
    assert_eq!(long(2, address + 5), Some(2));
    assert_eq!(long(2, locked as u64), Some(1));
    assert_eq!(long(3, locked as u64 + 9), Some(locked as u64 + 9));
    assert_eq!(long(4, locked as u64), Some(locked as u64));
    assert_eq!(long(4, address), None);
    assert_eq!(long(9, address), Some(0));
    assert_eq!(long(11, address + 7), Some(address));
    assert_eq!(long(12, address + 7), Some(1000));
    assert_ne!(long(7, address), long(7, locked as u64));
    assert_eq!(long(2, (&raw const base) as u64), None);
    assert_eq!(long(99, address), None);
    assert_eq!(
        cu!(cuPointerGetAttribute(null_mut(), 2, address)),
        CuResult::INVALID_VALUE
    );

    let mut flags = 0;
    ok!(cuMemHostGetFlags(&mut flags, locked));
    assert_eq!(flags, 3);
    let mut device = 0;
    ok!(cuMemHostGetDevicePointer_v2(&mut device, locked, 0));
    assert_eq!(
        cu!(cuMemHostGetDevicePointer_v2(&mut device, locked, 1)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemHostGetDevicePointer_v2(&mut device, address as _, 0)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemHostGetFlags(&mut flags, address as _)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemHostAlloc(&mut locked, 8, 8)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemHostAlloc(&mut locked, 0, 0)),
        CuResult::INVALID_VALUE
    );
    ok!(cuMemAllocHost_v2(&mut locked, 8));
}

#[test]
fn registered_memory_is_page_locked() {
    let _context = Fresh::new();
    let mut own = vec![3u8; 8192];
    let start = own.as_mut_ptr().cast::<c_void>();
    ok!(cuMemHostRegister_v2(start, 8192, 1));
    assert_eq!(
        cu!(cuMemHostRegister_v2(start, 1, 0)),
        CuResult::HOST_MEMORY_ALREADY_REGISTERED
    );
    let (mut kind, mut device) = (0u32, 0);
    ok!(cuPointerGetAttribute(
        (&raw mut kind).cast(),
        2,
        start as u64 + 100
    ));
    assert_eq!(kind, 1);
    let address = alloc(8192);
    let own_stream = stream(0);
    ok!(cuMemcpyHtoDAsync_v2(address, start, 8192, own_stream));
    ok!(cuMemsetD8Async(address, 4, 1, own_stream));
    ok!(cuMemcpyDtoHAsync_v2(start, address, 8192, own_stream));
    ok!(cuStreamSynchronize(own_stream));
    assert_eq!(own[..2], [4, 3]);
    // Kernels reach it at its own address, but no byte beside it.
    ok!(cuMemHostGetDevicePointer_v2(&mut device, start, 0));
    assert_eq!(device, start as u64);
    ok!(cuMemHostUnregister(start));
    ok!(cuMemHostRegister_v2(start, 8192, 8));
    assert_eq!(
        cu!(cuMemHostGetDevicePointer_v2(&mut device, start, 0)),
        CuResult::NOT_SUPPORTED,
        "registered for reading only"
    );
    ok!(cuMemHostUnregister(start));
    // Memory that is not there cannot be registered.
    assert_eq!(
        cu!(cuMemHostRegister_v2(4096 as _, 8, 0)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemHostUnregister(start)),
        CuResult::HOST_MEMORY_NOT_REGISTERED
    );
    assert_eq!(
        cu!(cuMemHostRegister_v2(start, 8, 64)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemHostRegister_v2(null_mut(), 8, 0)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemHostRegister_v2(address as _, 8, 0)),
        CuResult::INVALID_VALUE
    );
}

#[test]
fn many_threads_allocate_copy_and_free() {
    let context = Fresh::new();
    let handle = context.0 as usize;
    let threads: Vec<_> = (0..8u32)
        .map(|id| {
            std::thread::spawn(move || {
                ok!(cuCtxSetCurrent(handle as Handle));
                let own = if id % 2 == 0 { stream(1) } else { 2 as Handle };
                for round in 0..60u32 {
                    let bytes = 4 * (1 + ((id * 977 + round * 131) % 5000) as usize);
                    let mut address = 0;
                    ok!(cuMemAllocAsync(&mut address, bytes, own));
                    let value = id << 16 | round;
                    ok!(cuMemsetD32Async(address, value, bytes / 4, own));
                    let mut back = vec![0u32; bytes / 4];
                    ok!(cuMemcpyDtoHAsync_v2(
                        back.as_mut_ptr().cast(),
                        address,
                        bytes,
                        own
                    ));
                    ok!(cuStreamSynchronize(own));
                    assert!(back.iter().all(|word| *word == value));
                    ok!(cuMemFreeAsync(address, own));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    ok!(cuCtxSynchronize());
}

/// Adds 1 to each of the first `count` words from an address.
const INCREMENT: &str = r#"
.version 6.3
.target sm_75
.address_size 64

.visible .entry increment(.param .u64 at, .param .u32 count)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .b64 %d<4>;
    ld.param.u64 %d1, [at];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p, %r2, %r1;
    @%p bra DONE;
    mul.wide.u32 %d2, %r2, 4;
    add.s64 %d3, %d1, %d2;
    ld.global.u32 %r3, [%d3];
    add.u32 %r4, %r3, 1;
    st.global.u32 [%d3], %r4;
DONE:
    ret;
}
"#;

fn increment(address: u64, count: u32) -> CuResult {
    let function = kernel(load_text(INCREMENT), "increment");
    let mut params: [*mut c_void; 2] = [
        (&raw const address).cast_mut().cast(),
        (&raw const count).cast_mut().cast(),
    ];
    ok!(cuLaunchKernel(
        function,
        1,
        1,
        1,
        256,
        1,
        1,
        0,
        null_mut(),
        params.as_mut_ptr(),
        null_mut()
    ));
    cu!(cuCtxSynchronize())
}

#[test]
fn kernels_reach_registered_memory_to_the_byte() {
    let context = Fresh::new();
    let mut own = vec![7u32; 64];
    let start = own.as_mut_ptr().cast::<c_void>();
    ok!(cuMemHostRegister_v2(start, 128, 2));
    assert_eq!(increment(start as u64, 32), CuResult::SUCCESS);
    assert_eq!(own[31..33], [8, 7]);
    // Ranges that touch are one.
    // SAFETY: within the vector.
    let second = unsafe { start.add(128) };
    ok!(cuMemHostRegister_v2(second, 64, 2));
    assert_eq!(increment(start as u64 + 64, 32), CuResult::SUCCESS);
    assert_eq!(own[47..49], [8, 7]);
    ok!(cuMemHostUnregister(start));
    ok!(cuMemHostUnregister(second));
    assert_eq!(increment(start as u64, 1), CuResult::ILLEGAL_ADDRESS);
    assert_eq!(own[0], 8);
    drop(context);
}
