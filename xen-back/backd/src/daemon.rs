//! The daemon: sees domains come and go, gives those that have a file their device, and keeps a thread
//! for each device that there is, whoever made it.
//!
//! It looks at everything again whenever something changes, so that it does not matter what it missed.
//! It must never wait for a guest.

use crate::Error;
use crate::admin::{Admin, Service};
use crate::channels::Context;
use crate::config;
use crate::cpu::{self, Cpu, Need};
use crate::device::{Device, Handle, Order};
use crate::gpu::{Gpu, Recording, Sharing, recording};
use crate::limits::{Account, Limits};
use crate::placement::{Placement, Seat};
use crate::worker::Launcher;
use rustix::fs::inotify;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vgpu_protocol::admin::{Checked, Command, Done, Listing, Reply, ShareChange, Stats};
use vgpu_protocol::keys::{self, Created, DeviceError, DeviceId, Domain};
use vgpu_protocol::wait::{Wake, is_ready, wait_any};
use vgpu_sched::PolicyKind;
use vgpu_sched::description::{Description, SIZES, is_size, size_text};
use xen::{DomId, Platform, PlatformSpec, Store};

/// How long devices have to close when backd stops.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// How long a device rests whose thread has failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// How long after a failure the driver is asked for its devices again, at first and at most.
const PROBE_PAUSE: Duration = Duration::from_secs(2);
const PROBE_PAUSE_MOST: Duration = Duration::from_secs(60);

/// How often memory is held to what guarantees leave, where there are any.
const BALANCE: Duration = Duration::from_millis(100);

/// What backd is told on its command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where Xen is.
    pub platform: PlatformSpec,
    /// Where the domains' files are.
    pub config_dir: PathBuf,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// How workers are started.
    pub launcher: Launcher,
    /// The limits of each domain.
    pub per_domain: Limits,
    /// The limits of all domains together.
    pub total: Limits,
    /// How GPUs are shared.
    pub sharing: Sharing,
    /// By how many percent a domain's weight under the hypervisor's scheduler is raised while its work is on a GPU.
    pub cpu_boost: Option<u32>,
    /// Where raised weights are written down.
    pub cpu_boosts: PathBuf,
}

#[derive(Debug)]
struct Actor {
    handle: Arc<Handle>,
    seat: Arc<Seat>,
    /// What its domain's file said last.
    file: Result<Description, String>,
    thread: JoinHandle<()>,
}

/// The devices whose threads end.
#[derive(Debug)]
struct Ended {
    wake: Arc<Wake>,
    ids: Mutex<Vec<DeviceId>>,
}

type Registry = Arc<Mutex<BTreeMap<DeviceId, Arc<Handle>>>>;

#[derive(Debug)]
struct Daemon {
    platform: Arc<dyn Platform>,
    store: Store,
    own: DomId,
    config_dir: PathBuf,
    launcher: Arc<Launcher>,
    placement: Arc<Placement>,
    /// Tells when domains' files change; they are read again then.
    files: Option<OwnedFd>,
    ended: Arc<Ended>,
    actors: BTreeMap<DeviceId, Actor>,
    registry: Registry,
    cpu: Arc<Cpu>,
    /// The domains that were seen and given what they are due: number and UUID, as numbers come again.
    seen: BTreeSet<(DomId, String)>,
}

