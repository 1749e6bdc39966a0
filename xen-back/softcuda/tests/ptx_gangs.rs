//! A kernel does the same in gangs of threads as thread by thread: the samples' kernels, kernels that
//! part and meet in every way, faults, and generated programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "for tests"
)]

mod ptx_common;

use std::fmt::Write as _;

use ptx_common::{Args, Device, Dim, Numbers, module};
use softcuda::exec::{Fault, Options, Program, Vectorise};

fn compiled(text: &str, vectorise: Vectorise) -> Program {
    let options = Options {
        vectorise,
        ..Options::default()
    };
    Program::compile_with(&[text], options).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The NaNs that arithmetic makes of NaNs may differ: which operand's bits they have is the host's.
fn without_nans(words: &mut [u32]) {
    for word in words {
        if f32::from_bits(*word).is_nan() {
            *word = 0x7fc0_0000;
        }
    }
}

/// Runs a kernel of the parameters (words in, words out) both ways, and returns the words.
fn both(text: &str, kernel: &str, grid: u32, block: [u32; 3], words: usize) -> Vec<u32> {
    both_by(text, kernel, grid, block, words, |_| {})
}

/// As `both`, after a change to the words.
fn both_by(
    text: &str,
    kernel: &str,
    grid: u32,
    block: [u32; 3],
    words: usize,
    change: fn(&mut [u32]),
) -> Vec<u32> {
    let mut results = Vec::new();
    for vectorise in [Vectorise::Never, Vectorise::AtOnce] {
        let program = compiled(text, vectorise);
        let mut device = Device::new(1 << 20);
        let mut numbers = Numbers(7);
        let input: Vec<u32> = (0..4096).map(|_| numbers.next() as u32).collect();
        let (input, output) = (device.upload(&input), device.zeros::<u32>(words));
        device.bind(&program);
        let args = Args::new().add(input).add(output);
        let index = program
            .kernels()
            .iter()
            .position(|info| info.name == kernel)
            .unwrap();
        device
            .launch(&program, kernel, grid, Dim::from(block), &args)
            .unwrap_or_else(|fault| panic!("{vectorise:?}: {fault}\n{text}"));
        assert_eq!(
            program.runs_in_gangs(index),
            vectorise == Vectorise::AtOnce && cfg!(target_arch = "x86_64"),
            "{text}"
        );
        let mut result = device.download::<u32>(output, words);
        change(&mut result);
        results.push(result);
    }
    let (single, gangs) = (results.remove(0), results.remove(0));
    if let Some(at) = (0..words).find(|&at| single[at] != gangs[at]) {
        panic!(
            "word {at}: {:#x} thread by thread, {:#x} in gangs\n{text}",
            single[at], gangs[at]
        );
    }
    single
}

const HEAD: &str = "
    .reg .pred %p<20>; .reg .b16 %h<8>; .reg .b32 %r<60>; .reg .f32 %f<40>; .reg .b64 %rd<30>; .reg .f64 %d<8>;
    ld.param.u64 %rd1, [in];
    ld.param.u64 %rd2, [out];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r5, %tid.y;
    mov.u32 %r6, %ntid.y;
    mad.lo.s32 %r7, %r2, %r6, %r5;
    mad.lo.s32 %r4, %r7, %r3, %r1;
    mul.wide.u32 %rd3, %r4, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
";

fn kernel(body: &str) -> String {
    module(&format!(
        ".shared .align 16 .b8 tile[4096];
.visible .entry k(.param .u64 in, .param .u64 out)
{{{HEAD}{body}
    ret;
}}"
    ))
}

#[test]
fn threads_part_and_meet() {
    // A branch that each goes another way, and what follows.
    let text = kernel(
        "ld.global.u32 %r10, [%rd4];
    and.b32 %r11, %r10, 1;
    setp.eq.u32 %p1, %r11, 0;
    @%p1 bra EVEN;
    mul.lo.u32 %r12, %r10, 3;
    bra.uni BOTH;
EVEN:
    shr.u32 %r12, %r10, 1;
BOTH:
    add.u32 %r13, %r12, %r4;
    st.global.u32 [%rd5], %r13;",
    );
    let words = both(&text, "k", 2, [64, 1, 1], 128);
    let mut numbers = Numbers(7);
    for (at, &word) in words.iter().enumerate() {
        let value = numbers.next() as u32;
        let value = if value & 1 == 0 {
            value >> 1
        } else {
            value.wrapping_mul(3)
        };
        assert_eq!(word, value.wrapping_add(at as u32));
    }

    // Loops of different lengths, a loop around them that all run alike, and threads that leave early.
    both(
        &kernel(
            "mov.u32 %r20, 0;
    mov.u32 %r21, 0;
OUTER:
    and.b32 %r22, %r1, 7;
    add.u32 %r22, %r22, %r20;
INNER:
    setp.eq.u32 %p1, %r22, 0;
    @%p1 bra DONE;
    mad.lo.u32 %r21, %r21, 5, %r22;
    sub.u32 %r22, %r22, 1;
    bra INNER;
DONE:
    add.u32 %r20, %r20, 1;
    st.global.u32 [%rd5], %r21;
    setp.eq.u32 %p3, %r1, 13;
    @%p3 ret;
    setp.lt.u32 %p2, %r20, 9;
    @%p2 bra OUTER;
    add.u32 %r21, %r21, 1;
    st.global.u32 [%rd5], %r21;",
        ),
        "k",
        3,
        [32, 2, 1],
        192,
    );
}

#[test]
fn values_that_all_share_may_differ_after_parting() {
    // %r20 looks the same for all threads, %r21 evenly spaced: not after they went two ways.
    for barrier in ["bar.sync 0;", "bar.warp.sync -1;", ""] {
        both(
            &kernel(&format!(
                "ld.global.u32 %r10, [%rd4];
    and.b32 %r11, %r10, 3;
    setp.eq.u32 %p1, %r11, 0;
    mov.u32 %r21, %r1;
    @%p1 bra ONE;
    mov.u32 %r20, 1;
    bra.uni BOTH;
ONE:
    mov.u32 %r20, 2;
    add.u32 %r21, %r21, 5;
BOTH:
    {barrier}
    add.u32 %r22, %r20, %r21;
    bar.sync 0;
    mad.lo.u32 %r22, %r20, 100, %r22;
    bar.sync 0;
    mad.lo.u32 %r22, %r21, 7, %r22;
    st.global.u32 [%rd5], %r22;"
            )),
            "k",
            2,
            [64, 1, 1],
            128,
        );
    }
}

#[test]
fn threads_talk_after_parting() {
    both(
        &kernel(
            "ld.global.u32 %r10, [%rd4];
    and.b32 %r11, %r10, 3;
    setp.eq.u32 %p1, %r11, 0;
    mov.u32 %r20, %r10;
    @!%p1 bra SKIP;
    activemask.b32 %r30;
    xor.b32 %r20, %r20, %r30;
SKIP:
    shfl.sync.bfly.b32 %r21|%p2, %r20, 3, 31, -1;
    add.u32 %r22, %r20, %r21;
    vote.sync.ballot.b32 %r23, %p1, -1;
    add.u32 %r22, %r22, %r23;
    @%p1 shfl.sync.idx.b32 %r22, %r22, 0, 31, %r23;
    setp.lt.u32 %p3, %r1, 20;
    bar.red.popc.u32 %r24, 0, %p3;
    add.u32 %r22, %r22, %r24;
    and.b32 %r25, %r1, 16;
    setp.eq.u32 %p4, %r25, 0;
    selp.u32 %r26, 65535, -65536, %p4;
    redux.sync.add.s32 %r27, %r22, %r26;
    add.u32 %r22, %r22, %r27;
    st.global.u32 [%rd5], %r22;",
        ),
        "k",
        2,
        [64, 1, 1],
        128,
    );
    // Sums in shared memory, and a tree whose last steps only some threads of a gang take.
    both(
        &kernel(
            "mov.u64 %rd10, tile;
    mul.wide.u32 %rd11, %r1, 4;
    add.s64 %rd12, %rd10, %rd11;
    ld.global.u32 %r10, [%rd4];
    st.shared.u32 [%rd12], %r10;
    mov.u32 %r20, 32;
LOOP:
    bar.sync 0;
    setp.ge.u32 %p1, %r1, %r20;
    @%p1 bra NEXT;
    mul.wide.u32 %rd13, %r20, 4;
    add.s64 %rd14, %rd12, %rd13;
    ld.shared.u32 %r21, [%rd14];
    ld.shared.u32 %r22, [%rd12];
    add.u32 %r22, %r22, %r21;
    st.shared.u32 [%rd12], %r22;
NEXT:
    shr.u32 %r20, %r20, 1;
    setp.ne.u32 %p2, %r20, 0;
    @%p2 bra LOOP;
    bar.sync 0;
    ld.shared.u32 %r23, [tile];
    and.b32 %r24, %r10, 15;
    mul.wide.u32 %rd15, %r24, 4;
    add.s64 %rd15, %rd10, %rd15;
    bar.sync 0;
    atom.shared.add.u32 %r25, [%rd15], %r1;
    bar.sync 0;
    ld.shared.u32 %r26, [%rd15];
    add.u32 %r23, %r23, %r26;
    st.global.u32 [%rd5], %r23;",
        ),
        "k",
        2,
        [64, 1, 1],
        128,
    );
}

#[test]
fn addresses_of_all_spacings() {
    both(
        &kernel(
            "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+64];
    shl.b64 %rd10, %rd3, 1;
    add.s64 %rd11, %rd1, %rd10;
    ld.global.v2.f32 {%f5, %f6}, [%rd11+8];
    add.f32 %f7, %f5, %f6;
    cvt.u64.u32 %rd12, %r4;
    add.s64 %rd13, %rd1, %rd12;
    ld.global.u8 %r10, [%rd13+3];
    ld.global.s8 %h1, [%rd13];
    cvt.s32.s16 %r11, %h1;
    sub.s64 %rd14, %rd1, %rd3;
    ld.global.u32 %r12, [%rd14+1024];
    ld.global.nc.u16 %h2, [%rd11];
    cvt.u32.u16 %r13, %h2;
    ld.global.u64 %rd15, [%rd11+16];
    cvt.u32.u64 %r14, %rd15;
    add.u32 %r15, %r10, %r11;
    add.u32 %r15, %r15, %r12;
    add.u32 %r15, %r15, %r13;
    add.u32 %r15, %r15, %r14;
    cvt.rzi.s32.f32 %r16, %f7;
    add.u32 %r15, %r15, %r16;
    add.f32 %f8, %f1, %f4;
    cvt.rzi.u32.f32 %r17, %f8;
    xor.b32 %r15, %r15, %r17;
    and.b32 %r18, %r15, 4092;
    cvt.u64.u32 %rd16, %r18;
    add.s64 %rd17, %rd1, %rd16;
    ld.global.u32 %r19, [%rd17];
    xor.b32 %r15, %r15, %r19;
    st.global.u32 [%rd5], %r15;
    // The sum wraps within a gang.
    add.u32 %r20, %r4, -5;
    cvt.u64.u32 %rd18, %r20;
    cvt.s64.s32 %rd19, %r20;
    sub.s64 %rd18, %rd18, %rd19;
    shr.u64 %rd18, %rd18, 30;
    cvt.u32.u64 %r21, %rd18;
    st.global.u32 [%rd5+512], %r21;
    mul.wide.s32 %rd20, %r20, 8;
    add.s64 %rd21, %rd2, %rd20;
    mov.b64 %rd22, {%r15, %r4};
    st.global.u64 [%rd21+1064], %rd22;
    st.global.u32 [%rd2+4092], %r3;",
        ),
        "k",
        2,
        [64, 1, 1],
        1024,
    );
}

fn fault_of(text: &str, vectorise: Vectorise, words: usize) -> Fault {
    let program = compiled(text, vectorise);
    let mut device = Device::new(1 << 20);
    let (input, output) = (device.zeros::<u32>(4096), device.zeros::<u32>(words));
    let args = Args::new().add(input).add(output);
    device.launch(&program, "k", 1, 64, &args).unwrap_err()
}

/// A fault's text but for the address: each device has its own.
fn without_address(fault: &Fault) -> Vec<String> {
    let text = fault.to_string();
    let hex = |word: &&str| {
        word.len() < 8
            || !word
                .trim_start_matches("0x")
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit())
    };
    text.split(' ').filter(hex).map(str::to_owned).collect()
}

