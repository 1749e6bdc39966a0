//! Whose turn it is on the machine's engines: a file in shared memory in which every process that uses
//! softcuda queues for each engine, so that kernels of all processes run one after the other, in the
//! order they became ready. A process that dies leaves the queue at once. Must never believe the file:
//! whatever another process writes there costs at most order and time, never memory or the process.
//!
//! How: a process has a *slot*. For each engine the slot holds the *ticket* of the process's oldest ready
//! task (tickets are drawn from one counter), and the engine has an *owner*, a slot. A process becomes
//! the owner, by compare-and-swap, when nobody owns the engine and no live slot has an older ticket; who
//! gives the engine up wakes the slot with the oldest ticket. Three things of the kernel's carry it:
//!
//! - a lock on a byte of the file per slot (open file description lock) says whose slot it is, and is
//!   gone when the process is, whatever the file's content says;
//! - a robust futex in the slot, held by a thread that lives as long as the process, is marked by the
//!   kernel when the process dies, and wakes one who waits for that process;
//! - `futex_waitv` waits for one's turn and for the death of whoever is in front, both.

use rustix::thread::futex::{self, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::{ClockId, Timespec};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Error, ErrorKind};
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Engines in the file: three of each of 16 devices.
pub const ENGINES: usize = 48;
/// Processes that can use the machine's devices at a time.
const PROCESSES: usize = 256;
/// What the file begins with; the digit is the layout's version.
const MAGIC: [u8; 8] = *b"softcud1";
/// After this long in the same place, whoever is in front is looked at: does it live, does it know
/// that it is its turn? One that does not take its turn in that time loses it.
const PATIENCE: Duration = Duration::from_millis(500);
/// Where the kernel has no `futex_waitv` (before Linux 5.16), deaths are not heard of: this often one
/// looks whether whoever is in front lives.
const BLIND: Duration = Duration::from_millis(2);
/// Where the slots' locks lie, a byte each, and before them the lock of whoever sets the file up.
const LOCKS: i64 = 1 << 20;
/// Attempts, 10 ms apart, to get that lock: it is held for microseconds.
const SETUP_ATTEMPTS: u32 = 200;

/// Bit of a robust futex: its owner died (`FUTEX_OWNER_DIED`).
const DIED: u32 = 0x4000_0000;
/// Bit of a robust futex: somebody waits, so the kernel must wake one (`FUTEX_WAITERS`).
const WAITERS: u32 = 0x8000_0000;

/// Why the machine's engines cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TurnsError {
    /// The file cannot be opened or set up.
    #[error(
        "the engines' file {path}: {source}; remove the file, name another with SOFTCUDA_ENGINE, or set SOFTCUDA_ENGINE=off for engines of this process alone"
    )]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: Error,
    },
    /// It holds something else.
    #[error(
        "{0} exists and is no engines' file of this version of softcuda: remove it, or name another with SOFTCUDA_ENGINE"
    )]
    Foreign(PathBuf),
    /// As many processes as there can be.
    #[error(
        "{PROCESSES} processes use the engines' file {0} already: end some, or name another with SOFTCUDA_ENGINE"
    )]
    Full(PathBuf),
}

/// What the file holds. All zeros but for the magic is its initial state.
#[repr(C)]
struct Shared {
    magic: AtomicU64,
    /// The last ticket drawn.
    tickets: AtomicU64,
    /// Slots up to the last one that was ever used.
    used: AtomicU32,
    /// Per engine: the slot that runs something there, plus 1; 0 for none.
    owners: [AtomicU32; ENGINES],
    slots: [Slot; PROCESSES],
}

/// A process's place in the file.
#[repr(C, align(64))]
struct Slot {
    presence: Presence,
    /// A futex that the process's own thread sleeps on: raised by others to have it check what it owns.
    poke: AtomicU32,
    /// Per engine, a futex that is raised when it is this process's turn.
    calls: [AtomicU32; ENGINES],
    /// Per engine, the ticket of the process's oldest ready task; 0 for none.
    places: [AtomicU64; ENGINES],
}

/// An entry of a robust list, as the kernel reads it.
#[repr(C)]
struct Presence {
    next: AtomicU64,
    /// Thread id of the slot's owner, with `DIED` and `WAITERS`.
    thread: AtomicU32,
}

