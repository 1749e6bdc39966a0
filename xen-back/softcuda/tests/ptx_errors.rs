//! Texts that are not PTX, or not PTX that softcuda has: the right kind of error on the right line, and
//! never a panic.

#![allow(clippy::panic, reason = "helpers of tests")]

mod ptx_common;

use proptest::prelude::*;
use ptx_common::module;
use softcuda::exec::{Program, PtxErrorKind};

const SAMPLES: [&str; 5] = [
    include_str!("../../../tests/samples/kernels/vectorAdd.ptx"),
    include_str!("../../../tests/samples/kernels/matrixMul.ptx"),
    include_str!("../../../tests/samples/kernels/scalarProd.ptx"),
    include_str!("../../../tests/samples/kernels/histogram.ptx"),
    include_str!("../../../tests/samples/kernels/BlackScholes.ptx"),
];

/// The error for a text, as kind and line.
fn error(text: &str) -> (PtxErrorKind, u32) {
    match Program::compile(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => (error.kind, error.line),
    }
}

/// The error for a kernel's body whose first line is the text's sixth.
fn body_error(body: &str) -> (PtxErrorKind, u32) {
    let registers =
        ".reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<4>; .reg .b64 %y<4>; .reg .f32 %f<4>;";
    error(&module(&format!(
        ".visible .entry k(.param .u32 a) {{\n{registers}\n{body}\nret;\n}}\n"
    )))
}

#[test]
fn errors_carry_the_line() {
    use PtxErrorKind::{Invalid, Limit, Unsupported};
    assert_eq!(error(""), (Invalid, 1));
    assert_eq!(error("hello"), (Invalid, 1));
    assert_eq!(
        error(".version 7.0\n.target sm_80\n.address_size 32\n"),
        (Unsupported, 3)
    );
    assert_eq!(error(".version 7.0\n\n.target gfx906\n"), (Unsupported, 3));
    assert_eq!(error(&module("\n\n.visible .entry k( {")), (Invalid, 6));
    assert_eq!(error(&module("\n/* open\n\n")), (Invalid, 5));
    assert_eq!(error(&module(".entry k() {\n ret;\n")), (Invalid, 6));
    assert_eq!(error(&module(".global .u32 x = {1, 2};\n")), (Invalid, 4));
    assert_eq!(
        error(&module(".global .b8 x[99999999999999999999];\n")),
        (Invalid, 4)
    );
    assert_eq!(
        error(&module(".global .b8 x[0x7fffffffffffffff];\n")),
        (Limit, 4)
    );
    assert_eq!(
        error(&module(".entry k() { ret; }\n.entry k() { ret; }\n")),
        (Invalid, 5)
    );
    assert_eq!(error(&module("\n.global .f128 t;\n")), (Unsupported, 5));
    assert_eq!(
        error(&module(
            "\n\n.extern .global .u32 elsewhere;\n.entry k() { .reg .b32 %r;\nld.global.u32 %r, [elsewhere]; }"
        )),
        (Invalid, 8)
    );
    for (body, want) in [
        ("add.s32 %r0, %r1", (Invalid, 7)),
        ("\nadd.s32 %r0, %r1;", (Invalid, 7)),
        ("add.s32 %r0, %r1, %unknown;", (Unsupported, 6)),
        ("add.s32 %r0, %r1, %r9;", (Unsupported, 6)),
        ("bra nowhere;", (Invalid, 6)),
        ("here: here: ret;", (Invalid, 6)),
        ("add.s32 %r0, %y1, %r2;", (Invalid, 6)),
        ("add.s64 %y0, %y1, %r2;", (Invalid, 6)),
        ("mov.u32 %r0, 0f3F8;", (Invalid, 6)),
        ("mov.u32 %r0, 08;", (Invalid, 6)),
        ("mov.u32 %r0, (1+2;", (Invalid, 6)),
        ("mov.u32 %r0, 1/0;", (Invalid, 6)),
        ("\n\nfrobnicate.u32 %r0, %r1;", (Unsupported, 8)),
        ("add.wide.u32 %r0, %r1, %r2;", (Invalid, 6)),
        ("add.frob.u32 %r0, %r1, %r2;", (Invalid, 6)),
        ("mul.u32 %r0, %r1, %r2;", (Invalid, 6)),
        ("add.s32.sat %r0, %r1, %r2;", (Invalid, 6)),
        ("fma.f32 %f0, %f1, %f2, %f3;", (Invalid, 6)),
        ("cvt.s32.f32 %r0, %f1;", (Invalid, 6)),
        ("setp.eq.f16x2 %p0, %r0, %r1;", (Invalid, 6)),
        ("vadd.s32.s32.s32 %r0, %r1.b4, %r2;", (Invalid, 6)),
        ("vadd2.s32.s32.s32 %r0.h01, %r1, %r2, %r3;", (Invalid, 6)),
        ("vmad.s32.s32.s32.po %r0, -%r1, %r2, %r3;", (Invalid, 6)),
        ("add.s32 %r0, %r1.x, %r2;", (Invalid, 6)),
        (
            "cvt.rn.satfinite.e2m1x2.f32 %h0, %f0, %f1;",
            (Unsupported, 6),
        ),
        (
            "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r0}, [%y0], %r1;",
            (Invalid, 6),
        ),
        (
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f0}, %y0, %y0, 1, 1, 1, 0, 0;",
            (Unsupported, 6),
        ),
        ("tcgen05.wait::ld.sync.aligned;", (Unsupported, 6)),
        (
            "cp.async.bulk.tensor.1d.shared::cta.global.tile.mbarrier::complete_tx::bytes [%y0], [%y0, {%r0}], [%y0];",
            (Unsupported, 6),
        ),
        (
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%y0], %r0, [%y0];",
            (Unsupported, 6),
        ),
        (
            "red.async.relaxed.cluster.global.mbarrier::complete_tx::bytes.add.u32 [%y0], %r0, [%y0];",
            (Unsupported, 6),
        ),
        ("ld.param.u64 %y0, [a];", (Invalid, 6)),
        ("st.const.u32 [%y0], %r0;", (Invalid, 6)),
        ("ld.global.u32 %r0, %y0;", (Invalid, 6)),
        ("ld.global.v2.u32 {%r0}, [%y0];", (Invalid, 6)),
        ("@%r0 bra end; end:", (Invalid, 6)),
        ("setp.lt.b32 %p0, %r0, %r1;", (Invalid, 6)),
        ("setp.hi.f32 %p0, %f0, %f1;", (Invalid, 6)),
        ("shfl.sync.down.b32 %r0, %r1, 1;", (Invalid, 6)),
        ("bar.sync 16;", (Invalid, 6)),
        ("call nothing;", (Invalid, 6)),
        (
            "tex.2dms.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%y0, {%r0, %r1, %r2, %r2}];",
            (Unsupported, 6),
        ),
        ("mov.u32 %r0, \"text\";", (Invalid, 6)),
        ("mov.u32 %r0, \u{e9};", (Invalid, 6)),
    ] {
        assert_eq!(body_error(body), want, "{body}");
    }
    let undefined = ".extern .func (.param .b32 r) vprintf(.param .b64 a);\n.entry k() {\n.param .b32 r; .param .b64 a;\ncall (r), vprintf, (a);\n}";
    assert_eq!(error(&module(undefined)), (Invalid, 7));
    assert!(
        Program::compile(&module(undefined))
            .unwrap_err()
            .to_string()
            .contains("vprintf")
    );
}

