//! Modules, functions and what a launch may ask for.

mod api_common;

use api_common::{Fresh, PTX, alloc, in_child, kernel, library_path, load, word};
use cuda_abi::{CuResult, Handle};
use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

const BROKEN: &CStr = c".version 6.3\n.target sm_75\n.address_size 64\n.visible .entry k()\n{\n  frobnicate.u32 %r1;\n}\n";

#[test]
fn a_broken_text_is_refused_with_its_line() {
    let _context = Fresh::new();
    let mut module = null_mut();
    assert_eq!(
        cu!(cuModuleLoadData(&mut module, BROKEN.as_ptr().cast())),
        CuResult::INVALID_PTX
    );
    let (mut errors, mut info) = ([1u8; 300], [1u8; 10]);
    let mut names = [5, 6, 3, 4, 2, 7];
    let mut values: [*mut c_void; 6] = [
        errors.as_mut_ptr().cast(),
        300 as _,
        info.as_mut_ptr().cast(),
        10 as _,
        null_mut(),
        4 as _,
    ];
    let mut load_ex = |image: &CStr, values: &mut [*mut c_void; 6]| {
        cu!(cuModuleLoadDataEx(
            &mut module,
            image.as_ptr().cast(),
            6,
            names.as_mut_ptr(),
            values.as_mut_ptr()
        ))
    };
    assert_eq!(load_ex(BROKEN, &mut values), CuResult::INVALID_PTX);
    let log = CStr::from_bytes_until_nul(&errors)
        .unwrap()
        .to_str()
        .unwrap();
    assert!(log.contains("line 6"), "{log}");
    assert_eq!(values[1] as usize, log.len());
    assert_eq!((values[3] as usize, info[0]), (0, 0));
    // A short buffer gets what fits and a NUL byte, none at all nothing.
    let mut short = [1u8; 6];
    values[0] = short.as_mut_ptr().cast();
    values[1] = 5 as _;
    assert_eq!(load_ex(BROKEN, &mut values), CuResult::INVALID_PTX);
    assert_eq!(short[4..], [0, 1]);
    values[1] = null_mut();
    short.fill(1);
    assert_eq!(load_ex(BROKEN, &mut values), CuResult::INVALID_PTX);
    assert_eq!(short, [1; 6]);
    // A good text leaves the log empty and says how long it took.
    let good = CString::new(PTX).unwrap();
    values[1] = 5 as _;
    assert_eq!(load_ex(&good, &mut values), CuResult::SUCCESS);
    assert_eq!((values[1] as usize, short[0]), (0, 0));
    assert!(f32::from_bits(values[4] as usize as u32) > 0.0);
    let mut unknown = [999];
    assert_eq!(
        cu!(cuModuleLoadDataEx(
            &mut module,
            good.as_ptr().cast(),
            1,
            unknown.as_mut_ptr(),
            values.as_mut_ptr()
        )),
        CuResult::INVALID_VALUE
    );
}

#[test]
fn the_line_is_logged_where_the_user_asks_for_it() {
    let test = "the_line_is_logged_where_the_user_asks_for_it";
    if std::env::var_os("SOFTCUDA_LOG").is_some() {
        let _context = Fresh::new();
        let result = cu!(cuModuleLoadData(&mut null_mut(), BROKEN.as_ptr().cast()));
        assert_eq!(result, CuResult::INVALID_PTX);
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SOFTCUDA_LOG", "error")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("line 6"), "{log}");
}

#[test]
fn images_that_are_no_text() {
    let _context = Fresh::new();
    let mut module = null_mut();
    let empty_wrapper = [0x0000_0001_4662_43b1_u64, 0, 0];
    let lying_wrapper = [0x0000_0001_4662_43b1_u64, 64, 0];
    for (image, code) in [
        (c"\x7fELF\x02\x01\x01".as_ptr(), CuResult::NO_BINARY_FOR_GPU),
        (empty_wrapper.as_ptr().cast(), CuResult::INVALID_IMAGE),
        (lying_wrapper.as_ptr().cast(), CuResult::INVALID_IMAGE),
    ] {
        let load = [
            cu!(cuModuleLoadData(&mut module, image.cast())),
            cu!(cuModuleLoadFatBinary(&mut module, image.cast())),
        ];
        assert_eq!(load, [code; 2]);
    }
    for text in [c"", c"hello", c"\xff\xfe"] {
        let result = cu!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
        assert_eq!(result, CuResult::INVALID_PTX, "{text:?}");
    }
    assert_eq!(
        cu!(cuModuleLoadData(&mut module, std::ptr::null())),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuModuleLoadData(null_mut(), BROKEN.as_ptr().cast())),
        CuResult::INVALID_VALUE
    );
    assert!(module.is_null());
}

