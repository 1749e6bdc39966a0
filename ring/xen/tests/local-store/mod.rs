//! The local platform's XenStore in this process, with a socket per domain.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;
use xen::local::xenstored::Server;
use xen::{DomId, Store};

pub struct LocalStore {
    folder: TempDir,
    server: Mutex<Option<Server>>,
    next: AtomicU16,
}

impl LocalStore {
    pub fn start() -> LocalStore {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new().unwrap();
        server
            .listen(
                DomId(0),
                UnixListener::bind(folder.path().join("dom0")).unwrap(),
            )
            .unwrap();
        LocalStore {
            folder,
            server: Mutex::new(Some(server)),
            next: AtomicU16::new(1),
        }
    }

    /// dom0's socket.
    pub fn socket(&self) -> PathBuf {
        self.guest_socket(DomId(0))
    }

    /// A domain's socket.
    pub fn guest_socket(&self, domid: DomId) -> PathBuf {
        self.folder.path().join(format!("dom{domid}"))
    }

    pub fn create(&self) -> DomId {
        let domid = DomId(self.next.fetch_add(1, Ordering::Relaxed));
        let listener = UnixListener::bind(self.guest_socket(domid)).unwrap();
        let server = self.server.lock().unwrap();
        let server = server.as_ref().unwrap();
        server.domain_created(domid);
        server.listen(domid, listener).unwrap();
        domid
    }

    pub fn guest(&self, domid: DomId) -> Store {
        Store::connect(&self.guest_socket(domid)).unwrap()
    }

    pub fn destroy(&self, domid: DomId) {
        self.server
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .domain_destroyed(domid);
    }

    pub fn kill(&self) {
        drop(self.server.lock().unwrap().take());
    }
}
