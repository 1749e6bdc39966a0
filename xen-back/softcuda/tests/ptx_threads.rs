//! Threads together: barriers, warp instructions, calls, atomics, address spaces, and what goes wrong.

#![allow(
    clippy::precedence,
    reason = "shifts beside products read as the ISA writes them"
)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod ptx_common;

use ptx_common::{Args, Device, compile, module};
use softcuda::exec::{Fault, Program, PtxErrorKind};

/// Runs a kernel that writes one 32-bit word per thread of the grid to its only parameter.
fn words(body: &str, grid: u32, block: u32) -> Vec<u32> {
    try_words("", body, grid, block).unwrap()
}

/// As `words`, with text before the kernel. The code has its number in the grid in %me and in the block
/// in %t, and leaves its word in %d.
fn try_words(before: &str, body: &str, grid: u32, block: u32) -> Result<Vec<u32>, Fault> {
    let text = format!(
        "{before}
        .visible .entry k(.param .u64 words) {{
            .reg .pred %p<16>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .b64 %y<16>; .reg .f32 %f<8>;
            .reg .b32 %t; .reg .b32 %me; .reg .b32 %d; .reg .b32 %n; .reg .b64 %to;
            mov.u32 %t, %tid.x; mov.u32 %n, %ntid.x;
            mov.u32 %me, %ctaid.x; mad.lo.u32 %me, %me, %n, %t;
            {body}
            ld.param.u64 %to, [words];
            mad.wide.u32 %to, %me, 4, %to;
            st.global.u32 [%to], %d;
            ret;
        }}"
    );
    let program = compile(&text);
    let mut device = Device::new(1 << 20);
    device.bind(&program);
    let count = (grid * block) as usize;
    let out = device.zeros::<u32>(count);
    device.launch(&program, "k", grid, block, &Args::new().add(out))?;
    Ok(device.download(out, count))
}

#[test]
fn special_registers() {
    let text = ".visible .entry k(.param .u64 out) {
        .reg .b32 %r<32>; .reg .b64 %y<4>;
        mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z;
        mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ctaid.y; mov.u32 %r5, %ctaid.z;
        mov.u32 %r6, %ntid.x; mov.u32 %r7, %ntid.y; mov.u32 %r8, %ntid.z;
        mov.u32 %r9, %nctaid.x; mov.u32 %r10, %nctaid.y; mov.u32 %r11, %nctaid.z;
        mov.u32 %r12, %laneid; mov.u32 %r13, %warpid;
        mad.lo.u32 %r14, %r5, %r10, %r4; mad.lo.u32 %r14, %r14, %r9, %r3;
        mad.lo.u32 %r15, %r2, %r7, %r1; mad.lo.u32 %r15, %r15, %r6, %r0;
        mul.lo.u32 %r16, %r6, %r7; mul.lo.u32 %r16, %r16, %r8;
        mad.lo.u32 %r16, %r14, %r16, %r15;
        shl.b32 %r17, %r13, 5; or.b32 %r17, %r17, %r12; sub.u32 %r17, %r17, %r15;
        shl.b32 %r18, %r0, 4; or.b32 %r18, %r18, %r1; shl.b32 %r18, %r18, 4; or.b32 %r18, %r18, %r2;
        add.u32 %r18, %r18, %r17;
        ld.param.u64 %y0, [out]; mad.wide.u32 %y0, %r16, 4, %y0; st.global.u32 [%y0], %r18;
        exit; }";
    let program = compile(text);
    let mut device = Device::new(1 << 20);
    let (grid, block) = ([3, 2, 2], [5, 4, 3]);
    let out = device.zeros::<u32>(12 * 60);
    device
        .launch(&program, "k", grid, block, &Args::new().add(out))
        .unwrap();
    let got = device.download::<u32>(out, 12 * 60);
    for number in 0..12 * 60_u32 {
        let thread = number % 60;
        let (x, y, z) = (thread % 5, thread / 5 % 4, thread / 20);
        assert_eq!(got[number as usize], x << 8 | y << 4 | z);
    }
}

