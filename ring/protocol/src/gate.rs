//! The gate between a worker and the device: one page-aligned memfd for each channel and device, shared by
//! vgpu-backd ([`GateBack`]) and the worker ([`GateWorker`]).
//!
//! While it is open a worker gives the device work as it comes; closed, it asks and waits for a turn. Either
//! way it reports what the device did. Every word has one writer. Must never be a place where vgpu-backd waits
//! for a worker or believes one: what a worker writes is copied once and clamped. docs/protocol.md §10 draws
//! the memory and tells the rules.

use crate::codec::messages;
use crate::packet::{self, PacketError, WireExtent};
use crate::shared_page::{self, Header, Layout, SharedPage};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::thread::futex;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use xen::Extent;

/// First word of a gate: "VGPG".
pub const MAGIC: u32 = u32::from_le_bytes(*b"VGPG");
/// The version of a gate's layout.
pub const VERSION: u32 = 2;
/// Reports that fit in a gate.
pub const REPORTS: u32 = 256;
/// How old shares may be before they count as none, in nanoseconds.
const SHARES_LAST_NS: u64 = 1_500_000_000;
/// Pages of 4096 bytes of a gate.
pub const GATE_PAGES: u32 = shared_page::pages::<Page>();

/// A part of a device that works by itself.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(u8)]
pub enum Engine {
    /// Kernels, memsets and copies within the device.
    Compute = 0,
    /// Copies between host and device.
    Copy = 1,
}

impl Engine {
    /// All of them, each at the position of its number.
    pub const ALL: [Engine; 2] = [Engine::Compute, Engine::Copy];
}

/// What a turn allows: one batch of work.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Turn {
    /// Its number: that of the ask it answers, counted from 1; never 0.
    pub number: u32,
    /// Device time that the batch is to take, in nanoseconds; one piece of work may always go.
    pub time_ns: u64,
    /// Most pieces of work; 0 for any number.
    pub pieces: u32,
}

/// A worker's wish for a turn.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Ask {
    /// Its number, which the turn will have.
    pub number: u32,
    /// Pieces of work that wait, as far as the worker sees: an estimate, at least 1.
    pub pieces: u32,
}

/// What the device did for a batch.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// Where.
    pub engine: Engine,
    /// The turn that the batch had; its report ends it. 0 for work without one.
    pub turn: u32,
    /// When its first piece could start, on the clock of [`now_ns`].
    pub start_ns: u64,
    /// When its last piece had ended.
    pub end_ns: u64,
    /// Time between the two in which the device had work of it.
    pub busy_ns: u64,
    /// Launches or copies; 0 for a turn that was not used.
    pub pieces: u32,
    /// Bytes that its copies and memsets moved.
    pub bytes: u64,
    /// When its first piece was there to be done: what came before `start_ns` it waited.
    pub asked_ns: u64,
}

