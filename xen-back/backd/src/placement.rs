//! Which domain is on which GPU, with what: the seat that each domain has here from the moment that its device
//! is served until it goes.
//!
//! The decisions are `vgpu_sched::admission`'s; this keeps them in force: limits, quotas, and what to tell whom.
//! A domain that is refused is asked about again when something has become free. Must never let a worker start
//! for a domain that was not let in.

use crate::cpu::Presence;
use crate::gpu::{self, Membership, Sharing};
use crate::limits::{Account, Limits};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vgpu_protocol::backend::Probed;
use vgpu_protocol::packet::PacketError;
use vgpu_protocol::quota::QuotaBack;
use vgpu_protocol::wait::Wake;
use vgpu_sched::admission::{Admission, Gpu, Refusal};
use vgpu_sched::description::Description;
use vgpu_sched::{DomainId, Share};
use xen::{DomId, PAGE_SIZE};

/// What is known of GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// They are being looked for: whoever comes waits.
    NotYet,
    /// The driver does not tell, and why: only those who ask for nothing are let in.
    Failed(String),
    /// Those of the admission.
    Found,
}

#[derive(Debug)]
struct State {
    known: Known,
    admission: Admission,
    seats: BTreeMap<u16, Weak<Seat>>,
    sharing: Sharing,
    /// The threads of the GPUs, by number. One without a name as long as the GPUs are not known.
    gpus: Vec<Arc<gpu::Gpu>>,
    /// What a context takes on each, in bytes.
    contexts: Vec<u64>,
    /// What each GPU was told last of each domain on it.
    told: BTreeMap<(usize, DomainId), Share>,
}

/// All seats.
#[derive(Debug)]
pub struct Placement {
    state: Mutex<State>,
    /// The limits of a domain that has none of its own, and of all.
    account: Account,
    /// Woken when something has become free.
    freed: Arc<Wake>,
}

/// What a device may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It may be offered.
    Yes,
    /// It is not known yet.
    NotYet,
    /// It may not, and why.
    Refused(String),
}

/// What a domain is and has here. Its devices share it; it is given back with the last of them.
#[derive(Debug)]
pub struct Seat {
    placement: Arc<Placement>,
    domid: u16,
    name: String,
    /// What it asks for, or why that is not known.
    wish: Mutex<Result<Description, String>>,
    /// When it is on a GPU, for who watches its processors.
    presence: Arc<Presence>,
    admitted: Mutex<Option<Admitted>>,
    account: Account,
    quota: Arc<QuotaBack>,
}

/// The GPUs that a domain is on.
#[derive(Debug)]
struct Admitted {
    gpus: Vec<usize>,
    /// `CUDA_VISIBLE_DEVICES` of its workers.
    visible: Option<String>,
    membership: Arc<Membership>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn id(domid: u16) -> DomainId {
    DomainId(domid.into())
}

impl Placement {
    /// Nobody is here, and no GPU is known. `freed` is woken when a refused domain may be asked about again.
    pub fn new(account: Account, sharing: Sharing, freed: Arc<Wake>) -> Placement {
        Placement {
            state: Mutex::new(State {
                known: Known::NotYet,
                admission: Admission::default(),
                seats: BTreeMap::new(),
                sharing,
                gpus: Vec::new(),
                contexts: Vec::new(),
                told: BTreeMap::new(),
            }),
            account,
            freed,
        }
    }

    /// A domain's seat: the one that it has, or one that is not let in yet.
    ///
    /// # Errors
    /// If the system has no memory or no descriptor for it.
    pub fn seat(
        self: &Arc<Self>,
        domid: DomId,
        name: &str,
        wish: Result<Description, String>,
        presence: Arc<Presence>,
    ) -> Result<Arc<Seat>, PacketError> {
        let mut state = lock(&self.state);
        if let Some(seat) = state.seats.get(&domid.0).and_then(Weak::upgrade) {
            return Ok(seat);
        }
        let seat = Arc::new(Seat {
            placement: self.clone(),
            domid: domid.0,
            name: name.to_owned(),
            wish: Mutex::new(wish),
            presence,
            admitted: Mutex::default(),
            account: self.account.of_another(),
            quota: Arc::new(QuotaBack::new()?),
        });
        state.seats.insert(domid.0, Arc::downgrade(&seat));
        Ok(seat)
    }

