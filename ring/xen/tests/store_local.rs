//! The store conformance suite on the local platform's XenStore, and what only that one promises: no client can
//! stop or starve it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "local-store/mod.rs"]
mod local_store;
#[path = "conformance/store.rs"]
mod store;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use local_store::LocalStore;
use proptest::prelude::*;
use store::Host;
use xen::store::wire::{self, Op};
use xen::{DomId, Store};

store_conformance!(LocalStore::start());

impl Host for LocalStore {
    fn socket(&self) -> PathBuf {
        LocalStore::socket(self)
    }

    fn create(&self) -> DomId {
        LocalStore::create(self)
    }

    fn guest(&self, domid: DomId) -> Store {
        Store::connect(&self.guest_socket(domid)).unwrap()
    }

    fn destroy(&self, domid: DomId) {
        self.server
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .domain_destroyed(domid);
    }

    fn kill(&self) {
        drop(self.server.lock().unwrap().take());
    }
}

/// Sends the same request until the socket takes no more, and never reads; returns how many it took.
fn flood(socket: &UnixStream, request: &[u8]) -> usize {
    socket.set_nonblocking(true).unwrap();
    let stream: Vec<u8> = request.repeat(100);
    let mut sent = 0;
    for _ in 0..2000 {
        match (&*socket).write(&stream) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1))
            }
            Err(_) => break,
        }
    }
    sent / request.len()
}

#[test]
fn a_guest_that_takes_no_answers_waits_alone() {
    let host = LocalStore::start();
    let (bad, _) = host.boot();
    let (_, good) = host.boot();
    let socket = UnixStream::connect(host.guest_socket(bad)).unwrap();
    let most = 200_000;
    let taken = flood(
        &socket,
        &wire::encode(Op::Directory, 1, 0, b"/local/domain\0"),
    );
    assert!(
        taken < most,
        "{taken} requests were taken and none of their answers"
    );
    good.write("data/x", "1").unwrap();
    assert_eq!(host.dom0().read("/tool").unwrap().as_deref(), Some(""));
}

#[test]
fn a_guest_that_floods_dom0_with_events_waits_for_dom0() {
    let host = LocalStore::start();
    let (bad, _) = host.boot();
    let (_, good) = host.boot();
    // A process of dom0 that watches everything and reads nothing.
    let stopped = UnixStream::connect(host.socket()).unwrap();
    (&stopped)
        .write_all(&wire::encode(Op::Watch, 1, 0, b"/\0t\0"))
        .unwrap();
    (&stopped).read_exact(&mut [0u8; 19]).unwrap();
    let socket = UnixStream::connect(host.guest_socket(bad)).unwrap();
    let reader = socket.try_clone().unwrap();
    let drain = std::thread::spawn(move || {
        let mut reader = reader;
        let mut answers = 0;
        let mut buffer = [0u8; 19];
        while reader.read_exact(&mut buffer).is_ok() {
            answers += 1;
        }
        answers
    });
    // Every request another path, so that no two events are the same.
    let mut written = 0;
    socket
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    for i in 0..100_000 {
        let path = format!("data/{}{i}\0", "x".repeat(1000));
        let pair = [
            wire::encode(Op::Mkdir, 1, 0, path.as_bytes()),
            wire::encode(Op::Rm, 1, 0, path.as_bytes()),
        ];
        if (&socket).write_all(&pair.concat()).is_err() {
            break;
        }
        written += 2;
    }
    assert!(written < 200_000, "nothing held the guest back");
    // Nobody else is held back by either.
    good.write("data/x", "1").unwrap();
    assert_eq!(good.read("data/x").unwrap().as_deref(), Some("1"));
    drop(stopped);
    // With the one who held it up gone, the guest goes on.
    socket
        .set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(drain.join().unwrap() > 20);
}

#[test]
fn requests_wait_until_the_domain_is_introduced() {
    let host = LocalStore::start();
    let domid = host.create();
    let mut socket = UnixStream::connect(host.guest_socket(domid)).unwrap();
    socket
        .write_all(&wire::encode(Op::GetDomainPath, 5, 0, b"1\0"))
        .unwrap();
    let dom0 = host.dom0();
    dom0.write("/x", "1").unwrap();
    socket.set_nonblocking(true).unwrap();
    assert_eq!(
        socket.read(&mut [0u8; 1]).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    socket.set_nonblocking(false).unwrap();
    dom0.introduce(domid, 1, 1).unwrap();
    let mut answer = [0u8; 32];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[16..], b"/local/domain/1\0");
    host.destroy(domid);
    assert_eq!(
        socket.read(&mut [0u8; 1]).unwrap(),
        0,
        "a dead domain's connections end"
    );
}

#[test]
fn a_domain_has_only_so_many_connections() {
    let host = LocalStore::start();
    let (domid, store) = host.boot();
    let sockets: Vec<UnixStream> = (0..200)
        .map(|_| UnixStream::connect(host.guest_socket(domid)).unwrap())
        .collect();
    let mut refused = 0;
    for mut socket in &sockets {
        if socket
            .write_all(&wire::encode(Op::Read, 1, 0, b"domid\0"))
            .is_err()
            || socket.read(&mut [0u8; 32]).map_or(true, |n| n == 0)
        {
            refused += 1;
        }
    }
    // One of the 64 is the store's.
    assert_eq!(refused, 200 - 63);
    store.write("data/x", "1").unwrap();
    drop(sockets);
    host.dom0().write("/x", "1").unwrap();
}

#[test]
fn a_guests_connections_share_its_quotas() {
    let host = LocalStore::start();
    let (domid, first) = host.boot();
    let second = Store::connect(&host.guest_socket(domid)).unwrap();
    let mut watches = Vec::new();
    while let Ok(watch) = if watches.len() % 2 == 0 {
        first.watch("data")
    } else {
        second.watch("data")
    } {
        watches.push(watch);
    }
    assert_eq!(watches.len(), 129);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nonsense_never_harms_the_server(
        messages in prop::collection::vec((0u32..24, 0u32..3, prop::collection::vec(
            prop_oneof![Just(0u8), Just(b'/'), Just(b'@'), Just(b'a'), Just(b'n'), Just(b'1'), any::<u8>()], 0..40)), 1..20),
        garbage in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let host = LocalStore::start();
        let (domid, _) = host.boot();
        for path in [host.socket(), host.guest_socket(domid)] {
            let socket = UnixStream::connect(path).unwrap();
            for (kind, tx_id, payload) in &messages {
                let mut message = wire::encode(Op::Error, 1, *tx_id, payload);
                message[..4].copy_from_slice(&kind.to_le_bytes());
                // It may have been cut off already.
                let _ = (&socket).write_all(&message);
            }
            let _ = (&socket).write_all(&garbage);
        }
        prop_assert!(host.dom0().directory("/").unwrap().is_some());
    }
}
