//! xenstore: a client for XenStore over xenstored's socket or `/dev/xen/xenbus`.
//!
//! [`Store`] is one connection, shared freely between threads; [`Watch`] and [`Transaction`] hang on it.
//! What the server sends is not trusted: it is decoded with bounds, and an answer that does not fit ends the
//! connection with an error, never the process. This module must never interpret a value it read.

mod client;
pub mod wire;

use rustix::io::Errno;

pub use client::{Nodes, Store, Transaction, Watch, WatchEvent};
pub use wire::{Op, ParsePermissionError, Permission};

/// What XenStore operations return.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why a XenStore operation failed.
#[derive(thiserror::Error, Debug)]
pub enum StoreError {
    /// xenstored (or the kernel in front of it) refused the request.
    #[error("XenStore {op} of {path:?} failed: {errno}{}", hint(*errno))]
    Refused {
        /// The request.
        op: Op,
        /// The path, or for requests about a domain its domid.
        path: String,
        /// What the server answered.
        errno: Errno,
    },
    /// There is no XenStore to connect to.
    #[error(
        "cannot connect to XenStore at {tried}: {source}; is xenstored running, and is this a Xen domain?"
    )]
    Connect {
        /// The paths tried, in order.
        tried: String,
        /// The error of the last of them.
        source: std::io::Error,
    },
    /// The connection ended: the server is gone or closed it.
    #[error("the connection to XenStore has ended ({0}); open a new one")]
    Closed(String),
    /// The request does not fit in one message.
    #[error("XenStore {op} of {path:?} has {len} bytes; a message holds {max}")]
    TooLong {
        /// The request.
        op: Op,
        /// The path.
        path: String,
        /// Bytes of payload it would need.
        len: usize,
        /// Bytes of payload a message may have.
        max: usize,
    },
    /// A path, token or permission list that cannot be sent: it is empty or contains a NUL.
    #[error("{0:?} cannot be sent to XenStore: it is empty or contains a NUL")]
    Unsendable(String),
    /// The value is not text.
    #[error(
        "the value of {path:?} in XenStore is not UTF-8; its writer broke the protocol, or read it as bytes"
    )]
    NotUtf8 {
        /// The path that was read.
        path: String,
    },
    /// The server answered with something that is no answer to the request.
    #[error("XenStore answered {op} of {path:?} with something that is no answer to it: {what}")]
    BadAnswer {
        /// The request.
        op: Op,
        /// The path.
        path: String,
        /// What was wrong.
        what: String,
    },
    /// A transaction conflicted with others every time it was tried.
    #[error(
        "a XenStore transaction conflicted with others {attempts} times in a row; another program writes the same nodes without pause"
    )]
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
    /// The operating system refused something the client needs (a thread, a descriptor).
    #[error("XenStore client: {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The error.
        source: std::io::Error,
    },
}

impl StoreError {
    /// The errno the server answered with, if it did answer.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            StoreError::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the connection is of no more use.
    pub fn is_closed(&self) -> bool {
        matches!(self, StoreError::Closed(_))
    }
}

/// What to do about an errno, where that can be said.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => "; this domain has no permission there (xenstore-ls -p shows who has)",
        Errno::PERM => "; only the owner may do this, and only dom0 may change the owner",
        Errno::NOSPC => {
            "; this domain's quota is used up (nodes, bytes in a node, permissions or transactions)"
        }
        Errno::TOOBIG => "; too long, or this domain's quota of watches is used up",
        Errno::NOSYS => "; this XenStore does not know the operation",
        _ => "",
    }
}
