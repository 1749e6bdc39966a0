//! Control flow, calls, special registers, fences, address spaces, hints and asynchronous copies: small
//! kernels whose four results per thread are known.

use super::{Table, each, named};
use crate::form::Kernel;
use crate::types::Since;

const ALWAYS: Since = Since::ALWAYS;
const VOLTA: Since = Since(60, 70);
const AMPERE: Since = Since(70, 80);
const HOPPER: Since = Since(80, 90);
const THREADS: u64 = 32;

/// A kernel whose threads leave four results in `%rd10` to `%rd13`, zero at first. The input buffer holds
/// the 64-bit numbers `1000 + i`; `%rd8` is the thread's own place in it, 32 bytes wide.
struct Small {
    declarations: String,
    code: String,
    faults: bool,
}

impl Small {
    fn new(code: impl Into<String>) -> Self {
        Self {
            declarations: String::new(),
            code: code.into(),
            faults: false,
        }
    }

    fn declared(mut self, declarations: impl Into<String>) -> Self {
        self.declarations = declarations.into();
        self
    }

    fn faulting(mut self) -> Self {
        self.faults = true;
        self
    }

    fn add(
        self,
        table: &mut Table,
        name: impl Into<String>,
        since: Since,
        wanted: impl Fn(u64) -> [u64; 4] + Send + Sync + 'static,
    ) {
        let body = format!(
            "mad.wide.u32 %rd8, %t, 32, %in; mad.wide.u32 %rd9, %t, 32, %out; \
             mov.b64 %rd10, 0; mov.b64 %rd11, 0; mov.b64 %rd12, 0; mov.b64 %rd13, 0;\n{}\nstore: \
             st.global.v2.b64 [%rd9], {{%rd10, %rd11}}; st.global.v2.b64 [%rd9+16], {{%rd12, %rd13}};",
            self.code
        );
        let input = (0..THREADS * 4).flat_map(|index| (1000 + index).to_le_bytes());
        table.kernel(
            name,
            since,
            Kernel {
                declarations: self.declarations,
                body,
                threads: THREADS as u32,
                blocks: 1,
                input: input.collect(),
                output: THREADS as usize * 32,
                faults: self.faults,
                objects: Vec::new(),
                judge: Box::new(move |_, output| {
                    for thread in 0..THREADS {
                        let got: Vec<u64> = output[thread as usize * 32..][..32]
                            .chunks(8)
                            .map(|word| {
                                let mut bytes = [0; 8];
                                bytes.copy_from_slice(word);
                                u64::from_le_bytes(bytes)
                            })
                            .collect();
                        let wanted = wanted(thread);
                        if got != wanted {
                            return Err(format!(
                                "thread {thread}: got {got:x?}, wanted {wanted:x?}"
                            ));
                        }
                    }
                    Ok(())
                }),
            },
        );
    }
}

const fn none(_: u64) -> [u64; 4] {
    [0; 4]
}

pub(super) fn add(table: &mut Table) {
    branches(table);
    calls(table);
    specials(table);
    fences(table);
    spaces(table);
    hints(table);
    stack(table);
    copies(table);
    barriers_in_memory(table);
    bulk(table);
    clusters(table);
}

