//! What the hypervisor says of domains' processors, asked as often as a policy needs it and handed to the GPUs; and
//! the boost: a higher weight under Xen's scheduler for domains whose work is on a GPU, so that their programs are
//! there when it ends.
//!
//! One thread asks, and only while somebody needs the answers. It must never leave a weight raised: what it raises it
//! writes down first, and undoes when it ends, however it ends; what a process that was killed left, the next one
//! undoes. It must never change a weight that somebody else has set meanwhile.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vgpu_hypervisor::Hypervisor;
use vgpu_protocol::admin::{AskStats, HypervisorStats};
use vgpu_protocol::wait::{Wake, wait_any};
use vgpu_sched::{CpuState, PolicyKind};
use xen::{DomId, PlatformSpec};

/// How often weights and caps are read: people change them, and want to see it soon.
const WEIGHTS_EVERY: Duration = Duration::from_millis(250);
/// How often it is looked whose processors run, and whom to boost: a third of a slice of Xen's credit scheduler.
const STATES_EVERY: Duration = Duration::from_millis(10);

/// What policies need of the hypervisor, from nothing to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Nothing: it is not asked.
    #[default]
    Nothing,
    /// Weights and caps.
    Weights,
    /// These, whose processors run, and how long they have.
    States,
}

impl Need {
    /// What a policy needs.
    pub fn of(kind: PolicyKind) -> Need {
        match kind {
            PolicyKind::XenCredit => Need::Weights,
            PolicyKind::Cosched | PolicyKind::Augc => Need::States,
            _ => Need::Nothing,
        }
    }
}

/// Whether a domain has work on a GPU, or is next there. The GPUs' threads say so.
#[derive(Debug, Default)]
pub struct Presence {
    /// On how many.
    now: AtomicU32,
    /// Since it was last looked at.
    since: AtomicBool,
}

impl Presence {
    /// Whether it has had since the last look.
    pub(crate) fn look(&self) -> bool {
        self.since.swap(false, Ordering::Relaxed) || self.now.load(Ordering::Relaxed) > 0
    }
}

/// A domain's work is on one GPU or next there, until this is dropped.
#[derive(Debug)]
pub struct Visit(Arc<Presence>);

impl Visit {
    /// From now on.
    pub fn begin(presence: Arc<Presence>) -> Visit {
        presence.now.fetch_add(1, Ordering::Relaxed);
        presence.since.store(true, Ordering::Relaxed);
        Visit(presence)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What asking one thing of one domain has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often it was asked.
    pub samples: u64,
    /// How long that took, in nanoseconds, of this process's time on the clock.
    pub total_ns: u64,
    /// How long the slowest took, in nanoseconds.
    pub longest_ns: u64,
}

impl Cost {
    fn add(&mut self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.samples = self.samples.saturating_add(1);
        self.total_ns = self.total_ns.saturating_add(took);
        self.longest_ns = self.longest_ns.max(took);
    }

    fn merge(&mut self, other: Cost) {
        self.samples = self.samples.saturating_add(other.samples);
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.longest_ns = self.longest_ns.max(other.longest_ns);
    }

    /// How long one takes, in nanoseconds.
    pub fn mean_ns(&self) -> u64 {
        self.total_ns.checked_div(self.samples).unwrap_or(0)
    }
}

/// What asking the hypervisor has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// A domain's weight and cap.
    pub weights: Cost,
    /// The state of all its virtual processors.
    pub states: Cost,
}

/// Where states go: called on the thread that asks, with all domains' at once.
pub type Sink = Box<dyn Fn(&[(DomId, CpuState)]) + Send>;

/// What [`Cpu`] is to do.
#[derive(Debug)]
pub struct Options {
    /// Where the hypervisor is.
    pub platform: PlatformSpec,
    /// By how many percent the weight of a domain is raised while its work is on a GPU, if it is.
    pub boost: Option<u32>,
    /// Where raised weights are written down.
    pub boosts: PathBuf,
}

/// The thread, from [`Cpu::start`] until [`Cpu::stop`] or until it is dropped.
#[derive(Debug)]
pub struct Cpu {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    platform: PlatformSpec,
    wake: Wake,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    need: Need,
    /// Opened when it is first needed, and on its way to the thread.
    hypervisor: Option<Box<dyn Hypervisor>>,
    /// It was opened.
    open: bool,
    /// A domain has come or a policy was chosen: they are served at once.
    news: bool,
    domains: BTreeMap<DomId, Domain>,
    costs: Costs,
}

