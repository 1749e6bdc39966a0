//! The programs: each is a connection to our Unix socket, a thread here, and at most one channel.
//!
//! A connection lives as long as its program; when it ends, so does the channel. Must never trust what
//! a program says, nor let one user's programs use up the connections of the others.

use crate::Error;
use crate::control::{Channel, Control, ControlError, Program};
use cuda_abi::CuResult;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen,
    shutdown, socket_with, sockopt,
};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::PROTOCOL_VERSION;
use vgpu_protocol::codec::Bytes;
use vgpu_protocol::control::{NAME_LIMIT, Status, clip};
use vgpu_protocol::guest::{
    FromFrontd, FromProgram, MAGIC, Opened, Refused, RegionAdded, RegionRemoved,
};
use vgpu_protocol::packet::{self, PacketError};
use vgpu_protocol::wait::{Wake, wait_any};
use vgpu_ring::Layout;
use xen::Extent;

/// Most connections at once, of all users.
const CONNECTIONS_LIMIT: usize = 1000;

/// How long a program waits for a device that is about to be connected.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The socket that programs connect to; removed when dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, for programs of any user.
    ///
    /// # Errors
    /// [`Error::Listen`], also where another frontd listens there.
    pub fn bind(path: &Path) -> Result<Listener, Error> {
        let fail = |source: std::io::Error| Error::Listen {
            path: path.to_owned(),
            source,
        };
        let seqpacket = || {
            socket_with(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .map_err(|errno| fail(errno.into()))
        };
        let address = SocketAddrUnix::new(path).map_err(|errno| fail(errno.into()))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(fail)?;
        }
        if connect(&seqpacket()?, &address).is_ok() {
            return Err(fail(std::io::ErrorKind::AddrInUse.into()));
        }
        // Nobody answers there: what is left of a frontd that was killed.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let socket = seqpacket()?;
        bind(&socket, &address).map_err(|errno| fail(errno.into()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(fail)?;
        listen(&socket, 128).map_err(|errno| fail(errno.into()))?;
        Ok(Listener {
            socket,
            path: path.to_owned(),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nothing to do about a failure: the next frontd removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the device's thread and the programs' threads share.
#[derive(Debug)]
pub struct Clients {
    layout: Layout,
    programs_per_user: u32,
    state: Mutex<Shared>,
    changed: Condvar,
}

#[derive(Debug)]
struct Shared {
    way: Way,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

/// The way to the backend.
#[derive(Clone, Debug)]
enum Way {
    /// The device is connected.
    Open(Arc<Control>),
    /// It is about to be; why it is not yet.
    Soon(String),
    /// It is not, and that may last; why.
    Shut(String),
}

#[derive(Debug)]
struct Connection {
    socket: Arc<OwnedFd>,
    uid: u32,
    /// It has a channel, or is being given one.
    admitted: bool,
}

impl Clients {
    /// No programs, and no device yet.
    pub fn new(layout: Layout, programs_per_user: u32) -> Arc<Clients> {
        Arc::new(Clients {
            layout,
            programs_per_user,
            state: Mutex::new(Shared {
                way: Way::Soon("vgpu-frontd has just started".into()),
                connections: BTreeMap::new(),
                next: 0,
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing panics while it holds the lock, so that what it guards is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets programs in.
    pub fn open(&self, control: Arc<Control>) {
        self.set(Way::Open(control));
    }

    /// Has programs wait for a moment: the device is about to be connected.
    pub fn hold(&self, reason: &str) {
        self.set(Way::Soon(reason.to_owned()));
    }

    /// Refuses programs from now on, with this reason.
    pub fn refuse(&self, reason: &str) {
        self.set(Way::Shut(reason.to_owned()));
    }

    fn set(&self, way: Way) {
        self.lock().way = way;
        self.changed.notify_all();
    }

    /// The control ring, or why there is none even after a moment.
    fn control(&self) -> Result<Arc<Control>, String> {
        let deadline = Instant::now().checked_add(CONNECT_PATIENCE);
        let mut state = self.lock();
        loop {
            let reason = match &state.way {
                Way::Open(control) => return Ok(control.clone()),
                Way::Soon(reason) => reason.clone(),
                Way::Shut(reason) => return Err(reason.clone()),
            };
            let left = left_until(deadline);
            if left.is_zero() {
                return Err(reason);
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Sends all programs away, with this reason, and waits until their channels are closed, at most
    /// for `patience`.
    pub fn close(&self, reason: &str, patience: Duration) {
        let deadline = Instant::now().checked_add(patience);
        let mut state = self.lock();
        state.way = Way::Shut(reason.to_owned());
        self.changed.notify_all();
        for connection in state.connections.values() {
            // One that has ended already needs no shutdown.
            let _ = shutdown(&*connection.socket, Shutdown::Both);
        }
        while !state.connections.is_empty() {
            let left = left_until(deadline);
            if left.is_zero() {
                tracing::warn!(
                    programs = state.connections.len(),
                    "programs that do not end are left behind"
                );
                return;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Accepts programs until `stop` is woken.
    pub fn accept(self: Arc<Self>, listener: Listener, stop: &Wake) {
        loop {
            if let Err(error) = wait_any(&[listener.socket.as_fd(), stop.as_fd()], None) {
                tracing::error!(%error, "cannot wait for programs");
                return;
            }
            if vgpu_protocol::wait::is_ready(stop) {
                return;
            }
            match rustix::net::accept_with(&listener.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => self.clone().welcome(socket),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(error) => {
                    // Out of descriptors, most likely: it passes when programs end.
                    tracing::warn!(%error, "cannot accept a program");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn welcome(self: Arc<Self>, socket: OwnedFd) {
        let socket = Arc::new(socket);
        let Ok(peer) = sockopt::socket_peercred(&*socket) else {
            return;
        };
        let uid = peer.uid.as_raw();
        let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
        let number = {
            let mut state = self.lock();
            let of_user = state
                .connections
                .values()
                .filter(|one| one.uid == uid)
                .count();
            let most = (self.programs_per_user as usize).saturating_mul(2);
            if of_user >= most || state.connections.len() >= CONNECTIONS_LIMIT {
                tracing::warn!(uid, pid, of_user, "too many connections: one is closed");
                return;
            }
            let number = state.next;
            state.next = number.wrapping_add(1);
            let connection = Connection {
                socket: socket.clone(),
                uid,
                admitted: false,
            };
            state.connections.insert(number, connection);
            number
        };
        let clients = self.clone();
        let thread = std::thread::Builder::new()
            .name(format!("program-{pid}"))
            .spawn(move || {
                let program = Program {
                    uid,
                    pid,
                    name: name_of(pid),
                };
                clients.serve(number, &socket, &program);
                clients.leave(number);
            });
        if let Err(error) = thread {
            tracing::error!(%error, "no thread for a program");
            self.leave(number);
        }
    }

    /// Counts a connection among its user's programs.
    fn admit(&self, number: u64, uid: u32) -> Result<(), (CuResult, String)> {
        let mut state = self.lock();
        let others = state
            .connections
            .iter()
            .filter(|(at, one)| **at != number && one.uid == uid && one.admitted);
        if others.count() >= self.programs_per_user as usize {
            let reason = format!(
                "user {uid} has {} programs on the GPU already; end some, or start vgpu-frontd with a larger --programs-per-user",
                self.programs_per_user
            );
            return Err((CuResult::OUT_OF_MEMORY, reason));
        }
        if let Some(connection) = state.connections.get_mut(&number) {
            connection.admitted = true;
        }
        Ok(())
    }

    fn leave(&self, number: u64) {
        self.lock().connections.remove(&number);
        self.changed.notify_all();
    }

    /// A program's life.
    fn serve(&self, number: u64, socket: &OwnedFd, program: &Program) {
        let mut channel = None;
        loop {
            let message = match packet::receive::<FromProgram>(socket) {
                Ok((message, _)) => message,
                Err(PacketError::Closed) => break,
                Err(error) => {
                    tracing::info!(pid = program.pid, %error, "a program is sent away");
                    break;
                }
            };
            let answered = match self.answer(number, &message, &mut channel, program) {
                Ok(answer) => answer.send(socket),
                Err((status, reason)) => {
                    tracing::warn!(pid = program.pid, program = program.name, "{reason}");
                    refuse(socket, status, &reason);
                    Ok(())
                }
            };
            if let Err(error) = answered {
                tracing::debug!(pid = program.pid, %error, "a program did not take its answer");
                break;
            }
        }
    }

    fn answer(
        &self,
        number: u64,
        message: &FromProgram,
        channel: &mut Option<Channel>,
        program: &Program,
    ) -> Result<Reply, (CuResult, String)> {
        match (message, channel) {
            (FromProgram::Hello(hello), channel @ None) => {
                if hello.magic != MAGIC || hello.version != PROTOCOL_VERSION {
                    let reason = format!(
                        "this program's libcuda.so.1 speaks version {} and vgpu-frontd version {PROTOCOL_VERSION}; install both from the same release",
                        hello.version
                    );
                    return Err((CuResult::SYSTEM_DRIVER_MISMATCH, reason));
                }
                self.admit(number, program.uid)?;
                let control = self.control().map_err(|reason| {
                    (
                        CuResult::SYSTEM_NOT_READY,
                        format!("the vgpu device is not connected: {reason}"),
                    )
                })?;
                let opened = control
                    .open_channel(self.layout, program)
                    .map_err(explain)?;
                tracing::info!(
                    channel = opened.number(),
                    pid = program.pid,
                    uid = program.uid,
                    program = program.name,
                    "channel opened"
                );
                let reply = Reply::opened(&opened);
                *channel = Some(opened);
                reply
            }
            (FromProgram::AddRegion(add), Some(channel)) => {
                let (region, extents) = channel.add_region(add.bytes).map_err(explain)?;
                Ok(Reply::region(region, extents))
            }
            (FromProgram::RemoveRegion(remove), Some(channel)) => {
                channel.remove_region(remove.region).map_err(explain)?;
                let removed = FromFrontd::RegionRemoved(RegionRemoved {
                    region: remove.region,
                });
                Ok(Reply {
                    message: removed,
                    fds: Vec::new(),
                })
            }
            (FromProgram::Hello(_), Some(_)) | (_, None) => {
                let reason = "a program says Hello once, and first".to_owned();
                Err((CuResult::INVALID_VALUE, reason))
            }
        }
    }
}

/// An answer with its descriptors.
struct Reply {
    message: FromFrontd,
    fds: Vec<Arc<OwnedFd>>,
}

impl Reply {
    fn opened(channel: &Channel) -> Result<Reply, (CuResult, String)> {
        let mut fds = Vec::new();
        let memory = packet::put_extents(channel.extents(), &mut fds);
        let event = packet::put_event(channel.event(), &mut fds)
            .map_err(|error| (CuResult::OPERATING_SYSTEM, error.to_string()))?;
        let Layout {
            sq_bytes,
            cq_bytes,
            arena_bytes,
        } = channel.layout();
        let message = FromFrontd::Opened(Opened {
            sq_bytes,
            cq_bytes,
            arena_bytes,
            memory,
            event,
        });
        Ok(Reply { message, fds })
    }

    fn region(region: u32, extents: &[Extent]) -> Reply {
        let mut fds = Vec::new();
        let memory = packet::put_extents(extents, &mut fds);
        Reply {
            message: FromFrontd::RegionAdded(RegionAdded { region, memory }),
            fds,
        }
    }

    fn send(&self, socket: &OwnedFd) -> Result<(), PacketError> {
        let fds: Vec<_> = self.fds.iter().map(|fd| fd.as_fd()).collect();
        packet::send(socket, &self.message, &fds)
    }
}

fn left_until(deadline: Option<Instant>) -> Duration {
    deadline.map_or(Duration::ZERO, |at| {
        at.saturating_duration_since(Instant::now())
    })
}

fn refuse(socket: &OwnedFd, status: CuResult, reason: &str) {
    let reason = Bytes(reason.as_bytes().to_vec());
    // A program that does not take it ends anyway.
    let _ = packet::send(
        socket,
        &FromFrontd::Refused(Refused {
            status: status.0,
            reason,
        }),
        &[],
    );
}

/// What a program is told.
fn explain(error: ControlError) -> (CuResult, String) {
    let status = match &error {
        error if error.is_grant_limit() => CuResult::OUT_OF_MEMORY,
        ControlError::Refused(Status::Limit, _) => CuResult::OUT_OF_MEMORY,
        ControlError::Refused(Status::Invalid, _) => CuResult::INVALID_VALUE,
        ControlError::Nonsense(_) => CuResult::SYSTEM_DRIVER_MISMATCH,
        ControlError::Ring(_) => CuResult::DEVICE_UNAVAILABLE,
        ControlError::List(vgpu_protocol::grants::GrantListError::Size { .. }) => {
            CuResult::OUT_OF_MEMORY
        }
        _ => CuResult::SYSTEM_NOT_READY,
    };
    (status, error.to_string())
}

/// A process's name, as ps shows it.
fn name_of(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    clip(name.trim_end(), NAME_LIMIT).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_daemons_socket_is_taken_over_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/frontd.sock");
        let listener = Listener::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        let error = Listener::bind(&path).unwrap_err();
        assert!(error.to_string().contains("another vgpu-frontd"), "{error}");
        // Killed: the socket stays, and nobody listens.
        let Listener { socket, path: _ } = &listener;
        shutdown(socket, Shutdown::Both).unwrap();
        let successor = Listener::bind(&path).unwrap();
        std::mem::forget(listener);
        drop(successor);
        assert!(!path.exists());
    }

    #[test]
    fn a_user_has_so_many_programs_and_no_more() {
        let clients = Clients::new(Layout::new(4096, 4096, 0).unwrap(), 2);
        let socket = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        for (number, uid) in [(0, 7), (1, 7), (2, 7), (3, 8)] {
            let connection = Connection {
                socket: socket.clone(),
                uid,
                admitted: false,
            };
            clients.lock().connections.insert(number, connection);
        }
        clients.admit(0, 7).unwrap();
        clients.admit(1, 7).unwrap();
        let (status, reason) = clients.admit(2, 7).unwrap_err();
        assert_eq!(status, CuResult::OUT_OF_MEMORY);
        assert!(reason.contains("--programs-per-user"), "{reason}");
        clients.admit(3, 8).unwrap();
        // One that asks again counts once, and one that leaves makes room.
        clients.admit(1, 7).unwrap();
        clients.leave(0);
        clients.admit(2, 7).unwrap();
    }

    #[test]
    fn programs_are_told_why_there_is_no_device() {
        let clients = Clients::new(Layout::new(4096, 4096, 0).unwrap(), 2);
        clients.refuse("it is being detached");
        assert_eq!(clients.control().unwrap_err(), "it is being detached");
    }
}
