//! CUDA SDK programs that verify themselves.
