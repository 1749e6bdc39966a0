//! Managed memory, mapped memory, peers' memory: what kernels and host reach at one address.

mod api_common;

use api_common::{Fresh, alloc, in_child, kernel, load_text, stream};
use cuda_abi::{CuResult, Handle, MemLocation};
use std::ffi::c_void;
use std::ptr::null_mut;

/// Adds 1 to each of the first `count` words from an address, and to the managed variable.
const INCREMENT: &str = r#"
.version 6.3
.target sm_75
.address_size 64

.visible .global .attribute(.managed) .align 4 .u32 launches = 100;

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
    atom.global.add.u32 %r5, [launches], 1;
DONE:
    ret;
}
"#;

/// Increments words with a module of the current context.
fn increment(address: u64, count: u32) -> CuResult {
    increment_by(kernel(load_text(INCREMENT), "increment"), address, count)
}

fn increment_by(function: Handle, address: u64, count: u32) -> CuResult {
    let mut params: [*mut c_void; 2] = [
        (&raw const address).cast_mut().cast(),
        (&raw const count).cast_mut().cast(),
    ];
    let params = params.as_mut_ptr();
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
        params,
        null_mut()
    ));
    cu!(cuCtxSynchronize())
}

fn managed(bytes: usize) -> u64 {
    let mut address = 0;
    ok!(cuMemAllocManaged(&mut address, bytes, 1));
    address
}

#[test]
fn managed_memory_is_the_hosts_and_the_kernels() {
    let _context = Fresh::new();
    let function = kernel(load_text(INCREMENT), "increment");
    let address = managed(100 * 4);
    let words = address as *mut u32;
    for at in 0..100 {
        // SAFETY: managed memory of a hundred words.
        unsafe { words.add(at).write(at as u32) };
    }
    assert_eq!(increment_by(function, address, 100), CuResult::SUCCESS);
    for at in 0..100 {
        // SAFETY: as above.
        assert_eq!(unsafe { words.add(at).read() }, at as u32 + 1);
    }
    let attribute = |attribute: i32| {
        let mut value = 77u32;
        ok!(cuPointerGetAttribute(
            (&raw mut value).cast(),
            attribute,
            address + 4
        ));
        value
    };
    assert_eq!((attribute(8), attribute(13), attribute(16)), (1, 1, 3));
    let mut host = 0u64;
    ok!(cuPointerGetAttribute(
        (&raw mut host).cast(),
        4,
        address + 4
    ));
    assert_eq!(host, address + 4);
    // A copy to it is done when the call returns.
    let value = [9u32; 100];
    ok!(cuMemcpyHtoD_v2(address, value.as_ptr().cast(), 400));
    // SAFETY: as above.
    assert_eq!(unsafe { words.add(99).read() }, 9);
    ok!(cuMemsetD32_v2(address, 6, 100));
    ok!(cuCtxSynchronize());
    // SAFETY: as above.
    assert_eq!(unsafe { words.read() }, 6);
    assert_eq!(cu!(cuMemFreeHost(address as _)), CuResult::INVALID_VALUE);
    ok!(cuMemFree_v2(address));
    assert_eq!(
        increment_by(function, address, 1),
        CuResult::ILLEGAL_ADDRESS
    );
}

#[test]
fn managed_allocations_are_checked() {
    let _context = Fresh::new();
    let mut address = 0;
    for flags in [0, 3, 4, 8] {
        assert_eq!(
            cu!(cuMemAllocManaged(&mut address, 8, flags)),
            CuResult::INVALID_VALUE
        );
    }
    assert_eq!(
        cu!(cuMemAllocManaged(&mut address, 0, 1)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemAllocManaged(null_mut(), 8, 1)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemAllocManaged(&mut address, usize::MAX, 1)),
        CuResult::OUT_OF_MEMORY
    );
    let plain = alloc(64);
    let queue = stream(0);
    assert_eq!(
        cu!(cuStreamAttachMemAsync(queue, plain, 0, 4)),
        CuResult::INVALID_VALUE
    );
    let own = managed(64);
    ok!(cuStreamAttachMemAsync(queue, own, 0, 4));
    assert_eq!(
        cu!(cuStreamAttachMemAsync(queue, own, 0, 3)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemPrefetchAsync(plain, 64, 0, queue)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemAdvise(own, 65, 1, 0)),
        CuResult::INVALID_VALUE,
        "behind its end"
    );
    assert_eq!(cu!(cuMemAdvise(own, 64, 7, 0)), CuResult::INVALID_VALUE);
    assert_eq!(cu!(cuMemAdvise(own, 64, 3, 9)), CuResult::INVALID_DEVICE);
}