/// Serves the domains' devices until `stop` is readable.
///
/// # Errors
/// [`Error`], where nothing can be done without a new start: XenStore is gone, a socket is taken.
pub fn run(options: &Options, stop: BorrowedFd<'_>) -> Result<(), Error> {
    let platform = options.platform.open()?;
    let store = platform.store()?;
    let own = platform.domid()?;
    let admin = Admin::bind(&options.admin_socket)?;
    let registry = Registry::default();
    let end = Arc::new(Wake::new().map_err(Error::system("making an eventfd"))?);
    let ended = Arc::new(Ended {
        wake: Arc::new(Wake::new().map_err(Error::system("making an eventfd"))?),
        ids: Mutex::default(),
    });
    let placement = Arc::new(Placement::new(
        Account::new(options.per_domain, options.total),
        options.sharing,
        ended.wake.clone(),
    ));
    {
        let (launcher, placement, end) = (options.launcher.clone(), placement.clone(), end.clone());
        std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || probe(&launcher, &placement, &end))
            .map_err(Error::system("starting a thread"))?;
    }
    let cpu = Arc::new(ask_hypervisor(options, &store, &placement)?);
    let _undo = Undo(cpu.clone());
    let admin = {
        let end = end.clone();
        let tools = Tools {
            registry: registry.clone(),
            placement: placement.clone(),
            store: platform.store()?,
            cpu: cpu.clone(),
            standard: options.sharing.policy,
            policies: Mutex::default(),
        };
        std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || admin.serve(&end, &tools))
            .map_err(Error::system("starting a thread"))?
    };
    let mut daemon = Daemon {
        platform,
        store,
        own,
        config_dir: options.config_dir.clone(),
        launcher: Arc::new(options.launcher.clone()),
        placement,
        files: inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .inspect_err(|error| tracing::warn!(%error, "changes of domains' files are not seen"))
            .ok(),
        ended,
        actors: BTreeMap::new(),
        registry,
        cpu,
        seen: BTreeSet::new(),
    };
    let result = daemon.serve(stop);
    daemon.stop();
    end.wake();
    if admin.join().is_err() {
        tracing::error!("the thread that answers tools has failed");
    }
    result
}

/// Has raised weights undone when the daemon ends, by a panic too, whoever else still has the [`Cpu`].
struct Undo(Arc<Cpu>);

impl Drop for Undo {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Starts to ask the hypervisor for what the policy needs of it.
fn ask_hypervisor(
    options: &Options,
    store: &Store,
    placement: &Arc<Placement>,
) -> Result<Cpu, Error> {
    let living: Vec<_> = keys::list_domains(store)?
        .into_iter()
        .map(|domain| (domain.domid, domain.uuid))
        .collect();
    let placement = placement.clone();
    let sink = move |states: &[(DomId, vgpu_sched::CpuState)]| {
        let gpus = placement.gpus();
        for (domid, state) in states {
            for gpu in &gpus {
                gpu.cpu(domid.0, *state);
            }
        }
    };
    let cpu = cpu::Options {
        platform: options.platform.clone(),
        boost: options.cpu_boost,
        boosts: options.cpu_boosts.clone(),
    };
    let cpu = Cpu::start(cpu, &living, Box::new(sink))?;
    cpu.need(Need::of(options.sharing.policy))?;
    Ok(cpu)
}

/// Finds out which GPUs there are, as often as it takes.
fn probe(launcher: &Launcher, placement: &Placement, end: &Wake) {
    let mut pause = PROBE_PAUSE;
    let mut said = String::new();
    loop {
        let why = match launcher.probe() {
            Ok(gpus) if gpus.is_empty() => "the driver has no devices".to_owned(),
            Ok(gpus) => {
                for (number, gpu) in gpus.iter().enumerate() {
                    let memory = size_text(gpu.memory);
                    let context = size_text(gpu.context);
                    tracing::info!(
                        gpu = number,
                        uuid = gpu.uuid,
                        name = gpu.name,
                        memory,
                        context,
                        "found"
                    );
                }
                return placement.found(&gpus);
            }
            Err(error) => error.to_string(),
        };
        if why != said {
            tracing::warn!(
                "which GPUs there are is not known, nothing of them can be guaranteed; trying again: {why}"
            );
        }
        placement.not_found(&why);
        said = why;
        let deadline = Instant::now().checked_add(pause);
        if wait_any(&[end.as_fd()], deadline).is_err() || is_ready(end) {
            return;
        }
        pause = pause.saturating_mul(2).min(PROBE_PAUSE_MOST);
    }
}

/// What tools can have.
#[derive(Debug)]
struct Tools {
    registry: Registry,
    placement: Arc<Placement>,
    store: Store,
    cpu: Arc<Cpu>,
    /// The policy at the start.
    standard: PolicyKind,
    /// The policies of GPUs that have another one.
    policies: Mutex<BTreeMap<u32, PolicyKind>>,
}

impl Service for Tools {
    fn answer(&self, command: Command) -> Reply {
        let answer = match command {
            Command::List => {
                let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
                let devices = registry.values().map(|handle| handle.info()).collect();
                Ok(Reply::Listing(Listing { devices }))
            }
            Command::Stats => self.stats().map(Reply::Stats),
            Command::Policy { gpu, policy } => self.switch(gpu, &policy).map(Reply::Done),
            Command::Set { domid, share } => self.set(domid, share).map(Reply::Done),
            Command::Check { name, description } => {
                self.check(&name, &description).map(Reply::Checked)
            }
            Command::Record { .. } => Err("a recording has no one answer".to_owned()),
        };
        answer.unwrap_or_else(|error| Reply::Error { error })
    }