#[test]
fn modules_from_files() {
    let _context = Fresh::new();
    let path = format!("{}/kernels.ptx", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, PTX).unwrap();
    let name = CString::new(path).unwrap();
    let mut module = null_mut();
    ok!(cuModuleLoad(&mut module, name.as_ptr()));
    kernel(module, "empty");
    assert_eq!(
        cu!(cuModuleLoad(&mut module, c"/nonexistent.ptx".as_ptr())),
        CuResult::FILE_NOT_FOUND
    );
    assert_eq!(
        cu!(cuModuleLoad(&mut module, std::ptr::null())),
        CuResult::INVALID_VALUE
    );
}

#[test]
fn names_in_modules() {
    let _context = Fresh::new();
    let module = load();
    let (mut function, mut address, mut bytes, mut owner) = (null_mut(), 0, 0, null_mut());
    assert_eq!(kernel(module, "add"), kernel(module, "add"));
    assert_ne!(kernel(module, "add"), kernel(module, "empty"));
    assert_eq!(
        cu!(cuModuleGetFunction(
            &mut function,
            module,
            c"nothing".as_ptr()
        )),
        CuResult::NOT_FOUND
    );
    assert_eq!(
        cu!(cuModuleGetFunction(&mut function, module, std::ptr::null())),
        CuResult::INVALID_VALUE
    );
    ok!(cuModuleGetGlobal_v2(
        &mut address,
        &mut bytes,
        module,
        c"counter".as_ptr()
    ));
    assert_eq!((word(address), bytes), (42, 4));
    assert_eq!(cu!(cuMemFree_v2(address)), CuResult::INVALID_VALUE);
    ok!(cuModuleGetGlobal_v2(
        &mut address,
        &mut bytes,
        module,
        c"table".as_ptr()
    ));
    assert_eq!((bytes, address % 256, word(address + 996)), (1000, 0, 0));
    ok!(cuModuleGetGlobal_v2(
        &mut address,
        null_mut(),
        module,
        c"limit".as_ptr()
    ));
    assert_eq!(word(address), 7);
    assert_eq!(
        cu!(cuModuleGetGlobal_v2(
            &mut address,
            &mut bytes,
            module,
            c"empty".as_ptr()
        )),
        CuResult::NOT_FOUND
    );
    let empty = kernel(module, "empty");
    ok!(cuFuncGetModule(&mut owner, empty));
    assert_eq!(owner, module);

    ok!(cuModuleUnload(module));
    assert_eq!(cu!(cuModuleUnload(module)), CuResult::INVALID_HANDLE);
    assert_eq!(
        cu!(cuModuleGetFunction(&mut function, module, c"add".as_ptr())),
        CuResult::INVALID_HANDLE
    );
    assert_eq!(
        api_common::launch(empty, null_mut(), &mut []),
        CuResult::INVALID_HANDLE
    );
    assert_eq!(
        cu!(cuFuncGetModule(&mut owner, empty)),
        CuResult::INVALID_HANDLE
    );
    assert_eq!(
        cu!(cuMemcpyDtoD_v2(address, address, 4)),
        CuResult::INVALID_VALUE
    );
}

