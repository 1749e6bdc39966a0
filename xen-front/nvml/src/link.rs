//! NVML's connection to the backend: a channel of its own, from the first `nvmlInit` to the last
//! `nvmlShutdown`.
//!
//! Its own, and not libcuda's, because a program may fork after it has asked NVML, and the child may use
//! CUDA: with NVIDIA's libraries it can. For the same reason a forked child opens a channel anew. So does
//! a monitor whose channel has ended. Must never use a channel of another process.

use crate::errors::Failure;
use cuda_abi::CuResult;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use vgpu_client::Channel;

/// How often `nvmlInit` has succeeded, less `nvmlShutdown`. A forked child inherits it.
static USERS: AtomicU32 = AtomicU32::new(0);

/// The process's channel, if it is open.
type Slot = Mutex<Option<Arc<Channel>>>;

/// The slot of this process. Null before its first use, and in a forked child: the parent's may be locked
/// there for ever. A slot is never freed.
static SLOT: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

/// The channel's connection to frontd, for [`in_child`]; -1 for none.
static SOCKET: AtomicI32 = AtomicI32::new(-1);

/// Runs in a forked child: the channel is its parent's, and must end when the parent does.
extern "C" fn in_child() {
    SLOT.store(ptr::null_mut(), Ordering::Relaxed);
    let socket = SOCKET.swap(-1, Ordering::Relaxed);
    if socket != -1 {
        // SAFETY: closes the child's copy of a descriptor that nothing in the child uses: its owner lies in
        // the slot that the child has forgotten.
        unsafe { libc::close(socket) };
    }
}

fn slot() -> MutexGuard<'static, Option<Arc<Channel>>> {
    static WATCH_FORKS: Once = Once::new();
    // SAFETY: registers a handler that uses atomics and closes a descriptor, which a child may do.
    WATCH_FORKS.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
    let mut slot = SLOT.load(Ordering::Acquire);
    if slot.is_null() {
        let fresh = Box::into_raw(Box::<Slot>::default());
        slot = match SLOT.compare_exchange(slot, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(others) => {
                // SAFETY: made above, and seen by nobody.
                drop(unsafe { Box::from_raw(fresh) });
                others
            }
        };
    }
    // SAFETY: not null, so a slot that was leaked when it was made.
    let slot = unsafe { &*slot };
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The channel in the slot; opened if there is none.
fn opened(slot: &mut Option<Arc<Channel>>) -> Result<Arc<Channel>, CuResult> {
    if let Some(channel) = slot {
        return Ok(channel.clone());
    }
    let channel = Channel::open().map_err(|refusal| {
        // A monitor asks again and again.
        static SAID: Once = Once::new();
        SAID.call_once(|| tracing::warn!("NVML has no GPU for this program: {refusal}"));
        refusal.status
    })?;
    SOCKET.store(channel.descriptor(), Ordering::Relaxed);
    Ok(slot.insert(Arc::new(channel)).clone())
}

/// Ends the channel in the slot. Calls that are under way on other threads keep it until they are done.
fn close(slot: &mut Option<Arc<Channel>>) {
    SOCKET.store(-1, Ordering::Relaxed);
    *slot = None;
}

/// Counts a user, once there is a channel.
pub fn init() -> Result<(), Failure> {
    let mut slot = slot();
    opened(&mut slot)?;
    let counted = USERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1));
    counted.map(|_| ()).map_err(|_| Failure::UNKNOWN)
}

/// Counts a user less; the last one closes the channel.
pub fn shutdown() -> Result<(), Failure> {
    let mut slot = slot();
    let counted = USERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    match counted {
        Ok(1) => close(&mut slot),
        Ok(_) => {}
        Err(_) => return Err(Failure::UNINITIALIZED),
    }
    Ok(())
}

/// Fails unless somebody has called `nvmlInit`.
pub fn initialized() -> Result<(), Failure> {
    if USERS.load(Ordering::Relaxed) == 0 {
        return Err(Failure::UNINITIALIZED);
    }
    Ok(())
}

/// The channel, opened again if it was closed while there are users.
fn current() -> Result<Arc<Channel>, Failure> {
    let mut slot = slot();
    initialized()?;
    Ok(opened(&mut slot)?)
}

/// Asks the backend; where the channel turns out to have ended, once more over a new one.
pub fn ask<T>(question: impl Fn(&Channel) -> Result<T, CuResult>) -> Result<T, Failure> {
    let channel = current()?;
    match question(&channel) {
        Err(CuResult::DEVICE_UNAVAILABLE) => {}
        answer => return Ok(answer?),
    }
    {
        let mut slot = slot();
        if slot.as_ref().is_some_and(|now| Arc::ptr_eq(now, &channel)) {
            close(&mut slot);
        }
    }
    let channel = current()?;
    Ok(question(&channel)?)
}