#[test]
fn advice_is_answered_for_the_range_that_is_asked_about() {
    let _context = Fresh::new();
    let address = managed(4 * 4096);
    let ask = |attribute: i32, start: u64, bytes: usize| {
        let mut value = 55i32;
        let result = cu!(cuMemRangeGetAttribute(
            (&raw mut value).cast(),
            4,
            attribute,
            start,
            bytes
        ));
        assert_eq!(result, CuResult::SUCCESS);
        value
    };
    let all = 4 * 4096;
    assert_eq!(ask(1, address, all), 0);
    assert_eq!(ask(2, address, all), -2);
    ok!(cuMemAdvise(address, 8192, 1, 0));
    assert_eq!(ask(1, address, 8192), 1);
    assert_eq!(ask(1, address, all), 0, "not all of it");
    ok!(cuMemAdvise(address, all, 3, -1));
    assert_eq!(ask(2, address, all), -1);
    let node = MemLocation { kind: 3, id: 1 };
    ok!(cuMemAdvise_v2(address, all, 3, node));
    assert_eq!([5, 6].map(|attribute| ask(attribute, address, all)), [3, 1]);
    ok!(cuMemAdvise(address, all, 4, 0));
    assert_eq!(ask(2, address, all), -2);
    ok!(cuMemAdvise(address, 4096, 5, 0));
    ok!(cuMemAdvise(address, all, 5, -1));
    let accessed = |bytes: usize| {
        let mut by = [7i32; 3];
        ok!(cuMemRangeGetAttribute(
            by.as_mut_ptr().cast(),
            12,
            3,
            address,
            bytes
        ));
        by
    };
    assert_eq!(accessed(4096), [0, -1, -2]);
    assert_eq!(accessed(all), [-1, -2, -2]);
    ok!(cuMemAdvise(address, all, 6, -1));
    assert_eq!(accessed(4096), [0, -2, -2]);
    ok!(cuMemPrefetchAsync(address, all, 0, null_mut()));
    assert_eq!(ask(4, address, all), 0);
    let host = MemLocation { kind: 2, id: 0 };
    ok!(cuMemPrefetchAsync_v2(address, all, host, 0, null_mut()));
    assert_eq!(
        [4, 7, 8].map(|attribute| ask(attribute, address, all)),
        [-1, 2, 0]
    );
    let (mut read_mostly, mut last) = (0i32, 0i32);
    let mut places: [*mut c_void; 2] = [(&raw mut read_mostly).cast(), (&raw mut last).cast()];
    let (mut sizes, mut attributes) = ([4usize; 2], [1, 4]);
    ok!(cuMemRangeGetAttributes(
        places.as_mut_ptr(),
        sizes.as_mut_ptr(),
        attributes.as_mut_ptr(),
        2,
        address,
        4096
    ));
    assert_eq!((read_mostly, last), (1, -1));
    let mut value = 0i32;
    for (bytes, attribute, count) in [(3, 1, 8), (8, 1, 8), (0, 3, 8), (4, 9, 8), (4, 1, 0)] {
        let data = (&raw mut value).cast();
        assert_eq!(
            cu!(cuMemRangeGetAttribute(
                data, bytes, attribute, address, count
            )),
            CuResult::INVALID_VALUE
        );
    }
    // What is said of memory ends with it.
    ok!(cuMemFree_v2(address));
    let again = managed(all);
    assert_eq!(ask(1, again, all), 0);
}

