//! `cargo xtask api-table`: writes docs/api.md, the CUDA functions and messages as cuda-abi declares them.
//! The declaration is the one source. It must never hold a fact about a function of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cuda_abi::{CallInfo, Mode, Names};

use crate::bundle;

/// Write docs/api.md, the table of all CUDA functions, from their declaration.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<()> {
    let file = file();
    fs::write(&file, table()).with_context(|| format!("writing {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}

fn file() -> PathBuf {
    bundle::workspace().join("docs/api.md")
}

/// The whole of docs/api.md.
pub fn table() -> String {
    let calls: BTreeMap<&str, &CallInfo> =
        CallInfo::ALL.iter().map(|call| (call.name, call)).collect();
    let mut functions: Vec<(&Names, &CallInfo)> = Names::ALL
        .iter()
        .filter_map(|names| Some((names, *calls.get(names.symbol)?)))
        .collect();
    functions.sort_by_key(|(names, _)| (names.base, names.since));
    let exported: BTreeSet<&str> = Names::ALL.iter().map(|names| names.symbol).collect();
    let mut messages: Vec<&CallInfo> = CallInfo::ALL
        .iter()
        .filter(|call| !exported.contains(call.name))
        .collect();
    messages.sort_by_key(|call| call.number);

    let mut text = format!(
        "<!-- Written by `cargo xtask api-table` from ring/cuda-abi/src/calls.rs. Do not edit. -->\n\n\
         # The CUDA functions\n\n\
         `libcuda.so.1` exports {} functions of the driver API. `cuDriverGetVersion` says what the backend's \
         driver says, but no more than CUDA {}.{}. A function that is not listed is not there: neither `dlsym` nor \
         `cuGetProcAddress` finds it. Where the backend's driver lacks a listed function, the call fails with \
         `CUDA_ERROR_NOT_SUPPORTED`.\n\n\
         When the result is known:\n\n\
         - **posted**: the call returns at once; an error surfaces at the next call that is waited for, which \
         is then not carried out;\n\
         - **waited**: the call returns with the worker's answer;\n\
         - **blocks**: as waited, but the worker answers when the device is done and goes on with other calls \
         meanwhile;\n\
         - **once**: waited for the first time, then answered in the guest;\n\
         - **guest**: the guest's library decides, with the messages named or with none.\n\n\
         *Since* is the first CUDA version (1000 × major + 10 × minor) for which `cuGetProcAddress` gives this \
         function for the name.\n\n\
         | name | symbol | since | result | carried by | what it does |\n\
         |---|---|---|---|---|---|\n",
        functions.len(),
        cuda_abi::CUDA_VERSION / 1000,
        cuda_abi::CUDA_VERSION % 1000 / 10,
    );
    for (names, call) in functions {
        let symbol = if names.symbol == names.base {
            String::new()
        } else {
            format!("`{}`", names.symbol)
        };
        let carried = match (call.number, call.via) {
            (0, []) => "–".to_owned(),
            (0, via) => via.join(", "),
            (number, _) => format!("call {number}"),
        };
        line(
            &mut text,
            &[
                &format!("`{}`", names.base),
                &symbol,
                &names.since.to_string(),
                mode(call.mode),
                &carried,
                call.doc.trim(),
            ],
        );
    }
    text.push_str(
        "\n## Messages\n\n\
         Calls on the wire that are no function of their own; the functions above name those that carry them. \
         docs/protocol.md has their fields.\n\n\
         | call | name | result | what it does |\n\
         |---|---|---|---|\n",
    );
    for call in messages {
        line(
            &mut text,
            &[
                &call.number.to_string(),
                &format!("`{}`", call.name),
                mode(call.mode),
                call.doc.trim(),
            ],
        );
    }
    text
}

fn line(text: &mut String, cells: &[&str]) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Post => "posted",
        Mode::Wait => "waited",
        Mode::Sync => "blocks",
        Mode::Once => "once",
        Mode::Guest => "guest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_docs_is_current() {
        let written = fs::read_to_string(file()).unwrap();
        assert!(
            written == table(),
            "docs/api.md is not what the declaration says; run `cargo xtask api-table`"
        );
    }

    #[test]
    fn every_function_and_message_has_its_line() {
        let table = table();
        let lines = table.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(lines, Names::ALL.len());
        for call in CallInfo::ALL {
            assert!(table.contains(&format!("`{}`", call.name)), "{}", call.name);
        }
        // A bar inside a cell would break the table.
        assert!(CallInfo::ALL.iter().all(|call| !call.doc.contains('|')));
    }
}