fn branches(table: &mut Table) {
    for uni in ["", "uni"] {
        let name = named("bra", &[uni]);
        // A loop of as many rounds as the thread's number, or the same for all.
        let rounds = if uni.is_empty() { "%t" } else { "7" };
        let code = format!(
            "mov.u32 %r5, {rounds}; again: setp.eq.u32 %p1, %r5, 0; @%p1 {name} after; add.u64 %rd10, %rd10, 3; \
             sub.u32 %r5, %r5, 1; {name} again; after: mov.u64 %rd11, 9;"
        );
        let divergent = uni.is_empty();
        Small::new(code).add(table, name, ALWAYS, move |thread| {
            [3 * if divergent { thread } else { 7 }, 9, 0, 0]
        });
        let name = named("brx", &["idx", uni]);
        let index = if uni.is_empty() {
            "and.b32 %r5, %t, 3;"
        } else {
            "mov.u32 %r5, 2;"
        };
        let code = format!(
            "{index} ts: .branchtargets l0, l1, l2, l3; {name} %r5, ts; l0: mov.u64 %rd10, 10; bra store; \
             l1: mov.u64 %rd10, 11; bra store; l2: mov.u64 %rd10, 12; bra store; l3: mov.u64 %rd10, 13;"
        );
        Small::new(code).add(table, name, Since(60, 50), move |thread| {
            [10 + if divergent { thread & 3 } else { 2 }, 0, 0, 0]
        });
        let name = named("ret", &[uni]);
        let declarations = format!(
            ".func (.param .b32 r) {{k}}f(.param .b32 a) {{ .reg .b32 %x; .reg .pred %q; ld.param.b32 %x, [a]; \
             setp.gt.u32 %q, %x, 15; @%q bra big; st.param.b32 [r], 1; {name}; big: st.param.b32 [r], 2; {name}; }}\n"
        );
        let argument = if uni.is_empty() { "%t" } else { "5" };
        let code = format!(
            "{{ .param .b32 p; .param .b32 q; mov.u32 %r5, {argument}; st.param.b32 [p], %r5; call (q), {{k}}f, (p); \
             ld.param.b32 %r6, [q]; cvt.u64.u32 %rd10, %r6; }}"
        );
        Small::new(code)
            .declared(declarations)
            .add(table, name, ALWAYS, move |thread| {
                [if divergent && thread > 15 { 2 } else { 1 }, 0, 0, 0]
            });
    }
    // The odd threads end; the others go on, through a barrier that does not wait for those.
    let code =
        "and.b32 %r5, %t, 1; setp.eq.u32 %p1, %r5, 1; @%p1 exit; bar.sync 0; mov.u64 %rd10, 7;";
    Small::new(code).add(table, "exit", ALWAYS, |thread| {
        if thread & 1 == 1 {
            [0; 4]
        } else {
            [7, 0, 0, 0]
        }
    });
    let code = "setp.eq.u32 %p1, %t, 5; @%p1 trap;";
    Small::new(code).faulting().add(table, "trap", ALWAYS, none);
    let code = "setp.eq.u32 %p1, %t, 99; @%p1 trap; mov.u64 %rd10, 1;";
    Small::new(code).add(table, "trap (not executed)", ALWAYS, |_| [1, 0, 0, 0]);
    // Without a debugger a breakpoint stops the launch.
    Small::new("brkpt;")
        .faulting()
        .add(table, "brkpt", ALWAYS, none);
    let code = "nanosleep.u32 20; mov.u32 %r5, 10; nanosleep.u32 %r5; mov.u64 %rd10, 1;";
    Small::new(code).add(table, "nanosleep.u32", Since(63, 70), |_| [1, 0, 0, 0]);
    Small::new("pmevent 3; mov.u64 %rd10, 1;").add(table, "pmevent", ALWAYS, |_| [1, 0, 0, 0]);
    Small::new("pmevent.mask 0x5; mov.u64 %rd10, 1;")
        .add(table, "pmevent.mask", ALWAYS, |_| [1, 0, 0, 0]);
}

fn calls(table: &mut Table) {
    for uni in ["", "uni"] {
        let name = named("call", &[uni]);
        let declarations = ".func (.param .b64 r) {k}f(.param .b32 a, .param .align 8 .b8 b[16]) { .reg .b64 %x, %y; .reg .b32 %z; \
             ld.param.b32 %z, [a]; ld.param.b64 %x, [b]; ld.param.b64 %y, [b+8]; mad.wide.u32 %x, %z, 2, %x; \
             sub.u64 %x, %x, %y; st.param.b64 [r], %x; ret; }\n\
             .func (.param .b64 r) {k}fact(.param .b64 n) { .reg .b64 %n, %m; .reg .pred %q; ld.param.b64 %n, [n]; \
             setp.le.u64 %q, %n, 1; @%q bra one; sub.u64 %m, %n, 1; { .param .b64 p; .param .b64 q; st.param.b64 [p], %m; \
             call (q), {k}fact, (p); ld.param.b64 %m, [q]; } mul.lo.u64 %m, %m, %n; st.param.b64 [r], %m; ret; \
             one: st.param.b64 [r], 1; ret; }\n";
        let set = "{ .param .b32 p; .param .align 8 .b8 v[16]; .param .b64 q; st.param.b32 [p], %t; mov.u64 %rd1, 500; \
             st.param.b64 [v], %rd1; mov.u64 %rd1, 3; st.param.b64 [v+8], %rd1; ";
        let get = " ld.param.b64 %rd10, [q]; }";
        let direct = format!("{set} {name} (q), {{k}}f, (p, v); {get}");
        let result = |thread: u64| [2 * thread + 500 - 3, 0, 0, 0];
        Small::new(direct)
            .declared(declarations)
            .add(table, &name, ALWAYS, result);
        let prototype = "mov.u64 %rd2, {k}f; proto: .callprototype (.param .b64 _) _ (.param .b32 _, .param .align 8 .b8 _[16]);";
        let code = format!("{prototype} {set} {name} (q), %rd2, (p, v), proto; {get}");
        Small::new(code).declared(declarations).add(
            table,
            format!("{name} (by address)"),
            ALWAYS,
            result,
        );
        let code = format!(
            "and.b32 %r5, %t, 15; cvt.u64.u32 %rd1, %r5; {{ .param .b64 p; .param .b64 q; st.param.b64 [p], %rd1; \
             {name} (q), {{k}}fact, (p); ld.param.b64 %rd10, [q]; }}"
        );
        Small::new(code).declared(declarations).add(
            table,
            format!("{name} (recursive)"),
            ALWAYS,
            |thread| [(1..=thread & 15).product(), 0, 0, 0],
        );
    }
}

/// A value from a thread's number.
type OfThread = fn(u64) -> u64;

