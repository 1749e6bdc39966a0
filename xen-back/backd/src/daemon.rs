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
use crate::gpu::{Gpu, Membership, Recording, Sharing, recording};
use crate::limits::{Account, Limits};
use crate::worker::Launcher;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vgpu_protocol::admin::{Command, Done, Listing, Reply, ShareChange, Stats};
use vgpu_protocol::keys::{self, Created, DeviceError, DeviceId, Domain};
use vgpu_protocol::quota::QuotaBack;
use vgpu_protocol::wait::{Wake, is_ready, wait_any};
use vgpu_sched::{PolicyKind, Share};
use xen::{DomId, Platform, PlatformSpec, Store};

/// How long devices have to close when backd stops.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// How long a device rests whose thread has failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

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
    thread: JoinHandle<()>,
}

/// The devices whose threads end.
#[derive(Debug)]
struct Ended {
    wake: Wake,
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
    account: Account,
    ended: Arc<Ended>,
    actors: BTreeMap<DeviceId, Actor>,
    registry: Registry,
    gpus: Vec<Arc<Gpu>>,
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
    let gpu =
        Gpu::start(0, "", &options.sharing).map_err(Error::system("starting a GPU's thread"))?;
    let gpus = vec![Arc::new(gpu)];
    let cpu = Arc::new(ask_hypervisor(options, &store, &gpus)?);
    let _undo = Undo(cpu.clone());
    let admin = {
        let end = end.clone();
        let policy = options.sharing.policy;
        let policies = gpus.iter().map(|gpu| (gpu.number(), policy)).collect();
        let tools = Tools {
            registry: registry.clone(),
            gpus: gpus.clone(),
            cpu: cpu.clone(),
            policies: Mutex::new(policies),
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
        account: Account::new(options.per_domain, options.total),
        ended: Arc::new(Ended {
            wake: Wake::new().map_err(Error::system("making an eventfd"))?,
            ids: Mutex::default(),
        }),
        actors: BTreeMap::new(),
        registry,
        gpus,
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
fn ask_hypervisor(options: &Options, store: &Store, gpus: &[Arc<Gpu>]) -> Result<Cpu, Error> {
    let living: Vec<_> = keys::list_domains(store)?
        .into_iter()
        .map(|domain| (domain.domid, domain.uuid))
        .collect();
    let told = gpus.to_vec();
    let sink = move |states: &[(DomId, vgpu_sched::CpuState)]| {
        for (domid, state) in states {
            for gpu in &told {
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

/// What tools can have.
#[derive(Debug)]
struct Tools {
    registry: Registry,
    gpus: Vec<Arc<Gpu>>,
    cpu: Arc<Cpu>,
    /// The policy of each GPU.
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
            Command::Record { .. } => Err("a recording has no one answer".to_owned()),
        };
        answer.unwrap_or_else(|error| Reply::Error { error })
    }

    fn record(&self) -> Result<Recording, String> {
        let (recorder, recording) = recording();
        for gpu in &self.gpus {
            gpu.record(recorder.clone());
        }
        Ok(recording)
    }
}

impl Tools {
    fn stats(&self) -> Result<Stats, String> {
        let gpus = self.gpus.iter().map(|gpu| {
            let number = gpu.number();
            gpu.stats().ok_or_else(|| {
                format!("the thread of GPU {number} does not answer; see vgpu-backd's log")
            })
        });
        Ok(Stats {
            gpus: gpus.collect::<Result<_, _>>()?,
            hypervisor: self.cpu.stats(),
        })
    }

    fn switch(&self, gpu: Option<u32>, policy: &str) -> Result<Done, String> {
        let kind: PolicyKind = policy.parse().map_err(|error| format!("{error}"))?;
        let wanted = |has: &&Arc<Gpu>| gpu.is_none_or(|gpu| gpu == has.number());
        let mut gpus = self.gpus.iter().filter(wanted).peekable();
        if let (Some(gpu), None) = (gpu, gpus.peek()) {
            return Err(format!("there is no GPU {gpu}"));
        }
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chosen = policies.clone();
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
        if change
            .weight
            .is_some_and(|weight| !(1..=65_535).contains(&weight))
        {
            return Err("a weight is 1 to 65535".to_owned());
        }
        if change.cap.is_some_and(|cap| cap > 100) {
            return Err("a cap is 1 to 100 percent, or 0 for none".to_owned());
        }
        let none_if_0 = |value: u32| (value != 0).then_some(value);
        let changed = move |share: Share| Share {
            weight: change.weight.unwrap_or(share.weight),
            cap: change.cap.map_or(share.cap, none_if_0),
            latency: change.latency_ms.map_or(share.latency, |ms| {
                none_if_0(ms).map(|ms| u64::from(ms).saturating_mul(vgpu_sched::MILLISECOND))
            }),
        };
        let mut here = false;
        for gpu in &self.gpus {
            if let Some(share) = gpu.change(domid, changed) {
                tracing::info!(gpu = gpu.number(), domid, ?share, "another share");
                here = true;
            }
        }
        match here {
            true => Ok(Done::default()),
            false => Err(format!("domain {domid} has no device here")),
        }
    }
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
            self.reap();
            self.look()?;
            if is_ready(stop) {
                return Ok(());
            }
            let mut fds: Vec<_> = watches.iter().map(|watch| watch.poll_fd()).collect();
            fds.extend([stop, self.ended.wake.as_fd()]);
            wait_any(&fds, None).map_err(Error::system("waiting for XenStore"))?;
        }
    }

    /// Brings devices and threads in line with the domains that there are.
    fn look(&mut self) -> Result<(), Error> {
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
            if present.iter().any(|(domid, _)| *domid == id.frontend) {
                self.start(id)?;
            } else {
                tracing::info!(device = %id, "removing what a domain that is gone has left");
                keys::remove_device(&self.store, id)?;
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

    fn start(&mut self, id: DeviceId) -> Result<(), Error> {
        let path = format!("{}/{}", id.backend_dir(), keys::DOMAIN);
        let name = keys::value(&self.store, &path)?.unwrap_or_default();
        let gpus = Membership::new(
            &self.gpus,
            id.frontend.0,
            &String::from_utf8_lossy(&name),
            Share::default(),
            vgpu_sched::Limits::default(),
        );
        let uuid = self.seen.iter().find(|(domid, _)| *domid == id.frontend);
        let uuid = uuid.map_or("", |(_, uuid)| uuid.as_str());
        let presence = self.cpu.insert(id.frontend, uuid);
        for gpu in &self.gpus {
            gpu.presence(id.frontend.0, presence.clone());
        }
        let handle = Arc::new(Handle::new().map_err(Error::system("making an eventfd"))?);
        let context = Context {
            platform: self.platform.clone(),
            frontend: id.frontend,
            launcher: self.launcher.clone(),
            account: self.account.of_another(),
            quota: Arc::new(QuotaBack::new().map_err(|error| Error::System {
                what: "making a memory quota",
                source: std::io::Error::other(error),
            })?),
            gpus: Arc::new(gpus),
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
        self.actors.insert(id, Actor { handle, thread });
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
