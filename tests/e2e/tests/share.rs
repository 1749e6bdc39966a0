//! Guests that share a GPU: what they compute, what is counted and recorded, and what tools can change
//! while they run. How well they share is for tests/fairness to measure.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::process::Command;
use std::thread;
use std::time::Duration;
use vgpu_e2e::{Bundle, Driver, Guest, Host, run, wait_until};

const LIMIT: Duration = Duration::from_secs(120);

#[derive(Deserialize, Debug)]
struct Stats {
    gpus: Vec<Gpu>,
}

#[derive(Deserialize, Debug)]
struct Gpu {
    gpu: u32,
    policy: String,
    kernel_ns: u64,
    domains: Vec<Domain>,
}

#[derive(Deserialize, Debug)]
struct Domain {
    domid: u16,
    domain: String,
    weight: u32,
    cap: Option<u32>,
    latency_ns: Option<u64>,
    kernel_ns: u64,
    copy_ns: u64,
    launches: u64,
    copies: u64,
    bytes: u64,
    kernel_turns: u64,
    waiting: u64,
    overdue: u64,
}

/// A line of a recording, as far as it is looked at here.
#[derive(Deserialize, Debug)]
struct Entry {
    event: String,
    #[serde(default)]
    domid: u16,
    #[serde(default)]
    engine: String,
    #[serde(default)]
    arrived_ns: u64,
    #[serde(default)]
    start_ns: u64,
    #[serde(default)]
    end_ns: u64,
    #[serde(default)]
    busy_ns: u64,
    #[serde(default)]
    pieces: u64,
    #[serde(default)]
    bytes: u64,
}

fn start(options: &[&str]) -> Result<Host> {
    Host::start_with(&Bundle::find()?, Driver::Softcuda, options)
}

fn stats(host: &Host) -> Result<Gpu> {
    let told = host.xl_vgpu(&["stats", "--json"])?.success()?;
    let stats: Stats = serde_json::from_str(&told).with_context(|| told.clone())?;
    stats.gpus.into_iter().next().context("no GPU")
}

fn of(gpu: &Gpu, guest: &Guest) -> Result<usize> {
    let position = gpu.domains.iter().position(|it| it.domid == guest.domid);
    position.with_context(|| format!("{} is not in {gpu:?}", guest.name))
}

/// A program that launches so many kernels of a length, some of them at once.
fn load(host: &Host, guest: &Guest, micros: u32, count: u32, depth: u32) -> Command {
    let mut command = host.in_guest(guest, "vgpu-load");
    command
        .args(["--kernel-us", &micros.to_string()])
        .args(["--count", &count.to_string()])
        .args(["--depth", &depth.to_string()])
        .args(["--seconds", "100", "--json"]);
    command
}

/// Runs commands at once; all must succeed.
fn at_once(host: &Host, commands: Vec<Command>) -> Result<Vec<String>> {
    let running: Vec<_> = commands
        .into_iter()
        .map(|mut command| thread::spawn(move || run(&mut command, LIMIT)?.success()))
        .collect();
    let said = running.into_iter().map(|it| match it.join() {
        Ok(said) => said,
        Err(_) => Err(anyhow::anyhow!("a program was not run")),
    });
    said.collect::<Result<_>>().with_context(|| host.all_logs())
}

