//! The guest's end of the XenBus device: opens a channel for every CUDA process.

fn main() {}