#[test]
fn texts_built_to_exhaust_are_refused() {
    let deep = |open: &str, close: &str, count: usize| {
        format!("{}{}", open.repeat(count), close.repeat(count))
    };
    let kernel = |body: &str| module(&format!(".entry k() {{ .reg .b32 %r<4>; {body} ret; }}"));
    let expect_error = |text: &str| assert!(Program::compile(text).is_err());
    expect_error(&kernel(&deep("{", "}", 100_000)));
    expect_error(&kernel(&format!(
        "mov.u32 %r0, {}1{};",
        "(".repeat(100_000),
        ")".repeat(100_000)
    )));
    expect_error(&kernel(&format!("mov.u32 %r0, {}1;", "-".repeat(100_000))));
    expect_error(&kernel(&format!("mov.u32 %r0, {};", "1+".repeat(100_000))));
    expect_error(&module(&format!(
        ".global .u32 x[2] = {};",
        deep("{", "}", 100_000)
    )));
    expect_error(&kernel(&format!("call (%r0), {};", "(".repeat(100_000))));
    expect_error(&module(".entry k(.param .b8 a[4294967295]) { ret; }"));
    expect_error(&kernel(".local .b8 a[4294967295];"));
    // Many declared registers cost nothing until they are named.
    Program::compile(&kernel(
        ".reg .b64 %big<4294967295>; mov.u64 %big4294967290, 1;",
    ))
    .unwrap();
    // A long chain of values each used twice.
    let mut chain = String::from("mov.u32 %c0, %ctaid.x;");
    for i in 1..300 {
        chain.push_str(&format!(
            "add.u32 %c{i}, %c{}, %c{};\nbar.sync 0;\n",
            i - 1,
            i - 1
        ));
    }
    let all: String = (0..300)
        .map(|i| format!("st.shared.u32 [%r0], %c{i};"))
        .collect();
    Program::compile(&kernel(&format!(
        ".reg .b32 %c<300>; mov.u32 %r0, 0; {chain} {all}"
    )))
    .unwrap();
}

#[test]
fn text_after_a_nul_is_ignored() {
    let text = format!("{}\0 rubbish {{{{", module(".entry k() { ret; }"));
    assert_eq!(Program::compile(&text).unwrap().kernels().len(), 1);
}

#[test]
fn truncated_samples_are_errors() {
    for sample in SAMPLES {
        // The text without its last brace, or cut in the middle of a kernel, is no PTX.
        let whole = sample.trim_end().len();
        for end in (60..whole).step_by(1499) {
            let start_of_kernel = sample[..end].rfind(".visible").unwrap_or(0);
            let closed = sample[start_of_kernel..end].contains("\n}");
            if sample.is_char_boundary(end) && !closed && start_of_kernel > 0 {
                assert!(Program::compile(&sample[..end]).is_err(), "cut at {end}");
            }
        }
    }
}