fn specials(table: &mut Table) {
    let known: [(&str, &str, OfThread); 22] = [
        ("u32", "%tid.x", |thread| thread),
        ("u32", "%tid.y", |_| 0),
        ("u32", "%tid.z", |_| 0),
        ("u32", "%ntid.x", |_| THREADS),
        ("u32", "%ntid.y", |_| 1),
        ("u32", "%ntid.z", |_| 1),
        ("u32", "%ctaid.x", |_| 0),
        ("u32", "%ctaid.y", |_| 0),
        ("u32", "%ctaid.z", |_| 0),
        ("u32", "%nctaid.x", |_| 1),
        ("u32", "%nctaid.y", |_| 1),
        ("u32", "%nctaid.z", |_| 1),
        ("u32", "%laneid", |thread| thread),
        ("u32", "%warpid", |_| 0),
        ("u32", "%lanemask_eq", |thread| 1 << thread),
        ("u32", "%lanemask_le", |thread| (2 << thread) - 1),
        ("u32", "%lanemask_lt", |thread| (1 << thread) - 1),
        ("u32", "%lanemask_ge", |thread| {
            0xffff_ffff & !((1 << thread) - 1)
        }),
        ("u32", "%lanemask_gt", |thread| {
            0xffff_ffff & !((2 << thread) - 1)
        }),
        ("u32", "%dynamic_smem_size", |_| 0),
        ("u32", "%total_smem_size", |_| 0),
        ("u16", "%tid.x", |thread| thread),
    ];
    for (ty, register, wanted) in known {
        let code = if ty == "u16" {
            format!("mov.u16 %h1, {register}; cvt.u64.u16 %rd10, %h1;")
        } else {
            format!("mov.{ty} %r5, {register}; cvt.u64.u32 %rd10, %r5;")
        };
        let name = format!("mov.{ty} ({register})");
        if register == "%total_smem_size" {
            // Sizes are rounded up as the device likes.
            Small::new(code + " mov.u64 %rd10, 0;").add(table, name, ALWAYS, none);
        } else {
            Small::new(code).add(table, name, ALWAYS, move |thread| [wanted(thread), 0, 0, 0]);
        }
    }
    // Below a bound, or increasing.
    for (register, bound) in [
        ("%nwarpid", 65),
        ("%smid", 1024),
        ("%nsmid", 1024),
        ("%gridid", u64::MAX),
    ] {
        let code = match register {
            "%gridid" => format!("mov.u64 %rd1, {register}; mov.u64 %rd10, 1;"),
            _ => format!(
                "mov.u32 %r5, {register}; setp.lt.u32 %p1, %r5, {bound}; selp.b64 %rd10, 1, 0, %p1;"
            ),
        };
        Small::new(code).add(table, format!("mov ({register})"), ALWAYS, |_| [1, 0, 0, 0]);
    }
    for (ty, register) in [("u64", "%clock64"), ("u64", "%globaltimer")] {
        let code = format!(
            "mov.{ty} %rd1, {register}; mov.{ty} %rd2, {register}; setp.ge.u64 %p1, %rd2, %rd1; selp.b64 %rd10, 1, 0, %p1;"
        );
        Small::new(code).add(table, format!("mov.{ty} ({register})"), ALWAYS, |_| {
            [1, 0, 0, 0]
        });
    }
    for register in [
        "%clock",
        "%clock_hi",
        "%globaltimer_lo",
        "%globaltimer_hi",
        "%envreg0",
        "%envreg31",
        "%pm0",
        "%pm7",
    ] {
        let code = format!("mov.u32 %r5, {register}; mov.u64 %rd10, 1;");
        Small::new(code).add(table, format!("mov.u32 ({register})"), ALWAYS, |_| {
            [1, 0, 0, 0]
        });
    }
}

/// A word written before is read after, by another thread.
fn fences(table: &mut Table) {
    let mut names: Vec<(String, Since)> = ["cta", "gl", "sys"]
        .map(|scope| (named("membar", &[scope]), ALWAYS))
        .to_vec();
    for words in each(&[&["", "sc", "acq_rel"], &["cta", "cluster", "gpu", "sys"]]) {
        let since = if words[1] == "cluster" {
            Since(78, 90)
        } else {
            VOLTA
        };
        names.push((named("fence", &words), since));
    }
    names.push(("fence.proxy.alias".into(), Since(75, 70)));
    for proxy in [
        "async",
        "async.global",
        "async.shared::cta",
        "async.shared::cluster",
    ] {
        names.push((named("fence", &["proxy", proxy]), HOPPER));
    }
    names.push(("fence.mbarrier_init.release.cluster".into(), HOPPER));
    names.push(("membar.proxy.alias".into(), Since(75, 70)));
    for (name, since) in names {
        let code = format!(
            "mov.u64 %rd1, {{k}}s; mad.wide.u32 %rd2, %t, 4, %rd1; st.shared.u32 [%rd2], %t; {name}; bar.sync 0; \
             xor.b32 %r5, %t, 1; mad.wide.u32 %rd2, %r5, 4, %rd1; ld.shared.u32 %r5, [%rd2]; cvt.u64.u32 %rd10, %r5;"
        );
        Small::new(code)
            .declared(".shared .align 4 .b8 {k}s[128];\n")
            .add(table, name, since, |thread| [thread ^ 1, 0, 0, 0]);
    }
}

