//! What a XenStore must do, written once and run on the local server and on the real C xenstored.
//!
//! Every check gets a fresh [`Host`] and makes its own domains on it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use xen::store::wire::{self, Decoder, Message, Op};
use xen::store::{Permission, Result, StoreError};
use xen::{DomId, Store, Watch};

/// A machine with a XenStore.
pub trait Host {
    /// dom0's socket.
    fn socket(&self) -> PathBuf;
    /// Lets a domain come into being, as the hypervisor does; XenStore has not been told.
    fn create(&self) -> DomId;
    /// A connection on behalf of the domain; at most one per domain.
    fn guest(&self, domid: DomId) -> Store;
    /// Ends the domain, as the hypervisor does.
    fn destroy(&self, domid: DomId);
    /// Ends the XenStore.
    fn kill(&self);

    /// A connection of dom0.
    fn dom0(&self) -> Store {
        Store::connect(&self.socket()).unwrap()
    }

    /// A domain with the nodes the toolstack gives it, introduced, and its connection.
    fn boot(&self) -> (DomId, Store) {
        let domid = self.create();
        let dom0 = self.dom0();
        let home = format!("/local/domain/{domid}");
        dom0.transaction(|t| {
            t.mkdir(&home)?;
            t.set_permissions(&home, &[none(0), read(domid.0)])?;
            t.write(&format!("{home}/domid"), domid.to_string())?;
            t.mkdir(&format!("{home}/data"))?;
            t.set_permissions(&format!("{home}/data"), &[none(domid.0)])
        })
        .unwrap();
        dom0.introduce(domid, 1, 3).unwrap();
        (domid, self.guest(domid))
    }
}

/// Instantiates every check as a test on hosts that the given expression makes.
#[macro_export]
macro_rules! store_conformance {
    ($host:expr) => {
        $crate::store_conformance!($host;
            values_are_kept, folders_come_by_themselves, what_is_absent_is_none, bad_paths_are_refused,
            long_listings_come_in_parts, guests_see_what_they_may, refusals_tell_nothing,
            guests_own_what_they_create, owners_alone_set_permissions, only_the_entry_that_names_a_domain_counts,
            owners_must_exist, relative_paths_are_the_domains_own, quota_of_nodes, quota_of_node_size,
            quota_of_permissions, quota_of_watches, quota_of_transactions, quotas_count_transactions,
            transactions_are_all_or_nothing, transactions_that_conflict_run_again, transactions_see_deletions,
            transactions_do_not_conflict_elsewhere, failed_transactions_leave_nothing, watches_fire,
            watches_fire_for_what_is_removed, watches_fire_for_permissions, watches_follow_permissions,
            watches_wait_for_the_commit, watches_end, domains_come_and_go, special_watches_are_dom0s,
            the_dead_leave_nothing, permissions_do_not_wait_for_a_domain,
            released_domains_leave_nothing, guests_are_not_dom0, raw_requests, oversized_messages_end_it,
            a_dead_server_is_noticed,
        );
    };
    ($host:expr; $($check:ident),* $(,)?) => {
        $(#[test] fn $check() { store::$check(&$host); })*
    };
}

fn none(domid: u16) -> Permission {
    Permission::none(DomId(domid))
}

fn read(domid: u16) -> Permission {
    Permission::read(DomId(domid))
}

fn write(domid: u16) -> Permission {
    Permission::write(DomId(domid))
}

fn both(domid: u16) -> Permission {
    Permission::both(DomId(domid))
}

fn errno<T: Debug>(result: Result<T>) -> Errno {
    let error = result.expect_err("this should have been refused");
    error
        .errno()
        .unwrap_or_else(|| panic!("not the server's answer: {error}"))
}

fn text(value: &str) -> Option<String> {
    Some(value.to_string())
}

fn set(names: Option<Vec<String>>) -> BTreeSet<String> {
    names.unwrap().into_iter().collect()
}

/// Longer than anything takes; waiting it out is a failure.
const LONG: Option<Duration> = Some(Duration::from_secs(10));

/// The events until one of `path`; it must come.
fn until(watch: &Watch, path: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let event = watch
            .next(LONG)
            .unwrap()
            .unwrap_or_else(|| panic!("no event for {path}, but {seen:?}"));
        if event.path == path {
            return seen;
        }
        seen.push(event.path);
    }
}

/// Every event caused so far. Events come in order, so a change of ours marks their end.
fn drain(watch: &Watch, store: &Store, marker: &str) -> Vec<String> {
    store.write(marker, "").unwrap();
    until(watch, marker)
}

pub fn values_are_kept(host: &impl Host) {
    let store = host.dom0();
    store.write("/a", "text").unwrap();
    assert_eq!(store.read("/a").unwrap(), text("text"));
    store.write("/a", "").unwrap();
    assert_eq!(store.read("/a").unwrap(), text(""));
    let bytes: Vec<u8> = (0..=255).collect();
    store.write("/a", &bytes).unwrap();
    assert_eq!(store.read_bytes("/a").unwrap(), Some(bytes));
    assert!(matches!(store.read("/a"), Err(StoreError::NotUtf8 { path }) if path == "/a"));
    // The most that fits in a message with its path.
    let most = vec![b'x'; wire::CLIENT_PAYLOAD_MAX - 3];
    store.write("/b", &most).unwrap();
    assert_eq!(store.read_bytes("/b").unwrap(), Some(most.clone()));
    let more = [most.as_slice(), b"x"].concat();
    assert!(matches!(
        store.write("/b", more),
        Err(StoreError::TooLong {
            max: wire::CLIENT_PAYLOAD_MAX,
            ..
        })
    ));
    assert_eq!(store.read_bytes("/b").unwrap(), Some(most));
}

