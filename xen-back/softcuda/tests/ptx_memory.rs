//! Memory instructions against plain Rust: spaces, host ranges, atomics, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod ptx_common;

use ptx_common::{Args, Device, compile};
use softcuda::exec::{Fault, HostRange, Launch, MemoryView};

/// As a device's view, with host ranges.
fn launch_with(
    device: &Device,
    ranges: &[HostRange],
    text: &str,
    args: &Args,
) -> Result<(), Fault> {
    let program = compile(text);
    // SAFETY: the tests keep list and memory until the launch has ended and do not look at it meanwhile.
    let memory: MemoryView = unsafe { device.view().with_ranges(ranges) };
    program.launch(&Launch::new(0, [1; 3], [1; 3], args.bytes(), memory))
}

#[test]
fn host_ranges_are_reached_to_the_byte() {
    let device = Device::new(1 << 16);
    let mut memory = vec![0_u64; 64];
    let start = memory.as_mut_ptr() as u64;
    let ranges = [
        HostRange {
            base: start + 8,
            len: 24,
        },
        HostRange {
            base: start + 65,
            len: 15,
        },
    ];
    let text = |space: &str, ty: &str| {
        let register = if ty.ends_with('8') { "b16" } else { ty };
        format!(
            ".visible .entry k(.param .u64 at) {{ .reg .b64 %p; .reg .{register} %v; .reg .{register} %w;
             ld.param.u64 %p, [at]; ld{space}.{ty} %v, [%p]; st{space}.{ty} [%p], %v; ret; }}"
        )
    };
    for space in ["", ".global"] {
        for (ty, bytes) in [("b8", 1), ("b16", 2), ("b32", 4), ("b64", 8)] {
            for at in 0..100_u64 {
                let address = start + at;
                let inside = ranges.iter().any(|range| {
                    address >= range.base && address + bytes <= range.base + range.len
                });
                let args = Args::new().add(address);
                let got = launch_with(&device, &ranges, &text(space, ty), &args);
                match got {
                    Ok(()) => assert!(inside && address.is_multiple_of(bytes), "{space} {ty} {at}"),
                    Err(Fault::MisalignedAddress { address: found, .. }) => {
                        assert!(!address.is_multiple_of(bytes) && found == address);
                    }
                    Err(Fault::IllegalAddress { address: found, .. }) => {
                        assert!(!inside && address.is_multiple_of(bytes) && found == address);
                    }
                    Err(other) => panic!("{other}"),
                }
                if at % 8 == 0 && at > 40 && ty != "b64" {
                    break;
                }
            }
        }
    }
    // One check for neighbours: all of them must be in one range.
    let two = ".visible .entry k(.param .u64 at) { .reg .b64 %p; .reg .b32 %a, %b;
        ld.param.u64 %p, [at]; ld.global.b32 %a, [%p]; ld.global.b32 %b, [%p+12];
        add.u32 %a, %a, %b; st.global.b32 [%p+4], %a; ret; }";
    memory[1] = 5;
    memory[2] = 7 << 32;
    let run = |at: u64| launch_with(&device, &ranges, two, &Args::new().add(start + at));
    run(8).unwrap();
    assert_eq!(memory[1], 12 << 32 | 5);
    assert!(matches!(run(24), Err(Fault::IllegalAddress { .. })));
    assert!(matches!(run(4), Err(Fault::IllegalAddress { .. })));
}

/// Runs one warp of `threads` threads: %to has each thread's place in the words that come back, %t its
/// number, and the code leaves words there itself. `input` is at %in.
fn run(before: &str, body: &str, threads: u32, input: &[u64], words: usize) -> Vec<u32> {
    let text = format!(
        "{before}
        .visible .entry k(.param .u64 out, .param .u64 in) {{
            .reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 %r<32>; .reg .b64 %d<32>; .reg .b128 %q<8>;
            .reg .f32 %f<16>; .reg .f64 %g<4>; .reg .b32 %t; .reg .b64 %to, %in;
            mov.u32 %t, %tid.x; ld.param.u64 %to, [out]; ld.param.u64 %in, [in];
            mad.wide.u32 %to, %t, {}, %to;
            {body} ret; }}",
        words * 4
    );
    let program = compile(&text);
    let mut device = Device::new(1 << 20);
    device.bind(&program);
    let out = device.zeros::<u32>(words * threads as usize);
    let input = device.upload(input);
    let args = Args::new().add(out).add(input);
    device
        .launch(&program, "k", 1, threads, &args)
        .unwrap_or_else(|fault| panic!("{fault}"));
    device.download(out, words * threads as usize)
}

