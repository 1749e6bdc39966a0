//! Every XenStore node of the device, and how a device is made and unmade.
//!
//! backd and xl-vgpu make devices with the same code here. Paths follow from domids alone: a path that
//! some domain wrote into a node must never be followed.
//!
//! ```text
//! /local/domain/F/device/vgpu/D        nF,rB  the frontend's: what it says to the backend
//! /local/domain/B/backend/vgpu/F/D     nB,rF  the backend's: what it says to the frontend
//! /libxl/F/device/vgpu/D               n0     the toolstack's copy, which neither may write
//! ```

use crate::xenbus::State;
use rustix::io::Errno;
use std::fmt;
use std::str::FromStr;
use xen::store::{Nodes, Permission, StoreError};
use xen::{DomId, Store};

/// The device type: how the device's folders are called.
pub const TYPE: &str = "vgpu";

/// In both folders: the end's [`State`].
pub const STATE: &str = "state";

/// In the frontend's folder, by the toolstack: the backend's folder. For people; not to be followed.
pub const BACKEND: &str = "backend";
/// In the frontend's folder, by the toolstack: the backend's domid.
pub const BACKEND_ID: &str = "backend-id";
/// In the frontend's folder: the [`crate::PROTOCOL_VERSION`] that it chose among [`VERSIONS`].
pub const VERSION: &str = "version";
/// In the frontend's folder: the machine's calling convention; always [`PROTOCOL_VALUE`].
pub const PROTOCOL: &str = "protocol";
/// What [`PROTOCOL`] says.
pub const PROTOCOL_VALUE: &str = "x86_64-abi";
/// In the frontend's folder: grant reference of the list ([`crate::grants`]) of the control ring's pages.
pub const RING_REF: &str = "ring-ref";
/// In the frontend's folder: the control ring's event channel, unbound, for the backend's domain.
pub const EVENT_CHANNEL: &str = "event-channel";

/// In the backend's folder, by the toolstack: the frontend's folder. For people; not to be followed.
pub const FRONTEND: &str = "frontend";
/// In the backend's folder, by the toolstack: the frontend's domid.
pub const FRONTEND_ID: &str = "frontend-id";
/// In the backend's folder, by the toolstack: `1` while the device is meant to be, `0` once it is to go.
pub const ONLINE: &str = "online";
/// In the backend's folder: the domain's name, for people.
pub const DOMAIN: &str = "domain";
/// In the backend's folder: the protocol versions it speaks, separated by commas.
pub const VERSIONS: &str = "versions";
/// In the backend's folder: most channels the domain may have open. Absent: unknown.
pub const MAX_CHANNELS: &str = "max-channels";
/// In the backend's folder: most pages the domain may have mapped. Absent: unknown.
pub const MAX_PAGES: &str = "max-pages";
/// In the backend's folder: differs with every offer, so that a frontend that was refused can tell a new
/// backend from the one that refused it.
pub const SESSION: &str = "session";

/// Which device: the two ends' domains and the number among the frontend's vgpu devices.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct DeviceId {
    /// Where the backend runs.
    pub backend: DomId,
    /// Whose device it is.
    pub frontend: DomId,
    /// Counts from 0.
    pub devid: u32,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TYPE}-{}-{}", self.frontend, self.devid)
    }
}

impl DeviceId {
    /// The frontend's folder.
    pub fn frontend_dir(&self) -> String {
        format!(
            "{}/{}",
            domain_dir(self.frontend),
            own_frontend_dir(self.devid)
        )
    }
    /// The backend's folder.
    pub fn backend_dir(&self) -> String {
        format!(
            "{}/{}/{}",
            backends_dir(self.backend),
            self.frontend,
            self.devid
        )
    }
    /// The toolstack's copy.
    pub fn toolstack_dir(&self) -> String {
        format!("/libxl/{}/device/{TYPE}/{}", self.frontend, self.devid)
    }
    /// Where the frontend tells people what went wrong.
    pub fn frontend_error(&self) -> String {
        format!(
            "{}/error/device/{TYPE}/{}/error",
            domain_dir(self.frontend),
            self.devid
        )
    }
    /// Where the backend tells people what went wrong.
    pub fn backend_error(&self) -> String {
        format!(
            "{}/error/backend/{TYPE}/{}/{}/error",
            domain_dir(self.backend),
            self.frontend,
            self.devid
        )
    }
}