    /// The GPUs are known.
    pub fn found(&self, probed: &[Probed]) {
        let gpus = probed.iter().map(|gpu| Gpu {
            uuid: gpu.uuid.clone(),
            name: gpu.name.clone(),
            memory: gpu.memory,
        });
        let mut state = lock(&self.state);
        state.known = Known::Found;
        state.contexts = probed.iter().map(|gpu| gpu.context).collect();
        let late = state.admission.found(gpus.collect());
        for gpu in probed.iter().skip(state.gpus.len()) {
            state.start(&gpu.name);
        }
        let late = late.iter().filter_map(|DomainId(domid)| {
            let domid = u16::try_from(*domid).ok()?;
            state.seats.get(&domid)?.upgrade()
        });
        let late: Vec<Arc<Seat>> = late.collect();
        for seat in &late {
            if let Some(admitted) = &mut *lock(&seat.admitted) {
                (admitted.gpus, admitted.visible) = state.place(seat.domid);
                seat.count_contexts(&state, &admitted.gpus);
            }
        }
        // Before the seats, whose ends want the lock.
        drop(state);
        drop(late);
        self.freed.wake();
    }

    /// The GPUs cannot be found, and why.
    pub fn not_found(&self, why: &str) {
        let mut state = lock(&self.state);
        if state.known != Known::Found {
            state.known = Known::Failed(why.to_owned());
            // Work is measured all the same, as that of one GPU.
            if state.gpus.is_empty() {
                state.start("");
            }
        }
        drop(state);
        self.freed.wake();
    }

    /// The threads of the GPUs.
    pub fn gpus(&self) -> Vec<Arc<gpu::Gpu>> {
        lock(&self.state).gpus.clone()
    }

    /// Holds domains whose memory is not guaranteed, all together, to what the guarantees on their GPUs leave. To be
    /// called about ten times a second as long as it says so: what they allocate at once meanwhile may be more.
    pub fn balance(&self) -> bool {
        let seats = self.seats();
        let state = lock(&self.state);
        let mut needed = false;
        for (number, gpu) in state.admission.gpus().iter().enumerate() {
            let mut kept = 0u64;
            let mut others = Vec::new();
            for seat in &seats {
                let Some((wish, gpus)) = state.admission.get(id(seat.domid)) else {
                    continue;
                };
                let Some(ordinal) = gpus.iter().position(|on| *on == number) else {
                    continue;
                };
                match wish.reserved_memory() {
                    0 => others.push((seat, ordinal, seat.quota.used(ordinal))),
                    reserved => kept = kept.saturating_add(reserved),
                }
            }
            let used: u64 = others
                .iter()
                .fold(0, |sum, (_, _, used)| u64::saturating_add(sum, *used));
            let bounded = kept > 0 && !others.is_empty();
            for (seat, ordinal, own) in others {
                let taken = kept.saturating_add(used.saturating_sub(own));
                let bound = bounded.then(|| gpu.memory.saturating_sub(taken));
                seat.quota.set_bound(ordinal, bound);
            }
            needed |= bounded;
        }
        // Before the seats, whose ends want the lock.
        drop(state);
        needed
    }

    /// The seat of a domain that is here.
    pub fn find(&self, domid: u16) -> Option<Arc<Seat>> {
        lock(&self.state).seats.get(&domid)?.upgrade()
    }

    /// All seats.
    pub fn seats(&self) -> Vec<Arc<Seat>> {
        let state = lock(&self.state);
        state.seats.values().filter_map(Weak::upgrade).collect()
    }

