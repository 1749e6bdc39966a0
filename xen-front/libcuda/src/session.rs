//! The process's connection to the backend: one channel, shared by all its threads.
//!
//! Posted calls are submitted and forgotten; waited calls return the worker's answer; what never
//! changes is asked once. Must never let an answer through that does not decode, nor be used in a
//! forked child, which shares the parent's queue.

use crate::context;
use crate::handles::{Handles, lock};
use crate::memory::Memory;
use crate::module::Modules;
use cuda_abi::CuResult;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};
use tracing_subscriber::EnvFilter;
use vgpu_protocol::PROTOCOL_VERSION;
use vgpu_protocol::calls::{Request, decode_reply, encode_call};
use vgpu_protocol::channel::{Bell, shared_memory};
use vgpu_protocol::codec::Codec;
use vgpu_protocol::guest::{FromFrontd, FromProgram, Hello, MAGIC, SOCKET, SOCKET_VARIABLE};
use vgpu_protocol::packet::{self, PacketError};
use vgpu_ring::{Front, Layout, SpinPolicy, Ticket};
use xen::{Access, Mapping};

/// Everything the process has of the backend.
pub struct Session {
    /// The queue.
    pub front: Front,
    /// Live handles.
    pub handles: Handles,
    /// Device and page-locked memory.
    pub memory: Memory,
    /// Modules and kernels.
    pub modules: Modules,
    /// Contexts.
    pub contexts: context::Contexts,
    socket: Mutex<OwnedFd>,
    /// Answers that never change, by request.
    known: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
}

static SESSION: OnceLock<Session> = OnceLock::new();
static CONNECTING: Mutex<()> = Mutex::new(());
static FORKED: AtomicBool = AtomicBool::new(false);

/// The connection to frontd, for [`in_child`]; -1 for none.
static SOCKET_FD: AtomicI32 = AtomicI32::new(-1);

/// Runs in a forked child. The channel is the parent's: the child must not use it, nor keep it open when
/// the parent is gone.
extern "C" fn in_child() {
    FORKED.store(true, Ordering::Relaxed);
    let socket = SOCKET_FD.load(Ordering::Relaxed);
    if socket != -1 {
        // SAFETY: closes the child's copy of a descriptor that nothing in the child uses any more.
        unsafe { libc::close(socket) };
    }
}

/// The session, once `cuInit` has succeeded in this very process.
pub fn session() -> Result<&'static Session, CuResult> {
    if FORKED.load(Ordering::Relaxed) {
        return Err(CuResult::NOT_INITIALIZED);
    }
    SESSION.get().ok_or(CuResult::NOT_INITIALIZED)
}

/// Connects, unless that has been done. Says in the log why it could not.
pub fn connect() -> Result<&'static Session, CuResult> {
    if FORKED.load(Ordering::Relaxed) {
        return Err(CuResult::NOT_INITIALIZED);
    }
    let _one_at_a_time = lock(&CONNECTING);
    if let Some(session) = SESSION.get() {
        return Ok(session);
    }
    log_to_stderr();
    let session = Session::open().map_err(|failure| {
        let (status, reason) = failure.explain();
        tracing::error!(%status, "no GPU for this program: {reason}");
        status
    })?;
    SOCKET_FD.store(lock(&session.socket).as_raw_fd(), Ordering::Relaxed);
    static WATCH_FORKS: Once = Once::new();
    // SAFETY: registers a handler that uses atomics and closes a descriptor, which a child may do.
    WATCH_FORKS.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
    Ok(SESSION.get_or_init(|| session))
}

fn log_to_stderr() {
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        let filter =
            EnvFilter::try_from_env("XEN_VGPU_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
        // A program that has a subscriber of its own keeps it.
        let _ = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_env_filter(filter)
            .try_init();
    });
}

/// Why there is no session.
enum Failure {
    NoFrontd(PathBuf, std::io::Error),
    Refused(u32, String),
    Nonsense(String),
}

impl From<PacketError> for Failure {
    fn from(error: PacketError) -> Self {
        Failure::Nonsense(format!("vgpu-frontd: {error}"))
    }
}

impl Failure {
    fn explain(self) -> (CuResult, String) {
        match self {
            Failure::NoFrontd(path, error) => (
                CuResult::NO_DEVICE,
                format!(
                    "cannot reach vgpu-frontd at {}: {error}; start vgpu-frontd in this guest, or set {SOCKET_VARIABLE}",
                    path.display()
                ),
            ),
            Failure::Refused(status, reason) => (CuResult(status), reason),
            Failure::Nonsense(reason) => (CuResult::SYSTEM_DRIVER_MISMATCH, reason),
        }
    }
}

