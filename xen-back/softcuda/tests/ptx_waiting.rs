//! Threads and blocks that wait for each other through memory, launches that never end, and the functions
//! that compilers call without defining them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod ptx_common;

use std::time::{Duration, Instant};

use ptx_common::{Args, Device, compile, module};
use softcuda::exec::{Fault, Options, Program, Runtime};

/// A kernel of one 64-bit parameter, in %a; %t is the thread, %b the block.
fn kernel(before: &str, body: &str) -> String {
    format!(
        "{before}
        .visible .entry k(.param .u64 place) {{
            .reg .pred %p<16>; .reg .b32 %r<32>; .reg .b64 %y<16>; .reg .b64 %a; .reg .b32 %t; .reg .b32 %b;
            .reg .f64 %d<4>;
            ld.param.u64 %a, [place]; mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x;
            {body}
            ret;
        }}"
    )
}

/// Runs it on `words` zeroed words and returns them.
fn run(before: &str, body: &str, grid: u32, block: u32, words: usize) -> Vec<u32> {
    let program = compile(&kernel(before, body));
    let mut device = Device::new(1 << 20);
    let place = device.zeros::<u32>(words);
    device
        .launch(&program, "k", grid, block, &Args::new().add(place))
        .unwrap();
    device.download(place, words)
}

#[test]
fn a_thread_alone_sleeps_as_long_as_it_asks() {
    let body = "mov.u64 %y0, %globaltimer; nanosleep.u32 700000; mov.u64 %y1, %globaltimer;
         sub.u64 %y1, %y1, %y0; st.global.u32 [%a], %y1;";
    assert!(run("", body, 1, 1, 1)[0] >= 700_000);
}

#[test]
fn a_lock_between_threads_of_warps_and_blocks() {
    // The holder waits at a warp instruction inside the lock, so that the others do spin.
    let got = run(
        "",
        "mov.u32 %r9, 0;
         spin: atom.global.acquire.gpu.cas.b32 %r0, [%a], 0, 1; setp.ne.u32 %p0, %r0, 0; @%p0 bra spin;
         ld.global.u32 %r1, [%a+4]; activemask.b32 %r2; add.u32 %r1, %r1, 1; st.global.u32 [%a+4], %r1;
         fence.acq_rel.gpu; st.release.gpu.global.u32 [%a], 0;
         add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 3; @%p1 bra spin;",
        4,
        96,
        2,
    );
    assert_eq!(got, [0, 4 * 96 * 3]);
    // In shared memory, with values of all kinds that must survive the waiting.
    let got = run(
        "",
        ".shared .align 4 .b8 lock[8];
         setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [lock], 0; @%p0 st.shared.u32 [lock+4], 0; bar.sync 0;
         mul.lo.u32 %r3, %t, 7; cvt.u64.u32 %y1, %r3; cvt.rn.f64.u32 %d1, %t; setp.lt.u32 %p5, %t, 32;
         spin: ld.volatile.shared.u32 %r0, [lock]; setp.ne.u32 %p1, %r0, %t; @%p1 bra spin;
         cvt.rzi.u32.f64 %r4, %d1; add.u32 %r5, %r3, %r4; cvt.u32.u64 %r6, %y1; add.u32 %r5, %r5, %r6; @%p5 add.u32 %r5, %r5, 1000;
         mad.wide.u32 %y2, %t, 4, %a; st.global.u32 [%y2], %r5;
         add.u32 %r0, %r0, 1; st.volatile.shared.u32 [lock], %r0;
         bar.sync 0;",
        1,
        64,
        64,
    );
    // Thread 0 of the second warp waits for the last of the first, and so on.
    for (t, got) in got.into_iter().enumerate() {
        assert_eq!(got as usize, 15 * t + if t < 32 { 1000 } else { 0 }, "{t}");
    }
}

