//! Threads that wait on the device, so that the queue goes on meanwhile.
//!
//! A call that blocks is handed here with all it needs and answers its ticket itself. Must never start
//! more threads than a bound: further calls wait their turn.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Most threads; as many host threads of the guest's process can wait on the device at once.
pub const THREAD_LIMIT: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// The threads, started as they are needed.
#[derive(Clone, Default)]
pub struct Blocking {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Blocking {
    /// Runs a job on a thread of its own, or as soon as one is free.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.shared.0);
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() || state.threads >= THREAD_LIMIT {
            self.shared.1.notify_one();
            return;
        }
        state.threads = state.threads.saturating_add(1);
        drop(state);
        let shared = self.shared.clone();
        let started = thread::Builder::new()
            .name("vgpu-blocking".into())
            .spawn(move || work(&shared));
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for a call that blocks; it waits its turn");
            let mut state = lock(&self.shared.0);
            state.threads = state.threads.saturating_sub(1);
            if state.threads == 0 {
                // Nobody else would ever take it.
                if let Some(job) = state.jobs.pop_back() {
                    drop(state);
                    job();
                }
            }
        }
    }
}

fn lock(mutex: &Mutex<State>) -> MutexGuard<'_, State> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(shared: &(Mutex<State>, Condvar)) {
    let mut state = lock(&shared.0);
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            job();
            state = lock(&shared.0);
            continue;
        }
        state.idle = state.idle.saturating_add(1);
        state = shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.idle = state.idle.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_that_wait_for_each_other_all_run() {
        let blocking = Blocking::default();
        let (done, finished) = channel();
        // Each job waits for the next one's message: they can only end if they run at once.
        let mut receiver = None;
        for n in 0..16 {
            let (sender, next) = channel::<()>();
            let wait_for: Option<std::sync::mpsc::Receiver<()>> = receiver.replace(next);
            let done = done.clone();
            let last = n == 15;
            blocking.run(move || {
                if last {
                    sender.send(()).unwrap();
                } else {
                    // Kept alive by the job after this one.
                    drop(sender);
                }
                if let Some(wait_for) = wait_for {
                    let _ = wait_for.recv();
                }
                done.send(n).unwrap();
            });
        }
        let mut seen: Vec<i32> = finished.iter().take(16).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn more_jobs_than_threads_all_run() {
        let blocking = Blocking::default();
        let (done, finished) = channel();
        for n in 0..THREAD_LIMIT * 4 {
            let done = done.clone();
            blocking.run(move || done.send(n).unwrap());
        }
        assert_eq!(
            finished.iter().take(THREAD_LIMIT * 4).count(),
            THREAD_LIMIT * 4
        );
        assert!(lock(&blocking.shared.0).threads <= THREAD_LIMIT);
    }
}
