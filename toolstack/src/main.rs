//! xl-vgpu: attaches, detaches and lists vgpu devices by hand, with the code that backd uses.
//!
//! It writes a device's nodes in XenStore and reads what both ends show there; what runs on a device
//! it asks backd. It must never follow a path or trust a text that a guest wrote.

fn main() {}