#[test]
fn loops_and_divergent_branches() {
    // The number of steps of Collatz's sequence.
    let got = words(
        "add.u32 %r0, %me, 1; mov.u32 %d, 0;
         again: setp.eq.u32 %p0, %r0, 1; @%p0 bra done;
         and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0; @!%p1 bra odd;
         shr.u32 %r0, %r0, 1; bra.uni next;
         odd: mad.lo.u32 %r0, %r0, 3, 1;
         next: add.u32 %d, %d, 1; bra again;
         done:",
        3,
        100,
    );
    for (index, got) in got.into_iter().enumerate() {
        let (mut n, mut steps) = (index as u32 + 1, 0);
        while n != 1 {
            n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        assert_eq!(got, steps);
    }
    let got = words(
        "rem.u32 %r0, %t, 4; mov.u32 %d, 7;
         table: .branchtargets zero, one, two;
         setp.eq.u32 %p0, %r0, 3; @%p0 bra end;
         brx.idx %r0, table;
         zero: mov.u32 %d, 10; bra end; one: mov.u32 %d, 11; bra end; two: mov.u32 %d, 12;
         end:",
        1,
        8,
    );
    assert_eq!(got, [10, 11, 12, 7, 10, 11, 12, 7]);
}

#[test]
fn shared_memory_between_barriers() {
    // Each thread reads what its mirror image wrote, several times over.
    let got = words(
        ".shared .align 4 .b8 buffer[1024];
         mov.u32 %r0, buffer; shl.b32 %r1, %t, 2; add.u32 %r1, %r0, %r1;
         not.b32 %r2, %t; add.u32 %r2, %r2, %n; shl.b32 %r2, %r2, 2; add.u32 %r2, %r0, %r2;
         mov.u32 %d, %me; mov.u32 %r3, 0;
         again: st.shared.u32 [%r1], %d; bar.sync 0;
         ld.shared.u32 %d, [%r2]; bar.sync 0;
         add.u32 %d, %d, 1000; add.u32 %r3, %r3, 1; setp.lt.u32 %p0, %r3, 5; @%p0 bra again;",
        3,
        256,
    );
    for (index, got) in got.into_iter().enumerate() {
        let index = index as u32;
        assert_eq!(got, index / 256 * 256 + 255 - index % 256 + 5000);
    }
}

#[test]
fn elements_of_arrays() {
    let got = words(
        ".shared .align 8 .u64 wide[4]; .shared .align 16 .v4 .u32 fours[3]; .local .u16 narrow[8];
         mov.u32 %r0, wide; mov.u32 %r1, wide[3]; sub.u32 %d, %r1, %r0;
         mov.u32 %r0, fours[0]; mov.u32 %r1, fours[1+1]; sub.u32 %r1, %r1, %r0; mad.lo.u32 %d, %d, 1000, %r1;
         setp.ne.u32 %p0, %t, 0; @%p0 bra over; st.shared.u32 wide[2], 500000; over: bar.sync 0;
         ld.shared.u32 %r2, wide[2]; add.u32 %d, %d, %r2;
         st.local.u16 narrow[5], 70000000; ld.local.u16 %r3, narrow[5]; add.u32 %d, %d, %r3;",
        1,
        2,
    );
    assert_eq!(got, [24_000 + 32 + 500_000 + 70_000_000 % 65_536; 2]);
}

#[test]
fn barriers_with_threads_that_have_ended_or_come_by_other_ways() {
    // Odd threads wait at one barrier instruction, even ones at another; a quarter has left before.
    let got = words(
        ".shared .align 4 .u32 sum;
         setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [sum], 0; bar.sync 0;
         mov.u32 %d, 77; and.b32 %r0, %t, 3; setp.eq.u32 %p1, %r0, 3; @%p1 bra out;
         atom.shared.add.u32 %r1, [sum], %t;
         and.b32 %r0, %t, 1; setp.eq.u32 %p2, %r0, 1; @%p2 bra odd;
         bar.sync 0; ld.shared.u32 %d, [sum]; bra out;
         odd: bar.sync 0; ld.shared.u32 %d, [sum]; add.u32 %d, %d, 1;
         out:",
        2,
        100,
    );
    let sum: u32 = (0..100).filter(|t| t % 4 != 3).sum();
    for (index, got) in got.into_iter().enumerate() {
        let t = index % 100;
        assert_eq!(
            got,
            if t % 4 == 3 {
                77
            } else {
                sum + u32::from(t % 2 == 1)
            },
            "{t}"
        );
    }
}

#[test]
fn numbered_barriers_reductions_and_arrivals() {
    // Two halves of the block use barriers of their own, at their own pace.
    let got = words(
        ".shared .align 4 .b8 sums[8];
         setp.lt.u32 %p0, %t, 32; selp.b32 %r0, 1, 2, %p0; selp.b32 %r1, 3, 7, %p0; mov.u32 %r2, 0;
         mov.u32 %r3, sums; selp.b32 %r4, 0, 4, %p0; add.u32 %r3, %r3, %r4;
         setp.lt.u32 %p1, %t, 2; shl.b32 %r5, %t, 2; mov.u32 %r6, sums; add.u32 %r5, %r5, %r6;
         @%p1 st.shared.u32 [%r5], 0; bar.sync 0;
         again: atom.shared.add.u32 %r7, [%r3], 1; bar.sync %r0, 32;
         add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, %r1; @%p2 bra again;
         barrier.sync 0; ld.shared.u32 %d, [%r3];",
        1,
        64,
    );
    assert_eq!(&got[..32], &[96; 32]);
    assert_eq!(&got[32..], &[224; 32]);
    let got = words(
        "setp.lt.u32 %p0, %t, 10; barrier.cta.red.popc.u32 %d, 0, %p0;
         bar.red.and.pred %p1, 1, %p0; bar.red.or.pred %p2, 1, !%p0;
         @%p1 add.u32 %d, %d, 100; @%p2 add.u32 %d, %d, 1000;",
        1,
        70,
    );
    assert_eq!(got, [1010; 70]);
    // Producers arrive and go on; the consumers wait for them.
    let got = words(
        ".shared .align 4 .u32 value;
         setp.ge.u32 %p0, %t, 32; @%p0 bra consumer;
         setp.eq.u32 %p1, %t, 0; @%p1 st.shared.u32 [value], 4711;
         bar.arrive 3, 64; mov.u32 %d, 1; bra out;
         consumer: bar.sync 3, 64; ld.shared.u32 %d, [value];
         out:",
        1,
        64,
    );
    assert_eq!(&got[..32], &[1; 32]);
    assert_eq!(&got[32..], &[4711; 32]);
}

#[test]
fn shuffles() {
    let reference = |mode: &str, lane: i32, b: i32, c: i32| -> (i32, bool) {
        let (clamp, segment) = (c & 31, c >> 8 & 31);
        let last = lane & segment | clamp & !segment & 31;
        let first = lane & segment;
        let (from, good) = match mode {
            "up" => (lane - b, lane - b >= last),
            "down" => (lane + b, lane + b <= last),
            "bfly" => (lane ^ b, lane ^ b <= last),
            _ => (first | b & !segment, first | b & !segment <= last),
        };
        if good { (from, true) } else { (lane, false) }
    };
    for mode in ["up", "down", "bfly", "idx"] {
        for (b, c) in [
            (1, if mode == "up" { 0 } else { 31 }),
            (5, if mode == "up" { 0x1800 } else { 0x181f }),
            (0, 31),
            (9, 0x1007),
        ] {
            let got = words(
                &format!(
                    "shl.b32 %r0, %me, 4; shfl.sync.{mode}.b32 %d|%p0, %r0, {b}, {c}, 0xffffffff; @%p0 add.u32 %d, %d, 1;"
                ),
                2,
                64,
            );
            for (index, got) in got.into_iter().enumerate() {
                let (from, good) = reference(mode, index as i32 % 32, b, c);
                let base = index as u32 / 32 * 32;
                assert_eq!(
                    got,
                    (base + from as u32) << 4 | u32::from(good),
                    "{mode} {b} {c:#x} lane {index}"
                );
            }
        }
    }
}

#[test]
fn warp_instructions_of_a_part_of_the_warp() {
    // Lanes below 12 and the others take part in different instructions with the masks of their own.
    let got = words(
        "mov.u32 %r0, %laneid; setp.lt.u32 %p0, %r0, 12; @%p0 bra few;
         mov.u32 %r1, 0xfffff000; and.b32 %r2, %r0, 3;
         match.any.sync.b32 %d, %r2, %r1; bra out;
         few: vote.sync.ballot.b32 %d, %p0, 0x00000fff;
         redux.sync.add.u32 %r3, %r0, 0x00000fff; add.u32 %d, %d, %r3;
         redux.sync.max.s32 %r3, %r0, 0x00000fff; add.u32 %d, %d, %r3;
         out: bar.warp.sync 0xffffffff;",
        1,
        32,
    );
    for (lane, got) in got.into_iter().enumerate() {
        if lane < 12 {
            assert_eq!(got, 0xfff + 66 + 11);
        } else {
            let same = (12..32)
                .filter(|other| other % 4 == lane % 4)
                .fold(0_u32, |set, other| set | 1 << other);
            assert_eq!(got, same);
        }
    }
    let got = words(
        "mov.u32 %r0, %laneid; setp.ne.u32 %p0, %r0, 40; vote.sync.all.pred %p1, %p0, -1;
         setp.eq.u32 %p0, %r0, 7; vote.sync.any.pred %p2, %p0, -1; vote.sync.uni.pred %p3, %p0, -1;
         selp.b32 %d, 1, 0, %p1; @%p2 add.u32 %d, %d, 2; @%p3 add.u32 %d, %d, 4;
         match.all.sync.b32 %r1|%p4, %r0, -1; @%p4 add.u32 %d, %d, 8; add.u32 %d, %d, %r1;
         mov.u64 %y0, 5; match.all.sync.b64 %r1|%p4, %y0, -1; @%p4 add.u32 %d, %d, 16; popc.b32 %r1, %r1; shl.b32 %r1, %r1, 8; add.u32 %d, %d, %r1;
         elect.sync %r1|%p5, -1; @%p5 add.u32 %d, %d, 0x10000;",
        1,
        32,
    );
    assert_eq!(got[0], 0x12013);
    assert_eq!(&got[1..], &[0x2013; 31]);
    // The active lanes are those that came together.
    let got = words(
        "mov.u32 %r0, %laneid; and.b32 %r1, %r0, 1; setp.eq.u32 %p0, %r1, 0; @%p0 bra even;
         activemask.b32 %d; bra out;
         even: activemask.b32 %d; shfl.idx.b32 %r2, %r0, 31, 31; add.u32 %d, %d, %r2;
         out:",
        1,
        48,
    );
    assert_eq!(got[1], 0xaaaa_aaaa);
    assert_eq!(got[33], 0xaaaa);
    // Lane 31 is odd and took no part: the lane's own value.
    assert_eq!(got[4], 0x5555_5555 + 4);
}

#[test]
fn device_functions() {
    let before = ".func (.param .b32 result) square_plus(.param .b32 a, .param .align 8 .b8 pair[16]) {
            .reg .b32 %r<4>; .reg .b64 %y<3>;
            ld.param.u32 %r0, [a]; ld.param.u64 %y0, [pair]; ld.param.u64 %y1, [pair+8];
            add.u64 %y0, %y0, %y1; cvt.u32.u64 %r1, %y0; mad.lo.u32 %r0, %r0, %r0, %r1;
            st.param.b32 [result], %r0; ret; }
        .func (.reg .u32 out) twice(.reg .u32 in) { add.u32 out, in, in; ret; }
        .func (.param .b32 r) fib(.param .b32 n) {
            .reg .b32 %r<5>; .reg .pred %p;
            ld.param.u32 %r0, [n]; setp.lt.u32 %p, %r0, 2; @%p bra small;
            { .param .b32 a; .param .b32 b; sub.u32 %r1, %r0, 1; st.param.b32 [a], %r1; call.uni (b), fib, (a); ld.param.b32 %r2, [b]; }
            { .param .b32 a; .param .b32 b; sub.u32 %r1, %r0, 2; st.param.b32 [a], %r1; call.uni (b), fib, (a); ld.param.b32 %r3, [b]; }
            add.u32 %r0, %r2, %r3;
            small: st.param.b32 [r], %r0; ret; }";
    let got = try_words(
        before,
        "{ .param .b32 p0; .param .align 8 .b8 p1[16]; .param .b32 r;
           st.param.b32 [p0], %t; cvt.u64.u32 %y0, %me; st.param.b64 [p1], %y0; st.param.b64 [p1+8], 5;
           call (r), square_plus, (p0, p1); ld.param.b32 %d, [r]; }
         call (%r1), twice, (%d); mov.u32 %d, %r1;
         { .param .b32 a; .param .b32 b; and.b32 %r2, %t, 7; st.param.b32 [a], %r2; call (b), fib, (a); ld.param.b32 %r3, [b]; }
         add.u32 %d, %d, %r3;",
        2,
        40,
    )
    .unwrap();
    let fib = [0, 1, 1, 2, 3, 5, 8, 13];
    for (index, got) in got.into_iter().enumerate() {
        let (me, t) = (index as u32, index as u32 % 40);
        assert_eq!(got, 2 * (t * t + me + 5) + fib[t as usize % 8]);
    }
}

