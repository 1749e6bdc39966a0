//! stats, policy, set and record: how the GPUs are shared, as backd tells it and as backd is told. What a
//! domain's share is and how it is kept is backd's affair alone.

use crate::failure::Failure;
use crate::{Context, backd, domain, note, print, printable};
use comfy_table::{CellAlignment, Table, presets};
use std::fs::File;
use std::io::{LineWriter, Write};
use std::path::Path;
use std::time::Duration;
use vgpu_protocol::admin::{AskStats, Command, GpuStats, HypervisorStats, ShareChange, Stats};

/// How often `stats --watch` looks.
const WATCH: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

fn failed(context: &Context) -> impl Fn(backd::BackdError) -> Failure {
    let socket = context.socket.clone();
    move |source| Failure::Backd {
        socket: socket.clone(),
        source,
    }
}

/// What the domains have had of the GPUs; with `watch`, again and again.
pub fn stats(context: &Context, json: bool, watch: bool) -> Result<(), Failure> {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    loop {
        let stats = backd::stats(&context.socket).map_err(failed(context))?;
        let text = match (json, watch) {
            // One line a look, for programs that read them.
            (true, true) => serde_json::to_string(&stats),
            (true, false) => serde_json::to_string_pretty(&stats),
            (false, _) => Ok(shown(&stats)),
        }
        .map_err(|error| Failure::Output(error.into()))?;
        match watch && terminal && !json {
            true => print(format_args!("{CLEAR}{text}"))?,
            false => print(text)?,
        }
        if !watch {
            return Ok(());
        }
        std::thread::sleep(WATCH);
    }
}

/// Shows the GPUs' policies, or puts another in force.
pub fn policy(context: &Context, gpu: Option<u32>, policy: Option<String>) -> Result<(), Failure> {
    if let Some(policy) = policy {
        let done = backd::change(&context.socket, &Command::Policy { gpu, policy })
            .map_err(failed(context))?;
        if !done.done.is_empty() {
            note(printable(&done.done));
        }
        return Ok(());
    }
    let stats = backd::stats(&context.socket).map_err(failed(context))?;
    let wanted = |told: &&GpuStats| gpu.is_none_or(|gpu| gpu == told.gpu);
    let mut gpus = stats.gpus.iter().filter(wanted).peekable();
    if let (Some(gpu), None) = (gpu, gpus.peek()) {
        return Err(Failure::NoGpu {
            gpu,
            count: stats.gpus.len(),
        });
    }
    for told in gpus {
        print(format_args!("{} {}", told.gpu, told.policy))?;
        if !told.lacks.is_empty() {
            note(printable(&told.lacks));
        }
    }
    Ok(())
}

/// Changes what a domain has of its GPUs until it ends.
pub fn set(context: &Context, wanted: &str, share: ShareChange) -> Result<(), Failure> {
    let domid = domain::find(&context.domains, wanted)?.domid.0;
    let command = Command::Set { domid, share };
    let done = backd::change(&context.socket, &command).map_err(failed(context))?;
    if !done.done.is_empty() {
        note(printable(&done.done));
    }
    Ok(())
}

/// Writes what the GPUs do as lines of JSON, to a file or to standard output.
pub fn record(context: &Context, seconds: u32, out: Option<&Path>) -> Result<(), Failure> {
    let recorded = match out {
        None => {
            let mut out = LineWriter::new(std::io::stdout().lock());
            let recorded = backd::record(&context.socket, seconds, |line| writeln!(out, "{line}"));
            out.flush().map_err(Failure::Output)?;
            recorded
        }
        Some(path) => {
            let fail = |source| Failure::File {
                path: path.to_owned(),
                source,
            };
            let mut out = LineWriter::new(File::create(path).map_err(fail)?);
            let recorded = backd::record(&context.socket, seconds, |line| writeln!(out, "{line}"));
            out.flush().map_err(fail)?;
            recorded
        }
    }
    .map_err(failed(context))?;
    note(format_args!(
        "{} batches recorded, {} left out",
        recorded.recorded, recorded.dropped
    ));
    Ok(())
}

/// For people: a line for each GPU, and under it one for each domain.
fn shown(stats: &Stats) -> String {
    let mut texts: Vec<String> = stats.gpus.iter().map(gpu).collect();
    texts.extend(stats.hypervisor.as_ref().map(hypervisor));
    match texts.is_empty() {
        true => "no GPUs".into(),
        false => texts.join("\n\n"),
    }
}