#[test]
fn a_module_keeps_its_variables_between_launches() {
    let _context = Fresh::new();
    let (first, second) = (load(), load());
    let counter = |module| {
        let mut address = 0;
        ok!(cuModuleGetGlobal_v2(
            &mut address,
            null_mut(),
            module,
            c"counter".as_ptr()
        ));
        address
    };
    for _ in 0..3 {
        let count = kernel(first, "count");
        assert_eq!(
            api_common::launch(count, null_mut(), &mut []),
            CuResult::SUCCESS
        );
    }
    assert_eq!((word(counter(first)), word(counter(second))), (45, 42));
}

#[test]
fn parameters_and_attributes_of_functions() {
    let _context = Fresh::new();
    let module = load();
    let add = kernel(module, "add");
    let (mut offset, mut bytes, mut value) = (9, 9, 9);
    ok!(cuFuncGetParamInfo(add, 0, &mut offset, &mut bytes));
    assert_eq!((offset, bytes), (0, 8));
    ok!(cuFuncGetParamInfo(add, 1, &mut offset, null_mut()));
    assert_eq!(offset, 8);
    assert_eq!(
        cu!(cuFuncGetParamInfo(add, 2, &mut offset, &mut bytes)),
        CuResult::INVALID_VALUE
    );
    let mut attribute = |name: &str, number| {
        ok!(cuFuncGetAttribute(&mut value, number, kernel(module, name)));
        value
    };
    assert_eq!(attribute("add", 0), 1024);
    assert_eq!(attribute("bounded", 0), 64);
    assert_eq!(attribute("shared", 1), 4096);
    assert_eq!(attribute("add", 2), 8);
    assert!(attribute("add", 4) > 0);
    assert_eq!((attribute("add", 5), attribute("add", 6)), (75, 90));
    assert_eq!(attribute("add", 8), 48 * 1024);
    assert_eq!(attribute("shared", 8), 44 * 1024);
    let shared = kernel(module, "shared");
    for wrong in [(0, 5), (8, -1), (8, 1 << 20), (9, 101), (99, 0)] {
        let result = cu!(cuFuncSetAttribute(shared, wrong.0, wrong.1));
        assert_eq!(result, CuResult::INVALID_VALUE, "{wrong:?}");
    }
    ok!(cuFuncSetAttribute(shared, 8, 90 * 1024));
    ok!(cuFuncSetAttribute(shared, 9, 50));
    assert_eq!(
        (attribute("shared", 8), attribute("shared", 9)),
        (90 * 1024, 50)
    );
    assert_eq!(
        cu!(cuFuncGetAttribute(&mut 0, 99, add)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuFuncGetAttribute(&mut 0, 0, module)),
        CuResult::INVALID_HANDLE
    );
    ok!(cuFuncSetCacheConfig(add, 1));
    assert_eq!(cu!(cuFuncSetCacheConfig(add, 9)), CuResult::INVALID_VALUE);

    let blocks = |function, threads, shared| {
        let mut blocks = -1;
        let result = cu!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
            &mut blocks,
            function,
            threads,
            shared
        ));
        (result == CuResult::SUCCESS).then_some(blocks)
    };
    assert_eq!(blocks(add, 1024, 0), Some(2));
    assert_eq!(blocks(add, 1, 0), Some(32));
    assert_eq!(blocks(add, 32, 49 * 1024), Some(2));
    assert_eq!(blocks(add, 32, 100 * 1024), Some(0));
    assert_eq!(blocks(kernel(module, "bounded"), 65, 0), Some(0));
    assert_eq!(blocks(add, 0, 0), None);
    assert_eq!(blocks(add, -1, 0), None);
}

/// Launches `empty`-like kernels in a shape.
fn shaped(function: Handle, grid: [u32; 3], block: [u32; 3], shared: u32) -> CuResult {
    let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
    cu!(cuLaunchKernel(
        function,
        gx,
        gy,
        gz,
        bx,
        by,
        bz,
        shared,
        null_mut(),
        null_mut(),
        null_mut()
    ))
}