    fn record(&self) -> Result<Recording, String> {
        let (recorder, recording) = recording();
        for gpu in self.placement.gpus() {
            gpu.record(recorder.clone());
        }
        Ok(recording)
    }
}

impl Tools {
    fn stats(&self) -> Result<Stats, String> {
        let mut gpus = Vec::new();
        for gpu in self.placement.gpus() {
            let number = gpu.number();
            let mut stats = gpu.stats().ok_or_else(|| {
                format!("the thread of GPU {number} does not answer; see vgpu-backd's log")
            })?;
            stats.memory = self.placement.memory(number);
            for domain in &mut stats.domains {
                let Some(seat) = self.placement.find(domain.domid) else {
                    continue;
                };
                let wish = seat.wish().unwrap_or_default();
                let ordinal = seat.gpus().iter().position(|on| *on == number);
                domain.memory_used = seat.quota().used(ordinal.unwrap_or(0));
                domain.memory_quota = wish.memory;
                domain.guaranteed = wish.guaranteed;
            }
            gpus.push(stats);
        }
        Ok(Stats {
            gpus,
            hypervisor: self.cpu.stats(),
        })
    }

    fn check(&self, name: &str, text: &str) -> Result<Checked, String> {
        let wish = Description::parse(text).map_err(|error| error.to_string())?;
        let domains = keys::list_domains(&self.store).map_err(|error| error.to_string())?;
        let known = domains
            .iter()
            .find(|domain| domain.name == name || domain.uuid == name);
        let checked = self
            .placement
            .check(known.map(|domain| domain.domid.0), &wish);
        Ok(match checked {
            Ok(would_be_on) => Checked {
                would_be_on,
                missing: String::new(),
            },
            Err(missing) => Checked {
                would_be_on: Vec::new(),
                missing,
            },
        })
    }

    fn switch(&self, gpu: Option<u32>, policy: &str) -> Result<Done, String> {
        let kind: PolicyKind = policy.parse().map_err(|error| format!("{error}"))?;
        let wanted = |has: &&Arc<Gpu>| gpu.is_none_or(|gpu| gpu == has.number());
        let all = self.placement.gpus();
        let mut gpus = all.iter().filter(wanted).peekable();
        if let (Some(gpu), None) = (gpu, gpus.peek()) {
            return Err(format!("there is no GPU {gpu}"));
        }
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |gpu: &Arc<Gpu>| policies.get(&gpu.number()).copied();
        let mut chosen: BTreeMap<u32, PolicyKind> = all
            .iter()
            .map(|gpu| (gpu.number(), own(gpu).unwrap_or(self.standard)))
            .collect();
        let gpus: Vec<_> = gpus.collect();
        chosen.extend(gpus.iter().map(|gpu| (gpu.number(), kind)));
        let need = chosen.values().copied().map(Need::of).max();
        self.cpu
            .need(need.unwrap_or_default())
            .map_err(|error| format!("the policy stays as it is: {error}"))?;
        for gpu in gpus {
            tracing::info!(gpu = gpu.number(), policy, "another policy is in force");
            gpu.switch(kind);
        }
        *policies = chosen;
        Ok(Done::default())
    }

