//! Instructions of a warp and barriers: lanes in plain Rust, with full masks and with two groups of
//! lanes on different paths.

use super::{Table, named};
use crate::form::Kernel;
use crate::types::{Numbers, Since, Ty};

const ALWAYS: Since = Since::ALWAYS;
const VOLTA: Since = Since(60, 70);
const THREADS: usize = 64;
/// Bytes of each thread's input and output.
const SLOT: usize = 16;

pub(super) fn add(table: &mut Table) {
    shuffles(table);
    votes(table);
    matches(table);
    reductions(table);
    barriers(table);
}

/// What the instruction set leaves open.
const ANY: [u64; 2] = [u64::MAX; 2];

/// What lanes of one warp get: from the lanes of the group, the lane's place among the 32, and all
/// lanes' inputs (two words each).
type Lanes = Box<dyn Fn(u32, usize, &[[u64; 2]]) -> [u64; 2] + Send + Sync>;

/// An instruction that all lanes execute, then the lanes of two halves on different paths (if it takes
/// a mask). `{mask}` is the mask; `%rd1` and `%rd2` are the inputs, `%r1` and `%r2` their low halves,
/// `%p1` the first's lowest bit; the results are in `%rd3` and `%rd4`.
fn lanes(table: &mut Table, name: &str, since: Since, code: &str, masked: bool, wanted: Lanes) {
    let mut numbers = Numbers::named(name);
    let mut input = Vec::new();
    for _ in 0..THREADS {
        for _ in 0..2 {
            // Few different values, so that some are equal, and large ones.
            let value = match numbers.below(3) {
                0 => numbers.below(4) as u64,
                1 => 0x8000_0000_8000_0001,
                _ => numbers.bits(),
            };
            input.extend_from_slice(&value.to_le_bytes());
        }
    }
    const ODD: u32 = 0xf0f0_a5a5;
    let mut body = format!(
        "mad.wide.u32 %rd8, %t, {SLOT}, %in; mad.wide.u32 %rd9, %t, {}, %out;
         ld.global.v2.b64 {{%rd1, %rd2}}, [%rd8]; cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2;
         and.b32 %r3, %r1, 1; setp.ne.u32 %p1, %r3, 0; mov.b64 %rd3, 0; mov.b64 %rd4, 0; mov.b32 %r4, 0; mov.b32 %r5, 0;
         mov.u32 %r7, %laneid;\n",
        2 * SLOT
    );
    let body_of = |mask: u32| code.replace("{mask}", &format!("0x{mask:x}"));
    body += &format!(
        "{{ {} }}\nst.global.v2.b64 [%rd9], {{%rd3, %rd4}};\n",
        body_of(u32::MAX)
    );
    if masked {
        body += &format!(
            "mov.b32 %r8, 0x{ODD:x}; shr.u32 %r8, %r8, %r7; and.b32 %r8, %r8, 1; setp.eq.u32 %p9, %r8, 0;
             @%p9 bra other;\n{{ {} }}\nbra joined;\nother:\n{{ {} }}\njoined:\nst.global.v2.b64 [%rd9+{SLOT}], {{%rd3, %rd4}};\n",
            body_of(ODD),
            body_of(!ODD)
        );
    }
    table.kernel(name, since, Kernel {
        declarations: String::new(),
        body,
        threads: THREADS as u32,
        blocks: 1,
        input,
        output: THREADS * 2 * SLOT,
        faults: false,
        objects: Vec::new(),
        judge: Box::new(move |input, output| {
            let word = |bytes: &[u8], at: usize| {
                let mut word = [0; 8];
                word.copy_from_slice(&bytes[at..at + 8]);
                u64::from_le_bytes(word)
            };
            for warp in 0..THREADS / 32 {
                let values: Vec<[u64; 2]> = (0..32)
                    .map(|lane| {
                        let at = (warp * 32 + lane) * SLOT;
                        [word(input, at), word(input, at + 8)]
                    })
                    .collect();
                for lane in 0..32 {
                    let mine = if ODD >> lane & 1 == 1 { ODD } else { !ODD };
                    for (part, group) in [(0, u32::MAX), (SLOT, mine)] {
                        if part > 0 && !masked {
                            continue;
                        }
                        let at = (warp * 32 + lane) * 2 * SLOT + part;
                        let got = [word(output, at), word(output, at + 8)];
                        let wanted = wanted(group, lane, &values);
                        if got != wanted && wanted != ANY {
                            return Err(format!(
                                "lane {lane} of {group:#x}: got {got:x?}, wanted {wanted:x?} (inputs {:x?})",
                                values[lane]
                            ));
                        }
                    }
                }
            }
            Ok(())
        }),
    });
}

