//! The first root file system of dom0 or of a guest: files, links and programs, packed for the kernel to unpack.
//! A program brings every library it needs with it.
//! It is built in memory only; nothing of the host is mounted, changed or run, except `strip` on a copy.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, decompress, file_name};
use crate::cpio::Archive;
use crate::elf;

/// Where libraries lie in an image; /lib and /lib64 are links that lead here.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

#[derive(Clone, Debug)]
enum Entry {
    Directory,
    File { mode: u32, data: Arc<[u8]> },
    Link(String),
}

/// A root file system being put together.
#[derive(Clone, Debug)]
pub struct Image {
    root: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl Image {
    /// An empty one, whose programs' libraries come from `cache` before the host's.
    pub fn new(cache: &Cache) -> Image {
        Image {
            root: cache.root().to_path_buf(),
            entries: BTreeMap::new(),
        }
    }

    /// A folder and those above it.
    pub fn directory(&mut self, path: &str) {
        let mut path = path.trim_matches('/');
        while !path.is_empty() && !self.entries.contains_key(path) {
            self.entries.insert(path.to_owned(), Entry::Directory);
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }

    /// A file with these permissions (octal, as in `chmod`), replacing one of the same name.
    pub fn file(&mut self, path: &str, mode: u32, data: impl Into<Arc<[u8]>>) {
        self.put(
            path,
            Entry::File {
                mode,
                data: data.into(),
            },
        );
    }

    /// A shell script or another executable text.
    pub fn script(&mut self, path: &str, text: &str) {
        self.file(path, 0o755, text.as_bytes());
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, Entry::Link(target.to_owned()));
    }

    /// A program or library of the host's at `path`, without debug information, with the libraries it needs.
    pub fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        let data = if from.starts_with(&self.root) {
            fs::read(from)
        } else {
            stripped(from)
        }
        .with_context(|| format!("reading {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode();
        if elf::is_elf(&data) {
            for (name, library) in elf::libraries(&self.root, &from.display().to_string(), &data)? {
                self.shared_library_file(&name, &library)?;
            }
        }
        self.file(path, mode, data);
        Ok(())
    }

    /// A library that programs load by name at run time, so that no program's list of needs has it.
    pub fn shared_library(&mut self, name: &str) -> Result<()> {
        let found = elf::search(&self.root, &[], name).with_context(|| {
            format!("no library {name} in the cache or on this host: run `cargo xtask setup`")
        })?;
        let data = fs::read(&found)?;
        for (name, library) in elf::libraries(&self.root, name, &data)? {
            self.shared_library_file(&name, &library)?;
        }
        self.shared_library_file(name, &found)
    }

    /// Everything below a folder of the host's; programs in it as [`Image::program`] takes them, links as they are.
    pub fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        self.directory(path);
        for entry in
            fs::read_dir(from).with_context(|| format!("reading the folder {}", from.display()))?
        {
            let entry = entry?;
            let (here, path) = (
                entry.path(),
                format!("{path}/{}", entry.file_name().to_string_lossy()),
            );
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                self.link(&path, &fs::read_link(&here)?.to_string_lossy());
            } else if kind.is_dir() {
                self.tree(&path, &here)?;
            } else {
                self.program(&path, &here)?;
            }
        }
        Ok(())
    }

    /// A file of a package, unpacked if it is compressed.
    pub(crate) fn unpacked(&mut self, path: &str, from: &Path) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.file(path, 0o644, decompress(&data)?);
        Ok(())
    }

    /// The archive that the kernel unpacks.
    pub(crate) fn pack(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::new(Vec::new());
        // Sorted names put a folder before what is in it.
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory => archive.directory(path)?,
                Entry::File { mode, data } => archive.file(path, *mode, data)?,
                Entry::Link(target) => archive.link(path, target)?,
            }
        }
        Ok(archive.finish()?)
    }

    fn shared_library_file(&mut self, name: &str, from: &Path) -> Result<()> {
        let path = format!("{LIBRARIES}/{name}");
        if !self.entries.contains_key(&path) {
            let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
            self.file(&path, 0o755, data);
        }
        Ok(())
    }

    fn put(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), entry);
    }
}

/// The file without its debug information, which makes up most of a Rust program; as it is where `strip` cannot help.
fn stripped(from: &Path) -> std::io::Result<Vec<u8>> {
    let data = fs::read(from)?;
    if !elf::is_elf(&data) {
        return Ok(data);
    }
    let folder = tempfile::tempdir()?;
    let to = folder.path().join(file_name(from));
    let done = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .arg(&to)
        .arg(from)
        .status();
    if done.is_ok_and(|status| status.success()) {
        fs::read(&to)
    } else {
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(image: &Image) -> Vec<&str> {
        image.entries.keys().map(String::as_str).collect()
    }

    #[test]
    fn parents_come_with_what_is_in_them() {
        let mut image = Image::new(&Cache::locate());
        image.file("/a/b/c", 0o600, *b"x");
        image.link("/d/e", "../a");
        assert_eq!(names(&image), ["a", "a/b", "a/b/c", "d", "d/e"]);
        assert!(!image.pack().unwrap().is_empty());
    }

    #[test]
    fn a_program_brings_its_libraries_and_loses_its_debug_information() {
        let mut image = Image::new(&Cache::locate());
        let own = std::env::current_exe().unwrap();
        image.program("/usr/bin/own", &own).unwrap();
        assert!(names(&image).contains(&"usr/lib/x86_64-linux-gnu/libc.so.6"));
        let Entry::File { mode, data } = &image.entries["usr/bin/own"] else {
            panic!("a file")
        };
        assert_eq!(mode & 0o111, 0o111);
        assert!((data.len() as u64) < fs::metadata(&own).unwrap().len());
    }

    #[test]
    fn a_folder_is_taken_whole() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        fs::write(folder.path().join("lib/libx.so.1"), "text").unwrap();
        std::os::unix::fs::symlink("libx.so.1", folder.path().join("lib/libx.so")).unwrap();
        let mut image = Image::new(&Cache::locate());
        image.tree("/opt/x", folder.path()).unwrap();
        assert_eq!(
            names(&image),
            [
                "opt",
                "opt/x",
                "opt/x/lib",
                "opt/x/lib/libx.so",
                "opt/x/lib/libx.so.1"
            ]
        );
        assert!(
            matches!(&image.entries["opt/x/lib/libx.so"], Entry::Link(target) if target == "libx.so.1")
        );
    }
}