#[test]
fn launches_have_limits() {
    let _context = Fresh::new();
    let module = load();
    let (empty, bounded) = (kernel(module, "empty"), kernel(module, "bounded"));
    let one = [1; 3];
    for block in [[1024, 1, 1], [1, 1024, 1], [16, 1, 64], [8, 8, 16]] {
        assert_eq!(shaped(empty, one, block, 0), CuResult::SUCCESS, "{block:?}");
    }
    for block in [
        [0, 1, 1],
        [1, 0, 1],
        [1, 1, 0],
        [1025, 1, 1],
        [1, 1, 65],
        [1024, 2, 1],
        [u32::MAX; 3],
    ] {
        assert_eq!(
            shaped(empty, one, block, 0),
            CuResult::INVALID_VALUE,
            "{block:?}"
        );
    }
    for grid in [[0, 1, 1], [1, 65536, 1], [1, 1, 65536], [1 << 31, 1, 1]] {
        assert_eq!(
            shaped(empty, grid, one, 0),
            CuResult::INVALID_VALUE,
            "{grid:?}"
        );
    }
    assert_eq!(shaped(empty, [70_000, 1, 1], one, 0), CuResult::SUCCESS);
    assert_eq!(shaped(bounded, one, [64, 1, 1], 0), CuResult::SUCCESS);
    assert_eq!(
        shaped(bounded, one, [65, 1, 1], 0),
        CuResult::LAUNCH_OUT_OF_RESOURCES
    );
    assert_eq!(shaped(empty, one, one, 48 * 1024), CuResult::SUCCESS);
    assert_eq!(
        shaped(empty, one, one, 48 * 1024 + 1),
        CuResult::INVALID_VALUE
    );
    ok!(cuFuncSetAttribute(empty, 8, 60 * 1024));
    assert_eq!(shaped(empty, one, one, 60 * 1024), CuResult::SUCCESS);
    for wrong in [null_mut(), 0x55 as Handle, module, usize::MAX as Handle] {
        assert_eq!(shaped(wrong, one, one, 0), CuResult::INVALID_HANDLE);
    }
    ok!(cuCtxSynchronize());
    // A function runs in streams of its own context only.
    let other = Fresh::new();
    assert_eq!(shaped(empty, one, one, 0), CuResult::INVALID_CONTEXT);
    drop(other);
}

#[test]
fn parameters_come_as_pointers_or_packed() {
    let _context = Fresh::new();
    let module = load();
    let add = kernel(module, "add");
    let mut place = alloc(4);
    let mut value = 5u32;
    let launch = |params: *mut *mut c_void, extra: *mut *mut c_void| {
        cu!(cuLaunchKernel(
            add,
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            null_mut(),
            params,
            extra
        ))
    };
    let mut pointers = [(&raw mut place).cast(), (&raw mut value).cast()];
    assert_eq!(launch(pointers.as_mut_ptr(), null_mut()), CuResult::SUCCESS);
    let mut packed = [0u8; 16];
    packed[..8].copy_from_slice(&place.to_ne_bytes());
    packed[8..12].copy_from_slice(&7u32.to_ne_bytes());
    let mut extra = |mut bytes: usize, pointers: *mut *mut c_void| {
        let buffer = packed.as_mut_ptr().cast();
        let mut extra = [1 as _, buffer, 2 as _, (&raw mut bytes).cast(), null_mut()];
        launch(pointers, extra.as_mut_ptr())
    };
    assert_eq!(extra(12, null_mut()), CuResult::SUCCESS);
    assert_eq!(word(place), 12);
    let wrong = CuResult::INVALID_VALUE;
    assert_eq!(extra(12, pointers.as_mut_ptr()), wrong);
    assert_eq!(launch(null_mut(), null_mut()), wrong);
    for short in [0, 11, usize::MAX] {
        assert_eq!(extra(short, null_mut()), wrong, "{short} bytes");
    }
    let mut unknown = [9 as _, null_mut(), null_mut()];
    assert_eq!(launch(null_mut(), unknown.as_mut_ptr()), wrong);
    let mut hole = [(&raw mut place).cast(), null_mut()];
    assert_eq!(launch(hole.as_mut_ptr(), null_mut()), wrong);
    assert_eq!(word(place), 12);
}

