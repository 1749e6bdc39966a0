//! Programs look for `libcuda.so.1`: that is this library's name to the loader. Its engines' threads
//! run its code for the process's life, so `dlclose` must not unmap it (`nodelete`). Code that it compiles
//! is kept on disk for itself alone: a hash of its sources tells one build from another.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::{fs, io};

/// Adds a folder's files, in the order of their names.
fn add(folder: &Path, hash: &mut DefaultHasher) -> io::Result<()> {
    let mut paths = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            add(&path, hash)?;
        } else {
            (path.file_name(), fs::read(&path)?).hash(hash);
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let mut hash = DefaultHasher::new();
    add(Path::new("src"), &mut hash)?;
    println!("cargo::rustc-env=SOFTCUDA_SOURCES={:016x}", hash.finish());
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src");
    Ok(())
}
