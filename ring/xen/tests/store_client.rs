//! The XenStore client against servers that misbehave, and against what the kernel's `/dev/xen/xenbus` does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::Duration;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tempfile::TempDir;
use xen::Store;
use xen::store::StoreError;
use xen::store::wire::{self, Decoder, Message, Op};

/// The server's end of one connection.
struct Peer {
    socket: UnixStream,
    decoder: Decoder,
}

impl Peer {
    /// The next request; `None` when the client closed.
    fn request(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.decoder.next_message().unwrap() {
                return Some(message);
            }
            let mut buffer = [0u8; 4096];
            match self.socket.read(&mut buffer).unwrap() {
                0 => return None,
                n => self.decoder.feed(&buffer[..n]),
            }
        }
    }

    fn send(&mut self, kind: Op, req_id: u32, payload: &[u8]) {
        // The client may have closed already.
        let _ = self
            .socket
            .write_all(&wire::encode(kind, req_id, 0, payload));
    }
}

/// A server of one connection, and a client of it.
fn serve(script: impl FnOnce(Peer) + Send + 'static) -> (Store, JoinHandle<()>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        script(Peer {
            socket,
            decoder: Decoder::default(),
        });
    });
    (Store::connect(&path).unwrap(), server, folder)
}

const LONG: Option<Duration> = Some(Duration::from_secs(10));

#[test]
fn the_kernels_answers_carry_no_id() {
    let (store, server, _folder) = serve(|mut peer| {
        let request = peer.request().unwrap();
        assert_eq!(request.header.kind, Op::Watch as u32);
        peer.send(Op::Watch, 0, b"OK\0");
        peer.send(Op::WatchEvent, 0, &request.payload);
        let request = peer.request().unwrap();
        assert_eq!(request.header.kind, Op::Unwatch as u32);
        peer.send(Op::Unwatch, 0, b"OK\0");
        // The end of the client is the end of its connection.
        assert!(peer.request().is_none());
    });
    let watch = store.watch("/a").unwrap();
    assert_eq!(watch.next(LONG).unwrap().unwrap().path, "/a");
    drop(watch);
    drop(store);
    server.join().unwrap();
}

#[test]
fn answers_to_something_else_end_the_connection() {
    for (kind, id_off) in [(Op::Write, 0), (Op::Read, 1), (Op::Error, 1)] {
        let (store, server, _folder) = serve(move |mut peer| {
            let request = peer.request().unwrap();
            peer.send(kind, request.header.req_id + id_off, b"EINVAL\0");
        });
        assert!(matches!(
            store.read("/a"),
            Err(StoreError::BadAnswer { .. })
        ));
        assert!(store.read("/a").unwrap_err().is_closed());
        server.join().unwrap();
    }
}

#[test]
fn a_server_that_goes_away_in_between_is_noticed() {
    let (store, server, _folder) = serve(|mut peer| {
        let request = peer.request().unwrap();
        peer.send(Op::Watch, request.header.req_id, b"OK\0");
        peer.request().unwrap();
        // Half an answer.
        peer.socket
            .write_all(&wire::encode(Op::Read, 2, 0, b"value")[..18])
            .unwrap();
    });
    let watch = store.watch("/a").unwrap();
    assert!(store.read("/a").unwrap_err().is_closed());
    assert!(watch.next(None).unwrap_err().is_closed());
    let mut fds = [PollFd::from_borrowed_fd(watch.poll_fd(), PollFlags::IN)];
    assert_eq!(
        poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 10,
                tv_nsec: 0
            })
        ),
        Ok(1)
    );
    assert!(watch.next(None).unwrap_err().is_closed());
    server.join().unwrap();
}