#[test]
fn producers_and_consumers_in_one_warp() {
    // The last lane produces, all others wait for it: first with a plain volatile load, then in a
    // function, then in a loop of calls to a function that only looks.
    let before = ".func wait_for(.param .b64 p, .param .b32 v) {
            .reg .b64 %y; .reg .b32 %r<3>; .reg .pred %p; ld.param.u64 %y, [p]; ld.param.u32 %r0, [v];
            again: ld.acquire.gpu.u32 %r1, [%y]; setp.lt.u32 %p, %r1, %r0; @%p bra again; ret; }
        .func (.param .b32 r) look(.param .b64 p) {
            .reg .b64 %y; .reg .b32 %r; ld.param.u64 %y, [p]; ld.volatile.u32 %r, [%y]; st.param.b32 [r], %r; ret; }";
    let got = run(
        before,
        "mov.u32 %r5, 0; setp.eq.u32 %p0, %t, 31; @%p0 bra produce;
         spin: ld.volatile.global.u32 %r0, [%a]; setp.eq.u32 %p1, %r0, 0; @%p1 bra spin;
         add.u32 %r5, %r5, %r0;
         atom.global.add.u32 %r9, [%a+8], 1;
         { .param .b64 p; .param .b32 v; st.param.b64 [p], %a; st.param.b32 [v], 2; call wait_for, (p, v); }
         more: { .param .b64 p; .param .b32 r; st.param.b64 [p], %a; call (r), look, (p); ld.param.b32 %r1, [r]; }
         setp.lt.u32 %p2, %r1, 3; @%p2 bra more;
         add.u32 %r5, %r5, %r1; bra out;
         produce: st.volatile.global.u32 [%a], 1;
         all: ld.volatile.global.u32 %r0, [%a+8]; setp.ne.u32 %p3, %r0, 31; @%p3 bra all;
         st.volatile.global.u32 [%a], 2; st.volatile.global.u32 [%a], 3; mov.u32 %r5, 77;
         out: mad.wide.u32 %y0, %t, 4, %a; st.global.u32 [%y0+16], %r5;",
        1,
        32,
        4 + 32,
    );
    for (lane, &got) in got[4..].iter().enumerate() {
        // What the first spin saw is at least 1, and 1 unless the producer was faster.
        let good = if lane == 31 { got == 77 } else { got == 4 };
        assert!(good, "lane {lane}: {got}");
    }
}

#[test]
fn blocks_that_wait_for_earlier_and_for_later_ones() {
    // Decoupled look-back: each block adds its value to what its predecessor published.
    let got = run(
        "",
        "setp.ne.u32 %p0, %t, 0; @%p0 bra out;
         mad.wide.u32 %y0, %b, 8, %a; mov.u32 %r1, 0; setp.eq.u32 %p1, %b, 0; @%p1 bra publish;
         look: ld.acquire.gpu.global.u32 %r0, [%y0-8]; setp.eq.u32 %p2, %r0, 0; @%p2 bra look;
         ld.global.u32 %r1, [%y0-4];
         publish: add.u32 %r1, %r1, %b; add.u32 %r1, %r1, 1; st.global.u32 [%y0+4], %r1;
         st.release.gpu.global.u32 [%y0], 1;
         out: bar.sync 0;",
        300,
        64,
        600,
    );
    for (block, pair) in got.chunks(2).enumerate() {
        assert_eq!(pair[1] as usize, (block + 1) * (block + 2) / 2);
    }
    // Each waits for the next one: more blocks than cores, and as many as may be resident on one.
    let got = run(
        "",
        "mad.wide.u32 %y0, %b, 4, %a; mov.u32 %r2, %nctaid.x; sub.u32 %r2, %r2, 1; setp.eq.u32 %p1, %b, %r2; @%p1 bra publish;
         look: ld.relaxed.gpu.global.u32 %r0, [%y0+4]; setp.eq.u32 %p2, %r0, 0; @%p2 bra look;
         publish: bar.sync 0; st.relaxed.gpu.global.u32 [%y0], 9;",
        20,
        64,
        20,
    );
    assert_eq!(got, [9; 20]);
}

/// Grid-wide synchronisation as CUDA's cooperative groups do it: a counter in the workspace, whose top
/// bit flips when the last block has come.
const GRID_SYNC: &str = ".func grid_sync() {
    .reg .b32 %r<10>; .reg .b64 %y<4>; .reg .pred %p<4>;
    bar.sync 0;
    mov.u32 %r0, %tid.x; setp.ne.u32 %p0, %r0, 0; @%p0 bra done;
    mov.u32 %r1, %envreg1; mov.u32 %r2, %envreg2; mov.b64 %y0, {%r2, %r1}; add.u64 %y0, %y0, 4;
    mov.u32 %r3, %ctaid.x; mov.u32 %r4, %nctaid.x; setp.eq.u32 %p1, %r3, 0;
    mov.u32 %r5, 0x80000001; sub.u32 %r5, %r5, %r4; selp.b32 %r5, %r5, 1, %p1;
    membar.gl; atom.global.add.u32 %r6, [%y0], %r5;
    again: ld.volatile.global.u32 %r7, [%y0]; xor.b32 %r7, %r7, %r6; setp.ge.s32 %p2, %r7, 0; @%p2 bra again;
    membar.gl;
    done: bar.sync 0; ret; }";

