//! What the two ends of xen-vgpu say to each other.
//!
//! [`codec`] is the one way values become bytes; [`calls`] the CUDA calls, expanded from
//! `cuda_abi::with_calls!`; [`control`] what frontd and backd say over the control ring; [`guest`] what
//! a program's libcuda and frontd say over a Unix socket; [`backend`] what backd and a worker say;
//! [`gate`] what they share about a device, [`quota`] about a domain's memory; [`grants`] the page that
//! lists grant references; [`keys`] and [`xenbus`] the XenStore nodes and the state machines of both ends;
//! [`admin`] what backd tells people's tools; [`wait`] how the daemons wait. docs/protocol.md says the same
//! for other implementations.

pub mod admin;
pub mod backend;
pub mod calls;
pub mod channel;
pub mod codec;
pub mod control;
pub mod gate;
pub mod grants;
pub mod guest;
pub mod keys;
pub mod packet;
pub mod quota;
mod shared_page;
pub mod wait;
pub mod xenbus;

/// The version of everything here. Both ends publish what they speak and refuse what they do not.
pub const PROTOCOL_VERSION: u32 = 1;
