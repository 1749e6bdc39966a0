//! xengnttab, xenevtchn and xenstore in pure Rust: what a Xen paravirtual device in user space needs.
//!
//! Two platforms stand behind one trait, [`Platform`]: [`device`] talks to a real hypervisor through
//! `/dev/xen/*` and the xenstored socket; [`local`] stands in for it on a machine without Xen. This
//! crate knows nothing of CUDA and nothing of any device type.

pub mod device;
pub mod event;
pub mod grant;
pub mod local;
pub mod platform;
pub mod store;

pub use event::{EventChannel, EventChannelParts, Port};
pub use grant::{Access, Extent, GrantMap, Granted, Gref, Mapping};
pub use platform::{DomId, Error, Platform, PlatformSpec, Result};
pub use store::{Store, Transaction, Watch, WatchEvent};

/// Bytes in a page that is granted: Xen's granularity on x86, whatever the kernel's own.
pub const PAGE_SIZE: usize = 4096;
