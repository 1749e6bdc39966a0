//! The store conformance suite on Debian's real C xenstored: our client speaks to it as dom0 through its socket
//! and as guests through rings, and what we believe XenStore does is what it does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "conformance/store.rs"]
mod store;
#[path = "xenstored-shim/mod.rs"]
mod xenstored_shim;

use std::path::PathBuf;

use xen::{DomId, Store};
use xenstored_shim::Xenstored;

impl store::Host for Xenstored {
    fn socket(&self) -> PathBuf {
        Xenstored::socket(self)
    }

    fn create(&self) -> DomId {
        Xenstored::create(self)
    }

    fn guest(&self, domid: DomId) -> Store {
        Xenstored::guest(self, domid)
    }

    fn destroy(&self, domid: DomId) {
        Xenstored::destroy(self, domid);
    }

    fn kill(&self) {
        Xenstored::kill(self);
    }
}

store_conformance!(Xenstored::start());
