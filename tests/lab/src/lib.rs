//! Boots the real Xen hypervisor, dom0 and guests on a machine without Xen, for tests.
