//! Who may come, and on which GPUs: guaranteed shares and memory of a GPU are never given out twice;
//! best-effort domains may be as many as like. It also turns guarantees into weights that keep them. It must
//! never move a domain that is there.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::description::{Description, GpuName, Gpus, size_text};
use crate::{DomainId, Share};

/// All of a GPU, in percent.
const WHOLE: u32 = 100;
/// What weights of domains on a GPU that has guarantees to keep add up to; also the largest weight.
const WEIGHTS: f64 = 65_535.0;

/// A GPU that there is. Its ordinal is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// As drivers and tools write it: `GPU-8c8a45fd-…`.
    pub uuid: String,
    /// Its model.
    pub name: String,
    /// Bytes of memory.
    pub memory: u64,
}

/// What is not given out of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Its time, in percent.
    pub share: u32,
    /// Its memory, in bytes.
    pub memory: u64,
    /// The weights of the domains that are on it.
    pub weights: u64,
}

/// What a GPU lacks for a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The GPU's ordinal.
    pub gpu: usize,
    /// Its UUID.
    pub uuid: String,
    /// What is not given out of it.
    pub room: Room,
    /// Its time that is asked for, in percent; 0 if there is enough.
    pub share: u32,
    /// Its memory that is asked for, in bytes; 0 if there is enough.
    pub memory: u64,
}

impl Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {} ({}) has ", self.gpu, self.uuid)?;
        if self.share > 0 {
            write!(
                f,
                "{} % of its time left to guarantee and {} % is asked for",
                self.room.share, self.share
            )?;
        }
        if self.share > 0 && self.memory > 0 {
            f.write_str(", ")?;
        }
        if self.memory > 0 {
            write!(
                f,
                "{} of memory left to guarantee and {} is asked for",
                size_text(self.room.memory),
                size_text(self.memory)
            )?;
        }
        Ok(())
    }
}

fn listed(items: &[impl Display]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join("; ")
}

/// Why a domain may not come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Nothing is known of GPUs.
    #[error("which GPUs there are is not known, so nothing of them can be guaranteed or chosen")]
    Unknown,
    /// It names a GPU that is not there, or not one alone.
    #[error(
        "{name} names {found} of the GPUs, and must name one; there are: {}",
        listed(there)
    )]
    Name {
        /// What it names.
        name: String,
        /// How many GPUs have that name.
        found: usize,
        /// The UUIDs of those that there are.
        there: Vec<String>,
    },
    /// There are too few altogether.
    #[error("{wanted} GPUs are asked for, and there are {there}")]
    TooFew {
        /// How many are asked for.
        wanted: usize,
        /// How many there are.
        there: usize,
    },
    /// There is not enough left of them.
    #[error(
        "room on {wanted} of the GPUs is asked for, and {fit} have it: {}",
        listed(missing)
    )]
    Missing {
        /// How many GPUs are asked for.
        wanted: usize,
        /// How many have room.
        fit: usize,
        /// What the others lack.
        missing: Vec<Missing>,
    },
}

#[derive(Debug)]
struct Admitted {
    description: Description,
    gpus: Vec<usize>,
}

/// The GPUs of a machine and the domains on them.
#[derive(Debug, Default)]
pub struct Admission {
    gpus: Vec<Gpu>,
    domains: BTreeMap<DomainId, Admitted>,
}

impl Admission {
    /// A machine on which nobody is. Without GPUs: which there are is not known yet.
    pub fn new(gpus: Vec<Gpu>) -> Self {
        Self {
            gpus,
            domains: BTreeMap::new(),
        }
    }

    /// The GPUs, in the driver's order; none as long as they are not known.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// The GPUs have become known. Those who came before that ask for nothing, and are on the first one from now
    /// on: there programs go that choose none. Whom this concerns.
    pub fn found(&mut self, gpus: Vec<Gpu>) -> Vec<DomainId> {
        self.gpus = gpus;
        let mut placed = Vec::new();
        for (id, admitted) in &mut self.domains {
            if admitted.gpus.is_empty() && !self.gpus.is_empty() {
                admitted.gpus.push(0);
                placed.push(*id);
            }
        }
        placed
    }

    /// What is left of a GPU, a domain aside.
    pub fn room(&self, gpu: usize, aside: Option<DomainId>) -> Room {
        let mut room = Room {
            share: WHOLE,
            memory: self.gpus.get(gpu).map_or(0, |gpu| gpu.memory),
            weights: 0,
        };
        for (id, admitted) in &self.domains {
            if Some(*id) != aside && admitted.gpus.contains(&gpu) {
                let guaranteed = admitted.description.guaranteed.unwrap_or(0);
                let reserved = admitted.description.reserved_memory();
                room.share = room.share.saturating_sub(guaranteed);
                room.memory = room.memory.saturating_sub(reserved);
                room.weights += u64::from(admitted.description.share().weight);
            }
        }
        room
    }