const DECLARED: &str = ".shared .align 8 .b8 {k}s[64];\n.global .align 8 .b8 {k}g[64];\n.const .align 8 .b8 {k}c[64] = {7};\n";

fn spaces(table: &mut Table) {
    let all = [
        ("global", "{k}g", ALWAYS),
        ("shared", "{k}s", ALWAYS),
        ("shared::cta", "{k}s", Since(78, 50)),
        ("shared::cluster", "{k}s", Since(78, 90)),
        ("local", "own", ALWAYS),
        ("const", "{k}c", ALWAYS),
    ];
    for (space, variable, since) in all {
        // To generic, back, and a load through the generic address of what was stored in the space.
        let put = if space == "const" {
            String::new()
        } else {
            format!("st.{space}.u8 [%rd1], 7;")
        };
        let code = |name: &str, rest: &str| {
            format!(".local .align 8 .b8 own[64]; mov.u64 %rd1, {variable}; {put} {name} {rest}")
        };
        let name = format!("cvta.{space}.u64");
        let rest = "%rd2, %rd1; ld.u8 %r5, [%rd2]; cvt.u64.u32 %rd10, %r5;";
        Small::new(code(&name, rest))
            .declared(DECLARED)
            .add(table, &name, since, |_| [7, 0, 0, 0]);
        let name = format!("cvta.to.{space}.u64");
        let rest = format!("%rd3, %rd2; ld.{space}.u8 %r5, [%rd3]; cvt.u64.u32 %rd10, %r5;");
        let code = code(&format!("cvta.{space}.u64 %rd2, %rd1; {name}"), &rest);
        Small::new(code)
            .declared(DECLARED)
            .add(table, &name, since, |_| [7, 0, 0, 0]);
        let name = format!("isspacep.{space}");
        let mut code = ".local .align 8 .b8 own[64];".to_owned();
        for (index, (from, other)) in [
            ("global", "{k}g"),
            ("shared", "{k}s"),
            ("local", "own"),
            ("const", "{k}c"),
        ]
        .into_iter()
        .enumerate()
        {
            code += &format!(
                "mov.u64 %rd1, {other}; cvta.{from}.u64 %rd1, %rd1; {name} %p1, %rd1; selp.b64 %rd{}, 1, 0, %p1;",
                10 + index
            );
        }
        let wanted: [u64; 4] = ["global", "shared", "local", "const"]
            .map(|other| u64::from(space.split(':').next() == Some(other)));
        // Constant memory is part of global memory for some devices: not judged there.
        let since = if space == "const" {
            Since(60, 50).and(since)
        } else {
            since
        };
        let code = if space == "global" {
            code + "mov.u64 %rd13, 0;"
        } else {
            code
        };
        Small::new(code)
            .declared(DECLARED)
            .add(table, name, since, move |_| wanted);
    }
}

/// Instructions that change no result.
fn hints(table: &mut Table) {
    let mut names = Vec::new();
    for level in ["L1", "L2"] {
        names.push((format!("prefetch.{level}"), ALWAYS));
        names.push((format!("prefetch.global.{level}"), ALWAYS));
    }
    names.push(("prefetchu.L1".into(), ALWAYS));
    for eviction in ["evict_last", "evict_normal"] {
        names.push((format!("prefetch.global.L2::{eviction}"), Since(74, 80)));
    }
    for (name, since) in names {
        let code = format!("{name} [%rd8]; ld.global.u64 %rd10, [%rd8];");
        Small::new(code).add(table, name, since, |thread| [1000 + 4 * thread, 0, 0, 0]);
    }
    let code = ".local .align 8 .b8 own[64]; mov.u64 %rd1, own; mov.u64 %rd2, 5; st.local.u64 [%rd1], %rd2; ";
    for level in ["L1", "L2"] {
        let name = format!("prefetch.local.{level}");
        Small::new(format!("{code} {name} [%rd1]; ld.local.u64 %rd10, [%rd1];")).add(
            table,
            name,
            ALWAYS,
            |_| [5, 0, 0, 0],
        );
    }
    // What was written to the place before is lost; what is written after is not.
    for (name, since) in [
        ("discard.global.L2", Since(74, 80)),
        ("discard.L2", Since(74, 80)),
        ("applypriority.global.L2::evict_normal", Since(74, 80)),
        ("applypriority.L2::evict_normal", Since(74, 80)),
    ] {
        let code = format!(
            "mov.u64 %rd1, {{k}}g; setp.ne.u32 %p1, %t, 0; @%p1 bra on; {name} [%rd1], 128; mov.u64 %rd2, 5; \
             st.global.u64 [%rd1], %rd2; on: bar.sync 0; ld.global.u64 %rd10, [%rd1];"
        );
        Small::new(code)
            .declared(".global .align 128 .b8 {k}g[128];\n")
            .add(table, name, since, |_| [5, 0, 0, 0]);
    }
    for name in [
        "createpolicy.fractional.L2::evict_last.b64",
        "createpolicy.fractional.L2::evict_normal.b64",
        "createpolicy.fractional.L2::evict_first.b64",
        "createpolicy.fractional.L2::evict_unchanged.b64",
        "createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64",
    ] {
        let code = format!(
            "{name} %rd1, 0f3F000000; ld.global.L2::cache_hint.u64 %rd10, [%rd8], %rd1; \
             st.global.L2::cache_hint.u64 [%rd9], %rd10, %rd1;"
        );
        Small::new(code).add(table, name, Since(74, 80), |thread| {
            [1000 + 4 * thread, 0, 0, 0]
        });
    }
    for name in ["griddepcontrol.launch_dependents", "griddepcontrol.wait"] {
        Small::new(format!("{name}; mov.u64 %rd10, 1;"))
            .add(table, name, Since(78, 90), |_| [1, 0, 0, 0]);
    }
}

