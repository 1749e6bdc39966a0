//! Prints what a channel costs on this machine: round trips and posted calls per second, doorbell
//! rings per call, and the arena's copy rate. Both ends run in this process; a doorbell is a
//! condition variable. Run it with `--release`; it must decide nothing and test nothing.
//!
//! ```text
//! cargo run --release -p vgpu-ring --example latency [seconds per line]
//! ```

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use vgpu_ring::{Back, Front, Layout, SpinPolicy, inproc};

const CALL_BYTES: usize = 64;
const ANSWER: &[u8] = &[7; 8];

/// What one thread of the program does with its clone of the front; returns the calls it made.
type Work = fn(&Front, Instant) -> Result<u64, vgpu_ring::Error>;

fn main() -> Result<(), Box<dyn Error>> {
    let seconds: f64 = match std::env::args().nth(1) {
        Some(argument) => argument.parse()?,
        None => 1.0,
    };
    let time = Duration::from_secs_f64(seconds);
    println!(
        "{:<44}{:>12}{:>10}{:>14}{:>14}",
        "", "calls/s", "ns/call", "front rings", "back rings"
    );
    println!(
        "{:<44}{:>12}{:>10}{:>14}{:>14}",
        "", "", "", "per call", "per call"
    );
    let polling = SpinPolicy::default();
    line("round trips, polling", 1, polling, time, round_trips)?;
    line(
        "round trips, polling, 2 threads",
        2,
        polling,
        time,
        round_trips,
    )?;
    line(
        "round trips, polling, 8 threads",
        8,
        polling,
        time,
        round_trips,
    )?;
    line(
        "round trips, sleeping",
        1,
        SpinPolicy::NEVER,
        time,
        round_trips,
    )?;
    line(
        "round trips, sleeping, 8 threads",
        8,
        SpinPolicy::NEVER,
        time,
        round_trips,
    )?;
    line("posted, an answer every 1000", 1, polling, time, posted)?;
    line(
        "posted, an answer every 1000, sleeping",
        1,
        SpinPolicy::NEVER,
        time,
        posted,
    )?;
    line("staged 64 KiB, posted", 1, polling, time, staged)?;
    Ok(())
}

fn line(
    name: &str,
    threads: usize,
    spin: SpinPolicy,
    time: Duration,
    work: Work,
) -> Result<(), Box<dyn Error>> {
    let layout = Layout::new(64 << 10, 64 << 10, 2 << 20)?;
    let memory = inproc::memory(layout.total_bytes());
    let (at_front, at_back) = inproc::bells();
    let front = Front::new(memory.clone(), layout, at_front.clone(), spin)?;
    let mut back = Back::attach(
        memory,
        layout,
        at_back.clone(),
        spin,
        Duration::from_secs(5),
    )?;
    let worker = thread::spawn(move || {
        let completer = back.completer();
        let mut call = Vec::new();
        loop {
            match back.next(&mut call, None) {
                Ok(Some(submission)) => {
                    if submission.wants_answer {
                        completer.complete(submission.ticket, &[ANSWER])?;
                    }
                    back.retire()?;
                }
                Ok(None) => {}
                Err(vgpu_ring::Error::Closed { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    });
    let calls = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let until = start + time;
    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let programs: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| work(&front, until).map(|n| calls.fetch_add(n, Ordering::Relaxed)))
            })
            .collect();
        for program in programs {
            program.join().map_err(|_| "a program thread died")??;
        }
        Ok(())
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    drop(front);
    worker.join().map_err(|_| "the worker died")??;
    let calls = calls.load(Ordering::Relaxed) as f64;
    println!(
        "{name:<44}{:>12.0}{:>10.0}{:>14.4}{:>14.4}",
        calls / elapsed,
        elapsed * 1e9 / calls,
        at_front.rings() as f64 / calls,
        at_back.rings() as f64 / calls,
    );
    Ok(())
}

fn round_trips(front: &Front, until: Instant) -> Result<u64, vgpu_ring::Error> {
    let call = [1; CALL_BYTES];
    let mut calls = 0;
    while Instant::now() < until {
        for _ in 0..100 {
            let ticket = front.submit(&[&call], true)?;
            front.wait(ticket)?;
        }
        calls += 100;
    }
    Ok(calls)
}

fn posted(front: &Front, until: Instant) -> Result<u64, vgpu_ring::Error> {
    let call = [1; CALL_BYTES];
    let mut calls = 0;
    while Instant::now() < until {
        for _ in 0..999 {
            front.submit(&[&call], false)?;
        }
        let ticket = front.submit(&[&call], true)?;
        front.wait(ticket)?;
        calls += 1000;
    }
    Ok(calls)
}

fn staged(front: &Front, until: Instant) -> Result<u64, vgpu_ring::Error> {
    let data = vec![3; 64 << 10];
    let mut calls = 0;
    while Instant::now() < until {
        for _ in 0..100 {
            let staged = front.stage(data.len())?;
            staged.write(&data)?;
            let ticket = front.submit(&[&staged.offset().to_le_bytes()], false)?;
            staged.release_at(ticket);
        }
        calls += 100;
    }
    Ok(calls)
}
