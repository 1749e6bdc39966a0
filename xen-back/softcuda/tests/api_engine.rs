//! The machine's engines: processes take turns, in order, and one that dies is not waited for.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod api_common;

use api_common::{Fresh, Gate, alloc, load, stamp, stream, word};
use cuda_abi::CuResult;
use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const ROLE: &str = "SOFTCUDA_TEST_ROLE";
const FOLDER: &str = "SOFTCUDA_TEST_FOLDER";

/// Another process, that runs this test in a role.
struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Peer {
    fn start(test: &str, role: &str, folder: &Path, devices: &str) -> Peer {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .env("SOFTCUDA_ENGINE", folder.join("engines"))
            .env("SOFTCUDA_DEVICES", devices)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Peer {
            to: child.stdin.take().unwrap(),
            from: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Waits until it says this.
    fn hear(&mut self, word: &str) {
        let mut line = String::new();
        while self.from.read_line(&mut line).unwrap() > 0 {
            if let Some((_, said)) = line.trim_end().split_once('@') {
                assert_eq!(said, word);
                return;
            }
            line.clear();
        }
        panic!("a process ended before it said {word:?}");
    }

    fn say(&mut self, word: &str) {
        writeln!(self.to, "{word}").unwrap();
    }

    fn finish(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

/// The calling process's role, if it is a peer.
fn role() -> Option<String> {
    let role = std::env::var(ROLE).ok()?;
    // A peer that fails ends at once: its contexts would wait for the engine that another holds.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::exit(101);
    }));
    Some(role)
}

/// Says something to the process that started this one.
fn say(word: &str) {
    println!("\n@{word}");
}

/// Waits until that process says this.
fn hear(word: &str) {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), word);
}

/// A word that kernels of all processes of a test share.
fn shared_word() -> u64 {
    let path = Path::new(&std::env::var(FOLDER).unwrap()).join("word");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false);
    let file = file.open(path).unwrap();
    file.set_len(4096).unwrap();
    // SAFETY: a new mapping of a page that the file has.
    let page = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let none = std::ptr::null_mut();
        libc::mmap(none, 4096, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    ok!(cuMemHostRegister_v2(page, 4096, 2));
    let mut address = 0;
    ok!(cuMemHostGetDevicePointer_v2(&mut address, page, 0));
    address
}

/// A peer that holds the compute engine until it is told to let go.
fn hold() {
    let _context = Fresh::new();
    let gate = Gate::new(load());
    gate.wait_in(stream(1));
    gate.entered();
    say("queued");
    hear("go");
    gate.open();
    ok!(cuCtxSynchronize());
    say("done");
}

/// A peer that runs one kernel and tells its number.
fn one_kernel() {
    let _context = Fresh::new();
    let module = load();
    let (counter, out) = (shared_word(), alloc(4));
    ok!(cuCtxSynchronize());
    let own = stream(1);
    stamp(module, own, counter, out);
    say("queued");
    hear("go");
    ok!(cuStreamSynchronize(own));
    let number = word(out);
    say(&format!("number {number}"));
}

#[test]
fn kernels_of_all_processes_run_in_the_order_they_became_ready() {
    const TEST: &str = "kernels_of_all_processes_run_in_the_order_they_became_ready";
    match role().as_deref() {
        Some("holder") => return hold(),
        Some(_) => return one_kernel(),
        None => {}
    }
    let folder = tempfile::tempdir().unwrap();
    let mut holder = Peer::start(TEST, "holder", folder.path(), "1");
    holder.hear("queued");
    let mut peers = Vec::new();
    for name in ["first", "second", "third"] {
        let mut peer = Peer::start(TEST, name, folder.path(), "1");
        peer.hear("queued");
        peers.push(peer);
    }
    // Whoever waits for its kernel first does not get the engine first.
    for peer in peers.iter_mut().rev() {
        peer.say("go");
    }
    holder.say("go");
    holder.hear("done");
    for (number, mut peer) in peers.into_iter().enumerate() {
        peer.hear(&format!("number {number}"));
        peer.finish();
    }
    holder.finish();
}

