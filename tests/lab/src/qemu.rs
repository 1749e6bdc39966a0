//! The machine: QEMU's software CPU with the hypervisor, dom0's kernel and dom0's image, and what its console says.
//! A machine never outlives the process that started it, and never touches a file of the host but a temporary folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Options;
use crate::cache::{Cache, decompress};
use crate::image::Image;

/// What dom0's and the guests' kernels leave out: self-tests, memory hygiene and watchdogs that in software emulation
/// take longer than all else, and whose complaints here are only about being slow.
pub(crate) const KERNEL_OPTIONS: &str = "cryptomgr.notests=1 apparmor=0 audit=0 init_on_alloc=0 rodata=off \
    mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1 random.trust_cpu=on pci=noearly";

/// What a run prints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Show {
    /// The checks, and one line that moves.
    Checks,
    /// The whole console, each line behind the seconds since the start and the seconds of CPU used.
    Console,
    /// Nothing.
    Nothing,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// dom0's exit status.
    pub status: i32,
    /// Checks that held.
    pub passed: Vec<String>,
    /// Checks that did not.
    pub failed: Vec<String>,
    /// What scripts handed out with `output NAME`, line by line.
    pub outputs: BTreeMap<String, Vec<String>>,
    /// The whole console of dom0 and the hypervisor, with the guests' consoles as dom0 showed them.
    pub console: Vec<String>,
    /// From the start until dom0's toolstack was up.
    pub boot: Duration,
    /// From the start to the end.
    pub total: Duration,
    /// Of the host's CPUs, which says more than time where other things run too.
    pub cpu: Duration,
}

impl Outcome {
    /// True if dom0 ended well, there was a check and no check failed.
    pub fn success(&self) -> bool {
        self.status == 0 && self.failed.is_empty() && !self.passed.is_empty()
    }
}

/// What a line of the console means to a run.
#[derive(Debug, Eq, PartialEq)]
enum Line<'a> {
    Up,
    Exit(i32),
    Passed(&'a str),
    Failed(&'a str),
    Output(&'a str, &'a str),
    Other,
}

impl Line<'_> {
    fn of(line: &str) -> Line<'_> {
        // A line of a guest's console stands behind its name in brackets.
        let plain = match line
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("] "))
        {
            Some((_, rest)) => rest,
            None => line,
        };
        if line.starts_with("LAB up ") {
            Line::Up
        } else if let Some(status) = line.strip_prefix("LAB exit ") {
            status.trim().parse().map_or(Line::Other, Line::Exit)
        } else if plain.starts_with("ok - ") {
            Line::Passed(line)
        } else if plain.starts_with("not ok - ") {
            Line::Failed(line)
        } else if let Some((name, text)) = plain
            .strip_prefix("LABOUT ")
            .and_then(|rest| rest.split_once(' '))
        {
            Line::Output(name, text)
        } else {
            Line::Other
        }
    }
}

/// A machine ready to start; its files are in a temporary folder.
#[derive(Debug)]
pub(crate) struct Machine {
    folder: tempfile::TempDir,
    kernel: PathBuf,
}

impl Machine {
    pub(crate) fn new(cache: &Cache, dom0: &Image) -> Result<Machine> {
        let folder = tempfile::Builder::new()
            .prefix("xen-lab-")
            .tempdir()
            .context("making a temporary folder")?;
        let hypervisor = cache.hypervisor()?;
        fs::write(
            folder.path().join("xen"),
            decompress(&fs::read(&hypervisor)?)?,
        )
        .with_context(|| format!("unpacking {}", hypervisor.display()))?;
        fs::write(folder.path().join("dom0.cpio"), dom0.pack()?).context("writing dom0's image")?;
        Ok(Machine {
            folder,
            kernel: cache.vmlinux()?,
        })
    }

