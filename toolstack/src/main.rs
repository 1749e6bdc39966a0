//! Attach, detach and list vgpu devices by hand.

fn main() {}
