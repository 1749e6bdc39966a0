//! Both ends against a peer that writes whatever it likes: an error or valid data, never a panic, a
//! hang or a touch outside the channel.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers are tests"
)]

use std::{
    collections::VecDeque,
    io,
    ptr::NonNull,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use vgpu_ring::{
    Back, Doorbell, Error, Front, Layout, PAGE_BYTES, SharedMemory, Side, SpinPolicy, inproc,
    reason,
};

const SQ_PROD: usize = 0x080;
const CQ_CONS: usize = 0x100;
const CQ_PROD: usize = 0x200;
const SQ_CONS: usize = 0x280;
const RETIRED: usize = 0x288;
const FRONT_CLOSED: usize = 0x380;
const BACK_CLOSED: usize = 0x400;
const BACK_REASON: usize = 0x404;
const SQ: usize = 4096;
const CQ: usize = 8192;
const PATIENCE: Duration = Duration::from_millis(1);
const NOW: Option<Duration> = Some(Duration::ZERO);

fn layout() -> Layout {
    Layout::new(4096, 4096, 16384).unwrap()
}

/// A channel's memory between two pages that nobody may touch, and the peer's way to write into it.
#[derive(Clone)]
struct Peer {
    around: SharedMemory,
    inside: SharedMemory,
}

const CANARY: u64 = 0x5afe_5afe_5afe_5afe;

impl Peer {
    fn new() -> Self {
        let total = layout().total_bytes();
        let around = inproc::memory(total + 2 * PAGE_BYTES);
        // SAFETY: one page in, `total` bytes long, kept alive by the whole; atomics only.
        let inside = unsafe {
            let base: NonNull<u8> = around.as_ptr().add(PAGE_BYTES);
            SharedMemory::new(base, total, Arc::new(around.clone()))
        };
        let peer = Self { around, inside };
        for word in peer.canaries() {
            word.store(CANARY, Ordering::Relaxed);
        }
        peer
    }

    fn canaries(&self) -> impl Iterator<Item = &AtomicU64> {
        let after = PAGE_BYTES + layout().total_bytes();
        (0..PAGE_BYTES / 8).flat_map(move |word| {
            [0, after].map(|start| {
                // SAFETY: inside the first or the last page, and only accessed as atomic u64.
                unsafe {
                    AtomicU64::from_ptr(self.around.as_ptr().as_ptr().add(start + word * 8).cast())
                }
            })
        })
    }

    fn assert_unharmed(&self) {
        assert!(
            self.canaries()
                .all(|word| word.load(Ordering::Relaxed) == CANARY)
        );
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.inside.len());
        // SAFETY: checked to be inside.
        unsafe { self.inside.as_ptr().as_ptr().add(offset).cast() }
    }

    fn u32(&self, offset: usize, value: u32) {
        // SAFETY: an aligned location inside, accessed as an atomic.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }.store(value, Ordering::Release);
    }

    fn u64(&self, offset: usize, value: u64) {
        // SAFETY: an aligned location inside, accessed as an atomic.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }.store(value, Ordering::Release);
    }

    fn u8(&self, offset: usize, value: u8) {
        // SAFETY: a location inside, accessed as an atomic.
        unsafe { AtomicU8::from_ptr(self.at(offset)) }.store(value, Ordering::Release);
    }

    /// Writes a record's header at an offset of the memory.
    fn record(&self, offset: usize, len: u32, flags: u32, ticket: u64) {
        self.u64(offset, u64::from(len) | u64::from(flags) << 32);
        self.u64(offset + 8, ticket);
    }

    fn front(&self, bell: Arc<dyn Doorbell>) -> Front {
        Front::new(self.inside.clone(), layout(), bell, SpinPolicy::NEVER).unwrap()
    }

    fn try_back(&self, bell: Arc<dyn Doorbell>) -> Result<Back, Error> {
        Back::attach(
            self.inside.clone(),
            layout(),
            bell,
            SpinPolicy::NEVER,
            PATIENCE,
        )
    }
}

fn ends() -> (Peer, Front, Back) {
    let peer = Peer::new();
    let (at_front, at_back) = inproc::bells();
    let front = peer.front(at_front);
    let back = peer.try_back(at_back).unwrap();
    (peer, front, back)
}

