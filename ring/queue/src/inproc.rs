//! Both ends of a channel in one process, without any hypervisor: for tests, examples and
//! measurements. Nothing that serves a guest may use it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    Doorbell,
    sync::{Condvar, Mutex, lock, wait, wait_timeout},
};

/// Zeroed, page-aligned memory from the heap that both ends share.
#[cfg(not(loom))]
pub fn memory(len: usize) -> crate::SharedMemory {
    #[repr(C, align(4096))]
    struct Page(std::cell::UnsafeCell<[u8; crate::PAGE_BYTES]>);
    // SAFETY: nobody reads or writes through the pages themselves, only through SharedMemory.
    unsafe impl Sync for Page {}
    let pages: Arc<[Page]> = (0..len.div_ceil(crate::PAGE_BYTES))
        .map(|_| Page([0; crate::PAGE_BYTES].into()))
        .collect();
    let base = std::ptr::NonNull::from(&*pages).cast();
    // SAFETY: page-aligned by Page's alignment, at least `len` bytes long, alive as long as the
    // slice that goes along as the keeper, and reached through SharedMemory only.
    unsafe { crate::SharedMemory::new(base, len, Arc::new(pages)) }
}

/// One end of a pair of doorbells.
pub struct Bell {
    mine: Arc<Flag>,
    theirs: Arc<Flag>,
}

struct Flag {
    rung: Mutex<bool>,
    wake: Condvar,
    rings: AtomicU64,
}

/// A pair of doorbells, each of which rings at the other.
pub fn bells() -> (Arc<Bell>, Arc<Bell>) {
    let flag = || {
        Arc::new(Flag {
            rung: Mutex::new(false),
            wake: Condvar::new(),
            rings: AtomicU64::new(0),
        })
    };
    let (one, other) = (flag(), flag());
    let bell = |mine: &Arc<Flag>, theirs: &Arc<Flag>| {
        Arc::new(Bell {
            mine: Arc::clone(mine),
            theirs: Arc::clone(theirs),
        })
    };
    (bell(&one, &other), bell(&other, &one))
}

impl Bell {
    /// How often this end rang at the other.
    pub fn rings(&self) -> u64 {
        self.theirs.rings.load(Ordering::Relaxed)
    }
}

impl Doorbell for Bell {
    fn notify(&self) -> io::Result<()> {
        self.theirs.rings.fetch_add(1, Ordering::Relaxed);
        *lock(&self.theirs.rung) = true;
        self.theirs.wake.notify_one();
        Ok(())
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let mut rung = lock(&self.mine.rung);
        if !*rung {
            rung = match timeout {
                Some(limit) => wait_timeout(&self.mine.wake, rung, limit),
                None => wait(&self.mine.wake, rung),
            };
        }
        Ok(std::mem::take(&mut *rung))
    }
}