#[test]
fn what_guests_compute_does_not_depend_on_who_shares_the_gpu() -> Result<()> {
    #[derive(Deserialize, Debug, PartialEq)]
    struct Report {
        ok: bool,
        checksum: String,
    }
    let mut host = start(&[])?;
    let guests = ["one", "two", "three", "four"]
        .map(|name| host.guest(name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let programs: [(&str, &[&str]); 4] = [
        ("vectorAdd", &["--n", "100003", "--iterations", "20"]),
        (
            "matrixMul",
            &["--m", "100", "--n", "90", "--k", "70", "--iterations", "20"],
        ),
        ("BlackScholes", &["--n", "50001", "--iterations", "20"]),
        ("histogram", &["--n", "1000003", "--iterations", "20"]),
    ];
    let command = |mut command: Command, options: &[&str]| {
        command.args(options).arg("--json");
        command
    };
    // Each guest runs each program, at any time beside three others.
    let mut commands = Vec::new();
    let mut expected = Vec::new();
    for (program, options) in programs {
        let direct = run(&mut command(host.direct(program), options), LIMIT)?.success()?;
        for guest in &guests {
            commands.push(command(host.in_guest(guest, program), options));
            expected.push(serde_json::from_str::<Report>(&direct)?);
        }
    }
    let said = at_once(&host, commands)?;
    for (said, expected) in said.iter().zip(&expected) {
        let report: Report = serde_json::from_str(said)?;
        assert!(report.ok);
        assert_eq!(report, *expected);
    }
    let gpu = stats(&host)?;
    assert_eq!((gpu.gpu, gpu.policy.as_str()), (0, "fair"));
    let mut sum = 0;
    for guest in &guests {
        let domain = &gpu.domains[of(&gpu, guest)?];
        assert_eq!(domain.domain, guest.name);
        assert!(domain.launches >= 80 && domain.copies >= 8, "{domain:?}");
        assert!(domain.bytes > 1 << 20 && domain.copy_ns > 0, "{domain:?}");
        assert!(domain.kernel_turns > 0, "{domain:?}");
        assert_eq!((domain.waiting, domain.overdue), (0, 0), "{domain:?}");
        sum += domain.kernel_ns;
    }
    // No moment of the device is counted twice, and none is lost.
    assert_eq!(sum, gpu.kernel_ns);
    for guest in guests {
        host.destroy(guest)?;
    }
    host.check_clean()?;
    assert!(stats(&host)?.domains.is_empty());
    Ok(())
}

#[test]
fn turns_alternate_and_the_accounts_are_what_was_recorded() -> Result<()> {
    let mut host = start(&[])?;
    let (one, two) = (host.guest("one")?, host.guest("two")?);
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().context("a path of other bytes")?;
    let said = thread::scope(|scope| {
        let record = scope.spawn(|| {
            host.xl_vgpu(&["record", "--seconds", "20", "--out", path])?
                .success()
        });
        // What is launched before the recording begins would be missed.
        wait_until("the recording begins", || {
            Ok(std::fs::read_to_string(path)?.matches("\"share\"").count() >= 2)
        })?;
        let loads = [(&one, 2000, 300), (&two, 4000, 150)]
            .map(|(guest, micros, count)| load(&host, guest, micros, count, 4));
        let said = at_once(&host, loads.into())?;
        record.join().expect("no panic")?;
        anyhow::Ok(said)
    })?;
    assert_eq!(said.len(), 2);
    let text = std::fs::read_to_string(path)?;
    let entries = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<Vec<Entry>>>()?;
    let gpu = stats(&host)?;
    for (guest, count) in [(&one, 300), (&two, 150)] {
        let domain = &gpu.domains[of(&gpu, guest)?];
        let mine = |engine: &str| {
            let work = entries.iter().filter(|entry| entry.event == "work");
            work.filter(|entry| entry.domid == guest.domid && entry.engine == engine)
                .collect::<Vec<_>>()
        };
        let (kernels, copies) = (mine("compute"), mine("copy"));
        let pieces: u64 = kernels.iter().map(|entry| entry.pieces).sum();
        assert_eq!(pieces, domain.launches);
        assert!(pieces >= count, "{domain:?}");
        assert_eq!(
            copies.iter().map(|it| it.pieces).sum::<u64>(),
            domain.copies
        );
        assert_eq!(copies.iter().map(|it| it.bytes).sum::<u64>(), domain.bytes);
        for entry in kernels {
            assert!(entry.arrived_ns <= entry.start_ns && entry.start_ns <= entry.end_ns);
            assert!(entry.busy_ns <= entry.end_ns - entry.start_ns);
        }
        assert!(domain.kernel_turns > 20, "{domain:?}");
    }
    // While both want the GPU, it goes back and forth between them.
    let mut kernels: Vec<&Entry> = entries
        .iter()
        .filter(|entry| entry.event == "work" && entry.engine == "compute")
        .collect();
    kernels.sort_by_key(|entry| entry.end_ns);
    let changes = kernels
        .windows(2)
        .filter(|pair| pair[0].domid != pair[1].domid)
        .count();
    assert!(changes > 40, "{changes} changes in {}", kernels.len());
    Ok(())
}

#[test]
fn policies_and_shares_change_while_programs_run() -> Result<()> {
    let mut host = start(&["--policy", "rr"])?;
    let guests = [host.guest("one")?, host.guest("two")?, host.guest("three")?];
    assert_eq!(stats(&host)?.policy, "rr");
    let loads = guests
        .iter()
        .map(|guest| load(&host, guest, 1000, 400, 2))
        .collect();
    thread::scope(|scope| {
        let running = scope.spawn(|| at_once(&host, loads));
        let policies = [
            "fifo",
            "rr",
            "credit",
            "xen-credit",
            "gdev-credit",
            "band",
            "sla-feedback",
            "cosched",
            "augc",
            "fair",
        ];
        for policy in policies.iter().cycle() {
            if running.is_finished() {
                break;
            }
            host.xl_vgpu(&["policy", policy])?.success()?;
        }
        running.join().expect("no panic")
    })?;
    host.xl_vgpu(&["policy", "--gpu", "0", "fair"])?.success()?;
    assert_eq!(host.xl_vgpu(&["policy"])?.success()?.trim(), "0 fair");
    for wrong in [&["policy", "best"][..], &["policy", "--gpu", "7", "fair"]] {
        assert!(!host.xl_vgpu(wrong)?.status.success(), "{wrong:?}");
    }
    for guest in &guests {
        let gpu = stats(&host)?;
        let domain = &gpu.domains[of(&gpu, guest)?];
        assert!(domain.launches >= 400, "{domain:?}");
        assert_eq!((domain.waiting, domain.overdue), (0, 0), "{domain:?}");
    }
    let set = ["set", "two", "--weight", "512", "--cap", "40"];
    host.xl_vgpu(&set)?.success()?;
    let shown = |host: &Host| {
        let gpu = stats(host)?;
        let domain = &gpu.domains[of(&gpu, &guests[1])?];
        anyhow::Ok((domain.weight, domain.cap, domain.latency_ns))
    };
    assert_eq!(shown(&host)?, (512, Some(40), None));
    // A cap and a latency that it cannot keep do not go together.
    let latency = ["set", "two", "--latency-ms", "5"];
    assert_eq!(host.xl_vgpu(&latency)?.status.code(), Some(1));
    host.xl_vgpu(&["set", "two", "--cap", "0", "--latency-ms", "5"])?
        .success()?;
    assert_eq!(shown(&host)?, (512, None, Some(5_000_000)));
    let nobody = host.xl_vgpu(&["set", "Domain-0", "--weight", "9"])?;
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    assert_eq!(
        host.xl_vgpu(&["set", "none", "--weight", "9"])?
            .status
            .code(),
        Some(3)
    );
    assert_eq!(host.xl_vgpu(&["set", "two"])?.status.code(), Some(2));
    let table = host.xl_vgpu(&["stats"])?.success()?;
    for guest in &guests {
        assert!(table.contains(&guest.name), "{table}");
    }
    // A domain that comes again starts anew.
    let [one, two, three] = guests;
    host.destroy(two)?;
    let two = host.guest("two")?;
    let gpu = stats(&host)?;
    assert_eq!(gpu.domains[of(&gpu, &two)?].launches, 0);
    for guest in [one, two, three] {
        host.destroy(guest)?;
    }
    host.check_clean()
}

#[test]
fn a_program_that_keeps_the_gpu_is_ended_and_the_others_go_on() -> Result<()> {
    let mut host = start(&["--longest-turn", "3"])?;
    let (one, two) = (host.guest("one")?, host.guest("two")?);
    let mut hang = Command::new(env!("CARGO_BIN_EXE_api-probe"));
    hang.arg(host.guest_libcuda()).arg("hang");
    host.guest_environment(&one, &mut hang);
    let loads = vec![load(&host, &two, 1000, 500, 2)];
    let hung = thread::scope(|scope| {
        let hung = scope.spawn(|| run(&mut hang, LIMIT));
        at_once(&host, loads)?;
        hung.join().expect("no panic")
    })?;
    ensure!(
        hung.stdout.contains("CUDA_ERROR"),
        "it did not see its end: {hung:?}\n{}",
        host.all_logs()
    );
    assert!(host.all_logs().contains("--longest-turn"));
    let gpu = stats(&host)?;
    assert!(gpu.domains[of(&gpu, &two)?].launches >= 500);
    host.destroy(one)?;
    host.destroy(two)?;
    host.check_clean()
}