#[test]
fn faults_name_the_same_line_and_thread() {
    let bodies = [
        // One byte past the end, by the last thread alone.
        "st.global.u32 [%rd5], %r1;",
        "add.s64 %rd6, %rd3, 1;
    setp.eq.u32 %p1, %r1, 21;
    selp.b64 %rd6, %rd6, 0, %p1;
    add.s64 %rd6, %rd6, %rd1;
    ld.global.u32 %r5, [%rd6];",
        "setp.eq.u32 %p1, %r1, 11;
    @!%p1 bra FINE;
    trap;
FINE:",
        "mul.wide.u32 %rd6, %r1, 16;
    add.s64 %rd6, %rd6, 3088;
    st.shared.u32 [%rd6], %r1;",
        "setp.eq.u32 %p1, %r1, 50;
    mov.u64 %rd6, 12;
    @%p1 st.global.u32 [%rd6], %r1;",
    ];
    for (index, body) in bodies.into_iter().enumerate() {
        let text = kernel(body);
        let words = if index == 0 { 63 } else { 64 };
        let [single, gangs] =
            [Vectorise::Never, Vectorise::AtOnce].map(|how| fault_of(&text, how, words));
        assert_eq!(without_address(&single), without_address(&gangs), "{text}");
        assert_eq!(
            std::mem::discriminant(&single),
            std::mem::discriminant(&gangs)
        );
    }
}