fn stack(table: &mut Table) {
    let code = "mov.u64 %rd1, 64; alloca.u64 %rd2, %rd1; mov.u64 %rd1, 5; st.local.u64 [%rd2], %rd1; \
                ld.local.u64 %rd10, [%rd2];";
    Small::new(code).add(table, "alloca.u64", Since(73, 52), |_| [5, 0, 0, 0]);
    let code = "mov.u64 %rd1, 64; alloca.u64 %rd2, %rd1, 16; mov.u64 %rd1, 5; st.local.u64 [%rd2], %rd1; \
                ld.local.u64 %rd10, [%rd2]; and.b64 %rd11, %rd2, 15;";
    Small::new(code).add(table, "alloca.u64 (aligned)", Since(73, 52), |_| {
        [5, 0, 0, 0]
    });
    // The same place again after the stack was put back.
    let code = "stacksave.u64 %rd3; mov.u64 %rd1, 64; alloca.u64 %rd2, %rd1; stackrestore.u64 %rd3; \
                alloca.u64 %rd4, %rd1; setp.eq.u64 %p1, %rd2, %rd4; selp.b64 %rd10, 1, 0, %p1;";
    for name in ["stacksave.u64", "stackrestore.u64"] {
        Small::new(code).add(table, name, Since(73, 52), |_| [1, 0, 0, 0]);
    }
}

fn copies(table: &mut Table) {
    let shared = ".shared .align 16 .b8 {k}s[1024];\n";
    let place = "mov.u64 %rd1, {k}s; mad.wide.u32 %rd2, %t, 32, %rd1; mov.b64 %rd3, -1; st.shared.v2.b64 [%rd2], {%rd3, %rd3}; ";
    let read = " ld.shared.v2.b64 {%rd10, %rd11}, [%rd2];";
    for (cache, sizes) in [("ca", &[4_u64, 8, 16][..]), ("cg", &[16])] {
        for space in ["shared", "shared::cta"] {
            for prefetch in ["", "L2::64B", "L2::128B", "L2::256B"] {
                for &size in sizes {
                    for kept in [size, size / 2, 0] {
                        let name = named("cp", &["async", cache, space, "global", prefetch]);
                        let partial = if kept == size {
                            String::new()
                        } else {
                            format!(", {kept}")
                        };
                        let code = format!(
                            "{place} {name} [%rd2], [%rd8], {size}{partial}; cp.async.commit_group; cp.async.wait_group 0; {read}"
                        );
                        let since = if space == "shared" {
                            AMPERE
                        } else {
                            Since(78, 80)
                        };
                        let since = if prefetch.is_empty() {
                            since
                        } else {
                            since.and(Since(74, 80))
                        };
                        Small::new(code).declared(shared).add(
                            table,
                            format!("{name} ({size} bytes, {kept} of them read)"),
                            since,
                            move |thread| {
                                let mut bytes = [0xff; 16];
                                let first = (1000 + 4 * thread).to_le_bytes();
                                let second = (1001 + 4 * thread).to_le_bytes();
                                let source = [first, second].concat();
                                bytes[..size as usize].fill(0);
                                bytes[..kept as usize].copy_from_slice(&source[..kept as usize]);
                                let word = |at: usize| {
                                    let mut word = [0; 8];
                                    word.copy_from_slice(&bytes[at..at + 8]);
                                    u64::from_le_bytes(word)
                                };
                                [word(0), word(8), 0, 0]
                            },
                        );
                    }
                }
            }
        }
    }
    let copied = |thread: u64| [1000 + 4 * thread, 1001 + 4 * thread, 0, 0];
    let copy = "cp.async.cg.shared.global [%rd2], [%rd8], 16;";
    for (name, wait) in [
        ("cp.async.wait_all", "cp.async.wait_all;"),
        (
            "cp.async.commit_group",
            "cp.async.commit_group; cp.async.wait_all;",
        ),
        (
            "cp.async.wait_group",
            "cp.async.commit_group; cp.async.wait_group 0;",
        ),
    ] {
        Small::new(format!("{place} {copy} {wait} {read}"))
            .declared(shared)
            .add(table, name, AMPERE, copied);
    }
}

