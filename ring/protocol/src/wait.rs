//! How a daemon waits: for any of several descriptors, for a wake-up by another of its threads, and
//! for the signal that ends it. Must never know what is waited for.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What one thread wakes another with. Wake-ups that were not taken yet merge into one.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// A new one, not woken.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new() -> io::Result<Wake> {
        Ok(Wake(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        // It fails only where 2^64 wake-ups wait, and then it is readable anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes the wake-ups that came. Look for work after this, never before.
    pub fn clear(&self) {
        // Nothing to read: not woken.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of the descriptors is readable or closed by its peer, at most until `deadline`.
///
/// # Errors
/// If the system refuses.
pub fn wait_any(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let mut polls: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    // Rounded up: a wait that ends early would be repeated at once.
    let left = deadline
        .map(|at| {
            at.saturating_duration_since(Instant::now())
                .saturating_add(Duration::from_micros(100))
        })
        .and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut polls, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a descriptor is readable or closed by its peer now.
pub fn is_ready(fd: impl AsFd) -> bool {
    let mut polls = [PollFd::new(&fd, PollFlags::IN)];
    matches!(
        poll(
            &mut polls,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0
            })
        ),
        Ok(1)
    )
}

/// A descriptor that becomes readable when this process is asked to end (SIGTERM, SIGINT). To be
/// called before any thread is started: the signals are blocked in this one and all that it starts.
///
/// # Errors
/// If the system refuses.
pub fn stop_signal() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set, which outlives the calls; the others read and write it.
    let fd = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_is_taken_once() {
        let wake = Wake::new().unwrap();
        assert!(!is_ready(&wake));
        wake.wake();
        wake.wake();
        wait_any(&[wake.as_fd()], None).unwrap();
        assert!(is_ready(&wake));
        wake.clear();
        assert!(!is_ready(&wake));
        wake.clear();
    }

    #[test]
    fn a_deadline_ends_a_wait() {
        let wake = Wake::new().unwrap();
        let deadline = Instant::now() + Duration::from_millis(5);
        wait_any(&[wake.as_fd()], Some(deadline)).unwrap();
        assert!(Instant::now() >= deadline);
    }
}