/// A domain's folder.
pub fn domain_dir(domain: DomId) -> String {
    format!("/local/domain/{domain}")
}

/// The frontend's folder as the frontend's own domain names it: relative, so that it survives a
/// migration.
pub fn own_frontend_dir(devid: u32) -> String {
    format!("device/{TYPE}/{devid}")
}

/// All vgpu backends of a domain.
pub fn backends_dir(backend: DomId) -> String {
    format!("{}/backend/{TYPE}", domain_dir(backend))
}

/// A domain as XenStore knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Domain {
    /// Its number; used again after it is gone.
    pub domid: DomId,
    /// Its name, which no guest can write.
    pub name: String,
    /// The universally unique id that a domain keeps over reboots; empty where there is none.
    pub uuid: String,
}

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The frontend's domain does not exist.
    #[error("there is no domain {0}; xl list shows those that there are")]
    NoDomain(DomId),
    /// A device with this number exists and has another backend.
    #[error("{device} exists already, with its backend in domain {backend}; detach it first")]
    OtherBackend {
        /// The device asked for.
        device: DeviceId,
        /// The backend it has.
        backend: String,
    },
    /// XenStore refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether a device had to be made.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Created {
    /// It is new.
    New,
    /// It was there.
    Already,
}

/// Makes the device's nodes, with their permissions, in one transaction. Where the device exists it
/// stays as it is, unless it is on its way out: then it is made anew.
///
/// # Errors
/// [`DeviceError`]; nothing is changed then.
pub fn create_device(
    store: &Store,
    device: DeviceId,
    domain: &str,
) -> Result<Created, DeviceError> {
    // A transaction's own failures are XenStore's; ours are carried out as its value.
    store.transaction(|nodes| {
        if nodes.directory(&domain_dir(device.frontend))?.is_none() {
            return Ok(Err(DeviceError::NoDomain(device.frontend)));
        }
        let (frontend, backend) = (device.frontend_dir(), device.backend_dir());
        if let Some(other) = nodes.read_bytes(&format!("{}/{BACKEND}", device.toolstack_dir()))?
            && other != backend.as_bytes()
        {
            let backend = String::from_utf8_lossy(&other).into_owned();
            return Ok(Err(DeviceError::OtherBackend { device, backend }));
        }
        let whole = [
            format!("{frontend}/{STATE}"),
            format!("{backend}/{STATE}"),
            device.toolstack_dir(),
        ]
        .iter()
        .try_fold(true, |whole, path| {
            Ok::<_, StoreError>(whole && nodes.read_bytes(path)?.is_some())
        })?;
        if whole && is_online(nodes, device)? {
            return Ok(Ok(Created::Already));
        }
        for dir in [&frontend, &backend] {
            nodes.rm(dir)?;
        }
        folder(nodes, &frontend, device.frontend, device.backend)?;
        folder(nodes, &backend, device.backend, device.frontend)?;
        let initialising = State::Initialising.to_string();
        for (key, value) in [
            (BACKEND, backend.as_str()),
            (BACKEND_ID, &device.backend.to_string()),
            (STATE, &initialising),
        ] {
            nodes.write(&format!("{frontend}/{key}"), value)?;
        }
        for (key, value) in [
            (FRONTEND, frontend.as_str()),
            (FRONTEND_ID, &device.frontend.to_string()),
            (DOMAIN, domain),
            (ONLINE, "1"),
            (STATE, &initialising),
        ] {
            nodes.write(&format!("{backend}/{key}"), value)?;
        }
        let copy = device.toolstack_dir();
        nodes.mkdir(&copy)?;
        nodes.set_permissions(&copy, &[Permission::none(DomId(0))])?;
        nodes.write(&format!("{copy}/{FRONTEND}"), &frontend)?;
        nodes.write(&format!("{copy}/{BACKEND}"), &backend)?;
        Ok(Ok(Created::New))
    })?
}