#[test]
fn hints_scopes_and_wide_values() {
    let input = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 3, 4];
    let got = run(
        ".const .align 8 .u64 five = 5;",
        "createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 %d9, 0.5;
         createpolicy.range.global.L2::evict_last.b64 %d9, [%in], 64, 128;
         ld.global.L1::evict_last.L2::cache_hint.L2::128B.b128 %q0, [%in], %d9;
         ld.relaxed.gpu.global.b128 %q1, [%in+16];
         st.release.sys.global.b128 [%to], %q0;
         st.global.L2::cache_hint.b128 [%to+16], %q1, %d9;
         ld.weak.global.nc.L1::no_allocate.v4.b64 {%d0, %d1, %d2, _}, [%in];
         st.mmio.relaxed.sys.global.u64 [%to+32], %d1;
         ld.global.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%in];
         st.global.v2.u32 [%to+40], {%r4, %r6};
         ld.const[2].u64 %d3, [five]; st.global.u64 [%to+48], %d3;
         prefetch.global.L2::evict_last [%in]; prefetchu.L1 [%in]; prefetch.local.L1 [0];
         applypriority.global.L2::evict_normal [%in], 128; fence.proxy.alias;
         fence.acq_rel.cluster; fence.sc.gpu; membar.gl; fence.mbarrier_init.release.cluster;
         fence.proxy.async.shared::cta; fence.proxy.async;
         griddepcontrol.wait; griddepcontrol.launch_dependents; setmaxnreg.inc.sync.aligned.u32 96;",
        1,
        &input,
        16,
    );
    let words: Vec<u32> = input
        .iter()
        .flat_map(|&w| [w as u32, (w >> 32) as u32])
        .collect();
    assert_eq!(got[..8], words);
    assert_eq!(got[8..10], words[2..4]);
    assert_eq!(got[10..14], [3, 4, 5, 0]);
}

#[test]
fn addresses_know_their_space() {
    let got = run(
        ".const .u32 fixed = 7; .global .u32 free;",
        ".shared .align 8 .b8 block[64]; .local .align 8 .b8 own[16]; .reg .b32 %s; .reg .b64 %a;
         mov.u32 %s, 0;
         mov.u32 %r0, block; cvta.shared.u64 %d0, block; isspacep.shared %p0, %d0;
         isspacep.shared::cta %p1, %d0; isspacep.global %p2, %d0;
         cvta.to.shared.u64 %d1, %d0; cvt.u32.u64 %r1, %d1; setp.eq.u32 %p3, %r0, %r1;
         selp.u32 %r2, 1, 0, %p0; add.u32 %s, %s, %r2; selp.u32 %r2, 2, 0, %p1; add.u32 %s, %s, %r2;
         selp.u32 %r2, 4, 0, %p2; add.u32 %s, %s, %r2; selp.u32 %r2, 8, 0, %p3; add.u32 %s, %s, %r2;
         cvta.const.u64 %d2, fixed; isspacep.const %p0, %d2; isspacep.global %p1, %d2;
         cvta.global.u64 %d3, free; isspacep.global %p2, %d3; isspacep.local %p3, %d3;
         selp.u32 %r2, 16, 0, %p0; add.u32 %s, %s, %r2; selp.u32 %r2, 32, 0, %p1; add.u32 %s, %s, %r2;
         selp.u32 %r2, 64, 0, %p2; add.u32 %s, %s, %r2; selp.u32 %r2, 128, 0, %p3; add.u32 %s, %s, %r2;
         cvta.local.u64 %d4, own; isspacep.local %p0, %d4; isspacep.const %p1, %d4;
         selp.u32 %r2, 256, 0, %p0; add.u32 %s, %s, %r2; selp.u32 %r2, 512, 0, %p1; add.u32 %s, %s, %r2;
         cvta.param.u64 %d5, in; isspacep.param %p0, %d5; ld.u64 %d6, [%d5]; setp.eq.u64 %p1, %d6, %in;
         selp.u32 %r2, 1024, 0, %p0; add.u32 %s, %s, %r2; selp.u32 %r2, 2048, 0, %p1; add.u32 %s, %s, %r2;
         mapa.shared::cluster.u32 %r3, %r0, 0; st.shared::cluster.u32 [%r3+4], 77; ld.shared::cta.u32 %r4, [block+4];
         setp.eq.u32 %p0, %r4, 77; selp.u32 %r2, 4096, 0, %p0; add.u32 %s, %s, %r2;
         mapa.u64 %d7, %d0, 0; ld.u32 %r5, [%d7+4]; setp.eq.u32 %p0, %r5, 77;
         selp.u32 %r2, 8192, 0, %p0; add.u32 %s, %s, %r2;
         getctarank.shared::cluster.u32 %r6, %r0; setp.eq.u32 %p0, %r6, 0;
         selp.u32 %r2, 16384, 0, %p0; add.u32 %s, %s, %r2;
         st.global.u32 [%to], %s;",
        1,
        &[0],
        1,
    );
    let wanted = 1 | 2 | 8 | 16 | 64 | 256 | 1024 | 2048 | 4096 | 8192 | 16384;
    assert_eq!(got[0], wanted, "{:x}", got[0] ^ wanted);
}