#[test]
fn functions_that_wait_and_calls_through_pointers() {
    // The sum over the block, in a function with barriers, called in a loop and through another function.
    let before = ".shared .align 4 .b8 sums[1024];
        .func (.param .b32 r) block_sum(.param .b32 v) {
            .reg .b32 %r<12>; .reg .pred %p<3>;
            ld.param.u32 %r0, [v]; mov.u32 %r1, %tid.x; mov.u32 %r2, sums; shl.b32 %r3, %r1, 2; add.u32 %r3, %r2, %r3;
            st.shared.u32 [%r3], %r0; mov.u32 %r4, 32;
            again: bar.sync 0;
            setp.ge.u32 %p0, %r1, %r4; @%p0 bra skip;
            shl.b32 %r5, %r4, 2; add.u32 %r5, %r3, %r5; ld.shared.u32 %r6, [%r5]; ld.shared.u32 %r7, [%r3];
            add.u32 %r7, %r7, %r6; st.shared.u32 [%r3], %r7;
            skip: shr.u32 %r4, %r4, 1; setp.ne.u32 %p1, %r4, 0; @%p1 bra again;
            bar.sync 0; ld.shared.u32 %r0, [sums]; bar.sync 0;
            st.param.b32 [r], %r0; ret; }
        .func (.param .b32 r) plain(.param .b32 v) { .reg .b32 %r; ld.param.u32 %r, [v]; add.u32 %r, %r, 3; st.param.b32 [r], %r; ret; }
        .func (.param .b32 r) outer(.param .b32 v, .param .b64 f) {
            .reg .b32 %r<4>; .reg .b64 %y;
            ld.param.u32 %r0, [v]; ld.param.u64 %y, [f]; mul.lo.u32 %r1, %r0, 3;
            { .param .b32 a; .param .b32 b; st.param.b32 [a], %r1;
              proto: .callprototype (.param .b32 _) _ (.param .b32 _);
              call (b), %y, (a), proto; ld.param.b32 %r2, [b]; }
            add.u32 %r2, %r2, %r0; st.param.b32 [r], %r2; ret; }
        .global .align 8 .u64 table[2] = {block_sum, plain};";
    let got = try_words(
        before,
        "mov.u32 %d, 0; mov.u32 %r9, 0;
         again: { .param .b32 a; .param .b64 f; .param .b32 b; add.u32 %r0, %t, %r9; st.param.b32 [a], %r0;
           and.b32 %r1, %r9, 1; mul.wide.u32 %y1, %r1, 8; mov.u64 %y2, table; add.u64 %y2, %y2, %y1; ld.global.u64 %y3, [%y2];
           st.param.b64 [f], %y3; call (b), outer, (a, f); ld.param.b32 %r2, [b]; }
         add.u32 %d, %d, %r2; add.u32 %r9, %r9, 1; setp.lt.u32 %p0, %r9, 4; @%p0 bra again;",
        2,
        64,
    )
    .unwrap();
    for (index, got) in got.into_iter().enumerate() {
        let t = index as u32 % 64;
        let want: u32 = (0..4_u32)
            .map(|i| {
                let v = t + i;
                v + if i % 2 == 0 {
                    (0..64).map(|t| 3 * (t + i)).sum::<u32>()
                } else {
                    3 * v + 3
                }
            })
            .sum();
        assert_eq!(got, want, "{index}");
    }
}

