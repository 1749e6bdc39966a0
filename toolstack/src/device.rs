//! The devices that there are and what their ends show.
//!
//! Which devices exist is read where no guest can write: below the backends and in the toolstack's
//! copy. A frontend's folder must never be asked for more than its state.

use crate::{Context, failure::Failure, printable};
use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};
use vgpu_protocol::keys::{self, DeviceId, list_devices};
use vgpu_protocol::wait::wait_any;
use vgpu_protocol::xenbus::State;
use xen::DomId;
use xen::store::{Nodes, StoreError};

/// What the two ends of a device show; `None` where the node is absent.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Ends {
    /// The backend's state.
    pub backend: Option<State>,
    /// The frontend's state, which may be nonsense.
    pub frontend: Option<State>,
}

impl Ends {
    /// What the ends of a device show now.
    pub fn read(nodes: &Nodes, device: DeviceId) -> Result<Ends, StoreError> {
        let state = |dir: String| -> Result<Option<State>, StoreError> {
            let value = nodes.read_bytes(&format!("{dir}/{}", keys::STATE))?;
            Ok(value.map(|value| State::of(Some(&value))))
        };
        Ok(Ends {
            backend: state(device.backend_dir())?,
            frontend: state(device.frontend_dir())?,
        })
    }

    /// Whether programs can use the device.
    pub fn connected(self) -> bool {
        self.backend == Some(State::Connected) && self.frontend == Some(State::Connected)
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (backend, frontend) = (name(self.backend), name(self.frontend));
        write!(f, "backend {backend}, frontend {frontend}")
    }
}

/// A state as Xen's documents call it, or `absent`.
pub fn name(state: Option<State>) -> String {
    match state {
        Some(state) => format!("{state:?}"),
        None => "absent".into(),
    }
}

/// All devices, whatever is left of them and of their domains, in order.
pub fn list(context: &Context) -> Result<Vec<DeviceId>, StoreError> {
    let store = &context.store;
    let mut devices = BTreeSet::new();
    for domain in &context.domains {
        devices.extend(list_devices(store, domain.domid)?);
    }
    // A device whose backend's domain ended is in the toolstack's copy alone.
    for domid in numbers::<u16>(store, "/libxl")? {
        let dir = format!("/libxl/{domid}/device/{}", keys::TYPE);
        for devid in numbers::<u32>(store, &dir)? {
            let backend = store.read_bytes(&format!("{dir}/{devid}/{}", keys::BACKEND))?;
            devices.extend(backend.and_then(|path| named_by(&path, DomId(domid), devid)));
        }
    }
    let mut devices: Vec<DeviceId> = devices.into_iter().collect();
    devices.sort_unstable_by_key(|device| (device.frontend, device.devid, device.backend));
    Ok(devices)
}

/// The device of this frontend whose backend's folder the path is.
fn named_by(path: &[u8], frontend: DomId, devid: u32) -> Option<DeviceId> {
    let path = std::str::from_utf8(path).ok()?;
    let (backend, _) = path.strip_prefix("/local/domain/")?.split_once('/')?;
    let device = DeviceId {
        backend: backend.parse().ok()?,
        frontend,
        devid,
    };
    (device.backend_dir() == path).then_some(device)
}

/// The children of a folder that are numbers as they are written: no sign, no zero in front.
fn numbers<T: std::str::FromStr + ToString>(
    nodes: &Nodes,
    dir: &str,
) -> Result<Vec<T>, StoreError> {
    let names = nodes.directory(dir)?.unwrap_or_default();
    let number = |name: &String| {
        name.parse::<T>()
            .ok()
            .filter(|number| number.to_string() == *name)
    };
    Ok(names.iter().filter_map(number).collect())
}

/// Waits until `done`, at most for `patience`; returns what the ends show then.
pub fn wait(
    context: &Context,
    device: DeviceId,
    patience: Duration,
    done: impl Fn(Ends) -> bool,
) -> Result<Ends, Failure> {
    let deadline = Instant::now() + patience;
    let watches = [
        context.store.watch(&device.backend_dir())?,
        context.store.watch(&device.frontend_dir())?,
    ];
    let fds: Vec<BorrowedFd<'_>> = watches.iter().map(xen::Watch::poll_fd).collect();
    loop {
        // One event each, taken before the states are read: no change is missed, and a guest that
        // writes without pause does not keep us from the deadline.
        for watch in &watches {
            watch.next(Some(Duration::ZERO))?;
        }
        let ends = Ends::read(&context.store, device)?;
        if done(ends) || Instant::now() >= deadline {
            return Ok(ends);
        }
        wait_any(&fds, Some(deadline)).map_err(Failure::Wait)?;
    }
}

/// What the ends have to say about what went wrong, for people; empty where they say nothing.
pub fn complaints(nodes: &Nodes, device: DeviceId) -> Result<String, StoreError> {
    let mut said = String::new();
    for (who, path) in [
        ("the backend", device.backend_error()),
        ("the guest", device.frontend_error()),
    ] {
        if let Some(text) = nodes.read_bytes(&path)? {
            let text = printable(&String::from_utf8_lossy(&text));
            said.push_str(&format!("; {who} says: {text}"));
        }
    }
    Ok(said)
}

/// The domain's name in the list: its own, or for one that is gone the name it had.
pub fn domain_name(context: &Context, device: DeviceId) -> Result<String, StoreError> {
    let known = context
        .domains
        .iter()
        .find(|domain| domain.domid == device.frontend);
    if let Some(domain) = known {
        return Ok(domain.name.clone());
    }
    let had = format!("{}/{}", device.backend_dir(), keys::DOMAIN);
    let had = context.store.read_bytes(&had)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&had).into_owned())
}

/// Whether anything is left of a device. It may go while the devices are being listed.
pub fn exists(nodes: &Nodes, device: DeviceId) -> Result<bool, StoreError> {
    for path in [device.backend_dir(), device.toolstack_dir()] {
        if nodes.read_bytes(&path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_names_of_xens_documents() {
        let names: Vec<String> = State::ALL.map(Some).into_iter().map(name).collect();
        let known = [
            "Unknown",
            "Initialising",
            "InitWait",
            "Initialised",
            "Connected",
            "Closing",
            "Closed",
            "Reconfiguring",
            "Reconfigured",
        ];
        assert_eq!(names, known);
        assert_eq!(name(None), "absent");
    }

    #[test]
    fn a_copy_names_its_backend_or_nothing() {
        let named = |path: &str| named_by(path.as_bytes(), DomId(5), 1);
        assert_eq!(
            named("/local/domain/3/backend/vgpu/5/1"),
            Some(DeviceId {
                backend: DomId(3),
                frontend: DomId(5),
                devid: 1
            })
        );
        for path in [
            "",
            "/local/domain/3",
            "/local/domain/3/backend/vgpu/5/2",
            "/local/domain/3/backend/vgpu/6/1",
            "/local/domain/3/backend/vgpu/5/1/",
            "/local/domain/+3/backend/vgpu/5/1",
            "/local/domain/99999/backend/vgpu/5/1",
            "/local/domain/3/backend/vbd/5/1",
            "/vm/local/domain/3/backend/vgpu/5/1",
        ] {
            assert_eq!(named(path), None, "{path}");
        }
        assert_eq!(named_by(b"/local/domain/\xff", DomId(5), 1), None);
    }
}