/// `struct robust_list_head`.
#[repr(C)]
struct RobustHead {
    first: u64,
    /// From an entry to its futex, in bytes.
    offset: i64,
    pending: u64,
}

/// This process's part in the machine's engines.
pub struct Turns {
    shared: NonNull<Shared>,
    me: usize,
    file: File,
    /// Per engine, whether this process took it: what the file says about that may be wrong.
    holding: [AtomicBool; ENGINES],
    /// Whether the kernel has `futex_waitv`.
    waits_for_two: AtomicBool,
}

// SAFETY: the mapping lives as long as the process and is only used through atomics.
unsafe impl Send for Turns {}
// SAFETY: as for Send.
unsafe impl Sync for Turns {}

/// Who is in front of a process in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    /// This slot runs something.
    Runs(usize),
    /// This slot has an older ticket, which is given.
    Ahead(usize, u64),
    /// Somebody was quicker just now.
    Again,
}

impl Turns {
    /// Takes a slot in the file, making the file if need be, and starts the thread that stands for this
    /// process. To be called once in a process.
    ///
    /// # Errors
    /// [`TurnsError`]
    pub fn join(path: &Path) -> Result<&'static Turns, TurnsError> {
        let fail = |source| TurnsError::File {
            path: path.to_owned(),
            source,
        };
        let file = open(path).map_err(fail)?;
        set_up(&file, path)?;
        let shared = map(&file).map_err(fail)?;
        survive_truncation(shared).map_err(fail)?;
        let me = (0..PROCESSES)
            .find(|slot| lock(&file, slot_lock(*slot)))
            .ok_or_else(|| TurnsError::Full(path.to_owned()))?;
        let turns: &'static Turns = Box::leak(Box::new(Turns {
            shared,
            me,
            file,
            holding: [const { AtomicBool::new(false) }; ENGINES],
            waits_for_two: AtomicBool::new(true),
        }));
        turns.clear(me);
        turns
            .shared()
            .used
            .fetch_max(me as u32 + 1, Ordering::SeqCst);
        let (present, wait) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name("softcuda turns".to_owned())
            .stack_size(64 << 10)
            .spawn(move || turns.stand(|| present.send(()).is_ok()))
            .map_err(fail)?;
        // The thread only ends with the process; were it gone, others would take this process for dead.
        let _ = wait.recv();
        Ok(turns)
    }

    /// Draws a ticket: the place in the queue of a task that is ready.
    pub fn draw(&self) -> u64 {
        let drawn = self.shared().tickets.fetch_add(1, Ordering::SeqCst);
        drawn.wrapping_add(1).max(1)
    }

    /// Shows others the ticket of this process's oldest ready task for an engine.
    pub fn line_up(&self, engine: usize, ticket: u64) {
        self.slot(self.me).places[engine].store(ticket, Ordering::SeqCst);
    }

    /// Takes the engine if it is this process's turn. Costs no system call.
    pub fn try_take(&self, engine: usize, ticket: u64) -> bool {
        self.attempt(engine, ticket).is_ok()
    }

    /// Waits until it is this process's turn, and takes the engine.
    pub fn take(&self, engine: usize, ticket: u64) {
        let mut before = None;
        let mut waited = Duration::ZERO;
        loop {
            let own = &self.slot(self.me).calls[engine];
            let call = own.load(Ordering::SeqCst);
            // It may have been struck out meanwhile.
            self.line_up(engine, ticket);
            let front = match self.attempt(engine, ticket) {
                Ok(()) => return,
                Err(Front::Again) => continue,
                Err(front) => front,
            };
            let (Front::Runs(slot) | Front::Ahead(slot, _)) = front else {
                continue;
            };
            let presence = &self.slot(slot).presence.thread;
            let seen = presence.fetch_or(WAITERS, Ordering::SeqCst) | WAITERS;
            if before != Some(front) {
                (before, waited) = (Some(front), Duration::ZERO);
            }
            let slept = match alive(seen) {
                true => self.sleep((own, call), (presence, seen)),
                false => Duration::ZERO,
            };
            waited += slept;
            if !self.alive(slot) {
                // The kernel wakes one of those who wait for the dead; that may not be the next.
                self.wake(engine, self.first(engine));
            } else if waited >= PATIENCE {
                waited = Duration::ZERO;
                self.look_at(engine, front);
            } else if !slept.is_zero() {
                self.clear_if_nobodys(slot);
            }
        }
    }

    /// Ends this process's turn, or gives up its place where it had none, and shows the ticket of its
    /// next ready task, 0 for none. Answers whom to [`wake`](Turns::wake).
    pub fn leave(&self, engine: usize, next: u64, held: bool) -> Option<usize> {
        self.line_up(engine, next);
        let owner = &self.shared().owners[engine];
        if held {
            let mine = self.me as u32 + 1;
            let _ = owner.compare_exchange(mine, 0, Ordering::SeqCst, Ordering::SeqCst);
            self.holding[engine].store(false, Ordering::SeqCst);
        } else if owner.load(Ordering::SeqCst) != 0 {
            return None; // who owns it will look
        }
        self.first(engine).filter(|slot| *slot != self.me)
    }

    /// Wakes a process whose turn it is.
    pub fn wake(&self, engine: usize, slot: Option<usize>) {
        if let Some(slot) = slot {
            let call = &self.slot(slot).calls[engine];
            call.fetch_add(1, Ordering::SeqCst);
            let _ = futex::wake(call, futex::Flags::empty(), i32::MAX as u32);
        }
    }

    fn shared(&self) -> &Shared {
        // SAFETY: mapped for the process's life; every bit pattern is a valid value of its fields, all of
        // which are atomics.
        unsafe { self.shared.as_ref() }
    }

    fn slot(&self, slot: usize) -> &Slot {
        // `slot` is below PROCESSES wherever it comes from; the remainder makes that so for the compiler.
        &self.shared().slots[slot % PROCESSES]
    }

    fn alive(&self, slot: usize) -> bool {
        alive(self.slot(slot).presence.thread.load(Ordering::SeqCst))
    }

    /// The live slot with the oldest ticket for an engine.
    fn first(&self, engine: usize) -> Option<usize> {
        self.oldest(engine, |_| true).map(|(slot, _)| slot)
    }

    fn oldest(&self, engine: usize, which: impl Fn(usize) -> bool) -> Option<(usize, u64)> {
        let used = self.shared().used.load(Ordering::SeqCst) as usize;
        (0..used.min(PROCESSES))
            .map(|slot| (slot, self.slot(slot).places[engine].load(Ordering::SeqCst)))
            .filter(|(slot, ticket)| *ticket != 0 && which(*slot) && self.alive(*slot))
            .min_by_key(|(_, ticket)| *ticket)
    }

    fn attempt(&self, engine: usize, ticket: u64) -> Result<(), Front> {
        let owners = &self.shared().owners;
        let mine = self.me as u32 + 1;
        let owner = owners[engine].load(Ordering::SeqCst);
        let runs = (owner as usize).checked_sub(1).filter(|slot| {
            // Nobody, somebody who died, or what only a broken file says.
            *slot < PROCESSES && *slot != self.me && self.alive(*slot)
        });
        if let Some(slot) = runs {
            return Err(Front::Runs(slot));
        }
        let ahead = self.oldest(engine, |slot| slot != self.me);
        if let Some((slot, older)) = ahead.filter(|(_, other)| *other < ticket) {
            return Err(Front::Ahead(slot, older));
        }
        self.holding[engine].store(true, Ordering::SeqCst);
        let (all, none) = (Ordering::SeqCst, Ordering::SeqCst);
        if owners[engine]
            .compare_exchange(owner, mine, all, none)
            .is_ok()
        {
            return Ok(());
        }
        self.holding[engine].store(false, Ordering::SeqCst);
        Err(Front::Again)
    }

    /// Sleeps until either futex is raised; how long, where that was as long as it may be.
    fn sleep(&self, call: (&AtomicU32, u32), presence: (&AtomicU32, u32)) -> Duration {
        if self.waits_for_two.load(Ordering::Relaxed) {
            let entry = |(word, seen): (&AtomicU32, u32)| {
                let mut wait = Wait::new();
                wait.val = u64::from(seen);
                wait.uaddr = WaitPtr::new(word.as_ptr().cast());
                wait.flags = WaitFlags::SIZE_U32;
                wait
            };
            let now = rustix::time::clock_gettime(ClockId::Monotonic);
            let until = now.checked_add(timespec(PATIENCE));
            let both = [entry(call), entry(presence)];
            match futex::waitv(
                &both,
                WaitvFlags::empty(),
                until.as_ref(),
                ClockId::Monotonic,
            ) {
                Err(rustix::io::Errno::TIMEDOUT) => return PATIENCE,
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                    self.waits_for_two.store(false, Ordering::Relaxed);
                }
                _ => return Duration::ZERO,
            }
        }
        let limit = timespec(BLIND);
        match futex::wait(call.0, futex::Flags::empty(), call.1, Some(&limit)) {
            Err(rustix::io::Errno::TIMEDOUT) => BLIND,
            _ => Duration::ZERO,
        }
    }

    /// Finds out why whoever is in front does not go on, after `PATIENCE`.
    fn look_at(&self, engine: usize, front: Front) {
        match front {
            Front::Runs(slot) | Front::Ahead(slot, _) if self.clear_if_nobodys(slot) => {
                // Its process died unheard, or the file is broken: there may be more of that.
                for slot in (0..PROCESSES).filter(|slot| self.alive(*slot)) {
                    self.clear_if_nobodys(slot);
                }
                self.wake(engine, self.first(engine));
            }
            Front::Runs(slot) => {
                let poke = &self.slot(slot).poke;
                poke.fetch_add(1, Ordering::SeqCst);
                let _ = futex::wake(poke, futex::Flags::empty(), 1);
            }
            Front::Ahead(slot, ticket) => {
                // It is stopped, or its ticket is not its own. If it lives it lines up again.
                let place = &self.slot(slot).places[engine];
                let (all, none) = (Ordering::SeqCst, Ordering::SeqCst);
                if place.compare_exchange(ticket, 0, all, none).is_ok() {
                    self.wake(engine, self.first(engine));
                }
            }
            Front::Again => {}
        }
    }

    /// Clears a slot that no process has.
    fn clear_if_nobodys(&self, slot: usize) -> bool {
        let at = slot_lock(slot);
        let nobodys = slot != self.me && lock(&self.file, at);
        if nobodys {
            self.clear(slot);
            unlock(&self.file, at);
        }
        nobodys
    }

    /// Makes a slot whose lock this process holds nobody's.
    fn clear(&self, slot: usize) {
        self.slot(slot).presence.thread.store(0, Ordering::SeqCst);
        for place in &self.slot(slot).places {
            place.store(0, Ordering::SeqCst);
        }
        for owner in &self.shared().owners {
            let (all, none) = (Ordering::SeqCst, Ordering::SeqCst);
            let _ = owner.compare_exchange(slot as u32 + 1, 0, all, none);
        }
    }

    /// The thread that stands for this process: holds its robust futex, and gives up what the process
    /// does not know it owns.
    fn stand(&self, present: impl FnOnce() -> bool) {
        let slot = self.slot(self.me);
        let entry = &raw const slot.presence as u64;
        let head = RobustHead {
            first: entry,
            offset: (offset_of!(Presence, thread) - offset_of!(Presence, next)) as i64,
            pending: 0,
        };
        slot.presence
            .next
            .store(&raw const head as u64, Ordering::SeqCst);
        // SAFETY: the head lives on this thread's stack, which lasts until the process ends; the list is
        // this thread's own, replacing the C library's, whose robust mutexes this thread never locks.
        let id = unsafe {
            libc::syscall(
                libc::SYS_set_robust_list,
                &raw const head,
                size_of::<RobustHead>(),
            );
            libc::syscall(libc::SYS_gettid) as u32
        };
        slot.presence.thread.store(id, Ordering::SeqCst);
        present();
        loop {
            let poke = slot.poke.load(Ordering::SeqCst);
            let mine = self.me as u32 + 1;
            for (engine, owner) in self.shared().owners.iter().enumerate() {
                let wrong = owner.load(Ordering::SeqCst) == mine
                    && !self.holding[engine].load(Ordering::SeqCst);
                let (all, none) = (Ordering::SeqCst, Ordering::SeqCst);
                if wrong && owner.compare_exchange(mine, 0, all, none).is_ok() {
                    self.wake(engine, self.first(engine));
                }
            }
            // Others' writes to this process's own word are undone: it lives.
            let word = slot.presence.thread.load(Ordering::SeqCst);
            if word & !WAITERS != id {
                slot.presence.thread.store(id, Ordering::SeqCst);
            }
            let _ = futex::wait(&slot.poke, futex::Flags::empty(), poke, None);
        }
    }
}

