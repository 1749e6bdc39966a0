//! Many threads on one channel with rings so small that everything fills up all the time. The
//! doorbells here never time out, so that a wake-up that is lost is a hang, not a delay.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers are tests"
)]

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use vgpu_ring::{Back, Completer, Doorbell, Error, Front, Layout, SpinPolicy, inproc};

const THREADS: u32 = 4;
const CALLS: u32 = 2500;

/// A doorbell whose sleep ends with a ring only. Naps of a few milliseconds stay: they are taken
/// where another thread of the same end may bring what is wanted.
struct Deaf(Arc<inproc::Bell>);

impl Doorbell for Deaf {
    fn notify(&self) -> io::Result<()> {
        self.0.notify()
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        self.0
            .wait(timeout.filter(|limit| *limit <= Duration::from_millis(5)))
    }
}

/// What a call asks for: its first byte.
const ECHO: u8 = 0;
const SUM: u8 = 1;
const FILL: u8 = 2;

/// A small generator of its own per thread, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(17, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    })
}

fn call(kind: u8, thread: u32, number: u32) -> [u8; 9] {
    let mut call = [kind; 9];
    call[1..5].copy_from_slice(&thread.to_le_bytes());
    call[5..].copy_from_slice(&number.to_le_bytes());
    call
}

fn program(front: &Front, thread: u32) -> Result<(), Error> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ u64::from(thread));
    let mut later = Vec::new();
    for number in 0..CALLS {
        let echo = call(ECHO, thread, number);
        let body = vec![number as u8; dice.roll(600)];
        match dice.roll(8) {
            0..3 => {
                front.submit(&[&echo, &body], false)?;
            }
            3..6 => {
                let ticket = front.submit(&[&echo, &body], true)?;
                later.push((ticket, [&echo[..], &body].concat()));
                if dice.roll(3) == 0 {
                    for (ticket, expected) in later.drain(..).rev() {
                        assert_eq!(front.wait(ticket)?, expected);
                    }
                }
            }
            6 => {
                let staged = front.stage(dice.roll(4096) + 1)?;
                let data: Vec<u8> = (0..staged.len()).map(|_| dice.roll(256) as u8).collect();
                staged.write(&data)?;
                let place = [staged.offset(), data.len() as u64, sum(&data)].map(u64::to_le_bytes);
                let parts = [&call(SUM, thread, number)[..], place.as_flattened()];
                let ticket = front.submit(&parts, false)?;
                staged.release_at(ticket);
            }
            _ => {
                let staged = front.stage(dice.roll(4096) + 1)?;
                let mut data = vec![0; staged.len()];
                let place = [staged.offset(), data.len() as u64, 0].map(u64::to_le_bytes);
                let parts = [&call(FILL, thread, number)[..], place.as_flattened()];
                let ticket = front.submit(&parts, true)?;
                assert_eq!(front.wait(ticket)?, b"");
                staged.read(&mut data)?;
                assert!(data.iter().all(|byte| *byte == number as u8));
            }
        }
    }
    for (ticket, expected) in later {
        assert_eq!(front.wait(ticket)?, expected);
    }
    Ok(())
}

/// Executes until the front leaves; returns how many submissions it saw. Answers come from two more
/// threads, so they come in any order.
fn worker(mut back: Back) -> u64 {
    let answering: Vec<_> = (0..2)
        .map(|_| {
            let (send, receive) = mpsc::channel::<(u64, Vec<u8>)>();
            let completer: Completer = back.completer();
            let answering = thread::spawn(move || {
                for (ticket, answer) in receive {
                    let middle = answer.len() / 2;
                    completer
                        .complete(ticket, &[&answer[..middle], &answer[middle..]])
                        .unwrap();
                }
            });
            (send, answering)
        })
        .collect();
    let arena = back.arena();
    let mut next = [0u32; THREADS as usize];
    let (mut buf, mut last) = (Vec::new(), 0);
    loop {
        let submission = match back.next(&mut buf, None) {
            Ok(Some(submission)) => submission,
            Ok(None) => continue,
            Err(Error::Closed { .. }) => break,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(submission.ticket, last + 1);
        last = submission.ticket;
        let number = |at: usize| u32::from_le_bytes(buf[at..at + 4].try_into().unwrap());
        let (thread, count) = (number(1), number(5));
        assert_eq!(count, next[thread as usize], "program order of one thread");
        next[thread as usize] += 1;
        let mut answer = Vec::new();
        if buf[0] == ECHO {
            assert!(buf[9..].iter().all(|byte| *byte == count as u8));
            answer.clone_from(&buf);
        } else {
            let [offset, len, expected] =
                [9, 17, 25].map(|at| u64::from_le_bytes(buf[at..at + 8].try_into().unwrap()));
            let place = arena.check(offset, len).unwrap().as_ptr();
            let mut data = vec![count as u8; len as usize];
            if buf[0] == SUM {
                // SAFETY: the range was checked, and this front does not touch it until retirement.
                unsafe { place.copy_to_nonoverlapping(data.as_mut_ptr(), data.len()) };
                assert_eq!(sum(&data), expected);
            } else {
                // SAFETY: the range was checked, and this front does not touch it until the answer.
                unsafe { place.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
            }
        }
        if submission.wants_answer {
            let (send, _) = &answering[last as usize % 2];
            send.send((last, answer)).unwrap();
        }
        back.retire().unwrap();
    }
    for (send, answering) in answering {
        drop(send);
        answering.join().unwrap();
    }
    assert_eq!(next, [CALLS; THREADS as usize]);
    last
}

fn run(spin: SpinPolicy) {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        let layout = Layout::new(4096, 4096, 16384).unwrap();
        let memory = inproc::memory(layout.total_bytes());
        let (at_front, at_back) = inproc::bells();
        let (at_front, at_back) = (Arc::new(Deaf(at_front)), Arc::new(Deaf(at_back)));
        let front = Front::new(memory.clone(), layout, at_front, spin).unwrap();
        let patience = Duration::from_secs(30);
        let back = Back::attach(memory, layout, at_back, spin, patience).unwrap();
        let worker = thread::spawn(move || worker(back));
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let front = &front;
                scope.spawn(move || program(front, thread).unwrap());
            }
        });
        drop(front);
        done.send(worker.join().unwrap()).unwrap();
    });
    let submitted = finished
        .recv_timeout(Duration::from_secs(120))
        .expect("a thread died, or all of them sleep: a wake-up was lost");
    assert_eq!(submitted, u64::from(THREADS * CALLS));
}

#[test]
fn many_threads_that_poll() {
    run(SpinPolicy::micros(20));
}

#[test]
fn many_threads_that_sleep_at_once() {
    run(SpinPolicy::NEVER);
}
