//! Where Xen is, and the one trait behind which both answers stand.
//!
//! A [`Platform`] gives out grants, event channels and XenStore connections; callers never learn
//! which platform they are on, except for messages. It must never keep state that outlives its
//! objects: what was granted, mapped or bound lives and dies with the value that stands for it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::event::{EventChannel, Port};
use crate::grant::{Access, GrantMap, Granted, Gref};
use crate::local::Local;
use crate::store::{Store, StoreError};

/// The first domid that names no ordinary domain (`DOMID_FIRST_RESERVED` in `public/xen.h`).
pub const FIRST_RESERVED_DOMID: u16 = 0x7ff0;

/// A domain's number. 0 is dom0; ordinary domains are below [`FIRST_RESERVED_DOMID`].
#[derive(
    Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct DomId(pub u16);

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not a domid.
#[derive(thiserror::Error, Debug, Clone, Eq, PartialEq)]
#[error("'{0}' is not a domid: expected a decimal number below {FIRST_RESERVED_DOMID}")]
pub struct InvalidDomId(pub String);

impl FromStr for DomId {
    type Err = InvalidDomId;

    fn from_str(text: &str) -> Result<DomId, InvalidDomId> {
        match text.parse() {
            Ok(id) if id < FIRST_RESERVED_DOMID => Ok(DomId(id)),
            _ => Err(InvalidDomId(text.to_owned())),
        }
    }
}

/// The result of everything a platform does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a platform could not do what was asked. Each text ends with what to do next.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no Xen here, or a part of it is not loaded or not running.
    #[error("{what}; {advice}")]
    NotPresent {
        /// What was looked for and not found.
        what: String,
        /// What to do about it.
        advice: String,
    },
    /// A limit on grants, mappings or event channels is reached.
    #[error("{what}; {advice}")]
    LimitReached {
        /// What could not be had.
        what: String,
        /// The limit, in pages or ports, where it is known.
        limit: Option<u32>,
        /// What to do about it.
        advice: String,
    },
    /// We may not do this.
    #[error("{operation}: permission denied; {advice}")]
    PermissionDenied {
        /// What was refused, to what.
        operation: String,
        /// What to do about it.
        advice: String,
    },
    /// The peer did not grant this, or not to us, or not for writing, or has taken it back.
    #[error(
        "{what}; the peer must grant these pages to this domain, for this access, and keep them granted"
    )]
    NotGranted {
        /// Which pages of which domain could not be mapped.
        what: String,
    },
    /// The peer's port is not there, not for us, or bound already.
    #[error(
        "event channel port {port} of domain {remote} cannot be bound; the peer must offer it to this domain as an unbound port, and nothing else may have bound it"
    )]
    NotOffered {
        /// The domain that should offer the port.
        remote: DomId,
        /// Its port.
        port: Port,
    },
    /// The caller asked for something that has no meaning.
    #[error("{0}")]
    Invalid(String),
    /// XenStore refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system call behind an operation failed in a way that has no better name.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done, to what.
        operation: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Io {
            operation: operation.into(),
            source: source.into(),
        }
    }
}

/// Which platform to use: `device` for a real hypervisor, `local:DIR` for a domain's folder of a
/// running `xen-local`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Hash)]
pub enum PlatformSpec {
    /// `/dev/xen/*` and the xenstored socket.
    #[default]
    Device,
    /// A domain's folder of a running `xen-local`.
    Local(PathBuf),
}

impl PlatformSpec {
    /// Opens the platform.
    ///
    /// # Errors
    /// [`Error::NotPresent`] where there is no `/dev/xen`, or no server behind the folder.
    pub fn open(&self) -> Result<Arc<dyn Platform>> {
        Ok(match self {
            PlatformSpec::Device => Arc::new(Device::open()?),
            PlatformSpec::Local(dir) => Arc::new(Local::open(dir)?),
        })
    }
}

impl fmt::Display for PlatformSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlatformSpec::Device => f.write_str("device"),
            PlatformSpec::Local(dir) => write!(f, "local:{}", dir.display()),
        }
    }
}

/// A text that names no platform.
#[derive(thiserror::Error, Debug, Clone, Eq, PartialEq)]
#[error(
    "'{0}' is not a platform: expected 'device', or 'local:DIR' with the folder of a domain of a running xen-local"
)]
pub struct InvalidPlatform(pub String);

impl FromStr for PlatformSpec {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<PlatformSpec, InvalidPlatform> {
        match text.split_once(':') {
            None if text == "device" => Ok(PlatformSpec::Device),
            Some(("local", dir)) if !dir.is_empty() => Ok(PlatformSpec::Local(dir.into())),
            _ => Err(InvalidPlatform(text.to_owned())),
        }
    }
}

/// A hypervisor as a process of one domain sees it.
pub trait Platform: Send + Sync + fmt::Debug {
    /// `device` or `local`, for messages.
    fn name(&self) -> &'static str;

    /// The domain this process runs in. It changes when a guest is migrated or restored.
    ///
    /// # Errors
    /// If XenStore cannot be reached.
    fn domid(&self) -> Result<DomId>;

    /// A new connection to XenStore.
    ///
    /// # Errors
    /// If XenStore cannot be reached.
    fn store(&self) -> Result<Store>;

    /// Allocates `pages` zeroed pages and grants them to `peer`.
    ///
    /// # Errors
    /// [`Error::LimitReached`] over the limit of granted pages; [`Error::Invalid`] for no pages.
    fn grant(&self, peer: DomId, pages: u32, access: Access) -> Result<Granted>;

    /// Takes hold of pages that `peer` granted to this domain, all of them or none.
    ///
    /// # Errors
    /// [`Error::NotGranted`], which on real Xen only [`GrantMap::mmap`] finds out;
    /// [`Error::LimitReached`] over the limit of mappings; [`Error::Invalid`] for no pages.
    fn map(&self, peer: DomId, grefs: &[Gref], access: Access) -> Result<GrantMap>;

    /// Makes a port that `remote`, and no other domain, may bind.
    ///
    /// # Errors
    /// [`Error::LimitReached`] when the domain has no ports left.
    fn bind_unbound(&self, remote: DomId) -> Result<EventChannel>;

    /// Binds a port that `remote` made for this domain. Whoever binds starts out signalled once, as
    /// Xen makes good for notifications that came before the binding.
    ///
    /// # Errors
    /// [`Error::NotOffered`] if there is no such port, it is for another domain, or bound already.
    fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<EventChannel>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domid_is_a_decimal_below_the_reserved_ones() {
        assert_eq!("0".parse(), Ok(DomId(0)));
        assert_eq!("32751".parse(), Ok(DomId(0x7fef)));
        for bad in ["", "-1", "32752", "65536", "1x", " 1"] {
            assert_eq!(bad.parse::<DomId>(), Err(InvalidDomId(bad.to_owned())));
        }
        assert_eq!(DomId(7).to_string(), "7");
    }

    #[test]
    fn platform_names_round_trip() {
        for text in ["device", "local:/run/xen-local/dom3"] {
            assert_eq!(text.parse::<PlatformSpec>().unwrap().to_string(), text);
        }
        for bad in ["", "xen", "local", "local:", "device:/x"] {
            assert!(bad.parse::<PlatformSpec>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_absent_local_platform_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = PlatformSpec::Local(dir.path().into()).open().unwrap_err();
        assert!(matches!(error, Error::NotPresent { .. }), "{error:?}");
        assert!(error.to_string().contains("xen-local serve"), "{error}");
    }
}
