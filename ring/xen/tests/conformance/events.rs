//! Event channels: who may bind what, and which signals arrive.

use std::os::fd::AsRawFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen::{DomId, Error, EventChannel, Port};

use super::child::{Order, Process};
use super::{
    Check, Half, NOBODY, Outcome, PATIENCE, QUIET, await_signal, ensure, ensure_fails, idle,
    quieten,
};

pub fn checks() -> Vec<Check> {
    let both_ways = |name, offerer, binder| Check::both_ways(name, "offers", offerer, binder);
    [
        both_ways("signals go both ways", ping, pong),
        both_ways("signals merge", burst, take_few),
        both_ways(
            "a port is for one domain and bound once",
            offer_two,
            bind_what_fits,
        ),
        both_ways("a closed end is bound again", stay, close_and_bind),
        both_ways(
            "the end that offered is bound again",
            close_offered,
            bind_back,
        ),
        both_ways("a dead process's end is bound again", stay, die_and_bind),
        both_ways("an end is handed to a process", answer_signals, hand_over),
        both_ways(
            "a restricted end binds nothing else",
            answer_signals,
            restrict,
        ),
        both_ways("waiting ends without a signal", wait_in_vain, idle),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn is_readable(event: &EventChannel) -> Outcome<bool> {
    let mut fds = [PollFd::from_borrowed_fd(event.poll_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default()))?;
    Ok(fds[0].revents().contains(PollFlags::IN))
}

fn ping(half: &Half) -> Outcome {
    let event = half.offer()?;
    half.hear("quiet")?;
    quieten(&event)?;
    event.notify()?;
    await_signal(&event)?;
    half.tell("done", "")?;
    half.hear("done")?;
    Ok(())
}

fn pong(half: &Half) -> Outcome {
    let event = half.bind()?;
    quieten(&event)?;
    ensure!(!is_readable(&event)?, "readable without a signal");
    ensure!(!event.clear()?, "a signal that is not there");
    half.tell("quiet", "")?;
    let readable = PollFd::from_borrowed_fd(event.poll_fd(), PollFlags::IN);
    poll(&mut [readable], Some(&Timespec::try_from(PATIENCE)?))?;
    ensure!(is_readable(&event)?, "not readable");
    ensure!(event.clear()?, "readable, but no signal");
    event.notify()?;
    half.tell("done", "")?;
    half.hear("done")?;
    Ok(())
}

fn burst(half: &Half) -> Outcome {
    let event = half.offer()?;
    half.hear("quiet")?;
    for _ in 0..100 {
        event.notify()?;
    }
    half.tell("sent", "")?;
    half.hear("counted")?;
    Ok(())
}

fn take_few(half: &Half) -> Outcome {
    let event = half.bind()?;
    quieten(&event)?;
    half.tell("quiet", "")?;
    half.hear("sent")?;
    await_signal(&event)?;
    let mut taken = 1;
    while event.wait(Some(QUIET))? {
        taken += 1;
    }
    // One that was pending, one that came while the port was masked.
    ensure!(
        taken <= 2,
        "100 signals that nobody took were taken as {taken}"
    );
    half.tell("counted", "")
}

fn offer_two(half: &Half) -> Outcome {
    let event = half.offer()?;
    let for_another = half.platform().bind_unbound(NOBODY)?;
    ensure!(event.port() != for_another.port(), "one port twice");
    half.tell("for-another", for_another.port())?;
    half.hear("tried")?;
    Ok(())
}

fn bind_what_fits(half: &Half) -> Outcome {
    let refused = |remote: DomId, port: Port, what: &str| -> Outcome {
        ensure_fails!(
            half.platform().bind_interdomain(remote, port),
            Error::NotOffered { .. },
            "binding {what}"
        );
        Ok(())
    };
    let port = half.offered()?;
    let for_another = half.hear("for-another")?.parse()?;
    refused(
        half.peer(),
        for_another,
        "a port that is for another domain",
    )?;
    refused(half.peer(), Port(1022), "a port that is not there")?;
    refused(half.peer(), Port(u32::MAX), "a port that cannot be")?;
    refused(NOBODY, Port(1), "a port of a domain that is not there")?;
    let event = half.platform().bind_interdomain(half.peer(), port)?;
    refused(half.peer(), port, "a port that is bound")?;
    event.notify()?;
    half.tell("tried", "")
}

/// Waits for one signal after another on the same end, while the other comes and goes.
fn stay(half: &Half) -> Outcome {
    let event = half.offer()?;
    for step in ["first", "second"] {
        half.hear(step)?;
        await_signal(&event)?;
        quieten(&event)?;
        half.tell(step, "")?;
    }
    half.hear("done")?;
    // With nobody at the other end, signals are lost without an error.
    event.notify()?;
    Ok(())
}

fn close_and_bind(half: &Half) -> Outcome {
    for step in ["first", "second"] {
        let event = half.bind()?;
        event.notify()?;
        half.tell(step, "")?;
        half.hear(step)?;
    }
    half.tell("done", "")
}

fn die_and_bind(half: &Half) -> Outcome {
    let order = Order::Bind {
        port: half.offered()?,
    };
    let process = Process::start(half, order, &[])?;
    process.answer()?;
    half.tell("first", "")?;
    half.hear("first")?;
    process.kill()?;
    let event = half.bind()?;
    event.notify()?;
    half.tell("second", "")?;
    half.hear("second")?;
    half.tell("done", "")
}

fn close_offered(half: &Half) -> Outcome {
    let event = half.offer()?;
    let port = half.hear("bound")?.parse()?;
    drop(event);
    let event = half.platform().bind_interdomain(half.peer(), port)?;
    event.notify()?;
    half.tell("bound-back", "")?;
    half.hear("done")?;
    Ok(())
}

fn bind_back(half: &Half) -> Outcome {
    let event = half.bind()?;
    quieten(&event)?;
    half.tell("bound", event.port())?;
    half.hear("bound-back")?;
    await_signal(&event)?;
    half.tell("done", "")
}

/// Answers a signal with a signal until the other half is done.
fn answer_signals(half: &Half) -> Outcome {
    let event = half.offer()?;
    half.hear("ready")?;
    quieten(&event)?;
    half.tell("go", "")?;
    await_signal(&event)?;
    event.notify()?;
    half.hear("done")?;
    Ok(())
}

fn hand_over(half: &Half) -> Outcome {
    let event = half.bind()?;
    quieten(&event)?;
    let copy = EventChannel::from_parts(event.to_parts()?)?;
    ensure!(copy.port() == event.port(), "another port");
    // The end lives on in what was made of its parts.
    drop(event);
    ensure_fails!(
        half.platform()
            .bind_interdomain(half.peer(), half.offered()?),
        Error::NotOffered { .. },
        "binding a port whose end was handed over"
    );
    half.tell("ready", "")?;
    half.hear("go")?;
    copy.notify()?;
    await_signal(&copy)?;
    half.tell("done", "")
}

fn restrict(half: &Half) -> Outcome {
    let event = half.bind()?;
    if half.peer() == DomId(0) {
        ensure_fails!(
            event.restrict(half.peer()),
            Error::Invalid(_),
            "restricting to domain 0"
        );
    } else {
        event.restrict(half.peer())?;
        // IOCTL_EVTCHN_BIND_UNBOUND_PORT for the peer, on the descriptor itself.
        let mut remote = u32::from(half.peer().0);
        // SAFETY: the ioctl reads one u32; other descriptors refuse it.
        let result =
            unsafe { libc::ioctl(event.poll_fd().as_raw_fd(), 0x0004_4502, &raw mut remote) };
        ensure!(result < 0, "a restricted descriptor offered port {result}");
    }
    quieten(&event)?;
    half.tell("ready", "")?;
    half.hear("go")?;
    event.notify()?;
    await_signal(&event)?;
    half.tell("done", "")
}

fn wait_in_vain(half: &Half) -> Outcome {
    let event = half.platform().bind_unbound(half.peer())?;
    quieten(&event)?;
    ensure!(!event.wait(Some(QUIET))?, "a signal from nobody");
    ensure!(!event.clear()?, "a signal from nobody");
    Ok(())
}