impl Session {
    fn open() -> Result<Session, Failure> {
        let path =
            std::env::var_os(SOCKET_VARIABLE).map_or_else(|| PathBuf::from(SOCKET), PathBuf::from);
        let socket = dial(&path).map_err(|error| Failure::NoFrontd(path, error.into()))?;
        let hello = FromProgram::Hello(Hello {
            magic: MAGIC,
            version: PROTOCOL_VERSION,
        });
        packet::send(&socket, &hello, &[])?;
        let (answer, fds) = packet::receive::<FromFrontd>(&socket)?;
        let opened = match answer {
            FromFrontd::Opened(opened) => opened,
            FromFrontd::Refused(r) => {
                return Err(Failure::Refused(
                    r.status,
                    String::from_utf8_lossy(&r.reason.0).into_owned(),
                ));
            }
            _ => {
                return Err(Failure::Nonsense(
                    "vgpu-frontd did not open a channel".into(),
                ));
            }
        };
        let fds: Vec<Arc<OwnedFd>> = fds.into_iter().map(Arc::new).collect();
        let extents = packet::take_extents(&opened.memory, &fds)?;
        let event = packet::take_event(&opened.event, &fds)?;
        let mapping =
            Mapping::from_extents(&extents, Access::ReadWrite).map_err(PacketError::Xen)?;
        let wrong = |e: vgpu_ring::Error| Failure::Nonsense(e.to_string());
        let layout =
            Layout::new(opened.sq_bytes, opened.cq_bytes, opened.arena_bytes).map_err(wrong)?;
        let front = Front::join(
            shared_memory(mapping),
            layout,
            Arc::new(Bell(event)),
            SpinPolicy::default(),
        )
        .map_err(wrong)?;
        Ok(Session {
            front,
            handles: Handles::default(),
            memory: Memory::default(),
            modules: Modules::default(),
            contexts: context::Contexts::default(),
            socket: Mutex::new(socket),
            known: Mutex::default(),
        })
    }

    /// Submits a call that nobody waits for.
    pub fn post<R: Request>(&self, request: &R) -> Result<Ticket, CuResult> {
        self.submit(request, false)
    }

    /// Submits a call whose answer [`Session::finish`] takes.
    pub fn start<R: Request>(&self, request: &R) -> Result<Ticket, CuResult> {
        self.submit(request, true)
    }

    /// Waits for the answer to a call.
    pub fn finish<R: Request>(&self, ticket: Ticket) -> Result<R::Reply, CuResult> {
        let bytes = self.front.wait(ticket).map_err(lost)?;
        decode_reply(&bytes).unwrap_or_else(|error| {
            tracing::error!(call = ?R::CALL, %error, "the backend's answer makes no sense");
            Err(CuResult::SYSTEM_DRIVER_MISMATCH)
        })
    }

    /// Submits a call and waits for its answer.
    pub fn call<R: Request>(&self, request: &R) -> Result<R::Reply, CuResult> {
        self.finish::<R>(self.start(request)?)
    }

    /// The answer to a call that always has the same one.
    pub fn once<R: Request>(&self, request: &R) -> Result<R::Reply, CuResult> {
        let mut key = (R::CALL as u16).encode();
        request.put(&mut key);
        if let Some(bytes) = lock(&self.known).get(&key) {
            return R::Reply::decode(bytes).map_err(|_| CuResult::UNKNOWN);
        }
        let reply = self.call(request)?;
        lock(&self.known).insert(key, reply.encode());
        Ok(reply)
    }

    fn submit<R: Request>(&self, request: &R, wants_answer: bool) -> Result<Ticket, CuResult> {
        let context = context::current();
        if context == 0 && R::CALL.needs_context() {
            return Err(CuResult::INVALID_CONTEXT);
        }
        self.front
            .submit(&[&encode_call(context, request)], wants_answer)
            .map_err(lost)
    }

    /// Says something to frontd and takes its answer, with the descriptors that came along.
    pub fn ask_frontd(
        &self,
        message: &FromProgram,
    ) -> Result<(FromFrontd, Vec<Arc<OwnedFd>>), CuResult> {
        let socket = lock(&self.socket);
        let exchange = packet::send(&*socket, message, &[])
            .and_then(|()| packet::receive::<FromFrontd>(&*socket));
        match exchange {
            Ok((FromFrontd::Refused(r), _)) => {
                tracing::warn!("{}", String::from_utf8_lossy(&r.reason.0));
                Err(CuResult(r.status))
            }
            Ok((answer, fds)) => Ok((answer, fds.into_iter().map(Arc::new).collect())),
            Err(error) => {
                tracing::error!(%error, "lost vgpu-frontd");
                Err(CuResult::DEVICE_UNAVAILABLE)
            }
        }
    }
}

/// What a dead channel means to the program: as after a fatal error of a GPU, every later call fails.
pub fn lost(error: vgpu_ring::Error) -> CuResult {
    static SAID: Once = Once::new();
    if let vgpu_ring::Error::TooLong { .. } = error {
        return CuResult::INVALID_VALUE;
    }
    SAID.call_once(|| tracing::error!(%error, "this program's connection to the GPU has ended; start the program again"));
    CuResult::DEVICE_UNAVAILABLE
}

fn dial(path: &std::path::Path) -> Result<OwnedFd, rustix::io::Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