/// `mbarrier`: one phase of a barrier that all threads arrive at.
fn barriers_in_memory(table: &mut Table) {
    let declarations = ".shared .align 8 .b8 {k}b[8];\n.shared .align 8 .b8 {k}s[256];\n";
    for space in ["shared", "shared::cta", ""] {
        let since = if space == "shared::cta" {
            Since(78, 80)
        } else {
            AMPERE
        };
        let generic = if space.is_empty() {
            "cvta.shared.u64 %rd1, %rd1;"
        } else {
            ""
        };
        let start = |count: u64| {
            format!(
                "mov.u64 %rd1, {{k}}b; {generic} setp.ne.u32 %p1, %t, 0; @%p1 bra on; {} [%rd1], {count}; on: bar.sync 0; \
                 mov.u64 %rd5, {{k}}s; mad.wide.u32 %rd6, %t, 8, %rd5; cvt.u64.u32 %rd7, %t; st.shared.u64 [%rd6], %rd7; ",
                named("mbarrier", &["init", space, "b64"])
            )
        };
        // Then the neighbour's word is there.
        let read =
            "xor.b32 %r5, %t, 1; mad.wide.u32 %rd6, %r5, 8, %rd5; ld.shared.u64 %rd10, [%rd6];";
        let wait = |name: &str| format!("wait: {name} %p2, [%rd1], %rd2; @!%p2 bra wait; ");
        let test = named("mbarrier", &["test_wait", space, "b64"]);
        let arrive = named("mbarrier", &["arrive", space, "b64"]);
        let seen = |thread: u64| [thread ^ 1, 0, 0, 0];
        let mut forms: Vec<(String, Since, String)> = Vec::new();
        let whole = format!("{}{arrive} %rd2, [%rd1]; {}{read}", start(32), wait(&test));
        forms.push((
            named("mbarrier", &["init", space, "b64"]),
            since,
            whole.clone(),
        ));
        forms.push((arrive.clone(), since, whole.clone()));
        forms.push((test.clone(), since, whole));
        for (verb, from) in [("test_wait", since), ("try_wait", since.and(Since(78, 90)))] {
            for parity in ["", "parity"] {
                let name = named("mbarrier", &[verb, parity, space, "b64"]);
                let operand = if parity.is_empty() { "%rd2" } else { "0" };
                let code = format!(
                    "{}{arrive} %rd2, [%rd1]; wait: {name} %p2, [%rd1], {operand}; @!%p2 bra wait; {read}",
                    start(32)
                );
                let name = if verb == "test_wait" && parity.is_empty() {
                    format!("{name} (alone)")
                } else {
                    name
                };
                forms.push((name, from, code));
            }
        }
        for (verb, rest) in [
            ("arrive_drop", ""),
            ("arrive", "noComplete"),
            ("arrive_drop", "noComplete"),
        ] {
            let name = named("mbarrier", &[verb, rest, space, "b64"]);
            let code = if rest.is_empty() {
                format!("{}{name} %rd2, [%rd1]; {}{read}", start(32), wait(&test))
            } else {
                // Does not complete the phase: one more arrival is due from each.
                format!(
                    "{}{name} %rd3, [%rd1], 1; bar.sync 0; {arrive} %rd2, [%rd1]; {}{read}",
                    start(64),
                    wait(&test)
                )
            };
            forms.push((name, since, code));
        }
        let name = named("mbarrier", &["inval", space, "b64"]);
        let code = format!(
            "{}{arrive} %rd2, [%rd1]; {}{read} bar.sync 0; @%p1 bra store; {name} [%rd1];",
            start(32),
            wait(&test)
        );
        forms.push((name, since, code));
        for (name, since, code) in forms {
            Small::new(code)
                .declared(declarations)
                .add(table, name, since, seen);
        }
        // The count of arrivals that are due, from the state before an arrival.
        if space.is_empty() {
            let code = format!(
                "{} @%p1 bra rest; {arrive} %rd2, [%rd1]; mbarrier.pending_count.b64 %r5, %rd2; cvt.u64.u32 %rd10, %r5; rest: bar.sync 0;",
                start(5)
            );
            Small::new(code).declared(declarations).add(
                table,
                "mbarrier.pending_count.b64",
                AMPERE,
                |thread| [if thread == 0 { 5 } else { 0 }, 0, 0, 0],
            );
        }
    }
}