pub fn folders_come_by_themselves(host: &impl Host) {
    let store = host.dom0();
    assert_eq!(
        set(store.directory("/").unwrap()),
        set(Some(vec!["tool".into()]))
    );
    store.write("/a/b/c", "1").unwrap();
    store.mkdir("/a/b/d").unwrap();
    store.mkdir("/a/b/c").unwrap();
    assert_eq!(store.read("/a").unwrap(), text(""));
    assert_eq!(store.read("/a/b/c").unwrap(), text("1"));
    assert_eq!(
        set(store.directory("/a/b").unwrap()),
        set(Some(vec!["c".into(), "d".into()]))
    );
    assert_eq!(store.directory("/a/b/d").unwrap(), Some(vec![]));
    assert_eq!(
        store.permissions("/a/b/d").unwrap(),
        store.permissions("/").unwrap()
    );
    store.rm("/a/b").unwrap();
    assert_eq!(store.read("/a/b/c").unwrap(), None);
    assert_eq!(store.directory("/a").unwrap(), Some(vec![]));
    assert_eq!(errno(store.rm("/")), Errno::INVAL);
}

pub fn what_is_absent_is_none(host: &impl Host) {
    let store = host.dom0();
    assert_eq!(store.read("/no/such").unwrap(), None);
    assert_eq!(store.directory("/no/such").unwrap(), None);
    assert_eq!(store.permissions("/no/such").unwrap(), None);
    store.rm("/no/such").unwrap();
    store.rm("/none").unwrap();
    assert_eq!(
        errno(store.set_permissions("/no/such", &[none(0)])),
        Errno::NOENT
    );
}

pub fn bad_paths_are_refused(host: &impl Host) {
    let store = host.dom0();
    let long = |length: usize| format!("/{}", "x".repeat(length - 1));
    let deep = |length: usize| format!("/local/domain/1/{}", "x".repeat(length));
    for path in [
        "//",
        "/a/",
        "/a//b",
        "/a b",
        "/a.b",
        "/ä",
        "@nonsense",
        &long(2049),
        &deep(2049),
        &long(3073),
    ] {
        assert_eq!(errno(store.write(path, "1")), Errno::INVAL, "{path}");
        assert_eq!(errno(store.read(path)), Errno::INVAL, "{path}");
    }
    for path in ["/-_@/aZ09", &long(2048), &deep(2048)] {
        store.write(path, "1").unwrap();
        assert_eq!(store.read(path).unwrap(), text("1"), "{path}");
    }
    for path in ["", "/a\0b"] {
        assert!(
            matches!(store.read(path), Err(StoreError::Unsendable(_))),
            "{path:?}"
        );
    }
}

pub fn long_listings_come_in_parts(host: &impl Host) {
    let store = host.dom0();
    // Names of several lengths, so that messages end at every place in a name.
    let names: BTreeSet<String> = (0..700)
        .map(|i| format!("{}-{i}", "n".repeat(i % 40)))
        .collect();
    store
        .transaction(|t| {
            names
                .iter()
                .try_for_each(|name| t.write(&format!("/long/{name}"), ""))
        })
        .unwrap();
    assert_eq!(set(store.directory("/long").unwrap()), names);
    // A listing of exactly one message, and of one byte more.
    for (folder, last) in [("/exact", 95), ("/over", 96)] {
        for i in 0..40 {
            store
                .write(&format!("{folder}/{i:02}{}", "y".repeat(97)), "")
                .unwrap();
        }
        store
            .write(&format!("{folder}/{}", "z".repeat(last)), "")
            .unwrap();
        let names = store.directory(folder).unwrap().unwrap();
        assert_eq!(names.len(), 41, "{folder}");
        assert_eq!(
            names.iter().map(|n| n.len() + 1).sum::<usize>(),
            4001 + last
        );
    }
}

pub fn guests_see_what_they_may(host: &impl Host) {
    let dom0 = host.dom0();
    let (me, guest) = host.boot();
    for (path, permissions) in [
        ("/t/private", vec![none(0)]),
        ("/t/read", vec![none(0), read(me.0)]),
        ("/t/write", vec![none(0), write(me.0)]),
        ("/t/both", vec![none(0), both(me.0)]),
        ("/t/all-read", vec![read(0)]),
        ("/t/all-write", vec![write(0)]),
        ("/t/mine", vec![none(me.0)]),
    ] {
        dom0.write(path, "x").unwrap();
        dom0.set_permissions(path, &permissions).unwrap();
        let (may_read, may_write) = match path {
            "/t/read" | "/t/all-read" => (true, false),
            "/t/write" | "/t/all-write" => (false, true),
            "/t/both" | "/t/mine" => (true, true),
            _ => (false, false),
        };
        if may_read {
            assert_eq!(guest.read(path).unwrap(), text("x"), "{path}");
            assert_eq!(guest.directory(path).unwrap(), Some(vec![]), "{path}");
            assert_eq!(
                guest.permissions(path).unwrap(),
                Some(permissions),
                "{path}"
            );
        } else {
            assert_eq!(errno(guest.read(path)), Errno::ACCESS, "{path}");
            assert_eq!(errno(guest.directory(path)), Errno::ACCESS, "{path}");
            assert_eq!(errno(guest.permissions(path)), Errno::ACCESS, "{path}");
        }
        let child = format!("{path}/child");
        if may_write {
            guest.write(path, "y").unwrap();
            guest.mkdir(path).unwrap();
            guest.write(&child, "z").unwrap();
            assert_eq!(dom0.read(&child).unwrap(), text("z"), "{path}");
            guest.rm(path).unwrap();
            assert_eq!(dom0.read(path).unwrap(), None, "{path}");
        } else {
            assert_eq!(errno(guest.write(path, "y")), Errno::ACCESS, "{path}");
            assert_eq!(errno(guest.mkdir(path)), Errno::ACCESS, "{path}");
            assert_eq!(errno(guest.write(&child, "z")), Errno::ACCESS, "{path}");
            assert_eq!(errno(guest.rm(path)), Errno::ACCESS, "{path}");
            assert_eq!(dom0.read(path).unwrap(), text("x"), "{path}");
        }
    }
}

