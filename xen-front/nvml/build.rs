//! Programs look for `libnvidia-ml.so.1`: that is this library's name to the loader.
fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1");
    println!("cargo::rerun-if-changed=build.rs");
}