/// Bulk copies, of 64 bytes by one thread, and transactions of an mbarrier.
fn bulk(table: &mut Table) {
    let declared = ".shared .align 16 .b8 {k}s[256];\n.shared .align 16 .b8 {k}d[256];\n.shared .align 8 .b8 {k}b[8];\n.global .align 16 .b8 {k}g[256];\n";
    let start = "mov.u64 %rd1, {k}b; mov.u64 %rd2, {k}s; mov.u64 %rd3, {k}d; mov.u64 %rd4, {k}g; setp.ne.u32 %p1, %t, 0; \
                 mad.wide.u32 %rd5, %t, 8, %rd2; cvt.u64.u32 %rd6, %t; add.u64 %rd6, %rd6, 70; st.shared.u64 [%rd5], %rd6; ";
    // All wait for what one has started; then each reads its word.
    let waits = "on: bar.sync 0; wait: mbarrier.try_wait.parity.shared.b64 %p2, [%rd1], 0; @!%p2 bra wait; ";
    let open = "@%p1 bra on; mbarrier.init.shared.b64 [%rd1], 1; mbarrier.arrive.expect_tx.shared.b64 %rd7, [%rd1], 256; ";
    let read = "mad.wide.u32 %rd5, %t, 8, %rd3; ld.shared.u64 %rd10, [%rd5];";
    for to in ["shared::cluster", "shared::cta"] {
        let since = if to == "shared::cta" {
            Since(86, 90)
        } else {
            HOPPER
        };
        let name = format!("cp.async.bulk.{to}.global.mbarrier::complete_tx::bytes");
        let code =
            format!("{start} bar.sync 0; {open} {name} [%rd3], [%in], 256, [%rd1]; {waits} {read}");
        Small::new(code)
            .declared(declared)
            .add(table, name, since, |thread| [1000 + thread, 0, 0, 0]);
    }
    let name = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes";
    let code =
        format!("{start} bar.sync 0; {open} {name} [%rd3], [%rd2], 256, [%rd1]; {waits} {read}");
    Small::new(code)
        .declared(declared)
        .add(table, name, HOPPER, |thread| [70 + thread, 0, 0, 0]);
    let store = "cp.async.bulk.global.shared::cta.bulk_group";
    for (name, wait) in [
        (store, "cp.async.bulk.wait_group 0"),
        ("cp.async.bulk.commit_group", "cp.async.bulk.wait_group 0"),
        ("cp.async.bulk.wait_group", "cp.async.bulk.wait_group 0"),
        (
            "cp.async.bulk.wait_group.read",
            "cp.async.bulk.wait_group.read 0; cp.async.bulk.wait_group 0",
        ),
    ] {
        let code = format!(
            "{start} bar.sync 0; @%p1 bra on; {store} [%rd4], [%rd2], 256; cp.async.bulk.commit_group; {wait}; on: bar.sync 0; \
             mad.wide.u32 %rd5, %t, 8, %rd4; ld.global.u64 %rd10, [%rd5];"
        );
        Small::new(code)
            .declared(declared)
            .add(table, name, HOPPER, |thread| [70 + thread, 0, 0, 0]);
    }
    let name = "cp.async.bulk.prefetch.L2.global";
    let code = format!("{name} [%in], 256; ld.global.u64 %rd10, [%rd8];");
    Small::new(code).add(table, name, HOPPER, |thread| [1000 + 4 * thread, 0, 0, 0]);
    // Transactions that the kernel counts itself.
    for space in ["", "shared", "shared::cta"] {
        let expect = named("mbarrier", &["expect_tx.relaxed.cta", space, "b64"]);
        let complete = named("mbarrier", &["complete_tx.relaxed.cta", space, "b64"]);
        let generic = if space.is_empty() {
            "cvta.shared.u64 %rd1, %rd1;"
        } else {
            ""
        };
        let arrive = named("mbarrier", &["arrive.expect_tx", space, "b64"]);
        let test = named("mbarrier", &["test_wait", space, "b64"]);
        let init = named("mbarrier", &["init", space, "b64"]);
        // Not over before both transactions are.
        let code = format!(
            "mov.u64 %rd1, {{k}}b; {generic} setp.ne.u32 %p1, %t, 0; @%p1 bra on; {init} [%rd1], 1; {expect} [%rd1], 8; \
             {arrive} %rd2, [%rd1], 4; {test} %p2, [%rd1], %rd2; selp.b64 %rd10, 1, 0, %p2; {complete} [%rd1], 8; \
             {test} %p2, [%rd1], %rd2; selp.b64 %rd11, 1, 0, %p2; {complete} [%rd1], 4; \
             {test} %p2, [%rd1], %rd2; selp.b64 %rd12, 1, 0, %p2; on: bar.sync 0;"
        );
        for name in [expect, arrive, complete] {
            Small::new(code.clone())
                .declared(declared)
                .add(table, name, HOPPER, |thread| {
                    [0, 0, u64::from(thread == 0), 0]
                });
        }
    }
    for name in [
        "setmaxnreg.inc.sync.aligned.u32",
        "setmaxnreg.dec.sync.aligned.u32",
    ] {
        let code = format!("mov.u64 %rd10, 3; {name} 64; add.u64 %rd10, %rd10, 1;");
        Small::new(code).add(table, name, HOPPER, |_| [4, 0, 0, 0]);
    }
}

