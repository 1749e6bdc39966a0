//! Model checks: loom runs the real code of both ends over every interleaving (up to a bound on
//! preemptions) that the memory model allows. Nothing polls and no sleep times out here, so a lost
//! wake-up is a deadlock, which loom reports.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p vgpu-ring --test loom
//! ```
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers are tests"
)]

use std::{sync::Arc, time::Duration};

use loom::thread;
use vgpu_ring::{
    Back, Doorbell, Error, Front, Layout, SharedMemory, Side, SpinPolicy, Ticket, inproc,
};

/// Two records of 16 bytes fill the submission ring, four empty answers the completion ring. A first
/// call has gone round, with ticket 1: it passed the events as they stand at the start, so that what
/// rings from here on is only what an end armed itself.
fn channel() -> (Arc<Front>, Back) {
    let layout = Layout::new(64, 64, 0).unwrap();
    let memory = SharedMemory::model(layout);
    let (at_front, at_back) = inproc::bells();
    let spin = SpinPolicy::NEVER;
    let front = Front::new(memory.clone(), layout, at_front.clone(), spin).unwrap();
    let patience = Duration::from_secs(5);
    let mut back = Back::attach(memory, layout, at_back.clone(), spin, patience).unwrap();
    assert_eq!(front.submit(&[&payload(1)], true).unwrap(), 1);
    assert!(expect(&mut back, 1));
    back.completer().complete(1, &[]).unwrap();
    back.retire().unwrap();
    assert!(front.wait(1).unwrap().is_empty());
    assert!(at_front.wait(None).unwrap());
    assert!(at_back.wait(None).unwrap());
    (Arc::new(front), back)
}

fn model(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

/// The payload of the submission with this ticket.
fn payload(ticket: Ticket) -> [u8; 16] {
    [ticket as u8; 16]
}

/// Takes the next submission, sleeping until it comes, and checks that it is the right one.
fn expect(back: &mut Back, ticket: Ticket) -> bool {
    let mut buf = Vec::new();
    loop {
        if let Some(submission) = back.next(&mut buf, None).unwrap() {
            assert_eq!(submission.ticket, ticket);
            assert_eq!(buf, payload(ticket));
            return submission.wants_answer;
        }
    }
}

#[test]
fn the_back_wakes_for_every_submission() {
    model(5, || {
        let (front, mut back) = channel();
        let worker = thread::spawn(move || {
            expect(&mut back, 2);
            expect(&mut back, 3);
            back
        });
        front.submit(&[&payload(2)], false).unwrap();
        front.submit(&[&payload(3)], false).unwrap();
        worker.join().unwrap();
    });
}

/// The record that waits needs the room of two that are under way: the first one's retirement wakes
/// the front in vain, or comes while it arms.
#[test]
fn the_front_wakes_when_the_full_ring_drains() {
    model(3, || {
        let (front, mut back) = channel();
        for ticket in 2..=5 {
            assert_eq!(front.submit(&[], false).unwrap(), ticket);
        }
        let worker = thread::spawn(move || {
            for _ in 2..=3 {
                assert!(back.next(&mut Vec::new(), None).unwrap().is_some());
                back.retire().unwrap();
            }
            for _ in 4..=5 {
                assert!(back.next(&mut Vec::new(), None).unwrap().is_some());
            }
            expect(&mut back, 6);
            back.retire().unwrap();
            back
        });
        assert_eq!(front.submit(&[&payload(6)], false).unwrap(), 6);
        // Who sees the room sees the ticket that made it.
        assert!(front.retired().unwrap() >= 3);
        let back = worker.join().unwrap();
        assert_eq!(front.retired().unwrap(), 6);
        drop(back);
    });
}

#[test]
fn a_call_is_answered() {
    model(5, || {
        let (front, mut back) = channel();
        let worker = thread::spawn(move || {
            assert!(expect(&mut back, 2));
            back.completer().complete(2, &[b"two"]).unwrap();
            back.retire().unwrap();
            back
        });
        let ticket = front.submit(&[&payload(2)], true).unwrap();
        assert_eq!(front.wait(ticket).unwrap(), b"two");
        assert!(matches!(front.wait(ticket), Err(Error::UnknownTicket(2))));
        worker.join().unwrap();
    });
}

/// One thread's answer comes only after the other got its own and submitted something more: a leader
/// must pass on at once what belongs to a follower, and hand over when it is done first.
#[test]
fn two_threads_get_their_own_answers() {
    model(3, || {
        let (front, mut back) = channel();
        let two = front.submit(&[&payload(2)], true).unwrap();
        let three = front.submit(&[&payload(3)], true).unwrap();
        let other = {
            let front = Arc::clone(&front);
            thread::spawn(move || {
                assert_eq!(front.wait(two).unwrap(), b"two");
                front.submit(&[&payload(4)], false).unwrap();
            })
        };
        let worker = thread::spawn(move || {
            let completer = back.completer();
            assert!(expect(&mut back, 2));
            assert!(expect(&mut back, 3));
            back.retire().unwrap();
            completer.complete(2, &[b"two"]).unwrap();
            assert!(!expect(&mut back, 4));
            completer.complete(3, &[b"three"]).unwrap();
            back
        });
        assert_eq!(front.wait(three).unwrap(), b"three");
        other.join().unwrap();
        worker.join().unwrap();
    });
}

/// One thread waits for room and one for an answer: whoever leads must serve the other.
#[test]
fn room_and_an_answer_are_waited_for_at_once() {
    model(2, || {
        let (front, mut back) = channel();
        let call = front.submit(&[&payload(2)], true).unwrap();
        front.submit(&[&payload(3)], false).unwrap();
        let other = {
            let front = Arc::clone(&front);
            thread::spawn(move || assert_eq!(front.submit(&[&payload(4)], false).unwrap(), 4))
        };
        let worker = thread::spawn(move || {
            expect(&mut back, 2);
            back.retire().unwrap();
            // The answer comes only once the other thread got its room.
            expect(&mut back, 3);
            expect(&mut back, 4);
            back.completer().complete(2, &[]).unwrap();
            back
        });
        assert!(front.wait(call).unwrap().is_empty());
        other.join().unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn closing_wakes_all_who_wait_and_loses_no_answer() {
    model(3, || {
        let (front, mut back) = channel();
        let answered = front.submit(&[&payload(2)], true).unwrap();
        let forgotten = front.submit(&[&payload(3)], true).unwrap();
        let other = {
            let front = Arc::clone(&front);
            thread::spawn(move || assert_eq!(front.wait(answered).unwrap(), b"two"))
        };
        let worker = thread::spawn(move || {
            expect(&mut back, 2);
            back.completer().complete(2, &[b"two"]).unwrap();
            back.close(7).unwrap();
            back
        });
        let (peer, reason) = match front.wait(forgotten) {
            Err(Error::Closed { peer, reason }) => (peer, reason),
            other => panic!("{other:?}"),
        };
        assert_eq!((peer, reason), (Side::Back, 7));
        other.join().unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn the_back_wakes_when_the_front_leaves() {
    model(5, || {
        let (front, mut back) = channel();
        let worker = thread::spawn(move || {
            expect(&mut back, 2);
            let mut buf = Vec::new();
            loop {
                match back.next(&mut buf, None) {
                    Ok(found) => assert_eq!(found, None),
                    Err(Error::Closed { peer, .. }) => break assert_eq!(peer, Side::Front),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        front.submit(&[&payload(2)], false).unwrap();
        drop(front);
        worker.join().unwrap();
    });
}