pub fn refusals_tell_nothing(host: &impl Host) {
    let dom0 = host.dom0();
    let (me, guest) = host.boot();
    dom0.write("/hidden/there", "x").unwrap();
    // Whether a node exists is not told to who may not see its folder.
    assert_eq!(errno(guest.read("/hidden/there")), Errno::ACCESS);
    assert_eq!(errno(guest.read("/hidden/absent")), Errno::ACCESS);
    assert_eq!(errno(guest.rm("/hidden/absent")), Errno::ACCESS);
    dom0.set_permissions("/hidden", &[none(0), read(me.0)])
        .unwrap();
    assert_eq!(errno(guest.read("/hidden/there")), Errno::ACCESS);
    assert_eq!(guest.read("/hidden/absent").unwrap(), None);
    assert_eq!(guest.read("/hidden/absent/below").unwrap(), None);
    // A visible node in an invisible folder.
    dom0.write("/hidden2/there", "x").unwrap();
    dom0.set_permissions("/hidden2/there", &[none(0), read(me.0)])
        .unwrap();
    assert_eq!(guest.read("/hidden2/there").unwrap(), text("x"));
    assert_eq!(errno(guest.directory("/hidden2")), Errno::ACCESS);
}

pub fn guests_own_what_they_create(host: &impl Host) {
    let dom0 = host.dom0();
    let (me, guest) = host.boot();
    dom0.write("/shared", "").unwrap();
    dom0.set_permissions("/shared", &[none(0), both(me.0)])
        .unwrap();
    guest.write("/shared/a/b", "x").unwrap();
    let inherited = Some(vec![none(me.0), both(me.0)]);
    assert_eq!(dom0.permissions("/shared/a").unwrap(), inherited);
    assert_eq!(dom0.permissions("/shared/a/b").unwrap(), inherited);
    dom0.write("/shared/c", "x").unwrap();
    assert_eq!(
        dom0.permissions("/shared/c").unwrap(),
        Some(vec![none(0), both(me.0)])
    );
}

pub fn owners_alone_set_permissions(host: &impl Host) {
    let dom0 = host.dom0();
    let (me, guest) = host.boot();
    let (other, stranger) = host.boot();
    guest.write("data/x", "x").unwrap();
    let path = format!("/local/domain/{me}/data/x");
    assert_eq!(errno(stranger.read(&path)), Errno::ACCESS);
    guest
        .set_permissions("data/x", &[none(me.0), both(other.0)])
        .unwrap();
    assert_eq!(stranger.read(&path).unwrap(), text("x"));
    stranger.write(&path, "y").unwrap();
    // Writing is not owning, and owning is not giving away.
    assert_eq!(
        errno(stranger.set_permissions(&path, &[none(me.0)])),
        Errno::ACCESS
    );
    assert_eq!(
        errno(guest.set_permissions(&path, &[none(other.0)])),
        Errno::PERM
    );
    assert_eq!(errno(guest.set_permissions(&path, &[none(0)])), Errno::PERM);
    dom0.set_permissions(&path, &[none(other.0), read(me.0)])
        .unwrap();
    assert_eq!(guest.read(&path).unwrap(), text("y"));
    assert_eq!(errno(guest.write(&path, "z")), Errno::ACCESS);
    assert_eq!(
        errno(guest.set_permissions(&path, &[none(me.0)])),
        Errno::ACCESS
    );
    stranger.set_permissions(&path, &[read(other.0)]).unwrap();
}

pub fn only_the_entry_that_names_a_domain_counts(host: &impl Host) {
    let dom0 = host.dom0();
    let (me, guest) = host.boot();
    dom0.write("/t", "x").unwrap();
    // An own entry beats the default, and the first own entry beats a later one.
    dom0.set_permissions("/t", &[both(0), read(me.0), both(me.0)])
        .unwrap();
    assert_eq!(guest.read("/t").unwrap(), text("x"));
    assert_eq!(errno(guest.write("/t", "y")), Errno::ACCESS);
    dom0.set_permissions("/t", &[both(0), none(me.0)]).unwrap();
    assert_eq!(errno(guest.read("/t")), Errno::ACCESS);
    // The owner's own entry is for the others only.
    dom0.set_permissions("/t", &[none(me.0), none(me.0)])
        .unwrap();
    guest.write("/t", "y").unwrap();
}