    /// A GPU's memory in bytes, if it is known.
    pub fn memory(&self, gpu: u32) -> Option<u64> {
        let state = lock(&self.state);
        let gpu = state.admission.gpus().get(gpu as usize)?;
        Some(gpu.memory)
    }

    /// Where a domain with this description would come, or why it would not. `domid`: whose place it would be, if
    /// it is here.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn check(&self, domid: Option<u16>, wish: &Description) -> Result<Vec<u32>, String> {
        wish.check().map_err(|error| error.to_string())?;
        let state = lock(&self.state);
        let gpus = state.admission.check(domid.map(id), wish);
        let gpus = gpus.map_err(|refusal| state.refused(&refusal))?;
        Ok(gpus.into_iter().map(number).collect())
    }
}

fn number(gpu: usize) -> u32 {
    u32::try_from(gpu).unwrap_or(u32::MAX)
}

impl State {
    /// A refusal, with what is known about its cause.
    fn refused(&self, refusal: &Refusal) -> String {
        match (refusal, &self.known) {
            (Refusal::Unknown, Known::Failed(why)) => format!("{refusal}: {why}"),
            _ => refusal.to_string(),
        }
    }

    /// Starts the thread of the next GPU.
    fn start(&mut self, name: &str) {
        let number = number(self.gpus.len());
        match gpu::Gpu::start(number, name, &self.sharing) {
            Ok(gpu) => self.gpus.push(Arc::new(gpu)),
            Err(error) => {
                tracing::error!(gpu = number, %error, "no thread for a GPU; its work is not shared out");
            }
        }
    }

    /// The GPUs that a domain is on, and `CUDA_VISIBLE_DEVICES` of its workers.
    fn place(&self, domid: u16) -> (Vec<usize>, Option<String>) {
        let Some((_, gpus)) = self.admission.get(id(domid)) else {
            return (Vec::new(), None);
        };
        let uuids = gpus
            .iter()
            .filter_map(|gpu| self.admission.gpus().get(*gpu));
        let uuids: Vec<&str> = uuids.map(|gpu| gpu.uuid.as_str()).collect();
        let visible = (!uuids.is_empty()).then(|| uuids.join(","));
        (gpus.to_vec(), visible)
    }

    /// Tells GPUs what has changed of the shares on them: one domain's guarantee changes the others' weights.
    fn tell(&mut self, gpus: &[usize]) {
        for &number in gpus {
            let shares = self.admission.shares(number);
            let here = |id: DomainId| shares.iter().any(|(there, _)| *there == id);
            self.told.retain(|(gpu, id), _| *gpu != number || here(*id));
            for (id, share) in shares {
                let before = self.told.insert((number, id), share);
                let (Some(gpu), Ok(domid)) = (self.gpus.get(number), u16::try_from(id.0)) else {
                    continue;
                };
                if before != Some(share) {
                    gpu.share(domid, share);
                }
            }
        }
    }
}

impl Seat {
    /// Lets the domain in, if there is room and it is not in already.
    pub fn enter(&self) -> Entry {
        // Before the wish, which changes under it.
        let mut state = lock(&self.placement.state);
        let wish = match &*lock(&self.wish) {
            Ok(wish) => wish.clone(),
            Err(error) => return Entry::Refused(error.clone()),
        };
        let mut admitted = lock(&self.admitted);
        if admitted.is_some() {
            return Entry::Yes;
        }
        if state.known == Known::NotYet {
            return Entry::NotYet;
        }
        if let Err(refusal) = state.admission.attach(id(self.domid), &wish) {
            return Entry::Refused(state.refused(&refusal));
        }
        let (gpus, visible) = state.place(self.domid);
        let threads: Vec<_> = match gpus.as_slice() {
            // Not known: what runs is on the one that stands for all.
            [] => state.gpus.clone(),
            gpus => gpus
                .iter()
                .filter_map(|gpu| state.gpus.get(*gpu).cloned())
                .collect(),
        };
        let membership = Membership::new(
            &threads,
            self.domid,
            &self.name,
            wish.share(),
            wish.limits(),
        );
        for gpu in &threads {
            gpu.presence(self.domid, self.presence.clone());
        }
        // Whatever a predecessor of the same number was.
        state.told.retain(|(_, there), _| *there != id(self.domid));
        state.tell(&gpus);
        self.count_contexts(&state, &gpus);
        *admitted = Some(Admitted {
            gpus,
            visible,
            membership: Arc::new(membership),
        });
        self.limit(&wish);
        // What the others may have is another from now on.
        self.placement.freed.wake();
        Entry::Yes
    }