/// A peer whose kernel waits while its copies do not.
fn kernel_waits_and_copies_do_not() {
    let _context = Fresh::new();
    let module = load();
    let (counter, out, aside) = (alloc(4), alloc(4), alloc(4));
    ok!(cuCtxSynchronize());
    let (kernels, copies) = (stream(1), stream(1));
    stamp(module, kernels, counter, out);
    ok!(cuMemsetD32Async(aside, 9, 1, copies));
    let mut read = 0u32;
    ok!(cuMemcpyDtoHAsync_v2(
        (&raw mut read).cast::<c_void>(),
        aside,
        4,
        copies
    ));
    ok!(cuStreamSynchronize(copies));
    assert_eq!(read, 9);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(cu!(cuStreamQuery(kernels)), CuResult::NOT_READY);
    say("waits");
    ok!(cuStreamSynchronize(kernels));
    say("done");
}

#[test]
fn copies_run_beside_another_processs_kernel() {
    const TEST: &str = "copies_run_beside_another_processs_kernel";
    match role().as_deref() {
        Some("holder") => return hold(),
        Some(_) => return kernel_waits_and_copies_do_not(),
        None => {}
    }
    let folder = tempfile::tempdir().unwrap();
    let mut holder = Peer::start(TEST, "holder", folder.path(), "1");
    holder.hear("queued");
    let mut other = Peer::start(TEST, "other", folder.path(), "1");
    other.hear("waits");
    holder.say("go");
    holder.hear("done");
    other.hear("done");
    holder.finish();
    other.finish();
}

#[test]
fn a_killed_process_frees_the_engine() {
    const TEST: &str = "a_killed_process_frees_the_engine";
    match role().as_deref() {
        Some("holder") => return hold(),
        Some("waiter") => return one_kernel(),
        Some(_) => return kernel_waits_and_copies_do_not(),
        None => {}
    }
    let folder = tempfile::tempdir().unwrap();
    let mut holder = Peer::start(TEST, "holder", folder.path(), "1");
    holder.hear("queued");
    // One that dies in line is not waited for either.
    let mut waiter = Peer::start(TEST, "waiter", folder.path(), "1");
    waiter.hear("queued");
    let mut other = Peer::start(TEST, "other", folder.path(), "1");
    other.hear("waits");
    waiter.child.kill().unwrap();
    waiter.child.wait().unwrap();
    holder.child.kill().unwrap();
    holder.child.wait().unwrap();
    other.hear("done");
    other.finish();
}

/// A peer that uses both devices while another process holds the first one's compute engine.
fn second_device_is_free() {
    let _first = Fresh::new();
    let module = load();
    let (counter, out) = (alloc(4), alloc(4));
    ok!(cuCtxSynchronize());
    let held = stream(1);
    stamp(module, held, counter, out);
    let mut second = std::ptr::null_mut();
    ok!(cuCtxCreate_v2(&mut second, 0, 1));
    let module = load();
    let (counter, out) = (alloc(4), alloc(4));
    ok!(cuCtxSynchronize());
    let free = stream(1);
    stamp(module, free, counter, out);
    ok!(cuStreamSynchronize(free));
    assert_eq!(word(counter), 1);
    assert_eq!(cu!(cuStreamQuery(held)), CuResult::NOT_READY);
    say("waits");
    ok!(cuStreamSynchronize(held));
    ok!(cuCtxDestroy_v2(second));
    say("done");
}

#[test]
fn devices_have_engines_of_their_own() {
    const TEST: &str = "devices_have_engines_of_their_own";
    match role().as_deref() {
        Some("holder") => return hold(),
        Some(_) => return second_device_is_free(),
        None => {}
    }
    let folder = tempfile::tempdir().unwrap();
    let mut holder = Peer::start(TEST, "holder", folder.path(), "2");
    holder.hear("queued");
    let mut other = Peer::start(TEST, "other", folder.path(), "2");
    other.hear("waits");
    holder.say("go");
    holder.hear("done");
    other.hear("done");
    holder.finish();
    other.finish();
}

#[test]
fn a_file_that_is_none_of_ours_fails_cu_init() {
    const TEST: &str = "a_file_that_is_none_of_ours_fails_cu_init";
    if role().is_some() {
        assert_eq!(cu!(cuInit(0)), CuResult::SYSTEM_NOT_READY);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("engines"), "mine").unwrap();
    Peer::start(TEST, "any", folder.path(), "1").finish();
    assert_eq!(
        std::fs::read(folder.path().join("engines")).unwrap(),
        b"mine"
    );
}