pub fn owners_must_exist(host: &impl Host) {
    let dom0 = host.dom0();
    dom0.write("/t", "x").unwrap();
    assert_eq!(
        errno(dom0.set_permissions("/t", &[none(1234)])),
        Errno::NOENT
    );
    assert_eq!(dom0.permissions("/t").unwrap(), Some(vec![none(0)]));
}

pub fn relative_paths_are_the_domains_own(host: &impl Host) {
    let dom0 = host.dom0();
    let (me, guest) = host.boot();
    assert_eq!(guest.read("domid").unwrap(), text(&me.to_string()));
    guest.write("data/x", "1").unwrap();
    assert_eq!(
        dom0.read(&format!("/local/domain/{me}/data/x")).unwrap(),
        text("1")
    );
    dom0.write("x", "0").unwrap();
    assert_eq!(dom0.read("/local/domain/0/x").unwrap(), text("0"));
    assert_eq!(
        guest.domain_path(me).unwrap(),
        format!("/local/domain/{me}")
    );
    assert_eq!(
        errno(guest.write("device/vgpu/0/state", "1")),
        Errno::ACCESS
    );
}

pub fn quota_of_nodes(host: &impl Host) {
    let (me, guest) = host.boot();
    // data is one of them. Folders of 50, because a folder's names count against its size.
    let mut nodes = 1;
    'full: for folder in 0.. {
        for node in 0..50 {
            let path = if node == 0 {
                format!("data/{folder}")
            } else {
                format!("data/{folder}/{node}")
            };
            match guest.mkdir(&path) {
                Ok(()) => nodes += 1,
                Err(e) => {
                    assert_eq!(e.errno(), Some(Errno::NOSPC));
                    break 'full;
                }
            }
        }
    }
    assert_eq!(nodes, 1000);
    // All of a path or nothing.
    guest.rm("data/0/1").unwrap();
    assert_eq!(errno(guest.write("data/0/1/2", "")), Errno::NOSPC);
    assert_eq!(guest.read("data/0/1").unwrap(), None);
    guest.write("data/0/1", "").unwrap();
    // What dom0 makes the guest's counts; dom0 itself is not held back.
    let dom0 = host.dom0();
    dom0.write("/given", "").unwrap();
    dom0.set_permissions("/given", &[none(me.0)]).unwrap();
    guest.rm("data/0/1").unwrap();
    assert_eq!(errno(guest.write("data/0/1", "")), Errno::NOSPC);
    guest.rm("data/0/2").unwrap();
    guest.write("data/0/1", "").unwrap();
}

pub fn quota_of_node_size(host: &impl Host) {
    let (_, guest) = host.boot();
    // The record: 24 bytes, 8 for its one permission, the value.
    let most = 2047 - 32;
    guest.write("data/x", "x".repeat(most)).unwrap();
    assert_eq!(
        errno(guest.write("data/x", "x".repeat(most + 1))),
        Errno::NOSPC
    );
    assert_eq!(
        errno(guest.write("data/y", "x".repeat(most + 1))),
        Errno::NOSPC
    );
    assert_eq!(guest.read("data/x").unwrap().map(|v| v.len()), Some(most));
    assert_eq!(guest.read("data/y").unwrap(), None);
    assert_eq!(
        guest.directory("data").unwrap(),
        Some(vec!["x".to_string()])
    );
    host.dom0().write("/big", "x".repeat(4000)).unwrap();
}

pub fn quota_of_permissions(host: &impl Host) {
    let (me, guest) = host.boot();
    guest.write("data/x", "").unwrap();
    let five = [none(me.0), read(0), read(0), read(0), read(0)];
    guest.set_permissions("data/x", &five).unwrap();
    assert_eq!(
        errno(guest.set_permissions("data/x", &[five.as_slice(), &[read(0)]].concat())),
        Errno::NOSPC
    );
    assert_eq!(guest.permissions("data/x").unwrap(), Some(five.to_vec()));
}

pub fn quota_of_watches(host: &impl Host) {
    let (_, guest) = host.boot();
    let mut watches = Vec::new();
    let error = loop {
        match guest.watch("data") {
            Ok(watch) => watches.push(watch),
            Err(e) => break e,
        }
    };
    assert_eq!(error.errno(), Some(Errno::TOOBIG));
    assert_eq!(watches.len(), 129);
    watches.pop();
    guest.watch("data").unwrap();
}

pub fn quota_of_transactions(host: &impl Host) {
    let (_, guest) = host.boot();
    fn nest(guest: &Store, depth: &mut u32) -> Result<()> {
        guest.transaction(|_| {
            *depth += 1;
            nest(guest, depth)
        })
    }
    let mut depth = 0;
    assert_eq!(errno(nest(&guest, &mut depth)), Errno::NOSPC);
    assert_eq!(depth, 11);
    // All of them ended with the error.
    guest.transaction(|t| t.write("data/x", "1")).unwrap();
}

