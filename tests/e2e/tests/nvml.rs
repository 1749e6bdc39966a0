//! What monitors in a guest see through `libnvidia-ml.so.1`, and what that costs the backend.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use vgpu_e2e::{Bundle, Driver, Guest, Host, wait_until};

/// A running nvml-probe.
struct Probe {
    child: Child,
    say: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Probe {
    fn start(host: &Host, guest: &Guest) -> Result<Probe> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvml-probe"));
        host.guest_environment(guest, &mut command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let say = child.stdin.take().context("no input")?;
        let answers = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Probe {
            child,
            say,
            answers,
        })
    }

    /// The answer to a command.
    fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.say, "{command}")?;
        let answer = self.answers.next().context("the probe has ended")??;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Ends it.
    fn end(self) -> Result<()> {
        let Probe { mut child, say, .. } = self;
        drop(say);
        ensure!(child.wait()?.success());
        Ok(())
    }
}

fn host() -> Result<Host> {
    Host::start(&Bundle::find()?, Driver::Softcuda)
}

/// NVML's text for the bytes that CUDA gives as a UUID.
fn uuid_text(bytes: &Value) -> Option<String> {
    let bytes: Option<Vec<u64>> = bytes.as_array()?.iter().map(Value::as_u64).collect();
    let hex: String = bytes?.iter().map(|byte| format!("{byte:02x}")).collect();
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|at| hex[at].to_owned());
    Some(format!("GPU-{}", groups.join("-")))
}

#[test]
fn nvml_and_cuda_agree_on_every_device() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("watched")?;
    let mut probe = Probe::start(&host, &guest)?;
    assert_eq!(probe.ask("init")?, 0);
    let (nvml, cuda) = (probe.ask("nvml")?, probe.ask("cuda")?);
    assert_eq!(nvml["codes"], json!([0, 0, 0]), "{nvml}");
    assert_eq!(cuda["codes"], json!([0, 0, 0]), "{cuda}");
    assert_eq!(nvml["cuda"], cuda["cuda"]);
    assert_eq!(nvml["driver"], "570.26");
    let devices = |of: &Value| of["devices"].as_array().cloned().context("no devices");
    let (nvml, cuda) = (devices(&nvml)?, devices(&cuda)?);
    assert_eq!(nvml.len(), cuda.len());
    assert!(!nvml.is_empty());
    for (index, (nvml, cuda)) in nvml.iter().zip(&cuda).enumerate() {
        assert_eq!(nvml["codes"], json!([0, 0, 0, 0, 0, 0]), "{nvml}");
        assert_eq!(cuda["codes"], json!([0, 0, 0, 0]), "{cuda}");
        assert_eq!(nvml["found"], json!([0, 0, 0, 0]), "{nvml}");
        assert_eq!(nvml["same"], json!([true, true, true, true]), "{nvml}");
        assert_eq!(nvml["index"], index);
        for same in ["name", "place", "capability", "total"] {
            assert_eq!(nvml[same], cuda[same], "{same}");
        }
        assert_eq!(nvml["uuid"].as_str(), uuid_text(&cuda["uuid"]).as_deref());
        // NVML writes eight digits of the domain, CUDA four.
        let pci = nvml["pci"].as_str().context("no address")?;
        assert_eq!(cuda["pci"].as_str(), Some(pci[4..].to_lowercase().as_str()));
    }
    probe.end()?;
    host.destroy(guest)?;
    host.check_clean()
}

/// Device 0's memory as NVML has it: total, free, used.
fn memory(answer: &Value) -> Result<[u64; 3]> {
    let memory = &answer["nvml"];
    ensure!(memory["code"] == 0, "{answer}");
    let number = |name: &str| memory[name].as_u64().context("not a number");
    Ok([number("total")?, number("free")?, number("used")?])
}