/// Whether the word of a robust futex is a living thread's.
fn alive(word: u32) -> bool {
    word & !WAITERS != 0 && word & DIED == 0
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

fn slot_lock(slot: usize) -> i64 {
    LOCKS + 1 + slot as i64
}

/// Takes the lock on one byte of the file, if nobody has it.
fn lock(file: &File, at: i64) -> bool {
    byte_lock(file, at, libc::F_WRLCK)
}

fn unlock(file: &File, at: i64) {
    byte_lock(file, at, libc::F_UNLCK);
}

fn byte_lock(file: &File, at: i64, kind: i32) -> bool {
    // SAFETY: all zeros is a value of this structure, and fcntl only reads it.
    unsafe {
        let mut range: libc::flock = std::mem::zeroed();
        range.l_type = kind as libc::c_short;
        range.l_whence = libc::SEEK_SET as libc::c_short;
        range.l_start = at;
        range.l_len = 1;
        libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) == 0
    }
}

/// Opens the file, or makes it for all users of the machine.
fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    // Two attempts: another process may make it, or remove it, between two steps.
    for _ in 0..2 {
        // Not both in one call: in a folder like /dev/shm, systems refuse O_CREAT on others' files.
        match options.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return regular(opened?),
        }
        match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => {
                let made = made?;
                made.set_permissions(Permissions::from_mode(0o666))?;
                return Ok(made);
            }
        }
    }
    options.open(path)
}