messages! {
    /// A gate, by the positions of its descriptors.
    WireGate {
        /// Its memory.
        memory: WireExtent,
        /// The eventfd that the worker signals to wake vgpu-backd.
        bell: u32,
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of every time here.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// What vgpu-backd writes about one engine.
#[repr(C, align(64))]
struct TurnWords {
    granted: AtomicU32,
    pieces: AtomicU32,
    time_ns: AtomicU64,
}

/// What the worker writes about one engine.
#[repr(C, align(64))]
struct WorkWords {
    asked: AtomicU32,
    pieces: AtomicU32,
    begun: AtomicU64,
    done: AtomicU64,
    placed: AtomicU64,
    entered: AtomicU32,
}

#[repr(C, align(64))]
struct Line(AtomicU32);

#[repr(C, align(64))]
struct ReportWords([AtomicU64; 7]);

/// The memory. See [`Layout`].
#[repr(C)]
struct Page {
    header: Header,
    open: AtomicU32,
    launches: AtomicU32,
    quantum_ns: AtomicU64,
    shares: [AtomicU32; 2],
    shares_ns: AtomicU64,
    turns: [TurnWords; 2],
    work: [WorkWords; 2],
    produced: Line,
    consumed: Line,
    reports: [ReportWords; REPORTS as usize],
}

impl Page {
    fn turn(&self, engine: Engine) -> &TurnWords {
        let [compute, copy] = &self.turns;
        match engine {
            Engine::Compute => compute,
            Engine::Copy => copy,
        }
    }

    fn work(&self, engine: Engine) -> &WorkWords {
        let [compute, copy] = &self.work;
        match engine {
            Engine::Compute => compute,
            Engine::Copy => copy,
        }
    }

    fn report(&self, position: u32) -> Option<&[AtomicU64; 7]> {
        let index = position.checked_rem(REPORTS)?;
        self.reports.get(index as usize).map(|words| &words.0)
    }
}

// SAFETY: it is `repr(C)` and atomics alone, aligned to 64 bytes.
unsafe impl Layout for Page {
    const WHAT: &'static str = "a gate";
    const NAME: &'static str = "vgpu-gate";
    const MAGIC: u32 = MAGIC;
    const VERSION: u32 = VERSION;

    fn header(&self) -> &Header {
        &self.header
    }
}

/// The turn after this one.
fn next(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(1)
}

fn wake(word: &AtomicU32) {
    // It fails for a bad address alone, and nobody may be waiting.
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
}

/// Sleeps while a word has a value; ends early now and then.
fn sleep(word: &AtomicU32, value: u32, limit: Option<Duration>) {
    let limit = limit.map(|limit| rustix::time::Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    // However it ends, the caller looks at the word again.
    let _ = futex::wait(word, futex::Flags::empty(), value, limit.as_ref());
}

/// vgpu-backd's end. For one thread; nothing here waits.
#[derive(Debug)]
pub struct GateBack {
    page: SharedPage<Page>,
    memory: Extent,
    bell: Arc<OwnedFd>,
    open: bool,
    /// The newest turn of each engine.
    granted: [u32; 2],
    consumed: u32,
}

impl GateBack {
    /// A gate that is closed.
    ///
    /// # Errors
    /// If the system has no memory or no descriptor for it.
    pub fn new() -> Result<Self, PacketError> {
        let (page, memory) = SharedPage::create()?;
        let bell =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        Ok(GateBack {
            page,
            memory,
            bell: Arc::new(bell),
            open: false,
            granted: [0; 2],
            consumed: 0,
        })
    }

    /// Names it in a message; its descriptors are appended to `fds`.
    pub fn put(&self, fds: &mut Vec<Arc<OwnedFd>>) -> WireGate {
        let memory = packet::put_extent(&self.memory, fds);
        let bell = fds.len() as u32;
        fds.push(self.bell.clone());
        WireGate { memory, bell }
    }

    /// Becomes readable when the worker rings.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes the worker's rings away. Look at everything else after it.
    pub fn quiet(&self) {
        let mut count = [0; 8];
        // There may be none.
        let _ = rustix::io::read(&self.bell, &mut count);
    }

    /// Lets the worker give the device work as it comes. It goes on waiting for the answer to an ask.
    pub fn open(&mut self) {
        self.open = true;
        self.page.open.store(1, Ordering::SeqCst);
    }

    /// From here on the worker asks for turns. What it began before is under way: see [`Self::settled`].
    pub fn close(&mut self) {
        self.open = false;
        let page = &*self.page;
        // Before `begun` is looked at. A worker adds to `begun` before it looks at `open`: so either we see its
        // batch, or it sees the gate closed.
        page.open.store(0, Ordering::SeqCst);
        wake(&page.open);
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether, the gate being closed, all work of an engine that was begun without a turn has ended. The worker
    /// rings when it may have become so; one that lies may never say so.
    pub fn settled(&self, engine: Engine) -> bool {
        let work = self.page.work(engine);
        // In this order: what ends between the two looks makes the counts differ, never agree.
        let done = work.done.load(Ordering::SeqCst);
        done == work.begun.load(Ordering::SeqCst)
    }

    /// Whether the device has the work of a turn that was granted, or all that was begun without one: work that is let
    /// on afterwards comes behind it. A worker that lies may never say so.
    pub fn has_entered(&self, engine: Engine, turn: Option<u32>) -> bool {
        let work = self.page.work(engine);
        match turn {
            // Whoever has a newer turn had put the work of this one on the device before it asked.
            Some(turn) => {
                turn != self.newest(engine) || work.entered.load(Ordering::Acquire) == turn
            }
            None => {
                // In this order: what is begun between the two looks makes the counts differ, never agree.
                let placed = work.placed.load(Ordering::SeqCst);
                placed == work.begun.load(Ordering::SeqCst)
            }
        }
    }

    /// Sets how much device time the worker puts in a batch while the gate is open.
    pub fn set_quantum(&self, nanoseconds: u64) {
        let word = &self.page.quantum_ns;
        word.store(nanoseconds, Ordering::Relaxed);
    }

    /// Sets the most pieces of work that the worker may have on the device; 0 for no limit.
    pub fn set_launches(&self, limit: u32) {
        self.page.launches.store(limit, Ordering::Relaxed);
    }

    /// Tells what part of each engine the channel's domain has had in the last second, in thousandths.
    pub fn set_shares(&self, now: u64, shares: [u32; 2]) {
        let page = &*self.page;
        for (word, share) in page.shares.iter().zip(shares) {
            word.store(share, Ordering::Relaxed);
        }
        page.shares_ns.store(now, Ordering::Relaxed);
    }

    /// The worker's wish for a turn of an engine, if it has one that is not answered. It has one at most.
    pub fn asked(&self, engine: Engine) -> Option<Ask> {
        let work = self.page.work(engine);
        let number = work.asked.load(Ordering::Acquire);
        // Anything else is answered, or a lie, which leaves the liar waiting.
        (number == next(self.newest(engine))).then(|| Ask {
            number,
            pieces: work.pieces.load(Ordering::Relaxed).max(1),
        })
    }

    fn newest(&self, engine: Engine) -> u32 {
        match (engine, self.granted) {
            (Engine::Compute, [number, _]) | (Engine::Copy, [_, number]) => number,
        }
    }

    /// Answers the ask of an engine and wakes the worker. Only where [`Self::asked`] has one.
    pub fn grant(&mut self, engine: Engine, time_ns: u64, pieces: u32) -> Turn {
        let number = next(self.newest(engine));
        let words = self.page.turn(engine);
        words.time_ns.store(time_ns, Ordering::Relaxed);
        words.pieces.store(pieces, Ordering::Relaxed);
        // Release: who sees the number sees what it allows.
        words.granted.store(number, Ordering::SeqCst);
        wake(&words.granted);
        let [compute, copy] = &mut self.granted;
        match engine {
            Engine::Compute => *compute = number,
            Engine::Copy => *copy = number,
        }
        Turn {
            number,
            time_ns,
            pieces,
        }
    }

    /// Takes the next report. Its times are in order and not after `now`, and `busy_ns` fits between them;
    /// whether its turn exists is the caller's to check. `None` if there is none.
    pub fn report(&mut self, now: u64) -> Option<Report> {
        let page = &*self.page;
        loop {
            // Acquire: who sees the index sees the report.
            let produced = page.produced.0.load(Ordering::Acquire);
            match produced.wrapping_sub(self.consumed) {
                0 => return None,
                1..=REPORTS => {}
                // A lie: nothing of it is believed.
                _ => {
                    self.consumed = produced;
                    return None;
                }
            }
            let words = page.report(self.consumed)?;
            let [head, start, end, busy, pieces, bytes, asked] =
                words.each_ref().map(|word| word.load(Ordering::Relaxed));
            self.consumed = self.consumed.wrapping_add(1);
            // Release: the worker writes there again.
            page.consumed.0.store(self.consumed, Ordering::Release);
            let Some(&engine) = Engine::ALL.get((head as u32) as usize) else {
                continue;
            };
            let end_ns = end.min(now);
            let start_ns = start.min(end_ns);
            return Some(Report {
                engine,
                turn: (head >> 32) as u32,
                start_ns,
                end_ns,
                busy_ns: busy.min(end_ns.saturating_sub(start_ns)),
                pieces: u32::try_from(pieces).unwrap_or(u32::MAX),
                bytes,
                asked_ns: asked.min(start_ns),
            });
        }
    }
}

/// The worker's end. Its threads share it; asks and waits of one engine are one thread's at a time, and so
/// are reports.
#[derive(Debug)]
pub struct GateWorker {
    page: SharedPage<Page>,
    bell: Arc<OwnedFd>,
}

impl GateWorker {
    /// The gate that a message names.
    ///
    /// # Errors
    /// If the message lacks a descriptor, or the memory is not a gate of this version.
    pub fn take(wire: &WireGate, fds: &[Arc<OwnedFd>]) -> Result<Self, PacketError> {
        Ok(GateWorker {
            page: SharedPage::take(&wire.memory, fds)?,
            bell: packet::take_fd(wire.bell, fds)?.clone(),
        })
    }

    /// Whether work may go to the device as it comes: one load.
    pub fn is_open(&self) -> bool {
        self.page.open.load(Ordering::Relaxed) != 0
    }

    /// Sleeps while the gate is open, at most so long, or until [`Self::stir`].
    pub fn nap(&self, limit: Duration) {
        sleep(&self.page.open, 1, Some(limit));
    }

    /// Ends naps.
    pub fn stir(&self) {
        wake(&self.page.open);
    }

    /// Device time to put in a batch while the gate is open, in nanoseconds.
    pub fn quantum_ns(&self) -> u64 {
        self.page.quantum_ns.load(Ordering::Relaxed)
    }

    /// Most pieces of work to have on the device; 0 for no limit.
    pub fn launches(&self) -> u32 {
        self.page.launches.load(Ordering::Relaxed)
    }

    /// What part of each engine the domain has had in the last second, in thousandths. vgpu-backd tells it
    /// while it has something to tell, and for a second longer.
    pub fn shares(&self, now: u64) -> [u32; 2] {
        let page = &*self.page;
        if now.saturating_sub(page.shares_ns.load(Ordering::Relaxed)) > SHARES_LAST_NS {
            return [0; 2];
        }
        page.shares
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed).min(1000))
    }

    /// Begins a batch without a turn; [`Self::end`] ends it. `false`, and nothing begun, if the gate is closed.
    pub fn begin(&self, engine: Engine) -> bool {
        let page = &*self.page;
        // Before `open` is looked at: see GateBack::close.
        page.work(engine).begun.fetch_add(1, Ordering::SeqCst);
        let open = page.open.load(Ordering::SeqCst) != 0;
        if !open {
            // Not `done` += 1: that would stand for an older batch.
            page.work(engine).begun.fetch_sub(1, Ordering::SeqCst);
            self.ring();
        }
        open
    }

    /// The device has a batch that was begun without a turn.
    pub fn place(&self, engine: Engine) {
        self.page.work(engine).placed.fetch_add(1, Ordering::SeqCst);
    }

    /// The device has the first work of a turn.
    pub fn enter(&self, engine: Engine, turn: u32) {
        let word = &self.page.work(engine).entered;
        word.store(turn, Ordering::Release);
    }

    /// A batch that was begun has ended. Report it first.
    pub fn end(&self, engine: Engine) {
        let page = &*self.page;
        page.work(engine).done.fetch_add(1, Ordering::SeqCst);
        if page.open.load(Ordering::SeqCst) == 0 {
            self.ring();
        }
    }

    /// Asks for a turn, which [`Self::wait`] then waits for. Never before the turn of the last ask was taken.
    pub fn ask(&self, engine: Engine, pieces: u32) -> u32 {
        let work = self.page.work(engine);
        let number = next(work.asked.load(Ordering::Relaxed));
        work.pieces.store(pieces, Ordering::Relaxed);
        // Release: who sees the ask sees what it is for.
        work.asked.store(number, Ordering::SeqCst);
        self.ring();
        number
    }

    /// The turn that was asked for under a number, if it has been given.
    pub fn turn(&self, engine: Engine, number: u32) -> Option<Turn> {
        let words = self.page.turn(engine);
        (words.granted.load(Ordering::Acquire) == number).then(|| Turn {
            number,
            time_ns: words.time_ns.load(Ordering::Relaxed),
            pieces: words.pieces.load(Ordering::Relaxed),
        })
    }

    /// Waits for the turn that was asked for under a number.
    pub fn wait(&self, engine: Engine, number: u32) -> Turn {
        let words = self.page.turn(engine);
        loop {
            // Looked at first: a turn that is given meanwhile ends the sleep.
            let newest = words.granted.load(Ordering::Acquire);
            if let Some(turn) = self.turn(engine, number) {
                return turn;
            }
            sleep(&words.granted, newest, None);
        }
    }

    /// Puts a report where vgpu-backd finds it, without waking it. `false` if there is no room, and nothing put.
    pub fn report(&self, report: &Report) -> bool {
        let page = &*self.page;
        let produced = page.produced.0.load(Ordering::Relaxed);
        let (true, Some(words)) = (self.room() > 0, page.report(produced)) else {
            return false;
        };
        let values = [
            u64::from(report.engine as u8) | u64::from(report.turn) << 32,
            report.start_ns,
            report.end_ns,
            report.busy_ns,
            report.pieces.into(),
            report.bytes,
            report.asked_ns,
        ];
        for (word, value) in words.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
        // Release: who sees the index sees the report.
        page.produced
            .0
            .store(produced.wrapping_add(1), Ordering::Release);
        true
    }

    /// How many reports there is room for.
    pub fn room(&self) -> u32 {
        let page = &*self.page;
        let produced = page.produced.0.load(Ordering::Relaxed);
        // Acquire: the reports that were there have been read.
        let consumed = page.consumed.0.load(Ordering::Acquire);
        REPORTS.saturating_sub(produced.wrapping_sub(consumed))
    }

    /// Wakes vgpu-backd.
    pub fn ring(&self) {
        loop {
            match rustix::io::write(&self.bell, &1u64.to_ne_bytes()) {
                Err(Errno::INTR) => {}
                // A bell that cannot count further has been rung.
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;
    use proptest::prelude::*;
    use rustix::fs::ftruncate;
    use std::mem::offset_of;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    fn pair() -> (GateBack, GateWorker) {
        let back = GateBack::new().unwrap();
        let mut fds = Vec::new();
        let wire = back.put(&mut fds);
        let wire = WireGate::decode(&wire.encode()).unwrap();
        let worker = GateWorker::take(&wire, &fds).unwrap();
        (back, worker)
    }

    fn rung(back: &GateBack) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&back.bell, &mut count).is_ok()
    }

    fn report() -> Report {
        Report {
            engine: Engine::Copy,
            turn: 7,
            start_ns: 100,
            end_ns: 200,
            busy_ns: 80,
            pieces: 3,
            bytes: 4096,
            asked_ns: 90,
        }
    }

    #[test]
    fn the_layout_is_the_one_that_is_documented() {
        assert_eq!(offset_of!(Page, header), 0);
        assert_eq!(offset_of!(Page, open), 8);
        assert_eq!(offset_of!(Page, launches), 12);
        assert_eq!(offset_of!(Page, quantum_ns), 16);
        assert_eq!(offset_of!(Page, shares), 24);
        assert_eq!(offset_of!(Page, shares_ns), 32);
        assert_eq!(offset_of!(Page, turns), 64);
        assert_eq!(offset_of!(TurnWords, pieces), 4);
        assert_eq!(offset_of!(TurnWords, time_ns), 8);
        assert_eq!(offset_of!(Page, work), 192);
        assert_eq!(offset_of!(WorkWords, pieces), 4);
        assert_eq!(offset_of!(WorkWords, begun), 8);
        assert_eq!(offset_of!(WorkWords, done), 16);
        assert_eq!(offset_of!(WorkWords, placed), 24);
        assert_eq!(offset_of!(WorkWords, entered), 32);
        assert_eq!(offset_of!(Page, produced), 320);
        assert_eq!(offset_of!(Page, consumed), 384);
        assert_eq!(offset_of!(Page, reports), 448);
        assert_eq!(size_of::<ReportWords>(), 64);
        assert_eq!(GATE_PAGES, 5);
    }

    #[test]
    fn a_gate_is_closed_at_first_and_says_what_it_was_told() {
        let (mut back, worker) = pair();
        assert!(!worker.is_open());
        back.set_quantum(4_000_000);
        back.set_launches(32);
        back.open();
        assert!(worker.is_open() && back.is_open());
        assert_eq!((worker.quantum_ns(), worker.launches()), (4_000_000, 32));
        back.close();
        assert!(!worker.is_open() && !back.is_open());
    }

    #[test]
    fn shares_are_told_for_a_while() {
        const SECOND: u64 = 1_000_000_000;
        let (back, worker) = pair();
        assert_eq!(worker.shares(100 * SECOND), [0, 0]);
        back.set_shares(100 * SECOND, [250, 2000]);
        assert_eq!(worker.shares(100 * SECOND), [250, 1000]);
        assert_eq!(worker.shares(101 * SECOND), [250, 1000]);
        assert_eq!(worker.shares(102 * SECOND), [0, 0]);
    }

    #[test]
    fn memory_that_is_no_gate_is_refused_and_a_gate_cannot_shrink() {
        let back = GateBack::new().unwrap();
        let mut fds = Vec::new();
        let wire = back.put(&mut fds);
        assert!(ftruncate(&*fds[0], 0).is_err());
        for (pages, offset) in [(GATE_PAGES - 1, 0), (GATE_PAGES, 4096), (GATE_PAGES, 1)] {
            let mut wire = wire.clone();
            (wire.memory.pages, wire.memory.offset) = (pages, offset);
            assert!(GateWorker::take(&wire, &fds).is_err());
        }
        for (memory, bell) in [(0, 2), (2, 1)] {
            let mut wire = wire.clone();
            (wire.memory.fd, wire.bell) = (memory, bell);
            assert!(GateWorker::take(&wire, &fds).is_err());
        }
        back.page
            .header
            .version
            .store(VERSION + 1, Ordering::Relaxed);
        assert!(GateWorker::take(&wire, &fds).is_err());
    }

    #[test]
    fn an_ask_is_answered_by_the_turn_of_its_number() {
        let (mut back, worker) = pair();
        assert_eq!(back.asked(Engine::Compute), None);
        assert_eq!(worker.ask(Engine::Compute, 5), 1);
        assert!(rung(&back));
        let ask = Ask {
            number: 1,
            pieces: 5,
        };
        assert_eq!(back.asked(Engine::Compute), Some(ask));
        assert_eq!(back.asked(Engine::Copy), None);
        let waits = thread::scope(|scope| {
            let waits = scope.spawn(|| worker.wait(Engine::Compute, 1));
            let turn = back.grant(Engine::Compute, 1000, 2);
            assert_eq!(waits.join().unwrap(), turn);
            turn
        });
        assert_eq!((waits.number, waits.time_ns, waits.pieces), (1, 1000, 2));
        assert_eq!(back.asked(Engine::Compute), None);
        assert_eq!(worker.ask(Engine::Compute, 0), 2);
        assert_eq!(back.asked(Engine::Compute).unwrap().pieces, 1);
    }

    #[test]
    fn turn_numbers_never_become_0() {
        let (mut back, worker) = pair();
        back.granted = [u32::MAX; 2];
        let words = back.page.work(Engine::Compute);
        words.asked.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(worker.ask(Engine::Compute, 1), 1);
        assert_eq!(back.grant(Engine::Compute, 0, 0).number, 1);
        assert_eq!(worker.wait(Engine::Compute, 1).number, 1);
    }

    #[test]
    fn reports_arrive_in_order_and_none_is_overwritten() {
        let (mut back, worker) = pair();
        for round in 0..3u64 {
            for n in 0..u64::from(REPORTS) {
                let bytes = round * 1000 + n;
                assert!(worker.report(&Report { bytes, ..report() }));
            }
            assert!(!worker.report(&report()));
            assert_eq!(worker.room(), 0);
            for n in 0..u64::from(REPORTS) {
                let bytes = round * 1000 + n;
                assert_eq!(back.report(1000), Some(Report { bytes, ..report() }));
            }
            assert_eq!(back.report(1000), None);
        }
        assert!(!rung(&back));
    }

    #[test]
    fn an_index_that_cannot_be_is_not_believed() {
        let (mut back, worker) = pair();
        back.page.produced.0.store(REPORTS + 1, Ordering::Relaxed);
        assert_eq!(back.report(1000), None);
        back.page.consumed.0.store(REPORTS + 1, Ordering::Relaxed);
        assert!(worker.report(&report()));
        assert_eq!(back.report(1000), Some(report()));
    }

    #[test]
    fn what_is_let_on_and_not_on_the_device_yet_is_told_apart() {
        let (mut back, worker) = pair();
        let engine = Engine::Compute;
        back.open();
        assert!(back.has_entered(engine, None));
        assert!(worker.begin(engine));
        assert!(!back.has_entered(engine, None));
        worker.place(engine);
        assert!(back.has_entered(engine, None));
        back.close();
        // What was not begun after all need not be placed.
        assert!(!worker.begin(engine));
        assert!(back.has_entered(engine, None));
        worker.ask(engine, 1);
        let turn = back.grant(engine, 1000, 0).number;
        assert!(!back.has_entered(engine, Some(turn)));
        worker.enter(engine, turn);
        assert!(back.has_entered(engine, Some(turn)));
        // The other engine has its own.
        worker.ask(Engine::Copy, 1);
        let other = back.grant(Engine::Copy, 1000, 0).number;
        assert!(!back.has_entered(Engine::Copy, Some(other)));
        worker.ask(engine, 1);
        let next = back.grant(engine, 1000, 0).number;
        assert!(back.has_entered(engine, Some(turn)));
        assert!(!back.has_entered(engine, Some(next)));
    }

    #[test]
    fn work_begun_before_the_gate_closed_is_waited_for() {
        let (mut back, worker) = pair();
        assert!(!worker.begin(Engine::Compute));
        assert!(rung(&back));
        back.open();
        assert!(worker.begin(Engine::Compute));
        assert!(worker.begin(Engine::Compute));
        worker.end(Engine::Compute);
        assert!(!rung(&back));
        back.close();
        assert!(!back.settled(Engine::Compute) && back.settled(Engine::Copy));
        assert!(!worker.begin(Engine::Compute));
        assert!(rung(&back));
        // What was not begun has not ended what was.
        assert!(!back.settled(Engine::Compute));
        worker.end(Engine::Compute);
        assert!(rung(&back));
        assert!(back.settled(Engine::Compute));
    }

    /// Whatever the interleaving: once vgpu-backd has closed the gate and finds it settled, the worker has
    /// nothing on the device.
    #[test]
    fn a_settled_gate_has_nothing_behind_it() {
        let (mut back, worker) = pair();
        let (on_device, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if worker.begin(Engine::Compute) {
                        on_device.store(true, Ordering::SeqCst);
                        std::hint::spin_loop();
                        on_device.store(false, Ordering::SeqCst);
                        worker.end(Engine::Compute);
                    }
                }
            });
            for _ in 0..2000 {
                back.open();
                thread::yield_now();
                back.close();
                while !back.settled(Engine::Compute) {
                    thread::yield_now();
                }
                for _ in 0..10 {
                    assert!(!on_device.load(Ordering::SeqCst));
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    proptest! {
        /// Whatever a worker writes, a report keeps its bounds.
        #[test]
        fn reports_are_clamped(words in any::<[u64; 7]>(), now in any::<u64>()) {
            let (mut back, _worker) = pair();
            let page = &*back.page;
            for (word, value) in page.report(0).unwrap().iter().zip(words) {
                word.store(value, Ordering::Relaxed);
            }
            page.produced.0.store(1, Ordering::Relaxed);
            match back.report(now) {
                Some(report) => {
                    prop_assert!(report.asked_ns <= report.start_ns);
                    prop_assert!(report.start_ns <= report.end_ns && report.end_ns <= now);
                    prop_assert!(report.busy_ns <= report.end_ns - report.start_ns);
                    prop_assert_eq!(report.engine as u32, words[0] as u32);
                }
                None => prop_assert!(words[0] as u32 > 1),
            }
            prop_assert_eq!(back.report(now), None);
        }
    }
}
