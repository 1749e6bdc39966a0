//! xl-vgpu as people and scripts run it, on the local platform, with stand-ins for both ends of a
//! device that keep to XenBus's tables and do nothing else.

#![allow(
    clippy::unwrap_used,
    reason = "the workspace's lints allow it in tests, but not in what they share"
)]

use rustix::io::Errno;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;
use vgpu_protocol::admin::{ChannelInfo, Checked, DeviceInfo, Listing, Reply};
use vgpu_protocol::keys::{DeviceId, is_online, publish, remove_device, state};
use vgpu_protocol::xenbus::{BackStep, FrontStep, State, View, back_step, front_step};
use xen::local::domain_folder;
use xen::local::hypervisor::Limits;
use xen::local::server::Server;
use xen::local::toolstack::Toolstack;
use xen::store::{Permission, StoreError};
use xen::{DomId, PlatformSpec, Store};

/// A machine without Xen.
struct Machine {
    folder: TempDir,
    toolstack: Toolstack,
    store: Store,
    server: Option<(PipeWriter, JoinHandle<()>)>,
}

/// What a run of xl-vgpu left.
#[derive(Debug)]
struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Machine {
    fn start() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(&folder.path().join("xen"), Limits::default()).unwrap();
        let (stop, stopper) = std::io::pipe().unwrap();
        let server = thread::spawn(move || server.run(stop.into()).unwrap());
        let toolstack = Toolstack::open(&folder.path().join("xen")).unwrap();
        let dom0 = PlatformSpec::Local(domain_folder(&folder.path().join("xen"), DomId(0)));
        Machine {
            store: dom0.open().unwrap().store().unwrap(),
            folder,
            toolstack,
            server: Some((stopper, server)),
        }
    }

    fn platform(&self, domid: DomId) -> PlatformSpec {
        PlatformSpec::Local(domain_folder(&self.folder.path().join("xen"), domid))
    }

    fn store_of(&self, domid: DomId) -> Store {
        self.platform(domid).open().unwrap().store().unwrap()
    }

    /// xl-vgpu in dom0.
    fn xl(&self, arguments: &[&str]) -> Ran {
        self.xl_in(DomId(0), arguments)
    }

    fn xl_in(&self, domid: DomId, arguments: &[&str]) -> Ran {
        let ran = Command::new(env!("CARGO_BIN_EXE_xl-vgpu"))
            .env("XEN_VGPU_PLATFORM", self.platform(domid).to_string())
            .arg("--run-dir")
            .arg(self.folder.path())
            .args(arguments)
            .output()
            .unwrap();
        Ran {
            status: ran.status.code().unwrap(),
            out: String::from_utf8(ran.stdout).unwrap(),
            err: String::from_utf8(ran.stderr).unwrap(),
        }
    }

    fn listed(&self) -> Vec<Value> {
        let ran = self.xl(&["list", "--json"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    }

    /// Starts the backend of a device, which exists or is to be made yet.
    fn backend(&self, device: DeviceId) -> End {
        End::start(device, self.store_of(device.backend), |device, store| {
            let (own, peer) = (device.backend_dir(), device.frontend_dir());
            let view = View {
                own: state(store, &own)?,
                peer: state(store, &peer)?,
                wanted: is_online(store, device)?,
                late: false,
            };
            if view.own == State::Unknown {
                return Ok(());
            }
            let next = match back_step(view) {
                BackStep::Wait => return Ok(()),
                BackStep::Offer => State::InitWait,
                BackStep::Connect => State::Connected,
                BackStep::Close => State::Closing,
                BackStep::Finish => State::Closed,
                BackStep::Remove => return remove_device(store, device),
            };
            publish(store, &own, &[], next).map(|_| ())
        })
    }

    /// Starts the frontend of a device.
    fn frontend(&self, device: DeviceId) -> End {
        End::start(device, self.store_of(device.frontend), |device, store| {
            let (own, peer) = (device.frontend_dir(), device.backend_dir());
            let view = View {
                own: state(store, &own)?,
                peer: state(store, &peer)?,
                wanted: true,
                late: false,
            };
            let next = match front_step(view) {
                FrontStep::Wait => return Ok(()),
                FrontStep::Restart => State::Initialising,
                FrontStep::Share => State::Initialised,
                FrontStep::Serve => State::Connected,
                FrontStep::Close => State::Closing,
                FrontStep::Release => State::Closed,
            };
            publish(store, &own, &[], next).map(|_| ())
        })
    }

    /// Starts a backd that tells these devices, for as many questions as are asked.
    fn backd(&self, devices: Vec<DeviceInfo>) {
        self.backd_says(Reply::Listing(Listing { devices }));
    }

    fn backd_says(&self, reply: Reply) {
        let listener = UnixListener::bind(self.folder.path().join("backd.sock")).unwrap();
        let answer = serde_json::to_string(&reply).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut question = String::new();
                BufReader::new(&stream).read_line(&mut question).unwrap();
                writeln!(stream, "{answer}").unwrap();
            }
        });
    }

    /// Every node of the store that has to do with vgpu.
    fn nodes_left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut open = vec!["/local".to_owned(), "/libxl".to_owned()];
        while let Some(path) = open.pop() {
            for child in self.store.directory(&path).unwrap().unwrap_or_default() {
                let path = format!("{path}/{child}");
                if child == "vgpu" {
                    left.push(path.clone());
                }
                open.push(path);
            }
        }
        left
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some((mut stop, server)) = self.server.take() {
            stop.write_all(b".").unwrap();
            let ended = server.join();
            assert!(thread::panicking() || ended.is_ok());
        }
    }
}