#[test]
fn atomics_on_global_and_shared_memory() {
    for space in ["global", "shared", ""] {
        let dot = if space.is_empty() {
            String::new()
        } else {
            format!(".{space}")
        };
        let (declare, target) = match space {
            "shared" => (".shared .align 8 .b8 place[64];", "mov.u64 %y0, place;"),
            _ => ("", "mov.u64 %y0, place; "),
        };
        let before = if space == "shared" {
            ""
        } else {
            ".global .align 8 .b8 place[64];"
        };
        let clear = "setp.eq.u32 %p0, %t, 0; @!%p0 bra ready;
             st.TTT.u32 [%y0], 0; st.TTT.u32 [%y0+4], 0; st.TTT.u32 [%y0+8], 0xffffffff; st.TTT.u32 [%y0+12], 100;
             st.TTT.u32 [%y0+16], 0; st.TTT.u32 [%y0+20], 50; st.TTT.u64 [%y0+24], 0; st.TTT.f32 [%y0+32], 0f00000000;
             st.TTT.f64 [%y0+40], 0d0000000000000000; st.TTT.u32 [%y0+48], 0; ready: bar.sync 0;"
            .replace(".TTT", &dot);
        let body = format!(
            "{declare} {target} {clear}
             atom{dot}.add.u32 %r0, [%y0], 2; red{dot}.or.b32 [%y0+4], %t; atom{dot}.and.b32 %r1, [%y0+8], 0xfff0;
             atom{dot}.min.s32 %r2, [%y0+12], -5; atom{dot}.inc.u32 %r3, [%y0+16], 9; atom{dot}.dec.u32 %r4, [%y0+20], 60;
             red{dot}.max.u64 [%y0+24], 5000000000; atom{dot}.add.f32 %f0, [%y0+32], 0f3F000000;
             red{dot}.add.f64 [%y0+40], 0d3FE0000000000000;
             spin: ld.volatile{dot}.u32 %r5, [%y0+48]; add.u32 %r6, %r5, 1;
             atom{dot}.cas.b32 %r7, [%y0+48], %r5, %r6; setp.ne.u32 %p1, %r7, %r5; @%p1 bra spin;
             bar.sync 0;
             shl.b32 %r8, %t, 2; cvt.u64.u32 %y1, %r8; add.u64 %y1, %y0, %y1; mov.u32 %d, 0;
             setp.lt.u32 %p2, %t, 14; @%p2 ld{dot}.u32 %d, [%y1];"
        );
        let got = try_words(before, &body, 1, 100).unwrap();
        let (half, double) = (50.0_f32.to_bits(), 50.0_f64.to_bits());
        let want = [
            200,
            127,
            0xfff0,
            (-5_i32).cast_unsigned(),
            0,
            // 100 steps down from 50: 51 reach the limit again, 49 more.
            60 - 49,
            705_032_704,
            1,
            half,
            0,
            double as u32,
            (double >> 32) as u32,
            100,
        ];
        assert_eq!(&got[..13], &want, "{space}");
    }
}

