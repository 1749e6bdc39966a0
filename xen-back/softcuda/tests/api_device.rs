//! Initialisation, devices, contexts: what programs ask first.

mod api_common;

use api_common::{Fresh, in_child, library};
use cuda_abi::{CuResult, Uuid};
use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

#[test]
fn before_init_only_the_version_and_names_answer() {
    if in_child("before_init_only_the_version_and_names_answer", &[]) {
        let (mut number, mut bytes, mut handle) = (0, 0, null_mut());
        ok!(cuDriverGetVersion(&mut number));
        assert_eq!(number, 12080);
        assert_eq!(
            cu!(cuDeviceGetCount(&mut number)),
            CuResult::NOT_INITIALIZED
        );
        assert_eq!(cu!(cuDeviceGet(&mut number, 0)), CuResult::NOT_INITIALIZED);
        assert_eq!(cu!(cuMemAlloc_v2(&mut 0, 4)), CuResult::NOT_INITIALIZED);
        assert_eq!(
            cu!(cuDeviceTotalMem_v2(&mut bytes, 0)),
            CuResult::NOT_INITIALIZED
        );
        assert_eq!(cu!(cuCtxGetCurrent(&mut handle)), CuResult::NOT_INITIALIZED);
        assert_eq!(cu!(cuInit(1)), CuResult::INVALID_VALUE);
        assert_eq!(
            cu!(cuDeviceGetCount(&mut number)),
            CuResult::NOT_INITIALIZED
        );
        ok!(cuInit(0));
        ok!(cuInit(0));
        ok!(cuDeviceGetCount(&mut number));
        assert_eq!(number, 1);
    }
}

#[test]
fn names_of_results() {
    let mut text = std::ptr::null();
    ok!(cuGetErrorName(700, &mut text));
    // SAFETY: the driver gave a static C string.
    let read = |text| unsafe { CStr::from_ptr(text) };
    assert_eq!(read(text), c"CUDA_ERROR_ILLEGAL_ADDRESS");
    ok!(cuGetErrorString(0, &mut text));
    assert_eq!(read(text), c"no error");
    assert_eq!(
        cu!(cuGetErrorName(123_456, &mut text)),
        CuResult::INVALID_VALUE
    );
    assert!(text.is_null());
    assert_eq!(cu!(cuGetErrorName(0, null_mut())), CuResult::INVALID_VALUE);
}

#[test]
fn proc_addresses_by_name_and_version() {
    let find = |name: &str, version| {
        let name = CString::new(name).unwrap();
        let (mut address, mut status) = (7 as *mut c_void, -1);
        let result = cu!(cuGetProcAddress_v2(
            name.as_ptr(),
            &mut address,
            version,
            0,
            &mut status
        ));
        (result, address as usize, status)
    };
    let (result, init, status) = find("cuInit", 12080);
    assert_eq!((result, status), (CuResult::SUCCESS, 0));
    assert!(init > 7);
    assert_eq!(find("cuNothing", 12080), (CuResult::SUCCESS, 0, 1));
    assert_eq!(find("cuMemAlloc", 2000), (CuResult::SUCCESS, 0, 2));
    assert_ne!(find("cuCtxCreate", 11040).1, find("cuCtxCreate", 4000).1);
    assert_eq!(find("cuInit", 12090).0, CuResult::INVALID_VALUE);

    let mut address = 5 as *mut c_void;
    let v1 = |name: &CStr, address: &mut *mut c_void| {
        cu!(cuGetProcAddress(name.as_ptr(), address, 11080, 2))
    };
    assert_eq!(v1(c"cuNothing", &mut address), CuResult::NOT_FOUND);
    assert_eq!(address as usize, 5);
    assert_eq!(v1(c"cuInit", &mut address), CuResult::SUCCESS);
    assert_eq!(address as usize, init);
    // What the address leads to is the function itself.
    // SAFETY: it is cuInit's, with cuInit's signature.
    let cu_init: extern "C" fn(u32) -> CuResult = unsafe { std::mem::transmute(address) };
    assert_eq!(cu_init(7), CuResult::INVALID_VALUE);
    let mut table = std::ptr::null();
    assert_eq!(
        cu!(cuGetExportTable(&mut table, &[0; 16])),
        CuResult::NOT_FOUND
    );
}