pub fn quotas_count_transactions(host: &impl Host) {
    let (me, guest) = host.boot();
    for folder in 0..20 {
        guest
            .transaction(|t| (1..50).try_for_each(|node| t.mkdir(&format!("data/{folder}/{node}"))))
            .unwrap_or_else(|e| assert_eq!((folder, e.errno()), (19, Some(Errno::NOSPC))));
    }
    // data and 19 folders of 50 are 951; a transaction over the limit leaves nothing. Transactions stop one short.
    assert_eq!(guest.directory("data").unwrap().map(|d| d.len()), Some(19));
    guest
        .transaction(|t| (1..48).try_for_each(|node| t.mkdir(&format!("data/19/{node}"))))
        .unwrap();
    assert_eq!(
        errno(guest.transaction(|t| t.mkdir("data/x"))),
        Errno::NOSPC
    );
    guest.mkdir("data/x").unwrap();
    assert_eq!(errno(guest.mkdir("data/y")), Errno::NOSPC);
    // dom0 may give it more.
    let dom0 = host.dom0();
    dom0.write("/given", "").unwrap();
    dom0.transaction(|t| t.set_permissions("/given", &[none(me.0)]))
        .unwrap();
}

pub fn transactions_are_all_or_nothing(host: &impl Host) {
    let (store, other) = (host.dom0(), host.dom0());
    store.write("/t/a", "1").unwrap();
    let seen = store
        .transaction(|t| {
            t.write("/t/b", "2")?;
            t.rm("/t/a")?;
            assert_eq!(other.read("/t/a")?, text("1"));
            assert_eq!(other.read("/t/b")?, None);
            assert_eq!(t.read("/t/a")?, None);
            t.directory("/t")
        })
        .unwrap();
    assert_eq!(seen, Some(vec!["b".to_string()]));
    assert_eq!(other.read("/t/a").unwrap(), None);
    assert_eq!(other.read("/t/b").unwrap(), text("2"));
}

pub fn transactions_that_conflict_run_again(host: &impl Host) {
    let (store, other) = (host.dom0(), host.dom0());
    store.write("/counter", "0").unwrap();
    let mut runs = 0;
    store
        .transaction(|t| {
            runs += 1;
            let counter: u32 = t.read("/counter")?.unwrap().parse().unwrap();
            if runs <= 3 {
                other.write("/counter", (counter + 10).to_string())?;
            }
            // What a transaction has read does not change under it.
            assert_eq!(t.read("/counter")?, text(&counter.to_string()));
            t.write("/counter", (counter + 1).to_string())
        })
        .unwrap();
    assert_eq!(runs, 4);
    assert_eq!(store.read("/counter").unwrap(), text("31"));
    // Two writers that read nothing conflict, too.
    let mut runs = 0;
    store
        .transaction(|t| {
            runs += 1;
            t.write("/counter", "a")?;
            if runs == 1 {
                other.write("/counter", "b")
            } else {
                Ok(())
            }
        })
        .unwrap();
    assert_eq!(runs, 2);
    assert_eq!(store.read("/counter").unwrap(), text("a"));
}

pub fn transactions_see_deletions(host: &impl Host) {
    let (store, other) = (host.dom0(), host.dom0());
    store.write("/t/a", "1").unwrap();
    let mut seen = Vec::new();
    store
        .transaction(|t| {
            seen.push(t.read("/t/a")?);
            if seen.len() == 1 {
                other.rm("/t/a")?;
            }
            t.write("/t/b", "2")
        })
        .unwrap();
    assert_eq!(seen, [text("1"), None]);
    // A node that was not there and is now.
    let mut seen = Vec::new();
    store
        .transaction(|t| {
            seen.push(t.read("/t/c")?);
            if seen.len() == 1 {
                other.write("/t/c", "3")?;
            }
            t.write("/t/b", "4")
        })
        .unwrap();
    assert_eq!(seen, [None, text("3")]);
}

pub fn transactions_do_not_conflict_elsewhere(host: &impl Host) {
    let (store, other) = (host.dom0(), host.dom0());
    store.write("/t/a", "1").unwrap();
    store.write("/u/a", "1").unwrap();
    let mut runs = 0;
    store
        .transaction(|t| {
            runs += 1;
            t.write("/t/a", "2")?;
            other.write("/u/a", "2")?;
            other.write("/u/b", "2")?;
            other.rm("/u/a")
        })
        .unwrap();
    assert_eq!(runs, 1);
}

pub fn failed_transactions_leave_nothing(host: &impl Host) {
    let store = host.dom0();
    let error = store.transaction(|t| {
        t.write("/t/a", "1")?;
        t.write("/t//", "1")
    });
    assert_eq!(errno(error), Errno::INVAL);
    assert_eq!(store.read("/t").unwrap(), None);
}

pub fn watches_fire(host: &impl Host) {
    let store = host.dom0();
    let watch = store.watch("/w").unwrap();
    until(&watch, "/w");
    store.write("/w", "1").unwrap();
    until(&watch, "/w");
    store.write("/w/a/b", "1").unwrap();
    until(&watch, "/w/a/b");
    store.mkdir("/w/c").unwrap();
    until(&watch, "/w/c");
    // Neither a brother's nor the folder's change is ours, nor a mkdir of what is there.
    store.write("/wx", "1").unwrap();
    store.write("/", "1").unwrap();
    store.mkdir("/w/c").unwrap();
    store.rm("/w/absent").unwrap();
    assert_eq!(drain(&watch, &store, "/w/end"), Vec::<String>::new());
    // Two watches of one path both fire, and everything is below the root.
    let (second, root) = (store.watch("/w").unwrap(), store.watch("/").unwrap());
    until(&root, "/");
    store.write("/w/x", "").unwrap();
    until(&watch, "/w/x");
    until(&second, "/w/x");
    until(&root, "/w/x");
    // A guest's relative watch tells relative paths.
    let (me, guest) = host.boot();
    let relative = guest.watch("data").unwrap();
    let full = guest.watch(&format!("/local/domain/{me}/data")).unwrap();
    until(&relative, "data");
    guest.write("data/x", "1").unwrap();
    until(&relative, "data/x");
    until(&full, &format!("/local/domain/{me}/data/x"));
}

