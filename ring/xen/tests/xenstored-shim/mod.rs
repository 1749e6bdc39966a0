//! Debian's real C xenstored, run without a hypervisor: `shim.c` preloaded, guests on real ring pages.

mod tools;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tempfile::TempDir;
use xen::{DomId, Store};

use tools::{command, tool};

/// The shim as a library, compiled once per test program.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SHIM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("shim.so");
        let output = Command::new("cc")
            .args([
                "-shared",
                "-fPIC",
                "-O1",
                "-Wall",
                "-Wno-unused-parameter",
                "-o",
            ])
            .arg(&library)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xenstored-shim/shim.c"))
            .arg("-I")
            .arg(tool("usr/include/xenctrl.h").parent().unwrap())
            .output()
            .expect("the C compiler cc could not be run: install gcc");
        assert!(
            output.status.success(),
            "shim.c did not compile:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        (folder, library)
    });
    path
}

/// A running xenstored with dom0 on its socket.
pub struct Xenstored {
    folder: TempDir,
    process: Mutex<Child>,
    guests: Mutex<Vec<(DomId, Guest)>>,
    next: AtomicU32,
}

impl Xenstored {
    pub fn start() -> Xenstored {
        let folder = tempfile::tempdir().unwrap();
        let (run, lib) = (folder.path().join("run"), folder.path().join("lib"));
        fs::create_dir(&run).unwrap();
        fs::create_dir(&lib).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let process = command("usr/lib/xen-4.17/bin/xenstored")
            .args(["--no-fork", "--internal-db"])
            .env("LD_PRELOAD", shim())
            .env("XEN_SHIM_DIR", folder.path())
            .env("XENSTORED_RUNDIR", &run)
            .env("XENSTORED_ROOTDIR", &lib)
            .env("XENSTORED_PATH", run.join("socket"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Xenstored {
            folder,
            process: Mutex::new(process),
            guests: Mutex::default(),
            next: AtomicU32::new(1),
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(server.socket()).is_err() {
            let log = || fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
            let ended = server.process.lock().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "xenstored ended at once ({ended:?}):\n{}",
                log()
            );
            assert!(
                Instant::now() < deadline,
                "xenstored does not listen:\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// dom0's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("run/socket")
    }

    /// The hypervisor's part in creating a domain.
    pub fn create(&self) -> DomId {
        let domid = DomId(self.next.fetch_add(1, Ordering::Relaxed) as u16);
        self.guests
            .lock()
            .unwrap()
            .push((domid, Guest::new(self.folder.path(), domid)));
        domid
    }

    /// A connection of this domain through its ring; one per domain.
    pub fn guest(&self, domid: DomId) -> Store {
        Store::connect(&self.folder.path().join(format!("dom{domid}.socket"))).unwrap()
    }

    /// The hypervisor's part in a domain's end.
    pub fn destroy(&self, domid: DomId) {
        fs::remove_file(self.folder.path().join(format!("dom{domid}.ring"))).unwrap();
        signal(self.folder.path(), 1);
        self.guests.lock().unwrap().retain(|(id, _)| *id != domid);
    }

    /// Ends the server as a crash would.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for Xenstored {
    fn drop(&mut self) {
        self.guests.lock().unwrap().clear();
        let mut process = self.process.lock().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// Raises an event in xenstored.
fn signal(folder: &Path, port: u32) {
    let socket = UnixDatagram::unbound().unwrap();
    // A server that is gone cannot be signalled.
    let _ = socket.send_to(&port.to_le_bytes(), folder.join("events"));
}

/// A guest's kernel as far as XenStore knows it: carries bytes between a socket and the ring page.
struct Guest {
    stop: Arc<AtomicBool>,
    events: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    fn new(folder: &Path, domid: DomId) -> Guest {
        let path = folder.join(format!("dom{domid}.ring"));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.set_len(4096).unwrap();
        let ring = Ring::new(&file);
        let listener = UnixListener::bind(folder.join(format!("dom{domid}.socket"))).unwrap();
        let events = folder.join(format!("dom{domid}.events"));
        let signals = UnixDatagram::bind(&events).unwrap();
        signals.set_nonblocking(true).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let port = 16 + u32::from(domid.0);
        let carrier = Carrier {
            folder: folder.to_path_buf(),
            port,
            ring,
            signals,
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::spawn(move || carrier.run(&listener));
        Guest {
            stop,
            events,
            thread: Some(thread),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = UnixDatagram::unbound().unwrap().send_to(b"!", &self.events);
        let ended = self.thread.take().unwrap().join();
        assert!(
            ended.is_ok() || std::thread::panicking(),
            "a guest's ring failed"
        );
    }
}

struct Carrier {
    folder: PathBuf,
    port: u32,
    ring: Ring,
    signals: UnixDatagram,
    stop: Arc<AtomicBool>,
}

impl Carrier {
    /// Carries for one client after the other until stopped.
    fn run(&self, listener: &UnixListener) {
        loop {
            self.wait(PollFd::new(listener, PollFlags::IN));
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if let Ok((client, _)) = listener.accept() {
                client.set_nonblocking(true).unwrap();
                self.carry(&client);
            }
        }
    }

    fn wait(&self, other: PollFd<'_>) {
        // The second is a net under a signal that was dropped because its queue was full.
        let longest = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.signals, PollFlags::IN), other];
        let _ = poll(&mut fds, Some(&longest));
        while self.signals.recv(&mut [0u8; 8]).is_ok() {}
    }

    fn carry(&self, client: &UnixStream) {
        let mut from_client: Vec<u8> = Vec::new();
        let mut to_client: Vec<u8> = Vec::new();
        let mut buffer = [0u8; 4096];
        while !self.stop.load(Ordering::Acquire) {
            if from_client.is_empty() {
                match (&*client).read(&mut buffer) {
                    Ok(0) => return,
                    Ok(n) => from_client.extend_from_slice(&buffer[..n]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            let put = self.ring.put(&from_client);
            from_client.drain(..put);
            let got = self.ring.take(&mut to_client);
            if put + got > 0 {
                signal(&self.folder, self.port);
            }
            match (&*client).write(&to_client) {
                Ok(n) => drop(to_client.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            if put + got == 0 {
                let mut events = PollFlags::empty();
                events.set(PollFlags::IN, from_client.is_empty());
                events.set(PollFlags::OUT, !to_client.is_empty());
                self.wait(PollFd::new(client, events));
            }
        }
    }
}

/// `struct xenstore_domain_interface`: two rings of 1 KiB with free-running indices.
struct Ring(*mut u8);

// SAFETY: the page is only ever accessed through atomics, from any thread.
unsafe impl Send for Ring {}

const RING: usize = 1024;
const REQ: usize = 0;
const RSP: usize = 1024;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;

impl Ring {
    fn new(file: &File) -> Ring {
        // SAFETY: a new mapping of a file of 4096 bytes, unmapped only when the ring is dropped.
        let page = unsafe {
            mmap(
                std::ptr::null_mut(),
                4096,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        };
        Ring(page.unwrap().cast())
    }

    fn index(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < 4096);
        // SAFETY: aligned and within the page, which lives as long as self; the peer uses it as 32-bit words, too.
        unsafe { AtomicU32::from_ptr(self.0.add(offset).cast()) }
    }

    fn byte(&self, base: usize, at: u32) -> &AtomicU8 {
        // SAFETY: base is 0 or 1024, so this is within the page, which lives as long as self.
        unsafe { AtomicU8::from_ptr(self.0.add(base + at as usize % RING)) }
    }

    /// Puts as many bytes as there is room for into the request ring.
    fn put(&self, bytes: &[u8]) -> usize {
        let (cons, prod) = (
            self.index(REQ_CONS).load(Ordering::Acquire),
            self.index(REQ_PROD).load(Ordering::Relaxed),
        );
        let room = RING - prod.wrapping_sub(cons) as usize;
        let count = bytes.len().min(room);
        for (i, byte) in bytes[..count].iter().enumerate() {
            self.byte(REQ, prod.wrapping_add(i as u32))
                .store(*byte, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.index(REQ_PROD)
            .store(prod.wrapping_add(count as u32), Ordering::Release);
        count
    }

    /// Takes what is in the response ring.
    fn take(&self, bytes: &mut Vec<u8>) -> usize {
        let (cons, prod) = (
            self.index(RSP_CONS).load(Ordering::Relaxed),
            self.index(RSP_PROD).load(Ordering::Acquire),
        );
        let count = prod.wrapping_sub(cons);
        for i in 0..count {
            bytes.push(self.byte(RSP, cons.wrapping_add(i)).load(Ordering::Relaxed));
        }
        fence(Ordering::SeqCst);
        self.index(RSP_CONS).store(prod, Ordering::Release);
        count as usize
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by new with this size, and nothing borrows from it any more.
        unsafe { munmap(self.0.cast(), 4096) }.unwrap();
    }
}
