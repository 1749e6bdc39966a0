//! The local platform's hypervisor: weights and virtual processors are what `xen-local sched` has put into a file.
//! Reading it is all there is to it; nothing is scheduled by it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use xen::DomId;
use xen::local::schedule::{SCHEDULE_FILE, Schedule, VcpuState};

use crate::{Error, Hypervisor, Parameters, Scheduler, Vcpu};

/// The file.
#[derive(Debug)]
pub struct LocalFile(PathBuf);

impl LocalFile {
    /// That in a domain's folder of the local platform; only domain 0's is ever written.
    ///
    /// # Errors
    /// It is there and makes no sense.
    pub fn open(folder: &Path) -> Result<LocalFile, Error> {
        let file = LocalFile(folder.join(SCHEDULE_FILE));
        Schedule::read(&file.0)?;
        Ok(file)
    }
}

impl Hypervisor for LocalFile {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn parameters(&self, domid: DomId) -> Result<Parameters, Error> {
        let domain = Schedule::read(&self.0)?.domain(domid);
        Ok(Parameters {
            scheduler: Scheduler::Credit2,
            weight: domain.weight,
            cap: Some(domain.cap).filter(|cap| *cap != 0),
        })
    }

    fn set_weight(&self, domid: DomId, weight: u16) -> Result<(), Error> {
        Ok(Schedule::change(&self.0, |schedule| {
            schedule.domain_mut(domid).weight = weight;
            Ok(())
        })?)
    }

    fn vcpu(&self, domid: DomId, number: u32) -> Result<Option<Vcpu>, Error> {
        let domain = Schedule::read(&self.0)?.domain(domid);
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        Ok(domain.vcpus.get(number).map(|vcpu| Vcpu {
            online: vcpu.state != VcpuState::Offline,
            blocked: vcpu.state == VcpuState::Blocked,
            running: vcpu.state == VcpuState::Running,
            cpu_time: Duration::from_nanos(vcpu.cpu_time_ns),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says_is_what_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = LocalFile::open(folder.path()).unwrap();
        let domid = DomId(3);
        assert_eq!(file.parameters(domid).unwrap().weight, 256);
        file.set_weight(domid, 512).unwrap();
        Schedule::change(&file.0, |schedule| {
            let domain = schedule.domain_mut(domid);
            domain.cap = 50;
            domain.vcpus = vec!["blocked:9".parse().unwrap(), "offline".parse().unwrap()];
            Ok(())
        })
        .unwrap();
        assert_eq!(
            file.parameters(domid).unwrap(),
            Parameters {
                scheduler: Scheduler::Credit2,
                weight: 512,
                cap: Some(50)
            }
        );
        let of = |online, blocked, nanos| Vcpu {
            online,
            blocked,
            running: false,
            cpu_time: Duration::from_nanos(nanos),
        };
        let vcpu = |number| file.vcpu(domid, number).unwrap();
        assert_eq!(vcpu(0), Some(of(true, true, 9)));
        assert_eq!(vcpu(1), Some(of(false, false, 0)));
        assert_eq!(vcpu(2), None);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SCHEDULE_FILE), "{").unwrap();
        let error = LocalFile::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(SCHEDULE_FILE), "{error}");
    }
}