#[test]
fn variables_constants_and_generic_addresses() {
    let before = ".const .align 4 .u32 factors[4] = {3, 5, 7};
        .global .align 4 .f32 numbers[2] = {0f3F800000, 2.5};
        .global .align 8 .u64 pointer = numbers+4;
        .global .align 8 .u64 generic_pointer = generic(factors);
        .global .align 1 .b8 bytes[3] = {1, 0xff, -2};";
    let got = try_words(
        before,
        ".local .align 8 .b8 mine[16]; .shared .align 4 .b8 ours[256];
         and.b32 %r0, %t, 3; mul.wide.u32 %y0, %r0, 4; mov.u64 %y1, factors; add.u64 %y1, %y1, %y0; ld.const.u32 %d, [%y1];
         ld.global.u64 %y2, [pointer]; ld.f32 %f0, [%y2]; cvt.rzi.u32.f32 %r1, %f0; mad.lo.u32 %d, %d, 10, %r1;
         ld.global.u64 %y2, [generic_pointer]; ld.u32 %r1, [%y2+4]; mad.lo.u32 %d, %d, 10, %r1;
         ld.global.u8 %r1, [bytes+1]; add.u32 %d, %d, %r1; ld.global.s8 %r1, [bytes+2]; add.u32 %d, %d, %r1;
         mov.u64 %y3, mine; cvta.local.u64 %y3, %y3; st.u32 [%y3+4], %t; ld.local.u32 %r1, [mine+4]; mad.lo.u32 %d, %r1, 10000, %d;
         shl.b32 %r2, %t, 2; cvt.u64.u32 %y4, %r2; mov.u64 %y5, ours; cvta.shared.u64 %y6, %y5; add.u64 %y6, %y6, %y4;
         st.u32 [%y6], %t; cvta.to.shared.u64 %y7, %y6; sub.u64 %y8, %y7, %y4; setp.ne.u64 %p0, %y8, %y5; @%p0 mov.u32 %d, 0;
         bar.sync 0; xor.b32 %r3, %t, 1; shl.b32 %r3, %r3, 2; cvt.u64.u32 %y9, %r3; add.u64 %y9, %y9, %y5; ld.shared.u32 %r4, [%y9];
         mad.lo.u32 %d, %r4, 1000000, %d;
         isspacep.shared %p1, %y6; isspacep.local %p2, %y6; isspacep.const %p3, %y2; isspacep.local %p4, %y3;
         and.pred %p1, %p1, %p3; and.pred %p1, %p1, %p4; not.pred %p2, %p2; and.pred %p1, %p1, %p2; @!%p1 mov.u32 %d, 1;",
        1,
        6,
    )
    .unwrap();
    for (t, got) in got.into_iter().enumerate() {
        let t = t as u32;
        let factor = [3, 5, 7, 0][t as usize % 4];
        assert_eq!(
            got,
            (factor * 10 + 2) * 10 + 5 + 255 - 2 + t * 10000 + (t ^ 1) * 1_000_000
        );
    }
}

