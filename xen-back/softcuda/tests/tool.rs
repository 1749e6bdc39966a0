//! The tool softcuda-run: what it lists, what it says of modules that softcuda cannot load, and that it
//! runs kernels with the arguments it is given.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;
use std::process::{Command, Output};

fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn run(file: &PathBuf, arguments: &[&str]) -> (Output, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_softcuda-run"))
        .arg(file)
        .args(arguments)
        .output()
        .unwrap();
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output, out, err)
}

const GOOD: &str = ".version 7.5
.target sm_75
.address_size 64
.const .align 4 .b8 table[20];
.visible .entry scale(.param .u64 to, .param .u64 from, .param .f32 by, .param .s32 n)
.maxntid 64, 1, 1
{
    .shared .align 4 .b8 room[128];
    .reg .b32 %r<8>; .reg .f32 %f<4>; .reg .b64 %y<6>; .reg .pred %p;
    ld.param.u64 %y0, [to]; ld.param.u64 %y1, [from]; ld.param.f32 %f0, [by]; ld.param.u32 %r0, [n];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r1, %r1, %r2, %r3;
    setp.ge.s32 %p, %r1, %r0; @%p ret;
    mul.wide.u32 %y2, %r1, 4; add.u64 %y3, %y1, %y2; add.u64 %y4, %y0, %y2;
    ld.global.f32 %f1, [%y3]; mul.f32 %f1, %f1, %f0; st.global.f32 [%y4], %f1;
    st.shared.f32 [room], %f1;
    ret;
}
.visible .entry empty() { ret; }
";

#[test]
fn kernels_are_listed() {
    let file = file("tool-good.ptx", GOOD);
    let (output, out, err) = run(&file, &[]);
    assert!(output.status.success(), "{err}");
    for word in ["scale", "empty", "8 8 4 4", "128", "64x1x1", "1024", "20"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let (_, out, _) = run(&file, &["--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let scale = &value["kernels"][0];
    assert_eq!(scale["name"], "scale");
    assert_eq!(scale["shared_bytes"], 128);
    assert_eq!(scale["params"][3]["offset"], 20);
    assert_eq!(scale["max_threads"], serde_json::json!([64, 1, 1]));
}

#[test]
fn everything_that_is_lacking_is_named() {
    let text = ".version 7.5\n.target sm_75\n.address_size 64\n.entry a() {\n.reg .b32 %r<4>;\nfrobnicate.u32 %r0, %r1;\nadd.u32 %r0, %r1, 1;\nadd.u32.purple %r0, %r1, 1; xyzzy;\nret;\n}\n.entry b() {\n.reg .b32 %r<4>;\nplugh.b32 %r1;\nret;\n}\n";
    let file = file("tool-bad.ptx", text);
    let (output, out, err) = run(&file, &[]);
    assert!(!output.status.success());
    for word in [
        ":6: ",
        "frobnicate",
        ":8: ",
        "purple",
        "xyzzy",
        ":13: ",
        "plugh",
    ] {
        assert!(out.contains(word), "{word}: {out}");
    }
    assert!(!out.contains(":7: "), "{out}");
    assert!(err.contains("4 problems"), "{err}");
    let (_, out, _) = run(&file, &["--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["problems"].as_array().unwrap().len(), 4);
    assert_eq!(value["problems"][0]["line"], 6);
}

#[test]
fn kernels_run_with_arguments() {
    let file = file("tool-run.ptx", GOOD);
    let dump = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tool-dump");
    let dump = dump.to_str().unwrap();
    let arguments = [
        "--kernel",
        "scale",
        "--grid",
        "2",
        "--block",
        "64,1,1",
        "--arg",
        "out:f32:100",
        "--arg",
        "buf:f32:100=iota",
        "--arg",
        "f32:-1.5",
        "--arg",
        "i32:100",
        "--print",
        "4",
        "--dump",
        dump,
    ];
    let (output, out, err) = run(&file, &arguments);
    assert!(output.status.success(), "{err}");
    assert!(out.contains("(100 elements): -0 -1.5 -3 -4.5 …"), "{out}");
    assert!(out.contains("2 blocks of 64 threads"), "{out}");
    let bytes = std::fs::read(dump).unwrap();
    assert_eq!(bytes.len(), 400);
    assert_eq!(bytes[396..], (-148.5_f32).to_le_bytes());
    // The same with what was dumped as input.
    let from = format!("buf:f32:100=file:{dump}");
    let (_, out, _) = run(
        &file,
        &[
            "--kernel",
            "scale",
            "--block",
            "8",
            "--arg",
            "out:f32:8",
            "--arg",
            &from,
            "--arg",
            "f32:2",
            "--arg",
            "i32:8",
            "--json",
        ],
    );
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["outputs"][0]["elements"][3], "-9");
    assert_eq!(value["threads"], 8);
}

#[test]
fn mistakes_are_named() {
    let file = file("tool-mistakes.ptx", GOOD);
    let good = ["--arg", "buf:f32:8", "--arg", "f32:2", "--arg", "i32:8"];
    for (arguments, want) in [
        (vec!["--kernel", "nothing"], "the file has scale, empty"),
        (
            vec!["--kernel", "scale"],
            "4 parameters of [8, 8, 4, 4] bytes",
        ),
        (
            [
                vec!["--kernel", "scale", "--arg", "buf:f33:1"],
                good.to_vec(),
            ]
            .concat(),
            "\"f33\" is no type",
        ),
        (
            [vec!["--kernel", "scale", "--arg", "i32:1"], good.to_vec()].concat(),
            "argument 0 has 4 bytes where scale's parameter has 8",
        ),
        (
            [vec!["--kernel", "scale", "--arg", "u64:-1"], good.to_vec()].concat(),
            "does not fit in 64 bits",
        ),
        (
            [
                vec!["--kernel", "scale", "--arg", "buf:f32:8=pink"],
                good.to_vec(),
            ]
            .concat(),
            "\"pink\" is no content",
        ),
        (
            [
                vec!["--kernel", "scale", "--arg", "u64:4096"],
                good.to_vec(),
            ]
            .concat(),
            "outside every allocation; kernel scale, PTX line 14",
        ),
        (
            [
                vec!["--kernel", "scale", "--block", "65", "--arg", "buf:f32:8"],
                good.to_vec(),
            ]
            .concat(),
            ".maxntid",
        ),
    ] {
        let (output, _, err) = run(&file, &arguments);
        assert!(!output.status.success());
        assert!(err.contains(want), "{want}: {err}");
    }
    let (output, _, err) = run(&PathBuf::from("/nonexistent.ptx"), &[]);
    assert!(
        !output.status.success() && err.contains("cannot read"),
        "{err}"
    );
}