    /// Where a domain would come, in the order in which it would see its GPUs. `id` is who is aside: the
    /// domain itself, if it is there.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check(
        &self,
        id: Option<DomainId>,
        description: &Description,
    ) -> Result<Vec<usize>, Refusal> {
        if self.gpus.is_empty() {
            let undemanding =
                description.guaranteed.is_none() && description.gpus == Gpus::Count(1);
            return match undemanding {
                true => Ok(Vec::new()),
                false => Err(Refusal::Unknown),
            };
        }
        let (candidates, wanted) = match &description.gpus {
            Gpus::Count(count) => ((0..self.gpus.len()).collect(), *count),
            Gpus::These(names) => {
                let named = self.named(names)?;
                let wanted = named.len();
                (named, wanted)
            }
        };
        if candidates.len() < wanted {
            return Err(Refusal::TooFew {
                wanted,
                there: candidates.len(),
            });
        }
        self.fit(id, description, candidates, wanted)
    }

    /// The best `wanted` of some GPUs that have room.
    fn fit(
        &self,
        id: Option<DomainId>,
        description: &Description,
        mut candidates: Vec<usize>,
        wanted: usize,
    ) -> Result<Vec<usize>, Refusal> {
        let share = description.guaranteed.unwrap_or(0);
        let memory = description.reserved_memory();
        let mut missing = Vec::new();
        candidates.retain(|&gpu| {
            let room = self.room(gpu, id);
            let fits = room.share >= share && room.memory >= memory;
            if !fits {
                missing.push(Missing {
                    gpu,
                    uuid: self
                        .gpus
                        .get(gpu)
                        .map_or_else(String::new, |gpu| gpu.uuid.clone()),
                    room,
                    share: if room.share < share { share } else { 0 },
                    memory: if room.memory < memory { memory } else { 0 },
                });
            }
            fits
        });
        if candidates.len() < wanted {
            return Err(Refusal::Missing {
                wanted,
                fit: candidates.len(),
                missing,
            });
        }
        // Those named come as they were named; others where most is left, so that domains spread.
        if matches!(description.gpus, Gpus::Count(_)) {
            candidates.sort_by_cached_key(|&gpu| {
                let room = self.room(gpu, id);
                let rest = (u32::MAX - room.share, room.weights, u64::MAX - room.memory);
                (rest, gpu)
            });
            candidates.truncate(wanted);
        }
        Ok(candidates)
    }

    /// The GPUs that these names name, each once.
    fn named(&self, names: &[GpuName]) -> Result<Vec<usize>, Refusal> {
        let mut gpus = Vec::new();
        for name in names {
            let found: Vec<usize> = match name {
                GpuName::Ordinal(ordinal) => (0..self.gpus.len())
                    .filter(|&gpu| u32::try_from(gpu) == Ok(*ordinal))
                    .collect(),
                GpuName::Uuid(prefix) => {
                    let prefix = prefix.to_ascii_lowercase();
                    let is = |gpu: &Gpu| gpu.uuid.to_ascii_lowercase().starts_with(&prefix);
                    let all = self.gpus.iter().enumerate();
                    all.filter(|(_, gpu)| is(gpu)).map(|(at, _)| at).collect()
                }
            };
            match *found.as_slice() {
                [gpu] if !gpus.contains(&gpu) => gpus.push(gpu),
                // Two names of one GPU.
                [_] => {}
                _ => {
                    return Err(Refusal::Name {
                        name: name.to_string(),
                        found: found.len(),
                        there: self.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
                    });
                }
            }
        }
        Ok(gpus)
    }

    /// A domain comes, and has what it asks for from now on. The GPUs it is on, in its order.
    ///
    /// # Errors
    /// [`Refusal`]: then it is not there.
    pub fn attach(&mut self, id: DomainId, description: &Description) -> Result<&[usize], Refusal> {
        let gpus = self.check(Some(id), description)?;
        let admitted = Admitted {
            description: description.clone(),
            gpus,
        };
        self.domains.remove(&id);
        Ok(&self.domains.entry(id).or_insert(admitted).gpus)
    }

    /// A domain that is there asks for something else, on the GPUs where it is: what it says of GPUs counts
    /// when it next comes.
    ///
    /// # Errors
    /// [`Refusal`]: then it keeps what it had.
    pub fn update(&mut self, id: DomainId, description: &Description) -> Result<(), Refusal> {
        let Some(admitted) = self.domains.get(&id) else {
            return Ok(());
        };
        if !admitted.gpus.is_empty() {
            let (gpus, wanted) = (admitted.gpus.clone(), admitted.gpus.len());
            self.fit(Some(id), description, gpus, wanted)?;
        } else if description.guaranteed.is_some() {
            return Err(Refusal::Unknown);
        }
        if let Some(admitted) = self.domains.get_mut(&id) {
            admitted.description = description.clone();
        }
        Ok(())
    }

    /// A domain goes. Whether it was there.
    pub fn detach(&mut self, id: DomainId) -> bool {
        self.domains.remove(&id).is_some()
    }

    /// What a domain asked for, and the GPUs it is on.
    pub fn get(&self, id: DomainId) -> Option<(&Description, &[usize])> {
        let admitted = self.domains.get(&id)?;
        Some((&admitted.description, &admitted.gpus))
    }

    /// What each domain on a GPU is entitled to, with weights that keep the guarantees: see [`weights`].
    pub fn shares(&self, gpu: usize) -> Vec<(DomainId, Share)> {
        let here = self.domains.iter();
        let here: Vec<_> = here
            .filter(|(_, admitted)| admitted.gpus.contains(&gpu))
            .map(|(id, admitted)| (*id, &admitted.description))
            .collect();
        let wishes: Vec<_> = here
            .iter()
            .map(|(_, description)| {
                (
                    description.share().weight,
                    description.guaranteed.unwrap_or(0),
                )
            })
            .collect();
        let shares = here.iter().zip(weights(&wishes));
        shares
            .map(|((id, description), weight)| {
                let share = Share {
                    weight,
                    ..description.share()
                };
                (*id, share)
            })
            .collect()
    }
}

