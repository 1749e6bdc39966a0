//! What launches share with the program: grid-wide barriers, what kernels print and assert, their heap,
//! how long they may take, and the limits that launches have.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod api_common;

use api_common::*;
use cuda_abi::{CuResult, Handle};
use std::ffi::c_void;
use std::process::{Command, Output};
use std::ptr::null_mut;

const KERNELS: &str = r#"
.version 7.5
.target sm_75
.address_size 64
.extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);
.extern .func __assertfail (.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 c);
.extern .func (.param .b64 r) malloc (.param .b64 n);
.global .align 1 .b8 line[10] = {98, 108, 111, 99, 107, 32, 37, 100, 10, 0};
.global .align 1 .b8 what[4] = {120, 62, 48, 0};
.global .align 1 .b8 file[5] = {97, 46, 99, 117, 0};

.visible .entry print() {
    .local .align 8 .b8 list[8]; .reg .b64 %y<3>; .reg .b32 %r<2>;
    mov.u32 %r0, %ctaid.x; st.local.u32 [list], %r0;
    mov.u64 %y0, line; cvta.global.u64 %y0, %y0; mov.u64 %y1, list; cvta.local.u64 %y1, %y1;
    { .param .b64 p; .param .b64 q; .param .b32 r; st.param.b64 [p], %y0; st.param.b64 [q], %y1; call (r), vprintf, (p, q); }
    ret;
}
.visible .entry fail() {
    .reg .b64 %y<2>;
    mov.u64 %y0, what; mov.u64 %y1, file;
    { .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;
      st.param.b64 [a], %y0; st.param.b64 [b], %y1; st.param.b32 [c], 17; st.param.b64 [d], %y1; st.param.b64 [e], 1;
      call __assertfail, (a, b, c, d, e); }
    ret;
}
.visible .entry take(.param .u64 out, .param .u64 bytes) {
    .reg .b64 %y<3>;
    ld.param.u64 %y0, [out]; ld.param.u64 %y1, [bytes];
    { .param .b64 n; .param .b64 r; st.param.b64 [n], %y1; call (r), malloc, (n); ld.param.b64 %y2, [r]; }
    st.global.u64 [%y0], %y2; ret;
}
.visible .entry spin() { again: bra again; }
.visible .entry sum(.param .u64 out) {
    .reg .b32 %r<10>; .reg .b64 %y<4>; .reg .pred %p<4>;
    ld.param.u64 %y1, [out]; mov.u32 %r3, %ctaid.x; mov.u32 %r4, %nctaid.x;
    atom.global.add.u32 %r8, [%y1], 1;
    mov.u32 %r1, %envreg1; mov.u32 %r2, %envreg2; mov.b64 %y0, {%r2, %r1}; add.u64 %y0, %y0, 4;
    setp.eq.u32 %p1, %r3, 0; mov.u32 %r5, 0x80000001; sub.u32 %r5, %r5, %r4; selp.b32 %r5, %r5, 1, %p1;
    membar.gl; atom.global.add.u32 %r6, [%y0], %r5;
    again: ld.volatile.global.u32 %r7, [%y0]; xor.b32 %r7, %r7, %r6; setp.ge.s32 %p2, %r7, 0; @%p2 bra again;
    ld.volatile.global.u32 %r8, [%y1]; mad.wide.u32 %y2, %r3, 4, %y1; st.global.u32 [%y2+4], %r8;
    ret;
}
"#;

/// Runs the rest of a test in a process of its own; its output, or nothing in that process.
fn child(test: &str, variables: &[(&str, &str)]) -> Option<Output> {
    const CHILD: &str = "SOFTCUDA_LAUNCH_CHILD";
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(output)
}

fn launch_blocks(function: Handle, blocks: u32, params: &mut [*mut c_void]) -> CuResult {
    cu!(cuLaunchKernel(
        function,
        blocks,
        1,
        1,
        1,
        1,
        1,
        0,
        null_mut(),
        params.as_mut_ptr(),
        null_mut()
    ))
}