fn is_protocol<T>(result: Result<T, Error>, by: Side) -> bool {
    matches!(result, Err(Error::Protocol { peer, .. }) if peer == by)
}

#[test]
fn a_back_refuses_each_broken_submission_and_stays_dead() {
    let breaks: [fn(&Peer); 8] = [
        |peer| peer.u32(SQ_PROD, 4104),
        |peer| peer.u32(SQ_PROD, u32::MAX - 7),
        |peer| peer.u32(SQ_PROD, 17),
        |peer| peer.u32(SQ_PROD, 8),
        |peer| {
            peer.record(SQ, 1025, 0, 1);
            peer.u32(SQ_PROD, 2048);
        },
        |peer| {
            peer.record(SQ, 9, 0, 1);
            peer.u32(SQ_PROD, 24);
        },
        |peer| {
            peer.record(SQ, 8, 2, 1);
            peer.u32(SQ_PROD, 24);
        },
        |peer| {
            peer.record(SQ, 8, 0, 2);
            peer.u32(SQ_PROD, 24);
        },
    ];
    for (number, broken) in breaks.into_iter().enumerate() {
        let (peer, front, mut back) = ends();
        broken(&peer);
        let mut buf = Vec::new();
        assert!(
            is_protocol(back.next(&mut buf, NOW), Side::Front),
            "{number}"
        );
        peer.u32(SQ_PROD, 0);
        assert!(
            is_protocol(back.next(&mut buf, NOW), Side::Front),
            "{number}"
        );
        assert!(matches!(
            front.check(),
            Err(Error::Closed {
                peer: Side::Back,
                reason: reason::PROTOCOL
            })
        ));
        drop((front, back));
        peer.assert_unharmed();
    }
}

#[test]
fn a_front_refuses_each_broken_completion_and_stays_dead() {
    let breaks: [fn(&Peer); 8] = [
        |peer| peer.u32(CQ_PROD, 4104),
        |peer| peer.u32(CQ_PROD, 12),
        |peer| {
            peer.record(CQ, 1025, 0, 1);
            peer.u32(CQ_PROD, 4096);
        },
        |peer| {
            peer.record(CQ, 0, 1, 1);
            peer.u32(CQ_PROD, 16);
        },
        // Never submitted.
        |peer| {
            peer.record(CQ, 0, 0, 3);
            peer.u32(CQ_PROD, 16);
        },
        // Posted without an answer.
        |peer| {
            peer.record(CQ, 0, 0, 2);
            peer.u32(CQ_PROD, 16);
        },
        |peer| {
            peer.record(CQ, 0, 0, 0);
            peer.u32(CQ_PROD, 16);
        },
        |peer| {
            peer.record(CQ, 0, 0, u64::MAX);
            peer.u32(CQ_PROD, 16);
        },
    ];
    for (number, broken) in breaks.into_iter().enumerate() {
        let (peer, front, mut back) = ends();
        let ticket = front.submit(&[b"call"], true).unwrap();
        front.submit(&[b"post"], false).unwrap();
        broken(&peer);
        assert!(is_protocol(front.wait(ticket), Side::Back), "{number}");
        assert!(is_protocol(front.try_wait(ticket), Side::Back), "{number}");
        assert!(
            is_protocol(front.submit(&[], false), Side::Back),
            "{number}"
        );
        assert!(is_protocol(front.stage(1), Side::Back), "{number}");
        let mut buf = Vec::new();
        assert!(back.next(&mut buf, NOW).unwrap().is_some(), "{number}");
        assert!(back.next(&mut buf, NOW).unwrap().is_some(), "{number}");
        assert!(matches!(
            back.next(&mut buf, NOW),
            Err(Error::Closed {
                peer: Side::Front,
                reason: reason::PROTOCOL
            })
        ));
        drop((front, back));
        peer.assert_unharmed();
    }
}

#[test]
fn an_answer_counts_once() {
    let (peer, front, _back) = ends();
    let one = front.submit(&[b"1"], true).unwrap();
    let two = front.submit(&[b"2"], true).unwrap();
    peer.record(CQ, 0, 0, one);
    peer.record(CQ + 16, 0, 0, one);
    peer.u32(CQ_PROD, 32);
    assert!(is_protocol(front.wait(two), Side::Back));
    assert_eq!(front.wait(one).unwrap(), b"");
    assert!(matches!(front.wait(one), Err(Error::UnknownTicket(1))));
}

