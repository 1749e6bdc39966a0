//! cargo xtask: set-up, demo, tests, the Xen lab.

fn main() {}