#[test]
fn grid_wide_synchronisation_of_cooperative_launches() {
    // In each of 5 steps every block adds what its neighbour has.
    let text = kernel(
        GRID_SYNC,
        "mov.u32 %r0, %nctaid.x; add.u32 %r1, %b, 1; rem.u32 %r1, %r1, %r0; mov.u32 %r2, %ntid.x;
         mad.lo.u32 %r3, %b, %r2, %t; mad.wide.u32 %y0, %r3, 4, %a; mad.lo.u32 %r4, %r1, %r2, %t; mad.wide.u32 %y1, %r4, 4, %a;
         st.global.u32 [%y0], %b; mov.u32 %r8, 0;
         step: call grid_sync, (); ld.global.u32 %r5, [%y1]; call grid_sync, ();
         ld.global.u32 %r6, [%y0]; add.u32 %r6, %r6, %r5; st.global.u32 [%y0], %r6;
         add.u32 %r8, %r8, 1; setp.lt.u32 %p0, %r8, 5; @%p0 bra step;",
    );
    let program = compile(&text);
    let mut device = Device::new(1 << 20);
    let runtime = Runtime::default();
    for (grid, block) in [(1, 32), (2, 128), (8, 100), (16, 64)] {
        let place = device.zeros::<u32>((grid * block) as usize);
        let workspace = device.zeros::<u64>(8);
        device
            .launch_with(
                &program,
                grid,
                block,
                &Args::new().add(place),
                Some(workspace),
                &runtime,
            )
            .unwrap();
        let mut want: Vec<u32> = (0..grid).collect();
        for _ in 0..5 {
            want = (0..grid as usize)
                .map(|b| want[b] + want[(b + 1) % grid as usize])
                .collect();
        }
        let got = device.download::<u32>(place, (grid * block) as usize);
        for (index, got) in got.into_iter().enumerate() {
            assert_eq!(got, want[index / block as usize]);
        }
    }
    // More blocks than run at once, and a workspace that is none.
    let place = device.zeros::<u32>(4);
    for (grid, workspace) in [(1 << 20, place), (1, 64)] {
        let fault = device
            .launch_with(
                &program,
                grid,
                32,
                &Args::new().add(place),
                Some(workspace),
                &runtime,
            )
            .unwrap_err();
        assert!(matches!(fault, Fault::InvalidLaunch(_)), "{fault}");
    }
}

#[test]
fn a_fault_of_one_block_ends_those_that_wait_for_it() {
    let text = kernel(
        "",
        "setp.eq.u32 %p0, %b, 5; @%p0 trap;
         spin: ld.volatile.global.u32 %r0, [%a]; setp.eq.u32 %p1, %r0, 0; @%p1 bra spin;",
    );
    let program = compile(&text);
    let mut device = Device::new(1 << 20);
    let place = device.zeros::<u32>(4);
    let fault = device
        .launch(&program, "k", 16, 32, &Args::new().add(place))
        .unwrap_err();
    assert!(
        matches!(&fault, Fault::Trap(place) if place.block[0] == 5),
        "{fault}"
    );
}

