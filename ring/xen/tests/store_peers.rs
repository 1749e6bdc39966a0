//! Other people's XenStore clients against the local platform's XenStore: Xen's own tools and test program, and
//! the crate xenstore-rs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "local-store/mod.rs"]
mod local_store;
#[path = "xenstored-shim/tools.rs"]
mod tools;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use local_store::LocalStore;
use tools::command;
use xen::store::Permission;
use xen::{DomId, Store};

/// A tool against a domain's socket.
fn tool(path: &str, socket: &Path) -> Command {
    let mut command = command(path);
    command.env("XENSTORED_PATH", socket).stdin(Stdio::null());
    command
}

/// What the tool prints; it must succeed.
fn run(path: &str, socket: &Path, arguments: &[&str]) -> String {
    let output = tool(path, socket).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{path} {arguments:?}: {}: {said}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What the tool complains of; it must fail.
fn fails(path: &str, socket: &Path, arguments: &[&str]) -> String {
    let output = tool(path, socket).args(arguments).output().unwrap();
    assert!(
        !output.status.success(),
        "{path} {arguments:?} should have failed"
    );
    String::from_utf8(output.stderr).unwrap()
}

/// A guest with its folder.
fn boot(host: &LocalStore) -> DomId {
    let dom0 = Store::connect(&host.socket()).unwrap();
    let domid = host.create();
    let home = format!("/local/domain/{domid}");
    dom0.write(&format!("{home}/name"), "guest").unwrap();
    dom0.set_permissions(
        &format!("{home}/name"),
        &[Permission::none(DomId(0)), Permission::read(domid)],
    )
    .unwrap();
    dom0.mkdir(&format!("{home}/data")).unwrap();
    dom0.set_permissions(&format!("{home}/data"), &[Permission::none(domid)])
        .unwrap();
    dom0.introduce(domid, 1, 1).unwrap();
    domid
}

#[test]
fn xens_own_test_program_passes() {
    let host = LocalStore::start();
    run(
        "usr/lib/xen-4.17/bin/test-xenstore",
        &host.socket(),
        &["--iterations", "20"],
    );
    run(
        "usr/lib/xen-4.17/bin/test-xenstore",
        &host.socket(),
        &["--random", "2"],
    );
}

#[test]
fn xenstore_tools_work_for_dom0() {
    let host = LocalStore::start();
    let socket = host.socket();
    let domid = boot(&host);
    run(
        "usr/bin/xenstore-write",
        &socket,
        &["/a/b", "1", "/a/c", "two words"],
    );
    assert_eq!(
        run("usr/bin/xenstore-read", &socket, &["/a/b", "/a/c"]),
        "1\ntwo words\n"
    );
    assert_eq!(run("usr/bin/xenstore-list", &socket, &["/a"]), "b\nc\n");
    run(
        "usr/bin/xenstore-chmod",
        &socket,
        &["/a/b", "n0", &format!("r{domid}")],
    );
    let listing = run("usr/bin/xenstore-ls", &socket, &["-f", "-p", "/a"]);
    assert_eq!(
        listing,
        format!("/a/b = \"1\"   (n0,r{domid})\n/a/c = \"two words\"   (n0)\n")
    );
    run("usr/bin/xenstore-exists", &socket, &["/a/b"]);
    run("usr/bin/xenstore-rm", &socket, &["/a"]);
    fails("usr/bin/xenstore-exists", &socket, &["/a"]);
    let complaint = fails("usr/bin/xenstore-read", &socket, &["/a/b"]);
    assert!(complaint.contains("couldn't read path /a/b"), "{complaint}");
}

#[test]
fn xenstore_tools_work_for_a_guest() {
    let host = LocalStore::start();
    let domid = boot(&host);
    let socket = host.guest_socket(domid);
    assert_eq!(run("usr/bin/xenstore-read", &socket, &["name"]), "guest\n");
    run("usr/bin/xenstore-write", &socket, &["data/x", "1"]);
    let listing = run("usr/bin/xenstore-ls", &socket, &["-f", "-p", "data"]);
    assert_eq!(listing, format!("data/x = \"1\"   (n{domid})\n"));
    fails("usr/bin/xenstore-write", &socket, &["name", "other"]);
    fails("usr/bin/xenstore-ls", &socket, &["/tool"]);
}

#[test]
fn xenstore_watch_reports_changes() {
    let host = LocalStore::start();
    let store = Store::connect(&host.socket()).unwrap();
    let mut watch = tool("usr/bin/xenstore-watch", &host.socket())
        .args(["-n", "3", "/w"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "/w");
    store.write("/w/a", "1").unwrap();
    assert_eq!(next(), "/w/a");
    store.rm("/w").unwrap();
    assert_eq!(next(), "/w");
    assert!(watch.wait().unwrap().success());
}

/// xenstore-rs takes its socket from the environment alone, so it runs in a process of its own: this test again,
/// with the socket set.
#[test]
fn the_crate_xenstore_rs_works() {
    use xenstore_rs::{Xs, unix::XsUnix};

    const CHILD: &str = "STORE_PEERS_XENSTORE_RS";
    if std::env::var_os(CHILD).is_none() {
        let host = LocalStore::start();
        let domid = boot(&host);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_crate_xenstore_rs_works", "--nocapture"])
            .env(CHILD, "1")
            .env("XENSTORED_PATH", host.guest_socket(domid))
            .output()
            .unwrap();
        let said = || {
            format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        };
        assert!(output.status.success(), "{}", said());
        let left = Store::connect(&host.socket())
            .unwrap()
            .read(&format!("/local/domain/{domid}/data/kept"))
            .unwrap();
        assert_eq!(left.as_deref(), Some("2"), "{}", said());
        return;
    }
    let xs = XsUnix::new().unwrap();
    assert_eq!(&*xs.read("name").unwrap(), "guest");
    xs.write("data/x", "1").unwrap();
    xs.write("data/kept", "2").unwrap();
    assert_eq!(
        xs.directory("data")
            .unwrap()
            .iter()
            .map(|n| &**n)
            .collect::<Vec<_>>(),
        ["x", "kept"]
    );
    xs.rm("data/x").unwrap();
    assert!(xs.read("data/x").is_err());
    assert!(xs.write("name", "other").is_err());
}