#[test]
fn a_flood_of_events_is_one_event() {
    let (store, server, _folder) = serve(|mut peer| {
        let request = peer.request().unwrap();
        peer.send(Op::Watch, request.header.req_id, b"OK\0");
        let token = wire::strings(&request.payload).nth(1).unwrap().to_vec();
        for i in 0..5000 {
            let path = format!("/a/{i}\0").into_bytes();
            peer.send(
                Op::WatchEvent,
                0,
                &[path.as_slice(), &token, b"\0"].concat(),
            );
        }
        // An event of a watch that is no more concerns nobody.
        peer.send(Op::WatchEvent, 0, b"/a\0none\0");
        while let Some(request) = peer.request() {
            peer.send(
                Op::from_u32(request.header.kind).unwrap(),
                request.header.req_id,
                b"OK\0",
            );
        }
    });
    let watch = store.watch("/a").unwrap();
    // Its answer comes behind all events.
    store.mkdir("/b").unwrap();
    let readable = || {
        let mut fds = [PollFd::from_borrowed_fd(watch.poll_fd(), PollFlags::IN)];
        poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap()
            == 1
    };
    let mut events = Vec::new();
    while readable() {
        events.push(watch.next(Some(Duration::ZERO)).unwrap().unwrap().path);
    }
    assert!(watch.next(Some(Duration::ZERO)).unwrap().is_none());
    assert!(events.len() <= 1024, "{}", events.len());
    assert!(
        events.contains(&"/a".to_string()),
        "nothing says that more changed than is listed"
    );
    drop((watch, store));
    server.join().unwrap();
}

#[test]
fn a_listing_that_changes_under_way_starts_again() {
    let (store, server, _folder) = serve(|mut peer| {
        let mut parts = vec![
            (0, b"1\0old\0".as_slice()),
            (4, b"2\0er\0\0"),
            (0, b"2\0new\0"),
            (4, b"2\0er\0\0"),
        ]
        .into_iter();
        let request = peer.request().unwrap();
        assert_eq!(request.header.kind, Op::Directory as u32);
        peer.send(Op::Error, request.header.req_id, b"E2BIG\0");
        while let Some(request) = peer.request() {
            let (offset, part) = parts.next().unwrap();
            assert_eq!(request.payload, format!("/a\0{offset}\0").as_bytes());
            peer.send(Op::DirectoryPart, request.header.req_id, part);
        }
        assert_eq!(parts.next(), None);
    });
    assert_eq!(
        store.directory("/a").unwrap(),
        Some(vec!["new".to_string(), "er".to_string()])
    );
    drop(store);
    server.join().unwrap();
}

#[test]
fn a_transaction_that_always_conflicts_gives_up() {
    let (store, server, _folder) = serve(|mut peer| {
        while let Some(request) = peer.request() {
            match Op::from_u32(request.header.kind).unwrap() {
                Op::TransactionEnd => peer.send(Op::Error, request.header.req_id, b"EAGAIN\0"),
                op => peer.send(op, request.header.req_id, b"7\0"),
            }
        }
    });
    let mut runs = 0;
    let error = store
        .transaction(|_| {
            runs += 1;
            Ok(())
        })
        .unwrap_err();
    assert!(matches!(error, StoreError::Conflict { attempts } if attempts == runs));
    drop(store);
    server.join().unwrap();
}

#[test]
fn refusals_are_typed_and_say_what_to_do() {
    let (store, server, _folder) = serve(|mut peer| {
        while let Some(request) = peer.request() {
            peer.send(Op::Error, request.header.req_id, b"ENOSPC\0");
        }
    });
    let error = store.write("/a", "1").unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOSPC));
    let text = error.to_string();
    assert!(
        text.contains("WRITE") && text.contains("/a") && text.contains("quota"),
        "{text}"
    );
    drop(store);
    server.join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn whatever_the_server_sends_is_no_panic(
        answers in prop::collection::vec((0u32..24, any::<bool>(), prop::collection::vec(prop_oneof![Just(0u8), Just(b'1'), any::<u8>()], 0..24)), 0..12),
        garbage in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let (store, server, _folder) = serve(move |mut peer| {
            for (kind, right_kind, payload) in answers {
                let Some(request) = peer.request() else { return };
                // An event is no answer: the client would wait on, as it must.
                let wrong = Op::from_u32(kind).filter(|op| *op != Op::WatchEvent).unwrap_or(Op::Error);
                let right = Op::from_u32(request.header.kind).unwrap();
                let kind = if right_kind { right } else { wrong };
                peer.send(kind, request.header.req_id, &payload);
            }
            let _ = peer.socket.write_all(&garbage);
        });
        let _ = store.directory("/a");
        let _ = store.permissions("/a");
        let _ = store.transaction(|t| t.read("/a"));
        let watch = store.watch("/a");
        let _ = store.domain_path(xen::DomId(1));
        let _ = store.is_introduced(xen::DomId(1));
        if let Ok(watch) = &watch {
            let _ = watch.next(Some(Duration::ZERO));
        }
        drop((watch, store));
        prop_assert!(server.join().is_ok());
    }
}