#[test]
fn launches_that_never_end_are_timed_out() {
    for (timed, grid, body) in [
        // Waiting in vain, in one block and in more than the cores.
        (
            false,
            1,
            "spin: ld.volatile.global.u32 %r0, [%a]; setp.eq.u32 %p1, %r0, 0; @%p1 bra spin;",
        ),
        (
            false,
            100,
            "spin: ld.volatile.global.u32 %r0, [%a]; setp.eq.u32 %p1, %r0, 0; @%p1 bra spin;",
        ),
        (false, 3, "spin: bar.sync 0; bra spin;"),
        (false, 3, "spin: bar.warp.sync -1; bra spin;"),
        (true, 3, "spin: bra spin;"),
        (
            true,
            1,
            "spin: add.u32 %r0, %r0, 1; st.global.u32 [%a], %r0; setp.ne.u32 %p0, %t, 99; @%p0 bra spin;",
        ),
    ] {
        let program = Program::compile_with(
            &[&module(&kernel("", body))],
            Options {
                timed,
                ..Options::default()
            },
        )
        .unwrap();
        let mut device = Device::new(1 << 20);
        let place = device.zeros::<u32>(4);
        let runtime = Runtime::new(Some(Duration::from_millis(50)));
        let started = Instant::now();
        let fault = device
            .launch_with(&program, grid, 64, &Args::new().add(place), None, &runtime)
            .unwrap_err();
        assert!(matches!(fault, Fault::Timeout { .. }), "{body}: {fault}");
        assert!(started.elapsed() >= Duration::from_millis(50));
    }
    // Recursion that is wide rather than deep has no loop.
    let before = ".func wide(.param .b32 n) { .reg .b32 %r; .reg .pred %p; ld.param.u32 %r, [n]; setp.eq.u32 %p, %r, 0; @%p ret; sub.u32 %r, %r, 1;
        { .param .b32 m; st.param.b32 [m], %r; call wide, (m); } { .param .b32 m; st.param.b32 [m], %r; call wide, (m); } ret; }";
    let text = kernel(
        before,
        "{ .param .b32 m; st.param.b32 [m], 60; call wide, (m); }",
    );
    let program = Program::compile_with(
        &[&module(&text)],
        Options {
            timed: true,
            ..Options::default()
        },
    )
    .unwrap();
    let runtime = Runtime::new(Some(Duration::from_millis(50)));
    let fault = Device::new(1 << 20)
        .launch_with(&program, 1, 1, &Args::new().add(0_u64), None, &runtime)
        .unwrap_err();
    assert!(matches!(fault, Fault::Timeout { .. }), "{fault}");
    // One that does end in time.
    let program = Program::compile_with(
        &[&module(&kernel(
            "",
            "mov.u32 %r0, 0; l: add.u32 %r0, %r0, 1; setp.lt.u32 %p0, %r0, 1000; @%p0 bra l;",
        ))],
        Options {
            timed: true,
            ..Options::default()
        },
    )
    .unwrap();
    let runtime = Runtime::new(Some(Duration::from_secs(100)));
    Device::new(1 << 20)
        .launch_with(&program, 10, 64, &Args::new().add(0_u64), None, &runtime)
        .unwrap();
}

#[test]
fn deadlocks_name_the_threads_and_lines() {
    let text = kernel(
        "",
        "setp.lt.u32 %p0, %t, 10; @%p0 bra few;
         setp.eq.u32 %p1, %t, 63; @%p1 ret;
         bar.sync 1;
         ret;
         few: bar.sync 2, 64;",
    );
    let device = Device::new(1 << 20);
    let fault = device
        .launch(&compile(&text), "k", 1, 64, &Args::new().add(0_u64))
        .unwrap_err();
    let Fault::BarrierDeadlock {
        waiting,
        threads,
        place,
    } = fault
    else {
        panic!("{fault}");
    };
    assert_eq!((waiting, place.thread[0]), (63, 0));
    assert_eq!(threads, "threads 10-62 on line 11, threads 0-9 on line 13");
}

#[test]
fn barriers_with_counts_count_warps() {
    // The last warp of 40 threads has 8, and half of the first has ended.
    let got = run(
        "",
        "setp.lt.u32 %p0, %t, 16; @%p0 ret; bar.sync 3, 64; mad.wide.u32 %y0, %t, 4, %a; st.global.u32 [%y0], 1;",
        1,
        40,
        40,
    );
    assert_eq!((&got[..16], &got[16..]), (&[0; 16][..], &[1; 24][..]));
    // Arrivals of a partial warp.
    let got = run(
        "",
        "setp.lt.u32 %p0, %t, 32; @%p0 bra wait; bar.arrive 5, 64; ret;
         wait: bar.sync 5, 64; mad.wide.u32 %y0, %t, 4, %a; st.global.u32 [%y0], 1;",
        1,
        35,
        35,
    );
    assert_eq!(got[..32], [1; 32]);
}

const VPRINTF: &str = ".extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);";

