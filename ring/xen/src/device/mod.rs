//! Real Xen, by the ioctl interfaces of Linux's xen-gntalloc, xen-gntdev and xen-evtchn.
//!
//! Every grant, map and event channel opens its device anew, so that closing one descriptor ends
//! one thing and handing it to another process hands over that thing alone. Nothing here calls the
//! hypervisor directly: those interfaces change with its version.

pub mod evtchn;
pub mod gntalloc;
pub mod gntdev;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::event::{EventChannel, Port};
use crate::grant::{Access, GrantMap, Granted, Gref};
use crate::platform::{DomId, Error, Platform, Result};
use crate::store::Store;

const DIRECTORY: &str = "/dev/xen";

/// The hypervisor this domain runs on.
#[derive(Debug)]
pub struct Device(());

impl Device {
    /// Looks whether there is a hypervisor.
    ///
    /// # Errors
    /// [`Error::NotPresent`] if there is none.
    pub fn open() -> Result<Device> {
        if Path::new(DIRECTORY).is_dir() {
            Ok(Device(()))
        } else {
            Err(not_a_domain())
        }
    }
}

impl Platform for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn domid(&self) -> Result<DomId> {
        // A relative path is looked up below the caller's own /local/domain/DOMID. Only dom0 may
        // lack the node, where nothing ran xen-init-dom0.
        match self.store()?.read("domid")? {
            None => Ok(DomId(0)),
            Some(text) => text.parse().map_err(|error| {
                Error::Invalid(format!("XenStore's own 'domid' of this domain: {error}"))
            }),
        }
    }

    fn store(&self) -> Result<Store> {
        Ok(Store::open()?)
    }

    fn grant(&self, peer: DomId, pages: u32, access: Access) -> Result<Granted> {
        gntalloc::grant(peer, pages, access)
    }

    fn map(&self, peer: DomId, grefs: &[Gref], access: Access) -> Result<GrantMap> {
        gntdev::map(peer, grefs, access)
    }

    fn bind_unbound(&self, remote: DomId) -> Result<EventChannel> {
        evtchn::bind_unbound(remote)
    }

    fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<EventChannel> {
        evtchn::bind_interdomain(remote, port)
    }
}

fn not_a_domain() -> Error {
    Error::NotPresent {
        what: format!("{DIRECTORY} does not exist: this system does not run on Xen"),
        advice: "run in a Xen domain, or start xen-local and use --platform local:DIR".into(),
    }
}

/// Opens `/dev/xen/NAME`.
fn open(name: &str, flags: OFlags) -> Result<OwnedFd> {
    open_in(Path::new(DIRECTORY), name, flags)
}

fn open_in(directory: &Path, name: &str, flags: OFlags) -> Result<OwnedFd> {
    let path = directory.join(name);
    rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::empty()).map_err(
        |errno| match errno {
            _ if !directory.is_dir() => not_a_domain(),
            Errno::NOENT | Errno::NXIO | Errno::NODEV => Error::NotPresent {
                what: format!("{} does not exist", path.display()),
                advice: format!(
                    "load the kernel module xen-{name} (modprobe xen-{name}; name it in \
                 /etc/modules-load.d to have it at every boot)"
                ),
            },
            Errno::ACCESS | Errno::PERM => Error::PermissionDenied {
                operation: format!("opening {}", path.display()),
                advice: "run as root, or let a privileged process open it and pass the descriptor"
                    .into(),
            },
            _ => Error::io(format!("opening {}", path.display()), errno),
        },
    )
}

/// An ioctl number as `_IOC(_IOC_NONE, kind, number, size)` makes it, which all of these are.
const fn ioc(kind: u8, number: u8, size: usize) -> u32 {
    (size as u32) << 16 | (kind as u32) << 8 | number as u32
}

/// Calls an ioctl and returns its non-negative result.
///
/// # Safety
/// `argument` must point to what the ioctl `request` of the device behind `fd` reads and writes,
/// for its whole length.
unsafe fn ioctl(fd: impl AsFd, request: u32, argument: *mut libc::c_void) -> io::Result<u32> {
    loop {
        // SAFETY: the caller vouches for the argument.
        let result =
            unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::Ioctl, argument) };
        match u32::try_from(result) {
            Ok(result) => return Ok(result),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// `struct ioctl_gntdev_unmap_notify`, the same for gntdev and gntalloc.
#[repr(C)]
#[derive(Debug)]
struct UnmapNotify {
    /// The run's index plus the byte's offset in it.
    index: u64,
    action: u32,
    event_channel_port: u32,
}

const UNMAP_NOTIFY_CLEAR_BYTE: u32 = 1;
const UNMAP_NOTIFY_SEND_EVENT: u32 = 2;
const SET_UNMAP_NOTIFY: u32 = ioc(b'G', 7, size_of::<UnmapNotify>());

fn set_unmap_notify(fd: impl AsFd, index: u64, event: Option<&EventChannel>) -> Result<()> {
    unmap_notify(
        fd,
        UnmapNotify {
            index,
            action: UNMAP_NOTIFY_CLEAR_BYTE | event.map_or(0, |_| UNMAP_NOTIFY_SEND_EVENT),
            event_channel_port: event.map_or(0, |event| event.port().0),
        },
    )
}

fn clear_unmap_notify(fd: impl AsFd, index: u64) -> Result<()> {
    unmap_notify(
        fd,
        UnmapNotify {
            index,
            action: 0,
            event_channel_port: 0,
        },
    )
}

fn unmap_notify(fd: impl AsFd, mut argument: UnmapNotify) -> Result<()> {
    // SAFETY: SET_UNMAP_NOTIFY of both devices reads one UnmapNotify.
    unsafe { ioctl(fd, SET_UNMAP_NOTIFY, (&raw mut argument).cast()) }
        .map(drop)
        .map_err(|error| {
            Error::io(
                format!("setting an unmap notification ({argument:?})"),
                error,
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_the_kernel_headers() {
        assert_eq!(SET_UNMAP_NOTIFY, 0x0010_4707);
        assert_eq!(ioc(b'E', 5, 0), 0x0000_4505);
    }

    #[test]
    fn unmap_notify_has_the_kernel_layout() {
        assert_eq!(size_of::<UnmapNotify>(), 16);
        assert_eq!(std::mem::offset_of!(UnmapNotify, action), 8);
        assert_eq!(std::mem::offset_of!(UnmapNotify, event_channel_port), 12);
    }

    #[test]
    fn a_missing_device_names_its_module() {
        let dir = tempfile::tempdir().unwrap();
        let error = open_in(dir.path(), "gntalloc", OFlags::empty()).unwrap_err();
        assert!(matches!(error, Error::NotPresent { .. }), "{error:?}");
        assert!(
            error.to_string().contains("modprobe xen-gntalloc"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_folder_means_no_xen() {
        let dir = tempfile::tempdir().unwrap();
        let error = open_in(&dir.path().join("xen"), "evtchn", OFlags::empty()).unwrap_err();
        assert!(error.to_string().contains("local:DIR"), "{error}");
    }
}