/// Makes a folder that `owner` owns and `reader` reads. What is made in it later inherits that.
fn folder(nodes: &Nodes, path: &str, owner: DomId, reader: DomId) -> Result<(), StoreError> {
    nodes.mkdir(path)?;
    nodes.set_permissions(path, &[Permission::none(owner), Permission::read(reader)])
}

/// Asks the backend to close the device for good, as libxl does: it goes offline and its backend is
/// told to close. Returns whether there is such a device.
///
/// # Errors
/// XenStore's.
pub fn retire_device(store: &Store, device: DeviceId) -> Result<bool, StoreError> {
    store.transaction(|nodes| {
        let backend = device.backend_dir();
        if value(nodes, &format!("{backend}/{STATE}"))?.is_none() {
            return Ok(false);
        }
        nodes.write(&format!("{backend}/{ONLINE}"), "0")?;
        nodes.write(&format!("{backend}/{STATE}"), State::Closing.to_string())?;
        Ok(true)
    })
}

/// Removes the device's nodes, and the folders above them that this leaves empty, in one transaction.
/// What does not exist is removed already.
///
/// # Errors
/// XenStore's.
pub fn remove_device(store: &Store, device: DeviceId) -> Result<(), StoreError> {
    store.transaction(|nodes| {
        for path in [
            device.frontend_dir(),
            device.backend_dir(),
            device.toolstack_dir(),
        ] {
            nodes.rm(&path)?;
        }
        for path in [device.frontend_error(), device.backend_error()] {
            nodes.rm(path.trim_end_matches("/error"))?;
        }
        // /libxl/F/device is libxl's, and so is /local/domain/F/device.
        for (path, up) in [
            (device.frontend_dir(), 1),
            (device.backend_dir(), 2),
            (device.toolstack_dir(), 1),
            (device.frontend_error(), 4),
            (device.backend_error(), 5),
        ] {
            prune(nodes, &path, up)?;
        }
        Ok(())
    })
}

/// Removes the folders above `path`, `levels` of them at most, as long as they are empty.
fn prune(nodes: &Nodes, path: &str, levels: usize) -> Result<(), StoreError> {
    let mut at = path;
    for _ in 0..levels {
        let Some((parent, _)) = at.rsplit_once('/') else {
            return Ok(());
        };
        match nodes.directory(parent)? {
            Some(children) if !children.is_empty() => return Ok(()),
            Some(_) => nodes.rm(parent)?,
            None => {}
        }
        at = parent;
    }
    Ok(())
}

/// A node's value; `None` where there is none. What the other end's folder does not have, a domain may
/// not even ask for: XenStore refuses by the permissions of the folders above, which are nobody's.
///
/// # Errors
/// XenStore's others.
pub fn value(nodes: &Nodes, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
    match nodes.read_bytes(path) {
        Err(error) if error.errno() == Some(Errno::ACCESS) => Ok(None),
        answer => answer,
    }
}

/// Whether the device is meant to be.
///
/// # Errors
/// XenStore's.
pub fn is_online(nodes: &Nodes, device: DeviceId) -> Result<bool, StoreError> {
    let online = value(nodes, &format!("{}/{ONLINE}", device.backend_dir()))?;
    Ok(online.as_deref() == Some(b"1"))
}

/// The state that one end shows in its folder.
///
/// # Errors
/// XenStore's. A state that makes no sense is [`State::Unknown`].
pub fn state(nodes: &Nodes, dir: &str) -> Result<State, StoreError> {
    Ok(State::of(
        value(nodes, &format!("{dir}/{STATE}"))?.as_deref(),
    ))
}

/// Writes `keys` and the end's state into its folder, in one transaction. Where the folder is gone,
/// nothing is written, so that a device that was removed stays removed, and the answer is `false`.
///
/// # Errors
/// XenStore's.
pub fn publish(
    store: &Store,
    dir: &str,
    keys: &[(&str, String)],
    state: State,
) -> Result<bool, StoreError> {
    store.transaction(|nodes| {
        if value(nodes, &format!("{dir}/{STATE}"))?.is_none() {
            return Ok(false);
        }
        for (key, value) in keys {
            nodes.write(&format!("{dir}/{key}"), value)?;
        }
        nodes.write(&format!("{dir}/{STATE}"), state.to_string())?;
        Ok(true)
    })
}