#[test]
fn managed_variables_live_at_one_address() {
    let _context = Fresh::new();
    let module = load_text(INCREMENT);
    let (mut address, mut bytes) = (0, 0);
    ok!(cuModuleGetGlobal_v2(
        &mut address,
        &mut bytes,
        module,
        c"launches".as_ptr()
    ));
    // SAFETY: a managed variable of four bytes.
    let read = || unsafe { (address as *const u32).read_volatile() };
    assert_eq!((read(), bytes), (100, 4));
    let function = kernel(module, "increment");
    let (target, count) = (alloc(4), 1u32);
    let mut params: [*mut c_void; 2] = [
        (&raw const target).cast_mut().cast(),
        (&raw const count).cast_mut().cast(),
    ];
    assert_eq!(
        api_common::launch(function, null_mut(), &mut params),
        CuResult::SUCCESS
    );
    ok!(cuCtxSynchronize());
    assert_eq!(read(), 101);
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Properties {
    kind: i32,
    handle_types: i32,
    location: MemLocation,
    win32: *mut c_void,
    flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[repr(C)]
struct Access {
    location: MemLocation,
    flags: i32,
}

const DEVICE_0: MemLocation = MemLocation { kind: 1, id: 0 };

fn properties(location: MemLocation) -> Properties {
    Properties {
        kind: 1,
        handle_types: 0,
        location,
        win32: null_mut(),
        flags: [0; 8],
    }
}

#[test]
fn mapped_memory_is_reached_where_it_was_mapped_and_allowed() {
    let _context = Fresh::new();
    let wanted = properties(DEVICE_0);
    let wanted = (&raw const wanted).cast();
    let mut step = 0;
    ok!(cuMemGetAllocationGranularity(&mut step, wanted, 0));
    assert!(step.is_power_of_two());
    let (mut address, mut handle) = (0, 0);
    ok!(cuMemAddressReserve(&mut address, 4 * step, 0, 0, 0));
    ok!(cuMemCreate(&mut handle, step, wanted, 0));
    ok!(cuMemMap(address, step, 0, handle, 0));
    let access = |address: u64, flags: i32| {
        let access = Access {
            location: DEVICE_0,
            flags,
        };
        cu!(cuMemSetAccess(address, step, (&raw const access).cast(), 1))
    };
    // Mapped, and not allowed yet.
    assert_eq!(cu!(cuMemsetD8_v2(address, 1, 4)), CuResult::INVALID_VALUE);
    assert_eq!(access(address, 3), CuResult::SUCCESS);
    ok!(cuMemsetD32_v2(address, 41, 8));
    assert_eq!(increment(address, 8), CuResult::SUCCESS);
    assert_eq!(api_common::word(address + 28), 42);
    // The same memory at a second place; a copy may run from one mapping into the next.
    let second = address + 2 * step as u64;
    ok!(cuMemMap(second, step, 0, handle, 0));
    assert_eq!(access(second, 3), CuResult::SUCCESS);
    assert_eq!(api_common::word(second + 28), 42);
    let mut other = 0;
    ok!(cuMemCreate(&mut other, step, wanted, 0));
    ok!(cuMemMap(address + step as u64, step, 0, other, 0));
    assert_eq!(access(address + step as u64, 3), CuResult::SUCCESS);
    ok!(cuMemsetD8_v2(address, 5, 3 * step));
    assert_eq!(
        cu!(cuMemsetD8_v2(address, 5, 3 * step + 1)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(api_common::word(second), 0x0505_0505);
    // What is known of it.
    let mut flags = 0;
    let device = DEVICE_0;
    let device = (&raw const device).cast();
    ok!(cuMemGetAccess(&mut flags, device, address));
    assert_eq!(flags, 3);
    let mut retained = 0;
    ok!(cuMemRetainAllocationHandle(&mut retained, second as _));
    assert_eq!(retained, handle);
    ok!(cuMemRelease(handle));
    let mut known = properties(MemLocation { kind: 0, id: 0 });
    ok!(cuMemGetAllocationPropertiesFromHandle(
        (&raw mut known).cast(),
        handle
    ));
    assert_eq!(known.location, DEVICE_0);
    ok!(cuMemRelease(handle));
    assert_eq!(cu!(cuMemRelease(handle)), CuResult::INVALID_VALUE);
    ok!(cuMemRelease(other));
    let (mut base, mut bytes) = (0, 0);
    ok!(cuMemGetAddressRange_v2(&mut base, &mut bytes, second + 9));
    assert_eq!((base, bytes), (second, step));
    // Taken away, it is no longer there.
    assert_eq!(access(address, 0), CuResult::SUCCESS);
    assert_eq!(cu!(cuMemsetD8_v2(address, 1, 4)), CuResult::INVALID_VALUE);
    ok!(cuMemUnmap(address, 3 * step));
    ok!(cuMemAddressFree(address, 4 * step));
    assert_eq!(increment(second, 1), CuResult::ILLEGAL_ADDRESS);
}

#[test]
fn mappings_are_checked() {
    let _context = Fresh::new();
    let (mut step, mut handle, mut address) = (0, 0, 0);
    let wanted = properties(DEVICE_0);
    let given = (&raw const wanted).cast();
    ok!(cuMemGetAllocationGranularity(&mut step, given, 1));
    let create = |wanted: Properties| {
        let mut handle = 0;
        cu!(cuMemCreate(
            &mut handle,
            step,
            (&raw const wanted).cast(),
            0
        ))
    };
    assert_eq!(
        create(Properties { kind: 0, ..wanted }),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        create(Properties {
            handle_types: 1,
            ..wanted
        }),
        CuResult::NOT_SUPPORTED
    );
    assert_eq!(
        create(properties(MemLocation { kind: 1, id: 44 })),
        CuResult::INVALID_DEVICE
    );
    assert_eq!(
        create(properties(MemLocation { kind: 9, id: 0 })),
        CuResult::INVALID_VALUE
    );
    for bytes in [0, 1, step + 1, usize::MAX] {
        assert_eq!(
            cu!(cuMemCreate(&mut handle, bytes, given, 0)),
            CuResult::INVALID_VALUE
        );
        assert_eq!(
            cu!(cuMemAddressReserve(&mut address, bytes, 0, 0, 0)),
            CuResult::INVALID_VALUE
        );
    }
    assert_eq!(
        cu!(cuMemCreate(&mut handle, usize::MAX & !(step - 1), given, 0)),
        CuResult::OUT_OF_MEMORY
    );
    ok!(cuMemCreate(&mut handle, step, given, 0));
    ok!(cuMemAddressReserve(&mut address, step, 1 << 30, 0, 0));
    assert_eq!(address % (1 << 30), 0);
    let plain = alloc(step);
    for (at, bytes, offset, flags) in [
        (plain, step, 0, 0),
        (address, 2 * step, 0, 0),
        (address, step, step, 0),
        (address, step, 0, 1),
        (address + 1, step, 0, 0),
    ] {
        assert_eq!(
            cu!(cuMemMap(at, bytes, offset, handle, flags)),
            CuResult::INVALID_VALUE
        );
    }
    assert_eq!(
        cu!(cuMemMap(address, step, 0, 12345, 0)),
        CuResult::INVALID_VALUE
    );
    ok!(cuMemMap(address, step, 0, handle, 0));
    assert_eq!(
        cu!(cuMemAddressFree(address, step)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(cu!(cuMemUnmap(address, 2 * step)), CuResult::INVALID_VALUE);
    assert_eq!(cu!(cuMemFree_v2(address)), CuResult::INVALID_VALUE);
    let read_only = Access {
        location: DEVICE_0,
        flags: 1,
    };
    assert_eq!(
        cu!(cuMemSetAccess(
            address,
            step,
            (&raw const read_only).cast(),
            1
        )),
        CuResult::NOT_SUPPORTED
    );
    let (mut shared, mut imported) = (0u64, 0);
    assert_eq!(
        cu!(cuMemExportToShareableHandle(
            (&raw mut shared).cast(),
            handle,
            1,
            0
        )),
        CuResult::NOT_SUPPORTED
    );
    assert_eq!(
        cu!(cuMemImportFromShareableHandle(&mut imported, null_mut(), 1)),
        CuResult::NOT_SUPPORTED
    );
    ok!(cuMemUnmap(address, step));
    ok!(cuMemAddressFree(address, step));
    ok!(cuMemRelease(handle));
}

#[test]
fn kernels_reach_a_peers_memory_when_they_may() {
    let variables = [("SOFTCUDA_DEVICES", "2"), ("CUDA_VISIBLE_DEVICES", "0,1")];
    if in_child("kernels_reach_a_peers_memory_when_they_may", &variables) {
        ok!(cuInit(0));
        let mut can = 0;
        ok!(cuDeviceCanAccessPeer(&mut can, 0, 1));
        assert_eq!(can, 1);
        ok!(cuDeviceCanAccessPeer(&mut can, 0, 0));
        assert_eq!(can, 0);
        ok!(cuDeviceGetP2PAttribute(&mut can, 2, 0, 1));
        assert_eq!(can, 1);
        assert_eq!(
            cu!(cuDeviceGetP2PAttribute(&mut can, 2, 0, 0)),
            CuResult::INVALID_DEVICE
        );
        let (mut second, mut first) = (null_mut(), null_mut());
        ok!(cuCtxCreate_v2(&mut second, 0, 1));
        let there = alloc(64);
        // The fill with zeros is this context's own and would run beside the other's work.
        ok!(cuCtxSynchronize());
        ok!(cuCtxCreate_v2(&mut first, 0, 0));
        let here = alloc(64);
        // Copies need no leave.
        ok!(cuMemsetD32_v2(here, 7, 16));
        ok!(cuMemcpyPeer(there, second, here, first, 64));
        assert_eq!(api_common::word(there), 7);
        assert_eq!(
            cu!(cuMemcpyPeer(there, null_mut(), here, first, 64)),
            CuResult::INVALID_CONTEXT
        );
        ok!(cuCtxEnablePeerAccess(second, 0));
        assert_eq!(
            cu!(cuCtxEnablePeerAccess(second, 0)),
            CuResult::PEER_ACCESS_ALREADY_ENABLED
        );
        assert_eq!(
            cu!(cuCtxEnablePeerAccess(first, 0)),
            CuResult::INVALID_DEVICE
        );
        assert_eq!(increment(there, 16), CuResult::SUCCESS);
        assert_eq!(api_common::word(there + 60), 8);
        // What is allocated later is reached too, and what is freed no longer.
        ok!(cuCtxPushCurrent_v2(second));
        let later = alloc(64);
        ok!(cuCtxSynchronize());
        ok!(cuCtxPopCurrent_v2(null_mut()));
        assert_eq!(increment(later, 16), CuResult::SUCCESS);
        ok!(cuCtxDisablePeerAccess(second));
        assert_eq!(
            cu!(cuCtxDisablePeerAccess(second)),
            CuResult::PEER_ACCESS_NOT_ENABLED
        );
        assert_eq!(increment(there, 1), CuResult::ILLEGAL_ADDRESS);
    }
}

#[test]
fn pointers_are_asked_about_several_things_at_once() {
    let context = Fresh::new();
    let address = alloc(1000);
    let (mut of, mut kind, mut start, mut bytes) = (0u64, 0u32, 0u64, 0u64);
    let mut ask = |address: u64| {
        let mut places: [*mut c_void; 4] = [
            (&raw mut of).cast(),
            (&raw mut kind).cast(),
            (&raw mut start).cast(),
            (&raw mut bytes).cast(),
        ];
        let mut attributes = [1, 2, 11, 12];
        ok!(cuPointerGetAttributes(
            4,
            attributes.as_mut_ptr(),
            places.as_mut_ptr(),
            address
        ));
        (of, kind, start, bytes)
    };
    assert_eq!(ask(address + 9), (context.0 as u64, 2, address, 1000));
    let own = 0u32;
    assert_eq!(ask((&raw const own) as u64), (0, 0, 0, 0));
    let mut places: [*mut c_void; 1] = [null_mut()];
    let mut attributes = [1];
    for (count, attribute) in [(0, 1), (1, 99), (1, 1)] {
        attributes[0] = attribute;
        assert_eq!(
            cu!(cuPointerGetAttributes(
                count,
                attributes.as_mut_ptr(),
                places.as_mut_ptr(),
                address
            )),
            CuResult::INVALID_VALUE
        );
    }
    let mut on = 1u32;
    ok!(cuPointerSetAttribute((&raw const on).cast(), 6, address));
    on = 0;
    ok!(cuPointerGetAttribute((&raw mut on).cast(), 6, address));
    assert_eq!(on, 1);
    assert_eq!(
        cu!(cuPointerSetAttribute((&raw const on).cast(), 7, address)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuPointerSetAttribute((&raw const on).cast(), 6, 64)),
        CuResult::INVALID_VALUE
    );
}

#[test]
fn nothing_is_shared_between_processes() {
    let _context = Fresh::new();
    let mut handle = cuda_abi::IpcHandle([0; 64]);
    let (mut address, mut event) = (alloc(64), null_mut());
    for refused in [
        cu!(cuIpcGetMemHandle(&mut handle, address)),
        cu!(cuIpcOpenMemHandle_v2(&mut address, handle, 1)),
        cu!(cuIpcCloseMemHandle(address)),
        cu!(cuIpcGetEventHandle(&mut handle, null_mut())),
        cu!(cuIpcOpenEventHandle(&mut event, handle)),
    ] {
        assert_eq!(refused, CuResult::NOT_SUPPORTED);
    }
}
