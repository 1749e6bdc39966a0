//! How an end waits: it polls for a while, then sleeps on the channel's doorbell. Nothing here knows
//! what is waited for.

use std::{
    hint, io,
    time::{Duration, Instant},
};

use crate::sync::yield_now;

/// The event channel (or what stands in for it) between the two ends of a channel.
///
/// A ring that nobody waits for is kept until the next wait; several may merge into one.
pub trait Doorbell: Send + Sync {
    /// Rings at the peer.
    ///
    /// # Errors
    /// The channel cannot go on without its doorbell: it ends.
    fn notify(&self) -> io::Result<()>;

    /// Waits until the peer rang (or something else wants this end's attention), at most `timeout`;
    /// returns whether it was rung. Interruption by a signal is no error.
    ///
    /// # Errors
    /// The channel cannot go on without its doorbell: it ends.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool>;
}

/// How long to poll before sleeping.
///
/// Sleeping and being woken costs some 5 to 50 µs on Xen; polling for about as long costs at most
/// twice the best choice. Zero never polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpinPolicy {
    /// The time to poll for.
    pub poll: Duration,
}

impl SpinPolicy {
    /// Sleeps at once: for ends that are idle nearly always, such as the control ring's.
    pub const NEVER: SpinPolicy = SpinPolicy {
        poll: Duration::ZERO,
    };

    /// Polls for so many microseconds.
    pub const fn micros(poll_us: u64) -> Self {
        Self {
            poll: Duration::from_micros(poll_us),
        }
    }

    /// Polls until `ready`, giving up after the policy's time or when `stop` says so, and returns
    /// whether `ready` was. Only `ready` is on the fast path; every 64 polls it reads the clock, asks
    /// `stop`, and lets another thread run that may be the very one waited for.
    pub(crate) fn until(
        &self,
        ready: impl Fn() -> bool,
        stop: impl Fn() -> bool,
        limit: Option<Duration>,
    ) -> bool {
        if ready() {
            return true;
        }
        let poll = limit.map_or(self.poll, |limit| self.poll.min(limit));
        if poll.is_zero() {
            return false;
        }
        let mut start = None;
        loop {
            for _ in 0..64 {
                hint::spin_loop();
                if ready() {
                    return true;
                }
            }
            if start.get_or_insert_with(Instant::now).elapsed() >= poll || stop() {
                return false;
            }
            yield_now();
        }
    }
}

impl Default for SpinPolicy {
    fn default() -> Self {
        Self::micros(50)
    }
}
