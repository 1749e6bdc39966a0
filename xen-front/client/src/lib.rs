//! A program's channel to the backend: opened through vgpu-frontd, shared by all threads of the process.
//!
//! Posted calls are submitted and forgotten; waited calls return the worker's answer; what never
//! changes is asked once. It loads into arbitrary programs: it must never let an answer through that
//! does not decode, end the process, or print to standard output.

mod pci;

pub use pci::PciAddress;

use cuda_abi::CuResult;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use tracing_subscriber::EnvFilter;
use vgpu_protocol::PROTOCOL_VERSION;
use vgpu_protocol::calls::{Request, decode_reply, encode_call};
use vgpu_protocol::channel::{Bell, shared_memory};
use vgpu_protocol::codec::Codec;
use vgpu_protocol::guest::{FromFrontd, FromProgram, Hello, MAGIC, SOCKET, SOCKET_VARIABLE};
use vgpu_protocol::packet::{self, PacketError};
use vgpu_ring::{Front, Layout, SpinPolicy, Ticket};
use xen::{Access, Mapping};

/// One channel: a worker process of its own in the backend domain. Closed when it is dropped.
pub struct Channel {
    /// The queue.
    pub front: Front,
    socket: Mutex<OwnedFd>,
    /// Answers that never change, by request.
    known: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
}

/// Locks what a panic cannot leave half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends what this library has to say to standard error, as `XEN_VGPU_LOG` asks.
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

/// Why there is no channel.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What `cuInit` returns for it.
    pub status: CuResult,
    /// Why, and what to do next.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.status)
    }
}

impl std::error::Error for Refusal {}

/// What comes of an answer that makes no sense.
fn nonsense(reason: impl fmt::Display) -> Refusal {
    Refusal {
        status: CuResult::SYSTEM_DRIVER_MISMATCH,
        reason: format!("vgpu-frontd: {reason}"),
    }
}

impl From<PacketError> for Refusal {
    fn from(error: PacketError) -> Self {
        nonsense(error)
    }
}

impl Channel {
    /// Opens a channel.
    pub fn open() -> Result<Channel, Refusal> {
        log_to_stderr();
        let path =
            std::env::var_os(SOCKET_VARIABLE).map_or_else(|| PathBuf::from(SOCKET), PathBuf::from);
        let socket = dial(&path).map_err(|error| Refusal {
            status: CuResult::NO_DEVICE,
            reason: format!(
                "cannot reach vgpu-frontd at {}: {}; start vgpu-frontd in this guest, or set {SOCKET_VARIABLE}",
                path.display(),
                std::io::Error::from(error)
            ),
        })?;
        let hello = FromProgram::Hello(Hello {
            magic: MAGIC,
            version: PROTOCOL_VERSION,
        });
        packet::send(&socket, &hello, &[])?;
        let (answer, fds) = packet::receive::<FromFrontd>(&socket)?;
        let opened = match answer {
            FromFrontd::Opened(opened) => opened,
            FromFrontd::Refused(refused) => {
                return Err(Refusal {
                    status: CuResult(refused.status),
                    reason: String::from_utf8_lossy(&refused.reason.0).into_owned(),
                });
            }
            _ => return Err(nonsense("it did not open a channel")),
        };
        let fds: Vec<Arc<OwnedFd>> = fds.into_iter().map(Arc::new).collect();
        let extents = packet::take_extents(&opened.memory, &fds)?;
        let event = packet::take_event(&opened.event, &fds)?;
        let mapping =
            Mapping::from_extents(&extents, Access::ReadWrite).map_err(PacketError::Xen)?;
        let layout =
            Layout::new(opened.sq_bytes, opened.cq_bytes, opened.arena_bytes).map_err(nonsense)?;
        let front = Front::join(
            shared_memory(mapping),
            layout,
            Arc::new(Bell(event)),
            SpinPolicy::default(),
        )
        .map_err(nonsense)?;
        Ok(Channel {
            front,
            socket: Mutex::new(socket),
            known: Mutex::default(),
        })
    }

    /// The connection to frontd. A forked child must close its copy of it: the channel is its parent's.
    pub fn descriptor(&self) -> RawFd {
        lock(&self.socket).as_raw_fd()
    }

    /// Submits a call in a context; 0 stands for none.
    pub fn submit<R: Request>(
        &self,
        context: u32,
        request: &R,
        wants_answer: bool,
    ) -> Result<Ticket, CuResult> {
        if context == 0 && R::CALL.needs_context() {
            return Err(CuResult::INVALID_CONTEXT);
        }
        self.front
            .submit(&[&encode_call(context, request)], wants_answer)
            .map_err(lost)
    }

    /// Waits for the answer to a call.
    pub fn finish<R: Request>(&self, ticket: Ticket) -> Result<R::Reply, CuResult> {
        let bytes = self.front.wait(ticket).map_err(lost)?;
        decode_reply(&bytes).unwrap_or_else(|error| {
            tracing::error!(call = ?R::CALL, %error, "the backend's answer makes no sense");
            Err(CuResult::SYSTEM_DRIVER_MISMATCH)
        })
    }

    /// Submits a call that needs no context and waits for its answer.
    pub fn ask<R: Request>(&self, request: &R) -> Result<R::Reply, CuResult> {
        self.finish::<R>(self.submit(0, request, true)?)
    }

    /// The answer to a call that always has the same one, which no context has a part in.
    pub fn once<R: Request>(&self, request: &R) -> Result<R::Reply, CuResult> {
        let mut key = (R::CALL as u16).encode();
        request.put(&mut key);
        if let Some(bytes) = lock(&self.known).get(&key) {
            return R::Reply::decode(bytes).map_err(|_| CuResult::UNKNOWN);
        }
        let reply = self.ask(request)?;
        lock(&self.known).insert(key, reply.encode());
        Ok(reply)
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
    SAID.call_once(|| tracing::error!(%error, "this program's connection to the GPU has ended; a CUDA program has to be started again"));
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
