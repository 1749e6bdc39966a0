//! Which domains get a device: one TOML file a domain, named after it.
//!
//! A file is read when its domain appears, so that changing one needs no restart. A file that is wrong
//! is an error that names the line; it must never keep other domains from their devices.

use std::io;
use std::path::{Path, PathBuf};
use vgpu_protocol::keys::Domain;
use vgpu_sched::description::{Description, DescriptionError};

/// Where the files are, unless told otherwise.
pub const DIR: &str = "/etc/xen-vgpu/domains.d";

/// Why a domain's file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It makes no sense.
    #[error("{path} is wrong: {source}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<DescriptionError>,
    },
}

/// What `dir` has for a domain: the file of its name, else that of its UUID.
///
/// # Errors
/// [`ConfigError`], for the one file that was looked at.
pub fn find(dir: &Path, domain: &Domain) -> Result<Option<Description>, ConfigError> {
    for stem in [&domain.name, &domain.uuid] {
        // A name becomes part of a path: only one that stays in the folder.
        if stem.is_empty() || stem.starts_with('.') || stem.contains(['/', '\0']) {
            continue;
        }
        let path = dir.join(format!("{stem}.toml"));
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return Description::parse(&text)
                    .map(Some)
                    .map_err(|source| ConfigError::Parse {
                        path,
                        source: Box::new(source),
                    });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ConfigError::Read { path, source }),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen::DomId;

    fn domain(name: &str, uuid: &str) -> Domain {
        Domain {
            domid: DomId(3),
            name: name.into(),
            uuid: uuid.into(),
        }
    }

    #[test]
    fn a_domain_is_found_by_name_or_uuid() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("web.toml"), "").unwrap();
        std::fs::write(dir.path().join("u-1.toml"), "enabled = false\ndevid = 2\n").unwrap();
        assert_eq!(
            find(dir.path(), &domain("web", "u-1")).unwrap(),
            Some(Description::default())
        );
        let off = Description {
            enabled: false,
            devid: 2,
            ..Description::default()
        };
        assert_eq!(find(dir.path(), &domain("db", "u-1")).unwrap(), Some(off));
        assert_eq!(find(dir.path(), &domain("db", "u-2")).unwrap(), None);
        assert_eq!(find(dir.path(), &domain("", "")).unwrap(), None);
        assert_eq!(
            find(&dir.path().join("absent"), &domain("web", "")).unwrap(),
            None
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("web.toml"), "devid = 0\n\nweihgt = 3\n").unwrap();
        let text = find(dir.path(), &domain("web", ""))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("line 3") && text.contains("weihgt") && text.contains("web.toml"),
            "{text}"
        );
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("out.toml"), "").unwrap();
        for name in ["../out", ".", "..", "/etc/passwd", "a\0b"] {
            assert_eq!(
                find(&dir.path().join("in"), &domain(name, "")).unwrap(),
                None,
                "{name:?}"
            );
        }
    }

    #[test]
    fn the_example_is_what_the_defaults_are() {
        let text = include_str!("../examples/GUEST.toml");
        assert_eq!(Description::parse(text).unwrap(), Description::default());
        // And what it shows commented out is good too.
        let all = text.replace("\n#: ", "\n");
        let all = Description::parse(&all).unwrap();
        assert_eq!(all.memory, Some(4 << 30));
        assert_eq!(all.launches, Some(128));
    }
}
