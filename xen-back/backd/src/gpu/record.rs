//! Recordings of what a GPU does: a bounded queue from its thread to whoever writes it down. A reader that
//! is slow loses entries, which are counted; it must never hold up the GPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use vgpu_sched::trace::Entry;

/// Entries that wait for a slow reader at most.
const WAITING: usize = 16_384;

#[derive(Debug, Default)]
struct Counts {
    dropped: AtomicU64,
    given_up: AtomicBool,
}

/// The end that tells; one for each GPU.
#[derive(Clone, Debug)]
pub struct Recorder {
    entries: SyncSender<Entry>,
    counts: Arc<Counts>,
}

/// The end that is told.
#[derive(Debug)]
pub struct Recording {
    entries: Receiver<Entry>,
    counts: Arc<Counts>,
}

/// The two ends of a recording.
pub fn recording() -> (Recorder, Recording) {
    let (sender, receiver) = sync_channel(WAITING);
    let counts = Arc::<Counts>::default();
    let recorder = Recorder {
        entries: sender,
        counts: counts.clone(),
    };
    let recording = Recording {
        entries: receiver,
        counts,
    };
    (recorder, recording)
}

impl Recorder {
    /// Tells an entry, if there is room.
    pub fn record(&self, entry: &Entry) {
        match self.entries.try_send(entry.clone()) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => {
                self.counts.given_up.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whether somebody takes what is told.
    pub fn is_taken(&self) -> bool {
        !self.counts.given_up.load(Ordering::Relaxed)
    }
}

impl Recording {
    /// The next entry, if there is one within this time.
    pub fn next(&self, within: Duration) -> Option<Entry> {
        self.entries.recv_timeout(within).ok()
    }

    /// Entries for which there was no room.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.counts.given_up.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_loses_what_is_counted() {
        let (recorder, recording) = recording();
        let entry = |at_ns| Entry::Gone {
            at_ns,
            gpu: 0,
            domid: 1,
        };
        let told = WAITING as u64 + 5;
        for n in 0..told {
            recorder.record(&entry(n));
        }
        assert_eq!(recording.dropped(), 5);
        assert_eq!(recording.next(Duration::ZERO), Some(entry(0)));
        assert!(recorder.is_taken());
        drop(recording);
        assert!(!recorder.is_taken());
    }
}