#[test]
fn a_device_is_found_by_its_pci_address() {
    ok!(cuInit(0));
    let (mut device, mut text) = (-1, [1i8; 32]);
    ok!(cuDeviceGetPCIBusId(text.as_mut_ptr(), 32, 0));
    ok!(cuDeviceGetByPCIBusId(&mut device, text.as_ptr()));
    assert_eq!(device, 0);
    let by = |text: &CStr, device: &mut i32| cu!(cuDeviceGetByPCIBusId(device, text.as_ptr()));
    assert_eq!(by(c"0000:77:00.0", &mut device), CuResult::INVALID_DEVICE);
    assert_eq!(by(c"nonsense", &mut device), CuResult::INVALID_DEVICE);
    assert_eq!(
        cu!(cuDeviceGetByPCIBusId(&mut device, std::ptr::null())),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuDeviceGetPCIBusId(text.as_mut_ptr(), 0, 0)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuDeviceGetPCIBusId(text.as_mut_ptr(), 32, 77)),
        CuResult::INVALID_DEVICE
    );
}

#[test]
fn a_device_describes_itself() {
    ok!(cuInit(0));
    let (mut device, mut number, mut minor, mut bytes) = (-1, 0, 0, 0);
    ok!(cuDeviceGet(&mut device, 0));
    let mut name = [1i8; 64];
    ok!(cuDeviceGetName(name.as_mut_ptr(), 64, device));
    // SAFETY: the driver ended the name with a NUL byte.
    let text = unsafe { CStr::from_ptr(name.as_ptr()) }.to_str().unwrap();
    assert!(text.starts_with("softcuda ("), "{text}");
    let mut short = [1i8; 6];
    ok!(cuDeviceGetName(short.as_mut_ptr(), 5, device));
    assert_eq!(short.map(|c| c as u8), *b"soft\0\x01");
    assert_eq!(
        cu!(cuDeviceGetName(short.as_mut_ptr(), 0, 0)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuDeviceGetName(null_mut(), 9, 0)),
        CuResult::INVALID_VALUE
    );

    ok!(cuDeviceComputeCapability(&mut number, &mut minor, device));
    assert_eq!((number, minor), (9, 0));
    ok!(cuDeviceTotalMem_v2(&mut bytes, device));
    assert!(bytes >= 1 << 20);
    let cores = std::thread::available_parallelism().unwrap().get() as i32;
    for (attribute, value) in [(1, 1024), (10, 32), (16, cores), (75, 9), (41, 1), (95, 1)] {
        ok!(cuDeviceGetAttribute(&mut number, attribute, device));
        assert_eq!(number, value, "attribute {attribute}");
    }
    assert_eq!(
        cu!(cuDeviceGetAttribute(&mut number, 9999, 0)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuDeviceGetAttribute(null_mut(), 1, 0)),
        CuResult::INVALID_VALUE
    );
    let (mut first, mut second): (Uuid, Uuid) = ([0; 16], [1; 16]);
    ok!(cuDeviceGetUuid(&mut first, device));
    ok!(cuDeviceGetUuid_v2(&mut second, device));
    assert_eq!(first, second);
    for wrong in [-1, 1, i32::MAX] {
        assert_eq!(
            cu!(cuDeviceGet(&mut number, wrong)),
            CuResult::INVALID_DEVICE
        );
        assert_eq!(
            cu!(cuDeviceGetAttribute(&mut number, 1, wrong)),
            CuResult::INVALID_DEVICE
        );
        assert_eq!(
            cu!(cuDeviceTotalMem_v2(&mut bytes, wrong)),
            CuResult::INVALID_DEVICE
        );
        assert_eq!(
            cu!(cuCtxCreate_v2(&mut null_mut(), 0, wrong)),
            CuResult::INVALID_DEVICE
        );
        assert_eq!(
            cu!(cuDevicePrimaryCtxRelease_v2(wrong)),
            CuResult::INVALID_DEVICE
        );
    }
}

