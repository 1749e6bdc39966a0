//! What a hypervisor's scheduler knows of domains, on a machine without one: weights, caps and virtual processors, in
//! a file of domain 0's folder.
//!
//! People and tests write it (`xen-local sched`), whoever schedules by it reads it. It schedules nothing by itself, and
//! must never be half written: a change takes a lock and replaces the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::domain_folder;
use crate::platform::{DomId, Error, Result};

/// The file's name in the folder of domain 0.
pub const SCHEDULE_FILE: &str = "schedule.json";

/// Its name while it is being written.
pub(crate) const SCHEDULE_FILE_NEW: &str = "schedule.json.new";

/// The weight of a domain that was given none, as Xen's credit schedulers have it.
pub const DEFAULT_WEIGHT: u16 = 256;

/// All that the file says. A domain that it does not name has what [`Domain::default`] says.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The domains that were given something.
    pub domains: BTreeMap<DomId, Domain>,
}

/// One domain's processors.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Domain {
    /// Its weight: 1 to 65,535.
    pub weight: u16,
    /// Its cap in percent of one processor; 0 for none.
    pub cap: u16,
    /// Its virtual processors.
    pub vcpus: Vec<Vcpu>,
}

impl Default for Domain {
    fn default() -> Domain {
        Domain {
            weight: DEFAULT_WEIGHT,
            cap: 0,
            vcpus: vec![Vcpu::default()],
        }
    }
}

/// One virtual processor.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vcpu {
    /// What it does.
    pub state: VcpuState,
    /// Processor time that it has used, in nanoseconds.
    pub cpu_time_ns: u64,
}

/// What a virtual processor does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VcpuState {
    /// It is on a processor.
    #[default]
    Running,
    /// It wants to be.
    Runnable,
    /// It waits for an event.
    Blocked,
    /// The domain does not use it.
    Offline,
}

/// `STATE` or `STATE:NANOSECONDS`, as `xen-local sched --vcpu` takes it.
impl FromStr for Vcpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Vcpu, String> {
        let (state, time) = text.split_once(':').unwrap_or((text, "0"));
        let state = match state {
            "running" => VcpuState::Running,
            "runnable" => VcpuState::Runnable,
            "blocked" => VcpuState::Blocked,
            "offline" => VcpuState::Offline,
            _ => {
                return Err(format!(
                    "'{state}' is no state of a processor; there are running, runnable, blocked and offline"
                ));
            }
        };
        let cpu_time_ns = time
            .parse()
            .map_err(|_| format!("'{time}' is no number of nanoseconds"))?;
        Ok(Vcpu { state, cpu_time_ns })
    }
}

impl Schedule {
    /// The file of a machine whose `dir` xen-local serves.
    pub fn path(dir: &Path) -> PathBuf {
        domain_folder(dir, DomId(0)).join(SCHEDULE_FILE)
    }

    /// What a file says; nothing if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Invalid`] with the file's name.
    pub fn read(path: &Path) -> Result<Schedule> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
        };
        serde_json::from_slice(&text).map_err(|error| {
            Error::Invalid(format!(
                "{} is wrong: {error}; correct or remove it",
                path.display()
            ))
        })
    }

    /// Changes a file, one who changes it after the other. Readers see all of a change or none.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Invalid`] with the file's name; then nothing has changed.
    pub fn change<R>(path: &Path, change: impl FnOnce(&mut Schedule) -> Result<R>) -> Result<R> {
        let failed = |source| Error::io(format!("writing {}", path.display()), source);
        // The folder is there as long as the domain; a lock of the file itself would go with the file.
        let lock = File::open(path.parent().unwrap_or(path)).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        let mut schedule = Self::read(path)?;
        let result = change(&mut schedule)?;
        let text = serde_json::to_vec_pretty(&schedule).map_err(|error| failed(error.into()))?;
        let new = path.with_file_name(SCHEDULE_FILE_NEW);
        let mut file = File::create(&new).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)?;
        Ok(result)
    }

    /// What is said of a domain.
    pub fn domain(&self, domid: DomId) -> Domain {
        self.domains.get(&domid).cloned().unwrap_or_default()
    }

    /// The same, to change it.
    pub fn domain_mut(&mut self, domid: DomId) -> &mut Domain {
        self.domains.entry(domid).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_has_defaults_until_it_is_given_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SCHEDULE_FILE);
        let read = Schedule::read(&path).unwrap();
        assert_eq!(read.domain(DomId(3)), Domain::default());
        Schedule::change(&path, |schedule| {
            schedule.domain_mut(DomId(3)).weight = 512;
            Ok(())
        })
        .unwrap();
        let read = Schedule::read(&path).unwrap();
        assert_eq!(read.domain(DomId(3)).weight, 512);
        assert_eq!(read.domain(DomId(4)).weight, DEFAULT_WEIGHT);
    }

    #[test]
    fn changes_by_many_are_all_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SCHEDULE_FILE);
        std::thread::scope(|scope| {
            for domid in 1..=4 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        Schedule::change(path, |schedule| {
                            schedule.domain_mut(DomId(domid)).weight += 1;
                            Ok(())
                        })
                        .unwrap();
                        Schedule::read(path).unwrap();
                    }
                });
            }
        });
        let read = Schedule::read(&path).unwrap();
        for domid in 1..=4 {
            assert_eq!(read.domain(DomId(domid)).weight, DEFAULT_WEIGHT + 20);
        }
    }

    #[test]
    fn a_file_that_is_wrong_is_named_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SCHEDULE_FILE);
        std::fs::write(&path, "{\"domains\":{\"1\":{\"wieght\":3}}}").unwrap();
        let error = Schedule::change(&path, |_| Ok(())).unwrap_err().to_string();
        assert!(
            error.contains("wieght") && error.contains(SCHEDULE_FILE),
            "{error}"
        );
        assert!(std::fs::read_to_string(&path).unwrap().contains("wieght"));
    }

    #[test]
    fn processors_are_read_from_words() {
        let vcpu = |state, cpu_time_ns| Ok(Vcpu { state, cpu_time_ns });
        assert_eq!("running".parse::<Vcpu>(), vcpu(VcpuState::Running, 0));
        assert_eq!("blocked:17".parse::<Vcpu>(), vcpu(VcpuState::Blocked, 17));
        for wrong in ["", "asleep", "running:", "running:x"] {
            assert!(wrong.parse::<Vcpu>().is_err(), "{wrong}");
        }
    }
}
