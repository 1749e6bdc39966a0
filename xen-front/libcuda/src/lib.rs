//! libcuda.so.1 for programs in a Xen guest.
