//! Which domains get a device: one TOML file a domain, named after it.
//!
//! A file is read when its domain appears, so that changing one needs no restart. A file that is wrong
//! is an error that names the line; it must never keep other domains from their devices.

use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};
use vgpu_protocol::keys::Domain;

/// Where the files are, unless told otherwise.
pub const DIR: &str = "/etc/xen-vgpu/domains.d";

/// What a domain's file says.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DomainConfig {
    /// Whether the domain gets its device.
    pub enabled: bool,
    /// The device's number in the domain.
    pub devid: u32,
}

impl Default for DomainConfig {
    fn default() -> Self {
        DomainConfig {
            enabled: true,
            devid: 0,
        }
    }
}

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
    #[error(
        "{path} is wrong: {source}the domain gets no vgpu device; correct the file, then xl-vgpu attach, or start the domain again"
    )]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

/// What `dir` has for a domain: the file of its name, else that of its UUID.
///
/// # Errors
/// [`ConfigError`], for the one file that was looked at.
pub fn find(dir: &Path, domain: &Domain) -> Result<Option<DomainConfig>, ConfigError> {
    for stem in [&domain.name, &domain.uuid] {
        // A name becomes part of a path: only one that stays in the folder.
        if stem.is_empty() || stem.starts_with('.') || stem.contains(['/', '\0']) {
            continue;
        }
        let path = dir.join(format!("{stem}.toml"));
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return toml::from_str(&text)
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
            Some(DomainConfig::default())
        );
        let off = DomainConfig {
            enabled: false,
            devid: 2,
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
        let config: DomainConfig = toml::from_str(include_str!("../examples/GUEST.toml")).unwrap();
        assert_eq!(config, DomainConfig::default());
    }
}
