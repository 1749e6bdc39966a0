//! Fat binaries, links and libraries: what a program can load beside one PTX text.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod api_common;

use api_common::{Fresh, alloc, kernel, launch, word};
use cuda_abi::{CuResult, Handle};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

const HEAD: &str = ".version 7.0\n.target sm_75\n.address_size 64\n";

/// Uses a function and a variable of another module, and has a static one of its own.
const CALLER: &str = r#"
.extern .func (.param .u32 result) twice(.param .u32 value);
.extern .global .align 4 .u32 offset;
.global .align 4 .u32 own = 1000;

.visible .entry run(.param .u64 out, .param .u32 value)
{
    .reg .b32 %r<8>;
    .reg .b64 %d<3>;
    ld.param.u64 %d1, [out];
    ld.param.u32 %r1, [value];
    {
        .param .b32 p0;
        .param .b32 q0;
        st.param.b32 [p0], %r1;
        call.uni (q0), twice, (p0);
        ld.param.b32 %r2, [q0];
    }
    ld.global.u32 %r3, [offset];
    ld.global.u32 %r4, [own];
    add.u32 %r5, %r2, %r3;
    add.u32 %r6, %r5, %r4;
    st.global.u32 [%d1], %r6;
    ret;
}
"#;

const CALLEE: &str = r#"
.global .align 4 .u32 own = 20000;
.visible .global .align 4 .u32 offset = 7;

.visible .func (.param .u32 result) twice(.param .u32 value)
{
    .reg .b32 %r<5>;
    ld.param.u32 %r1, [value];
    add.u32 %r2, %r1, %r1;
    ld.global.u32 %r3, [own];
    add.u32 %r4, %r2, %r3;
    st.param.b32 [result], %r4;
    ret;
}
"#;

fn text(body: &str) -> CString {
    CString::new(format!("{HEAD}{body}")).unwrap()
}

/// A fat binary in its wrapper, one PTX text per architecture.
struct FatBinary {
    _image: Vec<u8>,
    wrapper: [u64; 3],
}

impl FatBinary {
    fn new(files: &[(u16, u32, &[u8])]) -> FatBinary {
        let mut body = Vec::new();
        for (kind, arch, contents) in files {
            let room = contents.len().next_multiple_of(8);
            let mut header = [0u8; 64];
            header[0..2].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&64u32.to_le_bytes());
            header[8..16].copy_from_slice(&(room as u64).to_le_bytes());
            header[28..32].copy_from_slice(&arch.to_le_bytes());
            body.extend(header);
            body.extend(*contents);
            body.resize(body.len() + room - contents.len(), 0);
        }
        let mut image = 0xba55_ed50_u32.to_le_bytes().to_vec();
        image.extend(1u16.to_le_bytes());
        image.extend(16u16.to_le_bytes());
        image.extend((body.len() as u64).to_le_bytes());
        image.extend(body);
        let wrapper = [0x1_4662_43b1, image.as_ptr() as u64, 0];
        FatBinary {
            _image: image,
            wrapper,
        }
    }

    fn address(&self) -> *const c_void {
        self.wrapper.as_ptr().cast()
    }
}

#[test]
fn the_newest_ptx_of_a_fat_binary_is_loaded() {
    let _context = Fresh::new();
    let old = text(".visible .entry old() { ret; }");
    let new = text(".visible .entry new() { ret; }");
    let fat = FatBinary::new(&[
        (1, 60, old.to_bytes()),
        (2, 90, b"\x7fELF"),
        (1, 80, new.to_bytes()),
    ]);
    let mut module = null_mut();
    ok!(cuModuleLoadFatBinary(&mut module, fat.address()));
    kernel(module, "new");
    let mut count = 0;
    ok!(cuModuleGetFunctionCount(&mut count, module));
    assert_eq!(count, 1);
    let without = FatBinary::new(&[(2, 90, b"\x7fELF")]);
    assert_eq!(
        cu!(cuModuleLoadData(&mut module, without.address())),
        CuResult::NO_BINARY_FOR_GPU
    );
}

/// A link with an error log.
struct Link {
    link: Handle,
    log: Box<[u8; 400]>,
    _options: Box<([i32; 2], [*mut c_void; 2])>,
}