/// Pieces that mutations put in: tokens that mean something.
const PIECES: [&str; 40] = [
    ".f64",
    ".pred",
    ".b8",
    ".v4",
    ".wide",
    ".sat",
    ".cc",
    ".shared",
    ".local",
    ".param",
    ".sync",
    "%p1",
    "%rd3",
    "%f7",
    "%r1",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ";",
    "!",
    "@",
    "-1",
    "0x7fffffffffffffff",
    "0f7F800000",
    "bar.sync",
    "ret",
    "call",
    "shfl",
    "LBB0_2",
    "ld",
    "st",
    "atom",
    "mov",
    "cvt",
    "_",
    "|",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn rubbish_never_panics(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Program::compile(&text);
        let _ = Program::compile(&module(&text));
        let _ = Program::compile(&module(&String::from_utf8_lossy(&bytes)));
        let _ = Program::compile(&module(&format!(".entry k() {{ .reg .b32 %r<9>; {text} }}")));
    }

    #[test]
    fn mutated_samples_never_panic(sample in 0_usize..4, seed in any::<u64>(), changes in 1_usize..4) {
        let mut words: Vec<&str> = SAMPLES[sample].split_inclusive(|c: char| c.is_whitespace() || "{}[](),;".contains(c)).collect();
        let mut numbers = ptx_common::Numbers(seed);
        for _ in 0..changes {
            let at = numbers.next() as usize % words.len();
            match numbers.next() % 4 {
                0 => { words.remove(at); }
                1 => words[at] = PIECES[numbers.next() as usize % PIECES.len()],
                2 => words.insert(at, PIECES[numbers.next() as usize % PIECES.len()]),
                _ => {
                    let other = numbers.next() as usize % words.len();
                    words.swap(at, other);
                }
            }
        }
        if let Err(error) = Program::compile(&words.concat()) {
            prop_assert!(error.line >= 1);
            prop_assert!(!error.message.contains("an error of softcuda's"), "{}", error);
        }
    }

    /// Instructions with operands of any kind: either accepted or refused, never a failure of the compiler.
    #[test]
    fn random_instructions_never_break_the_compiler(choices in proptest::collection::vec((0_usize..60, 0_usize..24, 0_usize..24, proptest::collection::vec(0_usize..20, 0..5)), 1..6)) {
        const OPCODES: [&str; 60] = [
            "add", "sub", "mul.lo", "mul.wide", "mul.hi", "mad.lo", "mad.wide", "div", "div.rn", "rem", "abs", "neg", "min", "max",
            "fma.rn", "fma.rz", "rcp.rn", "sqrt.approx", "rsqrt.approx", "sin.approx", "ex2.approx", "and", "or", "xor", "not", "cnot", "shl",
            "shr", "shf.l.wrap", "setp.lt", "setp.ne.and", "set.eq", "selp", "slct", "popc", "clz", "brev", "bfe", "bfi", "bfind", "prmt", "lop3", "sad",
            "copysign", "testp.normal", "mov", "cvt", "cvt.rni", "cvt.rn.sat", "ld.global", "ld.v2", "st.shared", "atom.global.add", "atom.shared.cas",
            "red.max", "cvta.shared", "shfl.sync.up", "vote.sync.any", "bar.red.popc", "add.cc",
        ];
        const TYPES: [&str; 24] = [
            "", ".pred", ".b8", ".b16", ".b32", ".b64", ".b128", ".u8", ".u16", ".u32", ".u64", ".s8", ".s16", ".s32", ".s64", ".f16", ".f16x2", ".bf16",
            ".bf16x2", ".f32", ".f64", ".ftz.f32", ".sat.f32", ".sat.s32",
        ];
        const OPERANDS: [&str; 20] = [
            "%p1", "%h1", "%r1", "%y1", "%f1", "%g1", "%q", "7", "-1", "0f3F800000", "0d3FF0000000000000", "{%r1, %r2}", "[%y1]", "[%r1+4]", "%p1|%p2",
            "!%p1", "_", "shared_room", "%tid.x", "%r2|%p2",
        ];
        let mut body = String::new();
        for (opcode, first, second, operands) in &choices {
            let operands: Vec<&str> = operands.iter().map(|&operand| OPERANDS[operand]).collect();
            body.push_str(&format!("{}{}{} {};\n", OPCODES[*opcode], TYPES[*first], TYPES[*second], operands.join(", ")));
        }
        let text = module(&format!(
            ".shared .align 8 .b8 shared_room[64];
             .entry k() {{ .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<4>; .reg .b64 %y<4>; .reg .f32 %f<4>; .reg .f64 %g<4>; .reg .b128 %q;\n{body}\nret; }}"
        ));
        if let Err(error) = Program::compile(&text) {
            prop_assert!(!error.message.contains("an error of softcuda's"), "{}\n{}", error, text);
        }
    }
}