fn regular(file: File) -> Result<File, Error> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(Error::new(ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Sets a new file up, or sees that it is one of ours.
fn set_up(file: &File, path: &Path) -> Result<(), TurnsError> {
    let fail = |source| TurnsError::File {
        path: path.to_owned(),
        source,
    };
    let locked = (0..SETUP_ATTEMPTS).any(|_| {
        lock(file, LOCKS) || {
            std::thread::sleep(Duration::from_millis(10));
            false
        }
    });
    if !locked {
        let held = "another process holds it and does not go on";
        return Err(fail(Error::new(ErrorKind::TimedOut, held)));
    }
    let bytes = size_of::<Shared>() as u64;
    let result = (|| {
        if file.metadata().map_err(fail)?.len() == 0 {
            file.set_len(bytes).map_err(fail)?;
            return file.write_all_at(&MAGIC, 0).map_err(fail);
        }
        let mut magic = [0; MAGIC.len()];
        let read = file.read_exact_at(&mut magic, 0);
        if read.is_err() || magic != MAGIC || file.metadata().map_err(fail)?.len() != bytes {
            return Err(TurnsError::Foreign(path.to_owned()));
        }
        Ok(())
    })();
    unlock(file, LOCKS);
    result
}

/// Maps the file. A child of fork does not get the mapping: it has no driver.
fn map(file: &File) -> Result<NonNull<Shared>, Error> {
    // SAFETY: a new mapping at an address of the kernel's choice, as long as the file; the advice
    // concerns children only.
    unsafe {
        let address = libc::mmap(
            std::ptr::null_mut(),
            size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        if address == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        libc::madvise(address, size_of::<Shared>(), libc::MADV_DONTFORK);
        NonNull::new(address.cast()).ok_or_else(Error::last_os_error)
    }
}

/// Where the mapping lies, for the signal handler.
static MAPPED: AtomicUsize = AtomicUsize::new(0);
/// What handled SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Any process that may write the file may also cut it short, and reading what is gone raises SIGBUS.
/// The handler then puts private memory in the file's place: the process goes on with engines of its own.
fn survive_truncation(shared: NonNull<Shared>) -> Result<(), Error> {
    MAPPED.store(shared.as_ptr() as usize, Ordering::Release);
    // SAFETY: all zeros is a value of the structure; the handler is async-signal-safe (see there).
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) != 0 {
            return Err(Error::last_os_error());
        }
        let _ = BEFORE.set(before);
        let mut handler: libc::sigaction = std::mem::zeroed();
        let function: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = bus_error;
        handler.sa_sigaction = function as usize;
        handler.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        if libc::sigaction(libc::SIGBUS, &handler, std::ptr::null_mut()) != 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn bus_error(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let start = MAPPED.load(Ordering::Acquire);
    // SAFETY: the kernel passes what this signal has; mmap is a bare system call, and replaces only the
    // mapping of the file, with zeros: a valid state of it. A handler that was there before is called as
    // the kernel would have; without one the signal's default action is restored, and the access that
    // raised it raises it again.
    unsafe {
        let at = (*info).si_addr() as usize;
        if at.wrapping_sub(start) < size_of::<Shared>() {
            libc::mmap(
                start as *mut libc::c_void,
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            );
            return;
        }
        match BEFORE.get() {
            Some(before) if before.sa_sigaction > libc::SIG_IGN => {
                if before.sa_flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(before.sa_sigaction);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(i32) = std::mem::transmute(before.sa_sigaction);
                    handler(signal);
                }
            }
            _ => {
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32 as Count;
    use std::time::Instant;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn two_members_take_turns_in_the_order_of_their_tickets() {
        let folder = folder();
        let path = folder.path().join("engines");
        let (a, b) = (Turns::join(&path).unwrap(), Turns::join(&path).unwrap());
        assert_ne!(a.me, b.me);
        let first = a.draw();
        let second = b.draw();
        a.line_up(3, first);
        b.line_up(3, second);
        assert!(!b.try_take(3, second), "an older ticket is in line");
        assert!(b.try_take(4, second), "engines are independent");
        assert_eq!(b.leave(4, 0, true), None);
        assert!(a.try_take(3, first));
        assert!(!b.try_take(3, second), "it is taken");
        let third = a.draw();
        assert_eq!(a.leave(3, third, true), Some(b.me));
        assert!(!a.try_take(3, third), "the other's ticket is older");
        assert!(b.try_take(3, second));
        assert_eq!(b.leave(3, 0, true), Some(a.me));
        assert!(a.try_take(3, third));
        assert_eq!(a.leave(3, 0, true), None);
    }

    #[test]
    fn one_at_a_time_and_nobody_sleeps_for_ever() {
        let folder = folder();
        let path = folder.path().join("engines");
        let (inside, done) = (Count::new(0), Count::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let turns = Turns::join(&path).unwrap();
                let (inside, done) = (&inside, &done);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let ticket = turns.draw();
                        turns.line_up(0, ticket);
                        turns.take(0, ticket);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        done.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                        turns.wake(0, turns.leave(0, 0, true));
                    }
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 2000);
    }

    #[test]
    fn whatever_the_file_says_the_engine_is_had_in_the_end() {
        let folder = folder();
        let path = folder.path().join("engines");
        let (a, b) = (Turns::join(&path).unwrap(), Turns::join(&path).unwrap());
        let take = |what: &str| {
            let start = Instant::now();
            let ticket = a.draw();
            a.line_up(0, ticket);
            a.take(0, ticket);
            a.wake(0, a.leave(0, 0, true));
            assert!(start.elapsed() < PATIENCE * 20, "{what}");
        };
        let shared = a.shared();
        for owner in [u32::MAX, PROCESSES as u32 + 1, 200, a.me as u32 + 1] {
            shared.owners[0].store(owner, Ordering::SeqCst);
            take("an owner that is none");
        }
        shared.owners[0].store(b.me as u32 + 1, Ordering::SeqCst);
        take("an owner that does not know of it");
        b.slot(b.me).places[0].store(1, Ordering::SeqCst);
        take("a ticket that nobody holds");
        shared.used.store(u32::MAX, Ordering::SeqCst);
        take("more slots than there are");
        let nobody = a.slot(100);
        nobody.presence.thread.store(1, Ordering::SeqCst);
        nobody.places[0].store(1, Ordering::SeqCst);
        shared.owners[0].store(101, Ordering::SeqCst);
        take("a slot without a process");
        assert_eq!(nobody.presence.thread.load(Ordering::SeqCst), 0);
        shared.tickets.store(u64::MAX - 1, Ordering::SeqCst);
        for _ in 0..3 {
            take("tickets that overflow");
        }
        let mut noise = 88172645463325252u64;
        for _ in 0..20 {
            let bytes: Vec<u8> = (0..size_of::<Shared>())
                .map(|_| {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    noise as u8
                })
                .collect();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            // Both live: what is wrong with their own slots they put right themselves.
            for slot in [a, b] {
                slot.slot(slot.me).poke.fetch_add(1, Ordering::SeqCst);
                let _ = futex::wake(&slot.slot(slot.me).poke, futex::Flags::empty(), 1);
            }
        }
        take("noise");
    }

    #[test]
    fn a_file_cut_short_leaves_engines_of_ones_own() {
        let folder = folder();
        let path = folder.path().join("engines");
        let file = path.clone();
        // In a process of its own: the handler is for one mapping a process.
        let child = unsafe_fork(move || {
            let turns = Turns::join(&file).unwrap();
            OpenOptions::new()
                .write(true)
                .open(&file)
                .unwrap()
                .set_len(0)
                .unwrap();
            for _ in 0..3 {
                let ticket = turns.draw();
                turns.line_up(0, ticket);
                turns.take(0, ticket);
                turns.wake(0, turns.leave(0, 0, true));
            }
        });
        assert_eq!(ended(child), 0);
        assert!(matches!(Turns::join(&path).map(|turns| turns.me), Ok(0)));
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = folder();
        let path = folder.path().join("letter");
        std::fs::write(&path, "Dear reader,").unwrap();
        assert!(matches!(Turns::join(&path), Err(TurnsError::Foreign(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"Dear reader,");
        let missing = folder.path().join("no/such/folder");
        assert!(matches!(
            Turns::join(&missing),
            Err(TurnsError::File { .. })
        ));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Turns::join(&link), Err(TurnsError::File { .. })));
    }

    #[test]
    fn a_killed_owner_and_a_killed_waiter_free_their_places_at_once() {
        let folder = folder();
        let path = folder.path().join("engines");
        let turns = Turns::join(&path).unwrap();
        for holds in [true, false] {
            let (file, name) = (path.clone(), folder.path().join(format!("{holds}")));
            let sign = name.clone();
            let child = unsafe_fork(move || {
                let turns = Turns::join(&file).unwrap();
                let ticket = turns.draw();
                turns.line_up(0, ticket);
                if holds {
                    turns.take(0, ticket);
                }
                std::fs::write(&sign, "").unwrap();
                std::thread::sleep(Duration::from_secs(60));
            });
            while !name.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let ticket = turns.draw();
            turns.line_up(0, ticket);
            assert!(!turns.try_take(0, ticket));
            let killer = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                // SAFETY: signals the child just made.
                unsafe { libc::kill(child, libc::SIGKILL) };
            });
            turns.take(0, ticket);
            turns.wake(0, turns.leave(0, 0, true));
            killer.join().unwrap();
            assert_eq!(ended(child), 128 + libc::SIGKILL);
        }
    }

    /// Runs `body` in a child; its process id.
    fn unsafe_fork(body: impl FnOnce() + std::panic::UnwindSafe) -> i32 {
        // SAFETY: the child only runs `body`, which uses files, memory and threads of its own, and ends.
        match unsafe { libc::fork() } {
            0 => {
                let failed = std::panic::catch_unwind(body).is_err();
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(failed)) }
            }
            child => child,
        }
    }

    /// How a child ended: its status, or 128 and the signal.
    fn ended(child: i32) -> i32 {
        let mut status = 0;
        // SAFETY: waits for a child of this process.
        unsafe { libc::waitpid(child, &mut status, 0) };
        match libc::WIFSIGNALED(status) {
            true => 128 + libc::WTERMSIG(status),
            false => libc::WEXITSTATUS(status),
        }
    }

    /// `cargo test -p softcuda --release -- --ignored --nocapture turns` prints what a turn costs.
    #[test]
    #[ignore = "prints a time, checks none"]
    fn cost_of_a_turn() {
        let folder = folder();
        let path = folder.path().join("engines");
        let turns = Turns::join(&path).unwrap();
        for others in [0, 1, 15] {
            while turns.shared().used.load(Ordering::SeqCst) < others + 1 {
                Turns::join(&path).unwrap();
            }
            let start = Instant::now();
            let rounds = 1_000_000;
            for _ in 0..rounds {
                let ticket = turns.draw();
                turns.line_up(0, ticket);
                assert!(turns.try_take(0, ticket));
                turns.wake(0, turns.leave(0, 0, true));
            }
            let nanoseconds = start.elapsed().as_nanos() / rounds;
            println!("{others} other processes: {nanoseconds} ns a turn");
        }
    }
}