#[test]
fn progress_that_cannot_be_is_refused() {
    let (peer, front, _back) = ends();
    front.submit(&[], false).unwrap();
    assert_eq!(front.retired().unwrap(), 0);
    peer.u64(RETIRED, 2);
    assert!(is_protocol(front.retired(), Side::Back));
    assert!(is_protocol(front.check(), Side::Back));

    let (peer, front, _back) = ends();
    for _ in 0..4 {
        front.submit(&[&[0; 1008]], false).unwrap();
    }
    peer.u32(SQ_CONS, 4104);
    assert!(is_protocol(front.submit(&[], false), Side::Back));

    let (peer, _front, back) = ends();
    let completer = back.completer();
    for ticket in 0..4 {
        completer.complete(ticket, &[&[0; 1008]]).unwrap();
    }
    peer.u32(CQ_CONS, 4104);
    assert!(is_protocol(completer.complete(4, &[]), Side::Front));
    peer.u32(CQ_CONS, 4096);
    assert!(is_protocol(completer.complete(4, &[]), Side::Front));
}

#[test]
fn a_front_that_takes_no_answers_is_given_up() {
    let (peer, _front, back) = ends();
    let completer = back.completer();
    for ticket in 0..4 {
        completer.complete(ticket, &[&[0; 1008]]).unwrap();
    }
    assert!(matches!(
        completer.complete(4, &[]),
        Err(Error::Stuck { .. })
    ));
    peer.u32(CQ_CONS, 4096);
    assert!(matches!(
        completer.complete(4, &[]),
        Err(Error::Stuck { .. })
    ));
}

#[test]
fn a_dead_peer_is_noticed_after_its_last_words() {
    let (peer, front, mut back) = ends();
    let ticket = front.submit(&[b"call"], true).unwrap();
    let late = front.submit(&[b"call"], true).unwrap();
    peer.u8(Layout::live_offset(Side::Front), 0);
    let mut buf = Vec::new();
    assert_eq!(back.next(&mut buf, None).unwrap().unwrap().ticket, ticket);
    assert_eq!(back.next(&mut buf, None).unwrap().unwrap().ticket, late);
    let gone = back.next(&mut buf, None);
    assert!(matches!(gone, Err(Error::PeerGone { peer: Side::Front })));

    back.completer().complete(ticket, &[b"answer"]).unwrap();
    peer.u8(Layout::live_offset(Side::Back), 0);
    assert!(matches!(
        front.wait(late),
        Err(Error::PeerGone { peer: Side::Back })
    ));
    assert_eq!(front.wait(ticket).unwrap(), b"answer");
    assert!(matches!(
        front.submit(&[], false),
        Err(Error::PeerGone { .. })
    ));
}

#[test]
fn closing_gives_the_first_reason_and_lets_answers_through() {
    let (_peer, front, back) = ends();
    let ticket = front.submit(&[b"call"], true).unwrap();
    let late = front.submit(&[b"call"], true).unwrap();
    back.completer().complete(ticket, &[b"answer"]).unwrap();
    back.completer().close(41).unwrap();
    back.close(42).unwrap();
    drop(back);
    assert_eq!(front.wait(ticket).unwrap(), b"answer");
    for _ in 0..2 {
        let closed = front.wait(late);
        assert!(matches!(
            closed,
            Err(Error::Closed {
                peer: Side::Back,
                reason: 41
            })
        ));
    }
    assert!(matches!(
        front.submit(&[], false),
        Err(Error::Closed { reason: 41, .. })
    ));

    let (_peer, front, mut back) = ends();
    let ticket = front.submit(&[b"call"], true).unwrap();
    front.close(7).unwrap();
    let closed = front.wait(ticket);
    assert!(matches!(
        closed,
        Err(Error::Closed {
            peer: Side::Front,
            reason: 7
        })
    ));
    let mut buf = Vec::new();
    assert!(back.next(&mut buf, NOW).unwrap().is_some());
    let closed = back.next(&mut buf, NOW);
    assert!(matches!(
        closed,
        Err(Error::Closed {
            peer: Side::Front,
            reason: 7
        })
    ));
}

