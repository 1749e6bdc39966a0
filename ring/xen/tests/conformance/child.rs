//! A second process of a domain: to see what dying leaves, and what can be handed over.
//!
//! It gets one order through the socket that is its standard input, answers it, and then holds what
//! it has until it is killed.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};
use xen::event::EventKind;
use xen::local::message;
use xen::{
    Access, DomId, EventChannel, EventChannelParts, Extent, GrantMap, Gref, Mapping, PlatformSpec,
    Port,
};

use super::{Half, Outcome, await_byte, await_signal, byte, ensure, set_byte};

/// What the process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Bind the peer's port.
    Bind { port: Port },
    /// Bind the peer's port, map its pages, and have their unmapping notified.
    Map {
        port: Port,
        grefs: Vec<Gref>,
        offset: usize,
    },
    /// Bind the peer's port, grant it pages, and have their unmapping notified.
    Grant {
        port: Port,
        pages: u32,
        offset: usize,
    },
    /// Use the memory and the event channel that come along: find 1 in its first byte, write 2
    /// into its last, signal, wait for a signal and find 3 in its first.
    Use {
        extents: Vec<(u64, u32)>,
        kind: u8,
        port: Port,
    },
}

/// On which platform, with which domain, to do what.
#[derive(Serialize, Deserialize)]
struct Task {
    platform: String,
    peer: DomId,
    order: Order,
}

/// The references it granted, or what went wrong.
type Answer = Result<Vec<Gref>, String>;

/// A running child process, killed when dropped.
pub struct Process {
    child: Child,
    socket: OwnedFd,
}

impl Process {
    pub fn start(half: &Half, order: Order, fds: &[OwnedFd]) -> Outcome<Process> {
        let (socket, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let child = Command::new(&half.session.program)
            .arg("child")
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(|error| format!("{}: {error}", half.session.program.display()))?;
        let process = Process { child, socket };
        let task = Task {
            platform: half.session.spec.to_string(),
            peer: half.peer(),
            order,
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        message::send(&process.socket, &task, &fds, SendFlags::empty())?;
        Ok(process)
    }

    /// Starts one that shares this memory and event channel.
    pub fn with(half: &Half, extents: &[Extent], event: &EventChannel) -> Outcome<Process> {
        let parts = event.to_parts()?;
        let order = Order::Use {
            extents: extents
                .iter()
                .map(|extent| (extent.offset, extent.pages))
                .collect(),
            kind: parts.kind.into(),
            port: parts.port,
        };
        let mut fds = extents
            .iter()
            .map(|extent| extent.fd.try_clone())
            .collect::<Result<Vec<_>, _>>()?;
        fds.extend(parts.fds);
        Process::start(half, order, &fds)
    }

    /// Waits until it has done what it was told, and holds what it has.
    pub fn answer(&self) -> Outcome<Vec<Gref>> {
        match message::receive::<Answer>(&self.socket, 0, RecvFlags::empty())? {
            Some((Ok(grefs), _)) => Ok(grefs),
            Some((Err(text), _)) => Err(format!("in the child process: {text}").into()),
            None => Err("the child process ended without an answer".into()),
        }
    }

    pub fn kill(mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail after `kill`, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process does: `main` of the `child` command.
#[allow(
    dead_code,
    reason = "the program has this command, a test that starts it has not"
)]
pub fn run() -> Outcome {
    let socket = std::io::stdin();
    let (task, fds) =
        message::receive::<Task>(&socket, message::DESCRIPTORS_MAX, RecvFlags::empty())?
            .ok_or("no order came")?;
    let (answer, _held) = match obey(task, fds) {
        Ok((grefs, held)) => (Answer::Ok(grefs), Some(held)),
        Err(error) => (Answer::Err(error.to_string()), None),
    };
    message::send(&socket, &answer, &[], SendFlags::empty())?;
    // Nothing more comes: this waits until the other end is closed.
    message::receive::<Answer>(&socket, 0, RecvFlags::empty())?;
    Ok(())
}

/// What keeps the process's grants, mappings and ports.
#[derive(Default)]
struct Held {
    // In the order in which they have to go.
    _mapping: Option<Mapping>,
    _map: Option<GrantMap>,
    _granted: Option<xen::Granted>,
    _event: Option<EventChannel>,
}

fn obey(task: Task, fds: Vec<OwnedFd>) -> Outcome<(Vec<Gref>, Held)> {
    let peer = task.peer;
    if let Order::Use {
        extents,
        kind,
        port,
    } = task.order
    {
        return share(extents, kind, port, fds);
    }
    let platform = task.platform.parse::<PlatformSpec>()?.open()?;
    let bind = |port| -> Outcome<EventChannel> {
        let event = platform.bind_interdomain(peer, port)?;
        event.notify()?;
        Ok(event)
    };
    match task.order {
        Order::Use { .. } => Err("an order to share is obeyed without a platform".into()),
        Order::Bind { port } => {
            let held = Held {
                _event: Some(bind(port)?),
                ..Held::default()
            };
            Ok((vec![], held))
        }
        Order::Map {
            port,
            grefs,
            offset,
        } => {
            let event = bind(port)?;
            let map = platform.map(peer, &grefs, Access::ReadWrite)?;
            map.set_unmap_notify(offset, Some(&event))?;
            let held = Held {
                _mapping: Some(map.mmap()?),
                _map: Some(map),
                _event: Some(event),
                ..Held::default()
            };
            Ok((vec![], held))
        }
        Order::Grant {
            port,
            pages,
            offset,
        } => {
            let event = bind(port)?;
            let granted = platform.grant(peer, pages, Access::ReadWrite)?;
            granted.set_unmap_notify(offset, Some(&event))?;
            let grefs = granted.grefs().to_vec();
            let held = Held {
                _mapping: Some(granted.mmap()?),
                _granted: Some(granted),
                _event: Some(event),
                ..Held::default()
            };
            Ok((grefs, held))
        }
    }
}

/// Uses what another process handed over, without a platform of its own.
fn share(
    extents: Vec<(u64, u32)>,
    kind: u8,
    port: Port,
    mut fds: Vec<OwnedFd>,
) -> Outcome<(Vec<Gref>, Held)> {
    ensure!(fds.len() > extents.len(), "{} descriptors came", fds.len());
    let parts = EventChannelParts {
        kind: EventKind::try_from(kind)?,
        port,
        fds: fds.split_off(extents.len()),
    };
    let event = EventChannel::from_parts(parts)?;
    let extents: Vec<_> = extents
        .into_iter()
        .zip(fds)
        .map(|((offset, pages), fd)| Extent {
            fd: Arc::new(fd),
            offset,
            pages,
        })
        .collect();
    let mapping = Mapping::from_extents(&extents, Access::ReadWrite)?;
    ensure!(
        byte(&mapping, 0)? == 1,
        "the memory is not the one that was handed over"
    );
    set_byte(&mapping, mapping.len() - 1, 2)?;
    event.notify()?;
    await_signal(&event)?;
    // The signal may be the one that comes with the binding.
    await_byte(&mapping, 0, 3)?;
    let held = Held {
        _mapping: Some(mapping),
        _event: Some(event),
        ..Held::default()
    };
    Ok((vec![], held))
}