#[test]
fn atomics_of_every_width() {
    let got = run(
        ".global .align 16 .b8 words[64];",
        "mov.u64 %d0, 1; mov.u64 %d1, 2; mov.b128 %q0, {%d0, %d1};
         mov.u64 %d2, 0; mov.b128 %q1, {%d2, %d2};
         atom.global.cas.b128 %q2, [words], %q1, %q0;
         atom.global.relaxed.gpu.exch.b128 %q3, [words], %q1;
         mov.b128 {%d4, %d5}, %q3; st.global.u32 [%to], %d4; st.global.u32 [%to+4], %d5;
         mov.u32 %r0, 0x3c003c00; atom.global.add.noftz.f16x2 %r1, [words+16], %r0;
         atom.add.noftz.f16x2 %r1, [words+16], %r0; red.global.add.noftz.f16x2 [words+16], %r0;
         ld.global.u32 %r2, [words+16]; st.global.v2.u32 [%to+8], {%r1, %r2};
         mov.u16 %h0, 0x3f80; atom.global.add.noftz.bf16 %h1, [words+20], %h0;
         red.global.add.noftz.bf16 [words+20], %h0; ld.global.u16 %r3, [words+20];
         st.global.u32 [%to+16], %r3;
         mov.f32 %f0, 0f3f800000; mov.f32 %f1, 0f40000000;
         atom.global.v2.f32.add {%f2, %f3}, [words+32], {%f0, %f1};
         red.global.v2.f32.add [words+32], {%f0, %f1};
         ld.global.v2.f32 {%f2, %f3}, [words+32]; st.global.f32 [%to+20], %f2; st.global.f32 [%to+24], %f3;
         mov.u16 %h2, 0; mov.u16 %h3, 9; atom.global.cas.b16 %h4, [words+40], %h2, %h3;
         atom.global.cas.b16 %h4, [words+40], %h2, %h2; st.global.u16 [%to+28], %h4;
         mov.s64 %d6, -5; atom.global.min.s64 %d7, [words+48], %d6; atom.global.max.u64 %d7, [words+48], 3;
         ld.global.u32 %r4, [words+48]; st.global.u32 [%to+32], %r4;
         mov.b32 %f4, 1; red.global.add.f32 [words+56], %f4; ld.global.u32 %r5, [words+56];
         st.global.u32 [%to+36], %r5;
         .shared .align 16 .b8 own[16]; st.shared.u32 [own], 0; red.shared.add.f32 [own], %f4;
         ld.shared.u32 %r5, [own]; st.global.u32 [%to+40], %r5;
         cvta.shared.u64 %d8, own; red.add.f32 [%d8], %f4; ld.shared.u32 %r5, [own];
         st.global.u32 [%to+44], %r5;"
            .replace("st.global.u32 [%to], %d4; st.global.u32 [%to+4], %d5;",
                "cvt.u32.u64 %r8, %d4; cvt.u32.u64 %r9, %d5; st.global.v2.u32 [%to], {%r8, %r9};")
            .replace("atom.global.v2.f32.add", "atom.global.add.v2.f32")
            .replace("red.global.v2.f32.add", "red.global.v2.add.f32")
            .as_str(),
        1,
        &[0],
        12,
    );
    assert_eq!(got[..2], [1, 2]);
    assert_eq!(got[2..4], [0x3c00_3c00, 0x4200_4200]);
    assert_eq!(got[4], 0x4000);
    assert_eq!(
        got[5..7]
            .iter()
            .map(|&w| f32::from_bits(w))
            .collect::<Vec<_>>(),
        [2.0, 4.0]
    );
    assert_eq!(got[7], 9);
    assert_eq!(got[8], -5_i32 as u32);
    // Subnormals are zero to a sum in global memory only.
    assert_eq!(got[9..12], [0, 1, 2]);
}