fn shuffles(table: &mut Table) {
    for mode in ["up", "down", "bfly", "idx"] {
        for sync in [true, false] {
            // Which lane, and the bounds of the segment: all of it, and segments of 8.
            let clamp = if mode == "up" {
                [0x0000, 0x1800]
            } else {
                [0x001f, 0x181f]
            };
            for (variant, clamp) in clamp.into_iter().enumerate() {
                let name = named("shfl", &[if sync { "sync" } else { "" }, mode, "b32"]);
                let mask = if sync { ", {mask}" } else { "" };
                let code = format!(
                    "and.b32 %r6, %r2, 15; {name} %r4|%p2, %r1, %r6, 0x{clamp:x}{mask}; cvt.u64.u32 %rd3, %r4; \
                     selp.b64 %rd4, 1, 0, %p2; {name} %r5, %r1, %r6, 0x{clamp:x}{mask}; xor.b32 %r5, %r5, %r4; \
                     @!%p2 mov.b32 %r5, 0; cvt.u64.u32 %rd5, %r5; or.b64 %rd4, %rd4, %rd5;"
                );
                let segment = clamp >> 8 & 0x1f;
                let limit = clamp & 0x1f;
                let wanted = move |group: u32, lane: usize, values: &[[u64; 2]]| {
                    let b = (values[lane][1] & 15) as i64;
                    let me = lane as i64;
                    let (segment, limit) = (i64::from(segment), i64::from(limit));
                    let most = me & segment | limit & !segment & 31;
                    let least = me & segment;
                    let (from, inside) = match mode {
                        "up" => (me - b, me - b >= most),
                        "down" => (me + b, me + b <= most),
                        "bfly" => (me ^ b, me ^ b <= most),
                        _ => (
                            least | b & !segment & 31,
                            (least | b & !segment & 31) <= most,
                        ),
                    };
                    let from = if inside { from as usize } else { lane };
                    if group >> from & 1 == 0 {
                        // Not one of the group: the value is unspecified.
                        return None;
                    }
                    Some([values[from][0] & 0xffff_ffff, u64::from(inside)])
                };
                // Lanes whose source is outside the group are not judged; the others are.
                let since = if sync { ALWAYS } else { Since(60, 50) };
                let suffix = if variant == 1 { " (segments)" } else { "" };
                let full = move |group: u32, lane: usize, values: &[[u64; 2]]| {
                    wanted(group, lane, values).unwrap_or(ANY)
                };
                lanes(
                    table,
                    &format!("{name}{suffix}"),
                    since,
                    &code,
                    sync,
                    Box::new(full),
                );
            }
        }
    }
}

fn member(group: u32, values: &[[u64; 2]]) -> impl Iterator<Item = (usize, &[u64; 2])> {
    values
        .iter()
        .enumerate()
        .filter(move |(lane, _)| group >> lane & 1 == 1)
}