impl Link {
    fn new() -> Link {
        let mut log = Box::new([1u8; 400]);
        let values = [log.as_mut_ptr().cast(), 400 as *mut c_void];
        let mut options = Box::new(([5, 6], values));
        let mut link = null_mut();
        ok!(cuLinkCreate_v2(
            2,
            options.0.as_mut_ptr(),
            options.1.as_mut_ptr(),
            &mut link
        ));
        Link {
            link,
            log,
            _options: options,
        }
    }

    fn add(&self, name: &CStr, body: &str) -> CuResult {
        let text = text(body);
        cu!(cuLinkAddData_v2(
            self.link,
            1,
            text.as_ptr().cast_mut().cast(),
            text.as_bytes().len(),
            name.as_ptr(),
            0,
            null_mut(),
            null_mut()
        ))
    }

    fn complete(&self) -> Result<(*mut c_void, usize), CuResult> {
        let (mut image, mut bytes) = (null_mut(), 0);
        match cu!(cuLinkComplete(self.link, &mut image, &mut bytes)) {
            CuResult::SUCCESS => Ok((image, bytes)),
            error => Err(error),
        }
    }

    fn log(&self) -> String {
        let log = CStr::from_bytes_until_nul(&self.log[..]).unwrap();
        log.to_str().unwrap().to_owned()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let result = cu!(cuLinkDestroy(self.link));
        if !std::thread::panicking() {
            assert_eq!(result, CuResult::SUCCESS);
        }
    }
}

/// Runs `run(out, value)`.
fn run(module: Handle, value: u32) -> u32 {
    let out = alloc(4);
    let function = kernel(module, "run");
    let mut params: [*mut c_void; 2] = [
        (&raw const out).cast_mut().cast(),
        (&raw const value).cast_mut().cast(),
    ];
    assert_eq!(launch(function, null_mut(), &mut params), CuResult::SUCCESS);
    ok!(cuCtxSynchronize());
    word(out)
}

#[test]
fn modules_are_linked_and_run_as_one() {
    let _context = Fresh::new();
    for order in [[CALLER, CALLEE], [CALLEE, CALLER]] {
        let link = Link::new();
        for part in order {
            assert_eq!(link.add(c"part", part), CuResult::SUCCESS);
        }
        let (image, bytes) = link.complete().unwrap();
        assert!(bytes > CALLER.len() + CALLEE.len());
        assert_eq!(link.log(), "");
        // Nothing is added behind a completed link, which goes on giving its image.
        assert_eq!(link.add(c"late", CALLEE), CuResult::INVALID_VALUE);
        assert_eq!(link.complete(), Ok((image, bytes)));
        let mut module = null_mut();
        ok!(cuModuleLoadData(&mut module, image));
        assert_eq!(run(module, 5), 5 + 5 + 20000 + 7 + 1000);
        // The image is one that a file may hold and another link take.
        let path = format!("{}/linked", env!("CARGO_TARGET_TMPDIR"));
        // SAFETY: the link's image has so many bytes and lives as long as the link.
        let contents = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), bytes) };
        std::fs::write(&path, contents).unwrap();
        let path = CString::new(path).unwrap();
        let mut again = null_mut();
        ok!(cuModuleLoad(&mut again, path.as_ptr()));
        assert_eq!(run(again, 6), 6 + 6 + 20000 + 7 + 1000);
        let second = Link::new();
        ok!(cuLinkAddFile_v2(
            second.link,
            0,
            path.as_ptr(),
            0,
            null_mut(),
            null_mut()
        ));
        let (image, _) = second.complete().unwrap();
        ok!(cuModuleLoadData(&mut again, image));
        assert_eq!(run(again, 7), 7 + 7 + 20000 + 7 + 1000);
    }
}

#[test]
fn what_does_not_link_is_named_with_module_and_line() {
    let _context = Fresh::new();
    let undefined = Link::new();
    assert_eq!(undefined.add(c"first.ptx", CALLER), CuResult::SUCCESS);
    assert_eq!(undefined.complete(), Err(CuResult::INVALID_PTX));
    let log = undefined.log();
    assert!(log.contains("first.ptx") && log.contains("line"), "{log}");

    let twice = Link::new();
    assert_eq!(twice.add(c"one.ptx", CALLEE), CuResult::SUCCESS);
    assert_eq!(twice.add(c"two.ptx", CALLEE), CuResult::SUCCESS);
    assert_eq!(twice.complete(), Err(CuResult::INVALID_PTX));
    let log = twice.log();
    assert!(log.contains("two.ptx, PTX line 6"), "{log}");
    assert!(log.contains("offset is defined twice"), "{log}");

    // A mistake in one text alone is told at once.
    let broken = Link::new();
    let result = broken.add(c"broken.ptx", ".visible .entry k() {\n\n  what is this\n}");
    assert_eq!(result, CuResult::INVALID_PTX);
    let log = broken.log();
    assert!(log.contains("broken.ptx, PTX line 6"), "{log}");
    assert_eq!(
        broken.complete(),
        Err(CuResult::INVALID_IMAGE),
        "nothing to link"
    );
}

