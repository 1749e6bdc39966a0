//! Model checks: loom runs the real code of both ends over every interleaving (up to a bound on
//! preemptions) that the memory model allows. Nothing polls and no sleep times out here, so a lost
//! wake-up is a deadlock, which loom reports.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p vgpu-ring --test loom
//! ```
#![cfg(loom)]

use std::{sync::Arc, time::Duration};

use loom::thread;
use vgpu_ring::{Back, Error, Front, Layout, SharedMemory, Side, SpinPolicy, Ticket, inproc};

/// Two records of 16 bytes fill the submission ring, four empty answers the completion ring.
fn channel() -> (Arc<Front>, Back) {
    let layout = Layout::new(64, 64, 0).unwrap();
    let memory = SharedMemory::model(layout);
    let (at_front, at_back) = inproc::bells();
    let front = Front::new(memory.clone(), layout, at_front, SpinPolicy::NEVER).unwrap();
    let back = Back::attach(
        memory,
        layout,
        at_back,
        SpinPolicy::NEVER,
        Duration::from_secs(5),
    )
    .unwrap();
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
            expect(&mut back, 1);
            expect(&mut back, 2);
            back
        });
        front.submit(&[&payload(1)], false).unwrap();
        front.submit(&[&payload(2)], false).unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn the_front_wakes_when_the_full_ring_drains() {
    model(3, || {
        let (front, mut back) = channel();
        let worker = thread::spawn(move || {
            for ticket in 1..=3 {
                expect(&mut back, ticket);
                back.retire().unwrap();
            }
            back
        });
        for ticket in 1..=3 {
            assert_eq!(front.submit(&[&payload(ticket)], false).unwrap(), ticket);
        }
        let back = worker.join().unwrap();
        assert_eq!(front.retired().unwrap(), 3);
        drop(back);
    });
}

#[test]
fn a_call_is_answered() {
    model(5, || {
        let (front, mut back) = channel();
        let worker = thread::spawn(move || {
            assert!(expect(&mut back, 1));
            back.completer().complete(1, &[b"one"]).unwrap();
            back.retire().unwrap();
            back
        });
        let ticket = front.submit(&[&payload(1)], true).unwrap();
        assert_eq!(front.wait(ticket).unwrap(), b"one");
        assert!(matches!(front.wait(ticket), Err(Error::UnknownTicket(1))));
        worker.join().unwrap();
    });
}

/// Both are outstanding before either is waited for, and the answers come the other way round: the
/// leader gets the follower's first, or is done first and must hand over.
#[test]
fn two_threads_get_their_own_answers() {
    model(4, || {
        let (front, mut back) = channel();
        let one = front.submit(&[&payload(1)], true).unwrap();
        let two = front.submit(&[&payload(2)], true).unwrap();
        let other = {
            let front = Arc::clone(&front);
            thread::spawn(move || assert_eq!(front.wait(one).unwrap(), b"one"))
        };
        let worker = thread::spawn(move || {
            let completer = back.completer();
            assert!(expect(&mut back, 1));
            assert!(expect(&mut back, 2));
            completer.complete(2, &[b"two"]).unwrap();
            completer.complete(1, &[b"one"]).unwrap();
            back
        });
        assert_eq!(front.wait(two).unwrap(), b"two");
        other.join().unwrap();
        worker.join().unwrap();
    });
}

/// One thread waits for room and one for an answer: whoever leads must serve the other.
#[test]
fn room_and_an_answer_are_waited_for_at_once() {
    model(3, || {
        let (front, mut back) = channel();
        let call = front.submit(&[&payload(1)], true).unwrap();
        front.submit(&[&payload(2)], false).unwrap();
        let other = {
            let front = Arc::clone(&front);
            thread::spawn(move || assert_eq!(front.submit(&[&payload(3)], false).unwrap(), 3))
        };
        let worker = thread::spawn(move || {
            expect(&mut back, 1);
            back.retire().unwrap();
            // The answer comes only once the other thread got its room.
            expect(&mut back, 2);
            expect(&mut back, 3);
            back.completer().complete(1, &[]).unwrap();
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
        let answered = front.submit(&[&payload(1)], true).unwrap();
        let forgotten = front.submit(&[&payload(2)], true).unwrap();
        let other = {
            let front = Arc::clone(&front);
            thread::spawn(move || assert_eq!(front.wait(answered).unwrap(), b"one"))
        };
        let worker = thread::spawn(move || {
            expect(&mut back, 1);
            back.completer().complete(1, &[b"one"]).unwrap();
            back.close(7).unwrap();
            back
        });
        assert!(matches!(
            front.wait(forgotten),
            Err(Error::Closed {
                peer: Side::Back,
                reason: 7
            })
        ));
        other.join().unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn the_back_wakes_when_the_front_leaves() {
    model(5, || {
        let (front, mut back) = channel();
        let worker = thread::spawn(move || {
            expect(&mut back, 1);
            let mut buf = Vec::new();
            loop {
                match back.next(&mut buf, None) {
                    Ok(found) => assert_eq!(found, None),
                    Err(Error::Closed { peer, .. }) => break assert_eq!(peer, Side::Front),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        front.submit(&[&payload(1)], false).unwrap();
        drop(front);
        worker.join().unwrap();
    });
}