fn votes(table: &mut Table) {
    for sync in ["sync", ""] {
        let mask = if sync.is_empty() { "" } else { ", {mask}" };
        for mode in ["all", "any", "uni"] {
            let name = named("vote", &[sync, mode, "pred"]);
            let code = format!(
                "{name} %p2, %p1{mask}; selp.b64 %rd3, 1, 0, %p2; {name} %p3, !%p1{mask}; selp.b64 %rd4, 1, 0, %p3;"
            );
            let wanted = move |group: u32, _: usize, values: &[[u64; 2]]| {
                let result = |flip: u64| {
                    let mut ones = member(group, values).map(|(_, value)| value[0] & 1 ^ flip == 1);
                    u64::from(match mode {
                        "all" => ones.all(|one| one),
                        "any" => ones.any(|one| one),
                        _ => {
                            let ones: Vec<bool> = ones.collect();
                            ones.iter().all(|&one| one == ones[0])
                        }
                    })
                };
                [result(0), result(1)]
            };
            lanes(
                table,
                &name,
                ALWAYS,
                &code,
                !sync.is_empty(),
                Box::new(wanted),
            );
        }
        let name = named("vote", &[sync, "ballot", "b32"]);
        let code = format!("{name} %r4, %p1{mask}; cvt.u64.u32 %rd3, %r4;");
        let wanted = move |group: u32, _: usize, values: &[[u64; 2]]| {
            let ballot =
                member(group, values).fold(0, |all, (lane, value)| all | (value[0] & 1) << lane);
            [ballot, 0]
        };
        lanes(
            table,
            &name,
            ALWAYS,
            &code,
            !sync.is_empty(),
            Box::new(wanted),
        );
    }
    let code = "activemask.b32 %r4; cvt.u64.u32 %rd3, %r4;";
    lanes(
        table,
        "activemask.b32",
        Since(62, 50),
        code,
        false,
        Box::new(|group, _, _| [group.into(), 0]),
    );
    let code = "elect.sync %r4|%p2, {mask}; cvt.u64.u32 %rd3, %r4; selp.b64 %rd4, 1, 0, %p2;";
    // Which lane is elected is not said; here as on GPUs it is the lowest.
    let wanted = |group: u32, lane: usize, _: &[[u64; 2]]| {
        let leader = group.trailing_zeros();
        [leader.into(), u64::from(leader as usize == lane)]
    };
    lanes(
        table,
        "elect.sync",
        Since(80, 90),
        code,
        true,
        Box::new(wanted),
    );
}

fn matches(table: &mut Table) {
    for (ty, register) in [(Ty::B32, "%r1"), (Ty::B64, "%rd1")] {
        let same = move |group: u32, lane: usize, values: &[[u64; 2]]| {
            let mask = ty.mask() as u64;
            member(group, values).fold(0, |all, (other, value)| {
                all | u64::from(value[0] & mask == values[lane][0] & mask) << other
            })
        };
        let name = named("match", &["any", "sync", ty.name()]);
        let code = format!("{name} %r4, {register}, {{mask}}; cvt.u64.u32 %rd3, %r4;");
        lanes(
            table,
            &name,
            VOLTA,
            &code,
            true,
            Box::new(move |group, lane, values| [same(group, lane, values), 0]),
        );
        let name = named("match", &["all", "sync", ty.name()]);
        let code = format!(
            "{name} %r4|%p2, {register}, {{mask}}; cvt.u64.u32 %rd3, %r4; selp.b64 %rd4, 1, 0, %p2; \
             and.b32 %r5, %r1, 0; {name} %r6, %r5, {{mask}}; xor.b32 %r6, %r6, {{mask}}; cvt.u64.u32 %rd5, %r6; or.b64 %rd4, %rd4, %rd5;"
        );
        let code = if ty == Ty::B64 {
            format!(
                "{name} %r4|%p2, {register}, {{mask}}; cvt.u64.u32 %rd3, %r4; selp.b64 %rd4, 1, 0, %p2;"
            )
        } else {
            code
        };
        let wanted = move |group: u32, lane: usize, values: &[[u64; 2]]| {
            let all = same(group, lane, values) == u64::from(group);
            if all { [group.into(), 1] } else { [0, 0] }
        };
        lanes(table, &name, VOLTA, &code, true, Box::new(wanted));
    }
}