/// What a kernel prints that passes 16 words of local memory with this content to `vprintf`.
fn printed(format: &str, stores: &str) -> (String, u32) {
    let bytes: Vec<String> = format.bytes().chain([0]).map(|b| b.to_string()).collect();
    let before = format!(
        "{VPRINTF} .global .align 1 .b8 f[{}] = {{{}}}; .global .align 1 .b8 s[6] = {{104, 101, 108, 108, 111, 0}};",
        bytes.len(),
        bytes.join(", ")
    );
    let body = format!(
        ".local .align 8 .b8 list[64]; mov.u64 %y0, list; cvta.local.u64 %y0, %y0;
         mov.u64 %y1, f; cvta.global.u64 %y1, %y1; mov.u64 %y2, s;
         {stores}
         {{ .param .b64 p; .param .b64 q; .param .b32 r; st.param.b64 [p], %y1; st.param.b64 [q], %y0;
            call.uni (r), vprintf, (p, q); ld.param.b32 %r0, [r]; }}
         st.global.u32 [%a], %r0;"
    );
    let program = compile(&kernel(&before, &body));
    let mut device = Device::new(1 << 20);
    device.bind(&program);
    let place = device.zeros::<u32>(1);
    let runtime = Runtime::default();
    device
        .launch_with(&program, 1, 1, &Args::new().add(place), None, &runtime)
        .unwrap();
    let text = String::from_utf8(runtime.take_output()).unwrap();
    (text, device.download::<u32>(place, 1)[0])
}

#[test]
fn vprintf_formats_as_cuda_does() {
    for (format, stores, want, count) in [
        ("plain %% text\\n", "", "plain % text\\n", 0),
        (
            "%d %u|%5d|%-5d|%05d|%+d",
            "st.local.u32 [list], -7; st.local.u32 [list+4], -1; st.local.u32 [list+8], 42; st.local.u32 [list+12], 42; st.local.u32 [list+16], 42; st.local.u32 [list+20], 42;",
            "-7 4294967295|   42|42   |00042|+42",
            6,
        ),
        (
            "%x %#X %o %c%c",
            "st.local.u32 [list], 255; st.local.u32 [list+4], 255; st.local.u32 [list+8], 8; st.local.u32 [list+12], 104; st.local.u32 [list+16], 105;",
            "ff 0XFF 10 hi",
            5,
        ),
        (
            "%d %ld %lld %llu %hd %hhu",
            "st.local.u32 [list], 1; st.local.u64 [list+8], -5000000000; st.local.u64 [list+16], -1; st.local.u64 [list+24], -1; st.local.u32 [list+32], 0x18000; st.local.u32 [list+36], 0x1ff;",
            "1 -5000000000 -1 18446744073709551615 -32768 255",
            6,
        ),
        (
            "%f %.2f %e %g %8.3f|%-10.1e|",
            "st.local.f64 [list], 0d3FF8000000000000; st.local.f64 [list+8], 0d3FF8000000000000; st.local.f64 [list+16], 0d3FF8000000000000; st.local.f64 [list+24], 0d3FF8000000000000; st.local.f64 [list+32], 0d3FF8000000000000; st.local.f64 [list+40], 0d3FF8000000000000;",
            "1.500000 1.50 1.500000e+00 1.5    1.500|1.5e+00   |",
            6,
        ),
        (
            "%s|%8s|%-8s|%.3s|%p",
            "st.local.u64 [list], %y2; st.local.u64 [list+8], %y2; st.local.u64 [list+16], %y2; st.local.u64 [list+24], %y2; st.local.u64 [list+32], 4096;",
            "hello|   hello|hello   |hel|0x1000",
            5,
        ),
        ("%s %y %", "st.local.u64 [list], 0;", "(null) %y %", 1),
        (
            "%99999999999d",
            "st.local.u32 [list], 1;",
            &format!("{:>4096}", 1),
            1,
        ),
    ] {
        let (text, got) = printed(&format.replace("\\n", "\n"), stores);
        assert_eq!((text, got), (want.replace("\\n", "\n"), count), "{format}");
    }
}