#[test]
fn vectors_and_dynamic_shared_memory() {
    let text = ".extern .shared .align 16 .b8 room[];
        .visible .entry k(.param .u64 out, .param .align 16 .b8 s[32]) {
        .reg .b32 %r<12>; .reg .b64 %y<6>; .reg .f32 %f<5>; .reg .b16 %h<5>; .shared .align 4 .u32 fixed;
        mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 4; mov.u32 %r2, room; add.u32 %r2, %r2, %r1;
        ld.param.v4.u32 {%r4, %r5, %r6, %r7}, [s+16]; add.u32 %r4, %r4, %r0; st.shared.u32 [fixed], 9;
        st.shared.v4.b32 [%r2], {%r4, %r5, %r6, %r7}; bar.sync 0;
        xor.b32 %r1, %r1, 16; mov.u32 %r3, room; add.u32 %r3, %r3, %r1; ld.shared.v2.u32 {%r8, %r9}, [%r3+8];
        ld.shared.v4.u16 {%h0, %h1, %h2, %h3}, [%r3]; cvt.u32.u16 %r10, %h0; ld.shared.u32 %r11, [fixed];
        add.u32 %r9, %r9, %r11;
        ld.param.u64 %y0, [out]; mad.wide.u32 %y0, %r0, 16, %y0; st.global.v4.u32 [%y0], {%r8, %r9, %r10, 5}; ret; }";
    let program = compile(text);
    let info = &program.kernels()[0];
    assert_eq!(
        (
            info.param_bytes,
            info.params[1].offset,
            info.params[1].align
        ),
        (48, 16, 16)
    );
    let mut device = Device::new(1 << 20);
    let out = device.zeros::<u32>(4 * 8);
    let args = Args::new()
        .add(out)
        .add(0_u64)
        .add([0_u32; 4][0])
        .add(0_u32)
        .add(0_u32)
        .add(0_u32);
    let args = args.add(40_u32).add(41_u32).add(42_u32).add(43_u32);
    device
        .launch_shared(&program, "k", 1, 8, 16 * 8, &args)
        .unwrap();
    let got = device.download::<u32>(out, 32);
    for t in 0..8_u32 {
        assert_eq!(&got[4 * t as usize..][..4], &[42, 52, 40 + (t ^ 1), 5]);
    }
    // One thread's worth too little: the last store is outside.
    let fault = device
        .launch_shared(&program, "k", 1, 8, 16 * 7, &args)
        .unwrap_err();
    assert!(
        matches!(
            &fault,
            Fault::IllegalAddress {
                space: "shared",
                bytes: 16,
                ..
            }
        ),
        "{fault}"
    );
}

