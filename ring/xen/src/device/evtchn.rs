//! `/dev/xen/evtchn`: one descriptor, one port.
//!
//! The kernel masks a port when it hands it to read(), until the port is written back. Nothing here
//! may return a signal to its caller before that: the next one would never come.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{ioc, ioctl, open};
use crate::event::{EventChannel, Port};
use crate::platform::{DomId, Error, Result};

/// `struct ioctl_evtchn_bind_interdomain`.
#[repr(C)]
struct BindInterdomain {
    remote_domain: u32,
    remote_port: u32,
}

const BIND_INTERDOMAIN: u32 = ioc(b'E', 1, size_of::<BindInterdomain>());
const BIND_UNBOUND_PORT: u32 = ioc(b'E', 2, size_of::<u32>());
const NOTIFY: u32 = ioc(b'E', 4, size_of::<u32>());
const RESET: u32 = ioc(b'E', 5, 0);
const RESTRICT_DOMID: u32 = ioc(b'E', 6, size_of::<u16>());

/// Makes a port that `remote` may bind.
///
/// # Errors
/// [`Error::LimitReached`] when the domain has no ports left.
pub fn bind_unbound(remote: DomId) -> Result<EventChannel> {
    let fd = open("evtchn", OFlags::NONBLOCK)?;
    let mut argument = u32::from(remote.0);
    // SAFETY: BIND_UNBOUND_PORT reads one u32.
    let port =
        unsafe { ioctl(&fd, BIND_UNBOUND_PORT, (&raw mut argument).cast()) }.map_err(|error| {
            refused(
                format!("making an event channel for domain {remote}"),
                error,
            )
        })?;
    Ok(EventChannel::device(Port(port), DeviceChannel { fd }))
}

/// Binds a port that `remote` made for this domain.
///
/// # Errors
/// [`Error::NotOffered`] if Xen says that there is no such port for us.
pub fn bind_interdomain(remote: DomId, port: Port) -> Result<EventChannel> {
    let fd = open("evtchn", OFlags::NONBLOCK)?;
    let mut argument = BindInterdomain {
        remote_domain: remote.0.into(),
        remote_port: port.0,
    };
    // SAFETY: BIND_INTERDOMAIN reads one BindInterdomain.
    let own =
        unsafe { ioctl(&fd, BIND_INTERDOMAIN, (&raw mut argument).cast()) }.map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EINVAL | libc::ESRCH | libc::EPERM) => {
                    Error::NotOffered { remote, port }
                }
                _ => refused(
                    format!("binding event channel port {port} of domain {remote}"),
                    error,
                ),
            }
        })?;
    Ok(EventChannel::device(Port(own), DeviceChannel { fd }))
}

fn refused(operation: String, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => Error::LimitReached {
            what: format!("{operation}: this domain has no event channels left"),
            limit: None,
            advice: "close some, or raise max_event_channels in the domain's xl.cfg".into(),
        },
        _ => Error::io(operation, error),
    }
}

/// A bound port's descriptor.
#[derive(Debug)]
pub struct DeviceChannel {
    fd: OwnedFd,
}

impl DeviceChannel {
    pub(crate) fn notify(&self, port: Port) -> Result<()> {
        let mut argument = port.0;
        // SAFETY: NOTIFY reads one u32.
        unsafe { ioctl(&self.fd, NOTIFY, (&raw mut argument).cast()) }
            .map(drop)
            .map_err(|error| Error::io(format!("signalling event channel port {port}"), error))
    }

    pub(crate) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn clear(&self) -> Result<bool> {
        let mut ports = [0u8; 4 * 64];
        let read = loop {
            match rustix::io::read(&self.fd, &mut ports) {
                Ok(read) => break read,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(Errno::FBIG) => {
                    // The ring of signals overflowed: empty it, and take it as one signal.
                    // SAFETY: RESET takes no argument.
                    unsafe { ioctl(&self.fd, RESET, std::ptr::null_mut()) }
                        .map_err(|error| Error::io("resetting an event channel", error))?;
                    return Ok(true);
                }
                Err(errno) => return Err(Error::io("reading an event channel", errno)),
            }
        };
        let signalled = ports.get(..read).unwrap_or_default();
        loop {
            match rustix::io::write(&self.fd, signalled) {
                Ok(_) => return Ok(!signalled.is_empty()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("unmasking an event channel", errno)),
            }
        }
    }

    pub(crate) fn restrict(&self, peer: DomId) -> Result<()> {
        let mut argument = peer.0;
        // SAFETY: RESTRICT_DOMID reads one u16.
        unsafe { ioctl(&self.fd, RESTRICT_DOMID, (&raw mut argument).cast()) }
            .map(drop)
            .map_err(|error| {
                let operation = format!("restricting an event channel to domain {peer}");
                match error.raw_os_error() {
                    Some(libc::EACCES) => already_restricted(operation),
                    _ => Error::io(operation, error),
                }
            })
    }

    pub(crate) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.fd.try_clone()?])
    }

    pub(crate) fn from_descriptors(fds: Vec<OwnedFd>) -> Result<DeviceChannel, Vec<OwnedFd>> {
        let [fd] = <[OwnedFd; 1]>::try_from(fds)?;
        Ok(DeviceChannel { fd })
    }
}

pub(crate) fn already_restricted(operation: String) -> Error {
    Error::PermissionDenied {
        operation,
        advice: "it is restricted already, which cannot be undone; bind a new event channel".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_those_of_the_kernel_headers() {
        assert_eq!(BIND_INTERDOMAIN, 0x0008_4501);
        assert_eq!(BIND_UNBOUND_PORT, 0x0004_4502);
        assert_eq!(NOTIFY, 0x0004_4504);
        assert_eq!(RESET, 0x0000_4505);
        assert_eq!(RESTRICT_DOMID, 0x0002_4506);
        assert_eq!(size_of::<BindInterdomain>(), 8);
    }

    #[test]
    fn no_ports_left_is_a_limit() {
        let error = refused("binding".into(), io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(matches!(error, Error::LimitReached { .. }));
        assert!(error.to_string().contains("max_event_channels"), "{error}");
    }
}