#[test]
fn a_back_attaches_only_to_what_was_agreed() {
    for offset in [0x00, 0x04, 0x08, 0x0c, 0x10] {
        let peer = Peer::new();
        let (at_front, at_back) = inproc::bells();
        assert!(matches!(
            peer.try_back(at_back.clone()),
            Err(Error::Mismatch { .. })
        ));
        let front = peer.front(at_front);
        peer.u32(offset, 12288);
        assert!(matches!(
            peer.try_back(at_back),
            Err(Error::Mismatch { .. })
        ));
        drop(front);
    }
}

#[test]
fn lengths_have_limits() {
    let (_peer, front, back) = ends();
    assert!(matches!(
        front.submit(&[&[0; 1024], &[0]], false),
        Err(Error::TooLong {
            len: 1025,
            max: 1024
        })
    ));
    assert!(matches!(
        back.completer().complete(1, &[&[0; 1025]]),
        Err(Error::TooLong { .. })
    ));
    assert!(matches!(front.stage(0), Err(Error::Empty)));
    assert!(matches!(
        front.stage(4097),
        Err(Error::TooLong {
            len: 4097,
            max: 4096
        })
    ));
    assert!(matches!(
        front.stage(usize::MAX),
        Err(Error::TooLong { .. })
    ));
    let staged = front.stage(10).unwrap();
    assert!(staged.write(&[0; 11]).is_err());
    assert!(staged.read(&mut [0; 11]).is_err());
    let mut byte = 0u8;
    // SAFETY: one readable and writable byte.
    unsafe {
        assert!(staged.write_from(10, &raw const byte, 1).is_err());
        assert!(staged.write_from(usize::MAX, &raw const byte, 1).is_err());
        assert!(staged.read_into(10, &raw mut byte, 1).is_err());
        assert!(staged.write_from(9, &raw const byte, 1).is_ok());
    }
}

/// What a hostile peer writes: at a place worth writing to, a value worth writing.
#[derive(Debug, Clone, Copy)]
struct Poke {
    offset: usize,
    value: u32,
}

fn pokes(indices: &'static [usize], ring: usize) -> impl Strategy<Value = Vec<Poke>> {
    let offset = prop_oneof![
        4 => prop::sample::select(indices),
        3 => (0usize..32).prop_map(move |word| ring + word * 4),
        1 => (5usize..7168).prop_map(|word| word * 4),
    ];
    let value = prop_oneof![
        3 => (0u32..16).prop_map(|n| n * 8),
        2 => 0u32..6,
        1 => prop::sample::select(&[1023u32, 1024, 1025, 4080, 4096, 4104, u32::MAX, u32::MAX - 7][..]),
        1 => any::<u32>(),
    ];
    prop::collection::vec(
        (offset, value).prop_map(|(offset, value)| Poke { offset, value }),
        0..24,
    )
}

/// A peer's doorbell, at which something else happens to the memory each time this end waits; when
/// it has done all it wanted, it closes the channel.
struct Trap {
    peer: Peer,
    script: Mutex<VecDeque<Vec<Poke>>>,
    closed: usize,
}

impl Doorbell for Trap {
    fn notify(&self) -> io::Result<()> {
        Ok(())
    }

    fn wait(&self, _: Option<Duration>) -> io::Result<bool> {
        match self.script.lock().unwrap().pop_front() {
            Some(pokes) => {
                for poke in pokes {
                    self.peer.u32(poke.offset, poke.value);
                }
            }
            None => self.peer.u32(self.closed, 1),
        }
        Ok(true)
    }
}