#[test]
fn cooperative_launches_wait_for_all_their_blocks() {
    let _context = Fresh::new();
    let sum = kernel(load_text(KERNELS), "sum");
    let (mut cores, mut resident, mut offered) = (0, 0, 0);
    ok!(cuDeviceGetAttribute(&mut cores, 16, 0));
    ok!(cuDeviceGetAttribute(&mut offered, 95, 0));
    assert_eq!(offered, 1);
    ok!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &mut resident,
        sum,
        1,
        0
    ));
    let most = (cores * resident) as u32;
    let out = alloc(4 * (most as usize + 1));
    let cooperate = |blocks: u32| {
        ok!(cuMemsetD8_v2(out, 0, 4));
        let mut place = out;
        let mut params = [(&raw mut place).cast::<c_void>()];
        cu!(cuLaunchCooperativeKernel(
            sum,
            blocks,
            1,
            1,
            1,
            1,
            1,
            0,
            null_mut(),
            params.as_mut_ptr()
        ))
    };
    for blocks in [1, 3, most, 2] {
        assert_eq!(cooperate(blocks), CuResult::SUCCESS);
        ok!(cuCtxSynchronize());
        for block in 0..=u64::from(blocks) {
            assert_eq!(word(out + 4 * block), blocks);
        }
    }
    for blocks in [most + 1, 1 << 30] {
        assert_eq!(
            cooperate(blocks),
            CuResult::COOPERATIVE_LAUNCH_TOO_LARGE,
            "{blocks}"
        );
    }
    ok!(cuCtxSynchronize());
}

#[test]
fn kernels_print_where_the_program_synchronises() {
    let Some(output) = child("kernels_print_where_the_program_synchronises", &[]) else {
        let _context = Fresh::new();
        let print = kernel(load_text(KERNELS), "print");
        let say = |text: &std::ffi::CStr| {
            // SAFETY: a format without conversions; all streams.
            unsafe {
                libc::printf(text.as_ptr());
                if text == c"end\n" {
                    libc::fflush(null_mut());
                }
            }
        };
        assert_eq!(launch_blocks(print, 1, &mut []), CuResult::SUCCESS);
        assert_eq!(launch_blocks(print, 1, &mut []), CuResult::SUCCESS);
        say(c"launched\n");
        ok!(cuCtxSynchronize());
        say(c"synchronised\n");
        // Only the newest lines have room.
        ok!(cuCtxSetLimit(1, 16));
        for _ in 0..5 {
            assert_eq!(launch_blocks(print, 1, &mut []), CuResult::SUCCESS);
        }
        ok!(cuStreamSynchronize(null_mut()));
        say(c"end\n");
        return;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.contains("launched"))
        .take_while(|line| !line.contains("end"))
        .collect();
    assert_eq!(
        lines[1..],
        ["block 0", "block 0", "synchronised", "block 0", "block 0"],
        "{text}"
    );
}

#[test]
fn failed_assertions_stick_to_the_context() {
    let Some(output) = child("failed_assertions_stick_to_the_context", &[]) else {
        ok!(cuInit(0));
        let mut context = null_mut();
        ok!(cuCtxCreate_v2(&mut context, 0, 0));
        let fail = kernel(load_text(KERNELS), "fail");
        assert_eq!(launch_blocks(fail, 1, &mut []), CuResult::SUCCESS);
        assert_eq!(cu!(cuCtxSynchronize()), CuResult::ASSERT);
        assert_eq!(launch_blocks(fail, 1, &mut []), CuResult::ASSERT);
        return;
    };
    let text = String::from_utf8(output.stderr).unwrap();
    let want = "a.cu:17: a.cu: block: [0,0,0], thread: [0,0,0] Assertion `x>0` failed.\n";
    assert!(text.contains(want), "{text}");
}

#[test]
fn the_heap_has_the_size_that_the_limit_says() {
    let _context = Fresh::new();
    ok!(cuCtxSetLimit(2, 1 << 20));
    let take = kernel(load_text(KERNELS), "take");
    let out = alloc(8);
    let chunk = |bytes: u64| {
        let (mut place, mut bytes) = (out, bytes);
        let mut params = [(&raw mut place).cast(), (&raw mut bytes).cast()];
        assert_eq!(launch_blocks(take, 1, &mut params), CuResult::SUCCESS);
        ok!(cuCtxSynchronize());
        u64::from(word(out + 4)) << 32 | u64::from(word(out))
    };
    assert_eq!(chunk((1 << 20) + 1), 0);
    let first = chunk(1 << 19);
    assert_ne!(first, 0);
    assert_eq!(chunk((1 << 19) + 1), 0);
    assert_eq!(chunk(1 << 19), first + (1 << 19));
    assert_eq!(chunk(1), 0);
    // It cannot change any more, and is not the program's to free.
    assert_eq!(cu!(cuCtxSetLimit(2, 1 << 21)), CuResult::INVALID_VALUE);
    assert_eq!(cu!(cuMemFree_v2(first)), CuResult::INVALID_VALUE);
}

#[test]
fn endless_launches_time_out() {
    let variables = [("SOFTCUDA_TIMEOUT", "0.2")];
    if child("endless_launches_time_out", &variables).is_none() {
        ok!(cuInit(0));
        let mut context = null_mut();
        ok!(cuCtxCreate_v2(&mut context, 0, 0));
        let module = load_text(KERNELS);
        assert_eq!(
            launch_blocks(kernel(module, "print"), 4, &mut []),
            CuResult::SUCCESS
        );
        ok!(cuCtxSynchronize());
        assert_eq!(
            launch_blocks(kernel(module, "spin"), 4, &mut []),
            CuResult::SUCCESS
        );
        assert_eq!(cu!(cuCtxSynchronize()), CuResult::LAUNCH_TIMEOUT);
        assert_eq!(cu!(cuCtxSynchronize()), CuResult::LAUNCH_TIMEOUT);
    }
}

