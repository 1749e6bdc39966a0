//! What a toolstack in dom0 does with domains, for a machine where there is none.
//!
//! It talks to the server as any process in dom0 does, and gives a domain the nodes and permissions
//! that libxl gives it. It must never write what belongs to a device: that is the backend's toolstack.

use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;

use super::schedule::Schedule;
use super::{Local, domain_folder};
use crate::platform::{DomId, Error, Platform, Result};
use crate::store::{Permission, Store};

/// Folders of `/local/domain/N` that the guest reads.
const READABLE: [&str; 4] = ["cpu", "memory", "device", "control"];

/// Folders and nodes of `/local/domain/N` that the guest owns.
const OWNED: [&str; 7] = [
    "control/shutdown",
    "device/suspend/event-channel",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
];

/// A domain as `list` shows it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct DomainInfo {
    /// Its number.
    pub domid: DomId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its UUID, which a reboot keeps; dom0 has none.
    pub uuid: Option<String>,
}

/// A toolstack on one running `xen-local`.
#[derive(Debug)]
pub struct Toolstack {
    dom0: Local,
    store: Store,
    schedule: PathBuf,
}

impl Toolstack {
    /// Connects, as dom0, to the server of this folder.
    ///
    /// # Errors
    /// [`Error::NotPresent`] if nobody serves it.
    pub fn open(dir: &Path) -> Result<Toolstack> {
        let dom0 = Local::open(&domain_folder(dir, DomId(0)))?;
        let store = dom0.store()?;
        Ok(Toolstack {
            dom0,
            store,
            schedule: Schedule::path(dir),
        })
    }

    /// Makes a domain with a new UUID and introduces it to XenStore.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is none, or taken.
    pub fn create(&self, name: &str) -> Result<DomId> {
        self.create_as(name, &new_uuid()?)
    }

    fn create_as(&self, name: &str, uuid: &str) -> Result<DomId> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        let number = name.parse::<u64>().is_ok();
        if name.is_empty() || name.len() > 64 || number || !name.chars().all(allowed) {
            return Err(Error::Invalid(format!(
                "'{name}' is no name for a domain: up to 64 letters, digits, '-', '_', '.' and \
                 '+', and not a number"
            )));
        }
        if self
            .list()?
            .iter()
            .any(|known| known.name.as_deref() == Some(name))
        {
            return Err(Error::Invalid(format!(
                "there is a domain named '{name}' already: destroy it, or choose another name"
            )));
        }
        let domid = self.dom0.create_domain()?;
        let made = self.write_nodes(domid, name, uuid);
        if made.is_err() {
            // The first error is the one to report.
            let _ = self.destroy(domid);
        }
        made.map(|()| domid)
    }

    fn write_nodes(&self, domid: DomId, name: &str, uuid: &str) -> Result<()> {
        let home = format!("/local/domain/{domid}");
        let vm = format!("/vm/{uuid}");
        let dom0 = Permission::none(DomId(0));
        let readable = [dom0, Permission::read(domid)];
        let owned = [Permission::none(domid)];
        self.store.transaction(|t| {
            let folder = |path: &str, permissions: &[Permission]| {
                t.mkdir(path)?;
                t.set_permissions(path, permissions)
            };
            // What another domain left here was its, not this one's.
            t.rm(&home)?;
            t.rm(&vm)?;
            folder(&home, &readable)?;
            folder(&vm, &readable)?;
            folder(&format!("/libxl/{domid}"), &[dom0])?;
            // Below a folder, nodes have its permissions unless they are given others.
            t.write(&format!("{vm}/uuid"), uuid)?;
            t.write(&format!("{vm}/name"), name)?;
            t.write(&format!("{home}/vm"), &vm)?;
            t.write(&format!("{home}/name"), name)?;
            t.write(&format!("{home}/domid"), domid.to_string())?;
            for path in READABLE {
                folder(&format!("{home}/{path}"), &readable)?;
            }
            for path in OWNED {
                folder(&format!("{home}/{path}"), &owned)?;
            }
            Ok(())
        })?;
        // The domain speaks through its socket: the ring page and its port are not used, but must
        // be ones that a domain can have.
        self.store.introduce(domid, 1, 1)?;
        Ok(())
    }

    /// Ends a domain and removes its nodes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such domain, or it is dom0.
    pub fn destroy(&self, domid: DomId) -> Result<()> {
        let vm = self.store.read(&format!("/local/domain/{domid}/vm"))?;
        self.dom0.destroy_domain(domid)?;
        if let Some(vm) = vm.filter(|vm| vm.starts_with("/vm/")) {
            self.store.rm(&vm)?;
        }
        self.store.rm(&format!("/local/domain/{domid}"))?;
        self.store.rm(&format!("/libxl/{domid}"))?;
        // The next domain of this number has weights of its own.
        if Schedule::read(&self.schedule)?.domains.contains_key(&domid) {
            Schedule::change(&self.schedule, |schedule| {
                schedule.domains.remove(&domid);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Ends a domain and starts it again: a new domid for the same name and UUID, which is returned.
    ///
    /// # Errors
    /// As [`Toolstack::destroy`].
    pub fn reboot(&self, domid: DomId) -> Result<DomId> {
        match self.info(domid)? {
            DomainInfo {
                name: Some(name),
                uuid: Some(uuid),
                ..
            } => {
                self.destroy(domid)?;
                self.create_as(&name, &uuid)
            }
            _ => Err(Error::Invalid(format!(
                "domain {domid} cannot be rebooted: it has no name and UUID of this toolstack's"
            ))),
        }
    }

    /// All domains, dom0 first.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn list(&self) -> Result<Vec<DomainInfo>> {
        let domains = self.dom0.domains()?;
        domains.into_iter().map(|domid| self.info(domid)).collect()
    }

    /// The domain of this name or number.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none.
    pub fn find(&self, domain: &str) -> Result<DomId> {
        let domid = domain.parse::<DomId>().ok();
        self.list()?
            .iter()
            .find(|known| Some(known.domid) == domid || known.name.as_deref() == Some(domain))
            .map(|known| known.domid)
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "there is no domain '{domain}': xen-local list shows those there are"
                ))
            })
    }

    fn info(&self, domid: DomId) -> Result<DomainInfo> {
        let home = format!("/local/domain/{domid}");
        let vm = self.store.read(&format!("{home}/vm"))?;
        Ok(DomainInfo {
            domid,
            name: self.store.read(&format!("{home}/name"))?,
            uuid: vm.and_then(|vm| vm.strip_prefix("/vm/").map(str::to_owned)),
        })
    }
}

/// A random UUID (RFC 9562, version 4).
fn new_uuid() -> Result<String> {
    let mut space = [MaybeUninit::uninit(); 16];
    let (bytes, _) = getrandom(&mut space, GetRandomFlags::empty())
        .map_err(|errno| Error::io("making a UUID", errno))?;
    let bytes = <[u8; 16]>::try_from(&*bytes)
        .map_err(|_| Error::io("making a UUID", io::ErrorKind::UnexpectedEof))?;
    let bits = u128::from_be_bytes(bytes);
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    let (a, rest) = hex.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    Ok(format!("{a}-{b}-{c}-{d}-{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_random_and_says_so() {
        let uuid = new_uuid().unwrap();
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        assert_ne!(uuid, new_uuid().unwrap());
    }
}