#[test]
fn atomics_of_many_blocks_lose_nothing() {
    let text = ".visible .entry k(.param .u64 at) { .reg .b64 %a; .reg .b32 %r<4>; .reg .b64 %d<4>; .reg .b128 %q<4>;
         .reg .pred %p; .reg .b16 %h<2>;
         ld.param.u64 %a, [at]; mov.u32 %r0, 0x3c00; cvt.u16.u32 %h0, %r0;
         red.global.add.noftz.f16 [%a], %h0;
         mov.u64 %d0, 0; mov.b128 %q0, {%d0, %d0};
         again: mov.b128 {%d1, %d2}, %q0; add.u64 %d1, %d1, 1; add.u64 %d2, %d2, 3; mov.b128 %q1, {%d1, %d2};
         atom.global.cas.b128 %q2, [%a+16], %q0, %q1; mov.b128 {%d1, %d2}, %q0; mov.b128 {%d3, %d0}, %q2;
         mov.b128 %q0, %q2; setp.ne.u64 %p, %d1, %d3; @%p bra again; ret; }";
    let program = compile(text);
    let mut device = Device::new(1 << 16);
    let at = device.zeros::<u64>(4);
    device
        .launch(&program, "k", 64, 16, &Args::new().add(at))
        .unwrap();
    let got = device.download::<u64>(at, 4);
    // 1024 ones in half precision.
    assert_eq!(got[0], 0x6400);
    assert_eq!(got[2..], [1024, 3072]);
}

#[test]
fn barriers_objects_and_copies() {
    let input: Vec<u64> = (0..64).map(|n| n * 0x0101_0101_0101).collect();
    let got = run(
        ".shared .align 16 .b8 block[512]; .shared .align 8 .u64 gate;",
        "setp.eq.u32 %p0, %t, 0; mov.u32 %r0, gate; @%p0 mbarrier.init.shared.b64 [gate], 32; bar.sync 0;
         // 16 bytes a lane.
         shl.b32 %r1, %t, 4; mov.u32 %r2, block; add.u32 %r2, %r2, %r1; cvt.u64.u32 %d0, %r1; add.u64 %d0, %in, %d0;
         cp.async.cg.shared.global [%r2], [%d0], 16; cp.async.commit_group; cp.async.wait_group 0;
         cp.async.mbarrier.arrive.noinc.shared.b64 [gate];
         bar.sync 0; mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p1, [%r0], 0, 1000; @!%p1 trap;
         xor.b32 %r3, %r1, 16; mov.u32 %r4, block; add.u32 %r4, %r4, %r3; ld.shared.u32 %r5, [%r4+8];
         st.global.u32 [%to], %r5; bar.sync 0;
         // Parts, and nothing.
         add.u32 %r6, %t, 0; min.u32 %r6, %r6, 16; cp.async.ca.shared.global [%r2], [%d0], 16, %r6;
         ld.shared.v2.u64 {%d1, %d2}, [%r2]; st.global.u64 [%to+8], %d1; st.global.u64 [%to+16], %d2;
         setp.lt.u32 %p2, %t, 8; cp.async.ca.shared.global [%r2], [%d0], 8, %p2; cp.async.wait_all;
         ld.shared.u64 %d3, [%r2]; st.global.u64 [%to+24], %d3; bar.sync 0;
         // In bulk, with a count of bytes.
         @%p0 mbarrier.inval.shared.b64 [gate]; @%p0 mbarrier.init.shared::cta.b64 [gate], 1;
         @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [gate], 512;
         @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [block], [%in], 512, [gate];
         bar.sync 0; mbarrier.test_wait.parity.shared.b64 %p3, [gate], 0; selp.u32 %r7, 1, 0, %p3;
         ld.shared.u32 %r8, [%r2+8]; st.global.v2.u32 [%to+32], {%r7, %r8}; bar.sync 0;
         mbarrier.arrive.shared.b64 %d5, [gate]; mbarrier.test_wait.shared.b64 %p4, [gate], %d5;
         mbarrier.pending_count.b64 %r10, %d5; selp.u32 %r11, 1, 0, %p4;
         st.global.v2.u32 [%to+40], {%r10, %r11};
         barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;",
        32,
        &input,
        12,
    );
    for lane in 0..32_usize {
        let words = &got[lane * 12..][..12];
        let other = lane ^ 1;
        assert_eq!(words[0], input[2 * other + 1] as u32, "lane {lane}");
        let mut bytes: Vec<u8> = input[2 * lane..][..2]
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        bytes[lane.min(16)..].fill(0);
        for at in 0..4 {
            assert_eq!(words[2 + at], word(&bytes, 4 * at), "lane {lane} word {at}");
        }
        let kept = if lane < 8 { 0 } else { input[2 * lane] };
        assert_eq!(words[6..8], [kept as u32, (kept >> 32) as u32]);
        assert_eq!(words[8..10], [1, input[2 * lane + 1] as u32]);
        assert_eq!(words[10..12], [1, 1]);
    }
}