#[test]
fn links_check_what_they_are_given() {
    let _context = Fresh::new();
    let link = Link::new();
    let text = text(CALLEE);
    let data = text.as_ptr().cast_mut().cast::<c_void>();
    let add = |link, kind, data: *mut c_void, bytes| {
        cu!(cuLinkAddData_v2(
            link,
            kind,
            data,
            bytes,
            null(),
            0,
            null_mut(),
            null_mut()
        ))
    };
    assert_eq!(add(link.link, 1, null_mut(), 4), CuResult::INVALID_VALUE);
    assert_eq!(add(link.link, 1, data, 0), CuResult::INVALID_VALUE);
    assert_eq!(add(link.link, 6, data, 4), CuResult::INVALID_VALUE);
    assert_eq!(add(link.link, 3, data, 4), CuResult::NO_BINARY_FOR_GPU);
    assert_eq!(add(null_mut(), 1, data, 4), CuResult::INVALID_HANDLE);
    let elf = c"\x7fELF\x02".as_ptr().cast_mut().cast();
    assert_eq!(add(link.link, 0, elf, 5), CuResult::NO_BINARY_FOR_GPU);
    assert_eq!(
        cu!(cuLinkAddFile_v2(
            link.link,
            1,
            c"/nonexistent".as_ptr(),
            0,
            null_mut(),
            null_mut()
        )),
        CuResult::FILE_NOT_FOUND
    );
    assert_eq!(
        cu!(cuLinkComplete(link.link, null_mut(), null_mut())),
        CuResult::INVALID_VALUE
    );
    assert_eq!(cu!(cuLinkDestroy(null_mut())), CuResult::INVALID_HANDLE);
}

const LIBRARY: &str = r#"
.visible .global .align 4 .u32 counter = 40;
.visible .global .attribute(.managed) .align 4 .u32 shown = 3;

.visible .entry up(.param .u64 out, .param .u32 by)
.maxntid 128, 1, 1
{
    .reg .b32 %r<4>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [out];
    ld.param.u32 %r1, [by];
    ld.global.u32 %r2, [counter];
    add.u32 %r3, %r2, %r1;
    st.global.u32 [counter], %r3;
    st.global.u32 [%d1], %r3;
    st.global.u32 [shown], %r3;
    ret;
}

.visible .entry other()
{
    ret;
}
"#;

fn library(image: *const c_void) -> Result<Handle, CuResult> {
    let mut library = null_mut();
    match cu!(cuLibraryLoadData(
        &mut library,
        image,
        null_mut(),
        null_mut(),
        0,
        null_mut(),
        null_mut(),
        0
    )) {
        CuResult::SUCCESS => Ok(library),
        error => Err(error),
    }
}

fn up(function: Handle, by: u32) -> u32 {
    let out = alloc(4);
    let mut params: [*mut c_void; 2] = [
        (&raw const out).cast_mut().cast(),
        (&raw const by).cast_mut().cast(),
    ];
    assert_eq!(launch(function, null_mut(), &mut params), CuResult::SUCCESS);
    ok!(cuCtxSynchronize());
    word(out)
}