#[derive(Clone, Debug)]
struct Domain {
    uuid: String,
    presence: Arc<Presence>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cpu {
    /// Undoes what an earlier process left raised, and starts to serve. `living` are all domains by number and UUID.
    ///
    /// # Errors
    /// A boost is wanted, and there is no hypervisor to ask; or the system has no thread left.
    pub fn start(
        options: Options,
        living: &[(DomId, String)],
        sink: Sink,
    ) -> Result<Cpu, crate::Error> {
        let mut boosts = Boosts::load(options.boosts);
        let mut hypervisor = None;
        if options.boost.is_some() || !boosts.raised.is_empty() {
            match vgpu_hypervisor::open(&options.platform) {
                Ok(opened) => {
                    boosts.recover(&*opened, living);
                    hypervisor = Some(opened);
                }
                Err(error) if options.boost.is_some() => return Err(error.into()),
                Err(error) => boosts.complain(&error),
            }
        }
        let shared = Arc::new(Shared {
            platform: options.platform,
            wake: Wake::new().map_err(crate::Error::system("making an eventfd"))?,
            state: Mutex::new(State {
                open: hypervisor.is_some(),
                ..State::default()
            }),
        });
        let sampler = Sampler {
            shared: shared.clone(),
            hypervisor,
            percent: options.boost,
            boosts,
            known: BTreeMap::new(),
            sink,
        };
        let thread = std::thread::Builder::new()
            .name("cpu".into())
            .spawn(move || sampler.serve())
            .map_err(crate::Error::system("starting a thread"))?;
        Ok(Cpu {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// From now on policies need this; each domain's state is handed on soon.
    ///
    /// # Errors
    /// There is no hypervisor to ask: the text says what to do, and what was needed before still is.
    pub fn need(&self, need: Need) -> Result<(), vgpu_hypervisor::Error> {
        let mut state = self.shared.lock();
        if need > Need::Nothing && !state.open {
            let opened = vgpu_hypervisor::open(&self.shared.platform)?;
            tracing::info!(hypervisor = opened.name(), "asking for domains' weights");
            state.hypervisor = Some(opened);
            state.open = true;
        }
        state.need = need;
        state.news = true;
        drop(state);
        self.shared.wake.wake();
        Ok(())
    }

    /// A domain has come. Its presence is for the GPUs' threads.
    pub fn insert(&self, domid: DomId, uuid: &str) -> Arc<Presence> {
        let mut state = self.shared.lock();
        let domain = Domain {
            uuid: uuid.to_owned(),
            presence: Arc::default(),
        };
        // A domain with two devices is one domain.
        let domain = match state.domains.get(&domid) {
            Some(known) if known.uuid == uuid => known.clone(),
            _ => domain,
        };
        let presence = domain.presence.clone();
        state.domains.insert(domid, domain);
        state.news = true;
        drop(state);
        self.shared.wake.wake();
        presence
    }

    /// A domain is gone, or uses no GPU any more.
    pub fn remove(&self, domid: DomId) {
        self.shared.lock().domains.remove(&domid);
        self.shared.wake.wake();
    }

    /// Undoes what is raised, and asks no more.
    pub fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.wake.wake();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that asks the hypervisor has failed");
        }
    }

    /// What asking has cost so far.
    pub fn costs(&self) -> Costs {
        self.shared.lock().costs
    }

    /// The same for tools; `None` if nothing was asked.
    pub fn stats(&self) -> Option<HypervisorStats> {
        let costs = self.costs();
        let stats = |cost: Cost| AskStats {
            samples: cost.samples,
            mean_ns: cost.mean_ns(),
            longest_ns: cost.longest_ns,
        };
        (costs != Costs::default()).then(|| HypervisorStats {
            weights: stats(costs.weights),
            states: stats(costs.states),
        })
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread remembers of a domain.
#[derive(Debug, Default)]
struct Known {
    state: CpuState,
    /// How many virtual processors it has.
    vcpus: u32,
    /// The last question failed, and the log says so.
    failed: bool,
}

/// The thread's own.
struct Sampler {
    shared: Arc<Shared>,
    hypervisor: Option<Box<dyn Hypervisor>>,
    percent: Option<u32>,
    boosts: Boosts,
    known: BTreeMap<DomId, Known>,
    sink: Sink,
}

impl Sampler {
    fn serve(mut self) {
        let mut weights_at = Instant::now();
        loop {
            self.shared.wake.clear();
            let (domains, need, news) = {
                let mut state = self.shared.lock();
                if state.stop {
                    break;
                }
                if let Some(opened) = state.hypervisor.take() {
                    self.hypervisor = Some(opened);
                }
                let news = std::mem::take(&mut state.news);
                (state.domains.clone(), state.need, news)
            };
            let now = Instant::now();
            self.known.retain(|domid, _| domains.contains_key(domid));
            let mut next = None;
            if need > Need::Nothing {
                let weights = news || now >= weights_at;
                if weights {
                    weights_at = now + WEIGHTS_EVERY;
                }
                if weights || need == Need::States {
                    self.sample(&domains, weights, need == Need::States);
                }
                next = Some(weights_at);
            }
            if self.percent.is_some() {
                self.boost(&domains);
            }
            if need == Need::States || (self.percent.is_some() && !domains.is_empty()) {
                next = Some(now + STATES_EVERY);
            }
            if let Err(error) = wait_any(&[self.shared.wake.as_fd()], next) {
                tracing::error!(%error, "cannot wait; domains' weights are no longer followed");
                break;
            }
        }
        let Costs { weights, states } = self.shared.lock().costs;
        tracing::debug!(
            weights = weights.samples,
            weights_ns = weights.mean_ns(),
            states = states.samples,
            states_ns = states.mean_ns(),
            "what asking the hypervisor has cost"
        );
    }

    /// Asks for all domains and hands on what is new.
    fn sample(&mut self, domains: &BTreeMap<DomId, Domain>, weights: bool, states: bool) {
        let Some(hypervisor) = &self.hypervisor else {
            return;
        };
        let mut costs = Costs::default();
        let mut told = Vec::with_capacity(domains.len());
        for &domid in domains.keys() {
            let known = self.known.entry(domid).or_default();
            let mut asked = Ok(());
            if weights {
                let start = Instant::now();
                asked = hypervisor.parameters(domid).map(|parameters| {
                    let weight = self.boosts.own_weight(domid, parameters.weight).into();
                    let cap = parameters.cap.map(u32::from);
                    if (weight, cap) != (known.state.weight, known.state.cap) {
                        tracing::info!(%domid, weight, cap, "weight under the hypervisor's scheduler");
                    }
                    known.state.weight = weight;
                    known.state.cap = cap;
                });
                costs.weights.add(start.elapsed());
            }
            if states && asked.is_ok() {
                let start = Instant::now();
                asked = look_at_vcpus(&**hypervisor, domid, weights, known);
                costs.states.add(start.elapsed());
            }
            match asked {
                Ok(()) => {
                    known.failed = false;
                    told.push((domid, known.state));
                }
                // Its device goes in a moment.
                Err(vgpu_hypervisor::Error::NoDomain { .. }) => {}
                Err(error) => {
                    if !known.failed {
                        tracing::warn!(%domid, "its weight stays as it was: {error}");
                    }
                    known.failed = true;
                }
            }
        }
        {
            let mut state = self.shared.lock();
            state.costs.weights.merge(costs.weights);
            state.costs.states.merge(costs.states);
        }
        (self.sink)(&told);
    }

    /// Raises the weights of those whose work is on a GPU, and lowers others' again.
    fn boost(&mut self, domains: &BTreeMap<DomId, Domain>) {
        let (Some(hypervisor), Some(percent)) = (&self.hypervisor, self.percent) else {
            return;
        };
        let raised: Vec<DomId> = self.boosts.raised.keys().copied().collect();
        for domid in raised {
            if !domains.contains_key(&domid) {
                self.boosts.lower(&**hypervisor, domid);
            }
        }
        for (&domid, domain) in domains {
            if !domain.presence.look() {
                self.boosts.lower(&**hypervisor, domid);
            } else if let Err(error) =
                self.boosts
                    .raise(&**hypervisor, domid, &domain.uuid, percent)
            {
                tracing::warn!(%domid, "no boost any more: {error}");
                self.percent = None;
                self.boosts.lower_all(&**hypervisor);
                return;
            }
        }
    }
}

impl Drop for Sampler {
    /// At the end of the thread, a panic included.
    fn drop(&mut self) {
        if let Some(hypervisor) = &self.hypervisor {
            self.boosts.lower_all(&**hypervisor);
        }
    }
}

/// Whether a virtual processor of a domain runs, and how long all have. `count`: they are counted anew.
fn look_at_vcpus(
    hypervisor: &dyn Hypervisor,
    domid: DomId,
    count: bool,
    known: &mut Known,
) -> Result<(), vgpu_hypervisor::Error> {
    let (mut running, mut used, mut number) = (false, Duration::ZERO, 0);
    while count || number < known.vcpus {
        let Some(vcpu) = hypervisor.vcpu(domid, number)? else {
            break;
        };
        running |= vcpu.running;
        used = used.saturating_add(vcpu.cpu_time);
        number += 1;
    }
    known.vcpus = number;
    known.state.running = running;
    known.state.used = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
    Ok(())
}

/// A weight that was raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raised {
    /// The domain's: its number may come again.
    uuid: String,
    /// Its own weight.
    weight: u16,
    /// What it was raised to.
    to: u16,
}

/// All weights that are raised, and the file that says so.
#[derive(Debug)]
struct Boosts {
    file: PathBuf,
    raised: BTreeMap<DomId, Raised>,
}

impl Boosts {
    /// What an earlier process has left in the file.
    fn load(file: PathBuf) -> Boosts {
        let raised = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::error!(
                    file = %file.display(),
                    "the file of raised weights makes no sense ({error}); compare domains' weights with what they should be: xl sched-credit2"
                );
                BTreeMap::new()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::error!(file = %file.display(), "the file of raised weights cannot be read: {error}");
                BTreeMap::new()
            }
        };
        Boosts { file, raised }
    }

    /// Undoes what an earlier process has left raised, of domains that are still the same.
    fn recover(&mut self, hypervisor: &dyn Hypervisor, living: &[(DomId, String)]) {
        self.raised.retain(|domid, raised| {
            living
                .iter()
                .any(|(living, uuid)| living == domid && *uuid == raised.uuid)
        });
        for (domid, raised) in &self.raised {
            tracing::info!(%domid, weight = raised.weight, "an earlier vgpu-backd has left its weight raised");
        }
        self.lower_all(hypervisor);
    }

    /// What people have to do, as there is no hypervisor to ask.
    fn complain(&self, error: &vgpu_hypervisor::Error) {
        for (domid, raised) in &self.raised {
            tracing::error!(
                %domid,
                "an earlier vgpu-backd has left its weight raised to {}, and it cannot be undone ({error}); do it by hand: xl sched-credit2 -d {domid} -w {}",
                raised.to,
                raised.weight
            );
        }
    }

    /// A domain's own weight, where the hypervisor says this one. A raised weight that is no longer what it was raised
    /// to has been set by somebody: it is theirs.
    fn own_weight(&mut self, domid: DomId, weight: u16) -> u16 {
        match self.raised.get(&domid) {
            Some(raised) if raised.to == weight => raised.weight,
            Some(_) => {
                self.raised.remove(&domid);
                self.save_or_log();
                weight
            }
            None => weight,
        }
    }

    /// Raises a domain's weight, unless it is raised; an error that will come again.
    fn raise(
        &mut self,
        hypervisor: &dyn Hypervisor,
        domid: DomId,
        uuid: &str,
        percent: u32,
    ) -> Result<(), String> {
        if self.raised.contains_key(&domid) {
            return Ok(());
        }
        let weight = match hypervisor.parameters(domid) {
            Ok(parameters) => parameters.weight,
            Err(vgpu_hypervisor::Error::NoDomain { .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let more = u64::from(weight) * u64::from(percent) / 100;
        let to = u16::try_from(u64::from(weight) + more).unwrap_or(u16::MAX);
        if to == weight {
            return Ok(());
        }
        let uuid = uuid.to_owned();
        self.raised.insert(domid, Raised { uuid, weight, to });
        // First the file: whatever happens from here on, somebody will know.
        if let Err(error) = self.save() {
            self.raised.remove(&domid);
            return Err(format!("cannot write {}: {error}", self.file.display()));
        }
        match hypervisor.set_weight(domid, to) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.raised.remove(&domid);
                self.save_or_log();
                match error {
                    vgpu_hypervisor::Error::NoDomain { .. } => Ok(()),
                    error => Err(error.to_string()),
                }
            }
        }
    }

    /// Undoes the boost of a domain, if it has one. One that cannot be undone now stays written down.
    fn lower(&mut self, hypervisor: &dyn Hypervisor, domid: DomId) {
        let Some(raised) = self.raised.get(&domid) else {
            return;
        };
        let undone = match hypervisor.parameters(domid) {
            Ok(parameters) if parameters.weight == raised.to => {
                hypervisor.set_weight(domid, raised.weight)
            }
            // Somebody has set it meanwhile.
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match undone {
            Ok(()) | Err(vgpu_hypervisor::Error::NoDomain { .. }) => {
                self.raised.remove(&domid);
                self.save_or_log();
            }
            Err(error) => {
                tracing::error!(%domid, "its weight cannot be set back to {}: {error}", raised.weight);
            }
        }
    }

    fn lower_all(&mut self, hypervisor: &dyn Hypervisor) {
        let raised: Vec<DomId> = self.raised.keys().copied().collect();
        for domid in raised {
            self.lower(hypervisor, domid);
        }
        // Also where there was nothing left of those that the file names.
        if self.raised.is_empty() {
            self.save_or_log();
        }
    }

    fn save_or_log(&self) {
        if let Err(error) = self.save() {
            tracing::error!(file = %self.file.display(), "cannot write down which weights are raised: {error}");
        }
    }

    /// Writes the file whole, or not at all; no file says that nothing is raised.
    fn save(&self) -> std::io::Result<()> {
        if self.raised.is_empty() {
            return match std::fs::remove_file(&self.file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let new = self.file.with_extension("new");
        create_private(&new)?.write_all(&serde_json::to_vec(&self.raised)?)?;
        std::fs::rename(&new, &self.file)
    }
}

fn create_private(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::mpsc::{Receiver, channel};
    use tempfile::TempDir;
    use xen::local::schedule::Schedule;

    const WEB: DomId = DomId(1);
    const DB: DomId = DomId(2);
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A machine of the local platform, as far as its scheduler goes.
    struct Machine(TempDir);

    impl Machine {
        fn new() -> Machine {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("dom0")).unwrap();
            Machine(dir)
        }

        fn options(&self, boost: Option<u32>) -> Options {
            Options {
                platform: PlatformSpec::Local(self.0.path().join("dom0")),
                boost,
                boosts: self.0.path().join("boost.json"),
            }
        }

        fn start(&self, boost: Option<u32>) -> (Cpu, Receiver<Vec<(DomId, CpuState)>>) {
            let (sender, told) = channel();
            let sink = Box::new(move |states: &[(DomId, CpuState)]| {
                // Nobody may listen any more.
                let _ = sender.send(states.to_vec());
            });
            let living = [(WEB, "u-web".to_owned()), (DB, "u-db".to_owned())];
            let cpu = Cpu::start(self.options(boost), &living, sink).unwrap();
            (cpu, told)
        }

        fn schedule(&self, change: impl FnOnce(&mut Schedule)) {
            Schedule::change(&Schedule::path(self.0.path()), |schedule| {
                change(schedule);
                Ok(())
            })
            .unwrap();
        }

        fn weight(&self, domid: DomId) -> u16 {
            let schedule = Schedule::read(&Schedule::path(self.0.path())).unwrap();
            schedule.domain(domid).weight
        }

        fn wait(&self, domid: DomId, weight: u16) {
            let start = Instant::now();
            while self.weight(domid) != weight {
                assert!(start.elapsed() < PATIENCE, "{domid} never has {weight}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("boost.json")
        }
    }

    /// Waits until these states are told.
    fn expect(
        told: &Receiver<Vec<(DomId, CpuState)>>,
        what: impl Fn(&[(DomId, CpuState)]) -> bool,
    ) {
        let start = Instant::now();
        loop {
            let states = told.recv_timeout(PATIENCE).unwrap();
            if what(&states) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{states:?}");
        }
    }

    #[test]
    fn nothing_is_asked_until_somebody_needs_it_and_then_it_is_followed() {
        let machine = Machine::new();
        machine.schedule(|schedule| schedule.domain_mut(DB).weight = 512);
        let (cpu, told) = machine.start(None);
        cpu.insert(WEB, "u-web");
        cpu.insert(DB, "u-db");
        assert_eq!(cpu.costs(), Costs::default());
        cpu.need(Need::of(PolicyKind::XenCredit)).unwrap();
        let weights = |web, db| {
            move |states: &[(DomId, CpuState)]| {
                states
                    .iter()
                    .map(|(domid, state)| (*domid, state.weight))
                    .eq([(WEB, web), (DB, db)])
            }
        };
        expect(&told, weights(256, 512));
        machine.schedule(|schedule| schedule.domain_mut(WEB).weight = 1024);
        expect(&told, weights(1024, 512));
        let costs = cpu.costs();
        assert!(
            costs.weights.samples >= 4 && costs.weights.total_ns > 0,
            "{costs:?}"
        );
        assert_eq!(costs.states, Cost::default(), "nobody needs states");
        cpu.remove(WEB);
        expect(&told, |states| states.len() == 1);
        cpu.need(Need::of(PolicyKind::Fair)).unwrap();
    }

    #[test]
    fn processors_are_added_up() {
        let machine = Machine::new();
        machine.schedule(|schedule| {
            let domain = schedule.domain_mut(WEB);
            domain.cap = 150;
            domain.vcpus = ["blocked:5", "running:7"]
                .map(|vcpu| vcpu.parse().unwrap())
                .into();
        });
        let (cpu, told) = machine.start(None);
        cpu.insert(WEB, "u-web");
        cpu.need(Need::of(PolicyKind::Augc)).unwrap();
        let state = |running, used| CpuState {
            weight: 256,
            cap: Some(150),
            running,
            used,
        };
        expect(&told, |states| *states == [(WEB, state(true, 12))]);
        machine.schedule(|schedule| {
            schedule.domain_mut(WEB).vcpus = ["blocked:5", "runnable:9", "offline:1"]
                .map(|vcpu| vcpu.parse().unwrap())
                .into();
        });
        expect(&told, |states| *states == [(WEB, state(false, 15))]);
    }

    #[test]
    fn without_a_hypervisor_what_needs_it_says_so() {
        let machine = Machine::new();
        let path = Schedule::path(machine.0.path());
        std::fs::write(&path, "no json").unwrap();
        let (cpu, _told) = machine.start(None);
        let error = cpu.need(Need::Weights).unwrap_err().to_string();
        assert!(error.contains("schedule.json"), "{error}");
        let refused = Cpu::start(machine.options(Some(50)), &[], Box::new(|_| ()));
        assert!(matches!(refused, Err(crate::Error::Hypervisor(_))));
        std::fs::remove_file(&path).unwrap();
        cpu.need(Need::Weights).unwrap();
    }

    #[test]
    fn a_boost_lasts_while_work_is_there_and_no_policy_sees_it() {
        let machine = Machine::new();
        let (cpu, told) = machine.start(Some(50));
        let presence = cpu.insert(WEB, "u-web");
        cpu.need(Need::Weights).unwrap();
        expect(&told, |states| states.len() == 1);
        let visit = Visit::begin(presence.clone());
        machine.wait(WEB, 384);
        assert!(machine.file().exists());
        for _ in 0..3 {
            cpu.need(Need::Weights).unwrap();
            expect(&told, |states| states[0].1.weight == 256);
        }
        drop(visit);
        machine.wait(WEB, 256);
        assert_eq!(machine.weight(DB), 256);
        let _visit = Visit::begin(presence.clone());
        machine.wait(WEB, 384);
        cpu.remove(WEB);
        machine.wait(WEB, 256);
        let _visit = Visit::begin(cpu.insert(WEB, "u-web"));
        machine.wait(WEB, 384);
        drop(cpu);
        assert_eq!(machine.weight(WEB), 256, "undone at the end");
        assert!(!machine.file().exists());
    }

    #[test]
    fn a_visit_between_two_looks_is_seen() {
        let presence = Arc::<Presence>::default();
        assert!(!presence.look());
        drop(Visit::begin(presence.clone()));
        assert!(presence.look());
        assert!(!presence.look());
        let one = Visit::begin(presence.clone());
        let other = Visit::begin(presence.clone());
        drop(one);
        assert!(presence.look());
        assert!(presence.look());
        drop(other);
        assert!(!presence.look());
    }

    #[test]
    fn a_weight_that_somebody_sets_meanwhile_is_theirs() {
        let machine = Machine::new();
        let (cpu, told) = machine.start(Some(100));
        let presences = [cpu.insert(WEB, "u-web"), cpu.insert(DB, "u-db")];
        let visits = presences.map(Visit::begin);
        machine.wait(WEB, 512);
        machine.wait(DB, 512);
        machine.schedule(|schedule| schedule.domain_mut(WEB).weight = 300);
        drop(visits);
        machine.wait(DB, 256);
        drop(cpu);
        assert_eq!(machine.weight(WEB), 300);
        // While somebody looks at weights, it is seen at once, and boosted anew from there.
        drop(told);
        let (cpu, told) = machine.start(Some(100));
        cpu.need(Need::Weights).unwrap();
        let _visit = Visit::begin(cpu.insert(WEB, "u-web"));
        machine.wait(WEB, 600);
        machine.schedule(|schedule| schedule.domain_mut(WEB).weight = 100);
        expect(&told, |states| {
            states.iter().any(|(_, state)| state.weight == 100)
        });
        machine.wait(WEB, 200);
        drop(cpu);
        assert_eq!(machine.weight(WEB), 100);
    }

    #[test]
    fn a_panic_undoes_it_too() {
        let machine = Machine::new();
        let sink = Box::new(|states: &[(DomId, CpuState)]| {
            assert!(
                states.iter().all(|(_, state)| state.weight != 77),
                "a test's"
            );
        });
        let cpu = Cpu::start(machine.options(Some(50)), &[], sink).unwrap();
        cpu.need(Need::Weights).unwrap();
        let _visit = Visit::begin(cpu.insert(WEB, "u-web"));
        machine.wait(WEB, 384);
        cpu.insert(DB, "u-db");
        machine.schedule(|schedule| schedule.domain_mut(DB).weight = 77);
        machine.wait(WEB, 256);
    }

    /// The process that is killed in the next test.
    const CHILD: &str = "VGPU_TEST_BOOST_DIR";

    #[test]
    fn what_a_killed_process_left_raised_is_undone_by_the_next() {
        if let Some(dir) = std::env::var_os(CHILD) {
            let dir = PathBuf::from(dir);
            let options = Options {
                platform: PlatformSpec::Local(dir.join("dom0")),
                boost: Some(50),
                boosts: dir.join("boost.json"),
            };
            let cpu = Cpu::start(options, &[], Box::new(|_| ())).unwrap();
            let domains = [(WEB, "u-web"), (DB, "u-db"), (DomId(3), "u-three")];
            let _visits = domains.map(|(domid, uuid)| Visit::begin(cpu.insert(domid, uuid)));
            std::thread::sleep(PATIENCE);
            return;
        }
        let machine = Machine::new();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cpu::tests::what_a_killed_process_left_raised_is_undone_by_the_next",
            ])
            .env(CHILD, machine.0.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        for domid in [WEB, DB, DomId(3)] {
            machine.wait(domid, 384);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for domid in [WEB, DB, DomId(3)] {
            assert_eq!(machine.weight(domid), 384);
        }
        // One has been set meanwhile, and one number has another domain now, which was given just that weight.
        machine.schedule(|schedule| schedule.domain_mut(DB).weight = 700);
        let (cpu, _told) = machine.start(None);
        assert_eq!(machine.weight(WEB), 256);
        assert_eq!(machine.weight(DB), 700);
        assert_eq!(machine.weight(DomId(3)), 384);
        assert!(!machine.file().exists());
        drop(cpu);
    }

    #[test]
    fn a_file_that_cannot_be_written_means_no_boost() {
        let machine = Machine::new();
        std::fs::create_dir_all(machine.file().with_extension("new")).unwrap();
        let (cpu, told) = machine.start(Some(50));
        let _visit = Visit::begin(cpu.insert(WEB, "u-web"));
        cpu.need(Need::States).unwrap();
        // Several looks, each of which would boost.
        for _ in 0..5 {
            expect(&told, |states| states.len() == 1);
        }
        assert_eq!(machine.weight(WEB), 256);
    }
}