/// What an end does when something has changed.
type Look = fn(DeviceId, &Store) -> Result<(), StoreError>;

/// One end of a device: a thread that looks whenever something changes.
struct End {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl End {
    fn start(device: DeviceId, store: Store, look: Look) -> End {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let back = store.watch(&device.backend_dir()).unwrap();
            let front = store.watch(&device.frontend_dir()).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                match look(device, &store) {
                    // What does not exist, a domain may not read.
                    Err(StoreError::Refused { errno, .. }) if errno == Errno::ACCESS => {}
                    looked => looked.unwrap(),
                }
                for watch in [&back, &front] {
                    watch.next(Some(Duration::from_millis(5))).unwrap();
                }
            }
        });
        End {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok());
        }
    }
}

fn device(frontend: DomId) -> DeviceId {
    DeviceId {
        backend: DomId(0),
        frontend,
        devid: 0,
    }
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn without_devices_and_without_backd() {
    let machine = Machine::start();
    let ran = machine.xl(&["list"]);
    assert_eq!((ran.status, ran.out.as_str()), (0, "no vgpu devices\n"));
    assert_says(&ran.err, &["no vgpu-backd answers at", "backd.sock"]);
    assert_eq!(machine.listed(), Vec::<Value>::new());
    machine.backd(vec![]);
    let ran = machine.xl(&["list"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
}

#[test]
fn an_unknown_domain_is_told_which_there_are() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    for command in ["attach", "detach"] {
        let ran = machine.xl(&[command, "web"]);
        assert_eq!((ran.status, ran.out.as_str()), (3, ""), "{ran:?}");
        let db = format!("db (domain {domid})");
        assert_says(&ran.err, &["there is no domain 'web'", &db]);
    }
    let ran = machine.xl(&["attach", "db", "--backend", "99"]);
    assert_eq!(ran.status, 3, "{ran:?}");
    assert_says(&ran.err, &["there is no domain '99'"]);
    let ran = machine.xl(&["attach", "0"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert_says(&ran.err, &["cannot be its own backend"]);
    let ran = machine.xl(&["detach", "db"]);
    assert_eq!(ran.status, 3, "{ran:?}");
    assert_says(&ran.err, &["has no vgpu device 0", "none at all"]);
    assert_eq!(machine.xl(&["attach"]).status, 2);
    assert_eq!(machine.nodes_left(), Vec::<String>::new());
}

#[test]
fn without_a_backend_the_device_waits_for_one() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    let ran = machine.xl(&["attach", "db", "--wait", "0"]);
    assert_eq!((ran.status, ran.out.as_str()), (5, ""), "{ran:?}");
    let states = "backend Initialising, frontend Initialising";
    assert_says(
        &ran.err,
        &[states, "no vgpu-backd answers", "start vgpu-backd as root"],
    );
    // As libxl's own devices are.
    let device = device(domid);
    for (path, owner, reader) in [
        (device.frontend_dir(), domid, DomId(0)),
        (device.backend_dir(), DomId(0), domid),
    ] {
        let expected = [Permission::none(owner), Permission::read(reader)];
        let permissions = machine.store.permissions(&path).unwrap().unwrap();
        assert_eq!(permissions, expected, "{path}");
    }

    let ran = machine.xl(&["attach", &domid.to_string()]);
    assert_eq!(ran.status, 4, "{ran:?}");
    assert_says(&ran.err, &["has vgpu device 0 already", states]);

    let ran = machine.xl(&["attach", "db", "--devid", "3", "--wait", "0"]);
    assert_eq!(ran.status, 5, "{ran:?}");
    let ran = machine.xl(&["detach", "db", "--devid", "1"]);
    assert_eq!(ran.status, 3, "{ran:?}");
    assert_says(&ran.err, &["has no vgpu device 1; it has 0, 3"]);

    let row = |devid: u32| {
        json!({"name": "db", "domid": domid, "devid": devid, "backend": 0,
            "backend_state": "Initialising", "frontend_state": "Initialising", "gpus": [], "refused": "", "channels": []})
    };
    assert_eq!(machine.listed(), [row(0), row(3)]);
    let ran = machine.xl(&["detach", "db", "--force", "--devid", "3"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_eq!(machine.listed(), [row(0)]);
    let ran = machine.xl(&["detach", "db", "--force"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(machine.nodes_left(), Vec::<String>::new());
}

#[test]
fn a_backd_that_runs_and_does_nothing_is_told_from_none() {
    let machine = Machine::start();
    machine.toolstack.create("db").unwrap();
    machine.backd(vec![]);
    let ran = machine.xl(&["attach", "db", "--wait", "0"]);
    assert_eq!(ran.status, 5, "{ran:?}");
    assert_says(&ran.err, &["vgpu-backd runs, but has not taken", "log"]);
}

#[test]
fn a_guest_without_frontd_is_no_error() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    let uuid = machine.toolstack.list().unwrap()[1].uuid.clone().unwrap();
    let _backend = machine.backend(device(domid));
    let ran = machine.xl(&["attach", &uuid]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let attached = format!(
        "vgpu-{domid}-0 is attached to db (domain {domid}): backend InitWait, frontend Initialising"
    );
    assert_eq!(ran.out.trim_end(), attached);
    assert_says(&ran.err, &["vgpu-frontd"]);

    // Somebody who asked to wait for the guest is told that it did not come.
    assert_eq!(machine.xl(&["detach", &uuid]).status, 0);
    let ran = machine.xl(&["attach", &uuid, "--wait", "1"]);
    assert_eq!((ran.status, ran.out.as_str()), (5, ""), "{ran:?}");
    assert_says(&ran.err, &["start vgpu-frontd in the guest"]);
}

#[test]
fn files_are_checked_without_xen_and_without_backd() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("db.toml");
    let wrong = folder.path().join("web.toml");
    std::fs::write(&good, "weight = 512\nmemory = \"2G\"\n").unwrap();
    std::fs::write(&wrong, "cap = 50\n\nguaranteed = 60\n").unwrap();
    let xl = |arguments: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_xl-vgpu"))
            .args(["--platform", "local:/nonexistent", "--run-dir"])
            .arg(folder.path())
            .arg("check")
            .args(arguments)
            .output()
            .unwrap();
        Ran {
            status: ran.status.code().unwrap(),
            out: String::from_utf8(ran.stdout).unwrap(),
            err: String::from_utf8(ran.stderr).unwrap(),
        }
    };
    let (good, wrong) = (good.to_str().unwrap(), wrong.to_str().unwrap());
    let ran = xl(&[good]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_says(&ran.out, &["db.toml: good", "no vgpu-backd tells"]);
    let ran = xl(&[good, wrong]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert_says(&ran.out, &["web.toml: wrong: line 3: ", "cap = 50"]);
    let ran = xl(&["--json", good, wrong, "/nonexistent/x.toml"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let verdicts: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(verdicts[0]["description"]["memory"], 2_u64 << 30);
    assert_eq!(verdicts[0]["error"], "");
    assert_says(verdicts[1]["error"].as_str().unwrap(), &["line 3"]);
    assert_says(verdicts[2]["error"].as_str().unwrap(), &["cannot be read"]);
}

#[test]
fn backd_tells_whether_there_is_room() {
    let file = |machine: &Machine| {
        let file = machine.folder.path().join("db.toml");
        std::fs::write(&file, "guaranteed = 50\n").unwrap();
        file.to_str().unwrap().to_owned()
    };
    let machine = Machine::start();
    machine.backd_says(Reply::Checked(Checked {
        would_be_on: vec![2],
        missing: String::new(),
    }));
    let ran = machine.xl(&["check", &file(&machine)]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_says(&ran.out, &["would be let in now, on GPU 2"]);
    let machine = Machine::start();
    machine.backd_says(Reply::Checked(Checked {
        would_be_on: vec![],
        missing: "GPU 0 has 40 % left".into(),
    }));
    let ran = machine.xl(&["check", &file(&machine)]);
    assert_eq!(ran.status, 6, "{ran:?}");
    assert_says(&ran.out, &["would be refused now: GPU 0 has 40 % left"]);
}

#[test]
fn a_refused_domain_is_listed_with_the_reason() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    let _backend = machine.backend(device(domid));
    machine.xl(&["attach", "db"]);
    machine.backd(vec![DeviceInfo {
        domid: domid.0,
        refused: "GPU 0 has 40 % left".into(),
        ..DeviceInfo::default()
    }]);
    assert_eq!(machine.listed()[0]["refused"], "GPU 0 has 40 % left");
    let ran = machine.xl(&["list"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_says(&ran.err, &["db is refused for now: GPU 0 has 40 % left"]);
}

#[test]
fn a_device_comes_is_used_and_goes() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    let _ends = (
        machine.backend(device(domid)),
        machine.frontend(device(domid)),
    );
    let channel = ChannelInfo {
        channel: 1,
        phase: "serving".into(),
        pid: 321,
        uid: 1000,
        program: "matrixMul".into(),
        worker: 54321,
        pages: 1056,
    };
    machine.backd(vec![DeviceInfo {
        domid: domid.0,
        domain: "db".into(),
        devid: 0,
        state: "connected".into(),
        gpus: vec![0],
        refused: String::new(),
        channels: vec![channel.clone()],
    }]);

    let ran = machine.xl(&["attach", "db", "--wait", "15"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_says(&ran.out, &["backend Connected, frontend Connected"]);

    let row = json!({"name": "db", "domid": domid, "devid": 0, "backend": 0,
        "backend_state": "Connected", "frontend_state": "Connected", "gpus": [0], "refused": "",
        "channels": [channel]});
    assert_eq!(machine.listed(), [row]);
    let ran = machine.xl(&["list"]);
    assert_says(&ran.out, &["DOMAIN", "Connected", "matrixMul", "54321"]);

    let ran = machine.xl(&["detach", "db"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_eq!(machine.nodes_left(), Vec::<String>::new());
    // And again.
    let ran = machine.xl(&["attach", "db", "--wait", "15"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
}

#[test]
fn a_device_whose_backend_hangs_is_removed() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    let device = device(domid);
    let (backend, frontend) = (machine.backend(device), machine.frontend(device));
    assert_eq!(machine.xl(&["attach", "db", "--wait", "15"]).status, 0);
    drop((backend, frontend));
    let ran = machine.xl(&["detach", "db", "--wait", "1"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_says(
        &ran.err,
        &["did not close within 1 s (backend Closing, frontend Connected)"],
    );
    assert_eq!(machine.nodes_left(), Vec::<String>::new());
}

#[test]
fn a_device_that_its_backend_leaves_closed_is_removed() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    let device = device(domid);
    machine.xl(&["attach", "db", "--wait", "0"]);
    let closing = End::start(device, machine.store_of(DomId(0)), |device, store| {
        let dir = device.backend_dir();
        if state(store, &dir)? == State::Closing {
            publish(store, &dir, &[], State::Closed)?;
        }
        Ok(())
    });
    let ran = machine.xl(&["detach", "db"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    drop(closing);
    assert_eq!(machine.nodes_left(), Vec::<String>::new());
}

#[test]
fn what_a_guest_wrote_is_not_followed() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    machine.toolstack.create("victim").unwrap();
    for domain in ["db", "victim"] {
        machine.xl(&["attach", domain, "--wait", "0"]);
    }
    let before = machine.listed();
    machine.store.write("/tool/precious", "1").unwrap();

    let guest = machine.store_of(domid);
    let dir = device(domid).frontend_dir();
    let elsewhere = "/local/domain/0/backend/vgpu/2/0";
    for (key, value) in [
        ("backend", elsewhere),
        ("frontend", "/tool/precious"),
        ("backend-id", "2"),
        ("domain", "victim"),
        ("name", "victim"),
        ("online", "0"),
        ("state", "\x1b[2J4"),
    ] {
        guest.write(&format!("{dir}/{key}"), value).unwrap();
    }

    let mut expected = before.clone();
    expected[0]["frontend_state"] = json!("Unknown");
    assert_eq!(machine.listed(), expected);

    let ran = machine.xl(&["detach", "db", "--force"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(machine.listed(), [before[1].clone()]);
    assert!(machine.store.read("/tool/precious").unwrap().is_some());
}

#[test]
fn what_the_ends_say_is_passed_on_without_its_tricks() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    let device = device(domid);
    machine
        .store_of(domid)
        .write("error/device/vgpu/0/error", "no\x1b[2J memory")
        .unwrap();
    machine
        .store
        .write(&device.backend_error(), "ring-ref 0 is no list")
        .unwrap();
    let ran = machine.xl(&["attach", "db", "--wait", "0"]);
    assert_eq!(ran.status, 5, "{ran:?}");
    assert_says(
        &ran.err,
        &[
            "the guest says: no\u{fffd}[2J memory",
            "the backend says: ring-ref 0 is no list",
        ],
    );
}

#[test]
fn a_domain_that_is_gone_can_be_cleaned_up() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    machine.xl(&["attach", "db", "--wait", "0"]);
    machine.toolstack.destroy(domid).unwrap();
    let row = json!({"name": "db", "domid": domid, "devid": 0, "backend": 0,
        "backend_state": "Initialising", "frontend_state": "absent", "gpus": [], "refused": "", "channels": []});
    assert_eq!(machine.listed(), [row]);
    assert_eq!(machine.xl(&["detach", "db"]).status, 3);
    let ran = machine.xl(&["detach", &domid.to_string(), "--wait", "0"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_says(&ran.out, &[&format!("detached from domain {domid}")]);
    assert_eq!(machine.nodes_left(), Vec::<String>::new());
}

#[test]
fn a_backend_in_another_domain() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    let driver = machine.toolstack.create("driver").unwrap();
    let driver_id = driver.to_string();
    let device = DeviceId {
        backend: driver,
        ..device(domid)
    };
    let attach = ["attach", "db", "--backend", &driver_id, "--wait", "0"];
    let ran = machine.xl(&attach);
    assert_eq!(ran.status, 5, "{ran:?}");
    let advice = format!("start vgpu-backd in domain {driver}");
    assert_says(&ran.err, &[&advice]);
    // One device has one backend.
    let ran = machine.xl(&["attach", "db"]);
    assert_eq!(ran.status, 4, "{ran:?}");
    assert_says(&ran.err, &["detach it first"]);

    // It is driven from there, with that domain's rights.
    {
        let _ends = (machine.backend(device), machine.frontend(device));
        assert_eq!(machine.xl(&["detach", "db", "--force"]).status, 0);
        let ran = machine.xl(&["attach", "db", "--backend", &driver_id, "--wait", "15"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        assert_eq!(machine.listed()[0]["backend"], json!(driver));
    }

    // Its end takes half of the device with it; the rest is found by the toolstack's copy.
    machine.toolstack.destroy(driver).unwrap();
    let rows = machine.listed();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["backend_state"], "absent");
    let ran = machine.xl(&["detach", "db"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_eq!(machine.nodes_left(), Vec::<String>::new());
}

#[test]
fn a_guest_is_told_where_to_run_it() {
    let machine = Machine::start();
    let domid = machine.toolstack.create("db").unwrap();
    for arguments in [&["list"][..], &["attach", "db"], &["detach", "db"]] {
        let ran = machine.xl_in(domid, arguments);
        assert_eq!(ran.status, 1, "{ran:?}");
        assert_says(&ran.err, &["run xl-vgpu as root in dom0"]);
    }
    let ran = machine.xl(&["list", "--platform", "local:/nowhere"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert_says(&ran.err, &["/nowhere"]);
    assert_eq!(machine.xl(&["list", "--platform", "kvm"]).status, 2);
}