fn reductions(table: &mut Table) {
    for (operation, ty) in [
        ("add", Ty::U32),
        ("add", Ty::S32),
        ("min", Ty::U32),
        ("min", Ty::S32),
        ("max", Ty::U32),
        ("max", Ty::S32),
        ("and", Ty::B32),
        ("or", Ty::B32),
        ("xor", Ty::B32),
    ] {
        let name = named("redux", &["sync", operation, ty.name()]);
        let code = format!("{name} %r4, %r1, {{mask}}; cvt.u64.u32 %rd3, %r4;");
        let wanted = move |group: u32, _: usize, values: &[[u64; 2]]| {
            let result = member(group, values)
                .map(|(_, value)| u128::from(value[0] & 0xffff_ffff))
                .reduce(|a, b| match operation {
                    "add" => ty.wrap(ty.value(a) + ty.value(b)),
                    "min" => {
                        if ty.value(a) < ty.value(b) {
                            a
                        } else {
                            b
                        }
                    }
                    "max" => {
                        if ty.value(a) > ty.value(b) {
                            a
                        } else {
                            b
                        }
                    }
                    "and" => a & b,
                    "or" => a | b,
                    _ => a ^ b,
                });
            [result.unwrap_or(0) as u64, 0]
        };
        lanes(table, &name, Since(70, 80), &code, true, Box::new(wanted));
    }
}

/// All threads of a block: what one writes before a barrier, another reads after it.
fn barriers(table: &mut Table) {
    let mut names = Vec::new();
    for aligned in ["", "aligned"] {
        for cta in ["", "cta"] {
            let since = if cta.is_empty() {
                ALWAYS
            } else {
                Since(78, 50)
            };
            names.push((named("barrier", &[cta, "sync", aligned]), since));
        }
    }
    names.push(("bar.sync".to_owned(), ALWAYS));
    names.push(("bar.cta.sync".to_owned(), Since(78, 50)));
    for (name, since) in names {
        for arguments in ["0", "3", "%r9", "2, 64", "%r9, %r8"] {
            let code = format!("mov.u32 %r9, 5; mov.u32 %r8, 64; {name} {arguments};");
            exchange(table, &format!("{name} ({arguments})"), since, &code);
        }
    }
    let arrive = [
        ("bar.arrive", "bar.sync", ALWAYS),
        ("bar.cta.arrive", "bar.cta.sync", Since(78, 50)),
        ("barrier.arrive", "barrier.sync", ALWAYS),
        ("barrier.arrive.aligned", "barrier.sync.aligned", ALWAYS),
        ("barrier.cta.arrive", "barrier.cta.sync", Since(78, 50)),
        (
            "barrier.cta.arrive.aligned",
            "barrier.cta.sync.aligned",
            Since(78, 50),
        ),
    ];
    for (name, sync, since) in arrive {
        // The upper warp writes and arrives; the lower waits and reads; then all meet.
        let code = format!(
            "setp.lt.u32 %p1, %t, 32; @%p1 bra wait; {name} 1, 64; bra on; wait: {sync} 1, 64; on: bar.sync 0;"
        );
        exchange(table, name, since, &code);
    }
    exchange_warp(table);
    for cta in ["", "cta"] {
        let from = if cta.is_empty() {
            ALWAYS
        } else {
            Since(78, 50)
        };
        for (opcode, aligned) in [("bar", ""), ("barrier", ""), ("barrier", "aligned")] {
            for mode in ["popc", "and", "or"] {
                let ty = if mode == "popc" { "u32" } else { "pred" };
                let name = named(opcode, &[cta, "red", mode, aligned, ty]);
                let code = if mode == "popc" {
                    format!(
                        "{name} %r4, 0, %p1; cvt.u64.u32 %rd3, %r4; {name} %r4, 1, 64, !%p1; cvt.u64.u32 %rd4, %r4;"
                    )
                } else {
                    format!(
                        "{name} %p2, 0, %p1; selp.b64 %rd3, 1, 0, %p2; {name} %p2, 1, 64, !%p1; selp.b64 %rd4, 1, 0, %p2;"
                    )
                };
                block_reduction(table, &name, from, &code, mode);
            }
        }
    }
}

