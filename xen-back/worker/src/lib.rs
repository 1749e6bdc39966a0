//! Runs one guest process's CUDA calls on the `libcuda.so.1` it is given.
//!
//! One worker serves one channel: [`serve`] takes calls off the queue in program order, [`execute`]
//! carries them out, [`blocking`] waits on the device without holding up the queue, [`meter`] measures what
//! the devices do and waits at the gate, [`tables`] and [`regions`] hold what the guest may name, [`memory`]
//! counts what it has allocated; [`probe`] only says which devices there are. [`variables`] reads
//! off images what modules will take. Everything it reads from the queue is hostile; a call that makes no sense ends
//! this worker and nothing else.

pub mod blocking;
pub mod execute;
pub mod memory;
pub mod meter;
pub mod param;
pub mod probe;
pub mod regions;
pub mod sandbox;
pub mod serve;
pub mod tables;
pub mod variables;