#[test]
fn copies_are_checked() {
    let text = |copy: &str| {
        format!(
            ".visible .entry k(.param .u64 at) {{ .reg .b64 %a; .reg .b32 %n; .shared .align 16 .b8 block[64];
             ld.param.u64 %a, [at]; mov.u32 %n, 0; {copy} ret; }}"
        )
    };
    let mut device = Device::new(1 << 16);
    let at = device.zeros::<u8>(24);
    let run = |copy: &str, at: u64| {
        let program = compile(&text(copy));
        device.launch(&program, "k", 1, 1, &Args::new().add(at))
    };
    run("cp.async.ca.shared.global [block], [%a], 8;", at + 16).unwrap();
    run("cp.async.ca.shared.global [block], [%a], 16, 8;", at + 16).unwrap();
    run("cp.async.ca.shared.global [block], [%a], 16, %n;", 16).unwrap();
    for (copy, at) in [
        ("cp.async.ca.shared.global [block], [%a], 16;", at + 16),
        ("cp.async.ca.shared.global [block], [%a], 16, 12;", at + 16),
        ("cp.async.ca.shared.global [block+64], [%a], 4;", at),
        (
            "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [block], [%a], 32, [block];",
            at,
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%a], [block], 32;",
            at,
        ),
    ] {
        assert!(
            matches!(run(copy, at), Err(Fault::IllegalAddress { .. })),
            "{copy}"
        );
    }
    assert!(matches!(
        run("cp.async.ca.shared.global [block], [%a], 8;", at + 4),
        Err(Fault::MisalignedAddress { .. })
    ));
}

#[test]
fn stacks_are_given_back_and_end() {
    let function = ".func (.param .b32 sum) f(.param .b32 n) {
        .reg .b32 %r<8>; .reg .b64 %d<4>; .reg .pred %p; .param .b32 q; .param .b32 s;
        ld.param.u32 %r0, [n]; mul.wide.u32 %d0, %r0, 4; add.u64 %d0, %d0, 4; alloca.u64 %d1, %d0, 16;
        and.b64 %d2, %d1, 15; cvt.u32.u64 %r5, %d2;
        mul.wide.u32 %d2, %r0, 4; add.u64 %d2, %d1, %d2; st.local.u32 [%d2], %r0;
        mov.u32 %r1, 0; setp.eq.u32 %p, %r0, 0; @%p bra done;
        sub.u32 %r2, %r0, 1; st.param.b32 [q], %r2; call (s), f, (q); ld.param.b32 %r1, [s];
        done: ld.local.u32 %r3, [%d2]; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r5; st.param.b32 [sum], %r1; ret; }";
    // 10 deep, a thousand times over: far more than the stack has, did functions keep it.
    let body = "mov.u32 %r0, 0; mov.u32 %r9, 0; stacksave.u64 %d0;
        again: { .param .b32 a; .param .b32 b; st.param.b32 [a], 10; call (b), f, (a); ld.param.b32 %r1, [b]; }
        add.u32 %r9, %r9, %r1; alloca.u64 %d1, 4000; st.local.u32 [%d1+3996], %r9; ld.local.u32 %r9, [%d1+3996];
        stackrestore.u64 %d0; add.u32 %r0, %r0, 1; setp.lt.u32 %p0, %r0, 1000; @%p0 bra again;
        st.global.u32 [%to], %r9;";
    assert_eq!(run(function, body, 3, &[0], 1), [55_000; 3]);
    for size in [
        "16384",
        "-8",
        "8000; alloca.u64 %d, 8000; alloca.u64 %d, 400",
    ] {
        let text = format!(".visible .entry k() {{ .reg .b64 %d; alloca.u64 %d, {size}; ret; }}");
        let device = Device::new(1 << 16);
        let result = device.launch(&compile(&text), "k", 1, 1, &Args::new());
        assert!(matches!(result, Err(Fault::StackOverflow(_))), "{size}");
    }
}