/// Thread t writes to the block's memory, and after the code thread 63 - t reads it.
fn exchange(table: &mut Table, name: &str, since: Since, code: &str) {
    let body = format!(
        "mov.u64 %rd1, {{k}}s; mad.wide.u32 %rd2, %t, 4, %rd1; mul.lo.u32 %r1, %t, 77; add.u32 %r1, %r1, 5; st.shared.u32 [%rd2], %r1;\n\
         {code}\n\
         sub.u32 %r2, {}, %t; mad.wide.u32 %rd2, %r2, 4, %rd1; ld.shared.u32 %r3, [%rd2]; mad.wide.u32 %rd3, %t, 4, %out; st.global.u32 [%rd3], %r3;",
        THREADS - 1
    );
    table.kernel(
        name,
        since,
        Kernel {
            declarations: format!(".shared .align 4 .b8 {{k}}s[{}];\n", THREADS * 4),
            body,
            threads: THREADS as u32,
            blocks: 1,
            input: vec![0; 8],
            output: THREADS * 4,
            faults: false,
            objects: Vec::new(),
            judge: Box::new(move |_, output| {
                for (thread, got) in output.chunks(4).enumerate() {
                    let mut word = [0; 4];
                    word.copy_from_slice(got);
                    let got = u32::from_le_bytes(word);
                    let wanted = (THREADS - 1 - thread) as u32 * 77 + 5;
                    if got != wanted {
                        return Err(format!("thread {thread}: got {got}, wanted {wanted}"));
                    }
                }
                Ok(())
            }),
        },
    );
}

/// Lanes of a warp see each other's writes after `bar.warp.sync`.
fn exchange_warp(table: &mut Table) {
    let code = "bar.warp.sync 0xffffffff; mov.u32 %r9, 0xffffffff; bar.warp.sync %r9; bar.sync 0;";
    exchange(table, "bar.warp.sync", VOLTA, code);
}

fn block_reduction(table: &mut Table, name: &str, since: Since, code: &str, mode: &'static str) {
    let body = format!(
        "mad.wide.u32 %rd8, %t, 4, %in; ld.global.u32 %r1, [%rd8]; setp.ne.u32 %p1, %r1, 0; mov.b64 %rd3, 0; mov.b64 %rd4, 0;\n{code}\n\
         mad.wide.u32 %rd9, %t, 16, %out; st.global.v2.b64 [%rd9], {{%rd3, %rd4}};"
    );
    let mut numbers = Numbers::named(name);
    let input: Vec<u8> = (0..THREADS)
        .flat_map(|_| (numbers.below(2) as u32).to_le_bytes())
        .collect();
    table.kernel(
        name,
        since,
        Kernel {
            declarations: String::new(),
            body,
            threads: THREADS as u32,
            blocks: 1,
            input,
            output: THREADS * 16,
            faults: false,
            objects: Vec::new(),
            judge: Box::new(move |input, output| {
                let ones = input.chunks(4).filter(|word| word[0] == 1).count() as u64;
                let zeros = THREADS as u64 - ones;
                let wanted = match mode {
                    "popc" => [ones, zeros],
                    "and" => [u64::from(zeros == 0), u64::from(ones == 0)],
                    _ => [u64::from(ones > 0), u64::from(zeros > 0)],
                };
                let wanted: Vec<u8> = wanted.iter().flat_map(|word| word.to_le_bytes()).collect();
                match output.chunks(16).position(|got| got != wanted) {
                    None => Ok(()),
                    Some(thread) => Err(format!(
                        "thread {thread}: got {:x?}, wanted {wanted:x?}",
                        &output[thread * 16..][..16]
                    )),
                }
            }),
        },
    );
}
