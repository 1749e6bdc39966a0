//! The one place atomics and locks come from: the standard library's, or loom's under `cfg(loom)`,
//! so that the code that is model-checked is the code that ships. Nothing else may import them,
//! except `std::sync::Arc`, which only keeps things alive.

#[cfg(loom)]
pub(crate) use loom::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
    },
    thread::yield_now,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
    },
    thread::yield_now,
};

use std::{sync::PoisonError, time::Duration};

/// Locks. A thread that died with the lock held left only whole updates behind (no code of this
/// crate panics between two of them), so a poisoned lock is as good as a clean one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps on a condition variable.
pub(crate) fn wait<'a, T>(wake: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    wake.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps on a condition variable, at most `limit`. loom has no clock: there, only a wake ends it.
pub(crate) fn wait_timeout<'a, T>(
    wake: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    wake.wait_timeout(guard, limit)
        .unwrap_or_else(PoisonError::into_inner)
        .0
}
