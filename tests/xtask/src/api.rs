//! `cargo xtask api-table`: writes docs/api.md, the CUDA functions and messages as cuda-abi declares them, and
//! docs/nvml.md, the NVML functions as vgpu-nvml declares them.
//! The declarations are the one source. It must never hold a fact about a function of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cuda_abi::{CallInfo, Mode, Names};
use vgpu_nvml::{Answered, Function};

use crate::bundle;

/// Write docs/api.md and docs/nvml.md, the tables of all functions, from their declarations.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<()> {
    for (file, text) in files() {
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        println!("{}", file.display());
    }
    Ok(())
}

/// Every file that is written, with what belongs in it.
fn files() -> [(PathBuf, String); 2] {
    let docs = bundle::workspace().join("docs");
    [
        (docs.join("api.md"), table()),
        (docs.join("nvml.md"), nvml_table()),
    ]
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

/// The whole of docs/nvml.md.
fn nvml_table() -> String {
    let refused: Vec<&str> = Function::ALL
        .iter()
        .filter(|function| function.answered == Answered::No)
        .map(|function| function.name)
        .collect();
    let mut text = format!(
        "<!-- Written by `cargo xtask api-table` from xen-front/nvml/src/functions.rs. Do not edit. -->\n\n\
         # The NVML functions\n\n\
         The guest's `libnvidia-ml.so.1` exports {} functions, with the signatures of NVML's header. It shows what \
         the domain has: its devices in CUDA's order, their names and UUIDs, and as memory the domain's own. It \
         tells nothing of other domains. `nvidia-smi` does not run over it: that program asks NVML for private tables.\n\n\
         `nvmlInit` opens a channel to the backend, as `cuInit` does, and the last `nvmlShutdown` closes it; the two libraries \
         do not share one. So a program that asks NVML and then forks can use CUDA in the child, as it can with NVIDIA's \
         libraries; a program that uses both has two of its domain's channels. A forked child, and a monitor whose \
         channel has ended, get a new one with their next call.\n\n\
         Memory is what all programs of the domain have together, out of its quota, or out of the whole device where it \
         has none. Each context counts what contexts take there, what the driver takes for code does not count, and without a \
         quota other domains may have what is shown as free: `cuMemGetInfo` knows. Utilisation is the domain's part of the device's last second, \
         as the scheduler accounts it, for kernels and for copies. No channel needs a context for any of this, so a monitor takes \
         no device memory.\n\n\
         A handle is good for as long as its device has the same index. Any text of a UUID or PCI address that NVML or \
         CUDA writes is understood.\n\n\
         ## Answered\n\n\
         | function | what it tells |\n\
         |---|---|\n",
        // And nvmlErrorString.
        Function::ALL.len() + 1
    );
    for function in Function::ALL {
        if function.answered == Answered::Yes {
            let name = format!("`{}`", function.name);
            line(&mut text, &[&name, function.doc.trim()]);
        }
    }
    line(
        &mut text,
        &["`nvmlErrorString`", "A code in words, for any number."],
    );
    let _ = write!(
        text,
        "\n## Not supported\n\n\
         {} functions answer `NVML_ERROR_NOT_SUPPORTED`, after the checks that all have in common (`NVML_ERROR_UNINITIALIZED`, \
         and `NVML_ERROR_INVALID_ARGUMENT` for what is no device). They are there because a program that is linked to \
         NVML may not start without them.\n\n",
        refused.len()
    );
    for name in refused {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- `{name}`");
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
    fn the_tables_in_docs_are_current() {
        for (file, text) in files() {
            assert!(
                fs::read_to_string(&file).unwrap() == text,
                "{} is not what the declaration says; run `cargo xtask api-table`",
                file.display()
            );
        }
    }

    #[test]
    fn every_function_of_nvml_has_its_line() {
        let table = nvml_table();
        for function in Function::ALL {
            let start = match function.answered {
                Answered::Yes => "| ",
                Answered::No => "- ",
            };
            let start = format!("\n{start}`{}`", function.name);
            assert_eq!(table.matches(&start).count(), 1, "{}", function.name);
        }
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