#[test]
fn a_library_has_a_module_in_each_context() {
    ok!(cuInit(0));
    let text = text(LIBRARY);
    // No context is needed to load one.
    let library = library(text.as_ptr().cast()).unwrap();
    let mut kernel = null_mut();
    ok!(cuLibraryGetKernel(&mut kernel, library, c"up".as_ptr()));
    let first = Fresh::new();
    assert_eq!(up(kernel, 1), 41);
    assert_eq!(up(kernel, 1), 42);
    let (mut address, mut bytes) = (0, 0);
    ok!(cuLibraryGetGlobal(
        &mut address,
        &mut bytes,
        library,
        c"counter".as_ptr()
    ));
    assert_eq!((word(address), bytes), (42, 4));
    {
        // Another context starts afresh; the kernel's handle is the same.
        let _second = Fresh::new();
        assert_eq!(up(kernel, 5), 45);
    }
    ok!(cuCtxSetCurrent(first.0));
    assert_eq!(up(kernel, 1), 43);
    // Its functions are those of its module.
    let (mut module, mut function, mut same) = (null_mut(), null_mut(), null_mut());
    ok!(cuLibraryGetModule(&mut module, library));
    ok!(cuKernelGetFunction(&mut function, kernel));
    ok!(cuModuleGetFunction(&mut same, module, c"up".as_ptr()));
    assert_eq!(function, same);
    assert_eq!(up(function, 1), 44);
    // Managed variables are read by the host where they are.
    ok!(cuLibraryGetManaged(
        &mut address,
        &mut bytes,
        library,
        c"shown".as_ptr()
    ));
    // SAFETY: a managed variable of four bytes.
    assert_eq!(unsafe { (address as *const u32).read_volatile() }, 44);
    assert_eq!(
        cu!(cuLibraryGetManaged(
            &mut address,
            &mut bytes,
            library,
            c"counter".as_ptr()
        )),
        CuResult::NOT_FOUND
    );
    ok!(cuLibraryUnload(library));
    assert_eq!(cu!(cuLibraryUnload(library)), CuResult::INVALID_HANDLE);
    for gone in [kernel, function] {
        assert_eq!(launch(gone, null_mut(), &mut []), CuResult::INVALID_HANDLE);
    }
}

#[test]
fn kernels_describe_themselves() {
    let _context = Fresh::new();
    let text = text(LIBRARY);
    let library = library(text.as_ptr().cast()).unwrap();
    let mut count = 0;
    ok!(cuLibraryGetKernelCount(&mut count, library));
    assert_eq!(count, 2);
    let mut kernels = [null_mut(); 3];
    ok!(cuLibraryEnumerateKernels(kernels.as_mut_ptr(), 3, library));
    assert!(kernels[2].is_null());
    let mut up = null_mut();
    ok!(cuLibraryGetKernel(&mut up, library, c"up".as_ptr()));
    assert!(kernels[..2].contains(&up));
    let mut name: *const c_char = null();
    ok!(cuKernelGetName(&mut name, up));
    // SAFETY: the driver gave a C string that lives as long as the kernel.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"up");
    ok!(cuFuncGetName(&mut name, up));
    // SAFETY: as above.
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"up");
    let mut found = null_mut();
    ok!(cuKernelGetLibrary(&mut found, up));
    assert_eq!(found, library);
    let (mut offset, mut bytes) = (0, 0);
    ok!(cuKernelGetParamInfo(up, 1, &mut offset, &mut bytes));
    assert_eq!((offset, bytes), (8, 4));
    assert_eq!(
        cu!(cuKernelGetParamInfo(up, 2, &mut offset, &mut bytes)),
        CuResult::INVALID_VALUE
    );
    let mut value = 0;
    ok!(cuKernelGetAttribute(&mut value, 0, up, 0));
    assert_eq!(value, 128);
    ok!(cuKernelSetAttribute(8, 60_000, up, 0));
    ok!(cuKernelGetAttribute(&mut value, 8, up, 0));
    assert_eq!(value, 60_000);
    ok!(cuFuncGetAttribute(&mut value, 8, up));
    assert_eq!(value, 60_000);
    ok!(cuKernelSetCacheConfig(up, 1, 0));
    assert_eq!(
        cu!(cuKernelGetAttribute(&mut value, 0, up, 9)),
        CuResult::INVALID_DEVICE
    );
    assert_eq!(
        cu!(cuKernelSetAttribute(0, 1, up, 0)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuKernelGetName(&mut name, null_mut())),
        CuResult::INVALID_HANDLE
    );
    let mut function = null_mut();
    assert_eq!(
        cu!(cuLibraryGetUnifiedFunction(
            &mut function,
            library,
            c"up".as_ptr()
        )),
        CuResult::NOT_FOUND
    );
    assert_eq!(
        cu!(cuLibraryGetKernel(&mut up, library, c"nothing".as_ptr())),
        CuResult::NOT_FOUND
    );
    ok!(cuLibraryUnload(library));
}

