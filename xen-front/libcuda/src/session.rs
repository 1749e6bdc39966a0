//! The process's session with the backend: its channel, and all that it has made over it.
//!
//! Must never be used in a forked child, which shares the parent's queue.

use crate::context;
use crate::handles::{Handles, lock};
use crate::memory::Memory;
use crate::module::Modules;
use cuda_abi::CuResult;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, Once, OnceLock};
use vgpu_client::Channel;
pub use vgpu_client::lost;
use vgpu_protocol::calls::Request;
use vgpu_ring::Ticket;

/// Everything the process has of the backend.
pub struct Session {
    /// The channel.
    pub channel: Channel,
    /// Live handles.
    pub handles: Handles,
    /// Device and page-locked memory.
    pub memory: Memory,
    /// Modules and kernels.
    pub modules: Modules,
    /// Contexts.
    pub contexts: context::Contexts,
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
    let channel = Channel::open().map_err(|refusal| {
        tracing::error!("no GPU for this program: {refusal}");
        refusal.status
    })?;
    let session = Session {
        channel,
        handles: Handles::default(),
        memory: Memory::default(),
        modules: Modules::default(),
        contexts: context::Contexts::default(),
    };
    SOCKET_FD.store(session.channel.descriptor(), Ordering::Relaxed);
    static WATCH_FORKS: Once = Once::new();
    // SAFETY: registers a handler that uses atomics and closes a descriptor, which a child may do.
    WATCH_FORKS.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
    Ok(SESSION.get_or_init(|| session))
}

impl Session {
    /// Submits a call that nobody waits for.
    pub fn post<R: Request>(&self, request: &R) -> Result<Ticket, CuResult> {
        self.channel.submit(context::current(), request, false)
    }

    /// Submits a call whose answer [`Session::finish`] takes.
    pub fn start<R: Request>(&self, request: &R) -> Result<Ticket, CuResult> {
        self.channel.submit(context::current(), request, true)
    }

    /// Waits for the answer to a call.
    pub fn finish<R: Request>(&self, ticket: Ticket) -> Result<R::Reply, CuResult> {
        self.channel.finish::<R>(ticket)
    }

    /// Submits a call and waits for its answer.
    pub fn call<R: Request>(&self, request: &R) -> Result<R::Reply, CuResult> {
        self.finish::<R>(self.start(request)?)
    }

    /// The answer to a call that always has the same one.
    pub fn once<R: Request>(&self, request: &R) -> Result<R::Reply, CuResult> {
        self.channel.once(request)
    }
}
