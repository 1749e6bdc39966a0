//! The local platform's XenStore in this process, with a socket per domain.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;
use xen::DomId;
use xen::local::xenstored::Server;

pub struct LocalStore {
    folder: TempDir,
    /// `None` once it is ended.
    pub server: Mutex<Option<Server>>,
    next: AtomicU16,
}

impl LocalStore {
    pub fn start() -> LocalStore {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new().unwrap();
        let store = LocalStore {
            folder,
            server: Mutex::new(None),
            next: AtomicU16::new(1),
        };
        server
            .listen(DomId(0), UnixListener::bind(store.socket()).unwrap())
            .unwrap();
        *store.server.lock().unwrap() = Some(server);
        store
    }

    /// dom0's socket.
    pub fn socket(&self) -> PathBuf {
        self.guest_socket(DomId(0))
    }

    /// A domain's socket.
    pub fn guest_socket(&self, domid: DomId) -> PathBuf {
        self.folder.path().join(format!("dom{domid}"))
    }

    /// The hypervisor's part in creating a domain.
    pub fn create(&self) -> DomId {
        let domid = DomId(self.next.fetch_add(1, Ordering::Relaxed));
        let listener = UnixListener::bind(self.guest_socket(domid)).unwrap();
        let server = self.server.lock().unwrap();
        let server = server.as_ref().unwrap();
        server.domain_created(domid);
        server.listen(domid, listener).unwrap();
        domid
    }
}