/// Weights under which each domain has its guaranteed part of a device however many want it, from pairs of
/// weight and guarantee in percent; the weights themselves where nothing is guaranteed.
///
/// The part of domain i is the larger of its guarantee and λ · weight i, with the one λ for which all parts
/// add up to the device; that is, domains with small guarantees or large weights share by weight what the
/// guarantees of the others leave. Who has less than all others wanting the device has more when some do not.
/// Weights are whole numbers and at least 1, so that n domains can take n / 65,535 from guarantees that
/// add up to all of the device.
pub fn weights(wishes: &[(u32, u32)]) -> Vec<u32> {
    if wishes.iter().all(|&(_, guaranteed)| guaranteed == 0) {
        return wishes.iter().map(|&(weight, _)| weight).collect();
    }
    let part = |guaranteed: u32| f64::from(guaranteed) / f64::from(WHOLE);
    let mut pinned = vec![false; wishes.len()];
    let level = loop {
        let all = || wishes.iter().zip(&pinned);
        let taken: f64 = all()
            .filter(|(_, pinned)| **pinned)
            .map(|((_, guaranteed), _)| part(*guaranteed))
            .sum();
        let sum: f64 = all()
            .filter(|(_, pinned)| !**pinned)
            .map(|((weight, _), _)| f64::from(*weight))
            .sum();
        let level = match sum > 0.0 {
            true => (1.0 - taken).max(0.0) / sum,
            false => 0.0,
        };
        let mut more = false;
        for ((weight, guaranteed), pinned) in wishes.iter().zip(&mut pinned) {
            if !*pinned && level * f64::from(*weight) < part(*guaranteed) {
                *pinned = true;
                more = true;
            }
        }
        if !more {
            break level;
        }
    };
    let weight = |(&(weight, guaranteed), pinned): (&(u32, u32), &bool)| {
        let exact = match pinned {
            true => (part(guaranteed) * WEIGHTS).ceil(),
            false => (level * f64::from(weight) * WEIGHTS).floor(),
        };
        exact.clamp(1.0, WEIGHTS) as u32
    };
    wishes.iter().zip(&pinned).map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Class;
    use proptest::prelude::*;

    fn gpu(number: usize, memory: u64) -> Gpu {
        Gpu {
            uuid: format!("GPU-{number:04x}-00"),
            name: "test".into(),
            memory,
        }
    }

    fn two() -> Admission {
        Admission::new(vec![gpu(0xa, 8 << 30), gpu(0xb, 8 << 30)])
    }

    fn sure(guaranteed: u32, gib: u64) -> Description {
        Description {
            guaranteed: Some(guaranteed),
            memory: Some(gib << 30),
            class: Class::RealTime,
            ..Description::default()
        }
    }

    fn plain(weight: u32) -> Description {
        Description {
            weight: Some(weight),
            ..Description::default()
        }
    }

    #[test]
    fn domains_spread_over_gpus() {
        let mut machine = two();
        assert_eq!(machine.attach(DomainId(1), &plain(256)).unwrap(), [0]);
        assert_eq!(machine.attach(DomainId(2), &plain(256)).unwrap(), [1]);
        assert_eq!(machine.attach(DomainId(3), &plain(256)).unwrap(), [0]);
        assert_eq!(machine.attach(DomainId(4), &sure(50, 4)).unwrap(), [1]);
        // By guarantees before weights: the first has more left.
        assert_eq!(machine.attach(DomainId(5), &plain(1000)).unwrap(), [0]);
        let both = Description {
            gpus: Gpus::Count(2),
            ..plain(1)
        };
        assert_eq!(machine.attach(DomainId(6), &both).unwrap(), [0, 1]);
        let named = Description {
            gpus: Gpus::These(vec![GpuName::Uuid("gpu-000B".into()), GpuName::Ordinal(0)]),
            ..plain(1)
        };
        assert_eq!(machine.attach(DomainId(7), &named).unwrap(), [1, 0]);
    }

    #[test]
    fn a_refusal_says_what_was_missing_where() {
        let mut machine = two();
        machine.attach(DomainId(1), &sure(70, 1)).unwrap();
        machine.attach(DomainId(2), &sure(10, 7)).unwrap();
        let refused = machine.attach(DomainId(3), &sure(40, 2)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "room on 1 of the GPUs is asked for, and 0 have it: GPU 0 (GPU-000a-00) has 30 % of its time left \
             to guarantee and 40 % is asked for; GPU 1 (GPU-000b-00) has 1 GiB of memory left to guarantee and \
             2 GiB is asked for"
        );
        // Best effort may always come.
        assert!(machine.attach(DomainId(4), &plain(1)).is_ok());
        // What is freed can be given out again.
        assert!(machine.detach(DomainId(2)));
        assert_eq!(machine.attach(DomainId(3), &sure(40, 2)).unwrap(), [1]);
        let three = Description {
            gpus: Gpus::Count(3),
            ..plain(1)
        };
        let text = machine.check(None, &three).unwrap_err().to_string();
        assert_eq!(text, "3 GPUs are asked for, and there are 2");
        let other = Description {
            gpus: Gpus::These(vec![GpuName::Uuid("GPU-00".into())]),
            ..plain(1)
        };
        let text = machine.check(None, &other).unwrap_err().to_string();
        assert!(text.contains("GPU-00 names 2"), "{text}");
    }

    #[test]
    fn an_update_stays_or_changes_nothing() {
        let mut machine = two();
        machine.attach(DomainId(1), &sure(50, 4)).unwrap();
        machine.attach(DomainId(2), &sure(50, 4)).unwrap();
        machine.attach(DomainId(3), &sure(50, 4)).unwrap();
        assert!(machine.update(DomainId(1), &sure(60, 4)).is_err());
        assert_eq!(machine.get(DomainId(1)).unwrap().0, &sure(50, 4));
        machine.update(DomainId(1), &sure(30, 5)).unwrap_err();
        machine.update(DomainId(1), &sure(30, 2)).unwrap();
        assert_eq!(machine.room(0, None).share, 20);
        assert_eq!(machine.get(DomainId(1)).unwrap().1, [0]);
    }

    #[test]
    fn before_the_gpus_are_known_only_the_undemanding_come() {
        let mut machine = Admission::default();
        assert_eq!(machine.attach(DomainId(1), &plain(5)), Ok(&[][..]));
        assert_eq!(
            machine.attach(DomainId(2), &sure(1, 1)),
            Err(Refusal::Unknown)
        );
        assert_eq!(machine.found(vec![gpu(1, 1 << 30)]), [DomainId(1)]);
        assert_eq!(machine.get(DomainId(1)).unwrap().1, [0]);
        assert_eq!(machine.attach(DomainId(2), &sure(1, 1)).unwrap(), [0]);
    }

    #[test]
    fn weights_without_guarantees_stay() {
        assert_eq!(weights(&[(1, 0), (2, 0), (65_535, 0)]), [1, 2, 65_535]);
        assert_eq!(weights(&[]), [0; 0]);
        // A guarantee that its weight gives it anyway changes no proportion.
        let kept = weights(&[(256, 10), (256, 0)]);
        assert_eq!(kept[0], kept[1]);
        // Half for the one, the rest one to three.
        let shared = weights(&[(1, 50), (100, 0), (300, 0)]);
        assert_eq!(shared[0], 32_768);
        assert!(shared[2].abs_diff(3 * shared[1]) <= 3, "{shared:?}");
    }

    fn wish() -> impl Strategy<Value = Description> {
        (
            proptest::option::of(1..=100_u32),
            proptest::option::of(1..=10_u64),
            prop_oneof![
                (1..=3_usize).prop_map(Gpus::Count),
                Just(Gpus::These(vec![GpuName::Ordinal(1)])),
                Just(Gpus::These(vec![GpuName::Ordinal(2), GpuName::Ordinal(0)])),
            ],
            1..=65_535_u32,
        )
            .prop_map(|(guaranteed, gib, gpus, weight)| Description {
                guaranteed,
                gpus,
                memory: gib.map(|gib| gib << 30),
                weight: Some(weight),
                ..Description::default()
            })
    }

    proptest! {
        /// Whatever comes, changes and goes: nothing guaranteed is given out twice, who is refused had no
        /// room, and in the end all is free again.
        #[test]
        fn guarantees_are_never_oversold(
            steps in proptest::collection::vec((0..3_u8, 0..12_u32, wish()), 0..60),
        ) {
            let sizes = [8_u64 << 30, 4 << 30, 6 << 30];
            let mut machine = Admission::new(
                sizes.iter().enumerate().map(|(number, &memory)| gpu(number, memory)).collect(),
            );
            for (step, id, wish) in steps {
                let id = DomainId(id);
                let before = machine.get(id).map(|(wish, gpus)| (wish.clone(), gpus.to_vec()));
                let rooms: Vec<Room> = (0..3).map(|gpu| machine.room(gpu, Some(id))).collect();
                let fits = |gpu: usize| {
                    rooms[gpu].share >= wish.guaranteed.unwrap_or(0)
                        && rooms[gpu].memory >= wish.reserved_memory()
                };
                match step {
                    0 => {
                        let possible = match &wish.gpus {
                            Gpus::Count(count) => (0..3).filter(|&gpu| fits(gpu)).count() >= *count,
                            Gpus::These(names) => names.iter().all(|name| match name {
                                GpuName::Ordinal(gpu) => fits(*gpu as usize),
                                GpuName::Uuid(_) => false,
                            }),
                        };
                        let came = machine.attach(id, &wish).map(<[usize]>::to_vec);
                        prop_assert_eq!(came.is_ok(), possible);
                        match came {
                            Ok(gpus) => {
                                let wanted = match &wish.gpus {
                                    Gpus::Count(count) => *count,
                                    Gpus::These(names) => names.len(),
                                };
                                prop_assert_eq!(gpus.len(), wanted);
                                for (at, gpu) in gpus.iter().enumerate() {
                                    prop_assert!(!gpus[..at].contains(gpu));
                                }
                            }
                            Err(_) => prop_assert_eq!(
                                machine.get(id).map(|(wish, gpus)| (wish.clone(), gpus.to_vec())),
                                before
                            ),
                        }
                    }
                    1 => {
                        let changed = machine.update(id, &wish);
                        if let Some((_, gpus)) = &before {
                            prop_assert_eq!(changed.is_ok(), gpus.iter().all(|&gpu| fits(gpu)));
                            prop_assert_eq!(machine.get(id).unwrap().1, gpus.as_slice());
                        }
                    }
                    _ => prop_assert_eq!(machine.detach(id), before.is_some()),
                }
                for (gpu, size) in sizes.iter().enumerate() {
                    let here: Vec<&Description> = (0..12)
                        .filter_map(|id| machine.get(DomainId(id)))
                        .filter(|(_, gpus)| gpus.contains(&gpu))
                        .map(|(wish, _)| wish)
                        .collect();
                    let share: u32 = here.iter().filter_map(|wish| wish.guaranteed).sum();
                    let memory: u64 = here.iter().map(|wish| wish.reserved_memory()).sum();
                    prop_assert!(share <= 100 && memory <= *size, "{share} {memory}");
                    let shares = machine.shares(gpu);
                    let sum: f64 = shares.iter().map(|(_, share)| f64::from(share.weight)).sum();
                    for (id, share) in shares {
                        let guaranteed = machine.get(id).unwrap().0.guaranteed.unwrap_or(0);
                        let part = f64::from(share.weight) / sum;
                        let slack = here.len() as f64 / WEIGHTS;
                        prop_assert!(part >= f64::from(guaranteed) / 100.0 - slack, "{part} {guaranteed}");
                    }
                }
            }
            for id in 0..12 {
                machine.detach(DomainId(id));
            }
            for (gpu, size) in sizes.iter().enumerate() {
                prop_assert_eq!(machine.room(gpu, None), Room { share: 100, memory: *size, weights: 0 });
            }
        }
    }
}