/// A grid without clusters has clusters of one block.
fn clusters(table: &mut Table) {
    for (register, wanted) in [
        ("%clusterid.x", 0),
        ("%nclusterid.x", 1),
        ("%cluster_ctaid.x", 0),
        ("%cluster_nctaid.x", 1),
        ("%cluster_ctarank", 0),
        ("%cluster_nctarank", 1),
    ] {
        let code = format!("mov.u32 %r5, {register}; cvt.u64.u32 %rd10, %r5;");
        Small::new(code).add(
            table,
            format!("mov.u32 ({register})"),
            Since(78, 90),
            move |_| [wanted, 0, 0, 0],
        );
    }
    let shared = ".shared .align 8 .b8 {k}s[64];\n";
    for ty in ["u32", "u64"] {
        let (source, to) = if ty == "u32" {
            ("%r6", "%r7")
        } else {
            ("%rd1", "%rd2")
        };
        let name = format!("mapa.shared::cluster.{ty}");
        let code = format!(
            "mov.u64 %rd1, {{k}}s; cvt.u32.u64 %r6, %rd1; st.shared.u32 [%rd1], 9; {name} {to}, {source}, 0; \
             ld.shared::cluster.u32 %r5, [{to}]; cvt.u64.u32 %rd10, %r5;"
        );
        Small::new(code)
            .declared(shared)
            .add(table, name, Since(78, 90), |_| [9, 0, 0, 0]);
        let name = format!("getctarank.shared::cluster.{ty}");
        let code = format!(
            "mov.u64 %rd1, {{k}}s; cvt.u32.u64 %r6, %rd1; {name} %r5, {source}; cvt.u64.u32 %rd10, %r5; mov.u64 %rd11, 1;"
        );
        Small::new(code)
            .declared(shared)
            .add(table, name, Since(78, 90), |_| [0, 1, 0, 0]);
    }
    for (arrive, wait) in [
        ("barrier.cluster.arrive", "barrier.cluster.wait"),
        (
            "barrier.cluster.arrive.release",
            "barrier.cluster.wait.acquire",
        ),
        ("barrier.cluster.arrive.relaxed", "barrier.cluster.wait"),
        (
            "barrier.cluster.arrive.aligned",
            "barrier.cluster.wait.aligned",
        ),
        (
            "barrier.cluster.arrive.release.aligned",
            "barrier.cluster.wait.acquire.aligned",
        ),
    ] {
        let code = format!(
            "mov.u64 %rd1, {{k}}s; mad.wide.u32 %rd2, %t, 2, %rd1; st.shared.u16 [%rd2], 3; {arrive}; {wait}; \
             xor.b32 %r5, %t, 1; mad.wide.u32 %rd2, %r5, 2, %rd1; ld.shared.u16 %r5, [%rd2]; cvt.u64.u32 %rd10, %r5;"
        );
        for name in [arrive, wait] {
            Small::new(code.clone())
                .declared(shared)
                .add(table, name, Since(78, 90), |_| [3, 0, 0, 0]);
        }
    }
    // What is asked of the tensor memory accelerator or of warp groups.
    let lacking: [(&str, &str, &str); 9] = [
        (
            "wgmma.fence.sync.aligned",
            "wgmma.fence.sync.aligned;",
            "wgmma works on warp groups of sm_90a alone",
        ),
        (
            "wgmma.commit_group.sync.aligned",
            "wgmma.commit_group.sync.aligned;",
            "wgmma works on warp groups of sm_90a alone",
        ),
        (
            "wgmma.wait_group.sync.aligned",
            "wgmma.wait_group.sync.aligned 0;",
            "wgmma works on warp groups of sm_90a alone",
        ),
        (
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16",
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f0,%f1,%f2,%f3}, %rd1, %rd2, 1, 1, 1, 0, 0;",
            "wgmma works on warp groups of sm_90a alone",
        ),
        (
            "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes",
            "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%rd1], [%rd2, {%r1}], [%rd3];",
            "tensor maps are the driver's own format",
        ),
        (
            "cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.tile.bulk_group",
            "cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.tile.bulk_group [%rd2, {%r1}], [%rd1];",
            "tensor maps are the driver's own format",
        ),
        (
            "cp.async.bulk.prefetch.tensor.1d.L2.global.tile",
            "cp.async.bulk.prefetch.tensor.1d.L2.global.tile [%rd2, {%r1}];",
            "tensor maps are the driver's own format",
        ),
        (
            "tensormap.replace.tile.global_address.global.b1024.b64",
            "tensormap.replace.tile.global_address.global.b1024.b64 [%rd1], %rd2;",
            "tensor maps are the driver's own format",
        ),
        (
            "multimem.ld_reduce.global.add.u32",
            "multimem.ld_reduce.global.add.u32 %r1, [%rd1];",
            "multicast memory joins several devices",
        ),
    ];
    for (name, code, why) in lacking {
        Small::new(code).add(table, name, HOPPER, none);
        table.lacks_last(why);
    }
}
