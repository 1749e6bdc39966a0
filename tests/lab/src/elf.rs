//! The libraries an ELF program needs: its DT_NEEDED closure, found in the cache first, then on the host.
//! It reads the files itself; it never runs them, as ldd would.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};

use crate::cache::follow;

/// Where Debian keeps libraries, before and after it merged /lib into /usr/lib.
const FOLDERS: [&str; 4] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
];

/// What one ELF file asks its loader for.
#[derive(Debug, Default)]
struct Needs {
    /// File names of libraries and of the loader.
    names: Vec<String>,
    /// Folders of its own to look in first.
    folders: Vec<String>,
}

/// True for an ELF file.
pub(crate) fn is_elf(data: &[u8]) -> bool {
    data.starts_with(&elf::ELFMAG)
}

/// The libraries that the ELF file `data` needs, and theirs in turn: file name → file.
pub(crate) fn libraries(root: &Path, what: &str, data: &[u8]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut queue = VecDeque::from([(
        what.to_owned(),
        needs(data).with_context(|| format!("reading {what}"))?,
    )]);
    while let Some((of, wants)) = queue.pop_front() {
        for name in wants.names {
            if found.contains_key(&name) {
                continue;
            }
            let Some(path) = search(root, &wants.folders, &name) else {
                bail!(
                    "{of} needs {name}, which is neither in {} nor on this host; `cargo xtask setup` fills the cache",
                    root.display()
                );
            };
            let library = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            queue.push_back((
                name.clone(),
                needs(&library).with_context(|| format!("reading {}", path.display()))?,
            ));
            found.insert(name, path);
        }
    }
    Ok(found)
}

/// A library by its file name.
pub(crate) fn search(root: &Path, own: &[String], name: &str) -> Option<PathBuf> {
    [root, Path::new("/")].iter().find_map(|root| {
        let own = own.iter().map(|folder| folder.trim_start_matches('/'));
        own.chain(FOLDERS)
            .find_map(|folder| follow(root, &Path::new(folder).join(name)))
    })
}

fn needs(data: &[u8]) -> Result<Needs> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let mut needs = Needs::default();
    for segment in header.program_headers(endian, data)? {
        if let Some(loader) = segment.interpreter(endian, data)? {
            let loader = String::from_utf8_lossy(loader).into_owned();
            needs
                .names
                .extend(loader.rsplit('/').next().map(str::to_owned));
        }
    }
    let sections = header.sections(endian, data)?;
    let Some((entries, strings)) = sections.dynamic(endian, data)? else {
        return Ok(needs);
    };
    let strings = sections.strings(endian, data, strings)?;
    for entry in entries {
        let tag = entry.tag(endian);
        if ![DT_NEEDED, DT_RPATH, DT_RUNPATH].contains(&tag) {
            continue;
        }
        let text = String::from_utf8_lossy(entry.string(endian, strings)?).into_owned();
        if tag == DT_NEEDED {
            needs.names.push(text);
        } else {
            needs.folders.extend(
                text.split(':')
                    .filter(|folder| folder.starts_with('/'))
                    .map(str::to_owned),
            );
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_needs_libc_and_a_loader() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = libraries(Path::new("/nonexistent"), "this test", &own).unwrap();
        assert!(found.contains_key("libc.so.6"), "{found:?}");
        assert!(found.contains_key("ld-linux-x86-64.so.2"), "{found:?}");
        assert!(found.values().all(|path| path.is_file()));
    }

    #[test]
    fn the_cache_comes_before_the_host() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("lib/x86_64-linux-gnu");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("libc.so.6"), "").unwrap();
        assert_eq!(
            search(root.path(), &[], "libc.so.6"),
            Some(folder.join("libc.so.6"))
        );
    }

    #[test]
    fn what_is_no_elf_file_is_an_error() {
        assert!(libraries(Path::new("/"), "text", b"#!/bin/sh\n").is_err());
        assert!(!is_elf(b"#!"));
    }
}
