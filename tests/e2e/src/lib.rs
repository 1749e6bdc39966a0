//! The whole product on the local platform: what the end-to-end tests and the demo run.
//!
//! A [`Host`] is a machine without Xen: the local platform, vgpu-backd and a driver; a [`Guest`] is a
//! domain on it with its own vgpu-frontd. Programs run in a guest or directly on the driver. Must use
//! the product as a user does: installed files, command lines, environment; nothing else.

mod host;
mod process;

pub use host::{Bundle, Device, Driver, Guest, Host, gpu};
pub use process::{Daemon, Output, run, wait_until};