#[test]
fn the_environment_sets_devices_and_memory() {
    let variables = [
        ("SOFTCUDA_DEVICES", "3"),
        ("SOFTCUDA_MEMORY", "64M"),
        ("CUDA_VISIBLE_DEVICES", "2,0"),
    ];
    if in_child("the_environment_sets_devices_and_memory", &variables) {
        ok!(cuInit(0));
        let (mut count, mut bytes, mut pci) = (0, 0, -1);
        ok!(cuDeviceGetCount(&mut count));
        assert_eq!(count, 2);
        for (ordinal, physical) in [(0, 2), (1, 0)] {
            ok!(cuDeviceTotalMem_v2(&mut bytes, ordinal));
            assert_eq!(bytes, 64 << 20);
            ok!(cuDeviceGetAttribute(&mut pci, 34, ordinal));
            assert_eq!(pci, physical);
        }
        // Each device has memory of its own, and copies cross from one to the other.
        let (mut a, mut b) = (null_mut(), null_mut());
        ok!(cuCtxCreate_v2(&mut a, 0, 0));
        let mut from = 0;
        ok!(cuMemAlloc_v2(&mut from, 40 << 20));
        ok!(cuMemsetD32_v2(from, 77, 10 << 20));
        ok!(cuCtxSynchronize());
        ok!(cuCtxCreate_v2(&mut b, 0, 1));
        let (mut to, mut free, mut total) = (0, 0, 0);
        ok!(cuMemGetInfo_v2(&mut free, &mut total));
        assert_eq!((free, total), (64 << 20, 64 << 20));
        ok!(cuMemAlloc_v2(&mut to, 40 << 20));
        ok!(cuMemcpyDtoD_v2(to, from, 40 << 20));
        assert_eq!(api_common::word(to + (40 << 20) - 4), 77);
        ok!(cuCtxDestroy_v2(b));
        ok!(cuCtxDestroy_v2(a));
    }
}

#[test]
fn no_visible_device() {
    if in_child("no_visible_device", &[("CUDA_VISIBLE_DEVICES", "")]) {
        assert_eq!(cu!(cuInit(0)), CuResult::NO_DEVICE);
        assert_eq!(cu!(cuInit(0)), CuResult::NO_DEVICE);
        assert_eq!(cu!(cuDeviceGetCount(&mut 0)), CuResult::NOT_INITIALIZED);
    }
}

#[test]
fn settings_that_make_no_sense() {
    if in_child(
        "settings_that_make_no_sense",
        &[("SOFTCUDA_MEMORY", "lots")],
    ) {
        assert_eq!(cu!(cuInit(0)), CuResult::SYSTEM_NOT_READY);
    }
}

#[test]
fn contexts_stack_per_thread() {
    let outer = Fresh::new();
    let mut seen = null_mut();
    ok!(cuCtxGetCurrent(&mut seen));
    assert_eq!(seen, outer.0);
    let inner = Fresh::new();
    ok!(cuCtxPopCurrent_v2(&mut seen));
    assert_eq!(seen, inner.0);
    ok!(cuCtxGetCurrent(&mut seen));
    assert_eq!(seen, outer.0);
    ok!(cuCtxPushCurrent_v2(inner.0));
    ok!(cuCtxSetCurrent(outer.0));
    ok!(cuCtxPopCurrent_v2(null_mut()));
    ok!(cuCtxGetCurrent(&mut seen));
    assert_eq!(seen, outer.0, "set replaced the top only");

    let handle = outer.0 as usize;
    std::thread::spawn(move || {
        let mut seen = 7 as *mut c_void;
        ok!(cuCtxGetCurrent(&mut seen));
        assert!(seen.is_null());
        assert_eq!(
            cu!(cuCtxPopCurrent_v2(&mut seen)),
            CuResult::INVALID_CONTEXT
        );
        assert_eq!(cu!(cuCtxSynchronize()), CuResult::INVALID_CONTEXT);
        assert_eq!(cu!(cuMemAlloc_v2(&mut 0, 4)), CuResult::INVALID_CONTEXT);
        assert_eq!(cu!(cuStreamCreate(&mut seen, 0)), CuResult::INVALID_CONTEXT);
        assert_eq!(cu!(cuCtxGetDevice(&mut 0)), CuResult::INVALID_CONTEXT);
        ok!(cuCtxSetCurrent(handle as _));
        ok!(cuCtxSynchronize());
        ok!(cuCtxSetCurrent(null_mut()));
        assert_eq!(cu!(cuCtxSynchronize()), CuResult::INVALID_CONTEXT);
    })
    .join()
    .unwrap();
}

