//! The local platform as its users meet it: a running `xen-local`, its toolstack, and the
//! conformance suite between two of its domains.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod conformance;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use conformance::{Role, Session};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use xen::local::schedule::Schedule;
use xen::store::{Permission, StoreError};
use xen::{Access, DomId, Error, Platform, PlatformSpec, Store};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running server, ended with the test.
struct Server {
    folder: TempDir,
    process: Child,
}

impl Server {
    fn start(options: &[&str]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let process = serve(folder.path(), options);
        Server { folder, process }
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn spec(&self, domid: DomId) -> PlatformSpec {
        PlatformSpec::Local(xen::local::domain_folder(self.dir(), domid))
    }

    fn open(&self, domid: DomId) -> std::sync::Arc<dyn Platform> {
        self.spec(domid).open().unwrap()
    }

    /// Runs a toolstack command; what it printed, or what it complained of.
    fn tool(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_xen-local"))
            .args(arguments)
            .arg("--dir")
            .arg(self.dir())
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    fn create(&self, name: &str) -> DomId {
        self.tool(&["create", name]).unwrap().parse().unwrap()
    }

    fn end(&mut self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a server and waits until it is ready.
fn serve(dir: &Path, options: &[&str]) -> Child {
    let mut process = Command::new(env!("CARGO_BIN_EXE_xen-local"))
        .arg("serve")
        .arg("--dir")
        .arg(dir)
        .args(options)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("ready"), "{line:?}");
    process
}

/// Runs the suite between two domains, in this process.
fn conform(server: &Server, backend: DomId, frontend: DomId) {
    let side = |role, me, peer| {
        let spec = server.spec(me);
        let program = PathBuf::from(env!("CARGO_BIN_EXE_xen-conformance"));
        move || {
            let session = Session::begin(spec, role, peer, program).unwrap();
            let verdicts: Vec<_> = conformance::checks()
                .iter()
                .enumerate()
                .map(|(number, check)| session.run(number, check).unwrap())
                .collect();
            session.end().unwrap();
            verdicts
        }
    };
    let other = thread::spawn(side(Role::Backend, backend, frontend));
    let verdicts = side(Role::Frontend, frontend, backend)();
    other.join().unwrap();
    let failures: Vec<_> = verdicts
        .iter()
        .filter(|verdict| !verdict.passed())
        .map(|verdict| {
            format!(
                "{}: frontend {:?}, backend {}",
                verdict.name, verdict.own, verdict.theirs
            )
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(verdicts.len() > 40, "{} checks", verdicts.len());
}

#[test]
fn conformance_of_dom0_with_a_guest() {
    let server = Server::start(&[]);
    let guest = server.create("guest");
    conform(&server, DomId(0), guest);
    let store = server.open(DomId(0)).store().unwrap();
    for domid in [DomId(0), guest] {
        let left = store
            .directory(&format!("/local/domain/{domid}/data"))
            .unwrap();
        assert_eq!(left.unwrap(), [""; 0], "the suite cleans up");
    }
}

#[test]
fn conformance_of_a_driver_domain_with_a_guest() {
    let server = Server::start(&["--grant-limit", "256"]);
    let (driver, guest) = (server.create("driver"), server.create("guest"));
    conform(&server, driver, guest);
}

#[test]
fn the_program_runs_the_suite_between_two_processes() {
    let server = Server::start(&[]);
    let guest = server.create("guest");
    let start = |role: &str, me: DomId, peer: DomId| {
        Command::new(env!("CARGO_BIN_EXE_xen-conformance"))
            .arg(role)
            .args(["--peer", &peer.to_string()])
            .args(["--platform", &server.spec(me).to_string()])
            .args(["--only", "signals"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut processes = [
        start("frontend", guest, DomId(0)),
        start("backend", DomId(0), guest),
    ];
    for process in &mut processes {
        let mut text = String::new();
        let mut output = process.stdout.take().unwrap();
        output.read_to_string(&mut text).unwrap();
        assert!(process.wait().unwrap().success(), "{text}");
        assert!(text.ends_with("4 passed, 0 failed\n"), "{text}");
    }
}

fn permissions(store: &Store, path: &str) -> Vec<String> {
    let list = store.permissions(path).unwrap();
    list.unwrap_or_else(|| panic!("no {path}"))
        .iter()
        .map(Permission::to_string)
        .collect()
}

#[test]
fn a_new_domain_has_the_nodes_that_libxl_gives_it() {
    let server = Server::start(&[]);
    let store = server.open(DomId(0)).store().unwrap();
    assert_eq!(
        store.read("/local/domain/0/name").unwrap().as_deref(),
        Some("Domain-0")
    );
    assert_eq!(
        store.read("/local/domain/0/domid").unwrap().as_deref(),
        Some("0")
    );
    assert!(store.read_bytes("/tool/xenstored").unwrap().is_some());

    let introduced = store.watch("@introduceDomain").unwrap();
    introduced.next(Some(PATIENCE)).unwrap().unwrap();
    let domid = server.create("red");
    introduced.next(Some(PATIENCE)).unwrap().unwrap();
    let home = format!("/local/domain/{domid}");
    let (owner, reader) = (format!("n{domid}"), format!("r{domid}"));
    let readable = ["n0", &reader];
    for path in ["", "/name", "/vm", "/domid", "/device", "/control"] {
        assert_eq!(permissions(&store, &format!("{home}{path}")), readable);
    }
    for path in ["data", "control/shutdown", "error"] {
        assert_eq!(
            permissions(&store, &format!("{home}/{path}")),
            [owner.as_str()]
        );
    }
    assert_eq!(permissions(&store, &format!("/libxl/{domid}")), ["n0"]);

    let guest = server.open(domid);
    assert_eq!(guest.domid().unwrap(), domid);
    let guest = guest.store().unwrap();
    assert_eq!(guest.read("name").unwrap().as_deref(), Some("red"));
    assert_eq!(guest.read("domid").unwrap(), Some(domid.to_string()));
    let vm = guest.read("vm").unwrap().unwrap();
    assert_eq!(
        guest.read(&format!("{vm}/name")).unwrap().as_deref(),
        Some("red")
    );
    guest.write("data/mine", "1").unwrap();
    let refused = guest.write("device/vgpu/0/state", "1").unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
}

#[test]
fn domains_are_made_listed_rebooted_and_destroyed() {
    let server = Server::start(&[]);
    let (red, blue) = (server.create("red"), server.create("blue"));
    assert_ne!(red, blue);
    let list = || -> Vec<Value> {
        serde_json::from_str(&server.tool(&["list", "--json"]).unwrap()).unwrap()
    };
    let before = list();
    assert_eq!(before.len(), 3);
    assert_eq!(before[0]["domid"], 0);
    assert_eq!(before[2]["name"], "blue");

    let again: DomId = server.tool(&["reboot", "red"]).unwrap().parse().unwrap();
    assert!(again > blue, "a new domid");
    let after = list();
    assert_eq!(after[2]["name"], "red");
    assert_eq!(after[2]["uuid"], before[1]["uuid"]);

    let store = server.open(DomId(0)).store().unwrap();
    let released = store.watch("@releaseDomain").unwrap();
    released.next(Some(PATIENCE)).unwrap().unwrap();
    server.tool(&["destroy", &blue.to_string()]).unwrap();
    released.next(Some(PATIENCE)).unwrap().unwrap();
    assert_eq!(list().len(), 2);
    for path in [
        format!("/local/domain/{blue}"),
        format!("/libxl/{blue}"),
        format!("/vm/{}", before[2]["uuid"].as_str().unwrap()),
    ] {
        assert_eq!(store.read_bytes(&path).unwrap(), None, "{path}");
    }
    assert!(!server.dir().join(format!("dom{blue}")).exists());
    let table = server.tool(&["list"]).unwrap();
    assert!(table.contains("red") && !table.contains("blue"), "{table}");
}

#[test]
fn the_schedule_is_kept_by_domain_and_ends_with_it() {
    let mut server = Server::start(&[]);
    let red = server.create("red");
    let path = Schedule::path(server.dir());
    let weight = |domid| Schedule::read(&path).unwrap().domain(domid).weight;
    assert_eq!(weight(red), 256);
    server
        .tool(&["sched", "-d", "red", "-w", "512", "--vcpu", "blocked:7"])
        .unwrap();
    server.tool(&["sched", "-d", "red", "-c", "50"]).unwrap();
    let domain = Schedule::read(&path).unwrap().domain(red);
    assert_eq!((domain.weight, domain.cap), (512, 50));
    assert_eq!(domain.vcpus, ["blocked:7".parse().unwrap()]);
    let table = server.tool(&["sched"]).unwrap();
    assert!(table.contains("512") && table.contains("red"), "{table}");
    for (arguments, expected) in [
        (["-d", "red", "-w", "0"], "--weight"),
        (["-d", "green", "-w", "1"], "no domain 'green'"),
        (["-d", "red", "--vcpu", "asleep"], "blocked"),
    ] {
        let error = server
            .tool(&[&["sched"][..], &arguments].concat())
            .unwrap_err();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    server.tool(&["destroy", "red"]).unwrap();
    assert_eq!(weight(red), 256);
    server.end(Signal::TERM);
    assert!(!path.exists());
}

#[test]
fn mistakes_are_explained() {
    let server = Server::start(&[]);
    server.create("red");
    for (arguments, expected) in [
        (["create", "red"], "already"),
        (["create", "a/b"], "no name"),
        (["create", "7"], "no name"),
        (["destroy", "green"], "no domain 'green'"),
        (["destroy", "0"], "domain 0"),
        (["reboot", "0"], "cannot be rebooted"),
    ] {
        let error = server.tool(&arguments).unwrap_err();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let second = Command::new(env!("CARGO_BIN_EXE_xen-local"))
        .arg("serve")
        .arg("--dir")
        .arg(server.dir())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(error.contains("another xen-local"), "{error}");
}

#[test]
fn a_guest_makes_and_ends_no_domains() {
    let server = Server::start(&[]);
    let (red, blue) = (server.create("red"), server.create("blue"));
    let guest = xen::local::Local::open(&xen::local::domain_folder(server.dir(), red)).unwrap();
    for result in [
        guest.create_domain().map(drop),
        guest.destroy_domain(blue),
        guest.domains().map(drop),
    ] {
        assert!(
            matches!(result, Err(Error::PermissionDenied { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn a_destroyed_domain_is_cut_off_and_its_peer_told() {
    let server = Server::start(&[]);
    let (red, blue) = (server.create("red"), server.create("blue"));
    let (in_red, in_blue) = (server.open(red), server.open(blue));
    let offered = in_blue.bind_unbound(red).unwrap();
    let event = in_red.bind_interdomain(blue, offered.port()).unwrap();
    let granted = in_red.grant(blue, 1, Access::ReadWrite).unwrap();
    granted.set_unmap_notify(3, Some(&event)).unwrap();
    let map = in_blue
        .map(red, granted.grefs(), Access::ReadWrite)
        .unwrap();
    let mapping = map.mmap().unwrap();
    // SAFETY: the mapping has a page.
    unsafe { mapping.as_ptr().add(3).write_volatile(9) };
    while offered.clear().unwrap() {}

    server.tool(&["destroy", "red"]).unwrap();
    assert!(offered.wait(Some(PATIENCE)).unwrap());
    // SAFETY: as above.
    assert_eq!(unsafe { mapping.as_ptr().add(3).read_volatile() }, 0);
    let error = in_red.grant(blue, 1, Access::ReadWrite).unwrap_err();
    assert!(matches!(error, Error::NotPresent { .. }), "{error:?}");
    let error = in_blue
        .map(red, granted.grefs(), Access::ReadWrite)
        .unwrap_err();
    assert!(matches!(error, Error::NotGranted { .. }), "{error:?}");
}

#[test]
fn a_client_that_sends_garbage_is_dropped_alone() {
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
    let server = Server::start(&[]);
    let guest = server.create("guest");
    let good = server.open(guest);
    let path = xen::local::domain_folder(server.dir(), guest).join("hypervisor.sock");
    for garbage in [
        &b"{"[..],
        b"\xff\xfe",
        b"{\"grant\":{\"peer\":70000,\"pages\":1,\"access\":\"read-write\"}}",
        b"{\"map\":{\"peer\":0,\"grefs\":[{\"first\":4294967295,\"count\":4294967295}]}}",
        &[b' '; 150_000],
    ] {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::send(&socket, garbage, SendFlags::empty()).unwrap();
        let mut answer = [0u8; 64];
        let received = rustix::net::recv(&socket, &mut answer[..], rustix::net::RecvFlags::empty());
        // Closed, with or without what it did not read.
        assert!(matches!(received, Ok((0, _)) | Err(_)), "{received:?}");
    }
    good.grant(DomId(0), 1, Access::ReadWrite).unwrap();
}

#[test]
fn it_ends_on_signals_and_leaves_nothing() {
    let mut server = Server::start(&[]);
    for signal in [Signal::TERM, Signal::INT] {
        let guest = server.create("guest");
        let platform = server.open(guest);
        server.end(signal);
        let left: Vec<_> = std::fs::read_dir(server.dir()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let error = platform.bind_unbound(DomId(0)).unwrap_err();
        assert!(matches!(error, Error::NotPresent { .. }), "{error:?}");
        server.process = serve(server.folder.path(), &[]);
    }
}

#[test]
fn it_starts_where_another_was_killed() {
    let mut server = Server::start(&[]);
    server.create("guest");
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    assert!(server.dir().join("dom1").exists());
    server.process = serve(server.folder.path(), &[]);
    assert!(!server.dir().join("dom1").exists());
    assert_eq!(server.create("guest"), DomId(1));
}
