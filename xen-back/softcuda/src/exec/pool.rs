//! The threads that blocks run on: one per core, the launching thread among them, started when first
//! needed and kept. A launch never depends on them: whatever they do not take, the launching thread runs.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

/// Threads that run blocks side by side, the launching one included.
pub(crate) fn workers() -> u32 {
    static WORKERS: OnceLock<u32> = OnceLock::new();
    *WORKERS.get_or_init(|| {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(cores).unwrap_or(1)
    })
}

/// Work that several threads may join: each calls `body` with its number.
struct Job {
    body: *const (dyn Fn(u32) + Sync),
    state: Mutex<State>,
    left: Condvar,
}

struct State {
    /// Threads that may still join.
    places: u32,
    /// Threads in `body`.
    inside: u32,
    /// Number of the next to join.
    next: u32,
}

// SAFETY: `body` is `Sync`, and is only called while the launching thread waits in `run` (see there).
unsafe impl Send for Job {}
// SAFETY: as for Send; the rest is behind a mutex.
unsafe impl Sync for Job {}

struct Pool {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    more: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<&'static Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let pool: &'static Pool =
            Box::leak(Box::new(Pool { jobs: Mutex::new(VecDeque::new()), more: Condvar::new() }));
        for number in 1..workers() {
            let started = thread::Builder::new().name(format!("softcuda-{number}")).spawn(move || pool.serve());
            if let Err(error) = started {
                tracing::warn!(%error, "a worker thread could not be started; kernels use fewer cores");
            }
        }
        pool
    })
}

impl Pool {
    fn serve(&self) {
        let mut jobs = lock(&self.jobs);
        loop {
            let Some(job) = jobs.front().map(Arc::clone) else {
                jobs = self.more.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let number = {
                let mut state = lock(&job.state);
                if state.places <= 1 {
                    jobs.pop_front();
                }
                if state.places == 0 {
                    continue;
                }
                state.places -= 1;
                state.inside += 1;
                state.next += 1;
                state.next - 1
            };
            drop(jobs);
            // SAFETY: `inside` counts this thread, so `run` has not returned and the closure lives.
            (unsafe { &*job.body })(number);
            lock(&job.state).inside -= 1;
            job.left.notify_all();
            jobs = lock(&self.jobs);
        }
    }
}

/// Ends a job however its launching thread leaves.
struct Close<'j>(&'j Job);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.places = 0;
        while state.inside > 0 {
            state = self
                .0
                .left
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Calls `body` here and on up to `threads - 1` of the pool's threads at the same time, each with a
/// number below [`workers`]; returns when all calls have.
pub(super) fn run(threads: u32, body: &(dyn Fn(u32) + Sync)) {
    let threads = threads.min(workers());
    if threads <= 1 {
        body(0);
        return;
    }
    let pool = pool();
    // SAFETY: only the lifetime changes. `Close` keeps this function from returning, or unwinding, until
    // nobody is in `body` and nobody can enter it any more.
    let body_for_pool: *const (dyn Fn(u32) + Sync) = unsafe {
        std::mem::transmute::<&(dyn Fn(u32) + Sync), &'static (dyn Fn(u32) + Sync)>(body)
    };
    let job = Arc::new(Job {
        body: body_for_pool,
        state: Mutex::new(State {
            places: threads - 1,
            inside: 0,
            next: 1,
        }),
        left: Condvar::new(),
    });
    lock(&pool.jobs).push_back(Arc::clone(&job));
    for _ in 1..threads {
        pool.more.notify_one();
    }
    let close = Close(&job);
    body(0);
    drop(close);
    // Nobody may have taken it off the queue.
    lock(&pool.jobs).retain(|other| !Arc::ptr_eq(other, &job));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn every_item_is_done_once_by_several_launchers_at_once() {
        let done: Vec<AtomicU32> = (0..300).map(|_| AtomicU32::new(0)).collect();
        thread::scope(|scope| {
            for launcher in 0..3 {
                let done = &done;
                scope.spawn(move || {
                    let next = AtomicU32::new(0);
                    run(4, &|number| {
                        assert!(number < workers().max(1));
                        loop {
                            let item = next.fetch_add(1, Ordering::Relaxed);
                            if item >= 100 {
                                break;
                            }
                            done[launcher * 100 + item as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                });
            }
        });
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}
