//! Submission and completion queues and a bulk arena in memory that two ends share and neither trusts.
//!
//! A *front* (many threads of one program) submits records to a *back* (one thread that executes
//! them), which answers those that want an answer, in any order and from any thread. Bulk data goes
//! through the arena. Both ends poll for a while, then sleep; a doorbell is rung only at an end that
//! said it sleeps. The crate knows no hypervisor and no device: it is given the memory and the
//! doorbell.
//!
//! ```
//! use std::{sync::Arc, thread, time::Duration};
//! use vgpu_ring::{Back, Doorbell, Front, Layout, SpinPolicy, inproc};
//!
//! let layout = Layout::new(4096, 4096, 16384)?;
//! let memory = inproc::memory(layout.total_bytes());
//! let (at_front, at_back) = inproc::bells();
//! let front = Front::new(memory.clone(), layout, at_front, SpinPolicy::default())?;
//! let mut back = Back::attach(memory, layout, at_back, SpinPolicy::default(), Duration::from_secs(5))?;
//!
//! let worker = thread::spawn(move || {
//!     let mut call = Vec::new();
//!     while let Ok(submission) = back.next(&mut call, None) {
//!         let Some(submission) = submission else { continue };
//!         if submission.wants_answer {
//!             back.completer().complete(submission.ticket, &[b"done: ", &call])?;
//!         }
//!         back.retire()?;
//!     }
//!     Ok::<(), vgpu_ring::Error>(())
//! });
//! front.submit(&[b"posted"], false)?;
//! let ticket = front.submit(&[b"call ", b"two"], true)?;
//! assert_eq!(front.wait(ticket)?, b"done: call two");
//! drop(front);
//! worker.join().unwrap()?;
//! # Ok::<(), vgpu_ring::Error>(())
//! ```

mod arena;
mod back;
mod end;
mod error;
mod front;
pub mod inproc;
mod layout;
#[cfg_attr(loom, path = "memory_model.rs")]
mod memory;
mod ring;
mod sync;
mod wait;

pub use arena::Staged;
pub use back::{Back, Backlog, Completer, Submission};
pub use end::reason;
pub use error::Error;
pub use front::Front;
pub use layout::{Layout, PAGE_BYTES, Side};
pub use memory::{Arena, SharedMemory};
pub use wait::{Doorbell, SpinPolicy};

/// The number of a submission: they count from 1, in program order.
pub type Ticket = u64;