#[test]
fn faults_name_what_happened_and_where() {
    let text = ".visible .entry store(.param .u64 to, .param .u32 at) {
        .reg .b32 %r<4>; .reg .b64 %y<4>; .reg .pred %p;
        ld.param.u64 %y0, [to]; ld.param.u32 %r0, [at]; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x;
        setp.ne.u32 %p, %r1, 1; @%p ret; setp.ne.u32 %p, %r2, 2; @%p ret;
        cvt.u64.u32 %y1, %r0; add.u64 %y0, %y0, %y1;
        st.global.u32 [%y0], 1;
        ret; }";
    let program = compile(text);
    let mut device = Device::new(1 << 20);
    let to = device.zeros::<u8>(134);
    let run = |at: u32| device.launch(&program, "store", 3, 4, &Args::new().add(to).add(at));
    run(0).unwrap();
    run(128).unwrap();
    for at in [132, 136, 200, 256, 4096, 0x4000_0000, 0xffff_fffc] {
        match run(at).unwrap_err() {
            Fault::IllegalAddress {
                space,
                address,
                bytes,
                place,
            } => {
                assert_eq!((space, address, bytes), ("global", to + u64::from(at), 4));
                assert_eq!(
                    (place.kernel.as_str(), place.block, place.thread),
                    ("store", [1, 0, 0], [2, 0, 0])
                );
                assert_eq!(place.line, 9);
            }
            fault => panic!("{fault}"),
        }
    }
    for at in [1, 2, 3, 131] {
        assert!(matches!(
            run(at).unwrap_err(),
            Fault::MisalignedAddress { bytes: 4, .. }
        ));
    }
    let run = |base: u64| device.launch(&program, "store", 3, 4, &Args::new().add(base).add(0_u32));
    for base in [0, 4, 1 << 40, u64::MAX - 3, to - 4, 0x7fff_ffff_f000] {
        assert!(
            matches!(run(base).unwrap_err(), Fault::IllegalAddress { .. }),
            "{base:#x}"
        );
    }

    let expect = |body: &str, what: fn(&Fault) -> bool| {
        let fault = try_words("", body, 4, 64).unwrap_err();
        assert!(what(&fault), "{body}: {fault}");
    };
    expect(
        "setp.eq.u32 %p0, %me, 70; @%p0 trap; mov.u32 %d, 0;",
        |fault| matches!(fault, Fault::Trap(place) if place.block[0] == 1 && place.thread[0] == 6),
    );
    expect(
        ".local .align 4 .b8 mine[16]; mov.u64 %y0, mine; add.u64 %y0, %y0, 4096; ld.local.u32 %d, [%y0];",
        |fault| matches!(fault, Fault::IllegalAddress { space: "local", .. }),
    );
    expect("mov.u64 %y0, 8; ld.u32 %d, [%y0];", |fault| {
        matches!(
            fault,
            Fault::IllegalAddress {
                space: "generic",
                address: 8,
                ..
            }
        )
    });
    expect(
        ".shared .align 4 .b8 ours[16]; mov.u32 %r0, 2; ld.shared.u32 %d, [%r0];",
        |fault| {
            matches!(
                fault,
                Fault::MisalignedAddress {
                    space: "shared",
                    ..
                }
            )
        },
    );
    // Several accesses checked at once.
    expect(
        ".shared .align 4 .b8 ours[16]; mov.u32 %r0, 4; ld.shared.u32 %d, [%r0-4]; ld.shared.u32 %d, [%r0+8]; ld.shared.u32 %d, [%r0+12];",
        |fault| {
            matches!(
                fault,
                Fault::IllegalAddress {
                    space: "shared",
                    bytes: 20,
                    ..
                }
            )
        },
    );
    let fault = try_words(
        "",
        "mov.u64 %y0, 0x7f0000000100; { .param .b32 a; p: .callprototype (.param .b32 _) _ (); call (a), %y0, (), p; ld.param.b32 %d, [a]; }",
        1,
        1,
    );
    assert!(matches!(
        fault.unwrap_err(),
        Fault::IllegalAddress { space: "code", .. }
    ));
}