#[test]
fn destroyed_and_invented_contexts_are_refused() {
    ok!(cuInit(0));
    let context = Fresh::new();
    let handle = context.0;
    let address = handle as usize;
    let (to_child, from_parent) = std::sync::mpsc::channel::<()>();
    let (to_parent, from_child) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        ok!(cuCtxSetCurrent(address as _));
        to_parent.send(()).unwrap();
        from_parent.recv().unwrap();
        assert_eq!(cu!(cuCtxSynchronize()), CuResult::CONTEXT_IS_DESTROYED);
        assert_eq!(cu!(cuCtxGetDevice(&mut 0)), CuResult::CONTEXT_IS_DESTROYED);
        assert_eq!(
            cu!(cuMemAlloc_v2(&mut 0, 4)),
            CuResult::CONTEXT_IS_DESTROYED
        );
    });
    from_child.recv().unwrap();
    drop(context);
    to_child.send(()).unwrap();
    other.join().unwrap();
    for wrong in [
        handle,
        0x1234 as _,
        usize::MAX as _,
        &raw const address as *mut c_void,
    ] {
        assert_eq!(cu!(cuCtxSetCurrent(wrong)), CuResult::INVALID_CONTEXT);
        assert_eq!(cu!(cuCtxPushCurrent_v2(wrong)), CuResult::INVALID_CONTEXT);
        assert_eq!(cu!(cuCtxDestroy_v2(wrong)), CuResult::INVALID_CONTEXT);
        assert_eq!(
            cu!(cuCtxGetApiVersion(wrong, &mut 0)),
            CuResult::INVALID_CONTEXT
        );
    }
    assert_eq!(cu!(cuCtxDestroy_v2(null_mut())), CuResult::INVALID_CONTEXT);
}