#[test]
fn libraries_from_files_and_bad_images() {
    ok!(cuInit(0));
    assert_eq!(library(null()), Err(CuResult::INVALID_VALUE));
    assert_eq!(
        library(c"nonsense".as_ptr().cast()),
        Err(CuResult::INVALID_PTX)
    );
    assert_eq!(
        library(c"\x7fELF".as_ptr().cast()),
        Err(CuResult::NO_BINARY_FOR_GPU)
    );
    let path = format!("{}/library.ptx", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, format!("{HEAD}{LIBRARY}")).unwrap();
    let path = CString::new(path).unwrap();
    let mut library = null_mut();
    let mut load = |path: *const c_char, option: i32| {
        let mut options = [option];
        cu!(cuLibraryLoadFromFile(
            &mut library,
            path,
            null_mut(),
            null_mut(),
            0,
            options.as_mut_ptr(),
            null_mut(),
            1
        ))
    };
    assert_eq!(load(path.as_ptr(), 9), CuResult::INVALID_VALUE);
    assert_eq!(load(c"/nonexistent".as_ptr(), 0), CuResult::FILE_NOT_FOUND);
    assert_eq!(load(path.as_ptr(), 1), CuResult::SUCCESS);
    ok!(cuLibraryUnload(library));
}

#[test]
fn functions_of_a_module_describe_themselves() {
    let _context = Fresh::new();
    let text = text(LIBRARY);
    let mut module = null_mut();
    ok!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
    let mut mode = 0;
    ok!(cuModuleGetLoadingMode(&mut mode));
    assert_eq!(mode, 1);
    let mut functions = [null_mut(); 2];
    ok!(cuModuleEnumerateFunctions(
        functions.as_mut_ptr(),
        2,
        module
    ));
    let up = kernel(module, "up");
    assert!(functions.contains(&up) && functions[0] != functions[1]);
    assert_eq!(
        cu!(cuModuleEnumerateFunctions(
            functions.as_mut_ptr(),
            0,
            module
        )),
        CuResult::INVALID_VALUE
    );
    ok!(cuFuncLoad(up));
    ok!(cuFuncIsLoaded(&mut mode, up));
    assert_eq!(mode, 1);
    ok!(cuFuncSetSharedMemConfig(up, 2));
    assert_eq!(
        cu!(cuFuncSetSharedMemConfig(up, 3)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(cu!(cuFuncLoad(module)), CuResult::INVALID_HANDLE);
}

extern "C" fn a_kilobyte_per_thread(threads: i32) -> usize {
    threads as usize * 1024
}

#[test]
fn block_sizes_that_fill_the_device() {
    let _context = Fresh::new();
    let text = text(LIBRARY);
    let mut module = null_mut();
    ok!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
    let (up, other) = (kernel(module, "up"), kernel(module, "other"));
    let (mut grid, mut block, mut cores) = (0, 0, 0);
    ok!(cuDeviceGetAttribute(&mut cores, 16, 0));
    ok!(cuOccupancyMaxPotentialBlockSize(
        &mut grid,
        &mut block,
        other,
        null(),
        0,
        0
    ));
    assert_eq!((block, grid), (1024, 2 * cores));
    ok!(cuOccupancyMaxPotentialBlockSize(
        &mut grid,
        &mut block,
        up,
        null(),
        0,
        0
    ));
    assert_eq!(block, 128, "the kernel's own limit");
    ok!(cuOccupancyMaxPotentialBlockSizeWithFlags(
        &mut grid,
        &mut block,
        other,
        null(),
        0,
        96,
        0
    ));
    assert!(block <= 96 && block % 32 == 0);
    // A block of 96 threads wants 96 KiB and one more for itself: two do not fit.
    let callback = a_kilobyte_per_thread as *const c_void;
    ok!(cuOccupancyMaxPotentialBlockSize(
        &mut grid, &mut block, other, callback, 0, 0
    ));
    assert_eq!((block, grid), (96, cores));
    let mut bytes = 0;
    ok!(cuOccupancyAvailableDynamicSMemPerBlock(
        &mut bytes, other, 2, 64
    ));
    let mut blocks = 0;
    ok!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &mut blocks,
        other,
        64,
        bytes
    ));
    assert_eq!(blocks, 2);
    ok!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &mut blocks,
        other,
        64,
        bytes + 1
    ));
    assert_eq!(blocks, 1);
    assert_eq!(
        cu!(cuOccupancyAvailableDynamicSMemPerBlock(
            &mut bytes, other, 99, 64
        )),
        CuResult::INVALID_VALUE
    );
}