    /// Runs to the end, reading the console.
    pub(crate) fn run(self, options: &Options) -> Result<Outcome> {
        let start = Instant::now();
        let mut command = self.command(options);
        command.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut machine = Running(spawn(&mut command)?);
        let (sender, lines) = channel();
        let stdout = machine.0.stdout.take().context("a piped stdout")?;
        let stderr = machine.0.stderr.take().context("a piped stderr")?;
        let errors = sender.clone();
        std::thread::spawn(move || {
            forward(BufReader::new(stdout), |line| sender.send(line).is_ok())
        });
        std::thread::spawn(move || {
            forward(BufReader::new(stderr), |line| {
                errors.send(format!("qemu: {line}")).is_ok()
            });
        });

        let shown = Progress::new(options.show);
        let mut outcome = Outcome {
            status: -1,
            passed: Vec::new(),
            failed: Vec::new(),
            outputs: BTreeMap::new(),
            console: Vec::new(),
            boot: Duration::ZERO,
            total: Duration::ZERO,
            cpu: Duration::ZERO,
        };
        let why = loop {
            let left = options.timeout.saturating_sub(start.elapsed());
            let line = match lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    break format!("no result within {} s", options.timeout.as_secs());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    break "the machine stopped before dom0 had a result".to_owned();
                }
            };
            let meaning = Line::of(&line);
            outcome.cpu = cpu_time(&machine.0).unwrap_or(outcome.cpu);
            shown.line([start.elapsed(), outcome.cpu], &line, &meaning);
            match meaning {
                Line::Up => outcome.boot = start.elapsed(),
                Line::Exit(status) => {
                    outcome.status = status;
                    outcome.total = start.elapsed();
                    outcome.console.push(line);
                    shown.done();
                    return Ok(outcome);
                }
                Line::Passed(check) => outcome.passed.push(check.to_owned()),
                Line::Failed(check) => outcome.failed.push(check.to_owned()),
                Line::Output(name, text) => outcome
                    .outputs
                    .entry(name.to_owned())
                    .or_default()
                    .push(text.to_owned()),
                Line::Other => {}
            }
            outcome.console.push(line);
        };
        shown.done();
        let tail = outcome.console.len().saturating_sub(40);
        bail!(
            "the lab: {why}; its console ended with\n{}",
            outcome.console[tail..].join("\n")
        )
    }

    /// Runs with this process's terminal as dom0's console, until the machine ends.
    pub(crate) fn interact(self, options: &Options) -> Result<()> {
        let mut command = self.command(options);
        // QEMU's monitor shares the terminal, behind Ctrl-a; it sets the terminal to raw and back.
        command.args(["-display", "none", "-serial", "mon:stdio"]);
        let status = Running(spawn(&mut command)?).0.wait()?;
        if !status.success() {
            bail!("qemu-system-x86_64 ended with {status}");
        }
        Ok(())
    }

    fn command(&self, options: &Options) -> Command {
        let Options {
            cpus,
            memory_mib,
            dom0_memory_mib,
            ..
        } = options;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35", "-nodefaults", "-no-reboot", "-accel", "tcg,thread=multi"])
            // SMAP and SMEP: QEMU's iret faults on them in a PV dom0. RDTSCP: Xen cannot tell its length when it
            // emulates it for PVH and HVM guests on QEMU's SVM, and the guest loops.
            .args(["-cpu", "max,-smap,-smep,-rdtscp"])
            .args(["-smp", &cpus.to_string(), "-m", &memory_mib.to_string()])
            .arg("-kernel")
            .arg(self.folder.path().join("xen"))
            .arg("-append")
            // Without eager-fpu (which spec-ctrl=no turns off) guests' vector registers get mixed up in emulation, and
            // programs fail at random.
            .arg(format!(
                "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=warning bootscrub=no spec-ctrl=no,eager-fpu=yes \
                 dom0_mem={dom0_memory_mib}M,max:{dom0_memory_mib}M dom0_max_vcpus={cpus}"
            ))
            .arg("-initrd")
            .arg(format!(
                "{} console=hvc0 quiet {KERNEL_OPTIONS} lab.name=dom0,{}",
                self.kernel.display(),
                self.folder.path().join("dom0.cpio").display()
            ));
        command
    }
}

/// A machine under way: ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already over, or about to be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    // SAFETY: the closure runs between fork and exec and makes one system call, which is async-signal-safe; it
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            // A killed test must leave no machine behind.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        });
    }
    command
        .spawn()
        .context("cannot start qemu-system-x86_64: run `cargo xtask setup`")
}

/// How much of the CPUs a process has used so far: fields 14 and 15 of its `stat`, in ticks of 10 ms.
fn cpu_time(process: &Child) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).ok()?;
    // The name, in parentheses, may hold anything; after it comes field 3.
    let ticks = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    Some(Duration::from_millis(
        ticks
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum::<u64>()
            * 10,
    ))
}

/// Passes on line by line what is not always UTF-8, until the end or until nobody listens.
fn forward(mut from: impl BufRead, mut to: impl FnMut(String) -> bool) {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).replace(['\r', '\n'], "");
        if !to(text) {
            break;
        }
        line.clear();
    }
}

/// What the person sees of a run.
struct Progress {
    show: Show,
    bar: ProgressBar,
}

impl Progress {
    fn new(show: Show) -> Progress {
        let bar = match show {
            Show::Checks => ProgressBar::new_spinner(),
            Show::Console | Show::Nothing => ProgressBar::hidden(),
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} real Xen, {elapsed}: {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        bar.set_message("the hypervisor and dom0 start");
        Progress { show, bar }
    }

    fn line(&self, [wall, cpu]: [Duration; 2], line: &str, meaning: &Line<'_>) {
        match (self.show, meaning) {
            (Show::Console, _) => println!(
                "{:7.2} {:7.2} {line}",
                wall.as_secs_f64(),
                cpu.as_secs_f64()
            ),
            (Show::Checks, Line::Passed(_) | Line::Failed(_)) => {
                self.bar.suspend(|| println!("  {line}"))
            }
            (Show::Checks, Line::Up) => self.bar.set_message("dom0 is up"),
            (Show::Checks, _) if !line.trim().is_empty() => self.bar.set_message(line.to_owned()),
            _ => {}
        }
    }

    fn done(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(Line::of("LAB up 5.1"), Line::Up);
        assert_eq!(Line::of("LAB exit 3"), Line::Exit(3));
        assert_eq!(Line::of("LAB exit x"), Line::Other);
        assert_eq!(Line::of("ok - a"), Line::Passed("ok - a"));
        assert_eq!(Line::of("[pv] ok - a"), Line::Passed("[pv] ok - a"));
        assert_eq!(Line::of("[pv] not ok - a"), Line::Failed("[pv] not ok - a"));
        assert_eq!(Line::of("[dom0 pv] LABOUT x 1 2"), Line::Output("x", "1 2"));
        assert_eq!(Line::of("look - at"), Line::Other);
        assert_eq!(Line::of("[    0.0] ok"), Line::Other);
    }

    #[test]
    fn a_guest_cannot_end_the_run() {
        assert_eq!(Line::of("[pv] LAB exit 0"), Line::Other);
        assert_eq!(Line::of("[pv] LAB up 1"), Line::Other);
    }

    #[test]
    fn a_run_without_a_check_is_no_success() {
        let outcome = Outcome {
            status: 0,
            passed: Vec::new(),
            failed: Vec::new(),
            outputs: BTreeMap::new(),
            console: Vec::new(),
            boot: Duration::ZERO,
            total: Duration::ZERO,
            cpu: Duration::ZERO,
        };
        assert!(!outcome.success());
    }
}