/// A number that a node holds in decimal; `None` where the node is absent or holds none.
///
/// # Errors
/// XenStore's.
pub fn number<T: FromStr>(nodes: &Nodes, path: &str) -> Result<Option<T>, StoreError> {
    Ok(value(nodes, path)?.and_then(|bytes| decimal(&bytes)))
}

/// Digits and nothing else, as every number in XenStore is written.
fn decimal<T: FromStr>(bytes: &[u8]) -> Option<T> {
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    digits
        .then(|| std::str::from_utf8(bytes).ok()?.parse().ok())
        .flatten()
}

/// The vgpu devices whose backend is in domain `backend`, in order.
///
/// # Errors
/// XenStore's.
pub fn list_devices(nodes: &Nodes, backend: DomId) -> Result<Vec<DeviceId>, StoreError> {
    let top = backends_dir(backend);
    let mut devices = Vec::new();
    for frontend in children::<u16>(nodes, &top)? {
        for devid in children(nodes, &format!("{top}/{frontend}"))? {
            devices.push(DeviceId {
                backend,
                frontend: DomId(frontend),
                devid,
            });
        }
    }
    devices.sort_unstable();
    Ok(devices)
}

/// The domains that there are, in the order of their numbers.
///
/// # Errors
/// XenStore's.
pub fn list_domains(nodes: &Nodes) -> Result<Vec<Domain>, StoreError> {
    let mut domains = Vec::new();
    for domid in children::<u16>(nodes, "/local/domain")? {
        let text = |bytes: Option<Vec<u8>>| {
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        let dir = domain_dir(DomId(domid));
        let name = text(nodes.read_bytes(&format!("{dir}/name"))?);
        let vm = text(nodes.read_bytes(&format!("{dir}/vm"))?);
        let uuid = vm.strip_prefix("/vm/").unwrap_or_default().to_owned();
        domains.push(Domain {
            domid: DomId(domid),
            name,
            uuid,
        });
    }
    domains.sort_by_key(|domain| domain.domid);
    Ok(domains)
}

/// The children of a folder that are decimal numbers.
fn children<T: FromStr>(nodes: &Nodes, path: &str) -> Result<Vec<T>, StoreError> {
    let names = nodes.directory(path)?.unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| decimal(name.as_bytes()))
        .collect())
}

/// The versions that a backend offers, without what is no number.
pub fn parse_versions(text: &[u8]) -> Vec<u32> {
    text.split(|byte| *byte == b',')
        .filter_map(decimal)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId {
        backend: DomId(0),
        frontend: DomId(5),
        devid: 0,
    };

    #[test]
    fn paths_follow_from_domids() {
        assert_eq!(DEVICE.frontend_dir(), "/local/domain/5/device/vgpu/0");
        assert_eq!(DEVICE.backend_dir(), "/local/domain/0/backend/vgpu/5/0");
        assert_eq!(DEVICE.toolstack_dir(), "/libxl/5/device/vgpu/0");
        assert_eq!(
            DEVICE.frontend_error(),
            "/local/domain/5/error/device/vgpu/0/error"
        );
        assert_eq!(
            DEVICE.backend_error(),
            "/local/domain/0/error/backend/vgpu/5/0/error"
        );
        assert_eq!(own_frontend_dir(1), "device/vgpu/1");
        assert_eq!(DEVICE.to_string(), "vgpu-5-0");
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!(decimal::<u32>(b"4294967295"), Some(u32::MAX));
        for bad in [
            &b""[..],
            b"-1",
            b"+1",
            b" 1",
            b"1\n",
            b"0x1",
            b"4294967296",
            b"\xff",
        ] {
            assert_eq!(decimal::<u32>(bad), None, "{bad:?}");
        }
        assert_eq!(parse_versions(b"1,2,x,,7"), [1, 2, 7]);
        assert!(parse_versions(b"").is_empty());
    }
}
