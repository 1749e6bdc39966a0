//! `libnvidia-ml.so.1` for programs in a Xen guest: NVML, as far as a share of a GPU has answers to it.
//!
//! [`link`] holds the channel to the backend; [`functions`] declares every export; [`api`] answers those
//! that have an answer. What is shown is the domain's: its devices, its memory, its use. This library
//! loads into arbitrary programs: it must never end the process, print to standard output, change a
//! device, or tell of other domains.

#![allow(non_snake_case, non_upper_case_globals, reason = "NVML's names")]

mod api;
mod errors;
mod functions;
mod link;

pub use functions::{Answered, Function};
