//! Runs one guest process's CUDA calls on the libcuda.so.1 it is given.
