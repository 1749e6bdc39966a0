//! Every form of the table on softcuda against its reference, group by group.

#![allow(clippy::panic, reason = "tests")]

use ptx_forms::form::Group;
use ptx_forms::report::{findings, of_group};

/// Runs a group; fails with each form that is not as the table says.
fn check(group: Group) {
    let table = ptx_forms::table();
    let forms = of_group(&table, group);
    assert!(!forms.is_empty(), "the group has no forms");
    let mut bad = String::new();
    let mut count = 0;
    for opcode in findings(&forms).into_values() {
        let wrong = opcode.wrong.iter().map(|found| ("wrong", found));
        let missing = opcode.missing.iter().map(|found| ("missing", found));
        for (what, found) in wrong.chain(missing) {
            bad += &format!("{what}: {}: {}\n", found.form, found.message);
            count += 1;
        }
        for form in &opcode.untested {
            bad += &format!("listed as not supported, but compiles: {form}\n");
            count += 1;
        }
    }
    assert!(count == 0, "{count} of {} forms:\n{bad}", forms.len());
}

macro_rules! groups {
    ($($name:ident $group:ident)*) => { $(
        #[test]
        fn $name() {
            check(Group::$group);
        }
    )* };
}

groups! {
    integer Integer
    logic Logic
    float Float
    convert Convert
    compare Compare
    memory Memory
    atomic Atomic
    warp Warp
    matrix Matrix
    texture Texture
    video Video
    control Control
}

/// Only what is not supported is compiled for it.
#[test]
fn the_table_in_docs_is_current() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ptx-coverage.md");
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        written == ptx_forms::report::document(&ptx_forms::table()),
        "docs/ptx-coverage.md is not what the table says; run `cargo xtask ptx-coverage --write`"
    );
}

#[test]
fn every_opcode_that_softcuda_knows_has_forms() {
    let (known, unknown) = (["add", "mma", "tex", "cp"], ["tcgen05", "wgmma", "nothing"]);
    assert!(known.into_iter().all(ptx_forms::run::knows));
    assert!(!unknown.into_iter().any(ptx_forms::run::knows));
    let without = ptx_forms::report::without_forms(&ptx_forms::table());
    assert!(without.is_empty(), "{without:?}");
}