pub fn watches_fire_for_what_is_removed(host: &impl Host) {
    let store = host.dom0();
    store.write("/w/a/b/c", "1").unwrap();
    let above = store.watch("/w").unwrap();
    let at = store.watch("/w/a/b").unwrap();
    let below = store.watch("/w/a/b/c").unwrap();
    until(&below, "/w/a/b/c");
    until(&at, "/w/a/b");
    until(&above, "/w");
    store.rm("/w/a").unwrap();
    // Whoever watches a removed node hears of that node; whoever watches above hears of the top one only.
    until(&below, "/w/a/b/c");
    until(&at, "/w/a/b");
    let mut heard = drain(&above, &store, "/w/end");
    heard.dedup();
    assert_eq!(heard, ["/w/a"]);
}

pub fn watches_fire_for_permissions(host: &impl Host) {
    let store = host.dom0();
    let (me, guest) = host.boot();
    store.write("/w", "1").unwrap();
    let dom0s = store.watch("/w").unwrap();
    let guests = guest.watch("/w").unwrap();
    until(&dom0s, "/w");
    until(&guests, "/w");
    // Who gains a node hears of it, and who loses it.
    store.set_permissions("/w", &[none(0), read(me.0)]).unwrap();
    until(&guests, "/w");
    until(&dom0s, "/w");
    store.set_permissions("/w", &[none(0)]).unwrap();
    until(&guests, "/w");
    until(&dom0s, "/w");
}

pub fn watches_follow_permissions(host: &impl Host) {
    let store = host.dom0();
    let (me, guest) = host.boot();
    let home = format!("/local/domain/{me}/data");
    let watch = guest.watch("/").unwrap();
    until(&watch, "/");
    store.write("/private/x", "1").unwrap();
    store.rm("/private").unwrap();
    // A node nobody may read in a folder that may be listed: its coming and going is no secret.
    store.write("/open/x", "1").unwrap();
    store.set_permissions("/open/x", &[none(0)]).unwrap();
    store
        .set_permissions("/open", &[none(0), read(me.0)])
        .unwrap();
    until(&watch, "/open");
    store.write("/open/x", "2").unwrap();
    until(&watch, "/open/x");
    assert_eq!(
        drain(&watch, &guest, &format!("{home}/end")),
        Vec::<String>::new()
    );
}

pub fn watches_wait_for_the_commit(host: &impl Host) {
    let (store, other) = (host.dom0(), host.dom0());
    store.write("/w/gone", "1").unwrap();
    // Its writing changes no folder's list, so it conflicts with nothing.
    store.write("/w/mark", "").unwrap();
    let watch = other.watch("/w").unwrap();
    until(&watch, "/w");
    store
        .transaction(|t| {
            t.write("/w/a", "1")?;
            t.write("/w/b", "1")?;
            t.rm("/w/gone")?;
            assert_eq!(drain(&watch, &other, "/w/mark"), Vec::<String>::new());
            Ok(())
        })
        .unwrap();
    let heard: BTreeSet<String> = drain(&watch, &store, "/w/end").into_iter().collect();
    for path in ["/w/a", "/w/b", "/w/gone"] {
        assert!(heard.contains(path), "{path} in {heard:?}");
    }
    store
        .transaction(|t| {
            t.write("/w/never", "1")?;
            t.write("/w//", "1")
        })
        .unwrap_err();
    assert_eq!(drain(&watch, &store, "/w/end2"), Vec::<String>::new());
}

pub fn watches_end(host: &impl Host) {
    let store = host.dom0();
    let kept = store.watch("/w").unwrap();
    let dropped = store.watch("/w").unwrap();
    until(&dropped, "/w");
    drop(dropped);
    until(&kept, "/w");
    store.write("/w", "1").unwrap();
    until(&kept, "/w");
    assert!(kept.next(Some(Duration::ZERO)).unwrap().is_none());
    // After a reset nothing fires.
    store.reset_watches().unwrap();
    store.write("/w", "2").unwrap();
    let after = store.watch("/w/x").unwrap();
    until(&after, "/w/x");
    assert!(kept.next(Some(Duration::ZERO)).unwrap().is_none());
}

pub fn domains_come_and_go(host: &impl Host) {
    let store = host.dom0();
    let (came, went) = (
        store.watch("@introduceDomain").unwrap(),
        store.watch("@releaseDomain").unwrap(),
    );
    until(&came, "@introduceDomain");
    until(&went, "@releaseDomain");
    let domid = host.create();
    assert!(!store.is_introduced(domid).unwrap());
    store.introduce(domid, 1, 3).unwrap();
    until(&came, "@introduceDomain");
    assert!(store.is_introduced(domid).unwrap());
    store.introduce(domid, 1, 3).unwrap();
    host.destroy(domid);
    until(&went, "@releaseDomain");
    assert!(!store.is_introduced(domid).unwrap());
    assert!(
        came.next(Some(Duration::ZERO)).unwrap().is_none(),
        "introducing again is no arrival"
    );
    let domid = host.create();
    store.introduce(domid, 1, 3).unwrap();
    store.release(domid).unwrap();
    until(&went, "@releaseDomain");
    assert!(!store.is_introduced(domid).unwrap());
    assert_eq!(errno(store.release(domid)), Errno::NOENT);
    assert!(
        store.introduce(DomId(999), 1, 3).is_err(),
        "there is no such domain"
    );
    assert_eq!(errno(store.introduce(domid, 1, 0)), Errno::INVAL);
}

