//! What the two ends of xen-vgpu say to each other: XenStore keys and states, the control ring, the CUDA call table.