#[test]
fn addresses_of_a_functions_parameters() {
    let function = ".func (.param .b32 sum) f(.param .align 8 .b8 pair[16], .param .b32 which) {
        .reg .b32 %r<4>; .reg .b64 %d<4>;
        ld.param.u32 %r0, [which]; mul.wide.u32 %d0, %r0, 8; mov.b64 %d1, pair; add.u64 %d1, %d1, %d0;
        ld.param.u32 %r1, [%d1]; cvta.local.u64 %d2, %d1; ld.u32 %r2, [%d2+4]; add.u32 %r1, %r1, %r2;
        st.param.b32 [sum], %r1; ret; }";
    let body = "and.b32 %r0, %t, 1; { .param .align 8 .b8 p[16]; .param .b32 w; .param .b32 s;
        st.param.v2.b32 [p], {100, 1}; st.param.b32 [p+8], 200; st.param.b32 [p+12], 2; st.param.b32 [w], %r0;
        call (s), f, (p, w); ld.param.b32 %r1, [s]; } st.global.u32 [%to], %r1;";
    assert_eq!(run(function, body, 4, &[0], 1), [101, 202, 101, 202]);
}

#[test]
fn warps_reduce_and_elect() {
    // Lane values: floats with a NaN in lane 5 and both zeros.
    let input: Vec<u64> = (0..32_u32)
        .map(|lane| {
            u64::from(match lane {
                5 => f32::NAN.to_bits(),
                6 => (-0.0_f32).to_bits(),
                7 => 0,
                lane => (lane as f32 - 12.0).to_bits(),
            })
        })
        .collect();
    let got = run(
        "",
        "mul.wide.u32 %d0, %t, 8; add.u64 %d0, %in, %d0; ld.global.f32 %f0, [%d0];
         redux.sync.min.f32 %f1, %f0, -1; redux.sync.max.abs.f32 %f2, %f0, -1; redux.sync.max.NaN.f32 %f3, %f0, -1;
         st.global.f32 [%to], %f1; st.global.f32 [%to+4], %f2; st.global.f32 [%to+8], %f3;
         mov.u32 %r0, 0xc0; shr.u32 %r1, %r0, %t; and.b32 %r1, %r1, 1; setp.eq.u32 %p0, %r1, 1;
         mov.f32 %f4, %f0; @%p0 redux.sync.min.f32 %f4, %f0, 0xc0; st.global.f32 [%to+12], %f4;
         @%p0 redux.sync.max.f32 %f4, %f0, 0xc0; st.global.f32 [%to+16], %f4;
         mov.u32 %r2, 99; elect.sync %r2|%p1, -1; selp.u32 %r3, 1, 0, %p1;
         st.global.u32 [%to+20], %r2; st.global.u32 [%to+24], %r3;
         activemask.b32 %r4; st.global.u32 [%to+28], %r4;",
        32,
        &input,
        8,
    );
    for (lane, words) in got.chunks(8).enumerate() {
        let singles: Vec<f32> = words.iter().map(|&word| f32::from_bits(word)).collect();
        assert_eq!(singles[..2], [-12.0, 19.0]);
        assert_eq!(words[2], 0x7fff_ffff);
        if lane == 6 || lane == 7 {
            assert_eq!(words[3..5], [0x8000_0000, 0]);
        }
        assert_eq!(words[5..8], [0, u32::from(lane == 0), u32::MAX]);
    }
}

#[test]
fn a_clusters_barrier_is_the_blocks() {
    let body = ".shared .u32 sum; setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [sum], 0;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
        red.shared::cluster.add.u32 [sum], %t; barrier.cluster.arrive.relaxed; barrier.cluster.wait.acquire;
        ld.shared.u32 %r0, [sum]; st.global.u32 [%to], %r0;";
    assert_eq!(run("", body, 96, &[0], 1), [95 * 96 / 2; 96]);
}