pub fn special_watches_are_dom0s(host: &impl Host) {
    let store = host.dom0();
    let (me, guest) = host.boot();
    let watch = guest.watch("@introduceDomain").unwrap();
    until(&watch, "@introduceDomain");
    let marker = guest.watch("data/end").unwrap();
    until(&marker, "data/end");
    host.boot();
    guest.write("data/end", "").unwrap();
    until(&marker, "data/end");
    assert!(watch.next(Some(Duration::ZERO)).unwrap().is_none());
    guest
        .set_permissions("@introduceDomain", &[none(me.0)])
        .unwrap_err();
    // Unless dom0 lets it, as it does for a driver domain.
    store
        .set_permissions("@introduceDomain", &[none(0), read(me.0)])
        .unwrap();
    host.boot();
    until(&watch, "@introduceDomain");
    store.set_permissions("@nonsense", &[none(0)]).unwrap_err();
}

pub fn the_dead_leave_nothing(host: &impl Host) {
    let store = host.dom0();
    let (me, guest) = host.boot();
    let (other, survivor) = host.boot();
    let went = store.watch("@releaseDomain").unwrap();
    until(&went, "@releaseDomain");
    guest.write("data/x", "1").unwrap();
    store.write("/shared/a/b", "").unwrap();
    store
        .set_permissions("/shared/a", &[none(me.0), read(other.0)])
        .unwrap();
    store.write("/shared/c", "").unwrap();
    store
        .set_permissions("/shared/c", &[none(0), both(me.0), read(other.0)])
        .unwrap();
    let watch = store.watch("/shared").unwrap();
    until(&watch, "/shared");
    let backend = format!("/local/domain/0/backend/vgpu/{me}/0");
    store.write(&format!("{backend}/state"), "1").unwrap();
    store
        .set_permissions(&backend, &[none(0), read(me.0)])
        .unwrap();
    host.destroy(me);
    until(&went, "@releaseDomain");
    // What it owned is gone, with all below, and its watchers were told.
    assert_eq!(store.read("/shared/a").unwrap(), None);
    assert_eq!(store.read("/shared/a/b").unwrap(), None);
    assert_eq!(
        store.read(&format!("/local/domain/{me}/data")).unwrap(),
        None
    );
    // What others own stays.
    assert_eq!(
        store.read(&format!("/local/domain/{me}/domid")).unwrap(),
        text(&me.to_string())
    );
    assert_eq!(store.read(&format!("{backend}/state")).unwrap(), text("1"));
    assert_eq!(survivor.read("/shared/c").unwrap(), text(""));
    let heard = drain(&watch, &store, "/shared/end");
    assert!(heard.iter().any(|path| path == "/shared/a"), "{heard:?}");
}

pub fn permissions_do_not_wait_for_a_domain(host: &impl Host) {
    let store = host.dom0();
    let (first, _) = host.boot();
    let next = first.0 + 1;
    store.write("/t", "x").unwrap();
    store
        .set_permissions("/t", &[none(0), read(next), read(first.0)])
        .unwrap();
    let (domid, guest) = host.boot();
    assert_eq!(domid.0, next);
    assert_eq!(errno(guest.read("/t")), Errno::ACCESS);
    store.set_permissions("/t", &[none(0), read(next)]).unwrap();
    assert_eq!(guest.read("/t").unwrap(), text("x"));
}

pub fn released_domains_leave_nothing(host: &impl Host) {
    let store = host.dom0();
    let (me, guest) = host.boot();
    guest.write("data/x", "1").unwrap();
    store.release(me).unwrap();
    assert_eq!(
        store.read(&format!("/local/domain/{me}/data")).unwrap(),
        None
    );
    assert_eq!(
        store.read(&format!("/local/domain/{me}/domid")).unwrap(),
        text(&me.to_string())
    );
}

pub fn guests_are_not_dom0(host: &impl Host) {
    let (me, guest) = host.boot();
    assert_eq!(errno(guest.introduce(DomId(9), 1, 3)), Errno::ACCESS);
    assert_eq!(errno(guest.release(me)), Errno::ACCESS);
    assert_eq!(errno(guest.is_introduced(me)), Errno::ACCESS);
    assert_eq!(errno(guest.rm("/local/domain/0")), Errno::ACCESS);
    assert_eq!(errno(guest.write("/x", "")), Errno::ACCESS);
    assert_eq!(errno(guest.set_permissions("/", &[both(0)])), Errno::ACCESS);
}

/// A connection of dom0 that speaks whatever it likes.
struct Raw {
    socket: UnixStream,
    decoder: Decoder,
}

impl Raw {
    fn new(host: &impl Host) -> Raw {
        let socket = UnixStream::connect(host.socket()).unwrap();
        socket.set_read_timeout(LONG).unwrap();
        Raw {
            socket,
            decoder: Decoder::default(),
        }
    }

    fn send(&mut self, kind: u32, tx_id: u32, payload: &[u8]) {
        let mut message = wire::encode(Op::Error, 77, tx_id, payload);
        message[..4].copy_from_slice(&kind.to_le_bytes());
        self.socket.write_all(&message).unwrap();
    }

    fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.decoder.next_message().unwrap() {
                return Some(message);
            }
            let mut buffer = [0u8; 1024];
            match self.socket.read(&mut buffer).unwrap() {
                0 => return None,
                n => self.decoder.feed(&buffer[..n]),
            }
        }
    }

    fn ask(&mut self, op: Op, tx_id: u32, payload: &[u8]) -> std::result::Result<Vec<u8>, Errno> {
        self.send(op as u32, tx_id, payload);
        let answer = self.receive().unwrap();
        assert_eq!((answer.header.req_id, answer.header.tx_id), (77, tx_id));
        match Op::from_u32(answer.header.kind) {
            Some(Op::Error) => Err(wire::error_from_name(&answer.payload)),
            kind => {
                assert_eq!(kind, Some(op));
                Ok(answer.payload)
            }
        }
    }
}

pub fn raw_requests(host: &impl Host) {
    let mut raw = Raw::new(host);
    for kind in [15, 16, 20, 23, u32::MAX] {
        raw.send(kind, 0, b"/\0");
        let answer = raw.receive().unwrap();
        assert_eq!(
            (answer.header.kind, answer.payload.as_slice()),
            (Op::Error as u32, b"ENOSYS\0".as_slice())
        );
    }
    assert_eq!(
        raw.ask(Op::Read, 9, b"/\0"),
        Err(Errno::NOENT),
        "no such transaction"
    );
    assert_eq!(raw.ask(Op::TransactionEnd, 0, b"T\0"), Err(Errno::NOENT));
    assert_eq!(raw.ask(Op::TransactionEnd, 0, b"X\0"), Err(Errno::INVAL));
    // Which error xenstored names for a path without its NUL depends on what it did before.
    for payload in [b"/".as_slice(), b"", b"/\0/\0"] {
        assert!(raw.ask(Op::Read, 0, payload).is_err(), "{payload:?}");
    }
    assert_eq!(raw.ask(Op::Write, 0, b"/x"), Err(Errno::INVAL));
    assert_eq!(
        raw.ask(Op::SetPerms, 0, b"/\0"),
        Err(Errno::INVAL),
        "no permissions"
    );
    assert_eq!(raw.ask(Op::SetPerms, 0, b"/\0x0\0"), Err(Errno::INVAL));
    assert_eq!(raw.ask(Op::Unwatch, 0, b"/x\0t\0"), Err(Errno::NOENT));
    assert_eq!(raw.ask(Op::Watch, 0, b"/x\0"), Err(Errno::INVAL));
    assert_eq!(raw.ask(Op::Watch, 0, b"/x\0t\0"), Ok(b"OK\0".to_vec()));
    let event = raw.receive().unwrap();
    assert_eq!(
        (event.header.kind, event.payload.as_slice()),
        (Op::WatchEvent as u32, b"/x\0t\0".as_slice())
    );
    assert_eq!(raw.ask(Op::Watch, 0, b"/x\0t\0"), Err(Errno::EXIST));
    assert_eq!(raw.ask(Op::Unwatch, 0, b"/x\0t\0"), Ok(b"OK\0".to_vec()));
    // A path, and a value with NULs in it.
    assert_eq!(raw.ask(Op::Write, 0, b"/v\0a\0b\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(raw.ask(Op::Read, 0, b"/v\0"), Ok(b"a\0b\0".to_vec()));
    let id = raw.ask(Op::TransactionStart, 0, b"\0").unwrap();
    let id = std::str::from_utf8(id.strip_suffix(b"\0").unwrap())
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(raw.ask(Op::TransactionStart, id, b"\0"), Err(Errno::BUSY));
    assert_eq!(
        raw.ask(Op::TransactionEnd, id, b"F\0"),
        Ok(b"OK\0".to_vec())
    );
    assert_eq!(raw.ask(Op::TransactionEnd, id, b"F\0"), Err(Errno::NOENT));
    assert_eq!(raw.ask(Op::Control, 0, b"nonsense\0"), Err(Errno::INVAL));
    assert_eq!(
        raw.ask(Op::GetDomainPath, 0, b"7\0"),
        Ok(b"/local/domain/7\0".to_vec())
    );
    assert_eq!(
        raw.ask(Op::IsDomainIntroduced, 0, b"0\0"),
        Ok(b"T\0".to_vec())
    );
}

pub fn oversized_messages_end_it(host: &impl Host) {
    let mut raw = Raw::new(host);
    let mut header = wire::encode(Op::Write, 1, 0, b"");
    header[12..].copy_from_slice(&4097u32.to_le_bytes());
    raw.socket.write_all(&header).unwrap();
    // Others are none the wiser.
    assert_eq!(host.dom0().read("/tool").unwrap(), text(""));
}

pub fn a_dead_server_is_noticed(host: &impl Host) {
    let store = host.dom0();
    let watch = store.watch("/x").unwrap();
    until(&watch, "/x");
    let waiting = std::thread::spawn(move || watch.next(None));
    host.kill();
    assert!(waiting.join().unwrap().unwrap_err().is_closed());
    assert!(store.read("/").unwrap_err().is_closed());
    assert!(store.watch("/").unwrap_err().is_closed());
    assert!(matches!(
        Store::connect(&host.socket()),
        Err(StoreError::Connect { .. })
    ));
}