#[test]
fn a_monitor_sees_what_all_programs_of_its_domain_have_and_no_others() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let mut host = host()?;
    let guests = [host.guest("measured")?, host.guest("neighbour")?];
    let [mut monitor, mut program, mut other] = [
        Probe::start(&host, &guests[0])?,
        Probe::start(&host, &guests[0])?,
        Probe::start(&host, &guests[1])?,
    ];
    for probe in [&mut monitor, &mut program, &mut other] {
        assert_eq!(probe.ask("init")?, 0);
    }
    for probe in [&mut program, &mut other] {
        assert_eq!(probe.ask("cuda")?["codes"], json!([0, 0, 0]));
    }
    let [total, free, used] = memory(&monitor.ask("memory")?)?;
    assert_eq!([used, free], [0, total]);
    let allocated = program.ask(&format!("alloc {}", 64 * MIB))?;
    assert_eq!(allocated[0], 0);
    assert_eq!(other.ask(&format!("alloc {}", 16 * MIB))?[0], 0);
    for probe in [&mut monitor, &mut program] {
        let with = memory(&probe.ask("memory")?)?;
        assert_eq!(with, [total, total - 64 * MIB, 64 * MIB]);
    }
    assert_eq!(memory(&other.ask("memory")?)?[2], 16 * MIB);
    let freed = program.ask(&format!("free {}", allocated[1]))?;
    assert_eq!(freed, json!([0, 0]));
    assert_eq!(memory(&monitor.ask("memory")?)?, [total, total, 0]);
    // What a program does not free goes with it.
    assert_eq!(program.ask(&format!("alloc {}", 8 * MIB))?[0], 0);
    assert_eq!(memory(&monitor.ask("memory")?)?[2], 8 * MIB);
    program.end()?;
    wait_until("the program's memory is free", || {
        Ok(memory(&monitor.ask("memory")?)?[2] == 0)
    })?;
    monitor.end()?;
    other.end()?;
    for guest in guests {
        host.destroy(guest)?;
    }
    host.check_clean()
}

#[test]
fn nvml_and_cuda_show_the_quota_and_it_holds() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let out_of_memory = 2;
    let mut host = host()?;
    let guest = host.guest_described("limited", "memory = \"64M\"\n")?;
    let (mut probe, mut second) = (Probe::start(&host, &guest)?, Probe::start(&host, &guest)?);
    assert_eq!(probe.ask("init")?, 0);
    for probe in [&mut probe, &mut second] {
        assert_eq!(probe.ask("cuda")?["devices"][0]["total"], 64 * MIB);
    }
    assert_eq!(probe.ask("alloc 4096")?[0], 0);
    assert_eq!(second.ask(&format!("alloc {}", 48 * MIB))?[0], 0);
    let used = 48 * MIB + 4096;
    let seen = probe.ask("memory")?;
    assert_eq!(memory(&seen)?, [64 * MIB, 64 * MIB - used, used]);
    assert_eq!(
        seen["cuda"],
        json!({ "code": 0, "total": 64 * MIB, "free": 64 * MIB - used })
    );
    // What is left is less, whichever process asks.
    assert_eq!(probe.ask(&format!("alloc {}", 16 * MIB))?[0], out_of_memory);
    assert_eq!(memory(&probe.ask("memory")?)?[2], used);
    assert_eq!(probe.ask(&format!("alloc {}", 8 * MIB))?[0], 0);
    second.end()?;
    wait_until("the second program's memory is free", || {
        Ok(memory(&probe.ask("memory")?)?[2] == 8 * MIB + 4096)
    })?;
    assert_eq!(probe.ask(&format!("alloc {}", 48 * MIB))?[0], 0);
    probe.end()?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn a_monitor_sees_its_domains_share_of_the_device() -> Result<()> {
    let mut host = host()?;
    let guests = [host.guest("busy")?, host.guest("idle")?];
    let (mut monitor, mut other) = (
        Probe::start(&host, &guests[0])?,
        Probe::start(&host, &guests[1])?,
    );
    for probe in [&mut monitor, &mut other] {
        assert_eq!(probe.ask("init")?, 0);
        assert_eq!(probe.ask("rates")?, json!([0, 0, 0]));
    }
    let mut program = host.in_guest(&guests[0], "vectorAdd");
    program.args(["--n", "200000", "--iterations", "1000000"]);
    let mut program = program.stdout(Stdio::null()).spawn()?;
    let share = |probe: &mut Probe| -> Result<u64> {
        let rates = probe.ask("rates")?;
        ensure!(rates[0] == 0, "{rates}");
        let percent = |at: usize| rates[at].as_u64().context("not a number");
        ensure!(percent(1)? <= 100 && percent(2)? <= 100, "{rates}");
        percent(1)
    };
    let used = wait_until("the program's share shows", || Ok(share(&mut monitor)? > 0));
    let others = share(&mut other);
    program.kill()?;
    program.wait()?;
    used?;
    assert_eq!(others?, 0);
    wait_until("its share has passed", || Ok(share(&mut monitor)? == 0))?;
    monitor.end()?;
    other.end()?;
    for guest in guests {
        host.destroy(guest)?;
    }
    host.check_clean()
}

