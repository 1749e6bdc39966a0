//! One message of a local socket: JSON, with descriptors beside it.
//!
//! The sockets are SOCK_SEQPACKET, so that a message arrives whole or not at all. What arrives is
//! the peer's: nothing here may trust its length, its descriptors or its text.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message, in bytes: well below a socket's default buffer.
pub const MESSAGE_MAX: usize = 128 * 1024;

/// The most descriptors beside one message; the kernel's own limit (SCM_MAX_FD) is 253.
pub const DESCRIPTORS_MAX: usize = 250;

/// Sends a message; `flags` may add [`SendFlags::DONTWAIT`].
///
/// # Errors
/// What the socket says; [`io::ErrorKind::InvalidInput`] for a message over the limits.
pub fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > MESSAGE_MAX || fds.len() > DESCRIPTORS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "a message of {} bytes with {} descriptors: at most {MESSAGE_MAX} and {DESCRIPTORS_MAX}",
                text.len(),
                fds.len()
            ),
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("no room for the descriptors of a message"));
    }
    loop {
        match sendmsg(
            &socket,
            &[IoSlice::new(&text)],
            &mut control,
            flags | SendFlags::NOSIGNAL,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives a message and at most `fds_max` descriptors; more are closed and an error. `None` when
/// the peer has closed the socket. `flags` may add [`RecvFlags::DONTWAIT`].
///
/// # Errors
/// What the socket says; [`io::ErrorKind::InvalidData`] for a message that is not a `T`.
pub fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    fds_max: usize,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut text)],
            &mut control,
            flags | RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let cut = received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    if cut || fds.len() > fds_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message with more bytes or descriptors than it may have",
        ));
    }
    let text = text.get(..received.bytes).unwrap_or_default();
    Ok(Some((serde_json::from_slice(text)?, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_message_and_its_descriptors_arrive() {
        let (a, b) = pair();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(&a, &("hello", 7), &[writer.as_fd()], SendFlags::empty()).unwrap();
        drop(writer);
        let (message, fds) = receive::<(String, u32)>(&b, 1, RecvFlags::empty())
            .unwrap()
            .unwrap();
        assert_eq!(message, ("hello".to_owned(), 7));
        rustix::io::write(&fds[0], b"x").unwrap();
        drop(fds);
        let mut bytes = [0; 2];
        assert_eq!(rustix::io::read(&reader, &mut bytes).unwrap(), 1);
    }

    #[test]
    fn what_is_not_expected_is_an_error_and_not_kept() {
        let (a, b) = pair();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let receive_none = || receive::<u32>(&b, 0, RecvFlags::empty());

        send(&a, &1, &[writer.as_fd()], SendFlags::empty()).unwrap();
        drop(writer);
        assert!(receive_none().is_err());
        assert_eq!(
            rustix::io::read(&reader, &mut [0u8; 1]).unwrap(),
            0,
            "closed"
        );

        send(&a, &"text", &[], SendFlags::empty()).unwrap();
        assert!(receive_none().is_err());

        rustix::net::send(&a, &vec![b' '; MESSAGE_MAX + 1], SendFlags::empty()).unwrap();
        assert!(receive_none().is_err());

        assert!(send(&a, &"x".repeat(MESSAGE_MAX), &[], SendFlags::empty()).is_err());
        drop(a);
        assert!(receive_none().unwrap().is_none());
    }
}