/// Writes programs that end, use every register and differ from thread to thread.
struct Generator {
    numbers: Numbers,
    text: String,
    labels: u32,
    loops: u32,
}

impl Generator {
    fn below(&mut self, count: u64) -> u64 {
        (self.numbers.next() >> 20) % count
    }

    fn pick<'w>(&mut self, words: &[&'w str]) -> &'w str {
        let at = self.below(words.len() as u64) as usize;
        words[at]
    }

    fn r(&mut self) -> String {
        let number = 10 + self.below(8);
        format!("%r{number}")
    }

    fn f(&mut self) -> String {
        let number = 10 + self.below(6);
        format!("%f{number}")
    }

    fn p(&mut self) -> String {
        let number = 1 + self.below(4);
        format!("%p{number}")
    }

    fn d(&mut self) -> String {
        let number = 10 + self.below(4);
        format!("%rd{number}")
    }

    fn source(&mut self) -> String {
        match self.below(8) {
            0 => format!("{}", self.below(1 << 20) as i64 - 500),
            1 => self.pick(&["%r1", "%r2", "%r3", "%r4"]).to_owned(),
            _ => self.r(),
        }
    }

    fn line(&mut self, line: &str) {
        let guard = match self.below(12) {
            0 => format!("@{} ", self.p()),
            1 => format!("@!{} ", self.p()),
            _ => String::new(),
        };
        writeln!(self.text, "    {guard}{line}").unwrap();
    }

    fn statement(&mut self) {
        let (r, a, b, c) = (self.r(), self.source(), self.source(), self.source());
        let (f, g, h, i) = (self.f(), self.f(), self.f(), self.f());
        let (p, q) = (self.p(), self.p());
        let (d, e) = (self.d(), self.d());
        let line = match self.below(27) {
            0 => format!(
                "{} {r}, {a}, {b};",
                self.pick(&[
                    "add.u32",
                    "sub.s32",
                    "mul.lo.u32",
                    "and.b32",
                    "or.b32",
                    "xor.b32"
                ])
            ),
            1 => format!(
                "{} {r}, {a}, {b};",
                self.pick(&[
                    "min.s32",
                    "max.u32",
                    "min.u32",
                    "max.s32",
                    "mul.hi.u32",
                    "div.u32",
                    "rem.s32"
                ])
            ),
            2 => format!("mad.lo.s32 {r}, {a}, {b}, {c};"),
            3 => format!(
                "{} {r}, {a}, {};",
                self.pick(&["shl.b32", "shr.u32", "shr.s32"]),
                self.below(36)
            ),
            4 => format!("shr.u32 {r}, {a}, {b};"),
            5 => format!(
                "{} {r}, {a};",
                self.pick(&[
                    "not.b32", "neg.s32", "popc.b32", "clz.b32", "mov.u32", "abs.s32"
                ])
            ),
            6 => format!(
                "{} {p}, {a}, {b};",
                self.pick(&[
                    "setp.lt.s32",
                    "setp.ge.u32",
                    "setp.eq.s32",
                    "setp.ne.u32",
                    "setp.gt.u32",
                    "setp.le.s32"
                ])
            ),
            7 => format!(
                "{} {p}, {f}, {g};",
                self.pick(&[
                    "setp.lt.f32",
                    "setp.ge.f32",
                    "setp.eq.f32",
                    "setp.ne.f32",
                    "setp.gtu.f32",
                    "setp.leu.f32"
                ])
            ),
            8 => format!(
                "{} {p}, {q}, {};",
                self.pick(&["and.pred", "or.pred", "xor.pred"]),
                self.p()
            ),
            9 => format!("not.pred {p}, {q};"),
            10 => format!("selp.u32 {r}, {a}, {b}, {p};"),
            11 => format!("selp.f32 {f}, {g}, {h}, {p};"),
            12 => format!(
                "{} {f}, {g}, {h};",
                self.pick(&[
                    "add.rn.f32",
                    "sub.rn.f32",
                    "mul.rn.f32",
                    "div.rn.f32",
                    "add.ftz.f32",
                    "mul.ftz.f32",
                    "min.f32",
                    "max.f32",
                    "add.rz.f32"
                ])
            ),
            13 => format!("fma.rn.f32 {f}, {g}, {h}, {i};"),
            14 => format!(
                "{} {f}, {g};",
                self.pick(&[
                    "neg.f32",
                    "abs.f32",
                    "sqrt.rn.f32",
                    "rcp.rn.f32",
                    "ex2.approx.f32",
                    "mov.f32"
                ])
            ),
            15 => format!(
                "{} {f}, {a};",
                self.pick(&["cvt.rn.f32.s32", "cvt.rn.f32.u32", "cvt.rz.f32.s32"])
            ),
            16 => format!(
                "{} {r}, {f};",
                self.pick(&["cvt.rzi.s32.f32", "cvt.rzi.u32.f32", "cvt.rni.s32.f32"])
            ),
            17 => format!("{} {d}, {r};", self.pick(&["cvt.u64.u32", "cvt.s64.s32"])),
            18 => format!(
                "{} {d}, {r}, {};",
                self.pick(&["mul.wide.u32", "mul.wide.s32"]),
                self.below(40)
            ),
            19 => format!(
                "{} {d}, {d}, {e};",
                self.pick(&["add.s64", "sub.s64", "mul.lo.s64", "xor.b64"])
            ),
            20 => format!("cvt.u32.u64 {r}, {d};"),
            21 => {
                let at = self.below(8);
                format!("ld.global.u32 {r}, [%rd4+{}];", 256 * at)
            }
            22 => {
                // Anywhere in the input.
                writeln!(self.text, "    and.b32 %r40, {r}, 8188;\n    cvt.u64.u32 %rd20, %r40;\n    add.s64 %rd20, %rd1, %rd20;").unwrap();
                let wide = self.pick(&["u32", "u16", "u8"]);
                format!("ld.global.{wide} {r}, [%rd20+4];")
            }
            23 => format!("st.local.u32 [kept], {r};"),
            24 => format!("ld.local.u32 {r}, [kept];"),
            25 => format!(
                "bfe.{} {r}, {a}, {}, {};",
                self.pick(&["u32", "s32"]),
                self.below(34),
                self.below(34)
            ),
            _ => format!("ld.shared.u32 {r}, [tile+{}];", 4 * self.below(32)),
        };
        self.line(&line);
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("L{}", self.labels)
    }

    fn block(&mut self, depth: u32) {
        for _ in 0..2 + self.below(6) {
            match self.below(14) {
                0 | 1 if depth > 0 => {
                    let (p, other, end) = (self.p(), self.label(), self.label());
                    writeln!(self.text, "    @{p} bra {other};").unwrap();
                    self.block(depth - 1);
                    writeln!(self.text, "    bra.uni {end};\n{other}:").unwrap();
                    self.block(depth - 1);
                    writeln!(self.text, "{end}:").unwrap();
                }
                2 if depth > 0 => {
                    let (top, number) = (self.label(), self.loops);
                    self.loops += 1;
                    let counter = format!("%r{}", 30 + number);
                    if number >= 8 {
                        continue;
                    }
                    let from = self.source();
                    writeln!(self.text, "    and.b32 {counter}, {from}, 3;\n{top}:").unwrap();
                    self.block(depth - 1);
                    writeln!(self.text, "    add.u32 {counter}, {counter}, 1;\n    setp.lt.u32 %p10, {counter}, 4;\n    @%p10 bra {top};").unwrap();
                }
                _ => self.statement(),
            }
        }
    }

    fn program(seed: u64) -> String {
        let mut generator = Self {
            numbers: Numbers(seed),
            text: "    .local .align 4 .b8 kept[8];\n    mov.u64 %rd25, tile;\n    mul.wide.u32 %rd26, %r1, 4;\n    add.s64 %rd25, %rd25, %rd26;\n    st.local.u32 [kept], %r1;\n    st.shared.u32 [%rd25], %r4;\n".to_owned(),
            labels: 0,
            loops: 0,
        };
        for number in 10..18 {
            let at = 4 * generator.below(500);
            let base = generator.pick(&["%rd4", "%rd1", "%rd4"]);
            writeln!(
                generator.text,
                "    ld.global.u32 %r{number}, [{base}+{at}];"
            )
            .unwrap();
        }
        writeln!(
            generator.text,
            "    mov.u32 %r10, %r1;\n    mov.u32 %r11, 7;\n    add.u32 %r12, %r1, -3;"
        )
        .unwrap();
        for number in 10..16 {
            writeln!(generator.text, "    cvt.rn.f32.s32 %f{number}, %r{number};").unwrap();
            if number < 14 {
                writeln!(generator.text, "    cvt.u64.u32 %rd{number}, %r{number};").unwrap();
            }
        }
        for number in 1..5 {
            let other = 10 + generator.below(8);
            writeln!(
                generator.text,
                "    setp.gt.s32 %p{number}, %r{}, %r{other};",
                9 + number
            )
            .unwrap();
        }
        writeln!(generator.text, "    bar.sync 0;").unwrap();
        for _ in 0..3 {
            generator.block(2);
            let wait = generator.pick(&[
                "bar.sync 0;",
                "bar.sync 0;\n    st.shared.u32 [%rd25], %r13;\n    bar.sync 0;",
                "",
            ]);
            writeln!(generator.text, "    {wait}").unwrap();
        }
        for number in 10..18 {
            writeln!(
                generator.text,
                "    st.global.u32 [%rd5+{}], %r{number};",
                512 * (number - 10)
            )
            .unwrap();
        }
        for number in 10..16 {
            writeln!(
                generator.text,
                "    st.global.f32 [%rd5+{}], %f{number};",
                512 * (number - 2)
            )
            .unwrap();
        }
        writeln!(
            generator.text,
            "    shl.b64 %rd3, %rd3, 1;\n    add.s64 %rd5, %rd2, %rd3;"
        )
        .unwrap();
        for number in 10..14 {
            writeln!(
                generator.text,
                "    st.global.u64 [%rd5+{}], %rd{number};",
                512 * 14 + 1024 * (number - 10)
            )
            .unwrap();
        }
        kernel(&generator.text)
    }
}

#[test]
fn generated_programs() {
    for seed in 1..=20 {
        let text = Generator::program(seed * 77);
        both_by(&text, "k", 2, [32, 2, 1], 128 * 24, without_nans);
    }
}
