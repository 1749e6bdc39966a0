//! How the queue's memory and doorbell are made of what a packet carried.
//!
//! Both daemons, the worker and libcuda join granted memory and an event channel to a queue; this is
//! the one place where they do. Must never keep descriptors longer than the mapping needs them.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use vgpu_ring::{Doorbell, SharedMemory};
use xen::{EventChannel, Mapping};

/// An event channel as the queue's doorbell.
#[derive(Debug)]
pub struct Bell(pub EventChannel);

impl Doorbell for Bell {
    fn notify(&self) -> io::Result<()> {
        self.0.notify().map_err(io::Error::other)
    }
    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        self.0.wait(timeout).map_err(io::Error::other)
    }
}

/// Mapped pages as the queue's memory; unmapped when the last user of the queue is gone.
pub fn shared_memory(mapping: Mapping) -> SharedMemory {
    let (start, len) = (mapping.as_ptr(), mapping.len());
    // SAFETY: the mapping covers `len` bytes from `start`, is owned by the queue from here on through
    // the keep-alive, and nobody makes references into it.
    unsafe { SharedMemory::new(start, len, Arc::new(mapping)) }
}
