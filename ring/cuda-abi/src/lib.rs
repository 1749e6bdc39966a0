//! What any libcuda.so.1 offers: C types, names, and the name and version table behind cuGetProcAddress.
