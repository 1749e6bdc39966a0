//! Runs an experiment for real: the product on this machine, a guest for each domain, and in it vgpu-load, which
//! writes down when its kernels ran. The truth is theirs; backd's books and its trace are taken beside it.
//! Must be light: the device of softcuda is this machine's processor.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::time::{ClockId, clock_gettime};
use vgpu_e2e::{Bundle, Driver, Guest, Host};
use vgpu_load::Report;
use vgpu_protocol::admin::{Command as Question, DomainStats, Reply, ShareChange, Stats};
use vgpu_sched::trace::{Entry, Work};
use vgpu_sched::{CpuState, Engine, MILLISECOND, Nanos, PolicyKind, SECOND, Share};
use xen::DomId;
use xen::local::schedule::{Schedule, Vcpu, VcpuState};

use crate::domain::Domain;
use crate::run::{Counted, Had, Piece, Place, Run};

/// How long a program may take to be ready, and to end after its time.
const PATIENCE: Duration = Duration::from_secs(120);
/// From telling the programs when to start until they do.
const NOTICE: Nanos = 200 * MILLISECOND;
/// After the end, until backd has drained what workers report.
const DRAIN: Duration = Duration::from_millis(400);

/// What is run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The product.
    pub bundle: Option<Bundle>,
    /// The driver.
    pub driver: Driver,
}

/// The product on this machine.
pub struct Real {
    setup: Setup,
    host: Host,
    /// Runs so far: no two domains have the same name.
    runs: u32,
}

/// A program that is dropped is killed.
struct Program {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    ready: Receiver<()>,
    output: Option<JoinHandle<Option<String>>>,
    errors: Option<JoinHandle<Option<String>>>,
}