#[test]
fn the_output_buffer_keeps_the_newest_and_hostile_pointers_are_faults() {
    let program = compile(&kernel(
        &format!("{VPRINTF} .global .align 1 .b8 f[4] = {{37, 100, 10, 0}};"),
        ".local .align 8 .b8 list[8]; mov.u64 %y0, list; cvta.local.u64 %y0, %y0; mov.u64 %y1, f; add.u64 %y1, %y1, %a;
         add.u32 %r1, %b, 100; st.local.u32 [list], %r1;
         { .param .b64 p; .param .b64 q; .param .b32 r; st.param.b64 [p], %y1; st.param.b64 [q], %y0; call (r), vprintf, (p, q); }",
    ));
    let mut device = Device::new(1 << 20);
    device.bind(&program);
    let runtime = Runtime::default();
    runtime.set_output_bytes(10);
    for _ in 0..5 {
        device
            .launch_with(&program, 1, 1, &Args::new().add(0_u64), None, &runtime)
            .unwrap();
    }
    assert_eq!(runtime.take_output(), b"100\n100\n");
    assert_eq!(runtime.take_output(), b"");
    for offset in [1_u64 << 12, 1 << 40, u64::MAX / 2] {
        let fault = device
            .launch_with(&program, 1, 1, &Args::new().add(offset), None, &runtime)
            .unwrap_err();
        assert!(
            matches!(&fault, Fault::IllegalAddress { place, .. } if place.line == 11),
            "{fault}"
        );
    }
    let wrong = ".extern .func (.param .b32 r) vprintf (.param .b64 f);";
    let call = "{ .param .b64 p; .param .b32 r; st.param.b64 [p], %a; call (r), vprintf, (p); }";
    let error = Program::compile(&module(&kernel(wrong, call))).unwrap_err();
    assert!(error.to_string().contains("vprintf is declared"), "{error}");
}

#[test]
fn failed_assertions_say_what_and_where() {
    let before = ".extern .func __assertfail (.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 c);
        .global .align 1 .b8 m[4] = {120, 62, 48, 0}; .global .align 1 .b8 f[5] = {97, 46, 99, 117, 0};";
    let body = "setp.ne.u32 %p0, %t, 33; @%p0 ret; mov.u64 %y0, m; mov.u64 %y1, f; mov.u64 %y2, 1;
        { .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;
          st.param.b64 [a], %y0; st.param.b64 [b], %y1; st.param.b32 [c], 17; st.param.b64 [d], %y1; st.param.b64 [e], %y2;
          call __assertfail, (a, b, c, d, e); }";
    let program = compile(&kernel(before, body));
    let mut device = Device::new(1 << 20);
    device.bind(&program);
    let fault = device
        .launch(&program, "k", 2, 64, &Args::new().add(0_u64))
        .unwrap_err();
    let Fault::Assert { message, place } = fault else {
        panic!("{fault}");
    };
    let block = place.block[0];
    assert_eq!(place.thread[0], 33);
    assert_eq!(
        message,
        format!("a.cu:17: a.cu: block: [{block},0,0], thread: [33,0,0] Assertion `x>0` failed.")
    );
}

const HEAP: &str =
    ".extern .func (.param .b64 r) malloc (.param .b64 n); .extern .func free (.param .b64 p);";

#[test]
fn kernels_allocate_and_free() {
    // Every thread allocates, writes, reads what its neighbour wrote, and frees.
    let text = kernel(
        HEAP,
        "mov.u32 %r1, %ntid.x; mad.lo.u32 %r0, %b, %r1, %t; mad.wide.u32 %y0, %r0, 8, %a;
         { .param .b64 n; .param .b64 r; st.param.b64 [n], 40; call (r), malloc, (n); ld.param.b64 %y1, [r]; }
         st.global.u64 [%y0], %y1; setp.eq.u64 %p0, %y1, 0; @%p0 ret;
         st.u32 [%y1+36], %r0; ld.u32 %r2, [%y1+36]; setp.ne.u32 %p1, %r2, %r0; @%p1 trap;
         { .param .b64 n; st.param.b64 [n], %y1; call free, (n); }",
    );
    let program = compile(&text);
    assert!(program.uses_heap());
    let mut device = Device::new(1 << 20);
    let heap = device.heap(64 << 10);
    let runtime = Runtime::default();
    runtime.set_heap(heap);
    let place = device.zeros::<u64>(640);
    for _ in 0..3 {
        device
            .launch_with(&program, 10, 64, &Args::new().add(place), None, &runtime)
            .unwrap();
        let got = device.download::<u64>(place, 640);
        assert!(got.iter().all(|&chunk| chunk != 0 && chunk % 16 == 0));
    }
    // Without freeing the heap is used up, and then there is nothing.
    let keep = compile(&text.replace("call free, (n);", ""));
    device
        .launch_with(&keep, 10, 64, &Args::new().add(place), None, &runtime)
        .unwrap();
    let mut got = device.download::<u64>(place, 640);
    got.sort_unstable();
    got.dedup();
    assert_eq!((got[0], got.len()), (0, 1 + (64 << 10) / 128));
    // Without a heap there never is anything.
    device
        .launch_with(
            &keep,
            1,
            1,
            &Args::new().add(place),
            None,
            &Runtime::default(),
        )
        .unwrap();
    assert_eq!(device.download::<u64>(place, 1), [0]);
}