#[test]
fn launches_described_by_a_structure() {
    use cuda_abi::sys::CUlaunchConfig;
    let _context = Fresh::new();
    let module = load();
    let add = kernel(module, "add");
    let mut place = alloc(4);
    let mut value = 5u32;
    let mut params = [(&raw mut place).cast(), (&raw mut value).cast()];
    // SAFETY: all bytes zero is a valid structure of integers and pointers.
    let mut config: CUlaunchConfig = unsafe { std::mem::zeroed() };
    config.gridDimX = 2;
    (config.gridDimY, config.gridDimZ) = (1, 1);
    (config.blockDimX, config.blockDimY, config.blockDimZ) = (3, 1, 1);
    let mut attributes = [0u32; 36];
    config.attrs = attributes.as_mut_ptr().cast();
    let mut launch = |config: &CUlaunchConfig| {
        let config = (&raw const *config).cast();
        cu!(cuLaunchKernelEx(
            config,
            add,
            params.as_mut_ptr(),
            null_mut()
        ))
    };
    assert_eq!(launch(&config), CuResult::SUCCESS);
    attributes[0] = 8; // a priority
    attributes[18] = 2; // a cooperative launch
    config.numAttrs = 1;
    config.attrs = attributes.as_mut_ptr().cast();
    assert_eq!(launch(&config), CuResult::SUCCESS);
    config.numAttrs = 2;
    attributes[20] = 1;
    config.attrs = attributes.as_mut_ptr().cast();
    assert_eq!(launch(&config), CuResult::SUCCESS);
    config.numAttrs = 1000;
    assert_eq!(launch(&config), CuResult::INVALID_VALUE);
    assert_eq!(word(place), 90);
    assert_eq!(
        cu!(cuLaunchKernelEx(
            std::ptr::null(),
            add,
            null_mut(),
            null_mut()
        )),
        CuResult::INVALID_VALUE
    );
}

#[test]
fn cudarc_runs_on_it() {
    use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
    // The loader finds the library by its soname in this folder.
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/as-libcuda");
    if std::env::var_os("LD_LIBRARY_PATH").is_none_or(|path| path != folder) {
        std::fs::create_dir_all(folder).unwrap();
        let link = format!("{folder}/libcuda.so.1");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(library_path(), &link).unwrap();
        let _ = std::fs::remove_file(format!("{folder}/libcuda.so"));
        std::os::unix::fs::symlink(library_path(), format!("{folder}/libcuda.so")).unwrap();
    }
    if in_child("cudarc_runs_on_it", &[("LD_LIBRARY_PATH", folder)]) {
        let context = CudaContext::new(0).unwrap();
        assert!(context.name().unwrap().starts_with("softcuda"));
        let module = context.load_module(PTX.into()).unwrap();
        let add = module.load_function("add").unwrap();
        let streams = [
            context.default_stream(),
            context.new_stream().unwrap(),
            context.default_stream().fork().unwrap(),
        ];
        for stream in &streams {
            let mut place = stream.clone_htod(&[1u32, 2, 3]).unwrap();
            let config = LaunchConfig {
                grid_dim: (4, 1, 1),
                block_dim: (32, 2, 1),
                shared_mem_bytes: 0,
            };
            let value = 2u32;
            for _ in 0..10 {
                // SAFETY: the kernel takes an address and a word.
                unsafe {
                    stream
                        .launch_builder(&add)
                        .arg(&mut place)
                        .arg(&value)
                        .launch(config)
                }
                .unwrap();
            }
            assert_eq!(
                stream.clone_dtoh(&place).unwrap(),
                [1 + 4 * 64 * 10 * 2, 2, 3]
            );
            stream.memset_zeros(&mut place).unwrap();
            assert_eq!(stream.clone_dtoh(&place).unwrap(), [0; 3]);
            stream.synchronize().unwrap();
        }
        context.synchronize().unwrap();
    }
}
