//! Runs the table of PTX forms on softcuda and prints what it found; `cargo xtask ptx-coverage` starts it.
//! The exit status is 1 where a form is wrong, or missing without being listed as such.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use ptx_forms::form::Form;
use ptx_forms::report::{self, Findings};

#[derive(Parser)]
#[command(about = "Runs every form of every PTX instruction on softcuda against a reference")]
struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// List each form that is not supported, with the error that a user gets.
    #[arg(long)]
    missing: bool,
    /// Write docs/ptx-coverage.md instead.
    #[arg(long)]
    write: bool,
    /// Only forms whose name contains this; if there is one alone, its module's text is shown too.
    form: Option<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let table = ptx_forms::table();
    if arguments.write {
        let file = PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/ptx-coverage.md"
        ));
        std::fs::write(&file, report::document(&table))
            .with_context(|| format!("writing {}", file.display()))?;
        println!("docs/ptx-coverage.md");
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = arguments.form.as_deref().unwrap_or_default();
    let forms: Vec<&Form> = table
        .iter()
        .filter(|form| form.name.contains(wanted))
        .collect();
    if let ([form], false) = (forms.as_slice(), arguments.json) {
        println!("{}", ptx_forms::run::text(form));
    }
    let findings = report::findings(&forms);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print(&findings, arguments.missing);
    }
    Ok(if findings.values().all(report::Opcode::good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(findings: &Findings, all_missing: bool) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "opcode",
        "forms",
        "right",
        "untested",
        "not supported",
        "missing",
        "wrong",
    ]);
    let mut total = [0; 6];
    let mut row = |name: &str, counts: [usize; 6]| {
        let mut cells = vec![name.to_owned()];
        cells.extend(counts.map(|count| match count {
            0 => "-".to_owned(),
            count => count.to_string(),
        }));
        table.add_row(cells);
    };
    for (name, opcode) in findings {
        let counts = [
            opcode.forms,
            opcode.right,
            opcode.untested.len(),
            opcode.lacking.len(),
            opcode.missing.len(),
            opcode.wrong.len(),
        ];
        for (total, count) in total.iter_mut().zip(counts) {
            *total += count;
        }
        row(name, counts);
    }
    row("all", total);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    for (name, opcode) in findings {
        for finding in &opcode.wrong {
            println!("wrong: {}: {}", finding.form, finding.message);
        }
        for finding in &opcode.missing {
            println!("missing: {}: {}", finding.form, finding.message);
        }
        for form in &opcode.untested {
            println!("untested: {form}: it compiles, but the table says that it is not supported");
        }
        if all_missing {
            for finding in &opcode.lacking {
                println!("not supported: {}: {}", finding.form, finding.message);
            }
        } else if let Some(finding) = opcode.lacking.first() {
            println!(
                "not supported: {name}, {} forms; the first, {}: {}",
                opcode.lacking.len(),
                finding.form,
                finding.message
            );
        }
    }
}