#[test]
fn deadlocks_and_endless_recursion_are_faults() {
    let deadlock = |body: &str, waiting: u32| {
        let fault = try_words("", body, 1, 64).unwrap_err();
        assert!(
            matches!(fault, Fault::BarrierDeadlock { waiting: w, .. } if w == waiting),
            "{body}: {fault}"
        );
    };
    deadlock(
        "setp.lt.u32 %p0, %t, 10; @%p0 bra few; bar.sync 0; few: bar.sync 1; mov.u32 %d, 0;",
        64,
    );
    deadlock("mov.u32 %d, 0; bar.sync 2, 96;", 64);
    deadlock(
        "mov.u32 %d, 0; setp.lt.u32 %p0, %t, 1; @%p0 bra one; bar.warp.sync 0xffffffff; bra out;
         one: bar.sync 0; out:",
        // The second warp passes and ends.
        32,
    );
    let before = ".func (.param .b32 r) down(.param .b32 n) {
        .reg .b32 %r<3>; ld.param.u32 %r0, [n];
        { .param .b32 a; .param .b32 b; add.u32 %r1, %r0, 1; st.param.b32 [a], %r1; call (b), down, (a); ld.param.b32 %r2, [b]; }
        st.param.b32 [r], %r2; ret; }";
    let body = "{ .param .b32 a; .param .b32 b; st.param.b32 [a], 1; call (b), down, (a); ld.param.b32 %d, [b]; }";
    assert!(matches!(
        try_words(before, body, 1, 2).unwrap_err(),
        Fault::StackOverflow(_)
    ));
}

#[test]
fn launches_that_cannot_start() {
    let program = compile(
        ".visible .entry k(.param .u64 a) { .shared .align 4 .b8 s[4096]; st.shared.u32 [s], 1; ret; }",
    );
    let device = Device::new(1 << 16);
    let args = Args::new().add(0_u64);
    let invalid =
        |result: Result<(), Fault>| assert!(matches!(result.unwrap_err(), Fault::InvalidLaunch(_)));
    invalid(device.launch(&program, "k", 1, 1, &Args::new()));
    invalid(device.launch(&program, "k", 1, 1025, &args));
    invalid(device.launch(&program, "k", 0, 1, &args));
    invalid(device.launch(&program, "k", 1, [1, 0, 1], &args));
    invalid(device.launch_shared(&program, "k", 1, 1, 97 << 10, &args));
    device
        .launch_shared(&program, "k", 1, 1024, 90 << 10, &args)
        .unwrap();
    let text = ".global .u32 x; .visible .entry k() { ret; }";
    let program = compile(text);
    invalid(device.launch(&program, "k", 1, 1, &Args::new()));
    invalid(program.bind_variables(&[]));
    program.bind_variables(&[4096]).unwrap();
    invalid(program.bind_variables(&[4096]));
    device.launch(&program, "k", 1, 1, &Args::new()).unwrap();
}

#[test]
fn what_a_kernel_is_said_to_be() {
    let text = ".visible .entry big(.param .u8 a, .param .u64 b, .param .u16 c)
        .maxntid 64, 2
        { .local .align 8 .b8 l[24]; .shared .align 16 .b8 s[40]; .reg .b32 %r; mov.u32 %r, s; ret; }
        .entry exact() .reqntid 32, 1, 1 { ret; }";
    let program = compile(text);
    let [big, exact] = program.kernels() else {
        panic!()
    };
    let offsets: Vec<_> = big
        .params
        .iter()
        .map(|param| (param.offset, param.size))
        .collect();
    assert_eq!(offsets, [(0, 1), (8, 8), (16, 2)]);
    assert_eq!(
        (big.param_bytes, big.shared_bytes, big.local_bytes),
        (18, 40, 24)
    );
    assert_eq!(
        (big.max_threads, big.ptx_version, big.target),
        (Some([64, 2, 1]), 80, 90)
    );
    assert_eq!(exact.required_threads, Some([32, 1, 1]));
    let too_much =
        module(".entry k() { .shared .b8 s[200000]; .reg .b32 %r; mov.u32 %r, s; ret; }");
    assert_eq!(
        Program::compile(&too_much).unwrap_err().kind,
        PtxErrorKind::Limit
    );
}