fn hypervisor(stats: &HypervisorStats) -> String {
    let asked = |what, asked: &AskStats| {
        let micros = |ns: u64| ns as f64 / 1e3;
        format!(
            "{} {what}, {:.1} µs each, {:.1} µs at most",
            asked.samples,
            micros(asked.mean_ns),
            micros(asked.longest_ns)
        )
    };
    let mut text = format!(
        "asked the hypervisor for {}",
        asked("weights", &stats.weights)
    );
    if stats.states.samples > 0 {
        text.push_str(&format!("; {}", asked("processors' states", &stats.states)));
    }
    text
}

fn gpu(gpu: &GpuStats) -> String {
    let mut text = format!("GPU {}", gpu.gpu);
    if !gpu.name.is_empty() {
        text.push_str(&format!(" ({})", printable(&gpu.name)));
    }
    text.push_str(&format!(": policy {}", printable(&gpu.policy)));
    if let Some(domid) = gpu.alone {
        text.push_str(&format!(", domain {domid} has it to itself"));
    }
    if !gpu.lacks.is_empty() {
        text.push_str(&format!("; {}", printable(&gpu.lacks)));
    }
    if gpu.domains.is_empty() {
        text.push_str("\nno domains");
        return text;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "DOMAIN", "DOMID", "WEIGHT", "CAP", "LATENCY", "KERNELS", "COPIES", "NOW", "WAITED",
        "TURNS", "LAUNCHES", "COPIED", "ALONE", "MEMORY", "QUOTA",
    ]);
    for domain in &gpu.domains {
        let cap = domain.cap.map_or("-".into(), |cap| format!("{cap}%"));
        let latency = domain
            .latency_ns
            .map_or("-".into(), |ns| format!("{} ms", ns / 1_000_000));
        let waited = domain
            .kernel_waited_ns
            .saturating_add(domain.copy_waited_ns);
        let quota = domain.memory_quota.map_or("-".into(), mib);
        let turns = domain.kernel_turns.saturating_add(domain.copy_turns);
        table.add_row([
            printable(&domain.domain),
            domain.domid.to_string(),
            domain.weight.to_string(),
            cap,
            latency,
            seconds(domain.kernel_ns),
            seconds(domain.copy_ns),
            format!("{:.1}%", domain.kernel_share * 100.0),
            seconds(waited),
            turns.to_string(),
            domain.launches.to_string(),
            mib(domain.bytes),
            seconds(domain.alone_ns),
            mib(domain.memory_used),
            quota,
        ]);
    }
    for column in 1..15 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{text}\n{}", table.trim_fmt())
}

/// Bytes as whole MiB.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Nanoseconds as seconds, to the millisecond.
fn seconds(ns: u64) -> String {
    let ms = ns / 1_000_000;
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_protocol::admin::DomainStats;

    #[test]
    fn stats_have_a_line_for_each_domain() {
        let domain = |domid, name: &str| DomainStats {
            domid,
            domain: name.into(),
            weight: 256,
            kernel_ns: 1_234_567_890,
            kernel_share: 0.5,
            kernel_turns: 3,
            copy_turns: 4,
            bytes: 5 << 20,
            ..DomainStats::default()
        };
        let stats = Stats {
            gpus: vec![
                GpuStats {
                    policy: "fair".into(),
                    alone: Some(3),
                    domains: vec![
                        domain(3, "web"),
                        DomainStats {
                            cap: Some(40),
                            latency_ns: Some(5_000_000),
                            memory_used: 3 << 20,
                            memory_quota: Some(64 << 20),
                            ..domain(4, "db\x1b[2J")
                        },
                    ],
                    ..GpuStats::default()
                },
                GpuStats {
                    gpu: 1,
                    name: "soft".into(),
                    policy: "fifo".into(),
                    ..GpuStats::default()
                },
            ],
            hypervisor: Some(HypervisorStats {
                weights: AskStats {
                    samples: 40,
                    mean_ns: 1_500,
                    longest_ns: 20_000,
                },
                states: AskStats::default(),
            }),
        };
        let text = shown(&stats);
        assert!(!text.contains('\x1b'), "{text:?}");
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(lines[0], "GPU 0: policy fair, domain 3 has it to itself");
        assert_eq!(
            lines[2],
            "web 3 256 - - 1.234 s 0.000 s 50.0% 0.000 s 7 0 5 MiB 0.000 s 0 MiB -"
        );
        assert_eq!(
            lines[3],
            "db\u{fffd}[2J 4 256 40% 5 ms 1.234 s 0.000 s 50.0% 0.000 s 7 0 5 MiB 0.000 s 3 MiB 64 MiB"
        );
        assert_eq!(
            lines[5..],
            [
                "GPU 1 (soft): policy fifo",
                "no domains",
                "",
                "asked the hypervisor for 40 weights, 1.5 µs each, 20.0 µs at most"
            ]
        );
    }
}
