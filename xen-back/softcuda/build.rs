//! Programs look for `libcuda.so.1`: that is this library's name to the loader. Its engines' threads
//! run its code for the process's life, so `dlclose` must not unmap it (`nodelete`).
fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