impl Real {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If there is no bundle, or a daemon does not start.
    pub fn start(setup: &Setup) -> Result<Real> {
        Ok(Real {
            host: start(setup)?,
            setup: setup.clone(),
            runs: 0,
        })
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// If something of a guest is left.
    pub fn stop(self) -> Result<()> {
        self.host.check_clean()
    }

    /// Runs these domains under a policy. After a run that fails the product is started anew for the next.
    ///
    /// # Errors
    ///
    /// If a program fails or says something that cannot be, with what all daemons have said.
    pub fn run(
        &mut self,
        experiment: &str,
        domains: &[Domain],
        policy: PolicyKind,
        duration: Nanos,
        seed: u64,
    ) -> Result<Run> {
        let run = self.attempt(experiment, domains, policy, duration, seed);
        if run.is_err() {
            self.host = start(&self.setup)?;
        }
        run
    }

    fn attempt(
        &mut self,
        experiment: &str,
        domains: &[Domain],
        policy: PolicyKind,
        duration: Nanos,
        seed: u64,
    ) -> Result<Run> {
        self.runs += 1;
        let socket = self.host.admin_socket();
        ask(
            &socket,
            &Question::Policy {
                gpu: None,
                policy: policy.name().to_owned(),
            },
        )?;
        let mut guests = Vec::new();
        for domain in domains {
            let name = format!("r{}{}", self.runs, domain.name);
            let guest = self
                .host
                .guest_described(&name, &description(&domain.share))?;
            guests.push(guest);
        }
        let result = self.load(domains, &guests, policy, duration, seed);
        for guest in guests {
            self.host.destroy(guest)?;
        }
        let (device, domains, trace) = result.with_context(|| self.host.all_logs())?;
        Ok(Run {
            experiment: experiment.to_owned(),
            policy,
            place: Place::Real,
            duration,
            device,
            held: None,
            domains,
            trace,
        })
    }

    /// Runs the programs in their guests; the device's name, what each had, and the trace.
    fn load(
        &self,
        domains: &[Domain],
        guests: &[Guest],
        policy: PolicyKind,
        duration: Nanos,
        seed: u64,
    ) -> Result<(String, Vec<Had>, Vec<Work>)> {
        let socket = self.host.admin_socket();
        let hypervisor = Schedule::path(&self.host.platform_folder());
        let domids: Vec<u16> = guests.iter().map(|guest| guest.domid).collect();
        let changes = changes(domains, &domids);
        // What holds from the beginning.
        for change in changes.iter().filter(|change| change.at == 0) {
            change.make(&socket, &hypervisor)?;
        }
        let mut programs = Vec::new();
        for (index, (domain, guest)) in domains.iter().zip(guests).enumerate() {
            let mut load = domain.load.clone();
            load.seed = seed.wrapping_mul(1000).wrapping_add(index as u64);
            let mut command = self.host.in_guest(guest, "vgpu-load");
            command.args(load.arguments()).args(["--hold", "--json"]);
            programs.push(Program::start(&domain.name, &mut command)?);
        }
        for program in &mut programs {
            program.ready()?;
        }
        let before = stats(&socket)?;
        let recording = Recording::start(&socket, duration)?;
        let start = now() + NOTICE;
        for (program, domain) in programs.iter_mut().zip(domains) {
            let until = domain.until.min(duration);
            program.tell(&format!("{} {}\n", start + domain.from, start + until))?;
        }
        for change in changes
            .iter()
            .filter(|change| (1..duration).contains(&change.at))
        {
            thread::sleep(Duration::from_nanos(
                (start + change.at).saturating_sub(now()),
            ));
            change.make(&socket, &hypervisor)?;
        }
        thread::sleep(Duration::from_nanos(
            (start + duration).saturating_sub(now()),
        ));
        let mut reports = Vec::new();
        for program in programs {
            reports.push(program.end()?);
        }
        thread::sleep(DRAIN);
        let after = stats(&socket)?;
        let mut trace = recording.end()?;
        if let Some(gpu) = after.gpus.first() {
            ensure!(
                gpu.policy == policy.name(),
                "the policy is {} instead of {policy}",
                gpu.policy
            );
        }
        let device = reports
            .first()
            .map(|report| report.device.clone())
            .unwrap_or_default();
        let counts = |stats: &Stats, domid: u16| -> DomainStats {
            let gpus = stats.gpus.iter().flat_map(|gpu| &gpu.domains);
            let mut found = gpus.filter(|domain| domain.domid == domid);
            found.next().cloned().unwrap_or_default()
        };
        let had = domains
            .iter()
            .zip(guests)
            .zip(reports)
            .map(|((domain, guest), report)| {
                let work: Vec<&Work> = trace
                    .iter()
                    .filter(|work| work.domid == u32::from(guest.domid) && work.end_ns >= start)
                    .collect();
                let kernels = work.iter().filter(|work| work.engine == Engine::Compute);
                let (was, is) = (counts(&before, guest.domid), counts(&after, guest.domid));
                let counted = Counted {
                    kernels_ns: is.kernel_ns - was.kernel_ns,
                    copies_ns: is.copy_ns - was.copy_ns,
                    launches: is.launches - was.launches,
                    bytes: is.bytes - was.bytes,
                    waited_ns: is.kernel_waited_ns - was.kernel_waited_ns,
                    turns: is.kernel_turns - was.kernel_turns,
                    traced_launches: kernels.clone().map(|work| u64::from(work.pieces)).sum(),
                    traced_ns: kernels.map(|work| work.busy_ns).sum(),
                };
                let from_start = |time: u64| time.saturating_sub(start);
                let pieces = if domain.engine() == Engine::Compute {
                    let kernels = report.kernels.iter();
                    kernels
                        .map(|kernel| Piece {
                            submitted: from_start(kernel.submitted),
                            start: from_start(kernel.start),
                            end: from_start(kernel.end),
                            done: from_start(kernel.done),
                        })
                        .collect()
                } else {
                    // Nothing on the device writes down when a copy ran: the trace says it.
                    let copies = work.iter().filter(|work| work.engine == Engine::Copy);
                    copies
                        .map(|work| Piece {
                            submitted: from_start(work.arrived_ns.min(work.start_ns)),
                            start: from_start(work.start_ns),
                            end: from_start(work.end_ns),
                            done: from_start(work.end_ns),
                        })
                        .collect()
                };
                Had {
                    domain: domain.clone(),
                    pieces,
                    bytes: report.copies.iter().map(|copy| copy.bytes).sum(),
                    cpu_ns: report.cpu_ns,
                    counted,
                }
            });
        let had = had.collect();
        trace.retain_mut(|work| {
            for time in [&mut work.arrived_ns, &mut work.start_ns, &mut work.end_ns] {
                *time = time.saturating_sub(start);
            }
            work.end_ns > 0
        });
        Ok((device, had, trace))
    }
}

/// Starts the product, until it can be asked.
fn start(setup: &Setup) -> Result<Host> {
    let bundle = match &setup.bundle {
        Some(bundle) => bundle.clone(),
        None => Bundle::find()?,
    };
    let host = Host::start(&bundle, setup.driver)?;
    let socket = host.admin_socket();
    vgpu_e2e::wait_until("backd knows the device", || {
        Ok(!stats(&socket)?.gpus.is_empty())
    })
    .with_context(|| host.all_logs())?;
    Ok(host)
}

/// A share as a domain's file says it.
fn description(share: &Share) -> String {
    let mut text = format!("weight = {}\n", share.weight);
    if let Some(cap) = share.cap {
        text += &format!("cap = {cap}\n");
    }
    if let Some(latency) = share.latency {
        text += &format!("latency_ms = {}\n", latency.div_ceil(MILLISECOND));
    }
    text
}

/// Something that changes while an experiment runs.
#[derive(Default)]
struct Change {
    at: Nanos,
    /// What the administrator sets.
    shares: Vec<(u16, Share)>,
    /// What the hypervisor says: weight, and whether and how long the processor has run.
    cpu: Vec<(DomId, CpuState)>,
}

/// What changes, in order; what changes at the same time is one change.
fn changes(domains: &[Domain], domids: &[u16]) -> Vec<Change> {
    let mut changes = BTreeMap::<Nanos, Change>::new();
    for (domain, &domid) in domains.iter().zip(domids) {
        for &(at, share) in &domain.shares {
            changes.entry(at).or_default().shares.push((domid, share));
        }
        for &(at, state) in &domain.cpu {
            let change = changes.entry(at).or_default();
            change.cpu.push((DomId(domid), state));
        }
    }
    for (at, change) in &mut changes {
        change.at = *at;
    }
    changes.into_values().collect()
}

impl Change {
    fn make(&self, socket: &Path, hypervisor: &Path) -> Result<()> {
        for &(domid, share) in &self.shares {
            let share = ShareChange {
                weight: Some(share.weight),
                cap: Some(share.cap.unwrap_or(0)),
                latency_ms: Some(share.latency.unwrap_or(0).div_ceil(MILLISECOND) as u32),
                ..ShareChange::default()
            };
            ask(socket, &Question::Set { domid, share })?;
        }
        if !self.cpu.is_empty() {
            Schedule::change(hypervisor, |schedule| {
                for (domid, state) in &self.cpu {
                    let domain = schedule.domain_mut(*domid);
                    domain.weight = state.weight.try_into().unwrap_or(u16::MAX);
                    domain.cap = state.cap.unwrap_or(0).try_into().unwrap_or(u16::MAX);
                    domain.vcpus = vec![Vcpu {
                        state: match state.running {
                            true => VcpuState::Running,
                            false => VcpuState::Runnable,
                        },
                        cpu_time_ns: state.used,
                    }];
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Program {
    fn start(name: &str, command: &mut Command) -> Result<Program> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let (tell, ready) = channel();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let output = thread::spawn(move || {
            let mut lines = BufReader::new(stdout.into_iter().next()?);
            let mut text = String::new();
            lines.read_line(&mut text).ok()?;
            // Nobody waits for it any more if the run has failed.
            let _ = tell.send(());
            text.clear();
            lines.read_to_string(&mut text).ok()?;
            Some(text)
        });
        let errors = thread::spawn(move || {
            let mut text = String::new();
            stderr.into_iter().next()?.read_to_string(&mut text).ok()?;
            Some(text)
        });
        Ok(Program {
            name: name.to_owned(),
            input: child.stdin.take(),
            child,
            ready,
            output: Some(output),
            errors: Some(errors),
        })
    }

    /// Waits until it has its device.
    fn ready(&mut self) -> Result<()> {
        if self.ready.recv_timeout(PATIENCE).is_err() || self.child.try_wait()?.is_some() {
            let said = self.said();
            bail!("the program of {} did not get ready: {said}", self.name);
        }
        Ok(())
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("a program has no input")?;
        Ok(input.write_all(line.as_bytes())?)
    }

    /// Waits for its end; what it reports.
    fn end(mut self) -> Result<Report> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(
                Instant::now() < deadline,
                "the program of {} does not end",
                self.name
            );
            thread::sleep(Duration::from_millis(20));
        };
        let output = self.output.take().map(JoinHandle::join);
        if !status.success() {
            let said = self.said();
            bail!("the program of {} ended with {status}: {said}", self.name);
        }
        let text = output.and_then(Result::ok).flatten().unwrap_or_default();
        serde_json::from_str(&text)
            .with_context(|| format!("what the program of {} reports", self.name))
    }

    /// What it wrote to its standard error, after its end.
    fn said(&mut self) -> String {
        let _ = self.child.kill();
        let errors = self.errors.take().map(JoinHandle::join);
        let text = errors.and_then(Result::ok).flatten();
        text.unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A trace that backd is telling.
struct Recording {
    stream: UnixStream,
    lines: JoinHandle<Result<Vec<Work>>>,
}

impl Recording {
    /// Of a run of this length, and of as long as its programs may take to end.
    fn start(socket: &Path, duration: Nanos) -> Result<Recording> {
        let seconds = duration.div_ceil(SECOND) + PATIENCE.as_secs();
        let stream = question(
            socket,
            &Question::Record {
                seconds: u32::try_from(seconds)?,
            },
        )?;
        let lines = BufReader::new(stream.try_clone()?).lines();
        let lines = thread::spawn(move || {
            let mut work = Vec::new();
            for line in lines {
                let line = line?;
                match serde_json::from_str::<Entry>(&line) {
                    Ok(Entry::Work(one)) => work.push(one),
                    Ok(_) => {}
                    Err(error) => bail!("backd records {line:?}, which is no event: {error}"),
                }
            }
            Ok(work)
        });
        Ok(Recording { stream, lines })
    }

    /// Ends it; what was recorded.
    fn end(self) -> Result<Vec<Work>> {
        self.stream.shutdown(Shutdown::Both)?;
        match self.lines.join() {
            Ok(work) => work,
            Err(_) => bail!("the thread that takes backd's recording panicked"),
        }
    }
}

fn question(socket: &Path, question: &Question) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("asking backd at {}", socket.display()))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(stream)
}

/// Asks backd; an error of its own is one.
fn ask(socket: &Path, what: &Question) -> Result<Reply> {
    let stream = question(socket, what)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .context("waiting for backd's answer")?;
    match serde_json::from_str(&line).with_context(|| format!("backd answers {line:?}"))? {
        Reply::Error { error } => bail!("backd refuses {what:?}: {error}"),
        reply => Ok(reply),
    }
}

fn stats(socket: &Path) -> Result<Stats> {
    match ask(socket, &Question::Stats)? {
        Reply::Stats(stats) => Ok(stats),
        other => bail!("backd answers {other:?} when it is asked for what domains had"),
    }
}

fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * SECOND + time.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_sched::description::Description;

    #[test]
    fn what_changes_at_once_is_one_change() {
        let domains = [
            Domain::kernels("a", 1)
                .cpu_weight(0, 256)
                .weight_from(SECOND, 5),
            Domain::kernels("b", 1).cpu_slot(0, 2, SECOND, SECOND),
        ];
        let changes = changes(&domains, &[7, 8]);
        let seen: Vec<_> = changes
            .iter()
            .map(|change| (change.at, change.shares.len(), change.cpu.len()))
            .collect();
        assert_eq!(seen, [(0, 0, 2), (SECOND, 1, 1)]);
        assert_eq!(changes[1].shares[0].0, 7);
        assert_eq!(changes[1].cpu[0].0, DomId(8));
    }

    #[test]
    fn a_share_is_written_as_a_domains_file_has_it() {
        let share = Share {
            weight: 300,
            cap: Some(20),
            latency: Some(150 * MILLISECOND),
        };
        let text = description(&share);
        assert_eq!(Description::parse(&text).unwrap().share(), share);
    }
}
