//! `cargo xtask api-table`: writes docs/api.md, the CUDA functions and messages as cuda-abi declares them.
//! The declaration is the one source. It must never hold a fact about a function of its own.

use std::collections::BTreeMap;
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
    let mut messages: Vec<&CallInfo> = CallInfo::ALL
        .iter()
        .filter(|call| call.number != 0)
        .collect();
    messages.sort_by_key(|call| call.number);

    let mut text = format!(
        "<!-- Written by `cargo xtask api-table` from ring/cuda-abi/src/calls.rs. Do not edit. -->\n\n\
         # The CUDA functions\n\n\
         The guest's `libcuda.so.1` exports {} functions of the driver API. `cuDriverGetVersion` says what the backend's \
         driver says, but no more than CUDA {}.{}. A function that is not listed, or listed as not carried, is not there: neither `dlsym` nor \
         `cuGetProcAddress` finds it. Where the backend's driver lacks a listed function, the call fails with \
         `CUDA_ERROR_NOT_SUPPORTED`. softcuda exports {} more, for programs that use it directly; the split \
         driver does not carry them yet.\n\n\
         When the result is known:\n\n\
         - **posted**: the call returns at once; an error surfaces at the next call that is waited for, which \
         is then not carried out;\n\
         - **waited**: the call returns with the worker's answer;\n\
         - **blocks**: as waited, but the worker answers when the device is done and goes on with other calls \
         meanwhile;\n\
         - **once**: waited for the first time, then answered in the guest;\n\
         - **guest**: the guest's library decides, with the messages named or with none;\n\
         - **not carried**: softcuda: yes, split driver: not yet.\n\n\
         *Since* is the first CUDA version (1000 × major + 10 × minor) for which `cuGetProcAddress` gives this \
         function for the name.\n\n\
         | name | symbol | since | result | carried by | what it does |\n\
         |---|---|---|---|---|---|\n",
        Names::CARRIED.len(),
        cuda_abi::CUDA_VERSION / 1000,
        cuda_abi::CUDA_VERSION % 1000 / 10,
        Names::ALL.len() - Names::CARRIED.len(),
    );
    for (names, call) in functions {
        let symbol = if names.symbol == names.base {
            String::new()
        } else {
            format!("`{}`", names.symbol)
        };
        let carried = match (call.number, call.via) {
            _ if call.mode == Mode::Driver => "softcuda: yes, split driver: not yet".to_owned(),
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
        "\n## Calls on the wire\n\n\
         The fields travel in the order written, as docs/protocol.md says; behind a handle's type stands \
         whether the call makes or ends it.\n\n\
         | call | name | result | request | reply | what it does |\n\
         |---|---|---|---|---|---|\n",
    );
    let fields = wire_fields();
    for call in messages {
        let (request, reply) = fields.get(call.name).cloned().unwrap_or_default();
        line(
            &mut text,
            &[
                &call.number.to_string(),
                &format!("`{}`", call.name),
                mode(call.mode),
                &request.join(", "),
                &reply.join(", "),
                call.doc.trim(),
            ],
        );
    }
    text
}

/// A field's name and type, as they are declared.
type Declared = (&'static str, &'static str);
/// A call's fields, as people read them: the request's, the reply's.
type Fields = (Vec<String>, Vec<String>);

macro_rules! declared {
    (
        auto { $($(#[$adoc:meta])+ $anum:literal $aname:ident ($abase:literal, $asince:literal) $amode:ident ($($ap:ident: $at:ty),*);)* }
        wire { $($(#[$wdoc:meta])+ $wnum:literal $wname:ident $wmode:ident {$($wf:ident: $wt:ty),*} -> {$($rf:ident: $rt:ty),*};)* }
        guest { $($guest:tt)* }
        driver { $($driver:tt)* }
    ) => {
        /// The parameters of the functions that travel by their declaration alone.
        const PARAMETERS: &[(&str, &[Declared])] =
            &[$((stringify!($aname), &[$((stringify!($ap), stringify!($at))),*])),*];
        /// The fields of the messages: the request's, the reply's.
        const MESSAGES: &[(&str, &[Declared], &[Declared])] = &[$((
            stringify!($wname),
            &[$((stringify!($wf), stringify!($wt))),*],
            &[$((stringify!($rf), stringify!($rt))),*],
        )),*];
    };
}
cuda_abi::with_calls!(declared);

fn wire_fields() -> BTreeMap<&'static str, Fields> {
    let mut all = BTreeMap::new();
    for (name, parameters) in PARAMETERS {
        let (mut request, mut reply) = Fields::default();
        for (field, declared) in *parameters {
            // As the compiler prints it, which is with spaces anywhere.
            let declared = declared.replace(' ', "");
            let (kind, inner) = declared
                .trim_end_matches('>')
                .split_once('<')
                .unwrap_or(("", &declared));
            match kind {
                "Out" | "Opt" => reply.push(field_of(field, inner)),
                "New" => request.push(format!("{field}: u32 {inner}, new")),
                "End" => request.push(format!("{field}: u32 {inner}, ended")),
                "Use" => request.push(format!("{field}: u32 {inner}")),
                _ => request.push(field_of(field, inner)),
            }
        }
        all.insert(*name, (request, reply));
    }
    for (name, request, reply) in MESSAGES {
        let of = |fields: &[Declared]| fields.iter().map(|(name, t)| field_of(name, t)).collect();
        all.insert(*name, (of(request), of(reply)));
    }
    all
}

/// A field with the type that it has on the wire.
fn field_of(name: &str, declared: &str) -> String {
    let travels = match declared.replace(' ', "").as_str() {
        "usize" => "u64".to_owned(),
        "Uuid" => "u8 × 16".to_owned(),
        "[u32;3]" => "u32 × 3".to_owned(),
        other => match other
            .strip_prefix("Id<")
            .and_then(|kind| kind.strip_suffix('>'))
        {
            Some(kind) => format!("u32 {kind}"),
            None => other.to_owned(),
        },
    };
    format!("{name}: {travels}")
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
        Mode::Driver => "not carried",
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
        let lines = table
            .lines()
            .filter(|line| line.starts_with("| `cu"))
            .count();
        assert_eq!(lines, Names::ALL.len());
        let not_carried = table.matches("| not carried | softcuda: yes").count();
        assert_eq!(not_carried, Names::ALL.len() - Names::CARRIED.len());
        for call in CallInfo::ALL {
            assert!(table.contains(&format!("`{}`", call.name)), "{}", call.name);
        }
        let fields = wire_fields();
        for call in CallInfo::ALL.iter().filter(|call| call.number != 0) {
            assert!(fields.contains_key(call.name), "{}", call.name);
        }
        assert_eq!(
            fields["cuEventElapsedTime"],
            (
                vec!["hStart: u32 Event".to_owned(), "hEnd: u32 Event".to_owned()],
                vec!["pMilliseconds: f32".to_owned()]
            )
        );
        assert_eq!(fields["cuStreamCreate"].0[0], "phStream: u32 Stream, new");
        assert_eq!(fields["Launch"].0[2], "grid: u32 × 3");
        // A bar inside a cell would break the table.
        assert!(CallInfo::ALL.iter().all(|call| !call.doc.contains('|')));
    }
}