proptest! {
    #[test]
    fn a_back_survives_any_front(
        garbage in prop::collection::vec(any::<u32>(), 1792..=1792),
        filled in any::<bool>(),
        script in prop::collection::vec(
            pokes(&[SQ_PROD, CQ_CONS, FRONT_CLOSED, 0x184, 0x180, 0x388], SQ), 0..12),
    ) {
        let peer = Peer::new();
        let (at_front, _) = inproc::bells();
        let _front = peer.front(at_front);
        let trap = Trap { peer: peer.clone(), script: Mutex::new(script.into()), closed: FRONT_CLOSED };
        let mut back = peer.try_back(Arc::new(trap)).unwrap();
        if filled {
            for (word, value) in garbage.into_iter().enumerate() {
                peer.u32(word * 4, value);
            }
        }
        let completer = back.completer();
        let mut buf = Vec::new();
        let mut last = 0;
        loop {
            match back.next(&mut buf, None) {
                Ok(Some(submission)) => {
                    prop_assert_eq!(submission.ticket, last + 1);
                    prop_assert!(buf.len() <= 1024);
                    last += 1;
                    let _ = completer.complete(submission.ticket, &[&buf]);
                    if last % 2 == 0 {
                        back.retire().unwrap();
                    }
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        prop_assert!(back.next(&mut buf, None).is_err());
        drop(back);
        peer.assert_unharmed();
    }

    #[test]
    fn a_front_survives_any_back(
        garbage in prop::collection::vec(any::<u32>(), 1792..=1792),
        filled in any::<bool>(),
        script in prop::collection::vec(
            pokes(&[CQ_PROD, SQ_CONS, RETIRED, BACK_CLOSED, BACK_REASON, 0x300, 0x408], CQ), 0..12),
        calls in prop::collection::vec((0usize..1024, any::<bool>(), 0usize..4096), 1..24),
    ) {
        let peer = Peer::new();
        let trap = Trap { peer: peer.clone(), script: Mutex::new(script.into()), closed: BACK_CLOSED };
        let front = peer.front(Arc::new(trap));
        if filled {
            for (word, value) in garbage.into_iter().enumerate() {
                peer.u32(word * 4, value);
            }
        }
        let mut tickets = Vec::new();
        for (len, answered, bulk) in calls {
            let staged = front.try_stage(bulk).ok().flatten();
            if let Some(staged) = &staged {
                prop_assert!(staged.offset() + staged.len() as u64 <= 16384);
                staged.write(&vec![1; bulk]).unwrap();
            }
            match front.submit(&[&vec![2; len]], answered) {
                Ok(ticket) => {
                    if let Some(staged) = staged {
                        staged.release_at(ticket);
                    }
                    if let Ok(retired) = front.retired() {
                        prop_assert!(retired <= ticket);
                    }
                    if answered {
                        tickets.push(ticket);
                    }
                }
                Err(_) => prop_assert!(front.submit(&[], false).is_err()),
            }
        }
        for ticket in tickets {
            if let Ok(Some(answer)) = front.try_wait(ticket) {
                prop_assert!(answer.len() <= 1024);
            } else if let Ok(answer) = front.wait(ticket) {
                prop_assert!(answer.len() <= 1024);
            }
            prop_assert!(front.wait(ticket).is_err());
        }
        let _ = front.stage(4096);
        drop(front);
        peer.assert_unharmed();
    }
}

#[test]
fn a_program_joins_what_a_daemon_set_up_and_what_happened_since() {
    let layout = Layout::new(4096, 4096, 0).unwrap();
    let memory = inproc::memory(layout.total_bytes());
    let (at_front, at_back) = inproc::bells();
    let join = || Front::join(memory.clone(), layout, at_front.clone(), SpinPolicy::NEVER);
    assert!(matches!(join(), Err(Error::Mismatch { .. })));
    let daemon = Front::new(memory.clone(), layout, at_front.clone(), SpinPolicy::NEVER).unwrap();
    let patience = Duration::from_secs(1);
    let mut back =
        Back::attach(memory.clone(), layout, at_back, SpinPolicy::NEVER, patience).unwrap();
    let program = join().unwrap();
    let ticket = program.submit(&[b"call"], true).unwrap();
    let mut call = Vec::new();
    let submission = back.next(&mut call, Some(patience)).unwrap().unwrap();
    back.completer()
        .complete(submission.ticket, &[&call])
        .unwrap();
    assert_eq!(program.wait(ticket).unwrap(), b"call");
    back.close(7).unwrap();
    // Nothing that joining writes could hide it.
    let late = join().unwrap();
    assert!(matches!(late.check(), Err(Error::Closed { reason: 7, .. })));
    drop(daemon);
}