#[test]
fn wrong_use_is_told_apart_and_the_unknown_is_not_supported() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("misused")?;
    let mut probe = Probe::start(&host, &guest)?;
    assert_eq!(probe.ask("init")?, 0);
    let (invalid, unsupported, not_found, too_small, version) = (2, 3, 6, 7, 25);
    assert_eq!(
        probe.ask("wrong")?,
        json!({
            "name into null": invalid,
            "name into 1 byte": too_small,
            "untouched": true,
            "memory into null": invalid,
            "memory without a version": version,
            "no device": invalid,
            "a wild device": invalid,
            "index 99": invalid,
            "another UUID": not_found,
            "no PCI address": invalid,
            "temperature": unsupported,
            "temperature of a wild device": invalid,
            "power": unsupported,
            "MIG": unsupported,
            "a field": [0, unsupported],
            "a negative number of fields": invalid,
            "clearing the ECC counts": unsupported,
        })
    );
    probe.end()?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn a_channel_lasts_from_the_first_init_to_the_last_shutdown() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("counted")?;
    let workers = |host: &Host, count: usize| {
        wait_until(&format!("there are {count} workers"), || {
            Ok(host.workers()?.len() == count)
        })
    };
    let mut probe = Probe::start(&host, &guest)?;
    let (uninitialized, driver_not_loaded) = (1, 9);
    assert_eq!(probe.ask("shutdown")?, uninitialized);
    assert_eq!(probe.ask("memory")?["nvml"]["code"], uninitialized);
    assert_eq!(host.workers()?.len(), 0);
    assert_eq!(probe.ask("init")?, 0);
    assert_eq!(probe.ask("init")?, 0);
    workers(&host, 1)?;
    assert_eq!(probe.ask("shutdown")?, 0);
    assert_eq!(probe.ask("nvml")?["codes"], json!([0, 0, 0]));
    workers(&host, 1)?;
    assert_eq!(probe.ask("shutdown")?, 0);
    workers(&host, 0)?;
    assert_eq!(probe.ask("shutdown")?, uninitialized);
    // And again, as libraries in one program do. CUDA has a channel of its own.
    assert_eq!(probe.ask("init")?, 0);
    assert_eq!(probe.ask("cuda")?["codes"], json!([0, 0, 0]));
    workers(&host, 2)?;
    assert_eq!(probe.ask("shutdown")?, 0);
    workers(&host, 1)?;
    assert_eq!(probe.ask("alloc 4096")?[0], 0);
    probe.end()?;
    workers(&host, 0)?;
    // Without a device there is no NVML either.
    let mut probe = Probe::start(&host, &guest)?;
    host.destroy(guest)?;
    assert_eq!(probe.ask("init")?, driver_not_loaded);
    assert_eq!(probe.ask("shutdown")?, uninitialized);
    probe.end()?;
    host.check_clean()
}

#[test]
fn threads_initialise_ask_and_shut_down_as_they_like() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("threaded")?;
    let mut probe = Probe::start(&host, &guest)?;
    // Whoever is last closes the channel, and the next one opens another.
    assert_eq!(probe.ask("threads")?, json!({ "0": 8 * 10 * 4 }));
    assert_eq!(probe.ask("shutdown")?, 1);
    // With a user who stays.
    assert_eq!(probe.ask("init")?, 0);
    assert_eq!(probe.ask("threads")?, json!({ "0": 8 * 10 * 4 }));
    wait_until("there is one worker", || Ok(host.workers()?.len() == 1))?;
    assert_eq!(probe.ask("shutdown")?, 0);
    probe.end()?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn a_child_that_is_forked_after_nvml_has_both_libraries() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("forking")?;
    let mut probe = Probe::start(&host, &guest)?;
    assert_eq!(probe.ask("init")?, 0);
    let count = probe.ask("nvml")?["devices"]
        .as_array()
        .context("no devices")?
        .len();
    for _ in 0..2 {
        assert_eq!(probe.ask("fork")?, count);
    }
    // The parent's is as it was.
    assert_eq!(probe.ask("nvml")?["codes"], json!([0, 0, 0]));
    wait_until("the children's workers have ended", || {
        Ok(host.workers()?.len() == 1)
    })?;
    assert_eq!(probe.ask("shutdown")?, 0);
    wait_until("the parent's worker has ended", || {
        Ok(host.workers()?.is_empty())
    })?;
    probe.end()?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn a_monitor_outlives_its_worker() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("patient")?;
    let mut probe = Probe::start(&host, &guest)?;
    assert_eq!(probe.ask("init")?, 0);
    let before = probe.ask("nvml")?;
    let worker = *host.workers()?.first().context("no worker")?;
    let pid = rustix::process::Pid::from_raw(worker).context("no process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    wait_until("the worker is gone", || {
        Ok(!host.workers()?.contains(&worker))
    })?;
    assert_eq!(probe.ask("nvml")?, before);
    assert_eq!(host.workers()?.len(), 1);
    assert_eq!(probe.ask("shutdown")?, 0);
    probe.end()?;
    host.destroy(guest)?;
    host.check_clean()
}