    fn set(&self, domid: u16, change: ShareChange) -> Result<Done, String> {
        let seat = self.placement.find(domid);
        let seat = seat.ok_or_else(|| format!("domain {domid} has no device here"))?;
        seat.revise(|wish| changed(wish?, change))?;
        tracing::info!(domid, ?change, "another share");
        Ok(Done::default())
    }
}

/// What a domain asks for after a change.
fn changed(mut wish: Description, change: ShareChange) -> Result<Description, String> {
    let wrong = |value: Option<u32>, range: RangeInclusive<u32>| {
        value.is_some_and(|value| !range.contains(&value))
    };
    if wrong(change.weight, 1..=65_535) {
        return Err("a weight is 1 to 65535".to_owned());
    }
    if wrong(change.cap, 0..=100) {
        return Err("a cap is 1 to 100 percent, or 0 for none".to_owned());
    }
    if wrong(change.guaranteed, 0..=100) {
        return Err("a guarantee is 1 to 100 percent, or 0 for none".to_owned());
    }
    if change
        .memory
        .is_some_and(|bytes| bytes != 0 && !is_size(bytes))
    {
        return Err(format!("a memory quota is {SIZES}; or 0 for none"));
    }
    let none_if_0 = |value: u32| (value != 0).then_some(value);
    wish.weight = change.weight.or(wish.weight);
    wish.cap = change.cap.map_or(wish.cap, none_if_0);
    wish.latency = change.latency_ms.map_or(wish.latency, |ms| {
        none_if_0(ms).map(|ms| u64::from(ms).saturating_mul(vgpu_sched::MILLISECOND))
    });
    wish.guaranteed = change.guaranteed.map_or(wish.guaranteed, none_if_0);
    wish.memory = change
        .memory
        .map_or(wish.memory, |bytes| (bytes != 0).then_some(bytes));
    wish.check().map_err(|error| error.to_string())?;
    Ok(wish)
}

impl Daemon {
    fn serve(&mut self, stop: BorrowedFd<'_>) -> Result<(), Error> {
        let watches = [
            self.store.watch("@introduceDomain")?,
            self.store.watch("@releaseDomain")?,
            self.store.watch(&keys::backends_dir(self.own))?,
        ];
        tracing::info!(platform = self.platform.name(), domid = %self.own, "vgpu-backd is ready");
        loop {
            // Taken before looking, so that what comes later is looked at once more.
            self.ended.wake.clear();
            for watch in &watches {
                while watch.next(Some(Duration::ZERO))?.is_some() {}
            }
            let files = self.files_changed();
            self.reap();
            self.look(files)?;
            if is_ready(stop) {
                return Ok(());
            }
            let mut fds: Vec<_> = watches.iter().map(|watch| watch.poll_fd()).collect();
            fds.extend([stop, self.ended.wake.as_fd()]);
            fds.extend(self.files.as_ref().map(|files| files.as_fd()));
            loop {
                let deadline = match self.placement.balance() {
                    true => Instant::now().checked_add(BALANCE),
                    false => None,
                };
                wait_any(&fds, deadline).map_err(Error::system("waiting for XenStore"))?;
                if fds.iter().any(is_ready) {
                    break;
                }
            }
        }
    }

    /// Whether domains' files may have changed.
    fn files_changed(&self) -> bool {
        let Some(files) = &self.files else {
            return false;
        };
        let mut changed = false;
        let mut events = [0; 4096];
        while rustix::io::read(files, &mut events).is_ok_and(|read| read > 0) {
            changed = true;
        }
        use inotify::WatchFlags as On;
        let on = On::CLOSE_WRITE | On::MOVED_TO | On::MOVED_FROM | On::DELETE;
        // The same watch where there is one; none where there is no such folder, which may come.
        let _ = inotify::add_watch(files, &self.config_dir, on);
        changed
    }

    /// What a domain's file says.
    fn wish(&self, domain: &Domain) -> Result<Description, String> {
        config::find(&self.config_dir, domain)
            .map(Option::unwrap_or_default)
            .map_err(|error| error.to_string())
    }

    /// Puts in force what domains' files say by now.
    fn reread(&mut self, domains: &[Domain]) {
        let mut read = Vec::new();
        for (id, actor) in &self.actors {
            let Some(domain) = domains.iter().find(|domain| domain.domid == id.frontend) else {
                continue;
            };
            let file = self.wish(domain);
            if file == actor.file {
                continue;
            }
            match &file {
                Ok(wish) => match actor.seat.change(wish.clone()) {
                    Ok(()) => {
                        tracing::info!(device = %id, domain = domain.name, "its file holds from now on")
                    }
                    Err(missing) => tracing::error!(
                        device = %id, domain = domain.name,
                        "its file has changed and does not hold, for what it asks is not there: {missing}"
                    ),
                },
                Err(error) => {
                    tracing::error!(device = %id, domain = domain.name, "{error}; what held before holds on");
                    actor.seat.wrong(error.clone());
                }
            }
            read.push((*id, file));
        }
        for (id, file) in read {
            if let Some(actor) = self.actors.get_mut(&id) {
                actor.file = file;
            }
        }
    }

