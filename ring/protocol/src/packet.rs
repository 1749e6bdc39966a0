//! Messages with descriptors over a Unix `SOCK_SEQPACKET` socket: how daemons hand memory and event
//! channels to the processes that use them.
//!
//! A packet is one encoded message; descriptors ride beside it and are named in it by position. Must
//! never accept more descriptors than a message may name, nor keep one that no message named.

use crate::codec::{Codec, DecodeError, messages};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use xen::{EventChannel, EventChannelParts, Extent, Port};

/// Longest message, in bytes.
pub const MAX_PACKET: usize = 64 * 1024;
/// Most descriptors that ride on one message. Linux allows 253.
pub const MAX_FDS: usize = 128;

/// What goes wrong between two of our processes.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The other process is gone.
    #[error("the other end has closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The message makes no sense.
    #[error("a message makes no sense: {0}; are both programs of the same version?")]
    Decode(#[from] DecodeError),
    /// A message was too long, or names descriptors that did not come with it.
    #[error("a message is malformed: {0}")]
    Malformed(&'static str),
    /// Memory that a message names is not what it is said to be.
    #[error("the memory of {what} {why}")]
    Shared {
        /// What it is said to be.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Memory or an event channel could not be handed over.
    #[error(transparent)]
    Xen(#[from] xen::Error),
}

/// Sends one message with its descriptors.
pub fn send(
    socket: impl AsFd,
    message: &impl Codec,
    fds: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    let bytes = message.encode();
    if bytes.len() > MAX_PACKET || fds.len() > MAX_FDS {
        return Err(PacketError::Malformed("too long to send"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(PacketError::Malformed("too many descriptors"));
    }
    loop {
        match rustix::net::sendmsg(
            &socket,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => {
                return Err(PacketError::Closed);
            }
            Err(e) => return Err(PacketError::Io(e.into())),
        }
    }
}

/// Waits for one message.
pub fn receive<M: Codec>(socket: impl AsFd) -> Result<(M, Vec<OwnedFd>), PacketError> {
    receive_with(socket, RecvFlags::CMSG_CLOEXEC)
        .and_then(|m| m.ok_or(PacketError::Malformed("nothing received")))
}

/// Takes one message if there is one.
pub fn try_receive<M: Codec>(socket: impl AsFd) -> Result<Option<(M, Vec<OwnedFd>)>, PacketError> {
    receive_with(socket, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
}

fn receive_with<M: Codec>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> Result<Option<(M, Vec<OwnedFd>)>, PacketError> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        ) {
            Ok(received) => break received,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::CONNRESET) => return Err(PacketError::Closed),
            Err(e) => return Err(PacketError::Io(e.into())),
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(PacketError::Closed);
    }
    if received.flags.contains(ReturnFlags::TRUNC) || received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(PacketError::Malformed("too long to receive"));
    }
    let message = M::decode(bytes.get(..received.bytes).unwrap_or_default())?;
    Ok(Some((message, fds)))
}

messages! {
    /// A run of granted pages, by the position of its descriptor.
    WireExtent {
        /// Which of the message's descriptors.
        fd: u32,
        /// Where in it, in bytes.
        offset: u64,
        /// Pages of 4096 bytes.
        pages: u32,
    }
    /// One end of an event channel, by the positions of its descriptors.
    WireEvent {
        /// As [`xen::event::EventKind`] numbers it.
        kind: u8,
        /// The local port.
        port: u32,
        /// Which of the message's descriptors.
        fds: Vec<u32>,
    }
}

/// Names an extent in a message; its descriptor is appended to `fds` if it is not there.
pub fn put_extent(extent: &Extent, fds: &mut Vec<Arc<OwnedFd>>) -> WireExtent {
    let known = fds.iter().position(|fd| Arc::ptr_eq(fd, &extent.fd));
    let fd = known.unwrap_or_else(|| {
        fds.push(extent.fd.clone());
        fds.len().saturating_sub(1)
    });
    WireExtent {
        fd: fd as u32,
        offset: extent.offset,
        pages: extent.pages,
    }
}

/// Names extents in a message: see [`put_extent`].
pub fn put_extents(extents: &[Extent], fds: &mut Vec<Arc<OwnedFd>>) -> Vec<WireExtent> {
    let named = extents.iter().map(|extent| put_extent(extent, fds));
    named.collect()
}

/// Names an event channel in a message; duplicates of its descriptors are appended to `fds`.
pub fn put_event(
    event: &EventChannel,
    fds: &mut Vec<Arc<OwnedFd>>,
) -> Result<WireEvent, PacketError> {
    let parts = event.to_parts()?;
    let first = fds.len() as u32;
    let count = parts.fds.len() as u32;
    fds.extend(parts.fds.into_iter().map(Arc::new));
    Ok(WireEvent {
        kind: parts.kind as u8,
        port: parts.port.0,
        fds: (first..first.saturating_add(count)).collect(),
    })
}

/// The descriptor at a position that a message names.
pub fn take_fd(position: u32, fds: &[Arc<OwnedFd>]) -> Result<&Arc<OwnedFd>, PacketError> {
    fds.get(position as usize)
        .ok_or(PacketError::Malformed("it names a descriptor it lacks"))
}

/// An extent that a message names.
pub fn take_extent(extent: &WireExtent, fds: &[Arc<OwnedFd>]) -> Result<Extent, PacketError> {
    Ok(Extent {
        fd: take_fd(extent.fd, fds)?.clone(),
        offset: extent.offset,
        pages: extent.pages,
    })
}

/// The extents that a message names.
pub fn take_extents(
    extents: &[WireExtent],
    fds: &[Arc<OwnedFd>],
) -> Result<Vec<Extent>, PacketError> {
    let taken = extents.iter().map(|extent| take_extent(extent, fds));
    taken.collect()
}

/// The event channel that a message names.
pub fn take_event(event: &WireEvent, fds: &[Arc<OwnedFd>]) -> Result<EventChannel, PacketError> {
    let kind = event
        .kind
        .try_into()
        .map_err(|_| PacketError::Malformed("unknown kind of event channel"))?;
    let fds = event
        .fds
        .iter()
        .map(|fd| take_fd(*fd, fds)?.try_clone().map_err(PacketError::Io))
        .collect::<Result<Vec<OwnedFd>, _>>()?;
    Ok(EventChannel::from_parts(EventChannelParts {
        kind,
        port: Port(event.port),
        fds,
    })?)
}