    /// The domain asks for something else from now on. What it has of GPUs stays; a share or memory that is not
    /// there is not given, and then all stays as it was.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn change(&self, wish: Description) -> Result<(), String> {
        self.revise(|_| Ok(wish))
    }

    /// The same, from what it asks for now, or why that is not known: others that change it wait meanwhile.
    ///
    /// # Errors
    /// What is missing, in words, or why there is no change.
    pub fn revise(
        &self,
        change: impl FnOnce(Result<Description, String>) -> Result<Description, String>,
    ) -> Result<(), String> {
        let mut state = lock(&self.placement.state);
        let before = lock(&self.wish).clone();
        let wish = change(before)?;
        if let Some(admitted) = &*lock(&self.admitted) {
            let changed = state.admission.update(id(self.domid), &wish);
            changed.map_err(|refusal| state.refused(&refusal))?;
            self.limit(&wish);
            admitted.membership.limit(wish.limits());
            match admitted.gpus.as_slice() {
                [] => admitted.membership.share(wish.share()),
                gpus => state.tell(gpus),
            }
        }
        *lock(&self.wish) = Ok(wish);
        drop(state);
        // It may have given something back.
        self.placement.freed.wake();
        Ok(())
    }

    /// What the domain asks for, if that is known.
    pub fn wish(&self) -> Option<Description> {
        lock(&self.wish).clone().ok()
    }

    /// Tells its workers what a context counts on each of its GPUs.
    fn count_contexts(&self, state: &State, gpus: &[usize]) {
        for (ordinal, gpu) in gpus.iter().enumerate() {
            let bytes = state.contexts.get(*gpu).copied().unwrap_or(0);
            self.quota.set_context(ordinal, bytes);
        }
    }

    fn limit(&self, wish: &Description) {
        let standard = self.placement.account.limits();
        let pages = |bytes: u64| u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX);
        self.account.set_limits(Limits {
            channels: wish.channels.unwrap_or(standard.channels),
            pages: wish.mapped.map_or(standard.pages, pages),
        });
        self.quota.set_limit(wish.memory);
    }

    /// What the domain has mapped and open, against its limits.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Its device memory, for its workers.
    pub fn quota(&self) -> &Arc<QuotaBack> {
        &self.quota
    }

    /// The GPUs that it is on, in its order.
    pub fn gpus(&self) -> Vec<u32> {
        let admitted = lock(&self.admitted);
        let gpus = admitted.iter().flat_map(|admitted| &admitted.gpus);
        gpus.map(|gpu| number(*gpu)).collect()
    }

    /// `CUDA_VISIBLE_DEVICES` of its workers; none where GPUs are not known.
    pub fn visible(&self) -> Option<String> {
        lock(&self.admitted).as_ref()?.visible.clone()
    }

    /// Its place on its GPUs, once it is let in.
    pub fn membership(&self) -> Option<Arc<Membership>> {
        Some(lock(&self.admitted).as_ref()?.membership.clone())
    }

    /// The domain's number.
    pub fn domid(&self) -> u16 {
        self.domid
    }

    /// Something is known now that keeps the domain out, or its file is good again.
    pub fn wrong(&self, why: String) {
        let mut wish = lock(&self.wish);
        if wish.is_err() {
            *wish = Err(why);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = lock(&self.placement.state);
        // Another may have come by the same number meanwhile.
        let gone = |seat: &Weak<Seat>| seat.strong_count() == 0;
        if state.seats.get(&self.domid).is_some_and(gone) {
            state.seats.remove(&self.domid);
            state.admission.detach(id(self.domid));
            let admitted = lock(&self.admitted).take();
            if let Some(admitted) = admitted {
                state.tell(&admitted.gpus);
            }
        }
        drop(state);
        self.placement.freed.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_protocol::quota::QuotaWorker;
    use vgpu_protocol::wait::is_ready;

    const ALL: Limits = Limits {
        channels: 8,
        pages: 800,
    };

    fn placement() -> (Arc<Placement>, Arc<Wake>) {
        let freed = Arc::new(Wake::new().unwrap());
        let sharing = Sharing {
            policy: vgpu_sched::PolicyKind::Fair,
            longest: None,
        };
        let placement = Placement::new(Account::new(ALL, ALL), sharing, freed.clone());
        (Arc::new(placement), freed)
    }

    fn gpus(memory: &[u64]) -> Vec<Probed> {
        let probed = |(number, memory): (usize, &u64)| Probed {
            uuid: format!("GPU-{number}"),
            name: "test".into(),
            memory: *memory,
            capability: (8, 0),
            context: number as u64 * 1000,
        };
        memory.iter().enumerate().map(probed).collect()
    }

    /// What workers are told that a context takes on the first GPU.
    fn context_of(seat: &Seat) -> u64 {
        let slot = seat.quota().take_slot().unwrap();
        let mut fds = Vec::new();
        let wire = seat.quota().put(slot, &mut fds);
        QuotaWorker::take(&wire, &fds).unwrap().context(0)
    }

    fn sure(guaranteed: u32, memory: u64) -> Result<Description, String> {
        Ok(Description {
            guaranteed: Some(guaranteed),
            memory: Some(memory),
            ..Description::default()
        })
    }

    #[test]
    fn a_refused_domain_comes_in_when_another_has_gone() {
        let (placement, freed) = placement();
        let first = placement
            .seat(DomId(1), "d1", sure(60, 1 << 20), Arc::default())
            .unwrap();
        assert_eq!(first.enter(), Entry::NotYet);
        placement.found(&gpus(&[1 << 30]));
        assert_eq!((first.enter(), first.enter()), (Entry::Yes, Entry::Yes));
        assert_eq!(first.visible().as_deref(), Some("GPU-0"));
        let second = placement
            .seat(DomId(2), "d2", sure(50, 1 << 20), Arc::default())
            .unwrap();
        let Entry::Refused(why) = second.enter() else {
            panic!()
        };
        assert!(
            why.contains("40 % of its time") && why.contains("50 %"),
            "{why}"
        );
        assert_eq!(second.gpus(), [0; 0]);
        // Both devices of a domain have one seat.
        let again = placement
            .seat(DomId(1), "d1", sure(1, 1 << 20), Arc::default())
            .unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        drop(first);
        assert_eq!(second.enter(), Entry::Refused(why.clone()));
        freed.clear();
        drop(again);
        assert!(is_ready(&*freed));
        assert_eq!(second.enter(), Entry::Yes);
        assert_eq!(second.gpus(), [0]);
    }

    #[test]
    fn a_change_holds_at_once_or_not_at_all() {
        let (placement, _) = placement();
        placement.found(&gpus(&[1 << 30]));
        let seat = placement
            .seat(DomId(1), "d1", sure(50, 1 << 20), Arc::default())
            .unwrap();
        assert_eq!(seat.enter(), Entry::Yes);
        let other = placement
            .seat(DomId(2), "d2", sure(50, 1 << 20), Arc::default())
            .unwrap();
        assert_eq!(other.enter(), Entry::Yes);
        let more = Description {
            channels: Some(3),
            ..sure(60, 1 << 20).unwrap()
        };
        assert!(seat.change(more.clone()).is_err());
        assert_eq!(seat.account().limits(), ALL);
        let less = Description {
            guaranteed: Some(20),
            mapped: Some(40 << 10),
            ..more
        };
        seat.change(less.clone()).unwrap();
        assert_eq!(
            seat.account().limits(),
            Limits {
                channels: 3,
                pages: 10
            }
        );
        assert_eq!(seat.wish(), Some(less.clone()));
        // A guarantee holds whatever the weights of others are.
        let plain = Description {
            weight: Some(60_000),
            ..Description::default()
        };
        let heavy = placement
            .seat(DomId(3), "d3", Ok(plain), Arc::default())
            .unwrap();
        assert_eq!(heavy.enter(), Entry::Yes);
        let stats = placement.gpus()[0].stats().unwrap();
        let weights: Vec<(u16, u32)> = stats
            .domains
            .iter()
            .map(|domain| (domain.domid, domain.weight))
            .collect();
        assert_eq!(weights, [(1, 13_107), (2, 32_768), (3, 19_660)]);
        drop((heavy, other));
        let stats = placement.gpus()[0].stats().unwrap();
        assert_eq!(stats.domains.len(), 1);
        let other = placement
            .seat(DomId(2), "d2", sure(50, 1 << 20), Arc::default())
            .unwrap();
        assert_eq!(other.enter(), Entry::Yes);
        assert_eq!(placement.check(Some(1), &less), Ok(vec![0]));
        assert_eq!(
            placement.check(None, &sure(30, 1 << 20).unwrap()),
            Ok(vec![0])
        );
        assert!(placement.check(None, &sure(31, 1 << 20).unwrap()).is_err());
    }

    #[test]
    fn a_guarantee_grows_into_what_is_left_and_no_further() {
        let (placement, freed) = placement();
        placement.found(&gpus(&[1 << 30]));
        let come = |domid: u16, wish| {
            let seat = placement.seat(DomId(domid), "d", wish, Arc::default());
            let seat = seat.unwrap();
            (seat.enter(), seat)
        };
        let (entry, one) = come(1, sure(40, 512 << 20));
        assert_eq!(entry, Entry::Yes);
        let (entry, other) = come(2, sure(30, 256 << 20));
        assert_eq!(entry, Entry::Yes);
        let slot = one.quota().take_slot().unwrap();
        let mut fds = Vec::new();
        let worker = QuotaWorker::take(&one.quota().put(slot, &mut fds), &fds).unwrap();
        worker.reserve(0, 500 << 20).unwrap();
        let ask = |seat: &Seat, guaranteed, memory| {
            seat.revise(|wish| {
                Ok(Description {
                    guaranteed,
                    memory,
                    ..wish?
                })
            })
        };

        // What is missing is told, and nothing of the change holds, what there would be room for included.
        for (guaranteed, memory, why) in [
            (71, 512, "70 % of its time left to guarantee and 71 %"),
            (
                70,
                769,
                "768 MiB of memory left to guarantee and 769 MiB is asked for",
            ),
        ] {
            let told = ask(&one, Some(guaranteed), Some(memory << 20)).unwrap_err();
            assert!(told.contains(why), "{told}");
            assert_eq!(one.wish(), sure(40, 512 << 20).ok());
            assert_eq!(worker.limit(0), Some(512 << 20));
            let left =
                |percent, mib: u64| placement.check(None, &sure(percent, mib << 20).unwrap());
            assert_eq!(left(30, 256), Ok(vec![0]));
            assert!(left(31, 256).is_err() && left(30, 257).is_err());
        }

        // To the last percent and byte.
        ask(&one, Some(70), Some(768 << 20)).unwrap();
        assert_eq!(worker.limit(0), Some(768 << 20));
        let (entry, third) = come(3, sure(10, 100 << 20));
        assert!(matches!(entry, Entry::Refused(_)));
        assert!(ask(&other, Some(31), Some(256 << 20)).is_err());

        // A smaller quota takes nothing away, and what is given back lets another in.
        freed.clear();
        ask(&one, Some(60), Some(100 << 20)).unwrap();
        assert!(is_ready(&*freed));
        assert_eq!(
            (worker.used(0), worker.limit(0)),
            (500 << 20, Some(100 << 20))
        );
        assert!(worker.reserve(0, 1).is_err());
        assert_eq!(third.enter(), Entry::Yes);
        // Without a guarantee its memory is a limit alone.
        ask(&one, None, Some(2 << 30)).unwrap();
        ask(&other, Some(90), Some(900 << 20)).unwrap();
        assert_eq!(worker.limit(0), Some(2 << 30));

        // One that is refused asks for less.
        let (entry, late) = come(4, sure(1, 1 << 20));
        assert!(matches!(entry, Entry::Refused(_)));
        ask(&late, None, None).unwrap();
        assert_eq!(late.enter(), Entry::Yes);
        // Whose file is wrong has nothing that could change.
        let (_, broken) = come(5, Err("d5.toml is wrong".into()));
        assert_eq!(ask(&broken, None, None), Err("d5.toml is wrong".to_owned()));
    }

    #[test]
    fn memory_that_is_guaranteed_is_not_others_to_take() {
        let (placement, _) = placement();
        placement.found(&gpus(&[1 << 30]));
        let plain = |domid: u16| {
            let seat = placement.seat(
                DomId(domid),
                "d",
                Ok(Description::default()),
                Arc::default(),
            );
            let seat = seat.unwrap();
            assert_eq!(seat.enter(), Entry::Yes);
            let slot = seat.quota().take_slot().unwrap();
            let mut fds = Vec::new();
            let wire = seat.quota().put(slot, &mut fds);
            (seat, QuotaWorker::take(&wire, &fds).unwrap())
        };
        let ((_one, a), (_other, b)) = (plain(1), plain(2));
        assert!(!placement.balance());
        a.reserve(0, 100 << 20).unwrap();
        let sure = placement.seat(DomId(3), "d3", sure(10, 800 << 20), Arc::default());
        let sure = sure.unwrap();
        assert_eq!(sure.enter(), Entry::Yes);
        assert!(placement.balance());
        assert_eq!((a.limit(0), a.bound(0)), (None, Some(224 << 20)));
        assert_eq!(b.bound(0), Some(124 << 20));
        b.reserve(0, 124 << 20).unwrap();
        assert!(placement.balance());
        assert_eq!(a.bound(0), Some(100 << 20));
        assert!(a.reserve(0, 1).is_err());
        drop(sure);
        assert!(!placement.balance());
        a.reserve(0, 1).unwrap();
    }

    #[test]
    fn without_gpus_who_asks_for_nothing_comes_in() {
        let (placement, _) = placement();
        let plain = placement
            .seat(DomId(1), "d1", Ok(Description::default()), Arc::default())
            .unwrap();
        let broken = placement
            .seat(
                DomId(3),
                "d3",
                Err("x.toml is wrong".into()),
                Arc::default(),
            )
            .unwrap();
        let sure = placement
            .seat(DomId(2), "d2", sure(1, 1 << 20), Arc::default())
            .unwrap();
        placement.not_found("the driver is broken");
        assert_eq!(plain.enter(), Entry::Yes);
        assert_eq!(plain.visible(), None);
        let Entry::Refused(why) = sure.enter() else {
            panic!()
        };
        assert!(why.ends_with("the driver is broken"), "{why}");
        placement.found(&gpus(&[1 << 30, 1 << 30]));
        assert_eq!(plain.visible().as_deref(), Some("GPU-0"));
        // The other has the other, and is told what a context takes there.
        assert_eq!(sure.enter(), Entry::Yes);
        assert_eq!((plain.gpus(), sure.gpus()), (vec![0], vec![1]));
        assert_eq!((context_of(&plain), context_of(&sure)), (0, 1000));
        assert_eq!(broken.enter(), Entry::Refused("x.toml is wrong".into()));
    }
}