#[test]
fn deeper_stacks_are_to_be_had() {
    // Each call has a kilobyte of its own.
    let text = ".version 7.5\n.target sm_75\n.address_size 64\n
        .func down(.param .b32 n) { .local .align 4 .b8 own[1024]; .reg .b32 %r<3>; .reg .pred %p;
            ld.param.u32 %r0, [n]; st.local.u32 [own], %r0; setp.eq.u32 %p, %r0, 0; @%p ret; sub.u32 %r1, %r0, 1;
            { .param .b32 a; st.param.b32 [a], %r1; call down, (a); } ld.local.u32 %r2, [own]; setp.ne.u32 %p, %r2, %r0; @%p trap; ret; }
        .visible .entry k(.param .u32 n) { .reg .b32 %r; ld.param.u32 %r, [n]; { .param .b32 a; st.param.b32 [a], %r; call down, (a); } ret; }";
    let down = |context: &Fresh, depth: u32| {
        let _ = context;
        let k = kernel(load_text(text), "k");
        let mut depth = depth;
        let mut params = [(&raw mut depth).cast()];
        assert_eq!(launch_blocks(k, 2, &mut params), CuResult::SUCCESS);
        cu!(cuCtxSynchronize())
    };
    let context = Fresh::new();
    assert_eq!(down(&context, 50), CuResult::SUCCESS);
    ok!(cuCtxSetLimit(0, 400 << 10));
    assert_eq!(down(&context, 300), CuResult::SUCCESS);
    drop(context);
    ok!(cuInit(0));
    let mut context = null_mut();
    ok!(cuCtxCreate_v2(&mut context, 0, 0));
    let k = kernel(load_text(text), "k");
    let mut depth = 300_u32;
    let mut params = [(&raw mut depth).cast()];
    assert_eq!(launch_blocks(k, 1, &mut params), CuResult::SUCCESS);
    assert_eq!(cu!(cuCtxSynchronize()), CuResult::LAUNCH_FAILED);
    let _ = cu!(cuCtxDestroy_v2(context));
}

#[test]
fn launches_have_the_limits_of_the_device() {
    let _context = Fresh::new();
    let print = kernel(load_text(KERNELS), "print");
    let shape = |grid: [u32; 3], block: [u32; 3], shared: u32| {
        cu!(cuLaunchKernel(
            print,
            grid[0],
            grid[1],
            grid[2],
            block[0],
            block[1],
            block[2],
            shared,
            null_mut(),
            null_mut(),
            null_mut()
        ))
    };
    let one = [1; 3];
    for (grid, block, shared) in [
        ([0, 1, 1], one, 0),
        ([1, 65536, 1], one, 0),
        ([1, 1, 65536], one, 0),
        ([1 << 31, 1, 1], one, 0),
        (one, [0, 1, 1], 0),
        (one, [1025, 1, 1], 0),
        (one, [1, 1025, 1], 0),
        (one, [1, 1, 65], 0),
        (one, [32, 33, 1], 0),
        (one, one, (48 << 10) + 1),
    ] {
        assert_eq!(
            shape(grid, block, shared),
            CuResult::INVALID_VALUE,
            "{grid:?} {block:?} {shared}"
        );
    }
    // More shared memory is there for those who ask.
    assert_eq!(
        cu!(cuFuncSetAttribute(print, 8, (99 << 10) + 1)),
        CuResult::INVALID_VALUE
    );
    ok!(cuFuncSetAttribute(print, 8, 99 << 10));
    assert_eq!(shape(one, one, 99 << 10), CuResult::SUCCESS);
    assert_eq!(shape(one, one, (99 << 10) + 1), CuResult::INVALID_VALUE);
    ok!(cuCtxSynchronize());
    // Parameters: 4352 bytes, and 32764 from PTX 8.1 on.
    for (version, bytes, good) in [
        ("7.5", 4352, true),
        ("7.5", 4356, false),
        ("8.1", 32764, true),
        ("8.1", 32768, false),
    ] {
        let text = format!(
            ".version {version}\n.target sm_75\n.address_size 64\n.visible .entry k(.param .align 4 .b8 p[{bytes}]) {{ ret; }}\0"
        );
        let mut module = null_mut();
        let result = cu!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
        let want = if good {
            CuResult::SUCCESS
        } else {
            CuResult::INVALID_PTX
        };
        assert_eq!(result, want, "{version} {bytes}");
    }
}
