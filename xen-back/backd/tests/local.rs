//! backd and frontd on the local platform, as the processes they are, with a worker of our own that
//! echoes: channels open, everything that can die dies, and nothing is left.
//!
//! This program plays three parts: the tests themselves, a worker and a frontd; a variable in the
//! environment says which.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the workspace's lints allow it in tests, and this is all test"
)]

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vgpu_protocol::PROTOCOL_VERSION;
use vgpu_protocol::admin::{Listing, Reply};
use vgpu_protocol::backend::{Ended, FromBackd, FromWorker, Ready, RegionDone, WORKER_FD};
use vgpu_protocol::channel::{Bell, shared_memory};
use vgpu_protocol::codec::{Bytes, Codec};
use vgpu_protocol::control::{self, Answer, OpenChannel, Request, Status};
use vgpu_protocol::grants::GrantList;
use vgpu_protocol::guest::{AddRegion, FromFrontd, FromProgram, Hello, MAGIC, RemoveRegion};
use vgpu_protocol::keys::{self, DeviceId};
use vgpu_protocol::packet::{self, PacketError};
use vgpu_protocol::wait::Wake;
use vgpu_protocol::xenbus::State;
use vgpu_ring::{Back, Front, Layout, SpinPolicy};
use xen::local::domain_folder;
use xen::local::hypervisor::Limits;
use xen::local::server::Server;
use xen::local::toolstack::Toolstack;
use xen::{Access, DomId, Mapping, PAGE_SIZE, Platform, PlatformSpec, Store};

const ROLE: &str = "XEN_VGPU_TEST_ROLE";
const ARENA: u32 = 512 * 1024;
/// Pages that a domain may grant: a few channels' worth.
const GRANT_LIMIT: u32 = 1024;

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if std::env::args().any(|argument| argument == "--probe") => {
            if std::env::args().any(|argument| argument == "broken") {
                eprintln!("the driver broken does not start");
                return ExitCode::FAILURE;
            }
            println!(r#"[{{"uuid":"GPU-1","name":"echo","memory":1048576,"capability":[8,0]}}]"#);
        }
        Ok("worker") => worker(),
        Ok("frontd") => frontd(),
        _ => return run_tests(),
    }
    ExitCode::SUCCESS
}

// ---------------------------------------------------------------------------------------- the parts