    /// Brings devices and threads in line with the domains that there are, and with their files.
    fn look(&mut self, files: bool) -> Result<(), Error> {
        let mut domains = keys::list_domains(&self.store)?;
        // When @releaseDomain fires, the toolstack has not removed a dead domain's nodes yet, and
        // nothing tells when it has: xenstored knows who lives.
        let mut living = BTreeSet::new();
        for domain in &domains {
            if domain.domid == self.own || self.store.is_introduced(domain.domid)? {
                living.insert(domain.domid);
            }
        }
        domains.retain(|domain| living.contains(&domain.domid));
        let present: BTreeSet<_> = domains.iter().map(|d| (d.domid, d.uuid.clone())).collect();
        let gone = |domid: DomId, seen: &BTreeSet<(DomId, String)>| {
            // Gone, or another by the same number.
            !present.iter().any(|(there, _)| *there == domid)
                || seen
                    .iter()
                    .any(|was| was.0 == domid && !present.contains(was))
        };
        for (id, actor) in &self.actors {
            if gone(id.frontend, &self.seen) {
                actor.handle.order(Order::Gone);
            }
        }
        let waiting: BTreeSet<DomId> = self
            .actors
            .keys()
            .map(|id| id.frontend)
            .filter(|domid| gone(*domid, &self.seen))
            .collect();
        // A number whose last owner is still being let go of is looked at when that is done.
        self.seen
            .retain(|was| present.contains(was) || waiting.contains(&was.0));
        for domain in &domains {
            if !waiting.contains(&domain.domid) {
                self.admit(domain)?;
            }
        }
        for id in keys::list_devices(&self.store, self.own)? {
            if self.actors.contains_key(&id) {
                continue;
            }
            if let Some(domain) = domains.iter().find(|domain| domain.domid == id.frontend) {
                self.start(id, domain)?;
            } else {
                tracing::info!(device = %id, "removing what a domain that is gone has left");
                keys::remove_device(&self.store, id)?;
            }
        }
        if files {
            self.reread(&domains);
        }
        for actor in self.actors.values() {
            if actor.seat.membership().is_none() {
                actor.handle.nudge();
            }
        }
        Ok(())
    }

    /// Gives a domain that has just come the device that its file asks for.
    fn admit(&mut self, domain: &Domain) -> Result<(), Error> {
        let key = (domain.domid, domain.uuid.clone());
        // One without a name is still being made.
        if domain.domid == self.own || domain.name.is_empty() || self.seen.contains(&key) {
            return Ok(());
        }
        let config = match config::find(&self.config_dir, domain) {
            Ok(config) => config.filter(|config| config.enabled),
            Err(error) => {
                tracing::error!(
                    domain = domain.name,
                    "{error}; the domain gets no vgpu device: correct the file, then xl-vgpu attach, or start the domain again"
                );
                None
            }
        };
        if let Some(config) = config {
            let id = DeviceId {
                backend: self.own,
                frontend: domain.domid,
                devid: config.devid,
            };
            match keys::create_device(&self.store, id, &domain.name) {
                Ok(Created::New) => {
                    tracing::info!(device = %id, domain = domain.name, "device made")
                }
                Ok(Created::Already) => {}
                Err(DeviceError::Store(error)) if error.is_closed() => return Err(error.into()),
                // Gone again meanwhile: then there is nothing to do. Else the log says what is.
                Err(error) => {
                    tracing::error!(device = %id, domain = domain.name, "no device: {error}")
                }
            }
        }
        self.seen.insert(key);
        Ok(())
    }