#[test]
fn context_properties() {
    let context = Fresh::new();
    let (mut flags, mut version, mut device, mut limit) = (9, 0, -1, 0);
    ok!(cuCtxGetFlags(&mut flags));
    ok!(cuCtxGetApiVersion(context.0, &mut version));
    ok!(cuCtxGetDevice(&mut device));
    assert_eq!((flags, version, device), (0, 3020, 0));
    for (number, initial) in [(0, 1024), (1, 1 << 20), (2, 8 << 20), (4, 2048)] {
        ok!(cuCtxGetLimit(&mut limit, number));
        assert_eq!(limit, initial);
    }
    ok!(cuCtxSetLimit(0, 4096));
    ok!(cuCtxGetLimit(&mut limit, 0));
    assert_eq!(limit, 4096);
    for wrong in [-1, 77] {
        assert_eq!(cu!(cuCtxSetLimit(wrong, 1)), CuResult::UNSUPPORTED_LIMIT);
        assert_eq!(
            cu!(cuCtxGetLimit(&mut limit, wrong)),
            CuResult::UNSUPPORTED_LIMIT
        );
    }
    ok!(cuCtxSetCacheConfig(2));
    let (mut config, mut least, mut greatest) = (0, 1, 1);
    ok!(cuCtxGetCacheConfig(&mut config));
    assert_eq!(config, 2);
    assert_eq!(cu!(cuCtxSetCacheConfig(4)), CuResult::INVALID_VALUE);
    ok!(cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
    ok!(cuCtxGetStreamPriorityRange(null_mut(), null_mut()));
    assert_eq!((least, greatest), (0, -5));
    for wrong in [0x100, 3, 7] {
        assert_eq!(
            cu!(cuCtxCreate_v2(&mut null_mut(), wrong, 0)),
            CuResult::INVALID_VALUE
        );
    }
    assert_eq!(
        cu!(cuCtxCreate_v2(null_mut(), 0, 0)),
        CuResult::INVALID_VALUE
    );
    let mut other = null_mut();
    assert_eq!(
        cu!(cuCtxCreate_v3(&mut other, null_mut(), 1, 0, 0)),
        CuResult::UNSUPPORTED_EXEC_AFFINITY
    );
    ok!(cuCtxCreate_v4(&mut other, null_mut(), 4, 0));
    ok!(cuCtxGetFlags(&mut flags));
    assert_eq!(flags, 4);
    ok!(cuCtxDestroy_v2(other));
}

#[test]
fn the_primary_context_counts_its_users() {
    if in_child("the_primary_context_counts_its_users", &[]) {
        ok!(cuInit(0));
        let (mut flags, mut active, mut first, mut second) = (1, 1, null_mut(), null_mut());
        let mut state = || {
            ok!(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
            (flags, active)
        };
        assert_eq!(state(), (0, 0));
        assert_eq!(
            cu!(cuDevicePrimaryCtxRelease_v2(0)),
            CuResult::INVALID_CONTEXT
        );
        ok!(cuDevicePrimaryCtxSetFlags_v2(0, 4));
        assert_eq!(
            cu!(cuDevicePrimaryCtxSetFlags_v2(0, 3)),
            CuResult::INVALID_VALUE
        );
        ok!(cuDevicePrimaryCtxRetain(&mut first, 0));
        ok!(cuDevicePrimaryCtxRetain(&mut second, 0));
        assert_eq!(first, second);
        assert_eq!(state(), (4, 1));
        assert_eq!(cu!(cuCtxDestroy_v2(first)), CuResult::INVALID_CONTEXT);
        ok!(cuCtxSetCurrent(first));
        let address = api_common::alloc(100);
        ok!(cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(api_common::word(address), 0);
        ok!(cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(state(), (4, 0));
        assert_eq!(cu!(cuCtxSynchronize()), CuResult::CONTEXT_IS_DESTROYED);
        assert_eq!(cu!(cuCtxSetCurrent(first)), CuResult::INVALID_CONTEXT);

        ok!(cuDevicePrimaryCtxRetain(&mut second, 0));
        assert_eq!(first, second);
        ok!(cuCtxSetCurrent(second));
        assert_eq!(
            cu!(cuMemcpyDtoH_v2((&raw mut first).cast(), address, 8)),
            CuResult::INVALID_VALUE
        );
        let (mut free, mut total) = (0, 0);
        ok!(cuMemGetInfo_v2(&mut free, &mut total));
        assert_eq!(free, total);
        ok!(cuDevicePrimaryCtxReset_v2(0));
        assert_eq!(state(), (4, 0));
        assert_eq!(cu!(cuCtxSynchronize()), CuResult::CONTEXT_IS_DESTROYED);
        ok!(cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(
            cu!(cuDevicePrimaryCtxRelease_v2(0)),
            CuResult::INVALID_CONTEXT
        );
    }
}

#[test]
fn a_forked_child_has_no_driver_and_ends() {
    if in_child("a_forked_child_has_no_driver_and_ends", &[]) {
        let context = Fresh::new();
        let address = api_common::alloc(100);
        let stream = api_common::stream(0);
        ok!(cuMemsetD8Async(address, 1, 100, stream));
        ok!(cuMemsetD8Async(address, 1, 100, 2 as _));
        let library = library();
        // SAFETY: the child calls only the library and _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let mut status = 0;
            // SAFETY: live places; a thread-local destructor runs with the thread that ends here.
            unsafe {
                status |= i32::from(library.cuInit(0) != CuResult::NOT_INITIALIZED);
                status |=
                    i32::from(library.cuStreamSynchronize(stream) != CuResult::NOT_INITIALIZED)
                        << 1;
                status |=
                    i32::from(library.cuMemFree_v2(address) != CuResult::NOT_INITIALIZED) << 2;
                status |=
                    i32::from(library.cuCtxDestroy_v2(context.0) != CuResult::NOT_INITIALIZED) << 3;
                libc::exit(status);
            }
        }
        let mut status = -1;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child's wait status");
        ok!(cuStreamSynchronize(stream));
    }
}

#[test]
fn a_context_keeps_what_it_was_told() {
    let context = api_common::Fresh::new();
    let (mut config, mut id, mut other) = (0, 0, 0);
    ok!(cuCtxGetSharedMemConfig(&mut config));
    assert_eq!(config, 1);
    ok!(cuCtxSetSharedMemConfig(2));
    ok!(cuCtxGetSharedMemConfig(&mut config));
    assert_eq!(config, 2);
    ok!(cuCtxSetSharedMemConfig(0));
    ok!(cuCtxGetSharedMemConfig(&mut config));
    assert_eq!(config, 1);
    assert_eq!(cu!(cuCtxSetSharedMemConfig(3)), CuResult::INVALID_VALUE);
    ok!(cuCtxGetId(context.0, &mut id));
    ok!(cuCtxGetId(null_mut(), &mut other));
    assert!(id != 0 && id == other);
    assert_eq!(cu!(cuCtxGetId(7 as _, &mut id)), CuResult::INVALID_CONTEXT);
    ok!(cuCtxSetFlags(4));
    let mut flags = 0;
    ok!(cuCtxGetFlags(&mut flags));
    assert_eq!(flags, 4);
    assert_eq!(cu!(cuCtxSetFlags(3)), CuResult::INVALID_VALUE);
    ok!(cuCtxResetPersistingL2Cache());
    ok!(cuProfilerStart());
    ok!(cuProfilerStop());
    {
        let _another = api_common::Fresh::new();
        ok!(cuCtxGetId(null_mut(), &mut other));
        assert_ne!(id, other);
    }
}

#[test]
fn the_last_to_detach_ends_a_context() {
    ok!(cuInit(0));
    let (mut context, mut same) = (null_mut(), null_mut());
    ok!(cuCtxCreate_v2(&mut context, 0, 0));
    ok!(cuCtxAttach(&mut same, 0));
    assert_eq!(same, context);
    assert_eq!(cu!(cuCtxAttach(&mut same, 1)), CuResult::INVALID_VALUE);
    ok!(cuCtxDetach(context));
    let mut flags = 0;
    ok!(cuCtxGetFlags(&mut flags));
    ok!(cuCtxDetach(context));
    assert_eq!(cu!(cuCtxGetFlags(&mut flags)), CuResult::INVALID_CONTEXT);
    assert_eq!(cu!(cuCtxDetach(context)), CuResult::INVALID_CONTEXT);
}

#[test]
fn a_device_says_more_of_itself() {
    ok!(cuInit(0));
    let mut properties = [0i32; 14];
    ok!(cuDeviceGetProperties(properties.as_mut_ptr().cast(), 0));
    for (at, attribute) in (1..=14).enumerate() {
        let mut value = -1;
        ok!(cuDeviceGetAttribute(&mut value, attribute, 0));
        assert_eq!(properties[at], value, "attribute {attribute}");
    }
    let (mut luid, mut mask) = ([0i8; 8], 0);
    assert_eq!(
        cu!(cuDeviceGetLuid(luid.as_mut_ptr(), &mut mask, 0)),
        CuResult::NOT_SUPPORTED
    );
    let (mut texels, mut supported) = (0, 9);
    ok!(cuDeviceGetTexture1DLinearMaxWidth(&mut texels, 0x20, 4, 0));
    assert!(texels > 1 << 10);
    assert_eq!(
        cu!(cuDeviceGetTexture1DLinearMaxWidth(&mut texels, 0x20, 3, 0)),
        CuResult::INVALID_VALUE
    );
    ok!(cuDeviceGetExecAffinitySupport(&mut supported, 0, 0));
    assert_eq!(supported, 0);
    assert_eq!(
        cu!(cuDeviceGetProperties(properties.as_mut_ptr().cast(), 5)),
        CuResult::INVALID_DEVICE
    );
}
