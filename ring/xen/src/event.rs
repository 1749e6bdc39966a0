//! Event channels: the interrupts that domains send each other.
//!
//! An [`EventChannel`] is one end, with descriptors of its own, so that it can be waited for
//! anywhere and passed to another process. Signals are not counted and may come without cause:
//! whoever is woken looks at the shared memory to see why.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::device::evtchn::DeviceChannel;
use crate::local::LocalChannel;
use crate::platform::{DomId, Error, Result};

/// An event channel's number within its own domain.
#[derive(
    Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Port(pub u32);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Port {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Port, Self::Err> {
        text.parse().map(Port)
    }
}

/// Which platform an event channel's descriptors are of. The numbers may travel between processes.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
#[repr(u8)]
pub enum EventKind {
    /// `/dev/xen/evtchn`.
    Device = 0,
    /// eventfds of a running `xen-local`.
    Local = 1,
}

impl From<EventKind> for u8 {
    fn from(kind: EventKind) -> u8 {
        kind as u8
    }
}

impl TryFrom<u8> for EventKind {
    type Error = Error;

    fn try_from(number: u8) -> Result<EventKind> {
        match number {
            0 => Ok(EventKind::Device),
            1 => Ok(EventKind::Local),
            _ => Err(Error::Invalid(format!(
                "event channel of unknown kind {number}: expected 0 (device) or 1 (local)"
            ))),
        }
    }
}

/// What an event channel is made of, on its way to another process.
#[derive(Debug)]
pub struct EventChannelParts {
    /// Whose descriptors these are.
    pub kind: EventKind,
    /// The channel's port in its domain.
    pub port: Port,
    /// Device: the evtchn descriptor. Local: the eventfd to wait on, the eventfd to signal, and the
    /// pipe whose closing closes the port. Pass all of them, in their order.
    pub fds: Vec<OwnedFd>,
}

#[derive(Debug)]
enum Line {
    Device(DeviceChannel),
    Local(LocalChannel),
}

/// One end of an event channel. The port is closed when the last process that holds this end has
/// dropped it or died; the peer's end then waits for its domain to bind it again.
#[derive(Debug)]
pub struct EventChannel {
    port: Port,
    line: Line,
}

impl EventChannel {
    pub(crate) fn device(port: Port, channel: DeviceChannel) -> EventChannel {
        EventChannel {
            port,
            line: Line::Device(channel),
        }
    }

    pub(crate) fn local(port: Port, channel: LocalChannel) -> EventChannel {
        EventChannel {
            port,
            line: Line::Local(channel),
        }
    }

    /// The number by which the peer binds this end, unique in this domain while it is open.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Signals the peer. Signals that the peer has not yet taken merge into one; a signal to an end
    /// that nobody has bound is lost.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn notify(&self) -> Result<()> {
        match &self.line {
            Line::Device(channel) => channel.notify(self.port),
            Line::Local(channel) => channel.notify(),
        }
    }

    /// Waits until signalled, at most for `timeout` (`None`: for ever), and takes the signal. Says
    /// whether there was one.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        // A timeout too long to express is for ever.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if self.clear()? {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(
                &mut [PollFd::from_borrowed_fd(self.poll_fd(), PollFlags::IN)],
                left.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::io(
                        format!("waiting for event channel port {}", self.port),
                        errno,
                    ));
                }
            }
        }
    }

    /// A descriptor that is readable while a signal is there to be taken with [`clear`].
    ///
    /// [`clear`]: EventChannel::clear
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        match &self.line {
            Line::Device(channel) => channel.poll_fd(),
            Line::Local(channel) => channel.poll_fd(),
        }
    }

    /// Takes the signal if there is one, without waiting, and lets the next one come. Look for
    /// work after this, never before: what the peer does in between is then signalled again.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn clear(&self) -> Result<bool> {
        match &self.line {
            Line::Device(channel) => channel.clear(),
            Line::Local(channel) => channel.clear(),
        }
    }

    /// Gives up binding anything but `peer`'s ports through this end's descriptors: to be done
    /// before they are passed to a process that is trusted less. It cannot be undone.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the peer is dom0, for which Linux has no such restriction.
    pub fn restrict(&self, peer: DomId) -> Result<()> {
        if peer == DomId(0) {
            return Err(Error::Invalid(
                "an event channel cannot be restricted to domain 0: Linux only restricts to other \
                 domains; leave it unrestricted"
                    .into(),
            ));
        }
        match &self.line {
            Line::Device(channel) => channel.restrict(peer),
            // Its descriptors can bind nothing in the first place.
            Line::Local(_) => Ok(()),
        }
    }

    /// Duplicates of the descriptors, to be passed to another process. Both processes then hold
    /// this end; a signal wakes either, so that only one of them should wait.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn to_parts(&self) -> Result<EventChannelParts> {
        let (kind, fds) = match &self.line {
            Line::Device(channel) => (EventKind::Device, channel.descriptors()),
            Line::Local(channel) => (EventKind::Local, channel.descriptors()),
        };
        let fds = fds.map_err(|error| {
            Error::io(
                format!("duplicating event channel port {}", self.port),
                error,
            )
        })?;
        Ok(EventChannelParts {
            kind,
            port: self.port,
            fds,
        })
    }

    /// The channel of descriptors that came from another process of this domain.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they are not what [`EventChannel::to_parts`] gave.
    pub fn from_parts(parts: EventChannelParts) -> Result<EventChannel> {
        let line = match parts.kind {
            EventKind::Device => DeviceChannel::from_descriptors(parts.fds).map(Line::Device),
            EventKind::Local => LocalChannel::from_descriptors(parts.fds).map(Line::Local),
        };
        match line {
            Ok(line) => Ok(EventChannel {
                port: parts.port,
                line,
            }),
            Err(fds) => Err(Error::Invalid(format!(
                "event channel port {} from {} descriptors: pass all that to_parts gave",
                parts.port,
                fds.len()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_travel_as_numbers() {
        for kind in [EventKind::Device, EventKind::Local] {
            assert_eq!(EventKind::try_from(u8::from(kind)).unwrap(), kind);
        }
        assert!(EventKind::try_from(2).is_err());
    }

    #[test]
    fn a_wrong_number_of_descriptors_is_refused() {
        for kind in [EventKind::Device, EventKind::Local] {
            let parts = EventChannelParts {
                kind,
                port: Port(1),
                fds: vec![],
            };
            assert!(matches!(
                EventChannel::from_parts(parts),
                Err(Error::Invalid(_))
            ));
        }
    }
}