/// Echoes, and does what it is told by name.
fn worker() {
    // SAFETY: backd leaves this descriptor to us, and nothing else in this process has it.
    let socket = Arc::new(unsafe { OwnedFd::from_raw_fd(WORKER_FD) });
    let say = |message: FromWorker| packet::send(&*socket, &message, &[]).unwrap();
    let (FromBackd::Serve(serve), fds) = packet::receive::<FromBackd>(&*socket).unwrap() else {
        panic!()
    };
    if serve.driver.0 == b"broken" {
        say(FromWorker::Ended(Ended {
            reason: Bytes(b"the driver broken does not start".to_vec()),
        }));
        return;
    }
    let map = |memory: &[packet::WireExtent], fds: &[Arc<OwnedFd>]| {
        Mapping::from_extents(
            &packet::take_extents(memory, fds).unwrap(),
            Access::ReadWrite,
        )
        .unwrap()
    };
    let fds: Vec<_> = fds.into_iter().map(Arc::new).collect();
    let bell = Arc::new(Bell(packet::take_event(&serve.event, &fds).unwrap()));
    let layout = Layout::new(serve.sq_bytes, serve.cq_bytes, serve.arena_bytes).unwrap();
    let memory = shared_memory(map(&serve.memory, &fds));
    drop(fds);
    let mut back = Back::attach(
        memory,
        layout,
        bell,
        SpinPolicy::NEVER,
        Duration::from_secs(5),
    )
    .unwrap();
    let regions = Arc::new(Mutex::new(BTreeMap::<u32, Mapping>::new()));
    let hangs = Arc::new(AtomicBool::new(false));
    say(FromWorker::Ready(Ready {
        version: PROTOCOL_VERSION,
    }));
    let listener = {
        let (socket, regions, hangs) = (socket.clone(), regions.clone(), hangs.clone());
        move || {
            loop {
                let region = match packet::receive::<FromBackd>(&*socket) {
                    Ok((FromBackd::MapRegion(m), fds)) => {
                        let fds: Vec<_> = fds.into_iter().map(Arc::new).collect();
                        regions
                            .lock()
                            .unwrap()
                            .insert(m.region, map(&m.memory, &fds));
                        m.region
                    }
                    Ok((FromBackd::UnmapRegion(m), _)) => {
                        regions.lock().unwrap().remove(&m.region);
                        m.region
                    }
                    _ => break,
                };
                let done = FromWorker::RegionDone(RegionDone {
                    region,
                    error: Bytes::default(),
                });
                packet::send(&*socket, &done, &[]).unwrap();
            }
            if !hangs.load(Ordering::Relaxed) {
                std::process::exit(0);
            }
        }
    };
    std::thread::spawn(listener);
    let mut record = Vec::new();
    loop {
        let submission = match back.next(&mut record, None) {
            Ok(Some(submission)) => submission,
            Ok(None) => continue,
            Err(_) => break,
        };
        let answer = match record.as_slice() {
            b"crash" => std::process::abort(),
            b"hang" => {
                hangs.store(true, Ordering::Relaxed);
                record.clone()
            }
            b"pid" => std::process::id().to_string().into_bytes(),
            b"region" => {
                let regions = regions.lock().unwrap();
                let mapping = regions.values().next().unwrap();
                // SAFETY: the region is mapped, and at least a page long.
                vec![unsafe { mapping.as_ptr().as_ptr().read_volatile() }]
            }
            other => other.to_vec(),
        };
        back.completer()
            .complete(submission.ticket, &[&answer])
            .unwrap();
        back.retire().unwrap();
    }
    while hangs.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn frontd() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let stop = vgpu_protocol::wait::stop_signal().unwrap();
    let options = vgpu_frontd::Options {
        platform: variable("XEN_VGPU_PLATFORM").parse().unwrap(),
        socket: variable("XEN_VGPU_SOCKET").into(),
        devid: 0,
        layout: Layout::new(4096, 4096, ARENA).unwrap(),
        programs_per_user: 8,
        gntalloc_limit: 0,
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    if let Err(error) = vgpu_frontd::device::run(&options, stop.as_fd()) {
        eprintln!("frontd ends: {error}");
    }
}

// ------------------------------------------------------------------------------------------ the world

/// A process that is killed when dropped.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Asks it to end, and sees that it does.
    fn stop(mut self) {
        self.signal(Signal::TERM);
        eventually("the process ends", || self.0.try_wait().unwrap().is_some());
    }

    fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// xen-local, and a backd.
struct World {
    dir: tempfile::TempDir,
    toolstack: Toolstack,
    backd: Option<Process>,
    options: Vec<String>,
    stop: Arc<Wake>,
    server: Option<JoinHandle<()>>,
}

impl World {
    fn new() -> World {
        World::with(&[])
    }

    fn with(options: &[&str]) -> World {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("domains.d")).unwrap();
        let xen = dir.path().join("xen");
        let server = Server::new(
            &xen,
            Limits {
                granted_pages: GRANT_LIMIT,
            },
        )
        .unwrap();
        let stop = Arc::new(Wake::new().unwrap());
        let stopped = stop.as_fd().try_clone_to_owned().unwrap();
        let server = std::thread::spawn(move || server.run(stopped).unwrap());
        let toolstack = Toolstack::open(&xen).unwrap();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut world = World {
            dir,
            toolstack,
            backd: None,
            options,
            stop,
            server: Some(server),
        };
        world.start_backd();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn platform(&self, domid: DomId) -> PlatformSpec {
        PlatformSpec::Local(domain_folder(&self.path("xen"), domid))
    }

    fn open(&self, domid: DomId) -> Arc<dyn Platform> {
        self.platform(domid).open().unwrap()
    }

    fn start_backd(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_vgpu-backd"))
            .arg("--platform")
            .arg(self.platform(DomId(0)).to_string())
            .arg("--config-dir")
            .arg(self.path("domains.d"))
            .arg("--run-dir")
            .arg(self.path("run"))
            .arg("--worker")
            .arg(std::env::current_exe().unwrap())
            .args(["--worker-user", "root"])
            .args(&self.options)
            .env(ROLE, "worker")
            .spawn()
            .unwrap();
        self.backd = Some(Process(child));
        eventually("backd answers", || self.try_list().is_some());
    }

    fn backd(&mut self) -> Process {
        self.backd.take().unwrap()
    }

    /// A domain that has a file in domains.d.
    fn guest(&self, name: &str) -> DomId {
        std::fs::write(self.path("domains.d").join(format!("{name}.toml")), "").unwrap();
        self.toolstack.create(name).unwrap()
    }

    fn start_frontd(&self, domid: DomId) -> Process {
        let child = Command::new(std::env::current_exe().unwrap())
            .env(ROLE, "frontd")
            .env("XEN_VGPU_PLATFORM", self.platform(domid).to_string())
            .env("XEN_VGPU_SOCKET", self.socket(domid))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(child);
        eventually("frontd listens", || dial(&self.socket(domid)).is_ok());
        process
    }

    fn socket(&self, domid: DomId) -> PathBuf {
        self.path(&format!("frontd-{domid}.sock"))
    }

    /// A program of a guest, once its device is connected.
    fn program(&self, domid: DomId) -> Program {
        let mut program = None;
        eventually("a program gets a channel", || {
            program = Program::start(&self.socket(domid)).ok();
            program.is_some()
        });
        program.unwrap()
    }

    fn try_list(&self) -> Option<Listing> {
        let mut stream = UnixStream::connect(self.path("run/backd.sock")).ok()?;
        stream.write_all(b"{\"command\":\"list\"}\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        match serde_json::from_str(&line).ok()? {
            Reply::Listing(listing) => Some(listing),
            other => panic!("{other:?}"),
        }
    }

    fn list(&self) -> Listing {
        self.try_list().unwrap()
    }

    fn channels(&self) -> usize {
        self.list()
            .devices
            .iter()
            .map(|device| device.channels.len())
            .sum()
    }

    fn states(&self, id: DeviceId) -> (State, State) {
        let store = self.open(DomId(0)).store().unwrap();
        let state = |dir: String| keys::state(&store, &dir).unwrap();
        (state(id.frontend_dir()), state(id.backend_dir()))
    }

    /// No node names the domain, but those that its toolstack makes.
    fn expect_no_nodes(&self, id: DeviceId) {
        let store = self.open(DomId(0)).store().unwrap();
        for path in [
            id.frontend_dir(),
            format!("/local/domain/0/backend/vgpu/{}", id.frontend),
            id.toolstack_dir(),
            "/local/domain/0/error".to_owned(),
        ] {
            eventually(&format!("{path} is gone"), || {
                store.directory(&path).unwrap().is_none()
            });
        }
    }

    /// A domain may grant its whole limit, so that it has granted nothing: but the control ring's pages
    /// and their list's, where it has a frontd.
    fn expect_no_grants(&self, domid: DomId, has_frontd: bool) {
        let platform = self.open(domid);
        let pages = GRANT_LIMIT - if has_frontd { 4 } else { 0 };
        eventually("all grants are back", || {
            platform.grant(DomId(0), pages, Access::ReadOnly).is_ok()
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.backd = None;
        self.stop.wake();
        let _ = self.server.take().unwrap().join();
    }
}

/// Waits for what other processes do. Only a failure takes long.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn device(domid: DomId) -> DeviceId {
    DeviceId {
        backend: DomId(0),
        frontend: domid,
        devid: 0,
    }
}

fn dial(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// What libcuda does in a program.
struct Program {
    front: Front,
    socket: OwnedFd,
}

impl Program {
    fn start(path: &Path) -> Result<Program, String> {
        let socket = dial(path).map_err(|e| e.to_string())?;
        let hello = FromProgram::Hello(Hello {
            magic: MAGIC,
            version: PROTOCOL_VERSION,
        });
        let (answer, fds) = ask(&socket, &hello).map_err(|e| e.to_string())?;
        let FromFrontd::Opened(opened) = answer else {
            return Err(reason(answer));
        };
        let extents = packet::take_extents(&opened.memory, &fds).unwrap();
        let bell = Arc::new(Bell(packet::take_event(&opened.event, &fds).unwrap()));
        let memory = shared_memory(Mapping::from_extents(&extents, Access::ReadWrite).unwrap());
        let layout = Layout::new(opened.sq_bytes, opened.cq_bytes, opened.arena_bytes).unwrap();
        let front = Front::new(memory, layout, bell, SpinPolicy::NEVER).unwrap();
        Ok(Program { front, socket })
    }

    fn call(&self, what: &[u8]) -> Result<Vec<u8>, vgpu_ring::Error> {
        let ticket = self.front.submit(&[what], true)?;
        self.front.wait(ticket)
    }

    fn worker(&self) -> u32 {
        String::from_utf8(self.call(b"pid").unwrap())
            .unwrap()
            .parse()
            .unwrap()
    }

    fn expect_alive(&self) {
        assert_eq!(self.call(b"hello").unwrap(), b"hello");
    }

    fn expect_dead(&self) {
        eventually("the program notices", || self.call(b"hello").is_err());
    }

    fn expect_sent_away(&self) {
        assert!(matches!(
            packet::receive::<FromFrontd>(&self.socket),
            Err(PacketError::Closed)
        ));
    }
}

fn ask(
    socket: &OwnedFd,
    message: &FromProgram,
) -> Result<(FromFrontd, Vec<Arc<OwnedFd>>), PacketError> {
    packet::send(socket, message, &[])?;
    let (answer, fds) = packet::receive::<FromFrontd>(socket)?;
    Ok((answer, fds.into_iter().map(Arc::new).collect()))
}

fn reason(answer: FromFrontd) -> String {
    match answer {
        FromFrontd::Refused(refused) => String::from_utf8(refused.reason.0).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn expect_gone(process: u32) {
    eventually("the worker is gone", || {
        !Path::new(&format!("/proc/{process}")).exists()
    });
}

// ------------------------------------------------------------------------------------------ the tests

/// A file and `create` are all it takes; permissions are those of the protocol; programs do not meet.
fn a_domain_with_a_file_gets_its_device() {
    let world = World::new();
    let plain = world.toolstack.create("plain").unwrap();
    let guest = world.guest("guest");
    let store = world.open(DomId(0)).store().unwrap();
    let id = device(guest);
    eventually("the device is offered", || {
        world.states(id).1 == State::InitWait
    });
    let permissions = |path: String| {
        let list = store.permissions(&path).unwrap().unwrap();
        list.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    for key in ["", "/state", "/backend-id"] {
        assert_eq!(
            permissions(format!("{}{key}", id.frontend_dir())),
            format!("n{guest},r0"),
            "{key}"
        );
    }
    for key in ["", "/state", "/online", "/versions"] {
        assert_eq!(
            permissions(format!("{}{key}", id.backend_dir())),
            format!("n0,r{guest}"),
            "{key}"
        );
    }
    assert_eq!(permissions(id.toolstack_dir()), "n0");
    // The guest cannot give itself another.
    let own = world.open(guest).store().unwrap();
    assert!(own.write("device/vgpu/1/state", "1").is_err());

    let _frontd = world.start_frontd(guest);
    let (a, b) = (world.program(guest), world.program(guest));
    a.expect_alive();
    b.expect_alive();
    assert_ne!(a.worker(), b.worker());
    let listing = world.list();
    assert_eq!(listing.devices.len(), 1);
    let shown = &listing.devices[0];
    assert_eq!(
        (shown.domid, shown.domain.as_str(), shown.state.as_str()),
        (guest.0, "guest", "connected")
    );
    assert_eq!(shown.channels.len(), 2);
    let channel = &shown.channels[0];
    assert_eq!(channel.pid, std::process::id());
    assert_eq!(channel.worker, a.worker());
    assert_eq!(channel.pages, 3 + ARENA / PAGE_SIZE as u32);
    assert_eq!(channel.phase, "serving");
    world.expect_no_nodes(device(plain));
}

fn a_program_that_dies_leaves_nothing() {
    let world = World::new();
    let guest = world.guest("guest");
    let _frontd = world.start_frontd(guest);
    let stays = world.program(guest);
    let (dies, leaves) = (world.program(guest), world.program(guest));
    let workers = [dies.worker(), leaves.worker()];
    // A process that dies closes its descriptors and says no word on the ring.
    let Program { front, socket } = dies;
    std::mem::forget(front);
    drop(socket);
    drop(leaves);
    workers.into_iter().for_each(expect_gone);
    eventually("the channels are gone", || world.channels() == 1);
    stays.expect_alive();
    drop(stays);
    eventually("the channel is gone", || world.channels() == 0);
    world.expect_no_grants(guest, true);
}

fn a_worker_that_dies_ends_its_program_alone() {
    let world = World::new();
    let guest = world.guest("guest");
    let _frontd = world.start_frontd(guest);
    let (victim, other) = (world.program(guest), world.program(guest));
    let worker = victim.worker();
    assert!(victim.call(b"crash").is_err());
    victim.expect_dead();
    expect_gone(worker);
    other.expect_alive();
    drop(victim);
    world.program(guest).expect_alive();
    drop(other);
    eventually("the channels are gone", || world.channels() == 0);
    world.expect_no_grants(guest, true);
}

/// It is killed when its time is up.
fn a_worker_that_hangs_is_killed() {
    let world = World::new();
    let guest = world.guest("guest");
    let _frontd = world.start_frontd(guest);
    let program = world.program(guest);
    let worker = program.worker();
    assert_eq!(program.call(b"hang").unwrap(), b"hang");
    drop(program);
    // Meanwhile others are served.
    world.program(guest).expect_alive();
    expect_gone(worker);
    eventually("the channels are gone", || world.channels() == 0);
    world.expect_no_grants(guest, true);
}

fn a_frontd_that_is_killed_leaves_nothing() {
    let world = World::new();
    let guest = world.guest("guest");
    let frontd = world.start_frontd(guest);
    let program = world.program(guest);
    let worker = program.worker();
    frontd.kill();
    program.expect_dead();
    program.expect_sent_away();
    expect_gone(worker);
    eventually("the channel is gone", || world.channels() == 0);
    drop(program);
    world.expect_no_grants(guest, false);
    let _frontd = world.start_frontd(guest);
    world.program(guest).expect_alive();
}

fn a_frontd_that_is_stopped_leaves_nothing() {
    let world = World::new();
    let guest = world.guest("guest");
    let frontd = world.start_frontd(guest);
    let program = world.program(guest);
    let worker = program.worker();
    frontd.stop();
    assert!(!world.socket(guest).exists());
    assert_eq!(world.states(device(guest)).0, State::Closed);
    program.expect_dead();
    expect_gone(worker);
    drop(program);
    world.expect_no_grants(guest, false);
    let _frontd = world.start_frontd(guest);
    world.program(guest).expect_alive();
}

fn a_backd_that_is_killed_or_stopped_is_replaced() {
    let mut world = World::new();
    let guest = world.guest("guest");
    let _frontd = world.start_frontd(guest);
    for kill in [true, false] {
        let program = world.program(guest);
        let worker = program.worker();
        let backd = world.backd();
        if kill {
            backd.kill();
        } else {
            backd.stop();
            assert!(!world.path("run/backd.sock").exists());
        }
        program.expect_dead();
        program.expect_sent_away();
        expect_gone(worker);
        drop(program);
        world.start_backd();
        world.program(guest).expect_alive();
    }
    eventually("the channels are gone", || world.channels() == 0);
    world.expect_no_grants(guest, true);
}

fn a_domain_that_is_destroyed_leaves_nothing() {
    let world = World::new();
    let (guest, other) = (world.guest("guest"), world.guest("other"));
    let mut frontd = world.start_frontd(guest);
    let _others = world.start_frontd(other);
    let (program, bystander) = (world.program(guest), world.program(other));
    let worker = program.worker();
    world.toolstack.destroy(guest).unwrap();
    program.expect_dead();
    expect_gone(worker);
    eventually("frontd ends with its domain", || frontd.ended());
    eventually("the device is gone", || world.list().devices.len() == 1);
    world.expect_no_nodes(device(guest));
    bystander.expect_alive();
}

fn a_domain_that_reboots_has_its_device_again() {
    let world = World::new();
    let before = world.guest("guest");
    let old = world.start_frontd(before);
    let program = world.program(before);
    let worker = program.worker();
    let after = world.toolstack.reboot(before).unwrap();
    assert_ne!(before, after);
    program.expect_dead();
    expect_gone(worker);
    drop(old);
    let _frontd = world.start_frontd(after);
    world.program(after).expect_alive();
    world.expect_no_nodes(device(before));
    let listing = world.list();
    assert_eq!(
        listing.devices.iter().map(|d| d.domid).collect::<Vec<_>>(),
        [after.0]
    );
}

/// What xl-vgpu does, on a running guest.
fn a_device_comes_and_goes_by_hand() {
    let world = World::new();
    let guest = world.toolstack.create("guest").unwrap();
    let _frontd = world.start_frontd(guest);
    let refused = Program::start(&world.socket(guest)).err().unwrap();
    assert!(refused.contains("xl-vgpu attach"), "{refused}");
    let store = world.open(DomId(0)).store().unwrap();
    for _ in 0..2 {
        assert_eq!(
            keys::create_device(&store, device(guest), "guest").unwrap(),
            keys::Created::New
        );
        assert_eq!(
            keys::create_device(&store, device(guest), "guest").unwrap(),
            keys::Created::Already
        );
        let program = world.program(guest);
        let worker = program.worker();
        assert!(keys::retire_device(&store, device(guest)).unwrap());
        program.expect_sent_away();
        program.expect_dead();
        expect_gone(worker);
        world.expect_no_nodes(device(guest));
        assert!(!keys::retire_device(&store, device(guest)).unwrap());
        eventually("the device is gone", || world.list().devices.is_empty());
        drop(program);
        world.expect_no_grants(guest, false);
    }
    // By force: the nodes are pulled away under both ends, whatever they are at.
    for _ in 0..5 {
        keys::create_device(&store, device(guest), "guest").unwrap();
        let program = world.program(guest);
        keys::remove_device(&store, device(guest)).unwrap();
        program.expect_sent_away();
        program.expect_dead();
        keys::create_device(&store, device(guest), "guest").unwrap();
        keys::remove_device(&store, device(guest)).unwrap();
        eventually("the device is gone", || world.list().devices.is_empty());
        world.expect_no_nodes(device(guest));
    }
    assert!(matches!(
        keys::create_device(&store, device(DomId(77)), "none"),
        Err(keys::DeviceError::NoDomain(DomId(77)))
    ));
}

fn regions_come_and_go() {
    let world = World::with(&["--max-pages", "600"]);
    let guest = world.guest("guest");
    let _frontd = world.start_frontd(guest);
    let program = world.program(guest);
    let add = |bytes| {
        ask(
            &program.socket,
            &FromProgram::AddRegion(AddRegion { bytes }),
        )
        .unwrap()
    };
    let remove = |region| {
        ask(
            &program.socket,
            &FromProgram::RemoveRegion(RemoveRegion { region }),
        )
        .unwrap()
        .0
    };
    for round in 1..4 {
        let (FromFrontd::RegionAdded(added), fds) = add(5000) else {
            panic!()
        };
        let extents = packet::take_extents(&added.memory, &fds).unwrap();
        let mapping = Mapping::from_extents(&extents, Access::ReadWrite).unwrap();
        assert_eq!(mapping.len(), 2 * PAGE_SIZE);
        // SAFETY: two pages are mapped; the other side only reads.
        unsafe { mapping.as_ptr().as_ptr().write_volatile(round) };
        assert_eq!(program.call(b"region").unwrap(), [round]);
        assert!(
            matches!(remove(added.region), FromFrontd::RegionRemoved(r) if r.region == added.region)
        );
        assert!(reason(remove(added.region)).contains("no region"));
    }
    for (bytes, expected) in [
        (0, "no pages"),
        (600 * PAGE_SIZE as u64, "--max-pages"),
        (GRANT_LIMIT as u64 * PAGE_SIZE as u64, "--grant-limit"),
        (u64::MAX, "limit"),
    ] {
        let text = reason(add(bytes).0);
        assert!(text.contains(expected) || bytes == 0, "{bytes}: {text}");
    }
    program.expect_alive();
    // One that is still there goes with its channel.
    let (FromFrontd::RegionAdded(_), _) = add(5000) else {
        panic!()
    };
    drop(program);
    eventually("the channel is gone", || world.channels() == 0);
    world.expect_no_grants(guest, true);
}

fn refusals_say_why() {
    let mut world = World::with(&["--max-channels", "1"]);
    let guest = world.guest("guest");
    let _frontd = world.start_frontd(guest);
    let first = world.program(guest);
    let refused = Program::start(&world.socket(guest)).err().unwrap();
    assert!(refused.contains("--max-channels"), "{refused}");
    first.expect_alive();
    drop(first);

    let stranger = dial(&world.socket(guest)).unwrap();
    let hello = FromProgram::Hello(Hello {
        magic: MAGIC,
        version: PROTOCOL_VERSION + 1,
    });
    assert!(reason(ask(&stranger, &hello).unwrap().0).contains("same release"));
    let early = FromProgram::AddRegion(AddRegion { bytes: 1 });
    assert!(reason(ask(&stranger, &early).unwrap().0).contains("Hello"));
    rustix::net::send(&stranger, b"nonsense", rustix::net::SendFlags::empty()).unwrap();
    assert!(matches!(
        packet::receive::<FromFrontd>(&stranger),
        Err(PacketError::Closed)
    ));

    world.backd().stop();
    world.options = vec!["--driver".into(), "broken".into()];
    world.start_backd();
    let mut refused = String::new();
    eventually("the worker says why", || {
        refused = Program::start(&world.socket(guest)).err().unwrap();
        refused.contains("the driver broken does not start")
    });
    world.expect_no_grants(guest, true);
}

/// The arena shrinks where a domain may not grant as much; then there is an error that says what to do.
fn programs_share_what_a_domain_may_grant() {
    let world = World::new();
    let guest = world.guest("guest");
    let _frontd = world.start_frontd(guest);
    let mut programs = vec![world.program(guest)];
    let refused = loop {
        match Program::start(&world.socket(guest)) {
            Ok(program) => programs.push(program),
            Err(refused) => break refused,
        }
    };
    assert!(programs.len() >= 7, "{}", programs.len());
    assert!(
        refused.contains("--grant-limit") || refused.contains("--programs-per-user"),
        "{refused}"
    );
    assert!(
        programs
            .iter()
            .any(|program| program.front.layout().arena_bytes < ARENA)
    );
    programs.iter().for_each(Program::expect_alive);
    drop(programs);
    world.expect_no_grants(guest, true);
}

/// A guest whose nodes are nonsense, beside one that is served.
struct Hostile {
    world: World,
    guest: DomId,
    platform: Arc<dyn Platform>,
    store: Store,
    bystander: Program,
    _frontd: Process,
}

impl Hostile {
    fn new() -> Hostile {
        let world = World::new();
        let (guest, other) = (world.guest("guest"), world.guest("other"));
        let frontd = world.start_frontd(other);
        let bystander = world.program(other);
        eventually("the device is offered", || {
            world.states(device(guest)).1 == State::InitWait
        });
        let platform = world.open(guest);
        let store = platform.store().unwrap();
        Hostile {
            world,
            guest,
            platform,
            store,
            bystander,
            _frontd: frontd,
        }
    }

    fn write(&self, key: &str, value: impl AsRef<[u8]>) {
        self.store
            .write(&format!("device/vgpu/0/{key}"), value)
            .unwrap();
    }

    fn backend(&self) -> State {
        self.world.states(device(self.guest)).1
    }

    /// Behaves for once, and is offered its device again.
    fn settle(&self) {
        self.write("state", "6");
        eventually("the backend has closed", || {
            matches!(self.backend(), State::InitWait | State::Closed)
        });
        self.write("state", "1");
        eventually("the device is offered", || {
            self.backend() == State::InitWait
        });
        self.bystander.expect_alive();
    }
}

fn nonsense_in_xenstore_hurts_nobody() {
    let hostile = Hostile::new();
    for state in [
        &b""[..],
        b"0",
        b"99",
        b"\xff\xfe",
        b"7",
        b"8",
        b"4",
        b"5",
        b"3",
        b"2",
    ] {
        hostile.write("state", state);
    }
    hostile.settle();
    let good = [
        ("version", "1"),
        ("protocol", "x86_64-abi"),
        ("ring-ref", "8"),
        ("event-channel", "1"),
    ];
    for bad in 0..good.len() {
        for (at, (key, value)) in good.iter().enumerate() {
            hostile.write(
                key,
                if at == bad {
                    b"\xff-1"
                } else {
                    value.as_bytes()
                },
            );
        }
        hostile.write("state", "3");
        eventually("the backend refuses", || {
            matches!(hostile.backend(), State::Closing | State::Closed)
        });
        hostile.settle();
    }
    let error = hostile
        .world
        .open(DomId(0))
        .store()
        .unwrap()
        .read(&device(hostile.guest).backend_error());
    assert!(error.unwrap().unwrap().contains("event-channel"));
}

/// A control ring that is right, and what is said on it is not.
fn nonsense_on_the_control_ring_hurts_nobody() {
    let hostile = Hostile::new();
    let platform = &hostile.platform;
    type Attack<'a> = (&'a str, Box<dyn Fn(&Front, &GrantList) + 'a>);
    let open = |list: u32, pages: u32, port: u32| {
        Request::OpenChannel(OpenChannel {
            channel: 1,
            list,
            pages,
            event_port: port,
            sq_bytes: 4096,
            cq_bytes: 4096,
            arena_bytes: pages.wrapping_sub(3).wrapping_mul(4096),
            uid: 0,
            pid: 0,
            name: Bytes(b"\x1b[2Jevil".to_vec()),
        })
    };
    let refused = |front: &Front, request: &Request| {
        let ticket = front.submit(&[&request.encode()], true).unwrap();
        Answer::decode(&front.wait(ticket).unwrap())
            .unwrap()
            .result()
            .unwrap_err()
            .0
    };
    let attacks: [Attack<'_>; 3] = [
        (
            "garbage",
            Box::new(|front, _| drop(front.submit(&[b"\xff\xff\xff"], true))),
        ),
        (
            "no answer wanted",
            Box::new(|front, _| drop(front.submit(&[&open(8, 3, 1).encode()], false))),
        ),
        (
            "wrong numbers",
            Box::new(|front, list| {
                let right = list.gref().0;
                for (request, expected) in [
                    (open(right, 0, 1), Status::Invalid),
                    (open(right, u32::MAX, 1), Status::Invalid),
                    (open(right, 4, 1), Status::NotGranted),
                    (open(u32::MAX, 3, 1), Status::NotGranted),
                    (open(right, 3, u32::MAX), Status::NotGranted),
                    (
                        Request::AddRegion(control::AddRegion {
                            channel: 9,
                            region: 1,
                            list: right,
                            pages: 1,
                        }),
                        Status::Invalid,
                    ),
                    (
                        Request::RemoveRegion(control::RemoveRegion {
                            channel: 1,
                            region: 1,
                        }),
                        Status::Invalid,
                    ),
                ] {
                    assert_eq!(refused(front, &request), expected, "{request:?}");
                }
                front.close(7).unwrap();
            }),
        ),
    ];
    for (what, attack) in &attacks {
        let pages = platform.grant(DomId(0), 3, Access::ReadWrite).unwrap();
        let list = GrantList::new(&**platform, DomId(0), pages.grefs()).unwrap();
        let bell = Arc::new(Bell(platform.bind_unbound(DomId(0)).unwrap()));
        let memory = shared_memory(pages.mmap().unwrap());
        let front = Front::new(memory, control::LAYOUT, bell.clone(), SpinPolicy::NEVER).unwrap();
        hostile.write("version", "1");
        hostile.write("protocol", "x86_64-abi");
        hostile.write("ring-ref", list.gref().to_string());
        hostile.write("event-channel", bell.0.port().to_string());
        hostile.write("state", "3");
        eventually("the backend connects", || {
            hostile.backend() == State::Connected
        });
        attack(&front, &list);
        eventually(what, || hostile.backend() != State::Connected);
        drop((front, list, pages));
        hostile.settle();
    }
    hostile.world.expect_no_grants(hostile.guest, false);
    assert_eq!(hostile.world.channels(), 1);
}

fn run_tests() -> ExitCode {
    let tests: &[(&str, fn())] = &[
        (
            "a_domain_with_a_file_gets_its_device",
            a_domain_with_a_file_gets_its_device,
        ),
        (
            "a_program_that_dies_leaves_nothing",
            a_program_that_dies_leaves_nothing,
        ),
        (
            "a_worker_that_dies_ends_its_program_alone",
            a_worker_that_dies_ends_its_program_alone,
        ),
        (
            "a_worker_that_hangs_is_killed",
            a_worker_that_hangs_is_killed,
        ),
        (
            "a_frontd_that_is_killed_leaves_nothing",
            a_frontd_that_is_killed_leaves_nothing,
        ),
        (
            "a_frontd_that_is_stopped_leaves_nothing",
            a_frontd_that_is_stopped_leaves_nothing,
        ),
        (
            "a_backd_that_is_killed_or_stopped_is_replaced",
            a_backd_that_is_killed_or_stopped_is_replaced,
        ),
        (
            "a_domain_that_is_destroyed_leaves_nothing",
            a_domain_that_is_destroyed_leaves_nothing,
        ),
        (
            "a_domain_that_reboots_has_its_device_again",
            a_domain_that_reboots_has_its_device_again,
        ),
        (
            "a_device_comes_and_goes_by_hand",
            a_device_comes_and_goes_by_hand,
        ),
        ("regions_come_and_go", regions_come_and_go),
        ("refusals_say_why", refusals_say_why),
        (
            "programs_share_what_a_domain_may_grant",
            programs_share_what_a_domain_may_grant,
        ),
        (
            "nonsense_in_xenstore_hurts_nobody",
            nonsense_in_xenstore_hurts_nobody,
        ),
        (
            "nonsense_on_the_control_ring_hurts_nobody",
            nonsense_on_the_control_ring_hurts_nobody,
        ),
    ];
    // As the usual harness: any argument without dashes is a part of the names wanted.
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut failed = 0;
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let start = Instant::now();
        let passed = std::panic::catch_unwind(test).is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {verdict} ({:.1} s)",
            start.elapsed().as_secs_f32()
        );
        failed += usize::from(!passed);
    }
    println!("{failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