    fn start(&mut self, id: DeviceId, domain: &Domain) -> Result<(), Error> {
        let file = self.wish(domain);
        let presence = self.cpu.insert(id.frontend, &domain.uuid);
        let seat = self
            .placement
            .seat(id.frontend, &domain.name, file.clone(), presence)
            .map_err(|error| Error::System {
                what: "making a memory quota",
                source: std::io::Error::other(error),
            })?;
        let handle = Arc::new(Handle::new().map_err(Error::system("making an eventfd"))?);
        let context = Context {
            platform: self.platform.clone(),
            frontend: id.frontend,
            launcher: self.launcher.clone(),
            seat: seat.clone(),
        };
        let device = Device::new(id, self.store.clone(), handle.clone(), context)?;
        let ended = self.ended.clone();
        let thread = std::thread::Builder::new()
            .name(id.to_string())
            .spawn(move || {
                if let Err(error) = device.serve() {
                    tracing::error!(device = %id, "the device has failed: {error}");
                    // It is started again; not in a hurry.
                    std::thread::sleep(FAILED_PAUSE);
                }
                ended
                    .ids
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(id);
                ended.wake.wake();
            })
            .map_err(Error::system("starting a thread"))?;
        self.registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, handle.clone());
        let actor = Actor {
            handle,
            seat,
            file,
            thread,
        };
        self.actors.insert(id, actor);
        Ok(())
    }

    /// Forgets the devices whose threads have ended.
    fn reap(&mut self) {
        let ended = std::mem::take(
            &mut *self
                .ended
                .ids
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for id in ended {
            self.registry
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
            if let Some(actor) = self.actors.remove(&id)
                && actor.thread.join().is_err()
            {
                tracing::error!(device = %id, "the device's thread has failed");
            }
            if !self.actors.keys().any(|left| left.frontend == id.frontend) {
                self.cpu.remove(id.frontend);
            }
        }
    }

    /// Closes all devices.
    fn stop(&mut self) {
        for actor in self.actors.values() {
            actor.handle.order(Order::Stop);
        }
        let deadline = Instant::now().checked_add(STOP_PATIENCE);
        while !self.actors.is_empty() && deadline.is_some_and(|at| Instant::now() < at) {
            self.ended.wake.clear();
            self.reap();
            if !self.actors.is_empty() && wait_any(&[self.ended.wake.as_fd()], deadline).is_err() {
                break;
            }
        }
        for id in self.actors.keys() {
            tracing::warn!(device = %id, "the device does not close; leaving it to the next vgpu-backd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_sched::description::Class;

    fn before() -> Description {
        Description {
            weight: Some(512),
            cap: Some(80),
            guaranteed: Some(40),
            memory: Some(1 << 30),
            channels: Some(3),
            ..Description::default()
        }
    }

    #[test]
    fn what_is_not_named_stays_and_0_takes_a_bound_away() {
        let nothing = ShareChange::default();
        assert_eq!(changed(before(), nothing), Ok(before()));
        let more = ShareChange {
            guaranteed: Some(60),
            memory: Some(2 << 30),
            ..nothing
        };
        let after = Description {
            guaranteed: Some(60),
            memory: Some(2 << 30),
            ..before()
        };
        assert_eq!(changed(before(), more), Ok(after));
        let none = ShareChange {
            weight: None,
            cap: Some(0),
            latency_ms: Some(0),
            guaranteed: Some(0),
            memory: Some(0),
        };
        let after = Description {
            cap: None,
            guaranteed: None,
            memory: None,
            ..before()
        };
        assert_eq!(changed(before(), none), Ok(after));
    }

    #[test]
    fn what_is_out_of_range_or_does_not_go_together_is_refused() {
        let nothing = ShareChange::default();
        let cases = [
            (
                ShareChange {
                    weight: Some(0),
                    ..nothing
                },
                "1 to 65535",
            ),
            (
                ShareChange {
                    cap: Some(101),
                    ..nothing
                },
                "a cap is",
            ),
            (
                ShareChange {
                    guaranteed: Some(101),
                    ..nothing
                },
                "a guarantee is",
            ),
            (
                ShareChange {
                    memory: Some(4095),
                    ..nothing
                },
                "4K to 16T",
            ),
            (
                ShareChange {
                    memory: Some(u64::MAX),
                    ..nothing
                },
                "4K to 16T",
            ),
            (
                ShareChange {
                    guaranteed: Some(81),
                    ..nothing
                },
                "more than cap = 80",
            ),
            (
                ShareChange {
                    cap: Some(30),
                    ..nothing
                },
                "more than cap = 30",
            ),
        ];
        for (change, why) in cases {
            let told = changed(before(), change).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        let real_time = Description {
            class: Class::RealTime,
            cap: None,
            ..before()
        };
        let none = ShareChange {
            guaranteed: Some(0),
            ..nothing
        };
        assert!(changed(real_time, none).unwrap_err().contains("real-time"));
    }
}