#[test]
fn chunks_cannot_be_used_beyond_their_end_or_life() {
    for (body, good) in [
        ("st.u8 [%y1+39], 1;", true),
        ("st.u8 [%y1+40], 1;", false),
        ("call free, (n); st.u8 [%y1], 1;", false),
        ("call free, (n); call free, (n);", false),
        (
            "add.u64 %y1, %y1, 16; st.param.b64 [n], %y1; call free, (n);",
            false,
        ),
        (
            "mov.u64 %y1, 0; st.param.b64 [n], %y1; call free, (n);",
            true,
        ),
    ] {
        let program = compile(&kernel(
            HEAP,
            &format!(
                "{{ .param .b64 n; .param .b64 r; st.param.b64 [n], 40; call (r), malloc, (n); ld.param.b64 %y1, [r]; st.param.b64 [n], %y1; {body} }}"
            ),
        ));
        let mut device = Device::new(1 << 20);
        let heap = device.heap(8 << 10);
        let runtime = Runtime::default();
        runtime.set_heap(heap);
        let outcome = device.launch_with(&program, 1, 1, &Args::new().add(0_u64), None, &runtime);
        assert_eq!(outcome.is_ok(), good, "{body}: {outcome:?}");
        assert!(
            good || matches!(outcome, Err(Fault::IllegalAddress { .. })),
            "{body}: {outcome:?}"
        );
    }
}

#[test]
fn memory_functions_check_what_they_touch() {
    let before =
        ".extern .func (.param .b64 r) memcpy (.param .b64 a, .param .b64 b, .param .b64 c);
        .extern .func (.param .b64 r) memset (.param .b64 a, .param .b32 b, .param .b64 c);";
    let text = kernel(
        before,
        "ld.global.u64 %y5, [%a]; ld.global.u64 %y6, [%a+8]; add.u64 %y1, %a, 16; add.u64 %y2, %a, %y6;
         { .param .b64 a; .param .b32 b; .param .b64 c; .param .b64 r; st.param.b64 [a], %y1; st.param.b32 [b], 0x1ab; st.param.b64 [c], 100; call (r), memset, (a, b, c); }
         { .param .b64 a; .param .b64 b; .param .b64 c; .param .b64 r; st.param.b64 [a], %y2; st.param.b64 [b], %y1; st.param.b64 [c], %y5; call (r), memcpy, (a, b, c); ld.param.b64 %y7, [r]; }
         st.global.u64 [%a+8], %y7;",
    );
    let program = compile(&text);
    let mut device = Device::new(1 << 20);
    let place = device.upload(&[50_u64, 400, 0, 0]);
    let place = {
        let larger = device.zeros::<u8>(500);
        let from: Vec<u64> = device.download(place, 4);
        // SAFETY: both are the test's, and no kernel runs.
        unsafe { (larger as *mut u64).copy_from_nonoverlapping(from.as_ptr(), 4) };
        larger
    };
    let args = Args::new().add(place);
    device.launch(&program, "k", 1, 1, &args).unwrap();
    let got = device.download::<u8>(place, 500);
    assert_eq!(
        (&got[16..116], &got[400..450]),
        (&[0xab; 100][..], &[0xab; 50][..])
    );
    assert_eq!((got[116], got[399], got[450]), (0, 0, 0));
    for (bytes, offset) in [(101_u64, 400_u64), (u64::MAX, 0), (1, 500), (1 << 50, 16)] {
        // SAFETY: as above.
        unsafe { (place as *mut u64).copy_from_nonoverlapping([bytes, offset].as_ptr(), 2) };
        let fault = device.launch(&program, "k", 1, 1, &args).unwrap_err();
        assert!(matches!(fault, Fault::IllegalAddress { .. }), "{fault}");
    }
}
