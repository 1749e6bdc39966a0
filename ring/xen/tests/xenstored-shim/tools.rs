//! Xen's programs, which come from an unpacked tree and never from the system. One that is missing fails the test
//! with what to do; nothing is ever skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The unpacked tree of Xen's packages: `$XEN_TOOLS_ROOT`, else what `cargo xtask setup` makes.
fn tools_root() -> PathBuf {
    match std::env::var_os("XEN_TOOLS_ROOT") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/xen-cache/root"),
    }
}

/// A file of the tree.
pub fn tool(path: &str) -> PathBuf {
    let path = tools_root().join(path);
    assert!(
        path.exists(),
        "{} is missing: run cargo xtask setup, or set XEN_TOOLS_ROOT",
        path.display()
    );
    path
}

/// A command of the tree, with the tree's libraries.
pub fn command(path: &str) -> Command {
    let mut command = Command::new(tool(path));
    command
        .env("LD_LIBRARY_PATH", tool("usr/lib/x86_64-linux-gnu"))
        .env_remove("XENSTORED_RUNDIR");
    command
}
